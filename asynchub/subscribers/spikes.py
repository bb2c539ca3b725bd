"""Spike detection: skip, go back or stop when a scalar jumps away from its recent mean.

Deterministic: it decides at settle points, from the events alone; a recorded run gives the same decisions again. What a
    loop is asked at the settle point between its forward and its backward pass, it can still heed in that step.
The window: holds what was accepted; a spike never enters what it, or a later value, is compared with.
Not finite: a NaN or an infinity never enters the window either.
Resume: the state holds what was seen, never the arguments: those of the constructor win. The file of bad batches is
    read, too, so that batches found after the state was saved are known.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from numbers import Integral
from os import PathLike
from typing import Any

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoRemoved, InfoUpdated, ScalarUpdated
from asynchub.requests import Decided, ParameterChanged, RequestApplied, RollbackRequested
from asynchub.subscribers.actions import Action, act, at_step, check_action, verdict_of
from asynchub.subscribers.bad_batches import BadBatches
from asynchub.subscribers.checks import Mode, check_count, check_key, check_number, mean_of, take_state
from asynchub.subscribers.parameters import set_parameter
from asynchub.subscription import Subscription

__all__ = ("BATCH_KEY", "SpikeDetection")

BATCH_KEY = "batch_index"
"""The runtime info that names the batch a step is made of."""


class SpikeDetection:
    """Act when ``monitor`` is worse than the mean of its last accepted values by far.

    A value is one update of ``monitor``, the mean ``value / count``. With ``m`` the mean of the window, ``s`` its
    standard deviation (that of a sample) and ``d`` what the value is worse than ``m`` by (``value - m`` for
    ``mode="min"``, ``m - value`` for ``"max"``), it is a spike if it is worse than ``m`` and than the value that was
    accepted last, and

    * ``d >= rtol * abs(m)``, the default with 2.0: a loss of three times the mean;
    * ``d >= atol``;
    * ``d >= z_thresh * s``; with fewer than two values in the window nothing is.

    All that are given must hold. Where ``m`` is near 0 a share of it means little: give ``atol`` as well.

    Spikes in one place count together: ``actions`` begins anew when ``window`` values have been accepted from the last
    of their steps on. So a run may have any number of bad batches, but one that comes back to the same spike again and
    again is stopped. When the loop goes back to a checkpoint, ``hub.step`` must, too.

    Its ``Decided`` events have the verdict ``"skip"``, ``"rollback"``, ``"stop"`` or ``"call"`` for a spike, and
    ``"recovered"`` for the first value accepted after one; there is none for an ordinary value.

    Args:
        monitor: key of the scalar.
        mode: ``"min"`` or ``"max"``: which values are better.
        window: accepted values that the mean is over; at least 1.
        warmup: values before spikes are looked for; these are all accepted. With ``z_thresh``, give about ``window``.
        atol: difference from the mean; not below 0.
        rtol: difference from the mean as a share of its magnitude; not below 0.
        z_thresh: difference from the mean in standard deviations of the window; not below 0.
        finite_only: whether only finite values are looked at; otherwise a NaN or an infinity is a spike, too.
        action: ``"skip"``, ``"rollback"`` or ``"stop"``, which are asked of the loop; or a function of the event,
            called in the training loop's thread.
        max_actions: actions in one place after which the next spike asks for a stop instead; None for no limit.
        lr_decay: after a rollback, multiply the learning rate of each group of ``optimizer`` by this: the smaller one
            of those before and after the rollback, so that going back to the same checkpoint again decays it further.
            Above 0 and at most 1.
        optimizer: a ``torch.optim.Optimizer``, or anything with its ``param_groups``; for ``lr_decay``.
        exclude_batches_path: file to list bad batches in, a JSON array of ints; replaced atomically at each spike, and
            read back by the constructor and by ``load_state_dict``.

    Attributes:
        monitor: as given.
        mode: as given.
        actions: actions in this place so far.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range.
        CorruptStateError: the file at ``exclude_batches_path`` holds something else than a JSON array of ints.

    Source:
        Arguments and the rule for ``atol`` and ``rtol``: Lightning 2.6, ``SpikeDetection``. Going back and leaving out
        batches: Chowdhery et al., "PaLM", 2022, section 5.1.
    """

    role = "control"

    def __init__(
        self,
        monitor: str = "train/loss",
        *,
        mode: Mode = "min",
        window: int = 10,
        warmup: int = 1,
        atol: float | None = None,
        rtol: float | None = 2.0,
        z_thresh: float | None = None,
        finite_only: bool = True,
        action: Action = "skip",
        max_actions: int | None = 3,
        lr_decay: float | None = None,
        optimizer: Any = None,
        exclude_batches_path: str | PathLike[str] | None = None,
    ) -> None:
        self.monitor = check_key("monitor", monitor)
        if mode not in ("min", "max"):
            raise ArgumentError(f"mode must be 'min' or 'max', got {mode!r}")
        self.mode = mode
        self._size = check_count("window", window, 1)
        self._warmup = check_count("warmup", warmup)
        self._atol = None if atol is None else check_number("atol", atol, 0)
        self._rtol = None if rtol is None else check_number("rtol", rtol, 0)
        self._z_thresh = None if z_thresh is None else check_number("z_thresh", z_thresh, 0)
        if atol is None and rtol is None and z_thresh is None:
            raise ArgumentError("one of atol, rtol and z_thresh must say what a spike is, got None for all")
        if not isinstance(finite_only, bool):
            raise ArgumentError(f"finite_only must be True or False, got {finite_only!r}")
        self._finite_only = finite_only
        check_action(action, ("skip", "rollback", "stop"))
        self._action = action
        self._max_actions = None if max_actions is None else check_count("max_actions", max_actions)
        self._lr_decay = None if lr_decay is None else _decay_of(lr_decay, action, optimizer)
        self._optimizer = optimizer
        self._bad = BadBatches(exclude_batches_path)
        self.keys: tuple[str | type[Event], ...] = (self.monitor, BATCH_KEY)
        if lr_decay is not None:
            self.keys += (RequestApplied,)
        self._window: deque[float] = deque(maxlen=self._size)
        self._seen = 0
        self._spiking = False  # whether the newest value was a spike
        self.actions = 0
        self._furthest: int | None = None  # the largest step that an action was for
        self._clean = 0  # values accepted from it on, without a spike
        self._batch: int | None = None
        self._batch_before: int | None = None
        self._pending: tuple[int, list[float]] | None = None  # seq of a rollback, and the learning rates before it
        self._stop_asked = False

    async def __call__(self, events: Subscription) -> None:
        self._stop_asked = False  # once in a life: a run that goes on after a resume is to hear it again
        async for event in events:
            if event.key == BATCH_KEY and isinstance(event, InfoUpdated | InfoRemoved):
                self._batch = _index_of(event)
            elif isinstance(event, RequestApplied):
                self._rolled_back(event, events)
            elif isinstance(event, ScalarUpdated) and event.key == self.monitor:
                value = mean_of(event)
                if value is not None:
                    self._take(event, value, events)

    @property
    def excluded(self) -> list[int]:
        """The bad batches so far, in order, those in the file included.

        Each is the runtime info ``batch_index`` where a program sets it, else the step. With ``action="rollback"`` the
        one before a spike is listed, too, as its update may be what caused it.
        """
        return list(self._bad.listed)

    # --- the rule

    @property
    def mean(self) -> float | None:
        """The mean of the window; None while it is empty."""
        count = len(self._window)
        return math.fsum(one / count for one in self._window) if count else None  # divided first: a sum could overflow

    def check(self, value: float) -> bool:
        """Take one more value into account; tell whether it is a spike. This is the whole rule but for its actions."""
        self._seen += 1
        watching = self._seen > self._warmup
        if not math.isfinite(value):
            return watching and not self._finite_only
        spike = watching and self._is_spike(value)
        if not spike:
            self._window.append(value)
        return spike

    def _is_spike(self, value: float) -> bool:
        mean = self.mean
        if mean is None:
            return False
        sign = 1.0 if self.mode == "min" else -1.0
        difference = sign * (value - mean)
        if difference <= 0 or sign * (value - self._window[-1]) <= 0:
            return False
        if self._rtol is not None and difference < self._rtol * abs(mean):
            return False
        if self._atol is not None and difference < self._atol:
            return False
        if self._z_thresh is None:
            return True
        count = len(self._window)
        deviation = math.hypot(*(one - mean for one in self._window))
        return count > 1 and difference >= self._z_thresh * (deviation / math.sqrt(count - 1))

    # --- what follows

    def _take(self, event: ScalarUpdated, value: float, events: Subscription) -> None:
        mean = self.mean if self._spiking else None
        batch = event.step if self._batch is None else self._batch
        if self.check(value):
            self._spiking = True
            self._spiked(event, value, batch, events)
        elif math.isfinite(value):
            self._accepted(event.step)
            if self._spiking:
                self._spiking = False
                reason = f"{self.monitor} is {value:.6g} again{at_step(event)}"
                events.publish(self._decision("recovered", reason, event, value, mean, events))
        self._batch_before = batch

    def _accepted(self, step: int | None) -> None:
        if not self.actions or not (step is None or self._furthest is None or step >= self._furthest):
            return
        self._clean += 1
        if self._clean >= self._size:
            self.actions, self._clean, self._furthest = 0, 0, None

    def _spiked(self, event: ScalarUpdated, value: float, batch: int | None, events: Subscription) -> None:
        reason = self._reason(event, value)
        action = self._action
        if self._max_actions is not None and self.actions >= self._max_actions and action != "stop":
            reason += f"; {self.actions} action{'' if self.actions == 1 else 's'} in this place did not help"
            action = "stop"
        else:
            self.actions += 1
        self._clean = 0
        if event.step is not None:
            self._furthest = event.step if self._furthest is None else max(self._furthest, event.step)
        bad = (batch, self._batch_before) if self._action == "rollback" else (batch,)
        self._bad.add(one for one in bad if one is not None)
        decided = self._decision(verdict_of(action), reason, event, value, self.mean, events)
        if action == "stop" and self._stop_asked:
            events.publish(decided)
            return
        self._stop_asked = self._stop_asked or action == "stop"
        rates = self._rates()
        request = act(action, event, events, decided)
        if isinstance(request, RollbackRequested) and self._lr_decay is not None:
            self._pending = (request.seq, rates)

    def _decision(
        self, verdict: str, reason: str, event: Event, value: float, mean: float | None, events: Subscription
    ) -> Decided:
        return Decided(
            author=events.name,
            verdict=verdict,
            reason=reason,
            monitor=self.monitor,
            value=value,
            best=mean,
            wait=self.actions,
            patience=self._max_actions,
            step=event.step,
        )

    def _reason(self, event: Event, value: float) -> str:
        said = f"{self.monitor} is {value:.6g}{at_step(event)}"
        mean, count = self.mean, len(self._window)
        return said if mean is None else f"{said}; the mean of the last {count} is {mean:.6g}"

    # --- after a rollback

    def _rates(self) -> list[float]:
        return [] if self._lr_decay is None else [float(group["lr"]) for group in self._optimizer.param_groups]

    def _rolled_back(self, applied: RequestApplied, events: Subscription) -> None:
        if self._pending is None or self._lr_decay is None or applied.request_seq != self._pending[0]:
            return
        before, self._pending = self._pending[1], None
        for index, (group, now) in enumerate(zip(self._optimizer.param_groups, self._rates(), strict=True)):
            new = min([now, *before[index : index + 1]]) * self._lr_decay
            if new == now:
                continue
            set_parameter(group, "lr", new)
            reason = f"{applied.reason}; went back"
            change = ParameterChanged(name="lr", group=index, old=now, new=new, reason=reason, author=events.name)
            events.publish(change)

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen and decided; no arguments."""
        return {
            "window": list(self._window),
            "seen": self._seen,
            "spiking": self._spiking,
            "actions": self.actions,
            "furthest": self._furthest,
            "clean": self._clean,
            "batch": self._batch,
            "batch_before": self._batch_before,
            "pending": None if self._pending is None else [self._pending[0], list(self._pending[1])],
            "excluded": self.excluded,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments; bad batches in the file are kept.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
            CorruptStateError: the file of bad batches holds something else by now.
        """
        maybe = (int, type(None))
        counts = {"seen": (int,), "spiking": (bool,), "actions": (int,), "furthest": maybe, "clean": (int,)}
        batches = {"batch": maybe, "batch_before": maybe, "excluded": (list,)}
        fields = {"window": (list,), **counts, **batches, "pending": (list, type(None))}
        taken = take_state(state, fields, "SpikeDetection")
        if not all(type(one) is float and math.isfinite(one) for one in taken["window"]):
            raise StateDictError(f"'window' must be a list of finite floats, got {taken['window']!r:.80}")
        if not all(type(one) is int for one in taken["excluded"]):
            raise StateDictError(f"'excluded' must be a list of ints, got {taken['excluded']!r:.80}")
        pending = taken["pending"]
        if pending is not None and not (
            [type(one) for one in pending] == [int, list] and all(type(one) is float for one in pending[1])
        ):
            raise StateDictError(f"'pending' must be None or [seq, learning rates], got {pending!r:.80}")
        self._bad.reread(*taken["excluded"])
        self._window = deque(taken["window"], self._size)
        self._seen, self._spiking, self.actions = taken["seen"], taken["spiking"], taken["actions"]
        self._furthest, self._clean = taken["furthest"], taken["clean"]
        self._batch, self._batch_before, self._pending = taken["batch"], taken["batch_before"], None
        if pending is not None:
            self._pending = (pending[0], list(pending[1]))


def _decay_of(lr_decay: object, action: object, optimizer: Any) -> float:
    decay = check_number("lr_decay", lr_decay, 0)
    if not 0 < decay <= 1:
        raise ArgumentError(f"lr_decay must be above 0 and at most 1, got {lr_decay!r}")
    if action != "rollback":
        raise ArgumentError(f"lr_decay is for action='rollback', got action={action!r:.80}")
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) and "lr" in group for group in groups):
        raise ArgumentError(
            f"lr_decay needs an optimizer with an lr in each of its param_groups, got {optimizer!r:.80}"
        )
    return decay


def _index_of(event: InfoUpdated | InfoRemoved) -> int | None:
    if isinstance(event, InfoRemoved) or isinstance(event.value, bool):
        return None
    return int(event.value) if isinstance(event.value, Integral) else None
