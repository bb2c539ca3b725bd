"""WandbLogger: what W&B's own file holds is what was published; its process may die."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

pytest.importorskip("wandb")
import wandb

from asynchub.errors import ArgumentError, PatternError
from asynchub.events import Event, InfoUpdated, ScalarUpdated, SubscriberFailed, TrackerDegraded, TrackerRestored
from asynchub.hub import MessageHub
from asynchub.requests import ParameterChanged, RequestApplied
from asynchub.subscribers.wandb import WandbLogger
from tests.subscribers.lives import KEYS, Life, Points, Program, counted
from tests.subscribers.news import News
from tests.subscribers.observing import START, observe, scalars, stamped
from tests.subscribers.wandb_files import OfflineRun, counting, files_in

STEP = "trainer/global_step"


class QuickLogger(WandbLogger):
    retry = (0.05, 0.2)


def offline(folder: Path, **options: Any) -> QuickLogger:
    return QuickLogger("tests", mode="offline", dir=folder, **options)


def runs(folder: Path) -> list[OfflineRun]:
    """Return what the files below ``folder`` hold when the newest is whole: W&B's process writes on for a moment."""
    deadline = time.monotonic() + 20
    while True:
        found = [OfflineRun(path) for path in files_in(folder)]
        if found and found[-1].exit_code is not None:
            return found
        assert time.monotonic() < deadline, found


