"""A device of which nothing is known: a clone is taken at the call, and read later. Here it is the CPU itself."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from asynchub import DeviceLostError
from asynchub.devices import register_backend
from asynchub.devices.backends import SLOTS
from asynchub.devices.checking import plain_tensors
from asynchub.devices.courier import RowCourier
from asynchub.devices.generic import GenericBackend
from asynchub.devices.loads import Load
from asynchub.devices.registry import backend_for
from asynchub.errors import NotAScalarError
from asynchub.pending import Flight, Pending, courier_for, on_device
from tests.devices.fake_device import FakeBackend, Machine
from tests.devices.test_cuda_code import Holder
from tests.devices.test_publishing import VALUES


@pytest.fixture
def courier() -> Iterator[RowCourier]:
    """The courier of the CPU."""
    courier = RowCourier("cpu", GenericBackend(torch.device("cpu")))
    yield courier
    courier.end(10)


def taken(courier: RowCourier, *tensors: torch.Tensor) -> list[Pending]:
    """Check and take."""
    found = courier.take(courier.check(["a"] * len(tensors), tensors), Holder())
    assert found is not None
    return found


@pytest.mark.parametrize(("dtype", "value"), VALUES, ids=lambda one: str(one).removeprefix("torch."))
def test_a_value_is_what_item_gives_though_it_is_overwritten_at_once(
    courier: RowCourier, dtype: torch.dtype, value: Any
) -> None:
    tensor = torch.tensor([value], dtype=dtype)
    expected = tensor.item()
    (pending,) = taken(courier, tensor)
    tensor.fill_(1)
    assert pending.flight.wait(10)
    came = pending.value()
    assert type(came) is type(expected)
    assert came == expected or (math.isnan(came) and math.isnan(expected))


def test_more_than_a_row_of_all_kinds_comes_in_order_and_nothing_is_kept(courier: RowCourier) -> None:
    tensors = [torch.tensor(n) if n % 2 else torch.tensor(float(n)) for n in range(3 * SLOTS)]
    found = taken(courier, *tensors)
    for pending in found:
        assert pending.flight.wait(10)
    assert [pending.value() for pending in found] == list(range(3 * SLOTS))
    rows = [row for lane in courier._lanes.values() for row in lane.free]
    assert all(clone is None for row in rows for clone in row.clones)


def test_gradients_and_inference_mode_are_left_outside(courier: RowCourier) -> None:
    weight = torch.ones(3, requires_grad=True)
    (first,) = taken(courier, (weight * 2).sum())
    with torch.inference_mode():
        (second,) = taken(courier, weight.sum())
    (third,) = taken(courier, torch.nn.Parameter(torch.tensor(7.0)))
    for pending, value in ((first, 6.0), (second, 3.0), (third, 7.0)):
        assert pending.flight.wait(10)
        assert pending.value() == value


def test_what_has_no_value_here_is_refused() -> None:
    with pytest.raises(NotAScalarError, match="traced"), FakeTensorMode():
        plain_tensors("a", [torch.ones(())])
    with pytest.raises(NotAScalarError, match="vmap or grad"):
        torch.vmap(lambda one: plain_tensors("a", [one])[0])(torch.ones(1))
    with pytest.raises(NotAScalarError, match="vmap or grad"):
        torch.func.grad(lambda one: plain_tensors("a", [one])[0])(torch.ones(()))


def test_only_a_tensor_of_a_device_is_on_one() -> None:
    with FakeTensorMode():
        elsewhere, here = torch.empty((), device="cuda"), torch.empty(())
    assert on_device(elsewhere)
    assert on_device(SimpleNamespace(device=torch.device("cuda")))
    tensors = (here, torch.ones(()), torch.nn.Parameter(torch.ones(())), torch.ones((), device="meta"))
    for value in (*tensors, np.float32(1), np.ones(()), 1.5, True, "text", None):
        assert not on_device(value), value
    torch.vmap(lambda one: one * (not on_device(one)))(torch.ones(1)).item()


def test_what_is_no_tensor_is_refused() -> None:
    module = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(NotAScalarError, match="SimpleNamespace"):
        plain_tensors(["a"], [module])


def test_a_row_that_was_opened_and_not_filled_is_used_by_another_stream(courier: RowCourier) -> None:
    (first,) = taken(courier, torch.tensor(1.0))
    assert first.flight.wait(10)
    (lane,) = courier._lanes.values()
    empty = lane.open = Load(lane, lane.free.pop(), "another stream")  # as an interrupt may leave it
    (second,) = taken(courier, torch.tensor(2.0))
    assert second.flight is empty
    assert second.flight.wait(10)
    assert second.value() == 2.0


def test_threads_that_begin_at_once_share_a_courier_and_a_latch() -> None:
    for _ in range(50):
        machine = Machine()
        register_backend(machine.device.type, lambda device: FakeBackend(machine))  # noqa: B023
        flight = Flight()
        barrier = threading.Barrier(4)
        found: list[object] = []

        def begin() -> None:
            barrier.wait()  # noqa: B023
            found.append(courier_for(machine.device))  # noqa: B023
            flight.wait(10)  # noqa: B023

        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(found) < 4:
            pass
        flight.land([1.0])
        for thread in threads:
            thread.join()
        assert len(set(map(id, found))) == 1


def test_complex_numbers_are_refused(courier: RowCourier) -> None:
    with pytest.raises(NotAScalarError, match="real"):
        courier.check(["a"], [torch.tensor(1j)])


def test_a_backend_that_cannot_be_read_loses_its_values(courier: RowCourier, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: GenericBackend, row: Any, size: int) -> Any:
        raise RuntimeError("unplugged")

    monkeypatch.setattr(GenericBackend, "read", fail)
    (pending,) = taken(courier, torch.tensor(1.0))
    assert pending.flight.wait(10)
    assert isinstance(pending.flight.error, DeviceLostError)
    assert "unplugged" in str(pending.flight.error)
    with pytest.raises(DeviceLostError, match="unplugged"):
        courier.check(["a"], [torch.tensor(1.0)])


def test_another_accelerator_gets_the_generic_backend() -> None:
    assert isinstance(backend_for(torch.device("mps")), GenericBackend)
    assert isinstance(backend_for(torch.device("xpu")), GenericBackend)
