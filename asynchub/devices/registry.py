"""Which backend a device has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asynchub.devices.backends import Backend
from asynchub.errors import ArgumentError

__all__ = ("backend_for", "register_backend")

_factories: dict[str, Callable[[Any], Backend]] = {}


def register_backend(device_type: str, factory: Callable[[Any], Backend]) -> None:
    """Have ``factory`` make the backend of devices of a type; call before the first value of such a device comes.

    Args:
        device_type: as in ``torch.device.type``, e.g. ``"npu"``; not ``"cpu"``, whose tensors are read at the call.
        factory: called with the device, once for each.

    Raises:
        ArgumentError: ``device_type`` is not such a name, or ``factory`` is not callable.
    """
    if not isinstance(device_type, str) or not device_type or device_type in ("cpu", "meta"):
        raise ArgumentError(f"a device type is a name like 'npu', other than 'cpu' and 'meta', got {device_type!r:.80}")
    if not callable(factory):
        raise ArgumentError(f"the backend of {device_type!r} is made by a function of the device, got {factory!r:.80}")
    _factories[device_type] = factory


def backend_for(device: Any) -> Backend:
    """Return a backend for a device."""
    factory = _factories.get(device.type)
    if factory is not None:
        return factory(device)
    if device.type == "cuda":  # ROCm too
        from asynchub.devices.cuda import CudaBackend

        return CudaBackend(device)
    from asynchub.devices.generic import GenericBackend

    return GenericBackend(device)
