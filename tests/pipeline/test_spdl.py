"""Pipelines of SPDL: what is counted of them, and what SPDL's own statistics say of the same run.

Verdicts on pipelines whose slow stage is known are in ``test_verdicts_real.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from asynchub.hub import MessageHub
from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import StageReport

spdl = pytest.importorskip("spdl.pipeline")
defs = pytest.importorskip("spdl.pipeline.defs")

ITEMS = 40


def pipeline_of(hub: MessageHub, **options: Any) -> Pipeline:
    return Pipeline(hub, "data", **{"interval": 0.2, "window": 3.0, "warmup": 0.3} | options)


def built(mon: Pipeline, *pipes: Callable[[Any], Any], source: Any = None, threads: int = 8, **options: Any) -> Any:
    """Return a pipeline of SPDL that is watched; ``options`` are of each pipe."""
    builder = spdl.PipelineBuilder().add_source(range(ITEMS) if source is None else source)
    for pipe in pipes:
        builder.pipe(pipe, **options)
    return builder.add_sink(3).build(num_threads=threads, **mon.spdl())


def taken(pipeline: Any, mon: Pipeline | None = None) -> list[Any]:
    with pipeline.auto_stop():
        return list(pipeline if mon is None else mon.consume(pipeline))


def stages(report: PipelineReport) -> dict[str, StageReport]:
    return {stage.name: stage for stage in report.stages}


def double(item: int) -> int:
    return 2 * item


async def double_async(item: int) -> int:
    await asyncio.sleep(0)
    return 2 * item


def twice(item: int) -> Iterator[int]:
    yield item
    yield item


async def twice_async(item: int) -> AsyncIterator[int]:
    yield item
    await asyncio.sleep(0)
    yield item


# --- counts


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize(
    ("function", "factor", "expected"),
    [
        (double, 1, [2 * item for item in range(ITEMS)]),
        (double_async, 1, [2 * item for item in range(ITEMS)]),
        (twice, 2, sorted([*range(ITEMS), *range(ITEMS)])),
        (twice_async, 2, sorted([*range(ITEMS), *range(ITEMS)])),
    ],
)
def test_every_kind_of_function_is_counted_from_inside_or_else_from_outside(
    function: Any, factor: int, expected: list[int], inside: bool
) -> None:
    with pipeline_of(MessageHub("spdl")) as mon:
        staged = mon.stage(function.__name__)(function) if inside else function
        found = taken(built(mon, staged, concurrency=3))
    report = stages(mon.report())
    assert sorted(found) == expected
    assert list(report) == ["src", function.__name__]
    assert (report["src"].items, report[function.__name__].items) == (ITEMS, factor * ITEMS)
    assert report[function.__name__].concurrency == 3
    assert report[function.__name__].in_flight == 0
    assert report[function.__name__].latency_ms is not None


def test_a_function_in_another_process_is_the_plain_one_and_counted_from_outside() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(double, 1).result() == 2  # its process is there before any thread of this test
        with pipeline_of(MessageHub("spdl")) as mon:
            found = taken(built(mon, mon.stage("double")(double), executor=pool))
    assert sorted(found) == [2 * item for item in range(ITEMS)]
    assert stages(mon.report())["double"].items == ITEMS


def some_fail(item: int) -> int:
    if item % 4 == 0:
        raise ValueError(item)
    return item


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_calls_that_raise_are_errors_and_no_items(inside: bool) -> None:
    with pipeline_of(MessageHub("spdl")) as mon:
        found = taken(built(mon, mon.stage("some_fail")(some_fail) if inside else some_fail))
    stage = stages(mon.report())["some_fail"]
    assert sorted(found) == [item for item in range(ITEMS) if item % 4]
    assert (stage.items, stage.errors) == (ITEMS * 3 // 4, ITEMS // 4)


def test_what_is_left_early_has_nothing_under_way() -> None:
    began = threading.Event()

    async def forever(item: int) -> int:
        began.set()
        await asyncio.sleep(3600)
        return item

    with pipeline_of(MessageHub("spdl")) as mon:
        pipeline = built(mon, forever, concurrency=2)
        with pipeline.auto_stop():
            assert began.wait(30)
    stage = stages(mon.report())["forever"]
    assert (stage.items, stage.errors, stage.in_flight) == (0, 0, 0)
    assert stage.busy > 0  # it was at work all the same


def test_stages_stand_in_the_order_of_the_flow_and_names_are_unique() -> None:
    with pipeline_of(MessageHub("spdl")) as mon:
        last, first = mon.stage("double")(double), mon.stage("twice")(twice)
        builder = spdl.PipelineBuilder().add_source(range(ITEMS)).pipe(first)
        builder.pipe(lambda item: item).aggregate(4).disaggregate().pipe(lambda item: item, name="a/b*").pipe(last)
        builder.pipe(lambda item: item)
        found = taken(builder.add_sink(3).build(num_threads=4, **mon.spdl()))
    names = ["src", "twice", "<lambda>", "aggregate", "disaggregate", "a_b_", "double", "<lambda>_2"]
    assert len(found) == 2 * ITEMS
    assert [stage.name for stage in mon.report().stages] == names
    assert [queue.name for queue in mon.report().queues] == [*names, "sink"]
    assert [queue.into for queue in mon.report().queues] == [*names[1:], "", ""]
    assert [queue.after for queue in mon.report().queues] == [*names, ""]


def test_pipelines_that_follow_each_other_go_on_with_the_same_stages_and_queues() -> None:
    with pipeline_of(MessageHub("spdl")) as mon:
        staged = mon.stage("double")(double)
        for _ in range(3):
            taken(built(mon, staged, double_async, output_order="input"), mon)
        queues = {name: queue.counters(clock()) for name, queue in mon.parts.queues.items()}
        evidence = len(mon.parts.evidence)
    report = mon.report()
    assert {stage.name: stage.items for stage in report.stages} == dict.fromkeys(
        ("src", "double", "double_async"), 3 * ITEMS
    )
    assert {name: queue.items for name, queue in queues.items()} == dict.fromkeys(
        ("src", "double", "double_async", "sink"), 3 * ITEMS
    )
    assert report.consumer is not None
    assert report.consumer.items == 3 * ITEMS
    assert evidence == 2


def test_a_pipe_that_keeps_the_order_has_as_many_servers_as_are_seen_in_it() -> None:
    with pipeline_of(MessageHub("spdl"), interval=0.05) as mon:  # SPDL 0.8 has two calls more under way than it is told
        taken(built(mon, mon.stage("it")(work(0.02, "it")), threads=8, output_order="input", concurrency=2))
    stage = stages(mon.report())["it"]
    assert 2 < stage.concurrency <= 4
    assert stage.starved is not None
    assert stage.busy + stage.starved <= 1.001


def test_the_marks_between_epochs_are_no_items() -> None:
    with pipeline_of(MessageHub("spdl")) as mon:
        builder = spdl.PipelineBuilder().add_source(range(ITEMS), continuous=True).pipe(double)
        pipeline = builder.add_sink(3).build(num_threads=2, **mon.spdl())
        with pipeline.auto_stop():
            epochs = [list(pipeline) for _ in range(3)]
        sink = mon.parts.queues["sink"]
        measured = sink.counters(clock())
    assert epochs == [[2 * item for item in range(ITEMS)]] * 3
    assert measured.items is not None
    assert 3 * ITEMS <= measured.items <= 3 * ITEMS + 4  # what is left in it is taken out when it is stopped
    assert 2 <= sink.marks <= 3


def test_merged_pipelines_are_counted_and_know_who_takes() -> None:
    branches = [
        spdl.PipelineBuilder().add_source(range(ITEMS)).pipe(function).add_sink(1).get_config()
        for function in (double, double_async)
    ]
    merged = defs.PipelineConfig(defs.Merge(branches), [defs.Pipe(some_fail)], defs.SinkConfig(3))
    with pipeline_of(MessageHub("spdl")) as mon:
        found = taken(spdl.build_pipeline(merged, num_threads=4, **mon.spdl()))
    assert found
    counted = {stage.name: stage.items + stage.errors for stage in mon.report().stages}
    assert counted["double"] == counted["double_async"] == ITEMS
    assert counted["some_fail"] == 2 * ITEMS
    into = {queue.name: queue.into for queue in mon.report().queues}
    assert into["double"] == into["double_async"] == ""  # the merge counts for nothing
    assert into["merge"] == "some_fail"


@pytest.mark.parametrize("name", ["urls", "src"])
def test_a_source_that_is_watched_is_not_counted_twice(name: str) -> None:
    with pipeline_of(MessageHub("spdl")) as mon:
        taken(built(mon, double, source=mon.monitor(range(ITEMS), name)))
    assert {stage.name: stage.items for stage in mon.report().stages} == {name: ITEMS, "double": ITEMS}


def test_a_hub_gets_no_event_from_the_loop_of_spdl() -> None:
    hub, threads = MessageHub("spdl"), set()
    publish = hub.publish

    def seen(*args: Any, **kwargs: Any) -> Any:
        threads.add(threading.current_thread().name)
        return publish(*args, **kwargs)

    hub.publish = seen  # type: ignore[method-assign]
    with pipeline_of(hub) as mon:
        taken(built(mon, double))
    assert threads == {"asynchub pipeline data"}


def test_the_loop_of_spdl_is_asked_how_late_it_is() -> None:
    with pipeline_of(MessageHub("spdl"), interval=0.05) as mon:

        async def slow(item: int) -> int:
            await asyncio.sleep(0.01)
            return item

        taken(built(mon, slow, source=range(15)))
        assert mon.report().loop is not None


def test_nothing_is_watched_with_enabled_false() -> None:
    assert Pipeline(MessageHub("spdl"), enabled=False).spdl() == {}


# --- queues


class Compared:
    """What both say of a queue, at the moment at which SPDL gives its statistics."""

    def __init__(self, queue: Any, own: Any) -> None:
        self.name = queue.info.stage_name
        self.own = own
        self.puts = queue._putc.num_items
        self.items, self.put_wait, self.get_wait, self.occupied = queue.passage.measure(clock())
        self.marks = queue.passage.marks


def both_ways(mon: Pipeline, found: list[Compared]) -> dict[str, Any]:
    """Return the arguments with which one run is measured by SPDL's statistics and by ours."""
    arguments = mon.spdl()

    class Both(spdl.StatsQueue, arguments["queue_class"]):  # type: ignore[misc, name-defined]
        @contextlib.asynccontextmanager
        async def stage_hook(self) -> AsyncIterator[None]:
            async with arguments["queue_class"].stage_hook(self), spdl.StatsQueue.stage_hook(self):
                yield

        def _log_stats(self, stats: Any) -> None:
            found.append(Compared(self, stats))

    return arguments | {"queue_class": Both}


