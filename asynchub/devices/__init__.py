"""Values on a device: how a published tensor gets from a GPU into the log, without anybody waiting for it.

The value is what the tensor holds once all is done that was queued on the publisher's stream before the call. It is
copied there, on the device, at the call; the copy travels on a stream of its own, and lands in a thread of its own.

Which devices: CUDA and ROCm have a backend; of any other accelerator a clone is taken at the call and read later
(``asynchub.devices.generic``); ``register_backend`` adds another way. Tensors in CPU memory are read at the call.
"""

from __future__ import annotations

from asynchub.devices.backends import SLOTS, Backend
from asynchub.devices.courier import RowCourier
from asynchub.devices.ending import EXIT
from asynchub.devices.registry import backend_for, register_backend
from asynchub.pending import couriers_from

__all__ = ("EXIT", "SLOTS", "Backend", "register_backend")

couriers_from(lambda device: RowCourier(str(device), backend_for(device)))
