"""The dict of histories that a program may change, and what the fast path knows of its keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from asynchub.history import HistoryBuffer
from asynchub.ledger import FIELDS

__all__ = ("Cell", "LiveDict")


class Cell:
    """What the fast path needs to know of a key.

    Attributes:
        key: the key.
        buffer: its history; None if that keeps its record in its own way.
        pending: what its history has not folded in yet.
        resumed: its ``resumed`` flag.
        wanted: whether anybody reads its events.
    """

    __slots__ = ("buffer", "key", "pending", "resumed", "wanted")

    def __init__(
        self, key: str, buffer: HistoryBuffer | None, pending: list[Any], resumed: object, wanted: bool
    ) -> None:
        self.key = key
        self.buffer = buffer
        self.pending = pending
        self.resumed = resumed
        self.wanted = wanted

    def known(self, since: int) -> set[int]:
        """Return the ``seq`` of what its history has been handed, from ``since`` on."""
        folded = () if self.buffer is None else self.buffer.folded_seqs(since)
        return {*self.pending[::FIELDS], *folded}


class LiveDict(OrderedDict[str, Any]):
    """An ordered dict that says when it was changed.

    Attributes:
        changed: called after each change; while it is None nobody is told. A copy has none.
    """

    changed: Callable[[], object] | None = None

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._say()

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._say()

    def pop(self, *args: Any, **kwargs: Any) -> Any:
        """Remove a key and return its value, as a dict does."""
        value = super().pop(*args, **kwargs)
        self._say()
        return value

    def popitem(self, last: bool = True) -> tuple[str, Any]:
        """Remove the last item, or the first, and return it."""
        item = super().popitem(last)
        self._say()
        return item

    def clear(self) -> None:
        """Remove every item."""
        super().clear()
        self._say()

    def put(self, key: str, value: Any) -> None:
        """Set an item without saying so."""
        super().__setitem__(key, value)

    def _say(self) -> None:
        if self.changed is not None:
            self.changed()

    def __reduce__(self) -> Any:
        return (OrderedDict, (list(self.items()),))

    def __copy__(self) -> OrderedDict[str, Any]:
        return OrderedDict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> OrderedDict[str, Any]:
        from copy import deepcopy

        return OrderedDict((key, deepcopy(value, memo)) for key, value in self.items())
