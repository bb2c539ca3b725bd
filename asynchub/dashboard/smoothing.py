"""A scalar smoothed: the mean over the steps before each place.

Exact: it is the sum of all values in the window by the number of samples, so it is the same at each zoom, and of the
    past it never changes. What is not finite is not in it.
Windows: one that is at least as wide as a bucket of level 0 is rounded up to whole ones. One that is not wider than
    the buckets of the curve shows their means.
"""

from __future__ import annotations

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, joined, reduce
from asynchub.dashboard.pyramid import Pyramid

__all__ = ("window_means",)


def window_means(run: Pyramid, key: str, ends: Array, shown: Buckets, window: int) -> Array:
    """Return the mean over the values whose steps are at least ``end - window`` and below ``end``, for each end.

    Args:
        run: of which run.
        key: of the scalar.
        ends: the steps.
        shown: the buckets, or values, that end there.
        window: how many steps, above 0.

    Returns:
        The means; NaN where no finite value is in the window.
    """
    if not len(ends) or (shown.width > 1 and window <= shown.width):
        return shown.means
    base = run.base
    if window >= base:
        window += -window % base
    rows = run.rows(key, 0, int(ends.min()) - window, int(ends.max()))
    parts = reduce(rows, 1)
    cuts = np.concatenate([ends, ends - window])
    cut = np.unique(cuts[cuts % base != 0] & -base)
    if len(cut):
        amid = np.isin(rows.steps, cut)
        values = run.values(key, rows.take(amid))
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
