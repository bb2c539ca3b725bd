"""Whether the ground of the terminal is dark, as it says itself.

It is asked for its colour, and for its kind, which every terminal answers: so the wait ends with that answer, and what
it said is not left for others to read. Where there is no answer, ``COLORFGBG`` tells, and else it is dark.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time

__all__ = ("is_dark",)

ASK = b"\x1b]11;?\x1b\\\x1b[c"
PATIENCE = 2.0
"""Seconds to wait for an answer at most: one that came later would be taken for keys."""
COLOUR = re.compile(rb"\x1b\]11;rgba?:([0-9a-fA-F]+)/([0-9a-fA-F]+)/([0-9a-fA-F]+)")
KIND = re.compile(rb"\x1b\[\?[0-9;]*c")
LIGHT_NUMBERS = {"7", "15"}
"""Of the sixteen colours, those that are light grounds."""


def is_dark() -> bool:
    """Return whether the ground is dark. Waits two seconds at most, where nothing answers."""
    answer = _asked()
    found = COLOUR.search(answer)
    if found is not None:
        red, green, blue = (int(part, 16) / (16 ** len(part) - 1) for part in found.groups())
        return bool(0.299 * red + 0.587 * green + 0.114 * blue < 0.5)
    return os.environ.get("COLORFGBG", "").rpartition(";")[2] not in LIGHT_NUMBERS


def _asked() -> bytes:
    """Return what the terminal answers."""
    if sys.platform == "win32" or os.environ.get("TERM", "dumb") in ("dumb", "linux"):
        return b""
    import termios
    import tty

    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:  # there is none
        return b""
    answer = b""
    try:
        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal, termios.TCSANOW)
            os.write(terminal, ASK)
            until = time.monotonic() + PATIENCE
            while KIND.search(answer) is None and (left := until - time.monotonic()) > 0:
                if not select.select([terminal], [], [], left)[0]:
                    break
                answer += os.read(terminal, 1024)
        finally:
            termios.tcsetattr(terminal, termios.TCSANOW, before)
    except (OSError, termios.error):
        return b""
    finally:
        os.close(terminal)
    return answer
