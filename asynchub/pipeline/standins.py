"""What stands for an iterable that is watched, and is in all else what it stands for.

Each iteration is one of its own, as of what it stands for; ``next`` of it goes on with one that it begins itself. A
pickle, and a copy, is what it stands for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Any

__all__ = ("AsyncStandin", "Standin", "same")


class _Anything:
    """Stands for something.

    Args:
        iterable: what it stands for.
    """

    def __init__(self, iterable: Any) -> None:
        self._iterable = iterable

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_iterable":
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __reduce__(self) -> Any:
        return (same, (self._iterable,))


class Standin(_Anything):
    """Stands for an iterable."""

    _iterator: Iterator[Any] | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over what it stands for, watched."""

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self)
        return next(self._iterator)

    def __len__(self) -> int:
        return len(self._iterable)

    def __bool__(self) -> bool:
        """Ask what it stands for: a generator has no length, and is true."""
        return bool(self._iterable)


class AsyncStandin(_Anything):
    """Stands for an async iterable."""

    _iterator: AsyncIterator[Any] | None = None

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Any]:
        """Return an iterator over what it stands for, watched."""

    async def __anext__(self) -> Any:
        if self._iterator is None:
            self._iterator = aiter(self)
        return await anext(self._iterator)


def same(thing: Any) -> Any:
    """Return what it is given: what pickles are made with of things that stand for others."""
    return thing
