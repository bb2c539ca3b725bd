"""Frames made smaller where a spool has no room for all of them: merged, with fewer events, and exact counts.

Kept of a scalar: the first, the last, the smallest and the largest finite value of each key, and the first NaN and
    infinities; each as the event that it was.
Kept of the rest: every other event; or, if asked, of runtime infos only the newest event of each key.
Counted: a merged frame stands for all the events of those that it was made of, and says how many of them are not in it.
Order: frames that are not of events stay as they are, and where they are; so do those that do not follow each other.
Threads: no state is shared; any thread may call anything here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from asynchub.batches import PIECE, Batch, Scalars
from asynchub.bridges.frames import BASE, EVENTS, Frame, encode_frame
from asynchub.codec.decoder import loads
from asynchub.columns import Array
from asynchub.errors import StateError
from asynchub.events import InfoRemoved, InfoUpdated

__all__ = ("MAX_BYTES", "emptied", "thinned")

MAX_BYTES = 2**19
"""Bytes that a merged frame has at most."""
MANY_BYTES = 2**18
"""Bytes of other events that are merged at once."""
INFOS = (InfoUpdated.__name__, InfoRemoved.__name__)


def thinned(frames: Iterable[Frame], *, infos: bool = False) -> list[Frame]:
    """Return frames of one epoch as few, with a few events of each key.

    Args:
        frames: in order; read one after the other.
        infos: whether of the events of runtime infos, too, only the newest of each key is kept.

    Returns:
        Frames of at most ``MAX_BYTES``, unless one that cannot be made smaller had more.
    """
    done: list[Frame] = []
    for some in _chunks(frames):
        for frame in _fitting(some, infos):
            if done and _follows(done[-1], frame) and _fits(both := _merged([done[-1], frame], infos)):
                done[-1] = both
            else:
                done.append(frame)
    return done


def emptied(frames: Sequence[Frame]) -> list[Frame]:
    """Return one frame that stands for all the events of some, and has none of them.

    Args:
        frames: in order, of one epoch. One that holds nothing but the word that it was the last stays.
    """
    some = [frame for frame in frames if frame.kind in (EVENTS, BASE)]
    whole = [_joined(some, Batch([], [], []))] if some else []
    return [
        *(frame._replace(kind=EVENTS, left_out=frame.size) for frame in whole),
        *(frame for frame in frames if frame.kind not in (EVENTS, BASE)),
    ]


def _chunks(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Yield frames that follow each other, some ten thousand events at a time."""
    some: list[Frame] = []
    size = room = 0
    for frame in frames:
        if some and (not _follows(some[-1], frame) or size >= PIECE or room >= MANY_BYTES):
            yield some
            some, size, room = [], 0, 0
        some.append(frame)
        size += frame.batch.size
        room += sum(len(data) for _, data in frame.batch.events)
    if some:
        yield some


def _follows(frame: Frame, later: Frame) -> bool:
    """Tell whether two frames may become one."""
    same = frame.kind == later.kind == EVENTS and frame.run_id == later.run_id and frame.epoch == later.epoch
    first, last = later.batch.seqs
    return same and frame.number < later.first and (last < first or first > max(frame.upto_seq, frame.batch.seqs[1]))


def _fitting(frames: list[Frame], infos: bool) -> list[Frame]:
    if frames[0].kind != EVENTS:
        return frames
    merged = _merged(frames, infos)
    if len(frames) == 1 or _fits(merged):
        return [merged]
    half = len(frames) // 2
    return _fitting(frames[:half], infos) + _fitting(frames[half:], infos)


def _fits(frame: Frame) -> bool:
    return sum(len(one.seqs) for one in frame.batch.scalars) <= PIECE and len(encode_frame(frame)) <= MAX_BYTES


def _merged(frames: list[Frame], infos: bool) -> Frame:
    return _joined(frames, _thinned_batch([frame.batch for frame in frames], infos))


def _joined(frames: Sequence[Frame], batch: Batch) -> Frame:
    """Return one frame for several, with some of their events."""
    first, last = frames[0], frames[-1]
    held = sum(frame.batch.size for frame in frames)
    lost = sum(max(later.before - frame.before - frame.size, 0) for frame, later in pairwise(frames))
    size = sum(frame.size for frame in frames) + lost
    left_out = sum(frame.left_out for frame in frames) + lost + held - batch.size
    return last._replace(
        first=first.first,
        before=first.before,
        size=size,
        left_out=min(left_out, size),
        after_seq=first.after_seq,
        batch=batch,
    )


# --- batches


def _thinned_batch(batches: Sequence[Batch], infos: bool) -> Batch:
    keys, groups = _together(batches)
    events = [event for batch in batches for event in batch.events]
    return Batch(*_thinned_scalars(keys, groups), _newest(events) if infos else events)


