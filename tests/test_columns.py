"""Columns that grow, and their stored form."""

from __future__ import annotations

import math
import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from asynchub.columns import Column, decode_column, encode_column
from asynchub.errors import CorruptStateError, LimitExceededError, UnsupportedTypeError

RAW, CONSTANT, SINGLE, INT8, INT16, INT32, TIMES, OBJECTS = 0, 1, 2, 3, 4, 5, 7, 32
DTYPES = ["|b1", "|i1", "|u1", "<i2", ">i4", "<i4", "<i8", "<u8", ">f8", "<f2", "<f4", "<f8", "<c8", ">c16"]

numbers = st.one_of(
    st.booleans(),
    st.integers(-5, 5),
    st.integers(-(2**63), 2**64),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 2**53 + 1, -0.0]),
)


def same_bits(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == object:
        return all(same_number(a, b) for a, b in zip(one, other, strict=True))
    return one.tobytes() == other.tobytes()


def same_number(one: Any, other: Any) -> bool:
    if type(one) is float and type(other) is float:
        return struct.pack("d", one) == struct.pack("d", other)
    if type(one) is complex and type(other) is complex:  # what is not a number is not even itself
        return struct.pack("dd", one.real, one.imag) == struct.pack("dd", other.real, other.imag)
    return type(one) is type(other) and bool(one == other)


@given(st.lists(st.lists(numbers, min_size=1, max_size=20), max_size=6), st.sampled_from([*DTYPES, "|O"]))
@example([[math.nan, -(2**63) - 1]], "<c8")
def test_numbers_are_promoted_as_by_numpy_append(chunks: list[list[Any]], dtype: str) -> None:
    column = Column(np.zeros(2, dtype))
    expected = np.zeros(2, dtype)
    for chunk in chunks:
        column = column.with_numbers(chunk)
        for number in chunk:
            expected = np.append(expected, number)
        assert same_bits(column.view, expected)


@pytest.mark.parametrize("dtype", ["<U1", "|S1"])
def test_a_column_of_strings_takes_numbers_as_numpy_append_does(dtype: str) -> None:
    expected = np.array(["a"], dtype)
    column = Column(expected).with_numbers([1, True, 2.5])
    for number in (1, True, 2.5):
        expected = np.append(expected, number)
    assert same_bits(column.view, expected)


def test_a_view_stays_as_it_was_while_its_column_grows_and_slides(rng: np.random.Generator) -> None:
    column = Column(np.empty(0))
    model = np.empty(0)
    taken = []
    for _ in range(300):
        new = rng.normal(size=rng.integers(1, 40))
        column = column.extended(new).without(int(rng.integers(0, 30)))
        model = np.append(model, new)[-len(column) :] if len(column) else np.empty(0)
        assert same_bits(column.view, model)
        taken.append((column.view, column.view.copy()))
    assert all(same_bits(view, copy) for view, copy in taken)


def test_a_view_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Column(np.zeros(3)).view[0] = 1


def test_columns_that_share_cells_grow_apart() -> None:
    one = Column(np.zeros(2)).extended(np.ones(1))
    other = one.shared()
    left, right = one.extended(np.full(1, 2.0)), other.extended(np.full(1, 3.0))
    assert left.view.tolist() == [0, 0, 1, 2]
    assert right.view.tolist() == [0, 0, 1, 3]


def test_cells_are_copied_rarely_at_full_length() -> None:
    column = Column(np.zeros(1000))
    copies = 0
    for _ in range(10_000):
        before = column.cells
        column = column.extended([1.0]).without(1)
        copies += column.cells is not before
    assert len(column) == 1000
    assert copies <= 21
    assert len(column.cells) <= 1600


@given(npst.arrays(st.sampled_from(DTYPES), st.integers(0, 40)))
def test_what_is_stored_comes_back_bit_for_bit(array: np.ndarray[Any, Any]) -> None:
    back = decode_column(encode_column(array), max_length=40)
    assert same_bits(back, array)
    assert back.flags.writeable
    assert back.flags.owndata


@given(st.lists(numbers, max_size=20))
def test_objects_that_are_numbers_come_back_as_they_were(items: list[Any]) -> None:
    array = np.empty(len(items), object)
    array[:] = items
    assert same_bits(decode_column(encode_column(array), max_length=20), array)


@pytest.mark.parametrize(
    ("values", "code", "size"),
    [
        (np.ones(1000, np.int64), CONSTANT, 8),
        (np.full(1000, np.nan), CONSTANT, 8),
        (np.arange(1000, dtype=np.complex128) * 0, CONSTANT, 16),
        (np.random.default_rng(0).normal(size=1000).astype("f4").astype("f8"), SINGLE, 4000),
        (np.array([1.5, np.nan, np.inf, -0.0, 0.0]), SINGLE, 20),
        (np.arange(100), INT8, 100),
        (np.arange(1000) - 500, INT16, 2000),
        (np.arange(1000, dtype=np.int32), INT16, 2000),
        (np.arange(1000) * 100, INT32, 4000),
        (np.arange(1000) + 2**40, RAW, 8000),
        (np.random.default_rng(0).normal(size=1000), RAW, 8000),
        (np.array([0.0, -0.0]), SINGLE, 8),
        (np.array([1.0, 1e300]), RAW, 16),
        (np.array([1.0, 5e-324]), RAW, 16),
        (np.array([0, 0x7FF0000000000001, 0x7FF8000000000123]).view("f8"), RAW, 24),
        (np.empty(0), RAW, 0),
    ],
)
def test_the_shortest_exact_form_is_chosen(values: np.ndarray[Any, Any], code: int, size: int) -> None:
    stored = encode_column(values)
    assert stored[0] == code
    assert len(stored[3]) == size
    assert same_bits(decode_column(stored, max_length=1000), values)


def test_a_column_with_gaps_between_its_cells_is_stored_as_its_values() -> None:
    array = np.arange(20.0)[::3]
    assert same_bits(decode_column(encode_column(array), max_length=20), array.copy())


def test_a_constant_column_may_come_back_in_one_cell() -> None:
    back = decode_column([CONSTANT, "<f8", 2**27, struct.pack("<d", 2.5)], max_length=2**28, writable=False)
    assert back.strides == (0,)
    assert back[-1] == 2.5


@pytest.mark.parametrize("array", [np.array(["a"]), np.zeros(2, np.longdouble), np.zeros((2, 2)), np.zeros(1, "V3")])
def test_what_has_no_form_that_is_the_same_everywhere_is_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(UnsupportedTypeError):
        encode_column(array)


def test_a_numpy_number_among_objects_comes_back_as_pythons() -> None:
    array = np.array([np.float64(1.5), 10**30, np.int8(-3), np.True_], object)
    back = decode_column(encode_column(array), max_length=10, writable=False)
    assert back.tolist() == [1.5, 10**30, -3, True]
    assert [type(item) for item in back.tolist()] == [float, int, int, bool]


def test_an_object_that_is_no_number_is_refused() -> None:
    with pytest.raises(UnsupportedTypeError):
        encode_column(np.array([1, None], object))


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "0123",
        [],
        [0, "<f8", 1],
        [0, "<f8", 1, b"1234567", 0],
        [0, "<f8", 1, b"1234567"],
        [0, "<f8", 1, "12345678"],
        [0, "<f8", -1, b""],
        [0, "<f8", 1.0, b"12345678"],
        [True, "<f8", 1, b"12345678"],
        [0, 5, 1, b"12345678"],
        [0, "O", 1, b"12345678"],
        [0, "|O", 1, b"12345678"],
        [0, "<f16", 1, b"0" * 16],
        [0, "S2147483647", 1, b""],
        [0, "<f8,<f8", 1, b"0" * 16],
        [6, "<f8", 1, b"12345678"],
        [1, "<f8", 1, b""],
        [2, "<f4", 1, b"1234"],
        [3, "|i1", 1, b"1"],
        [3, "<u8", 1, b"1"],
        [3, "<f8", 1, b"1"],
        [4, "<i2", 1, b"12"],
        [5, "<i4", 1, b"1234"],
        [5, ">i8", 1, b"1234"],
        [0, "|b1", 2, b"\1\2"],
        [32, "<f8", 1, b"i1"],
        [32, "|O", 1, b""],
        [32, "|O", 0, b"i1"],
        [32, "|O", 2, b"i1"],
        [32, "|O", 1, b"i"],
        [32, "|O", 1, b"i 1"],
        [32, "|O", 1, b"i1_0"],
        [32, "|O", 1, b"i+1"],
        [32, "|O", 1, b"f00"],
        [32, "|O", 1, b"b2"],
        [32, "|O", 1, b"x1"],
        [32, "|O", 1, b"i\xff"],
        [32, "|O", 1, b"i1\n"],
    ],
)
def test_a_damaged_column_is_refused(stored: Any) -> None:
    with pytest.raises(CorruptStateError):
        decode_column(stored, max_length=100)


