"""``CheckpointPolicy``: when it writes, what it keeps, and that it deletes nothing that is needed or not its own."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynchub.errors import (
    ArgumentError,
    ControlFailedError,
    LifecycleError,
    PatternError,
    ScheduleError,
    StateDictError,
)
from asynchub.events import CheckpointRemoved, CheckpointSaved, Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import CheckpointRequested, Decided, Paused, PauseEnded, RequestApplied, RequestRefused
from asynchub.subscribers.checkpoint_files import delete_written
from asynchub.subscribers.checkpoint_policy import CheckpointContext, CheckpointPolicy
from asynchub.testing import Drive, drive, scalars
from tests.subscribers.observing import START, stamped

ROOT = Path(__file__).parents[2]
NAN, INF = math.nan, math.inf


class Writer:
    """Writes a small file for each checkpoint, and remembers what it was told."""

    def __init__(self, folder: Path, name: str = "step-{step}.pt") -> None:
        self.folder = folder
        self.name = name
        self.told: list[CheckpointContext] = []
        self.present: list[set[str]] = []  # what was there when each was begun
        self.fails: Callable[[], None] = lambda: None

    def __call__(self, context: CheckpointContext) -> Path:
        self.present.append(self.files())
        self.fails()
        self.told.append(context)
        path = self.folder / self.name.format(step=context.step, number=len(self.told))
        path.write_text(f"step {context.step}")
        return path

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    @property
    def why(self) -> list[tuple[int | None, str]]:
        return [(context.step, context.verdict) for context in self.told]


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    (tmp_path / "run").mkdir()
    return Writer(tmp_path / "run")


def at(*steps: int, key: str = "train/loss") -> list[Event]:
    return [ScalarUpdated(key=key, value=1.0, step=step) for step in steps]


def epochs(*numbers: Any) -> list[Event]:
    return [InfoUpdated(key="epoch", value=number, step=0) for number in numbers]


def due(writer: Writer, events: list[Event], **arguments: Any) -> list[int]:
    """Return the indices of the events after which a checkpoint was due."""
    driven = Drive(CheckpointPolicy(writer, save_last=False, **arguments))
    return [
        index for index, event in enumerate(events) if any(isinstance(e, CheckpointSaved) for e in driven.send(event))
    ]


# --- rates


@pytest.mark.parametrize("every", [10, "10ba"])
def test_a_checkpoint_is_due_when_steps_cross_a_boundary_however_far_they_jump(writer: Writer, every: Any) -> None:
    assert due(writer, at(1, 9, 10, 11, 19, 25, 29, 30, 61, 62), every=every) == [2, 5, 7, 8]


def test_a_checkpoint_is_due_when_the_epoch_crosses_a_boundary(writer: Writer) -> None:
    assert due(writer, epochs(0, 1, 2, 3, 3, "x", None, 8), every="2ep") == [2, 7]


@pytest.mark.parametrize("every", ["2s", timedelta(seconds=2)])
def test_a_checkpoint_is_due_when_so_many_seconds_of_events_have_passed(writer: Writer, every: Any) -> None:
    assert due(writer, stamped(at(*range(1, 14)), seconds=0.5), every=every) == [4, 8, 12]
    late = [
        event.stamped(seq, START + time, 1)
        for seq, (event, time) in enumerate(zip(at(1, 2, 3, 4), [0, 5, 5.5, 6], strict=True), 1)
    ]
    assert due(writer, late, every=every) == [1, 3]  # boundaries stay where they were


def paused(events: list[Event], first: int, last: int) -> list[Event]:
    """Return events with a pause from one index to another in place of what is there."""
    ends = {first: Paused(seconds=60.0), last: PauseEnded(seconds=float(last - first))}
    told = {index: one.stamped(events[index].seq, events[index].time, 1) for index, one in ends.items()}
    return [told.get(index, event) for index, event in enumerate(events)]


def test_a_pause_is_no_time_by_which_a_checkpoint_is_due(writer: Writer) -> None:
    events = paused(stamped(at(*range(40)), seconds=1.0), 5, 15)
    del events[6:15]  # nothing is trained meanwhile
    seconds = [event.time - START for event in events]
    assert [seconds[index] for index in due(writer, events, every="7s")] == [17.0, 24.0, 31.0, 38.0]


def test_a_policy_that_is_saved_amid_a_pause_and_goes_on_does_not_count_it(writer: Writer) -> None:
    events = paused(stamped(at(*range(20)), seconds=1.0), 5, 15)
    del events[6:15]
    for split in range(len(events)):
        driven = Drive(policy := CheckpointPolicy(writer, every="7s", save_last=False))
        saved = [driven.send(event) for event in events[:split]]
        resumed = CheckpointPolicy(writer, every="7s", save_last=False)
        resumed.load_state_dict(policy.state_dict())
        driven = Drive(resumed)
        saved += [driven.send(event) for event in events[split:]]
        written = [index for index, some in enumerate(saved) if any(isinstance(one, CheckpointSaved) for one in some)]
        assert [events[index].time - START for index in written] == [17.0]


def test_a_pause_alone_makes_no_checkpoint_due(writer: Writer) -> None:
    events: list[Event] = [*at(1, 10), Paused(seconds=60.0, step=10), PauseEnded(seconds=1.0, step=10)]
    driven = Drive(CheckpointPolicy(writer, every=5))
    for event in stamped(events):
        driven.send(event)
    driven.close()
    assert writer.why == [(10, "due")]


def test_several_boundaries_between_two_settle_points_are_one_checkpoint(writer: Writer) -> None:
    hub = MessageHub("hub")
    hub.attach(CheckpointPolicy(writer, every=10, save_last=False))
    for hub.step in range(1, 1000):
        hub.update_scalar("train/loss", 1.0)  # more than one batch of events
    hub.settle()
    assert writer.why == [(999, "due")]


def test_without_a_rate_only_few_events_are_read(writer: Writer) -> None:
    """A program that settles once in an epoch of many steps must not be told that control lags behind."""
    hub = MessageHub("hub")
    policy = hub.attach(CheckpointPolicy(writer, every="1ep", monitor="val/loss"))
    with hub:
        hub.update_info("epoch", 1)
        for hub.step in range(1, 500):
            hub.update_scalar("train/loss", 1.0)
        hub.update_scalar("val/loss", 0.5)
        assert policy.statistics().lag == 2
        hub.settle()
    assert writer.why == [(499, "improved")]
    assert writer.told[0].reason == "val/loss is 0.5, the first; epoch 1, one every epoch"


# --- values


def kept_by_model(values: list[float], mode: str, top_k: int, last: bool) -> tuple[list[int], list[int]]:
    """Return the steps at which a checkpoint is written, and those kept at the end: as the documentation words it."""
    written: list[int] = []
    kept: list[int] = []
    for step, value in enumerate(values, 1):
        rank = sorted(kept, key=lambda one: (values[one - 1] if mode == "min" else -values[one - 1], one))
        better = (lambda a, b: a < b) if mode == "min" else (lambda a, b: a > b)
        if not math.isfinite(value) or not top_k:
            continue
        if top_k > 0 and len(rank) >= top_k and not better(value, values[rank[top_k - 1] - 1]):
            continue
        written.append(step)
        kept.append(step)
        rank = sorted(kept, key=lambda one: (values[one - 1] if mode == "min" else -values[one - 1], one))
        if top_k > 0:
            staying = set(rank[:top_k]) | ({step} if last else set())
            kept = [one for one in kept if one in staying]
    return written, kept


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.integers(-6, 6).map(float), st.sampled_from([NAN, INF, -INF])), max_size=20),
    st.sampled_from(["min", "max"]),
    st.integers(-1, 4),
    st.booleans(),
)
def test_the_best_are_written_and_kept_as_documented(
    tmp_path: Path, values: list[float], mode: Any, top_k: int, last: bool
) -> None:
    if not top_k and not last:
        return
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    writer = Writer(folder)
    policy = CheckpointPolicy(writer, monitor="val/loss", mode=mode, save_top_k=top_k, save_last=last)
    driven = Drive(policy)
    for event in scalars("val/loss", values):
        driven.send(event)
    written, kept = kept_by_model(values, mode, top_k, last)
    assert [context.step for context in writer.told] == written
    assert [one.step for one in policy.kept] == kept
    assert writer.files() == {f"step-{step}.pt" for step in kept}
    assert all(context.value == values[(context.step or 0) - 1] for context in writer.told)


def test_the_value_is_the_mean_over_the_samples_and_none_is_no_check(writer: Writer) -> None:
    policy = CheckpointPolicy(writer, monitor="val/loss")
    driven = Drive(policy)
    for value, count, step in [(8.0, 4, 1), (3.0, 1, 2), (0.0, 0, 3), (3.0, 2, 4)]:
        driven.send(ScalarUpdated(key="val/loss", value=value, count=count, step=step))
    assert [context.value for context in writer.told] == [2.0, 1.5]
    assert policy.best is not None
    assert (policy.best.value, policy.best.step) == (1.5, 4)


def test_of_several_values_between_two_settle_points_the_newest_counts(writer: Writer) -> None:
    hub = MessageHub("hub")
    hub.attach(CheckpointPolicy(writer, monitor="val/loss"))
    for value in (1.0, 0.1, 2.0):
        hub.update_scalar("val/loss", value)
    hub.settle()
    assert [context.value for context in writer.told] == [2.0]


def test_a_checkpoint_that_is_due_has_the_value_of_its_settle_point_only(writer: Writer) -> None:
    hub = MessageHub("hub")
    policy = CheckpointPolicy(writer, every=2, monitor="val/loss")
    hub.attach(policy)
    for hub.step, value in enumerate((1.0, 5.0, NAN, None, None, None), 1):
        if value is not None:
            hub.update_scalar("val/loss", value)
        hub.update_scalar("train/loss", 1.0)
        hub.settle()
    assert [(one.step, one.verdict, one.value) for one in writer.told] == [
        (1, "improved", 1.0),
        (2, "due", 5.0),
        (4, "due", None),
        (6, "due", None),
    ]
    assert [one.step for one in policy.kept] == [1, 6]


def test_each_decision_is_said_with_its_reason(writer: Writer) -> None:
    answers = drive(CheckpointPolicy(writer, monitor="val/loss"), scalars("val/loss", [1.0, 2.0, NAN, 0.5]))
    said = [(one.verdict, one.reason, one.value, one.best) for one in answers if isinstance(one, Decided)]
    assert [verdict for verdict, *_ in said] == ["improved", "not_improved", "not_improved", "improved", "end"]
    assert said[1] == ("not_improved", "val/loss is 2, the best so far is 1", 2.0, 1.0)
    saved = [one for one in answers if isinstance(one, CheckpointSaved)]
    removed = [one for one in answers if isinstance(one, CheckpointRemoved)]
    assert [Path(one.path).name for one in saved] == ["step-1.pt", "step-4.pt"]
    assert [(Path(one.path).name, one.reason) for one in removed] == [("step-1.pt", "the best and the newest stay")]
    assert all(one.seconds > 0 for one in saved)


def test_a_monitor_that_never_came_is_said_at_the_end(writer: Writer, caplog: pytest.LogCaptureFixture) -> None:
    drive(CheckpointPolicy(writer, every=1, monitor="val/los"), at(1, 2), "**")
    assert "never saw its scalar 'val/los'" in caplog.text


# --- what it costs


def tick(count: int, seconds: float) -> list[Event]:
    return stamped(at(*range(1, count + 1)), seconds=seconds)


@pytest.fixture
def costly(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the next checkpoints cost, in seconds; the last one for ever."""
    costs, clock = [2.0], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def pay() -> None:
        clock[0] += costs.pop(0) if len(costs) > 1 else costs[0]

    writer.fails = pay
    return costs


