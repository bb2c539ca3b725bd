"""How long does it take to save and load the state of a long run?

Prints ms of wall time and MB on disk for ten histories of 1e5 values (and of 1e6, without ``--quick``): ``state_dict``,
``save`` with its fsync, and ``load``. Beside them mmengine's ``state_dict``, with ``torch.save``, ``torch.load`` and
``pickle``, which neither fsync nor replace the file atomically. Not shown: a slow or remote disk.
"""

from __future__ import annotations

import functools
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer as TheirBuffer
from mmengine.logging import MessageHub as TheirHub

from asynchub import MessageHub
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


def main(rough: bool) -> None:
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


if __name__ == "__main__":
    header("torch", "mmengine")
    main(quick())
