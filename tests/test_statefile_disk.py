"""A save is whole or leaves no trace: flushes, failing calls, full disks, kills, orphans."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asynchub.statefile import read_state, write_state
from tests.codec_trees import ZOO, difference

OLD, NEW = {"n": 1}, {"n": 2, "data": bytes(3_000_000)}

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path in an empty folder."""
    return tmp_path / "state.ahc"


@posix
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_mode_of_the_file_follows_the_umask(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_state(path, 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@posix
def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    link = tmp_path / "latest"
    link.symlink_to(tmp_path / "run" / "state.ahc")
    for number in range(2):  # the file is new, then replaced
        write_state(link, number)
        assert link.is_symlink()
        assert read_state(tmp_path / "run" / "state.ahc") == number


@posix
def test_data_is_flushed_before_the_name_and_the_name_before_the_return(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def recorded(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            calls.append(
                f"{name} {'folder' if name == 'fsync' and stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else 'file'}"
            )
            return real(*arguments)

        return call

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name))
    write_state(path, 1)
    assert calls == ["write file", "write file", "fsync file", "replace file", "fsync folder"]
    calls.clear()
    write_state(path.parent / "a" / "b" / "state.ahc", 1)
    assert calls == ["fsync folder"] * 2 + ["write file", "write file", "fsync file", "replace file", "fsync folder"]
    calls.clear()
    write_state(path, 1, sync=False)
    assert calls == ["write file", "write file", "replace file"]


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: max(1, len(data) // 3)]))
    write_state(path, ZOO)
    assert difference(ZOO, read_state(path)) == ""


def _failing(name: str, at: int, error: BaseException) -> Callable[..., Any]:
    """Return the function of ``os``, failing at its call number ``at``."""
    real = getattr(os, name)
    calls = 0

    def call(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return real(*arguments)

    return call


@pytest.mark.parametrize(("name", "at"), [("write", 1), ("write", 2), ("write", 4), ("fsync", 1), ("replace", 1)])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "bad"), KeyboardInterrupt()], ids=repr
)
def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int, error: BaseException
) -> None:
    write_state(path, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, _failing(name, at, error))
        with pytest.raises(type(error)):
            write_state(path, NEW)
    assert read_state(path) == OLD
    assert _names(path.parent) == ["state.ahc"]
    write_state(path, NEW)
    assert read_state(path) == NEW


@posix
def test_a_folder_that_cannot_be_flushed_is_said_and_the_new_file_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(path, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _failing("fsync", 2, OSError(errno.EIO, "bad")))
        with pytest.raises(OSError, match="bad"):
            write_state(path, NEW)
    assert read_state(path) == NEW
    assert _names(path.parent) == ["state.ahc"]


