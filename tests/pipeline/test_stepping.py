"""A coroutine that is measured step by step does what it does without, and the time that it holds the loop is known."""

from __future__ import annotations

import asyncio
import gc
import time
import types
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from asynchub.hub import MessageHub
from asynchub.pipeline.calls import LONG, SAMPLED
from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.stepping import Stepped
from asynchub.pipeline.tally import Tally

Log = list[Any]
Scenario = Callable[[Log], Coroutine[Any, Any, Any]]


class Told(Exception):
    """What these tests raise."""


def burn(seconds: float) -> int:
    """Hold the thread; return for how many nanoseconds."""
    start = clock()
    while clock() - start < seconds * SECOND:
        pass
    return clock() - start


def plainly(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return coroutine


def stepped(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return Stepped(coroutine, Tally(), 1)


# --- by hand: send, throw, close


@types.coroutine
def trap(value: Any) -> Generator[Any, Any, Any]:
    return (yield value)


async def answers(log: Log) -> Any:
    log.append(await trap("first"))
    log.append(await trap("second"))
    return "returned"


async def raises(log: Log) -> Any:
    await trap("first")
    raise Told("raised")


async def catches(log: Log) -> Any:
    try:
        await trap("first")
    except Told as error:
        log.append(error)
    log.append(await trap("after"))
    return "went on"


async def replaces(log: Log) -> Any:
    try:
        await trap("first")
    except Told as error:
        raise KeyError("another") from error


async def cleans_up(log: Log) -> Any:
    try:
        await trap("first")
    finally:
        log.append("cleaned")


async def ignores_its_end(log: Log) -> Any:
    try:
        await trap("first")
    except GeneratorExit:
        log.append("ignored")
        await trap("again")


async def nested(log: Log) -> Any:
    async def inner(depth: int) -> Any:
        if depth:
            return await inner(depth - 1)
        return await answers(log)

    try:
        return await inner(20)
    finally:
        await trap("at the end")


async def stops(log: Log) -> Any:
    await trap("first")
    raise StopIteration("of its own")


async def stops_async(log: Log) -> Any:
    raise StopAsyncIteration


async def of_an_async_generator(log: Log) -> Any:
    async def numbers() -> Any:
        for number in range(3):
            try:
                yield number
            except Told as error:
                log.append(error)
                await trap("caught")
                yield "thrown in"

    items = numbers()
    found = [await anext(items), await items.asend(None)]
    found.append(await items.athrow(Told("into the generator")))
    await items.aclose()
    return found


@types.coroutine
def as_a_generator(log: Log) -> Generator[Any, Any, Any]:
    log.append((yield "first"))
    try:
        log.append((yield "second"))
    except Told:
        return "caught"
    return "returned"


async def awaits_a_generator(log: Log) -> Any:
    return await as_a_generator(log)


SCENARIOS: list[Any] = [
    answers,
    raises,
    catches,
    replaces,
    cleans_up,
    ignores_its_end,
    nested,
    stops,
    stops_async,
    of_an_async_generator,
    as_a_generator,
    awaits_a_generator,
]
MOVES = {
    "sent": [("send", None), ("send", 1), ("send", 2), ("send", 3), ("send", 4)],
    "thrown": [("send", None), ("throw", Told("thrown")), ("send", 1), ("throw", Told("thrown")), ("send", 2)],
    "cancelled": [("send", None), ("send", 1), ("throw", asyncio.CancelledError("for a reason")), ("send", 2)],
    "closed": [("send", None), ("close", None), ("send", 1)],
    "ended": [("send", None), ("send", 1), ("throw", GeneratorExit()), ("close", None)],
    "closed before it began": [("close", None), ("send", None)],
    "thrown into before it began": [("throw", Told("early")), ("send", None)],
}


def played(scenario: Scenario, moves: list[tuple[str, Any]], run: Callable[[Any], Any]) -> Log:
    """Return all that is seen of a coroutine from outside, and from inside."""
    log: Log = []

    async def outer() -> Any:
        return await run(scenario(log))

    coroutine: Any = outer()
    for move, value in moves:
        try:
            log.append(("yields", coroutine.close() if move == "close" else getattr(coroutine, move)(value)))
        except BaseException as error:
            log.append((type(error), error.args, type(error.__cause__), type(error.__context__)))
    return [(type(entry), entry.args) if isinstance(entry, BaseException) else entry for entry in log]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # of both, alike
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES.keys())
def test_whatever_is_done_to_it_the_same_is_seen_of_it(scenario: Scenario, moves: list[tuple[str, Any]]) -> None:
    assert played(scenario, moves, stepped) == played(scenario, moves, plainly)


def test_an_exception_passes_as_the_object_that_it_is_with_its_frames() -> None:
    error = Told("thrown")

    async def waits() -> None:
        await trap("first")

    coroutine: Any = stepped(waits()).__await__()
    coroutine.send(None)
    with pytest.raises(Told) as caught:
        coroutine.throw(error)
    assert caught.value is error
    assert [entry.name for entry in caught.traceback][-2:] == ["waits", "trap"]


def test_an_exception_that_was_thrown_in_is_not_held_in_a_cycle() -> None:
    class Held(Exception):
        pass

    async def waits() -> None:
        await trap("first")

    def run() -> weakref.ref[Held]:
        coroutine: Any = stepped(waits()).__await__()
        coroutine.send(None)
        error = Held()
        ref = weakref.ref(error)
        try:
            coroutine.throw(error)
        except Held:
            del error
        return ref

    gc.disable()
    try:
        assert run()() is None
    finally:
        gc.enable()


# --- on event loops


async def outcome(run: Callable[[Any], Any], work: Scenario, cancelled: str) -> Log:
    """Return what is seen of some work that is cancelled: "before" it begins, while it is "waiting", or "never"."""
    log: Log = []

    async def task(inner: anyio.CancelScope) -> None:
        try:
            with inner:
                if cancelled == "before":
                    inner.cancel()
                log.append(("returned", await run(work(log))))
        except Told as error:
            log.append(("raised", error.args))
        log.append(("cancelled", inner.cancelled_caught))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(task, scope)
            if cancelled == "waiting":
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
    return log


async def sleeps(log: Log) -> str:
    await anyio.sleep(0.01)
    return "awake"


async def waits_for_ever(log: Log) -> None:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        log.append("cancelled inside")
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
        log.append("cleaned up")
        raise


async def turns_it_into_an_error(log: Log) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise Told("instead")


async def has_tasks_of_its_own(log: Log) -> str:
    async def child(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        log.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(child, number)
    log.sort()
    return "done"


async def times_out(log: Log) -> str:
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep_forever()
    return f"timed out: {scope.cancelled_caught}"


async def is_shielded(log: Log) -> str:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.03)
    log.append("shielded")
    await anyio.lowlevel.checkpoint()
    return "never"


ALL = [sleeps, waits_for_ever, turns_it_into_an_error, has_tasks_of_its_own, times_out, is_shielded]
ENDLESS = [waits_for_ever, turns_it_into_an_error]


@pytest.mark.parametrize(
    ("work", "cancelled"),
    [
        *((work, "never") for work in ALL if work not in ENDLESS),
        *((work, "before") for work in ALL),
        *((work, "waiting") for work in ENDLESS),
    ],
)
async def test_on_an_event_loop_it_is_cancelled_and_returns_and_raises_as_without(
    work: Scenario, cancelled: str
) -> None:
    wanted = await outcome(plainly, work, cancelled)
    assert await outcome(stepped, work, cancelled) == wanted
    assert wanted[-1] == ("cancelled", cancelled != "never" and work is not turns_it_into_an_error)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_asyncio_cancels_with_a_message_and_can_be_told_no_more() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as error:
            return f"refused: {error.args[0]}"
        return "slept"

    async def main() -> str:
        return str(await stepped(stubborn()))

    task = asyncio.create_task(main())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel("please")
    assert await task == "refused: please"


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_trio_knows_what_it_has_cancelled() -> None:
    with trio.CancelScope() as outer, trio.CancelScope() as inner:
        inner.cancel()
        await stepped(trio.sleep_forever())
    assert inner.cancelled_caught
    assert not outer.cancelled_caught


# --- how long it holds the loop


async def test_the_time_that_it_holds_the_loop_is_measured_and_not_the_time_that_it_waits() -> None:
    tally, held = Tally(), 0

    async def work() -> None:
        nonlocal held
        for _ in range(5):
            held += burn(0.004)
            await anyio.sleep(0.02)

    await Stepped(work(), tally, 1)
    assert held <= tally.on_loop <= 1.3 * held + SECOND // 100


@pytest.mark.parametrize("ends", ["raises", "is cancelled"])
async def test_what_a_call_held_before_it_failed_counts(ends: str) -> None:
    tally, held = Tally(), 0

    async def work() -> None:
        nonlocal held
        held = burn(0.004)
        if ends == "raises":
            raise Told
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Told) if ends == "raises" else anyio.CancelScope():
            await Stepped(work(), tally, 1)
    assert tally.on_loop >= held > 0


