"""From where a hub's record comes: up to where two are the same, whatever states and journals they went on from."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asynchub.ancestry import (
    MOST,
    PATHS,
    Ancestry,
    Fork,
    Forks,
    as_words,
    forks_in,
    from_words,
    goes_on,
    shared_upto,
)
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover

BEGUN = Fork("begun", 0, 0)


def shared(one: MessageHub, other: MessageHub) -> int:
    """Return up to where the records of two hubs are known to be the same."""
    seqs = [hub.statistics().seq for hub in (one, other)]
    return shared_upto(one._ancestry.path, seqs[0], other._ancestry.path, seqs[1])


def publish(hub: MessageHub, count: int) -> None:
    for number in range(count):
        hub.update_scalar("loss", float(number))


def journaled(hub: MessageHub, run: Path) -> MessageHub:
    hub.attach(Journal(run / "journal"))
    return hub


# --- paths


@dataclass
class Record:
    """A record whose every event is known."""

    path: Forks = (BEGUN,)
    events: tuple[tuple[int, float], ...] = ()
    newest: int = 0

    def publish(self, draw: random.Random) -> None:
        for _ in range(draw.choice((1, 1, 5))):
            self.newest += 1
            self.events = (*self.events, (self.newest, draw.random()))

    @property
    def upto(self) -> int:
        return self.events[-1][0] if self.events else 0

    def take_in(self, state: Record) -> None:
        """Go back, or to somewhere else, in one process."""
        self.newest = max(self.newest, state.upto)
        self.path, self.events = (*state.path, Fork.new(state.upto, self.newest)), state.events


@dataclass
class Tale:
    """Records that go on from each other's states."""

    draw: random.Random
    records: list[Record] = field(default_factory=lambda: [Record()])
    states: list[Record] = field(default_factory=list)

    def move(self) -> None:
        record = self.draw.choice(self.records)
        chance = self.draw.random()
        if chance < 0.5 or not self.states:
            record.publish(self.draw)
            self.states.append(Record(record.path, record.events, record.newest))
        elif chance < 0.75:
            record.take_in(self.draw.choice(self.states))
        else:
            other = Record((), ())
            other.take_in(self.draw.choice(self.states))
            self.records.append(other)


def same_upto(one: Record, other: Record) -> int:
    """Return up to which ``seq`` two records have the same events."""
    common = 0
    for mine, theirs in zip(one.events, other.events, strict=False):
        if mine != theirs:
            break
        common = mine[0]
    return common


@pytest.mark.parametrize("seed", range(30))
def test_what_two_records_share_is_what_both_have(seed: int) -> None:
    tale = Tale(random.Random(seed))
    for _ in range(60):
        tale.move()
    for one in tale.records:
        for other in [*tale.records, *tale.states[-20:]]:
            assert shared_upto(one.path, one.upto, other.path, other.upto) == same_upto(one, other)
            cut = one.path[tale.draw.randrange(len(one.path)) :]  # what is older is forgotten
            assert shared_upto(cut, one.upto, other.path, other.upto) in (0, same_upto(one, other))


def test_records_without_a_common_fork_share_nothing() -> None:
    assert shared_upto((), 9, (BEGUN,), 9) == 0
    assert shared_upto((Fork("one", 0, 0),), 9, (Fork("other", 0, 0),), 9) == 0


def test_a_path_goes_on_by_forks_that_do_not_go_back() -> None:
    path = (BEGUN, Fork("journal", 5, 5))
    assert goes_on((*path, Fork("again", 9, 9)), path)
    assert not goes_on((*path, Fork("back", 5, 9)), path)
    assert not goes_on((*path, Fork("back", 5, 9), Fork("journal", 11, 11)), path)
    assert not goes_on((BEGUN, Fork("else", 9, 9)), path)
    assert not goes_on(path, ())


def test_a_hub_knows_its_path_as_of_an_event() -> None:
    ancestry = Ancestry()
    (begun,) = ancestry.path
    ancestry.go_on(Fork("journal", 5, 5))
    ancestry.go_by((BEGUN,), Fork("loaded", 3, 8))
    ids = [[fork.id for fork in ancestry.as_of(seq)] for seq in (0, 4, 5, 7, 8, 100)]
    journal = [begun.id, "journal"]
    assert ids == [[begun.id], [begun.id], journal, journal, ["begun", "loaded"], ["begun", "loaded"]]


def test_what_is_remembered_has_a_bound_and_the_rest_is_not_guessed() -> None:
    ancestry = Ancestry()
    for number in range(1, 2 * MOST + PATHS):
        ancestry.go_on(Fork(f"f{number}", number, number))
    assert len(ancestry.path) == MOST
    assert ancestry.path[-1].id == f"f{2 * MOST + PATHS - 1}"
    assert ancestry.as_of(3) == ()


