"""What does a journal cost, seen by the publisher, and how fast does a run come back?

Prints ns per ``update_scalar`` and per scalar of ``update_scalars`` with ten, without a journal and with one at each
level, and as a ratio; beside that a line of JSON, a row of SQLite (WAL, a transaction each, not flushed) and
TensorBoard's ``add_scalar``, which all give less than the level ``process``. Then the longest stretch of 256 publishes,
bytes on disk for an event, and events that ``recover`` takes in a second. Not shown: a slow or remote disk.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from asynchub import Journal, MessageHub, recover
from tests.benchmarks.common import figures, header, interleave, quick, table


def hub_with(folder: Path | None, level: str) -> MessageHub:
    hub = MessageHub("hub")
    hub.update_scalars({f"train/{number}": 0.5 for number in range(10)})
    if folder is not None:
        hub.attach(Journal(folder / level / "journal", level=level))  # type: ignore[arg-type]  # one of them
    return hub


def one_by_one(hub: MessageHub, number: int) -> float:
    update = hub.update_scalar
    start = time.perf_counter()
    for step in range(number):
        update("train/0", 0.1 * step, step=step)
    return (time.perf_counter() - start) / number * 1e9


def ten_at_once(hub: MessageHub, number: int) -> float:
    values = {f"train/{at}": 0.5 for at in range(10)}
    start = time.perf_counter()
    for step in range(number // 10):
        hub.update_scalars(values, step=step)
    return (time.perf_counter() - start) / number * 1e9


def each(call: Callable[[int], object], number: int) -> float:
    start = time.perf_counter()
    for step in range(number):
        call(step)
    return (time.perf_counter() - start) / number * 1e9


def peers(folder: Path) -> dict[str, Callable[[int], object]]:
    lines = (folder / "lines.jsonl").open("w")
    database = sqlite3.connect(folder / "sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE scalars (key TEXT, step INTEGER, value REAL)")

    def line(step: int) -> None:
        lines.write(json.dumps({"key": "train/0", "step": step, "value": 0.5, "time": time.time()}) + "\n")
        lines.flush()

    def row(step: int) -> None:
        database.execute("INSERT INTO scalars VALUES (?, ?, ?)", ("train/0", step, 0.5))

    calls: dict[str, Callable[[int], object]] = {"a line of JSON, flushed to the kernel": line, "a row of SQLite": row}
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return calls
    writer = SummaryWriter(str(folder / "tensorboard"))
    calls["TensorBoard's add_scalar"] = lambda step: writer.add_scalar("train/0", 0.5, step)
    return calls


def worst_gap(hub: MessageHub, number: int) -> float:
    """Return the longest time that 256 publishes took, in ms."""
    update = hub.update_scalar
    worst, start = 0.0, time.perf_counter()
    for step in range(number):
        update("train/0", 0.1 * step, step=step)
        if step % 256 == 255:
            now = time.perf_counter()
            worst, start = max(worst, now - start), now
    return worst * 1e3


def main(rough: bool) -> None:
    number, rounds = (5_000, 3) if rough else (50_000, 15)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hubs = {
            "no journal": hub_with(None, ""),
            "memory": hub_with(folder, "memory"),
            "process": hub_with(folder, "process"),
        }
        calls: dict[str, Callable[[], float]] = {}
        for level, hub in hubs.items():
            calls[level] = functools.partial(one_by_one, hub, number)
            calls[f"{level}, ten"] = functools.partial(ten_at_once, hub, number)
        took = {key: figures(sample).median for key, sample in interleave(calls, rounds).items()}
        rows = {}
        for level in hubs:
            alone, ten = took[level], took[f"{level}, ten"]
            ratio, more = alone / took["no journal"], alone - took["no journal"]
            rows[level] = [
                f"{alone:,.0f}",
                f"{more:,.0f}",
                f"{ratio:.2f}",
                f"{ten:,.0f}",
                f"{ten / took['no journal, ten']:.2f}",
            ]
        table("level", ["update_scalar, ns", "more, ns", "ratio", "one of ten, ns", "ratio"], rows)

        few = number // 50
        beside = {key: functools.partial(each, call, few) for key, call in peers(folder).items()}
        beside["process"] = functools.partial(one_by_one, hubs["process"], number)
        rows = {key: [f"{figures(sample).median:,.0f}"] for key, sample in interleave(beside, rounds).items()}
        table("beside it", ["ns"], rows)

        gaps = {level: functools.partial(worst_gap, hub, number) for level, hub in hubs.items()}
        rows = {
            level: [f"{figures(sample).median:.2f}", f"{max(sample):.2f}"]
            for level, sample in interleave(gaps, rounds).items()
        }
        table("256 publishes at worst", ["ms, median", "ms, worst"], rows)

        for hub in hubs.values():
            hub.close()
        events = hubs["process"].statistics().seq
        size = sum(path.stat().st_size for path in (folder / "process" / "journal").iterdir())
        start = time.perf_counter()
        recover(folder / "process")
        seconds = time.perf_counter() - start
        table(
            "a journal",
            ["events", "bytes each", "recovered, million/s"],
            {"process": [f"{events:,}", f"{size / events:.1f}", f"{events / seconds / 1e6:.1f}"]},
        )


if __name__ == "__main__":
    header()
    main(quick())
