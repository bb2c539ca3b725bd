"""Chains of monitored iterators: each has its own time, and does what it does without a monitor."""

from __future__ import annotations

import gc
import pickle
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.pipeline.chains import monitor
from asynchub.pipeline.clock import clock
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.tally import Counters
from tests.pipeline.side_log import TIMED_ON, SideLog, meter_of, pipeline

ITEMS = 8


class Refused(Exception):
    pass


@pytest.fixture
def mon() -> Pipeline:
    return pipeline()


def counts(monitor: Pipeline, name: str) -> Counters:
    return meter_of(monitor, name).counters(clock())


def chain_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("asynchub pipeline")]


def join_chains() -> None:
    """Wait for the threads of chains that were let go."""
    gc.collect()
    for thread in chain_threads():
        thread.join(5)
    assert chain_threads() == []


# --- each its own time


def test_raw_wait_and_preprocessing_are_reported_apart(mon: Pipeline) -> None:
    log = SideLog()

    def stream() -> Iterator[int]:
        for number in range(ITEMS):
            with log.span("raw"):
                time.sleep(0.02)
            yield number

    def preprocess(raw: Iterator[int]) -> Iterator[int]:
        for number in raw:
            with log.span("preprocess"):
                time.sleep(0.01)
            yield number

    chain = mon.monitor(preprocess(mon.monitor(stream(), "raw")), "preprocess")
    start = time.perf_counter_ns()
    assert list(chain) == list(range(ITEMS))
    whole = time.perf_counter_ns() - start
    for name in ("raw", "preprocess"):
        counted = counts(mon, name)
        assert counted.items == ITEMS
        assert counted.busy == pytest.approx(log[name].total, rel=0.05)
        assert counted.errors == 0
    assert counts(mon, "preprocess").starved == pytest.approx(log["raw"].total, rel=0.05)
    assert counts(mon, "raw").busy + counts(mon, "preprocess").busy == pytest.approx(whole, rel=0.05)