def in_turn(item: int) -> int:
    """Return the item, five after another late, then five early."""
    time.sleep(0.035 if item % 10 < 5 else 0.005)
    return item


def test_queues_agree_with_the_statistics_of_spdl_on_the_same_run() -> None:
    found: list[Compared] = []
    with pipeline_of(MessageHub("spdl")) as mon:
        # not two at once in a stage: StatsQueue misses that a queue is empty until somebody who waits has put again
        builder = spdl.PipelineBuilder().add_source(range(50))
        builder.pipe(work(0.02, "fetch")).pipe(in_turn).pipe(work(0.015, "collate"))
        taken(builder.add_sink(3).build(num_threads=8, **both_ways(mon, found)))
    assert [one.name for one in found] == ["src", "fetch", "in_turn", "collate"]
    for one in found:
        own = one.own
        assert one.items + one.marks == own.num_items  # SPDL counts the mark of the end too
        assert one.items in (own.num_items, own.num_items - 1)
        assert one.occupied / SECOND / own.elapsed == pytest.approx(own.occupancy_rate, abs=0.02)
        # SPDL's mean is of all, those included where an item was ready: some microseconds each
        assert one.get_wait / SECOND / own.num_items == pytest.approx(own.ave_get_time, rel=0.05, abs=2e-4)
        assert one.put_wait / SECOND / one.puts == pytest.approx(own.ave_put_time, rel=0.05, abs=2e-4)
    assert found[0].put_wait > 0
    assert found[-1].get_wait > 0


def work(seconds: float, name: str) -> Callable[[Any], Any]:
    def function(item: Any) -> Any:
        time.sleep(seconds)
        return item

    function.__name__ = function.__qualname__ = name
    return function


def test_the_last_queue_stays_on_the_short_way_of_spdl() -> None:
    with pipeline_of(MessageHub("spdl")) as mon:
        pipeline = built(mon, double)
        plain = (
            spdl.PipelineBuilder()
            .add_source(range(ITEMS))
            .add_sink(3)
            .build(num_threads=1, queue_class=spdl.AsyncQueue)
        )
        assert type(pipeline._impl._output_queue) is type(plain._impl._output_queue)
        assert len(taken(pipeline)) == len(taken(plain)) == ITEMS
        measured = mon.parts.queues["sink"].counters(clock())
    assert measured.items == ITEMS
    assert measured.occupied
