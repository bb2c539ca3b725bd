"""The parameters of optimizers as scalars: learning rate, momentum, weight decay.

Read: at settle points, in the thread of the training loop, so never amid a change; by its place among the control
    subscribers (``order=``) before or after those that change them.
Steps: a value belongs to the newest step at its settle point. A program that settles once an epoch gets a value an
    epoch, whatever ``logging_interval`` says.
Devices: a parameter that is a tensor on a device is published as it is, without waiting for it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.every import EPOCH_KEY
from asynchub.patterns import check_pattern, matcher
from asynchub.pending import on_device
from asynchub.subscribers.checks import take_state
from asynchub.subscription import Subscription

__all__ = ("LearningRateMonitor",)

logger = logging.getLogger("asynchub")


class LearningRateMonitor:
    """Publish the learning rate of each parameter group of one or more optimizers.

    ====================================  ================================  ====================================
    optimizers                            ``names="hub"``                   ``names="lightning"``
    ====================================  ================================  ====================================
    one of one group                      ``lr/Adam``                       ``lr-Adam``
    its groups, if several                ``lr/Adam/pg1``, ``lr/Adam/pg2``  ``lr-Adam/pg1``, ``lr-Adam/pg2``
    a group with a ``name``               ``lr/Adam/head``                  ``lr-Adam/head``
    a second one of the same class        ``lr/Adam-1``                     ``lr-Adam-1``
    momentum (SGD's, or ``betas[0]``)     ``momentum/Adam``                 ``lr-Adam-momentum``
    weight decay                          ``weight_decay/Adam``             ``lr-Adam-weight_decay``
    ====================================  ================================  ====================================

    Those of the hub are the default because one pattern, ``lr/**``, selects all learning rates, of groups too.

    Args:
        optimizer: a ``torch.optim.Optimizer``, or anything with its ``param_groups``; or a list or tuple of them.
        logging_interval: ``"step"``: at each settle point that has a new step; ``"epoch"``: when the runtime info
            ``epoch`` has changed; None: when a value has changed and when ``epoch`` has. Before a changed value the old
            one is published once more, at the last step it was seen at, so that a line drawn through them is level.
        log_momentum: whether to publish the momentum, too, of groups that have one.
        log_weight_decay: whether to publish the weight decay, too, of groups that have one.
        log_key_prefix: put before each key as it is, e.g. ``"optim/"``.
        names: the style of the keys, as above.
        on: pattern of the scalars whose steps count.

    Raises:
        PatternError: ``on`` is malformed.
        ArgumentError: another argument is of a wrong type, two groups of an optimizer have one name, or ``on`` selects
            what this publishes.
    """

    role = "control"

    def __init__(
        self,
        optimizer: Any,
        *,
        logging_interval: Literal["step", "epoch"] | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
        log_key_prefix: str | None = None,
        names: Literal["hub", "lightning"] = "hub",
        on: str = "train/**",
    ) -> None:
        if logging_interval not in (None, "step", "epoch"):
            raise ArgumentError(f"logging_interval must be 'step', 'epoch' or None, got {logging_interval!r}")
        if names not in ("hub", "lightning"):
            raise ArgumentError(f"names must be 'hub' or 'lightning', got {names!r}")
        if log_key_prefix is not None and not isinstance(log_key_prefix, str):
            raise ArgumentError(f"log_key_prefix must be a str or None, got {log_key_prefix!r}")
        self._optimizers = tuple(optimizer) if isinstance(optimizer, (list, tuple)) else (optimizer,)
        if not self._optimizers:
            raise ArgumentError("optimizer must be one, or several, got none")
        for one in self._optimizers:
            groups = getattr(one, "param_groups", None)
            if not isinstance(groups, list) or not all(isinstance(one, Mapping) and "lr" in one for one in groups):
                raise ArgumentError(
                    f"optimizer must have param_groups with an lr, as those of torch.optim do, got {one!r:.80}"
                )
        self._interval = logging_interval
        self._wanted = {"lr": True, "momentum": log_momentum, "weight_decay": log_weight_decay}
        self._prefix = log_key_prefix or ""
        self._style = names
        self._on = check_pattern(on)
        self._counts_steps = matcher((self._on,))
        own = next((key for key, _ in self._readings() if self._counts_steps(key)), None)
        if own is not None:
            raise ArgumentError(f"on={on!r} would hear {own!r}, which this publishes; name a key, e.g. on='train/loss'")
        self.keys = (EPOCH_KEY,) if logging_interval == "epoch" else (self._on, EPOCH_KEY)
        self._step: int | None = None
        self._epoch: int | None = None
        self._last: dict[str, list[Any]] = {}  # of each key its value, when that was published, and when seen last

    async def __call__(self, events: Subscription) -> None:
        at: int | None = None
        new_step = new_epoch = False
        async for batch in events.batches():
            for event in batch:
                if self._is_new_epoch(event):
                    new_epoch, at = True, event.step
                elif self._is_new_step(event):
                    new_step, at = True, event.step
            if not events.ready():  # else there is more of this settle point: what is read now belongs to its last step
                self._publish(events, at, new_step, new_epoch)
                new_step = new_epoch = False
        self._publish(events, at, new_step, new_epoch)
        if not self._last:
            logger.warning("%s published nothing: %s never came", events.name, " and ".join(map(repr, self.keys)))

    def _is_new_epoch(self, event: Event) -> bool:
        if not isinstance(event, InfoUpdated) or event.key != EPOCH_KEY or type(event.value) is not int:
            return False
        before, self._epoch = self._epoch, event.value
        return before != event.value

    def _is_new_step(self, event: Event) -> bool:
        if not isinstance(event, ScalarUpdated) or event.step is None or not self._counts_steps(event.key):
            return False
        before, self._step = self._step, event.step
        return before != event.step

    def _publish(self, events: Subscription, step: int | None, new_step: bool, new_epoch: bool) -> None:
        """Publish all values if they are due, else those that have changed, if that matters."""
        due = new_step if self._interval == "step" else new_epoch
        if not due and not (new_step and self._interval is None):
            return
        for key, value in self._readings():
            last = self._last.get(key)
            if on_device(value):  # to compare it would mean to wait
                events.update_scalar(key, value, step=step)
                self._last[key] = [None, step, step]
                continue
            number = float(value)
            changed = last is None or number != last[0]
            if not changed and not due:
                last[2] = step  # type: ignore[index]  # it has not changed: there is one
                continue
            if self._interval is None and changed and last is not None and last[0] is not None and last[2] != last[1]:
                events.update_scalar(key, last[0], step=last[2])
            events.update_scalar(key, number, step=step)
            self._last[key] = [number, step, step]

    def _readings(self) -> Iterator[tuple[str, Any]]:
        """Yield each key with its value now."""
        seen: Counter[str] = Counter()
        for optimizer in self._optimizers:
            kind = type(getattr(optimizer, "optimizer", optimizer)).__name__  # DeepSpeed and Accelerate wrap theirs
            name = f"{kind}-{seen[kind]}" if seen[kind] else kind
            seen[kind] += 1
            groups = optimizer.param_groups
            tails = [_name_of(group, index, len(groups)) for index, group in enumerate(groups, 1)]
            if len(set(tails)) < len(tails):
                raise ArgumentError(f"the parameter groups of {name} must have names of their own, got {tails}")
            for group, tail in zip(groups, tails, strict=True):
                for quantity, value in _values_of(group):
                    if self._wanted[quantity]:
                        yield self._key(quantity, name + tail), value

    def _key(self, quantity: str, name: str) -> str:
        if self._style == "hub":
            return f"{self._prefix}{quantity}/{name}"
        return f"{self._prefix}lr-{name}" + ("" if quantity == "lr" else f"-{quantity}")

    def state_dict(self) -> dict[str, Any]:
        """Return what was published when."""
        return {"step": self._step, "epoch": self._epoch, "last": {key: list(one) for key, one in self._last.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        none = type(None)
        fields = {"step": (int, none), "epoch": (int, none), "last": (dict,)}
        taken = take_state(state, fields, "LearningRateMonitor")
        for one in taken["last"].values():
            if not isinstance(one, (list, tuple)) or [type(part) for part in one[1:]] not in _STEPS:
                raise StateDictError(f"'last' must hold a value and two steps for each key, got {taken['last']!r:.80}")
        self._step, self._epoch = taken["step"], taken["epoch"]
        self._last = {key: list(one) for key, one in taken["last"].items()}


_STEPS = ([int, int], [type(None), int], [int, type(None)], [type(None)] * 2)


def _name_of(group: Mapping[str, Any], index: int, groups: int) -> str:
    """Return what tells a group from the others of its optimizer.

    Source:
        Lightning 2.6, ``LearningRateMonitor``.
    """
    name = group.get("name")
    if name is None:
        return f"/pg{index}" if groups > 1 else ""
    return f"/{name}"


def _values_of(group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "lr", group["lr"]
    if "betas" in group or "momentum" in group:
        yield "momentum", group["betas"][0] if "betas" in group else group["momentum"]
    if "weight_decay" in group:
        yield "weight_decay", group["weight_decay"]
