"""A hub for each trial, in real studies of Optuna."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from asynchub import Journal, MessageHub, recover
from asynchub.errors import ArgumentError
from asynchub.integrations.optuna import trial_hub
from asynchub.subscribers.optuna import OptunaPruning


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def curve(trial: Any, steps: int, hubs: list[MessageHub], **options: Any) -> float:
    """Try a trial whose loss is its parameter, going down."""
    with trial_hub(trial, OptunaPruning(trial, "val/loss"), **options) as hub:
        hubs.append(hub)
        level = trial.suggest_float("level", 0.0, 1.0)
        loss = level
        for hub.step in range(1, steps + 1):
            loss = level + 1 / hub.step
            hub.update_scalar("val/loss", loss)
            hub.settle()
            if hub.stop_requested:
                break
        return loss


def by_hand(trial: Any, steps: int) -> float:
    """Try it as Optuna's own documentation does."""
    level = trial.suggest_float("level", 0.0, 1.0)
    loss = level
    for step in range(1, steps + 1):
        loss = level + 1 / step
        trial.report(loss, step - 1)
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss


def study() -> Any:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3), pruner=pruner, study_name="levels")


def test_trials_end_as_those_of_an_objective_that_reports_itself() -> None:
    ours, theirs = study(), study()
    hubs: list[MessageHub] = []
    ours.optimize(lambda trial: curve(trial, 5, hubs), n_trials=12)
    theirs.optimize(lambda trial: by_hand(trial, 5), n_trials=12)
    assert [(one.state, one.value, one.intermediate_values) for one in ours.trials] == [
        (one.state, one.value, one.intermediate_values) for one in theirs.trials
    ]
    assert {one.state.name for one in ours.trials} == {"COMPLETE", "PRUNED"}


def test_a_trial_has_a_hub_of_its_own_with_its_parameters_and_says_how_it_ended() -> None:
    ours = study()
    hubs: list[MessageHub] = []
    ours.optimize(lambda trial: curve(trial, 5, hubs), n_trials=12)
    assert [hub.instance_name for hub in hubs] == [f"levels trial {number}" for number in range(12)]
    assert not any(hub.entered for hub in hubs)
    for hub, trial in zip(hubs, ours.trials, strict=True):
        assert hub.get_info("hparams") == trial.params
        assert trial.user_attrs["steps"] == hub.step == len(hub.get_scalar("val/loss").data[0])
        pruned = trial.state.name == "PRUNED"
        assert ("stop_reason" in trial.user_attrs) == pruned
        if pruned:
            assert "pruned by MedianPruner" in trial.user_attrs["stop_reason"]


def test_an_objective_that_raises_leaves_its_hub_and_the_error_is_its_own() -> None:
    ours = study()
    hubs: list[MessageHub] = []

    def objective(trial: Any) -> float:
        with trial_hub(trial, OptunaPruning(trial, "val/loss")) as hub:
            hubs.append(hub)
            raise ZeroDivisionError("no")

    ours.optimize(objective, n_trials=2, catch=(ZeroDivisionError,))
    assert [one.state.name for one in ours.trials] == ["FAIL", "FAIL"]
    assert not any(hub.entered for hub in hubs)


def test_each_trial_can_have_a_journal(tmp_path: Path) -> None:
    ours = study()
    hubs: list[MessageHub] = []
    ours.optimize(
        lambda trial: curve(trial, 3, hubs, journal=Journal(tmp_path / str(trial.number) / "journal")), n_trials=2
    )
    for number, hub in enumerate(hubs):
        back = recover(tmp_path / str(number))
        assert back.get_scalar("val/loss").data[0].tolist() == hub.get_scalar("val/loss").data[0].tolist()
        assert back.get_info("hparams") == ours.trials[number].params


def test_what_is_no_trial_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"trial must be an optuna\.Trial, got int"), trial_hub(3):  # type: ignore[arg-type]
        pass
