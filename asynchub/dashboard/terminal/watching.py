"""The live view of runs: the same facts, curves and letters as on the page.

Harmless: runs are only read, unless something is allowed, asked for, and confirmed; then a request is written down.
Calm: five times a second at most, what changed is drawn again; another thread does the reading, in slices, so that a
    key is answered at once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from asynchub.dashboard.asking import allowed_by
from asynchub.dashboard.terminal.board import Block, Board
from asynchub.dashboard.terminal.dialogs import Answer, Confirm, Help
from asynchub.dashboard.terminal.entry import Entry
from asynchub.dashboard.terminal.feed import Feed, Shown, Wanted
from asynchub.dashboard.terminal.keys import key_line, offered
from asynchub.dashboard.terminal.layout import Layout, laid_out
from asynchub.dashboard.terminal.look import Look
from asynchub.dashboard.terminal.moves import moved
from asynchub.dashboard.terminal.news import news_of
from asynchub.dashboard.terminal.panels import (
    alert_lines,
    chart_lines,
    foot_lines,
    foot_size,
    footer_size,
    head_lines,
    head_size,
)
from asynchub.dashboard.terminal.places import Place, alerts_of, decisions_of
from asynchub.dashboard.terminal.steering import confirmation, send
from asynchub.dashboard.terminal.trial_dialog import TrialDialog
from asynchub.dashboard.terminal.trying import Trying, WhatIf
from asynchub.dashboard.terminal.viewpoint import Trail, Viewpoint
from asynchub.errors import AsyncHubError

try:
    from textual.app import App, ComposeResult
    from textual.binding import Binding, BindingType
    from textual.events import Click, Key, Paste, Resize
    from textual.message import Message
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("Watch",)

NOTE_SECONDS = 4.0
READ_ONLY = "read only: start it with --allow stop,lr,checkpoint,pause to steer"
NO_WHAT_IF = "no rule can be tried from here"
NOT_OFFERED = "the run does not offer that, or it was not allowed at the start"
MOST_CHARTS = 6
INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell has it."""
ARROWS = {"left": "h", "right": "l", "down": "j", "up": "k", "enter": "\r", "escape": "\x1b"}


