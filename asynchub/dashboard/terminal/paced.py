"""A value that is made again when that is worth it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ("Paced",)

_T = TypeVar("_T")
AGE = 1.0
"""Seconds after which a value is made again though nothing has come: it may have ages that grow."""
SHARE = 10
"""A value is made at most in one part in so many of the time."""


class Paced(Generic[_T]):
    """Holds a value. Where making it takes long, it is made less often."""

    def __init__(self) -> None:
        self._made: tuple[_T] | None = None
        self._of: tuple[Hashable, Hashable] = (None, None)
        self._at = self._next = 0.0

    def get(self, whose: Hashable, state: Hashable, make: Callable[[], _T]) -> _T:
        """Return the value.

        Args:
            whose: what it is of; of something else it is made at once.
            state: of that; once it is another, the value is made again when its turn has come.
            make: makes it.
        """
        now = time.monotonic()
        if (
            self._made is None
            or self._of[0] != whose
            or (now >= self._next and (self._of[1] != state or now - self._at >= AGE))
        ):
            self._made, self._of, self._at = (make(),), (whose, state), now
            self._next = now + SHARE * (time.monotonic() - now)
        return self._made[0]
