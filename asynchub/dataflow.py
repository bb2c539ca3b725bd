"""What a data pipeline says about itself, as events.

``asynchub.pipeline`` publishes them. The keys begin with the name of the pipeline, ``"data"`` by default:
``data/report``, ``data/bottleneck_changed``, ``data/stalled``, ``data/recovered``, ``data/slow_items``,
``data/concurrency_changed``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asynchub.events import Event

__all__ = (
    "BottleneckChanged",
    "ConcurrencyChanged",
    "PipelineRecovered",
    "PipelineReported",
    "PipelineStalled",
    "SlowItems",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineReported(Event):
    """An interval has passed.

    Attributes:
        pipeline: name of the pipeline.
        report: all its figures; ``PipelineReport.from_dict`` makes a report of them.
    """

    key: str = "data/report"
    pipeline: str = "data"
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckChanged(Event):
    """Something else limits the pipeline now, or nothing does any more.

    Attributes:
        pipeline: name of the pipeline.
        kind: what limits it: ``"stage"``, ``"consumer"``, ``"loop"``, ``"balanced"``, ``"unsaturated"`` or
            ``"unknown"``; see ``asynchub.pipeline.verdict``.
        stage: the stage to blame; empty if none is.
        reason: why, for people.
        gain: by how much the throughput would rise at most, if it was mended, as a share; None if that is not known.
        previous_kind: the ``kind`` before.
        previous_stage: the ``stage`` before.
    """

    key: str = "data/bottleneck_changed"
    pipeline: str = "data"
    kind: str
    stage: str = ""
    reason: str = ""
    gain: float | None = None
    previous_kind: str = "unknown"
    previous_stage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStalled(Event):
    """The consumer waits, far longer than it usually does.

    Attributes:
        pipeline: name of the pipeline.
        seconds: for how long already.
        reason: who waits for whom, for people.
        stage: the stage to blame; empty if it is not known.
        worker: number of the worker to blame; None if it is not known, or there are none.
        pid: process of that worker.
        state: what the one to blame does.
        state_seconds: for how long already.
        frame: where its code is, as ``file:line in function``; empty if it is not known.
        stack: the frames that led there, the innermost last, one a line.
        queues: items in each queue that is known, by its name.
    """

    key: str = "data/stalled"
    pipeline: str = "data"
    seconds: float
    reason: str
    stage: str = ""
    worker: int | None = None
    pid: int | None = None
    state: str = ""
    state_seconds: float = 0.0
    frame: str = ""
    stack: str = ""
    queues: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRecovered(Event):
    """The consumer has got an item again, or waits no more, after it had waited for ``seconds``."""

    key: str = "data/recovered"
    pipeline: str = "data"
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowItems(Event):
    """Items took a stage much longer than most do.

    Attributes:
        pipeline: name of the pipeline.
        stage: the stage.
        items: how many since the report before.
        slowest: seconds that the slowest took.
        median: seconds that half of the items take at most.
    """

    key: str = "data/slow_items"
    pipeline: str = "data"
    stage: str
    items: int
    slowest: float
    median: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyChanged(Event):
    """A stage may do more, or fewer, items at once.

    Attributes:
        pipeline: name of the pipeline.
        stage: the stage.
        old: how many before.
        new: how many now.
        reason: why, for people.
        author: who changed it.
    """

    key: str = "data/concurrency_changed"
    pipeline: str = "data"
    stage: str
    old: int
    new: int
    reason: str = ""
    author: str = ""
