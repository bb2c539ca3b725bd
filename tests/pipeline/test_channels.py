"""Channels do what the memory object streams of anyio do, and say how long either end waits."""

from __future__ import annotations

import contextlib
import gc
import math
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.pipeline.clock import clock
from asynchub.pipeline.monitor import Pipeline
from tests.pipeline.side_log import TIMED_ON, SideLog, pipeline

MILLISECOND = 1_000_000
Log = list[object]
Scenario = Callable[[Any, Any, Log], Awaitable[None]]


@pytest.fixture
def mon() -> Pipeline:
    return pipeline()


async def outcome(call: Callable[..., Any], *args: Any) -> object:
    """Return what a call returns, or the name of what it raises."""
    try:
        found = call(*args)
        return await found if hasattr(found, "__await__") else found
    except Exception as error:
        return f"{type(error).__name__} {error} {type(error.__cause__).__name__}"


# --- the same as without


async def nowait(send: Any, receive: Any, log: Log) -> None:
    for number in range(4):
        log.append(await outcome(send.send_nowait, number))
        log.append(send.statistics())
    for _ in range(4):
        log.append(await outcome(receive.receive_nowait))
        log.append(receive.statistics())
    send.close()
    log.append(await outcome(receive.receive_nowait))
    receive.close()


async def in_order(send: Any, receive: Any, log: Log) -> None:
    async def produce() -> None:
        async with send:
            for number in range(10):
                await send.send(number)
                log.append(f"sent {number}") if number in (0, 9) else None

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        async with receive:
            found = [item async for item in receive]
    log.append(found)
    log.append(receive.statistics())


async def many_to_many(send: Any, receive: Any, log: Log) -> None:
    found: list[int] = []

    async def produce(stream: Any, first: int) -> None:
        async with stream:
            for number in range(first, first + 5):
                await stream.send(number)

    async def take(stream: Any) -> None:
        async with stream:
            async for item in stream:
                found.append(item)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(produce, send.clone(), 10 * number)
            group.start_soon(take, receive.clone())
        send.close()
        receive.close()
    log.append(sorted(found))
    log.append(send.statistics())


async def closed_ends(send: Any, receive: Any, log: Log) -> None:
    other = send.clone()
    send.close()
    send.close()
    log.append(await outcome(send.send, 1))
    log.append(await outcome(send.send_nowait, 1))
    log.append(await outcome(send.clone))
    log.append(await outcome(other.send_nowait, 2))
    log.append(send.statistics())
    await receive.aclose()
    log.append(await outcome(receive.receive))
    log.append(await outcome(receive.receive_nowait))
    log.append(await outcome(receive.clone))
    log.append(await outcome(anext, receive))
    log.append(await outcome(other.send, 3))
    log.append(await outcome(other.send_nowait, 3))
    await other.aclose()


async def sender_waits_when_the_receiver_closes(send: Any, receive: Any, log: Log) -> None:
    async def fill() -> None:
        for number in range(5):
            found = await outcome(send.send, number)
            log.append(found)
            if found is not None:
                break

    async with anyio.create_task_group() as group:
        group.start_soon(fill)
        await anyio.wait_all_tasks_blocked()
        log.append(send.statistics())
        receive.close()
    log.append(send.statistics())
    send.close()


async def receiver_waits_when_the_sender_closes(send: Any, receive: Any, log: Log) -> None:
    async def take() -> None:
        log.append(await outcome(receive.receive))

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        group.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        log.append(receive.statistics())
        send.close()
    log.append(receive.statistics())
    receive.close()


async def ends_close_while_they_wait_themselves(send: Any, receive: Any, log: Log) -> None:
    async def take() -> None:
        log.append(await outcome(receive.receive))

    async def fill() -> None:
        for number in range(5):
            if (found := await outcome(send.send, number)) is not None:
                log.append(found)
                break

    other = receive.clone()
    async with anyio.create_task_group() as group:
        group.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        receive.close()
    async with anyio.create_task_group() as group:
        group.start_soon(fill)
        await anyio.wait_all_tasks_blocked()
        send.close()
    log.append(other.statistics())
    other.close()


async def cancelled_while_it_waits(send: Any, receive: Any, log: Log) -> None:
    with anyio.move_on_after(0.01) as scope:
        await receive.receive()
    log.append(scope.cancelled_caught)
    log.append(receive.statistics())
    with anyio.move_on_after(0.01) as scope:
        for number in range(5):
            await send.send(number)
    log.append(scope.cancelled_caught)
    log.append(send.statistics())
    found = []
    with contextlib.suppress(anyio.WouldBlock):
        while True:
            found.append(receive.receive_nowait())
    log.append(found)
    send.close()
    receive.close()


