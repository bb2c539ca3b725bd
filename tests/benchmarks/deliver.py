"""How many events a second reach async subscribers that only count them?

Prints million events per CPU second of the loop's thread, with one subscriber and with ten: once for the delivering
alone, from the end of publishing until every subscriber has handled every event, and once with the publishing, history
included. Events come in bursts of 10,000, and all go to every subscriber. Not shown: handlers' own work, and what a
thread of its own costs (``train_step``). What calls its receivers has no delivering of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import blinker
import janus
import psygnal
from psygnal._async import clear_async_backend

from asynchub import Event, MessageHub, Subscription
from tests.benchmarks.common import figures, header, interleave_async, quick, table

KEY = "train/loss"
BURST = 10_000

Took = tuple[float, float]
"""CPU seconds per event, of the delivering and in all."""


class Counter:
    """A subscriber that only counts, by one of three ways to read."""

    def __init__(self) -> None:
        self.count = 0

    def one(self, event: Event) -> None:
        self.count += 1

    async def each(self, events: Subscription) -> None:
        async for _ in events:
            self.count += 1

    async def batches(self, events: Subscription) -> None:
        async for batch in events.batches():
            self.count += len(batch)


def contender(
    events: int, publish: Callable[[int], object], deliver: Callable[[], Awaitable[object]]
) -> Callable[[], Awaitable[Took]]:
    async def run() -> Took:
        published = delivered = 0
        for begin in range(0, events, BURST):
            first = time.thread_time_ns()
            publish(min(BURST, events - begin))
            second = time.thread_time_ns()
            await deliver()
            published += second - first
            delivered += time.thread_time_ns() - second
        return delivered / events / 1e9, (published + delivered) / events / 1e9

    return run


@asynccontextmanager
async def ours(subscribers: int, way: str, events: int) -> AsyncIterator[Callable[[], Awaitable[Took]]]:
    counters = [Counter() for _ in range(subscribers)]
    async with MessageHub(f"{way} {subscribers}") as hub:
        for counter in counters:
            if way == "one":
                hub.on("train/*")(counter.one)
            else:
                hub.attach(getattr(counter, way), "train/*")
        update = hub.update_scalar

        def publish(count: int) -> None:
            for _ in range(count):
                update(KEY, 0.5)

        yield contender(events, publish, hub.flushed)
    if len({counter.count for counter in counters}) != 1 or counters[0].count % events:
        raise SystemExit(f"events were lost: {[counter.count for counter in counters]}")


@asynccontextmanager
async def queues(subscribers: int, events: int) -> AsyncIterator[dict[str, Callable[[], Awaitable[Took]]]]:
    plain: list[asyncio.Queue[Any]] = [asyncio.Queue() for _ in range(subscribers)]
    crossing: list[janus.Queue[Any]] = [janus.Queue() for _ in range(subscribers)]
    streams = [anyio.create_memory_object_stream[Any](math.inf) for _ in range(subscribers)]
    counts = [0] * subscribers

    async def read(number: int, queue: Any) -> None:
        while True:
            await queue.get()
            counts[number] += 1
            queue.task_done()

    async def read_stream(number: int, stream: Any) -> None:
        async for _ in stream:
            counts[number] += 1

    def into(puts: list[Callable[[Any], object]]) -> Callable[[int], None]:
        def publish(count: int) -> None:
            for _ in range(count):
                event = (KEY, 0.5)
                for put in puts:
                    put(event)

        return publish

    async def received() -> None:
        while any(receive.statistics().current_buffer_used for _, receive in streams):
            await anyio.lowlevel.checkpoint()

    async def joined(waiting: list[Any]) -> None:
        for queue in waiting:
            await queue.join()

    crossed = [queue.async_q for queue in crossing]
    async with AsyncExitStack() as stack:
        for both in crossing:
            stack.push_async_callback(both.aclose)
        for send, receive in streams:
            stack.enter_context(send)
            stack.enter_context(receive)
        group = await stack.enter_async_context(anyio.create_task_group())
        for number in range(subscribers):
            group.start_soon(read, number, plain[number])
            group.start_soon(read, number, crossed[number])
            group.start_soon(read_stream, number, streams[number][1])
        yield {
            "asyncio.Queue fan-out": contender(events, into([q.put_nowait for q in plain]), lambda: joined(plain)),
            "anyio stream fan-out": contender(events // 5, into([s.send_nowait for s, _ in streams]), received),
            "janus fan-out": contender(
                events // 20, into([q.sync_q.put for q in crossing]), lambda: joined(list(crossed))
            ),
        }
        group.cancel_scope.cancel()


@asynccontextmanager
async def buses(subscribers: int, events: int) -> AsyncIterator[dict[str, Callable[[], Awaitable[Took]]]]:
    import bubus

    logging.getLogger("bubus").setLevel(logging.CRITICAL)
    signal = blinker.Signal()
    counts = [0] * subscribers

    class Loop:
        updated = psygnal.Signal(str, float)

    class Updated(bubus.BaseEvent[None]):
        name: str
        value: float

    bus = bubus.EventBus(name=f"bus{subscribers}", max_history_size=50)
    loop = Loop()
    psygnal.set_async_backend("asyncio")
    await asyncio.sleep(0)
    for number in range(subscribers):

        async def count(*_: Any, number: int = number, **__: Any) -> None:
            counts[number] += 1

        async def handle(event: Any, number: int = number) -> None:
            counts[number] += 1

        async def counted(key: str, value: float, number: int = number) -> None:
            counts[number] += 1

        signal.connect(count, weak=False)
        loop.updated.connect(counted)
        handle.__name__ = f"handle{number}"
        bus.on(Updated, handle)

    async def send(count: int) -> None:
        for _ in range(count):
            await signal.send_async(None, key=KEY, value=0.5)

    def emit(count: int) -> None:
        for _ in range(count):
            loop.updated.emit(KEY, 0.5)

    def dispatch(count: int) -> None:
        for _ in range(count):
            bus.dispatch(Updated(name=KEY, value=0.5))

    async def emitted() -> None:
        backend: Any = psygnal.get_async_backend()
        while not backend._queue.empty():
            await asyncio.sleep(0)

    few = max(events // 20, 1)
    yield {
        "blinker send_async": contender(few, lambda count: None, lambda: send(few)),
        "psygnal, asyncio backend": contender(few, emit, emitted),
        "bubus": contender(20, dispatch, bus.wait_until_idle),
    }
    await bus.stop()
    clear_async_backend()


WAYS = {"batches": "async for batch in events.batches()", "one": "@hub.on, a plain function", "each": "async for event"}


async def main(rough: bool) -> None:
    columns: list[dict[str, list[Took]]] = []
    for subscribers in (1, 10):
        events = (10_000 if rough else 100_000) // (1 if subscribers == 1 else 5)
        async with AsyncExitStack() as stack:
            contenders = {
                name: await stack.enter_async_context(ours(subscribers, way, events)) for way, name in WAYS.items()
            }
            few = events // (1 if subscribers == 1 else 5)
            contenders |= await stack.enter_async_context(queues(subscribers, few))
            contenders |= await stack.enter_async_context(buses(subscribers, few))
            columns.append(await interleave_async(contenders, 3 if rough else 11))
    rows = {
        name: [
            f"{1e-6 / figures(took[part] for took in column[name]).median:,.3f}"
            for column in columns
            for part in (0, 1)
        ]
        for name in columns[0]
    }
    titles = ["1: delivering", "1: in all", "10: delivering", "10: in all"]
    table("million events per CPU second, subscribers", titles, rows)


if __name__ == "__main__":
    header("blinker", "psygnal", "janus", "bubus")
    asyncio.run(main(quick()))
