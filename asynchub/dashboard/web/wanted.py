"""What the page asks for, checked: each value is of its type and within its range, or it is said what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from asynchub.dashboard.comparing import ORDERS, Order
from asynchub.dashboard.curves import AXES, Axis
from asynchub.errors import ArgumentError

__all__ = ("CurvesWanted", "Look", "TableWanted", "as_json", "curves_wanted", "look_of", "number_in", "table_wanted")

MOST_BUCKETS = 8000
MOST_RUNS = 200
MOST_KEYS = 64
MOST_CURVES = 2000
MOST_WINDOW = 10**12
MOST_TABLED = 250
LONGEST_ID = 100
LONGEST_NAME = 1000
LARGEST_STEP = 2**63 - 1
SMOOTHINGS = ("mean", "ema")
MODES = ("min", "max", "")


@dataclass(frozen=True, slots=True)
class CurvesWanted:
    """Curves that are asked for; see ``asynchub.dashboard.curves.curves``.

    Attributes:
        runs: row ids of the runs.
        keys: of the scalars, a chart each.
        start: the first step; None for the first there is.
        stop: the last step; None for the last there is.
        buckets: cells of the grid, at least.
        axis: what stands on the x axis.
        window: steps to smooth over; 0 for no smoothing. Of an exponential mean, after how many steps a value counts
            half.
        smoothing: how.
        log: whether the y axes are logarithmic, or the keys of the charts whose are.
        fit_all: whether nothing is cut off.
        pixels: how wide a chart is; None if that was not said.
        group: name of an info: what is drawn are the groups of runs that said the same of it; "" for the runs.
    """

    runs: tuple[str, ...]
    keys: tuple[str, ...]
    start: int | None = None
    stop: int | None = None
    buckets: int = 1000
    axis: Axis = "step"
    window: int = 0
    smoothing: Literal["mean", "ema"] = "mean"
    log: bool | tuple[str, ...] = False
    fit_all: bool = False
    pixels: int | None = None
    group: str = ""

    def is_log(self, key: str) -> bool:
        """Return whether the y axis of a chart is logarithmic."""
        return self.log if isinstance(self.log, bool) else key in self.log


@dataclass(frozen=True, slots=True)
class TableWanted:
    """Runs that are asked for as a table; see ``asynchub.dashboard.table.Table``.

    Attributes:
        filter: of the runs.
        key: of the scalar that it has figures of.
        by: its order.
        mode: which values of the scalar are better; "" if neither.
        start: the first row.
        most: rows, at most.
    """

    filter: str = ""
    key: str = ""
    by: Order = "name"
    mode: Literal["min", "max", ""] = ""
    start: int = 0
    most: int = 100


@dataclass(frozen=True, slots=True)
class Look:
    """What a live feed is to show.

    Attributes:
        rows: the filter of the list of runs; None for no list.
        screen: row id of the run whose first screen is looked at; "" for none.
        curves: the curves; None for none.
        n: the number of this wish, which its curves bring back.
    """

    rows: str | None = None
    screen: str = ""
    curves: CurvesWanted | None = None
    n: int | None = None


def as_json(data: bytes | str) -> dict[str, Any]:
    """Return what was sent, as a dict.

    Raises:
        ArgumentError: it is not JSON, or something else than an object.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"JSON is wanted, got {data[:80]!r}: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentError(f"a JSON object is wanted, got {value!r:.80}")
    return value


