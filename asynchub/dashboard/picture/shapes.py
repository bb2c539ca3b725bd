"""What a picture is made of, whatever the format: shapes at places in pixels, y downwards.

So the formats cannot disagree: each draws the same shapes, and decides nothing.
Shapes of one group belong together, and have a text for who cannot see them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from asynchub.columns import Array

__all__ = ("Box", "Dots", "Group", "Polygon", "Polyline", "Scene", "Shape", "Strokes", "Text")


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text.

    Attributes:
        x: where it is anchored.
        y: of its base line.
        text: it.
        size: of the letters, in pixels.
        colour: as ``#rrggbb``.
        anchor: which part of it is at ``x``.
        bold: whether it is bold.
        halo: colour around the letters, so that they are read on lines; "" for none.
    """

    x: float
    y: float
    text: str
    size: float
    colour: str
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False
    halo: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle.

    Attributes:
        x: of its left edge.
        y: of its upper edge.
        width: of it.
        height: of it.
        fill: its colour; "" for none.
        line: colour of its edge; "" for none.
        radius: of its corners.
    """

    x: float
    y: float
    width: float
    height: float
    fill: str
    line: str = ""
    radius: float = 0.0


@dataclass(frozen=True, slots=True)
class Strokes:
    """Upright bars; where some overlap, their colours do not add up.

    Attributes:
        left: edge of each.
        right: edge of each.
        top: edge of each.
        bottom: edge of each; not above ``top``.
        colour: of all.
        opacity: of all, 0 to 1.
    """

    left: Array
    right: Array
    top: Array
    bottom: Array
    colour: str
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Polyline:
    """A line through places; NaN breaks it.

    Attributes:
        x: of each.
        y: of each.
        colour: of the line.
        width: of the line.
        dash: lengths of strokes and gaps in turn; none of a whole line.
        clip: left, top, right and bottom of the part that is seen; None for all.
        opacity: 0 to 1.
    """

    x: Array
    y: Array
    colour: str
    width: float
    dash: tuple[float, ...] = ()
    clip: tuple[float, float, float, float] | None = None
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Dots:
    """Filled circles.

    Attributes:
        x: of each.
        y: of each.
        radius: of all.
        colour: of all.
    """

    x: Array
    y: Array
    radius: float
    colour: str


@dataclass(frozen=True, slots=True)
class Polygon:
    """A filled polygon.

    Attributes:
        places: x and y of its corners.
        fill: its colour; "" for none.
        line: colour of its edge; "" for none.
    """

    places: tuple[tuple[float, float], ...]
    fill: str
    line: str = ""


Shape = Text | Box | Strokes | Polyline | Dots | Polygon


@dataclass(frozen=True, slots=True)
class Group:
    """Shapes that belong together.

    Attributes:
        shapes: in the order in which they are drawn.
        label: what they show, in words; "" if they are text already.
    """

    shapes: list[Shape] = field(default_factory=list)
    label: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture.

    Attributes:
        width: in pixels.
        height: in pixels.
        ground: its colour.
        title: what it is a picture of.
        groups: in the order in which they are drawn.
    """

    width: float
    height: float
    ground: str
    title: str
    groups: list[Group]
