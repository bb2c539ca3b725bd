"""Bars on a real terminal, with prints, logging and other bars at the same time: every line is whole at the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("tqdm")

from tests.subscribers.terminal import Terminal, run_in_terminal

ROOT = Path(__file__).parents[2]
COLUMNS = 90

PREPARE = """
import logging, sys, threading, warnings
sys.path.insert(0, {root!r})
from asynchub import MessageHub, StopRequested
logging.basicConfig(format="log %(message)s", level=logging.INFO)  # holds the stderr of before
hub = MessageHub("pty", latency=0.001)

def pause():
    threading.Event().wait(0.002)

def chatter():
    for number in range(60):
        print("err line", number, "of sixty", "e" * (number * 3 % 120), file=sys.stderr)
        pause()

def train(bar=None):
    hub.update_info("max_iters", 600)
    hub.update_scalar("train/loss", 1.0, step=0)
    hub.flush(timeout=20)  # the bar is there: a line that is being printed when it comes may be torn
    thread = threading.Thread(target=chatter)
    thread.start()
    for hub.step in range(1, 601):
        hub.update_scalars({{"train/loss": 1 / hub.step, "train/acc": hub.step / 600}})
        if bar is not None:
            bar()
        if hub.step % 10 == 0:
            print("out line", hub.step, "of all", "o" * (hub.step * 3 % 150))
        if hub.step % 20 == 0:
            logging.info("line %d", hub.step)
        if hub.step % 50 == 0:
            sys.stdout.write("in ")
            pause()
            sys.stdout.write(f"pieces {{hub.step}}")
            sys.stdout.flush()
            pause()
            sys.stdout.write(" of all\\n")
        if hub.step % 100 == 0:
            hub.update_scalar("val/loss", 1 / hub.step)
        if hub.step % 5 == 0:
            pause()
    thread.join()
    hub.publish(StopRequested(reason="it is enough", author="me"))
    hub.flush(timeout=20)
"""

FINISH = """
print("after the bar", sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__)
logging.info("after the bar")
sys.stdout.write("the end\\n")
"""


def run(body: str) -> list[str]:
    """Return the lines on a terminal after ``body``, having checked that each of the program's is among them, whole."""
    terminal = Terminal(COLUMNS).feed(run_in_terminal(PREPARE.format(root=str(ROOT)) + body + FINISH, COLUMNS))
    lines = terminal.lines()
    expected = [
        *(f"err line {number} of sixty {'e' * (number * 3 % 120)}".rstrip() for number in range(60)),
        *(f"out line {step} of all {'o' * (step * 3 % 150)}".rstrip() for step in range(10, 601, 10)),
        *(f"log line {step}" for step in range(20, 601, 20)),
        *(f"in pieces {step} of all" for step in range(50, 601, 50)),
        "after the bar True True",
        "log after the bar",
    ]
    assert sorted(line for line in lines if re.match("(err|out|log|in|after) ", line)) == sorted(expected)
    for kind in ("err line", "out line", "log line", "in pieces"):  # and each kind in its order
        assert [line for line in lines if line.startswith(kind)] == [one for one in expected if one.startswith(kind)]
    assert lines[-1] == "the end"
    assert not terminal.cursor_hidden
    return lines


def ours(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(("val ", "> "))]


LOSSES = {100: "0.01000", 200: "0.005000", 300: "0.003333", 400: "0.002500", 500: "0.002000", 600: "0.001667"}
OURS = [
    *(f"val at step {step}: loss {loss}" for step, loss in LOSSES.items()),
    "> stop requested at step 600 by me: it is enough",
]


def test_tqdm_with_prints_from_all_sides() -> None:
    lines = run("""
from asynchub.subscribers.tqdm_progress import TqdmProgress
hub.attach(TqdmProgress(mininterval=0.002), on_error="raise")
with hub:
    train()
""")
    bars = [line for line in lines if "step/s" in line]
    assert len(bars) == 1
    assert bars[0].startswith("100%|")
    assert "600/600" in bars[0]
    assert "train/loss=0.001667" in bars[0]
    assert ours(lines) == OURS
    assert len(bars[0]) <= COLUMNS


def test_tqdm_with_prints_and_other_bars_made_before_and_meanwhile() -> None:
    lines = run("""
from tqdm import tqdm
from asynchub.subscribers.tqdm_progress import TqdmProgress
hub.attach(TqdmProgress(mininterval=0.002, desc="run"), on_error="raise")
outer = tqdm(total=600, desc="before", mininterval=0.002, miniters=1)
with hub:
    inner = tqdm(total=600, desc="meanwhile", mininterval=0.002, miniters=1)
    def both():
        outer.update()
        inner.update()
    train(both)
    inner.close()
outer.close()
""")
    for name in ("before", "run", "meanwhile"):
        (bar,) = [line for line in lines if line.startswith(f"{name}: ")]
        assert "600/600" in bar, bar


