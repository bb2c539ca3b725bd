"""A chart as shapes: strokes from min to max, lines, carets, marks of what is not finite, decisions, the footer.

Each stroke is at least a pixel high and wide, so that a lone value among a million is seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.colours import DASHES, GREY
from asynchub.dashboard.curves import Axis, Curve
from asynchub.dashboard.picture.look import Look, room, shortened, wrapped
from asynchub.dashboard.picture.scales import Scale, ticks_of_axis, ticks_of_values
from asynchub.dashboard.picture.shapes import Box, Dots, Group, Polygon, Polyline, Shape, Strokes, Text
from asynchub.dashboard.picture.sheet import Panel
from asynchub.dashboard.picture.signs import colour_of, signs
from asynchub.dashboard.screen import Colour, Mark

__all__ = ("SMALL", "Frame", "chart", "extent")

SMALL = 11.0
"""Size of the letters of ticks and labels, in pixels."""
FOOT = 10.5
HEAD, LABELS, LINE = 26.0, 28.0, 13.0
LEFT, RIGHT, BELOW = 54.0, 14.0, 20.0
FEW = 60
"""Values up to which each gets a dot."""
RAW = 0.42
"""Opacity of strokes."""


class Frame(NamedTuple):
    """Where a chart is, in pixels, and what all charts share.

    Attributes:
        x: of its left edge.
        y: of its upper edge.
        width: of it.
        height: of it.
        start: the value at the left end of the x axis.
        stop: the one at the right end; above ``start``.
        axis: what x is.
        colours: of the runs, by their ids; the others are grey.
    """

    x: float
    y: float
    width: float
    height: float
    start: float
    stop: float
    axis: Axis
    colours: Mapping[str, Colour]


def extent(panels: Sequence[Panel]) -> tuple[float, float]:
    """Return the ends of an x axis that charts share."""
    ends: list[float] = []
    for curve in (curve for panel in panels for curve in panel.curves.values()):
        if not curve.buckets.size:
            continue
        if curve.axis == "step":
            ends += [float(curve.start), float(curve.stop)]
        elif len(finite := curve.x[np.isfinite(curve.x)]):
            ends += [float(finite.min()), float(finite.max())]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def chart(panel: Panel, frame: Frame, look: Look) -> Group:
    """Return a chart in its frame."""
    return _Chart(panel, frame, look).group


class _Chart:
    def __init__(self, panel: Panel, frame: Frame, look: Look) -> None:
        self.panel, self.frame, self.look = panel, frame, look
        drawing = panel.drawing
        truth = " · ".join(text for text in (drawing.footer, panel.said) if text)
        foot = wrapped(truth, FOOT, frame.width - 24, most=4, between=" · ")
        self.left, self.right = frame.x + LEFT, frame.x + frame.width - RIGHT
        self.top = frame.y + HEAD + LABELS
        self.bottom = max(frame.y + frame.height - BELOW - 8 - LINE * len(foot), self.top + 20)
        self.across = Scale(frame.start, frame.stop, self.left, self.right)
        self.up = Scale(drawing.low, drawing.high, self.bottom, self.top, drawing.log)
        self.clip = (self.left, self.top - 1, self.right + 1, self.bottom + 1)
        self.group = Group(label=f"{drawing.summary}. {truth}")
        self.taken: list[tuple[float, float, int]] = []
        self.marks = self._seen_marks()
        self.lines = [x for x, _, _ in self.marks]
        self._card()
        self._axes()
        self.add(*signs(self.marks, self.top, self.bottom, look))
        for run in reversed(list(panel.curves)):
            self._raw(run, panel.curves[run])
        for run in reversed(list(panel.curves)):
            self._line(run, panel.curves[run])
        self._gaps()
        self._carets()
        self._labels_of_marks()
        for number, line in enumerate(foot):
            y = frame.y + frame.height - 8 - LINE * (len(foot) - 1 - number)
            self.add(Text(frame.x + 12, y, line, FOOT, look.mute))

    def add(self, *shapes: Shape) -> None:
        self.group.shapes.extend(shapes)

    def colour(self, run: str) -> str:
        return self.look.of_run(self.frame.colours.get(run, GREY))

    # --- what stands around it

    def _card(self) -> None:
        frame, look = self.frame, self.look
        self.add(Box(frame.x, frame.y, frame.width, frame.height, look.card, look.edge, 8.0))
        key = shortened(self.panel.key, 13.5, frame.width * 0.6, bold=True)
        self.add(Text(frame.x + 12, frame.y + 20, key, 13.5, look.ink, bold=True))
        after = room(key, 13.5, bold=True) + 22
        note = "log" if self.panel.drawing.log else ""
        note = " · ".join(part for part in (self.panel.note, note) if part)
        if note:
            text = shortened(note, SMALL, frame.width - after - 12)
            self.add(Text(frame.x + after, frame.y + 20, text, SMALL, look.mute))

    def _axes(self) -> None:
        look = self.look
        most = max(int((self.bottom - self.top) / 34), 2)
        for tick in ticks_of_values(self.up, self.panel.key, most):
            y = round(float(self.up(tick.value))) + 0.5
            if self.top - 1 <= y <= self.bottom + 1:
                self.add(_line([self.left, self.right], [y, y], look.grid))
                self.add(Text(self.left - 6, y + 4, shortened(tick.text, SMALL, LEFT - 8), SMALL, look.mute, "end"))
        for tick in ticks_of_axis(self.across, self.frame.axis, max(int((self.right - self.left) / 90), 2)):
            x = round(float(self.across(tick.value))) + 0.5
            half = room(tick.text, SMALL) / 2
            self.add(_line([x, x], [self.bottom, self.bottom + 4], look.mute))
            place = min(max(x, self.left + half - 12), self.frame.x + self.frame.width - 6 - half)
            self.add(Text(place, self.bottom + 16, tick.text, SMALL, look.mute, "middle"))
        self.add(_line([self.left, self.right], [self.bottom + 0.5] * 2, look.mute))
        if not self.panel.drawing.points:
            middle = ((self.left + self.right) / 2, (self.top + self.bottom) / 2)
            self.add(Text(*middle, "no values", 13.0, look.mute, "middle"))

    # --- curves

    def _places(self, curve: Curve) -> Array:
        """Return where the strokes of a curve stand, in pixels."""
        middle = (curve.width - 1) / 2 if curve.axis == "step" and not curve.single else 0.0
        return self.across(curve.x + middle)

    def _raw(self, run: str, curve: Curve) -> None:
        """Draw the range of each bucket."""
        buckets = curve.buckets
        if curve.single or bool((buckets.points == 1).all()):
            return
        low, high = self.panel.drawing.low, self.panel.drawing.high
        some = np.isfinite(buckets.min) & np.isfinite(curve.x) & (buckets.max >= low) & (buckets.min <= high)
        ends = curve.x + (curve.width if curve.axis == "step" else 0)
        left, right = np.floor(self.across(curve.x[some])), np.round(self.across(ends[some]))
        top, bottom = self.up(np.minimum(buckets.max[some], high)), self.up(np.maximum(buckets.min[some], low))
        self._bars(left, np.maximum(right, left + 1), top, bottom, self.colour(run))

    def _bars(self, left: Array, right: Array, top: Array, bottom: Array, colour: str) -> None:
        """Draw one bar, at least a pixel high, for all that begin in the same column of pixels."""
        if not len(left):
            return
        order = np.argsort(left, kind="stable")
        left, right, top, bottom = left[order], right[order], top[order], bottom[order]
        firsts = np.flatnonzero(np.append(True, left[1:] != left[:-1]))
        top, bottom = np.minimum.reduceat(top, firsts), np.maximum.reduceat(bottom, firsts)
        short = np.maximum(1.0 - (bottom - top), 0.0) / 2
        right = np.maximum.reduceat(right, firsts)
        self.add(Strokes(left[firsts], right, top - short, bottom + short, colour, RAW))

    def _line(self, run: str, curve: Curve) -> None:
        """Draw the mean of each bucket, or its smoothed one, or single values."""
        buckets = curve.buckets
        if not buckets.size:
            return
        x, colour = self._places(curve), self.colour(run)
        dash = DASHES[self.frame.colours.get(run, GREY).dash] if len(self.panel.curves) > 1 else ()
        single = curve.single or bool((buckets.points == 1).all())
        values = np.where(np.isfinite(buckets.means), buckets.means, buckets.min)
        if single and (curve.smooth is not None or (dash and len(values) > FEW)):
            self._polyline(x, values, colour, 1.0, (), RAW)  # a spike might be in a gap of the dashes
        if curve.smooth is not None:
            self._polyline(x, curve.smooth, colour, 2.0, dash, 1.0)
            return
        self._polyline(x, values, colour, 1.6, dash, 1.0)
        bare = ~np.isfinite(np.concatenate([[np.nan], values, [np.nan]]))
        alone = ~bare[1:-1] & bare[:-2] & bare[2:]
        shown = np.isfinite(values) if len(values) <= FEW else alone
        shown = shown & (values >= self.panel.drawing.low) & (values <= self.panel.drawing.high) & np.isfinite(x)
        if shown.any():
            self.add(Dots(x[shown], self.up(values[shown]), 2.4, colour))

    def _polyline(
        self, x: Array, values: Array, colour: str, width: float, dash: tuple[float, ...], opacity: float
    ) -> None:
        y = self.up(values)
        back = np.flatnonzero(x[1:] < x[:-1]) + 1
        if len(back):  # values came late, or the run was resumed: no line goes back
            x, y = np.insert(x, back, np.nan), np.insert(y, back, np.nan)
        self.add(Polyline(x, y, colour, width, dash, self.clip, opacity))

    # --- what is not seen of them

    def _gaps(self) -> None:
        bad = self.look.bad
        for gap in self.panel.drawing.gaps:
            x0, x1 = (float(self.across(x)) for x in (gap.x0, gap.x1))
            x0, x1 = max(x0, self.left), min(x1, self.right)
            if x1 < x0:
                continue
            x, half = (x0 + x1) / 2, max(x1 - x0, 1.5) / 2
            left, right, top, bottom = (np.array([edge]) for edge in (x - half, x + half, self.top, self.bottom))
            self.add(Strokes(left, right, top, bottom, bad, 0.22))
            self.add(Polygon(((x, self.top - 5), (x + 4, self.top), (x, self.top + 5), (x - 4, self.top)), bad))
            self._label(x, gap.text.removeprefix("◆").strip(), bad)

    def _carets(self) -> None:
        several = len(self.panel.curves) > 1
        for caret in self.panel.drawing.carets:
            curve = self.panel.curves[caret.run]
            middle = (curve.width - 1) / 2 if curve.axis == "step" and not curve.single else 0.0
            x = float(self.across(caret.x + middle))
            colour = self.colour(caret.run) if several else self.look.bad
            y, way = (self.top, -1) if caret.top else (self.bottom, 1)
            self.add(Polygon(((x - 5, y - way), (x + 5, y - way), (x, y + 7 * way)), colour))
            text = caret.text.lstrip("▲▼") + (f" ({caret.count:,} strokes)" if caret.count > 1 else "")
            if caret.top:
                self._label(x, text, colour, gap=7)
            else:
                self._below(x, text, colour)

    def _below(self, x: float, text: str, colour: str) -> None:
        """Write a value beside a caret at the lower edge."""
        y, halo = self.bottom - 4, self.look.card
        if x + room(text, SMALL) + 8 > self.right:
            self.add(Text(x - 8, y, text, SMALL, colour, "end", halo=halo))
        else:
            self.add(Text(x + 8, y, text, SMALL, colour, halo=halo))

    # --- decisions

    def _seen_marks(self) -> list[tuple[float, Mark, str]]:
        """Return the decisions in the plot: where, what, and the colour of the run."""
        places = [(float(self.across(x)), mark, self.colour(run)) for x, run, mark in self.panel.marks]
        return [one for one in places if self.left - 1 <= one[0] <= self.right + 1]

    def _labels_of_marks(self) -> None:
        texts = [shortened(mark.short or mark.what, SMALL, 130) for _, mark, _ in self.marks]
        many = Counter(texts)
        labels = sorted(zip(texts, self.marks, strict=True), key=lambda one: (many[one[0]], -one[1][0]))
        for text, (x, mark, _) in labels:  # what is said once gets the room first, then what is newer
            self._label(x, text, colour_of(mark, self.look.mute, self.look))

    def _label(self, x: float, text: str, colour: str, gap: float = 6.0) -> None:
        """Write a label above the plot, in the first of two rows that has room; there is none where both are full."""
        wide = room(text, SMALL)
        for start, row in product((x + gap, x - gap - wide), (1, 0)):
            if start < x and any(start < other < x for other in self.lines):
                continue  # it would seem to belong to that one
            inside = self.frame.x + 4 <= start and start + wide <= self.frame.x + self.frame.width - 4
            free = all(start + wide + 6 < a or b + 6 < start for a, b, other in self.taken if other == row)
            if inside and free:
                self.taken.append((start, start + wide, row))
                self.add(Text(start, self.top - LABELS + 10 + row * LINE, text, SMALL, colour))
                return


def _line(x: Sequence[float], y: Sequence[float], colour: str, dash: tuple[float, ...] = ()) -> Polyline:
    return Polyline(np.array(x, np.float64), np.array(y, np.float64), colour, 1.0, dash)
