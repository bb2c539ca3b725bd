"""A report as text: for a given one the whole of it, for any other that it keeps to its width and hides nothing."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.pipeline.cells import (
    duration,
    fill_bar,
    milliseconds,
    percent,
    rate,
    share_bar,
    shortened,
    text_of,
    width_of,
    wrapped,
)
from asynchub.pipeline.layout import laid_out, report_lines
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
from tests.pipeline.reports import REPORT, STALLED

AT_60 = """\
data  INPUT-BOUND  waits 41 % (p95 96 ms)   running 00:12:41
bottleneck: decode (high, 3 min), gain up to +58 %
            38.0/s of 39.1/s; next fetch 60.2/s
            all of decode is busy 97 % of the time; nearly
            as busy (~): fetch
   stage       items/s    p95 ms  busy              queue
   queue urls                                    123.4/?
 ~ fetch          38.1       231  ...####------   63.7/64
>> decode         38.0        31  #############    0.2/16
   copy            0.0         -  ###
   train          38.0   mean 15  .....########  waits 41 %
loop lag p95 1.1 ms, max 1.9 ms
workers 4: w2 slowest (p95 590 ms)
oldest call in flight 0.4 s (fetch)   first batch 3.2 s
figures of the last 10 s; err retry drop since the start
bars: . starved  # busy  - blocked
"""
AT_80 = """\
data  INPUT-BOUND  41 % of step time waits (p95 96 ms)          running 00:12:41
bottleneck: decode (high, 3 min), gain up to +58 %
            38.0/s of 39.1/s capacity; next limit fetch 60.2/s
            all of decode is busy 97 % of the time; nearly as busy (~): fetch
   stage       items/s    p95 ms  busy              workers  queue after     err
   queue urls                                                     123.4/?
 ~ fetch          38.1       231  ....#####-------    12/12  ####  63.7/64     2
>> decode         38.0        31  ################      1/1  #...   0.2/16     0
   copy            0.0         -  ###                   1/4                    0
   train          38.0   mean 15  .......#########  waits 41 %, p95 96 ms
loop lag p95 1.1 ms, max 1.9 ms   workers 4: w2 slowest (p95 590 ms)
oldest call in flight 0.4 s (fetch)   first batch 3.2 s
figures of the last 10 s; err retry drop since the start
bars: . starved  # busy  - blocked
"""
AT_100 = """\
data  INPUT-BOUND  41 % of step time waits for data (p95 96 ms)                     running 00:12:41
bottleneck: decode (confidence high, for 3 min), gain at most +58 %
            38.0/s of 39.1/s capacity; next limit fetch 60.2/s
            all of decode is busy 97 % of the time; nearly as busy (~): fetch
   stage       items/s  p50/p95/p99 ms  starved|BUSY|blocked  workers  queue after    err retry drop
   queue urls                                                               123.4/?
 ~ fetch          38.1   198/ 231/ 410  .....######---------    12/12  ####  63.7/64    2    12    3
>> decode         38.0    25/  31/  44  .###################      1/1  #...   0.2/16    0     0    0
   copy            0.0     -/   -/   -  ####                      1/4                   0     0    0
   train          38.0         mean 15  ........############  waits 41 %, p50/p95/p99 60/96/131 ms
loop lag p95 1.1 ms, max 1.9 ms   workers 4: w2 slowest (p95 590 ms)
oldest call in flight 0.4 s (fetch)   first batch 3.2 s
figures of the last 10 s; err retry drop since the start
workers: in flight/most, queue: mean/most items
"""
AT_120 = """\
data  INPUT-BOUND  41 % of step time waits for data (p95 96 ms)                      running 00:12:41  first batch 3.2 s
bottleneck: decode (confidence high, for 3 min), gain at most +58 %
            38.0/s of 39.1/s capacity; next limit fetch 60.2/s
            all of decode is busy 97 % of the time; nearly as busy (~): fetch
   stage       items/s  p50/p95/p99 ms  . starved  # busy  - blocked  workers  queue after        err retry drop   max/s
   queue urls                                                                           123.4/?
 ~ fetch          38.1   198/ 231/ 410  .......#########------------    12/12  ########  63.7/64    2    12    3    60.2
>> decode         38.0    25/  31/  44  .###########################      1/1  #.......   0.2/16    0     0    0    39.1
   copy            0.0     -/   -/   -  ######                            1/4                       0     0    0       -
   train          38.0         mean 15  ...........#################  waits 41 %, p50/p95/p99 60/96/131 ms, max 260 ms
