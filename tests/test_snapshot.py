"""A snapshot file is as its page says, holds every bit, and is refused when one is wrong."""

from __future__ import annotations

import math
import os
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from asynchub import MessageHub
from asynchub.codec import Limits, Registry, dumps
from asynchub.errors import (
    ArgumentError,
    CorruptStateError,
    LimitExceededError,
    StateError,
    UnknownTypeError,
    UnsupportedTypeError,
    UnsupportedTypesError,
)
from asynchub.ledger import Records
from asynchub.snapshot import CHUNK, HEAD_SIZE, MAGIC, TAIL_SIZE, read_head, read_snapshot, write_snapshot
from tests.snapshot_files import sealed

posix = pytest.mark.skipif(sys.platform == "win32", reason="fork and signals")
GOLDEN = Path(__file__).parent / "golden" / "hub-1.0.ahs"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path in an empty folder."""
    return tmp_path / "state.ahs"


def write(path: Path, *columns: Any, **more: Any) -> None:
    write_snapshot(path, lambda put: {"numbers": [put(np.asarray(column)) for column in columns], **more})


def small(path: Path) -> bytes:
    """Write a snapshot with every kind of chunk, and return its bytes."""
    write(
        path,
        np.ones(5, np.int64),
        np.array([0.5, math.nan, -0.0]),
        np.array([0.1, 1e300]),
        np.array([1, -100]),
        np.array([1, 1000]),
        np.array([1, 100_000]),
        np.array([2**70, -1, True, 0.5], object),
        np.empty(0),
        step=7,
    )
    return path.read_bytes()


COLUMNS: dict[str, Any] = {
    "nothing": np.empty(0),
    "one value": np.full(3 * CHUNK + 1, 0.1),
    "one value in each chunk": np.repeat(np.arange(3.0), CHUNK),
    "float32": np.random.default_rng(0).normal(size=2 * CHUNK).astype("f4").astype("f8"),
    "float64": np.random.default_rng(1).normal(size=CHUNK + 5),
    "not numbers": np.array([math.nan, math.inf, -math.inf, -0.0, 5e-324] * 9),
    "a payload in a NaN": np.array([0x7FF8_0000_DEAD_BEEF, 0xFFF0_0000_0000_0001] * 40, np.uint64).view(np.float64),
    "mixed chunks": np.concatenate([np.ones(CHUNK), np.arange(CHUNK) / 3, np.ones(7)]),
    "int8": np.arange(-128, 128),
    "int64": np.array([2**63 - 1, -(2**63)] * 100),
    "a progression": np.arange(-7, 3 * CHUNK) * 10**9,
    "one that wraps around": np.arange(CHUNK) * 2**50 + 2**62,
    "nearly one": np.append(np.arange(CHUNK - 1), 5),
    "times of one": np.arange(CHUNK, dtype="<i4"),
    "booleans": np.arange(CHUNK + 1) % 3 == 0,
    "objects": np.array([2**70, -(2**70), 1, True, 0.1] * (CHUNK // 4), object),
    "half": np.arange(100, dtype="<f2"),
    "big-endian": np.arange(100, dtype=">i4"),
    "complex": np.arange(100) * 1j,
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_comes_back_bit_by_bit(path: Path, kind: str) -> None:
    column = COLUMNS[kind]
    write(path, column, column[:1], column[::-1])
    tree, columns = read_snapshot(path)
    assert tree == {"numbers": [0, 1, 2]}
    for got, given_ in zip(columns, (column, column[:1], column[::-1]), strict=True):
        assert (got.dtype, got.shape) == (given_.dtype, given_.shape)
        if column.dtype == object:
            assert [(type(value), value) for value in got] == [(type(value), value) for value in given_]
        else:
            assert got.tobytes() == given_.tobytes()


@settings(max_examples=300)
@given(
    st.lists(
        npst.arrays(
            st.sampled_from(["<f8", "<i8", "<f4", "|b1", "<u2", "<c16"]),
            st.integers(0, 300),
            elements=None,
            fill=st.nothing() | st.just(1),
        ),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=5), st.integers() | st.floats() | st.text(max_size=5), max_size=4),
)
def test_any_columns_and_any_tree_come_back(
    tmp_path_factory: pytest.TempPathFactory, columns: list[Any], more: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "state"
    write_snapshot(path, lambda put: [[put(column) for column in columns], more])
    (numbers, tree), got = read_snapshot(path)
    assert numbers == list(range(len(columns)))
    assert [one.tobytes() for one in got] == [one.tobytes() for one in columns]
    assert repr(tree) == repr(more)


def test_long_columns_of_what_training_says_take_a_sixth(path: Path, rng: np.random.Generator) -> None:
    size = 4 * CHUNK
    losses = rng.normal(size=size).astype(np.float32).astype(float)
    write(path, losses, np.ones(size, np.int64), np.arange(size))
    assert path.stat().st_size < 4 * size + 10_000  # of 24


def test_writing_takes_little_memory(path: Path, rng: np.random.Generator) -> None:
    column = rng.normal(size=40 * CHUNK)  # 20 MiB
    tracemalloc.start()
    try:
        write(path, column)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20


# --- bad input


def test_what_cannot_be_stored_leaves_no_trace(path: Path) -> None:
    write(path, [1.0])
    before = path.read_bytes()
    with pytest.raises(UnsupportedTypeError):
        write(path, [1.0], ["text"])
    with pytest.raises(UnsupportedTypesError):
        write(path, [1.0], hook=print)
    with pytest.raises(ZeroDivisionError):
        write_snapshot(path, lambda put: 1 // 0)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_is_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(CorruptStateError, match="something that is no file"):
        read_snapshot(tmp_path)
    with pytest.raises(ArgumentError, match="is not a file"):
        write(tmp_path)
    with pytest.raises(CorruptStateError, match="something that is no file"):
        read_head(tmp_path)


def test_every_truncation_is_refused(path: Path) -> None:
    whole = small(path)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CorruptStateError, match=r"state\.ahs"):
            read_snapshot(path)


def test_every_flipped_bit_is_refused(path: Path) -> None:
    whole = small(path)
    assert len(whole) < 1500
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptStateError, match=r"state\.ahs"):
            read_snapshot(path)


def test_a_byte_too_many_is_refused(path: Path) -> None:
    path.write_bytes(small(path) + b"\0")
    with pytest.raises(CorruptStateError):
        read_snapshot(path)


BY_THE_THOUSAND = pytest.mark.parametrize("many", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])


@BY_THE_THOUSAND
def test_random_bursts_are_refused(path: Path, rng: np.random.Generator, many: int) -> None:
    whole = small(path)
    for _ in range(many):
        damaged = bytearray(whole)
        start, length = int(rng.integers(len(whole))), int(rng.integers(1, 40))
        damaged[start : start + length] = rng.bytes(len(damaged[start : start + length]))
        if damaged != whole:
            path.write_bytes(damaged)
            with pytest.raises(CorruptStateError):
                read_snapshot(path)


@BY_THE_THOUSAND
def test_mutants_with_right_checksums_raise_nothing_but_state_errors(path: Path, seed: int, many: int) -> None:
    generator = random.Random(seed)
    whole = small(path)
    begin, length = struct.unpack_from("<QQ", whole, len(whole) - TAIL_SIZE)
    chunks, manifest = whole[HEAD_SIZE:begin], whole[begin : begin + length]
    assert sealed(chunks, manifest)[HEAD_SIZE:] == whole[HEAD_SIZE:]
    for _ in range(many):
        mutant = bytearray(manifest)
        for _ in range(generator.randint(1, 3)):
            mutant[generator.randrange(len(mutant))] = generator.randrange(256)
        path.write_bytes(sealed(chunks, bytes(mutant)))
        try:
            read_snapshot(path)
        except StateError:
            continue


def chunked(*columns: Any) -> bytes:
    return dumps({"tree": None, "columns": list(columns)})


CRC = zlib.crc32(bytes(8))
BAD_MANIFESTS: dict[str, tuple[bytes, bytes]] = {
    "no map": (b"", dumps([])),
    "no columns": (b"", dumps({"tree": 1})),
    "columns that are no list": (b"", dumps({"tree": 1, "columns": {}})),
    "a column that is no list": (b"", chunked(1)),
    "a dtype of objects that are none": (bytes(64), chunked(["|O", 1, [[0, 8, CRC]]])),
    "a dtype that is none": (bytes(64), chunked(["<f3", 1, [[0, 8, CRC]]])),
    "a dtype of two gigabytes": (bytes(64), chunked(["|S2147483647", 1, [[0, 8, CRC]]])),
    "a length below 0": (bytes(64), chunked(["<f8", -1, [[0, 8, CRC]]])),
    "a length without chunks": (b"", chunked(["<f8", 2**40, []])),
    "too many chunks": (bytes(128), chunked(["<f8", 1, [[0, 8, CRC], [0, 8, CRC]]])),
    "a chunk that is none": (b"", chunked(["<f8", 1, [0]])),
    "a chunk of less than nothing": (b"", chunked(["<f8", 1, [[0, -8, CRC]]])),
    "a chunk beyond the end": (bytes(64), chunked(["<f8", 1, [[0, 2**62, CRC]]])),
    "bytes without an owner": (bytes(128), chunked(["<f8", 1, [[0, 8, CRC]]])),
    "a chunk of another length": (bytes(64), chunked(["<f8", 2, [[0, 8, CRC]]])),
    "an unknown code": (bytes(64), chunked(["<f8", 1, [[99, 8, CRC]]])),
    "no zeros in a gap": (bytes(63) + b"\1", chunked(["<f8", 1, [[0, 8, CRC]]])),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_a_manifest_that_does_not_fit_is_refused(path: Path, kind: str) -> None:
    path.write_bytes(sealed(*BAD_MANIFESTS[kind]))
    with pytest.raises(CorruptStateError):
        read_snapshot(path)


def test_a_manifest_that_overlaps_the_chunks_is_refused(path: Path) -> None:
    path.write_bytes(sealed(b"", chunked(), start=8))
    with pytest.raises(CorruptStateError):
        read_snapshot(path)


def test_constants_that_would_fill_the_memory_are_refused(path: Path) -> None:
    size = 5000
    payloads = [struct.pack("<d", number % 2) + bytes(56) for number in range(size)]
    chunks = [[1, 8, zlib.crc32(payload[:8])] for payload in payloads]
    size *= CHUNK
    path.write_bytes(sealed(b"".join(payloads) * 4, chunked(*[["<f8", size, chunks]] * 4)))
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceededError):
            read_snapshot(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_limits_reach_the_reader(path: Path) -> None:
    small(path)
    for limits in (Limits(size=100), Limits(depth=1), Limits(nodes=5)):
        with pytest.raises(LimitExceededError):
            read_snapshot(path, limits=limits)
    write(path, np.repeat(np.arange(2), CHUNK))
    with pytest.raises(LimitExceededError):
        read_snapshot(path, limits=Limits(elements=CHUNK))


@pytest.mark.parametrize("changes", [{"major": 2}, {"flags": 2}, {"kind": 1}])
def test_a_file_of_a_newer_version_is_refused_as_such(path: Path, changes: dict[str, int]) -> None:
    path.write_bytes(sealed(b"", chunked(), **changes))
    with pytest.raises(UnknownTypeError, match=r"state\.ahs: written by a newer version of asynchub"):
        read_snapshot(path)


def test_a_foreign_file_is_refused(path: Path) -> None:
    for data in (b"", b"\x89PNG\r\n\x1a\n" + bytes(200), b"PK\x03\x04" + bytes(200), b"\x89AHC\r\n\x1a\n" + bytes(200)):
        path.write_bytes(data)
        with pytest.raises(CorruptStateError, match="wanted a snapshot of asynchub"):
            read_snapshot(path)
    with pytest.raises(FileNotFoundError):
        read_snapshot(path.with_name("none"))


KILLED_AT_EVERY_CALL = """
import os, signal, sys
import numpy as np
from asynchub.ledger import Records
from asynchub.snapshot import read_snapshot, write_snapshot
path = sys.argv[1]

