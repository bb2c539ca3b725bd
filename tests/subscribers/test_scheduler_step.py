"""``SchedulerStep``: the same scheduler, stepped inline, is the oracle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from torch.optim import lr_scheduler

from asynchub.errors import ArgumentError, ControlFailedError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import ParameterChanged
from asynchub.subscribers.scheduler_step import SchedulerStep
from asynchub.testing import Drive, drive, scalars

STEPS = 24


class Warmup:
    """A callable with state, which ``LambdaLR`` saves."""

    def __init__(self) -> None:
        self.length = 5

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / self.length)


def sequential(optimizer: torch.optim.Optimizer) -> Any:
    parts = [lr_scheduler.ConstantLR(optimizer, 0.1, 4), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[6])


def chained(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.1, 4), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    )


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 5, 0.5),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [3, 3, 11], 0.5),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4, 2),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, [1.0, 2.0], total_steps=STEPS + 1),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=5),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, [Warmup(), lambda step: 0.9**step]),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
}
every_scheduler = pytest.mark.parametrize("kind", SCHEDULERS)


def optimizer_of() -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.4)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def state_of(optimizer: torch.optim.Optimizer) -> list[tuple[float, float]]:
    return [(float(group["lr"]), group["momentum"]) for group in optimizer.param_groups]


def inline(kind: str, steps: int = STEPS) -> list[list[tuple[float, float]]]:
    """Return learning rates and momenta before the first step and after each, of a program that steps it itself."""
    optimizer = optimizer_of()
    scheduler = SCHEDULERS[kind](optimizer)
    found = [state_of(optimizer)]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append(state_of(optimizer))
    return found


@every_scheduler
def test_a_scheduler_driven_by_steps_is_where_it_would_be_inline(kind: str) -> None:
    optimizer = optimizer_of()
    hub = MessageHub("steps")
    hub.attach(SchedulerStep(SCHEDULERS[kind](optimizer), interval="step"))
    wanted = inline(kind)
    for step in range(1, STEPS + 1):
        assert state_of(optimizer) == wanted[step - 1]
        optimizer.step()
        hub.step = step
        hub.update_scalars({"train/loss": 1 / step, "train/accuracy": step})
        hub.settle()
    assert state_of(optimizer) == wanted[-1]


@every_scheduler
@pytest.mark.parametrize("settled_each_step", [False, True])
def test_a_scheduler_driven_by_epochs_is_where_it_would_be_inline(kind: str, settled_each_step: bool) -> None:
    optimizer = optimizer_of()
    hub = MessageHub("epochs")
    on = "val/loss" if settled_each_step else None
    hub.attach(SchedulerStep(SCHEDULERS[kind](optimizer), on=on))
    wanted = inline(kind)
    for epoch in range(1, STEPS + 1):
        hub.update_info("epoch", epoch)
        for _ in range(3):
            assert state_of(optimizer) == wanted[epoch - 1]
            optimizer.step()
            hub.step += 1
            hub.update_scalar("train/loss", 1.0)
            if settled_each_step:
                hub.settle()
        hub.update_scalar("val/loss", 1.0)
        hub.settle()
    assert state_of(optimizer) == wanted[-1]


@every_scheduler
@pytest.mark.parametrize("saved_after", [0, 1, 4, 7, 15])
def test_a_resumed_scheduler_goes_on_as_if_it_had_not_stopped(kind: str, saved_after: int, tmp_path: Path) -> None:
    def train(hub: MessageHub, optimizer: torch.optim.Optimizer, until: int) -> None:
        while hub.step < until:
            optimizer.step()
            hub.step += 1
            hub.update_scalar("train/loss", 1.0)
            hub.settle()

    optimizer = optimizer_of()
    hub = MessageHub("first")
    hub.attach(SchedulerStep(SCHEDULERS[kind](optimizer), interval="step"))
    train(hub, optimizer, saved_after)
    hub.save(tmp_path / "state")
    rest = optimizer_of()
    scheduler = SCHEDULERS[kind](rest)
    rest.load_state_dict(optimizer.state_dict())
    resumed = MessageHub("second")
    resumed.load(tmp_path / "state")
    resumed.attach(SchedulerStep(scheduler, interval="step"))
    wanted = inline(kind)
    for step in range(saved_after + 1, STEPS + 1):
        train(resumed, rest, step)
        assert state_of(rest) == wanted[step]


def test_the_plateau_scheduler_of_torch_gets_the_mean_of_its_metric() -> None:
    optimizer, theirs = optimizer_of(), optimizer_of()
    oracle = lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    driven = Drive(SchedulerStep(scheduler, monitor="val/loss"))
    for value in [4.0, 3.0, 3.0, 3.0, 3.5, 2.0, 2.0, 2.0]:
        oracle.step(value / 4)
        driven.send(ScalarUpdated(key="val/loss", value=value, count=4))
        assert state_of(optimizer) == state_of(theirs)
    driven.close()
    other = SchedulerStep(lr_scheduler.ReduceLROnPlateau(optimizer_of()), monitor="val/loss")
    other.load_state_dict(msgpack.unpackb(msgpack.packb(SchedulerStep(scheduler, monitor="val/loss").state_dict())))
    assert other._scheduler.state_dict() == scheduler.state_dict()


class Counting:
    """A scheduler of somebody else's that only counts."""

    def __init__(self) -> None:
        self.calls = 0

    def step(self) -> None:
        self.calls += 1

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def calls_after(events: list[Event], **arguments: Any) -> list[int]:
    """Return how often the scheduler had been called after each event."""
    scheduler = Counting()
    driven = Drive(SchedulerStep(scheduler, **arguments), "**")
    found = []
    for event in events:
        driven.send(event)
        found.append(scheduler.calls)
    driven.close()
    return found


