"""What was published reaches its histories whole, in order and once, whichever way it went."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from asynchub import MessageHub
from asynchub.bus import EventBus
from asynchub.channels import Channel
from asynchub.filing import FULL, MANY, MANY_EACH, Depot, file_each
from asynchub.folding import Folding
from asynchub.history import HistoryBuffer
from asynchub.intake import CHORES, Intake
from asynchub.live import Cell
from asynchub.stretches import Stretch
from tests.interrupting import codes_of, interrupted

CODES = codes_of(Depot, Intake, EventBus, Folding, Channel, Stretch) | {file_each.__code__}
FLAGS = r"\s*self\.(busy|_filing|_sorting|_folding) = "
"""A signal is handled when a function is called, begins, or goes back in a loop: never between these and a ``try``."""


def entries(cells: list[Cell], first: int, size: int, value: Callable[[int], Any] = float) -> tuple[int, list[Any]]:
    return first, [
        item
        for seq in range(first, first + size)
        for item in (cells[seq % len(cells)], 1e9 + seq, None if seq % 7 == 0 else seq // 3, value(seq), 1)
    ]


def cells_of(*histories: HistoryBuffer) -> list[Cell]:
    return [Cell(f"key/{n}", one, one._pending, True, True) for n, one in enumerate(histories)]


VALUES: dict[str, Callable[[int], Any]] = {
    "floats": float,
    "ints": int,
    "both": lambda seq: seq if seq % 5 else seq + 0.5,
    "beyond 64 bits": lambda seq: 2**70 + seq,
    "booleans": lambda seq: seq % 2 == 0,
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("keys", [1, 2, 9, 300])
def test_packed_entries_make_the_histories_that_single_ones_make(kind: str, keys: int) -> None:
    ours, theirs = ([HistoryBuffer.unfilled() for _ in range(keys)] for _ in range(2))
    value, size = VALUES[kind], max(MANY, MANY_EACH * keys)
    depot = Depot()
    first = 1
    for _ in range(3):
        assert depot.pack([entries(cells_of(*ours), first, size, value)])
        first += size
    depot.hand_out()
    for start in range(1, first, size):
        file_each([entries(cells_of(*theirs), start, size, value)], False)
    for mine, its in zip(ours, theirs, strict=True):
        for one, other in zip(mine.records(), its.records(), strict=True):
            assert one.dtype == other.dtype
            assert one.tolist() == other.tolist()
    assert depot.last_seq == -1


def test_a_few_entries_of_many_histories_are_not_packed() -> None:
    histories = [HistoryBuffer.unfilled() for _ in range(100)]
    depot = Depot()
    assert not depot.pack([entries(cells_of(*histories), 1, MANY - 1)])
    assert not depot.pack([entries(cells_of(*histories), 1, 100 * MANY_EACH - 1)])
    assert depot.last_seq == -1
    assert depot.pack([entries(cells_of(*histories), 1, 100 * MANY_EACH)])
    assert depot.last_seq == 100 * MANY_EACH


def test_counts_that_no_column_holds_are_left_to_single_entries() -> None:
    history = HistoryBuffer.unfilled()
    first, items = entries(cells_of(history), 1, MANY)
    items[4::5] = [2**70] * MANY
    assert not Depot().pack([(first, items)])


def test_two_cells_of_one_history_stay_in_order() -> None:
    history = HistoryBuffer.unfilled()
    cells = [Cell("key", history, history._pending, resumed, True) for resumed in (True, 1)]
    depot = Depot()
    assert depot.pack([entries(cells, 1, 2 * MANY)])
    depot.hand_out()
    assert history.records().seqs.tolist() == list(range(1, 2 * MANY + 1))


def test_what_keeps_its_own_record_is_not_handed_anything() -> None:
    history = HistoryBuffer.unfilled()
    cells = [Cell("own", None, [], True, True), *cells_of(history)]
    depot = Depot()
    assert depot.pack([entries(cells, 1, MANY)])
    depot.hand_out()
    assert history.records().seqs.tolist() == list(range(1, MANY + 1, 2))


@pytest.mark.parametrize("unread", [True, False])
def test_a_hub_packs_what_nobody_looks_at_and_hands_it_out_when_it_is_much(unread: bool) -> None:
    hub = MessageHub("hub")
    hub.update_scalars({"a": 0.0, "b": 0.0})
    history = hub.get_scalar("a")
    largest = 0
    for number in range(1, FULL):
        hub.update_scalars({"a": float(number), "b": 0.5})
        largest = max(largest, hub._bus.seq - hub._bus.filed)
        if not unread and number % 1000 == 0:
            assert history.current() == number
    assert largest <= 2 * CHORES
    assert len(history._ledger.values) >= FULL // 2
    assert history.data[0].tolist() == list(range(FULL))
    assert hub.get_scalar("b").data[0].tolist() == [0.0] + [0.5] * (FULL - 1)


WAYS: dict[str, Callable[[MessageHub], object]] = {
    "tidying": lambda hub: hub._bus.tidy(),
    "filing": lambda hub: hub._bus.file(),
    "reading": lambda hub: hub.get_scalar("a").data,
    "collecting": lambda hub: hub._bus.collect(),
    "subscribing": lambda hub: hub.subscribe("late").close(),
}


@pytest.mark.parametrize("many", [3, 200])
@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_in_any_line_loses_and_repeats_nothing(way: str, many: int) -> None:
    hub = MessageHub("hub")
    subscriptions = [hub.subscribe(max_lag=1 << 30), hub.subscribe("a", "b", max_lag=1 << 30)]
    published = 0

    def publish() -> None:
        nonlocal published
        for _ in range(many):
            hub.update_scalars({"a": float(published), "b": published, "c": 0.5})
            published += 1

    for line in range(1, 1000):
        publish()
        came = interrupted(lambda: WAYS[way](hub), line, CODES, FLAGS)
        if line % 3 == 0:
            hub._bus.tidy()
        if line % 5 == 0:
            publish()
        if line % 2 == 0:  # else more and more is left, which takes more and more lines
            WAYS[way](hub)
        if not came:
            break
    else:
        pytest.fail("it has more lines than were tried")
    assert line > 15
    expected = list(range(1, 3 * published + 1))
    for offset, key in enumerate("abc", start=1):
        assert hub.get_scalar(key).records().seqs.tolist() == expected[offset - 1 :: 3]
    hub._bus.collect()
    everything, some = (
        [event.seq for event in one._cursor.channel.between(0, one._cursor.channel.end)]  # type: ignore[union-attr]
        for one in subscriptions
    )
    assert everything == expected
    assert some == [seq for seq in expected if seq % 3]
    for one in subscriptions:
        one.close()


def test_histories_read_while_threads_publish_are_whole(rng: np.random.Generator) -> None:
    hub = MessageHub("hub")
    keys = [f"key/{number}" for number in range(5)]
    hub.update_scalars(dict.fromkeys(keys, 0.0))
    done = threading.Event()
    wrong: list[Any] = []

    def read() -> None:
        while not done.is_set():
            for key in keys:
                seqs = hub.get_scalar(key).records().seqs
                if (np.diff(seqs) <= 0).any():
                    wrong.append((key, seqs))

    def publish() -> None:
        for number in range(6000):
            hub.update_scalars(dict.fromkeys(keys, float(number)))

    readers = [threading.Thread(target=read) for _ in range(2)]
    publishers = [threading.Thread(target=publish) for _ in range(3)]
    for thread in (*readers, *publishers):
        thread.start()
    for thread in publishers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not wrong
    seqs = np.concatenate([hub.get_scalar(key).records().seqs for key in keys])
    assert sorted(seqs.tolist()) == list(range(1, 5 * (3 * 6000 + 1) + 1))


class Counted(dict[str, Cell]):
    """Cells that count how many of them were looked at."""

    looked = 0

    def values(self) -> Any:
        type(self).looked += len(self)
        return super().values()


def test_a_publish_does_not_pay_for_how_many_keys_there_are() -> None:
    hub = MessageHub("keys")
    for key in range(20_000):
        hub.update_scalar(str(key), 0.0)
    Counted.looked = 0
    hub._cells = Counted(hub._cells)
    for value in range(20_000):
        hub.update_scalar("0", float(value))
    assert 0 < Counted.looked <= 2 * 20_000  # one or two for each publish, not all of them every 1,024
    assert len(hub.get_scalar("0").data[0]) == 20_001
