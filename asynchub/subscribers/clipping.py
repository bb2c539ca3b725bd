"""Advice on clipping gradients: the norm to clip to, from the norms that there have been.

An adviser reads the norm of the gradients before clipping, and publishes the threshold for the next step. It touches no
gradient: the loop clips, with ``torch.nn.utils.clip_grad_norm_``, which returns the norm to publish::

    norm = clip_grad_norm_(model.parameters(), adviser.threshold)
    hub.update_scalar("train/grad_norm", norm)

Deterministic: it learns at settle points, from the events alone; a recorded run gives the same thresholds again.
Not norms: a value that is NaN, infinite or below 0, such as of gradients that overflowed, teaches nothing.
Resume: the state holds what was seen, never the arguments: those of the constructor win.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import ScalarUpdated
from asynchub.requests import Decided
from asynchub.subscribers.actions import at_step
from asynchub.subscribers.checks import check_count, check_key, check_number, mean_of, take_state
from asynchub.subscription import Subscription

__all__ = ("AutoClip", "ZClip")


class _Adviser(ABC):
    """Reads norms, and publishes a threshold after each."""

    role = "control"

    def __init__(self, monitor: str, key: str) -> None:
        self.monitor = check_key("monitor", monitor)
        self.key = check_key("key", key)
        if key == monitor:
            raise ArgumentError(f"key must be another one than monitor, got {key!r} for both")
        self.keys = (self.monitor,)

    @property
    @abstractmethod
    def threshold(self) -> float: ...

    @abstractmethod
    def _learn(self, norm: float, event: ScalarUpdated, events: Subscription) -> None: ...

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            if not isinstance(event, ScalarUpdated) or event.key != self.monitor:
                continue
            norm = mean_of(event)
            if norm is None or not 0 <= norm < math.inf:
                continue
            self._learn(norm, event, events)
            threshold = self.threshold
            if threshold < math.inf:
                events.update_scalar(self.key, threshold, step=event.step)


class ZClip(_Adviser):
    """Advise to clip gradients whose norm is many standard deviations above its moving average.

    The first ``warmup_steps`` norms give a mean ``m`` and a variance ``v`` (that of all of them). From then on, with
    ``s = sqrt(v)`` and ``z = (norm - m) / (s + eps)``, a norm with ``z > z_thresh`` is a spike, to be clipped to

    * ``clip_factor * (m + s * z_thresh ** 2 / z)`` with ``clip_option="adaptive_scaling"``: the larger the spike, the
      closer to the mean;
    * ``m`` with ``clip_option="mean"``.

    With ``mode="percentile"`` a norm above ``m + z_thresh * s`` is one, to be clipped to that. Then ``g``, the norm as
    clipped to this, or as it is, moves the averages: ``m = alpha * m + (1 - alpha) * g``, and with this new ``m``
    ``v = alpha * v + (1 - alpha) * (g - m) ** 2``. In all cases, and during the warm-up, ``max_grad_norm`` is the most
    that is advised; it does not enter the averages.

    What a spike is to be clipped to depends on its own norm. A loop that waits for the norm of this step gets it from
    ``clip_to``, and does what the original does. One that does not wait clips to ``threshold``: the most that a norm
    can be without being a spike.

    A spike is published as a ``Decided`` with the verdict ``"clip"``, the norm as ``value`` and what it is to be
    clipped to as ``best``.

    Args:
        monitor: key of the norm of the gradients before clipping.
        alpha: weight of the past in the moving averages; from 0 to below 1.
        z_thresh: standard deviations above the mean beyond which a norm is a spike; above 0.
        max_grad_norm: the most that is advised; above 0, or None for no limit.
        eps: added to the standard deviation; not below 0.
        warmup_steps: norms that the first mean is over; at least 1.
        mode: ``"zscore"`` or ``"percentile"``.
        clip_option: ``"adaptive_scaling"`` or ``"mean"``; for ``"zscore"`` only.
        clip_factor: factor of what adaptive scaling advises; above 0.
        skip_update_on_spike: whether a spike leaves the averages as they are. (It is their update that is skipped, not
            that of the model.)
        key: of the scalar that ``threshold`` is published as.

    Attributes:
        monitor: as given.
        key: as given.
        mean: the moving average; None during the warm-up.
        variance: the moving variance; None during the warm-up.

    Raises:
        PatternError: ``monitor`` or ``key`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range.

    Source:
        Kumar et al., "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", arXiv 2504.02507, 2025; ``"percentile"``,
        ``"mean"``, ``clip_factor`` and the defaults as in the authors' package, zclip 1.0.
    """

    def __init__(
        self,
        monitor: str = "train/grad_norm",
        *,
        alpha: float = 0.97,
        z_thresh: float = 2.5,
        max_grad_norm: float | None = 1.0,
        eps: float = 1e-6,
        warmup_steps: int = 25,
        mode: Literal["zscore", "percentile"] = "zscore",
        clip_option: Literal["adaptive_scaling", "mean"] = "adaptive_scaling",
        clip_factor: float = 1.0,
        skip_update_on_spike: bool = False,
        key: str = "clip/threshold",
    ) -> None:
        super().__init__(monitor, key)
        self._alpha = check_number("alpha", alpha, 0)
        if self._alpha >= 1:
            raise ArgumentError(f"alpha must be below 1, got {alpha!r}")
        self._z_thresh = _above_0("z_thresh", z_thresh)
        self._limit = math.inf if max_grad_norm is None else _above_0("max_grad_norm", max_grad_norm)
        self._eps = check_number("eps", eps, 0)
        self._warmup_steps = check_count("warmup_steps", warmup_steps, 1)
        if mode not in ("zscore", "percentile"):
            raise ArgumentError(f"mode must be 'zscore' or 'percentile', got {mode!r}")
        if clip_option not in ("adaptive_scaling", "mean"):
            raise ArgumentError(f"clip_option must be 'adaptive_scaling' or 'mean', got {clip_option!r}")
        if not isinstance(skip_update_on_spike, bool):
            raise ArgumentError(f"skip_update_on_spike must be True or False, got {skip_update_on_spike!r}")
        self._mode = mode
        self._clip_option = clip_option
        self._clip_factor = _above_0("clip_factor", clip_factor)
        self._skip_update = skip_update_on_spike
        self._warmup: list[float] = []
        self.mean: float | None = None
        self.variance: float | None = None

    @property
    def threshold(self) -> float:
        """The largest norm that the next gradient is to have; infinite while there is no limit."""
        return min(self._most(), self._limit)

    def _most(self) -> float:
        """Return the largest norm that is no spike."""
        if self.mean is None or self.variance is None:
            return math.inf
        return self.mean + self._z_thresh * self._scale(math.sqrt(self.variance))

    def _scale(self, deviation: float) -> float:
        return deviation + self._eps if self._mode == "zscore" else deviation

    def clip_to(self, norm: float) -> float:
        """Return the ``max_norm`` for a gradient of this norm, the next one to be published; infinite if it has none.

        Changes nothing.
        """
        spike = self._clipped(norm)
        return self._limit if spike is None else min(spike, self._limit)

    def _clipped(self, norm: float) -> float | None:
        """Return what a spike is to be clipped to, whatever ``max_grad_norm`` is; None if ``norm`` is none."""
        if self.mean is None or self.variance is None or math.isnan(norm):
            return None
        if self._mode == "percentile":
            return self._most() if norm > self._most() else None
        above, deviation = norm - self.mean, math.sqrt(self.variance)
        scale = self._scale(deviation)
        z = above / scale if scale else math.inf * above  # NaN at the mean itself, and so no spike
        if not z > self._z_thresh:
            return None
        if self._clip_option == "mean":
            return self.mean
        return self._clip_factor * (self.mean + deviation * self._z_thresh**2 / z)

    def _learn(self, norm: float, event: ScalarUpdated, events: Subscription) -> None:
        if self.mean is None or self.variance is None:
            self._warm_up(norm)
            return
        spike = self._clipped(norm)
        if spike is not None:
            to = min(spike, self._limit)
            reason = f"{self.monitor} is {norm:.6g}{at_step(event)}, a spike above {self._most():.6g}: clip to {to:.6g}"
            events.publish(
                Decided(
                    author=events.name,
                    verdict="clip",
                    reason=reason,
                    monitor=self.monitor,
                    value=norm,
                    best=to,
                    step=event.step,
                )
            )
            if self._skip_update:
                return
            norm = spike
        rest = 1 - self._alpha
        mean = self._alpha * self.mean + rest * norm
        variance = self._alpha * self.variance + rest * (norm - mean) * (norm - mean)
        if variance < math.inf:  # from that it would never come down again
            self.mean, self.variance = mean, variance

    def _warm_up(self, norm: float) -> None:
        if norm * norm == math.inf:  # as below
            return
        self._warmup.append(norm)
        count = len(self._warmup)
        if count < self._warmup_steps:
            return
        mean = math.fsum(one / count for one in self._warmup)
        variance = math.fsum((one - mean) * (one - mean) / count for one in self._warmup)
        self.mean, self.variance, self._warmup = mean, variance, []

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen; no arguments."""
        return {"warmup": list(self._warmup), "mean": self.mean, "variance": self.variance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        maybe = (float, type(None))
        taken = take_state(state, {"warmup": (list,), "mean": maybe, "variance": maybe}, "ZClip")
        norms = _norms_of("warmup", taken["warmup"])
        mean, variance = taken["mean"], taken["variance"]
        if [mean, variance] != [None, None] and not all(
            one is not None and 0 <= one < math.inf for one in (mean, variance)
        ):
            raise StateDictError(f"'mean' and 'variance' must both be finite, or None, got {mean!r} and {variance!r}")
        self._warmup, self.mean, self.variance = norms, mean, variance


class AutoClip(_Adviser):
    """Advise to clip gradients to a percentile of the norms that there have been.

    The threshold is what ``numpy.percentile`` returns for the last ``history_size`` norms, to the last bit. With a
    history of 10,000, a step costs some microseconds: it is kept in order, and a norm goes in and out by bisection.

    The original adds the norm of a step before it clips that step. A loop that waits for the norm of this step gets the
    same from ``clip_to``; one that does not clips to ``threshold``, which knows of the steps before only.

    Args:
        clip_percentile: from 0 to 100.
        history_size: norms that are kept; at least 1.
        monitor: key of the norm of the gradients before clipping.
        key: of the scalar that ``threshold`` is published as.

    Attributes:
        monitor: as given.
        key: as given.

    Raises:
        PatternError: ``monitor`` or ``key`` is not a key.
        ArgumentError: another argument is of a wrong type or out of range.

    Source:
        Seetharaman et al., "AutoClip: Adaptive Gradient Clipping for Source Separation Networks", MLSP 2020; the
        10th percentile is what it found best. There the history has no bound.
    """

    def __init__(
        self,
        clip_percentile: float = 10,
        history_size: int = 10_000,
        monitor: str = "train/grad_norm",
        *,
        key: str = "clip/threshold",
    ) -> None:
        super().__init__(monitor, key)
        self._quantile = check_number("clip_percentile", clip_percentile, 0) / 100
        if self._quantile > 1:
            raise ArgumentError(f"clip_percentile must be from 0 to 100, got {clip_percentile!r}")
        self._history: deque[float] = deque(maxlen=check_count("history_size", history_size, 1))
        self._sorted: list[float] = []

    @property
    def threshold(self) -> float:
        """The largest norm that the next gradient is to have; infinite before the first one."""
        return _percentile(self._sorted, self._quantile) if self._sorted else math.inf

    def clip_to(self, norm: float) -> float:
        """Return the ``max_norm`` for a gradient of this norm, the next one to be published.

        Changes nothing; copies the history. For what is no norm, ``threshold``.
        """
        if not 0 <= norm < math.inf:
            return self.threshold
        ordered = list(self._sorted)
        if len(self._history) == self._history.maxlen:
            del ordered[bisect.bisect_left(ordered, self._history[0])]
        bisect.insort(ordered, norm)
        return _percentile(ordered, self._quantile)

    def _learn(self, norm: float, event: ScalarUpdated, events: Subscription) -> None:
        if len(self._history) == self._history.maxlen:
            del self._sorted[bisect.bisect_left(self._sorted, self._history[0])]
        self._history.append(norm)
        bisect.insort(self._sorted, norm)

    def state_dict(self) -> dict[str, Any]:
        """Return the history, oldest norm first; no arguments. About 9 bytes a norm when saved."""
        return {"history": list(self._history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved, with this object's own arguments; the newest ``history_size`` are kept.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        norms = _norms_of("history", take_state(state, {"history": (list,)}, "AutoClip")["history"])
        self._history = deque(norms, self._history.maxlen)
        self._sorted = sorted(self._history)


def _percentile(ordered: list[float], quantile: float) -> float:
    """Return the quantile of numbers in order by linear interpolation, rounded as ``numpy.percentile`` does."""
    place = quantile * (len(ordered) - 1)
    index = math.floor(place)
    if index + 1 >= len(ordered):
        return ordered[-1]
    low, high = ordered[index], ordered[index + 1]
    share = place - index
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def _norms_of(name: str, values: list[Any]) -> list[float]:
    if not all(type(one) is float and 0 <= one < math.inf for one in values):
        raise StateDictError(f"{name!r} must be a list of finite norms, got {values!r:.80}")
    return list(values)


def _above_0(name: str, value: object) -> float:
    number = check_number(name, value, 0)
    if not number:
        raise ArgumentError(f"{name} must be above 0, got {value!r}")
    return number
