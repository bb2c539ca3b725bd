"""How long does it take to save and load the state of a long run, and how long does that hold up the training thread?

Prints ms of wall time and MB on disk for ten histories of 1e5 values (and of 1e6, without ``--quick``): ``state_dict``,
``save`` with its fsync, and ``load``. Beside them mmengine's ``state_dict``, with ``torch.save``, ``torch.load`` and
``pickle``, which neither fsync nor replace the file atomically. Before that, in µs, what freezing the state takes, and
how long ``async_save`` keeps its caller; and how late a thread that wants to wake every 0.2 ms is at worst while a
state is written in the background, in ms, beside nothing at all and ``torch.save`` in a thread. At the end the same
for a runtime info that is one array of 160 MB (8 MB with ``--quick``), beside NumPy's ``savez``, too, and as a ratio
to our functions under ``save`` and ``load``, without their copy of the state and without fsync. Not shown: a slow or
remote disk.
"""

from __future__ import annotations

import functools
import pickle
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer as TheirBuffer
from mmengine.logging import MessageHub as TheirHub

from asynchub import MessageHub
from asynchub.snapshot import read_snapshot, write_snapshot
from tests.benchmarks.common import figures, header, interleave, quick, table

HISTORIES = 10


def timed(call: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3

    return run


def histories(length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    losses = np.exp(rng.normal(size=(HISTORIES, length))).astype(np.float32).astype(float)  # as tensors give them
    return {f"train/{number}": column for number, column in enumerate(losses)}


def published(values: dict[str, np.ndarray]) -> MessageHub:
    """Return a hub to which the values were published, so that it also holds their seqs, times and steps."""
    hub = MessageHub("published")
    for step, row in enumerate(zip(*(column.tolist() for column in values.values()), strict=True)):
        hub.update_scalars(dict(zip(values, row, strict=True)), step=step)
    return hub


def contenders(folder: Path, length: int) -> dict[str, Callable[[], object]]:
    values = histories(length)
    ones = np.ones(length, dtype=np.int64)
    hub = published(values)
    theirs = TheirHub("theirs", {key: TheirBuffer(column, ones) for key, column in values.items()})
    for key in values:  # what was given to the constructor is not resumed before it is updated
        theirs.update_scalar(key, 0.5)
    state = theirs.state_dict()

    def pickled() -> None:
        with (folder / "pickle").open("wb") as file:
            pickle.dump(state, file)

    def unpickled() -> Any:
        with (folder / "pickle").open("rb") as file:
            return pickle.load(file)

    return {
        "state_dict()": hub.state_dict,
        "save(), fsync included": functools.partial(hub.save, folder / "published"),
        "load()": functools.partial(MessageHub("loaded").load, folder / "published"),
        "mmengine state_dict()": theirs.state_dict,
        "torch.save of it": functools.partial(torch.save, state, folder / "torch"),
        "torch.load of it": functools.partial(torch.load, folder / "torch", weights_only=False),
        "pickle.dump of it": pickled,
        "pickle.load of it": unpickled,
    }


FILES = {
    "save(), fsync included": "published",
    "torch.save of it": "torch",
    "pickle.dump of it": "pickle",
}


def of_an_array(folder: Path, size: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return what saves an array of that many bytes, and what loads it."""
    array = np.random.default_rng(0).normal(size=size // 8)
    hub, tensor = MessageHub("hub"), torch.from_numpy(array)
    hub.update_info("weights", array)
    paths = {name: folder / name for name in ("hub", "snapshot", "torch", "numpy.npz", "pickle")}

    def pickled() -> None:
        with paths["pickle"].open("wb") as file:
            pickle.dump(array, file, protocol=5)

    def unpickled() -> Any:
        with paths["pickle"].open("rb") as file:
            return pickle.load(file)

    def loaded() -> Any:
        with np.load(paths["numpy.npz"]) as arrays:
            return arrays["weights"]

    return {
        "write_snapshot(sync=False), read_snapshot()": (
            lambda: write_snapshot(paths["snapshot"], lambda put: array, sync=False),
            lambda: read_snapshot(paths["snapshot"]),
        ),
        "save(), load()": (lambda: hub.save(paths["hub"]), lambda: MessageHub("loaded").load(paths["hub"])),
        "torch.save, torch.load": (
            lambda: torch.save({"weights": tensor}, paths["torch"]),
            lambda: torch.load(paths["torch"]),
        ),
        "numpy.savez, numpy.load": (lambda: np.savez(paths["numpy.npz"], weights=array), loaded),
        "pickle.dump, pickle.load": (pickled, unpickled),
    }


TICK = 2e-4


def stall(begin: Callable[[], Callable[[], bool]], least: float) -> Callable[[], float]:
    """Return a function that tells by how many ms a tick was late at worst.

    Args:
        begin: begins something in the background, and returns what tells whether it is done.
        least: seconds to tick at least.
    """

    def run() -> float:
        done = begin()
        end, worst = time.perf_counter() + least, 0.0
        while not done() or time.perf_counter() < end:
            start = time.perf_counter()
            time.sleep(TICK)
            worst = max(worst, time.perf_counter() - start - TICK)
        return worst * 1e3

    return run


def in_a_thread(call: Callable[[], object]) -> Callable[[], bool]:
    thread = threading.Thread(target=call)
    thread.start()
    return lambda: not thread.is_alive()


def holding_up(folder: Path, lengths: tuple[int, ...], rough: bool) -> None:
    rounds = 5 if rough else 15
    hubs = {length: published(histories(length)) for length in lengths}
    state = {key: history.data for key, history in hubs[lengths[-1]].log_scalars.items()}
    rows = {}
    for length, hub in hubs.items():
        took = interleave(
            {"freeze": timed(hub._cut), "save": timed(functools.partial(kept_waiting, hub, folder))}, rounds
        )
        rows[f"{HISTORIES} histories of {length:.0e} values"] = [
            f"{figures(sample).median * 1e3:,.0f}" for sample in took.values()
        ]
    table("µs, median", ["freezing", "async_save()"], rows)
    hub = hubs[lengths[-1]]
    background: dict[str, Callable[[], Callable[[], bool]]] = {
        "nothing": lambda: lambda: True,
        "async_save()": lambda: functools.partial(getattr, hub.async_save(folder / "stall"), "done"),
        "torch.save in a thread": lambda: in_a_thread(lambda: torch.save(state, folder / "torch")),
    }
    late = interleave({name: stall(begin, 0.1 if rough else 0.8) for name, begin in background.items()}, rounds)
    columns = ["median", "worst"]
    table(
        f"ms late, {HISTORIES} histories of {lengths[-1]:.0e} values",
        columns,
        {name: [f"{figures(sample).median:,.2f}", f"{max(sample):,.2f}"] for name, sample in late.items()},
    )


def kept_waiting(hub: MessageHub, folder: Path) -> None:
    hub.async_save(folder / "waiting")


def main(rough: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        holding_up(Path(name), (10_000, 100_000) if rough else (10_000, 1_000_000), rough)
    for length in (100_000,) if rough else (100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            calls = contenders(folder, length)
            for call in calls.values():  # files are written before they are read
                call()
            took = interleave({name: timed(call) for name, call in calls.items()}, 2 if rough else 7)
            rows = {}
            for name, sample in took.items():
                size = f"{(folder / FILES[name]).stat().st_size / 1e6:.1f}" if name in FILES else ""
                rows[name] = [f"{figures(sample).median:,.2f}", f"{max(sample):,.2f}", size]
            table(f"{HISTORIES} histories of {length:.0e} values", ["ms, median", "ms, worst", "MB"], rows)
    size = 8_000_000 if rough else 160_000_000
    with tempfile.TemporaryDirectory() as name:
        pairs = of_an_array(Path(name), size)
        saves, loads = (
            interleave({name: timed(pair[at]) for name, pair in pairs.items()}, 2 if rough else 7) for at in (0, 1)
        )
    medians = {name: [figures(sample[name]).median for sample in (saves, loads)] for name in pairs}
    first = next(iter(medians.values()))
    rows = {name: [f"{ms:,.1f}" for ms in both] for name, both in medians.items()}
    for name, both in medians.items():
        rows[name] += [f"{ms / ours:.2f}" for ms, ours in zip(both, first, strict=True)]
    table(
        f"an array of {size / 1e6:.0f} MB", ["save, ms, median", "load, ms, median", "save, ratio", "load, ratio"], rows
    )


if __name__ == "__main__":
    header("torch", "mmengine")
    main(quick())
