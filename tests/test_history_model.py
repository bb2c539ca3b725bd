"""Ours and mmengine's ``HistoryBuffer``, side by side through the same calls.

Differences that are meant, and left out here: arrays given away are read-only, ``max_length`` is checked when it is
set, a state holds no registered statistics, and threads lose nothing.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mmengine.logging import HistoryBuffer as MMEngineBuffer

from asynchub.errors import AsyncHubError
from asynchub.history import HistoryBuffer
from asynchub.ledger import Ledger

Outcome = tuple[Any, list[tuple[type, str]]]

small = st.integers(-5, 5)
numbers = st.one_of(
    small,
    st.booleans(),
    st.floats(width=32),
    st.floats(-100, 100),
    st.sampled_from([np.nan, np.inf, -np.inf, 0, -0.0, 2**63, 2**64, 10**30, -(10**20), np.float64(1.5)]),
)
tame = small | st.floats(-100, 100) | st.booleans()
refused = st.sampled_from([None, "1", 1j, np.float32(1), np.int64(1), np.bool_(True), np.array(1), [1]])
windows = st.none() | st.integers(-12, 12) | st.booleans() | st.sampled_from([10**30, -(10**30)])
not_windows = st.sampled_from([2.0, "2", np.int64(2), [1]])
max_lengths = st.integers(-3, 12) | st.sampled_from([0, 1000, 1000000])
initial = st.one_of(
    st.lists(numbers, max_size=15),
    st.lists(small, max_size=15),
    st.lists(st.booleans(), max_size=8),
    st.builds(
        lambda n, kind: np.arange(n).astype(kind),
        st.integers(0, 12),
        st.sampled_from(["f4", "f8", "i4", "u1", "u8", "?"]),
    ),
    st.builds(lambda n, m: np.ones((n, m)), st.integers(0, 4), st.integers(1, 3)),
    st.just([[1, 2], [3, 4]]),
)


def outcome(call: Callable[[], Any]) -> Outcome:
    """Return what a call gave or raised, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            result = error
    return result, [(one.category, str(one.message)) for one in said]


def check_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, Exception):
        assert isinstance(ours, type(theirs)), (ours, theirs)
        assert str(ours) == str(theirs)
        return
    assert not isinstance(ours, Exception), (ours, theirs)
    if isinstance(theirs, tuple):
        for our, their in zip(ours, theirs, strict=True):
            check_same(our, their)
        return
    assert type(ours) is type(theirs), (ours, theirs)
    if isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        if ours.dtype == object:  # NumPy compares no NaN in it
            ours, theirs = (tuple(one.flat) for one in (ours, theirs))
            check_same(ours, theirs)
            return
    np.testing.assert_equal(ours, theirs)


