"""A table of runs with one scalar in figures and as a sparkline, in an order: the newest, the best value, the slope.

Bounded: what a run has is worked out again only when it has more; whoever asks gets what is known after some seconds,
    and asks again for the rest. Of more runs than can be open, those beyond have no figures, and say so.
Threads: one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from asynchub.dashboard.comparing import Figures, Order, figures, ranked
from asynchub.dashboard.gallery import MOST_OPEN, Gallery
from asynchub.dashboard.screen import RunRow

__all__ = ("Table", "Tabled")

MOST_KEPT = 20_000
"""Figures that are kept."""


@dataclass(frozen=True, slots=True)
class Tabled:
    """Runs in an order, with figures of a scalar.

    Attributes:
        rows: the runs.
        figures: of each.
        more: whether some are not whole yet: ask again.
    """

    rows: tuple[RunRow, ...]
    figures: tuple[Figures, ...]
    more: bool


class Table:
    """Figures of the runs of a gallery.

    Args:
        gallery: whose.
    """

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._known: dict[tuple[str, str, str], tuple[int, int, Figures]] = {}

    def rows(
        self,
        rows: Sequence[RunRow],
        key: str,
        *,
        by: Order = "name",
        mode: Literal["min", "max", ""] = "",
        seconds: float = 1.0,
    ) -> Tabled:
        """Return runs in an order, with figures.

        Args:
            rows: the runs, as of ``Gallery.rows``.
            key: of the scalar.
            by: the order; see ``asynchub.dashboard.comparing.ranked``.
            mode: which of its values are better; "" if that is not known.
            seconds: how long to go on at most, about.
        """
        deadline = time.monotonic() + seconds
        found: dict[str, Figures] = {}
        more = False
        for row in rows[:MOST_OPEN]:
            name = row.id, key, mode
            try:
                run = self._gallery.pyramid(row.id)
            except LookupError:  # deleted at this moment
                continue
            left = deadline - time.monotonic()
            known = self._known.get(name)
            if left > 0:
                behind = run.update(min(left, 0.1))
                now = run.seq, len(run.rewinds)
                if known is None or known[:2] != now:
                    known = self._known[name] = (*now, figures(run, key, mode))
                more = more or behind
            elif known is None:
                more = True
            if known is not None:
                found[row.id] = known[2]
        while len(self._known) > MOST_KEPT:
            del self._known[next(iter(self._known))]
        missing = Figures(key, problem=f"only {MOST_OPEN} runs have figures at a time: filter the list")
        waiting = Figures(key)
        order = ranked(rows, found, by, mode)
        beyond = {row.id for row in rows[MOST_OPEN:]}
        return Tabled(
            tuple(order), tuple(found.get(row.id, missing if row.id in beyond else waiting) for row in order), more
        )
