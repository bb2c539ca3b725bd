"""What the events of a run amount to: against the simplest model, and of events of every kind."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynchub import Journal, MessageHub
from asynchub.batches import Batch, batch_of, encode_event, events_of
from asynchub.dashboard import marks
from asynchub.dashboard.alerts import alert_lines
from asynchub.dashboard.fact_reader import FactReader
from asynchub.dashboard.facts import RunFacts
from asynchub.dashboard.sifting import counted_in, counting
from asynchub.dashboard.speed import pipeline_cards, speed_lines
from asynchub.dashboard.view import RunView
from asynchub.dashboard.walking import Walk, newest_batches
from asynchub.dataflow import BottleneckChanged, PipelineRecovered, PipelineReported, PipelineStalled
from asynchub.events import (
    CheckpointRemoved,
    CheckpointSaved,
    Event,
    InfoUpdated,
    JournalDegraded,
    JournalRestored,
    Rewound,
    SaveFailed,
    ScalarUpdated,
    StateSaved,
    TrackerDegraded,
    TrackerRestored,
)
from asynchub.journal.reading import read_journal
from asynchub.recorded import recorded_events
from asynchub.requests import Decided
from asynchub.specimens import every_kind_of_event
from tests.benchmarks.pyramid import write
from tests.dashboard.runs import RUN_ID, Point, Writer
from tests.dashboard.test_view import check_texts

KEYS = ("loss", "acc", "norm")


def _random_run(writer: Writer, rng: np.random.Generator) -> None:
    """Write frames of values, infos, decisions and rewinds, in some segments."""
    for step in range(int(rng.integers(5, 60))):
        match int(rng.integers(0, 9)):
            case 0:
                writer.event(InfoUpdated(key=str(rng.choice(KEYS)), value=int(rng.integers(0, 9))))
            case 1:
                writer.event(Decided(author="rule", verdict="at", reason=str(step)))
            case 2 if writer.seq > 10:
                writer.event(Rewound(to_seq=int(rng.integers(1, writer.seq))))
            case 3:
                writer.begin_segment()
            case _:
                size = int(rng.integers(1, 6))
                values = rng.choice([1.5, -2.0, math.nan, math.inf, -math.inf], size).tolist()
                keys = rng.choice(KEYS, size).tolist()
                counts = rng.integers(0, 3, size).tolist()
                writer.points(map(Point, keys, [step] * size, values, counts))


def _model(run: Path) -> tuple[dict[str, Any], dict[str, int], dict[str, Any], int]:
    """Return newest values, counts of what is not finite, infos and decisions, event by event."""
    newest: dict[str, Any] = {}
    bad: dict[str, int] = {}
    infos: dict[str, Any] = {}
    decided = 0
    for event in recorded_events(run):
        if isinstance(event, ScalarUpdated):
            newest[event.key] = (event.value, event.count, event.step)
            bad[event.key] = bad.get(event.key, 0) + (not math.isfinite(event.value))
        elif isinstance(event, InfoUpdated):
            infos[event.key] = event.value
        elif isinstance(event, Decided):
            decided += 1
    return newest, {key: count for key, count in bad.items() if count}, infos, decided


@pytest.mark.parametrize("seed", range(10))
def test_the_facts_are_those_of_the_events_that_count(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    writer = Writer(tmp_path / "run")
    reader = FactReader(tmp_path / "run")
    for _ in range(3):  # also of a run that grows while it is looked at
        _random_run(writer, rng)
        while reader.update():
            pass
        newest, bad, infos, decided = _model(tmp_path / "run")
        for found in (reader, FactReader(tmp_path / "run")):
            while found.update(0.0):
                pass
            facts = found.facts
            shown = {key: (one.value, one.samples, one.step) for key, one in facts.newest.items()}
            assert repr(shown) == repr({key: newest[key] for key in shown})  # NaN is not equal to itself
            assert set(shown) == set(newest)
            assert {key: one.total for key, one in facts.not_finite.items()} == bad
            assert facts.infos == infos
            assert facts.kinds["Decided"] == decided
            assert facts.seq == writer.seq
            assert found.is_whole


@pytest.mark.parametrize("seed", range(8))
def test_a_walk_has_all_events_once_and_in_order(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    writer = Writer(tmp_path / "run")
    _random_run(writer, rng)
    walk = Walk(writer.folder, RUN_ID)
    found: list[int] = []
    while taken := walk.read():
        found += [event.seq for one in taken for event in _events(one.batch)]
    assert found == list(range(1, writer.seq + 1))
    assert [event.seq for batch in read_journal(writer.folder).batches() for event in _events(batch)] == found
    newest, closed = newest_batches(writer.folder)
    assert not closed
    assert [event.seq for batch in newest for event in _events(batch)] == found[-sum(one.size for one in newest) :]


def _events(batch: Any) -> Iterator[Event]:
    assert isinstance(batch, Batch)
    return events_of(batch)


@pytest.mark.parametrize("seed", range(20))
def test_what_counts_of_a_batch_is_what_no_rewind_has_taken_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    events = [(seq, b"") for seq in sorted(set(rng.integers(1, 60, 30).tolist()))]
    rewinds = {int(seq): int(rng.integers(0, seq)) for seq in rng.integers(1, 70, rng.integers(0, 5))}
    branches: dict[int, list[int]] = {0: []}  # what counted when an event was published
    for seq in range(1, 70):
        branches[seq] = [*branches[rewinds.get(seq, seq - 1)], seq]
    counted = [seq for seq, _ in events if seq in branches[69]]
    parts = counted_in(Batch([], [], events), counting(rewinds.items()))
    assert [seq for part in parts for seq, _ in part.events] == counted


def test_events_of_every_kind_are_told_in_lines(tmp_path: Path) -> None:
    hub = MessageHub("all")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    for event in every_kind_of_event():
        if isinstance(event, ScalarUpdated):
            hub.update_scalar(event.key, event.value, event.count)
        elif isinstance(event, InfoUpdated):
            hub.update_info(event.key, event.value, resumed=False)
        else:
            hub.publish(replace(event, seq=-1, time=math.nan))
    hub.commit()
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        while view.update():
            pass
        check_texts(view.screen())
        assert view.screen().marks_total > 15
        for row in view.keys()[1]:
            assert row.text.isprintable()
            assert row.summary.isprintable()
        (card,) = view.screen().pipelines
        assert [stage.text for stage in card.stages] == ["busy 50 %"]
    hub.close()


@pytest.mark.parametrize("event", every_kind_of_event(), ids=lambda event: f"{event.seq} {type(event).__name__}")
def test_an_event_whose_fields_are_something_else_is_passed_over(event: Event, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    names = [field.name for field in fields(event) if field.name not in ("seq", "time", "step", "key")]
    things: tuple[Any, ...] = ("text", 7, None, [1], {"a": 1}, math.nan, math.inf, b"bytes", 10**5000)
    for wrong in things[: -1 if event.key == "epoch" else None]:  # which curves are drawn over
        for name in [] if isinstance(event, ScalarUpdated | Rewound) else names:
            writer.event(replace(event, **{name: wrong}))
    writer.points([Point("loss", 1, 1.0)])
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        while view.update():
            pass
        check_texts(view.screen())
        assert view.screen().seq == writer.seq


@pytest.mark.parametrize("newest", [5, 25])
def test_the_newest_marks_are_kept_and_all_are_counted(newest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MOST", newest)
    facts = _facts(*(CheckpointRemoved(path="a") if number % 2 else CheckpointSaved() for number in range(40)))
    assert facts.marks.total == 20
    assert [mark.seq for mark in facts.marks.kept()] == list(range(1, 40, 2))[-newest:]


def _facts(*events: Event) -> RunFacts:
    facts = RunFacts()
    stamped = [event.stamped(number, 1e9 + number, number) for number, event in enumerate(events, 1)]
    facts.take(batch_of([], [(event.seq, encode_event(event, None, None)[0]) for event in stamped]))
    return facts


@pytest.mark.parametrize(
    ("events", "text", "level"),
    [
        (
            [TrackerDegraded(tracker="w", error="no")],
            "w does not take anything at step 1: no",
            "warn",
        ),
        ([JournalDegraded(path="j", error="full")], "the disk refuses the journal at step 1: full", "bad"),
        ([SaveFailed(path="p", error="full")], "a save to p failed at step 1: full", "bad"),
        ([PipelineStalled(seconds=12.0, reason="decode hangs")], "data has stalled for 12.0 s at step 1", "bad"),
        ([SaveFailed(path="p", error="full"), StateSaved(path="q", saved_seq=1)], "saved again at step 2: q", "quiet"),
        (
            [PipelineStalled(seconds=12.0, reason="hangs"), PipelineRecovered(seconds=13.0)],
            "data goes on at step 2 after 13.0 s",
            "quiet",
        ),
        (
            [TrackerDegraded(tracker="w", error="no"), TrackerRestored(tracker="w", delivered=3)],
            "w is back at step 2: it got 3 values late",
            "quiet",
        ),
        (
            [JournalDegraded(path="j", error="full"), JournalRestored(path="j", missed=7)],
            "the journal is whole again at step 2; 7 events are missing in it",
            "warn",
        ),
    ],
    ids=range(8),
)
def test_what_is_wrong_is_said_until_it_is_over(events: list[Event], text: str, level: str) -> None:
    (line,) = alert_lines(_facts(*events), (), (), None)
    assert line.text.startswith(text)
    assert line.level == level
    assert line.start == len(events)


def test_a_save_that_works_is_not_worth_a_word() -> None:
    assert alert_lines(_facts(StateSaved(path="q", saved_seq=1)), (), (), None) == ()


REPORT = {
    "pipeline": "data",
    "state": "input_bound",
    "verdict": {"kind": "stage", "stage": "decode", "gain": 0.24, "reason": "decode is busy 98 % of the time"},
    "stages": [
        {"name": "read", "busy": 0.41, "concurrency": 1, "errors": 0},
        {"name": "decode", "busy": 0.98, "concurrency": 4, "errors": 2},
    ],
    "queues": [{"name": "raw", "depth": 63.6, "capacity": 64, "after": "read", "into": "decode"}],
    "consumer": {"name": "trainer", "wait_fraction": 0.31},
}


def test_what_limits_the_speed_is_said_with_what_mending_it_is_worth() -> None:
    facts = _facts(PipelineReported(report=REPORT))
    assert [line.text for line in speed_lines(facts, 0, is_over=False)] == [
        "decode limits data: trainer waits 31 % of its time",
        "mending decode is worth at most +24 %",
        "decode is busy 98 % of the time",
    ]
    (card,) = pipeline_cards(facts)
    assert (card.headline, card.level) == ("decode limits data: trainer waits 31 % of its time", "warn")
    read, decode, trainer = card.stages
    assert (read.text, read.limits) == ("busy 41 %, queue 64/64", False)
    assert (decode.text, decode.limits) == ("busy 98 %, 4 at once, 2 errors", True)
    assert (trainer.name, trainer.text) == ("trainer", "waits 31 %")


def test_a_bottleneck_is_known_without_a_report() -> None:
    facts = _facts(BottleneckChanged(kind="stage", stage="decode", reason="it is busy", gain=0.5))
    assert speed_lines(facts, 0, is_over=False)[0].text == "decode limits data, worth at most +50 %"


def test_of_a_run_that_measures_nothing_it_is_said_how_to_know() -> None:
    told = [line.text for line in speed_lines(RunFacts(), 12, is_over=False)]
    assert told[0].startswith("Not measured: attach StepTimeMonitor")
    assert "12 events are not on the disk yet" in told


@pytest.mark.slow
def test_what_a_long_run_does_is_known_within_half_a_second(tmp_path: Path) -> None:
    write(tmp_path, 1, 50, 1_000_000, single=True)
    (run,) = tmp_path.glob("run-*")
    took = []
    for _ in range(3):
        start = time.perf_counter()
        with RunView(run, tmp_path / "cache") as view:
            view.update(0.0)
            screen = view.screen()
            took.append(time.perf_counter() - start)
            assert (screen.status.state, screen.status.step) == ("finished", 999_999)
            assert view.row().metrics["layer.0/loss"]
    assert sorted(took)[1] < 0.5, took
