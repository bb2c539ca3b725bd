"""One connection to a NATS server, from its making to its loss.

The only module that imports nats-py, which has traps. Its coroutines swallow cancellations: each runs as a task that is
    left behind when its caller is cancelled. Its close and its reconnecting wait for a frozen server: a connection that
    fails is thrown away, and another made (``asynchub.bridges.nats_messages`` does). A pong that comes after a
    ping was given up ends its reader for good: a missed pong is the loss of the connection.
Loss: noticed at once when the socket says so, else within ``PING_SECONDS + PONG_SECONDS``. What waits then fails.
Refusals: of a publication or a subscription, fail what waits for it, and are told to ``on_refused``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import secrets
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from asynchub.bridges.failures import AccessRefusedError, BridgeError, NobodyError
from asynchub.bridges.nats_refusals import Refusable, is_unknown
from asynchub.bridges.nats_urls import Login

try:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.errors import ConnectionClosedError, Error, SlowConsumerError
except ImportError as error:
    raise ImportError("a nats:// broker needs nats-py: python -m pip install 'asynchub[nats]'") from error

__all__ = ("Connection", "Listening", "Received", "connect_to", "status")

CONNECT_SECONDS = 5.0
"""How long the making of a connection may take."""
PING_SECONDS = 3.0
"""Between two looks whether the server is there."""
PONG_SECONDS = 6.0
"""How long the server may take to say so."""
MAX_PENDING = 2**23
"""Bytes that may wait for a server that takes none."""
NEVER = 10**6
"""Seconds between the pings of nats-py itself."""

logger = logging.getLogger("asynchub")
_T = TypeVar("_T")

Received = Msg
Listening = Subscription


class _Client(Client):
    """A client that says no secret in plain text where TLS is wanted."""

    def __init__(self, login: Login) -> None:
        super().__init__()
        self._login = login
        self._is_secret = False

    @property
    def ssl_context(self) -> ssl.SSLContext:
        self._is_secret = True
        return self._login.tls or ssl.create_default_context()

    def told(self, secret: str | None) -> Callable[[], str] | None:
        def tell() -> str:
            self.check()
            return secret or ""

        return None if secret is None else tell

    def check(self) -> None:
        if self._login.wants_tls and not self._is_secret:
            raise Error("TLS is wanted, and the server offers none")


async def connect_to(server: str, login: Login, on_refused: Callable[[AccessRefusedError], object]) -> Connection:
    """Return a connection to a server.

    Args:
        server: its address, without user and password.
        login: how to make oneself known.
        on_refused: called with each refusal.

    Raises:
        AccessRefusedError: it refuses the credentials.
        BridgeError: it is not to be had.
    """
    client = _Client(login)
    connection = Connection(client, login.inbox, on_refused)
    work = client.connect(
        servers=[server],
        name=login.name,
        error_cb=connection._failed,
        disconnected_cb=connection._gone,
        connect_timeout=2,
        ping_interval=NEVER,
        pending_size=-1,
        user=client.told(login.user),
        password=client.told(login.password),
        token=client.told(login.token),
        user_credentials=login.credentials,
    )
    task = connection._spawn(work)
    try:
        await asyncio.wait((task,), timeout=CONNECT_SECONDS)
        if not task.done():
            raise BridgeError(f"{server} does not answer")
        task.result()
        client.check()
        if not client.is_connected:  # connect of nats-py takes the end of a connection for its beginning
            raise BridgeError(f"{server} has ended the connection")
        await connection._begin()
    except (BridgeError, asyncio.CancelledError):
        connection.discard()
        raise
    except Exception as error:  # a file of credentials can fail in any way
        connection.discard()
        if is_unknown(str(error)):
            raise AccessRefusedError(f"{server} refuses the credentials: {error}") from error
        raise BridgeError(f"{server} is not to be had: {error or type(error).__name__}") from error
    finally:
        task.cancel()
    return connection


class Connection:
    """A connection to a server; ``connect_to`` makes it.

    Attributes:
        lost: done when the connection is lost, or was discarded.
    """

    def __init__(self, client: _Client, inbox: str, on_refused: Callable[[AccessRefusedError], object]) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._client = client
        self._inbox = f"{inbox}.{secrets.token_hex(8)}"
        self._on_refused = on_refused
        self._is_up = False
        self._tokens = itertools.count(1)
        self._asked: dict[str, asyncio.Future[Msg]] = {}
        self._refusals = Refusable()
        self._listenings: list[Subscription] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pings: set[asyncio.Task[float]] = set()
        self._said_slow = False

    @property
    def max_payload(self) -> int:
        """Bytes that a message may have, with its headers."""
        return self._client.max_payload

    @property
    def version(self) -> tuple[int, int]:
        """Of the server: the first two numbers of it; zeros if it is not known."""
        try:
            found = self._client.connected_server_version
            return found.major, found.minor
        except ValueError:
            return 0, 0

    async def _begin(self) -> None:
        self._is_up = True
        await self.listen(f"{self._inbox}.*", self._answered)
        self._spawn(self._watch())

    async def publish(
        self, subject: str, data: bytes, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Hand a message to the server, as soon as it takes any.

        Raises:
            BridgeError: the connection is lost, or the server takes nothing.
        """
        if self.lost.done():
            raise BridgeError("the broker is lost")
        if self._client.pending_data_size > MAX_PENDING:
            raise BridgeError("the broker takes nothing: it is frozen, or the way to it is")
        try:
            await self._apart(self._client.publish(subject, data, reply, None if headers is None else dict(headers)))
        except ConnectionClosedError:
            self.discard()
            raise BridgeError("the broker is lost") from None
        except Error as error:
            raise BridgeError(f"{subject!r:.200} cannot be published: {error}") from error

    async def request(self, subject: str, data: bytes, timeout: float, headers: Mapping[str, str] | None = None) -> Msg:
        """Return the answer to a message.

        Raises:
            AccessRefusedError: the server does not let it be published.
            NobodyError: nobody listens to it.
            BridgeError: the connection is lost, or no answer comes in ``timeout`` seconds.
        """
        token = str(next(self._tokens))
        answered: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._asked[token] = answered
        try:
            with self._refusals.failing("publish", subject, answered):
                await self.publish(subject, data, f"{self._inbox}.{token}", headers)
                await asyncio.wait((answered, self.lost), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._asked[token]
        if not answered.done():
            what = "is lost" if self.lost.done() else f"has not answered {subject!r:.200} in {timeout} s"
            raise BridgeError(f"the broker {what}")
        message = answered.result()
        if status(message) == "503":
            raise NobodyError(f"nobody answers {subject!r:.200}")
        return message

    async def request_json(
        self, subject: str, data: bytes, timeout: float, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the answer to a message, in JSON; raises as ``request`` does."""
        message = await self.request(subject, data, timeout, headers)
        try:
            found = json.loads(message.data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise BridgeError(f"the broker answers {message.data!r:.80}, which is no object in JSON")
        return found

    def new_inbox(self) -> str:
        """Return a subject that is nobody else's."""
        return f"{self._inbox}.in.{next(self._tokens)}"

    async def listen(self, subject: str, take: Callable[[Msg], object]) -> Subscription:
        """Have ``take`` called with each message of a subject; the server is told so soon.

        Raises:
            BridgeError: the connection is lost.
        """

        async def taken(message: Msg) -> None:
            take(message)

        try:
            listening = await self._apart(self._client.subscribe(subject, cb=taken))
        except Error as error:
            raise BridgeError(f"{subject!r:.200} cannot be listened to: {error}") from error
        self._listenings.append(listening)
        return listening

    async def listen_surely(self, subject: str, take: Callable[[Msg], object], timeout: float) -> None:
        """Do as ``listen`` does; return when the server has it, or after ``timeout`` seconds.

        Raises:
            AccessRefusedError: the server does not allow it.
            BridgeError: the connection is lost.
        """
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._refusals.failing("subscription", subject, refused):
            await self.listen(subject, take)
            await asyncio.sleep(0)  # the ping is not to overtake it
            await asyncio.wait((self._ping(), refused, self.lost), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if refused.done() and not refused.cancelled():
            refused.result()

    def forget(self, listening: Subscription) -> None:
        """End what ``listen`` began."""
        if listening in self._listenings:
            self._listenings.remove(listening)
            self._spawn(_quietly(listening.unsubscribe()))

    async def flushed(self, timeout: float) -> None:
        """Wait until the server has what was handed to it, at most ``timeout`` seconds, or until it is lost."""
        deadline = time.monotonic() + timeout
        while self._client.pending_data_size and not self.lost.done() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)  # a ping overtakes what is pending
        if not self.lost.done() and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait((self._ping(), self.lost), timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def discard(self) -> None:
        """Let go of the server at once, whatever state it is in."""
        if not self.lost.done():
            self.lost.set_result(None)
            self._spawn(self._close())

    async def _close(self) -> None:
        for ping in self._pings:
            ping.cancel()
        for listening in tuple(self._listenings):  # first, or their tasks stay when the closing fails
            await _quietly(listening.unsubscribe())
        # Neither close of nats-py nor that of a stream ends while a frozen server holds up what is to be sent.
        writer = getattr(getattr(self._client, "_transport", None), "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        await _quietly(self._client.close())

    async def ended(self, timeout: float) -> None:
        """Wait for what is still done for the connection after its loss, at most ``timeout`` seconds."""
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=timeout)
            for task in left:
                task.cancel()

    async def _watch(self) -> None:
        """Ping the server; discard the connection when it does not answer."""
        while not self.lost.done():
            await asyncio.wait((self.lost,), timeout=PING_SECONDS)
            if not self.lost.done():
                ping = self._ping()
                await asyncio.wait((ping, self.lost), timeout=PONG_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not ping.done() or ping.cancelled() or ping.exception() is not None:
                    self.discard()

    def _ping(self) -> asyncio.Task[float]:
        """Ping the server; the task ends with its pong, and is never to be cancelled before the loss."""
        ping = self._spawn(self._client.rtt(NEVER))  # flush says that all is well when the reader has died
        self._pings.add(ping)
        ping.add_done_callback(self._pings.discard)
        return ping

    async def _gone(self) -> None:
        """Called by the client when the socket is closed; without a discard it would connect again, in its own way."""
        self.discard()
        await asyncio.sleep(0)

    async def _failed(self, error: Exception) -> None:
        """Called by the client with what went wrong."""
        if not self._client.is_connected and not self._is_up:
            raise error  # ends the making of the connection, which would go on for ever
        if (refusal := self._refusals.told(str(error))) is not None:
            self._on_refused(refusal)
        elif isinstance(error, SlowConsumerError):
            if not self._said_slow:
                self._said_slow = True
                logger.warning("messages on %s came faster than they were taken; some are lost", error.subject)
        elif not isinstance(error, OSError | Error):
            logger.error("a message could not be taken", exc_info=error)

    def _answered(self, message: Msg) -> None:
        answered = self._asked.get(message.subject.rpartition(".")[2])
        if answered is not None and not answered.done():
            answered.set_result(message)

    async def _apart(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine of nats-py as a task of its own: it would swallow the caller's cancellation."""
        task = self._spawn(work)
        await asyncio.wait((task,))
        return task.result()

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)
        return task

    def _spawned(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen by who waited for it, if anybody still did


def status(message: Msg) -> str | None:
    """Return the status that a server gives in place of a message; None for a message."""
    return None if message.headers is None else message.headers.get("Status")


async def _quietly(work: Coroutine[Any, Any, object]) -> None:
    """Run what may fail because the connection has failed already."""
    with suppress(OSError, Error, TimeoutError):
        await work
