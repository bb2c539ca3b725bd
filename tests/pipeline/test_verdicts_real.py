"""Verdicts on pipelines of real libraries, of which it is known what limits them.

Functions sleep, so neither the interpreter nor the machine is what limits; they take as long as it needs for a thread
that is woken late not to matter.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from asynchub.hub import MessageHub
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.report import PipelineReport

spdl = pytest.importorskip("spdl.pipeline")
nodes = pytest.importorskip("torchdata.nodes")

SECONDS = 3.4
"""What a case runs for: a verdict needs 2 s of window, and two windows that agree."""
ENDLESS = range(1_000_000)
Make = Callable[[Pipeline], Any]


def watched(make: Make, step: float = 0.001, seconds: float = SECONDS, **options: Any) -> PipelineReport:
    """Return the last report on what ``make`` builds, consumed for some seconds, ``step`` seconds an item."""
    options = {"interval": 0.2, "window": 2.4, "warmup": 0.3} | options
    with Pipeline(MessageHub("verdicts"), "data", **options) as mon:
        iterable = make(mon)
        consume(mon.consume(iterable), step, seconds)
        return mon.report()


def consume(items: Iterable[Any], step: float, seconds: float) -> None:
    end = time.monotonic() + seconds
    for _ in items:
        time.sleep(step)
        if time.monotonic() > end:
            return


def work(seconds: float, name: str, spread: float = 0.1) -> Callable[[Any], Any]:
    """Return a function that takes so long, more or less: of calls that begin together, not all end together."""
    rng = random.Random(name)

    def function(item: Any) -> Any:
        time.sleep(seconds * rng.uniform(1 - spread, 1 + spread))
        return item

    function.__name__ = function.__qualname__ = name
    return function


def jitter(item: int) -> int:
    """Return the item, one of 16 far later than the others."""
    time.sleep(0.4 if item % 16 == 0 else 0.01)
    return item


# --- SPDL


class Spdl:
    """A pipeline of SPDL of three stages, each of which takes some seconds and does some items at once."""

    def __init__(
        self,
        fetch: tuple[float, int],
        decode: tuple[float, int],
        collate: tuple[float, int] = (0.01, 1),
        *,
        inside: bool = True,
        threads: int = 20,
    ) -> None:
        self._stages = {"fetch": fetch, "decode": decode, "collate": collate}
        self._inside = inside
        self._threads = threads

    def __call__(self, mon: Pipeline) -> Any:
        builder = spdl.PipelineBuilder().add_source(ENDLESS)
        for name, (seconds, concurrency) in self._stages.items():
            function = work(seconds, name)
            builder.pipe(mon.stage(name)(function) if self._inside else function, concurrency=concurrency)
        return Ended(builder.add_sink(3).build(num_threads=self._threads, **mon.spdl()))


class Ended:
    """A pipeline of SPDL that is started, and stopped, by iterating over it."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def __iter__(self) -> Any:
        with self._pipeline.auto_stop():
            yield from self._pipeline


SHORT, LONG = 0.015, 0.06
FEW, MANY = ((0.48, 4), (LONG, 1)), ((0.48, 12), (LONG, 1))
"""The slower call is not the slower stage, as long as it does 12 at once: the trap of who looks at latencies."""


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_spdl_the_stage_with_the_largest_latency_is_not_named_when_another_limits(inside: bool) -> None:
    report = watched(Spdl(*MANY, inside=inside))
    assert (report.verdict.kind, report.verdict.stage) == ("stage", "decode"), str(report)
    assert report.verdict.next_limit == "fetch"


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize(
    ("spec", "stage"),
    [
        (((LONG, 1), (SHORT, 1), (SHORT, 1)), "fetch"),
        (((SHORT, 1), (LONG, 1), (SHORT, 1)), "decode"),
        (((SHORT, 1), (SHORT, 1), (LONG, 1)), "collate"),
        (FEW, "fetch"),
    ],
    ids=["first", "middle", "last", "few servers"],
)
def test_spdl_the_slow_stage_is_named(spec: Any, stage: str, inside: bool) -> None:
    report = watched(Spdl(*spec, inside=inside))
    assert (report.verdict.kind, report.verdict.stage) == ("stage", stage), str(report)
    assert report.state == "input_bound"


@pytest.mark.slow
def test_spdl_a_slow_consumer_is_named() -> None:
    report = watched(Spdl((SHORT, 1), (SHORT, 1), (SHORT, 1)), step=LONG)
    assert (report.verdict.kind, report.verdict.stage) == ("consumer", "train"), str(report)
    assert report.state == "ok"


@pytest.mark.slow
def test_spdl_of_two_stages_that_are_nearly_as_slow_the_slower_is_named_and_the_other_is_near() -> None:
    # the faster one is as busy until the queue between them is full; that is not judged
    report = watched(Spdl((0.054, 1), (LONG, 1)), warmup=4.0, seconds=8.0)
    assert (report.verdict.kind, report.verdict.stage) == ("stage", "decode"), str(report)
    assert report.verdict.near == ("fetch",)
    assert report.verdict.level != "high"


