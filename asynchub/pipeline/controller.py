"""Lets the stage that limits a pipeline do more at once, and takes it back where that does not help.

    mon.on_report(HillClimbing(mon))

A verdict says which stage has no time left, not that more of its calls at once would help: threads that hold the
interpreter lock, or a disk that is busy, do no more together than alone. So each step is tried, and kept only if more
items come out.

Changes: one at a time, of stages that are ``adjustable``: made with ``limited=True``, or run under ``Stage.limiter``.
    Each is published as a ``ConcurrencyChanged``, with its reason.
Measured: from reports whose windows lie wholly after the last change; so a step takes a little more than a window.
    Pauses and what happens between epochs do not count.
Failures: a stage that gained nothing is left alone until something else limits the pipeline for a while, or the
    throughput has changed much; and for twice as long each time.
Threads: it runs in the pipeline's thread.

Source:
    Hill climbing over the parallelism, as in tf.data, there on a model of the pipeline, here on the pipeline itself:
    D. G. Murray et al., "tf.data: A Machine Learning Data Processing Framework", PVLDB 14 (2021).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from asynchub.errors import ArgumentError
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import Verdict
from asynchub.pipeline.stages import Stage
from asynchub.pipeline.usage import cpu_seconds, resident_bytes

__all__ = ("HillClimbing",)

SETTLING = 2
"""Intervals after a change that are in no window: a verdict is of three windows in a row."""
REST = 4
"""Windows that a stage is left alone after it has gained nothing for the first time."""
LONGEST_REST = 1024
"""Windows that it is left alone at most."""
MATERIAL = 0.2
"""By how much, as a share, the throughput must have changed to try again what has failed."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """A change that is not proven yet: of a stage, from and to how many at once, and the items a second before."""

    stage: Stage
    old: int
    new: int
    pace: float


@dataclass(slots=True)
class _Rest:
    """A stage that is left alone.

    Attributes:
        failures: how often in a row it has gained nothing.
        until: seconds since the pipeline was started, until when at least.
        pace: items a second when it was left alone.
        moved: whether something else has limited the pipeline since.
    """

    failures: int
    until: float
    pace: float
    moved: bool = False


class HillClimbing:
    """Raises the concurrency of the stage that a verdict names; for ``Pipeline.on_report``.

    A step is one more at once, or half as many more from 4 on.

    Args:
        pipeline: which one.
        most: items that a stage may do at once, at most.
        gain: share by which the throughput must rise for a step to be kept.
        cores: processors in use by this process from which no step is tried; None for no bound.
        memory: bytes taken by this process from which no step is tried, and one under way is taken back; None for no
            bound.

    Raises:
        ArgumentError: a number is out of range, or memory is bounded where nobody knows how much is taken.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        most: int = 16,
        gain: float = 0.03,
        cores: float | None = None,
        memory: int | None = None,
    ) -> None:
        if type(most) is not int or most < 1:
            raise ArgumentError(f"most must be an int above 0, got {most!r:.80}")
        for name, value in (("gain", gain), ("cores", cores), ("memory", memory)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
                raise ArgumentError(f"{name} must be a number above 0, got {value!r:.80}")
        if memory is not None and resident_bytes() is None:
            raise ArgumentError("memory cannot be bounded: how much is taken is not known here; install psutil")
        self._pipeline = pipeline
        self._most = most
        self._gain = gain
        self._cores = cores
        self._memory = memory
        self._used: deque[tuple[float, float]] = deque()
        self._trial: _Trial | None = None
        self._resting: dict[str, _Rest] = {}
        self._clean = 0.0
        """Seconds since the start from which nothing has changed."""

    def __call__(self, report: PipelineReport) -> None:
        """Take note of a report, and change what is to be changed."""
        if report.state == "done":
            return
        if self._used and report.elapsed <= self._used[-1][0]:  # the pipeline was left, and entered again
            self._used.clear()
            self._trial, self._clean = None, 0.0
            self._resting.clear()
        self._used.append((report.elapsed, cpu_seconds()))
        while len(self._used) > 2 and self._used[0][0] < report.elapsed - report.window:
            self._used.popleft()
        if report.stalled or report.state == "warmup":  # such waits are not the usual ones
            self._clean = report.elapsed
            return
        trial = self._trial
        if trial is not None and self._is_memory_spent():
            self._take_back(trial, report, f"the memory is spent: {self._memory} bytes are the bound")
        pace = _pace(report)
        if pace is None or report.elapsed - report.window < self._clean:
            return
        if trial is not None and not self._has_proven(trial, report, pace):
            return
        self._consider(report, pace)

    def _has_proven(self, trial: _Trial, report: PipelineReport, pace: float) -> bool:
        """End a trial; tell whether the next may begin."""
        self._trial = None
        name = trial.stage.name
        if trial.stage.concurrency != trial.new:  # somebody else has changed it
            self._change(report)
            return False
        if pace > trial.pace * (1 + self._gain):
            self._resting.pop(name, None)
            return True
        self._take_back(
            trial,
            report,
            f"{trial.new} at once brought {pace:.1f} items/s, {trial.old} at once {trial.pace:.1f}: "
            f"less than {100 * self._gain:g} % more",
        )
        return False

    def _take_back(self, trial: _Trial, report: PipelineReport, reason: str) -> None:
        before = self._resting.get(trial.stage.name)
        failures = 1 if before is None else before.failures + 1
        windows = min(REST * 2 ** (failures - 1), LONGEST_REST)
        until = report.elapsed + windows * self._pipeline.window
        self._resting[trial.stage.name] = _Rest(failures, until, trial.pace)
        self._trial = None
        self._change(report)
        trial.stage.set_concurrency(trial.old, reason=reason, author=type(self).__name__)

    def _consider(self, report: PipelineReport, pace: float) -> None:
        """Begin a trial if there is reason to."""
        verdict = report.verdict
        for name, rest in self._resting.items():
            rest.moved = rest.moved or (verdict.kind != "unknown" and verdict.stage != name)
        if verdict.kind != "stage" or self._is_resting(verdict, report, pace):
            return
        stage = self._pipeline.stage(verdict.stage)
        old = stage.concurrency or 1
        if not stage.adjustable or old >= self._most or self._is_cpu_spent() or self._is_memory_spent():
            return
        self._trial = _Trial(stage, old, min(old + max(old // 2, 1), self._most), pace)
        self._change(report)
        stage.set_concurrency(self._trial.new, reason=f"a trial, for {verdict.reason}", author=type(self).__name__)

    def _change(self, report: PipelineReport) -> None:
        self._clean = report.elapsed + SETTLING * self._pipeline.interval

    def _is_resting(self, verdict: Verdict, report: PipelineReport, pace: float) -> bool:
        rest = self._resting.get(verdict.stage)
        if rest is None:
            return False
        changed = rest.moved or abs(pace / rest.pace - 1) > MATERIAL
        return not changed or report.elapsed < rest.until

    def _is_cpu_spent(self) -> bool:
        (begin, cpu_then), (end, cpu_now) = self._used[0], self._used[-1]
        return self._cores is not None and end > begin and (cpu_now - cpu_then) / (end - begin) >= self._cores

    def _is_memory_spent(self) -> bool:
        return self._memory is not None and (resident_bytes() or 0) >= self._memory


def _pace(report: PipelineReport) -> float | None:
    """Return the items that come out in a second in which the consumer is there for them; None if there were none."""
    consumer = report.consumer
    if consumer is None:
        return report.stages[-1].throughput or None if report.stages else None
    if consumer.wait_ms is None or consumer.busy_ms is None:
        return None
    milliseconds = consumer.wait_ms.mean + consumer.busy_ms
    return 1000 / milliseconds if milliseconds > 0 else None
