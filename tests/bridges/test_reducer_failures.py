"""Ranks that do not come: the others go on, nothing is lost, and all reduce together again by themselves."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import distributed

from asynchub.bridges.combining import Gathered
from asynchub.bridges.reducer import Reducer
from asynchub.bridging import ReductionDegraded, ReductionRestored
from asynchub.hub import MessageHub
from asynchub.requests import StopRequested
from tests.bridges.ranks import Rank, ranks

TIMEOUT = 0.7
PATIENCE = 30.0
"""Seconds after which a rank gives up waiting for what the test is about."""
EVERY = 5


class Training:
    """A hub with a reducer, in a run whose ranks also meet at every step, in the default group.

    Attributes:
        hub: the hub.
        reducer: the reducer.
        said: what was said about the reduction: its kind, the fields, and when by ``time.time``.
        came: of each result the step of its values, the value, and the step at which it was published.
        waits: seconds that settle points took, by step.
        stops_at: the step at which it stops itself before it settles.
    """

    def __init__(self, rank: Rank) -> None:
        self.hub = MessageHub("training")
        self.reducer = Reducer(self.hub, {"train/n": "sum"}, every=EVERY, timeout=TIMEOUT, name="training")
        self.said: list[tuple[str, str, float]] = []
        self.came: list[tuple[int | None, float, int]] = []
        self.waits: dict[int, float] = {}
        self.stops_at: int | None = None
        self._rank = rank
        self.hub.on("all/**", role="control")(lambda event: self.came.append((event.step, event.value, self.hub.step)))
        self.hub.on(ReductionDegraded, role="control")(lambda event: self._say("degraded", event, event.error))
        self.hub.on(ReductionRestored, role="control")(lambda event: self._say("restored", event, event.note))

    def _say(self, kind: str, event: Any, text: str) -> None:
        self.said.append((kind, text, event.time))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.said]

    def step(self, settle: bool = True) -> None:
        """Train for a step without the others."""
        self.hub.step += 1
        self.hub.update_scalar("train/n", 1)
        time.sleep(0.001)
        if self.hub.step == self.stops_at:
            self._rank.say(time.time())
            os.kill(os.getpid(), signal.SIGSTOP)  # now: the others are about to reduce
        if settle:
            begun = time.perf_counter()
            self.hub.settle()
            self.waits[self.hub.step] = time.perf_counter() - begun

    def until(self, done: Callable[[], bool], settle: bool = True) -> None:
        """Train, all ranks step by step together, until ``done()`` on all of them."""
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline, self.said
            left = torch.tensor([0.0 if done() else 1.0, 1.0])
            distributed.all_reduce(left)
            assert left[1] == self._rank.size  # the run's own group is as ever
            if not left[0]:
                return
            self.step(settle)

    def steps(self, number: int) -> None:
        """Train for some steps together."""
        last = self.hub.step + number
        self.until(lambda: self.hub.step >= last)

    def outcome(self) -> dict[str, Any]:
        total = sum(value for _, value, _ in self.came)
        return {"said": self.said, "came": self.came, "total": total, "step": self.hub.step, "waits": self.waits}


def check_nothing_lost(outcomes: list[dict[str, Any]], size: int) -> None:
    for outcome in outcomes:
        assert outcome["total"] == outcome["step"] * size


def check_waits(outcome: dict[str, Any]) -> None:
    """Look that no settle point has waited but where an interval ends, and there no longer than it may."""
    within = [seconds for step, seconds in outcome["waits"].items() if step % EVERY]
    at_the_end = [seconds for step, seconds in outcome["waits"].items() if step % EVERY == 0]
    assert sorted(within)[int(0.95 * len(within))] < 0.005
    assert max(within) < 0.5  # a busy machine
    assert max(at_the_end) < TIMEOUT + 1.5


# --- a rank that is stopped for a while


def stopped(rank: Rank) -> dict[str, Any]:
    training = Training(rank)
    with training.hub:
        if rank.index == 1:
            training.stops_at = 3 * EVERY
        training.until(lambda: "degraded" in training.kinds)
        if rank.index == 0:
            training.reducer.request(StopRequested(reason="asked amid it"))
        training.until(lambda: "restored" in training.kinds)
        training.until(lambda: training.hub.stop_requested)
        training.steps(3)
        training.reducer.close()
    return training.outcome()


def test_a_rank_that_is_stopped_for_a_while_is_waited_for_and_comes_back() -> None:
    with ranks(2, stopped) as running:
        at = running.hear(1)
        time.sleep(2.5 * TIMEOUT)  # as long as the rank is to be away
        running.signal(1, signal.SIGCONT)
        back = time.time()
        outcomes = running.results()
    check_nothing_lost(outcomes, 2)
    assert outcomes[0]["came"] == outcomes[1]["came"]
    assert outcomes[0]["step"] == outcomes[1]["step"]
    (degraded, error, when), (restored, note, then) = outcomes[0]["said"]
    assert (degraded, restored, note) == ("degraded", "restored", "")
    assert error.startswith(("WaitTimeoutError: ", "RuntimeError: "))
    assert at < when < at + TIMEOUT + 1
    assert back < then < back + 5
    for outcome in outcomes:
        check_waits(outcome)


# --- a rank that is killed


def killed(rank: Rank) -> dict[str, Any]:
    training = Training(rank)
    with training.hub:
        training.steps(12)
        rank.say("ready")
        deadline = time.monotonic() + PATIENCE
        while "degraded" not in training.kinds and time.monotonic() < deadline:
            training.step()
        for _ in range(100):
            training.step()
        begun = time.monotonic()
    return {**training.outcome(), "leaving": time.monotonic() - begun}


def test_the_others_go_on_without_waiting_when_a_rank_is_killed() -> None:
    with ranks(3, killed) as running:
        for index in range(3):
            running.hear(index)
        running.signal(2, signal.SIGKILL)
        for outcome in running.results():
            assert [kind for kind, _, _ in outcome["said"]] == ["degraded"]
            assert outcome["leaving"] < TIMEOUT + 2
            check_waits(outcome)


# --- a rank whose connections break when the others are done


def broken(rank: Rank) -> dict[str, Any]:
    training = Training(rank)
    columns = Gathered.columns
    calls: list[float] = []

    def break_down(gathered: Gathered, deadline: float) -> Any:
        calls.append(deadline)
        if len(calls) == 2:
            raise ConnectionResetError("the cable was pulled")
        return columns(gathered, deadline)

    with training.hub:
        if rank.index == 1:
            Gathered.columns = break_down  # type: ignore[method-assign]
        training.until(lambda: "restored" in training.kinds)
        training.steps(2 * EVERY)
        training.reducer.close()
    return training.outcome()


def test_what_some_ranks_have_reduced_before_a_failure_is_reduced_once_and_told_to_the_others() -> None:
    with ranks(2, broken) as running:
        outcomes = running.results()
    check_nothing_lost(outcomes, 2)
    first, second = ([(step, value) for step, value, _ in outcome["came"]] for outcome in outcomes)
    assert first == second
    assert outcomes[1]["said"][0][:2] == ("degraded", "ConnectionResetError: the cable was pulled")
    assert [outcome["said"][1][1] for outcome in outcomes] == ["ranks 1 come to reduction 1 later than the others"] * 2


# --- a rank that leaves out settle points


def skipping(rank: Rank) -> dict[str, Any]:
    training = Training(rank)
    with training.hub:
        training.steps(2 * EVERY)
        training.until(lambda: rank.index == 1 or "degraded" in training.kinds, settle=rank.index == 0)
        training.until(lambda: "restored" in training.kinds)
        training.steps(3 * EVERY)
        training.reducer.close()
    return training.outcome()


@pytest.mark.slow
def test_a_rank_that_leaves_out_settle_points_is_waited_for_and_comes_back() -> None:
    with ranks(2, skipping) as running:
        outcomes = running.results()
    check_nothing_lost(outcomes, 2)
    first, second = ([(step, value) for step, value, _ in outcome["came"]] for outcome in outcomes)
    assert first == second
    for outcome in outcomes:
        assert [kind for kind, _, _ in outcome["said"]] == ["degraded", "restored"]


# --- a rank that comes late


def late(rank: Rank) -> dict[str, Any]:
    if rank.index == 1:
        step = rank.heard()
        training = Training(rank)
        training.hub.step = step
    else:
        training = Training(rank)
    with training.hub:
        if rank.index == 0:
            deadline = time.monotonic() + PATIENCE
            while "degraded" not in training.kinds and time.monotonic() < deadline:
                training.step()
            rank.say(training.hub.step)
        training.until(lambda: rank.index == 1 or "restored" in training.kinds)
        training.steps(2 * EVERY)
        training.reducer.close()
    return training.outcome()


def test_a_rank_that_comes_late_is_named_and_taken_in() -> None:
    with ranks(2, late) as running:
        begun = running.hear(0)
        running.tell(begun)
        zero, one = running.results()
    assert [kind for kind, _, _ in zero["said"]] == ["degraded", "restored"]
    assert zero["said"][0][1] == f"WaitTimeoutError: these ranks have not come in {TIMEOUT:g} s: 1"
    assert one["said"] == []
    assert zero["total"] == zero["step"] + (one["step"] - begun)
    assert zero["came"] == one["came"]


# --- all of it at random


def shaken(rank: Rank, seconds: float) -> dict[str, Any]:
    training = Training(rank)
    end = time.monotonic() + seconds
    with training.hub:
        rank.say("ready")
        training.until(lambda: time.monotonic() > end)
        for _ in range(3):  # nobody is stopped any more, but some may not have noticed yet what was
            training.until(lambda: training.kinds[-1:] != ["degraded"])
            training.steps(2 * EVERY)
        training.reducer.close()
    return training.outcome()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_counted_twice_however_ranks_are_stopped(seed: int) -> None:
    rng = random.Random(seed)
    seconds = 12.0
    with ranks(3, shaken, seconds) as running:
        for index in range(3):
            running.hear(index)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            index = rng.randrange(3)
            running.signal(index, signal.SIGSTOP)
            time.sleep(rng.random() * rng.choice([0.1, TIMEOUT, 2 * TIMEOUT]))
            running.signal(index, signal.SIGCONT)
            time.sleep(rng.random() / 2)
        outcomes = running.results()
    check_nothing_lost(outcomes, 3)
    results = [[(step, value) for step, value, _ in outcome["came"]] for outcome in outcomes]
    assert results[0] == results[1] == results[2]
