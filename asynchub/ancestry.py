"""From where a hub's record comes: so that two that began as one can be told up to where they are the same.

A run forks whenever its hub takes in a state, comes back from a journal, or has a journal opened: what is published
from there on may be published otherwise by another process, which has gone on from the same place. Each fork has an
identity that nothing else has. It is kept with the states of the hub and in its journal, so what two records share is
known whatever ran between, and no clock is asked.

Threads: a path never changes; one thread at a time adds to an ``Ancestry``, any may read it.
"""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = (
    "Ancestry",
    "Fork",
    "Forks",
    "as_words",
    "fork_of",
    "forks_in",
    "from_words",
    "goes_on",
    "rewound_id",
    "shared_upto",
)

MOST = 100
"""Forks of a path that are remembered, the newest. What forked off before shares nothing with it, as far as known."""
PATHS = 100
"""Paths that a hub has come by in this process and that are remembered, the newest."""
ID = re.compile(r"[\w@.+-]{1,80}", re.ASCII)


class Fork(NamedTuple):
    """Where events begin that others may have in another form.

    Attributes:
        id: what nothing else is named, as of ``ID``.
        after: what came before it, of what counts, ends with this ``seq``.
        at: events beyond this ``seq`` come after it; larger than ``after`` where it goes back.
    """

    id: str
    after: int
    at: int

    @property
    def goes_back(self) -> bool:
        """Whether there are events before it that do not count behind it."""
        return self.after < self.at

    @classmethod
    def new(cls, after: int, at: int) -> Fork:
        """Return one of its own."""
        return cls(secrets.token_hex(8), after, at)


Forks = tuple[Fork, ...]
"""What a record has come by, oldest first."""


class Ancestry:
    """The path of a hub now, and those that it had in this process before."""

    def __init__(self) -> None:
        self._paths: tuple[Forks, ...] = ((Fork.new(0, 0),),)

    @property
    def path(self) -> Forks:
        """The path now."""
        return self._paths[-1]

    def as_of(self, seq: int) -> Forks:
        """Return the path that the hub had when it had published event ``seq``; an empty one if that is forgotten."""
        return next((path for path in reversed(self._paths) if path[-1].at <= seq), ())

    def go_on(self, fork: Fork) -> None:
        """Add a fork to the path."""
        self.go_by(self.path, fork)

    def go_by(self, path: Forks, fork: Fork) -> None:
        """Take another path, from its end on."""
        self._paths = (*self._paths[1 - PATHS :], (*path, fork)[-MOST:])


def shared_upto(one: Forks, one_seq: int, other: Forks, other_seq: int) -> int:
    """Return the newest ``seq`` up to which two records are the same; 0 if nothing says that they are.

    Args:
        one: the path of one.
        one_seq: ``seq`` of its newest event.
        other: the path of the other.
        other_seq: ``seq`` of its newest event.
    """
    places = {fork.id: place for place, fork in enumerate(one)}
    for place in range(len(other) - 1, -1, -1):
        found = places.get(other[place].id)
        if found is not None:
            ends = [fork.after for fork in (*one[found + 1 : found + 2], *other[place + 1 : place + 2])]
            return min(one_seq, other_seq, *ends)
    return 0


def goes_on(path: Forks, before: Forks) -> bool:
    """Return whether a path is another one and forks that do not go back."""
    newest = before[-1:]
    for fork in reversed(path):
        if (fork,) == newest:
            return True
        if fork.goes_back:
            return False
    return False


def rewound_id(seq: int, time: float) -> str:
    """Return the identity of the fork that a ``Rewound`` is, by its ``seq`` and time, in seconds."""
    return f"{seq}@{time!r}"


def fork_of(fields: Any) -> Fork | None:
    """Return the fork that a list of its fields is; None of anything else."""
    if not (isinstance(fields, list | tuple) and [type(one) for one in fields] == [str, int, int]):
        return None
    return Fork(*fields) if ID.fullmatch(fields[0]) else None


def forks_in(extra: Mapping[str, Any]) -> Forks:
    """Return the path in the entry ``asynchub`` of a state; an empty one if it has none, or one that is malformed."""
    found = extra.get("forks")
    path = [fork_of(fields) for fields in found] if isinstance(found, list | tuple) else []
    forks = tuple(fork for fork in path if fork is not None)
    return forks if len(forks) == len(path) else ()


def as_words(path: Forks) -> list[str]:
    """Return a path as words: each fork as ``id:after:at``, and a checksum of them."""
    words = [f"{fork.id}:{fork.after}:{fork.at}" for fork in path]
    return [*words, _checksum(words)]


def from_words(words: Sequence[str]) -> Forks:
    """Return the path that ``as_words`` made words of.

    Raises:
        ValueError: they are damaged.
    """
    *forks, checksum = words
    if checksum != _checksum(forks):
        raise ValueError(f"the checksum of a path is wrong: {words!r:.80}")
    parts = [fork.split(":") for fork in forks]
    return tuple(Fork(id, int(after), int(at)) for id, after, at in parts)


def _checksum(words: Sequence[str]) -> str:
    return f"{zlib.crc32(' '.join(words).encode()):08x}"
