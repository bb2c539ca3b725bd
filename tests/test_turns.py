"""Control subscribers that have something to do at every settle point."""

from __future__ import annotations

import pytest

from asynchub import Event, MessageHub
from asynchub.errors import ControlFailedError
from asynchub.settled import SettledSubscription
from asynchub.subscription import Subscription


class Turns:
    """Keeps what each turn brought."""

    role = "control"
    keys = ("loss",)

    def __init__(self) -> None:
        self.turns: list[list[float]] = []
        self.ended = False

    async def __call__(self, events: Subscription) -> None:
        assert isinstance(events, SettledSubscription)
        async for turn in events.turns():
            self.turns.append([event.value for event in turn])
        self.ended = True


def test_each_settle_point_is_a_turn_with_or_without_events() -> None:
    hub, turns = MessageHub("turns"), Turns()
    hub.attach(turns)
    with hub:
        hub.settle()
        hub.update_scalar("loss", 1.0)
        hub.settle()
        hub.settle()
    assert turns.turns == [[], [1.0], []]
    assert turns.ended


def test_a_turn_has_all_that_was_published_before_however_much_it_is() -> None:
    hub, turns = MessageHub("turns"), Turns()
    hub.attach(turns)
    with hub:
        hub.settle()
        for number in range(1000):
            hub.update_scalar("loss", float(number))
            hub.update_scalar("other", 0.0)
        hub.settle()
        hub.update_scalar("loss", -1.0)
    assert turns.turns == [[], [float(number) for number in range(1000)], [-1.0]]


def test_what_others_answer_in_a_settle_point_is_another_turn_of_it() -> None:
    hub, turns = MessageHub("turns"), Turns()
    hub.attach(turns, order=-1)

    class Answers:
        role = "control"
        keys = ("step",)

        async def __call__(self, events: Subscription) -> None:
            async for event in events:
                events.update_scalar("loss", event.value)

    hub.attach(Answers())
    with hub:
        hub.update_scalar("step", 5.0)
        hub.settle()
        assert [turn for turn in turns.turns if turn] == [[5.0]]


def test_a_turn_raises_what_the_predicate_of_its_reader_raised() -> None:
    hub, turns = MessageHub("turns"), Turns()

    def refuse(event: Event) -> bool:
        raise ValueError("no")

    hub.attach(turns, when=refuse)
    with hub:
        hub.settle()
        hub.update_scalar("loss", 1.0)
        with pytest.raises(ControlFailedError):
            hub.settle()


async def test_turns_come_where_settle_points_are_awaited() -> None:
    hub, turns = MessageHub("turns"), Turns()
    hub.attach(turns)
    async with hub:
        hub.update_scalar("loss", 2.0)
        await hub.settled()
        await hub.settled()
    assert turns.turns == [[2.0], []]
    assert turns.ended


def test_observers_see_what_control_subscribers_say_when_the_hub_is_left() -> None:
    hub = MessageHub("turns")
    seen: list[float] = []

    class Last:
        role = "control"
        keys = ("loss",)

        async def __call__(self, events: Subscription) -> None:
            async for _ in events:
                pass
            events.update_scalar("last", 7.0)

    hub.attach(Last())
    hub.on("last")(lambda event: seen.append(event.value))
    with hub.subscribe("last") as subscription, hub:
        hub.update_scalar("loss", 1.0)
    assert seen == [7.0]
    assert subscription.statistics().lag == 1
