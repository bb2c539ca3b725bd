"""Which keys a pattern selects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynchub.errors import PatternError
from asynchub.patterns import check_pattern, matcher


def model(pattern: list[str], key: list[str]) -> bool:
    """Return whether levels match, by the simplest recursion."""
    if not pattern:
        return not key
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(key)
        return any(model(pattern[1:], key[start:]) for start in range(len(key)))
    return bool(key) and level(pattern[0], key[0]) and model(pattern[1:], key[1:])


def level(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(level(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return bool(text) and pattern[0] == text[0] and level(pattern[1:], text[1:])


levels = st.lists(st.text("ab.+", min_size=1, max_size=3), min_size=1, max_size=4)
wild = st.lists(
    st.one_of(st.just("**"), st.text("ab*.", min_size=1, max_size=3).filter(lambda one: "**" not in one)),
    min_size=1,
    max_size=4,
)


@given(st.lists(wild, min_size=1, max_size=3), levels)
def test_patterns_select_what_the_simplest_model_selects(patterns: list[list[str]], key: list[str]) -> None:
    selects = matcher("/".join(one) for one in patterns)
    assert selects("/".join(key)) == any(model(one, key) for one in patterns)


@pytest.mark.parametrize(
    ("pattern", "key", "selected"),
    [
        ("train/loss", "train/loss", True),
        ("train/loss", "train/Loss", False),
        ("train/*", "train/loss", True),
        ("train/*", "train/a/loss", False),
        ("train/*", "train", False),
        ("loss_*", "loss_a", True),
        ("loss_*", "loss_", True),
        ("val/**", "val/a/b/c", True),
        ("val/**", "val", False),
        ("**/loss", "loss", True),
        ("**/loss", "a/b/loss", True),
        ("**/loss", "a/b/closs", False),
        ("**", "anything/at all", True),
        ("a?b[c]", "a?b[c]", True),
        ("a?b[c]", "axbc", False),
        ("a.b", "axb", False),
        ("*", "line\nbreak", True),
    ],
)
def test_examples(pattern: str, key: str, selected: bool) -> None:
    assert matcher([pattern])(key) is selected


@pytest.mark.parametrize("pattern", ["", "/a", "a/", "a//b", "a**", "**b/c", "***", "a/x**/b", None, 3, b"a"])
def test_a_malformed_pattern_is_refused_with_an_example_of_a_good_one(pattern: Any) -> None:
    with pytest.raises(PatternError, match=r"is not a key pattern: .*; write e\.g\."):
        check_pattern(pattern)
    with pytest.raises(PatternError):
        matcher(["**", "ok", pattern])


def test_no_pattern_selects_nothing() -> None:
    assert not matcher([])("a")
