"""Runs in Trackio's storage, as Trackio itself reads them back."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from asynchub.errors import ArgumentError
from asynchub.events import Event, InfoUpdated, ScalarUpdated, TrackerDegraded
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import StopRequested
from tests.subscribers.lives import KEYS, Life, Points, Program, counted, lives, logging_with
from tests.subscribers.observing import observe, scalars, stamped

pytest.importorskip("trackio", reason="pip install 'asynchub[trackio]'")

from trackio import sqlite_storage
from trackio.sqlite_storage import SQLiteStorage

from asynchub.subscribers.trackio import TrackioLogger, _config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Trackio itself, which the tests read with, looks for its files."""
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    return tmp_path / "trackio"


def logs(run: str, project: str = "digits") -> list[dict[str, Any]]:
    return SQLiteStorage.get_logs(project, run)


def points(run: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(row["step"], row[key]) for row in logs(run)]


def runs(project: str = "digits") -> list[str]:
    return sorted(str(record["name"]) for record in SQLiteStorage.get_run_records(project))


def publish(hub: MessageHub, first: int, last: int, sign: int = 1) -> None:
    for hub.step in range(first, last + 1):
        hub.update_scalar("loss", sign * hub.step)


def test_the_rows_are_the_events(folder: Path) -> None:
    events = stamped(
        [
            *scalars((1, "train/loss", 0.5), (2, "train/loss", math.nan), (3, "train/loss", math.inf)),
            ScalarUpdated(key="val/acc", value=7, count=9, step=3),
            *scalars((None, "step", 1.0), (4, "é/漢", 2**80), (4, "\ud800", -(10**400)), (5, "__own", True)),
        ]
    )
    observe(TrackioLogger("digits", name="first", dir=folder), events)
    found = logs("first")
    assert [row.pop("step") for row in found] == [1, 2, 3, 3, 0, 4, 4, 5]
    assert [row.pop("timestamp") for row in found[:2]] == [
        "2023-11-14T22:13:20.000000+00:00",
        "2023-11-14T22:13:20.500000+00:00",
    ]
    assert found[0] == {"train/loss": 0.5}
    assert math.isnan(found[1]["train/loss"])
    assert [{key: value for key, value in row.items() if key != "timestamp"} for row in found[2:]] == [
        {"train/loss": math.inf},
        {"val/acc": 7 / 9},
        {"__step": 1.0},
        {"é/漢": 2.0**80},
        {"\\ud800": -math.inf},
        {"____own": 1.0},
    ]


def test_the_runtime_info_becomes_the_configuration(folder: Path) -> None:
    cfg = {"lr": 0.1, "model": {"width": 4}, "_private": "\ud800", "huge": 2**80}
    events = [InfoUpdated(key="cfg", value=cfg), *scalars((1, "loss", 1.0)), InfoUpdated(key="other", value=1)]
    observe(TrackioLogger("digits", name="first", dir=folder, group="sweep"), stamped(events))
    config = SQLiteStorage.get_run_config("digits", "first")
    assert config is not None
    assert config.pop("_Created").startswith("20")
    assert config == {
        "lr": 0.1,
        "model": {"width": 4},
        "private": "\\ud800",
        "huge": str(2**80),
        "_Username": None,
        "_Group": "sweep",
    }


def test_a_configuration_that_cannot_be_shown_does_not_end_the_log(folder: Path) -> None:
    itself: dict[str, Any] = {}
    itself["again"] = itself
    assert _config(itself) == {"value": "<dict that cannot be shown: RecursionError>"}
    assert _config(3) == {"value": 3}


def test_several_runtime_infos_are_put_together(folder: Path) -> None:
    events = [
        InfoUpdated(key="cfg", value={"a": 1}),
        *scalars((1, "loss", 1.0)),
        InfoUpdated(key="hparams", value={"b": 2}),
    ]
    observe(TrackioLogger("digits", name="first", dir=folder), stamped([*events, *scalars((2, "loss", 1.0))]))
    config = SQLiteStorage.get_run_config("digits", "first")
    assert config is not None
    assert (config["a"], config["b"]) == (1, 2)


def test_a_configuration_can_be_given(folder: Path) -> None:
    observe(TrackioLogger("digits", name="first", dir=folder, config={"lr": 1}), stamped(scalars((1, "loss", 1.0))))
    config = SQLiteStorage.get_run_config("digits", "first")
    assert config is not None
    assert config["lr"] == 1


def test_a_stop_that_took_effect_is_an_alert(folder: Path) -> None:
    hub = MessageHub("hub")
    hub.attach(TrackioLogger("digits", name="first", dir=folder), on_error="raise")
    with hub:
        publish(hub, 1, 5)
        hub.request(StopRequested(reason="no better", author="EarlyStopping"))
        hub.apply_requests()
    (alert,) = SQLiteStorage.get_alerts("digits", "first")
    assert (alert["title"], alert["text"], alert["level"], alert["step"]) == (
        "stopped by EarlyStopping",
        "no better",
        "info",
        5,
    )


