"""The main job, run as a newcomer runs it: whole, broken off, killed, as a script and as an asyncio program."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asynchub.cli import main
from asynchub.events import ScalarUpdated
from asynchub.generations import list_generations
from asynchub.journal.recovering import recover
from asynchub.requests import StopRequested
from asynchub.subscribers.jsonl import read_jsonl

pytest.importorskip("sklearn")


def _demo(run: Path, *arguments: str) -> int:
    return main(["demo", "--run", str(run), "--quiet", *arguments])


def _curve(run: Path) -> list[tuple[str, int | None, float]]:
    """Return every scalar of a run, as it was logged."""
    events = read_jsonl(run / "metrics.jsonl")
    return [(event.key, event.step, event.value) for event in events if isinstance(event, ScalarUpdated)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six epochs that nothing disturbed."""
    run = tmp_path_factory.mktemp("demo") / "whole"
    assert _demo(run, "--epochs", "6") == 0
    return run


def test_the_demo_learns_to_read_digits_and_leaves_its_files(whole: Path) -> None:
    hub = recover(whole)
    assert hub.get_scalar("val/accuracy").max() > 0.9
    assert hub.step == 6 * 23
    names = sorted(path.name for path in whole.iterdir())
    assert names[2:] == ["control", "journal", "metrics.csv", "metrics.jsonl", "model-0006.pt"]
    assert names[:2] == sorted(path.name for path in list_generations(whole))
    with (whole / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    sums, counts = hub.get_scalar("train/loss").data
    np.testing.assert_array_equal(losses, sums / counts)


def test_a_resumed_demo_is_the_uninterrupted_one(whole: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    for epochs in ("2", "3", "6"):
        assert _demo(broken, "--epochs", epochs, *([] if epochs == "2" else ["--resume"])) == 0
    assert _curve(broken) == _curve(whole)


def test_the_async_demo_is_the_plain_one(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "async"
    assert _demo(run, "--epochs", "6", "--async") == 0
    assert _curve(run) == _curve(whole)


@pytest.mark.slow
def test_a_demo_killed_at_any_moment_resumes_to_the_same_curve(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "asynchub", "demo", "--run", str(run), "--epochs", "6"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for lines in (1, 4, 9):  # killed after so many bytes of its log more than the last time, in thousands
        resume = ["--resume"] if (run / "journal").exists() else []
        process = subprocess.Popen([*command, *resume], stdout=subprocess.DEVNULL, env=environment)
        _kill_when_longer(process, run / "metrics.jsonl", 9_000 * lines)
    assert _demo(run, "--epochs", "6", *["--resume"]) == 0
    assert _curve(run) == _curve(whole)


def _kill_when_longer(process: subprocess.Popen[bytes], path: Path, size: int) -> None:
    """Send SIGKILL as soon as a file is longer than ``size`` bytes; a process that ends before is left alone."""
    while process.poll() is None:
        if path.exists() and path.stat().st_size > size:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()


def test_a_demo_that_has_stopped_says_why_and_trains_no_further(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "stopped"
    assert _demo(run, "--patience", "1", "--epochs", "40") == 0
    before = _curve(run)
    assert "stopped: " in capsys.readouterr().out
    assert _demo(run, "--patience", "1", "--epochs", "40", "--resume") == 0
    assert "stopped: " in capsys.readouterr().out
    assert _curve(run) == before


def test_replay_tells_what_less_patience_would_have_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patient, hasty = tmp_path / "patient", tmp_path / "hasty"
    assert _demo(patient, "--patience", "4", "--epochs", "30") == 0
    assert _demo(hasty, "--patience", "1", "--epochs", "30") == 0
    stop = next(event for event in read_jsonl(hasty / "metrics.jsonl") if isinstance(event, StopRequested))
    capsys.readouterr()
    assert main(["replay", str(patient), "--early-stopping", "val/accuracy:max:patience=1"]) == 0
    _, _, header, row, _ = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["stops", "at"]
    assert row.split()[0] == str(stop.step)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--resume"], "nothing to resume"),
        (["--epochs", "0"], "must be above 0"),
    ],
)
def test_what_the_demo_cannot_do_is_said(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _demo(tmp_path / "none", *arguments) == 1
    assert text in capsys.readouterr().err


def test_a_folder_that_holds_something_is_not_overwritten(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _curve(whole)
    assert _demo(whole) == 1
    assert "--resume" in capsys.readouterr().err
    assert _curve(whole) == before


def test_another_seed_cannot_resume_a_run(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _demo(whole, "--resume", "--seed", "7") == 1
    assert "--seed 0" in capsys.readouterr().err
