"""Any accelerator: a clone is queued at the call, and read with ``.item()`` in the landing thread.

Exact wherever ``clone`` and ``item`` are. A value costs an allocation on the device, and a transfer of its own.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Any

import torch

from asynchub.devices.backends import SLOTS, Backend, Lane

__all__ = ("GenericBackend",)

POLL = 0.0005
"""Seconds between two looks whether a stream has got there; its waiting call may miss that on some devices."""


class _Clones:
    def __init__(self, event: Any) -> None:
        self.event = event
        self.clones: list[Any] = [None] * SLOTS


class GenericBackend(Backend):
    """A device of which nothing is known but that it has tensors.

    Args:
        device: the device.
    """

    def __init__(self, device: Any) -> None:
        self._device = device

    def lane(self, dtype: Any) -> Lane | None:
        """Return the one lane there is."""
        return None if dtype.is_complex else Lane("clones")

    def stream(self) -> Any:
        """Return the current stream, or None where there are none."""
        with suppress(Exception):  # whatever a device without streams says
            return torch.accelerator.current_stream(self._device)
        return None

    def new_rows(self, kind: Hashable, number: int) -> list[Any]:
        """Return rows, with an event each where the device has such."""
        return [_Clones(self._new_event()) for _ in range(number)]

    def _new_event(self) -> Any:
        with suppress(Exception):  # as above
            return torch.Event(self._device)
        return None

    def put(self, row: Any, start: int, tensors: Sequence[Any], stream: Any) -> None:
        """Queue clones."""
        with torch.inference_mode(False):
            row.clones[start : start + len(tensors)] = [tensor.clone() for tensor in tensors]
        if row.event is not None:
            try:
                row.event.record(stream)
            except Exception:  # there are no streams, or no events on them, after all
                row.event = None

    def ship(self, row: Any, size: int) -> None:
        """Do nothing: what travels does so when it is read."""

    def wait(self, row: Any) -> None:
        """Wait until the clones have been made."""
        while row.event is not None and not row.event.query():
            time.sleep(POLL)

    def read(self, row: Any, size: int) -> Sequence[Any]:
        """Return the values of the clones, and let go of them."""
        values = [clone.item() for clone in row.clones[:size]]
        row.clones[:size] = [None] * size
        return values
