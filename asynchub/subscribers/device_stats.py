"""What the run takes of the machine: memory, processor, files; of each GPU memory, load, power, temperature.

Own time: a sample at once and then every ``interval`` seconds, in a thread, whatever the training loop does. Nothing is
    synchronised, and no GPU is touched that the program does not use itself.
Left out: what cannot be had is not published: GPUs that are not there, what a driver or the system does not tell.
Devices: as the program counts them, also under ``CUDA_VISIBLE_DEVICES``; in a program without torch, as NVML counts.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anyio.to_thread

try:
    import psutil
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[system]'", name=error.name) from error

from asynchub.errors import ArgumentError
from asynchub.events import Event, StateLoaded
from asynchub.subscribers.checks import check_number
from asynchub.subscribers.monitoring import sample_every
from asynchub.subscription import Subscription

__all__ = ("DeviceStatsMonitor", "gpu_stats", "loaded_nvml", "machine_stats", "nvml_stats")

MILLI = 1e-3


class DeviceStatsMonitor:
    """Publish what the process takes of the machine and of its GPUs.

    =======================================  ========  ====================================================
    key                                      unit      is
    =======================================  ========  ====================================================
    ``system/rss_bytes``                     bytes     memory of the process that is in RAM
    ``system/cpu_percent``                   %         of one core, since the sample before; from the second
    ``system/threads``                       threads   of the process
    ``system/open_files``                    files     descriptors (handles on Windows) that it has open
    ``system/children``                      number    processes that it has started, such as data workers
    ``system/children_rss_bytes``            bytes     memory of those, pages that they share counted each time
    ``system/memory_used_bytes``             bytes     of the machine's memory, what is not available
    ``system/memory_percent``                %         the same, of all of it
    ``device/0/memory_bytes``                bytes     in tensors (``torch.cuda.memory_allocated``)
    ``device/0/memory_reserved_bytes``       bytes     held by torch for tensors
    ``device/0/memory_used_bytes``           bytes     in use on the GPU, by whomever (NVML, as the next)
    ``device/0/utilization_percent``         %         of the time in which a kernel ran
    ``device/0/power_watts``                 W         power
    ``device/0/temperature_celsius``         °C        temperature
    =======================================  ========  ====================================================

    The first two of a GPU come once the program uses torch there; the others need ``nvidia-ml-py``, which the extra
    ``system`` brings, and a driver.

    Args:
        interval: seconds from one sample to the next; above 0.
        children: whether to look at processes that this one has started.
        devices: whether to look at GPUs.

    Raises:
        ArgumentError: ``interval`` is not a number above 0.
    """

    role = "observer"
    keys: tuple[str | type[Event], ...] = (StateLoaded,)  # it goes by time; something has to be named

    def __init__(self, interval: float = 10.0, *, children: bool = True, devices: bool = True) -> None:
        if not check_number("interval", interval, 0):
            raise ArgumentError(f"interval must be above 0 s, got {interval!r}")
        self._interval = float(interval)
        self._children = children
        self._devices = devices

    async def __call__(self, events: Subscription) -> None:
        of_machine = machine_stats(children=self._children)
        nvml = await anyio.to_thread.run_sync(loaded_nvml) if self._devices else None

        def read() -> list[tuple[str, float]]:
            return [*of_machine(), *(gpu_stats(nvml) if self._devices else ())]

        async def sample() -> None:
            for key, value in await anyio.to_thread.run_sync(read):
                events.update_scalar(key, value)

        try:
            await sample_every(self._interval, events, sample)
        finally:
            if nvml is not None:
                nvml.nvmlShutdown()  # it counts who has it


def machine_stats(*, children: bool = True) -> Callable[[], list[tuple[str, float]]]:
    """Return a function that returns key and value of what this process takes of the machine.

    Args:
        children: whether processes that it has started are looked at.
    """
    process = psutil.Process()
    process.cpu_percent()  # what the next asking counts from
    asked = False

    def stats() -> list[tuple[str, float]]:
        nonlocal asked
        count_files = process.num_fds if hasattr(process, "num_fds") else process.num_handles
        found: list[tuple[str, float]] = []
        with process.oneshot():
            readings: dict[str, Callable[[], float]] = {
                "rss_bytes": lambda: process.memory_info().rss,
                "cpu_percent": process.cpu_percent,
                "threads": process.num_threads,
                "open_files": count_files,
            }
            for name, reading in readings.items():
                with contextlib.suppress(psutil.Error):  # the system may refuse single ones
                    value = reading()
                    if asked or name != "cpu_percent":
                        found.append((f"system/{name}", value))
        asked = True
        if children:
            found += _of_children(process)
        memory = psutil.virtual_memory()
        used = ("system/memory_used_bytes", float(memory.total - memory.available))
        return [*found, used, ("system/memory_percent", memory.percent)]

    return stats


def _of_children(process: psutil.Process) -> list[tuple[str, float]]:
    sizes: list[int] = []
    with contextlib.suppress(psutil.Error):
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                sizes.append(child.memory_info().rss)
        return [("system/children", len(sizes)), ("system/children_rss_bytes", sum(sizes))]
    return []


def loaded_nvml() -> Any:
    """Return the module ``pynvml``, ready for use; None if it is not installed, or there is no driver for it."""
    try:
        import pynvml  # which is another dependency, and may be missing alone
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def gpu_stats(nvml: Any) -> Iterator[tuple[str, float]]:
    """Yield key and value of what is known of each GPU that this process uses.

    Args:
        nvml: what ``loaded_nvml`` returned.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        for index in range(_count_of(nvml)):
            yield from nvml_stats(nvml, partial(nvml.nvmlDeviceGetHandleByIndex, index), index)
        return
    cuda: Any = getattr(torch, "cuda", None)
    if not hasattr(cuda, "memory_reserved") or not cuda.is_initialized():  # still being imported; or not in use
        return
    for index in range(cuda.device_count()):
        yield f"device/{index}/memory_bytes", cuda.memory_allocated(index)
        yield f"device/{index}/memory_reserved_bytes", cuda.memory_reserved(index)
        uuid = getattr(cuda.get_device_properties(index), "uuid", None)
        if nvml is not None and uuid is not None:
            yield from nvml_stats(nvml, partial(nvml.nvmlDeviceGetHandleByUUID, f"GPU-{uuid}"), index)


def _count_of(nvml: Any) -> int:
    if nvml is not None:
        with contextlib.suppress(nvml.NVMLError):  # the driver may have gone meanwhile
            return int(nvml.nvmlDeviceGetCount())
    return 0


def nvml_stats(nvml: Any, handle: Callable[[], Any], index: int) -> list[tuple[str, float]]:
    """Return key and value of what the driver tells of one GPU; what it does not tell is left out.

    Args:
        nvml: the module ``pynvml``.
        handle: returns that of the GPU.
        index: its number, for the keys.
    """
    readings: dict[str, Callable[[Any], float]] = {
        "memory_used_bytes": lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
        "utilization_percent": lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        "power_watts": lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) * MILLI,
        "temperature_celsius": lambda gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    }
    found = []
    with contextlib.suppress(nvml.NVMLError):
        gpu = handle()
        for name, reading in readings.items():
            with contextlib.suppress(nvml.NVMLError):  # single ones are not supported everywhere
                found.append((f"device/{index}/{name}", float(reading(gpu))))
    return found
