"""The worker processes of a loader, one by one: what each does, and which of them the consumer waits for.

Torch's iterator is only looked at, and only where it says what nothing else does: which batch is due, and of which
worker. Its attributes are private; without one, what it would tell is not known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.histogram import Counts, quantiles
from asynchub.pipeline.loader_rows import Generation, Rows, WorkerRow
from asynchub.pipeline.parts import Blame
from asynchub.pipeline.queues import queue_size
from asynchub.pipeline.report import WorkerReport
from asynchub.pipeline.worker_dumps import dumped
from asynchub.pipeline.worker_rows import BATCHES, COLLATE, DATASET, DUMPS, PID, SAMPLES, TIMED, buckets

__all__ = ("LoaderWorkers",)


class LoaderWorkers:
    """The workers of a loader.

    Args:
        name: of the loader.
        rows: of all its workers.
        readings: how many readings, one per interval, make a window.
    """

    def __init__(self, name: str, rows: Rows, readings: int) -> None:
        self._name = name
        self._rows = rows
        self._readings = readings
        self._windows: dict[int, deque[Counts]] = {}

    # --- what each does

    def reports(self, now: int) -> Sequence[WorkerReport]:
        """Return what each worker does, or did that has just ended; called once per interval."""
        rows = [row for row in self._rows.sums(now).rows if row.numbers[PID]]
        pids = {int(row.numbers[PID]) for row in rows}
        self._windows = {pid: window for pid, window in self._windows.items() if pid in pids}
        return [self._report(row) for row in rows]

    def _report(self, row: WorkerRow) -> WorkerReport:
        numbers, pid = row.numbers, int(row.numbers[PID])
        timed = bool(numbers[TIMED])
        counts = buckets(numbers, DATASET if timed else COLLATE)
        window = self._windows.setdefault(pid, deque([counts - counts], maxlen=self._readings + 1))
        window.append(counts)
        found = counts - window[0]
        return WorkerReport(
            number=row.number,
            pid=pid,
            items=int(numbers[SAMPLES if timed else BATCHES]),
            p95_ms=1000 * quantiles(found, 0.95)[0] / SECOND if found.any() else None,
            state=row.state,
            state_s=row.age / SECOND,
        )

    # --- what is ready

    def ready_later(self) -> int:
        """Return how many finished batches wait for an earlier one."""
        return max((_ready_later(generation.iterator) for generation in self._rows.live()), default=0)

    def ready(self) -> tuple[int, int | None] | None:
        """Return how many batches are ready for the consumer, and how many can be at most; None without workers."""
        for generation in self._rows.live():
            iterator = generation.iterator
            if iterator is None:
                continue
            ahead = getattr(iterator, "_prefetch_factor", None)
            capacity = ahead * generation.size if isinstance(ahead, int) else None
            return (queue_size(getattr(iterator, "_data_queue", None)) or 0) + len(_stored(iterator)), capacity
        return None

    # --- who is to blame

    def blame(self, now: int) -> Blame | None:
        """Return which worker the consumer waits for; None if it is none of them, as far as one can see."""
        for generation in self._rows.live():
            iterator = generation.iterator
            if iterator is not None and (found := self._blame(generation, iterator)) is not None:
                return found
        return None

    def _blame(self, generation: Generation, iterator: Any) -> Blame | None:
        rows = generation.look(clock())
        due = _due(iterator, rows)
        if due is None:
            return None
        batch, row = due
        if row.at is None and row.state == "waiting" and queue_size(getattr(iterator, "_data_queue", None)) != 0:
            return None  # it has done its part
        later = _ready_later(iterator)
        ready = f"{later or 'no'} later batch{' is' if later < 2 else 'es are'} ready"
        pid = int(row.numbers[PID]) or getattr(generation.process(row.number), "pid", None)
        reason = f"batch {batch} of worker {row.number} (pid {pid}); {ready}; worker state {row.state}"
        if row.since:
            reason += f" for {row.age / SECOND:.1f} s"
        frame, stack = self._stack(generation, row)
        return Blame(
            reason=f"{reason} in {frame}" if frame else reason,
            stage=self._stage(row),
            worker=row.number,
            pid=pid,
            state=row.state,
            state_seconds=row.age / SECOND,
            frame=frame,
            stack=stack,
        )

    def _stage(self, row: WorkerRow) -> str:
        return "" if row.at is None else f"{self._name}.{'dataset' if row.at is DATASET else 'collate'}"

    def _stack(self, generation: Generation, row: WorkerRow) -> tuple[str, str]:
        process = generation.process(row.number)
        promised = row.numbers[DUMPS] and getattr(process, "pid", None) == row.numbers[PID]
        if generation.dumps is None or not promised or row.state == "ended":
            return "", ""
        return dumped(generation.dumps.ask(int(row.numbers[PID])))

    def stop(self) -> None:
        """Measure no more."""
        self._rows.end()


def _due(iterator: Any, rows: list[WorkerRow]) -> tuple[int, WorkerRow] | None:
    """Return the number of the batch that the consumer waits for, and its worker; None if that is not known."""
    tasks, number = getattr(iterator, "_task_info", None), getattr(iterator, "_rcvd_idx", None)
    if not isinstance(tasks, dict) or not isinstance(number, int):
        return None
    outstanding = {index: task[0] for index, task in tasks.copy().items() if len(task) == 1}
    if getattr(iterator, "_in_order", True):
        found = [number] if number in outstanding else []
    else:  # any would do: the one that has been at it for the longest
        found = sorted(outstanding, key=lambda index: (-rows[outstanding[index]].age, index))
    return (found[0], rows[outstanding[found[0]]]) if found else None


def _stored(iterator: Any) -> list[int]:
    """Return the numbers of batches that the main process has, and has not handed on."""
    tasks = getattr(iterator, "_task_info", None)
    if not isinstance(tasks, dict):
        return []
    return [index for index, task in tasks.copy().items() if len(task) == 2]


def _ready_later(iterator: Any) -> int:
    number = getattr(iterator, "_rcvd_idx", None)
    return sum(index > number for index in _stored(iterator)) if isinstance(number, int) else 0
