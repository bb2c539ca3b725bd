"""How late is an event in another process that follows the run?

Prints the time between a publish and the moment at which ``follow`` hands the event out in another process, median,
99th percentile and worst, for a journal of the level ``process`` and of ``memory``, at a steady rate; and whether every
event came once. Beside it the same for a line of JSON, written and flushed at each event, of a file that the other
process looks at every 2 ms. Not shown: two machines, or more readers than cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from asynchub import Journal, MessageHub
from tests.benchmarks.common import figures, header, quick, table

BURST, PAUSE = 50, 0.002
"""Events that are published at once, and seconds between."""

FOLLOWING = """
import sys, time, anyio
from asynchub import follow
async def main():
    late, seqs = [], []
    async for event in follow(sys.argv[1], "loss", until="closed"):
        late.append(time.time() - event.time)
        seqs.append(event.seq)
        if len(late) == 1:
            print("first", flush=True)
    print(*late)
    print(*seqs)
anyio.run(main)
"""
READING = """
import json, sys, time
late, steps = [], []
with open(sys.argv[1]) as file:
    rest = ""
    while not steps or steps[-1] >= 0:
        new = file.read()
        if not new:
            time.sleep(0.002)
        *lines, rest = (rest + new).split("\\n")
        for line in lines:
            fields = json.loads(line)
            late.append(time.time() - fields["time"])
            steps.append(fields["step"])
            if len(late) == 1:
                print("first", flush=True)
print(*late[:-1])
print(*steps[:-1])
"""


def measured(program: str, path: Path, publish: Callable[[int], object], end: Callable[[], object], most: int) -> str:
    """Publish while ``program`` reads; return what it printed."""
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        publish(0)
        reader.stdout.readline()  # it reads, from here on
        for number in range(1, most):
            publish(number)
            if number % BURST == 0:
                time.sleep(PAUSE)
        end()
        return reader.communicate(timeout=100)[0]


def row(printed: str, most: int) -> list[str]:
    late, order = printed.splitlines()
    sample = [float(one) * 1e3 for one in late.split()[most // 50 :]]  # not the first, which waited for the reader
    seqs = np.array(order.split(), int)
    once = len(seqs) == most and bool((np.diff(seqs) == 1).all())
    return [*(f"{one:.1f}" for one in (*figures(sample), max(sample))), "every one once" if once else "NOT ALL ONCE"]


def main(rough: bool) -> None:
    most = 5_000 if rough else 250_000
    rows = {}
    for level in ("process", "memory"):
        with tempfile.TemporaryDirectory() as name:
            hub = MessageHub("hub")
            hub.attach(Journal(Path(name) / "journal", level=level))  # type: ignore[arg-type]  # one of them
            printed = measured(
                FOLLOWING, Path(name), lambda number, hub=hub: hub.update_scalar("loss", number), hub.close, most
            )
            rows[f"follow, {level}"] = row(printed, most)
    with tempfile.TemporaryDirectory() as name, (Path(name) / "lines").open("w", encoding="utf-8") as file:

        def write(number: int) -> None:
            file.write(json.dumps({"time": time.time(), "key": "loss", "step": number, "value": 0.1 * number}) + "\n")
            file.flush()

        rows["lines of JSON"] = row(measured(READING, Path(file.name), write, lambda: write(-1), most), most)
    table("an event is late by", ["ms, median", "p99", "worst", ""], rows)


if __name__ == "__main__":
    header()
    main(quick())
