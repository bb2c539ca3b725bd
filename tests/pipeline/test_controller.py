"""Raising what limits a pipeline, and taking it back: in worlds of which the throughput is known, and in real ones."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asynchub.dataflow import BottleneckChanged, ConcurrencyChanged
from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.pipeline.clock import SECOND
from asynchub.pipeline.controller import LONGEST_REST, MATERIAL, REST, SETTLING, HillClimbing
from asynchub.pipeline.figures import server_time
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import ConsumerReport, Latency, StageReport, Verdict
from asynchub.pipeline.stages import Stage
from asynchub.pipeline.tally import Counters, Meter
from asynchub.pipeline.usage import cpu_seconds, resident_bytes
from tests.pipeline.heard import PATIENT, Heard, listening

WINDOW = 5

Rate = Callable[[int, int], float]
"""Items a second, by concurrency and time."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "asynchub")


class World:
    """A pipeline whose throughput is known, as its reports show it: each is of the five seconds before.

    Args:
        rate: of it.
        consumer: items a second that are taken at most; a stage is blamed as long as fewer come.
        options: of ``HillClimbing``.
    """

    def __init__(self, rate: Rate, consumer: float = 1e9, *, concurrency: int = 1, **options: Any) -> None:
        self.pipeline = Pipeline(MessageHub("world"), interval=1.0, window=float(WINDOW))
        self.stage = self.pipeline.stage("decode", concurrency, limited=True)
        self.climbing = HillClimbing(self.pipeline, **options)
        self.rate = rate
        self.consumer = consumer
        self.blame = "decode"
        self.stalled = ""
        self.now = 0
        self.past: list[float] = []
        self.changes: list[tuple[int, int]] = []
        """Each: when, and how many at once from then on."""

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            before = self.stage.concurrency
            self.past.append(min(self.rate(before or 1, self.now), self.consumer))
            self.climbing(self.report())
            if self.stage.concurrency != before:
                self.changes.append((self.now, self.stage.concurrency or 1))

    def report(self) -> PipelineReport:
        window = self.past[-WINDOW:]
        pace = sum(window) / len(window)
        taker = ConsumerReport(
            name="train",
            throughput=pace,
            items=0,
            wait_fraction=0.5,
            wait_ms=Latency(mean=500 / pace, p50=0, p95=0, p99=0, max=0),
            busy_ms=500 / pace,
            time_to_first_batch_s=0.1,
        )
        full = self.past[-1] >= self.consumer
        verdict = Verdict("consumer", "train") if full else Verdict("stage", self.blame, reason=f"{self.blame} is busy")
        return PipelineReport(
            time=float(self.now),
            elapsed=float(self.now),
            window=float(len(window)),
            state="stalled" if self.stalled else "warmup" if self.now < 3 else "input_bound",
            verdict=verdict,
            consumer=taker,
            stalled=self.stalled,
        )

    @property
    def steps(self) -> list[int]:
        return [concurrency for _, concurrency in self.changes]


def in_proportion(concurrency: int, now: int) -> float:
    return 10.0 * concurrency


def never_more(concurrency: int, now: int) -> float:
    return 10.0


# --- going up


def test_a_stage_that_permits_it_is_raised_until_the_consumer_is_the_limit() -> None:
    world = World(in_proportion, consumer=38.0)
    world.run(200)
    assert world.steps == [2, 3, 4]
    assert world.stage.concurrency == 4


def test_steps_grow_with_what_there_is_up_to_the_most() -> None:
    world = World(in_proportion, most=16)
    world.run(300)
    assert world.steps == [2, 3, 4, 6, 9, 13, 16]
    narrow = World(in_proportion, most=5)
    narrow.run(300)
    assert narrow.steps == [2, 3, 4, 5]
    full = World(in_proportion, concurrency=20)
    full.run(100)
    assert full.steps == []


def test_each_step_waits_for_a_window_without_the_change_before() -> None:
    world = World(in_proportion)
    world.run(200)
    times = [when for when, _ in world.changes]
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {WINDOW + SETTLING}


def test_a_little_more_is_kept_only_if_it_is_more_than_the_gain_asked_for() -> None:
    def by_five_percent(concurrency: int, now: int) -> float:
        return 10.0 * 1.05 ** (concurrency - 1)

    kept = World(by_five_percent, most=3)
    kept.run(60)
    assert kept.steps == [2, 3]
    refused = World(by_five_percent, gain=0.06)
    refused.run(60)
    assert refused.steps == [2, 1]


