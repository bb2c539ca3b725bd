"""On a CUDA GPU: nobody waits, every value is exact, graphs can be captured meanwhile, and a dead device is said.

    python -m pytest -m cuda tests/devices

These tests are skipped where there is no GPU.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import asynchub
from asynchub import DeviceLostError, GraphCaptureError, MessageHub
from asynchub.devices.courier import RowCourier
from asynchub.pending import courier_for

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
ROOT = Path(asynchub.__file__).parent.parent
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool)


@pytest.fixture
def hub() -> Iterator[MessageHub]:
    """A hub; rows and streams of the device are there already."""
    hub = MessageHub("hub")
    hub.update_scalars({"warm": torch.ones((), device="cuda"), "warm/long": torch.ones((), device="cuda").long()})
    hub.flush()
    yield hub
    hub.close()
    courier = courier_for(torch.device("cuda", torch.cuda.current_device()))
    assert isinstance(courier, RowCourier)
    while courier._thread is not None:
        time.sleep(0.01)


def busy(seconds: float) -> torch.cuda.Event:
    """Keep the current stream busy; return an event behind it."""
    torch.cuda._sleep(int(seconds * 1.5e9))  # cycles
    event: Any = torch.cuda.Event()
    event.record()
    return event  # type: ignore[no-any-return]  # it is one


def test_no_publish_waits_behind_a_busy_device(hub: MessageHub) -> None:
    one = torch.tensor(1.5, device="cuda")
    fifty = {f"key/{number}": one + number for number in range(50)}
    hub.update_scalars(fifty)
    hub.flush()
    torch.cuda.synchronize()
    still_busy = busy(0.25)
    begun = time.perf_counter()
    hub.update_scalar("warm", one)
    hub.update_scalars(fifty)
    hub.update_scalars({"warm/long": torch.ones((), dtype=torch.int64, device="cuda"), "number": 1.0})
    hub.settle()
    assert hub.get_scalar("warm").snapshot().pending == 1
    took = time.perf_counter() - begun
    assert not still_busy.query()
    assert took < 0.02  # of a quarter of a second
    assert hub.get_scalar("key/49").current() == 50.5
    assert still_busy.query()


def test_torch_sees_no_synchronisation(hub: MessageHub) -> None:
    tensors = {f"key/{number}": torch.full((), float(number), device="cuda") for number in range(10)}
    hub.update_scalars(tensors)
    hub.flush()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(1000):
            hub.update_scalars(tensors)
            hub.update_scalar("warm", tensors["key/1"])
        hub.flush()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(hub.get_scalar("key/9").data[0]) == 1001


def test_every_value_is_exact_though_it_is_overwritten_at_once(hub: MessageHub) -> None:
    torch.manual_seed(0)
    steps, keys = 2_000, 8
    for dtype in DTYPES:
        if dtype is torch.bool:
            source = torch.rand(steps, keys, device="cuda") > 0.5
        elif dtype is torch.int64:
            source = torch.randint(-(2**62), 2**62, (steps, keys), device="cuda")
        else:
            source = torch.randn(steps, keys, device="cuda").to(dtype)
        buffers = [torch.zeros((), dtype=dtype, device="cuda") for _ in range(keys)]
        for step in range(steps):
            for key, buffer in enumerate(buffers):
                buffer.copy_(source[step, key])
                if step % 2:
                    hub.update_scalar(f"{dtype}/{key}", buffer)
            if not step % 2:
                hub.update_scalars({f"{dtype}/{key}": buffer for key, buffer in enumerate(buffers)})
            for buffer in buffers:
                buffer.zero_()
        expected = source.cpu()
        for key in range(keys):
            came = hub.get_scalar(f"{dtype}/{key}").data[0].tolist()
            wanted = expected[:, key].tolist()
            if dtype.is_floating_point:
                assert struct.pack(f"{steps}d", *came) == struct.pack(f"{steps}d", *wanted)
            else:
                assert came == wanted


def test_memory_does_not_grow(hub: MessageHub) -> None:
    one = torch.ones((), device="cuda")

    def publish(number: int) -> tuple[int, int]:
        for _ in range(number):
            hub.update_scalar("warm", one)
        hub.flush()
        device = torch.cuda.memory_stats()["allocation.all.allocated"]
        return torch.cuda.host_memory_stats()["num_host_alloc"], device

    publish(1000)
    before = publish(1000)
    torch.cuda._sleep(100_000_000)
    after = publish(20_000)
    assert after == before
    (device,) = [one for one in hub.statistics().devices if one.device.startswith("cuda")]
    assert device.stalls == 0
    assert device.rows * 64 * 8 <= 2**20


def test_a_value_comes_soon_after_it_is_there(hub: MessageHub) -> None:
    late = []
    for _ in range(100):
        done = busy(0.002)
        hub.update_scalar("warm", torch.ones((), device="cuda"))
        done.synchronize()
        begun = time.perf_counter()
        while hub.get_scalar("warm").snapshot().pending:
            pass
        late.append(time.perf_counter() - begun)
    assert sorted(late)[98] < 0.02


def test_a_graph_can_be_captured_while_values_are_pending_and_replays_are_exact(hub: MessageHub) -> None:
    torch.cuda._sleep(500_000_000)
    for number in range(1000):
        hub.update_scalar("before", torch.tensor(float(number), device="cuda"))
    total = torch.zeros((), device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total += 1
        with pytest.raises(GraphCaptureError, match="replay"):
            hub.update_scalar("inside", total)
    for _ in range(1000):
        graph.replay()
        hub.update_scalar("total", total)
    assert hub.get_scalar("before").data[0].tolist() == list(range(1000))
    assert hub.get_scalar("total").data[0].tolist() == list(range(1, 1001))
    assert "inside" not in hub.log_scalars


def test_a_value_is_that_of_the_current_stream_and_its_memory_may_be_used_again(hub: MessageHub) -> None:
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
    for number in range(200):
        with torch.cuda.stream(side):
            torch.cuda._sleep(100_000)
            hub.update_scalar("side", torch.full((), float(number), device="cuda"))
        torch.full((64,), -1.0, device="cuda")  # may get the memory that was let go of
        hub.update_scalar("main", torch.full((), float(-number), device="cuda"))
    assert hub.get_scalar("side").data[0].tolist() == list(range(200))
    assert hub.get_scalar("main").data[0].tolist() == [-float(number) for number in range(200)]


def test_nothing_of_the_graph_of_gradients_is_kept(hub: MessageHub) -> None:
    weight = torch.ones(1 << 20, device="cuda", requires_grad=True)
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        hub.update_scalar("loss", (weight * 2).exp().mean())
    hub.flush()
    assert torch.cuda.memory_allocated() - before < 1 << 20
    with torch.inference_mode():
        hub.update_scalar("loss", weight.mean())
    hub.update_scalar("loss", weight.detach().mean())
    assert hub.get_scalar("loss").data[0].tolist()[-2:] == [1.0, 1.0]


def test_threads_publish_at_once(hub: MessageHub) -> None:
    def publish(name: int) -> None:
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
        with torch.cuda.stream(stream):
            for number in range(500):
                hub.update_scalar(f"{name}", torch.full((), float(number), device="cuda"))

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(4):
        assert hub.get_scalar(f"{name}").data[0].tolist() == list(range(500))


def run(script: str) -> subprocess.CompletedProcess[str]:
    head = "import logging, os, sys, time, torch\nlogging.disable(logging.CRITICAL)\nfrom asynchub import *\n"
    return subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )


def test_a_device_assert_is_said_within_two_seconds_and_numbers_go_on() -> None:
    done = run(
        """
