"""Events are made once, when somebody first takes them, and only those that somebody wants."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from asynchub import Event, MessageHub, ScalarUpdated
from asynchub import stretches as module
from asynchub.channels import Channel
from asynchub.stretches import LONGEST, Stretch


class Cell:
    def __init__(self, key: str) -> None:
        self.key = key


def entries(size: int, keys: int = 3) -> list[Any]:
    cells = [Cell(f"key/{number}") for number in range(keys)]
    return [item for n in range(size) for item in (cells[n % keys], 1e9 + n, n // 10, float(n), 1 + n % 2)]


def held(hub: MessageHub) -> list[list[Event]]:
    hub._bus.collect()
    return [channel.between(channel.base, channel.end) for channel in hub._bus.channels]


@pytest.mark.parametrize("size", [1, 2, LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST + 7])
def test_entries_become_the_events_that_they_say(size: int) -> None:
    items = entries(size)
    stretches = list(Stretch.of_entries(range(5, 5 + size), items))
    assert [len(one.events()) for one in stretches] == [one.size for one in stretches]
    assert max(one.size for one in stretches) <= LONGEST
    events = [event for one in stretches for event in one.events()]
    assert events == [
        ScalarUpdated(seq=5 + n, time=1e9 + n, step=n // 10, key=f"key/{n % 3}", value=float(n), count=1 + n % 2)
        for n in range(size)
    ]
    assert {type(event) for event in events} == {ScalarUpdated}
    assert [one.last_seq for one in stretches] == [one.events()[-1].seq for one in stretches]


def test_an_event_is_made_once_and_a_part_has_the_same_ones() -> None:
    (stretch,) = Stretch.of_entries(range(20), entries(20))
    part = stretch.part([0, 3, 19])
    assert (part.size, part.last_seq) == (3, 19)
    chosen = part.events()
    assert all(mine is theirs for mine, theirs in zip(chosen, [stretch.events()[n] for n in (0, 3, 19)], strict=True))
    assert stretch.events() is stretch.events()
    assert part.events() is chosen


def test_readers_of_other_selections_share_the_events() -> None:
    hub = MessageHub("hub")
    subscriptions = [hub.subscribe(*wanted) for wanted in ((), ("a/*",), ("a/*", "b/one"), (ScalarUpdated,))]
    for number in range(1000):
        hub.update_scalars({"a/one": number, "a/two": -number, "b/one": 0.5, "b/two": 1.5})
    hub.update_info("a/info", 1)
    everything, *selected = held(hub)
    by_seq = {event.seq: event for event in everything}
    assert [len(events) for events in selected] == [2001, 3001, 4000]
    for events in selected:
        assert all(by_seq[event.seq] is event for event in events)
        assert [event.seq for event in events] == sorted(event.seq for event in events)
    for one in subscriptions:
        one.close()


def test_events_that_nobody_wants_are_not_made() -> None:
    hub = MessageHub("hub")
    with hub.subscribe("a"):
        for _ in range(200):
            hub.update_scalars({"a": 1.0, **{f"b/{number}": 1.0 for number in range(9)}})
        hub._bus.collect()
        gc.collect()
        before = sum(type(one) is ScalarUpdated for one in gc.get_objects())
        (events,) = held(hub)
        assert sum(type(one) is ScalarUpdated for one in gc.get_objects()) - before == len(events) == 200


def test_a_channel_gives_any_slice_and_lets_go_of_what_was_taken(rng: np.random.Generator) -> None:
    channel = Channel(lambda key, kind: True)
    seq = 0
    for _ in range(40):
        size = int(rng.integers(1, 2 * LONGEST))
        for stretch in Stretch.of_entries(range(seq, seq + size), entries(size)):
            channel.append(stretch)
        seq += size
    assert (channel.base, channel.end, channel.last_seq) == (0, seq, seq - 1)
    for _ in range(200):
        start, stop = sorted(rng.integers(0, seq + 1, 2).tolist())
        assert [event.seq for event in channel.between(start, stop)] == list(range(start, stop))
    for low in sorted(rng.integers(0, seq, 20).tolist()):
        channel._let_go(low)
        assert channel.base <= low
        assert low - channel.base < LONGEST
        assert channel.end == seq
        assert [event.seq for event in channel.between(low, seq)] == list(range(low, seq))
    channel._let_go(seq)
    assert not channel.stretches
    assert (channel.base, channel.end, channel.last_seq, channel.gone) == (seq, seq, seq - 1, seq - 1)


def test_what_all_have_taken_is_not_held() -> None:
    hub = MessageHub("hub")
    fast, slow = hub.subscribe("a"), hub.subscribe("a")
    for number in range(3000):
        hub.update_scalar("a", float(number))
    (channel,) = hub._bus.channels
    while fast._take():
        pass
    assert channel.end - channel.base == 3000
    for taken in range(256, 3000, 256):
        assert len(slow._take()) == 256
        assert 0 <= taken - channel.base < LONGEST
    fast.close()
    slow.close()


def test_the_module_shows_what_it_promises() -> None:
    assert module.__all__ == ("LONGEST", "Stretch", "sifted")
