"""What views of a run share: numbers, durations and decisions as people read them, and how fast the run goes.

Widths: a number is at most 10 characters, so that columns stay aligned.
Time: all of it is ``Event.time``, so a replay shows the pace of the run it replays.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from asynchub.allowing import shortened
from asynchub.bridging import (
    BridgeDegraded,
    BridgeRestored,
    ClocksApart,
    FrameRefused,
    RankLeft,
    ReductionDegraded,
    ReductionRestored,
)
from asynchub.dataflow import BottleneckChanged, ConcurrencyChanged, PipelineRecovered, PipelineStalled
from asynchub.events import (
    CheckpointSaved,
    Event,
    EventsDropped,
    InfoUpdated,
    ScalarUpdated,
    StateLoaded,
    SubscriberFailed,
    TrackerDegraded,
    TrackerRestored,
)
from asynchub.requests import (
    ParameterChanged,
    ParameterChangeRequested,
    Paused,
    PauseEnded,
    Request,
    RequestApplied,
    RequestRefused,
)

__all__ = (
    "DECISIONS",
    "PACE_KEYS",
    "RESULT_KEYS",
    "Pace",
    "described",
    "format_duration",
    "format_number",
    "format_quantity",
    "is_failure",
    "mean_per_sample",
    "one_line",
    "results_in_words",
)

DECISIONS: tuple[type[Event], ...] = (
    Request,
    RequestApplied,
    RequestRefused,
    ParameterChanged,
    Paused,
    PauseEnded,
    SubscriberFailed,
    StateLoaded,
    CheckpointSaved,
    TrackerDegraded,
    TrackerRestored,
    BottleneckChanged,
    ConcurrencyChanged,
    PipelineStalled,
    PipelineRecovered,
    BridgeDegraded,
    BridgeRestored,
    ClocksApart,
    FrameRefused,
    RankLeft,
    ReductionDegraded,
    ReductionRestored,
)
"""The kinds of events that get a line of their own."""
FAILURES = (
    SubscriberFailed,
    RequestRefused,
    EventsDropped,
    TrackerDegraded,
    PipelineStalled,
    BridgeDegraded,
    ClocksApart,
    FrameRefused,
    ReductionDegraded,
)
PACE_KEYS = ("epoch", "max_epochs", "max_iters")
"""Runtime infos, in mmengine's convention, that tell how much is left to do."""
RESULT_KEYS = ("val/**", "valid/**", "validation/**", "eval/**", "test/**")
"""Keys that come seldom and matter: results of an evaluation."""

_SI = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def format_number(value: float) -> str:
    """Return ``value`` with 4 significant digits, in at most 10 characters; integers whole up to 9 digits."""
    if isinstance(value, int):
        return str(int(value)) if abs(value) < 10**9 else f"{float(value):.3e}" if abs(value) < 10**300 else "huge"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+inf" if value > 0 else "-inf"
    size = abs(value)
    if value == 0 or 1e-3 <= size < 9999.5:
        return f"{value:#.4g}".rstrip(".")
    if 9999.5 <= size < 1e7:
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"


def format_quantity(key: str, value: float) -> str:
    """Return ``value`` with the unit that the end of its key names, if any: seconds (``_s``) or bytes (``_bytes``).

    What is not finite, and an integer that no double can hold, has none.
    """
    try:
        is_finite = math.isfinite(value)
    except OverflowError:
        is_finite = False
    if not is_finite:
        return format_number(value)
    if key.endswith(("_s", "_seconds")):
        return _seconds(float(value))
    if key.endswith("_bytes"):
        return _bytes(float(value))
    return format_number(value)


def _seconds(value: float) -> str:
    size = abs(value)
    if size >= 1000 or value == 0:
        return f"{value:.0f} s" if size < 1e7 else f"{format_number(value)} s"
    scale, prefix = next((one for one in _SI if size >= 0.9995 * one[0]), _SI[-1])
    return f"{_three(value / scale)} {prefix}s"


def _bytes(value: float) -> str:
    for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
        if abs(value) < 1000:
            return f"{value:.0f} B" if not prefix else f"{_three(value)} {prefix}B"
        value /= 1024
    return f"{value:.0f} PiB" if abs(value) < 1e6 else f"{format_number(value)} PiB"


def _three(value: float) -> str:
    """Return a number below 1000 with 3 significant digits."""
    size = abs(value)
    return f"{value:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"


