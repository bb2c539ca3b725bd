"""What another rule would have done: the same as training with it, told from one reading of a recorded run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynchub.errors import ArgumentError
from asynchub.events import Event, EventsDropped, InfoUpdated, ScalarUpdated, StateLoaded
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.requests import Decided, ParameterChanged, StopRequested
from asynchub.rules import Rule, parse_rules
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.jsonl import JsonlLogger
from asynchub.subscribers.plateau import ReduceLROnPlateau
from asynchub.what_if import Outcome, try_rules, what_if

EPOCHS = 24
STEPS = 12
"""Steps in an epoch."""


def recorded(*values: float, key: str = "val/loss", every: int = 10) -> list[Event]:
    """Return the events of a run with one value every so many steps and seconds."""
    return [
        ScalarUpdated(seq=number, time=1e9 + every * number, step=every * number, key=key, value=value)
        for number, value in enumerate(values, 1)
    ]


def tried(rule: str, events: list[Event], **options: Any) -> Outcome:
    (outcome,) = try_rules(rule, events, **options)
    return outcome


# --- as trained


@cache
def digits() -> Any:
    torch = pytest.importorskip("torch")
    data = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    return images[::3], torch.tensor(data.target)[::3], images[1::3], torch.tensor(data.target)[1::3]


def train(hub: MessageHub, *rules: Any, lr: float = 0.5, plateau: dict[str, Any] | None = None) -> None:
    """Train a small network on handwritten digits, always from the same seed, until it is stopped."""
    torch = pytest.importorskip("torch")
    inputs, targets, val_inputs, val_targets = digits()
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for rule in rules:
        hub.attach(rule)
    if plateau is not None:
        hub.attach(ReduceLROnPlateau(optimizer, "val/loss", **plateau))
    chance = torch.Generator().manual_seed(4)
    with hub:
        for epoch in range(EPOCHS):
            hub.update_info("epoch", epoch)
            for batch in torch.randperm(len(inputs), generator=chance).chunk(STEPS):
                hub.step += 1
                loss = torch.nn.functional.cross_entropy(network(inputs[batch]), targets[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                hub.update_scalar("train/loss", float(loss.detach()))
            with torch.no_grad():
                output = network(val_inputs)
                loss = torch.nn.functional.cross_entropy(output, val_targets, reduction="sum")
                right = int((output.argmax(1) == val_targets).sum())
            hub.update_scalar("val/loss", float(loss), count=len(val_targets))
            hub.update_scalar("val/accuracy", right, count=len(val_targets))
            hub.settle()
            if hub.stop_requested:
                return


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: the network is too small to be shared out among several."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all epochs, without a rule."""
    folder = tmp_path_factory.mktemp("run")
    hub = MessageHub("recorded")
    hub.attach(Journal(folder / "journal"))
    train(hub)
    return folder


