"""What the keys change that only change what is looked at; the same letters as on the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from asynchub.dashboard.terminal.viewpoint import Viewpoint

__all__ = ("moved",)


def moved(letter: str, view: Viewpoint, *, low: int, high: int, charts: int, key: str) -> Viewpoint | None:
    """Return what is looked at after a key; None if the key does something else, or nothing.

    Args:
        letter: the key.
        view: what is looked at.
        low: the first step of the runs that are drawn.
        high: the last one.
        charts: how many charts there are.
        key: of the chart that is chosen.
    """
    changes: dict[str, Callable[[], Viewpoint]] = {
        "j": lambda: replace(view, chart=min(view.chart + 1, max(charts - 1, 0))),
        "k": lambda: replace(view, chart=max(view.chart - 1, 0)),
        "\r": lambda: replace(view, large=not view.large),
        "h": lambda: view.panned(low, high, right=False),
        "l": lambda: view.panned(low, high, right=True),
        "+": lambda: view.zoomed(low, high, closer=True),
        "=": lambda: view.zoomed(low, high, closer=True),
        "-": lambda: view.zoomed(low, high, closer=False),
        "g": lambda: replace(view, start=None, stop=None, follow=True),
        "f": lambda: view.followed(low, high),
        "x": view.on_next_axis,
        "y": lambda: replace(view, fit_all=not view.fit_all),
        "s": view.on_next_smoothing,
        ">": lambda: view.smoother(low, high),
        "<": view.rougher,
        "L": lambda: view.logged(key),
    }
    change = changes.get(letter)
    return None if change is None else change()
