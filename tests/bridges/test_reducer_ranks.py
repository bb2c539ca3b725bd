"""Ranks that publish different things, ask, decide and end: the same comes of it everywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import distributed

from asynchub import EarlyStopping, ReduceLROnPlateau
from asynchub.bridges import reducer
from asynchub.bridges.reducer import Reducer
from asynchub.bridging import ReductionDegraded, ScalarsReduced
from asynchub.errors import ArgumentError, ControlFailedError
from asynchub.events import Event
from asynchub.hub import MessageHub
from asynchub.requests import ParameterChangeRequested, Request, RequestApplied, StopRequested
from asynchub.rules import DummyOptimizer
from tests.bridges.ranks import Rank, run_ranks
from tests.waiting import WAIT

ODD = ("ключ", "\ud800", "a\nb", "\0", "x" * 10_000, "a//b", " ")

# --- what the ranks do


def watched(hub: MessageHub) -> list[tuple[Any, ...]]:
    """Return a list that gets what is reduced: key, step, value and count, and the step at which it came."""
    seen: list[tuple[Any, ...]] = []

    @hub.on("all/**", role="control", name="watched")
    def see(event: Any) -> None:
        seen.append((event.key, event.step, event.value, event.count, hub.step))

    return seen


def errors_of(call: Any) -> list[str]:
    try:
        call()
    except ControlFailedError as group:
        return [f"{type(error).__name__}: {error}" for error in group.exceptions]
    return []


def keys_of_each(rank: Rank) -> Any:
    """Publish 300 keys, of which each rank has others, and new ones all the time; rank 0 has none at first."""
    hub = MessageHub("keys")
    reducer = Reducer(hub, {"train/**": "sum"}, every=2, capacity=4, name="keys")
    published: Counter[str] = Counter()
    with hub:
        for hub.step in range(1, 31):
            if rank.index or hub.step > 10:
                for number in range(hub.step * 15):
                    if number % (rank.index + 2) == 0:
                        hub.update_scalar(f"train/{number}", hub.step + rank.index)
                        published[f"train/{number}"] += hub.step + rank.index
            hub.settle()
        reducer.close()
    reduced = {key: sum(history.data[0].tolist()) for key, history in hub.log_scalars.items() if key.startswith("all/")}
    return published, reduced


def strict_keys(rank: Rank) -> Any:
    hub = MessageHub("strict")
    Reducer(hub, {"train/*": "mean"}, every=2, keys="strict", name="strict")
    errors: list[str] = []
    with hub:
        for hub.step in range(1, 9):
            hub.update_scalar("train/a", 1.0)
            if hub.step > 4 and rank.index == 1:
                hub.update_scalar("train/b", 1.0)
            errors = errors_of(hub.settle)
            if errors:
                break
            rank.together()
    return hub.step, errors, sorted(key for key in hub.log_scalars if key.startswith("all/"))


def other_steps(rank: Rank) -> Any:
    hub = MessageHub("steps")
    Reducer(hub, {"train/*": "mean"}, every=5, name="steps")
    with hub:
        for hub.step in range(1, 5):
            hub.settle()
        hub.step = 5 + rank.index
        hub.settle()
        hub.step = 10 + rank.index
        return errors_of(hub.settle)


def at_once_on_one_rank(rank: Rank) -> Any:
    hub = MessageHub("one")
    Reducer(hub, {"train/*": "mean", "val/*": "mean"}, every=5, name="one")
    with hub:
        for hub.step in range(1, 8):
            hub.update_scalar("train/loss", 1.0)
            if hub.step == 3 and rank.index == 0:
                hub.update_scalar("val/loss", 1.0)
            if errors := errors_of(hub.settle):
                return errors
        hub.step = 10
        return errors_of(hub.settle)


def other_declarations(rank: Rank) -> Any:
    hub = MessageHub("declared")
    Reducer(hub, {"train/*": "sum" if rank.index else "mean"}, every=1, name="declared")
    with hub:
        hub.step = 1
        errors = errors_of(hub.settle)
        hub.step = 2
        return errors or errors_of(hub.settle)


def at_once(rank: Rank) -> Any:
    """Validate now and then; what the results were when the rules of the same settle point looked."""
    hub = MessageHub("at once")
    reducer = Reducer(hub, {"train/*": "sum", "val/*": "mean"}, every=4, name="at once")
    seen = watched(hub)
    with hub:
        for hub.step in range(1, 14):
            hub.update_scalar("train/n", 1)
            if hub.step in (3, 8, 9):
                hub.update_scalar("val/loss", (rank.index + 1) * hub.step, count=rank.index + 1)
            hub.settle()
        reducer.close()
    return seen


def agreement(rank: Rank) -> Any:
    """Have different ranks ask for something at different times; at which steps it was applied."""
    hub = MessageHub("asked")
    reducer = Reducer(hub, {"train/*": "mean"}, every=5, name="asked")
    rates: list[tuple[int, Any, str]] = []
    hub.on_request(ParameterChangeRequested, lambda request: rates.append((hub.step, request.value, request.id)))
    hub.on_request(Noted, lambda request: rates.append((hub.step, request.text, request.id)))
    applied: list[tuple[str, int | None]] = []
    hub.on(RequestApplied, role="control")(lambda event: applied.append((event.request, event.step)))
    with hub:
        for hub.step in range(1, 41):
            if hub.step == 3 + rank.index:
                reducer.request(ParameterChangeRequested(name="lr", value=rank.index / 10, id=f"rate of {rank.index}"))
                reducer.request(Noted(text="the same", id="once"))
            if hub.step == 22 and rank.index == rank.size - 1:
                reducer.request(StopRequested(reason="seen enough", author="ada"))
            hub.settle()
            rank.together()
            if hub.stop_requested:
                break
    return hub.step, hub.stop_reason, rates, applied


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(Request):
    """A request of the test's own."""

    key: str = "test/noted"
    text: str


