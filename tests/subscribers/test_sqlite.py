"""Runs in a SQLite file, as sqlite3 and pandas read them, and as events again."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, CorruptStateError, SubscribersFailedError
from asynchub.events import (
    Event,
    EventsDropped,
    InfoRemoved,
    InfoUpdated,
    ScalarUpdated,
    SubscriberFailed,
    TrackerDegraded,
    TrackerRestored,
)
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import Decided, StopRequested
from asynchub.subscribers.sqlite import SQLiteLogger, _total, read_sqlite
from asynchub.subscribers.sqlite_tables import connect, is_ours, prepare
from tests.subscribers.lives import Life, Points, Program, counted, lives, logging_with
from tests.subscribers.observing import observe, scalars, stamped

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "metrics.sqlite"


def ask(path: Path, question: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(question, values).fetchall()


def points(path: Path, run: int = 1) -> list[Any]:
    return ask(path, "SELECT step, value FROM scalars WHERE run = ? ORDER BY seq", run)


def publish(hub: MessageHub, first: int, last: int, sign: int = 1) -> None:
    for hub.step in range(first, last + 1):
        hub.update_scalar("loss", sign * hub.step)


# --- what is in it


RUN: list[Event] = stamped(
    [
        InfoUpdated(key="cfg", value={"lr": 0.1, "name": "é\u2028", "betas": [0.9, math.inf]}, step=0),
        *scalars(
            (1, "train/loss", 0.5), (1, "val/acc", math.nan), (2, "train/loss", math.inf), (None, "lr", -math.inf)
        ),
        ScalarUpdated(key="val/acc", value=7, count=9, step=2),
        ScalarUpdated(key="val/acc", value=7.0, count=0, step=2),
        Decided(author="EarlyStopping", verdict="waiting", monitor="val/acc", value=0.5, wait=1, patience=3, step=2),
        StopRequested(reason="two\nlines", author="me", step=3),
        InfoRemoved(key="cfg", step=3),
        ScalarUpdated(key="\ud800 lone", value=2**80, step=3),
        ScalarUpdated(key="huge", value=-(10**400), step=3),
        InfoUpdated(key="none", value=None, step=4),
    ]
)


def test_a_row_has_what_the_event_had(path: Path) -> None:
    observe(SQLiteLogger(path), RUN)
    assert ask(path, "SELECT seq, time, step, key, value, count FROM scalars ORDER BY seq") == [
        (2, RUN[1].time, 1, "train/loss", 0.5, 1),
        (3, RUN[2].time, 1, "val/acc", None, 1),
        (4, RUN[3].time, 2, "train/loss", math.inf, 1),
        (5, RUN[4].time, None, "lr", -math.inf, 1),
        (6, RUN[5].time, 2, "val/acc", 7 / 9, 9),
        (7, RUN[6].time, 2, "val/acc", 7.0, 0),
        (11, RUN[10].time, 3, "\\ud800 lone", 2.0**80, 1),
        (12, RUN[11].time, 3, "huge", -math.inf, 1),
    ]
    infos = ask(path, "SELECT seq, key, value FROM infos ORDER BY seq")
    assert [(seq, key, value and json.loads(value)) for seq, key, value in infos] == [
        (1, "cfg", {"lr": 0.1, "name": "é\u2028", "betas": [0.9, "Infinity"]}),
        (10, "cfg", None),
        (13, "none", None),
    ]
    assert infos[1][2] is None
    assert infos[2][2] == "null"
    question = "SELECT seq, kind, json_extract(event, '$.reason'), json_extract(event, '$.verdict') FROM events"
    assert ask(path, question) == [(8, "Decided", "", "waiting"), (9, "StopRequested", "two\nlines", None)]


def test_pandas_reads_a_table_whose_nan_is_nan(path: Path) -> None:
    observe(SQLiteLogger(path), RUN)
    with closing(sqlite3.connect(path)) as database:
        frame = pd.read_sql("SELECT step, key, value FROM scalars WHERE run = 1 ORDER BY seq", database)
    expected = [0.5, math.nan, math.inf, -math.inf, 7 / 9, 7.0, 2.0**80, -math.inf]
    pd.testing.assert_series_equal(frame["value"], pd.Series(expected, name="value"))
    assert frame.pivot_table(index="step", columns="key", values="value").loc[1, "train/loss"] == 0.5


def test_the_events_come_back(path: Path) -> None:
    observe(SQLiteLogger(path), RUN)
    back = list(read_sqlite(path))
    assert [type(event) for event in back] == [type(event) for event in RUN]
    for one, other in zip(back, RUN, strict=True):
        if not isinstance(other, ScalarUpdated):
            assert (one.seq, one.time, one.step, one.key) == (other.seq, other.time, other.step, other.key)
    assert back[7:10] == RUN[7:10]
    assert isinstance(back[0], InfoUpdated)
    assert back[0].value == {"lr": 0.1, "name": "é\u2028", "betas": [0.9, "Infinity"]}
    values = [(event.value, event.count) for event in back if isinstance(event, ScalarUpdated)]
    assert values[0] == (0.5, 1)
    assert math.isnan(values[1][0])
    assert values[2:] == [(math.inf, 1), (-math.inf, 1), (7, 9), (7.0, 0), (2.0**80, 1), (-math.inf, 1)]


def test_an_event_that_was_never_published_has_no_time(path: Path) -> None:
    observe(SQLiteLogger(path), [ScalarUpdated(seq=1, key="a", value=1.0), EventsDropped(seq=2, missed=3)])
    assert ask(path, "SELECT time FROM scalars UNION ALL SELECT time FROM events") == [(None,), (None,)]
    first, second = read_sqlite(path)
    assert math.isnan(first.time)
    assert math.isnan(second.time)
    assert isinstance(second, EventsDropped)


@given(st.integers(-(2**40), 2**40) | st.floats(-1e300, 1e300), st.integers(1, 2**20) | st.integers(-9, -1))
def test_the_mean_of_a_sum_that_was_read_back_is_the_one_that_was_written(total: float, count: int) -> None:
    back = _total(total / count, count)
    assert back / count == total / count
    if isinstance(total, int):
        assert back == total


def test_gathered_updates_are_one_row(path: Path) -> None:
    hub = MessageHub("sqlite")
    hub.attach(SQLiteLogger(path, every="10ba", aggregate="mean"), on_error="raise")
    with hub:
        publish(hub, 1, 25)
    assert ask(path, "SELECT step, value, count FROM scalars") == [(10, 5.5, 10), (20, 15.5, 10), (25, 23.0, 5)]


def test_a_value_that_cannot_be_shown_does_not_end_the_log(path: Path) -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    observe(SQLiteLogger(path), stamped([InfoUpdated(key="bad", value=Bad()), *scalars((1, "a", 1.0))]))
    assert ask(path, "SELECT value FROM infos") == [('"<Bad that cannot be shown: RuntimeError>"',)]
    assert points(path) == [(1, 1.0)]


def test_one_key_over_the_steps_is_read_from_the_index_alone(path: Path) -> None:
    observe(SQLiteLogger(path), RUN)
    (plan,) = ask(path, "EXPLAIN QUERY PLAN SELECT step, value FROM scalars WHERE run = 1 AND key = 'a' ORDER BY step")
    assert plan[-1] == "SEARCH scalars USING COVERING INDEX scalars_by_key (run=? AND key=?)"


def test_a_write_is_one_transaction(path: Path) -> None:
    said: list[str] = []

    class Traced(SQLiteLogger):
        def open(self) -> None:
            super().open()
            assert self._database is not None
            self._database.set_trace_callback(said.append)

    hub = MessageHub("sqlite")
    hub.attach(Traced(path, interval=3600.0), on_error="raise")
    with hub:
        publish(hub, 1, 999)
    assert len(points(path)) == 999
    assert said.count("COMMIT") == 2  # the rows, and the end of the run


# --- runs


def test_a_file_holds_several_runs_of_which_names_may_be_alike(path: Path) -> None:
    for number, name in enumerate(("a", "b", "a"), 1):
        observe(SQLiteLogger(path, run=name), stamped(scalars((1, "loss", number))))
    assert ask(path, "SELECT id, name, rewound_from FROM runs") == [(1, "a", None), (2, "b", None), (3, "a", None)]
    for run, value in ((None, 3), ("a", 3), ("b", 2), (1, 1)):
        assert [event.value for event in read_sqlite(path, run) if isinstance(event, ScalarUpdated)] == [value]
    for unknown in ("c", 9):
        with pytest.raises(ArgumentError, match="it has, newest first"):
            list(read_sqlite(path, unknown))


def test_any_number_of_loggers_may_make_the_file_at_once(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def begin(path: Path, together: threading.Barrier) -> None:
        database = connect(path, 20.0)
        try:
            together.wait(20)
            prepare(database, path, "wal", "normal")
            assert is_ours(database, path)
        except BaseException as error:
            failed.append(error)
        finally:
            database.close()

    for number in range(50):
        together = threading.Barrier(4)
        path = tmp_path / f"{number}.sqlite"
        threads = [threading.Thread(target=begin, args=(path, together)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed


def test_two_runs_are_written_at_the_same_time(path: Path) -> None:
    hubs = [MessageHub(name) for name in "ab"]
    for hub in hubs:
        hub.attach(SQLiteLogger(path, run=hub.instance_name, interval=0.0), on_error="raise")
    with hubs[0], hubs[1]:
        for begin in range(0, 1000, 100):
            for hub in hubs:
                publish(hub, begin + 1, begin + 100)
    assert sorted(ask(path, "SELECT name, count(*) FROM scalars JOIN runs ON run = id GROUP BY run")) == [
        ("a", 1000),
        ("b", 1000),
    ]


def test_a_hub_that_is_entered_again_goes_on_in_its_run(path: Path) -> None:
    hub = MessageHub("sqlite")
    hub.attach(SQLiteLogger(path), on_error="raise")
    for first in (1, 4):
        with hub:
            publish(hub, first, first + 2)
            hub.flush()
            assert ask(path, "SELECT ended FROM runs") == [(None,)]
    assert points(path) == [(step, step) for step in range(1, 7)]
    ((began, ended),) = ask(path, "SELECT began, ended FROM runs")
    assert began < ended


def test_a_logger_that_goes_to_another_hub_begins_another_run(path: Path) -> None:
    logger = SQLiteLogger(path)
    for name in ("first", "second"):
        hub = MessageHub(name)
        hub.attach(logger, on_error="raise")
        with hub:
            publish(hub, 1, 3)
    assert points(path, 1) == points(path, 2) == [(1, 1), (2, 2), (3, 3)]


def test_it_is_read_while_it_is_written(path: Path) -> None:
    hub = MessageHub("sqlite")
    hub.attach(SQLiteLogger(path), on_error="raise")
    with hub:
        publish(hub, 1, 10)
        hub.flush(timeout=20)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM scalars").fetchone() == (10,)
            publish(hub, 11, 20)
            hub.flush(timeout=20)
            assert reader.execute("SELECT count(*) FROM scalars").fetchone() == (10,)
            reader.execute("COMMIT")
            assert reader.execute("SELECT count(*) FROM scalars").fetchone() == (20,)


# --- resuming


def test_a_resumed_run_is_as_if_it_had_never_been_broken_off_and_what_was_abandoned_is_set_aside(path: Path) -> None:
    state = path.parent / "state"
    first = MessageHub("first")
    first.attach(SQLiteLogger(path, run="digits"), on_error="raise")
    with first:
        publish(first, 1, 20)
        first.save(state)
        publish(first, 21, 30, -1)
    second = MessageHub("second")
    second.load(state)
    second.attach(SQLiteLogger(path), on_error="raise")
    with second:
        publish(second, 21, 25)
        second.flush()
        assert points(path) == [(step, step) for step in range(1, 26)]
        publish(second, 26, 40)
    assert points(path) == [(step, step) for step in range(1, 41)]
    assert ask(path, "SELECT id, name, rewound_from FROM runs") == [(1, "digits", None), (2, "digits, rewound 1", 1)]
    assert points(path, 2) == [(step, -step) for step in range(21, 31)]
    assert [event.value for event in read_sqlite(path) if event.key == "loss"] == list(range(1, 41))  # type: ignore[attr-defined]


def test_a_run_that_is_resumed_and_left_at_once_is_as_it_was_saved(path: Path) -> None:
    hub = MessageHub("hub")
    hub.attach(SQLiteLogger(path, run="digits"), on_error="raise")
    with hub:
        publish(hub, 1, 20)
        hub.save(path.parent / "state")
        publish(hub, 21, 30, -1)
    back = MessageHub("back")
    back.load(path.parent / "state")
    back.attach(SQLiteLogger(path, run="renamed"), on_error="raise")
    with back:
        pass
    assert points(path) == [(step, step) for step in range(1, 21)]
    assert ask(path, "SELECT name FROM runs") == [("renamed",), ("renamed, rewound 1",)]


def test_a_state_loaded_amid_the_run_goes_back_there(path: Path) -> None:
    hub = MessageHub("hub")
    hub.attach(SQLiteLogger(path), on_error="raise")
    with hub:
        publish(hub, 1, 10)
        state = hub.state_dict()
        publish(hub, 11, 20, -1)
        hub.flush()
        hub.load_state_dict(state)
        publish(hub, 11, 20)
    assert points(path) == [(step, step) for step in range(1, 21)]
    assert points(path, 2) == [(step, -step) for step in range(11, 21)]


@pytest.mark.parametrize("upto", range(1, 25, 3))
def test_a_stretch_that_the_end_of_a_life_cut_short_is_one_row_when_the_run_goes_on(path: Path, upto: int) -> None:
    state = path.parent / "state"
    first = MessageHub("first")
    first.attach(SQLiteLogger(path, every="10ba", aggregate="mean"), on_error="raise")
    with first:
        publish(first, 1, upto)
        first.save(state)
    second = MessageHub("second")
    second.load(state)
    second.attach(SQLiteLogger(path, every="10ba", aggregate="mean"), on_error="raise")
    with second:
        publish(second, upto + 1, 25)
    assert points(path) == [(10, 5.5), (20, 15.5), (25, 23.0)]


def test_what_the_journal_hands_out_again_is_written_once_and_nothing_is_set_aside(path: Path) -> None:
    run = path.parent
    hub = MessageHub("hub")
    hub.attach(SQLiteLogger(path), on_error="raise")
    hub.attach(Journal(run / "journal"))
    hub.save(f"{run}/")
    with hub:
        publish(hub, 1, 50)
        hub.update_info("epoch", 1)
    back = recover(run)
    back.attach(SQLiteLogger(path), on_error="raise")
    back.attach(Journal(run / "journal"))
    with back:
        publish(back, 51, 60)
    assert points(path) == [(step, step) for step in range(1, 61)]
    assert ask(path, "SELECT count(*) FROM infos") == [(1,)]
    assert ask(path, "SELECT count(*) FROM runs") == [(1,)]


def test_what_a_mark_rewinds_is_set_aside_and_what_came_before_it_stays(path: Path) -> None:
    run = path.parent
    hub = MessageHub("hub")
    hub.attach(SQLiteLogger(path), on_error="raise")
    hub.attach(Journal(run / "journal"))
    hub.save(f"{run}/")
    with hub:
        publish(hub, 1, 50)
        mark = hub.mark()
        publish(hub, 51, 70, -1)
    back = recover(run, mark=mark)
    back.attach(SQLiteLogger(path), on_error="raise")
    back.attach(Journal(run / "journal"))
    with back:
        publish(back, 51, 60)
    assert points(path) == [(step, step) for step in range(1, 61)]
    assert points(path, 2) == [(step, -step) for step in range(51, 71)]


# --- going back to what was left


def read(path: Path) -> Points:
    found: Points = {}
    for event in read_sqlite(path):
        if isinstance(event, ScalarUpdated):
            assert event.step is not None
            found.setdefault(event.key, []).append((event.step, event.value / event.count))
    return found


def sizes(path: Path) -> dict[str, int]:
    return dict(ask(path, "SELECT name, count(*) FROM scalars JOIN runs ON run = id GROUP BY run"))


def test_a_run_that_goes_back_to_a_state_it_had_left_has_its_rows_again(path: Path) -> None:
    program = Program(logging_with(lambda: SQLiteLogger(path, run="a", interval=0.0)))
    for life in (Life(0, [5, 3], 2), Life(1, [4], 2), Life(1, [], 1)):
        hub = program.live(life)
        assert read(path) == counted(hub)
    assert sizes(path) == {"a": 9, "a, rewound 1": 5, "a, rewound 2": 6}


def test_a_state_that_is_resumed_twice_sets_aside_nothing_the_second_time(path: Path) -> None:
    program = Program(logging_with(lambda: SQLiteLogger(path, run="a", interval=0.0)))
    for life in (Life(0, [5, 3], 2), Life(1, [4], 0), Life(1, [], 0)):
        program.live(life)
    before = sizes(path)
    program.live(Life(1, [], 0))
    assert sizes(path) == before == {"a": 8, "a, rewound 1": 5, "a, rewound 2": 4}


def test_what_was_deleted_of_what_was_set_aside_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = Program(logging_with(lambda: SQLiteLogger(path, run="a", interval=0.0)))
    for life in (Life(0, [5, 3], 2), Life(1, [4], 0)):
        program.live(life)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM scalars WHERE run = 2")
    program.live(Life(1, [], 0))
    assert sizes(path) == {"a": 5, "a, rewound 2": 4}
    assert "run 1, is not what it was when its state was saved: of run 2, which was set aside, rows were" in caplog.text


@pytest.mark.parametrize("journaled", [False, True])
@settings(max_examples=6, deadline=None)
@given(lives())
def test_whatever_a_run_goes_back_to_its_rows_are_those_that_count(journaled: bool, story: list[Life]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.sqlite"
        program = Program(logging_with(lambda: SQLiteLogger(path, interval=0.0)), Path(folder) if journaled else None)
        for life in story:
            hub = program.live(life)
            assert read(path) == counted(hub)


@settings(max_examples=6, deadline=None)
@given(lives())
def test_whatever_a_run_goes_back_to_its_gathered_rows_are_those_of_an_unbroken_run(story: list[Life]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.sqlite"
        program = Program(logging_with(lambda: SQLiteLogger(path, interval=0.0, every=3, aggregate="max")))
        for life in story:
            hub = program.live(life)
            found = {key: [value for _, value in own] for key, own in read(path).items()}
            assert found == {key: list(gathered(own)) for key, own in counted(hub).items()}


def gathered(own: list[tuple[int, float]]) -> Iterator[float]:
    """Yield what each three updates come to, and what is left."""
    for start in range(0, len(own), 3):
        yield max(value for _, value in own[start : start + 3])


def test_a_run_whose_file_is_gone_begins_anew_and_says_so(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("hub")
    hub.attach(SQLiteLogger(path), on_error="raise")
    with hub:
        publish(hub, 1, 5)
        hub.save(path.parent / "state")
    path.unlink()
    back = MessageHub("back")
    back.load(path.parent / "state")
    back.attach(SQLiteLogger(path), on_error="raise")
    with back:
        publish(back, 6, 7)
    assert points(path) == [(6, 6), (7, 7)]
    assert "does not have the run that is resumed" in caplog.text


KILLED = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
from asynchub import Journal, MessageHub, recover
from asynchub.subscribers.sqlite import SQLiteLogger
run = Path(sys.argv[1])
begun = (run / "journal").exists()
hub = recover(run) if begun else MessageHub("killed")
hub.attach(SQLiteLogger(run / "metrics.sqlite", interval=0.01), on_error="raise")
hub.attach(Journal(run / "journal"))
if not begun:
    hub.save(f"{{run}}/")
with hub:
    for hub.step in range(hub.step + 1, {steps} + 1):
        both = {{"train/loss": 1 / hub.step, "train/acc": dict(value=hub.step / 7, count=2)}}
        hub.update_scalars(both)  # or a kill between the two leaves a step with one of them
        if hub.step % 50 == 0:
            hub.async_save(f"{{run}}/")
        if hub.step % 10 == 0:
            hub.flush(timeout=30)
            print(hub.step, flush=True)
        threading.Event().wait(0.0003)
"""


