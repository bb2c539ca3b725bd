"""How long does it take to look at 100 runs of 50 keys and 1e6 steps at once, and how much memory has who does?

Prints, in a new process each, with what the operating system holds of the files dropped before ("cold") and with it
("warm"): how long it takes until there is a list of the runs and the first screen of one, until each row says what its
run does, until the curves of all runs are open, and to ask for 10 keys of each run, for a tenth of their steps, for
sparklines of all keys, and for 10 keys smoothed; each for the first time, and for the second, when nothing is new. And
the memory of the viewer beyond that of an interpreter that has imported the same, and the bytes of the cache for each
value. Values are random walks in float32. Two runs are written; the others are hard links to their files, with caches
of their own names, so that a disk has 2 GB of them, and "cold" reads the same blocks of the disk again for most of
them. Not shown: 100 runs that have no cache yet, which is the first row of ``tests.benchmarks.pyramid`` for each run;
runs that go on; and drawing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from asynchub.dashboard.keeping import cache_path
from asynchub.dashboard.pyramid import Pyramid
from tests.benchmarks.common import header, quick, table
from tests.benchmarks.pyramid import write

VIEWING = """
import json, resource, sys, time
from pathlib import Path
from asynchub.dashboard.allocating import keep_freed
from asynchub.dashboard.curves import curves, sparkline
from asynchub.dashboard.gallery import Gallery
def memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
folder, before, figures = Path(sys.argv[1]), memory(), []
def timed(name, ask):
    start, used = time.perf_counter(), time.process_time()
    found = ask()
    figures.append((name, (time.perf_counter() - start) * 1e3, (time.process_time() - used) * 1e3, memory() - before))
    return found
keep_freed()
gallery = Gallery([folder / "runs"], folder / "cache")
rows = timed("list", gallery.rows)
timed("first screen", lambda: gallery.run(rows[0].id).screen())
def read():
    while gallery.unread:
        gallery.update(0.1)
timed("all rows", read)
runs = [gallery.pyramid(row.id) for row in rows]
timed("curves open", lambda: [run.update() for run in runs])
keys = runs[0].keys[:10]
steps = runs[0].extent(keys[0])[1] + 1
asked = {
    "10 keys": lambda run: curves(run, keys, None, None, 490),
    "a tenth": lambda run: curves(run, keys, int(steps * 0.45), int(steps * 0.55), 490),
    "sparklines": lambda run: [sparkline(run, key) for key in run.keys],
    "10 keys, mean": lambda run: curves(run, keys, None, None, 490, window=10_000),
    "10 keys, ema": lambda run: curves(run, keys, None, None, 490, window=10_000, smoothing="ema"),
}
for name, ask in asked.items():
    for turn in ("", ", again"):
        timed(name + turn, lambda: [ask(run) for run in runs])
gallery.close()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
print(json.dumps([figures, peak]))
"""


def linked(folder: Path, runs: int) -> float:
    """Make many runs of those that were written; return how many bytes the caches of those have."""
    cache = folder / "cache"
    cache.mkdir()
    sources = sorted((folder / "written").iterdir())
    for source in sources:
        with Pyramid(source, folder / "built") as run:
            while run.update():
                pass
    for number in range(runs):
        source = sources[number % len(sources)]
        journal = folder / "runs" / f"sweep-{number // 10}" / f"run-{number:03}" / "journal"
        journal.mkdir(parents=True)
        for path in (source / "journal").iterdir():
            os.link(path, journal / path.name)
        os.link(cache_path(source / "journal", folder / "built"), cache_path(journal, cache))
    return sum(path.stat().st_size for path in (folder / "built").glob("*.ahy"))


def drop(folder: Path) -> None:
    """Have the operating system forget what it holds of files."""
    for path in _files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in (*(folder / "written").rglob("*"), *(folder / "built").rglob("*")) if path.is_file())


def main(rough: bool) -> None:
    runs, keys, steps = (4, 12, 2_000) if rough else (100, 50, 1_000_000)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder / "written", 2, keys, steps, single=True)
        size = linked(folder, runs) / (2 * keys * steps)
        rows: dict[str, tuple[str, ...]] = {}
        peaks = []
        for state in ("cold", "warm"):
            if state == "cold":
                drop(folder)
            done = subprocess.run(
                [sys.executable, "-c", VIEWING, place], capture_output=True, text=True, timeout=1000, check=True
            )
            figures, peak = json.loads(done.stdout)
            peaks.append(peak)
            for name, wall, used, memory in figures:
                cells = (f"{wall:.0f}", f"{used:.0f}", f"{memory:.0f}")
                rows[name] = (*rows.get(name, ()), *cells)
    heads = ("cold, ms", "of CPU", "MiB", "warm, ms", "of CPU", "MiB")
    table(f"{runs} runs of {keys} keys and {steps:,} steps", heads, rows)
    print(f"\nthe cache has {size:.2f} bytes a value; the viewer had {max(peaks):.0f} MiB at most")


if __name__ == "__main__":
    header()
    main(quick())
