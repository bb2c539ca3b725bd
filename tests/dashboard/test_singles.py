"""Single values of a run that goes on: what was read is not read again, and is what somebody sees who comes later."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynchub.batches import decode_batch
from asynchub.dashboard.buckets import Buckets, of_values
from asynchub.dashboard.curves import Curve, curves
from asynchub.dashboard.frame_index import FrameIndex
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.singles import Singles
from asynchub.events import Rewound
from tests.dashboard.runs import Point, Writer

KEYS = ["loss", "norm", "index", "none"]
NAN, INF = float("nan"), float("inf")

grown = pytest.mark.usefixtures("_grown_up")


def _points(rng: np.random.Generator, start: int, stop: int) -> list[Point]:
    points = []
    for step in range(start, stop):
        loss = float(rng.choice([NAN, INF, -INF])) if rng.random() < 0.01 else float(rng.normal())
        points += [Point("loss", step, loss), Point("index", None, float(rng.normal()))]
        if step % 3 == 0:
            points.append(Point("norm", step, float(rng.normal()), int(rng.integers(0, 4))))
    return points


def _look(pyramid: Pyramid, start: int | None, window: int) -> list[Curve]:
    return [
        *curves(pyramid, KEYS, start, None, 700),
        *curves(pyramid, KEYS, start, None, 200, window=window),
        *curves(pyramid, KEYS, start, None, 200, window=window, smoothing="ema"),
    ]


def _same(found: list[Curve], wanted: list[Curve]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.key, one.single, one.width, one.note) == (other.key, other.single, other.width, other.note)
        for column, expected in zip(one.buckets.columns, other.buckets.columns, strict=True):
            np.testing.assert_array_equal(column, expected)
        np.testing.assert_array_equal(one.x, other.x)
        if other.smooth is not None:
            np.testing.assert_array_equal(one.smooth, other.smooth)


@grown
@pytest.mark.parametrize("seed", range(4))
def test_who_follows_a_run_sees_what_somebody_sees_who_comes_later(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    writer = Writer(tmp_path / "run")
    step = 0
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        seqs = []
        for turn in range(12):
            more = int(rng.choice([1, 5, 40, 400]))
            writer.points(_points(rng, step, step + more))
            step += more
            seqs.append(writer.seq)
            if turn % 5 == 4:
                to_seq = int(rng.choice(seqs))
                writer.event(Rewound(to_seq=to_seq))
                step = max(step - int(rng.integers(0, 100)), 0)
            if turn % 4 == 3:
                writer.begin_segment()
            pyramid.update()
            for start in (None, step - 150):
                found = _look(pyramid, start, 30)
                with Pyramid(tmp_path / "run", tmp_path / "other" / str(turn)) as fresh:
                    fresh.update()
                    _same(found, _look(fresh, start, 30))


@grown
def test_of_a_run_that_goes_on_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def decode(payload: bytes) -> Any:
        decoded.append(1)
        return decode_batch(payload)

    monkeypatch.setattr("asynchub.dashboard.frame_index.decode_batch", decode)
    writer = Writer(tmp_path / "run")
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        for step in range(300):
            writer.points([Point("loss", step, 1.0 / (step + 1))])
        pyramid.update()
        assert curves(pyramid, ["loss"])[0].points == 300
        first = len(decoded)
        for step in range(300, 320):
            writer.points([Point("loss", step, 1.0)])
            pyramid.update()
            decoded.clear()
            assert curves(pyramid, ["loss"], window=10)[0].points == step + 1
            assert len(decoded) == 1
        assert first >= 300 - 64
        writer.close()
        pyramid.update()
        decoded.clear()
        for buckets in (900, 901):
            assert curves(pyramid, ["loss"], buckets=buckets)[0].points == 320
        assert len(decoded) >= first  # of a run that is over nothing is kept but its curves


def _rows(values: Buckets, *edges: int) -> Buckets:
    """Return the buckets from each index to the next."""
    firsts, lasts = ([values.first_seq[at] for at in side] for side in (edges[:-1], [edge - 1 for edge in edges[1:]]))
    points = [after - before for before, after in pairwise(edges)]
    none = of_values(np.array(edges[:-1]), np.zeros(len(points)), np.ones(len(points)))
    return none._replace(first_seq=np.array(firsts), last_seq=np.array(lasts), points=np.array(points))


def _some(size: int, bad: int = -1) -> Buckets:
    numbers = np.arange(size, dtype=float)
    if bad >= 0:
        numbers[bad] = NAN
    return of_values(np.arange(size), numbers, np.ones(size), np.arange(size) * 3 + 7, np.arange(size) / 2)


def test_only_what_is_not_known_is_missing_and_all_is_given_back() -> None:
    values, singles = _some(100, bad=33), Singles()

    def ask(*edges: int) -> int:
        rows = _rows(values, *edges)
        missing = singles.missing({"a": rows})["a"]
        wanted = np.zeros(values.size, bool)
        for first, last in zip(missing.rows.first_seq, missing.rows.last_seq, strict=True):
            wanted |= (values.first_seq >= first) & (values.first_seq <= last)
        assert int(wanted.sum()) == int(missing.rows.points.sum())
        found = singles.take({"a"}, "a", rows, missing, values.take(wanted))
        for column, expected in zip(found.columns, values.take(slice(edges[0], edges[-1])).columns, strict=True):
            np.testing.assert_array_equal(column, expected)
        return int(wanted.sum())

    assert ask(40, 50, 60) == 20
    assert ask(40, 50, 63) == 3  # the last one has grown
    assert ask(40, 50, 63) == 0
    assert ask(40, 50, 61) == 0  # by somebody who is behind
    assert ask(20, 30, 40, 50, 63) == 20
    assert ask(40, 50) == 0
    assert ask(0, 10) == 10
    assert ask(0, 10, 20, 30, 40, 50, 63, 100) == 47
    singles.go_on("other")
    assert ask(20, 30) == 10


def test_there_is_room_for_so_much_and_the_oldest_goes_first() -> None:
    values, singles = _some(1000), Singles(most=80_000)

    def ask(keys: str, *edges: int) -> list[bool]:
        rows = dict.fromkeys(keys, _rows(values, *edges))
        missing = singles.missing(rows)
        for key, one in missing.items():
            given = values.take(slice(edges[0], edges[-1])) if one.rows.size else Buckets.none()
            assert singles.take(rows, key, rows[key], one, given).size == edges[-1] - edges[0]
        return [not one.rows.size for one in missing.values()]

    assert ask("abc", 0, 1000) == [False] * 3  # 32 kB each
    assert ask("abc", 0, 1000) == [True, True, False]  # there is room for two, and they stay
    assert ask("d", 0, 1000) == [False]
    assert ask("d", 0, 1000) == [True]
    assert ask("b", 0, 1000) == [True]
    assert ask("a", 0, 1000) == [False]
    assert ask("x", 0, 10) == [False]
    assert ask("x", 0, 10) == [True]


def _read(index: FrameIndex, *interval: int) -> list[float]:
    return [float(value) for value in index.values([(interval[0], interval[-1])], {"loss": 0}).rows.min]


def test_a_frame_that_was_found_is_found_again_and_a_segment_that_is_another_one_is_seen(tmp_path: Path) -> None:
    def write(run: str, factor: float, upto: int) -> Path:
        writer = Writer(tmp_path / run)
        for seq in range(1, upto):
            if seq == 5:
                writer.begin_segment()
            writer.points([Point("loss", seq, factor * seq)])
        return writer.folder

    folder, other = write("run", 1.0, 9), write("other", 2.0, 20)
    index = FrameIndex(folder)
    assert _read(index, 3, 6) == [3, 4, 5, 6]
    assert _read(index, 8, 99) == [8]
    newest = sorted(folder.glob("*.ahj"))[-1]
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-5])  # torn
    assert _read(index, 6, 9) == [6, 7]
    newest.write_bytes(whole)
    assert _read(index, 6, 9) == [6, 7, 8]
    newest.write_bytes(whole[:-20] + bytes(20))
    assert _read(index, 6, 9) == [6, 7]
    os.replace(sorted(other.glob("*.ahj"))[-1], newest)
    assert _read(index, 6, 9) == [12, 14, 16, 18]
    sorted(folder.glob("*.ahj"))[0].unlink()
    assert _read(index, 1, 6) == [10, 12]
    newest.write_bytes(b"nonsense" * 30)
    assert _read(index, 1, 6) == []
    assert index.values([], {"loss": 0}).rows.size == 0
