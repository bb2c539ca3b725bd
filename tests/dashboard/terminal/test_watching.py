"""The live view, as somebody at a terminal has it: what it shows, and what keys do."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from textual.containers import Vertical

from asynchub import recover
from asynchub.dashboard.asking import allowed_by
from asynchub.dashboard.curves import curve
from asynchub.dashboard.drawing import draw
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import Line
from asynchub.dashboard.terminal.keys import offered
from asynchub.dashboard.terminal.layout import Rect
from asynchub.dashboard.terminal.look import Look, clean
from asynchub.dashboard.terminal.panels import alert_lines, head_lines
from asynchub.dashboard.terminal.watching import READ_ONLY
from asynchub.dashboard.view import RunView
from asynchub.dashboard.web.steering import Steering
from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.requests import RequestApplied, RequestRefused
from tests.dashboard.runs import Point, Writer, columns_of
from tests.dashboard.terminal.apps import settled, until, watched, write_run
from tests.steered import steered

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that a rule has stopped."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    write_run(folder, "stopped")
    return folder


def words(text: str) -> str:
    """Return text with single blanks, without frames."""
    return " ".join(re.sub("[┃│╭╮╰╯┏┓┗┛━─]", " ", text).split())


# --- what is shown


async def test_the_terminal_shows_the_facts_of_the_screen_as_they_stand(stopped: Path, tmp_path: Path) -> None:
    async with watched(stopped, cache=tmp_path / "cache", size=(300, 60)) as (app, pilot):
        with RunView(stopped, tmp_path / "other") as view:
            view.update()

            def same() -> bool:
                front = app.shown.front
                assert front is not None
                return replace(view.screen(front.time), row=front.row, seq=front.seq) == front

            await until(pilot, same)
            assert app.shown.front is not None
            screen = app.shown.front
        text = app.board.text()
    assert screen.status.word in text
    facts = (*screen.status.lines, *screen.stops, *screen.speed, *screen.alerts)
    assert facts
    for line in facts:
        assert clean(line.text)[:90] in text, line
    for mark in screen.marks[:3]:
        assert mark.who[:10] in text
        assert mark.what in text
        assert mark.why[:60] in text
    for chart in screen.charts:
        assert f" {chart.key} {chart.note or chart.why}" in text


async def test_a_chart_has_the_footer_and_the_marks_that_all_views_have(stopped: Path, tmp_path: Path) -> None:
    async with watched(stopped, cache=tmp_path / "cache", size=(260, 60)) as (app, pilot):
        await pilot.press("enter")
        await until(pilot, lambda: settled(app) and len(app.shown.charts) == 1)
        shown = app.shown.charts[0]
        with Pyramid(stopped, tmp_path / "cache") as run:
            run.update()
            one = curve(run, shown.key, app.shown.first, app.shown.last, 2 * 258)
        assert draw({"run": one}).footer == shown.footer
        assert shown.footer in app.board.text()
        marked = next(line for line in app.board.text().splitlines() if "▼" in line)
        front = app.shown.front
        assert front is not None
        assert all(mark.short in marked for mark in front.marks if mark.short)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(size, marks=[] if size in ((160, 46), (80, 24), (20, 6)) else [pytest.mark.slow])
        for size in ((160, 46), (120, 40), (80, 24), (60, 20), (40, 12), (20, 6), (5, 2))
    ],
    ids=str,
)
@pytest.mark.parametrize("look", [Look(), Look(False, letters=False, colours=False)], ids=["letters", "ascii"])
async def test_at_any_size_every_line_is_as_wide_as_the_terminal(
    stopped: Path, tmp_path: Path, size: tuple[int, int], look: Look
) -> None:
    async with watched(stopped, cache=tmp_path / "cache", size=size, look=look, ready=size[1] > 10) as (app, pilot):
        await pilot.pause()
        lines = [app.board.render_line(row) for row in range(size[1])]
        assert [line.cell_length for line in lines] == [size[0]] * size[1]
        assert all(cell_len(line.text) == size[0] for line in lines)
        assert look.letters or all(line.text.isascii() for line in lines)
        if size == (80, 24):
            text = app.board.text()
            assert "Stopped" in text
            assert "stops:" in text
            assert text.count("train/loss") + text.count("val/accuracy") >= 2


async def test_a_terminal_that_changes_its_size_is_laid_out_anew(stopped: Path, tmp_path: Path) -> None:
    async with watched(stopped, cache=tmp_path / "cache") as (app, pilot):
        assert len(app.shown.charts) == 3
        for size in ((80, 24), (200, 60), (30, 10)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda: settled(app))
            assert app.board.size == size
            assert all(app.board.render_line(row).cell_length == size[0] for row in range(size[1]))


async def test_an_alert_that_does_not_fit_is_counted(stopped: Path, tmp_path: Path) -> None:
    async with watched(stopped, cache=tmp_path / "cache") as (app, _):
        front = app.shown.front
        assert front is not None
        many = replace(front, alerts=tuple(Line(f"thing {n} is wrong", "bad") for n in range(5)))
        lines = alert_lines(many, Rect(0, 0, 60, 2), Look())
        assert [line.text.split() for line in lines] == [
            ["▲", "thing", "0", "is", "wrong"],
            ["▲", "thing", "1", "is", "wrong", "+3"],
        ]
        waiting = replace(app.shown, front=None, problem="x is not there yet")
        assert "waiting: x is not there yet" in head_lines(waiting, app.view, Rect(0, 0, 60, 2), Look(), "")[1].text


# --- keys


async def test_keys_choose_charts_zoom_move_and_undo(stopped: Path, tmp_path: Path) -> None:
    async with watched(stopped, cache=tmp_path / "cache") as (app, pilot):
        low, high = app.shown.first, app.shown.last
        await pilot.press("j")
        assert app.view.chart == 1
        assert "┏━ " in app.board.text()
        await pilot.press("k", "k")
        assert app.view.chart == 0
        await pilot.press("plus", "plus")
        await until(pilot, lambda: settled(app))
        first, last = app.view.steps(low, high)
        assert last == high
        assert last - first + 1 == (high - low + 1) // 2 // 2
        assert f"steps {first:,} to {last:,}" in app.board.text()
        await pilot.press("h")
        assert not app.view.follow
        assert "new steps → f" in app.board.text()
        await pilot.press("x")
        assert app.view.axis == "time"
        await pilot.press("z")
        assert app.view.axis == "time"
        assert app.view.steps(low, high) == (first, last)
        await pilot.press("escape")
        assert app.view.axis == "step" or app.view.start is not None
        await pilot.press("g")
        assert app.view.start is None
        await pilot.press("L")
        await until(pilot, lambda: settled(app) and app.shown.charts[0].log)
        assert f"{app.shown.charts[0].key} log" in app.board.text()
        await pilot.press("s")
        await until(pilot, lambda: settled(app) and "mean over 10 steps" in app.shown.charts[0].footer)
        assert "mean of the last 10 steps" in app.board.text().splitlines()[-1]
        await pilot.press("s")
        await until(
            pilot, lambda: settled(app) and "exponential mean, half-life 10 steps" in app.shown.charts[0].footer
        )
        assert "EMA, half-life 10 steps" in app.board.text().splitlines()[-1]
        await pilot.press("greater_than_sign")
        await until(
            pilot, lambda: settled(app) and "exponential mean, half-life 100 steps" in app.shown.charts[0].footer
        )
        await pilot.press("y")
        assert app.view.fit_all
        await pilot.press("d")
        await until(pilot, lambda: settled(app))
        assert not app.look.dark


@pytest.mark.parametrize("axis", ["time", "epoch", pytest.param("relative", marks=pytest.mark.slow)])
async def test_every_axis_is_drawn(stopped: Path, tmp_path: Path, axis: str) -> None:
    async with watched(stopped, cache=tmp_path / "cache") as (app, pilot):
        while app.view.axis != axis:
            await pilot.press("x")
        await until(pilot, lambda: settled(app))
        assert len(app.shown.charts) == 3
        if axis == "epoch":
            assert "no epoch was recorded" in app.shown.charts[0].footer


async def test_a_filter_shows_the_keys_that_match_and_escape_leaves_it(stopped: Path, tmp_path: Path) -> None:
    async with watched(stopped, cache=tmp_path / "cache") as (app, pilot):
        await pilot.press("slash", *"gr", "enter")
        await until(pilot, lambda: settled(app) and [chart.key for chart in app.shown.charts] == ["train/grad_norm"])
        assert "◆10 NaN" in app.board.text()
        await pilot.press("slash", "escape", "j")
        assert app.view.filter == "gr"
        await pilot.press("escape")
        await until(pilot, lambda: settled(app) and len(app.shown.charts) == 3)
        await pilot.press("slash", *"zz", "enter")
        await until(pilot, lambda: app.shown.front is not None and not app.shown.charts)
        assert "filter: zz" in app.board.text()


async def test_a_goes_to_what_is_wrong_and_m_to_what_was_decided(stopped: Path, tmp_path: Path) -> None:
    async with watched(stopped, cache=tmp_path / "cache") as (app, pilot):
        front = app.shown.front
        assert front is not None
        wrong = next(line for line in front.alerts if line.start is not None)
        await pilot.press("a")
        assert wrong.text[:40] in app.board.text()
        first, last = app.view.steps(app.shown.first, app.shown.last)
        assert first <= (wrong.start or 0) <= last
        await pilot.press("m")
        mark = next(mark for mark in front.marks if mark.step is not None)
        first, last = app.view.steps(app.shown.first, app.shown.last)
        assert first <= (mark.step or 0) <= last
        assert mark.what in app.board.text().splitlines()[-1]


async def test_the_sheet_of_keys_opens_and_any_key_closes_it(stopped: Path, tmp_path: Path) -> None:
    async with watched(stopped, cache=tmp_path / "cache") as (app, pilot):
        await pilot.press("question_mark")
        assert len(app.screen_stack) == 2
        await pilot.press("j")
        assert len(app.screen_stack) == 1
        assert app.view.chart == 0
        await pilot.press("q")
        await until(pilot, lambda: app.return_value == 0)


async def test_the_sheet_of_keys_fits_24_lines_with_all_that_steers(tmp_path: Path) -> None:
    with steered(tmp_path / "run") as run:
        run.hub.attach(Journal(run.folder / "journal"))
        run.hub.update_scalar("loss", 1.0)
        allow = ("stop", "lr", "checkpoint", "pause", "set/wd")
        async with watched(run.folder, cache=tmp_path / "cache", allow=allow, size=(80, 24)) as (app, pilot):
            await until(pilot, lambda: len(offered(app.shown.front, app._allowed)) == 5)
            await pilot.press("question_mark")
            sheet = app.screen.query_one(Vertical)
            await until(pilot, lambda: sheet.size.height > 0)
            assert sheet.virtual_size.height <= sheet.size.height
            assert sheet.outer_size.height <= 24


async def test_a_click_chooses_a_chart(stopped: Path, tmp_path: Path) -> None:
    async with watched(stopped, cache=tmp_path / "cache") as (app, pilot):
        rect = app._layout.charts[1]  # type: ignore[union-attr]
        await pilot.click(offset=(rect.x + 3, rect.y + 2))
        assert app.view.chart == 1


# --- several runs


async def test_several_runs_are_drawn_together_and_a_number_brings_one_to_the_front(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        writer = Writer(tmp_path / "runs" / f"run{number}", bytes([number + 1]) * 16, f"run{number}")
        writer.batch(columns_of(["loss", f"own{number}"], np.arange(500), rng.normal(size=(500, 2)), 0))
        writer.close()
    async with watched(tmp_path / "runs", cache=tmp_path / "cache") as (app, pilot):
        assert len(app.shown.rows) == len(app.shown.drawn) == 3
        title = app.board.text().splitlines()[0]
        assert all(f"{number + 1} " in title and f"run{number}" in title for number in range(3))
        assert "1,500 values" in app.shown.charts[0].footer
        assert {chart.key for chart in app.shown.charts} == {"loss", "own0", "own1", "own2"}
        await pilot.press("3")
        await until(pilot, lambda: settled(app) and app.shown.drawn[0] == app.shown.rows[2].id)
        await pilot.press("p")
        await until(pilot, lambda: "pinned" in app.board.text().splitlines()[0])
        assert app.view.pinned == {app.shown.rows[2].id}
        await pilot.press("9")
        assert app.view.front == app.shown.rows[2].id


@pytest.mark.slow
async def test_a_run_that_is_not_there_yet_is_waited_for_and_then_followed(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    async with watched(folder, cache=tmp_path / "cache", ready=False) as (app, pilot):
        await until(pilot, lambda: "is not there yet" in app.board.text())
        hub = MessageHub("later")
        hub.attach(Journal(folder / "journal"))
        with hub:
            hub.update_scalar("loss", 1.0, step=0)
            await until(pilot, lambda: bool(app.shown.charts))
            await until(pilot, lambda: "Running" in app.board.text())
            hub.update_scalar("loss", 2.0, step=1000)
            await until(pilot, lambda: app.shown.last == 1000)
        await until(pilot, lambda: "Finished" in app.board.text())
        again = recover(folder)
        again.attach(Journal(folder / "journal"))
        with again:
            again.update_scalar("loss", 3.0, step=2000)
            await until(pilot, lambda: app.shown.last == 2000)


async def test_an_empty_folder_and_a_damaged_journal_are_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    async with watched(tmp_path / "empty", cache=tmp_path / "cache", ready=False) as (app, pilot):
        await until(pilot, lambda: "holds no run" in app.board.text())
    writer = Writer(tmp_path / "damaged")
    for start in range(0, 300, 100):
        writer.points([Point("loss", step, 1.0) for step in range(start, start + 100)])
    writer.close()
    data = bytearray(writer.path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    writer.path.write_bytes(data)
    async with watched(tmp_path / "damaged", cache=tmp_path / "cache", ready=False) as (app, pilot):
        await until(pilot, lambda: "damaged" in app.board.text())


@pytest.mark.slow
async def test_ten_thousand_keys_come_a_page_at_a_time(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "many")
    writer.points([Point(f"key/{number:05d}", step, float(step)) for step in range(2) for number in range(10_000)])
    writer.close()
    async with watched(tmp_path / "many", cache=tmp_path / "cache") as (app, pilot):
        assert app.shown.total == 10_000
        assert "chart 1 of 10,000" in app.board.text()
        await pilot.press(*"jjjjjjj")
        await until(pilot, lambda: settled(app) and app.shown.charts[0].number == 6)
        await pilot.press("slash", *"key/0777*", "enter")
        await until(pilot, lambda: settled(app) and app.shown.total == 10)


EVIL = ["\x1b[2Jcls", "\x1b]0;own3d\x07", "a\nb\rc", "\u202eevil\u202c", "<script>alert(1)</script>", "k" * 10_000,
        "日本/語", "\x9b31m", "e" + "\u0301" * 500]  # fmt: skip


@pytest.mark.parametrize(
    "look", [Look(), pytest.param(Look(letters=False), marks=pytest.mark.slow)], ids=["letters", "ascii"]
)
async def test_nothing_in_a_name_or_a_key_reaches_the_terminal_as_a_control_character(
    tmp_path: Path, look: Look
) -> None:
    writer = Writer(tmp_path / "evil", name="\x1b[31mname\u202e")
    writer.points([Point(key, step, float(step)) for key in EVIL for step in range(9)])
    async with watched(tmp_path / "evil", cache=tmp_path / "cache", look=look, size=(200, 60)) as (app, pilot):
        for key in ("", "j", "enter", "question_mark", "escape", *"jjjjjjj"):
            await pilot.press(*[key] if key else [])
            await until(pilot, lambda: settled(app))
            lines = [app.board.render_line(row).text for row in range(60)]
            assert all(line.isprintable() and cell_len(line) == 200 for line in lines)
            assert look.letters or all(line.isascii() for line in lines)


# --- steering


async def test_without_allow_nothing_can_be_asked(tmp_path: Path) -> None:
    with steered(tmp_path / "run") as run:
        run.hub.attach(Journal(run.folder / "journal"))
        run.hub.update_scalar("loss", 1.0)
        async with watched(run.folder, cache=tmp_path / "cache") as (app, pilot):
            before = run.requests.read_bytes() if run.requests.exists() else b""
            for key in "SRCPV":
                await pilot.press(key)
                assert len(app.screen_stack) == 1
                assert READ_ONLY in app.board.text()
            assert (run.requests.read_bytes() if run.requests.exists() else b"") == before


async def test_a_stop_is_asked_back_confirmed_seen_and_applied(tmp_path: Path) -> None:
    with steered(tmp_path / "run") as run:
        run.hub.attach(Journal(run.folder / "journal"))
        run.hub.update_scalar("loss", 1.0)
        async with watched(run.folder, cache=tmp_path / "cache", allow=("stop", "lr")) as (app, pilot):
            await until(pilot, lambda: "S stop" in words(app.board.text()))
            assert "C checkpoint" not in words(app.board.text()), "the run offers it, but it was not allowed here"
            await pilot.press("S", "escape")
            assert len(app.screen_stack) == 1
            assert not run.hear()
            await pilot.press("S", *"enough", "enter")
            await until(pilot, lambda: "requested" in app.board.text() or "seen" in app.board.text())
            await until(pilot, lambda: run.hub.settle() or run.of(RequestApplied))
            await until(pilot, lambda: "applied" in app.board.text())
            assert run.hub.stop_requested
            text = app.board.text()
            assert "enough" in text
            event = run.of(RequestApplied)[0]
            assert event.reason == "enough"


@pytest.mark.slow
async def test_a_learning_rate_is_checked_and_a_refusal_says_why(tmp_path: Path) -> None:
    with steered(tmp_path / "run") as run:
        run.hub.attach(Journal(run.folder / "journal"))
        run.hub.update_scalar("loss", 1.0)
        async with watched(run.folder, cache=tmp_path / "cache", allow=("lr", "set/w*")) as (app, pilot):
            await until(pilot, lambda: "R rate" in words(app.board.text()))
            await pilot.press("R", "ctrl+u", *"fast", "enter", "enter")
            assert len(app.screen_stack) == 2, "no number"
            await pilot.press("escape")
            await pilot.press("R", "ctrl+u", *"7", "enter", "enter")
            await until(pilot, lambda: "not asked: " in app.board.text())
            assert not run.hear()
            await pilot.press("R", "ctrl+u", *"0.05", "enter", *"calm", "enter")
            await until(pilot, lambda: run.hub.settle() or run.of(RequestApplied))
            assert run.rates["lr"] == 0.05
            await pilot.press("V", "ctrl+u", *"0.02", "enter", "enter")
            await until(pilot, lambda: run.hub.settle() or len(run.of(RequestApplied)) == 2)
            assert run.rates["wd"] == 0.02
            assert not run.of(RequestRefused)


async def test_the_words_of_allow_mean_the_same_in_the_terminal_and_on_the_page(tmp_path: Path) -> None:
    words = ("lr", "pause", "stop", "set/w*", "stop")
    assert allowed_by(words).rules == Steering(words).rules == ("set/lr", "pause", "resume", "stop", "set/w*")
    async with watched(tmp_path, cache=tmp_path / "cache", ready=False, allow=words) as (app, _):
        assert app._allowed.rules == allowed_by(words).rules
    for made in (allowed_by, Steering):
        with pytest.raises(ArgumentError, match="lr is short for set/lr"):
            made(["explode"])


async def test_a_word_that_cannot_be_allowed_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="explode"):
        async with watched(tmp_path, cache=tmp_path / "cache", allow=("explode",)):
            pass


# --- work


async def test_nothing_is_drawn_again_while_nothing_changes(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 1.0) for step in range(100)])
    writer.close()
    async with watched(tmp_path / "run", cache=tmp_path / "cache") as (app, pilot):
        charts = app.shown.charts
        shown = app.shown
        await until(pilot, lambda: app.shown is not shown)
        before = app.board.drawn
        shown = app.shown
        for _ in range(3):
            await until(pilot, lambda shown=shown: app.shown is not shown)
            shown = app.shown
        assert app.board.drawn - before <= 3, "but for the ages"
        assert app.shown.charts is charts or all(a is b for a, b in zip(app.shown.charts, charts, strict=True))


async def test_no_thread_is_left(stopped: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with watched(stopped, cache=tmp_path / "cache"):
        assert any(thread.name == "asynchub watch" for thread in threading.enumerate())
    assert not {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("asynchub")}
    assert os.listdir(stopped / "journal")
