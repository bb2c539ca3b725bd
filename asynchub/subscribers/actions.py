"""What a guard does when its rule is broken: ask something of the training loop, or call a function.

A decision is published before what follows from it; both have the step of the value that it is about.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

from asynchub.answering import Answering
from asynchub.errors import ArgumentError
from asynchub.events import Event, ScalarUpdated
from asynchub.requests import Decided, Request, RollbackRequested, SkipRequested, StopRequested

__all__ = ("Action", "act", "at_step", "check_action", "verdict_of")

Action = Literal["skip", "rollback", "stop"] | Callable[[ScalarUpdated], object]
"""What to ask of the loop, or what to call with the event, in the thread of the training loop."""

_REQUESTS: dict[str, type[Request]] = {"skip": SkipRequested, "rollback": RollbackRequested, "stop": StopRequested}


def check_action(action: Any, names: tuple[str, ...]) -> None:
    """Check that ``action`` is one of ``names``, or a function that is not async.

    Raises:
        ArgumentError: it is neither.
    """
    listed = " or ".join(repr(name) for name in names)
    if callable(action) and any(map(inspect.iscoroutinefunction, (action, type(action).__call__))):
        raise ArgumentError(f"action must be {listed} or a plain function, got the async {action!r:.80}")
    if not callable(action) and not (isinstance(action, str) and action in names):
        raise ArgumentError(f"action must be {listed} or a function of the event, got {action!r:.80}")


def verdict_of(action: Action) -> str:
    """Return the decision for ``action`` in a word: its name, or ``"call"`` for a function."""
    return action if isinstance(action, str) else "call"


def at_step(event: Event) -> str:
    """Return the step of ``event`` in words, with a blank before; empty if it has none."""
    return "" if event.step is None else f" at step {event.step}"


def act(action: Action, event: ScalarUpdated, events: Answering, decided: Decided) -> Request | None:
    """Publish ``decided``, then do what follows; return the request that was made, if any.

    Raises:
        Exception: whatever the function raised.
    """
    events.publish(decided)
    if isinstance(action, str):
        return events.request(_REQUESTS[action](reason=decided.reason, step=event.step))
    action(event)
    return None
