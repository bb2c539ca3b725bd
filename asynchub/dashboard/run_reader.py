"""A run's journal, followed into buckets, which are kept in a cache; see ``asynchub.dashboard.pyramid``.

Threads: one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from asynchub.batches import Batch
from asynchub.dashboard.frame_index import FrameIndex
from asynchub.dashboard.growing import Owned, together
from asynchub.dashboard.growth import Growth
from asynchub.dashboard.heads import JournalHead, journal_head
from asynchub.dashboard.keeping import CacheLock, cache_path
from asynchub.dashboard.past import LOG, Deleted, Past, outside, past_outside
from asynchub.dashboard.points import is_still_there, place_of, values_of
from asynchub.dashboard.pyramid_file import PyramidFile
from asynchub.dashboard.rewinding import inside
from asynchub.dashboard.saying import said
from asynchub.dashboard.slicing import Work
from asynchub.errors import AsyncHubError, CorruptStateError, JournalError, StateError
from asynchub.events import EventsDropped, Rewound
from asynchub.journal.folder import find_journal
from asynchub.journal.reading import segment_files
from asynchub.journal.segments import SegmentReader
from asynchub.journal.tail import NAME as TAIL
from asynchub.journal.tailing import TailReader
from asynchub.locking import is_released

__all__ = ("RunReader",)

T = TypeVar("T")
SAVED_EACH = 65_536
"""Closed buckets of level 0 that are appended to the cache at once."""
WORTH_SAVING = 4_096
"""Closed buckets of level 0 that are saved when a viewer goes."""


class _BeganAgainError(CorruptStateError):
    """The cache was damaged or deleted, and everything was begun again without."""


class RunReader:
    """What there is of a run, and where it comes from.

    Attributes:
        growth: its buckets, as far as the segments of its journal reach.
        journal: folder of its journal; None while there is none.
        head: what that says of itself.
        problem: what is wrong with the run, in words; "" if nothing is.
        cache_problem: why the cache cannot be kept; "" if it can.
        fresh_seq: up to this event, what is not in ``growth`` is in ``fresh``.
        newest: when the newest of these values was published; NaN if there are none.

    Args:
        folder: of the run.
        cache: folder of the cache; None for the user's own.
    """

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self.folder = folder
        self.problem = self.cache_problem = ""
        self.journal: Path | None = None
        self.head: JournalHead | None = None
        self._cache = cache
        self._file: PyramidFile | None = None
        self._lock: CacheLock | None = None
        self._segments: SegmentReader | None = None
        self._frames: FrameIndex | None = None
        self._tail: TailReader | None = None
        self._outside: tuple[str, int, int] | None = None
        self._deleted = Deleted()
        self._parts: list[Owned] = []
        self._fresh: Owned | None = None
        self._begin_empty()

    # --- what there is

    @property
    def _run(self) -> Path:
        return self.folder if self.journal != self.folder else self.folder.parent

    @property
    def is_over(self) -> bool:
        """Whether the journal, if there is one, says that no more will come."""
        return self._segments is None or self._segments.closed

    def fresh(self) -> Owned:
        """Return the values of the tail, in the order of keys."""
        if self._fresh is None:
            self._fresh = self.growth.numbered(self.fresh_as_said()).by_owner()
        return self._fresh

    def fresh_as_said(self) -> Owned:
        """Return the values of the tail, in the order of ``seq``; of those without a step, ``NO_STEP`` is it."""
        values = together(self._parts, 1)
        self._parts = [values] if values.rows.size else []
        return values

    def again(self, intervals: Sequence[tuple[int, int]], numbers: Mapping[str, int]) -> Owned:
        """Return the values of some keys, by number, whose events are in some intervals, from the segments."""
        return self._frames.values(intervals, numbers) if self._frames is not None else Owned.none()

    def answered(self, ask: Callable[[], T]) -> T:
        """Return what ``ask`` returns; if the cache is damaged, after it was made anew."""
        try:
            return ask()
        except (StateError, OSError):
            if self._file is None:
                raise
        self._drop_cache()
        while self.update():
            pass
        return ask()

    # --- following

    def update(self, seconds: float = float("inf")) -> bool:
        """Take what has come since; return whether there is more.

        Args:
            seconds: how long to go on at most, about.
        """
        deadline = time.monotonic() + seconds
        try:
            return self._opened() and self._follow(deadline)
        except _BeganAgainError:
            return True
        except JournalError as error:  # another run has taken its place
            self._forget_run()
            self.problem = str(error)
            return True
        except (AsyncHubError, OSError) as error:
            self.problem = str(error)
            return False

    def close(self) -> None:
        """Save what is worth it, and close the cache."""
        if not self._work.is_under_way and self.growth.unsaved >= WORTH_SAVING:
            with suppress(_BeganAgainError):
                self._save()
        self._forget_run()
        if self._lock is not None:
            self._lock.release()

    def _forget_run(self) -> None:
        if self._file is not None:
            self._file.close()
        self.head, self._file, self._segments, self._tail, self.journal = None, None, None, None, None
        self._begin_empty()

    def _begin_empty(self) -> None:
        """Begin with what the cache has."""
        self._work = Work()
        self.growth = Growth(self._file)
        self.fresh_seq, self.newest = 0, float("nan")
        self._end = self._tried_end = (0, 0)
        self._saved_seq = self._tried_seq = self.growth.state.seq
        self._parts, self._fresh, self._frames = [], None, None

    def _opened(self) -> bool:
        """Find the journal; return whether there is one to follow."""
        if self._segments is not None:
            return True
        self.journal = find_journal(self.folder)
        if self.journal is None:
            self._look_outside()
            return False
        self.head = journal_head(self.journal)
        if self.head is None:
            self.problem = f"{self.journal} holds no event yet"
            return False
        path = cache_path(self.journal, self._cache)
        self._lock = self._lock or CacheLock(path)
        self._file = PyramidFile(path, self.head.run_id)
        self._begin()
        return True

    def _begin(self) -> None:
        """Follow the journal from where the cache ends."""
        file, journal, head = self._file, self.journal, self.head
        if journal is None or head is None:
            return
        state = file.state if file is not None else None
        if state is not None and (state.place is None or not is_still_there(journal, state.place)):
            state = None
        if file is not None and state is None:
            file.forget()
        self._begin_empty()
        if state is not None and not (journal / TAIL).exists():
            self._end = self._tried_end = state.end
        self._segments = SegmentReader(journal, self.growth.state.seq)
        self._frames = FrameIndex(journal)
        self._segments.run_id = head.run_id
        self._tail = TailReader(journal)
        self.problem = ""

    def _follow(self, deadline: float) -> bool:
        journal, segments = self.journal, self._segments
        if journal is None or segments is None:
            return False
        files = segment_files(journal)
        if files and self.head is not None and self.head.began is None:  # it was known from the tail only
            self.head = journal_head(journal) or self.head
        end = (files[-1][0], files[-1][2].stat().st_size) if files else (0, 0)
        if not self._work.go_on(deadline):
            return True
        if end != self._end:
            while found := segments.read():
                self._work.begin(self._take(found))
                if not self._work.go_on(deadline):
                    return True
                if self.growth.unsaved >= SAVED_EACH and self._tried_seq < self.growth.state.seq:
                    self._save()
                if self._segments is not segments:  # the cache is further
                    return self._follow(deadline)
                if time.monotonic() > deadline:
                    return True
            self._end = end
        self._follow_tail()
        untried = self._tried_seq < self.growth.state.seq or self._tried_end != self._end
        if untried and segments.closed and is_released(journal):
            self._save(ended=True)
        self.problem = ""
        return False

    def _take(self, found: Iterable[Batch | EventsDropped]) -> Iterator[None]:
        """Take what has come, a slice a step where the run was resumed."""
        for batch in found:
            state = self.growth.state
            if isinstance(batch, EventsDropped):
                if not self._take_past(batch.seq):
                    state.missed += batch.missed
                state.seq = batch.seq
                continue
            after = state.seq
            for one in said(batch):
                if isinstance(one, Rewound):
                    self._feed(values_of(batch.between(after, one.seq - 1), self.growth.number_of))
                    yield from self._rewind(one)
                    after = one.seq
                else:
                    state.epochs.append(one)
            self._feed(values_of(batch.between(after, float("inf")), self.growth.number_of))
            state.seq = batch.seqs[1]
            if self._parts:
                fresh = self.fresh_as_said()
                self._parts = [fresh.take(fresh.rows.first_seq > state.seq)]
            self._fresh = None

    def _feed(self, values: Owned) -> None:
        if values.rows.size:
            state = self.growth.state
            state.began = float(np.fmin(state.began, values.rows.times.min()))
            state.newest = float(np.fmax(state.newest, values.rows.times.max()))
            self.growth.feed(values)

    def _rewind(self, event: Rewound) -> Iterator[None]:
        try:
            yield from self.growth.rewind(event.seq, event.to_seq, self._again_or_past)
        except (StateError, OSError) as error:
            if self._file is None:
                self._forget_run()  # half of it may be done: the next update begins anew
                raise
            self._drop_cache()
            raise _BeganAgainError(str(error)) from error
        finally:
            self._deleted.forget()

    def _follow_tail(self) -> None:
        tail = self._tail
        if tail is None:
            return
        self.fresh_seq = max(self.fresh_seq, self.growth.state.seq)
        while batches := tail.poll(self.fresh_seq):
            if self.head is not None and tail.run_id != self.head.run_id:
                raise JournalError(f"{tail.path} belongs to another run than the segments beside it")
            for batch in batches:
                rewound = [one.seq for one in said(batch) if isinstance(one, Rewound)]
                upto = min(rewound, default=2**62) - 1
                values = values_of(batch.between(self.fresh_seq, upto), self.growth.number_of)
                if values.rows.size:
                    self._parts.append(values)
                    self._fresh = None
                    self.newest = float(np.fmax(self.newest, values.rows.times.max()))
                self.fresh_seq = min(batch.seqs[1], upto)
                if rewound:  # that, and what follows, comes from a segment
                    return

    def _again_or_past(self, intervals: Sequence[tuple[int, int]], numbers: Mapping[str, int]) -> Owned:
        """Return what ``again`` does, and of what the journal has deleted by now the values that a snapshot has."""
        values = self.again(intervals, numbers)
        files = segment_files(self.journal) if self.journal is not None else []  # after: some may just have gone
        if not files or not intervals or intervals[0][0] >= files[0][1]:
            return values
        past = self._deleted.upto(self._run, files[0][1] - 1)
        if past is None:
            return values
        self.growth.state.epochs = sorted({*self.growth.state.epochs, *past.epochs})
        owners = np.array([self.growth.number_of(key) for key in past.keys], np.int64)[past.values.owners]
        back = Owned(owners, past.values.rows).take(inside([(one - 1, last) for one, last in intervals], past.seqs))
        kept = values.take(values.rows.first_seq >= files[0][1])
        return together([back.take(np.isin(back.owners, list(numbers.values()))), kept], 1)

    # --- without a journal

    def _take_past(self, upto: int) -> bool:
        """Take the values of deleted segments from a snapshot; return whether there is one."""
        past = self._deleted.upto(self._run, upto)
        self._deleted.forget()
        if past is not None:
            self._take_all(past)
        return past is not None

    def _take_all(self, past: Past) -> None:
        numbers = np.array([self.growth.number_of(key) for key in past.keys], np.int64)[past.values.owners]
        newer = past.values.rows.first_seq > (self.growth.state.seq or -1)
        self.growth.state.epochs += [epoch for epoch in past.epochs if epoch[0] > self.growth.state.seq]
        self._feed(Owned(numbers, past.values.rows).take(newer))

    def _look_outside(self) -> None:
        """Take the values of a run without a journal, if there are other ones than before."""
        path = outside(self.folder)
        if path is None:
            self._outside, self.problem = None, f"{self.folder} holds neither a journal nor a snapshot nor {LOG}"
            self._begin_empty()
            return
        status = path.stat()
        if (now := (path.name, status.st_size, status.st_mtime_ns)) == self._outside:
            return
        past = past_outside(self.folder, path)
        self._begin_empty()
        self.growth.is_held = True
        self._take_all(past)
        if past.values.rows.size:
            self.growth.state.seq = int(past.values.rows.last_seq.max())
        self._outside, self.problem = now, past.problem or ("" if past.keys else f"no value can be read in {path}")

    # --- the cache

    def _save(self, ended: bool = False) -> None:
        """Append to the cache; if another viewer keeps it, go on from there if it is further."""
        file, journal, lock = self._file, self.journal, self._lock
        if file is None or journal is None or lock is None or self.growth.state.shift is None:
            return
        try:
            held = lock.held
            if (not lock.take() or not held) and (self._go_on_from_cache() or not lock.held):
                return
            file = self._file
            if file is None or (file.state is not None and not file.is_there()):  # somebody has deleted it
                self._drop_cache()
                raise _BeganAgainError("the cache is not there any more")
            state = self.growth.state
            self._tried_seq, self._tried_end, state.end = state.seq, self._end, self._end
            state.place = place_of(journal, state.seq)
            if state.place is not None:  # else its segment has been deleted
                self.growth.save()
                self._saved_seq = state.seq
                if file.is_scattered(ended):
                    file.compact()
            self.cache_problem = ""
        except OSError as error:
            self.cache_problem = f"the cache cannot be written: {error}"

    def _go_on_from_cache(self) -> bool:
        """Let another viewer's cache take the place of what is in memory; return whether that is further."""
        file, head = self._file, self.head
        if file is None or head is None or not file.has_changed():
            return False
        now = PyramidFile(file.path, head.run_id)
        if now.state is None or now.state.seq <= self._saved_seq:
            now.close()
            return False
        self._file = now
        if now.state.seq <= self.growth.state.seq and self.growth.adopt(now):
            self._saved_seq = now.state.seq
            file.close()
            return False
        file.close()
        self._begin()
        return True

    def _drop_cache(self) -> None:
        """Begin without a cache: with a new one, or, if another viewer keeps it, with none."""
        file, self._file = self._file, None
        if file is not None:
            file.forget()
            with suppress(OSError):
                if self._lock is not None and self._lock.take():
                    file.path.unlink(missing_ok=True)
                    self._file = file
        self._begin()
