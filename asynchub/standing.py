"""What an attached subscriber knows: its state, the terms on which it reads on, and whether it is done."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from asynchub.every import Every
from asynchub.loops import Latch
from asynchub.runner import Attachment
from asynchub.state import copied
from asynchub.terms import Terms

__all__ = ("as_saved", "from_seq", "handled", "is_stateful", "state_of")


def state_of(attachment: Attachment, terms: Terms | None) -> dict[str, Any]:
    """Return the state of a stateful subscriber at rest as it is saved: a copy, its ``seq``, and its rate."""
    subscriber: Any = attachment.subscriber
    state = copied({attachment.name: subscriber.state_dict()})[attachment.name]
    saved = {"state": state, "seq": attachment.subscription.last_seq}
    if terms is not None and isinstance(terms.every, Every):
        saved["every"] = terms.every.state_dict()
    return saved


def is_stateful(subscriber: object) -> bool:
    """Tell whether a subscriber has a state that can be saved and loaded."""
    return callable(getattr(subscriber, "state_dict", None)) and callable(getattr(subscriber, "load_state_dict", None))


def as_saved(terms: Terms, saved: dict[str, Any]) -> Terms:
    """Return ``terms`` with a rate that goes on from where the saved one was."""
    if not isinstance(terms.every, Every) or "every" not in saved:
        return terms
    every = Every(terms.every.every)
    every.load_state_dict(saved["every"])
    return replace(terms, every=every)


def from_seq(terms: Terms, seq: int) -> Terms:
    """Return ``terms`` for who has read everything up to ``seq``."""
    return replace(terms, replay="none", since=seq)


def handled(attachments: Iterable[Attachment]) -> Latch:
    """Return a latch that is set when each of ``attachments`` has handled all that was published so far."""
    waiting = list(attachments)
    latch = Latch()
    left = [len(waiting)]
    lock = threading.Lock()

    def done() -> None:
        with lock:
            left[0] -= 1
            if left[0]:
                return
        latch.set()

    if not waiting:
        latch.set()
    for attachment in waiting:
        attachment.subscription.when_handled(attachment.subscription.end_position(), done)
    return latch
