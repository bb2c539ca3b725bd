"""One scalar of a run between two steps, as it is drawn: as buckets, or as single values where they are few.

Exact: each value that counts is in one bucket, with its extremes and all that is not finite. A bucket that is older
    than the last one is the same, bit for bit, whenever it is asked for, unless values come late, of a step before.
Grid: buckets are a power of two of steps wide, and begin at multiples of that, in all runs alike.
Threads: any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, joined, reduce
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.smoothing import Smoothing, smoothed
from asynchub.errors import ArgumentError

__all__ = ("Axis", "Curve", "curve", "curves", "sparkline")

Axis = Literal["step", "time", "relative", "epoch"]
"""What stands on the x axis. ``"time"`` is in seconds since the epoch, ``"relative"`` in seconds since the run's first
scalar, ``"epoch"`` the value of the runtime info ``epoch`` at that moment."""
AXES = ("step", "time", "relative", "epoch")


@dataclass(frozen=True)
class Curve:
    """A scalar between two steps.

    Attributes:
        key: whose.
        start: the first step that was asked for.
        stop: the last one.
        width: steps of a bucket; 1 of single values.
        single: whether these are single values, in the order in which they came; else buckets, in the order of steps.
            Buckets at the ends have the values, too, that are in them beyond ``start`` and ``stop``.
        buckets: they.
        axis: what ``x`` is.
        x: where each begins; NaN where that is not known.
        monotone: whether ``x`` never goes back.
        note: what is to be said of the axis, in words, or "".
        smooth: the mean over the last steps at the end of each; None if it was not asked for.
        window: over how many steps that is; of an exponential mean, its half-life.
        seq: the event up to which the run was read.
        smoothing: which mean it is.
        runs: how many runs it stands for: more than one if it is that of a group.
    """

    key: str
    start: int
    stop: int
    width: int
    single: bool
    buckets: Buckets
    axis: Axis
    x: Array
    monotone: bool
    note: str
    smooth: Array | None
    window: int
    seq: int
    smoothing: Smoothing = "mean"
    runs: int = 1

    @cached_property
    def points(self) -> int:
        """How many values it shows."""
        return int(self.buckets.points.sum())

    @cached_property
    def not_finite(self) -> int:
        """How many of them are NaN or infinite."""
        return int(self.buckets.not_finite.sum())


def curve(
    run: Pyramid,
    key: str,
    start: int | None = None,
    stop: int | None = None,
    buckets: int = 1000,
    *,
    axis: Axis = "step",
    window: int = 0,
    smoothing: Smoothing = "mean",
) -> Curve:
    """Return a scalar between two steps; arguments as of ``curves``."""
    return curves(run, [key], start, stop, buckets, axis=axis, window=window, smoothing=smoothing)[0]


def curves(
    run: Pyramid,
    keys: Sequence[str],
    start: int | None = None,
    stop: int | None = None,
    buckets: int = 1000,
    *,
    axis: Axis = "step",
    window: int = 0,
    smoothing: Smoothing = "mean",
) -> list[Curve]:
    """Return scalars between two steps; of a few steps, the journal is read once for all of them.

    Args:
        run: of which run, as far as it was updated.
        keys: of the scalars; one that has no value makes an empty curve.
        start: the first step; default that of its first value.
        stop: the last step; default that of its last value.
        buckets: how many cells of the grid there are between them at least; where there are no more values than that,
            they come single. They come in wider buckets where the journal does not have single values any more, or
            would have to be read for millions of events.
        axis: what stands on the x axis.
        window: steps to smooth over, or the half-life; 0 for no smoothing. See ``asynchub.dashboard.smoothing``.
        smoothing: ``"mean"`` over a window, or ``"ema"``, an exponential one.

    Raises:
        ArgumentError: an argument is out of range.
        CorruptStateError: the journal is damaged.
        OSError: it cannot be read.
    """
    if type(buckets) is not int or buckets < 1:
        raise ArgumentError(f"buckets must be an int from 1 on, got {buckets!r:.80}")
    if axis not in AXES:
        raise ArgumentError(f"axis must be one of {', '.join(map(repr, AXES))}, got {axis!r:.80}")
    if type(window) is not int or window < 0:
        raise ArgumentError(f"window must be steps, an int from 0 on, got {window!r:.80}")
    if smoothing not in ("mean", "ema"):
        raise ArgumentError(f"smoothing must be 'mean' or 'ema', got {smoothing!r:.80}")
    version, asked = run.version, (start, stop, buckets, axis, window, smoothing)
    found: dict[str, Curve] = {}
    plans = {}
    for key in dict.fromkeys(keys):
        if (known := run.memo.get(version, (key, asked))) is not None:
            found[key] = known
            continue
        low, high = run.extent(key) or (0, 0)
        first, last = low if start is None else int(start), high if stop is None else int(stop)
        if last < first and not (start is None or stop is None):
            raise ArgumentError(f"stop must not be before start, got {start} and {stop}")
        last = max(first, last)
        grown = _grown(run, key, first, last, buckets, run.memo.before(version, (key, asked)))
        plans[key] = grown or _plan(run, key, first, last, buckets)
    values = run.values_of({key: plan.rows for key, plan in plans.items() if plan.shown is None})
    shown = {key: plan.shown or _of_values(plan, values[key]) for key, plan in plans.items()}
    smooth: dict[str, Array] = {}
    if window:
        ends = {key: (rows.first + 1 if single else rows.steps + rows.width) for key, (rows, single) in shown.items()}
        smooth = smoothed(run, {key: (ends[key], rows) for key, (rows, _) in shown.items()}, window, smoothing)
    for key, plan in plans.items():
        found[key] = _curve(run, plan, *shown[key], axis, smooth.get(key), window, smoothing)
    if run.version == version:
        for key in plans:
            run.memo.put(version, (key, asked), found[key], _kept(found[key]))
    return [found[key] for key in keys]


class _Plan(NamedTuple):
    """What there is to show of a key: at once, or the buckets whose values have to be read."""

    key: str
    start: int
    stop: int
    buckets: int
    rows: Buckets
    shown: tuple[Buckets, bool] | None


def _curve(
    run: Pyramid,
    plan: _Plan,
    found: Buckets,
    single: bool,
    axis: Axis,
    smooth: Array | None,
    window: int,
    smoothing: Smoothing,
) -> Curve:
    x, monotone, note = _x(run, found, single, axis)
    return Curve(
        key=plan.key,
        start=plan.start,
        stop=plan.stop,
        width=found.width,
        single=single,
        buckets=found,
        axis=axis,
        x=x,
        monotone=monotone,
        note=note,
        smooth=smooth,
        window=window,
        seq=run.seq,
        smoothing=smoothing,
    )


def _kept(curve: Curve) -> int:
    """Return how many bytes a curve has, which others may be shown, too, and nobody may change."""
    columns = {id(one): one for one in (*curve.buckets.columns, curve.x, curve.smooth) if one is not None}
    size = 0
    for column in columns.values():
        column.flags.writeable = False
        size += column.nbytes
    return size


def sparkline(run: Pyramid, key: str, buckets: int = 60) -> Buckets:
    """Return a whole scalar in few buckets, from what is at hand: the journal is not read.

    Args:
        run: of which run.
        key: of the scalar.
        buckets: how many cells of the grid there are at least, if level 0 has as many.
    """
    version, asked = run.version, (key, buckets)
    known: Buckets | None = run.memo.get(version, asked)
    if known is not None:
        return known
    low, high = run.extent(key) or (0, 0)
    width = _width(low, high, buckets)
    rows = run.rows(key, max(run.level_of(width), 0))
    found = reduce(rows, max(width // rows.width, 1))
    if run.version == version:
        run.memo.put(version, asked, found, sum(column.nbytes for column in found.columns))
    return found


def _width(start: int, stop: int, buckets: int) -> int:
    """Return the width of which ``buckets`` at least make up the steps from ``start`` to ``stop``."""
    return int(2 ** max(((stop - start + 1) // buckets).bit_length() - 1, 0))


def _plan(run: Pyramid, key: str, start: int, stop: int, buckets: int) -> _Plan:
    width = _width(start, stop, buckets)
    level = run.level_of(width)
    if level >= 0:
        rows = _between(run.rows(key, level, start & -width, stop | (width - 1)), start, stop, width)
        if int(rows.points.sum()) > buckets:
            return _Plan(key, start, stop, buckets, rows, (reduce(rows, width // rows.width), False))
        if rows.width == 1:
            return _Plan(key, start, stop, buckets, rows, (_between(rows, start, stop, 1), True))
    blocks = run.rows(key, 0, start, stop)
    return _Plan(key, start, stop, buckets, _between(blocks, start, stop, blocks.width), None)


def _grown(run: Pyramid, key: str, start: int, stop: int, buckets: int, before: Curve | None) -> _Plan | None:
    """Return the same as ``_plan`` where it is what was shown before, and what has come since in buckets at its end.

    Args:
        run: to which nothing but values was added since.
        key: of the scalar.
        start: the first step.
        stop: the last one.
        buckets: how many there are to be at least.
        before: what was shown; None if nothing was.

    Returns:
        It; None if buckets before the last one may have changed, or it is not known.
    """
    width = _width(start, stop, buckets)
    if before is None or before.single or (before.start, before.width) != (start, width) or before.buckets.size < 2:
        return None
    old, level = before.buckets, run.level_of(width)
    if level < 0 or int(old.last_seq[-1]) < int(old.last_seq.max()):
        return None
    begin = int(old.steps[-1])
    rows = run.rows(key, level, begin, stop | (width - 1))
    if int(rows.first.min(initial=begin)) < begin:
        rows = rows.take(rows.first >= begin)
    kept = old.take(slice(0, -1))
    points = int(kept.points.sum()) + int(rows.points.sum())
    # where a value is missing, some are not shown, or came late: of a step before
    if points <= buckets or points != run.count(key) or int(rows.first.max()) > stop | (width - 1):
        return None
    shown = joined([kept, reduce(rows, width // rows.width)], width)
    return _Plan(key, start, stop, buckets, rows, (shown, False))


def _of_values(plan: _Plan, values: Buckets | None) -> tuple[Buckets, bool]:
    """Return buckets, or single values, and which of these it is."""
    if values is None:
        return reduce(plan.rows, 1), False
    width = _width(plan.start, plan.stop, plan.buckets)
    values = _between(values, plan.start, plan.stop, width)
    if values.size > plan.buckets:
        return reduce(values, width), False
    return _between(values, plan.start, plan.stop, 1), True


def _between(rows: Buckets, start: int, stop: int, width: int) -> Buckets:
    """Return those in the cells of a grid from that of ``start`` to that of ``stop``."""
    if not rows.size or (int(rows.first.min()) >= start & -width and int(rows.first.max()) <= stop | (width - 1)):
        return rows
    cells = rows.first & -width
    return rows.take((cells >= (start & -width)) & (cells <= stop))


def _x(run: Pyramid, rows: Buckets, single: bool, axis: Axis) -> tuple[Array, bool, str]:
    """Return where rows begin on an axis, whether that never goes back, and what is to be said of it."""
    if axis == "step":
        x = rows.first if single else rows.steps
        monotone = not bool((x[1:] < x[:-1]).any())
        if rows.size == 1 and rows.width == 1 and rows.points[0] > 1:
            return x, monotone, f"all {rows.points[0]} values are of step {x[0]}: hub.step says which one it is"
        return x, monotone, "" if monotone else "steps go back: values came late, or a run was resumed"
    if axis == "epoch":
        epochs = run.epochs
        if not epochs:
            return np.full(rows.size, np.nan), True, "no epoch was recorded: it is the runtime info 'epoch'"
        seqs, values = (np.array(column) for column in zip(*epochs, strict=True))
        which = np.searchsorted(seqs, rows.first_seq, side="right") - 1
        x = np.where(which < 0, np.nan, values[which])
        return x, not bool((x[1:] < x[:-1]).any()), ""
    x = rows.times - (run.began if axis == "relative" else 0.0)
    monotone = not bool((x[1:] < x[:-1]).any())
    return x, monotone, "" if monotone else "the clock goes back"
