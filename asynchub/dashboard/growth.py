"""What a viewer has of a run: the closed buckets in a file, those that are newer, and the open ones.

Young: as long as a run has fewer than ``YOUNG`` values, they are held as they are. Then the width of level 0 is chosen,
    once and for all: that of some 64 values of the key that has most.
Rewound: where a run was resumed from an earlier state, what came after that state is taken out of the buckets; of the
    one amid which the state was, the values are read from the journal again. So are those that count again, where that
    state had been abandoned before.
Threads: one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, fold, joined
from asynchub.dashboard.growing import BLOCK, LEVELS, Owned, Pile, ends_of, grown, merged, tail, together, width_of
from asynchub.dashboard.points import numbered
from asynchub.dashboard.pyramid_file import NONE, PyramidFile, RunState
from asynchub.dashboard.rewinding import inside, turned
from asynchub.dashboard.sifting import counting

__all__ = ("YOUNG", "Growth", "extents")

YOUNG = 16_384
"""Values that a run may have without buckets."""
MOST_TAILS = 512
"""Keys of which the ends of all levels are worked out at once, and ends that are kept of a run that has more."""
Again = Callable[[Sequence[tuple[int, int]], Mapping[str, int]], Owned]
"""Reads the values of some keys, by number, once more, whose events are in some intervals."""
AT_ONCE = 2**16
"""Events of which the values are read at once that count again."""
MAX_SHIFT = 40


class Growth:
    """Buckets of a run, growing.

    Attributes:
        state: what else is known of it.
        is_held: whether values are held as they are, however many there are.

    Args:
        file: where buckets are that were closed earlier; None for nowhere.
    """

    def __init__(self, file: PyramidFile | None) -> None:
        self._file = file
        self.state = RunState()
        if file is not None and (known := file.state) is not None:
            self.state = replace(
                known,
                keys=list(known.keys),
                opens=list(known.opens),
                rewinds=list(known.rewinds),
                epochs=list(known.epochs),
            )
        self.is_held = False
        self._numbers = {key: number for number, key in enumerate(self.state.keys)}
        self._held = Pile(1)
        self._kept: dict[tuple[int, int], int] = {}
        self._tails_of: list[Owned] | None = None
        self._ends: list[Owned] = []
        self._tails: dict[tuple[int, int], Buckets] = {}
        self._closed: list[Pile] = []
        self._begin_piles()

    def _begin_piles(self) -> None:
        self._closed = [Pile(width_of(self.state.shift or 0, level)) for level in range(LEVELS)]

    @property
    def unsaved(self) -> int:
        """How many buckets of level 0 are closed and not in the file."""
        return self._closed[0].size

    @property
    def grain(self) -> int:
        """Steps of a bucket of level 0; of a young run, those that it would have by now."""
        if self.state.shift is not None:
            return int(2**self.state.shift)
        held = self._held.all()
        return int(2 ** (_shift(held) if held.rows.size else BLOCK))

    def number_of(self, key: str) -> int:
        """Return the number of a key, a new one if it has none yet."""
        number = self._numbers.setdefault(key, len(self._numbers))
        if number == len(self.state.keys):
            self.state.keys.append(key)
            state = self.state
            state.seen = np.append(state.seen, 0)
            state.lows, state.highs = np.append(state.lows, NONE), np.append(state.highs, -NONE)
        return number

    def known(self, key: str) -> int | None:
        """Return the number of a key, None if it has none."""
        return self._numbers.get(key)

    def numbered(self, values: Owned) -> Owned:
        """Return values that come next with an index as the step of each that has none."""
        return numbered(values, self.state.seen)

    def feed(self, values: Owned) -> None:
        """Take the values that come next, in the order of ``seq``."""
        if not values.rows.size:
            return
        values = self.numbered(values)
        state = self.state
        state.seen = state.seen + np.bincount(values.owners, minlength=len(state.keys))
        state.lows, state.highs = extents(state.lows, state.highs, values)
        if state.shift is None:
            self._held.add(values)
            if self._held.size < YOUNG or self.is_held:
                return
            values, self._held = self._held.all(), Pile(1)
            state.shift = _shift(values)
            self._begin_piles()
        state.opens, closed = grown(state.opens, values, state.shift)
        for pile, rows in zip(self._closed, closed, strict=True):
            pile.add(rows)

    # --- what there is

    def rows(self, owner: int, level: int, fresh: Buckets, low: int = -NONE, high: int = NONE) -> Buckets:
        """Return the buckets of a key at a level, in the order of ``seq``; of a young run, its values.

        Args:
            owner: number of the key.
            level: the level.
            fresh: values that come next.
            low: those with smaller steps only may be left out.
            high: those with larger steps only may be left out.

        Raises:
            CorruptStateError: the file is damaged.
            OSError: it cannot be read.
        """
        shift = self.state.shift
        if shift is None:
            return joined([self._held.of(owner), fresh], 1)
        width = width_of(shift, level)
        high = high if high > NONE - width else high | (width - 1)
        return self._closed_rows(owner, level, low & -width, high, self._tail(owner, level, fresh, shift))

    def _tail(self, owner: int, level: int, fresh: Buckets, shift: int) -> Buckets:
        """Return what a level has beyond its closed buckets; kept, as a run that is over is asked for it often."""
        opens = self.state.opens
        if fresh.size:
            return tail([one.of(owner) for one in opens[: level + 1]], fresh, shift, level)
        if self._tails_of is not opens or len(self._tails) > MOST_TAILS:
            self._tails_of, self._tails = opens, {}
            self._ends = opens[:1]
        if len(self.state.keys) <= MOST_TAILS:
            for number in range(len(self._ends), level + 1):
                width = width_of(shift, number)
                self._ends.append(ends_of(opens[number], self._ends[-1], width))
            return self._ends[level].of(owner)
        if (owner, level) not in self._tails:
            self._tails[owner, level] = tail([one.of(owner) for one in opens[: level + 1]], fresh, shift, level)
        return self._tails[owner, level]

    def _closed_rows(
        self, owner: int, level: int, low: int = -NONE, high: int = NONE, after: Buckets | None = None
    ) -> Buckets:
        closed = self._closed[level]
        rest = [] if after is None else [after]
        pending = joined([closed.of(owner), *rest] if closed.size else rest, closed.width)
        most = self._saved(owner, level)
        if self._file is None or not most:
            return pending
        return self._file.rows(owner, level, most, low, high, pending)

    def _saved(self, owner: int, level: int) -> int:
        """Return how many of the buckets in the file count."""
        if (kept := self._kept.get((owner, level))) is not None:
            return kept
        return self._file.count(owner, level) if self._file is not None else 0

    def save(self) -> None:
        """Append to the file what is not in it.

        Raises:
            OSError: it cannot be written.
        """
        if self._file is None or self.state.shift is None:
            return
        self._file.append(self.state, [pile.all() for pile in self._closed], self._kept)
        self._kept = {}
        self._begin_piles()

    def adopt(self, file: PyramidFile) -> bool:
        """Let go of what another viewer has put into a file meanwhile; return whether that was possible.

        Args:
            file: the file as it is now; what it knows is no newer than what is known here.
        """
        known = file.state
        if known is None or known.shift != self.state.shift or known.rewinds != self.state.rewinds:
            return False
        if known.keys != self.state.keys[: len(known.keys)]:
            return False
        left = []
        for level, pile in enumerate(self._closed):
            rows = pile.all()
            owners, starts, sizes = np.unique(rows.owners, return_index=True, return_counts=True)
            saved = [file.count(owner, level) - self._saved(owner, level) for owner in owners.tolist()]
            if any(not 0 <= more <= size for more, size in zip(saved, sizes.tolist(), strict=True)):
                return False
            rank = np.arange(rows.rows.size) - np.repeat(starts, sizes)
            left.append(rows.take(rank >= np.repeat(np.array(saved, np.int64), sizes)))
        self._file, self._kept = file, {}
        self._begin_piles()
        for pile, rows in zip(self._closed, left, strict=True):
            pile.add(rows)
        return True

    # --- what does not count

    def rewind(self, seq: int, to_seq: int, again: Again) -> Iterator[None]:
        """Take out what does not count any more, and bring back what counts again, in slices: a step is a slice.

        In between, a part of what counts again is still missing.

        Args:
            seq: that of the ``Rewound``.
            to_seq: that of the last event that counts, from 0 to ``seq - 1``.
            again: reads values once more.

        Raises:
            CorruptStateError: the file is damaged.
            OSError: it cannot be read.
        """
        state = self.state
        turn = turned(state.rewinds, seq, to_seq)
        if state.shift is None:
            held = self._held.all()
            held = held.take(held.rows.first_seq <= turn.common)
            self._held = Pile(1)
            self._held.add(held)
            state.seen = np.bincount(held.owners, minlength=len(state.keys))
            nothing = np.full(len(state.keys), NONE)
            state.lows, state.highs = extents(nothing, -nothing, held)
        else:
            self._cut(turn.common, again)
        state.rewinds.append((seq, to_seq))
        for after, upto in turn.back:
            for start in range(after, upto, AT_ONCE):
                yield
                self.feed(again([(start + 1, min(start + AT_ONCE, upto))], self._numbers))

    def _cut(self, to_seq: int, again: Again) -> None:
        state = self.state
        before = {owner: self._cut_of(owner, to_seq) for owner in self._touched(to_seq)}
        straddling = {owner: row for owner, (_, row) in before.items() if row is not None}
        values = again(merged(straddling.values()), {state.keys[owner]: owner for owner in straddling}).by_owner()
        values = values.take(inside(counting(state.rewinds), values.rows.first_seq))
        opens: list[list[Owned]] = [[one.take(one.rows.last_seq <= to_seq)] for one in state.opens]
        state.seen, state.lows, state.highs = state.seen.copy(), state.lows.copy(), state.highs.copy()
        for owner, (levels, row) in before.items():
            rows = levels[0]
            if row is not None:
                own = values.of(owner)
                own = own.take((own.first_seq >= row[0]) & (own.first_seq <= row[1]))
                if own.size:
                    own = numbered(Owned(np.zeros(own.size, np.int64), own), rows.points.sum(keepdims=True)).rows
                    own = fold(own, np.array([0]), rows.width)
                    opens[0].append(Owned(np.array([owner]), own))
                    rows = joined([rows, own], rows.width)
            self._open_again(owner, levels, to_seq, opens)
            state.seen[owner] = rows.points.sum()
            state.lows[owner] = rows.first.min(initial=NONE)
            ends = np.where(rows.points > 1, rows.steps + (rows.width - 1), rows.first)
            state.highs[owner] = ends.max(initial=-NONE)
        state.opens = [
            together(parts, width_of(state.shift or 0, level)).by_owner() for level, parts in enumerate(opens)
        ]
        for level, pile in enumerate(self._closed):
            kept = pile.all()
            self._closed[level] = Pile(pile.width)
            self._closed[level].add(kept.take(kept.rows.last_seq <= to_seq))

    def _touched(self, to_seq: int) -> list[int]:
        """Return the keys that may have something after an event."""
        opens = self.state.opens[0]
        untouched = set(opens.owners[opens.rows.last_seq <= to_seq].tolist())
        return [owner for owner in range(len(self.state.keys)) if owner not in untouched]

    def _cut_of(self, owner: int, to_seq: int) -> tuple[list[Buckets], tuple[int, int] | None]:
        """Return the closed buckets of each level that stay; and what stays of the one of level 0 that was cut in two.

        That is the ``seq`` of its first value, and of the last that it may have.
        """
        levels: list[Buckets] = []
        row = None
        for level in range(LEVELS):
            rows = self._closed_rows(owner, level)
            stay = int(np.searchsorted(rows.last_seq, to_seq, side="right"))
            if level == 0:
                both = joined([rows, self.state.opens[0].of(owner)], rows.width)
                if stay < both.size and int(both.first_seq[stay]) <= to_seq < int(both.last_seq[stay]):
                    row = int(both.first_seq[stay]), to_seq
            if stay < self._saved(owner, level):
                self._kept[owner, level] = stay
            levels.append(rows.take(slice(0, stay)) if stay < rows.size else rows)
            if not rows.size:  # nor is there anything above
                break
        return levels, row

    def _open_again(self, owner: int, levels: Sequence[Buckets], to_seq: int, opens: list[list[Owned]]) -> None:
        """Make the open buckets above level 0, where they were cut, of what stays below."""
        for level in range(1, len(levels)):
            was = self.state.opens[level].of(owner)
            if was.size and int(was.last_seq[0]) <= to_seq:
                continue
            last = int(levels[level].last_seq[-1]) if levels[level].size else -1
            below = levels[level - 1]
            below = below.take(slice(int(np.searchsorted(below.first_seq, last, side="right")), None))
            if below.size:
                whole = fold(below, np.array([0]), levels[level].width)
                opens[level].append(Owned(np.array([owner]), whole))


def extents(lows: Array, highs: Array, values: Owned) -> tuple[Array, Array]:
    """Return the smallest and largest step of each key when some values have come."""
    lows, highs = lows.copy(), highs.copy()
    np.minimum.at(lows, values.owners, values.rows.first)
    np.maximum.at(highs, values.owners, values.rows.first)
    return lows, highs


def _shift(values: Owned) -> int:
    """Return what the width of level 0 is 2 to the power of, for values in the order of keys."""
    most = int(np.bincount(values.owners).argmax())
    distances = np.diff(values.of(most).first)
    forward = distances[distances > 0]
    spacing = max(int(np.median(forward)), 1) if len(forward) else 1
    return min(BLOCK + (spacing - 1).bit_length(), MAX_SHIFT)
