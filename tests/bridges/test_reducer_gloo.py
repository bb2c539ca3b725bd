"""How ranks meet through a store, and go on together from different places; and what is no group."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch._C._distributed_c10d as c10d
from torch.distributed import PrefixStore, TCPStore

from asynchub.bridges import gloo
from asynchub.bridges.accumulating import Declarations
from asynchub.bridges.agreeing import (
    AT_ONCE,
    CATCH_UP,
    INTERVAL,
    BehindError,
    Generation,
    Job,
    Reduced,
    reduce_together,
)
from asynchub.bridges.combining import Layout
from asynchub.bridges.gloo import Meeting, ranks_of
from asynchub.bridges.refusals import ReductionError
from asynchub.errors import ArgumentError


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> PrefixStore:
    """The store of a run, as the default group has it."""
    store = PrefixStore("run", TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    monkeypatch.setattr(gloo, "_get_default_store", lambda: store)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    return store


def all_at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Return what each of ``calls`` returns or raises, each in a thread of its own."""
    found: dict[int, Any] = {}

    def run(at: int) -> None:
        try:
            found[at] = calls[at]()
        except Exception as error:
            found[at] = error

    threads = [threading.Thread(target=run, args=(at,), daemon=True) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return [found[at] for at in range(len(calls))]


def join_together(meetings: list[Meeting]) -> list[Any]:
    """Return what each has joined, all at once."""

    def join(meeting: Meeting) -> Any:
        while (ranks := meeting.join()) is None:
            pass
        return ranks

    return all_at_once([functools.partial(join, meeting) for meeting in meetings])


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


# --- together from different places

DECLARATIONS = Declarations({"n": "sum"}, ("n",), "all/")


class Going:
    """A rank of a generation, that reduces one job after the other."""

    def __init__(self, ranks: Any, regrouped: bool) -> None:
        self.generation = Generation(ranks, Layout(4), regrouped=regrouped)

    def reduce(self, *places: tuple[int, int], mode: float = INTERVAL) -> list[Any]:
        """Return what becomes of a job at each of ``places``; it has what those before it had, if they came to nothing.

        The last one may be an error.
        """
        found: list[Any] = []
        owed = 0.0
        for step, number in places:
            owed += 1
            job = Job(step, number, {"n": [owed, 1.0, float(step), 0.0]}, mode, time.monotonic() + 20, 0)
            try:
                found.append(reduce_together(self.generation, job, DECLARATIONS, False, []))
                owed = 0.0
            except BehindError:
                found.append("behind")
            except ReductionError as error:
                return [*found, str(error)]
        return found


@pytest.fixture
def two(store: PrefixStore, request: pytest.FixtureRequest) -> list[Going]:
    """Two ranks that have just met, for the second time if the test says so."""
    return [Going(ranks, request.param) for ranks in join_together(meetings_of([0, 1]))]


again = pytest.mark.parametrize("two", [True], indirect=True, ids=["again"])
first = pytest.mark.parametrize("two", [False], indirect=True, ids=["first"])


def values_of(found: Any) -> list[Any]:
    return [(one.step, one.values["n"][0]) if isinstance(one, Reduced) else one for one in found]


@again
def test_ranks_that_have_met_again_catch_up_and_lose_nothing(two: list[Going]) -> None:
    behind, ahead = all_at_once([lambda: two[0].reduce((5, 0), (10, 0), (15, 0)), lambda: two[1].reduce((15, 0))])
    assert values_of(behind) == ["behind", "behind", (15, 4.0)]
    assert values_of(ahead) == [(15, 4.0)]


@again
def test_what_is_reduced_twice_at_a_step_is_two_places(two: list[Going]) -> None:
    """One rank has both as one, since it was without the others then: it would be one short from then on."""
    apart, merged = all_at_once(
        [lambda: two[0].reduce((14, 0), (14, 1), (16, 0)), lambda: two[1].reduce((14, 1), (16, 0))]
    )
    assert values_of(apart) == ["behind", (14, 3.0), (16, 2.0)]
    assert values_of(merged) == [(14, 3.0), (16, 2.0)]


@again
def test_ranks_that_are_too_far_apart_raise_the_same_error(two: list[Going]) -> None:
    places = [(step, 0) for step in range(CATCH_UP + 3)]
    one, other = all_at_once([lambda: two[0].reduce(*places), lambda: two[1].reduce((99, 0))])
    assert values_of(one)[:-1] == ["behind"] * CATCH_UP
    assert one[-1] == other[-1]
    assert "different steps: rank 0 up to step 8, rank 1 up to step 99" in one[-1]


@first
def test_ranks_that_meet_for_the_first_time_must_be_at_the_same_step(two: list[Going]) -> None:
    one, other = all_at_once([lambda: two[0].reduce((5, 0)), lambda: two[1].reduce((10, 0))])
    assert one == other
    assert "different steps: rank 0 up to step 5, rank 1 up to step 10" in one[0]


@first
def test_ranks_that_reduce_for_different_reasons_raise_the_same_error(two: list[Going]) -> None:
    one, other = all_at_once([lambda: two[0].reduce((5, 0), mode=AT_ONCE), lambda: two[1].reduce((5, 0))])
    assert one == other
    assert "rank 0 at once at step 5, rank 1 up to step 5" in one[0]
