"""Whatever the bytes are, reading them returns a tree or raises a ``StateError``, in little time and memory."""

from __future__ import annotations

import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.codec import Code, Limits, dumps, loads
from asynchub.errors import CorruptStateError, LimitExceededError, StateError, UnknownTypeError
from tests.codec_trees import PORTABLE


def _ext(code: int, payload: bytes) -> bytes:
    return struct.pack(">BIB", 0xC9, len(payload), code) + payload


def _packed(code: int, *parts: Any) -> bytes:
    return _ext(code, msgpack.packb(list(parts)))


def _nested(code: int, levels: int, filling: bytes = b"") -> bytes:
    """Return extension values inside each other around bytes."""
    payload = b"\x91" + msgpack.packb(filling) if filling else b"\x90"
    for _ in range(levels):
        payload = b"\x91" + _ext(code, payload)
    return _ext(code, payload)


def _list_header(length: int) -> bytes:
    return struct.pack(">BI", 0xDD, length)


EQUAL_HASHES = [k * (2**61 - 1) for k in range(1, 2_001)]

BOMBS: dict[str, tuple[Callable[[], bytes], type[StateError]]] = {
    "lists that say they are long, in lists": (lambda: _list_header(1_900_000) * 400_000, LimitExceededError),
    "maps that say they are long, in maps": (lambda: b"\xdf\x00\x1e\x00\x00\xa0" * 400_000, LimitExceededError),
    "a list that says it has 2**32 - 1 items": (lambda: _list_header(2**32 - 1), LimitExceededError),
    "20 MB of lists in lists": (lambda: b"\x91" * 20_000_000, LimitExceededError),
    "20 MB of maps in maps": (lambda: b"\x81\xa0" * 10_000_000, LimitExceededError),
    "65 lists": (lambda: b"\x91" * 64 + b"\x90", LimitExceededError),
    "5000 tuples in tuples": (lambda: _nested(Code.TUPLE, 5000), LimitExceededError),
    "10 MB in 65 tuples": (lambda: _nested(Code.TUPLE, 64, bytes(10_000_000)), LimitExceededError),
    "lists in paths in paths": (lambda: _nested(Code.PATH, 5000), LimitExceededError),
    "dates in dates": (lambda: _nested(Code.DATE, 5000), CorruptStateError),
    "one value too many": (lambda: _list_header(2_000_000) + b"\xc0" * 2_000_000, LimitExceededError),
    "2 million and one values in lists": (
        lambda: b"\x92" + 2 * (_list_header(1_000_000) + b"\xc0" * 1_000_000),
        LimitExceededError,
    ),
    "a million empty maps, twice": (lambda: b"\x92" + 2 * (_list_header(10**6) + b"\x80" * 10**6), LimitExceededError),
    "an int of 20 MB": (lambda: _ext(Code.BIG_INT, b"\x7f" * 20_000_000), LimitExceededError),
    "a million equal keys": (
        lambda: struct.pack(">BI", 0xDF, 1_000_000) + b"\xa1a\xc0" * 1_000_000,
        CorruptStateError,
    ),
    "a set of ints of one hash": (lambda: dumps(set(EQUAL_HASHES)), LimitExceededError),
    "a dict of ints of one hash": (lambda: dumps(dict.fromkeys(EQUAL_HASHES)), LimitExceededError),
    "a set of tuples of one hash": (lambda: dumps({(k,) for k in EQUAL_HASHES}), LimitExceededError),
    "an array of Python objects": (lambda: _packed(Code.NDARRAY, "|O", [1], bytes(8)), UnknownTypeError),
    "an array of 2 GiB texts": (lambda: _packed(Code.NDARRAY, "|S2147483647", [1], b"a"), CorruptStateError),
    "an array of 4 GiB texts": (lambda: _packed(Code.NDARRAY, "|S4294967295", [0], b""), UnknownTypeError),
    "an array of a list of dtypes": (lambda: _packed(Code.NDARRAY, "i4,i4", [1], bytes(8)), UnknownTypeError),
    "an array of a dtype with a line break": (lambda: _packed(Code.NDARRAY, "<i4\n", [1], bytes(4)), UnknownTypeError),
    "an array of 2**80 elements": (lambda: _packed(Code.NDARRAY, "|u1", [2**40, 2**40], b""), LimitExceededError),
    "an array with a negative size": (lambda: _packed(Code.NDARRAY, "|u1", [-1, -1], b"a"), CorruptStateError),
    "an array of nothing, 2**62 times": (
        lambda: _packed(Code.NDARRAY, "<f8", [0, 2**62, 2**62], b""),
        CorruptStateError,
    ),
    "an array in a blob that is not there": (lambda: _packed(Code.NDARRAY, "|u1", [1], 0), CorruptStateError),
    "an array of 2**40 dimensions": (lambda: _packed(Code.NDARRAY, "|u1", [1] * 65, b"a"), CorruptStateError),
    "a tensor of 2**40 elements": (
        lambda: _packed(Code.TENSOR, "uint8", [2**40], b"", False, "cpu"),
        LimitExceededError,
    ),
    "a tensor of ints with a gradient": (
        lambda: _packed(Code.TENSOR, "uint8", [1], b"a", True, "cpu"),
        CorruptStateError,
    ),
    "a tensor of a dtype that is a function": (
        lambda: _packed(Code.TENSOR, "load", [1], b"a", False, "cpu"),
        UnknownTypeError,
    ),
    "a torch dtype that is a function": (lambda: _packed(Code.TORCH, "dtype", "load"), UnknownTypeError),
    "a torch device that is a path": (lambda: _packed(Code.TORCH, "device", "../cpu"), CorruptStateError),
    "a torch device of no kind": (lambda: _packed(Code.TORCH, "device", "abacus:1"), UnknownTypeError),
    "a dtype of ml_dtypes that is a function": (lambda: _packed(Code.ML_DTYPES, "finfo", [1], b"a"), UnknownTypeError),
    "a time zone outside": (
        lambda: _packed(Code.TIME, 1, 2, 3, 4, 0, None, "../../../etc/passwd"),
        CorruptStateError,
    ),
    "a time zone that does not exist": (lambda: _packed(Code.TIME, 1, 2, 3, 4, 0, None, "No/Where"), UnknownTypeError),
    "a time zone that is a folder": (lambda: _packed(Code.TIME, 1, 2, 3, 4, 0, None, "America"), UnknownTypeError),
    "a time zone of a million hours": (lambda: _packed(Code.TIME, 1, 2, 3, 4, 0, 2**62, None), CorruptStateError),
    "month 13": (lambda: _packed(Code.DATE, 2024, 13, 1), CorruptStateError),
    "a range without a step": (lambda: _packed(Code.RANGE, "range", 0, 1, 0), CorruptStateError),
    "a path of no system": (lambda: _packed(Code.PATH, "vms", "a"), CorruptStateError),
    "a decimal that is a word": (lambda: _ext(Code.DECIMAL, b"many"), CorruptStateError),
    "a short UUID": (lambda: _ext(Code.UUID, b"1"), CorruptStateError),
    "a set with a member twice": (lambda: _packed(Code.SET, 1, 1), CorruptStateError),
    "a set of equal members": (lambda: _packed(Code.SET, 1, True, 1.0), CorruptStateError),
    "a set of lists": (lambda: _packed(Code.SET, []), CorruptStateError),
    "a dict with a key twice": (lambda: _packed(Code.PAIRS, 1, "a", 1, "b"), CorruptStateError),
    "a dict with a key without a value": (lambda: _packed(Code.PAIRS, 1), CorruptStateError),
    "a map with a key of bytes": (lambda: b"\x81\xc4\x01a\xc0", CorruptStateError),
    "a map with an int as a key": (lambda: b"\x81\x01\xc0", CorruptStateError),
    "a deque over its length": (lambda: _packed(Code.DEQUE, 1, [1, 2]), CorruptStateError),
    "a deque of no length": (lambda: _packed(Code.DEQUE, 2**70 // 2**7, [1]), CorruptStateError),
    "a member of a class that nobody registered": (lambda: _packed(Code.USER, "os.system", 1, "ls"), UnknownTypeError),
    "a payload that is no list": (lambda: _ext(Code.TUPLE, b"\xc0"), CorruptStateError),
    "an extension code below 0": (lambda: b"\xd4\xfe\x00", UnknownTypeError),
    "a timestamp of msgpack": (lambda: b"\xd6\xff\x00\x00\x00\x01", UnknownTypeError),
    "text that is not UTF-8": (lambda: b"\xa1\xff", CorruptStateError),
    "nothing": (lambda: b"", CorruptStateError),
    "two trees": (lambda: b"\xc0\xc0", CorruptStateError),
    "the byte that msgpack never uses": (lambda: b"\xc1", CorruptStateError),
}
MAX_SECONDS = 1.0
MAX_BYTES = 100e6


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_a_second_and_a_hundred_megabytes(name: str) -> None:
    build, expected = BOMBS[name]
    data = build()
    before = time.process_time()
    with pytest.raises(expected):
        loads(data)
    assert time.process_time() - before < MAX_SECONDS
    del build
    tracemalloc.start()
    try:
        with pytest.raises(expected):
            loads(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MAX_BYTES


LIMITS: list[tuple[Any, str, int]] = [
    ([[[]]], "depth", 3),
    ({"a": ({},)}, "depth", 3),
    ([1, [2, 3]], "nodes", 6),
    ([(1, 2)], "nodes", 6),
    ({"a": 1, "b": []}, "nodes", 4),
    ([np.zeros((2, 3)), np.zeros(4)], "elements", 10),
    (b"12345678", "size", 10),
    ({0, 2**61 - 1, 2**62 - 2}, "collisions", 3),
]


@pytest.mark.parametrize(("tree", "limit", "need"), LIMITS)
def test_a_limit_is_the_most_that_is_read(tree: Any, limit: str, need: int) -> None:
    data = dumps(tree)
    loads(data, limits=Limits(**{limit: need}))
    with pytest.raises(LimitExceededError):
        loads(data, limits=Limits(**{limit: need - 1}))


def test_the_place_of_the_damage_is_said() -> None:
    data = msgpack.packb({"info": [1, {"when": msgpack.ExtType(Code.DATE, msgpack.packb([2024, 13, 1]))}]})
    with pytest.raises(CorruptStateError, match=r"^\$\.info\[1\]\.when: DATE is damaged: ValueError: month must be"):
        loads(data)


def test_reading_imports_nothing_that_the_data_names() -> None:
    seen: list[str] = []
    sys.addaudithook(
        lambda event, args: seen.append(str(args[0])) if event in ("import", "exec", "os.system") else None
    )
    names = ["os.system", "builtins.eval", "this"]
    for name in names:
        for code in (Code.USER, Code.RECORD, Code.ENUM):
            with pytest.raises(UnknownTypeError):
                loads(_packed(code, name, 1, "x"))
    assert not [module for module in seen if module in ("this", "builtins.eval")]
    assert "this" not in sys.modules


def _base() -> bytes:
    small = {name: value for name, value in PORTABLE.items() if name != "int of 3000 digits"}
    return dumps([small, list(small.values())[::7]])


def _mutated(data: bytes, generator: random.Random) -> bytes:
    """Return data with a few bytes changed, moved, doubled or cut out."""
    mutant = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(mutant))
        kind = generator.randrange(5)
        if kind == 0:
            mutant[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            mutant[at] = generator.choice((0x00, 0x7F, 0x80, 0x90, 0xC0, 0xC7, 0xC9, 0xDC, 0xDD, 0xDF, 0xFF))
        elif kind == 2:
            del mutant[at : at + generator.randint(1, 8)]
        elif kind == 3:
            mutant[at:at] = mutant[at : at + generator.randint(1, 8)]
        else:
            mutant[at : at + 4] = generator.randbytes(4)
        if not mutant:
            mutant = bytearray(b"\xc0")
    return bytes(mutant)


def test_twenty_thousand_mutants_raise_nothing_but_state_errors(seed: int) -> None:
    generator = random.Random(seed)
    # one value at a time, so that a mutant is not just refused for the first of many
    parts = [dumps(value) for name, value in PORTABLE.items() if name != "int of 3000 digits"]
    refused = 0
    for number in range(20_000):
        mutant = _mutated(parts[number % len(parts)], generator)
        try:
            loads(mutant, limits=Limits(nodes=10_000))
        except StateError:
            refused += 1
    assert 5_000 < refused < 20_000


def test_mutants_of_a_large_tree_raise_nothing_but_state_errors(seed: int) -> None:
    generator = random.Random(seed)
    data = _base()
    for _ in range(300):
        mutant = _mutated(data, generator)
        try:
            loads(mutant)
        except StateError:
            continue


@settings(max_examples=1000)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_state_errors(data: bytes) -> None:
    try:
        loads(data)
    except StateError:
        return


payloads = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.tuples(st.sampled_from(sorted(Code)), st.lists(inner, max_size=10)).map(
            lambda pair: msgpack.ExtType(int(pair[0]), msgpack.packb(pair[1]))
        )
    ),
    max_leaves=15,
)


@settings(max_examples=500)
@given(st.sampled_from(sorted(Code)), st.lists(payloads, max_size=10))
def test_well_formed_nonsense_raises_nothing_but_state_errors(code: Code, parts: list[Any]) -> None:
    try:
        loads(_packed(int(code), *parts))
    except StateError:
        return


def test_a_truncated_tree_is_refused_wherever_it_ends() -> None:
    data = dumps([{"a": (1, 2.5)}, np.arange(3), "text"])
    for end in range(len(data)):
        with pytest.raises(CorruptStateError):
            loads(data[:end])