def at_steps(*steps: int | None, key: str = "loss") -> list[Event]:
    return [ScalarUpdated(key=key, value=1.0, step=step) for step in steps]


def epochs(*numbers: Any) -> list[Event]:
    return [InfoUpdated(key="epoch", value=number) for number in numbers]


def test_steps_that_were_jumped_over_are_made_up_for() -> None:
    assert calls_after(at_steps(0, 1, 1, 2, 5, 5, 6), interval="step") == [0, 1, 1, 2, 5, 5, 6]


def test_going_back_calls_nothing() -> None:
    assert calls_after(at_steps(3, 1, 2, 3, 4), interval="step") == [3, 3, 3, 3, 4]
    assert calls_after(epochs(2, 1, 2, 3)) == [2, 2, 2, 3]


def test_infos_show_steps_too_and_other_keys_do_not_when_one_is_named() -> None:
    events: list[Event] = [InfoUpdated(key="lr", value=1, step=1), *at_steps(2), *at_steps(3, key="val")]
    assert calls_after(events, interval="step") == [1, 2, 3]
    assert calls_after(events, interval="step", on="val") == [0, 0, 3]


def test_a_program_that_counts_from_zero_starts_at_minus_one() -> None:
    assert calls_after(at_steps(0, 1, 2), interval="step", start=-1) == [1, 2, 3]
    assert calls_after(epochs(0, 1, 2), start=-1) == [1, 2, 3]


def test_frequency_counts_from_the_start() -> None:
    assert calls_after(at_steps(*range(1, 8)), interval="step", frequency=3) == [0, 0, 1, 1, 1, 2, 2]
    assert calls_after(at_steps(*range(7)), interval="step", frequency=3, start=-1) == [0, 0, 1, 1, 1, 2, 2]
    assert calls_after(at_steps(101, 102, 104, 112), interval="step", frequency=2, start=100) == [0, 1, 2, 6]
    assert calls_after(at_steps(*[0] * 6, key="val"), on="val", frequency=2) == [0, 1, 1, 2, 2, 3]


def test_an_epoch_that_is_no_number_and_a_scalar_over_no_samples_call_nothing() -> None:
    assert calls_after(epochs(None, "1", 1.0, True, 1)) == [0, 0, 0, 0, 1]
    assert calls_after([ScalarUpdated(key="val", value=1.0, count=0), *at_steps(1, key="val")], on="val") == [0, 1]


def test_a_scheduler_that_had_been_called_begins_where_it_is() -> None:
    optimizer = optimizer_of()
    scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    drive(SchedulerStep(scheduler, interval="step"), scalars("loss", [1.0] * 5))
    assert scheduler.last_epoch == 5


