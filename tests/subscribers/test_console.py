"""ConsoleLogger: what a person reads."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, PatternError, ScheduleError
from asynchub.events import Event, EventsDropped, InfoUpdated, StateLoaded, SubscriberFailed
from asynchub.requests import ParameterChanged, ParameterChangeRequested, RequestApplied, RequestRefused, StopRequested
from asynchub.subscribers.console import ConsoleLogger
from asynchub.subscribers.display import Pace, described, format_duration, format_number, format_quantity
from tests.subscribers.observing import START, observe, scalars, stamped
from tests.subscribers.terminal import run_in_terminal

ROOT = Path(__file__).parents[2]


def a_run() -> Iterator[Event]:
    yield InfoUpdated(key="max_iters", value=8, step=0)
    for epoch in range(2):
        yield InfoUpdated(key="epoch", value=epoch, step=4 * epoch)
        for step in range(4 * epoch + 1, 4 * epoch + 5):
            yield from scalars(
                (step, "train/loss", 1 / step if step != 6 else math.nan), (step, "data/wait_s", 0.0123 * step)
            )
        yield from scalars((step, "val/loss", 0.3 / step), (step, "val/accuracy", 0.9 + step / 100))
        yield ParameterChanged(
            step=step, name="lr", group=0, old=0.1, new=0.05, reason="val/loss did not improve", author="plateau"
        )
    yield from scalars((8, "optimizer/lr", 5e-4))
    yield SubscriberFailed(step=8, subscriber="Tracker", error="OSError: no\nroute", action="detach")
    yield EventsDropped(step=8, missed=12)
    yield StopRequested(step=8, reason="no progress", author="stopper")
    yield RequestApplied(step=8, request="StopRequested", request_seq=9, author="stopper")


GOLDEN = """\
  epoch     step  train/loss  data/wait_s   steps/s      left
      0        2      0.5000      24.6 ms    0.8000      0:08
      0        4      0.2500      49.2 ms    0.6667      0:06
    val at step 4: loss 0.07500, accuracy 0.9400
    > lr 0.1 -> 0.05 at step 4 by plateau: val/loss did not improve
      1        6         NaN      73.8 ms    0.6667      0:03
      1        8      0.1250      98.4 ms    0.6667      0:00
    val at step 8: loss 0.03750, accuracy 0.9800
    > lr 0.1 -> 0.05 at step 8 by plateau: val/loss did not improve
    ! Tracker failed at step 8: OSError: no route (detached)
    ! 12 events dropped at step 8: this view fell behind
    > stop requested at step 8 by stopper: no progress
    > stop applied at step 8 by stopper
  epoch     step  train/loss  data/wait_s  optimizer/lr   steps/s      left
      1        8      0.1250      98.4 ms         5e-04    0.6667      0:00
