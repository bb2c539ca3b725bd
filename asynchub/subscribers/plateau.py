"""Reduce the learning rate, or another parameter of an optimizer, when a scalar has stopped getting better.

Decisions: those of torch's ``ReduceLROnPlateau``, value for value, unless ``smooth``, ``start_from``,
    ``threshold_mode="rel_abs"`` or ``allowed_lateness`` ask for something torch does not have.
Explained: each check is published as a ``Decided``, with the verdict ``"improved"``, ``"waiting"``, ``"cooldown"``,
    ``"reduced"`` or ``"at_bound"`` (due, but no group can be reduced), or ``"late"`` if it came too late to decide on.
Applied: at the settle point, in the thread of the training loop. Each group that changes is published as a
    ``ParameterChanged``.
Resume: the state holds what was seen, never the arguments: those of the constructor win. The parameter itself is part
    of the optimizer's state.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

from asynchub.errors import ArgumentError
from asynchub.events import Event
from asynchub.requests import Decided, ParameterChanged
from asynchub.subscribers.checks import Checks, Mode, Smooth, ThresholdMode, take_state
from asynchub.subscribers.lateness import StepOrder
from asynchub.subscribers.parameters import set_parameter
from asynchub.subscribers.plateau_presets import PLATEAU_PRESETS, PlateauRule, TorchPlateau
from asynchub.subscribers.presets import preset_of
from asynchub.subscription import Subscription

__all__ = ("ReduceLROnPlateau",)

logger = logging.getLogger("asynchub")


class ReduceLROnPlateau:
    """Multiply a parameter of ``optimizer`` by ``factor`` when ``monitor`` has not improved for a while.

    A check is one update of ``monitor``, and its value the mean ``value / count``.

    Args:
        optimizer: a ``torch.optim.Optimizer``, or anything with its ``param_groups``.
        monitor: key of the scalar.
        mode: ``"min"`` or ``"max"``: which values are better.
        factor: what the parameter is multiplied by; from 0 to below 1.
        patience: checks without an improvement that are still tolerated; the one after them reduces.
        threshold: what an improvement must exceed; not below 0.
        threshold_mode: what ``threshold`` is: ``"rel"``, a share of the best value, which has the wrong sign below 0
            (said once through ``logging``); ``"abs"``, an amount; ``"rel_abs"``, a share of the best value's magnitude.
        cooldown: checks after a reduction in which nothing counts as bad.
        min_lr: lower bound of the parameter: one for all groups, or one for each.
        eps: a reduction by no more than this is not made.
        param_name: the parameter, e.g. ``"lr"`` or ``"weight_decay"``.
        start_from: checks before this are not looked at: how many, or an epoch (``"5ep"``) or a step (``"100ba"``).
        smooth: look at the mean of the last n checks (int), or at a moving average (``("ema", alpha)``, alpha being the
            weight of the newest), instead of each value.
        allowed_lateness: decide on checks in the order of their steps, though they come up to so many steps (``200`` or
            ``"200ba"``) or epochs (``"2ep"``) late; see ``asynchub.subscribers.lateness``. A decision comes that much
            later, too. None: in the order of arrival.

    Attributes:
        monitor: as given.
        mode: as given.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range.
    """

    role = "control"

    def __init__(
        self,
        optimizer: Any,
        monitor: str,
        *,
        mode: Mode = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: ThresholdMode = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        param_name: str = "lr",
        start_from: int | str = 0,
        smooth: Smooth = None,
        allowed_lateness: int | str | None = None,
    ) -> None:
        rule = TorchPlateau(mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)
        self._begin(optimizer, monitor, rule, start_from, smooth, param_name, allowed_lateness)

    @classmethod
    def like(
        cls,
        library: str,
        optimizer: Any,
        monitor: str,
        *,
        param_name: str = "lr",
        allowed_lateness: int | str | None = None,
        **their_arguments: Any,
    ) -> Self:
        """Return a rule that reduces at the check at which the ``ReduceLROnPlateau`` of another library does.

        Where the original begins anew after a resume, this goes on.

        Args:
            library: ``"keras"``.
            optimizer: as of the class; its groups are what the optimizers of several are to Keras.
            monitor: key of the scalar.
            param_name: as of the class.
            allowed_lateness: as of the class.
            their_arguments: those of the original, by their names there and with its defaults; see
                ``asynchub.subscribers.plateau_presets``.

        Raises:
            PatternError: ``monitor`` is not a key.
            ArgumentError: there is no such preset, or an argument is unknown to it or out of range.
        """
        plateau = cls(optimizer, monitor, param_name=param_name)
        rule = preset_of(PLATEAU_PRESETS, library, monitor, their_arguments, cls.__name__)
        plateau._begin(optimizer, monitor, rule, 0, None, param_name, allowed_lateness)
        return plateau

    def _begin(
        self,
        optimizer: Any,
        monitor: str,
        rule: PlateauRule,
        start_from: int | str,
        smooth: Smooth,
        param_name: str,
        allowed_lateness: int | str | None,
    ) -> None:
        self._rule = rule
        self._order = StepOrder(monitor, allowed_lateness)
        self._checks = Checks(monitor, start_from, smooth, epochs=self._order.needs_epochs)
        self.monitor = self._checks.monitor
        self.keys = self._checks.keys
        self.mode = rule.mode
        self._groups = _groups_of(optimizer, param_name)
        self._param_name = param_name
        groups = len(self._groups())
        if isinstance(rule.min_lr, list) and len(rule.min_lr) != groups:
            wanted = f"one number, or one for each of the {groups} groups"
            raise ArgumentError(f"min_lr must be {wanted}, got {len(rule.min_lr)}")
        self._warned = False

    @property
    def best(self) -> float | None:
        """The value that the next one must improve on; an infinity before the first, and None like Keras."""
        return self._rule.best

    @property
    def bad_checks(self) -> int:
        """Checks without an improvement since the last one, the last reduction or the end of its cooldown."""
        return self._rule.bad_checks

    @property
    def cooldown_left(self) -> int:
        """Checks until bad ones count again."""
        return self._rule.cooldown_left

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            for due in self._order.take(event, events):
                self._look_at(due, events)
        for due in self._order.rest():
            self._look_at(due, events)

    def check(self, value: float) -> bool:
        """Take the value of one more check into account; tell whether the parameter is to be reduced now."""
        return self._rule.check(value) == "due"

    def _look_at(self, event: Event, events: Subscription) -> None:
        value = self._checks.value(event)
        if value is None:
            return
        rule, best = self._rule, self._rule.best
        bar = None if best is None or best == rule.nothing else best
        verdict: str = rule.check(value)
        changes: list[tuple[Any, ParameterChanged]] = []
        shown, beside = f"{self.monitor} is {value:.6g}", "" if bar is None else f" on {bar:.6g}"
        if verdict == "improved":
            reason = f"{shown}, {f'an improvement{beside}' if beside else 'the first'}"
            self._warn_of_the_sign()
        elif verdict == "due":
            checks = "1 check" if rule.wait == 1 else f"{rule.wait} checks"
            reason = f"{self.monitor} has not improved{beside} for {checks}"
            changes = self._changes(reason, events.name)
            verdict = "reduced" if changes else "at_bound"
        elif verdict == "cooldown":
            reason = f"{shown}, no improvement{beside}, but bad checks do not count yet: cooldown"
        else:
            reason = f"{shown}, no improvement{beside}: {rule.wait} of {rule.patience} checks"
        events.publish(
            Decided(
                author=events.name,
                verdict=verdict,
                reason=reason,
                monitor=self.monitor,
                value=value,
                best=bar,
                wait=rule.wait,
                patience=rule.patience,
                step=event.step,
            )
        )
        if changes:
            rule.was_reduced()
        for group, change in changes:
            set_parameter(group, self._param_name, change.new)
            events.publish(change)

    def _changes(self, reason: str, author: str) -> list[tuple[Any, ParameterChanged]]:
        """Return each group whose parameter is to be reduced, and the event that says so."""
        groups, min_lr = self._groups(), self._rule.min_lr
        bounds = min_lr if isinstance(min_lr, list) else [min_lr] * len(groups)
        if len(bounds) != len(groups):
            raise ArgumentError(
                f"min_lr has {len(bounds)} bounds and the optimizer {len(groups)} groups by now; give one for all"
            )
        changes = []
        for index, (group, bound) in enumerate(zip(groups, bounds, strict=True)):
            old = float(group[self._param_name])
            new = self._rule.lowered(old, bound)
            if new is not None:
                name = self._param_name
                change = ParameterChanged(name=name, group=index, old=old, new=new, reason=reason, author=author)
                changes.append((group, change))
        return changes

    def _warn_of_the_sign(self) -> None:
        if self._warned or not self._rule.rising:
            return
        self._warned = True
        logger.warning(
            "the best %r is %g: with threshold_mode='rel' the threshold is 0 at 0 and has the wrong sign below, where "
            "slightly worse values count as improvements; use 'rel_abs' or 'abs'",
            self.monitor,
            self._rule.best,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen and decided, and what is held back; neither arguments nor the parameter."""
        return self._rule.state_dict() | self._checks.state_dict() | self._order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        fields = {**self._rule.state_fields, **Checks.state_fields, **StepOrder.state_fields}
        taken = take_state(state, fields, "ReduceLROnPlateau", StepOrder.absent)
        order = self._order.loadable(taken)
        self._checks.load_state(taken)
        self._rule.load_state(taken)
        self._order.load(order)


def _groups_of(optimizer: Any, param_name: str) -> Any:
    """Return a function that returns the parameter groups of ``optimizer``, which have a number ``param_name`` each."""
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise ArgumentError(f"optimizer must have param_groups, as those of torch.optim do, got {optimizer!r:.80}")
    for index, group in enumerate(groups):
        try:
            float(group[param_name])
        except (KeyError, TypeError, ValueError) as error:
            known = ", ".join(str(name) for name, value in group.items() if isinstance(value, (int, float)))
            raise ArgumentError(
                f"param_name must name a number in every group, got {param_name!r}; group {index} has {known}"
            ) from error
    return lambda: optimizer.param_groups  # asked each time: loading an optimizer's state makes new ones
