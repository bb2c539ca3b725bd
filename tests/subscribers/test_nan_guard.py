"""``NanGuard``: its counts against the simplest model, torch's own ``GradScaler``, and a real loop."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, ControlFailedError, PatternError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import Decided, Request, SkipRequested, StopRequested
from asynchub.subscribers.nan_guard import NanGuard
from asynchub.testing import Drive, drive, scalars

NAN, INF = math.nan, math.inf


def updates(*values: tuple[int | None, str, float]) -> list[ScalarUpdated]:
    """Return an update for each ``(step, key, value)``; None is left as it is."""
    return [
        ScalarUpdated(key=key, value=value).stamped(seq, 0.0, step) for seq, (step, key, value) in enumerate(values, 1)
    ]


def verdicts(answers: list[Event]) -> list[tuple[int | None, str, str]]:
    return [(one.step, one.monitor, one.verdict) for one in answers if isinstance(one, Decided)]


def requests_in(answers: list[Event]) -> list[tuple[type[Event], int | None]]:
    return [(type(one), one.step) for one in answers if isinstance(one, Request)]


def plain(answers: list[Event]) -> list[str]:
    """Return ``answers`` as text, in which NaN is NaN, without what is of the moment they were published in."""
    return [repr(replace(answer, seq=0, time=0.0)) for answer in answers]


# --- the rule


def test_finite_values_are_answered_with_nothing() -> None:
    events = updates((1, "train/loss", 1.0), (1, "train/a/b", -0.0), (2, "train/loss", 1e308), (2, "train/n", 2**80))
    assert drive(NanGuard(), events) == []


def test_it_says_which_key_is_what_at_which_step() -> None:
    decided, request = drive(NanGuard(), updates((6, "train/loss", 1.0), (7, "train/grad/norm", -INF)))
    assert isinstance(decided, Decided)
    assert isinstance(request, StopRequested)
    assert (decided.verdict, decided.monitor, decided.value, decided.step) == ("stop", "train/grad/norm", -INF, 7)
    assert (decided.wait, decided.patience, decided.author) == (1, 0, "NanGuard")
    assert decided.reason == request.reason == "train/grad/norm is -inf at step 7"
    assert request.step == 7


def test_it_watches_the_keys_it_was_given_and_no_others() -> None:
    events = updates((1, "train/loss", NAN), (1, "val/loss", NAN), (1, "val/a/b", NAN), (1, "loss", NAN))
    found = verdicts(drive(NanGuard(["val/*", "loss"]), events))
    assert [key for _, key, _ in found] == ["val/loss", "loss"]
    assert verdicts(drive(NanGuard(), [InfoUpdated(key="train/note", value=NAN)])) == []


def test_it_goes_by_the_patterns_given_to_attach_if_any() -> None:
    hub = MessageHub("patterns")
    hub.attach(NanGuard(), "val/**")
    hub.update_scalars({"train/loss": NAN})
    hub.settle()
    assert not hub.stop_requested
    hub.update_scalars({"val/loss": NAN})
    hub.settle()
    assert hub.stop_reason == "val/loss is nan at step 0"


def test_values_in_a_row_are_tolerated_key_by_key() -> None:
    guard = NanGuard(tolerate=2)
    loss = [NAN, 1.0, NAN, INF, 1.0, NAN, NAN, NAN]
    events = [
        one for pair in zip(scalars("train/loss", loss), scalars("train/norm", [1.0] * 8), strict=True) for one in pair
    ]
    answers = drive(guard, events)
    assert verdicts(answers) == [
        (1, "train/loss", "tolerated"),
        (2, "train/loss", "recovered"),
        (3, "train/loss", "tolerated"),
        (4, "train/loss", "tolerated"),
        (5, "train/loss", "recovered"),
        (6, "train/loss", "tolerated"),
        (7, "train/loss", "tolerated"),
        (8, "train/loss", "stop"),
    ]
    reasons = [one.reason for one in answers if isinstance(one, Decided)]
    assert reasons[3] == "train/loss is inf at step 4, 2 in a row; 2 are tolerated"
    assert reasons[4] == "train/loss is 1 again at step 5"
    assert reasons[7] == "train/loss is nan at step 8, 3 in a row"
    assert requests_in(answers) == [(StopRequested, 8)]
    assert (guard.streaks, guard.counts) == ({"train/loss": 3}, {"train/loss": 6})


def test_infinities_can_be_left_to_be() -> None:
    events = scalars("train/perplexity", [INF, -INF, NAN])
    assert verdicts(drive(NanGuard(infinities=False), events)) == [(3, "train/perplexity", "stop")]


def test_a_loop_is_asked_once_to_skip_a_step_and_once_to_stop() -> None:
    keys = ("train/loss", "train/norm", "train/acc")
    events = updates(*[(step, key, NAN) for step in (1, 2) for key in keys])
    answers = drive(NanGuard(action="skip"), events)
    assert len(verdicts(answers)) == 6
    assert requests_in(answers) == [(SkipRequested, 1), (SkipRequested, 2)]
    assert requests_in(drive(NanGuard(), events)) == [(StopRequested, 1)]


@pytest.mark.parametrize("step", [None, 0])
def test_a_program_need_not_set_a_step(step: int | None) -> None:
    events = updates(*[(step, key, NAN) for _ in range(3) for key in ("train/loss", "train/norm")])
    assert requests_in(drive(NanGuard(action="skip"), events)) == [(SkipRequested, step or 0)] * 3


def test_what_does_not_heal_is_stopped_after_max_actions() -> None:
    answers = drive(NanGuard(action="skip", tolerate=1, max_actions=2), scalars("train/loss", [NAN] * 6))
    assert [verdict for _, _, verdict in verdicts(answers)] == ["tolerated", "skip", "skip", "stop", "stop", "stop"]
    (stop,) = [one for one in answers if isinstance(one, StopRequested)]
    assert stop.reason == "train/loss is nan at step 4, 4 in a row; 2 actions did not help"
    assert requests_in(answers) == [(SkipRequested, 2), (SkipRequested, 3), (StopRequested, 4)]
    forever = drive(NanGuard(action="skip", max_actions=None), scalars("train/loss", [NAN] * 100))
    assert [kind for kind, _ in requests_in(forever)] == [SkipRequested] * 100


def test_a_function_is_called_with_each_event() -> None:
    called: list[ScalarUpdated] = []
    events = updates((1, "train/loss", NAN), (1, "train/norm", INF), (2, "train/loss", 1.0))
    assert [verdict for _, _, verdict in verdicts(drive(NanGuard(action=called.append), events))] == [
        "call",
        "call",
        "recovered",
    ]
    assert [(event.key, event.step) for event in called] == [("train/loss", 1), ("train/norm", 1)]


def test_what_a_function_raises_comes_out_of_the_settle_point() -> None:
    def fail(event: ScalarUpdated) -> None:
        raise FloatingPointError(event.key)

    driven = Drive(NanGuard(action=fail))
    with pytest.raises(ControlFailedError) as failure:
        driven.send(ScalarUpdated(key="train/loss", value=NAN))
    assert [type(error) for error in failure.value.exceptions] == [FloatingPointError]
    driven.close()


def test_a_value_is_the_mean_over_its_samples() -> None:
    events = [
        ScalarUpdated(key="train/loss", value=NAN, count=0, step=1),
        ScalarUpdated(key="train/loss", value=1e308, count=10, step=1),
        ScalarUpdated(key="train/loss", value=10**400, count=1, step=1),
    ]
    (decided, _) = drive(NanGuard(), events)
    assert isinstance(decided, Decided)
    assert decided.value == INF


VALUES = st.one_of(st.floats(-10, 10), st.sampled_from([NAN, INF, -INF]))
UPDATES = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["train/a", "train/b"]), VALUES), max_size=30)
ARGUMENTS = st.fixed_dictionaries(
    {
        "tolerate": st.integers(0, 3),
        "infinities": st.booleans(),
        "max_actions": st.sampled_from([None, 0, 1, 3]),
        "action": st.sampled_from(["stop", "skip"]),
    }
)


@settings(max_examples=200)
@given(UPDATES, ARGUMENTS)
def test_verdicts_are_those_of_a_count_for_each_key(
    values: list[tuple[int, str, float]], arguments: dict[str, Any]
) -> None:
    streaks: dict[str, int] = defaultdict(int)
    totals: dict[str, int] = defaultdict(int)
    wanted = []
    for step, key, value in values:
        if math.isnan(value) or (math.isinf(value) and arguments["infinities"]):
            streaks[key] += 1
            totals[key] += 1
            beyond = streaks[key] - arguments["tolerate"]
            exhausted = arguments["max_actions"] is not None and beyond > arguments["max_actions"]
            wanted.append((step, key, "tolerated" if beyond <= 0 else "stop" if exhausted else arguments["action"]))
        elif streaks.pop(key, 0):
            wanted.append((step, key, "recovered"))
    guard = NanGuard(**arguments)
    assert verdicts(drive(guard, updates(*values))) == wanted
    assert (guard.streaks, guard.counts) == (streaks, totals)


@settings(max_examples=60)
@given(UPDATES, ARGUMENTS)
def test_a_guard_saved_after_any_value_decides_as_if_it_had_not_been(
    values: list[tuple[int, str, float]], arguments: dict[str, Any]
) -> None:
    events = updates(*values)
    whole = NanGuard(**arguments)
    driven = Drive(whole)
    states: list[dict[str, Any]] = [whole.state_dict()]
    answers: list[list[str]] = []
    for event in events:
        answers.append(plain(driven.send(event)))
        states.append(whole.state_dict())
    driven.close()
    asked = False
    for index, event in enumerate(events):
        part = NanGuard(**arguments)
        part.load_state_dict(msgpack.unpackb(msgpack.packb(states[index], strict_types=True)))
        got = drive(part, [event])
        if asked:  # a resumed run is asked to stop once more
            got = [answer for answer in got if not isinstance(answer, StopRequested)]
        asked = asked or StopRequested in [kind for kind, _ in requests_in(got)]
        assert plain(got) == answers[index]
        assert part.state_dict() == states[index + 1]


# --- with torch


class Kept:
    """Keeps the decisions of others."""

    role = "control"
    keys = (Decided,)

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, events: Any) -> None:
        async for event in events:
            self.events.append(event)


def test_the_infinite_gradients_by_which_a_grad_scaler_finds_its_scale_are_tolerated() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1e-5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    hub = MessageHub("scaler")
    hub.attach(NanGuard("train/grad_norm", tolerate=20))
    hub.attach(NanGuard("train/loss"), name="of the loss")
    hub.attach(decided := Kept())
    with hub:
        for hub.step in range(1, 21):
            optimizer.zero_grad()
            loss = (100 * weight).pow(2).sum()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.get_total_norm([weight.grad])
            scaler.step(optimizer)
            scaler.update()
            hub.update_scalars({"train/loss": loss.detach(), "train/grad_norm": norm})
            hub.settle()
        assert not hub.stop_requested
    found = verdicts(decided.events)
    tolerated = [verdict for verdict in found if verdict[2] == "tolerated"]
    assert 5 < len(tolerated) <= 20
    assert found == [*tolerated, (len(tolerated) + 1, "train/grad_norm", "recovered")]


def test_a_loop_that_heeds_it_keeps_its_weights_finite() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    hub, skipped = MessageHub("skipping"), []
    hub.on_request(SkipRequested, lambda request: skipped.append(request.step))
    hub.attach(NanGuard(action="skip"))
    with hub:
        for hub.step in range(1, 30):
            batch = torch.randn(8, 4)
            if hub.step % 10 == 0:
                batch[3, 2] = NAN
            optimizer.zero_grad()
            loss = model(batch).pow(2).mean()
            hub.update_scalar("train/loss", loss)
            hub.settle()
            if hub.step in skipped:
                continue
            loss.backward()
            optimizer.step()
    assert skipped == [10, 20]
    assert model.weight.isfinite().all()


def test_it_can_run_again_and_on_another_hub() -> None:
    guard = NanGuard(tolerate=1)
    for name in ("first", "second"):
        hub = MessageHub(name)
        hub.attach(guard)
        for _ in range(2):
            hub.stop_requested = False
            with hub:
                for value in (NAN, 1.0, NAN, NAN):
                    hub.step += 1
                    hub.update_scalar("train/loss", value)
                    hub.settle()
                assert hub.stop_requested
    assert guard.counts == {"train/loss": 12}


# --- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"keys": ()},
        {"keys": 3},
        {"action": "rollback"},
        {"action": "raise"},
        {"tolerate": -1},
        {"tolerate": 1.5},
        {"infinities": None},
        {"max_actions": -1},
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused_by_name(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ArgumentError, match=name):
        NanGuard(**arguments)


@pytest.mark.parametrize("keys", ["", ["train/*", "a//b"], [3]])
def test_what_is_no_key_pattern_is_refused(keys: Any) -> None:
    with pytest.raises(PatternError):
        NanGuard(keys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("streaks", None),
        ("streaks", {1: 1}),
        ("counts", {"train/loss": "1"}),
        ("acted_step", 1.0),
        ("acted_keys", [1]),
    ],
)
def test_a_malformed_state_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    guard = NanGuard()
    drive(guard, scalars("train/loss", [NAN, NAN]))
    before = guard.state_dict()
    with pytest.raises(StateDictError, match=name):
        guard.load_state_dict({**before, name: value})
    assert guard.state_dict() == before
