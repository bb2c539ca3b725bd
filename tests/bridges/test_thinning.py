"""Thinned frames hold a few events of each key, as they were, and say exactly how many are missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.batches import Batch
from asynchub.bridges.frames import BASE, END, EVENTS, Frame, decode_frame, encode_frame
from asynchub.bridges.thinning import MAX_BYTES, emptied, thinned
from asynchub.events import Event, InfoRemoved, InfoUpdated, Marked, ScalarUpdated
from asynchub.requests import Decided
from tests.bridges.made_frames import Rank, facts, held

VALUES = st.one_of(
    st.floats(width=16),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0]),
    st.integers(-3, 3),
    st.booleans(),
    st.sampled_from([2**53, 2**53 + 1, 2**63, 2**70, -(2**70)]),
)
SCALARS = st.builds(
    ScalarUpdated,
    key=st.sampled_from(["a", "b", "train/loss"]),
    value=VALUES,
    count=st.sampled_from([1, 1, 1, 32, 2**70]),
    step=st.one_of(st.none(), st.integers(0, 9)),
)
OTHERS = st.one_of(
    st.builds(InfoUpdated, key=st.sampled_from(["a", "lr"]), value=st.integers()),
    st.builds(InfoRemoved, key=st.sampled_from(["a", "lr"])),
    st.just(Decided(author="rule", verdict="stop")),
    st.just(Marked()),
)
FRAMES = st.lists(st.tuples(st.lists(st.one_of(SCALARS, SCALARS, OTHERS), max_size=12), st.integers(0, 2)), min_size=1)


def made(parts: Iterable[tuple[Sequence[Event], int]]) -> Rank:
    """Return a rank that has made frames of these events; so many before each frame's are not in it."""
    rank, seq = Rank(), 0
    for events, left_out in parts:
        seq += left_out
        stamped = [event.stamped(seq + at, 1.7e9 + seq + at, event.step) for at, event in enumerate(events, 1)]
        rank.frame(stamped, left_out=left_out)
        seq = rank.frames[-1].upto_seq
    return rank


def kept(events: Sequence[Event], infos: bool) -> list[Event]:
    """Return what is to be left of events: the model."""
    keep: set[int] = set()
    by_key: dict[str, list[Any]] = {}
    by_info: dict[str, int] = {}
    for event in events:
        if isinstance(event, ScalarUpdated):
            by_key.setdefault(event.key, []).append(event)
        elif infos and isinstance(event, InfoUpdated | InfoRemoved):
            by_info[event.key] = event.seq
        else:
            keep.add(event.seq)
    keep.update(by_info.values())
    for own in by_key.values():
        finite = [event for event in own if math.isinf(event.value) is False and event.value == event.value]
        keep |= {own[0].seq, own[-1].seq}
        if finite:
            keep.add(min(finite, key=lambda event: event.value).seq)
            keep.add(max(finite, key=lambda event: event.value).seq)
        for odd in ("nan", "inf", "-inf"):
            keep.update([event.seq for event in own if str(event.value) == odd][:1])
    return [event for event in events if event.seq in keep]


def check_numbers(less: Sequence[Frame], frames: Sequence[Frame]) -> None:
    """Check that frames stand for what others stood for, without a gap, and that they can be read."""
    assert (less[0].first, less[0].before, less[0].after_seq) == (
        frames[0].first,
        frames[0].before,
        frames[0].after_seq,
    )
    assert (less[-1].number, less[-1].upto_seq, less[-1].time, less[-1].step) == (
        frames[-1].number,
        frames[-1].upto_seq,
        frames[-1].time,
        frames[-1].step,
    )
    for one, other in pairwise(less):
        assert other.first == one.number + 1
        assert other.before == one.before + one.size
        assert other.after_seq == one.upto_seq
    assert sum(frame.size for frame in less) == sum(frame.size for frame in frames)
    for frame in less:
        assert frame.size - frame.left_out == frame.batch.size
        decoded = decode_frame(encode_frame(frame))
        assert decoded._replace(batch=frame.batch) == frame
        assert list(map(facts, held([decoded]))) == list(map(facts, held([frame])))


@given(FRAMES, st.booleans())
@settings(max_examples=100)
def test_what_is_left_is_what_a_simple_model_says(parts: list[tuple[list[Event], int]], infos: bool) -> None:
    rank = made(parts)
    (frame,) = less = thinned(rank.frames, infos=infos)
    assert list(map(facts, held(less))) == list(map(facts, kept(rank.events, infos)))
    check_numbers(less, rank.frames)
    assert frame.number == len(rank.frames)


@given(FRAMES, st.integers(0, 10), st.booleans())
@settings(max_examples=60)
def test_thinning_in_two_steps_leaves_the_same(parts: list[tuple[list[Event], int]], at: int, infos: bool) -> None:
    frames = made(parts).frames
    some = [*thinned(frames[:at], infos=infos), *thinned(frames[at:], infos=infos)]
    again, at_once = thinned(some, infos=infos), thinned(frames, infos=infos)
    assert list(map(facts, held(again))) == list(map(facts, held(at_once)))
    assert [frame._replace(batch=None) for frame in again] == [frame._replace(batch=None) for frame in at_once]


