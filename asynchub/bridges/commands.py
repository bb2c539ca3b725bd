"""Requests from afar: what is let in, and what becomes of it.

Deny by default: a request is applied only if the run allows its kind, and of a parameter its name. A broker's
permissions can go by the subject; what is asked has to be of the kind that its subject says.
Once: a request is known by its ``id``, and applied once for each; who asks again gets the answer of the first time, and
who asks for something else with the same ``id`` is refused.
Audit: a request that is let in is an event of the hub's, as is what becomes of it; one that is not is a
    ``RequestRefused``.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from asynchub.bridges.subjects import Subjects, decode_key
from asynchub.channels import Selection
from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.codec.limits import Limits
from asynchub.errors import ArgumentError, CorruptStateError
from asynchub.eventforms import event_from_dict, event_to_dict
from asynchub.events import Event
from asynchub.requests import (
    CheckpointRequested,
    ParameterChangeRequested,
    Request,
    RequestRefused,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)

__all__ = ("COMMANDS", "Allowed", "Commands", "command_of", "decode_answer", "encode_request")

COMMANDS: dict[str, type[Request]] = {
    "stop": StopRequested,
    "checkpoint": CheckpointRequested,
    "skip": SkipRequested,
    "rollback": RollbackRequested,
    "set": ParameterChangeRequested,
}
"""What can be asked from afar, by the word for it."""
REMEMBERED = 4096
"""Answers that are kept."""
LIMITS = Limits(size=2**16, depth=8, nodes=1000, elements=1000)
LONGEST = 1000
"""Letters that a word of a request may have."""

KNOWN = ("reason", "author", "name", "value", "group")
"""What of a request is taken over, beside its ``id``."""

logger = logging.getLogger("asynchub")


class Allowed:
    """What a run lets be asked from afar.

    Args:
        rules: words of ``COMMANDS``; of ``set`` with a pattern for the name of the parameter: ``"set/lr"``,
            ``"set/data/*"``, ``"set/**"``.

    Raises:
        ArgumentError: a rule is none.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        if isinstance(rules, str):
            raise ArgumentError(f"allow takes several rules, such as ('stop', 'set/lr'), got the string {rules!r:.80}")
        self.rules = tuple(rules)
        self._words: set[str] = set()
        patterns: list[str] = []
        for rule in self.rules:
            word, _, pattern = str(rule).partition("/")
            if not isinstance(rule, str) or word not in COMMANDS or bool(pattern) != (word == "set"):
                raise ArgumentError(
                    f"allow takes {', '.join(sorted(set(COMMANDS) - {'set'}))} and set/PATTERN, got {rule!r:.80}"
                )
            if pattern:
                patterns.append(pattern)
            else:
                self._words.add(word)
        self._test = Selection.of(tuple(patterns)).test() if patterns else None

    def allows(self, request: Request) -> bool:
        """Tell whether a request is let in."""
        if isinstance(request, ParameterChangeRequested):
            return self._test is not None and self._test(request.name, Event)
        return command_of(request)[0] in self._words


def command_of(request: Request) -> tuple[str, str | None]:
    """Return the word for a request, and of a parameter its name.

    Raises:
        ArgumentError: it is of a kind that cannot be asked from afar.
    """
    for word, kind in COMMANDS.items():
        if type(request) is kind:
            return word, getattr(request, "name", None)
    raise ArgumentError(
        f"from afar one can ask {', '.join(kind.__name__ for kind in COMMANDS.values())}, got {type(request).__name__}"
    )


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
        self._answers: OrderedDict[str, tuple[bytes, str]] = OrderedDict()

    async def answer(self, subject: str, data: bytes) -> bytes:
        """Do what is asked, or not; return what to answer."""
        return dumps({"refused": self._decide(subject, data)})

    def _decide(self, subject: str, data: bytes) -> str:
        try:
            request = self._decoded(subject, data)
            asked = hashlib.sha256(encode_request(request)).digest()
        except Exception as error:  # no list of what foreign data can raise is ever complete
            return self._refuse(Request(), f"{type(error).__name__}: {error!s:.2000}")
        if request.id in self._answers:
            before, why = self._answers[request.id]
            return why if asked == before else self._refuse(request, "its id was that of another request")
        why = self._applied(request)
        self._answers[request.id] = (asked, why)
        while len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        return why

    def _applied(self, request: Request) -> str:
        """Have a request applied; return why it is not, if it is not."""
        if not self._allowed.allows(request):
            word, name = command_of(request)
            rule = word if name is None else f"{word}/{name}"
            allowed = ", ".join(self._allowed.rules) or "nothing"
            return self._refuse(request, f"the run does not allow {rule}; it allows {allowed} (allow= of its Bridge)")
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
        for name in ("id", "author", "reason"):
            word = getattr(request, name)
            if type(word) is not str or len(word) > LONGEST:
                raise CorruptStateError(f"{name} of a request is at most {LONGEST} letters, got {word!r:.80}")
        if isinstance(request, ParameterChangeRequested) and not (request.group is None or type(request.group) is int):
            raise CorruptStateError(f"group of a request is an int or None, got {request.group!r:.80}")
        word, _, rest = subject.removeprefix(self._prefix).partition(".")
        if command_of(request) != (word, decode_key(rest) if rest else None):
            raise ArgumentError(f"{type(request).__name__} does not belong to the subject {subject!r:.120}")
        # key and step are not for others to choose: by the key rules and loggers select, the step is the run's own
        known = {name: getattr(request, name) for name in KNOWN if hasattr(request, name)}
        return type(request)(**{**known, "id": request.id or uuid.uuid4().hex})

    def _refuse(self, request: Request, why: str) -> str:
        kind = type(request).__name__
        logger.warning("%s from afar was refused: %s", kind, why)
        self._refused(
            RequestRefused(
                request=kind, request_seq=-1, error=why, reason=request.reason, author=request.author, id=request.id
            )
        )
        return why
