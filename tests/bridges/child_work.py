"""What child processes do in tests; importable by them, however they are started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from asynchub.bridges.uplink import Uplink
from asynchub.hub import MessageHub

__all__ = (
    "Decoded",
    "Killing",
    "OwnHub",
    "beget",
    "mark",
    "publish",
    "publish_and_kill",
    "publish_in_both",
    "publish_many",
    "put_step",
    "sent",
    "worker_number",
)


class OwnHub(MessageHub):
    """A class of a program's own."""


def worker_number() -> int:
    """Return the number of the loader's worker that this process is; -1 in no worker."""
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    return -1 if info is None else int(info.id)


class Decoded:
    """A dataset that says what decoding each of its samples took."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        hub = MessageHub.get_current_instance()
        hub.update_scalar(f"data/{worker_number()}", index / 7, step=index)
        return index


class Killing(Decoded):
    """One of which a sample kills the worker, once what came before is sent."""

    def __getitem__(self, index: int) -> int:
        if index == self.size - 1:
            sent(MessageHub.get_current_instance())
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def sent(hub: MessageHub) -> None:
    """Wait until all that a hub has published is sent."""
    if isinstance(hub._heir, Uplink):
        hub._heir.flush(10)


def mark(number: int) -> None:
    """Publish that a worker begins; an ``worker_init_fn``."""
    MessageHub.get_current_instance().update_scalar("data/begun", number)


def publish(key: str, count: int) -> None:
    """Publish some values in the current hub."""
    hub = MessageHub.get_current_instance()
    for number in range(count):
        hub.update_scalar(key, number / 3, step=number)


def publish_many(name: str, count: int) -> None:
    """Publish values of many kinds in a hub."""
    hub = MessageHub.get_instance(name)
    for number in range(count):
        hub.update_scalars({"many/float": number / 3, "many/int": number, "many/bool": number % 2 == 0})


def publish_in_both(first: str, second: str, count: int) -> None:
    """Publish in two hubs, the first of which is an ``OwnHub``."""
    assert OwnHub.get_current_instance() is OwnHub.get_instance(first)
    for number in range(count):
        OwnHub.get_instance(first).update_scalar(f"of/{first}", number)
        MessageHub.get_instance(second).update_scalar(f"of/{second}", number)


def put_step(step: int | None) -> None:
    """Publish one value, of a step."""
    MessageHub.get_current_instance().update_scalar("work/step", 1.0, step=step)


def publish_and_kill(key: str, count: int) -> None:
    """Publish values, send them, and die."""
    publish(key, count)
    sent(MessageHub.get_current_instance())
    os.kill(os.getpid(), signal.SIGKILL)


def beget(method: str, target: Callable[..., Any], *args: Any) -> None:
    """Publish something, have a child process do something, and publish something."""
    hub = MessageHub.get_current_instance()
    hub.update_scalar("family/parent", 1.0)
    child = multiprocessing.get_context(method).Process(target=target, args=args)
    child.start()
    deadline = time.monotonic() + 60
    child.join(max(deadline - time.monotonic(), 0))
    hub.update_scalar("family/exitcode", -1000 if child.exitcode is None else child.exitcode)
