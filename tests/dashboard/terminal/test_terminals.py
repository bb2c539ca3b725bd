"""``watch`` in a real terminal, and where there is none."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asynchub.dashboard.asking import steerable
from asynchub.dashboard.view import RunView
from asynchub.events import ScalarUpdated
from asynchub.overlay_rows import LABEL
from asynchub.recorded import recorded_events
from asynchub.requests import Paused, PauseEnded, RequestApplied
from tests.dashboard.runs import Point, Writer
from tests.dashboard.terminal.apps import write_run
from tests.dashboard.terminal.terminals import COMMAND, ROOT, WATCH, Terminal, terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")

COLOUR = re.compile(rb"\x1b\[[0-9;:]*?(?:^|;|\[)(3[0-7]|38|4[0-7]|48|9[0-7]|10[0-7])[;:m]")
LEFT = (b"\x1b[?1049l", b"\x1b[?25h")
"""What gives back the screen and the cursor."""
TRAIN = """
import sys, time
from asynchub import Journal, MessageHub, RemoteControl
hub = MessageHub("steerable")
hub.attach(Journal(sys.argv[1] + "/journal"))
hub.attach(RemoteControl(sys.argv[1], allow=("pause", "stop")))
with hub:
    while not hub.stop_requested:
        hub.step += 1
        hub.update_scalar("loss", 1 / hub.step)
        hub.settle()
        time.sleep(0.005)  # it trains
"""
FRAME = 0.05
"""Seconds from a key to what it shows, promised where nothing else keeps the machine busy."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that a rule has stopped."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    write_run(folder, "stopped")
    return folder


def is_left_as_it_was(shown: Terminal, before: list[object]) -> bool:
    """Tell whether a terminal has its modes, its screen and its cursor back."""
    return all(one in shown.output for one in LEFT) and shown.modes() == before


def test_the_view_comes_answers_keys_at_once_and_leaves_the_terminal_as_it_was(stopped: Path, tmp_path: Path) -> None:
    with terminal(WATCH, "charts", tmp_path / "cache", stopped) as shown:
        before = shown.modes()
        shown.until("Stopped")
        shown.until("each value drawn")
        took = []
        for key, text in ((b"j", "┏"), (b"k", "┏"), (b"?", "Keys"), (b" ", ""), (b"+", "steps ")):
            shown.rest()
            since = len(shown.output)
            shown.press(key)
            if text:
                took.append(shown.until(text, since))
        assert statistics.median(took) < 10 * FRAME, took  # of a machine with much else to do
        since = len(shown.output)
        shown.resize(80, 24)
        shown.until("stops:", since)
        assert COLOUR.search(shown.output)
        shown.press(b"q")
        assert shown.end() == 0
        assert is_left_as_it_was(shown, before)


def test_no_color_is_kept(stopped: Path, tmp_path: Path) -> None:
    with terminal(WATCH, "charts", tmp_path / "cache", stopped, environment={"NO_COLOR": "1"}) as shown:
        shown.until("each value drawn")
        shown.press(b"?")
        shown.until("Keys")
        shown.press(b"\x03")
        assert shown.end() == 130
        assert not COLOUR.search(shown.output)


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "status"), [(b"\x03", 130), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)])
def test_ctrl_c_and_signals_leave_the_terminal_as_it_was(
    stopped: Path, tmp_path: Path, keys: bytes | signal.Signals, status: int
) -> None:
    with terminal(WATCH, "charts", tmp_path / "cache", stopped) as shown:
        before = shown.modes()
        shown.until("each value drawn")
        if isinstance(keys, bytes):
            shown.press(keys)
        else:
            os.kill(shown.pid, keys)
        assert shown.end() == status
        assert is_left_as_it_was(shown, before)