def _run(code: str, *arguments: object) -> str:
    """Run code in an interpreter of its own and return what it printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


FULL_DISK = """
import os, resource, sys
from asynchub.statefile import read_state, write_state
path = sys.argv[1]
write_state(path, {"n": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for size in (99_900, 100_000, 300_000, 5_000_000):
    try:
        write_state(path, {"n": 2, "data": bytes(size)})
    except OSError as error:
        print(size, error.errno, read_state(path)["n"], os.listdir(os.path.dirname(path)))
    else:
        print(size, "ok", read_state(path)["n"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    write_state(path, {"n": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
"""


@posix
def test_a_file_that_the_system_does_not_let_grow_leaves_the_old_one(path: Path) -> None:
    refused = f"{errno.EFBIG} 1 ['state.ahc']"
    assert _run(FULL_DISK, path).splitlines() == [
        "99900 ok 2",
        f"100000 {refused}",
        f"300000 {refused}",
        f"5000000 {refused}",
    ]


KILLED_AT_EVERY_CALL = """
import os, signal, sys
from asynchub.statefile import read_state, write_state
path = sys.argv[1]
NAMES = ("open", "write", "fsync", "close", "replace", "unlink")

def until(at):
    calls = 0
    def counted(real):
        def call(*arguments, **more):
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)
        return call
    for name in NAMES:
        setattr(os, name, counted(getattr(os, name)))

write_state(path, {"n": 0, "data": bytes(3_000_000)})
found, at = [], 0
while True:
    at += 1
    pid = os.fork()
    if not pid:
        until(at)
        write_state(path, {"n": at, "data": bytes([at]) * 3_000_000})
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    tree = read_state(path)
    assert tree["data"] == bytes([tree["n"]]) * 3_000_000, at
    if status == 0:
        assert tree["n"] == at
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    found.append("new" if tree["n"] == at else "old")
    write_state(path, {"n": 0, "data": bytes(3_000_000)})
print(*found)
"""


@posix
def test_a_save_killed_at_any_of_its_calls_leaves_the_old_file_or_the_new_one(path: Path) -> None:
    found = _run(KILLED_AT_EVERY_CALL, path).split()
    # open, write the head, three pieces, fsync, close, replace; then open the folder, fsync, close
    assert found == ["old"] * 8 + ["new"] * 3


KILLED_AT_RANDOM = """
import os, random, signal, sys, time
import numpy as np
from asynchub.statefile import read_state, write_state
path, kills, generator = sys.argv[1], int(sys.argv[2]), random.Random(int(sys.argv[3]))

number, torn = 0, 0
write_state(path, {"n": 0, "data": np.full(40_000, 0)})
for _ in range(kills):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        for n in range(number + 1, number + 1_000_000):
            write_state(path, {"n": n, "data": np.full(40_000, n)})
            os.write(writer, n.to_bytes(8, "big"))
    os.close(writer)
    acknowledged = os.read(reader, 8)
    time.sleep(generator.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(reader, 8):
        acknowledged = more
    os.close(reader)
    tree = read_state(path)
    assert tree["n"] >= int.from_bytes(acknowledged, "big") > number, "an acknowledged save is gone"
    assert (tree["data"] == tree["n"]).all()
    number = tree["n"]
print(number, sum(name != os.path.basename(path) for name in os.listdir(os.path.dirname(path))))
"""


@posix
def test_a_process_that_is_killed_while_it_saves_leaves_what_it_acknowledged(path: Path, seed: int) -> None:
    saves, orphans = map(int, _run(KILLED_AT_RANDOM, path, 60, seed).split())
    assert saves >= 60
    assert orphans > 0, "no kill fell into a save: the test shows nothing"
    for orphan in path.parent.glob(".*.tmp"):
        os.utime(orphan, (time.time() - 3600,) * 2)
    write_state(path, 1)
    assert _names(path.parent) == ["state.ahc"]


# --- temporary files


def _orphan(folder: Path, name: str, age: float = 3600) -> Path:
    path = folder / name
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_only_orphans_of_the_same_path_are_removed(path: Path) -> None:
    orphan = _orphan(path.parent, ".state.ahc.123-0123456789abcdef.tmp")
    others = [
        ".state.ahc.123-0123456789abcdef.tmp~",
        ".state.ahc.x-0123456789abcdef.tmp",
        ".state.ahcd.123-0123456789abcdef.tmp",
        "state.ahc.123-0123456789abcdef.tmp",
        ".stateXahc.123-0123456789abcdef.tmp",
    ]
    for other in others:
        _orphan(path.parent, other)
    young = _orphan(path.parent, ".state.ahc.124-0123456789abcdef.tmp", age=10)
    write_state(path, 1)
    assert not orphan.exists()
    assert _names(path.parent) == sorted([*others, young.name, "state.ahc"])


@posix
def test_a_temporary_file_that_somebody_still_writes_is_left_alone(path: Path) -> None:
    held = _orphan(path.parent, ".state.ahc.123-0123456789abcdef.tmp")
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "1\n"
        write_state(path, 1)
        assert held.exists()
        writer.communicate("\n")
    write_state(path, 1)
    assert not held.exists()


def test_of_many_threads_that_save_at_once_one_wins_and_nothing_is_left(path: Path) -> None:
    trees = [{"n": number, "data": bytes([number]) * 200_000} for number in range(8)]
    write_state(path, trees[0])
    errors: list[BaseException] = []
    seen: list[Any] = []

    def save(tree: Any) -> None:
        try:
            for _ in range(5):
                write_state(path, tree, sync=False)
                seen.append(read_state(path))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(tree,)) for tree in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(tree in trees for tree in seen)
    assert _names(path.parent) == ["state.ahc"]
