"""A fake device for each test, which has nothing left under way at its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asynchub import MessageHub
from asynchub.devices import register_backend
from asynchub.devices.courier import RowCourier
from asynchub.pending import courier_for
from tests.devices.fake_device import FakeBackend, Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A device of its own type, whose landing thread ends with the test."""
    machine = Machine()
    register_backend(machine.device.type, lambda device: FakeBackend(machine))
    yield machine
    machine.run()
    courier = courier_for(machine.device)
    assert isinstance(courier, RowCourier)
    courier.end(10)


@pytest.fixture
def hub(machine: Machine) -> Iterator[MessageHub]:
    """A hub that is closed when the device has done everything."""
    hub = MessageHub("hub")
    yield hub
    machine.run()
    hub.close()
