"""Decisions above the charts: each is there, none covers another, and the pointer tells which and whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.requests import ParameterChanged
from tests.dashboard.page.browsers import Looked, looking
from tests.dashboard.web.servers import Served, serving

STEPS = 1001
AT = (100, 500, *range(700, 862, 18))
"""Where the learning rate was halved: twice alone, then nine times close together."""
ALONE, FIRST, LAST = AT[0], AT[2], AT[-1]
LANE = -20
"""Where signs stand, in pixels below the upper edge of the plot."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    top = tmp_path_factory.mktemp("runs")
    for name in ("steered", "other"):
        hub = MessageHub(name)
        hub.attach(Journal(top / name / "journal"))
        lr = 0.1
        with hub:
            for hub.step in range(STEPS):
                hub.update_scalar("loss", 1 / (hub.step + 1))
                if name == "steered" and hub.step in AT:
                    hub.publish(ParameterChanged(name="lr", group=0, old=lr, new=lr / 2, author="me"))
                    lr /= 2
    with serving([top], tmp_path_factory.mktemp("cache")) as server:
        yield server


def _place(looked: Looked, step: float, down: float) -> tuple[float, float]:
    """Return where a step is in the window, some pixels below the upper edge of the plot."""
    box = looked.page.locator(".u-over").first.bounding_box()
    return box["x"] + box["width"] * step / (STEPS - 1), box["y"] + down


def _told(looked: Looked, step: float, down: float) -> list[str]:
    """Return the lines that the pointer is told at a place."""
    looked.page.mouse.move(*_place(looked, step, down))
    looked.frames()
    tip = looked.page.locator(".tooltip")
    return str(tip.inner_text()).splitlines() if tip.is_visible() else []


def test_decisions_close_together_are_one_bar_and_each_is_told_at_its_line(browser: Any, served: Served) -> None:
    colour = next(row["colour"]["dark"] for row in served.get("/api/runs")["rows"] if row["name"] == "steered")
    with looking(browser, served, f"run={served.runs['steered']}") as looked:
        looked.drawn()
        looked.settled()
        plot = looked.plot("loss")
        lane = plot.top + LANE
        for step in (ALONE, FIRST, LAST):  # a sign
            assert plot.has_colour(colour, plot.x(step, 0, STEPS - 1), lane)
        assert plot.has_colour(colour, plot.x(FIRST + 14, 0, STEPS - 1), lane - 1, 1, 1)  # the bar
        assert not plot.has_colour(colour, plot.x(300, 0, STEPS - 1), lane, 4, 4)
        lr = 0.1
        for step in AT:
            told = _told(looked, step, 3)[0]
            assert told.startswith(f"steered: lr {lr:.6g} -> {lr / 2:.6g}")  # whose it is, among two runs
            assert _told(looked, step, LANE)[0] == told or step not in (ALONE, FIRST, LAST)
            lr /= 2
        assert not any("->" in line for line in _told(looked, 300, 3))
        assert _told(looked, 300, LANE) == []
        assert looked.faults == []


@pytest.mark.slow
def test_the_text_on_a_bar_lists_all_of_its_decisions(browser: Any, served: Served) -> None:
    with looking(browser, served, f"run={served.runs['steered']}") as looked:
        looked.drawn()
        looked.settled()
        told = _told(looked, (FIRST + LAST) / 2, LANE)
        assert len([line for line in told if "->" in line]) == 5
        assert "and 4 more: click" in told
        looked.page.mouse.click(*_place(looked, (FIRST + LAST) / 2, LANE))
        rows = looked.page.locator("dialog[open] tbody tr")
        looked.until(rows.count)
        assert rows.count() == 9
        rows.first.locator("button").click()
        looked.until(lambda: "range=" in looked.page.url)
        assert "lr" in looked.text("dialog[open] h2")
        assert looked.faults == []


@pytest.mark.slow
@pytest.mark.parametrize("state", ["", "smooth=mean:100"])
def test_the_toolbar_is_one_line_from_1280_pixels_on_and_wraps_below(browser: Any, served: Served, state: str) -> None:
    lines = """() => new Set([...document.querySelectorAll('#tools > :not(.space)')]
        .map((one) => one.getBoundingClientRect()).map((box) => Math.round(box.top + box.height / 2))).size"""
    with looking(browser, served, state, width=1280, height=800) as looked:
        looked.drawn()
        assert looked.page.evaluate(lines) == 1
        looked.page.set_viewport_size({"width": 800, "height": 800})
        looked.frames()
        assert looked.page.evaluate(lines) > 1
        assert looked.page.evaluate("document.documentElement.scrollWidth <= 800")


@pytest.mark.slow
def test_one_chart_has_a_logarithmic_axis_and_the_address_remembers_it(browser: Any, served: Served) -> None:
    with looking(browser, served, f"run={served.runs['steered']}") as looked:
        looked.drawn()

        def is_log() -> bool:
            return bool(looked.drawings["loss"]["drawing"]["log"])

        assert not is_log()
        looked.page.locator(".chart").first.focus()
        looked.page.keyboard.press("o")
        looked.until(is_log)
        assert "flip=loss" in looked.page.url
        looked.page.reload()
        looked.drawn()
        looked.settled()
        assert is_log()
        flip = looked.page.locator(".chart [data-do=flip]").first
        assert flip.get_attribute("aria-pressed") == "true"
        flip.click()
        looked.until(lambda: not is_log())
        assert "flip" not in looked.page.url
        assert looked.faults == []
