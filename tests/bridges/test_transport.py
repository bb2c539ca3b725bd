"""What every transport promises, on each: in memory, and a NATS server."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import cast

import anyio
import pytest

from asynchub.bridges.failures import BridgeError
from asynchub.bridges.memory import MemoryTransport
from asynchub.bridges.memory_broker import memory_broker
from asynchub.bridges.nats import NatsTransport
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.transport import Stored, Transport
from asynchub.errors import ArgumentError
from tests.bridges.broker import Broker
from tests.waiting import until_awaited

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

runs = itertools.count(1)
WAIT = 20.0


class Place:
    """A broker of either kind, and transports to it."""

    def __init__(self, broker: Broker | None) -> None:
        self.run = f"run {next(runs)}"
        self._nats = broker
        self._memory = memory_broker("test")
        self._stack = AsyncExitStack()

    def transport(self, run: str | None = None) -> Transport:
        subjects = Subjects(self.run if run is None else run)
        return MemoryTransport(subjects, "test") if self._nats is None else NatsTransport(subjects, self._nats.url)

    async def connected(self, run: str | None = None, *, log: bool = True) -> Transport:
        transport = self.transport(run)
        self._stack.push_async_callback(transport.close, 5)
        await transport.connect(WAIT)
        if log:
            await transport.open_log(WAIT)
        return transport

    def cut(self) -> None:
        self._memory.cut() if self._nats is None else self._nats.kill()

    def restore(self) -> None:
        self._memory.restore() if self._nats is None else self._nats.start()

    async def end(self) -> None:
        await self._stack.aclose()


@pytest.fixture(scope="module")
def nats_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(params=["memory", "nats"])
async def place(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Place]:
    place = Place(None if request.param == "memory" else request.getfixturevalue("nats_broker"))
    with anyio.fail_after(3 * WAIT):
        yield place
        await place.end()


@asynccontextmanager
async def reading(transport: Transport, patterns: Sequence[str], after: int = 0) -> AsyncIterator[list[Stored]]:
    """Give a list that fills with what is read."""
    got: list[Stored] = []

    async def read() -> None:
        async for batch in transport.read(patterns, after):
            assert batch
            got.extend(batch)

    task = asyncio.create_task(read())
    try:
        yield got
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def put(transport: Transport, subject: str, *texts: str) -> list[int]:
    """Append messages whose ids are their texts; return their positions."""
    return [await transport.append(subject, text.encode(), text, timeout=WAIT) for text in texts]


def texts(stored: Sequence[Stored]) -> list[str]:
    return [one.data.decode() for one in stored]


def subjects_of(place: Place) -> Subjects:
    return Subjects(place.run)


async def test_a_connected_transport_says_so_and_what_a_message_may_hold(place: Place) -> None:
    transport = place.transport()
    changes: list[bool] = []
    transport.on_change = lambda: changes.append(transport.connected)
    assert not transport.connected
    await transport.connect(WAIT)
    assert transport.connected
    assert transport.error is None
    assert changes == [True]
    assert transport.max_bytes > 500_000
    await transport.close(5)
    assert not transport.connected


async def test_what_is_appended_has_the_positions_from_1_on(place: Place) -> None:
    transport = await place.connected()
    subjects = subjects_of(place)
    assert await put(transport, subjects.events(0, 1), "a", "b") == [1, 2]
    assert await put(transport, subjects.snapshot(3, 0), "c") == [3]


async def test_a_message_id_is_stored_once_whoever_tries_it_again(place: Place) -> None:
    transport, other = await place.connected(), await place.connected()
    subject = subjects_of(place).events(0, 1)
    assert await put(transport, subject, "a", "b", "a") == [1, 2, 1]
    assert await put(other, subject, "a", "c") == [1, 3]
    assert await transport.last_position(WAIT) == 3


async def test_what_stands_alone_takes_the_place_of_all_that_its_subject_had(place: Place) -> None:
    transport = await place.connected()
    subjects = subjects_of(place)
    await put(transport, subjects.snapshot(0, 0), "a", "b")
    await put(transport, subjects.snapshot(0, 1), "other")
    assert await transport.append(subjects.snapshot(0, 0), b"c", "c", alone=True, timeout=WAIT) == 4
    assert await transport.append(subjects.snapshot(0, 0), b"c", "c", alone=True, timeout=WAIT) == 4
    async with reading(transport, subjects.stored) as got:
        await until_awaited(lambda: len(got) >= 2)
    assert texts(got) == ["other", "c"]
    assert [one.position for one in got] == [3, 4]


async def test_the_newest_message_of_a_subject_is_had_whole(place: Place) -> None:
    transport = await place.connected()
    subject = subjects_of(place).events(0, 1)
    before = time.time()
    await put(transport, subject, "a", "b")
    await put(transport, subjects_of(place).events(0, 2), "c")
    newest = await transport.newest(subject, WAIT)
    assert newest is not None
    assert newest[:3] == (subject, b"b", 2)
    assert before - 5 < newest.time < time.time() + 5


async def test_there_is_no_newest_message_of_what_was_never_told(place: Place) -> None:
    transport = await place.connected(log=False)
    subject = subjects_of(place).events(0, 1)
    assert await transport.newest(subject, WAIT) is None
    await transport.open_log(WAIT)
    assert await transport.newest(subject, WAIT) is None


async def test_the_subjects_of_a_log_are_listed_by_pattern(place: Place) -> None:
    transport = await place.connected(log=False)
    subjects = subjects_of(place)
    assert await transport.subjects(subjects.events(), WAIT) == []
    await transport.open_log(WAIT)
    for number, (rank, epoch) in enumerate(((1, 5), (0, 7), (0, 5), (0, 5))):
        await put(transport, subjects.events(rank, epoch), str(number))
    await put(transport, subjects.snapshot(0, 0), "snap")
    assert await transport.subjects(subjects.events(), WAIT) == [
        subjects.events(0, 5),
        subjects.events(0, 7),
        subjects.events(1, 5),
    ]
    assert await transport.subjects(subjects.events(0), WAIT) == [subjects.events(0, 5), subjects.events(0, 7)]
    assert await transport.subjects(subjects.events(2), WAIT) == []


async def test_the_last_position_is_that_of_any_subject(place: Place) -> None:
    transport = await place.connected(log=False)
    assert await transport.last_position(WAIT) == 0
    await transport.open_log(WAIT)
    assert await transport.last_position(WAIT) == 0
    await put(transport, subjects_of(place).events(0, 1), "a")
    await put(transport, subjects_of(place).snapshot(0, 0), "b")
    assert await transport.last_position(WAIT) == 2


async def test_nothing_is_appended_to_a_log_that_is_not_open(place: Place) -> None:
    transport = await place.connected(log=False)
    with pytest.raises(BridgeError, match="keeps no log"):
        await put(transport, subjects_of(place).events(0, 1), "a")


async def test_a_reader_has_everything_in_order_and_then_what_comes(place: Place) -> None:
    transport = await place.connected()
    subject = subjects_of(place).events(0, 1)
    wanted = [str(number) for number in range(700)]
    await put(transport, subject, *wanted[:650])
    async with reading(transport, [subjects_of(place).events()]) as got:
        await until_awaited(lambda: len(got) == 650)
        await put(transport, subject, *wanted[650:])
        await until_awaited(lambda: len(got) >= 700)
    assert texts(got) == wanted
    assert [one.position for one in got] == list(range(1, 701))
    assert {one.subject for one in got} == {subject}


async def test_a_reader_begins_behind_a_position(place: Place) -> None:
    transport = await place.connected()
    subject = subjects_of(place).events(0, 1)
    await put(transport, subject, "a", "b", "c")
    async with reading(transport, [subject], after=2) as got, reading(transport, [subject], after=3) as end:
        await until_awaited(lambda: got)
        await put(transport, subject, "d")
        await until_awaited(lambda: len(got) > 1 and end)
    assert texts(got) == ["c", "d"]
    assert texts(end) == ["d"]


async def test_a_position_that_the_log_has_not_reached_is_of_another_log(place: Place) -> None:
    transport = await place.connected()
    subject = subjects_of(place).events(0, 1)
    await put(transport, subject, "a", "b")
    async with reading(transport, [subject], after=1000) as got:
        await until_awaited(lambda: len(got) >= 2)
    assert texts(got) == ["a", "b"]


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ([("ev", 0, 1)], ["a", "d"]),
        ([("ev", 0, 1), ("ev", 1, 1)], ["a", "b", "d"]),
        ([("ev", "*", 1), ("snap", "*", "*")], ["a", "b", "c", "d"]),
        ([("ev", "*", 1), ("ev", 0, "*")], ["a", "b", "d", "e"]),
        ([("ev", 0, 1), ("ev", "*", "*"), ("ev", 0, 1)], ["a", "b", "d", "e"]),
        ([("snap", 0, 0)], ["c"]),
    ],
    ids=["one", "two", "two-kinds", "overlapping", "within-another", "a-snapshot"],
)
async def test_a_reader_has_what_matches_any_of_its_patterns_once(
    place: Place, chosen: list[tuple[str, int | str, int | str]], wanted: list[str]
) -> None:
    transport = await place.connected()
    subjects = subjects_of(place)
    for rank, epoch, text in ((0, 1, "a"), (1, 1, "b")):
        await put(transport, subjects.events(rank, epoch), text)
    await put(transport, subjects.snapshot(0, 0), "c")
    await put(transport, subjects.events(0, 1), "d")
    await put(transport, subjects.events(0, 2), "e")
    kinds = {"ev": subjects.events, "snap": subjects.snapshot}
    async with reading(transport, [kinds[kind](rank, part) for kind, rank, part in chosen]) as got:
        await until_awaited(lambda: len(got) >= len(wanted))
    assert texts(got) == wanted


async def test_a_reader_may_be_there_before_the_log(place: Place) -> None:
    reader, writer = await place.connected(log=False), await place.connected(log=False)
    subject = subjects_of(place).events(0, 1)
    async with reading(reader, [subject]) as got:
        await asyncio.sleep(0)
        assert await reader.last_position(WAIT) == 0
        await writer.open_log(WAIT)
        await put(writer, subject, "a")
        await until_awaited(lambda: got)
    assert texts(got) == ["a"]


async def test_a_slow_reader_misses_nothing(place: Place) -> None:
    transport = await place.connected()
    subject = subjects_of(place).events(0, 1)
    wanted = [str(number) for number in range(600)]
    got: list[str] = []
    async with aclosing(transport.read([subject], 0)) as batches:  # type: ignore[type-var]
        for start in range(0, 600, 200):
            await put(transport, subject, *wanted[start : start + 200])
            got += texts(await anext(batches))
        while len(got) < 600:
            got += texts(await anext(batches))
    assert got == wanted


async def test_a_reader_that_waits_ends_at_once_when_cancelled(place: Place) -> None:
    transport = await place.connected()
    with anyio.move_on_after(0.3) as scope:
        async for _ in transport.read([subjects_of(place).events()], 0):
            pass
    assert scope.cancelled_caught
    await put(transport, subjects_of(place).events(0, 1), "a")  # and harms nobody


async def test_writers_at_the_same_time_have_each_their_own_order(place: Place) -> None:
    writers = [await place.connected() for _ in range(3)]
    subjects = subjects_of(place)
    async with reading(writers[0], [subjects.events()]) as got:
        async with anyio.create_task_group() as group:
            for rank, writer in enumerate(writers):
                group.start_soon(put, writer, subjects.events(rank, 1), *(f"{rank}-{number}" for number in range(100)))
        await until_awaited(lambda: len(got) >= 300)
    assert [one.position for one in got] == list(range(1, 301))
    for rank in range(3):
        own = [one.data.decode() for one in got if one.subject == subjects.events(rank, 1)]
        assert own == [f"{rank}-{number}" for number in range(100)]


async def test_runs_do_not_see_each_other(place: Place) -> None:
    one, other = await place.connected("one"), await place.connected("other")
    await put(one, Subjects("one").events(0, 1), "a")
    assert await other.last_position(WAIT) == 0
    assert await put(other, Subjects("other").events(0, 1), "a") == [1]  # an id is a run's own
    with pytest.raises(ArgumentError, match="does not store"):
        await put(other, Subjects("one").events(0, 1), "b")
    with pytest.raises(ArgumentError, match="stores nothing that matches"):
        await anext(aiter(other.read([Subjects("one").events()], 0)))


@pytest.mark.parametrize(
    "run", ["a.b", "a/b\\c", "* > %", "Größe 字\n", "x" * 250], ids=["dot", "slash", "signs", "words", "long"]
)
async def test_a_run_may_have_any_name(place: Place, run: str) -> None:
    transport = await place.connected(run)
    subjects = Subjects(run)
    await put(transport, subjects.events(0, 1), "a")
    assert await transport.subjects(subjects.events(), WAIT) == [subjects.events(0, 1)]
    newest = await transport.newest(subjects.events(0, 1), WAIT)
    assert newest is not None
    assert newest.data == b"a"


async def test_what_is_told_reaches_those_who_hear_it_then(place: Place) -> None:
    teller, hearer = await place.connected(), await place.connected()
    subjects = subjects_of(place)
    every: list[tuple[str, bytes]] = []
    second: list[bytes] = []
    await teller.tell(subjects.heartbeat(1), b"lost")
    assert await teller.last_position(WAIT) == 0  # so the broker has passed it on
    await hearer.hear(subjects.heartbeat(), lambda subject, data: every.append((subject, data)))
    await hearer.hear(subjects.heartbeat(2), lambda subject, data: second.append(data))
    for number in (1, 2, 3):
        await teller.tell(subjects.heartbeat(number), b"%d" % number)
    await until_awaited(lambda: len(every) >= 3 and second)
    assert every == [(subjects.heartbeat(number), b"%d" % number) for number in (1, 2, 3)]
    assert second == [b"2"]
    assert await teller.last_position(WAIT) == 0


async def test_one_who_fails_to_take_what_it_hears_hears_the_next(place: Place) -> None:
    transport = await place.connected()
    subject = subjects_of(place).heartbeat(0)
    heard: list[bytes] = []

    def take(_: str, data: bytes) -> None:
        heard.append(data)
        raise RuntimeError("cannot")

    await transport.hear(subject, take)
    await transport.tell(subject, b"a")
    await transport.tell(subject, b"b")
    await until_awaited(lambda: len(heard) == 2)


async def test_what_is_asked_is_answered_by_one_who_serves_it(place: Place) -> None:
    asker, server = await place.connected(), await place.connected()
    subjects = subjects_of(place)

    async def answer(subject: str, data: bytes) -> bytes:
        return f"{subject} {data.decode()}".encode()

    await server.serve(subjects.command(), answer)
    for command in (subjects.command("stop"), subjects.command("set", "lr/0")):
        assert await asker.ask(command, b"now", WAIT) == f"{command} now".encode()


async def test_questions_are_answered_beside_each_other(place: Place) -> None:
    asker, server = await place.connected(), await place.connected()
    subject = subjects_of(place).command("stop")
    release = asyncio.Event()

    async def answer(_: str, data: bytes) -> bytes:
        if data == b"slow":
            await release.wait()
        return data

    await server.serve(subject, answer)
    slow = asyncio.create_task(asker.ask(subject, b"slow", WAIT))
    assert await asker.ask(subject, b"fast", WAIT) == b"fast"
    assert not slow.done()
    release.set()
    assert await slow == b"slow"


async def test_what_nobody_serves_is_an_error_at_once(place: Place) -> None:
    transport = await place.connected()
    with anyio.fail_after(WAIT), pytest.raises(BridgeError, match="nobody"):
        await transport.ask(subjects_of(place).command("stop"), b"", 10 * WAIT)


async def test_what_cannot_be_answered_is_an_error_that_says_why(place: Place) -> None:
    transport = await place.connected()
    subjects = subjects_of(place)

    async def fail(_: str, data: bytes) -> bytes:
        raise RuntimeError("this run is over\nfor good")

    async def long(_: str, data: bytes) -> bytes:
        return bytes(transport.max_bytes + 1)

    await transport.serve(subjects.command("stop"), fail)
    await transport.serve(subjects.command("snapshot"), long)
    with pytest.raises(BridgeError, match="this run is over"):
        await transport.ask(subjects.command("stop"), b"", WAIT)
    with pytest.raises(BridgeError, match="at most"):
        await transport.ask(subjects.command("snapshot"), b"", WAIT)


async def test_an_answer_that_does_not_come_in_time_is_an_error(place: Place) -> None:
    transport = await place.connected()
    subject = subjects_of(place).command("stop")

    async def never(_: str, data: bytes) -> bytes:
        await asyncio.Event().wait()
        return data

    await transport.serve(subject, never)
    with pytest.raises(BridgeError, match="answered"):
        await transport.ask(subject, b"", 0.1)
    with anyio.move_on_after(0.1) as scope:
        await transport.ask(subject, b"", 10 * WAIT)
    assert scope.cancelled_caught


async def test_a_message_holds_max_bytes_and_no_more(place: Place) -> None:
    transport = await place.connected()
    subjects = subjects_of(place)
    data = bytes(transport.max_bytes)
    assert await transport.append(subjects.events(0, 1), data, "i" * 512, alone=True, timeout=WAIT) == 1
    newest = await transport.newest(subjects.events(0, 1), WAIT)
    assert newest is not None
    assert newest.data == data
    async with reading(transport, [subjects.events()]) as got:
        await until_awaited(lambda: got)
    assert got[0].data == data
    for refused in (data + b"!", "text"):
        with pytest.raises(ArgumentError, match="message"):
            await transport.append(subjects.events(0, 1), cast(bytes, refused), "b", timeout=WAIT)
        with pytest.raises(ArgumentError, match="message"):
            await transport.tell(subjects.heartbeat(0), cast(bytes, refused))
        with pytest.raises(ArgumentError, match="message"):
            await transport.ask(subjects.command("stop"), cast(bytes, refused), WAIT)
    assert await transport.last_position(WAIT) == 1
    assert transport.connected


@pytest.mark.parametrize("bad", ["", "a b", "a..b", ".a", "a.", "a.*b", "a.>.b", "a\r\nPUB x 0\r\n", "ä", None])
async def test_what_is_no_subject_is_refused(place: Place, bad: str) -> None:
    transport = await place.connected()

    async def answer(_: str, data: bytes) -> bytes:
        return data

    for refused in (
        transport.append(bad, b"", "a", timeout=WAIT),
        transport.newest(bad, WAIT),
        transport.subjects(bad, WAIT),
        transport.tell(bad, b""),
        transport.hear(bad, lambda subject, data: None),
        transport.ask(bad, b"", WAIT),
        transport.serve(bad, answer),
        anext(aiter(transport.read([bad], 0))),
    ):
        with pytest.raises(ArgumentError):
            await refused
    for pattern in (subjects_of(place).events(), "a.>"):
        for refused in (
            transport.newest(pattern, WAIT),
            transport.tell(pattern, b""),
            transport.ask(pattern, b"", WAIT),
        ):
            with pytest.raises(ArgumentError, match="one subject"):
                await refused


@pytest.mark.parametrize(
    "bad", ["", "a b", "a\r\nb", "ä", "i" * 513, None], ids=["empty", "blank", "lines", "umlaut", "long", "none"]
)
async def test_what_is_no_message_id_is_refused(place: Place, bad: str) -> None:
    transport = await place.connected()
    with pytest.raises(ArgumentError, match="identity"):
        await transport.append(subjects_of(place).events(0, 1), b"", bad, timeout=WAIT)
    assert await transport.last_position(WAIT) == 0


async def test_without_the_broker_all_fails_that_needs_it_and_comes_back_with_it(place: Place) -> None:
    transport = await place.connected()
    subjects = subjects_of(place)
    changes: list[bool] = []
    heard: list[bytes] = []
    asked: list[bytes] = []

    async def answer(_: str, data: bytes) -> bytes:
        asked.append(data)
        return data

    await transport.hear(subjects.heartbeat(), lambda subject, data: heard.append(data))
    await transport.serve(subjects.command(), answer)
    transport.on_change = lambda: changes.append(transport.connected)
    async with reading(transport, [subjects.events()]) as got:
        await put(transport, subjects.events(0, 1), "a", "b")
        await until_awaited(lambda: len(got) == 2)
        place.cut()
        try:
            await until_awaited(lambda: not transport.connected)
            assert changes == [False]
            assert isinstance(transport.error, BridgeError)
            for refused in (
                put(transport, subjects.events(0, 1), "c"),
                transport.newest(subjects.events(0, 1), WAIT),
                transport.subjects(subjects.events(), WAIT),
                transport.last_position(WAIT),
                transport.open_log(WAIT),
                transport.ask(subjects.command("stop"), b"", WAIT),
            ):
                with pytest.raises(BridgeError), anyio.fail_after(2):
                    await refused
            await transport.tell(subjects.heartbeat(0), b"lost")
        finally:
            place.restore()
        await until_awaited(lambda: transport.connected)
        assert changes[-1]
        assert transport.error is None
        assert await put(transport, subjects.events(0, 1), "b", "c") == [2, 3]
        await until_awaited(lambda: len(got) >= 3)
        await transport.tell(subjects.heartbeat(0), b"again")
        await until_awaited(lambda: heard)
        assert await transport.ask(subjects.command("stop"), b"again", WAIT) == b"again"
    assert texts(got) == ["a", "b", "c"]
    assert heard == asked == [b"again"]


async def test_what_was_asked_fails_when_the_broker_goes(place: Place) -> None:
    transport = await place.connected()
    subject = subjects_of(place).command("stop")
    begun = asyncio.Event()

    async def never(_: str, data: bytes) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return data

    await transport.serve(subject, never)
    task = asyncio.create_task(transport.ask(subject, b"", 10 * WAIT))
    await begun.wait()
    place.cut()
    try:
        with anyio.fail_after(WAIT), pytest.raises(BridgeError):
            await task
    finally:
        place.restore()


async def test_a_broker_that_is_not_there_at_first_is_found_later(place: Place) -> None:
    transport = place.transport()
    place.cut()
    try:
        start = time.monotonic()
        with pytest.raises(BridgeError):
            await transport.connect(0.2)
        assert time.monotonic() - start < 5
        assert not transport.connected
        heard: list[bytes] = []
        await transport.hear(subjects_of(place).heartbeat(), lambda subject, data: heard.append(data))
    finally:
        place.restore()
    await until_awaited(lambda: transport.connected)
    await transport.connect(WAIT)
    await transport.tell(subjects_of(place).heartbeat(0), b"here")
    await until_awaited(lambda: heard)
    await transport.close(5)


async def test_a_transport_closes_twice_and_is_of_no_use_then(place: Place) -> None:
    transport = await place.connected()
    subjects = subjects_of(place)

    async def answer(_: str, data: bytes) -> bytes:
        return data

    async def read() -> None:
        async for _ in transport.read([subjects.events()], 0):
            pass

    reader = asyncio.create_task(read())
    await put(transport, subjects.events(0, 1), "a")
    for _ in range(2):
        with anyio.fail_after(5):
            await transport.close(2)
    for refused in (
        reader,
        transport.connect(WAIT),
        put(transport, subjects.events(0, 1), "b"),
        transport.newest(subjects.events(0, 1), WAIT),
        transport.ask(subjects.command("stop"), b"", WAIT),
        transport.serve(subjects.command(), answer),
        transport.hear(subjects.heartbeat(), lambda subject, data: None),
        read(),
    ):
        with pytest.raises(BridgeError), anyio.fail_after(WAIT):
            await refused


async def test_a_transport_that_never_connected_can_be_closed(place: Place) -> None:
    await place.transport().close(2)
