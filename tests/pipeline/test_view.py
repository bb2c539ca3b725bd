"""PipelineView: a table that stays where it is, tears nothing, and leaves the terminal as it was."""

from __future__ import annotations

import dataclasses
import io
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

pytest.importorskip("rich")
from rich.console import Console

from asynchub.contract import SubscriberContract
from asynchub.dataflow import PipelineRecovered, PipelineReported, PipelineStalled
from asynchub.errors import ArgumentError
from asynchub.events import Event
from asynchub.pipeline.cells import text_of
from asynchub.pipeline.layout import report_lines
from asynchub.pipeline.news import LEVELS, News, Waits
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import Verdict
from asynchub.pipeline.view import BLOCKS, PipelineView
from tests.pipeline.reports import REPORT, STALLED
from tests.subscribers.observing import observe, observed, stamped
from tests.subscribers.terminal import Terminal, run_in_terminal

TO_ASCII = str.maketrans({new: chr(old) for table in BLOCKS.values() for old, new in table.items()})


def terminal(width: int = 100, height: int = 40, **options: Any) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False, **options)


def screen(console: Console) -> Terminal:
    assert isinstance(console.file, io.StringIO)
    return Terminal(console.width, console.height).feed(console.file.getvalue())


def reported(report: PipelineReport, **changes: Any) -> PipelineReported:
    report = dataclasses.replace(report, **changes)
    return PipelineReported(key=f"{report.pipeline}/report", pipeline=report.pipeline, report=report.to_dict())


def shown(view: PipelineView, console: Console, *events: Event, backend: str = "asyncio") -> list[str]:
    observe(view, stamped(events), backend=backend)
    return screen(console).lines()


DONE = dataclasses.replace(REPORT, state="done")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_ends_with_the_last_report_on_the_terminal(backend: str) -> None:
    console = terminal()
    lines = shown(PipelineView(console=console), console, reported(REPORT), reported(DONE), backend=backend)
    table = [text_of(line) for line in report_lines(DONE, 100)]
    drawn = [line.translate(TO_ASCII) for line in lines[: len(table)]]
    assert drawn == table
    assert "·····■■■■■■░░░░░░░░░" in lines[next(n for n, line in enumerate(lines) if line.startswith(" ~ fetch"))]
    spark, *log = lines[len(table) :]
    assert spark.split() == ["waits", "▄", "10", "min,", "mean", "41", "%,", "most", "41", "%"]
    assert [line[10:] for line in log] == [
        "bottleneck: decode: all of decode is busy 97 % of the time",
        "done: 28032 items in 00:12:41",
    ]
    assert not screen(console).cursor_hidden


def test_a_terminal_of_letters_gets_letters() -> None:
    script = """
from asynchub.pipeline.view import PipelineView
from tests.pipeline.test_view import DONE, reported
from tests.subscribers.observing import observe, stamped
observe(PipelineView(), stamped([reported(DONE)]))
"""
    out = run_in_terminal(script, PYTHONIOENCODING="ascii", PYTHONPATH=str(Path(__file__).parents[2]))
    assert out.isascii()
    assert [line for line in Terminal().feed(out).lines() if ".....######---------" in line]


def test_its_height_stays_while_numbers_change_and_a_stall_comes_and_goes() -> None:
    heights: list[int] = []
    console = terminal()
    view = PipelineView(console=console)
    with view.shown() as live:
        assert live
        for number, report in enumerate([REPORT, STALLED, REPORT, dataclasses.replace(REPORT, workers=())] * 2):
            view.take(stamped([reported(report, time=REPORT.time + number)]))
            heights.append(len(screen(console)._lines))
    assert set(heights) == {max(heights)}


def test_it_is_drawn_once_for_each_batch_of_events() -> None:
    console = terminal()
    view = PipelineView(console=console)
    with view.shown():
        view.take(stamped([reported(REPORT, elapsed=float(number + 1)) for number in range(50)]))
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue().count("running 00:00:") == 1


@pytest.mark.parametrize("height", [4, 9, 14])
def test_a_small_terminal_is_not_overrun(height: int) -> None:
    console = terminal(60, height)
    view = PipelineView(console=console)
    with view.shown():
        for number in range(4):
            view.take(stamped([reported(REPORT, elapsed=float(60 * number + 1))]))
    lines = screen(console).lines()
    assert len(lines) < height
    assert lines[0].endswith("running 00:03:01")


def test_changes_stalls_and_what_they_end_in_are_remembered() -> None:
    console = terminal()
    fetch = dataclasses.replace(REPORT.verdict, stage="fetch", reason="all of fetch is busy")
    lines = shown(
        PipelineView(console=console),
        console,
        reported(REPORT),
        PipelineStalled(seconds=12.4, reason="waiting for batch 25\x1b[2J of worker 1"),
        PipelineRecovered(seconds=14.0),
        reported(REPORT, verdict=fetch),
        reported(REPORT, verdict=fetch),
        reported(REPORT, verdict=Verdict("balanced", reason="no stage alone; the busiest is fetch")),
    )
    assert [line[10:] for line in lines[-5:]] == [
        "bottleneck: decode: all of decode is busy 97 % of the time",
        "stalled for 12 s: waiting for batch 25 [2J of worker 1",
        "goes on after 14 s",
        "bottleneck: fetch (was: decode): all of fetch is busy",
        "bottleneck: no stage alone; the busiest is fetch (was: fetch)",
    ]


