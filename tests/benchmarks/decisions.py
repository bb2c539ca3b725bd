"""What does a decision cost, live, in a replay, and in a picture?

First ``settle()`` with one check of a rule, which is published as a ``Decided``, beside a control subscriber that only
counts, and the thresholds of the advisers, beside ``numpy.percentile``: µs each. Then grids of fifty rules on a run of
many steps, read once: s. Then a picture of as many values: s to take them, beside an observer that does nothing with
them, and to draw them at the end. Not shown: what a loop's own work leaves in the caches (``train_step``); a run that
is read from a disk.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np

from asynchub import AutoClip, EarlyStopping, MessageHub, ReduceLROnPlateau, Subscription
from asynchub.events import Event, scalar_updated
from asynchub.testing import Drive, observed
from asynchub.what_if import try_rules
from tests.benchmarks.common import figures, header, interleave, quick, table

KEY, RESULT = "train/loss", "val/loss"
EACH = 100
"""Steps from one evaluation to the next."""
NORMS = 10_000
"""Norms that the adviser has seen."""
PATIENT = ",".join(str(10**9 + more) for more in range(50))
"""Patience of fifty rules that none of them loses."""


class Counter:
    """A control subscriber that only counts."""

    role = "control"

    async def __call__(self, events: Subscription) -> None:
        self.count = 0
        async for _ in events:
            self.count += 1


def settling(rule: Any, checks: int) -> Callable[[], float]:
    """Return a contender: the median time of ``settle()`` with one check, in s."""

    def run() -> float:
        hub = MessageHub("decisions")
        hub.attach(rule())
        took = []
        for hub.step in range(checks):
            hub.update_scalar(KEY, 1.0 - 1e-6 * hub.step)
            start = time.perf_counter()
            hub.settle()
            took.append(time.perf_counter() - start)
        hub.close()
        return figures(took).median

    return run


def optimizer() -> Any:
    return SimpleNamespace(param_groups=[{"lr": 0.1}])


def live(rough: bool) -> None:
    rules: dict[str, Callable[[], Any]] = {
        "a subscriber that counts": Counter,
        "EarlyStopping": lambda: EarlyStopping(KEY, patience=10**6),
        "ReduceLROnPlateau": lambda: ReduceLROnPlateau(optimizer(), KEY, patience=10**6),
    }
    checks, rounds = (200, 3) if rough else (5000, 21)
    took = interleave({name: settling(rule, checks) for name, rule in rules.items()}, rounds)
    found = {name: figures(sample).median for name, sample in took.items()}
    rows = {name: [f"{one * 1e6:.1f}", f"{one / found['a subscriber that counts']:.1f}"] for name, one in found.items()}
    table("settle() with one check", ["µs", "ratio"], rows)


def advice(rough: bool) -> None:
    chance = random.Random(0)
    adviser = AutoClip(history_size=NORMS, monitor=KEY)
    norms = [chance.random() for _ in range(NORMS)]
    driven = Drive(adviser)
    for norm in norms if not rough else norms[:100]:
        driven.send(scalar_updated(-1, 0.0, 0, KEY, norm, 1))
    array = np.array(norms)
    calls: dict[str, Callable[[], float]] = {
        "AutoClip.clip_to": lambda: timed(lambda: adviser.clip_to(0.5)),
        "numpy.percentile": lambda: timed(lambda: np.percentile(array, 10)),
    }
    found = {name: figures(sample).median for name, sample in interleave(calls, 5 if rough else 201).items()}
    rows = {name: [f"{one * 1e6:.1f}", f"{one / found['AutoClip.clip_to']:.1f}"] for name, one in found.items()}
    table(f"the 10th percentile of {NORMS:,} norms and one more", ["µs", "ratio"], rows)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def recorded(steps: int) -> Iterator[Event]:
    """Yield the events of a run: a value each step, and now and then a result."""
    chance, seq = random.Random(0), 0
    for step in range(1, steps + 1):
        seq += 1
        yield scalar_updated(seq, 1e9 + step, step, KEY, 1 / step + chance.random(), 1)
        if step % EACH == 0:
            seq += 1
            yield scalar_updated(seq, 1e9 + step, step, RESULT, 1 / step + chance.random(), 1)


def replayed(rough: bool) -> None:
    steps = 5_000 if rough else 1_000_000
    events = list(recorded(steps))
    rows = {}
    for name, key in {"on a key of every evaluation": RESULT, "on a key of every step": KEY}.items():
        wall, cpu = time.perf_counter(), time.process_time()
        outcomes = try_rules(f"EarlyStopping:{key}:patience={PATIENT}", iter(events))
        handled = sum(outcome.handled for outcome in outcomes)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rows[name] = [f"{len(outcomes)}", f"{handled:,}", f"{wall:.2f}", f"{cpu:.2f}"]
    table(f"EarlyStopping on a run of {len(events):,} events", ["rules", "events handled", "wall, s", "CPU, s"], rows)


class Reader:
    """An observer that only takes what comes."""

    async def __call__(self, events: Subscription) -> None:
        async for _ in events.batches():
            pass


async def read(observer: Any, events: list[Event]) -> tuple[float, float]:
    """Return the seconds until an observer has taken all, and from then on until it has ended."""
    marks = [time.perf_counter()]
    await observed(observer, events, then=lambda: marks.append(time.perf_counter()))
    marks.append(time.perf_counter())
    return marks[1] - marks[0], marks[2] - marks[1]


def pictured(rough: bool) -> None:
    from asynchub.subscribers.plot import MatplotlibPlot

    events = list(recorded(5_000 if rough else 1_000_000))
    with tempfile.TemporaryDirectory() as folder:

        def plot() -> Any:
            return MatplotlibPlot(Path(folder) / "run.png", every=None)

        calls: dict[str, Callable[[], tuple[float, float]]] = {
            "an observer that reads": lambda: anyio.run(read, Reader(), events),
            "MatplotlibPlot": lambda: anyio.run(read, plot(), events),
        }
        found = interleave(calls, 1 if rough else 5)
    rows = {
        name: [f"{figures(part).median:.2f}" for part in zip(*sample, strict=True)] for name, sample in found.items()
    }
    table(f"a picture of {len(events):,} values", ["taking, s", "ending, s"], rows)


if __name__ == "__main__":
    rough = quick()
    header()
    live(rough)
    advice(rough)
    replayed(rough)
    try:
        pictured(rough)
    except ModuleNotFoundError as error:
        print(f"left out: the picture ({error})")
