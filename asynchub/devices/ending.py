"""What the end of the interpreter, and a fork, mean for couriers.

At the end, what is under way is waited for, ``EXIT`` seconds at most, and then given up: a thread that asks a driver
which is being unloaded would abort the process. A forked child has nothing of what was under way, and may not use the
device.
"""

from __future__ import annotations

import atexit
import os

from asynchub.devices.courier import RowCourier
from asynchub.pending import couriers

__all__ = ("EXIT",)

EXIT = 5.0
"""Seconds that the end of the interpreter waits for values."""


def _end_all() -> None:
    for courier in couriers():
        if isinstance(courier, RowCourier):
            courier.end(EXIT)


def _after_fork() -> None:
    for courier in couriers():
        if isinstance(courier, RowCourier):
            courier.forked()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
