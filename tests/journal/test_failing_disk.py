"""A disk that refuses: the run goes on, nothing is acknowledged that is not there, and what was held is not lost."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asynchub import Journal, JournalDegraded, JournalRestored, MessageHub, recover
from asynchub.errors import ArgumentError, JournalError
from asynchub.events import InfoUpdated
from asynchub.journal.reading import read_journal
from tests.codec_trees import difference
from tests.journal.force import Listening, flush, state, stored

root = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount")


class Disk:
    """Calls of the system that fail on demand.

    Attributes:
        refuses: names of the calls of ``os`` that fail now.
        calls: how many have failed.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.refuses: set[str] = set()
        self.calls = 0
        for name in ("write", "fsync", "fdatasync", "open", "posix_fallocate", "unlink"):
            if hasattr(os, name):
                patch.setattr(os, name, self._failing(name, getattr(os, name)))

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if name in self.refuses:
                self.calls += 1
                raise OSError(errno.ENOSPC if name == "write" else errno.EIO, "the disk refuses")
            return real(*arguments, **more)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def hub() -> MessageHub:
    return MessageHub("hub", latency=0)


def attached(hub: MessageHub, folder: Path, **options: Any) -> Journal:
    journal = Journal(folder, **{"interval": 1000, "tail": 32768, **options})
    hub.attach(journal)
    return journal


@pytest.mark.parametrize("level", ["memory", "process", "disk"])
@pytest.mark.parametrize("call", ["write", "fdatasync", "open"])
def test_what_the_disk_refuses_is_held_and_written_when_it_takes_it_again(
    tmp_path: Path, disk: Disk, hub: MessageHub, call: str, level: Any
) -> None:
    journal = attached(hub, tmp_path / "journal", level=level, segment_size=1)
    listening = Listening(hub)
    hub.update_scalar("a", 1.0)
    hub.commit(10)
    disk.refuses = {call}
    for n in range(5):
        hub.update_scalars({"a": n, "b": 0.5})
        hub.update_info("n", n)
        with pytest.raises(JournalError, match="the disk refuses"):
            hub.commit(10)
    assert sum(isinstance(event, JournalDegraded) for event in listening.events()) == 1
    assert hub.statistics().subscriptions[0].lag > 0
    disk.refuses = set()
    hub.update_scalar("a", 2.0)
    hub.commit(10)
    flush(journal)
    shutil.copytree(tmp_path / "journal", tmp_path / "copy")
    hub.detach(journal)
    assert difference(state(recover(tmp_path / "copy")), state(hub)) == ""
    assert difference(state(recover(tmp_path)), state(hub)) == ""
    (restored,) = [event for event in stored(tmp_path / "journal") if isinstance(event, JournalRestored)]
    assert restored.missed == 0


