"""What the page is told of runs, put together from the views of them. Nothing is computed here.

Shared: what several viewers look at is made once, and of what has not changed nothing is made again.
Damaged: of a run that cannot be read, the others are shown all the same; its own curves are empty, and say why.
Threads: one, the server's ``Worker``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from asynchub.dashboard.curves import Curve, curves
from asynchub.dashboard.drawing import draw
from asynchub.dashboard.filtering import parse_filter, unknown_names
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import Asked, KeyRow, Mark, RunRow, Screen
from asynchub.dashboard.web.recent import Recent
from asynchub.dashboard.web.steering import Steering, request_of
from asynchub.dashboard.web.tokens import Role
from asynchub.dashboard.web.wanted import CurvesWanted
from asynchub.dashboard.web.wire import ChartNow, SeriesNow, chart_now, empty_series, series_now
from asynchub.errors import AsyncHubError
from asynchub.requests import Request
from asynchub.subscribers.display import one_line

__all__ = ("Ask", "OneRun", "Runs", "Source", "WhatIf")

MOST_ROWS = 1000
"""Runs that a list has."""
MOST_PAGE = 1000
"""Keys, or marks, that are told at once."""
MOST_BYTES = 128 * 2**20
"""Of curves that are kept, and of charts, about; many of the latter are in the former."""
BYTES_OF_ROW = 130
BYTES_OF_PART = 2000
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


class _Part(NamedTuple):
    """A curve of a run.

    Attributes:
        curve: it; None if it cannot be read.
        series: it, as it is sent.
        stamp: is another one if there is something new about it.
    """

    curve: Curve | None
    series: SeriesNow
    stamp: tuple[Any, ...]


_Parts = dict[str, _Part]


class OneRun(Protocol):
    """A run that is looked at; see ``asynchub.dashboard.view.RunView``."""

    pyramid: Pyramid

    def screen(self, now: float | None = None) -> Screen:
        """Return its first screen."""

    def row(self, now: float | None = None) -> RunRow:
        """Return its row in a list."""

    def marks(
        self, start: int | None = None, stop: int | None = None, key: str = "", most: int = 200
    ) -> tuple[Mark, ...]:
        """Return decisions."""

    def keys(self, pattern: str = "", start: int = 0, most: int = 200) -> tuple[int, list[KeyRow]]:
        """Return how many scalars match, and some of them."""


class Runs(Protocol):
    """All runs that are looked at; see ``asynchub.dashboard.gallery.Gallery``."""

    folders: tuple[Path, ...]

    @property
    def problem(self) -> str:
        """What is wrong with them, in words."""

    @property
    def colours_problem(self) -> str:
        """Why their colours cannot be kept, in words."""

    @property
    def unread(self) -> int:
        """Of how many nothing was read yet."""

    def update(self, seconds: float = float("inf")) -> bool:
        """Take what has come; return whether there is more."""

    def rows(self, filter: str = "", now: float | None = None) -> list[RunRow]:
        """Return the rows of a list."""

    def run(self, row_id: str) -> OneRun:
        """Return one of them."""

    def pyramid(self, row_id: str) -> Pyramid:
        """Return the curves of one."""

    def title(self, row_id: str) -> str:
        """Return what one is called."""

    def is_behind(self, row_id: str) -> bool:
        """Return whether there is more to take of one."""

    def close(self) -> None:
        """Let go of them."""


class Source:
    """What there is to be told.

    Args:
        runs: that are looked at.
        steering: what may be asked of them.
        ask: writes a request down; None if nothing may be asked.
        what_if: tries a rule; None if the page is not to offer that.
        remote: folders of runs that are asked through a broker.
    """

    def __init__(
        self,
        runs: Runs,
        steering: Steering,
        *,
        ask: Ask | None = None,
        what_if: WhatIf | None = None,
        remote: Container[Path] = (),
    ) -> None:
        self.runs = runs
        self.steering = steering
        self._ask = ask
        self._what_if = what_if
        self._remote = remote
        self._updated = 0.0
        self._waited_for: WeakSet[object] = WeakSet()
        self._curves = Recent(MOST_BYTES)
        self._charts = Recent(MOST_BYTES)

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
        each = [self._of_run(run, wanted) for run in wanted.runs]
        return tuple(
            self._chart(key, wanted, {run: part[key] for run, part in zip(wanted.runs, each, strict=True)})
            for key in wanted.keys
        )

    def _of_run(self, run: str, wanted: CurvesWanted) -> _Parts:
        """Return the curves of a run, and how they are sent, by key."""
        query = (run, replace(wanted, runs=(), log=False, fit_all=False, pixels=None))
        try:
            pyramid = self.runs.pyramid(run)
        except LookupError as error:
            return self._nothing(run, wanted, str(error.args[0]))
        version = (pyramid, pyramid.seq)
        if (kept := self._curves.get(query, version)) is not None:
            return kept  # type: ignore[no-any-return]  # it is what is put there below
        before: _Parts = self._curves.last(query) or {}
        stamps = {key: _stamp(pyramid, key, wanted.axis) for key in wanted.keys}
        changed = [key for key in wanted.keys if key not in before or before[key].stamp != stamps[key]]
        try:
            found = _curves(pyramid, changed, wanted) if changed else []
        except (AsyncHubError, OSError) as error:
            return self._nothing(run, wanted, str(error))
        seq = version[1]
        parts = {key: _read_until(before[key], seq) for key in wanted.keys if key not in changed}
        for curve in found:
            series = _same(before.get(curve.key), series_now(run, curve))
            parts[curve.key] = _Part(curve, series, stamps[curve.key])
        size = sum(part.series.rows for part in parts.values()) * BYTES_OF_ROW
        self._curves.put(query, version, parts, size + BYTES_OF_PART * len(parts))
        return parts

    def _nothing(self, run: str, wanted: CurvesWanted, problem: str) -> _Parts:
        """Return curves without values, that say why; the same ones each time."""
        query = ("nothing", run, wanted.keys, wanted.axis)
        parts: _Parts | None = self._curves.get(query, problem)
        if parts is None:
            series = empty_series(run, one_line(problem), wanted.axis)
            parts = {key: _Part(None, series, ()) for key in wanted.keys}
            self._curves.put(query, problem, parts, BYTES_OF_PART * len(parts))
        return parts

    def _chart(self, key: str, wanted: CurvesWanted, parts: Mapping[str, _Part]) -> ChartNow:
        log = wanted.is_log(key)
        query = (key, replace(wanted, keys=(), log=log))
        version = tuple(id(part.series) for part in parts.values())
        if (kept := self._charts.get(query, version)) is not None:
            return kept[0]  # type: ignore[no-any-return]  # as above
        shown = {run: part.curve for run, part in parts.items() if part.curve is not None}
        drawing = draw(shown, log=log, fit_all=wanted.fit_all, pixels=wanted.pixels, names=self._names(shown))
        series = [part.series for part in parts.values()]
        chart = chart_now(key, series, drawing)
        rows = sum(one.rows for one in series)
        # with its series, so that none that is made later can have an id of theirs
        self._charts.put(query, version, (chart, series), rows * BYTES_OF_ROW + BYTES_OF_PART)
        return chart

    def _names(self, runs: Mapping[str, Any]) -> dict[str, str]:
        """Return how runs are called, if there are several."""
        return {run: self.runs.title(run) for run in runs} if len(runs) > 1 else {}


def _of_unread(unread: int, filtered: bool) -> str:
    """Return in words that runs are not read yet, or ""."""
    if not unread:
        return ""
    runs = "1 run is" if unread == 1 else f"{unread:,} runs are"
    return f"{runs} not read yet" + (": the filter knows only their names" if filtered else "")


def _curves(run: Pyramid, keys: Sequence[str], wanted: CurvesWanted) -> list[Curve]:
    return curves(
        run,
        keys,
        wanted.start,
        wanted.stop,
        wanted.buckets,
        axis=wanted.axis,
        window=wanted.window,
        smoothing=wanted.smoothing,
    )


def _stamp(run: Pyramid, key: str, axis: str) -> tuple[Any, ...]:
    """Return what is another one if there is something new about a curve."""
    epochs = len(run.epochs) if axis == "epoch" else 0
    return run, run.count(key), len(run.rewinds), run.base, epochs


def _read_until(part: _Part, seq: int) -> _Part:
    """Return a curve of which there is nothing new up to an event."""
    if part.curve is None or part.curve.seq == seq:
        return part
    series = part.series._replace(head={**part.series.head, "seq": seq})
    return part._replace(curve=replace(part.curve, seq=seq), series=series)


def _same(before: _Part | None, now: SeriesNow) -> SeriesNow:
    """Return a series as it was sent before, if it is the same down to the last bit."""
    if before is None or before.series.head != now.head or before.series.form != now.form:
        return now
    old = before.series.columns
    return (
        before.series if all(old[name].tobytes() == column.tobytes() for name, column in now.columns.items()) else now
    )
