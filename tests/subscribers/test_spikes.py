"""``SpikeDetection``: its rule against exact arithmetic and against Lightning's, its state and its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, PatternError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.requests import Request, StopRequested
from asynchub.subscribers.spikes import SpikeDetection
from asynchub.testing import Drive, drive, scalars

NAN, INF = math.nan, math.inf


def spikes_in(series: list[float], **arguments: Any) -> list[int]:
    """Return the indices of the spikes in ``series``."""
    detection = SpikeDetection("loss", **arguments)
    return [index for index, value in enumerate(series) if detection.check(value)]


def plain(answers: list[Event]) -> list[str]:
    """Return ``answers`` as text, in which NaN is NaN, without what is of the moment they were published in."""
    return [repr(replace(answer, seq=0, time=0.0)) for answer in answers]


def requests_in(answers: list[Event]) -> list[type[Event]]:
    return [type(answer) for answer in answers if isinstance(answer, Request)]


# --- the rule

EIGHTHS = st.integers(-24, 80).map(lambda number: number / 8)
SERIES = st.lists(st.one_of(EIGHTHS, EIGHTHS, EIGHTHS, st.sampled_from([NAN, INF, -INF])), max_size=25)
RULES = st.fixed_dictionaries(
    {
        "window": st.integers(1, 6),
        "warmup": st.integers(0, 4),
        "atol": st.sampled_from([None, 0.0, 0.125, 1.0, 3.0]),
        "rtol": st.sampled_from([0.0, 0.25, 1.0, 2.0]),
        "z_thresh": st.sampled_from([None, 0.0, 1.0, 2.5]),
        "finite_only": st.booleans(),
    }
)


def model(value: float, window: list[float], arguments: dict[str, Any]) -> bool | None:
    """Tell whether a finite value is a spike, in exact numbers, for ``mode="min"``; None where rounding may decide."""
    if not window:
        return False
    exact = [Fraction(one) for one in window]
    mean = sum(exact) / len(exact)
    difference = Fraction(value) - mean
    if difference <= 0 or Fraction(value) <= exact[-1]:
        return False
    bounds = [Fraction(arguments["rtol"]) * abs(mean), Fraction(arguments["atol"] or 0)]
    margins = [difference - bound for bound in bounds]
    if arguments["z_thresh"] is not None:
        if len(exact) < 2:
            return False
        variance = sum((one - mean) ** 2 for one in exact) / (len(exact) - 1)
        margins.append(difference**2 - Fraction(arguments["z_thresh"]) ** 2 * variance)
    if any(margin < -1e-9 for margin in margins):
        return False
    return None if any(abs(margin) < 1e-9 for margin in margins) else True


@settings(max_examples=300)
@given(SERIES, RULES)
def test_spikes_are_those_that_the_documented_rule_gives_in_exact_numbers(
    series: list[float], arguments: dict[str, Any]
) -> None:
    detection = SpikeDetection("loss", **arguments)
    window: list[float] = []
    for index, value in enumerate(series):
        spike = detection.check(value)
        watching = index >= arguments["warmup"]
        if not math.isfinite(value):
            assert spike is (watching and not arguments["finite_only"])
            continue
        wanted = model(value, window, arguments) if watching else False
        assert wanted is None or spike is wanted
        if not spike:
            window = [*window, value][-arguments["window"] :]
        assert detection.state_dict()["window"] == window  # no spike, and nothing that is not finite


@given(SERIES, RULES)
def test_max_is_min_of_the_negated_values(series: list[float], arguments: dict[str, Any]) -> None:
    negated = [-value for value in series]
    assert spikes_in(series, **arguments) == spikes_in(negated, mode="max", **arguments)


@pytest.mark.parametrize(
    ("series", "arguments", "spikes"),
    [
        ([1.0, 1.0, 1.0, 1.0, 3.0], {"window": 4}, [4]),
        ([1.0, 1.0, 1.0, 1.0, 2.99], {"window": 4}, []),
        ([-1.0, -1.0, -1.0, -1.0, 1.0], {"window": 4}, [4]),
        ([-1.0, -1.0, -1.0, -1.0, 0.99], {"window": 4}, []),
        ([1.0, 1.0, 2.5], {"rtol": None, "atol": 1.5}, [2]),
        ([1.0, 1.0, 2.49], {"rtol": None, "atol": 1.5}, []),
        ([0.001, 0.001, 0.01], {"atol": 0.5}, []),
        ([0.0, 2.0, 0.0, 2.0, 1 + 2.5 * math.sqrt(4 / 3)], {"rtol": None, "z_thresh": 2.5, "window": 4}, []),
        ([0.0, 2.0, 0.0, 2.0, 4.0], {"rtol": None, "z_thresh": 2.5, "window": 4, "warmup": 4}, [4]),
        ([1.0, 1.1], {"rtol": None, "z_thresh": 2.5}, []),
        ([1.0, 1.0, 1.1], {"rtol": None, "z_thresh": 2.5}, [2]),
        ([100.0, 1.0, 50.0], {"rtol": 0.0}, []),
        ([1.0, 9.0, 9.0, 9.0], {}, [1, 2, 3]),
        ([1.0, 9.0, 9.0, 9.0], {"warmup": 2}, []),
        ([1.0, 0.0, -100.0], {}, []),
        ([9.0, 9.0, 1.0], {"mode": "max", "rtol": 0.5}, [2]),
        ([1e308, 1e308, -1e308], {"mode": "max"}, [2]),
    ],
    ids=str,
)
def test_what_is_a_spike_at_the_bound_and_beside_it(
    series: list[float], arguments: dict[str, Any], spikes: list[int]
) -> None:
    assert spikes_in(series, **arguments) == spikes


# --- Lightning's


def lightning_rule(tmp_path: Path, **arguments: Any) -> tuple[Callable[[float], bool], Any]:
    """Return Lightning's rule as a function of the next value, and the object."""
    fabric_module = pytest.importorskip("lightning.fabric")
    spike_module = pytest.importorskip("lightning.fabric.utilities.spike")
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    theirs = spike_module.SpikeDetection(exclude_batches_path=tmp_path / "theirs.json", **arguments)
    seen = [0]

    def check(value: float) -> bool:
        try:
            theirs.on_train_batch_end(fabric, torch.tensor(value), None, seen[0])
        except spike_module.TrainingSpikeException:
            return True
        finally:
            seen[0] += 1
        return False

    return check, theirs


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "arguments", [{}, {"window": 3, "rtol": 1.0}, {"warmup": 5, "rtol": 1.5, "atol": 2.0}], ids=str
)
def test_decisions_are_those_of_lightning_on_finite_values_with_a_share_of_at_least_1(
    mode: str, arguments: dict[str, Any], rng: np.random.Generator, tmp_path: Path
) -> None:
    spikes = 0
    for _ in range(4):
        series = np.exp(rng.normal(0, 0.7, 30)) * np.where(rng.random(30) < 0.15, 8, 1)
        ours = SpikeDetection("loss", mode=mode, **arguments)  # type: ignore[arg-type]
        theirs, _ = lightning_rule(tmp_path, mode=mode, **arguments)
        for value in (series if mode == "min" else -series).tolist():
            found = ours.check(value)
            spikes += found
            assert found == theirs(value)
    assert spikes > 10