def _together(batches: Sequence[Batch]) -> tuple[list[tuple[str, bool]], list[Scalars]]:
    """Return the keys of batches that follow each other, and their scalars, one group for each kind of number."""
    numbers: dict[tuple[str, bool], int] = {}
    groups: dict[tuple[str, str], list[Scalars]] = {}
    for batch in batches:
        own = np.array([numbers.setdefault(key, len(numbers)) for key in batch.keys], np.int64)
        for one in batch.scalars:
            kind = (one.values.dtype.str, one.counts.dtype.str)
            groups.setdefault(kind, []).append(one._replace(whose=own[one.whose]))
    return list(numbers), [Scalars(*map(np.concatenate, zip(*some, strict=True))) for some in groups.values()]


def _thinned_scalars(
    keys: list[tuple[str, bool]], groups: list[Scalars]
) -> tuple[list[tuple[str, bool]], list[Scalars]]:
    """Return the keys that are left of scalars, and what is kept of these."""
    some = [
        _taken(one, _kept_of_objects(one) if one.values.dtype == object else _kept_of_numbers(one)) for one in groups
    ]
    groups_of = Counter(key for one in some for key in np.unique(one.whose).tolist())
    if mixed := {key for key, count in groups_of.items() if count > 1}:
        some = _chosen_again(some, mixed)
    used = sorted(groups_of)
    numbers: Array = np.full(len(keys), -1)
    numbers[used] = np.arange(len(used))
    return [keys[index] for index in used], [one._replace(whose=numbers[one.whose]) for one in some if len(one.seqs)]


def _taken(scalars: Scalars, rows: Array) -> Scalars:
    return Scalars(*(column[rows] for column in scalars))


def _kept_of_numbers(scalars: Scalars) -> Array:
    """Return the rows to keep of floats, or of ints of 64 bits, in order."""
    order = np.argsort(scalars.whose, kind="stable")
    whose, values = scalars.whose[order], scalars.values[order]
    begins = np.flatnonzero(np.append(True, whose[1:] != whose[:-1]))
    sizes = np.diff(np.append(begins, len(whose)))
    group = np.repeat(np.arange(len(begins)), sizes)
    kept = [begins, begins + sizes - 1]
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        for odd in (np.isnan(values), values == np.inf, values == -np.inf):
            kept.append(_firsts(odd, group))
        least, most = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
    else:
        finite, least, most = np.ones(len(values), bool), values, values
    kept.append(_firsts(finite & (values == np.minimum.reduceat(least, begins)[group]), group))
    kept.append(_firsts(finite & (values == np.maximum.reduceat(most, begins)[group]), group))
    return np.unique(order[np.concatenate(kept)])


def _firsts(wanted: Array, group: Array) -> Array:
    """Return, of each group that has any, the first row that is wanted."""
    rows = np.flatnonzero(wanted)
    return rows[np.unique(group[rows], return_index=True)[1]]


def _kept_of_objects(scalars: Scalars) -> Array:
    """Return the rows to keep of Python numbers, in order."""
    rows: dict[int, list[int]] = {}
    for row, key in enumerate(scalars.whose.tolist()):
        rows.setdefault(key, []).append(row)
    values = scalars.values.tolist()
    return np.array(sorted({own[at] for own in rows.values() for at in _places([values[row] for row in own])}), int)


def _places(values: Sequence[float]) -> set[int]:
    """Return which of the values of one key to keep: their places."""
    odd: dict[str, int] = {}
    finite = []
    for at, value in enumerate(values):
        if value - value == 0:
            finite.append(at)
        else:  # NaN or infinite
            odd.setdefault(str(value), at)
    kept = {0, len(values) - 1, *odd.values()}
    if finite:
        kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
    return kept


def _chosen_again(groups: list[Scalars], mixed: set[int]) -> list[Scalars]:
    """Choose once more where a key has numbers of several kinds."""
    rows: dict[int, list[tuple[int, int, int, float]]] = {key: [] for key in mixed}
    for index, one in enumerate(groups):
        for row, (key, seq, value) in enumerate(
            zip(one.whose.tolist(), one.seqs.tolist(), one.values.tolist(), strict=True)
        ):
            if key in mixed:
                rows[key].append((seq, index, row, value))
    dropped: list[list[int]] = [[] for _ in groups]
    for own in rows.values():
        own.sort(key=lambda row: row[0])
        kept = _places([row[3] for row in own])
        for at, (_, index, row, _) in enumerate(own):
            if at not in kept:
                dropped[index].append(row)
    return [_taken(one, np.delete(np.arange(len(one.seqs)), rows)) for one, rows in zip(groups, dropped, strict=True)]


def _newest(events: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return events, of those of runtime infos only the newest of each key."""
    known: set[str] = set()
    kept = []
    for event in reversed(events):
        key = _info_key(event[1])
        if key is None or key not in known:
            kept.append(event)
        if key is not None:
            known.add(key)
    return kept[::-1]


def _info_key(data: bytes) -> str | None:
    """Return the key of an event, if it is one of a runtime info."""
    try:
        fields = loads(data, on_unknown="keep")
    except StateError:  # it is kept: whoever reads it is told
        return None
    if not isinstance(fields, dict) or fields.get("event") not in INFOS:
        return None
    key = fields.get("key")
    return key if isinstance(key, str) else None
