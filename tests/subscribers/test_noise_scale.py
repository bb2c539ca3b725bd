"""``GradNoiseScale``: NumPy, and a problem whose noise scale is known."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, PatternError, StateDictError
from asynchub.events import Event, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.subscribers.noise_scale import GradNoiseScale
from asynchub.testing import Drive, drive

NAN, INF = math.nan, math.inf
SMALL, BIG = "grad_norm_sq/small", "grad_norm_sq/big"


def of(step: int | None, key: str, value: float, count: int = 1) -> ScalarUpdated:
    return ScalarUpdated(key=key, value=value, count=count, step=step)


def pairs(smalls: Any, bigs: Any) -> list[Event]:
    """Return one small and one big squared norm for each step, from 1 on."""
    steps = enumerate(zip(smalls, bigs, strict=True), 1)
    return [event for step, (small, big) in steps for event in (of(step, SMALL, small), of(step, BIG, big))]


def published(answers: list[Event]) -> list[tuple[int | None, float]]:
    assert all(isinstance(one, ScalarUpdated) and one.key == "noise_scale/simple" for one in answers)
    return [(one.step, one.value) for one in answers if isinstance(one, ScalarUpdated)]


# --- the formula


def test_one_step_gives_the_estimates_of_the_paper() -> None:
    scale = GradNoiseScale(2, 8)
    assert published(drive(scale, pairs([10.0], [4.0]))) == [(1, 8.0)]
    assert scale.squared_norm == pytest.approx((8 * 4 - 2 * 10) / 6)
    assert scale.trace == pytest.approx((10 - 4) / (1 / 2 - 1 / 8))
    assert (scale.scale, scale.steps) == (8.0, 1)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.99])
def test_the_averages_are_those_of_numpy(beta: float, rng: np.random.Generator) -> None:
    smalls, bigs = 4 + rng.random(50), 2 + rng.random(50)
    squared = (32 * bigs - 4 * smalls) / 28
    trace = (smalls - bigs) / (1 / 4 - 1 / 32)
    scale = GradNoiseScale(4, 32, beta)
    found = published(drive(scale, pairs(smalls.tolist(), bigs.tolist())))
    for count, (step, value) in enumerate(found, 1):
        weights = beta ** np.arange(count - 1, -1, -1.0)
        assert step == count
        assert value == pytest.approx((weights @ trace[:count]) / (weights @ squared[:count]), rel=1e-12)
    weights = beta ** np.arange(49, -1, -1.0)
    assert scale.trace == pytest.approx(np.average(trace, weights=weights), rel=1e-12)
    assert scale.squared_norm == pytest.approx(np.average(squared, weights=weights), rel=1e-12)


def test_a_known_noise_scale_is_found(rng: np.random.Generator) -> None:
    """Gradients of samples are normal around G, with a covariance whose trace over |G| ** 2 is 20."""
    dimension, b_small, b_big, steps = 30, 4, 64, 4000
    mean = rng.normal(size=dimension)
    deviations = rng.random(dimension)
    deviations *= math.sqrt(20 * (mean @ mean) / (deviations @ deviations))
    parts = mean + deviations / math.sqrt(b_small) * rng.normal(size=(steps, b_big // b_small, dimension))
    smalls = (parts**2).sum(-1)
    bigs = (parts.mean(1) ** 2).sum(-1)
    for count in (1, b_big // b_small):  # the norm of one part of the batch, or of each
        events = [
            event
            for step, (small, big) in enumerate(zip(smalls, bigs, strict=True))
            for event in (of(step, SMALL, float(small[:count].sum()), count), of(step, BIG, float(big)))
        ]
        scale = GradNoiseScale(b_small, b_big, beta=0.9995)
        drive(scale, events)
        assert scale.trace == pytest.approx(float(deviations @ deviations), rel=0.05)
        assert scale.squared_norm == pytest.approx(float(mean @ mean), rel=0.05)
        assert scale.scale == pytest.approx(20, rel=0.06)


def test_real_gradients_of_accumulated_batches_give_the_scale_of_the_samples() -> None:
    """The noise scale of a linear model at fixed weights, from the gradient of each sample."""
    torch.manual_seed(0)
    inputs = torch.randn(4096, 6, dtype=torch.float64)
    targets = inputs.sum(1, keepdim=True) + 2 * torch.randn(4096, 1, dtype=torch.float64)
    model = torch.nn.Linear(6, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    each = 2 * (model(inputs) - targets).detach() * inputs  # gradient of the squared error of one sample
    mean = each.mean(0)
    known = float(each.var(0, correction=0).sum() / (mean @ mean))
    hub, scale = MessageHub("accumulated"), GradNoiseScale(8, 64, beta=0.99)
    hub.attach(scale)
    with hub:
        for hub.step in range(1, 401):
            model.zero_grad()
            before = torch.zeros_like(model.weight)
            for _ in range(8):
                chosen = torch.randint(4096, (8,))
                ((model(inputs[chosen]) - targets[chosen]).pow(2).mean() / 8).backward()
                gradient = model.weight.grad
                assert gradient is not None
                hub.update_scalar(SMALL, (8 * (gradient - before)).pow(2).sum())
                before = gradient.clone()
            hub.update_scalar(BIG, before.pow(2).sum())
            hub.settle()
        assert len(hub.get_scalar("noise_scale/simple").data[0]) == 400
    assert scale.scale == pytest.approx(known, rel=0.2)


# --- which values belong together


def test_norms_of_one_step_are_a_pair_whichever_comes_first() -> None:
    first = drive(GradNoiseScale(2, 8), [of(1, BIG, 4.0), of(1, SMALL, 10.0)])
    assert published(first) == published(drive(GradNoiseScale(2, 8), [of(1, SMALL, 10.0), of(1, BIG, 4.0)]))


def test_norms_of_different_steps_are_no_pair() -> None:
    events = [of(1, SMALL, 10.0), of(2, BIG, 4.0), of(3, SMALL, 10.0), of(3, SMALL, 10.0), of(4, SMALL, 10.0)]
    assert drive(GradNoiseScale(2, 8), events) == []


def test_several_small_norms_of_a_step_are_averaged_sample_by_sample() -> None:
    one_by_one = [*[of(1, SMALL, value) for value in (8.0, 12.0, 10.0, 10.0)], of(1, BIG, 4.0)]
    together = [of(1, SMALL, 30.0, 3), of(1, SMALL, 10.0), of(1, BIG, 8.0, 2)]
    for events in (one_by_one, together):
        assert published(drive(GradNoiseScale(2, 8), events)) == [(1, 8.0)]


def test_a_step_may_have_several_pairs() -> None:
    assert published(drive(GradNoiseScale(2, 8), pairs([10.0], [4.0]) * 3)) == [(1, 8.0)] * 3


@pytest.mark.parametrize("bad", [NAN, INF, -1.0, 1e308])
def test_a_step_with_a_norm_that_is_none_is_left_out(bad: float) -> None:
    events = pairs([10.0, 10.0, bad, 10.0], [4.0, bad, 4.0, 4.0])
    scale = GradNoiseScale(2, 8)
    assert published(drive(scale, events)) == [(1, 8.0), (4, 8.0)]
    assert scale.steps == 2


def test_updates_over_no_samples_and_other_keys_are_left_out() -> None:
    events = [of(1, SMALL, NAN, 0), of(1, "other", 3.0), of(1, SMALL, 10.0), of(1, BIG, NAN, 0), of(1, BIG, 4.0)]
    assert published(drive(GradNoiseScale(2, 8), events, "**")) == [(1, 8.0)]


def test_nothing_is_published_while_the_gradient_cannot_be_told_from_noise() -> None:
    scale = GradNoiseScale(2, 8, beta=0.5)
    answers = drive(scale, pairs([10.0, 10.0, 10.0], [2.0, 2.0, 8.0]))
    assert scale.squared_norm is not None
    assert [step for step, _ in published(answers)] == [3]
    assert GradNoiseScale(2, 8).scale is None


def test_it_does_not_hear_itself_though_it_hears_everything() -> None:
    hub, scale = MessageHub("everything"), GradNoiseScale(2, 8)
    hub.attach(scale, "**")
    hub.update_scalars({SMALL: 10.0, BIG: 4.0})
    hub.settle()
    assert hub.get_scalar("noise_scale/simple").data[0].tolist() == [8.0]
    assert scale.steps == 1


def test_the_keys_can_be_others() -> None:
    hub = MessageHub("keys")
    hub.attach(GradNoiseScale(2, 8, small="a", big="b", key="c"))
    hub.update_scalars({"a": 10.0, "b": 4.0})
    hub.settle()
    assert hub.get_scalar("c").current() == 8.0


# --- resume


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.sampled_from([SMALL, BIG]),
            st.one_of(st.floats(0, 100), st.sampled_from([NAN, INF, -1.0])),
            st.integers(0, 3),
        ),
        max_size=25,
    )
)
def test_an_estimate_saved_after_any_value_goes_on_as_if_it_had_not_been(
    values: list[tuple[int, str, float, int]],
) -> None:
    events = [of(*value) for value in sorted(values, key=lambda value: value[0])]
    whole = GradNoiseScale(2, 8, 0.9)
    driven = Drive(whole)
    states: list[dict[str, Any]] = [whole.state_dict()]
    answers: list[list[tuple[int | None, float]]] = []
    for event in events:
        answers.append(published(driven.send(event)))
        states.append(whole.state_dict())
    driven.close()
    for index, event in enumerate(events):
        part = GradNoiseScale(2, 8, 0.9)
        part.load_state_dict(msgpack.unpackb(msgpack.packb(states[index], strict_types=True)))
        assert published(drive(part, [event])) == answers[index]
        assert repr(part.state_dict()) == repr(states[index + 1])  # in text NaN is NaN


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 1.0), ("squared", NAN), ("trace", "1"), ("step", 0.5), ("small_count", None)]
)
def test_a_malformed_state_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    scale = GradNoiseScale(2, 8)
    drive(scale, pairs([10.0], [4.0]))
    before = scale.state_dict()
    with pytest.raises(StateDictError, match=name):
        scale.load_state_dict({**before, name: value})
    assert scale.state_dict() == before


# --- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"b_small": 0},
        {"b_small": 2.0},
        {"b_big": 2},
        {"beta": 1.0},
        {"beta": -0.1},
        {"small": "grad/*"},
        {"big": "grad_norm_sq/small"},
        {"key": "grad_norm_sq/big"},
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused_by_name(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ArgumentError, match=name):
        GradNoiseScale(**{"b_small": 2, "b_big": 8, **arguments})


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(PatternError):
        GradNoiseScale(2, 8, key="")
