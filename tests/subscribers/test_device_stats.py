"""``DeviceStatsMonitor``: real psutil, real ``pynvml``, with or without a driver and a GPU."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchub.errors import ArgumentError
from asynchub.events import ScalarUpdated
from asynchub.hub import MessageHub

psutil = pytest.importorskip("psutil")
pynvml = pytest.importorskip("pynvml")

from asynchub.subscribers.device_stats import (  # noqa: E402  # it needs psutil
    DeviceStatsMonitor,
    gpu_stats,
    loaded_nvml,
    machine_stats,
    nvml_stats,
)

ROOT = Path(__file__).parent.parent.parent
SYSTEM = {
    "system/rss_bytes",
    "system/cpu_percent",
    "system/threads",
    "system/open_files",
    "system/children",
    "system/children_rss_bytes",
    "system/memory_used_bytes",
    "system/memory_percent",
}
has_driver = loaded_nvml() is not None
without_driver = pytest.mark.skipif(has_driver, reason="there is a driver")


def test_what_is_read_is_what_psutil_says() -> None:
    stats = machine_stats()
    first = dict(stats())
    assert set(first) == SYSTEM - {"system/cpu_percent"}  # it has nothing to count from yet
    second = dict(stats())
    assert set(second) == SYSTEM
    process = psutil.Process()
    assert second["system/rss_bytes"] == pytest.approx(process.memory_info().rss, rel=0.2)
    assert second["system/threads"] == process.num_threads()
    assert second["system/memory_percent"] == pytest.approx(psutil.virtual_memory().percent, abs=20)
    assert 0 < second["system/memory_used_bytes"] < psutil.virtual_memory().total


def test_open_files_and_threads_are_counted(tmp_path: Path) -> None:
    stats = machine_stats(children=False)
    before = dict(stats())
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    with open(tmp_path / "a", "w"), open(tmp_path / "b", "w"):
        during = dict(stats())
    release.set()
    thread.join()
    assert during["system/open_files"] == before["system/open_files"] + 2
    assert during["system/threads"] == before["system/threads"] + 1
    assert not [key for key in during if "children" in key]


def test_the_processor_is_busy_while_the_process_is() -> None:
    stats = machine_stats(children=False)
    stats()
    until = time.process_time() + 0.2  # of work, not of time
    while time.process_time() < until:
        pass
    assert dict(stats())["system/cpu_percent"] > 0


def test_processes_that_it_has_started_are_counted_and_gone_when_they_are() -> None:
    stats = machine_stats()
    before = dict(stats())["system/children"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        during = dict(stats())
        child.communicate(b"\n")
    assert during["system/children"] == before + 1
    assert during["system/children_rss_bytes"] > 0
    assert dict(stats())["system/children"] == before


# --- GPUs


@without_driver
def test_without_a_driver_nvml_is_left_out() -> None:
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlInit()
    assert loaded_nvml() is None
    assert list(gpu_stats(loaded_nvml())) == []


@without_driver
def test_what_the_driver_does_not_tell_is_left_out() -> None:
    """Each of these calls raises the real error of the real module."""

    def handle() -> Any:
        return pynvml.nvmlDeviceGetHandleByIndex(0)

    assert nvml_stats(pynvml, handle, 0) == []
    assert nvml_stats(pynvml, lambda: None, 0) == []


def test_a_program_without_torch_and_pynvml_gets_what_there_is() -> None:
    code = """
import sys
sys.modules["pynvml"] = None  # as if it were not installed
from asynchub.subscribers.device_stats import gpu_stats, loaded_nvml
assert loaded_nvml() is None
assert list(gpu_stats(None)) == []
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_program_without_psutil_is_told_what_to_install() -> None:
    code = """
import sys
sys.modules["psutil"] = None
try:
    import asynchub.subscribers.device_stats
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip().endswith("install it with: pip install 'asynchub[system]'")


def test_cuda_is_not_initialised_to_be_looked_at() -> None:
    torch = pytest.importorskip("torch")
    initialised = torch.cuda.is_initialized()
    if not initialised:
        assert list(gpu_stats(loaded_nvml())) == []
    assert torch.cuda.is_initialized() == initialised


def test_a_torch_that_is_still_being_imported_is_not_asked() -> None:
    code = """
import sys, types
sys.modules["torch"] = types.ModuleType("torch")
from asynchub.subscribers.device_stats import gpu_stats
assert list(gpu_stats(None)) == []
sys.modules["torch"].cuda = types.ModuleType("torch.cuda")
assert list(gpu_stats(None)) == []
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.cuda
def test_a_gpu_in_use_has_its_memory_and_what_the_driver_tells() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    held = torch.zeros(1 << 20, device="cuda:0")
    found = dict(gpu_stats(loaded_nvml()))
    assert found["device/0/memory_bytes"] >= held.nbytes
    assert found["device/0/memory_reserved_bytes"] >= found["device/0/memory_bytes"]
    if has_driver:
        assert found["device/0/memory_used_bytes"] >= found["device/0/memory_reserved_bytes"]
        assert 0 <= found["device/0/utilization_percent"] <= 100


# --- on a hub


async def test_a_sample_comes_at_once_and_then_each_interval_on_every_loop() -> None:
    hub = MessageHub("machine")
    hub.attach(DeviceStatsMonitor(interval=0.01), on_error="raise")
    hub.step = 7
    with anyio.fail_after(30), hub.subscribe("system/rss_bytes") as events:
        async with hub:
            found = [await anext(events) for _ in range(3)]
    assert [type(event) for event in found] == [ScalarUpdated] * 3
    assert [event.step for event in found] == [7] * 3
    assert set(hub.log_scalars) >= SYSTEM
    assert not [key for key in hub.log_scalars if not key.startswith(("system/", "device/"))]


def test_it_ends_at_once_however_long_its_interval_and_hears_nothing_of_its_own() -> None:
    hub = MessageHub("machine")
    attached = hub.attach(DeviceStatsMonitor(interval=3600.0), on_error="raise")
    for _ in range(2):
        with hub:
            latest = hub.subscribe("system/memory_percent", replay="last")
            with latest:
                anyio.run(anext, latest)
    assert attached.statistics().delivered == 0


def test_it_can_do_without_children_and_devices() -> None:
    hub = MessageHub("machine")
    hub.attach(DeviceStatsMonitor(children=False, devices=False), on_error="raise")
    with hub, hub.subscribe("system/memory_percent", replay="last") as events:
        anyio.run(anext, events)
    assert set(hub.log_scalars) == SYSTEM - {"system/cpu_percent", "system/children", "system/children_rss_bytes"}


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf"), "10s", True])
def test_an_interval_is_a_number_of_seconds_above_0(interval: Any) -> None:
    with pytest.raises(ArgumentError, match="interval"):
        DeviceStatsMonitor(interval)


@without_driver
def test_a_driver_that_has_gone_meanwhile_is_left_out() -> None:
    """The real module, not initialised: each call raises its error; in a process without torch it is asked for all."""
    code = """
import pynvml, sys
from asynchub.subscribers.device_stats import gpu_stats
assert "torch" not in sys.modules
assert list(gpu_stats(pynvml)) == []
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
