"""Early stopping: ask for the end of training when a scalar has stopped getting better.

Deterministic: it decides at settle points, from the events alone; a recorded run gives the same decisions again.
Explained: each check is published as a ``Decided``, with the verdict ``"improved"``, ``"waiting"`` or ``"stop"``, or
    ``"late"`` if it came too late to be decided on.
Resume: the state holds what was seen, never the arguments: those of the constructor win. A patience that was set while
    the run went on is kept, unless the constructor's is another one by then. A rule that was exhausted when the state
    was saved asks again at its next check, unless that one improves.
Not finite: a NaN or an infinity is never an improvement and never becomes the best value; in the presets of ``like`` it
    is what it is in the original.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Self

from asynchub.declaring import Parameter
from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event
from asynchub.requests import Decided, StopRequested
from asynchub.subscribers.checks import Checks, Mode, Smooth, ThresholdMode, check_count, take_state
from asynchub.subscribers.lateness import StepOrder
from asynchub.subscribers.presets import preset_of
from asynchub.subscribers.stopping_presets import STOPPING_PRESETS
from asynchub.subscribers.stopping_rule import OwnRule, StoppingRule, check_flag
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
        restore_best: called with the step of the best value right after it has asked, in the thread that settles: load
            the weights of that step here. What it raises, the settle point raises. Not called if no value was the best
            yet, nor when a run ends by itself: then ``best_step`` says what to load.
        allowed_lateness: decide on checks in the order of their steps, though they come up to so many steps (``200`` or
            ``"200ba"``) or epochs (``"2ep"``) late; see ``asynchub.subscribers.lateness``. A decision comes that much
            later, too. None: in the order of arrival.

    Attributes:
        monitor: as given.
        mode: as given.
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
        restore_best: Callable[[int], object] | None = None,
        allowed_lateness: int | str | None = None,
    ) -> None:
        rule = OwnRule(
            patience,
            min_delta,
            mode,
            threshold_mode,
            cumulative,
            baseline,
            check_finite,
            stopping_threshold,
            divergence_threshold,
        )
        rule.start_from, rule.strict = start_from, check_flag("strict", strict)
        self._begin(monitor, rule, smooth, min_epochs, restore_best, allowed_lateness)

    @classmethod
    def like(
        cls,
        library: str,
        monitor: str,
        *,
        restore_best: Callable[[int], object] | None = None,
        allowed_lateness: int | str | None = None,
        **their_arguments: Any,
    ) -> Self:
        """Return a rule that stops at the check at which the early stopping of another library does.

        Where the original begins anew after a resume, this goes on.

        Args:
            library: ``"keras"``, ``"lightning"``, ``"hf"`` (transformers), ``"ignite"``, ``"mmengine"`` or
                ``"optuna"`` (its ``PatientPruner`` around no other).
            monitor: key of the scalar.
            restore_best: as of the class.
            allowed_lateness: as of the class.
            their_arguments: those of the original, by their names there and with its defaults, as far as they have to
                do with when it stops; see ``asynchub.subscribers.stopping_presets``.

        Raises:
            PatternError: ``monitor`` is not a key.
            ArgumentError: there is no such preset, or an argument is unknown to it, missing, or out of range.
        """
        stopping = cls(monitor)
        rule = preset_of(STOPPING_PRESETS, library, monitor, their_arguments, cls.__name__)
        stopping._begin(monitor, rule, None, None, restore_best, allowed_lateness)
        return stopping

    def _begin(
        self,
        monitor: str,
        rule: StoppingRule,
        smooth: Smooth,
        min_epochs: int | None,
        restore_best: Callable[[int], object] | None,
        allowed_lateness: int | str | None,
    ) -> None:
        self._rule = rule
        self._min_epochs = None if min_epochs is None else check_count("min_epochs", min_epochs)
        if restore_best is not None and not callable(restore_best):
            raise ArgumentError(
                f"restore_best must be a function of the step to restore, or None, got {restore_best!r}"
            )
        self._restore_best = restore_best
        self._order = StepOrder(monitor, allowed_lateness)
        epochs = min_epochs is not None or self._order.needs_epochs
        self._checks = Checks(monitor, rule.start_from, smooth, epochs=epochs)
        self.monitor = self._checks.monitor
        self.keys = self._checks.keys
        self.mode = rule.mode
        self.stopping_reason = StoppingReason.NOT_STOPPED
        self._asked = False
        self._given_patience = rule.patience

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What people may set while the run goes on: ``patience``."""
        note = f"checks of {self.monitor} without an improvement after which it asks for a stop"
        setter = functools.partial(setattr, self, "patience")
        return (Parameter(".patience", lambda: self.patience, setter, low=1, integer=True, note=note),)

    @property
    def patience(self) -> int:
        """Consecutive checks without an improvement after which it asks; a new one holds from the next check on."""
        return self._rule.patience

    @patience.setter
    def patience(self, patience: int) -> None:
        self._rule.patience = check_count("patience", patience)

    @property
    def best(self) -> float | None:
        """The value that the next one must improve on; None before the first."""
        return self._rule.best

    @property
    def best_step(self) -> int | None:
        """The step of that value."""
        return self._rule.best_step

    @property
    def wait(self) -> int:
        """Checks since the last improvement."""
        return self._rule.wait

    async def __call__(self, events: Subscription) -> None:
        self._asked = False  # once in a life: a run that goes on after a resume is to hear it again
        async for event in events:
            for due in self._order.take(event, events):
                self._look_at(due, events)
        for due in self._order.rest():
            self._look_at(due, events)
        if self._rule.strict:
            self._warn_if_blind(events.name)

    def _look_at(self, event: Event, events: Subscription) -> None:
        value = self._checks.value(event)
        if value is None:
            return
        rule, bar = self._rule, self._rule.bar
        self.stopping_reason = self.check(value, event.step)
        stopped = self.stopping_reason is not StoppingReason.NOT_STOPPED
        stops = stopped and self._may_stop()
        verdict = "stop" if stops else "waiting" if stopped or rule.wait else "improved"
        events.decide(verdict, lambda: self._decided(events.name, verdict, value, bar, event.step))
        if not stops or self._asked:
            return
        self._asked = True
        events.request(StopRequested(reason=self._reason(value)))
        if self._restore_best is not None and rule.best_step is not None:
            self._restore_best(rule.best_step)

    def _decided(self, name: str, verdict: str, value: float, bar: float | None, step: int | None) -> Decided:
        """Return what was decided on a value."""
        rule = self._rule
        beside = "" if bar is None else f" on {bar:.6g}"
        if self.stopping_reason is not StoppingReason.NOT_STOPPED:
            reason = self._reason(value) + ("" if verdict == "stop" else f"; not before epoch {self._min_epochs}")
        elif rule.wait:
            reason = f"{self.monitor} is {value:.6g}, no improvement{beside}: {rule.wait} of {rule.patience} checks"
        else:
            reason = f"{self.monitor} is {value:.6g}, {'the first' if bar is None else f'an improvement{beside}'}"
        return Decided(
            author=name,
            verdict=verdict,
            reason=reason,
            monitor=self.monitor,
            value=value,
            best=bar,
            wait=rule.wait,
            patience=rule.patience,
            step=step,
        )

    def check(self, value: float, step: int | None = None) -> StoppingReason:
        """Take the value of one more check into account; return why training should stop now, if it should.

        This is the whole rule but for ``start_from``, ``smooth``, ``min_epochs`` and ``allowed_lateness``.
        """
        return _REASONS[self._rule.check(value, step)]

    def _may_stop(self) -> bool:
        epoch = self._checks.epoch
        return self._min_epochs is None or (epoch is not None and epoch >= self._min_epochs)

    def _reason(self, value: float) -> str:
        rule = self._rule
        better, worse = ("below", "above") if self.mode == "min" else ("above", "below")
        match self.stopping_reason:
            case StoppingReason.NON_FINITE_METRIC:
                return f"{self.monitor} is {value}"
            case StoppingReason.STOPPING_THRESHOLD:
                return f"{self.monitor} is {value:.6g}, {better} the threshold {rule.stopping_threshold:g}"
            case StoppingReason.DIVERGENCE_THRESHOLD:
                return f"{self.monitor} is {value:.6g}, {worse} the threshold {rule.divergence_threshold:g}"
        checks = "1 check" if rule.wait == 1 else f"{rule.wait} checks"
        if rule.best is not None:
            at = "" if rule.best_step is None else f" of step {rule.best_step}"
            return f"{self.monitor} has not improved on {rule.best:.6g}{at} for {checks}"
        if rule.bar is not None:
            return f"{self.monitor} has not improved on the baseline {rule.bar:g} for {checks}"
        return f"{self.monitor} has had no finite value for {checks}"

    def _warn_if_blind(self, name: str) -> None:
        if not self._checks.seen:
            logger.warning("%s never saw its scalar %r: nothing could stop this run", name, self.monitor)
        elif self._checks.epoch is None and len(self.keys) > 1:
            logger.warning(
                "%s never saw the runtime info 'epoch', which min_epochs, start_from and allowed_lateness go by", name
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen and decided, and what is held back; no arguments but a patience that was set."""
        changed = None if self.patience == self._given_patience else [self._given_patience, self.patience]
        own = {"reason": self.stopping_reason.value, "patience": changed}
        return self._rule.state_dict() | own | self._checks.state_dict() | self._order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments: also those of another preset.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        own = {"reason": (str,), "patience": (list, type(None))}
        fields = {**own, **self._rule.state_fields, **Checks.state_fields, **StepOrder.state_fields}
        taken = take_state(state, fields, "EarlyStopping", {**self._rule.absent, **StepOrder.absent, "patience": None})
        changed = taken["patience"]
        if changed is not None and (len(changed) != 2 or any(type(one) is not int or one < 0 for one in changed)):
            raise StateDictError(f"'patience' in the state of EarlyStopping must be two counts, got {changed!r:.80}")
        try:
            reason = StoppingReason(taken["reason"])
        except ValueError as error:
            raise StateDictError(f"'reason' in the state of EarlyStopping is unknown: {taken['reason']!r}") from error
        order = self._order.loadable(taken)
        self._rule.check_state(taken)
        self._checks.load_state(taken)
        self._rule.load_state(taken)
        self._order.load(order)
        self.stopping_reason = reason
        if changed is not None and changed[0] == self._given_patience:
            self.patience = changed[1]


_REASONS = {reason.value: reason for reason in StoppingReason}
