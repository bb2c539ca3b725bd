"""Trees to bytes.

The whole tree is converted to plain msgpack types first, and packed then: packing runs no Python code, so no other
thread can change what is half written.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from types import NoneType
from typing import Any

import msgpack
import numpy as np

from asynchub.codec.arrays import ENCODERS as ARRAY_ENCODERS
from asynchub.codec.arrays import encode_scalar, torch_encoder
from asynchub.codec.codes import MAX_DEPTH, MAX_INLINE, MAX_LEAF, Code
from asynchub.codec.packing import Bulk, list_header, pack, step
from asynchub.codec.refusals import Refused, advice
from asynchub.codec.registry import Registered, Registry
from asynchub.codec.standard import ENCODERS as STANDARD_ENCODERS
from asynchub.codec.standard import Payload, big_int
from asynchub.codec.unknown import UnknownValue
from asynchub.errors import UnsupportedTypeError, UnsupportedTypesError

__all__ = ("PutBlob", "dumps")

PutBlob = Callable[[bytes | memoryview], int]
"""Stores bytes outside of the data; returns the number under which they are found again."""
_AS_THEY_ARE = frozenset({NoneType, bool, float})
_LEAVES: dict[type, Callable[[Any], Payload]] = {**STANDARD_ENCODERS, **ARRAY_ENCODERS}


def dumps(tree: Any, *, registry: Registry | None = None, put_blob: PutBlob | None = None) -> bytes:
    """Return ``tree`` as bytes.

    Args:
        tree: a value, or containers of values at most ``MAX_DEPTH`` deep.
        registry: the classes that may occur beyond the built-in ones.
        put_blob: stores the data of each array and tensor that is larger than ``MAX_INLINE``, in the order in which
            they stand in the tree; None to have all in the bytes.

    Raises:
        UnsupportedTypesError: values of the tree cannot be stored; it holds an ``UnsupportedTypeError`` for each.
    """
    encoder = _Encoder(registry or Registry(), put_blob)
    plain = encoder.convert(tree)
    if encoder.errors:
        first, *more = encoder.errors
        rest = f", and {len(more)} more" if more else ""
        raise UnsupportedTypesError(f"nothing was stored: {first}{rest}", encoder.errors)
    return pack(plain)


class _Encoder:
    """The conversion of one tree.

    Attributes:
        errors: what cannot be stored.
    """

    def __init__(self, registry: Registry, put_blob: PutBlob | None) -> None:
        self.errors: list[UnsupportedTypeError] = []
        self._registry = registry
        self._put_blob = put_blob
        self._path = ["$"]
        self._open: set[int] = set()

    def convert(self, value: Any) -> Any:
        """Return ``value`` in plain msgpack types; None, and an entry in ``errors``, if it cannot be stored."""
        if _is_plain(value):
            return value
        kind = type(value)
        try:
            if kind is str:
                return _text(value)
            if kind is int:
                return _extension(*big_int(value))
            if kind is bytes:
                return _checked(value)
            return self._converted(value, kind)
        except Refused as refusal:
            return self._refuse(value, str(refusal), refusal)

    def _converted(self, value: Any, kind: type) -> Any:
        container = _CONTAINERS.get(kind)
        if container is not None:
            return self._inside(value, container)
        entry = self._registry.of(kind)
        if entry is not None:
            return self._inside(value, lambda self, value: self._registered(value, entry))
        encode = _LEAVES.get(kind) or torch_encoder(kind)
        if encode is not None:
            try:
                code, payload = encode(value)
            except Refused:
                raise
            except Exception as error:  # e.g. a tensor inside a transform of torch, or one whose device is gone
                raise Refused(f"it cannot be read: {type(error).__name__}: {error}") from error
            if isinstance(payload, Bulk):
                return _extension(code, self._bulk(payload))
            if isinstance(payload, bytes):
                return _extension(code, payload)
            return self._inside(value, lambda self, _: _extension(code, pack([self._at("", item) for item in payload])))
        if kind is UnknownValue:
            if type(value.code) is not int or not 0 <= value.code < 128 or type(value.data) is not bytes:
                raise Refused("its code must be an int from 0 to 127, its data bytes")
            return _extension(value.code, value.data)
        if isinstance(value, np.generic) and kind.__module__ == "ml_dtypes":
            return _extension(*encode_scalar(value))
        raise Refused(advice(value))

    def _bulk(self, bulk: Bulk) -> bytes:
        if self._put_blob is None or len(bulk.data) <= MAX_INLINE:
            return bulk.packed()
        number = 0 if self.errors else self._put_blob(bulk.data)  # after an error nothing is stored any more
        return pack([*bulk.before, number, *bulk.after])

    def _inside(self, value: Any, convert: Callable[[_Encoder, Any], Any]) -> Any:
        """Return a container, converted."""
        if id(value) in self._open:
            raise Refused("it contains itself; store a copy without the cycle")
        if len(self._open) >= MAX_DEPTH:
            raise Refused(f"it is nested deeper than {MAX_DEPTH} levels; flatten it")
        self._open.add(id(value))
        try:
            return convert(self, value)
        finally:
            self._open.discard(id(value))

    def _items(self, values: Iterable[Any]) -> list[Any]:
        items = list(values)
        for index, item in enumerate(items):
            if not _is_plain(item):
                items[index] = self._at(f"[{index}]", item)
        return items

    def _at(self, part: str, value: Any) -> Any:
        self._path.append(part)
        converted = self.convert(value)
        self._path.pop()
        return converted

    def _pairs(self, pairs: list[tuple[Any, Any]]) -> list[Any]:
        """Return keys and values in turn."""
        flat: list[Any] = []
        for key, value in pairs:
            part = step(key)
            flat.append(self._at(f"{part}<key>", key))
            flat.append(self._at(part, value))
        return flat

    def _dict(self, value: dict[Any, Any]) -> Any:
        pairs = list(value.items())
        if any(type(key) is not str or not _is_valid(key) for key, _ in pairs):
            return _extension(Code.PAIRS, pack(self._pairs(pairs)))
        return {key: item if _is_plain(item) else self._at(step(key), item) for key, item in pairs}

    def _set(self, value: set[Any] | frozenset[Any]) -> Any:
        parts = [pack(self._at("{}", item)) for item in value.copy()]
        code = Code.SET if type(value) is set else Code.FROZENSET
        return _extension(code, list_header(len(parts)) + b"".join(sorted(parts)))

    def _deque(self, value: deque[Any]) -> Any:
        return _extension(Code.DEQUE, pack([value.maxlen, self._items(value)]))

    def _registered(self, value: Any, entry: Registered) -> Any:
        try:
            tree = entry.encode(value)
        except Refused:
            raise
        except Exception as error:  # whatever the user's function raises
            raise Refused(f"its encode raised {type(error).__name__}: {error}") from error
        return _extension(entry.code, pack([_text(entry.name), entry.version, self.convert(tree)]))

    def _refuse(self, value: Any, text: str, cause: Refused) -> None:
        error = UnsupportedTypeError("".join(self._path), value, text)
        error.__cause__ = cause.__cause__
        self.errors.append(error)


_CONTAINERS: dict[type, Callable[[_Encoder, Any], Any]] = {
    list: _Encoder._items,
    dict: _Encoder._dict,
    tuple: lambda encoder, value: _extension(Code.TUPLE, pack(encoder._items(value))),
    set: _Encoder._set,
    frozenset: _Encoder._set,
    OrderedDict: lambda encoder, value: _extension(Code.ORDERED_DICT, pack(encoder._pairs(list(value.items())))),
    deque: _Encoder._deque,
}
"""By exact type."""


def _is_plain(value: Any) -> bool:
    """Tell at once, of most values, that msgpack has them exactly as they are."""
    kind = type(value)
    if kind is int:
        return bool(-(2**63) <= value < 2**64)
    if kind is str:
        return value.isascii() and len(value) <= MAX_LEAF
    return kind in _AS_THEY_ARE


def _extension(code: int, payload: Any) -> msgpack.ExtType:
    return msgpack.ExtType(int(code), _checked(payload))


def _checked(data: Any) -> Any:
    """Return ``data`` if its length fits into a header."""
    if len(data) > MAX_LEAF:
        raise Refused(f"its {len(data)} bytes are more than the {MAX_LEAF} allowed; store it in parts")
    return data


def _is_valid(text: str) -> bool:
    """Tell whether a string has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(text: str) -> Any:
    if len(text) > MAX_LEAF // 4:
        _checked(text.encode("utf-8", "surrogatepass"))
    return text if _is_valid(text) else _extension(Code.SURROGATES, text.encode("utf-8", "surrogatepass"))
