"""What was worked out of a run, kept for as long as the run has no more: many viewers ask for the same, many times.

Threads: any.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

__all__ = ("Memo",)

MOST_BYTES = 2**21
"""Of one run: ten curves of 2,000 buckets."""


class Memo:
    """Answers to questions about a run.

    Args:
        most: bytes that they may have; those go that were not asked for longest.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._size = 0
        self._version: object = None
        self._known: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, version: object, question: Hashable) -> Any:
        """Return the answer; None if it is not known.

        Args:
            version: of the run; whatever was known of another one is forgotten.
            question: what is asked.
        """
        with self._lock:
            self._go_on(version)
            if question not in self._known:
                return None
            self._known.move_to_end(question)
            return self._known[question][0]

    def put(self, version: object, question: Hashable, answer: Any, size: int) -> None:
        """Keep an answer of some bytes."""
        with self._lock:
            self._go_on(version)
            _, before = self._known.pop(question, (None, 0))
            self._known[question] = answer, size
            self._size += size - before
            while self._size > self._most:
                _, (_, freed) = self._known.popitem(last=False)
                self._size -= freed

    def _go_on(self, version: object) -> None:
        if version != self._version:
            self._version, self._size = version, 0
            self._known.clear()
