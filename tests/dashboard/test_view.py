"""What a person sees of a run: of real runs, and the same as other views of them say."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asynchub import Journal, MessageHub, recover
from asynchub.dashboard import fact_reader, walking
from asynchub.dashboard import view as view_module
from asynchub.dashboard.charts import Choice, chosen
from asynchub.dashboard.facts import RunFacts
from asynchub.dashboard.screen import PipelineCard, Screen
from asynchub.dashboard.view import RunView, matching
from asynchub.dataflow import BottleneckChanged, ConcurrencyChanged
from asynchub.declaring import Parameter
from asynchub.inspecting import inspect
from asynchub.requests import CheckpointRequested, Decided, ParameterChangeRequested, StopRequested
from asynchub.rules import DummyOptimizer
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.nan_guard import NanGuard
from asynchub.subscribers.plateau import ReduceLROnPlateau
from asynchub.subscription import Subscription
from tests.dashboard.runs import Point, Writer

ODD = (
    "a\nb\x1b[31m",
    "<script>alert(1)</script>",
    "\u202egnp.exe",
    "x" * 10_000,
    " ",
    "\ud800",
    "ключ/потеря",
)


class Knob:
    """A subscriber that declares parameters."""

    def __init__(self, *parameters: Parameter) -> None:
        self.parameters = parameters

    async def __call__(self, events: Subscription) -> None:
        async for _ in events:
            pass


@contextmanager
def viewed(run: Path, cache: Path) -> Iterator[RunView]:
    """Provide a view of a run that has read all of it."""
    with RunView(run, cache) as view:
        while view.update():
            pass
        yield view


def until(condition: Callable[[], bool], view: RunView) -> None:
    """Take what comes until something is so; fail if it is not within a minute."""
    deadline = time.monotonic() + 60
    while view.update() or not condition():
        assert time.monotonic() < deadline, view.screen()


def trained(run: Path, steps: int = 400, patience: int = 3) -> MessageHub:
    """Return a hub, not left, whose run has stopped getting better."""
    hub = MessageHub("toy")
    hub.attach(Journal(run / "journal", interval=0.01))
    hub.attach(EarlyStopping("val/acc", mode="max", patience=patience))
    hub.attach(ReduceLROnPlateau(DummyOptimizer([0.1, 0.1]), "val/loss", patience=1, factor=0.5))
    hub.attach(NanGuard("train/**", action=lambda event: None))
    hub.update_info("max_iters", 10_000)
    hub.update_info("model", "resnet50")
    hub.update_info("lr", 0.1)
    for hub.step in range(steps):
        hub.update_scalar("train/loss", np.nan if 210 <= hub.step < 213 else 1 / (1 + hub.step), count=1)
        if hub.step % 50 == 0:
            hub.update_scalar("val/acc", 64.0 * min(hub.step, 150) / 200, count=64)
            hub.update_scalar("val/loss", 1.0 + hub.step)
            hub.settle()
    return hub


def texts(screen: Screen) -> list[str]:
    """Return all texts of a screen that are shown, but for keys."""
    lines = [line.text for line in (*screen.status.lines, *screen.stops, *screen.speed, *screen.alerts)]
    marks = [text for mark in screen.marks for text in (mark.who, mark.what, mark.why, mark.short)]
    inputs = [text for mark in screen.marks for pair in mark.inputs.items() for text in pair]
    cards = [text for card in screen.pipelines for text in (card.name, card.headline, *_stages(card))]
    charts = [text for chart in screen.charts for text in (chart.why, chart.note)]
    row = screen.row
    told = [row.name, row.word, row.problem, *row.metrics.values(), *row.config.values(), screen.status.reason]
    return [*lines, *marks, *inputs, *cards, *charts, *told]


def _stages(card: PipelineCard) -> list[str]:
    return [text for stage in card.stages for text in (stage.name, stage.text)]


def check_texts(screen: Screen) -> None:
    """Fail unless all texts are of one line that can be printed."""
    for text in texts(screen):
        assert text.isprintable(), text
        assert len(text) < 1500


def test_the_view_has_the_numbers_of_asynchub_inspect(tmp_path: Path) -> None:
    trained(tmp_path / "run").close()
    told = inspect(tmp_path / "run")
    with viewed(tmp_path / "run", tmp_path / "cache") as view:
        total, rows = view.keys()
        screen = view.screen()
        found = {row.key: (f"{row.count:,}", row.text) for row in rows}
    lines = re.findall(r"^  (\S+) +([\d,]+) values +newest +(\S+)$", told, re.MULTILINE)
    assert found == {key: (count, newest) for key, count, newest in lines}
    assert total == screen.keys == 3
    assert f"seq          1 to {screen.seq:,}" in told
    assert screen.row.run_id in told
    assert screen.row.name == "toy"
    assert screen.status.step == 399
    assert screen.row.config == {"max_iters": "10000", "model": "resnet50", "lr": "0.1000"}
    stops = int(re.search(r"StopRequested +(\d+)", told)[1])  # type: ignore[index]
    changes = int(re.search(r"ParameterChanged +(\d+)", told)[1])  # type: ignore[index]
    nans = 4  # three values, and the one after them
    assert screen.marks_total == stops + changes / 2 + nans
    check_texts(screen)


def test_the_charts_that_matter_come_first_with_their_best_values(tmp_path: Path) -> None:
    trained(tmp_path / "run").close()
    with viewed(tmp_path / "run", tmp_path / "cache") as view:
        accuracy, loss, train = view.screen().charts
        assert (accuracy.key, accuracy.mode, accuracy.best, accuracy.best_step) == ("val/acc", "max", 0.75, 150)
        assert accuracy.note == "best 0.7500 at step 150"
        assert accuracy.why == "watched by EarlyStopping"
        assert (loss.key, loss.mode, loss.best, loss.best_step) == ("val/loss", "min", 1.0, 0)
        assert (train.key, train.mode) == ("train/loss", "")


@pytest.mark.usefixtures("_grown_up")
def test_the_best_value_is_exact_in_a_long_run_that_grows(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=3000)
    hub = MessageHub("long")
    hub.attach(Journal(tmp_path / "run" / "journal", interval=0.01))
    hub.attach(EarlyStopping("score", mode="max", patience=10_000))
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        for hub.step, value in enumerate(values.tolist()):
            hub.update_scalar("score", value)
            hub.settle()
            if hub.step in (700, 1500, 2999):
                hub.commit()
                until(lambda: view.screen().seq >= hub.statistics().seq, view)
                (chart,) = view.screen().charts
                best = int(values[: hub.step + 1].argmax())
                assert (chart.best, chart.best_step) == (values[best], best)
        hub.close()


def test_why_it_will_stop_is_said_with_the_first_to_fire_first(tmp_path: Path) -> None:
    hub = trained(tmp_path / "run", steps=301, patience=7)
    with viewed(tmp_path / "run", tmp_path / "cache") as view:
        screen = view.screen()
        early, limit, plateau, guard = screen.stops
        assert early.text.startswith("EarlyStopping on val/acc: 3 of 7 checks without gain, fires in about 200 steps")
        assert early.text.endswith("(first to fire)")
        assert early.key == "val/acc"
        assert limit.text.startswith("Step limit in 9,700 steps")
        assert plateau.text.startswith("ReduceLROnPlateau on val/loss (stops nothing)")
        assert guard.text == "NanGuard on train/loss: quiet since step 213"
        assert {guard.level, plateau.level} == {"quiet"}
        hub.request_stop("enough")
        while view.update():
            pass
        screen = view.screen()
        assert screen.status.state == "stopping"
        assert screen.stops[0].text == "Stop asked for at step 300: enough"
        hub.settle()
        hub.close()
        while view.update():
            pass
        screen = view.screen()
        assert screen.status.state == "stopped"
        assert screen.status.reason == "enough"
        assert [line.text for line in screen.stops] == ["Stop applied at step 300: enough"]


def test_decisions_are_marks_with_who_what_why_and_what_was_seen(tmp_path: Path) -> None:
    hub = trained(tmp_path / "run")
    hub.on_request(ParameterChangeRequested, lambda request: None)
    hub.request(ParameterChangeRequested(name="lr", value=0.01, reason="too fast", author="alice", id="1"))
    hub.request(CheckpointRequested(author="bob", id="2"))
    hub.settle()
    hub.request(StopRequested(author="bob", id="3", reason="home"))
    hub.commit()
    with viewed(tmp_path / "run", tmp_path / "cache") as view:
        pending, refused, manual, *_ = view.screen().marks
        assert (pending.what, pending.kind, pending.who) == ("stop, asked for", "manual", "bob")
        assert (refused.what, refused.kind, refused.who) == ("checkpoint refused", "refused", "bob")
        assert "nobody applies CheckpointRequested" in refused.why
        assert (manual.what, manual.kind, manual.who, manual.why) == ("lr = 0.01", "manual", "alice", "too fast")
        marks = view.marks()
        stop = next(mark for mark in marks if mark.what == "stop")
        assert (stop.who, stop.kind, stop.step, stop.key) == ("EarlyStopping", "acted", 300, "")
        assert stop.inputs["value"] == "0.7500"
        assert (stop.inputs["wait"], stop.inputs["patience"]) == ("3", "3")
        change = next(mark for mark in marks if mark.who == "ReduceLROnPlateau")
        assert change.what == "lr 0.1 -> 0.05"  # of both groups
        assert change.short == "lr ÷2"
        assert change.inputs["monitor"] == "val/loss"
        guard = [mark for mark in marks if mark.who == "NanGuard"]
        assert [mark.step for mark in guard] == [210, 211, 212, 213]
        assert {mark.key for mark in guard} == {"train/loss"}
        assert view.marks(210, 212) == tuple(guard[:3])
        assert view.marks(key="val/loss", most=10_000) == tuple(mark for mark in marks if not mark.key)
        assert view.marks(most=2) == marks[-2:]
        assert [one.state for one in view.screen().asked][:2] == ["seen", "refused"]
    hub.close()


def test_what_is_not_finite_is_said_as_the_curves_count_it(tmp_path: Path) -> None:
    hub = MessageHub("odd numbers")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    rng = np.random.default_rng(3)
    values = rng.choice([1.0, np.nan, np.inf, -np.inf, 10**400, -(10**400), 3, True], 500)
    for hub.step, value in enumerate(values.tolist()):
        hub.update_scalar(f"key {hub.step % 3}", value, count=int(rng.integers(0, 3)))
    hub.close()
    with viewed(tmp_path / "run", tmp_path / "cache") as view:
        found = {}
        for line in view.screen().alerts:
            assert line.level in ("warn", "bad")
            found[line.key] = line
        for key in ("key 0", "key 1", "key 2"):
            rows = view.pyramid.rows(key)
            bad = rows.take(rows.not_finite > 0)
            counts = [int(column.sum()) for column in (bad.nan, bad.plus_inf, bad.minus_inf)]
            words = ", ".join(f"{count} {name}" for count, name in zip(counts, ("NaN", "+inf", "-inf"), strict=True))
            assert found[key].text.startswith(f"{words} in {key}, steps")
            assert (found[key].start, found[key].stop) == (bad.first.min(), bad.first.max())


def test_what_was_rewound_does_not_count(tmp_path: Path) -> None:
    run = tmp_path / "run"
    hub = MessageHub("back")
    hub.attach(Journal(run / "journal", interval=0.01))
    hub.update_info("note", "first")
    for hub.step in range(100):
        hub.update_scalar("loss", float(hub.step))
    mark = hub.mark()
    hub.update_info("note", "second")
    hub.update_scalar("gone", 1.0)
    hub.update_scalar("loss", float("nan"))
    hub.request_stop("not counting")
    hub.settle()
    hub.close()
    with viewed(run, tmp_path / "cache") as view:
        assert view.screen().status.state == "stopped"
        hub = recover(run, mark=mark)
        hub.attach(Journal(run / "journal", interval=0.01))
        hub.update_scalar("loss", -1.0)
        hub.commit()
        until(lambda: view.pyramid.count("loss") == 101, view)
        for again in (view, RunView(run, tmp_path / "other")):
            while again.update():
                pass
            screen = again.screen()
            assert screen.status.state == "running"
            assert screen.alerts == ()
            assert [mark.kind for mark in screen.marks] == ["resumed"]
            assert screen.row.config == {"note": "first"}
            assert {row.key: row.text for row in again.keys()[1]} == {"loss": "-1.000"}
            again.close()
        hub.close()


def test_a_run_that_was_closed_and_goes_on_has_a_mark_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run).close()
    with viewed(run, tmp_path / "cache") as view:
        assert view.screen().status.state == "stopped"
        hub = recover(run)
        hub.attach(Journal(run / "journal", interval=0.01))
        hub.update_scalar("val/acc", 0.9)
        hub.commit()
        until(lambda: view.screen().status.state != "stopped", view)
        screen = view.screen()
        assert screen.status.state == "running"
        assert (screen.marks[0].kind, screen.marks[0].what) == ("resumed", "went on")
        hub.close()


def test_ten_thousand_keys_come_in_pages(tmp_path: Path) -> None:
    hub = MessageHub("many")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    hub.update_scalars({f"layer.{number}/norm": float(number) for number in range(10_000)})
    hub.close()
    with viewed(tmp_path / "run", tmp_path / "cache") as view:
        total, rows = view.keys(start=9_900)
        assert (total, len(rows), rows[-1].key, rows[-1].text) == (10_000, 100, "layer.9999/norm", "9999")
        assert rows[-1].summary
        assert [row.key for row in view.keys("LAYER.777/")[1]] == ["layer.777/norm"]
        assert view.keys("layer.77*/norm")[0] == 111
        assert view.keys("**nonsense")[0] == 0
        assert view.keys(start=20_000) == (10_000, [])
        screen = view.screen()
        assert screen.keys == 10_000
        assert len(screen.charts) == 4
        assert len(screen.row.metrics) < 100


@pytest.mark.parametrize("key", ODD, ids=range(len(ODD)))
def test_a_key_may_have_any_letters(key: str, tmp_path: Path) -> None:
    hub = MessageHub("odd")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    hub.attach(EarlyStopping("loss", patience=3, check_finite=True), name=key)
    hub.update_info(f"info {key}", key)
    hub.update_scalars({key: float("nan"), "loss": 1.0})
    hub.request(StopRequested(author=key, reason=key, id=key.encode("utf-8", "replace").decode()))
    hub.settle()
    hub.close()
    with viewed(tmp_path / "run", tmp_path / "cache") as view:
        screen = view.screen()
        check_texts(screen)
        assert key in [row.key for row in view.keys()[1]]
        assert screen.alerts[0].key == key
        view.marks(key=key)


def test_of_a_compacted_journal_the_past_comes_from_a_snapshot(tmp_path: Path) -> None:
    run = tmp_path / "run"
    hub = MessageHub("compact")
    hub.attach(Journal(run / "journal", interval=0.01, segment_size=4000, compact=True))
    hub.update_info("batch_size", 64)
    hub.update_scalar("once", 5.0)
    hub.update_scalar("once", float("inf"))
    for hub.step in range(3000):
        hub.update_scalar("loss", float(hub.step))
        if hub.step % 1000 == 999:
            hub.save(run)
            hub.commit()
    hub.close()
    first = min(int(path.name[:20]) for path in (run / "journal").glob("*.ahj"))
    assert first > 3
    with viewed(run, tmp_path / "cache") as view:
        screen = view.screen()
        assert screen.row.config == {"batch_size": "64"}
        rows = {row.key: (row.count, row.text) for row in view.keys()[1]}
        assert rows == {"once": (2, "+inf"), "loss": (3000, "2999")}
        assert screen.alerts[0].text.startswith("1 +inf in once")
        assert len(screen.alerts) == 1
    for path in run.glob("*.ahs"):
        path.unlink()
    with viewed(run, tmp_path / "other") as view:
        told = [line.text for line in view.screen().alerts]
        assert f"{first - 1:,} events are missing: nobody has them any more" in told


@pytest.fixture
def _long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no past be short, and say at once that it is read."""
    monkeypatch.setattr(fact_reader, "SHORT", 0)
    monkeypatch.setattr(view_module, "LONG", 0.0)


