"""What a frame of events holds: scalars in columns, and other events one by one.

Exact: an event comes back with the value and the type that it was published with. Of what cannot be stored, its
    ``repr`` is kept, and said.
Threads: no state is shared; any thread may call anything here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, countOf, itemgetter
from typing import Any, Literal, NamedTuple

import msgpack
import numpy as np

from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.columns import Array, decode_column, encode_column, packed_numbers
from asynchub.errors import CorruptStateError, LimitExceededError, StateError
from asynchub.eventforms import event_from_dict, event_to_dict
from asynchub.events import ENTRY, Event, ScalarUpdated, scalar_updated
from asynchub.filing import Run
from asynchub.history import NO_STEP
from asynchub.ledger import packed_steps

__all__ = (
    "PIECE",
    "RESUMED",
    "UNSTORED",
    "Batch",
    "Scalars",
    "Test",
    "batch_of",
    "decode_batch",
    "decode_event",
    "encode_batch",
    "encode_event",
    "events_of",
    "in_order",
    "number_column",
    "number_kinds",
    "pieces",
    "shifted",
)

RESUMED = "resumed"
"""Under this name, beside the fields of an ``InfoUpdated``, stands the flag of its key."""
UNSTORED = "unstored"
"""Under this name stand the names of the fields that hold a ``repr`` in the place of what cannot be stored."""
PIECE = 65_536
"""Scalars that one frame is given, about."""
MAX_SCALARS = 4 * PIECE
"""Scalars that one frame may have."""
Test = Callable[[str, type[Event]], bool]
"""Tells whether events of a key and kind are wanted."""
INT64 = range(-(2**63), 2**63)


class Scalars(NamedTuple):
    """Updates of scalars, in columns of one length, in the order of ``seq``.

    Attributes:
        seqs: ``seq`` of each.
        times: when each was published, in seconds since the epoch.
        steps: the step each belongs to; ``NO_STEP`` where there is none.
        values: the values: of one dtype, or Python numbers as objects.
        counts: their counts; as ``values``.
        whose: index, among the keys of the batch, of the key of each.
    """

    seqs: Array
    times: Array
    steps: Array
    values: Array
    counts: Array
    whose: Array


class Batch(NamedTuple):
    """Events of one frame.

    Attributes:
        keys: keys of its scalars, each with its ``resumed`` flag.
        scalars: its scalars, by kind of number.
        events: ``seq`` and bytes of its other events, in order; see ``decode_event``.
    """

    keys: list[tuple[str, bool]]
    scalars: list[Scalars]
    events: list[tuple[int, bytes]]

    @property
    def seqs(self) -> tuple[int, int]:
        """The smallest and the largest ``seq``; (0, -1) of nothing."""
        ends = [(int(one.seqs[0]), int(one.seqs[-1])) for one in self.scalars if len(one.seqs)]
        ends += [(seq, seq) for seq, _ in (self.events[:1] + self.events[-1:])]
        return (min(first for first, _ in ends), max(last for _, last in ends)) if ends else (0, -1)

    @property
    def size(self) -> int:
        """How many events it has."""
        return sum(len(one.seqs) for one in self.scalars) + len(self.events)

    def between(self, after: int, upto: float) -> Batch:
        """Return those of its events whose ``seq`` is above ``after`` and at most ``upto``."""
        first, last = self.seqs
        if after < first and last <= upto:
            return self
        scalars = []
        for one in self.scalars:
            start, stop = np.searchsorted(one.seqs, [after, min(upto, last)], side="right").tolist()
            if start < stop:
                scalars.append(Scalars(*(column[start:stop] for column in one)))
        return Batch(self.keys, scalars, [(seq, data) for seq, data in self.events if after < seq <= upto])


# --- from what was published


def batch_of(runs: Sequence[Run], events: Sequence[tuple[int, bytes]]) -> Batch:
    """Return a batch of entries as publishers leave them, and of encoded events."""
    items = runs[0][1] if len(runs) == 1 else list(itertools.chain.from_iterable(items for _, items in runs))
    size = len(items) // ENTRY
    if not size:
        return Batch([], [], list(events))
    cells = items[::ENTRY]
    numbers = {cell: index for index, cell in enumerate(dict.fromkeys(cells))}
    keys = [(cell.key, bool(cell.resumed)) for cell in numbers]
    whose: Array = np.fromiter(map(numbers.__getitem__, cells), np.int64, size)
    seqs = np.concatenate([np.arange(first, first + len(items) // ENTRY) for first, items in runs])
    times, steps = packed_numbers("d", items[1::ENTRY]), packed_steps(items[2::ENTRY])
    values, counts = items[3::ENTRY], items[4::ENTRY]
    if countOf(map(type, values), float) == size and counts.count(1) == size:
        columns = Scalars(seqs, times, steps, packed_numbers("d", values), np.ones(size, np.int64), whose)
        return Batch(keys, [columns], list(events))
    kinds = [number_kinds(value, count) for value, count in zip(values, counts, strict=True)]
    scalars = []
    for kind in dict.fromkeys(kinds):
        found = [index for index, one in enumerate(kinds) if one == kind]
        own = np.array(found)
        scalars.append(
            Scalars(
                seqs[own],
                times[own],
                steps[own],
                number_column([values[index] for index in found], kind[0]),
                number_column([counts[index] for index in found], kind[1]),
                whose[own],
            )
        )
    return Batch(keys, scalars, list(events))


def pieces(runs: Sequence[Run], events: Sequence[tuple[int, bytes]]) -> list[Batch]:
    """Return the same as batches of some ten thousand events each, in order."""
    if sum(len(items) for _, items in runs) <= PIECE * ENTRY:
        return [batch_of(runs, events)] if runs or events else []
    made: list[Batch] = []
    some: list[Run] = []
    size = 0
    for first, items in runs:
        for start in range(0, len(items), PIECE * ENTRY):
            part = items[start : start + PIECE * ENTRY]
            some.append((first + start // ENTRY, part))
            size += len(part)
            if size >= PIECE * ENTRY:
                made.append(batch_of(some, []))
                some, size = [], 0
    if some:
        made.append(batch_of(some, []))
    ends = [piece.seqs[1] for piece in made]
    for number, piece in enumerate(made):
        after = ends[number - 1] if number else 0
        upto = ends[number] if number + 1 < len(made) else float("inf")
        piece.events.extend(one for one in events if after < one[0] <= upto)
    return made


def number_kinds(value: Any, count: Any) -> tuple[str, str]:
    """Return of which columns a scalar is: ``"d"`` for floats, ``"q"`` for ints of 64 bits, ``"O"`` for others."""
    of_value = "d" if type(value) is float else "q" if type(value) is int and value in INT64 else "O"
    return of_value, "q" if type(count) is int and count in INT64 else "O"


def number_column(numbers: list[Any], kind: str) -> Array:
    """Return numbers of one of those kinds as a column."""
    if kind != "O":
        return packed_numbers(kind, numbers)
    array = np.empty(len(numbers), object)
    array[:] = numbers
    return array


def encode_event(event: Event, resumed: bool | None, registry: Registry | None) -> tuple[bytes, tuple[str, ...]]:
    """Return an event as bytes, and the names of its fields of which only the ``repr`` could be kept.

    Args:
        event: a published event.
        resumed: the flag of its key, of an ``InfoUpdated``.
        registry: the classes that may occur in it beyond the built-in ones.
    """
    fields = event_to_dict(event)
    if resumed is not None:
        fields[RESUMED] = bool(resumed)
    try:
        return dumps(fields, registry=registry), ()
    except Exception:  # whatever foreign objects raise: to publish them was no mistake
        unstored = []
        for name, value in fields.items():
            try:
                dumps({name: value}, registry=registry)
            except Exception:
                fields[name] = _shown(value)
                unstored.append(name)
        return dumps({**fields, UNSTORED: unstored}, registry=registry), tuple(unstored)


def _shown(value: object) -> str:
    try:
        return repr(value)[:1000].encode("utf-8", "backslashreplace").decode()
    except Exception as error:  # a foreign object
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def in_order(scalars: Scalars) -> list[Scalars]:
    """Return scalars, sorted by ``seq``, as such in which each is larger than the one before.

    Two have the same where a hub has taken in a state of another past, and has kept keys that are not in it; and where
    a journal was attached to it late, whose ``Rewound`` has the ``seq`` of what was published before.
    """
    seqs = scalars.seqs
    if bool((seqs[1:] > seqs[:-1]).all()):
        return [scalars]
    again = np.arange(len(seqs)) - np.searchsorted(seqs, seqs)  # how many of the same are before it
    return [Scalars(*(column[again == count] for column in scalars)) for count in range(int(again.max()) + 1)]


# --- as bytes


def encode_batch(batch: Batch) -> bytes:
    """Return a batch as the payload of a frame."""
    scalars = [[encode_column(column, progressions=True) for column in one] for one in batch.scalars]
    tree = {
        "keys": [list(key) for key in batch.keys],
        "scalars": scalars,
        "events": [list(one) for one in batch.events],
    }
    payload: bytes = msgpack.packb(tree, unicode_errors="surrogatepass")
    return payload


def decode_batch(payload: bytes) -> Batch:
    """Return the batch that ``encode_batch`` made a payload of.

    Raises:
        CorruptStateError: it is damaged or foreign.
        LimitExceededError: it asks for more than a frame may hold.
    """
    try:
        tree = msgpack.unpackb(payload, strict_map_key=True, unicode_errors="surrogatepass")
        names, flags = zip(*tree["keys"], strict=True) if tree["keys"] else ((), ())
        keys = list(zip(names, flags, strict=True))
        events = [(seq, data) for seq, data in tree["events"]]
        groups = list(tree["scalars"])
        if not set(map(type, names)) <= {str} or not set(map(type, flags)) <= {bool}:
            raise ValueError(f"a key is a string with a flag, got {keys!r:.80}")
        if any(type(seq) is not int or type(data) is not bytes for seq, data in events):
            raise ValueError("an event is its seq and bytes")
        return Batch(keys, [_scalars(group, len(keys)) for group in groups], events)
    except (StateError, MemoryError, RecursionError):
        raise
    except Exception as error:  # no list of what damaged data can raise is ever complete
        raise CorruptStateError(f"a frame of events is damaged: {type(error).__name__}: {error}") from error


def _scalars(group: Any, keys: int) -> Scalars:
    lengths = {column[2] for column in group}
    if len(group) != len(Scalars._fields) or len(lengths) != 1:
        raise CorruptStateError(f"scalars are six columns of one length, got {len(group)} of {lengths!r:.80}")
    if not 0 < (size := lengths.pop()) <= MAX_SCALARS:
        raise LimitExceededError(f"a frame has {size} scalars, 1 to {MAX_SCALARS} are allowed")
    columns = [decode_column(column, max_length=MAX_SCALARS, progressions=True) for column in group]
    scalars = Scalars(*columns)
    kinds = [column.dtype.str for column in (scalars.seqs, scalars.times, scalars.steps, scalars.whose)]
    if kinds != ["<i8", "<f8", "<i8", "<i8"]:
        raise CorruptStateError(f"seqs, times, steps and keys of scalars are i8, f8, i8, i8, got {kinds}")
    if scalars.values.dtype.str not in ("<f8", "<i8", "|O") or scalars.counts.dtype.str not in ("<i8", "|O"):
        raise CorruptStateError(f"values are f8, i8 or objects, got {scalars.values.dtype} and {scalars.counts.dtype}")
    if scalars.seqs[0] < 1 or not bool((scalars.seqs[1:] > scalars.seqs[:-1]).all()):
        raise CorruptStateError("scalars of a frame are not in order")
    if not 0 <= int(scalars.whose.min()) <= int(scalars.whose.max()) < keys:
        raise CorruptStateError("a scalar of a frame has no key")
    return scalars


def decode_event(
    data: bytes,
    *,
    limits: Limits | None = None,
    registry: Registry | None = None,
    on_unknown: Literal["raise", "keep"] = "keep",
) -> tuple[Event, Mapping[str, Any]]:
    """Return the event that ``encode_event`` made bytes of, and its fields, with what stood beside them.

    Raises:
        StateError: the bytes are damaged, or ask for more than the limits allow.
        UnknownTypeError: they hold a type that is not known here, and ``on_unknown`` is ``"raise"``.
    """
    fields = loads(data, limits=limits, registry=registry, on_unknown=on_unknown)
    if not isinstance(fields, dict) or type(fields.get("event")) is not str:
        raise CorruptStateError(f"an event is a map with its kind, got {fields!r:.80}")
    event = event_from_dict(fields)
    whole = type(event.seq) is int and type(event.key) is str and isinstance(event.time, int | float)
    if not whole or not (event.step is None or type(event.step) is int):
        raise CorruptStateError(f"an event has seq, time, step and key, got {fields!r:.200}")
    return event, fields


# --- as events


def events_of(
    batch: Batch, *, test: Test | None = None, limits: Limits | None = None, registry: Registry | None = None
) -> Iterator[Event]:
    """Yield the events of a batch in the order of ``seq``.

    Args:
        batch: it.
        test: tells whether events of a key and kind are wanted; None: all are.
        limits: as of ``decode_event``.
        registry: as of ``decode_event``.
    """
    if test is not None:
        batch = _wanted_scalars(batch, test)
    entries: list[tuple[int, float, int | None, str, float, int]] = []
    names = [key for key, _ in batch.keys]
    for one in batch.scalars:
        rows: Iterable[tuple[Any, ...]] = zip(*(column.tolist() for column in one), strict=True)
        entries += [
            (seq, time, None if step == NO_STEP else step, names[whose], value, count)
            for seq, time, step, value, count, whose in rows
        ]
    if len(batch.scalars) > 1:
        entries.sort(key=itemgetter(0))
    others = [decode_event(data, limits=limits, registry=registry)[0] for _, data in batch.events]
    if test is not None:
        others = [event for event in others if test(event.key, type(event))]
    if not others:
        return (scalar_updated(*entry) for entry in entries)
    return iter(sorted([*others, *(scalar_updated(*entry) for entry in entries)], key=attrgetter("seq")))


def _wanted_scalars(batch: Batch, test: Test) -> Batch:
    keep = np.array([test(key, ScalarUpdated) for key, _ in batch.keys], bool)
    if keep.all():
        return batch
    return batch._replace(scalars=[Scalars(*(column[keep[one.whose]] for column in one)) for one in batch.scalars])


def shifted(batch: Batch, by: int) -> Batch:
    """Return a batch whose every ``seq`` is ``by`` larger."""
    if not by:
        return batch
    events = []
    for seq, data in batch.events:
        fields = loads(data, on_unknown="keep")
        events.append((seq + by, dumps({**fields, "seq": seq + by})))
    return Batch(batch.keys, [one._replace(seqs=one.seqs + by) for one in batch.scalars], events)
