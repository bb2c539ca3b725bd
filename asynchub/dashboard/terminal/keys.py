"""The keys that can be pressed, the same letters as on the page; what steers is a capital, and always asks back."""

from __future__ import annotations

from asynchub.allowing import Allowed
from asynchub.dashboard.screen import Screen, Steerable
from asynchub.dashboard.terminal.layout import Rect
from asynchub.dashboard.terminal.look import Look, Piece, clean, columns_of, strip_of
from asynchub.dashboard.terminal.viewpoint import Viewpoint

try:
    from textual.strip import Strip
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("HELP", "STEERING", "key_line", "may", "offered")

HELP = (
    ("/", "show the charts of some keys: train, val/*, lr"),
    ("j k", "next chart, chart before (also the arrows)"),
    ("Enter", "one chart large, and back"),
    ("h l", "move to earlier, to later steps"),
    ("+ -", "see fewer steps, more steps"),
    ("g z", "see the whole run; undo the last move or zoom"),
    ("f", "follow the newest step, or stay"),
    ("x", "x axis: step, time, relative time, epoch"),
    ("L y", "y axis: linear, logarithmic; fit all values, or most"),
    ("s", "line: no smoothing, mean of the last steps, EMA"),
    ("< >", "smooth over fewer steps, more steps: 10, 100, ..."),
    ("w", "what if: try a stopping rule on these runs"),
    ("1..9 p", "bring a run to the front; pin it: it is always drawn"),
    ("a m", "zoom to what is wrong, to what was decided, in turn"),
    ("d", "dark or light"),
    ("Esc q", "undo the last change of what is shown; quit"),
)
"""With all that steers, it fits 24 lines."""
STEERING = (
    ("S", "stop", "stop the run"),
    ("R", "rate", "set its learning rate"),
    ("C", "checkpoint", "let it write a checkpoint"),
    ("P", "pause", "pause it, or let it go on"),
    ("V", "set", "set another parameter"),
)
"""Key, a word for it, and what it does."""
WORDS = {"S": ("stop",), "C": ("checkpoint",), "P": ("pause", "resume")}
"""What a key asks for that is no parameter."""


def offered(screen: Screen | None, allowed: Allowed) -> dict[str, str]:
    """Return which steering keys do something now, with a word for each; see ``STEERING``.

    Args:
        screen: of the run; None while there is none.
        allowed: what may be asked from here.
    """
    found: dict[str, str] = {}
    for key, word, _ in STEERING if screen is not None else ():
        there = [one for one in screen.steerable if may(key, one, allowed)] if screen is not None else []
        if there:
            found[key] = there[0].word if key == "P" else word
    return found


def may(key: str, one: Steerable, allowed: Allowed) -> bool:
    """Tell whether a steering key asks for something that a run offers and that is allowed."""
    if one.word == "set":
        return key == ("R" if one.name == "lr" else "V") and allowed.allows_name(one.name)
    return one.word in WORDS.get(key, ()) and one.word in allowed.words


def key_line(
    rect: Rect, view: Viewpoint, key: str, steering: dict[str, str], look: Look, note: str = ""
) -> list[Strip]:
    """Return the line of keys, or a note for a moment.

    Args:
        rect: where it stands.
        view: what is looked at.
        key: of the chart that is chosen.
        steering: the keys that steer, and their words.
        look: of the terminal.
        note: stands in its place, unless it is empty.
    """
    if note:
        return [strip_of([(" " + clean(note), look.style("chosen"))], rect.width, look)]
    hints = [
        ("?", "help"),
        ("q", "quit"),
        ("/", f"filter: {clean(view.filter)}" if view.filter else "filter"),
        ("jk", "chart"),
        ("Enter", "back" if view.large else "large"),
        ("+-", "zoom"),
        ("hl", "move"),
        ("f", "following" if view.follow else "follow"),
        ("x", view.axis),
        ("s", view.smoothing_in_words),
        ("L", "linear" if key in view.logs else "log"),
        ("y", "fit most" if view.fit_all else "fit all"),
        ("w", "what if"),
        ("z", "undo"),
    ]
    if view.filter:
        hints.insert(0, hints.pop(2))
    hints = [*steering.items(), *hints]
    pieces: list[Piece] = []
    room = rect.width - 1
    for letter, word in hints:
        size = columns_of(letter) + 1 + columns_of(word) + 2
        if size > room:
            continue
        pieces += [(" " + letter, look.style("key")), (f" {word} ", look.style("quiet"))]
        room -= size
    return [strip_of(pieces, rect.width, look)]
