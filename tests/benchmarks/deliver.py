"""How many events a second reach async subscribers that only count them?

Prints million events per CPU second of the loop's thread, with one subscriber and with ten: once for the delivering
alone, from the end of publishing until every subscriber has handled every event, and once with the publishing, history
included. Events come in bursts of 1,000, and all go to every subscriber. The floor makes an event object of each
tuple and hands it to a plain function, in a loop. Not shown: handlers' own work, and what a thread of its own costs
(``train_step``). What awaits its receivers itself (blinker) delivers while it publishes.
"""

from __future__ import annotations

import asyncio
import inspect
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

from asynchub import Event, MessageHub, Subscription
from asynchub.events import ENTRY, scalars_updated
from tests.benchmarks.common import figures, header, interleave_async, quick, table

KEY = "train/loss"
BURST = 1000

Took = tuple[float, float]
"""CPU seconds per event, of the delivering and in all."""
Counts = Callable[[], list[int]]
"""Returns how many events each subscriber has handled."""


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


def contender(events: int, publish: Callable[[int], object], counts: Counts) -> Callable[[], Awaitable[Took]]:
    """Return a contender that publishes in bursts, and after each waits until every count has grown by it."""

    async def run() -> Took:
        published = delivered = 0
        for begin in range(0, events, BURST):
            count = min(BURST, events - begin)
            goal = min(counts()) + count
            first = time.thread_time_ns()
            if inspect.isawaitable(pending := publish(count)):
                await pending
            second = time.thread_time_ns()
            while min(counts()) < goal:
                await asyncio.sleep(0)
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

        yield contender(events, publish, lambda: [counter.count for counter in counters])


