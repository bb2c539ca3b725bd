"""The history of one scalar: its values with their counts, and their windowed statistics.

The contract is that of mmengine's ``HistoryBuffer`` (its differences: ``docs/reference/differences.md``).

Views stay true: an array that a history has given away never changes, whatever is recorded later.
Cost: recording is amortised O(1), below and at ``max_length``; ``mean``, ``max`` and ``min`` of any window, ``data``
    and a copy take microseconds at any length.
Exactness: NaN and infinities are kept as they came; dtypes are those that ``numpy.append`` would give.
Threads: any number may record and read; a read sees all that was recorded before it began.
Signals: a handler that interrupts ``fold`` finds the history as it was before.
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self, TypeVar

from asynchub.columns import Array, Column, encode_column
from asynchub.errors import (
    ArgumentError,
    CorruptStateError,
    EmptyHistoryError,
    LengthMismatchError,
    StatisticExistsError,
    UnknownStatisticError,
    WindowTypeError,
)
from asynchub.folding import FOLD_AT, FOLDING, Folding
from asynchub.ledger import FIELDS, UNSTAMPED, Ledger, Records, Sliceable, Snapshot, numbers, whole
from asynchub.windows import WindowStatistics, begin

__all__ = ("NO_STEP", "FrozenHistory", "HistoryBuffer", "allow_in_torch_load")

F = TypeVar("F", bound=Callable[..., Any])

NO_STEP = UNSTAMPED.step
"""Stands in a column of steps where there is none."""
DEFAULT_STATISTICS = ("min", "max", "current", "mean")
FURTHER_STATISTICS = ("ema", "percentile", "slope", "std")
"""What ``statistics`` finds beside what is registered; functions may be registered under these names."""
OWN = {"_max_length", *FOLDING}
"""What a history sets on itself."""
FOREIGN = {"_count_history", "_log_history", "max_length", "statistics_methods"}
"""What the state of mmengine's class holds."""


class FrozenHistory(NamedTuple):
    """What a history was at one moment, to be saved or copied later; ``attributes`` is what others had set on it."""

    kind: type[HistoryBuffer]
    ledger: Ledger
    max_length: int
    attributes: dict[str, Any]

    def packed(self, put: Callable[[Array], Any]) -> dict[str, Any]:
        """Return the state, with what ``put`` makes of each column in its place."""
        state = {"max_length": whole(self.max_length), **self.ledger.packed(put)}
        return {**state, "attributes": self.attributes} if self.attributes else state

    def thawed(self) -> HistoryBuffer:
        """Return a history of its own."""
        history = self.kind.__new__(self.kind)
        history._begin(self.ledger.shared(), self.max_length)
        history.__dict__.update(self.attributes)
        return history