def test_runs_without_a_name_get_one_each_as_trackio_makes_them(folder: Path) -> None:
    loggers = [TrackioLogger("digits", dir=folder) for _ in range(2)]
    for logger in loggers:
        observe(logger, stamped(scalars((1, "loss", 1.0))))
    assert runs() == sorted(str(logger.run_name) for logger in loggers)
    assert len(set(runs())) == 2


def test_what_is_delivered_twice_is_there_once(folder: Path) -> None:
    first = TrackioLogger("digits", name="first", dir=folder)
    events = stamped(scalars(*[(step, "loss", 1.0) for step in range(5)]))
    observe(first, events)
    again = TrackioLogger("digits", name="first", dir=folder)
    again.run_id = first.run_id
    observe(again, events)
    assert len(logs("first")) == 5


def test_it_starts_no_run_of_trackios_and_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from trackio import context_vars

    before = set(threading.enumerate())
    observe(TrackioLogger("digits", name="first", dir=folder), stamped(scalars((1, "loss", 1.0))))
    assert context_vars.current_run.get() is None
    assert not [one for one in set(threading.enumerate()) - before if "asynchub" not in one.name and one.is_alive()]
    assert capfd.readouterr() == ("", "")


SILENT = """
import sys
tried = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "webbrowser.open"):
        tried.append((event, arguments))
sys.addaudithook(hook)
from asynchub import MessageHub
from asynchub.subscribers.trackio import TrackioLogger
hub = MessageHub("silent")
hub.attach(TrackioLogger("digits", name="first"), on_error="raise")
with hub:
    hub.update_info("cfg", {"lr": 0.1})
    for hub.step in range(100):
        hub.update_scalar("loss", hub.step)
print(tried)
"""


