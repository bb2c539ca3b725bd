"""What a broker inside of the process keeps and knows; ``asynchub.bridges.memory`` are the transports to it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

from asynchub.bridges.checks import check_data
from asynchub.bridges.failures import BridgeError
from asynchub.bridges.transport import Answer, Heard, Stored, Transport
from asynchub.errors import ArgumentError
from asynchub.loops import LoopHandle

__all__ = ("Asked", "Member", "MemoryBroker", "MemoryLog", "Told", "memory_broker")

DUPLICATE_SECONDS = 600.0
"""How long the id of a message is remembered."""
MAX_BATCH = 500
"""Messages that ``read`` yields at once, at most."""
KEEP_BYTES = 2**28
"""Bytes of data that the log of a run keeps."""

logger = logging.getLogger("asynchub")
_brokers: WeakValueDictionary[str, MemoryBroker] = WeakValueDictionary()
_brokers_lock = threading.Lock()


def memory_broker(name: str) -> MemoryBroker:
    """Return the broker of that name; make it if there is none.

    Raises:
        ArgumentError: the name is not a text, or empty.
    """
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"a broker in memory needs a name, got {name!r:.80}")
    with _brokers_lock:
        broker = _brokers.get(name)
        if broker is None:
            broker = _brokers[name] = MemoryBroker(name)
        return broker


class Member(Protocol):
    """A transport, as its broker sees it.

    Attributes:
        hearing: patterns, and who hears what matches.
        serving: patterns, and who answers what matches.
    """

    hearing: Sequence[tuple[str, Heard]]
    serving: Sequence[tuple[str, Answer]]

    def call_soon(self, function: Callable[[], object]) -> bool:
        """Have the transport's loop call a function; False if it cannot."""

    def look(self) -> None:
        """See whether the broker is reached. On the transport's loop."""

    def start(self, answer: Answer, asked: Asked) -> None:
        """Answer a question, in a task. On the transport's loop."""


class MemoryLog:
    """What the broker keeps for a run. Its broker's lock guards it.

    Attributes:
        is_open: whether it takes messages; else somebody waits for it only.
        stored: the messages, in the order of their positions.
        last: position of the newest message there has been.
        readers: wake those who wait for more.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.stored: list[Stored] = []
        self.last = 0
        self.readers: list[Callable[[], object]] = []
        self._ids: dict[str, int] = {}
        self._times: deque[tuple[float, str]] = deque()
        self._size = 0

    def append(self, subject: str, data: bytes, message_id: str, alone: bool, keep_bytes: int) -> int:
        """Append a message; see ``Transport.append``."""
        now = time.monotonic()
        while self._times and self._times[0][0] < now - DUPLICATE_SECONDS:
            del self._ids[self._times.popleft()[1]]
        if message_id in self._ids:
            return self._ids[message_id]
        self.last += 1
        self._ids[message_id] = self.last
        self._times.append((now, message_id))
        if alone:
            self.stored = [one for one in self.stored if one.subject != subject]
            self._size = sum(len(one.data) for one in self.stored)
        self.stored.append(Stored(subject, data, self.last, time.time()))
        self._size += len(data)
        while self._size > keep_bytes and len(self.stored) > 1:
            self._size -= len(self.stored.pop(0).data)
        for wake in self.readers:
            wake()
        return self.last

    def after(self, position: int) -> tuple[list[Stored], int]:
        """Return some of what is behind a position, and the position up to which that is; see ``Transport.read``."""
        if position > self.last:
            position = 0  # of another log
        start = bisect_right(self.stored, position, key=lambda one: one.position)
        found = self.stored[start : start + MAX_BATCH]
        return found, found[-1].position if found else self.last


class MemoryBroker:
    """A broker inside of the process; ``memory_broker`` makes it.

    Attributes:
        name: its name.
        max_bytes: how long the data of one message may be, in bytes.
        keep_bytes: bytes of data that the log of each run keeps; the oldest go first.
        is_cut: whether nobody reaches it.
        lock: guards what follows.
        logs: by name.
        members: the transports that are connected.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_bytes = Transport.max_bytes
        self.keep_bytes = KEEP_BYTES
        self.is_cut = False
        self.lock = threading.Lock()
        self.logs: dict[str, MemoryLog] = {}
        self.members: list[Member] = []

    def cut(self) -> None:
        """Have nobody reach it, until ``restore``. What it stores stays."""
        self._turn(True)

    def restore(self) -> None:
        """Undo ``cut``."""
        self._turn(False)

    def _turn(self, is_cut: bool) -> None:
        with self.lock:
            self.is_cut = is_cut
            for member in self.members:
                member.call_soon(member.look)
            for log in self.logs.values():
                for wake in log.readers:
                    wake()


class Told:
    """A call of one who hears."""

    def __init__(self, heard: Heard, subject: str, data: bytes) -> None:
        self._heard = heard
        self.subject = subject
        self._data = data

    def __call__(self) -> None:
        try:
            self._heard(self.subject, self._data)
        except Exception:
            logger.exception("what was told on %s could not be taken", self.subject)


class Asked:
    """A question on its way. The first answer counts."""

    def __init__(self, subject: str, data: bytes, loop: LoopHandle, answered: asyncio.Future[bytes]) -> None:
        self.subject = subject
        self._data = data
        self._loop = loop
        self._answered = answered

    async def answered_by(self, answer: Answer, max_bytes: int) -> None:
        """Take an answer, or what went wrong, to the one who asked."""
        try:
            data = await answer(self.subject, self._data)
            check_data(data, max_bytes)
        except Exception as error:
            logger.exception("what was asked on %s could not be answered", self.subject)
            failure = BridgeError(f"{self.subject!r:.200} could not be answered: {error}")
            self._loop.call_soon(partial(self._settle, failure))
        else:
            self._loop.call_soon(partial(self._settle, data))

    def _settle(self, answer: bytes | BridgeError) -> None:
        if self._answered.done():
            return
        if isinstance(answer, BridgeError):
            self._answered.set_exception(answer)
        else:
            self._answered.set_result(answer)
