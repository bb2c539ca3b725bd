"""Several runs that are compared with each other, and what the rules that compare them share.

Deterministic: decisions follow from the reports and their order, and from nothing else.
Resume: each hub saves what its own trial has reported. Loading it puts the trial, by its name, back into the group as
    it was then, however often it is loaded; the others stay as they are.
Threads: rules of one group may report at once; the group takes one report at a time.
"""

from __future__ import annotations

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import ScalarUpdated
from asynchub.requests import Decided, StopRequested
from asynchub.subscribers.checks import Mode, check_key, mean_of, take_state
from asynchub.subscription import Subscription

__all__ = ("Decision", "TrialGroup", "TrialRule", "Unit", "pairs_of")

logger = logging.getLogger("asynchub")
Unit = Literal["check", "step"]
"""What resources are counted in: checks of the monitored scalar, or steps of its events."""


@dataclass(slots=True)
class _Contest:
    """The rules of one kind that watch one key.

    Attributes:
        terms: what all of them must agree on.
        rules: they, by the name of their trial.
    """

    terms: dict[str, Any]
    rules: dict[str, TrialRule] = field(default_factory=dict)


class TrialGroup:
    """The runs that are compared with each other. Any thread.

    A rule competes with those of its own kind and ``monitor``. They must agree on what is compared: on ``mode`` and
    ``unit``, and for ``ASHA`` on the whole schedule.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._contests: dict[tuple[type, str], _Contest] = {}

    @property
    def trials(self) -> tuple[str, ...]:
        """The names of the trials, in the order in which they joined."""
        with self._lock:
            return tuple(dict.fromkeys(name for one in self._contests.values() for name in one.rules))

    def _join(self, rule: TrialRule, name: str | None, terms: dict[str, Any]) -> tuple[_Contest, str, int]:
        """Return the contest of a rule that joins, the name of its trial, and how many joined before that."""
        with self._lock:
            key = type(rule), rule.monitor
            contest = self._contests.get(key) or _Contest(terms)
            if contest.terms != terms:
                was, now = (", ".join(f"{name}={one[name]!r}" for name in terms) for one in (contest.terms, terms))
                raise ArgumentError(
                    f"{type(rule).__name__} of one group must agree: the first for {rule.monitor!r} has {was}, "
                    f"got {now}; use another TrialGroup"
                )
            number = len(contest.rules) + 1
            while name is None:
                name = None if f"trial {number}" in contest.rules else f"trial {number}"
                number += 1
            contest.rules[name] = rule  # a trial that is run anew begins anew
            self._contests[key] = contest
            return contest, name, list(contest.rules).index(name)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a report led to.

    Attributes:
        verdict: the decision in a word.
        reason: why, for people.
        bar: the value that it was compared with, if any.
        stop: whether the run is to end.
    """

    verdict: str
    reason: str
    bar: float | None = None
    stop: bool = False


