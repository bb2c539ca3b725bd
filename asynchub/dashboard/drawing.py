"""How curves are drawn, in words and numbers that the page, the terminal, the picture and the notebook share.

True: a stroke that reaches beyond the chart has a caret with its value at the edge; values that are not finite are
    marked and counted; the footer says what was left out, and how the rest was made.
Few: carets and marks that are close to each other are one, which says the most extreme value, or how many there are.
Logarithmic: what is 0 or below stands at the bottom edge, with a caret, and is counted.
Which values the chart shows, and which it cuts off: see ``asynchub.dashboard.fitting``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.curves import Curve
from asynchub.dashboard.fitting import Strokes, fit
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.wording import Facts, footer, in_words, not_finite_in_words, summaries
from asynchub.subscribers.display import format_quantity

__all__ = ("Caret", "Drawing", "Gap", "draw", "summary")

MARKS = 12
"""Carets at an edge, and marks of what is not finite, that one curve has at most."""
MOST_MARKS = 2 * MARKS
"""Carets, or marks, in a chart from which on those of several curves are one."""
SMALLEST = 5e-324


@dataclass(frozen=True, slots=True)
class Caret:
    """Strokes that reach beyond the chart, at the same edge, next to each other.

    Attributes:
        run: whose; that of ``value``, where there are several.
        x: of the stroke with the most extreme value.
        value: that value.
        top: whether it is beyond the upper edge; else beyond the lower one.
        text: e.g. ``"▲13.0"``.
        x0: of the first stroke.
        x1: of the last one.
        count: how many strokes.
    """

    run: str
    x: float
    value: float
    top: bool
    text: str
    x0: float
    x1: float
    count: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Values that are not finite, next to each other.

    Attributes:
        run: whose; that of the first, where there are several.
        x0: of the first stroke, or value, with such values.
        x1: where the last one ends.
        count: how many values are not finite.
        text: e.g. ``"◆ 50 NaN"``.
    """

    run: str
    x0: float
    x1: float
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """How curves of one key are drawn in one chart.

    Attributes:
        low: at the lower edge; on a logarithmic axis above 0.
        high: at the upper edge; above ``low``.
        log: whether the axis is logarithmic.
        carets: strokes that reach beyond the chart.
        gaps: values that are not finite.
        points: how many values the curves stand for, those that are not finite included.
        clipped: strokes that reach beyond the chart; where values are drawn singly, values.
        not_finite: values that are NaN or infinite.
        below_zero: strokes, or values, at 0 or below on a logarithmic axis; they are among ``clipped``.
        footer: the truth about all that, to stand below the chart.
        summary: what the chart shows, for who cannot see it.
    """

    low: float
    high: float
    log: bool
    carets: tuple[Caret, ...]
    gaps: tuple[Gap, ...]
    points: int
    clipped: int
    not_finite: int
    below_zero: int
    footer: str
    summary: str


def draw(
    curves: Mapping[str, Curve],
    *,
    log: bool = False,
    fit_all: bool = False,
    pixels: int | None = None,
    names: Mapping[str, str] | None = None,
    time: float | None = None,
) -> Drawing:
    """Return how curves of one key are drawn in one chart.

    Args:
        curves: by the id of their run; no curve makes an empty chart.
        log: make the axis logarithmic.
        fit_all: cut nothing off.
        pixels: how wide the chart is, for the footer; None if that is not known.
        names: of the runs, by id, for the summary; default the ids.
        time: when the runs were read, in seconds since the epoch; None to leave it out.
    """
    placed = {run: _Placed.of(curve, log) for run, curve in curves.items()}
    low, high = fit([part.strokes(log) for part in placed.values()], all_of_it=fit_all)
    if log:
        low, high = _powers(low, high)
    clips = [clip for run, part in placed.items() for clip in part.beyond(run, low, high, log)]
    ends = [float(part.x[end]) for part in placed.values() for end in (0, -1) if len(part.x)]
    near = (max(ends) - min(ends)) / MARKS if ends else 0.0
    gaps = [gap for run, part in placed.items() for gap in part.gaps(run)]
    shown = list(curves.values())
    key = shown[0].key if shown else ""
    facts = Facts(
        points=sum(curve.points for curve in shown),
        clipped=len(clips),
        below_zero=sum(part.below_zero for part in placed.values()),
        unplaced=sum(part.unplaced for part in placed.values()),
    )
    return Drawing(
        low=low,
        high=high,
        log=log,
        carets=_carets(clips, near, key),
        gaps=_gaps(gaps, near),
        points=facts.points,
        clipped=facts.clipped,
        not_finite=sum(curve.not_finite for curve in shown),
        below_zero=facts.below_zero,
        footer=footer(shown, facts, low, high, pixels, time),
        summary=in_words(curves, names or {}),
    )


def summary(run: Pyramid, key: str) -> str:
    """Return what there is to say of a scalar of a run, in a line; see ``wording.summaries``, which takes many.

    Raises:
        CorruptStateError: the journal is damaged.
        OSError: it cannot be read.
    """
    return summaries(run, [key])[key]


class _Clip(NamedTuple):
    """A stroke that reaches beyond the chart."""

    run: str
    x: float
    value: float
    top: bool


class _Hole(NamedTuple):
    """A bucket with values that are not finite."""

    run: str
    x0: float
    x1: float
    counts: tuple[int, int, int]