def format_duration(seconds: float) -> str:
    """Return a time such as ``0:42``, ``1:02:03`` or ``2d 03h``; of what is not finite, that."""
    if isinstance(seconds, float) and not math.isfinite(seconds):
        return format_number(seconds)
    whole = round(max(seconds, 0.0))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24 * 10**6:
        return f"{format_number(hours // 24)} days"
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02}h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def mean_per_sample(event: ScalarUpdated) -> float:
    """Return the mean that a scalar's value is the sum for; the value itself when it counts no samples."""
    return event.value if event.count in (0, 1) else event.value / event.count


def is_failure(event: Event) -> bool:
    """Tell whether an event reports that something went wrong."""
    return isinstance(event, FAILURES)


def described(event: Event) -> str | None:
    """Return a decision or a loss of events in words, on one line; None for what is neither."""
    text: str
    at = "" if event.step is None else f" at step {event.step}"
    match event:
        case EventsDropped(missed=missed):
            text = f"{missed} event{'s' if missed != 1 else ''} dropped{at}: this view fell behind"
        case ParameterChanged():
            group = f"[{event.group}]" if event.group else ""
            change = f"{event.old:.6g} -> {event.new:.6g}"
            text = f"{event.name}{group} {change}{at}{_why(event.author, event.reason)}"
        case SubscriberFailed():
            follows = {"detach": "detached", "restart": "restarting", "raise": "raised on leaving"}
            text = f"{event.subscriber} failed{at}: {event.error} ({follows.get(event.action, event.action)})"
        case RequestRefused():
            text = f"{_words(event.request)} refused{at}: {event.error}{_why(event.author, event.reason)}"
        case RequestApplied():
            text = f"{_words(event.request)} applied{at}{_why(event.author, '')}"
        case ParameterChangeRequested():
            text = f"{event.name} = {shortened(event.value, str)} requested{at}{_why(event.author, event.reason)}"
        case Request():
            text = f"{_words(type(event).__name__)} requested{at}{_why(event.author, event.reason)}"
        case Paused():
            text = f"paused{at}{_why(event.author, event.reason)} (for {format_duration(event.seconds)} at most)"
        case PauseEnded():
            why = _why(event.author, event.reason)
            text = f"goes on{at} after a pause of {format_duration(event.seconds)}{why}"
        case StateLoaded():
            text = f"resumed{at} from {event.source}"
        case CheckpointSaved():
            took = f" in {format_quantity('_s', event.seconds)}" if event.seconds else ""
            text = f"checkpoint{f' {event.path}' if event.path else ''} saved{at}{took}{_why('', event.reason)}"
        case TrackerDegraded():
            text = f"{event.tracker} does not take anything{at}: {event.error} (kept, and tried again)"
        case TrackerRestored():
            lost = f", {event.missed} are lost to it" if event.missed else ""
            text = f"{event.tracker} is back{at}: it got {event.delivered} values late{lost}"
        case BottleneckChanged():
            text = f"{event.pipeline} is limited by {_limit(event)}{at}{_why('', event.reason)}"
        case ConcurrencyChanged():
            change = f"{event.stage} does {event.new} items at once, {event.old} before"
            text = f"{event.pipeline}: {change}{at}{_why(event.author, event.reason)}"
        case PipelineStalled():
            text = f"{event.pipeline} has stalled for {format_quantity('_s', event.seconds)}{at}: {event.reason}"
        case PipelineRecovered():
            text = f"{event.pipeline} goes on{at} after {format_quantity('_s', event.seconds)}"
        case _:
            return _described_between(event, at)
    return one_line(text)


def _described_between(event: Event, at: str) -> str | None:
    """Return what happened between processes in words, on one line; None for anything else."""
    text: str
    match event:
        case BridgeDegraded():
            text = f"{event.bridge}: the broker is away{at}: {event.error} (kept, and tried again)"
        case BridgeRestored():
            late = f", {event.waiting} frames are on their way" if event.waiting else ""
            text = f"{event.bridge}: the broker is back{at} after {format_quantity('_s', event.seconds)}{late}"
        case ClocksApart():
            ahead = "ahead of" if event.seconds > 0 else "behind"
            text = f"the clock of rank {event.rank} is {format_quantity('_s', abs(event.seconds))} {ahead} the broker's"
        case FrameRefused():
            text = f"something from {event.source} was left out{at}: {event.error}"
        case RankLeft():
            text = f"rank {event.rank} has left{at}"
        case ReductionDegraded():
            text = f"ranks do not reduce together{at}: {event.error} (kept, and tried again)"
        case ReductionRestored():
            text = f"ranks reduce together again{at} after {format_quantity('_s', event.seconds)}{_why('', event.note)}"
        case _:
            return None
    return one_line(text)


