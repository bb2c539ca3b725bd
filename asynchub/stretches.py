"""Events in a row, of which the objects are made when somebody first looks at one of them.

What was published stays as it was left until then: making an event costs about as much as publishing it, and objects
that are made in small numbers, handled and let go of cost the garbage collector nothing. Who only counts them makes
none.

Threads: a stretch does not change and may be looked at from any thread, without a lock; all who look at it find the
    same objects.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, overload

from asynchub.events import ENTRY, Event, scalars_updated

__all__ = ("LONGEST", "Stretch", "sifted", "whole_stretches")

LONGEST = 256
"""Events in a stretch of entries at most: fewer than the 700 new objects at which Python looks for garbage."""


class Stretch(Sequence[Event]):
    """Events in the order of their ``seq``, at least one: an immutable sequence, equal to a list of the same events.

    A slice, a copy and what comes out of a pickle are lists.

    Attributes:
        size: how many there are.
        last_seq: ``seq`` of the last one.

    Args:
        seqs: their ``seq``.
        items: what they are made of, as of ``scalars_updated``; not to be changed any more.
        start: where in ``items`` that begins.
    """

    __slots__ = ("_made", "_seqs", "_source", "_start", "last_seq", "size")

    def __init__(self, seqs: Sequence[int], items: Sequence[Any] = (), start: int = 0) -> None:
        self._seqs = seqs
        self._source: Sequence[Any] = items  # empty once the events are made
        self._start = start
        self._made: list[list[Event]] = []  # the first one counts
        self.size = len(seqs)
        self.last_seq = seqs[-1]

    @classmethod
    def of_events(cls, events: list[Event]) -> Stretch:
        """Return events, at least one; the list is not to be changed any more."""
        stretch = cls((events[-1].seq,))
        stretch._made.append(events)
        stretch.size = len(events)
        return stretch

    @classmethod
    def of_entries(cls, seqs: Sequence[int], items: Sequence[Any]) -> Iterator[Stretch]:
        """Yield scalars, at least one; arguments as of ``scalars_updated``."""
        for start in range(0, len(seqs), LONGEST):
            yield cls(seqs[start : start + LONGEST], items, start * ENTRY)

    def part(self, indices: Sequence[int]) -> Stretch:
        """Return some of these events, at least one: the same objects. Of what was made of entries only."""
        return _Part([self._seqs[index] for index in indices], (self, indices))

    def cells(self) -> Sequence[Any]:
        """Return the cells of the entries; of ``of_entries`` only, before the events are made."""
        return self._source[self._start : self._start + self.size * ENTRY : ENTRY]

    def events(self) -> list[Event]:
        """Return the events; the same objects, and the same list, each time. It is not to be changed."""
        source = self._source  # first: who has made them lets go of it
        made = self._made
        if not made:
            made.append(self._make(source))  # in one step: if another thread was faster, its objects count
            self._source = ()
        return made[0]

    def _make(self, source: Sequence[Any]) -> list[Event]:
        return scalars_updated(self._seqs, source, self._start)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events())

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self.events()[index]

    def __contains__(self, event: object) -> bool:
        return event in self.events()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Stretch):
            return self.events() == other.events()
        return self.events() == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list, which it may be equal to

    def __reduce__(self) -> tuple[type[list[Event]], tuple[list[Event]]]:
        return list, (self.events(),)

    def __repr__(self) -> str:
        return repr(self.events())


class _Part(Stretch):
    """Some of the events of another stretch: ``source`` is that and their indices."""

    __slots__ = ()

    def _make(self, source: Sequence[Any]) -> list[Event]:
        whole, indices = source
        events = whole.events()
        return [events[index] for index in indices]


class _Joined(Stretch):
    """The events of several stretches, one after the other: ``source`` is those."""

    __slots__ = ()

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        super().__init__((stretches[-1].last_seq,), stretches)
        self.size = sum([stretch.size for stretch in stretches])

    def _make(self, source: Sequence[Any]) -> list[Event]:
        return list(chain.from_iterable([stretch.events() for stretch in source]))


def whole_stretches(stretches: Sequence[tuple[int, Stretch]], position: int, limit: int) -> Stretch | None:
    """Return as many stretches as there are from ``position`` on, and as fit in ``limit``, as one; None if none does.

    Args:
        stretches: at least one, each with the position of its first event.
        position: where to begin; None is returned if that is amid a stretch.
        limit: how many events at most.
    """
    index = 0
    if stretches[0][0] != position:
        index = bisect_right(stretches, position, key=_position) - 1
        if index < 0 or stretches[index][0] != position:
            return None
    first = stretches[index][1]
    size = first.size
    if size > limit:
        return None
    begin = index
    index += 1
    while index < len(stretches) and (size := size + stretches[index][1].size) <= limit:
        index += 1
    return first if index == begin + 1 else _Joined([stretch for _, stretch in stretches[begin:index]])


def _position(item: tuple[int, Stretch]) -> int:
    return item[0]


def sifted(events: list[Event], keep: Callable[[Event], bool]) -> tuple[list[Event], list[Event], Exception | None]:
    """Return those of ``events`` that ``keep`` holds for; if asking it raised, what came after, and what it raised."""
    kept: list[Event] = []
    for index, event in enumerate(events):
        try:
            if keep(event):
                kept.append(event)
        except Exception as error:
            return kept, events[index + 1 :], error
    return kept, [], None
