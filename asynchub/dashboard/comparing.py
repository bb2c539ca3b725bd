"""Runs beside one another: what they were told to do differently, and how far each came.

Figures: the newest and the best value are exact; a slope is that of the means of buckets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from asynchub.dashboard.buckets import Buckets
from asynchub.dashboard.curves import sparkline
from asynchub.dashboard.fitting import Strokes, fit
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import RunRow
from asynchub.errors import AsyncHubError
from asynchub.subscribers.display import format_quantity

__all__ = (
    "MISSING",
    "ORDERS",
    "Differences",
    "Figures",
    "differences",
    "figures",
    "ranked",
)

SPARK = 60
"""Buckets of a sparkline at least, if there are as many."""
RECENT = 4
"""A slope is that of the newest part of the steps, one in this many."""
LEAST = 4
"""Buckets of which a slope is, at least, if there are as many."""
MISSING = "not said"
"""Stands where a run said nothing of an info."""
Order = Literal["last", "best", "slope", "name", "newest"]
ORDERS: tuple[Order, ...] = ("last", "best", "slope", "name", "newest")


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
        texts: newest, best, and change per 1,000 steps, in words.
        spark: of a sparkline, the smallest, the largest value and the mean of each bucket; NaN for none.
        places: where each of these begins among the steps of the run, from 0 to 1.
        low: at the lower edge of the sparkline; what reaches beyond an edge is to be marked there.
        high: at its upper edge.
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
    places: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 1.0
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
    begin, end = run.extent(key) or (0, 0)
    slope = _slope(line, end)
    texts = (
        "-" if last is None else format_quantity(key, last),
        "-" if best is None else format_quantity(key, best),
        "-" if slope is None else f"{'+' if slope >= 0 else ''}{format_quantity(key, slope * 1000)}",
    )
    spark = tuple(zip(line.min.tolist(), line.max.tolist(), line.means.tolist(), strict=True))
    places = np.clip((line.steps - begin) / max(end - begin, 1), 0.0, 1.0)
    some = ~np.isnan(line.min)
    low, high = fit([Strokes(line.min[some], line.max[some], line.points[some], line.last_seq[some])])
    return Figures(
        key=key,
        count=int(line.points.sum()),
        last=last,
        best=best,
        slope=slope,
        texts=texts,
        spark=spark,
        places=tuple(places.tolist()),
        low=low,
        high=high,
        not_finite=int(line.not_finite.sum()),
    )


def _drawn(value: Buckets) -> float:
    """Return a single value as it is drawn."""
    if value.nan[0]:
        return math.nan
    if value.not_finite[0]:
        return math.inf if value.plus_inf[0] else -math.inf
    return float(value.min[0])


def _slope(line: Buckets, end: int) -> float | None:
    """Return the slope of the newest part of a line, by least squares; None if there is too little to tell by.

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
        return None
    away = steps - steps.mean()
    with np.errstate(all="ignore"):
        slope = float((away @ (means - means.mean())) / (away @ away))
    return slope if math.isfinite(slope) else None


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
