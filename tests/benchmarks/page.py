"""How soon does the page show ten charts of five runs of a million steps: at first, zoomed, and while they go on?

The runs are journals of 5e7 values; ``asynchub serve`` is a process beside them that has read them before ("warm"); the
page is in Chromium without a window, 1400 x 2600. Prints, beside what we aimed at: milliseconds from an address to ten
drawn charts; from a zoom to ten charts drawn anew, as the server answers it, at rest and while each run gets ten steps
ten times a second; of a minute of the latter, how many tasks of the page take more than 50 ms, how long the longest of
them is, and which share of a core browser and server take; how long after a value is in the journal a pixel of its
chart has changed; and, of 100 runs of which nothing is in memory, from an address to a list and a status. Beside each
time stands the processor time of the page's main thread, on which what else the machine does weighs less. Not shown: a
graphics card and a screen, as Chromium draws in software here; a network; a phone.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asynchub.dashboard.keeping import cache_path
from asynchub.dashboard.pyramid import Pyramid
from tests.benchmarks.common import figures, header, quick, table
from tests.dashboard.page.processes import ZOOM, Process, browsers_of, browsing, missing, opened, served, until, used
from tests.dashboard.page.sample_runs import sample_run
from tests.dashboard.runs import Writer, columns_of

KEYS = tuple(f"key-{number}" for number in range(10))
RUNS, MANY = 5, 100
EACH, EVERY = 10, 0.1
"""Steps that come at once, and seconds between."""
LEVELS = np.array([(0.4, 0.77, 2.0, 0.83)[at % 4] + at // 4 for at in range(len(KEYS))])
"""Around which the values are that come; before, they came to that."""
FAR = 128
"""The part of the steps from one value to the next whose pixels are waited for: more than a stroke is wide."""
OPENING = 1.0
"""Seconds that a window of the browser has for opening itself."""
DRAWN = """window.shown = new Promise((done) => {
    const isDrawn = (one) => one.querySelector('canvas') && one.querySelector('.truth').textContent;
    const look = () => {
        if ([...document.querySelectorAll('.chart')].filter(isDrawn).length < 10) requestAnimationFrame(look);
        else requestAnimationFrame(() => done(performance.now()));
    };
    requestAnimationFrame(look);
});"""
LISTED = """window.shown = new Promise((done) => {
    const look = () => {
        const there = ['.run .name', '#answers .word'].every((one) => document.querySelector(one)?.textContent);
        requestAnimationFrame(there ? () => done(performance.now()) : look);
    };
    requestAnimationFrame(look);
});"""
LONG = """() => {
    window.long = [];
    new PerformanceObserver((list) => window.long.push(...list.getEntries().map((one) => one.duration)))
        .observe({ type: 'longtask' });
}"""
PIXELS = """(key) => {
    const canvas = document.querySelector(`.chart[aria-label="Chart of ${key}"] canvas`);
    const context = canvas.getContext('2d');
    let before = null;
    window.changed = [];
    const look = () => {
        const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
        const now = new Uint32Array(data.buffer);
        if (before && now.some((one, at) => one !== before[at]))
            window.changed.push((performance.timeOrigin + performance.now()) / 1000);
        before = now;
        requestAnimationFrame(look);
    };
    look();
}"""


class Look(NamedTuple):
    """How long something took, in milliseconds: until it was seen, and of processor time of the page's main thread."""

    passed: float
    busy: float


class Sizes(NamedTuple):
    """How much is measured."""

    steps: int
    opens: int
    zooms: int
    seconds: float
    probes: int


