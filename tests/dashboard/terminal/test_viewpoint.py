"""What is looked at, and where it stands on the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.dashboard.terminal.layout import laid_out
from asynchub.dashboard.terminal.viewpoint import NARROWEST, Trail, Viewpoint

TOOLBAR = Path(__file__).parents[3] / "asynchub" / "dashboard" / "web" / "page" / "src" / "toolbar.ts"
extents = st.tuples(st.integers(-100, 1000), st.integers(20, 10**7)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@settings(max_examples=50)
@given(extents, st.lists(st.sampled_from("+-hlfgz"), max_size=40))
def test_whatever_is_pressed_what_is_seen_is_within_the_run(extent: tuple[int, int], pressed: list[str]) -> None:
    low, high = extent
    trail = Trail()
    for letter in pressed:
        view = trail.view
        match letter:
            case "+" | "-":
                trail.go(view.zoomed(low, high, letter == "+"))
            case "h" | "l":
                trail.go(view.panned(low, high, letter == "l"))
            case "f":
                trail.go(view.followed(low, high))
            case "g":
                trail.go(Viewpoint())
            case _:
                trail.unzoom()
        first, last = trail.view.steps(low, high)
        assert low <= first < last <= high
        assert last - first + 1 >= min(NARROWEST, high - low + 1)
        assert trail.view.unseen(high) == (0 if trail.view.follow or trail.view.start is None else high - last)


@settings(max_examples=50)
@given(extents, st.integers(1, 1000))
def test_what_follows_moves_on_with_the_run_and_what_does_not_stays(extent: tuple[int, int], grown: int) -> None:
    low, high = extent
    view = Viewpoint().zoomed(low, high, closer=True)
    if view.start is None:
        return
    first, last = view.steps(low, high)
    assert view.steps(low, high + grown) == (first + grown, last + grown)
    stays = view.followed(low, high)
    assert stays.steps(low, high + grown) == (first, last)
    assert stays.unseen(high + grown) == grown
    moved = view.panned(low, high, right=False)
    assert not moved.follow
    assert moved.panned(low, high, right=True).follow, "at the newest step it follows again"


def test_closer_and_back_shows_the_same_steps() -> None:
    view = Viewpoint()
    closer = view.zoomed(0, 999_999, True).zoomed(0, 999_999, True)
    assert closer.steps(0, 999_999) == (750_000, 999_999)
    assert closer.zoomed(0, 999_999, False).zoomed(0, 999_999, False) == view


def test_smoothing_goes_round_as_on_the_page_and_keeps_its_width() -> None:
    view = Viewpoint().smoother(0, 99_999).smoother(0, 99_999).smoother(0, 99_999)
    assert (view.window, view.smoothing) == (1_000, "mean")
    turns = []
    for _ in range(4):
        view = view.on_next_smoothing()
        turns.append((view.window, view.smoothing if view.window else "off"))
    assert turns == [(1_000, "ema"), (0, "off"), (1_000, "mean"), (1_000, "ema")]
    windows = []
    for _ in range(4):
        view = view.rougher()
        windows.append(view.window)
    assert windows == [100, 10, 0, 0]
    assert view.on_next_smoothing().window == 10


def test_smoothing_is_said_in_the_words_of_the_page() -> None:
    page = TOOLBAR.read_text(encoding="utf-8")
    off = Viewpoint()
    mean = off.on_next_smoothing()
    ema = replace(mean.on_next_smoothing(), window=1_000)
    assert mean.smoothing_in_words == "mean of the last 10 steps"
    assert ema.smoothing_in_words == "EMA, half-life 1,000 steps"
    for view, window in ((mean, "10"), (ema, "1,000")):
        assert f"`{view.smoothing_in_words.replace(window, '${whole(state.window)}')}`" in page
    assert f'"{off.smoothing_in_words}"' in page


def test_smoothing_grows_tenfold_and_ends_where_the_run_does() -> None:
    view, windows = Viewpoint(), []
    for _ in range(8):
        view = view.smoother(0, 99_999)
        windows.append(view.window)
    assert windows[:6] == [10, 100, 1_000, 10_000, 0, 10]


def test_undo_goes_back_one_change_and_undo_of_a_zoom_leaves_the_others() -> None:
    trail = Trail()
    trail.go(trail.view.zoomed(0, 1000, True))
    zoomed = trail.view
    trail.go(trail.view.logged("loss"))
    trail.unzoom()
    assert trail.view.logs == {"loss"}
    assert trail.view.start is None
    trail.go(zoomed)
    trail.back()
    assert trail.view.start is None
    for _ in range(200):
        trail.back()
    for number in range(500):
        trail.go(Viewpoint(chart=number))
    for _ in range(500):
        trail.back()
    assert trail.view.chart == 399, "a hundred changes can be undone"


@settings(max_examples=50)
@given(
    st.integers(1, 300),
    st.integers(1, 120),
    st.integers(0, 12),
    st.integers(0, 9),
    st.integers(0, 4),
    st.integers(0, 60),
    st.integers(0, 6),
    st.booleans(),
)
def test_nothing_overlaps_and_the_whole_terminal_is_used(
    width: int, height: int, head: int, alerts: int, pipeline: int, decisions: int, charts: int, large: bool
) -> None:
    layout = laid_out(
        width, height, head=head, alerts=alerts, pipeline=pipeline, decisions=decisions, charts=charts, large=large
    )
    if height < 4:
        return
    ground = np.zeros((height, width), int)
    for rect in (layout.head, layout.alerts, *layout.charts, layout.foot, layout.keys):
        assert rect.x >= 0
        assert rect.x + rect.width <= width
        ground[rect.y : rect.y + rect.height, rect.x : rect.x + rect.width] += 1
        assert rect.y + rect.height <= height
    assert (ground == 1).all()


def test_the_usual_terminals_have_the_charts_that_were_promised() -> None:
    def count(width: int, height: int) -> int:
        layout = laid_out(width, height, head=6, alerts=1, pipeline=1, decisions=10, charts=6)
        assert all(rect.height >= 9 for rect in layout.charts)
        return len(layout.charts)

    assert count(160, 46) == 6
    assert count(120, 50) == 4
    assert count(80, 24) == 2
    assert count(60, 24) == 1
