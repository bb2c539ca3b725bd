"""The extension codes of the format. The meaning of a code never changes; a new one is a new minor version.

1 to 31 are core scalars and containers, 32 to 47 arrays, 48 is the user's; 49 to 95 are reserved, and 96 to 127 are
never written by this package.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ("ARRAYS", "MAX_BIG_INT", "MAX_DEPTH", "MAX_INLINE", "MAX_LEAF", "RAW", "REGISTERED", "TREES", "Code")

MAX_DEPTH = 64
"""Containers inside each other that are written, and by default read."""
MAX_LEAF = 2**32 - 1
"""Size in bytes of the largest string, array or extension value: a length has 32 bits in msgpack."""
MAX_BIG_INT = 64 * 1024
"""Size in bytes of the largest int, sign included."""
MAX_INLINE = 4096
"""Size in bytes of the largest data of an array that is never written as a blob."""


class Code(IntEnum):
    """An extension code that this version writes."""

    TUPLE = 1
    SET = 2
    FROZENSET = 3
    PAIRS = 4
    """A dict with keys that are not all plain strings."""
    ORDERED_DICT = 5
    DEQUE = 6
    BIG_INT = 7
    COMPLEX = 8
    BYTEARRAY = 9
    SURROGATES = 10
    """A string with lone surrogates."""
    DATETIME = 11
    DATE = 12
    TIME = 13
    TIMEDELTA = 14
    PATH = 15
    UUID = 16
    DECIMAL = 17
    RANGE = 18
    """A range or a slice."""
    TORCH = 19
    """A torch.Size, torch.dtype or torch.device."""
    ENUM = 20
    RECORD = 21
    """A registered dataclass or namedtuple."""
    NDARRAY = 32
    NUMPY_SCALAR = 33
    TENSOR = 34
    ML_DTYPES = 35
    """An array or scalar of a dtype of the package ml_dtypes."""
    USER = 48
    """A value of a registered class, as the tree that its ``encode`` made of it."""


RAW = frozenset({Code.BIG_INT, Code.COMPLEX, Code.BYTEARRAY, Code.SURROGATES, Code.UUID, Code.DECIMAL})
"""Codes whose payload is not msgpack."""
REGISTERED = frozenset({Code.ENUM, Code.RECORD, Code.USER})
"""Codes whose payload is [name, version, tree] of a registered class."""
TREES = REGISTERED | {
    Code.TUPLE,
    Code.SET,
    Code.FROZENSET,
    Code.PAIRS,
    Code.ORDERED_DICT,
    Code.DEQUE,
    Code.PATH,
    Code.RANGE,
}
"""Codes whose payload may hold extension values; each counts as one container. The others hold plain msgpack."""
ARRAYS = frozenset({Code.NDARRAY, Code.TENSOR, Code.ML_DTYPES})
"""Codes whose payload begins [dtype, shape, data], where the data may be the number of a blob."""
