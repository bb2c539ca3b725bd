"""A scene as PNG, with matplotlib.

Global state: none. ``pyplot`` is not imported, its figures and backends are not touched, and colours and fonts do not
    come from ``rcParams``.
Text: a letter that the font lacks is a box; nothing is taken for mathematics.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.picture.shapes import Box, Dots, Polygon, Polyline, Scene, Shape, Strokes, Text

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Affine2D, Bbox, TransformedBbox
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[plot]'", name=error.name) from error

__all__ = ("DENSITY", "write_png")

DENSITY = 2.0
"""Pixels of the file for each of the scene, each way."""
FONT = "DejaVu Sans"
DPI = 72.0
"""At which a point is a pixel of the scene."""


def write_png(scene: Scene, file: BinaryIO, density: float = DENSITY) -> None:
    """Write a scene as PNG."""
    figure = Figure(figsize=(scene.width / DPI, scene.height / DPI), dpi=DPI * density, facecolor=scene.ground)
    FigureCanvasAgg(figure)
    down = Affine2D().scale(1, -1).translate(0, scene.height).scale(density)  # from the scene to pixels of the file
    for shape in (shape for group in scene.groups for shape in group.shapes):
        _add(figure, shape, down, scene.height)
    figure.savefig(file, format="png", facecolor=scene.ground, bbox_inches=None, metadata={"Software": "asynchub"})


def _add(figure: Figure, shape: Shape, down: Affine2D, height: float) -> None:
    match shape:
        case Text():
            _text(figure, shape, down)
        case Box():
            _box(figure, shape, down)
        case Strokes():
            x0, x1, y0, y1 = shape.left, shape.right, shape.top, shape.bottom
            places = np.stack([x0, y0, x1, y0, x1, y1, x0, y1, x0, y0], axis=1).reshape(-1, 2)
            codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(x0))
            bars = PathPatch(Path(places, codes), fc=shape.colour, ec="none", alpha=shape.opacity, transform=down)
            bars.set_snap(False)
            figure.add_artist(bars)
        case Polyline():
            _polyline(figure, shape, down)
        case Dots():
            for x, y in zip(shape.x.tolist(), shape.y.tolist(), strict=True):
                circle = Path.circle((x, y), shape.radius)
                figure.add_artist(PathPatch(circle, fc=shape.colour, ec="none", transform=down))
        case Polygon():
            corners = Path([*shape.places, shape.places[0]], closed=True)
            line = shape.line or "none"
            figure.add_artist(PathPatch(corners, fc=shape.fill or "none", ec=line, lw=1.0, transform=down))


def _text(figure: Figure, shape: Text, down: Affine2D) -> None:
    x, y = down.transform((shape.x, shape.y))
    text = figure.text(
        float(x),
        float(y),
        _letters(shape.text),
        transform=None,
        fontfamily=FONT,
        fontsize=shape.size,
        fontweight="bold" if shape.bold else "normal",
        color=shape.colour,
        ha={"start": "left", "middle": "center", "end": "right"}[shape.anchor],
        va="baseline",
        parse_math=False,
        usetex=False,
    )
    if shape.halo:
        text.set_path_effects([withStroke(linewidth=3, foreground=shape.halo)])


def _box(figure: Figure, shape: Box, down: Affine2D) -> None:
    style = f"round,pad=0,rounding_size={shape.radius}" if shape.radius else "square,pad=0"
    how: dict[str, Any] = {"fc": shape.fill or "none", "ec": shape.line or "none", "lw": 1.0 if shape.line else 0.0}
    box = FancyBboxPatch((shape.x, shape.y), shape.width, shape.height, boxstyle=style, transform=down, **how)
    figure.add_artist(box)


def _polyline(figure: Figure, shape: Polyline, down: Affine2D) -> None:
    some = np.isfinite(shape.x) & np.isfinite(shape.y)
    begins = some & ~np.append(False, some[:-1])
    codes = np.where(begins, Path.MOVETO, Path.LINETO)[some]
    places: Array = np.stack([shape.x, shape.y], axis=1)[some]
    if not len(places):
        return
    style: Any = (0, tuple(part / shape.width for part in shape.dash)) if shape.dash else "-"  # it multiplies them
    path = Path(places, codes)
    patch = _path(figure, path, down, shape.colour, shape.width, alpha=shape.opacity, linestyle=style)
    if shape.clip is not None:
        x0, y0, x1, y1 = shape.clip
        patch.set_clip_box(TransformedBbox(Bbox([[x0, y0], [x1, y1]]), down))


def _path(figure: Figure, path: Path, down: Affine2D, colour: str, width: float, **how: Any) -> PathPatch:
    """Draw a path as one: where it crosses itself it is no darker, and no part of it is left out."""
    patch = PathPatch(path, fc="none", ec=colour, lw=width, capstyle="butt", joinstyle="round", transform=down, **how)
    patch.set_snap(False)
    figure.add_artist(patch)
    return patch


@lru_cache(maxsize=1)
def _known() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=FONT))).get_charmap())


def _letters(text: str) -> str:
    """Return text with a box for each letter that the font lacks."""
    return "".join(letter if ord(letter) in _known() else "□" for letter in text)
