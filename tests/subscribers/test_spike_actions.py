"""What ``SpikeDetection`` does about a spike: requests, rollbacks, bad batches, and real loops that heed it."""

from __future__ import annotations

import copy
import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from asynchub.errors import ControlFailedError, CorruptStateError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import (
    Decided,
    ParameterChanged,
    Request,
    RequestApplied,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)
from asynchub.subscribers.spikes import SpikeDetection
from asynchub.testing import drive, scalars

NAN = math.nan


def said(answers: list[Event]) -> list[tuple[str, int | None]]:
    """Return the verdicts and the kinds of requests among ``answers``, with their steps."""
    return [
        (answer.verdict if isinstance(answer, Decided) else type(answer).__name__, answer.step) for answer in answers
    ]


def requests_in(answers: list[Event]) -> list[type[Event]]:
    return [type(answer) for answer in answers if isinstance(answer, Request)]


# --- actions


def test_an_ordinary_value_is_answered_with_nothing() -> None:
    assert drive(SpikeDetection("loss"), scalars("loss", [3.0, 2.5, 2.8, 2.0, 1.9] * 20)) == []


@pytest.mark.parametrize(
    ("action", "kind"), [("skip", SkipRequested), ("rollback", RollbackRequested), ("stop", StopRequested)]
)
def test_a_spike_is_decided_and_then_asked_for_at_its_own_step(action: Any, kind: type[Request]) -> None:
    decided, request = drive(SpikeDetection("train/loss", action=action), scalars("train/loss", [1.0, 3.0 / 8, 7.5]))
    reason = "train/loss is 7.5 at step 3; the mean of the last 2 is 0.6875"
    assert isinstance(decided, Decided)
    assert (decided.verdict, decided.reason, decided.step, decided.author) == (action, reason, 3, "SpikeDetection")
    assert (decided.monitor, decided.value, decided.best, decided.wait) == ("train/loss", 7.5, 0.6875, 1)
    assert type(request) is kind
    assert (request.reason, request.step, request.author) == (reason, 3, "SpikeDetection")


def test_the_first_value_accepted_after_spikes_is_a_recovery() -> None:
    answers = drive(SpikeDetection("loss", finite_only=False), scalars("loss", [1.0, 1.0, 9.0, NAN, 1.5, 1.5]))
    assert said(answers) == [("skip", 3), ("SkipRequested", 3), ("skip", 4), ("SkipRequested", 4), ("recovered", 5)]
    (recovered,) = [answer for answer in answers if isinstance(answer, Decided) and answer.verdict == "recovered"]
    assert (recovered.value, recovered.best, recovered.reason) == (1.5, 1.0, "loss is 1.5 again at step 5")


def test_a_function_is_called_with_the_event_in_the_thread_that_settles() -> None:
    called: list[ScalarUpdated] = []
    answers = drive(SpikeDetection("loss", action=called.append), scalars("loss", [1.0, 9.0]))
    assert said(answers) == [("call", 2)]
    assert [(event.key, event.value, event.step) for event in called] == [("loss", 9.0, 2)]


def test_what_a_function_raises_comes_out_of_the_settle_point() -> None:
    def fail(event: ScalarUpdated) -> None:
        raise OSError("no disk")

    hub = MessageHub("failing")
    hub.attach(SpikeDetection("loss", action=fail))
    hub.update_scalar("loss", 1.0)
    hub.settle()
    hub.update_scalar("loss", 9.0)
    with pytest.raises(ControlFailedError) as failure:
        hub.settle()
    assert [str(error) for error in failure.value.exceptions] == ["no disk"]


def test_the_spike_after_max_actions_in_one_place_stops_the_run_once() -> None:
    answers = drive(SpikeDetection("loss", max_actions=2), scalars("loss", [1.0, 9.0, 9.0, 9.0, 9.0]))
    assert requests_in(answers) == [SkipRequested, SkipRequested, StopRequested]
    stops = [answer for answer in answers if isinstance(answer, Decided) and answer.verdict == "stop"]
    assert [answer.step for answer in stops] == [4, 5]
    assert stops[0].reason.endswith("; 2 actions in this place did not help")


def test_spikes_in_many_places_do_not_stop_a_run() -> None:
    series = ([1.0] * 10 + [9.0]) * 30
    assert requests_in(drive(SpikeDetection("loss"), scalars("loss", series))) == [SkipRequested] * 30
    assert requests_in(drive(SpikeDetection("loss", window=11), scalars("loss", series)))[3:] == [StopRequested]


