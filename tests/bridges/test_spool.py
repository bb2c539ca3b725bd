"""A spool has every frame until a broker does, whatever happens to its process, its disk and its bytes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asynchub.bridges.failures import BridgeError
from asynchub.bridges.frames import BASE, END, EVENTS, Frame, decode_frame, encode_frame
from asynchub.bridges.records import pack_record
from asynchub.bridges.spool import Spool
from asynchub.errors import ArgumentError, CorruptStateError, UnknownTypeError
from asynchub.events import InfoUpdated, ScalarUpdated
from asynchub.requests import Decided
from tests.bridges.made_frames import Rank, facts, held

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, locks, limits")


class Refused:
    """What was left out.

    Attributes:
        told: where it is, and why.
    """

    def __init__(self) -> None:
        self.told: list[tuple[str, Exception]] = []

    def __call__(self, source: str, error: Exception) -> None:
        self.told.append((source, error))


def nothing_refused(source: str, error: Exception) -> None:
    pytest.fail(f"{source}: {error!r}")


def opened(folder: Path | None, epoch: int, refused: Any = nothing_refused, **more: Any) -> Spool:
    return Spool(folder, epoch, refused=refused, **more)


def sent(spool: Spool, most: int = 10**9) -> list[Frame]:
    """Take frames off a spool, as a broker does that takes all; return them."""
    frames = []
    while len(frames) < most and (spooled := spool.peek()) is not None:
        assert decode_frame(spooled.data).number == spooled.frame.number
        frames.append(spooled.frame)
        spool.take_off(spooled.frame.epoch, spooled.frame.number)
    return frames


def numbers(frames: list[Frame]) -> list[tuple[int, int]]:
    return [(frame.epoch, frame.number) for frame in frames]


def assert_exact(frames: list[Frame], made: list[Frame]) -> None:
    """Check that the frames of an epoch stand for all that were made of it, without a gap, with exact counts."""
    number = events = 0
    for frame in frames:
        assert (frame.first, frame.before) == (number + 1, events)
        if frame.kind == EVENTS:
            assert frame.batch.size == frame.size - frame.left_out
        number, events = frame.number, events + frame.size
    assert (number, events) == (made[-1].number, sum(frame.size for frame in made))


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ahf"))


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Have the system refuse what makes a file longer than ``size`` bytes."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- what goes in comes out


@pytest.mark.parametrize("in_memory", [False, True])
def test_frames_come_out_as_they_went_in(tmp_path: Path, in_memory: bool) -> None:
    spool = opened(None if in_memory else tmp_path / "a" / "b", 1)
    assert spool.peek() is None
    rank = Rank()
    rank.base()
    for count in range(50):
        rank.scalars(count)
    rank.frame(kind=END)
    for frame in rank.frames:
        spool.append(frame)
    assert spool.waiting == 52
    assert spool.size > sum(len(encode_frame(frame)) for frame in rank.frames)
    first = spool.peek()
    assert first is not None
    assert first is spool.peek(), "looking at it takes nothing off"
    assert first.data == encode_frame(rank.frames[0])
    frames = sent(spool)
    assert [encode_frame(frame) for frame in frames] == [encode_frame(frame) for frame in rank.frames]
    assert (spool.waiting, spool.peek(), spool.epochs(), spool.left_out, spool.degraded) == (0, None, [], 0, None)
    spool.close()
    spool.close()


def test_frames_can_be_sent_while_others_come(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    spool = opened(tmp_path, 1, segment_bytes=2000)
    rank, frames = Rank(), []
    for _ in range(300):
        if draw.random() < 0.5:
            spool.append(rank.scalars(20))
        else:
            frames += sent(spool, draw.randrange(4))
        assert spool.waiting == len(rank.frames) - len(frames)
        assert len(segments(tmp_path)) <= 2 + spool.waiting
    frames += sent(spool)
    assert [encode_frame(frame) for frame in frames] == [encode_frame(frame) for frame in rank.frames]
    assert len(segments(tmp_path)) == 1, "what a broker has is not kept"
    spool.close()


def test_what_an_earlier_process_has_left_comes_first_and_in_order(tmp_path: Path) -> None:
    ranks = [Rank(epoch) for epoch in (5, 7, 8)]
    for rank in ranks:
        spool = opened(tmp_path, rank.epoch, segment_bytes=1000)
        for _ in range(10):
            spool.append(rank.scalars(10))
        spool.close()
    spool = opened(tmp_path, 9)
    last = Rank(9)
    spool.append(last.base())
    assert spool.waiting == 31
    assert spool.epochs() == [5, 7, 8, 9]
    wanted = [(rank.epoch, frame.number) for rank in (*ranks, last) for frame in rank.frames]
    assert numbers(sent(spool)) == wanted
    spool.close()


def test_what_a_broker_has_is_not_sent_by_the_next_process(tmp_path: Path) -> None:
    rank = Rank()
    spool = opened(tmp_path, 1)
    for _ in range(20):
        spool.append(rank.scalars(10))
    sent(spool, 13)
    spool.close()
    spool = opened(tmp_path, 2)
    assert spool.waiting == 7
    assert numbers(sent(spool, 3)) == [(1, 14), (1, 15), (1, 16)]
    spool.close()
    spool = opened(tmp_path, 3)
    assert numbers(sent(spool)) == [(1, 17), (1, 18), (1, 19), (1, 20)]
    spool.close()
    spool = opened(tmp_path, 4)
    assert spool.peek() is None
    spool.close()


def test_what_a_broker_has_of_each_epoch_can_be_told_in_any_order(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        rank = Rank(epoch)
        spool = opened(tmp_path, epoch, segment_bytes=500)
        for _ in range(10):
            spool.append(rank.scalars(10))
        spool.close()
    spool = opened(tmp_path, 4)
    spool.take_off(3, 4)
    spool.take_off(2, 10)
    spool.take_off(2, 3)
    spool.take_off(99, 1)
    spool.take_off(1, 9)
    wanted = [(1, 10), *((3, number) for number in range(5, 11))]
    assert (spool.waiting, spool.epochs()) == (7, [1, 3])
    spool.close()
    spool = opened(tmp_path, 5)
    assert (spool.waiting, spool.epochs()) == (7, [1, 3])
    assert numbers(sent(spool)) == wanted
    spool.close()


def test_a_frame_that_is_on_its_way_may_be_known_to_have_arrived(tmp_path: Path) -> None:
    rank = Rank()
    spool = opened(tmp_path, 1)
    for _ in range(5):
        spool.append(rank.scalars(10))
    spool.peek()
    spool.take_off(1, 3)
    assert numbers(sent(spool)) == [(1, 4), (1, 5)]
    spool.close()


def test_it_is_known_where_an_earlier_epoch_has_ended_also_when_a_broker_has_all(tmp_path: Path) -> None:
    first = Rank(1)
    spool = opened(tmp_path, 1, segment_bytes=1000)
    assert spool.last is None
    for _ in range(9):
        spool.append(first.scalars(30))
    spool.append(first.frame(kind=END))
    sent(spool)
    spool.close()
    for epoch in (2, 3):  # of which 2 makes no frame
        spool = opened(tmp_path, epoch)
        last = spool.last
        assert last is not None
        assert last._replace(batch=first.frames[8].batch) == first.frames[8]
        if epoch == 3:
            spool.append(Rank(3).base())
            assert len(segments(tmp_path)) == 1, "that of the first epoch is not needed any more"
        spool.close()
    spool = opened(tmp_path, 4)
    assert spool.last is not None
    assert (spool.last.epoch, spool.last.kind) == (3, BASE)
    spool.close()


def test_a_clock_that_goes_back_does_no_harm(tmp_path: Path) -> None:
    for epoch in (100, 50):
        spool = opened(tmp_path, epoch)
        spool.append(Rank(epoch).scalars(5))
        spool.close()
    spool = opened(tmp_path, 200)
    assert numbers(sent(spool)) == [(50, 1), (100, 1)]
    spool.close()


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"epoch": -1}, "epoch"),
        ({"epoch": 1.0}, "epoch"),
        ({"epoch": 2**63}, "epoch"),
        ({"max_bytes": 2**16 - 1}, "max_bytes"),
        ({"max_bytes": None}, "max_bytes"),
        ({"segment_bytes": 0}, "segment_bytes"),
        ({"segment_bytes": "1"}, "segment_bytes"),
    ],
    ids=str,
)
def test_arguments_out_of_their_range_are_refused(tmp_path: Path, more: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ArgumentError, match=wanted):
        opened(tmp_path / "spool", **{"epoch": 1, **more})
    assert not (tmp_path / "spool").exists()


def test_a_frame_that_is_not_the_next_one_is_refused(tmp_path: Path) -> None:
    rank = Rank()
    first, second = rank.scalars(1), rank.scalars(1)
    spool = opened(tmp_path, 1)
    spool.append(second)
    for frame in (first, second, Rank(2).scalars(1)):
        with pytest.raises(ArgumentError, match="wanted a frame of epoch 1 with a number above 2"):
            spool.append(frame)
    assert spool.waiting == 1
    spool.close()
    with pytest.raises(ArgumentError, match=r"epoch 1 is in .* already"):
        opened(tmp_path, 1)
    opened(tmp_path, 2).close()


# --- whose it is


@posix
def test_a_spool_has_one_user(tmp_path: Path) -> None:
    spool = opened(tmp_path, 1)
    spool.append(Rank().scalars(3))
    with pytest.raises(BridgeError, match=rf"in use by process {os.getpid()}"):
        opened(tmp_path, 2)
    spool.close()
    assert (tmp_path / "LOCK").read_bytes() == b"released\n"
    opened(tmp_path, 3).close()


APPEND = """
import sys
from pathlib import Path
from asynchub.bridges.spool import Spool
from tests.bridges.made_frames import Rank