hub = MessageHub("hub")
index = torch.tensor([10_000_000], device="cuda")
hub.update_scalar("loss", torch.ones((), device="cuda"))
hub.flush()
torch.ones(4, device="cuda")[index]  # out of range: an assert on the device
hub.update_scalar("number", 1.0)
begun = time.monotonic()
try:
    hub.update_scalar("loss", torch.ones((), device="cuda") if False else index.float())
    hub.flush(10)
except (DeviceLostError, RuntimeError) as error:
    print(type(error).__name__, time.monotonic() - begun < 2)
hub.update_scalar("number", 2.0)
print(hub.get_scalar("number").data[0].tolist())
os._exit(0)
"""
    )
    lines = done.stdout.splitlines()
    assert lines[0].split()[1] == "True", done.stderr
    assert lines[1] == "[1.0, 2.0]"


EXITS: dict[str, str] = {
    "with values under way": "torch.cuda._sleep(300_000_000)\nhub.update_scalar('a', torch.ones((), device='cuda'))",
    "in a forked child": """
hub.update_scalar("a", torch.ones((), device="cuda"))
import warnings; warnings.simplefilter("ignore")
child = os.fork()
if not child:
    hub.update_scalar("b", 1.0)
    assert hub.get_scalar("b").current() == 1.0
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
""",
}


@pytest.mark.parametrize("way", EXITS)
def test_a_program_ends_well(way: str) -> None:
    begun = time.monotonic()
    done = run("hub = MessageHub('hub')\n" + EXITS[way])
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - begun < 60


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_no_other_gpu_is_touched() -> None:
    done = run(
        """
import subprocess
hub = MessageHub("hub")
hub.update_scalar("a", torch.ones((), device="cuda:1"))
hub.flush()
print(torch.cuda.memory_reserved(0))
"""
    )
    assert done.stdout.split() == ["0"], done.stderr


def test_what_is_not_one_number_is_refused(hub: MessageHub) -> None:
    calls: list[Callable[[], object]] = [
        lambda: hub.update_scalar("x", torch.ones(2, device="cuda")),
        lambda: hub.update_scalar("x", torch.ones((), dtype=torch.complex64, device="cuda")),
        lambda: torch.vmap(lambda one: hub.update_scalar("x", one) or one)(torch.ones(3, device="cuda")),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="one real number"):
            call()
    assert "x" not in hub.log_scalars
    assert issubclass(DeviceLostError, RuntimeError)
