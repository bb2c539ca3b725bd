"""The broker inside of the process: its name, its size, its threads; see test_transport.py for the rest."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from asynchub.bridges.memory import MemoryTransport
from asynchub.bridges.memory_broker import memory_broker
from asynchub.bridges.subjects import Subjects
from asynchub.errors import ArgumentError

SUBJECTS = Subjects("run")
EVENTS = SUBJECTS.events(0, 1)
only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@only_asyncio
async def test_a_broker_lives_as_long_as_something_holds_it() -> None:
    transport = MemoryTransport(SUBJECTS, "held")
    await transport.connect(1)
    await transport.open_log(1)
    await transport.append(EVENTS, b"a", "a", timeout=1)
    gc.collect()
    other = MemoryTransport(SUBJECTS, "held")
    await other.connect(1)
    assert await other.last_position(1) == 1
    for one in (transport, other):
        await one.close(1)
    gc.collect()
    later = MemoryTransport(SUBJECTS, "held")
    await later.connect(1)
    assert await later.last_position(1) == 0
    await later.close(1)


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_broker_needs_a_name(name: str) -> None:
    with pytest.raises(ArgumentError, match="needs a name"):
        MemoryTransport(SUBJECTS, name)


@only_asyncio
async def test_a_log_keeps_its_newest_bytes_and_says_nothing_of_the_others() -> None:
    broker = memory_broker("small")
    broker.keep_bytes = 30
    broker.max_bytes = 20
    transport = MemoryTransport(SUBJECTS, "small")
    await transport.connect(1)
    assert transport.max_bytes == 20
    await transport.open_log(1)
    for number in range(5):
        await transport.append(EVENTS, bytes(10), f"{number}", timeout=1)
    batches = transport.read([EVENTS], 0)
    assert [one.position for one in await anext(aiter(batches))] == [3, 4, 5]
    await transport.append(EVENTS, bytes(20), "alone", alone=True, timeout=1)
    assert await transport.last_position(1) == 6
    await transport.close(1)


@only_asyncio
async def test_an_id_is_forgotten_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = MemoryTransport(SUBJECTS, "forgetful")
    await transport.connect(1)
    await transport.open_log(1)
    for position in (1, 1):
        assert await transport.append(EVENTS, b"", "a", timeout=1) == position
    monkeypatch.setattr("asynchub.bridges.memory_broker.DUPLICATE_SECONDS", -1.0)
    assert await transport.append(EVENTS, b"", "a", timeout=1) == 2
    await transport.close(1)


def test_loops_of_several_threads_share_a_broker() -> None:
    broker = memory_broker("shared")
    got: list[bytes] = []
    answers: list[bytes] = []

    async def write(rank: int) -> None:
        transport = MemoryTransport(SUBJECTS, "shared")
        await transport.connect(10)
        await transport.open_log(10)

        async def answer(_: str, data: bytes) -> bytes:
            return data + b"%d" % rank

        await transport.serve(SUBJECTS.command(f"ping{rank}"), answer)
        for number in range(300):
            await transport.append(SUBJECTS.events(rank, 1), b"%d %d" % (rank, number), f"{rank}/{number}", timeout=10)
        await asyncio.to_thread(done.wait, 30)
        await transport.close(1)

    async def read() -> None:
        transport = MemoryTransport(SUBJECTS, "shared")
        await transport.connect(10)
        async with asyncio.timeout(30):
            async for batch in transport.read([SUBJECTS.events()], 0):
                got.extend(one.data for one in batch)
                if len(got) >= 600:
                    break
            for rank in range(2):
                answers.append(await transport.ask(SUBJECTS.command(f"ping{rank}"), b"rank ", 10))
        await transport.close(1)

    done = threading.Event()
    threads = [threading.Thread(target=asyncio.run, args=(write(rank),), name=f"writer {rank}") for rank in range(2)]
    for thread in threads:
        thread.start()
    try:
        asyncio.run(read())
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert answers == [b"rank 0", b"rank 1"]
    for rank in range(2):
        assert [one for one in got if one.startswith(b"%d " % rank)] == [b"%d %d" % (rank, n) for n in range(300)]
    assert broker.members == []
