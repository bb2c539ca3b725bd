"""What two readings of the counters, and the time between them, say of a pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from asynchub.pipeline.clock import SECOND
from asynchub.pipeline.consumer import ConsumerCounters
from asynchub.pipeline.histogram import Counts, quantiles
from asynchub.pipeline.parts import Reading
from asynchub.pipeline.queues import QueueCounters, QueueMeter
from asynchub.pipeline.report import ConsumerReport, Latency, LoopReport, QueueReport, StageReport
from asynchub.pipeline.tally import Counters, Meter
from asynchub.pipeline.verdict import ConsumerFacts, Facts, StageFacts

__all__ = (
    "consumer_report",
    "facts",
    "latency_ms",
    "loop_report",
    "queue_report",
    "root_of",
    "server_time",
    "servers",
    "stage_report",
)

MILLISECOND = SECOND / 1000


def latency_ms(counts: Counts, total: int, slowest: int) -> Latency | None:
    """Return how long items took, in milliseconds; None if there were none.

    Args:
        counts: how many durations there are in each bucket.
        total: sum of the durations, in nanoseconds.
        slowest: the longest, in nanoseconds; 0 if only its bucket is known.
    """
    number = int(counts.sum())
    if number <= 0:
        return None
    p50, p95, p99 = quantiles(counts, 0.5, 0.95, 0.99)
    longest = slowest or quantiles(counts, 1.0)[0]
    return Latency(
        mean=total / number / MILLISECOND,
        p50=min(p50, longest) / MILLISECOND,
        p95=min(p95, longest) / MILLISECOND,
        p99=min(p99, longest) / MILLISECOND,
        max=longest / MILLISECOND,
    )


def servers(meter: Meter, counted: Counters, seen: int) -> int:
    """Return how many servers a stage has: as it was told, else as many as were seen at work at once."""
    return max(meter.concurrency or max(seen, counted.in_flight), 1)


def server_time(new: Counters, old: Counters, seconds: float, concurrency: int) -> float:
    """Return the nanoseconds of all servers of a stage in a window, together, also if their number has changed."""
    if new.offered is None or old.offered is None or new.offered <= old.offered:
        return seconds * SECOND * concurrency
    return float(new.offered - old.offered)


def stage_report(
    meter: Meter, new: Counters, old: Counters, seconds: float, seen: int, slowest: int, at: int
) -> StageReport:
    """Return the figures of a stage.

    Args:
        meter: of the stage.
        new: its counters at the end of the window.
        old: its counters at its beginning.
        seconds: its length.
        seen: how many were at work at once in it, at most.
        slowest: nanoseconds that its slowest item took.
        at: the moment at its end, in nanoseconds.
    """
    concurrency = servers(meter, new, seen)
    whole = server_time(new, old, seconds, concurrency)
    items, busy = new.items - old.items, max(new.busy - old.busy, 0)
    share = min(busy / whole, 1.0)
    starved, blocked = _waits(new, old, whole, share)
    on_loop = (new.on_loop - old.on_loop) / (seconds * SECOND)
    nbytes = new.nbytes - old.nbytes
    return StageReport(
        name=meter.name,
        throughput=items / seconds,
        items=new.items,
        latency_ms=latency_ms(new.latencies - old.latencies, new.total - old.total, slowest),
        busy=share,
        starved=starved,
        blocked=blocked,
        capacity=concurrency * items / busy * SECOND if busy and items else None,
        in_flight=new.in_flight,
        concurrency=concurrency,
        errors=new.errors,
        retries=new.retries,
        drops=new.drops,
        bytes_per_s=nbytes / seconds if new.nbytes else None,
        age_s=(at - new.last) / SECOND if new.last else None,
        on_loop=on_loop if new.on_loop else None,
        oldest_s=(at - new.oldest) / SECOND if new.oldest else None,
    )


def _waits(new: Counters, old: Counters, whole: float, busy: float) -> tuple[float | None, float | None]:
    """Return the shares of time starved and blocked; what is left of one that is not measured is the other's."""
    left = 1.0 - busy
    measured = [
        None if now is None else min(max(now - (before or 0), 0) / whole, left)
        for now, before in ((new.starved, old.starved), (new.blocked, old.blocked))
    ]
    starved, blocked = measured
    if starved is None and blocked is None:
        return None, None
    if starved is None:
        return left - (blocked or 0.0), blocked
    if blocked is None:
        return starved, left - starved
    if starved + blocked > left:  # of servers that wait for both in turn
        scale = left / (starved + blocked)
        return starved * scale, blocked * scale
    return starved, blocked


