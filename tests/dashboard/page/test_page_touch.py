"""Fingers on a chart: two zoom, one pans, a tap reads; up and down is the page's, which is never zoomed or lost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard.page.browsers import Looked, looking
from tests.dashboard.page.sample_runs import sample_run
from tests.dashboard.runs import Point, Writer
from tests.dashboard.web.servers import Served, serving

pytestmark = pytest.mark.slow

STEPS = 20_000
OVER = ".chart[aria-label='Chart of train/loss'] .u-over"
PHONE: dict[str, Any] = {"width": 390, "height": 844, "ratio": 3, "has_touch": True, "is_mobile": True}
Place = tuple[float, float]
"""Of the width and the height of the plot."""


class Hand:
    """A hand on the plot of a chart, whose fingers the browser takes for real ones."""

    def __init__(self, looked: Looked) -> None:
        self._looked = looked
        self._session = looked.page.context.new_cdp_session(looked.page)
        looked.page.locator(OVER).scroll_into_view_if_needed()
        looked.frames()
        self._box = looked.page.locator(OVER).bounding_box()

    def puts(self, kind: str, *fingers: Place) -> None:
        """Put fingers down, move them, or, without any, take them away."""
        box = self._box
        points = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": number}
            for number, (x, y) in enumerate(fingers)
        ]
        self._session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def moves(self, before: Sequence[Place], after: Sequence[Place], parts: int = 8) -> None:
        """Put fingers down, move them in some parts, and take them away."""
        self.puts("touchStart", *before)
        self.goes(before, after, parts)
        self.puts("touchEnd")

    def goes(self, before: Sequence[Place], after: Sequence[Place], parts: int = 8) -> None:
        """Move fingers that are down."""
        for part in range(1, parts + 1):
            share = part / parts
            self.puts(
                "touchMove",
                *((a + (c - a) * share, b + (d - b) * share) for (a, b), (c, d) in zip(before, after, strict=True)),
            )
            self._looked.frames()


@pytest.fixture
def run(tmp_path: Path) -> Writer:
    return sample_run(tmp_path / "runs" / "a", 0, STEPS, closed=False)


@pytest.fixture
def served(run: Writer, tmp_path: Path) -> Iterator[Served]:
    with serving([tmp_path / "runs"], tmp_path / "cache") as served:
        yield served


@pytest.fixture
def looked(browser: Any, served: Served) -> Iterator[Looked]:
    with looking(browser, served, **PHONE) as looked:
        looked.drawn("train/loss")
        yield looked
        assert looked.faults == []


def shown(looked: Looked) -> tuple[float, float]:
    """Return the part of the axis that the address says."""
    found = re.search(r"range=([-\d.e]+?)\.\.([-\d.e]+)", looked.page.url)
    return (float(found[1]), float(found[2])) if found else (0.0, STEPS - 1.0)


def page_is(looked: Looked) -> list[float]:
    """Return how far the page itself is zoomed and scrolled, and how much wider than the window it is."""
    asked = "[visualViewport.scale, scrollX, scrollY, document.documentElement.scrollWidth - innerWidth]"
    found: list[float] = looked.page.evaluate(asked)
    return found


def test_two_fingers_zoom_and_what_is_under_them_stays_there(looked: Looked) -> None:
    hand, before = Hand(looked), page_is(looked)
    hand.moves([(0.4, 0.5), (0.6, 0.4)], [(0.1, 0.5), (0.9, 0.6)])
    looked.until(lambda: "range=" in looked.page.url)
    low, high = shown(looked)
    size = high - low
    assert size == pytest.approx((STEPS - 1) / 4, rel=0.02)
    assert low + 0.1 * size == pytest.approx(0.4 * STEPS, rel=0.02)
    assert low + 0.9 * size == pytest.approx(0.6 * STEPS, rel=0.02)
    assert page_is(looked) == before
    assert before[0] == 1
    assert before[3] == 0


def test_two_fingers_that_come_together_show_more(looked: Looked) -> None:
    hand = Hand(looked)
    hand.moves([(0.3, 0.5), (0.7, 0.5)], [(0.1, 0.5), (0.9, 0.5)])
    looked.until(lambda: "range=" in looked.page.url)
    near = shown(looked)
    hand.moves([(0.1, 0.5), (0.9, 0.5)], [(0.4, 0.5), (0.6, 0.5)])
    looked.until(lambda: shown(looked) != near)
    low, high = shown(looked)
    assert high - low == pytest.approx(4 * (near[1] - near[0]), rel=0.03)
    assert page_is(looked)[0] == 1


def test_one_finger_pans_sideways_by_as_much_as_it_moves(looked: Looked) -> None:
    hand = Hand(looked)
    hand.moves([(0.4, 0.5), (0.6, 0.5)], [(0.1, 0.5), (0.9, 0.5)])
    looked.until(lambda: "range=" in looked.page.url)
    looked.settled()
    low, high = shown(looked)
    before = page_is(looked)
    hand.moves([(0.3, 0.5)], [(0.8, 0.55)])
    looked.until(lambda: shown(looked) != (low, high))
    now = shown(looked)
    assert now[1] - now[0] == pytest.approx(high - low, rel=0.01)
    assert low - now[0] == pytest.approx(
        0.5 * (high - low), rel=0.15
    )  # the first way of a finger says what it is about
    assert page_is(looked) == before
    looked.page.keyboard.press("z")
    looked.until(lambda: shown(looked) == (low, high))  # a gesture is one step back


def test_a_finger_that_moves_up_scrolls_the_page_and_leaves_the_chart(looked: Looked) -> None:
    hand, (_, _, top, _) = Hand(looked), page_is(looked)
    hand.moves([(0.5, 0.9)], [(0.52, -1.5)], parts=12)
    looked.until(lambda: page_is(looked)[2] > top)
    assert "range=" not in looked.page.url


def test_a_tap_and_a_finger_that_has_rested_read_values(looked: Looked) -> None:
    hand, tip = Hand(looked), looked.page.locator(".tooltip")
    hand.moves([(0.5, 0.5)], [(0.5, 0.5)], parts=1)
    tip.wait_for()
    first = tip.inner_text()
    hand.puts("touchStart", (0.3, 0.5))
    looked.until(lambda: tip.inner_text() != first)
    rested = tip.inner_text()
    hand.goes([(0.3, 0.5)], [(0.7, 0.5)])
    looked.until(lambda: tip.inner_text() != rested)
    hand.puts("touchEnd")
    assert "range=" not in looked.page.url
    assert "step" in tip.inner_text()


def test_news_do_not_move_a_chart_that_is_held(looked: Looked, run: Writer) -> None:
    hand = Hand(looked)
    hand.puts("touchStart", (0.4, 0.5), (0.6, 0.5))
    hand.goes([(0.4, 0.5), (0.6, 0.5)], [(0.1, 0.5), (0.9, 0.5)])
    held = looked.plot("train/loss").pixels
    run.points([Point("train/loss", STEPS + step, 0.5) for step in range(2000)])
    looked.until(lambda: looked.drawings["train/loss"]["series"][0]["seq"] == run.seq)
    looked.frames()
    looked.frames()
    wide = slice(int(held.shape[1] * 0.3), int(held.shape[1] * 0.7))
    now = looked.plot("train/loss").pixels
    assert (now[:, wide] == held[:, wide]).mean() > 0.99
    assert "range=" not in looked.page.url
    hand.puts("touchEnd")
    looked.until(lambda: "range=" in looked.page.url)
    low, high = shown(looked)
    assert high - low == pytest.approx(STEPS / 4, rel=0.02)


def test_fingers_that_are_taken_away_by_the_browser_change_nothing(looked: Looked) -> None:
    before = looked.plot("train/loss").pixels
    hand = Hand(looked)
    hand.puts("touchStart", (0.4, 0.5), (0.6, 0.5))
    hand.goes([(0.4, 0.5), (0.6, 0.5)], [(0.1, 0.5), (0.9, 0.5)])
    assert (looked.plot("train/loss").pixels != before).any()
    hand.puts("touchCancel")
    looked.frames()
    assert (looked.plot("train/loss").pixels == before).all()
    assert "range=" not in looked.page.url