def test_a_value_better_than_the_mean_is_no_spike_where_lightning_takes_it_for_one(tmp_path: Path) -> None:
    """Lightning looks at the size of the difference, so that a loss of half the mean is one, if the last was lower."""
    series = [10.0, 10.0, 10.0, 10.0, 1.0, 2.0]
    theirs, _ = lightning_rule(tmp_path, rtol=0.5)
    assert [index for index, value in enumerate(series) if theirs(value)] == [5]
    assert spikes_in(series, rtol=0.5) == []


def test_finite_only_does_what_its_name_says_where_lightning_does_the_opposite(tmp_path: Path) -> None:
    theirs, _ = lightning_rule(tmp_path, finite_only=True)
    assert [theirs(value) for value in (1.0, 1.0, NAN)] == [False, False, True]
    theirs, _ = lightning_rule(tmp_path, finite_only=False)
    assert [theirs(value) for value in (1.0, 1.0, NAN)] == [False, False, False]
    assert spikes_in([1.0, 1.0, NAN, INF, -INF, 1.0], finite_only=True) == []
    assert spikes_in([1.0, 1.0, NAN, INF, -INF, 1.0], finite_only=False) == [2, 3, 4]


def test_a_state_can_be_loaded_where_lightning_raises(tmp_path: Path) -> None:
    check, theirs = lightning_rule(tmp_path)
    check(1.0)
    with pytest.raises(AttributeError, match="running"):
        theirs.load_state_dict(theirs.state_dict())
    ours = SpikeDetection("loss")
    ours.check(1.0)
    resumed = SpikeDetection("loss")
    resumed.load_state_dict(ours.state_dict())
    assert resumed.check(9.0)


