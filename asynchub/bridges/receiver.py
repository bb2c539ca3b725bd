"""Frames that come from a broker, published in a hub: each event once, in the order in which its rank published it.

Gaps: what a rank could not send, or the broker does not have any more, is an ``EventsDropped`` in its place.
Rewound: a rank that was resumed from an earlier state takes back what it had published after that; the histories here
    follow, and a ``Rewound`` says so.
Bad frames: damaged ones, those of another run, and those of a version to come are left out, with a ``FrameRefused``.
Threads: one at a time.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from asynchub.batches import Batch, events_of
from asynchub.bridges.arrivals import Arrivals
from asynchub.bridges.frames import BASE, END, EVENTS, SNAPSHOT, Frame, decode_frame
from asynchub.bridges.transport import Stored
from asynchub.bridging import FrameRefused, RankLeft
from asynchub.columns import Array
from asynchub.errors import CorruptStateError, StateError
from asynchub.events import Event, EventsDropped, InfoRemoved, InfoUpdated, Rewound
from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.requests import RequestApplied, StopRequested

__all__ = ("Receiver",)

logger = logging.getLogger("asynchub")
NOTHING = Batch([], [], [])
REMEMBERED = 200_000
"""Frames of a rank of which it is known where their events are in this hub's log."""


class _Place(NamedTuple):
    """Where the events of a frame are in this hub's log.

    Attributes:
        after_seq: of the rank, as of its frame.
        upto_seq: of the rank, as of its frame.
        first_seq: here, of the first of them.
        size: how many there are.
        seqs: their ``seq`` in the rank, or that of the beginning of an epoch; None if there is no gap.
    """

    after_seq: int
    upto_seq: int
    first_seq: int
    size: int
    seqs: Array | None


