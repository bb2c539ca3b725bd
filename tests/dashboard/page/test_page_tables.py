"""Runs beside one another on the page: as a table with sparklines, by what varies, and in groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asynchub.dashboard.view import RunView
from asynchub.dashboard.web.kept_page import kept_page
from asynchub.dashboard.web.page_files import DIST
from asynchub.events import InfoUpdated
from tests.dashboard.page.browsers import Looked, looking
from tests.dashboard.page.training import training
from tests.dashboard.runs import Point, Writer
from tests.dashboard.web.compared_runs import compared_run, compared_runs
from tests.dashboard.web.servers import Served, serving

AXE = DIST.parent / "page" / "node_modules" / "axe-core" / "axe.min.js"
RUNS = 9
PHONE = {"width": 390, "height": 844, "ratio": 2, "has_touch": True, "is_mobile": True}
PRESSED = "[...document.querySelectorAll('button, input, select, summary')].filter((one) => one.checkVisibility())"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of nine runs of three learning rates."""
    top = tmp_path_factory.mktemp("runs")
    compared_runs(top)
    with serving([top], tmp_path_factory.mktemp("cache")) as server:
        _whole(server, "/api/differences")
        yield server


def _whole(served: Served, path: str, **query: Any) -> dict[str, Any]:
    """Return what is told once there is no more."""
    for _ in range(200):
        if not (told := served.get(path, **query))["more"]:
            return dict(told)
    raise AssertionError(f"{path} does not come to an end")


def _table(looked: Looked, rows: int = RUNS) -> list[dict[str, str]]:
    """Return the rows of the table once all are drawn."""
    looked.until(lambda: looked.page.locator("#beside tbody .spark").count() == rows)
    found: list[dict[str, str]] = looked.page.locator("#beside tbody tr").evaluate_all(
        """(rows) => rows.map((row) => ({
            id: row.dataset.id,
            name: row.querySelector('th').innerText.trim(),
            ...Object.fromEntries(
                [...row.querySelectorAll('[data-name]')].map((one) => [one.dataset.name, one.innerText])
            ),
        }))"""
    )
    return found


def _lasts(looked: Looked) -> list[float]:
    return [float(row["last"]) for row in _table(looked)]


def test_the_table_has_what_the_server_tells_in_its_order(browser: Any, served: Served) -> None:
    told = _whole(served, "/api/table", key="train/loss", by="best", mode="min")
    with looking(browser, served, "view=table&by=best&better=min") as looked:
        rows = _table(looked)
        assert [row["id"] for row in rows] == [row["id"] for row in told["rows"]]
        for row, wanted in zip(rows, told["rows"], strict=True):
            assert (row["name"], row["last"]) == (wanted["name"], wanted["last"])
            assert (row["best"], row["slope"]) == (wanted["best"], wanted["slope"])
        assert looked.page.locator("th[aria-sort=ascending]").inner_text().startswith("Best")
        assert looked.page.locator("#beside .off").count() == 1  # the spike
        assert "40 not finite" in looked.text(f"tr[data-id='{served.runs['lr0.1-s1']}']")
        assert looked.page.locator("#charts").is_hidden()
        assert looked.messages == 0  # nothing is asked for charts that nobody sees
        assert looked.faults == []


@pytest.mark.slow
def test_a_click_sorts_and_selects_and_the_address_keeps_it(browser: Any, served: Served) -> None:
    with looking(browser, served) as looked:
        page = looked.page
        looked.drawn()
        assert not any(url.endswith(("more.js", "more.css")) for url in looked.asked)
        page.click("[data-do=view][data-arg=table]")
        _table(looked)
        assert sum(url.endswith("more.js") for url in looked.asked) == 1
        page.select_option("#table-key", "val/acc")
        page.click("[data-do=better][data-arg=max]")
        page.click("[data-do=order-by][data-arg=last]")
        looked.until(lambda: page.locator("th[aria-sort=descending]").inner_text().startswith("Last"))
        looked.until(lambda: (lasts := _lasts(looked)) == sorted(lasts, reverse=True) and lasts[0] > 0.7)
        lasts = _lasts(looked)
        assert lasts == sorted(lasts, reverse=True)
        third = _table(looked)[2]["id"]
        page.click(f"#beside tr[data-id='{third}'] [data-do=run]")
        looked.until(lambda: page.locator("#beside tr.main").get_attribute("data-id") == third)
        looked.until(lambda: page.locator(".run.main").get_attribute("data-id") == third)
        page.reload()
        rows = _table(looked)
        assert [float(row["last"]) for row in rows] == lasts
        assert page.locator("#table-key").input_value() == "val/acc"
        assert page.locator("#beside tr.main").get_attribute("data-id") == third
        page.keyboard.press("Escape")
        looked.drawn()
        assert "view=" not in page.url
        assert looked.faults == []


