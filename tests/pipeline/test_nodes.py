"""Nodes of torchdata that are watched: the same items and states as without, and what was counted of them.

Verdicts on chains of which it is known what limits them are in ``test_verdicts_real.py``.
"""

from __future__ import annotations

import copy
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.pipeline.clock import clock
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import StageReport

nodes = pytest.importorskip("torchdata.nodes")

ITEMS = 40


def pipeline() -> Pipeline:
    return Pipeline(MessageHub("nodes"), "data", interval=0.1, window=3.0, warmup=0.3)


def stages(report: PipelineReport) -> dict[str, StageReport]:
    return {stage.name: stage for stage in report.stages}


def double(item: int) -> int:
    return 2 * item


def slow(item: int) -> int:
    time.sleep(0.01)
    return item


def refuse_seven(item: int) -> int:
    if item == 7:
        raise ValueError("seven")
    return item


Chain = Callable[[Pipeline | None], Any]


def named(mon: Pipeline | None, node: Any, name: str) -> Any:
    return node if mon is None else mon.node(node, name)


def source() -> Any:
    return nodes.IterableWrapper(range(ITEMS))


def chain_of_threads(mon: Pipeline | None) -> Any:
    node = named(mon, nodes.ParallelMapper(source(), double, num_workers=3), "double")
    return named(mon, nodes.Prefetcher(named(mon, nodes.Batcher(node, 4), "batch"), 2), "ahead")


def chain_of_batches(mon: Pipeline | None) -> Any:
    return named(mon, nodes.ParallelMapper(source(), double, num_workers=2, prebatch=5), "double")


def chain_inline(mon: Pipeline | None) -> Any:
    node = named(mon, nodes.Mapper(named(mon, source(), "source"), double), "double")
    return named(mon, nodes.Batcher(node, 4), "batch")


CHAINS = pytest.mark.parametrize("chain", [chain_of_threads, chain_of_batches, chain_inline])


# --- the same as without


@CHAINS
def test_items_and_states_are_those_of_nodes_that_are_not_watched(chain: Chain) -> None:
    mon = pipeline()
    plain, watched = nodes.Loader(chain(None)), nodes.Loader(chain(mon))
    for _ in range(2):  # two epochs
        expected, found = iter(plain), iter(watched)
        for item in expected:
            assert next(found) == item
            assert watched.state_dict() == plain.state_dict()
        with pytest.raises(StopIteration):
            next(found)


@CHAINS
def test_a_watched_chain_goes_on_from_the_state_of_one_that_is_not(chain: Chain) -> None:
    plain, watched = nodes.Loader(chain(None)), nodes.Loader(chain(pipeline()))
    begun = iter(plain)
    for _ in range(3):
        next(begun)
    watched.load_state_dict(plain.state_dict())
    assert list(watched) == list(begun)


def test_a_watched_node_is_the_node_itself() -> None:
    node = nodes.Batcher(source(), 4)
    assert pipeline().node(node, "batch") is node
    assert type(node) is nodes.Batcher
    assert node.batch_size == 4


def test_with_enabled_false_a_node_is_left_alone() -> None:
    node = source()
    assert Pipeline(MessageHub("nodes"), enabled=False).node(node, "source") is node
    assert "next" not in vars(node)


def test_what_is_no_node_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"a node of torchdata\.nodes, got list"):
        pipeline().node([1, 2], "list")


def test_a_copy_of_a_watched_node_is_not_watched() -> None:
    mon = pipeline()
    copied = copy.deepcopy(mon.node(nodes.Batcher(source(), 4), "batch"))
    assert len(list(copied)) == ITEMS // 4
    assert mon.stage("batch").meter.counters(clock()).items == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_map_function_raises_is_raised_and_counted(workers: int) -> None:
    mon = pipeline()
    node = mon.node(nodes.ParallelMapper(source(), refuse_seven, num_workers=workers), "refuse")
    with pytest.raises(ValueError, match="seven"):
        list(node)
    counted = mon.stage("refuse").meter.counters(clock())
    assert counted.errors == 1
    assert counted.items >= 7


