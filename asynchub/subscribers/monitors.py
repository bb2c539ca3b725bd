"""How fast a run goes and what its steps spend their time on, from what it publishes anyway.

Time: of ``ThroughputMonitor`` that of the events (``Event.time``); of ``StepTimeMonitor`` what the program measured. No
    clock of their own, so a replay measures the run and not itself.
Pauses: a step after a pause stands apart. A pause is whatever the program does between two steps and says so: an
    evaluation (keys ``val/**`` and the like), a new epoch (the runtime info ``epoch``), a checkpoint, a save, a resume.
    Also events that the monitor lost.
Steps: what is published has the step of the newest update it is made of.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np

from asynchub.errors import ArgumentError
from asynchub.events import ScalarUpdated
from asynchub.subscribers.checks import check_count, check_key, check_number, mean_of
from asynchub.subscribers.display import RESULT_KEYS
from asynchub.subscribers.monitoring import PASS_KEY, Alarm, WindowMonitor

__all__ = ("StepTimeMonitor", "ThroughputMonitor", "timed_batches")

logger = logging.getLogger("asynchub")
T = TypeVar("T")


class ThroughputMonitor(WindowMonitor):
    """Publish how many batches, samples and tokens the run gets through in a second.

    A batch is one update of ``samples``, and its size the ``count`` of that; it took the time since the update before.
    A rate is the sum over the last ``window_size`` batches, divided by the time they took. The first batch after a
    pause is left out with its time, so an evaluation or the start of an epoch does not lower the rate.

    =========================  =============================================================================
    ``batches_per_sec``        batches a second
    ``samples_per_sec``        samples a second
    ``tokens_per_sec``         with ``tokens``: tokens a second
    ``flops_per_sec``          with ``flops_per_sample``: floating-point operations a second
    ``mfu``                    with ``available_flops``: the share of them that one device could do at most
    ``device/..._per_sec``     with ``world_size`` above 1: the first four, for this process alone
    =========================  =============================================================================

    Args:
        window_size: batches that a rate is measured over.
        samples: key of a scalar that is updated once for each batch, with the batch size as its ``count``.
        tokens: key of a scalar whose value is the number of tokens in the batch, at the same step.
        batch_size: samples in a batch, for a program that gives no ``count``.
        every: batches from one publishing to the next; default ``window_size``, so that each batch is in one value.
        world_size: processes that train together, each with as much as this one: rates of the run are that many times
            those of this process.
        flops_per_sample: floating-point operations for one sample, forward and backward.
        available_flops: what one device can do in a second at most, in the precision of the run; needs
            ``flops_per_sample``.
        pauses: patterns of the keys that tell of an evaluation.
        prefix: put before each key.

    Raises:
        PatternError: a key or pattern is malformed.
        ArgumentError: another argument is of a wrong type or out of range.

    Source:
        Lightning 2.6, ``Throughput``: names and formulas. Its window of n values spans n - 1 batches, and its
        ``world_size`` of 1 publishes under ``device/`` only.
    """

    def __init__(
        self,
        window_size: int = 100,
        *,
        samples: str = "train/loss",
        tokens: str | None = None,
        batch_size: int | None = None,
        every: int | None = None,
        world_size: int = 1,
        flops_per_sample: float | None = None,
        available_flops: float | None = None,
        pauses: Iterable[str] = RESULT_KEYS,
        prefix: str = "throughput/",
    ) -> None:
        if available_flops is not None and flops_per_sample is None:
            raise ArgumentError("available_flops needs flops_per_sample: how much of them is used follows from both")
        self._batch_size = None if batch_size is None else check_count("batch_size", batch_size, 1)
        self._world_size = check_count("world_size", world_size, 1)
        self._flops = None if flops_per_sample is None else check_number("flops_per_sample", flops_per_sample, 0)
        self._available = None if available_flops is None else check_number("available_flops", available_flops, 0)
        if self._available == 0:
            raise ArgumentError("available_flops must be above 0, got 0")
        rates = ["batches_per_sec", "samples_per_sec"]
        rates += ["tokens_per_sec"] if tokens is not None else []
        rates += ["flops_per_sec"] if flops_per_sample is not None else []
        self._rates = rates
        names = [*rates, *(f"device/{name}" for name in rates), "mfu"]
        main, other = check_key("samples", samples), None if tokens is None else check_key("tokens", tokens)
        super().__init__(main, other, window_size, every, pauses, prefix, names)

    def _begin(self) -> None:
        super()._begin()
        self._time = math.nan

    def _measured(self, event: ScalarUpdated) -> list[float] | None:
        seconds, self._time = event.time - self._time, event.time
        if not seconds >= 0:  # the first, or a clock that was set back
            self._paused = True
        return [seconds, max(_finite(event.count), 0.0) if self._batch_size is None else self._batch_size]

    def _measured_other(self, event: ScalarUpdated) -> float:
        return _finite(event.value)

    def _values(self) -> Iterator[tuple[str, float]]:
        seconds, samples, tokens = map(math.fsum, zip(*self._window, strict=True))
        if not seconds > 0:
            return
        amounts = {"batches_per_sec": len(self._window), "samples_per_sec": samples, "tokens_per_sec": tokens}
        amounts["flops_per_sec"] = samples * (self._flops or 0.0)
        for name in self._rates:
            yield name, amounts[name] / seconds * self._world_size
            if self._world_size > 1:
                yield f"device/{name}", amounts[name] / seconds
        if self._available is not None:
            yield "mfu", amounts["flops_per_sec"] / seconds / self._available


class StepTimeMonitor(WindowMonitor):
    """Publish how long steps take and which share of that is waiting for data; warn when that is much.

    Times come from the program: mmengine publishes ``train/time`` and ``train/data_time``, and ``timed_batches`` does
    it for any loop. The first step after a pause, such as that of an epoch, stands apart: it starts the workers that
    fetch data.

    ====================  ======================================================================
    ``mean_s``            mean time of a step, of the last ``window_size``
    ``p50_s``, ``p95_s``  that half of them, 95 of 100, did not exceed
    ``max_s``             the longest
    ``data_s``            mean time of waiting for data
    ``data_share``        the share of all their time
    ``first_s``           time of the first step after a pause, at once
    ``first_data_s``      of that, waiting for data
    ====================  ======================================================================

    Args:
        window_size: steps that a value is of.
        step: key of the time of a whole step, waiting for data included, in seconds.
        data: key of the time of waiting for data, at the same step; what belongs to data is left out if it never comes.
        every: steps from one publishing to the next; default ``window_size``, so that each step is in one value.
        warn_fraction: warn, through ``logging``, when ``data_share`` is above this; once, and again when it was below
            four fifths of it meanwhile. None for never.
        pauses: patterns of the keys that tell of an evaluation.
        prefix: put before each key.

    Raises:
        PatternError: a key or pattern is malformed.
        ArgumentError: another argument is of a wrong type or out of range.
    """

    def __init__(
        self,
        window_size: int = 100,
        *,
        step: str = "train/time",
        data: str = "train/data_time",
        every: int | None = None,
        warn_fraction: float | None = 0.2,
        pauses: Iterable[str] = RESULT_KEYS,
        prefix: str = "step_time/",
    ) -> None:
        if warn_fraction is not None and not 0 < check_number("warn_fraction", warn_fraction, 0) < 1:
            raise ArgumentError(f"warn_fraction must be above 0 and below 1, or None, got {warn_fraction!r}")
        self._alarm = Alarm(warn_fraction)
        names = ("mean_s", "p50_s", "p95_s", "max_s", "data_s", "data_share", "first_s", "first_data_s")
        main, other = check_key("step", step), check_key("data", data)
        super().__init__(main, other, window_size, every, pauses, prefix, names)

    def _begin(self) -> None:
        super()._begin()
        self._has_data = False

    def _measured(self, event: ScalarUpdated) -> list[float] | None:
        value = mean_of(event)
        return [value] if value is not None and 0 <= value < math.inf else None

    def _measured_other(self, event: ScalarUpdated) -> float:
        value = mean_of(event)
        if value is None or not 0 <= value < math.inf:
            return 0.0
        self._has_data = True
        return value

    def _first_values(self, entry: list[float]) -> Iterator[tuple[str, float]]:
        yield "first_s", entry[0]
        if self._has_data:
            yield "first_data_s", entry[1]

    def _values(self) -> Iterator[tuple[str, float]]:
        times, waits = np.array(self._window).T
        yield "mean_s", float(times.mean())
        for name, value in zip(("p50_s", "p95_s"), np.percentile(times, (50, 95)), strict=True):
            yield name, float(value)
        yield "max_s", float(times.max())
        if not self._has_data:
            return
        yield "data_s", float(waits.mean())
        if times.sum() > 0:
            share = float(waits.sum() / times.sum())
            yield "data_share", share
            if self._alarm(share):
                logger.warning(
                    "waiting for data took %.0f %% of the time of the last %d steps, above %.0f %%; more workers, "
                    "prefetching or a faster store would make them shorter",
                    100 * share,
                    len(times),
                    100 * (self._alarm.limit or 0.0),
                )


def _finite(value: float) -> float:
    """Return ``value`` as a float; 0 if it is none that is finite."""
    try:
        return float(value) if math.isfinite(value) else 0.0
    except OverflowError:  # an int beyond every float
        return 0.0


class _Timed(Protocol):
    """What ``timed_batches`` publishes to: a hub."""

    def update_scalars(self, log_dict: dict[str, Any]) -> None: ...
    def update_info(self, key: str, value: Any) -> None: ...
    def get_info(self, key: str, default: Any = None) -> Any: ...


def timed_batches(
    hub: _Timed,
    batches: Iterable[T],
    *,
    step: str = "train/time",
    data: str = "train/data_time",
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[T]:
    """Yield ``batches``, and publish of each how long it was waited for and how long its step took, in seconds.

    Both are published when the loop asks for the next batch, so they have the step that ``hub.step`` is in its body. A
    step that a ``break`` ends is left out. Each pass adds 1 to the runtime info ``data/pass``, which tells
    ``StepTimeMonitor`` that the next step is the first of one.

    Args:
        hub: what to publish to.
        batches: what a training loop iterates over, e.g. a ``DataLoader``.
        step: key of the time from asking for a batch to asking for the next.
        data: key of the part of it until the batch was there.
        clock: the time, in seconds.
    """
    hub.update_info(PASS_KEY, hub.get_info(PASS_KEY, 0) + 1)
    asked = clock()
    for batch in batches:
        got = clock()
        yield batch
        now = clock()
        hub.update_scalars({data: got - asked, step: now - asked})
        asked = now
