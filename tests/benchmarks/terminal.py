"""How much of a core does the terminal view take, and how late is what a key asks for?

Prints, at 160 x 46 with 6 charts of 3 runs, drawn five times a second: processor time by the time that passed while
each run publishes 6 scalars at 200 steps a second, and while nothing comes; bytes written to the terminal in a second;
milliseconds from a key to the first byte that answers it, median, 99th percentile and worst, at rest and while rules
are tried (what if); and memory before that, and at the end.
Not shown: the terminal's own work to show it, and runs that are read for the first time.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.common import figures, header, quick, table
from tests.dashboard.runs import Writer, columns_of
from tests.dashboard.terminal.terminals import COMMAND, ROOT, Terminal, terminal

KEYS = ("train/loss", "val/accuracy", "lr", "step_ms", "train/grad_norm", "memory_bytes")
PAST, EACH, EVERY = 100_000, 20, 0.1
"""Steps that were before, steps that come at once, and seconds between."""
RULE = b"MaxSteps:" + b",".join(b"%d" % (1_000_000 + number) for number in range(12))
"""A grid that takes some time."""
PRESSED = (b"j", b"k", b"+", b"h", b"l", b"g", b"L", b"x", b"x", b"x", b"x", b"y", b"y", b"L")


def publish(base: Path, seconds: float) -> None:
    """Write three runs, as fast as they are said to come."""
    rng = np.random.default_rng(0)
    writers = [Writer(base / f"run{n}", bytes([n + 1]) * 16, f"run{n}") for n in range(3)]

    def put(writer: Writer, start: int, count: int) -> None:
        steps = np.arange(start, start + count)
        values = np.exp(-steps[:, None] / PAST) + 0.1 * rng.standard_normal((count, len(KEYS)))
        writer.batch(columns_of(KEYS, steps, values, writer.seq))

    for writer in writers:
        for start in range(0, PAST, 20_000):
            put(writer, start, 20_000)
    print("ready", flush=True)
    began, step = time.monotonic(), PAST
    while time.monotonic() < began + seconds:
        for writer in writers:
            put(writer, step, EACH)
        step += EACH
        time.sleep(max(began + (step - PAST) / EACH * EVERY - time.monotonic(), 0.0))


def used(pid: int) -> float:
    """Return seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Return the memory of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if "VmRSS" in line)


def watched(shown: Terminal, seconds: float) -> list[str]:
    """Return the share of a core, and bytes a second, over some time."""
    time_before, before, size = used(shown.pid), time.monotonic(), len(shown.output)
    while time.monotonic() < before + seconds:
        shown.read(0.05)
    passed = time.monotonic() - before
    share = (used(shown.pid) - time_before) / passed
    return [f"{100 * share:.1f} %", f"{(len(shown.output) - size) / passed / 1e3:.1f}"]


def pressed(shown: Terminal, keys: Sequence[bytes]) -> list[float]:
    """Return the milliseconds from each key to the first byte that follows."""
    took = []
    for key in keys:
        while shown.read(0.1):
            pass
        began = time.perf_counter()
        shown.press(key)
        select.select([shown.file], [], [], 5)
        took.append((time.perf_counter() - began) * 1e3)
    return took


def main(rough: bool) -> None:
    seconds, rounds = (3.0, 1) if rough else (20.0, 8)
    program = (
        f"from tests.benchmarks.terminal import publish; from pathlib import Path; publish(Path({{!r}}), {seconds + 8})"
    )
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "runs"
        command = [sys.executable, "-c", program.format(str(base))]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writing:
            assert writing.stdout is not None
            writing.stdout.readline()
            with terminal(COMMAND, "watch", base, "--cache", Path(name) / "cache") as shown:
                shown.until("counted")
                watched(shown, 4.0)  # to warm up
                live = watched(shown, seconds)
                writing.wait()
                watched(shown, 2.0)
                still = watched(shown, seconds / 2)
                late = pressed(shown, PRESSED * rounds)
                memory = [resident(shown.pid)]
                shown.press(b"w")
                shown.until("Enter: try it")
                shown.press(b"\x15")
                shown.rest()
                shown.press(RULE + b"\r")
                shown.until("to go")
                shown.press(b"\x1b")
                amid = pressed(shown, PRESSED)
                shown.press(b"w")
                is_amid = " to go" in shown.text(len(shown.output) - len(shown.read(1.0)))
                memory.append(resident(shown.pid))
                shown.press(b"\x1b")
                shown.rest()
                shown.press(b"q")
                shown.end()
    table(
        "a view of 6 charts x 3 runs", ["of a core", "kB/s"], {"while runs go on": live, "while nothing comes": still}
    )
    rows = {"at rest": late, "while rules are tried" if is_amid else "while rules were tried, in part": amid}
    table(
        "from a key to the first byte",
        ["keys", "ms, median", "p99", "worst"],
        {name: [f"{len(one)}", *(f"{part:.0f}" for part in (*figures(one), max(one)))] for name, one in rows.items()},
    )
    print(f"\nmemory: {memory[0]:.0f} MB, and {memory[1]:.0f} MB once rules were tried")


if __name__ == "__main__":
    header("textual")
    main(quick())