@pytest.mark.parametrize("kind", ["mapper", "prefetcher"])
def test_threads_end_with_the_node_that_is_given_up(kind: str) -> None:
    mon = pipeline()
    node = nodes.ParallelMapper(source(), double, num_workers=2) if kind == "mapper" else nodes.Prefetcher(source(), 2)
    mon.node(node, "it")
    next(node)
    inner = node._it._it if kind == "mapper" else node._it
    thread = inner._read_thread if kind == "mapper" else inner._thread
    known = weakref.ref(inner)
    gc.disable()  # without it too: the threads of torchdata end when the last reference does
    try:
        del node, inner
        assert known() is None
        assert not thread.is_alive()
    finally:
        gc.enable()
    assert mon.parts.queues["it"].depth() == 0  # what is gone is empty


# --- what is counted


def test_a_mapper_with_threads_is_timed_in_its_threads() -> None:
    with pipeline() as mon:
        node = mon.node(nodes.ParallelMapper(source(), slow, num_workers=3), "slow")
        assert list(mon.consume(nodes.Loader(node))) == list(range(ITEMS))
    stage = stages(mon.report())["slow"]
    assert (stage.items, stage.concurrency, stage.in_flight) == (ITEMS, 3, 0)
    assert stage.latency_ms is not None
    assert stage.latency_ms.p50 >= 9.7  # 10 ms, as exact as a bucket
    assert stage.capacity is not None
    assert stage.capacity <= 3 / 0.01
    assert [queue.name for queue in mon.report().queues] == ["slow"]
    assert mon.report().queues[0].after == "slow"


def test_the_wait_for_a_mapper_is_not_the_time_of_the_node_that_asks_it() -> None:
    with pipeline() as mon:
        mapper = mon.node(nodes.ParallelMapper(source(), slow, num_workers=1), "slow")
        list(mon.consume(nodes.Loader(mon.node(nodes.Batcher(mapper, 4), "batch"))))
    stage = stages(mon.report())["batch"]
    assert stage.items == ITEMS // 4
    assert stage.starved is not None
    assert stage.starved > 5 * stage.busy


def test_what_is_not_seen_inside_is_never_busy() -> None:
    with pipeline() as mon:
        mapper = nodes.ParallelMapper(source(), slow, num_workers=1, method="process", multiprocessing_context="fork")
        node = mon.node(nodes.Prefetcher(mon.node(mapper, "slow"), 2), "ahead")
        assert list(mon.consume(nodes.Loader(node))) == list(range(ITEMS))
    found = stages(mon.report())
    assert {name: stage.items for name, stage in found.items()} == {"slow": ITEMS, "ahead": ITEMS}
    for stage in found.values():
        assert stage.busy < 0.05
        assert stage.starved is not None
        assert stage.starved > 0.2
    assert {queue.name: queue.capacity for queue in mon.report().queues} == {"slow": 2, "ahead": 2}


def test_finished_items_that_wait_for_an_earlier_one_are_known() -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def first_is_late(item: int) -> int:
        if item == 0:
            assert go_on.wait(30)
        return item

    with pipeline() as mon:
        node = mon.node(nodes.ParallelMapper(source(), first_is_late, num_workers=4), "late")
        mon.on_report(lambda report: waiting.set() if held_back(mon) else None)
        taker = threading.Thread(target=lambda: list(node))
        taker.start()
        try:
            assert waiting.wait(30)
            assert held_back(mon) == 6  # of 8 that it holds, less the late one, and one that is not sure
        finally:
            go_on.set()
            taker.join()
        assert held_back(mon) == 0


def test_items_in_any_order_wait_for_none() -> None:
    mon = pipeline()
    mon.node(nodes.ParallelMapper(source(), double, num_workers=4, in_order=False), "double")
    assert mon.parts.evidence == []


def held_back(mon: Pipeline) -> int:
    return sum(ask() for ask in mon.parts.evidence)