def test_the_file_that_lightning_writes_can_be_read(tmp_path: Path) -> None:
    check, _ = lightning_rule(tmp_path)
    assert [check(value) for value in (1.0, 1.0, 9.0)] == [False, False, True]
    assert SpikeDetection("loss", exclude_batches_path=tmp_path / "theirs.json").excluded == [1, 2]


# --- resume

ACTIONS = ["skip", "rollback", "stop"]


@settings(max_examples=60)
@given(SERIES, RULES, st.sampled_from(ACTIONS), st.sampled_from([None, 0, 1, 3]))
def test_a_rule_saved_after_any_value_decides_as_if_it_had_not_been(
    series: list[float], rule: dict[str, Any], action: Any, max_actions: int | None
) -> None:
    arguments = {**rule, "action": action, "max_actions": max_actions}
    events: list[Event] = []
    for step, value in enumerate(series, 1):
        events += [InfoUpdated(key="batch_index", value=7 * step, step=step)] if step % 5 == 0 else []
        events += [ScalarUpdated(key="loss", value=value, step=step if step < 12 else step - 6)]  # it goes back once
    whole = SpikeDetection("loss", **arguments)
    driven = Drive(whole)
    states: list[dict[str, Any]] = [whole.state_dict()]
    answers: list[list[str]] = []
    for event in events:
        answers.append(plain(driven.send(event)))
        states.append(whole.state_dict())
    driven.close()
    asked = False
    for index, event in enumerate(events):
        part = SpikeDetection("loss", **arguments)
        part.load_state_dict(msgpack.unpackb(msgpack.packb(states[index], strict_types=True)))
        got = drive(part, [event])
        if asked:  # a resumed run is asked to stop once more
            got = [answer for answer in got if not isinstance(answer, StopRequested)]
        asked = asked or StopRequested in requests_in(got)
        assert plain(got) == answers[index]
        assert part.state_dict() == states[index + 1]


def test_arguments_given_on_resume_win() -> None:
    first = SpikeDetection("loss", window=10)
    for value in range(1, 11):
        first.check(float(value))
    resumed = SpikeDetection("loss", window=2, rtol=0.1)
    resumed.load_state_dict(first.state_dict())
    assert resumed.mean == 9.5
    assert resumed.check(10.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", [NAN]),
        ("window", ["1"]),
        ("seen", 1.0),
        ("spiking", 0),
        ("actions", None),
        ("furthest", "7"),
        ("excluded", [1.5]),
        ("excluded", [True]),
        ("pending", [1]),
        ("pending", [1, ["0.1"]]),
    ],
)
def test_a_malformed_state_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    detection = SpikeDetection("loss")
    drive(detection, scalars("loss", [1.0, 1.0, 5.0]))
    before = detection.state_dict()
    with pytest.raises(StateDictError, match=name):
        detection.load_state_dict({**before, name: value})
    assert detection.state_dict() == before


# --- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "auto"},
        {"window": 0},
        {"window": 2.0},
        {"warmup": -1},
        {"atol": -1.0},
        {"atol": NAN},
        {"rtol": -0.1},
        {"rtol": None},
        {"z_thresh": "2"},
        {"finite_only": 1},
        {"action": "raise"},
        {"action": None},
        {"max_actions": -1},
        {"lr_decay": 0.5},
        {"exclude_batches_path": 3},
        {"exclude_batches_path": Path(__file__).parent},
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused_by_name(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ArgumentError, match=name):
        SpikeDetection("loss", **arguments)


@pytest.mark.parametrize("lr_decay", [0.0, 1.5, NAN, "half"])
def test_a_decay_out_of_range_is_refused(lr_decay: Any) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    with pytest.raises(ArgumentError, match="lr_decay"):
        SpikeDetection("loss", action="rollback", lr_decay=lr_decay, optimizer=optimizer)


@pytest.mark.parametrize("optimizer", [None, torch.nn.Linear(1, 1)], ids=["none", "module"])
def test_a_decay_without_an_optimizer_is_refused(optimizer: Any) -> None:
    with pytest.raises(ArgumentError, match="param_groups"):
        SpikeDetection("loss", action="rollback", lr_decay=0.5, optimizer=optimizer)


def test_an_async_function_is_refused() -> None:
    async def act(event: ScalarUpdated) -> None: ...

    class Acting:
        async def __call__(self, event: ScalarUpdated) -> None: ...

    for action in (act, Acting()):
        with pytest.raises(ArgumentError, match="async"):
            SpikeDetection("loss", action=action)


def test_a_pattern_is_no_monitor() -> None:
    with pytest.raises(ArgumentError, match="monitor"):
        SpikeDetection("train/*")
    with pytest.raises(PatternError):
        SpikeDetection("")