loop lag p95 1.1 ms, max 1.9 ms   workers 4: w2 slowest (p95 590 ms)   oldest call in flight 0.4 s (fetch)
figures of the last 10 s; err retry drop since the start   workers: in flight/most, queue: mean/most items
"""
STALLED_AT_80 = """\
data  STALLED  no item for 12 s                                 running 00:12:41
!! stalled: waiting for batch 25 of worker 1 (pid 29488); 2 later batches are
!! ready; worker state dataset for 12.1 s
bottleneck: decode (high, 3 min), gain up to +58 %
            38.0/s of 39.1/s capacity; next limit fetch 60.2/s
            all of decode is busy 97 % of the time; nearly as busy (~): fetch
   stage       items/s    p95 ms  busy              workers  queue after     err
   queue urls                                                     123.4/?
 ~ fetch          38.1       231  ....#####-------    12/12  ####  63.7/64     2
>> decode         38.0        31  ################      1/1  #...   0.2/16     0
   copy            0.0         -  ###                   1/4                    0
   train          38.0   mean 15  .......#########  waits 41 %, p95 96 ms
loop lag p95 1.1 ms, max 1.9 ms   workers 4: w2 slowest (p95 590 ms)
oldest call in flight 0.4 s (fetch)   first batch 3.2 s
figures of the last 10 s; err retry drop since the start
bars: . starved  # busy  - blocked
"""


@pytest.mark.parametrize(("width", "text"), [(60, AT_60), (80, AT_80), (100, AT_100), (120, AT_120)])
def test_a_report_is_laid_out_for_its_width(width: int, text: str) -> None:
    assert laid_out(REPORT, width) + "\n" == text


def test_a_stall_is_said_loudly_above_all_else() -> None:
    assert laid_out(STALLED, 80) + "\n" == STALLED_AT_80


def test_a_report_as_a_string_is_a_hundred_columns_wide() -> None:
    assert str(REPORT) + "\n" == AT_100


def test_a_report_that_has_passed_through_a_file_looks_the_same() -> None:
    assert laid_out(PipelineReport.from_dict(REPORT.to_dict()), 120) + "\n" == AT_120


def test_a_report_of_nothing_has_no_numbers() -> None:
    assert str(PipelineReport()) == "data  WARMING UP  nobody takes items yet\nbottleneck: not known yet"


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict(reason="warming up"), "not known yet"),
        (
            Verdict("consumer", "train", confidence=0.9, next_limit="decode", next_capacity=80.0, gain=0.0),
            "none; train sets the pace",
        ),
        (Verdict("loop", "decode", confidence=0.9), "the event loop, held by decode"),
        (Verdict("balanced", near=("fetch", "decode")), "no stage alone"),
        (Verdict("unsaturated", cause="order"), "no stage; items wait for their order"),
        (Verdict("unsaturated", cause="unknown"), "no stage; not known why"),
    ],
)
def test_a_verdict_is_said_in_words(verdict: Verdict, said: str) -> None:
    line = laid_out(dataclasses.replace(REPORT, verdict=verdict), 120).splitlines()[1]
    assert line.startswith(f"bottleneck: {said}")
    assert "+0 %" not in line
    assert ("confidence" in line) == (verdict.confidence > 0)


def test_the_culprit_is_marked_and_what_is_nearly_as_busy() -> None:
    marked = [line[:9] for line in AT_100.splitlines() if line.startswith((">> ", " ~ "))]
    assert marked == [" ~ fetch ", ">> decode"]
    good = dataclasses.replace(REPORT, verdict=Verdict("consumer", "train"))
    assert [line[:8] for line in laid_out(good).splitlines() if line.startswith(">>")] == [">> train"]


def test_what_is_not_known_is_no_zero() -> None:
    lines = laid_out(REPORT, 200).splitlines()
    copy = next(line for line in lines if line.startswith("   copy"))
    assert " -/ 20/  -" in copy
    assert "0.0/" not in copy
    assert re.search(r"-/ +-/ +-", copy)


def test_a_queue_between_no_known_stages_has_a_row_of_its_own() -> None:
    loose = dataclasses.replace(REPORT, queues=(QueueReport("ready", 3.0, 8, 0.375, 1.0, 0.0, None, "elsewhere", ""),))
    lines = laid_out(loose, 100).splitlines()
    row = next(index for index, line in enumerate(lines) if "queue ready" in line)
    assert re.search(r"##\.\. +3\.0/8", lines[row])
    assert lines[row + 1].startswith("   train")


def test_every_number_of_a_report_is_shown_where_there_is_room() -> None:
    text = laid_out(REPORT, 260)
    for stage in REPORT.stages:
        row = next(line for line in text.splitlines() if line[3:].startswith(stage.name))
        shown = [
            rate(stage.throughput),
            str(stage.items),
            f"{stage.in_flight}/{stage.concurrency}",
            percent(stage.busy)[:-2],
        ]
        shown += [str(stage.errors), str(stage.retries), str(stage.drops)]
        if stage.latency_ms is not None:
            shown += map(milliseconds, (stage.latency_ms.p50, stage.latency_ms.p95, stage.latency_ms.p99))
            shown += [
                rate(stage.capacity),
                percent(stage.starved)[:-2],
                percent(stage.blocked)[:-2],
                duration(stage.age_s),
            ]
        assert [one for one in shown if one not in row] == []
    for queue in REPORT.queues:
        row = next(line for line in text.splitlines() if f" {rate(queue.depth)}/" in line)
        assert queue.capacity is None or f"{rate(queue.depth)}/{queue.capacity}" in row
        assert percent(queue.full) in row
        assert percent(queue.occupancy) in row
        assert milliseconds(queue.wait_ms) in row
    for known in (
        "waits 41 %",
        "60/96/131 ms",
        "max 260 ms",
        "28032 items",
        "mean 15",
        "first batch 3.2 s",
        "lag p95 1.1 ms",
    ):
        assert known in text
    for known in (
        "38.0/s of 39.1/s",
        "fetch 60.2/s",
        "+58 %",
        "for 3 min",
        "p95 590 ms",
        "4.2 MB",
        "last 10 s",
        "00:12:41",
    ):
        assert known in text


def test_lines_and_columns_stay_while_numbers_change() -> None:
    def shape(factor: float) -> list[tuple[int, int]]:
        consumer = dataclasses.replace(REPORT.consumer, throughput=38.0 * factor, wait_fraction=0.41 * factor)  # type: ignore[type-var]
        stages = tuple(
            dataclasses.replace(stage, throughput=stage.throughput * factor, errors=int(stage.errors * factor))
            for stage in REPORT.stages
        )
        report = dataclasses.replace(REPORT, stages=stages, consumer=consumer, elapsed=761 * factor)
        return [(len(line), len(text_of(line[:3]))) for line in report_lines(report, 100, steady=True)]

    assert shape(0.3) == shape(1.0) == shape(2.3)


def test_a_stall_does_not_move_the_table_of_a_view_that_stays() -> None:
    calm, stalled = (report_lines(report, 100, steady=True) for report in (REPORT, STALLED))
    assert [text_of(line)[3:8] for line in calm].index("stage") == [text_of(line)[3:8] for line in stalled].index(
        "stage"
    )


def test_names_cannot_command_the_terminal_and_are_cut() -> None:
    stage = dataclasses.replace(REPORT.stages[0], name="red\x1b[31m\nname" * 20)
    text = laid_out(dataclasses.replace(REPORT, stages=(stage,), pipeline="p\x07" * 90, queues=()), 100)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert len(text.splitlines()) == len(
        laid_out(dataclasses.replace(REPORT, stages=(stage,), queues=()), 100).splitlines()
    )
    assert "red [31m name" in laid_out(dataclasses.replace(REPORT, stages=(stage,)), 200)


def test_wide_letters_keep_the_columns_in_place() -> None:
    stage = dataclasses.replace(REPORT.stages[0], name="\u89e3\u7801")
    rows = laid_out(dataclasses.replace(REPORT, stages=(stage, REPORT.stages[1])), 100).splitlines()
    wide, plain = (next(line for line in rows if name in line) for name in ("\u89e3\u7801", ">> decode"))
    assert width_of(wide[: wide.index("38.1")]) == width_of(plain[: plain.index("38.0")])


# --- any report

numbers: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.floats(), st.integers(-(10**30), 10**30), st.floats(0, 1), st.integers(0, 2000), st.just(10**400)
)
names: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.text(max_size=40), st.sampled_from(["fetch", "decode", "train", ""])
)


def parts(kind: Any, /, **others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return reports of a kind, of which any number may be anything, and missing."""
    fields = {field.name: others.get(field.name, numbers) for field in dataclasses.fields(kind)}
    return st.builds(kind, **fields)


