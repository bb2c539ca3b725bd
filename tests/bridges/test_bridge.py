"""From a run to a broker: what is published comes there once, in order, whatever becomes of broker and process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchub.batches import events_of
from asynchub.bridges.bridge import Bridge
from asynchub.bridges.frames import BASE, END, EVENTS, SNAPSHOT, Frame, decode_frame
from asynchub.bridges.memory import MemoryTransport
from asynchub.bridges.receiver import Receiver
from asynchub.bridging import BridgeDegraded, BridgeRestored, ClocksApart, FrameRefused
from asynchub.errors import ArgumentError, LifecycleError, WaitTimeoutError
from asynchub.events import Event, InfoUpdated, ScalarUpdated, SubscriberFailed
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from tests.bridges.places import WAIT, Place, a_place, bridged, history
from tests.waiting import until

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture(params=["memory", "nats"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with a_place(request.param, tmp_path) as place:
        yield place


def frames(place: Place, rank: int = 0) -> list[Frame]:
    """Return the frames of a rank that the broker has, without snapshots."""
    found = [decode_frame(one.data) for one in place.stored()]
    return [frame for frame in found if frame.rank == rank and frame.kind != SNAPSHOT]


def followed(place: Place, rank: int = 0) -> Receiver:
    """Return who has followed a rank from the beginning; see its ``_hub``."""
    receiver = Receiver(MessageHub("there"), place.run, rank, str, steps=True, whole=True)
    for one in place.stored():
        if f".ev.{rank}." in one.subject:
            receiver.take(one)
    return receiver


def values(place: Place, key: str = "loss") -> list[Any]:
    """Return the values of a scalar, as they are in the broker."""
    return [value for _, _, value, _ in history(followed(place)._hub, key)]


class Kept:
    """Keeps the events of some kinds."""

    def __init__(self, *kinds: type[Event]) -> None:
        self.events: list[Any] = []
        self.keys = kinds

    async def __call__(self, events: Any) -> None:
        async for event in events:
            self.events.append(event)


# --- what comes


def test_what_is_published_comes_once_and_in_order(any_place: Place) -> None:
    bridge = bridged(any_place)
    hub = bridge._hub
    with hub:
        for step in range(1000):
            hub.step = step
            hub.update_scalar("loss", step / 2)
        hub.update_info("cfg", {"lr": 0.1})
        bridge.deliver(WAIT)
        assert values(any_place) == [step / 2 for step in range(1000)]
    receiver = followed(any_place)
    assert (receiver.ended, receiver.missed) == (True, 0)
    assert history(receiver._hub, "loss") == history(hub, "loss")
    assert receiver._hub.runtime_info == {"cfg": {"lr": 0.1}}
    assert [frame.kind for frame in frames(any_place)][:: len(frames(any_place)) - 1] == [BASE, END]
    numbers = [frame.number for frame in frames(any_place)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_what_was_recorded_before_the_bridge_was_attached_comes_too(place: Place) -> None:
    hub = MessageHub("run")
    for value in range(5):
        hub.update_scalar("loss", value)
    hub.update_info("cfg", 1)
    bridge = bridged(place, hub=hub)
    hub.update_scalar("loss", 5)
    with hub:
        hub.update_scalar("loss", 6)
        bridge.deliver(WAIT)
    assert values(place) == list(range(7))
    assert followed(place)._hub.runtime_info == {"cfg": 1}


def test_of_a_bridge_for_some_keys_only_those_come(place: Place) -> None:
    hub = MessageHub("run")
    hub.update_scalar("val/loss", 1.0)
    hub.update_scalar("train/loss", 1.0)
    bridge = Bridge(hub, place.url, "train/*", run=place.run, spool=None, interval=0.01)
    with hub:
        hub.update_scalar("train/loss", 2.0)
        hub.update_scalar("val/loss", 2.0)
        bridge.deliver(WAIT)
    receiver = followed(place)
    assert list(receiver._hub.log_scalars) == ["train/loss"]
    assert (values(place, "train/loss"), receiver.missed) == ([1.0, 2.0], 0)


def test_three_threads_publish_and_each_value_comes_once(place: Place) -> None:
    bridge = bridged(place, interval=0.0)
    hub = bridge._hub

    def publish(key: str) -> None:
        for value in range(3000):
            hub.update_scalar(key, value)

    threads = [threading.Thread(target=publish, args=(key,)) for key in "abc"]
    with hub:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bridge.deliver(WAIT)
    for key in "abc":
        assert values(place, key) == list(range(3000))
    assert followed(place).missed == 0


def test_classes_of_the_program_come_by_the_hubs_registry(place: Place) -> None:
    class Shape:
        def __init__(self, sides: int) -> None:
            self.sides = sides

    bridge = bridged(place)
    hub = bridge._hub
    hub.registry.register(Shape, name="shape", encode=lambda shape: shape.sides, decode=lambda sides, _: Shape(sides))
    with hub:
        hub.update_info("shape", Shape(3))
        bridge.deliver(WAIT)
    (event,) = [one for frame in frames(place) for one in events_of(frame.batch, registry=hub.registry)]
    assert isinstance(event, InfoUpdated)
    assert event.value.sides == 3


def test_two_bridges_of_one_hub_bring_it_to_two_runs(place: Place) -> None:
    hub = MessageHub("run")
    other = Place()
    one, two = bridged(place, hub=hub, name="one"), bridged(other, hub=hub, name="two")
    with hub:
        hub.update_scalar("loss", 1.0)
        one.deliver(WAIT)
        two.deliver(WAIT)
    assert values(place) == values(other) == [1.0]


def test_two_bridges_of_one_name_are_refused_without_a_trace(place: Place) -> None:
    hub = MessageHub("run")
    bridged(place, hub=hub)
    with pytest.raises(ArgumentError, match="attached already"):
        bridged(place, hub=hub)
    assert [one.name for one in hub._attachments] == ["bridge"]


def test_what_is_published_amid_leaving_comes_or_stays_out_whole(place: Place) -> None:
    bridge = bridged(place)
    hub = bridge._hub
    ended = threading.Event()

    def publish() -> None:
        value = 0
        while not ended.is_set():
            hub.update_scalar("loss", value)
            value += 1

    thread = threading.Thread(target=publish)
    with hub:
        thread.start()
        until(lambda: "loss" in hub.log_scalars)
    ended.set()
    thread.join()
    got = values(place)
    assert got == list(range(len(got)))


def test_an_exception_in_the_body_leaves_as_it_came_and_what_was_published_is_there(place: Place) -> None:
    bridge = bridged(place)
    bridge._hub.update_scalar("loss", 1.0)
    with pytest.raises(ZeroDivisionError), bridge._hub:
        raise ZeroDivisionError
    assert values(place) == [1.0]


def test_requests_and_what_becomes_of_them_do_not_wait_for_the_interval(place: Place) -> None:
    bridge = bridged(place, interval=60.0)
    with bridge._hub as hub:
        hub.request_stop("enough")
        hub.settle()
        until(lambda: any(frame.batch.events for frame in frames(place)))


# --- hubs that are entered again, and runs that go on


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_hub_that_is_entered_again_goes_on_without_a_repeat(place: Place, tmp_path: Path, on_disk: bool) -> None:
    bridge = bridged(place, tmp_path if on_disk else None)
    hub = bridge._hub
    for round_ in range(3):
        with hub:
            hub.update_scalar("loss", round_)
        hub.update_scalar("loss", round_ + 0.5)
    with hub:
        bridge.deliver(WAIT)
    sent = [event for frame in frames(place) if frame.kind == EVENTS for event in events_of(frame.batch)]
    assert [event.value for event in sent if isinstance(event, ScalarUpdated)] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert values(place) == [0, 0.5, 1, 1.5, 2, 2.5]
    epochs = [frame.epoch for frame in frames(place)]
    assert len(set(epochs)) == 4
    assert epochs == sorted(epochs)


def test_epochs_grow_also_if_the_clock_is_set_back(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = bridged(place, tmp_path)
    with bridge._hub as hub:
        hub.update_scalar("loss", 1.0)
        bridge.deliver(WAIT)
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    again = bridged(place, tmp_path)
    with again._hub as hub:
        hub.update_scalar("loss", 2.0)
        again.deliver(WAIT)
    assert values(place) == [2.0]


@pytest.mark.parametrize("attach_first", [False, True])
def test_a_resumed_run_takes_back_what_came_after_its_state(place: Place, tmp_path: Path, attach_first: bool) -> None:
    bridge = bridged(place, tmp_path / "spool")
    with bridge._hub as hub:
        for value in range(5):
            hub.update_scalar("loss", value)
        hub.save(tmp_path / "state")
        hub.update_scalar("loss", 5)
        hub.update_info("late", 1)
    assert values(place) == [0, 1, 2, 3, 4, 5]
    resumed = MessageHub("run")
    if attach_first:
        again = bridged(place, tmp_path / "spool", hub=resumed)
        resumed.load(tmp_path / "state")
    else:
        resumed.load(tmp_path / "state")
        again = bridged(place, tmp_path / "spool", hub=resumed)
    with resumed:
        resumed.update_scalar("loss", 5.5)
        again.deliver(WAIT)
    assert values(place) == [0, 1, 2, 3, 4, 5.5]
    assert followed(place)._hub.runtime_info == {}


@pytest.mark.parametrize("journal", ["none", "first", "last"])
def test_a_state_that_is_loaded_while_the_hub_is_entered_counts(place: Place, tmp_path: Path, journal: str) -> None:
    hub = MessageHub("run")
    if journal == "first":
        hub.attach(Journal(tmp_path / "run" / "journal"))
    bridge = bridged(place, tmp_path, hub=hub)
    if journal == "last":
        hub.attach(Journal(tmp_path / "run" / "journal"))
    with hub:
        hub.update_scalar("loss", 1.0)
        state = hub.state_dict()
        hub.update_scalar("loss", 2.0)
        bridge.deliver(WAIT)
        hub.load_state_dict(state)
        hub.update_scalar("loss", 3.0)
        bridge.deliver(WAIT)
    assert values(place) == [1.0, 3.0]
    if journal != "none":
        assert recover(tmp_path / "run").get_scalar("loss").data[0].tolist() == [1.0, 3.0]


@pytest.mark.parametrize("mark", [False, True])
def test_a_recovered_run_goes_on_where_its_journal_says(place: Place, tmp_path: Path, mark: bool) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "journal"))
    bridged(place, tmp_path / "spool", hub=hub)
    with hub:
        hub.update_scalar("loss", 1.0)
        hub.update_info("cfg", 1)
        marked = hub.mark()
        hub.update_scalar("loss", 2.0)
    again = recover(tmp_path, mark=marked if mark else None)
    again.attach(Journal(tmp_path / "journal"))
    bridge = bridged(place, tmp_path / "spool", hub=again)
    with again:
        again.update_scalar("loss", 3.0)
        bridge.deliver(WAIT)
    assert values(place) == ([1.0, 3.0] if mark else [1.0, 2.0, 3.0])
    assert followed(place)._hub.runtime_info == {"cfg": 1}


@pytest.mark.parametrize("bridge_first", [False, True])
def test_a_run_without_a_spool_left_sends_again_what_it_has_recorded(
    place: Place, tmp_path: Path, bridge_first: bool
) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "journal"))
    bridged(place, tmp_path / "one", hub=hub)
    with hub:
        for value in range(5):
            hub.update_scalar("loss", value)
    again = recover(tmp_path)
    if bridge_first:
        bridge = bridged(place, tmp_path / "two", hub=again)
    again.attach(Journal(tmp_path / "journal"))
    if not bridge_first:
        bridge = bridged(place, tmp_path / "two", hub=again)
    with again:
        again.update_scalar("loss", 5)
        bridge.deliver(WAIT)
    assert values(place) == list(range(6))


def test_a_bridge_whose_thread_dies_begins_anew_and_loses_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynchub.bridges.bridge.LOOK", 0.02)
    bridge = bridged(place, tmp_path)
    failed = Kept(SubscriberFailed)
    bridge._hub.attach(failed)
    with bridge._hub as hub:
        for value in range(3):
            hub.update_info("cfg", value)
            bridge.deliver(WAIT)
            bridge._life._thread.cancel()  # type: ignore[union-attr]  # as a defect in it would
            hub.update_info("cfg", value + 0.5)
            failures = value + 1
            until(lambda: len(failed.events) >= failures)  # noqa: B023
        bridge.deliver(WAIT)
    sent = [event for frame in frames(place) if frame.kind == EVENTS for event in events_of(frame.batch)]
    assert [event.value for event in sent if isinstance(event, InfoUpdated)] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert "the bridge has ended" in failed.events[0].error


# --- a broker that is not there


def test_a_broker_that_is_absent_at_first_gets_everything(any_place: Place) -> None:
    any_place.cut()
    bridge = bridged(any_place)
    begun = time.monotonic()
    with bridge._hub as hub:
        entered = time.monotonic() - begun
        for value in range(100):
            hub.update_scalar("loss", value)
        hub.flush(WAIT)
        with pytest.raises(WaitTimeoutError, match="has not taken"):
            bridge.deliver(0.05)
        assert not bridge.statistics().connected
        any_place.restore()
        bridge.deliver(WAIT)
        assert bridge.statistics().connected
    assert entered < 1.0
    assert values(any_place) == list(range(100))


def test_a_broker_that_is_absent_for_good_holds_nobody_up_and_the_next_process_delivers(
    place: Place, tmp_path: Path
) -> None:
    place.cut()
    bridge = bridged(place, tmp_path, drain_timeout=30.0)
    hub = bridge._hub
    hub.run_id  # noqa: B018  # it is made when it is first asked for
    with hub:
        for value in range(10):
            hub.update_scalar("loss", value)
        hub.flush(WAIT)
        left = time.monotonic()
    assert time.monotonic() - left < 4.0
    assert bridge.statistics().waiting > 0
    place.restore()
    other = bridged(place, tmp_path)
    with other._hub:
        other.deliver(WAIT)
    first, *_ = {frame.epoch: None for frame in frames(place)}
    sent = [one for frame in frames(place) if frame.epoch == first for one in events_of(frame.batch)]
    assert [one.value for one in sent if isinstance(one, ScalarUpdated)] == list(range(10))


def test_a_broker_that_goes_and_comes_loses_and_repeats_nothing(any_place: Place) -> None:
    bridge = bridged(any_place, interval=0.0)
    with bridge._hub as hub:
        for round_ in range(3):
            for value in range(100):
                hub.update_scalar("loss", 100 * round_ + value)
            if round_ == 1:
                bridge.deliver(WAIT)
            any_place.cut()
            for value in range(100):
                hub.update_scalar("acc", 100 * round_ + value)
            any_place.restore()
        bridge.deliver(WAIT)
    assert values(any_place) == values(any_place, "acc") == list(range(300))
    numbers = [frame.number for frame in frames(any_place)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_loss_that_lasts_is_said_once_and_so_is_its_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.bridges.signs.GRACE", 0.1)
    kept = Kept(BridgeDegraded, BridgeRestored)
    bridge = bridged(place)
    hub = bridge._hub
    hub.attach(kept, BridgeDegraded, BridgeRestored)
    with hub:
        hub.update_scalar("loss", 1.0)
        bridge.deliver(WAIT)
        place.cut()
        until(lambda: kept.events)
        hub.update_scalar("loss", 2.0)
        place.restore()
        bridge.deliver(WAIT)
        until(lambda: len(kept.events) == 2)
    degraded, restored = kept.events
    assert (degraded.bridge, degraded.error.split(":")[0]) == ("bridge", "BridgeError")
    assert restored.bridge == "bridge"
    assert restored.seconds >= 0.1
    assert bridge.statistics().error == ""


def test_a_short_loss_is_not_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.bridges.signs.GRACE", 0.3)
    kept = Kept()
    bridge = bridged(place, interval=0.0)
    hub = bridge._hub
    hub.attach(kept, BridgeDegraded, BridgeRestored)
    with hub:
        for _ in range(10):  # together longer than that
            place.cut()
            place.restore()
            hub.update_scalar("loss", 1.0)
            bridge.deliver(WAIT)
    assert kept.events == []


def test_leaving_waits_no_longer_than_the_hub_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: MemoryTransport, *args: Any, **terms: Any) -> int:
        await anyio.sleep_forever()
        return 0

    hub = MessageHub("run", drain_timeout=0.3)
    bridge = bridged(place, hub=hub, drain_timeout=60.0)
    with hub:
        bridge.deliver(WAIT)
        hub.update_scalar("loss", 1.0)
        monkeypatch.setattr(MemoryTransport, "append", never)  # a broker that is there, and does not answer
        begun = time.monotonic()
    assert time.monotonic() - begun < 6.0


def test_a_frame_that_is_too_large_for_the_broker_is_counted_and_the_rest_comes(place: Place) -> None:
    place.memory.max_bytes = 4000
    bridge = bridged(place)
    with bridge._hub as hub:
        hub.update_scalar("loss", 1.0)
        bridge.deliver(WAIT)
        hub.update_info("large", b"x" * 10_000)
        bridge.deliver(WAIT)
        hub.update_scalar("loss", 2.0)
        bridge.deliver(WAIT)
        assert bridge.statistics().left_out == 1
    assert values(place) == [1.0, 2.0]
    assert followed(place).missed == 1


# --- the spool


def test_a_spool_has_one_user_and_the_second_begins_when_the_first_has_left(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = bridged(place, tmp_path), bridged(place, tmp_path)
    failed = Kept(SubscriberFailed)
    two._hub.attach(failed)
    with one._hub as hub:
        hub.update_scalar("loss", 1.0)
        one.deliver(WAIT)
        two._hub.__enter__()
        two._hub.update_scalar("acc", 2.0)
        until(lambda: failed.events)
        assert "in use by process" in failed.events[0].error
        with pytest.raises(WaitTimeoutError):
            two.deliver(0.1)
        assert "in use" in two.statistics().error
    with two._hub:
        two.deliver(WAIT)
    two._hub.__exit__(None, None, None)
    assert values(place, "acc") == [2.0]


def test_what_was_published_while_a_bridge_could_not_begin_comes_when_it_can(place: Place, tmp_path: Path) -> None:
    one, two = bridged(place, tmp_path), bridged(place, tmp_path)
    hub = two._hub
    failed = Kept(SubscriberFailed)
    hub.attach(failed)
    for value in range(5):
        hub.update_info("cfg", value)
    with one._hub:
        one.deliver(WAIT)
        hub.__enter__()
        for value in range(5, 10):
            hub.update_info("cfg", value)
        until(lambda: len(failed.events) > 1)
    two.deliver(WAIT)
    hub.__exit__(None, None, None)
    sent = [event for frame in frames(place) if frame.kind == EVENTS for event in events_of(frame.batch)]
    assert [event.value for event in sent if isinstance(event, InfoUpdated)] == list(range(10))


def test_without_a_disk_for_its_spool_a_bridge_works_from_memory(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    bridge = bridged(place, tmp_path / "file")
    with bridge._hub as hub:
        hub.update_scalar("loss", 1.0)
        bridge.deliver(WAIT)
        assert "NotADirectoryError" in bridge.statistics().error
    assert values(place) == [1.0]
    assert "which is in memory" in caplog.text


def test_a_damaged_spool_is_read_as_far_as_it_is_whole(place: Place, tmp_path: Path) -> None:
    place.cut()
    bridge = bridged(place, tmp_path)
    with bridge._hub as hub:
        hub.update_scalar("loss", 1.0)
        hub.flush(WAIT)
    (file,) = tmp_path.glob("*/0/*.ahf")
    with file.open("ab") as spool:
        spool.write(b"torn")
    place.restore()
    again = bridged(place, tmp_path)
    refused = Kept()
    again._hub.attach(refused, FrameRefused)
    with again._hub:
        again.deliver(WAIT)
        until(lambda: refused.events)
    assert str(file) in refused.events[0].source
    sent = [one for frame in frames(place) for one in events_of(frame.batch) if isinstance(one, ScalarUpdated)]
    assert [one.value for one in sent] == [1.0]


def test_memory_is_bounded_while_the_broker_is_away_and_what_is_left_out_is_counted(place: Place) -> None:
    place.cut()
    bridge = bridged(place, max_spool=2**20, interval=0.0)
    with bridge._hub as hub:
        for step in range(120_000):
            hub.step = step
            hub.update_scalar("loss", step * 0.37 % 1.0)
            if not step % 15_000:
                hub.flush(WAIT)
        hub.flush(WAIT)
        now = bridge.statistics()
        assert now.size <= 2**20
        assert now.left_out > 0
        place.restore()
        bridge.deliver(WAIT)
    receiver = followed(place)
    came = len(history(receiver._hub, "loss"))
    assert came + receiver.missed == hub.statistics().seq
    assert receiver.missed == bridge.statistics().left_out


# --- killed processes


SCRIPT = """
import os, sys, time
from asynchub.bridges.bridge import Bridge
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover

