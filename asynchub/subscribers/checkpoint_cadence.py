"""How often a checkpoint is due: by steps, epochs or time, as far as what it costs allows.

Paid: after a checkpoint that took ``c`` seconds the next is due ``c / max_overhead`` seconds after it began at the
    earliest; one that is written meanwhile for another reason is paid for, too. So what was due has never taken more
    than that share of the time up to the next one.
Paused: while the training loop waits because somebody asked for that, no time passes.
Replay: steps, epochs and the times of events decide; what a checkpoint costs is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from asynchub.errors import ArgumentError, ScheduleError, StateDictError
from asynchub.events import Event
from asynchub.every import Every
from asynchub.requests import Paused, PauseEnded
from asynchub.subscribers.checks import check_number, epoch_of, take_state
from asynchub.subscribers.limits import TrainingTime, seconds_of

__all__ = ("CheckpointCadence",)

_NUMBER = (int, float)


class CheckpointCadence:
    """When a checkpoint is due.

    Args:
        every: an int or ``"100ba"`` (steps), ``"1ep"``, ``"600s"`` or a ``timedelta``; None for no rate.
        max_overhead: share of the time that checkpoints may take; None for any.
        mtbf: mean time between failures, as ``seconds_of`` takes it; None if that does not matter.

    Attributes:
        time: the time of training.
        by_steps_or_time: whether it must see every event.

    Raises:
        ScheduleError: ``every`` is malformed.
        ArgumentError: another argument is of a wrong type or out of range.
    """

    state_fields: Mapping[str, tuple[type, ...]] = {
        "time": (dict,),
        "unit": (str,),
        "position": _NUMBER,
        "crossed": (bool,),
        "told": (bool,),
        "cost": (*_NUMBER, type(None)),
        "paid_at": _NUMBER,
        "due_at": _NUMBER,
    }

    def __init__(
        self, every: int | str | timedelta | None, max_overhead: float | None, mtbf: float | str | timedelta | None
    ) -> None:
        self._unit, self._n = _rate_of(every)
        self._share = None if max_overhead is None else check_number("max_overhead", max_overhead, 0)
        if self._share is not None and not 0 < self._share < 1:
            raise ArgumentError(f"max_overhead must be a share above 0 and below 1, e.g. 0.01, got {max_overhead!r}")
        self._mtbf = None if mtbf is None else seconds_of("mtbf", mtbf)
        if self._mtbf == 0:
            raise ArgumentError("mtbf must be above 0 s, got 0")
        self._limited = self._share is not None or self._mtbf is not None
        self.by_steps_or_time = self._unit in ("ba", "s") or self._limited
        self.time = TrainingTime()
        self._position: float = 0  # of the newest event, in the unit of the rate; of the newest boundary, if in seconds
        self._crossed = False  # whether a boundary was crossed since the last checkpoint
        self._told = False  # whether it was said that it has to wait
        self._cost: float | None = None
        self._paid_at = 0.0  # when all checkpoints so far are paid for, in seconds of training
        self._due_at = 0.0  # when the next may be due
        self._began = 0.0  # of the newest,
        self._paid_before = 0.0  # and when those before it were paid for

    @property
    def interval(self) -> float | None:
        """Seconds that the last one's cost wants between the beginnings of two; None if nothing does."""
        if self._cost is None or not self._limited:
            return None
        return max(self._cost / self._share if self._share else 0.0, self._until_failure(self._cost))

    def _until_failure(self, cost: float) -> float:
        return 0.0 if self._mtbf is None else cost + math.sqrt(2 * cost * self._mtbf)

    def see(self, event: Event) -> None:
        """Take an event into account."""
        elapsed = self.time.see(event.time)
        if isinstance(event, Paused | PauseEnded):
            self.time.paused = isinstance(event, Paused)
            return
        if self._unit == "s":
            passed = max((elapsed - self._position) // self._n, 0.0)
            self._position += passed * self._n
            self._crossed = self._crossed or passed > 0
        elif self._unit:
            position = event.step if self._unit == "ba" else epoch_of(event)
            if position is not None:
                self._crossed = self._crossed or position // self._n > self._position // self._n
                self._position = position

    def due(self) -> tuple[bool, str]:
        """Return whether one is due, and why; or why not, if it would be, once for each that has to wait."""
        if not (self._crossed if self._unit else self._limited):
            return False, ""
        if self.time.elapsed >= self._due_at:
            return True, self._reason()
        if not self._unit or self._told:
            return False, ""
        self._told = True
        wait = self._due_at - self.time.elapsed
        return False, f"{self._reason()}, which must wait {wait:.3g} s, as the last took {self._cost:.3g} s"

    def _reason(self) -> str:
        match self._unit:
            case "ba":
                return f"step {self._position:.0f}, one every {_several(self._n, 'step')}"
            case "ep":
                return f"epoch {self._position:.0f}, one every {_several(self._n, 'epoch')}"
            case "s":
                return f"{self.time.elapsed:.6g} s of training, one every {self._n:g} s"
        if self._cost is None:
            return "the first, to learn what one costs"
        return f"the last took {self._cost:.3g} s, and {self.interval:.3g} s have passed"

    def begin(self) -> None:
        """Say that one is being written; until ``finish``, it is taken to cost what the last one did."""
        self._crossed = self._told = False
        self._began = self.time.elapsed
        self._paid_before = self._paid_at
        if self._cost is not None:
            self._pay(self._cost)

    def finish(self, seconds: float) -> None:
        """Say that it was written, and took ``seconds``."""
        self._cost = seconds
        self._pay(seconds)

    def _pay(self, cost: float) -> None:
        if self._share is not None:
            self._paid_at = max(self._paid_before, self._began) + cost / self._share
        if self._limited:
            self._due_at = max(self._paid_at, self._began + self._until_failure(cost))

    def abandon(self) -> None:
        """Say that it was not written: the next turn may try again."""
        self._crossed = True
        self._paid_at = self._paid_before
        self._due_at = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return how far it has come."""
        return {
            "time": self.time.state_dict(),
            "unit": self._unit,
            "position": self._position,
            "crossed": self._crossed,
            "told": self._told,
            "cost": self._cost,
            "paid_at": self._paid_at,
            "due_at": self._due_at,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved; a position in another unit than ``every`` has is left out.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        taken = take_state(state, self.state_fields, "CheckpointCadence")
        numbers = [taken[name] for name in ("position", "cost", "paid_at", "due_at") if taken[name] is not None]
        if not all(math.isfinite(number) for number in numbers):
            raise StateDictError(f"the numbers of a CheckpointCadence must be finite, got {numbers!r}")
        self.time.load_state_dict(taken["time"])
        self._position = taken["position"]
        if taken["unit"] != self._unit:
            self._position = self.time.elapsed if self._unit == "s" else 0
        self._crossed, self._told = taken["crossed"], taken["told"]
        self._cost, self._paid_at, self._due_at = taken["cost"], taken["paid_at"], taken["due_at"]


def _several(n: float, what: str) -> str:
    return what if n == 1 else f"{n:.0f} {what}s"


def _rate_of(every: object) -> tuple[str, float]:
    """Return unit and number of a rate; ``""`` and 0 for none."""
    if every is None:
        return "", 0
    if isinstance(every, timedelta):
        if every.total_seconds() <= 0:
            raise ScheduleError(every)
        return "s", every.total_seconds()
    if isinstance(every, str):
        unit = Every(every).unit
        return unit, float(every.removesuffix(unit))
    if isinstance(every, int) and not isinstance(every, bool) and every > 0:
        return "ba", every
    raise ScheduleError(every)
