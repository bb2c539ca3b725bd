"""What a pipeline publishes: which keys, how often, and what of it is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from asynchub.dataflow import ConcurrencyChanged, PipelineReported, SlowItems
from asynchub.events import Event, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.pipeline.clock import clock
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.outlet import KEPT
from tests.pipeline.side_log import TIMED_ON, burn, pipeline

STAGE = {"throughput", "items", "busy", "in_flight", "concurrency", "errors", "retries", "drops"}
LATENCY = {f"latency_ms.{name}" for name in ("mean", "p50", "p95", "p99", "max")}
QUEUE = {"depth", "occupancy", "full"}


def ticked(monitor: Pipeline, last: bool = False) -> None:
    """Do what the thread of a pipeline does once per interval."""
    burn(2_000_000)
    monitor._tick(last)


@pytest.fixture
def mon() -> Iterator[Pipeline]:
    """A pipeline that reports when the test says so."""
    monitor = pipeline(interval=100.0, window=1000.0)
    with monitor:
        yield monitor


def current(monitor: Pipeline, key: str) -> float:
    found: float = monitor.hub.get_scalar(key).current()
    return found


def test_a_known_pipeline_has_exactly_these_keys(mon: Pipeline) -> None:
    decode = mon.stage("decode", concurrency=2)(lambda number: number)
    mon.watch("raw", lambda: 3, capacity=8)
    with mon.stage("copy").task(nbytes=100):
        pass
    for number in mon.consume(mon.monitor(range(10), "source")):
        decode(number)
    mon.parts.look()
    ticked(mon)
    wanted = {f"data/decode/{name}" for name in STAGE | LATENCY | {"capacity", "age_s"}}
    wanted |= {f"data/copy/{name}" for name in STAGE | LATENCY | {"capacity", "age_s", "bytes_per_s"}}
    wanted |= {f"data/source/{name}" for name in STAGE | LATENCY | {"capacity", "age_s", "starved", "blocked"}}
    wanted |= {f"data/queue/raw/{name}" for name in QUEUE | {"fill", "wait_ms"}}
    wanted |= {"data/wait_fraction", "data/time_to_first_batch_s", "train/data_time", "train/time"}
    wanted |= {f"data/wait_ms.{name}" for name in ("mean", "p50", "p95", "p99", "max")}
    assert set(mon.hub.log_scalars) == wanted
    assert current(mon, "data/decode/items") == 10
    assert current(mon, "data/queue/raw/depth") == 3
    assert current(mon, "data/queue/raw/fill") == 0.375
    assert set(mon.hub.runtime_info) == {"data/state"}


@TIMED_ON
async def test_a_loop_has_its_lag() -> None:
    async with pipeline(interval=0.1) as mon:
        await mon.stage("fetch")(anyio.sleep)(0.25)
    assert {"data/loop/lag_ms.p95", "data/fetch/items"} <= set(mon.hub.log_scalars)


def test_an_empty_window_publishes_no_latency_and_no_capacity() -> None:
    mon = pipeline(interval=0.1, window=0.1)
    decode = mon.stage("decode")(lambda: None)
    latency = "data/decode/latency_ms.p50"
    mon._reporter.begin()
    decode()
    ticked(mon)
    hub = mon.hub
    assert (len(hub.get_scalar("data/decode/items").data[0]), len(hub.get_scalar(latency).data[0])) == (1, 1)
    ticked(mon)
    ticked(mon)
    assert len(hub.get_scalar("data/decode/items").data[0]) == 3
    assert len(hub.get_scalar(latency).data[0]) == 1
    assert len(hub.get_scalar("data/decode/capacity").data[0]) == 1
    assert hub.get_scalar("data/decode/throughput").data[0].tolist()[1:] == [0.0, 0.0]


def test_a_stage_that_has_done_nothing_yet_has_counts_and_no_figures(mon: Pipeline) -> None:
    mon.stage("decode", 4)
    ticked(mon)
    assert set(mon.hub.log_scalars) == {f"data/decode/{name}" for name in STAGE}


async def test_each_interval_is_one_update_and_one_report(mon: Pipeline) -> None:
    mon.stage("decode")(lambda: None)()
    with anyio.fail_after(30), mon.hub.subscribe() as events:
        for _ in range(5):
            ticked(mon)
        mon.hub.publish(PipelineReported(key="end"))
        found: list[Event] = []
        async for event in events:
            if event.key == "end":
                break
            found.append(event)
    reports = [event for event in found if isinstance(event, PipelineReported)]
    assert len(reports) == 5
    for key in ("data/decode/items", "data/decode/busy"):
        assert len([event for event in found if isinstance(event, ScalarUpdated) and event.key == key]) == 5
    assert len(mon.hub.get_scalar("data/decode/items").data[0]) == 5


def test_without_scalars_there_is_only_the_report() -> None:
    with pipeline(interval=100.0, window=100.0, scalars=False) as mon:
        mon.stage("decode")(lambda: None)()
        ticked(mon)
        assert mon.report().stages[0].items == 1
    assert dict(mon.hub.log_scalars) == {}


def test_histories_are_bounded_and_no_part_of_the_state_to_resume(mon: Pipeline) -> None:
    mon.stage("decode")(lambda: None)()
    for _ in mon.consume(range(3)):
        pass
    mon.hub.update_scalar("loss", 1.0)
    ticked(mon)
    for key, history in mon.hub.log_scalars.items():
        assert history.max_length == (KEPT if key != "loss" else 1_000_000)
    times = {"train/data_time", "train/time"}  # which programs record as resumable
    assert set(mon.hub.state_dict()["log_scalars"]) == {"loss"} | times
    assert "data/state" not in mon.hub.state_dict()["runtime_info"]


def test_times_of_a_step_are_in_seconds(mon: Pipeline) -> None:
    def slow() -> Iterator[int]:
        for number in range(5):
            time.sleep(0.02)
            yield number

    start = time.perf_counter()
    for _ in mon.consume(slow()):
        time.sleep(0.03)
    whole = time.perf_counter() - start
    ticked(mon)
    data_time, step_time = current(mon, "train/data_time"), current(mon, "train/time")
    assert 0.02 <= data_time < step_time - 0.03 + 0.001
    assert 0.05 <= step_time <= whole / 5 * 1.01


def test_the_name_of_the_consumer_is_that_of_its_times(mon: Pipeline) -> None:
    for _ in mon.consume(range(3), "finetune"):
        pass
    ticked(mon)
    assert {"finetune/data_time", "finetune/time"} <= set(mon.hub.log_scalars)
    assert "train/time" not in mon.hub.log_scalars


def test_times_that_the_program_publishes_itself_are_left_alone(mon: Pipeline) -> None:
    mon.hub.update_scalar("train/time", 9.0)
    for _ in mon.consume(range(3)):
        pass
    ticked(mon)
    mon.hub.update_scalar("train/time", 8.0)
    for _ in mon.consume(range(3)):
        pass
    ticked(mon)
    assert mon.hub.get_scalar("train/time").data[0].tolist() == [9.0, 8.0]
    assert mon.hub.get_scalar("train/time").max_length == 1_000_000
    assert len(mon.hub.get_scalar("train/data_time").data[0]) == 2


def test_times_that_the_program_begins_to_publish_later_are_left_alone_from_then_on(mon: Pipeline) -> None:
    def epoch() -> None:
        for _ in mon.consume(range(3)):
            pass
        ticked(mon)

    epoch()
    mon.hub.update_scalar("train/time", 9.0)
    epoch()
    mon.hub.update_scalar("train/time", 8.0)
    epoch()
    history = mon.hub.get_scalar("train/time")
    assert history.data[0].tolist()[1:] == [9.0, 8.0]
    assert history.max_length == 1_000_000
    assert len(mon.hub.get_scalar("train/data_time").data[0]) == 3


def test_a_run_that_is_resumed_goes_on_with_the_times_of_its_steps(mon: Pipeline) -> None:
    for _ in mon.consume(range(3)):
        pass
    ticked(mon)
    hub = MessageHub("resumed")
    hub.load_state_dict(mon.hub.state_dict())
    again = pipeline(hub, interval=100.0)
    with again:
        for _ in range(2):
            for _ in again.consume(range(3)):
                pass
            ticked(again)
    assert len(hub.get_scalar("train/time").data[0]) == 3
    assert hub.get_scalar("data/wait_fraction").max_length == KEPT


def test_the_state_is_published_when_it_changes(mon: Pipeline) -> None:
    told: list[object] = []
    original = mon.hub.update_info

    def update_info(key: str, value: object, **rest: Any) -> None:
        told.append((key, value))
        original(key, value, **rest)

    mon.hub.update_info = update_info  # type: ignore[method-assign]
    mon.stage("decode")(lambda: None)()
    for _ in range(3):
        ticked(mon)
    ticked(mon, last=True)
    states = [value for key, value in told if key == "data/state"]
    assert states[-1] == "done"
    assert len(states) == len(set(states)) == 2


async def published_by(monitor: Pipeline, act: Callable[[], object], *wanted: Any) -> list[Any]:
    with anyio.fail_after(30), monitor.hub.subscribe(*wanted, "end") as events:
        act()
        monitor.hub.publish(PipelineReported(key="end"))
        found: list[Event] = []
        async for event in events:
            if event.key == "end":
                return found
            found.append(event)
    raise AssertionError


@TIMED_ON
async def test_slow_items_are_told_of_once(mon: Pipeline) -> None:
    work = mon.stage("decode")(time.sleep)

    def act() -> None:
        for _ in range(20):
            work(0.0005)
        ticked(mon)
        work(0.15)
        work(0.08)
        ticked(mon)
        ticked(mon)

    found = await published_by(mon, act, SlowItems)
    [event] = [one for one in found if isinstance(one, SlowItems)]
    assert (event.key, event.pipeline, event.stage, event.items) == ("data/slow_items", "data", "decode", 2)
    assert event.slowest >= 0.15
    assert 0.0005 <= event.median < 0.01


@TIMED_ON
async def test_items_that_are_all_alike_are_never_slow(mon: Pipeline) -> None:
    work = mon.stage("decode")(time.sleep)

    def act() -> None:
        for _ in range(2):
            for _ in range(2):
                work(0.055)
            ticked(mon)

    assert await published_by(mon, act, SlowItems) == []


async def test_a_changed_concurrency_is_told_of_with_its_reason(mon: Pipeline) -> None:
    stage = mon.stage("decode", concurrency=2, limited=True)

    def act() -> None:
        stage.set_concurrency(4, reason="to try", author="a test")
        stage.set_concurrency(4)

    found = await published_by(mon, act, ConcurrencyChanged)
    assert [(one.stage, one.old, one.new, one.reason, one.author, one.key) for one in found] == [
        ("decode", 2, 4, "to try", "a test", "data/concurrency_changed")
    ]


def test_two_pipelines_of_one_hub_publish_under_their_names() -> None:
    hub = MessageHub("hub")
    with pipeline(hub, "train", interval=100.0) as one, pipeline(hub, "val", interval=100.0) as other:
        for number, monitor in enumerate((one, other)):
            for _ in range(number + 1):
                monitor.stage("decode")(lambda: None)()
            ticked(monitor)
    assert hub.get_scalar("train/decode/items").current() == 1
    assert hub.get_scalar("val/decode/items").current() == 2
    assert hub.get_info("train/state") == hub.get_info("val/state") == "done"


def test_a_report_costs_the_hub_no_more_keys_the_longer_it_runs(mon: Pipeline) -> None:
    work = mon.stage("decode")(lambda: None)
    work()
    ticked(mon)
    keys = set(mon.hub.log_scalars)
    for _ in range(5):
        work()
        ticked(mon)
    assert set(mon.hub.log_scalars) == keys
    assert mon.report().time <= time.time()
    assert mon.report().elapsed <= clock() / 1e9
