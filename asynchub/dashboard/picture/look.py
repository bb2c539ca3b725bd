"""The colours of a picture but those of runs, and how much room letters take.

Contrast: text has at least 4.5 to 1 on its ground, lines that say something 3 to 1.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from asynchub.dashboard.screen import Colour, Level
from asynchub.subscribers.display import one_line

__all__ = ("DARK", "LIGHT", "Look", "room", "shortened", "wrapped")


@dataclass(frozen=True, slots=True)
class Look:
    """Colours, as ``#rrggbb``.

    Attributes:
        dark: whether the ground is dark.
        ground: of the page.
        card: of a chart.
        edge: of a card.
        grid: of lines at ticks.
        ink: of text.
        mute: of text that matters less.
        accent: of what is done of a run.
        good: of what is well.
        warn: of what deserves a look.
        bad: of what is wrong.
        warn_ground: behind a warning.
        bad_ground: behind what is wrong.
    """

    dark: bool
    ground: str
    card: str
    edge: str
    grid: str
    ink: str
    mute: str
    accent: str
    good: str
    warn: str
    bad: str
    warn_ground: str
    bad_ground: str

    def of_run(self, colour: Colour) -> str:
        """Return the colour of a run."""
        return colour.dark if self.dark else colour.light

    def of_level(self, level: Level) -> str:
        """Return the colour of a line of text."""
        return {"good": self.good, "plain": self.ink, "quiet": self.mute, "warn": self.warn, "bad": self.bad}[level]


LIGHT = Look(
    dark=False,
    ground="#f7f7f5",
    card="#ffffff",
    edge="#dcdfe4",
    grid="#eceef1",
    ink="#1d1f23",
    mute="#5f6570",
    accent="#2456c7",
    good="#1b7f4b",
    warn="#955300",
    bad="#b3261e",
    warn_ground="#fff4e0",
    bad_ground="#fdecea",
)
DARK = Look(
    dark=True,
    ground="#14161a",
    card="#1b1e24",
    edge="#343a44",
    grid="#282d35",
    ink="#e7e9ee",
    mute="#a3aab6",
    accent="#8fb0ff",
    good="#63c996",
    warn="#f0b35a",
    bad="#ff8a80",
    warn_ground="#33291a",
    bad_ground="#381f1e",
)

_NARROW = frozenset("ijl.,:;|'!()[]{}· ")
_WIDE = frozenset("mwMW%@—▲▼◆●")


def room(text: str, size: float, bold: bool = False) -> float:
    """Return about how many pixels a line of text takes; rather too many, as fonts differ."""
    ems = 0.0
    for letter in text:
        if letter in _NARROW:
            ems += 0.36
        elif letter in _WIDE:
            ems += 0.92
        elif letter.isupper():
            ems += 0.7
        else:
            ems += 1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.6
    return ems * size * (1.08 if bold else 1.0)


def shortened(text: str, size: float, width: float, bold: bool = False) -> str:
    """Return text on one line, its middle left out where it would be wider than ``width`` pixels."""
    text = one_line(text[:1000])
    if room(text, size, bold) <= width:
        return text
    least, most = 0, len(text)
    while most - least > 1:
        kept = (least + most) // 2
        least, most = (kept, most) if room(_without_middle(text, kept), size, bold) <= width else (least, kept)
    return _without_middle(text, least)


def _without_middle(text: str, kept: int) -> str:
    tail = kept // 3
    return text[: kept - tail].rstrip() + "…" + (text[-tail:].lstrip() if tail else "")


def wrapped(text: str, size: float, width: float, most: int = 2, between: str = " ") -> list[str]:
    """Return text in lines of at most ``width`` pixels, ``most`` lines at most; the last may be shortened.

    Args:
        text: it.
        size: of the letters.
        width: of a line.
        most: how many lines.
        between: where it may be broken.
    """
    lines: list[str] = []
    rest = one_line(text[:4000]).split(between)
    while rest and len(lines) < most - 1:
        count = 1
        while count < len(rest) and room(between.join(rest[: count + 1]), size) <= width:
            count += 1
        lines.append(shortened(between.join(rest[:count]), size, width))
        rest = rest[count:]
    return [*lines, shortened(between.join(rest), size, width)] if rest else lines
