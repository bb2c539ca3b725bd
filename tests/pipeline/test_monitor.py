"""A pipeline that is entered reports from a thread of its own; one that is left leaves nothing behind."""

from __future__ import annotations

import itertools
import logging
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import asynchub
from asynchub.errors import ArgumentError, LifecycleError
from asynchub.hub import MessageHub
from asynchub.pipeline.clock import clock
from asynchub.pipeline.monitor import Pipeline, running_pipeline
from asynchub.pipeline.pipeline_report import PipelineReport
from tests.pipeline.side_log import burn, pipeline

ROOT = Path(asynchub.__file__).parent.parent


@pytest.fixture
def mon() -> Pipeline:
    return pipeline()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("asynchub pipeline")]


class Reports:
    """Waits for reports of a pipeline."""

    def __init__(self, monitor: Pipeline) -> None:
        self._came: queue.Queue[PipelineReport] = queue.Queue()
        monitor.on_report(self._came.put)

    def next(self) -> PipelineReport:
        return self._came.get(timeout=30)


# --- arguments


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"hub": None}, "hub must be a MessageHub, got NoneType"),
    ({"hub": "hub"}, "hub must be a MessageHub, got str"),
    ({"hub": MessageHub}, "hub must be a MessageHub, got type|hub must be a MessageHub, got"),
    ({"name": ""}, "name must be a non-empty str"),
    ({"name": "a/b"}, "name must be a non-empty str without '/'"),
    ({"name": "a*"}, r"without '/' and '\*', got 'a\*'"),
    ({"name": None}, "name must be .* got None"),
    ({"name": b"data"}, "name must be"),
    ({"interval": 0}, r"interval must be seconds, 0\.05 or more, got 0"),
    ({"interval": 0.01}, r"interval must be seconds, 0\.05 or more, got 0\.01"),
    ({"interval": -1.0}, "interval must be seconds"),
    ({"interval": math.nan}, "interval must be seconds"),
    ({"interval": math.inf}, "interval must be seconds"),
    ({"interval": "1"}, "interval must be seconds, .* got '1'"),
    ({"interval": True}, "interval must be seconds"),
    ({"interval": None}, "interval must be seconds"),
    ({"window": 0.5}, "window must be seconds, 1 or more, got 0.5"),
    ({"window": math.inf}, "window must be seconds"),
    ({"window": None}, "window must be seconds"),
    ({"interval": 5.0, "window": 4.0}, "window must be seconds, 5 or more"),
    ({"warmup": -1}, "warmup must be seconds, 0 or more"),
    ({"warmup": math.nan}, "warmup must be seconds"),
    ({"stall_after": -0.1}, "stall_after must be seconds, 0 or more"),
    ({"stall_after": "never"}, "stall_after must be seconds"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD_ARGUMENTS)
def test_arguments_that_make_no_sense_are_refused_with_what_was_wanted(arguments: dict[str, Any], says: str) -> None:
    hub = MessageHub("hub")
    with pytest.raises(ArgumentError, match=says):
        Pipeline(**{"hub": hub, **arguments})
    assert running_pipeline(hub) is None
    assert threads() == []
    assert dict(hub.log_scalars) == {}


BAD_CALLS: list[tuple[str, Callable[[Pipeline], object], str]] = [
    ("stage name", lambda mon: mon.stage("a/b"), "name must be"),
    ("stage no name", lambda mon: mon.stage(""), "name must be"),
    ("stage of a function", lambda mon: mon.stage(len), "name must be"),  # type: ignore[arg-type]
    ("concurrency 0", lambda mon: mon.stage("a", 0), "concurrency must be an int above 0, got 0"),
    ("concurrency -1", lambda mon: mon.stage("a", -1), "concurrency must be an int above 0"),
    ("concurrency 1.5", lambda mon: mon.stage("a", 1.5), "concurrency must be an int above 0"),  # type: ignore[arg-type]
    ("concurrency True", lambda mon: mon.stage("a", True), "concurrency must be an int above 0"),
    ("monitor no iterable", lambda mon: mon.monitor(5, "a"), "takes an iterable or an async iterable, got int"),
    ("monitor name", lambda mon: mon.monitor([1], "a/b"), "name must be"),
    ("consume no iterable", lambda mon: mon.consume(None), "takes an iterable or an async iterable, got NoneType"),
    ("channel name", lambda mon: mon.channel("*"), "name must be"),
    ("watch name", lambda mon: mon.watch("a/b", lambda: 1), "name must be"),
    ("watch nothing", lambda mon: mon.watch("a", 5), "a watched queue is one with qsize"),
    ("watch None", lambda mon: mon.watch("a", None), "a watched queue is one with qsize"),
    ("watch after", lambda mon: mon.watch("a", lambda: 1, after="x/y"), "must be"),
    ("dataloader", lambda mon: mon.dataloader([1, 2]), "DataLoader"),
]


