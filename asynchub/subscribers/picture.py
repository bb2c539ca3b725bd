"""How the picture of a run looks.

Colours: those of Okabe and Ito, "Color Universal Design" (2008), without the yellow, which is faint on white. What
    stands before the last ``/`` of a key (``train``, ``val``) has one colour in all panels.
Decisions: a line each, labelled in the first panel; where there are more than ``LABELS`` of a kind, a tick each.
Text: a letter that the font lacks is a box; nothing is taken for mathematics.
Global state: none. ``pyplot`` is not imported, its figures and backends are not touched, and colours and fonts do not
    come from ``rcParams``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from asynchub.subscribers.curves import NOT_FINITE, Curve
from asynchub.subscribers.display import one_line
from asynchub.subscribers.panels import (
    SIZES,
    Look,
    Mark,
    Picture,
    colours_of,
    format_tick,
    has_unit,
    in_panels,
    is_logarithmic,
    is_steady,
    limits_of,
    summary_of,
    times,
)

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[plot]'", name=error.name) from error

__all__ = ("FORMATS", "draw")

FORMATS = (".png", ".svg", ".pdf")
LABELS = 12
"""Decisions of a kind that get a line; of more than these, each gets a tick."""
FEW = 60
"""Values up to which each gets a dot."""
LARGEST = 1e100
"""Size beyond which a value is drawn as this: matplotlib needs some room above it."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FONT = "DejaVu Sans"
INK, GREY, GRID = "#1a1a1a", "#666666", "#e6e6e6"

_MARKS: Mapping[str, tuple[str, Any, float]] = {  # colour, line style and width; in the order in which they get labels
    "stop": ("#000000", "-", 1.1),
    "failure": ("#b00020", "-", 0.9),
    "back to an earlier state": ("#555555", (0, (6, 2, 1, 2)), 0.9),
    "parameter changed": ("#555555", (0, (4, 2)), 0.8),
    "step skipped": ("#888888", (0, (1, 1)), 0.8),
    "checkpoint": ("#888888", (0, (1, 3)), 0.8),
}
_SIGNS = {"NaN": ("x", 0.035), "+inf": ("^", 0.965), "-inf": ("v", 0.035)}  # and how high they stand in the panel


def draw(picture: Picture, look: Look, path: Path) -> None:
    """Draw ``picture`` to the file ``path``, whose suffix says the format. Any thread.

    Raises:
        OSError: the disk said no.
    """
    panels, hidden = in_panels(picture.curves)
    colours = colours_of(panels)
    page = _Page(look, [len(panel) for panel in panels], foot=bool(picture.totals))
    page.head(picture.title, picture.subtitle, picture.left_out + hidden)
    limits = limits_of([picture.curves[key] for panel in panels for key in panel if key not in picture.stepless])
    labelled = False
    for panel, axes in zip(panels, page.axes, strict=True):
        for key in panel:
            _curve(axes, picture.curves[key], COLOURS[colours[key]], look.smooth, page.scale)
        _values_axis(axes, panel, picture.curves)
        by_steps = not panel or not picture.stepless.issuperset(panel)
        if by_steps:
            axes.set_xlim(*limits)
            _marks(axes, picture.marks, page, labelled=not labelled)
            labelled = True
        texts = [f"{key}  {summary_of(key, picture.curves[key], look.best)}" for key in panel]
        page.finish(axes, [COLOURS[colours[key]] for key in panel], texts, "step" if by_steps else "update")
    page.foot(picture.totals)
    page.figure.savefig(path, format=path.suffix[1:], dpi=look.dpi, facecolor="white", bbox_inches=None)


# --- the page


