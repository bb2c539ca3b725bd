"""A line that somebody types at the lower edge of the terminal."""

from __future__ import annotations

from typing import Literal

from asynchub.dashboard.terminal.look import Look, clean, strip_of

try:
    from textual.strip import Strip
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("Entry",)

LONGEST = 300


class Entry:
    """Takes what is typed, at once: there is no widget that has to come first.

    Attributes:
        text: as far as it is typed; None while nothing is asked for.

    Args:
        question: what stands before it.
        hint: what stands after it.
    """

    def __init__(self, question: str, hint: str) -> None:
        self.text: str | None = None
        self._question, self._hint = question, hint

    def open(self, text: str) -> None:
        """Begin with a text."""
        self.text = text

    def type(self, key: str, letter: str | None) -> Literal["going", "done", "left"]:
        """Take a key; return whether that was all, and whether it counts.

        Args:
            key: its name.
            letter: that it stands for, if it does.
        """
        text = self.text or ""
        if key == "enter":
            return "done"
        if key == "escape":
            self.text = None
            return "left"
        if key == "backspace":
            self.text = text[:-1]
        elif key == "ctrl+u":
            self.text = ""
        elif letter is not None and letter.isprintable():
            self.paste(letter)
        return "going"

    def paste(self, text: str) -> None:
        """Take several letters."""
        self.text = ((self.text or "") + clean(text))[:LONGEST]

    def take(self) -> str:
        """Return what was typed, and end."""
        text, self.text = (self.text or "").strip(), None
        return text

    def line(self, width: int, look: Look) -> Strip:
        """Return it as a line."""
        pieces = [
            (f" {self._question} ", look.style("key")),
            (clean(self.text or ""), look.style("title")),
            ("▏", look.style("chosen")),
            (f"   {self._hint}", look.style("quiet")),
        ]
        return strip_of(pieces, width, look)
