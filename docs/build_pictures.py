"""Make the pictures of the documentation, from real runs of the demo: `python docs/build_pictures.py`.

Three runs of the demo are made in a temporary folder, two whole and one that goes on while it is looked at; the page is
served and shown in a browser, the terminal view is drawn, and both are kept as PNG. It needs Debian's ``chromium`` and
what ``asynchub[test]`` brings, and takes about a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from asynchub.dashboard.terminal.watching import Watch

IMAGES = Path(__file__).parent / "how-to" / "images"
CHROMIUM = "/usr/bin/chromium"
DEMO = [sys.executable, "-m", "asynchub", "demo", "--quiet"]
WIDE, NARROW = (1360, 1010), (390, 844)


def main() -> None:
    """Make all of them."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runs = Path(folder) / "runs"
        for name, options in {
            "digits-a": ["--seed", "1"],
            "digits-b": ["--seed", "2", "--patience", "4"],
        }.items():
            subprocess.run([*DEMO, "--run", str(runs / name), *options], check=True, cwd=folder)
        live = [*DEMO, "--run", str(runs / "digits-c"), "--epochs", "150", "--patience", "60"]
        stack.enter_context(_process(live, folder))
        look, steer = stack.enter_context(_served(runs, folder))
        time.sleep(5)  # for some epochs of the run that goes on
        drawing = asyncio.run(_drawn(runs / "digits-a", Path(folder) / "cache"))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        stack.callback(browser.close)
        _page(browser, steer, "dark", WIDE, IMAGES / "look.png")
        _page(browser, look, "light", WIDE, IMAGES / "look-light.png")
        _page(browser, look, "dark", NARROW, IMAGES / "look-narrow.png")
        _terminal(browser, drawing, IMAGES / "look-terminal.png")


@contextlib.contextmanager
def _process(command: list[str], folder: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, cwd=folder, text=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def _served(runs: Path, folder: str) -> Iterator[tuple[str, str]]:
    """Serve runs; give the addresses to look and to steer."""
    command = [sys.executable, "-u", "-m", "asynchub", "serve", runs.name, "--cache", f"{folder}/cache"]
    command += ["--allow", "stop,lr,checkpoint,pause"]
    with _process(command, folder, stdout=subprocess.PIPE) as server:
        found: dict[str, str] = {}
        while len(found) < 2:
            line = server.stdout.readline()
            if not line:
                raise SystemExit("asynchub serve has ended")
            if match := re.search(r"to (look|steer)\s+(\S+)", line):
                found[match[1]] = match[2]
        yield found["look"], found["steer"]


def _page(browser: Browser, address: str, scheme: str, size: tuple[int, int], path: Path) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.goto(address)
    page.get_by_text("digits-c").first.click()
    page.wait_for_selector(".chart canvas", timeout=20_000)
    page.wait_for_timeout(3_000)
    page.screenshot(path=path)
    page.close()


def _terminal(browser: Browser, drawing: str, path: Path) -> None:
    drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.S)  # it names a host
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)[0]
    page = browser.new_page(
        viewport={"width": int(float(width)), "height": int(float(height))}, device_scale_factor=0.8
    )
    page.set_content(f"<body style='margin:0'>{drawing}</body>")
    page.screenshot(path=path)
    page.close()


async def _drawn(run: Path, cache: Path) -> str:
    """Return the terminal view as SVG."""
    app = Watch([run], cache=cache)
    async with app.run_test(size=(160, 46)) as pilot:
        while not app.shown.charts or app.shown.reading:
            await pilot.pause(0.1)
        await pilot.pause(1.0)
        return app.export_screenshot(title="asynchub watch")


if __name__ == "__main__":
    main()
