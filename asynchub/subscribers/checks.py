"""One scalar as control subscribers look at it: check by check.

A check is one ``ScalarUpdated`` of the monitored key; its value is the mean ``value / count``. An update over no
samples (``count`` 0) has no mean and is no check. Patience, warm-up and smoothing all count checks.

Replay: only facts in the events count, so the same events give the same values again.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.every import EPOCH_KEY
from asynchub.patterns import check_pattern

__all__ = (
    "Better",
    "Checks",
    "Mode",
    "Smooth",
    "ThresholdMode",
    "check_count",
    "check_key",
    "check_number",
    "epoch_of",
    "mean_of",
    "take_state",
)

Mode = Literal["min", "max"]
"""Whether smaller or larger values are better."""
ThresholdMode = Literal["abs", "rel", "rel_abs"]
"""What a threshold is: an amount, a share of the best value with its sign, or a share of its magnitude."""
Smooth = int | tuple[Literal["ema"], float] | None
"""What a check is smoothed with: nothing, the mean of the last n checks, or an average of weight alpha."""

_START = re.compile(r"(\d+)(ep|ba)")


# --- arguments


def check_key(name: str, key: object) -> str:
    """Return ``key`` if it is one key and no pattern of several.

    Raises:
        PatternError: it could not be a key pattern either.
        ArgumentError: it has wildcards.
    """
    checked = check_pattern(key)
    if "*" in checked:
        raise ArgumentError(f"{name} must be one key, got the pattern {key!r}; attach one subscriber for each key")
    return checked


def check_count(name: str, value: object, at_least: int = 0) -> int:
    """Return ``value`` if it is an int of at least ``at_least``.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise ArgumentError(f"{name} must be an int of at least {at_least}, got {value!r}")
    return int(value)


def check_number(name: str, value: object, at_least: float = -math.inf) -> float:
    """Return ``value`` as a float if it is a finite number of at least ``at_least``.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < at_least:
        limit = "" if at_least == -math.inf else f" of at least {at_least:g}"
        raise ArgumentError(f"{name} must be a finite number{limit}, got {value!r}")
    return float(value)


def take_state(
    state: object, fields: Mapping[str, tuple[type, ...]], whose: str, absent: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the ``fields`` of a state dict, each of which must be of one of its types; others are left out.

    Args:
        state: what is to be one.
        fields: the types of each field.
        whose: whom it is of, for errors.
        absent: what fields have that older states lack.

    Raises:
        StateDictError: a field is missing or of another type.
    """
    if not isinstance(state, Mapping):
        raise StateDictError(f"the state of {whose} must be a dict, got {type(state).__name__}")
    state = {**(absent or {}), **state}
    for name, types in fields.items():
        if name not in state:
            raise StateDictError(f"the state of {whose} lacks {name!r}, got {sorted(map(str, state))}")
        if not isinstance(state[name], types) or (isinstance(state[name], bool) and bool not in types):
            wanted = " or ".join("None" if one is type(None) else one.__name__ for one in types)
            raise StateDictError(f"{name!r} in the state of {whose} must be {wanted}, got {state[name]!r:.80}")
    return {name: state[name] for name in fields}


# --- values


def mean_of(event: ScalarUpdated) -> float | None:
    """Return the mean over the samples of ``event``, or None if there are none."""
    if not event.count:
        return None
    try:
        return event.value / event.count
    except OverflowError:  # an int beyond every float
        return math.inf if (event.value > 0) == (event.count > 0) else -math.inf


def epoch_of(event: Event) -> int | None:
    """Return the number that ``event`` sets the runtime info ``epoch`` to, or None if it does not."""
    if not isinstance(event, InfoUpdated) or event.key != EPOCH_KEY or isinstance(event.value, bool):
        return None
    return int(event.value) if isinstance(event.value, Integral) else None


@dataclass(frozen=True, slots=True)
class Better:
    """Tell whether a value is better than the best so far, by more than a threshold.

    Attributes:
        mode: whether smaller or larger values are better.
        threshold: what must be exceeded; not below 0.
        threshold_mode: ``"abs"``: ``threshold`` itself; ``"rel"``: that share of the best value, as torch's
            ``ReduceLROnPlateau`` takes it, so that it has the wrong sign below 0; ``"rel_abs"``: that share of its
            magnitude.

    Raises:
        ArgumentError: a field is none of these.
    """

    mode: Mode
    threshold: float
    threshold_mode: ThresholdMode

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ArgumentError(f"mode must be 'min' or 'max', got {self.mode!r}")
        if self.threshold_mode not in ("abs", "rel", "rel_abs"):
            raise ArgumentError(f"threshold_mode must be 'abs', 'rel' or 'rel_abs', got {self.threshold_mode!r}")

    @property
    def worst(self) -> float:
        """The value that nothing is worse than."""
        return math.inf if self.mode == "min" else -math.inf

    def beats(self, value: float, other: float) -> bool:
        """Tell whether ``value`` is better than ``other``, by however little; NaN never is."""
        return value < other if self.mode == "min" else value > other

    def __call__(self, value: float, best: float) -> bool:
        """Tell whether ``value`` is an improvement on ``best``; exactly the threshold is not, nor is NaN.

        Source:
            torch 2.13, ``ReduceLROnPlateau``: the same roundings for ``"abs"`` and ``"rel"``.
        """
        sign = -1.0 if self.mode == "min" else 1.0
        if self.threshold_mode == "rel":
            bar = best * (1.0 + sign * self.threshold)
        elif self.threshold_mode == "abs" or math.isinf(best):
            bar = best + sign * self.threshold
        else:
            bar = best + sign * self.threshold * abs(best)
        return self.beats(value, bar)


