"""Reduce the learning rate, or another parameter of an optimizer, when a scalar has stopped getting better.

Decisions: those of torch's ``ReduceLROnPlateau``, value for value, unless ``smooth``, ``start_from`` or
    ``threshold_mode="rel_abs"`` ask for something torch does not have.
Applied: at the settle point, in the thread of the training loop. Each group that changes is published as a
    ``ParameterChanged``.
Resume: the state holds what was seen, never the arguments: those of the constructor win. The parameter itself is part
    of the optimizer's state.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.requests import ParameterChanged
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

    Attributes:
        monitor: as given.
        mode: as given.
        best: the value that the next one must improve on; an infinity before the first.
        bad_checks: checks without an improvement since the last one, the last reduction or the end of its cooldown.
        cooldown_left: checks until bad ones count again.

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
    ) -> None:
        self._checks = Checks(monitor, start_from, smooth)
        self.monitor = self._checks.monitor
        self.keys = self._checks.keys
        self.mode = mode
        self._better = Better(mode, check_number("threshold", threshold, 0), threshold_mode)
        self._factor = check_number("factor", factor, 0)
        if self._factor >= 1:
            raise ArgumentError(f"factor must be below 1, got {factor!r}")
        self._patience = check_count("patience", patience)
        self._cooldown = check_count("cooldown", cooldown)
        self._eps = check_number("eps", eps, 0)
        self._groups = _groups_of(optimizer, param_name)
        self._param_name = param_name
        self._min_lr = _bounds(min_lr, len(self._groups()))
        self.best = self._better.worst
        self.bad_checks = 0
        self.cooldown_left = 0
        self._warned = False

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            value = self._checks.value(event)
            if value is not None and self.check(value):
                self._reduce(events)

    def check(self, value: float) -> bool:
        """Take the value of one more check into account; tell whether the parameter is to be reduced now.

        Source:
            torch 2.13, ``ReduceLROnPlateau.step``.
        """
        if self._better(value, self.best):
            self.best = value
            self.bad_checks = 0
            self._warn_of_the_sign()
        else:
            self.bad_checks += 1
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.bad_checks = 0
        if self.bad_checks <= self._patience:
            return False
        self.cooldown_left = self._cooldown
        self.bad_checks = 0
        return True

    def _reduce(self, events: Subscription) -> None:
        groups = self._groups()
        bounds = self._min_lr if isinstance(self._min_lr, list) else [self._min_lr] * len(groups)
        if len(bounds) != len(groups):
            raise ArgumentError(
                f"min_lr has {len(bounds)} bounds and the optimizer {len(groups)} groups by now; give one for all"
            )
        checks = self._patience + 1
        reason = f"{self.monitor} has not improved on {self.best:.6g} for {checks} check{'s' if checks > 1 else ''}"
        for index, (group, bound) in enumerate(zip(groups, bounds, strict=True)):
            old = float(group[self._param_name])
            new = max(old * self._factor, bound)
            if not old - new > self._eps:
                continue
            if hasattr(group[self._param_name], "fill_"):  # a tensor, which a captured graph may hold on to
                group[self._param_name].fill_(new)
            else:
                group[self._param_name] = new
            events.publish(
                ParameterChanged(
                    name=self._param_name, group=index, old=old, new=new, reason=reason, author=events.name
                )
            )

    def _warn_of_the_sign(self) -> None:
        if self.best > 0 or self._warned or self._better.threshold_mode != "rel" or not self._better.threshold:
            return
        self._warned = True
        logger.warning(
            "the best %r is %g: with threshold_mode='rel' the threshold is 0 at 0 and has the wrong sign below, where "
            "slightly worse values count as improvements; use 'rel_abs' or 'abs'",
            self.monitor,
            self.best,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen and decided; neither arguments nor the parameter."""
        own = {"best": self.best, "bad_checks": self.bad_checks, "cooldown_left": self.cooldown_left}
        return own | self._checks.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        fields = {"best": (int, float), "bad_checks": (int,), "cooldown_left": (int,)}
        taken = take_state(state, fields | dict(Checks.state_fields), "ReduceLROnPlateau")
        self._checks.load_state(taken)
        self.best, self.bad_checks, self.cooldown_left = taken["best"], taken["bad_checks"], taken["cooldown_left"]


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


def _bounds(min_lr: object, groups: int) -> float | list[float]:
    if not isinstance(min_lr, (list, tuple)):
        return check_number("min_lr", min_lr)
    if len(min_lr) != groups:
        raise ArgumentError(f"min_lr must be one number, or one for each of the {groups} groups, got {len(min_lr)}")
    return [check_number(f"min_lr[{index}]", one) for index, one in enumerate(min_lr)]