def test_a_loop_that_goes_back_to_the_same_spike_again_and_again_is_stopped() -> None:
    """Between two spikes there are more than ``window`` accepted values: those of steps that had gone well before."""
    events = scalars("loss", [1.0] * 30 + [9.0])
    detection = SpikeDetection("loss", action="rollback")
    answers = drive(detection, [*events, *events[10:], *events[10:], *events[10:]])
    assert requests_in(answers) == [RollbackRequested] * 3 + [StopRequested]


def test_a_loop_that_gets_past_its_spike_may_have_others() -> None:
    events = scalars("loss", [1.0] * 30 + [9.0] + [1.0] * 10)
    again = [replace(event, value=1.0) for event in events[10:]]
    detection = SpikeDetection("loss", action="rollback", max_actions=1)
    first = drive(detection, [*events[:31], *again])
    assert (requests_in(first), detection.actions) == ([RollbackRequested], 0)
    assert requests_in(drive(detection, [ScalarUpdated(key="loss", value=9.0, step=42)])) == [RollbackRequested]


def test_a_value_is_the_mean_over_its_samples_and_one_over_none_is_no_value() -> None:
    events = [ScalarUpdated(key="loss", value=value, count=count, step=1) for value, count in ((8, 8), (8, 8), (80, 8))]
    none = ScalarUpdated(key="loss", value=NAN, count=0, step=1)
    other = ScalarUpdated(key="other", value=1000.0, step=1)
    detection = SpikeDetection("loss", finite_only=False)
    assert requests_in(drive(detection, [events[0], none, events[1], none, other, events[2]], "**")) == [SkipRequested]


@pytest.mark.parametrize(("step", "excluded"), [(None, []), (0, [0])])
def test_a_program_need_not_set_a_step(step: int | None, excluded: list[int]) -> None:
    series = [1.0] * 5 + [9.0, 9.0] + [1.0] * 10
    events = [ScalarUpdated(key="loss", value=value).stamped(seq, 0.0, step) for seq, value in enumerate(series * 4, 1)]
    detection = SpikeDetection("loss")
    answers = drive(detection, events)
    assert requests_in(answers) == [SkipRequested] * 8
    assert (detection.actions, detection.excluded) == (0, excluded)


# --- the learning rate after a rollback


class Trainer:
    """A model of one number per group, an optimizer, and a checkpoint that it goes back to when asked."""

    def __init__(self, hub: MessageHub, *rates: Any, restores: bool = True) -> None:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
        self.hub, self.optimizer = hub, torch.optim.SGD(groups, lr=0.1)
        self.checkpoint = copy.deepcopy(self.optimizer.state_dict())
        self.restores = restores
        hub.on_request(RollbackRequested, self.go_back)

    def go_back(self, request: RollbackRequested) -> None:
        if self.restores:
            self.optimizer.load_state_dict(copy.deepcopy(self.checkpoint))
        self.hub.step = 0

    def run(self, *values: float) -> list[float]:
        """Publish values at the next steps, settling at each; return the learning rates after that."""
        for value in values:
            self.hub.step += 1
            self.hub.update_scalar("loss", value)
            self.hub.settle()
        return [float(group["lr"]) for group in self.optimizer.param_groups]


@pytest.mark.parametrize("restores", [True, False])
def test_each_rollback_decays_the_learning_rate_further_also_from_the_same_checkpoint(restores: bool) -> None:
    hub = MessageHub("decay")
    trainer = Trainer(hub, 0.5, 0.25, restores=restores)
    hub.attach(SpikeDetection("loss", action="rollback", lr_decay=0.5, optimizer=trainer.optimizer), name="spikes")
    changes = hub.subscribe(ParameterChanged)
    with hub:
        assert trainer.run(1.0, 1.0, 9.0) == [0.25, 0.125]
        assert trainer.run(1.0, 1.0, 9.0) == [0.125, 0.0625]
        assert trainer.run(1.0, 1.0, 1.0) == [0.125, 0.0625]
    assert changes.statistics().lag == 4


