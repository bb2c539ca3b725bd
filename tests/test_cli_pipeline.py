"""The command that shows the pipeline of a run, from another process."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asynchub import Journal, MessageHub
from asynchub.cli import main
from asynchub.dataflow import PipelineReported, PipelineStalled
from asynchub.eventforms import event_to_json
from asynchub.pipeline.layout import laid_out
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.subscribers.jsonl import JsonlLogger
from tests.pipeline.reports import REPORT
from tests.subscribers.terminal import Terminal, run_in_terminal

ROOT = Path(__file__).parent.parent
DONE = dataclasses.replace(REPORT, state="done")


def _reported(report: PipelineReport, **changes: Any) -> PipelineReported:
    report = dataclasses.replace(report, **changes)
    return PipelineReported(key=f"{report.pipeline}/report", pipeline=report.pipeline, report=report.to_dict())


def _out(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert main(["pipeline", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    assert (captured.err == "") == (status == 0)
    return captured.out if status == 0 else captured.err


def _program(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "asynchub", "pipeline", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _watched(run: Path, items: int = 40, until: Callable[[], bool] = lambda: True) -> PipelineReport:
    """Have a real pipeline watched, in a run with a journal; return its last report.

    Args:
        run: folder of the run.
        items: how many it hands on, from when on ``until`` holds.
        until: until then it hands on more.
    """
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal"))
    with hub:
        with Pipeline(hub, "data", interval=0.1, window=1.0, warmup=0.1) as mon:

            @mon.stage("load", concurrency=1)
            def load(number: int) -> int:
                time.sleep(0.01)
                return number

            for number in mon.consume(map(load, _numbers(items, until))):
                hub.update_scalar("train/loss", 1 / (number + 1))
        return mon.report()


def _numbers(items: int, until: Callable[[], bool]) -> Iterator[int]:
    deadline = time.monotonic() + 60
    number = 0
    while not until() and time.monotonic() < deadline:
        yield number
        number += 1
    yield from range(number, number + items)


# --- a run that has ended


@pytest.mark.parametrize("options", [("--once",), ()])
def test_of_a_run_that_has_ended_the_last_report_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    report = _watched(tmp_path)
    assert report.state == "done"
    assert _out(capsys, tmp_path, *options, "--width", 100) == laid_out(report, 100) + "\n"
    assert "load" in laid_out(report)


def test_a_report_as_json_is_its_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _watched(tmp_path, items=5)
    event = json.loads(_out(capsys, tmp_path, "--json"))
    assert (event["event"], event["key"]) == ("PipelineReported", "data/report")
    assert PipelineReport.from_dict(event["report"]) == report


def test_a_report_is_also_found_where_there_is_only_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = MessageHub("run")
    hub.attach(JsonlLogger(tmp_path / "metrics.jsonl"))
    with hub:
        hub.publish(_reported(REPORT))
    assert "INPUT-BOUND" in _out(capsys, tmp_path)


def test_the_newest_report_may_be_far_from_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "journal", segment_size=4096))
    with hub:
        hub.publish(_reported(REPORT))
        hub.publish(_reported(REPORT, elapsed=1234.0))
        for number in range(3000):
            hub.update_scalar("train/loss", number)
    assert "running 00:20:34" in _out(capsys, tmp_path, "--once")


def test_an_old_report_is_said_to_be_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = _reported(REPORT).stamped(1, time.time() - 7500, 0)
    (tmp_path / "metrics.jsonl").write_text(event_to_json(line) + "\n", encoding="utf-8")
    assert _out(capsys, tmp_path, "--once").splitlines()[-1] == "reported 2 h 05 min ago"


def test_of_several_pipelines_one_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "journal"))
    with hub:
        hub.publish(_reported(DONE, pipeline="train_data"))
        hub.publish(_reported(DONE, pipeline="val_data"))
    assert _out(capsys, tmp_path).startswith("val_data ")
    assert _out(capsys, tmp_path, "--name", "train_data").startswith("train_data ")
    assert "no report of the pipeline 'data'" in _out(capsys, tmp_path, "--once", "--name", "data", status=1)


def test_a_run_without_a_pipeline_is_said_to_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "journal"))
    with hub:
        hub.update_scalar("train/loss", 1.0)
    for options in ((), ("--once",), ("--json",)):
        assert "holds no report of a pipeline" in _out(capsys, tmp_path, *options, status=1)


def test_a_run_that_is_not_there_is_an_error_if_it_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not there" in _out(capsys, tmp_path / "none", "--once", status=1)


@pytest.mark.parametrize(("option", "value"), [("--width", 39), ("--name", "a//b")])
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: object
) -> None:
    _out(capsys, tmp_path, option, value, status=2)


# --- a run that goes on


def test_a_run_that_begins_later_is_followed_to_its_end(tmp_path: Path) -> None:
    lines: list[str] = []
    with _program(tmp_path / "run", "--json") as program:
        assert program.stdout is not None
        out = program.stdout

        def read() -> None:
            for line in out:
                lines.append(line)

        reader = threading.Thread(target=read)
        reader.start()
        report = _watched(tmp_path / "run", until=lambda: bool(lines) or not reader.is_alive())
        reader.join(60)
        assert program.stderr is not None
        assert (program.stderr.read(), program.wait(60)) == ("", 0)
    reports = [PipelineReport.from_dict(json.loads(line)["report"]) for line in lines]
    assert len(reports) > 1
    assert reports[-1] == report
    assert [one.elapsed for one in reports] == sorted(one.elapsed for one in reports)


def test_without_a_terminal_changes_are_told_and_the_last_report_is_shown(tmp_path: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "journal"))
    with hub:
        hub.publish(_reported(REPORT, elapsed=1.0))
        with _program(tmp_path, "--width", 80) as program:
            assert program.stdout is not None
            assert (
                program.stdout.readline()[10:] == "data: bottleneck: decode: all of decode is busy 97 % of the time\n"
            )
            hub.publish(PipelineStalled(seconds=12.0, reason="waiting for decode"))
            assert program.stdout.readline()[10:] == "data: stalled for 12 s: waiting for decode\n"
            hub.publish(_reported(DONE))
            out, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (0, "")
    assert out[10:] == f"data: done: 28032 items in 00:12:41\n{laid_out(DONE, 80)}\n"


def test_the_end_of_the_run_is_the_end_even_without_a_last_report(tmp_path: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "journal"))
    with _program(tmp_path, "--width", 80) as program:
        with hub:
            hub.publish(_reported(REPORT))
        out, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (0, "")
    assert out.endswith(laid_out(REPORT, 80) + "\n")


@pytest.mark.skipif(sys.platform == "win32", reason="pty")
def test_in_a_terminal_it_is_a_live_view_that_leaves_the_last_report(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    ready = tmp_path / "ready"
    script = f"""