def decisions(rank: Rank) -> Any:
    """Have rules look at what is reduced, while each rank has other values of its own."""
    hub = MessageHub("rules")
    Reducer(hub, {"val/*": "mean"}, every=5, name="rules")
    optimizer = DummyOptimizer([1.0])
    hub.attach(EarlyStopping("all/val/loss", patience=4))
    hub.attach(ReduceLROnPlateau(optimizer, "all/val/loss", factor=0.5, patience=1))
    rates = []
    with hub:
        for hub.step in range(1, 200):
            local = 1 / hub.step + rank.index if hub.step < 10 else (hub.step * (rank.index + 3)) % 7
            hub.update_scalar("val/loss", local)
            hub.settle()
            rates.append(optimizer.param_groups[0]["lr"])
            if hub.stop_requested:
                break
    return hub.step, hub.stop_reason, rates


def one_ends_early(rank: Rank) -> Any:
    """Have one rank end its part before the others do."""
    hub = MessageHub("early")
    Reducer(hub, {"train/n": "sum"}, every=2, timeout=20.0, name="early")
    said: list[Event] = []
    hub.on("hub/*", role="control")(said.append)
    with hub:
        for hub.step in range(1, 6 if rank.index == 1 else 12):
            hub.update_scalar("train/n", 1)
            hub.settle()
    kinds = [type(event).__name__ for event in said if not isinstance(event, ScalarsReduced)]
    error = next((event.error for event in said if isinstance(event, ReductionDegraded)), "")
    return kinds, error


def left_over(rank: Rank) -> Any:
    """Leave the hub amid an interval, and enter it again."""
    reducer.LAST_WAIT = WAIT  # what is left is reduced: on a busy machine, later than other ranks are waited for
    hub = MessageHub("left")
    Reducer(hub, {"train/n": "sum"}, every=10, name="left")
    for _ in range(2):
        with hub:
            begun = hub.step
            for hub.step in range(begun + 1, begun + 14):
                hub.update_scalar("train/n", 1)
                hub.settle()
    return hub.get_scalar("all/train/n").data[0].tolist()


def part_of_them(rank: Rank) -> Any:
    """Reduce in two groups at a time."""
    halves = [distributed.new_group([0, 2]), distributed.new_group([1])]
    hub = MessageHub("half")
    try:
        Reducer(hub, {"train/n": "sum"}, group=halves[1 - rank.index % 2], name="of others")
        refused = ""
    except ArgumentError as error:
        refused = str(error)
    Reducer(hub, {"train/n": "sum"}, every=1, group=halves[rank.index % 2], name="half")
    facts: list[Any] = []
    hub.on(ScalarsReduced, role="control")(
        lambda event: facts.append((event.ranks, dict(event.keys.get("train/n", {}))))
    )
    with hub:
        for hub.step in range(1, 4):
            hub.update_scalar("train/n", rank.index)
            hub.settle()
    return hub.get_scalar("all/train/n").data[0].tolist(), facts[0], refused


def odd_keys(rank: Rank) -> Any:
    hub = MessageHub("odd")
    Reducer(hub, {"train/**": "sum"}, every=1, name="odd")
    with hub:
        for number, key in enumerate(ODD):
            hub.step = number
            if number % rank.size == rank.index:
                hub.update_scalar(f"train/{key}", number)
            hub.settle()
    return [hub.get_scalar(f"all/train/{key}").data[0].tolist() for key in ODD]


SCENARIOS = (
    keys_of_each,
    strict_keys,
    other_steps,
    at_once_on_one_rank,
    other_declarations,
    at_once,
    agreement,
    decisions,
    one_ends_early,
    left_over,
    part_of_them,
    odd_keys,
)


def everything(rank: Rank) -> dict[str, Any]:
    found = {}
    for scenario in SCENARIOS:
        rank.together()
        found[scenario.__name__] = scenario(rank)
    return found


