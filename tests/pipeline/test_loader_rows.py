"""What workers count in shared memory, and what is read of it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import asynchub.pipeline.histogram as histogram
from asynchub.pipeline.clock import clock
from asynchub.pipeline.loader_meters import LoaderMeter, loader_meters
from asynchub.pipeline.loader_rows import Generation, Rows
from asynchub.pipeline.worker_dumps import DumpFile, dumped
from asynchub.pipeline.worker_rows import (
    COLLATE,
    COLLATING,
    DATASET,
    FETCHING,
    ROW,
    STATES,
    UNSEEN,
    VERSION,
    WAITING,
    doing,
    done,
    read_row,
)
from asynchub.pipeline.worker_side import Collate
from asynchub.pipeline.worker_tally import WorkerTally

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors and signals as Unix has them")


class Workers:
    """Tallies of workers, in this process."""

    def __init__(self, number: int) -> None:
        self.rows = torch.zeros((number + 1, ROW), dtype=torch.int64)
        self.read = Rows()
        self.generation = Generation(self.rows, None)
        self.read.add(self.generation)
        self.tallies = [WorkerTally(self.rows, None) for _ in range(number)]
        for index, tally in enumerate(self.tallies):
            tally.begin(index, timed=True)
        self.meters = loader_meters("loader", self.read)
        for meter in self.meters:
            meter.serve(number, "workers")

    @property
    def dataset(self) -> LoaderMeter:
        return self.meters[0]

    @property
    def collate(self) -> LoaderMeter:
        return self.meters[1]


def batch(tally: WorkerTally, samples: list[int], collate: int) -> None:
    """Have a worker do a batch whose samples, and whose collate function, took so long."""
    tally.begins(FETCHING)
    tally.samples += samples
    now = tally.begins(COLLATING)
    tally.ended(COLLATE, now + collate, (collate,))


def durations(rng: np.random.Generator, size: int) -> np.ndarray:
    return (10 ** rng.uniform(0, 11, size)).astype(np.int64)


def test_the_histogram_of_all_workers_is_that_of_all_durations_together(rng: np.random.Generator) -> None:
    workers, samples, collates = Workers(3), [], []
    for number in range(200):
        took = durations(rng, int(rng.integers(1, 40)))
        collate = int(durations(rng, 1)[0])
        batch(workers.tallies[number % 3], took.tolist(), collate)
        samples.append(took)
        collates.append(collate)
    now = clock()
    for meter, all_of_them in ((workers.dataset, np.concatenate(samples)), (workers.collate, np.array(collates))):
        counted = meter.counters(now)
        union = np.bincount(histogram.indices(all_of_them), minlength=histogram.BUCKETS)
        assert np.array_equal(counted.latencies, union)
        assert np.array_equal(meter.latencies(), union)
        assert (counted.items, counted.total) == (len(all_of_them), int(all_of_them.sum()))
        assert counted.slowest == all_of_them.max()


def test_what_was_slow_is_told_of_once() -> None:
    workers = Workers(2)
    batch(workers.tallies[0], [5_000, 7_000], 10)
    batch(workers.tallies[1], [6_000], 10)
    assert workers.dataset.counters(1).slowest == 7_000
    assert workers.dataset.counters(2).slowest == 0
    batch(workers.tallies[1], [4_000], 10)
    assert workers.dataset.counters(3).slowest == 4_000


def test_a_batch_that_the_dataset_makes_counts_as_its_samples() -> None:
    workers = Workers(1)
    (tally,) = workers.tallies
    start = tally.begins(FETCHING)
    tally.batch_fetched(start + 1_000_003, 4)
    counted = workers.dataset.counters(start + 1_000_003)
    assert (counted.items, counted.total, counted.slowest) == (4, 1_000_003, 250_000)
    assert counted.latencies[histogram.bucket_of(250_000)] == 4


def test_work_that_is_under_way_is_busy_time_and_counted_once() -> None:
    workers = Workers(2)
    (tally, _) = workers.tallies
    start = tally.begins(FETCHING)
    before = workers.dataset.counters(start + 5_000_000)
    assert (before.busy, before.in_flight, before.under_way, before.oldest) == (5_000_000, 1, 5_000_000, start)
    tally.samples.append(6_000_000)
    tally.flush(start + 6_000_000)
    after = workers.dataset.counters(start + 7_000_000)
    assert (after.items, after.busy, after.under_way) == (1, 7_000_000, 1_000_000)
    assert workers.collate.counters(start + 7_000_000).busy == 0


def test_a_worker_that_waits_for_orders_is_blocked() -> None:
    workers = Workers(1)
    (tally,) = workers.tallies
    begun = tally.since
    found = workers.dataset.counters(begun + 3_000)
    assert (found.starved, found.blocked, found.busy) == (0, 3_000, 0)
    now = tally.begins(COLLATING)
    assert workers.collate.counters(now + 10).blocked == now - begun


def test_what_an_iteration_counted_stays_when_it_is_over() -> None:
    workers = Workers(2)
    for tally in workers.tallies:
        batch(tally, [1_000, 2_000], 500)
    before = workers.dataset.counters(clock())
    workers.read.end()
    for later in (clock(), clock()):
        after = workers.dataset.counters(later)
        assert (after.items, after.total, after.in_flight) == (4, 6_000, 0)
        assert np.array_equal(after.latencies, before.latencies)
    assert workers.read.live() == []
    assert (workers.dataset.counters(clock()).blocked or 0) == after.blocked


def test_a_row_is_read_whole_while_it_is_written_to() -> None:
    workers = Workers(1)
    (tally,) = workers.tallies
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            batch(tally, [100, 200, 300], 50)
            time.sleep(0)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        row = workers.rows.numpy()[0]
        whole = 0
        for _ in range(300):
            copy = read_row(row)
            if copy[VERSION] % 2 == 0:
                whole += 1
                assert copy[DATASET.items] in (3 * copy[COLLATE.items], 3 * copy[COLLATE.items] + 3)
                assert copy[DATASET.buckets :][: histogram.BUCKETS].sum() == copy[DATASET.items]
        assert whole > 100
    finally:
        ended.set()
        thread.join()


def test_a_worker_that_was_killed_while_it_wrote_is_read_all_the_same() -> None:
    row = np.zeros(ROW, np.int64)
    row[VERSION] = 3
    assert read_row(row)[VERSION] == 3


@pytest.mark.parametrize("state", range(len(STATES) - 1))
def test_a_state_and_its_age_fit_in_one_number(state: int) -> None:
    century = 100 * 366 * 86_400 * 10**9
    for since in (0, 1, clock(), century // 10):
        assert done(doing(state, since)) == (state, since)
        assert doing(state, since) < 2**63


def test_a_dataset_that_is_not_timed_waits_in_a_way_that_is_not_known() -> None:
    workers = Workers(1)
    workers.tallies[0].begin(0, timed=False)
    assert workers.tallies[0].state == UNSEEN
    assert Collate(workers.tallies[0], list)((1, 2)) == [1, 2]
    assert workers.dataset.counters(clock()).blocked is None
    assert workers.collate.counters(clock()).items == 1


def test_a_function_that_is_called_where_nobody_counts_is_only_called() -> None:
    tally = WorkerTally(torch.zeros((2, ROW), dtype=torch.int64), None)
    assert Collate(tally, list)((1, 2)) == [1, 2]
    assert tally.state == WAITING


# --- stacks

WORKER = """
import sys, time
def _worker_loop():
    decode()
def decode():
    print("ready", flush=True)
    time.sleep(60)
import faulthandler, signal
faulthandler.register(signal.SIGUSR1, file=int(sys.argv[1]), all_threads=True)
_worker_loop()
"""


def test_a_process_writes_where_it_is_when_it_is_asked() -> None:
    dumps = DumpFile()
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(dumps.descriptor)], pass_fds=[dumps.descriptor], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            answers = [dumped(dumps.ask(process.pid)) for _ in range(3)]
        finally:
            process.kill()
    for frame, stack in answers:  # each is one of its own
        assert frame in ("<string>:6 in decode", "<string>:7 in decode")
        assert [line.rpartition(" in ")[2] for line in stack.splitlines()] == ["<module>", "_worker_loop", "decode"]
    assert dumps.ask(process.pid) == ""


def test_a_stack_of_no_worker_is_handed_on_as_it_is() -> None:
    assert dumped("Current thread 0x1:\n  <no Python frame>") == ("", "Current thread 0x1:\n  <no Python frame>")
