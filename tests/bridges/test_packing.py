"""Events packed into frames, and published in another hub: nothing of them changes but their ``seq``."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.batches import Batch, events_of
from asynchub.bridges.arrivals import Arrivals
from asynchub.bridges.cutting import Cutter, Identity
from asynchub.bridges.frames import BASE, Frame, decode_frame, encode_frame
from asynchub.bridges.newest import Newest
from asynchub.bridges.packing import BYTES, LONGEST, Packer
from asynchub.events import Event, InfoRemoved, InfoUpdated, Rewound, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.specimens import every_kind_of_event, stamped
from tests.bridges.made_frames import facts, held
from tests.bridges.places import history

MOST = 2**19
"""Bytes that a frame takes at most."""


def frames_of(events: Sequence[Event], base: Sequence[Event] = (), after_seq: int = 0) -> list[Frame]:
    """Return frames of events, as they come out of a broker."""
    made: list[Frame] = []
    identity = Identity("run", "0" * 32, 0, 1, 7)
    cutter = Cutter(identity, Packer("test"), 1.0, made.append, lambda call: None)
    cutter.begin(after_seq, base, ())
    cutter.give(events)
    cutter.cut()
    return [decode_frame(encode_frame(frame)) for frame in made]


def carried(events: Sequence[Event]) -> list[Event]:
    """Return events as another hub publishes them."""
    hub = MessageHub("there")
    arrivals = Arrivals(hub)
    with hub.subscribe() as subscription:
        for frame in frames_of(events):
            arrivals.add(frame.batch)
        hub.close()
        return [event for batch in iter(subscription._take, []) for event in batch]


def test_every_kind_of_event_comes_as_it_was() -> None:
    sent = [event for event in every_kind_of_event() if not isinstance(getattr(event, "value", None), dict)]
    got = carried(sent)
    known = [one for one in sent if type(one).__module__ != "asynchub.specimens"]
    assert len(got) == len(sent)
    for one, other in zip(sent, got, strict=True):
        assert (other.time, other.step, other.key) == (one.time, one.step, one.key or type(one).__name__)
        if one in known:
            assert facts(other.stamped(one.seq, one.time, one.step)) == facts(one)


def test_an_arrival_has_a_seq_of_the_hub_that_it_comes_to() -> None:
    hub = MessageHub("there")
    hub.update_info("own", 1)
    events = stamped(ScalarUpdated(key="loss", value=float(n), step=n) for n in range(3))
    assert Arrivals(hub).add(Packer("test").pack(events)) == (2, 3)
    assert hub.get_scalar("loss").records().seqs.tolist() == [2, 3, 4]
    assert (hub.step, hub.statistics().seq) == (2, 4)


def test_keys_are_renamed_everywhere() -> None:
    hub = MessageHub("there")
    arrivals = Arrivals(hub, "ranks/3/".__add__, steps=False)
    events = stamped(
        [ScalarUpdated(key="loss", value=1.0, step=9), InfoUpdated(key="a", value=1), InfoUpdated(key="b", value=2)]
    )
    arrivals.add_events([*events, InfoRemoved(seq=4, time=1.0, key="a")])
    assert list(hub.log_scalars) == ["ranks/3/loss"]
    assert hub.runtime_info == {"ranks/3/b": 2}
    assert (hub.step, arrivals.keys) == (0, {"ranks/3/loss"})


def test_a_frame_is_one_change_of_the_hub() -> None:
    hub = MessageHub("there")
    seen: list[set[int]] = []
    events = stamped(
        [ScalarUpdated(key="a", value=1.0), InfoUpdated(key="b", value=1), ScalarUpdated(key="c", value=1.0)]
    )
    with hub.subscribe() as subscription:
        Arrivals(hub).add_events(events)
        seen.append({event.seq for event in subscription._take()})
    assert seen == [{1, 2, 3}]


NUMBERS: Any = st.one_of(
    st.floats(), st.integers(-(2**70), 2**70), st.booleans(), st.sampled_from([-0.0, math.nan, 2**63, -(2**63), 2**64])
)
KEYS = st.text(st.characters(codec=None), min_size=1, max_size=5)
INFOS: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
STEPS = st.none() | st.integers(0, 2**62)
EVENTS = st.one_of(
    st.builds(
        ScalarUpdated, key=KEYS, value=NUMBERS, count=st.one_of(st.integers(-(2**70), 2**70), st.just(1)), step=STEPS
    ),
    st.builds(ScalarUpdated, key=st.sampled_from(["loss", "lr"]), value=st.floats(), step=STEPS),
    st.builds(InfoUpdated, key=KEYS, value=INFOS, step=STEPS),
    st.builds(InfoRemoved, key=KEYS, step=STEPS),
)


@settings(max_examples=150)
@given(st.lists(EVENTS, max_size=30))
def test_whatever_is_published_comes_as_it_was(events: list[Event]) -> None:
    sent = stamped(events)
    assert [facts(event) for event in carried(sent)] == [facts(event) for event in sent]


@settings(max_examples=50)
@given(st.lists(EVENTS, max_size=30))
def test_the_histories_of_the_other_hub_are_those_of_this_one(events: list[Event]) -> None:
    here, there = MessageHub("here"), MessageHub("there")
    Arrivals(here).add_events(stamped(events))
    for frame in frames_of(stamped(events)):
        Arrivals(there).add(frame.batch)
    assert list(there.log_scalars) == list(here.log_scalars)
    for key in here.log_scalars:
        assert repr(history(there, key)) == repr(history(here, key))  # a NaN is like another, and 1 is not like 1.0
    assert repr(dict(there.runtime_info)) == repr(dict(here.runtime_info))


def test_what_cannot_be_stored_comes_as_its_repr_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<odd>"

    got = carried(stamped(InfoUpdated(key="cfg", value=Odd()) for _ in range(3)))
    assert [getattr(event, "value", None) for event in got] == ["<odd>"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "test: of 'cfg' only the repr of value is sent: register its type, or convert it"
    ]


@pytest.mark.parametrize("value", ["x" * (3 * LONGEST), list(range(10**6)), {"deep": [b"y" * (2 * LONGEST)]}])
def test_what_is_too_long_is_cut_short_and_the_rest_comes(value: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sent = stamped([InfoUpdated(key="long", value=value, step=3), ScalarUpdated(key="loss", value=1.0, step=3)])
    long, loss = carried(sent)
    kind = type(value).__name__
    assert isinstance(long, InfoUpdated)
    assert (long.key, long.step) == ("long", 3)
    assert str(long.value).startswith(f"<{kind} of ")
    assert str(long.value).endswith("too long to be sent>")
    assert facts(loss) == facts(sent[1])
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "value",
    ["\ud800 alone", {"\udfff": ["\ud800"]}, 2**5000, float("nan"), [[]] * 1000, {1: 2, (3, 4): {5}}],
    ids=["surrogate", "in a key", "long number", "nan", "many lists", "odd keys"],
)
def test_odd_values_come_as_they_were(value: object) -> None:
    sent = stamped([InfoUpdated(key="odd", value=value)])
    (got,) = carried(sent)
    assert isinstance(got, InfoUpdated)
    assert repr(got.value) == repr(value)


def test_what_is_too_deep_comes_as_its_repr() -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    (got,) = carried(stamped([InfoUpdated(key="deep", value=deep)]))
    assert isinstance(got, InfoUpdated)
    assert str(got.value).startswith("[[[[")


def test_what_is_changed_while_it_is_packed_does_not_break_it() -> None:
    class Unstable(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    (got,) = carried(stamped([InfoUpdated(key="cfg", value={"inner": Unstable(a=1)})]))
    assert isinstance(got, InfoUpdated)


@pytest.mark.parametrize(
    "events",
    [
        [ScalarUpdated(key=f"{n}/" + "k" * 2000, value=1.0) for n in range(2000)],
        [InfoUpdated(key=f"{n}", value=b"x" * 100_000) for n in range(40)],
        [ScalarUpdated(key="big", value=2**10_000) for _ in range(1000)],
        [ScalarUpdated(key="loss", value=float(n)) for n in range(20_000)],
        [
            event
            for n in range(300)
            for event in (InfoUpdated(key=f"{n}", value=b"x" * 5_000), ScalarUpdated(key="n", value=n))
        ],
    ],
    ids=["long keys", "large infos", "large numbers", "many", "mixed"],
)
def test_frames_fit_into_a_message_whatever_is_in_them(events: list[Event]) -> None:
    sent = stamped(events)
    frames = frames_of(sent)
    assert max(len(encode_frame(frame)) for frame in frames) < MOST
    assert [facts(event) for event in held(frames)] == [facts(event) for event in sent]
    own = frames[1:]  # behind the base
    assert [frame.before for frame in own] == [sum(one.size for one in own[:n]) for n in range(len(own))]
    assert sum(frame.size for frame in own) == len(sent)


def test_a_large_base_is_sent_in_parts_that_fit() -> None:
    base = stamped(InfoUpdated(key=f"{n}", value=b"x" * 50_000) for n in range(30))
    frames = frames_of([], base, after_seq=30)
    assert len(frames) > 1
    assert {frame.kind for frame in frames} == {BASE}
    assert [(frame.part, frame.parts, frame.size) for frame in frames] == [
        (part, len(frames), 0) for part in range(len(frames))
    ]
    assert max(len(encode_frame(frame)) for frame in frames) < MOST


# --- the newest of each key


def newest_of(batches: list[Batch]) -> dict[str, Any]:
    newest = Newest()
    for batch in batches:
        newest.add(batch)
    return {event.key: event for part in newest.parts() for event in events_of(part)}


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=40))
def test_the_newest_of_each_key_is_kept_as_it_was(events: list[Event]) -> None:
    sent = stamped(events)
    model: dict[tuple[bool, str], Event] = {}
    for event in sent:
        if isinstance(event, InfoRemoved):
            model.pop((False, event.key), None)
        else:
            model[(isinstance(event, ScalarUpdated), event.key)] = event
    newest = Newest()
    for frame in frames_of(sent):
        newest.add(frame.batch)
    got = [event for part in newest.parts() for event in events_of(part)]
    assert sorted(map(facts, got)) == sorted(map(facts, model.values()))


def test_the_newest_values_follow_a_run_that_goes_back() -> None:
    events = stamped(ScalarUpdated(key=key, value=1.0) for key in ("a", "a", "b"))
    packed = Packer("test").pack([*events, Rewound(seq=4, time=1.0, to_seq=2)])
    assert list(newest_of([packed])) == ["a"]


def test_a_snapshot_is_in_parts_that_fit() -> None:
    newest = Newest()
    for frame in frames_of(stamped(ScalarUpdated(key=f"{n}/" + "k" * 3000, value=1.0) for n in range(1000))):
        newest.add(frame.batch)
    parts = newest.parts()
    assert sum(part.size for part in parts) == 1000
    assert max(sum(3 * len(key) for key, _ in part.keys) for part in parts) <= BYTES
