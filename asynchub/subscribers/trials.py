"""Rules over several runs: a run is asked to stop when it does worse than the others.

The runs are hubs of one process, in threads or in loops that take turns. Each has a rule of its own, and the rules of
all of them share a ``TrialGroup``::

    group = TrialGroup()
    for number, hub in enumerate(hubs):
        hub.attach(ASHA(group, "val/loss", trial=f"run {number}", max_t=81, reduction_factor=3))

Deterministic: decisions follow from the reports and their order, and from nothing else.
Not finite: a value that is not finite is never the best, is in no average, and is never promoted.
Resume: see ``asynchub.subscribers.trial_group``. A run that had been asked to stop is asked again at its next check.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from typing import Any, ClassVar, Literal

from asynchub.errors import ArgumentError, StateDictError
from asynchub.subscribers.checks import Mode, check_count, check_number
from asynchub.subscribers.trial_group import Decision, TrialGroup, TrialRule, Unit, pairs_of

__all__ = ("ASHA", "MedianStopping")

_SCALE = 2.0**-64
"""Values are summed up in this unit, which costs no digit, so that no sum of finite values is infinite."""


class MedianStopping(TrialRule):
    """Request a stop when the best value of a run is worse than the median of what others had on average by then.

    At a report, with ``o_i`` the mean of the values that trial ``i`` reported up to ``t``: stop if the best value of
    this trial is strictly worse than the median of the ``o_i`` of the other trials that have got to ``t``. Here ``t``
    is that of the report or, if fewer than ``min_samples_required`` others have got there, the last one that so many
    have: of runs that go side by side, the first to report is judged by where the others are. A trial without a finite
    value counts as worse than any with one, here as there.

    A ``Decided`` follows each report: its verdict is ``"waiting"`` (too early, or too few trials), ``"continue"`` or
    ``"stop"``, its ``best`` the median.

    Args:
        group: shared by the rules of all runs.
        monitor: key of the scalar.
        trial: name of the run, by which it takes its place again when it is resumed; by default ``"trial 1"`` and so
            on, in the order in which the rules were made.
        mode: ``"min"`` or ``"max"``: which values are better.
        grace_period: the first ``t`` that is compared at.
        min_samples_required: how many other trials the median must be of.
        against: which others: ``"reached"``, those that have got to ``t``, running or not; ``"completed"``, those whose
            run has ended by itself, however far; ``t`` is that of the report then.
        unit: what ``t`` and ``grace_period`` count: ``"check"``, updates of ``monitor``, from 1; ``"step"``, steps of
            their events.

    Attributes:
        monitor: as given.
        trial: the name.
        t: that of the newest report; None before the first.
        best: best finite value so far; None before the first.
        stopped: whether it has asked for the end of the run.
        reason: why; empty before.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range, or ``mode`` or ``unit`` not that of the
            other rules of the group.

    Source:
        Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, section 3.2.2: the rule, with
        ``against="completed"``. Ray Tune 2.60, ``MedianStoppingRule``: ``"reached"`` and ``min_samples_required``; its
        averages leave out the grace period, and it compares at the ``t`` of the report only.
    """

    _fields: ClassVar[dict[str, tuple[type, ...]]] = {"reports": (list,)}

    def __init__(
        self,
        group: TrialGroup,
        monitor: str,
        *,
        trial: str | None = None,
        mode: Mode = "min",
        grace_period: int = 5,
        min_samples_required: int = 3,
        against: Literal["reached", "completed"] = "reached",
        unit: Unit = "check",
    ) -> None:
        if against not in ("reached", "completed"):
            raise ArgumentError(f"against must be 'reached' or 'completed', got {against!r}")
        self._grace_period = check_count("grace_period", grace_period)
        self._min_samples = check_count("min_samples_required", min_samples_required, 1)
        self._against = against
        self._clear()
        super().__init__(group, monitor, trial, mode, unit, {})

    def _clear(self) -> None:
        self._ts: list[int] = []
        self._scores: list[float] = []
        self._sums: list[tuple[float, int]] = [(0.0, 0)]  # of the first n scores that are finite, and how many

    def _decide(self, t: int, score: float) -> Decision:
        self._add(t, score)
        if t < self._grace_period:
            return Decision("waiting", f"before {self._at(self._grace_period)} nothing is compared")
        others, at = self._compared(t)
        known = f"{len(others)} other trial{'' if len(others) == 1 else 's'}"
        if len(others) < self._min_samples:
            return Decision("waiting", f"{known} to compare with, and {self._min_samples} are wanted")
        means = [rule._mean_at(at) for rule in others]
        low, high = statistics.median_low(means), statistics.median_high(means)
        median = self._sign * (low / 2 + high / 2)  # halved first: a sum could overflow
        best = self._sign * math.inf if self.best is None else self.best
        had = f"the best {self.monitor} by {self._at(t)} is {best:.6g}"
        against = f"the median {median:.6g} of what {known} had on average by {self._at(at)}"
        if self._sign * best > self._sign * median:
            return Decision("stop", f"{had}, worse than {against}", median, stop=True)
        return Decision("continue", f"{had}, not worse than {against}", median)

    def _compared(self, t: int) -> tuple[list[MedianStopping], int]:
        """Return the trials that one at ``t`` is compared with, and the ``t`` at which it is."""
        rules = [rule for rule in self._rules() if rule is not self and rule._ts]
        if self._against == "completed":
            return [rule for rule in rules if rule._ended and not rule.stopped and rule._ts[0] <= t], t
        reached = sorted((min(rule._ts[-1], t) for rule in rules), reverse=True)
        at = reached[self._min_samples - 1] if len(reached) >= self._min_samples else 0
        at = max(at, self._grace_period)
        return [rule for rule in rules if rule._ts[0] <= at <= rule._ts[-1]], at

    def _add(self, t: int, score: float) -> None:
        total, count = self._sums[-1]
        self._ts.append(t)
        self._scores.append(score)
        self._sums.append((total + score * _SCALE, count + 1) if math.isfinite(score) else (total, count))

    def _mean_at(self, t: int) -> float:
        total, count = self._sums[bisect_right(self._ts, t)]
        return total / count / _SCALE if count else math.inf

    def _own_state(self) -> dict[str, Any]:
        return {"reports": [[t, self._sign * score] for t, score in zip(self._ts, self._scores, strict=True)]}

    def _take_own(self, state: dict[str, Any]) -> None:
        reports = pairs_of("reports", state["reports"])
        self._clear()
        for t, value in reports:
            self._add(int(t), self._sign * value)


class ASHA(TrialRule):
    """Asynchronous successive halving: at each rung, request a stop unless the run is among the best ``1/η`` there.

    With ``r`` the ``grace_period``, ``η`` the ``reduction_factor`` and ``s`` the bracket of the trial, its rungs are at
    ``t = r·η^(s+k)`` for ``k = 0, 1, …``, as far as they are below ``max_t``. The first value at or beyond a rung
    counts there. Of the ``n`` trials that have got to a rung so far, this one included, the best ``max(⌊n/η⌋, 1)`` are
    promoted, ties too; the others are stopped. Nobody waits for others to come, so the first at a rung goes on. A value
    that is not finite is not promoted, and is not one of the ``n``.

    A ``Decided`` follows at each rung: its verdict is ``"promoted"`` or ``"stop"``, its ``best`` the worst value that
    is promoted; at ``max_t`` it is ``"finished"``, and a stop is requested, too.

    Args:
        group: shared by the rules of all runs.
        monitor: key of the scalar.
        trial: name of the run, by which it takes its place again when it is resumed; by default ``"trial 1"`` and so
            on, in the order in which the rules were made.
        mode: ``"min"`` or ``"max"``: which values are better.
        max_t: the ``t`` at which a run is finished; above ``grace_period``.
        grace_period: the ``t`` of the first rung of bracket 0; at least 1.
        reduction_factor: ``η``; at least 2.
        brackets: how many there are. Trials go into them by turns, in the order in which their rules were made: the
            first into bracket 0, which stops earliest. Only trials of one bracket compete.
        unit: what ``t`` counts: ``"check"``, updates of ``monitor``, from 1; ``"step"``, steps of their events.

    Attributes:
        monitor: as given.
        trial: the name.
        bracket: that of the trial.
        milestones: the rungs of this bracket.
        t: that of the newest report; None before the first.
        best: best finite value so far; None before the first.
        stopped: whether it has asked for the end of the run.
        reason: why; empty before.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range, or not that of the other rules of the group.

    Source:
        Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020: algorithm 2, and brackets by
        turns as in its asynchronous Hyperband. There a run that is not promoted is paused, and may go on when others
        have come; one that cannot be paused is stopped, as by the ``SuccessiveHalvingPruner`` of Optuna 5.0, whose
        answers these are.
    """

    _fields: ClassVar[dict[str, tuple[type, ...]]] = {"rungs": (list,), "bracket": (int,)}

    def __init__(
        self,
        group: TrialGroup,
        monitor: str,
        *,
        max_t: int,
        trial: str | None = None,
        mode: Mode = "min",
        grace_period: int = 1,
        reduction_factor: float = 4,
        brackets: int = 1,
        unit: Unit = "check",
    ) -> None:
        grace_period = check_count("grace_period", grace_period, 1)
        max_t = check_count("max_t", max_t, grace_period + 1)
        factor = check_number("reduction_factor", reduction_factor, 2)
        rungs: list[float] = []
        while (t := grace_period * factor ** len(rungs)) < max_t:
            rungs.append(t)
        if check_count("brackets", brackets, 1) > len(rungs):
            raise ArgumentError(f"brackets must be at most {len(rungs)}, the rungs below max_t={max_t}, got {brackets}")
        self._brackets = brackets
        self._factor = factor
        self._max_t = max_t
        self._all_milestones = tuple(rungs)
        self._rungs: dict[float, float] = {}
        self.bracket = 0  # until it has joined
        terms = {"max_t": max_t, "grace_period": grace_period, "reduction_factor": factor, "brackets": brackets}
        super().__init__(group, monitor, trial, mode, unit, terms)
        self.bracket = self._number % brackets

    @property
    def milestones(self) -> tuple[float, ...]:
        """The rungs of this trial's bracket."""
        return self._all_milestones[self.bracket :]

    def _decide(self, t: int, score: float) -> Decision | None:
        decision = None
        for milestone in self.milestones:
            if milestone > t:
                break
            if milestone not in self._rungs:
                decision = self._compete(milestone, score)
                if decision.stop:
                    return decision
        if t >= self._max_t:
            return Decision("finished", f"{self.trial} has got to {self._at(t)} of {self._max_t}", stop=True)
        return decision

    def _compete(self, milestone: float, score: float) -> Decision:
        value, rung = self._sign * score, f"the rung of {self._at(milestone)}"
        if not math.isfinite(score):
            return Decision("stop", f"{self.monitor} is {value} at {rung}", stop=True)
        self._rungs[milestone] = score
        rules = [rule for rule in self._rules() if rule.bracket == self.bracket and milestone in rule._rungs]
        scores = sorted(rule._rungs[milestone] for rule in rules)
        top = max(int(len(scores) // self._factor), 1)
        bar = self._sign * scores[top - 1]
        among = f"the best {top} of the {len(scores)} trials that have got there"
        if score > scores[top - 1]:
            return Decision("stop", f"{self.monitor} is {value:.6g} at {rung}, not among {among}", bar, stop=True)
        return Decision("promoted", f"{self.monitor} is {value:.6g} at {rung}, among {among}", bar)

    def _own_state(self) -> dict[str, Any]:
        rungs = [[milestone, self._sign * score] for milestone, score in sorted(self._rungs.items())]
        return {"rungs": rungs, "bracket": self.bracket}

    def _take_own(self, state: dict[str, Any]) -> None:
        rungs = {milestone: self._sign * value for milestone, value in pairs_of("rungs", state["rungs"])}
        if not 0 <= state["bracket"] < self._brackets or not all(map(math.isfinite, rungs.values())):
            raise StateDictError(f"'bracket' must be below {self._brackets} and rungs finite, got {state!r:.200}")
        self._rungs, self.bracket = rungs, state["bracket"]
