"""What rank zero set in optimizers reaches the others, and schedules go on from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from asynchub.integrations.ranks import Ranks
from asynchub.integrations.schedules import Schedules


def optimizer(lr: float | torch.Tensor = 0.5, groups: int = 2, **options: Any) -> torch.optim.Optimizer:
    parameters = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr.clone() if isinstance(lr, torch.Tensor) else lr}
        for _ in range(groups)
    ]
    return torch.optim.Adam(parameters, **options)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_what_was_set_on_rank_zero_is_set_on_the_others(as_tensor: bool) -> None:
    made = [[optimizer(torch.tensor(0.5) if as_tensor else 0.5, foreach=False) for _ in range(2)] for _ in range(2)]
    told: list[Any] = []
    zero = Ranks(True, made[0], lambda given: told.append(given) or given)  # type: ignore[func-returns-value]
    one = Ranks(False, made[1], lambda given: told[-1])
    for rank in (zero, one):
        rank.watch()
    group = made[0][1].param_groups[1]
    if as_tensor:
        group["lr"].fill_(0.25)
    else:
        group["lr"] = 0.25
    group["weight_decay"] = 0.125
    assert zero.tell(True, False) == one.tell(False, False) == (True, False)
    assert told[-1][1] == [(1, 1, "lr", 0.25), (1, 1, "weight_decay", 0.125)]
    changed = made[1][1].param_groups[1]
    assert (float(changed["lr"]), changed["weight_decay"]) == (0.25, 0.125)
    assert isinstance(changed["lr"], torch.Tensor) is as_tensor
    assert float(made[1][0].param_groups[1]["lr"]) == 0.5
    zero.watch()
    zero.tell(False)
    assert told[-1] == ((False,), [])


def test_one_rank_alone_is_told_what_it_said() -> None:
    assert Ranks(True, [optimizer()]).tell(True, False) == (True, False)


def stepped(scheduler: Any, count: int) -> list[float]:
    rates = []
    for _ in range(count):
        scheduler.optimizer.step()
        scheduler.step()
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
    return rates


def linear(over: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(over, lambda step: 1 - step / 10)


def joined(over: torch.optim.Optimizer) -> Any:
    halves = [torch.optim.lr_scheduler.LambdaLR(over, lambda step: 1 - step / 20) for _ in range(2)]
    return torch.optim.lr_scheduler.SequentialLR(over, halves, [2])


def falling(over: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(over, 1, 0.5)


@pytest.mark.parametrize("make", [linear, joined, falling])
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # torch's SequentialLR uses it
def test_a_schedule_goes_on_in_proportion(make: Any) -> None:
    plain = stepped(make(optimizer()), 6)
    scheduler = make(optimizer())
    assert stepped(scheduler, 3) == plain[:3]
    schedules = Schedules([scheduler])
    schedules.watch()
    for group in scheduler.optimizer.param_groups:
        group["lr"] /= 4
    schedules.follow()
    assert stepped(scheduler, 3) == pytest.approx([rate / 4 for rate in plain[3:]])


def test_a_schedule_stays_where_nothing_was_set_or_the_rate_was_0_or_is_a_tensor() -> None:
    scheduler = linear(optimizer())
    schedules = Schedules([scheduler])
    schedules.watch()
    schedules.follow()
    assert scheduler.base_lrs == [0.5, 0.5]
    scheduler.optimizer.param_groups[0]["lr"] = 0.0
    schedules.watch()
    scheduler.optimizer.param_groups[0]["lr"] = 0.1
    schedules.follow()
    assert scheduler.base_lrs == [0.5, 0.5]
    of_tensors = linear(optimizer(torch.tensor(0.5), foreach=False))
    schedules = Schedules([of_tensors, object()])
    schedules.watch()
    of_tensors.optimizer.param_groups[0]["lr"].fill_(0.1)
    schedules.follow()
    assert [float(one) for one in of_tensors.base_lrs] == [0.5, 0.5]
