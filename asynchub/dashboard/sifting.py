"""Which events of a run count, and which are what they are said to be.

Threads: any; nothing is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields as fields_of
from functools import cache
from types import NoneType
from typing import Any

from asynchub.batches import Batch
from asynchub.events import Event, InfoUpdated

__all__ = ("HUGE", "counted_in", "counting", "is_sound")

TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, NoneType),
    "float | None": (int, float, NoneType),
    "Mapping[str, Any]": (Mapping,),
    "Any": (object,),
}
"""What fields may be, by how their types are written."""
HUGE = 2**63
"""Integers from here on are none that a run counts by."""


def is_sound(event: Event) -> bool:
    """Tell whether the fields of an event are what they are said to be: a journal may hold anything."""
    kind: Any = type(event)  # mypy takes the hash of its instances for that of the class
    for name, kinds in _typed(kind):
        value = getattr(event, name)
        if not isinstance(value, kinds) or (isinstance(value, int) and abs(value) >= HUGE and kind is not InfoUpdated):
            return False
        if name == "seconds" and not math.isfinite(getattr(event, name)):
            return False
    return True


@cache
def _typed(kind: type[Event]) -> list[tuple[str, tuple[type, ...]]]:
    return [(one.name, TYPES[str(one.type)]) for one in fields_of(kind) if str(one.type) in TYPES]


def counting(rewinds: Iterable[tuple[int, int]]) -> list[tuple[int, float]]:
    """Return which events count: stretches ``(after, upto]`` of their ``seq``, oldest first.

    Who goes back to a state goes back, too, behind what had been gone back to by then: of those, the ones after that
    state do not count.

    Args:
        rewinds: ``seq`` and ``to_seq`` of each ``Rewound``.
    """
    stretches: list[tuple[int, float]] = []
    upto: float = float("inf")
    for seq, to_seq in sorted(rewinds, reverse=True):
        if seq <= upto:
            stretches.append((seq - 1, upto))
            upto = to_seq
    return [(0, upto), *reversed(stretches)]


def counted_in(batch: Batch, stretches: Sequence[tuple[int, float]]) -> list[Batch]:
    """Return what of a batch is in some stretches."""
    first, last = batch.seqs
    inside = [(after, upto) for after, upto in stretches if after < last and first <= upto]
    return [part for after, upto in inside if (part := batch.between(after, upto)).size]
