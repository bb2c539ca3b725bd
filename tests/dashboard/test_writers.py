"""Whether the process lives that writes a journal: told from the system's list of locks, none of which is taken."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asynchub.dashboard import writers
from asynchub.dashboard.writers import writer_in
from asynchub.locking import LOCK, FolderLock

HOLD = "import sys; from pathlib import Path; from asynchub.locking import FolderLock\n"
HOLD += "lock = FolderLock(Path(sys.argv[1]), RuntimeError); print(1, flush=True); sys.stdin.read()"


def until(condition: Callable[[], bool]) -> float:
    """Wait for a condition; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + 30
        time.sleep(0.01)
    return time.monotonic() - began


def test_who_takes_a_lock_is_seen_at_once_and_who_lets_go_too(tmp_path: Path) -> None:
    assert writer_in(tmp_path) == writer_in(tmp_path / "nothing") == "none"
    for _ in range(20):
        lock = FolderLock(tmp_path, RuntimeError)
        assert writer_in(tmp_path) == "alive"
        lock.release()
        assert writer_in(tmp_path) == "released"


def test_a_process_that_was_killed_is_gone_within_about_a_second(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        try:
            assert program.stdout is not None
            program.stdout.readline()
            assert writer_in(tmp_path) == "alive"
        finally:
            program.kill()
    assert until(lambda: writer_in(tmp_path) != "alive") < 10  # of a second, on a machine with nothing else to do
    assert writer_in(tmp_path) == "gone"
    lock = FolderLock(tmp_path, RuntimeError)
    assert writer_in(tmp_path) == "alive"
    lock.release()


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of locks in the place of the system's."""
    path = tmp_path / "locks"
    path.write_text("")
    monkeypatch.setattr(writers, "LOCKS", path)
    monkeypatch.setattr(writers, "_LOCKS", writers._Locks())
    return path


def locked(folder: Path, listed: Path) -> None:
    """Say that a folder is locked, in its lock's file and in the list."""
    folder.mkdir()
    (folder / LOCK).write_text(f"process 7 on {socket.gethostname()}\n")
    found = (folder / LOCK).stat()
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with listed.open("a") as file:
        file.write(f"1: FLOCK  ADVISORY  WRITE 7 {place} 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 8 {place} 0 EOF\n")


def test_the_list_is_read_again_after_a_second_and_for_what_is_new(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "SECOND", 1e9)
    locked(tmp_path / "a", listed)
    assert writer_in(tmp_path / "a") == "alive"
    listed.write_text("")
    assert writer_in(tmp_path / "a") == "alive"
    locked(tmp_path / "b", listed)
    assert writer_in(tmp_path / "b") == "alive"  # it was not looked up before
    assert writer_in(tmp_path / "a") == "gone"
    monkeypatch.setattr(writers, "SECOND", 0.0)
    listed.write_text("")
    assert writer_in(tmp_path / "b") == "gone"


def test_who_looks_on_is_never_in_the_way_of_a_run_that_begins(tmp_path: Path) -> None:
    over = threading.Event()
    looks = [0, 0, 0]

    def look(number: int) -> None:
        while not over.is_set():
            writer_in(tmp_path)
            looks[number] += 1

    threads = [threading.Thread(target=look, args=(number,), name="asynchub test looks") for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            FolderLock(tmp_path, AssertionError).release()
        until(lambda: min(looks) > 0)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_something_else_in_the_place_of_the_lock_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    assert writer_in(tmp_path) == "none"
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    assert writer_in(tmp_path) == "none"
