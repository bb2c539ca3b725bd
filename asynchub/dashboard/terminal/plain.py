"""A run in plain lines, for what is no terminal: how it stands, and what changes, until it ends.

Quiet: a line that only counts on is not written again; how far a run is comes every half a minute.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import anyio

from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.screen import Line, Mark, RunRow, Screen
from asynchub.dashboard.terminal.rawlines import LONGEST_KEY, event_line, newest_of
from asynchub.dashboard.terminal.waiting import Waiting
from asynchub.dashboard.view import RunView
from asynchub.journal.following import follow
from asynchub.subscribers.display import one_line

__all__ = ("watch_in_lines",)

PROGRESS = 30.0
"""Seconds from one line on how far a run is to the next."""
OVER = {"stopped", "finished", "crashed"}
MARKS = 5
"""Decisions, at most, that were made before, and are told at the beginning."""
NUMBERS = re.compile(r"[-+]?\d[\d,.:]*\w*")
BEGIN = 10

Write = Callable[[str], object]


def watch_in_lines(
    runs: Sequence[Path],
    *,
    events: bool = False,
    patterns: Sequence[str] = (),
    interval: float = 0.2,
    cache: Path | None = None,
    write: Write = print,
) -> int:
    """Write how runs stand, and what changes, until all of them have ended; arguments as of ``watch``.

    A run that is not there yet is waited for. One of which nothing says whether it goes on is told as it is.
    """
    if events:
        anyio.run(_write_events, runs[0], tuple(patterns), cache, write)
        return 0
    with Gallery(runs, cache) as gallery:
        told: dict[str, _Told] = {}
        what, waiting = Waiting(runs), ""
        while True:
            more = gallery.update(max(interval, 0.05))
            rows = gallery.rows()
            problem = what.words(gallery.problem)
            if problem != waiting:
                waiting = problem
                if waiting:
                    write(f"waiting: {one_line(waiting)}")
            for row in rows:
                view = gallery.run(row.id)
                if row.id not in told:
                    told[row.id] = _Told(write, len(rows) > 1 or len(runs) > 1)
                    more = True  # it has just been opened
                elif not more:
                    told[row.id].tell(row, view)
            if not more and not waiting and rows and all(told[row.id].over for row in rows):
                return 0
            if not more:
                time.sleep(interval)


class _Told:
    """What was written of a run.

    Attributes:
        over: whether it has ended, and that was written.
    """

    def __init__(self, write: Write, named: bool) -> None:
        self.over = False
        self._write, self._named = write, named
        self._state = ""
        self._seq = -1
        self._known: set[tuple[str, str]] = set()
        self._progress = 0.0

    def tell(self, row: RunRow, view: RunView) -> None:
        """Write what has changed."""
        screen = view.screen()
        name = f"{one_line(row.name or row.folder)}: " if self._named else ""
        self._name = f"{_clock(screen.time)}  {name}"
        status = screen.status
        due = time.monotonic() >= self._progress + PROGRESS and status.state not in OVER
        word = NUMBERS.sub("#", status.word)
        if (status.state + word) != self._state or due:
            self._state = status.state + word
            self._progress = time.monotonic()
            details = " · ".join(one_line(line.text) for line in status.lines if line.text != status.word)
            self._say(one_line(status.word) + (f" · {details}" if details else ""))
        for what, lines in (("wrong", screen.alerts), ("stops", screen.stops), ("speed", screen.speed)):
            self._tell_lines(what, lines)
        self._tell_marks(screen)
        self.over = status.state in OVER or (status.state == "unknown" and screen.seq > 0)
        if row.problem and not self.over:
            self._tell_lines("wrong", (Line(row.problem, "warn"),))

    def _tell_lines(self, what: str, lines: Sequence[Line]) -> None:
        for line in lines:
            kind = (what, NUMBERS.sub("#", line.text))
            if kind not in self._known:
                self._known.add(kind)
                self._say(f"{what}: {one_line(line.text)}")

    def _tell_marks(self, screen: Screen) -> None:
        new = [mark for mark in reversed(screen.marks) if mark.seq > self._seq]
        if self._seq < 0:
            new = new[-MARKS:]
        for mark in new:
            self._say(_mark(mark))
        self._seq = max([self._seq, 0, *(mark.seq for mark in new)])

    def _say(self, text: str) -> None:
        self._write(self._name + text)


def _mark(mark: Mark) -> str:
    at = "" if mark.step is None else f"step {mark.step:,}: "
    why = f" ({one_line(mark.why)})" if mark.why else ""
    did = "" if mark.kind == "acted" else f" [{mark.kind}]"
    return f"{at}{one_line(mark.who)}: {one_line(mark.what)}{why}{did}"


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%H:%M:%S}"


async def _write_events(run: Path, patterns: tuple[str, ...], cache: Path | None, write: Write) -> None:
    """Write the newest events, then those that come, until the run has ended."""
    events, since = await anyio.to_thread.run_sync(newest_of, run, patterns, BEGIN)
    width = max((min(len(event.key), LONGEST_KEY) for event in events), default=0)
    for event in events:
        write(event_line(event, width))
    async with anyio.create_task_group() as group:
        group.start_soon(_until_crashed, run, cache, group.cancel_scope)
        async with aclosing(follow(run, *patterns, since=since, until="closed")) as coming:
            async for event in coming:
                write(event_line(event, width))
        group.cancel_scope.cancel()


async def _until_crashed(run: Path, cache: Path | None, scope: anyio.CancelScope) -> None:
    """End once the writer of a run is gone without having closed it."""
    view: RunView | None = None
    try:
        while view is None or view.screen().status.state != "crashed":
            await anyio.sleep(1.0)
            if view is None and run.is_dir():
                view = RunView(run, cache)
            if view is not None:
                await anyio.to_thread.run_sync(view.update)
        await anyio.sleep(1.0)  # what the crashed one still had in its tail
        scope.cancel()
    finally:
        if view is not None:
            view.close()