@pytest.mark.slow
def test_only_what_differs_between_the_chosen_runs_is_shown(browser: Any, served: Served) -> None:
    pins = "&".join(f"pin={served.runs[name]}" for name in ("lr0.1-s0", "lr0.1-s2"))
    with looking(browser, served, "view=varies") as looked:
        looked.until(lambda: looked.page.locator("#beside tbody tr").count() == RUNS)
        heads = looked.page.locator("#beside thead th").all_inner_texts()
        assert heads == ["batch", "lr", "seed"]
        assert "9 runs differ in 3 of 4 infos" in looked.text("#beside")
        looked.page.evaluate("(said) => { location.hash = said }", f"view=varies&run={served.runs['lr0.1-s0']}&{pins}")
        looked.until(lambda: looked.page.locator("#beside tbody tr").count() == 1)
        assert [text.strip() for text in looked.page.locator("#beside thead th").all_inner_texts()] == [
            "lr0.1-s0",
            "lr0.1-s2",
        ]
        assert looked.page.locator("#beside tbody tr").inner_text().split() == ["seed", "0", "2"]
        assert looked.faults == []


def test_groups_are_drawn_as_the_server_tells_them(browser: Any, served: Served) -> None:
    with looking(browser, served, "x=time&group=lr") as looked:
        looked.drawn()
        looked.until(lambda: len(looked.drawings["train/loss"]["series"]) == 3)
        looked.settled()
        series = looked.drawings["train/loss"]["series"]
        names = [f"{one['group']['label']} (3 runs)" for one in series]
        assert looked.page.locator("#groups li").all_inner_texts() == names
        assert "means of runs by lr" in looked.text('.chart[aria-label="Chart of train/loss"] .note')
        assert looked.drawings["train/loss"]["drawing"]["footer"] in looked.text(".truth")
        assert "3 groups by lr" in looked.text(".truth")
        assert looked.page.locator("#tools [data-do=axis]").count() == 1  # there are no groups along time
        drawing, plot = looked.drawings["val/acc"]["drawing"], looked.plot("val/acc")
        for one in looked.drawings["val/acc"]["series"]:
            middle = len(one["columns"]["x"]) // 2
            x = plot.x(float(one["columns"]["x"][middle]), 0, 2799)
            y = plot.y(float(one["columns"]["mean"][middle]), drawing["low"], drawing["high"])
            assert plot.has_colour(one["group"]["colour"]["dark"], x, y, reach=4, wide=10)
        swatches = looked.page.locator("#runs-list line").evaluate_all(
            "(all) => all.map((one) => one.getAttribute('stroke'))"
        )
        assert set(swatches) == {one["group"]["colour"]["dark"] for one in series}
        box = looked.page.locator(".u-over").first.bounding_box()
        looked.page.mouse.move(box["x"] + 100, box["y"] + 60)
        looked.page.locator(".tooltip").wait_for()
        assert "lr = " in looked.text(".tooltip")
        looked.page.mouse.click(box["x"] + 100, box["y"] + 60)
        assert "run=" not in looked.page.url
        looked.page.select_option("#group", "")
        looked.until(lambda: len(looked.drawings["train/loss"]["series"]) == RUNS)
        assert looked.page.locator("#groups li").count() == 0
        assert looked.faults == []


# --- for everybody


