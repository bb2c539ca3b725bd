"""What the rules of a run say, check by check: which they are, what they watch, and how near they are to acting.

Kinds: a rule says in its events what it decides, not what it is. That follows from the verdicts that it has had, from
    the state that the newest ``Marked`` has of it, and at last from its name.
Threads: one at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from asynchub.dashboard.marks import CALM, LIMITS
from asynchub.requests import Decided

__all__ = ("RuleKind", "Ruling", "Rulings", "kind_in_state")

RuleKind = Literal["stopping", "plateau", "guard", "spike", "timer", "limit", "other"]
MOST = 1_000
"""Rules that are kept."""
OF_PLATEAU = frozenset({"reduced", "at_bound", "cooldown"})
OF_GUARD = frozenset({"tolerated", "recovered", "skip", "call", "rollback", "clip"})
BY_CHECKS = frozenset({"improved", "waiting", "stop", *OF_PLATEAU})


@dataclass(slots=True)
class Ruling:
    """What one rule has said.

    Attributes:
        author: its name.
        newest: its newest decision.
        monitors: the scalars that it looked at.
        verdicts: those that it has had.
        acted: its newest decision that was more than to wait; None if there is none.
        mode: which values are better to it; "" while that is not known.
        steps: those of its newest checks.
        limits: by verdict, those that it has said, and the seconds of training until then.
    """

    author: str
    newest: Decided
    monitors: dict[str, None] = field(default_factory=dict)
    verdicts: set[str] = field(default_factory=set)
    acted: Decided | None = None
    mode: Literal["min", "max", ""] = ""
    steps: deque[int] = field(default_factory=lambda: deque(maxlen=8))
    limits: dict[str, tuple[Decided, float]] = field(default_factory=dict)

    def take(self, event: Decided, trained: float) -> None:
        """Take account of one more decision.

        Args:
            event: it.
            trained: seconds of training until then.
        """
        if event.verdict in LIMITS and event.best is not None:
            if any(other.step != event.step for other, _ in self.limits.values()):
                self.limits.clear()  # those that it says at once are all that it has
            self.limits[event.verdict] = (event, trained)
            return
        self.newest = event
        if event.monitor and len(self.monitors) < MOST:
            self.monitors[event.monitor] = None
        if len(self.verdicts) < MOST:
            self.verdicts.add(event.verdict)
        if event.verdict not in CALM:
            self.acted = event
        if event.step is not None:
            self.steps.append(event.step)
        value, best = event.value, event.best
        if value is not None and best is not None and value != best:
            if event.verdict == "improved":
                self.mode = "min" if value < best else "max"
            elif event.verdict in ("waiting", "cooldown") and not self.mode:
                self.mode = "min" if value > best else "max"

    @property
    def interval(self) -> float | None:
        """Steps from one check to the next, in the mean; None if that is not known."""
        if len(self.steps) < 2 or self.steps[-1] <= self.steps[0]:
            return None
        return (self.steps[-1] - self.steps[0]) / (len(self.steps) - 1)

    def kind(self, states: Mapping[str, Any]) -> RuleKind:
        """Return what it is.

        Args:
            states: of control subscribers, as ``Marked`` has them.
        """
        if (known := kind_in_state(states.get(self.author))) != "other":
            return known
        if self.limits:
            return "limit"
        name = self.author.lower()
        if self.verdicts & OF_PLATEAU:
            return "plateau"
        if self.verdicts & OF_GUARD:
            return "guard"
        if self.newest.patience is None or not self.verdicts <= BY_CHECKS:
            return "other"
        return "plateau" if any(word in name for word in ("plateau", "lr", "reduce")) else "stopping"


class Rulings:
    """The rules of a run, by name."""

    def __init__(self) -> None:
        self.known: dict[str, Ruling] = {}

    def take(self, event: Decided, trained: float) -> None:
        """Take account of one decision; ``trained`` as of ``Ruling``."""
        ruling = self.known.get(event.author)
        if ruling is None:
            if len(self.known) >= MOST:
                return
            ruling = self.known[event.author] = Ruling(event.author, event)
        ruling.take(event, trained)


def kind_in_state(saved: object) -> RuleKind:
    """Return what a control subscriber is, by the names in its saved state."""
    state = saved.get("state") if isinstance(saved, Mapping) else None
    if not isinstance(state, Mapping):
        return "other"
    names = set(state)
    if "bad_checks" in names:
        return "plateau"
    if {"best", "wait", "reason"} <= names:
        return "stopping"
    if {"streaks", "counts"} <= names:
        return "guard"
    if {"window", "spiking"} <= names:
        return "spike"
    if {"elapsed", "last"} <= names <= {"elapsed", "last", "paused", "said"}:
        return "timer"
    return "limit" if "epochs" in names and names <= {"epochs", "said"} else "other"