class TrialRule(ABC):
    """What ``MedianStopping`` and ``ASHA`` share: one trial's reports to a group, and what follows from them.

    A report is one update of ``monitor`` whose ``t`` is above that of the one before; its value is the mean
    ``value / count``. An update over no samples is none. After the request to stop nothing more is reported.

    Args:
        group: shared by the rules of all runs.
        monitor: key of the scalar.
        trial: name of the run, by which it takes its place again when it is resumed; by default ``"trial 1"`` and so
            on, in the order in which the rules were made. The newest rule of a name stands for it.
        mode: ``"min"`` or ``"max"``: which values are better.
        unit: what ``t`` counts: ``"check"``, updates of ``monitor``, from 1; ``"step"``, steps of their events.
        terms: further arguments that all rules of the group must agree on.

    Attributes:
        monitor: as given.
        trial: the name.
        t: that of the newest report; None before the first.
        best: best finite value so far; None before the first.
        stopped: whether it has asked for the end of the run.
        reason: why; empty before.
    """

    role = "control"
    _fields: ClassVar[dict[str, tuple[type, ...]]] = {
        "checks": (int,),
        "t": (int, type(None)),
        "best": (int, float, type(None)),
        "stopped": (bool,),
        "reason": (str,),
        "ended": (bool,),
    }

    def __init__(
        self, group: TrialGroup, monitor: str, trial: str | None, mode: Mode, unit: Unit, terms: dict[str, Any]
    ) -> None:
        if not isinstance(group, TrialGroup):
            raise ArgumentError(f"group must be a TrialGroup that all runs share, got {group!r:.80}")
        if trial is not None and (not isinstance(trial, str) or not trial):
            raise ArgumentError(f"trial must be a non-empty str, or None, got {trial!r}")
        if mode not in ("min", "max"):
            raise ArgumentError(f"mode must be 'min' or 'max', got {mode!r}")
        if unit not in ("check", "step"):
            raise ArgumentError(f"unit must be 'check' or 'step', got {unit!r}")
        self.monitor = check_key("monitor", monitor)
        self.keys = (self.monitor,)
        self._unit = unit
        self._sign = 1.0 if mode == "min" else -1.0  # inside, smaller is better
        self._group = group
        self._checks = 0
        self._warned = False
        self.t: int | None = None
        self.best: float | None = None
        self.stopped = False
        self.reason = ""
        self._ended = False  # its run is over
        self._contest, self.trial, self._number = group._join(self, trial, {"mode": mode, "unit": unit, **terms})

    async def __call__(self, events: Subscription) -> None:
        asked = False  # once in a life: a run that goes on after a resume is to hear it again
        self._ended = False
        try:
            async for event in events:
                if not isinstance(event, ScalarUpdated) or event.key != self.monitor:
                    continue
                value = mean_of(event)
                if value is None:
                    continue
                decision = None if self.stopped else self.check(value, event.step)
                if decision is not None:
                    events.publish(
                        Decided(
                            author=events.name,
                            verdict=decision.verdict,
                            reason=decision.reason,
                            monitor=self.monitor,
                            value=value,
                            best=decision.bar,
                        )
                    )
                if self.stopped and not asked:
                    asked = True
                    events.request(StopRequested(reason=self.reason))
        finally:
            with self._group._lock:
                self._ended = True

    def check(self, value: float, step: int | None = None) -> Decision | None:
        """Report the value of one more check to the group; return the decision, or None if none was due.

        Raises:
            ArgumentError: another rule has taken the name of this trial.
        """
        with self._group._lock:
            if self._contest.rules.get(self.trial) is not self:
                raise ArgumentError(
                    f"{self.trial!r} is the name of another rule by now; give each run of a TrialGroup its own trial="
                )
            self._checks += 1
            t = self._checks if self._unit == "check" else step
            if t is None or t < 0 or (self.t is not None and t <= self.t):
                if not self._warned:
                    self._warned = True
                    logger.warning("%s of %r goes by rising steps, got %s after %s", self, self.monitor, t, self.t)
                return None
            self.t = t
            if math.isfinite(value) and (self.best is None or self._sign * value < self._sign * self.best):
                self.best = value
            decision = self._decide(t, self._sign * value)
            if decision is not None and decision.stop:
                self.stopped, self.reason = True, decision.reason
            return decision

    @abstractmethod
    def _decide(self, t: int, score: float) -> Decision | None:
        """Take a report into account, the group's lock held, and return what follows; smaller scores are better."""

    def _rules(self) -> list[Any]:
        """Return the rules of its contest, this one too; they are all of this class."""
        return list(self._contest.rules.values())

    def _at(self, t: float) -> str:
        return f"{t:g} check{'' if t == 1 else 's'}" if self._unit == "check" else f"step {t:g}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.trial!r}>"

    def state_dict(self) -> dict[str, Any]:
        """Return what this trial has reported, and what was decided; no arguments, and nothing of other trials."""
        with self._group._lock:
            own = {"checks": self._checks, "t": self.t, "best": self.best, "ended": self._ended}
            return own | {"stopped": self.stopped, "reason": self.reason} | self._own_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put this trial back into its group as it was when ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        name = type(self).__name__
        taken = take_state(state, {**TrialRule._fields, **self._fields}, name)
        with self._group._lock:
            self._take_own(taken)
            self._checks, self.t, self.best = taken["checks"], taken["t"], taken["best"]
            self.stopped, self.reason, self._ended = taken["stopped"], taken["reason"], taken["ended"]

    @abstractmethod
    def _own_state(self) -> dict[str, Any]:
        """Return the rest of the state."""

    @abstractmethod
    def _take_own(self, state: dict[str, Any]) -> None:
        """Take the rest of a state whose types were looked at, whole or, raising, not at all."""


def pairs_of(name: str, value: list[Any]) -> list[tuple[float, float]]:
    """Return a list of pairs of numbers, the first of each rising.

    Raises:
        StateDictError: it is not one.
    """
    pairs = [tuple(one) for one in value if isinstance(one, (list, tuple)) and len(one) == 2]
    numbers = all(type(one) in (int, float) for pair in pairs for one in pair)
    if len(pairs) < len(value) or not numbers or any(a[0] >= b[0] for a, b in pairwise(pairs)):
        raise StateDictError(f"{name!r} must be a list of pairs of numbers, the first ones rising, got {value!r:.80}")
    return [(first, second) for first, second in pairs]