@pytest.mark.slow
def test_spdl_a_slow_source_is_named() -> None:
    def make(mon: Pipeline) -> Any:
        source = map(work(LONG, "source"), ENDLESS)
        builder = spdl.PipelineBuilder().add_source(source).pipe(mon.stage("decode")(work(SHORT, "decode")))
        return Ended(builder.add_sink(3).build(num_threads=4, **mon.spdl()))

    report = watched(make)
    assert (report.verdict.kind, report.verdict.stage) == ("stage", "src"), str(report)


@pytest.mark.slow
def test_spdl_after_the_limit_is_mended_the_next_one_limits_as_was_predicted() -> None:
    before = watched(Spdl((0.2, 12), (0.025, 1)), window=3.0, seconds=4.5)
    assert (before.verdict.kind, before.verdict.stage) == ("stage", "decode"), str(before)
    after = watched(Spdl((0.2, 12), (0.025, 2)), window=4.0, seconds=6.0)
    assert (after.verdict.kind, after.verdict.stage) == ("stage", "fetch"), str(after)
    assert after.consumer is not None and before.verdict.next_capacity is not None
    assert after.consumer.throughput == pytest.approx(before.verdict.next_capacity, rel=0.1)


@pytest.mark.slow
def test_spdl_stages_that_share_too_few_threads_are_not_to_blame() -> None:
    report = watched(Spdl((0.03, 4), (0.042, 4), (0.0, 1), threads=4))
    assert (report.verdict.kind, report.verdict.cause) == ("unsaturated", "pool"), str(report)
    assert report.verdict.stage == ""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["input", "completion"])
def test_spdl_items_that_wait_for_an_earlier_one_are_evidence_only_where_the_order_is_kept(order: str) -> None:
    def make(mon: Pipeline) -> Any:
        builder = spdl.PipelineBuilder().add_source(ENDLESS)
        builder.pipe(mon.stage("jitter")(jitter), concurrency=4, output_order=order)
        return Ended(builder.add_sink(3).build(num_threads=8, **mon.spdl()))

    report = watched(make, seconds=4.0)
    assert ((report.verdict.kind, report.verdict.cause) == ("unsaturated", "order")) == (order == "input"), str(report)


# --- torchdata.nodes


def mapped(mon: Pipeline, source: Any, name: str, seconds: float, workers: int = 2) -> Any:
    return mon.node(nodes.ParallelMapper(source, work(seconds, name), num_workers=workers), name)


def loader_of(*stages: tuple[str, float, int]) -> Make:
    def make(mon: Pipeline) -> Any:
        node = nodes.IterableWrapper(ENDLESS)
        for name, seconds, workers in stages:
            node = mapped(mon, node, name, seconds, workers)
        return nodes.Loader(node)

    return make


def test_nodes_the_slow_one_is_named_though_another_is_pulled_from_where_the_consumer_waits() -> None:
    report = watched(loader_of(("decode", 0.02, 2), ("augment", 0.08, 2), ("collate", 0.015, 1)))
    assert (report.verdict.kind, report.verdict.stage) == ("stage", "augment"), str(report)
    assert report.verdict.capacity == pytest.approx(25, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [True, False], ids=["prefetched", "inline"])
def test_nodes_a_slow_third_one_is_named_wherever_it_works(ahead: bool) -> None:
    def make(mon: Pipeline) -> Any:
        node = mapped(mon, nodes.IterableWrapper(ENDLESS), "decode", SHORT)
        node = mapped(mon, node, "augment", SHORT)
        node = mon.node(nodes.Mapper(node, work(LONG, "collate")), "collate")
        return nodes.Loader(mon.node(nodes.Prefetcher(node, 4), "ahead") if ahead else node)

    report = watched(make)
    assert (report.verdict.kind, report.verdict.stage) == ("stage", "collate"), str(report)


@pytest.mark.slow
def test_nodes_a_slow_consumer_is_named() -> None:
    report = watched(loader_of(("decode", SHORT, 2), ("augment", SHORT, 2)), step=LONG)
    assert (report.verdict.kind, report.verdict.stage) == ("consumer", "train"), str(report)


@pytest.mark.slow
@pytest.mark.parametrize("in_order", [True, False], ids=["in order", "in any order"])
def test_nodes_items_that_wait_for_an_earlier_one_are_no_stage_s_fault(in_order: bool) -> None:
    def make(mon: Pipeline) -> Any:
        node = nodes.ParallelMapper(nodes.IterableWrapper(ENDLESS), jitter, num_workers=4, in_order=in_order)
        return nodes.Loader(mon.node(node, "jitter"))

    report = watched(make, seconds=4.0)
    found = (report.verdict.kind, report.verdict.cause)
    assert (found == ("unsaturated", "order")) == in_order, str(report)