class Live:
    """Runs that go on: each gets some steps ten times a second."""

    def __init__(self, writers: Sequence[Writer], step: int) -> None:
        self.step = self._probed = step
        self._far = step // FAR
        self._low = False
        self._writers = writers
        self._rng = np.random.default_rng(1)
        self._lock = threading.Lock()

    @contextmanager
    def going_on(self, keys: Sequence[str] = KEYS) -> Iterator[None]:
        """Have them go on meanwhile, with some of their keys."""
        ended = threading.Event()

        def write() -> None:
            while not ended.wait(EVERY):
                for writer in self._writers:
                    values = LEVELS[: len(keys)] + self._rng.normal(0, 0.03, (EACH, len(keys)))
                    self._put(writer, keys, np.arange(self.step, self.step + EACH), values)
                self.step += EACH

        thread = threading.Thread(target=write, name="writing")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def probe(self, key: str) -> float:
        """Write one value, which a stroke of its own shows; return when it was there, in seconds since the epoch."""
        self._probed = max(self._probed, self.step) + self._far
        self._low = not self._low
        self._put(self._writers[0], [key], np.array([self._probed]), np.array([[LEVELS[-1] - 0.4 * self._low]]))
        return time.time()

    def _put(self, writer: Writer, keys: Sequence[str], steps: Any, values: Any) -> None:
        with self._lock:
            writer.batch(columns_of(keys, steps, values, writer.seq))


