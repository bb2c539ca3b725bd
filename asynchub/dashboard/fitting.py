"""Which values a chart shows: all of them, or all but a few far off, so that the others are seen.

A first rule was to fit the newest 90 % of the points. It fails twice: a spike among those presses all else into a
stripe, and a start that matters is cut off where it harms nobody. So:

Fitted: the narrowest range that holds whole strokes with nine points in ten, wherever they are; each curve counts as
    much as any other.
Newest: the newest fiftieth of a curve's points, and its three newest strokes, are inside whatever they are. So a loss
    that diverges is never cut off, however slowly or fast; a spike is seen whole while it is news.
Grown: that range grows, up to three times its height, to where it holds most. So nothing is cut off that costs little
    to show, and of values that spread far, only the farthest are. If all would need half as much again, all is shown.
Outlier: of three curves or more, one whose newest values would make the range of the others ten times as wide leaves
    the chart: else one run that has diverged would hide all others. Two are both shown, as nobody knows which is wrong.
Sizes beyond ``LARGEST`` are never inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asynchub.columns import Array

__all__ = ("LARGEST", "Strokes", "fit")

LARGEST = 1e300
"""Size up to which values are drawn: the range of a chart must not overflow."""
MOST_LEFT_OUT = 0.1
"""Share of the points whose strokes may reach beyond the chart."""
NEWEST = 0.02
"""Share of a curve's points that are its newest."""
NEWEST_STROKES = 3
WORTH = 1.5
"""All is shown if that makes the chart no more than so many times as high as with something cut off."""
GROWN = 3.0
"""The chart is so many times as high as the fitted part at most."""
OUTLIER = 10.0
FEW = 6
"""Part of the strokes that has those that may be left out, unless they stand for more than others."""
TRIES = 11
"""How many ways there are to share what is left out between the top and the bottom."""
MARGIN = 0.04
"""Of the range, at each edge."""
NARROWEST = 1e-9
"""Height of a chart at least, by the size of its values: doubles have 16 digits."""


class Strokes(NamedTuple):
    """What is drawn of a curve: a stroke for each bucket that has a finite value.

    Attributes:
        low: where each begins.
        high: where it ends; not below ``low``.
        points: how many values it stands for.
        seq: the event that was its last.
    """

    low: Array
    high: Array
    points: Array
    seq: Array


def fit(curves: Sequence[Strokes], *, all_of_it: bool = False) -> tuple[float, float]:
    """Return the smallest and the largest value that a chart shows, with a margin; the first is below the second.

    Args:
        curves: finite strokes; on a logarithmic axis, their logarithms.
        all_of_it: show all values.
    """
    curves = [curve for curve in curves if len(curve.low)]
    if not curves:
        return 0.0, 1.0
    low, high = _hull(curves)
    if not -LARGEST <= low <= high <= LARGEST:
        curves = [_bounded(curve) for curve in curves]
        low, high = _hull(curves)
    if not all_of_it:
        newest = _newest(curves)
        inside = _hull(newest)
        if high - low <= WORTH * (inside[1] - inside[0]):  # so it is of what is fitted, which has these: soon told
            return _with_margin(low, high)
        every = _together(curves)
        grown = _hull([_grown(*every, *_hull([_inner(*every)])), *newest])
        if high - low > WORTH * max(grown[1] - grown[0], _narrowest(*grown)):
            low, high = grown
    return _with_margin(low, high)


def _bounded(curve: Strokes) -> Strokes:
    return curve._replace(low=np.clip(curve.low, -LARGEST, LARGEST), high=np.clip(curve.high, -LARGEST, LARGEST))


def _hull(curves: Sequence[Strokes]) -> tuple[float, float]:
    """Return the range of all strokes of some curves; the narrowest in the middle of nothing if there are none."""
    lows, highs = [curve.low for curve in curves], [curve.high for curve in curves]
    return float(np.concatenate(lows).min()), float(np.concatenate(highs).max())


