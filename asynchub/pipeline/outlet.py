"""What a pipeline publishes to its hub."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from asynchub.dataflow import (
    BottleneckChanged,
    ConcurrencyChanged,
    PipelineRecovered,
    PipelineReported,
    PipelineStalled,
    SlowItems,
)
from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.pipeline.parts import Blame
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import Verdict
from asynchub.pipeline.stages import Stage
from asynchub.pipeline.ticking import Reporter, Taken

__all__ = ("KEPT", "Outlet")

logger = logging.getLogger("asynchub")

KEPT = 3600
"""Values that the hub's history of each figure keeps: an hour of seconds. A journal has them all."""


class Outlet:
    """Publishes what becomes known of a pipeline. What it records is not part of the hub's resumable state.

    But for the times of a step, ``train/data_time`` and ``train/time``: programs record these as resumable, and one
    that begins to must not find that they are not. From then on they are the program's.

    Args:
        hub: where to.
        name: of the pipeline.
        scalars: whether every figure is a scalar too.
    """

    def __init__(self, hub: MessageHub, name: str, *, scalars: bool) -> None:
        self._hub = hub
        self._name = name
        self._scalars = scalars
        self._state = ""
        self._bounded: set[str] = set()
        self._times: dict[str, float] = {}
        """What was recorded last as each of the times of a step; NaN once the program records it."""

    def reported(self, report: PipelineReport, reporter: Reporter) -> None:
        """Publish the figures of an interval."""
        hub = self._hub
        if self._scalars:
            figures: dict[str, Any] = dict(report.scalars())
            hub.update_scalars(figures, resumed=False)
            self._bound(figures)
            if times := self._times_of_a_step(report, reporter.taken):
                hub.update_scalars(dict(times))
                self._bound(times)
                self._times.update(times)
        hub.publish(PipelineReported(key=f"{self._name}/report", pipeline=self._name, report=report.to_dict()))
        if report.state != self._state:
            self._state = report.state
            hub.update_info(f"{self._name}/state", report.state, resumed=False)
        for slow in reporter.slow:
            hub.publish(
                SlowItems(
                    key=f"{self._name}/slow_items",
                    pipeline=self._name,
                    stage=slow.stage,
                    items=slow.items,
                    slowest=slow.slowest,
                    median=slow.median,
                )
            )

    def _bound(self, figures: Mapping[str, Any]) -> None:
        """Bound the histories that have come to be with these figures.

        One that has more in it is the program's own, or of the run that is resumed. Putting bounded ones into the live
        dict before would race with a program that publishes the same key, and clear what publishers know of keys.
        """
        for key in figures.keys() - self._bounded:
            self._bounded.add(key)
            history = self._hub.get_scalar(key)
            if len(history.data[0]) == 1:
                history.max_length = KEPT

    def _times_of_a_step(self, report: PipelineReport, taken: Taken) -> dict[str, float]:
        """Return what programs of mmengine read, in seconds, as far as the program does not record it itself."""
        if report.consumer is None or not taken.items:
            return {}
        name = report.consumer.name
        times = {f"{name}/data_time": taken.wait, f"{name}/time": taken.wait + taken.busy}
        return {key: value / taken.items for key, value in times.items() if self._is_free(key)}

    def _is_free(self, key: str) -> bool:
        """Tell whether nobody but pipelines has recorded a key, now or in the run that this one resumes."""
        history = self._hub.log_scalars.get(key)
        if history is None:
            return True
        last = self._times.get(key)
        if history.max_length == KEPT and (last is None or history.current() == last):
            return True
        if last is not None and not math.isnan(last):  # the program has begun to: it gets a history as it would have
            self._times[key] = math.nan
            history.max_length = HistoryBuffer().max_length
        return False

    def judged(self, verdict: Verdict, previous: Verdict) -> None:
        """Publish that something else limits the pipeline."""
        self._hub.update_info(f"{self._name}/bottleneck", verdict.to_dict(), resumed=False)
        self._hub.publish(
            BottleneckChanged(
                key=f"{self._name}/bottleneck_changed",
                pipeline=self._name,
                kind=verdict.kind,
                stage=verdict.stage,
                reason=verdict.reason,
                gain=verdict.gain,
                previous_kind=previous.kind,
                previous_stage=previous.stage,
            )
        )

    def stalled(self, seconds: float, blame: Blame, queues: Mapping[str, int]) -> None:
        """Publish, and log, that the consumer waits, and for whom."""
        reason = f"waiting for {blame.reason}"
        logger.warning("pipeline %r has stalled for %.1f s: %s", self._name, seconds, reason)
        self._hub.publish(
            PipelineStalled(
                key=f"{self._name}/stalled",
                pipeline=self._name,
                seconds=seconds,
                reason=reason,
                stage=blame.stage,
                worker=blame.worker,
                pid=blame.pid,
                state=blame.state,
                state_seconds=blame.state_seconds,
                frame=blame.frame,
                stack=blame.stack,
                queues=dict(queues),
            )
        )

    def recovered(self, seconds: float) -> None:
        """Publish that it goes on, after so many seconds of waiting."""
        self._hub.publish(PipelineRecovered(key=f"{self._name}/recovered", pipeline=self._name, seconds=seconds))

    def concurrency_changed(self, stage: Stage, old: int, new: int, reason: str, author: str) -> None:
        """Publish that a stage does more or fewer items at once."""
        self._hub.publish(
            ConcurrencyChanged(
                key=f"{self._name}/concurrency_changed",
                pipeline=self._name,
                stage=stage.name,
                old=old,
                new=new,
                reason=reason,
                author=author,
            )
        )
