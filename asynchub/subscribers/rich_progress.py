"""A live progress bar of a run: how far, how fast, how long still, and the newest values under it.

The bar is drawn by a thread of its own, ``refresh_per_second`` times a second at most, however many events come. While
it is shown, what the program prints and logs appears above it, in whole lines; what that covers is said in
``asynchub.redirecting``.

Ends: the thread is stopped and the cursor given back whenever the subscriber ends, also by an error or a cancellation.
Quiet: without a terminal, or where another live display of Rich or a bar of ``TqdmProgress`` had it first, there is no
    bar; decisions and evaluations are still printed, a line each.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import anyio.to_thread

from asynchub.errors import ArgumentError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.patterns import matcher
from asynchub.rich_live import Display, live_display
from asynchub.subscribers.display import (
    DECISIONS,
    PACE_KEYS,
    RESULT_KEYS,
    Pace,
    described,
    format_duration,
    format_number,
    format_quantity,
    is_failure,
    mean_per_sample,
    one_line,
    results_in_words,
)
from asynchub.subscription import Subscription

try:
    from rich import get_console
    from rich.columns import Columns
    from rich.console import Console, Group, RenderableType
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise ImportError("RichProgress needs rich: python -m pip install 'asynchub[rich]'") from error

__all__ = ("RichProgress",)

MARK_SECONDS = 0.5
"""Seconds between two measurements of the speed."""
SHOWN = 24
"""Values shown at most."""


class RichProgress:
    """Show a live progress bar with the newest values; print evaluations and decisions above it.

    Args:
        keys: patterns of the scalars to show; all by default.
        total: steps in the whole run; by default the runtime info ``max_iters``, or ``max_epochs``.
        results: patterns of the scalars that are results of an evaluation; each evaluation is also printed, a line.
        refresh_per_second: how often the bar is drawn; above 0.
        console: where; Rich's own by default, which ``rich.print`` also uses.

    Raises:
        PatternError: a pattern is malformed.
        ArgumentError: another argument is of a wrong type or out of range.
    """

    role = "observer"

    def __init__(
        self,
        *keys: str,
        total: int | None = None,
        results: Iterable[str] = RESULT_KEYS,
        refresh_per_second: float = 10,
        console: Console | None = None,
    ) -> None:
        if isinstance(results, str):
            raise ArgumentError(f"results must be several patterns, got the str {results!r}; write ({results!r},)")
        if total is not None and not total > 0:
            raise ArgumentError(f"total must be a number of steps above 0, got {total!r}")
        if not refresh_per_second > 0:
            raise ArgumentError(f"refresh_per_second must be above 0, got {refresh_per_second!r}")
        patterns = keys or ("**",)
        self.keys: tuple[str | type[Event], ...] = (*patterns, *PACE_KEYS, *DECISIONS)
        self._wanted = matcher(patterns)
        self._is_result = matcher(tuple(results))
        self._refresh_per_second = refresh_per_second
        self._console = console
        self._lock = threading.RLock()  # of what writes to the console: Rich works out where to go before it goes there
        self._pace = Pace(total)
        self._newest: dict[str, float] = {}
        self._results: dict[str, float] = {}
        self._results_step: int | None = None
        self._lines: list[Text] = []
        self._times: tuple[float, float] | None = None  # of the first and the newest event
        self._marked = -math.inf
        self._ended = False

    async def __call__(self, events: Subscription) -> None:
        console = self._console or get_console()
        self._ended = False
        self._pace.restart()
        with self._live(console):
            try:
                async for batch in events.batches():
                    for event in batch:
                        self._take(event)
                    await self._print(console)
                self._end_results()
                await self._print(console)
            finally:
                self._ended = True

    @contextmanager
    def _live(self, console: Console) -> Iterator[None]:
        with live_display(console, self._drawn, self._lock) as display:
            if display is None:
                yield
                return
            ended = threading.Event()
            thread = threading.Thread(target=self._redraw, args=(display, ended), name="asynchub bar", daemon=True)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()

    def _redraw(self, display: Display, ended: threading.Event) -> None:
        while not ended.wait(1 / self._refresh_per_second):
            display.refresh()

    def _put(self, console: Console, text: Text) -> None:
        with self._lock:
            console.print(text, soft_wrap=True)

    async def _print(self, console: Console) -> None:
        if self._lines:
            text = Text("\n").join(self._lines)
            self._lines.clear()
            await anyio.to_thread.run_sync(self._put, console, text)

    def _take(self, event: Event) -> None:
        self._times = (self._times[0] if self._times else event.time, event.time)
        if isinstance(event, ScalarUpdated):
            if not self._wanted(event.key):
                return
            if event.step != self._results_step or (not event.step and event.key in self._results):
                self._end_results()
            value = mean_per_sample(event)
            self._newest[event.key] = value
            if self._is_result(event.key):
                self._results[event.key] = value
                self._results_step = event.step
            self._pace.see(event)
            if event.time - self._marked >= MARK_SECONDS:
                self._marked = event.time
                self._pace.mark(event.time)
        elif isinstance(event, InfoUpdated):
            self._pace.see(event)
        elif (text := described(event)) is not None:
            self._end_results()
            mark, style = ("!", "red") if is_failure(event) else (">", "cyan")
            self._lines.append(Text(f"{mark} {text}", style))

    def _end_results(self) -> None:
        if self._results:
            style = "bold" if all(map(math.isfinite, self._results.values())) else "red"
            self._lines += [Text(line, style) for line in results_in_words(self._results, self._results_step)]
            self._results = {}

    def _drawn(self) -> RenderableType:
        """Return what is shown now; called by Rich's thread, so it reads copies."""
        pace, step, total = self._pace, self._pace.step, self._pace.total
        bar = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [] if pace.epoch is None else [Text(f"epoch {pace.epoch}")]
        if total is not None:
            cells.append(ProgressBar(total=total, completed=step or 0, width=32))
        cells.append(Text(f"{'-' if step is None else step}" + (f"/{total}" if total is not None else "")))
        if pace.mean_rate is not None:
            cells.append(Text(f"{format_number(pace.mean_rate)} steps/s", "dim"))
        if self._ended:
            first, newest = self._times or (0.0, 0.0)
            cells.append(Text(f"took {format_duration(newest - first)}", "dim"))
        elif (left := pace.seconds_left) is not None:
            cells.append(Text(f"{format_duration(left)} left", "dim"))
        bar.add_row(*cells)
        return Group(bar, self._values())

    def _values(self) -> RenderableType:
        newest = list(self._newest.copy().items())
        shown = []
        for key, value in newest[:SHOWN]:
            number = Text(format_quantity(key, value), "bold" if math.isfinite(value) else "bold red")
            shown.append(Text.assemble((one_line(key), "dim"), " ", number))
        if len(newest) > SHOWN:
            shown.append(Text(f"+{len(newest) - SHOWN} more", "dim"))
        return Columns(shown, padding=(0, 3))