@TIMED_ON
async def test_raw_wait_and_preprocessing_of_async_generators_are_reported_apart(mon: Pipeline) -> None:
    log = SideLog()

    async def stream() -> AsyncIterator[int]:
        for number in range(ITEMS):
            with log.span("raw"):
                await anyio.sleep(0.02)
            yield number

    async def preprocess(raw: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in raw:
            with log.span("preprocess"):
                await anyio.sleep(0.01)
            yield number

    chain = mon.monitor(preprocess(mon.monitor(stream(), "raw")), "preprocess")
    assert [number async for number in chain] == list(range(ITEMS))
    for name in ("raw", "preprocess"):
        counted = counts(mon, name)
        assert counted.items == ITEMS
        assert counted.busy == pytest.approx(log[name].total, rel=0.05)
    assert counts(mon, "preprocess").starved == pytest.approx(log["raw"].total, rel=0.05)


def test_three_deep_with_an_unmonitored_one_between_the_times_are_those_of_the_log(mon: Pipeline) -> None:
    log = SideLog()

    def work(name: str, seconds: float) -> None:
        with log.span(name):
            time.sleep(seconds)

    def source() -> Iterator[int]:
        for number in range(4 * ITEMS):
            work("source", 0.01)
            yield number

    def batched(items: Iterator[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        for one in items:
            batch.append(one)
            if len(batch) == 4:
                work("batched", 0.015)
                yield batch
                batch = []

    def unmonitored(items: Iterator[list[int]]) -> Iterator[list[int]]:
        for one in items:
            work("collated", 0.01)  # nobody watches it, so it is the time of who asks it
            yield one

    def collated(items: Iterator[list[int]]) -> Iterator[int]:
        for one in items:
            work("collated", 0.02)
            yield sum(one)

    inner = mon.monitor(batched(mon.monitor(source(), "source")), "batched")
    assert len(list(mon.monitor(collated(unmonitored(inner)), "collated"))) == ITEMS
    for name, items in (("source", 4 * ITEMS), ("batched", ITEMS), ("collated", ITEMS)):
        counted = counts(mon, name)
        assert counted.items == items
        assert counted.busy == pytest.approx(log[name].total, rel=0.05)


def test_a_chain_inside_of_a_stage_is_not_the_time_of_the_stage(mon: Pipeline) -> None:
    def slow() -> Iterator[int]:
        for number in range(10):
            time.sleep(0.01)
            yield number

    @mon.stage("outer")
    def outer() -> None:
        time.sleep(0.01)
        list(mon.monitor(slow(), "inner"))

    outer()
    assert counts(mon, "inner").busy >= 100_000_000
    assert 10_000_000 <= counts(mon, "outer").busy < 50_000_000


@TIMED_ON
async def test_tasks_started_inside_of_a_monitored_generator_are_not_its_own(mon: Pipeline) -> None:
    @mon.stage("task")
    async def aside() -> None:
        for _ in range(10):
            await anyio.sleep(0.01)

    async def source(group: anyio.abc.TaskGroup) -> AsyncIterator[int]:
        for number in range(5):
            group.start_soon(aside)
            await anyio.sleep(0.02)
            yield number

    start = time.perf_counter_ns()
    async with anyio.create_task_group() as group:
        async for _ in mon.monitor(source(group), "source"):
            pass
        whole = time.perf_counter_ns() - start
    counted = counts(mon, "source")
    assert 90_000_000 <= counted.busy <= whole
    assert counted.starved == 0
    assert counts(mon, "task").items == 5
    assert counts(mon, "task").busy >= 5 * 90_000_000
    assert meter_of(mon, "task").parent is None


@TIMED_ON
async def test_a_function_called_inside_of_a_monitored_generator_is_its_own_stage(mon: Pipeline) -> None:
    @mon.stage("decode")
    async def decode(number: int) -> int:
        await anyio.sleep(0.02)
        return number

    async def source() -> AsyncIterator[int]:
        for number in range(10):
            await anyio.sleep(0.01)
            yield await decode(number)

    assert [one async for one in mon.monitor(source(), "source")] == list(range(10))
    assert meter_of(mon, "decode").parent is meter_of(mon, "source")
    busy, starved = counts(mon, "source").busy, counts(mon, "source").starved
    assert starved == pytest.approx(counts(mon, "decode").busy, rel=0.02)
    assert 90_000_000 <= busy < 180_000_000


@TIMED_ON
async def test_interleaved_tasks_with_chains_of_their_own_do_not_mix_their_times(mon: Pipeline) -> None:
    log = SideLog()

    async def source(name: str, seconds: float) -> AsyncIterator[int]:
        for number in range(5):
            with log.span(f"{name} source"):
                await anyio.sleep(seconds)
            yield number

    async def decoded(name: str, items: AsyncIterator[int], seconds: float) -> AsyncIterator[int]:
        async for one in items:
            with log.span(f"{name} decoded"):
                await anyio.sleep(seconds)
            yield one

    async def run(name: str, first: float, second: float) -> None:
        inner = mon.monitor(source(name, first), f"{name} source")
        async for _ in mon.monitor(decoded(name, inner, second), f"{name} decoded"):
            await anyio.sleep(0.005)

    times = {"a": (0.01, 0.03), "b": (0.03, 0.01), "c": (0.02, 0.02)}
    async with anyio.create_task_group() as group:
        for name, (first, second) in times.items():
            group.start_soon(run, name, first, second)
    for name in times:
        for part in ("source", "decoded"):
            counted = counts(mon, f"{name} {part}")
            assert counted.items == 5
            assert counted.busy == pytest.approx(log[f"{name} {part}"].total, rel=0.05)


@TIMED_ON
async def test_tasks_that_share_one_stage_add_up(mon: Pipeline) -> None:
    async def source() -> AsyncIterator[int]:
        for number in range(6):
            await anyio.sleep(0.02)
            yield number

    async def run() -> None:
        async for _ in mon.monitor(source(), "source"):
            pass

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(run)
    counted = counts(mon, "source")
    assert counted.items == 36
    assert counted.busy >= 36 * 19_000_000


@TIMED_ON
async def test_a_chain_that_passes_from_task_to_task_keeps_its_times(mon: Pipeline) -> None:
    async def source() -> AsyncIterator[int]:
        for number in range(6):
            await anyio.sleep(0.02)
            yield number

    async def decoded(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for one in items:
            await anyio.sleep(0.01)
            yield one

    items = source()
    chain = aiter(mon.monitor(decoded(mon.monitor(items, "source")), "decoded"))
    found: list[int] = []

    async def take() -> None:
        found.append(await anext(chain))

    for _ in range(6):
        async with anyio.create_task_group() as group:
            group.start_soon(take)
    assert found == list(range(6))
    await chain.aclose()
    await items.aclose()  # type: ignore[attr-defined]
    assert counts(mon, "source").busy >= 6 * 19_000_000
    assert 6 * 9_000_000 <= counts(mon, "decoded").busy < counts(mon, "source").busy


def test_the_time_of_who_takes_is_blocked_time(mon: Pipeline) -> None:
    def source() -> Iterator[int]:
        yield from range(10)

    start = time.perf_counter_ns()
    for _ in mon.monitor(source(), "source"):
        time.sleep(0.02)
    whole = time.perf_counter_ns() - start
    counted = counts(mon, "source")
    assert counted.blocked is not None
    assert 10 * 20_000_000 * 0.9 <= counted.blocked <= whole
    assert counted.busy < whole - counted.blocked + 1


# --- transparent


Twin = tuple[list[object], list[str]]


def sync_source(log: list[str], fails_at: int = 99) -> Iterator[int]:
    log.append("begun")
    try:
        for number in range(5):
            if number == fails_at:
                raise Refused(number)
            log.append(f"made {number}")
            yield number
    except BaseException as error:
        log.append(f"out by {type(error).__name__}")
        raise
    finally:
        log.append("left")


async def async_source(log: list[str], fails_at: int = 99) -> AsyncIterator[int]:
    log.append("begun")
    try:
        for number in range(5):
            if number == fails_at:
                raise Refused(number)
            await anyio.sleep(0)
            log.append(f"made {number}")
            yield number
    except BaseException as error:
        log.append(f"out by {type(error).__name__}")
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0)
        log.append("left")


def take_all(items: Any, log: list[str]) -> None:
    log.extend(f"took {one}" for one in items)


def take_two(items: Any, log: list[str]) -> None:
    for one in items:
        log.append(f"took {one}")
        if one == 1:
            break
    log.append("broke off")


def take_and_raise(items: Any, log: list[str]) -> None:
    for one in items:
        log.append(f"took {one}")
        raise Refused


def take_and_close(items: Any, log: list[str]) -> None:
    iterator = iter(items)
    log.append(f"took {next(iterator)}")
    iterator.close()
    log.append(f"took {next(iterator, None)}")


def take_twice(items: Any, log: list[str]) -> None:
    take_two(items, log)
    take_all(items, log)
    take_all(items, log)


def take_with_next(items: Any, log: list[str]) -> None:
    log.append(f"took {next(items)}")
    log.append(f"took {next(items)}")
    take_all(items, log)


def take_past_the_end(items: Any, log: list[str]) -> None:
    iterator = iter(items)
    for _ in range(8):
        log.append(f"took {next(iterator, None)}")


def event_by_event(take: Callable[[Any, list[str]], None], items: Any, log: list[str]) -> list[str]:
    try:
        take(items, log)
    except BaseException as error:
        log.append(f"{type(error).__name__} {error}")
    log.append("done")
    del items  # the last reference, so what is left of it ends here
    return log


@pytest.mark.parametrize("fails_at", [0, 2, 99])
@pytest.mark.parametrize(
    "take", [take_all, take_two, take_and_raise, take_and_close, take_twice, take_with_next, take_past_the_end]
)
@pytest.mark.parametrize("how", ["monitor", "consume"])
def test_everything_happens_in_the_order_in_which_it_would_without(
    mon: Pipeline, take: Callable[[Any, list[str]], None], fails_at: int, how: str
) -> None:
    twin: list[str] = []
    event_by_event(take, sync_source(twin, fails_at), twin)
    log: list[str] = []
    watch = mon.consume if how == "consume" else lambda items: mon.monitor(items, "source")
    event_by_event(take, watch(sync_source(log, fails_at)), log)
    assert log == twin


async def atake_all(items: Any, log: list[str]) -> None:
    async for one in items:
        log.append(f"took {one}")


async def atake_two_and_close(items: Any, log: list[str]) -> None:
    iterator = aiter(items)
    async for one in iterator:
        log.append(f"took {one}")
        if one == 1:
            break
    await iterator.aclose()
    log.append(f"took {await anext(iterator, None)}")


async def atake_with_anext(items: Any, log: list[str]) -> None:
    log.append(f"took {await anext(items)}")
    log.append(f"took {await anext(items)}")
    await atake_all(items, log)


async def atake_and_raise(items: Any, log: list[str]) -> None:
    iterator = aiter(items)
    try:
        async for one in iterator:
            log.append(f"took {one}")
            raise Refused
    finally:
        await iterator.aclose()


async def atake_cancelled(items: Any, log: list[str]) -> None:
    iterator = aiter(items)
    with anyio.CancelScope() as scope:
        async for one in iterator:
            log.append(f"took {one}")
            if one == 2:
                scope.cancel()
    log.append(f"cancelled {scope.cancelled_caught}")
    log.append(f"took {await anext(iterator, None)}")
    await iterator.aclose()


@pytest.mark.parametrize("fails_at", [1, 99])
@pytest.mark.parametrize("take", [atake_all, atake_two_and_close, atake_with_anext, atake_and_raise, atake_cancelled])
@pytest.mark.parametrize("how", ["monitor", "consume"])
async def test_everything_async_happens_in_the_order_in_which_it_would_without(
    mon: Pipeline, take: Callable[[Any, list[str]], Any], fails_at: int, how: str
) -> None:
    logs: list[list[str]] = []
    for watch in (False, True):
        log: list[str] = []
        source = async_source(log, fails_at)
        items: Any = source
        if watch:
            items = mon.monitor(source, "source") if how == "monitor" else mon.consume(source)
        try:
            await take(items, log)
        except Exception as error:
            log.append(f"{type(error).__name__} {error}")
        await source.aclose()  # type: ignore[attr-defined]
        log.append("done")
        logs.append(log)
    assert logs[1] == logs[0]


async def test_cancelling_in_the_middle_is_no_error_and_closes_the_whole_chain(mon: Pipeline) -> None:
    log: list[str] = []
    hung = 0

    async def hanging() -> AsyncIterator[int]:
        nonlocal hung
        try:
            yield 1
            hung = time.perf_counter_ns()
            await anyio.sleep_forever()
        finally:
            hung = time.perf_counter_ns() - hung
            log.append("inner left")

    async def outer(items: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for one in items:
                yield one
        finally:
            log.append("outer left")

    with anyio.move_on_after(0.03) as scope:
        async for one in mon.monitor(outer(mon.monitor(hanging(), "inner")), "outer"):
            log.append(f"took {one}")
    assert scope.cancelled_caught
    assert log == ["took 1", "inner left", "outer left"]
    for name in ("inner", "outer"):
        counted = counts(mon, name)
        assert (counted.items, counted.errors, counted.in_flight) == (1, 0, 0)
    assert counts(mon, "inner").busy >= hung > 0


@pytest.mark.parametrize("fails_at", [0, 3])
def test_an_exception_passes_through_a_chain_as_the_same_object(mon: Pipeline, fails_at: int) -> None:
    error = Refused()

    def source() -> Iterator[int]:
        yield from range(fails_at)
        raise error

    def passed(items: Iterator[int]) -> Iterator[int]:
        yield from items

    with pytest.raises(Refused) as caught:
        list(mon.monitor(passed(mon.monitor(source(), "source")), "passed"))
    assert caught.value is error
    assert (counts(mon, "source").errors, counts(mon, "passed").errors) == (1, 1)
    assert counts(mon, "source").items == fails_at


def test_a_second_iteration_begins_anew_where_it_would_without(mon: Pipeline) -> None:
    listed = mon.monitor([1, 2, 3], "listed")
    assert (list(listed), list(listed)) == ([1, 2, 3], [1, 2, 3])
    generated = mon.monitor((one for one in [1, 2, 3]), "generated")
    assert (list(generated), list(generated)) == ([1, 2, 3], [])
    assert (counts(mon, "listed").items, counts(mon, "generated").items) == (6, 3)


def test_what_is_monitored_has_its_length_its_attributes_and_its_truth(mon: Pipeline) -> None:
    class Loader:
        batch_size = 4

        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    loader = Loader()
    for watched in (mon.monitor(loader, "loader"), mon.consume(loader), monitor(loader, mon.hub, "loader")):
        assert len(watched) == 3
        assert watched.batch_size == 4
        assert bool(watched)
        assert 2 in watched
        assert 5 not in watched
        with pytest.raises(AttributeError):
            _ = watched.absent  # type: ignore[attr-defined]
    generator = (one for one in [1])
    for endless in (mon.monitor(generator, "endless"), mon.consume(generator), monitor(generator, mon.hub, "endless")):
        with pytest.raises(TypeError, match="has no len"):
            len(endless)  # type: ignore[arg-type]
        assert bool(endless)
    join_chains()


def test_what_is_monitored_is_pickled_as_what_it_stands_for(mon: Pipeline) -> None:
    for watched in (mon.monitor([1, 2], "listed"), mon.consume([1, 2]), monitor([1, 2], mon.hub, "listed")):
        assert pickle.loads(pickle.dumps(watched)) == [1, 2]


@pytest.mark.parametrize("what", [None, 5, object(), lambda: None])
def test_what_cannot_be_iterated_over_is_refused_and_makes_no_stage(mon: Pipeline, what: Any) -> None:
    for call in (
        lambda: mon.monitor(what, "source"),
        lambda: mon.consume(what),
        lambda: monitor(what, mon.hub, "source"),
    ):
        with pytest.raises(ArgumentError, match="takes an iterable or an async iterable"):
            call()
    assert mon.parts.stages == {}
    assert mon.parts.consumer is None


# --- without a pipeline of its own


def test_a_chain_without_a_pipeline_begins_and_ends_a_thread() -> None:
    hub = MessageHub("hub")

    def source() -> Iterator[int]:
        for number in range(30):
            time.sleep(0.01)
            yield number

    chain = monitor(source(), hub, "source")
    assert chain_threads() == []  # nothing has been asked for
    found = []
    for one in chain:
        found.append(one)
        assert [thread.name for thread in chain_threads()] == ["asynchub pipeline data"]
    join_chains()
    assert found == list(range(30))
    assert hub.get_scalar("data/source/items").current() == 30
    assert hub.get_info("data/state") == "done"


@TIMED_ON
async def test_an_async_chain_without_a_pipeline_begins_and_ends_a_thread() -> None:
    hub = MessageHub("hub")

    async def source() -> AsyncIterator[int]:
        for number in range(10):
            await anyio.sleep(0.01)
            yield number

    async def decoded(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for one in items:
            yield one

    async for _ in monitor(decoded(monitor(source(), hub, "source")), hub, "decoded"):
        assert len(chain_threads()) == 1
    join_chains()
    assert hub.get_scalar("data/source/items").current() == 10
    assert hub.get_scalar("data/decoded/items").current() == 10


def test_a_chain_that_is_broken_off_ends_its_thread() -> None:
    hub = MessageHub("hub")
    for one in monitor(iter(range(100)), hub, "source"):
        if one == 3:
            break
    join_chains()
    assert hub.get_scalar("data/source/items").current() == 4


def test_a_chain_that_is_never_begun_starts_nothing() -> None:
    chain = monitor(iter(range(100)), MessageHub("hub"), "source")
    assert chain_threads() == []
    del chain
    assert chain_threads() == []


def test_a_chain_inside_of_a_running_pipeline_is_part_of_it() -> None:
    hub = MessageHub("hub")
    with pipeline(hub, "loading") as mon:
        assert sum(monitor(range(10), hub, "source")) == 45
        assert [thread.name for thread in chain_threads()] == ["asynchub pipeline loading"]
    assert mon.report().stages[0].name == "source"
    assert mon.report().stages[0].items == 10
    assert hub.get_scalar("loading/source/items").current() == 10
    assert not any(key.startswith("data/") for key in hub.log_scalars)


def test_chains_of_two_hubs_have_a_thread_each() -> None:
    hubs = [MessageHub("one"), MessageHub("two")]
    chains = [iter(monitor(range(10 + number), hub, "source")) for number, hub in enumerate(hubs)]
    for chain in chains:
        next(chain)
    assert len(chain_threads()) == 2
    for chain in chains:
        list(chain)
    join_chains()
    assert [hub.get_scalar("data/source/items").current() for hub in hubs] == [10, 11]


def test_chains_come_and_go_from_many_threads_and_leave_nothing() -> None:
    hub = MessageHub("hub")

    def work() -> None:
        for _ in range(15):
            assert sum(monitor(range(10), hub, "source")) == 45

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    join_chains()
    assert hub.get_info("data/state") == "done"


def test_a_hub_whose_chains_have_ended_is_not_kept() -> None:
    hub = MessageHub("chained")
    assert list(monitor(iter(range(3)), hub, "numbers")) == [0, 1, 2]
    known = weakref.ref(hub)
    for thread in threading.enumerate():
        if thread.name.startswith("asynchub pipeline"):
            thread.join()
    del hub
    gc.collect()
    assert known() is None
