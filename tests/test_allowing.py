"""What a run lets be asked from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from asynchub.allowing import COMMANDS, LONGEST, Allowed, Once, ask_of_all, check_words, command_of, in_words, refusal
from asynchub.errors import ArgumentError, PatternError
from asynchub.requests import (
    CheckpointRequested,
    ParameterChangeRequested,
    PauseRequested,
    Request,
    ResumeRequested,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)

EACH: list[tuple[str, Request]] = [
    ("stop", StopRequested()),
    ("checkpoint", CheckpointRequested()),
    ("pause", PauseRequested()),
    ("resume", ResumeRequested()),
    ("skip", SkipRequested()),
    ("rollback", RollbackRequested()),
    ("set", ParameterChangeRequested(name="lr", value=0.1)),
]


def test_there_is_a_word_for_each_kind_that_can_be_asked() -> None:
    assert [(word, command_of(request)[0]) for word, request in EACH] == [(word, word) for word in COMMANDS]
    assert command_of(EACH[-1][1]) == ("set", "lr")


def test_nothing_is_allowed_by_default() -> None:
    for _, request in EACH:
        assert not Allowed(()).allows(request)
        assert "it allows nothing (allow= of its X)" in Allowed(()).why_not(request, "X")


@pytest.mark.parametrize("word", [word for word, _ in EACH])
def test_a_word_allows_its_own_kind(word: str) -> None:
    allowed = Allowed([word if word != "set" else "set/lr"])
    also = {"pause": {"pause", "resume"}}.get(word, {word})
    assert {other for other, request in EACH if allowed.allows(request)} == also
    assert all((allowed.why_not(request, "X") == "") is (other in also) for other, request in EACH)


def test_who_may_ask_for_a_pause_may_end_it_and_not_the_other_way_round() -> None:
    assert Allowed(["pause"]).words == {"pause", "resume"}
    assert Allowed(["resume"]).words == {"resume"}


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("set/lr", {"lr"}),
        ("set/*", {"lr", "EarlyStopping.patience"}),
        ("set/EarlyStopping.*", {"EarlyStopping.patience"}),
        ("set/**", {"lr", "EarlyStopping.patience", "data/workers"}),
        ("set/data/*", {"data/workers"}),
    ],
)
def test_parameters_go_by_the_pattern_of_their_rule(rule: str, names: set[str]) -> None:
    allowed = Allowed([rule])
    assert {name for name in ("lr", "EarlyStopping.patience", "data/workers") if allowed.allows_name(name)} == names


@pytest.mark.parametrize("rule", ["", "set", "set/", "stop/x", "lr", "STOP", "set/a**b/x", 3, None])
def test_a_rule_that_is_none_is_refused(rule: Any) -> None:
    with pytest.raises((ArgumentError, PatternError)):
        Allowed([rule])


def test_one_string_is_no_list_of_rules() -> None:
    with pytest.raises(ArgumentError, match="several rules"):
        Allowed("stop")


def test_an_id_is_decided_once() -> None:
    once, decided = Once(), []

    def decide() -> str:
        decided.append(1)
        return "no"

    assert {once.answer("a", b"x", decide, str) for _ in range(5)} == {"no"}
    assert len(decided) == 1
    assert once.answer("a", b"y", decide, lambda why: f"other: {why}") == "other: its id was that of another request"
    assert once.answer("b", b"x", decide, str) == "no"
    assert len(decided) == 2


def test_so_many_ids_are_remembered_and_no_more() -> None:
    once, decided = Once(remembered=2), []

    def asked(request_id: str) -> None:
        once.answer(request_id, b"", lambda: decided.append(request_id) or "", str)  # type: ignore[func-returns-value]

    for request_id in ("a", "b", "b", "c", "b", "a"):
        asked(request_id)
    assert decided == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    "request_",
    [
        StopRequested(id="x" * (LONGEST + 1)),
        StopRequested(author=3),  # type: ignore[arg-type]
        StopRequested(reason="\ud800"),
        ParameterChangeRequested(name="x" * (LONGEST + 1), value=1),
        ParameterChangeRequested(name=None, value=1),  # type: ignore[arg-type]
        ParameterChangeRequested(name="lr", value=1, group=1.5),  # type: ignore[arg-type]
        ParameterChangeRequested(name="lr", value=1, group=True),
    ],
    ids=["long id", "author no text", "no letter", "long name", "no name", "half a group", "true group"],
)
def test_words_that_are_none_are_refused(request_: Request) -> None:
    with pytest.raises(ArgumentError):
        check_words(request_)


def test_words_that_are_some_are_not() -> None:
    check_words(ParameterChangeRequested(name="lr", value=1, group=2, id="a", author="Ägidius \u202e", reason="\n"))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (StopRequested(), "stop"),
        (ParameterChangeRequested(name="lr", value=0.01), "lr = 0.01"),
        (ParameterChangeRequested(name="lr", value=0.01, group=1), "lr[1] = 0.01"),
        (PauseRequested(), "pause for 1 h at most"),
        (PauseRequested(seconds=120.0), "pause for 2 min at most"),
        (PauseRequested(seconds=90), "pause for 90 s at most"),
        (PauseRequested(seconds="long"), "pause for long s at most"),  # type: ignore[arg-type]
        (ParameterChangeRequested(name="lr", value=10**5000, group=10**5000), "lr[a huge integer] = a huge integer"),
        (PauseRequested(seconds=10**5000), "pause for a huge integer s at most"),
        (Request(), "Request"),
    ],
    ids=["stop", "set", "group", "pause", "minutes", "seconds", "no seconds", "huge", "huge pause", "other"],
)
def test_what_is_asked_is_said_in_words(request_: Request, words: str) -> None:
    assert in_words(request_) == words


def test_several_ranks_apply_nothing_that_they_have_not_agreed_on() -> None:
    asked: list[Request] = []
    agreed: list[Request] = []
    stop = StopRequested()
    ask_of_all(stop, asked.append, None, 1, "X")
    assert (len(asked), len(agreed)) == (1, 0)
    with pytest.raises(ArgumentError, match=r"has 2 ranks.* give its X agree=reducer\.request"):
        ask_of_all(stop, asked.append, None, 2, "X")
    ask_of_all(stop, asked.append, agreed.append, 2, "X")
    assert (len(asked), len(agreed)) == (1, 1)


def test_a_refusal_says_who_asked_for_what() -> None:
    refused = refusal(StopRequested(id="x", reason="why", author="who"), "no")
    assert (refused.request, refused.id, refused.reason, refused.author) == ("StopRequested", "x", "why", "who")
    assert (refused.request_seq, refused.error) == (-1, "no")


@pytest.mark.parametrize(
    ("why", "error"),
    [
        ("expired: it is late", "expired: it is late (lr = 3)"),
        ("already over", "already over (lr = 3)"),
        ("the run does not allow set/lr", "the run does not allow set/lr"),
        ("lr takes a number from 0 to 1", "lr takes a number from 0 to 1"),
    ],
)
def test_the_refusal_of_a_parameter_says_which(why: str, error: str) -> None:
    assert refusal(ParameterChangeRequested(name="lr", value=3), why).error == error


@pytest.mark.parametrize("name", ["id", "author", "reason", "name", "group"])
def test_a_word_that_is_a_huge_integer_is_refused_in_words(name: str) -> None:
    fields: dict[str, Any] = {"name": "lr", "value": 1, name: 10**5000}
    if name == "group":
        check_words(ParameterChangeRequested(**fields))  # an int it is
        return
    with pytest.raises(ArgumentError, match="got a huge integer"):
        check_words(ParameterChangeRequested(**fields))