class Seen(NamedTuple):
    """A run of everything, and what it printed.

    Attributes:
        run: what its file holds.
        logger: that wrote it.
        events: that it was of.
        current: ``wandb.run`` while it went on.
    """

    run: OfflineRun
    logger: WandbLogger
    events: list[Event]
    current: list[Any]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One run of all that can be looked at without a resume: W&B takes a while to begin."""
    folder = tmp_path_factory.mktemp("wandb")
    events = stamped(
        [
            InfoUpdated(key="cfg", value={"lr": 0.1, "deep": {"layers": [1, 2]}, "odd": object()}, step=0),
            InfoUpdated(key="hparams", value="text = 'of settings'", step=0),
            InfoUpdated(key="other", value=1, step=0),
            *[
                ScalarUpdated(key=key, value=step / 8, step=step)
                for step in range(1, 401)
                for key in ("train/loss", "train/lr")
            ],
            *scalars((10, "val/loss", 0.5), (20, "val/loss", 0.25), (15, "val/loss", 0.75)),  # the last came late
            *scalars((401, "train/loss", 1.0), (401, "train/loss", 2.0), (401, "train/lr", 3.0)),
            ScalarUpdated(key="acc", value=48, count=64, step=402),
            *scalars((None, "free", 1.0), (None, "free", 2.0)),
            *scalars(*((403 + n, "odd", value) for n, value in enumerate((math.nan, math.inf, -math.inf, 10**400)))),
            *scalars(*((500, key, 1.0) for key in ("_step", "_timestamp", STEP, "hub/seq", "a.b", "\udc80", "x*"))),
            ParameterChanged(name="lr", group=0, old=0.1, new=0.05, author="plateau", step=500),
            SubscriberFailed(subscriber="x", error="ValueError: no", action="detach", step=501),
            RequestApplied(request="StopRequested", request_seq=9, reason="no better", author="stopper", step=502),
        ],
        0.001,
    )
    logger = offline(folder, name="everything", define={"train/lr": {"hidden": True, "summary": "mean"}}, alerts=True)
    logger.exit_code = 3
    current: list[Any] = []
    observe(logger, events, then=lambda: current.append(wandb.run))
    (run,) = runs(folder)
    return Seen(run, logger, events, current)


def test_every_value_is_there_with_its_step_and_time(seen: Seen) -> None:
    for key in ("train/loss", "train/lr", "val/loss"):
        wanted = [(one.step, one.value) for one in seen.events if isinstance(one, ScalarUpdated) and one.key == key]
        assert [(step, value) for step, _, value in seen.run.points(key)] == wanted
    times = {one.time for one in seen.events}
    assert {row["_timestamp"] for row in seen.run.rows} <= times
    assert seen.run.id == seen.logger.id


def test_a_backward_step_survives(seen: Seen) -> None:
    assert [(step, value) for step, _, value in seen.run.points("val/loss")] == [(10, 0.5), (20, 0.25), (15, 0.75)]


def test_what_comes_of_one_step_is_one_row_with_the_time_and_seq_of_the_newest(seen: Seen) -> None:
    row = next(row for row in seen.run.rows if row.get(STEP) == 7)
    newest = [one for one in seen.events if one.step == 7][-1]
    values = {"train/loss": 7 / 8, "train/lr": 7 / 8}
    assert {key: row[key] for key in row if key not in ("_runtime", "_step")} == {
        **values,
        STEP: 7,
        "hub/seq": newest.seq,
        "_timestamp": newest.time,
    }
    last = [
        {key: row[key] for key in ("train/loss", "train/lr") if key in row} for row in seen.run.rows if row[STEP] == 401
    ]
    assert last == [{"train/loss": 1.0}, {"train/loss": 2.0, "train/lr": 3.0}]


def test_means_counted_steps_and_odd_values_are_there(seen: Seen) -> None:
    assert [(step, value) for step, _, value in seen.run.points("acc")] == [(402, 0.75)]
    assert [(step, value) for step, _, value in seen.run.points("free")] == [(0, 1.0), (1, 2.0)]
    odd = [value for _, _, value in seen.run.points("odd")]
    assert odd == pytest.approx([math.nan, math.inf, -math.inf, math.inf], nan_ok=True)


def test_keys_that_w_and_b_keeps_for_itself_get_another_name(seen: Seen) -> None:
    names = ("hub/_step", "hub/_timestamp", f"hub/{STEP}", "hub/hub/seq", "a.b", "\\udc80", "x*")
    for name in names:
        assert [(step, value) for step, _, value in seen.run.points(name)] == [(500, 1.0)], name


def test_every_key_is_drawn_against_the_step_and_summed_up_as_asked(seen: Seen) -> None:
    metrics = seen.run.metrics
    assert {metrics[key].step_metric for key in ("train/loss", "train/lr", "val/loss", "free", "hub/decisions")} == {
        STEP
    }
    assert (metrics[STEP].options.hidden, metrics["hub/seq"].options.hidden) == (True, True)
    assert metrics["train/lr"].options.hidden
    assert not metrics["train/loss"].options.hidden
    assert (metrics["val/loss"].summary.min, metrics["val/loss"].summary.max) == (True, True)
    assert seen.run.summary["val/loss"] == {"min": 0.25, "max": 0.75, "last": 0.75}
    assert seen.run.summary["train/lr"]["mean"] == pytest.approx(sum((*(n / 8 for n in range(1, 401)), 3.0)) / 401)
    assert seen.run.summary["train/loss"] == 2.0


def test_settings_are_the_config(seen: Seen) -> None:
    config = seen.run.config
    assert (config["lr"], config["deep"]) == (0.1, {"layers": [1, 2]})
    assert config["odd"].startswith("<object object")
    assert config["hparams"] == "text = 'of settings'"
    assert "other" not in config


def test_decisions_are_rows_and_stops_and_failures_are_in_the_summary_and_alerts(seen: Seen) -> None:
    lr, failure, stop = seen.run.points("hub/decisions")
    assert (lr[0], lr[2]) == (500, "lr 0.1 -> 0.05 at step 500 by plateau")
    assert (failure[0], failure[2].startswith("x failed at step 501: ValueError: no")) == (501, True)
    assert (stop[0], stop[2]) == (502, "stop applied at step 502 by stopper")
    assert seen.run.summary["hub/stopped"] == "no better"
    assert seen.run.summary["hub/failure"] == failure[2]
    assert seen.run.alerts == [("failed", failure[2]), ("stopped", "no better")]


def test_the_run_is_the_loggers_own_and_ends_with_its_exit_code(seen: Seen) -> None:
    assert seen.current == [None]
    assert seen.run.exit_code == 3
    assert seen.events[0].time == START


def test_a_run_that_goes_on_is_the_same_run_in_a_second_file(tmp_path: Path) -> None:
    hub = MessageHub("first")
    hub.attach(offline(tmp_path), on_error="raise", name="wandb")
    with hub:
        for step in range(10):
            hub.update_scalars({"a": step, "b": -step}, step=step)
        hub.flush(20)
        hub.save(tmp_path / "state")
        for step in range(10, 15):
            hub.update_scalar("a", -1.0, step=step)
    resumed = MessageHub("second")
    resumed.load(tmp_path / "state")
    logger = offline(tmp_path)
    resumed.attach(logger, on_error="raise", name="wandb")
    with resumed:
        for step in range(10, 20):
            resumed.update_scalar("a", step, step=step)
    first, second = runs(tmp_path)
    assert first.id == second.id == logger.id
    rows = counting([*first.rows, *second.rows])
    assert [(row[STEP], row["a"]) for row in rows if "a" in row] == [(step, step) for step in range(20)]
    assert len(first.rows) == 15
    assert [row["_step"] for row in second.rows] == list(range(len(second.rows)))  # W&B counts each file from 0


def test_a_run_that_goes_back_to_a_state_it_had_left_says_which_rows_count_again(tmp_path: Path) -> None:
    program = Program(lambda hub: hub.attach(offline(tmp_path), on_error="raise", name="wandb"))
    for life in (Life(0, [6, 4], 3), Life(1, [5], 2), Life(1, [], 4)):
        hub = program.live(life)
        found: Points = {}
        for row in counting([row for run in runs(tmp_path) for row in run.rows]):
            for key in row.keys() & KEYS:
                found.setdefault(key, []).append((row[STEP], row[key]))
        assert found == {key: own for key, own in counted(hub).items() if own}


def test_a_run_that_is_disabled_writes_nothing(tmp_path: Path) -> None:
    observe(QuickLogger(mode="disabled", dir=tmp_path), stamped(scalars((1, "a", 1.0))))
    assert files_in(tmp_path) == []


def test_a_relative_folder_is_one_of_the_program_wherever_w_and_b_s_process_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        observe(offline(Path("here")), stamped(scalars((1, "a", 1.0))))
        assert len(runs(tmp_path / name / "here")) == 1


def test_an_id_of_ones_own_wins_over_that_of_the_state(tmp_path: Path) -> None:
    state = offline(tmp_path, id="of-the-state").state_dict()
    for given, used in ((None, "of-the-state"), ("given", "given")):
        logger = offline(tmp_path, id=given)
        logger.load_state_dict(state)
        assert logger.id == used
        assert logger.state_dict()["tracker"]["id"] == used


# --- W&B's own process fails


def services() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "wandb-core" in one.name()]


def alone() -> dict[str, str]:
    """Return an environment in which a program begins a process of W&B's of its own, and does not take ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}


