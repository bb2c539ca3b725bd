"""What a program says about itself: scalars with their history, and runtime info; each update is also an event.

The contract is that of mmengine's ``MessageHub`` (its differences: ``docs/reference/differences.md``).

Atomicity: an update happens whole or, when it raises, leaves no trace; ``update_scalars`` and ``update_info_dict`` are
    one update each.
Threads: any number may update and read.
"""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from asynchub.bus import EventBus
from asynchub.errors import (
    ArgumentError,
    KeyTypeError,
    ResumedFlagError,
    UnknownScalarError,
)
from asynchub.events import Event, InfoRemoved, InfoUpdated, ScalarUpdated
from asynchub.history import FOLD_AT, HistoryBuffer
from asynchub.live import Cell, LiveDict
from asynchub.manager import ManagerMixin
from asynchub.scalars import checked_key, checked_step, real_number, sample_count

__all__ = ("Record",)

E = TypeVar("E", bound=Event)
_ABSENT = object()
_now = time.time
STEP_KEY = "iter"
"""The runtime info that sets the step, a convention of mmengine programs."""


class Record(ManagerMixin):
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
        self._log_scalars = self._parse_input("log_scalars", log_scalars)
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
        self._step = 0
        self._undo: list[tuple[dict[str, Any], str, Any]] = []  # what an update replaced,
        self._undo_at = -1  # while this was the newest seq
        self._cells: dict[str, Cell] = {}
        self._log_scalars = LiveDict(self._log_scalars)
        self._log_scalars.changed = self._cells.clear
        self._info_stamps: dict[str, tuple[int, float, int | None]] = {}
        self._bus = EventBus(latency, capacity)
        self._bus.changed = self._cells.clear
        self._bus.housekeeping = self._fold

    def _parse_input(self, name: str, value: Any) -> OrderedDict[str, Any]:
        if value is None:
            return OrderedDict()
        if isinstance(value, dict):
            return OrderedDict(value)
        raise ArgumentError(f"{name} should be a dict or `None`, but got {type(value)}")

    # --- writing

    @property
    def step(self) -> int:
        """The optimizer step that updates belong to when they name none; from 0. ``update_info("iter", n)`` sets it."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = checked_step(step)

    def update_scalar(
        self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None
    ) -> None:
        """Append a value to the history of ``key``, and publish it as a ``ScalarUpdated``. Never waits for a reader.

        Args:
            key: name of the scalar, e.g. ``"train/loss"``.
            value: one real number: a Python number, or an array or tensor of one element. A sum over ``count``
                samples, if ``count`` is not 1: the mean of a window is the sum of its values over that of its counts.
            count: how many samples ``value`` is the sum over.
            resumed: whether ``state_dict`` saves the key; always the same for one key.
            step: the optimizer step it belongs to; default ``self.step``.

        Raises:
            KeyTypeError: ``key`` is not a string.
            NotAScalarError: ``value`` is not exactly one real number.
            CountTypeError: ``count`` is not an int.
            ResumedFlagError: the key had another ``resumed``.
            WaitTimeoutError: a reader with ``overflow="block"`` made no room for a minute.
        """
        if type(value) is not float:
            value = real_number(key, value)
        if type(count) is not int:
            count = sample_count(key, count)
        if step is None:
            step = self._step
        elif type(step) is not int:
            step = checked_step(step)
        bus = self._bus
        if bus.blocking:
            bus.make_room()
        cell = entry = None
        try:
            bus.lock.acquire()  # not `with`, which costs twice as much: `_let_go` does the same for an interrupt
            if bus.busy:
                self._defer(self.update_scalar, key, value, count, resumed, step=step)
                bus.lock.release()
                return
            bus.busy = True
            cell = self._cells.get(key)
            if cell is None or cell.resumed is not resumed:
                cell = self._admit(key, resumed, value, count)
            seq = bus.seq + 1
            entry = (seq, _now(), step, key, value, count)
            bus.seq = seq
            cell.pending.append(entry)
            if cell.wanted:
                bus.entries.append(entry)
            bus.busy = False
            bus.lock.release()
        except BaseException as error:
            self._let_go([] if entry is None else [(cell, entry)])
            if isinstance(error, TypeError) and not isinstance(key, str):
                raise KeyTypeError(key) from None
            raise
        if seq >= (bus.alarm if cell.wanted else bus.chores):
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
        items = []
        for key, value in log_dict.items():
            if type(value) is float:
                items.append((key, value, 1))
                continue
            count = 1
            if isinstance(value, dict):
                if "value" not in value:
                    raise ArgumentError(f"value must be defined in {value}")
                count = sample_count(key, real_number(key, value.get("count", 1)))
                value = value["value"]
            items.append((key, real_number(key, value), count))
        step = self._step if step is None else checked_step(step)
        bus = self._bus
        if bus.blocking:
            bus.make_room()
        updates: list[tuple[Cell, Any]] = []
        try:
            bus.lock.acquire()
            if bus.busy:
                counted = {key: {"value": value, "count": count} for key, value, count in items}
                self._defer(self.update_scalars, counted, resumed, step=step)
                bus.lock.release()
                return
            bus.busy = True
            cells = self._cells
            for key, _, _ in items:
                if (cell := cells.get(key)) is None or cell.resumed is not resumed:
                    self._check_resumed(checked_key(key), resumed)
            seq = bus.seq
            now = _now()
            for key, value, count in items:
                cell = cells.get(key)
                if cell is None or cell.resumed is not resumed:
                    cell = self._admit(key, resumed, value, count)
                seq += 1
                updates.append((cell, (seq, now, step, key, value, count)))
            bus.seq = seq
            log = bus.entries
            for cell, entry in updates:
                cell.pending.append(entry)
                if cell.wanted:
                    log.append(entry)
            bus.busy = False
            bus.lock.release()
        except BaseException:
            self._let_go(updates)
            raise
        if seq >= bus.alarm:
            bus.attend()

    def probe(self, key: str, *, resumed: bool = True) -> Callable[..., None]:
        """Return ``update_scalar`` bound to ``key``, for hot loops: ``probe(value, count=1, *, step=None)``.

        Raises:
            KeyTypeError: ``key`` is not a string.
        """
        if not isinstance(key, str):
            raise KeyTypeError(key)

        def update(value: Any, count: int = 1, *, step: int | None = None) -> None:
            self.update_scalar(key, value, count, resumed, step=step)

        return update

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
        bus = self._bus
        if bus.blocking:
            bus.make_room()
        try:
            bus.lock.acquire()
            if bus.busy:
                self._defer(self._update_infos, dict(infos), resumed, step)
                bus.lock.release()
                return
            bus.busy = True
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
                if bus.wants(key, InfoUpdated):
                    bus.entries.append(InfoUpdated(seq=seq, time=stamp[1], step=stamp[2], key=key, value=value))
            bus.seq = seq
            bus.busy = False
            bus.lock.release()
        except BaseException:
            self._let_go([])
            raise
        if seq >= bus.alarm:
            bus.attend()

    def pop_info(self, key: str, default: Any = None) -> Any:
        """Remove a runtime info and return it, or ``default`` if there is none; publish an ``InfoRemoved``.

        Its ``resumed`` flag stays.
        """
        bus = self._bus
        if bus.blocking:
            bus.make_room()
        try:
            bus.lock.acquire()
            value = self._runtime_info.get(key, _ABSENT)
            if value is _ABSENT or bus.busy:
                if bus.busy:
                    self._defer(self.pop_info, key)
                bus.lock.release()
                return default if value is _ABSENT else value
            bus.busy = True
            self._undo_here((key,), self._runtime_info, self._info_stamps)
            self._runtime_info.pop(key)
            self._info_stamps.pop(key, None)
            seq = self._append(InfoRemoved(key=key)).seq
            bus.busy = False
            bus.lock.release()
        except BaseException:
            self._let_go([])
            raise
        if seq >= bus.alarm:
            bus.attend()
        return value

    def publish(self, event: E, *, step: int | None = None) -> E:
        """Publish an event of any kind; return it as stamped, with its ``seq``, ``time`` and ``step``.

        Args:
            event: the event. Scalars and infos are recorded by ``update_scalar`` and ``update_info`` instead.
            step: the step it belongs to; default the event's own, else ``self.step``.

        Returns:
            The stamped event; ``event`` itself in a signal handler or finalizer that broke into an update of its own
            thread: it is published as soon as that is done.

        Raises:
            ArgumentError: ``event`` is not an event, or is a ``ScalarUpdated`` or ``InfoUpdated``, or ``step`` is no
                int.
        """
        if not isinstance(event, Event):
            raise ArgumentError(f"publish takes an Event, got {type(event).__name__}; see asynchub.events")
        if isinstance(event, ScalarUpdated | InfoUpdated):
            raise ArgumentError(f"{type(event).__name__} is published by update_scalar or update_info: call that")
        if step is not None:
            step = checked_step(step)
        bus = self._bus
        if bus.blocking:
            bus.make_room()
        try:
            bus.lock.acquire()
            if bus.busy:
                self._defer(self.publish, event, step=step)
                bus.lock.release()
                return event
            bus.busy = True
            stamped = self._append(event, step)
            bus.busy = False
            bus.lock.release()
        except BaseException:
            self._let_go([])
            raise
        if stamped.seq >= bus.alarm:
            bus.attend()
        return stamped

    def _append(self, event: E, step: int | None = None) -> E:
        """Stamp an event and append it to the log; call with the log's lock held, and its ``busy`` set."""
        bus = self._bus
        if step is None:
            step = self._step if event.step is None else event.step
        stamped = event.stamped(bus.seq + 1, _now(), step)
        if bus.wants(stamped.key, type(stamped)):
            bus.entries.append(stamped)
        bus.seq = stamped.seq
        return stamped

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

    # --- inside

    def _admit(self, key: str, resumed: bool, value: float, count: int) -> Cell:
        """Return the cell of a key that the fast path does not know, or not in this way."""
        self._check_resumed(checked_key(key), resumed)
        self._undo_here((key,), self._log_scalars, self._resumed_keys, self._cells)
        buffer = self._log_scalars.get(key)
        if buffer is None:
            buffer = HistoryBuffer.unfilled()
        native = isinstance(buffer, HistoryBuffer) and type(buffer).update is HistoryBuffer.update
        if not native:  # what the program put there itself keeps its own record
            buffer.update(value, count)
        cell = Cell(buffer, buffer._pending if native else [], resumed, self._bus.wants(key))
        self._log_scalars.put(key, buffer)
        self._resumed_keys.setdefault(key, resumed)
        if native:
            self._cells[key] = cell
        return cell

    def _fold(self) -> None:
        for cell in list(self._cells.values()):
            if len(cell.pending) >= FOLD_AT:
                cell.buffer.fold()

    def _check_resumed(self, key: str, resumed: bool) -> None:
        stored = self._resumed_keys.get(key, _ABSENT)
        if stored is not _ABSENT and stored != resumed:
            raise ResumedFlagError(key, stored, resumed)

    def _undo_here(self, keys: Iterable[str], *tables: dict[str, Any]) -> None:
        """Have ``_let_go`` put back what ``tables`` hold under ``keys`` now, unless ``seq`` has moved on."""
        if self._undo_at != self._bus.seq:
            self._undo, self._undo_at = [(vars(self), "_step", self._step)], self._bus.seq
        self._undo += [(table, key, table.get(key, _ABSENT)) for key in keys for table in tables]

    def _let_go(self, entries: list[tuple[Any, Any]]) -> None:
        """After an exception amid an update: finish it or undo it, and let go of the lock.

        Args:
            entries: what it appends to histories and log, with the cells; it has begun once ``seq`` counts the first.
        """
        bus = self._bus
        if not bus.lock._is_owned():  # type: ignore[attr-defined]  # what threading.Condition asks of it
            return
        try:
            if self._undo_at == bus.seq:  # nothing was published since
                undo, self._undo, self._undo_at = self._undo, [], -1
                for table, key, value in reversed(undo):
                    if value is _ABSENT:
                        table.pop(key, None)
                    else:
                        table[key] = value
            while bus.entries and _seq(bus.entries[-1]) > bus.seq:
                bus.entries.pop()
            for cell, entry in entries:
                if entry[0] > bus.seq:
                    break
                if not cell.pending or cell.pending[-1] is not entry:
                    cell.pending.append(entry)
                if cell.wanted and not any(entry is one for one in bus.entries[-len(entries) :]):
                    bus.entries.append(entry)
        finally:
            bus.busy = False
            bus.lock.release()

    def _defer(self, update: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        self._bus.defer(functools.partial(update, *args, **kwargs))


def _seq(entry: Any) -> int:
    return entry[0] if type(entry) is tuple else entry.seq  # type: ignore[no-any-return]  # a log holds nothing else