@pytest.mark.parametrize(("what", "call", "says"), BAD_CALLS, ids=[what for what, _, _ in BAD_CALLS])
def test_a_call_that_is_refused_leaves_no_trace(
    mon: Pipeline, what: str, call: Callable[[Pipeline], object], says: str
) -> None:
    with pytest.raises(ArgumentError, match=says):
        call(mon)
    assert (mon.parts.stages, mon.parts.queues, mon.parts.consumer, mon.parts.workers) == ({}, {}, None, [])


@pytest.mark.parametrize(
    "arguments", [{"after": "good", "into": "bad/"}, {"capacity": -1}, {"capacity": "3"}, {"capacity": 1.5}]
)
def test_watching_with_bad_arguments_leaves_no_trace(mon: Pipeline, arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        mon.watch("raw", lambda: 1, **arguments)
    assert (mon.parts.stages, mon.parts.queues) == ({}, {})


def test_the_same_name_gives_the_same_stage(mon: Pipeline) -> None:
    stage = mon.stage("decode")
    assert mon.stage("decode") is stage
    assert stage.concurrency is None
    assert mon.stage("decode", 4) is stage
    assert stage.concurrency == 4
    assert mon.stage("decode").concurrency == 4
    assert repr(stage) == "<stage 'decode'>"
    assert mon.stage("other") is not stage


# --- switched off


async def test_switched_off_everything_comes_back_as_it_is() -> None:
    hub = MessageHub("hub")
    torch = pytest.importorskip("torch")
    items = [1, 2, 3]

    async def later() -> None:
        yield

    loader, generator, async_generator = torch.utils.data.DataLoader(items), (one for one in items), later()
    async with Pipeline(hub, enabled=False) as mon:
        with pytest.raises(AttributeError), mon:
            raise AttributeError
        assert mon.stage("decode")(len) is len
        for given in (items, generator, async_generator, loader):
            assert mon.monitor(given, "it") is given
            assert mon.consume(given) is given
        assert mon.dataloader(loader) is loader
        assert mon.node(items, "it") is items
        assert mon.spdl() == {}
        mon.watch("raw", lambda: 1)
        assert not mon.running
        assert threads() == []
    assert running_pipeline(hub) is None
    assert dict(hub.log_scalars) == dict(hub.runtime_info) == {}
    assert mon.report().stages == ()
    await async_generator.aclose()  # type: ignore[attr-defined]


def test_switched_off_names_are_checked_all_the_same() -> None:
    mon = Pipeline(MessageHub("hub"), enabled=False)
    for call in (lambda: mon.stage("a/b"), lambda: mon.monitor([1], ""), lambda: mon.consume(5)):
        with pytest.raises(ArgumentError):
            call()


# --- entering and leaving


def test_it_can_be_entered_again_and_again(mon: Pipeline) -> None:
    decode = mon.stage("decode")(lambda: burn(100_000))
    for number in range(1, 4):
        assert not mon.running
        with mon as entered:
            assert entered is mon
            assert mon.running
            assert running_pipeline(mon.hub) is mon
            assert threads() == ["asynchub pipeline data"]
            decode()
        assert threads() == []
        assert running_pipeline(mon.hub) is None
        assert mon.report().state == "done"
        assert mon.report().stages[0].items == number
        assert mon.report().window < 10


async def test_it_can_be_entered_on_an_event_loop_again_and_again(mon: Pipeline) -> None:
    fetch = mon.stage("fetch")(anyio.sleep)
    for number in range(1, 4):
        async with mon as entered:
            assert entered is mon
            assert mon.running
            await fetch(0.002)
        assert threads() == []
        assert not mon.running
        assert mon.report().stages[0].items == number


def test_entering_twice_at_once_is_refused_and_does_no_harm(mon: Pipeline) -> None:
    with mon:
        with pytest.raises(LifecycleError, match="is watched already; leave it first"), mon:
            pass
        assert mon.running
        assert threads() == ["asynchub pipeline data"]
    assert threads() == []


def test_leaving_what_was_not_entered_does_nothing(mon: Pipeline) -> None:
    assert mon.stop() is None
    mon.__exit__(None, None, None)
    assert not mon.running


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_an_exception_passes_and_the_thread_ends(mon: Pipeline, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, mon:
        raise error
    assert caught.value is error
    assert threads() == []
    assert mon.report().state == "done"


async def test_cancelling_passes_and_the_thread_ends(mon: Pipeline) -> None:
    with anyio.move_on_after(0.02) as scope:
        async with mon:
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert threads() == []
    assert mon.report().state == "done"


def test_pipelines_of_two_names_watch_for_one_hub() -> None:
    hub = MessageHub("hub")
    with pipeline(hub, "outer") as outer:
        assert running_pipeline(hub) is outer
        with pipeline(hub, "inner") as inner:
            assert running_pipeline(hub) is None
            assert sorted(threads()) == ["asynchub pipeline inner", "asynchub pipeline outer"]
            inner.stage("decode")(lambda: burn(10_000))()
        assert running_pipeline(hub) is outer
        outer.stage("decode")(lambda: burn(10_000))()
        outer.stage("decode")(lambda: burn(10_000))()
    assert hub.get_scalar("inner/decode/items").current() == 1
    assert hub.get_scalar("outer/decode/items").current() == 2


def test_pipelines_of_two_hubs_do_not_know_of_each_other() -> None:
    hubs = MessageHub("one"), MessageHub("two")
    with pipeline(hubs[0]) as one, pipeline(hubs[1]) as two:
        assert (running_pipeline(hubs[0]), running_pipeline(hubs[1])) == (one, two)
        one.stage("decode")(lambda: burn(10_000))()
    assert "data/decode/items" in hubs[0].log_scalars
    assert "data/decode/items" not in hubs[1].log_scalars


def test_leaving_while_somebody_iterates_leaves_the_iteration_alone(mon: Pipeline) -> None:
    decode = mon.stage("decode")(lambda number: 2 * number)
    with mon:
        items = iter(mon.consume(mon.monitor(range(10), "source")))
        found = [decode(next(items)) for _ in range(4)]
    found += [decode(item) for item in items]
    assert found == [2 * number for number in range(10)]
    assert mon.report().stages[0].items == 4
    assert mon.parts.stages["decode"].counters(clock()).items == 10  # counted, though nobody asks


async def test_leaving_while_tasks_iterate_leaves_them_alone(mon: Pipeline) -> None:
    found: list[int] = []
    send, receive = mon.channel("raw", 2)

    async def run() -> None:
        async with receive:
            async for number in mon.consume(receive):
                found.append(number)

    async with anyio.create_task_group() as group:
        async with mon:
            group.start_soon(run)
            await send.send(1)
        async with send:
            for number in range(2, 6):
                await send.send(number)
    assert found == [1, 2, 3, 4, 5]


def test_what_was_counted_before_it_was_entered_is_in_no_window(mon: Pipeline) -> None:
    decode = mon.stage("decode")(time.sleep)
    for _ in range(3):
        decode(0.05)
    with mon:
        decode(0.01)
    [report] = mon.report().stages
    assert report.items == 4
    assert report.throughput * mon.report().window == pytest.approx(1)
    assert report.latency_ms is not None
    assert report.latency_ms.max < 50


# --- reporting


def test_there_is_one_report_for_each_interval_and_one_at_the_end() -> None:
    mon = pipeline(interval=0.1)
    times: list[float] = []
    mon.on_report(lambda report: times.append(time.perf_counter()))
    reports = Reports(mon)
    with mon:
        decode = mon.stage("decode")(lambda: None)
        for _ in range(5):
            decode()
            assert reports.next().state != "done"
    last = reports.next()
    assert last.state == "done"
    assert reports._came.empty()
    assert len(mon.hub.get_scalar("data/decode/items").data[0]) == len(times) == 6
    gaps = sorted(after - before for before, after in itertools.pairwise(times))
    assert 0.05 <= gaps[len(gaps) // 2] <= 0.5


def test_on_report_and_on_change_are_decorators(mon: Pipeline) -> None:
    def function(found: object) -> None:
        pass

    assert mon.on_report(function) is function
    assert mon.on_change(function) is function


def test_a_watched_queue_that_raises_keeps_nothing_else_from_being_watched(caplog: Any) -> None:
    mon = pipeline(interval=0.1)
    reports = Reports(mon)

    def broken() -> int:
        raise RuntimeError("the queue is gone")

    mon.watch("broken", broken)
    mon.watch("good", lambda: 7, capacity=10)
    with caplog.at_level(logging.ERROR, "asynchub"), mon:
        mon.stage("decode")(lambda: None)()
        for _ in range(3):
            report = reports.next()
    queues = {one.name: one for one in report.queues}
    assert queues["good"].depth == 7
    assert (queues["broken"].depth, queues["broken"].capacity) == (0, None)
    said = [record for record in caplog.records if "the queue is gone" in (record.exc_text or "")]
    assert len(said) == 1


@pytest.mark.parametrize("kind", [ValueError, LookupError])
def test_a_function_that_raises_at_each_report_does_not_end_the_thread(caplog: Any, kind: type[Exception]) -> None:
    mon = pipeline(interval=0.1)
    reports = Reports(mon)
    calls: list[int] = []

    @mon.on_report
    def broken(report: PipelineReport) -> None:
        calls.append(1)
        raise kind("no")

    with caplog.at_level(logging.ERROR, "asynchub"), mon:
        for _ in range(3):
            reports.next()
    assert len(calls) == 4
    assert len([record for record in caplog.records if "is told of reports" in record.message]) == 1
    assert mon.report().state == "done"


def test_a_function_that_raises_does_not_keep_others_from_being_called() -> None:
    mon = pipeline(interval=100.0)
    called: list[str] = []

    def broken(report: PipelineReport) -> None:
        raise ValueError

    mon.on_report(broken)
    mon.on_report(lambda report: called.append("report"))
    with mon:
        pass
    assert called == ["report"]


def test_a_subscriber_that_raises_does_not_end_the_thread(caplog: Any) -> None:
    mon = pipeline(interval=0.1)
    reports = Reports(mon)

    async def broken(events: Any) -> None:
        async for _ in events:
            raise RuntimeError("no")

    with caplog.at_level(logging.ERROR, "asynchub"), mon.hub:
        mon.hub.attach(broken)
        with mon:
            mon.stage("decode")(lambda: None)()
            for _ in range(3):
                reports.next()
    assert any("failed" in record.message for record in caplog.records)
    assert mon.report().state == "done"
    assert threads() == []


def test_many_threads_ask_for_stages_and_reports_at_once(mon: Pipeline) -> None:
    def work(number: int) -> None:
        for one in range(50):
            stage = mon.stage(f"stage {one % 7}")
            stage(lambda: None)()
            assert mon.report().pipeline == "data"
            mon.watch(f"queue {number}", lambda: 1)
            str(mon.report())

    with mon:
        running = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(60)
    assert sum(stage.items for stage in mon.report().stages) == 300


# --- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_goes_on_without_the_thread() -> None:
    script = """
import faulthandler, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from asynchub.hub import MessageHub
from asynchub.pipeline.monitor import Pipeline, running_pipeline
from asynchub.pipeline.clock import clock
hub = MessageHub("hub")
mon = Pipeline(hub, interval=0.05, window=1.0)
decode = mon.stage("decode")(lambda number: 2 * number)
stop = threading.Event()
def work():
    while not stop.is_set():
        decode(1)
with mon:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    items = iter(mon.consume(mon.monitor(range(10**9), "source")))
    for _ in range(10):
        next(items)
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(10, exit=True)
            before = mon.parts.stages["decode"].counters(clock()).items
            fine = threading.active_count() == 1 and not mon.running and running_pipeline(hub) is None
            fine = fine and [decode(n) for n in range(100)] == [2 * n for n in range(100)]
            fine = fine and next(items) >= 1
            fine = fine and mon.parts.stages["decode"].counters(clock()).items == before + 100
            with mon:
                decode(1)
                fine = fine and mon.running and threading.active_count() == 2
            fine = fine and mon.report().state == "done" and threading.active_count() == 1
            os._exit(0 if fine else 1)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert mon.running
assert mon.report().state == "done"
print("parent done")
"""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "parent done\n"


def test_the_package_alone_loads_neither_torch_nor_a_pipeline_library() -> None:
    script = """
import sys
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.chains import monitor
print(sorted({"torch", "torchdata", "spdl", "rich", "opentelemetry", "trio"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"