@pytest.mark.slow
def test_an_error_leaves_the_terminal_as_it_was_and_is_told(stopped: Path, tmp_path: Path) -> None:
    broken = "import asynchub.dashboard.terminal.feed as f\nf.draw = None\n" + WATCH
    with terminal(broken, "charts", tmp_path / "cache", stopped) as shown:
        before = shown.modes()
        assert shown.end() == 1
        assert "TypeError" in shown.text()
        assert is_left_as_it_was(shown, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("colour", "environment", "wanted"),
    [
        (b"ffff/ffff/ffff", {}, b"38;2;32;36;43"),
        (b"1414/1616/1b1b", {"COLORFGBG": "0;15"}, b"38;2;216;220;227"),
        (b"", {"COLORFGBG": "0;15"}, b"38;2;32;36;43"),
        (b"", {}, b"38;2;216;220;227"),
    ],
    ids=["light", "dark", "told by COLORFGBG", "unknown"],
)
def test_the_colours_follow_the_ground_of_the_terminal(
    stopped: Path, tmp_path: Path, colour: bytes, environment: dict[str, str], wanted: bytes
) -> None:
    with terminal(WATCH, "charts", tmp_path / "cache", stopped, colour=colour, environment=environment) as shown:
        shown.until("each value drawn")
        assert wanted in shown.output
        shown.press(b"q")
        shown.end()


