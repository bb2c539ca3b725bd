"""What a view of a pipeline is made of: pieces of text with a role each, numbers and times as people read them, bars.

Widths: in columns of a terminal, of which a wide letter takes two.
Unknown: a number that is None, or not finite, is a dash, never 0.
Plain: everything made here is ASCII; names stay as they are, without what would command a terminal. Who draws may put
    other letters in the place of those of the bars, one for one, by their roles.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

__all__ = (
    "UNKNOWN",
    "Line",
    "Span",
    "clean",
    "count",
    "cut_line",
    "duration",
    "fill_bar",
    "fitted",
    "known",
    "milliseconds",
    "percent",
    "rate",
    "share_bar",
    "shortened",
    "size",
    "text_of",
    "time_of_day",
    "width_of",
    "wrapped",
)

UNKNOWN = "-"
"""Stands for a number that is not known."""
STARVED, BUSY, BLOCKED = ".", "#", "-"
FULL, FREE = "#", "."


class Span(NamedTuple):
    """A piece of text, and what it is: the name of a role, such as ``"busy"`` or ``"alarm"``; empty for plain text."""

    text: str
    role: str = ""


Line = tuple[Span, ...]
"""A line of text, in pieces."""


# --- text


def clean(value: object) -> str:
    """Return a name or a sentence without line ends and control characters."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def width_of(text: str) -> int:
    """Return how many columns a text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def text_of(line: Iterable[Span]) -> str:
    """Return a line as text, without what is blank at its end."""
    return "".join(span.text for span in line).rstrip()


def fitted(text: str, width: int) -> str:
    """Return the beginning of a text, with dots at its end if it is wider than ``width``."""
    if width_of(text) <= width:
        return text
    dots = "..."[: max(width, 0)]
    kept, room = "", width - len(dots)
    for letter in text:
        room -= _columns(letter)
        if room < 0:
            break
        kept += letter
    return kept + dots


def shortened(name: str, width: int) -> str:
    """Return a name without its middle if it is wider than ``width``: how it ends tells it from others as well."""
    if width_of(name) <= width or width < 6:
        return fitted(name, width)
    end, room = "", (width - 2) // 2
    for letter in reversed(name):
        room -= _columns(letter)
        if room < 0:
            break
        end = letter + end
    return f"{_beginning(name, width - 2 - width_of(end))}..{end}"


def cut_line(line: Iterable[Span], width: int) -> Line:
    """Return the beginning of a line, with dots at its end if it is wider than ``width``."""
    spans = tuple(line)
    if width_of("".join(span.text for span in spans).rstrip()) <= width:
        return spans
    kept: list[Span] = []
    room = width
    for span in spans:
        needed = width_of(span.text)
        if needed >= room:  # more follows, or it is too long itself
            kept.append(Span(fitted(span.text + "....", room), span.role))
            break
        kept.append(span)
        room -= needed
    return tuple(kept)


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """Return a sentence in lines, at most so many, each at most so wide; the last has dots if there is more."""
    found: list[str] = []
    line = ""
    for word in clean(text).split():
        while word:
            longer = f"{line} {word}" if line else word
            if width_of(longer) <= width:
                line, word = longer, ""
            elif line:
                found.append(line)
                line = ""
            else:  # one word, such as a path, that has no room
                part = _beginning(word, width)
                found.append(part)
                word = word[len(part) :]
    found += [line] if line else []
    if len(found) > lines:
        found[lines - 1 :] = [fitted(" ".join(found[lines - 1 :]), width)]
    return found


def _beginning(word: str, width: int) -> str:
    kept, room = "", max(width, 2)
    for letter in word:
        room -= _columns(letter)
        if room < 0:
            break
        kept += letter
    return kept


# --- numbers


def known(value: Any) -> float | None:
    """Return a number, if that is what ``value`` is, and finite; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def rate(value: Any) -> str:
    """Return a number per second: one digit behind the point, more of what is tiny, none of what is large."""
    number = known(value)
    if number is None:
        return UNKNOWN
    magnitude = abs(number)
    if 0 < magnitude < 0.095:
        return _tiny(number)
    return f"{number:.1f}" if magnitude < 999.95 else _large(number)


