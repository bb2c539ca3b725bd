"""What was published comes back from the files, bit by bit."""

from __future__ import annotations

import logging
import math
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from asynchub import (
    CheckpointRequested,
    Event,
    InfoRemoved,
    InfoUpdated,
    Journal,
    MessageHub,
    ParameterChanged,
    SkipRequested,
    StopRequested,
    recover,
)
from asynchub.errors import DeadlockError
from asynchub.journal.journal import Level
from tests.codec_trees import NAN_WITH_PAYLOAD, ZOO, difference
from tests.journal.force import Listening, assert_same, flush, state, stored

LEVELS: tuple[Level, ...] = ("memory", "process", "disk")
levels = pytest.mark.parametrize("level", LEVELS)
NUMBERS = (
    0.1,
    5e-324,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    NAN_WITH_PAYLOAD,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**64,
    -(2**70),
)
COUNTS = (1, 0, -3, 2**31, 2**63, -(2**80))
KEYS = ("a", "", "train/loss", "ü\0", "\udc80lone\ud800", "k" * 20_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed(Event):
    """A kind of the program's own."""

    key: str = "own/noticed"
    what: Any = None


class Unstorable:
    def __repr__(self) -> str:
        return "<odd \udc80>"


class Nasty:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def publish_everything(hub: MessageHub) -> None:
    for number in NUMBERS:
        hub.update_scalar("number", number)
    for flag in (True, False):
        hub.update_scalar("flag", flag)
    for count in COUNTS:
        hub.update_scalar("count", 2.5, count)
        hub.update_scalar("int", 7, count)
    for step, key in enumerate(KEYS):
        hub.update_scalar(key, 0.5, step=step - 2)
        hub.update_scalars({key: 1, f"{key}+": {"value": 1.5, "count": 4}}, step=2**62)
        hub.update_info(f"info {key}", key)
    hub.update_scalar("private", 1.0, resumed=False)
    hub.update_info("private info", 1, resumed=False)
    hub.update_info("iter", 12)
    hub.update_scalar("at step 12", 1.0)
    for name, value in ZOO.items():
        hub.update_info(name, value)
    hub.pop_info("tuple")
    hub.publish(ParameterChanged(name="lr", group=0, old=0.1, new=0.01))
    hub.publish(Noticed(what={"a": (1, 2)}), step=3)
    hub.request(SkipRequested(step=1))
    hub.request(StopRequested(reason="enough"))
    hub.request(CheckpointRequested())
    hub.apply_requests()
    hub.request(SkipRequested(step=2))
    hub.mark()


@levels
def test_everything_comes_back_exactly(tmp_path: Path, level: Level) -> None:
    hub = MessageHub("hub", latency=0)
    hub.on_request(SkipRequested, lambda request: None)
    listening = Listening(hub)
    journal = Journal(tmp_path / "journal", level=level, interval=0.01)
    hub.attach(journal)
    publish_everything(hub)
    hub.detach(journal)
    found, wanted = stored(tmp_path / "journal"), listening.events()
    for index, event in enumerate(wanted):
        if isinstance(event, Noticed):  # its class is not known to who reads: the common fields are
            assert type(found[index]) is Event
            wanted[index] = Event(seq=event.seq, time=event.time, step=event.step, key=event.key)
    assert_same(found, wanted)
    back = recover(tmp_path)
    assert difference(state(back), state(hub)) == ""
    assert (back.stop_requested, back.stop_reason) == (True, "enough")
    back.on_request(SkipRequested, lambda request: None)
    assert back.apply_requests() == 1  # the one that nobody had applied
    assert "private" not in back.log_scalars
    assert "private info" not in back.runtime_info


@levels
def test_a_journal_that_is_attached_late_has_what_was_recorded_before(tmp_path: Path, level: Level) -> None:
    hub = MessageHub("hub")
    publish_everything(hub)
    journal = Journal(tmp_path / "journal", level=level)
    hub.attach(journal)
    hub.update_scalar("number", 1.5)
    hub.detach(journal)
    assert difference(state(recover(tmp_path)), state(hub)) == ""


def test_what_came_between_two_attachments_is_there_too(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    for n in range(5):
        journal = Journal(tmp_path / "journal")
        hub.attach(journal)
        hub.update_scalars({"a": n, "b": 0.5})
        hub.detach(journal)
        hub.update_scalar("a", 0.1 + n)
        hub.update_info("n", n)
    hub.attach(Journal(tmp_path / "journal"))
    with hub:
        hub.update_scalar("c", 1.0)
    hub.update_scalar("c", 2.0)
    with hub:
        hub.update_scalar("c", 3.0)
    assert difference(state(recover(tmp_path)), state(hub)) == ""


@pytest.mark.parametrize("level", ["process", "disk"])
def test_what_cannot_be_stored_is_kept_as_its_repr_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, level: Level
) -> None:
    hub = MessageHub("hub")
    journal = Journal(tmp_path / "journal", level=level)
    hub.attach(journal)
    deep: list[Any] = []
    for _ in range(63):
        deep = [deep]
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with caplog.at_level(logging.WARNING, "asynchub"):
        for _ in range(3):
            hub.update_info("odd", Unstorable())
            hub.update_info("nasty", [Nasty()])
            hub.update_info("cyclic", cyclic)
            hub.update_info("deep", deep)  # fits alone, and not within an event
        hub.publish(Noticed(what=Unstorable()))
        hub.update_scalar("a", 1.0)
        hub.detach(journal)
    assert len([record for record in caplog.records if "only the repr is kept" in record.message]) == 5
    values = {event.key: event.value for event in stored(tmp_path / "journal") if isinstance(event, InfoUpdated)}
    assert values["odd"] == "<odd \\udc80>"
    assert "cannot be shown" in values["nasty"]
    back = recover(tmp_path)
    assert back.get_scalar("a").data[0].tolist() == [1.0]
    assert dict(back.runtime_info) == {}


def test_an_update_of_several_is_there_whole_or_not_at_all_wherever_the_tail_is_cut(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    journal = Journal(tmp_path / "journal", interval=1000, tail=32768)
    hub.attach(journal)
    for n in range(20):
        hub.update_scalars({"a": n, "b": 0.5, "c": 2**70})
        hub.update_scalars({"a": 0.1, "b": 0.5})
    tail = (tmp_path / "journal" / "tail.mm").read_bytes()
    end = len(tail[: 4096 + 16384].rstrip(b"\0"))
    for at in range(4096, end, 31):
        copy = tmp_path / "copy"
        copy.mkdir(exist_ok=True)
        (copy / "tail.mm").write_bytes(tail[:at] + b"\xff" + tail[at + 1 :])
        seqs = [event.seq for event in stored(copy)]
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) % 5 in (0, 3), "half an update"
    hub.detach(journal)


@levels
def test_threads_that_publish_at_once_lose_nothing(tmp_path: Path, level: Level) -> None:
    hub = MessageHub("hub")
    journal = Journal(tmp_path / "journal", level=level, interval=0.001, tail=8192, segment_size=20_000)
    hub.attach(journal)
    count = 40 if level == "disk" else 3000

    def publish(number: int) -> None:
        for n in range(count):
            hub.update_scalar(f"thread {number}", float(n))
            if n % 10 == 0:
                hub.update_scalars({f"thread {number}/a": n, "shared": number})
            if n % 50 == 0:
                hub.update_info(f"info {number}", "x" * (n * 5))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hub.detach(journal)
    events = stored(tmp_path / "journal")
    assert [event.seq for event in events] == list(range(1, hub.statistics().seq + 1))
    assert difference(state(recover(tmp_path)), state(hub)) == ""


@pytest.fixture
def alarms() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarms")
@levels
def test_signal_handlers_that_publish_anywhere_break_nothing(tmp_path: Path, level: Level) -> None:
    hub = MessageHub("hub")
    journal = Journal(tmp_path / "journal", level=level, interval=0.005, tail=8192)
    hub.attach(journal)
    handled, wanted = 0, 100 if level == "disk" else 400

    def publish(number: int, frame: FrameType | None) -> None:
        nonlocal handled
        handled += 1
        hub.update_scalar("from/handler", handled)
        hub.update_scalars({"from/handlers": handled, "more": 0.5})
        hub.update_info("info", handled)
        if handled < wanted:
            signal.setitimer(signal.ITIMER_REAL, 3e-4)  # at the level `disk` a handler takes longer than that

    signal.signal(signal.SIGALRM, publish)
    signal.setitimer(signal.ITIMER_REAL, 3e-4)
    calls = 0
    while handled < wanted:
        calls += 1
        hub.update_scalar("a", float(calls))
        if calls % 7 == 0:
            hub.update_info("b", "x" * (calls % 3000))
    signal.setitimer(signal.ITIMER_REAL, 0)
    hub.update_scalar("a", 0.0)
    copy = tmp_path / "copy"
    if level != "memory":  # everything is safe already
        shutil.copytree(tmp_path / "journal", copy / "journal")
        assert difference(state(recover(copy)), state(hub)) == ""
    hub.detach(journal)
    assert difference(state(recover(tmp_path)), state(hub)) == ""


def test_a_commit_in_a_signal_handler_waits_or_says_why_not(tmp_path: Path, alarms: None) -> None:
    hub = MessageHub("hub")
    journal = Journal(tmp_path / "journal", interval=0.001)
    hub.attach(journal)
    outcomes = {"committed": 0, "refused": 0}

    def commit(number: int, frame: FrameType | None) -> None:
        try:
            hub.commit(30)
            outcomes["committed"] += 1
        except DeadlockError:
            outcomes["refused"] += 1
        if sum(outcomes.values()) < 40:
            signal.setitimer(signal.ITIMER_REAL, 1e-3)

    signal.signal(signal.SIGALRM, commit)
    signal.setitimer(signal.ITIMER_REAL, 1e-3)
    while sum(outcomes.values()) < 40:
        hub.update_scalar("a", 1.0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    hub.detach(journal)


def test_an_object_that_publishes_when_it_is_stored_is_no_deadlock(tmp_path: Path) -> None:
    class Chatty:
        def __repr__(self) -> str:
            hub.update_scalar("from/repr", 1.0)
            hub.update_info("from/repr/info", 1)
            return "chatty"

    hub = MessageHub("hub")
    for level in LEVELS:
        journal = Journal(tmp_path / level, level=level)
        hub.attach(journal)
        hub.update_info("chatty", Chatty())
        hub.update_scalar("a", 1.0)
        hub.detach(journal)
        assert recover(tmp_path / level).get_scalar("a").data[0].tolist()[-1:] == [1.0]
        infos = {key: value for key, value in hub.runtime_info.items() if key != "chatty"}
        assert difference(state(recover(tmp_path / level)), {**state(hub), "infos": infos}) == ""


def test_tiny_segments_and_tails_hold_the_same(tmp_path: Path, seed: int) -> None:
    hub = MessageHub("hub")
    listening = Listening(hub)
    journal = Journal(tmp_path / "journal", segment_size=1, tail=8192, interval=1000)
    hub.attach(journal)
    draw = random.Random(seed)
    for n in range(1000):
        kind = draw.randrange(20)
        if kind == 0:
            hub.update_info(f"info {n % 5}", "x" * draw.randrange(10_000))
        elif kind == 1:
            hub.update_scalars({f"key {i}": draw.random() for i in range(draw.randrange(1, 300))})
        elif kind == 2:
            hub.update_scalar(f"key {n}" * draw.randrange(1, 900), n)
        elif kind == 3 and n % 3 == 0:
            flush(journal)
        else:
            hub.update_scalar("a", draw.random())
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "journal", copy)
    assert_same(stored(copy), listening.events())
    hub.detach(journal)
    assert_same(stored(tmp_path / "journal"), listening.events())
    assert len(list((tmp_path / "journal").glob("*.ahj"))) > 8


def test_a_removed_info_is_an_event(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    hub.attach(Journal(tmp_path / "journal"))
    with hub:
        hub.update_info("a", 1)
        assert hub.pop_info("a") == 1
    assert [type(event) for event in stored(tmp_path / "journal")] == [InfoUpdated, InfoRemoved]
    assert dict(recover(tmp_path).runtime_info) == {}
