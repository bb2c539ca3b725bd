"""A scalar smoothed: the mean over the steps before each place, or one in which older values count less and less.

Exact: both are made of all values, not of what is drawn, so they are the same at each zoom, and of the past they never
    change. What is not finite is not in them.
Windows: one that is at least as wide as a bucket of level 0 is rounded up to whole ones. One that is not wider than
    the buckets of the curve shows their means; so does a half-life.
Half-lives: a value's weight, beside its samples, is 0.5 to the power of its age by the half-life, and the sum of values
    is divided by that of the weights, so that there is no pull towards a start at 0. The age is counted in whole
    buckets of level 0, or, with a half-life that is shorter than one, in steps. What is more than ``REACH`` half-lives
    old, and twice that at most, does not count: in a double it would not be seen.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from itertools import pairwise
from typing import Literal

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, joined, reduce
from asynchub.dashboard.pyramid import Pyramid

__all__ = ("Smoothing", "smoothed")

Smoothing = Literal["mean", "ema"]
"""A mean over a window, or an exponential one with a half-life."""
REACH = 64
"""Half-lives after which a value does not count: its weight is below 2e-16 of that of a new one, a thousand times."""


_Means = Generator[Buckets, "Buckets | None", Array]
"""Yields the buckets whose values it takes, is sent these, or None if they cannot be had, and returns means."""


def smoothed(
    run: Pyramid, shown: Mapping[str, tuple[Array, Buckets]], window: int, smoothing: Smoothing = "mean"
) -> dict[str, Array]:
    """Return some scalars smoothed; the journal is read once for all of them.

    Args:
        run: of which run.
        shown: of each key, the steps at which a mean is wanted of what is below them; and the buckets, or values, that
            end there.
        window: of a mean, how many steps before each end are in it; of an exponential one, its half-life; above 0.
        smoothing: which mean it is.

    Returns:
        The means of each key; NaN where no finite value counts.

    Source:
        Kingma and Ba, "Adam", ICLR 2015, section 3: dividing by the sum of the weights undoes the pull of an
        exponential mean towards a start at zero.
    """
    found: dict[str, Array] = {}
    going: dict[str, _Means] = {}
    for key, (ends, buckets) in shown.items():
        if not len(ends) or (buckets.width > 1 and window <= buckets.width):
            found[key] = buckets.means
        else:
            going[key] = (_ema if smoothing == "ema" else _window)(run, key, ends, window)
    values: dict[str, Buckets | None] = dict.fromkeys(going)
    while going:
        wanted: dict[str, Buckets] = {}
        for key, means in list(going.items()):
            try:
                wanted[key] = means.send(values[key])
            except StopIteration as end:
                found[key] = end.value
                del going[key]
        values = run.values_of(wanted) if wanted else {}
    return found


def _window(run: Pyramid, key: str, ends: Array, window: int) -> _Means:
    """Return the mean over the values whose steps are at least ``end - window`` and below ``end``, for each end."""
    base = run.base
    if window >= base:
        window += -window % base
    rows = run.rows(key, 0, int(ends.min()) - window, int(ends.max()))
    parts = reduce(rows, 1)
    cuts = np.concatenate([ends, ends - window])
    cut = np.unique(cuts[cuts % base != 0] & -base)
    if len(cut):
        amid = np.isin(rows.steps, cut)
        values = yield rows.take(amid)
        if values is not None:
            parts = joined([reduce(rows.take(~amid), 1), values], 1)
            parts = parts.take(np.argsort(parts.first, kind="stable"))
        else:
            ends = ends - ends % base
    firsts = np.searchsorted(parts.first, ends - window)
    lasts = np.searchsorted(parts.first, ends)
    weight = _sums(parts.weight, firsts, lasts)
    with np.errstate(all="ignore"):
        means: Array = np.where(weight > 0, _sums(parts.sum, firsts, lasts) / weight, np.nan)
    return means


def _sums(numbers: Array, firsts: Array, lasts: Array) -> Array:
    """Return the sums of ``numbers[first:last]``."""
    if not len(firsts) or not len(numbers):
        return np.zeros(len(firsts))
    padded = np.append(numbers, 0.0)
    sums = np.add.reduceat(padded, np.stack([firsts, lasts], axis=1).reshape(-1))[::2]
    return np.where(firsts < lasts, sums, 0.0)


def _ema(run: Pyramid, key: str, ends: Array, half_life: int) -> _Means:
    """Return the exponential mean over the values whose steps are below each end.

    Steps are divided into stretches of ``REACH`` half-lives. What counts at a place is its own stretch up to there, and
    the one before, each summed from its beginning: so whatever is looked at, the same numbers are added in the same
    order, and only so much of the run is read.
    """
    grain = run.grain
    if half_life < grain:
        means = yield from _ema_of(run, key, ends, half_life, 1)
        if means is not None:
            return means
        half_life = grain  # single values cannot be had
    means = yield from _ema_of(run, key, ends, half_life, grain)
    return np.full(len(ends), np.nan) if means is None else means


def _ema_of(
    run: Pyramid, key: str, ends: Array, half_life: int, grain: int
) -> Generator[Buckets, Buckets | None, Array | None]:
    """Return the same with ages in whole cells of ``grain`` steps; None if the values cannot be had that it takes."""
    span = grain * -(-REACH * half_life // grain)
    high = int(ends.max())
    low = max((int(ends.min() - 1) // span - 1) * span, 0)
    rows = run.rows(key, 0, low, high)
    rows = rows.take((rows.steps + rows.width > low) & (rows.steps < high))
    cut = np.unique((ends - 1)[ends % grain != 0] // grain)
    amid = rows.take(np.isin(rows.first // grain, cut))
    if grain < rows.width:
        values = yield rows
        if values is None:
            return None
        rows = values.take(values.first >= low)
    elif amid.size and rows.width > 1:
        values = yield amid
        ends = ends - ends % grain if values is None else ends
        amid = values or Buckets.none()
    cells = reduce(rows, grain // rows.width)
    factors = _factors(cells.steps, grain, span, half_life)
    amid = amid.take(np.argsort(amid.first, kind="stable"))
    numbers, weights = (
        _sums_at(ends, cells.steps, column * factors, amid.first, part, grain, span, half_life)
        for column, part in ((cells.sum, amid.sum), (cells.weight, amid.weight))
    )
    with np.errstate(all="ignore"):
        means: Array = np.where(weights > 0, numbers / weights, np.nan)
    return means


def _factors(steps: Array, grain: int, span: int, half_life: int) -> Array:
    """Return what a sample in a cell weighs, seen from the last cell of its stretch."""
    factors: Array = np.exp2((steps % span - (span - grain)) / half_life)
    return factors


def _sums_at(
    ends: Array, steps: Array, cells: Array, amid: Array, parts: Array, grain: int, span: int, half_life: int
) -> Array:
    """Return the sums that count at some ends.

    Args:
        ends: the steps.
        steps: where each cell begins, increasing.
        cells: the number of each cell, as it counts.
        amid: steps of the values of cells that an end is amid, in their order.
        parts: the numbers of these, without factors.
        grain: steps of a cell.
        span: steps of a stretch.
        half_life: steps.
    """
    upto = _running(cells, steps // span)
    inside = _running(parts, amid // grain)
    own = (ends - 1) // grain * grain
    before = np.searchsorted(steps, own)
    stretch = own // span
    sums: Array = _last(upto, steps // span, before, stretch)
    last = np.searchsorted(amid, ends)
    within = _last(inside, amid // grain, last, own // grain) * _factors(own, grain, span, half_life)
    whole = np.zeros(len(ends))
    there = np.append(steps, -1)[before] == own
    whole[there] = cells[before[there]]
    sums = sums + np.where(ends % grain == 0, whole, within)
    earlier = np.searchsorted(steps, stretch * span)
    sums += _last(upto, steps // span, earlier, stretch - 1) * 2.0 ** (-span / half_life)
    return sums


def _running(numbers: Array, groups: Array) -> Array:
    """Return the sum of each number and those before it in its group; groups stand together."""
    sums = np.empty(len(numbers))
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1])).tolist() if len(numbers) else []
    for start, stop in pairwise([*starts, len(numbers)]):
        np.add.accumulate(numbers[start:stop], out=sums[start:stop])
    return sums


def _last(sums: Array, groups: Array, counts: Array, wanted: Array) -> Array:
    """Return of each count the sum of the last number before it, if that is in the group that is wanted; else 0."""
    found = np.append(groups, -1)[counts - 1] == wanted
    found &= counts > 0
    chosen: Array = np.where(found, np.append(sums, 0.0)[counts - 1], 0.0)
    return chosen