# --- taking back


def test_a_step_that_gains_nothing_is_taken_back_and_not_tried_again_while_nothing_changes() -> None:
    world = World(never_more)
    world.run(5000)
    assert world.steps == [2, 1]


def test_a_step_that_makes_it_slower_is_taken_back() -> None:
    world = World(lambda concurrency, now: 10.0 / concurrency, concurrency=6)
    world.run(1000)
    assert world.steps[:2] == [9, 6]
    assert world.stage.concurrency == 6


def test_it_climbs_to_where_it_gains_no_more() -> None:
    world = World(lambda concurrency, now: 10.0 * min(concurrency, 4))
    world.run(1000)
    assert world.steps == [2, 3, 4, 6, 4]


@pytest.mark.parametrize(("change", "again"), [(1.0 + MATERIAL + 0.05, True), (1.0 + MATERIAL - 0.05, False)])
def test_it_is_tried_again_when_the_throughput_has_changed_much(change: float, again: bool) -> None:
    world = World(lambda concurrency, now: 10.0 * (change if now > 100 else 1.0))
    world.run(200)
    assert (len(world.steps) > 2) == again


def test_it_is_tried_again_when_something_else_was_the_limit_meanwhile() -> None:
    world = World(never_more)
    world.run(100)
    world.blame = "fetch"
    world.run(10)
    world.blame = "decode"
    assert world.steps == [2, 1]
    world.run(20)
    assert world.steps == [2, 1, 2, 1]


def test_after_each_failure_it_is_left_alone_for_twice_as_long() -> None:
    world = World(never_more)
    for _ in range(2000):  # something else is the limit again and again
        world.blame = "fetch"
        world.run(2)
        world.blame = "decode"
        world.run(8)
    tries = [when for when, concurrency in world.changes if concurrency == 2]
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    wanted = [WINDOW * min(REST * 2**failures, LONGEST_REST) for failures in range(len(gaps))]
    assert len(gaps) >= 9
    assert all(least <= gap <= least + 40 for least, gap in zip(wanted, gaps, strict=True))


def test_a_success_makes_failures_forgotten() -> None:
    world = World(lambda concurrency, now: 10.0 * (concurrency if now > 200 else 1))
    world.run(40)
    assert world.climbing._resting["decode"].failures == 1
    world.blame = "fetch"
    world.run(160)
    world.blame = "decode"
    world.run(15)
    assert world.steps[:4] == [2, 1, 2, 3]
    assert "decode" not in world.climbing._resting


# --- what spoils a measure


def test_a_stall_in_the_middle_of_a_trial_is_not_taken_for_its_result() -> None:
    world = World(lambda concurrency, now: 0.1 if 12 <= now <= 30 else 10.0 * concurrency)
    world.run(11)
    assert world.steps == [2]
    world.stalled = "waiting for a disk"
    world.run(19)
    world.stalled = ""
    world.run(30)
    assert world.steps[:3] == [2, 3, 4]


def test_a_change_by_somebody_else_ends_a_trial_and_stays() -> None:
    world = World(never_more)
    world.run(8)
    assert world.steps == [2]
    world.stage.set_concurrency(5)
    world.run(7)
    assert world.stage.concurrency == 5
    world.run(20)
    assert world.steps[:3] == [2, 7, 5]


def test_the_consumers_pauses_do_not_count() -> None:
    world = World(in_proportion, consumer=25.0)
    world.run(200)
    report = world.report()
    assert report.consumer is not None
    assert world.steps == [2, 3]  # the pace is that of wait and work, whatever ``throughput`` says


def test_without_a_consumer_the_last_stage_counts() -> None:
    world = World(in_proportion, most=3)
    with_one = world.report

    def without() -> PipelineReport:
        whole = with_one()
        assert whole.consumer is not None
        last = StageReport(
            "decode", whole.consumer.throughput, 0, None, 1.0, None, None, None, 0, 1, 0, 0, 0, None, 0.0
        )
        return dataclasses.replace(whole, consumer=None, stages=(last,))

    world.report = without  # type: ignore[method-assign]
    world.run(60)
    assert world.steps == [2, 3]


