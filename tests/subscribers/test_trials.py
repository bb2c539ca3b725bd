"""Rules over several runs: against Optuna's pruners, against models, split at every index, and with live hubs."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, ControlFailedError, PatternError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import Decided, StopRequested
from asynchub.subscribers.trial_group import TrialGroup
from asynchub.subscribers.trials import ASHA, MedianStopping
from asynchub.testing import Drive, drive, scalars

optuna = pytest.importorskip("optuna")

NAN, INF = math.nan, math.inf
Report = tuple[int, float]
"""The number of a trial and the value it reports next."""
EIGHTHS = st.integers(-24, 24).map(lambda number: number / 8)  # exact in binary: ties are ties
REPORTS = st.lists(st.tuples(st.integers(0, 5), EIGHTHS), max_size=60)
WITH_NANS = st.lists(st.tuples(st.integers(0, 5), EIGHTHS | st.sampled_from([NAN, INF, -INF])), max_size=60)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def outcomes(rules: list[Any], reports: list[Report]) -> list[str | None]:
    """Let rules report in turn, each until it is stopped; return the verdict of each report, None if none was due."""
    found: list[str | None] = []
    for number, value in reports:
        if not rules[number].stopped:
            decision = rules[number].check(value)
            found.append(None if decision is None else decision.verdict)
    return found


# --- ASHA


def halving_by_optuna(reports: list[Report], mode: str, grace: int, factor: int, bracket: int) -> list[bool]:
    """Return whether each report of the same trials in the same order is pruned."""
    pruner = optuna.pruners.SuccessiveHalvingPruner(grace, factor, bracket)
    study = optuna.create_study(direction=f"{mode}imize", pruner=pruner)
    trials = [study.ask() for _ in range(6)]
    steps, found = [0] * 6, []
    pruned: set[int] = set()
    for number, value in reports:
        if number not in pruned:
            steps[number] += 1
            trials[number].report(value, steps[number])
            found.append(trials[number].should_prune())
            if found[-1]:
                pruned.add(number)
    return found


@settings(max_examples=300)
@given(REPORTS, st.sampled_from(["min", "max"]), st.integers(1, 3), st.integers(2, 4))
def test_asha_stops_whom_the_successive_halving_of_optuna_prunes(
    reports: list[Report], mode: Any, grace: int, factor: int
) -> None:
    group = TrialGroup()
    rules = [ASHA(group, "loss", mode=mode, max_t=10**6, grace_period=grace, reduction_factor=factor) for _ in range(6)]
    stops = [verdict == "stop" for verdict in outcomes(rules, reports)]
    assert stops == halving_by_optuna(reports, mode, grace, factor, 0)


@given(REPORTS, st.integers(1, 2))
def test_a_nan_is_not_promoted_as_by_optuna(reports: list[Report], grace: int) -> None:
    reports = [(number, NAN if value > 2 else value) for number, value in reports]
    group = TrialGroup()
    rules = [ASHA(group, "loss", max_t=10**6, grace_period=grace, reduction_factor=2) for _ in range(6)]
    stops = [verdict == "stop" for verdict in outcomes(rules, reports)]
    assert stops == halving_by_optuna(reports, "min", grace, 2, 0)


@given(WITH_NANS, st.sampled_from(["min", "max"]), st.integers(1, 3))
def test_brackets_compete_apart_and_begin_at_later_rungs(reports: list[Report], mode: Any, brackets: int) -> None:
    """The model: for each bracket the values at each rung in order of arrival, ranked anew each time."""
    group = TrialGroup()
    rules = [ASHA(group, "loss", mode=mode, max_t=8, reduction_factor=2, brackets=brackets) for _ in range(6)]
    assert [rule.bracket for rule in rules] == [number % brackets for number in range(6)]
    sign = 1 if mode == "min" else -1
    at: dict[tuple[int, int], list[float]] = {}
    steps, stopped, wanted = [0] * 6, set(), []
    for number, value in reports:
        if number in stopped:
            continue
        steps[number] += 1
        verdict = None
        rung = next((2**k for k in range(number % brackets, 3) if 2**k == steps[number]), None)
        if rung is not None:
            there = at.setdefault((number % brackets, rung), [])
            if math.isfinite(value):
                there.append(sign * value)
                best = np.sort(there)[: max(len(there) // 2, 1)]
                verdict = "promoted" if sign * value <= best[-1] else "stop"
            else:
                verdict = "stop"
        if steps[number] == 8:
            verdict = "finished"
        if verdict in ("stop", "finished"):
            stopped.add(number)
        wanted.append(verdict)
    assert outcomes(rules, reports) == wanted


def test_a_check_that_goes_past_several_rungs_competes_at_each() -> None:
    group = TrialGroup()
    first = ASHA(group, "loss", max_t=1000, grace_period=10, reduction_factor=2, unit="step")
    second = ASHA(group, "loss", max_t=1000, grace_period=10, reduction_factor=2, unit="step")
    assert first.check(1.0, 45).verdict == "promoted"  # type: ignore[union-attr]
    assert first.state_dict()["rungs"] == [[10.0, 1.0], [20.0, 1.0], [40.0, 1.0]]
    assert second.check(0.5, 9) is None
    assert second.check(2.0, 25).verdict == "stop"  # type: ignore[union-attr]


def test_a_run_that_has_got_to_max_t_is_finished() -> None:
    rule = ASHA(TrialGroup(), "loss", trial="a", max_t=5, reduction_factor=2)
    *decided, stop = drive(rule, scalars("loss", [1.0] * 9))
    assert isinstance(stop, StopRequested)
    assert (stop.step, stop.reason) == (5, "a has got to 5 checks of 5")
    assert [(one.step, one.verdict) for one in decided if isinstance(one, Decided)] == [
        (1, "promoted"),
        (2, "promoted"),
        (4, "promoted"),
        (5, "finished"),
    ]


def test_the_rungs_of_a_bracket_are_those_of_the_paper() -> None:
    """Li et al. 2020, figure 1: r = 1, R = 9, η = 3; the last rung is the end of the run."""
    group = TrialGroup()
    rules = [ASHA(group, "loss", max_t=9, reduction_factor=3, brackets=2) for _ in range(2)]
    assert [rule.milestones for rule in rules] == [(1, 3), (3,)]


# --- the median rule


def median_model(reports: list[Report], mode: str, grace: int, samples: int) -> list[str]:
    """Return the verdict of each report: the rule as its documentation words it, with NumPy."""
    sign = 1.0 if mode == "min" else -1.0
    values: list[list[float]] = [[] for _ in range(6)]
    stopped: set[int] = set()
    found = []
    for number, value in reports:
        if number in stopped:
            continue
        values[number].append(sign * value)
        t = len(values[number])
        if t < grace:
            found.append("waiting")
            continue
        means: list[float] = []
        for at in range(t, max(grace, 1) - 1, -1):  # the last at which there are enough others
            means = []
            for other in range(6):
                if other == number or len(values[other]) < at:
                    continue
                finite = [one for one in values[other][:at] if math.isfinite(one)]
                means.append(float(np.sum(finite)) / len(finite) if finite else INF)
            if len(means) >= samples:
                break
        if len(means) < samples:
            found.append("waiting")
            continue
        best = min((one for one in values[number] if math.isfinite(one)), default=INF)
        found.append("stop" if best > float(np.median(means)) else "continue")
        if found[-1] == "stop":
            stopped.add(number)
    return found


@settings(max_examples=300)
@given(WITH_NANS, st.sampled_from(["min", "max"]), st.integers(0, 4), st.integers(1, 4))
def test_the_median_rule_decides_as_its_documentation_says(
    reports: list[Report], mode: Any, grace: int, samples: int
) -> None:
    group = TrialGroup()
    rules = [
        MedianStopping(group, "loss", mode=mode, grace_period=grace, min_samples_required=samples) for _ in range(6)
    ]
    assert outcomes(rules, reports) == median_model(reports, mode, grace, samples)


SERIES = st.lists(st.lists(EIGHTHS, min_size=4, max_size=4), min_size=1, max_size=12)


@given(st.lists(EIGHTHS, min_size=1, max_size=12), st.sampled_from(["min", "max"]), st.integers(1, 3))
def test_against_completed_runs_of_flat_values_it_stops_whom_the_median_pruner_of_optuna_does(
    levels: list[float], mode: Any, samples: int
) -> None:
    """Where every value of a run is the same, its mean so far is its value at that step, which Optuna compares with."""
    study = optuna.create_study(
        direction=f"{mode}imize", pruner=optuna.pruners.MedianPruner(n_startup_trials=samples, n_warmup_steps=1)
    )
    group = TrialGroup()
    for level in levels:
        trial, rule = study.ask(), median(group, mode=mode, grace_period=2, min_samples_required=samples)
        pruned = None
        driven = Drive(rule)
        for step in range(4):
            driven.send(ScalarUpdated(key="loss", value=level, step=step))
            trial.report(level, step)
            if trial.should_prune():
                pruned = step
                break
            assert not rule.stopped
        assert rule.stopped == (pruned is not None)
        driven.close()
        state = optuna.trial.TrialState.COMPLETE if pruned is None else optuna.trial.TrialState.PRUNED
        study.tell(trial, level if pruned is None else None, state)


def median(group: TrialGroup, **arguments: Any) -> MedianStopping:
    return MedianStopping(group, "loss", against="completed", **arguments)


@given(SERIES, st.sampled_from(["min", "max"]))
def test_at_the_first_check_it_stops_whom_the_median_pruner_does_whatever_follows(
    series: list[list[float]], mode: Any
) -> None:
    """At the first check the mean so far is the value, so both compare the same: here, each against all before it."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0)
    study = optuna.create_study(direction=f"{mode}imize", pruner=pruner)
    group = TrialGroup()
    for values in series:
        trial, rule = study.ask(), median(group, mode=mode, grace_period=1, min_samples_required=1)
        driven = Drive(rule)
        driven.send(ScalarUpdated(key="loss", value=values[0], step=0))
        trial.report(values[0], 0)
        assert trial.should_prune() == rule.stopped
        driven.close()
        state = optuna.trial.TrialState.PRUNED if rule.stopped else optuna.trial.TrialState.COMPLETE
        study.tell(trial, None if rule.stopped else values[0], state)


