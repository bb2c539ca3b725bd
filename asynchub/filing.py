"""Bringing published entries to the histories they belong to.

A few entries are appended one by one to what is pending for their histories. Many are packed into columns, which takes
a fifth of the memory, and handed out when there are very many, or when somebody wants to look: sorted by history, so
that each gets all of its own in one piece.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from operator import countOf
from typing import Any, NamedTuple

import numpy as np

from asynchub.columns import Array, packed_numbers
from asynchub.events import ENTRY
from asynchub.history import HistoryBuffer
from asynchub.ledger import packed_steps
from asynchub.live import Cell

__all__ = ("Depot", "Run", "file_each")

Run = tuple[int, list[Any]]
"""Entries in a row: the ``seq`` of the first, and of each ``cell, time, step, value, count``."""
MANY = 256
"""Entries that are worth packing."""
MANY_EACH = 16
"""If there are so many for each history on average."""
FULL = 8192
"""Packed entries that are handed out,"""
FULL_EACH = 64
"""If there are so many for each history on average."""


class _Block(NamedTuple):
    seqs: Array
    times: Array
    steps: Array
    values: Array | list[Any]
    counts: Array
    whose: Array


class Depot:
    """Packed entries, oldest first. Not for more than one thread at a time."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._numbers: dict[Cell, int] = {}
        self._numbers_by_id: dict[int, int] = {}  # of a history, which a cell keeps alive
        self._histories: list[HistoryBuffer | None] = []
        self._size = 0
        self._begun = False  # to hand out, and not done with it

    @property
    def last_seq(self) -> int:
        """``seq`` of the newest entry here, or -1."""
        return int(self._blocks[-1].seqs[-1]) if self._blocks else -1

    @property
    def full(self) -> bool:
        """Whether there is so much that it should be handed out."""
        return self._size >= max(FULL, FULL_EACH * len(self._histories))

    def pack(self, runs: Sequence[Run]) -> bool:
        """Take in entries that are newer than all that it has got; False, and nothing done, if that would not pay.

        An exception that breaks it off leaves it as it was, or with all of them.
        """
        if self._begun:
            self.hand_out()
        items = runs[0][1] if len(runs) == 1 else list(itertools.chain.from_iterable(items for _, items in runs))
        size = len(items) // ENTRY
        whose = self._whose(items[::ENTRY])
        if size < max(MANY, MANY_EACH * len(self._histories)):
            return False
        try:
            counts: Array = np.ones(size, np.int64)
            if items[4::ENTRY].count(1) != size:
                counts = packed_numbers("q", items[4::ENTRY])
        except struct.error:  # beyond 64 bits
            return False
        numbers = items[3::ENTRY]
        floats = countOf(map(type, numbers), float) == size
        values: Array | list[Any] = packed_numbers("d", numbers) if floats else numbers
        first, (last, rest) = runs[0][0], runs[-1]
        if last + len(rest) // ENTRY - first == size:  # nothing else came between: most runs are of one settle point
            seqs = np.arange(first, first + size)
        else:
            ranges = (range(first, first + len(items) // ENTRY) for first, items in runs)
            seqs = np.fromiter(itertools.chain.from_iterable(ranges), np.int64, size)
        times, steps = packed_numbers("d", items[1::ENTRY]), packed_steps(items[2::ENTRY])
        self._blocks.append(_Block(seqs, times, steps, values, counts, whose))
        self._size = sum(len(block.seqs) for block in self._blocks)
        return True

    def _whose(self, cells: list[Cell]) -> Array:
        """Return, for each entry, the number of its history."""
        numbers, histories = self._numbers, self._histories
        if cells.count(cells[0]) == len(cells) and histories == [cells[0].buffer]:
            return np.zeros(len(cells), np.uint8)
        while True:
            try:
                if len(histories) <= 256:
                    return np.frombuffer(bytes(map(numbers.__getitem__, cells)), np.uint8)
                return np.fromiter(map(numbers.__getitem__, cells), np.uint32, len(cells))
            except (KeyError, ValueError):  # new ones; too many for a byte
                for cell in set(cells).difference(numbers):
                    number = self._numbers_by_id.get(id(cell.buffer))  # cells may share one
                    if number is None:
                        number = len(histories)
                        histories.append(cell.buffer)
                        self._numbers_by_id[id(cell.buffer)] = number
                    numbers[cell] = number

    def hand_out(self) -> None:
        """Hand every entry to its history, and be empty; call again after an exception broke it off."""
        if not self._blocks:
            return
        again, self._begun = self._begun, True
        seqs, times, steps, counts, whose = (
            np.concatenate([block[field] for block in self._blocks]) for field in (0, 1, 2, 4, 5)
        )
        values: Array | list[Any]
        if all(isinstance(block.values, np.ndarray) for block in self._blocks):
            values = np.concatenate([block.values for block in self._blocks])
        else:
            values = list(itertools.chain.from_iterable(_numbers(block.values) for block in self._blocks))
        if len(self._histories) > 1:
            order = np.argsort(whose, kind="stable")
            seqs, times, steps, counts = seqs[order], times[order], steps[order], counts[order]
            values = values[order] if isinstance(values, np.ndarray) else [values[index] for index in order.tolist()]
        ends = np.cumsum(np.bincount(whose, minlength=len(self._histories))).tolist()
        for history, start, end in zip(self._histories, [0, *ends], ends, strict=False):
            if history is None or start == end or (again and history.newest_seq() >= seqs[end - 1]):
                continue
            own = slice(start, end)
            history.take_in((seqs[own], times[own], steps[own]), values[own], counts[own])
        self._numbers, self._numbers_by_id, self._histories = {}, {}, []
        self._size, self._blocks = 0, []
        self._begun = False


def file_each(runs: Sequence[Run], again: bool) -> None:
    """Append entries, one by one, to what is pending for their histories.

    Args:
        runs: the entries, in order.
        again: whether an exception broke this off before, so that some of it may be done.
    """
    for first, items in runs:
        known = {seq for cell in set(items[::ENTRY]) for seq in cell.known(first)} if again else ()
        fields = iter(items)
        cell: Cell
        for seq, cell, time, step, value, count in zip(itertools.count(first), *[fields] * ENTRY, strict=False):
            if seq not in known:
                pending = cell.pending
                pending += (seq, time, step, value, count)


def _numbers(values: Array | list[Any]) -> list[Any]:
    return values if isinstance(values, list) else values.tolist()
