"""What was worked out of a run, kept for as long as the run has no more: many viewers ask for the same, many times.

Grown: what was worked out last, of a run that had less, is kept, too, if there is room: whoever can goes on from there.
Threads: any.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple

__all__ = ("Memo", "Version")

MOST_BYTES = 2**21
"""Of one run: ten curves of 2,000 buckets."""


class Version(NamedTuple):
    """What there is of a run.

    Attributes:
        whole: another object if all of it was begun anew.
        rewinds: how often it was resumed.
        base: steps of its finest buckets.
        seq: up to this event, it is in buckets.
        fresh_seq: up to this event, it is known.
    """

    whole: object
    rewinds: int
    base: int
    seq: int
    fresh_seq: int

    def is_more_of(self, before: Version) -> bool:
        """Return whether nothing but more values has come since another one."""
        return before.whole is self.whole and (before.rewinds, before.base) == (self.rewinds, self.base)


class _Known(NamedTuple):
    """An answer."""

    turn: int
    version: object
    answer: Any
    size: int


class Memo:
    """Answers to questions about a run.

    Args:
        most: bytes that they may have; those go that were not asked for longest.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._size = self._turn = 0
        self._version: object = None
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, version: object, question: Hashable) -> Any:
        """Return the answer; None if it is not known.

        Args:
            version: of the run; what was known of another one is no answer any more.
            question: what is asked.
        """
        with self._lock:
            self._go_on(version)
            known = self._known.get(question)
            if known is None or known.turn != self._turn:
                return None
            self._known.move_to_end(question)
            return known.answer

    def before(self, version: Version, question: Hashable) -> Any:
        """Return the last answer there was, if nothing but more values has come since; else None."""
        with self._lock:
            known = self._known.get(question)
            was = None if known is None else known.version
            return known.answer if known and isinstance(was, Version) and version.is_more_of(was) else None

    def put(self, version: object, question: Hashable, answer: Any, size: int) -> None:
        """Keep an answer of some bytes."""
        with self._lock:
            self._go_on(version)
            before = self._known.pop(question, None)
            self._known[question] = _Known(self._turn, version, answer, size)
            self._size += size - (0 if before is None else before.size)
            while self._size > self._most:
                self._size -= self._known.popitem(last=False)[1].size

    def _go_on(self, version: object) -> None:
        if version == self._version:
            return
        before, self._version = self._version, version
        self._turn += 1
        if not (isinstance(version, Version) and isinstance(before, Version) and version.is_more_of(before)):
            self._size = 0
            self._known.clear()
