"""Generations: the newest few stay, the newest that is whole is loaded, and damage is said."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from asynchub import MessageHub, StateDamaged, StateLoaded
from asynchub.errors import ArgumentError, CorruptStateError, UnknownTypeError
from asynchub.generations import Target, keep_newest, list_generations, newest_valid
from asynchub.snapshot import read_head


def named(seq: int) -> str:
    return f"{seq:020d}.ahs"


def grown(hub: MessageHub, to: int) -> MessageHub:
    """Publish until the newest event has the ``seq`` ``to``."""
    while hub.statistics().seq < to:
        hub.update_scalar("loss", float(hub.statistics().seq + 1))
    return hub


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("how", ["exists", "ends in a separator"])
def test_a_state_in_a_folder_is_named_after_its_seq(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    if how == "exists":
        folder.mkdir()
    hub = grown(MessageHub("hub"), 7)
    written = hub.save(folder if how == "exists" else f"{folder}/")
    assert written == folder / named(7)
    assert read_head(written)[:2] == (hub.run_id, 7)
    assert hub.save(tmp_path / "file") == tmp_path / "file"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_generations_stay_and_nothing_else_is_touched(tmp_path: Path, keep: int) -> None:
    others = ["1.ahs", "00000000000000000001.ahj", named(1) + ".aside", "notes.txt", "0" * 21 + ".ahs"]
    for name in others:
        (tmp_path / name).write_text("mine")
    hub = MessageHub("hub")
    for seq in (10, 20, 30, 40):
        assert grown(hub, seq).save(tmp_path, keep=keep).name == named(seq)
    assert names(tmp_path) == sorted([*others, *map(named, (40, 30, 20)[:keep])])


@pytest.mark.parametrize("keep", [0, -1, True, 1.0, None])
def test_a_keep_that_keeps_nothing_is_refused(tmp_path: Path, keep: Any) -> None:
    hub = MessageHub("hub")
    for save in (hub.save, hub.async_save):
        with pytest.raises(ArgumentError, match="keep"):
            save(tmp_path, keep=keep)
    assert names(tmp_path) == []


def test_a_save_that_fails_removes_no_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = grown(MessageHub("hub"), 5)
    hub.save(tmp_path, keep=1)
    grown(hub, 10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(OSError, match="no"):
            hub.save(tmp_path, keep=1)
    assert names(tmp_path) == [named(5)]


def test_damaged_generations_do_not_count_among_those_that_stay(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    for seq in (10, 20, 30):
        grown(hub, seq).save(tmp_path, keep=3)
    for seq in (20, 30):
        (tmp_path / named(seq)).write_bytes(b"damaged")
    grown(hub, 40).save(tmp_path, keep=2)
    assert names(tmp_path) == [named(10), named(20), named(30), named(40)]
    grown(hub, 50).save(tmp_path, keep=2)
    assert names(tmp_path) == [named(40), named(50)]


def test_the_newest_whole_generation_is_loaded_and_damage_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = MessageHub("hub")
    for seq in (10, 20, 30):
        grown(hub, seq).save(tmp_path, keep=3)
    data = (tmp_path / named(30)).read_bytes()
    (tmp_path / named(30)).write_bytes(data[:-1])
    twin = MessageHub("twin")
    told: list[Any] = []
    twin.on(StateLoaded, StateDamaged, role="control")(told.append)
    twin.load(tmp_path)
    twin.settle()
    assert twin.get_scalar("loss").current() == 20.0
    assert [type(event) for event in told] == [StateLoaded, StateDamaged]
    assert told[0].source == str(tmp_path / named(20))
    assert told[1].path == str(tmp_path / named(30))
    assert "CorruptStateError" in told[1].error
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert twin.run_id == hub.run_id


def test_what_was_not_loaded_because_it_is_damaged_is_not_found_again(tmp_path: Path) -> None:
    hub = MessageHub("hub")
    for seq in (10, 20):
        grown(hub, seq).save(tmp_path)
    (tmp_path / named(20)).write_bytes(b"")
    twin = MessageHub("twin")
    twin.load(tmp_path)
    twin.save(tmp_path)
    assert named(20) + ".aside" in names(tmp_path)
    third = MessageHub("third")
    third.load(tmp_path)
    assert third.get_scalar("loss").current() == 10.0


def test_a_run_that_begins_anew_in_a_folder_is_what_is_loaded_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grown(MessageHub("old"), 50).save(tmp_path)
    hub = MessageHub("new")
    grown(hub, 5).save(tmp_path)
    twin = MessageHub("twin")
    twin.load(tmp_path)
    assert twin.run_id == hub.run_id
    assert names(tmp_path) == [named(5), named(50) + ".aside"]
    assert "has a higher seq" in caplog.text


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"hub\.save"):
        MessageHub("hub").load(tmp_path)
    with pytest.raises(FileNotFoundError):
        MessageHub("hub").load(f"{tmp_path}/none/")


def test_every_damaged_generation_is_named_when_none_is_whole(tmp_path: Path) -> None:
    for seq in (1, 2):
        (tmp_path / named(seq)).write_bytes(b"x" * seq)
    hub = grown(MessageHub("hub"), 3)
    with pytest.raises(CorruptStateError, match=rf"(?s){named(2)}.*{named(1)}"):
        hub.load(tmp_path)
    assert hub.statistics().seq == 3


def test_a_type_that_is_not_known_is_no_damage(tmp_path: Path) -> None:
    for seq in (1, 2):
        (tmp_path / named(seq)).touch()

    def read(path: Path) -> str:
        if path.name == named(2):
            raise UnknownTypeError("register it")
        return "older"

    with pytest.raises(UnknownTypeError):
        newest_valid(tmp_path, read)


def test_generations_are_listed_newest_first(tmp_path: Path) -> None:
    for name in (named(3), named(20), named(100), "latest", "3.ahs"):
        (tmp_path / name).touch()
    assert [path.name for path in list_generations(tmp_path)] == [named(100), named(20), named(3)]
    with pytest.raises(FileNotFoundError):
        list_generations(tmp_path / "none")


def test_what_cannot_be_removed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for seq in (1, 2):
        (tmp_path / named(seq)).touch()
    monkeypatch.setattr(Path, "unlink", lambda path: (_ for _ in ()).throw(PermissionError("not yours")))
    keep_newest(tmp_path / named(2), 1, read_head)
    assert "not yours" in caplog.text


def test_what_a_killed_process_left_amid_writing_a_generation_is_removed(tmp_path: Path) -> None:
    orphan, fresh, foreign = (
        tmp_path / name
        for name in (
            f".{named(3)}.4711-{'a' * 16}.tmp",
            f".{named(4)}.4711-{'b' * 16}.tmp",
            f".notes.4711-{'c' * 16}.tmp",
        )
    )
    for path in (orphan, fresh, foreign):
        path.touch()
    for path in (orphan, foreign):
        os.utime(path, (0, 0))
    grown(MessageHub("hub"), 5).save(tmp_path)
    assert names(tmp_path) == sorted([named(5), fresh.name, foreign.name])


def test_two_spellings_of_a_place_are_one_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    spellings = (tmp_path, f"{tmp_path}/", tmp_path / "link")
    assert len({Target.of(spelling, keep) for keep, spelling in enumerate(spellings, 1)}) == 1
    assert Target.of(tmp_path / "a", 1) != Target.of(f"{tmp_path}/a/", 1)
