"""The events of the past, from what the histories recorded: for readers that come late.

Scalars come back whole, as long as the histories hold them, with their ``seq``, ``time``, ``step`` and ``count``. Of a
runtime info only the newest value is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from operator import attrgetter, itemgetter
from typing import cast

import numpy as np

from asynchub.events import Event, scalar_updated
from asynchub.history import NO_STEP
from asynchub.ledger import Records

__all__ = ("past_events",)

CHUNK = 4096


def past_events(scalars: Sequence[tuple[str, Records]], others: Iterable[Event]) -> Iterator[Event]:
    """Yield the recorded events in the order of ``seq``.

    Args:
        scalars: keys with what was recorded of them.
        others: other events, oldest first.
    """
    return cast("Iterator[Event]", merge(_scalars(scalars), others, key=attrgetter("seq")))


def _scalars(scalars: Sequence[tuple[str, Records]]) -> Iterator[Event]:
    """Yield in chunks: at each, what all keys have up to the first end of a key's piece."""
    taken = [0] * len(scalars)
    piece = max(CHUNK // max(len(scalars), 1), 16)
    while True:
        heads = [records.seqs[start : start + piece] for (_, records), start in zip(scalars, taken, strict=True)]
        ends = [head[-1] for head in heads if len(head) == piece] or [head[-1] for head in heads if len(head)]
        if not ends:
            return
        limit = min(ends) if any(len(head) == piece for head in heads) else max(ends)
        entries: list[tuple[int, float, int | None, str, float, int]] = []
        for index, ((key, records), head) in enumerate(zip(scalars, heads, strict=True)):
            start = taken[index]
            taken[index] = end = start + int(np.searchsorted(head, limit, side="right"))
            columns = (column[start:end].tolist() for column in records)
            entries += [
                (seq, time, None if step == NO_STEP else step, key, value, count)
                for seq, time, step, value, count in zip(*columns, strict=True)
            ]
        entries.sort(key=itemgetter(0))
        for entry in entries:
            yield scalar_updated(*entry)