def test_checkpoints_take_no_more_than_their_share_of_the_time(writer: Writer, costly: list[float]) -> None:
    costly[:] = [2.0, 5.0, 2.0]
    policy = CheckpointPolicy(writer, max_overhead=0.1)
    driven = Drive(policy)
    spent, at_seconds, intervals = 0.0, [], []
    for second, event in enumerate(tick(120, 1.0)):
        for saved in driven.send(event):
            if isinstance(saved, CheckpointSaved):
                assert spent <= 0.1 * second
                spent += saved.seconds
                at_seconds.append(second)
                intervals.append(policy.interval)
    assert at_seconds == [0, 20, 70, 90, 110]  # the first at once: a run that cannot write is to fail at once
    assert intervals == [20.0, 50.0, 20.0, 20.0, 20.0]


def test_checkpoints_that_cost_nothing_are_one_for_each_settle_point(writer: Writer, costly: list[float]) -> None:
    costly[:] = [0.0]
    hub = MessageHub("hub")
    hub.attach(CheckpointPolicy(writer, max_overhead=0.01))
    for hub.step in (1, 2):
        hub.update_scalar("train/loss", 1.0)
        hub.settle()
        hub.settle()
    assert writer.why == [(1, "due"), (2, "due")]


def test_a_rate_is_stretched_and_that_is_said_once_for_each_that_waits(writer: Writer, costly: list[float]) -> None:
    policy = CheckpointPolicy(writer, every="7s", max_overhead=0.2, save_last=False)
    driven = Drive(policy)
    answers = [driven.send(event) for event in tick(40, 1.0)]
    saved = [index for index, some in enumerate(answers) if any(isinstance(one, CheckpointSaved) for one in some)]
    waits = {index: some[0].reason for index, some in enumerate(answers) if some and index not in saved}
    assert costly == [2.0]
    assert saved == [7, 17, 27, 37]
    assert list(waits) == [14, 21, 28]
    assert waits[14] == "14 s of training, one every 7 s, which must wait 3 s, as the last took 2 s"


