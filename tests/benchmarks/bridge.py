"""What does a bridge to a broker cost the training loop, and how soon and how fast do events come out elsewhere?

Prints ns per ``update_scalar`` without a bridge, with one, and with one whose broker is away, beside what a program
would pay for each event if it packed it with msgpack or handed it to nats-py itself; the time of a step of about 1 ms
that publishes 50 scalars; processor time for an event in the threads behind it; events a second, and seconds from a
publish to a handler, in another process; bytes for an event; and how long a reader takes to join. A real nats-server
runs beside it, on the same cores. Not shown: a network, TLS, many ranks (see ``connections``), a broker whose disk is
slow.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import nats
import numpy as np

import asynchub
from asynchub import Bridge, MessageHub
from asynchub.bridges.broker import find_server, server_version
from asynchub.subscription import Subscription
from tests.benchmarks.common import figures, header, interleave, quick, table
from tests.bridges.acceptance_ranks import read_stored
from tests.bridges.broker import Broker, free_port

KEYS = [f"train/key-{key}" for key in range(50)]
PATIENCE = 60.0
AT_ONCE = 10_000
"""Events that are published before those behind get time to follow."""


@contextmanager
def bridged(url: str, run: str, folder: Path, **options: Any) -> Iterator[tuple[MessageHub, Bridge]]:
    """Enter a hub with a bridge."""
    hub = MessageHub("hub")
    bridge = Bridge(hub, url, run=run, spool=folder / "spool", **options)
    with hub:
        hub.update_scalars(dict.fromkeys(KEYS, 0.5))
        hub.flush(PATIENCE)
        yield hub, bridge


# --- publishing


class Each(NamedTuple):
    """What an event takes: ns, and ns of this thread's processor time."""

    wall: float
    processor: float


@contextmanager
def measured(number: int) -> Iterator[list[Each]]:
    """Yield a list that gets what each of so many events has taken."""
    found: list[Each] = []
    wall, processor = time.perf_counter_ns(), time.thread_time_ns()
    yield found
    found.append(Each((time.perf_counter_ns() - wall) / number, (time.thread_time_ns() - processor) / number))


def one_by_one(hub: MessageHub, number: int) -> Each:
    """Publish some thousand in a row."""
    update = hub.update_scalar
    hub.flush(PATIENCE)
    with measured(number) as found:
        for step in range(number):
            update("train/key-0", 0.1 * step, step=step)
    return found[0]


def message(step: int) -> Any:
    return msgpack.packb({"key": "train/key-0", "step": step, "value": 0.1 * step, "time": time.time()})


def packed(number: int) -> Each:
    with measured(number) as found:
        for step in range(number):
            message(step)
    return found[0]


def by_hand(url: str, number: int, wait: bool) -> Each:
    """Hand some events to nats-py, one message each."""

    async def work() -> Each:
        client = await nats.connect(url)
        stream = client.jetstream()
        if wait:
            await stream.add_stream(name="HAND", subjects=["hand"])
        with measured(number) as found:
            for step in range(number):
                if wait:
                    await stream.publish("hand", message(step))
                else:
                    await client.publish("core", message(step))
            await client.flush()
        await client.close()
        return found[0]

    return asyncio.run(work())


