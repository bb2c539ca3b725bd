"""How things look in a terminal: its letters, its colours on a dark or a light ground, text that does no harm there.

Harmless: what comes from a run is of one line, without control characters, escapes and marks that turn the direction of
    writing, and as wide as it says.
Plain: a terminal whose encoding lacks the letters of frames and curves gets ASCII; where ``NO_COLOR`` is set, nothing
    has a colour, and what matters is said in words, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.screen import Colour, Level
from asynchub.subscribers.display import one_line

try:
    from rich.cells import cell_len, set_cell_size
    from rich.segment import Segment
    from rich.style import Style
    from textual.strip import Strip
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = (
    "ASCII_OF_DOTS",
    "LEVEL_SIGNS",
    "Look",
    "Piece",
    "clean",
    "columns_of",
    "cut",
    "narrow",
    "strip_of",
    "wrapped",
)

BLANK = 0x2800
LONGEST = 2_000
"""Letters of a text that are looked at: no line of a terminal shows as many."""
FORTH = {
    "●": "*", "○": "o", "☻": "@", "✕": "x", "↻": "r", "▲": "^", "▼": "v", "▽": "v", "◆": "#", "→": ">", "←": "<",
    "━": "=", "─": "-", "┄": "-", "┈": ".", "·": ".", "│": "|", "┊": ":", "┆": ":", "╭": "+", "╮": "+", "╰": "+",
    "╯": "+", "┏": "+", "┓": "+", "┗": "+", "┛": "+", "┃": "|", "…": "~", "÷": "/", "µ": "u",
    "╍": "-", "┅": ".", "▏": "_", "\N{MULTIPLICATION SIGN}": "x",
    "▸": ">", "—": "-", "\N{EN DASH}": "-", "\N{MINUS SIGN}": "-", "≤": "<=", "≥": ">=", "█": "#", "░": ".",
}  # fmt: skip
"""What stands in ASCII for a letter of ours."""
LEVEL_SIGNS: dict[Level, str] = {"good": "●", "plain": "●", "quiet": "·", "warn": "▲", "bad": "▲"}
"""What stands before a line that asks for attention, so that its colour need not be seen."""

DARK = {
    "plain": "#d8dce3", "quiet": "#8b93a1", "good": "#62c98a", "warn": "#e8ae55", "bad": "#ff8078", "title": "#ffffff",
    "frame": "#454c58", "chosen": "#8fa8ff", "grid": "#343a44", "key": "#8fa8ff",
}  # fmt: skip
LIGHT = {
    "plain": "#20242b", "quiet": "#5d6572", "good": "#146c37", "warn": "#8a5300", "bad": "#b3261e", "title": "#000000",
    "frame": "#b4bac4", "chosen": "#2f4fd0", "grid": "#dde1e7", "key": "#2f4fd0",
}  # fmt: skip
BOLD = {"title", "bad", "chosen", "key"}
GROUND = {True: (20, 22, 27), False: (255, 255, 255)}
FADE, BAND = 0.5, 0.25
"""How much of a run's colour the range around its line has: in dots, and as the ground of letters that it fills."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a terminal can show.

    Attributes:
        dark: whether its ground is.
        letters: whether it has those of frames and of braille; else ASCII only.
        colours: whether it shall have colours.
    """

    dark: bool = True
    letters: bool = True
    colours: bool = True

    @classmethod
    def of_terminal(cls, dark: bool) -> Look:
        """Return what the terminal of this process can show."""
        encoding = (getattr(sys.__stderr__, "encoding", None) or "ascii").lower().replace("-", "")
        letters = encoding.startswith("utf") and os.environ.get("TERM") != "linux"  # its font has no braille
        return cls(dark, letters, "NO_COLOR" not in os.environ)

    def style(self, name: str) -> Style:
        """Return the style of a name or a level."""
        return _style(name, self.dark, self.colours)

    def run(self, colour: Colour, strong: bool, under: Colour | None = None) -> Style:
        """Return the style of a run's line, or of the range around it.

        Args:
            colour: of the run.
            strong: whether it is the line.
            under: of the run whose range fills the letter; None for none.
        """
        ground = None if under is None else under.dark if self.dark else under.light
        return _of_run(colour.dark if self.dark else colour.light, self.dark, strong, self.colours, ground)

    def text(self, text: str) -> str:
        """Return text in letters that the terminal has."""
        if self.letters or text.isascii():
            return text
        return "".join(one if one.isascii() else FORTH.get(one, "?") for one in text)


@lru_cache(256)
def _style(name: str, dark: bool, colours: bool) -> Style:
    if not colours:
        return Style(bold=name in BOLD or name == "warn", dim=name in ("quiet", "grid", "frame"))
    return Style(color=(DARK if dark else LIGHT)[name], bold=name in BOLD or None)


@lru_cache(256)
def _of_run(text: str, dark: bool, strong: bool, colours: bool, under: str | None) -> Style:
    if not colours:
        return Style(bold=strong or None)
    return Style(
        color=text if strong else _faded(text, dark, FADE), bgcolor=None if under is None else _faded(under, dark, BAND)
    )


def _faded(text: str, dark: bool, part: float) -> str:
    """Return a colour of which only a part is left; the rest is of the ground."""
    colour = (int(text[start : start + 2], 16) for start in (1, 3, 5))
    mixed = (round(part * one + (1 - part) * under) for one, under in zip(colour, GROUND[dark], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


# --- text


@lru_cache(4096)
def clean(text: str) -> str:
    """Return what comes from a run as text of one line that does no harm in a terminal."""
    return one_line(text[:LONGEST].encode("utf-8", "replace").decode())


def narrow(text: str) -> str:
    """Return text in which each letter is one column wide."""
    text = clean(text)
    return text if cell_len(text) == len(text) else "".join(one if cell_len(one) == 1 else "?" for one in text)


def columns_of(text: str) -> int:
    """Return how many columns a text takes."""
    return cell_len(text)


def cut(text: str, width: int) -> str:
    """Return text that takes ``width`` columns at most, with a sign where something was cut off."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…" if width > 1 else text[:0] if width < 1 else "…"


