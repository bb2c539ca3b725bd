"""The courier of a device whose values travel in rows.

A publisher puts values into the open row, and ships it, unless ``ENOUGH`` rows are under way: then the landing thread
ships it as soon as one has landed, and it fills meanwhile. So few rows are needed however far the device is behind.

Order: rows land in the order in which they were shipped.
Waiting: a publisher waits only if ``MOST`` rows are full or under way; that is counted as a stall. It wakes nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import repeat
from typing import Any

from asynchub.devices.backends import SLOTS, Backend
from asynchub.devices.checking import plain_tensor, plain_tensors
from asynchub.devices.loads import Load, LoadedLane
from asynchub.errors import DeviceLostError, GraphCaptureError, NotAScalarError
from asynchub.pending import (
    Convert,
    Courier,
    DeviceStatistics,
    Flight,
    Holder,
    Pending,
    batching,
    landing_here,
    pending,
)

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
        self._of_dtype: dict[Any, tuple[LoadedLane, Convert | None]] = {}
        self._graveyard: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._busy = self._ending = False
        self._lanes: dict[Hashable, LoadedLane] = {}
        self._of_dtype.clear()
        self._afloat: deque[Load] = deque()
        self._thread: threading.Thread | None = None

    def forked(self) -> None:
        """Let go of everything in a forked child, which may not use the device; destroy nothing of the parent's."""
        self._graveyard += [self._lanes, self._afloat, self._backend]
        self._begin()
        self._why = "cannot be used in a forked process"

    # --- taking

    def check(self, keys: Sequence[str], tensors: Sequence[Any]) -> list[Any]:
        """Return of tensors what is to be handed over; see ``Courier.check``."""
        if self._why:
            raise self._error()
        plain = plain_tensors(keys, tensors)
        if not self._of_dtype.keys() >= {tensor.dtype for tensor in plain}:
            for key, tensor in zip(keys, plain, strict=True):
                self._learn(key, tensor)
        if self._backend.capturing():
            raise GraphCaptureError(keys[0])
        return plain

    def _learn(self, key: str, tensor: Any) -> None:
        """Find out how values of a tensor's dtype travel."""
        if tensor.dtype not in self._of_dtype:
            lane = self._backend.lane(tensor.dtype)
            if lane is None:
                raise NotAScalarError(key, tensor, f"{tensor.dtype} holds no real numbers; take .real or .abs(), say")
            with self._lock:
                loaded = self._lanes.setdefault(lane.kind, LoadedLane(lane.kind))
                self._of_dtype[tensor.dtype] = loaded, lane.convert

    def take_one(self, key: str, tensor: Any, holder: Holder) -> Pending | None:
        """Check and take one, in the usual case; see ``Courier.take_one``."""
        plain = plain_tensor(key, tensor)
        backend = self._backend
        with self._lock:
            found = self._of_dtype.get(plain.dtype)
            if self._busy or found is None or self._why or backend.capturing():
                return None
            try:
                self._busy = True  # before anything is looked at: a signal handler may publish, too
                lane, convert = found
                load, stream = lane.open, backend.stream()
                if load is None and lane.free:
                    load = lane.open = Load(lane, lane.free.pop(), stream)
                if load is None or load.size == SLOTS or load.shipped or load.stream != stream:
                    return None
                size = load.size
                backend.put(load.row, size, (plain,), stream)
                if holder not in load.holders:
                    load.holders.append(holder)
                load.size = size + 1
                self._taken += 1
                due = not batching()
                load.due = load.due or due
                if due and len(self._afloat) < ENOUGH:
                    self._ship(lane)
                one = pending((load, size, convert))
            except Exception as error:
                if not backend.is_loss(error):
                    raise
                return None  # the slow way finds it, too, and says it
            finally:
                self._busy = False
        if self._thread is None:
            self._start()
        return one

    def take(self, tensors: Sequence[Any], holder: Holder) -> list[Pending] | None:
        """Take the values of tensors; see ``Courier.take``."""
        taken: list[Pending | None] = [None] * len(tensors)
        told: list[Holder] = []
        while True:
            with self._lock:
                if self._busy:
                    return None
                if self._why:
                    break
                try:
                    self._busy = True
                    due = not batching()
                    full = self._take(tensors, holder, taken, due)
                    if full is None and due:
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
                return taken  # type: ignore[return-value]  # none is missing
            self._stalls += 1
            full.wait(None)
        self._tell(told)
        raise self._error()

    def _error(self) -> DeviceLostError:
        error = DeviceLostError(self._device, self._why)
        error.__cause__ = self._cause
        return error

    def _take(self, tensors: Sequence[Any], holder: Holder, taken: list[Pending | None], due: bool) -> Flight | None:
        """Put what is not ``taken`` yet into rows; return what to wait for if there is none left."""
        stream = self._backend.stream()
        of_dtype = self._of_dtype
        if len(tensors) == 1:
            return self._fill(of_dtype[tensors[0].dtype][0], stream, [0], tensors, holder, taken, due)
        of_lanes: dict[LoadedLane, list[int]] = {}
        lanes = {of_dtype[dtype][0] for dtype in {tensor.dtype for tensor in tensors}}
        if len(lanes) == 1 and taken[0] is None:
            of_lanes[lanes.pop()] = list(range(len(tensors)))
        else:
            for index, tensor in enumerate(tensors):
                if taken[index] is None:
                    of_lanes.setdefault(of_dtype[tensor.dtype][0], []).append(index)
        for lane, indices in of_lanes.items():
            full = self._fill(lane, stream, indices, tensors, holder, taken, due)
            if full is not None:
                return full
        return None

    def _fill(
        self,
        lane: LoadedLane,
        stream: Any,
        indices: list[int],
        tensors: Sequence[Any],
        holder: Holder,
        taken: list[Pending | None],
        due: bool,
    ) -> Flight | None:
        while indices:
            load = self._opened(lane)
            if load is not None and not load.size:
                load.stream = stream
            if load is None or load.size == SLOTS or load.stream != stream:
                if load is not None:
                    self._ship(lane)
                if not lane.free and not self._grow(lane):
                    return self._afloat[0]
                load = lane.open = Load(lane, lane.free.pop(), stream)
            size = load.size
            some, indices = indices[: SLOTS - size], indices[SLOTS - size :]
            all_of_them = len(some) == len(tensors)
            self._backend.put(load.row, size, tensors if all_of_them else [tensors[index] for index in some], stream)
            if holder not in load.holders:
                load.holders.append(holder)
            load.size += len(some)
            of_dtype, numbers = self._of_dtype, range(size, load.size)
            if all_of_them:  # as nearly always
                converts = [of_dtype[tensor.dtype][1] for tensor in tensors]
                taken[:] = map(pending, zip(repeat(load), numbers, converts, strict=False))
            else:
                for number, index in zip(numbers, some, strict=True):
                    taken[index] = pending((load, number, of_dtype[tensors[index].dtype][1]))
            self._taken += len(some)
            load.due = load.due or due
        return None

    def _grow(self, lane: LoadedLane) -> bool:
        """Make more rows; False if there are enough."""
        more = min(max(lane.rows, FEWEST), MOST - lane.rows)
        if more <= 0:
            return False
        lane.free += self._backend.new_rows(lane.kind, more)
        lane.rows += more
        return True

    # --- shipping

    def _opened(self, lane: LoadedLane) -> Load | None:
        """Return the open row, once the shipping of it that an exception broke off is done."""
        load = lane.open
        if load is not None and load.shipped:
            if load not in self._afloat and not load.landed:
                self._afloat.append(load)
            lane.open = load = None
        return load

    def _ship(self, lane: LoadedLane) -> None:
        load = self._opened(lane)
        if load is None or not load.size:
            return
        self._backend.ship(load.row, load.size)
        load.shipped = True
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

    def _land(self, load: Load) -> None:
        """Wait for a row, and give its values to those who wait for them."""
        try:
            self._backend.wait(load.row)
            values = self._backend.read(load.row, load.size)
            with self._lock:
                if not self._afloat or self._afloat[0] is not load:  # it was given up meanwhile
                    return
                self._afloat.popleft()
                load.land(values)
                load.lane.free.append(load.row)
                self._landed += load.size
                self._flights += 1
                told = load.holders
                self._ship_soon()
        except Exception as error:
            with self._lock:
                told = [*load.holders, *self._lose(error)]
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
            load.land((), lost)
        logger.error("%s", lost, exc_info=error)
        return list(dict.fromkeys(holder for load in loads for holder in load.holders))

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
            if not load.wait(max(deadline - time.monotonic(), 0.0)):
                with self._lock:
                    lost = self._lose(TimeoutError(f"no answer in {timeout:.0f} s"), "was given up at exit")
                self._tell(lost)
                return
        self._ending = True
        thread = self._thread
        if thread is not None:
            thread.join(max(deadline - time.monotonic(), 0.0))

    @property
    def at_work(self) -> bool:
        """Whether this thread is amid a call; see ``Courier.at_work``."""
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # as threading.Condition asks

    def statistics(self) -> DeviceStatistics:
        """Return how it is doing."""
        rows = sum(lane.rows for lane in list(self._lanes.values()))
        return DeviceStatistics(
            self._device, self._taken, self._landed, self._flights, rows, self._stalls, bool(self._why)
        )
