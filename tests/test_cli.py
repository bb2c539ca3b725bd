"""The command line: what it prints, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from asynchub.cli import main
from asynchub.eventforms import event_to_json
from asynchub.events import ScalarUpdated

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


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_replay_prints_a_row_for_each_rule(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(run), "--rule", "EarlyStopping:val/accuracy:mode=max:patience=2,3,9"]) == 0
    title, facts, header, *rows = capsys.readouterr().out.splitlines()
    assert title == "EarlyStopping:val/accuracy:mode=max"
    assert facts.startswith(f"{run}: 80 steps in 7.00 s; best val/accuracy 0.8000 (max)")
    assert header.split("  ")[0] == "patience"
    assert rows[0].split() == ["2", "*", "40", "0.7000", "20", "0.1000", "40", "(50", "%)", "4.00", "s"]
    assert rows[1].split() == ["3", "*", "80", "0.8000", "50", "0", "0", "(", "0", "%)", "0", "s"]
    assert rows[2].split() == ["9", "*", "never", "0.8000", "50", "0", "0", "(", "0", "%)", "0", "s"]


def test_early_stopping_is_short_for_a_rule(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for option, rule in (("--early-stopping", ""), ("--rule", "EarlyStopping:")):
        assert main(["replay", str(run), option, f"{rule}val/accuracy:max:patience=2"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_rules_come_in_the_order_in_which_they_were_given(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = ["--rule", "MaxSteps:20", "--early-stopping", "val/accuracy:max", "--rule", "MaxSteps:50"]
    assert main(["replay", str(run), *rules, "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["MaxSteps", "EarlyStopping", "MaxSteps"]


def test_rows_are_sorted_and_judged_as_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rule", "MaxSteps:50,20,10", "--judge", "val/accuracy:max", "--sort", "saved"]
    assert main(["replay", str(run), *options]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:6]]
    assert [(row[0], row[3]) for row in rows] == [("10", "0.5000"), ("20", "0.7000"), ("50", "0.8000")]


def test_several_runs_stand_in_one_table_and_in_one_each_if_asked(
    run: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().replace("0.8", "0.6"))
    command = ["replay", str(run), str(other), "--rule", "EarlyStopping:val/accuracy:mode=max:patience=2,3"]
    assert main(command) == 0
    together = capsys.readouterr().out
    assert "over 2 runs" in together
    assert "2 of 2" in together
    assert main([*command, "--each"]) == 0
    each = capsys.readouterr().out
    assert each.startswith(together.splitlines()[0])
    assert f"{run}: 80 steps" in each
    assert f"{other}: 80 steps" in each
    assert main([*command, "--json"]) == 0
    runs = [one["run"]["name"] for one in json.loads(capsys.readouterr().out)]
    assert runs == [str(run)] * 2 + [str(other)] * 2


def test_a_file_can_be_replayed_as_well_as_its_folder(run: Path) -> None:
    assert main(["replay", str(run / "metrics.jsonl"), "--early-stopping", "val/accuracy:max"]) == 0


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("val/accuracy:sideways", "sideways"),
        ("val/accuracy:max:patience=many", "patience"),
        ("val/accuracy:max:patients=3", "did you mean patience?"),
        ("val/loss:min", "has no 'val/loss'; it has val/accuracy"),
    ],
)
def test_a_rule_that_cannot_be_tried_is_explained(
    rule: str, text: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(run), "--early-stopping", rule]) == 2
    assert text in capsys.readouterr().err


def test_without_a_rule_one_is_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(run)]) == 2
    assert "--rule EarlyStopping:val/accuracy:mode=max:patience=3,5" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none"), "--early-stopping", "val/accuracy:max"]) == 1
    assert "none" in capsys.readouterr().err


def test_a_log_that_is_damaged_names_the_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "metrics.jsonl"
    path.write_text("not an event\n" + path.read_text())
    assert main(["replay", str(run), "--early-stopping", "val/accuracy:max"]) == 1
    assert "line 1" in capsys.readouterr().err


def test_subscribers_are_listed_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["subscribers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-1] == "does"
    assert any(line.split()[:2] == ["EarlyStopping", "control"] for line in lines)
    assert main(["subscribers", "--json"]) == 0
    (one,) = [one for one in json.loads(capsys.readouterr().out) if one["name"] == "EarlyStopping"]
    assert one["path"] == "asynchub.subscribers.early_stopping.EarlyStopping"


@pytest.mark.parametrize("command", [["-m", "asynchub", "--version"], ["-m", "asynchub", "demo", "--help"]])
def test_the_module_is_a_program(command: list[str]) -> None:
    assert "asynchub" in subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True).stdout
