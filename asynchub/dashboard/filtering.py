"""A filter of runs, as people type it: ``lr<0.1 and aug=mix``, ``state=running or name~resnet``, ``not (a=1 b=2)``.

Words: ``and``, ``or`` and ``not``, in any case; ``and`` may be left out, and binds closer than ``or``.
Comparisons: ``=`` or ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``; of numbers if both sides are, else of text, in which
    case does not count. ``~`` is "contains", or, with a ``*`` in it, "looks like"; ``!~`` is its contrary. A word alone
    is looked for in the name and the folder.
Names: those of ``FIELDS``; else what a program said of itself (``config``), else a metric. ``config.`` or ``metric.``
    in front says which. What stands in quotes is no word of the language, and no field.
Missing: of a run that has no such name, ``!=`` and ``!~`` hold, and nothing else does.
Safe: the text is parsed and looked up, never evaluated; it takes time in proportion to its length.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import translate
from typing import NamedTuple

from asynchub.dashboard.screen import RunRow
from asynchub.errors import ArgumentError

__all__ = ("FIELDS", "Filter", "parse_filter", "unknown_names")

FIELDS = ("name", "folder", "id", "run_id", "state", "word", "step", "newest", "problem")
"""What can be asked of a run beside its config and metrics; see ``RunRow``."""
TOKEN = re.compile(
    r"""\s*(?:(?P<sign><=|>=|==|!=|!~|[=<>~()])|(?P<quoted>"[^"]*"|'[^']*')|(?P<word>[^\s()<>=!~"']+))"""
)
ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
COMPARISONS = frozenset([*ORDERS, "=", "==", "!=", "~", "!~"])
LONGEST = 2000
"""Characters that a filter may have."""
DEEPEST = 50
"""Parentheses, and ``not``, in one another."""
EXAMPLE = "write e.g. lr<0.1 and aug=mix"

Test = Callable[[RunRow], bool]


@dataclass(frozen=True, slots=True)
class Filter:
    """A test of runs.

    Attributes:
        text: it was made of.
        names: that it compares, in order, without fields.
        test: it.
    """

    text: str
    names: tuple[str, ...]
    test: Test

    def __call__(self, row: RunRow) -> bool:
        """Tell whether it lets a run through."""
        return self.test(row)


def parse_filter(text: str) -> Filter:
    """Return the test that a text stands for; of an empty one, one that lets all runs through.

    Raises:
        ArgumentError: it is malformed; the error says where.
    """
    if len(text) > LONGEST:
        raise ArgumentError(f"a filter may have {LONGEST} characters, this one has {len(text)}")
    parser = _Parser(text)
    test = parser.whole()
    return Filter(text, tuple(dict.fromkeys(parser.names)), test)


def unknown_names(filter: Filter, rows: Iterable[RunRow]) -> str:
    """Return in words which names of a filter none of the runs has; "" if there are none."""
    rows = list(rows)
    unknown = [name for name in filter.names if all(_found(row, name, False) is None for row in rows)]
    if not unknown or not rows:
        return ""
    known = sorted({name for row in rows for name in (*row.config, *row.metrics)})
    listed = ", ".join(known[:10]) + (f" and {len(known) - 10:,} more" if len(known) > 10 else "")
    return f"no run has {' or '.join(map(repr, unknown))}; they have {listed or 'said nothing of themselves'}"


class _Token(NamedTuple):
    text: str
    place: int
    kind: str


