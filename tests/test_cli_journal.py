"""The commands that read a run: tail, inspect, verify, export, replay."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest

from asynchub import EarlyStopping, Event, Journal, MessageHub, ScalarUpdated, recover
from asynchub.cli import main
from asynchub.journal.reading import segment_files
from asynchub.subscribers.jsonl import read_jsonl

ROOT = Path(__file__).parent.parent


def _train(hub: MessageHub, start: int, stop: int) -> None:
    for hub.step in range(start, stop):
        hub.update_scalars({"train/loss": 1 / (hub.step + 1), "train/right": {"value": hub.step % 8, "count": 8}})
        if hub.step % 10 == 9:
            hub.update_scalar("val/accuracy", min(hub.step, 40) / 50)
            hub.update_info("note", f"step {hub.step}")
            hub.settle()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 100 steps, resumed from step 50 of 70, with a snapshot and several segments."""
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "journal", segment_size=1000))
    hub.attach(EarlyStopping("val/accuracy", mode="max", patience=3))
    with hub:
        _train(hub, 0, 50)
        hub.commit()
        hub.save(tmp_path)
        mark = hub.mark()
        _train(hub, 50, 70)
    hub = recover(tmp_path, mark=mark)
    hub.attach(Journal(tmp_path / "journal", segment_size=1000))
    with hub:
        _train(hub, 50, 100)
    return tmp_path