@pytest.mark.usefixtures("_long")
def test_the_row_of_a_run_is_there_before_all_of_it_was_read(tmp_path: Path) -> None:
    trained(tmp_path / "run").close()
    with RunView(tmp_path / "run", tmp_path / "cache", row_id="r1", title="mine") as view:
        row = view.row()
        assert (row.id, row.name, row.state, row.step) == ("r1", "mine", "stopped", 399)
        assert row.metrics["val/acc"] == "0.7500"
        assert row.to_dict()["config"]["model"] == "resnet50"
        before = view.screen()
        while view.update():
            pass
        after = view.screen(before.time)
        assert before.status.lines[:-1] == after.status.lines
        assert before.status.lines[-1].text == "reading its past: 0 %"
        assert replace(before.status, lines=()) == replace(after.status, lines=())
        assert before.stops == after.stops


def test_a_short_past_is_read_at_the_first_look(tmp_path: Path) -> None:
    trained(tmp_path / "run").close()
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        first = view.screen()
        while view.update():
            pass
        last = view.screen(first.time)
        assert first.marks == last.marks
        assert first.marks_total == last.marks_total > 4
        assert (first.status, first.stops, first.alerts) == (last.status, last.stops, last.alerts)


@pytest.mark.usefixtures("_long")
def test_it_is_said_how_far_a_long_past_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path / "run")
    for start in range(0, 100_000, 1_000):
        writer.points(Point("loss", step, 1.0) for step in range(start, start + 1_000))
    writer.close()
    monkeypatch.setattr(walking, "SIZE", 2**16)
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        said = [view.screen().status.lines[-1].text]
        while view.update(0.0):
            said.append(view.screen().status.lines[-1].text)
        shares = [int(text.split()[-2]) for text in said if text.startswith("reading its past: ")]
        assert shares == sorted(shares)
        assert shares[0] == 0
        assert len(set(shares)) > 5
        assert not view.screen().status.lines[-1].text.startswith("reading")