def busy(session: Any) -> float:
    """Return the milliseconds of processor time that the page's main thread has had."""
    found = session.send("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in found if one["name"] == "TaskDuration") * 1e3


def first(browser: Any, server: Process, script: str, state: str) -> Look:
    """Open the page in a window of its own, which is open; return how long it took until something is seen."""
    with opened(browser, script) as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.wait_for_timeout(OPENING * 1000)
        page.goto(f"{server.address}/#t={server.token}{state}")
        passed = page.evaluate("window.shown")
        return Look(passed, busy(session))


def zoomed(page: Any, steps: int, zooms: int) -> list[Look]:
    """Zoom all charts again and again."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    found = []
    for number in range(zooms):
        low = steps // 100 * (number + 1)
        before = busy(session)
        passed = page.evaluate(ZOOM, f"{low}..{low + steps // 3 + steps // 150 * number}")
        found.append(Look(passed, busy(session) - before))
        page.wait_for_timeout(200)
    return found


def show_runs(page: Any, server: Process, state: str) -> None:
    page.goto("about:blank")
    page.goto(f"{server.address}/#t={server.token}{state}")
    page.evaluate("window.shown")
    page.wait_for_timeout(500)


def watched(page: Any, server: Process, seconds: float) -> dict[str, float]:
    """Return what a while of news takes."""
    page.evaluate(LONG)
    before = used(*browsers_of()), used(server.pid)
    began = time.monotonic()
    page.wait_for_timeout(seconds * 1000)
    passed = time.monotonic() - began
    after = used(*browsers_of()), used(server.pid)
    long = page.evaluate("window.long")
    return {
        "tasks": len(long) * 60 / passed,
        "longest": max(long, default=0.0),
        "browser": 100 * (after[0] - before[0]) / passed,
        "server": 100 * (after[1] - before[1]) / passed,
    }


def probed(page: Any, live: Live, probes: int) -> list[float]:
    """Return the milliseconds from each value in the journal to the first pixel that is another one."""
    page.evaluate(PIXELS, KEYS[-1])
    found = []
    for number in range(probes):
        until(page, "() => performance.timeOrigin + performance.now() > 1000 * (window.changed.at(-1) ?? 0) + 200")
        page.wait_for_timeout(37 * (number % 7))
        page.evaluate("() => { window.changed = []; }")
        written = live.probe(KEYS[-1])
        found.append((until(page, "() => window.changed[0]") - written) * 1e3)
    return found


def many(folder: Path, cache: Path) -> Path:
    """Make many runs of those that there are, with what a viewer keeps of them."""
    top, kept = folder / "many", folder / "many-cache"
    kept.mkdir()
    sources = sorted((folder / "runs").iterdir())
    for number in range(MANY):
        source = sources[number % len(sources)] / "journal"
        journal = top / f"sweep-{number // 10}" / f"run-{number:03}" / "journal"
        journal.mkdir(parents=True)
        for path in source.iterdir():
            os.link(path, journal / path.name)
        if (path := cache_path(source, cache)).exists():  # of little there is none
            os.link(path, cache_path(journal, kept))
    return top


def drop(folder: Path) -> None:
    """Have the operating system forget what it holds of files."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def row(name: str, looks: Sequence[float], median: float | None, most: float | None, busy: float | None) -> list[str]:
    """Return a line of the table: median, 95th percentile and worst, and what we aimed at."""
    p95 = float(np.quantile(looks, 0.95))
    at = figures(looks).median
    kept = (median is None or at <= median) and (most is None or (p95 if "pixel" in name else max(looks)) <= most)
    aims = [f"{aim:g}" for aim in (median, most) if aim is not None]
    cells = [f"{at:.0f}", f"{p95:.0f}", f"{max(looks):.0f}", "" if busy is None else f"{busy:.0f}"]
    return [*cells, " / ".join(aims), "kept" if kept else "missed"]


def main(rough: bool) -> None:
    if problem := missing():
        print(problem)
        return
    sizes = Sizes(20_000, 1, 3, 2.0, 3) if rough else Sizes(1_000_000, 9, 20, 60.0, 60)
    rows: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, cache = Path(name), Path(name) / "cache"
        writers = []
        for number in range(RUNS):
            at = folder / "runs" / f"run-{number}"
            writers.append(sample_run(at, number, sizes.steps, keys=KEYS, closed=False))
            with Pyramid(at, cache) as run:
                while run.update():
                    pass
        browser = stack.enter_context(browsing())
        top, cold = many(folder, cache), []
        for _ in range(1 if rough else 5):
            with served(top, folder / "many-cache") as server:
                drop(folder)
                cold.append(first(browser, server, LISTED, ""))
        live = Live(writers, sizes.steps)
        server = stack.enter_context(served(folder / "runs", cache))
        state = f"&run={server.run('run-1')}&keys="
        page = stack.enter_context(opened(browser, DRAWN))
        for _ in range(2):  # what is read once is read
            show_runs(page, server, state)
            page.wait_for_timeout(3000)
        page.goto("about:blank")
        opens = [first(browser, server, DRAWN, state) for _ in range(sizes.opens)]
        show_runs(page, server, f"{state}&follow=0")
        still = zoomed(page, sizes.steps, sizes.zooms)
        show_runs(page, server, state)
        with live.going_on():
            at_work = watched(page, server, sizes.seconds)
            show_runs(page, server, f"{state}&follow=0")
            going = zoomed(page, sizes.steps, sizes.zooms)
        show_runs(page, server, f"{state}&range=0..{sizes.steps * 2}")
        with live.going_on(KEYS[:-1]):
            late = probed(page, live, sizes.probes)
    print(f"{RUNS} runs x {len(KEYS)} charts x {sizes.steps:,} steps; load {os.getloadavg()[0]:.1f}")
    for title, looks, median, most in (
        ("first paint", opens, 600, 1000),
        ("zoom", still, 150, 400),
        ("zoom while live", going, 150, 400),
        (f"list and status of {MANY} runs, cold", cold, 500, None),
    ):
        rows[title] = row(title, [one.passed for one in looks], median, most, figures(one.busy for one in looks).median)
    rows["journal to pixel, while live"] = row("pixel", late, None, 300, None)
    table("milliseconds", ["median", "p95", "worst", "of processor", "aim: median / worst", ""], rows)
    aims = {"tasks": 2.0, "longest": None, "browser": 80.0, "server": 10.0}
    names = {
        "tasks": "tasks above 50 ms a minute",
        "longest": "the longest, ms",
        "browser": "browser, % of a core",
        "server": "server, % of a core",
    }
    verdicts = {
        names[what]: [f"{at_work[what]:.1f}", "" if aim is None else f"{aim:g}", _verdict(at_work[what], aim)]
        for what, aim in aims.items()
    }
    table(f"live for {sizes.seconds:g} s", ["", "aim", ""], verdicts)


def _verdict(value: float, aim: float | None) -> str:
    return "" if aim is None else "kept" if value <= aim else "missed"


if __name__ == "__main__":
    header("playwright", "starlette", "uvicorn")
    main(quick())
