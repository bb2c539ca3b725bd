"""A run as a progress bar of tqdm, with the newest values behind it.

     45%|███████▋         | 450/1000 [00:01<00:01, 312.40step/s, train/loss=0.4312, train/acc=0.8713]

Results and decisions are printed above the bar, a line each. So is whatever the program prints and logs meanwhile: see
``asynchub.redirecting`` for what that covers. Other bars of tqdm, made before or meanwhile, keep their
places.

Drawn: in a worker thread, every ``mininterval`` seconds at most, so no loop waits for the terminal.
Time: elapsed time and speed go by ``Event.time``, so a replay shows the pace of the run it replays.
Quiet: without a terminal there is no bar and no control code: a line of the same text every ``PLAIN`` seconds, and at
    the end, beside results and decisions. Where a live display of Rich has the terminal, only those.
Ends: the bar is closed and the streams are put back whenever the subscriber ends, also by an error or a cancellation.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, TextIO, cast

import anyio
import anyio.to_thread

from asynchub.errors import ArgumentError
from asynchub.events import Event, InfoUpdated, ScalarUpdated, StateLoaded, scalar_updated
from asynchub.every import Every
from asynchub.patterns import matcher
from asynchub.redirecting import AboveBar, above_bar
from asynchub.subscribers.checks import check_count, check_number
from asynchub.subscribers.display import (
    DECISIONS,
    PACE_KEYS,
    RESULT_KEYS,
    Pace,
    described,
    format_quantity,
    is_failure,
    mean_per_sample,
    one_line,
    results_in_words,
)
from asynchub.subscription import Subscription

try:
    from tqdm.asyncio import tqdm_asyncio
    from tqdm.auto import tqdm
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[tqdm]'", name=error.name) from error

__all__ = ("TqdmProgress",)

MARK_SECONDS = 0.5
"""Seconds between two measurements of the speed."""
PLAIN = 10
"""Seconds from one line to the next where there is no terminal."""
PLAIN_WIDTH = 200
"""Letters that the values take on such a line."""
WIDTH = 80
"""Columns of a terminal that does not say."""
UNIT = "step"


class _Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar whose clock is that of the events."""

    clock: Callable[[], dict[str, Any]] = dict  # returns ``elapsed`` and ``rate``; each bar gets one of its own

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm formats."""
        return {**super().format_dict, **self.clock()}

    @property
    def stream(self) -> TextIO:
        """Where it is drawn."""
        return cast("TextIO", getattr(self.fp, "_wrapped", self.fp))


class _AboveTqdm(AboveBar):
    """A stream of a terminal on which there are bars of tqdm."""

    def put(self, lines: str) -> None:
        with _Bar.external_write_mode(file=self):  # takes every bar off the terminal, and draws it again
            self.stream.write(lines)
            self.stream.flush()

    def drawing(self) -> bool:
        lock = _Bar.get_lock()  # whoever draws a bar holds it
        return any(one._is_owned() for one in getattr(lock, "locks", [lock]) if hasattr(one, "_is_owned"))


class TqdmProgress:
    """Show a progress bar of tqdm with the newest values; print evaluations and decisions above it.

    Args:
        keys: patterns of the scalars to show; all by default.
        total: steps in the whole run; by default the runtime info ``max_iters``, or ``max_epochs``.
        mininterval: seconds from one drawing to the next, at least; above 0. The default is tqdm's.
        results: patterns of the scalars that are results of an evaluation; each evaluation is also printed, a line.
        desc: what stands before the bar.
        initial: the step at which this part of the run begins; by default that before the first value that it sees, so
            that a resumed run is not taken for a fast one.
        leave: whether the bar stays when the hub is left.
        redirect: whether what the program prints and logs is to appear above the bar, in whole lines.
        file: where; standard error, as it is when the hub starts, by default, as tqdm does.

    Raises:
        PatternError: a pattern is malformed.
        ArgumentError: another argument is of a wrong type or out of range.
    """

    role = "observer"

    def __init__(
        self,
        *keys: str,
        total: int | None = None,
        mininterval: float = 0.1,
        results: Iterable[str] = RESULT_KEYS,
        desc: str | None = None,
        initial: int | None = None,
        leave: bool = True,
        redirect: bool = True,
        file: TextIO | None = None,
    ) -> None:
        if isinstance(results, str):
            raise ArgumentError(f"results must be several patterns, got the str {results!r}; write ({results!r},)")
        if total is not None:
            check_count("total", total, 1)
        if initial is not None:
            check_count("initial", initial)
        if check_number("mininterval", mininterval) <= 0:
            raise ArgumentError(f"mininterval must be seconds above 0, got {mininterval!r}")
        if desc is not None and not isinstance(desc, str):
            raise ArgumentError(f"desc must be a str, got {desc!r}")
        patterns = keys or ("**",)
        self.keys: tuple[str | type[Event], ...] = (*patterns, *PACE_KEYS, *DECISIONS)
        self._wanted = matcher(patterns)
        self._is_result = matcher(tuple(results))
        self._mininterval = mininterval
        self._desc = desc
        self._given_initial = initial
        self._leave = leave
        self._redirect = redirect
        self._file = file
        self._pace = Pace(total)
        self._newest: dict[str, float] = {}
        self._results: dict[str, float] = {}
        self._results_step: int | None = None
        self._lines: list[str] = []
        self._initial: int | None = None
        self._begins = True  # the next value is the first of a part of the run
        self._begun: float | None = None  # time of the first value of this part
        self._first = 0  # step of that value
        self._time = 0.0  # time of the newest
        self._marked = -math.inf
        self._undrawn = False
        self._due = 0.0  # when it may be drawn, on the monotonic clock
        self._ended = False

    async def __call__(self, events: Subscription) -> None:
        file: Any = self._file or sys.stderr
        notebook, taken = not issubclass(tqdm, tqdm_asyncio), hasattr(file, "rich_proxied_file")
        self._begins, self._begun, self._ended = True, None, False
        plain = Every(f"{PLAIN}s")
        with ExitStack() as stack:
            bar = None
            if notebook or (file.isatty() and not taken):
                if self._redirect and not notebook:
                    stack.enter_context(above_bar(_AboveTqdm))
                bar = self._new_bar(file.stream if isinstance(file, AboveBar) else file)
                stack.callback(self._close, bar)
            batches = events.batches()
            while (batch := await self._next(batches, waking=bar is not None)) is not None:
                for event in batch:
                    self._take(event)
                if bar is None and not taken and self._newest and plain(_at(self._time)):
                    self._add_meter()
                await self._show(bar, file)
            self._end_results()
            self._ended = True
            if bar is None and not taken and self._undrawn:
                self._add_meter()
            await self._show(bar, file)

    async def _next(self, batches: AsyncIterator[Sequence[Event]], *, waking: bool) -> Sequence[Event] | None:
        """Return the next events, none when a drawing is due before they come, and None at the end."""
        seconds = max(self._due - time.monotonic(), 0) if waking and self._undrawn else None
        with anyio.move_on_after(seconds):
            return await anext(batches, None)
        return []

    # --- what came

    def _take(self, event: Event) -> None:
        if isinstance(event, ScalarUpdated):
            if self._wanted(event.key):
                self._take_scalar(event)
        elif isinstance(event, InfoUpdated):
            self._pace.see(event)
            self._undrawn = self._undrawn or self._begun is not None
        elif (text := described(event)) is not None:
            self._end_results()
            self._lines.append(f"{'!' if is_failure(event) else '>'} {text}")
            if isinstance(event, StateLoaded):
                self._begins = True

    def _take_scalar(self, event: ScalarUpdated) -> None:
        if event.step != self._results_step or (not event.step and event.key in self._results):
            self._end_results()
        value = mean_per_sample(event)
        self._newest[event.key] = value
        if self._is_result(event.key):
            self._results[event.key] = value
            self._results_step = event.step
        self._undrawn = True
        self._time = event.time
        if self._begins:
            self._begins, self._begun, self._marked = False, event.time, event.time
            self._first = event.step or 0
            self._initial = max(self._first - 1, 0) if self._given_initial is None else self._given_initial
            self._pace.restart()
        self._pace.see(event)
        if event.time - self._marked >= MARK_SECONDS:
            self._marked = event.time
            self._pace.mark(event.time)

    def _end_results(self) -> None:
        if self._results:
            self._lines += results_in_words(self._results, self._results_step)
            self._results = {}

    # --- what is shown

    def _new_bar(self, file: TextIO) -> _Bar:
        total = self._pace.total
        size: dict[str, Any] = {"dynamic_ncols": True}
        if not _columns(file):  # tqdm would draw nothing
            columns, rows = shutil.get_terminal_size()
            size = {"ncols": columns - 1, "nrows": rows}
        bar = _Bar(desc=self._desc, total=total, leave=self._leave, unit=UNIT, file=file, **size)
        bar.clock = self._clock
        return bar

    def _clock(self) -> dict[str, Any]:
        """Return elapsed seconds and speed (None: not known) as tqdm formats them; at the end, that of all steps."""
        if self._begun is None:
            return {"elapsed": 0.0, "rate": None}
        elapsed, rate = self._time - self._begun, self._pace.mean_rate
        if self._ended and elapsed > 0:
            rate = ((self._pace.step or 0) - self._first) / elapsed
        return {"elapsed": elapsed, "rate": rate}

    async def _show(self, bar: _Bar | None, file: TextIO) -> None:
        """Print what there is to print, and draw the bar if it is due."""
        due = bar is not None and self._undrawn and time.monotonic() >= self._due
        if due or self._lines:
            text, self._lines = "\n".join(self._lines), []
            await anyio.to_thread.run_sync(self._write, bar, file, text, due)

    def _write(self, bar: _Bar | None, file: TextIO, text: str, due: bool) -> None:
        if text:
            encoding = getattr(file, "encoding", None) or "utf-8"
            text = text.encode(encoding, "backslashreplace").decode(encoding)
            if bar is None:
                file.write(text + "\n")
                file.flush()
            else:
                _Bar.write(text, file=bar.stream)
        if bar is not None and due:
            self._draw(bar)
            self._due = time.monotonic() + self._mininterval

    def _draw(self, bar: _Bar) -> None:
        self._undrawn = False
        total = self._pace.total
        if total != bar.total:
            bar.total = total
            if hasattr(bar, "container"):  # a widget, which only this tells
                bar.reset(total=total)
        bar.initial, bar.n = self._initial or 0, self._pace.step or 0
        bar.set_postfix_str(self._values((bar.format_dict["ncols"] or 2 * WIDTH) // 2), refresh=False)
        bar.refresh()

    def _close(self, bar: _Bar) -> None:
        self._ended = True
        if self._undrawn:
            self._draw(bar)
        with _Bar.external_write_mode(
            file=bar.stream
        ):  # a bar that ends before one below it would leave a trace of that
            bar.close()

    def _add_meter(self) -> None:
        """Add the line that stands in for the bar."""
        self._undrawn = False
        self._lines.append(
            tqdm.format_meter(
                n=self._pace.step or 0,
                total=self._pace.total,
                ncols=0,
                prefix=self._desc or "",
                unit=UNIT,
                initial=self._initial or 0,
                postfix=self._values(PLAIN_WIDTH),
                **self._clock(),
            ).strip()
        )

    def _values(self, room: int) -> str:
        """Return as many of the newest values as have room, results last; one at least."""
        keys = sorted(self._newest, key=self._is_result)
        shown = ""
        for index, key in enumerate(keys):
            text = f"{one_line(key)}={format_quantity(key, self._newest[key])}"
            more = f" +{len(keys) - index}"
            if shown and len(shown) + len(text) + 2 + len(more) > room:
                return shown + more
            shown += f", {text}" if shown else text
        return shown


def _columns(file: TextIO) -> int:
    """Return the columns of a terminal; 0 of one that does not say."""
    try:
        return os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):
        return 0


def _at(time: float) -> Event:
    return scalar_updated(0, time, None, "", 0.0, 1)