def test_a_learning_rate_is_changed_after_the_checkpoint_was_restored_and_says_why() -> None:
    hub = MessageHub("order")
    trainer = Trainer(hub, 0.5)
    hub.attach(SpikeDetection("loss", action="rollback", lr_decay=0.5, optimizer=trainer.optimizer), name="spikes")
    seen: list[Event] = []

    class Reader:
        role = "control"
        keys = (RequestApplied, ParameterChanged)

        async def __call__(self, events: Any) -> None:
            async for event in events:
                seen.append(event)

    hub.attach(Reader())
    with hub:
        trainer.run(1.0, 9.0)
    applied, change = seen
    assert isinstance(applied, RequestApplied)
    assert isinstance(change, ParameterChanged)
    assert (change.name, change.group, change.old, change.new, change.author) == ("lr", 0, 0.5, 0.25, "spikes")
    assert change.reason == "loss is 9 at step 2; the mean of the last 1 is 1; went back"


def test_a_learning_rate_that_is_a_tensor_is_changed_in_place() -> None:
    hub = MessageHub("tensor")
    rate = torch.tensor(0.5)
    trainer = Trainer(hub, rate, restores=False)
    hub.attach(SpikeDetection("loss", action="rollback", lr_decay=0.5, optimizer=trainer.optimizer))
    with hub:
        trainer.run(1.0, 9.0)
    assert trainer.optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_groups_added_after_the_request_are_decayed_from_their_own_learning_rate() -> None:
    hub = MessageHub("groups")
    trainer = Trainer(hub, 0.5, restores=False)
    hub.attach(SpikeDetection("loss", action="rollback", lr_decay=0.5, optimizer=trainer.optimizer))

    @hub.on_request(RollbackRequested)
    def grow(request: RollbackRequested) -> None:
        trainer.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.2})

    with hub:
        assert trainer.run(1.0, 9.0) == [0.25, 0.1]


