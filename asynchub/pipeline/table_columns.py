"""The columns of the table of a report: what stands in each, of a stage, of the queue after it, of the consumer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asynchub.pipeline.cells import (
    UNKNOWN,
    Line,
    Span,
    count,
    duration,
    fill_bar,
    known,
    milliseconds,
    percent,
    rate,
    share_bar,
    shortened,
    size,
    text_of,
    width_of,
)
from asynchub.pipeline.report import ConsumerReport, QueueReport, StageReport

__all__ = ("Column", "Row", "columns_of")

MARKS = {"culprit": ">> ", "pace": ">> ", "near": " ~ "}
BAR = 28
"""Columns of the terminal that a bar takes at most: those of the longest head."""
NAME = 32
"""Columns that a name takes at most."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row: of a stage, with the queue after it, if that is known; of a queue alone; or of the consumer."""

    name: str
    role: str = ""
    stage: StageReport | None = None
    queue: QueueReport | None = None
    consumer: ConsumerReport | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table.

    Attributes:
        head: what stands above it.
        cell: returns what stands in a row, in so many columns of the terminal at most.
        least: columns that it takes at least.
        most: columns that it takes if there is room.
        rank: the largest goes first where there is no room; 0 never goes.
        left: whether it stands on the left.
        shorter: what takes its place then.
        is_bar: whether it has the bars, behind which the consumer's row goes on in words.
    """

    head: str
    cell: Callable[[Row, int], Line]
    least: int
    most: int = 0
    rank: int = 0
    left: bool = False
    shorter: Column | None = None
    is_bar: bool = False


def columns_of(rows: Sequence[Row], width: int) -> list[Column]:
    """Return all columns that a table of these rows can have.

    Args:
        rows: one or more.
        width: columns of the terminal that a line may have.
    """
    names = min(max(width_of(row.name) for row in rows), NAME) + 3
    latency = max([4, *(len(milliseconds(value)) for row in rows for value in _quantiles(row))])
    depth = max([3, *(len(_depth(row.queue)) for row in rows if row.queue is not None)])
    most = max([2, *(len(_most(row.queue)) for row in rows if row.queue is not None)])
    queued = any(row.queue is not None for row in rows)
    columns = [
        Column("   stage", _name, min(names, max(width // 5, 12)), names, left=True),
        _column(rows, "items/s", lambda one: one.throughput, rate, 7, consumer=lambda one: one.throughput),
        Column(
            "p50/p95/p99 ms",
            lambda row, _: _latency(row, latency),
            max(3 * latency + 2, 14),
            rank=6,
            shorter=Column("p95 ms", lambda row, _: _p95(row), max(latency, 8)),
        ),
        Column("busy", _bar, 12, BAR, left=True, is_bar=True),
        Column("% of time", _shares, len("100/100/100"), rank=11),
        Column("workers", _workers, max([7, *(len(_in_flight(row.stage)) for row in rows if row.stage)]), rank=3),
    ]
    if queued:
        numbers = Column("queue", lambda row, _: _queue(row, depth, most), depth + most + 1)
        columns.append(
            Column(
                "queue after",
                lambda row, one: _queue_bar(row, one, depth, most),
                max(4 + depth + most + 2, 11),
                8 + depth + most + 2,
                rank=5,
                left=True,
                shorter=numbers,
            )
        )
    columns += [
        Column(
            "err retry drop",
            lambda row, _: _troubles(row),
            max(len("err retry drop"), *(len(text_of(_troubles(row))) for row in rows)),
            rank=8,
            shorter=_column(rows, "err", lambda one: one.errors, count, 4, rank=2, role="error"),
        ),
        _column(rows, "max/s", lambda one: one.capacity, rate, 6, rank=10),
        _column(rows, "last item", lambda one: one.age_s, _ago, 11, rank=15),
        _column(rows, "on loop", lambda one: one.on_loop, percent, 7, rank=17),
        _column(rows, "bytes/s", lambda one: one.bytes_per_s, size, 7, rank=16),
        _column(rows, "items", lambda one: one.items, count, 6, rank=13),
    ]
    if queued:
        columns += [
            _queue_column("queue full", lambda one: percent(one.full), 18),
            _queue_column("non-empty", lambda one: percent(one.occupancy), 19),
            _queue_column("queued ms", lambda one: milliseconds(one.wait_ms), 12),
        ]
    unknown_to_all = {"on loop", "bytes/s"}
    return [
        column
        for column in columns
        if column.head not in unknown_to_all or any(_shown(column, row) not in ("", UNKNOWN) for row in rows)
    ]


def _column(
    rows: Sequence[Row],
    head: str,
    value: Callable[[StageReport], Any],
    shown: Callable[[Any], str],
    least: int,
    *,
    rank: int = 0,
    role: str = "",
    consumer: Callable[[ConsumerReport], Any] | None = None,
) -> Column:
    """Return a column of a number of each stage, as wide as its widest cell; one with a role has it where not 0."""

    def cell(row: Row, _: int) -> Line:
        if row.stage is not None:
            number = value(row.stage)
            return (Span(shown(number), role if role and number else "dim" if role else ""),)
        if row.consumer is not None and consumer is not None:
            return (Span(shown(consumer(row.consumer))),)
        return ()

    widest = max(len("".join(span.text for span in cell(row, 0))) for row in rows)
    return Column(head, cell, max(least, widest, len(head)), rank=rank)


def _queue_column(head: str, shown: Callable[[QueueReport], str], rank: int) -> Column:
    def cell(row: Row, _: int) -> Line:
        return () if row.queue is None else (Span(shown(row.queue)),)

    return Column(head, cell, len(head), rank=rank)


def _shown(column: Column, row: Row) -> str:
    return "".join(span.text for span in column.cell(row, column.least))


def _ago(seconds: Any) -> str:
    return UNKNOWN if seconds is None else f"{duration(seconds)} ago"


def _name(row: Row, width: int) -> Line:
    mark = MARKS.get(row.role, "   ")
    return (Span(mark, row.role), Span(shortened(row.name, width - len(mark)), row.role))


def _quantiles(row: Row) -> tuple[Any, ...]:
    latency = None if row.stage is None else row.stage.latency_ms
    return () if latency is None else (latency.p50, latency.p95, latency.p99)


def _latency(row: Row, width: int) -> Line:
    if row.consumer is not None:
        return _own_time(row.consumer)
    if row.stage is None:
        return ()
    numbers = [milliseconds(value) for value in _quantiles(row)] or [UNKNOWN] * 3
    return (Span("/".join(number.rjust(width) for number in numbers)),)


def _p95(row: Row) -> Line:
    if row.consumer is not None:
        return _own_time(row.consumer)
    if row.stage is None:
        return ()
    return (Span(UNKNOWN if row.stage.latency_ms is None else milliseconds(row.stage.latency_ms.p95)),)


def _own_time(consumer: ConsumerReport) -> Line:
    return (Span("mean ", "dim"), Span(milliseconds(consumer.busy_ms)))


def _bar(row: Row, width: int) -> Line:
    if row.stage is not None:
        return share_bar(row.stage.starved, row.stage.busy, row.stage.blocked, width)
    waits = None if row.consumer is None else known(row.consumer.wait_fraction)
    if waits is None:
        return ()
    return share_bar(waits, 1 - waits, 0.0, width)


def _shares(row: Row, _: int) -> Line:
    """Return starved, busy and blocked time in percent, in the order of the bar."""
    if row.stage is None:
        return ()
    shares = (row.stage.starved, row.stage.busy, row.stage.blocked)
    return (Span("/".join(percent(share).removesuffix(" %").rjust(3) for share in shares)),)


def _troubles(row: Row) -> Line:
    """Return what failed, was tried again, and was left out: three numbers below "err retry drop"."""
    stage = row.stage
    if stage is None:
        return ()
    numbers = ((stage.errors, "error", 3), (stage.retries, "retry", 6), (stage.drops, "retry", 5))
    return tuple(Span(f" {count(value)}".rjust(size), role if value else "dim") for value, role, size in numbers)


def _in_flight(stage: StageReport) -> str:
    return f"{count(stage.in_flight)}/{count(stage.concurrency)}"


def _workers(row: Row, _: int) -> Line:
    return () if row.stage is None else (Span(_in_flight(row.stage)),)


def _depth(queue: QueueReport) -> str:
    return count(queue.depth) if (known(queue.capacity) or 0) >= 100 else rate(queue.depth)


def _most(queue: QueueReport) -> str:
    return "?" if known(queue.capacity) is None else count(queue.capacity)


def _queue(row: Row, depth: int, most: int) -> Line:
    if row.queue is None:
        return ()
    return (Span(f"{_depth(row.queue).rjust(depth)}/{_most(row.queue).ljust(most)}"),)


def _queue_bar(row: Row, width: int, depth: int, most: int) -> Line:
    if row.queue is None:
        return ()
    return (*fill_bar(row.queue.fill, width - depth - most - 2), Span(" "), *_queue(row, depth, most))
