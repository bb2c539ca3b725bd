"""How curves go to the page: the message ``AHC1``, and what of it has changed since the last one.

Message: the letters ``AHC1``; the length of the head, 4 bytes, little-endian; the head, JSON, with blanks behind it up
    to a multiple of 8 bytes; then columns, little-endian, each from a multiple of 8 on.
Head: ``{"charts": [{"key", "drawing", "series": [...]}]}``, with ``"n"`` if it answers what has a number. ``drawing``
    is a ``Drawing``. A series has ``run``, ``width``, ``single``, ``axis``, ``monotone``, ``note``, ``window``,
    ``smoothing``, ``seq``, ``start`` and ``stop`` of its ``Curve``; ``rows``, how many it has; ``from``, the first
    one that is sent; and ``columns``: for each name the offset in bytes after the head, and how many numbers there are.
    That of a group of runs has ``group``, too: its ``label``, how many ``runs`` it is of, and its ``colour``.
Columns: ``x``, and ``step`` where that is something else, float64; ``low``, ``high``, ``mean`` and perhaps ``smooth``,
    and of a group ``lower`` and ``upper``, the smallest and the largest mean of its runs, float32; ``bad``, how many
    values are not finite, uint32. Where float32 would show steps that are not there, or infinities, all but this and
    those are float64, and the entry has the bytes of a number as its third element: 8.
Changes: a chart that has not changed is left out; of a series come the rows from the first one that differs. What the
    receiver had before that, and these, are what a whole message would bring, bit for bit.
JSON: what is not finite is null; strings may have anything in them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.curves import Curve
from asynchub.dashboard.drawing import Drawing
from asynchub.errors import CorruptStateError

__all__ = (
    "Change",
    "ChartNow",
    "SeriesNow",
    "changes",
    "chart_now",
    "decode",
    "empty_series",
    "encode",
    "series_now",
    "to_json",
)

MAGIC = b"AHC1"
ALIGNED = 8
OF_SERIES = 2000
"""Bytes of what is said of one, and of a drawing, about."""
FINE = 2000
"""Levels, at least, that a chart must be able to show between its smallest and its largest value."""
LARGEST = float(np.finfo(np.float32).max)
HEAD = ("width", "single", "axis", "monotone", "note", "window", "smoothing", "seq", "start", "stop")
SHOWN = ("low", "high", "mean", "smooth", "lower", "upper")


class SeriesNow(NamedTuple):
    """A curve as it is sent.

    Attributes:
        run: the row id of its run, or the identity of a group of runs.
        head: what there is to say of it.
        columns: its numbers, all of one length.
    """

    run: str
    head: dict[str, Any]
    columns: dict[str, Array]

    @property
    def rows(self) -> int:
        """How many strokes, or values, it has."""
        return len(self.columns["x"])

    @property
    def form(self) -> dict[str, str]:
        """Which columns it has, and of which numbers."""
        return {name: column.dtype.str for name, column in self.columns.items()}


@dataclass(frozen=True, slots=True, eq=False)
class ChartNow:
    """A chart as it is sent.

    Attributes:
        key: of its curves.
        drawing: how they are drawn.
        series: they.
    """

    key: str
    drawing: dict[str, Any]
    series: tuple[SeriesNow, ...]

    @property
    def size(self) -> int:
        """How many bytes it has, about."""
        columns = (column.nbytes for one in self.series for column in one.columns.values())
        return sum(columns) + OF_SERIES * (len(self.series) + 1)


class Change(NamedTuple):
    """What of a chart is sent.

    Attributes:
        chart: it.
        first: of each series, the first row that is sent.
        only_words: whether nothing is new but up to which event it was read.
    """

    chart: ChartNow
    first: tuple[int, ...]
    only_words: bool


def series_now(run: str, curve: Curve, between: tuple[Array, Array] | None = None) -> SeriesNow:
    """Return a curve as it is sent.

    Args:
        run: the row id of its run, or the identity of a group of runs.
        curve: it.
        between: of a group, the smallest and the largest mean of its runs in each bucket.
    """
    buckets = curve.buckets
    # of a value that stands for no sample there is no mean, but it is drawn
    mean = buckets.min if curve.single else buckets.means
    shown = {"low": buckets.min, "high": buckets.max, "mean": mean}
    if curve.smooth is not None:
        shown["smooth"] = curve.smooth
    if between is not None:
        shown |= {"lower": between[0], "upper": between[1]}
    dtype = "<f8" if _is_wide(buckets.min, buckets.max) else "<f4"
    columns = {"x": curve.x.astype("<f8")}
    if curve.axis != "step":
        columns["step"] = (buckets.first if curve.single else buckets.steps).astype("<f8")
    with np.errstate(over="ignore", under="ignore"):
        columns |= {name: values.astype(dtype) for name, values in shown.items()}
    columns["bad"] = np.minimum(buckets.not_finite, 2**32 - 1).astype("<u4")
    return SeriesNow(run, {name: getattr(curve, name) for name in HEAD}, columns)


def empty_series(run: str, note: str, axis: str) -> SeriesNow:
    """Return a series without values, that says why."""
    values = (1, True, axis, True, note, 0, "mean", 0, 0, 0)
    dtypes = {"x": "<f8", "low": "<f4", "high": "<f4", "mean": "<f4", "bad": "<u4"}
    columns = {name: np.empty(0, dtype) for name, dtype in dtypes.items()}
    return SeriesNow(run, dict(zip(HEAD, values, strict=True)), columns)


def _is_wide(low: Array, high: Array) -> bool:
    """Tell whether values need float64 to be drawn as they are."""
    bottom, top = (
        float(function.reduce(values, initial=np.nan)) for function, values in ((np.fmin, low), (np.fmax, high))
    )
    if not bottom < top:  # all of them are one, or there is none
        return bool(abs(bottom) > LARGEST)
    largest = max(abs(bottom), abs(top))
    if largest > LARGEST or largest < 1e-30:
        return True
    return float(np.spacing(np.float32(largest))) * FINE > top - bottom


def chart_now(key: str, series: Sequence[SeriesNow], drawing: Drawing) -> ChartNow:
    """Return a chart as it is sent."""
    return ChartNow(key, _plain(asdict(drawing)), tuple(series))


def changes(before: Mapping[str, ChartNow], charts: Sequence[ChartNow]) -> list[Change]:
    """Return what of charts differs from what was sent of them before, by key."""
    found = []
    for chart in charts:
        old = before.get(chart.key)
        if old is chart:
            continue
        if old is None:
            found.append(Change(chart, (0,) * len(chart.series), False))
            continue
        olds = {series.run: series for series in old.series}
        first = tuple(_first_difference(olds.get(series.run), series) for series in chart.series)
        same = [series.run for series in old.series] == [series.run for series in chart.series] and all(
            number == now.rows == olds[now.run].rows
            and now.form == olds[now.run].form
            and _but(now.head, "seq") == _but(olds[now.run].head, "seq")
            for number, now in zip(first, chart.series, strict=True)
        )
        only_words = same and _but(old.drawing, "footer") == _but(chart.drawing, "footer")
        if (
            only_words
            and old.drawing == chart.drawing
            and [one.head for one in olds.values()] == [one.head for one in chart.series]
        ):
            continue
        found.append(Change(chart, first, only_words))
    return found


def _but(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _first_difference(old: SeriesNow | None, new: SeriesNow) -> int:
    """Return the first row that is not the same, bit for bit; how many there are if all are."""
    if old is None:
        return 0
    if old.columns is new.columns:
        return new.rows
    if old.form != new.form:
        return 0
    first = min(old.rows, new.rows)
    for name, column in new.columns.items():
        bits = f"<u{column.dtype.itemsize}"
        differ = column[:first].view(bits) != old.columns[name][:first].view(bits)
        if differ.any():
            first = int(differ.argmax())
    return first


def encode(charts: Sequence[Change], n: int | None = None) -> bytes:
    """Return a message.

    Args:
        charts: what it brings, as of ``changes``.
        n: the number of what it answers; None if that has none.
    """
    pieces: list[bytes] = []
    size = 0
    heads = []
    for chart, firsts, _ in charts:
        series = []
        for one, first in zip(chart.series, firsts, strict=True):
            places: dict[str, list[int]] = {}
            for name, column in one.columns.items():
                piece = column[first:].tobytes()
                wide = [column.dtype.itemsize] if name in SHOWN and column.dtype.itemsize == ALIGNED else []
                places[name] = [size, len(column) - first, *wide]
                piece += bytes(-len(piece) % ALIGNED)
                pieces.append(piece)
                size += len(piece)
            series.append({"run": one.run, **one.head, "from": first, "rows": one.rows, "columns": places})
        heads.append({"key": chart.key, "drawing": chart.drawing, "series": series})
    head: dict[str, Any] = {"charts": heads} if n is None else {"charts": heads, "n": n}
    text = to_json(head).encode("ascii")
    text += b" " * (-(len(text) + ALIGNED) % ALIGNED)
    return b"".join([MAGIC, struct.pack("<I", len(text)), text, *pieces])


def decode(message: bytes) -> dict[str, Any]:
    """Return the head of a message, in which the columns are arrays.

    Raises:
        CorruptStateError: it is none.
    """
    try:
        if message[:4] != MAGIC:
            raise ValueError(f"it begins with {message[:4]!r}")
        (length,) = struct.unpack_from("<I", message, 4)
        head: dict[str, Any] = json.loads(message[8 : 8 + length])
        begin = -(-(8 + length) // ALIGNED) * ALIGNED
        for chart in head["charts"]:
            for series in chart["series"]:
                for name, (offset, size, *wide) in series["columns"].items():
                    dtype = {"x": "<f8", "step": "<f8", "bad": "<u4"}.get(name, "<f8" if wide else "<f4")
                    series["columns"][name] = np.frombuffer(message, dtype, size, begin + offset)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CorruptStateError(f"no message of curves: {error}") from error
    return head


def to_json(value: object) -> str:
    """Return what the page can read: ASCII, with null for what is not finite."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value
