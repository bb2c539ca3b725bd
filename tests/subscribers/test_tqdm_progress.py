"""TqdmProgress: the bar itself; what happens around it on a terminal is in test_torn_lines."""

from __future__ import annotations

import io
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("tqdm")

from asynchub.errors import ArgumentError, PatternError
from asynchub.events import EventsDropped, InfoUpdated, ScalarUpdated, StateLoaded
from asynchub.hub import MessageHub
from asynchub.redirecting import AboveBar, above_bar
from asynchub.requests import StopRequested
from asynchub.subscribers.tqdm_progress import TqdmProgress
from tests.subscribers.observing import observe, observed, scalars, stamped
from tests.subscribers.terminal import Terminal


class TerminalFile(io.StringIO):
    """A file that says it is a terminal, of no known size."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 0

    def lines(self) -> list[str]:
        return Terminal(200).feed(self.getvalue()).lines()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> TerminalFile:
    monkeypatch.setattr("os.get_terminal_size", lambda *descriptor: __import__("os").terminal_size((0, 0)))
    monkeypatch.setenv("COLUMNS", "161")
    monkeypatch.setenv("LINES", "40")
    return TerminalFile()


def a_run(first: int = 1) -> list[Any]:
    events: list[Any] = [InfoUpdated(key="max_iters", value=20, step=first - 1)]
    for step in range(first, first + 10):
        events += scalars((step, "train/loss", 1 / step), (step, "data/wait_s", 0.0123))
    events += scalars((step, "val/loss", 0.25), (step, "val/accuracy", 0.9))
    events += [StopRequested(step=step, reason="no progress", author="stopper"), EventsDropped(step=step, missed=2)]
    return stamped(events)


PRINTED = [
    "val at step 10: loss 0.2500, accuracy 0.9000",
    "> stop requested at step 10 by stopper: no progress",
    "! 2 events dropped at step 10: this view fell behind",
]
BEHIND = (
    "10/20 [00:10<00:10,  1.00step/s, train/loss=0.1000, data/wait_s=12.3 ms, val/loss=0.2500, val/accuracy=0.9000]"
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_terminal_gets_a_bar_under_results_and_decisions(backend: str, terminal: TerminalFile) -> None:
    observe(TqdmProgress(file=terminal), a_run(), backend=backend)
    *above, bar = terminal.lines()
    assert above == PRINTED
    assert bar.startswith(" 50%|")
    assert bar.split("| ")[1].startswith("10/20 [00:10<00:11,  1.17s/step, train/loss=0.1000")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_file_gets_plain_lines(backend: str) -> None:
    file = io.StringIO()
    observe(TqdmProgress(file=file, desc="run"), a_run(), backend=backend)
    text = file.getvalue()
    assert text.splitlines() == [*PRINTED, f"run:  50% {BEHIND}"]
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_file_gets_a_line_every_ten_seconds_of_the_run() -> None:
    file = io.StringIO()
    events = stamped(scalars(*((step, "loss", 1.0) for step in range(1, 101))), seconds=1.0)
    observe(TqdmProgress(file=file), *[[event] for event in events])
    steps = [int(line.split("step")[0]) for line in file.getvalue().splitlines()]
    assert steps == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]


def test_a_file_that_lacks_letters_gets_escapes() -> None:
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    observe(TqdmProgress(file=file), stamped([*scalars((1, "val/größe", 1.0))]))
    file.seek(0)
    assert "val at step 1: gr\\xf6\\xdfe 1.000" in file.read()


def test_a_resumed_run_is_not_taken_for_a_fast_one(terminal: TerminalFile) -> None:
    observe(TqdmProgress(file=terminal, total=2000), [StateLoaded(step=1000, seq=1, time=0.0), *a_run(1001)])
    assert "1010/2000 [00:10<19:15,  1.17s/step" in terminal.lines()[-1]
    file = io.StringIO()
    observe(TqdmProgress(file=file, total=2000, initial=1005), stamped(scalars((1006, "a", 1.0), (1010, "a", 1.0)), 1))
    assert "1010/2000 [00:01<04:07,  4.00step/s" in file.getvalue()


def test_a_state_loaded_amid_a_run_begins_another_part_of_it() -> None:
    file = io.StringIO()
    before, after = scalars((1, "a", 1.0), (2, "a", 1.0)), scalars((1001, "a", 1.0), (1003, "a", 1.0))
    observe(TqdmProgress(file=file, total=2000), stamped([*before, StateLoaded(step=1000), *after], seconds=2.0))
    observe(TqdmProgress(file=file, total=2000), stamped([*before, StateLoaded(step=1000)]))
    assert "1003/2000 [00:02<16:37,  1.00step/s" in file.getvalue()


def test_it_can_be_shown_again(terminal: TerminalFile) -> None:
    progress = TqdmProgress(file=terminal)
    observe(progress, a_run())
    observe(progress, a_run(11))
    bars = [line for line in terminal.lines() if "/20 [" in line]
    assert ["10/20" in bars[0], "20/20" in bars[1]] == [True, True]


def test_a_bar_that_is_not_to_stay_goes(terminal: TerminalFile) -> None:
    observe(TqdmProgress(file=terminal, leave=False), a_run())
    assert terminal.lines() == PRINTED


@pytest.mark.parametrize("events", [[], stamped([InfoUpdated(key="max_iters", value=20)])])
def test_a_run_without_values_leaves_an_empty_bar(events: list[Any], terminal: TerminalFile) -> None:
    observe(TqdmProgress(file=terminal), events)
    assert len(terminal.lines()) == 1
    file = io.StringIO()
    observe(TqdmProgress(file=file), events)
    assert file.getvalue() == ""


def test_values_that_have_no_room_are_counted(terminal: TerminalFile) -> None:
    observe(TqdmProgress(file=terminal), stamped(scalars(*((1, f"key{index:02}", 1.0) for index in range(30)))))
    (bar,) = terminal.lines()
    assert len(bar) < 161
    assert bar.endswith("key05=1.000 +24]")


def test_means_and_values_that_are_not_finite_are_shown_as_such() -> None:
    file = io.StringIO()
    events = [
        ScalarUpdated(key="acc", value=48, count=64, step=1),
        *scalars((1, "loss", float("nan")), (1, "x", 2**80)),
    ]
    observe(TqdmProgress(file=file), stamped(events))
    assert "acc=0.7500, loss=NaN, x=1.209e+24" in file.getvalue()


async def test_a_cancelled_bar_is_closed_and_can_be_shown_again(terminal: TerminalFile) -> None:
    progress, before = TqdmProgress(file=terminal), (sys.stdout, sys.stderr)
    with anyio.CancelScope() as scope:
        await observed(progress, a_run(), then=scope.cancel)
    assert (sys.stdout, sys.stderr) == before
    assert terminal.getvalue().endswith("\n")
    await observed(progress, a_run(11))
    assert "20/20" in terminal.lines()[-1]


def test_the_newest_values_are_drawn_though_nothing_comes_after_them(terminal: TerminalFile) -> None:
    hub = MessageHub("quiet", latency=0.001)
    hub.attach(TqdmProgress(file=terminal, mininterval=0.05), on_error="raise")
    drawn = threading.Event()
    write = terminal.write

    def listening(text: str) -> int:
        if "loss=2.000" in text:
            drawn.set()
        return write(text)

    terminal.write = listening  # type: ignore[method-assign]
    with hub:
        hub.update_scalar("loss", 1.0, step=1)
        hub.flush(timeout=20)
        hub.update_scalar("loss", 2.0, step=2)
        assert drawn.wait(20)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"results": "val/*"}, ArgumentError),
        ({"results": ("a//b",)}, PatternError),
        ({"total": 0}, ArgumentError),
        ({"total": "many"}, ArgumentError),
        ({"initial": -1}, ArgumentError),
        ({"mininterval": 0}, ArgumentError),
        ({"mininterval": float("nan")}, ArgumentError),
        ({"desc": 3}, ArgumentError),
    ],
)
def test_malformed_arguments_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TqdmProgress(**options)


# --- what stands for the program's streams


class _Plain(AboveBar):
    def put(self, lines: str) -> None:
        self.stream.write(f"<{lines}>")


def test_lines_come_whole_whichever_thread_begins_them(monkeypatch: pytest.MonkeyPatch, terminal: TerminalFile) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    with above_bar(_Plain):
        print("one", end=" ", flush=True)
        thread = threading.Thread(target=print, args=("from another",))
        thread.start()
        thread.join()
        print("line")
        print("begun", end="")
    assert terminal.getvalue() == "<from another\n><one line\n>begun\n"
    assert sys.stdout is terminal


def test_handlers_of_logging_and_streams_are_put_back(monkeypatch: pytest.MonkeyPatch, terminal: TerminalFile) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler()
    logger = logging.getLogger("of a program")
    logger.addHandler(handler)
    try:
        with above_bar(_Plain):
            held = sys.stderr
            logger.warning("inside")
        logger.warning("outside")
    finally:
        logger.removeHandler(handler)
    assert handler.stream is terminal
    held.write("held\n")  # whoever has kept it writes straight
    assert terminal.getvalue() == "<inside\n>outside\nheld\n"


def test_what_the_program_has_put_there_meanwhile_stays(
    monkeypatch: pytest.MonkeyPatch, terminal: TerminalFile
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    theirs = io.StringIO()
    with above_bar(_Plain):
        sys.stdout = theirs
    assert sys.stdout is theirs


def test_a_stream_that_is_no_terminal_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", (file := io.StringIO()))
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    with above_bar(_Plain):
        assert sys.stdout is file
        assert sys.stderr is None
