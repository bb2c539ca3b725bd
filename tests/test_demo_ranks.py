"""The main job on two ranks, as torchrun starts it: whole, broken off and resumed, with a broker that is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import asynchub
from asynchub.cli import main
from asynchub.control_folder import ControlError
from asynchub.dashboard.asking import ask, steerable
from asynchub.journal.recovering import recover
from asynchub.recorded import recorded_events
from asynchub.requests import ParameterChangeRequested, PauseRequested, RequestApplied, StopRequested
from tests.bridges.broker import Broker

pytest.importorskip("sklearn")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]
PATIENCE = 120.0
"""Seconds that a run may take."""


def _start(run: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "asynchub", "--", "demo", "--run", str(run), *arguments]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "COLUMNS": "140"}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=run.parent,
    )


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a run that has not ended, with its ranks, which are in sessions of their own."""
    if process.poll() is None:
        ranks = psutil.Process(process.pid).children(recursive=True)
        for one in (process, *ranks):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate(timeout=10)


def _end(process: subprocess.Popen[str]) -> str:
    """Wait for a run; return what it printed."""
    try:
        printed, _ = process.communicate(timeout=PATIENCE)
    finally:
        _kill(process)
    assert process.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of four epochs that nothing disturbed, and what it printed."""
    run = tmp_path_factory.mktemp("ranks") / "whole"
    return run, _end(_start(run, "--epochs", "4"))


def _wait_for(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    """Wait until something holds of a run that goes on."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def _weights(run: Path) -> dict[str, torch.Tensor]:
    (path,) = run.glob("model-*.pt")
    weights: dict[str, torch.Tensor] = torch.load(path)["model"]
    return weights


def test_the_demo_on_two_ranks_shows_both_and_what_they_have_in_common(whole: tuple[Path, str]) -> None:
    run, printed = whole
    for head in ("all/rank0/loss", "all/rank1/loss", "all/train/loss", "all/val/accuracy", "a step took"):
        assert head in printed
    assert re.search(r"Epoch 4, step 92, 2 ranks, all 4 epochs done", printed)
    zero, one = recover(run), recover(run / "ranks" / "1")
    assert zero.step == one.step == 4 * 23
    for key in ("all/train/loss", "all/val/loss", "all/val/accuracy", "all/rank0/loss", "all/rank1/loss"):
        for mine, others in zip(zero.get_scalar(key).data, one.get_scalar(key).data, strict=True):
            np.testing.assert_array_equal(mine, others)
    assert not np.array_equal(zero.get_scalar("train/loss").data[0], one.get_scalar("train/loss").data[0])
    assert zero.get_scalar("all/val/accuracy").data[1].tolist() == [360] * 4


def test_a_demo_on_two_ranks_that_is_resumed_is_the_uninterrupted_one(whole: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "broken"
    _end(_start(run, "--epochs", "2", "--quiet"))
    _end(_start(run, "--epochs", "4", "--quiet", "--resume"))
    expected = _weights(whole[0])
    for name, weights in _weights(run).items():
        assert torch.equal(weights, expected[name]), name
    for folder in ("", "ranks/1"):
        mine = recover(run / folder).get_scalar("all/val/loss").data[0]
        np.testing.assert_array_equal(mine, recover(whole[0] / folder).get_scalar("all/val/loss").data[0])


def test_what_is_wrong_with_the_folder_is_said_on_all_ranks_alike(whole: tuple[Path, str]) -> None:
    process = _start(whole[0])
    try:
        printed, _ = process.communicate(timeout=PATIENCE)
    finally:
        _kill(process)
    assert process.returncode != 0
    assert printed.count("is not empty; continue it with --resume, or name another folder") == 2


def test_what_is_asked_of_a_demo_on_two_ranks_both_apply_at_the_same_step(tmp_path: Path) -> None:
    run = tmp_path / "digits"
    process = _start(run, "--epochs", "400", "--patience", "400", "--quiet")
    try:
        _wait_for(process, lambda: bool(steerable(run)[0]))
        offered, _ = steerable(run)
        assert {one.name or one.word for one in offered} >= {"stop", "checkpoint", "lr", "EarlyStopping.patience"}
        with pytest.raises(ControlError, match="does not allow pause"):
            ask(run, PauseRequested(), author="ada")
        ask(run, ParameterChangeRequested(name="lr", value=0.003, reason="calm"), author="ada")
        _wait_for(process, lambda: [one.value for one in steerable(run)[0] if one.name == "lr"] == [0.003])
        ask(run, StopRequested(reason="enough"), author="ada")
        assert "stopped: enough" in _end(process)
    finally:
        _kill(process)
    folders = (run, run / "ranks" / "1")
    hubs = [recover(folder) for folder in folders]
    assert len({hub.step for hub in hubs}) == 1
    assert {hub.stop_reason for hub in hubs} == {"enough"}
    mine, others = (hub.get_scalar("train/lr").data[0] for hub in hubs)
    np.testing.assert_array_equal(mine, others)
    assert mine[0] == 0.05
    assert mine[-1] == 0.003
    applied, applied_too = (list(recorded_events(folder, RequestApplied)) for folder in folders)
    assert [event.step for event in applied] == [event.step for event in applied_too]
    assert [getattr(event, "author", "") for event in applied] == ["ada", "ada"]


def test_a_demo_on_two_ranks_outlives_its_broker_and_everything_arrives(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    broker.start()
    run = tmp_path / "digits"
    process = _start(run, "--epochs", "40", "--patience", "40", "--broker", broker.url)
    try:
        deadline = time.monotonic() + PATIENCE
        while not list(run.glob("model-*.pt")):  # it trains
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        broker.kill()
        time.sleep(1.5)  # the broker is away for that long
        broker.start()
        request = ["request", "digits", "stop", "--reason", "enough", "--broker", broker.url, "--timeout", "60"]
        assert main(request) == 0
        printed = _end(process)
        assert "stopped: enough" in printed
        steps = {recover(folder).step for folder in (run, run / "ranks" / "1")}
        assert len(steps) == 1
        for rank, folder in enumerate((run, run / "ranks" / "1")):
            with asynchub.attach(broker.url, run="digits", past="all", ranks=rank) as remote:
                here = recover(folder)
                for key in ("train/loss", "all/train/loss", "all/val/loss", f"rank{rank}/loss"):
                    for mine, theirs in zip(here.get_scalar(key).data, remote.get_scalar(key).data, strict=True):
                        np.testing.assert_array_equal(mine, theirs)
                assert remote.stop_requested
                assert remote.stop_reason == "enough"
                assert remote.ranks()[rank].missed == 0
                assert remote.ranks()[rank].ended
    finally:
        _kill(process)
        broker.kill()
