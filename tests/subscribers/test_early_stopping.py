"""Early stopping: its rule against a model, the cases that real early stoppers disagree on, and its life on a hub."""

from __future__ import annotations

import logging
import math
import threading
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, ControlFailedError, PatternError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import Decided, StopRequested
from asynchub.subscribers.early_stopping import EarlyStopping, StoppingReason
from asynchub.testing import Drive, drive, scalars

NAN, INF = math.nan, math.inf
REASONS = StoppingReason


def stops(answers: list[Event]) -> list[StopRequested]:
    return [answer for answer in answers if isinstance(answer, StopRequested)]


def decisions(answers: list[Event]) -> list[Decided]:
    return [answer for answer in answers if isinstance(answer, Decided)]


def stop_index(series: list[float], **arguments: Any) -> int | None:
    """Return the index of the value of ``series`` at which training is asked to stop."""
    driven = Drive(EarlyStopping("val/loss", **arguments))
    found = [index for index, event in enumerate(scalars("val/loss", series)) if stops(driven.send(event))]
    driven.close()
    return found[0] if found else None


def saved_and_loaded(stopping: EarlyStopping, *, monitor: str = "val/loss", **arguments: Any) -> EarlyStopping:
    other = EarlyStopping(monitor, **arguments)
    other.load_state_dict(msgpack.unpackb(msgpack.packb(stopping.state_dict(), strict_types=True)))
    return other


# --- the rule


def model(series: list[float], arguments: dict[str, Any]) -> tuple[int, StoppingReason] | None:
    """Return index and reason of the first stop: the rule as its documentation words it, for ``mode="min"``."""
    best: Any = arguments["baseline"]
    delta, cumulative = arguments["min_delta"], arguments["cumulative"]
    since = 0
    for index, value in enumerate(series):
        finite = math.isfinite(value)
        share = {"abs": 1.0, "rel": best, "rel_abs": None if best is None else abs(best)}[arguments["threshold_mode"]]
        since += 1
        if finite and (best is None or value < best - delta * share):
            best, since = value, 0
        elif finite and not cumulative and value < best:
            best = value
        if not finite and arguments["check_finite"]:
            return index, REASONS.NON_FINITE_METRIC
        if finite and arguments["stopping_threshold"] is not None and value < arguments["stopping_threshold"]:
            return index, REASONS.STOPPING_THRESHOLD
        if arguments["divergence_threshold"] is not None and value > arguments["divergence_threshold"]:
            return index, REASONS.DIVERGENCE_THRESHOLD
        if since >= max(arguments["patience"], 1):
            return index, REASONS.PATIENCE_EXHAUSTED
    return None


EIGHTHS = st.integers(-24, 24).map(lambda number: number / 8)  # exact in binary: thresholds are met exactly, too
SERIES = st.lists(st.one_of(EIGHTHS, EIGHTHS, EIGHTHS, st.sampled_from([NAN, INF, -INF])), max_size=30)
ARGUMENTS = st.fixed_dictionaries(
    {
        "patience": st.integers(0, 6),
        "min_delta": st.sampled_from([0.0, 0.125, 0.5]),
        "threshold_mode": st.sampled_from(["abs", "rel", "rel_abs"]),
        "cumulative": st.booleans(),
        "baseline": st.none() | EIGHTHS,
        "check_finite": st.booleans(),
        "stopping_threshold": st.none() | EIGHTHS,
        "divergence_threshold": st.none() | EIGHTHS,
    }
)


@settings(max_examples=1000)
@given(SERIES, ARGUMENTS)
def test_it_stops_where_and_why_the_documented_rule_says(series: list[float], arguments: dict[str, Any]) -> None:
    stopping = EarlyStopping("val/loss", **arguments)
    checks = [stopping.check(value) for value in series]
    stops = [(index, reason) for index, reason in enumerate(checks) if reason is not REASONS.NOT_STOPPED]
    assert (stops[0] if stops else None) == model(series, arguments)


@given(SERIES, ARGUMENTS)
def test_max_is_min_of_the_negated_values(series: list[float], arguments: dict[str, Any]) -> None:
    negated = dict(arguments)
    for name in ("baseline", "stopping_threshold", "divergence_threshold"):
        negated[name] = None if arguments[name] is None else -arguments[name]
    smallest = EarlyStopping("val/loss", **arguments)
    largest = EarlyStopping("val/loss", mode="max", **negated)
    if arguments["threshold_mode"] != "rel":  # a share with the sign of the best value is not symmetric
        assert [smallest.check(value) for value in series] == [largest.check(-value) for value in series]