def test_a_checkpoint_for_another_reason_is_made_anyway_and_paid_for(writer: Writer, costly: list[float]) -> None:
    policy = CheckpointPolicy(writer, max_overhead=0.1, monitor="val/loss")
    events: list[Event] = [*at(1), *scalars("val/loss", [3.0, 2.0]), *at(*range(4, 90))]
    driven = Drive(policy)
    for event in stamped(events, seconds=1.0):
        driven.send(event)
    assert costly == [2.0]
    assert writer.why[:4] == [(1, "due"), (1, "improved"), (2, "improved"), (61, "due")]


def test_with_a_mean_time_between_failures_the_interval_is_that_of_young(writer: Writer, costly: list[float]) -> None:
    day = CheckpointPolicy(writer, mtbf="01:00:00:00")
    Drive(day).send(at(1)[0])
    assert costly == [2.0]
    assert day.interval == 2 + math.sqrt(2 * 2 * 86_400)
    both = CheckpointPolicy(writer, mtbf=timedelta(seconds=100), max_overhead=0.05)
    driven = Drive(both)
    assert [second for second, event in enumerate(tick(50, 1.0)) if driven.send(event)] == [0, 40]
    rare = CheckpointPolicy(writer, mtbf=100, max_overhead=0.5)
    driven = Drive(rare)
    assert [second for second, event in enumerate(tick(50, 1.0)) if driven.send(event)] == [0, 22, 44]


# --- requests


def listening(hub: MessageHub, *kinds: type[Event]) -> list[Any]:
    found: list[Any] = []
    hub.on(*kinds, role="control", order=99)(found.append)
    return found


def test_a_requested_checkpoint_is_written_where_requests_are_applied(writer: Writer) -> None:
    hub = MessageHub("hub")
    policy = CheckpointPolicy(writer)
    hub.attach(policy)
    hub.on_request(CheckpointRequested, policy.request)
    outcomes = listening(hub, RequestApplied, RequestRefused)
    with hub:
        hub.settle()
        hub.step = 3
        hub.request(CheckpointRequested(reason="before the risky part", author="ada"))
        hub.settle()
        hub.step = 4
        hub.request(CheckpointRequested())
        assert hub.apply_requests() == 1
        assert [type(one) for one in outcomes] == [RequestApplied]
        hub.step = 5
        hub.update_info("epoch", 1)
    assert writer.why == [(3, "requested"), (4, "requested"), (5, "end")]
    assert [one.reason for one in writer.told] == [
        "requested by ada: before the risky part",
        "requested",
        "the run ends",
    ]


