"""The counts of the two stages of a loader: its dataset and its collate function, in workers or in the main process."""

from __future__ import annotations

from typing import Any

from asynchub.pipeline.histogram import Counts
from asynchub.pipeline.loader_rows import Rows
from asynchub.pipeline.tally import Counters, Meter
from asynchub.pipeline.worker_rows import COLLATE, DATASET, TIMED, WAITED, Part, buckets

__all__ = ("LoaderMeter", "loader_meters")


class LoaderMeter(Meter):
    """What one stage of a loader has done: in worker processes, and in this one, which it is with no workers.

    Args:
        name: of the stage.
        rows: of all workers.
        part: of a row that is the stage's.

    Attributes:
        rows: of all workers.
    """

    def __init__(self, name: str, rows: Rows, part: Part) -> None:
        super().__init__(name)
        self.rows = rows
        self._part = part

    def serve(self, workers: int, group: str) -> None:
        """Say how many workers the loader has now, 0 for this process, and a name for them."""
        self.concurrency = workers or None
        self.group = group if workers else ""
        if workers:
            self.parent = None

    def under_way(self) -> list[tuple[int, int, Any]]:
        """Return of each call under way since when, the identifier of its thread, and None; of a worker's that is 0."""
        found = super().under_way()
        for generation in self.rows.live():
            found += [(row.since, 0, None) for row in generation.look() if row.at is self._part]
        return sorted(found, key=lambda call: call[0])

    def latencies(self) -> Counts:
        """Return how long finished items took, of shape ``(960,)``."""
        return super().latencies() + self.rows.latencies(self._part)

    def counters(self, now: int) -> Counters:
        """Return what it has counted so far."""
        counters, part, sums = super().counters(now), self._part, self.rows.sums(now)
        numbers = sums.numbers
        counters.items += int(numbers[part.items])
        counters.errors += int(numbers[part.errors])
        counters.busy += int(numbers[part.busy])
        counters.total += int(numbers[part.total])
        counters.latencies += buckets(numbers, part)
        counters.slowest = max(counters.slowest, sums.slowest[part])
        counters.last = max(counters.last, sums.last[part])
        if self.group and numbers[TIMED]:  # starved of nothing: what its workers do besides is the other stage
            counters.starved = counters.starved or 0
            counters.blocked = (counters.blocked or 0) + int(numbers[WAITED])
        for row in sums.rows:
            if row.at is part:
                counters.in_flight += 1
                counters.under_way += row.age
                counters.oldest = min(row.since, counters.oldest or row.since)
        return counters

    def forked(self) -> None:
        """Go on in a child process."""
        super().forked()
        self.rows.forked()


def loader_meters(name: str, rows: Rows) -> tuple[LoaderMeter, LoaderMeter]:
    """Return the meters of the dataset and of the collate function of a loader of that name."""
    return LoaderMeter(f"{name}.dataset", rows, DATASET), LoaderMeter(f"{name}.collate", rows, COLLATE)
