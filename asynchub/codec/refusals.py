"""Why a value cannot be stored, and what to do about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import is_dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, GeneratorType, LambdaType, MethodType, ModuleType
from typing import Any

import numpy as np

__all__ = ("Refused", "advice")


class Refused(Exception):
    """A value cannot be stored; the text is the advice. It never leaves the codec."""


_ADVICE: tuple[tuple[tuple[type, ...], str], ...] = (
    ((FunctionType, LambdaType, MethodType, BuiltinFunctionType), "store the name of the function"),
    ((type, ModuleType), "store its name"),
    ((GeneratorType,), "make a list of it"),
    ((defaultdict,), "convert it with dict(): its factory cannot be stored"),
    ((Counter,), "convert it with dict()"),
    ((Enum,), "register its class, or store its name or value"),
    ((np.ndarray,), "a subclass of numpy.ndarray: convert it with numpy.array(value)"),
    ((np.dtype,), "store its .str"),
    ((memoryview,), "convert it with bytes()"),
)


def advice(value: Any) -> str:
    """Return what to do about a value of a type that cannot be stored; empty if there is nothing special to say."""
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if name.startswith("torch.") and name.endswith("Parameter"):
        return "store its data, parameter.detach(), or the state_dict() of its module"
    for kinds, text in _ADVICE:
        if isinstance(value, kinds):
            return text
    if is_dataclass(value):
        return "register its class"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "register its class, or convert it with tuple()"
    for base in (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset):
        if isinstance(value, base):
            return f"a subclass of {base.__name__}: convert it with {base.__name__}(), or register its class"
    return ""