latencies = st.one_of(st.none(), parts(Latency))
reports = parts(
    PipelineReport,
    pipeline=names,
    state=st.one_of(names, st.sampled_from(["warmup", "ok", "input_bound", "stalled", "done"])),
    verdict=st.one_of(
        st.none(),
        parts(
            Verdict,
            kind=st.one_of(names, st.sampled_from(["unknown", "consumer", "stage", "loop", "balanced", "unsaturated"])),
            stage=names,
            cause=names,
            near=st.one_of(st.none(), st.lists(names, max_size=3).map(tuple)),
            next_limit=names,
            reason=names,
        ),
    ),
    stages=st.lists(parts(StageReport, name=names, latency_ms=latencies), max_size=4).map(tuple),
    queues=st.lists(parts(QueueReport, name=names, after=names, into=names), max_size=4).map(tuple),
    consumer=st.one_of(st.none(), parts(ConsumerReport, name=names, wait_ms=latencies)),
    loop=st.one_of(st.none(), parts(LoopReport)),
    workers=st.lists(parts(WorkerReport, state=names), max_size=3).map(tuple),
    stalled=st.one_of(st.none(), st.text(max_size=400)),
)


@settings(max_examples=80)
@given(reports, st.integers(40, 220), st.booleans())
def test_no_line_of_any_report_is_wider_than_it_may_be(report: PipelineReport, width: int, steady: bool) -> None:
    for line in report_lines(report, width, steady=steady):
        text = text_of(line)
        assert width_of(text) <= width
        assert text.isprintable()


