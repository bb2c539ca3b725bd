"""Publishing scalars: numbers, and tensors whose values are still to come from their device.

Order: a tensor's value is what it is once all is done that was queued on the publisher's stream before the call; it has
    its place in the log by the call, whenever it comes.
Waiting: none, unless another thread takes a state at that moment; see ``asynchub.holding``.
"""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from typing import Any

from asynchub.errors import ArgumentError, ResumedFlagError
from asynchub.folding import FOLD_AT
from asynchub.history import HistoryBuffer
from asynchub.ledger import FIELDS
from asynchub.live import Cell, LiveDict
from asynchub.pending import Courier, Pending, courier_for, on_device
from asynchub.publishing import ABSENT, Publishing
from asynchub.scalars import checked_key, checked_step, real_number, sample_count

__all__ = ("NUMBERS", "Recording", "scalar_and_count")

_now = time.time
NUMBERS = frozenset((float, int, bool))
"""What ``real_number`` returns."""


class Recording(Publishing):
    """A log whose scalars have histories."""

    _log_scalars: LiveDict
    _resumed_keys: OrderedDict[str, Any]

    def _begin(self, latency: float, capacity: int) -> None:
        super()._begin(latency, capacity)
        self._cells: dict[str, Cell] = {}
        self._log_scalars.changed = self._forget_cells
        self._bus.changed = self._forget_cells
        self._bus.housekeeping = self._fold
        self._looked_seq = 0

    def _publish_tensor(self, key: str, tensor: Any, count: Any, resumed: bool, step: int | None) -> None:
        """Publish what a tensor on a device holds; arguments as of ``update_scalar``, unchecked."""
        if type(count) is not int or type(key) is not str or (step is not None and type(step) is not int):
            courier_for(tensor.device).check((key,), (tensor,))  # what is wrong with the value is said first
            count, step = sample_count(key, count), None if step is None else checked_step(step)
        if step is None:
            step = self._step
        elif not -(2**63) < step < 2**63:
            step = checked_step(step)
        cell = self._cells.get(checked_key(key))
        bus = self._bus
        if cell is not None and cell.resumed is resumed and not bus.gates:
            pending = courier_for(tensor.device).take_one(key, tensor, bus)
            if pending is not None:
                entry = [cell, _now(), step, pending, count]
                self._change(lambda: bus.hold(entry), None)
                if pending.flight.landed:
                    bus.let_out()  # or nobody does; what lands after this is let out by who lands it
                return
        self._publish_any([(key, tensor, count)], resumed, step)

    def _publish_known(self, entries: list[Any], tensors: list[tuple[int, str, Any]]) -> bool:
        """Publish entries whose keys the fast path knows, some of which have tensors.

        Args:
            entries: the entries; at the place of each tensor anything.
            tensors: of each its index in ``entries``, its key, and itself.

        Returns:
            False, and nothing is published, if that has to be done in another way.
        """
        bus = self._bus
        indices, keys, values = zip(*tensors, strict=True)
        devices = {tensor.device for tensor in values}
        if len(devices) > 1:
            return False
        courier = courier_for(devices.pop())
        checked = courier.check(keys, values)
        taken = None if bus.gates else courier.take(checked, bus)
        if taken is None:
            return False
        for index, pending in zip(indices, taken, strict=True):
            entries[index] = pending
        self._hold(entries, taken)
        return True

    def _hold(self, entries: list[Any], taken: list[Pending]) -> None:
        bus = self._bus
        self._change(functools.partial(bus.hold, entries), None)
        if any(pending.flight.landed for pending in (taken[0], taken[-1])):
            bus.let_out()  # as in `_publish_tensor`

    def _publish_any(self, items: list[tuple[str, Any, int]], resumed: bool, step: int) -> None:
        """Publish numbers and tensors, as one update: check all, take the values, publish."""
        of_couriers: dict[Courier, list[int]] = {}
        values = [value for _, value, _ in items]
        for index, (key, value, _) in enumerate(items):
            self._check_resumed(checked_key(key), resumed)
            if type(value) not in NUMBERS:
                of_couriers.setdefault(courier_for(value.device), []).append(index)
        checked = {
            courier: courier.check([items[index][0] for index in indices], [values[index] for index in indices])
            for courier, indices in of_couriers.items()
        }
        bus = self._bus
        if of_couriers:
            bus.wait_at_gate()
        pendings: list[Pending] = []
        for courier, indices in of_couriers.items():
            taken = courier.take(checked[courier], bus)
            for place, index in enumerate(indices):
                key = items[index][0]
                if taken is None or not _is_native(self._log_scalars.get(key, ABSENT)):
                    values[index] = real_number(key, values[index])  # waits
                else:
                    values[index] = taken[place]
            pendings += taken or ()
        self._admit_and_publish(
            [(key, value, count) for (key, _, count), value in zip(items, values, strict=True)], resumed, step
        )
        if any(pending.flight.landed for pending in pendings):
            bus.let_out()

    def _admit_and_publish(self, items: list[tuple[str, Any, int]], resumed: bool, step: int | None) -> None:
        """Publish scalars, numbers and pending ones, of which the fast path does not know a key, or not in this way."""
        pending = any(type(value) is Pending for _, value, _ in items)

        def publish() -> None:
            for key, _, _ in items:
                self._check_resumed(checked_key(key), resumed)
            now = _now()
            entries: list[Any] = []
            for key, value, count in items:
                cell = self._cells.get(key)
                if cell is None or cell.resumed is not resumed:
                    cell = self._admit(key, resumed, value, count)
                entries += (cell, now, step, value, count)
            (self._bus.hold if pending else self._bus.put)(entries)

        self._change(publish, None)

    def _admit(self, key: str, resumed: bool, value: Any, count: int) -> Cell:
        """Return a cell for a key, with a history; call amid a change."""
        bus = self._bus
        self._undo_here((key,), self._log_scalars, self._resumed_keys, self._cells)
        buffer = self._log_scalars.get(key)
        if buffer is None:
            buffer = HistoryBuffer.unfilled()
        native = _is_native(buffer)
        if native:
            buffer.fed_by(bus)
            cell = Cell(key, buffer, buffer._pending, resumed, bus.wants(key))
        else:  # what the program put there itself keeps its own record
            buffer.update(value, count)
            cell = Cell(key, None, [], resumed, bus.wants(key))
        self._log_scalars.put(key, buffer)
        self._resumed_keys.setdefault(key, resumed)
        if native and not bus.blocking:  # who has to wait for readers asks for that in a change
            self._cells[key] = cell
        return cell

    def _forget_cells(self) -> None:
        for cell in list(self._cells.values()):
            cell.wanted = True  # a publisher may hold it already: whoever begins to read is to be woken
        self._cells.clear()

    def _fold(self) -> None:
        """Bring the histories up to date as far as that is due; leave it to another thread that is at it."""
        bus = self._bus
        if bus.filing.acquire(blocking=False):
            try:
                bus.tidy()
            finally:
                bus.filing.release()
        if 0 <= bus.seq - self._looked_seq < len(self._cells):
            return  # or with very many keys each publish would pay for looking at them
        self._looked_seq = bus.seq
        for cell in list(self._cells.values()):
            if cell.buffer is not None and len(cell.pending) >= FIELDS * FOLD_AT:
                cell.buffer.fold()

    def _check_resumed(self, key: str, resumed: bool) -> None:
        stored = self._resumed_keys.get(key, ABSENT)
        if stored is not ABSENT and stored != resumed:
            raise ResumedFlagError(key, stored, resumed)


def _is_native(buffer: object) -> bool:
    """Tell whether a history lets the log record for it, as one that is ``ABSENT`` will."""
    return buffer is ABSENT or (isinstance(buffer, HistoryBuffer) and type(buffer).update is HistoryBuffer.update)


def scalar_and_count(key: str, value: Any) -> tuple[Any, int]:
    """Return what an item of ``update_scalars`` gives: a number, or a tensor that is on a device, and the count.

    Raises:
        ArgumentError: it is a dict without a ``value``.
        AsyncHubError: as ``update_scalar``.
    """
    count = 1
    if isinstance(value, dict):
        if "value" not in value:
            raise ArgumentError(f"value must be defined in {value}")
        count = sample_count(key, real_number(key, value.get("count", 1)))
        value = value["value"]
    return value if on_device(value) else real_number(key, value), count
