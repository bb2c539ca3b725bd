"""``ReduceLROnPlateau``: torch's own, on thousands of random series, is the oracle."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from asynchub.errors import ArgumentError, ControlFailedError, StateDictError
from asynchub.events import Event
from asynchub.hub import MessageHub
from asynchub.requests import Decided, ParameterChanged
from asynchub.subscribers.plateau import ReduceLROnPlateau
from asynchub.testing import Drive, drive, scalars

NAN, INF = math.nan, math.inf
LENGTH = 40


def optimizer_of(*rates: Any, **options: Any) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (0.1,)]
    return torch.optim.SGD(groups, lr=0.1, **options)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def changes_in(answers: list[Event]) -> list[ParameterChanged]:
    return [answer for answer in answers if isinstance(answer, ParameterChanged)]


def decisions(answers: list[Event]) -> list[Decided]:
    return [answer for answer in answers if isinstance(answer, Decided)]


def random_series(rng: np.random.Generator) -> list[float]:
    """Return values with ties, exact thresholds, plateaus, recoveries, negatives, NaN and infinities."""
    shape = rng.integers(7)
    if shape == 0:  # constant
        values = np.full(LENGTH, rng.choice([-1.0, 0.0, 2.0]))
    elif shape == 1:  # few different values: ties and steps of exactly the threshold
        values = rng.integers(-4, 5, LENGTH) / 8
    elif shape == 2:  # a plateau, then a recovery
        values = np.concatenate([np.linspace(2, 1, 10), np.full(20, 1.0), np.linspace(1, -1, 10)])
    elif shape == 3:  # a slow trend around the size of the threshold
        values = rng.choice([-1, 1]) * (1 + 1e-4 * np.arange(LENGTH) * rng.choice([-1, 0.5, 1]))
    elif shape == 4:
        values = np.exp(-np.arange(LENGTH) / 10) + rng.normal(0, 0.05, LENGTH)
    elif shape == 5:
        values = rng.normal(size=LENGTH).cumsum()
    else:
        values = -np.abs(rng.normal(size=LENGTH))
    if rng.random() < 0.4:
        values = np.where(rng.random(LENGTH) < 0.15, rng.choice([NAN, INF, -INF], LENGTH), values)
    return [float(value) for value in values]


def random_arguments(rng: np.random.Generator, groups: int) -> dict[str, Any]:
    return {
        "mode": str(rng.choice(["min", "max"])),
        "factor": float(rng.choice([0.0, 0.1, 0.5, 0.9])),
        "patience": int(rng.integers(0, 6)),
        "threshold": float(rng.choice([0.0, 1e-4, 0.125, 0.25, 1.0])),
        "threshold_mode": str(rng.choice(["rel", "abs"])),
        "cooldown": int(rng.integers(0, 4)),
        "min_lr": [0.0, 0.05, 0.01][:groups] if rng.random() < 0.3 else float(rng.choice([0.0, 0.02, 0.5])),
        "eps": float(rng.choice([0.0, 1e-8, 0.03])),
    }


def test_learning_rates_are_those_of_torch_after_every_value_of_random_series(rng: np.random.Generator) -> None:
    assert compare(rng, 1_000) > 1_000  # the series do reduce


@pytest.mark.slow
def test_learning_rates_are_those_of_torch_on_ten_thousand_series(rng: np.random.Generator) -> None:
    assert compare(rng, 10_000) > 10_000


def compare(rng: np.random.Generator, count: int) -> int:
    """Compare learning rates and counts after every value of ``count`` series; return how many were changed."""
    changes = 0
    for number in range(count):
        initial = (0.1, 0.3, 0.04)[: rng.integers(1, 4)]
        arguments, series = random_arguments(rng, len(initial)), random_series(rng)
        ours, theirs = optimizer_of(*initial), optimizer_of(*initial)
        oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **arguments)
        driven = Drive(plateau := ReduceLROnPlateau(ours, "val/loss", **arguments))
        for index, event in enumerate(scalars("val/loss", series)):
            oracle.step(event.value)
            answers = driven.send(event)
            changes += len(changes_in(answers))
            got = (rates(ours), plateau.best, plateau.bad_checks, plateau.cooldown_left)
            wanted = (rates(theirs), oracle.best, oracle.num_bad_epochs, oracle.cooldown_counter)
            assert got == wanted, (number, index, series, arguments)
        driven.close()
    return changes


def test_a_rule_saved_after_any_check_decides_as_if_it_had_not_been(rng: np.random.Generator) -> None:
    for _ in range(60):
        arguments, series = random_arguments(rng, 2), random_series(rng)
        arguments["smooth"] = [None, 3, ("ema", 0.5)][rng.integers(3)]
        arguments["start_from"] = [0, 4, "5ba"][rng.integers(3)]
        events = scalars("val/loss", series)
        whole_optimizer = optimizer_of(0.1, 0.3)
        whole = ReduceLROnPlateau(whole_optimizer, "val/loss", **arguments)
        driven = Drive(whole)
        states = [(whole.state_dict(), rates(whole_optimizer))]
        for event in events:
            driven.send(event)
            states.append((whole.state_dict(), rates(whole_optimizer)))
        driven.close()
        for index, event in enumerate(events):
            state, initial = states[index]
            optimizer = optimizer_of(*initial)
            part = ReduceLROnPlateau(optimizer, "val/loss", **arguments)
            part.load_state_dict(msgpack.unpackb(msgpack.packb(state, strict_types=True)))
            driven = Drive(part)
            driven.send(event)
            driven.close()
            assert (part.state_dict(), rates(optimizer)) == states[index + 1]


def test_patience_given_on_resume_wins() -> None:
    """torch's own load_state_dict brings the old patience back."""
    plateau = ReduceLROnPlateau(optimizer_of(), "loss", patience=5)
    drive(plateau, scalars("loss", [1.0] * 3))
    resumed = ReduceLROnPlateau(optimizer_of(), "loss", patience=2)
    resumed.load_state_dict(plateau.state_dict())
    assert len(changes_in(drive(resumed, scalars("loss", [1.0])))) == 1