url, run, folder, journaled, last = sys.argv[1:]
hub = MessageHub("run")
if journaled == "yes":
    if os.path.isdir(folder + "/journal"):
        hub = recover(folder)
    hub.attach(Journal(folder + "/journal"))
bridge = Bridge(hub, url, run=run, spool=folder + "/spool", interval=0.05)
with hub:
    begun = len(hub.log_scalars["loss"].records().seqs) if "loss" in hub.log_scalars else 0
    print("begun", begun, flush=True)
    for value in range(begun, begun + 2000):
        hub.update_scalar("loss", float(value), step=value)
        hub.update_info("newest", value)
        if not value % 100:
            print(value, flush=True)
            time.sleep(0.02)
    if last == "yes":
        bridge.deliver(30)
        print("done", hub.run_id, flush=True)
        os._exit(0)
    print("published", flush=True)
    time.sleep(60)
"""


def process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("journaled", ["yes", pytest.param("no", marks=pytest.mark.slow)])
def test_of_a_killed_process_everything_comes_with_a_journal_and_all_but_the_last_interval_without(
    tmp_path: Path, journaled: str
) -> None:
    with a_place("nats", tmp_path) as place:
        arguments = (place.url, place.run, str(tmp_path), journaled)
        place.cut()  # what it has published is in its spool and its journal only
        killed = process(*arguments, "no")
        try:
            assert killed.stdout is not None
            for line in killed.stdout:
                if line.strip() == "1000":
                    break
            os.kill(killed.pid, signal.SIGKILL)
        finally:
            killed.kill()
            killed.communicate(timeout=WAIT)
        place.restore()
        last = process(*arguments, "yes")
        try:
            out, _ = last.communicate(timeout=2 * WAIT)
        finally:
            last.kill()
        assert "done" in out
        got = values(place)
        begun = int(out.split()[1])
        if journaled == "yes":
            assert begun > 1000
            assert got == [float(value) for value in range(begun + 2000)]
        else:  # it began anew, as another run; of the killed one, what was in its spool is in the broker
            assert got == [float(value) for value in range(2000)]
            first = frames(place)[0].epoch
            sent = [one for frame in frames(place) if frame.epoch == first for one in events_of(frame.batch)]
            killed_values = [one.value for one in sent if isinstance(one, ScalarUpdated)]
            assert killed_values == [float(value) for value in range(len(killed_values))]
            assert len(killed_values) > 0


# --- forked children


FORKING = """
import os, sys, time
from asynchub.bridges.bridge import Bridge
from asynchub.hub import MessageHub