@pytest.mark.slow
def test_all_of_it_is_done_by_keyboard(browser: Any, served: Served) -> None:
    with looking(browser, served) as looked:
        page = looked.page
        looked.drawn()
        page.keyboard.press("b")
        looked.until(lambda: "group=batch" in page.url)
        page.keyboard.press("b")
        looked.until(lambda: "group=lr" in page.url)
        page.keyboard.press("x")
        assert "x=" not in page.url
        page.keyboard.press("t")
        _table(looked)
        page.keyboard.press("j")
        page.keyboard.press("j")
        second = page.locator("#beside tbody tr").nth(1).get_attribute("data-id")
        assert page.evaluate("document.activeElement.dataset.arg") == second
        page.keyboard.press("Enter")
        looked.until(lambda: f"run={second}" in page.url)
        assert page.evaluate("document.activeElement.dataset.arg") == second  # news does not take the focus away
        page.keyboard.press("k")
        assert page.evaluate("document.activeElement.closest('tr').rowIndex") == 1
        page.keyboard.press("v")
        page.locator("#beside h2").wait_for()
        assert looked.text("#beside h2") == "What varies"
        page.keyboard.press("Escape")
        looked.drawn()
        page.keyboard.press("t")
        wanted = set(page.evaluate("[...document.querySelectorAll('#beside [data-do]')].map((one) => one.dataset.do)"))
        _table(looked)
        wanted |= set(page.evaluate("[...document.querySelectorAll('#beside [data-do]')].map((one) => one.dataset.do)"))
        assert wanted == {"run", "pin", "order-by", "better"}
        reached = set()
        for _ in range(90):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.closest('#beside') && document.activeElement.dataset.do"))
            reached.add(page.evaluate("document.activeElement.id"))
        assert {*wanted, "table-key"} <= reached
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("?")
        page.locator("dialog[open]").wait_for()
        for words in ("the runs as a table", "group the runs"):
            assert words in looked.text("dialog[open]")
        assert looked.faults == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["view=table&better=min", "view=varies", "group=lr"])
