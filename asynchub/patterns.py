"""Which keys a reader wants.

A key is a path such as ``train/loss``; a pattern is one with wildcards:

    ``train/loss``    that key
    ``train/*``       one level below ``train``; ``*`` stands for any text without ``/``, also in ``loss_*``
    ``val/**``        all levels below ``val``
    ``**/loss``       ``loss`` at any depth, ``loss`` itself included
    ``**``            every key

Matching is exact otherwise: case counts, and ``?`` and ``[`` stand for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from asynchub.errors import PatternError

__all__ = ("check_pattern", "matcher")


def _segment(pattern: str, segment: str) -> str:
    if "**" in segment:
        raise PatternError(pattern, "'**' must stand alone between slashes")
    return "[^/]*".join(re.escape(part) for part in segment.split("*"))


def _expression(pattern: str) -> str:
    *above, last = pattern.split("/")
    expression = ""
    for segment in above:
        expression += "(?:[^/]+/)*" if segment == "**" else _segment(pattern, segment) + "/"
    return expression + (".+" if last == "**" else _segment(pattern, last))


def check_pattern(pattern: object) -> str:
    """Return ``pattern`` if it is one.

    Raises:
        PatternError: it is not a string, is empty, has an empty level, or a ``**`` that does not stand alone.
    """
    if not isinstance(pattern, str):
        raise PatternError(pattern, f"it must be a str, got {type(pattern).__name__}")
    if not pattern:
        raise PatternError(pattern, "it is empty")
    if "" in pattern.split("/"):
        raise PatternError(pattern, "it has an empty level")
    _expression(pattern)
    return pattern


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a key is selected by any of ``patterns``.

    Raises:
        PatternError: a pattern is malformed; see ``check_pattern``.
    """
    checked = [check_pattern(pattern) for pattern in patterns]
    if "**" in checked:
        return lambda key: True
    exact = frozenset(pattern for pattern in checked if "*" not in pattern)
    wild = [_expression(pattern) for pattern in checked if "*" in pattern]
    if not wild:
        return exact.__contains__
    match = re.compile("|".join(wild), re.DOTALL).fullmatch
    return lambda key: key in exact or match(key) is not None
