"""The batch size of a run, changed while it goes: by a plan, or by a measured scale.

Applied: at the settle point, in the thread of the training loop; each change is published as a ``ParameterChanged`` of
    ``batch_size``.
Loaders: a ``DataLoader`` makes its batches with a batch sampler that reads its size for each batch, or with
    ``drop_last=True`` once for each pass. Worker processes, persistent ones too, get indices and know no size. So a
    change before ``iter(loader)`` holds from the first batch of that pass on; one amid a pass holds for the batches
    that are not on their way to a worker yet, with ``drop_last=True`` from the next pass on. ``len(loader)`` follows
    at once, ``loader.batch_size`` never.
Resume: the state holds the position and the size; loading it applies the size. The learning rate is part of the
    optimizer's state.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Literal

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.every import EPOCH_KEY
from asynchub.requests import Decided, ParameterChanged
from asynchub.subscribers.checks import check_count, check_key, check_number, epoch_of, mean_of, take_state
from asynchub.subscribers.parameters import set_parameter
from asynchub.subscription import Subscription

__all__ = ("BatchSizeScheduler",)

Scaling = Literal["linear", "sqrt"]


class BatchSizeScheduler:
    """Set the batch size that ``schedule`` plans, or that the scalar ``monitor`` suggests.

    Settle after the new ``epoch`` is said and before the loader is iterated, and the size holds for the whole epoch::

        hub.update_info("epoch", epoch)
        hub.settle()
        for batch in loader:

    Args:
        target: what has the size: a ``DataLoader``, a batch sampler (anything with an int ``batch_size`` that can be
            set), or a function that is called with each new size.
        schedule: a function of the epoch or step that returns the size, or None to leave it; or a dict, whose sizes
            hold from their epoch or step on.
        interval: what ``schedule`` goes by: ``"epoch"``, the runtime info of that name, or ``"step"``.
        monitor: key of a scalar to follow instead, e.g. a gradient noise scale: the size is ``scale`` times its mean
            ``value / count``, rounded to ``multiple_of`` and kept within ``min_size`` and ``max_size``. What is not a
            finite number above 0 changes nothing.
        scale: samples per unit of ``monitor``; above 0.
        min_size: smallest size that ``monitor`` can lead to, a multiple of ``multiple_of``; default that.
        max_size: largest one, a multiple too; to be given with ``monitor``, as memory ends somewhere.
        multiple_of: what sizes that ``monitor`` leads to are multiples of.
        tolerance: share of the size by which a new one must differ; smaller changes are not made, as a noise scale is
            an estimate.
        size: the size now; to be given if ``target`` is a function.
        optimizer: a ``torch.optim.Optimizer``, or anything with its ``param_groups``, for ``lr_scaling``.
        lr_scaling: multiply the learning rates by the ratio of new and old size (``"linear"``, for SGD), or by its
            square root (``"sqrt"``, for Adam and its like); None leaves them. A scheduler that computes rates from
            those it began with sets them back.

    Attributes:
        size: the size now.
        position: epoch or step of the newest plan that was looked at; None before the first.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range, or has nothing to do here.

    Source:
        McCandlish et al., "An Empirical Model of Large-Batch Training", 2018: the noise scale as a size. Goyal et al.,
        "Accurate, Large Minibatch SGD", 2017: linear scaling. Malladi et al., "On the SDEs and Scaling Rules for
        Adaptive Gradient Algorithms", NeurIPS 2022: the square root.
    """

    role = "control"

    def __init__(
        self,
        target: Any,
        schedule: Callable[[int], int | None] | Mapping[int, int] | None = None,
        *,
        interval: Literal["epoch", "step"] = "epoch",
        monitor: str | None = None,
        scale: float = 1.0,
        min_size: int | None = None,
        max_size: int | None = None,
        multiple_of: int = 1,
        tolerance: float = 0.25,
        size: int | None = None,
        optimizer: Any = None,
        lr_scaling: Scaling | None = None,
    ) -> None:
        if (schedule is None) == (monitor is None):
            raise ArgumentError("give either schedule, a plan of sizes, or monitor, the scalar to follow")
        if interval not in ("epoch", "step"):
            raise ArgumentError(f"interval must be 'epoch' or 'step', got {interval!r}")
        if (optimizer is None) != (lr_scaling is None) or lr_scaling not in (None, "linear", "sqrt"):
            raise ArgumentError(f"lr_scaling must be 'linear' or 'sqrt', with an optimizer, got {lr_scaling!r}")
        if optimizer is not None and not isinstance(getattr(optimizer, "param_groups", None), list):
            raise ArgumentError(f"optimizer must have param_groups, as those of torch.optim do, got {optimizer!r:.80}")
        self.monitor = None if monitor is None else check_key("monitor", monitor)
        self._schedule = None if schedule is None else _plan_of(schedule)
        self._interval = interval
        self._multiple = check_count("multiple_of", multiple_of, 1)
        self._smallest = self._bound("min_size", multiple_of if min_size is None else min_size)
        self._largest = math.inf if max_size is None else self._bound("max_size", max_size)
        if self._largest < self._smallest or (monitor is not None and max_size is None):
            raise ArgumentError(f"max_size must be an int of at least min_size {self._smallest}, got {max_size!r}")
        self._scale = check_number("scale", scale, 0)
        if not self._scale:
            raise ArgumentError("scale must be above 0, got 0")
        self._tolerance = check_number("tolerance", tolerance, 0)
        self._optimizer = optimizer
        self._lr_scaling = lr_scaling
        self._apply, self.size = _setter_of(target, size)
        self.position: int | None = None
        self.keys: tuple[str | type[Event], ...]
        if self.monitor is not None:
            self.keys = (self.monitor,)
        else:
            self.keys = (EPOCH_KEY,) if interval == "epoch" else (ScalarUpdated, InfoUpdated)

    def _bound(self, name: str, value: object) -> int:
        bound = check_count(name, value, 1)
        if bound % self._multiple:
            raise ArgumentError(f"{name} must be a multiple of {self._multiple}, as multiple_of says, got {bound}")
        return bound

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            if self.monitor is not None:
                self._follow(event, events)
            else:
                self._plan(event, events)

    # --- by a plan

    def _plan(self, event: Event, events: Subscription) -> None:
        position = epoch_of(event) if self._interval == "epoch" else event.step
        if position is None or position == self.position or self._schedule is None:
            return
        planned = self._schedule(position)
        size = (
            self.size
            if planned is None
            else check_count(f"the size planned for {self._interval} {position}", planned, 1)
        )
        if size != self.size:
            self._change(size, f"planned for {self._interval} {position}", events)
        self.position = position

    # --- by a scalar

    def _follow(self, event: Event, events: Subscription) -> None:
        if not isinstance(event, ScalarUpdated) or event.key != self.monitor:
            return
        value = mean_of(event)
        if value is None:
            return
        size = self.wanted(value)
        if size is None:
            self._decide("kept", f"{self.monitor} is {value:.6g}, which is no size", value, events)
        elif abs(size - self.size) <= self._tolerance * self.size:
            self._decide("kept", f"{size} is within {self._tolerance:.0%} of {self.size}", value, events)
        else:
            self._change(size, f"{self.monitor} is {value:.6g}", events, value)

    def wanted(self, value: float) -> int | None:
        """Return the size that a value of ``monitor`` leads to, before ``tolerance``; None if to none."""
        wanted = self._scale * value
        if not (math.isfinite(wanted) and wanted > 0):
            return None
        rounded = round(wanted / self._multiple) * self._multiple
        return int(min(max(rounded, self._smallest), self._largest))

    # --- what follows

    def _change(self, size: int, reason: str, events: Subscription, value: float | None = None) -> None:
        old = self.size
        self._apply(size)
        self.size = size
        self._decide("changed", f"{old} -> {size}: {reason}", value, events)
        change = ParameterChanged(
            name="batch_size", group=0, old=float(old), new=float(size), reason=reason, author=events.name
        )
        events.publish(change)
        if self._lr_scaling is None:
            return
        factor = size / old if self._lr_scaling == "linear" else math.sqrt(size / old)
        why = f"{self._lr_scaling} scaling with the batch size, {old} -> {size}"
        for index, group in enumerate(self._optimizer.param_groups):
            before = float(group["lr"])
            set_parameter(group, "lr", before * factor)
            events.publish(
                ParameterChanged(
                    name="lr", group=index, old=before, new=float(group["lr"]), reason=why, author=events.name
                )
            )

    def _decide(self, verdict: str, reason: str, value: float | None, events: Subscription) -> None:
        events.publish(
            Decided(author=events.name, verdict=verdict, reason=reason, monitor=self.monitor or "", value=value)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return position and size; no arguments."""
        return {"position": self.position, "size": self.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved: its size is applied at once, the learning rate is left as it is.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        taken = take_state(state, {"position": (int, type(None)), "size": (int,)}, "BatchSizeScheduler")
        if taken["size"] < 1:
            raise StateDictError(f"'size' in the state of BatchSizeScheduler must be above 0, got {taken['size']}")
        if taken["size"] != self.size:
            self._apply(taken["size"])
        self.position, self.size = taken["position"], taken["size"]


def _plan_of(schedule: object) -> Callable[[int], int | None]:
    if isinstance(schedule, Mapping):
        sizes = sorted(
            (check_count("an epoch or step of schedule", begin), check_count(f"schedule[{begin!r}]", size, 1))
            for begin, size in schedule.items()
        )
        if not sizes:
            raise ArgumentError("schedule must name at least one size, e.g. {0: 64, 30: 256}, got none")
        return lambda position: next((size for begin, size in reversed(sizes) if begin <= position), None)
    if not callable(schedule) or isinstance(schedule, type):
        raise ArgumentError(f"schedule must be a function of epoch or step, or a dict of sizes, got {schedule!r:.80}")
    return schedule


def _setter_of(target: Any, size: int | None) -> tuple[Callable[[int], object], int]:
    """Return a function that sets the size, and the size now."""
    if isinstance(target, type):
        raise ArgumentError(f"target must be a loader, a batch sampler or a function, got the class {target.__name__}")
    owner = getattr(target, "batch_sampler", target)
    now = getattr(owner, "batch_size", None)
    if isinstance(now, Integral) and not isinstance(now, bool):
        if size is not None:
            raise ArgumentError(f"size is that of the {type(owner).__name__}, {now}: leave it out, got {size!r}")

        def set_size(new: int) -> None:
            owner.batch_size = new

        try:
            set_size(int(now))  # or it would fail at the first change, hours into the run
        except (AttributeError, TypeError, ValueError) as error:
            raise ArgumentError(
                f"the batch_size of {type(owner).__name__} cannot be set ({error}): give a function that does it"
            ) from error
        return set_size, int(now)
    if callable(target) and not inspect.iscoroutinefunction(target):
        if size is None:
            raise ArgumentError("target is a function: give size=, the batch size now")
        return target, check_count("size", size, 1)
    raise ArgumentError(
        "target must have a batch sampler with an int batch_size, be one, or be a function of the size, got "
        f"{target!r:.80}; a DataLoader with batch_size=None, or a batch sampler of another kind, needs a function"
    )
