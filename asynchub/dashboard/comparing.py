"""Runs beside one another: what they were told to do differently, how far each came, and what groups of them have in
common.

Groups: all runs have the same grid, so buckets of one width are put together as they are; where one run has wider ones
    than another, the others' are made as wide. In a group each run counts the same, however many values it has.
Figures: the newest and the best value are exact; a slope is that of the means of buckets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, joined, reduce
from asynchub.dashboard.curves import Curve, sparkline
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import RunRow
from asynchub.errors import AsyncHubError
from asynchub.subscribers.display import format_quantity

__all__ = ("Differences", "Figures", "Group", "differences", "figures", "group_curve", "grouped", "ranked")

SPARK = 60
"""Buckets of a sparkline at least, if there are as many."""
RECENT = 4
"""A slope is that of the newest part of the steps, one in this many."""
LEAST = 4
"""Buckets of which a slope is, at least, if there are as many."""
MISSING = "not said"
Order = Literal["last", "best", "slope", "name", "newest"]


# --- what runs were told


@dataclass(frozen=True, slots=True)
class Differences:
    """In what runs differ.

    Attributes:
        names: of the infos that are not the same in all of them, those with the fewest values first.
        cells: of each run, by its id, what it said of each of these; ``"not said"`` where it said nothing.
        same: how many infos are the same in all.
        text: that in words.
    """

    names: tuple[str, ...]
    cells: Mapping[str, tuple[str, ...]]
    same: int
    text: str


def differences(rows: Sequence[RunRow]) -> Differences:
    """Return in what the infos of runs differ."""
    names = dict.fromkeys(name for row in rows for name in row.config)
    values = {name: [row.config.get(name, MISSING) for row in rows] for name in names}
    differing = sorted((name for name in names if len(set(values[name])) > 1), key=lambda name: len(set(values[name])))
    cells = {row.id: tuple(row.config.get(name, MISSING) for name in differing) for row in rows}
    same = len(names) - len(differing)
    if len(rows) < 2:
        text = "one run differs from nothing; select two or more"
    elif not names:
        text = "no run has said anything of itself; hub.update_info('lr', 0.1) does"
    else:
        text = f"{len(rows):,} runs differ in {len(differing):,} of {len(names):,} infos"
    return Differences(tuple(differing), cells, same, text)


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


# --- groups


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


def group_curve(name: str, curves: Sequence[Curve]) -> Group:
    """Return what curves of one key of several runs have in common.

    Args:
        name: of the group.
        curves: at least one, on the axis of steps, asked for with the same arguments.
    """
    width = max(curve.width for curve in curves)
    parts = [reduce(curve.buckets, width // curve.width) for curve in curves]
    parts = [part._replace(first=part.steps) for part in parts]
    whole = joined(parts, width)
    order = np.argsort(whole.first, kind="stable")
    whole = whole.take(order)
    means = whole.means
    starts = np.flatnonzero(np.append(True, whole.first[1:] != whole.first[:-1])) if whole.size else np.empty(0, int)
    if not len(starts):
        empty = np.empty(0)
        return Group(name, curves[0], empty, empty, np.empty(0, int), len(curves), "no run has a value there")
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
        smooth=None,
        window=0,
        seq=max(one.seq for one in curves),
    )
    low, high = np.fmin.reduceat(means, starts), np.fmax.reduceat(means, starts)
    few = np.flatnonzero(number < len(curves))
    note = ""
    if len(few):
        step = int(buckets.first[few[0]])
        note = f"from step {step:,} on, some buckets have values of fewer than all {len(curves)} runs"
    return Group(name, curve, low, high, number, len(curves), note)


# --- how far each came


@dataclass(frozen=True, slots=True)
class Figures:
    """A scalar of a run in a few figures, for a table of runs.

    Attributes:
        key: of the scalar.
        count: how many values count; 0 of a run that has none.
        last: the newest value; None if there is none.
        best: the best one that is finite; None if there is none, or nobody has said what is better.
        slope: change per step, lately; None if there is too little to tell by.
        texts: newest, best and change in words.
        spark: of a sparkline, the smallest, the largest value and the mean of each bucket; NaN for none.
        not_finite: how many values are NaN or infinite.
        problem: why there are none; "" if there are.
    """

    key: str
    count: int = 0
    last: float | None = None
    best: float | None = None
    slope: float | None = None
    texts: tuple[str, str, str] = ("-", "-", "-")
    spark: tuple[tuple[float, float, float], ...] = ()
    not_finite: int = 0
    problem: str = ""


def figures(run: Pyramid, key: str, mode: Literal["min", "max", ""] = "") -> Figures:
    """Return a scalar of a run in a few figures; it raises nothing about the run.

    Args:
        run: of which run, as far as it was updated.
        key: of the scalar.
        mode: which of its values are better; "" for neither.
    """
    try:
        return _figures(run, key, mode)
    except (AsyncHubError, OSError) as error:
        return Figures(key, problem=str(error))


def _figures(run: Pyramid, key: str, mode: str) -> Figures:
    line = sparkline(run, key, SPARK)
    if not line.size:
        return Figures(key)
    rows = run.rows(key, 0, int(line.first[-1]))
    newest = rows.take(np.array([int(rows.last_seq.argmax())]))
    values = run.values(key, newest)
    last = None if values is None or not values.size else _drawn(values.take(slice(-1, None)))
    best = None
    if mode:
        extreme = np.fmin.reduce(line.min) if mode == "min" else np.fmax.reduce(line.max)
        best = float(extreme) if np.isfinite(extreme) else None
    slope, change = _slope(line, (run.extent(key) or (0, 0))[1])
    texts = (
        "-" if last is None else format_quantity(key, last),
        "-" if best is None else format_quantity(key, best),
        "-" if slope is None else f"{'+' if change >= 0 else ''}{format_quantity(key, change)}",
    )
    spark = tuple(zip(line.min.tolist(), line.max.tolist(), line.means.tolist(), strict=True))
    return Figures(key, int(line.points.sum()), last, best, slope, texts, spark, int(line.not_finite.sum()))


def _drawn(value: Buckets) -> float:
    """Return a single value as it is drawn."""
    if value.nan[0]:
        return math.nan
    if value.not_finite[0]:
        return math.inf if value.plus_inf[0] else -math.inf
    return float(value.min[0])


def _slope(line: Buckets, end: int) -> tuple[float | None, float]:
    """Return the slope of the newest part of a line, by least squares, and the change that it makes there.

    Args:
        line: it, in order.
        end: its last step.
    """
    begin = line.first[-1] - (line.first[-1] - line.first[0]) // RECENT
    recent = np.arange(line.size) >= min(int(np.searchsorted(line.first, begin)), line.size - LEAST)
    means = line.means[recent]
    steps = (line.first + np.minimum(line.steps + line.width - 1, end))[recent] / 2 - end
    finite = np.isfinite(means)
    steps, means = steps[finite], means[finite]
    if len(steps) < 2 or steps[0] == steps[-1]:
        return None, 0.0
    away = steps - steps.mean()
    with np.errstate(all="ignore"):
        slope = float((away @ (means - means.mean())) / (away @ away))
    return (slope, slope * float(steps[-1] - steps[0])) if math.isfinite(slope) else (None, 0.0)


def ranked(
    rows: Sequence[RunRow], found: Mapping[str, Figures], by: Order, mode: Literal["min", "max", ""] = "max"
) -> list[RunRow]:
    """Return runs in an order, those without the figure at the end.

    Args:
        rows: the runs.
        found: figures of one key, by the id of the run.
        by: ``"last"``, ``"best"`` or ``"slope"`` of these, the best first; ``"name"``, or ``"newest"`` event first.
        mode: which of the values are better; smaller ones if that is not known.
    """
    if by == "name":
        return sorted(rows, key=lambda row: (row.name.casefold(), row.folder))
    sign = -1.0 if mode == "max" or by == "newest" else 1.0

    def place(row: RunRow) -> tuple[bool, float]:
        one = found.get(row.id)
        value = row.newest if by == "newest" else None if one is None else _FIGURE[by](one)
        missing = value is None or math.isnan(value)
        return missing, 0.0 if value is None or missing else sign * value

    return sorted(rows, key=place)


_FIGURE: dict[str, Callable[[Figures], float | None]] = {
    "last": lambda one: one.last,
    "best": lambda one: one.best,
    "slope": lambda one: one.slope,
}
