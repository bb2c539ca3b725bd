"""Reports survive being taken apart, stored and put together again, and say nothing that is not known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.dataflow import PipelineReported
from asynchub.errors import CorruptStateError
from asynchub.events import Event
from asynchub.hub import MessageHub
from asynchub.journal.following import follow
from asynchub.journal.journal import Journal
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.report import (
    ConsumerReport,
    Latency,
    LoopReport,
    QueueReport,
    StageReport,
    Verdict,
    WorkerReport,
)
from tests.pipeline.side_log import burn, pipeline

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(max_size=8)


def made(kind: type, /, **given_fields: Any) -> Any:
    """Return a strategy of dataclasses, with each field that may be None sometimes None."""
    by_type = {
        "str": NAMES,
        "float": NUMBERS,
        "int": st.integers(0, 2**40),
        "float | None": st.none() | NUMBERS,
        "int | None": st.none() | st.integers(0, 2**40),
        "Latency | None": st.none() | st.builds(Latency, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
        "tuple[str, ...]": st.lists(NAMES, max_size=3).map(tuple),
    }
    fields = {
        field.name: by_type[str(field.type)]
        for field in dataclasses.fields(kind)
        if str(field.type) in by_type and field.name not in given_fields
    }
    return st.builds(kind, **fields, **given_fields)


REPORTS = made(
    PipelineReport,
    state=st.sampled_from(["warmup", "ok", "input_bound", "stalled", "done"]),
    verdict=made(Verdict, kind=st.sampled_from(["unknown", "consumer", "stage", "loop", "balanced", "unsaturated"])),
    stages=st.lists(made(StageReport), max_size=3).map(tuple),
    queues=st.lists(made(QueueReport), max_size=2).map(tuple),
    consumer=st.none() | made(ConsumerReport),
    loop=st.none() | made(LoopReport),
    workers=st.lists(made(WorkerReport), max_size=2).map(tuple),
)


@settings(max_examples=40)
@given(REPORTS)
def test_a_report_that_is_taken_apart_and_stored_is_the_same(report: PipelineReport) -> None:
    apart = report.to_dict()
    assert PipelineReport.from_dict(apart) == report
    assert PipelineReport.from_dict(json.loads(json.dumps(apart))) == report


@settings(max_examples=40)
@given(REPORTS)
def test_what_is_none_is_left_out_and_the_rest_is_plain(report: PipelineReport) -> None:
    def check(value: Any) -> None:
        assert value is not None
        if isinstance(value, dict):
            for key, one in value.items():
                assert type(key) is str
                check(one)
        elif isinstance(value, list):
            for one in value:
                check(one)
        else:
            assert type(value) in (str, int, float)

    check(report.to_dict())


@settings(max_examples=40)
@given(REPORTS)
def test_scalars_are_the_numbers_that_are_known(report: PipelineReport) -> None:
    found = list(report.scalars())
    for key, value in found:
        assert key.startswith(f"{report.pipeline}/")
        assert type(value) in (int, float)
        assert math.isfinite(value)
    for stage in report.stages:
        keys = {key for key, _ in found if key.startswith(f"{report.pipeline}/{stage.name}/")}
        for name in ("starved", "blocked", "capacity", "bytes_per_s", "age_s"):
            known = any(getattr(one, name) is not None for one in report.stages if one.name == stage.name)
            assert (f"{report.pipeline}/{stage.name}/{name}" in keys) == known


def test_a_report_of_a_later_version_is_read_without_what_is_unknown() -> None:
    stage = StageReport("decode", 1.0, 2, None, 0.5, None, None, None, 0, 1, 0, 0, 0, None, None)
    report = PipelineReport(stages=(stage,), consumer=ConsumerReport("train", 1.0, 1, None, None, None, None))
    apart = report.to_dict()
    apart["weather"] = "fine"
    apart["stages"][0]["colour"] = "blue"
    apart["consumer"]["mood"] = {"good": 1}
    apart["verdict"]["votes"] = [1, 2]
    assert PipelineReport.from_dict(apart) == report


def test_a_report_of_an_earlier_version_lacks_what_was_not_known_then() -> None:
    stage = {"name": "decode", "throughput": 1.0, "items": 3}
    report = PipelineReport.from_dict({"pipeline": "data", "stages": [stage]})
    assert report.stages[0].items == 3
    assert report.stages[0].starved is None
    assert report.queues == ()
    assert report.consumer is None
    assert PipelineReport.from_dict({}) == PipelineReport()


@pytest.mark.parametrize(
    "fields",
    [
        None,
        5,
        "text",
        {"stages": 5},
        {"stages": [5]},
        {"consumer": 3},
        {"verdict": [1]},
        {"queues": [None]},
        {"loop": "x"},
        {"workers": {"a": 1}},
        {"stages": [{"latency_ms": 5}]},
    ],
)
def test_what_is_no_report_is_refused(fields: Any) -> None:
    with pytest.raises(CorruptStateError, match="not the report of a pipeline"):
        PipelineReport.from_dict(fields)


def test_a_verdict_is_the_same_as_one_that_blames_the_same() -> None:
    one = Verdict("stage", "decode", confidence=0.3, since=1.0)
    assert one.same_as(Verdict("stage", "decode", confidence=0.05, since=9.0))
    assert not one.same_as(Verdict("stage", "fetch"))
    assert not one.same_as(Verdict("balanced"))
    assert [Verdict(confidence=one).level for one in (0.0, 0.0999, 0.1, 0.2499, 0.25, 1.0)] == [
        "low",
        "low",
        "medium",
        "medium",
        "high",
        "high",
    ]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"], indirect=True)
async def test_reports_in_a_journal_come_back_as_they_were(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    seen: list[PipelineReport] = []
    with hub:
        hub.attach(Journal(tmp_path / "journal"))
        mon = pipeline(hub, interval=0.1)
        mon.on_report(seen.append)
        decode = mon.stage("decode", concurrency=2)(lambda number: burn(100_000))
        with mon:
            for number in mon.consume(range(1500)):
                decode(number)
    found: list[Event] = []
    async for event in follow(tmp_path, PipelineReported, until="now"):
        found.append(event)
    assert len(seen) >= 2
    assert all(isinstance(event, PipelineReported) and event.key == "data/report" for event in found)
    assert [PipelineReport.from_dict(event.report) for event in found] == seen  # type: ignore[attr-defined]
    assert seen[-1].state == "done"
    assert seen[-1].stages[0].items == 1500
    assert isinstance(str(seen[-1]), str)
    assert "decode" in str(seen[-1])
