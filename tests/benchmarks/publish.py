"""How long does one publish hold up the publisher?

Prints ns of the publisher's own CPU time per call, with 0, 1, 10 and 100 live subscribers, history included, beside the
floor: a method of the same signature that appends one tuple to a list. Then the wall time of one publish every 0.3 ms
from a thread, to a hub whose subscribers live on an idle loop in another. Handlers do nothing; what they are handed is
handed over outside the measured time, except by emitters that call them (blinker, psygnal). Not shown: handlers' own
work, which competes for the interpreter lock (``train_step``); tensors on a device, which are waited for.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import math
import threading
import time
import timeit
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import blinker
import janus
import psygnal

from asynchub import MessageHub, Subscription
from tests.benchmarks.common import Figures, figures, header, interleave_async, quick, table

__all__ = ("Floor",)

KEY = "train/loss"
TEN = {f"train/{number}": float(number) for number in range(10)}
UPDATE = "hub.update_scalar(key, 0.5)"
SUBSCRIBERS = (0, 1, 10, 100)
SPACE = 300e-6
"""Seconds between two publishes to an idle loop."""

Contender = Callable[[], Awaitable[float]]


class Floor:
    """What any method with the signature of ``update_scalar`` costs that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int, bool, int | None]] = []

    def update_scalar(
        self, key: str, value: float, count: int = 1, resumed: bool = True, *, step: int | None = None
    ) -> None:
        self.rows.append((key, value, count, resumed, step))


async def ignore(events: Subscription) -> None:
    """Handle batches of events by doing nothing."""
    async for _ in events.batches():
        pass


def contender(
    calls: int, statement: str, drain: Callable[[], Awaitable[object]] | None = None, each: int = 1, **names: Any
) -> Contender:
    """Return a contender that runs ``statement``, of ``names``, ``calls`` times: ns of CPU time for each of its values.

    Garbage is collected meanwhile, as in a program.
    """
    timer = timeit.Timer(statement, "gc.enable()", time.thread_time_ns, {"gc": gc, "key": KEY, **names})

    async def run() -> float:
        took = timer.timeit(calls)
        if drain is not None:
            await drain()
        return took / calls / each

    return run


@asynccontextmanager
async def hub_with(subscribers: int, distinct: bool) -> AsyncIterator[MessageHub]:
    async with MessageHub(f"{subscribers} {distinct}") as hub:
        for number in range(subscribers):
            hub.attach(ignore, "train/*", *([f"other{number}/*"] if distinct else []), name=str(number))
        hub.update_scalar(KEY, 0.5)
        hub.update_scalars(TEN)
        await hub.flushed()
        yield hub


async def ours(stack: AsyncExitStack, subscribers: int, calls: int) -> dict[str, Contender]:
    hub = await stack.enter_async_context(hub_with(subscribers, distinct=False))
    other = await stack.enter_async_context(hub_with(subscribers, distinct=True))
    found = {
        "update_scalar": contender(calls, UPDATE, hub.flushed, hub=hub),
        "update_scalar, each its own pattern": contender(calls, UPDATE, other.flushed, hub=other),
        "update_scalars of ten, per scalar": contender(
            calls // 10, "hub.update_scalars(ten)", hub.flushed, 10, hub=hub, ten=TEN
        ),
        "probe": contender(calls, "probe(0.5)", hub.flushed, probe=hub.probe(KEY)),
        "update_info": contender(calls, "hub.update_info('train/epoch', 3)", hub.flushed, hub=hub),
    }
    if subscribers == 0:
        long = MessageHub("long")
        long.log_scalars[KEY] = type(hub.get_scalar(KEY))([0.5] * 1_000_000, [1] * 1_000_000)
        found["update_scalar, 1e6 values long"] = contender(calls, UPDATE, hub=long)
    return found


def floor(calls: int) -> Contender:
    base = Floor()

    async def clear() -> None:
        base.rows.clear()

    return contender(calls, UPDATE, clear, hub=base)


