"""Where the pieces of a run are that was gone back in several times: what loggers need that set them aside.

Between two cuts a run only grows. So what it was before cut N is what it was after cut N, up to where that was, and
then what the cut has set aside; undone like this, newest first, the cuts lead back to whatever the run once was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

__all__ = ("SetAside", "set_aside")

Name = TypeVar("Name")


class SetAside(NamedTuple, Generic[Name]):
    """What a run had with ``after < seq <= upto``.

    Attributes:
        name: of the run that holds it now.
        size: how many rows that was given.
        after: see above.
        upto: see above.
    """

    name: Name
    size: int
    after: int
    upto: int


def set_aside(cuts: Iterable[tuple[int, Name | None, int]], seq: int) -> tuple[int, list[SetAside[Name]]]:
    """Return up to which ``seq`` a run is still what it was, and where the rest up to ``seq`` is, in order.

    Args:
        cuts: those since then, oldest first: up to where the run stayed; the name of what was set aside, None if that
            was nothing; how many rows that was.
        seq: the newest event of interest.
    """
    found: list[SetAside[Name]] = []
    for after, name, size in cuts:
        if after >= seq:
            continue
        if name is not None:
            found.append(SetAside(name, size, after, seq))
        seq = after
    return seq, found[::-1]
