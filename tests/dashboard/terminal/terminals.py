"""A pseudo-terminal, with a program in it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ("COMMAND", "WATCH", "Terminal", "terminal")

PATIENCE = 30.0
"""Seconds that something may take on a machine with much else to do."""
ROOT = Path(__file__).parents[3]
WATCH = """
import sys
from pathlib import Path
from asynchub.dashboard.terminal.app import watch
events = sys.argv[1] == "events"
sys.exit(watch([Path(sys.argv[3])], events=events, cache=Path(sys.argv[2])))
"""
"""A program that watches a run; its arguments are ``"events"`` or ``"charts"``, a cache, and the run."""
COMMAND = "import sys; from asynchub.cli import main; sys.exit(main(sys.argv[1:]))"
"""The command itself; its arguments are those of ``asynchub``."""
SEQUENCE = re.compile(rb"\x1b(\[[0-9;?<>=:]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[=>])")


class Terminal:
    """A program in a terminal.

    Attributes:
        pid: of the program.
        output: all that it has written so far.
        file: descriptor of the terminal.
    """

    def __init__(self, pid: int, file: int, colour: bytes) -> None:
        self.pid = pid
        self.output = b""
        self.file = file
        self._colour = colour
        self._asked = False
        self._status: int | None = None

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self.file, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Make the terminal another size."""
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)

    def modes(self) -> list[object]:
        """Return what the terminal does with what is typed."""
        return termios.tcgetattr(self.file)

    def read(self, seconds: float) -> bytes:
        """Return what the program writes next; nothing if that is nothing for so long."""
        if not select.select([self.file], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self.file, 65_536)
        except OSError:  # it has ended
            return b""
        self.output += data
        if not self._asked and b"\x1b[c" in self.output:  # what colour its ground has, and of what kind it is
            self._asked = True
            os.write(self.file, (b"\x1b]11;rgb:" + self._colour + b"\x1b\\" if self._colour else b"") + b"\x1b[?62;22c")
        return data

    def rest(self) -> None:
        """Read until it is quiet for a moment."""
        while self.read(0.2):
            pass

    def until(self, text: str, since: int = 0) -> float:
        """Wait until the program has written some text, but for what is between its letters; return how long.

        Args:
            text: it.
            since: bytes of the output that do not count.
        """
        began = time.monotonic()
        while text not in self.text(since):
            if time.monotonic() > began + PATIENCE:
                raise AssertionError(f"{text!r} did not come: {self.text(since)[-3000:]}")
            self.read(0.05)
        return time.monotonic() - began

    def text(self, since: int = 0) -> str:
        """Return what the program has written, without escape sequences."""
        return SEQUENCE.sub(b"", self.output[since:]).decode("utf-8", "replace")

    def end(self) -> int:
        """Wait until the program ends; return its exit status, negative for a signal."""
        deadline = time.monotonic() + PATIENCE
        while self._status is None:
            self.read(0.02)
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self._status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise AssertionError(f"it did not end: {self.text()[-3000:]}")
        while self.read(0.05):
            pass
        return self._status

    def close(self) -> None:
        """End the program, if it has not."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.file)


@contextmanager
def terminal(
    program: str,
    *arguments: str | Path,
    size: tuple[int, int] = (160, 46),
    environment: Mapping[str, str] | None = None,
    colour: bytes = b"0000/0000/0000",
) -> Iterator[Terminal]:
    """Run a program of Python in a terminal.

    Args:
        program: its text.
        arguments: its arguments.
        size: columns and lines.
        environment: what it has in its environment beside what this process has, but for ``NO_COLOR``.
        colour: of the ground, as a terminal tells it; empty for one that does not answer.
    """
    command: Sequence[str] = [sys.executable, "-c", program, *map(str, arguments)]
    pid, file = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        kept |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONUTF8": "1"} | dict(environment or {})
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        os.execve(sys.executable, command, kept)  # not what a library may have put there, such as COLUMNS
    shown = Terminal(pid, file, colour)
    try:
        yield shown
    finally:
        shown.close()
