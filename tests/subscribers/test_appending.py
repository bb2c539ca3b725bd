"""Files of text after resumes, whatever state they go back to: the past that counts, whole, and nothing lost."""

from __future__ import annotations

import csv
import json
import logging
import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchub.events import Event, EventsDropped, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.subscribers.appending import AppendingFile
from asynchub.subscribers.csv import CsvLogger
from asynchub.subscribers.cuts import TAIL
from asynchub.subscribers.jsonl import JsonlLogger, read_jsonl
from tests.subscribers.observing import START, observe


def opened(path: Path, state: Any = None) -> AppendingFile:
    """Return the file as a process finds it that resumes ``state``."""
    file = AppendingFile(path)
    if state is not None:
        file.load_state_dict(state)
    anyio.run(file.begin)
    return file


def write(file: AppendingFile, *records: str) -> dict[str, Any]:
    """Append records; return the state."""
    for record in records:
        file.add(record)
    anyio.run(file.flush)
    return file.state_dict()


def everything(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.iterdir()))


def abandon(path: Path) -> tuple[dict[str, Any], ...]:
    """Save at 2 and at 5, go on to 7, resume from 2, go to 9 and save; return the states."""
    file = opened(path)
    early = write(file, "a1\n", "a2\n")
    late = write(file, "a3\n", "a4\n", "a5\n")
    write(file, "a6\n", "a7\n")
    return early, late, write(opened(path, early), *(f"b{number}\n" for number in range(3, 10)))


