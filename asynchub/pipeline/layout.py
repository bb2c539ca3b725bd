"""A report as lines of text: is training waiting, for whom, since when, what would mending it give, does anything fail.

Widths: no line is wider than it may be, from 40 columns on. Where there is little room, the columns go first that
    matter less, then bars shrink; names are cut.
Steady: lines and columns stay where they are while only numbers change, as far as those have usual sizes.
Unknown: what is not known is a dash or blank, never 0.
Plain: ASCII, but for names. Each piece of a line has a role, by which a view gives it a colour.
"""

from __future__ import annotations

from collections.abc import Iterator

from asynchub.pipeline.cells import (
    UNKNOWN,
    Line,
    Span,
    clean,
    count,
    cut_line,
    duration,
    fitted,
    known,
    milliseconds,
    percent,
    rate,
    text_of,
    width_of,
    wrapped,
)
from asynchub.pipeline.report import PipelineFigures, Verdict
from asynchub.pipeline.table import BAR_LEGEND, table_lines

__all__ = ("LEAST", "bottleneck_in_words", "laid_out", "report_lines", "running_time")

LABEL = "bottleneck: "
LEAST = 40
"""Columns that lines may be told to have at least."""
ONE_LINE = 160
"""Columns from which a verdict and its figures stand in one line."""
FIRST_BATCH, WIDE, SHORT, NARROW = 112, 96, 92, 76
"""Columns from which the first line has the first batch, and from which figures are explained; below which a verdict,
and below which all is said in fewer words."""
STALL_LINES, REASON_LINES = 4, 3
MUCH = 0.20
"""Share of waiting from which a program is highly input-bound, as XLA's input-pipeline analyzer has it."""
STATES = {
    "warmup": ("WARMING UP", "dim"),
    "ok": ("OK", "good"),
    "input_bound": ("INPUT-BOUND", "warn"),
    "stalled": ("STALLED", "alarm"),
    "done": ("DONE", "dim"),
}
BLAMING = ("stage", "loop", "consumer")
"""Kinds of verdict that blame somebody, with more or less confidence."""
CAUSES = {
    "order": "no stage; items wait for their order",
    "pool": "no stage; calls wait for a thread",
    "burst": "no stage; items come in bursts",
}


def laid_out(report: PipelineFigures, width: int = 100) -> str:
    """Return a report as lines of text.

    Args:
        report: it.
        width: columns that a line may have.
    """
    return "\n".join(text_of(line) for line in report_lines(report, width))


def report_lines(report: PipelineFigures, width: int, *, steady: bool = False) -> list[Line]:
    """Return a report as lines, in pieces.

    Args:
        report: it.
        width: columns that a line may have.
        steady: for a view that stays: a reason is cut at the end of its line, and what there is to say of a stall
            stands in the place of the verdict.
    """
    stall, verdict = _stall(report, width), _verdict(report, width, 1 if steady else REASON_LINES)
    if steady and stall:
        block = [*stall, *[()] * (len(verdict) - len(stall))]
    else:
        block = [*stall, *(line for line in verdict if line or steady)]
    table, explained = table_lines(report, width)
    lines = [_first(report, width), *block, *table, *_foot(report, width, explained)]
    return [cut_line(line, width) for line in lines]


def bottleneck_in_words(verdict: Verdict, width: int = 40) -> str:
    """Return what limits a pipeline, in a few words; a name in it takes ``width`` columns at most."""
    stage = fitted(clean(verdict.stage), width) or "a stage"
    if verdict.kind == "stage":
        return stage
    if verdict.kind == "loop":
        return f"the event loop, held by {stage}"
    if verdict.kind == "consumer":
        return f"none; {stage} sets the pace"
    if verdict.kind == "balanced":
        return "no stage alone"
    if verdict.kind == "unsaturated":
        return CAUSES.get(verdict.cause, "no stage; not known why")
    return "not known yet"


# --- the first line


