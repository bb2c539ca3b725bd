"""Runs for pictures, and what is read back from a picture."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from asynchub.dashboard.web.wire import decode
from tests.dashboard.runs import Writer, columns_of

__all__ = ("HOSTILE", "Axis", "Bar", "axis_of", "bars_of", "charts_in", "data_in", "panels_of", "write_run")

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</svg><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "]]><!--",
    "</title></style></noscript><script>alert(1)</script>",
    "&lt;b&gt; &amp; &#0;",
    "\x00\x07\x1b[31mred\x1b[0m\x1b]0;title\x07\r\n\t",
    "\u202egnp.exe\u202c\u2066x\u2069\u200f",
    "\ufffe\uffff\U0010ffff",
    "http://evil.test/x.png",
    "url(http://evil.test)",
    "x" * 10_000,
    "$\\frac{1}{2}$ _under",
    "損失 🔥 e\u0301",
)


class Bar(NamedTuple):
    """A stroke, in pixels."""

    left: float
    top: float
    bottom: float


class Axis(NamedTuple):
    """A y axis, as its labels say."""

    places: list[float]
    values: list[float]

    def y(self, value: float) -> float:
        """Return where a value stands, in pixels."""
        slope = (self.places[-1] - self.places[0]) / (self.values[-1] - self.values[0])
        return self.places[0] + (value - self.values[0]) * slope


def write_run(
    folder: Path, scalars: dict[str, NDArray[np.float64]], run_id: bytes = bytes(range(16)), name: str = "hub"
) -> Path:
    """Write a run that has a value of each scalar at each step."""
    writer = Writer(folder, run_id, name)
    values = np.stack(list(scalars.values()), axis=1)
    for start in range(0, len(values), 50_000):
        steps = np.arange(start, min(start + 50_000, len(values)))
        writer.batch(columns_of(scalars, steps, values[steps], writer.seq))
    writer.close()
    return folder


def panels_of(svg: str) -> list[ElementTree.Element]:
    """Return the charts of a picture."""
    root = ElementTree.fromstring(svg)
    return [group for group in root.iter(f"{SVG}g") if group.get("role") == "img"]


def bars_of(panel: ElementTree.Element) -> list[Bar]:
    """Return the strokes of the first curve that is drawn in a chart."""
    path = next(one for one in panel.iter(f"{SVG}path") if one.get("class") == "strokes")
    found = re.findall(r"M([-\d.]+) ([-\d.]+)h[-\d.]+V([-\d.]+)h", path.get("d") or "")
    return [Bar(*map(float, numbers)) for numbers in found]


def axis_of(panel: ElementTree.Element) -> Axis:
    """Return the y axis of a chart: labels that end at its left, each 3.5 pixels below its grid line."""
    texts = [one for one in panel.iter(f"{SVG}text") if one.get("text-anchor") == "end"]
    right = min(float(one.get("x") or 0) for one in texts)
    labels = [one for one in texts if float(one.get("x") or 0) == right]
    return Axis([float(one.get("y") or 0) - 4 for one in labels], [float(one.text or "") for one in labels])


def data_in(html: str) -> dict[str, Any]:
    """Return what a page has in place of a server."""
    (text,) = re.findall(r'<script type="application/json" id="asynchub-export">(.*?)</script>', html, re.DOTALL)
    data: dict[str, Any] = json.loads(text)
    return data


def charts_in(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the charts of a page, unpacked byte by byte as ``EXPORT.md`` says."""
    packed = zlib.decompress(base64.b64decode(data["curves"][0]["data"]))
    begin = 8 + int.from_bytes(packed[4:8], "little")
    columns = packed[begin:]
    eights = len(columns) // 8
    whole = bytearray(columns)
    for number in range(8):
        whole[number::8] = columns[number * eights : (number + 1) * eights]
    charts: list[dict[str, Any]] = decode(packed[:begin] + bytes(whole))["charts"]
    return charts
