"""Arrays in the tree of a snapshot stand outside of its manifest, bit by bit, and cost little more than themselves."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub import MessageHub
from asynchub.chunks import PIECE, gap
from asynchub.codec import Code, Limits, Registry, UnknownValue, dumps, loads
from asynchub.codec.codes import MAX_INLINE
from asynchub.errors import (
    CorruptStateError,
    LimitExceededError,
    StateError,
    UnknownTypeError,
    UnsupportedTypesError,
)
from asynchub.hubfile import read_hub
from asynchub.snapshot import HEAD_SIZE, TAIL_SIZE, read_snapshot, write_snapshot
from tests.codec_trees import FLOATS, FLOATS_8, INTS, difference
from tests.snapshot_files import repaired, sealed

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")
RNG = np.random.default_rng(0)
BITS = RNG.bytes(6400)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path in an empty folder."""
    return tmp_path / "state.ahs"


def save(path: Path, tree: Any, **more: Any) -> bytes:
    write_snapshot(path, lambda put: tree, **more)
    return path.read_bytes()


def parts(whole: bytes) -> tuple[bytes, bytes]:
    """Return the chunks and the manifest of a file."""
    begin, length = struct.unpack_from("<QQ", whole, len(whole) - TAIL_SIZE)
    return whole[HEAD_SIZE:begin], whole[begin : begin + length]


def flags(whole: bytes) -> int:
    return int(struct.unpack_from("<I", whole, 12)[0])


BULKY: dict[str, Any] = {
    **{f"array {name}": np.frombuffer(BITS, name) for name in ("|i1", "|u1")},
    "array |b1": np.arange(6000) % 3 == 0,
    **{
        f"array {order}{name}": np.frombuffer(BITS, order + name).reshape(5, -1)
        for name in ("i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")
        for order in "<>"
    },
    "array transposed": np.frombuffer(BITS, ">i4").reshape(50, 32).T,
    "array strided": np.frombuffer(BITS, "<f8")[::-1],
    "array broadcast": np.broadcast_to(np.float32(2), (100, 20)),
    "array read-only": np.frombuffer(BITS, "<f4"),
    "array 0-d": np.array(b"x" * 5000),
    "array text": np.array([["ä" * 999, "b"]]),
    "array text big-endian": np.array(["ä" * 1999, "b"], dtype=">U1999"),
    "array of dates": np.arange(6000).astype("M8[25s]"),
    "array of spans": np.arange(6000).astype(">m8[ns]"),
    **{
        f"array {name}": np.arange(6000).astype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e5m2", "float8_e4m3fn", "int4")
    },
    **{
        f"tensor {name}": torch.frombuffer(bytearray(BITS), dtype=torch.uint8).view(getattr(torch, name)).reshape(2, -1)
        for name in (*INTS, *FLOATS, *FLOATS_8)
    },
    "tensor bool": torch.arange(6000) % 3 == 0,
    "tensor with grad": torch.arange(6000.0, requires_grad=True),
    "tensor of an operation": torch.arange(6000.0, requires_grad=True).detach() * 2,
    "tensor transposed": torch.arange(6000).reshape(60, 100).T,
    "tensor expanded": torch.ones(1).expand(50, 60),
    "tensor conj": torch.full((1000,), 1 + 2j).conj(),
    "tensor neg": torch.full((2000,), 1 + 2j).conj().imag,
}


@pytest.mark.parametrize("kind", BULKY)
def test_an_array_comes_back_bit_by_bit_from_outside_of_the_manifest(path: Path, kind: str) -> None:
    given_ = BULKY[kind]
    whole = save(path, {"one": given_, "again": [(given_,)]})
    chunks, manifest = parts(whole)
    assert flags(whole) == 1
    assert len(manifest) < 600
    assert len(chunks) > 2 * MAX_INLINE
    tree, columns = read_snapshot(path)
    assert columns == []
    assert difference(tree, {"one": given_, "again": [(given_,)]}) == ""
    one, again = tree["one"], tree["again"][0][0]
    if isinstance(one, np.ndarray):
        assert one.flags.writeable
        assert one.flags.aligned
        assert not np.shares_memory(one, again)
    else:
        assert one.data_ptr() != again.data_ptr()


