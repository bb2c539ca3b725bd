"""The parts of a run that are worth a look: where something is wrong, and where something was decided."""

from __future__ import annotations

from typing import NamedTuple

from asynchub.dashboard.screen import Screen

__all__ = ("Place", "alerts_of", "decisions_of")


class Place(NamedTuple):
    """A part of a run.

    Attributes:
        start: its first step.
        stop: its last step.
        text: what there is to see.
    """

    start: int
    stop: int
    text: str


def alerts_of(screen: Screen | None) -> list[Place]:
    """Return where something is wrong."""
    if screen is None:
        return []
    return [
        Place(line.start, line.start if line.stop is None else line.stop, line.text)
        for line in screen.alerts
        if line.start is not None
    ]


def decisions_of(screen: Screen | None) -> list[Place]:
    """Return where something was decided, the newest first, with what the rule saw."""
    places = []
    for mark in screen.marks if screen is not None else ():
        if mark.step is None:
            continue
        saw = ", ".join(f"{name} {text}" for name, text in mark.inputs.items())
        words = (mark.who, mark.what, mark.why, f"it saw {saw}" if saw else "")
        places.append(Place(mark.step, mark.step, " · ".join(word for word in words if word)))
    return places
