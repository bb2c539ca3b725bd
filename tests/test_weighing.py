"""Outcomes side by side: what a table shows, how wide it is, and what JSON says beyond it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from asynchub.errors import ArgumentError
from asynchub.events import Event, EventsDropped, ScalarUpdated
from asynchub.requests import ParameterChangeRequested
from asynchub.rules import Rule
from asynchub.weighing import outcomes_json, outcomes_table, runs_table
from asynchub.what_if import Outcome, try_rules

VALUES = (0.5, 0.7, 0.6, 0.65, 0.8, 0.79, 0.78, 0.77)


def recorded(*values: float, key: str = "val/accuracy") -> list[Event]:
    return [
        ScalarUpdated(seq=number, time=1e9 + 60 * number, step=10 * number, key=key, value=value)
        for number, value in enumerate(values, 1)
    ]


def tried(*rules: str | Rule, events: list[Event] | None = None, name: str = "run") -> list[Outcome]:
    return try_rules(rules, recorded(*VALUES) if events is None else events, name=name)


def test_rules_stand_side_by_side_with_what_they_differ_in() -> None:
    table = outcomes_table(tried("EarlyStopping:val/accuracy:mode=max:patience=2,3,4,9:min_delta=0"), width=80)
    assert table.splitlines() == [
        "EarlyStopping:val/accuracy:mode=max:min_delta=0",
        "run: 80 steps in 7:00; best val/accuracy 0.8000 (max) of 8 values",
        "patience     stops at  best kept  of step  worse by  steps saved  time saved",
        "       2  *        40     0.7000       20    0.1000    40 (50 %)        4:00",
        "       3  *        80     0.8000       50         0     0 ( 0 %)         0 s",
        "       4  *     never     0.8000       50         0     0 ( 0 %)         0 s",
        "       9  *     never     0.8000       50         0     0 ( 0 %)         0 s",
        "",
        "* no other row saves more and loses no more, or loses less and saves no fewer.",
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_table_keeps_to_its_width_and_shows_more_where_there_is_room(width: int) -> None:
    table = outcomes_table(tried("EarlyStopping:val/accuracy:mode=max:patience=2,3,4,9"), width=width)
    rows = [line for line in table.splitlines() if line[:8].strip().isdigit()]
    assert len(rows) == 4
    assert max(map(len, rows)) <= width
    header = table.splitlines()[2].split("  ")
    assert {"stops at", "best kept", "worse by", "steps saved"} <= {head.strip() for head in header}
    assert ("has not improved on" in table) == (width == 200)


def test_few_rows_are_given_their_reasons() -> None:
    table = outcomes_table(tried("EarlyStopping:val/accuracy:mode=max:patience=2,9"), width=80)
    assert "stops at 40: val/accuracy has not improved on 0.7 of step 20 for 2 checks\n" in table


def test_rules_with_different_arguments_stand_in_one_column() -> None:
    texts = ("patience=2", "patience=3:smooth=2", "stopping_threshold=0.75", "patience=2:start_from=2")
    table = outcomes_table(tried(*(f"EarlyStopping:val/accuracy:mode=max:{text}" for text in texts)), width=80)
    assert [line.split("  ")[0] for line in table.splitlines()[2:7]] == ["rule", *(t.replace(":", " ") for t in texts)]


def test_rows_are_sorted_by_what_matters() -> None:
    outcomes = tried("EarlyStopping:val/accuracy:mode=max:patience=9,2,1")

    def order(sort: Any) -> list[str]:
        return [line.split()[0] for line in outcomes_table(outcomes, sort=sort).splitlines()[3:6]]

    assert order("rule") == ["9", "2", "1"]
    assert order("saved") == ["1", "2", "9"]
    assert order("worse") == ["9", "1", "2"]  # equally bad: the more is saved the better
    with pytest.raises(ArgumentError, match="rule, saved, worse"):
        outcomes_table(outcomes, sort="name")  # type: ignore[arg-type]


def test_a_row_that_another_beats_has_no_mark() -> None:
    table = outcomes_table(tried("EarlyStopping:val/accuracy:mode=max:patience=1,2,9"), width=80)
    assert [("*" in line) for line in table.splitlines()[3:6]] == [True, False, True]


def test_learning_rates_are_shown_step_by_step_and_said_to_be_of_the_recorded_values() -> None:
    events = recorded(*[1.0] * 12, key="val/loss")
    table = outcomes_table(tried("ReduceLROnPlateau:val/loss:lr=0.1,[0.1,0.01]:factor=0.5:patience=2", events=events))
    rows = table.splitlines()[2:5]
    assert rows[0].split("  ")[-1] == "at step: to"
    assert rows[1].split() == ["0.1", "3", "0.0125", "40:", "0.05,", "70:", "0.025,", "100:", "0.0125"]
    assert rows[2].split() == [
        "[0.1,0.01]",
        "6",
        "0.0125,",
        "0.00125",
        "40:",
        "0.05,",
        "70:",
        "0.025,",
        "100:",
        "0.0125",
    ]
    assert "A rule that changes the run is shown on the values as recorded" in table
    narrow = outcomes_table(tried("ReduceLROnPlateau:val/loss:lr=0.1:factor=0.5:patience=0,1", events=events), width=60)
    assert max(len(line) for line in narrow.splitlines()[2:]) <= 60
    assert "..." in narrow


def test_spikes_are_shown_with_their_steps() -> None:
    events = recorded(1.0, 1.0, 9.0, 1.0, 9.5, 1.0, key="train/loss")
    table = outcomes_table(tried("SpikeDetection:train/loss:rtol=2,100", events=events))
    assert [line.split() for line in table.splitlines()[3:5]] == [["2", "2", "30,", "50"], ["100", "0"]]


def test_verdicts_are_shown_where_nothing_followed() -> None:
    table = outcomes_table(tried("EarlyStopping:val/accuracy:mode=max:patience=9"))
    assert "waiting 5, improved 3" in table


def test_what_fails_or_is_blind_or_lacks_events_is_said() -> None:
    class Failing:
        role = "control"

        async def __call__(self, events: Any) -> None:
            async for _ in events:
                raise ValueError("two\nlines")

    class Blind(Failing):
        keys = ("other",)

    events = [*recorded(1.0), EventsDropped(seq=7, missed=6)]
    table = outcomes_table(tried(Rule("failing", Failing), Rule("blind", Blind), events=events))
    assert "failing failed on run after 1 events: ValueError: two" in table
    assert "blind was sent nothing: run has none of its events." in table
    assert "run lacks 6 events" in table


def test_several_runs_are_weighed_together() -> None:
    rules = try_rules("EarlyStopping:val/accuracy:mode=max:patience=2,9", recorded(*VALUES))
    outcomes = []
    for name, values in (("one", VALUES), ("two", (0.1, 0.9, 0.2, 0.3))):
        outcomes += try_rules([one.rule for one in rules], recorded(*values), name=name)
    assert runs_table(outcomes, width=100).splitlines()[:5] == [
        "EarlyStopping:val/accuracy:mode=max",
        "over 2 runs: one, two",
        "patience      stops  steps saved  time saved  worse by  at worst  in",
        "       2  *  2 of 2         25 %        4:00   0.05000    0.1000  one",
        "       9  *  0 of 2          0 %         0 s         0         0",
    ]


def test_json_has_all_that_the_tables_leave_out() -> None:
    class Asking:
        role = "control"
        monitor = "val/accuracy"

        async def __call__(self, events: Any) -> None:
            async for event in events:
                if event.step == 20:
                    events.request(ParameterChangeRequested(name="lr", value=math.nan, group=0, reason="x"))

    said = json.loads(outcomes_json(tried("EarlyStopping:val/accuracy:mode=max:patience=2", Rule("asking", Asking))))
    first, second = said
    assert first["rule"] == "EarlyStopping:val/accuracy:mode=max:patience=2"
    assert first["arguments"] == {"monitor": "val/accuracy", "mode": "max", "patience": 2}
    assert first["stop"]["step"] == 40
    assert first["run"] == {"name": "run", "events": 8, "last_step": 80, "seconds": 420.0, "missed": 0}
    assert first["verdicts"] == {"improved": 2, "waiting": 1, "stop": 1}
    assert second["changes"] == [{"step": 20, "name": "lr", "group": 0, "new": "NaN"}]
    assert second["stop"] is None


def test_where_limits_lie_is_no_decision() -> None:
    (outcome,) = tried("MaxSteps:1000")
    assert outcome.answers.verdicts["step_limit"] == 1
    assert "step_limit" not in outcomes_table([outcome], width=200)
    assert "decided" not in outcomes_table([outcome], width=200)