def test_a_rollback_that_nobody_makes_changes_no_learning_rate(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    hub = MessageHub("refused")
    hub.attach(SpikeDetection("loss", action="rollback", lr_decay=0.5, optimizer=optimizer))
    with hub, caplog.at_level(logging.WARNING, "asynchub"):
        for value in (1.0, 9.0, 1.0):
            hub.update_scalar("loss", value)
            hub.settle()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "RollbackRequested was refused" in caplog.text


def test_a_rollback_that_is_made_after_a_resume_still_decays() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    arguments: dict[str, Any] = {"action": "rollback", "lr_decay": 0.5, "optimizer": optimizer}
    first = SpikeDetection("loss", **arguments)
    (request,) = [one for one in drive(first, scalars("loss", [1.0, 9.0])) if isinstance(one, Request)]
    resumed = SpikeDetection("loss", **arguments)
    resumed.load_state_dict(msgpack.unpackb(msgpack.packb(first.state_dict(), strict_types=True)))
    applied = RequestApplied(request="RollbackRequested", request_seq=request.seq)
    other = RequestApplied(request="RollbackRequested", request_seq=request.seq + 1)
    assert [type(one) for one in drive(resumed, [other, applied, applied])] == [ParameterChanged]
    assert optimizer.param_groups[0]["lr"] == 0.25


# --- bad batches


def test_bad_batches_are_listed_by_their_step_or_by_the_batch_index_of_the_program(tmp_path: Path) -> None:
    path = tmp_path / "run" / "bad.json"
    detection = SpikeDetection("loss", exclude_batches_path=path)
    events: list[Event] = [*scalars("loss", [1.0, 1.0, 9.0, 1.0])]
    events += [InfoUpdated(key="batch_index", value=np.int64(70)), ScalarUpdated(key="loss", value=9.0, step=5)]
    events += [InfoUpdated(key="batch_index", value="none"), ScalarUpdated(key="loss", value=9.0, step=6)]
    drive(detection, events[:3])
    assert json.loads(path.read_text()) == detection.excluded == [3]
    drive(detection, events[3:])
    assert json.loads(path.read_text()) == detection.excluded == [3, 6, 70]
    assert [one.name for one in path.parent.iterdir()] == ["bad.json"]


def test_a_rollback_leaves_out_the_batch_before_as_well(tmp_path: Path) -> None:
    detection = SpikeDetection("loss", action="rollback", exclude_batches_path=tmp_path / "bad.json")
    drive(detection, scalars("loss", [1.0, 1.0, 9.0]))
    assert detection.excluded == [2, 3]


def test_the_file_is_read_by_the_next_run_and_by_one_that_resumes_an_older_state(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    detection = SpikeDetection("loss", exclude_batches_path=path)
    drive(detection, scalars("loss", [1.0, 9.0]))
    older = detection.state_dict()
    drive(detection, [ScalarUpdated(key="loss", value=9.0, step=40)])
    assert SpikeDetection("loss", exclude_batches_path=path).excluded == [2, 40]
    elsewhere = SpikeDetection("loss", exclude_batches_path=tmp_path / "other.json")
    elsewhere.load_state_dict(older)
    assert elsewhere.excluded == [2]
    resumed = SpikeDetection("loss", exclude_batches_path=path)
    resumed.load_state_dict(older)
    assert resumed.excluded == [2, 40]


@pytest.mark.parametrize("text", ["", "{}", '["1"]', "[1.5]", "[true]", "[1", "\xff"])
def test_a_file_of_something_else_is_refused_and_not_overwritten(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptStateError, match=r"bad\.json"):
        SpikeDetection("loss", exclude_batches_path=path)
    assert path.read_bytes() == text.encode("latin-1")


def test_a_disk_that_refuses_the_file_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    detection = SpikeDetection("loss", exclude_batches_path=folder / "bad.json")
    folder.write_text("in the way")
    with caplog.at_level(logging.WARNING, "asynchub"):
        answers = drive(detection, scalars("loss", [1.0, 9.0]))
    assert (requests_in(answers), detection.excluded) == ([SkipRequested], [2])
    assert "bad.json" in caplog.text
    folder.unlink()
    drive(detection, [ScalarUpdated(key="loss", value=9.0, step=3)])
    assert json.loads((folder / "bad.json").read_text()) == [2, 3]


# --- a loop


def train(batches: list[torch.Tensor], guard: bool) -> tuple[list[float], list[int]]:
    """Fit a line to batches; return its weights, and the steps that were skipped."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    hub, skipped = MessageHub("loop"), []
    hub.on_request(SkipRequested, lambda request: skipped.append(request.step))
    if guard:
        hub.attach(SpikeDetection("train/loss"))
    with hub:
        for hub.step, batch in enumerate(batches, 1):
            optimizer.zero_grad()
            loss = (model(batch) - batch.sum(1, keepdim=True)).pow(2).mean()
            hub.update_scalar("train/loss", loss)
            hub.settle()
            if hub.step in skipped:
                continue
            loss.backward()
            optimizer.step()
    return [float(one) for one in model.weight.detach().flatten()], skipped


def test_a_loop_that_heeds_it_ends_as_if_the_bad_batch_had_not_been() -> None:
    batches = [torch.randn(16, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(40)]
    bad = torch.full((16, 4), 1e4)
    clean, _ = train(batches, guard=False)
    unguarded, _ = train([*batches[:20], bad, *batches[20:]], guard=False)
    guarded, skipped = train([*batches[:20], bad, *batches[20:]], guard=True)
    assert skipped == [21]
    assert guarded == clean != unguarded


def test_a_run_saved_amid_its_spikes_goes_on_with_what_it_knew(tmp_path: Path) -> None:
    values = [1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 1.0]

    def run(hub: MessageHub, detection: SpikeDetection, values: list[float]) -> list[str]:
        found: list[str] = []
        hub.on_request(SkipRequested, lambda request: found.append(f"skip {request.step}"))
        hub.attach(detection, name="spikes")
        with hub:
            for value in values:
                hub.step += 1
                hub.update_scalar("train/loss", value)
                hub.settle()
            hub.save(tmp_path / "hub.state")
        return [*found, *([hub.stop_reason] if hub.stop_requested else [])]

    whole = run(MessageHub("whole"), SpikeDetection(), values)
    assert whole[:3] == ["skip 3", "skip 4", "skip 5"]
    assert whole[3].startswith("train/loss is 9 at step 6")
    for cut in range(1, len(values)):
        first = run(MessageHub("first"), SpikeDetection(), values[:cut])
        resumed = MessageHub("resumed")
        resumed.load(tmp_path / "hub.state")
        stopped = first[-1:] if resumed.stop_requested else []  # a stop that had taken effect still holds
        second = run(resumed, SpikeDetection(), values[cut:])
        assert [*first, *second[: len(second) - len(stopped)]] == whole


def test_it_can_run_again_and_on_another_hub() -> None:
    detection = SpikeDetection("loss")
    for name in ("first", "second"):
        hub = MessageHub(name)
        hub.attach(detection)
        for _ in range(2):
            with hub:
                for value in (1.0, 1.0, 1.0):
                    hub.step += 1
                    hub.update_scalar("loss", value)
                    hub.settle()
    assert detection.state_dict()["seen"] == 12
