"""Up to where the state that a run resumes is what was sent of it before."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchub.ancestry import Fork, Forks
from asynchub.bridges.frames import Frame
from asynchub.bridges.lineage import MOST, Lineage
from tests.bridges.made_frames import Rank

RUN = "0" * 32
BEGUN = (Fork("begun", 0, 0),)


def sent(epoch: int, upto_seq: int) -> Frame:
    return Rank(epoch).base()._replace(upto_seq=upto_seq)


def lived(path: Path | None, *lives: tuple[int, int, Forks]) -> Lineage:
    lineage = Lineage(path)
    for life in lives:
        lineage.add(life[0], RUN, *life[1:])
    return lineage


def went_on(before: Forks, seq: int) -> Forks:
    """Return what a hub has come by that went on from the state of another."""
    return (*before, Fork(f"{len(before)} at {seq}".replace(" ", "-"), seq, seq))


# --- what was sent


def test_of_a_state_of_the_last_life_all_was_sent_that_was_sent() -> None:
    lineage = lived(None, (10, 0, BEGUN))
    assert lineage.common(sent(10, 100), went_on(BEGUN, 80), 80) == 80
    assert lineage.common(sent(10, 70), went_on(BEGUN, 80), 80) == 70


def test_of_an_older_state_that_was_sent_from_which_the_life_has_gone_on() -> None:
    second = went_on(BEGUN, 50)
    third = went_on(second, 90)
    lineage = lived(None, (10, 0, BEGUN), (20, 50, second), (30, 90, third))
    assert lineage.common(sent(30, 120), went_on(BEGUN, 80), 80) == 50
    assert lineage.common(sent(30, 120), went_on(second, 80), 80) == 80
    assert lineage.common(sent(30, 120), went_on(second, 95), 95) == 90
    assert lineage.common(sent(30, 120), went_on(went_on(BEGUN, 30), 80), 80) == 30


def test_of_a_fork_beyond_what_was_sent_nothing_was_sent() -> None:
    own = (*BEGUN, Fork("own", 50, 90))
    lineage = lived(None, (10, 0, own))
    assert lineage.common(sent(10, 85), (*own, Fork("new", 100, 100)), 100) == 50
    assert lineage.common(sent(10, 95), (*own, Fork("new", 100, 100)), 100) == 95


def test_what_is_not_known_counts_as_not_sent() -> None:
    assert Lineage(None).common(sent(10, 100), BEGUN, 80) == 0
    assert lived(None, (30, 90, BEGUN)).common(sent(10, 120), BEGUN, 80) == 0
    assert lived(None, (10, 0, ())).common(sent(10, 120), BEGUN, 80) == 0
    assert lived(None, (10, 0, BEGUN)).common(sent(10, 120), (), 80) == 0


def test_another_run_has_come_by_something_else() -> None:
    assert lived(None, (10, 0, BEGUN)).common(sent(10, 100), (Fork("else", 0, 0),), 80) == 0


def test_what_a_hub_comes_by_while_it_is_sent_is_noted() -> None:
    lineage = lived(None, (10, 0, BEGUN))
    lineage.note(10, (*BEGUN, Fork("journal", 60, 60)))
    resumed = (Fork("journal", 60, 60), Fork("new", 80, 80))
    assert lineage.common(sent(10, 100), resumed, 80) == 80


# --- on the disk


def test_lives_outlive_the_process_in_a_file(tmp_path: Path) -> None:
    second = went_on(BEGUN, 50)
    lived(tmp_path / "lives", (10, 0, BEGUN), (20, 50, second))
    lineage = lived(tmp_path / "lives", (30, 90, went_on(second, 90)))
    assert lineage.common(sent(30, 120), went_on(BEGUN, 80), 80) == 50
    assert lineage.common(sent(20, 120), went_on(second, 95), 95) == 95


@pytest.mark.parametrize("kept", range(0, 120, 7))
def test_a_file_that_was_cut_off_leads_to_more_being_sent(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "lives"
    lived(path, (10, 0, (*went_on(BEGUN, 50), Fork("last", 110, 110))))
    path.write_bytes(path.read_bytes()[:kept])
    assert Lineage(path).common(sent(10, 120), went_on(BEGUN, 100), 100) in (0, 50)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"10 000", b"a b c\n1 2\n", b"forks\nforks 20 a 1", b"\n\n"])
def test_a_damaged_file_leads_to_more_being_sent(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "lives"
    lived(path, (10, 0, BEGUN), (20, 50, BEGUN))
    path.write_bytes(data)
    assert Lineage(path).common(sent(20, 100), BEGUN, 80) == 0


def test_a_file_of_an_earlier_version_is_read_and_leads_to_more_being_sent(tmp_path: Path) -> None:
    path = tmp_path / "lives"
    path.write_text(f"10 {RUN} 0\n20 {RUN} 50\n")
    lineage = lived(path, (30, 50, BEGUN))
    assert lineage.common(sent(20, 100), BEGUN, 80) == 0
    assert lineage.common(sent(30, 100), BEGUN, 80) == 80
    assert [line for line in path.read_text().splitlines() if not line.startswith("forks")] == [
        f"10 {RUN} 0",
        f"20 {RUN} 50",
        f"30 {RUN} 50",
    ]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lineage = lived(tmp_path / "missing" / "lives", (10, 0, BEGUN))
    assert lineage.common(sent(10, 100), BEGUN, 80) == 80
    assert "may send more than need be" in caplog.text


def test_of_many_lives_the_newest_are_remembered(tmp_path: Path) -> None:
    lineage = lived(tmp_path / "lives", *[(number, number, BEGUN) for number in range(1, MOST + 2)])
    assert len((tmp_path / "lives").read_text().splitlines()) == 2 * MOST
    assert lineage.common(sent(MOST + 1, 100), BEGUN, 80) == 80
    assert lineage.common(sent(1, 100), BEGUN, 80) == 0
