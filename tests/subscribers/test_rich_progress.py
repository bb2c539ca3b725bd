"""RichProgress: a bar that tears nothing and leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("rich")
from rich.console import Console
from rich.progress import Progress

from asynchub.errors import ArgumentError, PatternError
from asynchub.events import EventsDropped, InfoUpdated
from asynchub.requests import StopRequested
from asynchub.subscribers.rich_progress import RichProgress
from tests.subscribers.observing import observe, observed, scalars, stamped
from tests.subscribers.test_console import ROOT, run_in_terminal

SEQUENCE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


def screen(out: str) -> list[str]:
    """Return the lines that a terminal shows after ``out``: a terminal that knows what Rich writes."""
    lines, row, column, at = [""], 0, 0, 0
    while at < len(out):
        if match := SEQUENCE.match(out, at):
            arguments, letter = match.groups()
            at = match.end()
            if letter == "A":
                row -= int(arguments or 1)
            elif letter == "K":
                assert arguments == "2"
                lines[row] = ""
            else:
                assert letter in "mhl", f"unknown sequence {match.group()!r}"
            continue
        letter, at = out[at], at + 1
        if letter == "\r":
            column = 0
        elif letter == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def terminal(width: int = 100) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=40, color_system=None, legacy_windows=False
    )


def shown(progress: RichProgress, console: Console, events: list[Any], **options: Any) -> list[str]:
    observe(progress, events, **options)
    assert isinstance(console.file, io.StringIO)
    return [line for line in screen(console.file.getvalue()) if line]


def a_run() -> list[Any]:
    events: list[Any] = [InfoUpdated(key="max_iters", value=20, step=0), InfoUpdated(key="epoch", value=1, step=0)]
    for step in range(1, 11):
        events += scalars((step, "train/loss", 1 / step), (step, "data/wait_s", 0.0123))
    events += scalars((10, "val/loss", 0.25), (10, "val/accuracy", 0.9))
    events += [StopRequested(step=10, reason="no progress", author="stopper"), EventsDropped(step=10, missed=2)]
    return stamped(events)


FINAL = [
    "val at step 10: loss 0.2500, accuracy 0.9000",
    "> stop requested at step 10 by stopper: no progress",
    "! 2 events dropped at step 10: this view fell behind",
    "epoch 1 ━━━━━━━━━━━━━━━━                 10/20 1.000 steps/s took 0:12",
    "train/loss 0.1000   data/wait_s 12.3 ms   val/loss 0.2500   val/accuracy 0.9000",
]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_bar_ends_with_the_newest_values_under_results_and_decisions(backend: str) -> None:
    console = terminal()
    assert shown(RichProgress(console=console), console, a_run(), backend=backend) == FINAL


def test_without_a_terminal_there_is_no_bar_but_results_and_decisions() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    assert shown(RichProgress(console=console), console, a_run()) == FINAL[:3]


def test_without_a_total_there_is_no_bar_but_a_count() -> None:
    console = terminal()
    lines = shown(RichProgress(console=console), console, stamped(scalars((7, "loss", 1.0))))
    assert lines == ["7 took 0:00", "loss 1.000"]


def test_more_values_than_are_shown_are_counted() -> None:
    console = terminal()
    events = stamped(scalars(*((1, f"key{index}", 1.0) for index in range(30))))
    assert shown(RichProgress(console=console), console, events)[-1].split("   ")[-1].strip() == "+6 more"


def test_markup_in_keys_and_reasons_is_shown_as_it_is() -> None:
    console = terminal()
    events = stamped([*scalars((1, "[red]loss[/red]", 1.0)), StopRequested(step=1, reason="[bold]\x1b[2Jwhy")])
    lines = shown(RichProgress(console=console), console, events)
    assert lines == ["> stop requested at step 1: [bold] [2Jwhy", "1 took 0:00", "[red]loss[/red] 1.000"]


def test_a_narrow_terminal_is_not_overrun() -> None:
    console = terminal(width=30)
    assert all(len(line) <= 30 for line in shown(RichProgress(console=console), console, a_run())[3:])


async def test_a_cancelled_bar_gives_back_terminal_and_thread() -> None:
    console, before = terminal(), set(threading.enumerate())
    stdout = sys.stdout
    with anyio.CancelScope() as scope:
        await observed(RichProgress(console=console), a_run(), then=scope.cancel)
    assert sys.stdout is stdout
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex("\x1b[?25l")
    for thread in set(threading.enumerate()) - before:
        if "worker" not in thread.name.lower() and "trio" not in thread.name.lower():
            thread.join(5)
            assert not thread.is_alive()


def test_it_can_be_shown_again() -> None:
    console = terminal()
    progress = RichProgress(console=console)
    observe(progress, a_run())
    assert sum("10/20" in line and "took" in line for line in shown(progress, console, a_run())) == 2


def test_it_shares_the_terminal_with_a_live_display_of_the_program() -> None:
    console = terminal()
    with Progress(console=console) as other:
        other.add_task("download", total=3, completed=3)
        lines = shown(RichProgress(console=console), console, a_run())
    assert lines[:3] == FINAL[:3]
    assert any("download" in line for line in screen(console.file.getvalue()))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"results": "val/*"}, ArgumentError),
        ({"results": ("a//b",)}, PatternError),
        ({"total": -1}, ArgumentError),
        ({"refresh_per_second": 0}, ArgumentError),
    ],
)
def test_malformed_arguments_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        RichProgress(**options)


SCRIPT = """
import sys, threading
sys.path.insert(0, {root!r})
from asynchub import MessageHub
from asynchub.subscribers.rich_progress import RichProgress
hub = MessageHub("pty")
hub.attach(RichProgress(refresh_per_second=200))
hub.update_info("max_iters", 3000)
def chatter(name):
    for number in range(40):
        print(f"{{name}} says {{number}} of forty", file=sys.stderr if name == "err" else sys.stdout)
        threading.Event().wait(0.005)
with hub:
    hub.update_scalar("train/loss", 1.0, step=0)
    hub.flush(timeout=20)  # the bar is there
    thread = threading.Thread(target=chatter, args=("err",))
    thread.start()
    for hub.step in range(1, 3001):
        hub.update_scalar("train/loss", 1 / hub.step)
        if hub.step % 100 == 0:
            print(f"main says {{hub.step}} of all")
            hub.update_scalar("val/loss", 1 / hub.step)
            threading.Event().wait(0.01)
    thread.join()
print("after the bar")
"""


def test_what_the_program_prints_appears_whole_above_the_bar() -> None:
    lines = screen(run_in_terminal(SCRIPT.format(root=str(ROOT))))
    said = [line for line in lines if "says" in line]
    assert sorted(said) == sorted(
        [f"err says {number} of forty" for number in range(40)]
        + [f"main says {step} of all" for step in range(100, 3001, 100)]
    )
    assert [line for line in lines if line.startswith("val at")] == [
        f"val at step {step}: loss {format_step(step)}" for step in range(100, 3001, 100)
    ]
    assert sum("━" in line for line in lines) == 1
    assert [line for line in lines if line][-1] == "after the bar"


def format_step(step: int) -> str:
    from asynchub.subscribers.display import format_number

    return format_number(1 / step)


def test_without_rich_the_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('no rich here')")
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", "import asynchub.subscribers.rich_progress"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "pip install 'asynchub[rich]'" in done.stderr
