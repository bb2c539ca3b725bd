"""A state file is the old one or the new one, whole; anything else is refused."""

from __future__ import annotations

import os
import random
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from asynchub.codec import Limits, Registry, UnknownValue, dumps
from asynchub.errors import (
    ArgumentError,
    CorruptStateError,
    LimitExceededError,
    StateError,
    UnknownTypeError,
    UnsupportedTypesError,
)
from asynchub.statefile import read_state, write_state
from tests.codec_trees import PORTABLE, ZOO, difference

GOLDEN = Path(__file__).parent / "golden"
TREE = {"step": 3, "cfg": (1, 2.5, "ü"), "x": np.arange(3, dtype=">i2")}

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


def _file(payload: bytes, major: int = 1, minor: int = 0, flags: int = 0, length: int | None = None) -> bytes:
    """Return a file by the words of docs/formats/state.md."""
    head = b"\x89AHC\r\n\x1a\n" + struct.pack(
        "<HHIQI", major, minor, flags, len(payload) if length is None else length, zlib.crc32(payload)
    )
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path in an empty folder."""
    return tmp_path / "state.ahc"


@pytest.mark.parametrize("sync", [True, False])
def test_what_is_written_is_read(path: Path, sync: bool) -> None:
    write_state(path, ZOO, sync=sync)
    assert difference(ZOO, read_state(path)) == ""
    assert _names(path.parent) == ["state.ahc"]


def test_a_file_is_as_its_page_says(path: Path) -> None:
    write_state(path, TREE)
    assert path.read_bytes() == _file(dumps(TREE))


def test_a_file_that_was_read_is_written_again_to_the_same_bytes(path: Path) -> None:
    write_state(path, ZOO)
    first = path.read_bytes()
    write_state(path, read_state(path))
    assert path.read_bytes() == first


def test_missing_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "state.ahc"
    write_state(str(path), TREE)
    assert difference(TREE, read_state(str(path))) == ""


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    write_state(path, 1)
    assert read_state(path) == 1


def test_classes_of_the_user_are_found_in_the_registry(path: Path) -> None:
    registry = Registry().register(Thread, name="thread", encode=lambda t: t.name, decode=lambda tree, _: Thread(tree))
    write_state(path, [Thread("a")], registry=registry)
    assert read_state(path, registry=registry)[0].name == "a"
    with pytest.raises(UnknownTypeError, match="'thread'"):
        read_state(path)


class Thread:
    """A class of the user."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_a_tree_that_cannot_be_stored_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTypesError, match=r"\$\.a"):
        write_state(tmp_path / "new" / "state.ahc", {"a": object()})
    assert _names(tmp_path) == []


# --- damage


def test_every_truncation_is_refused(path: Path) -> None:
    write_state(path, TREE)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CorruptStateError):
            read_state(path)


def test_every_flipped_bit_is_refused(path: Path) -> None:
    write_state(path, TREE)
    whole = path.read_bytes()
    assert len(whole) > 60
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptStateError):
            read_state(path)


def test_a_byte_too_many_is_refused(path: Path) -> None:
    write_state(path, TREE)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptStateError, match="bytes were written behind the header"):
        read_state(path)


def test_random_bursts_are_refused(path: Path, rng: np.random.Generator) -> None:
    write_state(path, [TREE] * 5)
    whole = path.read_bytes()
    for _ in range(1_000):
        damaged = bytearray(whole)
        start, length = int(rng.integers(len(whole))), int(rng.integers(1, 40))
        damaged[start : start + length] = rng.bytes(len(damaged[start : start + length]))
        if damaged != whole:
            path.write_bytes(damaged)
            with pytest.raises(CorruptStateError):
                read_state(path)


