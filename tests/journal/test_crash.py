"""Killed at any moment: what was acknowledged is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from asynchub import recover
from asynchub.journal.reading import read_journal
from tests.journal.force import ROOT, run, stored

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork")
pytestmark = posix

LOOP = """
import mmap, os, random, signal, struct, sys, threading, time
from pathlib import Path
from asynchub import Journal, MessageHub, recover
from asynchub.journal.reading import read_journal

run, rounds, threads, tail, seed = Path(sys.argv[1]), *map(int, sys.argv[2:6])
draw = random.Random(seed)
shared = mmap.mmap(-1, 8 * threads)  # how many events of each thread were acknowledged

def publish(hub, number):
    update, pack = hub.update_scalar, struct.pack_into
    key = f"thread {number}"
    n = len(hub.get_scalar(key).data[0]) if key in hub.log_scalars else 0
    while True:
        n += 1
        update(key, float(n))
        if n % 500 == 0:
            hub.update_info(key, "x" * (n // 500 % 12000))
            hub.update_scalars({key + "/a": n, key + "/b": 0.5})
        pack("<Q", shared, 8 * number, n)

total = 0
for round in range(rounds):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        begun = (run / "journal").exists() and read_journal(run / "journal").last_seq
        hub = recover(run) if begun else MessageHub("hub")
        hub.attach(Journal(run / "journal", tail=tail, interval=0.02, segment_size=4_000_000))
        for number in range(1, threads):
            threading.Thread(target=publish, args=(hub, number), daemon=True).start()
        os.write(writer, b"x")
        publish(hub, 0)
    os.close(writer)
    assert os.read(reader, 1) == b"x", "the child has died"
    os.close(reader)
    time.sleep(draw.uniform(0, 0.15))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    acknowledged = struct.unpack(f"<{threads}Q", shared[:])
    hub = recover(run)
    seqs = hub.statistics().seq
    for number, n in enumerate(acknowledged):
        if n:
            values = hub.get_scalar(f"thread {number}").data[0]
            assert len(values) >= n, f"round {round}: {n - len(values)} acknowledged events of thread {number} are lost"
            assert (values[:n] == range(1, n + 1)).all()
    total = sum(acknowledged)
    if seqs > 800_000:  # begin anew: to read takes longer than to write
        import shutil
        shutil.rmtree(run)
        shared[:] = bytes(len(shared))
print(total)
"""


@pytest.mark.parametrize(
    ("rounds", "threads", "tail"),
    [
        pytest.param(5, 1, 2**24, id="a thread"),
        pytest.param(5, 1, 8192, id="a tiny tail"),
        pytest.param(4, 3, 32768, id="three threads"),
        pytest.param(200, 2, 2**20, id="200 rounds", marks=pytest.mark.slow),
        pytest.param(100, 1, 8192, id="100 rounds with a tiny tail", marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_loses_nothing_that_a_publish_has_acknowledged(
    tmp_path: Path, seed: int, rounds: int, threads: int, tail: int
) -> None:
    run(LOOP, tmp_path / "run", rounds, threads, tail, seed, timeout=580)


FORKED = """
import os, signal, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from pathlib import Path
from asynchub import Journal, MessageHub, recover
run = Path(sys.argv[1])
reader, writer = os.pipe()
done, finish = os.pipe()
parent = os.fork()
if not parent:
    hub = MessageHub("hub")
    journal = Journal(run / "journal")
    hub.attach(journal)
    hub.update_scalar("a", 1.0)
    child = os.fork()
    if not child:  # a worker of a data loader that outlives everybody
        os.close(finish)
        for n in range(3000):
            hub.update_scalar("a", -1.0)
            hub.update_info("b", "x" * 100)
        try:
            hub.attach(Journal(run / "journal"))
        except Exception as error:
            os.write(writer, type(error).__name__.encode() + b" ")
        hub.update_scalar("a", -1.0)
        os.write(writer, b"child ")
        os.read(done, 1)  # until the test ends
        os._exit(0)
    for n in range(2, 1001):
        hub.update_scalar("a", float(n))
    os.write(writer, b"parent ")
    signal.pause()
said = b""
while said.count(b"child ") + said.count(b"parent ") < 2:
    said += os.read(reader, 100)
os.kill(parent, signal.SIGKILL)
os.waitpid(parent, 0)
hub = recover(run)
assert hub.get_scalar("a").data[0].tolist() == [float(n) for n in range(1, 1001)], hub.get_scalar("a").data[0]
hub.attach(journal := Journal(run / "journal"))  # the child lives, and does not hold the lock
hub.update_scalar("a", 1001.0)
hub.detach(journal)
assert len(recover(run).get_scalar("a").data[0]) == 1001
print(said.decode())
"""


def test_a_forked_child_neither_writes_nor_keeps_the_lock(tmp_path: Path) -> None:
    assert "JournalError" in run(FORKED, tmp_path).stdout


def test_a_program_that_ends_without_leaving_has_written_everything(tmp_path: Path) -> None:
    code = """
import sys
from asynchub import Journal, MessageHub
hub = MessageHub("hub")
hub.attach(Journal(sys.argv[1] + "/journal", level=sys.argv[2], interval=1000))
for n in range(1000):
    hub.update_scalar("a", float(n))
hub.update_info("last", 1)
if sys.argv[3] == "inside":
    hub.__enter__()
elif sys.argv[3] == "raise":
    raise RuntimeError("boom")
elif sys.argv[3] == "garbage":
    del hub
"""
    for level in ("memory", "process", "disk"):
        for how in ("plain", "inside", "raise", "garbage"):
            folder = tmp_path / f"{level} {how}"
            folder.mkdir()
            if level == "disk":
                code = code.replace("range(1000)", "range(20)")
            run(code, folder, level, how, check=how != "raise")
            assert recover(folder).get_info("last") == 1
            assert len(recover(folder).get_scalar("a").data[0]) == (20 if level == "disk" else 1000)
            assert read_journal(folder / "journal").segments[-1].closed


def test_without_assert_statements_it_does_the_same(tmp_path: Path) -> None:
    code = """
import shutil, sys
from pathlib import Path
from asynchub import Journal, MessageHub, recover
run = Path(sys.argv[1])
hub = MessageHub("hub")
hub.attach(journal := Journal(run / "journal", tail=8192))
for n in range(2000):
    hub.update_scalars({"a": n, "b": 0.5})
    hub.update_info("n", n)
shutil.copytree(run, run / "killed")
back = recover(run / "killed")
print(len(back.get_scalar("a").data[0]), back.get_info("n"), __debug__)
hub.detach(journal)
print(len(recover(run).get_scalar("b").data[0]))
"""
    for flags in ((), ("-O",)):
        folder = tmp_path / str(len(flags))
        folder.mkdir()
        command = [sys.executable, *flags, "-c", code, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
        assert done.stdout.split() == ["2000", "1999", str(not flags), "2000"]


# --- a kill, or an error of the disk, at every system call

STEPS = """
import os, sys
from pathlib import Path
import logging
logging.disable(logging.CRITICAL)
from asynchub import Journal, MessageHub, recover
from asynchub.errors import StateError
from asynchub.journal.reading import read_journal
run = Path(sys.argv[1])
known = run.exists() and read_journal(run / "journal").last_seq
hub = recover(run) if known else MessageHub("hub")
n = len(hub.get_scalar("a").data[0]) if known else 0
journal = Journal(run / "journal", interval=1000, tail=8192, segment_size=300, compact=True)
os.access("begin", 0)
try:
    hub.attach(journal)
except (OSError, StateError) as error:
    print("refused", error)
    sys.exit()
def publish():
    global n
    n += 1
    hub.update_scalar("a", float(n))
    os.access(f"published {n}", 0)
def commit():
    try:
        hub.commit(20)
        os.access(f"committed {n}", 0)
    except StateError as error:
        pass
for _ in range(3):
    for _ in range(3):
        publish()
    commit()
hub.update_info("large", "x" * 9000)  # past the tail
publish()
(run / "state").write_bytes(b"")
journal.snapshot_saved(run / "state", 6, 0)  # a mark, and nothing to compact
commit()
try:
    hub.detach(journal)
    os.access(f"committed {n}", 0)
finally:
    os.access("end", 0)
"""
CALLS = "write,fdatasync,fsync,openat,rename,unlink,ftruncate,fallocate,mmap,flock,close"
strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: apt-get install strace")


def traced(folder: Path, paths: Iterable[str] = (), inject: str | None = None) -> tuple[list[str], int]:
    """Run the steps under strace; return the lines of it, and how the program ended.

    Args:
        folder: of the run.
        paths: only calls on these files of the journal count.
        inject: what to do to which call.
    """
    log = folder.parent / f"{folder.name}.strace"
    options = ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", f"trace={CALLS},access", "-P", "begin"]
    for n in range(30):
        options += ["-P", f"published {n}", "-P", f"committed {n}"]
    for path in (".", "LOCK", "tail.mm", *paths):
        options += ["-P", str(folder / "journal" / path)]
    if inject:
        options += ["-e", f"inject={inject}"]
    command = [*options, sys.executable, "-c", STEPS, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    return log.read_text(errors="replace").splitlines(), done.returncode


def acknowledged(lines: list[str], word: str) -> int:
    return max([0, *(int(found[1]) for line in lines if (found := re.search(rf'"{word} (\d+)"', line)))])


@strace
@pytest.mark.parametrize("every", [24, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["signal=KILL", "error=EIO", "error=ENOSPC"])
def test_a_kill_or_an_error_at_a_system_call_loses_nothing(tmp_path: Path, what: str, every: int) -> None:
    (tmp_path / "plain").mkdir()
    plain = tmp_path / "plain" / "run"
    lines, code = traced(plain)
    assert code == 0
    segments = sorted(path.name for path in (plain / "journal").glob("*.ahj"))
    assert len(segments) > 3
    shutil.rmtree(plain)
    lines, code = traced(plain, segments)
    counts: Counter[tuple[str, str]] = Counter()  # strace counts the calls of each thread by themselves
    for line in lines:
        if found := re.match(r"(\d+) +(\w+)\(", line):
            counts[found[1], found[2]] += 1
    most = {call: max(n for (_, of), n in counts.items() if of == call) for call in {call for _, call in counts}}
    places = [(call, n) for call in sorted(most) if call != "access" for n in range(1, most[call] + 1)]
    assert len(places) > 40
    hits = 0
    for call, number in places[::every]:
        folder = tmp_path / f"{call} {number}"
        folder.mkdir()
        lines, code = traced(folder / "run", segments, f"{call}:{what}:when={number}")
        hits += any("INJECTED" in line or "killed by SIGKILL" in line for line in lines)
        check_left(folder / "run", lines, killed=what == "signal=KILL")
    assert hits > len(places[::every]) // 2


def check_left(folder: Path, lines: list[str], killed: bool) -> None:
    """Check what is in a folder, and that a program can go on in it."""
    sure = acknowledged(lines, "published" if killed else "committed")
    found = read_journal(folder / "journal").last_seq if (folder / "journal").is_dir() else 0
    assert found or not sure
    if found:
        values = recover(folder).get_scalar("a").data[0].tolist()
        assert len(values) >= sure
        assert values == [float(n) for n in range(1, len(values) + 1)]
    again, code = traced(folder)
    assert code == 0
    assert acknowledged(again, "committed") >= sure + 10


def test_events_are_read_by_whoever_comes_later(tmp_path: Path) -> None:
    """What the other tests stand on: the number of events in the files is what the loop counts."""
    run(LOOP, tmp_path / "run", 1, 1, 8192, 1)
    events: list[Any] = stored(tmp_path / "run" / "journal")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
