"""What a program prints while a bar is on its terminal: whole lines, above the bar.

Covered: whatever goes through ``sys.stdout`` and ``sys.stderr``, from any thread, and the handlers of ``logging`` that
    were given either of them before. A line appears when its newline comes, or at the end.
Not covered: what is written to the terminal by other means: ``os.write``, code in C, other processes.
Ends: everything is put back, unless the program has put something else there meanwhile; whoever still holds a stream
    of this module writes straight through it. A forked child does from the start.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO, cast

__all__ = ("AboveBar", "above_bar")


class AboveBar(io.TextIOBase):
    """Stands for a stream of the terminal on which a bar is; for each library of bars there is a subclass.

    Args:
        stream: the stream itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self._wrapped = stream  # tqdm knows by this name that two objects are the same stream
        self._process = os.getpid()
        self._begun: dict[int, str] = {}  # by thread: a line whose end has not come
        self._inside = threading.local()
        self.shown = True

    @abstractmethod
    def put(self, lines: str) -> None:
        """Write whole lines, with the bar out of their way."""

    def drawing(self) -> bool:
        """Tell whether the running code is what draws a bar, and must write as it pleases."""
        return False

    @property
    def stream(self) -> TextIO:
        """The stream itself."""
        return self._wrapped

    def __eq__(self, other: object) -> bool:
        """Tell whether ``other`` is the same stream, or stands for it."""
        return self._wrapped is getattr(other, "_wrapped", other)

    def __hash__(self) -> int:
        return hash(self._wrapped)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property there, an attribute here
        return self._wrapped.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._wrapped.errors

    def write(self, text: str, /) -> int:
        """Write the lines that ``text`` ends, above the bar; keep what begins another."""
        if not self.shown or os.getpid() != self._process or getattr(self._inside, "here", False) or self.drawing():
            return self._wrapped.write(text)
        thread = threading.get_ident()
        lines, newline, begun = (self._begun.pop(thread, "") + text).rpartition("\n")
        if begun:
            self._begun[thread] = begun
        if newline:
            self._inside.here = True
            try:
                self.put(lines + newline)
            finally:
                self._inside.here = False
        return len(text)

    def end(self) -> None:
        """Write what was begun, and from now on write straight through."""
        self.shown = False
        for text in list(self._begun.values()):
            self._wrapped.write(text + "\n")
        self._begun.clear()
        self._wrapped.flush()

    def flush(self) -> None:
        """Flush the stream; a line that was begun stays here until its end comes."""
        self._wrapped.flush()

    def fileno(self) -> int:
        return self._wrapped.fileno()

    def isatty(self) -> bool:
        return self._wrapped.isatty()

    def writable(self) -> bool:
        return True


@contextmanager
def above_bar(stands_for: Callable[[TextIO], AboveBar]) -> Iterator[None]:
    """Have what the program prints to a terminal, and logs there, appear above a bar.

    Args:
        stands_for: makes what is put in the place of a stream.
    """
    with ExitStack() as stack:
        swapped: dict[TextIO, TextIO] = {}
        for name in ("stdout", "stderr"):
            before = getattr(sys, name)
            if before is None or not before.isatty():
                continue
            stream = _innermost(before)
            above = stands_for(stream)
            setattr(sys, name, above)
            stack.callback(_put_back, name, above, before)
            swapped[stream] = cast("TextIO", above)
        stack.enter_context(_logging_through(swapped))
        yield


def _put_back(name: str, above: AboveBar, before: TextIO) -> None:
    above.end()
    if getattr(sys, name) is above:
        setattr(sys, name, before if not isinstance(before, AboveBar) or before.shown else before.stream)


def _innermost(stream: TextIO) -> TextIO:
    """Return what ``stream`` stands for, to this module or to Rich."""
    inner: TextIO = getattr(stream, "rich_proxied_file", stream)
    return inner.stream if isinstance(inner, AboveBar) else inner


@contextmanager
def _logging_through(swapped: Mapping[TextIO, TextIO]) -> Iterator[None]:
    """Have the handlers of ``logging`` write to the values of ``swapped`` where they write to its keys."""
    loggers: list[Any] = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for one in loggers for handler in getattr(one, "handlers", ())}
    changed: list[tuple[logging.StreamHandler[Any], TextIO, TextIO]] = []
    for handler in handlers:
        if isinstance(handler, logging.StreamHandler) and type(handler) is not logging.FileHandler:
            for stream, other in swapped.items():
                if handler.stream is stream:
                    handler.setStream(other)
                    changed.append((handler, stream, other))
                    break
    try:
        yield
    finally:
        for handler, stream, other in changed:
            if handler.stream is other:
                handler.setStream(stream)
