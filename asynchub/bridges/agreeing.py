"""One reduction by all ranks: what each has to say stands in a header, so that all take the same way.

The headers and slots of all ranks come first. Those decide, on all ranks alike: whether there are keys that not all
have slots for (then they tell each other, and begin again), whether there are requests, and whether they can be reduced
together at all. No collective has a shape that depends on what one rank alone knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from asynchub.bridges.accumulating import Declarations, Slots
from asynchub.bridges.combining import Columns, Gathered, Layout, Paired, Ranks
from asynchub.bridges.exchanging import exchange
from asynchub.bridges.refusals import check_keys, check_modes, check_steps
from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.loops import Latch

__all__ = ("AT_ONCE", "END", "INTERVAL", "BehindError", "Generation", "Job", "Reduced", "reduce_together")

INTERVAL, AT_ONCE, END = 0.0, 1.0, 2.0
"""Why something is reduced: an interval has ended, a key is reduced at once, or the run has ended."""
MARK, STEP, PLACE, MODE, NAMES, REQUESTS = range(6)
"""What is in a header: the layout, the step, the place, why, and how many bytes of new keys and requests there are."""
PLACES = 64
"""Places of a step: one for each time that something is reduced at it."""
GATHERED = 64
"""Ranks up to which each hears from each."""
CATCH_UP = 8
"""Times that ranks which have met again may come with different steps."""


class BehindError(Exception):
    """Other ranks are further: what this one has goes into its next reduction."""


class Reduced(NamedTuple):
    """What became of one reduction, the same on all ranks.

    Attributes:
        interval: how many there were before.
        step: up to which it goes.
        ranks: how many took part.
        at_once: whether all of them wait for it in the settle point that it comes from.
        values: value and count of each key.
        facts: see ``ScalarsReduced.keys``.
        requests: of all ranks, in their order; see ``pack_request``.
    """

    interval: int
    step: int
    ranks: int
    at_once: bool
    values: dict[str, tuple[float, int]]
    facts: dict[str, dict[str, int]]
    requests: list[bytes]


@dataclass(slots=True, eq=False)
class Generation:
    """Ranks that have met, and what they have in common: everything here is the same on all of them, always.

    Attributes:
        ranks: who they are.
        layout: of their rows.
        done: how many reductions there were before the next one.
        regrouped: whether they have met again, and may come with different steps at first.
        apart: how often they have come with different steps since.
    """

    ranks: Ranks
    layout: Layout
    done: int = 0
    regrouped: bool = False
    apart: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """Something to be reduced.

    Attributes:
        step: up to which it goes.
        number: how many there were of this step before.
        slots: what this rank has.
        mode: why it is reduced.
        deadline: until when to wait for other ranks, by ``time.monotonic``.
        asked: how many requests this rank had made, ever, when it was handed over; later ones go with a later one.
        handled: set when it was reduced, or will not be: what it holds goes into a later one then.
        reduced: what came of it; None if nothing did.
    """

    step: int
    number: int
    slots: Slots
    mode: float
    deadline: float
    asked: int
    handled: Latch = field(default_factory=Latch)
    reduced: Reduced | None = None

    @property
    def place(self) -> int:
        """Where it stands among all that ranks reduce: the same on all of them for what is reduced together."""
        return self.step * PLACES + min(self.number, PLACES - 1)


def reduce_together(
    generation: Generation, job: Job, declarations: Declarations, strict: bool, requests: list[bytes]
) -> Reduced:
    """Reduce ``job`` with all ranks; called by all of them. Waits until ``job.deadline``.

    Args:
        generation: who takes part; counts this reduction, and its layout gets the keys that any rank has.
        job: what this rank has.
        declarations: what is reduced.
        strict: whether all must have the same keys.
        requests: of this rank.

    Raises:
        ReductionError: they cannot be reduced together; on all ranks.
        BehindError: other ranks are further.
        RuntimeError, OSError: the others are not to be had.
    """
    ranks, layout, deadline = generation.ranks, generation.layout, job.deadline
    packed_requests = dumps(requests) if requests else b""
    collect = Gathered if len(ranks.numbers) <= GATHERED else Paired
    while True:
        names = sorted(key for key in job.slots if key not in layout)
        packed = dumps(names) if names else b""
        own = (layout.mark, job.step, job.place, job.mode, len(packed), len(packed_requests))
        header = np.array(own, dtype=np.float64)
        found = collect(ranks, header, layout.slots(job.slots), layout, deadline)
        low, high = found.low, found.high
        if low[MARK] != high[MARK]:
            raise ConnectionError("ranks have slots for different keys")  # a failure left them so: they begin anew
        if high[MODE] == END:
            check_modes(ranks, job.step, job.mode, job.slots, deadline, low[MODE] == END)
        elif low[PLACE] != high[PLACE]:
            generation.apart += 1
            if not generation.regrouped or generation.apart > CATCH_UP:
                check_steps(ranks, job.step, job.mode, job.slots, deadline)
            if job.place < high[PLACE]:
                raise BehindError
            continue  # those behind come with their next one
        elif low[MODE] != high[MODE] and not generation.regrouped:
            check_modes(ranks, job.step, job.mode, job.slots, deadline, False)
        if not high[NAMES]:
            break
        new = {name for one in exchange(ranks, packed, deadline) if one for name in loads(one)}
        layout.extend((name, declarations.kind_of(name)) for name in sorted(new))
    asked: list[bytes] = []
    if high[REQUESTS]:
        for one in exchange(ranks, packed_requests, deadline):
            asked += loads(one) if one else []
    columns = found.columns(deadline)
    size = len(ranks.numbers)
    there = columns.ranks[: len(layout.keys)]
    if strict and high[MODE] != END and ((there > 0) & (there < size)).any():
        check_keys(ranks, job.slots, deadline)
    values, facts = _by_key(layout, columns, ranks)
    reduced = Reduced(generation.done, int(high[STEP]), size, bool(low[MODE] == AT_ONCE), values, facts, asked)
    generation.done += 1
    generation.regrouped = False
    return reduced


def _by_key(
    layout: Layout, columns: Columns, ranks: Ranks
) -> tuple[dict[str, tuple[float, int]], dict[str, dict[str, int]]]:
    """Return value and count, and the facts, of each key that any rank has something of."""
    values: dict[str, tuple[float, int]] = {}
    facts: dict[str, dict[str, int]] = {}
    for key, value, count, non_finite, there, lowest, highest in zip(
        layout.keys, *(column.tolist() for column in columns), strict=False
    ):
        if there:
            values[key] = value, int(count) if math.isfinite(count) else 0
            facts[key] = {
                "lowest": ranks.numbers[int(lowest)],
                "highest": ranks.numbers[int(highest)],
                "non_finite": int(non_finite),
            }
    return values, facts
