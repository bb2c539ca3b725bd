"""``asynchub watch``: runs in a terminal, live; without a terminal, in plain lines.

The terminal is left as it was, also after an error, Ctrl-C or a signal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from asynchub.dashboard.terminal.ground import is_dark
from asynchub.dashboard.terminal.look import Look
from asynchub.dashboard.terminal.plain import watch_in_lines
from asynchub.dashboard.terminal.raw import EventApp
from asynchub.dashboard.terminal.trying import WhatIf
from asynchub.dashboard.terminal.watching import Watch
from asynchub.errors import ArgumentError

try:
    from textual.app import App
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("watch",)


def _print(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def watch(
    runs: Sequence[Path],
    *,
    allow: Sequence[str] = (),
    events: bool = False,
    patterns: Sequence[str] = (),
    interval: float = 0.2,
    cache: Path | None = None,
    write: Callable[[str], object] = _print,
    what_if: WhatIf | None = None,
) -> int:
    """Show runs in this terminal until somebody leaves; without a terminal, in plain lines until they end.

    Args:
        runs: folders of runs, or of several; they need not be there yet.
        allow: what may be asked of the runs: ``"stop"``, ``"lr"``, ``"checkpoint"``, ``"pause"``, ``"set/NAME"``.
        events: show every event of the first run instead.
        patterns: key patterns of these events; none for all.
        interval: seconds from one state to the next, above 0.
        cache: folder for what viewers keep; default as of ``Pyramid``.
        write: called with each plain line.
        what_if: tries a rule on runs; None if that is not to be offered.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.

    Raises:
        ArgumentError: an argument is out of range.
        PatternError: a pattern is malformed.
        OSError: the terminal cannot be used.
    """
    if not runs:
        raise ArgumentError("give the folder of a run, or one in which there are some")
    if events and len(runs) > 1:
        raise ArgumentError(f"--events shows one run, got {len(runs)}")
    if not interval > 0:  # also refuses NaN
        raise ArgumentError(f"interval must be above 0 s, got {interval}")
    if not all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__)):
        return watch_in_lines(runs, events=events, patterns=patterns, interval=interval, cache=cache, write=write)
    look = Look.of_terminal(is_dark())
    app: App[int]
    if events:
        app = EventApp(runs[0], patterns, interval=interval, look=look)
    else:
        app = Watch(runs, allow=allow, interval=interval, cache=cache, look=look, what_if=what_if)
    status = app.run()
    return status if status is not None else app.return_code or 0