def test_only_runs_that_have_ended_by_themselves_are_completed() -> None:
    group = TrialGroup()
    running, stopped, late = median(group), median(group), median(group, min_samples_required=1, grace_period=1)
    for one in (running, stopped):
        one.check(0.0)
    stopped.stopped = True
    assert outcomes([late], [(0, 9.0)]) == ["waiting"]
    drive(running, scalars("loss", [0.0]))
    assert outcomes([late], [(0, 9.0)]) == ["stop"]


def test_by_steps_it_compares_at_the_last_step_that_enough_others_have_got_to() -> None:
    group = TrialGroup()
    fast, slow, late = (
        MedianStopping(group, "loss", unit="step", grace_period=10, min_samples_required=2) for _ in range(3)
    )
    for step, value in ((100, 1.0), (200, 3.0), (300, 0.0)):
        fast.check(value, step)
    for step, value in ((90, 5.0), (180, 3.0)):
        slow.check(value, step)
    decision = late.check(2.0, 250)
    assert decision is not None
    assert (decision.verdict, decision.bar) == ("continue", (1.0 + 4.0) / 2)  # what both had on average by step 180
    assert decision.reason.endswith("of what 2 other trials had on average by step 180")


def test_of_runs_side_by_side_the_first_to_report_is_judged_too() -> None:
    """Ray 2.60 compares with those that have got as far, which nobody has when the first of a round reports."""
    group = TrialGroup()
    rules = [MedianStopping(group, "loss", grace_period=2, min_samples_required=2) for _ in range(3)]
    outcomes(rules, [(number, 9.0 if number == 0 else 1.0) for _ in range(5) for number in range(3)])
    assert [(rule.stopped, rule.t) for rule in rules] == [(True, 3), (False, 5), (False, 5)]