def test_a_pipeline_that_is_entered_again_is_begun_anew() -> None:
    world = World(never_more)
    world.run(100)
    world.now, world.past = 0, []
    world.run(30)
    assert world.steps == [2, 1, 2, 1]


def test_a_last_report_changes_nothing() -> None:
    world = World(in_proportion)
    world.run(4)
    world.climbing(dataclasses.replace(world.report(), elapsed=100.0, state="done"))
    assert world.stage.concurrency == 1


# --- bounds


def test_a_stage_without_a_limiter_is_left_alone() -> None:
    world = World(in_proportion)
    world.pipeline.stage("fetch", 1)
    world.blame = "fetch"
    world.run(100)
    assert world.steps == []


def test_no_step_is_tried_from_so_many_processors_on() -> None:
    world = World(in_proportion, cores=1e-9)
    world.run(50)
    assert world.steps == []
    roomy = World(in_proportion, cores=1e9)
    roomy.run(50)
    assert roomy.steps[0] == 2


def test_no_step_is_tried_with_so_much_memory_taken() -> None:
    world = World(in_proportion, memory=1)
    world.run(50)
    assert world.steps == []


def test_a_step_that_takes_the_memory_is_taken_back_at_once() -> None:
    taken = resident_bytes()
    assert taken is not None
    world = World(in_proportion, memory=taken + 40_000_000)
    while not world.steps:
        world.run(1)
    held = b"\1" * 80_000_000
    world.run(1)
    assert world.steps == [2, 1]
    assert len(held)


def test_what_the_process_uses_is_known() -> None:
    before, start = resident_bytes(), cpu_seconds()
    held = b"\1" * 50_000_000
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert after - before > 25_000_000
    assert len(held)
    assert cpu_seconds() > start


@pytest.mark.parametrize(
    "options",
    [
        {"most": 0},
        {"most": 1.5},
        {"most": True},
        {"gain": 0},
        {"gain": -1},
        {"gain": float("nan")},
        {"gain": "3 %"},
        {"cores": 0},
        {"cores": True},
        {"memory": -1},
    ],
)
def test_arguments_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ArgumentError, match=name):
        HillClimbing(Pipeline(MessageHub("refused")), **options)


def test_each_change_is_published_with_its_reason() -> None:
    world = World(never_more)
    heard = Heard()
    world.pipeline.hub.attach(heard)
    with world.pipeline.hub:
        world.run(40)
    there, back = heard.all_of(ConcurrencyChanged)
    assert (there.stage, there.old, there.new, there.author) == ("decode", 1, 2, "HillClimbing")
    assert there.reason == "a trial, for decode is busy"
    assert (back.old, back.new) == (2, 1)
    assert back.reason == "2 at once brought 10.0 items/s, 1 at once 10.0: less than 3 % more"


# --- the knob


def test_a_limited_stage_can_be_adjusted_before_it_was_ever_called() -> None:
    pipeline = Pipeline(MessageHub("knob"))
    stage = pipeline.stage("decode", 2, limited=True)
    assert stage.adjustable
    stage.set_concurrency(3)
    assert stage.concurrency == stage.limiter.total_tokens == 3
    assert not pipeline.stage("fetch").adjustable


async def both_at_once(stage: Stage, call: Callable[[threading.Barrier], Awaitable[object]]) -> None:
    """Run two calls that need each other, under a limiter of one, and let another thread allow two."""
    barrier = threading.Barrier(2)
    with anyio.fail_after(PATIENT):
        async with anyio.create_task_group() as group:
            group.start_soon(call, barrier)
            group.start_soon(call, barrier)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(partial(stage.set_concurrency, 2))


async def test_threads_under_the_limiter_are_let_in_from_any_thread() -> None:
    stage = Pipeline(MessageHub("knob")).stage("decode", 1)

    @stage
    def decode(barrier: threading.Barrier) -> None:
        barrier.wait(PATIENT)

    await both_at_once(stage, lambda barrier: anyio.to_thread.run_sync(decode, barrier, limiter=stage.limiter))
    assert stage.limiter.total_tokens == 2


