"""The runs of a folder are found, whatever else is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchub import Journal, MessageHub
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.runs import find_runs
from asynchub.events import Rewound
from tests.dashboard.runs import RUN_ID, Point, Writer


def test_an_empty_folder_has_no_runs_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert find_runs(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="is no folder"):
        find_runs(tmp_path / "nothing")


def test_runs_are_found_with_their_journals_snapshots_and_logs(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "sweep" / "b", name="resnet")
    writer.points([Point("loss", 1, 0.5), Point("norm", 1, 0.5)])
    writer.points([Point("loss", 2, 0.5)])
    writer.close()
    hub = MessageHub("saved hub")
    hub.update_scalar("loss", 0.5)
    (tmp_path / "c").mkdir()
    hub.save(tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "metrics.jsonl").write_text(
        '{"event":"ScalarUpdated","seq":1,"time":5.5,"step":1,"key":"loss","value":1.0,"count":1}\n'
        '{"event":"ScalarUpdated","seq":2,"time":7.5,"step":1,"key":"loss","value":1.0,"count":1}\n'
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("no run")
    snapshot, log, journal = find_runs(tmp_path)
    assert (snapshot.kind, snapshot.run_id, snapshot.problem) == ("snapshot", hub.run_id, "")
    assert (log.kind, log.name, log.began, log.newest, log.keys) == ("log", "d", 5.5, 7.5, ("loss",))
    assert (journal.kind, journal.name, journal.run_id) == ("journal", "resnet", RUN_ID.hex())
    assert journal.folder == tmp_path / "sweep" / "b"
    assert journal.newest == 1e9 + 3
    assert journal.keys == ("loss",)
    assert journal.ended
    assert journal.began is not None
    assert find_runs(tmp_path / "sweep" / "b") == [journal]


def test_a_run_that_goes_on_is_found_with_what_is_in_its_tail(tmp_path: Path) -> None:
    hub = MessageHub("live")
    hub.attach(Journal(tmp_path / "run" / "journal", interval=100.0))
    hub.update_scalar("loss", 0.5)
    (found,) = find_runs(tmp_path)
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        seen = pyramid.keys, pyramid.count("loss"), pyramid.run_id
        hub.close()
        pyramid.update()
        assert (pyramid.name, pyramid.count("loss")) == ("live", 1)
    assert seen == (["loss"], 1, hub.run_id)
    assert (found.name, found.run_id, found.keys, found.ended) == ("run", hub.run_id, ("loss",), False)
    assert found.problem == ""
    (found,) = find_runs(tmp_path)
    assert (found.name, found.ended) == ("live", True)


def test_a_damaged_run_is_said_and_the_others_are_found(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Writer(tmp_path / name).points([Point("loss", 1, 0.5)])
    (path,) = (tmp_path / "b" / "journal").glob("*.ahj")
    path.write_bytes(b"nonsense" * 20)
    (tmp_path / "c" / "journal" / "tail.mm").write_bytes(b"nonsense")
    (tmp_path / "d" / "journal").mkdir(parents=True)
    (tmp_path / "d" / "journal" / "LOCK").write_text("process 1\n")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / f"{1:020}.ahs").write_bytes(b"nonsense")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "metrics.jsonl").write_bytes(b"\xff{")
    a, b, c, d, e, f = find_runs(tmp_path)
    assert (a.problem, c.problem) == ("", "")
    assert c.keys == ("loss",)
    assert "wanted a segment" in b.problem
    assert d.problem == "no event yet"
    assert e.problem
    assert f.problem
    for found in (b, d, e, f):
        with Pyramid(found.folder, tmp_path / "cache") as pyramid:
            assert not pyramid.update()
            assert pyramid.problem
            assert pyramid.keys == []


def test_ten_thousand_keys_and_odd_characters_are_fine(tmp_path: Path) -> None:
    odd = ["", "a\0b", "\ud800", "<script>", "\x1b[2J", "ключ/損失", "x" * 5000]
    names = odd + [f"key/{number}" for number in range(10_000)]
    writer = Writer(tmp_path / "run")
    for step in range(2):
        writer.points([Point(name, step, 1.0) for name in names])
    (found,) = find_runs(tmp_path)
    assert set(found.keys) == set(names)
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        pyramid.update()
        assert pyramid.keys == names
        writer.points([Point(name, 2, 1.0) for name in names])
        writer.close()
        pyramid.update()
        assert {pyramid.count(name) for name in odd} == {3}
    with Pyramid(tmp_path / "run", tmp_path / "cache") as again:
        again.update()
        assert again.keys == names
        assert again.rows("\ud800").points.sum() == 3
        writer.event(Rewound(to_seq=len(names) + 5))
        again.update()
        assert [again.count(name) for name in (names[0], names[4], names[5])] == [2, 2, 1]
