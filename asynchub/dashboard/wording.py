"""What there is to say of a curve, in words that all views share.

Figures: as of ``asynchub.subscribers.display``, with the unit that a key names.
Lines: every text is one, without control characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from asynchub.dashboard.buckets import Buckets, joined
from asynchub.dashboard.curves import Curve, sparkline
from asynchub.dashboard.pyramid import Pyramid
from asynchub.subscribers.display import format_number, format_quantity, one_line

__all__ = ("Facts", "footer", "in_words", "not_finite_in_words", "summaries")

LATELY = 10
"""The last of so many parts of a curve is what it did lately."""
PARTS = 64
"""Buckets, at least, that a curve is looked at in."""
STEADY = 0.005
"""Change, by the size of the value, below which a curve is steady."""


class Facts(NamedTuple):
    """What a chart counts; see ``Drawing``.

    Attributes:
        points: values.
        clipped: strokes that reach beyond it.
        below_zero: those of them at 0 or below, on a logarithmic axis.
        unplaced: values that have no place on its x axis.
    """

    points: int
    clipped: int
    below_zero: int
    unplaced: int


def not_finite_in_words(nan: int, plus_inf: int, minus_inf: int) -> str:
    """Return counts such as ``50 NaN, 1 +inf``; "" for none."""
    counts = ((nan, "NaN"), (plus_inf, "+inf"), (minus_inf, "-inf"))
    return ", ".join(f"{count:,} {name}" for count, name in counts if count)


def footer(
    curves: Sequence[Curve], facts: Facts, low: float, high: float, pixels: int | None, time: float | None
) -> str:
    """Return the truth about a chart, to stand below it.

    Args:
        curves: that it shows.
        facts: what it counts.
        low: at its lower edge.
        high: at its upper edge.
        pixels: how wide it is; None if that is not known.
        time: when the runs were read, in seconds since the epoch; None to leave it out.
    """
    if not facts.points:
        parts = ["no values"]
    else:
        parts = [
            _resolution(curves, pixels),
            f"{'all ' if facts.points > 1 else ''}{_many(facts.points, 'value')} counted",
        ]
    if facts.clipped > facts.below_zero:
        what = "value" if all(curve.single for curve in curves) else "stroke"
        parts.append(f"{_many(facts.clipped - facts.below_zero, what)} cut off (▲▼)")
    if facts.below_zero:
        what = "value" if all(curve.single for curve in curves) else "stroke"
        parts.append(f"{_many(facts.below_zero, what)} at 0 or below, at the bottom edge (▼)")
    counts = [_not_finite(curve.buckets) for curve in curves if curve.not_finite]
    if bad := not_finite_in_words(*(sum(column) for column in zip((0, 0, 0), *counts, strict=True))):
        parts.append(f"{bad} (◆)")
    if facts.unplaced:
        parts.append(f"{_many(facts.unplaced, 'value')} not drawn: no place on this axis")
    if curves:
        parts.append(_smoothing(curves, low, high))
        parts.append(_offset(curves))
    parts += dict.fromkeys(one_line(curve.note) for curve in curves if curve.note)
    if time is not None and np.isfinite(time):
        try:
            parts.append(datetime.fromtimestamp(time).astimezone().isoformat(" ", "seconds"))
        except (OverflowError, OSError, ValueError):
            parts.append(f"{time:.0f} s since 1970")
    return " · ".join(parts)


def _resolution(curves: Sequence[Curve], pixels: int | None) -> str:
    """Return how many steps a pixel and a stroke stand for."""
    shown = [curve for curve in curves if curve.points]
    if all(curve.single or int(curve.buckets.points.max()) == 1 for curve in shown):
        return "each value drawn"
    widths = sorted({curve.width for curve in shown})
    wide = " to ".join(f"{width:,}" for width in dict.fromkeys((widths[0], widths[-1])))
    stroke = f"strokes from min to max of {wide} step{'' if widths[-1] == 1 else 's'}"
    if pixels is None or shown[0].axis != "step":
        return stroke
    steps = max(curve.stop for curve in shown) - min(curve.start for curve in shown) + 1
    each = steps / max(pixels, 1)
    return f"1 px = {f'{each:,.0f}' if each >= 10 else format_number(each)} steps, {stroke}"


def _smoothing(curves: Sequence[Curve], low: float, high: float) -> str:
    smoothed = next((curve for curve in curves if curve.smooth is not None), None)
    if smoothed is None:
        return "no smoothing"
    steps = _many(smoothed.window, "step")
    ema = smoothed.smoothing == "ema"
    text = f"line = exponential mean, half-life {steps}" if ema else f"line = mean over {steps}"
    with np.errstate(invalid="ignore"):
        if any(bool(((c.smooth < low) | (c.smooth > high)).any()) for c in curves if c.smooth is not None):
            text += ", which leaves the chart"
    return text


def _offset(curves: Sequence[Curve]) -> str:
    shown = [curve for curve in curves if curve.points] or curves
    seqs = sorted({curve.seq for curve in shown})
    if len(seqs) == 1:
        return f"up to event {seqs[0]:,}"
    return f"up to events {seqs[0]:,} to {seqs[-1]:,} of {sum(curve.runs for curve in shown)} runs"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def in_words(curves: Mapping[str, Curve], names: Mapping[str, str]) -> str:
    """Return what a chart shows, a sentence for each of the first few curves."""
    if not curves:
        return "no curve"
    parts = []
    for run, curve in list(curves.items())[:8]:
        words = _curve_in_words(curve)
        parts.append(f"{one_line(names.get(run, run))[:60]}: {words}" if len(curves) > 1 else words)
    if len(curves) > 8:
        what = "groups" if any(curve.runs > 1 for curve in curves.values()) else "runs"
        parts.append(f"and {len(curves) - 8:,} {what} more")
    key = one_line(next(iter(curves.values())).key)[:120]
    return f"{key}: {'; '.join(parts)}" if len(curves) > 1 else f"{key} {parts[0]}"


def _curve_in_words(curve: Curve) -> str:
    buckets = curve.buckets
    if not buckets.size:
        return "has no value"
    if curve.points == 1:
        return f"is {format_quantity(curve.key, _drawn(buckets, 0))} at step {int(buckets.first[0]):,}"
    text = f"from step {curve.start:,} to {curve.stop:,}: {_many(curve.points, 'value')}"
    finite = np.flatnonzero(~np.isnan(buckets.min))
    if len(finite):
        lowest, highest = finite[np.argmin(buckets.min[finite])], finite[np.argmax(buckets.max[finite])]
        first, last = (format_quantity(curve.key, _mean(buckets, row)) for row in (finite[0], finite[-1]))
        about = "" if curve.single or curve.width == 1 else "about "
        text += f", first {about}{first}, last {about}{last}"
        for name, row, values in (("smallest", lowest, buckets.min), ("largest", highest, buckets.max)):
            about = "at" if curve.width == 1 else "near"
            number = format_quantity(curve.key, float(values[row]))
            text += f", {name} {number} {about} step {int(buckets.first[row]):,}"
    else:
        text += ", none of them finite"
    if curve.not_finite:
        bad = np.flatnonzero(buckets.not_finite)
        text += f"; {not_finite_in_words(*_not_finite(buckets))} from step {int(buckets.first[bad[0]]):,} on"
    return text


def _mean(buckets: Buckets, row: int) -> float:
    """Return the mean of a bucket; one of no sample has none, but is drawn."""
    with np.errstate(all="ignore"):
        mean = float(buckets.sum[row] / buckets.weight[row]) if buckets.weight[row] > 0 else np.nan
    return float(buckets.min[row]) if np.isnan(mean) else mean


def _not_finite(buckets: Buckets) -> tuple[int, int, int]:
    return int(buckets.nan.sum()), int(buckets.plus_inf.sum()), int(buckets.minus_inf.sum())


# --- a scalar of a run


def summaries(run: Pyramid, keys: Sequence[str]) -> dict[str, str]:
    """Return what there is to say of scalars, e.g. ``"0.41, down 2 % over the last 10,000 steps; 50 NaN at step 7"``.

    First the newest value. "Down 2 %" compares the mean over the last steps, about a tenth of all, with the mean over
    as many before. The journal is read once for all of them, for the newest value and the steps of what is not finite.

    Args:
        run: of which run.
        keys: of the scalars; one that has no value is said to have none.

    Raises:
        CorruptStateError: the journal is damaged.
        OSError: it cannot be read.
    """
    whole = {key: sparkline(run, key, PARTS) for key in dict.fromkeys(keys)}
    blocks = {key: _ends(run, key, parts) for key, parts in whole.items() if parts.size}
    values = run.values_of(blocks)
    last = {key: (run.extent(key) or (0, 0))[1] for key in whole}
    return {key: _in_a_line(key, parts, values.get(key), last[key]) for key, parts in whole.items()}


def _ends(run: Pyramid, key: str, parts: Buckets) -> Buckets:
    """Return the finest buckets with the newest value, and with the first and the last that is not finite."""
    bad = np.flatnonzero(parts.not_finite)
    newest = _within(run, key, parts, int(np.argmax(parts.last_seq)))
    found = [newest.take(np.array([int(np.argmax(newest.last_seq))] if newest.size else [], np.int64))]
    for number in dict.fromkeys(bad[[0, -1]].tolist() if len(bad) else ()):
        rows = _within(run, key, parts, number)
        holes = np.flatnonzero(rows.not_finite)
        found.append(rows.take(holes[[0, -1]] if len(holes) else holes))
    rows = joined(found, newest.width)
    return rows.take(np.unique(rows.first_seq, return_index=True)[1])


def _within(run: Pyramid, key: str, parts: Buckets, number: int) -> Buckets:
    """Return the finest buckets of one that is wider, or as wide."""
    begin = int(parts.steps[number])
    rows = run.rows(key, 0, begin, begin + parts.width - 1)
    return rows.take((rows.first >= begin) & (rows.first < begin + parts.width))


def _in_a_line(key: str, parts: Buckets, values: Buckets | None, last: int) -> str:
    if not parts.size:
        return "no value yet"
    if values is None or not values.size:
        newest = parts.take(np.array([int(np.argmax(parts.last_seq))]))
        number = float(newest.means[0] if np.isfinite(newest.means[0]) else newest.min[0])
        text = f"about {format_quantity(key, number)}"
    else:
        text = format_quantity(key, _drawn(values, int(np.argmax(values.last_seq))))
    if trend := _trend(key, parts, last):
        text += f", {trend}"
    if words := not_finite_in_words(*_not_finite(parts)):
        text += f"; {words}{_where(parts, values)}"
    return text


def _drawn(values: Buckets, number: int) -> float:
    """Return a single value as it is drawn."""
    if values.nan[number]:
        return float("nan")
    if values.plus_inf[number] or values.minus_inf[number]:
        return float("inf") if values.plus_inf[number] else float("-inf")
    return float(values.min[number])


def _trend(key: str, parts: Buckets, last: int) -> str:
    """Return how the mean over the last steps compares with that over as many before; "" if there are too few."""
    count = max(parts.size // LATELY, 1)
    if parts.size < 4:
        return ""
    late, before = parts.take(slice(-count, None)), parts.take(slice(-2 * count, -count))
    with np.errstate(all="ignore"):
        now, then = (float(part.sum.sum() / part.weight.sum()) for part in (late, before))
    if not (np.isfinite(now) and np.isfinite(then)):
        return ""
    over = f" over the last {_rounded(last - int(late.steps[0]) + 1):,} steps"
    change = abs(now - then) / abs(then) if then else float(now != then)
    if change < STEADY:
        return "steady" + over
    way = "up" if now > then else "down"
    if then == 0 or now * then < 0 or change >= 10:
        return f"{way} from {format_quantity(key, then)}" + over
    return f"{way} {100 * change:.0f} %" + over if change >= 0.01 else f"{way} {100 * change:.1f} %" + over


def _rounded(count: int) -> int:
    """Return a number with 2 significant digits."""
    return int(float(f"{count:.1e}"))


def _where(parts: Buckets, values: Buckets | None) -> str:
    """Return the steps of what is not finite, exactly where the journal still has the values."""
    found = parts if values is None else values
    steps = found.first[found.not_finite > 0]
    if not len(steps):
        return ""
    near = "near" if values is None else "at"
    first, last = int(steps.min()), int(steps.max())
    return f" {near} step {first:,}" if first == last else f" {near} steps {first:,} to {last:,}"
