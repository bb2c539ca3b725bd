"""``ReduceLROnPlateau.like("keras")``: the callback of Keras is the oracle, value by value, on random series."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from asynchub.errors import ArgumentError
from asynchub.requests import Decided, ParameterChanged
from asynchub.subscribers.plateau import ReduceLROnPlateau
from asynchub.subscribers.plateau_presets import KerasPlateau
from asynchub.testing import Drive, drive, scalars
from tests.subscribers.test_plateau import optimizer_of, random_series, rates

os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what third parties say while they are imported
    import keras

# keras 3.15 hands NumPy 2 a variable whose __array__ is of NumPy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

NAN = math.nan
INITIAL = (0.5, 0.125, 0.3)


class Original:
    """The callback of Keras, and one of its optimizers for each of our groups."""

    def __init__(self, initial: tuple[float, ...], arguments: dict[str, Any]) -> None:
        optimizers = [keras.optimizers.SGD(rate) for rate in initial]
        optimizer: Any = optimizers[0] if len(initial) == 1 else SimpleNamespace(optimizers=optimizers)
        self.optimizers = optimizers
        self.callback = keras.callbacks.ReduceLROnPlateau("val_loss", **arguments)
        self.callback.set_model(SimpleNamespace(optimizer=optimizer))
        self.callback.on_train_begin()
        self.epoch = 0

    def check(self, value: float) -> None:
        self.callback.on_epoch_end(self.epoch, {"val_loss": value})
        self.epoch += 1

    @property
    def rates(self) -> list[float]:
        return [float(keras.ops.convert_to_numpy(one.learning_rate)) for one in self.optimizers]

    @property
    def counts(self) -> tuple[str, int, int]:
        return repr(self.callback.best), self.callback.wait, self.callback.cooldown_counter


def counts(plateau: ReduceLROnPlateau) -> tuple[str, int, int]:
    return repr(plateau.best), plateau.bad_checks, plateau.cooldown_left


def random_arguments(rng: np.random.Generator, exact: bool) -> dict[str, Any]:
    return {
        "factor": float(rng.choice([0.0, 0.5, 0.25] if exact else [0.1, 0.3, 0.9])),
        "patience": int(rng.integers(0, 6)),
        "mode": str(rng.choice(["min", "max"])),
        "min_delta": float(rng.choice([0.0, 1e-4, 0.125, 0.25])),
        "cooldown": int(rng.integers(0, 4)),
        "min_lr": float(rng.choice([0.0, 0.0625, 0.5] if exact else [0.0, 0.01, 0.3, 0.027])),
    }


def compare(rng: np.random.Generator, count: int) -> int:
    """Compare learning rates and counts after each of 40 checks of ``count`` series; return how many were reduced."""
    reductions = 0
    for number in range(count):
        exact = bool(number % 2)  # powers of two, which single precision holds
        initial = (INITIAL[:2] if exact else INITIAL)[: rng.integers(1, 4)]
        arguments, series = random_arguments(rng, exact), random_series(rng)
        original, optimizer = Original(initial, arguments), optimizer_of(*initial)
        driven = Drive(plateau := ReduceLROnPlateau.like("keras", optimizer, "val/loss", **arguments))
        for index, event in enumerate(scalars("val/loss", series)):
            original.check(event.value)
            answers = driven.send(event)
            reductions += sum(isinstance(answer, ParameterChanged) for answer in answers)
            where = (number, index, series, arguments)
            assert counts(plateau) == original.counts, where
            if exact:
                assert rates(optimizer) == original.rates, where
            else:  # Keras has rounded each reduction to single precision
                assert rates(optimizer) == pytest.approx(original.rates, rel=1e-5), where
        driven.close()
    return reductions


def test_learning_rates_are_those_of_keras_after_every_value_of_random_series(rng: np.random.Generator) -> None:
    assert compare(rng, 200) > 200


@pytest.mark.lengthy
@pytest.mark.slow
def test_learning_rates_are_those_of_keras_on_ten_thousand_series(rng: np.random.Generator) -> None:
    assert compare(rng, 10_000) > 10_000


def test_the_defaults_are_those_of_keras(rng: np.random.Generator) -> None:
    ours = inspect.signature(KerasPlateau).parameters
    theirs = inspect.signature(keras.callbacks.ReduceLROnPlateau.__init__).parameters
    assert [one for one in ours if one != "monitor" and ours[one].default != theirs[one].default] == []


def reduced_at(plateau: ReduceLROnPlateau, series: list[float]) -> list[int]:
    answers = drive(plateau, scalars("val/loss", series))
    return [(answer.step or 0) - 1 for answer in answers if isinstance(answer, ParameterChanged)]


@pytest.mark.parametrize(("cooldown", "keras_at", "torch_at"), [(0, [2, 4, 6, 8], [3, 6, 9]), (2, [2, 5, 8], [3, 8])])
def test_keras_reduces_one_check_before_torch(cooldown: int, keras_at: list[int], torch_at: list[int]) -> None:
    like_keras = ReduceLROnPlateau.like("keras", optimizer_of(), "val/loss", patience=2, cooldown=cooldown)
    assert reduced_at(like_keras, [1.0] * 10) == keras_at
    assert (
        reduced_at(ReduceLROnPlateau(optimizer_of(), "val/loss", patience=2, cooldown=cooldown), [1.0] * 10) == torch_at
    )


@pytest.mark.parametrize("seed_of_series", range(6))
def test_a_preset_saved_after_any_check_decides_as_if_it_had_not_been(seed_of_series: int) -> None:
    rng = np.random.default_rng(seed_of_series)
    arguments, series = random_arguments(rng, exact=True), random_series(rng)
    whole_optimizer = optimizer_of(0.5, 0.125)
    driven = Drive(whole := ReduceLROnPlateau.like("keras", whole_optimizer, "val/loss", **arguments))
    optimizer = optimizer_of(0.5, 0.125)
    part = ReduceLROnPlateau.like("keras", optimizer, "val/loss", **arguments)
    for event in scalars("val/loss", series):
        driven.send(event)
        saved = msgpack.unpackb(msgpack.packb(part.state_dict(), strict_types=True))
        part = ReduceLROnPlateau.like("keras", optimizer, "val/loss", **arguments)
        part.load_state_dict(saved)
        driven_part = Drive(part)
        driven_part.send(event)
        driven_part.close()
        assert repr(part.state_dict()) == repr(whole.state_dict())
        assert rates(optimizer) == rates(whole_optimizer)
    driven.close()


def test_at_its_bound_it_says_so_each_time() -> None:
    plateau = ReduceLROnPlateau.like("keras", optimizer_of(0.1), "val/loss", patience=1, min_lr=0.1)
    answers = drive(plateau, scalars("val/loss", [NAN, 1.0, 0.5]))
    assert [(one.verdict, one.wait, one.reason) for one in answers if isinstance(one, Decided)] == [
        ("improved", 0, "val/loss is nan, the first"),
        ("at_bound", 1, "val/loss has not improved on nan for 1 check"),
        ("at_bound", 2, "val/loss has not improved on nan for 2 checks"),
    ]


def test_another_parameter_can_be_reduced_like_keras() -> None:
    optimizer = optimizer_of(weight_decay=0.5)
    plateau = ReduceLROnPlateau.like("keras", optimizer, "val/loss", param_name="weight_decay", factor=0.5, patience=1)
    assert reduced_at(plateau, [1.0, 1.0]) == [1]
    assert (optimizer.param_groups[0]["weight_decay"], rates(optimizer)) == (0.25, [0.1])


@pytest.mark.parametrize(
    ("library", "arguments", "text"),
    [
        ("torch", {}, "presets like 'keras'"),
        ("keras", {"threshold": 0.1}, "knows factor, patience, mode, min_delta, cooldown, min_lr"),
        ("keras", {"min_lr": [0.1]}, "min_lr must be"),
        ("keras", {"factor": 1.0}, "factor must be"),
        ("keras", {"mode": "down"}, "mode must be"),
        ("keras", {"param_name": "betas"}, "param_name must"),
        ("keras", {"allowed_lateness": -1}, "allowed_lateness must"),
    ],
)
def test_what_the_preset_does_not_know_is_refused(library: str, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        ReduceLROnPlateau.like(library, optimizer_of(), "val/loss", **arguments)


def test_a_learning_rate_that_is_a_tensor_is_changed_in_place_like_keras() -> None:
    rate = torch.tensor(0.5)
    drive(
        ReduceLROnPlateau.like("keras", optimizer_of(rate), "val/loss", factor=0.5, patience=1),
        scalars("val/loss", [1.0, 1.0]),
    )
    assert rate.item() == 0.25