def test_without_a_terminal_there_is_a_line_for_each_change() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    stalled = PipelineStalled(seconds=12.4, reason="waiting for fetch")
    observe(PipelineView(console=console), stamped([reported(REPORT), reported(REPORT), stalled, reported(DONE)]))
    assert isinstance(console.file, io.StringIO)
    assert [line[10:] for line in console.file.getvalue().splitlines()] == [
        "data: bottleneck: decode: all of decode is busy 97 % of the time",
        "data: stalled for 12 s: waiting for fetch",
        "data: done: 28032 items in 00:12:41",
    ]


def test_it_shows_the_pipeline_that_it_is_of() -> None:
    console = terminal()
    other = reported(REPORT, pipeline="val", elapsed=5.0)
    first = shown(PipelineView(console=console), console, reported(REPORT), other)
    assert first[0].startswith("data ")
    console = terminal()
    chosen = shown(PipelineView("val", console=console), console, reported(REPORT), other)
    assert chosen[0].startswith("val ")
    console = terminal()
    assert shown(PipelineView("none", console=console), console, other) == ["waiting for a report of a pipeline"]


def test_a_report_that_is_long_ago_is_said_to_be() -> None:
    console = terminal()
    view = PipelineView(console=console)
    with view.shown():
        view.take([reported(REPORT)])  # of years ago
        assert any(line.startswith("no report for ") for line in screen(console).lines())
        view.take([reported(DONE)])
        assert not any(line.startswith("no report for ") for line in screen(console).lines())


async def test_a_cancelled_view_gives_the_terminal_back() -> None:
    console, stdout, before = terminal(), sys.stdout, set(threading.enumerate())
    with anyio.CancelScope() as scope:
        await observed(PipelineView(console=console), stamped([reported(REPORT)]), then=scope.cancel)
    assert sys.stdout is stdout
    assert not screen(console).cursor_hidden
    assert screen(console).lines()[0].startswith("data  INPUT-BOUND")
    assert [one.name for one in set(threading.enumerate()) - before if one.name.startswith("asynchub")] == []


def test_a_width_that_is_too_small_is_refused() -> None:
    with pytest.raises(ArgumentError, match="40"):
        PipelineView(width=39)


# --- in a real terminal, with a real pipeline

PROGRAM = """
import logging, os, signal, sys, time
logging.basicConfig(level="INFO", format="%(message)s")  # bound to the stream of now
from asynchub import MessageHub
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.view import PipelineView

hub = MessageHub("run")
hub.attach(PipelineView())
with hub, Pipeline(hub, "data", interval=0.1, window=0.5, warmup=0.1) as mon:
    @mon.stage("load")
    def load(number):
        time.sleep(0.01)
        return number

    for number in mon.consume(map(load, range(60))):
        print("printed", number, end="")
        print(" and ended", flush=True)
        if number % 20 == 0:
            logging.info("logged %d %s", number, "word " * 40)
    ENDING
"""
ENDINGS = {
    "of itself": "pass",
    "by an error": "raise RuntimeError('as planned')",
    "by an interrupt": "os.kill(os.getpid(), signal.SIGINT); time.sleep(10)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="pty")
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_a_program_prints_stands_whole_above_the_view(ending: str) -> None:
    out = run_in_terminal(PROGRAM.replace("ENDING", ENDINGS[ending]))
    after = Terminal(100, 40).feed(out)
    lines = after.lines()
    assert [line for line in lines if line.startswith("printed")] == [f"printed {n} and ended" for n in range(60)]
    assert [line for line in lines if line.startswith("logged")] == [
        f"logged {number} {'word ' * 40}".rstrip() for number in (0, 20, 40)
    ]
    heads = [number for number, line in enumerate(lines) if line.startswith("data  ")]
    assert len(heads) == 1
    assert "DONE" in lines[heads[0]]
    assert any("60 items in 00:0" in line for line in lines[heads[0] :])
    assert ("as planned" in out) == (ending == "by an error")
    assert ("KeyboardInterrupt" in out) == (ending == "by an interrupt")
    assert not after.cursor_hidden


# --- the sparkline


@pytest.mark.parametrize("seed", range(10))
def test_waits_are_the_means_of_ten_seconds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = 1_700_000_000 + np.cumsum(rng.exponential(3.0, size=400))
    shares = rng.uniform(size=400)
    waits = Waits()
    for time, share in zip(times, shares, strict=True):
        waits.add(float(time), float(share))
    slots = (times // 10).astype(int)
    newest = slots.max()
    for back, found in enumerate(reversed(waits.shares())):
        own = shares[slots == newest - back]
        assert (found is None) == (len(own) == 0)
        assert found is None or found == pytest.approx(own.mean())


@pytest.mark.parametrize(("width", "letters"), [(200, 60), (80, 30), (60, 30)])
def test_a_sparkline_fits_and_keeps_its_place(width: int, letters: int) -> None:
    waits, places = Waits(), set()
    for number in range(200):
        waits.add(1_700_000_000.0 + 5 * number, (number % 11) / 10)
        line = text_of(waits.line(width))
        places.add(line.index("10 min"))
        assert len(line) <= width
    assert len(places) == 1
    spark = line[len("waits ") : places.pop()].strip()
    assert len(spark) == letters
    assert set(spark) <= set(LEVELS)


def test_news_of_a_report_that_is_none_is_an_error() -> None:
    with pytest.raises(Exception, match="not the report of a pipeline"):
        News().take(PipelineReported(report={"stages": [1]}))


class TestContract(SubscriberContract):
    def make(self, folder: Path) -> Any:
        return PipelineView(console=Console(file=io.StringIO()))