"""


def printed(*events: Event, keys: tuple[str, ...] = (), **options: object) -> str:
    file = io.StringIO()
    observe(ConsoleLogger(*keys, file=file, **options), list(events))  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_is_printed_as_a_table_with_results_and_decisions_between(backend: str) -> None:
    file = io.StringIO()
    events = stamped(a_run())
    observe(ConsoleLogger(every="2ba", file=file), *[[event] for event in events], backend=backend)
    assert file.getvalue() == GOLDEN
    assert printed(*events, every="2ba") == GOLDEN  # however the events come in batches


def test_without_a_terminal_a_line_comes_every_ten_seconds_of_event_time() -> None:
    events = stamped(scalars(*((step, "loss", 1.0) for step in range(100))), seconds=1.0)
    steps = [int(line.split()[0]) for line in printed(*events).splitlines() if "loss" not in line]
    assert steps == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99]  # and the last, at the end


def test_the_header_comes_again_every_twenty_lines() -> None:
    lines = printed(*stamped(scalars(*((step, "loss", 1.0) for step in range(1, 62)))), every=1).splitlines()
    assert [number for number, line in enumerate(lines) if "loss" in line] == [0, 21, 42, 63]


def test_only_wanted_keys_are_shown() -> None:
    text = printed(*stamped(scalars((1, "a/loss", 1.0), (1, "b/loss", 2.0), (1, "val/x", 3.0))), keys=("a/*",))
    assert "a/loss" in text
    assert "b/loss" not in text
    assert "val" not in text


def test_columns_that_do_not_fit_are_counted() -> None:
    text = printed(*stamped(scalars(*((1, f"key/{index}", 1.0) for index in range(20)))), width=80)
    header, row = text.splitlines()
    assert header.endswith("+16 more")
    assert len(header) <= 80
    assert len(row) <= 80


@given(st.text(min_size=1), st.text(min_size=1))
@example("漢字/精度", "e\u0301\x1b[31m")
def test_odd_keys_and_texts_stay_on_one_line(key: str, text: str) -> None:
    events = [*scalars((1, key, 1.0)), StopRequested(step=1, reason=text), *scalars((2, f"val/{key}", 1.0))]
    out = printed(*stamped(events), every=1, results=("val/**",))
    assert all(line.isprintable() for line in out.removesuffix("\n").split("\n"))


def test_a_program_that_counts_no_steps_gets_a_row_each_round() -> None:
    events = stamped(scalars(*((None, key, value) for value in range(3) for key in ("a", "b"))))
    assert [line.split() for line in printed(*events, every=1).splitlines()[1:]] == [
        ["-", str(value), str(value), "-"] for value in range(3)
    ]


def test_a_file_that_lacks_letters_gets_escapes() -> None:
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    observe(ConsoleLogger(file=file), stamped(scalars((1, "größe", 1.0))))
    file.seek(0)
    assert "gr\\xf6\\xdfe" in file.read()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"results": "val/*"}, ArgumentError),
        ({"results": ("a//b",)}, PatternError),
        ({"every": "soon"}, ScheduleError),
        ({"total": 0}, ArgumentError),
    ],
)
def test_malformed_arguments_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        ConsoleLogger(**options)  # type: ignore[arg-type]


def test_a_malformed_pattern_is_refused() -> None:
    with pytest.raises(PatternError):
        ConsoleLogger("train/loss", "a//b")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (1.0, "1.000"),
        (0.00123456, "0.001235"),
        (0.0001, "1e-04"),
        (-6.25e-5, "-6.25e-05"),
        (9999.4, "9999"),
        (9999.6, "10000"),
        (1234567.8, "1234568"),
        (12345678.9, "1.235e+07"),
        (999999999, "999999999"),
        (10**12, "1.000e+12"),
        (True, "1"),
        (math.nan, "NaN"),
        (math.inf, "+inf"),
        (-math.inf, "-inf"),
    ],
)
def test_a_number_is_shown_with_four_digits_that_matter(value: float, text: str) -> None:
    assert format_number(value) == text


@given(st.floats() | st.integers())
def test_a_number_never_takes_more_than_ten_columns(value: float) -> None:
    assert len(format_number(value)) <= 11
    assert math.isnan(value) or abs(value) > 10**300 or float(format_number(value)) == pytest.approx(value, rel=6e-4)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("data/wait_s", 0.01234, "12.3 ms"),
        ("data/wait_s", 0.0, "0 s"),
        ("data/wait_s", 3.2e-7, "320 ns"),
        ("data/wait_s", 0.9999, "1.00 s"),
        ("total_seconds", 4321.0, "4321 s"),
        ("gpu/allocated_bytes", 12_884_901_888, "12.0 GiB"),
        ("gpu/allocated_bytes", 512, "512 B"),
        ("wait_s", math.nan, "NaN"),
        ("wait_s", 1e300, "1e+300 s"),
        ("wait_bytes", 1e300, "8.882e+284 PiB"),
        ("train/loss", 0.5, "0.5000"),
    ],
)
def test_the_end_of_a_key_names_the_unit(key: str, value: float, text: str) -> None:
    assert format_quantity(key, value) == text


def test_an_integer_that_no_double_can_hold_is_huge_whatever_its_unit() -> None:
    for key in ("wait_s", "wait_bytes", "train/loss"):
        assert [format_quantity(key, value) for value in (10**400, -(10**5000))] == ["huge", "huge"]
    assert format_duration(10**5000) == "huge days"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0:00"),
        (41.6, "0:42"),
        (3723, "1:02:03"),
        (172800 + 3 * 3600, "2d 03h"),
        (-1.0, "0:00"),
        (float("nan"), "NaN"),
        (float("inf"), "+inf"),
        (1e300, "1.157e+295 days"),
    ],
)
def test_a_duration_is_shown_as_people_write_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (ParameterChangeRequested(name="lr", value=0.01, author="ann"), "lr = 0.01 requested by ann"),
        (ParameterChangeRequested(name="lr", value=10**5000), "lr = a huge integer requested"),
        (
            RequestRefused(step=3, request="CheckpointRequested", request_seq=1, error="no space"),
            "checkpoint refused at step 3: no space",
        ),
        (StateLoaded(step=7, source="run/state.hub"), "resumed at step 7 from run/state.hub"),
        (EventsDropped(missed=1), "1 event dropped: this view fell behind"),
        (InfoUpdated(key="epoch", value=1), None),
    ],
)
def test_a_decision_is_said_in_words(event: Event, text: str | None) -> None:
    assert described(event) == text


def test_the_total_is_worked_out_from_the_epochs_that_are_over() -> None:
    pace = Pace()
    pace.see(InfoUpdated(key="max_epochs", value=10, step=0))
    pace.see(InfoUpdated(key="epoch", value=2, step=200))
    assert pace.total is None
    pace.see(InfoUpdated(key="epoch", value=3, step=300))
    assert pace.total == 1000
    pace.see(InfoUpdated(key="max_iters", value=500, step=300))
    assert pace.total == 500


def test_speed_and_time_left_go_by_event_time() -> None:
    pace = Pace(total=100)
    for step in range(1, 51):
        pace.see(scalars((step, "loss", 1.0))[0].stamped(step, START + 0.1 * step, step))
        if step % 10 == 0:
            pace.mark(START + 0.1 * step)
    assert pace.rate == pytest.approx(10)
    assert pace.seconds_left == pytest.approx(5)


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from asynchub.subscribers.console import ConsoleLogger
from tests.subscribers.observing import observe, stamped
from tests.subscribers.test_console import a_run
observe(ConsoleLogger(every="2ba"), stamped(a_run()))
"""


def test_on_a_terminal_the_same_lines_come_in_colour() -> None:
    out = run_in_terminal(SCRIPT.format(root=str(ROOT)))
    assert "\x1b[31m         NaN\x1b[0m" in out
    assert re.sub(r"\x1b\[\d+m", "", out).replace("\r\n", "\n") == GOLDEN  # colours are all there is


def test_no_color_is_respected() -> None:
    assert run_in_terminal(SCRIPT.format(root=str(ROOT)), NO_COLOR="1").replace("\r\n", "\n") == GOLDEN
