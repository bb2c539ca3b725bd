"""What is known of a run beside its curves: a fold over its events.

Exact: newest values, counts of what is not finite, infos, decisions and requests are those of all events that count.
    What was rewound does not.
Bounded: of decisions, requests and texts the newest are kept, and all are counted.
Threads: one at a time.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from asynchub.batches import Batch, Scalars, decode_event
from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, of_values
from asynchub.dashboard.marks import Marks
from asynchub.dashboard.rulings import Rulings
from asynchub.dashboard.sifting import HUGE, counted_in, counting, is_sound
from asynchub.dashboard.troubles import Troubles
from asynchub.dataflow import BottleneckChanged, PipelineReported
from asynchub.errors import StateError
from asynchub.events import Event, EventsDropped, InfoRemoved, InfoUpdated, Marked, Rewound, StateLoaded, scalar_updated
from asynchub.history import NO_STEP
from asynchub.requests import Decided, Paused, PauseEnded, Request, RequestApplied, RequestRefused, StopRequested
from asynchub.subscribers.display import Pace, format_quantity

__all__ = ("LONGEST_SILENCE", "Newest", "NotFinite", "RunFacts")

MOST_REQUESTS = 1_000
"""Requests, and what became of them, that are kept."""
LONGEST_INFO = 1_000
"""Letters of an info that are kept."""
PAUSE = 60.0
"""Seconds without an event, at least, after which a speed is measured anew."""
LONGEST_SILENCE = 600.0
"""Seconds of silence, at most, that a run may teach its viewers to be usual: what is longer was a pause."""
BACK = 2.0
"""Seconds by which a clock has to go back for that to be said: threads are not in order to the last moment."""
MEASURED = 0.5
"""Seconds between two measurements of the speed."""


class Newest(NamedTuple):
    """The newest value of a scalar, as it was published: a sum over ``samples``."""

    value: Any
    samples: Any
    step: int | None
    seq: int

    @property
    def mean(self) -> Any:
        """The mean over the samples; an infinity for what no double can hold."""
        try:
            return self.value if self.samples in (0, 1) else self.value / self.samples
        except OverflowError:
            return float("inf") if (self.value > 0) == (self.samples > 0) else float("-inf")

    def text(self, key: str) -> str:
        """Return the mean, with the unit that its key names."""
        return format_quantity(key, self.mean)


class NotFinite(NamedTuple):
    """Values of a scalar that are no finite numbers: how many, and the smallest and largest of their steps."""

    nan: int
    plus_inf: int
    minus_inf: int
    first: int | None
    last: int | None

    @property
    def total(self) -> int:
        """How many they are."""
        return self.nan + self.plus_inf + self.minus_inf


class RunFacts:
    """What the events of a run amount to.

    Attributes:
        seq: the event up to which they were taken.
        time: when the newest event was published, in seconds since the epoch; None before the first.
        began: when the first one was.
        newest: of each scalar its newest value.
        not_finite: of each scalar that has some, what is not finite.
        infos: runtime infos that are numbers, text or truth values.
        pace: how far and how fast.
        marks: decisions.
        troubles: what went wrong.
        rulings: what the rules say.
        requests: the newest requests with an ``id``, and answers to them.
        stop: the newest request to stop that nobody has refused; None if there is none.
        stopped: its answer; None while there is none.
        paused: the pause that it is in; None if it is in none.
        pipelines: of each pipeline its newest report.
        limits: of each pipeline what limits it, as was last said.
        states: of the control subscribers, as the newest ``Marked`` has them.
        kinds: how many events there are that are neither scalars nor infos, by kind.
        missed: how many events nobody has any more.
        backs: how often the clock of the run went back; and the seq and the seconds of the last time.
        sessions: how often the journal was closed and written again.
        trained: seconds of training, about: without pauses, and without what lies between two sessions.

    Args:
        rewinds: ``seq`` and ``to_seq`` of each ``Rewound`` that is known.
    """

    def __init__(self, rewinds: Iterable[tuple[int, int]] = ()) -> None:
        self.seq = self.missed = self.sessions = 0
        self.time: float | None = None
        self.began: float | None = None
        self.newest: dict[str, Newest] = {}
        self.not_finite: dict[str, NotFinite] = {}
        self.infos: dict[str, Any] = {}
        self.pace = Pace()
        self.marks = Marks()
        self.troubles = Troubles()
        self.rulings = Rulings()
        self.requests: deque[Event] = deque(maxlen=MOST_REQUESTS)
        self.stop: StopRequested | None = None
        self.stopped: RequestApplied | None = None
        self.paused: Paused | None = None
        self.pipelines: dict[str, PipelineReported] = {}
        self.limits: dict[str, BottleneckChanged] = {}
        self.states: Mapping[str, Any] = {}
        self.kinds: Counter[str] = Counter()
        self.backs: tuple[int, int, float] = (0, 0, 0.0)
        self.trained = 0.0
        self._furthest: float | None = None
        self._rewinds = sorted(rewinds)
        self._stretches = counting(self._rewinds)
        self._times: deque[float] = deque(maxlen=64)
        self._silence = 0.0
        self._marked = float("-inf")

    @property
    def usual(self) -> float:
        """Seconds between two events that are usual, about; 0 while that is not known."""
        times = list(self._times)
        gaps = sorted(later - earlier for earlier, later in pairwise(times) if later > earlier)
        return gaps[len(gaps) // 2] if gaps else 0.0

    @property
    def longest_silence(self) -> float:
        """Seconds, at most ``LONGEST_SILENCE``, after which a further event came in this session."""
        return self._silence

    @property
    def rewinds(self) -> list[tuple[int, int]]:
        """``seq`` and ``to_seq`` of each ``Rewound`` that is known."""
        return self._rewinds

    # --- taking

    def take(self, batch: Batch | EventsDropped, begins: bool = False) -> bool:
        """Take what comes next; return whether all of it is taken: a ``Rewound`` that was not known is not.

        Args:
            batch: events, or how many are missing.
            begins: whether the journal had been closed before them.
        """
        if isinstance(batch, EventsDropped):
            self.missed += batch.missed
            self.seq = batch.seq
            return True
        if begins:
            self._begin_session(batch)
        after = self.seq
        for part in counted_in(batch, self._stretches):
            if not self._take(part):
                return False
        self.seq = max(after, batch.seqs[1])
        return True

    def _begin_session(self, batch: Batch) -> None:
        self.sessions += 1
        self.stop = self.stopped = self.paused = self._furthest = None
        self._pause()
        seq = batch.seqs[0]
        if not any(b"Rewound" in data or b"StateLoaded" in data for _, data in batch.events):
            self.marks.begin(seq, self.pace.step, _first_time(batch))

    def _pause(self) -> None:
        self.pace.restart()
        self._times.clear()
        self._silence = 0.0

    def _take(self, batch: Batch) -> bool:
        for one in batch.scalars:
            self._take_scalars(one, batch.keys)
        for _, data in batch.events:
            try:
                event, fields = decode_event(data)
            except StateError as error:
                self.troubles.unreadable(str(error))
                continue
            if isinstance(event, Rewound) and (event.seq, event.to_seq) not in self._rewinds:
                self._rewinds = sorted([*self._rewinds, (event.seq, event.to_seq)])
                return False
            if is_sound(event):
                self.take_event(event, str(fields["event"]))
            else:
                self.troubles.unreadable(f"event {event.seq:,} is no {fields['event']!r:.80}")
        return True

    def _take_scalars(self, one: Scalars, keys: Sequence[tuple[str, bool]]) -> None:
        size = len(one.seqs)
        last = np.full(len(keys), -1)
        last[one.whose] = np.arange(size)  # of several of a key the last one stays
        rows = last[last >= 0]
        steps = one.steps[rows].tolist()
        columns = (one.values[rows].tolist(), one.counts[rows].tolist(), steps, one.seqs[rows].tolist())
        for number, value, count, step, seq in zip(one.whose[rows].tolist(), *columns, strict=True):
            key = keys[number][0]
            before = self.newest.get(key)
            if before is None or before.seq < seq:
                self.newest[key] = Newest(value, count, None if step == NO_STEP else step, seq)
        if one.values.dtype != np.float64 or not bool(np.isfinite(one.values).all()) or bool((one.counts != 1).any()):
            self._count_not_finite(one, keys)
        self._see_times(one.times, one.seqs)
        furthest = int(one.steps.max(initial=NO_STEP))
        if furthest != NO_STEP:
            self._see_step(furthest, float(one.times[-1]))

    def _count_not_finite(self, one: Scalars, keys: Sequence[tuple[str, bool]]) -> None:
        rows = of_values(one.steps, one.values, one.counts)
        bad = np.flatnonzero(rows.not_finite)
        for number in np.unique(one.whose[bad]).tolist():
            own = bad[one.whose[bad] == number]
            self.add_not_finite(keys[number][0], rows.take(own))

    def add_not_finite(self, key: str, rows: Buckets) -> None:
        """Count values of a scalar, none of which is finite."""
        if not rows.size:
            return
        was = self.not_finite.get(key) or NotFinite(0, 0, 0, None, None)
        steps = rows.first[rows.first != NO_STEP]
        ends = [step for step in (was.first, was.last) if step is not None]
        ends += [int(steps.min()), int(steps.max())] if len(steps) else []
        nan, plus, minus = (int(column.sum()) for column in (rows.nan, rows.plus_inf, rows.minus_inf))
        self.not_finite[key] = NotFinite(
            was.nan + nan, was.plus_inf + plus, was.minus_inf + minus, min(ends, default=None), max(ends, default=None)
        )

    def _see_times(self, times: Array, seqs: Array) -> None:
        if not bool(np.isfinite(times).all()):  # of no hub
            return
        self._see_time(float(times[0]), int(seqs[0]))
        if len(times) > 1:
            differences = times[1:] - times[:-1]
            worst = int(differences.argmin())
            if differences[worst] < -BACK:
                self._back(int(seqs[worst + 1]), -float(differences[worst]))
            self._learn(float(differences.max()))
            self.time = float(times[-1])
            self._train(self.time)
            self._times.extend(dict.fromkeys(times[-64:].tolist()))

    def _see_time(self, time: float, seq: int) -> None:
        before, self.time = self.time, time
        self._train(time)
        if before is None:
            self.began = time
        else:
            gap = time - before
            if gap > PAUSE and gap > 20 * self.usual:
                self.pace.restart()
                self._times.clear()
            self._learn(gap)
            if -gap > BACK:
                self._back(seq, -gap)
        if not self._times or time != self._times[-1]:
            self._times.append(time)

    def _train(self, time: float) -> None:
        """Count the seconds since the furthest time: the events of a batch come after all its scalars."""
        if self._furthest is None or time < self._furthest - BACK:
            self._furthest = time
        elif time > self._furthest:
            self.trained += time - self._furthest
            self._furthest = time

    def _learn(self, gap: float) -> None:
        """Learn that something came after some seconds of silence."""
        if self._silence < gap <= LONGEST_SILENCE:
            self._silence = gap

    def _back(self, seq: int, seconds: float) -> None:
        self.backs = (self.backs[0] + 1, seq, seconds)
        self.pace.restart()
        self._marked = float("-inf")

    def _see_step(self, step: int, time: float) -> None:
        self.pace.see(scalar_updated(self.seq, time, step, "", 0.0, 1))
        if time - self._marked >= MEASURED:
            self._marked = time
            self.pace.mark(time)

    def take_event(self, event: Event, kind: str) -> None:
        """Take account of one event that is no scalar.

        Args:
            event: it.
            kind: the name of its class, also of one that is not known here.
        """
        if isinstance(event, StateLoaded | Rewound):
            self._furthest = None
        if math.isfinite(event.time):
            self._see_time(event.time, event.seq)
        if isinstance(event, InfoUpdated):
            self._take_info(event)
            return
        if isinstance(event, InfoRemoved):
            self.infos.pop(event.key, None)
            return
        self.kinds[kind] += 1
        if isinstance(event, StateLoaded | Rewound):
            self.stop = self.stopped = self.paused = None
            self._pause()
        elif isinstance(event, Paused | PauseEnded):
            if isinstance(event, PauseEnded):
                self.trained = max(self.trained - max(event.seconds, 0.0), 0.0)
            self.paused = event if isinstance(event, Paused) else None
        elif isinstance(event, Decided):
            since = (self._furthest or event.time) - event.time
            self.rulings.take(event, self.trained - max(since, 0.0))
        elif isinstance(event, Marked):
            self.states = event.states if isinstance(event.states, Mapping) else {}
        elif isinstance(event, PipelineReported):
            self.pipelines[event.pipeline] = event
        elif isinstance(event, BottleneckChanged):
            self.limits[event.pipeline] = event
        elif isinstance(event, Request | RequestApplied | RequestRefused):
            self._take_request(event)
        if event.step is not None:
            self.pace.see(event)
        self.marks.take(event)
        self.troubles.take(event)

    def _take_request(self, event: Request | RequestApplied | RequestRefused) -> None:
        if event.id:
            self.requests.append(event)
        if isinstance(event, StopRequested):
            if self.stop is None or self.stopped is None:
                self.stop = self.stop or event
        elif isinstance(event, RequestApplied) and event.request == StopRequested.__name__:
            self.stopped = self.stopped or event
        elif isinstance(event, RequestRefused) and self.stop is not None and event.request_seq == self.stop.seq:
            self.stop = None

    def _take_info(self, event: InfoUpdated) -> None:
        value = event.value
        if isinstance(value, int) and abs(value) >= HUGE:
            self.infos.pop(event.key, None)
            return
        if isinstance(value, str):
            value = value[:LONGEST_INFO]
        if isinstance(value, bool | int | float | str):
            self.infos[event.key] = value
        else:
            self.infos.pop(event.key, None)
        self.pace.see(event)


def _first_time(batch: Batch) -> float:
    times = [float(one.times[0]) for one in batch.scalars if len(one.times)]
    if batch.events:
        try:
            times.append(float(decode_event(batch.events[0][1])[0].time))
        except StateError:
            return min(times, default=float("nan"))
    return min(times, default=float("nan"))
