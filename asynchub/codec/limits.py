"""What reading may cost at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from asynchub.codec.codes import MAX_DEPTH
from asynchub.errors import ArgumentError

__all__ = ("Limits",)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ``loads`` and what reads a file accept; what asks for more is refused with a ``LimitExceededError``.

    Attributes:
        size: bytes of the data; of a snapshot, those of its manifest and of the arrays outside of it.
        depth: containers inside each other.
        nodes: values in all containers; each container and each extension value counts once more.
        elements: elements of all arrays and tensors.
        collisions: keys of one dict, or members of one set, whose hashes are equal. Data made to collide would
            otherwise take time that is quadratic in its size. Strings and bytes, whose hashes nobody can foresee,
            do not count.

    Raises:
        ArgumentError: a limit is not an int of at least 0.
    """

    size: int = 2**32
    depth: int = MAX_DEPTH
    nodes: int = 2_000_000
    elements: int = 2**31
    collisions: int = 100

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 0:
                raise ArgumentError(f"the limit {field.name!r} must be an int of at least 0, got {value!r:.80}")
