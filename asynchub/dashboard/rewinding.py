"""What it changes that a run goes back to an earlier state: which events count no more, and which count again.

Tree: of an event, those count that it went on from. So whoever goes back to a state that had been abandoned has its
    past again, and what was gone back to in between counts no more, nor does what came of it.
Threads: any; nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.sifting import counting

__all__ = ("Turn", "inside", "turned")

LAST = 2**63 - 1
"""No ``seq`` is larger."""
Stretches = list[tuple[int, int]]
"""``(after, upto]`` each, oldest first."""


class Turn(NamedTuple):
    """What a ``Rewound`` changes.

    Attributes:
        common: the last event that counted before, and counts still; 0 if there is none.
        gone: the stretches of events that count no more, all behind ``common``.
        back: those that count again, all behind ``common``.
    """

    common: int
    gone: Stretches
    back: Stretches


def turned(rewinds: Sequence[tuple[int, int]], seq: int, to_seq: int) -> Turn:
    """Return what a ``Rewound`` changes.

    Args:
        rewinds: ``seq`` and ``to_seq`` of each that was before.
        seq: that of it.
        to_seq: that of the last event that counts, from 0 to ``seq - 1``.
    """
    before = counting(rewinds)
    now = [(after, int(upto)) for after, upto in counting([*rewinds, (seq, to_seq)])[:-1]]
    common = 0
    for (after, upto), (begins, end) in zip(before, now, strict=False):
        if after != begins:
            break
        common = int(min(upto, end))
        if upto != end:
            break
    return Turn(
        common,
        [one for after, upto in before if (one := (max(after, common), int(min(upto, seq - 1))))[0] < one[1]],
        [one for after, upto in now if (one := (max(after, common), upto))[0] < one[1]],
    )


def inside(stretches: Sequence[tuple[int, float]], seqs: Array) -> Array:
    """Tell of each ``seq`` whether it is in one of some stretches, which do not meet."""
    if not stretches:
        return np.zeros(len(seqs), bool)
    begins = np.array([after for after, _ in stretches], np.int64)
    ends = np.array([LAST if upto == float("inf") else int(upto) for _, upto in stretches], np.int64)
    which = np.searchsorted(begins, seqs) - 1
    found: Array = (which >= 0) & (seqs <= ends[which])
    return found
