"""The courier of a device whose values travel in rows.

A publisher puts values into the open row, and ships it, unless ``ENOUGH`` rows are under way: then the landing thread
ships it as soon as one has landed, and it fills meanwhile. So few rows are needed however far the device is behind.

Order: rows land in the order in which they were shipped.
Waiting: a publisher waits only if ``MOST`` rows are full or under way; that is counted as a stall. It wakes nobody.
Exit: at interpreter exit, what is under way is waited for, ``EXIT`` seconds at most. A forked child has none of it.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from asynchub.devices.backends import SLOTS, Backend
from asynchub.devices.checking import plain_tensor
from asynchub.errors import DeviceLostError, GraphCaptureError, NotAScalarError
from asynchub.loops import Latch
from asynchub.pending import Courier, DeviceStatistics, Flight, Holder, Pending, batching, couriers, landing_here

__all__ = ("RowCourier",)

logger = logging.getLogger("asynchub")
FEWEST, MOST = 8, 256
"""Rows of a lane that there are at first, and at most."""
ENOUGH = 4
"""Rows under way from which on the landing thread ships the next ones."""
POLL = 0.002
"""Seconds between two looks of the landing thread whether there is something: to wake it would cost the publisher."""
QUIET = 1.0
"""Seconds without anything after which it ends."""
EXIT = 5.0
"""Seconds that the end of the interpreter waits for values."""

Convert = Callable[[Any], int | float]


class _Load:
    """A row with values; ``due`` if it is to be shipped before the batch ends that it was begun in."""

    __slots__ = ("due", "flight", "lane", "row", "size", "stream")

    def __init__(self, lane: _Lane, row: Any, stream: Any) -> None:
        self.lane = lane
        self.row = row
        self.stream = stream
        self.flight = Flight()
        self.size = 0
        self.due = False


class _Lane:
    def __init__(self, kind: Hashable) -> None:
        self.kind = kind
        self.open: _Load | None = None
        self.free: list[Any] = []
        self.rows = 0


class RowCourier(Courier):
    """Brings the values of one device.

    Args:
        device: its name.
        backend: the device.
    """

    def __init__(self, device: str, backend: Backend) -> None:
        self._device = device
        self._backend = backend
        self._why = ""  # it is lost
        self._cause: Exception | None = None
        self._taken = self._landed = self._flights = self._stalls = 0
        self._of_dtype: dict[Any, tuple[_Lane, Convert | None]] = {}
        self._graveyard: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._busy = self._ending = False
        self._lanes: dict[Hashable, _Lane] = {}
        self._of_dtype.clear()
        self._afloat: deque[_Load] = deque()
        self._thread: threading.Thread | None = None

    def forked(self) -> None:
        """Let go of everything in a forked child, which may not use the device; destroy nothing of the parent's."""
        self._graveyard += [self._lanes, self._afloat, self._backend]
        self._begin()
        self._why = "cannot be used in a forked process"

    # --- taking

    def check(self, key: str, tensor: Any) -> Any:
        """Return of a tensor what is to be handed over; see ``Courier.check``."""
        if self._why:
            raise self._error()
        plain = plain_tensor(key, tensor)
        if plain.dtype not in self._of_dtype:
            lane = self._backend.lane(plain.dtype)
            if lane is None:
                raise NotAScalarError(key, tensor, f"{plain.dtype} holds no real numbers; take .real or .abs(), say")
            with self._lock:
                self._of_dtype[plain.dtype] = self._lanes.setdefault(lane.kind, _Lane(lane.kind)), lane.convert
        if self._backend.capturing():
            raise GraphCaptureError(key)
        return plain

    def take(self, tensors: Sequence[Any], holder: Holder) -> list[Pending] | None:
        """Take the values of tensors; see ``Courier.take``."""
        taken: dict[int, Pending] = {}
        told: list[Holder] = []
        while True:
            with self._lock:
                if self._busy:
                    return None
                if self._why:
                    break
                try:
                    self._busy = True
                    full = self._take(tensors, holder, taken)
                    if full is None and not batching():
                        self._ship_soon()
                except Exception as error:
                    if not self._backend.is_loss(error):
                        raise
                    told = self._lose(error)
                    break
                finally:
                    self._busy = False
            self._start()
            if full is None:
                return [taken[index] for index in range(len(tensors))]
            self._stalls += 1
            full.wait(None)
        self._tell(told)
        raise self._error()

    def _error(self) -> DeviceLostError:
        error = DeviceLostError(self._device, self._why)
        error.__cause__ = self._cause
        return error

    def _take(self, tensors: Sequence[Any], holder: Holder, taken: dict[int, Pending]) -> Latch | None:
        """Put what is not ``taken`` yet into rows; return a latch to wait for if there is none left."""
        stream = self._backend.stream()
        if len(tensors) == 1:
            lane, convert = self._of_dtype[tensors[0].dtype]
            return self._fill(lane, stream, [(0, tensors[0], convert)], holder, taken)
        of_lanes: dict[_Lane, list[tuple[int, Any, Convert | None]]] = {}
        for index, tensor in enumerate(tensors):
            if index not in taken:
                lane, convert = self._of_dtype[tensor.dtype]
                of_lanes.setdefault(lane, []).append((index, tensor, convert))
        for lane, values in of_lanes.items():
            full = self._fill(lane, stream, values, holder, taken)
            if full is not None:
                return full
        return None

    def _fill(
        self,
        lane: _Lane,
        stream: Any,
        values: list[tuple[int, Any, Convert | None]],
        holder: Holder,
        taken: dict[int, Pending],
    ) -> Latch | None:
        while values:
            load = self._opened(lane)
            if load is None or load.size == SLOTS or load.stream != stream:
                if load is not None:
                    self._ship(lane)
                if not lane.free and not self._grow(lane):
                    return self._afloat[0].flight.landed
                load = lane.open = _Load(lane, lane.free.pop(), stream)
            some, values = values[: SLOTS - load.size], values[SLOTS - load.size :]
            self._backend.put(load.row, load.size, [tensor for _, tensor, _ in some], stream)
            flight, size = load.flight, load.size
            if holder not in flight.holders:
                flight.holders.append(holder)
            load.size += len(some)
            for number, (index, _, convert) in enumerate(some, size):
                taken[index] = Pending(flight, number, convert)
            self._taken += len(some)
            load.due = load.due or not batching()
        return None

    def _grow(self, lane: _Lane) -> bool:
        """Make more rows; False if there are enough."""
        more = min(max(lane.rows, FEWEST), MOST - lane.rows)
        if more <= 0:
            return False
        lane.free += self._backend.new_rows(lane.kind, more)
        lane.rows += more
        return True

    # --- shipping

    def _opened(self, lane: _Lane) -> _Load | None:
        """Return the open row, once the shipping of it that an exception broke off is done."""
        load = lane.open
        if load is not None and load.flight.shipped:
            if load not in self._afloat and not load.flight.landed.is_set:
                self._afloat.append(load)
            lane.open = load = None
        return load

    def _ship(self, lane: _Lane) -> None:
        load = self._opened(lane)
        if load is None or not load.size:
            return
        self._backend.ship(load.row, load.size)
        load.flight.shipped = True
        self._afloat.append(load)
        lane.open = None

    def _ship_soon(self) -> None:
        """Ship what is due, unless enough is under way."""
        for lane in self._lanes.values():
            if lane.open is not None and lane.open.due and len(self._afloat) < ENOUGH:
                self._ship(lane)

    def ship(self) -> None:
        """Have what was taken brought, now."""
        lost: list[Holder] = []
        with self._lock:
            if self._busy or self._why:
                return
            try:
                self._busy = True
                for lane in self._lanes.values():
                    self._ship(lane)
            except Exception as error:
                lost = self._lose(error)
            finally:
                self._busy = False
        self._tell(lost)
        self._start()

    # --- landing

    def _start(self) -> None:
        """Have a thread land what is under way."""
        if self._thread is not None or not self._afloat:
            return
        thread = threading.Thread(target=self._run, name=f"asynchub devices {self._device}", daemon=True)
        try:
            with self._lock:
                if self._thread is None:
                    thread.start()
                    self._thread = thread
        except RuntimeError:  # the interpreter is ending, or there are too many: land it here
            while self._afloat:
                self._land(self._afloat[0])

    def _run(self) -> None:
        me = threading.current_thread()
        with self._lock:
            if self._thread is not None and self._thread is not me:
                return
            self._thread = me  # whoever started it may have been interrupted
        landing_here()
        try:
            self._backend.begin()
        except Exception:
            logger.exception("%s: the thread that lands values could not be prepared", self._device)
        quiet = time.monotonic()
        while True:
            if self._afloat:
                self._land(self._afloat[0])
                quiet = time.monotonic()
            elif self._ending or time.monotonic() > quiet + QUIET:
                with self._lock:
                    if not self._afloat:
                        self._thread = None
                        return
            else:
                time.sleep(POLL)

    def _land(self, load: _Load) -> None:
        """Wait for a row, and give its values to those who wait for them."""
        try:
            self._backend.wait(load.row)
            values = self._backend.read(load.row, load.size)
            with self._lock:
                if not self._afloat or self._afloat[0] is not load:  # it was given up meanwhile
                    return
                load.flight.values = values
                self._afloat.popleft()
                load.flight.landed.set()
                load.lane.free.append(load.row)
                self._landed += load.size
                self._flights += 1
                told = load.flight.holders
                self._ship_soon()
        except Exception as error:
            with self._lock:
                told = [*load.flight.holders, *self._lose(error)]
        self._tell(dict.fromkeys(told))

    def _lose(self, error: Exception, why: str = "failed") -> list[Holder]:
        """Give up everything; return who is to be told. With the lock held."""
        self._why, self._cause = f"{why}: {type(error).__name__}: {error}", error
        lost = self._error()
        opened = [lane.open for lane in self._lanes.values() if lane.open is not None]
        loads = list(dict.fromkeys([*self._afloat, *opened]))
        self._afloat.clear()
        for lane in self._lanes.values():
            lane.open = None
        self._graveyard += loads
        for load in loads:
            self._landed += load.size
            load.flight.error = lost
            load.flight.landed.set()
        logger.error("%s", lost, exc_info=error)
        return list(dict.fromkeys(holder for load in loads for holder in load.flight.holders))

    def _tell(self, holders: Iterable[Holder]) -> None:
        for holder in list(holders):
            try:
                holder.let_out()
            except Exception:  # of a reader's, or a disk's: other hubs are to get their values
                logger.exception("%s: values have come, and could not be handed on", self._device)

    # --- the end

    def end(self, timeout: float) -> None:
        """Land what is under way, and give up what does not come in ``timeout`` seconds."""
        self.ship()
        deadline = time.monotonic() + timeout
        for load in list(self._afloat):
            if not load.flight.landed.wait(max(deadline - time.monotonic(), 0.0)):
                with self._lock:
                    lost = self._lose(TimeoutError(f"no answer in {timeout:.0f} s"), "was given up at exit")
                self._tell(lost)
                return
        self._ending = True
        thread = self._thread
        if thread is not None:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def statistics(self) -> DeviceStatistics:
        """Return how it is doing."""
        rows = sum(lane.rows for lane in list(self._lanes.values()))
        return DeviceStatistics(
            self._device, self._taken, self._landed, self._flights, rows, self._stalls, bool(self._why)
        )


def _end_all() -> None:
    for courier in couriers():
        if isinstance(courier, RowCourier):
            courier.end(EXIT)


def _after_fork() -> None:
    for courier in couriers():
        if isinstance(courier, RowCourier):
            courier.forked()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