async def cancelled_already(send: Any, receive: Any, log: Log) -> None:
    send.send_nowait(1)
    for call in (lambda: send.send(2), receive.receive):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await call()
        log.append(scope.cancelled_caught)
        log.append(send.statistics())
    log.append(await outcome(receive.receive_nowait))
    send.close()
    receive.close()


async def an_error_in_the_loop(send: Any, receive: Any, log: Log) -> None:
    async def produce() -> None:
        async with send:
            for number in range(9):
                if (found := await outcome(send.send, number)) is not None:
                    log.append(found)
                    break

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        try:
            async with receive:
                async for item in receive:
                    if item == 2:
                        raise KeyError(item)
        except KeyError as error:
            log.append(str(error))
    log.append(send.statistics()._replace(current_buffer_used=0))  # trio shuffles who goes on first


async def with_statements(send: Any, receive: Any, log: Log) -> None:
    with send as one, receive as other:
        log.append((one is send, other is receive))
        send.send_nowait(1)
        log.append(receive.receive_nowait())
    log.append(send.statistics())


SCENARIOS: list[Scenario] = [
    nowait,
    in_order,
    many_to_many,
    closed_ends,
    sender_waits_when_the_receiver_closes,
    receiver_waits_when_the_sender_closes,
    ends_close_while_they_wait_themselves,
    cancelled_while_it_waits,
    cancelled_already,
    an_error_in_the_loop,
    with_statements,
]


@pytest.mark.parametrize("capacity", [2])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_channel_does_what_a_stream_of_anyio_does(mon: Pipeline, scenario: Scenario, capacity: int) -> None:
    logs: tuple[Log, Log] = ([], [])
    with anyio.fail_after(30):
        await scenario(*anyio.create_memory_object_stream[Any](capacity), logs[0])
        await scenario(*mon.channel("it", capacity), logs[1])
    assert logs[1] == logs[0]
    assert logs[0]


@pytest.mark.parametrize("scenario", [in_order, many_to_many, an_error_in_the_loop], ids=lambda one: one.__name__)
@pytest.mark.parametrize("capacity", [0, math.inf])
async def test_a_channel_without_a_buffer_or_without_a_bound_does_so_too(
    mon: Pipeline, scenario: Scenario, capacity: float
) -> None:
    logs: tuple[Log, Log] = ([], [])
    with anyio.fail_after(30):
        await scenario(*anyio.create_memory_object_stream[Any](capacity), logs[0])
        await scenario(*mon.channel("it", capacity), logs[1])
    assert logs[1] == logs[0]


async def test_both_ends_are_streams_of_anyio(mon: Pipeline) -> None:
    send, receive = mon.channel("it", 2)
    with send, receive, send.clone() as other:
        assert isinstance(send, MemoryObjectSendStream)
        assert isinstance(receive, MemoryObjectReceiveStream)
        assert type(other) is type(send)
        assert send.extra_attributes == receive.extra_attributes == {}
        assert send != other
        assert len({send, receive, other}) == 3
        assert "Stream" in repr(send)
        assert "Stream" in repr(receive)


@TIMED_ON
async def test_an_end_that_nobody_closed_is_warned_of_as_without(mon: Pipeline) -> None:
    def said(make: Callable[[], Any]) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ends = make()
            del ends
            gc.collect()
        return sorted(str(one.message).split(" at ")[0] for one in caught if one.category is ResourceWarning)

    without = said(lambda: anyio.create_memory_object_stream[int](1))
    assert without == ["Unclosed <MemoryObjectReceiveStream", "Unclosed <MemoryObjectSendStream"]
    assert said(lambda: mon.channel("it", 1)) == without


