"""A live feed: the WebSocket of one viewer, from its first word to its last."""

from __future__ import annotations

import asyncio

from asynchub.dashboard.web.live import SEND_SECONDS, Live, Viewer
from asynchub.dashboard.web.tokens import Role
from asynchub.dashboard.web.wanted import as_json, look_of
from asynchub.dashboard.web.wire import to_json
from asynchub.errors import ArgumentError

try:
    from starlette.websockets import WebSocket, WebSocketDisconnect
except ImportError as error:
    raise ImportError("asynchub serve needs starlette: python -m pip install 'asynchub[serve]'") from error

__all__ = ("feed",)

ERRORS_WAITING = 16
"""Complaints that wait for a viewer, at most: who only sends nonsense is not answered each time."""


async def feed(socket: WebSocket, live: Live, role: Role) -> None:
    """Tell a viewer what he wants to see, until he leaves."""
    viewer = Viewer(role)
    await socket.accept()
    live.enter(viewer)
    sending = asyncio.create_task(_send(socket, viewer))
    hearing = asyncio.create_task(_hear(socket, live, viewer))
    try:
        await asyncio.wait((sending, hearing), return_when=asyncio.FIRST_COMPLETED)
    finally:
        live.leave(viewer)
        for task in (sending, hearing):
            task.cancel()
        await asyncio.gather(sending, hearing, return_exceptions=True)


async def _hear(socket: WebSocket, live: Live, viewer: Viewer) -> None:
    try:
        while True:
            message = await socket.receive()
            if message["type"] != "websocket.receive":
                return
            try:
                text = message.get("text")
                if text is None:
                    raise ArgumentError("a live feed takes JSON text, got bytes")
                live.look_at(viewer, look_of(as_json(text)))
            except ArgumentError as error:
                if len(viewer.outbox) < ERRORS_WAITING:
                    viewer.tell(to_json({"type": "error", "what": "look", "text": str(error)}))
    except (WebSocketDisconnect, RuntimeError):  # the latter where it was closed from this side
        return


async def _send(socket: WebSocket, viewer: Viewer) -> None:
    try:
        while True:
            await viewer.filled.wait()
            viewer.filled.clear()
            messages, viewer.outbox = viewer.outbox, []
            viewer.busy = True
            for message in messages:
                async with asyncio.timeout(SEND_SECONDS):
                    if isinstance(message, bytes):
                        await socket.send_bytes(message)
                    else:
                        await socket.send_text(message)
            viewer.busy = False
    except (TimeoutError, WebSocketDisconnect, RuntimeError, OSError):  # the first: he takes nothing any more
        return
