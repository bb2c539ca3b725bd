"""An end that is known beforehand: so much time, a moment, so many steps or epochs.

Deterministic: ``Event.time``, ``Event.step`` and the runtime info ``epoch`` decide, never a clock; a recorded run stops
    at the same event again.
Explained: a limit is said once, at the first event, as a ``Decided`` whose ``best`` is where it lies and whose verdict
    is ``"step_limit"``, ``"epoch_limit"``, ``"time_limit"`` (seconds of training) or ``"deadline"`` (seconds since the
    epoch); and again only if a resumed run has another one. When it is reached, the verdict is ``"stop"``.
Resume: training time goes on where it was saved; what lies between the saved state and its loading does not count. A
    limit that was reached when the state was saved asks again at the next event.
Threads: none of their own; they run inside of settle points.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.every import EPOCH_KEY
from asynchub.requests import Decided, Paused, PauseEnded, StopRequested
from asynchub.subscribers.checks import check_count, check_key, check_number, epoch_of, mean_of, take_state
from asynchub.subscription import Subscription

__all__ = ("MaxSteps", "Timer", "TrainingTime", "seconds_of")

Limits = dict[str, float]
"""Where limits lie, by the verdict that says so."""
FAR = 2.0**53
"""A limit that lies there or beyond is none, and is not said."""
_CLOCK = re.compile(r"(\d+):(\d+):(\d+):(\d+)")


def seconds_of(name: str, value: object) -> float:
    """Return the seconds that ``value`` says: a number, a ``timedelta``, or ``"DD:HH:MM:SS"`` as Lightning has it.

    Raises:
        ArgumentError: it is none of these, is below 0, or has more than 23 hours, 59 minutes or 59 seconds.
    """
    if isinstance(value, timedelta):
        return check_number(name, value.total_seconds(), 0)
    if not isinstance(value, str):
        return check_number(name, value, 0)
    match = _CLOCK.fullmatch(value)
    days, hours, minutes, seconds = map(int, match.groups()) if match else (0, 24, 0, 0)
    if hours > 23 or minutes > 59 or seconds > 59:
        raise ArgumentError(
            f"{name} must be seconds, a timedelta or 'DD:HH:MM:SS' with at most 23:59:59 after the days, e.g. "
            f"'00:12:00:00' for twelve hours, got {value!r}"
        )
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


class TrainingTime:
    """Seconds of training, told by the times of events.

    It runs from the first event on. It stands still between the newest event of a saved state and the loading of that
    state; events that were published before the loading, and are handed out again after it, count as ever. While the
    training loop is paused it stands still, too.

    Attributes:
        elapsed: seconds so far.
        last: time of the newest event (s since the epoch); None before the first, and after ``rest``.
        paused: whether the training loop waits because somebody asked for that; whoever knows sets it.
    """

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.last: float | None = None
        self.paused = False
        self._loaded = math.inf  # when a state was loaded, until an event from after that has come

    def see(self, time: float) -> float:
        """Take an event's time into account; return ``elapsed``. A clock that was set back costs nothing."""
        if not math.isfinite(time):
            return self.elapsed
        since = self.last
        if since is not None and time >= self._loaded:
            since, self._loaded = max(since, self._loaded), math.inf
            self.paused = False  # it was another program that waited
        if since is not None and time > since and not self.paused:
            self.elapsed += time - since
        self.last = time
        return self.elapsed

    def rest(self) -> None:
        """Stand still until the next event."""
        self.last, self.paused = None, False

    def state_dict(self) -> dict[str, Any]:
        """Return where it is."""
        return {"elapsed": self.elapsed, "last": self.last, "paused": self.paused}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        fields = {"elapsed": (int, float), "last": (int, float, type(None)), "paused": (bool,)}
        taken = take_state(state, fields, "TrainingTime", {"paused": False})
        if not all(one is None or math.isfinite(one) for one in taken.values()) or taken["elapsed"] < 0:
            raise StateDictError(f"'elapsed' and 'last' must be finite, and 'elapsed' not below 0, got {taken!r}")
        self.elapsed, self.last, self.paused = float(taken["elapsed"]), taken["last"], taken["paused"]
        self._loaded = time.time()


