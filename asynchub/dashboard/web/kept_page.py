"""The page of a run that stands by itself, for a viewer to keep; as ``asynchub plot RUN -o run.html`` makes it."""

from __future__ import annotations

import time

from asynchub.dashboard.picture.gathering import Wanted, gather, made
from asynchub.dashboard.picture.layout import plot_width, scene
from asynchub.dashboard.picture.look import LIGHT
from asynchub.dashboard.picture.page import page
from asynchub.dashboard.picture.svg import svg
from asynchub.dashboard.view import RunView

__all__ = ("kept_page",)

WIDTH = 1400
BUCKETS = 2000


def kept_page(run: RunView, keys: tuple[str, ...]) -> str:
    """Return a page of a run as it is now.

    Args:
        run: it, up to date.
        keys: patterns of the scalars; none for those of the first screen.

    Raises:
        PatternError: a pattern is malformed.
    """
    wanted, now = Wanted(keys=keys), time.time()
    found = gather([run], wanted, BUCKETS, now)
    sheet = made(found, [run], wanted, plot_width(len(found.keys), WIDTH), now)
    return page(found, sheet, svg(scene(sheet, LIGHT, float(WIDTH), None)), LIGHT, wanted, now)
