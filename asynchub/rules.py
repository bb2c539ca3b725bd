"""Control rules in a line of text, and grids of them.

    EarlyStopping:val/accuracy:mode=max:patience=3,5,8:min_delta=0,0.001

is six rules. Parts stand between colons: the name of an installed control subscriber (see ``asynchub.plugins``), then
its arguments, ``name=value``. Values are Python's literals, and text otherwise; several of one argument stand between
commas, and every combination is a rule. What has a colon or a comma of its own stands in quotes or brackets.

    ``val/accuracy``   by position, as in the constructor: nearly always the key that is monitored
    ``max``, ``min``   short for ``mode=max``, ``mode=min``
    ``like=keras``     the preset of that name: the arguments are those that ``like("keras", ...)`` takes
    ``lr=0.1``         for a rule that takes an optimizer: it gets a dummy, whose parameter begins at this (default: 1),
                       with one group, or as many as there are numbers in ``lr=[0.1,0.01]``

A rule that must be given a function gets one that does nothing.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.plugins import find_subscriber
from asynchub.runner import Subscriber

__all__ = ("DummyOptimizer", "Rule", "parse_rules", "written")

MOST = 10_000
"""Rules in a grid at most."""
LR = 1.0
"""What a parameter begins at if the rule does not say: what it is reduced to then reads as factors."""
_NAMED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Rule:
    """A control rule to be tried.

    Attributes:
        name: what it is called.
        make: returns a new one, that has seen nothing.
        arguments: what it was made with, for people.
    """

    name: str
    make: Callable[[], Subscriber]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return it as one line, which ``parse_rules`` takes if the rule was made by it."""
        return ":".join([self.name, *(written(name, value) for name, value in self.arguments.items())])


class DummyOptimizer:
    """What a rule sees of an optimizer, with nothing to optimize.

    Attributes:
        param_groups: as torch's optimizers have them.

    Args:
        values: what the parameter begins at, in each group.
        param_name: the parameter.
    """

    def __init__(self, values: list[float], param_name: str = "lr") -> None:
        self.param_groups: list[dict[str, Any]] = [
            {"params": [], "lr": value, "initial_lr": value, param_name: value} for value in values
        ]


def parse_rules(text: str) -> list[Rule]:
    """Return the rules that ``text`` describes, in the order of the grid: the last argument changes fastest.

    Raises:
        ArgumentError: it is malformed, or the subscriber is unknown or no control subscriber, or refuses an argument.
        ImportError: the subscriber needs what is not installed.
    """
    name, *parts = _split(text, ":", text)
    kind = find_subscriber(name.strip())
    if getattr(kind, "role", "observer") != "control":
        raise ArgumentError(f"{name} is an observer: it decides nothing that could be tried; name a control subscriber")
    named, placed = _sorted(parts, text)
    rules: list[Rule] = []
    for preset in named.pop("like", [None]):
        signature = _Signature(name, kind, preset)
        grid = signature.placed(placed, text) | named
        signature.check(grid, text)
        if len(rules) + _size(grid) > MOST:
            raise ArgumentError(f"{text!r} is a grid of more than {MOST} rules; try fewer values of an argument")
        for values in itertools.product(*grid.values()):
            rules.append(signature.rule(dict(zip(grid, values, strict=True)), text))
    return list({str(rule): rule for rule in rules}.values())


def _size(grid: Mapping[str, list[Any]]) -> int:
    size = 1
    for values in grid.values():
        size *= len(values)
    return size