class Timer:
    """Request a stop when the run has trained for ``duration``, or when it is ``until`` some moment.

    Give ``duration`` for a budget of training time, over all resumes; ``until`` for the end of a job, which comes
    however long this process has trained. Either way it acts ``margin`` early, at the first settle point from then on.

    Args:
        duration: seconds, a ``timedelta``, or ``"DD:HH:MM:SS"``; None for no budget. Counted from the first event, but
            for pauses (if it gets ``Paused`` and ``PauseEnded``).
        until: seconds since the epoch, or a ``datetime`` (local time if it names no zone); None for no such moment.
        margin: how much earlier to ask, in the forms of ``duration``: room for the step under way and the last
            checkpoint.

    Attributes:
        elapsed: seconds of training so far.

    Raises:
        ArgumentError: an argument is of a wrong form, both limits are missing, or nothing of ``duration`` is left after
            ``margin``.
    """

    role = "control"
    keys: tuple[str | type[Event], ...] = (ScalarUpdated, InfoUpdated, Paused, PauseEnded)

    def __init__(
        self,
        duration: float | str | timedelta | None = None,
        *,
        until: float | datetime | None = None,
        margin: float | str | timedelta = 0.0,
    ) -> None:
        if duration is None and until is None:
            raise ArgumentError("Timer needs a duration, e.g. '00:12:00:00', or the moment until= which to train")
        self._margin = seconds_of("margin", margin)
        self._duration = math.inf if duration is None else seconds_of("duration", duration)
        if self._duration <= self._margin:
            raise ArgumentError(f"duration must be above margin, or nothing is left, got {duration!r} and {margin!r}")
        moment = until.timestamp() if isinstance(until, datetime) else until
        self._until = math.inf if moment is None else check_number("until", moment)
        self._clock = TrainingTime()
        self._said: Limits = {}

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, those before resumes included."""
        return self._clock.elapsed

    @property
    def remaining(self) -> float:
        """Seconds from the newest event until it asks, then 0; before any event, ``until`` is left out."""
        left = self._duration - self._clock.elapsed
        if self._clock.last is not None:
            left = min(left, self._until - self._clock.last)
        return max(left - self._margin, 0.0)

    async def __call__(self, events: Subscription) -> None:
        asked = False  # once in a life: a run that goes on after a resume is to hear it again
        try:
            async for event in events:
                self._clock.see(event.time)
                if isinstance(event, Paused | PauseEnded):
                    self._clock.paused = isinstance(event, Paused)
                self._say(events)
                if not asked and self.remaining <= 0:
                    asked = True
                    _stop(events, self._reason())
        finally:
            self._clock.rest()  # what lies before the hub is entered again is no training

    def _say(self, events: Subscription) -> None:
        limits = {"time_limit": self._duration - self._margin, "deadline": self._until - self._margin}
        limits = {verdict: at for verdict, at in limits.items() if at < FAR}
        if limits == self._said:
            return
        self._said = limits
        if "time_limit" in limits:
            why = f"stops when it has trained for {_clock_text(self._duration)}{self._early()}"
            events.publish(_limit(events, "time_limit", limits["time_limit"], why, self._clock.elapsed))
        if "deadline" in limits:
            why = f"stops at {_moment_text(self._until)}{self._early()}"
            events.publish(_limit(events, "deadline", limits["deadline"], why))

    def _early(self) -> str:
        return f", {_clock_text(self._margin)} before it" if self._margin else ""

    def _reason(self) -> str:
        if self._duration - self._clock.elapsed <= self._margin:
            return f"trained for {_clock_text(self._clock.elapsed)} of {_clock_text(self._duration)}{self._early()}"
        return f"time is up at {_moment_text(self._until)}{self._early()}"

    def state_dict(self) -> dict[str, Any]:
        """Return the training time so far, and the limits that were said."""
        return {**self._clock.state_dict(), "said": dict(self._said)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        said = _said_in(state, "Timer")
        self._clock.load_state_dict(state)
        self._said = said


class MaxSteps:
    """Request a stop when the run has reached a step or an epoch.

    Args:
        max_steps: ask at the first event of this step or a later one; None for no such limit.
        max_epochs: ask when so many epochs are done; None for no such limit. The runtime info ``epoch`` is taken as the
            number of epochs done, which it is in a program that counts from 0, or settles only as an epoch ends.
        on: key of a scalar that is published once as each epoch ends, e.g. ``"val/loss"``: its updates are counted as
            epochs, and ``epoch`` is not looked at. For a program that counts from 1 and settles amid its epochs.

    Raises:
        PatternError: ``on`` is not a key.
        ArgumentError: an argument is no int above 0, both limits are missing, or ``on`` comes without ``max_epochs``.
    """

    role = "control"

    def __init__(self, max_steps: int | None = None, *, max_epochs: int | None = None, on: str | None = None) -> None:
        if max_steps is None and max_epochs is None:
            raise ArgumentError("MaxSteps needs max_steps or max_epochs: how far the run may go")
        if on is not None and max_epochs is None:
            raise ArgumentError(f"on={on!r} counts epochs: give max_epochs, or leave it out")
        self._max_steps = None if max_steps is None else check_count("max_steps", max_steps, 1)
        self._max_epochs = None if max_epochs is None else check_count("max_epochs", max_epochs, 1)
        self._on = None if on is None else check_key("on", on)
        self._epochs = 0
        self._said: Limits = {}
        keys: list[str | type[Event]] = [] if max_steps is None else [ScalarUpdated, InfoUpdated]
        if not keys:
            keys.append(EPOCH_KEY if self._on is None else self._on)
        self.keys: tuple[str | type[Event], ...] = tuple(keys)

    async def __call__(self, events: Subscription) -> None:
        asked = False  # once in a life, as Timer
        async for event in events:
            self._count(event)
            self._say(events)
            reason = "" if asked else self._reason(event)
            if reason:
                asked = True
                _stop(events, reason)

    def _count(self, event: Event) -> None:
        if self._on is None:
            epoch = epoch_of(event)
            self._epochs = self._epochs if epoch is None else epoch
        elif isinstance(event, ScalarUpdated) and event.key == self._on and mean_of(event) is not None:
            self._epochs += 1

    def _say(self, events: Subscription) -> None:
        given = {"step_limit": self._max_steps, "epoch_limit": self._max_epochs}
        limits = {verdict: float(at) for verdict, at in given.items() if at is not None and at < FAR}
        if limits == self._said:
            return
        self._said = limits
        if "step_limit" in limits:
            events.publish(_limit(events, "step_limit", limits["step_limit"], f"stops at step {self._max_steps}"))
        if "epoch_limit" in limits:
            counted = "" if self._on is None else f", counted by {self._on}"
            why = f"stops when {self._max_epochs} epoch{'s are' if self._max_epochs != 1 else ' is'} done{counted}"
            value = float(self._epochs) if self._on is None else None
            events.publish(_limit(events, "epoch_limit", limits["epoch_limit"], why, value))

    def _reason(self, event: Event) -> str:
        if self._max_steps is not None and event.step is not None and event.step >= self._max_steps:
            return f"step {event.step} of {self._max_steps} is reached"
        if self._max_epochs is not None and self._epochs >= self._max_epochs:
            return f"epoch {self._epochs} of {self._max_epochs} is reached"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs so far, and the limits that were said."""
        return {"epochs": self._epochs, "said": dict(self._said)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        said = _said_in(state, "MaxSteps")
        self._epochs = take_state(state, {"epochs": (int,)}, "MaxSteps")["epochs"]
        self._said = said


def _said_in(state: object, whose: str) -> Limits:
    """Return the limits that were said, as a state has them; none, as one of an earlier version.

    Raises:
        StateDictError: they are none.
    """
    said: Limits = dict(take_state(state, {"said": (Mapping,)}, whose, {"said": {}})["said"])
    if not all(isinstance(name, str) and type(at) in (int, float) and math.isfinite(at) for name, at in said.items()):
        raise StateDictError(f"'said' in the state of {whose} must be finite numbers by verdict, got {said!r:.80}")
    return said


def _limit(events: Subscription, verdict: str, at: float, why: str, value: float | None = None) -> Decided:
    return Decided(author=events.name, verdict=verdict, reason=why, value=value, best=at)


def _stop(events: Subscription, reason: str) -> None:
    events.publish(Decided(author=events.name, verdict="stop", reason=reason))
    events.request(StopRequested(reason=reason))


def _moment_text(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment).astimezone().isoformat(" ", "seconds")
    except (OverflowError, OSError, ValueError):  # beyond what a calendar has
        return f"{moment:g} s since 1970"


def _clock_text(seconds: float) -> str:
    """Return ``seconds`` as people read them: ``1 d 02:03:04``, ``02:03:04`` or ``4.2 s``."""
    if seconds < 60:
        return f"{seconds:g} s" if seconds == round(seconds) else f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hours:02}:{minutes:02}:{rest:02}"
