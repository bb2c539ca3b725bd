"""Events in a row, of which the objects are made when somebody first takes them.

What was published stays as it was left until then: making an event costs about as much as publishing it, and objects
that are made in small numbers, handled and let go of cost the garbage collector nothing.

Threads: none of this locks; ``EventBus`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from asynchub.events import ENTRY, Event, scalars_updated

__all__ = ("LONGEST", "Stretch", "sifted")

LONGEST = 256
"""Events in a stretch at most: fewer than the 700 new objects at which Python looks for garbage."""


class Stretch:
    """Events in the order of their ``seq``, at least one.

    Attributes:
        size: how many there are.
        last_seq: ``seq`` of the last one.

    Args:
        seqs: their ``seq``.
        items: what they are made of, as of ``scalars_updated``.
    """

    __slots__ = ("_events", "_indices", "_items", "_seqs", "_whole", "last_seq", "size")

    def __init__(self, seqs: Sequence[int], items: Sequence[Any] = ()) -> None:
        self._seqs = seqs
        self._items = items
        self._events: list[Event] | None = None
        self._whole: Stretch | None = None
        self._indices: Sequence[int] = ()
        self.size = len(seqs)
        self.last_seq = seqs[-1]

    @classmethod
    def of_event(cls, event: Event) -> Stretch:
        """Return one event."""
        stretch = cls((event.seq,))
        stretch._events = [event]
        return stretch

    @classmethod
    def of_entries(cls, seqs: Sequence[int], items: Sequence[Any]) -> Iterator[Stretch]:
        """Yield scalars, at least one; arguments as of ``scalars_updated``."""
        for start in range(0, len(seqs), LONGEST):
            yield cls(seqs[start : start + LONGEST], items[start * ENTRY : (start + LONGEST) * ENTRY])

    def part(self, indices: Sequence[int]) -> Stretch:
        """Return some of these events, at least one: the same objects."""
        stretch = Stretch([self._seqs[index] for index in indices])
        stretch._whole, stretch._indices = self, indices
        return stretch

    def cells(self) -> Sequence[Any]:
        """Return the cells of the entries; of ``of_entries`` only, before the events are made."""
        return self._items[::ENTRY]

    def events(self) -> list[Event]:
        """Return the events; the same objects each time."""
        events = self._events
        if events is None:
            if self._whole is None:
                events = scalars_updated(self._seqs, self._items)
            else:
                whole = self._whole.events()
                events = [whole[index] for index in self._indices]
            self._events = events
            self._items, self._whole = (), None
        return events


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
