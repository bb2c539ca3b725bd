"""A pyramid has what counts of a run that was resumed again and again, also into what had been abandoned before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynchub import Journal, MessageHub, recover
from asynchub.dashboard.buckets import Buckets
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.rewinding import inside, turned
from asynchub.dashboard.sifting import counting
from asynchub.errors import JournalError
from asynchub.events import InfoUpdated, Rewound, ScalarUpdated
from asynchub.recorded import recorded_events
from tests.dashboard.runs import Point, Writer
from tests.dashboard.test_pyramid import check

pytestmark = pytest.mark.usefixtures("_grown_up")


def _check_as_recorded(pyramid: Pyramid, run: Path) -> None:
    """Fail unless a pyramid has the values and the epochs that count, and knows those that do not."""
    events = list(recorded_events(run))
    points = [
        Point(event.key, event.step, float(event.value), event.count)
        for event in events
        if isinstance(event, ScalarUpdated)
    ]
    check(pyramid, points)
    assert pyramid.epochs == [(one.seq, one.value) for one in events if isinstance(one, InfoUpdated)]


def _check_rewound(pyramid: Pyramid, run: Path) -> None:
    """Fail unless each value that does not count is there once, with the last ``Rewound`` that took it out."""
    counts = {event.seq for event in recorded_events(run)}
    everything = [event for event in recorded_events(run, rewound=True) if isinstance(event, ScalarUpdated)]
    rewinds = [(one.seq, one.to_seq) for one in recorded_events(run, Rewound, rewound=True) if type(one) is Rewound]
    assert pyramid.rewinds == rewinds
    for key in {event.key for event in everything}:
        gone = [one for one in everything if one.key == key and one.step is not None and one.seq not in counts]
        wanted: list[list[int]] = [[] for _ in rewinds]
        for event in gone:
            wanted[_taken_out_by(event.seq, rewinds)].append(event.seq)
        found = [_seqs(values) for values in pyramid.rewound(key)]
        assert found == wanted


def _seqs(values: Buckets | None) -> list[int]:
    assert values is not None
    return [int(seq) for seq in values.first_seq]


def _taken_out_by(seq: int, rewinds: list[tuple[int, int]]) -> int:
    """Return the number of the last ``Rewound`` before which an event counted, and after which it did not."""
    last = -1
    counted = True
    for number in range(len(rewinds)):
        if rewinds[number][0] < seq:
            continue
        now = any(after < seq <= upto for after, upto in counting(rewinds[: number + 1]))
        last = number if counted and not now else last
        counted = now
    return last


def _followed(pyramid: Pyramid) -> Pyramid:
    while pyramid.update():
        pass
    return pyramid


# --- by hand


def _resumed(run: Path, mark: dict[str, Any]) -> MessageHub:
    hub = recover(run, mark=mark)
    hub.attach(Journal(run / "journal", interval=0.01))
    return hub


@pytest.mark.parametrize("size", [10, 60])
def test_values_come_back_when_a_run_goes_on_from_what_had_been_abandoned(size: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Pyramid(run, tmp_path / "cache") as followed:
        hub = MessageHub("run")
        hub.attach(Journal(run / "journal", interval=0.01))
        marks = []
        for part in range(3):
            for _ in range(size):
                hub.update_scalar("loss", float(hub.step))
                hub.step += 1
            hub.update_info("epoch", part)
            marks.append(hub.mark())
        hub.close()
        _followed(followed)
        for mark, steps in ((marks[0], 2), (marks[1], 1)):
            hub = _resumed(run, mark)
            for _ in range(steps):
                hub.update_scalar("loss", -1.0)
                hub.step += 1
            hub.close()
            _check_as_recorded(_followed(followed), run)
        assert followed.count("loss") == 2 * size + 1
        assert [epoch for _, epoch in followed.epochs] == [0, 1]
        _check_rewound(followed, run)
        assert [len(_seqs(values)) for values in followed.rewound("loss")] == [size, 2]
    for cache in ("cache", "other"):
        with Pyramid(run, tmp_path / cache) as pyramid:
            _check_as_recorded(_followed(pyramid), run)
            _check_rewound(pyramid, run)


@pytest.mark.parametrize("size", [10, 60])
def test_a_run_that_takes_in_earlier_states_is_seen_as_it_is_recorded(size: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with MessageHub("run") as hub, Pyramid(run, tmp_path / "cache") as followed:
        hub.attach(Journal(run / "journal", interval=0.01))
        states = []
        for part in range(3):
            for _ in range(size):
                hub.update_scalar("loss", float(hub.step))
                hub.step += 1
            hub.update_info("epoch", part)
            states.append(hub.state_dict())
        for state, steps in ((states[0], 2), (states[2], 1), (states[1], 3)):  # the third is of what had been abandoned
            hub.load_state_dict(state)
            for _ in range(steps):
                hub.update_scalar("loss", -1.0)
                hub.step += 1
            hub.commit()
            _check_as_recorded(_followed(followed), run)
            assert followed.count("loss") == hub.get_scalar("loss").data[0].size
        _check_rewound(followed, run)


def test_what_a_resumption_changes_is_said_in_stretches() -> None:
    first, second = (20, 10), (30, 15)
    assert turned([], *first) == (10, [(10, 19)], [])
    assert turned([first], *second) == (10, [(19, 29)], [(10, 15)])
    third = (40, 35)
    assert turned([first, second], *third) == (35, [(35, 39)], [])
    assert turned([first, second, third], 50, 22) == (10, [(10, 15), (29, 35), (39, 49)], [(19, 22)])
    assert turned([first, second, third], 50, 0) == (0, [(0, 15), (29, 35), (39, 49)], [])


@pytest.mark.parametrize("seed", range(20))
def test_the_stretches_that_count_and_their_changes_are_those_of_the_simplest_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents, rewinds, at = {1: 0}, list[tuple[int, int]](), 1
    before = {1}
    for seq in range(2, 200):
        parents[seq] = at
        if rng.random() < 0.1:
            parents[seq] = int(rng.integers(0, seq))
            common, gone, back = turned(rewinds, seq, parents[seq])
            rewinds.append((seq, parents[seq]))
            after = _ancestors(parents, seq) - {seq}
            assert _members(gone) == before - after
            assert _members(back) == after - before
            assert all(one <= common for one in before & after)
        at = seq
        before = _ancestors(parents, seq)
        everything = np.arange(0, seq + 1)
        assert set(everything[inside(counting(rewinds), everything)].tolist()) == before


def _ancestors(parents: dict[int, int], seq: int) -> set[int]:
    found = set()
    while seq:
        found.add(seq)
        seq = parents[seq]
    return found


def _members(stretches: Iterable[tuple[int, float]]) -> set[int]:
    return {seq for after, upto in stretches for seq in range(int(after) + 1, int(upto) + 1)}


# --- by chance


def _write_some(writer: Writer, rng: np.random.Generator) -> None:
    """Write some frames, resumptions to any event, and segments."""
    step = int(rng.integers(0, 500))
    for _ in range(int(rng.integers(3, 12))):
        match int(rng.integers(0, 7)):
            case 0 | 1 if writer.seq:
                newest = writer.seq if rng.random() < 0.5 else min(writer.seq, 300)
                writer.event(Rewound(to_seq=int(rng.integers(0, newest + 1))))
                step -= int(rng.integers(0, 100))
            case 2:
                writer.begin_segment()
            case 3:
                writer.event(InfoUpdated(key="epoch", value=int(rng.integers(0, 9))))
            case _:
                size = int(rng.integers(1, 120))
                steps = (step + np.cumsum(rng.integers(0, 3, size))).tolist()
                step = steps[-1]
                keys = rng.choice(["a", "b", "c"], size, p=[0.7, 0.2, 0.1]).tolist()
                values = rng.normal(size=size).tolist()
                writer.points(
                    Point(key, None if key == "c" else at, value)
                    for key, at, value in zip(keys, steps, values, strict=True)
                )


@pytest.mark.parametrize("rounds", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_whatever_a_run_went_back_to_the_pyramid_has_what_is_recorded(rounds: int, tmp_path: Path) -> None:
    for seed in range(rounds):
        rng = np.random.default_rng([seed, rounds])
        here = tmp_path / str(seed)
        writer = Writer(here / "run")
        with (
            Pyramid(here / "run", here / "cache") as followed,
            Pyramid(here / "run", here / "cache") as beside,
            Pyramid(here / "run", "/dev/null/none") as uncached,
        ):
            for part in range(4):
                _write_some(writer, rng)
                for pyramid in (followed, beside, uncached) if part % 2 else (beside, followed):
                    _check_as_recorded(_followed(pyramid), here / "run")
            writer.close()
            _check_rewound(_followed(followed), here / "run")
        for cache in ("cache", "cache", "other"):
            with Pyramid(here / "run", here / cache) as late:
                _check_as_recorded(_followed(late), here / "run")
                _check_rewound(late, here / "run")


def test_what_counts_again_is_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.dashboard.growth.AT_ONCE", 100)
    writer = Writer(tmp_path / "run")
    writer.points(Point("a", step, float(step)) for step in range(2000))
    end = writer.seq
    writer.event(Rewound(to_seq=100))
    writer.points([Point("a", 100, -1.0)])
    writer.begin_segment()
    with Pyramid(tmp_path / "run", tmp_path / "cache") as pyramid:
        assert _followed(pyramid).count("a") == 101
        writer.event(Rewound(to_seq=end))
        writer.points([Point("a", 2000, 2000.0)])
        writer.close()
        counts = []
        while pyramid.update(0.0):
            counts.append(pyramid.count("a"))
        assert len(counts) >= 19
        assert counts == sorted(counts)
        _check_as_recorded(pyramid, tmp_path / "run")


@pytest.mark.parametrize("rounds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_who_looks_and_leaves_while_what_counts_again_is_read_sees_what_is_recorded(
    rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynchub.dashboard.growth.AT_ONCE", 20)
    for seed in range(rounds):
        rng = np.random.default_rng([seed, rounds, 1])
        here = tmp_path / str(seed)
        writer = Writer(here / "run")
        for _ in range(3):
            _write_some(writer, rng)
            with Pyramid(here / "run", here / "cache") as hasty, Pyramid(here / "run", here / "cache") as beside:
                for _ in range(int(rng.integers(1, 20))):
                    hasty.update(0.0)
                    for key in hasty.keys:
                        assert hasty.rows(key).size <= hasty.count(key)
                if rng.random() < 0.5:
                    _check_as_recorded(_followed(beside), here / "run")
        writer.close()
        with Pyramid(here / "run", here / "cache") as hasty:
            while hasty.update(0.0):
                pass
            _check_as_recorded(hasty, here / "run")
            _check_rewound(hasty, here / "run")


@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("compact", [False, True], ids=["whole", "compact"])
def test_a_run_resumed_from_any_of_its_marks_is_seen_as_it_is_recorded(
    rounds: int, compact: bool, tmp_path: Path
) -> None:
    resumed = 0
    for seed in range(rounds):
        rng = np.random.default_rng([seed, rounds, compact])
        run, cache = tmp_path / f"{seed}" / "run", tmp_path / f"{seed}" / "cache"
        hub = MessageHub("run")
        marks: list[dict[str, Any]] = []
        with Pyramid(run, cache) as followed:
            for life in range(5):
                hub.attach(Journal(run / "journal", interval=0.01, segment_size=2000, compact=compact))
                for _ in range(int(rng.integers(1, 6))):
                    for _ in range(int(rng.integers(1, 50))):
                        hub.update_scalar("loss", float(rng.normal()))
                        if hub.step % 5 == 0:
                            hub.update_scalar("norm", life, count=2)
                        hub.step += 1
                    hub.update_info("epoch", len(marks))
                    hub.commit()
                    marks.append(hub.mark())
                    if rng.random() < 0.3:
                        hub.save(run, keep=int(rng.integers(1, 4)))
                    followed.update()
                hub.close()
                _followed(followed)
                if not compact:
                    _check_as_recorded(followed, run)
                    _check_rewound(followed, run)
                else:
                    _check_scalars(followed, run)
                for number in rng.permutation(len(marks)).tolist():
                    try:
                        hub = recover(run, mark=marks[number])
                    except JournalError:  # its events were deleted, and no snapshot of it is kept
                        continue
                    break
                resumed += marks[number]["seq"] < followed.seq
        hub.close()
        with Pyramid(run, cache) as again, Pyramid(run, cache / "other") as late:
            for pyramid in (again, late):
                _check_scalars(_followed(pyramid), run)
                if not compact:
                    _check_as_recorded(pyramid, run)
    assert resumed >= rounds


def _check_scalars(pyramid: Pyramid, run: Path) -> None:
    """Fail unless a pyramid has the values that count; single ones of what was deleted cannot be asked for."""
    assert pyramid.problem == ""
    values = [event for event in recorded_events(run) if isinstance(event, ScalarUpdated)]
    for key in {event.key for event in values}:
        own = [event for event in values if event.key == key]
        assert pyramid.count(key) == len(own)
        for level in range(3):
            rows = pyramid.rows(key, level)
            assert int(rows.points.sum()) == len(own)
            assert float(rows.sum.sum()) == pytest.approx(sum(float(event.value) for event in own))
            assert (int(rows.first_seq[0]), int(rows.last_seq[-1])) == (own[0].seq, own[-1].seq)
