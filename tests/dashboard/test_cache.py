"""The cache of a viewer: kept by one, read by any number, and worth nothing when it is damaged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from asynchub.dashboard import pyramid_file, run_reader
from asynchub.dashboard.buckets import reduce
from asynchub.dashboard.keeping import cache_path
from asynchub.dashboard.pyramid import Pyramid
from asynchub.events import Rewound
from tests.dashboard.runs import Point, Writer, brute_force, check_same
from tests.dashboard.test_pyramid import check

pytestmark = pytest.mark.usefixtures("_grown_up")


def _points(count: int, start: int = 0) -> list[Point]:
    return [Point(("loss", "norm")[step % 2], step, float(np.sin(step))) for step in range(start, start + count)]


@pytest.fixture
def run(tmp_path: Path) -> Writer:
    """A run of 4,000 values that has ended."""
    writer = Writer(tmp_path / "run")
    for start in range(0, 4000, 500):
        writer.points(_points(500, start))
    writer.close()
    return writer


def _see(tmp_path: Path, points: list[Point]) -> Pyramid:
    """Look at the run, and go; return what was seen."""
    pyramid = Pyramid(tmp_path / "run", tmp_path / "cache")
    with pyramid:
        while pyramid.update():
            pass
        check(pyramid, points)
        assert pyramid.cache_problem == ""
    return pyramid


def _cache(tmp_path: Path) -> Path:
    return cache_path(tmp_path / "run" / "journal", tmp_path / "cache")


def test_the_next_viewer_reads_no_segment(run: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _see(tmp_path, _points(4000))

    def refuse(_: object) -> None:
        raise AssertionError("a segment was read")

    with Pyramid(tmp_path / "run", tmp_path / "cache") as again, monkeypatch.context() as patch:
        patch.setattr(run_reader.SegmentReader, "read", refuse)
        assert not again.update()
        assert again.problem == ""
        rows = again.rows("loss", 1)
        check_same(reduce(rows, 1), brute_force(_points(4000), rows.width)["loss"])


def test_the_folder_of_the_run_is_only_read(run: Writer, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    _see(tmp_path, _points(4000))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize("place", ["head", "frame", "directory", "blocks", "end"])
def test_a_damaged_cache_is_made_anew(run: Writer, tmp_path: Path, place: str) -> None:
    _see(tmp_path, _points(4000))
    path = _cache(tmp_path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[pyramid_file.START + 8 : pyramid_file.START + 12], "little")
    start = pyramid_file.START + pyramid_file.FRAME.size
    at = {"head": 20, "frame": start - 4, "directory": start + 40, "blocks": start + length + 30, "end": len(whole) - 9}
    data = bytearray(whole)
    data[at[place]] ^= 16
    path.write_bytes(data)
    _see(tmp_path, _points(4000))
    assert len(path.read_bytes()) == len(whole)
    _see(tmp_path, _points(4000))


@pytest.mark.parametrize("rounds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_any_byte_of_a_cache_may_be_damaged_and_any_end_may_be_missing(
    run: Writer, tmp_path: Path, rng: np.random.Generator, rounds: int
) -> None:
    _see(tmp_path, _points(4000))
    path = _cache(tmp_path)
    whole = path.read_bytes()
    for _ in range(rounds):
        data = bytearray(whole)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        _see(tmp_path, _points(4000))
        path.write_bytes(whole[: int(rng.integers(len(whole)))])
        _see(tmp_path, _points(4000))


def test_a_cache_of_another_version_or_run_is_replaced(run: Writer, tmp_path: Path) -> None:
    path = _cache(tmp_path)
    path.parent.mkdir()
    for foreign in (b"", b"something else", pyramid_file.HEAD.pack(pyramid_file.MAGIC, 9, 0, bytes(16), 6, bytes(8))):
        path.write_bytes(foreign)
        _see(tmp_path, _points(4000))
        assert path.read_bytes() != foreign
        path.unlink()


def test_a_cache_that_is_deleted_while_it_is_read_is_written_again(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points(_points(2000))
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        assert _cache(tmp_path).exists()
        _cache(tmp_path).unlink()
        writer.points(_points(2000, 2000))
        while pyramid.update():
            pass
        check(pyramid, _points(4000))
        assert _cache(tmp_path).exists()


def test_a_cache_that_says_more_than_the_journal_has_is_not_believed(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points(_points(500))
    size = writer.path.stat().st_size
    writer.points(_points(500, 500))
    _see(tmp_path, _points(1000))
    data = writer.path.read_bytes()[:size]  # a power failure took what was not on the disk, and the run goes on
    writer.path.write_bytes(data)
    writer.seq = 500
    others = [Point("loss", step, -1.0) for step in range(500, 1100)]
    writer.points(others)
    _see(tmp_path, _points(500) + others)


def test_without_a_place_for_it_a_run_is_seen_all_the_same(run: Writer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        while pyramid.update():
            pass
        check(pyramid, _points(4000))
        assert "cannot be written" in pyramid.cache_problem


def test_two_viewers_see_the_same_and_one_of_them_keeps_the_cache(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    first, second = (Pyramid(tmp_path / "run", tmp_path / "cache") for _ in range(2))
    with first, second:
        for start in range(0, 2400, 300):
            writer.points(_points(300, start))
            for viewer in (first, second) if start % 200 else (second, first):
                while viewer.update():
                    pass
                check(viewer, _points(start + 300))
        assert max(first._reader.growth.unsaved, second._reader.growth.unsaved) < 60
        size = _cache(tmp_path).stat().st_size
        assert size > 1000
        first.close()
        for start in range(2400, 3400, 300):
            writer.points(_points(300, start))
            while second.update():
                pass
            check(second, _points(start + 300))
    assert _cache(tmp_path).stat().st_size > size


def test_a_resumption_far_back_is_kept_in_the_cache(run: Writer, tmp_path: Path) -> None:
    _see(tmp_path, _points(4000))
    run.event(Rewound(to_seq=1234))
    _see(tmp_path, _points(1234))
    more = [Point("loss", step, 7.0) for step in range(1200, 1900)]
    run.points(more)
    run.close()
    for _ in range(2):
        _see(tmp_path, _points(1234) + more)


def test_many_frames_become_one(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        for start in range(0, 12_000, 400):
            writer.points(_points(400, start))
            pyramid.update()
        check(pyramid, _points(12_000))
    _see(tmp_path, _points(12_000))
    file = pyramid_file.PyramidFile(_cache(tmp_path), bytes(range(16)))
    assert 1 <= file.frames <= 20
    file.close()


VIEWER = """
import sys
from asynchub.dashboard import growth, run_reader
from asynchub.dashboard.pyramid import Pyramid
growth.YOUNG, run_reader.SAVED_EACH = 100, 20
pyramid = Pyramid(sys.argv[1], sys.argv[2])
print("begun", flush=True)
while True:
    pyramid.update()
    for key in pyramid.keys:
        pyramid.rows(key, 1)
