"""A run that is seen while a real process writes it, is killed, and goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asynchub import Journal, MessageHub, recover
from asynchub.dashboard.pyramid import Pyramid
from tests.dashboard.runs import Point
from tests.dashboard.test_pyramid import check

pytestmark = pytest.mark.usefixtures("_grown_up")

PROGRAM = """
import sys, time
from pathlib import Path
from asynchub import Journal, MessageHub
run, count, level = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
hub = MessageHub("run")
hub.attach(Journal(run / "journal", level=level, interval=0.02, tail=65_536, segment_size=40_000))
with hub:
    for hub.step in range(count):
        hub.update_scalar("loss", hub.step / 3)
        if hub.step % 10 == 0:
            hub.update_scalar("norm", float(hub.step), count=2)
            hub.update_scalar("lr", 0.5, count=2)
        if hub.step % 500 == 499:
            time.sleep(0.01)
            hub.update_info("epoch", hub.step // 500)
    if sys.argv[4] == "wait":
        print("done", flush=True)
        time.sleep(1000)
"""


def _points(count: int, start: int = 0) -> list[Point]:
    points = []
    for step in range(start, count):
        points.append(Point("loss", step, step / 3))
        if step % 10 == 0:
            points += [Point("norm", step, float(step), 2), Point("lr", step, 0.5, 2)]
    return points


@contextmanager
def _writing(run: Path, count: int, level: str, end: str) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", PROGRAM, str(run), str(count), level, end]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def _until(condition: Any, *pyramids: Pyramid) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, [pyramid.problem for pyramid in pyramids]
        for pyramid in pyramids:
            pyramid.update()


@pytest.mark.parametrize("level", ["process", "memory"])
def test_a_run_is_seen_whole_while_another_process_writes_it(level: str, tmp_path: Path) -> None:
    seen: list[int] = []
    with (
        Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid,
        Pyramid(tmp_path / "run", tmp_path / "cache") as other,
        _writing(tmp_path / "run", 8000, level, "close") as program,
    ):
        while program.poll() is None:
            for viewer in (pyramid, other):
                viewer.update()
            count = pyramid.count("loss")
            if count and count != (seen or [0])[-1]:
                seen.append(count)
                extent = pyramid.extent("loss")
                assert extent is not None
                assert extent[0] == 0
                assert extent[1] == count - 1
                rows = pyramid.rows("loss", len(seen) % 3)
                assert int(rows.points.sum()) == count
                assert float(rows.sum.sum()) == pytest.approx(count * (count - 1) / 6)
        assert program.returncode == 0
        _until(lambda: pyramid.count("loss") == other.count("loss") == 8000, pyramid, other)
        check(pyramid, _points(8000))
        check(other, _points(8000))
        assert [value for _, value in pyramid.epochs] == list(range(16))
    assert seen == sorted(seen)


def test_what_is_in_the_tail_only_is_seen_of_a_killed_run_and_of_the_one_that_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        Pyramid(run, tmp_path / "cache") as pyramid,
        _writing(run, 3000, "process", "wait") as program,
    ):
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(signal.SIGKILL)
        program.wait(20)
        _until(lambda: pyramid.count("loss") == 3000, pyramid)
        check(pyramid, _points(3000))

        hub = recover(run)
        hub.attach(Journal(run / "journal", interval=0.01))
        for hub.step in range(3000, 3300):
            hub.update_scalar("loss", hub.step / 3)
            if hub.step % 10 == 0:
                hub.update_scalar("norm", float(hub.step), count=2)
                hub.update_scalar("lr", 0.5, count=2)
        _until(lambda: pyramid.count("loss") == 3300, pyramid)
        check(pyramid, _points(3300))
        hub.close()
        pyramid.update()
        check(pyramid, _points(3300))


def test_a_run_that_is_resumed_from_an_earlier_state_has_only_what_counts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Pyramid(run, tmp_path / "cache") as pyramid:
        hub = MessageHub("run")
        hub.attach(Journal(run / "journal", interval=0.01))
        for hub.step in range(700):
            hub.update_scalar("loss", float(hub.step))
            if hub.step == 450:
                mark = hub.mark()
            if hub.step % 50 == 0:
                pyramid.update()
        hub.close()
        _until(lambda: pyramid.count("loss") == 700, pyramid)
        hub = recover(run, mark=mark)
        hub.attach(Journal(run / "journal", interval=0.01))
        for hub.step in range(451, 600):
            hub.update_scalar("loss", -float(hub.step))
        hub.commit()
        points = [Point("loss", step, float(step)) for step in range(451)]
        points += [Point("loss", step, -float(step)) for step in range(451, 600)]
        _until(lambda: pyramid.count("loss") == 600, pyramid)
        check(pyramid, points)
        assert len(pyramid.rewinds) == 1
        hub.close()
    with Pyramid(run, tmp_path / "cache") as again:
        again.update()
        check(again, points)
