"""How much memory do a page that is left open for half an hour, and its server, take more than at first?

A real run publishes ten scalars a hundred times a second, ten steps at once, into a journal; ``asynchub serve`` is a
process beside it, and a page with the ten charts is open in Chromium. Prints each minute what JavaScript holds after
its garbage is collected, how many nodes the page has, and what the server and the process that draws have in memory;
at the end the growth since the second minute, when everything that is loaded once is loaded, and the bounds that we
aimed at: 5 MB of the page, 20 MB of the server. Not shown: speed (see ``tests.benchmarks.page``); other browsers; and a
page that somebody uses meanwhile.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asynchub import Journal, MessageHub
from tests.benchmarks.common import header, quick, table
from tests.dashboard.page.processes import ROOT, Process, browsers_of, browsing, missing, opened, served, until

KEYS = tuple(f"key-{number}" for number in range(10))
EACH, EVERY = 10, 0.1
"""Steps that are published at once, and seconds between."""
BEFORE = 20_000
"""Steps that there were before."""
BOUNDS = {"page, MB": 5.0, "server, MB": 20.0}
DRAWN = "(most) => [...document.querySelectorAll('.chart .truth')].filter((one) => one.textContent).length >= most"


class Sample(NamedTuple):
    """What there was at a time, in MB; ``nodes`` is a number."""

    page: float
    nodes: int
    renderer: float
    server: float
    step: int


def publish(folder: Path, seconds: float, before: int = BEFORE) -> None:
    """Be a run that goes on for a while."""
    rng = np.random.default_rng(0)
    hub = MessageHub("run")
    hub.attach(Journal(folder / "run" / "journal"))
    with hub:
        for _ in range(before):
            _step(hub, rng)
        hub.commit()
        print("ready", flush=True)
        began, turn = time.monotonic(), 0
        while time.monotonic() < began + seconds:
            for _ in range(EACH):
                _step(hub, rng)
            turn += 1
            time.sleep(max(began + turn * EVERY - time.monotonic(), 0.0))


def _step(hub: MessageHub, rng: np.random.Generator) -> None:
    hub.step += 1
    noise = rng.normal(1, 0.1, len(KEYS))
    hub.update_scalars(dict(zip(KEYS, (noise + np.exp(-hub.step / 50_000)).tolist(), strict=True)))


def sample(page: Any, session: Any, server: Process) -> Sample:
    """Return what there is now."""
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    nodes = session.send("Memory.getDOMCounters")["nodes"]
    renderer = max(one.memory_info().rss for one in browsers_of() if "--type=renderer" in one.cmdline()) / 1e6
    step = page.locator("#answers").inner_text()
    return Sample(heap, nodes, renderer, server.memory, _number_in(step))


def _number_in(text: str) -> int:
    """Return the first number of several digits in a text; 0 if there is none."""
    digits = next((word for word in text.replace(",", "").split() if word.isdigit() and len(word) > 3), "0")
    return int(digits)


def main(rough: bool) -> None:
    if problem := missing():
        print(problem)
        return
    pause, samples = (1.0, 3) if rough else (60.0, 31)
    seconds = pause * samples + 60.0
    program = "from pathlib import Path; from tests.benchmarks.page_memory import publish; publish(Path({!r}), {}, {})"
    found = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        runs = Path(name) / "runs"
        command = [sys.executable, "-c", program.format(str(runs), seconds, 1000 if rough else BEFORE)]
        run = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE))
        stack.callback(run.kill)
        assert run.stdout is not None
        run.stdout.readline()
        server = stack.enter_context(served(runs, Path(name) / "cache"))
        page = stack.enter_context(opened(stack.enter_context(browsing())))
        page.goto(f"{server.address}/#t={server.token}&keys=")
        until(page, DRAWN, len(KEYS))
        session = page.context.new_cdp_session(page)
        began = time.monotonic()
        for number in range(samples):
            page.wait_for_timeout(max(0.0, began + (number + 1) * pause - time.monotonic()) * 1000)
            found.append(sample(page, session, server))
            now = found[-1]
            print(f"{number + 1:>3}  step {now.step:,}: page {now.page:.2f} MB, {now.nodes} nodes,", end=" ")
            print(f"its process {now.renderer:.0f} MB, server {now.server:.1f} MB", flush=True)
    show(found)


def show(found: list[Sample]) -> None:
    first, last = found[1], found[-1]
    grown = {"page, MB": last.page - first.page, "server, MB": last.server - first.server}
    rows = {
        name: [f"{by:+.1f}", f"{BOUNDS[name]:g}", "kept" if by <= BOUNDS[name] else "missed"]
        for name, by in grown.items()
    }
    rows["the process that draws, MB"] = [f"{last.renderer - first.renderer:+.1f}", "none", ""]
    rows["nodes of the page"] = [f"{last.nodes - first.nodes:+d}", "none", ""]
    table(f"growth over {len(found) - 2} samples", ["by", "bound", ""], rows)


if __name__ == "__main__":
    header("playwright", "starlette", "uvicorn")
    main(quick())
