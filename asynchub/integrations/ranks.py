"""What rank zero decided, done by all ranks of a run: flags, and what was set in optimizers.

A hub lives on rank zero. A stop, or a learning rate, that only one rank knows of leaves the others waiting for ever, or
training another model.

Waiting: ranks wait for rank zero, in a process group of the CPU's; no GPU is waited for.
Shape: one message of a fixed size, whatever is told; a second one when something was set in an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import distributed

from asynchub.integrations.hosting import change_parameter
from asynchub.requests import ParameterChangeRequested

__all__ = ("Ranks",)

Numbers = dict[tuple[int, int, str], Any]
"""By optimizer, parameter group and name: a number; of a tensor, how often it was written to."""


class Ranks:
    """All ranks of a run. Made, and asked, by all of them at once.

    Args:
        zero: whether this is rank zero.
        optimizers: those that rules and requests may change something in.
        broadcast: returns on all ranks what rank zero has given it; needed where torch does not talk to the others.
    """

    def __init__(self, zero: bool, optimizers: Sequence[Any], broadcast: Callable[[Any], Any] | None = None) -> None:
        self._zero = zero
        self._optimizers = optimizers
        self._before: Numbers = {}
        self._broadcast = broadcast
        self._group: Any = None
        self._here = distributed.is_available() and distributed.is_initialized()
        if self._here and distributed.get_backend() != "gloo":
            self._group = distributed.new_group(backend="gloo")

    def watch(self) -> None:
        """Begin to look at what is set in the optimizers."""
        self._before = self._numbers() if self._zero else {}

    def tell(self, *flags: bool) -> tuple[bool, ...]:
        """Return rank zero's ``flags``; set in the optimizers what was set in those of rank zero since ``watch``."""
        changes = self._changes() if self._zero else []
        if not self._here:
            flags, changes = (flags, changes) if self._broadcast is None else self._broadcast((flags, changes))
        else:
            told = torch.tensor([*flags, bool(changes)], dtype=torch.uint8, device="cpu")
            distributed.broadcast(told, src=0, group=self._group)
            *given, changed = map(bool, told.tolist())
            flags, box = tuple(given), [changes]
            if changed:
                distributed.broadcast_object_list(box, src=0, group=self._group)
            changes = box[0]
        for index, group, name, value in [] if self._zero else changes:
            request = ParameterChangeRequested(name=name, value=value, group=group)
            change_parameter(self._optimizers[index].param_groups, request)
        return flags

    def _numbers(self) -> Numbers:
        return {
            (index, number, name): value._version if isinstance(value, torch.Tensor) else value
            for index, optimizer in enumerate(self._optimizers)
            for number, group in enumerate(optimizer.param_groups)
            for name, value in group.items()
            if isinstance(value, int | float | torch.Tensor)
        }

    def _changes(self) -> list[tuple[int, int, str, Any]]:
        changes = []
        for place, mark in self._numbers().items():
            if self._before.get(place) != mark:
                index, number, name = place
                value = self._optimizers[index].param_groups[number][name]
                # a tensor is read when a rule has just written to it, and never else
                changes.append((*place, value.tolist() if isinstance(value, torch.Tensor) else value))
        return changes
