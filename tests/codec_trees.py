"""One value of every kind that is stored, and a comparison that sees types and bits."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import torch

NAN_WITH_PAYLOAD = struct.unpack("<d", bytes.fromhex("efbeadde0000f87f"))[0]
BERLIN = ZoneInfo("Europe/Berlin")

INTS = ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128")
FLOATS_8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")

PORTABLE: dict[str, Any] = {
    "none": None,
    "true": True,
    "zero": 0,
    "int 64 least": -(2**63),
    "int 64 most": 2**64 - 1,
    "int above 64": 2**64,
    "int below 64": -(2**63) - 1,
    "int -2**70": -(2**70),
    "int of 3000 digits": 10**3000 + 7,
    "float": 0.1,
    "minus zero": -0.0,
    "infinity": -math.inf,
    "nan with payload": NAN_WITH_PAYLOAD,
    "str": "grüße",
    "empty str": "",
    "lone surrogate": "a\udc80\ud800b",
    "nul": "a\0",
    "bytes": b"\0\xff",
    "bytearray": bytearray(b"\0\xff"),
    "list": [1, [2, []]],
    "tuple": (1, (2, ()), [3]),
    "set": {1, "a", (2, 3), frozenset({4})},
    "empty set": set(),
    "frozenset": frozenset({b"a", None}),
    "dict": {"z": 1, "a": {}, "": 2},
    "dict int keys": {1: "a", -2: "b", 2**80: "c"},
    "dict mixed keys": {"a": 1, None: 2, (1, "x"): 3, 1.5: 4, b"k": 5, True: 6},
    "dict surrogate key": {"\udc80": 1},
    "ordered dict": OrderedDict([("b", 1), ("a", 2), (3, [4])]),
    "deque": deque([1, (2,)]),
    "deque with maxlen": deque([1, 2], maxlen=5),
    "complex": complex(-0.0, math.inf),
    "datetime": datetime(2024, 2, 29, 23, 59, 59, 999999),
    "datetime utc": datetime(1, 1, 1, tzinfo=UTC),
    "datetime offset": datetime(9999, 12, 31, tzinfo=timezone(timedelta(hours=-5, minutes=-30, microseconds=7))),
    "datetime named offset": datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "Hütte")),
    "datetime fold": datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
    "date": date(1970, 1, 1),
    "time": time(1, 2, 3, 4),
    "time with zone": time(1, 2, 3, 4, tzinfo=BERLIN, fold=1),
    "timedelta": timedelta(-3, 5, 7),
    "pure posix path": PurePosixPath("/a/b.txt"),
    "pure windows path": PureWindowsPath("C:\\a\\b"),
    "path not utf-8": PurePosixPath("a\udcff"),
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
    "decimal": Decimal("-0E-20"),
    "decimal snan": Decimal("sNaN123"),
    "range": range(5, -(2**70), -3),
    "slice": slice(None, 5, "x"),
    "torch size": torch.Size([2, 0, 3]),
    "torch dtype": torch.bfloat16,
    "torch device": torch.device("cuda:1"),
    **{f"array {name}": np.arange(6).astype(name).reshape(2, 3) for name in ("|b1", "|i1", "|u1")},
    **{
        f"array {order}{name}": np.arange(6).astype(order + name).reshape(2, 3)
        for name in ("i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")
        for order in "<>"
    },
    "array transposed": np.arange(6, dtype=">i4").reshape(2, 3).T,
    "array strided": np.arange(20.0)[::-3],
    "array broadcast": np.broadcast_to(np.float32(2), (3, 2)),
    "array 0-d": np.array(3.0),
    "array (0, 3)": np.zeros((0, 3), np.int16),
    "array nan payload": np.array([NAN_WITH_PAYLOAD, -0.0]),
    "array text": np.array(["ä", "bcd", ""]),
    "array text big endian": np.array(["ä", "bcd"], dtype=">U3"),
    "array bytes": np.array([b"a", b"bcd"]),
    "array of dates": np.array(["2024-02-29", "NaT"], dtype="M8[25s]"),
    "array of dates without unit": np.array(["NaT"], dtype="M8"),
    "array of spans": np.array([1, -1], dtype=">m8[ns]"),
    **{
        f"scalar {name}": np.dtype(name).type(1)
        for name in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")
    },
    "scalar nan payload": np.float64(NAN_WITH_PAYLOAD),
    "scalar str": np.str_("a\0"),
    "scalar bytes": np.bytes_(b"a\0"),
    "scalar date": np.datetime64("2024-02-29T01", "h"),
    "scalar no date": np.datetime64("NaT"),
    "scalar span": np.timedelta64(-5, "ms"),
    **{
        f"tensor {name}": torch.arange(48, dtype=torch.uint8).view(getattr(torch, name))[:2].reshape(1, 2)
        for name in (*INTS, *FLOATS, *FLOATS_8)
    },
    "tensor bool": torch.tensor([True, False]),
    "tensor 0-d": torch.tensor(1.5, dtype=torch.bfloat16),
    "tensor (0, 3)": torch.zeros(0, 3, dtype=torch.float64),
    "tensor with grad": torch.tensor([1.0, math.nan], requires_grad=True),
    "tensor transposed": torch.arange(6).reshape(2, 3).T,
    "tensor of one element, strided": torch.arange(4.0)[1::3],
    "array of one element, strided": np.arange(4.0)[::-3][:1],
    "tensor expanded": torch.ones(1).expand(3, 2),
    "tensor conj": torch.tensor([1 + 2j]).conj(),
    "tensor neg": torch.tensor([1 + 2j]).conj().imag,
}
"""Values that every machine reads back exactly."""

ZOO: dict[str, Any] = {**PORTABLE, "path": Path("run/state.ahc")}


def _bits(tensor: torch.Tensor) -> bytes:
    items = tensor.detach().resolve_conj().resolve_neg().reshape(-1).unsqueeze(-1)
    return bytes(items.view(torch.uint8).flatten().tolist()) if items.numel() else b""


def difference(one: Any, other: Any, path: str = "$") -> str:
    """Return where two trees differ in type, order or bits, and how; empty if they do not."""
    if type(one) is not type(other):
        return f"{path}: {type(one)} and {type(other)}"
    if isinstance(one, float | complex):
        return "" if _float_bits(one) == _float_bits(other) else f"{path}: {one!r} and {other!r}"
    if isinstance(one, np.ndarray | np.generic):
        if isinstance(one, str | bytes) and one[:] != other[:]:
            return f"{path}: {one!r} and {other!r}"
        same = one.dtype.str == other.dtype.str and one.shape == other.shape and one.tobytes() == other.tobytes()
        return "" if same else f"{path}: {one!r} and {other!r}"
    if isinstance(one, torch.Tensor):
        same = one.dtype is other.dtype and one.shape == other.shape and one.requires_grad is other.requires_grad
        return "" if same and _bits(one) == _bits(other) else f"{path}: {one!r} and {other!r}"
    if isinstance(one, list | tuple | deque):
        if len(one) != len(other) or getattr(one, "maxlen", None) != getattr(other, "maxlen", None):
            return f"{path}: {one!r} and {other!r}"
        return _first(difference(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(one, other, strict=True)))
    if isinstance(one, dict):
        if len(one) != len(other):
            return f"{path}: {one!r} and {other!r}"
        return difference(list(one.items()), list(other.items()), f"{path}{{}}")
    if isinstance(one, set | frozenset):
        ours, theirs = (sorted(group, key=_sort_key) for group in (one, other))
        return difference(ours, theirs, f"{path}{{}}")
    if isinstance(one, datetime | time):
        zones = [(type(z.tzinfo), str(z.tzinfo), z.fold) for z in (one, other)]
        if zones[0] != zones[1] or one.replace(tzinfo=None) != other.replace(tzinfo=None):
            return f"{path}: {one!r} and {other!r}"
        return ""
    if isinstance(one, Decimal | slice):
        return "" if repr(one) == repr(other) else f"{path}: {one!r} and {other!r}"
    return "" if one == other else f"{path}: {one!r} and {other!r}"


def _sort_key(member: Any) -> str:
    if isinstance(member, frozenset):
        return f"frozenset{sorted(map(_sort_key, member))}"
    if type(member) is tuple:  # whose repr may hold that of a frozenset, which has no order
        return f"tuple{list(map(_sort_key, member))}"
    return f"{type(member).__name__} {member!r}"


def _first(differences: Any) -> str:
    return next((found for found in differences if found), "")


def _float_bits(value: Any) -> bytes:
    return struct.pack("<dd", value.real, value.imag) + type(value).__name__.encode()
