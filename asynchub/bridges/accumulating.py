"""What a rank has of each scalar until it is reduced over ranks.

A kind says what becomes of many updates, of one rank and of all:

    ``mean``  the mean over all samples: the sum of values over the sum of counts
    ``sum``   the sum of values
    ``min``   the smallest of the means ``value / count`` of the updates
    ``max``   the largest of them
    ``last``  the update of the newest step; of several ranks that have one, that of the highest

Numbers are float64, added in the order of the updates: ints are exact up to 2**53. NaN and infinities go into them as
NumPy has it (the smallest of 1 and NaN is NaN), and are counted beside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from asynchub.errors import ArgumentError
from asynchub.events import Event, ScalarUpdated
from asynchub.patterns import check_pattern, matcher

__all__ = (
    "ABSENT",
    "COUNT",
    "NON_FINITE",
    "STEP",
    "VALUE",
    "Declarations",
    "ReductionKind",
    "Slots",
    "accumulate",
    "add",
    "merge",
)

ReductionKind = Literal["mean", "sum", "min", "max", "last"]
"""What becomes of a scalar over ranks."""
Slots = dict[str, list[float]]
"""Of each key ``[value, count, step, non-finite]``: what its updates come to, over how many samples, the newest step
(-1 if it had none), and how many of them were NaN or infinite."""
VALUE, COUNT, STEP, NON_FINITE = range(4)
ABSENT = -math.inf
"""The step of a key that nothing is there of."""
KINDS = get_args(ReductionKind)


class Declarations:
    """Which scalars are reduced, and how.

    Args:
        kinds: of each key pattern the kind; the first pattern that selects a key counts.
        at_once: patterns of those that are reduced in the settle point that sees them.
        prefix: what the keys of results begin with; such keys are not reduced again.

    Raises:
        ArgumentError: there is no pattern, a kind is none, or ``prefix`` is no non-empty str.
        PatternError: a pattern is malformed.
    """

    def __init__(self, kinds: Mapping[str, ReductionKind], at_once: Sequence[str], prefix: str) -> None:
        if not isinstance(kinds, Mapping) or not kinds:
            raise ArgumentError(f"say what to reduce: {{'train/loss': 'mean'}} for example, got {kinds!r:.80}")
        for pattern, kind in kinds.items():
            check_pattern(pattern)
            if kind not in KINDS:
                raise ArgumentError(f"{pattern!r} must be reduced by one of {', '.join(KINDS)}, got {kind!r:.80}")
        if not isinstance(prefix, str) or not prefix:
            raise ArgumentError(f"prefix must be a non-empty str like 'all/', got {prefix!r:.80}")
        if isinstance(at_once, str):
            at_once = (at_once,)
        self.patterns = tuple(kinds)
        self.prefix = prefix
        self.described = [[*map(list, kinds.items())], sorted(at_once), prefix]
        """All of it as msgpack can hold it: what must be the same on all ranks."""
        self._matchers = [(matcher([pattern]), kind) for pattern, kind in kinds.items()]
        self._at_once = matcher(at_once)
        self._known: dict[str, tuple[ReductionKind, bool] | None] = {}

    def find(self, key: str) -> tuple[ReductionKind, bool] | None:
        """Return the kind of ``key`` and whether it is reduced at once; None if it is not reduced."""
        try:
            return self._known[key]
        except KeyError:
            kind = (
                None
                if key.startswith(self.prefix)
                else next((kind for test, kind in self._matchers if test(key)), None)
            )
            found = None if kind is None else (kind, self._at_once(key))
            self._known[key] = found
            return found

    def kind_of(self, key: str) -> ReductionKind:
        """Return the kind of ``key``, which is one that is reduced.

        Raises:
            ArgumentError: it is not.
        """
        found = self.find(key)
        if found is None:
            raise ArgumentError(f"{key!r} is not among the scalars that are reduced: {', '.join(self.patterns)}")
        return found[0]


def accumulate(events: Iterable[Event], declarations: Declarations, slots: Slots, at_once: Slots) -> None:
    """Have ``slots``, or ``at_once`` for keys that are reduced at once, hold what ``events`` say of what is reduced."""
    find = declarations.find
    for event in events:
        if type(event) is not ScalarUpdated or (found := find(event.key)) is None:
            continue
        kind, now = found
        target = at_once if now else slots
        slot, value, step = target.get(event.key), event.value, event.step
        if slot is None or type(value) is not float or step is None or kind not in ("mean", "sum"):
            add(target, kind, event)
            continue
        slot[VALUE] += value  # as `add` does, without calls: a training step pays for each update
        slot[COUNT] += event.count
        if step > slot[STEP]:
            slot[STEP] = step
        if value - value != 0:
            slot[NON_FINITE] += 1


def add(slots: Slots, kind: ReductionKind, event: ScalarUpdated) -> None:
    """Have ``slots`` hold one more update of a key of ``kind``."""
    value, count, step = _float(event.value), event.count, -1 if event.step is None else event.step
    if kind in ("min", "max"):
        if not count:
            return  # over no samples: it has no mean
        if count != 1:
            value, count = value / count, 1
    slot = slots.get(event.key)
    non_finite = 0 if value - value == 0 else 1
    if slot is None:
        slots[event.key] = [value, float(count), float(step), float(non_finite)]
    else:
        _join(slot, kind, [value, count, step, non_finite])


def merge(slots: Slots, newer: Slots, declarations: Declarations) -> None:
    """Have ``slots`` hold what ``newer`` holds, too."""
    for key, slot in newer.items():
        mine = slots.get(key)
        if mine is None:
            slots[key] = slot
        else:
            _join(mine, declarations.kind_of(key), slot)


def _join(slot: list[float], kind: ReductionKind, newer: Sequence[float]) -> None:
    value, count, step, non_finite = newer
    if kind in ("mean", "sum"):
        slot[VALUE] += value
        slot[COUNT] += count
    elif kind == "last":
        if step >= slot[STEP]:
            slot[VALUE], slot[COUNT] = value, count
    elif not math.isnan(slot[VALUE]) and (
        math.isnan(value) or (value < slot[VALUE] if kind == "min" else value > slot[VALUE])
    ):
        slot[VALUE] = value
    slot[STEP] = max(slot[STEP], step)
    slot[NON_FINITE] += non_finite


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int beyond every float
        return math.inf if value > 0 else -math.inf
