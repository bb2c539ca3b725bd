"""Control as events: what is asked of the training loop, what became of that, and what rules decide.

A request is applied by the loop's own thread at its next safe point, by what ``MessageHub.on_request`` was given for
its kind; it ends in a ``RequestApplied`` or a ``RequestRefused``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asynchub.events import Event

__all__ = (
    "CheckpointRequested",
    "Decided",
    "ParameterChangeRequested",
    "ParameterChanged",
    "PauseEnded",
    "PauseRequested",
    "Paused",
    "Request",
    "RequestApplied",
    "RequestRefused",
    "ResumeRequested",
    "RollbackRequested",
    "SkipRequested",
    "StopRequested",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Event):
    """Something asked of the training loop, applied by its own thread at its next safe point.

    Attributes:
        reason: why, for people.
        author: who asked.
        id: identity, given by whoever asks from elsewhere; a request is applied once for each. Empty if it needs none.
        incarnation: identity of the start of the run that it was asked of, if it counts for no other; else empty.
    """

    key: str = "hub/request"
    reason: str = ""
    author: str = ""
    id: str = ""
    incarnation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested(Request):
    """End training."""

    key: str = "hub/stop_requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipRequested(Request):
    """Skip the update of this step."""

    key: str = "hub/skip_requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRequested(Request):
    """Write a checkpoint."""

    key: str = "hub/checkpoint_requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequested(Request):
    """Go back to the newest checkpoint, and on from there."""

    key: str = "hub/rollback_requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequested(Request):
    """Wait at the next safe point, until somebody asks to go on or to stop.

    Attributes:
        seconds: how long at most.
    """

    key: str = "hub/pause_requested"
    seconds: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested(Request):
    """Go on after a pause."""

    key: str = "hub/resume_requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterChangeRequested(Request):
    """Change a parameter.

    Attributes:
        name: the parameter, e.g. ``"lr"``.
        value: its new value.
        group: index of the parameter group; None for all of them.
    """

    key: str = "hub/parameter_change_requested"
    name: str
    value: Any
    group: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestApplied(Event):
    """A request took effect; ``step`` is the step at which it did.

    Attributes:
        request: the kind of the request, e.g. ``"StopRequested"``.
        request_seq: its ``seq``.
        reason: its reason.
        author: its author.
        id: its identity.
    """

    key: str = "hub/request_applied"
    request: str
    request_seq: int
    reason: str = ""
    author: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused(Event):
    """A request did not take effect; ``error`` says why. The other fields are those of ``RequestApplied``."""

    key: str = "hub/request_refused"
    request: str
    request_seq: int
    error: str
    reason: str = ""
    author: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """The training loop waits at a safe point from here on, because that was asked for.

    Attributes:
        seconds: how long at most.
        reason: why, for people.
        author: who asked.
    """

    key: str = "hub/paused"
    seconds: float
    reason: str = ""
    author: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseEnded(Event):
    """The training loop goes on after a pause.

    Attributes:
        seconds: how long it lasted.
        reason: why it ended, for people.
        author: who asked for that; empty if nobody did.
    """

    key: str = "hub/pause_ended"
    seconds: float
    reason: str = ""
    author: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterChanged(Event):
    """A parameter was changed: by a control subscriber, or because somebody asked for it.

    Attributes:
        name: the parameter, e.g. ``"lr"``.
        group: index of the parameter group.
        old: its value before.
        new: its value now.
        reason: why, for people.
        author: the name of the subscriber, or who asked.
    """

    key: str = "hub/parameter_changed"
    name: str
    group: int
    old: float
    new: float
    reason: str = ""
    author: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided(Event):
    """A rule looked at a value and came to a decision; what follows from it is an event of its own.

    Attributes:
        author: the name of the subscriber.
        verdict: the decision in a word, e.g. ``"improved"``, ``"waiting"``, ``"stop"``; each rule says which it has.
        reason: why, for people.
        monitor: key of the scalar it looked at; empty if it was none.
        value: the value it looked at, smoothed if it smooths; None if it was none.
        best: the value it was compared with; None if there was none.
        wait: checks since the last improvement.
        patience: how many of them the rule allows; None if it does not go by that.
    """

    key: str = "hub/decided"
    author: str
    verdict: str
    reason: str = ""
    monitor: str = ""
    value: float | None = None
    best: float | None = None
    wait: int = 0
    patience: int | None = None
