"""The runs of folders are found, listed, opened, followed and closed, however many there are."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asynchub import Journal, MessageHub
from asynchub.dashboard import gallery as gallery_module
from asynchub.dashboard.colours import colour
from asynchub.dashboard.comparing import Figures, differences, figures, ranked
from asynchub.dashboard.curves import curve
from asynchub.dashboard.finding import run_folders
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.groups import group_curve, grouped
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import RunRow
from asynchub.dashboard.table import Table
from asynchub.errors import ArgumentError
from asynchub.events import InfoUpdated, Rewound
from tests.dashboard.runs import Point, Writer


def write(folder: Path, number: int = 0, steps: int = 5, config: dict[str, object] | None = None) -> Path:
    """Write a run that has ended."""
    writer = Writer(folder, run_id=number.to_bytes(16, "big"), name=f"hub {number}")
    for key, value in (config or {}).items():
        writer.event(InfoUpdated(key=key, value=value))
    writer.points([Point("loss", step, number + 1.0 / (step + 1)) for step in range(steps)])
    writer.close()
    return folder


def until(holds: Callable[[], object], gallery: Gallery, seconds: float = 20.0) -> None:
    """Update until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        gallery.update(0.05)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at folders as often as asked to."""
    monkeypatch.setattr(gallery_module, "LOOK_EACH", 0.0)
    monkeypatch.setattr(gallery_module, "LOOK_SHARE", 0)


quick = pytest.mark.usefixtures("_quick")


def test_runs_are_listed_wherever_they_are(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "sweep" / "b", 1, config={"lr": 0.1, "aug": "mix"})
    write(tmp_path / "runs" / "a", 2)
    (tmp_path / "runs" / "log").mkdir()
    (tmp_path / "runs" / "log" / "metrics.jsonl").write_text(
        '{"event":"ScalarUpdated","seq":1,"time":5.5,"step":1,"key":"loss","value":1.0,"count":1}\n'
    )
    hub = MessageHub("saved")
    hub.update_scalar("loss", 0.5)
    (tmp_path / "runs" / "snap").mkdir()
    hub.save(tmp_path / "runs" / "snap")
    (tmp_path / "runs" / "notes").mkdir()
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        rows = gallery.rows()
        assert [row.folder for row in rows] == ["a", "log", "snap", os.path.join("sweep", "b")]
        assert [row.name for row in rows] == [row.folder for row in rows]
        assert rows[3].config == {"lr": "0.1000", "aug": "mix"}
        assert rows[3].run_id == (1).to_bytes(16, "big").hex()
        assert rows[3].state == "finished"
        assert rows[3].metrics == {"loss": "1.200"}
        assert len({(row.colour.hue, row.colour.dash) for row in rows}) == 4
        assert [row.folder for row in gallery.rows("lr=0.1 and aug=mix and loss>1")] == [rows[3].folder]
        assert gallery.problem == ""
        assert gallery.unread == 0
        with pytest.raises(ArgumentError, match="at character 4"):
            gallery.rows("lr<")


def test_the_folder_of_a_run_is_a_list_of_one(tmp_path: Path) -> None:
    write(tmp_path / "run")
    with Gallery([tmp_path / "run"], tmp_path / "cache") as gallery:
        (row,) = gallery.rows()
        assert (row.name, row.folder, gallery.title(row.id)) == ("hub 0", ".", "hub 0")
        assert gallery.run(row.id).screen().row.name == "hub 0"


def test_of_several_folders_a_title_leaves_out_what_their_paths_share(tmp_path: Path) -> None:
    for name in ("x/a", "x/b", "y/a", "y/deep/c"):
        write(tmp_path / "far" / "away" / name)
    top = tmp_path / "far" / "away"

    def titles(*names: str) -> list[str]:
        with Gallery([top / name for name in names], tmp_path / "cache") as gallery:
            rows = gallery.rows()
            assert [gallery.title(row.id) for row in rows] == [row.name for row in rows]
            assert all(Path(row.folder).is_absolute() for row in rows)
            return [row.name for row in rows]

    assert titles("x", "y") == [os.path.join(*one.split("/")) for one in ("x/a", "x/b", "y/a", "y/deep/c")]
    assert titles("x/a", "x/b") == ["a", "b"]
    assert titles("y", "y/deep") == [os.path.join("y", "a"), os.path.join("y", "deep", "c")]
    assert titles("y/a", "y/deep/c") == ["a", os.path.join("deep", "c")]


def test_ids_are_of_the_place_and_stay(tmp_path: Path) -> None:
    for top in ("x", "y"):
        write(tmp_path / top / "run")
    shutil.copytree(tmp_path / "x", tmp_path / "moved" / "x")
    ids = []
    for folders in (["x"], ["moved/x"], ["x", "y"]):
        with Gallery([tmp_path / one for one in folders], tmp_path / "cache") as gallery:
            ids.append([row.id for row in gallery.rows()])
            assert all(one.isalnum() for one in ids[-1])
    assert ids[0] == ids[1]
    assert len(set(ids[2])) == 2


def test_no_run_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with Gallery([tmp_path / "empty", tmp_path / "nowhere"], tmp_path / "cache") as gallery:
        assert gallery.rows() == []
        assert not gallery.update()
        assert "empty holds no run yet" in gallery.problem
        assert "nowhere is no folder" in gallery.problem
        with pytest.raises(LookupError, match="there is no run 'x'"):
            gallery.run("x")


@quick
def test_runs_that_come_and_go_are_seen(tmp_path: Path) -> None:
    first = write(tmp_path / "runs" / "a", 1)
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        (row,) = gallery.rows()
        view = gallery.run(row.id)
        write(tmp_path / "runs" / "b", 2)
        until(lambda: len(gallery.rows()) == 2, gallery)
        assert gallery.rows()[0].colour == row.colour
        assert gallery.run(row.id) is view
        shutil.rmtree(first)
        until(lambda: len(gallery.rows()) == 1, gallery)
        with pytest.raises(LookupError):
            gallery.run(row.id)
        assert gallery.rows()[0].folder == "b"
        view.screen()  # whoever has it may go on
        shutil.rmtree(tmp_path / "runs" / "b")
        until(lambda: gallery.problem, gallery)


@quick
def test_a_row_says_what_its_run_does_though_nobody_opened_it(tmp_path: Path) -> None:
    with Gallery([tmp_path], tmp_path / "cache") as gallery:
        hub = MessageHub("live")
        hub.attach(Journal(tmp_path / "run" / "journal", interval=0.02))
        with hub:
            hub.update_scalar("loss", 0.5, step=1)
            until(lambda: gallery.rows("state=running and loss=0.5"), gallery)
            hub.update_scalar("loss", 0.25, step=7)
            until(lambda: gallery.rows("loss=0.25 and step=7"), gallery)
        until(lambda: gallery.rows("state=finished"), gallery)
        (row,) = gallery.rows()
        assert (row.run_id, row.name) == (hub.run_id, "run")


@quick
def test_an_open_run_is_followed_and_of_another_only_the_curves(tmp_path: Path) -> None:
    hubs = [MessageHub(name) for name in ("a", "b")]
    for name, hub in zip("ab", hubs, strict=True):
        hub.attach(Journal(tmp_path / name / "journal", interval=0.02))
        hub.update_scalar("loss", 0.0, step=0)
    with Gallery([tmp_path], tmp_path / "cache") as gallery:
        until(lambda: len(gallery.rows()) == 2, gallery)
        one, other = (row.id for row in gallery.rows())
        view, pyramid = gallery.run(one), gallery.pyramid(other)
        for hub in hubs:
            hub.update_scalar("loss", 1.0, step=5)
        until(lambda: view.screen().status.step == 5 and pyramid.count("loss") == 2, gallery)
        assert gallery.run(other).pyramid is pyramid
        for hub in hubs:
            hub.update_scalar("loss", 2.0, step=9)
        until(lambda: {row.step for row in gallery.rows()} == {9}, gallery)
        for hub in hubs:
            hub.close()


@quick
def test_only_so_many_runs_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "MOST_OPEN", 3)
    for number in range(8):
        write(tmp_path / "runs" / str(number), number)
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        ids = [row.id for row in gallery.rows()]
        before = _open_files()
        for _ in range(2):
            for one in ids:
                gallery.run(one).screen()
                gallery.update()
        assert _open_files() - before <= 3 * 3
        assert [row.state for row in gallery.rows()] == ["finished"] * 8
        monkeypatch.setattr(gallery_module, "IDLE", -1.0)
        gallery.update()
        assert _open_files() == before
        monkeypatch.setattr(gallery_module, "IDLE", 600.0)
        assert gallery.run(ids[0]).screen().row.step == 4
    assert _open_files() == before


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@quick
def test_the_run_that_is_looked_at_does_not_wait_for_the_others(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / "runs" / f"{number:02}", number, steps=2000)
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        ids = [row.id for row in gallery.rows()]
        for one in ids:
            gallery.run(one)
        last = gallery.run(ids[17])
        gallery.update(0.0)
        assert last.pyramid.count("loss") == 2000
        while gallery.update(0.0):  # the others come in their turns
            pass
        assert {gallery.run(one).pyramid.count("loss") for one in ids} == {2000}


@quick
def test_a_colour_that_somebody_chose_is_shown_everywhere(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "a")
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        (row,) = gallery.rows()
        gallery.run(row.id)
        gallery.pin(row.id, 4, 2)
        assert gallery.rows()[0].colour == colour(4, 2)
        assert gallery.run(row.id).screen().row.colour == colour(4, 2)
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        assert gallery.rows()[0].colour == colour(4, 2)


def test_damaged_runs_are_in_the_list_with_what_is_wrong(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "runs" / name)
    (path,) = (tmp_path / "runs" / "b" / "journal").glob("*.ahj")
    path.write_bytes(b"nonsense" * 20)
    (tmp_path / "runs" / "c\x1b[2J<b>" / "journal").mkdir(parents=True)
    (tmp_path / "runs" / "c\x1b[2J<b>" / "journal" / "LOCK").write_text("process 1\n")
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        while gallery.update():
            pass
        a, b, c = gallery.rows()
        assert (a.problem, b.problem != "", c.state) == ("", True, "crashed")
        assert "\x1b" not in c.name + c.folder
        for one in (a, b, c):
            gallery.run(one.id).screen()
        gallery.update()


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs", target_is_directory=True)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "runs" / "a", target_is_directory=True)
    assert list(run_folders(tmp_path)) == [tmp_path / "elsewhere", tmp_path / "runs" / "a"]


@quick
def test_any_thread_may_ask(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "runs" / str(number), number, steps=300)
    failures: list[BaseException] = []
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        ids = [row.id for row in gallery.rows()]

        def ask(number: int) -> None:
            try:
                for turn in range(10):
                    gallery.rows("loss>0")
                    curve(gallery.pyramid(ids[(number + turn) % 6]), "loss", buckets=10)
                    gallery.run(ids[turn % 6]).screen()
                    gallery.update(0.01)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert not any(thread.is_alive() for thread in threads)


# --- beside one another


def row(name: str, **config: str) -> RunRow:
    return RunRow(name, name, name, "", colour(0), "running", "Running", config=config)


def test_only_what_differs_is_shown() -> None:
    rows = [
        row("a", lr="0.1", seed="1", aug="mix"),
        row("b", lr="0.1", seed="2", aug="mix"),
        row("c", lr="1", seed="3"),
    ]
    found = differences(rows)
    assert found.names == ("lr", "aug", "seed")
    assert found.cells["c"] == ("1", "not said", "3")
    assert (found.same, found.text) == (0, "3 runs differ in 3 of 3 infos")
    assert differences(rows[:2]).names == ("seed",)
    assert differences(rows[:2]).same == 2
    assert "select two" in differences(rows[:1]).text
    assert "update_info" in differences([row("x"), row("y")]).text


def test_groups_are_in_the_order_of_their_values() -> None:
    rows = [row("a", lr="1e-1"), row("b", lr="0.05"), row("c"), row("d", lr="auto"), row("e", lr="0.05")]
    found = grouped(rows, "lr")
    assert list(found) == ["0.05", "1e-1", "auto", "not said"]
    assert [one.id for one in found["0.05"]] == ["b", "e"]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("_grown_up")
def test_a_group_is_the_mean_of_its_runs_and_has_all_their_values(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    values: list[dict[int, float]] = []
    pyramids = []
    for number in range(4):
        steps = np.unique(rng.integers(0, 3000, int(rng.choice([30, 90, 700, 1500]))))
        numbers = rng.normal(size=len(steps))
        numbers[rng.random(len(steps)) < 0.05] = np.nan
        values.append(dict(zip(steps.tolist(), numbers.tolist(), strict=True)))
        Writer(tmp_path / str(number)).points([Point("loss", *one) for one in values[-1].items()])
        pyramids.append(Pyramid(tmp_path / str(number), tmp_path / "cache"))
        pyramids[-1].update()
    found = group_curve("lr 0.1", [curve(run, "loss", 0, 2999, 40) for run in pyramids])
    width = found.curve.width
    assert found.curve.buckets.points.sum() == sum(map(len, values))
    assert found.curve.buckets.nan.sum() == sum(np.isnan(list(one.values())).sum() for one in values)
    for index, step in enumerate(found.curve.buckets.steps.tolist()):
        inside = [[one[at] for at in one if step <= at < step + width and np.isfinite(one[at])] for one in values]
        means = [float(np.mean(one)) for one in inside if one]
        assert found.runs[index] == len(means)
        if means:
            np.testing.assert_allclose(found.curve.buckets.means[index], np.mean(means), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose([found.low[index], found.high[index]], [min(means), max(means)])
            assert found.curve.buckets.min[index] == min(min(one) for one in inside if one)
            assert found.curve.buckets.max[index] == max(max(one) for one in inside if one)
    assert bool(found.note) == bool((found.runs < 4).any())
    for run in pyramids:
        run.close()


def test_a_group_of_nothing_is_said(tmp_path: Path) -> None:
    with Pyramid(write(tmp_path / "run"), tmp_path / "cache") as run:
        run.update()
        assert group_curve("x", [curve(run, "none")]).note == "no run has a value there"


@pytest.mark.usefixtures("_grown_up")
def test_figures_are_those_of_the_values(tmp_path: Path) -> None:
    values = [5.0, -3.0, float("nan"), *(1.0 + 0.01 * step for step in range(500)), float("inf")]
    writer = Writer(tmp_path / "run")
    writer.points([Point("loss", step, value) for step, value in enumerate(values)])
    with Pyramid(tmp_path / "run", tmp_path / "cache") as run:
        run.update()
        found = figures(run, "loss", "min")
        assert (found.count, found.last, found.best, found.not_finite) == (504, float("inf"), -3.0, 2)
        assert found.slope == pytest.approx(0.01, rel=0.01)
        assert found.texts[:2] == ("+inf", "-3.000")
        assert found.texts[2].startswith("+")
        assert min(low for low, _, _ in found.spark) == -3.0
        assert figures(run, "loss", "max").best == max(values[:-1], key=lambda one: -9 if one != one else one)
        assert figures(run, "loss").best is None
        assert figures(run, "none") == Figures("none")
        writer.points([Point("loss", 504, -9.0)])
        run.update()
        assert (figures(run, "loss", "min").best, figures(run, "loss").last) == (-9.0, -9.0)
        writer.event(Rewound(to_seq=3))
        run.update()
        assert np.isnan(figures(run, "loss", "min").last or 0.0)


def test_a_table_is_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    for number, steps in enumerate((3, 30, 300)):
        write(tmp_path / "runs" / str(number), 3 - number, steps=steps)
    write(tmp_path / "runs" / "none", 9, steps=0)
    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        table = Table(gallery)
        rows = gallery.rows()
        found = table.rows(rows, "loss", by="best", mode="min", seconds=60.0)
        assert not found.more
        assert [one.folder for one in found.rows] == ["2", "1", "0", "none"]
        assert [one.count for one in found.figures] == [300, 30, 3, 0]
        assert [one.folder for one in table.rows(rows, "loss", by="last", mode="max").rows] == ["0", "1", "2", "none"]
        assert [one.folder for one in table.rows(rows, "loss", by="name").rows] == ["0", "1", "2", "none"]
        assert table.rows(rows, "loss", seconds=0.0).figures == table.rows(rows, "loss").figures
        assert Table(gallery).rows(rows, "loss", seconds=0.0).more


def test_what_has_no_figure_comes_last() -> None:
    rows = [row("a"), row("b"), row("c")]
    found = {"a": Figures("k", last=float("nan")), "b": Figures("k", last=1.0), "c": Figures("k", last=2.0)}
    assert [one.id for one in ranked(rows, found, "last", "max")] == ["c", "b", "a"]
    assert [one.id for one in ranked(rows, found, "last", "min")] == ["b", "c", "a"]
    assert [one.id for one in ranked(rows, {}, "slope")] == ["a", "b", "c"]
