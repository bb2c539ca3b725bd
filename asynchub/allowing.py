"""What a run lets be asked from elsewhere, and what is the same whichever way a request comes.

Deny by default: a request is applied only if the run allows its kind, and of a parameter its name.
Once: a request is known by its ``id``, and let in once for each; who asks again gets the answer of the first time, and
    who asks for something else with the same ``id`` is refused.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from asynchub.channels import Selection
from asynchub.errors import ArgumentError
from asynchub.events import Event
from asynchub.requests import (
    CheckpointRequested,
    ParameterChangeRequested,
    PauseRequested,
    Request,
    RequestRefused,
    ResumeRequested,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)

__all__ = (
    "COMMANDS",
    "LONGEST",
    "Allowed",
    "Once",
    "ask_of_all",
    "check_words",
    "command_of",
    "in_words",
    "refusal",
    "shortened",
)

COMMANDS: dict[str, type[Request]] = {
    "stop": StopRequested,
    "checkpoint": CheckpointRequested,
    "pause": PauseRequested,
    "resume": ResumeRequested,
    "skip": SkipRequested,
    "rollback": RollbackRequested,
    "set": ParameterChangeRequested,
}
"""What can be asked from elsewhere, by the word for it."""
LONGEST = 1000
"""Letters that a word of a request may have."""
SHORT = 80
"""Letters of a value in a text."""


class Allowed:
    """What a run lets be asked from elsewhere.

    Args:
        rules: words of ``COMMANDS``; of ``set`` with a pattern for the name of the parameter: ``"set/lr"``,
            ``"set/data/*"``, ``"set/**"``. Who may ask for a pause may end it.

    Raises:
        ArgumentError: a rule is none.

    Attributes:
        rules: as given.
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
        if "pause" in self._words:
            self._words.add("resume")
        self._test = Selection.of(tuple(patterns)).test() if patterns else None

    @property
    def words(self) -> frozenset[str]:
        """The words that are allowed, but for ``set``."""
        return frozenset(self._words)

    def allows(self, request: Request) -> bool:
        """Tell whether a request is let in."""
        if isinstance(request, ParameterChangeRequested):
            return self.allows_name(request.name)
        return command_of(request)[0] in self._words

    def allows_name(self, name: str) -> bool:
        """Tell whether a parameter may be set."""
        return self._test is not None and self._test(name, Event)

    def why_not(self, request: Request, whose: str) -> str:
        """Return why a request is not let in; empty if it is.

        Args:
            request: it.
            whose: where the rules were given, e.g. ``"Bridge"``.
        """
        if self.allows(request):
            return ""
        word, name = command_of(request)
        rule = word if name is None else f"{word}/{name}"
        allowed = ", ".join(self.rules) or "nothing"
        return f"the run does not allow {rule}; it allows {allowed} (allow= of its {whose})"


class Once:
    """Answers to what was asked, by its ``id``, so that each is decided once.

    Args:
        remembered: answers that are kept, the newest.
    """

    def __init__(self, remembered: int = 4096) -> None:
        self._remembered = remembered
        self._answers: OrderedDict[str, tuple[bytes, str]] = OrderedDict()

    def answer(self, request_id: str, asked: bytes, decide: Callable[[], str], other: Callable[[str], str]) -> str:
        """Return what ``decide`` does: why a request is refused, or empty; the same as before if it was asked before.

        Args:
            request_id: its identity.
            asked: what is asked, or a digest of it.
            decide: decides.
            other: called with why it is refused, if something else was asked with this ``id``; what it returns is.
        """
        if request_id in self._answers:
            before, why = self._answers[request_id]
            return why if asked == before else other("its id was that of another request")
        why = decide()
        self._answers[request_id] = (asked, why)
        while len(self._answers) > self._remembered:
            self._answers.popitem(last=False)
        return why


def command_of(request: Request) -> tuple[str, str | None]:
    """Return the word for a request, and of a parameter its name.

    Raises:
        ArgumentError: it is of a kind that cannot be asked from elsewhere.
    """
    for word, kind in COMMANDS.items():
        if type(request) is kind:
            return word, getattr(request, "name", None)
    raise ArgumentError(
        f"from afar one can ask {', '.join(kind.__name__ for kind in COMMANDS.values())}, got {type(request).__name__}"
    )


def in_words(request: Request) -> str:
    """Return what a request asks for, in words: ``"stop"``, ``"lr = 0.01"``."""
    if isinstance(request, ParameterChangeRequested):
        group = "" if request.group is None else f"[{shortened(request.group)}]"
        return f"{request.name}{group} = {shortened(request.value, str)}"
    if isinstance(request, PauseRequested):
        return f"pause for {_lasting(request.seconds)} at most"
    return next((word for word, kind in COMMANDS.items() if isinstance(request, kind)), type(request).__name__)


def shortened(value: object, write: Callable[[object], str] = repr) -> str:
    """Return a value of a request as text, of at most ``SHORT`` letters, whatever it is.

    Args:
        value: it.
        write: returns it as text.
    """
    try:
        return write(value)[:SHORT]
    except ValueError:  # an int of more digits than Python writes
        return "a huge integer"


def _lasting(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or not 0 < seconds < 1e9:  # it will be refused
        return f"{shortened(seconds, str)} s"
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and not seconds % size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def check_words(request: Request) -> None:
    """Check what of a foreign request is text, and which group of a parameter it names.

    Raises:
        ArgumentError: something is no text, too long, or cannot be written down; or the group is no int.
    """
    for name in ("id", "author", "reason", *(("name",) if isinstance(request, ParameterChangeRequested) else ())):
        word = getattr(request, name)
        if type(word) is not str or len(word) > LONGEST:
            raise ArgumentError(f"{name} of a request is at most {LONGEST} letters, got {shortened(word)}")
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise ArgumentError(f"{name} of a request has letters that there are not: {word!a:.80}") from error
    if isinstance(request, ParameterChangeRequested) and not (request.group is None or type(request.group) is int):
        raise ArgumentError(f"group of a request is an int or None, got {shortened(request.group)}")


def ask_of_all(
    request: Request,
    ask: Callable[[Request], object],
    agree: Callable[[Request], object] | None,
    world: int,
    whose: str,
) -> None:
    """Ask a request that was let in of the training loop, of all ranks if there are several.

    Args:
        request: it.
        ask: asks it of the only rank.
        agree: has all ranks apply it at the same step; None if nothing does.
        world: how many ranks there are.
        whose: where ``agree`` was to be given, e.g. ``"Bridge"``.

    Raises:
        ArgumentError: there are several ranks, and nothing has them agree.
    """
    if agree is not None:
        agree(request)
    elif world == 1:
        ask(request)
    else:
        raise ArgumentError(
            f"this run has {world} ranks, which have to apply it at the same step: give its {whose} "
            "agree=reducer.request"
        )


def refusal(request: Request, why: str) -> RequestRefused:
    """Return the event that says that a request was not let in: of a parameter its error says which."""
    if isinstance(request, ParameterChangeRequested) and not re.search(rf"(?<!\w){re.escape(request.name)}(?!\w)", why):
        why = f"{why} ({in_words(request)})"
    return RequestRefused(
        request=type(request).__name__,
        request_seq=-1,
        error=why,
        reason=request.reason,
        author=request.author,
        id=request.id,
    )
