"""What may be asked of a run from afar, and what becomes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.allowing import COMMANDS, Allowed, command_of
from asynchub.bridges.commands import Commands, decode_answer, encode_request
from asynchub.bridges.opening import open_transport
from asynchub.bridges.subjects import Subjects
from asynchub.codec.encoder import dumps
from asynchub.errors import ArgumentError, StateError
from asynchub.hub import MessageHub
from asynchub.requests import (
    CheckpointRequested,
    ParameterChangeRequested,
    PauseRequested,
    Request,
    RequestRefused,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)
from tests.bridges.places import WAIT, Place, bridged

SUBJECTS = Subjects("run")


class Run:
    """A run that is asked something."""

    def __init__(self, *rules: str) -> None:
        self.asked: list[Request] = []
        self.refused: list[RequestRefused] = []
        self.commands = Commands(SUBJECTS, Allowed(rules), self.asked.append, self.refused.append)

    def ask(self, request: Request, subject: str | None = None) -> str:
        return self.send(encode_request(request), subject or SUBJECTS.command(*command_of(request)))

    def send(self, data: bytes, subject: str = SUBJECTS.command("stop")) -> str:
        return decode_answer(asyncio.run(self.commands.answer(subject, data)))


REQUESTS: list[tuple[str, Request]] = [
    ("stop", StopRequested(id="a", reason="enough", author="me")),
    ("checkpoint", CheckpointRequested(id="b")),
    ("skip", SkipRequested(id="c")),
    ("rollback", RollbackRequested(id="d")),
    ("pause", PauseRequested(id="g", seconds=60.0)),
    ("set/lr", ParameterChangeRequested(id="e", name="lr", value=0.1, group=1)),
    ("set/data/**", ParameterChangeRequested(id="f", name="data/work ers/ä", value={"n": [1, None]})),
]


@pytest.mark.parametrize(("rule", "request_"), REQUESTS, ids=[rule for rule, _ in REQUESTS])
def test_what_is_allowed_is_asked_of_the_run_and_nothing_else_is(rule: str, request_: Request) -> None:
    run = Run(rule)
    assert run.ask(request_) == ""
    (asked,) = run.asked
    assert (type(asked), asked.id, asked.reason, asked.author) == (
        type(request_),
        request_.id,
        request_.reason,
        request_.author,
    )
    if isinstance(request_, PauseRequested):
        assert asked == request_
    if isinstance(asked, ParameterChangeRequested) and isinstance(request_, ParameterChangeRequested):
        assert (asked.name, asked.value, asked.group) == (request_.name, request_.value, request_.group)
    for other, unwanted in REQUESTS:
        if other != rule:
            assert "does not allow" in run.ask(unwanted)
    assert len(run.asked) == 1


def test_nothing_is_allowed_by_default() -> None:
    run = Run()
    for _, request in REQUESTS:
        assert "it allows nothing" in run.ask(request)
    assert run.asked == []
    assert [refused.request for refused in run.refused] == [type(request).__name__ for _, request in REQUESTS]


def test_what_is_refused_says_who_asked_for_what() -> None:
    run = Run()
    run.ask(StopRequested(id="x", reason="why", author="who"))
    (refused,) = run.refused
    assert (refused.id, refused.reason, refused.author) == ("x", "why", "who")
    assert (refused.request, refused.request_seq) == ("StopRequested", -1)


@pytest.mark.parametrize("name", ["lr", "data/x", "data", "lrx", "", "set/lr", "*"])
def test_parameters_go_by_the_pattern_of_their_rule(name: str) -> None:
    run = Run("set/lr", "set/data/*")
    assert (run.ask(ParameterChangeRequested(id=name, name=name, value=1)) == "") is (name in ("lr", "data/x"))


@pytest.mark.parametrize("rule", ["", "set", "set/", "stop/x", "explode", "set/a**b/[", "STOP", 3, None])
def test_a_rule_that_is_none_is_refused(rule: Any) -> None:
    with pytest.raises((ArgumentError, ValueError)):
        Allowed([rule])


def test_a_request_on_the_subject_of_another_kind_is_refused() -> None:
    run = Run("stop", "set/**")
    change = ParameterChangeRequested(id="a", name="lr", value=9.0)
    for subject in (
        SUBJECTS.command("stop"),
        SUBJECTS.command("set", "wd"),
        SUBJECTS.command("set"),
        SUBJECTS.command("stop", "lr"),
        Subjects("other").command("set", "lr"),
    ):
        assert "does not belong to the subject" in run.ask(change, subject)
    assert "does not belong" in run.ask(StopRequested(id="b"), SUBJECTS.command("set", "lr"))
    assert run.asked == []
    assert len(run.refused) == 6


def test_one_id_is_applied_once_however_often_it_is_asked() -> None:
    run = Run("stop")
    answers = {run.ask(StopRequested(id="a", reason="r", time=time)) for time in (1.0, 2.0, 3.0)}
    assert (answers, len(run.asked)) == ({""}, 1)


def test_what_was_refused_once_is_refused_again_and_said_once() -> None:
    run = Run("stop")
    assert run.ask(SkipRequested(id="a")) == run.ask(SkipRequested(id="a")) != ""
    assert len(run.refused) == 1


def test_another_request_with_the_same_id_is_refused() -> None:
    run = Run("stop", "set/lr")
    assert run.ask(ParameterChangeRequested(id="a", name="lr", value=1.0)) == ""
    assert "id was that of another" in run.ask(ParameterChangeRequested(id="a", name="lr", value=2.0))
    assert "id was that of another" in run.ask(StopRequested(id="a"))
    assert len(run.asked) == 1


def test_requests_without_an_id_are_each_their_own() -> None:
    run = Run("stop")
    for _ in range(2):
        assert run.ask(StopRequested()) == ""
    assert len({request.id for request in run.asked}) == 2
    assert "" not in {request.id for request in run.asked}


def test_key_step_and_seq_are_not_for_others_to_choose() -> None:
    run = Run("stop")
    run.ask(StopRequested(id="a", key="train/loss", step=2**70, seq=5, time=1.0))
    assert run.asked == [StopRequested(id="a")] or repr(run.asked[0]) == repr(StopRequested(id="a"))


HOSTILE: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("no msgpack", b"\xc1"),
    ("a number", msgpack.packb(3)),
    ("a list", dumps([StopRequested.__name__])),
    ("no fields", dumps({})),
    ("another event", dumps({"event": "ScalarUpdated", "key": "a", "value": 1.0})),
    ("an unknown kind", dumps({"event": "Explode", "id": "a"})),
    ("the base of all", dumps({"event": "Request", "id": "a"})),
    ("an id that is none", dumps({"event": "StopRequested", "id": 3})),
    ("an author that is none", dumps({"event": "StopRequested", "id": "a", "author": ["x"]})),
    ("a long reason", dumps({"event": "StopRequested", "id": "a", "reason": "x" * 5000})),
    ("a large one", dumps({"event": "StopRequested", "id": "a", "reason": "x" * 2**17})),
    ("a deep one", dumps({"event": "StopRequested", "id": [[[[[[[[[[[1]]]]]]]]]]]})),
    ("a kind that is a list", dumps({"event": ["StopRequested"]})),
    ("a truncated one", encode_request(StopRequested(id="a"))[:-3]),
]


@pytest.mark.parametrize("data", [data for _, data in HOSTILE], ids=[name for name, _ in HOSTILE])
def test_what_is_no_request_is_refused_and_said(data: bytes) -> None:
    run = Run(*[word for word in COMMANDS if word != "set"], "set/**")
    assert run.send(data) != ""
    assert run.asked == []
    (refused,) = run.refused
    assert len(refused.error) < 3000


@settings(max_examples=100)
@given(st.binary(max_size=60), st.sampled_from([SUBJECTS.command("stop"), SUBJECTS.command("set", "lr"), "x", ""]))
def test_no_bytes_break_it(data: bytes, subject: str) -> None:
    run = Run("stop", "set/**")
    assert run.send(data, subject) != ""


@pytest.mark.parametrize("group", ["x", 1.5, [1]])
def test_a_group_is_an_int(group: Any) -> None:
    run = Run("set/**")
    assert "group of a request" in run.ask(ParameterChangeRequested(id="a", name="lr", value=1.0, group=group))


@pytest.mark.parametrize("data", [b"", b"\xc1", dumps({}), dumps({"refused": 3}), dumps([])])
def test_an_answer_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(StateError):
        decode_answer(data)


def test_a_kind_that_cannot_be_asked_from_afar_is_refused_where_it_is_asked() -> None:
    class Own(Request):
        pass

    with pytest.raises(ArgumentError, match="from afar one can ask"):
        command_of(Own())


# --- of a real run


def asked(place: Place, request: Request) -> str:
    """Return what a run answers."""

    async def ask() -> str:
        transport = open_transport(place.url, place.run)
        await transport.connect(WAIT)
        try:
            subject = Subjects(place.run).command(*command_of(request))
            return decode_answer(await transport.ask(subject, encode_request(request), WAIT))
        finally:
            await transport.close(1.0)

    return asyncio.run(ask())


def test_a_run_applies_what_it_allows_and_says_what_it_refuses() -> None:
    place = Place()
    bridge = bridged(place, allow=("set/lr",))
    hub: MessageHub = bridge._hub
    changed: list[ParameterChangeRequested] = []
    hub.on_request(ParameterChangeRequested, changed.append)
    with hub, hub.subscribe(Request, RequestRefused) as events:
        hub.step = 7
        bridge.deliver(WAIT)
        assert asked(place, ParameterChangeRequested(id="a", name="lr", value=0.5, author="me")) == ""
        assert "does not allow stop" in asked(place, StopRequested(id="b", author="me"))
        hub.settle()
        seen = [(type(event).__name__, event.id, event.author, event.step) for event in events._take()]
    assert [one.value for one in changed] == [0.5]
    assert not hub.stop_requested
    assert seen == [("ParameterChangeRequested", "a", "me", 7), ("RequestRefused", "b", "me", 7)]


def test_several_ranks_apply_nothing_that_they_have_not_agreed_on() -> None:
    place = Place()
    bridge = bridged(place, allow=("stop",), world=2, rank=0)
    with bridge._hub as hub:
        bridge.deliver(WAIT)
        assert "agree=reducer.request" in asked(place, StopRequested(id="a"))
        hub.settle()
        assert not hub.stop_requested


def test_with_agree_a_request_goes_there_and_what_that_raises_refuses_it() -> None:
    place = Place()
    given: list[Request] = []

    def agree(request: Request) -> None:
        given.append(request)
        if len(given) > 1:
            raise RuntimeError("not now")

    bridge = bridged(place, allow=("stop",), world=2, rank=0, agree=agree)
    with bridge._hub as hub:
        bridge.deliver(WAIT)
        assert asked(place, StopRequested(id="a")) == ""
        assert asked(place, StopRequested(id="b")) == "RuntimeError: not now"
        hub.settle()
        assert not hub.stop_requested
    assert [request.id for request in given] == ["a", "b"]


def test_other_ranks_than_the_first_answer_nothing() -> None:
    place = Place()
    bridge = bridged(place, allow=("stop",), world=2, rank=1)
    with bridge._hub:
        bridge.deliver(WAIT)
        with pytest.raises(ConnectionError, match="nobody serves"):
            asked(place, StopRequested(id="a"))