BEREFT = """
import sys
import threading
import psutil
from asynchub import MessageHub, TrackerDegraded, TrackerRestored
from asynchub.subscribers.wandb import WandbLogger

WandbLogger.retry = (0.05, 0.2)
said = []
hub = MessageHub("bereft")
hub.attach(WandbLogger("tests", mode="offline", dir=sys.argv[1], interval=0.0, decisions=False), on_error="raise")
hub.on(TrackerDegraded, TrackerRestored)(said.append)
back = threading.Event()
hub.on(TrackerRestored)(lambda event: back.set())
with hub:
    for step in range(300):
        hub.update_scalar("loss", step, step=step)
    hub.flush(20)
    for service in psutil.Process().children(recursive=True):
        if "wandb-core" in service.name():
            service.kill()
            service.wait(10)
    for step in range(300, 600):
        hub.update_scalar("loss", step, step=step)
    assert back.wait(60)
    for step in range(600, 700):
        hub.update_scalar("loss", step, step=step)
assert [type(one) for one in said] == [TrackerDegraded, TrackerRestored] and said[1].missed == 0, said
"""


def test_a_run_goes_on_without_w_and_b_s_process_and_nothing_is_missing_when_there_is_another(tmp_path: Path) -> None:
    program = [sys.executable, "-c", BEREFT, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=150, check=False, env=alone())
    assert done.returncode == 0, done.stderr
    first, second = runs(tmp_path)
    assert first.id == second.id
    rows = counting([*first.rows, *second.rows])
    assert [(row[STEP], row["loss"]) for row in rows] == [(step, step) for step in range(700)]
    assert done.stderr.count("ConnectionResetError") == 1