"""


@contextmanager
def _viewer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", VIEWER, str(tmp_path / "run"), str(tmp_path / "cache")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as viewer:
        try:
            yield viewer
        finally:
            viewer.kill()


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_viewers_may_be_killed_at_any_moment(rounds: int, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    count = 0
    for number in range(1, rounds + 1):
        with _viewer(tmp_path) as viewer:
            assert viewer.stdout is not None
            viewer.stdout.readline()
            end = time.monotonic() + random.uniform(0.0, 0.1)
            while time.monotonic() < end:
                if count < 800 * number:
                    writer.points(_points(50, count))
                    count += 50
            os.kill(viewer.pid, signal.SIGKILL)
            viewer.wait(20)
        _see(tmp_path, _points(count))


@pytest.mark.parametrize("level", [0, 1])
def test_what_is_near_some_steps_is_read_without_the_rest(
    run: Writer, tmp_path: Path, rng: np.random.Generator, level: int
) -> None:
    _see(tmp_path, _points(4000))
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        whole = pyramid.rows("loss", level)
        sizes = []
        for _ in range(50):
            low, high = np.sort(rng.integers(-500, 4500, 2)).tolist()
            some = pyramid.rows("loss", level, low, high)
            near = whole.take((whole.steps + whole.width > low) & (whole.steps <= high))
            assert set(near.first_seq.tolist()) <= set(some.first_seq.tolist())
            same = whole.take(np.isin(whole.first_seq, some.first_seq))
            assert [column.tobytes() for column in some.columns] == [column.tobytes() for column in same.columns]
            sizes.append(some.size)
        assert level or min(sizes) < whole.size / 2
