"""Collecting as a settle point does it leaves what collecting leaves, whatever breaks into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from asynchub import Event, EventsDropped, MessageHub, ScalarUpdated, Subscription
from asynchub import collecting as module
from asynchub.bus import EventBus
from asynchub.collecting import collect_few
from tests.interrupting import interrupted
from tests.test_interrupts import assert_free

KEYS = ("a/1", "a/2", "b/1", "c")


def told(event: Event) -> tuple[Any, ...]:
    return event.seq, event.key, getattr(event, "value", getattr(event, "missed", None))


async def read(subscription: Subscription) -> list[tuple[Any, ...]]:
    subscription.close()
    return [told(event) async for event in subscription]


class Hub:
    """A hub with readers of all kinds, collected by one function."""

    def __init__(self, collect: Callable[[EventBus], None]) -> None:
        self.hub = MessageHub("hub")
        self.collect = collect
        patterns: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            (("a/*",), {}),
            (("a/*",), {"max_lag": 5}),
            (("a/1", "c"), {}),
            (("c",), {"max_lag": 1, "overflow": "latest"}),
            ((ScalarUpdated,), {"every": 3}),
        ]
        self.readers = [self.hub.subscribe(*wanted, **terms) for wanted, terms in patterns]

    def do(self, rng: np.random.Generator) -> None:
        for _ in range(int(rng.integers(1, 5))):
            what, number = int(rng.integers(0, 5)), float(rng.integers(1000))
            if what < 2:
                self.hub.update_scalar(KEYS[int(rng.integers(4))], number)
            elif what == 2:
                self.hub.update_scalars(dict.fromkeys(KEYS[: int(rng.integers(1, 5))], number))
            elif what == 3:
                self.hub.update_info("a/info", number)
            else:
                for _ in range(int(rng.integers(200, 400))):
                    self.hub.update_scalar(KEYS[int(rng.integers(4))], number)
        self.collect(self.hub._bus)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_it_hands_every_reader_what_collecting_does(seed: int, wide: bool) -> None:
    hubs = [Hub(EventBus.collect), Hub(collect_few)]
    if wide:
        for one in hubs:
            one.readers.append(one.hub.subscribe("**"))
    for one in hubs:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            one.do(rng)
    expected, found = [[await read(reader) for reader in one.readers] for one in hubs]
    assert found == expected
    columns = [{key: one.hub.get_scalar(key).records().seqs.tolist() for key in KEYS} for one in hubs]
    assert columns[0] == columns[1]


UPDATES: dict[str, Callable[[MessageHub, int], object]] = {
    "one scalar": lambda hub, n: hub.update_scalar("a", float(n)),
    "an unread one": lambda hub, n: hub.update_scalar("unread", float(n)),
    "several, one of them unread": lambda hub, n: hub.update_scalars({"a": n, "unread": n}),
    "several that go different ways": lambda hub, n: hub.update_scalars({"a": n, "b": n}),
}


NO_SIGNAL = r"\s*(with |try:|bus\.(busy|_sorting) = False)"
"""Lines that no signal comes in: none of them calls anything before it is done."""


@pytest.mark.parametrize("name", UPDATES)
async def test_an_interrupt_in_any_line_of_it_loses_and_repeats_nothing(name: str) -> None:
    hub = MessageHub("hub")
    hub.update_scalars(dict.fromkeys(("a", "b", "unread"), 0.0))
    readers = [hub.subscribe("a"), hub.subscribe("a", "b")]
    codes = {collect_few.__code__, module._sorted.__code__}
    for line in range(1, 200):
        UPDATES[name](hub, line)
        if not interrupted(lambda: collect_few(hub._bus), line, codes, but=NO_SIGNAL):
            break
        assert_free(hub)
    else:
        pytest.fail("it has more lines than were tried")
    seqs = {key: hub.get_scalar(key).records().seqs.tolist()[1:] for key in ("a", "b")}
    assert len(seqs["a"]) == (0 if name == "an unread one" else line)
    assert [seq for seq, _, _ in await read(readers[0])] == seqs["a"]
    assert [seq for seq, _, _ in await read(readers[1])] == sorted(seqs["a"] + seqs["b"])
    assert hub.statistics().seq == 3 + sum(map(len, seqs.values())) + line * ("unread" in name)


async def test_a_reader_that_is_too_far_behind_is_told_so() -> None:
    hub = MessageHub("hub")
    reader = hub.subscribe("a", max_lag=2)
    for number in range(5):
        hub.update_scalar("a", float(number))
        collect_few(hub._bus)
    reader.close()
    first, *rest = [event async for event in reader]
    assert isinstance(first, EventsDropped)
    assert first.missed == 3
    assert len(rest) == 2
