"""Checks in the order of their steps, though they come late.

A validation that runs elsewhere publishes its result with the ``step`` that it belongs to, when the run is further on.
With an allowed lateness, checks are held back until no other may come before them:

    ``200``, ``"200ba"``  until a check has come of a step more than 200 further on
    ``"2ep"``             until the runtime info ``epoch`` is more than 2 above the epoch of the check's step

or until the events end. An epoch begins with the step after the one at which the info was set, so what is of that very
step belongs to the epoch before.

Order: what comes within the lateness is handed on in the order of steps, with the epochs in their places between; of
    one step, in the order of arrival.
Late: a check that comes when others beyond it have been handed on, or might have been, is not handed on at all: it is
    published as a ``Decided`` with the verdict ``"late"``, and warned of once.
Memory: no more than ``MAX_HELD`` checks are held back; beyond that the first of them goes on early, warned of once.
Resume: what is held back is part of the state.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import Any

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.every import EPOCH_KEY
from asynchub.requests import Decided
from asynchub.subscribers.checks import check_key, epoch_of, mean_of
from asynchub.subscription import Subscription

__all__ = ("MAX_HELD", "StepOrder")

logger = logging.getLogger("asynchub")

MAX_HELD = 10_000
"""Checks and epochs that are held back at most."""
_CHECK, _EPOCH = 0, 1
_LATENESS = re.compile(r"(\d+)(ep|ba)")
_Held = tuple[int, int, int, Event]
"""Step, ``_CHECK`` or ``_EPOCH``, number of arrival, event: what is held back is ordered by the first three."""


class StepOrder:
    """Hand on the checks of one scalar, and the epochs, in the order of their steps.

    Args:
        monitor: key of the scalar.
        allowed_lateness: as the module says; None for the order of arrival.

    Attributes:
        needs_epochs: whether the runtime info ``epoch`` must be subscribed to.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: ``allowed_lateness`` is none of these.
    """

    state_fields: Mapping[str, tuple[type, ...]] = {"order": (dict, type(None))}
    absent: Mapping[str, Any] = {"order": None}

    def __init__(self, monitor: str, allowed_lateness: int | str | None = None) -> None:
        self._monitor = check_key("monitor", monitor)
        self._allowed, unit = _lateness_of(allowed_lateness)
        self.needs_epochs = unit == "ep"
        self._held: list[_Held] = []
        self._arrivals = 0
        self._newest: int | None = None  # largest step of a check
        self._passed: int | None = None  # that of the last check handed on
        self._begun: list[tuple[int, int]] = []  # at which step an epoch was set, as far back as it matters
        self._warned: set[str] = set()

    def take(self, event: Event, events: Subscription) -> Sequence[Event]:
        """Take one more event; return those whose turn has come.

        Args:
            event: any; one that is neither a check nor an epoch is handed on at once.
            events: where a check that is late is published.
        """
        if self._allowed is None:
            return [*self.rest(), event] if self._held else (event,)
        if isinstance(event, ScalarUpdated) and event.key == self._monitor:
            value = mean_of(event)
            if value is None:
                return ()
            step = self._newest or 0 if event.step is None else event.step
            if self._is_late(step):
                self._say_late(step, value, events)
                return ()
            self._hold(step, _CHECK, event)
            self._newest = step if self._newest is None else max(self._newest, step)
        elif (epoch := epoch_of(event)) is not None:
            step = self._newest or 0 if event.step is None else event.step
            if self.needs_epochs and (not self._begun or epoch > self._begun[-1][1]):
                self._begin(step, epoch)
            self._hold(step, _EPOCH, event)
        else:
            return (event,)
        return self._due(events.name)

    def rest(self) -> list[Event]:
        """Return what is still held back, and hold it no longer: the events have ended."""
        return self._let_go(len(self._held))

    def _hold(self, step: int, rank: int, event: Event) -> None:
        event = event if event.step == step else dataclasses.replace(event, step=step)
        insort(self._held, (step, rank, self._arrivals, event))
        self._arrivals += 1

    def _due(self, author: str) -> list[Event]:
        count = 0
        for step, rank, _, event in self._held:
            epoch = epoch_of(event) if rank == _EPOCH and self.needs_epochs else None
            if not (self._is_behind(step) if epoch is None else self._is_over(epoch)):
                break
            count += 1
        if len(self._held) - count > MAX_HELD:
            count = len(self._held) - MAX_HELD
            self._warn(
                "%s holds back %d checks of %r, which is too many: the first of them are decided on early; do their "
                "steps, or the epochs, go up?",
                author,
                MAX_HELD,
                self._monitor,
            )
        return self._let_go(count) if count else []

    def _let_go(self, count: int) -> list[Event]:
        due, self._held = self._held[:count], self._held[count:]
        self._passed = max((step for step, rank, _, _ in due if rank == _CHECK), default=self._passed)
        return [event for _, _, _, event in due]

    # --- what may still come

    def _is_late(self, step: int) -> bool:
        return self._is_behind(step) or (self._passed is not None and step < self._passed)

    def _is_behind(self, step: int) -> bool:
        """Tell whether what belongs to ``step`` can be handed on: no check before it is allowed to come any more."""
        if self.needs_epochs:
            return bool(self._begun) and self._is_over(self._epoch_at(step))
        return self._newest is not None and step + (self._allowed or 0) < self._newest

    def _is_over(self, epoch: int) -> bool:
        return epoch + (self._allowed or 0) < self._begun[-1][1]

    def _epoch_at(self, step: int) -> int:
        index = bisect_left(self._begun, step, key=lambda one: one[0])
        return self._begun[index - 1][1] if index else self._begun[0][1] - 1

    def _begin(self, step: int, epoch: int) -> None:
        if self._begun:
            step = max(step, self._begun[-1][0])
        self._begun.append((step, epoch))
        while len(self._begun) > 1 and self._is_over(self._begun[1][1]):
            del self._begun[0]

    # --- what is said

    def _say_late(self, step: int, value: float, events: Subscription) -> None:
        seen = f"epoch {self._begun[-1][1]}" if self.needs_epochs and self._begun else f"step {self._newest}"
        reason = f"{self._monitor} of step {step} came after {seen}: too late to be decided on in its place"
        decided = Decided(
            author=events.name, verdict="late", reason=reason, monitor=self._monitor, value=value, step=step
        )
        events.publish(decided)
        self._warn("%s: %s; give more allowed_lateness if it should be", events.name, reason)

    def _warn(self, text: str, *arguments: object) -> None:
        if text not in self._warned:
            self._warned.add(text)
            logger.warning(text, *arguments)

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return what is held back and what has been seen; nothing, if it is in no order but that of arrival."""
        if self._allowed is None and not self._held:
            return {"order": None}
        held = [_flat(rank, event) for _, rank, _, event in self._held]
        begun = [list(one) for one in self._begun]
        return {"order": {"held": held, "newest": self._newest, "passed": self._passed, "begun": begun}}

    def loadable(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``load`` takes of a state that ``take_state`` has looked at.

        Raises:
            StateDictError: what it holds is not what ``state_dict`` returned.
        """
        order = state["order"]
        if order is None:
            order = {"held": [], "newest": None, "passed": None, "begun": []}
        try:
            held = [self._unflat(number, one) for number, one in enumerate(order["held"])]
            begun = [(step, epoch) for step, epoch in order["begun"]]
            marks = [order["newest"], order["passed"]]
            if not all(type(one) is int for pair in begun for one in pair):
                raise TypeError(f"begun must be pairs of ints, got {begun!r}")
            if not all(mark is None or type(mark) is int for mark in marks):
                raise TypeError(f"newest and passed must be ints, got {marks!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise StateDictError(f"'order' is malformed ({error}), got {order!r:.80}") from error
        return {"_held": sorted(held), "_begun": begun, "_newest": marks[0], "_passed": marks[1]}

    def load(self, loadable: Mapping[str, Any]) -> None:
        """Go on from what ``loadable`` has returned."""
        self._held, self._begun = loadable["_held"], loadable["_begun"]
        self._newest, self._passed = loadable["_newest"], loadable["_passed"]
        self._arrivals = len(self._held)

    def _unflat(self, number: int, fields: Sequence[Any]) -> _Held:
        rank, step, value, time, seq = fields
        if [type(one) for one in (rank, step, seq)] != [int] * 3 or not all(
            type(one) in (int, float) for one in (value, time)
        ):
            raise TypeError(f"held must be numbers, got {fields!r}")
        if rank == _CHECK:
            return step, rank, number, ScalarUpdated(seq=seq, time=time, step=step, key=self._monitor, value=value)
        return step, rank, number, InfoUpdated(seq=seq, time=time, step=step, key=EPOCH_KEY, value=value)


def _flat(rank: int, event: Event) -> list[Any]:
    value = mean_of(event) if isinstance(event, ScalarUpdated) else epoch_of(event)
    return [rank, event.step, value, event.time, event.seq]


def _lateness_of(allowed_lateness: object) -> tuple[int | None, str]:
    if allowed_lateness is None:
        return None, ""
    if isinstance(allowed_lateness, str) and (match := _LATENESS.fullmatch(allowed_lateness)):
        return int(match[1]), match[2]
    if isinstance(allowed_lateness, int) and not isinstance(allowed_lateness, bool) and allowed_lateness >= 0:
        return allowed_lateness, "ba"
    raise ArgumentError(
        "allowed_lateness must be None, an int of at least 0 (steps) or e.g. '200ba' (steps), '2ep' (epochs), "
        f"got {allowed_lateness!r}"
    )
