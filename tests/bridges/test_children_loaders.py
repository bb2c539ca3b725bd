"""Workers of a DataLoader publish through the process that has started them."""

from __future__ import annotations

import os
from typing import Any

import pytest
from torch.utils.data import DataLoader

from asynchub.bridges.children import Children
from asynchub.hub import MessageHub
from asynchub.pipeline.monitor import Pipeline
from tests.bridges.child_work import (
    Decoded,
    Killing,
    mark,
)
from tests.bridges.families import FORKING, heard, values
from tests.waiting import until

pytestmark = FORKING
ELSEWHERE = [pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "forkserver")]
"""Where torch has to be imported by each process."""


@pytest.fixture
def hub() -> MessageHub:
    return MessageHub.get_instance("run")


def load(children: Children, size: int, method: str | None, **options: Any) -> DataLoader[Any]:
    """Return a loader of two workers, or none, that are linked."""
    return DataLoader(
        Decoded(size),
        batch_size=10,
        num_workers=2 if method else 0,
        multiprocessing_context=method,
        worker_init_fn=children.worker_init,
        **options,
    )


def assert_all_came(hub: MessageHub, size: int) -> None:
    """Check what two workers sent of all samples, batches of ten in turn, from ``Decoded``."""
    for worker in range(2):
        mine = [index for index in range(size) if index // 10 % 2 == worker]
        assert values(hub, f"data/{worker}") == [index / 7 for index in mine]
        assert hub.get_scalar(f"data/{worker}").snapshot().steps.tolist() == mine


@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_all_that_workers_of_a_loader_publish_arrives_in_order(method: str, hub: MessageHub) -> None:
    with heard(hub) as events, Children(hub) as children:
        assert sum(len(batch) for batch in load(children, 400, method)) == 400
        children.flush()
        figures = children.statistics()
    assert_all_came(hub, 400)
    for worker in range(2):
        of_worker = [event.value for event in events if event.key == f"data/{worker}"]
        assert of_worker == values(hub, f"data/{worker}")
    assert [event.seq for event in events] == list(range(1, 401))
    assert (figures.events, figures.lost, figures.refused) == (400, 0, 0)
    assert sorted((one.worker, one.events, one.lost, one.connected) for one in figures.children) == [
        ("0", 200, 0, False),
        ("1", 200, 0, False),
    ]
    assert len({one.pid for one in figures.children} | {os.getpid()}) == 3


def test_the_same_dataset_publishes_without_workers(hub: MessageHub) -> None:
    with hub, Children(hub) as children:
        assert len(list(load(children, 20, None))) == 2
    assert values(hub, "data/-1") == [index / 7 for index in range(20)]


def test_persistent_workers_publish_in_each_epoch(hub: MessageHub) -> None:
    with hub, Children(hub) as children:
        loader = load(children, 40, "fork", persistent_workers=True, prefetch_factor=3)
        for epoch in range(3):
            assert len(list(loader)) == 4
            until(lambda epoch=epoch: len(values(hub, "data/0")) == 20 * (epoch + 1))
        assert len(children.statistics().children) == 2
        del loader
    assert values(hub, "data/1") == 3 * [index / 7 for index in range(40) if index // 10 % 2]


def test_workers_are_linked_without_an_init_function_where_they_are_forked(hub: MessageHub) -> None:
    with hub, Children(hub):
        loader = DataLoader(Decoded(40), batch_size=10, num_workers=2, multiprocessing_context="fork")
        assert len(list(loader)) == 4
    assert_all_came(hub, 40)


@pytest.mark.parametrize("method", ["fork", *ELSEWHERE])
def test_an_init_function_of_ones_own_may_publish(method: str, hub: MessageHub) -> None:
    with hub, Children(hub) as children:
        loader = DataLoader(
            Decoded(40),
            batch_size=10,
            num_workers=2,
            multiprocessing_context=method,
            worker_init_fn=children.link(mark),
        )
        assert len(list(loader)) == 4
    assert sorted(values(hub, "data/begun")) == [0, 1]
    assert_all_came(hub, 40)


def test_loaders_side_by_side_and_one_inside_of_another_publish(hub: MessageHub) -> None:
    with hub, Children(hub) as children:
        pairs = zip(load(children, 40, "fork"), load(children, 40, "fork"), strict=True)
        assert len(list(pairs)) == 4
    for worker in range(2):
        assert sorted(values(hub, f"data/{worker}")) == sorted(
            2 * [index / 7 for index in range(40) if index // 10 % 2 == worker]
        )


class Nested(Decoded):
    def __getitem__(self, index: int) -> int:
        return sum(int(batch.sum()) for batch in DataLoader(Decoded(4)))


def test_a_loader_inside_of_a_worker_publishes(hub: MessageHub) -> None:
    with hub, Children(hub):
        loader = DataLoader(Nested(6), num_workers=2, multiprocessing_context="fork")
        assert [int(batch) for batch in loader] == 6 * [6]
    assert values(hub, "data/0") == values(hub, "data/1") == 3 * [index / 7 for index in range(4)]


def test_what_a_killed_worker_had_sent_counts(hub: MessageHub) -> None:
    with hub, Children(hub) as children:
        loader = DataLoader(
            Killing(21),
            batch_size=10,
            num_workers=1,
            multiprocessing_context="fork",
            collate_fn=list,  # tensors would be asked of the killed process, which fails in other ways
        )
        with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
            list(loader)
        children.flush()
        assert not any(one.connected for one in children.statistics().children)
    assert values(hub, "data/0") == [index / 7 for index in range(20)]


@pytest.mark.parametrize("method", ["fork", *ELSEWHERE])
def test_a_watched_loader_publishes_and_is_timed(method: str, hub: MessageHub) -> None:
    with hub, Children(hub) as children, Pipeline(hub, interval=0.1) as mon:
        loader = mon.dataloader(load(children, 400, method))
        assert len(list(mon.consume(loader))) == 40
    stages = {stage.name: stage.items for stage in mon.report().stages}
    assert stages["loader.dataset"] == 400
    assert_all_came(hub, 400)


def test_keys_may_say_which_worker_they_are_of(hub: MessageHub) -> None:
    with hub, Children(hub, rename="{key}/of{worker}") as children:
        assert len(list(load(children, 40, "fork"))) == 4
    assert sorted(hub.log_scalars) == ["data/0/of0", "data/1/of1"]
