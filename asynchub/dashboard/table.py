"""A table of runs with one scalar in figures and as a sparkline, in an order: the newest, the best value, the slope.

Bounded: what a run has is worked out again only when it has more; whoever asks gets what is known after some seconds,
    and asks again for the rest. Of more runs than can be open, those beyond have no figures, and say so.
Fair: runs of which nothing is known come first, then those whose figures are oldest.
Threads: one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from asynchub.dashboard.comparing import Figures, Order, figures, ranked
from asynchub.dashboard.gallery import MOST_OPEN
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import RunRow

__all__ = ("Curved", "Table", "Tabled")

Mode = Literal["min", "max", ""]
_Name = tuple[str, str, Mode]
MOST_KEPT = 20_000
"""Figures that are kept."""
AT_ONCE = 0.1
"""Seconds, about, that one run is given at a time."""


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


class Curved(Protocol):
    """Runs whose curves can be asked for; see ``asynchub.dashboard.gallery.Gallery``."""

    def pyramid(self, row_id: str) -> Pyramid:
        """Return the curves of a run.

        Raises:
            LookupError: there is no such run.
        """


class _Known(NamedTuple):
    """What is known of a scalar of a run.

    Attributes:
        version: of what it was worked out.
        figures: it.
        when: by the monotonic clock, this was looked at last.
        behind: whether there is more of the run to take.
    """

    version: tuple[int, int]
    figures: Figures
    when: float
    behind: bool


class Table:
    """Figures of runs.

    Args:
        runs: whose.
    """

    def __init__(self, runs: Curved) -> None:
        self._runs = runs
        self._known: dict[_Name, _Known] = {}

    def rows(
        self,
        rows: Sequence[RunRow],
        key: str,
        *,
        by: Order = "name",
        mode: Mode = "",
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
        open_ones = [row.id for row in rows[:MOST_OPEN]]
        names = {run: (run, key, mode) for run in open_ones}
        for run in sorted(open_ones, key=lambda run: self._when(names[run])):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._look(names[run], min(left, AT_ONCE))
        known = {run: self._known[name] for run, name in names.items() if name in self._known}
        found = {run: one.figures for run, one in known.items()}
        more = len(known) < len(names) or any(one.behind for one in known.values())
        while len(self._known) > MOST_KEPT:
            del self._known[next(iter(self._known))]
        missing = Figures(key, problem=f"only {MOST_OPEN} runs have figures at a time: filter the list")
        waiting = Figures(key)
        order = ranked(rows, found, by, mode)
        beyond = {row.id for row in rows[MOST_OPEN:]}
        return Tabled(
            tuple(order), tuple(found.get(row.id, missing if row.id in beyond else waiting) for row in order), more
        )

    def _when(self, name: _Name) -> float:
        known = self._known.get(name)
        return float("-inf") if known is None else known.when

    def _look(self, name: _Name, seconds: float) -> None:
        """Take what has come of a run, and work out its figures if that is new."""
        row_id, key, mode = name
        try:
            run = self._runs.pyramid(row_id)
        except LookupError as error:  # deleted at this moment
            gone = Figures(key, problem=str(error.args[0]))
            self._known[name] = _Known((0, 0), gone, time.monotonic(), False)
            return
        behind = run.update(seconds)
        version = run.seq, len(run.rewinds)
        known = self._known.pop(name, None)
        fresh = known is not None and known.version == version
        found = known.figures if known is not None and fresh else figures(run, key, mode)
        self._known[name] = _Known(version, found, time.monotonic(), behind)