async def test_of_short_calls_one_of_sixteen_stands_for_all() -> None:
    hub, held = MessageHub("sampled"), []
    pipeline = Pipeline(hub)

    @pipeline.stage("parse")
    async def parse() -> None:
        held.append(burn(0.00005))

    for _ in range(100 * SAMPLED):
        await parse()
    counted = pipeline.parts.stages["parse"].counters(clock())
    wanted, after_a_long_one = 0, False  # a call is long when another program was let in
    for number, took in enumerate(held, 1):
        wanted += took if after_a_long_one else 0 if number % SAMPLED else took * SAMPLED
        after_a_long_one = took > LONG
    assert counted.items == len(held)
    assert 0.9 * wanted <= counted.on_loop <= 1.5 * wanted


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("each", [8, 16, 32])
async def test_what_is_done_in_each_so_manieth_call_only_is_met_as_often(each: int) -> None:
    pipeline, held = Pipeline(MessageHub("batches")), []

    @pipeline.stage("collate")
    async def collate(number: int) -> None:
        held.append(burn(0.00001 if number % each else 0.001))

    for number in range(80 * 16):
        await collate(number)
    counted = pipeline.parts.stages["collate"].counters(clock())
    assert counted.on_loop < 4 * sum(held)


async def test_of_calls_that_take_their_time_each_is_measured() -> None:
    hub, held = MessageHub("measured"), []
    pipeline = Pipeline(hub)

    @pipeline.stage("decode")
    async def decode(number: int) -> None:
        held.append(burn(0.0005 * (1 + number % 7)))  # no two of sixteen are alike
        await anyio.lowlevel.checkpoint()

    for number in range(40):
        await decode(number)
    counted = pipeline.parts.stages["decode"].counters(clock())
    assert sum(held[1:]) <= counted.on_loop + SECOND // 1000 <= 1.3 * sum(held) + SECOND // 50


async def test_waiting_stages_hold_the_loop_hardly_at_all() -> None:
    hub = MessageHub("waiting")
    pipeline = Pipeline(hub)

    @pipeline.stage("fetch", concurrency=10)
    async def fetch() -> None:
        await anyio.sleep(0.02)

    start = time.perf_counter_ns()
    async with anyio.create_task_group() as group:
        for _ in range(10):

            async def fetching() -> None:
                for _ in range(10):
                    await fetch()

            group.start_soon(fetching)
    counted = pipeline.parts.stages["fetch"].counters(clock())
    assert counted.items == 100
    assert counted.on_loop < 0.5 * (time.perf_counter_ns() - start)
    assert counted.busy > 5 * counted.on_loop