@pytest.mark.parametrize("steps", [300, pytest.param(6000, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_and_resumed_has_each_row_once(tmp_path: Path, seed: int, steps: int) -> None:
    where, said, kills = random.Random(seed), 0, 0
    script = KILLED.format(root=str(ROOT), steps=steps)
    while said < steps:
        until = min(said + where.randrange(60, 150), steps + 1)
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said = int(line)
                if until <= said < steps:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
        assert process.returncode in (0, -signal.SIGKILL)
        there = ask(tmp_path / "metrics.sqlite", "SELECT step, key FROM scalars WHERE run = 1")
        assert {(step, key) for step in range(1, said + 1) for key in ("train/loss", "train/acc")} <= set(there)
    assert kills >= max(steps // 170, 2)
    rows = ask(tmp_path / "metrics.sqlite", "SELECT step, key, value, count FROM scalars ORDER BY run, seq")
    assert rows == [
        row
        for step in range(1, steps + 1)
        for row in ((step, "train/loss", 1 / step, 1), (step, "train/acc", step / 7 / 2, 2))
    ]


# --- when it cannot be written


def heard(hub: MessageHub) -> list[Event]:
    said: list[Event] = []
    hub.on(TrackerDegraded, TrackerRestored, SubscriberFailed, name="heard")(said.append)
    return said


def test_while_another_program_has_locked_the_file_the_run_goes_on_and_is_written_later(path: Path) -> None:
    class Impatient(SQLiteLogger):
        retry = (0.01, 0.02)

    hub = MessageHub("hub")
    hub.attach(Impatient(path, grace=0.1), on_error="raise")
    said = heard(hub)
    with hub:
        publish(hub, 1, 10)
        hub.flush(timeout=20)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            publish(hub, 11, 20)
            hub.flush(timeout=20)  # which nobody waits for now
            hub.flush(timeout=20)  # what was said amid the first one was heard, too
            assert [type(event) for event in said] == [TrackerDegraded]
            other.execute("ROLLBACK")
        publish(hub, 21, 30)
    assert points(path) == [(step, step) for step in range(1, 31)]


def test_a_folder_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    class Impatient(SQLiteLogger):
        retry = (0.01, 0.02)

    blocked = tmp_path / "folder"
    blocked.write_text("a file where the folder is to be")
    restored = threading.Event()
    hub = MessageHub("hub")
    hub.attach(Impatient(blocked / "metrics.sqlite"), on_error="raise")
    said = heard(hub)
    hub.on(TrackerRestored, name="restored")(lambda event: restored.set())
    with hub:
        publish(hub, 1, 10)
        hub.flush(timeout=20)
        blocked.unlink()
        assert restored.wait(20)
    assert [type(event) for event in said] == [TrackerDegraded, TrackerRestored]
    assert points(blocked / "metrics.sqlite") == [(step, step) for step in range(1, 11)]


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE runs (id INTEGER)")


def newer(path: Path) -> None:
    observe(SQLiteLogger(path), [])
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


DAMAGES = {
    "text": (lambda path: path.write_text("step,loss\n" * 999), "not a whole SQLite database"),
    "foreign": (foreign, "is a database of something else"),
    "newer": (newer, "use a newer asynchub"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_none_of_these_is_left_as_it_is_and_said(path: Path, damage: str) -> None:
    path.parent.mkdir()
    spoil, text = DAMAGES[damage]
    spoil(path)
    before = path.read_bytes()
    hub = MessageHub("hub")
    hub.attach(SQLiteLogger(path), on_error="raise")
    with pytest.raises(SubscribersFailedError) as raised, hub:
        publish(hub, 1, 3)
    (error,) = raised.value.exceptions
    assert isinstance(error, CorruptStateError)
    assert text in str(error)
    assert path.read_bytes() == before
    with pytest.raises(CorruptStateError, match=text):
        list(read_sqlite(path))


def test_reading_what_is_not_there_says_what_to_give(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the file that SQLiteLogger was given"):
        list(read_sqlite(path))
    path.parent.mkdir()
    path.touch()
    with pytest.raises(CorruptStateError, match="is empty"):
        list(read_sqlite(path))


@pytest.mark.parametrize(
    "arguments",
    [{"journal_mode": "WAL2"}, {"synchronous": "maybe"}, {"run": ""}, {"run": 3}, {"every": None, "batch": 0}],
)
def test_a_bad_argument_is_refused(path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="must be"):
        SQLiteLogger(path, **arguments)
