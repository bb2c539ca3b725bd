"""Ranks that talk through gloo, in groups of their own: the default group, and what trains, is never touched.

A group that has failed is of no more use. Ranks meet again in the next generation of it, through keys in the store of
the run: each writes which generation it has left, and when all have left the same one they make the next. No training
loop takes part in that.

Threads: all of it is for one thread, that of a reducer: it has a client of the store of its own, since a client that
    waits holds up all who share it. No wait holds the interpreter lock.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch._C._distributed_c10d import AllgatherOptions, PrefixStore, TCPStore
from torch.distributed import ProcessGroupGloo
from torch.distributed.distributed_c10d import _get_default_store

from asynchub.bridges.combining import Floats
from asynchub.errors import ArgumentError, WaitTimeoutError

__all__ = ("GlooRanks", "Meeting", "ranks_of")

CONNECT, CONNECT_EACH = 5.0, 0.05
"""Seconds that ranks which have all come may take to connect to each other, and for each rank beside."""
SLICE = 0.1
"""Seconds after which a wait looks whether it is still wanted."""
_TIMED_OUT = "timed out"
_ENDED, _ABSENT = -1, -2
"""In place of the generation that a rank has left: it has left for good, or has not come yet."""


def ranks_of(group: Any) -> tuple[int, list[int]]:
    """Return the index of this process among the ranks of ``group`` (None: all), and what ranks they are.

    Raises:
        ArgumentError: ``group`` is no process group, or this process is not in it.
    """
    try:
        group = distributed.group.WORLD if group is None else group
        index = distributed.get_rank(group)
        numbers = distributed.get_process_group_ranks(group)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"group must be a process group of torch.distributed, got {group!r:.80}") from error
    if index < 0:
        raise ArgumentError("this process is not in the group: make the Reducer on its members only")
    return index, list(numbers)


def _own_client(store: Any) -> Any:
    """Return a client of ``store`` that nobody else uses."""
    if hasattr(store, "clone"):
        return store.clone()
    while isinstance(store, PrefixStore):  # of torch before 2.8
        store = store.underlying_store
    if isinstance(store, TCPStore):
        store = TCPStore(store.host, store.port, is_master=False, wait_for_workers=False)
    return PrefixStore(f"attempt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


class GlooRanks:
    """The ranks of one generation; see ``asynchub.bridges.combining.Ranks``.

    Args:
        group: whom it talks through.
        index: of this rank.
        numbers: what each is called.
        wanted: whether to wait on, asked now and then.
    """

    def __init__(self, group: Any, index: int, numbers: Sequence[int], wanted: Callable[[], bool]) -> None:
        self.index = index
        self.numbers = numbers
        self._group = group
        self._wanted = wanted

    def gather(self, row: Floats, deadline: float) -> Floats:
        """Return the rows of all ranks, of shape ``(ranks, len(row))``; waits until ``deadline`` (monotonic).

        Raises:
            WaitTimeoutError: not all have come by then, or it is not wanted any more.
            RuntimeError: the group has failed.
        """
        rows = torch.empty(len(self.numbers) * len(row), dtype=torch.float64)
        options = AllgatherOptions()
        options.timeout = self._left(deadline)
        self._wait(self._group._allgather_base(rows, torch.from_numpy(row), options), deadline)
        return rows.numpy().reshape(len(self.numbers), len(row))

    def total(self, row: Floats, deadline: float) -> Floats:
        """Return the sum of the rows of all ranks; as ``gather``."""
        return self._reduced(row, distributed.ReduceOp.SUM, deadline)

    def largest(self, row: Floats, deadline: float) -> Floats:
        """Return the largest of the rows of all ranks, number by number; as ``gather``."""
        return self._reduced(row, distributed.ReduceOp.MAX, deadline)

    def _reduced(self, row: Floats, operation: Any, deadline: float) -> Floats:
        reduced = torch.from_numpy(row.copy())
        options = distributed.AllreduceOptions()
        options.reduceOp = operation
        options.timeout = self._left(deadline)
        self._wait(self._group.allreduce([reduced], options), deadline)
        return reduced.numpy()

    def close(self) -> None:
        """Let go of the others: what they wait for fails."""
        self._group = None

    def _left(self, deadline: float) -> timedelta:
        return timedelta(seconds=max(deadline - time.monotonic(), 0.001))

    def _wait(self, work: Any, deadline: float) -> None:
        while True:
            left = deadline - time.monotonic()
            try:
                work.wait(timedelta(seconds=max(min(left, SLICE), 0.001)))
            except RuntimeError as error:
                if work.is_completed() or _TIMED_OUT not in str(error).lower():
                    raise
                if left <= 0 or not self._wanted():
                    raise WaitTimeoutError("not all ranks have come in time") from error
            else:
                return


class Meeting:
    """Where the ranks of one reducer find each other, generation by generation.

    Attributes:
        generation: the newest one that this rank was in; 0 before the first.

    Args:
        name: of the reducer: one for all ranks.
        index: of this rank.
        numbers: what each is called.
        wanted: whether to wait on, asked now and then.
    """

    def __init__(self, name: str, index: int, numbers: Sequence[int], wanted: Callable[[], bool]) -> None:
        self.generation = 0
        self._index = index
        self._numbers = numbers
        self._wanted = wanted
        self._keys = [f"left/{other}" for other in range(len(numbers))]
        store = _own_client(_get_default_store())
        store.set_timeout(timedelta(seconds=CONNECT))
        who = hashlib.sha256(repr(list(numbers)).encode()).hexdigest()[:16]
        store = PrefixStore(f"asynchub/{name}/{who}", store)
        time_around = store.add(f"made/{index}", 1)  # those of the same name before it have left their keys
        self._store = PrefixStore(str(time_around), store)
        self.leave()

    def leave(self) -> None:
        """Say that this rank has left its generation, and waits for the next."""
        self._store.set(self._keys[self._index], str(self.generation))
        self._store.set(self._abandoned, "")

    def end(self) -> None:
        """Say that this rank has left for good."""
        self._store.set(self._keys[self._index], str(_ENDED))
        self._store.set(self._abandoned, "")

    @property
    def _abandoned(self) -> str:
        return f"abandoned/{self.generation}"

    def left_by_others(self) -> bool:
        """Tell whether another rank has left the generation that this one is in."""
        return bool(self._store.check([self._abandoned]))

    def missing(self) -> list[int]:
        """Return the ranks that have not left the newest generation that any has left: who is waited for."""
        left = self._read()
        newest = max([self.generation, *left])
        return [number for number, one in zip(self._numbers, left, strict=True) if one < newest]

    def _read(self) -> list[int]:
        """Return the generation that each has left, ``_ABSENT`` and ``_ENDED`` among them."""
        return [int(self._store.get(key)) if self._store.check([key]) else _ABSENT for key in self._keys]

    def join(self) -> GlooRanks | None:
        """Return the next generation, if all ranks are there for it; None if not yet.

        Raises:
            RuntimeError: they were, and could not connect. This rank has left it.
        """
        if not self._store.check(self._keys):
            return None
        left = [int(value) for value in self._store.multi_get(self._keys)]
        newest = max(left)
        if self.generation < newest:
            self.generation = newest
            self.leave()
            return None
        if min(left) < newest:
            return None
        self.generation += 1
        store = PrefixStore(f"generation/{self.generation}", self._store)
        try:
            size = len(self._numbers)
            group = ProcessGroupGloo(store, self._index, size, timedelta(seconds=CONNECT + CONNECT_EACH * size))
        except RuntimeError:
            self.leave()
            raise
        return GlooRanks(group, self._index, self._numbers, self._wanted)
