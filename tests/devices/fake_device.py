"""A device that the test advances by hand: what is queued on its streams happens when the test says so.

Tensors hold real ``torch`` values in CPU memory, that only queued work reads or writes. So an implementation that reads
at the publish, or when the value lands, or that does not wait for its copy, gives wrong values at once.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch

from asynchub.devices import SLOTS, Backend
from asynchub.devices.backends import Lane
from asynchub.devices.cuda import LANES
from asynchub.loops import Latch

_numbers = itertools.count()


class FakeDevice(NamedTuple):
    """What ``tensor.device`` is."""

    type: str
    index: int = 0

    def __str__(self) -> str:
        return f"{self.type}:{self.index}"


class FakeTensor:
    """A tensor on the device. ``fill`` is queued; ``item`` runs the stream and is counted, as a synchronisation."""

    def __init__(self, machine: Machine, data: torch.Tensor, requires_grad: bool = False) -> None:
        self.machine = machine
        self.device = machine.device
        self.data = data
        self.dtype = data.dtype
        self.shape = data.shape
        self.requires_grad = requires_grad

    def numel(self) -> int:
        return self.data.numel()

    def dim(self) -> int:
        return self.data.dim()

    def reshape(self, shape: tuple[int, ...]) -> FakeTensor:
        return FakeTensor(self.machine, self.data.reshape(shape), self.requires_grad)

    def detach(self) -> FakeTensor:
        return FakeTensor(self.machine, self.data)

    def fill(self, value: Any) -> FakeTensor:
        self.machine.queue(lambda: self.data.fill_(value))
        return self

    def item(self) -> Any:
        self.machine.calls["item"] += 1
        self.machine.advance()
        return self.data.item()


class _Stream:
    def __init__(self) -> None:
        self.work: deque[Callable[[], object]] = deque()
        self.queued = self.finished = 0


class _Row:
    def __init__(self, dtype: torch.dtype) -> None:
        self.stage = torch.full((SLOTS,), 77, dtype=dtype)
        self.host = torch.full((SLOTS,), 99, dtype=dtype)
        self.ready: tuple[_Stream, int] | None = None
        self.done = Latch()  # a signal handler may set it amid its own setting


class Machine:
    """The device.

    Attributes:
        calls: how often each thing was asked of it: ``put``, ``kernel``, ``ship``, ``wait``, ``rows``, ``item``.
        put_threads: who called ``put``.
        current: the name of the current stream, of all threads.
        is_capturing: whether a graph is being captured.
    """

    def __init__(self) -> None:
        self.device = FakeDevice(f"fake{next(_numbers)}")
        self.calls: Counter[str] = Counter()
        self.current = "default"
        self.is_capturing = False
        self.error: Exception | None = None
        self.waiters: set[int] = set()
        self.running = False
        self._streams: dict[str, _Stream] = {}
        self._shipped: list[tuple[_Row, int]] = []
        self._lock = threading.RLock()

    def tensor(self, value: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> FakeTensor:
        """Return a tensor that holds a value once what is queued now is done."""
        new = value.to(dtype) if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)
        tensor = FakeTensor(self, torch.zeros(new.shape, dtype=dtype), **kwargs)
        self.queue(lambda: tensor.data.copy_(new))
        return tensor

    def stream(self) -> _Stream:
        return self._streams.setdefault(self.current, _Stream())

    def queue(self, work: Callable[[], object]) -> None:
        """Queue work on the current stream."""
        with self._lock:
            stream = self.stream()
            stream.work.append(work)
            stream.queued += 1
            if self.running:
                self.advance()

    def advance(self, number: int | None = None, stream: str | None = None) -> None:
        """Have the next ``number`` pieces of work done, of all streams or one; all of them by default."""
        with self._lock:
            for name, one in self._streams.items():
                if stream is not None and name != stream:
                    continue
                left = len(one.work) if number is None else min(number, len(one.work))
                while left and one.work:  # less than there was, if a signal handler advances it too
                    one.work.popleft()()
                    one.finished += 1
                    left -= 1
            self._copy()

    def _copy(self) -> None:
        for row, size in self._shipped[:]:
            if row.ready is None or row.ready[0].finished >= row.ready[1]:
                self._shipped.remove((row, size))
                row.host[:size] = row.stage[:size]
                row.done.set()

    def run(self) -> None:
        """Have everything done at once, from now on."""
        with self._lock:
            self.running = True
            self.advance()

    def die(self, error: Exception) -> None:
        """Fail for good."""
        with self._lock:
            self.error = error
            shipped, self._shipped = self._shipped, []
            for row, _ in shipped:
                row.done.set()

    @property
    def at_work(self) -> bool:
        """Whether this thread is amid its driver, where no signal handler runs."""
        return self._lock._is_owned()  # type: ignore[attr-defined]

    def check(self) -> None:
        if self.error is not None:
            raise self.error


class FakeBackend(Backend):
    """The backend of a ``Machine``."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def capturing(self) -> bool:
        return self.machine.is_capturing

    def lane(self, dtype: Any) -> Lane | None:
        return LANES.get(dtype)

    def stream(self) -> Any:
        return self.machine.stream()

    def new_rows(self, kind: Hashable, number: int) -> list[Any]:
        assert isinstance(kind, torch.dtype)
        self.machine.calls["rows"] += number
        return [_Row(kind) for _ in range(number)]

    def put(self, row: Any, start: int, tensors: Sequence[Any], stream: Any) -> None:
        machine = self.machine
        machine.check()
        machine.calls["put"] += 1
        machine.calls["kernel"] += len({tensor.dtype for tensor in tensors})
        assert not any(tensor.requires_grad or tensor.dim() for tensor in tensors)
        for slot, tensor in enumerate(tensors, start):
            machine.queue(lambda slot=slot, tensor=tensor: row.stage[slot].copy_(tensor.data))  # type: ignore[misc]
        row.ready = (stream, stream.queued)

    def ship(self, row: Any, size: int) -> None:
        machine = self.machine
        machine.check()
        machine.calls["ship"] += 1
        with machine._lock:
            row.done = Latch()
            machine._shipped.append((row, size))
            machine._copy()

    def wait(self, row: Any) -> None:
        machine = self.machine
        machine.calls["wait"] += 1
        machine.waiters.add(threading.get_ident())
        row.done.wait(None)
        machine.check()

    def read(self, row: Any, size: int) -> Sequence[Any]:
        values: list[Any] = row.host[:size].tolist()
        row.host.fill_(99)
        row.stage.fill_(77)
        return values

    def is_loss(self, error: Exception) -> bool:
        return error is self.machine.error
