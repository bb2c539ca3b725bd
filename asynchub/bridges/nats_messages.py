"""The messages of a NATS server, over a connection that is kept up; the logs it keeps are in ``asynchub.bridges.nats``.

Loss of the broker: the connection is made anew, at first every quarter of a second, later every two seconds, all with
    some chance in it; after refused credentials every five seconds to a minute.
Security: user and password, token or credentials are sent to the servers named only, and with ``tls://`` or ``tls=``
    only within TLS. Answers come on ``_INBOX.<user>.>``, so that a server's permissions can keep users apart.
Threads: one asyncio loop makes, uses and closes it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from asynchub.bridges.checks import check_data, check_pattern, check_subject
from asynchub.bridges.failures import AccessRefusedError, BridgeError
from asynchub.bridges.nats_connection import Connection, Received, connect_to
from asynchub.bridges.nats_urls import Login, Servers
from asynchub.bridges.subjects import matches
from asynchub.bridges.transport import Answer, Heard, Transport

__all__ = ("NatsMessages", "Pauses")

HEADER_BYTES = 1024
"""Bytes of a message that are left for its headers."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0
"""Seconds between two tries to reach a server."""
FIRST_REFUSED_PAUSE, LONGEST_REFUSED_PAUSE = 5.0, 60.0
"""The same, after refused credentials."""
REACH_SECONDS = 2.0
"""How long ``hear`` and ``serve`` wait for the broker to have them."""
MAX_ANSWERS = 256
"""Questions that are answered at the same time; more are turned away."""
FAILED = "Asynchub-Failed"
"""Header of an answer that says why there is none."""

logger = logging.getLogger("asynchub")