def test_axe_finds_no_serious_fault(browser: Any, served: Served, scheme: str, state: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not here: npm ci --ignore-scripts in asynchub/dashboard/web/page")
    with looking(browser, served, state, scheme=scheme, bypass_csp=True) as looked:
        if state == "group=lr":
            looked.drawn()
        else:
            looked.until(lambda: looked.page.locator("#beside tbody tr").count() == RUNS)
        looked.until(lambda: looked.page.locator("#answers:not(.stale) .word").count())
        looked.page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        found = looked.page.evaluate("axe.run().then((found) => found.violations)")
        bad = [
            (one["id"], [node["html"][:200] for node in one["nodes"]][:4])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert bad == []


@pytest.mark.slow
@pytest.mark.parametrize("state", ["view=table", "view=varies"])
def test_it_fits_a_phone(browser: Any, served: Served, state: str) -> None:
    with looking(browser, served, state, **PHONE) as looked:
        looked.until(lambda: looked.page.locator("#beside tbody tr").count() == RUNS)
        assert looked.page.evaluate("document.documentElement.scrollWidth") == 390
        small = looked.page.evaluate(
            f"{PRESSED}.map((one) => [one.innerText || one.id, one.getBoundingClientRect()])"
            ".map(([name, box]) => [name, box.width, box.height]).filter(([_, w, h]) => w < 44 || h < 44)"
        )
        assert small == []
        looked.page.locator("[data-do=view][data-arg=charts]").tap()
        looked.until(lambda: looked.page.locator("#charts").is_visible())
        looked.page.locator("[data-do=view]", has_text="Table" if state == "view=table" else "Varies").tap()
        looked.until(lambda: looked.page.locator("#beside tbody tr").count() == RUNS)
        top = looked.page.evaluate("document.getElementById('beside').getBoundingClientRect().top")
        assert 0 <= top < 844 / 2
        run = looked.page.locator("#beside tbody [data-do=run]").nth(1)
        wanted = run.get_attribute("data-arg")
        run.tap()
        looked.until(lambda: f"run={wanted}" in looked.page.url)


# --- where there is no server


@pytest.mark.slow
def test_a_page_that_was_kept_has_its_help_in_itself_and_no_tables(browser: Any, tmp_path: Path) -> None:
    compared_run(tmp_path / "run", 0, 300, infos={"lr": 0.1})
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        while view.update(1.0):
            pass
        (tmp_path / "run.html").write_text(kept_page(view, ()), encoding="utf-8")
    page = browser.new_page()
    try:
        looked = Looked(page)
        page.goto((tmp_path / "run.html").as_uri())
        looked.drawn("train/loss")
        page.keyboard.press("t")
        page.keyboard.press("b")
        looked.frames()
        assert page.locator("#beside").is_hidden()
        assert page.locator("#views").is_hidden()
        assert page.locator("#group").count() == 0
        page.keyboard.press("?")
        page.locator("dialog[open]").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("e")
        page.locator("dialog[open] [data-do=picture]").wait_for()
        with page.expect_download() as download:
            page.click("[data-do=picture]")
        assert Path(download.value.path()).read_bytes()[:4] == b"\x89PNG"
        assert looked.asked[1:] == [url for url in looked.asked[1:] if url.startswith(("blob:", "data:"))]
        assert looked.faults == []
    finally:
        page.context.close()


# --- what may go wrong


@pytest.mark.slow
def test_where_the_second_file_does_not_come_it_is_said_and_tried_again(browser: Any, served: Served) -> None:
    with looking(browser, served) as looked:
        page = looked.page
        looked.drawn()
        page.route("**/more.js", lambda route: route.abort())
        page.keyboard.press("t")
        looked.until(lambda: "is the server still there" in looked.text("#beside"))
        page.unroute("**/more.js")
        page.keyboard.press("Escape")
        page.keyboard.press("t")
        _table(looked)
        assert [fault for fault in looked.faults if "more.js" not in fault and "ERR_FAILED" not in fault] == []


@pytest.mark.slow
def test_what_others_wrote_is_text(browser: Any, tmp_path: Path) -> None:
    evil = '<img src=x onerror="document.documentElement.dataset.hit = 1">\u202e\x1b[31m'
    for number in range(2):
        writer = Writer(tmp_path / "runs" / str(number), bytes([number + 1] * 16), evil)
        writer.event(InfoUpdated(key=evil, value=f"{evil} {number}"))
        writer.points([Point(evil, step, float(step)) for step in range(20)])
        writer.close()
    with serving([tmp_path / "runs"], tmp_path / "cache") as served, looking(browser, served, "view=table") as looked:
        _table(looked, 2)
        looked.page.keyboard.press("v")
        looked.until(lambda: looked.page.locator("#beside tbody tr").count() > 0)
        looked.page.keyboard.press("Escape")
        looked.page.keyboard.press("b")
        looked.until(lambda: looked.page.locator("#groups li").count() == 2)
        assert looked.page.evaluate("document.documentElement.dataset.hit") is None
        assert looked.page.evaluate("document.querySelectorAll('#asynchub :is(img, script)').length") == 0
        assert "\x1b" not in looked.page.evaluate("document.body.innerText")
        assert looked.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert looked.faults == []


@pytest.mark.slow
def test_a_table_and_groups_go_on_with_their_runs(browser: Any, tmp_path: Path) -> None:
    top = tmp_path / "runs"
    compared_run(top / "old", 5, 50, infos={"max_iters": 50})
    with (
        training(top / "live"),
        serving([top], tmp_path / "cache") as served,
        looking(browser, served, "view=table&of=train/loss") as looked,
    ):
        last = {row["name"]: row["last"] for row in _table(looked, 2)}
        looked.until(lambda: {row["name"]: row["last"] for row in _table(looked, 2)}["live"] != last["live"])
        looked.page.evaluate("document.querySelector('#beside tbody [data-do=run]').focus()")
        now = {row["name"]: row["last"] for row in _table(looked, 2)}
        looked.until(lambda: {row["name"]: row["last"] for row in _table(looked, 2)}["live"] != now["live"])
        assert looked.page.evaluate("document.activeElement.dataset.do") == "run"
        looked.page.keyboard.press("Escape")
        looked.page.evaluate("(said) => { location.hash = said }", "group=max_iters")
        looked.until(lambda: len(looked.drawings.get("train/loss", {"series": []})["series"]) == 2)
        points = looked.drawings["train/loss"]["drawing"]["points"]
        looked.until(lambda: looked.drawings["train/loss"]["drawing"]["points"] > points + 20)
        assert "2 groups by max_iters" in json.dumps(looked.drawings["train/loss"]["drawing"])
        assert looked.faults == []
