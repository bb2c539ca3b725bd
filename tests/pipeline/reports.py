"""A report whose figures are invented, for the tests of what shows one."""

from __future__ import annotations

import dataclasses

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

__all__ = ("REPORT", "STALLED")

START = 1_700_000_000.0

FETCH = StageReport(
    name="fetch",
    throughput=38.1,
    items=28_060,
    latency_ms=Latency(205.5, 198.2, 231.0, 410.0, 512.0),
    busy=0.31,
    starved=0.25,
    blocked=0.44,
    capacity=60.2,
    in_flight=12,
    concurrency=12,
    errors=2,
    retries=12,
    drops=3,
    bytes_per_s=4.2e6,
    age_s=0.02,
    on_loop=0.012,
    oldest_s=0.41,
)
DECODE = StageReport(
    name="decode",
    throughput=38.0,
    items=28_040,
    latency_ms=Latency(25.6, 25.3, 31.0, 44.0, 61.0),
    busy=0.97,
    starved=0.02,
    blocked=0.01,
    capacity=39.1,
    in_flight=1,
    concurrency=1,
    errors=0,
    retries=0,
    drops=0,
    bytes_per_s=None,
    age_s=0.01,
    oldest_s=0.02,
)
COPY = StageReport(
    name="copy",
    throughput=0.0,
    items=0,
    latency_ms=None,
    busy=0.2,
    starved=None,
    blocked=None,
    capacity=None,
    in_flight=1,
    concurrency=4,
    errors=0,
    retries=0,
    drops=0,
    bytes_per_s=None,
    age_s=None,
)
REPORT = PipelineReport(
    time=START + 200,
    elapsed=761.0,
    window=10.0,
    state="input_bound",
    verdict=Verdict(
        kind="stage",
        stage="decode",
        near=("fetch",),
        confidence=0.56,
        utilisation=0.97,
        capacity=39.1,
        next_limit="fetch",
        next_capacity=60.2,
        gain=0.58,
        reason="all of decode is busy 97 % of the time",
        since=START,
    ),
    stages=(FETCH, DECODE, COPY),
    queues=(
        QueueReport("urls", 123.4, None, None, 1.0, 0.0, None, into="fetch"),
        QueueReport("fetched", 63.7, 64, 0.995, 1.0, 0.91, 1676.0, "fetch", "decode"),
        QueueReport("decoded", 0.2, 16, 0.0125, 0.11, 0.0, 5.3, "decode", "copy"),
    ),
    consumer=ConsumerReport("train", 38.0, 28_032, 0.41, Latency(61.0, 60.0, 96.0, 131.0, 260.0), 15.2, 3.2),
    loop=LoopReport(1.1, 1.9),
    workers=tuple(
        WorkerReport(number, 100 + number, 7000, 300.0 + 290 * (number == 2), "dataset", 0.2) for number in range(4)
    ),
)
STALLED = dataclasses.replace(
    REPORT,
    state="stalled",
    consumer=dataclasses.replace(REPORT.consumer, waiting_s=12.4),
    stalled="waiting for batch 25 of worker 1 (pid 29488); 2 later batches are ready; worker state dataset for 12.1 s",
)
