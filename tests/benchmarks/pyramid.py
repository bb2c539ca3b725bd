"""How long does it take to look at runs, cold and warm, how large is what a viewer keeps, and how much memory has it?

Prints, for one run of 50 keys and 1e6 steps, and for 20 runs of 5 keys and 1e5 steps, how long it takes to build the
pyramid from the journal, to open it and ask for 10 keys again in a new process, and to ask once more, when nothing is
new and the answer is known; for a tenth and a 500th of the steps, and for sparklines, each for the first time; the
bytes of the cache for each value; and the memory of the viewer beyond that of an interpreter that has imported the
same. Values are random walks in float32, as of a GPU, and in float64. Not shown: a disk that is slower than the cache
of the operating system, which "cold" does not empty; and drawing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.common import header, quick, table
from tests.dashboard.runs import Writer, columns_of

SEGMENT = 2**26

VIEWING = """
import json, resource, sys, time
from pathlib import Path
from asynchub.dashboard.allocating import keep_freed
from asynchub.dashboard.curves import curves, sparkline
from asynchub.dashboard.pyramid import Pyramid
def memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
before = memory()
keep_freed()
folder, most = Path(sys.argv[1]), int(sys.argv[2])
start = time.perf_counter()
runs = [Pyramid(run, folder / "cache") for run in sorted(folder.glob("run-*"))]
for run in runs:
    while run.update():
        pass
opened = time.perf_counter() - start
def asked(zoom):
    start = time.perf_counter()
    for run in runs:
        low, high = run.extent(run.keys[0])
        middle, half = (low + high) // 2, int((high - low) * zoom / 2)
        curves(run, run.keys[:10], middle - half, middle + half, 490)
    return (time.perf_counter() - start) * 1e3
whole = [asked(1.0) for _ in range(6)]
tenth = [asked(zoom) for zoom in (0.1, 0.101, 0.102)]  # each for the first time
raw = asked(0.002)
start = time.perf_counter()
for run in runs:
    for key in run.keys:
        sparkline(run, key)
sparklines = (time.perf_counter() - start) * 1e3
after = memory()
for run in runs:
    run.close()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([opened, whole[0], min(whole[1:]), min(tenth), raw, sparklines, after - before, peak - before]))
"""


def write(folder: Path, runs: int, keys: int, steps: int, single: bool) -> None:
    """Write runs in which each key is updated at each step."""
    rng = np.random.default_rng(1)
    piece = max(65_536 // keys, 1)
    names = [f"layer.{number}/loss" for number in range(keys)]
    for number in range(runs):
        writer = Writer(folder / f"run-{number:03}", run_id=number.to_bytes(16, "little"))
        level = np.zeros(keys)
        for start in range(0, steps, piece):
            each = np.arange(start, min(start + piece, steps))
            walk = level + np.cumsum(rng.normal(size=(len(each), keys)), axis=0)
            level = walk[-1]
            writer.batch(columns_of(names, each, walk.astype("f4").astype("f8") if single else walk, writer.seq))
            if writer.path.stat().st_size > SEGMENT:
                writer.begin_segment()
        writer.close()


def viewed(folder: Path) -> list[float]:
    """Look at the runs in a new process; return what it measured."""
    done = subprocess.run(
        [sys.executable, "-c", VIEWING, str(folder), "10"], capture_output=True, text=True, timeout=1000, check=True
    )
    figures: list[float] = json.loads(done.stdout)
    return figures


def main(rough: bool) -> None:
    sizes = ((1, 50, 4_000 if rough else 1_000_000), (20, 5, 4_000 if rough else 100_000))
    rows = {}
    for runs, keys, steps in sizes:
        for kind in ("float32", "float64"):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                write(folder, runs, keys, steps, kind == "float32")
                for turn in ("built", "again"):
                    opened, *asked, kept, peak = viewed(folder)
                    size = sum(path.stat().st_size for path in folder.glob("cache/*.ahy")) / (runs * keys * steps)
                    figures = (*(f"{one:.0f}" for one in asked), f"{size:.2f}", f"{kept:.0f}", f"{peak:.0f}")
                    rows[f"{runs} x {keys} x {steps:.0e}, {kind}, {turn}"] = (f"{opened:.2f}", *figures)
    asked_for = ("10 keys, ms", "once more", "a tenth", "a 500th", "sparklines")
    table("490 buckets of a curve", ("open, s", *asked_for, "bytes a value", "MiB", "at most"), rows)


if __name__ == "__main__":
    header()
    main(quick())