@given(FRAMES)
@settings(max_examples=50)
def test_what_is_emptied_stands_for_all_and_has_nothing(parts: list[tuple[list[Event], int]]) -> None:
    frames = made(parts).frames
    less = emptied(frames)
    check_numbers(less, frames)
    assert [(frame.left_out, frame.batch.size) for frame in less] == [(sum(one.size for one in frames), 0)]


def test_no_frames_are_left_of_none() -> None:
    assert thinned([]) == []
    assert emptied([]) == []


def test_a_key_is_told_from_one_of_the_same_name_that_is_not_resumed() -> None:
    rank = Rank()
    for number in range(20):
        frame = rank.scalars(10, "a")
        if number % 2:
            batch = frame.batch._replace(keys=[(key, False) for key, _ in frame.batch.keys])
            rank.frames[-1] = frame._replace(batch=batch)
    (less,) = thinned(rank.frames)
    assert sorted(less.batch.keys) == [("a", False), ("a", True)]
    assert less.batch.size <= 8


def test_frames_that_are_not_of_events_stay_where_they_are() -> None:
    rank = Rank()
    base = rank.base()
    some = [rank.scalars(50), rank.scalars(50)]
    end = rank.frame(kind=END)
    less = thinned(rank.frames)
    assert less[0] == base
    assert less[-1] == end
    check_numbers(less[1:-1], some)
    assert [frame.kind for frame in less] == [BASE, EVENTS, END]
    assert [frame.kind for frame in emptied(rank.frames)] == [EVENTS, END]
    assert [frame.first for frame in emptied(rank.frames)] == [1, 4]


def test_events_that_were_lost_between_two_frames_are_counted() -> None:
    rank = Rank()
    frames = [rank.scalars(10) for _ in range(5)]
    (less,) = thinned([*frames[:2], *frames[3:]])
    assert (less.first, less.number, less.size) == (1, 5, 50)
    assert less.left_out == 50 - less.batch.size
    (empty,) = emptied([*frames[:2], *frames[3:]])
    assert (empty.first, empty.number, empty.size, empty.left_out) == (1, 5, 50, 50)


def test_frames_of_different_hubs_are_not_merged() -> None:
    rank = Rank()
    frames = [rank.scalars(10), rank.scalars(10)._replace(run_id="1" * 32)]
    assert [frame.run_id for frame in thinned(frames)] == [frame.run_id for frame in frames]


def test_frames_whose_events_are_not_in_order_are_not_merged() -> None:
    rank = Rank()
    first, second = rank.scalars(10), rank.scalars(10)
    assert [one.number for one in thinned([first, second._replace(batch=first.batch)])] == [1, 2]


def test_merged_frames_are_no_longer_than_a_broker_takes() -> None:
    rank = Rank()
    keys = [f"layer/{number}/weight_norm" for number in range(4000)]
    for _ in range(10):
        rank.many(4000, *keys)
        rank.infos(1, 90_000)
    less = thinned(rank.frames)
    assert 1 < len(less) < len(rank.frames)
    assert max(len(encode_frame(frame)) for frame in less) <= MAX_BYTES
    check_numbers(less, rank.frames)
    infos = [event for event in held(less) if isinstance(event, InfoUpdated)]
    assert len(infos) == 10, "each is there, whole"
    assert len([one for one in held(thinned(rank.frames, infos=True)) if isinstance(one, InfoUpdated)]) < 10


def test_very_many_events_are_thinned_a_part_at_a_time() -> None:
    size = 200_000
    rank = Rank()
    frames = [rank.scalars(1) for _ in range(40)]
    columns = frames[0].batch.scalars[0]
    for index, frame in enumerate(frames):
        seqs = np.arange(size // 40, dtype=np.int64) + 1 + index * (size // 40)
        values = np.sin(seqs / 1000.0)
        some = columns._replace(
            seqs=seqs,
            times=seqs / 10,
            steps=seqs,
            values=values,
            counts=np.ones(len(seqs), np.int64),
            whose=np.zeros(len(seqs), np.int64),
        )
        frames[index] = frame._replace(
            size=len(seqs), before=index * len(seqs), after_seq=int(seqs[0]) - 1, upto_seq=int(seqs[-1])
        )._replace(batch=Batch([("a", True)], [some], []))
    (less,) = thinned(iter(frames))
    every = np.sin((np.arange(size) + 1) / 1000.0)
    wanted = sorted({0, size - 1, int(every.argmin()), int(every.argmax())})
    assert [event.seq - 1 for event in held([less])] == wanted
    assert (less.size, less.left_out) == (size, size - len(wanted))


@pytest.mark.parametrize("infos", [False, True])
def test_an_event_that_cannot_be_read_is_kept(infos: bool) -> None:
    rank = Rank()
    frame = rank.infos(3, 10)
    broken = frame._replace(batch=frame.batch._replace(events=[(1, b"\xc1"), *frame.batch.events[1:]]))
    (less,) = thinned([broken], infos=infos)
    assert [seq for seq, _ in less.batch.events] == ([1, 3] if infos else [1, 2, 3])
