"""What the page is told of runs, put together from the views of them. Nothing is computed here.

Parts: curves are made in ``charting``, what runs are beside one another in ``compared``.
Threads: one, the server's ``Worker``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

from asynchub.dashboard.colours import colour_of
from asynchub.dashboard.filtering import parse_filter, unknown_names
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import Asked, Colour
from asynchub.dashboard.web.charting import Charts
from asynchub.dashboard.web.compared import Compared
from asynchub.dashboard.web.grouping import Grouping
from asynchub.dashboard.web.looked_at import Runs
from asynchub.dashboard.web.steering import Steering, request_of
from asynchub.dashboard.web.tokens import Role
from asynchub.dashboard.web.wanted import CurvesWanted
from asynchub.dashboard.web.wire import ChartNow
from asynchub.requests import Request
from asynchub.subscribers.display import one_line

__all__ = ("Ask", "Source", "WhatIf")

MOST_ROWS = 1000
"""Runs that a list has."""
MOST_PAGE = 1000
"""Keys, or marks, that are told at once."""
FRESH = 0.1
"""Seconds for which what was taken is new enough."""
OPENING = 1.0
"""Seconds that an answer may take longer because a run is looked at for the first time."""
BY_BROKER = "it is asked through the broker: what the run does not allow, it refuses"
SLICE = 0.05
"""Seconds, about, that taking what has come may take at once."""

WhatIf = Callable[[Mapping[str, Pyramid], str], dict[str, Any]]
"""Called with some runs by their row ids, and a rule, tells at once what is known by now of what that rule would have
done to them, as the page gets it; ``"waiting"`` in it says of how many runs nothing is known yet."""
Ask = Callable[[Path, Request], Asked]
"""Called with the folder of a run and a request, writes that down for the run."""


class Source:
    """What there is to be told.

    Args:
        runs: that are looked at.
        steering: what may be asked of them.
        ask: writes a request down; None if nothing may be asked.
        what_if: tries a rule; None if the page is not to offer that.
        remote: folders of runs that are asked through a broker.
        colours: gives groups of runs colours, by their names; None for one that keeps none.

    Attributes:
        compared: tells of runs beside one another.
    """

    def __init__(
        self,
        runs: Runs,
        steering: Steering,
        *,
        ask: Ask | None = None,
        what_if: WhatIf | None = None,
        remote: Container[Path] = (),
        colours: Callable[[Sequence[str]], list[Colour]] | None = None,
    ) -> None:
        self.runs = runs
        self.steering = steering
        self._ask = ask
        self._what_if = what_if
        self._remote = remote
        self._updated = 0.0
        self._waited_for: WeakSet[object] = WeakSet()
        self._grouping = Grouping(runs, colours or (lambda names: [colour_of(name) for name in names]))
        self._charts = Charts(runs, self._grouping)
        self.compared = Compared(runs)

    def update(self) -> bool:
        """Take what has come; return whether there is more."""
        more = self.runs.update(SLICE)
        self._updated = time.monotonic()
        return more

    def fresh(self, runs: Iterable[str] = (), *, whole: bool = True) -> None:
        """Take what has come, unless that was done a moment ago, and of runs that nobody has looked at, the most of it.

        Args:
            runs: row ids of those that are asked for; unknown ones are passed over.
            whole: whether they are asked for all there is of them, or for their curves only.
        """
        new = []
        for run in runs:
            with contextlib.suppress(LookupError):
                one: object = self.runs.run(run) if whole else self.runs.pyramid(run)
                if one not in self._waited_for:
                    self._waited_for.add(one)
                    new.append(run)
        deadline = time.monotonic() + OPENING
        if new or time.monotonic() - self._updated > FRESH:
            self.update()
        while time.monotonic() < deadline and any(self.runs.is_behind(run) for run in new):
            self.update()

    # --- texts

    def rows(self, filter: str, role: Role) -> dict[str, Any]:
        """Return the list of runs.

        Raises:
            ArgumentError: the filter is malformed.
        """
        now = time.time()
        test = parse_filter(filter)
        every = self.runs.rows("", now)
        rows = [row for row in every if test(row)]
        unread = self.runs.unread
        unknown = "" if unread else unknown_names(test, every)
        problems = [problem for problem in (unknown, self.runs.problem, self.runs.colours_problem) if problem]
        return {
            "time": now,
            "folder": one_line(", ".join(os.fspath(folder) for folder in self.runs.folders)),
            "problem": one_line("; ".join(problems)),
            "note": _of_unread(unread, bool(filter.strip())),
            "role": role,
            "allow": list(self.steering.rules) if role == "steer" else [],
            "what_if": self._what_if is not None,
            "rows": [row.to_dict() for row in rows[:MOST_ROWS]],
            "more": max(len(rows) - MOST_ROWS, 0),
            "groups": self._grouping.names(rows[:MOST_ROWS]),
        }

    def screen(self, run: str, role: Role) -> dict[str, Any]:
        """Return the first screen of a run.

        Raises:
            LookupError: there is no such run.
        """
        view = self.runs.run(run)
        screen = view.screen(time.time())
        if view.pyramid.folder in self._remote:
            screen = replace(screen, steerable=self.steering.everything(), steering=BY_BROKER)
        return self.steering.offered(screen, role).to_dict()

    def keys(self, run: str, filter: str, start: int, most: int) -> dict[str, Any]:
        """Return a page of the scalars of a run.

        Raises:
            LookupError: there is no such run.
            PatternError: the filter is malformed.
        """
        total, rows = self.runs.run(run).keys(filter, start, min(most, MOST_PAGE))
        return {"total": total, "rows": [asdict(row) for row in rows]}

    def marks(self, run: str, key: str, start: int | None, stop: int | None, most: int) -> dict[str, Any]:
        """Return decisions about a run.

        Raises:
            LookupError: there is no such run.
        """
        return {"rows": [asdict(mark) for mark in self.runs.run(run).marks(start, stop, key, min(most, MOST_PAGE))]}

    def try_rule(self, runs: Sequence[str], rule: str) -> dict[str, Any]:
        """Return what is known by now of what a rule would have done to some runs.

        Raises:
            LookupError: there is no such run.
        """
        if self._what_if is None:
            raise LookupError("this server tries no rules")
        return self._what_if({run: self.runs.pyramid(run) for run in runs}, rule)

    # --- steering

    def ask(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Ask something of a run; return what became of that by now.

        Raises:
            ArgumentError: it is not understood, or not allowed.
            LookupError: there is no such run.
            AsyncHubError: it cannot be asked of the run.
            OSError: it cannot be written down.
        """
        run, request = request_of(fields, self.steering.author)
        self.steering.check(request)
        folder = self.runs.pyramid(run).folder
        if self._ask is None:
            raise LookupError("nothing can be asked here")
        return asdict(self._ask(folder, request))

    # --- curves

    def charts(self, wanted: CurvesWanted) -> tuple[ChartNow, ...]:
        """Return charts, a key each; the same objects as before where nothing has changed."""
        return self._charts.charts(wanted)


def _of_unread(unread: int, filtered: bool) -> str:
    """Return in words that runs are not read yet, or ""."""
    if not unread:
        return ""
    runs = "1 run is" if unread == 1 else f"{unread:,} runs are"
    return f"{runs} not read yet" + (": the filter knows only their names" if filtered else "")
