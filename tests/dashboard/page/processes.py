"""A server in a process of its own, and a browser that looks at it: for what is measured of both."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from tests.dashboard.page.browsers import CHROMIUM, built

__all__ = ("TEN", "Process", "browsers_of", "browsing", "missing", "opened", "served", "until", "used")

ROOT = Path(__file__).parents[3]
WAIT = 120.0
TEN = {"width": 1400, "height": 2600}
"""A window in which ten charts are seen at once."""
ZOOM = """async (range) => {
    const began = performance.now();
    const truths = [...document.querySelectorAll('.chart .truth')];
    const before = truths.map((one) => one.textContent);
    const changed = new Promise((done) => {
        const watcher = new MutationObserver(() => {
            if (truths.every((one, at) => one.textContent !== before[at])) { watcher.disconnect(); done(); }
        });
        for (const one of truths) watcher.observe(one, { childList: true, characterData: true, subtree: true });
    });
    location.hash = location.hash.replace(/&range=[^&]*/, '') + `&range=${range}`;
    await changed;
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    return performance.now() - began;
}"""
"""Changes the part of the axis; tells how many milliseconds it took until all charts were drawn anew."""


class Process(NamedTuple):
    """``asynchub serve``.

    Attributes:
        pid: of its process.
        address: to which its paths are added.
        token: with which one may look.
    """

    pid: int
    address: str
    token: str

    @property
    def memory(self) -> float:
        """MB that it has in memory."""
        return psutil.Process(self.pid).memory_info().rss / 1e6

    def get(self, path: str, **query: Any) -> Any:
        """Return what is told."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.get(self.address + path, params=query, headers=headers, trust_env=False, timeout=WAIT)
        answer.raise_for_status()
        return answer.json()

    def run(self, name: str = "") -> str:
        """Return the row id of a run; of the first if no name is given."""
        rows = self.get("/api/runs")["rows"]
        return next(str(row["id"]) for row in rows if not name or Path(row["folder"]).name == name)


def missing() -> str:
    """Return in words what is not here to look at a page with, or ""."""
    try:
        import playwright  # noqa: F401  # whether it is here is all that is asked
    except ImportError:
        return "there is no playwright here: python -m pip install -c tests/constraints.txt -e '.[test]'"
    return built() if CHROMIUM else "there is no chromium here to look at the page with"


@contextmanager
def served(runs: Path, cache: Path) -> Iterator[Process]:
    """Serve the runs in a folder, as people do."""
    command = [sys.executable, "-m", "asynchub", "serve", runs, "--cache", cache, "--port", "0"]
    with subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        try:
            for line in program.stdout or ():
                if line.strip().startswith("to look"):
                    address, _, token = line.split()[-1].partition("/#t=")
                    yield Process(program.pid, address, token)
                    break
            else:
                raise RuntimeError("the server does not begin")
        finally:
            program.kill()


@contextmanager
def browsing() -> Iterator[Any]:
    """Have a browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def opened(browser: Any, *scripts: str, **options: Any) -> Iterator[Any]:
    """Have an empty page in a window of its own, in which scripts run before those of any page."""
    context = browser.new_context(viewport=TEN, color_scheme="dark", **options)
    try:
        page = context.new_page()
        page.set_default_timeout(WAIT * 1000)
        for script in scripts:
            page.add_init_script(script)
        yield page
    finally:
        context.close()


def until(page: Any, question: str, *arguments: Any) -> Any:
    """Return what a function of the page returns once that is true; the page's policy forbids playwright to wait."""
    deadline = time.monotonic() + WAIT
    while not (found := page.evaluate(question, *arguments)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not become so in {WAIT:g} s: {question}")
        page.wait_for_timeout(20)
    return found


def browsers_of(pid: int = 0) -> list[psutil.Process]:
    """Return the processes of browsers that a process has started, or this one."""
    every = psutil.Process(pid or os.getpid()).children(recursive=True)
    return [one for one in every if one.name().startswith("chrom")]


def used(*processes: psutil.Process | int) -> float:
    """Return how many seconds of processor time processes, or those of these numbers, have had; ended ones none."""
    total = 0.0
    for one in processes:
        try:
            times = (psutil.Process(one) if isinstance(one, int) else one).cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
