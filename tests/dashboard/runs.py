"""Runs for tests and benchmarks: journals that are written at once, without a hub, and what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asynchub.batches import Batch, Scalars, encode_batch, encode_event
from asynchub.codec.encoder import dumps
from asynchub.dashboard.buckets import Buckets
from asynchub.events import Event, Rewound
from asynchub.history import NO_STEP
from asynchub.hub import MessageHub
from asynchub.journal.frames import REWINDS, Kind, pack_frame, pack_head, read_head
from asynchub.journal.journal import Journal

__all__ = ("RUN_ID", "Point", "Writer", "brute_force", "check_same", "columns_of", "compacted_run")

RUN_ID = bytes(range(16))


class Point(NamedTuple):
    """A value as it is published."""

    key: str
    step: int | None
    value: float
    count: int = 1


class Writer:
    """A journal, written frame by frame."""

    def __init__(self, run: Path, run_id: bytes = RUN_ID, name: str = "hub") -> None:
        self.folder = run / "journal"
        self.folder.mkdir(parents=True)
        self.seq = 0
        self._run_id, self._name = run_id, name
        self._number = 0
        self.path = self.folder
        self.begin_segment()

    def begin_segment(self) -> None:
        """Go on in another segment."""
        self._number += 1
        head = pack_head(self._run_id, self._number, self.seq + 1)
        self._seed = read_head(head).seed
        self.path = self.folder / f"{self.seq + 1:020d}-{self._number:06d}.ahj"
        self.path.write_bytes(head)
        if self._number == 1:
            self._append(Kind.CONTROL, 0, dumps({"hub": self._name}), 0)

    def _append(self, kind: int, flags: int, payload: bytes, size: int) -> None:
        with self.path.open("ab") as file:
            file.write(pack_frame(self._seed, kind, flags, self.seq + 1, self.seq + size, self.seq, payload))
        self.seq += size

    def points(self, points: Iterable[Point], time: float = 1e9) -> None:
        """Write a frame of values, one a second."""
        points = list(points)
        names = {key: number for number, key in enumerate(dict.fromkeys(point.key for point in points))}
        steps = [NO_STEP if point.step is None else point.step for point in points]
        values: NDArray[Any] = np.array([point.value for point in points], np.float64)
        counts = np.array([point.count for point in points], np.int64)
        whose = np.array([names[point.key] for point in points], np.int64)
        seqs = np.arange(self.seq + 1, self.seq + 1 + len(points))
        scalars = Scalars(seqs, time + seqs, np.array(steps, np.int64), values, counts, whose)
        self.batch(Batch([(name, True) for name in names], [scalars] if points else [], []))

    def batch(self, batch: Batch) -> None:
        """Write a frame of events that come next."""
        if batch.size:
            self._append(Kind.EVENTS, 0, encode_batch(batch), batch.size)

    def event(self, event: Event) -> None:
        """Write a frame of one event."""
        stamped = event.stamped(self.seq + 1, 1e9 + self.seq + 1, 0)
        batch = Batch([], [], [(self.seq + 1, encode_event(stamped, None, None)[0])])
        self._append(Kind.EVENTS, REWINDS if isinstance(event, Rewound) else 0, encode_batch(batch), 1)

    def close(self) -> None:
        """Say that no more comes."""
        self._append(Kind.CLOSE, 0, b"", 0)
        (self.folder / "LOCK").write_bytes(b"released\n")


def columns_of(keys: Iterable[str], steps: NDArray[np.int64], values: NDArray[np.float64], seq: int) -> Batch:
    """Return a batch in which each key has a value at each step; ``values`` of shape ``(steps, keys)``."""
    names = list(keys)
    size = values.size
    seqs = np.arange(seq + 1, seq + 1 + size)
    each, whose = np.repeat(steps, len(names)), np.tile(np.arange(len(names)), len(steps))
    scalars = Scalars(seqs, 1e9 + seqs * 1e-4, each, values.reshape(-1), np.ones(size, np.int64), whose)
    return Batch([(name, True) for name in names], [scalars], [])


def brute_force(points: Iterable[Point], width: int) -> dict[str, dict[int, list[Point]]]:
    """Return the values of each key by the step at which their bucket begins, the simplest way."""
    cells: dict[str, dict[int, list[Point]]] = {}
    seen: dict[str, int] = {}
    for point in points:
        number = seen.get(point.key, 0)
        seen[point.key] = number + 1
        step = number if point.step is None else point.step
        cells.setdefault(point.key, {}).setdefault(step // width * width, []).append(point)
    return cells


def check_same(buckets: Buckets, cells: Mapping[int, list[Point]]) -> None:
    """Fail unless buckets are what the values amount to."""
    assert buckets.steps.tolist() == sorted(cells)
    for index, cell in enumerate(sorted(cells)):
        points = cells[cell]
        drawn = np.array([p.value if p.count in (0, 1) else p.value / p.count for p in points])
        finite = np.isfinite(drawn)
        some = [p for p, is_finite in zip(points, finite, strict=True) if is_finite]
        assert int(buckets.points[index]) == len(points)
        assert int(buckets.nan[index]) == int(np.isnan(drawn).sum())
        assert int(buckets.plus_inf[index]) == int((drawn == np.inf).sum())
        assert int(buckets.minus_inf[index]) == int((drawn == -np.inf).sum())
        assert float(buckets.weight[index]) == sum(p.count for p in some)
        total = np.array([p.value for p in some])
        close = 1e-14 * float(np.abs(total).sum()) + 5e-324
        assert abs(float(buckets.sum[index]) - sum_of(total)) <= close
        if some:
            assert float(buckets.min[index]) == drawn[finite].min()
            assert float(buckets.max[index]) == drawn[finite].max()
        else:
            assert np.isnan([buckets.min[index], buckets.max[index]]).all()


def sum_of(values: NDArray[np.float64]) -> float:
    """Return the sum of values, exact but for one rounding."""
    return fsum(values.tolist())


def compacted_run(run: Path, steps: int) -> None:
    """Write a run with a scalar ``loss``, its step; most of its journal is deleted, as snapshots have it."""
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal", segment_size=1, compact=True, interval=0.01))
    for hub.step in range(steps):
        hub.update_scalar("loss", float(hub.step))
        if hub.step % 100 == 50:
            hub.commit()
            hub.save(run)
    hub.close()