def _inner(low: Array, high: Array, weight: Array) -> Strokes:
    """Return the strokes in the narrowest range that holds nine points in ten."""
    by_low, by_high = _smallest(low, weight), _smallest(-high, weight)
    below = weight[by_low].cumsum()
    best = (float(low.min()), float(high.max()))
    tops, lows, weights = high[by_high], low[by_high], weight[by_high]
    begins = np.minimum(below.searchsorted(np.linspace(0.0, MOST_LEFT_OUT, TRIES), side="right"), len(by_low) - 1)
    for bottom in dict.fromkeys(low[by_low[begins]].tolist()):
        spare = float((weight * (low >= bottom)).sum()) - (1.0 - MOST_LEFT_OUT - 1e-9)
        left = int((weights * (lows >= bottom)).cumsum().searchsorted(spare, side="right"))
        if spare >= 0 and left < len(tops) and tops[left] - bottom < best[1] - best[0]:
            best = bottom, float(tops[left])
    inside = (low >= best[0]) & (high <= best[1])
    return Strokes(low[inside], high[inside], weight[inside], np.empty(0))


def _smallest(numbers: Array, weight: Array) -> Array:
    """Return the indexes of the smallest of some numbers, in order: as many as weigh more than may be left out."""
    few = len(numbers) // FEW
    which = np.sort(np.argpartition(numbers, few)[:few]) if few else np.arange(0)
    if float(weight[which].sum()) <= MOST_LEFT_OUT + 1e-6:
        return np.argsort(numbers, kind="stable")
    return which[np.argsort(numbers[which], kind="stable")]


def _together(curves: Sequence[Strokes]) -> tuple[Array, Array, Array]:
    """Return all strokes, and the share of each in the points, if each curve counts the same."""
    low, high = (np.concatenate([getattr(curve, name) for curve in curves]) for name in ("low", "high"))
    return low, high, np.concatenate([curve.points / curve.points.sum() / len(curves) for curve in curves])


def _grown(lows: Array, highs: Array, weight: Array, low: float, high: float) -> Strokes:
    """Return the strokes in a range that is higher than the one given, where it holds most."""
    height = max(high - low, _narrowest(low, high))
    best, most = (lows >= low) & (highs <= high), 0.0
    for share in np.linspace(0.0, 1.0, TRIES).tolist():
        bottom = low - share * (GROWN - 1) * height
        inside = (lows >= min(bottom, low)) & (highs <= max(bottom + GROWN * height, high))
        held = float((weight * inside).sum())
        if held > most + 1e-12:  # of equal ones the first: they differ by rounding
            best, most = inside, held
    return Strokes(lows[best], highs[best], weight[best], np.empty(0))


def _newest(curves: Sequence[Strokes]) -> list[Strokes]:
    """Return the newest strokes of each curve but those that are outliers."""
    newest = []
    for curve in curves:
        in_order = bool((curve.seq[1:] >= curve.seq[:-1]).all())
        order = slice(None, None, -1) if in_order else np.argsort(-curve.seq, kind="stable")
        seen = curve.points[order].cumsum()
        count = max(int(seen.searchsorted(NEWEST * float(seen[-1]), side="right")), NEWEST_STROKES)
        newest.append(Strokes(*(column[order][:count] for column in curve)))
    if len(newest) < 3:
        return newest
    lows = np.array([float(curve.low.min()) for curve in newest])
    highs = np.array([float(curve.high.max()) for curve in newest])
    while len(newest) >= 3:
        widths = _without_each(highs) + _without_each(-lows)
        number = int(widths.argmin())
        wide = float(highs.max() - lows.min())
        if wide <= OUTLIER * max(widths[number], _narrowest(float(lows.min()), float(np.median(highs)))):
            break
        newest.pop(number)
        lows, highs = np.delete(lows, number), np.delete(highs, number)
    return newest


def _without_each(numbers: Array) -> Array:
    """Return the largest of the others, for each of some numbers."""
    others = np.full(len(numbers), numbers.max())
    others[int(numbers.argmax())] = np.partition(numbers, -2)[-2]
    return others


def _narrowest(low: float, high: float) -> float:
    return NARROWEST * max(abs(low), abs(high)) + 1e-300


def _with_margin(low: float, high: float) -> tuple[float, float]:
    height = high - low
    if height < _narrowest(low, high):
        middle = (low + high) / 2
        half = abs(middle) / 20 if abs(middle) > 1e-290 else 1.0 if middle == 0 else 1e-290
        return middle - half, middle + half
    return low - MARGIN * height, high + MARGIN * height