def test_rich_with_prints_from_all_sides() -> None:
    lines = run("""
from asynchub.subscribers.rich_progress import RichProgress
hub.attach(RichProgress(refresh_per_second=200), on_error="raise")
with hub:
    train()
""")
    assert ours(lines) == OURS
    assert sum("━" in line for line in lines) == 1


def test_rich_with_prints_and_another_live_display() -> None:
    lines = run("""
from rich.progress import Progress
from asynchub.subscribers.rich_progress import RichProgress
hub.attach(RichProgress(refresh_per_second=100), on_error="raise")
with hub:
    hub.update_scalar("train/loss", 1.0, step=0)
    hub.flush(timeout=20)
    with Progress(refresh_per_second=100) as progress:
        task = progress.add_task("another", total=600)
        train(lambda: progress.advance(task))
""")
    assert ours(lines) == OURS
    assert any("another" in line and "100%" in line for line in lines)


def test_rich_beside_a_live_display_that_was_there_first() -> None:
    lines = run("""
from rich.progress import Progress
from asynchub.subscribers.rich_progress import RichProgress
hub.attach(RichProgress(), on_error="raise")
with hub:
    hub.update_scalar("train/loss", 1.0, step=0)
    hub.flush(timeout=20)
print("meanwhile")
with Progress(refresh_per_second=100) as progress:
    task = progress.add_task("another", total=3)
    with hub:
        hub.update_scalar("val/loss", 1.0, step=1)
    progress.advance(task, 3)
with hub:
    train()
""")
    assert "val at step 1: loss 1.000" in lines
    assert sum("━" in line for line in lines) == 2


@pytest.mark.parametrize("order", ["tqdm, rich", "rich, tqdm"])
def test_of_tqdm_and_rich_at_once_the_first_has_the_bar(order: str) -> None:
    lines = run(f"""
from asynchub.subscribers.rich_progress import RichProgress
from asynchub.subscribers.tqdm_progress import TqdmProgress
tqdm, rich = TqdmProgress(mininterval=0.002), RichProgress(refresh_per_second=200)
for one in ({order}):
    hub.attach(one, on_error="raise")
with hub:
    train()
""")
    assert sorted(ours(lines)) == sorted(OURS * 2)
    assert sum("step/s" in line for line in lines) == (order == "tqdm, rich")
    assert sum("━" in line for line in lines) == (order == "rich, tqdm")


def test_tqdm_in_two_hubs_at_once() -> None:
    lines = run("""
from asynchub.subscribers.tqdm_progress import TqdmProgress
other = MessageHub("other")
hub.attach(TqdmProgress(mininterval=0.002, desc="first", total=600), on_error="raise")
other.attach(TqdmProgress(mininterval=0.002, desc="second", total=600), on_error="raise")
hub.__enter__()
other.__enter__()
for one in (hub, other):
    one.update_scalar("train/loss", 1.0, step=0)
    one.flush(timeout=20)
train(lambda: other.update_scalar("loss", 1.0, step=hub.step))
hub.__exit__(None, None, None)  # not the one that came last
print("between")
other.__exit__(None, None, None)
""")
    assert "between" in lines
    for name in ("first", "second"):
        (bar,) = [line for line in lines if line.startswith(f"{name}: ")]
        assert "600/600" in bar


def test_a_terminal_that_does_not_know_its_size_still_shows_the_bar() -> None:
    script = (
        PREPARE.format(root=str(ROOT))
        + """
from asynchub.subscribers.tqdm_progress import TqdmProgress
hub.attach(TqdmProgress(total=10), on_error="raise")
with hub:
    hub.update_scalar("loss", 0.5, step=10)
"""
    )
    lines = Terminal(80).feed(run_in_terminal(script, 0, 0)).lines()
    assert lines[-1].startswith("100%|")


def test_a_program_that_prints_in_a_forked_child_writes_straight() -> None:
    lines = run("""
import os
from asynchub.subscribers.tqdm_progress import TqdmProgress
hub.attach(TqdmProgress(mininterval=0.002), on_error="raise")
with hub:
    hub.update_scalar("train/loss", 1.0, step=0)
    hub.flush(timeout=20)
    if (child := os.fork()) == 0:
        print("\\nhello from the child", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    train()
""")
    assert "hello from the child" in lines