@pytest.mark.parametrize("size", [1e308, -1e308])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_sums_of_the_largest_numbers_are_no_infinities(size: float, mode: Any) -> None:
    group = TrialGroup()
    rules = [MedianStopping(group, "loss", mode=mode, min_samples_required=2) for _ in range(3)]
    reports = [(number, size) for _ in range(9) for number in range(3)]
    assert set(outcomes(rules, reports)) == {"waiting", "continue"}
    assert rules[0].best == size


# --- what both share


def asha(group: TrialGroup, **arguments: Any) -> ASHA:
    return ASHA(group, "loss", **{"max_t": 16, "reduction_factor": 2, **arguments})


def median_stopping(group: TrialGroup, **arguments: Any) -> MedianStopping:
    return MedianStopping(group, "loss", **{"grace_period": 2, "min_samples_required": 2, **arguments})


every_rule = pytest.mark.parametrize("make", [asha, median_stopping])


def test_the_reasons_name_what_was_compared() -> None:
    group = TrialGroup()
    rules = [asha(group, trial=name, max_t=99) for name in "abc"]
    decisions = [rule.check(value) for rule, value in zip(rules, (0.5, 0.25, 0.75), strict=True)]
    assert [one and one.reason for one in decisions] == [
        "loss is 0.5 at the rung of 1 check, among the best 1 of the 1 trials that have got there",
        "loss is 0.25 at the rung of 1 check, among the best 1 of the 2 trials that have got there",
        "loss is 0.75 at the rung of 1 check, not among the best 1 of the 3 trials that have got there",
    ]
    group = TrialGroup()
    medians = [median_stopping(group, grace_period=2, mode="max") for _ in range(3)]
    for value in (0.5, 0.75):
        found = [rule.check(value + number / 8) for number, rule in reversed(list(enumerate(medians)))]
    assert [one and one.reason for one in found] == [
        "0 other trials to compare with, and 2 are wanted",
        "1 other trial to compare with, and 2 are wanted",
        "the best loss by 2 checks is 0.75, worse than the median 0.8125 of what 2 other trials had on average by 2 "
        "checks",
    ]
    ahead = medians[2].check(0.5)
    assert ahead is not None
    assert ahead.reason == (
        "the best loss by 3 checks is 1, not worse than the median 0.6875 of what 2 other trials had on average by 2 "
        "checks"
    )


