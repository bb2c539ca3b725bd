"""A broker that is a NATS server with JetStream, 2.10 or newer.

Loss of the broker, security: see ``asynchub.bridges.nats_messages``.
Order and repeats: ``append`` is stored once, by its ``Nats-Msg-Id``, within ``duplicate_window``. ``read`` follows the
    positions of the log; a log that was lost with its broker's disk, and made anew, is read from its beginning.
Durability: a server has what it acknowledged in the file system, and survives its own kill; what a failure of power
    loses is a matter of its ``sync_interval``.
Threads: one asyncio loop makes, uses and closes a transport.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from asynchub.bridges.checks import check_append, check_pattern, check_patterns, check_subject
from asynchub.bridges.failures import AccessRefusedError, BridgeError, NobodyError
from asynchub.bridges.nats_connection import status
from asynchub.bridges.nats_logs import LogMissingError, LogTakenError, log_config, said, seconds
from asynchub.bridges.nats_messages import NatsMessages
from asynchub.bridges.nats_reading import filters_for, pulled
from asynchub.bridges.nats_urls import Login, parse_servers
from asynchub.bridges.subjects import Subjects, matches
from asynchub.bridges.transport import Stored
from asynchub.errors import ArgumentError

__all__ = ("NatsTransport",)

LOOK_SECONDS = 5.0
"""How long ``read`` waits for the broker to tell the state of the log."""
READ_PAUSE = 0.25
"""Seconds between two looks for a log that is not there."""
logger = logging.getLogger("asynchub")


class NatsTransport(NatsMessages):
    """A connection to NATS servers, kept up until it is closed.

    Args:
        subjects: of the run.
        url: ``nats://[user:password@]host[:port]`` or ``tls://...``; those of several servers with commas between.
        token: in place of user and password.
        credentials: path of a ``.creds`` file, in place of those; needs ``nkeys``.
        tls: certificates to trust and to show; TLS is then a must, also with ``nats://``.
        name: of the connection, shown by the server.
        inbox: how the subjects begin on which answers come; by default ``_INBOX``, and the user behind a dot.
        storage: ``"file"`` or ``"memory"``: where a log is kept that this transport opens first.
        max_age: seconds that such a log keeps a message; None for ever.
        max_log_bytes: bytes that such a log may take; the oldest messages go first. None for what the server allows.
        duplicate_window: seconds that such a log remembers the id of a message.
        replicas: how many servers of a cluster keep it.

    Raises:
        ArgumentError: something is out of range, or the URL is none.
        ImportError: ``credentials`` are given, and ``nkeys`` is not installed.
    """

    def __init__(
        self,
        subjects: Subjects,
        url: str,
        *,
        token: str | None = None,
        credentials: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        name: str = "asynchub",
        inbox: str | None = None,
        storage: str = "file",
        max_age: float | None = None,
        max_log_bytes: int | None = None,
        duplicate_window: float = 120.0,
        replicas: int = 1,
    ) -> None:
        servers = parse_servers(url)
        if sum(given is not None for given in (servers.user, token, credentials)) > 1:
            raise ArgumentError("give one of a user in the URL, token= and credentials=")
        if credentials is not None:
            _check_credentials(Path(credentials))
        if storage not in ("file", "memory"):
            raise ArgumentError(f'storage must be "file" or "memory", got {storage!r:.80}')
        for word, value in (
            ("max_age", max_age),
            ("max_log_bytes", max_log_bytes),
            ("duplicate_window", duplicate_window),
        ):
            if value is not None and not 0 < value < 2**53:
                raise ArgumentError(f"{word} must be above 0, got {value!r:.80}")
        if inbox is None:
            inbox = "_INBOX" if servers.user is None else f"_INBOX.{servers.user}"
        check_pattern(inbox)
        login = Login(
            name=name,
            user=servers.user,
            password=servers.password,
            token=token,
            credentials=None if credentials is None else str(credentials),
            tls=tls,
            wants_tls=servers.wants_tls or tls is not None,
            inbox=inbox,
        )
        super().__init__(servers, login)
        self._subjects = subjects
        self._config = log_config(subjects, storage, max_age, max_log_bytes, duplicate_window, replicas)

    async def open_log(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        try:
            await self._ask_api("STREAM.CREATE", self._config, timeout)
        except LogTakenError:
            info = await self._ask_api("STREAM.INFO", {}, max(deadline - time.monotonic(), 0.1))
            config = info.get("config", {})
            lacking = set(self._config["subjects"]).difference(config.get("subjects", ()))
            if lacking or not config.get("allow_rollup_hdrs") or not config.get("allow_direct"):
                raise BridgeError(
                    f"the broker has a log {self._subjects.log!r} that is not one of asynchub; delete it, or name the "
                    "run otherwise"
                ) from None

    async def append(self, subject: str, data: bytes, message_id: str, *, alone: bool = False, timeout: float) -> int:
        check_append(self._subjects, subject, data, message_id, self.max_bytes)
        headers = {"Nats-Msg-Id": message_id}
        if alone:
            headers["Nats-Rollup"] = "sub"
        try:
            answer = said(await self._there().request_json(subject, data, timeout, headers))
        except NobodyError:
            raise LogMissingError(f"the broker keeps no log for the run {self._subjects.run!r}; open it") from None
        if not isinstance(position := answer.get("seq"), int):
            raise BridgeError(f"the broker answers an append with {answer!r:.200}")
        return position

    async def newest(self, subject: str, timeout: float) -> Stored | None:
        check_subject(subject)
        deadline = time.monotonic() + timeout
        question = f"$JS.API.DIRECT.GET.{self._subjects.log}.{subject}"
        try:
            message = await self._there().request(question, b"", timeout)
        except NobodyError:  # as long as there is no log
            if await self._log_state(max(deadline - time.monotonic(), 0.1)) is None:
                return None
            raise
        if status(message) == "404":
            return None
        headers = message.headers or {}
        try:
            position = int(headers["Nats-Sequence"])
            stored_at = seconds(headers["Nats-Time-Stamp"])
        except (KeyError, ValueError) as error:
            raise BridgeError(f"the broker answers {headers!r:.200}") from error
        return Stored(headers.get("Nats-Subject", subject), message.data, position, stored_at)

    async def subjects(self, pattern: str, timeout: float) -> list[str]:
        check_pattern(pattern)
        deadline = time.monotonic() + timeout
        found: set[str] = set()
        offset = 0
        while True:
            question = {"subjects_filter": pattern, "offset": offset}
            try:
                answer = await self._ask_api("STREAM.INFO", question, max(deadline - time.monotonic(), 0.1))
            except LogMissingError:
                return []
            page = answer.get("state", {}).get("subjects") or {}
            found.update(page)
            offset += len(page)
            if not page or offset >= answer.get("total", 0):
                return sorted(found)

    async def last_position(self, timeout: float) -> int:
        state = await self._log_state(timeout)
        return 0 if state is None else state[1]

    async def read(self, patterns: Sequence[str], after: int) -> AsyncIterator[list[Stored]]:
        check_patterns(self._subjects, patterns)
        created: str | None = None
        while True:
            connection = await self._up()
            filters = filters_for(patterns, self._subjects.stored, connection.version)
            try:
                state = await self._log_state(LOOK_SECONDS)
                if state is not None:
                    anew = created is not None and created != state[0]
                    if anew or after > state[1]:
                        after = 0 if anew or created is None else state[1]
                    created = state[0]
                    batches = pulled(connection, self._subjects.log, filters, after)
                    async with aclosing(batches):
                        async for batch in batches:
                            after = batch[-1].position
                            if chosen := [
                                one for one in batch if any(matches(wanted, one.subject) for wanted in patterns)
                            ]:
                                yield chosen
            except AccessRefusedError:
                raise
            except BridgeError as error:
                logger.debug("the log of the run %r is read again: %s", self._subjects.run, error)
            await asyncio.sleep(READ_PAUSE)

    async def _ask_api(self, verb: str, question: Any, timeout: float) -> dict[str, Any]:
        """Return what JetStream answers to a question about the log."""
        try:
            subject = f"$JS.API.{verb}.{self._subjects.log}"
            return said(await self._there().request_json(subject, json.dumps(question).encode(), timeout))
        except NobodyError:
            raise BridgeError(f"the broker at {self._servers} keeps no logs; start it with JetStream (-js)") from None

    async def _log_state(self, timeout: float) -> tuple[str, int] | None:
        """Return when the log was made, and its last position; None if there is none."""
        try:
            answer = await self._ask_api("STREAM.INFO", {}, timeout)
        except LogMissingError:
            return None
        return str(answer.get("created")), int(answer.get("state", {}).get("last_seq", 0))


def _check_credentials(path: Path) -> None:
    if not path.is_file():
        raise ArgumentError(f"there is no file of credentials {str(path)!r:.200}")
    if importlib.util.find_spec("nkeys") is None:
        raise ImportError("credentials= needs nkeys: python -m pip install 'nats-py[nkeys]'")