def save(n):
    column = np.full(150_000, n) + np.arange(150_000) / 7
    write_snapshot(path, lambda put: {"n": n, "column": put(column), "array": np.full(70_000, n)})

def until(at):
    calls = [0]
    def counted(real):
        def call(*arguments):
            calls[0] += 1
            if calls[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        return call
    for name in ("open", "write", "fsync", "replace", "close"):
        setattr(os, name, counted(getattr(os, name)))

found, at = [], 0
save(0)
while True:
    at += 1
    pid = os.fork()
    if not pid:
        until(at)
        save(at)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    tree, (column,) = read_snapshot(path)
    assert (column == tree["n"] + np.arange(150_000) / 7).all(), at
    assert tree["array"].tolist() == [tree["n"]] * 70_000, at
    if status == 0:
        assert tree["n"] == at
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    found.append("new" if tree["n"] == at else "old")
    save(0)
print(*found)
"""


@posix
def test_a_save_killed_at_any_of_its_calls_leaves_the_old_file_or_the_new_one(path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_CALL, str(path)], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    found = run.stdout.split()
    assert found.count("old") >= 8
    assert found == ["old"] * found.count("old") + ["new"] * 3  # opening, flushing and closing the folder


# --- what a file says about itself


def test_a_file_says_of_which_run_it_is_and_how_new(path: Path) -> None:
    write_snapshot(path, lambda put: put(np.arange(3)), run_id="ab" * 16, seq=7)
    head = read_head(path)
    assert (head.run_id, head.seq) == ("ab" * 16, 7)
    assert path.read_bytes()[24:40] == b"\xab" * 16
    assert read_snapshot(path)[0] == 0
    write(path)
    assert read_head(path)[:2] == ("", None)
    assert read_head(GOLDEN)[:2] == ("", None)


def test_the_head_of_a_file_is_read_without_knowing_its_types(path: Path) -> None:
    class Own: ...

    registry = Registry()
    registry.register(Own, name="test.Own", version=1, encode=lambda own: 1, decode=lambda tree, version: Own())
    write_snapshot(path, lambda put: Own(), registry=registry, seq=3)
    assert read_head(path).seq == 3
    with pytest.raises(UnknownTypeError):
        read_snapshot(path)


def test_damage_outside_of_the_columns_is_found_by_reading_the_head(path: Path) -> None:
    whole = small(path)
    begin = struct.unpack_from("<Q", whole, len(whole) - TAIL_SIZE)[0]
    for place in (*range(HEAD_SIZE), *range(begin, len(whole))):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(CorruptStateError):
            read_head(path)
    path.write_bytes(sealed(b"", dumps({"tree": 1, "columns": [], "seq": "7"})))
    with pytest.raises(CorruptStateError, match="seq"):
        read_head(path)


# --- hubs


def recorded(steps: int = 300) -> MessageHub:
    hub = MessageHub("hub")
    for hub.step in range(steps):
        hub.update_scalars({"loss": 1 / (hub.step + 3), "n": hub.step, "flag": hub.step % 2 == 0})
    hub.update_scalar("big", 2**70)
    hub.update_info("classes", ("cat", "dog"))
    hub.update_info("weights", np.arange(3, dtype=">i2"))
    return hub


def same(first: MessageHub, second: MessageHub, times: bool = True) -> None:
    assert list(first.log_scalars) == list(second.log_scalars)
    for mine, theirs in zip(first.log_scalars.values(), second.log_scalars.values(), strict=True):
        assert mine.data[0].dtype == theirs.data[0].dtype
        for name, one, other in zip(Records._fields, mine.records(), theirs.records(), strict=True):
            assert one.tolist() == other.tolist() or (name == "times" and not times)
    assert repr(first.runtime_info) == repr(second.runtime_info)


def test_a_hub_saves_a_snapshot_and_a_loaded_one_saves_the_same(path: Path) -> None:
    hub, twin = recorded(), MessageHub("hub")
    hub.save(path)
    first = path.read_bytes()
    assert first[: len(MAGIC)] == MAGIC
    twin.load(path)
    same(hub, twin)
    twin.save(path)
    begin = struct.unpack_from("<Q", first, len(first) - TAIL_SIZE)[0]
    assert path.read_bytes()[HEAD_SIZE:begin] == first[HEAD_SIZE:begin]  # the head has the time, the manifest the seq


def test_a_loaded_history_grows_beside_another_loaded_from_the_same_file(path: Path) -> None:
    recorded().save(path)
    first, second = MessageHub("first"), MessageHub("second")
    for number, hub in enumerate((first, second)):
        hub.load(path)
        hub.update_scalars({"loss": number, "flag": number == 1})
    assert first.get_scalar("loss").current() == 0
    assert second.get_scalar("loss").current() == 1


def test_a_snapshot_of_version_1_0_is_read_for_ever() -> None:
    hub = MessageHub("reader")
    hub.load(GOLDEN)
    same(hub, recorded(), times=False)
    assert hub.step == 299


CHANGES: dict[str, Callable[[Any], object]] = {
    "a number of no column": lambda tree: tree["log_scalars"][0][1].update(values=99),
    "a name": lambda tree: tree["log_scalars"][0][1].update(values="values"),
    "columns of other lengths": lambda tree: tree["log_scalars"][0][1].update(values=len(tree["log_scalars"]) * 5 - 1),
    "nothing": lambda tree: tree.clear(),
    "scalars that are a number": lambda tree: tree.update(log_scalars=7),
    "scalars that are nothing": lambda tree: tree.update(log_scalars=None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tree_that_names_no_column_changes_nothing(path: Path, change: str) -> None:
    recorded().save(path)
    tree, columns = read_snapshot(path)
    CHANGES[change](tree)

    def damaged(put: Callable[[Any], int]) -> Any:
        for column in columns:
            put(column)
        return tree

    write_snapshot(path, damaged)
    hub = MessageHub("hub")
    hub.update_scalar("a", 1.0)
    with pytest.raises(StateError):
        hub.load(path)
    assert list(hub.log_scalars) == ["a"]


async def test_saving_in_an_async_program_encodes_and_writes_in_another_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asynchub.snapshot as module

    threads = set()
    real = module.encode_column

    def encode(column: Any, **how: Any) -> Any:
        threads.add(threading.get_ident())
        return real(column, **how)

    monkeypatch.setattr(module, "encode_column", encode)
    hub = recorded()
    with anyio.fail_after(30):
        await hub.saved(path)
    assert threads
    assert threading.get_ident() not in threads


def test_what_is_saved_is_the_hub_at_the_call(path: Path) -> None:
    hub = MessageHub("hub")
    hub.update_scalars({"a": 0.0, "b": 0.0})
    done = threading.Event()

    def publish() -> None:
        number = 0
        while not done.is_set():
            number += 1
            hub.update_scalars({"a": float(number), "b": float(number)})

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(8):
            hub.save(path)
            twin = MessageHub("twin")
            twin.load(path)
            a, b = (twin.get_scalar(key) for key in "ab")
            assert a.data[0].tolist() == b.data[0].tolist()
            assert (np.diff(a.data[0]) == 1).all()
            assert b.records().seqs[-1] - a.records().seqs[-1] == 1
    finally:
        done.set()
        thread.join()