def test_a_resume_into_a_past_that_was_left_puts_it_back(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    _, late, _ = abandon(path)
    write(opened(path, late), "c6\n")
    assert path.read_text() == "a1\na2\na3\na4\na5\nc6\n"
    assert path.with_name("m.txt.rewound-1").read_text() == "a3\na4\na5\na6\na7\n"
    assert path.with_name("m.txt.rewound-2").read_text() == "b3\nb4\nb5\nb6\nb7\nb8\nb9\n"


class Told:
    """A file with any number of lives, and what each state that was saved stands for."""

    def __init__(self, path: Path, seed: int, *, alike: bool = False) -> None:
        self.path = path
        self.where = random.Random(seed)
        self.saved: list[tuple[dict[str, Any], list[str]]] = [(opened(path).state_dict(), [])]
        self.counts: list[str] = []
        self.written: set[str] = set()
        self.lives = 0
        self.alike = alike  # every life writes the same, as one that is handed events again

    def live(self) -> None:
        """Resume from any state, write, and save now and then."""
        state, counts = self.where.choice(self.saved)
        self.counts = list(counts)
        file = opened(self.path, state)
        assert text_of(self.path) == "".join(self.counts)
        self.lives += 1
        for number in range(self.where.randrange(1, 8)):
            size = self.where.randrange(self.where.choice((3, 30, 2 * TAIL)))
            record = f"{len(self.counts)}\n" if self.alike else f"{self.lives}.{number:03d} {'x' * size}\n"
            state = write(file, record)
            self.counts.append(record)
            self.written.add(record)
            if self.where.random() < 0.4:
                self.saved.append((state, list(self.counts)))
        if self.where.random() < 0.2:  # killed amid a write
            with self.path.open("a") as torn:
                torn.write(f"{self.lives}.torn")


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_after_any_history_of_saves_and_resumes_a_file_is_the_past_that_counts(
    tmp_path: Path, seed: int, number: int, alike: bool
) -> None:
    told = Told(tmp_path / "m.txt", seed, alike=alike)
    for _ in range(30):
        told.live()
        assert told.path.read_text().startswith("".join(told.counts))
    kept = everything(tmp_path)
    assert all(record in kept for record in told.written)


@pytest.mark.parametrize("number", range(4))
def test_where_kept_files_are_gone_or_changed_what_is_left_is_the_beginning_of_what_counts(
    tmp_path: Path, seed: int, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path / "m.txt", seed)
    for _ in range(12):
        told.live()
    for aside in sorted(tmp_path.glob("m.txt.rewound-*")):
        match told.where.randrange(4):
            case 0:
                aside.unlink()
            case 1:
                aside.write_text(aside.read_text().replace("x", "y", 1) + "more\n")
            case 2:
                aside.write_bytes(aside.read_bytes()[: aside.stat().st_size // 2])
            case _:
                pass
    short = 0
    for state, counts in told.saved:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            opened(told.path, state)
        found, wanted = told.path.read_text(), "".join(counts)
        assert wanted.startswith(found)
        assert found[-1:] in ("", "\n")
        missing = f"bytes {len(found)} to {len(wanted)} of what was saved are missing"
        assert (missing in caplog.text) == (found != wanted)
        short += found != wanted
    assert short  # the test has come to it


def test_a_kept_file_that_is_gone_is_named_and_what_is_missing_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.txt"
    _, late, _ = abandon(path)
    path.with_name("m.txt.rewound-1").unlink()
    write(opened(path, late), "c6\n")
    assert path.read_text() == "a1\na2\nc6\n"
    assert "m.txt.rewound-1, which has what was cut off it, is gone; bytes 6 to 15 of what was saved" in caplog.text
    assert path.with_name("m.txt.rewound-2").read_text().startswith("b3\n")


def test_a_number_is_never_given_to_another_cut(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    early, _, _ = abandon(path)
    opened(path, early)
    for aside in tmp_path.glob("m.txt.rewound-*"):
        aside.unlink()
    write(opened(path, early), "c3\n")
    opened(path, early)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.txt", "m.txt.rewound", "m.txt.rewound-3"]


def test_a_file_that_somebody_changed_is_cut_after_a_whole_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.txt"
    state = write(opened(path), "first\n", "second\n", "third\n")
    path.write_text("first, and more\nsecond\nthird\n")
    write(opened(path, state), "fourth\n")
    assert path.read_text() == "first, and more\nfourth\n"
    assert path.with_name("m.txt.rewound-1").read_text() == "second\nthird\n"
    assert "what stands before its byte 19 is not what stood there then; bytes 16 to 19" in caplog.text


def test_the_list_of_cuts_may_be_damaged_and_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    early, late, _ = abandon(path)
    listed = path.with_name("m.txt.rewound")
    listed.write_bytes(b'\xff\n[]\n{"number":true}\n{"number":null,"offset":3}\n' + listed.read_bytes() + b'{"numb')
    opened(path, late)
    assert path.read_text() == "a1\na2\na3\na4\na5\n"
    opened(path, early)
    opened(path, late)
    assert path.read_text() == "a1\na2\na3\na4\na5\n"
    assert [json.loads(line)["number"] for line in listed.read_bytes().splitlines()[-2:]] == [2, 3]


def test_without_the_list_of_cuts_a_left_past_is_not_taken_for_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.txt"
    _, late, _ = abandon(path)
    path.with_name("m.txt.rewound").unlink()
    write(opened(path, late), "c6\n")
    assert path.read_text() == "a1\na2\nb3\nb4\nb5\nc6\n"
    assert "is not what stood there then; it goes on with what it has" in caplog.text
    assert path.with_name("m.txt.rewound-2").read_text() == "b6\nb7\nb8\nb9\n"


@pytest.mark.parametrize(("offset", "left"), [(6, "a1\na2\n"), (5, "a1\n"), (0, "")])
def test_a_state_of_an_earlier_version_is_a_length(tmp_path: Path, offset: int, left: str) -> None:
    path = tmp_path / "m.txt"
    write(opened(path), "a1\n", "a2\n", "a3\n")
    write(opened(path, {"offset": offset}), "b\n")
    assert path.read_text() == left + "b\n"
    assert path.with_name("m.txt.rewound-1").read_text() == "a1\na2\na3\n"[len(left) :]


def test_a_state_of_an_earlier_version_finds_a_past_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    _, late, _ = abandon(path)
    opened(path, {"offset": late["offset"]})
    assert path.read_text() == "a1\na2\na3\na4\na5\n"


def test_what_somebody_else_appends_belongs_to_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m.txt"
    file = opened(path)
    write(file, "a1\n")
    with path.open("a") as other:
        other.write("theirs\n")
    state = write(file, "a2\n")
    write(file, "a3\n")
    opened(path, state)
    assert path.read_text() == "a1\ntheirs\na2\n"
    assert "not what it was" not in caplog.text


def test_a_state_that_is_loaded_and_saved_before_the_file_is_touched_is_the_same(tmp_path: Path) -> None:
    _, late, _ = abandon(tmp_path / "m.txt")
    file = AppendingFile(tmp_path / "m.txt")
    file.load_state_dict(late)
    assert file.state_dict() == late


@pytest.mark.parametrize(("size", "left"), [(60_000, "a1\n" + "b" * 60_000 + "\n"), (10, "a1\n")])
def test_a_full_disk_leaves_the_file_as_it_was_or_shorter(tmp_path: Path, size: int, left: str) -> None:
    path = tmp_path / "m.txt"
    file = opened(path)
    early = write(file, "a1\n")
    late = write(file, "a" * 50_000 + "\n")
    write(opened(path, early), "b" * size + "\n")
    names = sorted(os.listdir(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # the next byte is refused, as by a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            opened(path, late)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == left
    assert sorted(os.listdir(tmp_path)) == names or size == 10  # then what was cut off could be kept
    opened(path, late)
    assert path.read_text() == "a1\n" + "a" * 50_000 + "\n"


@pytest.mark.parametrize("size", [7, 11, 12])
def test_what_a_power_failure_has_left_of_a_file_is_gone_on_with(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.txt"
    file = opened(path)
    early = write(file, "a1\n", "a2\n")
    late = write(file, "a3\n", "a4\n", "a5\n")
    os.truncate(path, size)
    write(opened(path, early), "b3\n")
    write(opened(path, late), "c6\n")
    assert path.read_text() == "a1\na2\na3\na4\na5\n"[: size - size % 3] + "c6\n"
    assert f"bytes {size - size % 3} to 15 of what was saved are missing" in caplog.text


def test_a_state_of_another_copy_of_a_run_is_not_mixed_with_this_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    early = write(opened(here / "m.txt"), "a1\n", "a2\n")
    shutil.copytree(here, there)
    states = [write(opened(folder / "m.txt", early), f"{folder.name} 3\n") for folder in (here, there)]
    write(opened(here / "m.txt", early), "c3\n")
    opened(here / "m.txt", {**states[1], "offset": states[0]["offset"]})
    assert (here / "m.txt").read_text() == "a1\na2\n"
    assert "m.txt.rewound-1 is not of the past that counts; bytes 6 to 13 of what was saved are missing" in caplog.text


def test_what_is_cut_off_begins_with_a_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    file = opened(path)
    alike = "x" * 3_000_000  # more than is compared at once
    early, late = write(file, "a1\n"), write(file, f"{alike} 2\n")
    write(opened(path, early), f"{alike} 3\n")
    opened(path, late)
    assert path.read_text() == f"a1\n{alike} 2\n"
    assert path.with_name("m.txt.rewound-2").read_text() == f"{alike} 3\n"


def test_a_past_that_is_kept_whole_comes_back_without_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    file = opened(path)
    early, late = file.state_dict(), write(file, "a1\n", "a2\n")
    write(opened(path, early), "b1\n")
    opened(path, early)
    path.unlink()
    opened(path, late)
    assert path.read_text() == "a1\na2\n"


def test_a_copy_that_a_kill_broke_off_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    state = write(opened(path), "a1\n")
    path.with_name("m.txt.rewound.part").write_text("a")
    opened(path, state)
    assert os.listdir(tmp_path) == ["m.txt"]


# --- the loggers


def story(where: random.Random, life: int, first: int, keys: list[str]) -> list[Event]:
    """Return events of a life from ``seq`` on; some come late, or are lost."""
    events: list[Event] = []
    for seq in range(first, first + where.randrange(1, 12)):
        step = seq // 2
        event: Event = ScalarUpdated(step=step, key=where.choice(keys), value=life * 1000.0 + seq)
        if where.random() < 0.1:
            event = EventsDropped(step=step, missed=life)
        events.append(event.stamped(seq, START + seq, step))
    return events


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("make", [JsonlLogger, CsvLogger])
def test_after_any_history_the_files_of_a_logger_are_those_of_an_uninterrupted_run(
    tmp_path: Path, make: Callable[[Path], Any], seed: int, number: int
) -> None:
    where = random.Random(seed)
    keys = ["loss", 'odd "key",\nof two lines', "late", "time"]
    run = tmp_path / "run"
    saved: list[tuple[Any, list[Event]]] = [(make(run / "m.csv").state_dict(), [])]
    for life in range(1, 25):
        state, counts = where.choice(saved)
        logger = make(run / "m.csv")
        logger.load_state_dict(state)
        new = story(where, life, len(counts) + 1, keys[: where.randrange(1, 5)])
        states: list[Any] = []
        observe(logger, new, then=lambda logger=logger, states=states: states.append(logger.state_dict()))
        saved.append((states[0], [*counts, *new]))
        whole = tmp_path / f"whole-{life}"
        observe(make(whole / "m.csv"), [*counts, *new])
        assert {file.name for file in run.iterdir() if "rewound" not in file.name} >= set(os.listdir(whole))
        for name in ("m.csv", "m.late.csv"):
            assert text_of(run / name) == text_of(whole / name)
        if where.random() < 0.5:  # and what no state knows of
            observe(logger, story(where, -life, len(counts) + len(new) + 1, keys))


def test_a_run_that_goes_back_to_a_mark_it_had_left_has_files_of_that_past(tmp_path: Path) -> None:
    def attached(hub: MessageHub) -> MessageHub:
        hub.attach(Journal(tmp_path / "journal"))
        hub.attach(JsonlLogger(tmp_path / "m.jsonl"))
        hub.attach(CsvLogger(tmp_path / "m.csv"))
        return hub

    def go(hub: MessageHub, first: int, stop: int, life: int) -> None:
        for hub.step in range(first, stop):
            hub.update_scalar("loss", life * 1000.0 + hub.step)
        hub.settle(timeout=20)

    marks = []
    with attached(MessageHub("marks")) as hub:
        for first, stop in ((0, 50), (50, 80), (80, 100)):
            go(hub, first, stop, 1)
            marks.append(hub.mark())
            hub.save(tmp_path, keep=9)
    with attached(recover(tmp_path, mark=marks[0])) as hub:
        go(hub, 50, 120, 2)
    with attached(recover(tmp_path, mark=marks[1])) as hub:
        go(hub, 80, 130, 3)
    wanted = [1000.0 + step for step in range(80)] + [3000.0 + step for step in range(80, 130)]
    assert recover(tmp_path).get_scalar("loss").data[0].tolist() == wanted
    events = read_jsonl(tmp_path / "m.jsonl")
    assert [event.value for event in events if isinstance(event, ScalarUpdated)] == wanted
    with (tmp_path / "m.csv").open(newline="") as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == wanted
