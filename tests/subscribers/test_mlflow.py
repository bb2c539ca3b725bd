"""Runs in MLflow, as its own client reads them back from a SQLite database."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, SubscribersFailedError
from asynchub.events import Event, InfoUpdated, ScalarUpdated, TrackerDegraded, TrackerRestored
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import StopRequested
from tests.subscribers.lives import Life, Program, counted, lives, logging_with
from tests.subscribers.observing import observe, scalars, stamped

pytest.importorskip("mlflow", reason="pip install 'asynchub[mlflow]'")
pytest.importorskip("sqlalchemy", reason="pip install 'asynchub[mlflow]'")

import sqlalchemy
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from asynchub.subscribers.mlflow import MAX_NAME, MLflowLogger, _clean, _Names

ROOT = Path(__file__).parents[2]
LARGEST = sys.float_info.max


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of all these tests: to make its tables takes longer than any of them."""
    return tmp_path_factory.mktemp("mlflow") / "mlflow.db"


@pytest.fixture(scope="module")
def uri(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    MLflowLogger(tracking_uri=uri)  # loads what warns
    return MlflowClient(uri)


def history(client: MlflowClient, logger: MLflowLogger, key: str = "loss") -> list[tuple[int, float]]:
    found = client.get_metric_history(logger.run_id, key)
    return sorted((point.step, point.value) for point in found)


def publish(hub: MessageHub, first: int, last: int, sign: int = 1) -> None:
    for hub.step in range(first, last + 1):
        hub.update_scalar("loss", sign * hub.step)


def logged(client: MlflowClient, uri: str, events: list[Event], **options: Any) -> tuple[MLflowLogger, Any]:
    """Return the logger of a run over ``events``, and the run."""
    logger = MLflowLogger(tracking_uri=uri, **options)
    observe(logger, events)
    return logger, client.get_run(logger.run_id)


# --- what is in it


def test_the_metrics_are_the_events(client: MlflowClient, uri: str) -> None:
    events = stamped(
        [
            *scalars((1, "train/loss", 0.5), (2, "train/loss", 0.25), (3, "train/loss", -1e-300)),
            ScalarUpdated(key="val/acc", value=7, count=9, step=3),
            *scalars((None, "val/acc", 2**80), (None, "val/acc", 3.0), (4, "train/loss", True)),
        ]
    )
    steps = {6: 2, 5: 1}  # of those without one: how many of the key came before
    logger, run = logged(client, uri, events, experiment_name="metrics", run_name="first", tags={"by": 1})
    for key in ("train/loss", "val/acc"):
        found = client.get_metric_history(logger.run_id, key)
        assert [(one.step, one.value, one.timestamp) for one in found] == [
            (steps.get(event.seq, event.step), event.value / event.count, int(event.time * 1000))
            for event in events
            if isinstance(event, ScalarUpdated) and event.key == key
        ]
    assert (run.info.run_name, run.info.status, run.data.tags["by"]) == ("first", "FINISHED", "1")
    assert client.get_experiment(run.info.experiment_id).name == "metrics"
    assert run.data.metrics["train/loss"] == 1.0


def test_nan_stays_nan_and_an_infinity_is_the_largest_float(client: MlflowClient, uri: str) -> None:
    events = scalars(*[(step, "a", value) for step, value in enumerate((math.nan, math.inf, -math.inf, 10**400))])
    logger, _ = logged(client, uri, stamped(events))
    values = [value for _, value in history(client, logger, "a")]
    assert math.isnan(values[0])
    assert values[1:] == [LARGEST, -LARGEST, LARGEST]


def test_there_are_a_hundred_times_fewer_transactions_than_events(client: MlflowClient, uri: str) -> None:
    commits = []
    count = 4000

    def committed(connection: Any) -> None:
        commits.append(connection)

    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", committed)
    try:
        events = scalars(*[(step, "loss", step) for step in range(count)])
        logger, _ = logged(client, uri, stamped(events))
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "commit", committed)
    assert history(client, logger) == [(step, step) for step in range(count)]
    assert len(commits) * 100 <= count, len(commits)


def test_what_is_delivered_twice_is_there_once(client: MlflowClient, uri: str) -> None:
    events = stamped(scalars(*[(step, "loss", value) for step, value in enumerate((1.0, math.nan, math.inf, 2.0))]))
    logger, _ = logged(client, uri, events)
    before = history(client, logger)
    observe(MLflowLogger(tracking_uri=uri, run_id=logger.run_id), events + stamped(scalars((5, "loss", 3.0))))
    after = history(client, logger)
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("key", ["a,b", "/abs", "../up", "a//b", "a/", "", ".", "..", "é/漢", "\n", "x" * 300, "a:b c"])
def test_a_key_that_mlflow_refuses_gets_a_name_that_it_takes(client: MlflowClient, uri: str, key: str) -> None:
    _, run = logged(client, uri, stamped(scalars((1, key, 1.0), (1, "plain", 2.0))))
    names = set(run.data.metrics) - {"plain"}
    assert len(names) == 1
    if key in ("é/漢", "a:b c"):
        assert names == {key}


