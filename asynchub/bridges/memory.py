"""A broker inside of the process: for tests, and for hubs of one process that are to see each other.

A broker has a name, and lives as long as something holds it: a transport that is not closed, or the program. Then it is
    forgotten, with what its logs held.
Order, positions, message ids, loss of the broker: as ``asynchub.bridges.transport`` promises; ``cut`` is the loss. A
    message id is remembered for ten minutes. Nothing waits for anything: what fails, fails at once.
Size: each log keeps its newest ``keep_bytes`` bytes.
Threads: transports of several loops in several threads may use one broker; ``cut`` and ``restore`` may be called from
    any. Each transport is for its own asyncio loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from asynchub.bridges.checks import check_append, check_data, check_pattern, check_patterns, check_subject
from asynchub.bridges.failures import BridgeError, NobodyError
from asynchub.bridges.memory_broker import Asked, MemoryBroker, MemoryLog, Told, memory_broker
from asynchub.bridges.subjects import Subjects, matches
from asynchub.bridges.transport import Answer, Heard, Stored, Transport
from asynchub.loops import LoopHandle

__all__ = ("MemoryTransport",)


class MemoryTransport(Transport):
    """A connection to a broker inside of the process.

    Args:
        subjects: of the run.
        name: of the broker.

    Raises:
        ArgumentError: the name is not a text, or empty.
    """

    def __init__(self, subjects: Subjects, name: str) -> None:
        self.on_change = _nothing
        self._subjects = subjects
        self._broker: MemoryBroker | None = memory_broker(name)
        self._name = name
        self._loop: LoopHandle | None = None
        self._changed = asyncio.Event()
        self.hearing: Sequence[tuple[str, Heard]] = []
        self.serving: Sequence[tuple[str, Answer]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: set[asyncio.Future[bytes]] = set()

    async def connect(self, timeout: float) -> None:
        broker = self._known()
        if self._loop is None:
            self._loop = LoopHandle()
            with broker.lock:
                broker.members.append(self)
        self.look()
        try:
            async with asyncio.timeout(timeout):
                while not self.connected:
                    self._known()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise BridgeError(f"the broker {self._name!r} is not to be had in {timeout} s") from None

    async def open_log(self, timeout: float) -> None:
        broker = self._reached()
        with broker.lock:
            broker.logs.setdefault(self._subjects.log, MemoryLog()).is_open = True

    async def append(self, subject: str, data: bytes, message_id: str, *, alone: bool = False, timeout: float) -> int:
        broker = self._reached()
        check_append(self._subjects, subject, data, message_id, broker.max_bytes)
        with broker.lock:
            log = broker.logs.get(self._subjects.log)
            if log is None or not log.is_open:
                raise BridgeError(f"the broker {self._name!r} keeps no log for the run {self._subjects.run!r}; open it")
            return log.append(subject, data, message_id, alone, broker.keep_bytes)

    async def newest(self, subject: str, timeout: float) -> Stored | None:
        check_subject(subject)
        return next((one for one in reversed(self._stored()) if one.subject == subject), None)

    async def subjects(self, pattern: str, timeout: float) -> list[str]:
        check_pattern(pattern)
        return sorted({one.subject for one in self._stored() if matches(pattern, one.subject)})

    async def last_position(self, timeout: float) -> int:
        broker = self._reached()
        with broker.lock:
            log = broker.logs.get(self._subjects.log)
            return 0 if log is None else log.last

    async def read(self, patterns: Sequence[str], after: int) -> AsyncIterator[list[Stored]]:
        check_patterns(self._subjects, patterns)
        wanted = tuple(patterns)
        broker = self._known()
        event = asyncio.Event()
        loop = LoopHandle()

        def wake() -> None:
            loop.call_soon(event.set)

        with broker.lock:
            log = broker.logs.setdefault(self._subjects.log, MemoryLog())
            log.readers.append(wake)
        try:
            while True:
                event.clear()
                self._known()
                found: list[Stored] = []
                with broker.lock:
                    if not broker.is_cut:
                        found, after = log.after(after)
                if chosen := [one for one in found if any(matches(pattern, one.subject) for pattern in wanted)]:
                    yield chosen
                elif not found:
                    await event.wait()
        finally:
            with broker.lock:
                log.readers.remove(wake)

    async def tell(self, subject: str, data: bytes) -> None:
        check_subject(subject)
        broker = self._known()
        check_data(data, broker.max_bytes)
        with broker.lock:
            if self.connected and not broker.is_cut:
                for transport in broker.members:
                    for pattern, heard in transport.hearing:
                        if matches(pattern, subject):
                            transport.call_soon(Told(heard, subject, data))

    async def hear(self, pattern: str, heard: Heard) -> None:
        check_pattern(pattern)
        with self._known().lock:
            self.hearing = [*self.hearing, (pattern, heard)]

    async def ask(self, subject: str, data: bytes, timeout: float) -> bytes:
        check_subject(subject)
        broker = self._reached()
        check_data(data, broker.max_bytes)
        loop = LoopHandle()
        answered: asyncio.Future[bytes] = loop.native.create_future()
        asked = Asked(subject, data, loop, answered)
        with broker.lock:
            serving = [
                (transport, answer)
                for transport in broker.members
                for pattern, answer in transport.serving
                if matches(pattern, subject)
            ]
        reached = [transport.call_soon(partial(transport.start, answer, asked)) for transport, answer in serving]
        if not any(reached):
            raise NobodyError(f"nobody serves {subject!r:.200}")
        self._asked.add(answered)
        try:
            async with asyncio.timeout(timeout):
                return await answered
        except TimeoutError:
            raise BridgeError(f"nobody has answered {subject!r:.200} in {timeout} s") from None
        finally:
            self._asked.discard(answered)

    async def serve(self, pattern: str, answer: Answer) -> None:
        check_pattern(pattern)
        with self._known().lock:
            self.serving = [*self.serving, (pattern, answer)]

    async def close(self, timeout: float) -> None:
        broker = self._broker
        if broker is None:
            return
        self._broker = None
        with broker.lock:
            if self in broker.members:
                broker.members.remove(self)
            wakes = [wake for log in broker.logs.values() for wake in log.readers]
        for task in self._tasks:
            task.cancel()
        for wake in wakes:
            wake()
        self.look()

    def _known(self) -> MemoryBroker:
        """Return the broker, reached or not."""
        if self._broker is None:
            raise BridgeError("the transport is closed")
        return self._broker

    def _reached(self) -> MemoryBroker:
        broker = self._known()
        if broker.is_cut or self._loop is None:
            raise BridgeError(f"the broker {self._name!r} is not there")
        return broker

    def _stored(self) -> list[Stored]:
        broker = self._reached()
        with broker.lock:
            log = broker.logs.get(self._subjects.log)
            return [] if log is None else log.stored[:]

    def call_soon(self, function: Callable[[], object]) -> bool:
        """Have the loop call a function, from any thread; False if it cannot."""
        return self._loop is not None and self._loop.call_soon(function)

    def look(self) -> None:
        """See whether the broker is there; fail what was asked of it if not."""
        connected = self._broker is not None and not self._broker.is_cut
        if self._broker is not None:
            self.max_bytes = self._broker.max_bytes
        self._changed.set()
        if not connected:
            for answered in self._asked:
                if not answered.done():
                    answered.set_exception(BridgeError(f"the broker {self._name!r} is not there any more"))
        if connected != self.connected:
            self.connected = connected
            why = "the transport is closed" if self._broker is None else f"the broker {self._name!r} is not there"
            self.error = None if connected else BridgeError(why)
            self.on_change()

    def start(self, answer: Answer, asked: Asked) -> None:
        """Answer a question, in a task."""
        if self._broker is not None:
            task = asyncio.get_running_loop().create_task(asked.answered_by(answer, self._broker.max_bytes))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def _nothing() -> None:
    """Do nothing about a change."""
