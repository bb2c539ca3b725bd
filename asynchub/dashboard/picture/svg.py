"""A scene as SVG: no script, no style sheet, no address of anything else.

Strokes: bars that are filled as one path, as browsers add up the opacity of strokes where they overlap.
Escaped: every text; what XML cannot have (control characters, half a surrogate pair) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.picture.shapes import Box, Dots, Group, Polygon, Polyline, Scene, Shape, Strokes, Text

__all__ = ("escaped", "svg")

FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def escaped(text: str) -> str:
    """Return text as it may stand in XML or HTML, between tags or in an attribute."""
    return _BIDI.sub("", _NOT_XML.sub("", text)).translate(_ENTITIES)


def svg(scene: Scene, *, prefix: str = "c") -> str:
    """Return a scene as an SVG element, which may stand in a page or be a file.

    Args:
        scene: it.
        prefix: that the ids in it begin with; those in one page must differ.
    """
    clips: dict[tuple[float, float, float, float], str] = {}
    body = "\n".join(line for group in scene.groups for line in _group(group, clips, prefix))
    defs = "".join(_clip(box, name) for box, name in clips.items())
    size = f'width="{_n(scene.width)}" height="{_n(scene.height)}" viewBox="0 0 {_n(scene.width)} {_n(scene.height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}">\n'
        f"<title>{escaped(scene.title)}</title>\n<defs>{defs}</defs>\n"
        f'<rect width="100%" height="100%" fill="{scene.ground}"/>\n{body}\n</svg>\n'
    )


def _clip(box: tuple[float, float, float, float], name: str) -> str:
    x0, y0, x1, y1 = box
    place = f'x="{_n(x0)}" y="{_n(y0)}" width="{_n(x1 - x0)}" height="{_n(y1 - y0)}"'
    return f'<clipPath id="{name}"><rect {place}/></clipPath>'


def _group(group: Group, clips: dict[tuple[float, float, float, float], str], prefix: str) -> Iterator[str]:
    if not group.shapes:
        return
    yield f'<g role="img" aria-label="{escaped(group.label)}">' if group.label else "<g>"
    for shape in group.shapes:
        yield _shape(shape, clips, prefix)
    yield "</g>"


def _shape(shape: Shape, clips: dict[tuple[float, float, float, float], str], prefix: str) -> str:
    match shape:
        case Text():
            return _text(shape)
        case Box():
            line = f' stroke="{shape.line}"' if shape.line else ""
            radius = f' rx="{_n(shape.radius)}"' if shape.radius else ""
            place = f'x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.width)}" height="{_n(shape.height)}"'
            return f'<rect {place} fill="{shape.fill or "none"}"{line}{radius}/>'
        case Strokes():
            columns = (shape.left, shape.right - shape.left, shape.top, shape.bottom)
            bars = zip(*(column.tolist() for column in columns), strict=True)
            path = "".join(f"M{_n(x)} {top:.2f}h{_n(wide)}V{bottom:.2f}h{_n(-wide)}z" for x, wide, top, bottom in bars)
            return f'<path class="strokes" fill="{shape.colour}" fill-opacity="{_n(shape.opacity)}" d="{path}"/>'
        case Polyline():
            return _polyline(shape, clips, prefix)
        case Dots():
            dots = zip(shape.x.tolist(), shape.y.tolist(), strict=True)
            circles = "".join(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{_n(shape.radius)}"/>' for x, y in dots)
            return f'<g fill="{shape.colour}">{circles}</g>'
        case Polygon():
            places = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.places)
            line = f' stroke="{shape.line}"' if shape.line else ""
            return f'<polygon points="{places}" fill="{shape.fill or "none"}"{line}/>'


def _text(shape: Text) -> str:
    how = f'x="{_n(shape.x)}" y="{_n(shape.y)}" font-size="{_n(shape.size)}" fill="{shape.colour}"'
    if shape.anchor != "start":
        how += f' text-anchor="{shape.anchor}"'
    if shape.bold:
        how += ' font-weight="600"'
    if shape.halo:
        how += f' stroke="{shape.halo}" stroke-width="3" paint-order="stroke" stroke-linejoin="round"'
    return f"<text {how}>{escaped(shape.text)}</text>"


def _polyline(shape: Polyline, clips: dict[tuple[float, float, float, float], str], prefix: str) -> str:
    how = f'stroke="{shape.colour}" stroke-width="{_n(shape.width)}"'
    if shape.dash:
        how += f' stroke-dasharray="{" ".join(map(_n, shape.dash))}"'
    if shape.opacity < 1:
        how += f' stroke-opacity="{_n(shape.opacity)}"'
    if shape.clip is not None:
        name = clips.setdefault(shape.clip, f"{prefix}{len(clips)}")
        how += f' clip-path="url(#{name})"'
    return f'<path fill="none" stroke-linejoin="round" {how} d="{_path(shape.x, shape.y)}"/>'


def _path(x: Array, y: Array) -> str:
    some = np.isfinite(x) & np.isfinite(y)
    begins = some & ~np.append(False, some[:-1])
    letters = np.where(begins, "M", "L")
    places = zip(letters[some].tolist(), x[some].tolist(), y[some].tolist(), strict=True)
    return "".join(f"{letter}{one:.2f} {other:.2f}" for letter, one, other in places)


def _n(number: float) -> str:
    """Return a number with two decimals at most."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