def test_the_phase_of_frequency_survives_a_resume() -> None:
    driven = Drive(first := SchedulerStep(Counting(), interval="step", frequency=3, start=100))
    for event in at_steps(101, 102, 103, 104):
        driven.send(event)
    driven.close()
    counting = Counting()
    second = SchedulerStep(counting, interval="step", frequency=3, start=104)
    second.load_state_dict(first.state_dict())
    drive(second, at_steps(105))
    assert counting.calls == 1
    drive(second, at_steps(106))
    assert counting.calls == 2


def test_changes_of_the_learning_rate_are_published_and_nothing_else() -> None:
    optimizer = optimizer_of()
    scheduler = lr_scheduler.StepLR(optimizer, 2, 0.5)
    optimizer.step()
    answers = drive(SchedulerStep(scheduler, interval="step"), scalars("loss", [1.0] * 3))
    found = [(one.step, one.group, one.old, one.new) for one in answers if isinstance(one, ParameterChanged)]
    assert found == [(2, 0, 0.1, 0.05), (2, 1, 0.4, 0.2)]
    assert {(one.name, one.reason, one.author) for one in answers if isinstance(one, ParameterChanged)} == {
        ("lr", "StepLR on step", "SchedulerStep")
    }


def test_a_scheduler_that_has_come_to_its_end_fails_the_settle_point() -> None:
    optimizer = optimizer_of()
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=3)
    optimizer.step()
    driven = Drive(SchedulerStep(scheduler, interval="step"))
    with pytest.raises(ControlFailedError) as failure:
        driven.send(*at_steps(10))
    driven.close()
    assert "3" in str(failure.value.exceptions[0])
    assert type(failure.value.exceptions[0]) is ValueError


def test_what_never_came_is_warned_of_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "the runtime info 'epoch'"),
        ({"on": "val/los"}, "the scalar 'val/los'"),
        ({"interval": "step"}, "a new step"),
    ]
    for arguments, text in cases:
        with caplog.at_level(logging.WARNING, "asynchub"):
            drive(SchedulerStep(Counting(), **arguments), at_steps(0))
        assert text in caplog.text


def test_learning_rates_in_tensors_survive_a_resume() -> None:
    def scheduler() -> Any:
        parameter = torch.nn.Parameter(torch.zeros(1))
        return lr_scheduler.ExponentialLR(torch.optim.SGD([parameter], lr=torch.tensor(0.5)), 0.5)

    before, after = scheduler(), scheduler()
    before.optimizer.step()
    before.step()
    state = msgpack.unpackb(msgpack.packb(SchedulerStep(before).state_dict(), strict_types=True))
    SchedulerStep(after).load_state_dict(state)
    assert isinstance(after.get_last_lr()[0], torch.Tensor)
    assert after.state_dict() == before.state_dict()


def test_the_state_of_another_scheduler_is_refused_and_changes_nothing() -> None:
    cosine = SchedulerStep(SCHEDULERS["CosineAnnealingLR"](optimizer_of()))
    step = SchedulerStep(SCHEDULERS["StepLR"](optimizer_of()))
    before = step.state_dict()
    with pytest.raises(StateDictError, match="CosineAnnealingLR"):
        step.load_state_dict(cosine.state_dict())
    with pytest.raises(StateDictError, match="scheduler"):
        step.load_state_dict({**before, "scheduler": None})
    assert step.state_dict() == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"interval": "batch"}, "interval"),
        ({"frequency": 0}, "frequency"),
        ({"frequency": 1.5}, "frequency"),
        ({"start": -2}, "start"),
        ({"start": 0, "on": "val/loss"}, "start"),
        ({"on": "val/*"}, "one key"),
        ({"monitor": "val/loss"}, "takes no metric"),
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused_by_name(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        SchedulerStep(Counting(), **arguments)


def test_a_scheduler_that_takes_a_metric_needs_its_key_and_nothing_else() -> None:
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer_of())
    with pytest.raises(ArgumentError, match="takes a metric"):
        SchedulerStep(scheduler)
    with pytest.raises(ArgumentError, match="leave out"):
        SchedulerStep(scheduler, monitor="val/loss", on="val/loss")


@pytest.mark.parametrize("scheduler", [None, torch.optim.SGD, lr_scheduler.StepLR], ids=str)
def test_what_is_no_scheduler_is_refused(scheduler: Any) -> None:
    with pytest.raises(ArgumentError, match="scheduler must have"):
        SchedulerStep(scheduler)