async def test_calls_of_a_limited_async_function_are_let_in_from_any_thread() -> None:
    stage = Pipeline(MessageHub("knob")).stage("decode", 1, limited=True)

    @stage
    async def decode(barrier: threading.Barrier) -> None:
        await anyio.to_thread.run_sync(barrier.wait, PATIENT)

    await both_at_once(stage, decode)
    assert stage.limiter.total_tokens == 2


def test_servers_that_were_added_within_a_window_count_from_then_on() -> None:
    pipeline = Pipeline(MessageHub("knob"))
    meter = pipeline.stage("decode", 1, limited=True).meter
    old = meter.counters(SECOND)
    meter.counters(3 * SECOND)
    pipeline.stage("decode").set_concurrency(4)
    new = meter.counters(4 * SECOND)
    assert server_time(new, old, 3.0, 4) == (2 * 1 + 1 * 4) * SECOND
    assert server_time(new, Counters(), 3.0, 4) == 3 * 4 * SECOND  # nothing was told then
    assert Meter("fetch").counters(SECOND).offered is None


# --- real ones


async def climbed(
    mon: Pipeline, call: Callable[[], Awaitable[object]], enough: Callable[[PipelineReport], bool], work: float
) -> None:
    """Have a stage called by twelve tasks, and take what it makes, until it is enough."""
    send, receive = mon.channel("decoded", 4)
    ended = anyio.Event()

    async def calling(send: Any) -> None:
        async with send:
            while not ended.is_set():
                await call()
                await send.send(1)

    end = time.monotonic() + 60
    async with anyio.create_task_group() as group, receive:
        for _ in range(12):
            group.start_soon(calling, send.clone())
        send.close()
        async for _ in mon.consume(receive):
            await anyio.sleep(work)
            if enough(mon.report()) or time.monotonic() > end:
                ended.set()


def hardly_waits(report: PipelineReport) -> bool:
    return (
        report.verdict.kind == "consumer"
        and report.consumer is not None
        and report.consumer.wait_fraction is not None
        and report.consumer.wait_fraction < 0.05
    )


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_real_async_stage_is_raised_until_the_consumer_hardly_waits() -> None:
    with listening("real", interval=0.2, window=2.4, warmup=0.3, stall_after=10.0) as (mon, heard):
        mon.on_report(HillClimbing(mon))
        stage = mon.stage("decode", 1, limited=True)

        @stage
        async def decode() -> None:
            await anyio.sleep(0.05)

        await climbed(mon, decode, hardly_waits, 0.02)
        assert hardly_waits(mon.report())
        assert 3 <= (stage.concurrency or 0) <= 9
    assert [event.new for event in heard.all_of(ConcurrencyChanged)][:2] == [2, 3]
    assert "unsaturated" not in [event.kind for event in heard.all_of(BottleneckChanged)]


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_real_stage_in_threads_that_waits_is_raised_until_the_consumer_hardly_waits() -> None:
    with listening("real", interval=0.2, window=2.4, warmup=0.3, stall_after=10.0) as (mon, _):
        mon.on_report(HillClimbing(mon))
        stage = mon.stage("decode", 1)

        @stage
        def decode() -> None:
            time.sleep(0.05)

        await climbed(mon, lambda: anyio.to_thread.run_sync(decode, limiter=stage.limiter), hardly_waits, 0.02)
        assert hardly_waits(mon.report())
        assert 3 <= (stage.concurrency or 0) <= 9


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_real_stage_that_holds_the_interpreter_lock_is_put_back_and_left_alone() -> None:
    with listening("real", interval=0.2, window=2.4, warmup=0.3, stall_after=10.0) as (mon, heard):
        mon.on_report(HillClimbing(mon, gain=0.2))  # this machine may have other things to do
        stage = mon.stage("decode", 1)

        @stage
        def decode() -> int:
            total = 0
            for number in range(500_000):
                total += number
            return total

        reports: list[float] = []

        def enough(report: PipelineReport) -> bool:
            """Tell whether there was time to try again after it was put back."""
            changes = heard.all_of(ConcurrencyChanged)
            if len(changes) >= 2 and not reports:
                reports.append(report.elapsed)
            return bool(reports) and report.elapsed > reports[0] + 5

        await climbed(mon, lambda: anyio.to_thread.run_sync(decode, limiter=stage.limiter), enough, 0.001)
        assert stage.concurrency == 1
    assert [event.new for event in heard.all_of(ConcurrencyChanged)] == [2, 1]
