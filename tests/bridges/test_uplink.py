"""A child waits for no parent that is slow, frozen, left or gone."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

import asynchub
from asynchub.bridges.children import Children
from asynchub.bridges.linking import connect
from asynchub.bridges.uplink import Address
from asynchub.errors import WaitTimeoutError
from asynchub.hub import MessageHub
from tests.bridges.child_work import (
    publish,
)
from tests.bridges.families import FORKING, ROOT, TIMEOUT, forked, in_child, values
from tests.waiting import until

pytestmark = FORKING


@pytest.fixture
def hub() -> MessageHub:
    return MessageHub.get_instance("run")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="asynchub-test-", dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def deaf_parent(short_path: Path) -> Iterator[tuple[MessageHub, socket.socket]]:
    """Yield a hub of a parent that takes connections and reads nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path = str(short_path / "hub")
        listener.bind(path)
        listener.listen()
        yield MessageHub.get_instance("deaf"), listener


def test_nothing_waits_for_a_parent_that_does_not_read(
    short_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynchub.bridges.uplink.MAX_LAG", 4096)
    with deaf_parent(short_path) as (hub, listener):
        uplink = connect(str(Address(listener.getsockname(), "deaf")))
        for number in range(8):  # which the socket does not hold
            hub.update_info("large", bytes(100_000 + number))
        with pytest.raises(WaitTimeoutError, match="did not take all"):
            uplink.flush(0.2)
        for number in range(1000):
            hub.update_scalars({f"key/{index}": number / 3 for index in range(16)})
        with pytest.raises(WaitTimeoutError, match="did not take all"):
            uplink.flush(0.1)
        begun = time.monotonic()
        assert not uplink.close(0.3)
        assert time.monotonic() - begun < 10
    assert uplink._outgoing.statistics().dropped >= 4096
    assert "does not read" in caplog.text


SCRIPT = """
import logging, os, signal, sys, time
logging.basicConfig(format="%(message)s", stream=sys.stdout)
import multiprocessing
from asynchub import MessageHub
from asynchub.bridges.children import Children
hub = MessageHub.get_instance("run")
def work(fate):
    hub.update_scalar("work/value", 1.0)
    children.flush()
    os.kill(os.getppid(), fate)
    print("parent", fate.name, flush=True)
    for number in range(30_000):
        hub.update_scalar("work/value", number / 3)
    print("published", flush=True)
with hub, Children(hub) as children:
    child = multiprocessing.get_context("fork").Process(target=work, args=(signal.Signals[sys.argv[1]],))
    child.start()
    print(child.pid, flush=True)
    child.join()
"""


@pytest.mark.parametrize(("fate", "said"), [("SIGKILL", "takes nothing any more"), ("SIGSTOP", "does not read")])
def test_a_child_ends_whose_parent_is_killed_or_frozen(fate: str, said: str, short_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, fate],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(short_path)},  # a killed parent leaves its folder behind
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as parent:
        child = 0
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            lines = [parent.stdout.readline()]
            begun = time.monotonic()
            until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
            took = time.monotonic() - begun
        finally:
            parent.kill()
            for pid in (child,) if child else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        lines += parent.stdout.read().splitlines()
    assert lines[0].strip() == f"parent {fate}"
    assert "published" in lines
    assert len([line for line in lines if said in line]) == 1
    assert took < 15  # two seconds, and what publishing takes


def test_the_hub_may_be_left_before_a_child_ends(hub: MessageHub) -> None:
    release = multiprocessing.get_context("fork").Event()

    def work() -> None:
        publish("work/value", 5)
        assert release.wait(TIMEOUT)
        publish("work/later", 5)
        children.flush()

    with Children(hub) as children:
        with hub, forked(work):
            until(lambda: len(values(hub, "work/value")) == 5)
            hub.close()
            release.set()
        children.flush()
    assert values(hub, "work/later") == [number / 3 for number in range(5)]


def test_a_child_may_live_longer_than_the_context(hub: MessageHub, capfd: pytest.CaptureFixture[str]) -> None:
    release = multiprocessing.get_context("fork").Event()

    def work() -> None:
        logging.basicConfig(force=True)
        publish("work/value", 5)
        children.flush()
        assert release.wait(TIMEOUT)
        for _ in range(20):
            publish("work/later", 5)
            with suppress(asynchub.AsyncHubError):
                children.flush()
        assert len(values(hub, "work/later")) == 100

    with hub, Children(hub) as children:
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        until(lambda: len(values(hub, "work/value")) == 5)
    release.set()
    process.join(TIMEOUT)
    assert process.exitcode == 0
    assert capfd.readouterr().err.count("takes nothing any more") == 1
    assert "work/later" not in hub.log_scalars


def test_a_child_may_begin_after_the_context(hub: MessageHub, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        logging.basicConfig(force=True)
        publish("work/value", 5)

    with hub, Children(hub) as children:
        linked = children.link(work)
    in_child(linked)
    assert not hub.log_scalars
    assert capfd.readouterr().err.count("takes nothing any more") == 1


def test_leaving_takes_what_was_sent_by_then(hub: MessageHub) -> None:
    with Children(hub):
        children = [multiprocessing.get_context("fork").Process(target=publish, args=("a", 3000)) for _ in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join(TIMEOUT)
    assert len(values(hub, "a")) == 12_000