def test_that_a_past_is_read_is_not_said_before_it_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "run").close()
    monkeypatch.setattr(fact_reader, "SHORT", 0)
    monkeypatch.setattr(view_module, "LONG", 1e9)
    with RunView(tmp_path / "run", tmp_path / "cache") as view:
        assert not any("its past" in line.text for line in view.screen().status.lines)


def test_a_parameter_that_somebody_sets_has_one_mark_with_its_old_and_its_new_value(tmp_path: Path) -> None:
    hub, rate = MessageHub("set"), [0.1]
    hub.attach(Journal(tmp_path / "run" / "journal", interval=0.01))
    hub.attach(Knob(Parameter("lr", lambda: rate[-1], rate.append), Parameter("wd", lambda: 0.0, lambda value: None)))
    for hub.step, value in ((3, 0.05), (5, 0.025)):
        hub.request(ParameterChangeRequested(name="lr", value=value, reason="too fast", author="alice", id=f"{value}"))
        if value == 0.05:
            hub.step = 4
            hub.settle()
    hub.request(ParameterChangeRequested(name="lr", value=0.5, author="rule"))
    hub.commit()
    with viewed(tmp_path / "run", tmp_path / "cache") as view:
        waiting = [mark.what for mark in view.marks()]
        assert waiting == ["lr 0.1 -> 0.05", "lr = 0.025, asked for", "lr = 0.5, asked for"]
        hub.settle()
        hub.request(ParameterChangeRequested(name="lr", value="much", author="bob", id="x"))
        hub.settle()
        hub.commit()
        while view.update():
            pass
        said = [(mark.step, mark.who, mark.what, mark.short, mark.kind, mark.why) for mark in view.marks()]
        assert said[:3] == [
            (3, "alice", "lr 0.1 -> 0.05", "lr ÷2", "manual", "too fast"),
            (5, "alice", "lr 0.05 -> 0.025", "lr ÷2", "manual", "too fast"),
            (5, "rule", "lr 0.025 -> 0.5", "lr x20", "acted", ""),
        ]
        assert [(one[2], one[4]) for one in said[3:]] == [("lr = much refused", "refused")]
    hub.close()


