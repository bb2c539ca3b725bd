"""What a logger has for its tracker, and an attempt to hand it over.

A backlog begins at a mark, up to which the tracker has everything. While that fails, it holds items in memory up to a
limit; beyond that it forgets them, and an attempt makes them again from the events behind the mark.

Threads: a backlog is the reader's; an attempt runs in the thread that may wait for the tracker, and its result is taken
    by the reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from asynchub.errors import StateDictError, SubscriptionError
from asynchub.events import Event, ScalarUpdated
from asynchub.subscribers.aggregation import Aggregation, Point
from asynchub.subscribers.checks import take_state

__all__ = ("Attempt", "Backlog", "Item")

Item = Point | Event
"""What a tracker gets: the points of scalars, and other events as they are."""
_Mark = tuple[int, dict[str, Any]]


class Attempt:
    """A try to hand over what a tracker has not got.

    Attributes:
        items: what is held of it and was not handed over yet.
        delivered: items that it has taken from this attempt.
        missed: items that were forgotten, and are not to be had again.
        sent: ``seq`` up to which it has got everything that was read again.

    Args:
        items: what is held of it.
        last: what follows behind all others: what was gathered when the run ended, and would not be made again.
        forgotten: how many items more there were; 0 if that is all.
        mark: where they begin.
        upto: ``seq`` up to which they go.
        sent: ``seq`` up to which the tracker has got what lies behind the mark.
        batch: items in a write at most.
    """

    def __init__(
        self, items: list[Item], last: list[Item], forgotten: int, mark: _Mark, upto: int, sent: int, batch: int
    ) -> None:
        self.items = items
        self.last = last
        self.forgotten = forgotten
        self.mark = mark
        self.upto = upto
        self.sent = sent
        self.delivered = 0
        self.missed = 0
        self._batch = batch
        self._begun = items, last, forgotten, sent

    def undo(self) -> None:
        """Take it that nothing of it was handed over."""
        self.items, self.last, self.forgotten, self.sent = self._begun
        self.delivered = 0

    def run(
        self,
        write: Callable[[Sequence[Item]], None],
        write_last: Callable[[Sequence[Item]], None],
        again: Callable[[int, int], Iterator[Event]],
        aggregation: Aggregation,
    ) -> None:
        """Hand it over, piece by piece.

        Args:
            write: takes a piece.
            write_last: takes the points of stretches that the end of a life has cut short.
            again: returns the events in a range of ``seq`` once more, as ``Subscription.again``.
            aggregation: a new one, to make points of them.
        """
        if self.forgotten:
            self._read_again(write, again, aggregation)
        while self.items:
            part = self.items[: self._batch]
            write(part)
            self.sent = part[-1].seq
            self.items = self.items[len(part) :]
            self.delivered += len(part)
        if self.last:
            write_last(self.last)
            self.delivered += len(self.last)
            self.last = []

    def _read_again(
        self,
        write: Callable[[Sequence[Item]], None],
        again: Callable[[int, int], Iterator[Event]],
        aggregation: Aggregation,
    ) -> None:
        seq, state = self.mark
        aggregation.load_state_dict(state)
        wanted = self.forgotten + len(self.items)
        part: list[Item] = []
        try:
            events = again(seq, self.upto)
        except SubscriptionError:
            self.missed, self.forgotten = self.forgotten, 0
            return
        for event in events:
            item = _item_of(event, aggregation)
            if item is None or item.seq <= self.sent:
                continue
            part.append(item)
            if len(part) >= self._batch:
                self._write(part, write)
                part = []
        if part:
            self._write(part, write)
        self.missed = max(wanted - self.delivered, 0)
        self.forgotten, self.items = 0, []

    def _write(self, part: list[Item], write: Callable[[Sequence[Item]], None]) -> None:
        write(part)
        self.sent = part[-1].seq
        self.delivered += len(part)
        self.forgotten = max(self.forgotten - len(part), 1)  # 1: the rest is still to be read


class Backlog:
    """What a tracker has not got yet.

    Attributes:
        aggregation: makes points of events.
        taken: ``seq`` of the newest event that was taken account of.
        items: what is held for the tracker, oldest first.
        forgotten: how many items more there were before those.

    Args:
        aggregation: makes points of events.
        limit: items that are held at most for a tracker that fails.
    """

    def __init__(self, aggregation: Aggregation, limit: int) -> None:
        self.aggregation = aggregation
        self.taken = 0
        self.items: list[Item] = []
        self._last: list[Item] = []
        self.forgotten = 0
        self._limit = limit
        self._mark: _Mark = (0, aggregation.state_dict())
        self._sent = 0
        self._attempt: Attempt | None = None

    def __bool__(self) -> bool:
        return bool(self.items or self.forgotten or self._last)

    @property
    def owed(self) -> int:
        """Items that the tracker has not got, as far as is known."""
        attempt = self._attempt
        under_way = 0 if attempt is None else len(attempt.items) + len(attempt.last) + attempt.forgotten
        return len(self.items) + len(self._last) + self.forgotten + under_way

    def begin_at(self, seq: int) -> None:
        """Take it that the events to come are those behind ``seq``."""
        if seq < self.taken:  # of a hub that is at an earlier state
            self.items, self._last, self.forgotten, self.aggregation = [], [], 0, self.aggregation.fresh()
        if seq != self.taken:
            self.taken = seq
            if not self:
                self._mark, self._sent = (seq, self.aggregation.state_dict()), seq

    def take(self, batch: Sequence[Event]) -> None:
        """Take account of events, at least one."""
        items, aggregation = self.items, self.aggregation
        for event in batch:
            if (item := _item_of(event, aggregation)) is not None:
                items.append(item)
        self.taken = batch[-1].seq

    def forget(self) -> None:
        """Hold no more than the limit, if a tracker does not take it: forget all, rather."""
        if len(self.items) > self._limit:
            self.forgotten += len(self.items)
            self.items = []

    def end_stretches(self) -> None:
        """Take what has been gathered but was not due yet."""
        self._last += self.aggregation.rest()

    def attempt(self, batch: int) -> Attempt:
        """Return an attempt to hand over all there is, up to ``batch`` items at a time; ``take_back`` is to follow."""
        attempt = Attempt(self.items, self._last, self.forgotten, self._mark, self.taken, self._sent, batch)
        self.items, self._last, self.forgotten = [], [], 0
        self._mark = (self.taken, self.aggregation.state_dict())
        self._attempt = attempt
        return attempt

    def take_back(self, attempt: Attempt, failed: bool) -> None:
        """Take the result of ``attempt``, which is over: what it has not handed over is held again."""
        self._attempt = None
        if not failed:
            self._sent = attempt.upto
            return
        self._mark, self._sent = attempt.mark, attempt.sent
        self._last = attempt.last + self._last
        if attempt.forgotten or self.forgotten:
            self.forgotten += attempt.forgotten + len(attempt.items)
        else:
            self.items[:0] = attempt.items

    def state_dict(self) -> dict[str, Any]:
        """Return what was taken, and what is owed, as builtins; the items themselves are to be read again."""
        attempt = self._attempt
        (seq, windows), sent = (self._mark, self._sent) if attempt is None else (attempt.mark, attempt.sent)
        return {
            "taken": self.taken,
            "sent": sent,
            "owed": self.owed,
            "mark": seq,
            "mark_windows": windows,
            "windows": self.aggregation.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        numbers = dict.fromkeys(("taken", "sent", "owed", "mark"), (int,))
        taken = take_state(state, {**numbers, "mark_windows": (dict,), "windows": (dict,)}, "a logger")
        if min(taken[name] for name in numbers) < 0:
            raise StateDictError(f"wanted counts from 0 on, got { ({name: taken[name] for name in numbers}) }")
        aggregation = self.aggregation.fresh()
        aggregation.load_state_dict(taken["mark_windows"])
        self.aggregation.load_state_dict(taken["windows"])
        self.taken, self._sent, self._attempt = taken["taken"], taken["sent"], None
        self.items, self._last, self.forgotten = [], [], taken["owed"]
        self._mark = (taken["mark"], aggregation.state_dict())


def _item_of(event: Event, aggregation: Aggregation) -> Item | None:
    """Return what a tracker gets of ``event``: a point that is due, an event that is no scalar, or nothing."""
    point = aggregation.add(event)
    return event if point is None and not isinstance(event, ScalarUpdated) else point
