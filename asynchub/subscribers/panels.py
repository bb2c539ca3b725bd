"""What goes where in the picture of a run: panels, axes and what a legend says.

Panels: keys that end alike (``train/loss``, ``val/loss``) share one. Panels of several keys come first, then they come
    in the order in which the keys did.
Axes: a panel is logarithmic if its values are all above 0, the largest is at least 30 times the smallest, and half of
    what is drawn would lie in the lowest tenth of a linear axis; otherwise it is linear. Panels share their steps.
Best: whether small or large values are good is told by the words of a key's last part, unless it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asynchub.patterns import matcher
from asynchub.subscribers.checks import Mode
from asynchub.subscribers.curves import NOT_FINITE, Curve
from asynchub.subscribers.display import format_quantity

__all__ = (
    "CURVES",
    "SIZES",
    "Look",
    "Mark",
    "Measures",
    "Picture",
    "Size",
    "colours_of",
    "format_tick",
    "has_unit",
    "in_panels",
    "is_logarithmic",
    "is_steady",
    "limits_of",
    "split_key",
    "summary_of",
    "times",
)

PANELS = 36
"""Panels at most; the keys of others are counted."""
CURVES = 7
"""Curves in a panel at most: as many as there are colours; others get a panel of the same name."""
LOG_RATIO = 30.0
"""Largest value over smallest from which an axis may be logarithmic."""

_SMALL = (
    *("loss", "error", "err", "perplexity", "ppl", "nll", "mse", "rmse", "mae"),
    *("wer", "cer", "fid", "bpb", "regret"),
)
_LARGE = (
    *("accuracy", "acc", "top1", "top5", "f1", "auc", "auroc", "map", "iou", "miou", "dice"),
    *("bleu", "rouge", "precision", "recall", "r2", "psnr", "ssim", "reward", "return", "score"),
)

Size = Literal["slide", "paper"] | tuple[float, float]


@dataclass(frozen=True, slots=True)
class Measures:
    """A size of pictures: lengths in inches, letters in points.

    Attributes:
        width: of the page.
        height: of the page, at least; it grows with the rows of panels.
        dpi: pixels an inch, unless others are asked for.
        letters: size of the letters.
        panel_height: of a panel, at least.
        columns: of panels at most.
    """

    width: float
    height: float
    dpi: float
    letters: float
    panel_height: float
    columns: int


SIZES: Mapping[str, Measures] = {
    "slide": Measures(width=13.33, height=7.5, dpi=150, letters=10.0, panel_height=1.75, columns=4),
    "paper": Measures(width=6.75, height=2.9, dpi=300, letters=6.5, panel_height=1.3, columns=3),
}


@dataclass(frozen=True, slots=True)
class Look:
    """What was asked of every picture.

    Attributes:
        smooth: half-life of the moving average, in updates; None for none.
        best: whether small or large values are better, by pattern.
        size: a name in ``SIZES``, or width and height in inches.
        dpi: pixels an inch.
    """

    smooth: float | None
    best: tuple[tuple[str, Mode], ...]
    size: Size
    dpi: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision: the step it belongs to, what kind it is, and a label of a few words."""

    x: float
    kind: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is to be drawn.

    Attributes:
        title: heading.
        subtitle: the line below.
        curves: by key, in the order in which the keys came.
        stepless: keys whose updates name no step: they are drawn over the number of the update.
        marks: decisions.
        totals: how many decisions of each kind there were; more than ``marks`` has, perhaps.
        left_out: keys that are not among ``curves``.
    """

    title: str
    subtitle: str
    curves: Mapping[str, Curve]
    stepless: frozenset[str]
    marks: Sequence[Mark]
    totals: Mapping[str, int]
    left_out: int


def split_key(key: str) -> tuple[str, str]:
    """Return ``val/loss`` as ``("val", "loss")``."""
    group, _, name = key.rpartition("/")
    return group, name


def in_panels(curves: Mapping[str, Curve]) -> tuple[list[list[str]], int]:
    """Return the keys of each panel, one at least, and how many keys found no room."""
    named: dict[str, list[str]] = {}
    for key in curves:
        named.setdefault(split_key(key)[1], []).append(key)
    together = sorted(named.values(), key=lambda keys: len(keys) == 1)  # stable: in the order in which they came
    panels = [keys[start : start + CURVES] for keys in together for start in range(0, len(keys), CURVES)]
    return panels[:PANELS] or [[]], sum(map(len, panels[PANELS:]))


def colours_of(panels: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return the number of a colour for each key: the same for each group, and no two the same in a panel."""
    groups: dict[str, int] = {}
    colours: dict[str, int] = {}
    for panel in panels:
        free = list(range(CURVES))
        for key in panel:
            number = groups.setdefault(split_key(key)[0], len(groups)) % CURVES
            colours[key] = number if number in free else free[0]
            free.remove(colours[key])
    return colours


def limits_of(curves: Sequence[Curve]) -> tuple[float, float]:
    """Return the steps that the panels share, with a margin."""
    ends = [float(end) for curve in curves for x in [curve.points()[0]] if len(x) for end in (x[0], x[-1])]
    if not ends:
        return 0.0, 1.0
    margin = (max(ends) - min(ends)) * 0.015 or 0.5
    return min(ends) - margin, max(ends) + margin


def is_logarithmic(y: NDArray[np.float64]) -> bool:
    """Tell whether finite values are better seen on a logarithmic axis; see the module."""
    if len(y) < 3:
        return False
    low, high = float(y.min()), float(y.max())
    if not (low > 0 and high / low >= LOG_RATIO):
        return False
    return float(np.median(y)) <= low + (high - low) / 10


def is_steady(y: NDArray[np.float64]) -> bool:
    """Tell whether values mostly stay the same, as a learning rate does; an average only blurs where it changes."""
    return len(y) > 1 and 2 * int(np.count_nonzero(np.diff(y))) < len(y)


def summary_of(key: str, curve: Curve, best: Sequence[tuple[str, Mode]]) -> str:
    """Return the newest value, the best and where it was, and what was not finite."""
    parts = [] if curve.last is None else [f"last {format_quantity(key, curve.last)}"]
    mode = _direction(key, best)
    found = None if mode is None else curve.extreme(largest=mode == "max")
    if found is not None:
        parts.append(f"best {format_quantity(key, found[1])} at {found[0]:,.0f}")
    for what in NOT_FINITE:
        if count := curve.not_finite(what)[1]:
            parts.append(f"{what} {times(count)}")
    return ", ".join(parts)


def _direction(key: str, best: Sequence[tuple[str, Mode]]) -> Mode | None:
    for pattern, mode in best:
        if matcher((pattern,))(key):
            return mode
    words = split_key(key)[1].lower().replace("-", "_").split("_")
    if any(word in _SMALL for word in words):
        return "min"
    return "max" if any(word in _LARGE for word in words) else None


def times(count: int) -> str:
    """Return ``once`` or ``1,200 times``."""
    return "once" if count == 1 else f"{count:,} times"


def has_unit(key: str) -> bool:
    """Tell whether the end of a key names a unit."""
    return key.endswith(("_s", "_seconds", "_bytes"))


def format_tick(key: str, value: float) -> str:
    """Return ``value`` as it stands at an axis."""
    return format_quantity(key, value) if has_unit(key) else f"{value:.4g}"
