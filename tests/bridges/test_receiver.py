"""Frames published in a hub: once each, in order, also where they come twice, late, with gaps, or a run goes back."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asynchub.bridges.bridge import Bridge
from asynchub.bridges.frames import END, SNAPSHOT, Frame, decode_frame, encode_frame
from asynchub.bridges.packing import Packer
from asynchub.bridges.receiver import Receiver
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.thinning import emptied, thinned
from asynchub.bridges.transport import Stored
from asynchub.bridging import FrameRefused, RankLeft
from asynchub.events import Event, EventsDropped, InfoUpdated, Rewound, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import RequestApplied
from tests.bridges.made_frames import Rank
from tests.bridges.places import Place, bridged, history


class Follower:
    """A hub, and what publishes the frames of one rank in it."""

    def __init__(self, *, rank: int = 0, whole: bool = True, prefix: str = "") -> None:
        self.hub = MessageHub("there")
        self.receiver = Receiver(self.hub, "run", rank, prefix.__add__, steps=not prefix, whole=whole)
        self._events = self.hub.subscribe()

    def take(self, *frames: Frame) -> None:
        for frame in frames:
            self.receiver.take(Stored(f"ah.run.ev.{frame.rank}.{frame.epoch}", encode_frame(frame), 1, 0.0))

    def events(self, *kinds: type[Event]) -> list[Any]:
        """Return the events that came since the last call."""
        found = [event for batch in iter(self._events._take, []) for event in batch]
        return [event for event in found if isinstance(event, kinds or Event)]

    def values(self, key: str = "loss") -> list[float]:
        return [] if key not in self.hub.log_scalars else self.hub.get_scalar(key).records().values.tolist()


def losses(first: int, *values: float, key: str = "loss") -> list[Event]:
    return [
        ScalarUpdated(seq=first + at, time=1.0, step=first + at, key=key, value=one) for at, one in enumerate(values)
    ]


def info(seq: int, key: str, value: object) -> Event:
    return InfoUpdated(seq=seq, time=1.0, key=key, value=value)


def resumed(before: Rank, after_seq: int, base: Sequence[Event] = (), *, run_id: str | None = None) -> Rank:
    """Return the next life of a rank, with the frame that it begins with."""
    rank = Rank(before.epoch + 1)
    frame = rank.base()._replace(after_seq=after_seq, upto_seq=after_seq, batch=Packer("test").pack(base))
    rank.frames[0] = frame if run_id is None else frame._replace(run_id=run_id)
    rank._seq = after_seq
    return rank


# --- once, and in order


def test_each_frame_counts_once_however_often_it_comes() -> None:
    rank, follower = Rank(), Follower()
    rank.base()
    rank.frame(losses(1, 1.0, 2.0))
    rank.frame(losses(3, 3.0))
    follower.take(*rank.frames, *rank.frames, rank.frames[1], *reversed(rank.frames))
    assert follower.values() == [1.0, 2.0, 3.0]
    assert (follower.receiver.frames, follower.receiver.missed) == (3, 0)
    assert follower.events(EventsDropped, Rewound, FrameRefused) == []


def test_a_gap_is_said_in_its_place_with_how_many_events_it_is() -> None:
    rank, follower = Rank(), Follower()
    rank.base()
    first, _, _, last = rank.frame(losses(1, 1.0)), rank.scalars(5), rank.scalars(7), rank.frame(losses(14, 2.0))
    follower.take(rank.frames[0], first, last)
    one, gap, two = follower.events()
    assert (one.value, gap.missed, two.value) == (1.0, 12, 2.0)
    assert follower.receiver.missed == 12


def test_a_gap_at_the_very_beginning_is_one_only_for_who_wants_everything() -> None:
    rank = Rank()
    rank.base()
    rank.scalars(4)
    last = rank.frame(losses(5, 1.0))
    for whole, missed in ((True, 4), (False, 0)):
        follower = Follower(whole=whole)
        follower.take(last)
        assert (follower.receiver.missed, follower.values()) == (missed, [1.0])


@pytest.mark.parametrize("infos", [False, True])
def test_of_thinned_frames_every_event_comes_or_is_counted(infos: bool) -> None:
    rank, follower = Rank(), Follower()
    rank.base()
    for _ in range(5):
        rank.scalars(40)
        rank.infos(3, 10)
    few = thinned(rank.frames, infos=infos)
    follower.take(*few)
    came = len(follower.events(ScalarUpdated, InfoUpdated))
    assert 0 < came < 215
    assert came + follower.receiver.missed == 215


def test_of_a_thinned_frame_whose_beginning_had_come_only_the_rest_is_taken() -> None:
    rank, follower = Rank(), Follower()
    rank.base()
    for _ in range(4):
        rank.scalars(30)
    follower.take(*rank.frames[:3])
    (merged,) = thinned(rank.frames[1:])
    follower.take(merged)
    came = follower.events(ScalarUpdated)
    assert [event.seq for event in came] == sorted({event.seq for event in came})
    assert len(came) + follower.receiver.missed == 120
    assert len({(event.time, event.key) for event in came}) == len(came)


def test_what_is_left_of_emptied_frames_says_how_many_events_there_were() -> None:
    rank, follower = Rank(), Follower()
    rank.base()
    rank.scalars(30)
    rank.scalars(12)
    follower.take(*emptied(rank.frames), rank.frame(losses(43, 1.0)))
    gap, one = follower.events()
    assert (gap.missed, one.value) == (42, 1.0)


def test_what_a_bridge_itself_has_missed_counts_as_missed() -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame([EventsDropped(seq=9, time=1.0, missed=9), *losses(10, 1.0)]))
    assert (follower.receiver.missed, follower.values()) == (9, [1.0])


def test_a_rank_that_has_left_is_said_to_have() -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame(losses(1, 1.0)))
    assert not follower.receiver.ended
    follower.take(rank.frame(kind=END))
    assert follower.receiver.ended
    assert [event.rank for event in follower.events(RankLeft)] == [0]
    follower.take(resumed(rank, 1).frames[0])
    assert not follower.receiver.ended


def test_the_step_is_that_of_the_rank() -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame(losses(1, 1.0))._replace(step=70))
    assert follower.hub.step == 70


# --- runs that go on, or back


def test_a_restart_that_goes_on_adds_to_what_there_is() -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame(losses(1, 1.0, 2.0)))
    again = resumed(rank, 2)
    follower.take(again.frames[0], again.frame(losses(3, 3.0)))
    assert follower.values() == [1.0, 2.0, 3.0]
    assert follower.events(Rewound, EventsDropped) == []


def test_a_restart_from_an_earlier_state_takes_back_what_came_after_it() -> None:
    rank, follower = Rank(), Follower()
    follower.hub.update_info("own", 1)
    follower.take(rank.base(), rank.frame(losses(1, 1.0, 2.0)), rank.frame(losses(3, 3.0, 4.0)))
    again = resumed(rank, 3)
    follower.take(again.frames[0], again.frame(losses(4, 4.5)))
    assert follower.values() == [1.0, 2.0, 3.0, 4.5]
    (rewound,) = follower.events(Rewound)
    assert rewound.to_seq == 4  # of this hub: the third loss
    assert follower.hub.get_scalar("loss").records().seqs.tolist() == [2, 3, 4, 7]


def test_a_run_that_begins_anew_under_the_same_name_takes_back_everything() -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame([*losses(1, 1.0, 2.0), info(3, "cfg", 1)]))
    again = resumed(rank, 0, run_id="1" * 32)
    follower.take(again.frames[0], again.frame(losses(1, 9.0))._replace(run_id="1" * 32))
    assert follower.values() == [9.0]
    assert follower.hub.runtime_info == {}


def test_a_rewound_within_an_epoch_takes_back_what_it_says_each_time() -> None:
    rank, follower = Rank(), Follower()
    follower.take(
        rank.base(),
        rank.frame([*losses(1, 1.0, 2.0, 3.0), Rewound(seq=4, time=1.0, to_seq=2), *losses(5, 5.0)]),
        rank.frame([*losses(6, 6.0), Rewound(seq=7, time=1.0, to_seq=2), *losses(8, 8.0)]),
    )
    assert follower.values() == [1.0, 2.0, 8.0]
    assert [event.to_seq for event in follower.events(Rewound)] == [2, 2]


def test_going_back_twice_goes_by_what_counted() -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame(losses(1, 1.0, 2.0, 3.0)))
    second = resumed(rank, 2)
    follower.take(second.frames[0], second.frame(losses(3, 3.5, 4.5)))
    third = resumed(second, 3)
    follower.take(third.frames[0], third.frame(losses(4, 4.7)))
    assert follower.values() == [1.0, 2.0, 3.5, 4.7]


def test_keys_of_other_ranks_are_not_touched_when_one_goes_back() -> None:
    rank, follower = Rank(), Follower(prefix="ranks/1/", rank=0)
    follower.hub.update_scalar("loss", 7.0)
    follower.take(rank.base(), rank.frame(losses(1, 1.0)))
    follower.hub.update_scalar("loss", 8.0)
    follower.take(resumed(rank, 0).frames[0])
    assert (follower.values(), follower.values("ranks/1/loss")) == ([7.0, 8.0], [])


def test_infos_are_as_they_were_when_the_epoch_began() -> None:
    rank, follower = Rank(), Follower()
    follower.hub.update_info("own", 0)
    follower.take(rank.base(), rank.frame([info(1, "kept", 1), info(2, "gone", 2), info(3, "changed", 3)]))
    again = resumed(rank, 1, [info(1, "kept", 1), info(1, "changed", 0)])
    follower.take(again.frames[0])
    assert follower.hub.runtime_info == {"own": 0, "kept": 1, "changed": 0}


def test_a_base_in_parts_counts_when_it_is_whole() -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame([info(1, "a", 1), info(2, "b", 2), info(3, "gone", 3)]))
    follower.events()
    again = Rank(2)
    parts = [
        again.base()._replace(after_seq=2, upto_seq=2, batch=Packer("test").pack(some), part=part, parts=2)
        for part, some in enumerate([[info(1, "a", 1)], [info(2, "b", 2)]])
    ]
    follower.take(parts[0])
    assert set(follower.hub.runtime_info) == {"a", "b", "gone"}
    follower.take(parts[1])
    assert follower.hub.runtime_info == {"a": 1, "b": 2}
    assert [type(event).__name__ for event in follower.events()] == [
        "Rewound",
        "InfoRemoved",
        "InfoUpdated",
        "InfoUpdated",
    ]


def test_a_base_gives_the_values_that_are_not_known_here() -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame(losses(1, 1.0)))
    again = resumed(rank, 2, [*losses(1, 1.0), *losses(2, 2.0, key="accuracy")])
    follower.take(again.frames[0])
    assert (follower.values(), follower.values("accuracy")) == ([1.0], [2.0])


def test_who_came_late_is_given_the_base_for_what_was_taken_back() -> None:
    rank, follower = Rank(), Follower(whole=False)
    rank.base()
    last = rank.frame(losses(1, 1.0, 2.0, 3.0))
    snapshot = last._replace(kind=SNAPSHOT, position=1, batch=Packer("test").pack(losses(3, 3.0)))
    follower.receiver.begin_with([snapshot])
    again = resumed(rank, 2, losses(2, 2.0))
    follower.take(again.frames[0], again.frame(losses(3, 3.5)))
    assert follower.values() == [2.0, 3.5]


def test_a_snapshot_in_parts_can_be_gone_back_behind() -> None:
    rank, follower = Rank(), Follower(whole=False)
    rank.base()
    last = rank.frame(losses(1, 1.0, 2.0, 3.0))
    parts = [
        last._replace(kind=SNAPSHOT, position=1, batch=Packer("test").pack(some), part=part, parts=2)
        for part, some in enumerate([losses(3, 3.0, key="c"), [*losses(1, 1.0, key="a"), *losses(2, 2.0, key="b")]])
    ]
    follower.receiver.begin_with(parts)
    assert follower.values("c") == [3.0]
    follower.take(last)
    assert follower.values() == []
    again = resumed(rank, 2)
    follower.take(again.frames[0])
    assert [follower.values(key) for key in "abc"] == [[1.0], [2.0], []]


# --- late ones


def test_late_frames_of_an_earlier_epoch_give_what_still_counts() -> None:
    rank, follower = Rank(), Follower()
    rank.base()
    one, two, three = rank.frame(losses(1, 1.0)), rank.frame(losses(2, 2.0)), rank.frame(losses(3, 3.0, 4.0))
    follower.take(rank.frames[0], one)
    again = resumed(rank, 3)
    follower.take(again.frames[0], again.frame(losses(4, 4.5)))
    follower.take(two, three, two, three)
    assert sorted(follower.values()) == [1.0, 2.0, 3.0, 4.5]
    assert follower.receiver.frame is not None
    assert follower.receiver.frame.epoch == again.epoch


# --- bad ones


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "CorruptStateError"),
        (lambda data: data[: len(data) // 2], "CorruptStateError"),
        (lambda data: b"", "CorruptStateError"),
        (lambda data: b"\x00" * len(data), "CorruptStateError"),
        (lambda data: bytes([*data[:40], data[40] ^ 1, *data[41:]]), "checksum"),
        (lambda data: data[:3] + b"\x02" + data[4:], "version 2"),
    ],
    ids=["cut", "halved", "empty", "zeros", "flipped", "newer"],
)
def test_what_is_no_frame_is_left_out_and_said_and_the_rest_is_read(damage: Any, said: str) -> None:
    rank, follower = Rank(), Follower()
    first, bad, last = rank.base(), rank.frame(losses(1, 1.0)), rank.frame(losses(2, 2.0))
    follower.take(first)
    follower.receiver.take(Stored("ah.run.ev.0.1", damage(encode_frame(bad)), 2, 0.0))
    follower.take(last)
    refused, gap, loss = follower.events()
    assert isinstance(refused, FrameRefused)
    assert (refused.source, gap.missed, loss.value) == ("ah.run.ev.0.1", 1, 2.0)
    assert said in refused.error


@pytest.mark.parametrize("change", [{"run": "another"}, {"rank": 1}])
def test_a_frame_of_another_run_or_rank_is_refused(change: dict[str, Any]) -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame(losses(1, 1.0))._replace(**change))
    (refused,) = follower.events(FrameRefused)
    assert "wanted 0 of 'run'" in refused.error
    assert follower.values() == []


def test_an_event_that_cannot_be_read_refuses_its_frame_and_changes_nothing() -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame(losses(1, 1.0)))
    bad = rank.frame([*losses(2, 2.0), info(3, "a", 1)])
    batch = bad.batch._replace(events=[(3, b"\xc1")])
    follower.take(bad._replace(batch=batch), rank.frame(losses(4, 4.0)))
    assert follower.values() == [1.0, 4.0]
    assert follower.receiver.missed == 2


@pytest.mark.parametrize(
    "event",
    [
        Rewound(seq=2, time=1.0, to_seq="x"),  # type: ignore[arg-type]
        EventsDropped(seq=2, time=1.0, missed=[]),  # type: ignore[arg-type]
        RequestApplied(seq=2, time=1.0, request=5, request_seq=None),  # type: ignore[arg-type]
    ],
)
def test_fields_of_a_wrong_kind_break_nothing(event: Event) -> None:
    rank, follower = Rank(), Follower()
    follower.take(rank.base(), rank.frame([*losses(1, 1.0), event]), rank.frame(losses(3, 3.0)))
    assert follower.values()[-1:] == [3.0]


# --- a model run


class World:
    """A rank whose process is started, left, killed and resumed, and who follows it.

    Attributes:
        hub: of the process that runs now.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.place = Place()
        self.draw = random.Random(seed)
        self._root = folder
        self._lives = 0
        self.folder = None if seed % 4 == 2 else folder / "0"  # of the spool, which else is in memory
        self.states: list[tuple[dict[str, Any] | None, dict[str, Any]]] = []  # with the mark of each, if journaled
        self.count = 0
        self.live = [Receiver(MessageHub("live"), self.place.run, 0, str, steps=True, whole=True)]
        self._read = 0
        self._journals = 0
        self.journaled = bool(seed % 2)
        self._start(MessageHub("run"))

    def _start(self, hub: MessageHub) -> None:
        if self.draw.random() < 0.5:
            self.publish(hub)
        self.hub = hub
        journal_first = self.draw.random() < 0.5
        if self.journaled and journal_first:
            hub.attach(Journal(self.run / "journal"))
        self.bridge: Bridge = bridged(self.place, self.folder, hub=hub, interval=0.001, drain_timeout=0.0)
        if self.draw.random() < 0.5:
            self.publish(hub)
        if self.journaled and not journal_first:
            hub.attach(Journal(self.run / "journal"))
        hub.__enter__()

    @property
    def run(self) -> Path:
        """The folder of the journal."""
        return self._root / f"run {self._journals}"

    def publish(self, hub: MessageHub | None = None) -> None:
        hub = hub or self.hub
        for _ in range(self.draw.choice((1, 3, 30))):
            self.count += 1
            hub.step = self.count
            key = self.draw.choice("abc")
            if self.draw.random() < 0.2:
                hub.update_info(f"info {key}", self.count)
            elif self.draw.random() < 0.05:
                hub.pop_info(f"info {key}")
            else:
                hub.update_scalar(
                    key, self.draw.choice((self.count, self.count / 2, True)), self.draw.choice((1, 1, 5))
                )

    def save(self) -> None:
        assert self.hub.run_id
        self.states.append((self.hub.mark() if self.journaled else None, self.hub.state_dict()))

    def deliver(self) -> None:
        self.bridge.deliver(20)

    def flush(self) -> None:
        self.hub.flush(20)  # all is in the spool

    def leave_and_enter(self) -> None:
        self.hub.__exit__(None, None, None)
        if self.draw.random() < 0.5:
            self.publish()
        self.hub.__enter__()

    def roll_back(self) -> None:
        """Load an earlier state in the midst of it; if journaled, one of all that the hub has: else it keeps more."""
        if self.states:
            _, state = self.draw.choice(self.states)
            keys = {*self.hub.log_scalars, *self.hub.runtime_info}
            if not self.journaled or keys <= {*state["log_scalars"], *state["runtime_info"]}:
                self.hub.load_state_dict(state)

    def resumed(self) -> MessageHub:
        """Return a hub in one of the states, which may have been saved in a past that does not count."""
        if self.journaled:
            return recover(self.run, mark=self.draw.choice((None, *(mark for mark, _ in self.states))))
        hub = MessageHub("run")
        hub.load_state_dict(self.draw.choice(self.states)[1])
        return hub

    def end(self, *, killed: bool) -> None:
        later = self.folder
        if killed:  # what the broker has not got then, it gets from the spool as it is now, or never
            self.place.cut()
            self._lives += 1
            self.hub.flush(20)
            later = self._root / str(self._lives)
            if self.folder is not None and self.folder.exists():
                shutil.copytree(self.folder, later, copy_function=copied)
        self.hub.__exit__(None, None, None)
        if killed:
            self.folder = later if self.folder is not None else None
            self.place.restore()

    def restart(self) -> None:
        """End the process, well or badly, and begin the next: from a state, or anew."""
        self.end(killed=self.draw.random() < 0.6)
        if self.states and self.draw.random() < 0.8:
            self._start(self.resumed())
        else:
            self.states = []
            self._journals += 1
            self._start(MessageHub("run"))

    def interrupt(self) -> None:
        self.place.cut()
        self.publish()
        self.place.restore()

    def stored(self) -> list[Stored]:
        """Return the frames that the broker has."""
        return [one for one in self.place.stored() if ".ev." in one.subject]

    def follow(self) -> None:
        """Have those who follow take what there is, some of it twice."""
        stored = self.stored()
        again = self.draw.randrange(3) if self.draw.random() < 0.5 else 0
        for one in stored[max(self._read - again, 0) :]:
            self.live[0].take(one)
        self._read = len(stored)

    def check(self) -> None:
        self.deliver()
        self.follow()
        late = Receiver(MessageHub("late"), self.place.run, 0, str, steps=True, whole=True)
        for one in self.stored():
            late.take(one)
        for follower in (*self.live, late):
            hub = follower._hub
            keys = {*hub.log_scalars, *self.hub.log_scalars}
            assert {key: history(hub, key) for key in keys} == {key: history(self.hub, key) for key in keys}
            assert dict(hub.runtime_info) == dict(self.hub.runtime_info)
            assert follower.missed == 0
        self.check_newest()

    def check_newest(self) -> None:
        """See that who comes late has the newest of each key."""
        subjects = Subjects(self.place.run)
        stored = self.place.stored()
        parts = [decode_frame(one.data) for one in stored if one.subject == subjects.snapshot(0, 0)]
        newest = Receiver(MessageHub("newest"), self.place.run, 0, str, steps=True, whole=False)
        newest.begin_with(parts)
        for one in stored:
            if one.position > parts[0].position and ".ev." in one.subject:
                newest.take(one)
        for key in self.hub.log_scalars:
            assert history(newest._hub, key)[-1:] == history(self.hub, key)[-1:], key
        assert dict(newest._hub.runtime_info) == dict(self.hub.runtime_info)


def copied(source: str, target: str) -> None:
    """Copy a file, if it is still there."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def play(folder: Path, seed: int, steps: int) -> None:
    world = World(folder, seed)
    moves = [
        *[world.publish] * 6,
        *[world.save, world.deliver, world.flush] * 2,
        world.leave_and_enter,
        world.roll_back,
        world.restart,
        world.restart,
        world.interrupt,
        world.follow,
        world.check,
    ]
    try:
        for _ in range(steps):
            world.draw.choice(moves)()
        world.publish()
        world.check()
    finally:
        world.end(killed=False)


@pytest.mark.parametrize("seed", range(6))
def test_who_follows_a_run_has_its_histories_whatever_becomes_of_its_processes(tmp_path: Path, seed: int) -> None:
    play(tmp_path, seed, 20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_who_follows_a_run_has_its_histories_for_long(tmp_path: Path, seed: int) -> None:
    play(tmp_path, seed, 60)