@given(SERIES, ARGUMENTS)
def test_a_value_that_is_not_finite_never_becomes_the_best(series: list[float], arguments: dict[str, Any]) -> None:
    stopping = EarlyStopping("val/loss", **arguments)
    for value in series:
        stopping.check(value)
        assert stopping.best is None or stopping.best in [one for one in series if math.isfinite(one)]


CASES: dict[str, tuple[list[float], dict[str, Any], int | None, int | None]] = {
    "A: flat after two gains": ([1.0, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8], {"patience": 3}, 5, 5),
    "B: small gains that add up": ([1 - 0.01 * i for i in range(30)], {"patience": 8, "min_delta": 0.05}, None, None),
    "C: each gain is min_delta": ([4.0, 3.5, 3.0, 2.5, 2.0, 1.5], {"patience": 3, "min_delta": 0.5}, None, None),
    "D: NaN, then it improves": ([1.0, 0.9, NAN, 0.8, 0.7, 0.6, 0.5], {"patience": 3}, 2, None),
    "E: NaN for ever": ([1.0, 0.9, NAN, NAN, NAN, NAN, NAN], {"patience": 3}, 2, 4),
    "F: NaN first, then it improves": ([NAN, 1.0, 0.9, 0.8, 0.7, 0.6], {"patience": 3}, 0, None),
    "G: flat, patience 1": ([1.0] * 6, {"patience": 1}, 1, 1),
    "H: flat, patience 0": ([1.0] * 6, {"patience": 0}, 1, 1),
    "I: worse, then it recovers": ([1.0, 1.1, 1.2, 0.5, 0.4, 0.4, 0.4], {"patience": 2}, 2, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_it_decides_the_cases_that_real_early_stoppers_disagree_on_as_documented(case: str) -> None:
    series, arguments, index, index_without_check_finite = CASES[case]
    assert stop_index(series, **arguments) == index
    assert stop_index(series, check_finite=False, **arguments) == index_without_check_finite


def test_a_run_that_improves_after_a_first_nan_goes_on() -> None:
    """Keras 3.15 takes the NaN as the best value and stops this run."""
    assert stop_index([NAN, *(1 / n for n in range(1, 40))], patience=3, check_finite=False) is None


def test_a_flat_series_stops_without_a_min_delta() -> None:
    """mmengine 0.10 takes an equal value as an improvement."""
    assert stop_index([1.0] * 9, patience=5, mode="max") == 5


def test_thresholds_of_zero_count() -> None:
    """Ray 2.60 takes a threshold of 0.0 as none."""
    assert stop_index([2.0, 1.0, -0.1], stopping_threshold=0.0) == 2
    assert stop_index([-2.0, -1.0, 0.1], divergence_threshold=0.0) == 2
    assert stop_index([2.0, 1.0, 0.0], stopping_threshold=0.0) is None


def test_gains_below_min_delta_move_the_best_value_only_when_they_are_not_to_add_up() -> None:
    falling = [1 - 0.01 * i for i in range(30)]
    assert stop_index(falling, patience=8, min_delta=0.05, cumulative=False) == 8


def test_nothing_counts_until_the_baseline_is_beaten() -> None:
    assert stop_index([5.0, 4.0, 3.0, 2.0], patience=3, baseline=2.5) == 2
    assert stop_index([5.0, 4.0, 2.0, 2.0, 2.0, 2.0], patience=3, baseline=2.5) == 5


# --- what a check is


def test_a_check_is_the_mean_over_its_samples() -> None:
    driven = Drive(stopping := EarlyStopping("acc", mode="max", patience=1))
    driven.send(ScalarUpdated(key="acc", value=30, count=60))
    assert stopping.best == 0.5
    assert not stops(driven.send(ScalarUpdated(key="acc", value=6, count=10)))
    assert stops(driven.send(ScalarUpdated(key="acc", value=50, count=100)))
    driven.close()


def test_an_update_over_no_samples_is_no_check() -> None:
    driven = Drive(stopping := EarlyStopping("acc", patience=1))
    driven.send(ScalarUpdated(key="acc", value=7.0, count=0))
    assert (stopping.best, stopping.wait) == (None, 0)
    driven.close()


def test_other_scalars_and_infos_of_its_key_are_no_checks() -> None:
    driven = Drive(stopping := EarlyStopping("acc", patience=1), "**")
    for event in (InfoUpdated(key="acc", value=1.0), *scalars("loss", [1.0, NAN]), *scalars("acc/a", [1.0, NAN])):
        assert not driven.send(event)
    assert stopping.best is None
    driven.close()


def test_an_int_beyond_every_float_is_not_finite() -> None:
    assert stop_index([1.0, 10**400]) == 1


@pytest.mark.parametrize(
    ("start_from", "index"), [(0, 2), (2, 4), ("3ba", 4), ("2ep", 7)], ids=["at once", "checks", "step", "epoch"]
)
def test_what_comes_before_start_from_is_not_looked_at(start_from: int | str, index: int) -> None:
    driven = Drive(EarlyStopping("loss", patience=2, start_from=start_from))
    found: list[int] = []
    for number, event in enumerate(scalars("loss", [0.0, *[1.0] * 11])):
        if number % 5 == 0:
            driven.send(InfoUpdated(key="epoch", value=number // 5 + 1))
        if stops(driven.send(event)):
            found.append(number)
    driven.close()
    assert found == [index]


def test_a_window_looks_at_the_mean_of_the_last_values() -> None:
    series = [4.0, 2.0, 3.0, 1.0, 2.0, 0.0]
    assert stop_index(series, patience=1) == 2
    assert stop_index(series, patience=1, smooth=2) is None
    assert stop_index([4.0, 2.0, 4.0, 2.0, 4.0], patience=1, smooth=2) == 2


def test_a_moving_average_looks_at_the_average() -> None:
    driven = Drive(stopping := EarlyStopping("loss", patience=9, smooth=("ema", 0.25)))
    average = 8.0
    for index, event in enumerate(scalars("loss", [8.0, 4.0, 2.0, 6.0, 0.0])):
        driven.send(event)
        average = average if index == 0 else 0.25 * event.value + 0.75 * average
        assert stopping.best == pytest.approx(min(stopping.best or INF, average), rel=1e-15)
    driven.close()


def test_a_nan_stays_out_of_the_average() -> None:
    driven = Drive(stopping := EarlyStopping("loss", smooth=2, check_finite=False))
    for event in scalars("loss", [4.0, NAN, 2.0]):
        driven.send(event)
    assert stopping.best == 3.0
    driven.close()


# --- asking


def test_it_asks_once_and_says_why() -> None:
    (stop,) = stops(drive(EarlyStopping("val/loss", patience=2), scalars("val/loss", [1.0, 0.25, 0.5, 0.5, 0.5, NAN])))
    assert (stop.step, stop.author) == (4, "EarlyStopping")
    assert stop.reason == "val/loss has not improved on 0.25 of step 2 for 2 checks"


@pytest.mark.parametrize(
    ("series", "arguments", "reason"),
    [
        ([1.0, NAN], {}, "loss is nan"),
        ([1.0, 0.5], {"stopping_threshold": 0.75}, "loss is 0.5, below the threshold 0.75"),
        ([1.0, 0.5], {"mode": "max", "divergence_threshold": 0.75}, "loss is 0.5, below the threshold 0.75"),
        ([1.0], {"patience": 1, "baseline": 0.5}, "loss has not improved on the baseline 0.5 for 1 check"),
        ([NAN], {"patience": 1, "check_finite": False}, "loss has had no finite value for 1 check"),
    ],
)
def test_the_reason_names_what_was_seen(series: list[float], arguments: dict[str, Any], reason: str) -> None:
    (stop,) = stops(drive(EarlyStopping("loss", **arguments), scalars("loss", series)))
    assert stop.reason == reason


def by_epoch(series: list[float]) -> list[Event]:
    return [
        event
        for number, value in enumerate(series, 1)
        for event in (InfoUpdated(key="epoch", value=number), ScalarUpdated(key="loss", value=value, step=number))
    ]


def test_it_does_not_ask_before_min_epochs() -> None:
    answers = drive(EarlyStopping("loss", patience=1, min_epochs=5), by_epoch([1.0] * 8))
    (stop,) = stops(answers)
    assert stop.step == 5
    assert [one.verdict for one in decisions(answers)] == ["improved", *["waiting"] * 3, *["stop"] * 4]
    assert decisions(answers)[1].reason == "loss has not improved on 1 of step 1 for 1 check; not before epoch 5"


def test_a_reason_that_has_gone_by_min_epochs_is_forgotten() -> None:
    """Lightning 2.6 ends this run at its min_epochs, though the value has recovered."""
    stopping = EarlyStopping("loss", patience=2, min_epochs=5)
    assert stops(drive(stopping, by_epoch([1.0, 2.0, 2.0, 2.0, 0.5, 0.4, 0.3]))) == []
    assert stopping.stopping_reason is REASONS.NOT_STOPPED


@pytest.mark.parametrize(("strict", "messages"), [(True, 1), (False, 0)])
def test_a_scalar_that_never_came_is_warned_of_at_the_end_if_strict(
    strict: bool, messages: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "asynchub"):
        drive(EarlyStopping("val/los", strict=strict), scalars("val/loss", [1.0]), "**")
    assert [record.getMessage() for record in caplog.records] == [
        "EarlyStopping never saw its scalar 'val/los': nothing could stop this run"
    ] * messages


def test_epochs_that_it_needs_and_never_sees_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asynchub"):
        assert stops(drive(EarlyStopping("loss", patience=1, min_epochs=1), scalars("loss", [1.0] * 5))) == []
    assert "never saw the runtime info 'epoch'" in caplog.text


# --- explaining


def test_each_check_is_decided_on_in_words() -> None:
    series = [NAN, 1.0, 0.9, 1.5, 0.95, 0.9]
    answers = decisions(drive(EarlyStopping("loss", patience=3, check_finite=False), scalars("loss", series)))
    assert [(one.step, one.verdict, one.best, one.wait, one.reason) for one in answers] == [
        (1, "waiting", None, 1, "loss is nan, no improvement: 1 of 3 checks"),
        (2, "improved", None, 0, "loss is 1, the first"),
        (3, "improved", 1.0, 0, "loss is 0.9, an improvement on 1"),
        (4, "waiting", 0.9, 1, "loss is 1.5, no improvement on 0.9: 1 of 3 checks"),
        (5, "waiting", 0.9, 2, "loss is 0.95, no improvement on 0.9: 2 of 3 checks"),
        (6, "stop", 0.9, 3, "loss has not improved on 0.9 of step 3 for 3 checks"),
    ]
    assert {(one.author, one.monitor, one.patience) for one in answers} == {("EarlyStopping", "loss", 3)}
    assert repr([one.value for one in answers]) == repr(series)


def test_a_decision_shows_the_smoothed_value_and_the_baseline() -> None:
    stopping = EarlyStopping("loss", smooth=2, baseline=2.0)
    answers = decisions(drive(stopping, scalars("loss", [3.0, 2.0, 1.0])))
    assert [(one.value, one.best, one.verdict) for one in answers] == [
        (3.0, 2.0, "waiting"),
        (2.5, 2.0, "waiting"),
        (1.5, 2.0, "improved"),
    ]


def test_what_comes_before_start_from_is_not_decided_on() -> None:
    answers = decisions(drive(EarlyStopping("loss", start_from=2), scalars("loss", [3.0, 2.0, 1.0])))
    assert [one.step for one in answers] == [3]


def test_a_rule_that_has_asked_goes_on_deciding() -> None:
    answers = drive(EarlyStopping("loss", patience=1), scalars("loss", [1.0, 2.0, 3.0, 0.5]))
    assert [one.verdict for one in decisions(answers)] == ["improved", "stop", "stop", "improved"]
    assert len(stops(answers)) == 1


def test_a_decision_is_an_event_of_the_hub_before_the_request_that_follows() -> None:
    hub = MessageHub("deciding")
    hub.attach(EarlyStopping("loss", patience=1), name="rule")
    got: list[Event] = []
    hub.on(Decided, StopRequested, role="control", order=9)(got.append)
    with hub:
        for hub.step, value in enumerate([1.0, 2.0]):
            hub.update_scalar("loss", value)
            hub.settle()
    assert [(type(event), event.step) for event in got] == [(Decided, 0), (Decided, 1), (StopRequested, 1)]
    assert {event.author for event in got if isinstance(event, Decided | StopRequested)} == {"rule"}


# --- restoring the best


def test_the_best_is_restored_once_at_the_settle_point_at_which_it_stops() -> None:
    hub = MessageHub("restoring")
    weights = {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}
    model = {"weights": "none"}
    threads: list[int] = []

    def restore(step: int) -> None:
        threads.append(threading.get_ident())
        model["weights"] = weights[step]

    hub.attach(EarlyStopping("loss", patience=2, restore_best=restore))
    with hub:
        for hub.step, value in enumerate([1.0, 0.5, 0.75, 0.8, 0.9]):
            model["weights"] = weights[hub.step]
            hub.update_scalar("loss", value)
            hub.settle()
            assert model["weights"] == ("b" if hub.step == 3 else weights[hub.step])
    assert threads == [threading.get_ident()]


@pytest.mark.parametrize("series", [[NAN], [1.0, 0.5, 0.25]], ids=["no best yet", "no stop"])
def test_nothing_is_restored_where_there_is_nothing_to(series: list[float]) -> None:
    restored: list[int] = []
    stopping = EarlyStopping("loss", patience=1, restore_best=restored.append)
    drive(stopping, scalars("loss", series))
    assert restored == []
    assert stopping.best_step == (None if len(series) == 1 else 3)


def test_a_restore_that_fails_surfaces_at_the_settle_point_and_the_stop_stands() -> None:
    def restore(step: int) -> None:
        raise FileNotFoundError(f"no weights of step {step}")

    hub = MessageHub("failing")
    hub.attach(EarlyStopping("loss", patience=1, restore_best=restore))
    for value in (1.0, 2.0):
        hub.update_scalar("loss", value)
    with pytest.raises(ControlFailedError) as failure:
        hub.settle()
    assert isinstance(failure.value.exceptions[0], FileNotFoundError)
    assert hub.stop_requested


def test_a_resumed_rule_restores_the_best_of_before() -> None:
    stopping = EarlyStopping("val/loss", patience=3)
    drive(stopping, scalars("val/loss", [1.0, 0.5, 0.75]))
    restored: list[int] = []
    resumed = EarlyStopping("val/loss", patience=3, restore_best=restored.append)
    resumed.load_state_dict(stopping.state_dict())
    drive(resumed, [ScalarUpdated(key="val/loss", value=0.6, step=step) for step in (4, 5)])
    assert restored == [2]


def test_another_patience_can_be_set_while_it_runs() -> None:
    driven = Drive(stopping := EarlyStopping("loss", patience=9))
    first, second, third = scalars("loss", [1.0, 2.0, 3.0])
    driven.send(first)
    driven.send(second)
    stopping.patience = 2
    assert stops(driven.send(third))
    with pytest.raises(ArgumentError, match="patience"):
        stopping.patience = -1
    driven.close()


# --- resuming


@given(SERIES, ARGUMENTS, st.sampled_from([None, 3, ("ema", 0.5)]), st.sampled_from([0, 3, "4ba"]))
def test_a_rule_saved_after_any_check_decides_as_if_it_had_not_been(
    series: list[float], arguments: dict[str, Any], smooth: Any, start_from: Any
) -> None:
    arguments = {**arguments, "smooth": smooth, "start_from": start_from}
    events = scalars("val/loss", series)
    whole = EarlyStopping("val/loss", **arguments)
    driven = Drive(whole)
    states = [whole.state_dict()]
    for event in events:
        driven.send(event)
        states.append(whole.state_dict())
    driven.close()
    for index in range(len(series)):
        part = EarlyStopping("val/loss", **arguments)
        part.load_state_dict(msgpack.unpackb(msgpack.packb(states[index], strict_types=True)))
        driven = Drive(part)
        driven.send(events[index])
        driven.close()
        assert part.state_dict() == states[index + 1]


def test_patience_given_on_resume_wins() -> None:
    stopping = EarlyStopping("val/loss", patience=3)
    assert len(stops(drive(stopping, scalars("val/loss", [1.0] * 4)))) == 1
    assert stops(drive(saved_and_loaded(stopping, patience=6), scalars("val/loss", [1.0] * 2))) == []
    assert len(stops(drive(saved_and_loaded(stopping, patience=6), scalars("val/loss", [1.0] * 3)))) == 1


def test_a_smaller_window_given_on_resume_keeps_the_newest_values() -> None:
    stopping = EarlyStopping("val/loss", smooth=4)
    drive(stopping, scalars("val/loss", [8.0, 6.0, 4.0, 2.0]))
    assert saved_and_loaded(stopping, smooth=2).state_dict()["smoothing"] == [4.0, 2.0]


def test_a_resumed_rule_that_is_still_exhausted_asks_again() -> None:
    stopping = EarlyStopping("val/loss", patience=2)
    drive(stopping, scalars("val/loss", [1.0] * 3))
    resumed = saved_and_loaded(stopping, patience=2)
    assert resumed.stopping_reason is REASONS.PATIENCE_EXHAUSTED
    assert len(stops(drive(resumed, scalars("val/loss", [1.0] * 3)))) == 1
    assert stops(drive(saved_and_loaded(stopping, patience=2), scalars("val/loss", [0.5]))) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("best", "low"), ("wait", None), ("wait", True), ("reason", "bored"), ("smoothing", [NAN]), ("seen", 1.5)],
)
def test_a_malformed_state_is_refused_and_changes_nothing(name: str, value: object) -> None:
    stopping = EarlyStopping("val/loss", smooth=2)
    drive(stopping, scalars("val/loss", [2.0, 1.0]))
    before = stopping.state_dict()
    with pytest.raises(StateDictError, match=name):
        stopping.load_state_dict({**EarlyStopping("val/loss").state_dict(), name: value})
    assert stopping.state_dict() == before


# --- on a hub


def test_it_stops_a_run_at_its_settle_point() -> None:
    hub = MessageHub("stopping")
    stopping = EarlyStopping("val/loss", patience=2)
    hub.attach(stopping)
    for epoch, value in enumerate([1.0, 0.5, 0.6, 0.7, 0.8], 1):
        hub.step = epoch * 10
        hub.update_scalar("val/loss", value)
        assert not hub.stop_requested
        hub.settle()
        if hub.stop_requested:
            break
    assert hub.step == 40
    assert hub.stop_reason == "val/loss has not improved on 0.5 of step 20 for 2 checks"


@pytest.mark.parametrize("saved_after", range(7))
def test_a_saved_run_stops_where_the_uninterrupted_one_does(saved_after: int, tmp_path: Path) -> None:
    series = [1.0, 0.5, 0.6, 0.4, 0.5, 0.45, 0.5, 0.4]

    def train(hub: MessageHub, until: int) -> None:
        while hub.step < until and not hub.stop_requested:
            hub.step += 1
            hub.update_scalar("val/loss", series[hub.step - 1])
            hub.settle()

    hub = MessageHub("first")
    hub.attach(EarlyStopping("val/loss", patience=3))
    train(hub, saved_after)
    hub.save(tmp_path / "state")
    resumed = MessageHub("second")
    resumed.load(tmp_path / "state")
    resumed.attach(EarlyStopping("val/loss", patience=3))
    train(resumed, len(series))
    assert (resumed.step, resumed.stop_reason) == (7, "val/loss has not improved on 0.4 of step 4 for 3 checks")


# --- bad arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": -1},
        {"patience": 2.0},
        {"patience": True},
        {"min_delta": -0.1},
        {"min_delta": NAN},
        {"min_delta": "0.1"},
        {"mode": "auto"},
        {"threshold_mode": "relative"},
        {"cumulative": 1},
        {"baseline": INF},
        {"start_from": -1},
        {"start_from": "5 epochs"},
        {"start_from": 1.5},
        {"check_finite": None},
        {"stopping_threshold": NAN},
        {"divergence_threshold": "1"},
        {"strict": "yes"},
        {"smooth": 0},
        {"smooth": ("ema", 0.0)},
        {"smooth": ("ema", 1.5)},
        {"smooth": ("mean", 3)},
        {"min_epochs": -1},
        {"restore_best": "best.pt"},
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused_by_name(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ArgumentError, match=name):
        EarlyStopping("val/loss", **arguments)


def test_the_monitor_is_one_key() -> None:
    with pytest.raises(ArgumentError, match="one key"):
        EarlyStopping("val/*")
    with pytest.raises(PatternError):
        EarlyStopping("")
    with pytest.raises(PatternError):
        EarlyStopping(3)  # type: ignore[arg-type]