class _Parser:
    """A filter on its way to a test."""

    def __init__(self, text: str) -> None:
        self.names: list[str] = []
        self._text = text
        self._tokens: list[_Token] = []
        self._next = 0
        place = 0
        while text[place:].strip():
            match = TOKEN.match(text, place)
            if match is None or match.lastgroup is None:
                place += len(text[place:]) - len(text[place:].lstrip())
                what = "an opening quote without a closing one" if text[place] in "\"'" else repr(text[place])
                raise self._error(place, f"there is {what}")
            kind = match.lastgroup
            found = match[kind]
            self._tokens.append(_Token(found[1:-1] if kind == "quoted" else found, match.start(kind), kind))
            place = match.end()

    def whole(self) -> Test:
        if not self._tokens:
            return lambda row: True
        test = self._any(0)
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            raise self._error(token.place, f"{token.text!r} closes nothing, or stands where a comparison should")
        return test

    def _error(self, place: int, what: str) -> ArgumentError:
        near = self._text[max(place - 20, 0) : place + 20]
        return ArgumentError(f"filter, at character {place + 1} (near {near!r}): {what}; {EXAMPLE}")

    def _peek(self) -> _Token:
        return self._tokens[self._next] if self._next < len(self._tokens) else _Token("", len(self._text), "end")

    def _is_word(self, word: str) -> bool:
        token = self._peek()
        return token.kind == "word" and token.text.lower() == word

    def _any(self, depth: int) -> Test:
        tests = [self._all(depth)]
        while self._is_word("or"):
            self._next += 1
            tests.append(self._all(depth))
        return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)

    def _all(self, depth: int) -> Test:
        tests = [self._one(depth)]
        while True:
            if self._is_word("and"):
                self._next += 1
            elif self._is_word("or") or self._peek().kind == "end" or self._peek()[::2] == (")", "sign"):
                break
            tests.append(self._one(depth))
        return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)

    def _one(self, depth: int) -> Test:
        token = self._peek()
        if depth > DEEPEST:
            raise self._error(token.place, f"more than {DEEPEST} parentheses are in one another")
        if self._is_word("not"):
            self._next += 1
            denied = self._one(depth + 1)
            return lambda row: not denied(row)
        if token[::2] == ("(", "sign"):
            self._next += 1
            inner = self._any(depth + 1)
            if self._peek()[::2] != (")", "sign"):
                raise self._error(self._peek().place, f"the parenthesis of character {token.place + 1} is not closed")
            self._next += 1
            return inner
        if token.kind in ("sign", "end") or self._is_word("and") or self._is_word("or"):
            got = repr(token.text) if token.text else "the end"
            raise self._error(token.place, f"wanted a name, got {got}")
        self._next += 1
        return self._compared(token)

    def _compared(self, name: _Token) -> Test:
        sign = self._peek()
        if sign.kind != "sign" or sign.text not in COMPARISONS:
            like = _like(name.text)
            return lambda row: like(row.name) or like(row.folder)
        self._next += 1
        value = self._peek()
        if value.kind in ("sign", "end"):
            got = repr(value.text) if value.text else "the end"
            raise self._error(value.place, f"wanted a value after {name.text!r} {sign.text}, got {got}")
        self._next += 1
        is_field = name.kind == "word" and name.text in FIELDS
        if not is_field:
            self.names.append(name.text)
        if sign.text in ORDERS and _number(value.text) is None:
            raise self._error(value.place, f"{sign.text} wants a number, got {value.text!r}")
        holds = _comparison(sign.text.removeprefix("!") if sign.text in ("!=", "!~") else sign.text, value.text)
        denied = sign.text.startswith("!")

        def test(row: RunRow) -> bool:
            found = _found(row, name.text, is_field)
            return denied if found is None else holds(found) != denied

        return test


def _comparison(sign: str, value: str) -> Callable[[str], bool]:
    if sign == "~":
        return _like(value)
    number = _number(value)
    if sign in ORDERS:
        order, limit = ORDERS[sign], float("nan") if number is None else number
        return lambda found: (one := _number(found)) is not None and order(one, limit)
    folded = value.casefold()
    if number is None:
        return lambda found: found.casefold() == folded
    return lambda found: _number(found) == number or found.casefold() == folded


def _like(value: str) -> Callable[[str], bool]:
    folded = value.casefold()
    if "*" not in folded:
        return lambda found: folded in found.casefold()
    parts = re.sub(r"\*+", "*", folded).replace("[", "[[]").replace("?", "[?]")
    matches = re.compile(translate(parts)).match
    return lambda found: matches(found.casefold()) is not None


def _number(text: str) -> float | None:
    """Return text as a number; None if it is none."""
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        return None
    return None if number != number else number


def _found(row: RunRow, name: str, is_field: bool) -> str | None:
    """Return what a run has of a name, as text; None if it has none."""
    if is_field:
        found = getattr(row, name)
        return None if found is None else str(found)
    kind, _, rest = name.partition(".")
    if kind in ("config", "metric") and rest:
        return (row.config if kind == "config" else row.metrics).get(rest)
    return row.config.get(name, row.metrics.get(name))
