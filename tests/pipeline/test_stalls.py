"""A consumer that waits far too long: when that is said, who is blamed, and when nothing is said.

What is stuck here waits until the stall is heard of, so no test lasts longer than the pipeline takes to notice.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asynchub.dataflow import PipelineRecovered
from asynchub.pipeline.monitor import Pipeline
from tests.pipeline.heard import AFTER, PATIENT, Heard, line_of, listening

QUICK = 12
"""Items that come at once: enough to know how long waits are."""

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "asynchub")


def numbers(heard: Heard, stuck: Iterable[int] = (QUICK,), last: int = QUICK + 2) -> Iterator[int]:
    """Yield numbers; some only when a stall was heard of."""
    for number in range(last):
        if number in stuck:
            heard.until_stalled()
        yield number


# --- in threads


def in_a_thread(work: Callable[[int], int], to: queue.Queue[int], last: int) -> threading.Thread:
    def run() -> None:
        for number in range(last):
            to.put(work(number))

    thread = threading.Thread(target=run, name="decoder", daemon=True)
    thread.start()
    return thread


def taken(mon: Pipeline, ready: queue.Queue[int], number: int) -> list[int]:
    def items() -> Iterator[int]:
        for _ in range(number):
            yield ready.get(timeout=PATIENT)

    return list(mon.consume(items()))


def test_a_stage_that_hangs_in_a_thread_is_blamed_with_its_line_its_stack_and_the_queues() -> None:
    with listening("stalls") as (mon, heard):
        ready: queue.Queue[int] = queue.Queue(4)

        @mon.stage("decode", concurrency=1)
        def decode(number: int) -> int:
            if number == QUICK:
                assert heard.stalled.wait(PATIENT)  # here
            return number

        mon.watch("ready", ready, after="decode")
        thread = in_a_thread(decode, ready, QUICK + 2)
        assert taken(mon, ready, QUICK + 2) == list(range(QUICK + 2))
        thread.join()
        assert heard.recovered.wait(PATIENT)
        state = mon.report().state
    stall, (recovered,) = heard.stall, heard.all_of(PipelineRecovered)
    assert (stall.stage, stall.state, stall.queues) == ("decode", "at work", {"ready": 0})
    assert stall.frame == line_of(decode, "# here")
    assert stall.reason.startswith("waiting for decode, which has been at one item for ")
    assert stall.reason.endswith(f" in {stall.frame}")
    assert stall.stack.startswith("decoder:\n")
    assert "assert heard.stalled.wait(PATIENT)  # here" in stall.stack
    assert stall.seconds >= AFTER
    assert recovered.seconds >= stall.seconds
    assert stall.state_seconds >= 0.9 * stall.seconds
    assert state != "done"


def test_it_is_said_within_a_second_of_what_is_out_of_the_ordinary() -> None:
    waits: list[float] = []
    with listening("stalls") as (mon, heard):
        asked = time.monotonic()
        for _ in mon.consume(numbers(heard)):
            waits.append(time.monotonic() - asked)
            asked = time.monotonic()
    usual = sorted(waits)[-2]
    assert heard.stall.seconds <= max(AFTER, 11 * usual) + 1.0


def test_the_reports_say_so_too_as_long_as_it_lasts() -> None:
    states: list[tuple[str, str]] = []
    with listening("stalls", interval=0.05) as (mon, heard):
        told = threading.Event()

        @mon.on_report
        def keep(report: Any) -> None:
            states.append((report.state, report.stalled))
            if report.state == "stalled":
                told.set()

        def items() -> Iterator[int]:
            yield from range(QUICK)
            assert told.wait(PATIENT)
            yield QUICK

        list(mon.consume(items()))
        assert heard.recovered.wait(PATIENT)
    stalled = [reason for state, reason in states if state == "stalled"]
    assert set(stalled) == {heard.stall.reason}
    assert all(not reason for state, reason in states if state != "stalled")
    assert states[-1][0] == "done"


# --- on event loops


async def test_an_async_stage_that_waits_for_something_is_blamed_with_the_line_where_it_waits() -> None:
    with listening("stalls") as (mon, heard):
        send, receive = mon.channel("fetched", 4)

        async def connection(number: int) -> int:
            if number == QUICK:
                await anyio.to_thread.run_sync(heard.until_stalled)  # here
            return number

        @mon.stage("fetch", concurrency=1)
        async def fetch(number: int) -> int:
            await anyio.sleep(0)
            return await connection(number)

        @mon.stage("decode", concurrency=1)
        async def decode(number: int) -> int:
            return number

        async def fetching() -> None:
            async with send:
                for number in range(QUICK + 2):
                    await send.send(await decode(await fetch(number)))

        async with anyio.create_task_group() as group, receive:
            group.start_soon(fetching)
            assert [item async for item in mon.consume(receive)] == list(range(QUICK + 2))
    stall = heard.stall
    assert stall.stage == "fetch"
    assert stall.frame == line_of(connection, "# here")
    assert "in fetch\n    return await connection(number)\n" in stall.stack
    assert stall.stack.index("in fetch") < stall.stack.index("in connection")
    assert stall.queues == {"fetched": 0}


async def test_the_call_that_hangs_is_blamed_and_not_a_stage_in_the_calls_of_others() -> None:
    with listening("stalls") as (mon, heard):
        send, receive = mon.channel("fetched", 4)

        @mon.stage("parse")
        async def parse(number: int) -> int:
            await anyio.sleep(0.01)
            return number

        @mon.stage("fetch", concurrency=2)
        async def fetch(number: int) -> int:
            if number == QUICK:
                await anyio.to_thread.run_sync(heard.until_stalled)  # here
            return await parse(number)

        async def fetching() -> None:
            async with send:
                for number in range(QUICK + 1):
                    await send.send(await fetch(number))

        async def another() -> None:
            while not heard.stalled.is_set():
                await fetch(-1)

        async with anyio.create_task_group() as group, receive:
            group.start_soon(fetching)
            group.start_soon(another)
            async for _ in mon.consume(receive):
                pass
    assert heard.stall.stage == "fetch"
    assert heard.stall.frame == line_of(fetch, "# here")


async def test_a_stage_within_the_stage_that_hangs_is_blamed() -> None:
    with listening("stalls") as (mon, heard):

        @mon.stage("read")
        async def read(number: int) -> int:
            if number == QUICK:
                await anyio.to_thread.run_sync(heard.until_stalled)  # here
            return number

        @mon.stage("fetch")
        async def fetch(number: int) -> int:
            await anyio.sleep(0.001)  # long enough to be stepped
            return await read(number)

        async def items() -> AsyncIterator[int]:
            for number in range(QUICK + 1):
                yield await fetch(number)

        async for _ in mon.consume(items()):
            pass
    assert heard.stall.stage == "read"
    assert heard.stall.frame == line_of(read, "# here")


# --- in chains


@pytest.mark.parametrize("stuck", [0, QUICK])
def test_of_a_chain_of_generators_the_innermost_that_hangs_is_blamed(stuck: int) -> None:
    with listening("stalls") as (mon, heard):

        def fetch() -> Iterator[int]:
            for number in range(QUICK + 2):
                if number == stuck:
                    assert heard.stalled.wait(PATIENT)  # here
                yield number

        def decode(items: Iterable[int]) -> Iterator[int]:
            yield from items

        chain = mon.monitor(decode(mon.monitor(decode(mon.monitor(fetch(), "fetch")), "decode")), "augment")
        assert list(mon.consume(chain)) == list(range(QUICK + 2))
    assert heard.stall.stage == "fetch"
    assert heard.stall.frame == line_of(fetch, "# here")
    assert heard.stall.reason.endswith("no batch has come yet") == (stuck == 0)


@pytest.mark.parametrize("stuck", [0, QUICK])
async def test_of_a_chain_of_async_generators_the_innermost_that_hangs_is_blamed(stuck: int) -> None:
    with listening("stalls") as (mon, heard):

        async def fetch() -> AsyncIterator[int]:
            for number in range(QUICK + 2):
                if number == stuck:
                    await anyio.to_thread.run_sync(heard.until_stalled)  # here
                yield number

        async def decode(items: AsyncIterator[int]) -> AsyncIterator[int]:
            async for item in items:
                yield item

        chain = mon.monitor(decode(mon.monitor(decode(mon.monitor(fetch(), "fetch")), "decode")), "augment")
        assert [item async for item in mon.consume(chain)] == list(range(QUICK + 2))
    assert heard.stall.stage == "fetch"
    assert heard.stall.frame == line_of(fetch, "# here")


def test_the_outer_one_of_a_chain_is_blamed_if_it_hangs_itself() -> None:
    with listening("stalls") as (mon, heard):

        def decode(items: Iterable[int]) -> Iterator[int]:
            for item in items:
                if item == QUICK:
                    assert heard.stalled.wait(PATIENT)  # here
                yield item

        chain = mon.monitor(decode(mon.monitor(iter(range(QUICK + 2)), "fetch")), "decode")
        assert list(mon.consume(chain)) == list(range(QUICK + 2))
    assert heard.stall.stage == "decode"
    assert heard.stall.frame == line_of(decode, "# here")


# --- where less is known


def test_with_nothing_measured_it_is_said_where_the_consumer_waits() -> None:
    with listening("stalls") as (mon, heard):

        def items() -> Iterator[int]:
            yield from range(QUICK)
            assert heard.stalled.wait(PATIENT)  # here
            yield QUICK

        list(mon.consume(items()))
    stall = heard.stall
    assert (stall.stage, stall.frame) == ("", line_of(items, "# here"))
    assert stall.reason == f"waiting for something that is not measured, in {stall.frame}"
    assert "assert heard.stalled.wait(PATIENT)  # here" in stall.stack


async def test_with_nothing_measured_it_is_said_where_an_async_iterator_waits() -> None:
    with listening("stalls") as (mon, heard):

        async def items() -> AsyncIterator[int]:
            for number in range(QUICK):
                yield number
            await anyio.to_thread.run_sync(heard.until_stalled)  # here
            yield QUICK

        async for _ in mon.consume(items()):
            pass
    assert heard.stall.frame == line_of(items, "# here")
    assert heard.stall.reason == f"waiting for something that is not measured, in {heard.stall.frame}"


def test_if_nobody_is_at_work_who_should_fill_the_first_empty_queue_is_blamed() -> None:
    with listening("stalls") as (mon, heard):
        raw: queue.Queue[int] = queue.Queue(4)
        ready: queue.Queue[int] = queue.Queue(4)
        mon.watch("raw", raw, after="fetch", into="decode")
        mon.watch("ready", ready, after="decode")

        def items() -> Iterator[int]:
            yield from range(QUICK)
            raw.put(1)  # which nobody takes
            heard.until_stalled()
            yield QUICK

        list(mon.consume(items()))
    assert heard.stall.stage == "decode"
    assert heard.stall.reason.startswith("waiting for decode, which hands on nothing, in ")
    assert heard.stall.queues == {"raw": 1, "ready": 0}


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_consumer_that_waits_in_the_loops_own_thread_is_not_taken_for_who_holds_the_loop() -> None:
    with listening("stalls", stall_after=0.6) as (mon, heard):  # long enough for the loop to be late
        ready: queue.Queue[int] = queue.Queue(4)

        @mon.stage("decode", concurrency=1)
        def decode(number: int) -> int:
            if number == QUICK:
                assert heard.stalled.wait(PATIENT)  # here
            return number

        thread = in_a_thread(decode, ready, QUICK + 1)
        taken(mon, ready, QUICK + 1)
        thread.join()
    assert heard.stall.stage == "decode"
    assert heard.stall.frame == line_of(decode, "# here")


# --- the first batches


def test_that_the_first_batch_never_comes_is_said_after_three_times_as_long() -> None:
    with listening("stalls") as (mon, heard):
        list(mon.consume(numbers(heard, stuck=[0])))
        assert heard.recovered.wait(PATIENT)
    assert heard.stall.seconds >= 3 * AFTER
    assert heard.stall.reason.endswith("; no batch has come yet")


def test_nothing_is_said_of_a_first_batch_that_takes_a_little_longer() -> None:
    with listening("stalls", stall_after=0.2) as (mon, heard):

        def items() -> Iterator[int]:
            time.sleep(0.3)
            yield from range(3)

        list(mon.consume(items()))
    assert heard.stalls == []


def test_as_long_as_few_have_come_it_takes_three_times_as_long_and_ten_times_the_longest() -> None:
    with listening("stalls", stall_after=0.05) as (mon, heard):

        def items() -> Iterator[int]:
            yield 0
            time.sleep(0.05)
            yield 1
            heard.until_stalled()
            yield 2

        list(mon.consume(items()))
    assert heard.stall.seconds >= 0.48
    assert not heard.stall.reason.endswith("no batch has come yet")


def test_a_slow_first_batch_does_not_make_later_waits_look_usual() -> None:
    with listening("stalls") as (mon, heard):

        def items() -> Iterator[int]:
            time.sleep(0.3)
            yield from numbers(heard)

        list(mon.consume(items()))
    assert AFTER <= heard.stall.seconds < 3.0


def test_a_wait_that_is_usual_is_no_stall() -> None:
    with listening("stalls", stall_after=0.1) as (mon, heard):

        def items() -> Iterator[int]:
            yield -1
            for number in range(QUICK):
                time.sleep(0.02)
                yield number
            time.sleep(0.15)
            assert not heard.stalled.is_set()
            heard.until_stalled()
            yield QUICK

        list(mon.consume(items()))
    assert heard.stall.seconds >= 0.19


# --- when nothing is to be said


def test_nothing_is_said_while_the_consumer_is_busy_or_paused_or_between_two_epochs() -> None:
    with listening("stalls", stall_after=0.15) as (mon, heard):
        loader = mon.consume(range(QUICK))
        for number in loader:
            if number == QUICK - 1:
                time.sleep(0.25)
                with mon.pause():
                    time.sleep(0.25)
        time.sleep(0.25)
        for _ in loader:
            pass
    assert heard.events == []


def test_without_a_consumer_nothing_is_said() -> None:
    with listening("stalls", stall_after=0.05) as (mon, heard):

        @mon.stage("decode")
        def decode() -> None:
            time.sleep(0.2)

        decode()
    assert heard.stalls == []


def test_each_stall_is_said_once_and_a_second_one_again() -> None:
    with listening("stalls") as (mon, heard):
        for number in mon.consume(numbers(heard, stuck=[QUICK, QUICK + 1], last=QUICK + 3)):
            if number >= QUICK:
                assert heard.recovered.wait(PATIENT)
                heard.stalled.clear()
                heard.recovered.clear()
            if number == QUICK + 1:
                break
    assert len(heard.stalls) == len(heard.all_of(PipelineRecovered)) == 2


def test_stalls_do_not_make_long_waits_look_usual() -> None:
    with listening("stalls") as (mon, heard):
        for number in mon.consume(numbers(heard, stuck=[QUICK, QUICK + 1], last=QUICK + 3)):
            if number == QUICK:
                assert heard.recovered.wait(PATIENT)
                heard.stalled.clear()
    first, second = heard.stalls
    assert second.seconds < 5 * first.seconds  # not ten times, as if the first was one of those that are usual


def test_a_wait_that_ends_with_an_exception_ends_the_stall() -> None:
    with listening("stalls") as (mon, heard):

        def items() -> Iterator[int]:
            yield from numbers(heard, last=QUICK)
            heard.until_stalled()
            raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            list(mon.consume(items()))
        assert heard.recovered.wait(PATIENT)
