"""Runs and keys as words of a broker's subjects, and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.bridges.checks import check_pattern, overlap
from asynchub.bridges.subjects import Subjects, decode_key, decode_word, encode_key, encode_word, matches
from asynchub.errors import ArgumentError

LEGAL = re.compile(r"[!-~]+")
any_text = st.text(st.characters(exclude_categories=())) | st.text(".*>% /\\\r\n\0aäß字\ud800", max_size=8)
words = st.sampled_from(["a", "b", "*"])
subjects = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda begin, end: ".".join([*begin, *end]) or "a",
    st.lists(words, max_size=3),
    st.sampled_from([[], [">"]]),
)


@settings(max_examples=50)
@given(any_text)
def test_any_text_becomes_one_legal_word_and_comes_back(text: str) -> None:
    word = encode_word(text)
    assert LEGAL.fullmatch(word)
    assert not set(".*>").intersection(word)
    assert decode_word(word) == text


@settings(max_examples=50)
@given(any_text, any_text)
def test_different_texts_become_different_words(one: str, other: str) -> None:
    assert (encode_word(one) == encode_word(other)) == (one == other)


@settings(max_examples=50)
@given(any_text)
def test_any_key_becomes_legal_words_and_comes_back(key: str) -> None:
    encoded = encode_key(key)
    check_pattern(encoded)
    assert encoded.count(".") == key.count("/")
    assert decode_key(encoded) == key


@settings(max_examples=50)
@given(any_text)
def test_what_is_no_encoded_word_is_refused_and_what_is_comes_back(word: str) -> None:
    try:
        text = decode_word(word)
    except ArgumentError:
        return
    assert encode_word(text) == word


@pytest.mark.parametrize("word", ["", "a.b", "a b", "%2", "%2e", "%41", "%FF", "ä", "*", "%00%00", "a%00b"])
def test_these_are_no_encoded_words(word: str) -> None:
    if word in ("%00%00", "a%00b"):  # a zero byte among others is one
        assert decode_word(word) == word.replace("%00", "\0")
        return
    with pytest.raises(ArgumentError, match="not an encoded word"):
        decode_word(word)


def test_the_empty_text_and_a_zero_byte_are_told_apart() -> None:
    assert encode_word("") != encode_word("\0")
    assert (decode_word(encode_word("")), decode_word(encode_word("\0"))) == ("", "\0")


def matched(pattern: str, subject: str) -> bool:
    """Tell the same as ``matches``, by a regular expression."""
    parts = ["[^.]+" if word == "*" else ".+" if word == ">" else re.escape(word) for word in pattern.split(".")]
    return re.fullmatch(r"\.".join(parts), subject) is not None


@settings(max_examples=50)
@given(patterns, subjects)
def test_a_pattern_matches_as_a_regular_expression_would(pattern: str, subject: str) -> None:
    assert matches(pattern, subject) == matched(pattern, subject)


@settings(max_examples=50)
@given(patterns, patterns)
def test_patterns_overlap_if_some_subject_matches_both(one: str, other: str) -> None:
    def example(pattern: str, against: str) -> str:
        length = max(len(pattern.split(".")), len(against.split(".")))
        own, others = pattern.split("."), against.split(".")
        own = [*own[:-1], *["*"] * (length - len(own) + 1)] if own[-1] == ">" else own
        others = [*others[:-1], *["*"] * (length - len(others) + 1)] if others[-1] == ">" else others
        pairs = zip(own, [*others, *["*"] * length], strict=False)
        return ".".join(word if word != "*" else (other if other != "*" else "a") for word, other in pairs)

    found = any(matches(one, text) and matches(other, text) for text in (example(one, other), example(other, one)))
    assert overlap(one, other) == overlap(other, one) == found


@pytest.mark.parametrize(
    "run",
    ["", None, 3, b"run", "x" * 253, "ä" * 90, "/" * 100],
    ids=["empty", "none", "number", "bytes", "long", "long-encoded", "long-as-a-log"],
)
def test_what_is_no_name_of_a_run_is_refused(run: str) -> None:
    with pytest.raises(ArgumentError, match="name of a run"):
        Subjects(run)


def test_the_subjects_of_a_run_are_where_the_broker_looks_for_them() -> None:
    run = Subjects("my run/1.0")
    assert run.log == "AH_my%20run%2F1%2E0"
    assert run.events(3, 17) == "ah.my%20run/1%2E0.ev.3.17"
    assert run.snapshot(3, 0) == "ah.my%20run/1%2E0.snap.3.0"
    assert run.heartbeat(3) == "ah.my%20run/1%2E0.hb.3"
    assert run.command("stop") == "ah.my%20run/1%2E0.ctl.stop"
    assert run.command("set", "lr/0") == "ah.my%20run/1%2E0.ctl.set.lr.0"
    assert matches(run.events(), run.events(3, 17))
    assert matches(run.command(), run.command("set", "lr/0"))
    assert all(any(matches(stored, one) for stored in run.stored) for one in (run.events(0, 1), run.snapshot(0, 1)))
    assert not any(matches(stored, one) for stored in run.stored for one in (run.heartbeat(0), run.command("stop")))


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_runs_have_logs_and_subjects_of_their_own(one: str, other: str) -> None:
    first, second = Subjects(one), Subjects(other)
    assert (first.log == second.log) == (one == other)
    assert matches(first.events(), second.events(0, 1)) == (one == other)
    check_pattern(first.events())
    assert not set("./\\*> ").intersection(first.log)
