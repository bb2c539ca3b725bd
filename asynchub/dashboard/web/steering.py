"""What may be asked of a run through the server, and what is asked.

Twice allowed: a request has to be allowed here, when the server is started, and by the run. Of what is not, the page is
not offered anything, and a request that comes all the same is refused.
Plain: what is asked is a word, and of a parameter its name and a value: nothing that a run would execute or open.
"""

from __future__ import annotations

import getpass
import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from asynchub.allowing import COMMANDS
from asynchub.dashboard.asking import allowed_by
from asynchub.dashboard.screen import Screen, Steerable
from asynchub.dashboard.web.tokens import Role
from asynchub.errors import ArgumentError
from asynchub.requests import ParameterChangeRequested, Request

__all__ = ("Steering", "request_of")

LONGEST = 1000
"""Letters that a text of a request may have."""
FIELDS = ("run", "word", "name", "value", "reason", "id")


class Steering:
    """What the server lets be asked.

    Attributes:
        rules: words, and names of parameters after ``set/``; empty if nothing may be asked.

    Args:
        words: of ``--allow``: ``"stop"``, ``"checkpoint"``, ``"pause"``, ``"lr"``, ``"set/NAME"``, …

    Raises:
        ArgumentError: a word is none.
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._allowed = allowed_by(words)
        self.rules = self._allowed.rules
        self.author = f"{_user()}, from the page"

    def check(self, request: Request) -> None:
        """Return if a request is allowed.

        Raises:
            ArgumentError: it is not.
        """
        if not self._allowed.allows(request):
            raise ArgumentError(
                f"this server does not allow that; it allows {', '.join(self.rules) or 'nothing'} (asynchub serve "
                "--allow)"
            )

    def everything(self) -> tuple[Steerable, ...]:
        """Return all that may be asked of a run that does not say what it offers."""
        parts = [rule.partition("/") for rule in self.rules]
        return tuple(Steerable(word, name) for word, _, name in parts if "*" not in name)

    def offered(self, screen: Screen, role: Role) -> Screen:
        """Return what a viewer sees of a run: of what can be asked for, only what he may ask."""
        if not self.rules:
            return replace(screen, steerable=(), steering=NOT_ALLOWED)
        if role != "steer":
            return replace(screen, steerable=(), steering=NOT_THE_TOKEN)
        kept = tuple(one for one in screen.steerable if self._offers(one))
        if len(kept) == len(screen.steerable):
            return screen
        left_out = f"this server allows {', '.join(self.rules)} only (asynchub serve --allow)"
        return replace(screen, steerable=kept, steering="; ".join(filter(None, (screen.steering, left_out))))

    def _offers(self, one: Steerable) -> bool:
        kind = COMMANDS.get(one.word)
        if kind is None:
            return False
        return self._allowed.allows(
            ParameterChangeRequested(name=one.name, value=0.0) if kind is ParameterChangeRequested else kind()
        )


NOT_ALLOWED = "this server only shows: start it with --allow stop,lr,checkpoint to steer"
NOT_THE_TOKEN = "this address is for looking: open the one for steering, which the server printed when it started"


def request_of(fields: Mapping[str, Any], author: str) -> tuple[str, Request]:
    """Return the row id of a run, and what is asked of it.

    Raises:
        ArgumentError: a field is missing, unknown, of a wrong type or too long.
    """
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise ArgumentError(f"a request has {', '.join(FIELDS)}, got {unknown[0]!r:.80}")
    texts = {name: fields.get(name) or "" for name in FIELDS if name != "value"}
    for name, text in texts.items():
        if not isinstance(text, str) or len(text) > LONGEST:
            raise ArgumentError(f"{name} of a request must be text of at most {LONGEST} letters, got {text!r:.80}")
    word, value = texts["word"], fields.get("value")
    kind = COMMANDS.get(word)
    if kind is None:
        raise ArgumentError(f"one can ask {', '.join(COMMANDS)}, got {word!r:.80}")
    common: dict[str, Any] = {"reason": texts["reason"], "author": author, "id": texts["id"] or uuid.uuid4().hex}
    if kind is not ParameterChangeRequested:
        if texts["name"] or value is not None:
            raise ArgumentError(f"{word} takes no name and no value, got {texts['name']!r:.80} and {value!r:.80}")
        return texts["run"], kind(**common)
    if not texts["name"]:
        raise ArgumentError("set takes the name of a parameter")
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]  # it is a number here
        raise ArgumentError(f"set takes a finite number, got {value!r:.80}")
    return texts["run"], ParameterChangeRequested(name=texts["name"], value=value, **common)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without such a user
        return "somebody"
