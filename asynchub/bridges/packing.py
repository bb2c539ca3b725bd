"""Events as batches: scalars in columns, other events as bytes.

Exact: as in ``asynchub.batches``. An event that is too long for a frame is sent with what it holds cut down to a few
    words, and that is said once for each key.
Bounds: what is packed from many events comes in batches that fit into frames.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from operator import countOf
from typing import Any

import numpy as np

from asynchub.batches import Batch, Scalars, encode_event, in_order, number_column, number_kinds
from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.columns import packed_numbers
from asynchub.events import Event, ScalarUpdated
from asynchub.history import NO_STEP
from asynchub.ledger import packed_steps

__all__ = ("BYTES", "LONGEST", "Packer", "numbers_by_kind", "size_of")

logger = logging.getLogger("asynchub")
LONGEST = 2**17
"""Bytes that one event other than a scalar may take."""
BYTES = 2**18
"""Bytes that a batch takes at most, about; if it is of one event, more where that is a scalar with a longer key."""
EVENTS = 4096
"""Events in a batch, at most."""
ROW, LETTER = 48, 3
"""Bytes that the numbers of a scalar, and a letter of a key, take at most."""
ALL = Limits(nodes=2**62, collisions=2**62)
"""What may be read of one's own."""


class Packer:
    """Packs events. Not for more than one thread at a time.

    Args:
        name: of the bridge, for messages.
        registry: the classes that may occur in events beyond the built-in ones.
    """

    def __init__(self, name: str, registry: Registry | None = None) -> None:
        self._name = name
        self._registry = registry
        self._said: set[str] = set()

    def pack(self, events: Sequence[Event]) -> Batch:
        """Return events, in order, as a batch."""
        others = [(event.seq, self._encode(event)) for event in events if type(event) is not ScalarUpdated]
        return _batch([event for event in events if type(event) is ScalarUpdated], others)

    def packed(self, events: Sequence[Event]) -> Iterator[tuple[Sequence[Event], Batch]]:
        """Yield events, in order, some at a time, with the batch that they make."""
        for start in range(0, len(events), EVENTS):
            some = events[start : start + EVENTS]
            scalars = [event for event in some if type(event) is ScalarUpdated]
            yield from _halved(scalars) if len(scalars) == len(some) else self._one_by_one(some)

    def _one_by_one(self, events: Sequence[Event]) -> Iterator[tuple[Sequence[Event], Batch]]:
        begin = size = 0
        scalars: list[ScalarUpdated] = []
        others: list[tuple[int, bytes]] = []
        for index, event in enumerate(events):
            data = b"" if type(event) is ScalarUpdated else self._encode(event)
            cost = len(data) or _cost(event)
            if size and size + cost > BYTES:
                yield events[begin:index], _batch(scalars, others)
                begin, size, scalars, others = index, 0, [], []
            size += cost
            if data:
                others.append((event.seq, data))
            elif isinstance(event, ScalarUpdated):
                scalars.append(event)
        yield events[begin:], _batch(scalars, others)

    def _encode(self, event: Event) -> bytes:
        data, unstored = encode_event(event, None, self._registry)
        if unstored:
            self._say(event.key, f"only the repr of {', '.join(unstored)} is sent: register its type, or convert it")
        if len(data) <= LONGEST:
            return data
        self._say(event.key, f"it takes {len(data)} bytes, and {LONGEST} are sent at most: it is cut short")
        return _cut_short(data)

    def _say(self, key: str, what: str) -> None:
        if key not in self._said:
            self._said.add(key)
            logger.warning("%s: of %r %s", self._name, key, what)


def _cut_short(data: bytes) -> bytes:
    """Return an encoded event with a few words in the place of what is long in it."""
    fields = loads(data, limits=ALL, on_unknown="keep")
    sizes = {name: len(dumps({name: value})) for name, value in fields.items()}
    for name, size in sizes.items():
        if size > LONGEST // (2 * len(sizes)):
            fields[name] = f"<{type(fields[name]).__name__} of {size} bytes, too long to be sent>"
    return dumps(fields)


def size_of(batch: Batch) -> int:
    """Return how many bytes a batch takes at most, about."""
    size = ROW * sum(len(one.seqs) for one in batch.scalars) + sum(LETTER * len(key) for key, _ in batch.keys)
    for one in batch.scalars:
        if one.values.dtype == object:
            size += sum(number.bit_length() // 8 for number in one.values.tolist() if type(number) is int)
    return size + sum(len(data) for _, data in batch.events)


def _cost(event: Any) -> int:
    number = event.value.bit_length() // 8 if type(event.value) is int else 0
    return ROW + LETTER * len(event.key) + number


def _halved(scalars: Sequence[ScalarUpdated]) -> Iterator[tuple[Sequence[Event], Batch]]:
    batch = _batch(scalars, [])
    if len(scalars) == 1 or size_of(batch) <= BYTES:
        yield scalars, batch
    else:
        middle = len(scalars) // 2
        yield from _halved(scalars[:middle])
        yield from _halved(scalars[middle:])


def _batch(scalars: Sequence[ScalarUpdated], others: list[tuple[int, bytes]]) -> Batch:
    if not scalars:
        return Batch([], [], others)
    names = {key: index for index, key in enumerate(dict.fromkeys([event.key for event in scalars]))}
    keys = [(key, True) for key in names]
    if countOf(map(_is_plain, scalars), True) == len(scalars):  # nearly always
        return Batch(keys, in_order(_plain(scalars, names)), others)
    rows = [
        (one.seq, one.time, NO_STEP if one.step is None else one.step, one.value, one.count, names[one.key])
        for one in scalars
    ]
    return Batch(keys, numbers_by_kind(rows), others)


def _is_plain(event: ScalarUpdated) -> bool:
    return type(event.value) is float and event.count == 1


def _plain(scalars: Sequence[ScalarUpdated], names: dict[str, int]) -> Scalars:
    size = len(scalars)
    return Scalars(
        np.fromiter([event.seq for event in scalars], np.int64, size),
        packed_numbers("d", [event.time for event in scalars]),
        packed_steps([event.step for event in scalars]),
        packed_numbers("d", [event.value for event in scalars]),
        np.ones(size, np.int64),
        np.fromiter([names[event.key] for event in scalars], np.int64, size),
    )


def numbers_by_kind(rows: Sequence[tuple[Any, ...]]) -> list[Scalars]:
    """Return columns for each kind of number, floats, ints of 64 bits, others, of rows in the order of ``seq``.

    Args:
        rows: ``seq``, time, step (``NO_STEP`` for none), value, count, and index of the key.
    """
    groups: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for row in rows:
        groups.setdefault(number_kinds(row[3], row[4]), []).append(row)
    made = []
    for (of_value, of_count), some in groups.items():
        seqs, times, steps, values, counts, whose = (list(column) for column in zip(*some, strict=True))
        made += in_order(
            Scalars(
                packed_numbers("q", seqs),
                packed_numbers("d", times),
                packed_numbers("q", steps),
                number_column(values, of_value),
                number_column(counts, of_count),
                packed_numbers("q", whose),
            )
        )
    return made
