"""What a run takes back at its mirrors, although the processes that did so had no bridge, or one that never began."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchub.bridges.bridge import Bridge
from asynchub.bridges.receiver import Receiver
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from tests.bridges.places import WAIT, Place, bridged, history


class Story:
    """Processes of one run, one after another, and one that follows them.

    Args:
        folder: in which the journal and the spool are.
    """

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        self._spool = folder / "spool"
        self._place = Place()
        self._count = 0

    def journaled(self, hub: MessageHub) -> MessageHub:
        """Attach the run's journal to a hub."""
        hub.attach(Journal(self.run / "journal"))
        return hub

    def bridged(self, hub: MessageHub) -> Bridge:
        """Attach a bridge to a hub."""
        return bridged(self._place, self._spool, hub=hub)

    def publish(self, hub: MessageHub, count: int) -> None:
        """Publish values that were not there before."""
        assert hub.run_id
        for _ in range(count):
            self._count += 1
            hub.update_scalar("loss", float(self._count))

    def check(self, hub: MessageHub, bridge: Bridge | None = None, *, sent: int | None = None) -> None:
        """Fail unless who reads all has what a hub has, or its bridge had to go back by more than so many events."""
        bridge = bridge or self.bridged(hub)
        with hub:
            self.publish(hub, 2)
            bridge.deliver(WAIT)
            late = Receiver(MessageHub("late"), self._place.run, 0, str, steps=True, whole=True)
            for one in self._place.stored():
                if ".ev." in one.subject:
                    late.take(one)
            for key in hub.log_scalars:
                assert history(late._hub, key) == history(hub, key)
            assert late._hub.runtime_info == hub.runtime_info
            assert bridge._life is not None
            assert sent is None or bridge._life._begun_seq - bridge._life.lineage._lives[-1][2] <= sent


@pytest.mark.parametrize("count", [1, 20])
def test_what_was_published_before_a_journal_was_attached_that_goes_back_is_sent(tmp_path: Path, count: int) -> None:
    story = Story(tmp_path)
    first = story.journaled(MessageHub("run"))
    with first:
        story.publish(first, 5)
        mark = first.mark()
        story.publish(first, 4)
    second = recover(story.run, mark=mark)
    for number in range(count):
        second.update_info(f"info {number}", number)
        story.publish(second, 1)
    bridge = story.bridged(second)
    story.check(story.journaled(second), bridge)


@pytest.mark.parametrize("bridge", ["none", "not begun"])
def test_what_a_process_took_back_whose_bridge_never_began_is_taken_back(tmp_path: Path, bridge: str) -> None:
    story = Story(tmp_path)
    first = story.journaled(MessageHub("run"))
    sender = story.bridged(first)
    with first:
        story.publish(first, 5)
        mark = first.mark()
        story.publish(first, 4)
        sender.deliver(WAIT)
    second = story.journaled(recover(story.run, mark=mark))
    if bridge == "not begun":
        story.bridged(second)
    story.publish(second, 20)
    second.detach("journal")
    story.check(story.journaled(recover(story.run)), sent=30)


def test_what_a_state_had_gone_back_behind_without_a_bridge_is_taken_back(tmp_path: Path) -> None:
    story = Story(tmp_path)
    first = MessageHub("run")
    sender = story.bridged(first)
    with first:
        story.publish(first, 5)
        early = first.state_dict()
        story.publish(first, 4)
        sender.deliver(WAIT)
    second = MessageHub("run")
    second.load_state_dict(early)
    story.publish(second, 20)
    third = MessageHub("run")
    third.load_state_dict(second.state_dict())
    story.check(third, sent=30)


def test_what_a_journal_has_lost_and_another_process_published_otherwise_is_taken_back(tmp_path: Path) -> None:
    story = Story(tmp_path)
    first = story.journaled(MessageHub("run"))
    sender = story.bridged(first)
    with first:
        story.publish(first, 5)
        first.commit(WAIT)
        kept = {path: path.read_bytes() for path in (story.run / "journal").glob("*.ahj")}
        story.publish(first, 4)
        sender.deliver(WAIT)
    for path, data in kept.items():
        path.write_bytes(data)  # as a power failure leaves it
    second = story.journaled(recover(story.run))
    story.publish(second, 20)
    second.detach("journal")
    story.check(story.journaled(recover(story.run)), sent=30)


def test_a_run_that_goes_on_sends_nothing_twice_whatever_ran_between(tmp_path: Path) -> None:
    story = Story(tmp_path)
    first = story.journaled(MessageHub("run"))
    sender = story.bridged(first)
    with first:
        story.publish(first, 5)
        sender.deliver(WAIT)
    with first:
        story.publish(first, 5)
        sender.deliver(WAIT)
    second = story.journaled(recover(story.run))
    story.publish(second, 3)
    second.detach("journal")
    story.check(story.journaled(recover(story.run)), sent=3)


def test_a_journal_that_is_attached_amid_a_run_knows_what_was_sent(tmp_path: Path) -> None:
    story = Story(tmp_path)
    first = MessageHub("run")
    sender = story.bridged(first)
    with first:
        story.publish(first, 50)
        story.journaled(first)
        story.publish(first, 5)
        sender.deliver(WAIT)
    story.check(story.journaled(recover(story.run)), sent=0)


def test_going_back_twice_within_one_program_is_followed(tmp_path: Path) -> None:
    story = Story(tmp_path)
    hub = story.journaled(MessageHub("run"))
    sender = story.bridged(hub)
    with hub:
        story.publish(hub, 5)
        early = hub.state_dict()
        story.publish(hub, 5)
        later = hub.state_dict()
        story.publish(hub, 5)
        sender.deliver(WAIT)
        hub.load_state_dict(early)
        story.publish(hub, 3)
        hub.load_state_dict(later)
        story.publish(hub, 3)
        hub.load_state_dict(early)
        story.publish(hub, 3)
        sender.deliver(WAIT)
    story.check(story.journaled(recover(story.run)), sent=0)


@pytest.mark.parametrize("journal", [False, True])
def test_keys_that_stay_when_a_state_of_another_past_is_taken_in_are_sent_and_kept(
    tmp_path: Path, journal: bool
) -> None:
    story = Story(tmp_path)
    other = MessageHub("run")
    story.publish(other, 5)
    other.update_info("theirs", 1)
    hub = MessageHub("run")
    for number in range(5):
        hub.update_scalar("stays", float(number))  # with the seqs of the others
    hub.update_info("ours", 1)
    sender = story.bridged(hub)
    with hub:
        sender.deliver(WAIT)
        hub.load_state_dict(other.state_dict())
        sender.deliver(WAIT)
    if journal:
        story.journaled(hub)
    story.check(hub, sender)
    assert history(hub, "stays")
    if journal:
        again = recover(story.run)
        assert {key: history(again, key) for key in ("loss", "stays")} == {
            key: history(hub, key) for key in ("loss", "stays")
        }