SIZE = 3


@cache
def outcomes() -> list[dict[str, Any]]:
    return run_ranks(SIZE, everything)


def found(scenario: Any) -> list[Any]:
    return [outcome[scenario.__name__] for outcome in outcomes()]


# --- what comes of it


def test_no_value_is_lost_of_keys_that_only_some_ranks_have() -> None:
    totals: Counter[str] = Counter()
    for published, _ in found(keys_of_each):
        totals += published
    assert len(totals) == 300
    for _, reduced in found(keys_of_each):
        assert reduced == {f"all/{key}": value for key, value in totals.items()}


def test_strict_ranks_with_different_keys_raise_the_same_error_within_an_interval() -> None:
    (step, errors, reduced), *others = found(strict_keys)
    assert errors == [
        "ReductionError: key sets differ: rank 0 lacks ['train/b']; rank 2 lacks ['train/b']; publish the same keys "
        "on all ranks, or let keys='union' take what there is"
    ]
    assert step <= 8  # 'train/b' came in the interval up to 6
    assert reduced == ["all/train/a"]
    assert [errors for _, errors, _ in others] == [errors] * 2


def test_ranks_at_different_steps_raise_the_same_error() -> None:
    text = (
        "ReductionError: ranks reduce different steps: rank 0 up to step 5, rank 1 up to step 6, rank 2 up to step 7; "
        "all ranks must settle at the same steps"
    )
    assert found(other_steps) == [[text]] * SIZE


def test_a_key_that_only_one_rank_reduces_at_once_raises_the_same_error() -> None:
    text = (
        "ReductionError: ranks reduce different steps: rank 0 at once at step 3, rank 1 up to step 5, rank 2 up to "
        "step 5; what is reduced at once (val/loss) must be published by all ranks at the same step, or be left out of "
        "at_once="
    )
    assert found(at_once_on_one_rank) == [[text]] * SIZE


def test_ranks_that_declare_different_reductions_raise_the_same_error() -> None:
    first, *others = found(other_declarations)
    assert len(first) == 1
    assert first[0].startswith("ReductionError: ranks declare different reductions: rank 0 ")
    assert "ranks that are not as rank 0: 1, 2" in first[0]
    assert others == [first] * 2


def test_what_is_reduced_at_once_is_there_in_its_settle_point() -> None:
    first, *others = found(at_once)
    assert [one for one in first if one[0] == "all/val/loss"] == [
        ("all/val/loss", step, 6.0 * step, 6, step) for step in (3, 8, 9)
    ]
    assert [one for one in first if one[0] == "all/train/n"] == [
        ("all/train/n", 4, 12.0, 1, 8),
        ("all/train/n", 8, 12.0, 1, 9),
        ("all/train/n", 12, 12.0, 1, 13),
        ("all/train/n", 13, 3.0, 1, 13),
    ]
    assert others == [first] * 2


def test_a_request_of_any_rank_is_applied_by_all_at_one_step_once_for_each_id() -> None:
    (step, reason, rates, applied), *others = found(agreement)
    assert step == 30  # asked at 22, told with what was handed over at 25
    assert reason == "seen enough"
    assert sorted(one for _, _, one in rates) == ["once", "rate of 0", "rate of 1", "rate of 2"]
    assert {at for at, _, _ in rates} == {10}
    assert (10, "the same", "once") in rates
    assert others == [(step, reason, rates, applied)] * 2


def test_early_stopping_and_schedulers_decide_the_same_on_every_rank() -> None:
    first, *others = found(decisions)
    step, reason, rates = first
    assert step < 199
    assert "all/val/loss" in reason
    assert rates[-1] < 1.0
    assert others == [first] * 2


def test_the_others_go_on_without_waiting_when_a_rank_ends_before_them() -> None:
    (kinds, error), _, (other_kinds, other_error) = found(one_ends_early)
    assert kinds == other_kinds == ["ReductionDegraded"]
    assert error.startswith("ConnectionError: ranks have ended before the others: rank 1 at step 5")
    assert other_error.startswith("ConnectionError: ")


def test_what_is_left_when_the_hub_is_left_is_reduced_too() -> None:
    assert found(left_over) == [[30.0, 9.0, 21.0, 18.0]] * SIZE  # steps 1 to 10, to 13, to 20 and to 26, on 3 ranks


def test_a_group_says_which_ranks_are_reduced() -> None:
    both = ([2.0] * 3, (2, {"lowest": 0, "highest": 2, "non_finite": 0}))
    alone = ([1.0] * 3, (1, {"lowest": 1, "highest": 1, "non_finite": 0}))
    assert [one[:2] for one in found(part_of_them)] == [both, alone, both]
    assert all("on its members only" in refused for *_, refused in found(part_of_them))


def test_a_key_may_be_any_text() -> None:
    assert found(odd_keys) == [[[float(number)] for number in range(len(ODD))]] * SIZE