def test_nothing_is_sent_anywhere_and_trackios_own_program_lists_the_run(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    assert run("-c", SILENT).strip() == "[]"
    assert "first" in run("-m", "trackio.cli", "list", "runs", "--project", "digits")


# --- resuming


def test_a_resumed_run_is_as_if_it_had_never_been_broken_off_and_what_was_abandoned_is_a_run(
    folder: Path, tmp_path: Path
) -> None:
    hub = MessageHub("first")
    hub.attach(TrackioLogger("digits", name="a", dir=folder), on_error="raise")
    with hub:
        publish(hub, 1, 20)
        hub.save(tmp_path / "state")
        publish(hub, 21, 30, -1)
    for upto in (40, 50):
        hub = MessageHub("second")
        hub.load(tmp_path / "state")
        hub.attach(TrackioLogger("digits", dir=folder), on_error="raise")
        with hub:
            publish(hub, 21, upto)
            hub.flush(timeout=20)
            assert points("a") == [(step, step) for step in range(1, upto + 1)]
    assert runs() == ["a", "a, rewound 1", "a, rewound 2"]
    assert points("a, rewound 1") == [(step, -step) for step in range(21, 31)]
    assert points("a, rewound 2") == [(step, step) for step in range(21, 41)]


def test_a_run_that_is_resumed_and_left_at_once_is_as_it_was_saved(folder: Path, tmp_path: Path) -> None:
    hub = MessageHub("hub")
    hub.attach(TrackioLogger("digits", name="a", dir=folder), on_error="raise")
    with hub:
        publish(hub, 1, 20)
        hub.save(tmp_path / "state")
        publish(hub, 21, 30, -1)
    back = MessageHub("back")
    back.load(tmp_path / "state")
    back.attach(TrackioLogger("digits", dir=folder), on_error="raise")
    with back:
        pass
    assert points("a") == [(step, step) for step in range(1, 21)]


@pytest.mark.parametrize("marked", [False, True])
def test_what_the_journal_hands_out_again_is_there_once(folder: Path, tmp_path: Path, marked: bool) -> None:
    run = tmp_path / "run"
    hub = MessageHub("hub")
    hub.attach(TrackioLogger("digits", name="a", dir=folder), on_error="raise")
    hub.attach(Journal(run / "journal"))
    hub.save(f"{run}/")
    with hub:
        publish(hub, 1, 50)
        mark = hub.mark()
        publish(hub, 51, 70)
    back = recover(run, mark=mark if marked else None)
    back.attach(TrackioLogger("digits", dir=folder), on_error="raise")
    back.attach(Journal(run / "journal"))
    with back:
        publish(back, 51 if marked else 71, 80)
    assert points("a") == [(step, step) for step in range(1, 81)]
    assert runs() == (["a", "a, rewound 1"] if marked else ["a"])


def test_a_stretch_that_the_end_of_a_life_cut_short_is_one_row_when_the_run_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    for first, upto in ((1, 13), (14, 25)):
        hub = MessageHub("hub")
        if first > 1:
            hub.load(tmp_path / "state")
        hub.attach(TrackioLogger("digits", name="a", dir=folder, every="10ba", aggregate="mean"), on_error="raise")
        with hub:
            publish(hub, first, upto)
            hub.save(tmp_path / "state")
    assert points("a") == [(10, 5.5), (20, 15.5), (25, 23.0)]


# --- going back to what was left


def logged_to(folder: Path, **options: Any) -> Program:
    return Program(logging_with(lambda: TrackioLogger("digits", name="a", dir=folder, interval=0.0, **options)))


def shown() -> Points:
    """Return step and value of each point that Trackio has of the run, in the order in which they came."""
    found: Points = {}
    for row in logs("a"):
        for key in row.keys() & KEYS:
            found.setdefault(key, []).append((row["step"], row[key]))
    return found


def recorded(hub: MessageHub) -> Points:
    return {key: own for key, own in counted(hub).items() if own}


def test_a_run_that_goes_back_to_a_state_it_had_left_has_its_points_again(folder: Path) -> None:
    program = logged_to(folder)
    for life in (Life(0, [5, 3], 2), Life(1, [4], 2), Life(1, [], 1), Life(1, [], 0)):
        hub = program.live(life)
        assert shown() == recorded(hub)
    assert {run: len(logs(run)) for run in runs()} == {
        "a": 8,
        "a, rewound 1": 5,
        "a, rewound 2": 6,
        "a, rewound 3": 1,
    }


def test_what_was_deleted_of_what_was_set_aside_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = logged_to(folder)
    for life in (Life(0, [5, 3], 2), Life(1, [4], 0)):
        program.live(life)
    SQLiteStorage.delete_run("digits", "a, rewound 1")
    program.live(Life(1, [], 0))
    assert len(logs("a")) == 5
    assert "run 'a' is not what it was when its state was saved: of run " in caplog.text


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("every", [None, 3])
def test_whatever_a_run_goes_back_to_its_points_are_those_that_count(
    folder: Path, rounds: int, every: int | None
) -> None:
    @settings(max_examples=rounds)
    @given(lives())
    def check(story: list[Life]) -> None:
        SQLiteStorage.delete_run("digits", "a")
        program = logged_to(folder, every=every)
        for life in story:
            hub = program.live(life)
            found = {key: [value for _, value in own] for key, own in shown().items()}
            wanted = {key: [value for _, value in own] for key, own in recorded(hub).items()}
            assert found == {key: own if every is None else thinned(own) for key, own in wanted.items()}

    check()


def thinned(values: list[float]) -> list[float]:
    """Return each third value, and the last."""
    return [values[min(start + 2, len(values) - 1)] for start in range(0, len(values), 3)]


def test_a_logger_that_goes_to_another_hub_begins_another_run(folder: Path) -> None:
    logger = TrackioLogger("digits", dir=folder)
    for name in ("first", "second"):
        hub = MessageHub(name)
        hub.attach(logger, on_error="raise")
        for _ in range(2):
            with hub:
                publish(hub, hub.step + 1, hub.step + 3)
    assert [len(logs(run)) for run in runs()] == [6, 6]


KILLED = """
import sys
from asynchub import MessageHub
from asynchub.subscribers.trackio import TrackioLogger
hub = MessageHub("killed")
hub.attach(TrackioLogger("digits", name="a", dir=sys.argv[1]), on_error="raise")
with hub:
    for hub.step in range(1, 1_000_000):
        hub.update_scalar("loss", hub.step)
        if hub.step % 100 == 0:
            hub.flush(timeout=30)
            print(hub.step, flush=True)
"""


def test_what_was_flushed_survives_a_kill(folder: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as one:
        assert one.stdout is not None
        said = 0
        for line in one.stdout:
            said = int(line)
            if said >= 700:
                one.send_signal(signal.SIGKILL)
                break
    found = points("a")
    assert len(found) >= said
    assert found == [(step, step) for step in range(1, len(found) + 1)]


# --- a storage that refuses


def test_a_file_that_is_locked_amid_the_run_gets_the_rest_later(folder: Path) -> None:
    class Impatient(TrackioLogger):
        retry = (0.01, 0.05)

    said: list[Event] = []
    hub = MessageHub("hub")
    hub.attach(Impatient("digits", name="a", dir=folder, grace=0.1), on_error="raise")
    hub.on(TrackerDegraded, name="heard")(said.append)
    with hub:
        publish(hub, 1, 10)
        hub.flush(timeout=20)
        said.clear()
        with closing(sqlite3.connect(folder / "digits.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            publish(hub, 11, 20)
            hub.flush(timeout=20)
            hub.flush(timeout=20)  # what was said amid the first one was heard, too
            assert len(said) == 1
            other.execute("ROLLBACK")
        publish(hub, 21, 30)
    assert points("a") == [(step, step) for step in range(1, 31)]


@pytest.mark.parametrize(
    ("project", "arguments"),
    [
        ("", {}),
        (3, {}),
        ("registry-a", {}),
        ("a_configs", {}),
        ("a", {"name": ""}),
        ("a", {"config": "cfg"}),
        ("a", {"group": 1}),
    ],
)
def test_a_bad_argument_is_refused(project: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="must be"):
        TrackioLogger(project, **arguments)
