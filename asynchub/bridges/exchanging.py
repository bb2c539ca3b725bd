"""Bytes of any length, and requests, from every rank to every rank, over what moves rows of numbers alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from asynchub.bridges.combining import Floats, Ranks
from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.errors import ArgumentError, CorruptStateError
from asynchub.eventforms import event_to_dict
from asynchub.requests import Request

__all__ = ("Solo", "exchange", "pack_request", "unpack_request")

_FLOAT = 8


class Solo:
    """The only rank of a run; see ``asynchub.bridges.combining.Ranks``. Nothing waits.

    Args:
        number: what it is called.
    """

    def __init__(self, number: int) -> None:
        self.index = 0
        self.numbers: Sequence[int] = (number,)

    def gather(self, row: Floats, deadline: float) -> Floats:
        """Return ``row`` as the only one, of shape ``(1, len(row))``."""
        return row.reshape(1, -1)

    def total(self, row: Floats, deadline: float) -> Floats:
        """Return ``row``."""
        return row

    def largest(self, row: Floats, deadline: float) -> Floats:
        """Return ``row``."""
        return row

    def close(self) -> None:
        """Do nothing."""


def exchange(ranks: Ranks, data: bytes, deadline: float) -> list[bytes]:
    """Return the ``data`` of each rank, in their order; two collectives, each of one shape on all ranks."""
    lengths = ranks.gather(np.array([float(len(data))]), deadline)[:, 0]
    size = int(lengths.max())
    if not size:
        return [b""] * len(lengths)  # without a collective: gloo dies of one of no elements
    row = np.zeros(-(-size // _FLOAT) * _FLOAT, dtype=np.uint8)
    row[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    rows = ranks.gather(row.view(np.float64), deadline)  # moved, never computed with: every bit stays
    return [bytes(one.view(np.uint8)[: int(length)]) for one, length in zip(rows, lengths, strict=True)]


def _kinds(kind: type[Request] = Request) -> Iterator[type[Request]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _kinds(one)


def _name(kind: type[Request]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def pack_request(request: Request) -> bytes:
    """Return ``request`` as bytes, without where and when it was published.

    Raises:
        ArgumentError: it is no request.
        UnsupportedTypesError: fields of it cannot be stored.
    """
    if not isinstance(request, Request):
        raise ArgumentError(f"request takes a Request, got {type(request).__name__}; see asynchub.requests")
    fields = {name: value for name, value in event_to_dict(request).items() if name not in ("seq", "time", "step")}
    return dumps({**fields, "event": _name(type(request))})


def unpack_request(data: bytes) -> Request:
    """Return the request that ``pack_request`` made bytes of, on another rank.

    Raises:
        CorruptStateError: nothing on this rank defines its kind, or it is damaged.
    """
    fields: Any = loads(data)
    name = fields.pop("event", None) if isinstance(fields, dict) else None
    # the last one: a dataclass with slots is a copy of a class that may still be there
    kind = next((one for one in reversed(list(_kinds())) if _name(one) == name), None)
    if kind is None:
        raise CorruptStateError(
            f"a request came from another rank, of the kind {name!r}, which this one has not loaded"
        )
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{field: value for field, value in fields.items() if field in known})
