"""A page opens offline in a browser: it asks nobody for anything, runs no text, and shows a lone value and NaN."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from asynchub.dashboard.picture import page as page_module
from asynchub.dashboard.picture.export import export
from tests.dashboard.picture.pictures import HOSTILE, axis_of, bars_of, panels_of, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]


@pytest.fixture(name="browser", scope="module")
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def _opened(browser: Browser, path: Path, **how: Any) -> tuple[Any, list[str]]:
    """Return a page that was opened from a file, and what it did that it should not."""
    tab = browser.new_page(**how)
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    tab.on("request", lambda request: None if request.url == path.as_uri() else wrong.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_load_state("networkidle")
    return tab, [one for one in wrong if not one.startswith(("data:", "blob:"))]


@pytest.fixture(name="still")
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the dashboard's own page not be built."""
    monkeypatch.setattr(page_module, "_bundle", lambda: None)


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("built", [True, False])
def test_a_page_with_hostile_names_asks_nobody_and_runs_nothing(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: bool, built: bool
) -> None:
    if not built:
        monkeypatch.setattr(page_module, "_bundle", lambda: None)
    scalars = {f"{text}/loss": np.linspace(1, 0, 30) for text in HOSTILE}
    run = write_run(tmp_path / "run", scalars, name=HOSTILE[6])
    path = export([run], tmp_path / "run.html", keys=["**"], cache=tmp_path / "cache")
    tab, wrong = _opened(browser, path, java_script_enabled=scripts, viewport={"width": 1200, "height": 900})
    assert not wrong
    assert "alert(1)" in tab.inner_text("body") or not scripts
    assert not tab.query_selector_all("form, iframe, img[src^='http']")
    tab.close()


@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.usefixtures("still")
def test_a_lone_value_is_seen_in_the_pixels_of_a_browser(browser: Browser, tmp_path: Path, ratio: int) -> None:
    loss = 0.4 + np.random.default_rng(0).normal(0, 0.05, 200_000)
    loss[123_456] = 13.0
    run = write_run(tmp_path / "run", {"train/loss": loss})
    path = export([run], tmp_path / "run.html", fit_all=True, width=1000, cache=tmp_path / "cache")
    text = path.read_text()
    (panel,) = panels_of(text[text.index("<svg") : text.index("</svg>") + 6])
    spike = min(bars_of(panel), key=lambda bar: bar.top)
    tab, wrong = _opened(browser, path, viewport={"width": 1000, "height": 600}, device_scale_factor=ratio)
    assert not wrong
    with Image.open(BytesIO(tab.screenshot())) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    tab.close()
    column, beside = (pixels[:, int(ratio * (spike.left + shift)) + ratio // 2] for shift in (0, 6))
    differs = np.abs(column - beside).sum(axis=1) > 40
    top, middle = (round(ratio * axis_of(panel).y(value)) for value in (13.0, 6.0))
    assert differs[top + 2 * ratio : middle].all()
    assert not differs[top - 20 * ratio : top - 2 * ratio].any()


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.usefixtures("still")
def test_a_page_fits_the_window(browser: Browser, tmp_path: Path, width: int) -> None:
    run = write_run(tmp_path / "run", {f"{'long/' * 40}loss": np.linspace(1, 0, 300)})
    path = export([run], tmp_path / "run.html", cache=tmp_path / "cache")
    tab, wrong = _opened(browser, path, viewport={"width": width, "height": 800})
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert not wrong
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.locator("table tr").count() == 151
    tab.close()


def _footers(tab: Any, charts: int) -> list[str]:
    """Return what stands below the charts, once it is there."""
    tab.locator(".truth", has_text="values counted").nth(charts - 1).wait_for()
    return [one.inner_text() for one in tab.query_selector_all(".truth")]


def test_a_page_opens_with_the_axes_and_the_charts_that_were_asked_for(browser: Browser, tmp_path: Path) -> None:
    values = np.linspace(1, 2, 5000)
    run = write_run(tmp_path / "run", {"train/loss": values, "train/lr": values, "extra/a": values, "extra/b": -values})
    how: dict[str, Any] = {"axis": "time", "log": True, "window": 100, "cache": tmp_path / "cache"}
    path = export([run], tmp_path / "run.html", keys=["extra/*"], **how)
    tab, wrong = _opened(browser, path)
    footers = _footers(tab, 2)
    assert not wrong
    assert [one.inner_text() for one in tab.query_selector_all(".chart h3")] == ["extra/a", "extra/b"]
    assert all("mean over 100 steps" in footer for footer in footers)
    assert "at 0 or below" not in footers[1]  # it has no logarithm, and is shown as it is
    assert tab.locator(".chart canvas").count() == 2
    pressed = "[...document.querySelectorAll('#tools [aria-pressed=true]')].map(one => one.textContent)"
    assert {"Time", "Log"} <= set(tab.evaluate(pressed))
    tab.close()


def test_what_is_seen_of_a_page_follows_the_scale_that_is_chosen(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"train/loss": np.linspace(-1, 9, 5000)})
    path = export([run], tmp_path / "run.html", cache=tmp_path / "cache")
    tab, wrong = _opened(browser, path)
    assert "at 0 or below" not in _footers(tab, 1)[0]
    tab.get_by_role("button", name="Log", exact=True).click()
    tab.locator(".truth", has_text="at 0 or below").wait_for()
    tab.get_by_role("button", name="Linear", exact=True).click()
    tab.locator(".truth", has_text="at 0 or below").wait_for(state="detached")
    assert not wrong
    tab.close()


def test_a_browser_that_cannot_unpack_curves_says_so(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"train/loss": np.linspace(1, 0, 300)})
    path = export([run], tmp_path / "run.html", cache=tmp_path / "cache")
    tab = browser.new_page()
    tab.add_init_script("delete globalThis.DecompressionStream")
    tab.goto(path.as_uri())
    tab.get_by_text("this browser has no DecompressionStream").wait_for(timeout=20_000)
    tab.close()


def test_a_page_says_when_its_charts_are_drawn_however_many_frames_that_takes(browser: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    run = write_run(tmp_path / "run", {f"noise/{number}": rng.normal(0, 1, 10_000) for number in range(16)})
    path = export([run], tmp_path / "run.html", keys=["**"], cache=tmp_path / "cache")
    tab, wrong = _opened(browser, path, viewport={"width": 1200, "height": 3000})
    slower = tab.context.new_cdp_session(tab)
    slower.send("Emulation.setCPUThrottlingRate", {"rate": 10})
    tab.reload()
    tab.locator("#charts .chart canvas").nth(7).wait_for()
    tab.locator("#charts[aria-busy=false]").wait_for(timeout=10_000)
    assert not wrong
    tab.close()
