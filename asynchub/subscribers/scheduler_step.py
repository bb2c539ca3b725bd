"""Drive a learning rate scheduler of torch from the events of a run.

Applied: at the settle point, in the thread of the training loop, so settle after ``optimizer.step()``: once a step for
    ``interval="step"``, once an epoch for ``interval="epoch"``.
Jumps: steps and epochs that nobody published anything in are made up for: the learning rate is that of a program that
    calls ``scheduler.step()`` inline, at every settle point. Going back calls nothing.
Resume: the state holds the scheduler's own, which is restored the way torch does, arguments included; the learning rate
    is part of the optimizer's state.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.every import EPOCH_KEY
from asynchub.requests import ParameterChanged
from asynchub.subscribers.checks import check_count, check_key, epoch_of, mean_of, take_state
from asynchub.subscription import Subscription

__all__ = ("SchedulerStep",)

logger = logging.getLogger("asynchub")


class SchedulerStep:
    """Call ``scheduler.step()`` once for each step or epoch of the run.

    ============================  ===========================================================================
    given                         calls
    ============================  ===========================================================================
    ``interval="epoch"``          one for each number that the runtime info ``epoch`` has gone up by
    ``interval="epoch", on=key``  one for each update of that scalar, which the program makes as an epoch ends
    ``interval="step"``           one for each number that the step of scalars and infos has gone up by
    ``interval="step", on=key``   the same, of that scalar alone
    ``monitor=key``               one, with its mean ``value / count``, for each update of that scalar
    ============================  ===========================================================================

    A program that sets ``epoch`` as an epoch begins and settles more than once in it needs ``on``: the first of these
    settle points would act an epoch early.

    Args:
        scheduler: any of ``torch.optim.lr_scheduler``, or what has their ``step``, ``state_dict`` and
            ``load_state_dict``; changes of the learning rate are published if it also has their ``optimizer``.
        interval: ``"epoch"`` or ``"step"``.
        frequency: steps, epochs or updates for each call; at least 1.
        on: key of a scalar; see above.
        monitor: key of the scalar that the scheduler's ``step`` takes, as torch's ``ReduceLROnPlateau`` does.
        start: the step or epoch that the scheduler begins at; default: the calls it has had (its ``last_epoch``) times
            ``frequency``. Give -1 in a program that counts from 0, and the newest one when a new scheduler takes over
            in the middle of a run.

    Raises:
        PatternError: ``on`` or ``monitor`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range, or the scheduler's ``step`` takes a metric
            and there is no ``monitor``, or the other way round.
    """

    role = "control"

    def __init__(
        self,
        scheduler: Any,
        *,
        interval: Literal["step", "epoch"] = "epoch",
        frequency: int = 1,
        on: str | None = None,
        monitor: str | None = None,
        start: int | None = None,
    ) -> None:
        self._takes_metric = _takes_metric(scheduler)
        if interval not in ("step", "epoch"):
            raise ArgumentError(f"interval must be 'step' or 'epoch', got {interval!r}")
        kind = type(scheduler).__name__
        if self._takes_metric and monitor is None:
            raise ArgumentError(f"{kind}.step takes a metric: name its key, e.g. monitor='val/loss'")
        if not self._takes_metric and monitor is not None:
            raise ArgumentError(f"{kind}.step takes no metric: leave out monitor; on={monitor!r} goes by its updates")
        if monitor is not None and (on is not None or start is not None or interval != "epoch"):
            raise ArgumentError("monitor alone says when to call: leave out interval, on and start")
        if interval == "epoch" and on is not None and start is not None:
            raise ArgumentError("with interval='epoch', on= counts updates from the first: leave out start")
        self._frequency = check_count("frequency", frequency, 1)
        self._start = None if start is None else check_count("start", start, -1)
        self._origin = 0 if self._start is None else self._start  # what frequency counts from
        key = monitor if monitor is not None else on
        self._key = None if key is None else check_key("on" if monitor is None else "monitor", key)
        self._scheduler = scheduler
        self._position: int | None = None
        self._interval = interval
        self.keys: tuple[str | type[Event], ...]
        if self._key is not None:
            self.keys = (self._key,)
        else:
            self.keys = (ScalarUpdated, InfoUpdated) if interval == "step" else (EPOCH_KEY,)
        self._reached: Callable[[Event, int], int | None]
        if interval == "step":
            self._reached = self._step_of
        else:
            self._reached = self._epoch_of if self._key is None else self._count_of

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            before = self._begun()
            reached = self._reached(event, before)
            if reached is None or reached <= before:
                continue
            calls = self._calls(reached) - self._calls(before)
            if calls:
                self._advance(calls, event, events)
            self._position = reached
        if self._position is None:
            logger.warning("%s had nothing to go by: %s never came", events.name, self._awaited())

    def _calls(self, position: int) -> int:
        return (position - self._origin) // self._frequency

    def _awaited(self) -> str:
        if self._key is not None:
            return f"the scalar {self._key!r}"
        return "the runtime info 'epoch'" if self._interval == "epoch" else "a new step"

    def _begun(self) -> int:
        """Return the step, epoch or update up to which the scheduler has been called."""
        if self._position is not None:
            return self._position
        if self._start is not None:
            return self._start
        had = getattr(self._scheduler, "last_epoch", 0)
        return had * self._frequency if isinstance(had, int) else 0

    def _step_of(self, event: Event, before: int) -> int | None:
        wanted = isinstance(event, ScalarUpdated) if self._key else isinstance(event, ScalarUpdated | InfoUpdated)
        return event.step if wanted and self._key in (None, event.key) else None

    def _epoch_of(self, event: Event, before: int) -> int | None:
        return epoch_of(event)

    def _count_of(self, event: Event, before: int) -> int | None:
        if not isinstance(event, ScalarUpdated) or event.key != self._key or mean_of(event) is None:
            return None
        return before + 1

    def _advance(self, calls: int, event: Event, events: Subscription) -> None:
        old = self._rates()
        metric = mean_of(event) if self._takes_metric and isinstance(event, ScalarUpdated) else None
        for _ in range(calls):
            self._scheduler.step() if metric is None else self._scheduler.step(metric)
        author, reason = events.name, f"{type(self._scheduler).__name__} on {self._key or self._interval}"
        for group, (before, after) in enumerate(zip(old, self._rates(), strict=False)):
            if before != after:
                change = ParameterChanged(name="lr", group=group, old=before, new=after, reason=reason, author=author)
                events.publish(change)

    def _rates(self) -> list[float]:
        optimizer = getattr(self._scheduler, "optimizer", None)
        return [float(group["lr"]) for group in getattr(optimizer, "param_groups", ())]

    def state_dict(self) -> dict[str, Any]:
        """Return how far the run has come, and the scheduler's own state in plain lists, dicts and numbers."""
        return {
            "position": self._position,
            "origin": self._origin,
            "kind": type(self._scheduler).__name__,
            "scheduler": _plain(self._scheduler.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned, or of another kind of scheduler.
        """
        fields = {"position": (int, type(None)), "origin": (int,), "kind": (str,), "scheduler": (dict,)}
        taken = take_state(state, fields, "SchedulerStep")
        kind = type(self._scheduler).__name__
        if taken["kind"] != kind:
            raise StateDictError(
                f"the state is of a {taken['kind']}, got a {kind}; attach it under another name= to begin it anew"
            )
        self._scheduler.load_state_dict(_like(self._scheduler.state_dict(), taken["scheduler"]))
        self._position, self._origin = taken["position"], taken["origin"]


def _takes_metric(scheduler: Any) -> bool:
    """Tell whether the ``step`` of ``scheduler`` has an argument that must be given."""
    for name in ("step", "state_dict", "load_state_dict"):
        if isinstance(scheduler, type) or not callable(getattr(scheduler, name, None)):
            raise ArgumentError(f"scheduler must have {name}(), as those of torch.optim do, got {scheduler!r:.80}")
    return any(
        one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        for one in inspect.signature(scheduler.step).parameters.values()
    )


def _plain(value: Any) -> Any:
    """Return ``value`` in builtins: tensors and NumPy scalars as numbers, tuples as lists, a ``Counter`` as a dict."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def _like(model: Any, value: Any) -> Any:
    """Return plain ``value`` in the types that ``model``, the state of a scheduler of the same kind, has."""
    if isinstance(model, Counter):
        return Counter(value)
    if isinstance(model, Mapping) and isinstance(value, Mapping):
        return {key: _like(model.get(key), item) for key, item in value.items()}
    if isinstance(model, (list, tuple)) and isinstance(value, list):
        models = [*model, *[None] * (len(value) - len(model))]
        return type(model)(_like(one, item) for one, item in zip(models, value, strict=False))
    if callable(getattr(model, "new_tensor", None)):
        return model.new_tensor(value)
    return value
