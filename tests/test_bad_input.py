"""Bad input: a clear error of a documented class, nothing changed, nothing lost."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asynchub import Event, InfoUpdated, MessageHub, ScalarUpdated, Subscription
from asynchub.errors import (
    ArgumentError,
    AsyncHubError,
    CountTypeError,
    KeyTypeError,
    NotAScalarError,
    PatternError,
    ResumedFlagError,
    SubscriptionError,
    UnknownScalarError,
)

no_number = st.one_of(
    st.none(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
    st.lists(st.floats()),
    st.dictionaries(st.text(), st.floats()),
    st.sampled_from([np.zeros(3), np.zeros(0), torch.zeros(2, 2), torch.zeros(0), object(), float, np.array("x")]),
)
no_int = st.one_of(st.none(), st.text(), st.floats(), st.complex_numbers(), st.just(np.ones(2)))
no_key = st.one_of(st.none(), st.integers(), st.floats(), st.binary(), st.tuples(st.text()))


class Watched:
    """A hub with something in it, and a reader."""

    def __init__(self) -> None:
        self.hub = MessageHub("hub")
        self.hub.update_scalars({"a": 1.0, "b": {"value": 2, "count": 3}})
        self.hub.update_info("epoch", 1)
        self.hub.update_info("fixed", 1, resumed=False)
        self.hub.step = 5
        self.events = self.hub.subscribe()

    def picture(self) -> Any:
        hub = self.hub
        hub._bus.collect()
        return (
            {key: [column.tolist() for column in history.records()] for key, history in hub.log_scalars.items()},
            dict(hub.runtime_info),
            dict(hub._resumed_keys),
            dict(hub._info_stamps),
            (hub.step, hub.statistics()),
            [event.seq for channel in hub._bus.channels for event in channel.between(channel.base, channel.end)],
        )

    def refuses(self, error: type[AsyncHubError], call: Callable[[MessageHub], object]) -> None:
        """Check that ``call`` raises ``error`` and leaves no trace, and that all goes on afterwards."""
        before = self.picture()
        with pytest.raises(error) as caught:
            call(self.hub)
        assert str(caught.value)
        assert self.picture() == before
        self.hub.update_scalar("a", 1.0)
        self.hub.update_info("epoch", 2)
        assert self.hub.statistics().seq == before[4][1].seq + 2
        assert self.events.statistics().lag == 2


@given(no_number, st.sampled_from(["a", "new"]))
def test_a_value_that_is_not_one_real_number_leaves_no_trace(value: Any, key: str) -> None:
    Watched().refuses(NotAScalarError, lambda hub: hub.update_scalar(key, value))
    Watched().refuses(AsyncHubError, lambda hub: hub.update_scalars({"b": 1.0, "newer": 2.0, key: value}))
    Watched().refuses(NotAScalarError, lambda hub: hub.update_scalars({"b": 1.0, key: {"value": value}}))
    Watched().refuses(NotAScalarError, lambda hub: hub.probe(key)(value))


@given(no_int)
def test_a_count_that_is_no_int_leaves_no_trace(count: Any) -> None:
    Watched().refuses(CountTypeError, lambda hub: hub.update_scalar("a", 1.0, count))
    Watched().refuses(AsyncHubError, lambda hub: hub.update_scalars({"b": 1.0, "a": {"value": 1.0, "count": count}}))


@given(no_key)
def test_a_key_that_is_no_string_leaves_no_trace(key: Any) -> None:
    Watched().refuses(KeyTypeError, lambda hub: hub.update_scalar(key, 1.0))
    Watched().refuses(KeyTypeError, lambda hub: hub.update_scalars({"b": 1.0, "new": 1.0, key: 1.0}))
    Watched().refuses(KeyTypeError, lambda hub: hub.update_info(key, 1))
    Watched().refuses(KeyTypeError, lambda hub: hub.update_info_dict({"epoch": 3, "new": 1, key: 1}))
    Watched().refuses(KeyTypeError, lambda hub: hub.probe(key))


@pytest.mark.parametrize("key", [[], {}, np.zeros(2)], ids=lambda key: type(key).__name__)
def test_a_key_that_cannot_be_hashed_leaves_no_trace(key: Any) -> None:
    Watched().refuses(KeyTypeError, lambda hub: hub.update_scalar(key, 1.0))
    Watched().refuses(KeyTypeError, lambda hub: hub.update_info(key, 1.0))


@given(st.one_of(st.text(), st.floats(), st.booleans(), st.integers(min_value=2**63), st.just([1])))
def test_a_step_that_is_no_int_leaves_no_trace(step: Any) -> None:
    Watched().refuses(ArgumentError, lambda hub: hub.update_scalar("a", 1.0, step=step))
    Watched().refuses(ArgumentError, lambda hub: hub.update_scalars({"a": 1.0}, step=step))
    Watched().refuses(ArgumentError, lambda hub: hub.update_info("epoch", 1, step=step))
    Watched().refuses(ArgumentError, lambda hub: hub.publish(Event(key="mine"), step=step))
    Watched().refuses(ArgumentError, lambda hub: hub.publish(Event(key="mine", step=step)))
    Watched().refuses(ArgumentError, lambda hub: setattr(hub, "step", step))


@pytest.mark.parametrize(
    "call",
    [
        lambda hub: hub.update_scalar("a", 1.0, resumed=False),
        lambda hub: hub.update_scalars({"new": 1.0, "a": 1.0}, resumed=False),
        lambda hub: hub.update_info("epoch", 1, resumed=False),
        lambda hub: hub.update_info("fixed", 1),
        lambda hub: hub.update_info_dict({"new": 1, "fixed": 1}),
        lambda hub: hub.update_scalar("fixed", 1.0),
    ],
)
def test_a_changed_resumed_flag_leaves_no_trace(call: Callable[[MessageHub], object]) -> None:
    Watched().refuses(ResumedFlagError, call)


@given(st.one_of(st.none(), st.integers(), st.text(), st.lists(st.tuples(st.text(), st.floats()))))
def test_what_is_no_dict_leaves_no_trace(junk: Any) -> None:
    Watched().refuses(ArgumentError, lambda hub: hub.update_scalars(junk))
    Watched().refuses(ArgumentError, lambda hub: hub.update_info_dict(junk))


def test_a_dict_without_a_value_leaves_no_trace() -> None:
    Watched().refuses(ArgumentError, lambda hub: hub.update_scalars({"b": 1.0, "a": {"count": 1}}))


@pytest.mark.parametrize(
    "junk",
    [None, "x", Event, 3, ScalarUpdated(key="a", value=1.0), InfoUpdated(key="a", value=1)],
)
def test_what_is_no_event_of_its_own_is_not_published(junk: Any) -> None:
    Watched().refuses(ArgumentError, lambda hub: hub.publish(junk))


@pytest.mark.parametrize("junk", ["", "a//b", "**x", 3, None])
def test_a_malformed_pattern_is_refused_wherever_one_is_meant(junk: Any) -> None:
    async def subscriber(events: Subscription) -> None: ...

    for call in (
        lambda hub: hub.subscribe(junk),
        lambda hub: hub.subscribe("a", junk),
        lambda hub: hub.attach(subscriber, junk),
        lambda hub: hub.on(junk)(print),
        lambda hub: hub.watch(junk),
    ):
        Watched().refuses(PatternError, call)


@pytest.mark.parametrize("junk", [int, type, AsyncHubError])
def test_a_class_that_is_no_event_is_refused_where_one_is_meant(junk: Any) -> None:
    Watched().refuses(ArgumentError, lambda hub: hub.subscribe(junk))


def test_an_unknown_key_is_named() -> None:
    Watched().refuses(UnknownScalarError, lambda hub: hub.get_scalar("nothing"))
    assert MessageHub("hub").get_info("nothing", 3) == 3


@pytest.mark.parametrize("junk", [3, None, "x", Event])
def test_on_decorates_functions_only(junk: Any) -> None:
    Watched().refuses(ArgumentError, lambda hub: hub.on("a")(junk))


async def test_two_tasks_cannot_read_one_subscription() -> None:
    hub = MessageHub("hub")
    with hub.subscribe() as events:
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(anext, events))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(SubscriptionError, match="by another task"):
                await anext(events)
            hub.update_scalar("a", 1.0)


@given(st.integers(-(10**12), 10**12), st.one_of(st.floats(), st.integers(-(10**30), 10**30), st.booleans()))
def test_what_the_contract_accepts_is_accepted(count: int, value: float) -> None:
    hub = MessageHub("hub")
    hub.update_scalar("a", value, count)
    hub.update_info("a", value)
    _, counts = hub.get_scalar("a").data
    assert counts.tolist() == [count]
    assert hub.get_info("a") is value
