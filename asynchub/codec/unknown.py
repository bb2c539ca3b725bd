"""A stored value of a type that the reader does not know."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ("UnknownValue",)


@dataclass(frozen=True)
class UnknownValue:
    """What ``loads(..., on_unknown="keep")`` returns in the place of a value it does not know.

    Stored again, it gives the bytes it came from.

    Attributes:
        code: its extension code, from 0 to 127.
        data: its payload.
    """

    code: int
    data: bytes = field(repr=False)
