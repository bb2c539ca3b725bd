"""One real number out of anything, and an error for everything else."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from asynchub.errors import ArgumentError, CountTypeError, KeyTypeError, NotAScalarError
from asynchub.scalars import checked_key, checked_step, real_number, sample_count


class Celsius(float):
    pass


class Level(int):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (True, True),
        (-2.5, -2.5),
        (2**70, 2**70),
        (math.inf, math.inf),
        (Celsius(3.5), 3.5),
        (Level(3), 3),
        (np.float32(0.5), 0.5),
        (np.int8(-3), -3),
        (np.bool_(True), True),
        (np.longdouble(1.5), 1.5),
        (np.array(2.0), 2.0),
        (np.array([[7]], dtype=np.uint16), 7),
        (torch.tensor(0.25), 0.25),
        (torch.tensor([[3]], dtype=torch.int16), 3),
        (torch.tensor(True), True),
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
        (torch.tensor(2.0, requires_grad=True), 2.0),
        (torch.nn.Parameter(torch.tensor([4.0])), 4.0),
    ],
)
def test_one_real_number_is_taken_as_a_plain_python_number(value: Any, expected: float) -> None:
    number = real_number("key", value)
    assert number == expected
    assert type(number) is type(expected)


@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), torch.tensor(math.nan), np.array([np.nan])])
def test_nan_is_a_number(value: Any) -> None:
    assert math.isnan(real_number("key", value))


@pytest.mark.parametrize(
    "value",
    [
        None,
        "1.0",
        b"1",
        1j,
        [1.0],
        (1,),
        {1},
        object(),
        float,
        np.array([]),
        np.array([1, 2]),
        np.array(["1"]),
        np.array([None]),
        np.complex64(1),
        np.datetime64("2026-01-01"),
        torch.tensor([]),
        torch.tensor([1.0, 2.0]),
        torch.tensor(1j),
        Decimal(1),
        Fraction(1, 2),
    ],
)
def test_anything_else_is_refused_and_named(value: Any) -> None:
    with pytest.raises(NotAScalarError, match=r"'train/loss' must be one real number, got .*; reduce it first"):
        real_number("train/loss", value)


@pytest.mark.parametrize("count", [0, -3, 1, True, 10**30])
def test_any_int_is_a_count(count: int) -> None:
    assert sample_count("key", count) == count


@pytest.mark.parametrize("count", [1.0, "1", None, np.array([1]), torch.tensor(1)])
def test_what_is_no_int_is_no_count(count: Any) -> None:
    with pytest.raises(CountTypeError, match="count of 'key' must be int"):
        sample_count("key", count)


@pytest.mark.parametrize("key", [None, 1, b"loss", ("a",), np.str_])
def test_a_key_that_is_no_string_is_refused(key: Any) -> None:
    with pytest.raises(KeyTypeError, match="a key must be a str"):
        checked_key(key)


@pytest.mark.parametrize("step", [0, 7, -1, np.int64(3), torch.tensor(4)])
def test_a_step_is_any_int_of_64_bits(step: Any) -> None:
    assert checked_step(step) == int(step)
    assert type(checked_step(step)) is int


@pytest.mark.parametrize("step", [1.0, "1", True, 2**63, -(2**63), None, torch.tensor(1.5), np.array([1, 2])])
def test_anything_else_is_no_step(step: Any) -> None:
    with pytest.raises(ArgumentError, match="step must be an int"):
        checked_step(step)