def milliseconds(value: Any) -> str:
    """Return a number of milliseconds: whole from 10 on, else with one digit behind the point, more of what is tiny."""
    number = known(value)
    if number is None:
        return UNKNOWN
    magnitude = abs(number)
    if 0 < magnitude < 0.095:
        return _tiny(number)
    return f"{number:.1f}" if magnitude < 9.95 else _large(number)


def count(value: Any) -> str:
    """Return a count: whole up to 99999, then short."""
    number = known(value)
    return UNKNOWN if number is None else _large(number)


def size(value: Any) -> str:
    """Return bytes, in units of 1000."""
    number = known(value)
    if number is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(number) < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or abs(number) >= 9.95 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{_large(number)} PB"


def _tiny(number: float) -> str:
    return f"{number:.2f}" if abs(number) >= 0.0095 else f"{number:.3f}" if abs(number) >= 0.0005 else f"{number:.0e}"


def _large(number: float) -> str:
    magnitude = abs(number)
    if magnitude < 99_999.5:
        return f"{number:.0f}"
    for unit in ("k", "M", "G"):
        number /= 1000
        if abs(number) < 999.5:
            return f"{number:.0f}{unit}" if abs(number) >= 99.5 else f"{number:.1f}{unit}"
    return f"{number:.0e}G"


def percent(value: Any) -> str:
    """Return a share as a percentage, whole; ``"<1 %"`` of what is above 0 and would be shown as 0."""
    number = known(value)
    if number is None:
        return UNKNOWN
    if 0 < number < 0.005:
        return "<1 %"
    return f"{100 * number:.0f} %" if abs(number) < 999.5 else f"{_large(100 * number)} %"


def duration(value: Any) -> str:
    """Return seconds as people say them: ``0.4 s``, ``12 s``, ``3 min``, ``2 h 05 min``, ``3 d 04 h``; an int whole."""
    number = known(value)
    if number is None:
        return UNKNOWN
    number = max(number, 0.0)
    if isinstance(value, int) and number < 100:
        return f"{number:.0f} s"
    if number < 99.5:
        return f"{_tiny(number) if 0 < number < 0.095 else f'{number:.{1 if number < 9.95 else 0}f}'} s"
    minutes = round(number / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(number / 3600)
    return f"{hours // 24} d {hours % 24:02} h" if hours < 24_000 else f"{_large(hours / 24)} d"


def time_of_day(seconds: Any) -> str:
    """Return a moment, in seconds since the epoch, as local time of day; eight columns."""
    number = known(seconds)
    try:
        return "--:--:--" if number is None else datetime.fromtimestamp(number).strftime("%H:%M:%S")
    except (OverflowError, OSError, ValueError):  # a year that the calendar lacks
        return "--:--:--"


# --- bars


def share_bar(starved: Any, busy: Any, blocked: Any, width: int) -> Line:
    """Return a bar of three shares, in the order starved, busy, blocked; what is not known is blank."""
    shares = [min(max(known(value) or 0.0, 0.0), 1.0) for value in (starved, busy, blocked)]
    whole = max(sum(shares), 1.0)
    cells = _shared([value / whole for value in shares], width)
    pieces = zip((STARVED, BUSY, BLOCKED), ("starved", "busy", "blocked"), cells, strict=True)
    spans = [Span(letter * number, role) for letter, role, number in pieces if number]
    return (*spans, Span(" " * (width - sum(cells))))


def fill_bar(fill: Any, width: int) -> Line:
    """Return a bar of how full something is; blank if that is not known."""
    share = known(fill)
    if share is None:
        return (Span(" " * width),)
    share = min(max(share, 0.0), 1.0)
    full = max(round(share * width), 1 if share else 0)
    return (Span(FULL * full, "full"), Span(FREE * (width - full), "free"))


def _shared(shares: Sequence[float], width: int) -> list[int]:
    """Return whole numbers of cells, in the proportions of the shares; what is left over goes to the largest rests."""
    exact = [share * width for share in shares]
    cells = [int(one) for one in exact]
    left = round(min(sum(exact), width)) - sum(cells)
    for index in sorted(range(len(exact)), key=lambda one: cells[one] - exact[one])[: max(left, 0)]:
        cells[index] += 1
    return cells
