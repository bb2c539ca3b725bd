"""What does it cost to publish a value that is on a device, and does anybody wait for it?

Without a GPU: what the bookkeeping costs, on a device that does nothing. With one, also: what a call costs, and how
much longer a training step takes, for 1, 10 and 50 scalars, beside the ways that there are: no logging, ``.item()`` of
each (mmengine's way), and ``.to("cpu", non_blocking=True)`` with an event for each. Three regimes: the device is the
slower side, the launching of kernels is, and the step is one CUDA graph.

Not shown: several GPUs, other training in the same process, a device that other programs keep busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch

from asynchub import MessageHub, register_backend
from asynchub.devices import SLOTS, Backend, checking
from asynchub.devices.backends import Lane
from tests.benchmarks.common import header, interleave, quick, table

BURST = 50
"""Calls between two looks at the clock: fewer than would make a publisher wait for a row."""
PACE = 400
"""Steps a second."""


class _Device:
    type, index = "null", 0

    def __str__(self) -> str:
        return "null:0"


class _Tensor:
    device = _Device()
    dtype = torch.float32
    is_cpu = is_meta = requires_grad = False

    def numel(self) -> int:
        return 1

    def dim(self) -> int:
        return 0


class _NullBackend(Backend):
    def lane(self, dtype: Any) -> Lane | None:
        return Lane("null")

    def stream(self) -> Any:
        return 0

    def new_rows(self, kind: Hashable, number: int) -> list[Any]:
        return [[0.5] * SLOTS for _ in range(number)]

    def put(self, row: Any, start: int, tensors: Sequence[Any], stream: Any) -> None: ...

    def ship(self, row: Any, size: int) -> None: ...

    def wait(self, row: Any) -> None: ...

    def read(self, row: Any, size: int) -> Sequence[Any]:
        return row[:size]  # type: ignore[no-any-return]  # a list of floats


def _microseconds(call: Callable[[], object], scalars: int, after: Callable[[], object]) -> Callable[[], float]:
    """Return what measures one call, per scalar, in a burst of them; ``after`` brings things in order again."""

    def measure() -> float:
        begun = time.perf_counter()
        for _ in range(BURST):
            call()
        seconds = time.perf_counter() - begun
        after()
        return seconds / BURST / scalars * 1e6

    return measure


def bookkeeping(rounds: int) -> None:
    """Print what a publish costs on a device that does nothing."""
    register_backend("null", lambda device: _NullBackend())
    own, checking._Tensor = checking._Tensor, _Tensor  # type: ignore[assignment]  # to be checked as torch's own
    try:
        _bookkeeping(rounds)
    finally:
        checking._Tensor = own


def _bookkeeping(rounds: int) -> None:
    hub = MessageHub("null")
    tensor = _Tensor()
    ten = {f"ten/{number}": tensor for number in range(10)}
    fifty = {f"fifty/{number}": tensor for number in range(50)}

    def batch() -> None:
        with hub.batch():
            for key, value in ten.items():
                hub.update_scalar(key, value)

    contenders = {
        "a number": _microseconds(lambda: hub.update_scalar("number", 0.5), 1, hub.flush),
        "one tensor": _microseconds(lambda: hub.update_scalar("tensor", tensor), 1, hub.flush),
        "ten, one by one, in a batch": _microseconds(batch, 10, hub.flush),
        "update_scalars of 10": _microseconds(lambda: hub.update_scalars(ten), 10, hub.flush),
        "update_scalars of 50": _microseconds(lambda: hub.update_scalars(fifty), 50, hub.flush),
    }
    found = interleave(contenders, rounds)
    rows = {name: (f"{np.median(values):.2f}", f"{min(values):.2f}") for name, values in found.items()}
    table("the bookkeeping alone, on a device that does nothing", ("µs per scalar, median", "least"), rows)
    _next_operations(hub, tensor, rounds)
    _landing(hub, fifty, 1.0 if rounds < 10 else 10.0)
    hub.close()


def _next_operations(hub: MessageHub, tensor: Any, rounds: int) -> None:
    """Print how long the next thirty operations of torch take: a publisher that wakes a thread pays there."""
    small = torch.ones(8)

    def operations(before: Callable[[], object]) -> Callable[[], float]:
        def measure() -> float:
            times = []
            for _ in range(100):
                before()
                begun = time.perf_counter()
                for _ in range(30):
                    torch.add(small, 1.0)
                times.append(time.perf_counter() - begun)
            return float(np.median(times)) * 1e6

        return measure

    found = interleave(
        {"nothing": operations(lambda: None), "a publish": operations(lambda: hub.update_scalar("tensor", tensor))},
        rounds,
    )
    medians = {name: float(np.median(values)) for name, values in found.items()}
    rows = {name: (f"{us:.1f}", f"{us / medians['nothing']:.2f}") for name, us in medians.items()}
    table("thirty small operations of torch, right after", ("µs", "ratio"), rows)


def _landing(hub: MessageHub, fifty: dict[str, Any], seconds: float) -> None:
    """Print what share of a core the values take that come at a steady pace, beside what the publisher does itself."""
    begun, used, own = time.perf_counter(), time.process_time(), 0.0
    steps = int(seconds * PACE)
    for step in range(1, steps + 1):
        before = time.perf_counter()
        hub.update_scalars(fifty)
        own += time.perf_counter() - before
        time.sleep(max(begun + step / PACE - time.perf_counter(), 0.0))
    took = time.perf_counter() - begun
    shares = {"the publisher": own / took, "everything else": (time.process_time() - used - own) / took}
    rows = {name: (f"{share:.1%}",) for name, share in shares.items()}
    table(f"{PACE} steps a second, with 50 scalars each", ("of a core",), rows)


# --- with a GPU


class _ItemOfEach:
    """mmengine's way: the number is read at the call."""

    def __init__(self, hub: MessageHub) -> None:
        self._hub = hub

    def __call__(self, values: dict[str, torch.Tensor]) -> None:
        for key, value in values.items():
            self._hub.update_scalar(key, value.item())


