"""What a terminal asks for to try a rule, and what it would have done, below the charts that show it, too."""

from __future__ import annotations

from collections.abc import Callable

from asynchub.dashboard.terminal.dialogs import Dialog, css_of, text_of
from asynchub.dashboard.terminal.feed import Shown
from asynchub.dashboard.terminal.look import Look
from asynchub.dashboard.terminal.panels import sign_of
from asynchub.dashboard.terminal.trying import Trying, example, table_of

try:
    from rich.text import Text
    from textual.app import ComposeResult
    from textual.containers import Vertical, VerticalScroll
    from textual.events import Key
    from textual.widgets import Input, Static
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("TrialDialog",)

WIDTH = 120
FRAME = 4
"""Columns of the frame and the blanks beside it."""
ROOMY = 30
"""Lines of a terminal from which on there is room to say what it does."""
LONGEST_RULE = 1_000
WHAT = "A stopping rule is run over what was recorded: the same code that runs in training."


class TrialDialog(Dialog):
    """Ask for a rule, try it at Enter, and show what it would have done.

    Args:
        trying: what is tried.
        shown: what there is to show: of runs that are drawn it is tried.
        look: of the terminal.
        go: called with a rule that is to be tried; "" for none.
    """

    def __init__(self, trying: Trying, shown: Shown, look: Look, go: Callable[[str], object]) -> None:
        super().__init__(look)
        self._trying, self._go = trying, go
        self._rule = trying.rule or example(shown.front)
        rows = [row for row in shown.rows if row.id in shown.drawn]
        self._names = {row.id: row.name for row in rows}
        self._signs = {row.id: sign_of(row, shown, look) for row in rows}

    def compose(self) -> ComposeResult:
        """Make the field, and room for what is found."""
        look = self._look
        with Vertical():
            yield Static(text_of("What if", look, "title"))
            if self.app.size.height >= ROOMY:
                yield Static(text_of(WHAT, look, "quiet"))
            yield Static(text_of("Rule, several values try each of them (patience=3,5):", look, "plain"))
            yield Input(value=self._rule, id="rule", max_length=LONGEST_RULE, select_on_focus=False)
            with VerticalScroll(can_focus=False):
                yield Static(id="found")
            yield Static(text_of("Enter: try it; an empty one takes it off the charts    Esc: close", look, "quiet"))

    def on_mount(self) -> None:
        """Show what there is already."""
        super().on_mount()
        self.show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Try the rule; without one, take the one before off."""
        rule = event.input.value.strip()
        self._go(rule)
        if not rule:
            self.close(None)

    def on_key(self, event: Key) -> None:
        """Move what does not fit."""
        if event.key in ("up", "down", "pageup", "pagedown"):
            event.stop()
            scroll = self.query_one(VerticalScroll)
            scroll.scroll_relative(
                y={"up": -1, "down": 1, "pageup": -scroll.size.height, "pagedown": scroll.size.height}[event.key],
                animate=False,
            )
            return
        super().on_key(event)

    def on_resize(self) -> None:
        """Lay the table out anew."""
        self.show()

    def show(self) -> None:
        """Show what is known by now."""
        if self.is_mounted:
            self.query_one("#found", Static).update(self._found())

    def _found(self) -> Text:
        look, found = self._look, self._trying.found
        if not self._trying.rule:
            return Text("")
        if found is None:
            return text_of("Running it over what was recorded…", look, "quiet")
        lines: list[Text] = []
        if found.error:
            lines.append(text_of(found.error, look, "bad"))
        if found.rows:
            lines.append(text_of(found.label, look, "warn"))
        heads, rows = table_of(found, self._names, min(self.app.size.width, WIDTH) - FRAME - 3)
        for number, line in enumerate(heads):
            text = Text("   ")
            if number and (sign := self._signs.get(rows[number - 1].run)) is not None:
                text = Text().append(look.text(sign[0]), sign[1])
            lines.append(text.append_text(text_of(line, look, "plain" if number else "quiet")))
        for row in found.rows:
            if row.error:
                lines.append(text_of(f"{self._names.get(row.run, row.run)}: {row.error}", look, "bad"))
        if found.waiting:
            lines.append(text_of(f"{found.waiting} to go…", look, "quiet"))
        return Text("\n").join(lines)


TrialDialog.CSS = (
    css_of("TrialDialog", WIDTH, "bottom")
    + """
TrialDialog VerticalScroll { height: auto; max-height: 14; background: transparent; scrollbar-size-vertical: 1; }
"""
)
