"""Which decisions are marked on the charts of a picture: few enough to be read; the others are counted, in words.

One run: its newest ``MARKS``.
Several: those of runs that have a colour, ``MOST`` on a chart, as many of each run as of the others: first what people
    did and what went wrong, then what was done, then what was only suggested; of these the newest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from asynchub.dashboard.curves import Axis
from asynchub.dashboard.screen import Mark
from asynchub.dashboard.view import RunView

__all__ = ("MARKS", "Placed", "chosen", "in_words", "placed")

MARKS = 200
"""Decisions of a run, at most, that are marked."""
MOST = 24
"""Decisions, at most, that are marked on a chart of several runs."""
FIRST = ("manual", "failed", "refused", "resumed", "acted", "suggested")
"""Kinds, in the order in which they are chosen."""


class Placed(NamedTuple):
    """A decision with its place on a chart.

    Attributes:
        x: its place on the x axis.
        run: the id of its run.
        mark: it.
    """

    x: float
    run: str
    mark: Mark


def placed(marks: Sequence[Mark], view: RunView, run: str, axis: Axis, key: str) -> list[Placed]:
    """Return the decisions that belong on a chart, with their places.

    Args:
        marks: those of a run, oldest first.
        view: the run.
        run: its id.
        axis: what stands on the x axis.
        key: of the chart.
    """
    found = []
    epochs = view.pyramid.epochs
    seqs = np.array([seq for seq, _ in epochs], np.int64)
    for mark in marks:
        if mark.key not in ("", key):
            continue
        if axis == "step":
            place = float("nan") if mark.step is None else float(mark.step)
        elif axis == "epoch":
            which = int(np.searchsorted(seqs, mark.seq, side="right")) - 1
            place = float(epochs[which][1]) if which >= 0 else float("nan")
        else:
            place = mark.time - (view.pyramid.began if axis == "relative" else 0.0)
        if np.isfinite(place):
            found.append(Placed(place, run, mark))
    return found


def chosen(marks: Mapping[str, Sequence[Placed]]) -> tuple[Placed, ...]:
    """Return those that are marked.

    Args:
        marks: of a chart, by the ids of the runs that have a colour.
    """
    if len(marks) < 2:
        return tuple(one for some in marks.values() for one in some[-MARKS:])
    ranked = [sorted(some, key=lambda one: (FIRST.index(one.mark.kind), -one.mark.seq)) for some in marks.values()]
    in_turn = [one for turn in zip_longest(*ranked) for one in turn if one is not None]
    return tuple(in_turn[:MOST])


def in_words(marked: int, total: int, grey: int, more: bool) -> str:
    """Return how many decisions are marked on a chart; "" if all are.

    Args:
        marked: how many are.
        total: how many there are, those of grey runs included.
        grey: how many of them are of grey runs.
        more: whether there were others, older ones, which nobody keeps.
    """
    if marked == total and not more:
        return ""
    words = f"{marked:,} of {'more than ' if more else ''}{total:,} decisions marked"
    return f"{words}, none of the {grey:,} of grey runs" if grey else words