class Kept:
    """Keep every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, events: Any) -> None:
        async for event in events:
            self.events.append(event)


def trained(*rules: Any, **options: Any) -> list[Event]:
    """Train with rules; return every event."""
    hub = MessageHub("trained")
    kept = Kept()
    hub.attach(kept, "**")
    train(hub, *rules, **options)
    return kept.events


GRID = [
    "EarlyStopping:val/accuracy:mode=max:patience=1,2,4:min_delta=0,0.01",
    "EarlyStopping:val/loss:patience=1,3:cumulative=True,False:min_delta=0.02:smooth=None,2",
    "EarlyStopping:val/loss:patience=2:start_from=0,'6ep':min_epochs=None,15",
    "EarlyStopping:val/loss:stopping_threshold=0.3",
    "EarlyStopping:val/loss:patience=2:like=keras,lightning,optuna",
    "MaxSteps:100",
]


def test_replaying_a_grid_is_training_with_each_setting(run: Path) -> None:
    stops = set()
    for outcome in what_if(GRID, run):
        events = trained(outcome.rule.make())
        values = [one for one in events if isinstance(one, ScalarUpdated)]
        requests = [one for one in events if isinstance(one, StopRequested)]
        if outcome.stop is None:
            assert not requests, str(outcome.rule)
            assert values[-1].step == outcome.run.last_step == EPOCHS * STEPS
        else:
            assert [one.reason for one in requests] == [outcome.stop.reason], str(outcome.rule)
            if outcome.rule.name == "EarlyStopping":  # the other asks amid an epoch, and the loop looks at its end
                assert (requests[0].step, values[-1].step) == (outcome.stop.step, outcome.stop.step)
            stops.add(outcome.stop.step)
        if outcome.judge:
            seen = [one for one in values if one.key == outcome.judge]
            assert len(seen) == outcome.checks_until_stop
            means = [one.value / one.count for one in seen]
            assert outcome.best == (max if outcome.mode == "max" else min)(means)
            assert outcome.best_step == seen[means.index(outcome.best)].step
        verdicts = [one.verdict for one in events if isinstance(one, Decided)]
        assert sorted(verdicts) == sorted(outcome.answers.verdicts.elements()), str(outcome.rule)
    assert len(stops) > 5  # or the grid has told nothing


def test_a_run_that_is_trained_again_publishes_the_very_values(run: Path) -> None:
    """What the test above stands on: until a rule stops it, the run is the recorded one, bit for bit."""
    from asynchub.recorded import recorded_events

    before = [(one.key, one.value, one.step) for one in recorded_events(run, ScalarUpdated)]  # type: ignore[attr-defined]
    again = trained(EarlyStopping("val/accuracy", mode="max", patience=2))
    values = [(one.key, one.value, one.step) for one in again if isinstance(one, ScalarUpdated)]
    assert values == before[: len(values)]


def test_a_plateau_rule_reduces_where_it_did_in_the_run_that_it_steered(one_thread: None, tmp_path: Path) -> None:
    hub = MessageHub("steered")
    hub.attach(Journal(tmp_path / "journal"))
    kept = Kept()
    hub.attach(kept, ParameterChanged)
    train(hub, plateau={"factor": 0.5, "patience": 1})
    (outcome,) = what_if("ReduceLROnPlateau:val/loss:lr=0.5:factor=0.5:patience=1", tmp_path)
    live = [(one.step, one.old, one.new) for one in kept.events if isinstance(one, ParameterChanged)]
    assert live
    assert [(one.step, one.old, one.new) for one in outcome.answers.changes] == live  # type: ignore[union-attr]


# --- what an outcome says


def test_an_outcome_tells_what_was_kept_lost_and_saved() -> None:
    outcome = tried("EarlyStopping:val/loss:patience=2", recorded(3.0, 2.0, 2.5, 2.4, 1.0, 9.0))
    assert outcome.stop is not None
    assert outcome.stop.step == 40
    assert (outcome.best, outcome.best_step, outcome.best_of_run, outcome.worse_by) == (2.0, 20, 1.0, 1.0)
    assert (outcome.checks_until_stop, outcome.checks) == (4, 6)
    assert (outcome.steps_saved, outcome.share_saved) == (20, 20 / 60)
    assert (outcome.seconds_until_stop, outcome.seconds_saved, outcome.run.seconds) == (30.0, 20.0, 50.0)


def test_a_rule_that_never_stops_keeps_the_best_of_the_run() -> None:
    outcome = tried("EarlyStopping:val/loss:patience=9", recorded(3.0, 2.0, 2.5))
    assert outcome.stop is None
    assert (outcome.best, outcome.worse_by, outcome.steps_saved, outcome.seconds_saved) == (2.0, 0.0, 0, 0.0)


def test_values_are_means_and_those_not_finite_are_never_the_best() -> None:
    events: list[Event] = [
        ScalarUpdated(seq=number, time=0.0, step=number, key="loss", value=2 * value, count=2)
        for number, value in enumerate((3.0, math.nan, -math.inf, 1.0, 2.0), 1)
    ]
    outcome = tried("EarlyStopping:loss:patience=1:check_finite=False", events)
    assert (outcome.best, outcome.best_step, outcome.best_of_run, outcome.checks_until_stop) == (3.0, 1, 1.0, 2)
    outcome = tried("EarlyStopping:loss:patience=1", recorded(math.nan, math.nan, key="loss"))
    assert (outcome.best, outcome.best_of_run, outcome.worse_by) == (None, None, None)
    outcome = tried("EarlyStopping:loss:patience=1", recorded(math.nan, 1.0, key="loss"))
    assert (outcome.best, outcome.worse_by) == (None, math.inf)


def test_another_scalar_may_judge_and_the_rest_of_the_step_counts() -> None:
    events: list[Event] = []
    for step, (loss, accuracy) in enumerate([(1.0, 0.5), (2.0, 0.6), (0.5, 0.7)], 1):
        for key, value in (("val/loss", loss), ("val/accuracy", accuracy)):
            events.append(ScalarUpdated(seq=len(events) + 1, time=0.0, step=step, key=key, value=value))
    outcome = tried("EarlyStopping:val/loss:patience=1", events, judge="val/accuracy:max")
    assert outcome.stop is not None
    assert outcome.stop.step == 2
    assert (outcome.judge, outcome.mode, outcome.best, outcome.best_of_run) == ("val/accuracy", "max", 0.6, 0.7)
    assert outcome.checks_until_stop == 2


def test_time_between_two_processes_does_not_count() -> None:
    events = recorded(1.0, 2.0)
    loaded = StateLoaded(seq=3, time=1e9 + 5000, step=20)
    later = ScalarUpdated(seq=4, time=1e9 + 5010, step=30, key="val/loss", value=3.0)
    assert tried("EarlyStopping:val/loss", [*events, loaded, later]).run.seconds == 20.0


def test_missing_events_and_times_are_lived_with() -> None:
    events = [*recorded(1.0, 2.0), EventsDropped(seq=9, time=math.nan, missed=7)]
    outcome = tried("EarlyStopping:val/loss:patience=1", events)
    assert outcome.run.missed == 7
    assert outcome.seconds_saved == 0.0


def test_a_run_that_is_longer_than_what_is_read_at_once_is_one_run() -> None:
    chance = np.random.default_rng(0)
    values = (1 / np.arange(1, 30_001) + chance.normal(0, 0.01, 30_000)).tolist()
    events = recorded(*values, every=1)
    reference = EarlyStopping("val/loss", patience=500)
    stop = next(step for step, value in enumerate(values, 1) if reference.check(value).name != "NOT_STOPPED")
    outcome = tried("EarlyStopping:val/loss:patience=500", events)
    assert outcome.stop is not None
    assert outcome.stop.step == stop
    assert outcome.best == min(values[:stop])
    assert outcome.seconds_until_stop == stop - 1


def test_events_are_read_once_and_only_as_they_come() -> None:
    asked = 0

    def once() -> Iterator[Event]:
        nonlocal asked
        for event in recorded(*[1.0] * 20_000, every=1):
            asked += 1
            yield event

    outcomes = try_rules("EarlyStopping:val/loss:patience=10,100,1000", once())
    assert [one.stop.step for one in outcomes if one.stop] == [11, 101, 1001]
    assert asked == 20_000


def test_rules_may_be_made_by_functions() -> None:
    made = []

    def make() -> EarlyStopping:
        made.append(EarlyStopping("val/loss", patience=1))
        return made[-1]

    rules = [Rule("mine", make), *parse_rules("EarlyStopping:val/loss:patience=5")]
    outcomes = try_rules(rules, recorded(1.0, 2.0, 3.0))
    assert [one.rule.name for one in outcomes] == ["mine", "EarlyStopping"]
    assert made[0].best == 1.0
    with pytest.raises(ArgumentError, match="observer"):
        try_rules(Rule("log", lambda: JsonlLogger("x")), recorded(1.0))


def test_a_rule_that_fails_leaves_the_others() -> None:
    class Failing:
        role = "control"
        monitor = "val/loss"

        async def __call__(self, events: Any) -> None:
            async for event in events:
                raise ValueError(event.value)

    failed, other = try_rules([Rule("failing", Failing), "EarlyStopping:val/loss:patience=1"], recorded(1.0, 2.0))
    assert repr(failed.error) == "ValueError(1.0)"
    assert other.stop is not None


@pytest.mark.parametrize(
    ("rule", "judge", "text"),
    [
        ("EarlyStopping:val/los", None, "run has no 'val/los'; it has val/loss"),
        ("EarlyStopping:val/loss", "val/accuracy:max", "run has no 'val/accuracy'"),
        ("EarlyStopping:val/loss", "val/accuracy:up", "a judge must be KEY, KEY:min or KEY:max"),
    ],
)
def test_a_key_that_the_run_lacks_is_named(rule: str, judge: str | None, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        try_rules(rule, recorded(1.0), judge=judge)


def test_a_run_without_events_has_no_keys() -> None:
    with pytest.raises(ArgumentError, match="it has no scalars"):
        try_rules("EarlyStopping:val/loss", [])
    (outcome,) = try_rules("MaxSteps:3", [])
    assert (outcome.stop, outcome.run.last_step, outcome.share_saved) == (None, 0, 0.0)


def test_rules_of_runtime_infos_are_warned_of_where_only_the_newest_is_known(tmp_path: Path) -> None:
    hub = MessageHub("saved")
    for epoch, hub.step in enumerate(range(1, 5)):
        hub.update_info("epoch", epoch)
        hub.update_scalar("val/loss", hub.step)
    (tmp_path / "run").mkdir()
    hub.save(tmp_path / "run")
    rules = ["EarlyStopping:val/loss:patience=1", "EarlyStopping:val/loss:patience=1:min_epochs=2"]
    plain, by_epoch = what_if(rules, tmp_path / "run")
    assert plain.run.infos_lost
    assert (plain.wants_infos, by_epoch.wants_infos) == (False, True)
    (outcome,) = try_rules(rules[1], [InfoUpdated(seq=1, time=0.0, key="epoch", value=9), *recorded(1.0)[:1]])
    assert not outcome.run.infos_lost
