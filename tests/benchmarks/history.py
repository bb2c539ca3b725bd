"""How long do appending and window statistics take, from 1e3 to 1e6 values?

Prints ns per appended value and µs per statistic, beside mmengine's ``HistoryBuffer`` and plain NumPy on the same
slice; all are full, so that each value appended makes the oldest go. "update" is the method with its share of the
folding, "hub" what a hub does: an append to the pending entries, and folding them in with seq, time and step. Both are
means over pieces of 1024 values (32 for mmengine where it is long), p99 over the pieces. "update, mean(10)" is a read
after every value, where no folding can be shared. Not shown: threads that compete for the interpreter lock, and
new memory while a history first grows, whose price is the operating system's.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer as MMEngineBuffer

from asynchub.folding import FOLD_AT
from asynchub.history import HistoryBuffer
from tests.benchmarks.common import Figures, figures, header, interleave, quick, table

OURS, MMENGINE, NUMPY = "asynchub", "mmengine", "numpy"
WINDOWS = (10, 1000, 100_000, None)


def timed(measured: Callable[[], object], calls: int) -> Callable[[], float]:
    """Return a function that returns the mean time of ``calls`` calls, in µs."""

    def run() -> float:
        start = time.perf_counter_ns()
        for _ in range(calls):
            measured()
        return (time.perf_counter_ns() - start) / 1e3 / calls

    return run


def hub_piece(buffer: HistoryBuffer) -> Callable[[], None]:
    """Return a function that appends ``FOLD_AT`` entries as a hub does."""
    pending, newest = buffer._pending, 0

    def piece() -> None:
        nonlocal newest
        now = time.time()
        for seq in range(newest + 1, newest + 1 + FOLD_AT):
            pending.extend((seq, now, seq, 0.5, 1))
        newest += FOLD_AT
        buffer.fold()

    return piece


def updates(buffer: Any, number: int) -> Callable[[], None]:
    def piece() -> None:
        update = buffer.update
        for _ in range(number):
            update(0.5)

    return piece


def update_and_ask(buffer: Any) -> Callable[[], None]:
    def both() -> None:
        buffer.update(0.5)
        buffer.mean(10)

    return both


def cells(found: dict[str, Figures], scale: float) -> list[str]:
    """Return the figures of a row, and how many times ours the others take."""
    row = []
    for name in (OURS, MMENGINE, NUMPY):
        if name not in found:
            row.append("-")
            continue
        median, p99 = found[name]
        times = "" if name == OURS else f" = {median / found[OURS].median:.1f}x"
        row.append(f"{median * scale:.2f} (p99 {p99 * scale:.2f}){times}")
    return row


def measure(size: int, rounds: int) -> dict[str, list[str]]:
    values, counts = np.random.default_rng(0).normal(size=size), np.ones(size, np.int64)
    ours, theirs = HistoryBuffer(values, counts, size), MMEngineBuffer(values, counts, size)
    hub = hub_piece(HistoryBuffer(values, counts, size))
    few = 32 if size > 10_000 else 1024

    def compared(contenders: dict[str, Callable[[], float]]) -> dict[str, Figures]:
        return {name: figures(took) for name, took in interleave(contenders, rounds).items()}

    for _ in range(size // FOLD_AT + 2):  # into memory that has been touched
        hub()
    rows = {}
    per_value = {OURS: (updates(ours, 1024), 1024), MMENGINE: (updates(theirs, few), few)}
    took = interleave({name: timed(piece, 1) for name, (piece, _) in per_value.items()}, rounds)
    rows["update, ns"] = cells({name: figures([one / per_value[name][1] for one in took[name]]) for name in took}, 1e3)
    rows["hub, ns"] = cells(
        {OURS: figures([one / FOLD_AT for one in interleave({"": timed(hub, 1)}, rounds)[""]])}, 1e3
    )
    pair = {OURS: timed(update_and_ask(ours), 10), MMENGINE: timed(update_and_ask(theirs), 10)}
    rows["update, mean(10), µs"] = cells(compared(pair), 1)
    log, count = np.array(ours.data[0]), np.array(ours.data[1])
    for window in [one for one in WINDOWS if one is None or one < size]:
        tail = slice(None if window is None else -window, None)
        plain: dict[str, Callable[[], object]] = {
            "mean": lambda tail=tail: log[tail].sum() / count[tail].sum(),  # type: ignore[misc]
            "max": lambda tail=tail: log[tail].max(),  # type: ignore[misc]
            "min": lambda tail=tail: log[tail].min(),  # type: ignore[misc]
        }
        for name, numpys in plain.items():
            asked: dict[str, Callable[[], float]] = {NUMPY: timed(numpys, 10)}
            for whose, buffer in ((OURS, ours), (MMENGINE, theirs)):
                asked[whose] = timed(functools.partial(getattr(buffer, name), window), 10)
            rows[f"{name}({'all' if window is None else window}), µs"] = cells(compared(asked), 1)
    return rows


if __name__ == "__main__":
    rough = quick()
    header("mmengine")
    for size in (1_000, 1_000_000) if rough else (1_000, 10_000, 100_000, 1_000_000):
        table(f"{size:,} values", (OURS, MMENGINE, NUMPY), measure(size, 20 if rough else 300))