import pathlib, sys
from asynchub.cli import main
from asynchub.pipeline.view import PipelineView

class View(PipelineView):
    def take(self, events):
        super().take(events)
        pathlib.Path({str(ready)!r}).touch()

sys.modules["asynchub.pipeline.view"].PipelineView = View
sys.exit(main(["pipeline", {str(tmp_path / "run")!r}]))
"""
    found: list[str] = []
    viewer = threading.Thread(
        target=lambda: found.append(run_in_terminal(script, columns=120, PYTHONPATH=os.fspath(ROOT)))
    )
    viewer.start()
    report = _watched(tmp_path / "run", items=80, until=lambda: ready.exists() or not viewer.is_alive())
    viewer.join(60)
    after = Terminal(120, 40).feed(found[0])
    assert not after.cursor_hidden
    lines = after.lines()
    assert sum(line.startswith("data  ") for line in lines) == 1
    assert lines[0] == laid_out(report, 120).splitlines()[0]
    assert re.search(r"done: \d+ items in 00:00:\d\d$", lines[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="pty and SIGINT")
def test_an_interrupted_view_gives_the_terminal_back(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    script = f"""
import os, signal, sys
from asynchub.cli import main
from asynchub.pipeline.view import PipelineView

class View(PipelineView):
    def draw(self):
        super().draw()
        os.kill(os.getpid(), signal.SIGINT)

sys.modules["asynchub.pipeline.view"].PipelineView = View
signal.signal(signal.SIGINT, signal.default_int_handler)
print("status", main(["pipeline", {str(tmp_path / "run")!r}]))
"""
    after = Terminal().feed(run_in_terminal(script, PYTHONPATH=os.fspath(ROOT)))
    assert not after.cursor_hidden
    first, last = after.lines()
    assert first.startswith("waiting for a report of a pipeline in ")
    assert last == "status 130"