class _Placed(NamedTuple):
    """What of a curve has a place in the chart, in the order of ``x``.

    Attributes:
        curve: it.
        which: indexes of its buckets that have one.
        x: where these stand.
        unplaced: values that have none.
        below_zero: strokes at 0 or below, on a logarithmic axis.
    """

    curve: Curve
    which: Array
    x: Array
    unplaced: int
    below_zero: int

    @classmethod
    def of(cls, curve: Curve, log: bool) -> _Placed:
        which = np.flatnonzero(np.isfinite(curve.x))
        if not curve.monotone or (len(which) < len(curve.x) and bool((np.diff(curve.x[which]) < 0).any())):
            which = which[np.argsort(curve.x[which], kind="stable")]
        unplaced = curve.points - int(curve.buckets.points[which].sum()) if len(which) < len(curve.x) else 0
        below = int((curve.buckets.min[which] <= 0).sum()) if log else 0  # NaN is not
        return cls(curve, which, curve.x[which].astype(np.float64), unplaced, below)

    def strokes(self, log: bool) -> Strokes:
        """Return what the range is fitted to."""
        buckets = self.curve.buckets
        low, high, points, seq = (
            column[self.which] for column in (buckets.min, buckets.max, buckets.points, buckets.last_seq)
        )
        if log:
            low = np.where(low > 0, low, high)  # how near 0 it comes is not known
            some = high > 0
        else:
            some = ~np.isnan(low)
        if not some.all():
            low, high, points, seq = low[some], high[some], points[some], seq[some]
        return Strokes(np.log(low), np.log(high), points, seq) if log else Strokes(low, high, points, seq)

    def beyond(self, run: str, low: float, high: float, log: bool) -> list[_Clip]:
        """Return the strokes that reach beyond a range, those beyond both edges twice."""
        buckets = self.curve.buckets
        lows, highs = buckets.min[self.which], buckets.max[self.which]
        found = []
        for top, values, mask in ((True, highs, highs > high), (False, lows, lows < low)):
            found += [
                _Clip(run, x, value, top) for x, value in zip(self.x[mask].tolist(), values[mask].tolist(), strict=True)
            ]
        return found

    def gaps(self, run: str) -> list[_Hole]:
        """Return the buckets with values that are not finite."""
        if not self.curve.not_finite:
            return []
        buckets = self.curve.buckets
        bad = np.flatnonzero(buckets.not_finite[self.which])
        wide = float(self.curve.width - 1) if self.curve.axis == "step" else 0.0
        holes = []
        for index in bad.tolist():
            row, x0 = self.which[index], float(self.x[index])
            x1 = x0 + wide
            if not wide and self.curve.width > 1 and index + 1 < len(self.x):
                x1 = float(self.x[index + 1])
            counts = (int(buckets.nan[row]), int(buckets.plus_inf[row]), int(buckets.minus_inf[row]))
            holes.append(_Hole(run, x0, x1, counts))
        return holes


def _powers(low: float, high: float) -> tuple[float, float]:
    """Return the edges of a logarithmic axis, given their logarithms."""
    low, high = float(np.exp(np.clip(low, -745.0, 709.0))), float(np.exp(np.clip(high, -745.0, 709.0)))
    low = max(low, SMALLEST)
    return low, max(high, float(np.nextafter(low, np.inf)))


# --- carets and marks


def _carets(clips: Sequence[_Clip], near: float, key: str) -> tuple[Caret, ...]:
    """Return one caret for strokes near to each other."""
    groups: list[list[_Clip]] = []
    for apart in (True, False):
        by_edge: dict[tuple[str, bool], list[_Clip]] = {}
        for clip in clips:
            by_edge.setdefault((clip.run if apart else "", clip.top), []).append(clip)
        groups = [group for part in by_edge.values() for group in _near(part, near)]
        if len(groups) <= MOST_MARKS:
            break
    carets = []
    for group in groups:
        clip = (max if group[0].top else min)(group, key=lambda clip: clip.value)
        text = f"{'▲' if clip.top else '▼'}{format_quantity(key, clip.value)}"
        carets.append(Caret(clip.run, clip.x, clip.value, clip.top, text, group[0].x, group[-1].x, len(group)))
    return tuple(sorted(carets, key=lambda caret: caret.x))


def _near(clips: Sequence[_Clip], near: float) -> list[list[_Clip]]:
    clips = sorted(clips, key=lambda clip: clip.x)
    cuts = [number for number, (one, other) in enumerate(pairwise(clips), 1) if other.x - one.x > near]
    return [list(clips[start:stop]) for start, stop in pairwise([0, *cuts, len(clips)])]


def _gaps(holes: Sequence[_Hole], near: float) -> tuple[Gap, ...]:
    """Return one mark for buckets near to each other."""
    groups: list[list[_Hole]] = []
    for apart in (True, False):
        by_run: dict[str, list[_Hole]] = {}
        for hole in holes:
            by_run.setdefault(hole.run if apart else "", []).append(hole)
        groups = []
        for part in by_run.values():
            part.sort(key=lambda hole: hole.x0)
            cuts = [number for number, (one, other) in enumerate(pairwise(part), 1) if other.x0 - one.x1 > near]
            groups += [part[start:stop] for start, stop in pairwise([0, *cuts, len(part)])]
        if len(groups) <= MOST_MARKS:
            break
    gaps = []
    for group in groups:
        counts = [sum(column) for column in zip(*(hole.counts for hole in group), strict=True)]
        x1 = max(hole.x1 for hole in group)
        gaps.append(Gap(group[0].run, group[0].x0, x1, sum(counts), f"◆ {not_finite_in_words(*counts)}"))
    return tuple(sorted(gaps, key=lambda gap: gap.x0))