def test_a_request_before_it_runs_is_refused_with_the_reason(writer: Writer) -> None:
    hub = MessageHub("hub")
    policy = CheckpointPolicy(writer)
    hub.on_request(CheckpointRequested, policy.request)
    outcomes = listening(hub, RequestRefused)
    hub.request(CheckpointRequested())
    hub.settle()
    assert "attach it" in outcomes[0].error
    assert writer.told == []


def test_a_request_and_what_was_due_anyway_are_one_checkpoint(writer: Writer) -> None:
    hub = MessageHub("hub")
    policy = CheckpointPolicy(writer, every=5, monitor="val/loss", save_last=False)
    hub.attach(policy)
    hub.on_request(CheckpointRequested, policy.request)
    with hub:
        hub.settle()
        for hub.step in (4, 5):
            hub.update_scalar("val/loss", 1 / hub.step)
            hub.request(CheckpointRequested())
            hub.settle()
    assert [(one.step, one.verdict, one.value) for one in writer.told] == [
        (4, "requested", 0.25),
        (5, "requested", 0.2),
    ]


# --- in the settle point


@pytest.mark.parametrize("order", [-1, 1])
def test_when_it_writes_the_other_rules_have_acted_whatever_their_order(writer: Writer, order: int) -> None:
    hub = MessageHub("hub")
    acted: list[int | None] = []
    hub.on("val/loss", role="control")(lambda event: acted.append(event.step) or hub.request_stop("enough"))
    hub.attach(CheckpointPolicy(writer, monitor="val/loss", save_last=False), order=order)
    seen: list[Any] = []
    writer.fails = lambda: seen.append((list(acted), hub.stop_reason))
    with hub:
        hub.update_scalar("val/loss", 1.0, step=3)
        hub.settle()
    assert seen == [([3], "enough")]


def test_a_mark_made_while_it_writes_leaves_nothing_to_be_handled_again(writer: Writer) -> None:
    hub = MessageHub("hub")
    policy = CheckpointPolicy(writer, every=1, save_last=False)
    hub.attach(policy)
    marked: list[Any] = []
    writer.fails = lambda: marked.append(hub._attachments.control_states()["CheckpointPolicy"])
    with hub:
        for hub.step in range(1, 600):
            hub.update_scalar("train/loss", 1.0)  # several batches
        newest = hub.get_scalar("train/loss").records().seqs[-1]
        hub.settle()
    (state,) = marked
    assert state["seq"] >= newest
    assert state["state"]["changed"] is False
    assert state["state"]["files"]["writing"] is True


def test_a_state_saved_between_decision_and_writing_has_it_written_by_who_resumes(writer: Writer) -> None:
    hub = MessageHub("hub")
    policy = CheckpointPolicy(writer, monitor="val/loss", save_last=False)
    hub.attach(policy)
    states: list[Any] = []
    hub.on("val/loss", role="control")(
        lambda event: states.append(msgpack.packb(policy.state_dict(), strict_types=True))
    )
    with hub:
        hub.update_scalar("val/loss", 1.0)
        hub.settle()
    other = CheckpointPolicy(writer, monitor="val/loss", save_last=False)
    other.load_state_dict(msgpack.unpackb(states[0]))
    Drive(other).send(epochs(1)[0].stamped(999, START, 8))
    assert [(one.step, one.verdict, one.value) for one in writer.told] == [(0, "improved", 1.0), (8, "improved", 1.0)]


def test_it_works_without_hearing_of_its_own_decisions(writer: Writer) -> None:
    hub = MessageHub("hub")
    hub.attach(CheckpointPolicy(writer, every=2), ScalarUpdated)
    with hub:
        for hub.step in range(1, 6):
            hub.update_scalar("train/loss", 1.0)
            hub.settle()
    assert writer.why == [(2, "due"), (4, "due"), (5, "end")]


# --- failures


class DiskFullError(OSError):
    pass


def full() -> None:
    raise DiskFullError(28, "no space left")


def test_what_the_function_raises_reaches_the_loop_and_nothing_is_deleted(writer: Writer) -> None:
    hub = MessageHub("hub")
    policy = CheckpointPolicy(writer, every=1)
    hub.attach(policy)

    def train() -> None:
        with hub:
            for hub.step in range(1, 4):
                hub.update_scalar("train/loss", 1.0)
                writer.fails = full if hub.step == 3 else writer.fails
                hub.settle()

    with pytest.raises(ControlFailedError) as raised:
        train()
    assert raised.group_contains(DiskFullError)
    assert writer.files() == {"step-2.pt"}
    assert [one.step for one in policy.kept] == [2]
    assert not policy.state_dict()["files"]["writing"]
    assert len(writer.present) == 3  # it is not tried once more on the way out


def test_a_failing_request_is_refused_and_reaches_the_loop_too(writer: Writer) -> None:
    hub = MessageHub("hub")
    policy = CheckpointPolicy(writer)
    hub.attach(policy)
    hub.on_request(CheckpointRequested, policy.request)
    outcomes = listening(hub, RequestRefused)
    hub.settle()
    writer.fails = full
    hub.request(CheckpointRequested())
    hub.apply_requests()
    with pytest.raises(ControlFailedError) as raised:
        hub.settle()
    assert raised.group_contains(DiskFullError)
    assert "no space left" in outcomes[0].error


def test_an_older_checkpoint_is_deleted_after_the_new_one_is_whole(writer: Writer) -> None:
    drive(CheckpointPolicy(writer, every=1), at(1, 2, 3))
    assert writer.present == [set(), {"step-1.pt"}, {"step-2.pt"}]
    assert writer.files() == {"step-3.pt"}


