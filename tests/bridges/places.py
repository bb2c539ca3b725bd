"""Brokers of either kind for a test, and what it waits for there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from asynchub.bridges.bridge import Bridge
from asynchub.bridges.memory import memory_broker
from asynchub.bridges.opening import open_transport
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.transport import Stored
from asynchub.hub import MessageHub
from tests.bridges.broker import Broker

__all__ = ("WAIT", "Place", "a_place", "bridged", "history")

WAIT = 30.0
"""Seconds that anything may take on a busy machine."""
_numbers = itertools.count(1)


class Place:
    """A broker, and the name of a run that nobody else has.

    Attributes:
        url: of the broker.
        run: the name.
        memory: the broker, if it is one in memory.
    """

    def __init__(self, broker: Broker | None = None) -> None:
        number = next(_numbers)
        self.run = f"run {number}"
        self._broker = broker
        self.memory = memory_broker(f"place {number}")
        self.url = f"memory://place {number}" if broker is None else broker.url

    def cut(self) -> None:
        """Have nobody reach the broker."""
        self.memory.cut() if self._broker is None else self._broker.kill()

    def restore(self) -> None:
        """Have it be there again."""
        self.memory.restore() if self._broker is None else self._broker.start()

    def freeze(self) -> None:
        """Have the broker accept what comes, and answer nothing; of one in memory, as ``cut``."""
        self.memory.cut() if self._broker is None else self._broker.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self.memory.restore() if self._broker is None else self._broker.thaw()

    def stored(self) -> list[Stored]:
        """Return what the log of the run has."""
        return asyncio.run(self._stored())

    async def _stored(self) -> list[Stored]:
        transport = open_transport(self.url, self.run)
        await transport.connect(WAIT)
        try:
            last, got = await transport.last_position(WAIT), list[Stored]()
            if last:
                async with aclosing(transport.read(Subjects(self.run).stored, 0)) as batches:
                    async for batch in batches:
                        got += batch
                        if got[-1].position >= last:
                            break
            return got
        finally:
            await transport.close(1.0)


@contextmanager
def a_place(kind: str, folder: Path) -> Iterator[Place]:
    """Give a place with a broker of a kind: ``"memory"`` or ``"nats"``."""
    if kind == "memory":
        yield Place()
        return
    broker = Broker(folder / "broker")
    broker.start()
    try:
        yield Place(broker)
    finally:
        broker.kill()


def bridged(place: Place, folder: Path | None = None, *, hub: MessageHub | None = None, **terms: Any) -> Bridge:
    """Return the bridge of a hub to a place, quick and without a spool on the disk unless it is given a folder."""
    terms = {"interval": 0.02, "drain_timeout": 5.0, "run": place.run, **terms}
    return Bridge(hub if hub is not None else MessageHub("run"), place.url, spool=folder, **terms)


def history(hub: MessageHub, key: str) -> list[tuple[Any, ...]]:
    """Return what a hub has recorded of a scalar: time, step, value and count of each."""
    if key not in hub.log_scalars:
        return []
    _, *columns = (column.tolist() for column in hub.get_scalar(key).records())
    return list(zip(*columns, strict=True))