def test_mutants_with_right_checksums_raise_nothing_but_state_errors(path: Path, seed: int) -> None:
    generator = random.Random(seed)
    payload = dumps(TREE)
    for _ in range(2_000):
        mutant = bytearray(payload)
        for _ in range(generator.randint(1, 3)):
            mutant[generator.randrange(len(mutant))] = generator.randrange(256)
        path.write_bytes(_file(bytes(mutant), minor=generator.randrange(2), flags=generator.randrange(2)))
        try:
            read_state(path)
        except StateError:
            continue


FOREIGN = {
    "an empty one": b"",
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(60),
    "a zip file, as torch.save writes": b"PK\x03\x04" + bytes(60),
    "a pickle": b"\x80\x04\x95" + bytes(60),
    "a gzip file": b"\x1f\x8b\x08" + bytes(60),
    "a NumPy file": b"\x93NUMPY\x01\x00" + bytes(60),
    "a snapshot of asynchub": b"\x89AHS\r\n\x1a\n" + bytes(60),
    "a journal of asynchub": b"\x89AHJ\r\n\x1a\n" + bytes(60),
    "JSON": b'{"step": 3}',
    "something else": b"step,loss\n1,0.5\n",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_by_what_it_is(path: Path, kind: str) -> None:
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(CorruptStateError, match=f"state.ahc: wanted a state file.*got {kind}"):
        read_state(path)


def test_a_file_that_went_through_text_mode_is_refused(path: Path) -> None:
    write_state(path, TREE)
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    with pytest.raises(CorruptStateError, match="wanted a state file"):
        read_state(path)


def test_a_missing_file_is_told_from_a_damaged_one(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_state(path)


def test_a_folder_is_no_state_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptStateError, match="something that is no file"):
        read_state(tmp_path)
    with pytest.raises(ArgumentError, match="is not a file"):
        write_state(tmp_path, 1)


@pytest.mark.parametrize("changes", [{"major": 2}, {"flags": 1}, {"major": 65535, "flags": 2**32 - 1}])
def test_a_file_of_a_newer_version_is_refused_as_such(path: Path, changes: dict[str, int]) -> None:
    path.write_bytes(_file(b"\xc0", **changes))
    with pytest.raises(UnknownTypeError, match="written by a newer version of asynchub"):
        read_state(path)


def test_a_newer_minor_version_is_read_as_far_as_it_is_known(path: Path) -> None:
    path.write_bytes(_file(dumps([1]), minor=7))
    assert read_state(path) == [1]
    path.write_bytes(_file(dumps([UnknownValue(60, b"")]), minor=7))
    with pytest.raises(UnknownTypeError) as caught:
        read_state(path)
    assert caught.value.__notes__ == [f"{path} is of format 1.7; this version reads 1.0"]


def test_version_0_never_was(path: Path) -> None:
    path.write_bytes(_file(b"\xc0", major=0))
    with pytest.raises(CorruptStateError, match=r"no format 0\.0"):
        read_state(path)


@posix
def test_a_large_file_is_refused_before_it_is_read(path: Path) -> None:
    head = _file(b"", length=2**40)
    path.write_bytes(head)
    os.truncate(path, len(head) + 2**40)  # with a hole: it takes no room
    with pytest.raises(LimitExceededError, match="1099511627776 bytes, 4294967296 allowed"):
        read_state(path)


def test_a_limit_reaches_the_reader(path: Path) -> None:
    write_state(path, [[[]]])
    with pytest.raises(LimitExceededError):
        read_state(path, limits=Limits(depth=2))


# --- files of every release


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("state-*.ahc")), ids=lambda path: path.stem)
def test_a_file_of_an_earlier_release_is_read(golden: Path) -> None:
    tree = read_state(golden)
    expected = {name: PORTABLE[name] for name in tree}
    assert len(tree) > 100
    assert difference(expected, tree) == ""


def test_this_release_writes_the_bytes_of_its_golden_file() -> None:
    golden = GOLDEN / "state-1.0.ahc"
    tree = {name: PORTABLE[name] for name in read_state(golden)}
    assert golden.read_bytes() == _file(dumps(tree))