class _CopyOfEach:
    """An allocation in pinned memory, a copy and an event for each; what has come is recorded at the next call."""

    def __init__(self, hub: MessageHub) -> None:
        self._hub = hub
        self._under_way: list[tuple[str, torch.Tensor, Any]] = []

    def __call__(self, values: dict[str, torch.Tensor]) -> None:
        while self._under_way and self._under_way[0][2].query():
            key, copy, _ = self._under_way.pop(0)
            self._hub.update_scalar(key, copy.item())
        for key, value in values.items():
            copy = value.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._under_way.append((key, copy, event))


def _ways(hub: MessageHub) -> dict[str, Callable[[dict[str, torch.Tensor]], object]]:
    return {
        "no logging": lambda values: None,
        ".item() of each": _ItemOfEach(hub),
        "a copy and an event of each": _CopyOfEach(hub),
        "asynchub, one by one": lambda values: [hub.update_scalar(key, value) for key, value in values.items()],
        "asynchub, update_scalars": hub.update_scalars,
    }


def calls(rounds: int) -> None:
    """Print what a call costs the publisher on a GPU."""
    hub = MessageHub("gpu")
    one = torch.ones((), device="cuda")
    values = {count: {f"{count}/{number}": one + number for number in range(count)} for count in (10, 50)}

    def batch() -> None:
        with hub.batch():
            for key, value in values[10].items():
                hub.update_scalar(key, value)

    def after() -> None:
        hub.flush()
        torch.cuda.synchronize()

    contenders = {
        "update_scalar": (1, lambda: hub.update_scalar("one", one)),
        "ten, one by one, in a batch": (10, batch),
        "update_scalars of 10": (10, lambda: hub.update_scalars(values[10])),
        "update_scalars of 50": (50, lambda: hub.update_scalars(values[50])),
        ".item()": (1, one.item),
        '.to("cpu", non_blocking=True)': (1, lambda: one.to("cpu", non_blocking=True)),
    }
    measures = {name: _microseconds(call, scalars, after) for name, (scalars, call) in contenders.items()}
    found = interleave(measures, rounds)
    rows = {}
    for name, sample in found.items():
        median, p99 = np.quantile(np.array(sample) * contenders[name][0], (0.5, 0.99))
        rows[name] = (f"{median:.1f}", f"{p99:.1f}", f"{np.median(sample):.2f}")
    table("a call, with nothing else on the device", ("µs per call, median", "p99", "µs per scalar"), rows)
    hub.close()


def _step(width: int, layers: int) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """Return a training step of a small network, and where its loss is."""
    torch.manual_seed(0)
    blocks = [torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU()) for _ in range(layers)]
    model = torch.nn.Sequential(*blocks).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = torch.randn(256, width, device="cuda")
    loss_at = torch.zeros((), device="cuda")

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = model(batch).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        return loss.detach()

    return step, loss_at


def _graphed(step: Callable[[], torch.Tensor], loss_at: torch.Tensor) -> Callable[[], torch.Tensor]:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss_at.copy_(step())

    def replay() -> torch.Tensor:
        graph.replay()
        return loss_at

    return replay


def steps(rounds: int, number: int) -> None:
    """Print how much longer a step takes."""
    regimes: dict[str, Callable[[], torch.Tensor]] = {
        "the GPU is slower": _step(4096, 8)[0],
        "launching is slower": _step(256, 24)[0],
        "a CUDA graph": _graphed(*_step(256, 24)),
    }
    for regime, step in regimes.items():
        for count in (1, 10, 50):
            hub = MessageHub("steps")

            def contender(
                way: Callable[[dict[str, torch.Tensor]], object],
                step: Callable[[], torch.Tensor] = step,
                count: int = count,
            ) -> Callable[[], float]:
                def measure() -> float:
                    torch.cuda.synchronize()
                    begun = time.perf_counter()
                    for _ in range(number):
                        loss = step()
                        way({f"key/{index}": loss for index in range(count)})
                    torch.cuda.synchronize()
                    return (time.perf_counter() - begun) / number * 1e3

                return measure

            found = interleave({name: contender(way) for name, way in _ways(hub).items()}, rounds)
            bare = np.array(found["no logging"])
            rows = {
                name: (f"{np.median(sample):.3f}", f"{np.median(np.array(sample) / bare):.3f}")
                for name, sample in found.items()
            }
            table(f"{regime}, {count} scalars a step", ("ms per step", "ratio to no logging"), rows)
            (device,) = [one for one in hub.statistics().devices if one.device.startswith("cuda")]
            print(f"rows {device.rows}, stalls {device.stalls}")
            hub.close()


def main() -> None:
    """Measure."""
    rough = quick()
    header("torch")
    bookkeeping(3 if rough else 40)
    if not torch.cuda.is_available():
        print("\nno CUDA GPU: what a publish and a step cost on one was not measured")
        return
    print(f"\n{torch.cuda.get_device_name()}")
    calls(3 if rough else 40)
    steps(2 if rough else 5, 20 if rough else 200)


if __name__ == "__main__":
    main()
