"""The command line: what it prints, and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asynchub.cli import main
from asynchub.errors import ArgumentError
from asynchub.eventforms import event_to_json
from asynchub.events import ScalarUpdated
from asynchub.what_if import early_stopping, try_rule

VALUES = (0.5, 0.7, 0.6, 0.65, 0.8, 0.79, 0.78, 0.77)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recorded run with one value of ``val/accuracy`` every ten steps."""
    events = [
        ScalarUpdated(seq=number, time=float(number), step=10 * number, key="val/accuracy", value=value)
        for number, value in enumerate(VALUES, 1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{event_to_json(event)}\n" for event in events))
    return tmp_path


def test_replay_prints_a_row_for_each_rule(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = ["val/accuracy:max:patience=2", "val/accuracy:max:patience=3", "val/accuracy:max:patience=9"]
    assert main(["replay", str(run), *(part for rule in rules for part in ("--early-stopping", rule))]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["rule", "stops", "at", "step", "checks", "best", "kept", "of", "run", "steps", "saved"]
    assert rows[0].split() == [rules[0], "40", "4/8", "0.7", "0.8", "40", "(50", "%)"]
    assert rows[1].split() == [rules[1], "80", "8/8", "0.8", "0.8", "0", "(0", "%)"]
    assert rows[2].split() == [rules[2], "never", "8/8", "0.8", "0.8", "0", "(0", "%)"]


def test_a_file_can_be_replayed_as_well_as_its_folder(run: Path) -> None:
    assert main(["replay", str(run / "metrics.jsonl"), "--early-stopping", "val/accuracy:max"]) == 0


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("val/accuracy:sideways", "sideways"),
        ("val/accuracy:max:patience=many", "patience"),
        ("val/accuracy:max:patients=3", "patients"),
        ("val/loss:min", "the run has no 'val/loss'; it has val/accuracy"),
    ],
)
def test_a_rule_that_cannot_be_tried_is_explained(
    rule: str, text: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(run), "--early-stopping", rule]) == 2
    assert text in capsys.readouterr().err


def test_a_run_that_is_not_there_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none"), "--early-stopping", "val/accuracy:max"]) == 1
    assert "none" in capsys.readouterr().err


def test_a_log_that_is_damaged_names_the_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "metrics.jsonl"
    path.write_text("not an event\n" + path.read_text())
    assert main(["replay", str(run), "--early-stopping", "val/accuracy:max"]) == 1
    assert "line 1" in capsys.readouterr().err


def test_a_rule_is_early_stopping_with_the_arguments_it_names() -> None:
    rule = early_stopping("val/loss:min:patience=7:min_delta=0.25")
    assert (rule.monitor, rule.mode, rule.patience) == ("val/loss", "min", 7)
    with pytest.raises(ArgumentError, match="is not a rule"):
        early_stopping("val/loss:min:patience=0.5:mode=max:mode=min:x")


def test_trying_a_rule_reports_what_it_would_have_kept() -> None:
    events = [
        ScalarUpdated(seq=number, time=0.0, step=number, key="loss", value=2 * value, count=2)
        for number, value in enumerate((3.0, float("nan"), 1.0, 2.0), 1)
    ]
    outcome = try_rule("loss:min:patience=1:check_finite=False", events)
    assert (outcome.best, outcome.best_step, outcome.best_of_run, outcome.checks_until_stop) == (3.0, 1, 1.0, 2)


@pytest.mark.parametrize("command", [["-m", "asynchub", "--version"], ["-m", "asynchub", "demo", "--help"]])
def test_the_module_is_a_program(command: list[str]) -> None:
    assert "asynchub" in subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True).stdout
