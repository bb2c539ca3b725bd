"""Requests through a broker: what is let in, and what becomes of it.

What is allowed, and that each is applied once, is as in ``asynchub.allowing``. A broker's permissions can go by the
subject; what is asked has to be of the kind that its subject says.
Audit: a request that is let in is an event of the hub's, as is what becomes of it; one that is not is a
    ``RequestRefused``.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable
from typing import Any

from asynchub.allowing import Allowed, Once, check_words, command_of, refusal
from asynchub.bridges.subjects import Subjects, decode_key
from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.codec.limits import Limits
from asynchub.errors import ArgumentError, CorruptStateError
from asynchub.eventforms import event_from_dict, event_to_dict
from asynchub.requests import Request, RequestRefused

__all__ = ("Commands", "decode_answer", "encode_request")

LIMITS = Limits(size=2**16, depth=8, nodes=1000, elements=1000)

KNOWN = ("reason", "author", "name", "value", "group", "seconds")
"""What of a request is taken over, beside its ``id``."""

logger = logging.getLogger("asynchub")


def encode_request(request: Request) -> bytes:
    """Return a request as bytes.

    Raises:
        UnsupportedTypeError: the value that it asks for cannot be sent.
    """
    return dumps(event_to_dict(request))


def decode_answer(data: bytes) -> str:
    """Return why a request was refused; empty if it was let in.

    Raises:
        StateError: it is no answer.
    """
    answer = loads(data, limits=LIMITS)
    if not isinstance(answer, dict) or type(answer.get("refused")) is not str:
        raise CorruptStateError(f"no answer to a request: {answer!r:.80}")
    refused: str = answer["refused"]
    return refused


class Commands:
    """Answers what is asked of a run.

    Args:
        subjects: of the run.
        allowed: what is let in.
        request: called with what was let in: asks it of the training loop, of all ranks if there are several.
        refused: called with what was not, as an event to be published.
    """

    def __init__(
        self,
        subjects: Subjects,
        allowed: Allowed,
        request: Callable[[Request], object],
        refused: Callable[[RequestRefused], object],
    ) -> None:
        self._prefix = subjects.command("")
        self._allowed = allowed
        self._request = request
        self._refused = refused
        self._once = Once()

    async def answer(self, subject: str, data: bytes) -> bytes:
        """Do what is asked, or not; return what to answer."""
        return dumps({"refused": self._decide(subject, data)})

    def _decide(self, subject: str, data: bytes) -> str:
        try:
            request = self._decoded(subject, data)
            asked = hashlib.sha256(encode_request(request)).digest()
        except Exception as error:  # no list of what foreign data can raise is ever complete
            return self._refuse(Request(), f"{type(error).__name__}: {error!s:.2000}")
        return self._once.answer(
            request.id, asked, lambda: self._applied(request), lambda why: self._refuse(request, why)
        )

    def _applied(self, request: Request) -> str:
        """Have a request applied; return why it is not, if it is not."""
        if why := self._allowed.why_not(request, "Bridge"):
            return self._refuse(request, why)
        try:
            self._request(request)
        except Exception as error:  # whatever the program's own code raises
            return self._refuse(request, f"{type(error).__name__}: {error!s:.2000}")
        return ""

    def _decoded(self, subject: str, data: bytes) -> Request:
        fields: Any = loads(data, limits=LIMITS)
        request = event_from_dict(fields) if isinstance(fields, dict) else None
        if not isinstance(request, Request):
            raise CorruptStateError(f"what is asked is no request: {fields!r:.80}")
        check_words(request)
        word, _, rest = subject.removeprefix(self._prefix).partition(".")
        if command_of(request) != (word, decode_key(rest) if rest else None):
            raise ArgumentError(f"{type(request).__name__} does not belong to the subject {subject!r:.120}")
        # key and step are not for others to choose: by the key rules and loggers select, the step is the run's own
        known = {name: getattr(request, name) for name in KNOWN if hasattr(request, name)}
        return type(request)(**{**known, "id": request.id or uuid.uuid4().hex})

    def _refuse(self, request: Request, why: str) -> str:
        kind = type(request).__name__
        logger.warning("%s from afar was refused: %s", kind, why)
        self._refused(refusal(request, why))
        return why
