"""Text and letters of a terminal: nothing that comes from a run does harm there, and all is as wide as it says."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from asynchub.dashboard.colours import PALETTE, colour
from asynchub.dashboard.terminal.look import ASCII_OF_DOTS, Look, clean, columns_of, cut, narrow, strip_of, wrapped

PLAIN = Look(colours=False).style("plain")
EVIL = (
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b2J\x90q\x9d0;t\x9c",
    "a\rb\nc\td\x00e\x7f",
    "\u202egnp.exe\u202c\u2066x\u2069\u200f",
    "lone \ud800 surrogate",
    "\u2028line\u2029paragraph\u0085next",
    "x" * 10_000,
    "e\u0301" * 3_000,
    "\U000e0041tag\ufeff\u200b",
)


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_text_of_a_run_has_no_control_characters_and_turns_nothing_round(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.isprintable()
    assert len(cleaned) <= 2_000
    cleaned.encode()
    line = strip_of([(cleaned, PLAIN)], 30, Look())
    assert line.cell_length == cell_len(line.text) == 30


@settings(max_examples=50)
@given(st.text(max_size=60), st.integers(0, 40))
def test_text_that_is_cut_is_no_wider_than_it_may_be(text: str, width: int) -> None:
    assert columns_of(cut(clean(text), width)) <= width
    assert cell_len(narrow(text)) == len(narrow(text))


@settings(max_examples=50)
@given(st.lists(st.text(max_size=30), max_size=4), st.integers(1, 50), st.booleans())
def test_a_line_is_as_wide_as_it_says(texts: list[str], width: int, letters: bool) -> None:
    line = strip_of([(clean(text), PLAIN) for text in texts], width, Look(letters=letters))
    assert line.cell_length == width
    assert cell_len(line.text) == width
    assert letters or line.text.isascii()


@settings(max_examples=50)
@given(st.text(alphabet="ab c\u65e5", max_size=80), st.integers(2, 30), st.integers(1, 3))
def test_wrapped_text_is_the_text_in_lines(text: str, width: int, most: int) -> None:
    lines = wrapped(text, width, most)
    assert len(lines) <= most
    assert all(columns_of(line) <= width for line in lines)
    if not any("…" in line for line in lines):
        assert " ".join(lines) == text


def test_a_terminal_without_unicode_gets_ascii_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stderr__", io.TextIOWrapper(io.BytesIO(), "ascii"))
    look = Look.of_terminal(dark=True)
    assert not look.letters
    assert look.text("▲13.0 ━━ lr ÷10 日") == "^13.0 == lr /10 ?"
    monkeypatch.setattr(sys, "__stderr__", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    monkeypatch.setenv("TERM", "xterm")
    assert Look.of_terminal(dark=True).letters
    monkeypatch.setenv("TERM", "linux")
    assert not Look.of_terminal(dark=True).letters


def test_dots_become_letters_that_are_high_or_low_as_they_are() -> None:
    letters = "".join(map(chr, ASCII_OF_DOTS))
    assert letters[0] == " "
    assert letters[0x01] == "'"
    assert letters[0x80] == "."
    assert letters[0xFF] == "#"
    assert " " not in letters[1:]


def test_no_color_means_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    look = Look.of_terminal(dark=True)
    names = ("plain", "quiet", "good", "warn", "bad", "title", "frame", "chosen", "grid", "key")
    styles = [look.style(name) for name in names]
    styles += [look.run(colour(hue), strong, colour(hue)) for hue in range(10) for strong in (True, False)]
    assert all(style.color is None and style.bgcolor is None for style in styles)
    assert look.style("bad").bold
    assert look.style("warn").bold


def _contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, as WCAG 2.2 defines it."""

    def luminance(text: str) -> float:
        parts = [int(text[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("dark", "ground"), [(True, "#14161b"), (True, "#292929"), (False, "#ffffff")])
def test_text_can_be_read_on_a_dark_and_on_a_light_ground(dark: bool, ground: str) -> None:
    look = Look(dark)
    for name in ("plain", "quiet", "good", "warn", "bad", "title", "chosen", "key"):
        style = look.style(name).color
        assert style is not None
        assert _contrast(style.name, ground) >= 4.5, name


def test_a_line_has_the_very_colour_of_its_run() -> None:
    for hue, (light, dark) in enumerate(PALETTE):
        for look, wanted in ((Look(True), dark), (Look(False), light)):
            style = look.run(colour(hue), True).color
            assert style is not None
            assert style.name == wanted