folder, epoch, most, max_bytes, segment_bytes = Path(sys.argv[1]), *map(int, sys.argv[2:])
refused = lambda source, error: print("refused", source, error, flush=True)
spool = Spool(folder, epoch, max_bytes=max_bytes, segment_bytes=segment_bytes, refused=refused)
rank = Rank(epoch, seed=epoch)
for number in range(most):
    frame = rank.infos(2, 50, *"abcde") if number % 10 == 9 else rank.scalars(40)
    spool.append(frame)
    sys.stdout.write(f"{frame.number} {frame.before + frame.size}\\n")
    sys.stdout.flush()
"""


@contextmanager
def appending(folder: Path, epoch: int, *, max_bytes: int = 2**28, segment_bytes: int = 2**22) -> Iterator[Any]:
    """Run a process that appends frames for ever, and tells of each."""
    command = [sys.executable, "-c", APPEND, str(folder), str(epoch), str(10**9), str(max_bytes), str(segment_bytes)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


@posix
def test_another_process_is_kept_out_until_the_first_is_dead(tmp_path: Path) -> None:
    with appending(tmp_path, 1) as process:
        process.stdout.readline()
        with pytest.raises(BridgeError, match=f"in use by process {process.pid}"):
            opened(tmp_path, 2)
    opened(tmp_path, 2).close()


@posix
def test_a_forked_child_that_forgets_it_keeps_nobody_out(tmp_path: Path) -> None:
    spool = opened(tmp_path, 1)
    spool.append(Rank().scalars(3))
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)
        spool.forget()
        spool.close()
        os.read(reader, 1)
        os._exit(0)
    try:
        os.close(reader)
        with pytest.raises(BridgeError):
            opened(tmp_path, 2)
        spool.close()
        opened(tmp_path, 3).close()
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


# --- killed


@posix
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
def test_a_killed_process_loses_no_frame_that_it_has_appended(
    tmp_path: Path, seed: int, rounds: int, full: bool
) -> None:
    draw = random.Random(seed)
    sizes = {"max_bytes": 2**16, "segment_bytes": 2**11} if full else {"segment_bytes": 2**13}
    for epoch in range(1, rounds + 1):
        lines = []
        with appending(tmp_path, epoch, **sizes) as process:
            for _ in range(draw.randrange(250, 700)):  # thinning begins at about 200
                lines.append(process.stdout.readline())
            process.kill()
            lines += process.stdout.readlines()
        told = [line.split() for line in lines if line.endswith("\n")]
        assert not any(line[0] == "refused" for line in told), told[0]
        number, events = map(int, told[-1])
        spool = opened(tmp_path, 10**6 + epoch, **sizes)
        assert spool.last is not None
        assert spool.last.epoch == epoch
        frames = sent(spool)
        assert {frame.epoch for frame in frames} == {epoch}
        made = Rank()
        made.frames.append(frames[-1]._replace(size=frames[-1].before + frames[-1].size))
        assert_exact(frames, made.frames)
        assert number <= frames[-1].number <= number + 1
        assert frames[-1].before + frames[-1].size >= events
        assert any(frame.left_out for frame in frames) == full
        spool.close()


def test_a_crash_amid_thinning_leaves_what_was_there_or_what_is(tmp_path: Path) -> None:
    """Every state that a crash can leave, made by hand: the new file under its other name, and beside the old ones."""
    crashed, live, rank = tmp_path / "crashed", tmp_path / "live", Rank()
    spool = opened(live, 1, max_bytes=2**16, segment_bytes=2**12)
    after: dict[str, bytes] = {}
    seen = 0
    while seen < 8:
        before = after
        spool.append(rank.scalars(40))
        after = {path.name: path.read_bytes() for path in segments(live)}
        rewritten = {name: after[name] for name in before if name in after and not after[name].startswith(before[name])}
        if not rewritten:
            continue
        seen += 1
        unfinished = {f"{name}.tmp": data[: len(data) // 2] for name, data in rewritten.items()}
        for state in (before | unfinished, before | rewritten):
            shutil.rmtree(crashed, ignore_errors=True)
            crashed.mkdir()
            for name, data in state.items():
                (crashed / name).write_bytes(data)
            other = opened(crashed, 2, max_bytes=2**16)
            assert_exact(sent(other), rank.frames[:-1])
            other.close()
            assert not list(crashed.glob("*.tmp"))
    spool.close()


# --- bounded


def test_what_finds_no_room_is_thinned_and_counted(tmp_path: Path) -> None:
    rank = Rank()
    spool = opened(tmp_path, 1, max_bytes=2**17)
    for number in range(700):
        spool.append(rank.infos(1, 20) if number % 100 == 99 else rank.scalars(50))
        assert used(tmp_path) <= 2**17
    frames = sent(spool)
    assert_exact(frames, rank.frames)
    assert spool.left_out == sum(frame.left_out for frame in frames) > 10_000
    found = {event.seq: event for event in held(frames)}
    made = {event.seq: event for event in rank.events}
    assert all(facts(made[seq]) == facts(event) for seq, event in found.items()), "they are the events that they were"
    assert [event for event in rank.events if isinstance(event, InfoUpdated)] == [
        event for event in found.values() if isinstance(event, InfoUpdated)
    ], "there was room for infos"
    newest = [event for frame in rank.frames[-40:] for event in held([frame])]
    assert [found.get(event.seq) for event in newest] == newest, "the newest are whole"
    scalars = [event for event in rank.events if isinstance(event, ScalarUpdated)]
    for key in ("loss", "accuracy"):
        own = [event for event in scalars if event.key == key]
        for one in (own[0], min(own, key=lambda event: event.value), max(own, key=lambda event: event.value)):
            assert one.seq in found
    spool.close()


def test_of_infos_the_newest_are_left_when_there_is_no_room_for_all(tmp_path: Path) -> None:
    rank, keys = Rank(), [f"info{number}" for number in range(10)]
    spool = opened(tmp_path, 1, max_bytes=2**17)
    spool.append(rank.base())
    for _ in range(400):
        spool.append(rank.infos(10, 100, *keys))
        assert used(tmp_path) <= 2**17
    frames = sent(spool)
    assert_exact(frames, rank.frames)
    newest = {event.key: facts(event) for event in rank.events}
    assert {event.key: facts(event) for event in held(frames)} == newest
    assert spool.left_out == len(rank.events) - len(held(frames)) > 0
    spool.close()


def test_at_last_the_oldest_events_go_and_are_counted(tmp_path: Path) -> None:
    rank = Rank()
    spool = opened(tmp_path, 1, max_bytes=2**17)
    spool.append(rank.base())
    for number in range(1200):
        event = Decided(seq=number + 1, time=1.7e9, step=number, author="rule", verdict="waiting", reason="x" * 150)
        spool.append(rank.frame([event]))
        assert used(tmp_path) <= 2**17
    frames = sent(spool)
    assert_exact(frames, rank.frames)
    assert held(frames) == rank.events[-len(held(frames)) :]
    assert 100 < len(held(frames)) < 800
    assert spool.left_out == 1200 - len(held(frames))
    spool.close()


def test_frames_larger_than_the_room_are_made_smaller_and_counted(tmp_path: Path) -> None:
    rank = Rank()
    spool = opened(tmp_path, 1, max_bytes=2**16)
    spool.append(rank.scalars(10_000))
    spool.append(rank.infos(1, 100_000))
    spool.append(rank.infos(20, 5_000, "a", "b"))
    spool.append(rank.scalars(3))
    assert used(tmp_path) <= 2**16
    frames = sent(spool)
    assert_exact(frames, rank.frames)
    assert len(held(frames[-1:])) == 3
    spool.close()


def test_several_epochs_that_find_no_room_are_each_counted(tmp_path: Path) -> None:
    ranks = [Rank(epoch) for epoch in range(1, 6)]
    for rank in ranks:
        spool = opened(tmp_path, rank.epoch, max_bytes=2**16)
        spool.append(rank.base())
        for _ in range(100):
            spool.append(rank.scalars(60))
            assert used(tmp_path) <= 2**16
        spool.append(rank.frame(kind=END))
        spool.close()
    spool = opened(tmp_path, 99)
    frames = sent(spool)
    for rank in ranks:
        own = [frame for frame in frames if frame.epoch == rank.epoch]
        assert_exact(own, rank.frames)
        assert own[-1].kind == END
    spool.close()


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_frame_that_may_be_on_its_way_to_a_broker_stays_as_it_is(tmp_path: Path, looked_at: bool) -> None:
    rank = Rank()
    spool = opened(tmp_path, 1, max_bytes=2**16)
    for _ in range(3):
        spool.append(rank.scalars(100))
    sent(spool, 1)
    if looked_at:
        spool.peek()
    for _ in range(500):
        spool.append(rank.scalars(100))
    on_its_way = spool.peek()
    assert on_its_way is not None
    assert on_its_way.data == encode_frame(rank.frames[1])
    assert spool.left_out > 0
    spool.take_off(1, 2)
    frames = sent(spool)
    assert_exact([rank.frames[0], on_its_way.frame, *frames], rank.frames)
    spool.close()


def test_in_memory_the_room_is_bounded_too() -> None:
    rank = Rank()
    spool = opened(None, 1, max_bytes=2**16)
    for _ in range(1000):
        spool.append(rank.scalars(50))
        assert spool.size <= 2**16
    assert_exact(sent(spool), rank.frames)
    spool.close()


@pytest.mark.parametrize(
    ("seconds", "max_bytes"), [(150, 2**19), pytest.param(3600, 2**23, marks=pytest.mark.slow)], ids=["minutes", "hour"]
)
def test_an_hour_without_a_broker_takes_little_memory_and_no_more_disk_than_allowed(
    tmp_path: Path, seconds: int, max_bytes: int
) -> None:
    """A thousand events a second, in frames of half a second."""
    rank, keys = Rank(), [f"train/key{number}" for number in range(50)]
    spool = opened(tmp_path, 1, max_bytes=max_bytes)
    size = most_used = 0
    tracemalloc.start()
    try:
        for number in range(2 * seconds):
            spool.append(rank.many(500, *keys))
            size += 500
            del rank.frames[:-1]
            if number % 20 == 0:
                most_used = max(most_used, used(tmp_path))
        _, most_memory = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_memory < 50e6
    assert most_used <= max_bytes
    frames = sent(spool)
    events = number = 0
    for frame in frames:
        assert (frame.first, frame.before) == (number + 1, events)
        assert frame.batch.size == frame.size - frame.left_out
        number, events = frame.number, events + frame.size
    assert (number, events) == (2 * seconds, size)
    assert spool.left_out == sum(frame.left_out for frame in frames) > 0
    spool.close()


@posix
@pytest.mark.parametrize("number", range(3))
def test_whatever_happens_in_whatever_order_nothing_is_missing_or_there_twice(
    tmp_path: Path, seed: int, number: int
) -> None:
    """Frames come, some are sent, the disk refuses, the process is killed and comes again, in any order."""
    draw = random.Random(seed)
    sizes = {"max_bytes": draw.choice([2**16, 2**18, 2**28]), "segment_bytes": draw.choice([700, 3000, 2**22])}
    folder, epoch, at_broker = tmp_path / "1", 1, 0
    spool, rank = opened(folder, 1, **sizes), Rank(1, seed=seed)
    ranks, got = {1: rank}, {1: [0, 0]}
    for _ in range(400):
        what = draw.random()
        if what < 0.8:
            new = (
                rank.scalars(draw.randrange(80))
                if draw.random() < 0.9
                else rank.infos(2, draw.randrange(2000), "a", "b")
            )
            if draw.random() < 0.2:
                with files_at_most(draw.randrange(3000)):
                    spool.append(new)
            else:
                spool.append(new)
        elif what < 0.97:
            for _ in range(draw.randrange(12)):
                if (spooled := spool.peek()) is None:
                    break
                frame = spooled.frame
                assert (frame.first, frame.before) == (got[frame.epoch][0] + 1, got[frame.epoch][1])
                got[frame.epoch] = [frame.number, frame.before + frame.size]
                at_broker += 1
                if draw.random() < 0.9:  # else the answer does not come, and the broker is asked
                    spool.take_off(frame.epoch, frame.number)
                else:
                    break
            for one in spool.epochs():
                spool.take_off(one, got[one][0])
        elif spool.degraded is None:
            epoch += 1
            copy = tmp_path / str(epoch)
            shutil.copytree(folder, copy)
            spool.close()
            folder = copy
            spool, rank = opened(folder, epoch, **sizes), Rank(epoch, seed=seed + epoch)
            ranks[epoch], got[epoch] = rank, [0, 0]
        assert spool.size <= sizes["max_bytes"]
        assert spool.degraded is not None or used(folder) <= sizes["max_bytes"]
    for frame in sent(spool):
        assert (frame.first, frame.before) == (got[frame.epoch][0] + 1, got[frame.epoch][1])
        got[frame.epoch] = [frame.number, frame.before + frame.size]
    spool.close()
    for one, made in ranks.items():
        wanted = [made.frames[-1].number, made.frames[-1].before + made.frames[-1].size] if made.frames else [0, 0]
        assert got[one] == wanted
    assert at_broker
    assert epoch > 1


# --- a disk that refuses


@posix
def test_frames_that_the_disk_refuses_are_kept_and_written_when_it_takes_them(tmp_path: Path) -> None:
    rank = Rank()
    spool = opened(tmp_path, 1)
    for _ in range(5):
        spool.append(rank.scalars(50))
    with files_at_most(500):
        for _ in range(30):
            spool.append(rank.scalars(50))
        assert isinstance(spool.degraded, OSError)
        assert used(tmp_path) < 8000
        assert spool.waiting == 35
        frames = sent(spool, 10)
    spool.append(rank.scalars(50))
    assert spool.degraded is None
    spool.close()
    spool = opened(tmp_path, 2)
    frames += sent(spool)
    assert [encode_frame(frame) for frame in frames] == [encode_frame(frame) for frame in rank.frames]
    spool.close()


@posix
def test_what_the_disk_takes_at_the_end_is_not_lost(tmp_path: Path) -> None:
    rank = Rank()
    spool = opened(tmp_path, 1)
    with files_at_most(10):
        for _ in range(5):
            spool.append(rank.scalars(50))
        assert spool.degraded is not None
    spool.close()
    spool = opened(tmp_path, 2)
    assert_exact(sent(spool), rank.frames)
    spool.close()


@posix
def test_while_the_disk_refuses_memory_is_bounded(tmp_path: Path) -> None:
    rank = Rank()
    spool = opened(tmp_path, 1, max_bytes=2**17)
    for _ in range(100):
        spool.append(rank.scalars(50))
    with files_at_most(1000):
        for _ in range(400):
            spool.append(rank.scalars(50))
            assert spool.size <= 2**17
        assert spool.degraded is not None
    spool.append(rank.scalars(50))
    assert spool.degraded is None
    assert used(tmp_path) <= 2**17
    spool.close()
    spool = opened(tmp_path, 2)
    frames = sent(spool)
    assert_exact(frames, rank.frames)
    spool.close()


def test_a_folder_that_is_gone_for_a_while_loses_nothing(tmp_path: Path) -> None:
    rank = Rank()
    spool = opened(tmp_path / "spool", 1, segment_bytes=1000)
    for _ in range(5):
        spool.append(rank.scalars(50))
    (tmp_path / "spool").rename(tmp_path / "elsewhere")
    for _ in range(5):
        spool.append(rank.scalars(50))
    assert isinstance(spool.degraded, FileNotFoundError)
    (tmp_path / "elsewhere").rename(tmp_path / "spool")
    for _ in range(5):
        spool.append(rank.scalars(50))
    assert spool.degraded is None
    assert [encode_frame(frame) for frame in sent(spool)] == [encode_frame(frame) for frame in rank.frames]
    spool.close()


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        opened(tmp_path / "file" / "spool", 1)


# --- damage


def test_frames_that_go_while_a_process_has_them_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    rank, refused = Rank(), Refused()
    spool = opened(tmp_path, 1, refused, segment_bytes=2000)
    for _ in range(12):
        spool.append(rank.scalars(30))
    first, second, *_ = segments(tmp_path)
    first.write_bytes(first.read_bytes()[:1000])
    second.unlink()
    frames = sent(spool)
    assert spool.waiting == 0
    assert len(refused.told) == 2
    assert numbers(frames) == [(1, frame.number) for frame in rank.frames if frame.number in {1, *range(5, 13)}]
    spool.close()


class Left:
    """A small spool that a process has left: two segments of three frames each.

    Attributes:
        folder: of the spool.
        frames: all that are in it, as bytes.
    """

    def __init__(self, folder: Path) -> None:
        rank = Rank()
        spool = opened(folder, 1, segment_bytes=1000)
        for number in range(6):
            spool.append(rank.infos(2, 3) if number == 1 else rank.frame(left_out=2))
        spool.close()
        self.folder = folder
        self.frames = [encode_frame(frame) for frame in rank.frames]
        self.segments = segments(folder)
        assert len(self.segments) == 2

    def look(self) -> tuple[list[bytes], list[tuple[str, Exception]]]:
        """Return what a spool has of it, and what it says; leave it as it is."""
        files = {path: path.read_bytes() for path in self.folder.iterdir()}
        refused, frames = Refused(), []
        spool = opened(self.folder, 2, refused)
        while (spooled := spool.peek()) is not None:
            frames.append(spooled.data)
            spool.take_off(1, spooled.frame.number)
        spool.close()
        for path in self.folder.iterdir():
            if path not in files:
                path.unlink()
        for path, data in files.items():
            path.write_bytes(data)
        return frames, refused.told


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left(tmp_path / "spool")


def test_the_small_spool_is_whole(left: Left) -> None:
    assert left.look() == (left.frames, [])


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_of_every_truncation_the_rest_is_read_and_it_is_told_once(left: Left, every: int) -> None:
    whole = [path.read_bytes() for path in left.segments]
    for index, (path, data) in enumerate(zip(left.segments, whole, strict=True)):
        ends = [0]
        for frame in left.frames[3 * index : 3 * index + 3]:
            ends.append(ends[-1] + 20 + len(frame))
        for end in sorted({*range(0, len(data), every), *ends[:-1]}):
            path.write_bytes(data[:end])
            frames, told = left.look()
            here = sum(one <= end for one in ends[1:])
            assert frames == left.frames[: 3 * index + here] + left.frames[3 * index + 3 :]
            assert len(told) == (end not in ends)
        path.write_bytes(data)


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_of_every_flipped_bit_the_rest_is_read_and_it_is_told_once(left: Left, every: int) -> None:
    for path in left.segments:
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), every):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            frames, told = left.look()
            assert len(frames) == 5
            assert set(frames) < set(left.frames)
            assert len(told) == 1
        path.write_bytes(whole)


def test_what_a_crash_has_torn_is_told_once_and_cut_off(left: Left) -> None:
    with left.segments[1].open("ab") as file:
        file.write(pack_record(7, b"x" * 1000)[:500])
    refused = Refused()
    opened(left.folder, 2, refused).close()
    ((source, error),) = refused.told
    assert str(left.segments[1]) in source
    assert isinstance(error, CorruptStateError)
    assert "500 bytes are what a crash has left of a write" in str(error)
    assert left.look() == (left.frames, [])


def test_frames_of_a_version_to_come_are_left_out_and_the_rest_is_read(left: Left) -> None:
    newer = bytearray(left.frames[1])
    newer[3] += 1
    data = [left.frames[0], bytes(newer), left.frames[2]]
    left.segments[0].write_bytes(b"".join(pack_record(at + 1, one) for at, one in enumerate(data)))
    frames, told = left.look()
    assert frames == [left.frames[0], *left.frames[2:]]
    assert [type(error) for _, error in told] == [UnknownTypeError]


def test_a_frame_of_another_epoch_or_number_is_left_out(left: Left) -> None:
    foreign = encode_frame(Rank(77).scalars(2))
    records = [(1, left.frames[0]), (2, foreign), (3, left.frames[3])]
    left.segments[0].write_bytes(b"".join(pack_record(*record) for record in records))
    frames, told = left.look()
    assert frames == [left.frames[0], *left.frames[3:]]
    assert [type(error) for _, error in told] == [CorruptStateError] * 2


def test_what_is_left_out_is_told_once_also_when_there_is_no_room(left: Left) -> None:
    newer = bytearray(left.frames[1])
    newer[3] += 1
    data = [left.frames[0], bytes(newer), left.frames[2]]
    left.segments[0].write_bytes(b"".join(pack_record(at + 1, one) for at, one in enumerate(data)))
    refused, rank = Refused(), Rank(2)
    spool = opened(left.folder, 2, refused, max_bytes=2**16)
    for _ in range(500):
        spool.append(rank.scalars(50))
    frames = sent(spool)
    assert [type(error) for _, error in refused.told] == [UnknownTypeError]
    assert_exact([frame for frame in frames if frame.epoch == 2], rank.frames)
    last = [frame for frame in frames if frame.epoch == 1][-1]
    assert last.before + last.size == 12, "the lost ones are counted, too"
    spool.close()


def test_foreign_files_are_told_and_left_alone(left: Left) -> None:
    (left.folder / "notes.txt").write_text("mine")
    (left.folder / f"{0:020}-{1:020}.ahf2").write_bytes(b"of a version to come")
    frames, told = left.look()
    assert frames == left.frames
    assert len(told) == 2
    assert (left.folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("data", [b"", b"garbage", bytes(1000), b"AHR1" * 300], ids=["empty", "text", "zeros", "magic"])
def test_a_file_without_frames_is_passed_over(left: Left, data: bytes) -> None:
    (left.folder / f"{0:020}-{1:020}.ahf").write_bytes(data)
    frames, told = left.look()
    assert frames == left.frames
    assert len(told) == (data != b"")


@pytest.mark.parametrize("damage", [b"", b"x", bytes(20), b"\xff" * 41])
def test_a_damaged_note_of_what_a_broker_has_has_it_told_again(left: Left, damage: bytes) -> None:
    spool = opened(left.folder, 2)
    sent(spool, 3)
    spool.close()
    note = left.folder / "TAKEN"
    assert note.stat().st_size > 0
    for data in (damage, note.read_bytes()[:-7], note.read_bytes() + damage):
        note.write_bytes(data)
        frames, told = left.look()
        assert frames == left.frames[-len(frames) :]
        assert len(frames) >= 3
        assert told == []
