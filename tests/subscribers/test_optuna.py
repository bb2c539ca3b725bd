"""``OptunaPruning``: a loop that calls Optuna itself is the oracle, with real studies."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from asynchub.errors import ArgumentError, PatternError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import Decided, StopRequested
from asynchub.testing import Drive, drive, scalars

optuna = pytest.importorskip("optuna")

from asynchub.subscribers.optuna import OptunaPruning  # noqa: E402  # it needs optuna

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning"),  # of its PatientPruner
]
CHECKS, TRIALS = 9, 16
NAN = math.nan
PRUNERS: dict[str, Callable[[], Any]] = {
    "Nop": lambda: optuna.pruners.NopPruner(),
    "Median": lambda: optuna.pruners.MedianPruner(n_startup_trials=2),
    "Percentile": lambda: optuna.pruners.PercentilePruner(25.0, n_startup_trials=1, n_warmup_steps=2, interval_steps=3),
    "SuccessiveHalving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    "Hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=CHECKS, reduction_factor=2),
    "Threshold": lambda: optuna.pruners.ThresholdPruner(upper=2.5, n_warmup_steps=1),
    "Patient": lambda: optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(n_startup_trials=2), patience=1),
}
every_pruner = pytest.mark.parametrize("pruner", PRUNERS)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def study_of(pruner: str, direction: str = "minimize", **options: Any) -> Any:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(
        study_name="pruning", direction=direction, pruner=PRUNERS[pruner](), sampler=sampler, **options
    )


def series_of(number: int, nans: bool) -> list[float]:
    rng = np.random.default_rng(number)
    values = rng.normal(rng.normal(), 0.3, CHECKS) + np.linspace(2, 0, CHECKS)
    if nans and number % 3 == 2:
        values[rng.integers(0, CHECKS) :] = NAN
    return [float(value) for value in values]


def by_hand(nans: bool) -> Callable[[Any], float]:
    def objective(trial: Any) -> float:
        for step, value in enumerate(series_of(trial.number, nans)):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    return objective


def by_hub(nans: bool) -> Callable[[Any], float]:
    def objective(trial: Any) -> float:
        hub = MessageHub(f"trial {trial.number}")
        pruning = OptunaPruning(trial, "val/loss")
        hub.attach(pruning)
        with hub:
            for hub.step, value in enumerate(series_of(trial.number, nans)):
                hub.update_scalar("val/loss", value * 5, 5)
                hub.settle()
                if hub.stop_requested:
                    assert pruning.pruned
                    break
        pruning.raise_if_pruned()
        return value

    return objective


def outcome(study: Any) -> list[tuple[Any, ...]]:
    return [
        (one.number, one.state.name, repr(one.value), {step: f"{v:.9g}" for step, v in one.intermediate_values.items()})
        for one in study.trials
    ]


@every_pruner
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("nans", [False, True])
def test_a_study_ends_as_with_a_loop_that_calls_optuna(pruner: str, direction: str, nans: bool) -> None:
    oracle, study = study_of(pruner, direction), study_of(pruner, direction)
    oracle.optimize(by_hand(nans), TRIALS)
    study.optimize(by_hub(nans), TRIALS)
    assert [one[:2] for one in outcome(study)] == [one[:2] for one in outcome(oracle)]
    assert [one[3] for one in outcome(study)] == [one[3] for one in outcome(oracle)]
    if pruner in ("Median", "SuccessiveHalving", "Hyperband"):
        assert {one[1] for one in outcome(study)} > {"PRUNED"}


def test_trials_in_threads_are_pruned_each_by_its_own_values() -> None:
    study = study_of("Threshold")
    study.optimize(by_hub(False), TRIALS, n_jobs=4)
    for trial in study.trials:
        values = series_of(trial.number, False)
        first = next((step for step, value in enumerate(values) if value > 2.5 and step >= 1), None)
        assert trial.state.name == ("COMPLETE" if first is None else "PRUNED")
        assert trial.last_step == (CHECKS - 1 if first is None else first)


def answers_to(pruning: Any, *events: Event) -> list[Event]:
    return drive(pruning, events)


def test_the_reason_names_trial_pruner_value_and_check() -> None:
    pruning = OptunaPruning(study_of("Threshold").ask(), "loss")
    *decided, stop = answers_to(pruning, *scalars("loss", [3.0, 2.0, 2.75]))
    assert isinstance(stop, StopRequested)
    assert stop.reason == "trial 0 is pruned by ThresholdPruner: loss is 2.75 at check 2"
    assert [(one.verdict, one.value) for one in decided if isinstance(one, Decided)] == [
        ("continue", 3.0),
        ("continue", 2.0),
        ("prune", 2.75),
    ]
    with pytest.raises(optuna.TrialPruned, match=r"loss is 2\.75"):
        pruning.raise_if_pruned()


def test_nothing_is_reported_after_the_trial_was_pruned() -> None:
    study = study_of("Threshold")
    trial = study.ask()
    pruning = OptunaPruning(trial, "loss")
    answers = answers_to(pruning, *scalars("loss", [1.0, 3.0, 0.5, 0.25]))
    assert [type(one) for one in answers].count(StopRequested) == 1
    assert study.trials[0].intermediate_values == {0: 1.0, 1: 3.0}


def test_a_trial_that_is_not_pruned_raises_nothing() -> None:
    pruning = OptunaPruning(study_of("Nop").ask(), "loss")
    assert not [one for one in answers_to(pruning, *scalars("loss", [1.0, NAN])) if isinstance(one, StopRequested)]
    pruning.raise_if_pruned()
    assert (pruning.pruned, pruning.reason, pruning.checks) == (False, "", 2)


def test_other_events_and_updates_over_no_samples_are_no_checks() -> None:
    study = study_of("Nop")
    pruning = OptunaPruning(study.ask(), "loss")
    driven = Drive(pruning, "**")
    driven.send(InfoUpdated(key="loss", value=1.0))
    driven.send(ScalarUpdated(key="loss/a", value=1.0))
    driven.send(ScalarUpdated(key="loss", value=1.0, count=0))
    driven.send(ScalarUpdated(key="loss", value=6.0, count=4))
    driven.close()
    assert study.trials[0].intermediate_values == {0: 1.5}


def test_steps_are_reported_if_asked_for() -> None:
    study = study_of("Nop")
    pruning = OptunaPruning(study.ask(), "loss", unit="step")
    events = [ScalarUpdated(key="loss", value=float(step or 0), step=step) for step in (100, 200, None, -1, 300)]
    driven = Drive(pruning)
    for seq, event in enumerate(events, 1):
        driven.send(event.stamped(seq, 0.0, event.step))
    driven.close()
    assert study.trials[0].intermediate_values == {100: 100.0, 200: 200.0, 300: 300.0}


def test_the_first_value_of_a_step_stands_and_a_second_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    study = study_of("Nop")
    events = [ScalarUpdated(key="loss", value=value, step=7) for value in (1.0, 2.0, 3.0)]
    with caplog.at_level(logging.WARNING, "asynchub"):
        answers_to(OptunaPruning(study.ask(), "loss", unit="step"), *events)  # Optuna itself would warn, an error here
    assert study.trials[0].intermediate_values == {7: 1.0}
    assert caplog.messages == ["trial 0 has a value of step 7 already; Optuna keeps the first"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, 10**400])
def test_an_infinity_is_reported_as_nan_and_never_the_best(value: float) -> None:
    study = study_of("Nop")
    answers_to(OptunaPruning(study.ask(), "loss"), ScalarUpdated(key="loss", value=value, step=1))
    assert math.isnan(study.trials[0].intermediate_values[0])


# --- resuming


def with_rivals(pruner: str) -> Any:
    study = study_of(pruner)
    study.optimize(by_hand(False), 6)
    return study


def verdicts(events: list[Event]) -> list[str]:
    return [event.verdict for event in events if isinstance(event, Decided)]


@every_pruner
@pytest.mark.parametrize("fresh", [False, True], ids=["same trial", "new trial"])
def test_a_run_split_at_any_check_is_pruned_where_the_whole_run_is(pruner: str, fresh: bool) -> None:
    for number in range(6, 14):
        events = scalars("loss", series_of(number, True))
        whole = verdicts(answers_to(OptunaPruning(with_rivals(pruner).ask(), "loss"), *events))
        for index in range(CHECKS):
            study = with_rivals(pruner)
            trial = study.ask()
            part = OptunaPruning(trial, "loss")
            first = Drive(part)
            for event in events[:index]:
                first.send(event)
            state = msgpack.unpackb(msgpack.packb(part.state_dict(), strict_types=True))
            if fresh:
                study = with_rivals(pruner)  # as if the first run had died before anybody else saw it
                trial = study.ask()
            rest = OptunaPruning(trial, "loss")
            rest.load_state_dict(state)
            assert verdicts(first.answers) + verdicts(answers_to(rest, *events[index:])) == whole
            first.close()


def test_a_run_that_goes_on_after_it_was_pruned_is_asked_to_stop_again() -> None:
    trial = study_of("Threshold").ask()
    pruning = OptunaPruning(trial, "loss")
    answers_to(pruning, *scalars("loss", [1.0, 3.0]))
    resumed = OptunaPruning(trial, "loss")
    resumed.load_state_dict(pruning.state_dict())
    (stop,) = answers_to(resumed, *scalars("loss", [1.0, 1.0]))
    assert isinstance(stop, StopRequested)
    assert resumed.pruned


def test_a_trial_that_was_killed_is_told_by_its_next_run_from_a_file(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    storage = f"sqlite:///{tmp_path}/study.db"
    study = study_of("Median", storage=storage)
    first = OptunaPruning(study.ask(), "loss")
    answers_to(first, *scalars("loss", [1.0, NAN, 3.0]))
    again = optuna.load_study(study_name="pruning", storage=storage)
    second = OptunaPruning(again.ask(), "loss")
    second.load_state_dict(first.state_dict())
    answers_to(second, *scalars("loss", [4.0]))
    values = again.trials[1].intermediate_values
    assert list(values) == [0, 1, 2, 3]
    assert repr(list(values.values())) == repr([1.0, NAN, 3.0, 4.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("reported", [1, 2]), ("reported", [[1, "a"]]), ("checks", 1.5), ("pruned", 1), ("reason", None)],
)
def test_a_state_that_is_not_its_own_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    pruning = OptunaPruning(study_of("Nop").ask(), "loss")
    answers_to(pruning, *scalars("loss", [1.0]))
    before = pruning.state_dict()
    with pytest.raises(StateDictError, match=name):
        pruning.load_state_dict({**before, name: value})
    assert pruning.state_dict() == before


# --- arguments


@pytest.mark.parametrize("trial", [None, object(), optuna.Trial, "trial"])
def test_a_trial_is_what_can_report_and_be_asked(trial: Any) -> None:
    with pytest.raises(ArgumentError, match=r"report\(\)"):
        OptunaPruning(trial, "loss")


def test_other_arguments_that_cannot_be_are_refused() -> None:
    trial = study_of("Nop").ask()
    with pytest.raises(ArgumentError, match="'check' or 'step'"):
        OptunaPruning(trial, "loss", unit="epoch")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="one key"):
        OptunaPruning(trial, "val/*")
    with pytest.raises(PatternError):
        OptunaPruning(trial, "")
    with pytest.raises(ArgumentError, match="several directions"):
        OptunaPruning(optuna.create_study(directions=["minimize", "maximize"]).ask(), "loss")


def test_a_trial_of_fixed_parameters_runs_to_its_end() -> None:
    """Optuna's ``FixedTrial`` has no study: what it is told goes nowhere."""
    pruning = OptunaPruning(optuna.trial.FixedTrial({"lr": 0.1}), "loss")
    assert verdicts(answers_to(pruning, *scalars("loss", [1.0, 2.0]))) == ["continue"] * 2
