"""Readers that act inside of each publish, and what a hub gives them.

There is one kind: the journal, whose promise is that an event outlives the process as soon as ``publish`` has returned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from asynchub.events import Event
from asynchub.filing import Run
from asynchub.loops import Latch

__all__ = ("Commit", "Tap")


class Commit:
    """The wait for events to be on the disk.

    Attributes:
        seq: up to which event.
        error: why they are not; None if they are.
    """

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.error: Exception | None = None
        self.latch = Latch()

    def end(self, error: Exception | None) -> None:
        """Say that the disk has them, or why not."""
        self.error = error
        self.latch.set()


class Tap(ABC):
    """A reader that acts inside of each publish.

    Attributes:
        name: for messages and statistics.
        begun_seq: ``seq`` of the newest event when it began; it can read back those after that.
        put: makes entries safe, the first of which will have the ``seq`` that it is given; False if there is no room.
            Called with the hub's lock; may be set anew while nobody holds that.
    """

    name: str
    begun_seq: int
    put: Callable[[int, list[Any]], bool]

    @abstractmethod
    def begin(self, hub: Any) -> None:
        """Take from ``hub`` what is published from now on; called again after ``end``."""

    @abstractmethod
    def end(self) -> None:
        """Take nothing more; make safe what was taken."""

    @abstractmethod
    def take(self, item: Run | Event) -> bool:
        """Take a run of entries or an event for good, safe; False if there is no room for that. With the lock."""

    @abstractmethod
    def make_room(self) -> bool:
        """Make room, without the lock; False if that cannot be done now."""

    @abstractmethod
    def acknowledge(self) -> None:
        """Wait, without the lock, for what a publish waits for before it returns."""

    @abstractmethod
    def commit(self) -> Commit:
        """Begin to bring all that was published so far to the disk."""

    @abstractmethod
    def read_back(
        self, after: int, upto: int, test: Callable[[str, type[Event]], bool]
    ) -> Iterator[Iterator[Event] | None]:
        """Yield, a piece at a time, what it has of the events with a ``seq`` above ``after`` and at most ``upto``.

        Reads files, and waits for them: not for a loop's thread.

        Args:
            after: a ``seq``.
            upto: another one, of an event that was published.
            test: which events are wanted.

        Yields:
            The next of them, or None if they are not to be had at this moment.
        """

    @abstractmethod
    def snapshot_saved(self, path: Path, seq: int, oldest_seq: int) -> None:
        """Hear that a generation of the hub's state is on the disk.

        Args:
            path: the file.
            seq: every event up to this one is in it.
            oldest_seq: the same of the oldest generation that is kept beside it.
        """

    @abstractmethod
    def forked(self) -> None:
        """Let go of everything, in a forked child."""

    @abstractmethod
    def counts(self) -> tuple[int, int, int]:
        """Return how many events are not on the disk yet, how many are, and how many were lost."""
