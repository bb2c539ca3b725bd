"""One real number out of anything a training loop calls a scalar.

This is the one place where a value of a caller is read. A Python number is taken as it is; a NumPy or tensor value of
exactly one element is read with ``.item()``, which waits for the device the value is on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asynchub.errors import ArgumentError, CountTypeError, KeyTypeError, NotAScalarError

__all__ = ("checked_key", "checked_step", "real_number", "sample_count")


def real_number(key: str, value: Any) -> int | float:
    """Return ``value`` as a Python int, bool or float.

    Accepts numbers, NumPy scalars, and arrays and tensors of exactly one element, of any shape and real dtype. NaN and
    infinities are numbers.

    Args:
        key: what the value is for; named in the error.
        value: the value.

    Raises:
        NotAScalarError: ``value`` is not exactly one real number: a string, None, a complex, a container, or an array
            of no or several elements.
    """
    kind = type(value)
    if kind is float or kind is int or kind is bool:
        return value  # type: ignore[no-any-return]  # just checked
    if isinstance(value, np.ndarray | np.generic):
        if value.size == 1:
            return _checked(key, value, value.item())
    elif isinstance(value, int | float):
        return _checked(key, value, value)
    elif callable(getattr(value, "numel", None)) and value.numel() == 1:
        return _checked(key, value, value.item())
    raise NotAScalarError(key, value)


def _checked(key: str, value: Any, number: Any) -> int | float:
    """Return ``number`` without its subclass, if it is real."""
    if isinstance(number, bool):
        return number
    if isinstance(number, int):
        return int(number)
    if isinstance(number, float | np.floating):  # an extended float stays a NumPy scalar after .item()
        return float(number)
    raise NotAScalarError(key, value)


def sample_count(key: str, count: Any) -> int:
    """Return ``count`` if it is an int; zero, negatives and bools are.

    Raises:
        CountTypeError: it is not.
    """
    if isinstance(count, int):
        return count
    raise CountTypeError(key, count)


def checked_key(key: object) -> str:
    """Return ``key`` if it is a string.

    Raises:
        KeyTypeError: it is not.
    """
    if isinstance(key, str):
        return key
    raise KeyTypeError(key)


def checked_step(step: Any) -> int:
    """Return ``step`` as an int of 64 bits.

    Raises:
        ArgumentError: it is not one.
    """
    try:
        number = int(step.__index__())
    except (AttributeError, TypeError):
        number = None
    if number is None or isinstance(step, bool) or not -(2**63) < number < 2**63:
        raise ArgumentError(f"step must be an int, got {type(step).__name__}: {step!r:.80}")
    return number
