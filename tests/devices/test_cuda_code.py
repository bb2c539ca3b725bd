"""The code for CUDA, run over CPU tensors: every line of it, and in which order it queues what.

``torch.cuda`` is replaced by a record of the calls; each has the signature of the real one. What only a GPU can
show is in ``test_cuda.py``.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from asynchub.devices import cuda as module
from asynchub.devices.backends import SLOTS
from asynchub.devices.courier import RowCourier
from asynchub.devices.cuda import LANES, CudaBackend
from asynchub.pending import Pending

Calls = list[tuple[str, Any]]


class Stream:
    """Stands for ``torch.cuda.Stream``."""

    calls: Calls

    def __init__(self, device: Any = None) -> None:
        self.device = device

    def wait_event(self, event: Event) -> None:
        self.calls.append(("wait_event", (self, event)))


class Event:
    """Stands for ``torch.cuda.Event``."""

    calls: Calls

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self.blocking = blocking

    def record(self, stream: Any = None) -> None:
        self.calls.append(("record", (self, stream)))

    def synchronize(self) -> None:
        self.calls.append(("synchronize", self))


class Holder:
    """Counts how often it is told."""

    def __init__(self) -> None:
        self.told = 0

    def let_out(self) -> None:
        self.told += 1


class Cuda:
    """What was called, and what is current."""

    def __init__(self) -> None:
        self.calls: Calls = []
        self.default = Stream()
        self.current = self.default
        self.capturing = False
        self.devices: list[Any] = []


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """A stub of ``torch.cuda``."""
    cuda = Cuda()
    monkeypatch.setattr(Stream, "calls", cuda.calls, raising=False)
    monkeypatch.setattr(Event, "calls", cuda.calls, raising=False)

    @contextmanager
    def stream(stream: Stream) -> Iterator[None]:
        before, cuda.current = cuda.current, stream
        yield
        cuda.current = before

    @contextmanager
    def device(device: Any) -> Iterator[None]:
        cuda.devices.append(device)
        yield

    real_empty = torch.empty

    def empty(*size: Any, device: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        cuda.calls.append(("empty", (str(device), pin_memory, cuda.current)))
        return real_empty(*size, **options)

    real_copy = torch.Tensor.copy_

    def copy(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        cuda.calls.append(("copy", (cuda.current, non_blocking, self.dim())))
        return real_copy(self, source, non_blocking)

    real_foreach = torch._foreach_copy_

    def foreach(slots: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        cuda.calls.append(("foreach", (cuda.current, len(slots), {source.dtype for source in sources})))
        real_foreach(slots, sources)

    for name, value in {
        "Stream": Stream,
        "Event": Event,
        "stream": stream,
        "device": device,
        "current_stream": lambda device=None: cuda.current,
        "default_stream": lambda device=None: cuda.default,
        "current_device": lambda: 0,
        "set_device": lambda device: cuda.calls.append(("set_device", device)),
        "is_current_stream_capturing": lambda: cuda.capturing,
    }.items():
        _same_signature(getattr(torch.cuda, name), value)
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: id(cuda.current), raising=False)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "_foreach_copy_", foreach)
    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda self, stream: cuda.calls.append(("record_stream", stream))
    )
    return cuda


def _same_signature(real: Any, stub: Any) -> None:
    """Fail if the real thing does not take the arguments that the stub takes."""
    wanted = inspect.signature(real.__new__ if isinstance(real, type) and real.__new__ is not object.__new__ else real)
    taken = [name for name in inspect.signature(stub).parameters if name != "self"]
    names = [name for name in wanted.parameters if name not in ("cls", "self")]
    assert names[: len(taken)] == taken or "kwargs" in names, (real, names, taken)


def taken(courier: RowCourier, tensors: list[Any]) -> list[Pending]:
    """Check and take."""
    found = courier.take(courier.check([str(n) for n in range(len(tensors))], tensors), Holder())
    assert found is not None
    return found


@pytest.fixture
def courier(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[RowCourier]:
    """A courier whose landing thread asks the driver nothing."""
    monkeypatch.setattr(CudaBackend, "begin", lambda self: None)
    courier = RowCourier("cuda:0", CudaBackend(torch.device("cuda", 0)))
    yield courier
    courier.end(10)


def test_rows_are_made_beforehand_on_the_side_stream_and_only_the_host_is_pinned(
    cuda: Cuda, courier: RowCourier
) -> None:
    taken(courier, [torch.tensor(1.5)])
    made = [what for name, what in cuda.calls if name == "empty"]
    assert [(device, pinned) for device, pinned, _ in made] == [("cuda:0", False), ("cpu", True)]
    assert made[0][2] is not cuda.default
    for _ in range(100):
        taken(courier, [torch.tensor(1.5)])
    assert len([name for name, _ in cuda.calls if name == "empty"]) <= 6  # the rows double


def test_a_value_is_queued_on_the_publishers_stream_and_copied_on_the_side(cuda: Cuda, courier: RowCourier) -> None:
    (pending,) = taken(courier, [torch.tensor([2.5], requires_grad=True)])
    assert pending.flight.wait(10)
    assert pending.value() == 2.5
    calls = [(name, what) for name, what in cuda.calls if name != "empty"]
    names = [name for name, _ in calls]
    assert names == ["copy", "record", "wait_event", "copy", "record", "synchronize"]
    kernel, ready, waits, ship, done, waited = (what for _, what in calls)
    assert kernel[0] is ready[1] is cuda.default
    assert waits == (done[1], ready[0])
    side = done[1]
    assert ship == (side, True, 1)
    assert side is not cuda.default
    assert waited is done[0]
    assert done[0].blocking
    assert not ready[0].blocking


def test_fifty_of_one_dtype_are_one_kernel_and_of_two_dtypes_two(cuda: Cuda, courier: RowCourier) -> None:
    tensors = [torch.tensor(float(n)) for n in range(50)]
    found = taken(courier, tensors)
    assert found[-1].flight.wait(10)
    assert [pending.value() for pending in found] == list(range(50))
    assert [what[1] for name, what in cuda.calls if name == "foreach"] == [50]
    mixed = taken(courier, [torch.tensor(1.0), torch.tensor(2), torch.tensor(True), torch.tensor(3.0).half()])
    for pending in mixed:
        assert pending.flight.wait(10)
    assert [pending.value() for pending in mixed] == [1.0, 2, True, 3.0]
    assert [what[2] for name, what in cuda.calls if name == "foreach"][1:] == [
        {torch.float32},
        {torch.bool},
        {torch.float16},
    ]


def test_on_another_stream_the_allocator_is_told_and_the_row_left(cuda: Cuda, courier: RowCourier) -> None:
    first = taken(courier, [torch.tensor(1.0)])[0]
    cuda.current = other = Stream()
    second = taken(courier, [torch.tensor(2.0)])[0]
    assert first.flight is not second.flight
    assert second.flight.wait(10)
    assert [what for name, what in cuda.calls if name == "record_stream"] == [other]
    assert second.value() == 2.0


def test_a_capture_is_seen(cuda: Cuda, courier: RowCourier) -> None:
    cuda.capturing = True
    with pytest.raises(RuntimeError, match="replay"):
        courier.check(["a"], [torch.tensor(1.0)])


def test_the_landing_thread_takes_its_device_and_relaxes_its_capture_mode(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    class Driver:
        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"

        def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> int:  # the driver's name
            modes.append(mode._obj.value)
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Driver)
    CudaBackend(torch.device("cuda", 3)).begin()
    assert modes == [2]
    assert ("set_device", 3) in cuda.calls


def test_errors_of_the_device_are_told_from_others(cuda: Cuda) -> None:
    backend = CudaBackend(torch.device("cuda"))
    assert backend.is_loss(torch.AcceleratorError("x"))
    assert backend.is_loss(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not backend.is_loss(RuntimeError("The size of tensor a must match"))


@pytest.mark.parametrize("dtype", list(LANES), ids=str)
def test_a_lane_holds_the_extremes_of_its_dtypes(dtype: torch.dtype) -> None:
    if dtype is torch.bool:
        extremes = [torch.tensor(True), torch.tensor(False)]
    elif dtype.is_floating_point:
        info = torch.finfo(dtype)
        extremes = [torch.tensor(number, dtype=dtype) for number in (info.max, info.min, info.tiny)]
    else:
        limits = torch.iinfo(dtype)
        extremes = [torch.tensor(number, dtype=dtype) for number in (limits.max, limits.min)]
    lane = LANES[dtype]
    kind: Any = lane.kind
    for extreme in extremes:
        came = torch.zeros((), dtype=kind).copy_(extreme).item()
        value = came if lane.convert is None else lane.convert(came)
        assert value == extreme.item()
        assert type(value) is type(extreme.item())


def test_a_row_has_as_many_slots_as_it_says(cuda: Cuda) -> None:
    (row,) = CudaBackend(torch.device("cuda")).new_rows(torch.float64, 1)
    assert len(row.slots) == len(row.numbers) == SLOTS
    assert all(slot.shape == () for slot in row.slots)
    assert module.RELAXED == 2