def mmengine_hubs(calls: int) -> dict[str, Contender]:
    from mmengine.logging import MessageHub as TheirHub

    found = {}
    for length in (0, 100_000):
        theirs = TheirHub(f"mmengine {length}", log_scalars={})
        theirs.update_scalar(KEY, 0.5)
        if length:
            theirs.log_scalars[KEY] = type(theirs.get_scalar(KEY))([0.5] * length, [1] * length)
        name = f"mmengine update_scalar, {length:.0e} values long" if length else "mmengine update_scalar, from empty"
        found[name] = contender(max(calls // 50, 10), UPDATE, hub=theirs)
    return found


def emitters(subscribers: int, calls: int) -> dict[str, Contender]:
    signal = blinker.Signal()
    receivers = [lambda sender, **_: None for _ in range(subscribers)]
    for receiver in receivers:
        signal.connect(receiver, weak=False)

    class Loop:
        updated = psygnal.Signal(str, float)

    loop = Loop()
    for _ in range(subscribers):
        loop.updated.connect(lambda key, value: None, unique=False)
    return {
        "blinker send": contender(calls, "signal.send(None, key=key, value=0.5)", signal=signal),
        "psygnal emit_fast": contender(calls, "updated.emit_fast(key, 0.5)", updated=loop.updated),
    }


async def queues(stack: AsyncExitStack, subscribers: int, calls: int) -> dict[str, Contender]:
    plain: list[asyncio.Queue[Any]] = [asyncio.Queue() for _ in range(subscribers)]
    crossing: list[janus.Queue[Any]] = [janus.Queue() for _ in range(subscribers)]
    senders, receivers = [], []
    for _ in range(subscribers):
        send, receive = anyio.create_memory_object_stream[Any](math.inf)
        senders.append(stack.enter_context(send))
        receivers.append(stack.enter_context(receive))
    for both in crossing:
        stack.push_async_callback(both.aclose)
    group = await stack.enter_async_context(anyio.create_task_group())
    stack.callback(group.cancel_scope.cancel)

    async def read(queue: asyncio.Queue[Any] | janus.AsyncQueue[Any]) -> None:
        while True:
            await queue.get()
            queue.task_done()

    async def read_stream(stream: Any) -> None:
        async for _ in stream:
            pass

    async def joined(all_of_them: list[Any]) -> None:
        for queue in all_of_them:
            await queue.join()

    async def received() -> None:
        while any(one.statistics().current_buffer_used for one in receivers):
            await anyio.lowlevel.checkpoint()

    for queue in plain:
        group.start_soon(read, queue)
    for both in crossing:
        group.start_soon(read, both.async_q)
    for stream in receivers:
        group.start_soon(read_stream, stream)
    await anyio.wait_all_tasks_blocked()
    fan_out = "event = (key, 0.5)\nfor put in into: put(event)"
    asynchronous = [queue.async_q for queue in crossing]
    return {
        "asyncio.Queue fan-out": contender(
            calls, fan_out, lambda: joined(plain), into=[queue.put_nowait for queue in plain]
        ),
        "anyio stream fan-out": contender(calls, fan_out, received, into=[stream.send_nowait for stream in senders]),
        "janus fan-out": contender(
            max(calls // 10, 1), fan_out, lambda: joined(asynchronous), into=[queue.sync_q.put for queue in crossing]
        ),
    }


async def bubus_bus(stack: AsyncExitStack, subscribers: int) -> dict[str, Contender]:
    import bubus  # type: ignore[import-untyped]  # it publishes none

    logging.getLogger("bubus").setLevel(logging.CRITICAL)

    class Updated(bubus.BaseEvent[None]):  # type: ignore[misc]  # as it publishes no types
        name: str
        value: float

    bus = bubus.EventBus(name=f"bus{subscribers}", max_history_size=50)
    for number in range(subscribers):

        async def handle(event: Any) -> None: ...

        handle.__name__ = f"handle{number}"
        bus.on(Updated, handle)
    stack.push_async_callback(bus.stop)
    calls = 10 if subscribers < 100 else 2
    return {
        "bubus": contender(
            calls, "bus.dispatch(Updated(name=key, value=0.5))", bus.wait_until_idle, bus=bus, Updated=Updated
        )
    }


async def bursts(rough: bool) -> None:
    columns: dict[int, dict[str, Figures]] = {}
    for subscribers in SUBSCRIBERS:
        calls = 1024 if rough else 2048
        share = max(min(calls, (2000 if rough else 20_000) // max(subscribers, 1)), 10)
        rounds = 3 if rough else 41
        async with AsyncExitStack() as stack:
            contenders = {"floor: a method that appends a tuple": floor(calls)}
            contenders |= await ours(stack, subscribers, calls)
            took = await interleave_async(contenders, rounds)
        async with AsyncExitStack() as stack:
            peers = emitters(subscribers, share) | await queues(stack, subscribers, share)
            peers |= await bubus_bus(stack, subscribers)
            if subscribers == 0:
                peers |= mmengine_hubs(calls)
            took |= await interleave_async(peers, 3 if rough else 9)
        columns[subscribers] = {name: figures(sample) for name, sample in took.items()}
    base = [columns[n]["floor: a method that appends a tuple"].median for n in SUBSCRIBERS]
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = {}
    for name in names:
        found = [columns[n].get(name) for n in SUBSCRIBERS]
        rows[name] = [
            "" if one is None else f"{one.median:,.0f} ({one.median / least:.1f}x)"
            for one, least in zip(found, base, strict=True)
        ]
    table("ns per call (ratio to the floor)", [f"{n} subscribers" for n in SUBSCRIBERS], rows)


def spaced(publish: Callable[[], object], calls: int) -> Figures:
    """Return the wall time of calls in ns, of which each comes to an idle loop."""
    took = []
    for _ in range(calls):
        time.sleep(SPACE)
        start = time.perf_counter_ns()
        publish()
        took.append(time.perf_counter_ns() - start)
    return figures(took)


def to_an_idle_loop(rough: bool) -> None:
    calls = 100 if rough else 3000
    rows: dict[str, list[str]] = {}

    def row(name: str, took: Figures) -> None:
        rows[name] = [f"{took.median:,.0f}", f"{took.p99:,.0f}"]

    base = Floor()
    row("floor: a method that appends a tuple", spaced(functools.partial(base.update_scalar, KEY, 0.5), calls))
    for subscribers in (1, 10):
        with MessageHub(f"idle {subscribers}") as hub:
            update = functools.partial(hub.update_scalar, KEY, 0.5)
            for number in range(subscribers):
                hub.attach(ignore, "train/*", name=str(number))
            update()
            row(f"update_scalar, {subscribers} subscribers", spaced(update, calls))
    rows |= asyncio_from_a_thread(calls)
    table("ns of wall time, one publish per 0.3 ms", ["median", "p99"], rows)


def asyncio_from_a_thread(calls: int) -> dict[str, list[str]]:
    """Return figures of the peers that cross threads, with one reader."""
    rows: dict[str, list[str]] = {}
    ready = threading.Event()
    there: dict[str, Any] = {}

    async def main() -> None:
        there["end"] = asyncio.Event()
        there["loop"] = asyncio.get_running_loop()
        there["queue"], there["janus"] = asyncio.Queue(), janus.Queue()
        tasks = [asyncio.ensure_future(read(one)) for one in (there["queue"], there["janus"].async_q)]
        ready.set()
        await there["end"].wait()
        for task in tasks:
            task.cancel()
        await there["janus"].aclose()

    async def read(queue: Any) -> None:
        while True:
            await queue.get()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait()
    loop, put, sync_put = there["loop"], there["queue"].put_nowait, there["janus"].sync_q.put
    for name, publish in {
        "call_soon_threadsafe + asyncio.Queue, 1 reader": lambda: loop.call_soon_threadsafe(put, (KEY, 0.5)),
        "janus, 1 reader": lambda: sync_put((KEY, 0.5)),
    }.items():
        took = spaced(publish, calls)
        rows[name] = [f"{took.median:,.0f}", f"{took.p99:,.0f}"]
    loop.call_soon_threadsafe(there["end"].set)
    thread.join()
    return rows


if __name__ == "__main__":
    rough = quick()
    header("mmengine", "blinker", "psygnal", "janus", "bubus", "torch")
    asyncio.run(bursts(rough))
    to_an_idle_loop(rough)
