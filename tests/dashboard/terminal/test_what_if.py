"""A rule that is tried from the terminal: the same figures and words as everywhere, on the charts, and nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import Input

from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.terminal.look import Look
from asynchub.dashboard.terminal.plot import MARK_SIGNS
from asynchub.dashboard.terminal.trial_dialog import TrialDialog
from asynchub.dashboard.terminal.trying import WhatIf
from asynchub.dashboard.terminal.watching import NO_WHAT_IF, Watch
from asynchub.overlay_rows import LABEL, OverlayAnswer, OverlayRow
from asynchub.overlaying import RULES, Overlay, overlay
from tests.dashboard.terminal.apps import row_of, settled, until, watched, write_run

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

EARLIER = "EarlyStopping:val/accuracy:mode=max:patience=1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs that a rule has stopped."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("one", "two"):
        write_run(folder / name, name)
    return folder


async def ask(pilot: Pilot[int], rule: str) -> None:
    """Have a rule tried; the dialog is open."""
    pilot.app.screen.query_one(Input).value = rule
    await pilot.press("enter")


def shown_by(app: Watch) -> str:
    """Return what the dialog shows, without its frame."""
    assert isinstance(app.screen, TrialDialog)
    return app.screen._found().plain


def by(tried: Overlay) -> WhatIf:
    """Return what tries rules, as the command does."""
    return lambda runs, rule: tried.ask(runs, rule, seconds=0.0)


async def test_a_rule_is_tried_and_shows_the_figures_of_the_replay_and_where_it_would_stop(
    runs: Path, tmp_path: Path
) -> None:
    with Overlay() as tried:
        async with watched(runs, cache=tmp_path / "cache", what_if=by(tried)) as (app, pilot):
            await pilot.press("w")
            assert isinstance(app.screen, TrialDialog)
            await ask(pilot, EARLIER)
            await until(pilot, lambda: "to go" not in shown_by(app) and LABEL in shown_by(app), "the table")
            table = shown_by(app)
            with Pyramid(runs / "one", tmp_path / "other") as run:
                expected = overlay({"x": run}, EARLIER)
            heads, row = (line.split() for line in table.splitlines()[1:3])
            assert heads == ["run", *" ".join(expected.heads).split()]
            assert row[1:] == ["one", *" ".join(expected.rows[0].cells).split()]
            assert expected.rows[0].stop == 300
            await pilot.press("escape")
            await until(pilot, lambda: settled(app))
            text = app.board.text()
            assert f"what if: {LABEL}" in text.splitlines()[0]
            charts = [line for line in text.splitlines() if "would stop" in line]
            assert charts, "above each chart"
            assert charts[0].count("2× would stop▽") + charts[0].count("▽2× would stop") == 3  # noqa: RUF001  # the sign


@pytest.mark.slow
async def test_the_mark_of_a_trial_stands_at_its_step_in_the_colour_of_its_run(runs: Path, tmp_path: Path) -> None:
    with Overlay() as tried:
        async with watched(runs, cache=tmp_path / "cache", what_if=by(tried)) as (app, pilot):
            await pilot.press("w")
            await ask(pilot, "MaxSteps:200")
            await until(pilot, lambda: LABEL in shown_by(app) and "to go" not in shown_by(app))
            await pilot.press("escape", "enter", "p")
            await until(pilot, lambda: settled(app) and len(app.shown.charts) == 1)
            line = app.shown.charts[0].lines[0]
            column = line.text.index(MARK_SIGNS["suggested"])
            left = next(len(one.text) for one in line)
            share = (column - left) / (line.cell_length - left - 1)
            low, high = app.shown.first, app.shown.last
            (stop,) = {mark.step for _, mark in app._wanted.trial}
            assert share == pytest.approx(((stop or 0) - low) / (high + 1 - low), abs=1.5 / line.cell_length)
            front = next(row for row in app.shown.rows if row.id == app.shown.drawn[0])
            style = next(style for text, style, _ in line if "▽" in text)
            assert style is not None
            assert style.color is not None
            assert style.color.name == front.colour.dark


async def test_an_empty_rule_takes_the_trial_off_and_a_wrong_one_is_refused_in_its_own_words(
    runs: Path, tmp_path: Path
) -> None:
    with Overlay() as tried:
        async with watched(runs / "one", cache=tmp_path / "cache", what_if=by(tried)) as (app, pilot):
            await pilot.press("w")
            assert app.screen._rule == EARLIER.replace("patience=1", "patience=3"), "what its charts suggest"  # type: ignore[attr-defined]
            await ask(pilot, "Nothing:x")
            await until(pilot, lambda: "cannot be tried here" in shown_by(app))
            assert all(rule in shown_by(app) for rule in RULES)
            await ask(pilot, "MaxSteps:50")
            await until(pilot, lambda: bool(app._wanted.trial))
            await pilot.press("escape", "w")
            assert "stops at step" in shown_by(app), "it is still there"
            await pilot.press("ctrl+u", "enter")
            await until(pilot, lambda: len(app.screen_stack) == 1 and not app._wanted.trial and settled(app))
            assert "would stop" not in app.board.text()
            assert LABEL not in app.board.text()


async def test_without_what_tries_rules_the_key_says_so(runs: Path, tmp_path: Path) -> None:
    async with watched(runs / "one", cache=tmp_path / "cache") as (app, pilot):
        await pilot.press("w")
        assert len(app.screen_stack) == 1
        assert NO_WHAT_IF in app.board.text()


async def test_keys_are_answered_while_a_rule_is_tried_and_what_came_late_is_forgotten(
    runs: Path, tmp_path: Path
) -> None:
    let_go = threading.Event()

    def slowly(found: Mapping[str, Pyramid], rule: str) -> OverlayAnswer:
        if rule == "slow":
            let_go.wait(20)
        return OverlayAnswer(tuple(row_of(run, rule) for run in found))

    try:
        async with watched(runs / "one", cache=tmp_path / "cache", what_if=slowly) as (app, pilot):
            await pilot.press("w")
            await ask(pilot, "slow")
            await pilot.press("escape", "j")
            assert app.view.chart == 1
            await pilot.press("w")
            await ask(pilot, "quick")
            await until(pilot, lambda: bool(app._wanted.trial))
            let_go.set()
            await until(pilot, lambda: not app.workers or all(one.is_finished for one in app.workers))
            assert app._trying is not None
            assert app._trying.found is not None
            assert {row.rule for row in app._trying.found.rows} == {"quick"}
    finally:
        let_go.set()


@pytest.mark.parametrize(
    "size", [(80, 24), *(pytest.param(size, marks=pytest.mark.slow) for size in ((160, 46), (40, 12)))], ids=str
)
@pytest.mark.parametrize(
    "look",
    [Look(), pytest.param(Look(False, letters=False, colours=False), marks=pytest.mark.slow)],
    ids=["letters", "ascii"],
)
async def test_at_any_size_the_table_fits_and_does_no_harm(
    runs: Path, tmp_path: Path, size: tuple[int, int], look: Look
) -> None:
    def evil(found: Mapping[str, Pyramid], rule: str) -> OverlayAnswer:
        rows = [row_of(run, f"\x1b[2J{number}:日本{rule}") for run in found for number in range(30)]
        rows.append(OverlayRow("\x1b]0;x\x07", rule, "failed", error="a\nb\u202e"))
        return OverlayAnswer(tuple(rows), waiting=3)

    async with watched(runs / "one", cache=tmp_path / "cache", what_if=evil, look=look, size=size) as (app, pilot):
        await pilot.press("w", "enter")
        await until(pilot, lambda: LABEL in shown_by(app))
        for key in ("pagedown", "pagedown", "pageup", "up", "down"):
            await pilot.press(key)
        lines = shown_by(app).splitlines()
        assert all(line.isprintable() for line in lines)
        assert look.letters or all(line.isascii() for line in lines)
        assert max(map(cell_len, lines[:-2])) <= max(size[0] - 4, 60)
        await pilot.press("escape")
        assert len(app.screen_stack) == 1
