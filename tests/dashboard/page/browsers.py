"""The page in a real browser: what is seen, drawn, asked for and said there."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from asynchub.dashboard.web.page_files import DIST, page_files
from asynchub.dashboard.web.wire import decode
from tests.dashboard.web.servers import Served

__all__ = ("CHROMIUM", "Looked", "Plot", "built", "looking", "need_browser")

CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if os.path.exists(path)), "")
WAIT = 20.0
CANVAS = """(label) => {
    const labelled = (one) => one.getAttribute('aria-label') === label;
    const chart = [...document.querySelectorAll('.chart')].find(labelled);
    const canvas = chart.querySelector('canvas'), over = chart.querySelector('.u-over');
    const [outer, inner] = [canvas.getBoundingClientRect(), over.getBoundingClientRect()];
    const ratio = canvas.width / outer.width;
    const copy = new OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext('2d', { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    let text = '';
    for (let at = 0; at < data.length; at += 32768) text += String.fromCharCode(...data.subarray(at, at + 32768));
    const place = [inner.left - outer.left, inner.top - outer.top, inner.width, inner.height];
    return {
        data: btoa(text),
        size: [canvas.height, canvas.width],
        ground: getComputedStyle(chart).backgroundColor,
        box: place.map((size) => size * ratio),
    };
}"""
SOURCES = DIST.parent / "page"


def need_browser() -> None:
    """Skip the tests of a module where there is no browser, no driver of one, or no page."""
    pytest.importorskip("playwright", reason="the page is looked at through playwright")
    if not CHROMIUM:
        pytest.skip("there is no chromium here to look at the page with")
    if problem := built():
        pytest.skip(problem)


def built() -> str:
    """Have the page of these sources there, if it can be; return what is wrong, or ""."""
    script, node = DIST / "app.js", shutil.which("node")
    sources = [*(SOURCES / "src").iterdir(), SOURCES / "build.mjs"]
    is_old = not script.exists() or max(path.stat().st_mtime for path in sources) > script.stat().st_mtime
    if is_old and node and (SOURCES / "node_modules").is_dir():
        subprocess.run([node, "build.mjs"], cwd=SOURCES, check=True, timeout=60)
    return page_files()[1]


class Plot(NamedTuple):
    """The canvas of a chart.

    Attributes:
        pixels: of shape ``(height, width, 4)``, 0 to 255.
        left: of the plot, in pixels of the device; as the others.
        top: of it.
        width: of it.
        height: of it.
        ground: the colour of the page's cards, red, green and blue.
    """

    pixels: np.ndarray
    left: float
    top: float
    width: float
    height: float
    ground: np.ndarray

    def x(self, value: float, low: float, high: float) -> float:
        """Return where a place of the axis is."""
        return self.left + (value - low) / (high - low) * self.width

    def y(self, value: float, low: float, high: float) -> float:
        """Return where a value is, on a linear axis."""
        return self.top + (1 - (value - low) / (high - low)) * self.height

    def has_colour(self, colour: str, x: float, y: float, reach: float = 2, wide: float = 3) -> bool:
        """Tell whether there is some of a colour within a few pixels of a place."""
        rows = slice(max(0, round(y - reach)), round(y + reach) + 1)
        columns = slice(max(0, round(x - wide)), round(x + wide) + 1)
        part = self.pixels[rows, columns, :3].reshape(-1, 3).astype(float) - self.ground
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], float) - self.ground
        along = part @ wanted / (wanted @ wanted)
        off = np.linalg.norm(part - np.outer(along, wanted), axis=1)
        return bool(((along > 0.12) & (off < 40 + 60 * along)).any())


class Looked:
    """The page, as somebody looks at it.

    Attributes:
        page: playwright's.
        faults: errors and warnings on its console.
        asked: addresses that it asked.
        drawings: the newest chart of each key, as it came.
        messages: of curves, that have come.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.drawings: dict[str, dict[str, Any]] = {}
        self.messages = 0
        page.set_default_timeout(WAIT * 1000)
        page.on("console", lambda said: said.type in ("error", "warning") and self.faults.append(said.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", self._socket)

    def _socket(self, socket: Any) -> None:
        self.asked.append(socket.url)
        socket.on("framereceived", self._heard)

    def _heard(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self.messages += 1
            for chart in decode(frame)["charts"]:
                self.drawings[chart["key"]] = chart

    def until(self, true: Callable[[], Any], seconds: float = WAIT) -> Any:
        """Return what a condition returns once that is true."""
        deadline = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < deadline, f"it did not become so; said: {self.faults}"
            self.page.wait_for_timeout(20)
        return found

    def text(self, selector: str) -> str:
        """Return the text of an element, as people see it."""
        return str(self.page.locator(selector).first.inner_text())

    def drawn(self, *keys: str) -> None:
        """Wait until the charts of some keys, or all that are near, are drawn and two frames have passed."""
        charts = [f'.chart[aria-label="Chart of {key}"]' for key in keys] or ["#charts .chart"]
        for chart in charts:
            self.until(lambda chart=chart: self.page.locator(f"{chart} canvas").count())
            self.until(lambda chart=chart: self.text(f"{chart} .truth") != "")
        self.frames()

    def frames(self) -> None:
        """Wait until what is to be drawn is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def settled(self) -> None:
        """Wait until the charts are those that were asked for last."""
        self.frames()
        self.until(lambda: self.page.locator("#charts").get_attribute("aria-busy") == "false")
        self.frames()

    def plot(self, key: str) -> Plot:
        """Return the canvas of a chart."""
        found = self.page.evaluate(
            CANVAS,
            f"Chart of {key}",
        )
        pixels = np.frombuffer(base64.b64decode(found["data"]), np.uint8).reshape(*found["size"], 4).copy()
        ground = np.array([float(part) for part in found["ground"][4:-1].split(",")[:3]])
        seen = pixels[..., 3:] / 255.0
        pixels[..., :3] = np.rint(pixels[..., :3] * seen + ground * (1 - seen)).astype(np.uint8)
        return Plot(pixels, *found["box"], ground)

    def shot(self, path: Path, **options: Any) -> None:
        """Keep a picture of it, as a test artefact."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path), **options)


@contextmanager
def looking(
    browser: Any,
    served: Served,
    state: str = "",
    *,
    role: str = "view",
    width: int = 1440,
    height: int = 1100,
    ratio: float = 1,
    scheme: str = "dark",
    **options: Any,
) -> Iterator[Looked]:
    """Open the page in a window of its own."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=ratio, color_scheme=scheme, **options
    )
    try:
        looked = Looked(context.new_page())
        token = getattr(served.secrets, role)
        looked.page.goto(f"{served.address}/#t={token}{'&' if state else ''}{state}")
        yield looked
    finally:
        context.close()
