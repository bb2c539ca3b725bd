"""The newest value of each key, as frames go by, and whether a stop was applied: what who comes late is given first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from asynchub.batches import Batch, Scalars, decode_event
from asynchub.bridges.packing import BYTES, numbers_by_kind, size_of
from asynchub.events import InfoRemoved, InfoUpdated, Rewound
from asynchub.requests import RequestApplied, StopRequested

__all__ = ("Newest",)

KEYS = 2_000
"""Scalars that a part of a snapshot holds, at most."""
Row = tuple[int, float, int, float, int]
"""``seq``, time, step, value and count of a scalar."""


class Newest:
    """The newest value of each key of one rank. Not for more than one thread at a time."""

    def __init__(self) -> None:
        self._scalars: dict[str, Row] = {}
        self._infos: dict[str, tuple[int, bytes]] = {}
        self._stop: tuple[int, bytes] | None = None

    def add(self, batch: Batch) -> None:
        """Take in events that are newer than all before."""
        names = [key for key, _ in batch.keys]
        for one in batch.scalars:
            keys, from_end = np.unique(one.whose[::-1], return_index=True)
            rows = len(one.whose) - 1 - from_end
            columns = [column[rows].tolist() for column in one[:5]]
            for key, row in zip(keys.tolist(), zip(*columns, strict=True), strict=True):
                before = self._scalars.get(names[key])
                if before is None or before[0] < row[0]:
                    self._scalars[names[key]] = row
        for seq, data in batch.events:
            event, _ = decode_event(data)
            if isinstance(event, InfoUpdated):
                self._infos[event.key] = (seq, data)
            elif isinstance(event, InfoRemoved):
                self._infos.pop(event.key, None)
            elif isinstance(event, RequestApplied) and event.request == StopRequested.__name__:
                self._stop = self._stop or (seq, data)
            elif isinstance(event, Rewound):
                self._rewind(event.to_seq)

    def _rewind(self, to_seq: int) -> None:
        self._scalars = {key: row for key, row in self._scalars.items() if row[0] <= to_seq}
        self._infos = {key: info for key, info in self._infos.items() if info[0] <= to_seq}
        if self._stop is not None and self._stop[0] > to_seq:
            self._stop = None

    def parts(self) -> list[Batch]:
        """Return all of it, in batches that fit into frames; at least one."""
        scalars = sorted(self._scalars.items(), key=lambda item: item[1][0])
        infos = sorted([*self._infos.values(), *(() if self._stop is None else (self._stop,))])
        parts = list(_fitting(scalars))
        for group in _by_size(infos):
            if parts[-1].events:
                parts.append(Batch([], [], []))
            parts[-1].events.extend(group)
        return parts


def _fitting(scalars: list[tuple[str, Row]]) -> Iterator[Batch]:
    batch = _batch(scalars)
    if len(scalars) <= 1 or (len(scalars) <= KEYS and size_of(batch) <= BYTES):
        yield batch
    else:
        middle = len(scalars) // 2
        yield from _fitting(scalars[:middle])
        yield from _fitting(scalars[middle:])


def _by_size(infos: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    group: list[tuple[int, bytes]] = []
    size = 0
    for info in infos:
        if group and size + len(info[1]) > BYTES:
            yield group
            group, size = [], 0
        group.append(info)
        size += len(info[1])
    if group:
        yield group


def _batch(scalars: list[tuple[str, Row]]) -> Batch:
    if not scalars:
        return Batch([], [], [])
    rows = [(*row, index) for index, (_, row) in enumerate(scalars)]
    groups: list[Scalars] = numbers_by_kind(rows)
    return Batch([(key, True) for key, _ in scalars], groups, [])
