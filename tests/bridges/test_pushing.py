"""What dead processes have left in their spools goes to a broker once, in order; what is left is told."""

from __future__ import annotations

import argparse
import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from anyio import fail_after

from asynchub.bridges.failures import BridgeError
from asynchub.bridges.frames import Frame, decode_frame
from asynchub.bridges.memory import MemoryBroker, memory_broker
from asynchub.bridges.opening import open_transport
from asynchub.bridges.pushing import push, push_one, take_off_known
from asynchub.bridges.spool import Spool
from asynchub.bridges.spooled import spooled_epochs
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.transport import Transport
from asynchub.cli_afar import add_afar_commands
from asynchub.errors import ArgumentError
from asynchub.spooling import push_spools, run_spool_command, spools_table
from tests.bridges.broker import Broker
from tests.bridges.made_frames import Rank

RUN = "a run/1"
SUBJECTS = Subjects(RUN)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop of every test here: transports are for asyncio."""
    return "asyncio", {"use_uvloop": False}


def refused(source: str, error: Exception) -> None:
    pytest.fail(f"{source}: {error!r}")


def leave(folder: Path, *epochs: int, rank: int = 0, frames: int = 4) -> list[Frame]:
    """Leave a spool behind; return the frames that are in it."""
    left = []
    for epoch in epochs:
        one = Rank(epoch, run=RUN, rank=rank)
        spool = Spool(folder, epoch, refused=refused)
        spool.append(one.base())
        for _ in range(frames - 1):
            spool.append(one.scalars(10))
        spool.close()
        left += one.frames
    return left


@pytest.fixture
def memory() -> MemoryBroker:
    return memory_broker("pushing")


async def connected(url: str = "memory://pushing") -> Transport:
    transport = open_transport(url, RUN)
    await transport.connect(10)
    return transport


async def stored(transport: Transport) -> list[Frame]:
    """Return the frames that a broker has of the run."""
    found: list[Frame] = []
    last = await transport.last_position(10)
    if last:
        async for some in transport.read(SUBJECTS.stored, 0):
            found += [decode_frame(one.data) for one in some]
            if some[-1].position >= last:
                break
    return found


def ids(frames: list[Frame]) -> list[str]:
    return [frame.message_id for frame in frames]


async def test_all_that_waits_is_sent_in_order(tmp_path: Path, memory: MemoryBroker) -> None:
    left = leave(tmp_path, 1, 2, 3)
    spool, transport = Spool(tmp_path, 9, refused=refused), await connected()
    with fail_after(10):
        assert await push(spool, transport, SUBJECTS, timeout=5) == 12
        assert await push(spool, transport, SUBJECTS, timeout=5) == 0
        assert ids(await stored(transport)) == ids(left)
    assert spool.waiting == 0
    spool.close()
    await transport.close(2)


async def test_what_the_broker_has_is_not_sent_again(tmp_path: Path, memory: MemoryBroker) -> None:
    left = leave(tmp_path, 1, 2)
    transport = await connected()
    with fail_after(10):
        spool = Spool(tmp_path, 8, refused=refused)
        await transport.open_log(5)
        for _ in range(5):
            await push_one(spool, transport, SUBJECTS, timeout=5)
        spool.close()
        (tmp_path / "TAKEN").unlink()  # so that only the broker knows
        spool = Spool(tmp_path, 9, refused=refused)
        assert spool.waiting >= 4
        known = await take_off_known(spool, transport, SUBJECTS, 2, timeout=5)
        assert await push(spool, transport, SUBJECTS, timeout=5) == 3
        assert ids(await stored(transport)) == ids(left)
        spool.close()
    assert known is not None
    assert (known.frame.epoch, known.frame.number, known.position) == (2, 1, 5)
    await transport.close(2)


async def test_a_broker_that_fails_leaves_the_rest_in_the_spool(tmp_path: Path, memory: MemoryBroker) -> None:
    left = leave(tmp_path, 1)
    spool, transport = Spool(tmp_path, 9, refused=refused), await connected()
    with fail_after(10):
        await transport.open_log(5)
        sent = await push_one(spool, transport, SUBJECTS, timeout=5)
        assert sent is not None
        assert (sent.frame.number, sent.position) == (1, 1)
        memory.cut()
        with pytest.raises(BridgeError):
            await push(spool, transport, SUBJECTS, timeout=0.1)
        assert spool.waiting == 3
        memory.restore()
        await transport.connect(5)
        assert await push(spool, transport, SUBJECTS, timeout=5) == 3
        assert await push_one(spool, transport, SUBJECTS, timeout=5) is None
        assert ids(await stored(transport)) == ids(left)
    spool.close()
    await transport.close(2)


async def test_a_frame_that_is_too_long_for_the_broker_is_made_smaller(tmp_path: Path, memory: MemoryBroker) -> None:
    rank = Rank(1, run=RUN)
    spool, transport = Spool(tmp_path, 1, refused=refused), await connected()
    for frame in (rank.scalars(500), rank.infos(1, 5000), rank.scalars(3)):
        spool.append(frame)
    transport.max_bytes = 3000
    with fail_after(10):
        await push(spool, transport, SUBJECTS, timeout=5)
        found = await stored(transport)
    assert ids(found) == ids(rank.frames)
    assert [frame.size for frame in found] == [500, 1, 3]
    assert [frame.size - frame.left_out for frame in found] == [frame.batch.size for frame in found]
    assert [frame.left_out for frame in found][1:] == [1, 0]
    assert 490 <= found[0].left_out < 500
    spool.close()
    await transport.close(2)


# --- the command


def asked(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_afar_commands(parser.add_subparsers())
    return parser.parse_args(["spool", *map(str, words)])


def done(*words: object) -> tuple[int, list[str]]:
    """Run the command in a loop of its own; return the exit status, and what was printed."""
    lines: list[str] = []
    status = run_spool_command(asked(*words), lines.append)
    return status, "\n".join(lines).splitlines()


def test_spools_of_several_ranks_are_pushed(tmp_path: Path, memory: MemoryBroker) -> None:
    left = leave(tmp_path / "0", 1) + leave(tmp_path / "2", 1, 2, rank=2) + leave(tmp_path / "10", 1, rank=10)
    assert done("push", tmp_path, "memory://pushing") == (
        0,
        [
            "rank 0 of a run/1: 4 of 4 frames are with the broker",
            "rank 2 of a run/1: 8 of 8 frames are with the broker",
            "rank 10 of a run/1: 4 of 4 frames are with the broker",
        ],
    )

    async def look() -> list[Frame]:
        transport = await connected()
        try:
            return await stored(transport)
        finally:
            await transport.close(2)

    assert ids(asyncio.run(look())) == ids(left)
    assert done("push", tmp_path / "2", "memory://pushing") == (0, [f"{tmp_path / '2'}: nothing waits"])


def test_a_spool_that_a_process_has_is_left_alone_and_the_others_are_pushed(
    tmp_path: Path, memory: MemoryBroker
) -> None:
    leave(tmp_path / "0", 1)
    leave(tmp_path / "1", 1, rank=1)
    spool = Spool(tmp_path / "0", 5, refused=refused)
    status, (first, second) = done("push", tmp_path, "memory://pushing")
    assert status == 1
    assert "in use by process" in first
    assert second == "rank 1 of a run/1: 4 of 4 frames are with the broker"
    assert spool.waiting == 4
    spool.close()


def test_a_broker_that_is_not_there_leaves_all_where_it_is(tmp_path: Path, memory: MemoryBroker) -> None:
    for rank in range(3):
        leave(tmp_path / str(rank), 1, rank=rank)
    memory.cut()
    status, lines = done("push", tmp_path, "memory://pushing", "--timeout", "0.05")
    assert status == 1
    assert len(lines) == 3
    assert lines[0].startswith("rank 0 of a run/1: 0 of 4 frames are with the broker: the broker 'pushing' is not")
    assert lines[2].startswith("rank 2 of a run/1: 0 of 4 frames are with the broker: ")
    memory.restore()
    assert done("push", tmp_path, "memory://pushing")[0] == 0


def test_what_cannot_be_read_is_told_and_the_rest_is_pushed(tmp_path: Path, memory: MemoryBroker) -> None:
    leave(tmp_path, 1)
    (segment,) = tmp_path.glob("*.ahf")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    status, lines = done("push", tmp_path, "memory://pushing")
    assert status == 0
    assert lines[0].startswith(f"left out: {segment} at byte ")
    assert lines[1] == "rank 0 of a run/1: 3 of 3 frames are with the broker"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("push", "nothing", "memory://x"), FileNotFoundError),
        (("push", ".", "http://x"), ArgumentError),
        (("show", "nothing"), FileNotFoundError),
        (("show", "."), FileNotFoundError),
    ],
    ids=str,
)
def test_what_is_asked_wrongly_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], error: type[Exception]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        done(*words)


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_is_seconds_above_0(timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked("push", ".", "memory://x", f"--timeout={timeout}")
    assert "wanted seconds, more than 0" in capsys.readouterr().err


def test_what_waits_is_shown_and_not_touched(tmp_path: Path) -> None:
    second = 10**9
    leave(tmp_path / "0", 1_700_000_000 * second, 1_700_000_100 * second)
    leave(tmp_path / "1", 1_700_000_000 * second, rank=1, frames=100)
    spool = Spool(tmp_path / "1", 2**62, refused=refused)
    spool.take_off(1_700_000_000 * second, 90)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, lines = done("show", tmp_path)
    assert status == 0
    head, *rows, total = lines
    assert head.split()[:6] == ["run", "rank", "epoch", "frames", "bytes", "events"]
    assert [re.split(r"\s{2,}", row)[:2] for row in rows] == [["a run/1", "0"], ["a run/1", "0"], ["a run/1", "1"]]
    assert total == "160 events in 18 frames wait for a broker"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    spool.take_off(1_700_000_000 * second, 100)
    spool.close()
    assert spools_table(tmp_path / "1", 200).splitlines()[-1] == "0 events in 0 frames wait for a broker"
    (only,) = spooled_epochs(tmp_path / "1")
    assert (only.run, only.rank, only.frames, only.user) == (RUN, 1, 0, "nobody")


def test_what_is_shown_is_what_would_be_sent(tmp_path: Path, seed: int) -> None:
    rank = Rank(1, run=RUN, seed=seed)
    spool = Spool(tmp_path, 1, max_bytes=2**16, refused=refused)
    for _ in range(300):
        spool.append(rank.scalars(50))
    (shown,) = spooled_epochs(tmp_path)
    assert (shown.frames, shown.events, shown.left_out) == (spool.waiting, 15_000, spool.left_out)
    assert shown.newest == rank.frames[-1].time
    assert shown.damaged == 0
    assert "process" in shown.user
    spool.close()
    (tmp_path / f"{1:020}-{10**6:020}.ahf").write_bytes(b"torn")
    (shown,) = spooled_epochs(tmp_path)
    assert shown.damaged == 1
    assert "damaged" in spools_table(tmp_path, 200).splitlines()[0]


async def test_a_real_broker_takes_what_is_pushed(tmp_path: Path, broker: Broker) -> None:
    left = leave(tmp_path / "spool" / "0", 1, 2, frames=20)
    lines: list[str] = []
    with fail_after(60):
        assert await push_spools(tmp_path / "spool", broker.url, lines.append, timeout=20) == 0
        transport = await connected(broker.url)
        assert ids(await stored(transport)) == ids(left)
        await transport.close(5)
    assert lines == ["rank 0 of a run/1: 40 of 40 frames are with the broker"]