@pytest.mark.parametrize("returned", [7, b"path", Path])
def test_a_function_that_returns_no_path_is_told_so(returned: Any) -> None:
    with pytest.raises(ControlFailedError) as raised:
        drive(CheckpointPolicy(lambda context: returned, every=1), at(1))
    assert raised.group_contains(ArgumentError, match="must return the path")


def test_checkpoints_without_a_path_are_ranked_and_never_deleted() -> None:
    policy = CheckpointPolicy(lambda context: None, monitor="val/loss", save_top_k=2)
    answers = drive(policy, scalars("val/loss", [3.0, 1.0, 2.0, 4.0]))
    assert [one.value for one in policy.kept] == [1.0, 2.0, None]
    assert [one.path for one in answers if isinstance(one, CheckpointSaved)] == [""] * 4
    assert not any(isinstance(one, CheckpointRemoved) for one in answers)


# --- the end


def run(policy: CheckpointPolicy, steps: int = 3, error: BaseException | None = None, settle: bool = True) -> None:
    hub = MessageHub("hub")
    hub.attach(policy)
    with hub:
        for hub.step in range(1, steps + 1):
            hub.update_info("epoch", hub.step)
            hub.update_scalar("train/loss", 1.0)
            if settle:
                hub.settle()
        if error is not None:
            raise error


def test_one_is_written_at_the_end_unless_the_newest_has_everything(writer: Writer) -> None:
    run(CheckpointPolicy(writer, every=2), 3)
    run(CheckpointPolicy(writer, every=2), 4)
    run(CheckpointPolicy(writer, every="1ep"), 2)
    run(CheckpointPolicy(writer, every=2, save_last=False), 3)
    assert writer.why == [
        *[(2, "due"), (3, "end")],
        *[(2, "due"), (4, "due")],
        *[(1, "due"), (2, "due")],
        (2, "due"),
    ]


def test_what_was_not_settled_yet_is_decided_at_the_end(writer: Writer) -> None:
    run(CheckpointPolicy(writer, every=3), 4, settle=False)
    assert writer.why == [(4, "due")]


