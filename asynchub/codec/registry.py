"""The classes that a program stores beyond the built-in ones.

A class is found by the name it was registered under, never by an import: the data cannot choose what is called.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum, Flag
from types import NoneType
from typing import Any, Self

from asynchub.codec.codes import Code
from asynchub.codec.refusals import Refused
from asynchub.errors import ArgumentError, UnknownTypeError

__all__ = ("Registered", "Registry")

_PLAIN = frozenset((NoneType, bool, int, float, str, bytes, list, dict, tuple, set, frozenset, OrderedDict, deque))
Encode = Callable[[Any], Any]
Decode = Callable[[Any, int], Any]


@dataclass(frozen=True)
class Registered:
    """How the values of one class are stored.

    Attributes:
        cls: the class; its subclasses are others.
        name: what the data calls it.
        version: version of the tree that ``encode`` makes.
        code: extension code.
        encode: makes a tree of a value.
        decode: makes a value of a tree of a version; None if only trees of this version can be read.
        restore: makes a value of a tree of this version.
    """

    cls: type
    name: str
    version: int
    code: Code
    encode: Encode
    decode: Decode | None
    restore: Callable[[Any], Any] | None

    def value(self, tree: Any, version: int) -> Any:
        """Return the value that ``tree`` was made of.

        Raises:
            UnknownTypeError: it was stored as a version that this program cannot read.
        """
        if version > self.version:
            raise UnknownTypeError(f"version {version} of {self.name!r}, newer than version {self.version} known here")
        if self.decode is not None:
            return self.decode(tree, version)
        if version < self.version or self.restore is None:
            raise UnknownTypeError(
                f"version {version} of {self.name!r}, here is version {self.version}; register it with decode="
            )
        return self.restore(tree)


class Registry:
    """Classes whose values ``dumps`` stores and ``loads`` makes again.

    registry = Registry().register(Mode, name="mypkg.Mode").register(Run, name="mypkg.Run", version=2)
    """

    def __init__(self) -> None:
        self._by_class: dict[type, Registered] = {}
        self._by_name: dict[str, Registered] = {}

    def register(
        self,
        cls: type,
        *,
        name: str,
        version: int = 1,
        encode: Encode | None = None,
        decode: Decode | None = None,
    ) -> Self:
        """Add a class and return the registry.

        An enum is stored as the name of the member, a flag as its value, a dataclass or a namedtuple as a dict of its
        fields; it is made again without ``__init__`` and ``__post_init__``. Any other class needs both functions. A
        class that is stored anyway, such as ``datetime``, is then stored as registered; plain types and containers
        cannot be registered.

        Args:
            cls: the class; its subclasses are not stored by this.
            name: what the data calls it, e.g. ``"mypkg.Run"``. It outlives renaming and moving the class.
            version: version of the stored form, from 1; raise it when the form changes.
            encode: makes a tree of storable values from a value.
            decode: makes a value from a tree and the version it was stored as, which may be lower than ``version``.

        Raises:
            ArgumentError: the name or the class is registered already, or an argument is malformed.
        """
        if not isinstance(cls, type):
            raise ArgumentError(f"only a class can be registered, got {cls!r:.80}")
        if cls in _PLAIN:
            raise ArgumentError(f"{cls} is stored as it is and cannot be registered")
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ArgumentError(f"the name of a class must be printable and not empty, got {name!r:.80}")
        if type(version) is not int or not 1 <= version < 2**31:
            raise ArgumentError(f"the version of a class is an int from 1, got {version!r:.80}")
        if name in self._by_name:
            raise ArgumentError(f"{name!r} is the name of {self._by_name[name].cls} already; choose another")
        if cls in self._by_class:
            raise ArgumentError(f"{cls} is registered already, as {self._by_class[cls].name!r}")
        if decode is None if encode is not None else not _has_form(cls):
            raise ArgumentError(
                f"{cls} needs both encode= and decode=; only enums, dataclasses and namedtuples need none"
            )
        entry = _entry(cls, name, version, encode, decode)
        self._by_class[cls] = self._by_name[name] = entry
        return self

    def of(self, cls: type) -> Registered | None:
        """Return how a class is stored; None if it is not registered."""
        return self._by_class.get(cls)

    def named(self, name: object) -> Registered | None:
        """Return the class that the data calls ``name``; None if no such class is registered."""
        return self._by_name.get(name) if isinstance(name, str) else None


def _is_namedtuple(cls: type) -> bool:
    return issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple)


def _has_form(cls: type) -> bool:
    """Tell whether values of a class can be stored without an ``encode``."""
    return issubclass(cls, Enum) or is_dataclass(cls) or _is_namedtuple(cls)


def _entry(cls: type, name: str, version: int, encode: Encode | None, decode: Decode | None) -> Registered:
    if encode is not None:
        return Registered(cls, name, version, Code.USER, encode, decode, None)
    if issubclass(cls, Enum):
        return Registered(cls, name, version, Code.ENUM, _enum_tree, decode, lambda tree: _member(cls, tree))
    if is_dataclass(cls):
        try:
            object.__new__(cls)
        except TypeError as error:
            raise ArgumentError(f"{cls} cannot be made from its fields ({error}); give encode= and decode=") from error
        names = tuple(field.name for field in fields(cls))
        return Registered(
            cls,
            name,
            version,
            Code.RECORD,
            lambda v: _fields_tree(v, names),
            decode,
            lambda t: _instance(cls, names, t),
        )
    names = cls._fields  # type: ignore[attr-defined]  # a namedtuple, by _has_form
    return Registered(
        cls,
        name,
        version,
        Code.RECORD,
        lambda v: _fields_tree(v, names),
        decode,
        lambda t: tuple.__new__(cls, _ordered(names, t)),  # type: ignore[type-var]  # mypy has forgotten the issubclass
    )


def _enum_tree(member: Any) -> Any:
    if isinstance(member, Flag):
        return member.value
    return member.name


def _member(cls: Any, tree: Any) -> Any:
    """Return the member of an enum by its name, of a flag by its value."""
    if issubclass(cls, Flag):
        if type(tree) is not int:
            raise ValueError(f"the value of a flag must be an int, got {type(tree).__name__}")
        return cls(tree)
    if tree not in cls.__members__:
        raise UnknownTypeError(f"{tree!r:.80} is no member of {cls}; register it with a higher version and decode=")
    return cls[tree]


def _fields_tree(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a value by name.

    Raises:
        Refused: it has an attribute that is no field, or lacks one.
    """
    more = getattr(value, "__dict__", {}).keys() - set(names)
    if more:
        raise Refused(f"{sorted(more)[0]!r} is no field of it; register it with encode= and decode=")
    try:
        return {name: getattr(value, name) for name in names}
    except AttributeError as error:
        raise Refused(f"a field is not set: {error}") from error


def _ordered(names: tuple[str, ...], tree: Any) -> list[Any]:
    if not isinstance(tree, Mapping) or set(tree) != set(names):
        got = sorted(map(str, tree)) if isinstance(tree, Mapping) else type(tree).__name__
        raise UnknownTypeError(f"stored with the fields {got}, here they are {sorted(names)}; register it with decode=")
    return [tree[name] for name in names]


def _instance(cls: type, names: tuple[str, ...], tree: Any) -> Any:
    value: Any = object.__new__(cls)
    for name, part in zip(names, _ordered(names, tree), strict=True):
        object.__setattr__(value, name, part)
    return value
