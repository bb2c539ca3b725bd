"""The table of a report: a row for each stage in order, with the queue after it, and the consumer as the last.

Columns: those that matter less go first where there is no room; then bars shrink. Names are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asynchub.pipeline.cells import (
    UNKNOWN,
    Line,
    Span,
    clean,
    count,
    cut_line,
    duration,
    fill_bar,
    fitted,
    milliseconds,
    percent,
    rate,
    share_bar,
    size,
    text_of,
    width_of,
)
from asynchub.pipeline.report import ConsumerReport, Latency, PipelineReport, QueueReport, StageReport

__all__ = ("BAR_LEGEND", "table_lines")

GAP = "  "
MARKS = {"culprit": ">> ", "pace": ">> ", "near": " ~ "}
BAR_LEGEND: Line = (
    Span(".", "starved"),
    Span(" starved  ", "head"),
    Span("#", "busy"),
    Span(" busy  ", "head"),
    Span("-", "blocked"),
    Span(" blocked", "head"),
)
LEGENDS: tuple[Line, ...] = (
    BAR_LEGEND,
    (
        Span(".", "starved"),
        Span("starved ", "head"),
        Span("#", "busy"),
        Span("busy ", "head"),
        Span("-", "blocked"),
        Span("blocked", "head"),
    ),
    (
        Span("starved", "starved"),
        Span("|", "head"),
        Span("BUSY", "busy"),
        Span("|", "head"),
        Span("blocked", "blocked"),
    ),
)
"""Heads of the bars that explain them, the longest first."""
BAR = 28
"""Columns that a bar takes at most: those of the longest head."""
NAME = 32
"""Columns that a name takes at most."""
LUXURY = 10
"""The rank from which a column is only there if everything before it has all the room that it can use."""
WAITS = len("waits 100 %")
"""Columns that how long the consumer waits takes at least."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row: of a stage, with the queue after it, if that is known; of a queue alone; or of the consumer."""

    name: str
    role: str = ""
    stage: StageReport | None = None
    queue: QueueReport | None = None
    consumer: ConsumerReport | None = None


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table.

    Attributes:
        head: what stands above it.
        cell: returns what stands in a row, in so many columns of the terminal at most.
        least: columns that it takes at least.
        most: columns that it takes if there is room.
        rank: the largest goes first where there is no room; 0 never goes.
        left: whether it stands on the left.
        shorter: what takes its place then.
    """

    head: str
    cell: Callable[[_Row, int], Line]
    least: int
    most: int = 0
    rank: int = 0
    left: bool = False
    shorter: _Column | None = None


def table_lines(report: PipelineReport, width: int) -> tuple[list[Line], bool]:
    """Return the table of a report, and whether its head explains the bars; no lines if there is nothing to show.

    Args:
        report: it.
        width: columns that a line may have.
    """
    rows = _rows(report)
    if not rows:
        return [], True
    columns = _columns(rows, width)
    while (index := _first_to_go(columns, width)) is not None:
        shorter = columns[index].shorter
        columns[index : index + 1] = [] if shorter is None else [shorter]
    sizes = _sizes(columns, width)
    bar = next(index for index, column in enumerate(columns) if column.cell is _bar)
    legend = next((one for one in LEGENDS if width_of(text_of(one)) <= sizes[bar]), None)
    heads: list[Line] = [(Span(column.head, "head"),) for column in columns]
    if legend is not None:
        heads[bar] = legend
    lines = [_joined([_padded(*one) for one in zip(heads, sizes, (column.left for column in columns), strict=True)])]
    for row in rows:
        cells = [_padded(column.cell(row, one), one, column.left) for one, column in zip(sizes, columns, strict=True)]
        if row.consumer is not None:
            room = width - sum(sizes[: bar + 1]) - (bar + 1) * len(GAP)
            cells[bar + 1 :] = [_waits(row.consumer, room)]
        lines.append(_joined(cells))
    return lines, legend is not None


# --- rows


def _rows(report: PipelineReport) -> list[_Row]:
    """Return the rows in the order of the flow."""
    verdict = report.verdict
    culprit = verdict.stage if verdict and verdict.kind in ("stage", "loop") else None
    near = (verdict.near or ()) if verdict else ()
    after: dict[str, QueueReport] = {}
    before: dict[str, list[_Row]] = {}
    loose: list[_Row] = []
    names = {stage.name for stage in report.stages}
    for queue in report.queues:
        if queue.after in names and queue.after not in after:
            after[queue.after] = queue
        else:
            row = _Row(f"queue {clean(queue.name)}", "queue", queue=queue)
            (before.setdefault(queue.into, []) if queue.into in names else loose).append(row)
    rows: list[_Row] = []
    for stage in report.stages:
        role = "culprit" if stage.name == culprit else "near" if stage.name in near else ""
        rows += before.pop(stage.name, [])
        rows.append(_Row(clean(stage.name), role, stage=stage, queue=after.pop(stage.name, None)))
    rows += loose
    if report.consumer is not None:
        role = "pace" if verdict and verdict.kind == "consumer" else ""
        rows.append(_Row(clean(report.consumer.name), role, consumer=report.consumer))
    return rows


# --- columns


def _columns(rows: Sequence[_Row], width: int) -> list[_Column]:
    names = min(max(width_of(row.name) for row in rows), NAME) + 3
    latency = max([4, *(len(milliseconds(value)) for row in rows for value in _quantiles(row))])
    depth = max([3, *(len(_depth(row.queue)) for row in rows if row.queue is not None)])
    most = max([3, *(len(_most(row.queue)) for row in rows if row.queue is not None)])
    queued = any(row.queue is not None for row in rows)
    columns = [
        _Column("   stage", _name, min(names, max(width // 7, 11)), names, left=True),
        _column(rows, "items/s", lambda one: one.throughput, rate, 7, consumer=lambda one: one.throughput),
        _Column(
            "p50/p95/p99 ms",
            lambda row, _: _latency(row, latency),
            max(3 * latency + 2, 14),
            rank=6,
            shorter=_Column("p95 ms", lambda row, _: _p95(row), max(latency, 8)),
        ),
        _Column("busy", _bar, 12, BAR, left=True),
        _column(rows, "starved", lambda one: one.starved, percent, 7, rank=14),
        _column(rows, "busy", lambda one: one.busy, percent, 5, rank=11),
        _column(rows, "blocked", lambda one: one.blocked, percent, 7, rank=14),
        _Column("workers", _workers, max([7, *(len(_in_flight(row.stage)) for row in rows if row.stage)]), rank=3),
    ]
    if queued:
        numbers = _Column("queue", lambda row, _: _queue(row, depth, most), depth + most + 1)
        columns.append(
            _Column(
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
        _Column(
            "err retry drop",
            lambda row, _: _troubles(row),
            max(len("err retry drop"), *(len(text_of(_troubles(row))) for row in rows)),
            rank=8,
            shorter=_column(rows, "err", lambda one: one.errors, count, 4, rank=2, role="error"),
        ),
        _column(rows, "max/s", lambda one: one.capacity, rate, 6, rank=10),
        _column(rows, "last item", lambda one: one.age_s, _ago, 10, rank=15),
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
    rows: Sequence[_Row],
    head: str,
    value: Callable[[StageReport], Any],
    shown: Callable[[Any], str],
    least: int,
    *,
    rank: int = 0,
    role: str = "",
    consumer: Callable[[ConsumerReport], Any] | None = None,
) -> _Column:
    """Return a column of a number of each stage, as wide as its widest cell; one with a role has it where not 0."""

    def cell(row: _Row, _: int) -> Line:
        if row.stage is not None:
            number = value(row.stage)
            return (Span(shown(number), role if role and number else "dim" if role else ""),)
        if row.consumer is not None and consumer is not None:
            return (Span(shown(consumer(row.consumer))),)
        return ()

    widest = max(len("".join(span.text for span in cell(row, 0))) for row in rows)
    return _Column(head, cell, max(least, widest, len(head)), rank=rank)


def _queue_column(head: str, shown: Callable[[QueueReport], str], rank: int) -> _Column:
    def cell(row: _Row, _: int) -> Line:
        return () if row.queue is None else (Span(shown(row.queue)),)

    return _Column(head, cell, len(head), rank=rank)


def _shown(column: _Column, row: _Row) -> str:
    return "".join(span.text for span in column.cell(row, column.least))


def _ago(seconds: Any) -> str:
    return UNKNOWN if seconds is None else f"{duration(seconds)} ago"


def _name(row: _Row, width: int) -> Line:
    mark = MARKS.get(row.role, "   ")
    return (Span(mark, row.role), Span(fitted(row.name, width - len(mark)), row.role))


def _quantiles(row: _Row) -> tuple[Any, ...]:
    latency: Latency | None = None if row.stage is None else row.stage.latency_ms
    return () if latency is None else (latency.p50, latency.p95, latency.p99)


def _latency(row: _Row, width: int) -> Line:
    if row.consumer is not None:
        return _own_time(row.consumer)
    if row.stage is None:
        return ()
    numbers = [milliseconds(value) for value in _quantiles(row)] or [UNKNOWN] * 3
    return (Span("/".join(number.rjust(width) for number in numbers)),)


def _p95(row: _Row) -> Line:
    if row.consumer is not None:
        return _own_time(row.consumer)
    if row.stage is None:
        return ()
    return (Span(UNKNOWN if row.stage.latency_ms is None else milliseconds(row.stage.latency_ms.p95)),)


def _own_time(consumer: ConsumerReport) -> Line:
    return (Span("mean ", "dim"), Span(milliseconds(consumer.busy_ms)))


def _bar(row: _Row, width: int) -> Line:
    if row.stage is not None:
        return share_bar(row.stage.starved, row.stage.busy, row.stage.blocked, width)
    if row.consumer is None or row.consumer.wait_fraction is None:
        return ()
    waits = row.consumer.wait_fraction
    return share_bar(waits, 1 - waits, 0.0, width)


def _waits(consumer: ConsumerReport, width: int) -> Line:
    """Return how long the consumer waits, as much of it as there is room for."""
    said = [f"waits {percent(consumer.wait_fraction)}"]
    if (waits := consumer.wait_ms) is not None:
        said.append(f"{said[0]}, p95 {milliseconds(waits.p95)} ms")
        quantiles = "/".join(map(milliseconds, (waits.p50, waits.p95, waits.p99)))
        said.append(f"{said[0]}, p50/p95/p99 {quantiles} ms")
        said.append(f"{said[-1]}, max {milliseconds(waits.max)} ms")
    said.append(f"{said[-1]}, {count(consumer.items)} items")
    return cut_line((Span(next((one for one in reversed(said) if len(one) <= width), said[0])),), width)


def _troubles(row: _Row) -> Line:
    """Return what failed, was tried again, and was left out: three numbers below "err retry drop"."""
    stage = row.stage
    if stage is None:
        return ()
    numbers = ((stage.errors, "error", 3), (stage.retries, "retry", 6), (stage.drops, "retry", 5))
    return tuple(Span(f" {count(value)}".rjust(size), role if value else "dim") for value, role, size in numbers)


def _in_flight(stage: StageReport) -> str:
    return f"{count(stage.in_flight)}/{count(stage.concurrency)}"


def _workers(row: _Row, _: int) -> Line:
    return () if row.stage is None else (Span(_in_flight(row.stage)),)


def _depth(queue: QueueReport) -> str:
    return count(queue.depth) if queue.capacity is not None and queue.capacity >= 100 else rate(queue.depth)


def _most(queue: QueueReport) -> str:
    return "?" if queue.capacity is None else count(queue.capacity)


def _queue(row: _Row, depth: int, most: int) -> Line:
    if row.queue is None:
        return ()
    return (Span(f"{_depth(row.queue).rjust(depth)}/{_most(row.queue).ljust(most)}"),)


def _queue_bar(row: _Row, width: int, depth: int, most: int) -> Line:
    if row.queue is None:
        return ()
    return (*fill_bar(row.queue.fill, width - depth - most - 2), Span(" "), *_queue(row, depth, most))


# --- fitting


def _first_to_go(columns: Sequence[_Column], width: int) -> int | None:
    """Return the index of the column for which there is no room; None if there is room for all."""
    index = max(range(len(columns)), key=lambda one: columns[one].rank)
    rank = columns[index].rank
    needed = sum(max(column.least, column.most) - column.least for column in columns) if rank >= LUXURY else 0
    return index if rank and needed + _needed(columns) > width else None


def _needed(columns: Sequence[_Column]) -> int:
    return sum(column.least + len(GAP) for column in columns) - len(GAP)


def _sizes(columns: Sequence[_Column], width: int) -> list[int]:
    """Return how wide each column is: what there is of room goes to the first that can use it."""
    bar = next(index for index, column in enumerate(columns) if column.cell is _bar)
    room = width - _needed(columns) - max(WAITS - _needed(columns[bar + 1 :]), 0)
    sizes = []
    for column in columns:
        more = max(min(column.most - column.least, room), 0)
        room -= more
        sizes.append(column.least + more)
    return sizes


def _padded(cell: Line, width: int, left: bool) -> Line:
    blank = Span(" " * max(width - width_of("".join(span.text for span in cell)), 0))
    return (*cell, blank) if left else (blank, *cell)


def _joined(cells: Sequence[Line]) -> Line:
    line: list[Span] = []
    for cell in cells:
        line += [*([Span(GAP)] if line else []), *cell]
    return tuple(line)