@settings(max_examples=40)
@given(reports)
def test_nothing_that_is_unknown_becomes_a_zero(report: PipelineReport) -> None:
    unknown = dict.fromkeys(("throughput", "items", "busy", "starved", "blocked", "capacity", "errors", "age_s"))
    stages = tuple(
        dataclasses.replace(
            stage,
            name="x",
            latency_ms=None,
            in_flight=None,
            concurrency=None,
            retries=None,
            drops=None,
            bytes_per_s=None,
            on_loop=None,
            oldest_s=None,
            **unknown,
        )
        for stage in report.stages
    )
    text = laid_out(dataclasses.replace(report, stages=stages, queues=(), consumer=None), 200)
    assert [line for line in text.splitlines() if re.match(r".{3}x ", line) and re.search(r"\d", line)] == []


@given(st.text(max_size=60), st.integers(6, 40))
def test_a_name_that_is_cut_keeps_its_beginning_and_its_end(name: str, width: int) -> None:
    found = shortened(name, width)
    assert width_of(found) <= width
    head, dots, tail = found.partition("..")
    assert found == name or (dots and name.startswith(head) and name.endswith(tail.lstrip(".")))


@given(numbers, numbers, numbers, st.integers(1, 60))
def test_a_bar_is_as_wide_as_it_is_to_be(starved: Any, busy: Any, blocked: Any, width: int) -> None:
    text = "".join(span.text for span in share_bar(starved, busy, blocked, width))
    assert len(text) == width
    assert re.fullmatch(r"\.*#*-* *", text)
    assert sum(len(span.text) for span in fill_bar(busy, width)) == width


@given(st.floats(0, 1), st.floats(0, 1), st.integers(10, 60))
def test_the_parts_of_a_bar_are_in_proportion(one: float, other: float, width: int) -> None:
    starved, blocked = one * other, one * (1 - other)
    text = "".join(span.text for span in share_bar(starved, 1 - one, blocked, width))
    for letter, share in ((".", starved), ("#", 1 - one), ("-", blocked)):
        assert abs(text.count(letter) - share * width) <= 1
    assert " " not in text


@given(st.text(max_size=200), st.integers(20, 80), st.integers(1, 5))
def test_a_wrapped_sentence_keeps_its_words_or_ends_in_dots(text: str, width: int, lines: int) -> None:
    found = wrapped(text, width, lines)
    assert len(found) <= lines
    assert all(width_of(line) <= width for line in found)
    printable = "".join(letter if letter.isprintable() else " " for letter in text).split()
    assert "".join(found).replace(" ", "") == "".join(printable) or found[-1].endswith("...")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0.4 s"),
        (0.02, "0.02 s"),
        (12.4, "12 s"),
        (180, "3 min"),
        (7500, "2 h 05 min"),
        (273_600, "3 d 04 h"),
        (None, "-"),
    ],
)
def test_durations_are_as_people_say_them(seconds: Any, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "per_second", "in_milliseconds"),
    [
        (0, "0.0", "0.0"),
        (0.023, "0.02", "0.02"),
        (0.3, "0.3", "0.3"),
        (38.14, "38.1", "38"),
        (512.3, "512.3", "512"),
        (1234.5, "1234", "1234"),
        (123_456, "123k", "123k"),
        (4_560_000, "4.6M", "4.6M"),
        (float("nan"), "-", "-"),
        (None, "-", "-"),
    ],
)
def test_numbers_have_the_digits_that_matter(number: Any, per_second: str, in_milliseconds: str) -> None:
    assert (rate(number), milliseconds(number)) == (per_second, in_milliseconds)