@given(st.text(max_size=20) | st.text(alphabet="./a_", max_size=260))
def test_mlflow_takes_every_name(key: str) -> None:
    name = _clean(key)
    _validate_metric_name(name)
    _validate_param_name(name)
    assert 0 < len(name) <= MAX_NAME


@given(st.lists(st.text(alphabet="a,_/.", max_size=3), unique=True))
def test_no_two_keys_share_a_name_and_a_resumed_run_gives_the_same_ones(keys: list[str]) -> None:
    names = _Names()
    given_names = [names[key] for key in keys]
    assert len(set(given_names)) == len(keys)
    other = _Names(names.state())
    assert [other[key] for key in keys] == given_names
    for name in given_names:
        _validate_metric_name(name)


# --- params and tags


def test_the_runtime_info_becomes_params_within_the_limits(
    client: MlflowClient, uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynchub.subscribers.mlflow.MAX_PARAMS", 150)
    cfg = {"lr": 0.1, "model": {"width": 4}, "long": "x" * 10_000, "odd,name": 1, "k" * 300: 2}
    many = {f"p{number}": number for number in range(200)}
    events: list[Event] = [InfoUpdated(key="cfg", value=cfg), InfoUpdated(key="cfg", value=many)]
    _, run = logged(client, uri, stamped([*events, InfoUpdated(key="other", value={"a": 1})]))
    params = run.data.params
    assert (params["lr"], params["model.width"], len(params["long"]), params["odd_name"]) == ("0.1", "4", 6000, "1")
    assert params["k" * 250] == "2"
    assert "a" not in params
    assert len(params) == 150
    assert "is left out" in caplog.text


def test_a_param_that_changes_keeps_its_value_and_a_tag_has_the_new_one(client: MlflowClient, uri: str) -> None:
    values = ({"lr": 0.1, "wd": 1}, {"lr": 0.2, "wd": 1})
    _, run = logged(client, uri, stamped([InfoUpdated(key="setup", value=one) for one in values]), config=("setup",))
    assert run.data.params == {"lr": "0.1", "wd": "1"}
    assert run.data.tags["asynchub.changed.lr"] == "0.2"
    assert "asynchub.changed.wd" not in run.data.tags


def test_params_can_be_given(client: MlflowClient, uri: str) -> None:
    _, run = logged(client, uri, stamped([InfoUpdated(key="cfg", value={"a": 1})]), config={"model": {"width": 4}})
    assert run.data.params == {"model.width": "4"}


def test_a_stop_that_took_effect_is_in_the_tags(client: MlflowClient, uri: str) -> None:
    hub = MessageHub("hub")
    logger = MLflowLogger(tracking_uri=uri)
    hub.attach(logger, on_error="raise")
    with hub:
        publish(hub, 1, 5)
        hub.request(StopRequested(reason="val/loss has not improved", author="EarlyStopping"))
        hub.apply_requests()
    tags = client.get_run(logger.run_id).data.tags
    assert {name: value for name, value in tags.items() if name.startswith("asynchub.stop")} == {
        "asynchub.stop_reason": "val/loss has not improved",
        "asynchub.stop_author": "EarlyStopping",
        "asynchub.stop_step": "5",
    }


def test_a_run_that_an_exception_ends_has_failed(client: MlflowClient, uri: str) -> None:
    hub, logger = MessageHub("failing"), MLflowLogger(tracking_uri=uri)
    hub.attach(logger, on_error="raise")

    def fail() -> None:
        with hub:
            hub.update_scalar("loss", 1.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert client.get_run(logger.run_id).info.status == "FAILED"
    with hub:
        hub.update_scalar("loss", 2.0)
    assert client.get_run(logger.run_id).info.status == "FINISHED"


def test_a_cancelled_logger_leaves_a_killed_run(client: MlflowClient, uri: str) -> None:
    import anyio

    from tests.subscribers.observing import observed

    logger = MLflowLogger(tracking_uri=uri)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            await observed(logger, stamped(scalars((1, "loss", 1.0))), then=scope.cancel)

    anyio.run(main)
    for thread in threading.enumerate():  # nobody waits for the end of a cancelled one
        if thread.name == "asynchub observed":
            thread.join(20)
    assert client.get_run(logger.run_id).info.status == "KILLED"


# --- the rest of the program


def test_nothing_of_the_process_is_touched(client: MlflowClient, uri: str) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    logged(client, uri, stamped(scalars((1, "loss", 1.0))))
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before


SILENT = """
import sys
tried = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        tried.append((event, arguments))
sys.addaudithook(hook)
from asynchub import MessageHub
from asynchub.subscribers.mlflow import MLflowLogger
hub = MessageHub("silent")
hub.attach(MLflowLogger(tracking_uri=sys.argv[1]), on_error="raise")
with hub:
    hub.update_info("cfg", {"lr": 0.1})
    for hub.step in range(100):
        hub.update_scalar("loss", hub.step)
import threading
print(tried, [one.name for one in threading.enumerate() if "elemetry" in one.name])
"""


def test_nothing_is_sent_anywhere(client: MlflowClient, uri: str) -> None:
    hints = ("CI", "MLFLOW", "PYTEST", "DO_NOT_TRACK")  # with these MLflow sends nothing anyway
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hints)}
    done = subprocess.run(
        [sys.executable, "-c", SILENT, uri],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "[] []", done.stdout


# --- resuming


def counts(client: MlflowClient, run_id: str) -> Callable[[Any], bool]:
    """Return a test whether a point counts, as the tags say."""
    tags = client.get_run(run_id).data.tags
    turns = [json.loads(value) for name, value in tags.items() if name.startswith("asynchub.resumed.")]
    stretches, upto = list[tuple[int, tuple[float, float]]](), (math.inf, math.inf)
    for turn in sorted(turns, key=lambda turn: -turn["before_ms"]):
        if (turn["before_ms"], 0) <= upto:
            stretches.append((turn["before_ms"], upto))
            upto = (turn["after_ms"], turn["after_step"])
    stretches.append((0, upto))
    return lambda one: any(begin <= one.timestamp and (one.timestamp, one.step) <= end for begin, end in stretches)


def counting(client: MlflowClient, logger: MLflowLogger, key: str = "loss") -> list[tuple[int, float]]:
    is_counted = counts(client, str(logger.run_id))
    found = client.get_metric_history(logger.run_id, key)
    return sorted((one.step, one.value) for one in found if is_counted(one))


def test_a_resumed_run_goes_on_in_the_same_run_and_a_tag_says_what_was_abandoned(
    client: MlflowClient, uri: str, tmp_path: Path
) -> None:
    first = MLflowLogger(tracking_uri=uri)
    hub = MessageHub("first")
    hub.attach(first, on_error="raise")
    with hub:
        publish(hub, 1, 20)
        hub.save(tmp_path / "state")
        publish(hub, 21, 30, -1)
    second = MLflowLogger(tracking_uri=uri)
    hub = MessageHub("second")
    hub.load(tmp_path / "state")
    hub.attach(second, on_error="raise")
    with hub:
        publish(hub, 21, 40)
        hub.flush()
        assert client.get_run(second.run_id).info.status == "RUNNING"
    assert second.run_id == first.run_id
    assert client.get_run(second.run_id).info.status == "FINISHED"
    assert len(history(client, second)) == 50
    assert counting(client, second) == [(step, step) for step in range(1, 41)]


def test_what_the_journal_hands_out_again_is_there_once(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hub = MessageHub("hub")
    logger = MLflowLogger(tracking_uri=uri)
    hub.attach(logger, on_error="raise")
    hub.attach(Journal(run / "journal"))
    hub.save(f"{run}/")
    with hub:
        hub.update_info("cfg", {"lr": 0.1})
        publish(hub, 1, 50)
        mark = hub.mark()
        publish(hub, 51, 70, -1)
    back = recover(run, mark=mark)
    again = MLflowLogger(tracking_uri=uri)
    back.attach(again, on_error="raise")
    back.attach(Journal(run / "journal"))
    with back:
        publish(back, 51, 60)
    assert again.run_id == logger.run_id  # though the state was saved before there was a run
    assert len(history(client, again)) == 80
    assert counting(client, again) == [(step, step) for step in range(1, 61)]


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_whatever_a_run_goes_back_to_the_tags_say_which_points_count(
    client: MlflowClient, uri: str, rounds: int
) -> None:
    loggers: list[MLflowLogger] = []

    def logged() -> MLflowLogger:
        loggers.append(MLflowLogger(tracking_uri=uri, interval=0.0))
        return loggers[-1]

    @settings(max_examples=rounds)
    @given(lives(5))
    def check(story: list[Life]) -> None:
        program = Program(logging_with(logged))
        for life in story:
            hub = program.live(life)
            for key, own in counted(hub).items():
                found = counting(client, loggers[-1], key)
                if key == "val":  # it comes late: one of the millisecond in which a state was saved cannot be told
                    found = [one for one in found if one in own]
                assert found == sorted(own)

    check()


def test_a_hub_that_is_entered_again_goes_on_and_another_hub_begins_a_run(client: MlflowClient, uri: str) -> None:
    logger = MLflowLogger(tracking_uri=uri)
    runs = []
    for name, times in (("first", 2), ("second", 1)):
        hub = MessageHub(name)
        hub.attach(logger, on_error="raise")
        for _ in range(times):
            with hub:
                publish(hub, hub.step + 1, hub.step + 3)
            runs.append(logger.run_id)
    assert runs[0] == runs[1] != runs[2]
    assert history(client, logger) == [(step, step) for step in range(1, 4)]


def test_a_run_that_was_given_and_is_not_there_is_an_error_and_a_saved_one_is_begun_anew(
    client: MlflowClient, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub = MessageHub("hub")
    hub.attach(MLflowLogger(tracking_uri=uri, run_id="f" * 32), on_error="raise")
    with pytest.raises(SubscribersFailedError) as raised, hub:
        publish(hub, 1, 2)
    assert isinstance(raised.value.exceptions[0], ArgumentError)
    first, _ = logged(client, uri, stamped(scalars((1, "loss", 1.0))))
    client.delete_run(first.run_id)
    second = MLflowLogger(tracking_uri=uri)
    second.load_state_dict(first.state_dict())
    observe(second, stamped(scalars((1, "loss", 1.0), (2, "loss", 2.0))))
    assert second.run_id != first.run_id
    assert "a new one begins" in caplog.text
    assert len(history(client, second)) == 2


# --- a tracker that is gone


@pytest.fixture
def said() -> list[Event]:
    return []


def tracked(logger: MLflowLogger, said: list[Event], restored: threading.Event) -> MessageHub:
    hub = MessageHub("hub")
    hub.attach(logger, on_error="raise")
    hub.on(TrackerDegraded, TrackerRestored, name="heard")(said.append)
    hub.on(TrackerRestored, name="restored")(lambda event: restored.set())
    return hub


class Impatient(MLflowLogger):
    retry = (0.01, 0.05)


def test_a_server_that_is_not_there_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch, said: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    hub = tracked(Impatient(tracking_uri="http://127.0.0.1:9", close_timeout=0.5), said, threading.Event())
    with hub:
        publish(hub, 1, 10)
        hub.flush(timeout=20)
        hub.flush(timeout=20)  # what was said amid the first one was heard, too
        assert len(said) == 1
    assert isinstance(said[0], TrackerDegraded)
    assert "its tracker lacks 10 values of this run" in caplog.text


def test_a_database_that_comes_later_gets_everything(
    tmp_path: Path, database: Path, client: MlflowClient, said: list[Event]
) -> None:
    restored = threading.Event()
    blocked = tmp_path / "folder"
    blocked.write_text("a file where the folder is to be")
    logger = Impatient(tracking_uri=f"sqlite:///{blocked}/mlflow.db")
    with tracked(logger, said, restored) as hub:
        publish(hub, 1, 10)
        hub.flush(timeout=20)
        blocked.unlink()
        blocked.mkdir()
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(blocked / "mlflow.db")) as target:
            source.backup(target)  # tables that are there already: to make them takes seconds
        assert restored.wait(30)
    assert [type(event) for event in said] == [TrackerDegraded, TrackerRestored]
    found = MlflowClient(f"sqlite:///{blocked}/mlflow.db").get_metric_history(logger.run_id, "loss")
    assert [one.value for one in found] == list(range(1, 11))


def test_a_database_that_is_locked_amid_the_run_gets_the_rest_later(
    database: Path, client: MlflowClient, uri: str, said: list[Event]
) -> None:
    restored = threading.Event()
    logger = Impatient(tracking_uri=uri, grace=0.2)
    with tracked(logger, said, restored) as hub:
        publish(hub, 1, 10)
        hub.flush(timeout=20)
        said.clear()  # it may have taken longer than that to begin
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            publish(hub, 11, 20)
            hub.flush(timeout=20)
            hub.flush(timeout=20)  # what was said amid the first one was heard, too
            assert isinstance(said[0], TrackerDegraded)
            restored.clear()
            other.execute("ROLLBACK")
        publish(hub, 21, 30)
        assert restored.wait(30)
    assert history(client, logger) == [(step, step) for step in range(1, 31)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"experiment_name": ""},
        {"run_name": 3},
        {"run_id": ""},
        {"tracking_uri": "mlruns"},
        {"tracking_uri": "file:///tmp/mlruns"},
        {"config": "cfg"},
        {"config": ("a/*",)},
        {"tags": "a"},
    ],
)
def test_a_bad_argument_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="must be"):
        MLflowLogger(**arguments)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.glob("mlruns*"))
