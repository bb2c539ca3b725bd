"""Pruning by Optuna: each check goes to a trial, and when its study prunes the trial the run is asked to stop.

Same: values and answers are those of a loop that calls ``trial.report`` and ``trial.should_prune`` itself.
Not finite: a NaN is reported as it is, and what follows is the pruner's affair: it never ranks as a good value. An
    infinity is reported as NaN, since Optuna would take one of the two for the best value there is.
Once for each step: Optuna keeps the first value of a step, so a second one is not reported, and the study is asked
    again; that is said once.
Resume: the state holds what was reported. A trial that lacks some of it, because it is a new one for the same run, is
    told again before the next check; one that knows more than the state keeps what it knows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

try:
    import optuna
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[optuna]'", name=error.name) from error

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import ScalarUpdated
from asynchub.requests import Decided, StopRequested
from asynchub.subscribers.checks import check_key, mean_of, take_state
from asynchub.subscription import Subscription

__all__ = ("OptunaPruning",)

logger = logging.getLogger("asynchub")


class OptunaPruning:
    """Report each check of ``monitor`` to an Optuna trial, and request a stop when the study prunes it.

    A check is one update of ``monitor``, and its value the mean ``value / count``; one over no samples is none. Which
    values are better is a matter of the study's ``direction``. The loop ends as with any request to stop; then
    ``raise_if_pruned`` tells Optuna::

        with hub:
            for epoch in range(20):
                hub.update_scalar("val/loss", ...)
                hub.settle()
                if hub.stop_requested:
                    break
        pruning.raise_if_pruned()

    A ``Decided`` follows each check: its verdict is ``"continue"`` or ``"prune"``.

    Args:
        trial: the ``optuna.Trial``, or what has its ``report`` and ``should_prune``.
        monitor: key of the scalar.
        unit: what is reported as Optuna's step: ``"check"``, how many checks there were before (from 0, as its pruners
            assume), or ``"step"``, the event's ``step``. Pruners compare values of the same step, so ``"step"`` is for
            trials that are evaluated at the same steps, whatever their batch size.

    Attributes:
        monitor: as given.
        checks: checks so far, up to the one that the trial was pruned at.
        pruned: whether the study has pruned the trial; nothing is reported after that.
        reason: why, for people; empty before.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: another argument is not what it must be, or the study has several objectives, which Optuna does
            not prune.
    """

    role = "control"

    def __init__(self, trial: Any, monitor: str, *, unit: Literal["check", "step"] = "check") -> None:
        self.monitor = check_key("monitor", monitor)
        self.keys = (self.monitor,)
        if unit not in ("check", "step"):
            raise ArgumentError(f"unit must be 'check' or 'step', got {unit!r}")
        for name in ("report", "should_prune"):
            if isinstance(trial, type) or not callable(getattr(trial, name, None)):
                raise ArgumentError(f"trial must have {name}(), as an optuna.Trial does, got {trial!r:.80}")
        study = getattr(trial, "study", None)
        if study is not None and len(study.directions) > 1:
            raise ArgumentError("Optuna does not prune trials of a study with several directions; leave this out")
        self._trial = trial
        self._study = study
        self._unit = unit
        self._reported: dict[int, float] = {}
        self._warned = False
        self.checks = 0
        self.pruned = False
        self.reason = ""

    async def __call__(self, events: Subscription) -> None:
        asked = False  # once in a life: a run that goes on after a resume is to hear it again
        known: set[int] | None = None
        async for event in events:
            if not isinstance(event, ScalarUpdated) or event.key != self.monitor:
                continue
            value = mean_of(event)
            step = self.checks if self._unit == "check" else event.step
            if value is None or step is None or step < 0:  # a step that Optuna refuses
                continue
            if not self.pruned:
                if known is None:
                    known = self._known()
                self._check(value, step, known)
                verdict = "prune" if self.pruned else "continue"
                why = self.reason or f"{self._named()} goes on: {self._seen(value, step)}"
                events.publish(
                    Decided(author=events.name, verdict=verdict, reason=why, monitor=self.monitor, value=value)
                )
            if self.pruned and not asked:
                asked = True
                events.request(StopRequested(reason=self.reason))

    def _check(self, value: float, step: int, known: set[int]) -> None:
        """Report one more check, unless its step is ``known``, and ask whether to prune."""
        self.checks += 1
        if step not in known:
            known.add(step)
            self._reported[step] = value if math.isfinite(value) else math.nan
            self._trial.report(self._reported[step], step)
        elif not self._warned:
            self._warned = True
            logger.warning("%s has a value of step %d already; Optuna keeps the first", self._named(), step)
        if self._trial.should_prune():
            self.pruned = True
            self.reason = f"{self._named()} is pruned by {self._pruner()}: {self._seen(value, step)}"

    def raise_if_pruned(self) -> None:
        """Raise ``optuna.TrialPruned`` if the study has pruned the trial.

        Raises:
            TrialPruned: it has.
        """
        if self.pruned:
            raise optuna.TrialPruned(self.reason)

    def _known(self) -> set[int]:
        """Return the steps that the trial has a value of, after telling it those of the state that it lacks."""
        trials = () if self._study is None else self._study.get_trials(deepcopy=False)
        known = {step for one in trials if one.number == self._trial.number for step in one.intermediate_values}
        for step, value in sorted(self._reported.items()):
            if step not in known:
                self._trial.report(value, step)
                self._trial.should_prune()  # pruners keep books when asked; what was answered then stands
                known.add(step)
        return known

    def _named(self) -> str:
        number = getattr(self._trial, "number", None)
        return "the trial" if number is None else f"trial {number}"

    def _pruner(self) -> str:
        return "its study" if self._study is None else type(self._study.pruner).__name__

    def _seen(self, value: float, step: int) -> str:
        return f"{self.monitor} is {value:.6g} at {self._unit} {step}"

    def state_dict(self) -> dict[str, Any]:
        """Return what was reported and answered; no arguments."""
        reported = [[step, value] for step, value in self._reported.items()]
        return {"reported": reported, "checks": self.checks, "pruned": self.pruned, "reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own trial.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        fields = {"reported": (list,), "checks": (int,), "pruned": (bool,), "reason": (str,)}
        taken = take_state(state, fields, "OptunaPruning")
        try:
            reported = {int(step): float(value) for step, value in taken["reported"]}
        except (TypeError, ValueError) as error:
            text = f"'reported' must be a list of steps and values, got {taken['reported']!r:.80}"
            raise StateDictError(text) from error
        self._reported, self.checks = reported, taken["checks"]
        self.pruned, self.reason = taken["pruned"], taken["reason"]