@pytest.mark.parametrize("code", [RAW, CONSTANT, SINGLE, INT32, OBJECTS])
def test_a_column_longer_than_allowed_is_refused_before_anything_is_allocated(code: int) -> None:
    with pytest.raises(LimitExceededError):
        decode_column([code, "<f8", 2**40, b"12345678"], max_length=2**28)


@given(st.integers(-1, 40), st.sampled_from([*DTYPES, "|O", "O", "<M8[s]"]), st.integers(-1, 9), st.binary(max_size=64))
def test_random_columns_are_read_or_refused(code: int, dtype: str, length: int, payload: bytes) -> None:
    try:
        array = decode_column([code, dtype, length, payload], max_length=8)
    except (CorruptStateError, LimitExceededError):
        return
    assert len(array) == length <= 8


@given(
    st.lists(st.integers(-(2**33), 2**33), min_size=2, max_size=200),
    st.integers(0, 2**52),
    st.sampled_from([np.int8, np.int16, np.int32, np.int64]),
)
def test_times_take_what_their_distances_need(distances: list[int], first: int, width: type) -> None:
    bounds = np.iinfo(width)
    ticks = np.cumsum([first, *(max(min(one, bounds.max), bounds.min) for one in distances)])
    times = ticks / 2.0**22
    stored = encode_column(times, progressions=True)
    np.testing.assert_array_equal(
        decode_column(stored, max_length=1000, progressions=True).view("u8"), times.view("u8")
    )
    if stored[0] == TIMES:
        assert len(stored[3]) < 16 + 8 * len(times)


