"""A small terminal, to see what a program that ran in a real pty has left on it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios

SEQUENCE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Terminal:
    """What a terminal of so many columns and rows shows, with all that has scrolled out above.

    It knows printing with wrapping, CR, LF, cursor up and down, erase in line, colours, and hiding the cursor; anything
    else is an error. The cursor cannot go above the rows of the screen: what has scrolled out can no longer change.
    """

    def __init__(self, columns: int = 100, rows: int = 40) -> None:
        self.columns, self.rows = columns, rows
        self.cursor_hidden = False
        self._lines: list[list[str]] = [[]]
        self._wrapped: set[int] = set()  # lines that go on in the next
        self._row = self._column = 0

    def feed(self, text: str) -> Terminal:
        at = 0
        while at < len(text):
            if match := SEQUENCE.match(text, at):
                self._obey(*match.groups())
                at = match.end()
            else:
                self._put(text[at])
                at += 1
        return self

    def _obey(self, arguments: str, letter: str) -> None:
        top = max(len(self._lines) - self.rows, 0)
        if letter == "A":
            self._row = max(self._row - int(arguments or 1), top)
        elif letter == "B":
            self._row = min(self._row + int(arguments or 1), top + self.rows - 1)
            self._grow()
        elif letter == "K":
            line = self._lines[self._row]
            if arguments == "2":
                line.clear()
            elif arguments == "1":
                line[: self._column + 1] = " " * (self._column + 1)
            else:
                del line[self._column :]
            self._wrapped.discard(self._row)
        elif letter in "hl" and arguments == "?25":
            self.cursor_hidden = letter == "l"
        else:
            assert letter == "m", f"unknown sequence {arguments}{letter}"

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self._column = 0
        elif letter == "\n":
            self._row, self._column = self._row + 1, 0
            self._grow()
        else:
            assert letter.isprintable(), f"unknown letter {letter!r}"
            if self._column == self.columns:  # only now: a line that just fits takes no other
                self._wrapped.add(self._row)
                self._row, self._column = self._row + 1, 0
                self._grow()
            line = self._lines[self._row]
            line += " " * (self._column + 1 - len(line))
            line[self._column] = letter
            self._column += 1

    def _grow(self) -> None:
        self._lines += [[] for _ in range(self._row + 1 - len(self._lines))]

    def lines(self) -> list[str]:
        """Return the lines as they were written, whatever the terminal wrapped, without the empty ones."""
        found, begun = [], ""
        for row, line in enumerate(self._lines):
            begun += "".join(line)
            if row not in self._wrapped:
                found.append(begun.rstrip())
                begun = ""
        return [line for line in found if line]


def run_in_terminal(script: str, columns: int = 100, rows: int = 40, **environment: str) -> str:
    """Return what ``script`` writes to a terminal of its own, of that size; 0 for one that does not know its size."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (rows, columns))
    known = {"COLUMNS": str(columns or 80), "LINES": str(rows or 24), "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **known, **environment},
    ):
        os.close(slave)
        out = b""
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not chunk:
                break
            out += chunk
        os.close(master)
    return out.decode()