def wrapped(text: str, width: int, most: int) -> list[str]:
    """Return text in lines of at most ``width`` columns, the last of ``most`` cut."""
    lines: list[str] = []
    words = text.split(" ")
    while words and len(lines) < most:
        line = words.pop(0)
        while words and cell_len(line) + 1 + cell_len(words[0]) <= width:
            line += " " + words.pop(0)
        lines.append(line)
    if words and lines:
        lines[-1] += " " + " ".join(words)
    return [cut(line, width) for line in lines]


Piece = tuple[str, Style]
"""Text, and how it looks."""


def strip_of(pieces: Iterable[Piece], width: int, look: Look) -> Strip:
    """Return a line of a width, cut or filled up."""
    segments: list[Segment] = []
    left = width
    for text, style in pieces:
        text = look.text(text)
        size = cell_len(text)
        if size > left:
            text = look.text(cut(text, left))
            size = cell_len(text)
        if size:
            segments.append(Segment(text, style))
            left -= size
        if left <= 0:
            break
    if left > 0:
        segments.append(Segment(" " * left))
    return Strip(segments, width)


def _ascii_of_dots() -> Array:
    """Return the ASCII letter that is most like each letter of braille."""
    table = np.full(256, ord(" "), np.uint32)
    rows = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    for bits in range(1, 256):
        where = [number for number, row in enumerate(rows) if any(bits & bit for bit in row)]
        high, low = where[0], where[-1]
        letter = "'" if low <= 1 else "." if high >= 2 else "-" if low - high == 1 else ":" if low - high == 2 else "|"
        if bits.bit_count() >= 6:
            letter = "#"
        table[bits] = ord(letter)
    return table


ASCII_OF_DOTS = _ascii_of_dots()
"""Numbers of the letters in ASCII, by the dots of a letter of braille."""
