"""Brokers killed and frozen, ranks killed and begun again, at random: nothing that was promised is lost, or doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import asynchub
from tests.bridges.acceptance_ranks import Plan, launch, progress, read_stored, results, until
from tests.bridges.broker import Broker

KEYS = [f"key/{key}" for key in range(5)]


def disturb(broker: Broker, chance: random.Random) -> str:
    """Kill or freeze a broker for a while; return what was done."""
    time.sleep(chance.uniform(0, 0.4))  # the schedule of the test
    if chance.random() < 0.5:
        broker.kill()
        time.sleep(chance.uniform(0, 1))
        broker.start()
        return "killed"
    broker.freeze()
    time.sleep(chance.uniform(0, 3))
    broker.thaw()
    return "frozen"


@pytest.mark.slow
@pytest.mark.parametrize("journaled", [False, True], ids=["alone", "journal"])
def test_whatever_is_killed_when_readers_have_the_history_of_the_run(
    tmp_path: Path, broker: Broker, seed: int, journaled: bool
) -> None:
    chance = random.Random(seed)
    folder = tmp_path / "run"
    plan = Plan(
        broker.url,
        str(folder),
        keys=len(KEYS),
        steps=1_000_000,
        pace=200,
        interval=chance.choice([0.02, 0.1, 0.3]),
        journaled=journaled,
    )
    said = []
    with asynchub.attach(broker.url, run=plan.run, past="all", timeout=30) as follower:
        for _ in range(chance.randint(1, 3)):
            with launch(plan, 1) as (process,):
                steps = len(progress(folder, 0))
                until(lambda steps=steps: len(progress(folder, 0)) > steps + 5, "a step", folder=folder)  # type: ignore[misc]
                said += [disturb(broker, chance) for _ in range(chance.randint(0, 3))]
                time.sleep(chance.uniform(0, 0.3))
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
                said.append("rank killed")
        last = progress(folder, 0)[-1][0] if journaled else 0
        with launch(replace(plan, steps=last + chance.randint(60, 200)), 1):
            said.append(disturb(broker, chance))
            (told,) = results(folder, 1)
        if told["statistics"]["waiting"]:  # the broker was not there when it left
            push = [sys.executable, "-m", "asynchub", "spool", "push", folder / "spool", broker.url]
            subprocess.run(push, check=True, capture_output=True, timeout=60)
            said.append("pushed")
        print(f"\nseed {seed}:", ", ".join(said))
        follower.catch_up(30)
        followed = {key: follower.get_scalar(key).data[0].tolist() for key in KEYS}
        missed = follower.ranks()[0].missed
    with asynchub.attach(broker.url, run=plan.run, past="all") as reader:
        read = {key: reader.get_scalar(key).data[0].tolist() for key in KEYS}
    with asynchub.attach(broker.url, run=plan.run) as late:
        newest = {key: late.get_scalar(key).current() for key in KEYS}

    history = told["history"]
    assert read == followed == history
    assert newest == {key: values[-1] for key, values in history.items()}
    assert missed == 0
    lives = list(read_stored(broker.url, plan.run).values())
    for one in lives:
        assert [frame.number for frame in one.frames] == list(range(1, len(one.frames) + 1))
    of_a_run = [[seq for one in lives for seq in one.seqs]] if journaled else [one.seqs for one in lives]
    for seqs in of_a_run:
        assert seqs == list(range(1, len(seqs) + 1))
