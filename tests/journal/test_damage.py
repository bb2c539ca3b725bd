"""Whatever happens to the bytes: what is read is a beginning of what was published, or an error names what is not."""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgpack
import numpy as np
import pytest

from asynchub import Journal, MessageHub, recover
from asynchub.batches import events_of
from asynchub.errors import CorruptStateError, JournalCorruptError, JournalError, StateError, UnknownTypeError
from asynchub.events import Event
from asynchub.journal.frames import FRAME_SIZE, SEGMENT_SIZE, SYNC, pack_head
from asynchub.journal.reading import read_journal
from asynchub.journal.tail import START
from tests.journal.force import assert_same, fields, flush, run, stored


class Written:
    """A small journal as a crash has left it: two segments, of which the newest is open, and a tail.

    Attributes:
        folder: of the journal.
        events: all that was published.
        durable_seq: the newest that the files say to be on the disk.
    """

    def __init__(self, run: Path) -> None:
        hub = MessageHub("hub")
        journal = Journal(run / "live", interval=1000, tail=8192, segment_size=500)
        hub.attach(journal)
        for n in range(3):
            for _ in range(3):
                hub.update_scalar("a", 0.1 * n)
            hub.update_info("n", (n, 2**70))
            flush(journal)
        flush(journal)  # a quiet period
        hub.update_scalars({"a": 7, "b": 0.5})
        hub.update_info("last", "x")
        self.folder = run / "journal"
        shutil.copytree(run / "live", self.folder)
        hub.detach(journal)
        self.events = stored(run / "live")
        self.durable_seq = 12
        self.segments = sorted(self.folder.glob("*.ahj"))
        assert len(self.segments) == 2
        assert sum(path.stat().st_size for path in self.segments) <= 2048

    def without_tail(self) -> None:
        (self.folder / "tail.mm").unlink()


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def look(folder: Path, events: list[Event]) -> int | None:
    """Read a journal; return how many events it gave, None for an error; fail if it gave anything wrong."""
    try:
        found = stored(folder)
    except StateError:
        return None
    assert len(found) <= len(events)
    assert [fields(event) for event in found] == [fields(event) for event in events[: len(found)]]
    return len(found)


def test_the_small_journal_is_whole(written: Written) -> None:
    assert_same(stored(written.folder), written.events)
    written.without_tail()
    assert_same(stored(written.folder), written.events[:12])


def test_every_truncation_of_a_segment_leaves_a_beginning_or_an_error(written: Written) -> None:
    written.without_tail()
    older, newest = written.segments
    for path in written.segments:
        whole = path.read_bytes()
        for end in range(len(whole)):
            path.write_bytes(whole[:end])
            found = look(written.folder, written.events)
            if path is older:
                assert found is None or end >= len(whole) - FRAME_SIZE  # less than CLOSE is all of it
            else:
                assert found is not None
        path.write_bytes(whole)
    assert newest.stat().st_size


def test_every_flipped_bit_of_a_segment_leaves_a_beginning_or_an_error(written: Written) -> None:
    written.without_tail()
    silent = 0
    for path in written.segments:
        whole = path.read_bytes()
        for bit in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            found = look(written.folder, written.events)
            if found is not None and found < 12:
                silent += 1
        path.write_bytes(whole)
    assert silent == 0, "events that had been on the disk were dropped without a word"


def test_every_truncation_and_every_flipped_bit_of_the_tail_leaves_a_beginning(written: Written) -> None:
    path = written.folder / "tail.mm"
    whole = path.read_bytes()
    used = [*range(64), *(at for at in range(START, len(whole)) if any(whole[max(at - 8, 0) : at + 8]))]
    for at in used:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        assert look(written.folder, written.events) in ((12, None) if 12 <= at < 28 else range(12, 16))
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        assert look(written.folder, written.events) == 12


