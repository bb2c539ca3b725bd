"""A trial: what a subscriber decides over many events at once is what it decides at a settle point for each."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from asynchub.errors import ControlAwaitedError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.requests import (
    Decided,
    ParameterChanged,
    ParameterChangeRequested,
    Request,
    SkipRequested,
    StopRequested,
)
from asynchub.rules import DummyOptimizer, parse_rules
from asynchub.subscribers.plateau import ReduceLROnPlateau
from asynchub.testing import Drive, scalars
from asynchub.trying import Trial

RULES = [
    *parse_rules("EarlyStopping:loss:patience=1,3,6:min_delta=0,0.05:cumulative=False,True"),
    *parse_rules("EarlyStopping:loss:patience=2:check_finite=False:smooth=None,3,('ema',0.5):min_epochs=None,4"),
    *parse_rules("EarlyStopping:loss:patience=2:like=keras,ignite:mode=min"),
    *parse_rules("EarlyStopping:loss:patience=2:check_finite=False:start_from=0,5,'2ep'"),
    *parse_rules("ReduceLROnPlateau:loss:lr=0.1,[0.1,0.01]:patience=1,3:cooldown=0,2"),
    *parse_rules("SpikeDetection:loss:rtol=0.5,2:action=skip,stop,rollback:max_actions=2,None"),
    *parse_rules("NanGuard:loss:action=skip,stop"),
    *parse_rules("MaxSteps:7,1000"),
    *parse_rules("CheckpointPolicy:every=5,'1ep':monitor=None,loss"),
]


def recorded(seed: int) -> list[Event]:
    """Return a run of a scalar that improves, stays, jumps and is not finite, with epochs; some steps are missing."""
    chance = random.Random(seed)
    events: list[Event] = []
    for step in range(1, 60):
        if step % 6 == 1:
            events.append(InfoUpdated(key="epoch", value=step // 6))
        value = round(max(1.5 - step / 20, 0.5) + chance.choice([0.0, 0.0, 0.05, 0.2]) * chance.random(), 3)
        value *= chance.choices([1.0, 10.0, float("nan"), float("inf")], [40, 3, 1, 1])[0]
        count = chance.choice([1, 1, 8, 0])
        events.append(
            ScalarUpdated(key="loss", value=value * max(count, 1), count=count, step=chance.choice([step, None]))
        )
    return [event.stamped(seq, 1e9 + seq * chance.random(), event.step) for seq, event in enumerate(events, 1)]


def facts(event: Event) -> Any:
    """Return what an answer says, apart from when it was given."""
    if isinstance(event, ParameterChanged):
        return event.step, event.group, event.old, event.new, event.reason
    if isinstance(event, Request):
        return event.step, event.reason
    return event.step


def driven(subscriber: Any, events: list[Event]) -> list[Event]:
    """Return what it answers, settled after each event, until it asks to stop."""
    drive = Drive(subscriber)
    for event in events:
        drive.send(event)
        if any(isinstance(one, StopRequested) for one in drive.answers):
            break
    drive.close()
    return drive.answers


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_trial_decides_what_a_settle_point_for_each_event_does(rule: Any, seed: int) -> None:
    events = recorded(seed)
    answers = driven(rule.make(), events)
    trial = Trial(rule.make())
    test = trial.selection.test()
    wanted = [event for event in events if test(event.key, type(event))]
    chance = random.Random(seed)
    while wanted:
        size = chance.randint(1, 20)
        trial.send(wanted[:size])
        del wanted[:size]
    trial.close()
    assert trial.error is None
    stops = [one for one in answers if isinstance(one, StopRequested)]
    assert (trial.answers.stop is None) == (not stops)
    if stops:
        assert trial.answers.stop is not None
        assert facts(trial.answers.stop) == facts(stops[0])
    changes = [one for one in answers if isinstance(one, ParameterChanged | ParameterChangeRequested)]
    assert [facts(one) for one in trial.answers.changes] == [facts(one) for one in changes]
    assert trial.answers.verdicts == Counter(one.verdict for one in answers if isinstance(one, Decided))
    assert trial.answers.requests == {
        kind: [one.step for one in answers if type(one).__name__ == kind]
        for kind in {type(one).__name__ for one in answers if isinstance(one, Request)} - {"StopRequested"}
    }


class Reader:
    """Answers each event, in one of the ways that there are to read."""

    role = "control"

    def __init__(self, way: str) -> None:
        self.way = way
        self.sizes: list[int] = []

    async def __call__(self, events: Any) -> None:
        if self.way == "one by one":
            async for event in events:
                self.sizes.append(1)
                events.request(SkipRequested(reason=str(event.value)))
        else:
            async for batch in events.batches():
                self.sizes.append(len(batch))
                for event in batch:
                    events.request(SkipRequested(reason=str(event.value)))


@pytest.mark.parametrize("way", ["one by one", "batches"])
def test_an_answer_belongs_to_the_event_in_hand(way: str) -> None:
    reader = Reader(way)
    trial = Trial(reader)
    events: list[Event] = [event.stamped(seq, 0.0, event.step) for seq, event in enumerate(scalars("a", [1, 2, 3]), 1)]
    trial.send(events)
    trial.close()
    assert trial.answers.requests == {"SkipRequested": [1, 2, 3]}
    assert reader.sizes == [1, 1, 1]
    assert trial.handled == 3


def made(call: Callable[[Any, Any], object]) -> Any:
    class Made:
        role = "control"

        async def __call__(self, events: Any) -> None:
            async for event in events:
                done = call(events, event)
                if done is not None:
                    await done  # type: ignore[misc]

    return Made()


def fail(events: Any, event: Any) -> None:
    raise ValueError(f"no {event.value}")


def test_what_a_subscriber_raises_ends_its_trial_and_is_kept() -> None:
    trial = Trial(made(fail))
    trial.send(list(scalars("a", [1.0, 2.0])))
    trial.send(list(scalars("a", [3.0])))
    assert repr(trial.error) == "ValueError('no 1.0')"
    assert trial.ended
    trial.close()


def test_awaiting_anything_else_is_refused_as_at_a_settle_point() -> None:
    trial = Trial(made(lambda events, event: asyncio.sleep(0)))
    trial.send(list(scalars("a", [1.0])))
    assert isinstance(trial.error, ControlAwaitedError)


def test_a_stop_ends_the_events_of_this_one_only() -> None:
    events: list[Event] = list(scalars("a", [1.0, 2.0, 3.0]))
    first, second = (
        Trial(made(lambda events, event: events.request(StopRequested()) and None)),
        Trial(Reader("batches")),
    )
    for trial in (first, second):
        trial.send(events)
        trial.close()
    assert (first.handled, second.handled) == (1, 3)
    assert len(events) == 3


def test_what_a_rule_records_and_publishes_is_counted() -> None:
    def answer(events: Any, event: Any) -> None:
        events.update_scalar("clip/threshold", event.value)
        events.publish(Decided(author="x", verdict="clip"))
        events.publish(InfoUpdated(key="x", value=1))

    trial = Trial(made(answer))
    trial.send(list(scalars("a", [1.0, 2.0])))
    trial.close()
    assert trial.answers.scalars == {"clip/threshold": 2}
    assert trial.answers.verdicts == {"clip": 2}
    assert trial.answers.published == {"InfoUpdated": [1, 2]}


def test_a_rule_changes_the_optimizer_that_it_was_given() -> None:
    optimizer = DummyOptimizer([0.1, 0.01])
    trial = Trial(ReduceLROnPlateau(optimizer, "a", patience=0, factor=0.5))
    trial.send(list(scalars("a", [1.0, 1.0])))
    trial.close()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.005]