@every_rule
@given(WITH_NANS)
def test_max_is_min_of_the_negated_values(make: Any, reports: list[Report]) -> None:
    groups = TrialGroup(), TrialGroup()
    smallest = [make(groups[0]) for _ in range(6)]
    largest = [make(groups[1], mode="max") for _ in range(6)]
    negated = [(number, -value) for number, value in reports]
    assert outcomes(smallest, reports) == outcomes(largest, negated)


@every_rule
@given(WITH_NANS)
def test_a_value_that_is_not_finite_never_becomes_the_best(make: Any, reports: list[Report]) -> None:
    group = TrialGroup()
    rules = [make(group) for _ in range(6)]
    outcomes(rules, reports)
    assert all(rule.best is None or math.isfinite(rule.best) for rule in rules)


@every_rule
def test_a_run_of_nans_is_stopped_once_there_are_others_to_compare_with(make: Any) -> None:
    group = TrialGroup()
    rules = [make(group) for _ in range(3)]
    reports = [(number, 1.0 if number else NAN) for _ in range(4) for number in (1, 2, 0)]
    outcomes(rules, reports)
    assert rules[0].stopped


@every_rule
def test_it_asks_once_and_reports_nothing_after_that(make: Any) -> None:
    group = TrialGroup()
    for _ in range(2):
        outcomes([make(group)], [(0, 0.0)] * 6)
    rule = make(group)
    answers = drive(rule, scalars("loss", [1.0] * 6))
    stops = [one for one in answers if isinstance(one, StopRequested)]
    assert len(stops) == 1
    assert stops[0].reason == rule.reason
    assert isinstance(answers[-1], StopRequested)
    assert rule.t == stops[0].step


@every_rule
def test_a_check_is_the_mean_over_its_samples_and_none_over_no_samples(make: Any) -> None:
    rule = make(TrialGroup())
    driven = Drive(rule, "**")
    for event in (
        ScalarUpdated(key="loss", value=8.0, count=0),
        InfoUpdated(key="loss", value=9.0),
        ScalarUpdated(key="loss/a", value=7.0),
        ScalarUpdated(key="loss", value=6.0, count=4),
    ):
        driven.send(event)
    driven.close()
    assert (rule.t, rule.best) == (1, 1.5)