class Checks:
    """The checks of one monitored scalar.

    Args:
        monitor: its key.
        start_from: what comes before is not looked at: a number of checks, or an epoch (``"5ep"``, as the runtime info
            ``epoch`` counts) or a step (``"100ba"``).
        smooth: None; n, for the mean of the last n finite checks; or ``("ema", alpha)``, for the moving average
            ``alpha * value + (1 - alpha) * average``, which begins at the first. A non-finite check is left as it is
            and out of the averages.
        epochs: whether epochs are wanted for another reason.

    Attributes:
        monitor: the key.
        keys: what must be subscribed to.
        seen: checks so far, those before ``start_from`` included.
        epoch: the newest value of the runtime info ``epoch``; None before the first.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: another argument is out of range.
    """

    state_fields: Mapping[str, tuple[type, ...]] = {"seen": (int,), "epoch": (int, type(None)), "smoothing": (list,)}

    def __init__(self, monitor: str, start_from: int | str = 0, smooth: Smooth = None, *, epochs: bool = False) -> None:
        self.monitor = check_key("monitor", monitor)
        self._start, self._unit = _start_of(start_from)
        window, self._alpha = _smoothing_of(smooth)
        self._recent: deque[float] = deque(maxlen=window)
        self.keys: tuple[str, ...] = (monitor, EPOCH_KEY) if epochs or self._unit == "ep" else (monitor,)
        self.seen = 0
        self.epoch: int | None = None

    def value(self, event: Event) -> float | None:
        """Return the value to look at, or None if ``event`` is no check, or one before ``start_from``."""
        epoch = epoch_of(event)
        if epoch is not None:
            self.epoch = epoch
        if not isinstance(event, ScalarUpdated) or event.key != self.monitor:
            return None
        value = mean_of(event)
        if value is None:
            return None
        self.seen += 1
        position = {"": self.seen - 1, "ep": self.epoch, "ba": event.step}[self._unit]
        if self._start and (position is None or position < self._start):
            return None
        return self._smoothed(value) if math.isfinite(value) else value

    def _smoothed(self, value: float) -> float:
        if not self._recent.maxlen:
            return value
        if self._alpha is not None:
            if self._recent:
                value = self._alpha * value + (1 - self._alpha) * self._recent[0]
            self._recent.append(value)
            return value
        self._recent.append(value)
        count = len(self._recent)
        return math.fsum(one / count for one in self._recent)  # divided first: a sum could overflow

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen."""
        return {"seen": self.seen, "epoch": self.epoch, "smoothing": list(self._recent)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``take_state`` has looked at; more history than ``smooth`` takes is left out.

        Raises:
            StateDictError: the history is not of finite numbers.
        """
        recent = state["smoothing"]
        if not all(type(one) in (int, float) and math.isfinite(one) for one in recent):
            raise StateDictError(f"'smoothing' must be a list of finite numbers, got {recent!r:.80}")
        self.seen, self.epoch = state["seen"], state["epoch"]
        self._recent = deque(recent, self._recent.maxlen)


def _start_of(start_from: object) -> tuple[int, str]:
    if isinstance(start_from, str) and (match := _START.fullmatch(start_from)):
        return int(match[1]), match[2]
    if isinstance(start_from, int) and not isinstance(start_from, bool) and start_from >= 0:
        return start_from, ""
    raise ArgumentError(
        f"start_from must be an int of at least 0 (checks) or e.g. '5ep' (epoch), '100ba' (step), got {start_from!r}"
    )


def _smoothing_of(smooth: object) -> tuple[int, float | None]:
    """Return how many values to keep, and the weight of a new one if it is a moving average."""
    if smooth is None:
        return 0, None
    if isinstance(smooth, int) and not isinstance(smooth, bool) and smooth > 0:
        return smooth, None
    if isinstance(smooth, (tuple, list)) and len(smooth) == 2 and smooth[0] == "ema":
        alpha = check_number("alpha of smooth", smooth[1])
        if 0 < alpha <= 1:
            return 1, alpha
    raise ArgumentError(
        "smooth must be None, an int above 0 (mean of the last n) or ('ema', alpha) with alpha above 0 and at most 1, "
        f"got {smooth!r}"
    )