class _Signature:
    """What the arguments of a subscriber, or of a preset of it, are called."""

    def __init__(self, name: str, kind: Any, preset: object) -> None:
        self.name = name
        self._preset = preset
        self._call: Callable[..., Subscriber] = kind
        if preset is not None:
            if not callable(getattr(kind, "like", None)):
                raise ArgumentError(f"{name} has no presets; leave out like={preset}")
            self._call = lambda *args, **named: kind.like(preset, *args, **named)
        parameters = list(inspect.signature(kind if preset is None else kind.like).parameters.values())
        if preset is not None:
            del parameters[0]
        self._known = {one.name: one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
        optimizer = self._known.pop("optimizer", None)
        self._optimizer = optimizer is not None
        self._needs_lr = optimizer is not None and optimizer.default is optimizer.empty
        self._open = any(one.kind is one.VAR_KEYWORD for one in parameters)
        self._places = [
            one.name for one in self._known.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ] or ["monitor"] * self._open
        self._unnamed = [one.name for one in self._known.values() if one.kind is one.POSITIONAL_ONLY]
        self._dummy_lr = self._optimizer and "lr" not in self._known
        self._functions = [
            one.name for one in self._known.values() if one.default is one.empty and "Callable" in str(one.annotation)
        ]

    def placed(self, placed: list[list[Any]], text: str) -> dict[str, list[Any]]:
        """Return what was given by position, by its names."""
        grid: dict[str, list[Any]] = {}
        places = iter(self._places)
        for values in placed:
            mode = values in (["min"], ["max"]) and ("mode" in self._known or self._open)
            name = "mode" if mode and "mode" not in grid else next(places, None)
            if name is None:
                takes = f"only {', '.join(self._places)}" if self._places else "nothing"
                raise self._error(text, f"{self.name} takes {takes} by position, got {_list(values)!r} as well")
            grid[name] = values
        return grid

    def check(self, grid: Mapping[str, Any], text: str) -> None:
        """Refuse an argument that there is not, and the lack of one that there must be."""
        for name in grid:
            if name in self._known or self._open or (name == "lr" and self._dummy_lr):
                continue
            near = difflib.get_close_matches(name, self._known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(self._known)}"
            raise self._error(text, f"{self.name} has no argument {name!r} ({hint})")
        given = {*grid, *self._functions}
        missing = [one.name for one in self._known.values() if one.default is one.empty and one.name not in given]
        if "monitor" in missing:
            raise self._error(text, f"{self.name} needs a key to monitor")
        if missing:
            raise ArgumentError(
                f"{text!r} is not a rule: {self.name} needs {' and '.join(missing)}; what a line of text cannot give, "
                f"a function can: asynchub.what_if.what_if([Rule({self.name!r}, lambda: {self.name}(...))], run)"
            )

    def rule(self, arguments: dict[str, Any], text: str) -> Rule:
        """Return the rule of these arguments, made once to see that it takes them."""
        if self._dummy_lr and self._needs_lr:
            arguments = arguments if "lr" in arguments else arguments | {"lr": LR}
        given = dict(arguments)
        lr = given.pop("lr", None) if self._dummy_lr else LR
        rates = list(lr) if isinstance(lr, (list, tuple)) else [lr]
        if lr is not None and not (rates and all(type(one) in (int, float) and one > 0 for one in rates)):
            raise self._error(text, f"lr must be a number above 0, or a list of them, got {lr!r}")
        if self._preset is not None:
            arguments = arguments | {"like": self._preset}

        def make() -> Subscriber:
            named = dict.fromkeys(self._functions, _nothing) | given
            if self._optimizer and lr is not None:
                named["optimizer"] = DummyOptimizer([float(one) for one in rates], str(named.get("param_name", "lr")))
            unnamed = [named.pop(name) for name in self._unnamed if name in named]
            return self._call(*unnamed, **named)

        try:
            make()
        except Exception as error:  # whatever somebody's constructor makes of it
            raise self._error(text, str(error)) from error
        return Rule(self.name, make, arguments)

    def _error(self, text: str, problem: str) -> ArgumentError:
        return ArgumentError(f"{text!r} is not a rule: {problem}; write e.g. {self._example()}")

    def _example(self) -> str:
        parts = [self.name]
        if "monitor" in self._known:
            parts.append("val/loss")
        if self._preset is not None:
            parts.append(f"like={self._preset}")
        if "mode" in self._known:
            parts.append("mode=min")
        if self._dummy_lr:
            parts.append("lr=0.1")
        if "patience" in self._known:
            parts.append("patience=3,5")
        if len(parts) == 1:
            parts += [f"{name}={_text(_default(one))}" for name, one in itertools.islice(self._known.items(), 1)]
        return ":".join(parts)


def _nothing(*args: Any, **named: Any) -> None:
    """Do nothing: what a rule is given in the place of a function of the program."""


def _default(parameter: inspect.Parameter) -> Any:
    return "..." if parameter.default is parameter.empty else parameter.default


# --- text


def _sorted(parts: list[str], text: str) -> tuple[dict[str, list[Any]], list[list[Any]]]:
    """Return the values of the arguments that have a name, and those of the others, in order."""
    named: dict[str, list[Any]] = {}
    placed: list[list[Any]] = []
    for part in parts:
        match = _NAMED.fullmatch(part.strip())
        values = [_value(one) for one in _split(match[2] if match else part, ",", text)]
        if match is None:
            placed.append(values)
        elif match[1] in named:
            raise ArgumentError(f"{text!r} gives {match[1]} twice; write {match[1]}=1,2 to try several values")
        else:
            named[match[1]] = values
    return named, placed


def _value(text: str) -> Any:
    text = text.strip()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _split(text: str, mark: str, whole: str) -> list[str]:
    """Split at ``mark``, but not inside quotes or brackets; no part may be empty."""
    parts = [""]
    for level, character in _levels(text):
        if character == mark and not level:
            parts.append("")
        else:
            parts[-1] += character
    if not all(part.strip() for part in parts):
        raise ArgumentError(
            f"{whole!r} is not a rule: something is missing before or after a {mark!r}; write e.g. "
            "EarlyStopping:val/accuracy:mode=max:patience=3,5"
        )
    return parts


def _levels(text: str) -> Iterator[tuple[bool, str]]:
    """Yield each character, and whether it stands inside quotes or brackets."""
    waits: list[str] = []
    for character in text:
        if waits and character == waits[-1]:
            waits.pop()
        elif not (waits and waits[-1] in "'\""):
            if character in _CLOSING:
                waits.append(_CLOSING[character])
            elif character in "'\"":
                waits.append(character)
        yield bool(waits), character


def written(name: str, value: object) -> str:
    """Return an argument as it is written in a rule."""
    text = _text(value)
    return text if name == "monitor" and "=" not in text else f"{name}={text}"


def _text(value: object) -> str:
    if not isinstance(value, str):
        return repr(value).replace(" ", "")
    plain = value.strip() and not set(value) & set(":,'\"()[]{}") and _value(value) == value
    return value if plain else repr(value)


def _list(values: list[Any]) -> str:
    return ",".join(_text(value) for value in values)
