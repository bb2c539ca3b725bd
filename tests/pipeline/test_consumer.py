"""The consumer: how long it waits for data, and how long it works."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.pipeline.clock import clock
from asynchub.pipeline.consumer import ConsumerCounters
from asynchub.pipeline.monitor import Pipeline
from tests.pipeline.side_log import TIMED_ON, SideLog, pipeline, together

MILLISECOND = 1_000_000


@pytest.fixture
def mon() -> Pipeline:
    return pipeline()


def counts(monitor: Pipeline) -> ConsumerCounters:
    assert monitor.parts.consumer is not None
    return monitor.parts.consumer.counters(clock())


def fraction(counted: ConsumerCounters) -> float:
    return counted.wait / (counted.wait + counted.busy)


def slow(number: int, seconds: float) -> Iterator[int]:
    for one in range(number):
        time.sleep(seconds)
        yield one


async def slow_later(number: int, seconds: float) -> AsyncIterator[int]:
    for one in range(number):
        await anyio.sleep(seconds)
        yield one


@pytest.mark.parametrize(("wait", "work"), [(0.01, 0.03), (0.03, 0.01), (0.0, 0.02), (0.02, 0.0)])
def test_the_wait_fraction_is_that_of_a_log_of_the_consumer(mon: Pipeline, wait: float, work: float) -> None:
    log, items = SideLog(), iter(mon.consume(slow(7, wait)))
    while True:
        with log.span("wait"):
            item = next(items, None)
        if item is None:
            break
        with log.span("work"):
            time.sleep(work)
    counted = counts(mon)
    waited, worked = log["wait"].total, log["work"].total
    assert counted.items == 7
    assert fraction(counted) == pytest.approx(waited / (waited + worked), abs=0.02)
    assert int(counted.waits.sum()) == 7
    assert counted.slowest <= log["wait"].lengths.max()


@pytest.mark.parametrize(("wait", "work"), [(0.03, 0.01)])
@TIMED_ON
async def test_the_wait_fraction_of_an_async_consumer_is_that_of_a_log(mon: Pipeline, wait: float, work: float) -> None:
    log, items = SideLog(), aiter(mon.consume(slow_later(7, wait)))
    while True:
        with log.span("wait"):
            item = await anext(items, None)
        if item is None:
            break
        with log.span("work"):
            await anyio.sleep(work)
    counted = counts(mon)
    waited, worked = log["wait"].total, log["work"].total
    assert counted.items == 7
    assert fraction(counted) == pytest.approx(waited / (waited + worked), abs=0.02)


@TIMED_ON
async def test_who_waits_at_a_channel_waits_once(mon: Pipeline) -> None:
    log = SideLog()
    send, receive = mon.channel("decoded", 2)

    async def produce() -> None:
        async with send:
            for number in range(6):
                await anyio.sleep(0.03)
                await send.send(number)

    async with anyio.create_task_group() as group, receive:
        group.start_soon(produce)
        items = aiter(mon.consume(receive))
        while True:
            with log.span("wait"):
                item = await anext(items, None)
            if item is None:
                break
            with log.span("work"):
                await anyio.sleep(0.01)
    counted = counts(mon)
    waited, worked = log["wait"].total, log["work"].total
    assert counted.items == 6
    assert counted.wait == pytest.approx(waited, rel=0.05)
    assert fraction(counted) == pytest.approx(waited / (waited + worked), abs=0.02)


# --- what is no work on an item


def test_a_pause_is_not_the_work_of_the_consumer(mon: Pipeline) -> None:
    for number in mon.consume(range(10)):
        time.sleep(0.01)
        if number % 5 == 4:
            with mon.pause():
                time.sleep(0.1)
    counted = counts(mon)
    assert 100 * MILLISECOND * 0.95 <= counted.busy < 190 * MILLISECOND


def test_pauses_inside_of_each_other_are_one(mon: Pipeline) -> None:
    start = time.perf_counter_ns()
    for _ in mon.consume(range(1)):
        time.sleep(0.01)
        with mon.pause():
            time.sleep(0.02)
            with mon.pause():
                time.sleep(0.05)
            time.sleep(0.02)
        time.sleep(0.01)
    whole = time.perf_counter_ns() - start
    assert 20 * MILLISECOND * 0.95 <= counts(mon).busy <= whole - 90 * MILLISECOND


def test_a_pause_that_an_exception_ends_is_over(mon: Pipeline) -> None:
    for _ in mon.consume(range(2)):
        with pytest.raises(ZeroDivisionError), mon.pause():
            _ = 1 / 0
        time.sleep(0.02)
    assert counts(mon).busy >= 40 * MILLISECOND * 0.95


def test_a_pause_before_there_is_a_consumer_does_nothing(mon: Pipeline) -> None:
    with mon.pause():
        assert mon.parts.consumer is None


def test_an_evaluation_between_two_epochs_is_neither_waiting_nor_work(mon: Pipeline) -> None:
    loader = mon.consume([1, 2, 3])
    start = time.perf_counter_ns()
    for _ in range(3):
        for _ in loader:
            time.sleep(0.01)
        time.sleep(0.05)  # an evaluation
    whole = time.perf_counter_ns() - start
    counted = counts(mon)
    assert counted.items == 9
    assert 90 * MILLISECOND * 0.95 <= counted.busy <= whole - 150 * MILLISECOND
    assert counted.wait < 30 * MILLISECOND


@pytest.mark.parametrize("how", ["break", "raise"])
def test_leaving_the_loop_ends_the_work_on_the_item(mon: Pipeline, how: str) -> None:
    def run() -> None:
        for _ in mon.consume([1, 2, 3]):
            time.sleep(0.01)
            if how == "break":
                break
            raise KeyError

    start = time.perf_counter_ns()
    try:
        run()
    except KeyError:
        assert how == "raise"
    time.sleep(0.1)
    for _ in mon.consume([1]):
        time.sleep(0.01)
    whole = time.perf_counter_ns() - start
    counted = counts(mon)
    assert counted.items == 2
    assert counted.busy <= whole - 100 * MILLISECOND


@TIMED_ON
async def test_leaving_an_async_loop_by_cancelling_ends_the_waiting(mon: Pipeline) -> None:
    for _ in range(2):
        items = slow_later(10, 10.0)
        with anyio.move_on_after(0.03) as scope:
            async for _ in mon.consume(items):
                pass
        assert scope.cancelled_caught
    counted = counts(mon)
    assert (counted.items, counted.waiting) == (0, 0)
    assert counted.wait >= 50 * MILLISECOND
    assert counted.busy == 0


# --- what is under way


def test_waiting_under_way_counts_while_it_lasts(mon: Pipeline) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hanging() -> Iterator[int]:
        yield 1
        inside.set()
        assert leave.wait(30)
        yield 2

    thread = threading.Thread(target=lambda: list(mon.consume(hanging())))
    thread.start()
    assert inside.wait(30)
    time.sleep(0.05)
    counted = counts(mon)
    assert mon.parts.consumer is not None
    assert mon.parts.consumer.waiting
    leave.set()
    thread.join()
    assert counted.items == 1
    assert counted.wait >= 50 * MILLISECOND
    assert clock() - counted.waiting >= 50 * MILLISECOND
    after = counts(mon)
    assert (after.items, after.waiting) == (2, 0)
    assert after.wait >= counted.wait
    assert not mon.parts.consumer.waiting


def test_the_time_to_the_first_batch_holds_what_the_first_asking_starts(mon: Pipeline) -> None:
    class Loader:
        def __iter__(self) -> Iterator[int]:
            time.sleep(0.05)  # starts its workers
            return slow(3, 0.02)

    loader = mon.consume(Loader())
    time.sleep(0.05)  # nobody has asked yet
    for _ in loader:
        pass
    counted = counts(mon)
    assert 70 * MILLISECOND <= counted.first_item - counted.first == counted.slowest
    first = counted.first_item
    for _ in loader:
        pass
    assert counts(mon).first_item == first


def test_what_is_consumed_is_asked_for_its_iterator_once_in_each_epoch(mon: Pipeline) -> None:
    asked: list[int] = []

    class Loader:
        def __iter__(self) -> Iterator[int]:
            asked.append(1)
            return iter(range(3))

    loader = mon.consume(Loader())
    assert [list(loader), list(loader)] == [[0, 1, 2], [0, 1, 2]]
    assert len(asked) == 2


def test_an_error_in_the_data_is_the_same_object_and_counted(mon: Pipeline) -> None:
    error = ValueError("bad")

    def broken() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(ValueError, match="bad") as caught:
        list(mon.consume(broken()))
    assert caught.value is error
    assert mon.parts.consumer is not None
    assert mon.parts.consumer.meter.counters(clock()).errors == 1
    assert counts(mon).items == 1


# --- several at once


def test_threads_that_consume_together_lose_nothing(mon: Pipeline) -> None:
    together([lambda: sum(mon.consume(range(3000)))] * 6)
    counted = counts(mon)
    assert counted.items == int(counted.waits.sum()) == 6 * 3000


def test_consuming_inside_of_a_consumed_item_counts_both(mon: Pipeline) -> None:
    for _ in mon.consume(slow(3, 0.01)):
        for _ in mon.consume(slow(2, 0.01)):
            pass
    counted = counts(mon)
    assert counted.items == 9
    assert counted.total_wait >= 90 * MILLISECOND


@TIMED_ON
async def test_tasks_that_consume_together_keep_their_times(mon: Pipeline) -> None:
    log = SideLog()

    async def run(wait: float, work: float) -> None:
        items = aiter(mon.consume(slow_later(4, wait)))
        while True:
            with log.span("wait"):
                item = await anext(items, None)
            if item is None:
                break
            with log.span("work"):
                await anyio.sleep(work)

    async with anyio.create_task_group() as group:
        group.start_soon(run, 0.01, 0.03)
        group.start_soon(run, 0.03, 0.01)
    counted = counts(mon)
    waited, worked = log["wait"].total, log["work"].total
    assert counted.items == 8
    assert fraction(counted) == pytest.approx(waited / (waited + worked), abs=0.02)


@TIMED_ON
async def test_stages_that_work_while_the_consumer_asks_are_its_waiting(mon: Pipeline) -> None:
    @mon.stage("decode")
    async def decode(number: int) -> int:
        await anyio.sleep(0.02)
        return number

    async def source() -> AsyncIterator[int]:
        for number in range(8):
            yield await decode(number)

    async for _ in mon.consume(source()):
        await anyio.sleep(0.01)
    assert mon.parts.consumer is not None
    assert mon.parts.stages["decode"].parent is mon.parts.consumer.meter
    counted, decoded = counts(mon), mon.parts.stages["decode"].counters(clock())
    assert counted.wait == pytest.approx(decoded.busy, rel=0.05)


def test_a_consumer_that_does_nothing_has_no_figures(mon: Pipeline) -> None:
    with mon:
        mon.consume([1, 2])
    report = mon.report().consumer
    assert report is not None
    assert (report.items, report.wait_fraction, report.wait_ms, report.busy_ms) == (0, None, None, None)
    assert (report.time_to_first_batch_s, report.waiting_s) == (None, 0.0)


@pytest.mark.parametrize("name", ["", "a/b", "a*", 5, None])
def test_a_name_that_cannot_be_part_of_a_key_is_refused(mon: Pipeline, name: Any) -> None:
    with pytest.raises(ArgumentError, match="name must be"):
        mon.consume([1], name)
    assert mon.parts.consumer is None


def test_what_is_switched_off_hands_back_what_it_was_given() -> None:
    monitor, items = Pipeline(MessageHub("hub"), enabled=False), [1, 2]
    assert monitor.consume(items) is items
    with monitor.pause():
        pass
    assert monitor.parts.consumer is None
