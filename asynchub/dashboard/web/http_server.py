"""uvicorn, set up for a server that only this machine reaches: no log of what is asked, and limits on who is slow.

Slow: a connection that has not asked anything whole for ``IDLE_SECONDS`` is closed.
Large: the head of a request has at most ``MOST_HEAD`` bytes, a message of a WebSocket at most ``MOST_MESSAGE``.
Many: beyond ``MOST_CONNECTIONS`` there is a 503.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asynchub.errors import ArgumentError

try:
    from uvicorn import Config, Server
    from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
    from websockets.exceptions import InvalidState
except ImportError as error:
    raise ImportError("asynchub serve needs uvicorn: python -m pip install 'asynchub[serve]'") from error

__all__ = ("http_server", "listening", "listening_at")

IDLE_SECONDS = 10.0
MOST_HEAD = 16_384
MOST_MESSAGE = 65_536
MOST_CONNECTIONS = 400
CLOSING_SECONDS = 1
PORTS = 100
"""Ports that are tried, one after the other."""


class _Impatient(H11Protocol):
    """The server's side of a connection, which it closes if nothing whole is asked on it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self.loop.call_later(IDLE_SECONDS, self._look_again, None)

    def _look_again(self, before: RequestResponseCycle | None) -> None:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # it is a WebSocket now
            return
        if self.cycle is before and (before is None or before.response_complete):
            self.transport.close()
        else:
            self.loop.call_later(IDLE_SECONDS, self._look_again, self.cycle)


class _Ending(WebSocketsSansIOProtocol):
    """The server's side of a WebSocket, which ends whatever the other side does."""

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self.writable.is_set():  # what is still to be sent, nobody takes
            self.transport.abort()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except InvalidState:  # uvicorn says good-bye a second time
            self.transport.abort()


def http_server(app: Callable[..., Any]) -> Server:
    """Return a server for an ASGI application; ``server.run(sockets=[...])`` runs it until a signal."""
    return Server(
        Config(
            app,
            loop="asyncio",
            http=_Impatient,
            ws=_Ending,
            ws_max_size=MOST_MESSAGE,
            ws_per_message_deflate=False,  # this machine has more bandwidth than time; ssh -C compresses
            interface="asgi3",
            lifespan="on",
            log_config=None,
            log_level="warning",  # below that it would write down addresses, tickets included
            access_log=False,
            proxy_headers=False,  # what a visitor says of itself is not to be believed
            server_header=False,
            h11_max_incomplete_event_size=MOST_HEAD,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
    )


def listening(host: str, port: int, *, or_next: bool) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: address of this machine.
        port: to listen on; 0 for any.
        or_next: whether the next one that is free will do, too.

    Raises:
        ArgumentError: there is no such address, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(port, min(port + (PORTS if or_next else 1), 2**16)):
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # elsewhere it would let another process listen, too
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, number))
            bound.listen(128)
        except OSError as error:
            bound.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise ArgumentError(f"cannot listen on {host!r:.200}, port {number}: {error}") from error
            continue
        bound.setblocking(False)
        return bound
    tried = f"the ports from {port} to {port + PORTS - 1} are" if or_next else f"port {port} is"
    raise ArgumentError(f"{tried} taken at {host}, or not for this user; give another one with --port")


def listening_at(path: Path) -> socket.socket:
    """Return a socket that listens in the file system, and that only this user can reach.

    Raises:
        ArgumentError: there is something else, or another server listens there.
        OSError: it cannot be made there.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ArgumentError(f"{path} is there already and is no socket; give another path with --uds")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.settimeout(1)
            other.connect(str(path))
        raise ArgumentError(f"a server listens at {path} already")
    except FileNotFoundError:
        pass
    except ConnectionRefusedError:  # of a server that was killed
        path.unlink()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(bound.fileno(), 0o600)  # so that it is nobody else's from its first moment on, on Linux
        bound.bind(str(path))
        path.chmod(0o600)
        bound.listen(128)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound
