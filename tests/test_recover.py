"""A run that ended, comes back: from the newest generation that counts, and the journal after it."""

from __future__ import annotations

import copy
import logging
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from asynchub import (
    EarlyStopping,
    Event,
    InfoUpdated,
    Journal,
    JsonlLogger,
    MessageHub,
    Rewound,
    ScalarUpdated,
    StopRequested,
    Subscription,
    recover,
)
from asynchub.codec import Registry, UnknownValue
from asynchub.errors import ArgumentError, JournalError, LifecycleError, UnknownTypeError
from asynchub.events import Marked
from asynchub.generations import list_generations
from asynchub.journal.reading import read_journal
from asynchub.requests import CheckpointRequested
from asynchub.subscribers.jsonl import read_jsonl


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def _train(hub: MessageHub, start: int, stop: int) -> None:
    for step in range(start, stop):
        hub.step = step
        hub.update_scalar("train/loss", 1 / (step + 1))
        hub.update_scalars({"train/right": {"value": step % 7, "count": 8}, "train/lr": 0.1})
        hub.update_info("iter", step)
        if step % 50 == 49:
            hub.update_scalar("val/accuracy", (step % 200) / 200)
            hub.settle()


def _record(hub: MessageHub) -> dict[str, Any]:
    """Return what a hub recorded, without what tells one run of the same program from another."""
    return {
        "scalars": {key: [column.tolist() for column in buffer.data] for key, buffer in hub.log_scalars.items()},
        "steps": {key: buffer.records(-1).steps.tolist() for key, buffer in hub.log_scalars.items()},
        "infos": dict(hub.runtime_info),
        "step": hub.step,
        "stop": hub.stop_reason,
    }


def _whole(stop: int) -> dict[str, Any]:
    hub = MessageHub("whole")
    _train(hub, 0, stop)
    return _record(hub)


def _journaled(run: Path, stop: int, **options: Any) -> MessageHub:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal", **options))
    _train(hub, 0, stop)
    return hub


# --- the end of the run


def test_a_run_comes_back_from_its_journal_alone(run: Path) -> None:
    hub = _journaled(run, 120)
    hub.close()
    back = recover(run)
    assert _record(back) == _whole(120)
    assert (back.instance_name, back.run_id) == ("run", hub.run_id)
    assert back.state_dict()["asynchub"]["seq"] == hub.state_dict()["asynchub"]["seq"]
    for key, buffer in hub.log_scalars.items():
        for ours, theirs in zip(buffer.records(-1), back.get_scalar(key).records(-1), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_run_comes_back_from_a_generation_and_what_the_journal_has_after_it(run: Path) -> None:
    hub = _journaled(run, 60)
    hub.save(run)
    _train(hub, 60, 90)
    hub.close()
    assert _record(recover(run)) == _whole(90)


def test_the_path_of_the_journal_itself_will_do(run: Path) -> None:
    hub = _journaled(run, 60, compact=True, segment_size=1)
    hub.save(run, keep=1)
    _train(hub, 60, 90)
    hub.close()
    assert _record(recover(run / "journal")) == _whole(90)


def test_a_damaged_generation_is_passed_over_for_the_one_before(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub = _journaled(run, 30)
    hub.save(run)
    _train(hub, 30, 60)
    newest = hub.save(run)
    hub.close()
    data = bytearray(newest.read_bytes())
    data[70] ^= 1
    newest.write_bytes(data)
    with caplog.at_level(logging.ERROR, "asynchub"):
        assert _record(recover(run)) == _whole(60)
    assert newest.name in caplog.text


def test_a_generation_that_is_ahead_of_its_journal_is_taken_and_the_journal_gets_what_it_lacks(run: Path) -> None:
    hub = _journaled(run, 30)
    hub.commit()
    kept = run.with_name("kept")
    shutil.copytree(run / "journal", kept)  # what a power failure may leave of it
    _train(hub, 30, 60)
    hub.save(run)
    hub.close()
    shutil.rmtree(run / "journal")
    shutil.copytree(kept, run / "journal")
    back = recover(run)
    assert _record(back) == _whole(60)
    back.attach(Journal(run / "journal"))
    _train(back, 60, 90)
    back.close()
    for path in list_generations(run):
        path.unlink()
    assert _record(recover(run)) == _whole(90)


def test_there_must_be_something(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a snapshot nor a journal"):
        recover(tmp_path)
    with pytest.raises(FileNotFoundError):
        recover(tmp_path / "nowhere")


def test_only_resumed_keys_come_back_as_from_a_saved_state(run: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal"))
    hub.update_scalar("kept", 1.0)
    hub.update_scalar("dropped", 1.0, resumed=False)
    hub.update_info("kept too", [1])
    hub.update_info("dropped too", object(), resumed=False)
    hub.update_info("gone", 1)
    hub.pop_info("gone")
    hub.close()
    back = recover(run)
    assert list(back.log_scalars) == ["kept"]
    assert dict(back.runtime_info) == {"kept too": [1]}


def test_what_nobody_had_applied_is_pending_again(run: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal"))
    hub.request(CheckpointRequested(reason="now"))
    hub.request_stop("enough")
    hub.close()
    back = recover(run)
    assert not back.stop_requested
    applied: list[str] = []
    back.on_request(CheckpointRequested, lambda request: applied.append(request.reason))
    back.settle()
    assert (back.stop_reason, applied) == ("enough", ["now"])


def test_a_stop_that_took_effect_still_holds(run: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal"))
    hub.request_stop("enough")
    hub.settle()
    hub.close()
    assert recover(run).stop_reason == "enough"


PROGRAM = """
import sys
from dataclasses import dataclass
from pathlib import Path
from asynchub import Journal, recover, MessageHub
run = Path(sys.argv[1])
try:
    hub = recover(run)
except FileNotFoundError:
    hub = MessageHub("run")
hub.attach(Journal(run / "journal", interval=0.02, segment_size=20_000, compact=True))
step = len(hub.get_scalar("loss").data[0]) if "loss" in hub.log_scalars else 0
print(step, flush=True)
while True:
    step += 1
    hub.step = step
    hub.update_scalar("loss", step / 3)
    if step % 97 == 0:
        hub.update_info("iter", step)
    if step % 2000 == 0:
        hub.async_save(run)
    if step % 9000 == 0:  # once in three lines
        hub.async_save(run).wait()
    if step % 3000 == 0:
        print(step, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_program_that_is_killed_over_and_over_goes_on_where_it_was(run: Path) -> None:
    run.mkdir()
    reached = 0
    for lines in (2, 1, 3, 4, 1, 2):
        with subprocess.Popen([sys.executable, "-c", PROGRAM, str(run)], stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            begun = int(program.stdout.readline())
            assert begun >= reached
            for _ in range(lines):
                reached = int(program.stdout.readline())
            program.send_signal(signal.SIGKILL)
        hub = recover(run)
        values = hub.get_scalar("loss").data[0]
        assert len(values) >= reached
        np.testing.assert_array_equal(values, np.arange(1, len(values) + 1) / 3)
        assert hub.step == len(values) or hub.step == len(values) + 1
    assert len(list_generations(run)) >= 1


# --- compaction


def test_compaction_deletes_only_what_the_oldest_generation_makes_needless(run: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal", compact=True, segment_size=1))
    for start in range(0, 200, 20):
        _train(hub, start, start + 20)
        hub.commit()
        hub.save(run)
    hub.close()
    journal = read_journal(run / "journal")
    assert 1 < journal.first_seq <= int(list_generations(run)[-1].stem) + 1
    assert _record(recover(run)) == _whole(200)
    list_generations(run)[0].unlink()
    assert _record(recover(run)) == _whole(200)  # from the one before
    for path in list_generations(run):
        path.unlink()
    with pytest.raises(JournalError, match="no snapshot before it"):
        recover(run)
    assert len(recover(run, mode="salvage").get_scalar("train/loss").data[0]) < 200


def test_nothing_is_deleted_unless_asked_for(run: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal", segment_size=1))
    for start in range(0, 60, 20):
        _train(hub, start, start + 20)
        hub.commit()
        hub.save(run, keep=1)
    hub.close()
    assert read_journal(run / "journal").first_seq == 1


def test_a_snapshot_elsewhere_makes_nothing_needless(run: Path, tmp_path: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal", compact=True, segment_size=1))
    for start in range(0, 60, 20):
        _train(hub, start, start + 20)
        hub.commit()
        hub.save(f"{tmp_path}/elsewhere/", keep=1)
        hub.save(tmp_path / "file")
    hub.close()
    assert read_journal(run / "journal").first_seq == 1


# --- marks


def test_a_run_that_is_resumed_from_an_earlier_checkpoint_counts_nothing_twice(run: Path) -> None:
    hub = _journaled(run, 400)
    mark = hub.mark()
    _train(hub, 400, 550)
    hub.close()
    back = recover(run, mark=mark)
    assert _record(back) == _whole(400)
    back.attach(Journal(run / "journal"))
    _train(back, 400, 700)
    back.close()
    assert _record(recover(run)) == _whole(700)
    everything = [event for batch in read_journal(run / "journal").batches() for event in batch.events]
    assert len(everything) > 700  # the abandoned ones are there still


def test_a_mark_in_a_branch_that_was_abandoned_is_as_good_as_any(run: Path) -> None:
    hub = _journaled(run, 100)
    early = hub.mark()
    _train(hub, 100, 200)
    late = hub.mark()
    hub.save(run)
    _train(hub, 200, 250)
    hub.close()
    for mark, start, stop in ((early, 100, 150), (late, 200, 300), (early, 100, 120), (late, 200, 210)):
        back = recover(run, mark=mark)
        assert _record(back) == _whole(start)
        back.attach(Journal(run / "journal"))
        _train(back, start, stop)
        back.close()
        assert _record(recover(run)) == _whole(stop)
        assert recover(run).run_id == mark["run_id"]


def test_a_generation_that_was_loaded_by_hand_rewinds_the_journal_as_well(run: Path) -> None:
    hub = _journaled(run, 100)
    saved = hub.save(run / "by hand.ahs")
    _train(hub, 100, 200)
    hub.close()
    back = MessageHub("back")
    back.load(saved)
    back.update_info("before the journal", 1)
    back.attach(Journal(run / "journal"))
    _train(back, 100, 150)
    back.close()
    expected = _whole(150)
    expected["infos"]["before the journal"] = 1
    assert _record(recover(run)) == expected


def test_a_mark_is_made_of_what_any_checkpoint_can_hold(run: Path) -> None:
    hub = MessageHub("run")
    mark = hub.mark()
    assert {name: type(value) for name, value in mark.items()} == {"run_id": str, "seq": int, "step": int}
    assert copy.deepcopy(mark) == mark


@pytest.mark.parametrize("mark", [{}, {"seq": 1}, {"seq": "1", "run_id": "00"}, "mark", {"seq": True, "run_id": "00"}])
def test_what_is_no_mark_is_refused(mark: Any, run: Path) -> None:
    _journaled(run, 3).close()
    with pytest.raises(ArgumentError, match=r"hub.mark\(\)"):
        recover(run, mark=mark)


def test_a_mark_of_another_run_or_of_lost_events_is_refused(run: Path) -> None:
    hub = _journaled(run, 3)
    mark = hub.mark()
    hub.close()
    with pytest.raises(JournalError, match="the mark is of run"):
        recover(run, mark={**mark, "run_id": "f" * 32})
    with pytest.raises(JournalError, match=r"hub\.commit"):
        recover(run, mark={**mark, "seq": mark["seq"] + 1})


# --- subscribers


def _rule(hub: MessageHub) -> EarlyStopping:
    rule = EarlyStopping("val/accuracy", mode="max", patience=2)
    hub.attach(rule)
    return rule


def test_a_control_subscriber_comes_back_as_it_was_at_the_mark(run: Path) -> None:
    hub = MessageHub("run")
    rule = _rule(hub)
    hub.attach(Journal(run / "journal"))
    _train(hub, 0, 120)
    hub.save(run)
    _train(hub, 120, 260)
    at_mark, mark = rule.state_dict(), hub.mark()
    _train(hub, 260, 400)
    assert rule.state_dict() != at_mark
    hub.close()
    assert _rule(recover(run, mark=mark)).state_dict() == at_mark


def test_a_log_comes_back_to_where_the_run_goes_on_and_has_every_event_that_counts(run: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal"))
    hub.attach(JsonlLogger(run / "metrics.jsonl"))
    with hub:
        hub.save(run)
        _train(hub, 0, 120)
        hub.request(StopRequested(reason="a decision, that is in no history"))
        hub.settle()
        mark = hub.mark()
        _train(hub, 120, 260)
    back = recover(run, mark=mark)
    back.attach(Journal(run / "journal"))
    back.attach(JsonlLogger(run / "metrics.jsonl"))
    with back:
        _train(back, 120, 200)
    events = list(read_jsonl(run / "metrics.jsonl"))
    seqs = [event.seq for event in events]
    assert seqs == sorted(set(seqs))
    losses = [(event.step, event.value) for event in events if event.key == "train/loss"]  # type: ignore[attr-defined]
    assert losses == [(step, 1 / (step + 1)) for step in range(200)]
    assert sum(isinstance(event, StopRequested) for event in events) == 1
    assert [event.to_seq for event in events if isinstance(event, Rewound)] == [mark["seq"]]


def test_a_late_reader_of_a_recovered_hub_gets_its_decisions_too(run: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal"))
    hub.update_scalar("a", 1.0)
    hub.update_info("b", 1)
    hub.update_info("b", 2)
    hub.mark()
    hub.close()
    with recover(run).subscribe(replay="all") as events:
        events.close()
        got = _all(events)
    assert [type(event) for event in got] == [ScalarUpdated, InfoUpdated, InfoUpdated, Marked]
    assert [event.seq for event in got] == [1, 2, 3, 4]


def _all(events: Subscription) -> list[Event]:
    async def read() -> list[Event]:
        return [event async for event in events]

    return anyio.run(read)


# --- waiting for the disk


def test_commit_needs_a_journal() -> None:
    with pytest.raises(LifecycleError, match=r"hub\.attach"):
        MessageHub("run").commit()


async def test_what_was_committed_is_in_a_segment(run: Path, anyio_backend: str) -> None:
    hub = MessageHub("run")
    attachment = hub.attach(Journal(run / "journal", interval=100))
    async with hub:
        for step in range(500):
            hub.update_scalar("a", float(step), step=step)
        await hub.committed(30)
        assert attachment.statistics().lag == 0
        (run / "journal" / "tail.mm").unlink()
        assert len(recover(run).get_scalar("a").data[0]) == 500
    with pytest.raises(LifecycleError, match=r"hub\.attach"):
        await hub.committed()


# --- the program's own classes


@dataclass
class Schedule:
    """A class that nobody but its program knows."""

    name: str
    steps: int


def test_the_classes_that_a_hub_knows_go_through_snapshot_and_journal(run: Path) -> None:
    registry = Registry()
    registry.register(Schedule, name="tests.Schedule")
    hub = MessageHub("run")
    hub.registry = registry
    hub.attach(Journal(run / "journal"))
    hub.update_info("early", Schedule("cosine", 10))
    hub.save(run)
    hub.update_info("late", Schedule("linear", 20))
    hub.close()
    back = recover(run, registry=registry)
    assert back.runtime_info == {"early": Schedule("cosine", 10), "late": Schedule("linear", 20)}
    back.attach(Journal(run / "journal"))
    back.update_info("later", Schedule("step", 30))
    back.close()
    assert recover(run, registry=registry).get_info("later") == Schedule("step", 30)


def test_who_does_not_know_a_class_is_told_or_keeps_it_as_it_is(run: Path) -> None:
    registry = Registry()
    registry.register(Schedule, name="tests.Schedule")
    hub = MessageHub("run")
    hub.registry = registry
    hub.update_info("early", Schedule("cosine", 10))
    hub.save(run / "state.ahs")
    hub.save(f"{run}/")
    stranger = MessageHub("stranger")
    with pytest.raises(UnknownTypeError, match=r"tests\.Schedule"):
        stranger.load(run / "state.ahs")
    with pytest.raises(UnknownTypeError, match=r"tests\.Schedule"):
        recover(run)
    stranger.load(run / "state.ahs", on_unknown="keep")
    assert isinstance(recover(run, on_unknown="keep").get_info("early"), UnknownValue)
    stranger.save(run / "again.ahs")
    hub.load(run / "again.ahs")
    assert hub.get_info("early") == Schedule("cosine", 10)
