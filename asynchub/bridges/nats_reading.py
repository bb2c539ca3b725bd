"""The log of a run, read from a NATS server over one connection.

A consumer of its own, without acknowledgements, from a position on; messages are asked for in batches, and the server
    says every second that it is still there.
Ends: when the connection is lost, the consumer is gone, the server is silent, or a message is missing. Whoever reads
    begins again behind the last message that came.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from asynchub.bridges.checks import overlap
from asynchub.bridges.failures import BridgeError
from asynchub.bridges.nats_connection import Connection, Received, status
from asynchub.bridges.nats_logs import said
from asynchub.bridges.subjects import matches
from asynchub.bridges.transport import Stored

__all__ = ("filters_for", "pulled")

BATCH = 256
"""Messages that are asked for at once."""
MAX_BATCH_BYTES = 2**23
"""Bytes that are asked for at once, if a message is not longer."""
EXPIRES = 5.0
"""Seconds after which is asked anew."""
BEAT = 1.0
"""Between two signs of life of the server, in seconds."""
SILENCE = 3.5
"""Seconds without any after which it is not waited for longer."""
INACTIVE = 30.0
"""Seconds after which the server forgets a consumer that nobody asks."""
ANSWER_SECONDS = 5.0
"""How long the server may take to make a consumer."""


def filters_for(patterns: Sequence[str], stored: Sequence[str], version: tuple[int, int]) -> list[str]:
    """Return the patterns that a server can be given to choose by; none if it must send all that is stored.

    It takes several since 2.10, none of which may overlap, and all within what is stored.
    """
    wanted = sorted(set(patterns))
    pairs = ((one, other) for one in wanted for other in wanted if one < other)
    if (
        (len(wanted) > 1 and version < (2, 10))
        or any(overlap(one, other) for one, other in pairs)
        or not all(any(matches(whole, one) for whole in stored) for one in wanted)
    ):
        return []
    return wanted


async def pulled(
    connection: Connection, log: str, filters: Sequence[str], after: int
) -> AsyncGenerator[list[Stored], None]:
    """Yield the messages of a log that match any filter, all without one, behind a position; see the module.

    Raises:
        AccessRefusedError: the credentials do not allow it.
        BridgeError: the connection is lost, or the server is silent, or makes no consumer.
    """
    arrived: deque[Received] = deque()
    news = asyncio.Event()

    def take(message: Received) -> None:
        arrived.append(message)
        news.set()

    def end(_: object) -> None:
        news.set()

    inbox = connection.new_inbox()
    listening = await connection.listen(inbox, take)
    connection.lost.add_done_callback(end)
    try:
        consumer = await _made(connection, log, filters, after)
        number = 0
        while True:
            await connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{log}.{consumer}", _wanted(connection), inbox)
            left = BATCH
            while left > 0:
                if not arrived:
                    news.clear()
                    await _come(connection, news)
                batch: list[Stored] = []
                while arrived and left > 0:
                    message = arrived.popleft()
                    code = status(message)
                    if code is None:
                        stored, place = _stored(message)
                        number += 1
                        if place != number:  # one before it was lost on the way
                            left = -1
                            break
                        batch.append(stored)
                        left -= 1
                    elif code != "100":
                        left = 0 if _is_over(message) else -1
                if batch:
                    yield batch
            if left < 0:
                return
    finally:
        connection.lost.remove_done_callback(end)
        connection.forget(listening)


async def _made(connection: Connection, log: str, filters: Sequence[str], after: int) -> str:
    """Have the server make a consumer; return its name."""
    consumer = secrets.token_hex(8)
    config: dict[str, Any] = {
        "name": consumer,
        "ack_policy": "none",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": after + 1,
        "inactive_threshold": int(INACTIVE * 1e9),
        "mem_storage": True,
        "num_replicas": 1,
        "max_waiting": 16,
        "description": "asynchub",
    }
    if len(filters) == 1:
        config["filter_subject"] = filters[0]
    elif filters:
        config["filter_subjects"] = list(filters)
    question = {"stream_name": log, "config": config}
    subject = f"$JS.API.CONSUMER.CREATE.{log}.{consumer}"
    said(await connection.request_json(subject, json.dumps(question).encode(), ANSWER_SECONDS))
    return consumer


def _wanted(connection: Connection) -> bytes:
    question = {
        "batch": BATCH,
        "max_bytes": max(MAX_BATCH_BYTES, 2 * connection.max_payload),
        "expires": int(EXPIRES * 1e9),
        "idle_heartbeat": int(BEAT * 1e9),
    }
    return json.dumps(question).encode()


async def _come(connection: Connection, news: asyncio.Event) -> None:
    """Wait for a message.

    Raises:
        BridgeError: the connection is lost, or the server is silent.
    """
    try:
        async with asyncio.timeout(SILENCE):
            await news.wait()
    except TimeoutError:
        raise BridgeError("the broker has fallen silent") from None
    if connection.lost.done():
        raise BridgeError("the broker is lost")


def _is_over(message: Received) -> bool:
    """Tell whether a status says only that what was asked for has come, or that the time for it is over."""
    if status(message) == "408":
        return True
    why = (message.headers or {}).get("Description", "").lower()
    return status(message) == "409" and ("batch completed" in why or "maxbytes" in why)


def _stored(message: Received) -> tuple[Stored, int]:
    """Return a message, and its place among those that the consumer sent, from 1.

    Raises:
        BridgeError: it does not come from a log.
    """
    words = message.reply.split(".")
    if words[:2] != ["$JS", "ACK"] or len(words) < 9:
        raise BridgeError(f"{message.subject!r:.200} does not come from a log")
    start = 5 if len(words) == 9 else 7  # newer servers say domain and account before
    position, place, nanoseconds = (int(word) for word in words[start : start + 3])
    return Stored(message.subject, message.data, position, nanoseconds / 1e9), place
