"""How long does a settle point take, and how long a flush?

Prints µs of wall time: ``settle()`` with 1, 3 and 10 control subscribers, with nothing to do and with 8 events before
it; ``await hub.flushed()`` with observers on the same loop; ``flush()`` with observers in the hub's thread. Beside:
the same handlers called inline, and another thread woken and waited for. Not shown: the interpreter lock held by a busy
training thread (``train_step``).
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable

from asynchub import Event, MessageHub, Subscription
from tests.benchmarks.common import Figures, figures, header, quick, table

KEY = "train/loss"
EVENTS = 8
SUBSCRIBERS = (1, 3, 10)


class Counter:
    """A control subscriber that only counts."""

    role = "control"

    def __init__(self) -> None:
        self.count = 0

    def one(self, event: Event) -> None:
        self.count += 1

    async def __call__(self, events: Subscription) -> None:
        async for _ in events:
            self.count += 1


def timed(calls: int, before: Callable[[], object], measured: Callable[[], object]) -> Figures:
    """Return the wall time of ``measured`` in µs, each time after ``before``."""
    took = []
    for _ in range(calls):
        before()
        start = time.perf_counter_ns()
        measured()
        took.append((time.perf_counter_ns() - start) / 1e3)
    return figures(took)


def publish(hub: MessageHub) -> None:
    for _ in range(EVENTS):
        hub.update_scalar(KEY, 0.5)


def nothing() -> None: ...


def settling(calls: int, subscribers: int) -> list[Figures]:
    with MessageHub(f"settling {subscribers}") as hub:
        for number in range(subscribers):
            hub.attach(Counter(), "train/*", name=str(number))
        hub.settle()
        return [timed(calls, nothing, hub.settle), timed(calls, lambda: publish(hub), hub.settle)]


def inline(calls: int, subscribers: int) -> Figures:
    handlers = [Counter().one for _ in range(subscribers)]
    events = [Event()] * EVENTS

    def call() -> None:
        for event in events:
            for handler in handlers:
                handler(event)

    return timed(calls, nothing, call)


async def flushed(calls: int, subscribers: int) -> Figures:
    async with MessageHub(f"flushed {subscribers}") as hub:
        for number in range(subscribers):
            hub.on("train/*", name=str(number))(Counter().one)
        await hub.flushed()
        took = []
        for _ in range(calls):
            publish(hub)
            start = time.perf_counter_ns()
            await hub.flushed()
            took.append((time.perf_counter_ns() - start) / 1e3)
        return figures(took)


def flush(calls: int, subscribers: int) -> Figures:
    with MessageHub(f"flush {subscribers}") as hub:
        for number in range(subscribers):
            hub.on("train/*", name=str(number))(Counter().one)
        hub.flush()
        return timed(calls, lambda: publish(hub), hub.flush)


def there_and_back(calls: int) -> Figures:
    """Return what it costs to have another thread answer: the floor of ``flush``."""
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    answered: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def answer() -> None:
        while asked.get():
            answered.put(True)

    def ask() -> None:
        asked.put(True)
        answered.get()

    thread = threading.Thread(target=answer)
    thread.start()
    took = timed(calls, nothing, ask)
    asked.put(False)
    thread.join()
    return took


def main(rough: bool) -> None:
    calls = 50 if rough else 2000
    found: dict[str, list[Figures]] = {}
    for number in SUBSCRIBERS:
        idle, busy = settling(calls, number)
        for name, one in {
            "settle(), nothing to do": idle,
            f"settle(), {EVENTS} events before it": busy,
            f"{EVENTS} events, handlers called inline": inline(calls, number),
            f"await flushed(), {EVENTS} events, same loop": asyncio.run(flushed(calls, number)),
            f"flush(), {EVENTS} events, other thread": flush(calls // 5, number),
            "another thread woken and waited for": there_and_back(calls // 5),
        }.items():
            found.setdefault(name, []).append(one)
    rows = {name: [f"{one.median:.1f} ({one.p99:.1f})" for one in row] for name, row in found.items()}
    table("µs: median (p99), subscribers", [str(number) for number in SUBSCRIBERS], rows)


if __name__ == "__main__":
    header()
    main(quick())
