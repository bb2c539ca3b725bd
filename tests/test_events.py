"""Events: frozen facts, to dicts and JSON and back."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynchub import (
    Event,
    EventsDropped,
    InfoRemoved,
    InfoUpdated,
    MessageHub,
    ParameterChanged,
    ScalarUpdated,
    StopRequested,
    Subscription,
)
from asynchub.errors import CorruptStateError
from asynchub.eventforms import event_from_dict, event_to_dict, event_to_json
from asynchub.events import scalar_updated

KINDS: list[Event] = [
    ScalarUpdated(seq=1, time=2.0, step=3, key="a", value=0.5, count=4),
    InfoUpdated(seq=1, time=2.0, step=None, key="a", value=[1, "x"]),
    InfoRemoved(seq=1, time=2.0, key="a"),
    EventsDropped(seq=9, time=2.0, missed=3),
    StopRequested(seq=5, time=2.0, step=1, reason="enough", author="me"),
    ParameterChanged(seq=5, time=2.0, name="lr", group=0, old=1.0, new=0.5, reason="plateau", author="me"),
]


@pytest.mark.parametrize("event", KINDS, ids=lambda event: type(event).__name__)
def test_an_event_is_frozen_and_comes_back_from_a_dict(event: Event) -> None:
    assert event_from_dict(event_to_dict(event)) == event
    assert json.loads(event_to_json(event))["event"] == type(event).__name__
    for field in dataclasses.fields(event):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, field.name, 1)
    assert copy.deepcopy(event) == event


@given(st.integers(), st.floats(), st.one_of(st.none(), st.integers()), st.text(), st.floats(), st.integers())
def test_the_fast_way_makes_the_same_event_as_the_constructor(
    seq: int, time: float, step: int | None, key: str, value: float, count: int
) -> None:
    fast = scalar_updated(seq, time, step, key, value, count)
    plain = ScalarUpdated(seq=seq, time=time, step=step, key=key, value=value, count=count)
    assert type(fast) is ScalarUpdated
    assert repr(fast) == repr(plain)
    assert event_to_json(fast) == event_to_json(plain)
    if math.isfinite(time) and math.isfinite(value):
        assert (fast, hash(fast)) == (plain, hash(plain))
    with pytest.raises(dataclasses.FrozenInstanceError):
        fast.value = 1.0  # type: ignore[misc]
    assert json.loads(event_to_json(fast), parse_constant=pytest.fail)["count"] == count


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, '"NaN"'), (math.inf, '"Infinity"'), (-math.inf, '"-Infinity"'), (True, "true"), (3, "3")],
)
def test_json_is_strict_and_says_by_name_what_it_lacks(value: float, text: str) -> None:
    line = event_to_json(ScalarUpdated(seq=1, time=1.0, key="a", value=value))
    assert f'"value":{text}' in line
    assert "\n" not in line
    back = event_from_dict(json.loads(line))
    assert isinstance(back, ScalarUpdated)
    assert repr(back.value) == repr(value)


def test_json_holds_any_info() -> None:
    value = {"array": np.arange(3), 3: {1.5}, "path": object, "nested": [math.nan, (1, None)]}
    fields = json.loads(event_to_json(InfoUpdated(seq=1, time=1.0, key="a", value=value)))
    assert fields["value"]["array"] == [0, 1, 2]
    assert fields["value"]["3"] == [1.5]
    assert fields["value"]["nested"] == ["NaN", [1, None]]
    assert fields["value"]["path"] == "<class 'object'>"


@pytest.mark.parametrize("junk", [{"event": "ScalarUpdated"}, {"event": "ScalarUpdated", "key": "a"}])
def test_what_is_no_event_is_refused(junk: dict[str, Any]) -> None:
    with pytest.raises(CorruptStateError, match="not an event"):
        event_from_dict(junk)


def test_an_unknown_kind_comes_back_as_a_plain_event() -> None:
    event = event_from_dict({"event": "ModelExported", "seq": 3, "step": 2, "path": "x"})
    assert type(event) is Event
    assert (event.seq, event.step, event.key) == (3, 2, "ModelExported")


@dataclass(frozen=True, kw_only=True)
class ModelExported(Event):
    path: str


@dataclass(frozen=True, kw_only=True)
class BestModelExported(ModelExported):
    key: str = "checkpoints/best"


async def test_events_of_other_peoples_kinds_are_stamped_selected_and_delivered() -> None:
    hub = MessageHub("hub")
    hub.step = 7
    by_kind, by_key = hub.subscribe(ModelExported), hub.subscribe("checkpoints/*")
    both, scalars = hub.subscribe(BestModelExported, "a"), hub.subscribe("a")
    first = hub.publish(ModelExported(path="one"))
    second = hub.publish(BestModelExported(path="two"), step=3)
    third = hub.publish(ModelExported(path="three", step=1))
    hub.update_scalar("a", 1.0)
    assert [event.seq for event in (first, second, third)] == [1, 2, 3]
    assert [event.step for event in (first, second, third)] == [7, 3, 1]
    assert first.key == "ModelExported"
    assert first.time > 1e9

    async def got(events: Subscription) -> list[int]:
        events.close()
        return [event.seq async for event in events]

    assert await got(by_kind) == [1, 2, 3]
    assert await got(by_key) == [2]
    assert await got(both) == [2, 4]
    assert await got(scalars) == [4]


def test_a_published_event_has_all_that_the_given_one_had_of_every_kind() -> None:
    exported = BestModelExported(path="a.pt")
    object.__setattr__(exported, "note", "an attribute that is no field")
    stamped = exported.stamped(7, 1.5, 3)
    assert type(stamped) is BestModelExported
    assert stamped.note == exported.note  # type: ignore[attr-defined]
    assert exported.seq == -1
    for event in (*KINDS, exported):
        expected = dataclasses.replace(event, seq=7, time=1.5, step=3, key=event.key or type(event).__name__)
        assert event.stamped(7, 1.5, 3) == expected
