"""What a key that steers asks of a run, and the request that follows once somebody has confirmed it."""

from __future__ import annotations

import getpass
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from asynchub.allowing import COMMANDS, Allowed
from asynchub.dashboard.asking import ask
from asynchub.dashboard.screen import Asked, Screen, Steerable
from asynchub.dashboard.terminal.dialogs import Answer
from asynchub.dashboard.terminal.keys import may
from asynchub.errors import ArgumentError
from asynchub.requests import ParameterChangeRequested, Request

__all__ = ("Question", "confirmation", "send")


class Question(NamedTuple):
    """What is asked back.

    Attributes:
        word: what is to be asked of the run; see ``Steerable``.
        title: the question.
        facts: what there is to know before.
        names: of the parameters that can be set; empty if it is none.
        value: the present one, of the first; None if it is no parameter.
        check: returns what is wrong with an answer, in words, or "".
    """

    word: str
    title: str
    facts: tuple[str, ...]
    names: tuple[str, ...] = ()
    value: str | None = None
    check: Callable[[Answer], str] | None = None


def confirmation(letter: str, screen: Screen, allowed: Allowed) -> Question:
    """Return what is asked back before a run is steered.

    Args:
        letter: the key, one that ``asynchub.dashboard.terminal.keys.offered`` has.
        screen: of the run.
        allowed: what may be asked from here.

    Raises:
        ArgumentError: the run does not offer it any more.
    """
    offers = [one for one in screen.steerable if may(letter, one, allowed)]
    if not offers:
        raise ArgumentError("the run does not offer that any more")
    name, first = screen.row.name, offers[0]
    if first.word == "set":
        title = f"Set the learning rate of {name}?" if letter == "R" else f"Set a parameter of {name}?"
        value = "" if first.value is None else repr(first.value)
        return Question(
            "set", title, tuple(map(_bounds, offers[:8])), tuple(one.name for one in offers), value, _checked
        )
    titles = {
        "stop": f"Stop {name}?",
        "checkpoint": f"Let {name} write a checkpoint?",
        "pause": f"Pause {name}?",
        "resume": f"Let {name} go on?",
    }
    facts = [" · ".join([screen.status.word, *(line.text for line in screen.status.lines[:1])])]
    return Question(first.word, titles[first.word], (*facts, *([first.note] if first.note else ())))


def _bounds(one: Steerable) -> str:
    parts = [one.name if one.value is None else f"{one.name} is {one.value:g}"]
    if one.low is not None or one.high is not None:
        low, high = ("anything" if bound is None else f"{bound:g}" for bound in (one.low, one.high))
        parts.append(f"from {low} to {high}")
    return ", ".join(parts) + (f": {one.note}" if one.note else "")


def _checked(answer: Answer) -> str:
    try:
        value = float(answer.value)
    except ValueError:
        return f"wanted a number, got {answer.value!r:.40}"
    return "" if math.isfinite(value) else "wanted a finite number"


def send(word: str, folder: Path, answer: Answer) -> Asked:
    """Ask a run for something, as the person at this terminal.

    Raises:
        ControlError: the run does not take it.
        OSError: it cannot be written down.
    """
    request: Request
    if word == "set":
        request = ParameterChangeRequested(name=answer.name, value=float(answer.value), reason=answer.reason)
    else:
        request = COMMANDS[word](reason=answer.reason)
    return ask(folder, request, author=_author())


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # there is no such user
        return "terminal"