def resealed(segment: bytes, start: int, frame: bytes) -> bytes:
    """Return a segment with another frame in the place of the one at ``start``, with right length and checksum."""
    _, length = struct.unpack_from("<4sI", segment, start)
    end = start + FRAME_SIZE + length
    seed = zlib.crc32(segment[16:32] + segment[32:36])
    header = bytearray(frame[:FRAME_SIZE])
    payload = frame[FRAME_SIZE:]
    header[4:8] = struct.pack("<I", len(payload))
    crc = zlib.crc32(payload, zlib.crc32(header[12:], zlib.crc32(header[:8], seed)))
    header[8:12] = struct.pack("<I", crc)
    return segment[:start] + bytes(header) + payload + bytes(-len(payload) % 8) + segment[end + -end % 8 :]


def frame_starts(segment: bytes) -> list[int]:
    return [at for at in range(SEGMENT_SIZE, len(segment), 8) if segment[at : at + 4] == SYNC]


@pytest.mark.parametrize("count", [3000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutants_with_a_right_checksum_raise_nothing_but_state_errors(written: Written, seed: int, count: int) -> None:
    draw = random.Random(seed)
    written.without_tail()
    path = written.segments[-1]
    written.segments[0].unlink()
    whole = path.read_bytes()
    starts = frame_starts(whole)
    outcomes = {True: 0, False: 0}
    for _ in range(count):
        start = draw.choice(starts)
        length = struct.unpack_from("<I", whole, start + 4)[0]
        frame = bytearray(whole[start : start + FRAME_SIZE + length])
        for _ in range(draw.randrange(1, 4)):
            kind = draw.randrange(3)
            at = draw.randrange(12, len(frame)) if len(frame) > 12 else 12
            if kind == 0:
                frame[at] = draw.randrange(256)
            elif kind == 1 and at >= FRAME_SIZE:
                del frame[at : at + draw.randrange(1, 9)]
            elif at >= FRAME_SIZE:
                frame[at:at] = draw.randbytes(draw.randrange(1, 9))
        path.write_bytes(resealed(whole, start, bytes(frame)))
        try:
            stored(written.folder)
        except StateError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > 300, "the test shows something"


def test_mutants_of_the_tail_with_a_right_checksum_raise_nothing_but_state_errors(written: Written, seed: int) -> None:
    draw = random.Random(seed)
    path = written.folder / "tail.mm"
    whole = path.read_bytes()
    run_id, nonce = whole[12:28], whole[28:36]
    own = zlib.crc32(nonce, zlib.crc32(run_id))
    for _ in range(500):
        damaged = bytearray(whole)
        for half in (START, START + 4096):
            seed_of = zlib.crc32(whole[half : half + 16], own)
            at = half + 24
            while word := struct.unpack_from("<I", whole, at)[0]:
                length = word & (1 << 28) - 1
                if at + 16 + length > half + 4096:
                    break
                if draw.random() < 0.3:
                    kind = draw.choice([word >> 28, draw.randrange(16)])
                    damaged[at : at + 4] = struct.pack("<I", kind << 28 | length)
                    place = at + 8 + draw.randrange(length)
                    damaged[place] = draw.randrange(256)
                    record = damaged[at : at + 4] + bytes(4) + damaged[at + 8 : at + 8 + length]
                    damaged[at + 4 : at + 8] = struct.pack("<I", zlib.crc32(record, seed_of))
                at += 8 + length + -length % 8
        path.write_bytes(damaged)
        with suppress(StateError):
            stored(written.folder)


BOMBS: dict[str, object] = {
    "a column of 2**40": {"keys": [["a", True]], "scalars": [[[1, "<i8", 2**40, bytes(8)]] * 6], "events": []},
    "a progression of 2**24": {"keys": [["a", True]], "scalars": [[[6, "<i8", 2**24, bytes(16)]] * 6], "events": []},
    "many groups": {
        "keys": [["a", True]],
        "scalars": [[[1, kind, 2**18, struct.pack("<q", 1)] for kind in ("<i8", "<f8", "<i8", "<f8", "<i8", "<i8")]]
        * 999,
        "events": [],
    },
    "an event of nested lists": {"keys": [], "scalars": [], "events": [[13, b"\xdd\x7f\xff\xff\xff" * 100_000]]},
    "nested arrays": None,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once_and_take_little_memory(written: Written, name: str) -> None:
    written.without_tail()
    path = written.segments[-1]
    whole = path.read_bytes()
    start = frame_starts(whole)[1]
    payload = b"\xdd\x00\x01\x00\x00" * 400_000 if BOMBS[name] is None else msgpack.packb(BOMBS[name])
    path.write_bytes(resealed(whole, start, whole[start : start + FRAME_SIZE] + payload))
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(StateError):
            stored(written.folder)
        assert time.process_time() - began < 5  # a second, without the tracing
        assert tracemalloc.get_traced_memory()[1] < 150_000_000
    finally:
        tracemalloc.stop()


def test_a_frame_that_says_to_be_huge_is_none(written: Written) -> None:
    written.without_tail()
    path = written.segments[-1]
    data = bytearray(path.read_bytes())
    for length in (2**31, 2**32 - 1, len(data)):
        data[SEGMENT_SIZE + 4 : SEGMENT_SIZE + 8] = struct.pack("<I", length % 2**32)
        path.write_bytes(data)
        with pytest.raises(JournalCorruptError):
            stored(written.folder)


# --- what a crash tears


def test_what_is_torn_is_cut_and_kept_aside(written: Written) -> None:
    newest = written.segments[-1]
    with newest.open("ab") as file:
        file.write(b"AHJ1" + bytes(50))
    hub = recover(written.folder.parent)
    journal = Journal(written.folder, interval=1000)
    hub.attach(journal)
    assert (written.folder / f"{newest.name}.torn-1").read_bytes() == b"AHJ1" + bytes(50)
    hub.update_scalar("a", 1.0)
    hub.detach(journal)
    assert len(stored(written.folder)) == len(written.events) + 1


REPAIR_KILLED = """
import os, signal, sys
from pathlib import Path
from asynchub.journal import folder
from asynchub.journal.reading import read_journal
at, where = int(sys.argv[2]), Path(sys.argv[1])
calls = 0
def counted(real):
    def call(*arguments, **more):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return call
for owner, name in ((os, "fsync"), (folder.shutil, "copyfileobj"), (Path, "unlink"), (Path, "open")):
    setattr(owner, name, counted(getattr(owner, name)))
folder.flush = counted(folder.flush)
folder.repair(read_journal(where))
"""


def test_a_repair_that_is_killed_anywhere_twice_is_taken_up(written: Written) -> None:
    with written.segments[-1].open("ab") as file:
        file.write(b"half a frame")
    kills = 0
    for at in range(1, 30):
        folder = written.folder.with_name(f"killed at {at}")
        shutil.copytree(written.folder, folder)
        codes = [run(REPAIR_KILLED, folder, at, check=False).returncode for _ in range(2)]
        assert set(codes) <= {0, -9}
        kills += codes[0] == -9
        assert_same(stored(folder), written.events)
        hub = recover(folder)
        journal = Journal(folder)
        hub.attach(journal)
        hub.detach(journal)
        assert_same(stored(folder), written.events)
        assert any(path.read_bytes() == b"half a frame" for path in folder.glob("*.torn-*"))
        if codes[0] == 0:
            break
    assert kills >= 4


def test_a_segment_that_a_crash_left_without_a_head_is_nothing(written: Written) -> None:
    for size in (0, 30, SEGMENT_SIZE):
        (written.folder / f"{13:020}-{3:06}.ahj").write_bytes(bytes(size))
        assert_same(stored(written.folder), written.events)
        hub = recover(written.folder)
        folder = written.folder.with_name(f"left {size}")
        shutil.copytree(written.folder, folder)
        journal = Journal(folder)
        hub.attach(journal)
        hub.update_scalar("a", 1.0)
        hub.detach(journal)
        assert len(stored(folder)) == len(written.events) + 1
        assert not list(folder.glob(f"*-{3:06}.ahj")), "the number of a segment that was cut away is not used again"


# --- damage amid what was promised


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """The folder of a journal of six segments of some events each, and what the middle one holds."""
    hub = MessageHub("hub")
    journal = Journal(tmp_path / "journal", interval=1000, segment_size=1)
    hub.attach(journal)
    for n in range(6):
        for _ in range(10):
            hub.update_scalar("a", float(n))
        flush(journal)
    hub.detach(journal)
    return tmp_path / "journal"


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damage_in_the_middle_is_an_error_that_names_the_events(long: Path) -> None:
    damage(sorted(long.glob("*.ahj"))[2], 200)
    with pytest.raises(JournalCorruptError, match="events 21 to event 30 cannot be read") as caught:
        recover(long.parent)
    (one,) = caught.value.damages
    assert (one.first_seq, one.last_seq) == (21, 30)
    with pytest.raises(JournalCorruptError):
        MessageHub("hub").attach(Journal(long))


def test_point_in_time_gives_what_is_before_the_damage_and_salvage_what_is_around_it(long: Path) -> None:
    before = stored(long)
    damage(sorted(long.glob("*.ahj"))[2], 200)
    assert_same(stored(long, "point-in-time"), before[:20])
    assert_same(stored(long, "salvage"), before[:20] + before[30:])
    hub = recover(long.parent, mode="point-in-time")
    assert hub.get_scalar("a").data[0].tolist() == [0.0] * 10 + [1.0] * 10
    hub = recover(long.parent, mode="salvage")
    assert len(hub.get_scalar("a").data[0]) == 50


def test_salvage_goes_on_behind_damage_within_a_segment_and_in_the_tail(written: Written) -> None:
    damage(written.segments[-1], frame_starts(written.segments[-1].read_bytes())[1] + 60)
    seqs = [event.seq for event in stored(written.folder, "salvage")]
    assert seqs[-3:] == [13, 14, 15]
    assert len(seqs) < 15
    with pytest.raises(JournalCorruptError):
        stored(written.folder)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("at", [0, 20, 33, 62])
def test_the_events_of_a_segment_with_a_damaged_head_are_not_lost_silently(long: Path, number: int, at: int) -> None:
    before = stored(long)
    damage(sorted(long.glob("*.ahj"))[number], at)
    with pytest.raises(CorruptStateError, match=f"{10 * number + 1} to"):
        stored(long)
    salvaged = stored(long, "salvage")
    rest = [event for event in before if not 10 * number < event.seq <= 10 * number + 10]
    assert salvaged in (before, rest)


def test_a_head_alone_that_is_damaged_where_it_is_the_only_segment_is_an_error(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    journal = Journal(tmp_path / "journal", level="memory")
    hub.attach(journal)
    hub.update_scalar("a", 1.0)
    hub.detach(journal)
    (path,) = (tmp_path / "journal").glob("*.ahj")
    for at in range(SEGMENT_SIZE):
        damage(path, at)
        with pytest.raises((JournalCorruptError, UnknownTypeError)):
            recover(tmp_path)
        with pytest.raises((JournalCorruptError, UnknownTypeError)):
            hub.attach(Journal(tmp_path / "journal"))
        damage(path, at)
    assert recover(tmp_path).get_scalar("a").data[0].tolist() == [1.0]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_deleted_segment_is_missed(long: Path, number: int) -> None:
    before = stored(long)
    sorted(long.glob("*.ahj"))[number].unlink()
    with pytest.raises(JournalCorruptError, match=f"events {10 * number + 1} to event {10 * number + 10} "):
        recover(long.parent)
    assert_same(stored(long, "salvage"), before[: 10 * number] + before[10 * number + 10 :])


def test_a_journal_without_its_beginning_is_refused_unless_it_is_to_be_salvaged(long: Path) -> None:
    sorted(long.glob("*.ahj"))[0].unlink()
    with pytest.raises(JournalError, match="begins with event 11"):
        recover(long.parent)
    assert len(recover(long.parent, mode="salvage").get_scalar("a").data[0]) == 50


def test_segments_that_were_exchanged_are_refused(long: Path) -> None:
    one, other, *_ = sorted(long.glob("*.ahj"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.raises(CorruptStateError, match="says that it is segment"):
        recover(long.parent)


def test_the_segment_and_the_tail_of_another_run_are_refused(long: Path, tmp_path: Path) -> None:
    foreign = MessageHub("foreign")
    foreign.attach(journal := Journal(tmp_path / "foreign"))
    foreign.update_scalar("a", 1.0)
    shutil.copytree(tmp_path / "foreign", tmp_path / "killed")
    foreign.detach(journal)
    segment = sorted(long.glob("*.ahj"))[3]
    number, first = int(segment.stem[-6:]), int(segment.stem[:20])
    before = segment.read_bytes()
    segment.write_bytes(pack_head(bytes.fromhex(foreign.run_id), number, first) + before[SEGMENT_SIZE:])
    with pytest.raises(CorruptStateError, match="belongs to run"):
        recover(long.parent)
    segment.write_bytes(before)
    shutil.copy(tmp_path / "killed" / "tail.mm", long / "tail.mm")
    with pytest.raises(CorruptStateError, match="belongs to run"):
        recover(long.parent)


def test_random_bursts_never_give_anything_else(written: Written, rng: np.random.Generator) -> None:
    for path in (*written.segments, written.folder / "tail.mm"):
        whole = path.read_bytes()
        for _ in range(700):
            damaged = bytearray(whole)
            start, length = int(rng.integers(len(whole))), int(rng.integers(1, 40))
            damaged[start : start + length] = rng.bytes(len(damaged[start : start + length]))
            path.write_bytes(damaged)
            look(written.folder, written.events)
        path.write_bytes(whole)


# --- sectors that a power failure has kept or lost


def test_no_power_failure_takes_what_was_acknowledged_or_raises_a_false_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The sector model: what was not flushed when the power failed is there or not, sector by sector, in any mix."""
    hub = MessageHub("hub")
    flushed = [SEGMENT_SIZE]  # bytes that the disk had been told to have, each time
    real: Callable[[int], None] = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_size)
        real(descriptor)

    journal = Journal(tmp_path / "journal", interval=1000, level="memory")
    hub.attach(journal)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    for n in range(12):
        for i in range(n % 5 * 10 + 1):
            hub.update_scalars({"a": 0.1 * i, "b": 0.7 / (n + 1)})
        if n % 3 == 0:
            assert journal.make_room()  # written, and not flushed
            hub.update_info("n", "x" * 1700)
        flush(journal)
    monkeypatch.undo()
    (path,) = (tmp_path / "journal").glob("*.ahj")
    data = path.read_bytes()
    events = stored(tmp_path / "journal")
    hub.detach(journal)
    image_path = tmp_path / "image" / path.name
    image_path.parent.mkdir()
    acknowledged = []
    for size in flushed:
        image_path.write_bytes(data[:size])
        acknowledged.append(len(stored(image_path.parent)))
    draw = random.Random(seed)
    partial = 0
    for crash in range(20_000):
        number = draw.randrange(len(flushed))
        sure = flushed[number]
        end = draw.randint(sure, flushed[number + 1] if number + 1 < len(flushed) else len(data))
        image = bytearray(data[:end])
        share = draw.random()
        for sector in range(sure // 512 * 512, end, 512):
            lost = slice(max(sector, sure), min(sector + 512, end))
            if draw.random() < share:
                image[lost] = bytes(lost.stop - lost.start)
        if draw.random() < 0.3:
            del image[draw.randint(sure, end) :]
        image_path.write_bytes(image)
        journaled = read_journal(image_path.parent)  # raises at a false alarm
        assert journaled.last_seq >= acknowledged[number], "acknowledged events are lost"
        partial += journaled.last_seq > acknowledged[number]
        if crash % 20 == 0:
            found = [event for batch in journaled.batches() for event in events_of(batch)]
            assert found == events[: len(found)]
    assert 500 < partial < 19_500, "the test shows something"
