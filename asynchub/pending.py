"""Values that are still on their way from a device: what stands for them meanwhile, and who brings them.

A publisher hands a tensor to the courier of its device, which takes the value as it is then, and gets a ``Pending`` for
it. Values travel together, in flights. When a flight has landed, each hub that waits for a value in it is told.

Threads: any thread may hand over tensors; a courier lands flights in a thread of its own.
"""

from __future__ import annotations

import functools
import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, cast

from asynchub.errors import DeviceLostError
from asynchub.loops import Latch

__all__ = (
    "Convert",
    "Courier",
    "DeviceStatistics",
    "Flight",
    "Holder",
    "Pending",
    "batch",
    "batching",
    "courier_for",
    "couriers",
    "couriers_from",
    "hasten",
    "landing_here",
    "may_not_wait",
    "on_device",
    "pending",
)


Convert = Callable[[Any], int | float]
"""Makes what ``.item()`` gives of what travelled."""


class Holder(Protocol):
    """Who waits for values."""

    def let_out(self) -> None:
        """Look which of them have come."""


class Flight:
    """Values on their way, in one piece.

    Attributes:
        values: they, once they are there.
        error: why they never will be.
        landed: whether there are values or an error.
        holders: whom to tell.
    """

    __slots__ = ("_latch", "error", "holders", "landed", "values")

    def __init__(self) -> None:
        self.values: Sequence[Any] = ()
        self.error: DeviceLostError | None = None
        self.landed = False
        self.holders: list[Holder] = []
        self._latch: Latch | None = None  # made when somebody waits

    def land(self, values: Sequence[Any], error: DeviceLostError | None = None) -> None:
        """Say that the values are here, or why they never will be."""
        self.values, self.error = values, error
        self.landed = True
        if self._latch is not None:
            self._latch.set()

    def wait(self, timeout: float | None) -> bool:
        """Wait until it has landed, at most ``timeout`` seconds; tell whether it has."""
        with _making:  # two who wait are to share it
            if self._latch is None:
                self._latch = Latch()
        return self.landed or self._latch.wait(timeout)


class Pending(NamedTuple):
    """Stands for one value of a flight.

    Attributes:
        flight: the flight.
        slot: which of its values.
        convert: makes what ``.item()`` gives of what travelled; None if that is the same.
    """

    flight: Flight
    slot: int
    convert: Convert | None

    def value(self) -> int | float:
        """Return the value; call when the flight has landed, with values."""
        value: int | float = self.flight.values[self.slot]
        return value if self.convert is None else self.convert(value)


pending = cast("Callable[[tuple[Flight, int, Convert | None]], Pending]", functools.partial(tuple.__new__, Pending))
"""Make a ``Pending`` of a tuple, three times as fast as its constructor."""


class DeviceStatistics(NamedTuple):
    """How values of one device come, in this process, whatever hub they are for.

    Attributes:
        device: the device, e.g. ``"cuda:0"``.
        taken: values handed over so far.
        landed: those that came, or are lost.
        flights: pieces they came in.
        rows: pieces there is memory for at once.
        stalls: how often a publisher had to wait because all of them were under way.
        lost: whether the device has failed.
    """

    device: str
    taken: int
    landed: int
    flights: int
    rows: int
    stalls: int
    lost: bool


class Courier(ABC):
    """Brings the values of one device. Any thread."""

    @abstractmethod
    def check(self, keys: Sequence[str], tensors: Sequence[Any]) -> list[Any]:
        """Return of tensors, at least one, what is to be handed over, if that can be done now.

        Args:
            keys: what they are for; named in errors.
            tensors: they.

        Raises:
            NotAScalarError: one is not exactly one real number that is here.
            GraphCaptureError: a graph is being captured.
            DeviceLostError: the device has failed.
        """

    @abstractmethod
    def take_one(self, key: str, tensor: Any, holder: Holder) -> Pending | None:
        """Check and take one; in the usual case only, and then faster. None, and nothing is done, in any other."""

    @abstractmethod
    def take(self, tensors: Sequence[Any], holder: Holder) -> list[Pending] | None:
        """Take the values of tensors, checked, as they are now, for ``holder``.

        Returns:
            What stands for each; None amid another ``take`` of this very thread, which a signal handler broke into.

        Raises:
            DeviceLostError: the device has failed.
        """

    @abstractmethod
    def ship(self) -> None:
        """Have what was taken brought, now."""

    @property
    @abstractmethod
    def at_work(self) -> bool:
        """Whether this thread is amid one of these calls: a signal handler broke into it."""

    @abstractmethod
    def statistics(self) -> DeviceStatistics:
        """Return how it is doing."""


_sources: list[Callable[[Any], Courier]] = []
_couriers: dict[Any, Courier] = {}


class _Here(threading.local):
    """What is so in one thread; set on the class, for to find nothing costs ten times as much as to find a default.

    Attributes:
        batches: how many ``batch`` it is inside of.
        lands: whether values land in it.
    """

    batches = 0
    lands = False


_here = _Here()
_making = threading.RLock()


def couriers_from(source: Callable[[Any], Courier]) -> None:
    """Have ``source`` make the courier of each device; called by ``asynchub.devices``."""
    _sources[:] = [source]
    _couriers.clear()


def courier_for(device: Any) -> Courier:
    """Return the courier of a device: of a ``torch.device``, or what looks like one."""
    courier = _couriers.get(device)
    if courier is None:
        if not _sources:
            importlib.import_module("asynchub.devices")  # which is in a room above this one, and loads torch
        courier = _couriers.setdefault(device, _sources[0](device))  # another thread may have been faster
    return courier


def couriers() -> list[Courier]:
    """Return the couriers there are."""
    return list(dict.fromkeys(_couriers.values()))


def hasten() -> None:
    """Have all that was taken from devices brought now, also amid a batch."""
    for courier in couriers():
        courier.ship()


def landing_here() -> None:
    """Say that this thread is where values land: it must not wait for them."""
    _here.lands = True


def may_not_wait() -> bool:
    """Tell whether this thread is one that values wait for: they land in it, or it is amid handing one over."""
    return _here.lands or any(courier.at_work for courier in couriers())


def batching() -> bool:
    """Tell whether this thread is inside of ``batch``."""
    return _here.batches > 0


@contextmanager
def batch() -> Iterator[None]:
    """Let what this thread publishes from devices travel together, and leave at the end; nests."""
    _here.batches += 1
    try:
        yield
    finally:
        _here.batches -= 1
        if not _here.batches:
            hasten()


def on_device(value: Any) -> bool:
    """Tell whether a value is a tensor that is not in this process's memory."""
    is_cpu = getattr(value, "is_cpu", None)
    if is_cpu is not None:  # of torch, where the name of a device is a new string each time, and six times as dear
        return not (is_cpu or value.is_meta)
    kind = getattr(getattr(value, "device", None), "type", "cpu")
    return kind != "cpu" and kind != "meta"