def curves_wanted(fields: Mapping[str, Any]) -> CurvesWanted:
    """Return what curves are wanted.

    Raises:
        ArgumentError: a field is missing, unknown, of a wrong type or out of range.
    """
    known = CurvesWanted.__dataclass_fields__
    if unknown := sorted(set(fields) - set(known)):
        raise ArgumentError(f"curves are wanted with {', '.join(known)}, got {unknown[0]!r:.80}")
    runs = _words(fields.get("runs"), "runs", MOST_RUNS, LONGEST_ID)
    keys = _words(fields.get("keys"), "keys", MOST_KEYS, None)
    if len(runs) * len(keys) > MOST_CURVES:
        raise ArgumentError(f"at most {MOST_CURVES:,} curves at once, got {len(runs)} runs x {len(keys)} keys")
    axis, smoothing = fields.get("axis", "step"), fields.get("smoothing", "mean")
    if axis not in AXES:
        raise ArgumentError(f"axis must be one of {', '.join(AXES)}, got {axis!r:.80}")
    if smoothing not in SMOOTHINGS:
        raise ArgumentError(f"smoothing must be one of {', '.join(SMOOTHINGS)}, got {smoothing!r:.80}")
    log, fit_all = fields.get("log", False), fields.get("fit_all", False)
    if type(log) is not bool and not isinstance(log, list | tuple):
        raise ArgumentError(f"log must be true or false, or a list of keys, got {log!r:.80}")
    if type(fit_all) is not bool:
        raise ArgumentError(f"fit_all must be true or false, got {fit_all!r:.80}")
    start, stop = (_step(fields.get(name), name) for name in ("start", "stop"))
    if start is not None and stop is not None and stop < start:
        raise ArgumentError(f"stop must not be before start, got {start} and {stop}")
    pixels, group = fields.get("pixels"), fields.get("group", "")
    if not isinstance(group, str) or len(group) > LONGEST_NAME:
        raise ArgumentError(f"group must be the name of an info, or empty, got {group!r:.80}")
    if group and axis != "step":
        raise ArgumentError(f"runs are grouped along their steps: axis must be step, got {axis}")
    return CurvesWanted(
        runs=runs,
        keys=keys,
        start=start,
        stop=stop,
        buckets=number_in(fields.get("buckets", 1000), "buckets", 1, MOST_BUCKETS),
        axis=cast("Axis", axis),
        window=number_in(fields.get("window", 0), "window", 0, MOST_WINDOW),
        smoothing=cast("Literal['mean', 'ema']", smoothing),
        log=log if isinstance(log, bool) else _words(log, "log", MOST_KEYS, None),
        fit_all=fit_all,
        pixels=None if pixels is None else number_in(pixels, "pixels", 1, MOST_BUCKETS),
        group=group,
    )


def table_wanted(fields: Mapping[str, str]) -> TableWanted:
    """Return what table is wanted.

    Raises:
        ArgumentError: a field is unknown, of a wrong type or out of range.
    """
    known = TableWanted.__dataclass_fields__
    if unknown := sorted(set(fields) - set(known)):
        raise ArgumentError(f"a table is wanted with {', '.join(known)}, got {unknown[0]!r:.80}")
    by, mode = fields.get("by", "name"), fields.get("mode", "")
    if by not in ORDERS:
        raise ArgumentError(f"by must be one of {', '.join(ORDERS)}, got {by!r:.80}")
    if mode not in MODES:
        raise ArgumentError(f"mode must be min, max, or empty if neither is better, got {mode!r:.80}")
    return TableWanted(
        filter=fields.get("filter", ""),
        key=fields.get("key", ""),
        by=by,
        mode=cast("Literal['min', 'max', '']", mode),
        start=number_in(fields.get("start", 0), "start", 0, LARGEST_STEP),
        most=number_in(fields.get("most", 100), "most", 1, MOST_TABLED),
    )


def look_of(fields: Mapping[str, Any]) -> Look:
    """Return what a live feed is to show.

    Raises:
        ArgumentError: a field is of a wrong type or out of range.
    """
    rows, screen, curves, n = (fields.get(name) for name in ("rows", "screen", "curves", "n"))
    test = fields.get("filter", "") if rows in (True, None, False) else rows
    if not isinstance(test, str):
        raise ArgumentError(f"rows must be true or a filter, got {rows!r:.80}")
    if not (screen is None or isinstance(screen, str)):
        raise ArgumentError(f"screen must be the id of a run or null, got {screen!r:.80}")
    if not (curves is None or isinstance(curves, dict)):
        raise ArgumentError(f"curves must be an object or null, got {curves!r:.80}")
    return Look(
        rows=test if rows else None,
        screen=screen or "",
        curves=None if curves is None else curves_wanted(curves),
        n=None if n is None else number_in(n, "n", 0, 2**53),
    )


def number_in(value: object, name: str, low: int, high: int) -> int:
    """Return a whole number, given as one or as text.

    Raises:
        ArgumentError: it is none, or out of range.
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise ArgumentError(f"{name} must be a whole number from {low} to {high}, got {value!r:.80}")
    return value


def _step(value: object, name: str) -> int | None:
    return None if value is None else number_in(value, name, -LARGEST_STEP, LARGEST_STEP)


def _words(value: object, name: str, most: int, longest: int | None) -> tuple[str, ...]:
    if not isinstance(value, Iterable) or isinstance(value, str | Mapping):
        raise ArgumentError(f"{name} must be a list of strings, got {value!r:.80}")
    words = tuple(dict.fromkeys(value)) if all(isinstance(word, str) for word in value) else ()
    if len(words) > most:
        raise ArgumentError(f"at most {most} {name} at once, got {len(words)}")
    if not words and value:
        raise ArgumentError(f"{name} must be a list of strings, got {value!r:.80}")
    if longest is not None and (long := [word for word in words if len(word) > longest]):
        raise ArgumentError(f"an id of a run is at most {longest} letters, got {long[0]!r:.80}")
    return words
