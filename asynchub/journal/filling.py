"""What a hub had recorded before its journal was there, as batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from asynchub.batches import PIECE, Batch, Scalars, in_order
from asynchub.columns import Array
from asynchub.ledger import Records

__all__ = ("past_batches",)


def past_batches(recorded: Sequence[tuple[str, bool, Records]], events: Sequence[tuple[int, bytes]]) -> Iterator[Batch]:
    """Yield what was recorded, in the order of ``seq``.

    Args:
        recorded: keys with their ``resumed`` flag and what was recorded of them.
        events: other events, encoded, with their ``seq``.
    """
    events = sorted(events)
    seqs = np.unique(
        np.concatenate([np.array([seq for seq, _ in events], np.int64), *(one[2].seqs for one in recorded)])
    )
    keys = [(key, resumed) for key, resumed, _ in recorded]
    for start in range(0, len(seqs), PIECE):
        first, last = int(seqs[start]), int(seqs[min(start + PIECE, len(seqs)) - 1])
        groups: dict[tuple[str, str], list[tuple[int, slice]]] = {}
        for number, (_, _, records) in enumerate(recorded):
            here = slice(*np.searchsorted(records.seqs, [first, last + 1]).tolist())
            if here.start < here.stop:
                kinds = (_kind(records.values), _kind(records.counts))
                groups.setdefault(kinds, []).append((number, here))
        scalars = [part for kinds, parts in groups.items() for part in in_order(_joined(recorded, kinds, parts))]
        yield Batch(keys, scalars, [(seq, data) for seq, data in events if first <= seq <= last])


def _kind(column: Array) -> str:
    return column.dtype.str if column.dtype.str in ("<f8", "<i8") else "|O"


def _joined(
    recorded: Sequence[tuple[str, bool, Records]], kinds: tuple[str, str], parts: Sequence[tuple[int, slice]]
) -> Scalars:
    own = [Records(*(column[here] for column in recorded[number][2])) for number, here in parts]
    order = np.argsort(np.concatenate([one.seqs for one in own]), kind="stable")
    all_kinds = enumerate(("", "", "", *kinds))
    columns = [np.concatenate([_as(one[field], kind) for one in own])[order] for field, kind in all_kinds]
    whose = np.repeat(np.array([number for number, _ in parts], np.int64), [len(one.seqs) for one in own])
    return Scalars(columns[0], columns[1], columns[2], columns[3], columns[4], whose[order])


def _as(column: Array, kind: str) -> Array:
    """Return a column of float64 or int64 as it is, another one as Python numbers."""
    if kind != "|O":
        return column
    objects = np.empty(len(column), object)
    objects[:] = column.tolist()
    return objects
