"""An event loop that a stage holds: who is blamed, while it lasts and afterwards, and who is not."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import anyio
import pytest
import trio

from asynchub.loops import LoopHandle
from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.loops import LoopMeter
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.report import Verdict
from tests.pipeline.heard import PATIENT, line_of, listening

QUICK = 12
BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.slow),
    pytest.param(("trio", {}), id="trio", marks=pytest.mark.slow),
]
"""A window of two seconds is the least that is judged, so two of the loops are for the patient."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "asynchub")


async def run_until(kind: str, mon: Pipeline, decode: Any, fetch: Any) -> list[Verdict]:
    """Take what four fetchers fetch and one task decodes, until a verdict is known; return all there were."""
    fetched, to_decode = mon.channel("fetched", 8)
    decoded, ready = mon.channel("decoded", 8)
    judged, told = anyio.Event(), list[Verdict]()
    mon.on_change(told.append)

    async def fetching(send: Any) -> None:
        async with send:
            while not judged.is_set():
                await send.send(await fetch())

    async def decoding() -> None:
        async with to_decode, decoded:
            async for item in to_decode:
                await decoded.send(await decode(item))

    end = time.monotonic() + PATIENT
    async with anyio.create_task_group() as group, ready:
        for _ in range(4):
            group.start_soon(fetching, fetched.clone())
        group.start_soon(decoding)
        fetched.close()
        async for _ in mon.consume(ready):
            if mon.bottleneck.kind == kind or time.monotonic() > end:
                judged.set()
    return told


@pytest.mark.parametrize("anyio_backend", BACKENDS, indirect=True)
async def test_a_stage_that_sleeps_on_the_loop_is_blamed_for_it_and_the_innocent_are_not() -> None:
    with listening("held", interval=0.2, window=3.0, warmup=0.3) as (mon, _):

        @mon.stage("fetch", concurrency=4)
        async def fetch() -> int:
            await anyio.sleep(0.01)
            return 1

        @mon.stage("decode", concurrency=1)
        async def decode(item: int) -> int:
            time.sleep(0.02)
            await anyio.sleep(0)
            return item

        told = await run_until("loop", mon, decode, fetch)
        report = mon.report()
    verdict = report.verdict
    assert (verdict.kind, verdict.stage) == ("loop", "decode")
    assert all(one.stage != "fetch" for one in told)
    assert "fetch" not in (*verdict.near, verdict.next_limit, *verdict.reason.split())
    assert verdict.reason.startswith("decode holds the event loop ")
    stages = {stage.name: stage for stage in report.stages}
    assert (stages["decode"].on_loop or 0) > 0.8
    assert (stages["fetch"].on_loop or 0) < 0.2
    assert report.loop is not None
    assert (report.loop.lag_ms_p95 or 0) >= 10


@pytest.mark.slow
async def test_stages_that_do_not_hold_the_loop_are_judged_by_their_servers() -> None:
    with listening("free", interval=0.2, window=3.0, warmup=0.3) as (mon, _):

        @mon.stage("fetch", concurrency=4)
        async def fetch() -> int:
            await anyio.sleep(0.01)
            return 1

        @mon.stage("decode", concurrency=1)
        async def decode(item: int) -> int:
            await anyio.sleep(0.02)
            return item

        await run_until("stage", mon, decode, fetch)
        verdict = mon.bottleneck
    assert (verdict.kind, verdict.stage) == ("stage", "decode")


async def test_while_the_loop_is_held_the_line_that_holds_it_is_told_in_another_thread() -> None:
    with listening("hung", stall_after=0.6) as (mon, heard):
        send, receive = mon.channel("decoded", 4)
        waiting = anyio.Event()

        @mon.stage("fetch", concurrency=4)
        async def fetch() -> None:
            await waiting.wait()

        @mon.stage("decode", concurrency=1)
        async def decode(item: int) -> int:
            if item == QUICK:
                await anyio.sleep(0.001)
                assert heard.stalled.wait(PATIENT)  # here, on the loop
            return item

        async def decoding() -> None:
            async with send:
                for item in range(QUICK + 2):
                    await send.send(await decode(item))
            waiting.set()

        async with anyio.create_task_group() as group, receive:
            for _ in range(4):
                group.start_soon(fetch)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(decoding)
            assert [item async for item in mon.consume(receive)] == list(range(QUICK + 2))
        assert heard.recovered.wait(PATIENT)
    stall = heard.stall
    assert stall.stage == "decode"
    assert stall.frame == line_of(decode, "# here, on the loop")
    assert stall.state == "blocked event loop"
    assert stall.reason.startswith(f"waiting for the event loop, which {stall.frame} has held for ")
    assert "in decode\n    assert heard.stalled.wait(PATIENT)" in stall.stack
    assert heard.thread != threading.get_ident()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_stage_in_the_calls_of_the_one_that_holds_the_loop_is_named() -> None:
    with listening("hung", stall_after=0.6) as (mon, heard):

        @mon.stage("parse")
        async def parse(item: int) -> int:
            if item == QUICK:
                assert heard.stalled.wait(PATIENT)  # here, on the loop
            return item

        @mon.stage("decode")
        async def decode(item: int) -> int:
            return await parse(item)

        async def items() -> Any:
            for item in range(QUICK + 1):
                yield await decode(item)

        async for _ in mon.consume(items()):
            pass
    assert heard.stall.stage == "parse"
    assert heard.stall.frame == line_of(parse, "# here, on the loop")


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_code_that_is_not_measured_and_holds_the_loop_is_named_by_its_line() -> None:
    with listening("hung", stall_after=0.6) as (mon, heard):

        async def items() -> Any:
            for item in range(QUICK):
                yield item
            assert heard.stalled.wait(PATIENT)  # here, on the loop
            yield QUICK

        async for _ in mon.consume(items()):
            pass
    assert heard.stall.stage == ""
    assert heard.stall.frame == line_of(items, "# here, on the loop")
    assert heard.stall.state == "blocked event loop"


# --- a loop that is not there


def asked(meter: LoopMeter) -> int:
    """Ask a loop to come round, and let time pass; return for how long it is late."""
    meter.probe()
    time.sleep(0.01)
    meter.probe()
    return meter.late(clock())


@pytest.mark.parametrize("closed", [False, True])
def test_an_asyncio_loop_that_stands_still_or_has_ended_is_not_late(closed: bool) -> None:
    loop = asyncio.new_event_loop()

    async def see() -> LoopMeter:
        meter = LoopMeter(LoopHandle())
        assert meter.probe()
        return meter

    meter = loop.run_until_complete(see())
    assert asked(meter) == 0
    loop.run_until_complete(asyncio.sleep(0))
    assert meter.late(clock()) == 0
    if closed:
        meter.probe()
    loop.close()
    assert not meter.probe()


def test_a_trio_loop_that_has_ended_is_not_late() -> None:
    async def see() -> LoopMeter:
        meter = LoopMeter(LoopHandle())
        assert meter.probe()
        return meter

    meter = trio.run(see)
    assert not meter.probe()


async def test_a_loop_is_late_as_long_as_it_is_held() -> None:
    meter = LoopMeter(LoopHandle())
    assert asked(meter) >= 0.009 * SECOND
    await anyio.sleep(0.01)
    counted = meter.counters()
    assert (int(counted.lags.sum()), counted.waiting) == (1, 0)
    assert counted.slowest >= 0.009 * SECOND
    assert meter.late(clock()) == 0
