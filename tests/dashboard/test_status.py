"""Whether a run is alive: of processes that run, are killed, and go on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asynchub import Journal, MessageHub, recover
from asynchub.dashboard.view import RunView
from asynchub.dashboard.writers import writer_in
from asynchub.requests import Paused, PauseEnded
from asynchub.subscribers.jsonl import JsonlLogger
from tests.dashboard.runs import RUN_ID, Point, Writer

PROGRAM = """
import sys, time
from pathlib import Path
from asynchub import Journal, MessageHub, recover
run = Path(sys.argv[1])
hub = recover(run) if (run / "journal").exists() else MessageHub("child")
hub.attach(Journal(run / "journal", interval=0.02))
hub.update_info("max_iters", 10_000_000)
with hub:
    while not hub.stop_requested:
        hub.step += 1
        hub.update_scalar("loss", hub.step / 3)
        time.sleep(0.001)
"""


@contextmanager
def _running(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(run)]) as program:
        try:
            yield program
        finally:
            program.kill()


def _until(condition: Callable[[], Any], view: RunView) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, view.screen()
        view.update()


def _state(view: RunView) -> str:
    return view.screen().status.state


def test_a_run_is_seen_to_run_to_be_killed_and_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunView(run, tmp_path / "cache") as view:
        view.update()
        assert _state(view) == "unknown"
        with _running(run) as program:
            _until(lambda: (view.screen().status.step or 0) > 400, view)
            status = view.screen().status
            assert (status.state, status.word, status.level) == ("running", "Running", "good")
            assert status.total == 10_000_000
            assert status.age is not None
            assert status.age < 10
            _until(lambda: view.screen().status.rate is not None, view)
            assert view.screen().status.seconds_left is not None
            program.send_signal(signal.SIGKILL)
            program.wait(20)
            _until(lambda: _state(view) == "crashed", view)  # it may take a second
            status = view.screen().status
            assert (status.state, status.level) == ("crashed", "bad")
            assert "killed" in status.lines[-1].text
            assert view.row().state == "crashed"
        with _running(run):
            step = view.screen().status.step or 0
            _until(lambda: (view.screen().status.step or 0) > step + 50, view)
            assert _state(view) == "running"


def test_a_run_that_was_closed_has_finished_and_one_that_was_to_go_further_has_ended_early(tmp_path: Path) -> None:
    for name, limit, word in (("a", None, "Finished"), ("b", 10, "Finished"), ("c", 11, "Ended early")):
        hub = MessageHub(name)
        hub.attach(Journal(tmp_path / name / "journal"))
        if limit is not None:
            hub.update_info("max_iters", limit)
        for hub.step in range(10):
            hub.update_scalar("loss", 1.0)
        hub.close()
        with RunView(tmp_path / name, tmp_path / "cache") as view:
            assert view.row().word == word
            view.update()
            assert (view.screen().status.state, view.row().word) == ("finished", word)


def test_a_run_whose_writer_lives_is_silent_when_nothing_comes_for_longer_than_usual(tmp_path: Path) -> None:
    hub = MessageHub("slow")
    hub.attach(Journal(tmp_path / "run" / "journal", interval=0.01))
    hub.update_scalar("loss", 1.0)
    hub.commit()
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        view.update()
        now = time.time()
        assert view.screen(now + 9).status.state == "running"
        silent = view.screen(now + 41).status
        assert (silent.state, silent.level) == ("silent", "warn")
        assert silent.word.startswith("Silent for 4")
        assert silent.lines[-1].text == "its process lives"
        hub.close()


def test_what_a_run_often_takes_is_not_silence(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 1.0) for step in range(5)], time=1e9)  # one a second
    writer.points([Point("loss", step, 1.0) for step in range(5, 10)], time=1e9 + 60)  # after an evaluation
    (writer.folder / "LOCK").write_bytes(b"process 1 on elsewhere\n")
    newest = 1e9 + 60 + 10
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        view.update()
        assert view.screen(newest + 50).status.state == "running"
        assert view.screen(newest + 80).status.state == "silent"


def test_of_a_writer_on_another_machine_only_what_comes_tells(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 1.0) for step in range(5)])
    (writer.folder / "LOCK").write_bytes(b"process 1 on elsewhere\n")
    assert writer_in(writer.folder) == "unseen"
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        view.update()
        assert view.screen(1e9 + 6).status.state == "running"
        status = view.screen(1e9 + 600).status
        assert status.state == "silent"
        assert "another machine" in status.lines[-1].text


def test_a_copy_of_a_journal_that_was_not_closed_is_not_said_to_run(tmp_path: Path) -> None:
    hub = MessageHub("copied")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    hub.update_scalar("loss", 1.0)
    hub.commit()
    shutil.copytree(tmp_path / "run", tmp_path / "copy", ignore=shutil.ignore_patterns("LOCK"))
    hub.close()
    shutil.copytree(tmp_path / "run", tmp_path / "closed", ignore=shutil.ignore_patterns("LOCK"))
    for name, state in (("copy", "unknown"), ("closed", "finished")):
        with RunView(tmp_path / name, tmp_path / "cache") as view:
            view.update()
            assert view.screen().status.state == state


def test_a_lock_without_a_process_is_of_a_run_that_crashed(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 1.0) for step in range(5)])
    assert writer_in(writer.folder) == "none"
    (writer.folder / "LOCK").write_bytes(b"process 4194305\n")
    assert writer_in(writer.folder) in ("gone", "unseen")  # in a container nobody can be sure
    (writer.folder / "LOCK").write_bytes(b"released\n")
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        assert view.row().state == "crashed"
        view.update()
        assert view.screen().status.state == "crashed"


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_clock_that_jumps_is_said_and_no_rate_comes_of_it(seconds: float, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 1.0) for step in range(100)])
    writer.points([Point("loss", step, 1.0) for step in range(100, 200)], time=1e9 + seconds)
    (writer.folder / "LOCK").write_bytes(b"process 1 on elsewhere\n")
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        view.update()
        screen = view.screen(1e9 + seconds + 201)
        assert screen.status.state == "running"
        assert screen.status.rate is None
        told = [line.text for line in screen.alerts]
        assert told == (["the clock of the run went back by 3599 s"] if seconds < 0 else [])


def test_a_clock_that_is_ahead_of_the_viewers_is_said(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    ahead = time.time() + 7200
    writer.points([Point("loss", 0, 1.0)], time=ahead)
    (writer.folder / "LOCK").write_bytes(b"process 1 on elsewhere\n")
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        view.update()
        assert view.screen().status.age == 0
        writer.points([Point("loss", 1, 1.0)], time=ahead)
        _until(lambda: view.screen().seq == 2, view)
        screen = view.screen()
        assert screen.status.state == "running"
        assert screen.status.age is not None
        assert screen.status.age < 5
        assert screen.alerts[0].text.endswith("ahead of this one")


def test_an_empty_journal_and_an_empty_folder_are_said(tmp_path: Path) -> None:
    hub = MessageHub("empty")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        view.update()
        assert (_state(view), view.row().word) == ("unknown", "No event yet")
        (tmp_path / "none").mkdir()
    for folder in ("none", "nowhere"):
        with RunView(tmp_path / folder, tmp_path / "cache") as view:
            view.update()
            screen = view.screen()
            assert screen.status.state == "unknown"
            assert "holds neither a journal nor a snapshot nor metrics.jsonl" in screen.row.problem
            assert screen.row.problem in [line.text for line in screen.alerts]
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        view.update()
        hub.update_scalar("loss", 1.0)
        hub.commit()
        _until(lambda: _state(view) == "running", view)
        assert view.row().problem == ""
    hub.close()


def test_runs_without_a_journal_are_said_to_be_unknown_or_over_as_far_as_can_be_told(tmp_path: Path) -> None:
    hub = MessageHub("loose")
    hub.attach(JsonlLogger(tmp_path / "log" / "metrics.jsonl"))
    hub.update_info("max_iters", 20)
    with hub:
        for hub.step in range(10):
            hub.update_scalar("loss", float(hub.step), count=2)
        hub.update_scalar("bad", float("nan"))
        hub.request_stop("enough")
        hub.settle()
        (tmp_path / "snapshot").mkdir()
        hub.save(tmp_path / "snapshot")
    with RunView(tmp_path / "log", tmp_path / "cache") as view:
        view.update()
        screen = view.screen()
        assert screen.status.state == "unknown"
        assert "metrics.jsonl" in screen.status.lines[-1].text
        assert screen.status.step == 9
        assert screen.status.reason == "enough"
        assert (screen.charts[0].key, screen.row.metrics["loss"]) == ("loss", "4.500")
        assert screen.alerts[0].text == "1 NaN in bad, step 9, and still"
        assert view.screen(time.time() + 60).status.state == "stopped"
        with (tmp_path / "log" / "metrics.jsonl").open("a") as file:
            file.write(
                '{"event": "ScalarUpdated", "seq": 90, "time": 1e9, "step": 19, "key": "loss", "value": 1.0}\nx\n{"a'
            )
        view.update()
        assert view.screen().status.state == "finished"
        assert "no event" in view.row().problem
    with RunView(tmp_path / "snapshot", tmp_path / "cache") as view:
        view.update()
        screen = view.screen(time.time() + 60)
        assert screen.status.state == "stopped"
        assert screen.status.reason == "enough"
        assert (screen.status.step, screen.row.metrics["loss"]) == (9, "4.500")
        assert screen.row.config == {"max_iters": "20"}
        assert screen.alerts[0].text == "1 NaN in bad, and still"


@pytest.mark.parametrize("newest", [False, True], ids=["in an old segment", "in the newest"])
def test_a_damaged_journal_is_said_with_its_place_and_seen_around_it(newest: bool, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    sizes = []
    for frame in range(10):
        sizes.append(writer.path.stat().st_size)
        writer.points([Point("loss", step, 1.0) for step in range(10 * frame, 10 * frame + 10)])
    damaged = writer.path
    if not newest:
        writer.begin_segment()
        writer.points([Point("late", step, 2.0) for step in range(100, 110)])
    writer.close()
    data = bytearray(damaged.read_bytes())
    data[sizes[4] + 50] ^= 1
    damaged.write_bytes(data)
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        while view.update():
            pass
        screen = view.screen()
        assert screen.status.step == (99 if newest else 109)
        assert screen.status.state == "finished"
        wanted = f"{damaged}: damaged from byte {sizes[4]} on: events 41 to event 50 cannot be read"
        assert screen.alerts[0].text == wanted
        assert screen.alerts[0].level == "bad"
        assert "curves end before the damage" in screen.alerts[1].text
        assert screen.row.problem == wanted


def test_another_run_in_the_same_folder_is_begun_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = Writer(run, name="first")
    first.points([Point("loss", step, 1.0) for step in range(5)])
    first.close()
    with RunView(run, tmp_path / "cache") as view:
        view.update()
        assert view.row().name == "first"
        shutil.rmtree(run)
        second = Writer(run, RUN_ID[::-1], "second")
        second.points([Point("acc", step, 1.0) for step in range(3)])
        second.close()
        _until(lambda: view.row().name == "second" and view.pyramid.keys == ["acc"], view)
        assert list(view.row().metrics) == ["acc"]


def test_a_run_that_is_deleted_while_it_is_looked_at_crashes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    writer = Writer(run)
    writer.points([Point("loss", step, 1.0) for step in range(5)])
    with RunView(run, tmp_path / "cache") as view:
        view.update()
        shutil.rmtree(run)
        view.update()
        assert view.screen().status.state == "unknown"
        assert view.keys()[0] == 1


def test_a_recovered_hub_that_was_stopped_is_not_running(tmp_path: Path) -> None:
    run = tmp_path / "run"
    hub = MessageHub("stopped")
    hub.attach(Journal(run / "journal", interval=0.01))
    hub.update_scalar("loss", 1.0)
    hub.request_stop("enough")
    hub.settle()
    hub.close()
    recover(run).close()
    with RunView(run, tmp_path / "cache") as view:
        view.update()
        assert view.screen().status.state == "stopped"


def test_a_run_that_waits_because_somebody_asked_for_it_is_paused_and_not_silent(tmp_path: Path) -> None:
    hub = MessageHub("paused")
    hub.attach(Journal(tmp_path / "run" / "journal", interval=0.01))
    hub.publish(Paused(seconds=600.0, author="alice", reason="lunch"))
    hub.commit()
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        view.update()
        status = view.screen(time.time() + 100).status
        assert (status.state, status.word) == ("running", "Paused")
        assert "paused by alice: lunch, for 10:00 at most" in [line.text for line in status.lines]
        hub.publish(PauseEnded(seconds=100.0))
        hub.commit()
        _until(lambda: view.screen().status.word == "Running", view)
        assert view.screen().marks[0].what == "went on after 1:40"
    hub.close()
