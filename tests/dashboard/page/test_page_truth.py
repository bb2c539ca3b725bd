"""What is drawn is true at every zoom and on every screen: one value among a million is seen, and one that is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynchub.dashboard.web.wire import decode
from tests.dashboard.page.browsers import Looked, looking
from tests.dashboard.page.sample_runs import SPIKE
from tests.dashboard.runs import Writer, columns_of
from tests.dashboard.web.servers import Served, serving

pytestmark = pytest.mark.slow

SECONDS = 60.0
"""For reading them."""
STEPS = 1_000_000
AT = 123_456
BAD = (700_000, 700_050)
KEYS = ("spike", "hole", "odd")
CHART = ".chart[aria-label='Chart of hole']"
ZOOMS = [
    None,
    *(
        (AT - size // 3, AT + size - size // 3)
        for size in (600_000, 300_000, 60_000, 20_000, 6000, 2000, 600, 200, 60, 20, 6)
    ),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    top = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(7)
    values = np.stack([1 + rng.normal(0, 0.1, STEPS), 1 + rng.normal(0, 0.1, STEPS), np.full(STEPS, np.nan)], 1)
    values[AT, 0] = SPIKE
    values[slice(*BAD), 1] = np.nan
    values[BAD[1] + 100 : BAD[1] + 103, 1] = np.inf, -np.inf, np.inf
    values[500_000, 2] = 3.0  # a single value between others that are none
    writer = Writer(top / "long", bytes([5] * 16), "long")
    for start in range(0, STEPS, 50_000):
        part = slice(start, start + 50_000)
        writer.batch(columns_of(KEYS, np.arange(STEPS)[part], values[part], writer.seq))
    writer.close()
    with serving([top], tmp_path_factory.mktemp("cache")) as server:
        deadline = time.monotonic() + SECONDS
        while _read(server) < writer.seq:  # a page of what is read in part is true, too, but of that
            assert time.monotonic() < deadline
        yield server


def _read(server: Served) -> int:
    """Return up to which event curves are read."""
    chart, *_ = decode(server.curves(runs=[server.runs["long"]], keys=["spike"], buckets=64))["charts"]
    return int(chart["series"][0]["seq"])


def _show(looked: Looked, zoom: tuple[int, int] | None, fit: bool) -> tuple[float, float]:
    """Show a part of the axis; return the part that is shown."""
    said = [*([f"range={zoom[0]}..{zoom[1]}&follow=0"] if zoom else []), *(["fit=all"] if fit else [])]
    looked.page.evaluate("(said) => { location.hash = said; }", "&".join(said))
    looked.settled()
    return zoom or (0, STEPS - 1)


def _colour(served: Served, scheme: str) -> str:
    return str(served.get("/api/runs")["rows"][0]["colour"][scheme])


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_a_single_spike_is_seen_at_every_zoom(browser: Any, served: Served, ratio: int) -> None:
    colour = _colour(served, "dark")
    with looking(browser, served, "keys=", ratio=ratio, height=900) as looked:
        looked.drawn("spike")
        for number, zoom in enumerate(ZOOMS):
            fit = number % 2 == 0
            low, high = _show(looked, zoom, fit)
            chart = looked.drawings["spike"]
            drawing, (series,) = chart["drawing"], chart["series"]
            plot = looked.plot("spike")
            where = series["columns"]["x"][np.nanargmax(series["columns"]["high"])]
            wide = 1 if series["single"] else series["width"]
            x = plot.x(where + (wide - 1) / 2, low, high)
            reach = 2 + wide / (high - low) * plot.width
            carets = [caret for caret in drawing["carets"] if caret["value"] == SPIKE]
            if carets:
                assert not fit
                assert plot.has_colour(
                    colour, plot.x(carets[0]["x"], low, high), plot.top + 3 * ratio, 4 * ratio, reach
                )
            else:
                y = plot.y(SPIKE, drawing["low"], drawing["high"])
                assert plot.has_colour(colour, x, y, 2, reach), (zoom, ratio, x, y)
        assert looked.faults == []


@pytest.mark.parametrize("ratio", [1, 2])
def test_values_that_are_not_finite_are_marked_and_counted_at_every_zoom(
    browser: Any, served: Served, ratio: int
) -> None:
    middle = sum(BAD) // 2
    bad = "#ff8a80"
    with looking(browser, served, ratio=ratio, height=1500) as looked:
        looked.drawn()
        for size in (None, 300_000, 20_000, 2000, 400, 100, 30):
            zoom = None if size is None else (middle - size // 2, middle + size // 2)
            low, high = _show(looked, zoom, fit=False)
            drawing = looked.drawings["hole"]["drawing"]
            marked = [gap for gap in drawing["gaps"] if "NaN" in gap["text"]]
            assert marked
            if size is None or size >= 100:
                assert sum(gap["count"] for gap in drawing["gaps"]) == (53 if size is None or size >= 400 else 50)
            plot = looked.plot("hole")
            for gap in marked:
                x = plot.x(max(gap["x0"], low), low, high)
                assert plot.has_colour(bad, x, plot.top + 1, 2 * ratio, 3 * ratio)
            assert plot.pixels[: int(plot.top)].max() > 0  # its count stands above the plot
            assert "50 NaN" in looked.text(f"{CHART} .truth") or size == 30


def test_a_single_value_between_others_that_are_none_is_a_dot(browser: Any, served: Served) -> None:
    colour = _colour(served, "dark")
    with looking(browser, served, height=1500) as looked:
        looked.drawn("odd")
        for zoom in (None, (490_000, 510_000), (499_990, 500_010)):
            low, high = _show(looked, zoom, fit=False)
            drawing = looked.drawings["odd"]["drawing"]
            plot = looked.plot("odd")
            x, y = plot.x(500_000, low, high), plot.y(3.0, drawing["low"], drawing["high"])
            assert plot.has_colour(colour, x, y, 2, 4)


def test_what_the_pointer_reads_is_the_value(browser: Any, served: Served, tmp_path: Path) -> None:
    with looking(browser, served, height=900) as looked:
        looked.drawn("spike")
        _show(looked, (AT - 10, AT + 10), fit=True)
        box = looked.page.locator('.chart[aria-label="Chart of spike"] .u-over').bounding_box()
        looked.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        tip = looked.page.locator(".tooltip")
        tip.wait_for()
        assert f"step {AT:,}" in tip.inner_text()
        assert "13.00" in tip.inner_text()
        for x in (1, box["width"] - 1):  # at both ends it stays in the window
            looked.page.mouse.move(box["x"] + x, box["y"] + box["height"] - 2)
            looked.frames()
            place = tip.bounding_box()
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= 1440
            assert place["y"] + place["height"] <= 900