@pytest.mark.parametrize("capacity", [-1, 1.5, "3"])
async def test_a_capacity_that_is_none_is_refused_as_without(mon: Pipeline, capacity: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as without:
        anyio.create_memory_object_stream[int](capacity)
    with pytest.raises(type(without.value)) as found:
        mon.channel("it", capacity)
    assert str(found.value) == str(without.value)
    assert mon.parts.queues == {}


@pytest.mark.parametrize("name", ["", "a/b", "*", None, 3])
def test_a_name_that_cannot_be_part_of_a_key_is_refused(mon: Pipeline, name: Any) -> None:
    with pytest.raises(ArgumentError, match="name must be"):
        mon.channel(name, 1)
    assert mon.parts.queues == {}


async def test_a_channel_that_is_gone_is_looked_at_without_harm(mon: Pipeline) -> None:
    send, receive = mon.channel("it", 2)
    send.send_nowait(1)
    mon.parts.look()
    send.close()
    receive.close()
    del send, receive
    mon.parts.look()
    assert mon.parts.queues["it"].counters(clock()).looks == 1
    assert mon.parts.queues["it"].depth() == 0


async def test_what_is_switched_off_is_a_stream_of_anyio() -> None:
    monitor = Pipeline(MessageHub("hub"), enabled=False)
    send, receive = monitor.channel("it", 2)
    assert type(send) is MemoryObjectSendStream
    assert type(receive) is MemoryObjectReceiveStream
    send.close()
    receive.close()
    assert monitor.parts.queues == {}


# --- waits and depths


@TIMED_ON
async def test_what_either_end_waits_is_what_a_log_says(mon: Pipeline) -> None:
    log = SideLog()
    for name, produces, takes in (("starved", 0.02, 0.0), ("blocked", 0.0, 0.02)):
        send, receive = mon.channel(name, 2)

        async def produce(send: Any = send, produces: float = produces, name: str = name) -> None:
            async with send:
                for number in range(7):
                    await anyio.sleep(produces)
                    with log.span(f"{name} send"):
                        await send.send(number)

        async with anyio.create_task_group() as group, receive:
            group.start_soon(produce)
            for _ in range(7):
                with log.span(f"{name} receive"):
                    await receive.receive()
                await anyio.sleep(takes)
        counted = mon.parts.queues[name].counters(clock())
        assert counted.items == 7
        assert counted.get_wait == pytest.approx(log[f"{name} receive"].total, rel=0.05, abs=3 * MILLISECOND)
        assert counted.put_wait == pytest.approx(log[f"{name} send"].total, rel=0.05, abs=3 * MILLISECOND)
    starved, blocked = (mon.parts.queues[name].counters(clock()) for name in ("starved", "blocked"))
    assert starved.get_wait >= 100 * MILLISECOND > 20 * MILLISECOND > (starved.put_wait or 0)
    assert (blocked.put_wait or 0) >= 60 * MILLISECOND > 20 * MILLISECOND > (blocked.get_wait or 0)


@TIMED_ON
async def test_waiting_under_way_counts_while_it_lasts(mon: Pipeline) -> None:
    send, receive = mon.channel("it", 1)
    async with anyio.create_task_group() as group, send, receive:
        for _ in range(3):
            group.start_soon(receive.receive)
        await anyio.sleep(0.03)
        counted = mon.parts.queues["it"].counters(clock())
        assert (counted.get_wait or 0) >= 3 * 25 * MILLISECOND
        group.cancel_scope.cancel()
    after = mon.parts.queues["it"].counters(clock())
    assert (after.get_wait or 0) >= (counted.get_wait or 0)
    assert after.items == 0


async def test_an_item_that_was_ready_was_not_waited_for(mon: Pipeline) -> None:
    send, receive = mon.channel("it", 100)
    async with send, receive:
        for number in range(100):
            await send.send(number)
        for _ in range(100):
            await receive.receive()
    counted = mon.parts.queues["it"].counters(clock())
    assert (counted.items, counted.put_wait, counted.get_wait) == (100, 0, 0)


async def test_depths_are_those_of_the_moments_at_which_they_were_looked_at(mon: Pipeline) -> None:
    send, receive = mon.channel("it", 4)
    depths = [0, 1, 3, 4, 4, 2, 0, 4]
    async with send, receive:
        for depth in depths:
            while send.statistics().current_buffer_used < depth:
                send.send_nowait(0)
            while send.statistics().current_buffer_used > depth:
                receive.receive_nowait()
            mon.parts.look()
    counted = mon.parts.queues["it"].counters(clock())
    assert (counted.looks, counted.depths, counted.nonempty, counted.full) == (8, sum(depths), 6, 3)
    assert (counted.turns, counted.depth, counted.capacity) == (3, 4, 4)
    assert counted.items == receive._channel.received  # type: ignore[attr-defined]


# --- who sends, and who receives


async def run_line(mon: Pipeline, log: SideLog | None = None) -> None:
    """fetch (20 ms) -> fetched -> decode (10 ms) -> decoded -> the consumer (30 ms)."""

    @mon.stage("fetch", concurrency=1)
    async def fetch(number: int) -> int:
        await anyio.sleep(0.02)
        return number

    @mon.stage("decode", concurrency=1)
    async def decode(number: int) -> int:
        await anyio.sleep(0.01)
        return number

    put_fetched, fetched = mon.channel("fetched", 2)
    put_decoded, decoded = mon.channel("decoded", 2)

    async def fetching() -> None:
        async with put_fetched:
            for number in range(8):
                await put_fetched.send(await fetch(number))

    async def decoding() -> None:
        async with fetched, put_decoded:
            async for item in fetched:
                await put_decoded.send(await decode(item))

    async with anyio.create_task_group() as group, decoded:
        group.start_soon(fetching)
        group.start_soon(decoding)
        async for _ in mon.consume(decoded):
            await anyio.sleep(0.03)


@TIMED_ON
async def test_who_sends_and_receives_is_learned_and_what_they_wait_is_their_starved_and_blocked_time(
    mon: Pipeline,
) -> None:
    start = time.perf_counter_ns()
    await run_line(mon)
    whole = time.perf_counter_ns() - start
    assert mon.parts.consumer is not None
    stages, queues = mon.parts.stages, mon.parts.queues
    assert queues["fetched"].after is stages["fetch"]
    assert queues["fetched"].into is stages["decode"]
    assert queues["decoded"].after is stages["decode"]
    assert queues["decoded"].into is mon.parts.consumer.meter
    for name, least in (("fetch", 8 * 18), ("decode", 8 * 8)):
        counted = stages[name].counters(clock())
        assert counted.items == 8
        assert counted.busy >= least * MILLISECOND
        assert 0.35 * whole <= counted.busy + (counted.starved or 0) + (counted.blocked or 0) <= 1.02 * whole
    consumer = mon.parts.consumer.counters(clock())
    assert consumer.wait + consumer.busy <= whole


@TIMED_ON
async def test_a_generator_that_receives_was_starved_and_not_busy_meanwhile(mon: Pipeline) -> None:
    send, receive = mon.channel("raw", 2)

    async def produce() -> None:
        async with send:
            for number in range(6):
                await anyio.sleep(0.03)
                await send.send(number)

    @mon.stage("decode")
    async def decode() -> AsyncIterator[int]:
        async with receive:
            async for item in receive:
                await anyio.sleep(0.01)
                yield item

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        async for _ in decode():
            pass
    counted = mon.parts.stages["decode"].counters(clock())
    assert 54 * MILLISECOND <= counted.busy <= 100 * MILLISECOND
    assert (counted.starved or 0) >= 100 * MILLISECOND
    assert mon.parts.queues["raw"].into is mon.parts.stages["decode"]


@TIMED_ON
async def test_a_function_that_receives_and_sends_itself_was_busy_with_neither(mon: Pipeline) -> None:
    put_raw, raw = mon.channel("raw", 1)
    put_done, done = mon.channel("done", 1)

    async def produce() -> None:
        async with put_raw:
            for number in range(8):
                await anyio.sleep(0.02)
                await put_raw.send(number)

    @mon.stage("decode")
    async def decode() -> None:
        item = await raw.receive()
        await anyio.sleep(0.01)
        await put_done.send(item)

    async def work() -> None:
        async with put_done, raw:
            for _ in range(8):
                await decode()

    async with anyio.create_task_group() as group, done:
        group.start_soon(produce)
        group.start_soon(work)
        async for _ in done:
            await anyio.sleep(0.03)
    counted = mon.parts.stages["decode"].counters(clock())
    assert 70 * MILLISECOND <= counted.busy <= 130 * MILLISECOND
    assert (counted.blocked or 0) > 0
    assert (counted.starved or 0) > 0
    assert mon.parts.queues["raw"].into is mon.parts.queues["done"].after is mon.parts.stages["decode"]


async def test_clones_count_together(mon: Pipeline) -> None:
    send, receive = mon.channel("it", 2)

    async def produce(stream: Any) -> None:
        async with stream:
            for number in range(50):
                await stream.send(number)

    async def take(stream: Any) -> None:
        async with stream:
            async for _ in stream:
                pass

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(produce, send.clone())
            group.start_soon(take, receive.clone())
        send.close()
        receive.close()
    assert mon.parts.queues["it"].counters(clock()).items == 150