class HistoryBuffer(Folding, WindowStatistics):
    """The record of one scalar: values, each with a count, oldest first.

    Args:
        log_history: values to begin with: a sequence, array or tensor of numbers. Copied.
        count_history: their counts.
        max_length: how many values are kept; at each update the oldest beyond it go. 0 keeps all.

    Raises:
        LengthMismatchError: there are not as many counts as values.
        ArgumentError: ``max_length`` is not a whole number, or the values are not numbers.
    """

    _statistics_methods: dict[str, Callable[..., Any]] = {}  # noqa: RUF012  # one for all classes: the contract

    def __init__(self, log_history: Sliceable = (), count_history: Sliceable = (), max_length: int = 1000000) -> None:
        limit = whole(max_length)
        self._set_default_statistics()
        size = len(log_history)
        if size != len(count_history):
            raise LengthMismatchError
        if size > limit:
            warnings.warn(
                f"The length of history buffer({size}) exceeds the max_length({max_length}), the first few elements "
                "will be ignored.",
                stacklevel=2,
            )
            log_history, count_history = log_history[-int(limit) :], count_history[-int(limit) :]
        self._begin(Ledger(numbers(log_history), numbers(count_history), increasing=not size), max_length)

    @classmethod
    def unfilled(cls, max_length: int = 1000000) -> Self:
        """Return an empty history that its first entry gives its dtypes, as if it had been made of that one."""
        buffer = cls(max_length=max_length)
        buffer._ledger = Ledger.unfilled()
        return buffer

    def _begin(self, ledger: Ledger, max_length: int) -> None:
        self._max_length, self._limit = max_length, whole(max_length)
        self._begin_folding(ledger)

    def _set_default_statistics(self) -> None:
        for name in DEFAULT_STATISTICS:
            self._statistics_methods.setdefault(name, getattr(HistoryBuffer, name))

    # --- recording

    def update(self, log_val: float, count: float = 1) -> None:
        """Append a value.

        Args:
            log_val: a Python number; a sum over ``count`` samples, if ``count`` is not 1.
            count: how many samples it is the sum over.

        Raises:
            ArgumentError: one of them is not a Python int or float.
        """
        if type(log_val) is not float or type(count) is not int:
            if not isinstance(log_val, int | float) or not isinstance(count, int | float):
                raise ArgumentError(
                    f"log_val must be int or float but got {type(log_val)}, count must be int but got {type(count)}"
                )
            log_val, count = _plain(log_val), _plain(count)
        for source in self._feeds:
            source.feed(True)
        pending = self._pending
        pending += (-1, math.nan + 0.0, None, log_val, count)  # a new float: `fold` knows an entry by its time
        if len(pending) >= FIELDS * FOLD_AT:
            self.fold()

    # --- reading

    @property
    def max_length(self) -> int:
        """How many values are kept; may be set, and is obeyed at the next update."""
        return self._max_length

    @max_length.setter
    def max_length(self, max_length: int) -> None:
        limit = whole(max_length)
        self._folded()  # by the old one
        with self._lock:
            self._max_length, self._limit = max_length, limit

    @property
    def data(self) -> tuple[Array, Array]:
        """The values and their counts: read-only views, which nothing changes later."""
        ledger = self._folded()
        return ledger.values.view, ledger.counts.view

    @property
    def _log_history(self) -> Array:
        return self._folded().values.view

    @_log_history.setter
    def _log_history(self, values: Any) -> None:
        self._assign(values=numbers(values))

    @property
    def _count_history(self) -> Array:
        return self._folded().counts.view

    @_count_history.setter
    def _count_history(self, counts: Any) -> None:
        self._assign(counts=numbers(counts))

    def _assign(self, **columns: Any) -> None:
        self._folded()
        with self._lock:
            # nobody knows what events the new values belong to
            self._ledger = self._ledger._replace(stamps=None, increasing=False, **columns)

    @property
    def times(self) -> Array:
        """When each value was published, in seconds since the epoch, read-only; NaN if it came from no hub."""
        return self._folded().times

    @property
    def steps(self) -> Array:
        """The step each value belongs to, read-only; ``NO_STEP`` if it came from no hub."""
        return self._folded().steps

    def snapshot(self) -> Snapshot:
        """Return what has been recorded by now, without waiting for values that are on their way from a device."""
        ledger = self._folded(wait=False)
        pending = sum(source.pending_of(self) for source in self._feeds)
        return Snapshot(ledger.values.view, ledger.counts.view, ledger.times, ledger.steps, pending)

    def records(self, since: int = -1, *, wait: bool = True) -> Records:
        """Return what was recorded for a hub, in the order of ``seq``.

        Args:
            since: only what has a ``seq`` above this.
            wait: whether to wait for values that are on their way from a device.
        """
        return Records(*self._folded(wait).records(since))

    # --- statistics

    @classmethod
    def register_statistics(cls, method: F) -> F:
        """Register a function of a history for ``statistics``, under its ``__name__``; return it. A decorator.

        It is registered for every class of histories. No state holds it: a new process registers it again.

        Raises:
            StatisticExistsError: one is registered under that name.
        """
        if method.__name__ in cls._statistics_methods:
            raise StatisticExistsError
        cls._statistics_methods[method.__name__] = method
        return method

    def statistics(self, method_name: str, *arg: Any, **kwargs: Any) -> Any:
        """Return what the statistic of that name gives: a registered one, else a method of this class.

        Raises:
            UnknownStatisticError: there is none.
        """
        method = self._statistics_methods.get(method_name)
        if method is None:
            if method_name not in FURTHER_STATISTICS:
                raise UnknownStatisticError(method_name)
            method = getattr(HistoryBuffer, method_name)
        return method(self, *arg, **kwargs)

    def mean(self, window_size: int | None = None) -> Any:
        """Return the sum of the latest values divided by that of their counts, a NumPy scalar.

        Args:
            window_size: how many values; None, 0, or more than there are for all; ``-k`` for all but the oldest ``k``.

        Raises:
            WindowTypeError: ``window_size`` is not an int.
        """
        ledger = self._folded()
        size = _window(window_size, ledger.values)
        return ledger.values.sum(size) / ledger.counts.sum(size)

    def max(self, window_size: int | None = None) -> Any:
        """Return the largest of the latest values, a NumPy scalar.

        Raises:
            WindowTypeError: ``window_size``, as for ``mean``, is not an int.
            EmptyHistoryError: there are no values.
        """
        values = self._folded().values
        return values.max(_window(window_size, values))

    def min(self, window_size: int | None = None) -> Any:
        """Return the smallest of the latest values, a NumPy scalar.

        Raises:
            WindowTypeError: ``window_size``, as for ``mean``, is not an int.
            EmptyHistoryError: there are no values.
        """
        values = self._folded().values
        return values.min(_window(window_size, values))

    def current(self) -> Any:
        """Return the newest value, a NumPy scalar.

        Raises:
            EmptyHistoryError: there are no values.
        """
        values = self._folded().values.view
        if not len(values):
            raise EmptyHistoryError("HistoryBuffer._log_history is an empty array! please call update first")
        return values[-1]

    def _latest(self, window_size: int | None) -> Array:
        values = self._folded().values
        return values.view[begin(_window(window_size, values), len(values)) :]

    # --- copies and state

    def frozen(self) -> FrozenHistory:
        """Return what this history is now."""
        attributes = self._attributes()
        return FrozenHistory(type(self), self._folded(), self._max_length, attributes and copy.deepcopy(attributes))

    def __copy__(self) -> Self:
        other = type(self).__new__(type(self))
        other._begin(self._folded().shared(), self._max_length)
        other.__dict__.update(self._attributes())
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = memo[id(self)] = self.__copy__()
        other.__dict__.update(copy.deepcopy(self._attributes(), memo))
        return other

    def _attributes(self) -> dict[str, Any]:
        """Return what others set on this object."""
        mine = self.__dict__
        return {name: mine[name] for name in mine if name not in OWN} if len(mine) > len(OWN) else {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state, of builtins.

        Raises:
            UnsupportedTypeError: the values have a dtype that has no stored form: strings, or extended floats.
        """
        allow_in_torch_load()
        return self.packed(encode_column)

    def packed(self, put: Callable[[Array], Any]) -> dict[str, Any]:
        """Return the state, with what ``put`` makes of each column in its place."""
        return FrozenHistory(type(self), self._folded(), self._max_length, self._attributes()).packed(put)

    def __setstate__(self, state: Mapping[str, Any], get: Callable[[Any], Array] | None = None) -> None:
        """Take the state of a history, or of mmengine's, whose statistics are registered.

        Args:
            state: the state, from anywhere.
            get: gives the column for what ``packed`` has put in its place; None for ``__getstate__``'s.

        Raises:
            CorruptStateError: it is neither.
            LimitExceededError: it holds more than 2**28 values.
        """
        if not isinstance(state, Mapping) or "max_length" not in state:
            raise CorruptStateError(f"the state of a history is a dict with max_length, got {state!r:.80}")
        ledger = Ledger.unpacked(state, get)
        methods, attributes = state.get("statistics_methods", {}), state.get("attributes", {})
        if "_log_history" in state:
            attributes = {name: value for name, value in state.items() if name not in FOREIGN}
        if not isinstance(methods, dict) or not all(map(callable, methods.values())):
            raise CorruptStateError(f"the statistics of a history are functions by name, got {methods!r:.80}")
        if not isinstance(attributes, dict) or not all(map(_may_be_set, attributes)):
            raise CorruptStateError(f"the attributes of a history are others than its own, got {attributes!r:.80}")
        try:
            whole(max_length := state["max_length"])
        except ArgumentError as error:
            raise CorruptStateError(str(error)) from None
        self._set_default_statistics()
        self._statistics_methods.update(methods)
        if "_pending" in self.__dict__:  # whoever appends to it knows only this list
            self._folded()
            with self._lock:
                self._pending.clear()
                self._ledger, self._max_length, self._limit = ledger, max_length, whole(max_length)
        else:
            self._begin(ledger, max_length)
        self.__dict__.update(attributes)


def allow_in_torch_load() -> None:
    """Let ``torch.load`` with ``weights_only=True`` make histories, if torch is loaded. Saving a history calls this."""
    serialization: Any = getattr(sys.modules.get("torch"), "serialization", None)
    if hasattr(serialization, "add_safe_globals"):
        serialization.add_safe_globals([HistoryBuffer])


def _may_be_set(name: object) -> bool:
    """Tell whether a state may set an attribute of this name."""
    return isinstance(name, str) and name not in OWN and not hasattr(HistoryBuffer, name)


def _plain(number: float) -> float:
    """Return a number without its subclass."""
    if isinstance(number, bool):
        return number
    return int(number) if isinstance(number, int) else float(number)


def _window(window_size: int | None, values: Column) -> int:
    if window_size is None:
        return len(values)
    if isinstance(window_size, int):
        return window_size
    raise WindowTypeError(window_size)


allow_in_torch_load()  # a program that loads a checkpoint has imported torch before, as a rule
