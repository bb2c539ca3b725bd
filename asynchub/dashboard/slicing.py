"""Work that takes long, done in slices: as many as there is time for.

Threads: one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

__all__ = ("Work",)


class Work:
    """What was begun and is not done."""

    def __init__(self) -> None:
        self._steps: Iterator[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether there is anything left to do."""
        return self._steps is not None

    def begin(self, steps: Iterator[None]) -> None:
        """Have that done next, slice by slice; what was under way is given up."""
        self._steps = steps

    def go_on(self, deadline: float) -> bool:
        """Go on until it is done, or a moment of the monotonic clock is over; return whether it is done.

        What a slice raises is raised, and the rest of it given up. A slice may begin other work in its place.
        """
        while (steps := self._steps) is not None:
            try:
                next(steps)
            except BaseException as error:
                if self._steps is steps:
                    self._steps = None
                if not isinstance(error, StopIteration):
                    raise
            if self._steps is not None and time.monotonic() > deadline:
                return False
        return True
