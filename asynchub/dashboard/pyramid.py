"""A run, for whoever looks at it: buckets of all its scalars at any width, as far as its journal reaches by now.

Exact: what counts is in it once. What was rewound does not count. Events that a journal has deleted come from its
    snapshot, if there is one; else they are missing, and counted. Where an event is damaged, it ends, and says so.
Fresh: ``update`` takes what has come since, from the tail of the journal, too. What a run says after it was resumed
    comes when it is in a segment.
Harmless: the folder of the run is only read. Closed buckets are kept in a cache, so that a long run opens at once the
    next time; without one, or with one that is damaged, the journal is read from its beginning.
Viewers: one that looks at a run keeps the cache; others read it, and hold what is newer in memory.
Memory: what is not in the cache: of a run that is followed, at most some 20 MB; of one whose cache cannot be written,
    or that has no journal, about 2 and 100 bytes a value.
Threads: any thread may call anything here; one at a time goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from asynchub.dashboard.buckets import Buckets, joined
from asynchub.dashboard.growing import FACTOR, LEVELS, Owned, together, width_of
from asynchub.dashboard.points import numbered
from asynchub.dashboard.pyramid_file import NONE
from asynchub.dashboard.remembering import Memo, Version
from asynchub.dashboard.rewinding import inside, turned
from asynchub.dashboard.run_reader import RunReader
from asynchub.dashboard.sifting import counting
from asynchub.dashboard.singles import Missing, Singles
from asynchub.history import NO_STEP

__all__ = ("Pyramid",)

MOST_EVENTS = 8_000_000
"""Events, at most, that the journal is read for at once to show single values."""


class Pyramid:
    """What there is to see of a run.

    Attributes:
        folder: of the run.
        memo: what was worked out of its present ``version``, or of one before to go on from.

    Args:
        folder: of the run, which holds a folder ``journal``, or snapshots, or a ``metrics.jsonl``; or of the journal.
        cache: folder to keep buckets in; default ``asynchub/pyramids`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """

    def __init__(self, folder: str | PathLike[str], cache: str | PathLike[str] | None = None) -> None:
        self.folder = Path(folder)
        self._lock = threading.RLock()
        self._reader = RunReader(self.folder, None if cache is None else Path(cache))
        self.memo = Memo()
        self._singles = Singles()

    def __enter__(self) -> Pyramid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, seconds: float = float("inf")) -> bool:
        """Take what has come since; return whether there is more.

        It raises nothing about the run: what is wrong with it is in ``problem``.

        Args:
            seconds: how long to go on at most, about.
        """
        with self._lock:
            return self._reader.update(seconds)

    def close(self) -> None:
        """Save what is worth it, and let another viewer keep the cache."""
        with self._lock:
            self._reader.close()

    # --- what is known of the run

    @property
    def problem(self) -> str:
        """What is wrong with the run, in words; "" if nothing is."""
        return self._reader.problem

    @property
    def cache_problem(self) -> str:
        """Why the cache cannot be kept, in words; "" if it can."""
        return self._reader.cache_problem

    @property
    def run_id(self) -> str:
        """Identity of the run, 32 hexadecimal digits; "" while that is not known."""
        head = self._reader.head
        return head.run_id.hex() if head is not None else ""

    @property
    def name(self) -> str:
        """Name of the hub that wrote it, or of its folder."""
        head = self._reader.head
        return (head.name if head is not None else "") or self.folder.resolve().name

    @property
    def keys(self) -> list[str]:
        """The keys of all scalars that have a value, in the order in which they came."""
        with self._lock:
            state, fresh = self._reader.growth.state, self._reader.fresh()
            seen = state.seen + np.bincount(fresh.owners, minlength=len(state.keys))
            return [key for key, count in zip(state.keys, seen.tolist(), strict=True) if count]

    @property
    def seq(self) -> int:
        """Everything up to this ``seq`` is in it."""
        return max(self._reader.growth.state.seq, self._reader.fresh_seq)

    @property
    def version(self) -> Version:
        """What is the same for as long as there is nothing new of the run."""
        growth = self._reader.growth
        return Version(growth, len(growth.state.rewinds), self.base, growth.state.seq, self._reader.fresh_seq)

    @property
    def missed(self) -> int:
        """How many events nobody has any more: they were deleted from the journal."""
        return self._reader.growth.state.missed

    @property
    def began(self) -> float:
        """When the first scalar was published, in seconds since the epoch; NaN before that."""
        with self._lock:
            began, fresh = self._reader.growth.state.began, self._reader.fresh().rows.times
            return began if np.isfinite(began) else float(np.fmin.reduce(fresh, initial=np.nan))

    @property
    def newest(self) -> float:
        """When the newest scalar was published, in seconds since the epoch; NaN before the first."""
        return float(np.fmax(self._reader.newest, self._reader.growth.state.newest))

    @property
    def rewinds(self) -> list[tuple[int, int]]:
        """``seq`` and ``to_seq`` of each ``Rewound``: what came between does not count, unless it was gone back to."""
        return list(self._reader.growth.state.rewinds)

    @property
    def epochs(self) -> list[tuple[int, float]]:
        """``seq`` and value of each update of the runtime info ``epoch`` that counts and is a finite number."""
        with self._lock:
            state = self._reader.growth.state
            counts = inside(counting(state.rewinds), np.array([seq for seq, _ in state.epochs], np.int64))
            return [one for one, is_counted in zip(state.epochs, counts.tolist(), strict=True) if is_counted]

    def count(self, key: str) -> int:
        """Return how many values of a key count."""
        with self._lock:
            owner = self._reader.growth.known(key)
            if owner is None:
                return 0
            return int(self._reader.growth.state.seen[owner]) + self._reader.fresh().of(owner).size

    def extent(self, key: str) -> tuple[int, int] | None:
        """Return the smallest and the largest step of a key's values; None if it has none.

        Where a run was resumed, the largest may be the end of the bucket that it is in.
        """
        with self._lock:
            owner = self._reader.growth.known(key)
            if owner is None:
                return None
            state, fresh = self._reader.growth.state, self._reader.fresh()
            low, high = int(state.lows[owner]), int(state.highs[owner])
            if fresh.rows.size:
                steps = fresh.of(owner).first
                low, high = min(low, int(steps.min(initial=NONE))), max(high, int(steps.max(initial=-NONE)))
            return (low, high) if low <= high else None

    # --- buckets

    @property
    def base(self) -> int:
        """Steps of a bucket of level 0; 1 of a young run, which has single values."""
        shift = self._reader.growth.state.shift
        return 1 if shift is None else int(2**shift)

    @property
    def grain(self) -> int:
        """Steps of a bucket of level 0; of a young run, those that it would have."""
        return self._reader.growth.grain

    def level_of(self, width: int) -> int:
        """Return the level with the widest buckets that make up those of a width; -1 if only single values do."""
        shift = self._reader.growth.state.shift
        if shift is None:
            return 0
        power = width.bit_length() - 1
        return -1 if power < shift else min((power - shift) // FACTOR, LEVELS - 1)

    def rows(self, key: str, level: int = 0, low: int = -NONE, high: int = NONE) -> Buckets:
        """Return the buckets of a key at a level, in the order of ``seq``; of a young run, single values.

        Where steps went back, there is more than one of a step; ``reduce`` makes them one.

        Args:
            key: whose.
            level: the level.
            low: those that have smaller steps only may be left out.
            high: those that have larger steps only may be left out.

        Raises:
            OSError: neither the cache nor the journal can be read.
        """
        with self._lock:
            reader = self._reader

            def ask() -> Buckets:
                owner = reader.growth.known(key)
                if owner is None:
                    return Buckets.none(width_of(reader.growth.state.shift or 0, level))
                fresh = reader.fresh()
                return reader.growth.rows(owner, level, fresh.of(owner) if fresh.rows.size else fresh.rows, low, high)

            return reader.answered(ask)

    def values(self, key: str, rows: Buckets) -> Buckets | None:
        """Return the single values of one key; see ``values_of``."""
        return self.values_of({key: rows})[key]

    def values_of(self, wanted: Mapping[str, Buckets]) -> dict[str, Buckets | None]:
        """Return the single values that some buckets are made of; the journal is read once for all of them.

        Args:
            wanted: of some keys, buckets that ``rows`` returned for level 0.

        Returns:
            The values of each key, in the order of ``seq``; None if they are too many or not there any more.
        """
        found: dict[str, Buckets | None] = {}
        many = {key: rows.take(rows.points > 1) for key, rows in wanted.items()}
        with self._lock:
            growth = self._reader.growth
            self._singles.go_on((growth, len(growth.state.rewinds)))
            missing = self._singles.missing(many)
            few = _events(_intervals(many.values())) <= MOST_EVENTS
            read = self._read({key: one.rows for key, one in missing.items()}) if few else None
            for key, rows in wanted.items():
                one = rows.take(rows.points == 1)._replace(width=1)
                values = self._exactly(key, missing[key], read) if many[key].size else Buckets.none()
                if values is not None and many[key].size:
                    values = self._singles.take(many, key, many[key], missing[key], values)
                found[key] = None if values is None else _in_order(joined([values, one], 1))
            if self._reader.is_over:  # what is asked for again is in the memo
                self._singles.go_on(None)
        return found

    def rewound(self, key: str) -> list[Buckets | None]:
        """Return, for each ``Rewound``, the values of a key that do not count because of it; those without a step not.

        What counts again by now is with none of them. None stands where they are too many. What the journal has deleted
        is left out.
        """
        found: list[Buckets | None] = []
        with self._lock:
            rewinds = self.rewinds
            turns = [turned(rewinds[:number], *one) for number, one in enumerate(rewinds)]
            for number, (_, gone, _) in enumerate(turns):
                if sum(upto - after for after, upto in gone) > MOST_EVENTS:
                    found.append(None)
                    continue
                values = self._reader.again([(after + 1, upto) for after, upto in gone], {key: 0}).rows
                left = values.first != NO_STEP
                for turn in turns[number + 1 :]:
                    left &= ~inside(turn.back, values.first_seq)
                found.append(values.take(left))
        return found

    def _read(self, wanted: Mapping[str, Buckets]) -> Owned:
        """Return all values of some keys that are in some buckets, and others."""
        growth = self._reader.growth
        numbers = {key: number for key in wanted if (number := growth.known(key)) is not None}
        found = self._reader.again(_intervals(wanted.values()), numbers)
        found = found.take(found.rows.first_seq <= growth.state.seq)  # by now it may have what is fresh, too
        return together([found, self._reader.fresh_as_said()], 1).by_owner()

    def _exactly(self, key: str, missing: Missing, read: Owned | None) -> Buckets | None:
        """Return the values that are missing of some buckets; None if they were not read."""
        owner, rows = self._reader.growth.known(key), missing.rows
        if owner is None or read is None:
            return None
        if not rows.size:
            return Buckets.none()
        found = read.of(owner)
        found = found.take(inside(counting(self.rewinds), found.first_seq))
        order = np.argsort(rows.first_seq)
        lows, highs = rows.first_seq[order], rows.last_seq[order]
        which = np.searchsorted(lows, found.first_seq, side="right") - 1
        found = found.take((which >= 0) & (found.first_seq <= highs[which]))
        if found.size != int(rows.points.sum()):
            return None
        return self._indexed(key, missing, found) if bool((found.first == NO_STEP).any()) else found

    def _indexed(self, key: str, missing: Missing, found: Buckets) -> Buckets:
        """Return values that are missing of some buckets, with an index as the step of each that has none."""
        rows = self.rows(key)
        before = np.cumsum(rows.points) - rows.points
        before[np.searchsorted(rows.first_seq, missing.rows.first_seq, side="right") - 1] += missing.before
        which = np.searchsorted(rows.first_seq, found.first_seq, side="right") - 1
        return numbered(Owned(which, found), before).rows


def _intervals(parts: Iterable[Buckets]) -> list[tuple[int, int]]:
    """Return the first and the last ``seq`` of each stretch that buckets have something in, in order."""
    rows = [part for part in parts if part.size]
    if not rows:
        return []
    firsts = np.concatenate([part.first_seq for part in rows])
    order = np.argsort(firsts, kind="stable")
    firsts, lasts = firsts[order], np.maximum.accumulate(np.concatenate([part.last_seq for part in rows])[order])
    begins = np.flatnonzero(np.append(True, firsts[1:] > lasts[:-1] + 1))
    ends = np.append(begins[1:], len(firsts)) - 1
    return list(zip(firsts[begins].tolist(), lasts[ends].tolist(), strict=True))


def _events(intervals: Sequence[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in intervals)


def _in_order(values: Buckets) -> Buckets:
    """Return values in the order of ``seq``."""
    seqs = values.first_seq
    return values.take(np.argsort(seqs, kind="stable")) if bool((seqs[1:] < seqs[:-1]).any()) else values
