"""The tail of a journal, read while it is written over and over."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.batches import encode_event, events_of
from asynchub.events import ENTRY, Event, InfoUpdated, ScalarUpdated
from asynchub.journal.putting import Tail
from asynchub.journal.tail import START
from asynchub.journal.tailing import TailReader, contents
from asynchub.live import Cell

RUN = bytes(range(16))
HALF = 4096
CELLS = [Cell(f"key/{'x' * (3 * number)}{number}", None, [], True, False) for number in range(40)]
VALUES = st.sampled_from([0.5, float("inf"), 3, True, 2**70, -(2**63)])
SCALARS = st.lists(st.tuples(st.sampled_from(CELLS), VALUES, st.sampled_from([1, 8, 2**65])), min_size=1, max_size=30)
STEPS = st.one_of(
    SCALARS,
    st.just([(CELLS[0], 0.5, 1)]),  # so that what an earlier round left stands where a record could
    st.integers(1, 6000),
    st.sampled_from(["swap", "swap", "poll", "poll", "poll", "renew", "jump"]),
)


class _Writer:
    """Writes a tail as a journal does, and knows what a segment has of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.seq = self.in_segments = self.at_swap = 0
        self.unsaid = 0  # up to here nothing was published, and only a segment will say so
        self.jumped = False
        self.renew()

    def renew(self) -> None:
        """Begin another session."""
        self.in_segments = self.at_swap = self.seq
        self.tail = Tail(self.folder, RUN, self.seq, HALF)

    def swap(self) -> None:
        """Go on in the other half, as after everything in that was written to a segment."""
        self.in_segments, self.at_swap = self.at_swap, self.seq
        if self.jumped:
            self.unsaid, self.jumped = self.seq, False
        self.tail.swap(self.seq)

    def put(self, items: list[Any], events: list[Event], data: bytes | None) -> None:
        """Put events, in the tail if there is room."""
        first = self.seq + 1
        put = self.tail.put(first, items) if data is None else self.tail.put_event(first, data)
        self.events += events
        self.seq = events[-1].seq
        self.jumped = False
        if not put:  # they go to a segment at once
            self.swap()
            self.in_segments = self.at_swap


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=60))
def test_a_reader_sees_each_event_once_as_it_was_put_or_is_sent_to_the_segments(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        writer = _Writer(Path(name))
        reader = TailReader(Path(name))
        seen: list[Event] = []
        after = 0

        def read() -> None:
            """Read all there is now, what is not in the tail from what stands for the segments."""
            nonlocal after
            while True:
                found = [event for batch in reader.poll(after, 512) for event in events_of(batch)]
                seen.extend(found)
                after = found[-1].seq if found else after
                if not found and reader.gap and after < writer.in_segments:
                    seen.extend(one for one in writer.events if after < one.seq <= writer.in_segments)
                    after = writer.in_segments
                elif not found and not reader.more:
                    return

        for step in steps:
            seq = writer.seq + 1
            if step == "poll":
                read()
            elif step == "swap":
                writer.swap()
            elif step == "renew":
                writer.tail.close()
                writer.renew()
            elif step == "jump":
                writer.seq += 3
                writer.jumped = True
            elif isinstance(step, int):
                event = InfoUpdated(seq=seq, time=0.0, step=seq, key="info", value="x" * step)
                writer.put([], [event], encode_event(event, None, None)[0])
            else:
                fields = [(cell, seq / 7, None, value, count) for cell, value, count in step]
                events: list[Event] = [
                    ScalarUpdated(seq=seq + at, time=time, step=of, key=cell.key, value=value, count=count)
                    for at, (cell, time, of, value, count) in enumerate(fields)
                ]
                items = [field for entry in fields for field in entry]
                assert len(items) == ENTRY * len(events)
                writer.put(items, events, None)
        read()
        missing = [one for one in writer.events if one.seq > after]
        writer.tail.close()
    assert [repr(event) for event in [*seen, *missing]] == [repr(event) for event in writer.events]
    assert all(one.seq <= writer.at_swap for one in missing) or after < writer.unsaid


def _scalar(tail: Tail, seq: int, key: int = 0) -> None:
    assert tail.put(seq, [CELLS[key], 0.0, None, float(seq), 1])


def _seqs(reader: TailReader, after: int) -> list[int]:
    return [event.seq for batch in reader.poll(after) for event in events_of(batch)]


def test_a_tail_that_shrinks_or_vanishes_does_no_harm_to_its_reader(tmp_path: Path) -> None:
    reader = TailReader(tmp_path)
    assert _seqs(reader, 0) == []
    large = Tail(tmp_path, RUN, 0, 2**20)
    _scalar(large, 1)
    assert _seqs(reader, 0) == [1]
    small = Tail(tmp_path, RUN, 1, HALF)
    _scalar(small, 2)
    assert _seqs(reader, 1) == [2]
    (tmp_path / "tail.mm").unlink()
    assert _seqs(reader, 2) == []
    again = Tail(tmp_path, RUN, 2, 2 * HALF)
    _scalar(again, 3)
    assert _seqs(reader, 2) == [3]


def test_what_is_garbage_is_no_tail(tmp_path: Path) -> None:
    for data in (b"", b"\x89AHT\r\n\x1a\n", bytes(START + 2 * HALF), b"x" * (START + 2 * HALF)):
        (tmp_path / "tail.mm").write_bytes(data)
        assert TailReader(tmp_path).poll(0) == []
        assert contents(tmp_path) == (None, [])


def test_what_an_earlier_round_left_is_not_taken_for_news(tmp_path: Path) -> None:
    tail = Tail(tmp_path, RUN, 0, HALF)
    for seq in (1, 2, 3):
        _scalar(tail, seq)
    reader = TailReader(tmp_path)
    assert _seqs(reader, 0) == [1, 2, 3]
    tail.swap(3)
    _scalar(tail, 4)
    tail.swap(4)
    _scalar(tail, 5)  # 2 and 3 stand behind it still
    assert _seqs(reader, 3) == [4, 5]
    _scalar(tail, 6)
    assert _seqs(reader, 5) == [6]


def test_a_half_that_is_begun_anew_amid_a_read_is_not_mixed_with_the_one_before(tmp_path: Path) -> None:
    tail = Tail(tmp_path, RUN, 0, HALF)
    _scalar(tail, 1, key=0)
    reader = TailReader(tmp_path)
    assert _seqs(reader, 0) == [1]
    read = reader._records

    def late(*arguments: Any) -> Any:
        reader._records = read  # type: ignore[method-assign]
        tail.swap(1)
        tail.swap(1)
        _scalar(tail, 2, key=1)
        return read(*arguments)

    reader._records = late  # type: ignore[method-assign]
    assert _seqs(reader, 1) == []
    assert reader.more
    ((event,),) = [list(events_of(batch)) for batch in reader.poll(1)]
    assert (event.seq, event.key) == (2, CELLS[1].key)
