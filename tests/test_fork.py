"""A forked child keeps its copy of the record, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import asynchub

ROOT = Path(asynchub.__file__).parent.parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

HEAD = """
import logging, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
logging.basicConfig(stream=sys.stdout, format="%(process)d %(message)s")
from asynchub import MessageHub
hub = MessageHub.get_instance("hub")
seen = []
class Observer:
    def __init__(self, role):
        self.role = role
    async def __call__(self, events):
        try:
            async for event in events:
                seen.append(event.value)
        finally:
            os.write(1, f"cleaned {self.role} {os.getpid() == parent}".encode() + b"\\n")
parent = os.getpid()
"""


def run(script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_child_records_into_its_own_copy_and_the_parent_is_undisturbed() -> None:
    lines = run("""
hub.attach(Observer("observer"))
hub.attach(Observer("control"))
stop = threading.Event()
count = 0
def publish():
    global count
    while not stop.is_set():
        hub.update_scalar("a", float(count)); count += 1
with hub:
    thread = threading.Thread(target=publish); thread.start()
    for _ in range(10):
        child = os.fork()
        if child == 0:
            before = len(hub.get_scalar("a").data[0]) if "a" in hub.log_scalars else 0
            for number in range(3000):
                hub.update_scalar("a", -1.0)
                hub.update_scalars({"b": 1.0, "c": 2.0})
            hub.update_info("x", 1)
            hub.settle(); hub.flush(1)
            with hub:
                hub.update_scalar("a", -1.0)
            fine = (
                len(hub.get_scalar("a").data[0]) == before + 3001
                and threading.active_count() == 1
                and MessageHub.get_instance("hub") is hub
                and hub.state_dict()["runtime_info"] == {"x": 1}
            )
            sys.stdout.flush()
            os._exit(0 if fine else 1)
        assert os.waitpid(child, 0)[1] == 0
    stop.set(); thread.join()
    hub.flush(10)
assert sorted(seen) == sorted(2 * [float(n) for n in range(count)]), (len(seen), count)
print("parent done")
""")
    said = [line for line in lines if "was forked" in line]
    assert len(said) == 10  # once in each child
    assert len({line.split()[0] for line in said}) == 10
    assert sorted(line for line in lines if "cleaned" in line) == ["cleaned control True", "cleaned observer True"]
    assert lines[-1] == "parent done"


def test_a_child_forked_amid_an_update_is_not_stuck() -> None:
    run("""
def hold():
    with hub._bus.lock, hub._bus.collecting:
        held.set(); release.wait()
held, release = threading.Event(), threading.Event()
events = hub.subscribe()
thread = threading.Thread(target=hold); thread.start(); held.wait()
child = os.fork()
if child == 0:
    hub.update_scalar("a", 1.0)
    with hub.subscribe(replay="all") as mine:
        os._exit(0 if hub.get_scalar("a").current() == 1.0 and len(hub.statistics().subscriptions) == 1 else 1)
deadline = time.monotonic() + 20
while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
    time.sleep(0.01)
release.set()
assert done == (child, 0), done
""")


def test_a_hub_of_a_child_can_be_used_as_any_other() -> None:
    run("""
hub.attach(Observer("observer"))
with hub:
    hub.update_scalar("a", 1.0)
    hub.flush(5)
    child = os.fork()
    if child == 0:
        late = []
        hub.on("a", replay="all")(lambda event: late.append(event.value))
        with hub:
            hub.update_scalar("a", 2.0)
            hub.flush(10)
        os._exit(0 if late == [1.0, 2.0] else 1)
    assert os.waitpid(child, 0)[1] == 0
assert seen == [1.0]
""")


def test_workers_of_a_data_loader_may_publish() -> None:
    lines = run("""
import torch
from torch.utils.data import DataLoader, Dataset
class Data(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index):
        hub.update_scalar("worker/index", index)
        return torch.tensor(len(hub.get_scalar("worker/index").data[0]))
hub.attach(Observer("observer"))
with hub:
    for batch in DataLoader(Data(), batch_size=2, num_workers=2, multiprocessing_context="fork"):
        hub.update_scalar("batch", float(batch.sum()))
    hub.flush(10)
assert len(seen) == 4 and sum(seen) == 20.0, seen
assert "worker/index" not in hub.log_scalars
print("done")
""")
    assert lines[-1] == "done"
    assert len([line for line in lines if "was forked" in line]) == 2
