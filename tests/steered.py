"""A run that may be steered, for tests: a hub with a ``RemoteControl`` that settles when it is told to."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asynchub.bridging import FrameRefused
from asynchub.control_folder import FOLDER, REQUESTS, Offer, read_offer
from asynchub.declaring import Parameter
from asynchub.events import Event, SubscriberFailed
from asynchub.hub import MessageHub
from asynchub.requests import (
    CheckpointRequested,
    ParameterChanged,
    ParameterChangeRequested,
    Paused,
    PauseEnded,
    Request,
    RequestApplied,
    RequestRefused,
)
from asynchub.subscribers.remote_control import RemoteControl
from tests.waiting import until

__all__ = ("ALLOW", "Steered", "lined", "steered")

ALLOW = ("stop", "checkpoint", "pause", "set/**")
TOLD = (
    Request, RequestApplied, RequestRefused, ParameterChanged, Paused, PauseEnded, FrameRefused, SubscriberFailed
)  # fmt: skip


class Steered:
    """A run.

    Attributes:
        folder: of the run.
        hub: its hub.
        rates: what its program can set.
        checkpoints: requests for one that it applied.
        told: what it has said so far.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.hub = MessageHub(f"steered {folder.name}")
        self.rates: dict[str, Any] = {"lr": 0.1, "wd": 0.01}
        self.checkpoints: list[Request] = []
        self.told: list[Any] = []
        rate = Parameter("lr", lambda: self.rates["lr"], low=1e-5, high=1.0)
        options = {"allow": ALLOW, "parameters": (rate,), "bounds": {"wd": (0.0, 0.1)}} | options
        self.control = RemoteControl(folder, **options)
        self.control._every = 0.02  # tests wait for it
        self.hub.attach(self.control)
        self.hub.on_request(ParameterChangeRequested, lambda request: self.rates.update({request.name: request.value}))
        self.hub.on_request(CheckpointRequested, self.checkpoints.append)
        self.listen()

    def listen(self) -> None:
        """Begin to hear what it says; once more after its hub was left."""
        self._events = self.hub.subscribe(*TOLD)

    @property
    def requests(self) -> Path:
        """The file of its requests."""
        return self.folder / FOLDER / REQUESTS

    @property
    def offer(self) -> Offer:
        """What it offers now."""
        offer = read_offer(self.folder / FOLDER)
        assert offer is not None
        return offer

    def opened(self) -> None:
        """Wait until this start of it can be asked."""

        def is_open() -> bool:
            offer = read_offer(self.folder / FOLDER)
            return offer is not None and offer.ended is None and offer.pid == os.getpid()

        until(is_open)

    def hear(self) -> list[Any]:
        """Return what it has said so far."""
        self.told += self._events._take()
        return self.told

    def settle_until(self, kind: type[Event], count: int = 1) -> list[Any]:
        """Settle until it has said so many events of a kind; return those."""

        def said() -> bool:
            self.hub.step += 1
            self.hub.settle()
            return len(self.of(kind)) >= count

        until(said)
        return self.of(kind)

    def of(self, kind: type[Event]) -> list[Any]:
        """Return what it has said of a kind."""
        return [event for event in self.hear() if isinstance(event, kind)]


@contextmanager
def steered(folder: Path, **options: Any) -> Iterator[Steered]:
    """Provide a run that can be asked."""
    run = Steered(folder, **options)
    with run.hub:
        run.opened()
        yield run


def lined(fields: dict[str, Any]) -> bytes:
    """Return a request of any fields, with a right checksum."""
    text = json.dumps(fields).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)