class Watch(App[int]):
    """The terminal view.

    Args:
        runs: folders of runs, or of several.
        allow: what may be asked of them.
        interval: seconds from one state to the next.
        cache: folder for what viewers keep.
        look: of the terminal.
        what_if: tries a rule on runs; None if that is not to be offered.

    Raises:
        ArgumentError: ``allow`` has what cannot be asked for.
    """

    CSS = "Screen { background: transparent; overflow: hidden; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key, "leave", "Leave", priority=True) for key in ("ctrl+c", "ctrl+q")
    ]

    class Arrived(Message):
        """There is something new to show."""

    class Failed(Message):
        """The feed has ended with an error."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    def __init__(
        self,
        runs: Sequence[Path],
        *,
        allow: Sequence[str] = (),
        interval: float = 0.2,
        cache: Path | None = None,
        look: Look | None = None,
        what_if: WhatIf | None = None,
    ) -> None:
        super().__init__(ansi_color=True)
        self.look = Look() if look is None else look
        self.theme = "ansi-dark" if self.look.dark else "ansi-light"
        self.trail = Trail()
        self.shown = Shown()
        self.board = Board()
        self._allowed = allowed_by(allow)
        self._note, self._note_number = "", 0
        self._newest: Shown | None = None
        self._pending = threading.Lock()
        self._wanted = Wanted(0, self.trail.view, (), self.look)
        self._layout: Layout | None = None
        self._entry = Entry("only the charts of", "train, val/*, lr   Enter: show   Esc: leave")
        self._visited: dict[str, int] = {}
        self._trying = Trying(what_if, self._tried) if what_if is not None else None
        self._feed = Feed(
            runs, self._arrived, lambda error: self.post_message(self.Failed(error)), interval=interval, cache=cache
        )

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield self.board

    def on_mount(self) -> None:
        """Begin."""
        self.board.focus()
        if threading.current_thread() is threading.main_thread() and not self.is_headless and sys.platform != "win32":
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self.exit, 128 + number)
        self._feed.start()
        self.draw()

    def on_unmount(self) -> None:
        """End."""
        self._feed.stop()

    # --- what comes

    def _arrived(self, shown: Shown) -> None:
        """Take what is to be shown, in the thread of the feed."""
        self._newest = shown
        if self._pending.acquire(blocking=False):
            self.post_message(self.Arrived())

    def on_watch_arrived(self) -> None:
        """Show the newest of what has come."""
        self._pending.release()
        if self._newest is not None:
            self.shown = self._newest
            self.draw()

    def on_watch_failed(self, message: Failed) -> None:
        """End with an error of the feed."""
        raise message.error

    def on_resize(self, event: Resize) -> None:
        """Lay things out anew."""
        self.draw(event.size.width, event.size.height)

    # --- what is shown

    def draw(self, width: int = 0, height: int = 0) -> None:
        """Show what there is, as it is to be seen now; say what else is wanted."""
        width, height = width or self.size.width, height or self.size.height
        if not width or not height:
            return
        shown, view, look = self.shown, self.view, self.look
        charts = min(shown.total, MOST_CHARTS) if shown.front is not None and not shown.reading else MOST_CHARTS
        pipeline, decisions = foot_size(shown.front)
        layout = self._layout = laid_out(
            width,
            height,
            head=head_size(shown.front, width),
            alerts=len(shown.front.alerts) if shown.front is not None else 0,
            pipeline=pipeline,
            decisions=decisions,
            charts=charts,
            large=view.large,
        )
        sizes = tuple((rect.width - 2, max(rect.height - 1 - footer_size(rect), 3)) for rect in layout.charts)
        trial = self._trying.stops if self._trying is not None else ()
        wanted = Wanted(self._wanted.number, view, sizes, look, trial)
        if wanted != self._wanted:
            self._wanted = replace(wanted, number=wanted.number + 1)
            self._feed.want(self._wanted)
        news = news_of(shown, view, self._trying.label if self._trying is not None else "")
        blocks: list[Block] = [
            (layout.head, head_lines(shown, view, layout.head, look, news)),
            (layout.alerts, alert_lines(shown.front, layout.alerts, look)),
        ]
        chosen = min(view.chart, max(shown.total - 1, 0))
        for number, rect in enumerate(layout.charts):
            chart = shown.charts[number] if number < len(shown.charts) else None
            blocks.append((rect, chart_lines(chart, rect, chart is not None and chart.number == chosen, look)))
        steering = offered(shown.front, self._allowed)
        blocks.append((layout.foot, foot_lines(shown, layout.foot, look)))
        if self._entry.text is None:
            blocks.append((layout.keys, key_line(layout.keys, view, self._key(), steering, look, self._note)))
        else:
            blocks.append((layout.keys, [self._entry.line(width, look)]))
        self.board.put([(rect, lines) for rect, lines in blocks if rect.height])

    def say(self, text: str) -> None:
        """Show a note for a moment, in place of the keys."""
        self._note, self._note_number = text, self._note_number + 1
        number = self._note_number
        self.set_timer(NOTE_SECONDS, lambda: self._unsay(number))
        self.draw()

    def _unsay(self, number: int) -> None:
        if number == self._note_number:
            self._note = ""
            self.draw()

    @property
    def view(self) -> Viewpoint:
        """What is looked at."""
        return self.trail.view

    def look_at(self, view: Viewpoint) -> None:
        """Look at something else; that can be undone."""
        self.trail.go(view)
        self._note = ""
        self.draw()

    # --- keys

    def on_key(self, event: Key) -> None:
        """Do what a key stands for."""
        if len(self.screen_stack) > 1:
            return
        if self._entry.text is not None:
            self._type(event)
            event.stop()
            return
        letter = ARROWS.get(event.key) or event.character or ""
        if letter and self.press(letter):
            event.stop()
            event.prevent_default()

    def press(self, letter: str) -> bool:
        """Do what a letter stands for; return whether it stands for anything."""
        shown = self.shown
        view = moved(letter, self.view, low=shown.first, high=shown.last, charts=shown.total, key=self._key())
        acts: dict[str, Callable[[], object]] = {
            "q": lambda: self.exit(0),
            "?": self._help,
            "/": lambda: self._entry.open(self.view.filter),
            "c": lambda: self._entry.open(self.view.filter),
            "z": self.trail.unzoom,
            "\x1b": self.trail.back,
            "p": self._pin,
            "a": lambda: self._to_next("alert", alerts_of(self.shown.front)),
            "m": lambda: self._to_next("decision", decisions_of(self.shown.front)),
            "d": self._turn,
            "w": self._try,
        }
        if view is not None:
            self.look_at(view)
        elif letter in acts:
            acts[letter]()
            self.draw()
        elif letter.isdecimal() and letter != "0":
            self._to_front(int(letter))
        elif letter in "SRCPV":
            self._steer(letter)
        else:
            return False
        return True

    def action_leave(self) -> None:
        """Leave as Ctrl-C does."""
        self.exit(INTERRUPTED)

    def on_click(self, event: Click) -> None:
        """Choose the chart that was clicked."""
        layout = self._layout
        if layout is None or len(self.screen_stack) > 1:
            return
        for chart, rect in zip(self.shown.charts, layout.charts, strict=False):
            if rect.x <= event.screen_x < rect.x + rect.width and rect.y <= event.screen_y < rect.y + rect.height:
                self.look_at(replace(self.view, chart=chart.number))

    def _key(self) -> str:
        """Return the key of the chart that is chosen."""
        return next((one.key for one in self.shown.charts if one.number == self.view.chart), "")

    def _to_front(self, number: int) -> None:
        if number <= len(self.shown.rows):
            self.look_at(replace(self.view, front=self.shown.rows[number - 1].id))

    def _pin(self) -> None:
        if self.shown.drawn:
            self.look_at(replace(self.view, pinned=self.view.pinned ^ {self.shown.drawn[0]}))

    def _to_next(self, kind: str, places: Sequence[Place]) -> None:
        """Zoom to what comes next of a kind, beginning again after the last."""
        if not places:
            self.say(f"no {kind} yet that has a place in the run")
            return
        number = self._visited[kind] = (self._visited.get(kind, -1) + 1) % len(places)
        place = places[number]
        self.look_at(self.view.at(place.start, place.stop, self.shown.first, self.shown.last))
        self.say(place.text)

    def _turn(self) -> None:
        self.look = replace(self.look, dark=not self.look.dark)
        self.theme = "ansi-dark" if self.look.dark else "ansi-light"
        self.draw()

    def _help(self) -> None:
        front = self.shown.front
        why = READ_ONLY if not self._allowed.rules else front.steering if front is not None else ""
        self.push_screen(Help(self.look, offered(front, self._allowed), why))

    # --- what if

    def _try(self) -> None:
        """Ask for a rule, and show what it would have done."""
        trying, shown = self._trying, self.shown
        if trying is None or not shown.drawn:
            self.say("there is no run yet" if trying is not None else NO_WHAT_IF)
            return
        self.push_screen(TrialDialog(trying, shown, self.look, self._go))

    def _go(self, rule: str) -> None:
        if self._trying is not None:
            self.run_worker(self._trying.go(rule, self._feed.pyramids(self.shown.drawn)), exit_on_error=True)

    def _tried(self) -> None:
        """Show what is known of the rule that is tried."""
        if isinstance(self.screen, TrialDialog):
            self.screen.show()
        self.draw()

    # --- the filter

    def on_paste(self, event: Paste) -> None:
        """Take what is pasted into the filter."""
        if self._entry.text is not None and len(self.screen_stack) == 1:
            self._entry.paste(event.text)
            self.draw()

    def _type(self, event: Key) -> None:
        if self._entry.type(event.key, event.character) == "done":
            self.look_at(replace(self.view, filter=self._entry.take(), chart=0))
        self.draw()

    # --- steering

    def _steer(self, letter: str) -> None:
        front = self.shown.front
        if front is None:
            return
        if letter not in offered(front, self._allowed):
            self.say(READ_ONLY if not self._allowed.rules else front.steering or NOT_OFFERED)
            return
        try:
            question = confirmation(letter, front, self._allowed)
        except AsyncHubError as error:
            self.say(str(error))
            return
        folder = self._feed.folder(front.row.id)

        def answered(answer: Answer | None) -> None:
            if answer is not None:
                self.run_worker(self._send(question.word, folder, answer), exit_on_error=True)

        self.push_screen(
            Confirm(
                question.title,
                question.facts,
                self.look,
                names=question.names,
                value=question.value,
                check=question.check,
            ),
            answered,
        )

    async def _send(self, word: str, folder: Path, answer: Answer) -> None:
        try:
            asked = await asyncio.to_thread(send, word, folder, answer)
        except (AsyncHubError, OSError) as error:
            self.say(f"not asked: {error}")
            return
        self.say(f"{asked.what}: {asked.state}")
