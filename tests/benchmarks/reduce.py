"""What does it cost to reduce 50 scalars over ranks, and what does a training step notice of it?

Prints, with 2 and 4 ranks: ms for one reduction that is waited for, beside what Lightning's ``sync_dist`` does for as
many metrics (``_sync_ddp``, a barrier and an ``all_reduce`` for each; twice for each mean over samples); µs that the
training thread pays for the reducer at the end of an interval, and amid it; and the time of 10 steps that reduce 1 MB
of gradients each, with nothing, with a reducer, and with that loop at the last of them. Not shown: networks; GPUs,
where Lightning's loop would wait for the device, too. More ranks than cores wait for each other's turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.distributed import _sync_ddp
from torch import distributed

from asynchub import MessageHub
from asynchub.bridges.reducer import Reducer
from tests.benchmarks.common import Figures, figures, header, interleave, quick, table
from tests.bridges.ranks import PRELOADED, Rank, run_ranks

KEYS = 50
EVERY = 10
BLOCK = 4
"""Intervals that a contender has at a time."""
SIZES = (2, 4)
GRADIENT = 250_000
"""Numbers that are reduced in each step: 1 MB."""

Found = dict[str, Figures]


def timed(calls: int, before: Callable[[], object], measured: Callable[[], object]) -> Figures:
    """Return the wall time of ``measured`` in ms, each time after ``before``."""
    took = []
    for _ in range(calls):
        before()
        start = time.perf_counter()
        measured()
        took.append((time.perf_counter() - start) * 1e3)
    return figures(took)


def sync(metrics: int) -> None:
    for _ in range(metrics):
        _sync_ddp(torch.ones(()), reduce_op="mean")


def waited_for(rank: Rank, calls: int) -> Found:
    """Return what a reduction takes from beginning to end."""
    hub = MessageHub("waited for")
    Reducer(hub, {"val/*": "mean"}, name="waited for")
    values = {f"val/{number}": 1.0 + rank.index for number in range(KEYS)}

    def publish() -> None:
        hub.update_scalars(values)
        rank.together()

    with hub:
        publish()
        hub.settle()
        return {
            "ms: reduced by the reducer, and waited for": timed(calls, publish, hub.settle),
            "ms: Lightning's loop, one number a metric": timed(max(calls // 10, 3), rank.together, lambda: sync(KEYS)),
            "ms: Lightning's loop, mean over samples": timed(
                max(calls // 10, 3), rank.together, lambda: sync(2 * KEYS)
            ),
        }


def steps_of(rank: Rank, rounds: int) -> Found:
    """Return the time of the steps of an interval, and what the training thread pays in settle points."""
    gradient = torch.ones(GRADIENT)
    values = {f"train/{number}": 1.0 + rank.index for number in range(KEYS)}
    settled: list[tuple[int, float]] = []

    def train(hub: MessageHub, after: Callable[[], object]) -> list[float]:
        took = []
        for _ in range(BLOCK):
            start = time.perf_counter()
            for _ in range(EVERY):
                hub.step += 1
                distributed.all_reduce(gradient)
                hub.update_scalars(values)
                after()
            took.append((time.perf_counter() - start) * 1e3)
        return took

    def settle() -> None:
        start = time.perf_counter()
        reduced.settle()
        settled.append((reduced.step, (time.perf_counter() - start) * 1e6))

    def loop() -> None:
        if not looped.step % EVERY:
            sync(KEYS)

    with MessageHub("nothing") as nothing, MessageHub("reduced") as reduced, MessageHub("looped") as looped:
        Reducer(reduced, {"train/*": "mean"}, every=EVERY, name="steps")
        contenders = {
            "ms: 10 steps": lambda: train(nothing, nothing.settle),
            "ms: 10 steps with a reducer": lambda: train(reduced, settle),
            "ms: 10 steps with Lightning's loop": lambda: train(looped, loop),
        }
        took = interleave(contenders, rounds)
    return {
        "µs: settle() at the end of an interval": figures(one for step, one in settled if not step % EVERY),
        "µs: settle() amid it": figures(one for step, one in settled if step % EVERY),
        **{name: figures(one for block in blocks for one in block) for name, blocks in took.items()},
    }


def measure(rank: Rank, calls: int) -> Found:
    return waited_for(rank, calls) | steps_of(rank, max(calls // 20, 2))


def main(rough: bool) -> None:
    calls = 10 if rough else 200
    PRELOADED.append("lightning.fabric.utilities.distributed")
    found: dict[int, Any] = {size: run_ranks(size, measure, calls, patience=600)[0] for size in SIZES}
    names = list(found[SIZES[0]])
    rows = {name: [f"{found[size][name].median:.2f} ({found[size][name].p99:.2f})" for size in SIZES] for name in names}
    reducer, one, mean = names[:3]
    for name, over in (("the same, times the reducer's", one), ("the same for means, times the reducer's", mean)):
        rows[name] = [f"{found[size][over].median / found[size][reducer].median:.0f}" for size in SIZES]
    table(f"{KEYS} scalars, median (p99); ranks", [str(size) for size in SIZES], rows)


if __name__ == "__main__":
    header("torch", "lightning")
    main(quick())
