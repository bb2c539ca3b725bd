"""Counting from many threads at once: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from asynchub.pipeline.clock import clock
from asynchub.pipeline.histogram import BUCKETS, indices
from asynchub.pipeline.stages import Stage
from asynchub.pipeline.tally import Counters, Meter
from tests.pipeline.side_log import SideLog, switching_often, together

THREADS = 8
CALLS = 3000


class Refused(Exception):
    pass


def staged(meter: Meter, function: Callable[..., Any]) -> Callable[..., Any]:
    return Stage(meter, limited=False)(function)


def counts(meter: Meter) -> Counters:
    return meter.counters(clock())


def test_eight_threads_lose_no_item_no_error_and_no_duration() -> None:
    meter = Meter("decode")

    @Stage(meter, limited=False)
    def decode(number: int) -> int:
        if number % 10 == 0:
            raise Refused
        return number

    def work() -> None:
        for number in range(CALLS):
            if number % 10:
                decode(number)
            else:
                with pytest.raises(Refused):
                    decode(number)

    with switching_often():
        together([work] * THREADS)
    counted = counts(meter)
    assert counted.items == THREADS * CALLS * 9 // 10
    assert counted.errors == THREADS * CALLS // 10
    assert int(counted.latencies.sum()) == counted.items
    assert (counted.in_flight, counted.under_way, counted.oldest) == (0, 0, 0)


def test_eight_threads_lose_no_retry_no_drop_and_no_byte() -> None:
    meter = Meter("fetch")
    stage = Stage(meter, limited=False)

    def work() -> None:
        for number in range(CALLS):
            stage.retry()
            stage.drop("404" if number % 3 else "", 2)
            with stage.task(nbytes=number) as task:
                task.nbytes += 1

    with switching_often():
        together([work] * THREADS)
    counted = counts(meter)
    assert (counted.items, counted.retries, counted.drops) == (THREADS * CALLS, THREADS * CALLS, 2 * THREADS * CALLS)
    assert counted.nbytes == THREADS * sum(range(1, CALLS + 1))
    assert meter.dropped == {"404": 2 * THREADS * CALLS * 2 // 3, "": 2 * THREADS * CALLS // 3}


def test_a_thread_measures_what_it_did_itself() -> None:
    meter, log = Meter("decode"), SideLog()
    spans = log.list_of("decode")

    @Stage(meter, limited=False)
    def decode() -> None:
        start = time.perf_counter_ns()
        time.sleep(0.01)
        spans.append((start, time.perf_counter_ns()))

    together([lambda: [decode() for _ in range(10)]] * 4)
    counted, logged = counts(meter), log["decode"]
    assert counted.items == len(logged) == 40
    assert counted.busy == counted.total >= logged.total
    assert counted.busy == pytest.approx(logged.total, rel=0.05)
    assert counted.slowest >= logged.lengths.max()


def test_threads_that_end_leave_their_counts_while_somebody_reads() -> None:
    meter = Meter("decode")
    decode = staged(meter, lambda: None)
    ended = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not ended.is_set():
            seen.append(counts(meter).items)

    def work() -> None:
        for _ in range(20):
            threads = [threading.Thread(target=lambda: [decode() for _ in range(100)]) for _ in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        ended.set()

    together([work, read])
    counted = counts(meter)
    assert counted.items == int(counted.latencies.sum()) == 20 * 5 * 100
    assert seen == sorted(seen)
    assert len(meter._tallies) < 20, "the tallies of ended threads are put into one"


def test_two_readers_lose_nothing_of_threads_that_end() -> None:
    meter = Meter("decode")
    decode = staged(meter, lambda: None)
    ended = threading.Event()

    def read(how: Callable[[], object]) -> None:
        while not ended.is_set():
            how()

    def work() -> None:
        for _ in range(60):
            threads = [threading.Thread(target=lambda: [decode() for _ in range(50)]) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        ended.set()

    with switching_often(1e-5):
        together([work, lambda: read(lambda: counts(meter)), lambda: read(meter.latencies)])
    counted = counts(meter)
    assert counted.items == int(counted.latencies.sum()) == 60 * 4 * 50


def test_counts_that_are_read_all_the_time_never_go_backwards() -> None:
    meter = Meter("decode")
    decode = staged(meter, lambda: None)
    ended = threading.Event()
    readings: list[tuple[int, int, int]] = []

    def read() -> None:
        while not ended.is_set():
            counted = counts(meter)
            readings.append((counted.items, int(counted.latencies.sum()), counted.total))

    def work() -> None:
        for _ in range(CALLS):
            decode()

    with switching_often():
        workers = [threading.Thread(target=work) for _ in range(4)]
        reader = threading.Thread(target=read)
        for thread in (reader, *workers):
            thread.start()
        for thread in workers:
            thread.join(120)
        ended.set()
        reader.join(120)
    assert counts(meter).items == 4 * CALLS
    assert len(readings) > 1
    for before, after in itertools.pairwise(readings):
        assert all(one <= other for one, other in zip(before, after, strict=True))


def test_a_reading_of_busy_time_is_never_off_by_more_than_one_call_of_each_thread() -> None:
    meter, log = Meter("decode"), SideLog()
    spans = log.list_of("decode")

    @Stage(meter, limited=False)
    def decode() -> None:
        start = time.perf_counter_ns()
        time.sleep(0.01)
        spans.append((start, time.perf_counter_ns()))

    ended = threading.Event()
    busy: list[int] = []

    def read() -> None:
        while not ended.wait(0.0005):
            busy.append(counts(meter).busy)

    def work() -> None:
        for _ in range(30):
            decode()
        ended.set()

    together([read, work])
    behind = [before - after for before, after in itertools.pairwise(busy)]
    assert max(behind) <= 1.5 * int(log["decode"].lengths.max())
    assert counts(meter).busy >= max(busy)


def test_sorting_into_buckets_while_a_thread_measures_loses_nothing() -> None:
    meter = Meter("decode")
    tally: list[Any] = []
    durations = [int(one) for one in np.random.default_rng(7).integers(0, 10**9, 40_000)]
    ended = threading.Event()

    def work() -> None:
        mine = meter.tally()
        tally.append(mine)
        for one in durations:
            mine.record(one)
        ended.set()

    def drain() -> None:
        while not ended.is_set():
            if tally:
                tally[0].drain()

    with switching_often():
        together([work, drain, drain, drain])
    tally[0].drain()
    assert tally[0].drained == len(durations)
    assert tally[0].total == sum(durations)
    assert tally[0].latencies.tolist() == np.bincount(indices(np.array(durations)), minlength=BUCKETS).tolist()


def test_a_stage_that_nobody_reads_holds_no_more_than_a_fraction_of_a_second() -> None:
    meter = Meter("decode")
    decode = staged(meter, lambda: None)
    longest = 0
    start = time.perf_counter()
    while time.perf_counter() - start < 0.8:
        decode()
        longest = max(longest, len(meter.tally().durations))
    done = meter.tally().items
    assert longest < done * 0.75
    assert counts(meter).items == done


def test_a_call_under_way_is_seen_with_its_thread_and_its_age() -> None:
    meter = Meter("decode")
    inside, leave = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        assert leave.wait(30)

    thread = threading.Thread(target=staged(meter, hang))
    thread.start()
    assert inside.wait(30)
    time.sleep(0.02)
    counted = counts(meter)
    [(since, ident, coroutine)] = meter.under_way()
    leave.set()
    thread.join()
    assert (counted.items, counted.in_flight, ident, coroutine) == (0, 1, thread.ident, None)
    assert counted.oldest == since
    assert counted.busy == counted.under_way >= 20_000_000
    assert counts(meter).in_flight == 0
    assert meter.under_way() == []


def test_servers_are_the_threads_that_were_at_work_since_the_last_reading() -> None:
    meter = Meter("decode")
    barrier = threading.Barrier(4)
    decode = staged(meter, lambda: barrier.wait(30))
    seen: list[int] = []

    def work() -> None:
        decode()
        barrier.wait(30)  # until both readings are done, this thread lives
        barrier.wait(30)

    def read() -> None:
        barrier.wait(30)
        barrier.wait(30)
        seen.append(counts(meter).servers)
        seen.append(counts(meter).servers)
        barrier.wait(30)

    together([work, work, work, read])
    assert seen == [3, 0]


def test_the_slowest_is_of_the_time_since_the_last_reading() -> None:
    meter = Meter("decode")
    decode = staged(meter, time.sleep)
    decode(0.05)
    decode(0.01)
    first = counts(meter).slowest
    decode(0.01)
    second = counts(meter).slowest
    assert first >= 50_000_000 > second >= 10_000_000


def test_a_meter_holds_no_iterator_that_is_gone() -> None:
    class Puller:
        since = ident = 0
        waits_for = None

    meter = Meter("decode")
    pullers = [Puller() for _ in range(100)]
    for one in pullers:
        meter.pulled_by(one)
    del one
    pullers.clear()
    gc.collect()
    assert meter._pulling() == []


@pytest.mark.slow
@pytest.mark.parametrize("run", range(5))
def test_no_count_is_lost_in_a_long_run_of_eight_threads_and_a_reader(run: int) -> None:
    meter = Meter("decode")
    stage = Stage(meter, limited=False)
    decode = stage(lambda number: 1 // (number % 100))
    ended = threading.Event()

    def work() -> None:
        for number in range(25_000):
            try:
                decode(number)
            except ZeroDivisionError:
                stage.retry()

    def read() -> None:
        items = 0
        while not ended.wait(0.001):
            counted = counts(meter)
            assert counted.items >= items
            items = counted.items

    reader = threading.Thread(target=read)
    reader.start()
    with switching_often():
        together([work] * THREADS)
    ended.set()
    reader.join()
    counted = counts(meter)
    assert counted.items == int(counted.latencies.sum()) == THREADS * 25_000 * 99 // 100
    assert counted.errors == counted.retries == THREADS * 250
