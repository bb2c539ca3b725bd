"""Classes of the user's own are stored if they are registered, and found by name when they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, Flag, IntEnum, StrEnum
from typing import Any, NamedTuple

import numpy as np
import pytest

from asynchub.codec import Registry, UnknownValue, dumps, loads
from asynchub.errors import ArgumentError, CorruptStateError, UnknownTypeError, UnsupportedTypesError


class Mode(StrEnum):
    """Members that are strings."""

    MAX = "max"
    MIN = "min"


class Level(IntEnum):
    """Members that are ints."""

    LOW = 1
    ALSO_LOW = 1
    HIGH = 2


class Parts(Flag):
    """Members that combine."""

    A = 1
    B = 2


class Best(NamedTuple):
    """A tuple with names."""

    step: int
    value: Any = None


@dataclass
class Run:
    """A dataclass whose values are checked when they are made, once."""

    name: str
    history: list[Any] = field(default_factory=list)
    made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.made += 1


@dataclass(frozen=True, slots=True)
class Point:
    """A dataclass without a dict."""

    x: float
    y: float


class Meter:
    """A class that says itself how it is stored."""

    def __init__(self, total: float) -> None:
        self.total = total

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Meter) and other.total == self.total

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def registry() -> Registry:
    """All of the above, registered."""
    known = Registry()
    for cls in (Mode, Level, Parts, Best, Run, Point):
        known.register(cls, name=f"test.{cls.__name__}")
    return known.register(
        Meter, name="test.Meter", version=2, encode=lambda m: {"total": m.total}, decode=lambda t, v: Meter(t["total"])
    )


@pytest.mark.parametrize(
    "value",
    [
        Mode.MIN,
        Level.ALSO_LOW,
        Parts.A | Parts.B,
        Parts(0),
        Best(3, (1, 2)),
        Run("a", [Point(1.0, -0.0)]),
        Point(1.0, 2.0),
        Meter(2.5),
        {Mode.MAX: {Best(1), Point(0.0, 1.0)}, (Level.HIGH,): [Meter(1.0)]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_registered_value_comes_back(value: Any, registry: Registry) -> None:
    data = dumps(value, registry=registry)
    back = loads(data, registry=registry)
    assert type(back) is type(value)
    assert back == value
    assert dumps(back, registry=registry) == data


def test_a_dataclass_is_made_again_without_its_init(registry: Registry) -> None:
    run = Run("a")
    run.made = 7
    assert loads(dumps(run, registry=registry), registry=registry).made == 7


def test_a_class_that_is_refused_otherwise_can_be_registered() -> None:
    registry = Registry().register(
        np.longdouble,
        name="longdouble",
        encode=lambda v: np.format_float_positional(v),
        decode=lambda t, v: np.longdouble(t),
    )
    value = np.longdouble(1) / 3
    back = loads(dumps([value], registry=registry), registry=registry)[0]
    assert type(back) is np.longdouble
    assert back == value


def test_what_is_not_registered_is_not_found(registry: Registry) -> None:
    data = dumps([Best(1)], registry=registry)
    with pytest.raises(UnknownTypeError, match=r"\$\[0\]: no class is registered as 'test\.Best'; pass registry="):
        loads(data)


def test_what_is_not_registered_can_be_kept_and_stored_again(registry: Registry) -> None:
    tree = [Mode.MAX, Best(1), Meter(1.0), {Level.HIGH: 2}]
    data = dumps(tree, registry=registry)
    kept = loads(data, on_unknown="keep")
    assert all(type(item) is UnknownValue for item in kept[:3])
    again = dumps(kept)
    assert again == data
    assert loads(again, registry=registry) == tree


def test_a_subclass_of_a_registered_class_is_refused(registry: Registry) -> None:
    class More(Run):
        """A dataclass by inheritance."""

    with pytest.raises(UnsupportedTypesError, match=r"\$: .*More; register its class"):
        dumps(More("a"), registry=registry)


def test_an_attribute_that_is_no_field_is_not_lost(registry: Registry) -> None:
    run = Run("a")
    run.extra = 1  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedTypesError, match="'extra' is no field of it"):
        dumps(run, registry=registry)


def test_a_field_that_is_not_set_is_said(registry: Registry) -> None:
    with pytest.raises(UnsupportedTypesError, match="a field is not set"):
        dumps(object.__new__(Point), registry=registry)


def test_what_an_encode_raises_is_said_with_the_path() -> None:
    registry = Registry().register(Meter, name="m", encode=lambda m: 1 / 0, decode=lambda t, v: None)
    with pytest.raises(UnsupportedTypesError, match=r"\$\.a: .*its encode raised ZeroDivisionError"):
        dumps({"a": Meter(1)}, registry=registry)


def test_what_an_encode_returns_may_have_to_be_refused() -> None:
    registry = Registry().register(Meter, name="m", encode=lambda m: {"x": object()}, decode=lambda t, v: None)
    with pytest.raises(UnsupportedTypesError, match=r"\$\.a\.x: cannot store builtins\.object"):
        dumps({"a": Meter(1)}, registry=registry)


def test_an_encode_that_never_ends_is_refused() -> None:
    registry = Registry().register(Meter, name="m", encode=lambda m: [Meter(1)], decode=lambda t, v: None)
    with pytest.raises(UnsupportedTypesError, match="nested deeper"):
        dumps(Meter(1), registry=registry)


def test_what_a_decode_raises_is_said_with_the_path(registry: Registry) -> None:
    data = dumps([Meter(1.0)], registry=registry)
    other = Registry().register(Meter, name="test.Meter", version=2, encode=vars, decode=lambda t, v: t["wrong"])
    with pytest.raises(CorruptStateError, match=r"\$\[0\]: USER is damaged: KeyError: 'wrong'"):
        loads(data, registry=other)


def _run(version: int, **functions: Any) -> Registry:
    return Registry().register(Best, name="best", version=version, **functions)


def test_an_older_version_goes_through_decode() -> None:
    data = dumps(Best(1, 2), registry=_run(1))
    seen = []

    def decode(tree: Any, version: int) -> Best:
        seen.append((tree, version))
        return Best(tree["step"])

    assert loads(data, registry=_run(2, decode=decode)) == Best(1)
    assert seen == [({"step": 1, "value": 2}, 1)]


@pytest.mark.parametrize(
    ("stored", "known", "text"), [(1, 2, "register it with decode="), (2, 1, "newer than version 1")]
)
def test_a_version_that_cannot_be_read_is_refused(stored: int, known: int, text: str) -> None:
    with pytest.raises(UnknownTypeError, match=text):
        loads(dumps(Best(1), registry=_run(stored)), registry=_run(known))


def test_a_class_may_change_its_form_with_a_decode() -> None:
    data = dumps(Best(1, 2), registry=_run(1))
    form: dict[str, Any] = {
        "encode": list,
        "decode": lambda tree, version: Best(**tree) if version == 1 else Best(*tree),
    }
    assert loads(data, registry=_run(2, **form)) == Best(1, 2)
    with pytest.raises(UnknownTypeError, match="was stored as USER"):
        loads(dumps(Best(1, 2), registry=_run(2, **form)), registry=_run(2))


def test_other_fields_of_the_same_version_are_refused() -> None:
    class Other(NamedTuple):
        """Other fields."""

        step: int

    with pytest.raises(UnknownTypeError, match=r"stored with the fields \['step', 'value'\], here they are \['step'\]"):
        loads(dumps(Best(1), registry=_run(1)), registry=Registry().register(Other, name="best"))


def test_a_member_that_is_gone_is_refused() -> None:
    class Modes(Enum):
        """The enum without one member."""

        MAX = "max"

    data = dumps(Mode.MIN, registry=Registry().register(Mode, name="mode"))
    with pytest.raises(UnknownTypeError, match="'MIN' is no member"):
        loads(data, registry=Registry().register(Modes, name="mode"))


class OfDict(dict[str, int]):
    """A class that cannot be made from fields."""


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"cls": 5, "name": "x"}, "only a class"),
    ({"cls": Mode, "name": ""}, "printable and not empty"),
    ({"cls": Mode, "name": 5}, "printable and not empty"),
    ({"cls": Mode, "name": "a\nb"}, "printable and not empty"),
    ({"cls": Mode, "name": "x", "version": 0}, "an int from 1"),
    ({"cls": Mode, "name": "x", "version": True}, "an int from 1"),
    ({"cls": Mode, "name": "taken"}, "is the name of"),
    ({"cls": Level, "name": "x"}, "registered already, as 'taken'"),
    ({"cls": Meter, "name": "x"}, "needs both encode= and decode="),
    ({"cls": Meter, "name": "x", "encode": vars}, "needs both encode= and decode="),
    ({"cls": Mode, "name": "x", "encode": str}, "needs both encode= and decode="),
    ({"cls": dataclass(OfDict), "name": "x"}, "cannot be made from its fields"),
    ({"cls": int, "name": "x", "encode": str, "decode": lambda t, v: int(t)}, "is stored as it is"),
]


@pytest.mark.parametrize(("arguments", "text"), MISTAKES, ids=[text for _, text in MISTAKES])
def test_a_mistaken_registration_is_refused_and_changes_nothing(arguments: dict[str, Any], text: str) -> None:
    registry = Registry().register(Level, name="taken")
    with pytest.raises(ArgumentError, match=text):
        registry.register(**arguments)
    assert registry.named("x") is None
    assert loads(dumps(Level.HIGH, registry=registry), registry=registry) is Level.HIGH
