"""What a program says about itself: scalars with their history, and runtime info; each update is also an event.

The contract is that of mmengine's ``MessageHub`` (its differences: ``docs/reference/differences.md``).

Atomicity: an update happens whole or, when it raises, leaves no trace; ``update_scalars`` and ``update_info_dict`` are
    one update each. Scalars whose keys are known are left in the log's list of entries, in one step that nothing can
    break into; all else is a change under the log's lock.
Threads: any number may update and read.
"""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, cast

from asynchub.errors import ArgumentError, UnknownScalarError
from asynchub.events import ENTRY, InfoRemoved, InfoUpdated
from asynchub.history import HistoryBuffer
from asynchub.holding import VALUE
from asynchub.live import Cell, LiveDict
from asynchub.pending import on_device
from asynchub.recording import NUMBERS, Recording, scalar_and_count
from asynchub.scalars import checked_key, checked_step, real_number, sample_count

__all__ = ("Record",)

_now = time.time
STEP_KEY = "iter"
"""The runtime info that sets the step, a convention of mmengine programs."""


class Record(Recording):
    """Scalars, runtime info and which keys are resumed.

    Args:
        name: name of the instance.
        log_scalars: histories to begin with; None for none.
        runtime_info: runtime info to begin with; None for none.
        resumed_keys: which keys ``state_dict`` saves; None for none.
        latency: seconds that observers let events gather before they look again.
        capacity: events held for readers before a publisher sorts them itself.

    Raises:
        InstanceNameError: ``name`` is not a string, or empty.
        ArgumentError: one of the three is neither a dict nor None, ``log_scalars`` holds something else than
            ``HistoryBuffer``, or ``resumed_keys`` a key of neither.
    """

    def __init__(
        self,
        name: str,
        log_scalars: dict[str, HistoryBuffer] | None = None,
        runtime_info: dict[str, Any] | None = None,
        resumed_keys: dict[str, bool] | None = None,
        *,
        latency: float = 0.02,
        capacity: int = 65_536,
    ) -> None:
        super().__init__(name)
        self._log_scalars = LiveDict(self._parse_input("log_scalars", log_scalars))
        self._runtime_info = self._parse_input("runtime_info", runtime_info)
        self._resumed_keys = self._parse_input("resumed_keys", resumed_keys)
        for value in self._log_scalars.values():
            if not isinstance(value, HistoryBuffer):
                raise ArgumentError(f"The type of log_scalars'value must be HistoryBuffer, but got {type(value)}")
        for key in self._resumed_keys:
            if key not in self._log_scalars and key not in self._runtime_info:
                raise ArgumentError(
                    f"Key in `resumed_keys` must contained in `log_scalars` or `runtime_info`, but got {key}"
                )
        self._begin(latency, capacity)

    def _begin(self, latency: float, capacity: int) -> None:
        """Set up what is not part of the record itself."""
        super()._begin(latency, capacity)
        self._entries = self._bus.entries
        self._info_stamps: dict[str, tuple[int, float, int | None]] = {}

    def _parse_input(self, name: str, value: Any) -> OrderedDict[str, Any]:
        if value is None:
            return OrderedDict()
        if isinstance(value, dict):
            return OrderedDict(value)
        raise ArgumentError(f"{name} should be a dict or `None`, but got {type(value)}")

    # --- writing

    def update_scalar(
        self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None
    ) -> None:
        """Append a value to the history of ``key``, and publish it as a ``ScalarUpdated``. Never waits for a reader.

        Args:
            key: name of the scalar, e.g. ``"train/loss"``.
            value: one real number: a Python number, or an array or tensor of one element; of a tensor on a device, what
                it is once all that was queued before the call is done, without waiting for that. A sum over ``count``
                samples, if ``count`` is not 1: the mean of a window is the sum of its values over that of its counts.
            count: how many samples ``value`` is the sum over.
            resumed: whether ``state_dict`` saves the key; always the same for one key.
            step: the optimizer step it belongs to; default ``self.step``.

        Raises:
            KeyTypeError: ``key`` is not a string.
            NotAScalarError: ``value`` is not exactly one real number.
            CountTypeError: ``count`` is not an int.
            ResumedFlagError: the key had another ``resumed``.
            GraphCaptureError: a graph is being captured on the device of ``value``.
            DeviceLostError: the device of ``value`` has failed.
            WaitTimeoutError: a reader with ``overflow="block"`` made no room for a minute.
        """
        if type(value) is not float:
            if type(value) is not int and on_device(value):
                self._publish_tensor(key, value, count, resumed, step)
                return
            value = real_number(key, value)
        if type(count) is not int:
            count = sample_count(key, count)
        if step is None:
            step = self._step
        elif type(step) is not int or not -(2**63) < step < 2**63:
            step = checked_step(step)
        try:
            cell: Cell | None = self._cells[key]
        except (KeyError, TypeError):  # TypeError: not hashable
            cell = None
        if cell is None or cell.resumed is not resumed:
            self._admit_and_publish([(key, value, count)], resumed, step)
            return
        entries = self._entries
        entries += (cell, _now(), step, value, count)
        bus = self._bus
        if len(entries) >= (bus.alarm if cell.wanted else bus.chores):
            bus.attend()

    def update_scalars(self, log_dict: dict[str, Any], resumed: bool = True, *, step: int | None = None) -> None:
        """Append a value to each of several histories, all or none.

        Args:
            log_dict: key to value, or to ``dict(value=..., count=...)``; see ``update_scalar``.
            resumed: as in ``update_scalar``, for all of them.
            step: as in ``update_scalar``.

        Raises:
            ArgumentError: ``log_dict`` is not a dict, or a dict in it has no ``value``.
            AsyncHubError: as ``update_scalar``, for the first item that is at fault.
        """
        if not isinstance(log_dict, dict):
            raise ArgumentError(f"`log_dict` must be a dict!, but got {type(log_dict)}")
        step = self._step if step is None else checked_step(step)
        cells, now = self._cells, _now()
        entries: list[Any] = []
        tensors: list[tuple[int, str, Any]] = []
        for key, value in log_dict.items():
            cell = cells.get(key)
            if type(value) is float:
                if cell is None or cell.resumed is not resumed:
                    break
                entries += (cell, now, step, value, 1)
                continue
            count = 1
            if type(value) is int or not on_device(value):
                value, count = scalar_and_count(key, value)
            if type(value) not in NUMBERS:
                tensors.append((len(entries) + VALUE, key, value))
            if cell is None or cell.resumed is not resumed:
                break
            entries += (cell, now, step, value, count)
        else:
            if not tensors:
                bus = self._bus
                self._entries += entries
                size = len(self._entries)
                if size >= bus.alarm and (size >= bus.chores or any(cell.wanted for cell in entries[::ENTRY])):
                    bus.attend()
                return
            if self._publish_known(entries, tensors):
                return
        self._publish_any([(key, *scalar_and_count(key, value)) for key, value in log_dict.items()], resumed, step)

    def probe(self, key: str, *, resumed: bool = True) -> Callable[..., None]:
        """Return ``update_scalar`` bound to ``key``, for hot loops: ``probe(value, count=1, *, step=None)``.

        Raises:
            KeyTypeError: ``key`` is not a string.
        """
        bound = functools.partial(self.update_scalar, checked_key(key))  # a third of what a closure would add
        return bound if resumed is True else functools.partial(bound, resumed=resumed)

    def update_info(self, key: str, value: Any, resumed: bool = True, *, step: int | None = None) -> None:
        """Set a runtime info, and publish it as an ``InfoUpdated``.

        Args:
            key: its name. ``"iter"`` also sets ``step``.
            value: any object; kept as it is, not copied.
            resumed: whether ``state_dict`` saves the key; always the same for one key.
            step: the optimizer step it belongs to; default ``self.step``.

        Raises:
            KeyTypeError: ``key`` is not a string.
            ResumedFlagError: the key had another ``resumed``.
        """
        self._update_infos({checked_key(key): value}, resumed, step)

    def update_info_dict(self, info_dict: dict[str, Any], resumed: bool = True, *, step: int | None = None) -> None:
        """Set several runtime infos, all or none; see ``update_info``.

        Raises:
            ArgumentError: ``info_dict`` is not a dict.
            AsyncHubError: as ``update_info``.
        """
        if not isinstance(info_dict, dict):
            # the name in the text is mmengine's, whose text callers may match
            raise ArgumentError(f"`log_dict` must be a dict!, but got {type(info_dict)}")
        self._update_infos(info_dict, resumed, step)

    def _update_infos(self, infos: Mapping[str, Any], resumed: bool, step: int | None) -> None:
        if step is not None:
            step = checked_step(step)

        def update() -> None:
            bus = self._bus
            for key in infos:
                self._check_resumed(checked_key(key), resumed)
            self._undo_here(infos, self._resumed_keys, self._runtime_info, self._info_stamps)
            seq = bus.seq
            for key, value in infos.items():
                seq += 1
                if key == STEP_KEY and type(value) is int and 0 <= value < 2**63:
                    self._step = value
                stamp = (seq, _now(), self._step if step is None else step)
                self._resumed_keys.setdefault(key, resumed)
                self._runtime_info[key] = value
                self._info_stamps[key] = stamp
                if bus.tap is not None or bus.held or bus.wants(key, InfoUpdated):
                    self._log(InfoUpdated(seq=seq, time=stamp[1], step=stamp[2], key=key, value=value))
            bus.seq = seq

        self._change(update, None)

    def pop_info(self, key: str, default: Any = None) -> Any:
        """Remove a runtime info and return it, or ``default`` if there is none; publish an ``InfoRemoved``.

        Its ``resumed`` flag stays.
        """
        if key not in self._runtime_info:
            return default

        def remove() -> Any:
            if key not in self._runtime_info:
                return default
            self._undo_here((key,), self._runtime_info, self._info_stamps)
            value = self._runtime_info.pop(key)
            self._info_stamps.pop(key, None)
            self._append(InfoRemoved(key=key))
            return value

        return self._change(remove, self._runtime_info.get(key, default))

    def _replace(
        self, scalars: Mapping[str, Any], infos: Mapping[str, Any], flags: Mapping[str, bool], *, everything: bool
    ) -> None:
        """Put others in the place of the histories, infos and flags of the same keys, or of all; amid a change."""
        if everything:
            for live in (self._log_scalars, self._runtime_info, self._resumed_keys, self._info_stamps):
                live.clear()
        self._forget_cells()
        self._log_scalars.update(scalars)
        self._runtime_info.update(infos)
        self._resumed_keys.update(flags)

    # --- reading

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Return the history of ``key`` itself, not a copy.

        Raises:
            UnknownScalarError: it has none.
        """
        try:
            return cast("HistoryBuffer", self._log_scalars[key])
        except KeyError:
            raise UnknownScalarError(key, self.instance_name) from None

    def get_info(self, key: str, default: Any = None) -> Any:
        """Return a runtime info itself, not a copy; ``default`` if there is none."""
        return self._runtime_info.get(key, default)

    @property
    def log_scalars(self) -> OrderedDict[str, Any]:
        """The live histories by key; what is put in or taken out counts at once."""
        return self._log_scalars

    @property
    def runtime_info(self) -> OrderedDict[str, Any]:
        """The live runtime info by key."""
        return self._runtime_info
