"""What a terminal asks back before a run is steered, and its sheet of keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from asynchub.dashboard.terminal.keys import HELP, STEERING
from asynchub.dashboard.terminal.look import Look, clean

try:
    from rich.text import Text
    from textual.app import ComposeResult
    from textual.containers import Vertical
    from textual.events import Key
    from textual.screen import ModalScreen
    from textual.widgets import Input, Static
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("Answer", "Confirm", "Dialog", "Help", "css_of", "text_of")

CSS = """
{name} {{ align: center {place}; background: transparent; }}
{name} > Vertical {{ width: {width}; max-width: 100%; height: auto; max-height: 100%; padding: 0 1;
    border: {border} {colour}; background: {ground}; }}
{name} Input {{ border: none; height: 1; padding: 0; background: {ground}; color: {text}; }}
{name} Static {{ height: auto; }}
"""


def css_of(name: str, width: int, place: str = "middle") -> str:
    """Return the rules of a dialog; those for colours are set in ``on_mount``.

    Args:
        name: of its class.
        width: its columns, where there are so many.
        place: ``"top"``, ``"middle"`` or ``"bottom"`` of the terminal.
    """
    return CSS.format(
        name=name, width=width, place=place, border="ascii", colour="ansi_yellow", ground="transparent", text="auto"
    )


class Answer(NamedTuple):
    """What somebody has confirmed.

    Attributes:
        name: of the parameter; "" if there is none.
        value: as it was typed; "" if there is none.
        reason: why; may be "".
    """

    name: str
    value: str
    reason: str


class Dialog(ModalScreen[Answer | None]):
    """A frame over what is shown.

    Attributes:
        closing: the keys that close it; None for all.
    """

    closing: ClassVar[frozenset[str] | None] = frozenset({"escape"})

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look
        self._closed = False

    def on_mount(self) -> None:
        """Take the colours of the terminal."""
        ground, text = ("#1c1f26", "#d8dce3") if self._look.dark else ("#ffffff", "#20242b")
        colour = self._look.style("chosen").color
        frame = colour.name if colour is not None else "ansi_default"
        for box in self.query(Vertical):
            box.styles.border = ("round" if self._look.letters else "ascii", frame)
        if self._look.colours:
            for widget in (*self.query(Vertical), *self.query(Input)):
                widget.styles.background, widget.styles.color = ground, text

    def on_key(self, event: Key) -> None:
        """Close at the keys that close it."""
        if self.closing is None or event.key in self.closing:
            event.stop()
            self.close(None)

    def close(self, answer: Answer | None) -> None:
        """Close with an answer; what is typed until it has gone is left out."""
        if not self._closed:
            self._closed = True
            self.dismiss(answer)


class Confirm(Dialog):
    """Ask for a reason, and a value where there is one; Enter in the last field confirms.

    Args:
        question: what is to be done.
        facts: what there is to know before, a line each.
        look: of the terminal.
        names: of the parameters that can be set; empty if it is none.
        value: to begin with, of a parameter; None for none.
        check: returns what is wrong with an answer, in words, or "".
    """

    def __init__(
        self,
        question: str,
        facts: Sequence[str],
        look: Look,
        *,
        names: Sequence[str] = (),
        value: str | None = None,
        check: Callable[[Answer], str] | None = None,
    ) -> None:
        super().__init__(look)
        self._question, self._facts = question, facts
        self._names, self._value, self._check = names, value, check

    def compose(self) -> ComposeResult:
        """Make the fields."""
        look = self._look
        with Vertical():
            yield Static(text_of(self._question, look, "title"))
            for fact in self._facts:
                yield Static(text_of(fact, look, "quiet"))
            if len(self._names) > 1:
                yield Static(text_of(f"Parameter ({', '.join(self._names)}):", look, "plain"))
                yield Input(value=self._names[0], id="name")
            if self._value is not None:
                yield Static(text_of("New value:", look, "plain"))
                yield Input(value=self._value, id="value")
            yield Static(text_of("Reason (is written down):", look, "plain"))
            yield Input(id="reason", max_length=500)
            yield Static(text_of("", look, "bad"), id="wrong")
            yield Static(text_of("Enter: next field, then do it    Esc: leave it", look, "quiet"))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Confirm at Enter; in a field before the last one, go to the next."""
        if event.input.id != "reason":
            self.focus_next(Input)
            return
        fields = {field.id: field.value.strip() for field in self.query(Input)}
        name = fields.get("name", self._names[0] if self._names else "")
        answer = Answer(name, fields.get("value", ""), fields["reason"])
        wrong = self._check(answer) if self._check is not None else ""
        if wrong:
            self.query_one("#wrong", Static).update(text_of(wrong, self._look, "bad"))
            return
        self.close(answer)


class Help(Dialog):
    """The keys.

    Args:
        look: of the terminal.
        steering: the words of the steering keys that do something now.
        why_not: why nothing, or not everything, can be steered.
    """

    closing = None

    def __init__(self, look: Look, steering: dict[str, str], why_not: str) -> None:
        super().__init__(look)
        self._steering, self._why_not = steering, why_not

    def compose(self) -> ComposeResult:
        """Make the list."""
        look = self._look
        lines = [self._line(look.text(key), words) for key, words in HELP]
        lines += [self._line(key, f"{words}, after asking back") for key, _, words in STEERING if key in self._steering]
        if self._why_not:
            lines.append(text_of(self._why_not, look, "quiet"))
        with Vertical() as box:
            box.border_title = "Keys"
            yield Static(Text("\n").join(lines))

    def _line(self, key: str, words: str) -> Text:
        text = Text().append(f"{key:>6}  ", self._look.style("key"))
        return text.append(self._look.text(words), self._look.style("plain"))


def text_of(text: str, look: Look, style: str) -> Text:
    """Return text in a style, in letters that the terminal has."""
    return Text(look.text(clean(text)), look.style(style))


Confirm.CSS = css_of("Confirm", 72)
Help.CSS = css_of("Help", 64)