class _Page:
    """The figure, with axes for panels of so many curves each."""

    def __init__(self, look: Look, curves: Sequence[int], *, foot: bool) -> None:
        size = look.size
        measures = SIZES[size] if isinstance(size, str) else SIZES["slide"]
        self.letters = measures.letters
        self.scale = measures.letters / 10  # of lines: small letters want thin ones
        line = self.letters / 72 * 1.38  # a line of text, in inches
        columns = max(1, min(measures.columns, ceil(sqrt(len(curves))) if len(curves) > 2 else len(curves)))
        rows = [curves[start : start + columns] for start in range(0, len(curves), columns)]
        legends = [line * max(row) for row in rows]
        head, below = 3.4 * line, 2.6 * line
        fixed = head + sum(legends) + below * len(rows) + (1.9 * line if foot else 0.4 * line)
        if isinstance(size, str):
            width, height = measures.width, max(measures.height, fixed + measures.panel_height * len(rows))
        else:
            width, height = size
        left, right, gap = 5.2 * line, 2.4 * line, 5.4 * line
        panel_height = max((height - fixed) / len(rows), 0.2)
        panel_width = max((width - left - right - gap * (columns - 1)) / columns, 0.2)
        self.panel_width = panel_width
        self.figure = Figure(figsize=(width, height), dpi=look.dpi, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.axes: list[Axes] = []
        top = height - head
        for row, legend in zip(rows, legends, strict=True):
            top -= legend + panel_height
            for index in range(len(row)):
                x = left + index * (panel_width + gap)
                box = (x / width, top / height, panel_width / width, panel_height / height)
                self.axes.append(self.figure.add_axes(box, facecolor="white"))
            top -= below
        self._width, self._height, self._line = width, height, line

    def head(self, title: str, subtitle: str, left_out: int) -> None:
        """Write the title, and below it what else there is to say."""
        if left_out:
            subtitle += f"  ·  {left_out:,} more keys are not drawn"
        top = self._height - 1.3 * self._line
        self._text(top, title[:120], color=INK, fontsize=1.35 * self.letters, fontweight="bold")
        self._text(top - 1.15 * self._line, subtitle, color=GREY, fontsize=self.letters)

    def _text(self, height: float, text: str, **how: Any) -> None:
        how = {"fontfamily": FONT, "va": "center", "parse_math": False, "usetex": False, **how}
        self.figure.text(0.8 * self._line / self._width, height / self._height, _letters(text), **how)

    def foot(self, totals: Mapping[str, int]) -> None:
        """Say what the vertical lines and ticks are."""
        handles, labels = [], []
        for kind, (colour, style, width) in _MARKS.items():
            if count := totals.get(kind):
                thick = 1.3 * width * self.scale
                line = {"linestyle": style, "linewidth": thick} if count <= LABELS else {"linestyle": "", "marker": "|"}
                handles.append(Line2D([], [], color=colour, **line))
                labels.append(kind if count == 1 else f"{kind}, {times(count)}")
        if handles:
            legend = self.figure.legend(
                handles,
                labels,
                loc="lower left",
                bbox_to_anchor=(0.8 * self._line / self._width, 0.5 * self._line / self._height),
                ncols=len(handles),
                frameon=False,
                borderaxespad=0,
                borderpad=0,
                handlelength=2.4,
                columnspacing=2.0,
                prop={"family": FONT, "size": 0.9 * self.letters},
                labelcolor=GREY,
            )
            for text in legend.get_texts():
                text.set_usetex(False)

    def finish(self, axes: Axes, colours: Sequence[str], texts: Sequence[str], along: str) -> None:
        """Give a panel its legend, above it, and what all panels have."""
        legend = axes.legend(
            [Line2D([], [], color=colour, linestyle="-", linewidth=2 * self.scale) for colour in colours],
            [_letters(text) for text in texts],
            loc="lower left",
            bbox_to_anchor=(0, 1),
            frameon=False,
            borderaxespad=0.15,
            borderpad=0,
            handlelength=1.3,
            handletextpad=0.6,
            labelspacing=0.15,
            prop={"family": FONT, "size": 0.95 * self.letters},
            labelcolor=INK,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
            text.set_usetex(False)
        axes.set_xlabel(along, fontsize=0.9 * self.letters, fontfamily=FONT, color=GREY, labelpad=1.5, usetex=False)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set(color="#999999", linewidth=0.7 * self.scale)
        axes.grid(True, which="major", color=GRID, linewidth=0.7 * self.scale, linestyle="-")
        axes.set_axisbelow(True)
        axes.tick_params(
            which="both",
            color="#999999",
            labelcolor=GREY,
            labelsize=0.9 * self.letters,
            labelfontfamily=FONT,
            direction="out",
            length=2.5 * self.scale,
            width=0.7 * self.scale,
            top=False,
            right=False,
        )


# --- panels


def _curve(axes: Axes, curve: Curve, colour: str, smooth: float | None, scale: float) -> None:
    x, y = curve.points()
    y = np.clip(y, -LARGEST, LARGEST)
    average = smooth is not None and len(curve) >= 4 * smooth and not is_steady(y)
    axes.plot(
        x,
        y,
        color=colour,
        alpha=0.3 if average else 1.0,
        linestyle="-",
        linewidth=(0.8 if average else 1.2) * scale,
        marker="o" if len(curve) <= FEW else "",
        markersize=2.8 * scale,
        markeredgewidth=0,
        zorder=2,
    )
    if average and smooth is not None:
        x, y = curve.smoothed(smooth)
        y = np.clip(y, -LARGEST, LARGEST)
        axes.plot(x, y, color=colour, linestyle="-", linewidth=1.6 * scale, marker="", zorder=2.5)
    for what in NOT_FINITE:
        places, _ = curve.not_finite(what)
        sign, height = _SIGNS[what]
        axes.plot(
            places,
            np.full(len(places), height),
            color=colour,
            linestyle="",
            marker=sign,
            markersize=5 * scale,
            markeredgewidth=1.3 * scale if sign == "x" else 0,
            transform=axes.get_xaxis_transform(),
            zorder=4,
        )


def _values_axis(axes: Axes, panel: Sequence[str], curves: Mapping[str, Curve]) -> None:
    y = np.concatenate([curves[key].points()[1] for key in panel] or [np.empty(0)])
    y = y[np.isfinite(y)]
    key = panel[0] if panel else ""
    plain = FuncFormatter(lambda value, _: format_tick(key, value))
    if is_logarithmic(y):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(plain if has_unit(key) else LogFormatterSciNotation())
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(plain)
        if len(y) and float(y.min()) == float(y.max()):
            margin = abs(float(y[0])) / 2 or 1.0
            axes.set_ylim(float(y[0]) - margin, float(y[0]) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


# --- decisions


def _marks(axes: Axes, marks: Sequence[Mark], page: _Page, *, labelled: bool) -> None:
    """Draw the decisions of a panel, with their labels if it is the one that has them."""
    start, end = axes.get_xlim()
    room = (end - start) * page.letters * 0.9 / 72 / page.panel_width  # what a label takes, standing
    taken: list[float] = []
    for kind, (colour, style, width) in _MARKS.items():
        these = [mark for mark in marks if mark.kind == kind and start <= mark.x <= end]
        few = len(these) <= LABELS
        axes.vlines(
            [mark.x for mark in these],
            0,
            1 if few else 0.03,
            colors=colour,
            linestyles=style if few else "-",
            linewidth=width * page.scale,
            transform=axes.get_xaxis_transform(),
            zorder=1.5,
        )
        for mark in these if labelled and few else ():
            if all(abs(mark.x - other) >= room for other in taken):  # the others have a line without a label
                taken.append(mark.x)
                axes.text(
                    mark.x - room / 9,
                    0.98,
                    _letters(mark.label[:40]),
                    transform=axes.get_xaxis_transform(),
                    rotation=90,
                    ha="right",
                    va="top",
                    fontsize=0.8 * page.letters,
                    fontfamily=FONT,
                    color=colour,
                    parse_math=False,
                    usetex=False,
                    path_effects=[withStroke(linewidth=2.2 * page.scale, foreground="white", alpha=0.85)],
                    zorder=3,
                )


# --- letters


@lru_cache(maxsize=1)
def _known() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


def _letters(text: str) -> str:
    """Return ``text`` on one line, with a box for each letter that the font lacks."""
    shown = "".join(letter if ord(letter) in _known() else "□" for letter in one_line(text))
    return f" {shown}" if shown.startswith("_") else shown  # a legend leaves out what begins with one