hub = MessageHub("run")
bridge = Bridge(hub, "memory://nowhere", run=sys.argv[1], spool=sys.argv[2], interval=0.01)
with hub:
    hub.update_scalar("loss", 1.0)
    bridge.deliver(30)
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_does_not_hold_the_spool_of_its_dead_parent(place: Place, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING, place.run, str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = 0
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(WAIT)
        os.kill(child, 0)  # it is there still
        bridge = bridged(place, tmp_path)
        with bridge._hub as hub:
            hub.update_scalar("loss", 2.0)
            bridge.deliver(WAIT)
        assert values(place) == [2.0]
    finally:
        parent.kill()
        parent.wait(WAIT)
        if child:
            os.kill(child, signal.SIGKILL)
        if parent.stdout is not None:
            parent.stdout.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_in_a_forked_child_a_bridge_says_that_it_does_not_work(place: Place) -> None:
    bridge = bridged(place)
    with bridge._hub:
        child = os.fork()
        if not child:
            try:
                bridge.deliver(1.0)
            except LifecycleError:
                os._exit(7)
            os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


# --- waits, and arguments


def test_deliver_outside_of_the_hub_says_so(place: Place) -> None:
    bridge = bridged(place)
    with pytest.raises(LifecycleError, match="while its hub is entered"):
        bridge.deliver(1.0)
    with bridge._hub:
        bridge.deliver(WAIT)  # though nothing was published
    with pytest.raises(LifecycleError):
        bridge.deliver(1.0)
    assert not bridge.statistics().connected


async def test_delivered_waits_without_blocking_the_loop(place: Place) -> None:
    bridge = bridged(place)
    async with bridge._hub as hub:
        hub.update_scalar("loss", 1.0)
        await bridge.delivered(WAIT)
        place.cut()
        hub.update_scalar("loss", 2.0)
        with pytest.raises(WaitTimeoutError, match=r"in 0\.05 s"):
            await bridge.delivered(0.05)
        place.restore()
        await bridge.delivered(WAIT)


def test_statistics_tell_how_it_is_doing(place: Place) -> None:
    bridge = bridged(place)
    assert bridge.statistics().delivered == 0
    with bridge._hub as hub:
        hub.update_scalar("loss", 1.0)
        bridge.deliver(WAIT)
        now = bridge.statistics()
        assert (now.connected, now.error, now.waiting, now.left_out) == (True, "", 0, 0)
        assert now.delivered >= 2
        until(lambda: bridge.statistics().clock_ahead is not None)
        assert abs(bridge.statistics().clock_ahead or 9) < 1.0


def test_clocks_that_are_apart_are_said_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.bridges.signs.HEARTBEAT", 0.02)
    right = time.time
    ahead = type("Clock", (), {"time": staticmethod(lambda: right() + 90.0)})
    monkeypatch.setattr("asynchub.bridges.sender.time", ahead)
    kept = Kept(ClocksApart)
    bridge = bridged(place, rank=2, world=3)
    bridge._hub.attach(kept)
    with bridge._hub as hub:
        for _ in range(3):
            hub.update_scalar("loss", 1.0)
            bridge.deliver(WAIT)
            until(lambda: kept.events)
    (apart,) = kept.events
    assert apart.rank == 2
    assert abs(apart.seconds - 90.0) < 1.0


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"run": None}, "run must name the run"),
        ({"run": ""}, "name of a run"),
        ({"rank": 2, "world": 2}, "rank must be from 0 to 1"),
        ({"rank": 1.5, "world": 2}, "rank must be an int"),
        ({"rank": "x"}, "rank must be an int"),
        ({"interval": -1}, "interval must be seconds"),
        ({"interval": float("nan")}, "interval must be seconds"),
        ({"drain_timeout": "1"}, "drain_timeout must be seconds"),
        ({"max_spool": 5}, "max_spool must be bytes"),
        ({"allow": "stop"}, "allow takes several rules"),
        ({"allow": ["explode"]}, "allow takes"),
        ({"allow": ["set"]}, "allow takes"),
        ({"agree": 3}, "agree is called with a request"),
        ({"name": ""}, "name must be"),
    ],
    ids=lambda one: "" if isinstance(one, str) else next(iter(one)),
)
def test_arguments_that_cannot_be_are_refused_without_a_trace(
    place: Place, terms: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    hub = MessageHub("run")
    with pytest.raises(ArgumentError, match=said):
        Bridge(hub, place.url, **{"run": "r", "spool": None, **terms})
    assert list(hub._attachments) == []


@pytest.mark.parametrize("url", ["http://x", "memory://", "nats://", "", None])
def test_a_url_that_is_none_is_refused_at_once(url: Any) -> None:
    with pytest.raises(ArgumentError):
        Bridge(MessageHub("run"), url, run="r", spool=None)


def test_options_that_a_broker_does_not_have_are_refused_at_once(place: Place) -> None:
    with pytest.raises(TypeError, match="no options"):
        Bridge(MessageHub("run"), place.url, run="r", spool=None, token="secret")


def test_a_torchrun_process_needs_neither_run_nor_rank(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "nonesuch")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    plan = Bridge(MessageHub("run"), place.url, spool=None)._plan
    assert (plan.subjects.run, plan.rank, plan.world) == ("nonesuch", 3, 4)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ArgumentError, match="got none"):
        Bridge(MessageHub("run"), place.url, spool=None)


@pytest.mark.slow
def test_an_hour_without_a_broker_stays_within_its_bounds(place: Place, tmp_path: Path) -> None:
    place.cut()
    bridge = bridged(place, tmp_path, max_spool=2**22, interval=0.001)
    with bridge._hub as hub:
        for step in range(3600):
            hub.step = step
            for key in range(50):
                hub.update_scalar(f"train/{key}", step * 0.37 % 1.0)
            if not step % 20:
                hub.flush(WAIT)
                assert bridge.statistics().size <= 2**22
        left = time.monotonic()
    assert time.monotonic() - left < 4.0
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert size <= 2**22
    place.restore()
    again = bridged(place, tmp_path)
    with again._hub:
        again.deliver(WAIT)
    first = frames(place)[0].epoch
    own = [frame for frame in frames(place) if frame.epoch == first]
    assert sum(frame.left_out + frame.batch.size for frame in own if frame.kind == EVENTS) == hub.statistics().seq