def publishing(broker: Broker, folder: Path, rough: bool) -> None:
    number, rounds = (2_000, 3) if rough else (10_000, 15)
    away = f"nats://127.0.0.1:{free_port()}"
    alone = MessageHub("alone")
    alone.update_scalars(dict.fromkeys(KEYS, 0.5))
    with (
        bridged(broker.url, "here", folder) as (here, _),
        bridged(away, "away", folder) as (far, _),
        MessageHub("listened") as listened,
    ):
        listened.update_scalars(dict.fromkeys(KEYS, 0.5))
        listened.attach(ignore, "**")
        calls: dict[str, Callable[[], Each]] = {
            "no bridge, nobody reads": functools.partial(one_by_one, alone, number),
            "no bridge, a subscriber that does nothing": functools.partial(one_by_one, listened, number),
            "a bridge": functools.partial(one_by_one, here, number),
            "a bridge, the broker is away": functools.partial(one_by_one, far, number),
            "msgpack, for each event": functools.partial(packed, number),
            "nats-py, a message for each event": functools.partial(by_hand, broker.url, number // 4, False),
            "nats-py, and the broker has it on its disk": functools.partial(by_hand, broker.url, number // 40, True),
        }
        found = interleave(calls, rounds)
    rows: dict[str, list[str]] = {}
    base = Each(0.0, 0.0)
    for name, sample in found.items():
        each = Each(*(figures(column).median for column in zip(*sample, strict=True)))
        base = each if not rows else base
        rows[name] = [f"{each.wall:,.0f}", f"{each.wall / base.wall:,.1f}", f"{each.processor:,.0f}"]
    table("publishing", ["ns", "ratio", "processor, ns"], rows)


async def ignore(events: Subscription) -> None:
    async for _ in events.batches():
        continue


# --- a step


def steps(hub: MessageHub, work: bytes, number: int) -> list[float]:
    """Return the ms of each step of a loop. Its work leaves the interpreter to others, as that of a model does."""
    took = []
    first = hub.step + 1
    for hub.step in range(first, first + number):
        start = time.perf_counter()
        hashlib.sha256(work).digest()
        for key in KEYS:
            hub.update_scalar(key, 0.5)
        took.append((time.perf_counter() - start) * 1e3)
    return took


def stepping(broker: Broker, folder: Path, rough: bool) -> None:
    number, rounds = (50, 5) if rough else (200, 20)
    work = bytes(2**20)
    second = min(timed(lambda: hashlib.sha256(work).digest()) for _ in range(20))
    work = bytes(int(len(work) * 1e-3 / second))
    alone = MessageHub("alone")
    with bridged(broker.url, "step", folder) as (hub, _):
        loops = {
            "without": functools.partial(steps, alone, work, number),
            "with": functools.partial(steps, hub, work, number),
        }
        found = {name: np.concatenate(rounds_of) for name, rounds_of in interleave(loops, rounds).items()}
    base = float(np.median(found["without"]))
    rows = {}
    for name, sample in found.items():
        at = figures(sample)
        rows[f"{name} a bridge"] = [
            f"{at.median:.3f}",
            f"{at.p99:.2f}",
            f"{np.mean(sample):.3f}",
            f"{at.median / base:.3f}",
        ]
    table("a step with 50 scalars", ["ms", "p99", "mean", "ratio"], rows)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# --- behind it


def read_all(url: str, run: str, number: int, connection: Connection) -> None:
    """Follow a run in another process; tell when it has begun, and when it has so many events."""

    async def read(events: Subscription) -> None:
        count = 0
        async for batch in events.batches():
            count += len(batch)
            if count >= number:
                connection.send(time.time())
                return

    with asynchub.attach(url, run=run, timeout=PATIENCE) as remote:
        remote.attach(read, "train/*")
        connection.send("here")
        connection.recv()


def read_late(url: str, run: str, number: int, connection: Connection) -> None:
    """Follow a run in another process; tell how late each event came."""
    late: list[float] = []

    async def read(events: Subscription) -> None:
        async for event in events:
            late.append(time.time() - event.time)
            if len(late) == number:
                connection.send(late)
                return

    with asynchub.attach(url, run=run, timeout=PATIENCE) as remote:
        remote.attach(read, "live")
        connection.send("here")
        connection.recv()


@contextmanager
def reader(function: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run a reader in another process; it has begun."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=function, args=(*arguments, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(PATIENCE) or ours.recv() != "here":
            raise TimeoutError("the reader does not begin")
        yield ours
        ours.send("enough")
        process.join(PATIENCE)
    finally:
        process.kill()
        process.join()


def heard(connection: Connection) -> Any:
    if not connection.poll(PATIENCE):
        raise TimeoutError("the reader has not told anything")
    return connection.recv()


def cpu_of_threads() -> dict[str, float]:
    """Return the seconds of processor time of each thread of asynchub's."""
    return {
        thread.name: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.name.startswith("asynchub") and thread.ident is not None
    }


def flow(broker: Broker, folder: Path, rough: bool) -> None:
    number = 20_000 if rough else 500_000
    with bridged(broker.url, "flow", folder) as (hub, bridge), reader(read_all, broker.url, "flow", number) as other:
        before, begun = cpu_of_threads(), time.time()
        for start in range(0, number, AT_ONCE):
            for hub.step in range(start // len(KEYS), (start + AT_ONCE) // len(KEYS)):
                for key in KEYS:
                    hub.update_scalar(key, hub.step / 7)
            hub.flush(PATIENCE)
        bridge.deliver(PATIENCE)
        delivered, read = time.time() - begun, heard(other) - begun
        rows = {
            f"processor, {name.removeprefix('asynchub ')}'s thread": [
                f"{(cpu - before[name]) / number * 1e6:.2f} µs each"
            ]
            for name, cpu in cpu_of_threads().items()
            if name in before
        }
    rows["stored by the broker"] = [f"{number / delivered:,.0f} a second"]
    rows["handled by a reader in another process"] = [f"{number / read:,.0f} a second"]
    table(f"{number:,} events", [""], rows)


def lateness(broker: Broker, folder: Path, rough: bool) -> None:
    rows = {}
    for interval in (0.05, 0.5):
        number = 50 if rough else 1_000
        run = f"late-{interval}"
        with (
            bridged(broker.url, run, folder, interval=interval) as (hub, _),
            reader(read_late, broker.url, run, number) as other,
        ):
            for value in range(number):
                hub.update_scalar("live", value)
                time.sleep(0.0113)  # in no rhythm with the interval
            at = figures(heard(other))
        rows[f"interval={interval}"] = [f"{at.median * 1e3:.0f}", f"{at.p99 * 1e3:.0f}"]
    table("from a publish to a handler elsewhere", ["ms", "p99"], rows)


def sizes(broker: Broker, folder: Path, rough: bool) -> None:
    rows = {}
    away = f"nats://127.0.0.1:{free_port()}"
    values = np.random.default_rng(0)
    for per_frame, what in ((1, "1 step"), (10, "10 steps"), (80, "80 steps")):
        run = f"size-{per_frame}"
        options = {"interval": PATIENCE}  # a frame is cut when the hub is flushed, not before
        with (
            bridged(broker.url, run, folder, **options) as (hub, bridge),
            bridged(away, f"{run}-away", folder, **options) as (far, waiting),
        ):
            size, count = waiting.statistics().size, far.statistics().seq
            for frame in range(4 if rough else 40):
                for one in (hub, far):
                    for one.step in range(frame * per_frame, (frame + 1) * per_frame):
                        for key in KEYS:
                            one.update_scalar(key, values.normal())
                for one, its in ((hub, bridge), (far, waiting)):
                    while its.attachment.statistics().lag:
                        time.sleep(0.001)
                    one.update_info("frame", frame)
                    one.flush(PATIENCE)
                bridge.deliver(PATIENCE)
            spooled = (waiting.statistics().size - size) / (far.statistics().seq - count)
        (stored,) = read_stored(broker.url, run).values()
        frames = [(one.size, size) for one, size in zip(stored.frames, stored.sizes, strict=True) if one.size][1:]
        wire = sum(size for _, size in frames) / sum(count for count, _ in frames)
        length = np.mean([size for _, size in frames])
        rows[f"{what} of 50 scalars in a frame"] = [f"{wire:.1f}", f"{spooled:.1f}", f"{length:,.0f}"]
    table("bytes for an event", ["on the wire", "in the spool", "a frame"], rows)


def joining(broker: Broker, folder: Path, rough: bool) -> None:
    took = []
    with bridged(broker.url, "join", folder) as (hub, bridge):
        hub.update_scalars({f"key/{key}": key / 7 for key in range(1000)})
        for step in range(70):
            hub.update_scalar("train/loss", step)
            bridge.deliver(PATIENCE)
        for _ in range(3 if rough else 20):
            start = time.perf_counter()
            with asynchub.attach(broker.url, run="join", timeout=PATIENCE) as remote:
                took.append(time.perf_counter() - start)
                if len(remote.log_scalars) < 1000:
                    raise RuntimeError(f"only {len(remote.log_scalars)} keys have come")
    at = figures(took)
    table("joining", ["ms", "p99"], {"a run with 1,000 keys": [f"{at.median * 1e3:.0f}", f"{at.p99 * 1e3:.0f}"]})


def main(rough: bool) -> None:
    print("nats-server", ".".join(map(str, server_version(find_server()))))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        broker = Broker(Path(name) / "broker")
        stack.callback(broker.kill)
        broker.start()
        for part in (publishing, stepping, flow, lateness, sizes, joining):
            part(broker, Path(name), rough)


if __name__ == "__main__":
    rough = quick()
    header("nats-py", "msgpack")
    main(rough)
