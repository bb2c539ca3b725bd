"""A filter lets through what its words say, and says where it is malformed."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynchub.dashboard.colours import colour
from asynchub.dashboard.filtering import DEEPEST, LONGEST, parse_filter, unknown_names
from asynchub.dashboard.screen import RunRow
from asynchub.errors import ArgumentError


def row(name: str, **fields: object) -> RunRow:
    known: dict[str, object] = {"folder": f"runs/{name}", "run_id": "", "state": "running", "word": "Running"}
    return RunRow(id=name, name=name, colour=colour(0), **(known | fields))  # type: ignore[arg-type]


ROWS = [
    row("resnet-a", config={"lr": "0.1", "aug": "mix", "epochs": "90"}, metrics={"val/acc": "0.763"}, step=812_440),
    row("resnet-b", config={"lr": "1e-3", "aug": "Mix"}, metrics={"val/acc": "0.70"}, state="stopped", step=5),
    row("vit c", config={"lr": "0.05", "aug": "none", "name": "and"}, metrics={"loss": "12 ms"}, state="crashed"),
    row("empty"),
]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "abcd"),
        ("  ", "abcd"),
        ("lr<0.1", "bc"),
        ("lr<=0.1", "abc"),
        ("lr>0.05 and lr>=0.1", "a"),
        ("lr=0.001", "b"),
        ("lr == .1", "a"),
        ("lr!=0.1", "bcd"),
        ("aug=mix", "ab"),
        ("AUG=mix", ""),
        ("lr<0.1 and aug=mix", "b"),
        ("lr<0.1 aug=mix", "b"),
        ("lr<0.1 or aug=mix", "abc"),
        ("lr<0.1 or aug=mix and val/acc>0.75", "abc"),
        ("(lr<0.1 or aug=mix) and val/acc>0.75", "a"),
        ("not lr<0.1", "ad"),
        ("not not lr<0.1", "bc"),
        ("NOT (state=running OR state=crashed)", "b"),
        ("state=running", "ad"),
        ("name~resnet", "ab"),
        ("name!~RESNET", "cd"),
        ("name~resnet-*", "ab"),
        ("name~*-b", "b"),
        ("name~*[a]*", ""),
        ("resnet", "ab"),
        ("'vit c'", "c"),
        ("runs/", "abcd"),
        ('name="vit c"', "c"),
        ('"name"=and', "c"),
        ("config.name=and", "c"),
        ("config.lr<0.1 metric.val/acc<1", "b"),
        ("metric.lr<0.1", ""),
        ("step>=812,440", "a"),
        ("step<1e9", "ab"),
        ("loss<13", ""),
        ("loss='12 ms'", "c"),
        ("loss~ms", "c"),
        ("nothing=1", ""),
        ("nothing!=1", "abcd"),
        ("aug>-1", ""),
    ],
)
def test_a_filter_lets_through(text: str, names: str) -> None:
    test = parse_filter(text)
    assert "".join(letter for letter, one in zip("abcd", ROWS, strict=True) if test(one)) == names


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("lr<", 4, "wanted a value after 'lr' <, got the end"),
        ("lr<<1", 4, "wanted a value after 'lr' <, got '<'"),
        ("lr<fast", 4, "< wants a number, got 'fast'"),
        ("lr<nan", 4, "< wants a number"),
        ("=1", 1, "wanted a name, got '='"),
        ("and", 1, "wanted a name, got 'and'"),
        ("a=1 or", 7, "wanted a name, got the end"),
        ("a=1 and and b=2", 9, "wanted a name, got 'and'"),
        ("(a=1", 5, "the parenthesis of character 1 is not closed"),
        ("a=1)", 4, "')' closes nothing"),
        ("()", 2, "wanted a name"),
        ("a='x", 3, "an opening quote without a closing one"),
        ("a=1 not", 8, "wanted a name, got the end"),
        ("a!b", 2, "'!'"),
    ],
)
def test_what_is_malformed_is_said_with_its_place(text: str, place: int, words: str) -> None:
    with pytest.raises(ArgumentError) as error:
        parse_filter(text)
    assert f"at character {place} " in str(error.value)
    assert words in str(error.value)
    assert "lr<0.1 and aug=mix" in str(error.value)


def test_a_filter_without_end_is_refused() -> None:
    with pytest.raises(ArgumentError, match="may have"):
        parse_filter("x" * (LONGEST + 1))
    for opening in ("(", "not "):
        with pytest.raises(ArgumentError, match="in one another"):
            parse_filter(opening * (DEEPEST + 2) + "a" + ")" * DEEPEST)


def test_names_that_no_run_has_are_said() -> None:
    assert unknown_names(parse_filter("lr<1 and state=running"), ROWS) == ""
    said = unknown_names(parse_filter("learning_rate<1 or lrr=2 or learning_rate=3"), ROWS)
    assert said.startswith("no run has 'learning_rate' or 'lrr'; they have aug, epochs, loss, lr")
    assert unknown_names(parse_filter("x=1"), []) == ""


def test_many_stars_take_no_time() -> None:
    test = parse_filter("name~" + "*a" * 500 + "*b")
    assert not test(row("a" * 5000))


WORDS = st.sampled_from(["lr", "aug", "name", "state", "1", "0.1", "mix", '"a b"', "and", "or", "not", "(", ")", "x*"])
SIGNS = st.sampled_from(["=", "<", ">", "<=", ">=", "!=", "~", "!~", "==", " ", "'", '"', "!", "\x00", "\u202e", "é"])


@given(st.one_of(st.text(max_size=60), st.lists(st.one_of(WORDS, SIGNS), max_size=25).map("".join)))
def test_any_text_is_a_filter_or_is_refused_with_words(text: str) -> None:
    with suppress(ArgumentError):
        test = parse_filter(text)
        assert all(test(one) in (True, False) for one in ROWS)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS, NUMBERS, st.sampled_from(["<", "<=", ">", ">=", "=", "!="]))
def test_numbers_compare_as_in_python(found: float, limit: float, sign: str) -> None:
    wanted = {
        "<": found < limit,
        "<=": found <= limit,
        ">": found > limit,
        ">=": found >= limit,
        "=": found == limit,
        "!=": found != limit,
    }[sign]
    assert parse_filter(f"lr{sign}{limit!r}")(row("a", config={"lr": repr(found)})) == wanted
    assert not math.isnan(found)
