"""A pyramid has what counts in a journal, once, whatever happened to the run, the journal and the cache."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynchub import Journal, JsonlLogger, MessageHub
from asynchub.dashboard.buckets import Buckets, reduce
from asynchub.dashboard.pyramid import Pyramid
from asynchub.events import Rewound
from tests.dashboard.runs import RUN_ID, Point, Writer, brute_force, check_same, columns_of, compacted_run

pytestmark = pytest.mark.usefixtures("_grown_up")


def check(pyramid: Pyramid, points: list[Point]) -> None:
    """Fail unless a pyramid has these values, at each level, and one by one."""
    assert pyramid.problem == ""
    assert sorted(pyramid.keys) == sorted({point.key for point in points})
    for level in range(4):
        for key in pyramid.keys:
            rows = pyramid.rows(key, level)
            assert int(rows.points.sum()) == pyramid.count(key)
            check_same(reduce(rows, 1), brute_force(points, rows.width)[key])
    for key in pyramid.keys:
        values = pyramid.values(key, pyramid.rows(key))
        assert values is not None
        assert values.size == pyramid.count(key)
        check_same(reduce(values, 1), brute_force(points, 1)[key])


class _Resumed(NamedTuple):
    """The run was resumed from the state after a part of what there is, which may have been abandoned before."""

    part: float


KEYS = ("a", "b/c", "ü \ud800\n")
VALUES = st.one_of(st.floats(-1e9, 1e9), st.sampled_from([math.nan, math.inf, -math.inf, 0.25]))


@st.composite
def _frames(draw: st.DrawFn) -> list[list[Point] | _Resumed | str]:
    """Return what a run does: values in frames, other segments, resumptions."""
    script: list[list[Point] | _Resumed | str] = []
    step = draw(st.integers(-100, 1000))
    stride = draw(st.sampled_from([1, 1, 3, 50]))
    with_steps = draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    special = draw(st.lists(VALUES, min_size=1, max_size=4))
    for kind in draw(
        st.lists(st.sampled_from(["points", "points", "points", "segment", "resumed", "back"]), max_size=12)
    ):
        if kind == "points":
            frame = []
            for _ in range(draw(st.integers(1, 120))):
                step += stride * int(rng.integers(0, 3))
                value = float(rng.choice(special)) if rng.random() < 0.1 else float(rng.normal())
                key = KEYS[min(int(rng.exponential(0.7)), 2)]
                frame.append(Point(key, None if rng.random() < with_steps else step, value, int(rng.integers(0, 4))))
            script.append(frame)
        elif kind == "resumed":
            script.append(_Resumed(draw(st.floats(0, 1))))
            step -= stride * draw(st.integers(0, 100))
        elif kind == "back":
            step -= draw(st.integers(0, 300))
        else:
            script.append("segment")
    return script


class _Played:
    """A script, played to a journal."""

    def __init__(self, run: Path) -> None:
        self.writer = Writer(run)
        self._published: dict[int, Point] = {}
        self._before: dict[int, int] = {}  # of each event the one that it went on from
        self._at = 0

    def play(self, part: list[Point] | _Resumed | str) -> None:
        """Do one part of it."""
        if isinstance(part, _Resumed):
            to_seq = int(part.part * self.writer.seq)
            self.writer.event(Rewound(to_seq=to_seq))
            self._before[self.writer.seq] = to_seq
            self._at = self.writer.seq
        elif isinstance(part, str):
            self.writer.begin_segment()
        else:
            for seq, point in enumerate(part, self.writer.seq + 1):
                self._published[seq], self._before[seq], self._at = point, self._at, seq
            self.writer.points(part)

    @property
    def points(self) -> list[Point]:
        """The values that count."""
        found: list[Point] = []
        seq = self._at
        while seq:
            found += [self._published[seq]] if seq in self._published else []
            seq = self._before[seq]
        return found[::-1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=_frames(), end=st.sampled_from(["close", "kill"]))
def test_buckets_are_what_brute_force_finds(script: list[list[Point] | _Resumed | str], end: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        played = _Played(Path(name) / "run")
        with Pyramid(Path(name) / "run", Path(name) / "cache") as followed:
            for part in script:
                played.play(part)
                assert not followed.update()
            if end == "close":
                played.writer.close()
                followed.update()
            check(followed, played.points)
        with Pyramid(Path(name) / "run", Path(name) / "cache") as again, Pyramid(Path(name) / "run", name) as anew:
            for pyramid in (again, anew):
                while pyramid.update():
                    pass
                check(pyramid, played.points)
            for key in again.keys:
                for level in range(4):
                    _same_bits(again.rows(key, level), anew.rows(key, level))


def _same_bits(left: Buckets, right: Buckets) -> None:
    assert left.width == right.width
    for one, other in zip(left.columns, right.columns, strict=True):
        assert one.tobytes() == other.tobytes()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    level=st.integers(0, 3),
    more=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_buckets_older_than_the_last_never_change(sizes: list[int], level: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name, Pyramid(Path(name) / "run", Path(name) / "cache") as pyramid:
        writer = Writer(Path(name) / "run")
        before: Buckets | None = None
        step = 0
        for size in (100, *sizes):
            steps = step + np.arange(size)
            step += size
            writer.batch(columns_of("k", steps, rng.normal(size=(size, 1)), writer.seq))
            pyramid.update()
            now = reduce(pyramid.rows("k", level), 2**more)
            if before is not None and before.width == now.width:
                old = before.size - 1
                _same_bits(now.take(slice(0, old)), before.take(slice(0, old)))
            before = now


def test_the_sum_of_counts_is_that_of_the_journal(tmp_path: Path) -> None:
    hub = MessageHub("run")
    hub.attach(Journal(tmp_path / "run" / "journal"))
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        for hub.step in range(500):
            hub.update_scalar("loss", 0.5 * hub.step, count=3)
            if hub.step % 7 == 0:
                hub.update_scalars({"accuracy": 0.25, "none": math.nan})
        hub.close()
        pyramid.update()
        assert {key: pyramid.count(key) for key in pyramid.keys} == {"loss": 500, "accuracy": 72, "none": 72}
        for key in pyramid.keys:
            for level in range(3):
                assert int(pyramid.rows(key, level).points.sum()) == pyramid.count(key)
        assert pyramid.rows("loss", 2).weight.sum() == 1500
        assert pyramid.extent("accuracy") == (0, 497)
        assert pyramid.name == "run"
        assert pyramid.run_id == hub.run_id
        assert pyramid.seq >= 644


def test_a_run_that_is_not_there_is_said_and_comes_when_it_is_there(tmp_path: Path) -> None:
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        assert not pyramid.update()
        assert "holds neither a journal nor a snapshot" in pyramid.problem
        assert pyramid.keys == []
        assert pyramid.rows("loss").size == 0
        Writer(tmp_path / "run").points([Point("loss", 1, 0.5)])
        assert not pyramid.update()
        check(pyramid, [Point("loss", 1, 0.5)])


def test_a_torn_end_is_passed_over_and_read_when_it_is_whole(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    points = [Point("loss", step, 1.0) for step in range(300)]
    writer.points(points[:150])
    size = writer.path.stat().st_size
    writer.points(points[150:])
    data = writer.path.read_bytes()
    writer.path.write_bytes(data[: size + 77])
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        check(pyramid, points[:150])
        writer.path.write_bytes(data)
        pyramid.update()
        check(pyramid, points)


def test_where_the_journal_is_damaged_the_pyramid_ends_and_says_so(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    points = [Point("loss", step, 1.0) for step in range(300)]
    writer.points(points[:150])
    size = writer.path.stat().st_size
    writer.points(points[150:])
    writer.begin_segment()
    writer.points(points)
    path = sorted(writer.folder.glob("*.ahj"))[0]
    data = bytearray(path.read_bytes())
    data[size + 60] ^= 1
    path.write_bytes(data)
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        assert not pyramid.update()
        assert "damaged" in pyramid.problem
        assert pyramid.count("loss") == 150


def test_another_run_in_its_place_is_begun_anew(tmp_path: Path) -> None:
    first = Writer(tmp_path / "run")
    first.points([Point("old", step, 1.0) for step in range(300)])
    first.close()
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        (tmp_path / "run").rename(tmp_path / "aside")
        second = Writer(tmp_path / "run", run_id=bytes(16))
        points = [Point("new", step, 2.0) for step in range(700)]
        second.points(points)
        second.close()
        for _ in range(3):
            pyramid.update()
        check(pyramid, points)
    with Pyramid(tmp_path / "run", tmp_path / "cache") as again:
        again.update()
        check(again, points)
        assert again.run_id == bytes(16).hex() != RUN_ID.hex()


def test_what_was_deleted_comes_from_the_snapshot(tmp_path: Path) -> None:
    compacted_run(tmp_path / "run", 300)
    points = [Point("loss", step, float(step)) for step in range(300)]
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        assert pyramid.problem == ""
        assert pyramid.count("loss") == 300
        check_same(reduce(pyramid.rows("loss", 1), 1), brute_force(points, pyramid.rows("loss", 1).width)["loss"])


def test_what_was_deleted_and_is_in_no_snapshot_is_counted(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, 1.0) for step in range(150)])
    first = writer.path
    writer.begin_segment()
    points = [Point("loss", step, 1.0) for step in range(150, 400)]
    writer.points(points)
    first.unlink()
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        assert pyramid.missed == 150
        check(pyramid, points)


def test_a_run_with_snapshots_only_and_one_with_a_log_only_can_be_seen(tmp_path: Path) -> None:
    hub = MessageHub("run")
    for hub.step in range(200):
        hub.update_scalar("loss", float(hub.step))
    (tmp_path / "saved").mkdir()
    hub.save(tmp_path / "saved")
    (tmp_path / "log").mkdir()
    line = '{{"event":"ScalarUpdated","seq":{0},"time":1e9,"step":{0},"key":"loss","value":{0}.0,"count":1}}\n'
    (tmp_path / "log" / "metrics.jsonl").write_text("".join(map(line.format, range(200))) + '{"torn')
    points = [Point("loss", step, float(step)) for step in range(200)]
    for name in ("saved", "log"):
        with Pyramid(tmp_path / name, tmp_path / "cache") as pyramid:
            pyramid.update()
            check(pyramid, points)


@pytest.mark.parametrize("kept", ["journal", "snapshot", "log"])
def test_numbers_that_no_double_can_hold_are_infinities_as_values_and_no_epochs(kept: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    hub = MessageHub("run")
    if kept == "journal":
        hub.attach(Journal(run / "journal"))
    if kept == "log":
        hub.attach(JsonlLogger(run / "metrics.jsonl"))
    epochs = [3] if kept == "snapshot" else [1, 10**400, math.inf, math.nan, -(10**400), "two", 3]
    with hub:
        for hub.step in range(200):
            hub.update_scalar("loss", 10**400 if hub.step == 150 else -(10**400) if hub.step == 50 else 1)
            hub.update_scalar("few", 1.0, count=10**400 if hub.step == 70 else 1)
            if hub.step % 10 == 0 and hub.step // 10 < len(epochs):
                hub.update_info("epoch", epochs[hub.step // 10])
        if kept == "snapshot":
            hub.save(run)
    with Pyramid(run, tmp_path / "cache") as pyramid:
        assert not pyramid.update()
        assert pyramid.problem == ""
        assert [epoch for _, epoch in pyramid.epochs] == ([3.0] if kept == "snapshot" else [1.0, 3.0])
        rows = pyramid.rows("loss", 9)
        assert (pyramid.count("loss"), int(rows.plus_inf.sum()), int(rows.minus_inf.sum())) == (200, 1, 1)
        assert (pyramid.count("few"), float(pyramid.rows("few", 9).min.min())) == (200, 0.0)


def test_an_epoch_that_is_no_number_in_a_snapshot_is_left_out(tmp_path: Path) -> None:
    hub = MessageHub("run")
    hub.update_scalar("loss", 1.0)
    hub.update_info("epoch", 10**400)
    hub.save(f"{tmp_path}/run/")
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        assert pyramid.problem == ""
        assert pyramid.epochs == []
        assert pyramid.count("loss") == 1


BAD: list[tuple[str, object]] = [
    *(("value", "much"), ("value", None), ("count", "many"), ("count", 1.5), ("step", 2**63), ("step", "s")),
    *(("seq", 2**70), ("seq", -1), ("seq", None), ("time", 10**400), ("time", "NaN"), ("time", None), ("key", [])),
]


def test_lines_of_a_log_that_say_no_value_are_left_out_and_counted(tmp_path: Path) -> None:
    good = {"event": "ScalarUpdated", "seq": 1, "time": 1e9, "step": 0, "key": "loss", "value": 0.5, "count": 1}
    lines = [good, *({**good, name: bad} for name, bad in BAD), {**good, "seq": 2, "step": 1}]
    lines += [{"event": "InfoUpdated", "seq": seq, "time": 1e9, "key": "epoch", "value": 1} for seq in ("x", 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Pyramid(tmp_path, tmp_path / "cache") as pyramid:
        pyramid.update()
        assert f"left out {len(BAD)} lines that say no value, the first of key 'loss'" in pyramid.problem
        assert (pyramid.count("loss"), pyramid.epochs) == (2, [(3, 1.0)])


@pytest.mark.parametrize("to_seq", [-1, 2**70, "far", None, 1000])
def test_a_rewind_to_what_is_no_state_changes_nothing(to_seq: object, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    points = [Point("loss", step, 1.0) for step in range(150)]
    writer.points(points)
    writer.event(Rewound(to_seq=to_seq))  # type: ignore[arg-type]
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        check(pyramid, points)
