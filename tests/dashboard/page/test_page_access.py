"""The page for everybody: by keyboard, by touch, to who listens, in both themes; and text of others does no harm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from asynchub.dashboard.web.page_files import DIST
from tests.dashboard.page.browsers import Looked, looking
from tests.dashboard.page.sample_runs import sample_run
from tests.dashboard.page.training import training
from tests.dashboard.runs import Point, Writer
from tests.dashboard.web.servers import Served, serving

pytestmark = pytest.mark.slow

AXE = DIST.parent / "page" / "node_modules" / "axe-core" / "axe.min.js"
CORPUS = (
    "<script>document.documentElement.dataset.hit = 1</script>",
    '"><img src=x onerror="document.documentElement.dataset.hit = 1">',
    "<svg/onload=document.documentElement.dataset.hit=1>",
    "javascript:document.documentElement.dataset.hit=1",
    "{{constructor.constructor('document.documentElement.dataset.hit=1')()}}",
    "' onmouseover='document.documentElement.dataset.hit=1",
    "</textarea><iframe srcdoc='<script>parent.document.documentElement.dataset.hit=1</script>'>",
    "\x1b]0;title\x07\x1b[31mred\u202egnirts\u2066",
    "key " + "long " * 2000,
    "__proto__",
    "constructor",
    "#t=view-stolen&run=x",
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    top = tmp_path_factory.mktemp("runs")
    with training(top / "live") as one:
        for number in range(12):
            sample_run(top / f"run-{number}", number, 2000)
        with serving([top], tmp_path_factory.mktemp("cache"), allow=["stop", "lr", "pause", "checkpoint"]) as server:
            yield server
        assert one.steps > 0


def test_no_text_of_others_is_run_or_asked_for(browser: Any, tmp_path: Any) -> None:
    for number, text in enumerate(CORPUS):
        writer = Writer(tmp_path / "runs" / f"r{number}", bytes([number + 1] * 16), text[:2000])
        writer.points([Point(key, step, step * 0.5) for step in range(20) for key in CORPUS])
        writer.close()
    with serving([tmp_path / "runs"], tmp_path / "cache") as served, looking(browser, served, height=1400) as looked:
        page = looked.page
        looked.until(lambda: page.locator("#runs-list .run").count() == len(CORPUS))
        for run in list(served.runs.values())[:4]:
            page.evaluate("(run) => { location.hash = `run=${run}&keys=` }", run)
            looked.until(lambda: page.locator("#more-charts .chart").count() == len(CORPUS) - 4)
            looked.settled()
            box = page.locator(".u-over").first.bounding_box()
            page.mouse.move(box["x"] + 50, box["y"] + 50)
            page.keyboard.press("Escape")
        assert page.evaluate("document.documentElement.dataset.hit") is None
        assert page.evaluate("Object.keys(Object.prototype).length") == 0
        assert page.evaluate("document.querySelectorAll('#asynchub :is(img, iframe, script)').length") == 0
        assert "\x1b" not in page.evaluate("document.body.innerText")
        unseen = (
            "[...document.querySelectorAll('[title], [aria-label]')].map((one) => one.title + one.ariaLabel).join('')"
        )
        assert "\x1b" not in page.evaluate(unseen)
        assert {url.partition("//")[2].partition("/")[0] for url in looked.asked} == {f"127.0.0.1:{served.port}"}
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert looked.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser: Any, served: Served, scheme: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not here: npm ci --ignore-scripts in asynchub/dashboard/web/page")
    state = f"run={served.runs['live']}&keys="
    with looking(browser, served, state, role="steer", scheme=scheme, bypass_csp=True) as looked:
        looked.drawn("train/loss")
        looked.page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        for keys in ((), ("?",), ("Escape", "S"), ("Escape", "e"), ("Escape",)):
            for key in keys:
                looked.page.keyboard.press(key)
                looked.frames()
            if keys and keys[-1] != "Escape":
                looked.page.locator("dialog[open]").wait_for()
            found = looked.page.evaluate("axe.run().then((found) => found.violations)")
            bad = [
                (one["id"], [node["html"][:200] for node in one["nodes"]][:4])
                for one in found
                if one["impact"] in ("serious", "critical")
            ]
            assert bad == []


def test_every_action_can_be_reached_by_keyboard(browser: Any, served: Served) -> None:
    with looking(browser, served, f"run={served.runs['live']}", role="steer") as looked:
        page = looked.page
        looked.drawn("train/loss")
        wanted = {*_reachable(looked)}
        reached = set()
        for _ in range(len(wanted) + 40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(NAME_OF, None))
        assert wanted <= reached, wanted - reached
        keys = {
            "x": "x=time",
            "L": "y=log",
            "y": "fit=all",
            "s": "smooth=mean",
            "+": "range=",
            "p": "pin=",
        }
        page.evaluate("document.activeElement.blur()")
        for key, said in keys.items():
            page.keyboard.press(key)
            looked.until(lambda said=said: said in page.url)
            looked.until(lambda: looked.drawings["train/loss"]["series"][0]["axis"] == "time")
            looked.frames()
        page.keyboard.press("z")
        looked.until(lambda: "range=" not in page.url)
        page.keyboard.press("2")
        looked.until(lambda: "run=" in page.url)
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.classList.contains('chart')")
        page.keyboard.press("ArrowRight")
        page.locator(".tooltip").wait_for()
        page.keyboard.press("Enter")
        looked.until(lambda: "large=" in page.url)
        page.keyboard.press("Escape")
        looked.until(lambda: "large=" not in page.url)
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "filter"
        page.keyboard.press("Escape")
        for key in ("?", "e"):
            page.keyboard.press(key)
            page.locator("dialog[open]").wait_for()
            page.keyboard.press("Escape")
            looked.until(lambda: page.locator("dialog[open]").count() == 0)
        assert looked.faults == []


PRESSED = "[...document.querySelectorAll('button, input, select, summary')].filter((one) => one.checkVisibility())"
NAME_OF = """(element) => {
    const one = element ?? document.activeElement;
    return one.dataset?.do ? `${one.dataset.do} ${one.dataset.arg ?? ''}` : (one.id || one.className || one.tagName);
}"""


def _reachable(looked: Looked) -> list[str]:
    """Return names of all that can be pressed."""
    return list(looked.page.evaluate(f"{PRESSED}.map({NAME_OF})"))


def test_a_phone_shows_all_of_it_in_one_column(browser: Any, served: Served) -> None:
    options = {"width": 390, "height": 844, "ratio": 2, "has_touch": True, "is_mobile": True}
    with looking(browser, served, f"run={served.runs['live']}&keys=", role="steer", **options) as looked:
        looked.until(lambda: looked.page.locator(".steer button").count() > 2)
        assert looked.page.evaluate("document.documentElement.scrollWidth") == 390
        small = looked.page.evaluate(
            f"{PRESSED}.map((one) => [one.innerText || one.id, one.getBoundingClientRect()])"
            ".map(([name, box]) => [name, box.width, box.height]).filter(([_, w, h]) => w < 44 || h < 44)"
        )
        assert small == []
        looked.page.locator(".chart").first.scroll_into_view_if_needed()
        looked.drawn("train/loss")
        looked.page.locator(".u-over").first.tap()
        looked.page.locator(".tooltip").wait_for()
        looked.page.locator("[data-do=scale]").first.tap()
        looked.until(lambda: "range=" in looked.page.url)


def test_ten_runs_have_a_colour_and_the_others_are_counted(browser: Any, served: Served) -> None:
    with looking(browser, served, f"run={served.runs['run-3']}") as looked:
        looked.drawn("train/loss")
        looked.until(lambda: "10 coloured of 13" in looked.text("#runs-count"))
        rows = served.get("/api/runs")["rows"]
        colours = {row["id"]: row["colour"]["dark"] for row in rows}
        strokes = looked.page.locator("#runs-list .run").evaluate_all(
            "(rows) => rows.map((row) => [row.dataset.id, row.querySelector('line').getAttribute('stroke')])"
        )
        coloured = [run for run, stroke in strokes if stroke == colours[run]]
        assert len(coloured) == 10
        assert served.runs["run-3"] in coloured
