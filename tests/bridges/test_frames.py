"""A frame comes back as it was, or an error says what is wrong with it."""

from __future__ import annotations

import random
import zlib
from contextlib import suppress
from typing import Any

import msgpack
import pytest

from asynchub.batches import events_of
from asynchub.bridges.frames import BASE, END, EVENTS, MAGIC, SNAPSHOT, Frame, decode_frame, encode_frame
from asynchub.errors import CorruptStateError, LimitExceededError, StateError, UnknownTypeError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from tests.bridges.made_frames import Rank, facts, held
from tests.fuzz.mutations import changed


def some_events() -> list[Event]:
    return [
        ScalarUpdated(seq=1, time=1.7e9, step=None, key="a", value=0.1),
        ScalarUpdated(seq=2, time=1.7e9 + 1, step=0, key="ключ/\udcff", value=float("nan"), count=3),
        ScalarUpdated(seq=3, time=1.7e9 + 2, step=-5, key="a", value=2**70, count=2**70),
        InfoUpdated(seq=4, time=1.7e9 + 3, step=2, key="b", value={"x": (1, 2.5, b"y")}),
        ScalarUpdated(seq=7, time=1.7e9 + 4, step=2, key="a", value=True),
    ]


@pytest.fixture
def frame() -> Frame:
    return Rank(epoch=1_700_000_000_000_000_000, run="a run").frame(some_events(), left_out=2)


def resealed(body: bytes) -> bytes:
    """Return a frame with that body, and the checksum of it."""
    return MAGIC + b"\1" + zlib.crc32(body).to_bytes(4, "little") + body


def fields(frame: Frame) -> dict[str, Any]:
    """Return the fields of a frame as they are in its bytes."""
    unpacked: dict[str, Any] = msgpack.unpackb(encode_frame(frame)[8:], unicode_errors="surrogatepass")
    return unpacked


def of(unpacked: dict[str, Any]) -> bytes:
    return resealed(msgpack.packb(unpacked, unicode_errors="surrogatepass"))


@pytest.mark.parametrize("kind", [EVENTS, BASE, SNAPSHOT, END])
def test_a_frame_comes_back_as_it_was(frame: Frame, kind: str) -> None:
    frame = frame._replace(kind=kind, position=2**40, part=1, parts=3)
    decoded = decode_frame(encode_frame(frame))
    assert decoded._replace(batch=frame.batch) == frame
    assert list(map(facts, held([decoded]))) == list(map(facts, some_events()))


def test_a_frame_without_events_comes_back(frame: Frame) -> None:
    empty = Rank().frame()
    assert decode_frame(encode_frame(empty)) == empty
    assert list(events_of(empty.batch)) == []


def test_frames_have_different_ids_in_a_run() -> None:
    ids = {
        Rank(epoch, rank=rank).frame()._replace(number=number, first=number).message_id
        for epoch in (1, 11)
        for rank in (1, 11)
        for number in (1, 11, 111)
    }
    assert len(ids) == 12


def test_a_thousand_scalars_take_less_than_thirteen_bytes_each() -> None:
    rank = Rank()
    frame = rank.scalars(1000, *(f"train/key{number}" for number in range(50)))
    assert len(encode_frame(frame)) < 13_500


def test_no_beginning_of_a_frame_is_a_frame(frame: Frame) -> None:
    data = encode_frame(frame)
    for end in range(len(data)):
        with pytest.raises(CorruptStateError):
            decode_frame(data[:end])
    with pytest.raises(CorruptStateError):
        decode_frame(data + b"\0")


def test_every_flipped_bit_is_seen(frame: Frame) -> None:
    data = encode_frame(frame)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptStateError, UnknownTypeError)):
            decode_frame(bytes(damaged))


def test_a_frame_of_a_version_to_come_is_refused_with_what_to_do(frame: Frame) -> None:
    data = bytearray(encode_frame(frame))
    data[3] += 1
    with pytest.raises(UnknownTypeError, match=r"version 2, this reader knows 1: upgrade asynchub"):
        decode_frame(bytes(data))


def test_what_a_newer_version_has_added_to_the_header_is_passed_over(frame: Frame) -> None:
    newer = of({"colour": "red", **fields(frame), "nested": {"a": [1, None, b"x"]}})
    decoded = decode_frame(newer)
    assert decoded._replace(batch=frame.batch) == frame


@pytest.mark.parametrize("name", ["position", "part", "parts"])
def test_what_an_older_version_did_not_have_has_its_default(frame: Frame, name: str) -> None:
    less = fields(frame._replace(position=5, part=1, parts=2))
    del less[name]
    assert getattr(decode_frame(of(less)), name) == Frame._field_defaults[name]


@pytest.mark.parametrize("name", [name for name in Frame._fields if name not in Frame._field_defaults])
def test_a_frame_without_one_of_its_fields_is_damaged(frame: Frame, name: str) -> None:
    less = fields(frame)
    del less[name]
    with pytest.raises(CorruptStateError):
        decode_frame(of(less))


@pytest.mark.parametrize("value", [None, True, -2, 2**63, 2**64 - 1, 0.5, b"1", "1", [1], {"a": 1}])
@pytest.mark.parametrize("name", Frame._fields)
def test_a_field_of_another_type_or_range_is_damage(frame: Frame, name: str, value: object) -> None:
    fits = {"kind": str, "run": str, "run_id": str, "time": float}.get(name)
    if fits is not None and type(value) is fits:
        return
    with pytest.raises(CorruptStateError):
        decode_frame(of({**fields(frame), name: value}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": -1},
        {"rank": 2**31},
        {"left_out": 8},
        {"left_out": -1},
        {"first": 2},
        {"first": -1},
        {"upto_seq": 6},
    ],
    ids=str,
)
def test_numbers_that_contradict_each_other_are_damage(frame: Frame, wrong: dict[str, int]) -> None:
    with pytest.raises(CorruptStateError):
        decode_frame(of({**fields(frame), **wrong}))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", b"\x80", msgpack.packb([1]), msgpack.packb("text")])
def test_a_body_that_is_no_map_is_damage(body: bytes) -> None:
    with pytest.raises(CorruptStateError):
        decode_frame(resealed(body))


def test_a_frame_that_asks_for_very_much_memory_is_refused(frame: Frame) -> None:
    column = [1, "<f8", 2**40, bytes(8)]
    ints = [1, "<i8", 2**40, (1).to_bytes(8, "little")]
    batch = msgpack.packb({"keys": [["a", True]], "scalars": [[ints, column, ints, column, ints, ints]], "events": []})
    with pytest.raises(LimitExceededError):
        decode_frame(of({**fields(frame), "batch": batch}))


@pytest.mark.parametrize("count", [3000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_mutants_with_a_right_checksum_raise_nothing_but_state_errors(frame: Frame, seed: int, count: int) -> None:
    draw = random.Random(seed)
    plain = fields(frame._replace(batch=frame.batch._replace(keys=[("a", True), ("b", False)])))
    whole = {True: 0, False: 0}
    for _ in range(count):
        mutant = dict(plain)
        with suppress(ValueError, TypeError):
            if draw.random() < 0.6:
                mutant["batch"] = changed(plain["batch"], draw)
            else:
                mutant = msgpack.unpackb(changed(msgpack.packb(plain), draw), strict_map_key=False)
        try:
            decoded = decode_frame(resealed(msgpack.packb(mutant)))
            list(events_of(decoded.batch))
        except StateError:
            whole[False] += 1
        else:
            whole[True] += 1
            assert decode_frame(encode_frame(decoded)).number == decoded.number
    assert min(whole.values()) > count // 20, "the test shows something"
