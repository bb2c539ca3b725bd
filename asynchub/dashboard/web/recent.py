"""Results that may be asked for again, and that go when others need the room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

__all__ = ("Recent",)


class Recent:
    """Results by question, each for one version of what it was made of; those used last stay.

    Args:
        most: bytes that they have together, about; the last one stays even if it alone has more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._kept: OrderedDict[Hashable, tuple[Hashable, Any, int]] = OrderedDict()

    def get(self, question: Hashable, version: Hashable) -> Any:
        """Return the result; None if there is none for that version."""
        before, result, _ = self._kept.get(question, (None, None, 0))
        if result is None or before != version:
            return None
        self._kept.move_to_end(question)
        return result

    def last(self, question: Hashable) -> Any:
        """Return the result for whatever version there is; None if there is none."""
        return self._kept.get(question, (None, None, 0))[1]

    def put(self, question: Hashable, version: Hashable, result: Any, size: int) -> None:
        """Keep a result in place of the one of another version."""
        self._size -= self._kept.pop(question, (None, None, 0))[2]
        self._kept[question] = version, result, size
        self._size += size
        while self._size > self._most and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1][2]
