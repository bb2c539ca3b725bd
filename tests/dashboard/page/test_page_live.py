"""The page while a run goes on: it keeps what the reader has chosen, comes back by itself, and steers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from asynchub.dashboard.web.tokens import new_secrets
from tests.dashboard.page.browsers import Looked, looking
from tests.dashboard.page.sample_runs import sample_run
from tests.dashboard.page.training import Training, training
from tests.dashboard.runs import Point
from tests.dashboard.web.servers import serving

pytestmark = pytest.mark.slow

CHART = '.chart[aria-label="Chart of train/loss"]'


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Training]:
    with training(tmp_path / "runs" / "live") as one:
        yield one


def test_a_stop_that_is_clicked_reaches_the_run_with_its_reason(browser: Any, live: Training, tmp_path: Path) -> None:
    with (
        serving([tmp_path / "runs"], tmp_path / "cache", allow=["stop", "lr"]) as served,
        looking(browser, served, role="steer") as looked,
    ):
        page = looked.page
        page.locator(".steer >> text=Stop run…").click()
        assert live.stopped_at is None  # it asks back first
        page.fill("#ask-reason", "good enough <b>")
        clicked = time.monotonic()
        page.locator("#ask-buttons >> text=Stop run").click()
        looked.until(lambda: live.stopped_at is not None)
        assert live.stopped_at is not None
        assert live.stopped_at - clicked < 5.0
        assert "good enough <b>" in str(live.hub.stop_reason)
        looked.until(lambda: re.search(r"applied at step [\d,]+", looked.text("#ask-state")))
        page.keyboard.press("Escape")
        looked.until(lambda: "Stopped" in looked.text("#answers .word"))
        assert "good enough <b>" in looked.text("#asked")
        assert looked.faults == []


def test_a_value_that_is_refused_says_why(browser: Any, live: Training, tmp_path: Path) -> None:
    with (
        serving([tmp_path / "runs"], tmp_path / "cache", allow=["lr"]) as served,
        looking(browser, served, role="steer") as looked,
    ):
        page = looked.page
        page.locator(".steer >> text=Set lr…").wait_for()
        assert page.locator(".steer >> text=Stop run…").count() == 0  # the server does not allow it
        page.keyboard.press("R")
        page.fill("#ask-value", "7")
        page.keyboard.press("Enter")
        assert "above 1" in looked.text("#ask-problem")
        page.fill("#ask-value", "0.5")
        page.keyboard.press("Enter")
        looked.until(lambda: "refused" in looked.text("#ask-state"))
        assert "the warm-up is not over" in looked.text("#ask-state")
        page.keyboard.press("Escape")
        page.keyboard.press("R")
        page.fill("#ask-value", "0.05")
        page.keyboard.press("Enter")
        looked.until(lambda: "applied at step" in looked.text("#ask-state"))
        assert live.lr == 0.05


def test_who_only_looks_is_offered_nothing(browser: Any, live: Training, tmp_path: Path) -> None:
    with serving([tmp_path / "runs"], tmp_path / "cache", allow=["stop"]) as served, looking(browser, served) as looked:
        looked.drawn("train/loss")
        assert looked.page.locator(".steer [data-do=steer]").count() == 0
        looked.page.keyboard.press("S")
        looked.page.locator("dialog[open]").wait_for()
        assert "looking" in looked.text("dialog")
        assert live.stopped_at is None


def test_what_was_chosen_outlives_news_a_theme_a_reload_and_another_server(browser: Any, tmp_path: Path) -> None:
    writer = sample_run(tmp_path / "runs" / "a", 0, 3000, closed=False)
    sample_run(tmp_path / "runs" / "b", 1, 3000)
    secrets = new_secrets()

    def tick(number: int) -> None:
        writer.points([Point("train/loss", 3000 + number * 5 + step, 0.4 + step / 100) for step in range(5)])

    def chosen(looked: Looked) -> tuple[Any, ...]:
        page = looked.page
        return (
            page.url.partition("#")[2],
            page.locator(".run.main .name bdi").inner_text(),
            page.locator("[data-do=log][aria-pressed=true]").inner_text(),
            looked.drawings["train/loss"]["series"][0]["start"],
            looked.drawings["train/loss"]["series"][0]["stop"],
        )

    with ExitStack() as stack:
        server = stack.enter_context(ExitStack())
        served = server.enter_context(serving([tmp_path / "runs"], tmp_path / "cache", secrets=secrets))
        looked = stack.enter_context(looking(browser, served, f"run={served.runs['a']}"))
        page = looked.page
        looked.drawn("train/loss")
        box = page.locator(f"{CHART} .u-over").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 70, steps=3)
        page.mouse.up()
        page.keyboard.press("L")
        page.locator(CHART).focus()
        looked.settled()
        before = chosen(looked)
        assert "range=" in before[0]
        assert before[2] == "Log"
        page.evaluate("document.getSelection().selectAllChildren(document.querySelector('.answer h2'))")
        for number in range(100):
            tick(number)
            page.wait_for_timeout(30)
        looked.until(lambda: "500 new steps" in looked.text("#follow"))
        assert chosen(looked) == before
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Chart of train/loss"
        assert page.evaluate("String(document.getSelection())").strip() != ""
        page.keyboard.press("d")
        page.emulate_media(color_scheme="light")
        looked.settled()
        assert chosen(looked) == before
        page.reload()
        looked.settled()
        assert chosen(looked) == before
        server.close()
        looked.until(lambda: "trying again" in looked.text("#trouble"))
        for number in range(100, 110):
            tick(number)
        with serving([tmp_path / "runs"], tmp_path / "cache", secrets=secrets, port=served.port):
            looked.until(lambda: not page.locator("#trouble").is_visible())
            looked.settled()
            assert chosen(looked) == before
            # nothing is missing, and nothing is there twice
            page.evaluate("location.hash = location.hash.replace(/range=[^&]*/, 'range=2990..3549')")
            looked.settled()
            page.locator(f"{CHART} summary").click()
            rows = page.locator(f"{CHART} tbody td:first-child").all_inner_texts()
            looked.until(lambda: "of 55" in looked.text(f"{CHART} caption") or len(rows) > 250)
            steps = [int(row.replace(",", "")) for row in rows]
            assert steps == list(range(steps[0], steps[0] + len(steps)))


def test_twelve_windows_are_live_at_once(browser: Any, tmp_path: Path) -> None:
    writer = sample_run(tmp_path / "runs" / "a", 0, 1000, closed=False)
    with serving([tmp_path / "runs"], tmp_path / "cache") as served, ExitStack() as stack:
        windows = [stack.enter_context(looking(browser, served, width=900, height=900)) for _ in range(12)]
        for looked in windows:
            looked.drawn("train/loss")
        seen = [looked.messages for looked in windows]
        writer.points([Point("train/loss", 1000 + step, 0.5) for step in range(5)])
        for looked, before in zip(windows, seen, strict=True):
            looked.until(lambda looked=looked, before=before: looked.messages > before)
            assert looked.faults == []


def test_a_run_that_appears_is_shown(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with serving([tmp_path / "runs"], tmp_path / "cache") as served, looking(browser, served) as looked:
        looked.until(
            lambda: "no run" in looked.text("#answers").lower() or looked.page.locator("#runs-problem").is_visible()
        )
        sample_run(tmp_path / "runs" / "first", 0, 500)
        looked.drawn("train/loss")
        assert looked.text(".run.main .name bdi") == "first"


def test_following_goes_with_the_newest_step(browser: Any, tmp_path: Path) -> None:
    writer = sample_run(tmp_path / "runs" / "a", 0, 2000, closed=False)
    with serving([tmp_path / "runs"], tmp_path / "cache") as served, looking(browser, served) as looked:
        looked.drawn("train/loss")
        looked.page.keyboard.press("r")
        looked.page.keyboard.press("f")
        looked.page.keyboard.press("f")
        looked.page.keyboard.press("+")
        looked.settled()
        assert "follow=0" not in looked.page.url
        writer.points([Point("train/loss", 2000 + step, 0.5) for step in range(1000)])
        looked.until(lambda: looked.drawings["train/loss"]["series"][0]["start"] > 1200)
        assert not looked.page.locator("#follow").is_visible()
        looked.page.keyboard.press("h")
        looked.page.locator("#follow").wait_for()
        assert "follow=0" in looked.page.url
        looked.page.locator("#follow").click()
        looked.until(lambda: "follow=0" not in looked.page.url)


def test_an_exported_page_opens_without_a_server_and_cannot_steer(browser: Any, tmp_path: Path) -> None:
    from asynchub.dashboard.picture.export import export

    sample_run(tmp_path / "runs" / "a", 0, 3000)
    target = export([tmp_path / "runs" / "a"], tmp_path / "run.html", cache=tmp_path / "cache")
    context = browser.new_context(viewport={"width": 1300, "height": 1000}, offline=True)
    try:
        looked = Looked(context.new_page())
        looked.page.goto(target.as_uri())
        looked.drawn("train/loss")
        looked.page.keyboard.press("L")
        looked.page.keyboard.press("+")
        looked.frames()
        assert looked.page.locator("[data-do=steer]").count() == 0
        assert "as it was" in looked.text("#top")
        assert looked.faults == []
        assert [url for url in looked.asked if not url.startswith(("file:", "data:"))] == []
        assert "view-" not in target.read_text(encoding="utf-8")
    finally:
        context.close()


def test_of_an_exported_page_each_chart_is_logarithmic_by_itself(browser: Any, tmp_path: Path) -> None:
    from asynchub.dashboard.picture.export import export

    writer = sample_run(tmp_path / "runs" / "a", 0, 3000, closed=False)
    writer.points([Point("debt", step, -1.0 - step) for step in range(3000)])
    writer.close()
    target = export([tmp_path / "runs" / "a"], tmp_path / "run.html", keys=["*", "**"], cache=tmp_path / "cache")
    context = browser.new_context(viewport={"width": 1300, "height": 2600}, offline=True)
    try:
        looked = Looked(context.new_page())
        looked.page.goto(target.as_uri())
        looked.drawn("train/loss", "val/acc", "debt")
        flip = "[data-do=flip]"
        other = looked.plot("val/acc").pixels
        before = looked.plot("train/loss").pixels
        looked.page.locator(CHART).focus()
        looked.page.keyboard.press("o")
        looked.until(lambda: looked.page.locator(f"{CHART} {flip}").get_attribute("aria-pressed") == "true")
        looked.until(lambda: (looked.plot("train/loss").pixels != before).any())
        assert (looked.plot("val/acc").pixels == other).all()
        looked.page.locator(f"{CHART} {flip}").click()
        looked.until(lambda: (looked.plot("train/loss").pixels == before).mean() > 0.99)
        assert not looked.page.locator(f'.chart[aria-label="Chart of debt"] {flip}').is_visible()  # nothing is above 0
        assert looked.faults == []
    finally:
        context.close()
