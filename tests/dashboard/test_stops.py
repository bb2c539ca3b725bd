"""Why a run will stop, or why it has ended: its limits, its rules, and how its journal ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from asynchub.batches import batch_of, encode_event
from asynchub.dashboard.facts import RunFacts
from asynchub.dashboard.screen import Screen
from asynchub.dashboard.stops import stop_lines
from asynchub.dashboard.view import RunView
from asynchub.events import Event, InfoUpdated, Marked, StateLoaded
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.requests import Decided, Paused, PauseEnded
from asynchub.subscribers.limits import MaxSteps, Timer
from tests.dashboard.runs import Point, Writer

START = 1e9


def facts_of(*events: Event) -> RunFacts:
    """Return what events amount to, of which one comes each second at steps of their own."""
    facts = RunFacts()
    stamped = [event.stamped(number, START + number, 10 * number) for number, event in enumerate(events, 1)]
    facts.take(batch_of([], [(event.seq, encode_event(event, None, None)[0]) for event in stamped]))
    return facts


def said(*events: Event) -> list[str]:
    return [line.text for line in stop_lines(facts_of(*events), None)]


def limit(verdict: str, best: float, value: float | None = None, author: str = "rule") -> Decided:
    return Decided(author=author, verdict=verdict, best=best, value=value, reason=f"stops at {best:g}")


def tick() -> Event:
    return InfoUpdated(key="epoch", value=2)


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([limit("step_limit", 90)], "Step limit in 80 steps, says rule"),
        ([tick(), limit("epoch_limit", 3, 2)], "Epoch limit in 1 epoch, says rule"),
        ([tick(), limit("epoch_limit", 3)], "rule: stops at 3"),
        ([limit("time_limit", 90, 10), tick(), tick()], "Time limit in 1:18 of training, says rule"),
        ([limit("deadline", START + 100)], "Deadline in 1:39, says rule"),
        ([limit("deadline", START)], "Deadline reached, says rule"),
        ([limit("step_limit", 5)], "Step limit reached: 5 steps, says rule"),
    ],
    ids=["steps", "epochs", "epochs counted otherwise", "training", "deadline", "late", "reached"],
)
def test_a_limit_that_a_rule_has_said_stands_with_how_far_it_is(events: list[Event], text: str) -> None:
    assert said(*events) == [text]
    facts = facts_of(*events)
    assert facts.marks.kept() == []
    assert facts.troubles.known(facts.time) == []


def test_the_first_to_fire_stands_first_and_one_limit_is_said_once() -> None:
    infos = [InfoUpdated(key="max_iters", value=500), limit("step_limit", 500), limit("step_limit", 90, author="other")]
    assert said(*infos) == [
        "Step limit in 60 steps, says other (first to fire)",
        "Step limit in 470 steps, says rule",
    ]


def test_other_limits_take_the_place_of_those_that_a_rule_had() -> None:
    assert said(limit("step_limit", 90), limit("deadline", START + 100)) == ["Deadline in 1:38, says rule"]


def test_training_time_is_without_pauses_and_without_what_lies_before_a_state_was_loaded() -> None:
    first = limit("time_limit", 100, 0)
    assert said(first, tick(), tick()) == ["Time limit in 1:38 of training, says rule"]
    assert said(first, Paused(seconds=60.0), tick(), tick()) == ["Time limit in 1:39 of training, says rule"]
    assert said(first, Paused(seconds=60.0), tick(), PauseEnded(seconds=2.0), tick()) == [
        "Time limit in 1:38 of training, says rule"
    ]
    assert said(first, StateLoaded(source="x"), tick()) == ["Time limit in 1:39 of training, says rule"]


def test_of_a_resumed_run_the_state_says_the_limits_of_a_rule_that_has_said_nothing_since() -> None:
    steps, timer = MaxSteps(90, max_epochs=3), Timer(100)
    states = {
        "MaxSteps": {"type": "x", "state": steps.state_dict() | {"said": {"step_limit": 90.0, "epoch_limit": 3.0}}},
        "Timer": {"type": "x", "state": timer.state_dict() | {"said": {"time_limit": 100.0}}},
        "old": {"type": "x", "state": {"epochs": 3}},
        "odd": {
            "type": "x",
            "state": {
                "epochs": 3,
                "said": {"step_limit": "x", "y": 1.0, "epoch_limit": 10**400, "deadline": float("nan")},
            },
        },
    }
    assert sorted(said(Marked(states=states))) == [
        "MaxSteps: step limit of 90, epoch limit of 3",
        "Timer: time limit of 1:40 of training",
        "odd: a limit of steps or epochs, which it has not reached",
        "old: a limit of steps or epochs, which it has not reached",
    ]


# --- runs


def viewed(run: Path, cache: Path) -> Screen:
    with RunView(run, cache) as view:
        while view.update():
            pass
        return view.screen()


def test_a_run_says_the_limits_that_its_rules_have(tmp_path: Path) -> None:
    hub = MessageHub("limits")
    hub.attach(Journal(tmp_path / "run" / "journal", interval=0.01))
    hub.attach(MaxSteps(100))
    hub.attach(Timer(until=time.time() + 10_000, margin=60))
    with hub:
        for hub.step in range(41):
            hub.update_scalar("loss", 1.0)
            hub.settle()
        hub.commit()
        screen = viewed(tmp_path / "run", tmp_path / "cache")
    steps, deadline = sorted((line.text for line in screen.stops), reverse=True)
    assert steps.startswith("Step limit in 60 steps")
    assert "says MaxSteps" in steps
    assert deadline.startswith("Deadline in 2:4")
    assert (screen.stops_head, screen.speed_head) == ("Why it will stop", "What limits its speed")
    assert screen.marks == ()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, "Its program ended, and closed the journal: nobody had asked it to stop"),
        ({"max_iters": 10}, "It has done its 10 steps"),
        ({"max_epochs": 1, "epoch": 1}, "It has done its 1 epoch"),
        ({"max_iters": 11}, "It was closed before its end, and nothing has said why"),
    ],
    ids=["no limit", "steps", "epochs", "early"],
)
def test_of_a_run_that_is_over_the_screen_says_why(limits: dict[str, int], told: str, tmp_path: Path) -> None:
    hub = MessageHub("over")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    for key, value in limits.items():
        hub.update_info(key, value)
    for hub.step in range(10):
        hub.update_scalar("loss", 1.0)
    hub.close()
    screen = viewed(tmp_path / "run", tmp_path / "cache")
    assert [line.text for line in screen.stops] == [told]
    assert (screen.stops_head, screen.speed_head) == ("Why it ended", "What limited its speed")


def test_a_run_that_did_all_it_was_to_do_says_so_before_it_says_who_stopped_it(tmp_path: Path) -> None:
    hub = MessageHub("limits")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    hub.attach(MaxSteps(9))
    hub.update_info("max_iters", 10)
    with hub:
        for hub.step in range(10):
            hub.update_scalar("loss", 1.0)
            hub.settle()
    screen = viewed(tmp_path / "run", tmp_path / "cache")
    assert [line.text for line in screen.stops] == [
        "It has done its 10 steps",
        "Stop applied at step 9 by MaxSteps: step 9 of 9 is reached",
    ]


def test_of_a_run_that_crashed_the_screen_says_that_its_writer_is_gone(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", 1, 0.5)])
    (writer.folder / "LOCK").write_bytes(b"process 4194305\n")
    screen = viewed(tmp_path / "run", tmp_path / "cache")
    if screen.status.state == "crashed":  # in a container it cannot be told
        assert [(line.text, line.level) for line in screen.stops] == [
            ("Its writer is gone and has not closed the journal: it was killed", "bad")
        ]