@pytest.mark.parametrize("name", ["(0, 3)", "0-d", "scalar"])
def test_what_is_small_stays_in_the_manifest(path: Path, name: str) -> None:
    tree = {"(0, 3)": [np.zeros((0, 3)), torch.zeros(0, 3)], "0-d": [np.array(1.5), torch.tensor(1.5)]}.get(
        name, [np.float32(1), ml_dtypes.bfloat16(2)]
    )
    whole = save(path, tree)
    assert flags(whole) == 0
    assert parts(whole)[0] == b""
    assert difference(read_snapshot(path)[0], tree) == ""


@pytest.mark.parametrize(("size", "outside"), [(MAX_INLINE, False), (MAX_INLINE + 1, True)])
def test_beyond_4_kib_an_array_stands_outside(path: Path, size: int, outside: bool) -> None:
    whole = save(path, np.arange(size).astype("u1"))
    assert bool(flags(whole)) is outside
    assert bool(parts(whole)[0]) is outside
    assert read_snapshot(path)[0].tobytes() == np.arange(size).astype("u1").tobytes()


sizes = st.sampled_from((MAX_INLINE, PIECE, 2 * PIECE)).flatmap(lambda near: st.integers(near - 70, near + 70))
arrays = st.builds(
    lambda size, dtype, tensor: (
        torch.frombuffer(bytearray(BITS * (size // 6400 + 1)), dtype=torch.uint8)[:size]
        if tensor
        else np.frombuffer(BITS * (size // 6400 + 1), dtype, count=size // np.dtype(dtype).itemsize)
    ),
    sizes,
    st.sampled_from(("|u1", ">i2", "<f4", "<c16")),
    st.booleans(),
)
trees = st.recursive(
    st.none() | st.integers() | arrays,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.integers(0, 3), inner),
    max_leaves=5,
)


@settings(max_examples=150)
@given(trees, st.integers(0, 200))
def test_any_tree_of_arrays_comes_back_beside_columns(
    tmp_path_factory: pytest.TempPathFactory, tree: Any, length: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "state"
    column = np.arange(length) / 7
    write_snapshot(path, lambda put: [put(column), tree])
    (_, back), (read,) = read_snapshot(path)
    assert difference(back, tree) == ""
    assert read.tobytes() == column.tobytes()
    assert repaired(path.read_bytes()) == path.read_bytes()


def test_a_hub_saves_its_arrays_so(path: Path) -> None:
    hub, twin = MessageHub("hub"), MessageHub("twin")
    hub.update_scalar("loss", 0.5)
    hub.update_info("weights", torch.arange(5000.0))
    hub.save(path)
    twin.load(path)
    assert flags(path.read_bytes()) == 1
    assert twin.get_info("weights").tolist() == list(range(5000))
    assert twin.get_scalar("loss").current() == 0.5


def test_bytes_without_a_file_hold_their_arrays() -> None:
    array = np.arange(2000)
    payload = msgpack.packb(["<i8", [2000], array.tobytes()])
    assert dumps(array) == msgpack.packb(msgpack.ExtType(Code.NDARRAY, payload))
    data = dumps(array, put_blob=lambda data: 7)
    assert data == msgpack.packb(msgpack.ExtType(Code.NDARRAY, msgpack.packb(["<i8", [2000], 7])))
    with pytest.raises(CorruptStateError):
        loads(data)


def test_blobs_may_stand_anywhere() -> None:
    shelf: list[bytes] = []

    def put(data: bytes | memoryview) -> int:
        shelf.append(bytes(data))
        return len(shelf) - 1

    def shelved(outermost: Any) -> Callable[[int, int], Any]:
        assert sorted(outermost) == ["arrays", "name"]
        assert outermost["name"] == "run"
        return lambda number, size: np.frombuffer(shelf[number], "u1").copy()

    tree = {"name": "run", "arrays": [BULKY[kind] for kind in ("array >f4", "array bfloat16", "tensor with grad")]}
    data = dumps(tree, put_blob=put)
    assert len(data) < 300
    assert difference(loads(data, blobs=shelved), tree) == ""


def test_what_stores_a_blob_may_fail() -> None:
    def full(data: object) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        dumps([np.zeros(5000)], put_blob=full)


def test_after_a_value_that_cannot_be_stored_no_blob_is_written() -> None:
    put: list[int] = []

    def count(data: bytes | memoryview) -> int:
        put.append(len(data))
        return len(put) - 1

    with pytest.raises(UnsupportedTypesError):
        dumps([np.zeros(600), print, np.zeros(700)], put_blob=count)
    assert put == [4800]


def test_a_column_cannot_be_written_between_blobs(path: Path) -> None:
    class Late:
        pass

    def tree(put: Callable[[Any], int]) -> Any:
        registry.register(Late, name="Late", encode=lambda late: put(np.zeros(3)), decode=lambda tree, version: tree)
        return [np.zeros(5000), Late()]

    registry = Registry()
    with pytest.raises(UnsupportedTypesError, match="columns are written before"):
        write_snapshot(path, tree, registry=registry)
    assert os.listdir(path.parent) == []


def test_an_array_that_changes_while_it_is_saved_can_be_read(path: Path) -> None:
    array = np.zeros(3 * PIECE, "u1")
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            array[:] += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(10):
            save(path, array, sync=False)
            assert read_snapshot(path)[0].shape == array.shape
    finally:
        done.set()
        thread.join()


# --- bad input


def small(path: Path) -> bytes:
    """Write a snapshot with a column and the smallest blobs of two kinds, and return its bytes."""
    array = np.arange(MAX_INLINE + 1).astype("u1")
    write_snapshot(path, lambda put: {"column": put(np.array([0.1, 0.7])), "array": array}, sync=False)
    return path.read_bytes()


def test_every_truncation_is_refused(path: Path) -> None:
    whole = small(path)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CorruptStateError, match=r"state\.ahs"):
            read_snapshot(path)


def test_a_flipped_bit_in_any_byte_is_refused(path: Path) -> None:
    whole = small(path)
    blob = range(HEAD_SIZE + 64, HEAD_SIZE + 64 + MAX_INLINE)
    for bit in range(8 * len(whole)):
        if bit // 8 in blob and bit % 8 != bit // 8 % 8:
            continue  # of most bytes of the blob one bit will do
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptStateError, match=r"state\.ahs"):
            read_snapshot(path)


def test_a_flipped_bit_in_any_piece_is_refused(path: Path) -> None:
    whole = save(path, RNG.integers(256, size=2 * PIECE + 100).astype("u1"))
    for place in (0, PIECE - 1, PIECE, 2 * PIECE, 2 * PIECE + 101):
        damaged = bytearray(whole)
        damaged[HEAD_SIZE + place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(CorruptStateError, match=r"state\.ahs: \$\.tree: bytes \d+ to \d+ are not what was written"):
            read_snapshot(path)


def test_mutants_with_right_checksums_raise_nothing_but_state_errors(path: Path, seed: int) -> None:
    generator = random.Random(seed)
    kinds = ("array |u1", "array bfloat16", "tensor int8")
    files = [parts(save(path, {"a": BULKY[kind], "b": (BULKY["array <f8"], 1)})) for kind in kinds]
    read = 0
    for number in range(6000):
        chunks, manifest = files[number % len(files)]
        mutant = bytearray(manifest)
        for _ in range(generator.randint(1, 3)):
            mutant[generator.randrange(len(mutant))] = generator.randrange(256)
        path.write_bytes(repaired(sealed(chunks, bytes(mutant), flags=1)))
        try:
            read_snapshot(path)
            read += 1
        except StateError:
            continue
    assert 0 < read < 5000


BYTES = bytes(range(256)) * 20
CRC = zlib.crc32(BYTES)
HELD = bytes(gap(len(BYTES)))


def document(*blobs: Any, tree: Any = None, **more: Any) -> bytes:
    return bytes(msgpack.packb({"tree": tree, "columns": [], "blobs": list(blobs), **more}))


def array(number: Any, shape: Any = (5120,), dtype: str = "|u1", code: int = Code.NDARRAY, more: Any = ()) -> Any:
    return msgpack.ExtType(int(code), msgpack.packb([dtype, list(shape), number, *more]))


ONE = [5120, [CRC]]
BAD: dict[str, tuple[bytes, bytes]] = {
    "a blob that belongs to nothing": (BYTES, document(ONE)),
    "a blob that belongs to two": (BYTES, document(ONE, tree=[array(0), array(0)])),
    "a number of no blob": (BYTES, document(ONE, tree=[array(0), array(1)])),
    "a number below 0": (BYTES, document(ONE, tree=array(-1))),
    "a number that is none": (BYTES, document(ONE, tree=array(0.0))),
    "a number that is a bool": (BYTES, document(ONE, tree=array(False))),
    "a number without blobs": (b"", document(tree=array(0))),
    "a shape of less": (BYTES, document(ONE, tree=array(0, [5119]))),
    "a shape of more": (BYTES, document(ONE, tree=array(0, [5121]))),
    "a shape below 0": (BYTES, document(ONE, tree=array(0, [-5120]))),
    "a dtype of more": (BYTES, document(ONE, tree=array(0, dtype="<u2"))),
    "a tensor of less": (BYTES, document(ONE, tree=array(0, [5], "int8", Code.TENSOR, [False, "cpu"]))),
    "a tensor of ints with a gradient": (
        BYTES,
        document(ONE, tree=array(0, [5120], "int8", Code.TENSOR, [True, "cpu"])),
    ),
    "a wrong checksum": (BYTES, document([5120, [CRC + 1]], tree=array(0))),
    "no zeros in a gap": (BYTES, document([5100, [zlib.crc32(BYTES[:5100])]], tree=array(0, [5100]))),
    "more than there is": (BYTES, document([2**62, [CRC] * 7], tree=array(0, [2**62]))),
    "less than nothing": (BYTES, document([-5120, []], tree=array(0))),
    "bytes without an owner": (BYTES + bytes(64), document(ONE, tree=array(0))),
    "too many pieces": (BYTES, document([5120, [CRC, CRC]], tree=array(0))),
    "too few pieces": (BYTES, document([5120, []], tree=array(0))),
    "blobs that are no list": (BYTES, bytes(msgpack.packb({"tree": 1, "columns": [], "blobs": {}}))),
    "a blob that is no list": (BYTES, document(5120, tree=array(0))),
    "a blob of one part": (BYTES, document([5120], tree=array(0))),
    "checksums that are no numbers": (BYTES, document([5120, [None]], tree=array(0))),
    "a length that is none": (BYTES, document([True, [CRC]], tree=array(0))),
    "a table that hides in an array": (BYTES, bytes(msgpack.packb({"tree": 1, "columns": [], "blobs": array(0)}))),
}


@pytest.mark.parametrize("kind", BAD)
def test_blobs_that_do_not_fit_are_refused(path: Path, kind: str) -> None:
    path.write_bytes(sealed(*BAD[kind], flags=1))
    with pytest.raises(CorruptStateError, match=r"state\.ahs"):
        read_snapshot(path)


def test_blobs_that_fit_are_read_and_only_behind_the_flag(path: Path) -> None:
    good = document(ONE, tree=array(0), more=1)
    path.write_bytes(sealed(BYTES, good, flags=1))
    assert read_snapshot(path)[0].tobytes() == BYTES
    path.write_bytes(sealed(BYTES, good))
    with pytest.raises(CorruptStateError, match="the head does not say so"):
        read_snapshot(path)
    path.write_bytes(sealed(b"", msgpack.packb({"tree": 1, "columns": []}), flags=1))
    assert read_snapshot(path) == (1, [])


@pytest.mark.parametrize("limits", [Limits(elements=4999), Limits(size=40_000)])
def test_limits_reach_arrays_outside(path: Path, limits: Limits) -> None:
    save(path, np.zeros(5000))
    with pytest.raises(LimitExceededError):
        read_snapshot(path, limits=limits)
    read_snapshot(path, limits=Limits(elements=5000, size=41_000))


def test_a_bomb_of_blobs_is_refused_in_a_second(path: Path) -> None:
    with open(path, "wb") as file:  # a sparse file of 8 GiB, which says that it is an array
        size = 2**33
        manifest = document([size, [0] * (size // PIECE)], tree=array(0, [2**30], "<f8"))
        whole = sealed(b"", manifest, flags=1, start=HEAD_SIZE + size)
        file.write(whole[:HEAD_SIZE])
        file.seek(size, os.SEEK_CUR)
        tail = bytearray(whole[HEAD_SIZE:])
        struct.pack_into("<Q", tail, len(manifest) + 16, HEAD_SIZE + size + len(tail))
        struct.pack_into("<I", tail, len(manifest) + 36, zlib.crc32(tail[len(manifest) : len(manifest) + 36]))
        file.write(tail)
    before = time.process_time()
    with pytest.raises(LimitExceededError, match="8589934592 bytes of arrays"):
        read_snapshot(path)
    with pytest.raises(CorruptStateError, match="are not what was written"):  # at the first piece
        read_snapshot(path, limits=Limits(size=2**34))
    assert time.process_time() - before < 1


# --- what is not known


@dataclass
class Model:
    weights: Any
    step: int


def test_what_is_not_known_is_kept_unless_it_holds_arrays(path: Path) -> None:
    known = Registry().register(Model, name="Model")
    array_ = np.arange(1000)
    tree = [Model(None, 3), array_, UnknownValue(60, b"abc")]
    first = save(path, tree, registry=known)
    back = read_snapshot(path, on_unknown="keep")[0]
    assert [type(value) for value in back] == [UnknownValue, np.ndarray, UnknownValue]
    assert parts(save(path, back)) == parts(first)
    with pytest.raises(UnknownTypeError, match="no class is registered as 'Model'"):
        read_snapshot(path)
    save(path, [Model(array_, 3), array_], registry=known)
    with pytest.raises(UnknownTypeError, match="what holds arrays cannot be kept"):
        read_snapshot(path, on_unknown="keep")
    newer = Registry().register(Model, name="Model", version=2)
    with pytest.raises(UnknownTypeError, match="version 1 of 'Model', here is version 2"):
        read_snapshot(path, on_unknown="keep", registry=newer)
    assert read_snapshot(path, registry=known)[0][0].weights.tolist() == list(range(1000))


def test_a_hub_can_be_read_with_what_is_not_known(path: Path) -> None:
    hub = MessageHub("hub")
    hub.update_info("odd", UnknownValue(60, b"abc"))
    hub.save(path)
    assert read_hub(path, None, None, "keep")["runtime_info"] == {"odd": UnknownValue(60, b"abc")}
    with pytest.raises(UnknownTypeError, match="extension code 60"):
        read_hub(path, None, None)


# --- memory

PEAK = """
import sys
import numpy as np, torch
from asynchub.snapshot import read_snapshot, write_snapshot

def peak():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmHWM"].split()[0]) * 1024

path, kind, what = sys.argv[1:]
write_snapshot(path + ".small", lambda put: np.arange(600.0))  # everything is imported, and has run once
read_snapshot(path + ".small")
if what == "save":
    array = np.ones(25_000_000)
    tree = {"info": array if kind == "array" else torch.from_numpy(array)}
    before = peak()
    write_snapshot(path, lambda put: tree, sync=False)
else:
    before = peak()
    tree, _ = read_snapshot(path)
    assert float(tree["info"].sum()) == 25_000_000
print(peak() - before)
"""


@linux
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_200_mb_are_saved_in_8_mib_and_loaded_in_little_more_than_themselves(path: Path, kind: str) -> None:
    took = {}
    for what in ("save", "load"):
        run = subprocess.run(
            [sys.executable, "-c", PEAK, str(path), kind, what], capture_output=True, text=True, timeout=100
        )
        assert run.returncode == 0, run.stderr
        took[what] = int(run.stdout)
    assert took["save"] < 8 * 2**20
    assert took["load"] < 200e6 + 8 * 2**20
