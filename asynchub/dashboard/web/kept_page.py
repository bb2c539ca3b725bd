"""The page of a run that stands by itself, for a viewer to keep; as ``asynchub plot RUN -o run.html`` makes it."""

from __future__ import annotations

import time

from asynchub.dashboard.picture.gathering import Wanted
from asynchub.dashboard.picture.look import LIGHT
from asynchub.dashboard.picture.page import page_of
from asynchub.dashboard.view import RunView

__all__ = ("kept_page",)

WIDTH = 1400.0


def kept_page(run: RunView, keys: tuple[str, ...]) -> str:
    """Return a page of a run as it is now.

    Args:
        run: it, up to date.
        keys: patterns of the scalars; none for those of the first screen.

    Raises:
        PatternError: a pattern is malformed.
    """
    return page_of([run], Wanted(keys=keys), LIGHT, WIDTH, None, time.time())