class Receiver:
    """Publishes the frames of one rank.

    Args:
        hub: where.
        run: name of the run.
        rank: the rank.
        rename: gives the key of an event in this hub.
        steps: whether the hub's ``step`` follows that of the rank.
        whole: whether everything is to come that the rank ever published.

    Attributes:
        frame: the newest frame that was taken, or None.
        frames: how many were taken.
        missed: events that did not come.
        ended: whether the rank has left its hub.
    """

    def __init__(
        self, hub: MessageHub, run: str, rank: int, rename: Callable[[str], str], *, steps: bool, whole: bool
    ) -> None:
        self.frame: Frame | None = None
        self.frames = 0
        self.missed = 0
        self.ended = False
        self._hub = hub
        self._run = run
        self._rank = rank
        self._rename = rename
        self._whole = whole
        self._steps = steps
        self._arrivals = Arrivals(hub, rename, steps=steps)
        self._infos: set[str] = set()
        self._base: list[Event] | None = None
        self._goes_on = False
        self._begun_seq = 0
        self._seen = 0
        self._numbers: dict[int, int] = {}
        self._places: deque[_Place] = deque(maxlen=REMEMBERED)

    # --- beginning

    def begin_with(self, parts: Sequence[Frame]) -> None:
        """Begin with the newest value of each key, as of a frame; the parts of one snapshot.

        Raises:
            StateError: it is damaged; nothing has changed.
        """
        frame = parts[0]
        events = [event for part in parts for event in self._events(part.batch)]
        self._publish(sorted(events, key=attrgetter("seq")))
        self._numbers[frame.epoch] = frame.number
        self._seen = frame.before + frame.size
        self._note(frame._replace(kind=EVENTS, part=0, parts=1))

    # --- going on

    def take(self, stored: Stored) -> None:
        """Publish a message of the broker's log."""
        try:
            frame = decode_frame(stored.data)
            if frame.run != self._run or frame.rank != self._rank:
                raise CorruptStateError(
                    f"it is of rank {frame.rank} of run {frame.run!r:.80}, wanted {self._rank} of {self._run!r:.80}"
                )
            self._take(frame)
        except Exception as error:  # no list of what foreign data can raise is ever complete
            if not isinstance(error, StateError):
                logger.exception("%s: a frame could not be published", stored.subject)
            self._hub.publish(FrameRefused(source=stored.subject, error=f"{type(error).__name__}: {error}"))

    def _take(self, frame: Frame) -> None:
        if frame.kind == SNAPSHOT or frame.number <= self._numbers.get(frame.epoch, 0):
            return  # it came before
        newest = self.frame
        if newest is not None and frame.epoch < newest.epoch:
            self._take_late(frame)
            return
        if newest is not None and frame.epoch == newest.epoch and frame.kind == EVENTS:
            # the beginning of frames that were merged may have come before they were
            frame = frame._replace(batch=frame.batch.between(newest.upto_seq, math.inf))
        events = self._events(frame.batch)  # what cannot be read changes nothing
        if newest is None or frame.epoch > newest.epoch:
            self._begin_epoch(frame, newest)
        if frame.kind == BASE:
            self._base = [*(self._base or ()), *events]
            if frame.part >= frame.parts - 1:
                self._follow()
        else:
            self._follow()
            came = 0 if frame.kind == END else len(events)
            self._say_missed(frame, frame.before + frame.size - self._seen - came)
            if came:
                self._publish(events)
        self._numbers[frame.epoch] = frame.number
        self._seen = max(frame.before + frame.size, self._seen)
        self.frames += 1
        self._note(frame)
        self.ended = frame.kind == END
        if self.ended:
            self._arrivals.add_events([RankLeft(seq=frame.upto_seq, time=frame.time, step=frame.step, rank=frame.rank)])

    def _events(self, batch: Batch) -> list[Event]:
        events = list(events_of(batch, registry=self._hub.registry))
        for event in events:
            number = event.missed if isinstance(event, EventsDropped) else getattr(event, "to_seq", 0)
            if type(number) is not int:
                raise CorruptStateError(f"wanted an int in {event!r:.200}")
        return events

    def _note(self, frame: Frame) -> None:
        self.frame = frame._replace(batch=NOTHING)
        if self._steps:
            self._hub._step = frame.step

    def _take_late(self, frame: Frame) -> None:
        """Publish what came late of an earlier life: what the newer one did not take back."""
        self._numbers[frame.epoch] = frame.number
        batch = frame.batch.between(frame.after_seq, self._begun_seq)
        if frame.kind == EVENTS and batch.size:
            self._arrivals.add_events(self._events(batch))

    def _begin_epoch(self, frame: Frame, newest: Frame | None) -> None:
        self._begun_seq = frame.after_seq
        self._base = None
        self._goes_on = newest is not None
        if newest is None:
            self._seen = 0 if self._whole else frame.before
            return
        self._seen = 0
        goes_on_from = frame.after_seq if frame.run_id == newest.run_id else 0
        if goes_on_from < newest.upto_seq:
            self._rewind(Rewound(seq=goes_on_from, time=frame.time, step=frame.step, to_seq=goes_on_from))

    def _say_missed(self, frame: Frame, missed: int) -> None:
        if missed > 0:
            self.missed += missed
            lost = EventsDropped(seq=max(frame.after_seq, 0), time=frame.time, step=frame.step, missed=missed)
            self._arrivals.add_events([lost])

    def _publish(self, events: list[Event]) -> None:
        start = 0
        for index, event in enumerate(events):
            if isinstance(event, InfoUpdated):
                self._infos.add(event.key)
            elif isinstance(event, InfoRemoved):
                self._infos.discard(event.key)
            elif isinstance(event, EventsDropped):  # the bridge itself had fallen behind
                self.missed += event.missed
            elif isinstance(event, RequestApplied) and self._steps and event.request == StopRequested.__name__:
                self._hub._stop = StopRequested(reason=event.reason, author=event.author, step=event.step)
            elif isinstance(event, Rewound):
                self._publish_some(events[start:index])
                self._rewind(event)
                start = index + 1
        self._publish_some(events[start:])

    def _publish_some(self, events: list[Event]) -> None:
        if not events:
            return
        first, size = self._arrivals.add_events(events)
        after, upto = events[0].seq - 1, events[-1].seq
        seqs = np.array([event.seq for event in events], np.int64)
        whole = upto - after == size and bool((seqs[1:] > seqs[:-1]).all())
        self._places.append(_Place(after, upto, first, size, None if whole else seqs))

    # --- going back

    def _rewind(self, event: Rewound) -> None:
        """Take back what came of this rank with a ``seq`` above that of the event."""
        upto = self._place_of(event.to_seq)
        with self._hub._bus.still():
            self._cut_histories(upto)
        self._arrivals.add_events([replace(event, to_seq=upto)])

    def _place_of(self, to_seq: int) -> int:
        """Return the ``seq`` here of the newest event up to ``to_seq`` of the rank; forget those beyond."""
        while self._places:
            place = self._places[-1]
            if place.upto_seq <= to_seq:
                return place.first_seq + place.size - 1
            self._places.pop()
            if place.after_seq < to_seq:
                seqs = place.seqs
                kept = to_seq - place.after_seq if seqs is None else int(np.searchsorted(seqs, to_seq, "right"))
                shorter = None if seqs is None else seqs[:kept]
                self._places.append(_Place(place.after_seq, to_seq, place.first_seq, kept, shorter))
        return 0

    def _cut_histories(self, upto: int) -> None:
        """Cut the histories of this rank's keys behind an event of this hub's; with the log still."""
        hub = self._hub
        for key in self._arrivals.keys:
            history = hub._log_scalars.get(key)
            if not isinstance(history, HistoryBuffer):
                continue
            records = history.records(-1, wait=False)
            kept = int(np.searchsorted(records.seqs, upto, "right"))
            if kept == len(records.seqs):
                continue
            shorter = HistoryBuffer.unfilled()
            if kept:
                seqs, times, steps, values, counts = (column[:kept] for column in records)
                floats = values.dtype == np.float64
                whole = counts.dtype == np.int64
                shorter.take_in(
                    (seqs, times, steps), values if floats else values.tolist(), counts if whole else counts.tolist()
                )
            hub._log_scalars[key] = shorter

    def _follow(self) -> None:
        """Have infos, and scalars that are not known here, be as they were when the rank's epoch began."""
        base, self._base = self._base, None
        if base is None:
            return
        events: list[Event] = []
        infos = {event.key for event in base if isinstance(event, InfoUpdated)}
        if self._goes_on:  # infos of an earlier epoch may be gone
            time = base[0].time if base else math.nan
            events += [InfoRemoved(seq=self._begun_seq, time=time, key=key) for key in sorted(self._infos - infos)]
            self._infos = set()
            self._goes_on = False
        self._infos |= infos
        events += [one for one in base if isinstance(one, InfoUpdated) or not self._is_known(one.key)]
        if events:
            first, size = self._arrivals.add_events(events)
            begun = self._begun_seq
            self._places.append(_Place(begun - 1, begun, first, size, np.full(size, begun)))  # go back all or none

    def _is_known(self, key: str) -> bool:
        history = self._hub.log_scalars.get(self._rename(key))
        return isinstance(history, HistoryBuffer) and len(history.records(-1, wait=False).seqs) > 0