def test_words_of_a_path_are_read_back_and_what_is_damaged_is_refused() -> None:
    path = (BEGUN, Fork("12@1796093602.25", 7, 11))
    text = " ".join(as_words(path))
    assert from_words(text.split()) == path
    assert from_words(as_words(())) == ()
    for size in range(len(text)):
        with pytest.raises(ValueError, match=r"checksum|unpack"):
            from_words(text[:size].split())


@pytest.mark.parametrize(
    "forks", [None, 3, "abc", [["a", 1]], [["a", 1, True]], [[1, 1, 1]], [["a", 1, 1.0]], [["a b", 1, 1]], {"a": 1}]
)
def test_a_malformed_path_of_a_state_says_nothing(forks: Any) -> None:
    assert forks_in({"forks": forks}) == ()
    assert forks_in({}) == ()


# --- hubs


def test_hubs_that_take_in_one_state_share_that_and_no_more() -> None:
    first = MessageHub("run")
    first.step = 1
    publish(first, 5)
    state = first.state_dict()
    publish(first, 5)
    second, third = MessageHub("second"), MessageHub("third")
    for hub in (second, third):
        hub.load_state_dict(state)
        publish(hub, 5)
    assert [shared(first, second), shared(second, third)] == [5, 5]
    assert shared(first, MessageHub("another")) == 0


def test_a_saved_file_keeps_the_path(tmp_path: Path) -> None:
    first = MessageHub("run")
    publish(first, 5)
    first.save(tmp_path / "state")
    second = MessageHub("second")
    second.load(tmp_path / "state")
    assert shared(first, second) == 5


def test_a_state_of_an_earlier_version_shares_nothing() -> None:
    first = MessageHub("run")
    first.step = 1
    publish(first, 5)
    state = first.state_dict()
    del state["asynchub"]["forks"]
    second = MessageHub("second")
    second.load_state_dict(state)
    assert second.statistics().seq == 6  # with the `StateLoaded`
    assert shared(first, second) == 0


def test_a_journal_keeps_the_path_over_openings_and_goings_back(tmp_path: Path) -> None:
    first = journaled(MessageHub("run"), tmp_path)
    with first:
        publish(first, 5)
        state = first.state_dict()
        publish(first, 5)
        before = first._ancestry.path
        first.load_state_dict(state)
        publish(first, 5)
        mark = first.mark()
        publish(first, 5)
    with first:
        publish(first, 5)
    second = recover(tmp_path)
    assert shared(first, second) == first.statistics().seq
    assert shared_upto(before, 10, second._ancestry.path, second.statistics().seq) == 5
    third = journaled(recover(tmp_path, mark=mark), tmp_path)
    publish(third, 5)
    third.detach("journal")
    for hub in (third, recover(tmp_path)):
        assert shared(first, hub) == mark["seq"]
    assert shared(third, recover(tmp_path)) == third.statistics().seq


def test_a_snapshot_and_the_journal_behind_it_keep_the_path(tmp_path: Path) -> None:
    first = MessageHub("run")
    first.attach(Journal(tmp_path / "journal", compact=True, segment_size=1))
    with first:
        publish(first, 5)
        first.save(tmp_path)
        publish(first, 5)
        first.commit(30)
        first.save(tmp_path)
        publish(first, 5)
    assert shared(first, recover(tmp_path)) == first.statistics().seq


def test_what_was_published_before_a_journal_was_opened_that_goes_back_is_not_taken_for_what_it_has_of_it(
    tmp_path: Path,
) -> None:
    first = journaled(MessageHub("run"), tmp_path)
    with first:
        publish(first, 5)
        mark = first.mark()
        publish(first, 5)
    second = recover(tmp_path, mark=mark)
    publish(second, 3)
    path, seq = second._ancestry.path, second.statistics().seq
    journaled(second, tmp_path)
    with second:
        publish(second, 3)
    again = recover(tmp_path)
    assert (
        shared_upto(path, seq, again._ancestry.path, again.statistics().seq) == mark["seq"]
    )  # it has others of the same seq
    assert shared(second, again) == again.statistics().seq


def test_a_journal_of_an_earlier_version_shares_nothing() -> None:
    hub = recover(Path(__file__).parent / "golden" / "journal-1.0", on_unknown="keep")
    (own,) = hub._ancestry.path
    assert own.at == hub.statistics().seq > 0


def test_a_forked_child_goes_its_own_way() -> None:
    hub = MessageHub("run")
    publish(hub, 5)
    path, seq = hub._ancestry.path, hub.statistics().seq
    hub._forked()
    publish(hub, 5)
    assert shared_upto(path, seq + 5, hub._ancestry.path, hub.statistics().seq) == 5
