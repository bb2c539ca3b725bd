"""Decorated functions pass for the functions themselves, and what they did is counted."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import anyio
import pytest

from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.pipeline.clock import clock
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.tally import Counters
from tests.pipeline.side_log import TIMED_ON, meter_of, pipeline

MONITOR = pipeline(name="module")


class Refused(Exception):
    pass


class Ended(BaseException):
    pass


@pytest.fixture
def mon() -> Pipeline:
    return pipeline()


def counts(monitor: Pipeline, name: str = "it") -> Counters:
    return meter_of(monitor, name).counters(clock())


def under_way(monitor: Pipeline, name: str = "it") -> list[Any]:
    found: list[Any] = meter_of(monitor, name).under_way()
    return found


# --- the functions of a module, as pickle finds them


@MONITOR.stage("triple")
def triple(number: int) -> int:
    """Return three times a number."""
    return 3 * number


@MONITOR.stage("triple_later")
async def triple_later(number: int) -> int:
    return 3 * number


@MONITOR.stage("count_up")
def count_up(number: int) -> Iterator[int]:
    yield from range(number)


def plain(number: int) -> int:
    return 2 * number


def plain_add(number: int, *, more: int = 0) -> int:
    return number + more


staged_plain = MONITOR.stage("plain")(plain)
staged_partial = MONITOR.stage("partial")(functools.partial(plain_add, more=5))


class Decoder:
    """Has every kind of method."""

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    @MONITOR.stage("method")
    def method(self, number: int) -> int:
        """Multiply."""
        return self.factor * number

    @MONITOR.stage("amethod")
    async def amethod(self, number: int) -> int:
        return self.factor * number

    @MONITOR.stage("gmethod")
    def gmethod(self, number: int) -> Iterator[int]:
        for one in range(number):
            yield self.factor * one

    @classmethod
    @MONITOR.stage("cmethod")
    def cmethod(cls, number: int) -> tuple[type, int]:
        return cls, number

    @staticmethod
    @MONITOR.stage("smethod")
    def smethod(number: int) -> int:
        return number

    def __call__(self, number: int) -> int:
        return self.factor * number


class AsyncDecoder:
    async def __call__(self, number: int) -> int:
        return 2 * number


# --- what is what


def sync_function(a: int, b: str = "x", *rest: int, key: float = 1.0, **others: object) -> list[object]:
    """Return what it is given."""
    return [a, b, rest, key, others]


async def async_function(a: int, b: str = "x", *rest: int, key: float = 1.0, **others: object) -> list[object]:
    """Return what it is given, later."""
    return [a, b, rest, key, others]


def generator_function(a: int, *, key: float = 1.0) -> Generator[int, None, str]:
    """Yield numbers."""
    yield from range(a)
    return "end"


async def async_generator_function(a: int, *, key: float = 1.0) -> AsyncGenerator[int, None]:
    """Yield numbers, later."""
    for one in range(a):
        yield one


KINDS: list[Callable[..., Any]] = [sync_function, async_function, generator_function, async_generator_function]


@pytest.mark.parametrize("function", KINDS, ids=lambda function: function.__name__)
def test_a_function_is_described_as_without(mon: Pipeline, function: Callable[..., Any]) -> None:
    staged = mon.stage("it")(function)
    assert staged is not function
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(staged, name) == getattr(function, name)
    assert inspect.signature(staged) == inspect.signature(function)
    assert inspect.getdoc(staged) == inspect.getdoc(function)
    assert inspect.unwrap(staged) is function
    assert callable(staged)
    for ask in (
        inspect.iscoroutinefunction,
        asyncio.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert ask(staged) == ask(function)


def test_a_function_has_its_defaults_code_and_attributes(mon: Pipeline) -> None:
    def function(a: int = 7) -> int:
        return a

    function.version = 3  # type: ignore[attr-defined]
    staged = mon.stage("it")(function)
    assert staged.version == 3  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        _ = staged.absent  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [((1,), {}), ((1, "y", 2, 3), {"key": 2.0, "more": 4}), ((), {"a": 5})])
async def test_arguments_arrive_as_they_were_given(mon: Pipeline, arguments: Any) -> None:
    args, kwargs = arguments
    assert mon.stage("it")(sync_function)(*args, **kwargs) == sync_function(*args, **kwargs)
    assert await mon.stage("later")(async_function)(*args, **kwargs) == await async_function(*args, **kwargs)
    assert (counts(mon).items, counts(mon, "later").items) == (1, 1)


def test_names_of_arguments_are_free(mon: Pipeline) -> None:
    def function(**named: int) -> dict[str, int]:
        return named

    names = ("self", "function", "args", "meter", "track", "instance", "kwargs")
    wanted = dict.fromkeys(names, 1)
    assert mon.stage("it")(function)(**wanted) == wanted


@pytest.mark.parametrize("function", KINDS, ids=lambda function: function.__name__)
async def test_wrong_arguments_are_refused_at_the_latest_when_the_first_result_is_asked_for(
    mon: Pipeline, function: Callable[..., Any]
) -> None:
    async def use(called: Callable[..., Any]) -> None:
        found = called()
        if hasattr(found, "__await__"):
            await found
        elif hasattr(found, "__anext__"):
            await anext(found)
        else:
            next(found)

    with pytest.raises(TypeError) as without:
        await use(function)
    with pytest.raises(TypeError) as caught:
        await use(mon.stage("it")(function))
    assert str(caught.value) == str(without.value)


async def test_a_call_with_wrong_arguments_does_not_spoil_the_next_ones(mon: Pipeline) -> None:
    bad, inner = mon.stage("bad")(async_function), mon.stage("inner")(sync_function)
    with pytest.raises(TypeError):
        await bad()
    inner(1)
    assert meter_of(mon, "inner").parent is None


def test_lambdas_builtins_classes_and_partials_are_counted(mon: Pipeline) -> None:
    stage = mon.stage("it")
    assert stage(lambda number: number + 1)(1) == 2
    assert stage(len)([1, 2]) == 2
    assert stage("{}-{}".format)(1, 2) == "1-2"
    assert stage(functools.partial(plain_add, more=5))(1) == 6
    made = stage(Decoder)(3)  # type: ignore[operator]
    assert type(made) is Decoder
    assert made.factor == 3
    assert stage(Decoder(4))(2) == 8
    assert counts(mon).items == 6


async def test_callables_partials_and_methods_that_are_async_are_awaited_inside(mon: Pipeline) -> None:
    stage = mon.stage("it")
    assert await stage(functools.partial(async_function, 5, key=2.0))() == [5, "x", (), 2.0, {}]
    assert await stage(AsyncDecoder())(4) == 8
    assert await stage(Decoder(3).amethod)(4) == 12
    assert counts(mon).items == 3
    assert inspect.iscoroutinefunction(stage(AsyncDecoder()))


async def test_methods_of_every_kind_are_bound_as_without() -> None:
    class Child(Decoder):
        pass

    before = {name: counts(MONITOR, name).items for name in ("method", "amethod", "gmethod", "cmethod", "smethod")}
    decoder = Child(5)
    assert decoder.method(2) == 10 == Decoder.method(decoder, 2)
    assert await decoder.amethod(2) == 10
    assert list(decoder.gmethod(3)) == [0, 5, 10]
    assert decoder.cmethod(1) == (Child, 1) == Child.cmethod(1)
    assert Decoder.cmethod(1) == (Decoder, 1)
    assert decoder.smethod(4) == 4 == Decoder.smethod(4)
    assert decoder.method.__self__ is decoder  # type: ignore[attr-defined]
    assert decoder.method.__name__ == "method"
    assert inspect.getdoc(decoder.method) == "Multiply."
    assert str(inspect.signature(decoder.method)) == "(number: 'int') -> 'int'"
    after = {name: counts(MONITOR, name).items for name in before}
    assert {name: after[name] - before[name] for name in before} == {
        "method": 2,
        "amethod": 1,
        "gmethod": 3,
        "cmethod": 3,
        "smethod": 2,
    }


def test_bound_methods_are_decorated_and_equal_ones_are_equal() -> None:
    decoder = Decoder(3)
    assert decoder.method == decoder.method
    assert hash(decoder.method) == hash(decoder.method)


@pytest.mark.parametrize("what", [None, 5, "decode", [1, 2], object()])
def test_what_cannot_be_called_is_refused(mon: Pipeline, what: Any) -> None:
    with pytest.raises(ArgumentError, match="takes a function"):
        mon.stage("it")(what)


# --- results and errors


def test_an_exception_is_the_same_object_one_frame_deeper(mon: Pipeline) -> None:
    error = Refused()

    def refuse() -> None:
        raise error

    def depth(function: Callable[[], None]) -> int:
        error.__traceback__ = None
        with pytest.raises(Refused) as caught:
            function()
        assert caught.value is error
        assert (error.__cause__, error.__context__) == (None, None)
        return len(traceback.extract_tb(error.__traceback__))

    without = depth(refuse)
    assert depth(mon.stage("it")(refuse)) == without + 1
    assert (counts(mon).items, counts(mon).errors) == (0, 1)


async def test_an_exception_of_an_async_function_is_the_same_object_one_frame_deeper(mon: Pipeline) -> None:
    error = Refused()

    async def refuse() -> None:
        raise error

    async def depth(function: Callable[[], Any]) -> int:
        error.__traceback__ = None
        with pytest.raises(Refused) as caught:
            await function()
        assert caught.value is error
        return len(traceback.extract_tb(error.__traceback__))

    assert await depth(mon.stage("it")(refuse)) == await depth(refuse) + 1
    assert (counts(mon).items, counts(mon).errors) == (0, 1)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Ended, GeneratorExit])
def test_what_is_no_exception_is_no_error_but_was_busy(mon: Pipeline, kind: type[BaseException]) -> None:
    @mon.stage("it")
    def leave() -> None:
        time.sleep(0.01)
        raise kind

    with pytest.raises(kind):
        leave()
    counted = counts(mon)
    assert (counted.items, counted.errors, counted.in_flight) == (0, 0, 0)
    assert counted.busy >= 10_000_000


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, RecursionError, MemoryError])
def test_other_exceptions_of_a_function_are_errors(mon: Pipeline, kind: type[Exception]) -> None:
    def leave() -> None:
        raise kind

    with pytest.raises(kind):
        mon.stage("it")(leave)()
    assert counts(mon).errors == 1


async def test_cancelling_is_neither_an_item_nor_an_error(mon: Pipeline) -> None:
    seen: list[BaseException] = []

    @mon.stage("it")
    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            seen.append(error)
            raise

    with anyio.move_on_after(0.02) as scope:
        await hang()
    assert scope.cancelled_caught
    assert [type(error) for error in seen] == [anyio.get_cancelled_exc_class()]
    counted = counts(mon)
    assert (counted.items, counted.errors, counted.in_flight) == (0, 0, 0)
    assert counted.busy >= 15_000_000


async def test_a_function_that_catches_its_cancelling_goes_on_as_without(mon: Pipeline) -> None:
    async def stubborn() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            raise
        return "never"

    for function in (stubborn, mon.stage("it")(stubborn)):
        with anyio.move_on_after(0.01) as scope:
            await function()
        assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], indirect=True)
async def test_the_message_of_an_asyncio_cancelling_is_kept_even_when_stepped(mon: Pipeline) -> None:
    @mon.stage("it")
    async def hang() -> None:
        await asyncio.sleep(3600)

    for _ in range(20):  # of which one, at least, is stepped
        task = asyncio.create_task(hang())
        await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("enough",)
    assert (counts(mon).errors, counts(mon).items) == (0, 0)


async def test_many_calls_return_raise_and_await_as_without_whether_stepped_or_not(mon: Pipeline) -> None:
    @mon.stage("it")
    async def work(number: int) -> int:
        await anyio.sleep(0)
        if number % 3 == 0:
            raise Refused(number)
        await anyio.lowlevel.checkpoint()
        return number

    for number in range(60):
        if number % 3:
            assert await work(number) == number
        else:
            with pytest.raises(Refused, match=f"^{number}$"):
                await work(number)
    assert (counts(mon).items, counts(mon).errors) == (40, 20)


async def test_a_coroutine_that_is_never_awaited_counts_nothing(mon: Pipeline) -> None:
    coroutine = mon.stage("it")(async_function)(1)
    coroutine.close()
    counted = counts(mon)
    assert (counted.items, counted.errors, counted.in_flight) == (0, 0, 0)


async def test_calls_that_overlap_are_all_in_flight(mon: Pipeline) -> None:
    gate = anyio.Event()

    @mon.stage("it")
    async def wait() -> None:
        await gate.wait()

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        counted = counts(mon)
        assert (counted.in_flight, counted.servers, counted.items) == (5, 5, 0)
        assert len(under_way(mon)) == 5
        gate.set()
    counted = counts(mon)
    assert (counted.in_flight, counted.items) == (0, 5)
    assert counts(mon).servers == 0


# --- generators


def test_a_staged_generator_yields_and_returns_as_without(mon: Pipeline) -> None:
    def outer(function: Callable[..., Any]) -> Iterator[Any]:
        yield (yield from function(3))

    assert list(outer(mon.stage("it")(generator_function))) == [0, 1, 2, "end"] == list(outer(generator_function))
    assert counts(mon).items == 3


def events_of(function: Callable[..., Any], script: list[Callable[[Any], Any]]) -> list[object]:
    """Do with a generator what a script says; return what came of it."""
    generator = function()
    found: list[object] = []
    for step in script:
        try:
            found.append(step(generator))
        except BaseException as error:
            found.append((type(error), str(error), getattr(error, "value", None)))
    return found


def echo_into(log: list[str]) -> Callable[[], Generator[Any, Any, str]]:
    def echo() -> Generator[Any, Any, str]:
        got: Any = "begun"
        try:
            while got != "stop":
                try:
                    got = yield got
                except Refused as error:
                    log.append("refused")
                    got = f"caught {error}"
        finally:
            log.append("left")
        return "returned"

    return echo


SCRIPTS: dict[str, list[Callable[[Any], Any]]] = {
    "send": [next, lambda g: g.send(5), lambda g: g.send("stop"), next],
    "throw": [next, lambda g: g.throw(Refused("x")), lambda g: g.send(1), lambda g: g.throw(Ended("y")), next],
    "close": [next, lambda g: g.close(), next, lambda g: g.close()],
    "close at once": [lambda g: g.close(), next],
    "early send": [lambda g: g.send(5), next],
    "exit thrown": [next, lambda g: g.throw(GeneratorExit()), next],
    "throw at once": [lambda g: g.throw(Refused("x")), next],
}


@pytest.mark.parametrize("script", list(SCRIPTS.values()), ids=list(SCRIPTS))
def test_send_throw_and_close_of_a_staged_generator_do_as_without(
    mon: Pipeline, script: list[Callable[[Any], Any]]
) -> None:
    logs: tuple[list[str], list[str]] = ([], [])
    without = events_of(echo_into(logs[0]), script)
    assert events_of(mon.stage("it")(echo_into(logs[1])), script) == without
    assert logs[0] == logs[1]


def test_items_that_are_sent_for_are_counted(mon: Pipeline) -> None:
    generator = mon.stage("it")(echo_into([]))()
    next(generator)
    for number in range(5):
        assert generator.send(number) == number
    generator.close()
    assert counts(mon).items == 6


async def async_events_of(function: Callable[..., Any], script: list[Callable[[Any], Any]]) -> list[object]:
    generator = function()
    found: list[object] = []
    for step in script:
        try:
            found.append(await step(generator))
        except BaseException as error:
            found.append((type(error), str(error)))
    return found


def async_echo_into(log: list[str]) -> Callable[[], AsyncGenerator[Any, Any]]:
    async def echo() -> AsyncGenerator[Any, Any]:
        got: Any = "begun"
        try:
            while got != "stop":
                try:
                    got = yield got
                    await anyio.sleep(0)
                except Refused as error:
                    log.append("refused")
                    got = f"caught {error}"
        finally:
            await anyio.sleep(0)
            log.append("left")

    return echo


ASYNC_SCRIPTS: dict[str, list[Callable[[Any], Any]]] = {
    "asend": [anext, lambda g: g.asend(5), lambda g: g.asend("stop"), anext],
    "athrow": [anext, lambda g: g.athrow(Refused("x")), lambda g: g.asend(1), lambda g: g.athrow(Ended("y")), anext],
    "aclose": [anext, lambda g: g.aclose(), anext, lambda g: g.aclose()],
    "aclose at once": [lambda g: g.aclose(), anext],
    "early asend": [lambda g: g.asend(5), lambda g: g.aclose()],
    "exit thrown": [anext, lambda g: g.athrow(GeneratorExit()), anext],
}


@pytest.mark.parametrize("script", list(ASYNC_SCRIPTS.values()), ids=list(ASYNC_SCRIPTS))
async def test_asend_athrow_and_aclose_of_a_staged_generator_do_as_without(
    mon: Pipeline, script: list[Callable[[Any], Any]]
) -> None:
    logs: tuple[list[str], list[str]] = ([], [])
    without = await async_events_of(async_echo_into(logs[0]), script)
    assert await async_events_of(mon.stage("it")(async_echo_into(logs[1])), script) == without
    assert logs[0] == logs[1]


def test_an_error_in_the_middle_of_a_generator_is_one_error_and_its_end_is_none(mon: Pipeline) -> None:
    @mon.stage("it")
    def broken(at: int) -> Iterator[int]:
        for number in range(5):
            if number == at:
                raise Refused
            yield number

    assert list(broken(9)) == [0, 1, 2, 3, 4]
    assert (counts(mon).items, counts(mon).errors) == (5, 0)
    with pytest.raises(Refused):
        list(broken(2))
    assert (counts(mon).items, counts(mon).errors) == (7, 1)


def test_the_time_of_a_generator_is_its_own_and_not_that_of_its_taker(mon: Pipeline) -> None:
    @mon.stage("it")
    def slow() -> Iterator[int]:
        for number in range(5):
            time.sleep(0.01)
            yield number

    start = time.perf_counter_ns()
    for _ in slow():
        time.sleep(0.03)
    whole = time.perf_counter_ns() - start
    counted = counts(mon)
    assert 50_000_000 <= counted.busy <= whole - 150_000_000
    assert counted.blocked is not None
    assert counted.blocked >= 150_000_000


# --- nested


def test_recursion_counts_each_call_and_the_time_once(mon: Pipeline) -> None:
    @mon.stage("it")
    def down(depth: int) -> int:
        time.sleep(0.01)
        return 0 if depth == 0 else 1 + down(depth - 1)

    start = time.perf_counter_ns()
    assert down(5) == 5
    whole = time.perf_counter_ns() - start
    counted = counts(mon)
    assert counted.items == 6
    assert 60_000_000 <= counted.busy <= whole
    assert counted.in_flight == 0


@TIMED_ON
async def test_async_recursion_counts_each_call_and_the_time_once(mon: Pipeline) -> None:
    @mon.stage("it")
    async def down(depth: int) -> int:
        await anyio.sleep(0.01)
        return 0 if depth == 0 else 1 + await down(depth - 1)

    start = time.perf_counter_ns()
    assert await down(5) == 5
    whole = time.perf_counter_ns() - start
    assert counts(mon).items == 6
    assert 55_000_000 <= counts(mon).busy <= whole


def test_a_stage_within_a_stage_has_its_own_time(mon: Pipeline) -> None:
    inner = mon.stage("inner")(lambda: time.sleep(0.03))

    @mon.stage("it")
    def outer() -> None:
        time.sleep(0.01)
        inner()

    start = time.perf_counter_ns()
    for _ in range(5):
        outer()
    whole = time.perf_counter_ns() - start
    own, within = counts(mon).busy, counts(mon, "inner").busy
    assert own + within <= whole
    assert own + within == pytest.approx(whole, rel=0.05)
    assert within == pytest.approx(3 * own, rel=0.25)
    assert meter_of(mon, "inner").parent is meter_of(mon, "it")


@pytest.mark.parametrize("fails", [False, True])
@TIMED_ON
async def test_every_form_nests_in_every_other(mon: Pipeline, fails: bool) -> None:
    @mon.stage("sync")
    def sync() -> None:
        time.sleep(0.02)
        if fails:
            raise Refused

    @mon.stage("generator")
    def generator() -> Iterator[None]:
        with mon.stage("task").task():
            time.sleep(0.02)
            sync()
        yield

    @mon.stage("async")
    async def later() -> None:
        await anyio.sleep(0.02)
        for _ in generator():
            pass

    @mon.stage("async generator")
    async def outer() -> AsyncGenerator[None, None]:
        await later()
        yield

    names = ("sync", "task", "generator", "async", "async generator")
    start = time.perf_counter_ns()
    for _ in range(3):
        if fails:
            with pytest.raises(Refused):
                async for _ in outer():
                    pass
        else:
            async for _ in outer():
                pass
    whole = time.perf_counter_ns() - start
    busy = {name: counts(mon, name).busy for name in names}
    assert sum(busy.values()) <= whole
    assert sum(busy.values()) == pytest.approx(whole, rel=0.05)
    for name in ("sync", "task", "async"):
        assert busy[name] >= 3 * 18_000_000
    for name in ("generator", "async generator"):
        assert busy[name] < 3 * 10_000_000
    assert all(counts(mon, name).errors == (3 if fails else 0) for name in names)


@pytest.mark.parametrize("backend", ["asyncio", "uvloop"])
def test_calls_of_a_loop_that_runs_again_do_not_mix(mon: Pipeline, backend: str) -> None:
    work = mon.stage("it")(anyio.sleep)
    between = mon.stage("between")(plain)

    async def overlapping() -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(work, 0.02 + number / 200)

    factory = pytest.importorskip("uvloop").new_event_loop if backend == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        for _ in range(3):
            runner.run(overlapping())
            between(1)
    counted = counts(mon)
    assert counted.busy == counted.total >= 15 * 18_000_000
    assert meter_of(mon, "between").parent is None


# --- by hand


def test_a_task_is_an_item_with_its_bytes(mon: Pipeline) -> None:
    stage = mon.stage("it")
    with stage.task(nbytes=100) as task:
        time.sleep(0.01)
        task.nbytes += 20
    with pytest.raises(Refused), stage.task(nbytes=5):
        raise Refused
    counted = counts(mon)
    assert (counted.items, counted.errors, counted.nbytes, counted.in_flight) == (1, 1, 125, 0)
    assert counted.total >= 10_000_000


async def test_tasks_of_many_tasks_overlap(mon: Pipeline) -> None:
    stage = mon.stage("it")

    async def work() -> None:
        with stage.task():
            await anyio.sleep(0.03)

    start = time.perf_counter_ns()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(work)
    whole = time.perf_counter_ns() - start
    counted = counts(mon)
    assert (counted.items, counted.servers) == (10, 10)
    assert 10 * 25_000_000 <= counted.busy <= 10 * whole


def test_retries_and_drops_are_counted_by_their_reason(mon: Pipeline) -> None:
    stage = mon.stage("it")
    stage.retry()
    stage.retry(3)
    stage.drop()
    stage.drop("404", 2)
    stage.drop("404")
    counted = counts(mon)
    assert (counted.retries, counted.drops, counted.items) == (4, 4, 0)
    assert stage.meter.dropped == {"": 1, "404": 3}


# --- pickled, copied, sent to other processes


@pytest.mark.parametrize("function", [triple, triple_later, count_up], ids=lambda function: function.__name__)
def test_what_is_found_under_its_name_is_pickled_as_that(function: Callable[..., Any]) -> None:
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.copy(function) is function
    assert copy.deepcopy(function) is function


def test_what_has_another_name_is_pickled_as_the_function_itself() -> None:
    assert pickle.loads(pickle.dumps(staged_plain)) is plain
    again = pickle.loads(pickle.dumps(staged_partial))
    assert isinstance(again, functools.partial)
    assert again.func is plain_add
    assert again(1) == 6


def test_partials_and_bound_methods_of_stages_can_be_pickled() -> None:
    part = pickle.loads(pickle.dumps(functools.partial(triple, 5)))
    assert part() == 15
    assert part.func is triple
    method = pickle.loads(pickle.dumps(Decoder(7).method))
    assert method(2) == 14


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_functions_of_stages_run_in_a_pool_of_processes(method: str) -> None:
    before = counts(MONITOR, "triple").items
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        assert list(pool.map(triple, range(20))) == [3 * number for number in range(20)]
        assert list(pool.map(staged_plain, range(20))) == [2 * number for number in range(20)]
        assert list(pool.map(Decoder(4).method, range(3))) == [0, 4, 8]
    assert counts(MONITOR, "triple").items == before  # they were counted there, where nobody reads


def test_functions_of_stages_run_in_a_pool_of_threads(mon: Pipeline) -> None:
    function = mon.stage("it")(plain)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(function, range(1000))) == [2 * number for number in range(1000)]
    assert counts(mon).items == 1000


# --- how many at once


async def test_a_limited_stage_never_does_more_at_once(mon: Pipeline) -> None:
    now, most = 0, 0

    @mon.stage("it", concurrency=3, limited=True)
    async def work() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.01)
        now -= 1

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(work)
    counted = counts(mon)
    assert (most, counted.items, counted.servers) == (3, 20, 3)


@TIMED_ON
async def test_waiting_for_the_limiter_is_not_the_time_of_the_stage(mon: Pipeline) -> None:
    @mon.stage("it", concurrency=1, limited=True)
    async def work() -> None:
        await anyio.sleep(0.01)

    start = time.perf_counter_ns()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(work)
    whole = time.perf_counter_ns() - start
    assert counts(mon).busy <= whole


async def test_a_call_that_is_cancelled_while_it_waits_for_the_limiter_takes_nothing(mon: Pipeline) -> None:
    @mon.stage("it", concurrency=1, limited=True)
    async def hang() -> None:
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(hang)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.02) as scope:
            await hang()
        assert scope.cancelled_caught
        assert mon.stage("it").limiter.borrowed_tokens == 1
        group.cancel_scope.cancel()
    assert mon.stage("it").limiter.borrowed_tokens == 0
    assert (counts(mon).items, counts(mon).errors) == (0, 0)


@TIMED_ON
async def test_concurrency_that_another_thread_changes_takes_effect(mon: Pipeline) -> None:
    now, most = 0, 0
    stage = mon.stage("it", concurrency=1, limited=True)

    @stage
    async def work(gate: anyio.Event) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await gate.wait()
        now -= 1

    for number in (1, 4, 2):
        gate = anyio.Event()
        if number != 1:
            await anyio.to_thread.run_sync(lambda number=number: stage.set_concurrency(number))
        async with anyio.create_task_group() as group:
            most = 0
            for _ in range(8):
                group.start_soon(work, gate)
            await anyio.wait_all_tasks_blocked()
            assert (now, most, stage.concurrency) == (number, number, number)
            assert stage.limiter.total_tokens == number
            gate.set()


async def test_more_servers_let_those_in_who_wait(mon: Pipeline) -> None:
    stage = mon.stage("it", concurrency=1, limited=True)
    gate, inside = anyio.Event(), 0

    @stage
    async def work() -> None:
        nonlocal inside
        inside += 1
        await gate.wait()

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        assert inside == 1
        await anyio.to_thread.run_sync(lambda: stage.set_concurrency(3, reason="to try", author="a test"))
        await anyio.wait_all_tasks_blocked()
        assert inside == 3
        gate.set()
    assert counts(mon).items == 5


async def test_threads_take_turns_under_the_limiter_of_their_stage(mon: Pipeline) -> None:
    stage = mon.stage("it", concurrency=2)
    inside, most = [], 0

    @stage
    def work() -> None:
        nonlocal most
        inside.append(0)
        most = max(most, len(inside))
        time.sleep(0.01)
        inside.pop()

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(lambda: anyio.to_thread.run_sync(work, limiter=stage.limiter))
    assert counts(mon).items == 12
    assert most == 2
    assert stage.adjustable


@pytest.mark.parametrize("number", [0, -1, True, 1.0, "2", None])
def test_a_concurrency_that_is_none_is_refused(mon: Pipeline, number: Any) -> None:
    stage = mon.stage("it", concurrency=2, limited=True)
    with pytest.raises(ArgumentError, match="concurrency must be an int above 0"):
        stage.set_concurrency(number)
    assert stage.concurrency == 2


def test_a_stage_without_a_limiter_says_how_to_get_one(mon: Pipeline) -> None:
    with pytest.raises(ArgumentError, match="limited=True"):
        mon.stage("it", concurrency=2).set_concurrency(3)
    assert mon.stage("it").concurrency == 2


def test_a_stage_that_is_switched_off_leaves_everything_as_it_is() -> None:
    monitor = Pipeline(MessageHub("hub"), enabled=False)
    stage = monitor.stage("it", 2)
    for function in (*KINDS, len, Decoder):
        assert stage(function) is function
    with stage.task(nbytes=5):
        pass
    stage.retry()
    assert counts(monitor).items == 0
