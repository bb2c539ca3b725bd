"""Events are made once, when somebody first takes them, and only those that somebody wants."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from asynchub import Event, EventsDropped, InfoUpdated, MessageHub, ScalarUpdated, Subscription
from asynchub import stretches as module
from asynchub.channels import Channel
from asynchub.stretches import LONGEST, Stretch, whole_stretches
from asynchub.subscription import SPELL


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


def made() -> int:
    gc.collect()
    return sum(type(one) is ScalarUpdated for one in gc.get_objects())


async def all_batches(events: Subscription) -> list[Sequence[Event]]:
    events.close()
    return [batch async for batch in events.batches()]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_events_that_are_only_counted_are_not_made(backend: str) -> None:
    hub = MessageHub("hub")
    before = made()

    async def main() -> None:
        count = 0
        with hub.subscribe("a/*") as events:
            batches = events.batches()
            for number in range(300):
                hub.update_scalars({f"a/{key}": float(number) for key in range(10)})
            while count < 3000:
                with anyio.fail_after(10):
                    batch = await anext(batches)
                assert 0 < len(batch) <= 256
                count += len(batch)
            assert made() == before
            assert [event.seq for event in batch] == list(range(3001 - len(batch), 3001))
            assert made() == before + len(batch)
            assert events.last_seq == count == 3000
            assert events.statistics().delivered == 3000

    anyio.run(main, backend=backend)


def test_a_batch_behaves_like_a_list_that_cannot_be_changed() -> None:
    hub = MessageHub("hub")
    events = hub.subscribe()
    for number in range(10):
        hub.update_scalar("a", number)
    (batch,) = [events._take_whole()]
    assert batch is not None
    assert isinstance(batch, Sequence)
    as_list = list(batch)
    assert batch == as_list
    assert as_list == batch
    assert batch == Stretch.of_events(as_list)
    assert batch != as_list[1:]
    assert batch != tuple(as_list)
    assert (len(batch), batch[0], batch[-1]) == (10, as_list[0], as_list[9])
    assert type(batch[2:5]) is list
    assert batch[2:5] == as_list[2:5]
    assert list(reversed(batch)) == as_list[::-1]
    assert as_list[3] in batch
    assert batch.index(as_list[3]) == 3
    assert batch[0] is as_list[0]
    with pytest.raises(IndexError):
        batch[10]
    for change in ("append", "clear", "__setitem__", "__delitem__", "__iadd__", "sort"):
        assert not hasattr(batch, change)
    with pytest.raises(TypeError):
        hash(batch)
    for other in (copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert type(other) is list
        assert other == as_list
    as_list.clear()
    assert len(list(batch)) == 10
    assert repr(batch) == repr(list(batch))
    events.close()


def test_all_readers_get_the_same_events_whenever_they_look() -> None:
    hub = MessageHub("hub")
    readers = [hub.subscribe(*wanted) for wanted in (("a/*",), ("a/*",), ("**",), ("a/one", "b/*"))]
    for number in range(700):
        hub.update_scalars({"a/one": float(number), "a/two": 0.5, "b/one": 1.5})
    hub.update_info("a/info", 1)

    async def main() -> list[list[Sequence[Event]]]:
        return [await all_batches(reader) for reader in readers]

    kept = anyio.run(main)
    hub.update_scalar("a/one", -1.0)
    found = [[event for batch in batches for event in batch] for batches in kept]
    assert found[0] == found[1]
    by_seq = {event.seq: event for event in found[2]}
    for events, size in zip(found, (1401, 1401, 2101, 1400), strict=True):
        assert len(events) == size
        assert all(by_seq[event.seq] is event for event in events)
        assert [event.seq for event in events] == sorted(event.seq for event in events)


def test_threads_that_look_at_one_batch_at_the_same_time_find_the_same_objects() -> None:
    threads = 4
    for _ in range(100):
        parts = list(Stretch.of_entries(range(LONGEST + 44), entries(LONGEST + 44)))
        whole = whole_stretches([(0, parts[0]), (LONGEST, parts[1])], 0, 300)
        assert whole is not None
        looks: list[Sequence[Event]] = [parts[0], whole, parts[0].part(range(10)), whole]
        found: list[list[Event]] = [[] for _ in looks]
        ready = threading.Barrier(threads)

        def look(index: int, looks: Any = looks, found: Any = found, ready: Any = ready) -> None:
            ready.wait(10)
            found[index] = list(looks[index])

        running = [threading.Thread(target=look, args=(index,)) for index in range(threads)]
        for one in running:
            one.start()
        for one in running:
            one.join(10)
        assert [len(events) for events in found] == [256, 300, 10, 300]
        for events in found:
            assert all(mine is theirs for mine, theirs in zip(events, whole, strict=False))


def test_whole_stretches_are_those_that_fit(rng: np.random.Generator) -> None:
    for _ in range(200):
        sizes = rng.integers(1, 60, int(rng.integers(1, 12))).tolist()
        starts = [sum(sizes[:index]) + 100 for index in range(len(sizes))]
        seqs = [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
        stretches = [(start, Stretch(one, entries(len(one)))) for start, one in zip(starts, seqs, strict=True)]
        position, limit = int(rng.integers(100, starts[-1] + sizes[-1])), int(rng.integers(1, 200))
        found = whole_stretches(stretches, position, limit)
        wanted: list[int] = []
        for one in seqs[starts.index(position) :] if position in starts else []:
            if len(wanted) + len(one) > limit:
                break
            wanted += one
        assert (found is None) == (not wanted)
        if found is not None:
            assert (found.size, found.last_seq) == (len(wanted), wanted[-1])
            assert [event.seq for event in found] == wanted


@pytest.mark.parametrize("overflow", ["drop_oldest", "raise", "block", "latest"])
def test_what_is_read_in_batches_is_what_is_read_one_by_one(overflow: Any, rng: np.random.Generator) -> None:
    hub = MessageHub("hub")

    async def main() -> None:
        both = [hub.subscribe("a/*", max_lag=2000, overflow=overflow) for _ in range(2)]
        batches, single = both[0].batches(), both[1]
        found: list[list[Event]] = [[], []]
        for _ in range(30):
            for number in range(int(rng.integers(1, 60))):
                hub.update_scalars({f"a/{key}": number for key in range(int(rng.integers(1, 12)))})
                if rng.random() < 0.1:
                    hub.update_info("a/info", number)
            count = 0
            with anyio.fail_after(10):
                while both[0].statistics().lag:
                    batch = await anext(batches)
                    found[0] += batch
                    count += len(batch)
                for _ in range(count):
                    found[1].append(await anext(single))
            assert both[0].last_seq == both[1].last_seq == hub.statistics().seq
        assert len(found[0]) == len(found[1])
        assert all(mine is theirs for mine, theirs in zip(*found, strict=True))
        assert both[0].statistics().delivered == len(found[0])
        assert {type(event) for event in found[0]} == {ScalarUpdated, InfoUpdated}
        for one in both:
            one.close()

    anyio.run(main)


def test_what_was_lost_is_said_in_the_first_batch_after_it() -> None:
    hub = MessageHub("hub")

    async def main() -> None:
        with hub.subscribe("a", max_lag=300) as events:
            for number in range(1000):
                hub.update_scalar("a", float(number))
            (first, second) = [batch async for batch in _some(events, 2)]
            assert isinstance(first[0], EventsDropped)
            assert first[0].missed == 700
            assert [event.seq for event in [*first[1:], *second]] == list(range(701, 1001))

    anyio.run(main)


async def _some(events: Subscription, count: int) -> Any:
    batches = events.batches()
    for _ in range(count):
        with anyio.fail_after(10):
            yield await anext(batches)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("way", ["batches", "events"])
def test_a_reader_lets_others_run_when_it_has_read_on_for_a_while(way: str, backend: str) -> None:
    hub = MessageHub("hub")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        with hub.subscribe("a") as events:
            for number in range(20 * LONGEST):
                hub.update_scalar("a", float(number))
            async with anyio.create_task_group() as group:
                group.start_soon(other)
                await anyio.lowlevel.checkpoint()
                batches = events.batches()
                for _ in range(20):
                    if way == "batches":
                        await anext(batches)
                    else:
                        for _ in range(LONGEST):
                            await anext(events)
                    began = time.perf_counter()
                    while time.perf_counter() - began <= SPELL:  # a handler at work
                        pass
                assert turns >= 19
                group.cancel_scope.cancel()

    anyio.run(main, backend=backend)


def test_the_module_shows_what_it_promises() -> None:
    assert module.__all__ == ("LONGEST", "Stretch", "sifted", "whole_stretches")
