"""``BatchSizeScheduler``: real loaders make batches of the size it says, from when its documentation says on."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
)

from asynchub.errors import ArgumentError, ControlFailedError, PatternError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import Decided, ParameterChanged
from asynchub.subscribers.batch_size import BatchSizeScheduler
from asynchub.testing import Drive, drive, scalars

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # how loaders start workers, from 3.12 on
DATA = TensorDataset(torch.arange(48))


class Counting(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(48))


def sizes(loader: Any) -> list[int]:
    return [len(batch[0] if isinstance(batch, (list, tuple)) else batch) for batch in loader]


def epochs(*numbers: int) -> list[Event]:
    return [InfoUpdated(key="epoch", value=number, step=0) for number in numbers]


def changes(answers: list[Event]) -> list[tuple[str, int, float, float]]:
    return [(one.name, one.group, one.old, one.new) for one in answers if isinstance(one, ParameterChanged)]


# --- real loaders


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_change_before_an_epoch_holds_for_all_of_it(workers: Any, drop_last: bool, shuffle: bool) -> None:
    loader = DataLoader(DATA, batch_size=8, shuffle=shuffle, drop_last=drop_last, **workers)
    hub = MessageHub("hub")
    hub.attach(BatchSizeScheduler(loader, {1: 16, 3: 12}))
    found, lengths = [], []
    for epoch in range(4):
        hub.update_info("epoch", epoch)
        hub.settle()
        lengths.append(len(loader))
        found.append(sizes(loader))
    assert found == [[8] * 6, [16] * 3, [16] * 3, [12] * 4]
    assert lengths == [6, 3, 3, 4]
    assert loader.batch_size == 8  # torch does not let it be set


def test_a_change_amid_a_pass_holds_for_batches_that_are_not_under_way() -> None:
    def change_after(batches: int, **options: Any) -> list[int]:
        loader = DataLoader(DATA, batch_size=4, **options)
        driven = Drive(BatchSizeScheduler(loader, {1: 8}))
        found = []
        for number, (batch,) in enumerate(loader, 1):
            found.append(len(batch))
            if number == batches:
                driven.send(epochs(1)[0])
        assert sizes(loader)[0] == 8
        return found

    assert change_after(3) == [4, 4, 4, 8, 8, 8, 8, 4]
    assert change_after(3, drop_last=True) == [4] * 12
    assert change_after(2, num_workers=1, prefetch_factor=3) == [4, 4, 4, 4, 4, 8, 8, 8, 4]


def test_iterable_data_sets_distributed_samplers_and_batch_samplers_do_the_same() -> None:
    iterable = DataLoader(Counting(), batch_size=6)
    distributed = DataLoader(DATA, batch_size=6, sampler=DistributedSampler(DATA, num_replicas=2, rank=1))
    sampler = BatchSampler(SequentialSampler(range(48)), 6, False)
    bare = DataLoader(DATA, batch_sampler=sampler)
    for target, loader in ((iterable, iterable), (distributed, distributed), (sampler, bare)):
        drive(BatchSizeScheduler(target, {0: 12}), epochs(0))
        assert set(sizes(loader)) == {12}


def test_what_has_no_batch_size_that_can_be_set_is_refused_and_told_why() -> None:
    class Fixed:
        @property
        def batch_size(self) -> int:
            return 4

    for target in (DataLoader(DATA, batch_size=None), object(), DataLoader, Fixed(), None):
        with pytest.raises(ArgumentError, match="function"):
            BatchSizeScheduler(target, {0: 8})
    with pytest.raises(ArgumentError, match="leave it out"):
        BatchSizeScheduler(DataLoader(DATA, batch_size=4), {0: 8}, size=4)


def test_a_function_is_called_with_each_new_size() -> None:
    applied: list[int] = []
    with pytest.raises(ArgumentError, match="give size="):
        BatchSizeScheduler(applied.append, {0: 8})
    answers = drive(BatchSizeScheduler(applied.append, {2: 8, 3: 4}, size=4), epochs(0, 1, 2, 2, 3))
    assert applied == [8, 4]
    assert changes(answers) == [("batch_size", 0, 4.0, 8.0), ("batch_size", 0, 8.0, 4.0)]
    assert [one.reason for one in answers if isinstance(one, Decided)] == [
        "4 -> 8: planned for epoch 2",
        "8 -> 4: planned for epoch 3",
    ]


# --- plans


def test_a_function_plans_by_step_and_may_leave_the_size() -> None:
    asked: list[int] = []

    def plan(step: int) -> int | None:
        asked.append(step)
        return None if step < 4 else 2 * step

    applied: list[int] = []
    events = [ScalarUpdated(key=key, value=1.0, step=step) for step in (1, 2, 5, 6) for key in ("a", "b")]
    driven = Drive(BatchSizeScheduler(applied.append, plan, interval="step", size=4))
    for event in events:
        driven.send(event)
    assert asked == [1, 2, 5, 6]
    assert applied == [10, 12]


@pytest.mark.parametrize("planned", [0, -1, 2.5, True, "8"])
def test_a_plan_that_is_no_size_fails_the_settle_point_and_changes_nothing(planned: Any) -> None:
    loader: Any = DataLoader(DATA, batch_size=4)
    with pytest.raises(ControlFailedError) as raised:
        drive(BatchSizeScheduler(loader, lambda epoch: planned), epochs(1))
    assert raised.group_contains(ArgumentError, match="planned for epoch 1")
    assert loader.batch_sampler.batch_size == 4


def test_a_function_that_fails_leaves_the_old_size() -> None:
    def apply(size: int) -> None:
        raise MemoryError

    scheduler = BatchSizeScheduler(apply, {0: 8}, size=4)
    with pytest.raises(ControlFailedError):
        drive(scheduler, epochs(0))
    assert (scheduler.size, scheduler.position) == (4, None)


# --- a noise scale


def following(values: list[float], **arguments: Any) -> tuple[list[int], list[Event]]:
    applied: list[int] = []
    answers = drive(
        BatchSizeScheduler(applied.append, monitor="noise", **{"size": 32, "max_size": 1024, **arguments}),
        scalars("noise", values),
    )
    return applied, answers


def test_the_size_follows_a_noise_scale_in_multiples_and_within_bounds() -> None:
    applied, _ = following([40, 100, 3000, 1], multiple_of=16, min_size=16, tolerance=0.0)
    assert applied == [96, 1024, 16]  # 40 is nearest to 2.5 multiples: 32, which it is already
    assert following([10.0], scale=6.4, multiple_of=8)[0] == [64]


def test_a_small_change_is_not_made_and_that_is_said() -> None:
    applied, answers = following([36, 40, 41, 33, 31])
    assert applied == [41]
    assert [(one.verdict, one.reason) for one in answers if isinstance(one, Decided)] == [
        ("kept", "36 is within 25% of 32"),
        ("kept", "40 is within 25% of 32"),
        ("changed", "32 -> 41: noise is 41"),
        ("kept", "33 is within 25% of 41"),
        ("kept", "31 is within 25% of 41"),
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -5.0])
def test_what_is_no_scale_changes_nothing(value: float) -> None:
    applied, answers = following([value])
    assert applied == []
    assert [one.verdict for one in answers if isinstance(one, Decided)] == ["kept"]


def test_the_scale_is_the_mean_over_the_samples() -> None:
    applied: list[int] = []
    scheduler = BatchSizeScheduler(applied.append, monitor="noise", size=32, max_size=1024)
    for value, count in ((400.0, 4), (0.0, 0)):
        drive(scheduler, [ScalarUpdated(key="noise", value=value, count=count)])
    assert applied == [100]


# --- the learning rate


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 4.0), ("sqrt", 2.0)])
def test_the_learning_rates_of_all_groups_follow_the_size(scaling: Any, factor: float) -> None:
    tensor = torch.tensor(0.5)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": tensor})
    scheduler = BatchSizeScheduler(DataLoader(DATA, batch_size=4), {1: 16}, optimizer=optimizer, lr_scaling=scaling)
    answers = drive(scheduler, epochs(0, 1))
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.1 * factor, 0.5 * factor])
    assert optimizer.param_groups[1]["lr"] is tensor  # a captured graph may hold on to it
    assert [(name, group) for name, group, *_ in changes(answers)] == [("batch_size", 0), ("lr", 0), ("lr", 1)]


# --- resuming


@pytest.mark.parametrize(
    "arguments",
    [
        {"schedule": {2: 8, 5: 16, 6: 12}},
        {"schedule": lambda step: 4 + step // 10 * 2, "interval": "step"},
        {"monitor": "noise", "max_size": 64, "multiple_of": 4},
    ],
)
def test_a_run_that_is_split_anywhere_has_the_sizes_of_one_that_was_not(arguments: Any, seed: int) -> None:
    rng = random.Random(seed)
    events: list[Event] = []
    for step in range(50):
        if step % 6 == 0:
            events.append(InfoUpdated(key="epoch", value=step // 6, step=step))
        events.append(ScalarUpdated(key="noise", value=rng.choice([math.nan, 5, 20, 24, 60, 100]), step=step))

    def live(some: list[Event], state: Any = None) -> tuple[list[Any], Any]:
        loader: Any = DataLoader(DATA, batch_size=4)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1 if state is None else state["lr"])
        scheduler = BatchSizeScheduler(loader, **arguments, optimizer=optimizer, lr_scaling="linear")
        if state is not None:
            scheduler.load_state_dict(msgpack.unpackb(msgpack.packb(state["scheduler"], strict_types=True)))
        driven = Drive(scheduler)
        found = []
        for event in some:
            driven.send(event)
            found.append((loader.batch_sampler.batch_size, optimizer.param_groups[0]["lr"]))
        return found, {"scheduler": scheduler.state_dict(), "lr": optimizer.param_groups[0]["lr"]}

    wanted, _ = live(events)
    for split in range(len(events) + 1):
        first, state = live(events[:split])
        rest, _ = live(events[split:], state)
        assert first + rest == wanted, f"split at {split}"


def test_a_resumed_loader_has_the_size_before_the_first_epoch_is_said(tmp_path: Path) -> None:
    first = MessageHub("first")
    first.attach(BatchSizeScheduler(DataLoader(DATA, batch_size=4), {1: 16}))
    first.update_info("epoch", 1)
    first.settle()
    first.save(tmp_path / "state")
    loader = DataLoader(DATA, batch_size=4)
    second = MessageHub("second")
    second.load(tmp_path / "state")
    second.attach(BatchSizeScheduler(loader, {1: 16}))
    assert sizes(loader) == [16, 16, 16]


@pytest.mark.parametrize("state", [{"position": 1}, {"position": "1", "size": 4}, {"position": 1, "size": 0}, None])
def test_a_damaged_state_is_refused_and_leaves_no_trace(state: Any) -> None:
    loader: Any = DataLoader(DATA, batch_size=4)
    scheduler = BatchSizeScheduler(loader, {1: 16})
    with pytest.raises(StateDictError):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == {"position": None, "size": 4}
    assert loader.batch_sampler.batch_size == 4


# --- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"schedule": {0: 8}, "monitor": "noise", "max_size": 8},
        {"schedule": {}},
        {"schedule": {0: 0}},
        {"schedule": {-1: 8}},
        {"schedule": {"0": 8}},
        {"schedule": 8},
        {"schedule": {0: 8}, "interval": "batch"},
        {"schedule": {0: 8}, "lr_scaling": "linear"},
        {"schedule": {0: 8}, "optimizer": object()},
        {"schedule": {0: 8}, "optimizer": object(), "lr_scaling": "linear"},
        {"monitor": "noise"},
        {"monitor": "noise/*", "max_size": 8},
        {"monitor": "noise", "max_size": 8, "scale": 0},
        {"monitor": "noise", "max_size": 8, "min_size": 16},
        {"monitor": "noise", "max_size": 12, "multiple_of": 8},
        {"monitor": "noise", "max_size": 16, "multiple_of": 0},
        {"monitor": "noise", "max_size": 16, "tolerance": -0.1},
    ],
)
def test_a_wrong_argument_is_refused_at_once(arguments: Any) -> None:
    with pytest.raises(ArgumentError):
        BatchSizeScheduler(DataLoader(DATA, batch_size=4), **arguments)


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(PatternError):
        BatchSizeScheduler(DataLoader(DATA, batch_size=4), monitor="", max_size=8)
