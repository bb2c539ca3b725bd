"""Every event of a run, scrolling."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from asynchub.dashboard.terminal.raw import EventApp
from asynchub.dashboard.terminal.rawlines import MOST, event_line, newest_of
from asynchub.errors import PatternError
from asynchub.events import ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from tests.dashboard.runs import Point, Writer
from tests.dashboard.terminal.apps import until, write_run

EVIL = "\x1b[2J\u202ekey\n"


def test_the_newest_events_are_found_from_the_end(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    for start in range(0, 300, 100):
        writer.points([Point("loss", step, 1.0) for step in range(start, start + 100)])
    events, seq = newest_of(tmp_path / "run", (), 7)
    assert [event.seq for event in events] == list(range(294, 301))
    assert seq == 300
    assert newest_of(tmp_path / "none", (), 7) == ([], 0)
    assert newest_of(tmp_path / "run", ("val/*",), 7) == ([], 300)


def test_an_event_is_a_line_that_does_no_harm() -> None:
    event = ScalarUpdated(key=EVIL, value=3.0, count=2).stamped(7, 1e9, 12_345)
    line = event_line(event, 0)
    assert line.isprintable()
    assert line.split()[1:] == ["7", "12,345", "[2J", "key", "1.500", "(2", "samples)"]
    assert event_line(ScalarUpdated(key="k", value=1.0, count=1).stamped(1, float("nan"), None), 0).startswith(
        "--------"
    )


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_events_follow_stay_and_are_filtered(tmp_path: Path) -> None:
    run = tmp_path / "run"
    app = EventApp(run, (), interval=0.05)
    async with app.run_test(size=(160, 30)) as pilot:
        await until(pilot, lambda: "waiting for the first" in app.board.text())
        write_run(run)
        await until(pilot, lambda: "stop applied at step 340" in app.board.text())
        await pilot.press("g")
        await until(pilot, lambda: "max_iters" in app.board.text())
        await pilot.press("pagedown", "j", "k", "pageup")
        await until(pilot, lambda: "max_iters" in app.board.text())
        await pilot.press("f")
        await until(pilot, lambda: "stop applied at step 340" in app.board.text())
        await _filter(pilot, "val/*")
        await until(pilot, lambda: "val/accuracy" in app.board.text() and "train/loss" not in app.board.text())
        await _filter(pilot, "improved")
        await until(pilot, lambda: "has not improved" in app.board.text() and "0.9000" not in app.board.text())
        await _filter(pilot, "a//*")
        await until(pilot, lambda: "empty level" in app.board.text())
        await pilot.press("q")
        await until(pilot, lambda: app.return_value == 0)


async def _filter(pilot: Pilot[int], text: str) -> None:
    await pilot.press("slash", "ctrl+u", *text, "enter")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_held_has_a_limit_and_what_was_seen_is_counted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal"))
    app = EventApp(run, ("loss",), interval=0.05)
    async with app.run_test(size=(100, 20)) as pilot:
        with hub:
            for step in range(MOST + 500):
                hub.update_scalar("loss", 1.0, step=step)
                hub.update_scalar("other", 1.0, step=step)
        await until(pilot, lambda: f"{MOST + 500 - 1:,}" in app.board.text(), "the last event")
        assert len(app._tail.events) <= MOST
        assert app._tail.seen >= len(app._tail.events)
        assert "other" not in app.board.text()


def test_a_pattern_that_is_malformed_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(PatternError):
        EventApp(tmp_path, ("a//b",))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_damaged_journal_is_said(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    for start in range(0, 300, 100):
        writer.points([Point("loss", step, 1.0) for step in range(start, start + 100)])
    writer.close()
    data = bytearray(writer.path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    writer.path.write_bytes(data)
    app = EventApp(tmp_path / "run", ())
    async with app.run_test(size=(160, 20)) as pilot:
        await until(pilot, lambda: "300" in app.board.text() or "damaged" in app.board.text())
