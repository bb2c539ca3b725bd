"""All that is known of a pipeline at one moment: figures, and who is to blame.

Counts (``items``, ``errors``, ``retries``, ``drops``) are of the whole run; everything else is of the window, which is
as long as ``PipelineFigures.window`` says. What is not known is None, never 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from asynchub.errors import CorruptStateError

__all__ = (
    "ConsumerReport",
    "Kind",
    "Latency",
    "LoopReport",
    "PipelineFigures",
    "QueueReport",
    "StageReport",
    "State",
    "Verdict",
    "WorkerReport",
)

Kind = Literal["unknown", "consumer", "stage", "loop", "balanced", "unsaturated"]
"""What limits a pipeline.

``"unknown"``: too little was seen. ``"consumer"``: nothing of the pipeline does; the consumer hardly waits.
``"stage"``: one stage, all of whose servers are busy. ``"loop"``: the event loop, which a stage holds. ``"balanced"``:
no stage alone. ``"unsaturated"``: no stage at all; they wait for each other, and ``Verdict.cause`` says why.
"""
State = Literal["warmup", "ok", "input_bound", "stalled", "done"]
R = TypeVar("R")
_NAMES: dict[type[Any], tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True)
class Latency:
    """How long an item takes, in milliseconds: mean, quantiles (within 3.2 %), and the longest."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What limits the pipeline.

    Attributes:
        kind: see ``Kind``.
        stage: the stage to blame; of ``"consumer"`` the name of the consumer; empty if none is.
        cause: of ``"unsaturated"``: ``"order"``, ``"pool"``, ``"burst"`` or ``"unknown"``; else empty.
        near: stages that are nearly as busy, within 0.10.
        confidence: from 0 to 1: by how much it is ahead of the next.
        utilisation: share of the time that its servers are busy, from 0 to 1; None if no stage is to blame.
        capacity: items a second that it could do, in the consumer's items; None if it is not known.
        next_limit: what would limit the pipeline if this was mended; empty if it is not known.
        next_capacity: items a second that that could do; None if it is not known.
        gain: by how much the throughput would rise at most, as a share; None if it is not known.
        reason: why, for people.
        since: seconds since the epoch when the verdict came to be this.
    """

    kind: Kind = "unknown"
    stage: str = ""
    cause: str = ""
    near: tuple[str, ...] = ()
    confidence: float = 0.0
    utilisation: float | None = None
    capacity: float | None = None
    next_limit: str = ""
    next_capacity: float | None = None
    gain: float | None = None
    reason: str = ""
    since: float = 0.0

    @property
    def level(self) -> str:
        """The confidence in a word: ``"high"`` from 0.25, ``"medium"`` from 0.10, else ``"low"``."""
        return "high" if self.confidence >= 0.25 else "medium" if self.confidence >= 0.10 else "low"

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict of numbers, strings and lists; what is None is left out."""
        return _plain(self)  # type: ignore[no-any-return]

    def same_as(self, other: Verdict) -> bool:
        """Tell whether it blames the same."""
        return (self.kind, self.stage, self.cause) == (other.kind, other.stage, other.cause)


@dataclass(frozen=True, slots=True)
class StageReport:
    """The figures of a stage.

    Attributes:
        name: its name.
        throughput: items a second.
        items: items so far.
        latency_ms: how long an item takes; None if none was finished in the window.
        busy: share of its servers' time that they work, from 0 to 1.
        starved: share that they wait for input; None if it is not known.
        blocked: share that they wait to hand on what they have done; None if it is not known.
        capacity: items a second if they always worked; None if none was finished in the window.
        in_flight: calls under way.
        concurrency: how many servers it has: as it was told, else as many as were seen at work at once.
        errors: calls that failed, so far.
        retries: what was tried again, so far.
        drops: items left out, so far.
        bytes_per_s: bytes a second; None if nobody says how many there are.
        age_s: seconds since its last item; None if there was none.
        on_loop: share of the time that it holds the event loop; None if it does not run on one.
        oldest_s: for how many seconds the oldest call has been under way; None if none is.
    """

    name: str
    throughput: float
    items: int
    latency_ms: Latency | None
    busy: float
    starved: float | None
    blocked: float | None
    capacity: float | None
    in_flight: int
    concurrency: int
    errors: int
    retries: int
    drops: int
    bytes_per_s: float | None
    age_s: float | None
    on_loop: float | None = None
    oldest_s: float | None = None


@dataclass(frozen=True, slots=True)
class QueueReport:
    """The figures of a queue.

    Attributes:
        name: its name.
        depth: items in it, the mean over time.
        capacity: items it holds at most; None if there is no bound, or it is not known.
        fill: ``depth`` as a share of that; None without one.
        occupancy: share of the time that there was something in it.
        full: share of the time that there was no room in it.
        wait_ms: mean milliseconds that an item spends in it; None if it is not known how many pass.
        after: the stage that puts in; empty if it is not known.
        into: the stage that takes; empty if it is not known.
    """

    name: str
    depth: float
    capacity: int | None
    fill: float | None
    occupancy: float
    full: float
    wait_ms: float | None
    after: str = ""
    into: str = ""


