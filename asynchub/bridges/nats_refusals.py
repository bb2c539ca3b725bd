"""What a NATS server refuses, as it says it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asynchub.bridges.failures import AccessRefusedError

__all__ = ("Refusable", "is_unknown")

_REFUSED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
_UNKNOWN = re.compile(r"authorization violation|authentication (expired|revoked)")


def is_unknown(text: str) -> bool:
    """Tell whether a server says that it does not know the user, or not any more."""
    return _UNKNOWN.search(text.lower()) is not None


class Refusable:
    """What waits for a server on one connection, and fails when it refuses that.

    The server says it about a subject, not about a message.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], list[asyncio.Future[Any]]] = {}

    @contextmanager
    def failing(self, verb: str, subject: str, future: asyncio.Future[Any]) -> Iterator[None]:
        """Fail a future when a publish or a subscription is refused, up to the end of the scope."""
        what = (verb, subject.lower())
        self._waiting.setdefault(what, []).append(future)
        try:
            yield
        finally:
            self._waiting[what].remove(future)
            if not self._waiting[what]:
                del self._waiting[what]

    def told(self, text: str) -> AccessRefusedError | None:
        """Take what a server says; return the refusal, if it is one."""
        refused = _REFUSED.search(text.lower())  # nats-py gives it in small letters
        if refused is None:
            return None
        verb = "publish" if refused[1] == "publish" else "listen to"
        refusal = AccessRefusedError(f"the broker does not allow this user to {verb} {refused[2]!r:.200}")
        for future in self._waiting.get((refused[1], refused[2]), ()):
            if not future.done():
                future.set_exception(refusal)
        return refusal
