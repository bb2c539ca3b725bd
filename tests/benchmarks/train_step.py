"""How much longer does a real training step take for being recorded and watched?

A step is forward, backward and an optimizer step of a small network in torch, one thread. Beside the bare step: ten
scalars a step, recorded and read by three live subscribers on the hub's own thread, whose handlers each keep a running
mean and a minimum; by three that do nothing with what they get; the same handlers' work called inline; mmengine's hub,
which nobody reads; and three such rules as control subscribers, settled every step, beside the same rules called
inline. Two floors show what no bus in Python can go below: tuples in a list that a thread hands to the handlers every
20 ms, and coroutines resumed by hand.

Prints the wall time of a step, in ms, and its ratio to the bare step; what subscribers still have to handle at the end
of a block is waited for and counted. Not shown: a device, on which the training thread would wait and leave the
interpreter to subscribers; more than two cores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Self

import torch
from mmengine.logging import MessageHub as TheirHub

from asynchub import MessageHub, ScalarUpdated, Subscription
from tests.benchmarks.common import figures, header, interleave, quick, table

KEYS = tuple(f"train/{number}" for number in range(10))
LOSS = KEYS[0]
STEPS = 100
"""Steps in a block."""


class Rule:
    """Some work on each value: a running mean, and the smallest value with its place."""

    role = "control"

    def __init__(self) -> None:
        self.mean = 0.0
        self.seen = 0
        self.best = (float("inf"), -1)

    def work(self, key: str, value: float) -> None:
        self.seen += 1
        self.mean += 0.01 * (value - self.mean)
        if value < self.best[0]:
            self.best = (value, self.seen)

    def one(self, event: ScalarUpdated) -> None:
        self.work(event.key, event.value)

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            self.work(event.key, event.value)  # type: ignore[attr-defined]  # it reads scalars only


async def take(events: Subscription) -> None:
    """Take batches, and do nothing with them."""
    async for _ in events.batches():
        pass


class Training:
    """A small network and its data."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.images, self.labels = torch.randn(64, 128), torch.randint(10, (64,))

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.optimizer.step()
        return loss.item()


def block(training: Training, record: Callable[[float], object], end: Callable[[], object]) -> Callable[[], float]:
    """Return a function that runs a block of steps, each followed by ``record``: seconds per step."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            record(training.step())
        end()
        return (time.perf_counter() - start) / STEPS

    return run


class Floor:
    """The least that could be called a bus: a list, and a thread that now and then calls the handlers."""

    def __init__(self, latency: float = 0.02) -> None:
        self.entries: list[tuple[str, float]] = []
        self.latency = latency
        self.rules = [Rule() for _ in range(3)]
        self._wake, self._idle, self._ended = threading.Event(), threading.Event(), False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join()

    def record(self, loss: float) -> None:
        for key in KEYS:
            self.entries.append((key, loss))

    def flush(self) -> None:
        self._idle.clear()
        self._wake.set()
        self._idle.wait()

    def _run(self) -> None:
        while not self._ended:
            flushing = self._wake.wait(self.latency)
            if flushing:  # else `flush` may have set it since: it is for the next round
                self._wake.clear()
            batch = self.entries[:]
            del self.entries[: len(batch)]
            for rule in self.rules:
                for key, value in batch:
                    rule.work(key, value)
            if flushing:
                self._idle.set()


def resumed(rule: Rule) -> Generator[None, tuple[str, float], None]:
    while True:
        rule.work(*(yield))


def nothing(loss: float = 0.0) -> None: ...


def contenders(stack: ExitStack, training: Training) -> dict[str, Callable[[], float]]:
    inline = [Rule() for _ in range(3)]

    def work(loss: float) -> None:
        for key in KEYS:
            for rule in inline:
                rule.work(key, loss)

    def decide(loss: float) -> None:
        for rule in inline:
            rule.work(LOSS, loss)

    live = stack.enter_context(MessageHub("live"))
    for number in range(3):
        live.on("train/*", name=str(number))(Rule().one)

    idle = stack.enter_context(MessageHub("idle"))
    for number in range(3):
        idle.attach(take, "train/*", name=str(number))

    floor = stack.enter_context(Floor())
    coroutines = [resumed(Rule()) for _ in range(3)]
    for coroutine in coroutines:
        next(coroutine)

    def resume(loss: float) -> None:
        for coroutine in coroutines:
            coroutine.send((LOSS, loss))

    unread = MessageHub("unread")
    settling = MessageHub("settling")
    for number in range(3):
        settling.attach(Rule(), LOSS, name=str(number))
    stack.enter_context(settling)
    theirs = TheirHub("theirs")

    def update(hub: MessageHub) -> Callable[[float], None]:
        def record(loss: float) -> None:
            hub.update_scalars(dict.fromkeys(KEYS, loss))

        return record

    def each(loss: float) -> None:
        for key in KEYS:
            live.update_scalar(key, loss)

    def settle(loss: float) -> None:
        settling.update_scalar(LOSS, loss)
        settling.settle()

    def update_theirs(loss: float) -> None:
        for key in KEYS:
            theirs.update_scalar(key, loss)

    return {
        BARE: block(training, nothing, nothing),
        INLINE: block(training, work, nothing),
        FLOOR: block(training, floor.record, floor.flush),
        LIVE: block(training, update(live), live.flush),
        "ten scalars, 3 live subscribers that do nothing": block(training, update(idle), idle.flush),
        "ten scalars one by one, 3 live subscribers": block(training, each, live.flush),
        "ten scalars, nobody reads": block(training, update(unread), nothing),
        "mmengine, ten scalars, nobody reads": block(training, update_theirs, nothing),
        DECIDED: block(training, decide, nothing),
        RESUMED: block(training, resume, nothing),
        SETTLED: block(training, settle, nothing),
    }


BARE = "bare step"
INLINE = "ten scalars, 3 handlers' work inline"
FLOOR = "floor: ten tuples, a thread calls 3 handlers"
LIVE = "ten scalars, 3 live subscribers"
DECIDED = "3 rules on the loss, inline"
RESUMED = "floor: 3 coroutines resumed by hand"
SETTLED = "3 rules on the loss, settle() every step"


def main(rough: bool) -> None:
    torch.set_num_threads(1)
    with ExitStack() as stack:
        took = interleave(contenders(stack, Training()), 5 if rough else 101)
    bare = figures(took[BARE]).median
    rows = {}
    for name, sample in took.items():
        one = figures(sample)
        rows[name] = [f"{one.median * 1e3:.4f}", f"{one.p99 * 1e3:.4f}", f"{one.median / bare:.3f}"]
    table("ms per step", ["median", "p99", "ratio"], rows)
    for name, beside in ((LIVE, INLINE), (FLOOR, INLINE), (SETTLED, DECIDED), (RESUMED, DECIDED)):
        ratio = figures(mine / theirs for mine, theirs in zip(took[name], took[beside], strict=True)).median
        print(f"{name}: {ratio:.3f} of {beside!r}, in the median round")


if __name__ == "__main__":
    header("torch", "mmengine")
    main(quick())