class Pauses:
    """How long to wait between two tries to reach a server, longer and longer."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE
        self._refused_pause = FIRST_REFUSED_PAUSE

    def next(self, *, refused: bool) -> float:
        """Return how many seconds to wait after a try; ``refused``: the server is there, and does not let one in."""
        chance = random.uniform(0.5, 1.5)  # or all ranks come back at the same moment
        if refused:
            pause, self._refused_pause = self._refused_pause, min(self._refused_pause * 2, LONGEST_REFUSED_PAUSE)
        else:
            pause, self._pause = self._pause, min(self._pause * 1.5, LONGEST_PAUSE)
        return pause * chance


class NatsMessages(Transport):
    """A connection to NATS servers, kept up until it is closed, and the messages over it.

    Args:
        servers: where they are.
        login: how to make oneself known.
    """

    def __init__(self, servers: Servers, login: Login) -> None:
        self.on_change = _nothing
        self._servers = servers
        self._login = login
        self._connection: Connection | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._is_closed = False
        self._turned = asyncio.Event()
        self._listened: list[tuple[str, Callable[[Received], None]]] = []
        self._answering: set[asyncio.Task[None]] = set()

    async def connect(self, timeout: float) -> None:
        if self._is_closed:
            raise BridgeError("the transport is closed")
        if self._keeping is None:
            self._keeping = asyncio.get_running_loop().create_task(self._keep())
        try:
            async with asyncio.timeout(timeout):
                await self._up()
        except TimeoutError:
            why = "" if self.error is None else f": {self.error}"
            raise BridgeError(f"no broker at {self._servers} in {timeout} s{why}") from self.error

    async def tell(self, subject: str, data: bytes) -> None:
        check_subject(subject)
        check_data(data, self.max_bytes)
        if self._connection is not None:
            try:
                await self._connection.publish(subject, data)
            except BridgeError as error:
                logger.debug("%s is not told: %s", subject, error)

    async def hear(self, pattern: str, heard: Heard) -> None:
        def take(message: Received) -> None:
            if matches(pattern, message.subject):
                heard(message.subject, message.data)

        await self._listen(pattern, take)

    async def ask(self, subject: str, data: bytes, timeout: float) -> bytes:
        check_subject(subject)
        check_data(data, self.max_bytes)
        message = await self._there().request(subject, data, timeout)
        failed = (message.headers or {}).get(FAILED)
        if failed is not None:
            raise BridgeError(f"{subject!r:.200} could not be answered: {failed}")
        return message.data

    async def serve(self, pattern: str, answer: Answer) -> None:
        def take(message: Received) -> None:
            # A server can be made to send what it stores, or says itself, on any subject: that has no reply, or came on
            # another subject.
            if message.reply and matches(pattern, message.subject):
                work = self._answer(answer, message)
                task = asyncio.get_running_loop().create_task(work)
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

        await self._listen(pattern, take)

    async def close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._is_closed = True
        if self._keeping is not None:
            self._keeping.cancel()
        for task in self._answering:
            task.cancel()
        connection = self._connection
        if connection is not None:
            await connection.flushed(timeout / 2)
        if self._keeping is not None:
            await asyncio.wait((self._keeping,), timeout=max(deadline - time.monotonic(), 0))
        self._set(None, BridgeError("the transport is closed"))
        if connection is not None:
            connection.discard()
            await connection.ended(max(deadline - time.monotonic(), 0))

    async def _keep(self) -> None:
        """Keep a connection up, until cancelled."""
        pauses = Pauses()
        while True:
            try:
                connection = await self._reach()
            except BridgeError as error:
                self._set(None, error)
                await asyncio.sleep(pauses.next(refused=isinstance(error, AccessRefusedError)))
                continue
            pauses = Pauses()
            self.max_bytes = connection.max_payload - HEADER_BYTES
            self._set(connection, None)
            await asyncio.wait((connection.lost,))
            self._set(None, BridgeError(f"the broker at {self._servers} is lost"))
            await asyncio.sleep(pauses.next(refused=False))

    async def _reach(self) -> Connection:
        """Return a connection to any of the servers, with all that is listened to."""
        error: BridgeError | None = None
        for server in random.sample(self._servers.addresses, len(self._servers.addresses)):
            try:
                connection = await connect_to(server, self._login, self._refused)
                try:
                    for pattern, take in self._listened:
                        await connection.listen(pattern, take)
                except BaseException:
                    connection.discard()
                    raise
                return connection
            except BridgeError as failure:
                error = failure
        raise error or BridgeError("there is no server")

    def _set(self, connection: Connection | None, error: Exception | None) -> None:
        before = (self.connected, self.error)
        self._connection = connection
        self.connected = connection is not None
        self.error = error
        self._turned.set()
        self._turned = asyncio.Event()
        if before != (self.connected, error):
            self._tell_change()

    def _refused(self, refusal: AccessRefusedError) -> None:
        self.error = refusal
        self._tell_change()

    def _tell_change(self) -> None:
        try:
            self.on_change()
        except Exception:  # or nobody would keep the connection up
            logger.exception("a change of the connection to a broker could not be taken")

    async def _up(self) -> Connection:
        """Wait for the connection; return it."""
        while self._connection is None:
            if self._is_closed:
                raise BridgeError("the transport is closed")
            if isinstance(self.error, AccessRefusedError):
                raise self.error
            await self._turned.wait()
        return self._connection

    def _there(self) -> Connection:
        if self._connection is None:
            why = "" if self.error is None else f": {self.error}"
            raise BridgeError(f"the broker is not there{why}")
        return self._connection

    async def _listen(self, pattern: str, take: Callable[[Received], None]) -> None:
        check_pattern(pattern)
        if self._is_closed:
            raise BridgeError("the transport is closed")
        self._listened.append((pattern, take))
        if self._connection is not None:
            try:
                await self._connection.listen_surely(pattern, take, REACH_SECONDS)
            except AccessRefusedError:
                self._listened.remove((pattern, take))
                raise
            except BridgeError as error:
                logger.debug("%s is listened to when the broker is back: %s", pattern, error)

    async def _answer(self, answer: Answer, message: Received) -> None:
        connection = self._connection
        headers: dict[str, str] | None = None
        try:
            if len(self._answering) > MAX_ANSWERS:
                raise BridgeError("too much is asked at the same time")
            data = await answer(message.subject, message.data)
            check_data(data, self.max_bytes)
        except Exception as error:
            logger.exception("what was asked on %s could not be answered", message.subject)
            data, headers = b"", {FAILED: f"{error}"[:200] or type(error).__name__}
        if connection is not None:
            try:
                await connection.publish(message.reply, data, headers=headers)
            except BridgeError as error:
                logger.debug("what was asked on %s is not answered: %s", message.subject, error)


def _nothing() -> None:
    """Do nothing about a change."""
