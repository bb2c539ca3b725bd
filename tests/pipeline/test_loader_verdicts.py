"""Loaders of which it is known what is slow, and what a pipeline says of them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import pytest
from torch.utils.data import DataLoader

from asynchub.hub import MessageHub
from asynchub.pipeline.monitor import Pipeline
from asynchub.pipeline.pipeline_report import PipelineReport
from tests.pipeline.loaders import Batches, Numbers, SlowCollate, SlowWorker, Stream

pytestmark = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork\\(\\):DeprecationWarning"),  # of Python 3.12, with threads
]

Check = tuple[Callable[..., DataLoader[Any]], float, tuple[str, str, str]]
CASES: dict[str, Check] = {
    # the loader, seconds that the consumer works, and the verdict: kind, stage, cause
    "samples": (
        lambda **how: DataLoader(Numbers(600, 0.01), batch_size=4, **how),
        0.0,
        ("stage", "loader.dataset", ""),
    ),
    "whole batches": (
        lambda **how: DataLoader(Batches(600, 0.01), batch_size=4, **how),
        0.0,
        ("stage", "loader.dataset", ""),
    ),
    "stream": (
        lambda **how: DataLoader(Stream(600, 0.01), batch_size=4, **how),
        0.0,
        ("stage", "loader.dataset", ""),
    ),
    "one by one": (
        lambda **how: DataLoader(Numbers(300, 0.02), batch_size=None, **how),
        0.0,
        ("stage", "loader.dataset", ""),
    ),
    "collate": (
        lambda **how: DataLoader(Numbers(600), batch_size=4, collate_fn=SlowCollate(0.04), **how),
        0.0,
        ("stage", "loader.collate", ""),
    ),
    "consumer": (
        lambda **how: DataLoader(Numbers(140, 0.001), batch_size=4, **how),
        0.1,
        ("consumer", "train", ""),
    ),
    "worker": (
        lambda **how: DataLoader(SlowWorker(240, 1, 0.025), batch_size=4, **how),
        0.0,
        ("unsaturated", "", "order"),
    ),
}


def run(case: str, **how: Any) -> PipelineReport:
    """Return the last report that was made while the loader was iterated over."""
    make, work, _ = CASES[case]
    report = PipelineReport()
    with Pipeline(MessageHub("verdict"), interval=0.2, window=3, warmup=0.3) as mon:
        for _ in mon.consume(mon.dataloader(make(num_workers=2, **how))):
            time.sleep(work)
            report = mon.report()
    return report


def check(case: str, **how: Any) -> None:
    report = run(case, **how)
    verdict = report.verdict
    assert (verdict.kind, verdict.stage, verdict.cause) == CASES[case][2], str(report)
    dataset, collate = report.stages
    for stage in (dataset, collate):
        assert (stage.concurrency, stage.starved) == (2, 0.0)
        assert stage.blocked is not None
        assert 0 <= stage.busy + stage.blocked <= 1.001
    assert dataset.busy + collate.busy <= 1.02
    (ready,) = report.queues
    assert (ready.name, ready.capacity, ready.after) == ("loader.ready", 4, "loader.collate")
    assert 0 <= ready.depth <= 4
    if case == "consumer":
        assert ready.fill is not None
        assert ready.fill > 0.5
    assert [worker.number for worker in report.workers] == [0, 1]
    assert len({worker.pid for worker in report.workers}) == 2
    if case == "worker":
        fast, slow = report.workers
        assert fast.p95_ms is not None
        assert slow.p95_ms is not None
        assert slow.p95_ms > 3 * fast.p95_ms


@pytest.mark.slow
def test_the_verdict_on_one_slow_worker_is_right() -> None:
    check("worker")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case != "worker"])
def test_the_verdict_is_right(case: str) -> None:
    check(case, persistent_workers=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "start", "persistent"),
    [
        ("worker", "spawn", True),
        ("collate", "forkserver", False),
    ],
)
def test_the_verdict_is_right_however_workers_are_started(case: str, start: str, persistent: bool) -> None:
    check(case, multiprocessing_context=start, persistent_workers=persistent)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dataset", "collate"])
def test_without_workers_the_stage_is_named_in_which_the_consumer_works(stage: str) -> None:
    numbers = Numbers(240, 0.01 if stage == "dataset" else 0.0)
    loader = DataLoader(numbers, batch_size=4, collate_fn=SlowCollate(0.04 if stage == "collate" else 0.0))
    report = PipelineReport()
    with Pipeline(MessageHub("verdict"), interval=0.2, window=3, warmup=0.3) as mon:
        for _ in mon.consume(mon.dataloader(loader)):
            report = mon.report()
    assert (report.verdict.kind, report.verdict.stage) == ("stage", f"loader.{stage}"), str(report)
    assert report.workers == ()
