"""A nested configuration as names and texts."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest

from asynchub.subscribers.flattening import DEPTH_LIMIT, ITEM_LIMIT, flattened


@dataclasses.dataclass
class Model:
    width: int
    layers: list[int]


class WithDict:
    def to_dict(self) -> dict[str, Any]:
        return {"deep": {"er": 1}}


class WithArguments:
    def to_dict(self, orient: str) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return "as it is"


class Unshown:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "flat"),
    [
        ({"lr": 0.1, "on": True, 3: None}, {"lr": "0.1", "on": "True", "3": "None"}),
        ({"a": {"b": {"c": 1}}, "empty": {}}, {"a.b.c": "1", "empty": "{}"}),
        (Model(4, [1, 2]), {"width": "4", "layers": "[1, 2]"}),
        ({"args": Namespace(seed=1), "more": SimpleNamespace(x=2)}, {"args.seed": "1", "more.x": "2"}),
        ({"stages": [{"n": 1}, {"n": 2}], "sizes": (1, 2)}, {"stages.0.n": "1", "stages.1.n": "2", "sizes": "(1, 2)"}),
        ({"foreign": WithDict(), "other": WithArguments()}, {"foreign.deep.er": "1", "other": "as it is"}),
        (
            {"bad": Unshown(), "kind": Model},
            {"bad": "<Unshown that cannot be shown: RuntimeError>", "kind": str(Model)},
        ),
        ({"\ud800": "\ud801"}, {"\\ud800": "\\ud801"}),
        (3, {"value": "3"}),
        ([1, 2], {"value": "[1, 2]"}),
    ],
)
def test_a_configuration_is_flattened(value: object, flat: dict[str, str]) -> None:
    assert flattened(value) == flat


def test_what_holds_itself_ends() -> None:
    itself: dict[str, Any] = {"a": 1}
    itself |= {"again": itself, "and": [itself]}
    found = flattened(itself)
    assert found["a"] == "1"
    assert len(found) <= ITEM_LIMIT
    assert max(name.count(".") for name in found) <= DEPTH_LIMIT
