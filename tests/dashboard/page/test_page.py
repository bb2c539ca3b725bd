"""The page, as it opens: what the server says is what is seen, and what the reader has chosen stays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asynchub.dashboard.web.page_files import DIST
from tests.dashboard.page.browsers import built, looking
from tests.dashboard.page.sample_runs import sample_run
from tests.dashboard.runs import Point, Writer
from tests.dashboard.web.servers import Served, serving

STEPS = 4000
EVIL = '<img src=x onerror="document.title=1">"><script>document.title=2</script>\u202eabc'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    top = tmp_path_factory.mktemp("runs")
    for number in range(3):
        sample_run(top / f"run-{number}", number, STEPS)
    odd = Writer(top / "odd", bytes([9] * 16), EVIL)
    odd.points([Point(EVIL, step, step / 7) for step in range(40)])
    odd.close()
    with serving([top], tmp_path_factory.mktemp("cache")) as server:
        yield server


def test_the_first_screen_says_what_the_server_says(browser: Any, served: Served) -> None:
    run = served.runs["run-1"]
    screen = served.get("/api/screen", run=run)
    with looking(browser, served, f"run={run}") as looked:
        looked.drawn()
        said = looked.text("#answers")
        assert screen["status"]["word"] in said
        for line in (*screen["stops"], *screen["speed"]):
            assert line["text"] in said
        for line in screen["alerts"]:
            assert line["text"] in looked.text("#alerts")
        heads = looked.page.locator("#charts .chart h3").all_inner_texts()
        assert heads == [chart["key"] for chart in screen["charts"]]
        assert set(looked.drawings) == set(heads)
        for key in heads:
            shown = looked.page.locator(f'.chart[aria-label="Chart of {key}"]')
            truth, plot = shown.locator(".truth"), shown.locator(".plot")
            looked.until(lambda key=key, truth=truth: truth.inner_text() == looked.drawings[key]["drawing"]["footer"])
            assert plot.get_attribute("aria-label") == looked.drawings[key]["drawing"]["summary"]
        assert looked.faults == []
        assert {re.sub(r"^\w+://([^/]+)/.*", r"\1", url) for url in looked.asked} == {f"127.0.0.1:{served.port}"}


def test_the_token_leaves_the_address_and_what_is_shown_comes_back_after_a_reload(browser: Any, served: Served) -> None:
    run = served.runs["run-2"]
    with looking(browser, served, f"run={run}&range=500..1500&follow=0&y=log&smooth=mean:100") as looked:
        looked.drawn()
        for _ in range(2):
            assert served.secrets.view not in looked.page.url
            assert "range=500..1500" in looked.page.url
            assert looked.page.locator("[data-do=log][aria-pressed=true]").inner_text() == "Log"
            assert looked.page.locator("#smoothing").input_value() == "mean"
            assert looked.page.locator(".run.main .name bdi").inner_text() == "run-2"
            assert looked.drawings["train/loss"]["drawing"]["log"] is True
            series = {one["run"]: one for one in looked.drawings["train/loss"]["series"]}
            assert series[run]["start"] == 500
            assert series[run]["stop"] == 1500
            looked.page.reload()
            looked.drawings.clear()
            looked.drawn()
        assert looked.faults == []


def test_without_its_token_the_page_says_what_is_missing(browser: Any, served: Served) -> None:
    page = browser.new_page()
    try:
        page.goto(served.address)
        page.locator("dialog[open]").wait_for()
        assert "#t=" in page.locator("dialog").inner_text()
        page.fill("#token", f"{served.address}/#t={served.secrets.view}")
        page.keyboard.press("Enter")
        page.locator("#runs-list .run").first.wait_for()
    finally:
        page.context.close()


def test_odd_names_and_keys_are_text(browser: Any, served: Served) -> None:
    run = served.runs["odd"]
    with looking(browser, served, f"run={run}") as looked:
        looked.drawn()
        assert looked.page.evaluate("document.querySelectorAll('#asynchub img, #asynchub script').length") == 0
        assert "asynchub" in looked.page.title()
        assert "<img src=x" in looked.text("#charts .chart h3")
        assert looked.faults == []


def test_a_filter_of_scalars_brings_their_charts(browser: Any, served: Served) -> None:
    with looking(browser, served, f"run={served.runs['run-0']}", height=2200) as looked:
        looked.drawn()
        looked.page.fill("#filter", "name~run-0")
        looked.until(lambda: looked.page.locator("#runs-list .run").count() == 1)
        looked.page.fill("#filter", "name~")
        looked.until(lambda: looked.page.locator("#runs-problem").is_visible() or looked.text("#trouble"))


def test_the_bundle_is_small_asks_nobody_and_brings_the_licence_of_what_is_in_it() -> None:
    if problem := built():
        pytest.skip(problem)
    files = {path.name: path.read_text(encoding="utf-8") for path in DIST.iterdir() if path.name != ".sources"}
    sizes = {name: len(text.encode()) for name, text in files.items()}
    later = sum(sizes.pop(name) for name in ("more.js", "more.css"))  # fetched when what is in them is first opened
    assert sum(sizes.values()) <= 150 * 1024
    assert later <= 30 * 1024
    assert "Permission is hereby granted, free of charge" in files["uPlot.LICENSE.txt"]
    addresses = {found for text in files.values() for found in re.findall(r"(?:https?|wss?)://[^\s\"'`)]+", text)}
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG, which nobody asks
    assert "</script" not in files["app.js"] + files["more.js"]
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|style=", files["index.html"])


def test_the_lock_file_names_no_host_and_pins_what_is_bundled() -> None:
    page = Path(DIST).parent / "page"
    lock = json.loads((page / "package-lock.json").read_text())
    assert lock["packages"]["node_modules/uplot"]["version"] == "1.6.32"
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
    for name in ("package-lock.json", "package.json", ".npmrc"):
        assert "http" not in (page / name).read_text()
