"""Verdicts on pipelines of real libraries, of which it is known what limits them.

Functions sleep, so neither the interpreter nor the machine is what limits; they take as long as it needs for a thread
that is woken late not to matter.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from asynchub.hub import MessageHub
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import Verdict

spdl = pytest.importorskip("spdl.pipeline")
nodes = pytest.importorskip("torchdata.nodes")

AT_LEAST, AT_MOST = 2.6, 15.0
"""Seconds: a verdict needs 2 s of window, and two windows that agree; other programs may have the machine for long."""
ENDLESS = range(1_000_000)
Make = Callable[[Pipeline], Any]


class Watched:
    """What was reported of a pipeline: the report that ended it, and all verdicts until then."""

    def __init__(self) -> None:
        self.report = PipelineReport()
        self.verdicts: list[Verdict] = []

    @property
    def verdict(self) -> Verdict:
        return self.report.verdict

    @property
    def blamed(self) -> tuple[str, str]:
        return self.verdict.kind, self.verdict.stage or self.verdict.cause


def watched(make: Make, expected: tuple[str, str], step: float = 0.001, **options: Any) -> Watched:
    """Consume what ``make`` builds, ``step`` seconds an item, until the verdict is the expected one, or too long."""
    found, at_least = Watched(), options.pop("at_least", AT_LEAST)
    options = {"interval": 0.2, "window": 3.0, "warmup": 0.3} | options
    with Pipeline(MessageHub("verdicts"), "data", **options) as mon:
        mon.on_change(found.verdicts.append)
        start = time.monotonic()
        for _ in mon.consume(make(mon)):
            time.sleep(step)
            found.report, passed = mon.report(), time.monotonic() - start
            if passed > AT_MOST or (passed > at_least and found.blamed == expected):
                break
    return found


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
    time.sleep(0.4 if item % 16 == 0 else 0.005)
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


SHORT, LONG = 0.015, 0.1
FEW, MANY = ((0.3, 4), (0.04, 1)), ((0.8, 12), (LONG, 1))
"""The slower call is not the slower stage if it does 12 at once, and is if it does 4: who looks at latencies errs."""


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_spdl_the_stage_with_the_largest_latency_is_not_named_when_another_limits(inside: bool) -> None:
    found = watched(Spdl(*MANY, inside=inside), ("stage", "decode"))
    assert found.blamed == ("stage", "decode"), str(found.report)
    assert found.verdict.next_limit == "fetch"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "stage", "inside"),
    [
        (((LONG, 1), (SHORT, 1), (SHORT, 1)), "fetch", True),
        (((SHORT, 1), (LONG, 1), (SHORT, 1)), "decode", True),
        (((SHORT, 1), (SHORT, 1), (LONG, 1)), "collate", True),
        (FEW, "fetch", True),
        (FEW, "fetch", False),
    ],
    ids=["first", "middle", "last", "few servers", "few servers, from outside"],
)
def test_spdl_the_slow_stage_is_named(spec: Any, stage: str, inside: bool) -> None:
    found = watched(Spdl(*spec, inside=inside), ("stage", stage))
    assert found.blamed == ("stage", stage), str(found.report)
    assert found.report.state == "input_bound"


@pytest.mark.slow
def test_spdl_a_slow_consumer_is_named() -> None:
    found = watched(Spdl((SHORT, 1), (SHORT, 1), (SHORT, 1)), ("consumer", "train"), step=LONG)
    assert found.blamed == ("consumer", "train"), str(found.report)
    assert found.report.state == "ok"


@pytest.mark.slow
def test_spdl_of_two_stages_that_are_nearly_as_slow_the_slower_is_named_and_the_other_is_near() -> None:
    def fetch(item: int) -> int:
        if item > 10:  # until the queue after it is full, the faster one is as busy
            time.sleep(0.066)
        return item

    def make(mon: Pipeline) -> Any:
        builder = spdl.PipelineBuilder().add_source(ENDLESS).pipe(mon.stage("fetch")(fetch))
        builder.pipe(mon.stage("decode")(work(0.07, "decode", spread=0.0)))
        return Ended(builder.add_sink(3).build(num_threads=4, **mon.spdl()))

    found = watched(make, ("stage", "decode"), at_least=4.0)
    assert found.blamed == ("stage", "decode"), str(found.report)
    assert found.verdict.near == ("fetch",)
    assert found.verdict.level != "high"


@pytest.mark.slow
def test_spdl_a_slow_source_is_named() -> None:
    def make(mon: Pipeline) -> Any:
        source = map(work(LONG, "source"), ENDLESS)
        builder = spdl.PipelineBuilder().add_source(source).pipe(mon.stage("decode")(work(SHORT, "decode")))
        return Ended(builder.add_sink(3).build(num_threads=4, **mon.spdl()))

    found = watched(make, ("stage", "src"))
    assert found.blamed == ("stage", "src"), str(found.report)


@pytest.mark.slow
def test_spdl_after_the_limit_is_mended_the_next_one_limits_as_was_predicted() -> None:
    # what was fetched before the window makes the fetcher seem faster: not until the first calls are long past
    before = watched(Spdl((0.6, 12), (0.075, 1)), ("stage", "decode"), window=4.0, at_least=6.0)
    assert before.blamed == ("stage", "decode"), str(before.report)
    after = watched(Spdl((0.6, 12), (0.075, 2)), ("stage", "fetch"), window=4.0, at_least=6.0)
    assert after.blamed == ("stage", "fetch"), str(after.report)
    assert after.report.consumer is not None
    assert before.verdict.next_capacity is not None
    assert after.report.consumer.throughput == pytest.approx(before.verdict.next_capacity, rel=0.1)


@pytest.mark.slow
def test_spdl_stages_that_share_too_few_threads_are_not_to_blame() -> None:
    found = watched(Spdl((0.06, 4), (0.084, 4), (0.0, 1), threads=4), ("unsaturated", "pool"))
    assert found.blamed == ("unsaturated", "pool"), str(found.report)
    assert all(verdict.stage == "" for verdict in found.verdicts)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["input", "completion"])
def test_spdl_items_that_wait_for_an_earlier_one_are_evidence_only_where_the_order_is_kept(order: str) -> None:
    def make(mon: Pipeline) -> Any:
        builder = spdl.PipelineBuilder().add_source(ENDLESS)
        builder.pipe(mon.stage("jitter")(jitter), concurrency=4, output_order=order)
        return Ended(builder.add_sink(3).build(num_threads=8, **mon.spdl()))

    check_order(make, order == "input")


def check_order(make: Make, in_order: bool) -> None:
    """Check that the order is to blame if it is kept, and then no stage at any time; else never the order."""
    expected = ("unsaturated", "order") if in_order else ("stage", "jitter")
    found = watched(make, expected)
    assert found.blamed == expected, str(found.report)
    assert not any(verdict.stage if in_order else verdict.cause == "order" for verdict in found.verdicts)


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


@pytest.mark.slow
def test_nodes_the_slow_one_is_named_though_another_is_pulled_from_where_the_consumer_waits() -> None:
    make = loader_of(("decode", 0.02, 2), ("augment", 0.08, 2), ("collate", 0.015, 1))
    found = watched(make, ("stage", "augment"))
    assert found.blamed == ("stage", "augment"), str(found.report)
    assert found.verdict.capacity is not None
    assert 15 < found.verdict.capacity < 28  # 2 of them at 80 ms


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [True, False], ids=["prefetched", "inline"])
def test_nodes_a_slow_third_one_is_named_wherever_it_works(ahead: bool) -> None:
    def make(mon: Pipeline) -> Any:
        node = mapped(mon, nodes.IterableWrapper(ENDLESS), "decode", SHORT)
        node = mapped(mon, node, "augment", SHORT)
        node = mon.node(nodes.Mapper(node, work(LONG, "collate")), "collate")
        return nodes.Loader(mon.node(nodes.Prefetcher(node, 4), "ahead") if ahead else node)

    found = watched(make, ("stage", "collate"))
    assert found.blamed == ("stage", "collate"), str(found.report)


@pytest.mark.slow
def test_nodes_a_slow_consumer_is_named() -> None:
    found = watched(loader_of(("decode", SHORT, 2), ("augment", SHORT, 2)), ("consumer", "train"), step=LONG)
    assert found.blamed == ("consumer", "train"), str(found.report)


@pytest.mark.slow
@pytest.mark.parametrize("in_order", [True, False], ids=["in order", "in any order"])
def test_nodes_items_that_wait_for_an_earlier_one_are_no_stage_s_fault(in_order: bool) -> None:
    def make(mon: Pipeline) -> Any:
        node = nodes.ParallelMapper(nodes.IterableWrapper(ENDLESS), jitter, num_workers=4, in_order=in_order)
        return nodes.Loader(mon.node(node, "jitter"))

    check_order(make, in_order)