def test_what_limits_a_pipeline_is_no_mark_but_another_concurrency_is(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    for stage in ("decode", "augment") * 50:
        writer.event(BottleneckChanged(kind="stage", stage=stage, reason="it is busy"))
    writer.event(ConcurrencyChanged(stage="decode", old=2, new=4, reason="it is busy", author="Tuner"))
    writer.close()
    with viewed(tmp_path / "run", tmp_path / "cache") as view:
        (mark,) = view.marks()
        assert (mark.who, mark.what, mark.kind) == ("Tuner", "decode: 2 -> 4 at once", "acted")
        screen = view.screen()
        assert screen.marks_total == 1
        assert screen.speed[0].text == "augment limits data"


def test_charts_are_chosen_anew_only_if_keys_or_rules_are_others(tmp_path: Path) -> None:
    facts, choice = RunFacts(), Choice()
    keys = ["loss", "a"]
    first = choice.of(facts, keys)
    assert first == chosen(facts, keys)
    assert choice.of(facts, list(keys)) is first
    keys.append("val/acc")
    second = choice.of(facts, keys)
    assert second == chosen(facts, keys) != first
    facts.take_event(Decided(verdict="waiting", author="EarlyStopping", monitor="a", wait=1, patience=3), "Decided")
    third = choice.of(facts, keys)
    assert third == chosen(facts, keys) != second
    assert choice.of(RunFacts(), keys) == second


def test_a_pattern_of_keys_is_a_test() -> None:
    assert matching("train/*")("train/loss")
    assert not matching("train/*")("train/loss/x")
    assert matching("LOSS")("train/loss")
    assert matching("**loss")("train/Loss")  # malformed: as text
    assert matching("")("x")


def test_the_folder_of_a_run_is_known_if_that_of_its_journal_was_given(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=2).close()
    for folder in (tmp_path / "run", tmp_path / "run" / "journal"):
        assert RunView(folder, tmp_path / "cache").run_folder == tmp_path / "run"


def test_numbers_may_be_of_any_size(tmp_path: Path) -> None:
    hub = MessageHub("huge")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    for number in (10**5000, -(10**400), float("inf"), float("nan"), 5e-324, True):
        keys = ("hub/overhead", "hub/lag/x", "hub/dropped/x", "time/data_share", "loss", "hub/settle_s")
        hub.update_scalars(dict.fromkeys(keys, number))
        for key in ("max_iters", "max_epochs", "lr"):
            hub.update_info(key, number)
        hub.commit()
        with viewed(tmp_path / "run", tmp_path / "cache") as view:
            check_texts(view.screen())
            assert all(row.text.isprintable() for row in view.keys()[1])
    hub.close()