@pytest.mark.slow
def test_a_terminal_without_unicode_gets_plain_characters(stopped: Path, tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    with terminal(WATCH, "charts", tmp_path / "cache", stopped, environment=environment) as shown:
        shown.until("each value drawn")
        shown.press(b"?")
        shown.until("Keys")
        shown.rest()
        shown.press(b" ")
        shown.rest()
        shown.press(b"q")
        assert shown.end() == 0
        assert shown.output.isascii()
        assert b"\\u" not in shown.output


@pytest.mark.slow
def test_every_event_scrolls_and_can_be_filtered(stopped: Path, tmp_path: Path) -> None:
    with terminal(WATCH, "events", tmp_path / "cache", stopped) as shown:
        before = shown.modes()
        shown.until("stop applied at step")
        since = len(shown.output)
        shown.press(b"/val/*\r")
        shown.until("only val/*", since)
        shown.press(b"q")
        assert shown.end() == 0
        assert is_left_as_it_was(shown, before)


@pytest.mark.slow
def test_the_command_tries_a_rule_and_says_that_it_is_no_forecast(stopped: Path, tmp_path: Path) -> None:
    with terminal(COMMAND, "watch", stopped, "--cache", tmp_path / "cache", size=(80, 24)) as shown:
        before = shown.modes()
        shown.until("each value drawn")
        shown.press(b"w")
        shown.until("Enter: try it")
        shown.press(b"\r")
        for text in ("stops at step", "best kept", "steps saved", LABEL):
            shown.until(text)
        shown.until("what if: " + LABEL)
        shown.rest()
        since = len(shown.output)
        shown.press(b"\x1b")
        shown.until("/ filter", since)  # which it had covered
        shown.press(b"q")
        assert shown.end() == 0
        assert is_left_as_it_was(shown, before)


@contextmanager
def training(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that can be steered, in a process of its own, once it can be asked."""
    with subprocess.Popen([sys.executable, "-c", TRAIN, str(run)], cwd=ROOT) as process:
        try:
            deadline = time.monotonic() + 30
            while not steerable(run)[0]:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_run_in_another_process_is_paused_resumed_and_stopped_from_the_terminal(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--allow", "pause,stop", "--cache", str(tmp_path / "cache"))
    with training(run) as process, terminal(COMMAND, "watch", run, *options) as shown:
        shown.until("Running")
        shown.until("P pause")
        for keys, question, reason, became in (
            (b"P", "Pause steerable?", b"look at it", "Paused"),
            (b"P", "Let steerable go on?", b"seen it", "Running"),
            (b"S", "Stop steerable?", b"enough", "Stopped"),
        ):
            since = len(shown.output)
            shown.press(keys)
            shown.until(question, since)
            shown.press(reason + b"\r")
            shown.until(became, since)
            if became == "Paused":
                shown.until("P resume", since)
                paused_at = step_of(run)
                shown.until("look at it", since)
                assert step_of(run) == paused_at, "it stands still"
        assert process.wait(30) == 0
        shown.press(b"q")
        assert shown.end() == 0
    kinds = (Paused, PauseEnded, ScalarUpdated, RequestApplied)
    events = list(recorded_events(run, *kinds, "**"))
    begun = next(number for number, event in enumerate(events) if isinstance(event, Paused))
    ended = next(number for number, event in enumerate(events) if isinstance(event, PauseEnded))
    assert not any(isinstance(event, ScalarUpdated) for event in events[begun:ended])
    assert isinstance(events[begun - 1], ScalarUpdated | RequestApplied)
    assert any(isinstance(event, ScalarUpdated) for event in events[ended:])
    told = [(event.request, event.reason) for event in events if isinstance(event, RequestApplied)]
    assert told == [
        ("PauseRequested", "look at it"),
        ("ResumeRequested", "seen it"),
        ("StopRequested", "enough"),
    ]


def step_of(run: Path) -> int | None:
    """Return how far a run is."""
    with RunView(run, run / "cache") as view:
        view.update()
        return view.screen().status.step


def piped(run: Path, cache: Path, kind: str = "charts") -> subprocess.CompletedProcess[str]:
    """Return what ``watch`` writes where there is no terminal."""
    return subprocess.run(
        [sys.executable, "-c", WATCH, kind, cache, run],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_terminal_there_are_plain_lines_until_the_run_ends(stopped: Path, tmp_path: Path) -> None:
    done = piped(stopped, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert re.match(r"\d\d:\d\d:\d\d  Stopped · step 340 of 1,000", lines[0])
    assert any("step 340: EarlyStopping: stop" in line for line in lines)
    assert any("wrong: 10 NaN in train/grad_norm" in line for line in lines)


@pytest.mark.slow
def test_without_a_terminal_every_event_is_a_line_until_the_run_ends(stopped: Path, tmp_path: Path) -> None:
    done = piped(stopped, tmp_path / "cache", "events")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) >= 10
    assert "stop applied at step 340 by EarlyStopping" in done.stdout


DYING = """
import os, sys, time
from pathlib import Path
from asynchub import Journal, MessageHub
hub = MessageHub("dying")
hub.attach(Journal(Path(sys.argv[1]) / "journal"))
with hub:
    for step in range(100):
        hub.update_scalar("loss", 1.0 / (step + 1), step=step)
    print("wrote", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["charts", "events"])
def test_plain_lines_tell_that_a_run_came_and_that_it_died(tmp_path: Path, kind: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WATCH, kind, tmp_path / "cache", tmp_path / "run"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        if kind == "charts":
            assert "is not there yet" in watching.stdout.readline()
        with subprocess.Popen(
            [sys.executable, "-c", DYING, tmp_path / "run"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as run:
            assert run.stdout is not None
            assert run.stdin is not None
            run.stdout.readline()
            said = watching.stdout.readline()
            if kind == "charts":
                assert "Running" in said
            run.stdin.write(b"\n")
            run.stdin.close()
            run.wait(30)
        rest = watching.stdout.read()
        assert watching.wait(60) == 0
        if kind == "charts":
            assert "Crashed" in rest
        else:
            assert (said + rest).count("loss") >= 10
            assert rest.splitlines()[-1].split()[2] == "99"


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_it(stopped: Path, tmp_path: Path) -> None:
    code = f"{sys.executable} -m asynchub watch {stopped} --cache {tmp_path} | head -1"
    told = subprocess.run(
        [sys.executable, "-m", "asynchub", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    if "\n    watch " not in told.stdout:
        pytest.skip("the command is not there")
    done = subprocess.run(code, shell=True, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


@pytest.mark.slow
def test_a_day_of_looking_takes_no_more_memory_than_a_minute(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    step = 0

    def grow(count: int) -> None:
        nonlocal step
        writer.points([Point(f"key{n}", s, float(s % 7)) for s in range(step, step + count) for n in range(4)])
        step += count

    grow(20_000)
    with terminal(WATCH, "charts", tmp_path / "cache", tmp_path / "run") as shown:
        shown.until("counted")
        sizes = []
        for round_ in range(60):
            grow(500)
            shown.press((b"j", b"k", b"+", b"-", b"s", b"L")[round_ % 6])
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline:
                shown.read(0.05)
            sizes.append(_resident(shown.pid))
        shown.press(b"q")
        shown.end()
    assert sizes[-1] - sizes[19] < 8e6, [round(size / 1e6, 1) for size in sizes]


def _resident(pid: int) -> float:
    """Return bytes of memory that a process has."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("there is no /proc here")
    return 1024.0 * int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])  # type: ignore[index]