def test_a_bound_is_kept_for_all_groups() -> None:
    """ignite 0.5.5 forgets min_lr unless it is told one group."""
    from ignite.handlers.param_scheduler import ReduceLROnPlateauScheduler

    theirs, ours = optimizer_of(0.1, 0.2), optimizer_of(0.1, 0.2)
    trainer = SimpleNamespace(add_event_handler=lambda *arguments: None)
    original = ReduceLROnPlateauScheduler(theirs, "loss", trainer, factor=0.1, patience=0, min_lr=0.05)  # type: ignore[arg-type]
    engine: Any = SimpleNamespace(state=SimpleNamespace(metrics={"loss": 1.0}))
    for _ in range(4):
        original(engine)
    drive(ReduceLROnPlateau(ours, "loss", factor=0.1, patience=0, min_lr=0.05), scalars("loss", [1.0] * 4))
    assert rates(ours) == [0.05, 0.05]
    assert max(rates(theirs)) < 0.05


def test_each_group_that_changes_is_published_with_the_reason() -> None:
    optimizer = optimizer_of(0.4, 0.1)
    plateau = ReduceLROnPlateau(optimizer, "val/loss", factor=0.5, patience=1, min_lr=[0.0, 0.1])
    answers = changes_in(drive(plateau, scalars("val/loss", [1.0, 1.0, 1.0])))
    reason = "val/loss has not improved on 1 for 2 checks"
    (change,) = answers
    assert (change.name, change.group, change.old, change.new) == ("lr", 0, 0.4, 0.2)
    assert (change.step, change.reason, change.author) == (3, reason, "ReduceLROnPlateau")


def test_each_check_is_decided_on_in_words() -> None:
    series = [1.0, NAN, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    plateau = ReduceLROnPlateau(optimizer_of(0.2), "loss", factor=0.5, patience=1, cooldown=1, min_lr=0.1)
    answers = drive(plateau, scalars("loss", series))
    assert [(one.step, one.verdict, one.best, one.wait, one.reason) for one in decisions(answers)] == [
        (1, "improved", None, 0, "loss is 1, the first"),
        (2, "waiting", 1.0, 1, "loss is nan, no improvement on 1: 1 of 1 checks"),
        (3, "reduced", 1.0, 2, "loss has not improved on 1 for 2 checks"),
        (4, "improved", 1.0, 0, "loss is 0.5, an improvement on 1"),
        (5, "waiting", 0.5, 1, "loss is 0.5, no improvement on 0.5: 1 of 1 checks"),
        (6, "at_bound", 0.5, 2, "loss has not improved on 0.5 for 2 checks"),
        (7, "cooldown", 0.5, 0, "loss is 0.5, no improvement on 0.5, but bad checks do not count yet: cooldown"),
        (8, "waiting", 0.5, 1, "loss is 0.5, no improvement on 0.5: 1 of 1 checks"),
    ]
    assert [type(one) for one in answers[2:4]] == [Decided, ParameterChanged]
    assert {(one.author, one.monitor, one.patience) for one in decisions(answers)} == {("ReduceLROnPlateau", "loss", 1)}


def test_an_infinity_that_is_no_first_value_is_shown_as_the_best() -> None:
    answers = decisions(drive(ReduceLROnPlateau(optimizer_of(), "loss"), scalars("loss", [1.0, -INF, -INF])))
    assert [(one.verdict, one.best) for one in answers] == [("improved", None), ("improved", 1.0), ("waiting", -INF)]


def test_a_learning_rate_that_is_a_tensor_is_changed_in_place() -> None:
    rate = torch.tensor(0.5)
    optimizer = optimizer_of(rate)
    drive(ReduceLROnPlateau(optimizer, "loss", factor=0.5, patience=0), scalars("loss", [1.0, 1.0]))
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_another_parameter_can_be_reduced() -> None:
    optimizer = optimizer_of(momentum=0.9, weight_decay=0.1)
    plateau = ReduceLROnPlateau(optimizer, "loss", param_name="weight_decay", factor=0.5, patience=0)
    (change,) = changes_in(drive(plateau, scalars("loss", [1.0, 1.0])))
    assert (optimizer.param_groups[0]["weight_decay"], rates(optimizer)) == (0.05, [0.1])
    assert change.name == "weight_decay"


def test_the_groups_of_a_loaded_optimizer_state_are_the_ones_changed() -> None:
    optimizer = optimizer_of(0.5)
    plateau = ReduceLROnPlateau(optimizer, "loss", factor=0.5, patience=0)
    optimizer.load_state_dict(optimizer_of(0.2).state_dict())
    drive(plateau, scalars("loss", [1.0, 1.0]))
    assert rates(optimizer) == [0.1]


def test_one_bound_holds_for_groups_added_later_and_a_list_of_bounds_does_not() -> None:
    for min_lr, fails in ((0.0, False), ([0.0], True)):
        optimizer = optimizer_of(0.5)
        driven = Drive(ReduceLROnPlateau(optimizer, "loss", factor=0.5, patience=0, min_lr=min_lr))
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.2})
        first, second = scalars("loss", [1.0, 1.0])
        driven.send(first)
        if fails:
            with pytest.raises(ControlFailedError) as failure:
                driven.send(second)
            assert isinstance(failure.value.exceptions[0], ArgumentError)
        else:
            driven.send(second)
        assert rates(optimizer) == ([0.5, 0.2] if fails else [0.25, 0.1])
        driven.close()