def test_a_run_goes_on_while_w_and_b_s_process_hangs(tmp_path: Path) -> None:
    hub = MessageHub("hanging")
    hub.attach(offline(tmp_path, interval=0.0, grace=0.2, decisions=False), on_error="raise")
    news = News(hub)
    with hub:
        hub.update_scalar("loss", 0, step=0)
        hub.flush(20)
        stopped = services()
        try:
            for service in stopped:
                service.suspend()
            for step in range(1, 500):
                hub.update_scalar("loss", step, step=step)
            news.wait_for(TrackerDegraded)
        finally:
            for service in stopped:
                service.resume()
        news.wait_for(TrackerRestored)
    (run,) = runs(tmp_path)
    assert [step for step, _, _ in run.points("loss")] == list(range(500))


PROGRAM = """
import sys
from asynchub import MessageHub
from asynchub.subscribers.wandb import WandbLogger
hub = MessageHub("program")
hub.attach(WandbLogger("tests", mode="offline", dir=sys.argv[1]))
with hub:
    hub.update_scalar("loss", 0.5, step=1)
    hub.flush(30)
    if len(sys.argv) > 2:
        print("flushed", flush=True)
        sys.stdin.read()
"""


def test_nothing_is_printed(tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True, env=alone())
    assert (done.stdout, done.stderr) == ("", "")
    assert runs(tmp_path)[0].exit_code == 0


def test_what_was_handled_is_in_the_file_soon_and_stays_there_when_the_program_is_killed(tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(tmp_path), "wait"]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=alone()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "flushed\n"
        deadline = time.monotonic() + 10  # of W&B's own 15 s
        while not OfflineRun(*files_in(tmp_path)).points("loss"):
            assert time.monotonic() < deadline
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
    run = OfflineRun(*files_in(tmp_path))
    assert [(step, value) for step, _, value in run.points("loss")] == [(1, 0.5)]
    assert run.exit_code is None


# --- arguments


@pytest.mark.parametrize(
    "options",
    [
        {"project": ""},
        {"name": 3},
        {"id": ""},
        {"mode": "off"},
        {"step_metric": ""},
        {"step_metric": "_step"},
        {"decisions": 1},
        {"alerts": None},
        {"summary": {"loss": "smallest"}},
        {"summary": "min"},
        {"define": {"loss": {"color": "red"}}},
        {"config": "cfg"},
        {"settings": {"no_such_setting": 1}},
        {"settings": 3},
        {"resume": "must"},
        {"step": 3},
        {"interval": -1},
    ],
)
def test_malformed_arguments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        WandbLogger(**options)


def test_a_malformed_pattern_is_refused() -> None:
    with pytest.raises(PatternError):
        WandbLogger(summary={"a**b": "min"})


def test_settings_of_the_programs_own_win(tmp_path: Path) -> None:
    for settings in ({"silent": False, "run_tags": ["a"]}, wandb.Settings(silent=False, run_tags=["a"])):
        made = WandbLogger(mode="offline", settings=settings)._init["settings"]
        assert (made.silent, made.run_tags, made.console) == (False, ("a",), "off")