@pytest.mark.parametrize("error", [ValueError("nan"), KeyboardInterrupt(), SystemExit(1)])
def test_one_is_written_when_an_exception_leaves_the_hub_and_nothing_is_deleted_for_it(
    writer: Writer, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        run(CheckpointPolicy(writer, every=2), 3, error)
    assert writer.why == [(2, "due"), (3, "exception")]
    assert writer.told[-1].reason.startswith(type(error).__name__)
    assert writer.files() == {"step-2.pt", "step-3.pt"}


def test_an_exception_writes_nothing_if_it_is_not_to(writer: Writer) -> None:
    with pytest.raises(ValueError, match="nan"):
        run(CheckpointPolicy(writer, every=2, save_on_exception=False), 3, ValueError("nan"))
    assert writer.why == [(2, "due")]


def test_a_value_that_came_before_an_exception_makes_no_best_checkpoint(writer: Writer) -> None:
    hub = MessageHub("hub")
    hub.attach(CheckpointPolicy(writer, monitor="val/loss"))

    def train() -> None:
        with hub:
            hub.settle()
            hub.update_scalar("val/loss", 0.1)
            raise ValueError("nan")

    with pytest.raises(ValueError, match="nan"):
        train()
    assert [(one.verdict, one.value) for one in writer.told] == [("exception", None)]


def test_a_decision_that_an_exception_kept_from_being_written_is_forgotten(writer: Writer) -> None:
    hub = MessageHub("hub")
    hub.attach(CheckpointPolicy(writer, monitor="val/loss", save_last=False, save_on_exception=False))
    broken = [True]

    @hub.on("val/loss", role="control")
    def interrupt(event: Event) -> None:
        if broken:
            broken.clear()
            raise KeyboardInterrupt

    def train() -> None:
        with hub:
            hub.update_scalar("val/loss", 0.1)
            hub.settle()

    with pytest.raises(KeyboardInterrupt):
        train()
    with hub:
        hub.update_info("epoch", 1)
        hub.settle()
    assert writer.told == []


def test_a_hub_that_is_left_well_amid_an_except_clause_ends_well(writer: Writer) -> None:
    try:
        raise ValueError("handled here")
    except ValueError:
        run(CheckpointPolicy(writer), 1)
    assert writer.why == [(1, "end")]


async def test_an_async_hub_ends_the_same_way(writer: Writer) -> None:
    for error in (None, ValueError("nan")):
        hub = MessageHub("hub")
        hub.attach(CheckpointPolicy(writer))
        try:
            async with hub:
                hub.update_info("epoch", 1)
                await hub.settled()
                if error is not None:
                    raise error
        except ValueError:
            pass
    assert [one.verdict for one in writer.told] == ["end", "exception"]


def test_a_policy_runs_again_when_its_hub_is_entered_again(writer: Writer) -> None:
    hub = MessageHub("hub")
    hub.attach(CheckpointPolicy(writer, every=2))
    for first in (1, 4):
        with hub:
            for hub.step in range(first, first + 3):
                hub.update_scalar("train/loss", 1.0)
                hub.settle()
    assert writer.why == [(2, "due"), (3, "end"), (4, "due"), (6, "due")]
    assert writer.files() == {"step-6.pt"}


def test_loading_a_state_ends_its_life_without_a_checkpoint(writer: Writer) -> None:
    hub = MessageHub("hub")
    hub.attach(CheckpointPolicy(writer))
    with hub:
        hub.update_info("epoch", 1)
        hub.settle()
        hub.load_state_dict(hub.state_dict())
        assert writer.told == []
    assert writer.why == [(0, "end")]


def test_one_policy_cannot_serve_two_hubs_at_once(writer: Writer) -> None:
    policy = CheckpointPolicy(writer)
    first, second = MessageHub("first"), MessageHub("second")
    first.attach(policy)
    second.attach(policy)
    with first:
        first.settle()
        with pytest.raises(ControlFailedError) as raised:
            second.settle()
        assert raised.group_contains(LifecycleError, match="attached twice")
    assert len(writer.told) == 1


# --- deleting


def folder_writer(folder: Path) -> Callable[[CheckpointContext], Path]:
    def write(context: CheckpointContext) -> Path:
        path = folder / f"step-{context.step}"
        path.mkdir()
        (path / "shards").mkdir()
        for rank in range(3):
            (path / "shards" / f"{rank}.pt").write_bytes(b"x" * 10)
        return path

    return write


def test_folders_are_deleted_whole(tmp_path: Path) -> None:
    answers = drive(CheckpointPolicy(folder_writer(tmp_path), every=1, save_top_k=2), at(1, 2, 3, 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-3", "step-4"]
    assert len([one for one in answers if isinstance(one, CheckpointRemoved)]) == 2


def test_a_folder_with_something_older_in_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("years of work")
    (tmp_path / "other").mkdir()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)  # no program can make a file older than it is
    driven = Drive(CheckpointPolicy(lambda context: tmp_path / ("data" if context.step == 1 else "other"), every=1))
    answers = [one for event in at(1, 2, 3) for one in driven.send(event)]
    assert (tmp_path / "data" / "precious").read_text() == "years of work"
    assert not any(isinstance(one, CheckpointRemoved) for one in answers)
    assert "was changed before the checkpoint was written" in caplog.text


def test_what_was_changed_after_it_was_written_is_left(tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "notes.txt").write_text("added by hand")
    now = time.time()
    assert "or after" in delete_written(str(tmp_path / "step-1"), now - 7200, now - 3600, [])
    assert (tmp_path / "step-1" / "notes.txt").exists()


def test_links_and_what_holds_others_and_addresses_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "run"
    inner.mkdir()
    (inner / "a.pt").write_text("a")
    (tmp_path / "link").symlink_to(inner)
    now = time.time()
    assert delete_written(str(tmp_path / "link"), now, now, []) == "it is a link"
    assert delete_written(str(inner), now, now, [str(inner / "a.pt")]) == "it holds what must stay"
    monkeypatch.chdir(inner)
    assert delete_written(str(inner), now, now, []) == "it holds what must stay"
    assert delete_written("s3://bucket/a.pt", now, now, []) == "it is no file here"
    assert (inner / "a.pt").read_text() == "a"


def test_a_path_that_is_written_over_is_kept(tmp_path: Path) -> None:
    policy = CheckpointPolicy(Writer(tmp_path, "last.pt"), every=1, monitor="val/loss")
    drive(policy, [*at(1, 2), *scalars("val/loss", [2.0, 1.0]), *at(5)])
    assert (tmp_path / "last.pt").read_text() == "step 5"
    assert [one.step for one in policy.kept] == [5]


def test_what_somebody_else_has_deleted_is_no_error(writer: Writer) -> None:
    driven = Drive(CheckpointPolicy(writer, every=1))
    driven.send(at(1)[0])
    (writer.folder / "step-1.pt").unlink()
    assert not any(isinstance(one, CheckpointRemoved) for one in driven.send(at(2)[0]))


def test_remove_is_called_instead_and_its_file_errors_do_not_end_the_run(
    writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    removed: list[str] = []

    def remove(path: str) -> None:
        removed.append(Path(path).name)
        if len(removed) == 1:
            raise PermissionError(13, "not yours")

    answers = drive(CheckpointPolicy(writer, every=1, remove=remove), at(1, 2, 3))
    assert removed == ["step-1.pt", "step-2.pt"]
    assert [Path(one.path).name for one in answers if isinstance(one, CheckpointRemoved)] == ["step-2.pt"]
    assert "could not be deleted" in caplog.text

    def broken(path: str) -> None:
        raise ZeroDivisionError

    policy = CheckpointPolicy(writer, every=1, remove=broken)
    with pytest.raises(ControlFailedError) as raised:
        drive(policy, at(1, 2))
    assert raised.group_contains(ZeroDivisionError)
    assert [one.step for one in policy.kept] == [2]


# --- resuming


def mixed(seed: int) -> list[Event]:
    rng = random.Random(seed)
    events: list[Event] = []
    for step in range(1, 31):
        if step % 6 == 1:
            events.append(InfoUpdated(key="epoch", value=step // 6, step=step))
        events.append(ScalarUpdated(key="train/loss", value=rng.random(), step=step))
        if step % 3 == 0:
            events.append(ScalarUpdated(key="val/loss", value=float(rng.randrange(8)), step=step))
    return stamped(events, seconds=1.0)


def decisions(answers: list[Event]) -> list[Any]:
    return [
        (
            type(one).__name__,
            one.step,
            getattr(one, "reason", ""),
            getattr(one, "value", None),
            getattr(one, "path", ""),
        )
        for one in answers
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {"every": 7, "monitor": "val/loss", "save_top_k": 2},
        {"every": "1ep", "monitor": "val/loss", "mode": "max"},
        {"every": "11s", "save_top_k": 3, "save_last": False},
        {"monitor": "val/loss", "save_top_k": -1},
    ],
)
def test_a_run_that_is_split_anywhere_decides_as_one_that_was_not(tmp_path: Path, seed: int, arguments: Any) -> None:
    events = mixed(seed)
    folder = tmp_path / "run"
    folder.mkdir()
    whole = Drive(CheckpointPolicy(Writer(folder), **arguments))
    wanted = [whole.send(event) for event in events]
    wanted.append(whole.close())
    left = {path.name for path in folder.iterdir()}
    for split in range(len(events) + 1):
        shutil.rmtree(folder)
        folder.mkdir()
        first = CheckpointPolicy(Writer(folder), **arguments)
        driven = Drive(first)
        answers = [driven.send(event) for event in events[:split]]
        state = msgpack.unpackb(msgpack.packb(first.state_dict(), strict_types=True))
        second = CheckpointPolicy(Writer(folder), **arguments)
        second.load_state_dict(state)
        driven, before = Drive(second), driven
        driven._step = before._step  # as a hub's
        answers += [driven.send(event) for event in events[split:]]
        answers.append(driven.close())
        assert list(map(decisions, answers)) == list(map(decisions, wanted)), f"split at {split}"
        assert {path.name for path in folder.iterdir()} == left


@pytest.mark.parametrize("said", [True, False])
def test_a_state_saved_inside_of_a_checkpoint_knows_it_and_what_it_replaces(writer: Writer, said: bool) -> None:
    states: list[Any] = []

    def write(context: CheckpointContext) -> Path:
        states.append(msgpack.unpackb(msgpack.packb(policy.state_dict(), strict_types=True)))
        return writer(context)

    policy = CheckpointPolicy(write, every=1, monitor="val/loss")
    driven = Drive(policy)
    driven.send(ScalarUpdated(key="val/loss", value=1.0, step=1))
    for event in at(2, 3):
        driven.send(event)
    (writer.folder / "step-2.pt").write_text("killed before this was deleted")
    came_from = writer.folder / "step-3.pt" if said else None
    resumed = CheckpointPolicy(writer, every=1, monitor="val/loss", resumed_from=came_from)
    resumed.load_state_dict(states[-1])
    names = [one.path and Path(one.path).name for one in resumed.kept]
    assert names == ["step-1.pt", "step-3.pt" if said else None]
    Drive(resumed).send(at(4)[0])
    assert writer.files() == {"step-1.pt", "step-4.pt"} | (set() if said else {"step-3.pt"})


def test_checkpoints_that_are_gone_are_dropped_and_that_is_said(
    writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    policy = CheckpointPolicy(writer, monitor="val/loss", save_top_k=2)
    drive(policy, scalars("val/loss", [3.0, 1.0, 2.0]))
    (writer.folder / "step-2.pt").unlink()
    resumed = CheckpointPolicy(writer, monitor="val/loss", save_top_k=2)
    resumed.load_state_dict(policy.state_dict())
    assert [one.step for one in resumed.kept] == [3]
    assert resumed.best is not None
    assert resumed.best.value == 2.0
    assert "step-2.pt of step 2 is gone" in caplog.text


def test_a_pause_is_no_training(writer: Writer) -> None:
    policy = CheckpointPolicy(writer, every="100s", save_last=False)
    driven = Drive(policy)
    for event in tick(51, 1.0):  # years ago
        assert driven.send(event) == []
    resumed = CheckpointPolicy(writer, every="100s", save_last=False)
    resumed.load_state_dict(policy.state_dict())
    now = time.time()
    later = [event.stamped(1000 + one, now + one, event.step) for one, event in enumerate(at(*range(1, 60)))]
    driven = Drive(resumed)
    indices = [index for index, event in enumerate(later) if driven.send(event)]
    assert indices in ([50], [51])  # the load was a moment before `now`


def test_a_new_rate_begins_where_the_run_is(writer: Writer) -> None:
    policy = CheckpointPolicy(writer, every="1ep")
    driven = Drive(policy)
    driven.send(epochs(7)[0])
    resumed = CheckpointPolicy(writer, every="10s")
    resumed.load_state_dict(policy.state_dict())
    driven = Drive(resumed)
    assert [index for index, event in enumerate(tick(25, 1.0)) if driven.send(event)] == [10, 20]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["files"].update(kept=[[1, 2]]),
        lambda state: state["files"].update(kept=[["a", 1, 1, 0.5, "", "x", 1.0]]),
        lambda state: state["files"].update(writing=True, kept=[]),
        lambda state: state["cadence"].update(due_at=INF),
        lambda state: state["cadence"].update(time={"elapsed": -1.0, "last": None}),
        lambda state: state.update(epoch="3"),
        lambda state: state.update(pending={"verdict": "due"}),
    ],
)
def test_a_damaged_state_is_refused_and_leaves_no_trace(writer: Writer, change: Callable[[Any], None]) -> None:
    policy = CheckpointPolicy(writer, every=2, monitor="val/loss")
    drive(policy, [*at(1, 2), *scalars("val/loss", [1.0])])
    before = policy.state_dict()
    state = msgpack.unpackb(msgpack.packb(before))
    change(state)
    with pytest.raises(StateDictError):
        policy.load_state_dict(state)
    assert policy.state_dict() == before


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"fn": None}, ArgumentError),
        ({"every": 0}, ScheduleError),
        ({"every": True}, ScheduleError),
        ({"every": "10 steps"}, ScheduleError),
        ({"every": 1.5}, ScheduleError),
        ({"every": timedelta(0)}, ScheduleError),
        ({"monitor": "val/*"}, ArgumentError),
        ({"monitor": ""}, PatternError),
        ({"mode": "auto"}, ArgumentError),
        ({"save_top_k": -2}, ArgumentError),
        ({"save_top_k": 0, "save_last": False}, ArgumentError),
        ({"save_last": 1}, ArgumentError),
        ({"save_on_exception": None}, ArgumentError),
        ({"max_overhead": 0}, ArgumentError),
        ({"max_overhead": 1}, ArgumentError),
        ({"max_overhead": NAN}, ArgumentError),
        ({"mtbf": 0}, ArgumentError),
        ({"mtbf": "1 day"}, ArgumentError),
        ({"remove": "rm"}, ArgumentError),
        ({"resumed_from": 3}, ArgumentError),
    ],
)
def test_a_wrong_argument_is_refused_at_once(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        CheckpointPolicy(**{"fn": lambda context: None, **arguments})


def test_an_async_function_is_refused_at_once() -> None:
    async def write(context: CheckpointContext) -> None: ...

    with pytest.raises(ArgumentError, match="plain function"):
        CheckpointPolicy(write)  # type: ignore[arg-type]


# --- a real run, killed amid its saves

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import torch
from asynchub import Journal, MessageHub, recover
from asynchub.subscribers.checkpoint_policy import CheckpointPolicy
from asynchub.subscribers.plateau import ReduceLROnPlateau


def live(run, steps, deadly):
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    found = sorted(run.glob("model-*.pt"))
    if found:
        checkpoint = torch.load(found[-1])
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        hub = recover(run, mark=checkpoint["mark"])
    else:
        hub = MessageHub("killed")
    hub.attach(Journal(run / "journal"))

    def save(context):
        path = run / f"model-{context.step:04}.pt"
        temporary = path.with_suffix(".tmp")
        mark = hub.mark()
        hub.commit()
        with temporary.open("wb") as file:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "mark": mark}, file)
            if context.step == deadly:
                file.flush()
                file.truncate(file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return path

    came_from = found[-1] if found else None
    hub.attach(CheckpointPolicy(save, every=7, monitor="val/loss", save_top_k=2, resumed_from=came_from))
    hub.attach(ReduceLROnPlateau(optimizer, "val/loss", factor=0.5, patience=1))
    with hub:
        for hub.step in range(hub.step + 1, steps + 1):
            data = torch.randn(16, 8, generator=torch.Generator().manual_seed(hub.step))
            loss = (model(data) - data.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hub.update_scalar("train/loss", loss.detach())
            if hub.step % 5 == 0:
                hub.update_scalar("val/loss", loss.detach() + 3 * (hub.step % 3))
            hub.settle()
    (run / "end.json").write_text(json.dumps({
        "weights": [value.tolist() for value in model.state_dict().values()],
        "moments": [[state["exp_avg"].tolist(), float(state["step"])] for state in optimizer.state.values()],
        "lr": optimizer.param_groups[0]["lr"],
        "loss": hub.get_scalar("train/loss").data[0].tolist(),
        "val": hub.get_scalar("val/loss").data[0].tolist(),
        "files": sorted(path.name for path in run.glob("model-*.pt")),
    }))


import torch._dynamo  # Adam loads it: once, not in each life
torch.set_num_threads(1)
ends = []
for run, steps, deadly in json.loads(sys.argv[1]):
    Path(run).mkdir(exist_ok=True)
    if not (child := os.fork()):
        try:
            live(Path(run), steps, deadly)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ends))
