"""A run that is killed again and again, and resumed: its files are those of a run that never was."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from asynchub.events import ScalarUpdated
from asynchub.subscribers.jsonl import read_jsonl

ROOT = Path(__file__).parents[2]
STEPS = 600
SCRIPT = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
from asynchub import CsvLogger, JsonlLogger, MessageHub
folder = Path(sys.argv[1])
hub = MessageHub("killed")
hub.attach(JsonlLogger(folder / "metrics.jsonl"))
hub.attach(CsvLogger(folder / "metrics.csv", columns=("train/loss",)))
if (folder / "state").exists():
    hub.load(folder / "state")
with hub:
    for hub.step in range(hub.step + 1, {steps} + 1):
        hub.update_scalar("train/loss", 1 / hub.step)
        hub.update_scalar("train/acc", hub.step / 7, count=2)
        if hub.step % 9 == 0:
            hub.update_scalar("val/acc", hub.step / 9)
        if hub.step % 25 == 0:
            hub.save(folder / "state")
        if hub.step % 10 == 0:
            hub.flush(timeout=30)
            print(hub.step, flush=True)
        threading.Event().wait(0.0003)
"""


def expected(last: int) -> list[tuple[int, str, float]]:
    events = []
    for step in range(1, last + 1):
        events += [(step, "train/loss", 1 / step), (step, "train/acc", step / 7)]
        if step % 9 == 0:
            events.append((step, "val/acc", step / 9))
    return events


def recorded(path: Path) -> list[tuple[int | None, str, float]]:
    return [(event.step, event.key, event.value) for event in read_jsonl(path) if isinstance(event, ScalarUpdated)]


def run_until(folder: Path, step: int) -> int:
    """Run the script and kill it soon after it said ``step``; return the last step it said, ``STEPS`` when it ended."""
    said = 0
    script = SCRIPT.format(root=str(ROOT), steps=STEPS)
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = int(line)
            if step <= said < STEPS:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode in (0, -signal.SIGKILL)
    return said


def test_a_run_killed_at_random_moments_and_resumed_leaves_whole_files(tmp_path: Path, seed: int) -> None:
    where = random.Random(seed)
    said, kills = 0, 0
    while said < STEPS:
        last_said, said = said, run_until(tmp_path, min(said + where.randrange(20, 250), STEPS + 1))
        kills += said < STEPS
        assert said > last_said - 25
        found = recorded(tmp_path / "metrics.jsonl")
        assert found[: len(expected(said))] == expected(said)  # what was flushed survived, each event once
    assert kills >= 2
    assert recorded(tmp_path / "metrics.jsonl") == expected(STEPS)
    with open(tmp_path / "metrics.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "time", "train/loss", "train/acc"]
    assert [(int(row[0]), float(row[2]), float(row[3])) for row in rows] == [
        (step, 1 / step, step / 14) for step in range(1, STEPS + 1)
    ]
    with open(tmp_path / "metrics.late.csv", newline="") as file:
        late = [(int(row[0]), row[2], float(row[3])) for row in list(csv.reader(file))[1:]]
    assert late == [event for event in expected(STEPS) if event[1] == "val/acc"]
    assert any("rewound" in name for name in os.listdir(tmp_path))