@every_rule
def test_steps_that_do_not_rise_are_not_looked_at_and_said_once(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    rule = make(TrialGroup(), trial="a", unit="step", grace_period=2)
    events = [ScalarUpdated(key="loss", value=1.0 / (n + 1), step=step) for n, step in enumerate((5, 5, 4, 7))]
    with caplog.at_level(logging.WARNING, "asynchub"):
        drive(rule, events)
    assert (rule.t, rule.best) == (7, 0.25)
    kind = type(rule).__name__
    assert caplog.messages == [f"<{kind} of 'a'> of 'loss' goes by rising steps, got 5 after 5"]


# --- resuming


def rivals(make: Any, **arguments: Any) -> tuple[TrialGroup, list[Any]]:
    group = TrialGroup()
    return group, [make(group, trial=f"trial {number}", **arguments) for number in range(4)]


def restored(make: Any, group: TrialGroup, rule: Any) -> Any:
    state = msgpack.unpackb(msgpack.packb(rule.state_dict(), strict_types=True))
    other = make(group, trial=rule.trial)
    for _ in range(2):  # which changes nothing the second time
        other.load_state_dict(state)
    assert repr(other.state_dict()) == repr(rule.state_dict())  # a NaN equals no other
    return other


LIMITED = st.lists(st.tuples(st.integers(0, 3), EIGHTHS | st.sampled_from([NAN, INF])), max_size=40)


@every_rule
@settings(max_examples=40)
@given(reports=LIMITED)
def test_one_run_that_dies_at_any_report_takes_its_place_again(make: Any, reports: list[Report]) -> None:
    whole = outcomes(rivals(make)[1], reports)
    for index in range(len(reports)):
        group, rules = rivals(make)
        before = outcomes(rules, reports[:index])
        number = reports[index][0]
        rules[number] = restored(make, group, rules[number])
        assert before + outcomes(rules, reports[index:]) == whole


@every_rule
@settings(max_examples=40)
@given(reports=LIMITED)
def test_all_runs_that_die_at_any_report_go_on_in_a_new_group(make: Any, reports: list[Report]) -> None:
    whole = outcomes(rivals(make)[1], reports)
    for index in range(len(reports)):
        _, rules = rivals(make)
        before = outcomes(rules, reports[:index])
        group = TrialGroup()
        rules = [restored(make, group, rule) for rule in rules]
        assert before + outcomes(rules, reports[index:]) == whole


@every_rule
def test_a_run_rewound_takes_back_what_it_had_reported_since(make: Any) -> None:
    rules = rivals(make)[1]
    outcomes(rules, [(0, 3.0), (1, 2.0)])
    state = rules[0].state_dict()
    outcomes(rules, [(0, -9.0)] * 3)
    rules[0].load_state_dict(state)
    assert rules[0].state_dict() == state
    assert rules[0].best == 3.0


@every_rule
def test_a_resumed_run_that_had_been_stopped_is_asked_again(make: Any) -> None:
    group = TrialGroup()
    for _ in range(2):
        outcomes([make(group)], [(0, 0.0)] * 4)
    rule = make(group, trial="worse")
    drive(rule, scalars("loss", [1.0] * 4))
    assert rule.stopped
    (stop,) = drive(restored(make, group, rule), scalars("loss", [1.0] * 2))
    assert isinstance(stop, StopRequested)
    assert stop.step == 1


def test_the_bracket_of_a_trial_is_kept_whatever_the_order_of_the_resumed_ones() -> None:
    group = TrialGroup()
    states = [ASHA(group, "loss", trial=name, max_t=9, reduction_factor=3, brackets=2).state_dict() for name in "ab"]
    group = TrialGroup()
    late, early = (ASHA(group, "loss", trial=name, max_t=9, reduction_factor=3, brackets=2) for name in "ba")
    early.load_state_dict(states[0])
    late.load_state_dict(states[1])
    assert (early.bracket, late.bracket) == (0, 1)


@every_rule
@pytest.mark.parametrize(
    ("name", "value"),
    [("checks", None), ("t", "a"), ("best", "low"), ("stopped", 1), ("ended", None), ("reason", 2)],
)
def test_a_state_that_is_not_its_own_is_refused_and_changes_nothing(make: Any, name: str, value: Any) -> None:
    rule = make(TrialGroup())
    rule.check(1.0)
    before = rule.state_dict()
    with pytest.raises(StateDictError, match=name):
        rule.load_state_dict({**before, name: value})
    assert rule.state_dict() == before


@pytest.mark.parametrize("value", [1, [1], [[1, 2, 3]], [[1, None]], [[2, 1.0], [1, 1.0]], [[True, 1.0]]])
def test_reports_and_rungs_must_be_pairs_of_numbers_that_rise(value: Any) -> None:
    for rule, name in ((asha(TrialGroup()), "rungs"), (median_stopping(TrialGroup()), "reports")):
        rule.check(1.0)
        before = rule.state_dict()
        with pytest.raises(StateDictError, match=name):
            rule.load_state_dict({**before, name: value})
        assert rule.state_dict() == before


def test_a_bracket_that_there_is_not_is_refused() -> None:
    rule = asha(TrialGroup())
    with pytest.raises(StateDictError, match="bracket"):
        rule.load_state_dict({**rule.state_dict(), "bracket": 1})
    with pytest.raises(StateDictError, match="finite"):
        rule.load_state_dict({**rule.state_dict(), "rungs": [[1, NAN]]})


# --- the group


def test_trials_without_a_name_are_numbered_and_a_name_of_the_program_is_kept() -> None:
    group = TrialGroup()
    names = [asha(group, trial=name).trial for name in (None, "trial 2", None, "x", None)]
    assert names == ["trial 1", "trial 2", "trial 3", "x", "trial 5"]
    assert [asha(group, trial="trial 7").trial, asha(group).trial] == ["trial 7", "trial 8"]
    assert group.trials == ("trial 1", "trial 2", "trial 3", "x", "trial 5", "trial 7", "trial 8")


def test_the_rules_of_a_group_must_agree() -> None:
    group = TrialGroup()
    asha(group)
    with pytest.raises(ArgumentError, match=r"max_t=16.*got.*max_t=17.*another TrialGroup"):
        asha(group, max_t=17)
    median_stopping(group, mode="max")  # another kind of rule, another contest
    ASHA(group, "val/acc", mode="max", max_t=9)
    with pytest.raises(ArgumentError, match="must agree"):
        median_stopping(group, mode="min")
    assert group.trials == ("trial 1",)


def test_a_rule_whose_name_another_has_taken_reports_no_more() -> None:
    group = TrialGroup()
    old, new = asha(group, trial="a"), asha(group, trial="a")
    new.check(1.0)
    with pytest.raises(ControlFailedError) as caught:
        drive(old, scalars("loss", [1.0]))
    assert "give each run of a TrialGroup its own trial=" in str(caught.value.exceptions[0])


def test_rules_of_many_threads_count_every_report() -> None:
    group = TrialGroup()
    rules = [median_stopping(group, min_samples_required=100) for _ in range(8)]
    threads = [threading.Thread(target=outcomes, args=([rule], [(0, 1.0)] * 500)) for rule in rules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [rule.t for rule in rules] == [500] * 8
    survivors = [asha(group, trial=f"t{number}", max_t=10**6) for number in range(64)]
    threads = [threading.Thread(target=rule.check, args=(number,)) for number, rule in enumerate(survivors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(rule.state_dict()["rungs"]) for rule in survivors) == 64
    assert not survivors[0].stopped


def curves() -> list[list[float]]:
    rng = np.random.default_rng(7)
    floors = rng.uniform(0, 1, 9)
    return [[float(floor + math.exp(-t / 4) + 0.01 * rng.normal()) for t in range(27)] for floor in floors]


def test_hubs_whose_loops_take_turns_keep_the_best_run() -> None:
    group, series = TrialGroup(), curves()
    hubs = [MessageHub(f"run {number}") for number in range(9)]
    rules = [ASHA(group, "val/loss", max_t=27, reduction_factor=3) for _ in hubs]
    for hub, rule in zip(hubs, rules, strict=True):
        hub.attach(rule)
    steps = 0
    for t in range(27):
        for hub, values in zip(hubs, series, strict=True):
            if hub.stop_requested:
                continue
            hub.step = t
            steps += 1
            hub.update_scalar("val/loss", values[t])
            hub.settle()
    best = min(range(9), key=lambda number: series[number][-1])
    assert (rules[best].t, rules[best].reason) == (27, f"{rules[best].trial} has got to 27 checks of 27")
    assert steps < 9 * 27 / 2
    for hub in hubs:
        hub.close()


def test_hubs_in_threads_share_a_group() -> None:
    group, series = TrialGroup(), curves()
    rules = [MedianStopping(group, "val/loss", trial=str(number)) for number in range(9)]
    barrier = threading.Barrier(9)

    def run(number: int) -> None:
        hub = MessageHub(f"run {number}")
        hub.attach(rules[number])
        with hub:
            for t, value in enumerate(series[number]):
                hub.step = t
                hub.update_scalar("val/loss", value)
                barrier.wait(30)  # so that they are about as far
                if not hub.stop_requested:
                    hub.settle()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = [values[-1] for values in series]
    assert not rules[int(np.argmin(last))].stopped
    assert rules[int(np.argmax(last))].stopped
    assert sum(rule.stopped for rule in rules) >= 2


def test_the_state_of_a_hub_holds_its_own_trial_only() -> None:
    group = TrialGroup()
    hub, other = MessageHub("one"), MessageHub("other")
    for one, name in ((hub, "a"), (other, "b")):
        one.attach(asha(group, trial=name))
        one.update_scalar("loss", 1.0)
        one.settle()
    saved = hub.state_dict()
    again = MessageHub("again")
    again.load_state_dict(saved)
    rule = asha(group, trial="a")
    again.attach(rule)
    assert (rule.t, rule.best) == (1, 1.0)
    again.update_scalar("loss", 0.5)
    again.settle()
    assert rule.state_dict()["rungs"] == [[1.0, 1.0], [2.0, 0.5]]
    for one in (hub, other, again):
        one.close()


# --- arguments


@every_rule
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"trial": ""}, "trial must be"),
        ({"trial": 3}, "trial must be"),
        ({"mode": "less"}, "'min' or 'max'"),
        ({"unit": "epoch"}, "'check' or 'step'"),
        ({"grace_period": -1}, "grace_period"),
        ({"grace_period": 1.5}, "grace_period"),
    ],
)
def test_arguments_that_cannot_be_are_refused(make: Any, arguments: dict[str, Any], text: str) -> None:
    group = TrialGroup()
    with pytest.raises(ArgumentError, match=text):
        make(group, **arguments)
    assert group.trials == ()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_t": 1}, "max_t must be an int of at least 2"),
        ({"max_t": 8, "grace_period": 8}, "max_t"),
        ({"reduction_factor": 1}, "reduction_factor"),
        ({"reduction_factor": NAN}, "reduction_factor"),
        ({"brackets": 0}, "brackets"),
        ({"max_t": 9, "reduction_factor": 3, "brackets": 3}, "brackets must be at most 2"),
    ],
)
def test_schedules_that_cannot_be_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        asha(TrialGroup(), **arguments)


def test_the_median_rule_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ArgumentError, match="'reached' or 'completed'"):
        median_stopping(TrialGroup(), against="all")
    with pytest.raises(ArgumentError, match="min_samples_required"):
        median_stopping(TrialGroup(), min_samples_required=0)


def test_a_group_and_a_key_are_needed() -> None:
    with pytest.raises(ArgumentError, match="TrialGroup"):
        asha(None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="one key"):
        ASHA(TrialGroup(), "val/*", max_t=9)
    with pytest.raises(PatternError):
        ASHA(TrialGroup(), "", max_t=9)


def test_decisions_are_published_with_value_and_bar() -> None:
    group = TrialGroup()
    asha(group).check(0.25)
    events: list[Event] = drive(asha(group), scalars("loss", [0.5]))
    (decided, _) = events
    assert isinstance(decided, Decided)
    assert (decided.author, decided.verdict, decided.monitor) == ("ASHA", "stop", "loss")
    assert (decided.value, decided.best, decided.step) == (0.5, 0.25, 1)
