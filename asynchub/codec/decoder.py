"""Bytes to trees.

The data is unpacked one layer at a time, from the outside inwards, so that depth and path are known where an
extension value is met. Every layer is one call of ``unpackb``, whose hooks count what it makes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

from asynchub.codec.arrays import DECODERS as ARRAY_DECODERS
from asynchub.codec.arrays import elements
from asynchub.codec.codes import ARRAYS, MAX_LEAF, RAW, REGISTERED, TREES, Code
from asynchub.codec.limits import Limits
from asynchub.codec.packing import step
from asynchub.codec.registry import Registry
from asynchub.codec.standard import DECODERS as STANDARD_DECODERS
from asynchub.codec.unknown import UnknownValue
from asynchub.errors import ArgumentError, CorruptStateError, LimitExceededError, StateError, UnknownTypeError

__all__ = ("GetBlob", "OnUnknown", "loads")

GetBlob = Callable[[int, int], NDArray[np.uint8]]
"""Returns the blob of a number and a size in bytes, writable, in memory of its own."""
OnUnknown = Literal["raise", "keep"]
_LEAVES: dict[Code, Callable[[Any], Any]] = {**STANDARD_DECODERS, **ARRAY_DECODERS}
_HARMLESS = (str, bytes, float, type(None), bool)
"""Keys that cannot be made to collide, or of which there are few."""


def loads(
    data: bytes | bytearray | memoryview,
    *,
    limits: Limits | None = None,
    registry: Registry | None = None,
    on_unknown: OnUnknown = "raise",
    blobs: Callable[[Any], GetBlob] | None = None,
) -> Any:
    """Return the tree that ``dumps`` made ``data`` of.

    Args:
        data: what ``dumps`` returned.
        limits: what it may cost; None for the defaults of ``Limits``.
        registry: the classes that may occur beyond the built-in ones.
        on_unknown: what to do with a type that is not known here: ``"raise"``, or ``"keep"`` it as an
            ``UnknownValue``, which ``dumps`` writes as it was read.
        blobs: called with the outermost list or map, whose extension values are not yet decoded; returns what finds
            the blobs. None if there are none.

    Raises:
        CorruptStateError: ``data`` is damaged or foreign.
        LimitExceededError: it asks for more than the limits allow.
        UnknownTypeError: it holds a type that is not known here.
        ArgumentError: an argument is of a wrong type.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ArgumentError(f"loads takes bytes, got {type(data).__name__}")
    if on_unknown not in ("raise", "keep"):
        raise ArgumentError(f"on_unknown must be 'raise' or 'keep', got {on_unknown!r:.80}")
    decoder = _Decoder(limits or Limits(), registry or Registry(), on_unknown == "keep")
    try:
        return decoder.decode(data, blobs)
    except (StateError, MemoryError, RecursionError):  # the last two say something about the program
        raise
    except Exception as error:  # no list of what damaged data can raise is ever complete
        raise CorruptStateError(f"the data is damaged: {type(error).__name__}: {error}") from error


class _Extension:
    """An extension value, not yet decoded."""

    __slots__ = ("code", "data")

    def __init__(self, code: int, data: bytes) -> None:
        self.code = code
        self.data = data


