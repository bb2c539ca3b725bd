"""Datasets and functions of loaders, which go along to worker processes however those are started."""

from __future__ import annotations

import copy
import os
import pickle
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

__all__ = (
    "Batches",
    "Broken",
    "Bumpy",
    "Delegating",
    "Hanging",
    "Inspected",
    "Numbers",
    "Retrying",
    "Slotted",
    "SlowCollate",
    "SlowWorker",
    "Stream",
    "broken_collate",
    "decode_forever",
    "failing_init",
    "marked_init",
)


class Numbers(Dataset[Any]):
    """Numbers, each with some that are drawn at random.

    Args:
        size: how many.
        seconds: that one takes.
    """

    def __init__(self, size: int = 40, seconds: float = 0.0) -> None:
        self.size = size
        self.seconds = seconds
        self.mark = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        if self.seconds:
            time.sleep(self.seconds)
        return index, self.mark, torch.rand(2), np.random.rand(2), random.random()


class Batches(Numbers):
    """Makes whole batches."""

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        if self.seconds:
            time.sleep(self.seconds * len(indices))
        return [(index, self.mark, torch.rand(2), np.random.rand(2), random.random()) for index in indices]


class Retrying(Numbers):
    """Gives the next number where one is odd."""

    def __getitem__(self, index: int) -> Any:
        return self[index - 1] if index % 2 else super().__getitem__(index)


class Delegating(Dataset[Any]):
    """Has all it has of another, ``__getitems__`` too."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        return self.inner[index]

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


class Slotted:
    """Has slots, and no ``__dict__``."""

    __slots__ = ("size",)

    def __init__(self, size: int = 40) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class Stream(IterableDataset[Any]):
    """Numbers, each from one of the workers."""

    def __init__(self, size: int = 40, seconds: float = 0.0) -> None:
        self.size = size
        self.seconds = seconds

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(first, self.size, step):
            if self.seconds:
                time.sleep(self.seconds)
            yield number, torch.rand(2)


class Bumpy(IterableDataset[Any]):
    """Raises where a number can be divided by seven, and goes on after that."""

    def __init__(self, size: int = 40) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        return _Bumpy(self.size)


class _Bumpy(Iterator[int]):
    def __init__(self, size: int) -> None:
        self.numbers = iter(range(1, size + 1))

    def __next__(self) -> int:
        number = next(self.numbers)
        if number % 7 == 0:
            raise LookupError(f"no number {number}")
        return number


class SlowWorker(Numbers):
    """Slow in one of the workers."""

    def __init__(self, size: int, worker: int, seconds: float) -> None:
        super().__init__(size)
        self.worker = worker
        self.slow = seconds

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        time.sleep(self.slow if info is not None and info.id == self.worker else 0.002)
        return index


class Broken(Numbers):
    """Raises, or kills its process, at one index."""

    def __init__(self, size: int, at: int, what: str = "raise") -> None:
        super().__init__(size)
        self.at = at
        self.what = what

    def __getitem__(self, index: int) -> Any:
        if index == self.at:
            if self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise LookupError(f"no number {index}")
        return index


class Hanging(Numbers):
    """Hangs at one index until a file is there."""

    def __init__(self, size: int, at: int, release: Path, seconds: float = 0.01) -> None:
        super().__init__(size, seconds)
        self.at = at
        self.release = release

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        if index == self.at:
            decode_forever(self.release)
        return index


def decode_forever(release: Path) -> None:
    while not release.exists():
        time.sleep(0.01)


class Inspected(Numbers):
    """Tells of itself what is seen of it in a worker."""

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        whole = info is not None and info.dataset is self and isinstance(self, Inspected)
        copies = copy.copy(self), copy.deepcopy(self), pickle.loads(pickle.dumps(self))
        return whole, type(self).__name__, [type(one) is Inspected and one.size == self.size for one in copies]


class SlowCollate:
    """The collate function of torch, some time later."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, data: Any) -> Any:
        time.sleep(self.seconds)
        return default_collate(data)


def broken_collate(data: Any) -> Any:
    raise ArithmeticError("no batch")


def failing_init(number: int) -> None:
    raise OSError(f"no worker {number}")


def marked_init(number: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.mark = number + 1