class SideBySide(RuleBasedStateMachine):
    """The same calls to both."""

    ours: Any
    theirs: Any

    @initialize(values=initial, counts=initial, max_length=max_lengths, equal=st.integers(0, 9), born=st.integers(0, 4))
    def begin(self, values: Any, counts: Any, max_length: int, equal: int, born: int) -> None:
        if born == 0:
            self.ours, self.theirs = HistoryBuffer(), MMEngineBuffer()
            return
        if equal:
            counts = [1] * len(values)
        ours, said = outcome(lambda: HistoryBuffer(values, counts, max_length))
        theirs, they_said = outcome(lambda: MMEngineBuffer(values, counts, max_length))
        assert said == they_said
        if isinstance(theirs, Exception):
            check_same(ours, theirs)
            ours, theirs = HistoryBuffer(), MMEngineBuffer()
        self.ours, self.theirs = ours, theirs

    def both(self, call: Callable[[Any], Any]) -> None:
        ours, said = outcome(lambda: call(self.ours))
        theirs, they_said = outcome(lambda: call(self.theirs))
        check_same(ours, theirs)
        assert said == they_said

    @invariant()
    def they_hold_the_same(self) -> None:
        self.both(lambda buffer: buffer.data)
        self.both(lambda buffer: (buffer._log_history, buffer._count_history, buffer.max_length))

    @rule(value=numbers, count=numbers)
    def update(self, value: Any, count: Any) -> None:
        self.both(lambda buffer: buffer.update(value, count))

    @rule(values=st.lists(st.tuples(numbers, small), max_size=30))
    def update_often(self, values: list[tuple[Any, int]]) -> None:
        self.both(lambda buffer: [buffer.update(*value) for value in values] and None)

    @precondition(lambda self: len(self.theirs.data[0]) < 2000)  # longer ones are summed in another order
    @rule(value=tame, times=st.integers(1000, 1100))
    def update_until_it_folds(self, value: Any, times: int) -> None:
        self.both(lambda buffer: [buffer.update(value) for _ in range(times)] and None)

    @rule(value=refused | numbers, count=refused)
    def refuse_a_value(self, value: Any, count: Any) -> None:
        self.both(lambda buffer: buffer.update(value, count))
        self.both(lambda buffer: buffer.update(count))

    @rule(max_length=max_lengths)
    def change_max_length(self, max_length: int) -> None:
        self.both(lambda buffer: setattr(buffer, "max_length", max_length))

    @rule(name=st.sampled_from(["mean", "max", "min"]), window=windows, keyword=st.booleans())
    def ask(self, name: str, window: Any, keyword: bool) -> None:
        if keyword:
            self.both(lambda buffer: getattr(buffer, name)(window_size=window))
        else:
            self.both(lambda buffer: buffer.statistics(name, window))

    @rule(name=st.sampled_from(["mean", "max", "min"]), window=not_windows)
    def refuse_a_window(self, name: str, window: Any) -> None:
        self.both(lambda buffer: getattr(buffer, name)(window))

    @rule()
    def ask_for_the_newest(self) -> None:
        self.both(lambda buffer: buffer.current())
        self.both(lambda buffer: buffer.statistics("current"))

    @rule(name=st.sampled_from(["median", "", "update"]))
    def ask_for_what_is_unknown(self, name: str) -> None:
        self.both(lambda buffer: buffer.statistics(name))

    @rule(start=st.integers(-5, 5), counts_too=st.booleans())
    def assign(self, start: int, counts_too: bool) -> None:
        def cut(buffer: Any) -> None:
            buffer._log_history = buffer._log_history[start:]
            if counts_too:
                buffer._count_history = buffer._count_history[start:]

        self.both(cut)

    @rule(duplicate=st.sampled_from([copy.copy, copy.deepcopy, lambda buffer: pickle.loads(pickle.dumps(buffer))]))
    def go_on_with_a_copy(self, duplicate: Callable[[Any], Any]) -> None:
        ours, theirs = duplicate(self.ours), duplicate(self.theirs)
        self.both(lambda buffer: buffer.update(1.25))
        self.ours, self.theirs = ours, theirs

    @rule()
    def go_on_from_mmengines_state(self) -> None:
        state = copy.deepcopy(self.theirs).__getstate__()
        self.ours.__setstate__(state)


# not shrunk: a failing run of this length takes minutes to shrink, and is printed as a program anyway
SideBySide.TestCase.settings = settings(
    max_examples=100,
    phases=[Phase.generate],
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
test_every_call_does_what_mmengines_does = pytest.mark.filterwarnings("ignore")(SideBySide.TestCase)


@pytest.fixture(autouse=True)
def _statistics_as_before() -> Iterator[None]:
    kept = dict(HistoryBuffer._statistics_methods)
    yield
    HistoryBuffer._statistics_methods.clear()
    HistoryBuffer._statistics_methods.update(kept)


@pytest.mark.parametrize("first", [True, 1, 2.5, 2**63, 10**30, np.nan])
@pytest.mark.parametrize("second", [True, 1, 2.5, 2**63, 10**30])
def test_an_unfilled_history_becomes_what_its_first_entry_would_have_made(first: Any, second: Any) -> None:
    ours, theirs = HistoryBuffer.unfilled(), MMEngineBuffer([first], [1])
    ours._pending.extend((0, 0.0, None, first, 1))
    theirs.update(second)
    ours._pending.extend((1, 1.0, None, second, 1))
    check_same(ours.data, theirs.data)


@pytest.mark.parametrize(("values", "counts"), [([1], []), ([1, 2], [1]), ([], [1])])
def test_a_length_mismatch_is_refused_as_by_mmengine(values: list[int], counts: list[int]) -> None:
    ours, _ = outcome(lambda: HistoryBuffer(values, counts))
    theirs, _ = outcome(lambda: MMEngineBuffer(values, counts))
    check_same(ours, theirs)
    assert isinstance(ours, AsyncHubError)


def test_a_ledger_cut_in_pieces_is_a_ledger_cut_at_once() -> None:
    for limit in (-3, -1, 0, 2, 7):
        for pieces in ((1,) * 12, (5, 7), (12,)):
            theirs, ledger, done = MMEngineBuffer([0] * 4, [1] * 4, 10), Ledger.unfilled(), 0
            theirs.max_length = limit
            ledger = ledger.extended([-1, 0.0, None, 0, 1] * 4, 10)
            for piece in pieces:
                ledger = ledger.extended([item for i in range(piece) for item in (-1, 0.0, None, done + i, 1)], limit)
                done += piece
            for number in range(12):
                theirs.update(number)
            check_same((ledger.values.view, ledger.counts.view), theirs.data)
