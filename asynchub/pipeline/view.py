"""A live view of a pipeline in the terminal: its newest report, how its waiting went, and what changed last.

    hub.attach(PipelineView())

Calm: it is drawn once for each report, not more often; its height and its columns stay while only numbers change.
    While it is shown, what the program prints and logs appears above it; see ``asynchub.redirecting``.
Ends: the last report stays on the terminal and the cursor is given back whenever the view ends, also by an error or a
    cancellation.
Quiet: without a terminal, or where another live display or a bar had it first, there is a line for each change of the
    verdict, each stall and its end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import anyio.to_thread

from asynchub.dataflow import PipelineRecovered, PipelineReported, PipelineStalled
from asynchub.errors import ArgumentError
from asynchub.events import Event
from asynchub.pipeline.cells import Line, Span, cut_line, duration, known
from asynchub.pipeline.layout import LEAST, report_lines
from asynchub.pipeline.news import LEVELS, Happened, News
from asynchub.rich_live import Display, live_display
from asynchub.subscription import Subscription

try:
    from rich import get_console
    from rich.console import Console
    from rich.text import Text
except ImportError as error:
    raise ImportError("PipelineView needs rich: python -m pip install 'asynchub[rich]'") from error

__all__ = ("PipelineView",)

STYLES = {
    "title": "bold",
    "head": "dim",
    "dim": "dim",
    "good": "green",
    "warn": "yellow",
    "alarm": "bold red",
    "culprit": "bold",
    "pace": "bold",
    "near": "",
    "queue": "dim",
    "starved": "blue",
    "busy": "red",
    "blocked": "bright_black",
    "full": "",
    "free": "bright_black",
    "error": "bold red",
    "retry": "yellow",
    "spark": "dim",
    "spark warn": "yellow",
    "spark alarm": "red",
}
"""What a role looks like. Bars have the colours of Flink: idle blue, busy red, blocked the colour of the ground."""
SPARKS = str.maketrans(LEVELS, "▁▂▃▄▅▆▇█")
BLOCKS = {
    "starved": str.maketrans(".", "·"),
    "busy": str.maketrans("#", "■"),
    "blocked": str.maketrans("-", "░"),
    "full": str.maketrans("#", "■"),
    "free": str.maketrans(".", "·"),
    "spark": SPARKS,
    "spark warn": SPARKS,
    "spark alarm": SPARKS,
}
"""What stands for the letters of a role where the terminal can show it."""
SILENT = 5.0
"""Seconds without a report, and three times what is usual, from which that is said."""


class PipelineView:
    """Show the newest report of a pipeline live; without a terminal, print a line for each change.

    Args:
        name: of the pipeline; None for the first that reports.
        console: where; Rich's own by default, which ``rich.print`` also uses.
        width: columns that it uses at most, 40 or more; default as many as there are.

    Attributes:
        waiting_for: what is said to be waited for until there is a report.

    Raises:
        ArgumentError: ``width`` is not an int from 40 on.
    """

    role = "observer"

    def __init__(self, name: str | None = None, *, console: Console | None = None, width: int | None = None) -> None:
        if width is not None and (type(width) is not int or width < LEAST):
            raise ArgumentError(f"width must be an int from {LEAST} on, got {width!r:.80}")
        self.keys: tuple[str | type[Event], ...] = (PipelineReported, PipelineStalled, PipelineRecovered)
        self._name = name
        self._own_console = console
        self._width = width
        self.waiting_for = "a report of a pipeline"
        self._begin()

    def _begin(self) -> None:
        self._news = News(self._name)
        self._display: Display | None = None
        self._height = self._height_for = 0
        self._usual: float | None = None
        self._ended = False

    async def __call__(self, events: Subscription) -> None:
        with self.shown():
            async for batch in events.batches():
                await anyio.to_thread.run_sync(self.take, batch)

    @property
    def news(self) -> News:
        """What it knows."""
        return self._news

    @contextmanager
    def shown(self) -> Iterator[bool]:
        """Show it while the context is entered; true if that is live. For what brings the events by itself."""
        self._begin()
        with live_display(self._console, self._drawn, threading.RLock()) as self._display:
            try:
                yield self._display is not None
            finally:
                self._ended = True

    def take(self, events: Iterable[Event]) -> None:
        """Take events in, and draw. Waits for the terminal.

        Raises:
            CorruptStateError: one is not the report of a pipeline.
        """
        for event in events:
            before = self._newest_time()
            happened = self._news.take(event)
            newest = self._newest_time()
            if before is not None and newest is not None and newest > before:
                self._usual = newest - before
            if happened is not None and self._display is None:
                self._print(happened)
        self.draw()

    def draw(self) -> None:
        """Draw it anew. Waits for the terminal."""
        if self._display is not None:
            self._display.refresh()

    def _newest_time(self) -> float | None:
        return None if self._news.newest is None else known(self._news.newest.time)

    @property
    def _console(self) -> Console:
        return self._own_console or get_console()

    def _print(self, happened: Happened) -> None:
        line = happened.told(self._news.name)
        if self._own_console is None:
            print(line, flush=True)  # through whatever stands for stdout now
        else:
            self._own_console.print(Text(line), soft_wrap=True)

    # --- what is drawn

    def _drawn(self) -> Text:
        console = self._console
        width = min(self._width or console.width, console.width)
        lines = self._lines(width, max(console.height - 1, 1))
        blocks = not console.options.ascii_only and not console.legacy_windows
        text = Text(no_wrap=True, overflow="crop", end="")
        for number, line in enumerate(lines):
            if number:
                text.append("\n")
            for letters, role in line:
                shown = letters.translate(BLOCKS[role]) if blocks and role in BLOCKS else letters
                text.append(shown, STYLES.get(role) or None)
        return text

    def _lines(self, width: int, height: int) -> list[Line]:
        """Return what is shown: as many lines as before where that is possible, and never more than there is room."""
        news = self._news
        if news.newest is None:
            return [cut_line((Span(f"waiting for {self.waiting_for}", "dim"),), width)]
        lines = report_lines(news.newest, width, steady=True)
        lines += [cut_line(one, width) for one in (self._silence(), news.waits.line(width)) if one]
        log = [cut_line(happened.line(), width) for happened in news.log]
        if len(lines) + len(log) > height:
            log = log[len(log) - max(height - len(lines), 0) :]
        lines = [*lines, *log][:height]
        if self._ended:
            return lines
        if self._height_for != width:
            self._height, self._height_for = 0, width
        self._height = min(max(self._height, len(lines)), height)
        return lines + [()] * (self._height - len(lines))

    def _silence(self) -> Line:
        """Return that no report has come for long; empty if one has, or none is to come."""
        newest = self._newest_time()
        if newest is None or self._news.ended:
            return ()
        silent = time.time() - newest
        if silent < max(SILENT, 3 * (self._usual or 0.0)):
            return ()
        return (Span(f"no report for {duration(silent)}: the program has ended, or is held up", "warn"),)