def _out(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert main([str(one) for one in arguments]) == status
    captured = capsys.readouterr()
    assert (captured.err == "") == (status == 0) or arguments[0] == "verify"
    return captured.out if status == 0 or arguments[0] == "verify" else captured.err


# --- tail


def test_tail_shows_the_newest_events_in_columns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _out(capsys, "tail", run, "train/loss", "note", "-n", 3).splitlines()
    assert [line.split()[2:] for line in lines] == [
        ["98", "train/loss", "0.01010"],
        ["99", "train/loss", "0.01000"],
        ["99", "note", "'step", "99'"],
    ]
    assert len({line.index("train/loss") for line in lines[:2]} | {lines[2].index("note")}) == 1
    assert len(_out(capsys, "tail", run).splitlines()) == 10


def test_tail_shows_the_mean_of_samples(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _out(capsys, "tail", run, "train/right", "-n", 1).split(maxsplit=4)[4] == "0.3750  (8 samples)\n"


def test_tail_since_shows_all_after_it_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in _out(capsys, "tail", run, "--json", "--since", 20).splitlines()]
    assert [line["seq"] for line in lines] == list(range(21, lines[-1]["seq"] + 1))
    assert len(_out(capsys, "tail", run, "--since", 20, "-n", 4).splitlines()) == 4


def _python(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "asynchub", *map(str, arguments)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_tail_follows_a_run_that_begins_later_and_ends_quietly(tmp_path: Path) -> None:
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job is deaf to it
    with _python("tail", "-f", tmp_path / "run", "loss", "--json", preexec_fn=heeding) as program:
        hub = MessageHub("run")
        hub.attach(Journal(tmp_path / "run" / "journal"))
        assert program.stdout is not None
        for value in range(3):
            hub.update_scalar("loss", value)
            hub.update_scalar("other", value)
            assert json.loads(program.stdout.readline())["value"] == value
        program.send_signal(signal.SIGINT)
        rest, errors = program.communicate()
        hub.close()
    assert (program.returncode, rest, errors) == (130, "", "")


def test_a_reader_that_has_seen_enough_is_no_error(run: Path) -> None:
    with _python("tail", run, "-n", 100_000, "--json") as program:
        assert program.stdout is not None
        program.stdout.close()
        assert program.stderr is not None
        assert (program.stderr.read(), program.wait()) == ("", 0)


def test_keys_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MessageHub("run") as hub:
        hub.attach(Journal(tmp_path / "journal"))
        hub.update_scalar("red\x1b[31m\nkey", 1.0)
        hub.update_scalar("lone\udc80", 1.0)
    for command in (["tail", tmp_path], ["inspect", tmp_path]):
        out = _out(capsys, *command)
        assert "\x1b" not in out
        assert "red [31m key" in out


# --- inspect


def test_inspect_tells_what_a_run_holds_without_what_was_rewound(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _out(capsys, "inspect", run)
    assert re.search(r"train/loss +100 values +newest +0.01000", out)
    assert re.search(r"val/accuracy +10 values +newest +0.8000", out)
    assert re.search(r"^rewound +1 times", out, re.MULTILINE)
    assert re.search(r"^writer +none$", out, re.MULTILINE)
    assert "note  'step 99'" in out


def test_inspect_tells_what_a_snapshot_holds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = run.glob("*.ahs")
    out = _out(capsys, "inspect", path)
    assert out.startswith("kind         snapshot")
    assert re.search(r"train/loss +50 values +newest +0.02000", out)
    assert re.search(r"^states of +EarlyStopping$", out, re.MULTILINE)
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated or damaged" in _out(capsys, "inspect", path, status=1)


def test_inspect_tells_what_an_old_state_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert _out(capsys, "inspect", ROOT / "tests" / "golden" / "hub-1.0.ahc").startswith("kind         state file")


def test_inspect_tells_what_segment_and_tail_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "journal", interval=1000.0))
    hub.update_scalar("loss", 0.5)
    tail = _out(capsys, "inspect", tmp_path / "journal" / "tail.mm")
    assert re.search(r"^seq +1 to 1$", tail, re.MULTILINE)
    assert re.search(r"loss +1 values +newest +0.5000", tail)
    writer = rf"^writer +process {os.getpid()} on {re.escape(gethostname())}: it runs, or was killed$"
    assert re.search(writer, _out(capsys, "inspect", tmp_path), re.MULTILINE)
    hub.close()
    ((_, _, path),) = segment_files(tmp_path / "journal")
    segment = _out(capsys, "inspect", path)
    assert re.search(r"^state +closed$", segment, re.MULTILINE)
    assert re.search(r"loss +1 values +newest +0.5000", segment)
    path.write_bytes(path.read_bytes()[:-3])
    assert "no whole frame" in _out(capsys, "inspect", path)


# --- verify


def test_verify_finds_nothing_wrong_with_a_whole_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *parts, last = _out(capsys, "verify", run).splitlines()
    assert last == "nothing that was acknowledged is lost"
    assert {part.split()[0] for part in parts} == {"whole"}
    assert len(parts) == 1 + len(segment_files(run / "journal"))


def test_verify_tells_a_torn_end_from_damage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *_, (_, _, newest) = segment_files(run / "journal")
    with newest.open("ab") as file:
        file.write(b"an unfinished write")
    out = _out(capsys, "verify", run)
    assert f"torn     {newest.name}" in out
    (_, _, oldest), *_ = segment_files(run / "journal")
    data = bytearray(oldest.read_bytes())
    data[len(data) // 2] ^= 1
    oldest.write_bytes(data)
    out = _out(capsys, "verify", run, status=1)
    assert re.search(rf"damaged  {oldest.name}: from byte \d+ on: events \d+ to \d+ are lost", out)
    assert out.endswith("something that was acknowledged is lost\n")


def test_verify_misses_deleted_segments_that_no_snapshot_has(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, _, oldest), (_, second, _), *_ = segment_files(run / "journal")
    oldest.unlink()
    assert second > 1
    _out(capsys, "verify", run)  # the snapshot has what was in it
    (snapshot,) = run.glob("*.ahs")
    snapshot.unlink()
    assert f"begins with event {second}" in _out(capsys, "verify", run, status=1)


def test_verify_finds_a_damaged_snapshot(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (snapshot,) = run.glob("*.ahs")
    snapshot.write_bytes(snapshot.read_bytes().replace(b"train/loss", b"train/lass", 1))
    assert f"damaged  {snapshot.name}" in _out(capsys, "verify", run, status=1)


# --- export


def _counted(run: Path) -> dict[str, list[float]]:
    hub = recover(run)
    return {key: history.data[0].tolist() for key, history in hub.log_scalars.items()}


def test_an_export_as_json_lines_is_what_counts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _out(capsys, "export", run, "--to", "jsonl")
    events = list(read_jsonl(run / "export" / "metrics.jsonl"))
    for key, values in _counted(run).items():
        assert [one.value for one in events if isinstance(one, ScalarUpdated) and one.key == key] == values
    _out(capsys, "export", run, "--to", "jsonl", "--all", "-o", run / "all.jsonl")
    everything = list(read_jsonl(run / "all.jsonl"))
    assert [event.seq for event in everything] == list(range(1, len(everything) + 1))
    assert len([event for event in everything if event.key == "train/loss"]) == 120


def test_an_export_as_a_table_has_a_column_for_every_key(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _out(capsys, "export", run, "--to", "csv", "-o", run / "table.csv")
    with (run / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(100))
    assert [float(row["train/loss"]) for row in rows] == _counted(run)["train/loss"]
    assert [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]] == _counted(run)["val/accuracy"]
    assert not (run / "table.late.csv").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's dependencies
def test_tensorboard_reads_an_export(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _out(capsys, "export", run, "--to", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run / "export" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    hub = recover(run)
    assert sorted(reader.Tags()["scalars"]) == sorted(hub.log_scalars)
    for key, history in hub.log_scalars.items():
        values, counts = history.data
        scalars = reader.Scalars(key)
        assert [scalar.value for scalar in scalars] == pytest.approx((values / counts).tolist(), rel=1e-6)
        assert [scalar.step for scalar in scalars] == history.records().steps.tolist()
        assert [scalar.wall_time for scalar in scalars] == history.records().times.tolist()


def test_without_tensorboard_an_export_says_what_to_install(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "asynchub.integrations.tensorboard", raising=False)
    assert "pip install 'asynchub[tensorboard]'" in _out(capsys, "export", run, "--to", "tensorboard", status=1)


def test_an_export_replaces_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "mine.csv").write_text("mine")
    assert "is there already" in _out(capsys, "export", run, "--to", "csv", "-o", run / "mine.csv", status=2)
    assert (run / "mine.csv").read_text() == "mine"


def test_a_run_whose_first_segments_were_deleted_is_exported_from_its_snapshot(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _counted(run)
    (_, _, oldest), *_ = segment_files(run / "journal")
    oldest.unlink()
    _out(capsys, "export", run, "--to", "csv")
    with (run / "export" / "metrics.csv").open(newline="") as file:
        assert [float(row["train/loss"]) for row in csv.DictReader(file)] == before["train/loss"]


def test_a_run_without_a_journal_is_read_from_its_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = MessageHub("run")
    _train(hub, 0, 20)
    tmp_path.joinpath("run").mkdir()
    hub.save(tmp_path / "run")
    assert len(_out(capsys, "tail", tmp_path / "run", "train/loss", "-n", 30).splitlines()) == 20


# --- replay, and what goes wrong


def test_replay_reads_a_journal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _out(capsys, "replay", run, "--early-stopping", "val/accuracy:max:patience=2")
    rule, about, _, row, reason = out.splitlines()
    assert rule == "EarlyStopping:val/accuracy:mode=max:patience=2"
    assert " of 10 values" in about
    assert row.split()[0] == "69"
    assert "7/10" in row.split()
    assert reason.startswith("stops at 69: val/accuracy has not improved")


@pytest.mark.parametrize(
    "arguments", [["tail"], ["inspect"], ["verify"], ["export", "--to", "csv"], ["replay", "--early-stopping", "loss"]]
)
def test_what_is_not_there_or_foreign_is_explained(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = arguments
    assert "nowhere" in _error(capsys, command, tmp_path / "nowhere", *options)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.pt").write_bytes(b"PK\x03\x04")
    assert "foreign" in _error(capsys, command, tmp_path / "foreign", *options)


def _error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that is to fail; return what it says about that, which is one line."""
    assert main([str(one) for one in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"asynchub {arguments[0]}: ")
    return line


def test_a_damaged_journal_names_the_range(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, _, oldest), *_ = segment_files(run / "journal")
    oldest.write_bytes(oldest.read_bytes()[:100])
    for command in (["tail", run], ["export", run, "--to", "csv"]):
        assert re.search(r"events 1 to (event )?\d+ cannot be read", _error(capsys, *command))
    assert not (run / "export" / "metrics.csv").exists()


def test_a_wrong_pattern_is_a_wrong_question(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", str(run), "a//b"]) == 2
    assert "is not a key pattern" in capsys.readouterr().err


def test_an_event_of_a_kind_of_the_program_has_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MessageHub("run") as hub:
        hub.attach(Journal(tmp_path / "journal"))
        hub.publish(Event(key="mine/thing"))
    assert "mine/thing" in _out(capsys, "tail", tmp_path)
