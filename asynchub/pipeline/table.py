"""The table of a report: a row for each stage in order, with the queue after it, and the consumer as the last.

Columns: those that matter less go first where there is no room; then bars shrink. Names are cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from asynchub.pipeline.cells import Line, Span, clean, count, cut_line, milliseconds, percent, text_of, width_of
from asynchub.pipeline.report import ConsumerReport, PipelineFigures, QueueReport
from asynchub.pipeline.table_columns import Column, Row, columns_of

__all__ = ("BAR_LEGEND", "table_lines")

GAP = "  "
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
LUXURY = 10
"""The rank from which a column is only there if everything before it has all the room that it can use."""
WAITS = len("waits 100 %")
"""Columns that how long the consumer waits takes at least."""


def table_lines(report: PipelineFigures, width: int) -> tuple[list[Line], bool]:
    """Return the table of a report, and whether its head explains the bars; no lines if there is nothing to show.

    Args:
        report: it.
        width: columns that a line may have.
    """
    rows = _rows(report)
    if not rows:
        return [], True
    columns = columns_of(rows, width)
    while (index := _first_to_go(columns, width)) is not None:
        shorter = columns[index].shorter
        columns[index : index + 1] = [] if shorter is None else [shorter]
    sizes = _sizes(columns, width)
    bar = next(index for index, column in enumerate(columns) if column.is_bar)
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


def _rows(report: PipelineFigures) -> list[Row]:
    """Return the rows in the order of the flow."""
    verdict = report.verdict
    culprit = verdict.stage if verdict and verdict.kind in ("stage", "loop") else None
    near = (verdict.near or ()) if verdict else ()
    after: dict[str, QueueReport] = {}
    before: dict[str, list[Row]] = {}
    loose: list[Row] = []
    names = {stage.name for stage in report.stages}
    for queue in report.queues:
        if queue.after in names and queue.after not in after:
            after[queue.after] = queue
        else:
            row = Row(f"queue {clean(queue.name)}", "queue", queue=queue)
            (before.setdefault(queue.into, []) if queue.into in names else loose).append(row)
    rows: list[Row] = []
    for stage in report.stages:
        role = "culprit" if stage.name == culprit else "near" if stage.name in near else ""
        rows += before.pop(stage.name, [])
        rows.append(Row(clean(stage.name), role, stage=stage, queue=after.pop(stage.name, None)))
    rows += loose
    if report.consumer is not None:
        role = "pace" if verdict and verdict.kind == "consumer" else ""
        rows.append(Row(clean(report.consumer.name), role, consumer=report.consumer))
    return rows


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


# --- fitting


def _first_to_go(columns: Sequence[Column], width: int) -> int | None:
    """Return the index of the column for which there is no room; None if there is room for all."""
    index = max(range(len(columns)), key=lambda one: columns[one].rank)
    rank = columns[index].rank
    needed = sum(max(column.least, column.most) - column.least for column in columns) if rank >= LUXURY else 0
    return index if rank and needed + _needed(columns) > width else None


def _needed(columns: Sequence[Column]) -> int:
    return sum(column.least + len(GAP) for column in columns) - len(GAP)


def _sizes(columns: Sequence[Column], width: int) -> list[int]:
    """Return how wide each column is: what there is of room goes to the first that can use it."""
    bar = next(index for index, column in enumerate(columns) if column.is_bar)
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