def floor(events: int) -> Callable[[], Awaitable[Took]]:
    """Return what only makes the objects and calls a function with each."""
    entries: list[Any] = []
    counter = Counter()

    class Cell:
        key = KEY

    def publish(count: int) -> None:
        for _ in range(count):
            entries.extend((Cell, time.time(), 0, 0.5, 1))

    def counts() -> list[int]:
        one = counter.one
        for start in range(0, len(entries), 256 * ENTRY):
            items = entries[start : start + 256 * ENTRY]
            for event in scalars_updated(range(len(items) // ENTRY), items):
                one(event)
        entries.clear()
        return [counter.count]

    return contender(events, publish, counts)


@asynccontextmanager
async def queues(subscribers: int, events: int) -> AsyncIterator[dict[str, Callable[[], Awaitable[Took]]]]:
    plain: list[asyncio.Queue[Any]] = [asyncio.Queue() for _ in range(subscribers)]
    crossing: list[janus.Queue[Any]] = [janus.Queue() for _ in range(subscribers)]
    streams = [anyio.create_memory_object_stream[Any](math.inf) for _ in range(subscribers)]
    counts = {name: [0] * subscribers for name in ("plain", "crossing", "streams")}

    async def read(number: int, queue: Any, counted: list[int]) -> None:
        while True:
            await queue.get()
            counted[number] += 1

    async def read_stream(number: int, stream: Any, counted: list[int]) -> None:
        async for _ in stream:
            counted[number] += 1

    def into(puts: list[Callable[[Any], object]]) -> Callable[[int], None]:
        def publish(count: int) -> None:
            for _ in range(count):
                event = (KEY, 0.5)
                for put in puts:
                    put(event)

        return publish

    async with AsyncExitStack() as stack:
        for both in crossing:
            stack.push_async_callback(both.aclose)
        for send, receive in streams:
            stack.enter_context(send)
            stack.enter_context(receive)
        group = await stack.enter_async_context(anyio.create_task_group())
        for number in range(subscribers):
            group.start_soon(read, number, plain[number], counts["plain"])
            group.start_soon(read, number, crossing[number].async_q, counts["crossing"])
            group.start_soon(read_stream, number, streams[number][1], counts["streams"])
        yield {
            "asyncio.Queue fan-out": contender(
                events, into([one.put_nowait for one in plain]), lambda: counts["plain"]
            ),
            "anyio stream fan-out": contender(
                events // 5, into([send.send_nowait for send, _ in streams]), lambda: counts["streams"]
            ),
            "janus fan-out": contender(
                events // 20, into([both.sync_q.put for both in crossing]), lambda: counts["crossing"]
            ),
        }
        group.cancel_scope.cancel()


def emitters(subscribers: int, events: int) -> dict[str, Callable[[], Awaitable[Took]]]:
    counts = {name: [0] * subscribers for name in ("blinker", "psygnal")}
    signal = blinker.Signal()

    class Loop:
        updated = psygnal.Signal(str, float)

    loop = Loop()
    for number in range(subscribers):

        async def receive(*_: Any, number: int = number, **__: Any) -> None:
            counts["blinker"][number] += 1

        async def call_back(key: str, value: float, number: int = number) -> None:
            counts["psygnal"][number] += 1

        signal.connect(receive, weak=False)
        loop.updated.connect(call_back)

    async def send(count: int) -> None:
        for _ in range(count):
            await signal.send_async(None, key=KEY, value=0.5)

    def emit(count: int) -> None:
        for _ in range(count):
            loop.updated.emit(KEY, 0.5)

    return {
        "blinker send_async": contender(events // 20, send, lambda: counts["blinker"]),
        "psygnal, asyncio backend": contender(events // 20, emit, lambda: counts["psygnal"]),
    }


@asynccontextmanager
async def bubus_bus(subscribers: int) -> AsyncIterator[dict[str, Callable[[], Awaitable[Took]]]]:
    import bubus  # type: ignore[import-untyped]  # here: what it loads makes garbage collection dearer for all

    logging.getLogger("bubus").setLevel(logging.CRITICAL)
    counts = [0] * subscribers

    class Updated(bubus.BaseEvent[None]):  # type: ignore[misc]  # as it publishes no types
        name: str
        value: float

    bus = bubus.EventBus(name=f"bus{subscribers}", max_history_size=50)
    for number in range(subscribers):

        async def handle(event: Any, number: int = number) -> None:
            counts[number] += 1

        handle.__name__ = f"handle{number}"
        bus.on(Updated, handle)

    def dispatch(count: int) -> None:
        for _ in range(count):
            bus.dispatch(Updated(name=KEY, value=0.5))

    yield {"bubus": contender(20, dispatch, lambda: counts)}
    await bus.stop()


WAYS = {"batches": "async for batch in events.batches()", "one": "@hub.on, a plain function", "each": "async for event"}


async def main(rough: bool) -> None:
    await psygnal.set_async_backend("asyncio").running.wait()
    columns: list[dict[str, list[Took]]] = []
    for subscribers in (1, 10):
        events = (10_000 if rough else 100_000) // (1 if subscribers == 1 else 5)
        async with AsyncExitStack() as stack:
            contenders = {
                name: await stack.enter_async_context(ours(subscribers, way, events)) for way, name in WAYS.items()
            }
            if subscribers == 1:
                contenders["floor: objects made, a function called"] = floor(events)
            few = events // (1 if subscribers == 1 else 5)
            contenders |= await stack.enter_async_context(queues(subscribers, few))
            contenders |= emitters(subscribers, few)
            columns.append(await interleave_async(contenders, 3 if rough else 21))
    for column, subscribers in zip(columns, (1, 10), strict=True):
        async with bubus_bus(subscribers) as contenders:
            column |= await interleave_async(contenders, 3)
    rows = {name: [rate(column.get(name, []), part) for column in columns for part in (0, 1)] for name in columns[0]}
    titles = ["1: delivering", "1: in all", "10: delivering", "10: in all"]
    table("million events per CPU second, subscribers", titles, rows)


def rate(took: list[Took], part: int) -> str:
    """Return million events per second; nothing where there was hardly anything to do."""
    median = figures(one[part] for one in took).median if took else 0.0
    return f"{1e-6 / median:,.3f}" if median > 1e-9 else ""


if __name__ == "__main__":
    header("blinker", "psygnal", "janus", "bubus")
    asyncio.run(main(quick()))
