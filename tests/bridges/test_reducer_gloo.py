"""The store that ranks meet through, and what is no group."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import torch._C._distributed_c10d as c10d
from torch.distributed import PrefixStore, TCPStore

from asynchub.bridges import gloo
from asynchub.bridges.gloo import Meeting, ranks_of
from asynchub.errors import ArgumentError


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> PrefixStore:
    """The store of a run, as the default group has it."""
    store = PrefixStore("run", TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    monkeypatch.setattr(gloo, "_get_default_store", lambda: store)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    return store


def join_together(meetings: list[Meeting]) -> list[object]:
    """Return what each has joined, all at once."""
    joined: list[object] = [None] * len(meetings)

    def join(at: int) -> None:
        while joined[at] is None:
            joined[at] = meetings[at].join()

    threads = [threading.Thread(target=join, args=(at,), daemon=True) for at in range(len(meetings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return joined


def meetings_of(numbers: list[int]) -> list[Meeting]:
    return [Meeting("meeting", index, numbers, lambda: True) for index in range(len(numbers))]


def test_ranks_meet_once_all_have_come(store: PrefixStore) -> None:
    first = Meeting("meeting", 0, [4, 7], lambda: True)
    assert first.join() is None
    assert first.missing() == [7]
    second = Meeting("meeting", 1, [4, 7], lambda: True)
    assert None not in join_together([first, second])
    assert first.generation == second.generation == 1
    assert not first.left_by_others()


def test_ranks_that_have_left_meet_in_the_next_generation(store: PrefixStore) -> None:
    meetings = meetings_of([0, 1])
    join_together(meetings)
    meetings[0].leave()
    assert meetings[1].left_by_others()
    assert meetings[0].join() is None
    assert meetings[0].missing() == [1]
    meetings[1].leave()
    assert None not in join_together(meetings)
    assert [meeting.generation for meeting in meetings] == [2, 2]


def test_a_rank_that_has_missed_generations_joins_the_newest(store: PrefixStore) -> None:
    meetings = meetings_of([0, 1])
    meetings[0].generation = 5
    meetings[0].leave()
    assert None not in join_together(meetings)
    assert [meeting.generation for meeting in meetings] == [6, 6]


def test_nobody_waits_to_meet_a_rank_that_has_ended(store: PrefixStore) -> None:
    meetings = meetings_of([0, 1])
    join_together(meetings)
    meetings[1].end()
    assert meetings[0].left_by_others()
    meetings[0].leave()
    assert meetings[0].join() is None
    assert meetings[0].missing() == [1]


def test_a_later_reducer_of_the_same_name_does_not_see_the_keys_of_the_one_before(store: PrefixStore) -> None:
    join_together(meetings_of([0, 1]))
    assert Meeting("meeting", 0, [0, 1], lambda: True).missing() == [1]


def test_a_store_that_cannot_be_cloned_gets_another_client(store: PrefixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(c10d.Store, "clone")
    client = gloo._own_client(store)
    client.set_timeout(timedelta(seconds=10))
    client.set("key", "1")
    assert client.underlying_store is not store.underlying_store
    assert None not in join_together(meetings_of([0, 1]))


@pytest.mark.parametrize("group", ["dp", 1, object], ids=["str", "int", "class"])
def test_what_is_no_group_is_refused(group: object) -> None:
    with pytest.raises(ArgumentError, match="process group"):
        ranks_of(group)
