"""What the page is told of runs beside one another: a table with figures and sparklines, and in what they differ.

Slices: of a table what is known after a moment is told, and that there is more; whoever asks again gets more of it.
    What is sent of a scalar of a run is made once, until there is something new about it.
Threads: one, the server's ``Worker``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asynchub.dashboard.comparing import Figures, differences
from asynchub.dashboard.screen import RunRow
from asynchub.dashboard.table import Table
from asynchub.dashboard.web.looked_at import Runs
from asynchub.dashboard.web.recent import Recent
from asynchub.dashboard.web.wanted import TableWanted

__all__ = ("Compared",)

SLICE = 0.05
"""Seconds, about, that working out figures may take at once."""
MOST_DIFFERING = 200
"""Runs whose differences are told at once."""
MOST_NAMES = 200
"""Infos that are told of each."""
MOST_BYTES = 16 * 2**20
"""Of figures as they are sent, about."""
BYTES_OF_PART = 200
HEIGHT = 1000
"""Of a sparkline: its places are whole numbers from 0 to this; -1 is below it, one more above it."""
SHOWN = ("id", "name", "folder", "state", "word", "level", "step")


class Compared:
    """Tells of runs beside one another.

    Args:
        runs: that are looked at.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._table = Table(runs)
        self._sent = Recent(MOST_BYTES)

    def table(self, wanted: TableWanted) -> dict[str, Any]:
        """Return runs in an order, with what is known by now of a scalar.

        Raises:
            ArgumentError: the filter is malformed.
        """
        rows = self._runs.rows(wanted.filter)
        found = self._table.rows(rows, wanted.key, by=wanted.by, mode=wanted.mode, seconds=SLICE)
        part = slice(wanted.start, wanted.start + wanted.most)
        return {
            "key": wanted.key,
            "by": wanted.by,
            "mode": wanted.mode,
            "height": HEIGHT,
            "total": len(rows),
            "rows": [
                {**_brief(row), **self._figures(row, one, wanted)}
                for row, one in zip(found.rows[part], found.figures[part], strict=True)
            ],
            "more": found.more or self._runs.unread > 0,
        }

    def _figures(self, row: RunRow, figures: Figures, wanted: TableWanted) -> dict[str, Any]:
        """Return the figures of a row as the page draws them."""
        question, version = (row.id, wanted.key, wanted.mode), id(figures)
        kept: tuple[Figures, dict[str, Any]] | None = self._sent.get(question, version)
        if kept is None:
            # with what they are made of, so that nothing that is made later can have an id of theirs
            kept = figures, _sent(figures)
            self._sent.put(question, version, kept, BYTES_OF_PART * (len(figures.spark) + 1))
        return kept[1]

    def differences(self, runs: Sequence[str], filter: str) -> dict[str, Any]:
        """Return in what runs differ.

        Args:
            runs: row ids; those that are gone are passed over. none: all that the filter lets through.
            filter: of runs.

        Raises:
            ArgumentError: the filter is malformed.
            LookupError: none of the runs is there.
        """
        wanted = set(runs)
        rows = [row for row in self._runs.rows("" if runs else filter) if not wanted or row.id in wanted]
        if runs and not rows:
            raise LookupError("none of these runs is there any more: look at the list")
        found = differences(rows)
        names = found.names[:MOST_NAMES]
        return {
            "names": list(names),
            "rows": [
                {**_brief(row), "cells": list(found.cells[row.id][: len(names)])} for row in rows[:MOST_DIFFERING]
            ],
            "same": found.same,
            "text": found.text,
            "left": len(found.names) - len(names),
            "left_runs": max(len(rows) - MOST_DIFFERING, 0),
            "more": self._runs.unread > 0,
        }


def _brief(row: RunRow) -> dict[str, Any]:
    colour = row.colour
    return {
        **{name: getattr(row, name) for name in SHOWN},
        "colour": {"hue": colour.hue, "dash": colour.dash, "light": colour.light, "dark": colour.dark},
    }


def _sent(figures: Figures) -> dict[str, Any]:
    last, best, slope = figures.texts
    return {
        "last": last,
        "best": best,
        "slope": slope,
        "count": figures.count,
        "not_finite": figures.not_finite,
        "problem": figures.problem,
        "at": [round(place, 4) for place in figures.places],
        "spark": _places(figures),
    }


def _places(figures: Figures) -> list[list[int | None]]:
    """Return where the smallest, the largest value and the mean of each bucket stand; None where there is none."""
    if not figures.spark:
        return []
    values = np.array(figures.spark)
    with np.errstate(all="ignore"):
        shares = (values - figures.low) / (figures.high - figures.low)
    missing = np.isnan(shares)
    places = np.rint(np.clip(np.where(missing, 0.0, shares), -0.001, 1.001) * HEIGHT).astype(int).tolist()
    return [
        [None if none else place for place, none in zip(*both, strict=True)]
        for both in zip(places, missing.tolist(), strict=True)
    ]