def test_a_flush_that_failed_once_is_never_acknowledged_and_the_file_never_flushed_again(
    tmp_path: Path, hub: MessageHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = attached(hub, tmp_path / "journal")
    hub.update_scalar("a", 0.0)
    hub.commit(10)
    real = os.fdatasync
    flushed: list[str] = []

    def fdatasync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if len(flushed) == 1:
            raise OSError(errno.EIO, "once")
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    hub.update_scalar("a", 1.0)
    with pytest.raises(JournalError, match="once"):
        hub.commit(10)
    hub.update_scalar("a", 2.0)
    hub.commit(10)
    assert flushed[0] not in flushed[1:]
    newest = read_journal(tmp_path / "journal").segments[-1]
    assert newest.path.name in flushed[-1]
    assert newest.head is not None
    assert (newest.head.first_seq, newest.frames[0].durable_seq) == (2, 1)
    first = [frame.first_seq for frame in newest.frames if frame.kind == 1]
    assert first[0] == 2, "the new segment has all that was not acknowledged"
    hub.detach(journal)


@pytest.mark.parametrize("call", ["write", "fdatasync", "open"])
def test_a_disk_that_refuses_for_long_is_not_filled_with_attempts(
    tmp_path: Path, disk: Disk, hub: MessageHub, call: str
) -> None:
    journal = attached(hub, tmp_path / "journal")
    hub.update_scalar("a", 0.0)
    hub.commit(10)
    disk.refuses = {call}
    for _ in range(20):
        hub.update_scalar("a", 1.0)
        flush(journal)
    assert len(list((tmp_path / "journal").glob("*.ahj"))) <= 2
    disk.refuses = set()
    hub.detach(journal)
    assert len(recover(tmp_path).get_scalar("a").data[0]) == 21


def test_what_is_too_much_to_hold_is_lost_counted_and_said(tmp_path: Path, disk: Disk, hub: MessageHub) -> None:
    journal = attached(hub, tmp_path / "journal", backlog=100)
    for _ in range(3):  # much, while the disk is well: that is no backlog
        hub.update_scalars({f"key {n}": 1.0 for n in range(200)})
        flush(journal)
    disk.refuses = {"fdatasync"}
    hub.update_scalar("a", 0.0)
    flush(journal)
    hub.update_scalars({f"key {n}": 2.0 for n in range(200)})
    flush(journal)
    hub.update_scalar("a", 1.0)
    flush(journal)
    disk.refuses = set()
    failed = journal.commit()
    assert failed.latch.wait(10)
    assert "201 events" in str(failed.error)  # the ``JournalDegraded`` among them
    hub.update_scalar("a", 2.0)
    shutil.copytree(tmp_path / "journal", tmp_path / "killed")  # what is in the tail follows the gap
    hub.commit(10)
    assert next(one for one in hub.statistics().subscriptions if one.name == "journal").dropped == 201
    hub.detach(journal)
    for folder in (tmp_path / "journal", tmp_path / "killed"):
        assert recover(folder).get_scalar("a").data[0].tolist() == [0.0, 1.0, 2.0]
        assert len(recover(folder).get_scalar("key 7").data[0]) == 3
        assert [event.missed for event in stored(folder) if isinstance(event, JournalRestored)] == [201]


def test_a_hub_that_is_left_while_the_disk_refuses_says_what_is_lost_and_the_folder_is_free(
    tmp_path: Path, disk: Disk, hub: MessageHub, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "journal", interval=1000)
    hub.attach(journal, on_error="raise")
    hub.__enter__()
    hub.update_scalar("a", 1.0)
    hub.commit(10)
    disk.refuses = {"write", "fsync", "fdatasync"}
    hub.update_scalar("a", 2.0)
    with pytest.raises(ExceptionGroup) as caught:
        hub.__exit__(None, None, None)
    assert caught.group_contains(JournalError, match="the disk refused the last 2 events")  # one says so
    disk.refuses = set()
    with hub:  # what the histories have comes into the journal once more
        hub.update_scalar("a", 3.0)
    assert recover(tmp_path).get_scalar("a").data[0].tolist() == [1.0, 2.0, 3.0]


def test_a_hub_that_is_left_when_the_disk_takes_everything_again_has_lost_nothing(
    tmp_path: Path, disk: Disk, hub: MessageHub
) -> None:
    journal = Journal(tmp_path / "journal", interval=1000)
    hub.attach(journal, on_error="raise")
    with hub:
        hub.update_scalar("a", 1.0)
        disk.refuses = {"write"}
        flush(journal)
        disk.refuses = set()
    assert recover(tmp_path).get_scalar("a").data[0].tolist() == [1.0]


def test_who_waits_for_the_disk_in_another_thread_is_told_when_the_hub_is_left(tmp_path: Path, hub: MessageHub) -> None:
    journal = attached(hub, tmp_path / "journal")
    commits = []
    for _ in range(50):
        hub.update_scalar("a", 1.0)
        commits.append(journal.commit())
    hub.detach(journal)
    assert all(commit.latch.wait(10) and commit.error is None for commit in commits)
    late = journal.commit()
    assert late.latch.wait(0)
    assert "was ended" in str(late.error)


def test_an_event_larger_than_the_tail_that_the_disk_refuses_is_said_and_held(
    tmp_path: Path, disk: Disk, hub: MessageHub, caplog: pytest.LogCaptureFixture
) -> None:
    journal = attached(hub, tmp_path / "journal")
    listening = Listening(hub)
    hub.update_scalar("a", 1.0)
    disk.refuses = {"write"}
    with caplog.at_level(logging.ERROR, "asynchub"):
        hub.update_info("large", "x" * 100_000)
        flush(journal)
    assert "held in memory" in caplog.text
    assert any(isinstance(event, JournalDegraded) for event in listening.events())
    disk.refuses = set()
    flush(journal)
    hub.detach(journal)
    assert len(recover(tmp_path).get_info("large")) == 100_000


def test_a_slow_flush_that_ends_after_its_segment_was_given_up_acknowledges_nothing(
    tmp_path: Path, disk: Disk, hub: MessageHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = attached(hub, tmp_path / "journal")
    hub.update_scalar("a", 0.0)
    hub.commit(10)
    in_flush, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        in_flush.set()
        assert go_on.wait(10)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    hub.update_scalar("a", 1.0)
    commit = journal.commit()
    assert in_flush.wait(10)
    disk.refuses = {"write"}
    hub.update_info("large", "x" * 100_000)  # is written by the publisher, while the thread is in the flush
    go_on.set()
    assert commit.latch.wait(10)
    assert commit.error is not None
    disk.refuses = set()
    hub.commit(10)
    hub.detach(journal)
    assert recover(tmp_path).get_scalar("a").data[0].tolist() == [0.0, 1.0]


def test_a_reader_that_blocks_does_not_end_the_thread_of_a_journal(
    tmp_path: Path, disk: Disk, hub: MessageHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asynchub.bus.BLOCK_TIMEOUT", 0.05)
    journal = attached(hub, tmp_path / "journal")
    with hub.subscribe(max_lag=1, overflow="block"):
        hub.update_scalar("a", 1.0)
        disk.refuses = {"write"}
        flush(journal)
        disk.refuses = set()
        flush(journal)
        flush(journal)
    assert "could not be published" in caplog.text
    hub.update_scalar("a", 2.0)
    hub.commit(10)
    hub.detach(journal)
    assert recover(tmp_path).get_scalar("a").data[0].tolist() == [1.0, 2.0]


# --- folders that cannot be written


def test_a_path_that_is_no_folder_is_refused_and_nothing_is_changed(tmp_path: Path, hub: MessageHub) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for path in (tmp_path / "file", tmp_path / "file" / "journal"):
        with pytest.raises((FileExistsError, NotADirectoryError), match="file"):
            hub.attach(Journal(path))
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["file"]
    hub.attach(journal := Journal(tmp_path / "journal"))
    hub.detach(journal)


@pytest.mark.parametrize("call", ["open", "posix_fallocate", "write"])
def test_a_journal_that_cannot_begin_leaves_the_hub_as_it_was(
    tmp_path: Path, disk: Disk, hub: MessageHub, call: str
) -> None:
    hub.update_scalar("a", 1.0)
    disk.refuses = {call}
    with pytest.raises(OSError, match="the disk refuses"):
        hub.attach(Journal(tmp_path / "journal"))
    disk.refuses = set()
    assert hub.statistics().subscriptions == ()
    hub.update_scalar("a", 2.0)
    assert hub.statistics().seq == 2
    journal = attached(hub, tmp_path / "journal")
    hub.detach(journal)
    assert recover(tmp_path).get_scalar("a").data[0].tolist() == [1.0, 2.0]


def test_a_journal_that_cannot_begin_to_rewind_leaves_the_hub_as_it_was(
    tmp_path: Path, disk: Disk, hub: MessageHub
) -> None:
    journal = attached(hub, tmp_path / "journal")
    hub.update_scalar("a", 1.0)
    mark = hub.mark()
    hub.update_scalar("a", 2.0)
    hub.detach(journal)
    back = recover(tmp_path, mark=mark)
    seq = back.statistics().seq
    for call in ("posix_fallocate", "write"):
        disk.refuses = {call}
        with pytest.raises(OSError, match="the disk refuses"):
            attached(back, tmp_path / "journal")
        disk.refuses = set()
        assert back.statistics().seq == seq
    back.detach(attached(back, tmp_path / "journal"))
    assert recover(tmp_path).get_scalar("a").data[0].tolist() == [1.0]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
@pytest.mark.parametrize("mask", [0o000, 0o027, 0o077])
def test_the_mode_of_every_file_follows_the_umask(tmp_path: Path, hub: MessageHub, mask: int) -> None:
    before = os.umask(mask)
    try:
        journal = attached(hub, tmp_path / "journal")
        hub.update_scalar("a", 1.0)
        hub.commit(10)
    finally:
        os.umask(before)
    assert {path.name[-3:] for path in (tmp_path / "journal").iterdir()} == {"OCK", "ahj", ".mm"}
    for path in (tmp_path / "journal").iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    hub.detach(journal)


@pytest.mark.parametrize(
    "options",
    [{"level": "never"}, {"interval": 0}, {"interval": "1"}, {"segment_size": 0}, {"backlog": 0.5}, {"tail": 9000}],
    ids=str,
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        Journal(tmp_path / "journal", **options)
    assert os.listdir(tmp_path) == []


# --- a real small disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@root
def test_on_a_full_disk_publishing_goes_on_and_nothing_is_lost_once_there_is_room(
    small_disk: Path, tmp_path: Path, hub: MessageHub
) -> None:
    journal = attached(hub, small_disk / "journal", tail=32768)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(700_000))
    listening = Listening(hub)
    n = 0
    while not any(isinstance(event, JournalDegraded) for event in listening.events()):
        if n < 100:  # more than there is room for, and less than there will be
            n += 1
            hub.update_scalar("a", n / 7)
            hub.update_info("n", "x" * 5000 + str(n))
        if n % 20 == 0:
            flush(journal)
    infos = n
    for _ in range(200):  # nobody dies of SIGBUS
        n += 1
        hub.update_scalar("a", n / 7)
    with pytest.raises(JournalError, match="No space left"):
        hub.commit(10)
    ballast.unlink()
    hub.commit(10)
    hub.detach(journal)
    back = recover(small_disk)
    assert back.get_scalar("a").data[0].tolist() == [i / 7 for i in range(1, n + 1)]
    assert [event.missed for event in stored(small_disk / "journal") if isinstance(event, JournalRestored)] == [0]
    assert sum(isinstance(event, InfoUpdated) for event in stored(small_disk / "journal")) == infos


@root
def test_a_journal_on_a_full_disk_cannot_begin_and_leaves_no_file_that_takes_room(
    small_disk: Path, hub: MessageHub
) -> None:
    with pytest.raises(OSError, match="No space left"):
        hub.attach(Journal(small_disk / "journal"))  # its tail takes 16 MB
    assert [path.name for path in (small_disk / "journal").iterdir()] == ["LOCK"]
    hub.update_scalar("a", 1.0)


@root
def test_a_file_system_that_is_read_only_is_said(small_disk: Path, hub: MessageHub) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        hub.attach(Journal(small_disk / "journal"))
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert os.listdir(small_disk) == []