def _first(report: PipelineFigures, width: int) -> Line:
    word, role = STATES.get(report.state, (clean(report.state).upper(), ""))
    if role == "warn" and report.consumer is not None and (known(report.consumer.wait_fraction) or 0.0) >= MUCH:
        role = "alarm"
    name = fitted(clean(report.pipeline), max(width // 5, 8))
    left: Line = (Span(name, "title"), Span("  "), Span(word, role), Span(f"  {_meaning(report, width)}"))
    right = f"running {running_time(report.elapsed)}" if report.elapsed else ""
    if (first := _first_batch(report)) and width >= FIRST_BATCH:
        right += f"  {first}"
    used = width_of("".join(span.text for span in left))
    if used + 2 + len(right) > width:  # what the state means has a line's room at least
        left = cut_line(left, max(width - len(right) - 2, width // 2))
        used = width_of("".join(span.text for span in left))
    return (*left, Span(" " * max(width - used - len(right), 2)), Span(right, "dim"))


def _meaning(report: PipelineFigures, width: int) -> str:
    consumer = report.consumer
    if report.state == "stalled" and consumer is not None and known(consumer.waiting_s):
        return f"no item for {duration(consumer.waiting_s)}"
    if consumer is None:
        return "nobody takes items yet" if report.state == "warmup" else "who takes the items is not measured"
    if known(consumer.wait_fraction) is None:
        now = f" in the last {duration(report.window)}" if report.window else ""
        return f"no item was taken{now}"
    waits = f"{percent(consumer.wait_fraction)} of step time waits{' for data' if width >= WIDE else ''}"
    if width < NARROW:
        waits = f"waits {percent(consumer.wait_fraction)}"
    if consumer.wait_ms is not None:
        waits += f" (p95 {milliseconds(consumer.wait_ms.p95)} ms)"
    return f"at the end {waits}" if report.state == "done" and width >= NARROW else waits


def _first_batch(report: PipelineFigures) -> str:
    seconds = None if report.consumer is None else known(report.consumer.time_to_first_batch_s)
    return "" if seconds is None else f"first batch {duration(seconds)}"


def running_time(seconds: float | None) -> str:
    """Return seconds as ``00:12:41``; from two days on as ``2 d 03:12:41``."""
    number = known(seconds)
    if number is None or not 0 <= number < 1e11:
        return UNKNOWN
    minutes, rest = divmod(int(number), 60)
    hours, minutes = divmod(minutes, 60)
    days = f"{hours // 24} d " if hours >= 48 else ""
    return f"{days}{hours % 24 if days else hours:02}:{minutes:02}:{rest:02}"


# --- stall and verdict


def _stall(report: PipelineFigures, width: int) -> list[Line]:
    if not report.stalled:
        return []
    mark = "!! "
    lines = wrapped(f"stalled: {report.stalled}", width - len(mark), STALL_LINES)
    return [(Span(mark + line, "alarm"),) for line in lines]


def _verdict(report: PipelineFigures, width: int, most: int) -> list[Line]:
    """Return what limits it: in two lines, or three where they are short; one that is empty has nothing to say.

    Args:
        report: it.
        width: columns that a line may have.
        most: lines that the reason may take.
    """
    verdict = report.verdict or Verdict()
    indent = " " * len(LABEL)
    figures, short = _figures(report, verdict, width), width < SHORT
    who: Line = (
        Span(LABEL, "dim"),
        Span(bottleneck_in_words(verdict, max(width // 4, 8)), "culprit" if verdict.kind in ("stage", "loop") else ""),
        Span(_confidence(report, verdict, short), "dim"),
    )
    if (share := known(verdict.gain)) is not None and verdict.kind != "consumer":
        gain = count(100 * share)
        who = (*who, Span(f", gain {'up to' if short else 'at most'} +{gain} %", "title"))
    reason = wrapped(_reason(verdict), width - len(indent), most) or [""]
    why: list[Line] = [(Span(indent + line, "dim"),) if line else () for line in reason]
    if width >= ONE_LINE:
        return [(*who, Span(f"   {figures}" if figures else "")), *why]
    return [who, (Span(indent + figures),) if figures else (), *why]


def _confidence(report: PipelineFigures, verdict: Verdict, short: bool) -> str:
    said = []
    if verdict.kind in BLAMING and known(verdict.confidence) is not None:
        said.append(verdict.level if short else f"confidence {verdict.level}")
    since, now = known(verdict.since), known(report.time)
    if since and now and (seconds := int(now - since)) > 0:
        said.append(f"{'' if short else 'for '}{duration(seconds)}")
    return f" ({', '.join(said)})" if said else ""


def _figures(report: PipelineFigures, verdict: Verdict, width: int) -> str:
    said = []
    short = width < NARROW
    throughput = _throughput(report)
    if known(verdict.capacity) is not None:
        of = "" if throughput is None else f"{rate(throughput)}/s of "
        said.append(f"{of}{rate(verdict.capacity)}/s{'' if short else ' capacity'}")
    elif throughput is not None:
        said.append(f"{rate(throughput)}/s")
    if verdict.next_limit and known(verdict.next_capacity) is not None:
        name, limit = fitted(clean(verdict.next_limit), max(width // 5, 8)), f"{rate(verdict.next_capacity)}/s"
        if verdict.kind == "consumer":
            said.append(f"{name} could do {limit}" if short else f"the pipeline could do {limit} ({name})")
        else:
            said.append(f"next{'' if short else ' limit'} {name} {limit}")
    return "; ".join(said)


def _throughput(report: PipelineFigures) -> float | None:
    """Return items a second of the whole; None if nobody counts them."""
    last = report.consumer or (report.stages[-1] if report.stages else None)
    return None if last is None else known(last.throughput)


def _reason(verdict: Verdict) -> str:
    said = [clean(verdict.reason)] if verdict.reason else []
    if verdict.near and verdict.kind != "balanced":
        said.append(f"nearly as busy (~): {', '.join(map(clean, verdict.near))}")
    elif len(verdict.near or ()) > 1:
        said.append(f"about as busy as each other (~): {', '.join(map(clean, verdict.near))}")
    return "; ".join(said)


# --- below the table


def _foot(report: PipelineFigures, width: int, explained: bool) -> Iterator[Line]:
    """Yield what else there is to know, as many pieces in a line as it has room for."""
    said: list[Line] = []
    if report.loop is not None and known(report.loop.lag_ms_p95) is not None:
        longest = "" if report.loop.lag_ms_max is None else f", max {milliseconds(report.loop.lag_ms_max)} ms"
        said.append((Span(f"loop lag p95 {milliseconds(report.loop.lag_ms_p95)} ms{longest}", "dim"),))
    if report.workers:
        said.append((Span(_workers(report), "dim"),))
    ages = [(age, stage.name) for stage in report.stages if (age := known(stage.oldest_s)) is not None]
    if ages:
        seconds, name = max(ages, key=lambda one: one[0])
        shown = fitted(clean(name), max(width // 5, 8))
        said.append((Span(f"oldest call in flight {duration(seconds)} ({shown})", "dim"),))
    if (first := _first_batch(report)) and width < FIRST_BATCH:
        said.append((Span(first, "dim"),))
    if report.window:
        counts = "; err retry drop since the start" if report.stages else ""
        said.append((Span(f"figures of the last {duration(report.window)}{counts}", "dim"),))
    if report.stages and not explained:
        said.append((Span("bars: ", "dim"), *BAR_LEGEND))
    if report.stages and width >= WIDE:
        queues = ", queue: mean/most items" if report.queues else ""
        said.append((Span(f"workers: in flight/most{queues}", "dim"),))
    line: Line = ()
    for piece in said:
        longer = (*line, Span("   "), *piece) if line else piece
        if line and width_of("".join(span.text for span in longer)) > width:
            yield line
            longer = piece
        line = longer
    if line:
        yield line


def _workers(report: PipelineFigures) -> str:
    said = f"workers {len(report.workers)}"
    times = [(p95, one.number) for one in report.workers if (p95 := known(one.p95_ms)) is not None]
    if times:
        slowest, number = max(times, key=lambda one: one[0])
        said += f": w{number} slowest (p95 {milliseconds(slowest)} ms)"
    return said