class _Decoder:
    """The decoding of one tree."""

    def __init__(self, limits: Limits, registry: Registry, keep: bool) -> None:
        self._limits = limits
        self._registry = registry
        self._keep = keep
        self._get_blob: GetBlob | None = None
        self._taken = 0  # blobs
        self._path = ["$"]
        self._depth = 0
        self._nodes = 0
        self._elements = 0

    def decode(self, data: bytes | bytearray | memoryview, blobs: Callable[[Any], GetBlob] | None) -> Any:
        """Return the tree."""
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        if size > self._limits.size:
            raise LimitExceededError(f"{size} bytes, {self._limits.size} allowed; pass limits=Limits(size=...)")
        raw = self._unpack(data)
        if blobs is not None:
            self._get_blob = blobs(raw)
        return self._value(raw)

    # --- one layer

    def _unpack(self, data: bytes | bytearray | memoryview) -> Any:
        most = min(self._limits.nodes, MAX_LEAF)
        try:
            return msgpack.unpackb(
                data,
                raw=False,
                strict_map_key=True,
                ext_hook=self._on_extension,
                list_hook=self._on_list,
                object_pairs_hook=self._on_map,
                max_array_len=most,
                max_map_len=most,
            )
        except StateError:  # from a hook
            raise
        except msgpack.exceptions.StackError as error:
            raise self._error(
                LimitExceededError, f"nested deeper than the {self._limits.depth} levels allowed"
            ) from error
        except ValueError as error:
            if "exceeds max_" in str(error):
                raise self._error(
                    LimitExceededError, f"more than the {self._limits.nodes} values allowed: {error}"
                ) from error
            raise self._error(CorruptStateError, f"no valid msgpack: {type(error).__name__} {error}") from error

    def _spend(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > self._limits.nodes:
            raise self._error(
                LimitExceededError, f"more than {self._limits.nodes} values; pass limits=Limits(nodes=...) to read it"
            )

    def _on_extension(self, code: int, data: bytes) -> _Extension:
        self._spend(1)
        return _Extension(code, data)

    def _on_list(self, items: list[Any]) -> list[Any]:
        self._spend(len(items) + 1)
        return items

    def _on_map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self._spend(len(pairs) + 1)
        whole = dict(pairs)
        if len(whole) != len(pairs):
            raise self._error(CorruptStateError, "a map has the same key twice")
        return whole

    # --- from the outside inwards

    def _value(self, raw: Any) -> Any:
        kind = type(raw)
        if kind is list:
            self._enter()
            self._items(raw)
            self._depth -= 1
        elif kind is dict:
            self._enter()
            self._map(raw)
            self._depth -= 1
        elif kind is _Extension:
            return self._decoded(raw)
        elif kind is msgpack.Timestamp:
            raise self._error(
                UnknownTypeError, "extension code -1, a timestamp of msgpack, which asynchub never writes"
            )
        return raw

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > self._limits.depth:
            raise self._error(LimitExceededError, f"nested deeper than the {self._limits.depth} levels allowed")

    def _items(self, items: list[Any]) -> list[Any]:
        """Decode the items of a list in place, and return it."""
        for index, item in enumerate(items):
            if type(item) in _OPEN:
                self._path.append(f"[{index}]")
                items[index] = self._value(item)
                self._path.pop()
        return items

    def _map(self, items: dict[Any, Any]) -> None:
        for key, item in items.items():
            if type(key) is not str:
                raise self._error(CorruptStateError, f"the key of a map must be a string, got {type(key).__name__}")
            if type(item) in _OPEN:
                self._path.append(step(key))
                items[key] = self._value(item)  # the keys stay, so the map may be walked meanwhile
                self._path.pop()

    def _decoded(self, extension: _Extension) -> Any:
        # what contains the payload is given up before what the payload contains is decoded: else data of many layers
        # would be held once per layer
        data, extension.data = extension.data, b""
        if extension.code not in _KNOWN:
            return self._unknown(extension.code, data, f"extension code {extension.code} is not known here")
        code = Code(extension.code)
        if code in RAW:
            return self._made(code, data, data)
        items = self._unpack(data)
        if type(items) is not list:
            raise self._error(
                CorruptStateError, f"the payload of {code.name} must be a list, got {type(items).__name__}"
            )
        if not self._keep:
            data = b""
        if code in REGISTERED:
            return self._registered(code, items, data)
        if code not in TREES:
            if code in ARRAYS:
                self._spend_elements(code, items)
                if self._get_blob is not None and len(items) > 2 and type(items[2]) is int:
                    items[2] = partial(self._blob, self._get_blob, items[2])
            return self._made(code, items, data)
        del data
        self._enter()
        value = self._container(code, items)
        self._depth -= 1
        return value

    def _container(self, code: Code, items: list[Any]) -> Any:
        if code is Code.DEQUE:
            if len(items) != 2 or type(items[1]) is not list:
                raise self._error(CorruptStateError, "a deque must be [maxlen, items]")
            self._items(items[1])
        else:
            self._items(items)
        build = _BUILDERS.get(code)
        if build is None:
            return self._made(code, items, b"")
        self._guard(items if code in (Code.SET, Code.FROZENSET) else items[::2], code)
        return self._made(code, items, b"", build)

    def _guard(self, keys: Iterable[Any], code: Code) -> None:
        """Refuse keys that were made to have equal hashes."""
        if code not in _HASHED:
            return
        try:
            hashes = Counter(hash(key) for key in keys if type(key) not in _HARMLESS)
        except TypeError as error:
            raise self._error(CorruptStateError, f"a member or key in {code.name} cannot be hashed: {error}") from error
        if hashes and max(hashes.values()) > self._limits.collisions:
            raise self._error(LimitExceededError, f"more than {self._limits.collisions} keys with equal hashes")

    def _spend_elements(self, code: Code, items: list[Any]) -> None:
        try:
            self._elements += elements(items[1] if items[1] is not None else [1])
        except (IndexError, ValueError) as error:
            raise self._error(CorruptStateError, f"{code.name} is damaged: {error}") from error
        if self._elements > self._limits.elements:
            raise self._error(
                LimitExceededError,
                f"more than {self._limits.elements} elements of arrays; pass limits=Limits(elements=...) to read it",
            )

    def _blob(self, get_blob: GetBlob, number: int, size: int) -> NDArray[np.uint8]:
        self._taken += 1
        return get_blob(number, size)

    def _registered(self, code: Code, items: list[Any], data: bytes) -> Any:
        if len(items) != 3 or type(items[0]) is not str or type(items[1]) is not int or items[1] < 1:
            raise self._error(CorruptStateError, f"the payload of {code.name} must be [name, version, tree]")
        name, version, _ = items
        entry = self._registry.named(name)
        if entry is None:
            return self._unknown(code, data, f"no class is registered as {name!r}; pass registry=")
        if code is not entry.code and entry.decode is None:
            return self._unknown(code, data, f"{name!r} was stored as {code.name}; register it with decode=")
        taken = self._taken
        self._enter()
        tree = self._value(items[2])
        self._depth -= 1
        return self._made(code, tree, data if taken == self._taken else None, lambda tree: entry.value(tree, version))

    # --- results

    def _made(self, code: Code, payload: Any, data: bytes | None, make: Callable[[Any], Any] | None = None) -> Any:
        """Return the value of a payload; ``data`` is what to keep if its type is not known, None if that has blobs."""
        try:
            return (make or _LEAVES[code])(payload)
        except UnknownTypeError as error:
            return self._unknown(code, data, str(error), error)
        except (CorruptStateError, LimitExceededError) as error:
            raise self._error(type(error), str(error)) from error
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # damaged, or a user's decode failed
            raise self._error(CorruptStateError, f"{code.name} is damaged: {type(error).__name__}: {error}") from error

    def _unknown(self, code: int, data: bytes | None, text: str, cause: Exception | None = None) -> Any:
        if self._keep and data is not None and 0 <= code < 128:
            return UnknownValue(int(code), data)
        raise self._error(UnknownTypeError, text) from cause

    def _error(self, kind: type[StateError], text: str) -> StateError:
        return kind(f"{''.join(self._path)}: {text}")


def _unique_set(kind: type[set[Any]] | type[frozenset[Any]], items: list[Any]) -> Any:
    made = kind(items)
    if len(made) != len(items):
        raise ValueError("a member occurs twice")
    return made


def _unique_dict(kind: type[dict[Any, Any]], items: list[Any]) -> Any:
    keys, values = items[::2], items[1::2]
    made = kind(zip(keys, values, strict=True))
    if len(made) != len(keys):
        raise ValueError("a key occurs twice")
    return made


def _deque(parts: list[Any]) -> deque[Any]:
    maxlen, items = parts
    if maxlen is not None and (type(maxlen) is not int or not len(items) <= maxlen):
        raise ValueError(f"{len(items)} items in a deque of maxlen {maxlen!r:.80}")
    return deque(items, maxlen)


_OPEN = frozenset({list, dict, _Extension, msgpack.Timestamp})
"""Types of unpacked values that are not finished."""
_KNOWN = frozenset(Code)
_HASHED = frozenset({Code.SET, Code.FROZENSET, Code.PAIRS, Code.ORDERED_DICT})
_BUILDERS: dict[Code, Callable[[Any], Any]] = {
    Code.TUPLE: tuple,
    Code.SET: lambda items: _unique_set(set, items),
    Code.FROZENSET: lambda items: _unique_set(frozenset, items),
    Code.PAIRS: lambda items: _unique_dict(dict, items),
    Code.ORDERED_DICT: lambda items: _unique_dict(OrderedDict, items),
    Code.DEQUE: _deque,
}
