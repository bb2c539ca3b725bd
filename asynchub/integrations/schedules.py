"""Schedules of the learning rate that go on from what somebody else has set.

A scheduler such as ``LambdaLR`` computes each learning rate from the one it began with, and so undoes, at its next
step, what a rule or a request has set. After ``follow`` it goes on in proportion: set to half, the schedule is half as
high from there on. A learning rate of 0, as at the start of a warm-up, has no proportion: there the schedule stays.
Rates that are tensors are not read, and theirs stay, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ("Schedules",)


class Schedules:
    """Schedulers of one trainer.

    Args:
        schedulers: of torch's kind; those without ``base_lrs`` compute from what is set, and need nothing.
    """

    def __init__(self, schedulers: Iterable[Any]) -> None:
        self._schedulers = [one for scheduler in schedulers for one in _leaves(scheduler)]
        self._before: list[list[Any]] = []

    def watch(self) -> None:
        """Begin to look at what is set in the optimizers."""
        self._before = [self._rates(one) for one in self._schedulers]

    def follow(self) -> None:
        """Have the schedules go on from the learning rates that were set since ``watch``."""
        for scheduler, before in zip(self._schedulers, self._before, strict=True):
            for index, (old, new) in enumerate(zip(before, self._rates(scheduler), strict=True)):
                if isinstance(old, int | float) and isinstance(new, int | float) and old > 0 and new != old:
                    scheduler.base_lrs[index] *= new / old

    def _rates(self, scheduler: Any) -> list[Any]:
        return [group["lr"] for group in scheduler.optimizer.param_groups]


def _leaves(scheduler: Any) -> Iterator[Any]:
    """Yield a scheduler, or those that it is made of, if they have learning rates to begin with."""
    inner = getattr(scheduler, "_schedulers", None)
    if isinstance(inner, list | tuple):
        for one in inner:
            yield from _leaves(one)
    elif isinstance(getattr(scheduler, "base_lrs", None), list) and hasattr(scheduler, "optimizer"):
        yield scheduler
