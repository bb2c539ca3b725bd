"""A run as lines of text that a person reads while it goes.

      epoch     step  train/loss   train/acc   steps/s      left
          0      100      0.4312      0.8713     312.4      0:42
        val at step 100: loss 0.3901, accuracy 0.8802
        > lr 0.1 -> 0.05 at step 100 by plateau: val/loss did not improve

A table of the newest values, a line for each evaluation, a line (``>``) for each decision; ``!`` begins a line about
something that failed, and NaN stands out.

Quiet: without a terminal it prints a tenth as often, and no colours. It never moves the cursor, so it mixes with what
    the program prints and reads the same in a log file.
Time: rates and schedules go by ``Event.time``, so a replay prints what the run did.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import TextIO

import anyio.to_thread

from asynchub.errors import ArgumentError
from asynchub.events import Event, InfoUpdated, ScalarUpdated, scalar_updated
from asynchub.every import EPOCH_KEY, Every
from asynchub.patterns import matcher
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

__all__ = ("ConsoleLogger",)

REPEAT_HEADER = 20
"""Lines of the table after which its header is printed once more."""
COLUMN = 10
NARROW = {"epoch": 5, "step": 7, "steps/s": 8, "left": 8}
GAP = 2
MARGIN = "    "
LONGEST = 24
_DIM, _BOLD, _CYAN, _RED, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[36m", "\x1b[31m", "\x1b[0m"


class ConsoleLogger:
    """Print the newest values of a run as aligned columns, its evaluations and its decisions as lines between.

    Args:
        keys: patterns of the scalars to show; all by default.
        every: how often a line of the table is printed, e.g. ``"50ba"``, ``"1ep"``, ``"5s"``; an int is a number of
            steps that had values. By default ``"1s"`` on a terminal, ``"10s"`` otherwise.
        results: patterns of the scalars that are results of an evaluation; each evaluation is a line, at once.
        total: steps in the whole run, for the time left; by default the runtime info ``max_iters``, or ``max_epochs``.
        file: where to print; standard output, as it is when the hub starts, by default.
        width: columns that the table may take; that of the terminal by default, without one no limit.

    Raises:
        ScheduleError: ``every`` is malformed.
        PatternError: a pattern is.
        ArgumentError: ``results`` is a single string, or ``total`` not above 0.
    """

    role = "observer"

    def __init__(
        self,
        *keys: str,
        every: int | str | None = None,
        results: Iterable[str] = RESULT_KEYS,
        total: int | None = None,
        file: TextIO | None = None,
        width: int | None = None,
    ) -> None:
        if isinstance(results, str):
            raise ArgumentError(f"results must be several patterns, got the str {results!r}; write ({results!r},)")
        if total is not None and not total > 0:
            raise ArgumentError(f"total must be a number of steps above 0, got {total!r}")
        if every is not None:
            Every(every)
        patterns = keys or ("**",)
        self.keys: tuple[str | type[Event], ...] = (*patterns, *PACE_KEYS, *DECISIONS)
        self._wanted = matcher(patterns)
        self._is_result = matcher(tuple(results))
        self._every = every
        self._file = file
        self._width = width
        self._pace = Pace(total)
        self._newest: dict[str, float] = {}

    async def __call__(self, events: Subscription) -> None:
        file = self._file or sys.stdout
        terminal = file.isatty()
        self._pace.restart()
        page = _Page(
            pace=self._pace,
            newest=self._newest,
            due=Every(self._every or ("1s" if terminal else "10s")),
            wanted=self._wanted,
            is_result=self._is_result,
            width=self._width or (shutil.get_terminal_size().columns if terminal else None),
            colour=terminal and "NO_COLOR" not in os.environ,
        )
        async for batch in events.batches():
            for event in batch:
                page.take(event)
            await _print(file, page)
        page.end()
        await _print(file, page)


async def _print(file: TextIO, page: _Page) -> None:
    if page.lines:
        text = "".join([f"{line}\n" for line in page.lines])
        page.lines.clear()
        await anyio.to_thread.run_sync(_write, file, text)


def _write(file: TextIO, text: str) -> None:
    encoding = getattr(file, "encoding", None) or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    file.flush()


class _Page:
    """Turns events into lines.

    A row is what came for one step. It ends with the first value of another step, or with a decision; a program that
    counts no steps ends it with the first key that comes again.

    Attributes:
        lines: printed by whoever takes them.
    """

    def __init__(
        self,
        pace: Pace,
        newest: dict[str, float],
        due: Every,
        wanted: Callable[[str], bool],
        is_result: Callable[[str], bool],
        width: int | None,
        colour: bool,
    ) -> None:
        self.lines: list[str] = []
        self._pace = pace
        self._newest = newest
        self._due = due
        self._wanted = wanted
        self._is_result = is_result
        self._width = width
        self._colour = colour
        self._row: dict[str, float] = {}
        self._last: ScalarUpdated | None = None  # the last event of the row
        self._unshown: ScalarUpdated | None = None  # the end of the last row that no line has shown
        self._header = ""
        self._rows_below_header = 0

    def take(self, event: Event) -> None:
        """Take one event; lines may follow."""
        if isinstance(event, ScalarUpdated):
            if self._wanted(event.key):
                if self._last is not None and (
                    event.step != self._last.step or (not event.step and event.key in self._row)
                ):
                    self._end_row()
                self._row[event.key] = mean_per_sample(event)
                self._last = event
                self._pace.see(event)
        elif isinstance(event, InfoUpdated):
            self._pace.see(event)
            if event.key == EPOCH_KEY:
                self._due(event)
        elif (text := described(event)) is not None:
            self._end_row()
            mark, colour = ("!", _RED) if is_failure(event) else (">", _CYAN)
            self.lines.append(self._painted(f"{MARGIN}{mark} {text}", colour))

    def end(self) -> None:
        """End the row begun, and show the newest values if no line has yet."""
        self._end_row()
        if self._unshown is not None:
            self._add_row(self._unshown)

    def _end_row(self) -> None:
        last, row = self._last, self._row
        if last is None:
            return
        self._last, self._row = None, {}
        results = {key: row.pop(key) for key in list(row) if self._is_result(key)}
        if row:
            self._newest.update(row)
            self._unshown = last
            if self._due(scalar_updated(last.seq, last.time, last.step, "", 0.0, 1)):
                self._add_row(last)
        if results:
            paint = _BOLD if all(map(math.isfinite, results.values())) else _RED
            self.lines += [self._painted(MARGIN + line, paint) for line in results_in_words(results, last.step)]

    def _add_row(self, last: ScalarUpdated) -> None:
        self._unshown = None
        self._pace.mark(last.time)
        cells = [("step", "-" if last.step is None else str(last.step), "")]
        if self._pace.epoch is not None:
            cells.insert(0, ("epoch", str(self._pace.epoch), ""))
        after = [("steps/s", "-" if self._pace.rate is None else format_number(self._pace.rate), _DIM)]
        if self._pace.total is not None:
            left = self._pace.seconds_left
            after.append(("left", "-" if left is None else format_duration(left), _DIM))
        values = [
            (_label(key), format_quantity(key, value), "" if math.isfinite(value) else _RED)
            for key, value in self._newest.items()
        ]
        kept = self._fitting([*cells, *after], values)
        hidden = f"  +{len(values) - len(kept)} more" if len(kept) < len(values) else ""
        cells += [*kept, *after]
        header = "".join(_right(label, _width_of(label)) for label, _, _ in cells) + hidden
        if header != self._header or self._rows_below_header == REPEAT_HEADER:
            self._header, self._rows_below_header = header, 0
            self.lines.append(self._painted(header, _DIM))
        self._rows_below_header += 1
        self.lines.append(
            "".join(self._painted(_right(text, _width_of(label)), *paint) for label, text, *paint in cells)
        )

    def _fitting(
        self, fixed: list[tuple[str, str, str]], values: list[tuple[str, str, str]]
    ) -> list[tuple[str, str, str]]:
        """Return those of ``values`` that leave room for the ``fixed`` columns."""
        if self._width is None:
            return values
        room = self._width - sum(_width_of(label) for label, _, _ in fixed)
        ends = list(accumulate(_width_of(label) for label, _, _ in values))
        if not ends or ends[-1] <= room:
            return values
        note = len(f"  +{len(values)} more")
        return values[: max(sum(end <= room - note for end in ends), 1)]

    def _painted(self, text: str, *paints: str) -> str:
        paint = "".join(paints)
        return f"{paint}{text}{_RESET}" if self._colour and paint else text


def _label(key: str) -> str:
    """Return ``key`` as the header of a column; of a long one, its end."""
    label = one_line(key)
    while _cells(label) > LONGEST:
        label = "…" + label.lstrip("…")[1:]
    return label


def _cells(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _width_of(label: str) -> int:
    return GAP + max(NARROW.get(label, COLUMN), _cells(label))


def _right(text: str, width: int) -> str:
    return " " * (width - _cells(text)) + text
