"""Early stopping: its rule against a model, the cases that real early stoppers disagree on, and its life on a hub."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, PatternError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import StopRequested
from asynchub.subscribers.early_stopping import EarlyStopping, StoppingReason
from asynchub.testing import Drive, drive, scalars

NAN, INF = math.nan, math.inf
REASONS = StoppingReason


def stop_index(series: list[float], **arguments: Any) -> int | None:
    """Return the index of the value of ``series`` at which training is asked to stop."""
    driven = Drive(EarlyStopping("val/loss", **arguments))
    stops = [index for index, event in enumerate(scalars("val/loss", series)) if driven.send(event)]
    driven.close()
    return stops[0] if stops else None


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
    assert not driven.send(ScalarUpdated(key="acc", value=6, count=10))
    assert driven.send(ScalarUpdated(key="acc", value=50, count=100))
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
    stops: list[int] = []
    for number, event in enumerate(scalars("loss", [0.0, *[1.0] * 11])):
        if number % 5 == 0:
            driven.send(InfoUpdated(key="epoch", value=number // 5 + 1))
        if driven.send(event):
            stops.append(number)
    driven.close()
    assert stops == [index]


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
    (stop,) = drive(EarlyStopping("val/loss", patience=2), scalars("val/loss", [1.0, 0.25, 0.5, 0.5, 0.5, NAN]))
    assert isinstance(stop, StopRequested)
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
    (stop,) = drive(EarlyStopping("loss", **arguments), scalars("loss", series))
    assert isinstance(stop, StopRequested)
    assert stop.reason == reason


def by_epoch(series: list[float]) -> list[Event]:
    return [
        event
        for number, value in enumerate(series, 1)
        for event in (InfoUpdated(key="epoch", value=number), ScalarUpdated(key="loss", value=value, step=number))
    ]


def test_it_does_not_ask_before_min_epochs() -> None:
    (stop,) = drive(EarlyStopping("loss", patience=1, min_epochs=5), by_epoch([1.0] * 8))
    assert stop.step == 5


def test_a_reason_that_has_gone_by_min_epochs_is_forgotten() -> None:
    """Lightning 2.6 ends this run at its min_epochs, though the value has recovered."""
    stopping = EarlyStopping("loss", patience=2, min_epochs=5)
    assert drive(stopping, by_epoch([1.0, 2.0, 2.0, 2.0, 0.5, 0.4, 0.3])) == []
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
        assert drive(EarlyStopping("loss", patience=1, min_epochs=1), scalars("loss", [1.0] * 5)) == []
    assert "never saw the runtime info 'epoch'" in caplog.text


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
    assert len(drive(stopping, scalars("val/loss", [1.0] * 4))) == 1
    assert drive(saved_and_loaded(stopping, patience=6), scalars("val/loss", [1.0] * 2)) == []
    assert len(drive(saved_and_loaded(stopping, patience=6), scalars("val/loss", [1.0] * 3))) == 1


def test_a_smaller_window_given_on_resume_keeps_the_newest_values() -> None:
    stopping = EarlyStopping("val/loss", smooth=4)
    drive(stopping, scalars("val/loss", [8.0, 6.0, 4.0, 2.0]))
    assert saved_and_loaded(stopping, smooth=2).state_dict()["smoothing"] == [4.0, 2.0]


def test_a_resumed_rule_that_is_still_exhausted_asks_again() -> None:
    stopping = EarlyStopping("val/loss", patience=2)
    drive(stopping, scalars("val/loss", [1.0] * 3))
    resumed = saved_and_loaded(stopping, patience=2)
    assert resumed.stopping_reason is REASONS.PATIENCE_EXHAUSTED
    assert len(drive(resumed, scalars("val/loss", [1.0] * 3))) == 1
    assert drive(saved_and_loaded(stopping, patience=2), scalars("val/loss", [0.5])) == []


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
