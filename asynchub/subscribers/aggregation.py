"""What a logger keeps of many updates: each of them, or one value for each stretch of a run.

With ``every`` the updates of a key are gathered until one crosses a boundary (``asynchub.every``); that one belongs to
them, and they become one point, of its step and time. Without it each update is a point.

Replay: only facts in the events count, so the same events give the same points again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, ScalarUpdated
from asynchub.every import Every

__all__ = ("Aggregate", "Aggregation", "Point")

Aggregate = Literal["last", "mean", "min", "max"]
"""What the updates of a stretch become: the newest, the mean over all their samples, the smallest or the largest."""


class Point(NamedTuple):
    """What a scalar was over one or several updates.

    Attributes:
        key: of the scalar.
        value: as ``Aggregate`` says, of the means ``value / count`` of the updates.
        samples: how many there are in all of them.
        step: of the newest; None if it had none.
        time: of the newest, in seconds since the epoch.
        seq: of the newest.
    """

    key: str
    value: float
    samples: int
    step: int | None
    time: float
    seq: int


class _Window(NamedTuple):
    """The updates of a key since the last point.

    Attributes:
        value: what they come to so far; with ``"mean"``, the sum over their samples.
        samples: how many so far.
        step, time, seq: of the newest.
    """

    value: float
    samples: int
    step: int | None
    time: float
    seq: int


class Aggregation:
    """Makes points of updates.

    Attributes:
        how: as given.
        every: as given.

    Args:
        how: what the updates of a stretch become.
        every: how long a stretch is: ``100`` (updates of the key), ``"100ba"``, ``"1ep"``, ``"30s"``; None: each update
            is a point.

    Raises:
        ArgumentError: ``how`` is none of these, or is given without ``every``.
        ScheduleError: ``every`` is malformed.
    """

    def __init__(self, how: Aggregate = "last", every: int | str | None = None) -> None:
        if how not in get_args(Aggregate):
            *others, last = map(repr, get_args(Aggregate))
            raise ArgumentError(f"aggregate must be {', '.join(others)} or {last}, got {how!r:.80}")
        if every is None and how != "last":
            raise ArgumentError(f"aggregate={how!r} needs every=, e.g. every='100ba': over what it is to be taken")
        self.how = how
        self.every = every
        self._every = None if every is None else Every(every)
        self._windows: dict[str, _Window] = {}

    def fresh(self) -> Aggregation:
        """Return one with the same arguments that has seen nothing."""
        return Aggregation(self.how, self.every)

    @property
    def unit(self) -> str:
        """What ``every`` counts, as ``asynchub.every.Every``; empty without it."""
        return "" if self._every is None else self._every.unit

    def add(self, event: Event) -> Point | None:
        """Take account of ``event``; return the point that is due with it, if any."""
        every = self._every
        if every is None:
            if type(event) is not ScalarUpdated:
                return None
            count = event.count
            value = event.value
            if count != 1 or type(value) is not float:
                value = _mean(value, count)
            return Point(event.key, value, count, event.step, event.time, event.seq)
        due = every(event)
        if not isinstance(event, ScalarUpdated):
            return None
        window = self._grown(event)
        if not due:
            self._windows[event.key] = window
            return None
        self._windows.pop(event.key, None)
        return self._point(event.key, window)

    def rest(self) -> list[Point]:
        """Return what is left of stretches that have not ended, as points, oldest first, and begin anew."""
        windows, self._windows = self._windows, {}
        return sorted((self._point(key, window) for key, window in windows.items()), key=lambda one: one.seq)

    def _grown(self, event: ScalarUpdated) -> _Window:
        newest = event.step, event.time, event.seq
        mean = _mean(event.value, event.count)
        before = self._windows.get(event.key)
        if self.how == "mean" and event.count:
            total, count = _float(event.value), event.count
            if before is not None and before.samples:
                total, count = total + before.value, count + before.samples
            return _Window(total, count, *newest)
        if before is None:
            return _Window(mean, event.count, *newest)
        if self.how == "mean":  # of no samples: nothing to add
            return _Window(before.value, before.samples, *newest)
        count = before.samples + event.count
        if self.how == "last" or math.isnan(before.value) or math.isnan(mean):
            value = mean if self.how == "last" else math.nan
        else:
            value = min(before.value, mean) if self.how == "min" else max(before.value, mean)
        return _Window(value, count, *newest)

    def _point(self, key: str, window: _Window) -> Point:
        value = _mean(window.value, window.samples) if self.how == "mean" else window.value
        return Point(key, value, *window[1:])

    def state_dict(self) -> dict[str, Any]:
        """Return the stretches that have begun, as builtins."""
        every = None if self._every is None else self._every.state_dict()
        return {"every": every, "windows": {key: list(window) for key, window in self._windows.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another one was; one that has another ``every`` begins its stretches anew.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        try:
            every, windows = state["every"], {str(key): _Window(*window) for key, window in state["windows"].items()}
            if self._every is not None and every is not None:
                other = Every(self._every.every)
                other.load_state_dict(every)
                self._every = other
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateDictError(f"wanted the stretches that have begun, got {state!r:.200}") from error
        self._windows = windows if self._every is not None and every is not None else {}


def _mean(value: float, count: int) -> float:
    """Return the mean over the samples; the value itself if there are none."""
    if count in (0, 1):
        return _float(value)
    try:
        return value / count
    except OverflowError:  # an int beyond every float
        return _float(value if count > 0 else -value)


def _float(value: float) -> float:
    """Return an int as the float next to it, beyond all of them as an infinity; a float as it is."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
