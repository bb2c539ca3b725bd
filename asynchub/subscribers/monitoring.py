"""What monitors share: a window of steps, a sample now and then, an alarm that does not repeat itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator

import anyio

from asynchub.errors import ArgumentError
from asynchub.events import CheckpointSaved, Event, EventsDropped, Rewound, ScalarUpdated, StateLoaded, StateSaved
from asynchub.every import EPOCH_KEY
from asynchub.patterns import matcher
from asynchub.requests import PauseEnded
from asynchub.subscribers.checks import check_count
from asynchub.subscription import Subscription

__all__ = ("PASS_KEY", "Alarm", "WindowMonitor", "sample_every")

PASS_KEY = "data/pass"
"""The runtime info that counts passes over the data, as ``timed_batches`` sets it."""
_PAUSES: tuple[type[Event], ...] = (CheckpointSaved, PauseEnded, StateSaved, StateLoaded, Rewound)


class Alarm:
    """Tell when a share has come to be above a limit: once, until it was well below.

    Args:
        limit: the share; None for no alarm.
    """

    REARM = 0.8
    """How far below, as a part of the limit: a share that swings about it is said once."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._raised = False

    def __call__(self, share: float) -> bool:
        """Take the newest share into account; tell whether to say so."""
        if self.limit is None:
            return False
        if self._raised:
            self._raised = not share < self.REARM * self.limit
            return False
        self._raised = share > self.limit
        return self._raised


async def sample_every(interval: float, events: Subscription, sample: Callable[[], Awaitable[None]]) -> None:
    """Call ``sample`` at once and then every ``interval`` seconds, until ``events`` ends.

    What it misses, because a sample took longer, is left out.

    Args:
        interval: seconds; above 0.
        events: of a subscriber that goes by time; what comes is not looked at.
        sample: what to call.
    """
    due = anyio.current_time()
    while True:
        await sample()
        due = max(due + interval, anyio.current_time())
        with anyio.CancelScope(deadline=due):
            async for _ in events:
                pass
            return


class WindowMonitor(ABC):
    """What ``ThroughputMonitor`` and ``StepTimeMonitor`` share: values of a window of steps, now and then.

    Args:
        main: key of the scalar that comes once a step.
        other: key of another that comes in the same step, before or after it; None for none.
        window_size: steps in the window.
        every: steps from one publishing to the next; None for ``window_size``.
        pauses: patterns of the keys that tell of a pause.
        prefix: put before each key.
        names: keys without their prefix.

    Raises:
        PatternError: a key or pattern is malformed.
        ArgumentError: another argument is of a wrong type or out of range, or what it reads would be what it publishes.
    """

    role = "observer"

    def __init__(
        self,
        main: str,
        other: str | None,
        window_size: int,
        every: int | None,
        pauses: Iterable[str],
        prefix: str,
        names: Iterable[str],
    ) -> None:
        if isinstance(pauses, str):
            raise ArgumentError(f"pauses must be several patterns, got the str {pauses!r}; write ({pauses!r},)")
        if not isinstance(prefix, str):
            raise ArgumentError(f"prefix must be a str, got {prefix!r}")
        self._window_size = check_count("window_size", window_size, 1)
        self._every = self._window_size if every is None else check_count("every", every, 1)
        self._main, self._other, self._prefix = main, other, prefix
        scalars = (main,) if other is None else (main, other)
        patterns = (*pauses, EPOCH_KEY, PASS_KEY)
        self._is_pause = matcher(patterns)
        hears = matcher((*scalars, *patterns))
        for name in names:
            if hears(prefix + name):
                raise ArgumentError(f"it would hear {prefix + name!r}, which it publishes; choose another prefix")
        self.keys: tuple[str | type[Event], ...] = (*scalars, *patterns, *_PAUSES)
        self._begin()

    def _begin(self) -> None:
        self._window: deque[list[float]] = deque(maxlen=self._window_size)
        self._since = 0  # steps since it last published
        self._step: int | None = None  # of the newest update
        self._entry: list[float] | None = None  # of that step, in the window or not
        self._first: list[float] | None = None  # the same, if it is the first after a pause and nothing was said of it
        self._waiting = 0.0  # what of the other scalar is for the update to come
        self._paused = True

    async def __call__(self, events: Subscription) -> None:
        self._begin()
        async for batch in events.batches():
            for event in batch:
                if not isinstance(event, ScalarUpdated) or event.key not in (self._main, self._other):
                    if isinstance(event, (EventsDropped, *_PAUSES)) or self._is_pause(event.key):
                        self._paused = True
                elif event.key == self._main:
                    self._publish_if_due(events)
                    self._take(event)
                else:
                    self._take_other(event)
            self._publish_if_due(events)

    def _take(self, event: ScalarUpdated) -> None:
        entry = self._measured(event)
        waiting, self._waiting = self._waiting, 0.0
        if entry is None:
            return
        entry.append(waiting)
        self._step, self._entry = event.step, entry
        paused, self._paused = self._paused, False
        if paused:
            self._first = entry
        else:
            self._window.append(entry)
            self._since += 1

    def _take_other(self, event: ScalarUpdated) -> None:
        value = self._measured_other(event)
        if self._entry is not None and event.step is not None and event.step == self._step:
            self._entry[-1] += value
        else:
            self._waiting += value

    def _publish_if_due(self, events: Subscription) -> None:
        """Publish, once all that belongs to the newest step has come."""
        values: list[tuple[str, float]] = []
        if self._first is not None:
            values += self._first_values(self._first)
            self._first = None
        if len(self._window) == self._window_size and self._since >= self._every:
            self._since = 0
            values += self._values()
        for name, value in values:
            events.update_scalar(self._prefix + name, value, step=self._step)

    @abstractmethod
    def _measured(self, event: ScalarUpdated) -> list[float] | None:
        """Return what to keep of a step; None if the event is none."""

    @abstractmethod
    def _measured_other(self, event: ScalarUpdated) -> float:
        """Return what the other scalar adds to its step; kept behind what ``_measured`` returned."""

    def _first_values(self, entry: list[float]) -> Iterator[tuple[str, float]]:
        """Yield what to publish of the first step after a pause, which is not in the window."""
        yield from ()

    @abstractmethod
    def _values(self) -> Iterator[tuple[str, float]]:
        """Yield what to publish of the window, which is full."""
