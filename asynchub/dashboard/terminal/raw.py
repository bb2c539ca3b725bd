"""Every event of a run, scrolling, for who wants to see it all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

from asynchub.dashboard.terminal.board import Board
from asynchub.dashboard.terminal.entry import Entry
from asynchub.dashboard.terminal.layout import Rect
from asynchub.dashboard.terminal.look import Look, Piece, clean, strip_of
from asynchub.dashboard.terminal.rawlines import LONGEST_KEY, Tail, event_line
from asynchub.errors import PatternError
from asynchub.events import Event, ScalarUpdated
from asynchub.patterns import matcher
from asynchub.subscribers.display import described, is_failure

try:
    from textual.app import App, ComposeResult
    from textual.binding import Binding, BindingType
    from textual.events import Key, Paste
    from textual.strip import Strip
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("EventApp",)

INTERRUPTED = 130


class EventApp(App[int]):
    """Shows the events of a run.

    Args:
        run: folder of the run; it need not be there yet.
        patterns: of keys; none for all.
        interval: seconds from one drawing to the next.
        look: of the terminal.

    Raises:
        PatternError: a pattern is malformed.
    """

    CSS = "Screen { background: transparent; overflow: hidden; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key, "leave", "Leave", priority=True) for key in ("ctrl+c", "ctrl+q")
    ]

    def __init__(self, run: Path, patterns: Sequence[str], *, interval: float = 0.2, look: Look | None = None) -> None:
        super().__init__(ansi_color=True)
        self.look = Look() if look is None else look
        self.theme = "ansi-dark" if self.look.dark else "ansi-light"
        self.board = Board()
        self._run, self._interval = run, interval
        self._tail = Tail(run, patterns)
        self._entry = Entry("only", "keys such as train/*, or text in a line   Enter: show   Esc: leave")
        self._filter = ""
        self._test: Callable[[Event], bool] = _any
        self._top: int | None = None  # of all events that were seen, the first that is shown; None while it follows
        self._drawn: object = None
        self._wrong = ""

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield self.board

    def on_mount(self) -> None:
        """Begin."""
        self.board.focus()
        self._tail.start()
        self.set_interval(self._interval, self.draw)

    def on_unmount(self) -> None:
        """End."""
        self._tail.stop()

    def on_resize(self) -> None:
        """Lay it out anew."""
        self.call_after_refresh(self.draw)

    def draw(self) -> None:
        """Show what there is, if that is anything new."""
        width, height = self.size
        state = (
            self._tail.seen,
            self._filter,
            self._top,
            width,
            height,
            self._tail.problem,
            self._wrong,
            self._entry.text,
        )
        if state == self._drawn or not width or height < 3:
            return
        self._drawn = state
        look = self.look
        room = height - 2
        numbered = self._chosen(room)
        key_width = max((min(len(clean(event.key)), LONGEST_KEY) for _, event in numbered), default=0)
        lines = [self._line(event, key_width, width) for _, event in numbered]
        lines += [strip_of([], width, look)] * (room - len(lines))
        head: list[Piece] = [(f" {clean(str(self._run))}", look.style("title"))]
        head.append((f"  {self._tail.seen:,} events seen", look.style("quiet")))
        if not self._tail.seen and not self._tail.problem:
            head.append(("  waiting for the first", look.style("warn")))
        if self._tail.problem:
            head.append((f"  {self._tail.problem}", look.style("bad")))
        if self._filter:
            head.append((f"  only {clean(self._filter)}", look.style("key")))
        keys: list[Piece] = [(f" {self._wrong}", look.style("bad"))] if self._wrong else []
        for key, word in (
            ("q", "quit"), ("/", "filter"), ("j k", "scroll"), ("PgUp PgDn", "page"), ("g", "oldest"),
            ("f", "following" if self._top is None else "follow"),
        ):  # fmt: skip
            keys += [(f" {key}", look.style("key")), (f" {word} ", look.style("quiet"))]
        last = strip_of(keys, width, look) if self._entry.text is None else self._entry.line(width, look)
        self.board.put(
            [
                (Rect(0, 0, width, 1), [strip_of(head, width, look)]),
                (Rect(0, 1, width, room), lines),
                (Rect(0, height - 1, width, 1), [last]),
            ]
        )

    def _chosen(self, room: int) -> list[tuple[int, Event]]:
        """Return the events that are shown, and which of all they are."""
        events = list(self._tail.events)
        first = self._tail.seen - len(events)
        found = ((number, event) for number, event in enumerate(events, first) if self._test(event))
        if self._top is None:
            return list(found)[-room:]
        return list(islice((one for one in found if one[0] >= (self._top or 0)), room))

    def _line(self, event: Event, key_width: int, width: int) -> Strip:
        level = "bad" if is_failure(event) else "plain" if isinstance(event, ScalarUpdated) else "quiet"
        if level == "quiet" and described(event) is not None:
            level = "title"
        return strip_of([(" " + event_line(event, key_width), self.look.style(level))], width, self.look)

    def on_key(self, event: Key) -> None:
        """Do what a key stands for."""
        if self._entry.text is not None:
            self._type(event)
            event.stop()
            self.draw()
            return
        room = max(self.size.height - 2, 1)
        acts: dict[str, Callable[[], object]] = {
            "q": lambda: self.exit(0),
            "f": lambda: self._scroll_to(None),
            "end": lambda: self._scroll_to(None),
            "g": lambda: self._scroll_to(0),
            "home": lambda: self._scroll_to(0),
            "j": lambda: self._scroll(1, room),
            "down": lambda: self._scroll(1, room),
            "k": lambda: self._scroll(-1, room),
            "up": lambda: self._scroll(-1, room),
            "pagedown": lambda: self._scroll(room - 1, room),
            "pageup": lambda: self._scroll(1 - room, room),
            "slash": lambda: self._entry.open(self._filter),
        }
        act = acts.get(event.key)
        if act is not None:
            act()
            event.stop()
            event.prevent_default()
            self.draw()

    def action_leave(self) -> None:
        """Leave as Ctrl-C does."""
        self.exit(INTERRUPTED)

    def _scroll_to(self, top: int | None) -> None:
        self._top = top

    def _scroll(self, by: int, room: int) -> None:
        events = list(self._tail.events)
        first = self._tail.seen - len(events)
        numbers = [number for number, event in enumerate(events, first) if self._test(event)]
        if not numbers:
            return
        now = len(numbers) - room if self._top is None else sum(number < self._top for number in numbers)
        at = now + by
        self._top = None if at >= len(numbers) - room else numbers[max(at, 0)]

    def on_paste(self, event: Paste) -> None:
        """Take what is pasted into the filter."""
        if self._entry.text is not None:
            self._entry.paste(event.text)
            self.draw()

    def _type(self, event: Key) -> None:
        """Take a key for the filter: patterns of keys, or text that is looked for in lines."""
        if self._entry.type(event.key, event.character) != "done":
            return
        text = self._entry.take()
        try:
            test = _test_of(text)
        except PatternError as error:
            self._wrong = clean(str(error))
        else:
            self._wrong, self._filter, self._test, self._top = "", text, test, None


def _any(event: Event) -> bool:
    return True


def _test_of(text: str) -> Callable[[Event], bool]:
    """Return the test that a filter stands for.

    Raises:
        PatternError: it has wildcards, and is malformed.
    """
    if not text:
        return _any
    parts = text.replace(",", " ").split()
    if "*" in text or all("/" in part for part in parts):
        wanted = matcher(parts)
        return lambda event: wanted(event.key)
    word = text.casefold()
    return lambda event: word in event_line(event, 0).casefold()
