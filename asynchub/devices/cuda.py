"""CUDA and ROCm: one small kernel on the publisher's stream, one copy on a stream of its own.

At the call the value is copied into a row of the device's memory. That row is copied to pinned memory on a side stream,
which waits for the publisher's only up to that point, and keeps no other copy waiting. All memory and all events are
made beforehand and used again. Nothing here synchronises but ``wait``, which blocks without spinning.

Sources: CUDA C Programming Guide, "Asynchronous Concurrent Execution"; CUDA Runtime API, ``cudaStreamCaptureMode``: a
thread in relaxed mode may wait for events while another one captures a graph.
"""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from asynchub.devices.backends import SLOTS, Backend, Lane

__all__ = ("CudaBackend",)

RELAXED = 2
"""``CU_STREAM_CAPTURE_MODE_RELAXED``."""
_EXACT_IN_FLOAT64 = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32")


def _unsigned(value: int) -> int:
    return value % 2**64


def _lanes() -> dict[torch.dtype, Lane]:
    """Return how each dtype travels: as float64 or int64, whichever holds all of its values."""
    lanes: dict[torch.dtype, Lane] = {}
    for name in dir(torch):
        dtype = getattr(torch, name)
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point and not name.endswith("_x2"):  # two in one
            lanes[dtype] = Lane(torch.float64)
    for name in _EXACT_IN_FLOAT64:
        lanes[getattr(torch, name)] = Lane(torch.float64, bool if name == "bool" else int)
    lanes[torch.int64] = Lane(torch.int64)
    lanes[torch.uint64] = Lane(torch.int64, _unsigned)
    return lanes


LANES = _lanes()


class _CudaRow:
    """A row; ``ready`` is recorded after each put, ``done`` after the copy."""

    __slots__ = ("done", "host", "numbers", "ready", "slots", "stage")

    def __init__(self, stage: torch.Tensor, host: torch.Tensor) -> None:
        self.stage = stage
        self.slots = list(stage.unbind())
        self.host = host
        self.numbers = host.numpy()
        self.ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # one that spins would hold the driver's lock


class CudaBackend(Backend):
    """A CUDA or ROCm device.

    Args:
        device: the device.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._index: int = torch.cuda.current_device() if device.index is None else device.index
        self._side = torch.cuda.Stream(self._index)  # type: ignore[no-untyped-call]
        self._default = torch.cuda.default_stream(self._index)
        self._streams: dict[int, torch.cuda.Stream] = {}

    def begin(self) -> None:
        """Use this device, no other, and let graphs be captured meanwhile."""
        torch.cuda.set_device(self._index)
        if torch.version.hip is None:
            driver = ctypes.CDLL("libcuda.so.1")
            driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(ctypes.c_int(RELAXED)))

    def capturing(self) -> bool:
        """Tell whether this thread's stream is being captured."""
        return torch.cuda.is_current_stream_capturing()

    def lane(self, dtype: Any) -> Lane | None:
        """Return how values of a dtype travel."""
        return LANES.get(dtype)

    def stream(self) -> Any:
        """Return the current stream of this thread on the device."""
        raw = torch._C._cuda_getCurrentRawStream(self._index)  # a tenth of what asking for the object costs
        stream = self._streams.get(raw)
        if stream is None:
            stream = self._streams[raw] = torch.cuda.current_stream(self._index)
        return stream

    def new_rows(self, kind: Hashable, number: int) -> list[Any]:
        """Return rows whose memory nothing else was queued for: it is allocated on the side stream."""
        dtype: Any = kind
        with torch.inference_mode(False), torch.cuda.device(self._index), torch.cuda.stream(self._side):
            stages = torch.empty((number, SLOTS), dtype=dtype, device=f"cuda:{self._index}")
            hosts = torch.empty((number, SLOTS), dtype=dtype, device="cpu", pin_memory=True)
            return [_CudaRow(stage, host) for stage, host in zip(stages.unbind(), hosts.unbind(), strict=True)]

    def put(self, row: Any, start: int, tensors: Sequence[Any], stream: Any) -> None:
        """Queue one kernel for each dtype."""
        if len(tensors) == 1:
            row.slots[start].copy_(tensors[0])
        else:
            of_dtypes: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
            for slot, tensor in zip(row.slots[start:], tensors, strict=False):
                slots, sources = of_dtypes.setdefault(tensor.dtype, ([], []))
                slots.append(slot)
                sources.append(tensor)
            for slots, sources in of_dtypes.values():
                torch._foreach_copy_(slots, sources)
        if stream != self._default:
            for tensor in tensors:  # the caller may let go of it, and its memory be used again, before it was read
                tensor.record_stream(stream)
        row.ready.record(stream)

    def ship(self, row: Any, size: int) -> None:
        """Queue the copy on the side stream: all of the row, which costs less than to slice it."""
        side = self._side
        side.wait_event(row.ready)
        with torch.cuda.stream(side):
            row.host.copy_(row.stage, non_blocking=True)
        row.done.record(side)

    def wait(self, row: Any) -> None:
        """Wait for the copy; blocks in the driver."""
        row.done.synchronize()

    def read(self, row: Any, size: int) -> Sequence[Any]:
        """Return what came."""
        numbers: list[Any] = row.numbers[:size].tolist()
        return numbers

    def is_loss(self, error: Exception) -> bool:
        """Tell whether it is an error of the device."""
        return super().is_loss(error) or "CUDA error" in str(error) or "HIP error" in str(error)