def test_a_share_of_the_magnitude_is_right_for_negative_values() -> None:
    """torch's 'rel' takes each of these worse values as an improvement: pytorch issue 47513."""
    rising = [-1 + 0.00001 * index for index in range(30)]
    assert changes_in(drive(ReduceLROnPlateau(optimizer_of(), "loss", patience=3), scalars("loss", rising))) == []
    plateau = ReduceLROnPlateau(optimizer_of(), "loss", patience=3, threshold_mode="rel_abs")
    assert [change.step for change in changes_in(drive(plateau, scalars("loss", rising)))] == [5, 9, 13, 17, 21, 25, 29]


def test_a_share_of_the_magnitude_is_the_usual_one_for_positive_values(rng: np.random.Generator) -> None:
    series = np.abs(rng.normal(size=300)) + 0.01
    found = []
    for mode in ("rel", "rel_abs"):
        plateau = ReduceLROnPlateau(optimizer_of(), "loss", patience=2, threshold_mode=mode)  # type: ignore[arg-type]
        found.append([change.step for change in changes_in(drive(plateau, scalars("loss", series)))])
    assert found[0] == found[1] != []


@pytest.mark.parametrize(
    ("threshold_mode", "series", "warnings"),
    [("rel", [1.0, 0.0, -1.0], 1), ("rel", [2.0, 1.0], 0), ("rel_abs", [-1.0], 0), ("abs", [-1.0], 0)],
)
def test_the_wrong_sign_of_rel_is_warned_of_once(
    threshold_mode: Any, series: list[float], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "asynchub"):
        drive(ReduceLROnPlateau(optimizer_of(), "loss", threshold_mode=threshold_mode), scalars("loss", series))
    assert len(caplog.records) == warnings


def test_on_a_hub_it_acts_inside_the_settle_point() -> None:
    hub = MessageHub("plateau")
    optimizer, oracle_optimizer = optimizer_of(0.8), optimizer_of(0.8)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(oracle_optimizer, factor=0.5, patience=1)
    hub.attach(ReduceLROnPlateau(optimizer, "val/loss", factor=0.5, patience=1), name="plateau")
    changes = hub.subscribe(ParameterChanged)
    for epoch, value in enumerate([4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0], 1):
        hub.step = epoch
        before = rates(optimizer)
        hub.update_scalar("val/loss", value)
        assert rates(optimizer) == before
        hub.settle()
        oracle.step(value)
        assert rates(optimizer) == rates(oracle_optimizer)
    assert changes.statistics().lag == 3
    changes.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "auto"},
        {"factor": 1.0},
        {"factor": -0.1},
        {"patience": -1},
        {"threshold": -1e-4},
        {"threshold": NAN},
        {"threshold_mode": "share"},
        {"cooldown": -1},
        {"min_lr": [0.0, 0.0]},
        {"min_lr": "0"},
        {"min_lr": [NAN]},
        {"eps": -1.0},
        {"param_name": "betas"},
        {"param_name": "params"},
        {"start_from": "soon"},
        {"smooth": -3},
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused_by_name(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ArgumentError, match=name):
        ReduceLROnPlateau(optimizer_of(), "loss", **arguments)


def test_what_has_no_parameter_groups_is_refused() -> None:
    with pytest.raises(ArgumentError, match="param_groups"):
        ReduceLROnPlateau(torch.nn.Linear(1, 1), "loss")


def test_a_malformed_state_is_refused_and_changes_nothing() -> None:
    plateau = ReduceLROnPlateau(optimizer_of(), "loss")
    drive(plateau, scalars("loss", [2.0, 3.0]))
    before = plateau.state_dict()
    for name, value in (("best", None), ("bad_checks", 1.0), ("smoothing", "")):
        with pytest.raises(StateDictError, match=name):
            plateau.load_state_dict({**before, name: value})
    assert plateau.state_dict() == before
