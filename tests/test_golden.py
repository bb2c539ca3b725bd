"""Files that earlier versions wrote are read for ever."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from asynchub import EarlyStopping, MessageHub, ScalarUpdated
from asynchub.journal.reading import read_journal
from asynchub.journal.recovering import recover
from asynchub.snapshot import read_head

GOLDEN = Path(__file__).parent / "golden"


def test_a_hub_state_of_version_1_0_is_read() -> None:
    hub = MessageHub("reader")
    hub.load(GOLDEN / "hub-1.0.ahc")
    assert hub.get_scalar("val/loss").data[0].tolist() == [1.0, 0.5, 1.0, 1.0]
    values, counts = hub.get_scalar("train/n").data
    assert (values.dtype, values.tolist(), counts.tolist()) == (np.int64, [3, 6, 9, 12], [3, 3, 3, 3])
    assert all(math.isnan(value) for value in hub.get_scalar("train/nan").data[0])
    assert "private" not in hub.log_scalars
    assert hub.get_info("classes") == ("cat", "dog")
    assert (hub.get_info("weights").dtype.str, hub.get_info("weights").tolist()) == (">i2", [0, 1, 2])
    assert (hub.step, hub.stop_requested) == (4, True)
    assert hub.stop_reason == "val/loss has not improved on 0.5 of step 2 for 2 checks"


def test_the_subscribers_of_that_state_go_on() -> None:
    hub = MessageHub("reader")
    hub.load(GOLDEN / "hub-1.0.ahc")
    rule = EarlyStopping("val/loss", patience=2)
    hub.attach(rule)
    assert (rule.best, rule.best_step, rule.wait) == (0.5, 2, 2)


async def test_the_events_of_that_state_come_back_in_order() -> None:
    hub = MessageHub("reader")
    hub.load(GOLDEN / "hub-1.0.ahc")
    with hub.subscribe(ScalarUpdated, replay="all") as events:
        events.close()
        past = [event async for event in events]
    assert [event.seq for event in past] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert [event.step for event in past] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_a_snapshot_of_version_1_1_is_read() -> None:
    path = GOLDEN / "hub-1.1.ahs"
    head = read_head(path)
    assert (head.run_id, head.seq) == ("00112233445566778899aabbccddeeff", 602)
    hub = MessageHub("reader")
    hub.load(path)
    assert (hub.run_id, hub.step) == (head.run_id, 299)
    losses = hub.get_scalar("train/loss").records(-1)
    assert losses.values.tolist() == [float(np.float32(1 / (step + 1))) for step in range(300)]
    ticks = [number * 0.004 + 1.7e9 + 0.000123 for number in (3, 5, 7)]
    assert losses.times[1:4].tolist() == ticks
    assert hub.get_scalar("train/right").data[0].tolist() == [step % 7 for step in range(300)]
    weights = hub.get_info("weights")
    assert (weights.dtype.str, weights.tolist()) == (">f4", list(range(2000)))
    tensor = hub.get_info("tensor")
    assert torch.equal(tensor, torch.arange(3000).to(torch.bfloat16))


def test_a_journal_of_version_1_0_is_read_segment_and_tail() -> None:
    found = read_journal(GOLDEN / "journal-1.0")
    assert (found.name, found.last_seq, len(found.segments)) == ("golden", 188, 1)
    assert found.run_id == bytes.fromhex("00112233445566778899aabbccddeeff")
    assert found.tail  # as a killed process left it
    hub = recover(GOLDEN / "journal-1.0")
    losses = hub.get_scalar("train/loss").records(-1)
    assert losses.values[:60].tolist() == [1 / (step + 1) for step in range(60)]
    assert math.isnan(losses.values[60])
    assert losses.steps.tolist() == [*range(60), 59]
    values, counts = hub.get_scalar("train/right").data
    assert (values.tolist(), set(counts.tolist())) == ([step % 7 for step in range(60)], {8})
    assert hub.get_scalar("odd/\udc80").data[0].tolist() == [2**70] * 60
    assert hub.get_scalar("train/flag").data[0].tolist() == [True]
    assert hub.runtime_info == {"classes": ("cat", "dog"), "late": {"a": [1, 2.5]}}
    hub.settle()  # the request is pending still
    assert hub.stop_reason == "enough"