def queue_report(
    queue: QueueMeter, new: QueueCounters, old: QueueCounters, seconds: float, rate: float | None
) -> QueueReport:
    """Return the figures of a queue; ``rate`` is how many items pass in a second, if the queue itself does not know."""
    looks = new.looks - old.looks
    depth = (new.depths - old.depths) / looks if looks else float(new.depth)
    occupancy = (new.nonempty - old.nonempty) / looks if looks else float(new.depth > 0)
    if new.occupied is not None:
        occupancy = min(max((new.occupied - (old.occupied or 0)) / (seconds * SECOND), 0.0), 1.0)
    if new.items is not None:
        rate = (new.items - (old.items or 0)) / seconds
    return QueueReport(
        name=queue.name,
        depth=depth,
        capacity=new.capacity,
        fill=depth / new.capacity if new.capacity else None,
        occupancy=occupancy,
        full=(new.full - old.full) / looks if looks else 0.0,
        wait_ms=1000 * depth / rate if rate else None,
        after="" if queue.after is None else queue.after.name,
        into="" if queue.into is None else queue.into.name,
    )


def consumer_report(
    name: str, new: ConsumerCounters, old: ConsumerCounters, seconds: float, slowest: int, at: int
) -> ConsumerReport:
    """Return the figures of the consumer; the arguments are those of ``stage_report``."""
    items, wait, busy = new.items - old.items, max(new.wait - old.wait, 0), max(new.busy - old.busy, 0)
    whole = wait + busy
    return ConsumerReport(
        name=name,
        throughput=items / seconds,
        items=new.items,
        wait_fraction=wait / whole if whole else None,
        wait_ms=latency_ms(new.waits - old.waits, new.total_wait - old.total_wait, slowest),
        busy_ms=busy / items / MILLISECOND if items else None,
        time_to_first_batch_s=(new.first_item - new.first) / SECOND if new.first_item else None,
        waiting_s=(at - new.waiting) / SECOND if new.waiting else 0.0,
    )


def loop_report(readings: Sequence[Reading], old: Reading, at: int) -> LoopReport | None:
    """Return how late the worst of the event loops comes round; None if none is known.

    Args:
        readings: those of the window, the newest last.
        old: the one at its beginning.
        at: the moment at its end, in nanoseconds.
    """
    new = readings[-1]
    worst: LoopReport | None = None
    for meter, loop in new.loops.items():
        lags = loop.lags - old.loops[meter].lags if meter in old.loops else loop.lags
        waiting = at - loop.waiting if loop.waiting else 0
        slowest = max(one.loops[meter].slowest for one in readings if meter in one.loops)
        if int(lags.sum()) <= 0 and not waiting:
            continue
        p95 = quantiles(lags, 0.95)[0]
        p95 = waiting if math.isnan(p95) else max(p95, 0.0)
        report = LoopReport(lag_ms_p95=p95 / MILLISECOND, lag_ms_max=max(slowest, waiting) / MILLISECOND)
        if worst is None or (report.lag_ms_p95 or 0.0) > (worst.lag_ms_p95 or 0.0):
            worst = report
    return worst


def root_of(meter: Meter) -> Meter:
    """Return the outermost of the stages in whose calls a stage works."""
    seen = [meter]
    while (parent := seen[-1].parent) is not None and parent not in seen:
        seen.append(parent)
    return seen[-1]