@dataclass(frozen=True, slots=True)
class ConsumerReport:
    """The figures of the consumer.

    Attributes:
        name: its name.
        throughput: items a second.
        items: items so far.
        wait_fraction: share of its time that it waits for data, from 0 to 1; None if it took none in the window.
        wait_ms: how long it waits for an item; None likewise.
        busy_ms: mean milliseconds that it is busy with an item; None likewise.
        time_to_first_batch_s: seconds from its first asking to its first item; None until it has one.
        waiting_s: for how many seconds it has been waiting now; 0 if it is not.
    """

    name: str
    throughput: float
    items: int
    wait_fraction: float | None
    wait_ms: Latency | None
    busy_ms: float | None
    time_to_first_batch_s: float | None
    waiting_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LoopReport:
    """How late an event loop comes round, in milliseconds: the 95th percentile, and the longest."""

    lag_ms_p95: float | None
    lag_ms_max: float | None


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """A worker process.

    Attributes:
        number: from 0.
        pid: its process.
        items: items so far.
        p95_ms: 95th percentile of the milliseconds that an item takes it; None if it finished none in the window.
        state: what it does.
        state_s: for how many seconds already.
    """

    number: int
    pid: int
    items: int
    p95_ms: float | None
    state: str
    state_s: float


@dataclass(frozen=True, slots=True)
class PipelineFigures:
    """All that is known of a pipeline.

    Attributes:
        pipeline: its name.
        time: seconds since the epoch.
        elapsed: seconds since it was started.
        window: seconds that the figures are of.
        state: how it is.
        verdict: what limits it.
        stages: in the order in which they were made.
        queues: likewise.
        consumer: who takes the batches; None until somebody does.
        loop: the worst event loop of those that stages run on; None if there is none.
        workers: worker processes.
        stalled: who waits for whom, while it is stalled; else empty.
    """

    pipeline: str = "data"
    time: float = 0.0
    elapsed: float = 0.0
    window: float = 0.0
    state: State = "warmup"
    verdict: Verdict = dataclasses.field(default_factory=Verdict)
    stages: tuple[StageReport, ...] = ()
    queues: tuple[QueueReport, ...] = ()
    consumer: ConsumerReport | None = None
    loop: LoopReport | None = None
    workers: tuple[WorkerReport, ...] = ()
    stalled: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as dicts, lists, numbers and strings; what is None is left out."""
        return _plain(self)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the figures that ``to_dict`` took apart, also one of a later version: what is unknown is left out.

        Raises:
            CorruptStateError: ``fields`` is not of that form.
        """
        try:
            given = dict(fields)
            for name, kind in (("verdict", Verdict), ("loop", LoopReport)):
                if given.get(name) is not None:
                    given[name] = _made(kind, given[name])
            if given.get("consumer") is not None:
                given["consumer"] = _made(ConsumerReport, _with_latency(given["consumer"], "wait_ms"))
            given["stages"] = tuple(
                _made(StageReport, _with_latency(one, "latency_ms")) for one in given.get("stages", ())
            )
            given["queues"] = tuple(_made(QueueReport, one) for one in given.get("queues", ()))
            given["workers"] = tuple(_made(WorkerReport, one) for one in given.get("workers", ()))
            return _made(cls, given)
        except (TypeError, ValueError, AttributeError) as error:
            raise CorruptStateError(f"not the report of a pipeline: {fields!r:.200}") from error

    def scalars(self) -> Iterator[tuple[str, float]]:
        """Yield each figure that is a number, under its key: ``data/decode/latency_ms.p95``."""
        root = self.pipeline
        for stage in self.stages:
            for name, value in _numbers(stage):
                if name not in ("on_loop", "oldest_s"):
                    yield f"{root}/{stage.name}/{name}", value
        for queue in self.queues:
            for name, value in _numbers(queue):
                if name != "capacity":
                    yield f"{root}/queue/{queue.name}/{name}", value
        if self.consumer is not None:
            for name, value in _numbers(self.consumer):
                if name in ("wait_fraction", "time_to_first_batch_s") or name.startswith("wait_ms."):
                    yield f"{root}/{name}", value
        if self.loop is not None and self.loop.lag_ms_p95 is not None:
            yield f"{root}/loop/lag_ms.p95", self.loop.lag_ms_p95


def _names(kind: type[Any]) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass; none of what is no dataclass."""
    names = _NAMES.get(kind)
    if names is None:
        found = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        names = _NAMES[kind] = tuple(field.name for field in found)
    return names


def _numbers(part: Any) -> Iterator[tuple[str, float]]:
    for name in _names(type(part)):
        value = getattr(part, name)
        if type(value) is Latency:
            for inner, number in _numbers(value):
                yield f"{name}.{inner}", number
        elif isinstance(value, int | float) and math.isfinite(value):
            yield name, value


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is float or kind is int or kind is str:
        return value
    if kind is tuple:
        return [_plain(one) for one in value]
    names = _names(kind)
    if not names:
        return value
    return {name: _plain(one) for name in names if (one := getattr(value, name)) is not None}


def _made(kind: type[R], fields: Mapping[str, Any]) -> R:
    """Return a dataclass of the fields that it has; those that are missing and have no default are None.

    Raises:
        TypeError: ``fields`` is not a mapping.
    """
    if not isinstance(fields, Mapping):
        raise TypeError(f"a {kind.__name__} is made of a mapping, got {type(fields).__name__}")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in fields:
            value = fields[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            values[field.name] = None
    return kind(**values)


def _with_latency(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    given = dict(fields)
    if given.get(name) is not None:
        given[name] = _made(Latency, given[name])
    return given
