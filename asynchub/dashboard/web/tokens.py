"""Who may look, and who may steer: two secrets of 256 bits, and tickets of ten seconds made with them.

Secrets: each begins with the name of its role, so that people can tell them apart. They are made at start, or kept in
    a file that nobody else can read. Here only their digests stay, and a comparison takes the same time for any token.
Tickets: a WebSocket of a browser cannot carry a header; so it brings a ticket, which lets in once, within ten seconds.
Threads: any.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from asynchub.errors import ArgumentError

__all__ = ("Role", "Secrets", "Tokens", "kept_secrets", "new_secrets")

Role = Literal["view", "steer"]
"""What a token is good for: looking, or steering as well."""
TICKET_SECONDS = 10.0
MOST_TICKETS = 1024
"""Tickets that are held at once; the oldest goes."""
RANDOM_BYTES = 32
OTHERS = 0o077
"""Permissions of everybody but the owner."""


class Secrets(NamedTuple):
    """The two tokens.

    Attributes:
        view: for who looks.
        steer: for who steers as well.
    """

    view: str
    steer: str


def new_secrets() -> Secrets:
    """Return two new tokens."""
    return Secrets(*(f"{role}-{secrets.token_urlsafe(RANDOM_BYTES)}" for role in Secrets._fields))


def kept_secrets(path: Path) -> Secrets:
    """Return the tokens of a file, which is made if there is none; only its owner may read it.

    Raises:
        ArgumentError: others can read the file, or it does not hold two tokens.
        OSError: it cannot be read or made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileExistsError:
        return _read(path)
    made = new_secrets()
    with open(descriptor, "w", encoding="ascii") as file:
        file.write("".join(f"{token}\n" for token in made))
    return made


def _read(path: Path) -> Secrets:
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
        state = os.fstat(file.fileno())
        if os.name == "posix" and (state.st_mode & OTHERS or state.st_uid != os.geteuid()):
            raise ArgumentError(
                f"others can read or change the tokens in {path} (mode {stat.filemode(state.st_mode)}): delete the "
                "file, and it is made anew"
            )
        lines = file.read(4096).decode("ascii", "replace").split()
    roles = [line.partition("-")[0] for line in lines]
    if roles != list(Secrets._fields) or len(set(lines)) != 2 or any(len(line) < RANDOM_BYTES for line in lines):
        raise ArgumentError(f"{path} does not hold two tokens, view-... and steer-...: delete it, and it is made anew")
    return Secrets(*lines)


class Tokens:
    """Tells the role of who brings a token or a ticket.

    Args:
        known: the tokens.
        steering: whether there is something to steer; if not, the token for it is good for looking.
        clock: seconds that only go forward.
    """

    def __init__(self, known: Secrets, *, steering: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._roles: list[tuple[bytes, Role]] = [
            (_digest(known.view), "view"),
            (_digest(known.steer), "steer" if steering else "view"),
        ]
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets: OrderedDict[bytes, tuple[Role, float]] = OrderedDict()

    def role(self, token: str) -> Role | None:
        """Return what a token is good for; None if it is none."""
        digest, found = _digest(token), None
        for known, role in self._roles:  # all of them, so that the time says nothing
            if hmac.compare_digest(known, digest):
                found = role
        return found

    def new_ticket(self, role: Role) -> str:
        """Return a ticket, good once within ``TICKET_SECONDS``."""
        ticket = secrets.token_urlsafe(RANDOM_BYTES)
        with self._lock:
            self._tickets[_digest(ticket)] = role, self._clock() + TICKET_SECONDS
            while len(self._tickets) > MOST_TICKETS:
                self._tickets.popitem(last=False)
        return ticket

    def use(self, ticket: str) -> Role | None:
        """Take a ticket; return what it is good for, None if it is none, was used, or is too old."""
        with self._lock:  # it is found by its digest, of which nobody can choose a part
            role, until = self._tickets.pop(_digest(ticket), (None, 0.0))
        return role if self._clock() < until else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
