"""What the presets of rules share: arguments under the names of another library, and how Keras compares."""

from __future__ import annotations

import ctypes
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from asynchub.errors import ArgumentError
from asynchub.subscribers.checks import Mode, check_key, check_number

__all__ = ("KerasImprovement", "preset_of", "single")

P = TypeVar("P")


def single(value: float) -> float:
    """Return ``value`` rounded to single precision; what is beyond it becomes an infinity."""
    return ctypes.c_float(value).value


def preset_of(
    presets: Mapping[str, Callable[..., P]], library: object, monitor: str, arguments: Mapping[str, Any], whose: str
) -> P:
    """Return what the preset of ``library`` makes of the arguments of the original.

    Args:
        presets: by library, what makes a rule of the ``monitor`` and its arguments.
        library: its name.
        monitor: key of the scalar.
        arguments: by the names they have there.
        whose: the class that has the presets, for errors.

    Raises:
        PatternError: ``monitor`` is not a key.
        ArgumentError: there is no such preset, or the original has no such argument, or one is missing or out of range.
    """
    if not isinstance(library, str) or library not in presets:
        raise ArgumentError(f"{whose} has presets like {', '.join(map(repr, presets))}, got {library!r}")
    make = presets[library]
    _, *parameters = inspect.signature(make).parameters.values()
    known = ", ".join(parameter.name for parameter in parameters)
    for name in arguments:
        if not any(parameter.name == name for parameter in parameters):
            raise ArgumentError(f"{whose}.like({library!r}) knows {known}, got {name!r}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in arguments:
            raise ArgumentError(f"{whose}.like({library!r}) must be given {parameter.name}; it knows {known}")
    return make(check_key("monitor", monitor), **arguments)


class KerasImprovement:
    """Tell whether a value improves on another as the callbacks of Keras do; the first always does, a NaN too.

    Args:
        monitor: key of the scalar; ``"auto"`` goes by it.
        mode: ``"min"``, ``"max"``, or ``"auto"``: ``"min"`` for what is called ``loss`` or ``val_loss``.
        min_delta: what an improvement must exceed; its sign does not count.

    Attributes:
        mode: ``"min"`` or ``"max"``.

    Raises:
        ArgumentError: an argument is out of range, or ``"auto"`` cannot know.
    """

    def __init__(self, monitor: str, mode: str, min_delta: float) -> None:
        if mode not in ("auto", "min", "max"):
            raise ArgumentError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
        if mode == "auto" and monitor.rpartition("/")[2].removeprefix("val_") != "loss":
            raise ArgumentError(f"mode='auto' knows what is best of a loss only: give mode= for {monitor!r}")
        self.mode: Mode = "max" if mode == "max" else "min"
        delta = abs(check_number("min_delta", min_delta))
        self._delta = delta if self.mode == "max" else -delta
        self._beats: Callable[[float, float], bool] = operator.gt if self.mode == "max" else operator.lt

    def __call__(self, value: float, best: float | None) -> bool:
        """Tell whether ``value`` improves on ``best``."""
        return best is None or self._beats(single(value - self._delta), single(best))