"""


def lives(*plan: tuple[Path, int, int]) -> list[int]:
    """Run lives of runs one after the other, each to a step, killed amid the save of another; return how they ended.

    They are forked from one process that has imported torch.
    """
    argument = json.dumps([[str(run), steps, deadly] for run, steps, deadly in plan])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, argument],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert 1 not in ends, done.stderr
    return list(ends)


def end_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "end.json").read_text()))


def test_a_run_killed_amid_saves_goes_on_from_the_newest_checkpoint_as_if_it_had_not_been(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ends = lives((whole, 80, 0), (killed, 80, 28), (killed, 80, 35), (killed, 80, 60), (killed, 80, 0))
    assert ends == [0, -signal.SIGKILL, -signal.SIGKILL, -signal.SIGKILL, 0]
    assert end_of(killed) == end_of(whole)
    assert len(end_of(whole)["files"]) == 3
    assert end_of(whole)["lr"] < 0.05


@pytest.mark.slow
def test_a_run_killed_amid_many_saves_ends_where_one_does_that_was_not(tmp_path: Path, seed: int) -> None:
    pytest.importorskip("torch")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    deadly = sorted(random.Random(seed).sample(range(7, 400, 7), 30))
    ends = lives((whole, 400, 0), *((killed, 400, step) for step in deadly), (killed, 400, 0))
    assert ends == [0, *[-signal.SIGKILL] * 30, 0]
    assert end_of(killed) == end_of(whole)


def test_the_log_names_what_was_left(writer: Writer, caplog: pytest.LogCaptureFixture) -> None:
    policy = CheckpointPolicy(lambda context: "s3://bucket/" + str(context.step), every=1)
    with caplog.at_level(logging.WARNING):
        drive(policy, at(1, 2))
    assert "checkpoint s3://bucket/1 is left: it is no file here; remove= can say how to delete it" in caplog.text