def facts(
    meters: Mapping[str, Meter],
    new: Reading,
    old: Reading,
    *,
    reports: Mapping[str, StageReport],
    consumer: ConsumerReport | None,
    loop: LoopReport | None,
    consumer_meter: Meter | None,
    warm: bool,
) -> Facts:
    """Return what a verdict is made of.

    Args:
        meters: of the stages, by name.
        new: the counters at the end of the window.
        old: the counters at its beginning.
        reports: of the stages, by name.
        consumer: of the consumer, if there is one.
        loop: of the worst event loop, if there is one.
        consumer_meter: its meter.
        warm: whether the warm-up is over.
    """
    seconds = (new.at - old.at) / SECOND
    sink = _sink_items(new, old)
    throughput = sink / seconds
    stages = tuple(
        _stage_facts(
            meter, new.stages[name], old.stages.get(name, Counters()), reports[name], sink, seconds, consumer_meter
        )
        for name, meter in meters.items()
        if name in reports
    )
    known: ConsumerFacts | None = None
    if consumer is not None and new.consumer is not None and consumer.wait_fraction is not None:
        before = old.consumer or ConsumerCounters()
        wait = max(new.consumer.wait - before.wait, 1)
        known = ConsumerFacts(
            name=consumer.name,
            items=new.consumer.items - before.items,
            wait_fraction=consumer.wait_fraction,
            capacity=1000 / consumer.busy_ms if consumer.busy_ms else None,
            throughput=consumer.throughput,
            inline=sum(stage.own_time for stage in stages if stage.inline) * sink * SECOND / wait,
        )
    looks = new.looks - old.looks
    return Facts(
        window=seconds,
        warm=warm,
        stages=stages,
        consumer=known,
        lag=None if loop is None or loop.lag_ms_p95 is None else loop.lag_ms_p95 / 1000,
        ready_later=(new.ready_later - old.ready_later) / looks if looks else 0.0,
        bursts=tuple(_bursts(new, old)),
        items=sink,
        throughput=throughput,
    )


def _sink_items(new: Reading, old: Reading) -> int:
    """Return how many items came out at the end: to the consumer, else of the last stage."""
    if new.consumer is not None:
        return new.consumer.items - (0 if old.consumer is None else old.consumer.items)
    if not new.stages:
        return 0
    name = list(new.stages)[-1]
    return new.stages[name].items - old.stages.get(name, Counters()).items


def _stage_facts(
    meter: Meter,
    new: Counters,
    old: Counters,
    report: StageReport,
    sink: int,
    seconds: float,
    consumer_meter: Meter | None,
) -> StageFacts:
    items, busy = new.items - old.items, max(new.busy - old.busy, 0) / SECOND
    outside, outside_items = (new.outside - old.outside) / SECOND, new.outside_items - old.outside_items
    root = root_of(meter)
    pool_wait = None
    if outside_items and items and outside > 0:
        inside = (new.total - old.total) / SECOND / items
        pool_wait = max(1 - inside * outside_items / outside, 0.0)
    per_item = items / sink if items and sink else None  # a batch of the consumer is so many of its items
    return StageFacts(
        name=meter.name,
        utilisation=busy * SECOND / server_time(new, old, seconds, report.concurrency),
        capacity=report.capacity / per_item if report.capacity and per_item else None,
        servers=meter.group or (meter.name if root is meter else root.name),
        on_loop=report.on_loop or 0.0,
        inline=consumer_meter is not None and root is consumer_meter,
        own_time=busy / sink if sink else 0.0,
        pool_wait=pool_wait,
    )


def _bursts(new: Reading, old: Reading) -> list[tuple[str, float]]:
    """Return of each queue that is full and empty in turn the smaller of both shares of time."""
    found = []
    for name, queue in new.queues.items():
        before = old.queues.get(name, QueueCounters())
        looks = queue.looks - before.looks
        if looks and queue.turns - before.turns >= 2:
            empty = 1 - (queue.nonempty - before.nonempty) / looks
            found.append((name, min(empty, (queue.full - before.full) / looks)))
    return found
