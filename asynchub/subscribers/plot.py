"""A run as one picture: curves, decisions and what went wrong, to show to somebody.

Nothing lost: however many values there are, the largest and the smallest of each column of pixels are drawn; NaN and
    infinities are marked at the edge, where they were.
Whole: the file is replaced in one step, so whoever opens it sees a whole picture.
Cost: a picture is drawn in a worker thread, and drawing takes a tenth of the time at most (``SHARE``), however often
    it is due. Memory is bounded: 230 kB a curve at most, and ``KEYS`` curves.
Rewound: what no longer counts after a resume is no longer drawn, and what counts again is: curves are made anew of what
    the hub has recorded since this began to read, as far as its histories go back. Where that cannot be read, what lies
    beyond the step that the run went back to is left out, to within a bucket.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import anyio.to_thread

from asynchub.errors import ArgumentError, JournalError, SubscriptionError
from asynchub.events import (
    CheckpointSaved,
    Event,
    EventsDropped,
    InfoUpdated,
    Rewound,
    ScalarUpdated,
    StateLoaded,
    SubscriberFailed,
    scalar_updated,
)
from asynchub.every import EPOCH_KEY, Every
from asynchub.patterns import matcher
from asynchub.requests import (
    ParameterChanged,
    ParameterChangeRequested,
    Request,
    RequestRefused,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)
from asynchub.subscribers.checks import Mode, check_number, mean_of
from asynchub.subscribers.curves import Curve
from asynchub.subscribers.display import format_duration
from asynchub.subscribers.panels import SIZES, Look, Mark, Picture, Size
from asynchub.subscribers.picture import FORMATS, draw
from asynchub.subscription import Subscription

__all__ = ("MatplotlibPlot",)

KEYS = 252
"""Curves that are kept at most; further keys are counted."""
MARKS = 256
"""Decisions of a kind that are drawn at most: the newest."""
SHARE = 0.1
"""Share of the time that drawing may take."""

_KINDS: tuple[type[Event], ...] = (
    StopRequested,
    SkipRequested,
    RollbackRequested,
    ParameterChangeRequested,
    ParameterChanged,
    RequestRefused,
    CheckpointSaved,
    StateLoaded,
    Rewound,
    SubscriberFailed,
)


class MatplotlibPlot:
    """Draw the curves and decisions of a run to a file, again and again while it goes on.

    Attach it with ``replay="all"`` to have what was there before it.

    Args:
        path: the file, ``.png``, ``.svg`` or ``.pdf``; its folder is created.
        keys: patterns of the scalars to draw; all by default.
        every: how often, e.g. ``"60s"`` (of ``Event.time``), ``"1ep"`` or ``"500ba"`` (steps); None: only at the end.
            It is also drawn at the end of the hub's being lived in, with all that had come.
        smooth: draw a moving average over the values, which become faint: the number of updates in which the weight of
            a value halves. Only a key with at least four times as many updates is smoothed.
        best: whether smaller or larger values are better, ``"min"`` or ``"max"``, by key pattern; the first that
            matches counts. By default the last word of a key decides: ``loss``, ``error``, ``perplexity``, … are best
            when small, ``accuracy``, ``f1``, ``reward``, … when large; of others, no best value is shown.
        title: heading; the name of the folder that the file is in by default.
        size: ``"slide"`` (13.3 in wide, 16:9 while the panels fit), ``"paper"`` (6.75 in wide, small letters), or width
            and height in inches.
        dpi: pixels an inch; 150 by default, 300 for ``"paper"``.

    Raises:
        PatternError: a pattern is malformed.
        ScheduleError: ``every`` is.
        ArgumentError: another argument is of a wrong type or out of range.
    """

    role = "observer"

    def __init__(
        self,
        path: str | PathLike[str],
        *keys: str,
        every: str | None = "60s",
        smooth: float | None = None,
        best: Mapping[str, Mode] | None = None,
        title: str | None = None,
        size: Size = "slide",
        dpi: float | None = None,
    ) -> None:
        self._path = Path(path)
        if self._path.suffix not in FORMATS:
            raise ArgumentError(f"path must end in {', '.join(FORMATS)}, got {str(path)!r}")
        if isinstance(every, int):
            raise ArgumentError(f"every must be None or e.g. '60s', '1ep', '500ba' (steps), got {every!r}")
        if smooth is not None and check_number("smooth", smooth) <= 0:
            raise ArgumentError(f"smooth must be a number of updates above 0, got {smooth!r}")
        if dpi is not None and not 10 <= check_number("dpi", dpi) <= 1200:
            raise ArgumentError(f"dpi must be from 10 to 1200, got {dpi!r}")
        if title is not None and not isinstance(title, str):
            raise ArgumentError(f"title must be a str, got {title!r}")
        patterns = keys or ("**",)
        self.keys: tuple[str | type[Event], ...] = (*patterns, EPOCH_KEY, *_KINDS)
        self._wanted = matcher(patterns)
        self._due = None if every is None else Every(every)
        self._title = title
        self._look = Look(smooth, _directions({} if best is None else best), *_measures(size, dpi))
        self._curves: dict[str, Curve] = {}
        self._counts: dict[str, int] = {}  # updates of a key, which stand in for steps that it does not name
        self._stepless: set[str] = set()
        self._left_out: set[str] = set()
        self._marks: dict[str, deque[Mark]] = {}
        self._totals: Counter[str] = Counter()
        self._step: int | None = None
        self._epoch: int | None = None
        self._times: tuple[float, float] | None = None  # of the first and the newest event
        self._undrawn = False
        self._rest_until = -math.inf

    async def __call__(self, events: Subscription) -> None:
        owed, begun = False, events.last_seq
        async for batch in events.batches():
            for event in batch:
                if isinstance(event, Rewound | StateLoaded):
                    await self._go_back(event, events, begun)
                self._take(event)
            owed = self._is_due(batch[-1]) or owed
            if owed and self._undrawn and time.monotonic() >= self._rest_until:
                owed = False
                await self._draw()
        if self._undrawn:
            await self._draw()

    def _is_due(self, event: Event) -> bool:
        """Tell whether a picture is due by ``event``; its step and time count, whatever its kind."""
        if self._due is None:
            return False
        return self._due(scalar_updated(event.seq, event.time, event.step, "", 0.0, 1))

    # --- what came

    def _take(self, event: Event) -> None:
        if isinstance(event, ScalarUpdated):
            if self._wanted(event.key):
                self._take_scalar(event)
        elif isinstance(event, InfoUpdated):
            if event.key == EPOCH_KEY and type(event.value) is int:
                self._epoch = event.value
                if self._due is not None:
                    self._due(event)
        else:
            self._see(event)
            if (mark := _marked(event)) is not None:
                self._totals[mark.kind] += 1
                self._marks.setdefault(mark.kind, deque(maxlen=MARKS)).append(mark)

    def _take_scalar(self, event: ScalarUpdated) -> None:
        key, value = event.key, mean_of(event)
        if value is None:
            return
        curve = self._curves.get(key)
        if curve is None:
            if len(self._curves) >= KEYS:
                self._left_out.add(key)
                return
            curve = self._curves[key] = Curve()
        self._see(event)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if event.step is None:
            self._stepless.add(key)
            curve.add(count, value)
        else:
            curve.add(event.step, value)

    def _see(self, event: Event) -> None:
        self._undrawn = True
        self._times = (self._times[0] if self._times else event.time, event.time)
        if event.step is not None and (self._step is None or event.step > self._step):
            self._step = event.step

    # --- going back

    async def _go_back(self, event: Rewound | StateLoaded, events: Subscription, begun: int) -> None:
        """Have the curves and marks be those of what counts from ``event`` on."""
        times = self._times
        try:
            await anyio.to_thread.run_sync(self._read_again, events, begun, event.seq)
        except (SubscriptionError, JournalError):
            if isinstance(event, Rewound) and event.step is not None:
                for key in self._curves.keys() - self._stepless:
                    self._curves[key].cut(event.step)
        self._times = times
        if event.step is not None:
            self._step = event.step
            for marks in self._marks.values():
                kept = [mark for mark in marks if mark.x <= event.step]
                marks.clear()
                marks.extend(kept)

    def _read_again(self, events: Subscription, after: int, upto: int) -> None:
        """Make the curves anew of what is recorded."""
        before = self._curves, self._counts, self._stepless, self._left_out
        try:
            past = events.again(after, upto)
            self._curves, self._counts, self._stepless, self._left_out = {}, {}, set(), set()
            for event in past:
                if isinstance(event, ScalarUpdated) and self._wanted(event.key):
                    self._take_scalar(event)
        except BaseException:
            self._curves, self._counts, self._stepless, self._left_out = before
            raise

    # --- the picture

    async def _draw(self) -> None:
        self._undrawn = False
        start = time.monotonic()
        await anyio.to_thread.run_sync(self._write)
        now = time.monotonic()
        self._rest_until = now + (now - start) * (1 / SHARE - 1)

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.stem}.{os.getpid()}.tmp{self._path.suffix}")
        title = self._path.resolve().parent.name if self._title is None else self._title
        curves = {key: curve for key, curve in self._curves.items() if len(curve)}
        picture = Picture(
            title=title,
            subtitle=self._subtitle(),
            curves=curves,
            stepless=frozenset(self._stepless),
            marks=[mark for marks in self._marks.values() for mark in marks],
            totals=dict(self._totals),
            left_out=len(self._left_out),
        )
        try:
            draw(picture, self._look, temporary)
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def _subtitle(self) -> str:
        parts = [] if self._step is None else [f"step {self._step:,}"]
        if self._epoch is not None:
            parts.append(f"epoch {self._epoch}")
        if self._times is not None:
            first, newest = self._times
            parts.append(time.strftime("%Y-%m-%d %H:%M", time.localtime(newest)))
            parts.append(f"after {format_duration(newest - first)}")
        return "  ·  ".join(parts)


def _marked(event: Event) -> Mark | None:
    """Return how a decision is drawn, with a label of a few words; None if it is not, or belongs to no step."""
    if event.step is None:
        return None
    match event:
        case ParameterChanged():
            group = f"[{event.group}]" if event.group else ""
            label = f"{event.name}{group} {event.old:.4g} → {event.new:.4g}"
            return Mark(event.step, "parameter changed", label)
        case ParameterChangeRequested():
            return Mark(event.step, "parameter changed", f"{event.name} = {event.value!s:.12} asked for")
        case StopRequested():
            return Mark(event.step, "stop", _by("stop", event))
        case SkipRequested():
            return Mark(event.step, "step skipped", _by("skip", event))
        case RollbackRequested():
            return Mark(event.step, "back to an earlier state", _by("rollback", event))
        case Rewound():
            return Mark(event.step, "back to an earlier state", "rewound")
        case StateLoaded():
            return Mark(event.step, "back to an earlier state", "resumed")
        case CheckpointSaved():
            return Mark(event.step, "checkpoint", "checkpoint")
        case SubscriberFailed():
            return Mark(event.step, "failure", f"{event.subscriber} failed")
        case RequestRefused():
            return Mark(event.step, "failure", f"{event.request.removesuffix('Requested').lower()} refused")
        case EventsDropped():
            return Mark(event.step, "failure", f"{event.missed:,} events lost here")
    return None


def _by(what: str, request: Request) -> str:
    return f"{what} ({request.author})" if request.author else what


def _directions(best: object) -> tuple[tuple[str, Mode], ...]:
    if not isinstance(best, Mapping):
        raise ArgumentError(f"best must be a dict such as {{'val/*': 'max'}}, got {type(best).__name__}")
    for pattern, mode in best.items():
        matcher((pattern,))
        if mode not in ("min", "max"):
            raise ArgumentError(f"the best of {pattern!r} must be 'min' or 'max', got {mode!r}")
    return tuple(best.items())


def _measures(size: object, dpi: float | None) -> tuple[Size, float]:
    if isinstance(size, str) and size in SIZES:
        return size, dpi or SIZES[size].dpi  # type: ignore[return-value]  # it is one of the names
    if isinstance(size, tuple | list) and len(size) == 2:
        width, height = (check_number("size", one, 1) for one in size)
        if max(width, height) <= 100:
            return (width, height), dpi or SIZES["slide"].dpi
    raise ArgumentError(f"size must be {' or '.join(map(repr, SIZES))} or (width, height) in inches, got {size!r}")
