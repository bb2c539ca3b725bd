"""What does a call cost right after a training step, when the caches hold what the step worked on?

Prints µs of wall time of a call after each step of a small torch network, and of the same call in a loop of its own:
ten scalars that nobody reads, one scalar and a settle point with three rules, and the handlers' work by itself. Not
shown: what the call does to the step after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import torch

from asynchub import MessageHub
from tests.benchmarks.common import figures, header, quick, table
from tests.benchmarks.train_step import KEYS, LOSS, Rule, Training


def calls(stack: ExitStack) -> dict[str, Callable[[float], object]]:
    rules = [Rule() for _ in range(3)]
    unread = MessageHub("unread")
    settling = stack.enter_context(MessageHub("settling"))
    for number in range(3):
        settling.attach(Rule(), LOSS, name=str(number))

    def inline(loss: float) -> None:
        for rule in rules:
            rule.work(LOSS, loss)

    def record(loss: float) -> None:
        unread.update_scalars(dict.fromkeys(KEYS, loss))

    def settle(loss: float) -> None:
        settling.update_scalar(LOSS, loss)
        settling.settle()

    return {
        "nothing": lambda loss: None,
        "3 rules on the loss, inline": inline,
        "update_scalars of ten, nobody reads": record,
        "update_scalar and settle(), 3 rules": settle,
    }


def timed(call: Callable[[float], object], before: Callable[[], float], count: int) -> list[float]:
    took = []
    for _ in range(count):
        value = before()
        start = time.perf_counter_ns()
        call(value)
        took.append((time.perf_counter_ns() - start) / 1e3)
    return took


def main(rough: bool) -> None:
    torch.set_num_threads(1)
    training = Training()
    cold: dict[str, list[float]] = {}
    warm: dict[str, list[float]] = {}
    with ExitStack() as stack:
        contenders = calls(stack)
        for _ in range(3 if rough else 60):
            for name, call in contenders.items():
                cold.setdefault(name, []).extend(timed(call, training.step, 50)[5:])
                warm.setdefault(name, []).extend(timed(call, lambda: 0.5, 50)[5:])
    rows = {}
    for name in contenders:
        after, alone = figures(cold[name]), figures(warm[name])
        rows[name] = [f"{after.median:.1f}", f"{after.p99:.1f}", f"{alone.median:.1f}", f"{alone.p99:.1f}"]
    table("µs per call", ["after a step", "p99", "in a loop", "p99"], rows)


if __name__ == "__main__":
    header("torch")
    main(quick())