def test_the_times_of_a_clock_take_half_of_their_room_or_less() -> None:
    clock = np.array([time.time() + step * 0.001 for step in range(10_000)])
    code, _, _, payload = encode_column(clock, progressions=True)
    assert code == TIMES
    assert 2 * 9_999 < len(payload) < 2.2 * 9_999


@pytest.mark.parametrize(
    "odd",
    [[-0.0, 1.0], [math.nan, 1.0], [math.inf, 1.0], [1e300, 1.0], [0.1, 0.2], [2.0**40, -(2.0**40)], [1e-300, 1.0]],
)
def test_what_are_no_times_is_stored_bit_for_bit_all_the_same(odd: list[float]) -> None:
    array = np.array([0.1, *odd])
    stored = encode_column(array, progressions=True)
    back = decode_column(stored, max_length=8, progressions=True)
    np.testing.assert_array_equal(back.view("u8"), array.view("u8"))


def test_times_whose_bytes_are_too_few_or_too_many_are_refused() -> None:
    times = np.array([0, 1, 2, 3, 90, 91, 92]) * 2.0**-10 + 2.0**30 + 2.0**-22
    code, dtype, length, payload = encode_column(times, progressions=True)
    assert (code, len(payload)) == (TIMES, 16 + 2 * 6 + 8)
    none_far, two_far = (payload[:12] + bytes([number, 0, 0, 0]) + payload[16:] for number in (0, 2))
    for wrong in (payload[:-1], payload + b"1", payload[:16], payload[:7], b"", none_far, two_far, two_far + bytes(8)):
        with pytest.raises(CorruptStateError):
            decode_column([code, dtype, length, wrong], max_length=64, progressions=True)
    with pytest.raises(CorruptStateError):
        decode_column([code, dtype, 1, payload[:16]], max_length=64, progressions=True)
    with pytest.raises(CorruptStateError):  # in state files, which know nothing of it
        decode_column([code, dtype, length, payload], max_length=64)


def test_steps_that_are_missing_around_a_zero_are_stored_without_a_warning() -> None:
    steps = np.array([-(2**63), 0, -(2**63)])  # NO_STEP, 0, NO_STEP: a progression, in integers that wrap
    stored = encode_column(steps, progressions=True)
    assert same_bits(decode_column(stored, max_length=8, progressions=True), steps)
