"""A live display of Rich at the bottom of a terminal, with what the program prints and logs above it.

What is covered is said in ``asynchub.redirecting``. Nothing is drawn but by ``refresh``: no thread is started.
Ends: the display is stopped, the streams are put back and the cursor is given back, also by an error.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TextIO

from asynchub.redirecting import AboveBar, above_bar

try:
    from rich.ansi import AnsiDecoder
    from rich.console import Console, RenderableType
    from rich.errors import LiveError
    from rich.live import Live
    from rich.text import Text
except ImportError as error:
    raise ImportError("a live display needs rich: python -m pip install 'asynchub[rich]'") from error

__all__ = ("AboveRich", "Display", "live_display")


class AboveRich(AboveBar):
    """A stream of a terminal on which there is a live display of Rich.

    Rich's own redirection folds long lines, leaves the handlers of ``logging`` where they are, takes a flush for the
    end of a line, and tears what is printed while a frame of another height is drawn.

    Args:
        console: where the display is.
        lock: held by whoever writes there: Rich works out where to go before it goes there.
        stream: the stream itself.
    """

    def __init__(self, console: Console, lock: threading.RLock, stream: TextIO) -> None:
        super().__init__(stream)
        self.rich_proxied_file = stream  # where Rich itself writes
        self._console = console
        self._lock = lock
        self._decoder = AnsiDecoder()

    def put(self, lines: str) -> None:
        with self._lock:
            text = Text("\n").join(map(self._decoder.decode_line, lines[:-1].split("\n")))
            self._console.print(text, soft_wrap=True)


class Display:
    """A display that is shown; any thread may refresh it."""

    def __init__(self, live: Live, lock: threading.RLock) -> None:
        self._live = live
        self._lock = lock

    def refresh(self) -> None:
        """Draw it anew."""
        with self._lock:
            self._live.refresh()


@contextmanager
def live_display(
    console: Console, drawn: Callable[[], RenderableType], lock: threading.RLock
) -> Iterator[Display | None]:
    """Show a display while the context is entered; None, and nothing is shown, if there is no room for one.

    There is none without a terminal, and where another display, or a bar, had it first.

    Args:
        console: where.
        drawn: returns what is shown, each time that it is drawn.
        lock: held while it is drawn, and by whoever else writes to the console meanwhile.
    """
    if hasattr(sys.stdout, "rich_proxied_file") or isinstance(console.file, AboveBar) or not console.is_terminal:
        yield None
        return
    live = Live(
        console=console,
        auto_refresh=False,  # its thread would draw while somebody prints
        get_renderable=drawn,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with ExitStack() as stack:
        stack.enter_context(above_bar(partial(AboveRich, console, lock)))
        try:
            with lock:
                live.start(refresh=True)
        except LiveError:  # Rich before 14.1 shows one at a time, and this one does not redirect
            stack.close()
            yield None
            return
        stack.callback(_stop, live, lock)
        yield Display(live, lock)


def _stop(live: Live, lock: threading.RLock) -> None:
    with lock:
        live.stop()
