"""Parcels come back as they were, in whatever pieces they come, and damage is told from them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynchub.batches import Batch, encode_batch, events_of
from asynchub.bridges.packing import Packer
from asynchub.bridges.parcels import MAX_BODY, Greeting, Parcel, Reader, encode_greeting, encode_parcel
from asynchub.errors import CorruptStateError, LimitExceededError, StateError, UnknownTypeError
from asynchub.events import Event, InfoUpdated, ScalarUpdated

HEAD = 16


def parcel(first: int, size: int, lost: int = 0) -> Parcel:
    events: list[Event] = [
        ScalarUpdated(seq=seq, time=seq / 8, step=seq, key=f"key/{seq % 3}", value=seq / 3)
        for seq in range(first, first + size)
    ]
    events.append(InfoUpdated(seq=first + size, time=0.5, step=None, key="info", value={"a": [1, b"\0"]}))
    return Parcel(Packer("test").pack(events), lost)


def read(pieces: Sequence[bytes]) -> list[Greeting | Parcel | StateError]:
    reader = Reader()
    found = [one for piece in pieces for one in reader.feed(piece)]
    assert reader.amid == 0
    return found


def told(found: Sequence[Greeting | Parcel | StateError]) -> list[object]:
    """Return what can be compared of parcels."""
    return [(one.lost, list(events_of(one.batch))) if isinstance(one, Parcel) else one for one in found]


SENT = [Greeting(12, "Worker é"), parcel(1, 0), parcel(2, 40, lost=3), parcel(100, 5)]
BYTES = b"".join([encode_greeting(SENT[0]), *map(encode_parcel, SENT[1:])])


@given(st.lists(st.integers(0, len(BYTES)), max_size=20))
def test_parcels_come_whole_however_they_are_cut(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(BYTES)]
    pieces = [BYTES[start:stop] for start, stop in itertools.pairwise(ends)]
    assert told(read(pieces)) == told(SENT)


def test_of_every_flipped_bit_no_event_comes_changed() -> None:
    whole = list(told(SENT))
    draw = random.Random(5)
    for _ in range(600):
        index = draw.randrange(len(BYTES))
        damaged = bytearray(BYTES)
        damaged[index] ^= 1 << draw.randrange(8)
        reader = Reader()
        found: list[Greeting | Parcel | StateError] = []
        try:
            found += reader.feed(damaged)
        except StateError as error:
            found.append(error)
        errors = [one for one in found if isinstance(one, StateError)]
        assert len(errors) == 1
        for one in told([one for one in found if not isinstance(one, StateError)]):
            assert one in whole


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused(data: bytes) -> None:
    reader = Reader()
    try:
        assert not list(reader.feed(data))
        assert len(data) < HEAD
    except StateError:
        assert len(data) >= HEAD


def sealed(body: bytes, version: int = 1, length: int | None = None) -> bytes:
    """Return a parcel whose checksums are right, whatever is in it."""
    import struct
    import zlib

    head = struct.pack("<3sBII", b"AHC", version, len(body) if length is None else length, zlib.crc32(body))
    return head + struct.pack("<I", zlib.crc32(head)) + body


def test_what_is_longer_than_allowed_is_neither_sent_nor_awaited() -> None:
    huge = Batch([("key", True)], [], [(1, b"\0" * MAX_BODY)])
    with pytest.raises(LimitExceededError, match="send fewer events"):
        encode_parcel(Parcel(huge, 0))
    with pytest.raises(LimitExceededError):
        list(Reader().feed(sealed(b"", length=MAX_BODY + 1)))


def test_a_version_to_come_is_refused() -> None:
    with pytest.raises(UnknownTypeError, match="version 2"):
        list(Reader().feed(sealed(b"\x80", version=2)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x80",
        b"\x93\1\2\3",
        b"\xc1",
        b"\x81\xa3pid\x01",
        b"\x82\xa3pid\xff\xa6worker\xa0",
        b"\x82\xa3pid\x01\xa6worker\x01",
        b"\x82\xa4lost\x00\xa5batch\xc4\x00",
        b"\x82\xa4lost\xff\xa5batch" + b"\xc4\x1b" + encode_batch(Batch([], [], [])),
    ],
)
def test_what_is_no_parcel_inside_is_left_out_and_the_next_is_read(body: bytes) -> None:
    error, after = read([sealed(body) + encode_greeting(Greeting(1, ""))])
    assert isinstance(error, CorruptStateError)
    assert after == Greeting(1, "")


def test_a_parcel_that_is_hostile_inside_is_left_out() -> None:
    column = [b"d", b"", 2**40]
    import msgpack

    batch = msgpack.packb({"keys": [["a", True]], "scalars": [[column] * 6], "events": []})
    found = read([sealed(msgpack.packb({"batch": batch, "lost": 0}))])
    assert len(found) == 1
    assert isinstance(found[0], StateError)
    deep = b"\x91" * 100_000 + b"\xc0"
    assert isinstance(read([sealed(deep)])[0], StateError)


def test_values_of_a_parcel_are_exact(rng: np.random.Generator) -> None:
    numbers = [*rng.normal(size=50).tolist(), 2**70, -(2**63), True, float("inf"), 5e-324]
    events = [ScalarUpdated(seq=seq, time=1.0, key="a", value=number) for seq, number in enumerate(numbers, start=1)]
    (found,) = read([encode_parcel(Parcel(Packer("test").pack(events), 0))])
    assert isinstance(found, Parcel)
    came = [event.value for event in events_of(found.batch)]
    assert came == numbers
    assert [type(one) for one in came] == [type(one) for one in numbers]
