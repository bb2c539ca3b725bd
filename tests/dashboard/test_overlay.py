"""What another rule would have done is what the rule does, and whoever asks does not wait for it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from asynchub import EarlyStopping, Journal, MessageHub
from asynchub.dashboard.pyramid import Pyramid
from asynchub.overlay_rows import LABEL, OverlayAnswer
from asynchub.overlaying import MOST_RULES, RULES, Overlay, overlay
from asynchub.what_if import what_if
from tests.dashboard.runs import Point, Writer

RULE = "EarlyStopping:val/acc:mode=max:patience=3"


def accuracies(number: int) -> list[float]:
    return [0.1 * min(epoch, 5 + number) - 0.001 * max(epoch - 5 - number, 0) for epoch in range(20)]


def write(folder: Path, number: int = 0) -> Pyramid:
    """Write a run with a loss at each of 200 steps, and an accuracy at each tenth; return it, read."""
    writer = Writer(folder / str(number), run_id=number.to_bytes(16, "big"))
    for epoch, accuracy in enumerate(accuracies(number)):
        writer.points([Point("loss", 10 * epoch + step, 1.0) for step in range(10)])
        writer.points([Point("val/acc", 10 * epoch + 9, accuracy)])
    writer.points([Point("loss", 200 + step, 1.0) for step in range(50)])
    writer.close()
    return read(folder / str(number), folder / "cache")


def read(folder: Path, cache: Path) -> Pyramid:
    run = Pyramid(folder, cache)
    while run.update():
        pass
    return run


def test_it_says_what_the_rule_does(tmp_path: Path) -> None:
    runs = {f"run{number}": write(tmp_path, number) for number in range(3)}
    answer = overlay(runs, RULE)
    assert (answer.error, answer.waiting, answer.label) == ("", 0, "replay, not a forecast")
    for number, row in enumerate(answer.rows):
        (outcome,) = what_if(RULE, tmp_path / str(number))
        assert outcome.stop is not None
        assert (row.run, row.state, row.stop) == (f"run{number}", "stops", outcome.stop.step)
        assert row.stop == 10 * (5 + number + 3) + 9
        assert (row.best, row.best_step, row.best_of_run) == (outcome.best, outcome.best_step, outcome.best_of_run)
        assert (row.worse_by, row.steps_saved) == (0.0, 249 - outcome.stop.step)
        assert row.share_saved == outcome.share_saved
        assert row.seconds_saved == pytest.approx(outcome.seconds_saved)
        assert len(row.cells) == len(answer.heads)
        assert f"would stop at step {row.stop}, keeps val/acc" in row.text
        (mark,) = row.marks
        assert (mark.step, mark.kind, mark.key, mark.short) == (row.stop, "suggested", "val/acc", "would stop")
        assert mark.inputs["label"] == LABEL
        assert "has not improved" in mark.why
    json.dumps(answer.to_dict(), allow_nan=False)


def test_a_stop_that_a_run_made_is_the_one_that_the_replay_makes(tmp_path: Path) -> None:
    hub = MessageHub("live")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    hub.attach(EarlyStopping("val/acc", mode="max", patience=3))
    stopped = None
    with hub:
        for epoch, accuracy in enumerate(accuracies(1)):
            hub.update_scalar("val/acc", accuracy, step=epoch)
            hub.settle()
            if hub.stop_requested and stopped is None:
                stopped = epoch
    with read(tmp_path / "run", tmp_path / "cache") as run:
        (row,) = overlay({"a": run}, RULE).rows
    assert (row.stop, row.state) == (stopped, "stops")


def test_a_grid_has_a_row_for_each_rule_and_a_changed_rate_a_mark(tmp_path: Path) -> None:
    run = write(tmp_path)
    rows = overlay({"a": run}, "EarlyStopping:val/acc:max:patience=1,3,99").rows
    assert [row.stop for row in rows] == [69, 89, None]
    assert rows[2].state == "goes on"
    assert rows[2].text == "would not stop"
    (row,) = overlay({"a": run}, "ReduceLROnPlateau:val/acc:max:patience=2:lr=0.1").rows
    assert row.state == "goes on"
    assert len(row.marks) > 1
    assert row.marks[0].what == "would set lr 0.1000 -> 0.01000"
    assert row.marks[0].short == "lr 0.01000?"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("", "cannot be tried here: write one of EarlyStopping"),
        ("Nothing", "cannot be tried here"),
        ("os.path.join:a", "cannot be tried here"),
        ("StopOnFile:x", "cannot be tried here"),
        ("CheckpointPolicy:val/acc", "cannot be tried here"),
        ("SpikeDetection:loss:exclude_batches_path=x", "names a file"),
        ("EarlyStopping", "needs a key to monitor"),
        ("EarlyStopping:val/acc:patience=x", "is not a rule"),
        ("EarlyStopping:val/acc:patience=" + ",".join(map(str, range(1, MOST_RULES + 2))), "can be tried at once"),
        ("EarlyStopping:" + "x" * 2000, "may have 1000 characters"),
    ],
)
def test_a_rule_that_cannot_be_tried_is_refused_in_words(tmp_path: Path, rule: str, words: str) -> None:
    answer = overlay({"a": write(tmp_path)}, rule)
    assert (answer.rows, answer.waiting) == ((), 0)
    assert words in answer.error


def test_no_rule_that_can_be_tried_takes_a_path(tmp_path: Path) -> None:
    run = write(tmp_path)
    for name in RULES:
        for argument in ("path", "folder", "file"):
            assert overlay({"a": run}, f"{name}:{argument}=x").error


def test_what_is_wrong_with_one_run_is_in_its_row(tmp_path: Path) -> None:
    good = write(tmp_path)
    Writer(tmp_path / "other").points([Point("loss", 1, 1.0)])
    other, nothing = read(tmp_path / "other", tmp_path / "cache"), read(tmp_path / "none", tmp_path / "cache")
    damaged = write(tmp_path, 5)
    (path,) = (tmp_path / "5" / "journal").glob("*.ahj")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    rows = overlay({"a": good, "b": other, "c": nothing, "d": damaged}, RULE).rows
    assert [row.state for row in rows] == ["stops", "failed", "failed", "failed"]
    assert rows[1].error == "it has no 'val/acc'; it has loss"
    assert "holds neither a journal" in rows[2].error
    assert "damaged" in rows[3].error


def test_whoever_asks_does_not_wait_and_what_was_found_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    writer = Writer(folder)
    writer.points([Point("loss", step, -float(step)) for step in range(15_000)])
    writer.close()
    run = read(folder, tmp_path / "cache")
    quick = write(tmp_path)
    with Overlay() as tried:
        began = time.monotonic()
        answer = tried.ask({"a": run}, "EarlyStopping:loss:patience=2,3,4,5", seconds=0.0)
        assert time.monotonic() - began < 5.0
        assert (answer.rows, answer.waiting) == ((), 1)
        others = tried.ask({"b": quick}, RULE, seconds=0.0)  # another viewer does not end what goes on
        deadline = time.monotonic() + 60
        while (answer.waiting or others.waiting) and time.monotonic() < deadline:
            answer = tried.ask({"a": run}, "EarlyStopping:loss:patience=2,3,4,5", seconds=0.5)
            others = tried.ask({"b": quick}, RULE, seconds=0.5)
        assert len(answer.rows) == 4
        assert len(others.rows) == 1
        assert tried.ask({"a": run}, "EarlyStopping:loss:patience=2,3,4,5", seconds=0.0) == answer


def test_of_a_run_that_goes_on_the_newest_replay_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 1.0) for step in range(3)])
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run, Overlay() as tried:
        rule = "EarlyStopping:loss:patience=5"

        def ask() -> OverlayAnswer:
            run.update()
            answer = tried.ask({"a": run}, rule, seconds=20.0)
            assert not answer.waiting
            return answer

        assert ask().rows[0].stop is None
        writer.points([Point("loss", step, 1.0) for step in range(3, 9)])
        assert ask().rows[0].stop is None  # the run has only just been replayed
        monkeypatch.setattr("asynchub.overlaying.AGAIN", 0.0)
        deadline = time.monotonic() + 20
        while ask().rows[0].stop != 5:
            assert time.monotonic() < deadline


def test_nothing_goes_on_when_nobody_asks(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "long")
    writer.points([Point("loss", step, -float(step)) for step in range(60_000)])
    writer.close()
    run = read(tmp_path / "long", tmp_path / "cache")
    tried = Overlay()
    tried.ask({"a": run}, "EarlyStopping:loss:patience=2,3,4,5,6,7,8", seconds=0.0)
    began = time.monotonic()
    tried.close()
    assert time.monotonic() - began < 3.0
    assert isinstance(tried.ask({}, RULE), OverlayAnswer)
