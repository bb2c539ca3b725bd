"""Up to where the state that a run resumes is what was sent of it before."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchub.bridges.frames import Frame
from asynchub.bridges.lineage import MOST, Lineage
from tests.bridges.made_frames import Rank

RUN = "0" * 32
SECOND = 10**9


def sent(epoch: int, upto_seq: int) -> Frame:
    return Rank(epoch * SECOND).base()._replace(upto_seq=upto_seq)


def lived(path: Path | None, *lives: tuple[int, int]) -> Lineage:
    lineage = Lineage(path)
    for epoch, after in lives:
        lineage.add(epoch * SECOND, RUN, after)
    return lineage


def test_of_a_state_of_the_last_life_all_was_sent_that_was_sent() -> None:
    lineage = lived(None, (10, 0))
    assert lineage.common(sent(10, 100), 15.0, 80) == 80
    assert lineage.common(sent(10, 70), 15.0, 80) == 70


def test_of_an_older_state_that_was_sent_from_which_all_lives_since_have_gone_on() -> None:
    lineage = lived(None, (10, 0), (20, 50), (30, 90))
    assert lineage.common(sent(30, 120), 15.0, 80) == 50
    assert lineage.common(sent(30, 120), 25.0, 80) == 80
    assert lineage.common(sent(30, 120), 25.0, 95) == 90


def test_what_is_not_known_counts_as_not_sent() -> None:
    assert Lineage(None).common(sent(10, 100), 5.0, 80) == 0
    assert lived(None, (30, 90)).common(sent(30, 120), 15.0, 80) == 0
    assert Lineage(None).common(sent(10, 100), 15.0, 80) == 80


def test_another_run_has_lives_of_its_own() -> None:
    lineage = lived(None, (10, 0))
    lineage.add(20 * SECOND, "1" * 32, 3)
    assert lineage.common(sent(10, 100), 5.0, 80) == 0
    assert lineage.common(sent(10, 100), 15.0, 80) == 80


def test_lives_outlive_the_process_in_a_file(tmp_path: Path) -> None:
    lived(tmp_path / "lives", (10, 0), (20, 50))
    assert lived(tmp_path / "lives", (30, 90)).common(sent(30, 120), 15.0, 80) == 50


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"10000000000 000", b"a b c\n1 2\n", b"\n\n"])
def test_a_damaged_file_leads_to_more_being_sent(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "lives"
    lived(path, (10, 0), (20, 50))
    path.write_bytes(data)
    assert Lineage(path).common(sent(20, 100), 15.0, 80) == 0


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lineage = lived(tmp_path / "missing" / "lives", (10, 0))
    assert lineage.common(sent(10, 100), 15.0, 80) == 80
    assert "may send more than need be" in caplog.text


def test_of_many_lives_the_newest_are_remembered(tmp_path: Path) -> None:
    lineage = lived(tmp_path / "lives", *[(number, number) for number in range(1, MOST + 2)])
    assert len((tmp_path / "lives").read_text().splitlines()) == MOST // 2
    assert lineage.common(sent(MOST + 1, 2 * MOST), MOST - 0.5, 2 * MOST) == MOST
    assert lineage.common(sent(MOST + 1, 2 * MOST), 5.0, 2 * MOST) == 0
