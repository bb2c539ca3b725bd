"""Early stopping: ask for the end of training when a scalar has stopped getting better.

Deterministic: it decides at settle points, from the events alone; a recorded run gives the same decisions again.
Resume: the state holds what was seen, never the arguments: those of the constructor win. A rule that was exhausted when
    the state was saved asks again at its next check, unless that one improves.
Not finite: a NaN or an infinity is never an improvement and never becomes the best value.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from asynchub.errors import ArgumentError, StateDictError
from asynchub.requests import StopRequested
from asynchub.subscribers.checks import (
    Better,
    Checks,
    Mode,
    Smooth,
    ThresholdMode,
    check_count,
    check_number,
    take_state,
)
from asynchub.subscription import Subscription

__all__ = ("EarlyStopping", "StoppingReason")

logger = logging.getLogger("asynchub")


class StoppingReason(Enum):
    """Why ``EarlyStopping`` asked for the end of training; the names are those of Lightning."""

    NOT_STOPPED = "not_stopped"
    PATIENCE_EXHAUSTED = "patience_exhausted"
    STOPPING_THRESHOLD = "stopping_threshold"
    DIVERGENCE_THRESHOLD = "divergence_threshold"
    NON_FINITE_METRIC = "non_finite_metric"


class EarlyStopping:
    """Request a stop when ``monitor`` has not improved for ``patience`` checks.

    A check is one update of ``monitor``, and its value the mean ``value / count``. An improvement is better than the
    best value so far by more than ``min_delta``; the first finite value is one.

    Args:
        monitor: key of the scalar.
        patience: consecutive checks without an improvement after which it asks; 0 is the same as 1.
        min_delta: what an improvement must exceed; not below 0.
        mode: ``"min"`` or ``"max"``: which values are better.
        threshold_mode: what ``min_delta`` is: ``"abs"``, an amount; ``"rel"``, a share of the best value, which has the
            wrong sign below 0; ``"rel_abs"``, a share of its magnitude.
        cumulative: whether gains of up to ``min_delta`` add up to an improvement; if not, each moves the best value.
        baseline: value to improve on as long as nothing has.
        start_from: checks before this are not looked at: how many, or an epoch (``"5ep"``) or a step (``"100ba"``).
        check_finite: whether a NaN or an infinity asks at once; otherwise it is a check without an improvement.
        stopping_threshold: ask when the value is better than this.
        divergence_threshold: ask when the value is worse than this.
        strict: whether to warn at the end, through ``logging``, if ``monitor`` was never updated.
        smooth: look at the mean of the last n checks (int), or at a moving average (``("ema", alpha)``, alpha being the
            weight of the newest), instead of each value.
        min_epochs: do not ask before the runtime info ``epoch`` has reached this; a reason that has gone by then is
            forgotten.

    Attributes:
        monitor: as given.
        mode: as given.
        patience: as given.
        best: the value that the next one must improve on; None before the first.
        best_step: the step of that value.
        wait: checks since the last improvement.
        stopping_reason: why the last check asked, or would before ``min_epochs``; else ``NOT_STOPPED``.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range.
    """

    role = "control"

    def __init__(
        self,
        monitor: str,
        *,
        patience: int = 3,
        min_delta: float = 0.0,
        mode: Mode = "min",
        threshold_mode: ThresholdMode = "abs",
        cumulative: bool = True,
        baseline: float | None = None,
        start_from: int | str = 0,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        strict: bool = True,
        smooth: Smooth = None,
        min_epochs: int | None = None,
    ) -> None:
        self._min_epochs = None if min_epochs is None else check_count("min_epochs", min_epochs)
        self._checks = Checks(monitor, start_from, smooth, epochs=min_epochs is not None)
        self.monitor = self._checks.monitor
        self.keys = self._checks.keys
        self.mode = mode
        self.patience = check_count("patience", patience)
        self._better = Better(mode, check_number("min_delta", min_delta, 0), threshold_mode)
        self._baseline = None if baseline is None else check_number("baseline", baseline)
        self._stopping = None if stopping_threshold is None else check_number("stopping_threshold", stopping_threshold)
        self._divergence = (
            None if divergence_threshold is None else check_number("divergence_threshold", divergence_threshold)
        )
        for name, flag in (("cumulative", cumulative), ("check_finite", check_finite), ("strict", strict)):
            if not isinstance(flag, bool):
                raise ArgumentError(f"{name} must be True or False, got {flag!r}")
        self._cumulative = cumulative
        self._check_finite = check_finite
        self._strict = strict
        self.best: float | None = None
        self.best_step: int | None = None
        self.wait = 0
        self.stopping_reason = StoppingReason.NOT_STOPPED

    async def __call__(self, events: Subscription) -> None:
        asked = False  # once in a life: a run that goes on after a resume is to hear it again
        async for event in events:
            value = self._checks.value(event)
            if value is None:
                continue
            self.stopping_reason = self.check(value, event.step)
            if self.stopping_reason is StoppingReason.NOT_STOPPED or asked or not self._may_stop():
                continue
            asked = True
            events.request(StopRequested(reason=self._reason(value)))
        if self._strict:
            self._warn_if_blind(events.name)

    def check(self, value: float, step: int | None = None) -> StoppingReason:
        """Take the value of one more check into account; return why training should stop now, if it should.

        This is the whole rule but for ``start_from``, ``smooth`` and ``min_epochs``.
        """
        improved = math.isfinite(value) and self._improves(value)
        self.wait = 0 if improved else self.wait + 1
        if improved or (not self._cumulative and self._gains(value)):
            self.best, self.best_step = value, step
        if not math.isfinite(value) and self._check_finite:
            return StoppingReason.NON_FINITE_METRIC
        if self._stopping is not None and math.isfinite(value) and self._better.beats(value, self._stopping):
            return StoppingReason.STOPPING_THRESHOLD
        if self._divergence is not None and self._better.beats(self._divergence, value):
            return StoppingReason.DIVERGENCE_THRESHOLD
        if self.wait and self.wait >= self.patience:
            return StoppingReason.PATIENCE_EXHAUSTED
        return StoppingReason.NOT_STOPPED

    def _improves(self, value: float) -> bool:
        bar = self._bar()
        return bar is None or self._better(value, bar)

    def _gains(self, value: float) -> bool:
        bar = self._bar()
        return math.isfinite(value) and (bar is None or self._better.beats(value, bar))

    def _bar(self) -> float | None:
        return self._baseline if self.best is None else self.best

    def _may_stop(self) -> bool:
        epoch = self._checks.epoch
        return self._min_epochs is None or (epoch is not None and epoch >= self._min_epochs)

    def _reason(self, value: float) -> str:
        better, worse = ("below", "above") if self.mode == "min" else ("above", "below")
        match self.stopping_reason:
            case StoppingReason.NON_FINITE_METRIC:
                return f"{self.monitor} is {value}"
            case StoppingReason.STOPPING_THRESHOLD:
                return f"{self.monitor} is {value:.6g}, {better} the threshold {self._stopping:g}"
            case StoppingReason.DIVERGENCE_THRESHOLD:
                return f"{self.monitor} is {value:.6g}, {worse} the threshold {self._divergence:g}"
        checks = "1 check" if self.wait == 1 else f"{self.wait} checks"
        if self.best is not None:
            at = "" if self.best_step is None else f" of step {self.best_step}"
            return f"{self.monitor} has not improved on {self.best:.6g}{at} for {checks}"
        if self._baseline is not None:
            return f"{self.monitor} has not improved on the baseline {self._baseline:g} for {checks}"
        return f"{self.monitor} has had no finite value for {checks}"

    def _warn_if_blind(self, name: str) -> None:
        if not self._checks.seen:
            logger.warning("%s never saw its scalar %r: nothing could stop this run", name, self.monitor)
        elif self._checks.epoch is None and len(self.keys) > 1:
            logger.warning("%s never saw the runtime info 'epoch', which min_epochs and start_from go by", name)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen and decided; no arguments."""
        own = {"best": self.best, "best_step": self.best_step, "wait": self.wait, "reason": self.stopping_reason.value}
        return own | self._checks.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        none = type(None)
        fields = {"best": (int, float, none), "best_step": (int, none), "wait": (int,), "reason": (str,)}
        taken = take_state(state, fields | dict(Checks.state_fields), "EarlyStopping")
        try:
            reason = StoppingReason(taken["reason"])
        except ValueError as error:
            raise StateDictError(f"'reason' in the state of EarlyStopping is unknown: {taken['reason']!r}") from error
        self._checks.load_state(taken)
        self.best, self.best_step, self.wait = taken["best"], taken["best_step"], taken["wait"]
        self.stopping_reason = reason
