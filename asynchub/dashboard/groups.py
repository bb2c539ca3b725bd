"""Groups of runs: those that said the same of an info, and what these have in common, as one curve.

Grid: all runs have the same one, so buckets of one width are put together as they are; where one run has wider ones
    than another, the others' are made as wide. Where runs say their values at different steps, buckets are wide enough
    that most have one of each run.
Equal: each run counts the same, however many values it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, joined, reduce
from asynchub.dashboard.comparing import MISSING
from asynchub.dashboard.curves import Curve
from asynchub.dashboard.screen import RunRow

__all__ = ("Group", "group_curve", "grouped", "groups_in_words")

FEW = 8
"""Buckets of the longest run that a group has at least, if there are as many."""
MOSTLY = 0.9
"""Share of the buckets of a group's runs that have a value, from which on buckets are wide enough."""
FEW_GROUPS = 6
"""Groups up to which it is said of how many runs each is."""


def grouped(rows: Iterable[RunRow], name: str) -> dict[str, list[RunRow]]:
    """Return runs by what they said of an info, numbers in their order; those that said nothing at the end."""
    found: dict[str, list[RunRow]] = {}
    for row in rows:
        found.setdefault(row.config.get(name, MISSING), []).append(row)
    return dict(sorted(found.items(), key=lambda item: (item[0] == MISSING, *_numbers_first(item[0]))))


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text.replace(",", "")), text
    except ValueError:
        return True, 0.0, text


@dataclass(frozen=True, slots=True)
class Group:
    """What runs of a group have in common.

    Attributes:
        name: of the group.
        curve: the means of their means, and the extremes of their values, as a curve, to be drawn like any other.
        low: the smallest mean that one of the runs has in each bucket; NaN where none has one.
        high: the largest one.
        runs: how many runs have a mean in each bucket.
        size: how many runs there are.
        note: where not all runs have values, in words; "" if all have, everywhere.
    """

    name: str
    curve: Curve
    low: Array
    high: Array
    runs: Array
    size: int
    note: str

    @property
    def fewer(self) -> Array:
        """Whether fewer than all of its runs have a mean in each bucket."""
        mask: Array = self.runs < self.size
        return mask


def group_curve(name: str, curves: Sequence[Curve]) -> Group:
    """Return what curves of one key of several runs have in common.

    Args:
        name: of the group.
        curves: at least one, on the axis of steps, asked for with the same arguments.
    """
    width, parts = _alike(curves)
    whole = joined(parts, width)
    order = np.argsort(whole.first, kind="stable")
    whole = whole.take(order)
    means = whole.means
    starts = np.flatnonzero(np.append(True, whole.first[1:] != whole.first[:-1])) if whole.size else np.empty(0, int)
    if not len(starts):
        empty = np.empty(0)
        nothing = replace(curves[0], runs=len(curves))
        return Group(name, nothing, empty, empty, np.empty(0, int), len(curves), "no run has a value there")
    number = np.add.reduceat(np.isfinite(means).astype(np.int64), starts)
    buckets = Buckets(
        width,
        whole.first[starts],
        np.fmin.reduceat(whole.min, starts),
        np.fmax.reduceat(whole.max, starts),
        np.add.reduceat(np.where(np.isfinite(means), means, 0.0), starts),
        number.astype(np.float64),
        np.add.reduceat(whole.points, starts),
        np.add.reduceat(whole.nan, starts),
        np.add.reduceat(whole.plus_inf, starts),
        np.add.reduceat(whole.minus_inf, starts),
        np.minimum.reduceat(whole.first_seq, starts),
        np.maximum.reduceat(whole.last_seq, starts),
        np.fmin.reduceat(whole.times, starts),
    )
    first = curves[0]
    curve = replace(
        first,
        start=min(one.start for one in curves),
        stop=max(one.stop for one in curves),
        width=width,
        single=False,
        buckets=buckets,
        x=buckets.steps,
        monotone=True,
        note=next((one.note for one in curves if one.note), ""),
        smooth=_smooth(curves, width, order, starts),
        seq=max(one.seq for one in curves),
        runs=len(curves),
    )
    low, high = np.fmin.reduceat(means, starts), np.fmax.reduceat(means, starts)
    few = np.flatnonzero(number < len(curves))
    note = ""
    if len(few):
        step = int(buckets.first[few[0]])
        note = f"from step {step:,} on, some buckets have values of fewer than all {len(curves)} runs"
    return Group(name, curve, low, high, number, len(curves), note)


def _alike(curves: Sequence[Curve]) -> tuple[int, list[Buckets]]:
    """Return what curves have in buckets of one width, in the order of steps, that begin where their cells do."""
    width = max(curve.width for curve in curves)
    parts = [reduce(curve.buckets, width // curve.width) for curve in curves]
    parts = [part._replace(first=part.steps) for part in parts]
    while max(part.size for part in parts) >= FEW and _filled([part.first for part in parts]) < MOSTLY:
        width *= 2
        parts = [reduce(part, 2) for part in parts]
        parts = [part._replace(first=part.steps) for part in parts]
    return width, parts


def _filled(cells: Sequence[Array]) -> float:
    """Return of how many of the cells that any run has, from its first to its last, a run has a value itself."""
    every = np.unique(np.concatenate(cells))
    ends = [np.searchsorted(every, own[[0, -1]]) for own in cells if len(own)]
    return sum(map(len, cells)) / max(sum(int(last - first) + 1 for first, last in ends), 1)


def _smooth(curves: Sequence[Curve], width: int, order: Array, starts: Array) -> Array | None:
    """Return the mean of what was smoothed of each curve, at the end of each bucket; None if nothing was.

    Args:
        curves: they.
        width: of the buckets.
        order: in which the buckets of all curves, one after the other, are those of the first step, of the next, ...
        starts: where among these those of each step begin.
    """
    lines = []
    for curve in curves:
        if curve.smooth is None:
            return None
        cells = curve.buckets.first & -width
        sorting = np.argsort(cells, kind="stable")
        lasts = np.flatnonzero(np.append(cells[sorting][1:] != cells[sorting][:-1], True)) if len(cells) else sorting
        lines.append(curve.smooth[sorting][lasts])
    values = np.concatenate(lines)[order]
    finite = np.isfinite(values)
    number = np.add.reduceat(finite.astype(np.int64), starts)
    with np.errstate(all="ignore"):
        means: Array = np.add.reduceat(np.where(finite, values, 0.0), starts) / number
    return means


def groups_in_words(name: str, groups: Sequence[Group]) -> str:
    """Return what a chart of groups shows, to stand below it.

    Args:
        name: of the info by which runs are grouped.
        groups: that have values.
    """
    if not groups:
        return f"no group by {name} has a value"
    sizes = [group.size for group in groups]
    each = [f"{size:,}" for size in sizes]
    if min(sizes) == max(sizes):
        runs = f"{each[0]} {'run' if sizes[0] == 1 else 'runs'}{' each' if len(each) > 1 else ''}"
    elif len(each) > FEW_GROUPS:
        runs = f"{min(sizes):,} to {max(sizes):,} runs"
    else:
        runs = f"{', '.join(each[:-1])} and {each[-1]} runs"
    what = f"{len(sizes):,} groups" if len(sizes) > 1 else "1 group"
    text = f"{what} by {name}, of {runs}: line = their mean, dark = lowest to highest"
    fewer = [group.curve.buckets.first[few[0]] for group in groups if len(few := np.flatnonzero(group.fewer))]
    return f"{text}; from step {min(fewer):,} on not all have values" if fewer else text
