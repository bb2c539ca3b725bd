"""What a history promises beyond, or in spite of, mmengine's: copies, state, stamps, threads."""

from __future__ import annotations

import copy
import io
import math
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from asynchub import history as module
from asynchub.columns import Column
from asynchub.errors import (
    AsyncHubError,
    CorruptStateError,
    LimitExceededError,
    StatisticExistsError,
    UnsupportedTypeError,
)
from asynchub.folding import FOLD_AT
from asynchub.history import NO_STEP, HistoryBuffer, allow_in_torch_load
from asynchub.ledger import FIELDS, Ledger, Records, numbers


@pytest.fixture(autouse=True)
def _statistics_as_before() -> Iterator[None]:
    HistoryBuffer()
    kept = dict(HistoryBuffer._statistics_methods)
    yield
    HistoryBuffer._statistics_methods.clear()
    HistoryBuffer._statistics_methods.update(kept)


def publish(buffer: HistoryBuffer, first: int, last: int, every: int = 1) -> None:
    """Append entries as a hub does; the step of every third is unknown."""
    for seq in range(first, last, every):
        buffer._pending.extend((seq, 1e9 + seq, None if seq % 3 == 0 else seq // 2, seq / 4, 1))
        if len(buffer._pending) >= FOLD_AT * FIELDS:
            buffer.fold()


def expected_records(first: int, last: int) -> list[list[Any]]:
    seqs = range(first, last)
    steps = [NO_STEP if seq % 3 == 0 else seq // 2 for seq in seqs]
    return [list(seqs), [1e9 + seq for seq in seqs], steps, [seq / 4 for seq in seqs], [1] * len(seqs)]


def listed(records: Records) -> list[list[Any]]:
    return [column.tolist() for column in records]


# --- views


@pytest.mark.parametrize("max_length", [7, 1000, 3000, 1000000])
def test_what_was_taken_stays_true_whatever_is_recorded_later(max_length: int, rng: np.random.Generator) -> None:
    buffer = HistoryBuffer(max_length=max_length)
    model: list[float] = []
    taken = []
    for _ in range(120):
        for value in rng.normal(size=rng.integers(1, 200)).tolist():
            buffer.update(value)
            model.append(value)
        values, counts = buffer.data
        assert values.tolist() == model[-max_length:]
        assert len(counts) == len(values)
        taken.append((values, values.copy(), counts, counts.copy()))
    for values, values_then, counts, counts_then in taken:
        assert np.array_equal(values, values_then)
        assert np.array_equal(counts, counts_then)


def test_data_is_read_only_and_not_copied() -> None:
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    values, counts = buffer.data
    assert values is buffer.data[0]
    for array in (values, counts, buffer._log_history, buffer.times, buffer.steps, *buffer.records()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 5


def test_a_history_copies_what_it_is_made_of() -> None:
    values = np.zeros(3)
    buffer = HistoryBuffer(values, torch.ones(3))
    values[0] = 1
    buffer._count_history = values
    values[0] = 2
    assert buffer.data[0].tolist() == [0, 0, 0]
    assert buffer.data[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("values", [5, "12", [None], [{}], np.zeros(2, "M8[s]"), np.zeros(2, "V2"), np.array(1.0)])
def test_what_is_no_sequence_is_refused(values: Any) -> None:
    if isinstance(values, list):
        HistoryBuffer(values, [1])  # objects are kept, as by mmengine
        return
    with pytest.raises(TypeError):
        HistoryBuffer(values, [1, 1])


@pytest.mark.parametrize("max_length", [None, "5", 2.5, math.nan, -math.inf, [1]])
def test_a_length_that_is_no_whole_number_is_refused_and_changes_nothing(max_length: Any) -> None:
    with pytest.raises(AsyncHubError, match="max_length"):
        HistoryBuffer(max_length=max_length)
    buffer = HistoryBuffer([1], [1], 3)
    with pytest.raises(AsyncHubError, match="max_length"):
        buffer.max_length = max_length
    assert buffer.max_length == 3


@pytest.mark.parametrize("max_length", [1e3, np.int64(1000), np.float32(1000)])
def test_a_length_may_be_any_whole_number(max_length: Any) -> None:
    buffer = HistoryBuffer(max_length=max_length)
    for value in range(3000):
        buffer.update(value)
    assert len(buffer.data[0]) == 1000
    assert pickle.loads(pickle.dumps(buffer)).max_length == 1000


def test_an_endless_history_keeps_all() -> None:
    buffer = HistoryBuffer(max_length=math.inf)  # type: ignore[arg-type]
    for value in range(3000):
        buffer.update(value)
    assert len(buffer.data[0]) == 3000
    assert pickle.loads(pickle.dumps(buffer)).max_length == math.inf


def test_a_length_set_now_is_not_obeyed_by_what_came_before() -> None:
    buffer = HistoryBuffer(max_length=3)
    for value in range(10):
        buffer.update(value)
    buffer.max_length = 5
    assert buffer.data[0].tolist() == [7, 8, 9]


# --- statistics


def test_a_registered_statistic_reads_the_columns_as_in_mmengines_documentation() -> None:
    @HistoryBuffer.register_statistics
    def weighted_mean(self: HistoryBuffer, window_size: int, weight: list[float]) -> Any:
        window = self._log_history[-window_size:] * np.array(weight)
        return window.sum() / self._count_history[-window_size:]

    assert HistoryBuffer([1, 2], [1, 1]).statistics("weighted_mean", 2, [2, 1]).tolist() == [4, 4]
    with pytest.raises(StatisticExistsError):
        HistoryBuffer.register_statistics(weighted_mean)


@pytest.mark.parametrize(("name", "arguments"), [("ema", (2,)), ("std", ()), ("percentile", (30,)), ("slope", ())])
def test_the_new_statistics_have_names_too_which_a_program_may_take(name: str, arguments: tuple[Any, ...]) -> None:
    buffer = HistoryBuffer([1.0, 2.0, 4.0], [1, 1, 1])
    assert buffer.statistics(name, *arguments) == getattr(buffer, name)(*arguments)
    assert set(buffer._statistics_methods) == {"min", "max", "current", "mean"}

    def mine(buffer: HistoryBuffer) -> str:
        return "mine"

    mine.__name__ = name
    HistoryBuffer.register_statistics(mine)
    assert buffer.statistics(name) == "mine"


def test_a_function_registered_before_the_first_history_replaces_a_default() -> None:
    HistoryBuffer._statistics_methods.clear()

    @HistoryBuffer.register_statistics
    def mean(buffer: HistoryBuffer) -> str:
        return "mine"

    assert HistoryBuffer().statistics("mean") == "mine"


# --- copies


class Named(HistoryBuffer):
    """A history with an attribute of its own."""

    names: list[str]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_go_their_own_ways(duplicate: Any) -> None:
    one = Named(max_length=5000)
    one.names = ["a"]
    publish(one, 0, 4000)
    other = duplicate(one)
    assert type(other) is Named
    publish(one, 4000, 8000)
    publish(other, 6000, 10_000)
    assert listed(one.records(3000)) == expected_records(3001, 8000)
    assert listed(other.records(4000)) == expected_records(6000, 10_000)
    assert other.max() == 9999 / 4
    assert one.mean(2500) == np.mean(np.arange(5500, 8000) / 4)
    assert other.names == ["a"]
    assert (other.names is one.names) == (duplicate is copy.copy)


def test_a_history_may_hold_itself_when_it_is_copied() -> None:
    one = HistoryBuffer([1.0], [1])
    one.self = one  # type: ignore[attr-defined]
    other = copy.deepcopy(one)
    assert other.self is other  # type: ignore[attr-defined]


# --- stamps


def test_records_are_those_since_a_seq() -> None:
    buffer = HistoryBuffer.unfilled()
    publish(buffer, 5, 3000)
    assert listed(buffer.records()) == expected_records(5, 3000)
    assert listed(buffer.records(2990)) == expected_records(2991, 3000)
    assert listed(buffer.records(2999)) == [[]] * 5
    assert buffer.times.tolist() == expected_records(5, 3000)[1]
    assert buffer.steps.tolist() == expected_records(5, 3000)[2]


def test_records_are_not_copied() -> None:
    buffer = HistoryBuffer.unfilled()
    publish(buffer, 0, 100)
    assert np.shares_memory(buffer.records(50).values, buffer.data[0])


def test_what_came_from_no_hub_has_no_record() -> None:
    buffer = HistoryBuffer([[1, 2, 3]], [4])
    buffer.update(7.0)
    assert listed(buffer.records()) == [[]] * 5
    publish(buffer, 0, 4)
    buffer.update(8.0, 2)
    publish(buffer, 4, 6)
    assert listed(buffer.records()) == expected_records(0, 6)
    assert listed(buffer.records(3)) == expected_records(4, 6)
    assert buffer.steps.tolist() == [NO_STEP] * 4 + [NO_STEP, 0, 1, NO_STEP, NO_STEP, 2, 2]
    assert np.isnan(buffer.times).tolist() == [True] * 4 + [False] * 4 + [True] + [False] * 2
    assert len(buffer.times) == len(buffer.data[0])


def test_an_unstamped_history_has_times_and_steps_that_say_so() -> None:
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    assert np.isnan(buffer.times).all()
    assert buffer.steps.tolist() == [NO_STEP, NO_STEP]
    assert [column.dtype.str for column in buffer.records()] == ["<i8", "<f8", "<i8", "<f8", "<i8"]


def test_records_slide_with_the_values() -> None:
    buffer = HistoryBuffer.unfilled(max_length=1500)
    publish(buffer, 0, 9000)
    assert listed(buffer.records(10)) == expected_records(7500, 9000)
    assert len(buffer.steps) == 1500


def test_records_are_in_the_order_of_seq_even_if_two_hubs_wrote_them() -> None:
    buffer = HistoryBuffer.unfilled()
    publish(buffer, 100, 200)
    publish(buffer, 0, 100)
    assert listed(buffer.records()) == expected_records(0, 200)
    assert listed(buffer.records(150)) == expected_records(151, 200)


def test_assigned_values_belong_to_no_event() -> None:
    buffer = HistoryBuffer.unfilled()
    publish(buffer, 0, 10)
    buffer._log_history = buffer._log_history[-5:]
    assert listed(buffer.records()) == [[]] * 5
    publish(buffer, 10, 12)
    assert listed(buffer.records()) == expected_records(10, 12)


# --- state


def same(one: HistoryBuffer, other: HistoryBuffer) -> bool:
    return (
        all(
            a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
            for a, b in zip(one.data, other.data, strict=True)
        )
        and all(a.tobytes() == b.tobytes() for a, b in zip(one.records(), other.records(), strict=True))
        and one.steps.tobytes() == other.steps.tobytes()
        and one.max_length == other.max_length
    )


def some_histories() -> list[HistoryBuffer]:
    stamped = HistoryBuffer.unfilled()
    publish(stamped, 0, 3000)
    mixed = HistoryBuffer([1], [1], 50)
    publish(mixed, 4, 60)
    return [
        HistoryBuffer(),
        HistoryBuffer.unfilled(),
        stamped,
        mixed,
        HistoryBuffer([True, False], [1, 1]),
        HistoryBuffer(np.ones((2, 3)), np.ones((2, 0, 1))),
        HistoryBuffer([math.nan, -math.inf, -0.0, 5e-324], [1, -1, 0, 2**62], 4),
        HistoryBuffer(np.arange(4, dtype="u8"), np.ones(4, "c8")),
    ]


@pytest.mark.parametrize("one", some_histories())
def test_a_state_comes_back_as_it_was(one: HistoryBuffer) -> None:
    state = msgpack.unpackb(msgpack.packb(one.__getstate__(), strict_types=True))
    other = HistoryBuffer([5.0], [5])
    pending = other._pending
    publish(other, 0, 2)
    other.__setstate__(state)
    assert same(one, other)
    assert other._pending is pending
    for buffer in (one, other):
        publish(buffer, 3000, 5000)
    assert same(one, other)


def test_integers_of_any_size_are_stored() -> None:
    one = HistoryBuffer([10**400, -1, 2**64], [1, 1, 1])
    one.update(math.nan)
    one.update(True)
    back = pickle.loads(pickle.dumps(one)).data[0]
    assert back.tolist()[:3] == [10**400, -1, 2**64]
    assert math.isnan(back[3])
    assert back[4] is True


def test_a_million_losses_are_stored_in_half_their_size(rng: np.random.Generator) -> None:
    losses = rng.normal(size=1_000_000).astype(np.float32)
    one = HistoryBuffer(losses.astype(np.float64), np.ones(1_000_000, int))
    assert len(pickle.dumps(one, 5)) < 4_000_500
    assert same(one, pickle.loads(pickle.dumps(one, 5)))


@pytest.mark.parametrize("values", [["a"], np.zeros(1, np.longdouble), [None]])
def test_values_without_a_stored_form_are_refused_when_stored(values: Any) -> None:
    with pytest.raises(UnsupportedTypeError):
        HistoryBuffer(values, [1]).__getstate__()


def test_torch_loads_a_saved_history_with_weights_only() -> None:
    one = HistoryBuffer.unfilled()
    publish(one, 0, 3000)
    file = io.BytesIO()
    torch.save({"history": one}, file)
    file.seek(0)
    assert same(torch.load(file, weights_only=True)["history"], one)
    allow_in_torch_load()
    assert HistoryBuffer in torch.serialization.get_safe_globals()


def test_torch_loads_a_history_in_a_new_process_once_it_is_allowed(tmp_path: Any) -> None:
    torch.save(HistoryBuffer([1.5], [1]), tmp_path / "history.pt")
    code = (
        "import sys; from asynchub.history import allow_in_torch_load; allow_in_torch_load()\n"
        "assert 'torch' not in sys.modules\n"
        "import torch; allow_in_torch_load(); allow_in_torch_load()\n"
        f"print(torch.load({str(tmp_path / 'history.pt')!r}).mean())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1.5\n", done.stderr


def test_a_local_statistic_does_not_keep_a_history_from_being_stored() -> None:
    HistoryBuffer.register_statistics(lambda buffer: 1)
    assert same(pickle.loads(pickle.dumps(HistoryBuffer([1], [1]))), HistoryBuffer([1], [1]))


def test_the_state_of_mmengines_history_is_taken_with_its_statistics() -> None:
    def median(buffer: HistoryBuffer) -> Any:
        return np.median(buffer._log_history)

    state = {
        "max_length": 7,
        "_log_history": np.array([1, 2, 6]),
        "_count_history": np.array([1, 1, 2]),
        "statistics_methods": {"median": median},
        "note": "kept",
    }
    buffer: Any = HistoryBuffer.__new__(HistoryBuffer)
    buffer.__setstate__(state)
    assert buffer.mean() == 9 / 4
    assert buffer.max_length == 7
    assert buffer.statistics("median") == 2
    assert buffer.note == "kept"
    assert "statistics_methods" in state
    del state["statistics_methods"], state["note"]  # as from before mmengine stored them
    buffer.__setstate__(state)
    assert buffer.current() == 6


GOOD: dict[str, Any] = {"max_length": 5, "values": [0, "|i1", 2, b"ab"], "counts": [0, "|i1", 2, b"ab"]}
STAMPS: list[Any] = [[1, "<i8", 2, b"12345678"], [1, "<f8", 2, b"12345678"], [1, "<i8", 2, b"12345678"]]


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {"max_length": 5},
        {**GOOD, "max_length": "5"},
        {**GOOD, "values": None},
        {**GOOD, "values_shape": [3, 1]},
        {**GOOD, "values_shape": [2]},
        {**GOOD, "values_shape": [-1, -2]},
        {**GOOD, "values_shape": [2, True]},
        {**GOOD, "values_shape": 2},
        {**GOOD, "counts_shape": [1] * 33},
        {**GOOD, "stamps": 5},
        {**GOOD, "stamps": STAMPS[:2]},
        {**GOOD, "stamps": [STAMPS[1], *STAMPS[1:]]},
        {**GOOD, "stamps": [*STAMPS[:2], [1, "<i8", 3, b"12345678"]]},
        {**GOOD, "attributes": 5},
        {**GOOD, "attributes": {"_ledger": 5}},
        {**GOOD, "attributes": {"update": 5}},
        {**GOOD, "attributes": {"__class__": 5}},
        {**GOOD, "attributes": {1: 5}},
        {**GOOD, "statistics_methods": {"median": 5}},
        {**GOOD, "statistics_methods": 5},
        {"max_length": 5, "_log_history": np.zeros(1)},
        {"max_length": 5, "_log_history": 1, "_count_history": 1},
        {"max_length": 5, "_log_history": np.zeros(1), "_count_history": np.zeros(1), "update": 1},
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(state: Any) -> None:
    buffer = HistoryBuffer([1.0], [1])
    with pytest.raises(CorruptStateError):
        buffer.__setstate__(state)
    assert same(buffer, HistoryBuffer([1.0], [1]))


def test_a_state_that_asks_for_more_memory_than_allowed_is_refused() -> None:
    with pytest.raises(LimitExceededError):
        HistoryBuffer().__setstate__({**GOOD, "values": [1, "<f8", 2**40, b"12345678"]})


# --- threads, signals, forks


def test_four_threads_lose_nothing() -> None:
    buffer = HistoryBuffer()
    go = threading.Barrier(6)
    lengths: list[int] = []
    done = threading.Event()

    def write(thread: int) -> None:
        go.wait()
        for number in range(50_000):
            buffer.update(float(thread * 50_000 + number), thread)

    def read() -> None:
        go.wait()
        while not done.is_set():
            values, counts = buffer.data
            lengths.append(len(values))
            assert len(values) == len(counts)
            assert not len(values) or buffer.max(5000) >= 0

    writers = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    values, counts = buffer.data
    assert lengths
    assert sorted(values.tolist()) == list(range(200_000))
    assert np.array_equal(values // 50_000, counts)
    for number in range(4):
        assert (np.diff(values[counts == number]) == 1).all()


def test_a_handler_amid_a_fold_may_read_and_record(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = HistoryBuffer([1.0], [1])
    extended = Ledger.extended
    seen = []

    def interrupted(self: Ledger, entries: Any, limit: float) -> Ledger:
        signal.raise_signal(signal.SIGINT)
        return extended(self, entries, limit)

    def handler(*_: object) -> None:
        buffer.update(3.0)
        seen.append(buffer.data[0].tolist())

    monkeypatch.setattr(Ledger, "extended", interrupted)
    before = signal.signal(signal.SIGINT, handler)
    try:
        buffer.update(2.0)
        buffer.fold()
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert seen == [[1.0]]
    assert buffer.data[0].tolist() == [1, 2, 3]


class Interrupting(list[Any]):
    """Pending entries whose first deletion is interrupted."""

    interrupted = False

    def __delitem__(self, where: Any) -> None:
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        super().__delitem__(where)


def test_an_interrupt_at_the_worst_moment_of_a_fold_doubles_nothing() -> None:
    buffer = HistoryBuffer()
    pending = buffer._pending = Interrupting()
    for number in range(3):
        buffer.update(number)
    with pytest.raises(KeyboardInterrupt):
        buffer.fold()
    assert len(pending) == 3 * FIELDS
    buffer.update(3)
    assert buffer.data[0].tolist() == [0, 1, 2, 3]


def test_a_fold_that_fails_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = HistoryBuffer()
    buffer.update(1)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Ledger, "extended", fail)
    with pytest.raises(MemoryError):
        buffer.fold()
    monkeypatch.undo()
    assert buffer.data[0].tolist() == [1]


def test_a_forked_history_goes_on_though_another_thread_held_its_lock() -> None:
    buffer = HistoryBuffer([1.0], [1])
    lock = buffer._lock
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    buffer.forked()
    buffer.update(2.0)
    assert buffer.data[0].tolist() == [1, 2]


def test_the_list_of_pending_entries_is_always_the_same() -> None:
    buffer = HistoryBuffer(max_length=10)
    pending = buffer._pending
    publish(buffer, 0, 3000)
    buffer.max_length = 20
    buffer._log_history = [1, 2]
    buffer._count_history = [1, 1]
    buffer.__setstate__(buffer.__getstate__())
    buffer.update(1)
    assert buffer._pending is pending


def test_a_history_is_no_container() -> None:
    assert not {"__len__", "__iter__", "__getitem__", "__contains__"} & set(dir(HistoryBuffer))
    assert HistoryBuffer() != HistoryBuffer()
    assert hash(HistoryBuffer()) is not None
    assert module.__all__ == ("NO_STEP", "FrozenHistory", "HistoryBuffer", "allow_in_torch_load")


@pytest.mark.parametrize("limit", [0, 1, 3, 5, 1000])
@pytest.mark.parametrize("counts", [[], [1], [1, 2, 3]])
def test_values_that_come_one_by_one_make_what_they_make_together(limit: int, counts: list[int]) -> None:
    values = [float(number) for number in range(len(counts))]
    ledgers = [Ledger(numbers(np.array(values)), numbers(np.array(counts, np.int64))) for _ in range(2)]
    singly, together = ledgers
    items: list[Any] = []
    for number in range(3000):
        entry = [-1, math.nan + 0.0, None, number / 4, number % 3]
        singly = singly.extended(entry, limit)
        items += entry
    together = together.extended(items, limit)
    assert singly.values.view.tolist() == together.values.view.tolist()
    assert singly.counts.view.tolist() == together.counts.view.tolist()
    assert singly.values.view.dtype == together.values.view.dtype
    assert singly.values.sum(0) == together.values.sum(0)


def test_counts_of_two_axes_become_one_when_a_value_comes() -> None:
    buffer = HistoryBuffer(np.array([1.0, 2.0]), np.array([[1, 2], [3, 4]]))
    buffer.update(0.5, 7)
    assert buffer.data[0].tolist() == [1.0, 2.0, 0.5]
    assert buffer.data[1].tolist() == [1, 2, 3, 4, 7]


def test_a_value_of_no_hub_is_not_in_the_order_of_seq_even_if_it_is_the_first() -> None:
    stamps = (np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    empty = Ledger(numbers(np.empty(0)), numbers(np.empty(0, np.int64)), tuple(map(Column, stamps)), True)
    for items in ([-1, math.nan, None, 0.5, 1], [-1, math.nan, None, 0.5, 1] * 2):
        assert not empty.shared().extended(items, 10).increasing
    assert empty.shared().extended([1, 1e9, 0, 0.5, 1], 10).increasing