def _limit(event: BottleneckChanged) -> str:
    """Return what limits a pipeline."""
    match event.kind:
        case "stage" | "consumer":
            return event.stage
        case "loop":
            return f"the event loop, which {event.stage} holds"
        case "balanced" | "unsaturated":
            return "no single stage"
    return "something unknown"


def results_in_words(results: Mapping[str, float], step: int | None) -> list[str]:
    """Return the results of an evaluation, one line for each group of keys."""
    groups: dict[str, list[str]] = {}
    for key, value in results.items():
        group, _, name = key.rpartition("/")
        groups.setdefault(group, []).append(f"{name} {format_quantity(key, value)}")
    at = "" if step is None else f" at step {step}"
    return [one_line(f"{group or 'result'}{at}: {', '.join(shown)}") for group, shown in groups.items()]


def one_line(text: str) -> str:
    """Return ``text`` without line ends and control characters."""
    if text.isprintable():
        return text
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _words(kind: str) -> str:
    """Return ``StopRequested`` as ``stop``, ``ParameterChangeRequested`` as ``parameter change``."""
    name = kind.removesuffix("Requested")
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


def _why(author: str, reason: str) -> str:
    return (f" by {author}" if author else "") + (f": {reason}" if reason else "")


class Pace:
    """How far a run is, how fast it goes, and how much is left.

    The total is ``total`` if given, else the runtime info ``max_iters``, else ``max_epochs`` times the steps that an
    epoch has taken so far (with the info ``epoch`` counting the epochs that are over).

    Attributes:
        step: the furthest step seen, or None.

    Args:
        total: steps in the whole run; None: as above.
    """

    def __init__(self, total: int | None = None) -> None:
        self.step: int | None = None
        self._given = total
        self._max_iters: int | None = None
        self._max_epochs: int | None = None
        self._epoch: tuple[int, int] | None = None  # epochs that are over, at this step
        self._first_epoch: tuple[int, int] | None = None
        self._marks: deque[tuple[float, int]] = deque(maxlen=16)

    def restart(self) -> None:
        """Forget the speed: the run goes on after a pause."""
        self._marks.clear()

    def see(self, event: Event) -> None:
        """Take account of one event."""
        if event.step is not None and (self.step is None or event.step >= self.step):
            self.step = event.step
            if not self._marks:
                self._marks.append((event.time, event.step))
        if isinstance(event, InfoUpdated) and event.key in PACE_KEYS and type(event.value) is int:
            if event.key == "max_iters":
                self._max_iters = event.value
            elif event.key == "max_epochs":
                self._max_epochs = event.value
            else:
                self._epoch = (event.value, event.step or 0)
                self._first_epoch = self._first_epoch or self._epoch

    @property
    def epoch(self) -> int | None:
        """Epochs that are over, as the program counts them; None while it has not said."""
        return None if self._epoch is None else self._epoch[0]

    def mark(self, time: float) -> None:
        """Measure the speed from the last marks to the furthest step, reached at ``time`` (s since the epoch)."""
        if self.step is not None and self._marks and self.step > self._marks[-1][1]:
            self._marks.append((time, self.step))

    @property
    def total(self) -> int | None:
        """Steps in the whole run; None while it is not known."""
        if self._given is not None or self._max_iters is not None:
            return self._given if self._given is not None else self._max_iters
        if self._max_epochs is None or self._epoch is None or self._first_epoch is None:
            return None
        epochs, steps = (now - before for now, before in zip(self._epoch, self._first_epoch, strict=True))
        if epochs <= 0 or steps <= 0:
            return None
        return round(self._epoch[1] + (self._max_epochs - self._epoch[0]) * steps / epochs)

    @property
    def rate(self) -> float | None:
        """Steps per second between the last two marks; None before."""
        return self._speed(-2)

    @property
    def mean_rate(self) -> float | None:
        """Steps per second over the last 16 marks; None before there are two."""
        return self._speed(0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at the speed of the last 16 marks; None while unknown."""
        total, speed = self.total, self.mean_rate
        if total is None or not speed or self.step is None:
            return None
        return max(total - self.step, 0) / speed

    def _speed(self, since: int) -> float | None:
        if len(self._marks) < 2:
            return None
        (start, first), (end, last) = self._marks[since], self._marks[-1]
        return (last - first) / (end - start) if end > start else None
