"""What can be set while a run goes on: parameters that subscribers and programs declare, each with its bounds.

Declared: a subscriber that carries a tuple ``parameters`` lets them be set by a ``ParameterChangeRequested``.
Applied: at a safe point, in the thread of the training loop, by the parameter's own ``set``; one without is set by what
    the program gave ``hub.on_request``. A value that is no finite number within the bounds is refused before.
Said: each change is a ``ParameterChanged``, if the parameter has a ``get``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.requests import ParameterChanged, ParameterChangeRequested

__all__ = ("Parameter", "applying", "declared")

Apply = Callable[[Any], object]
LISTED = 20
"""Names that an error lists."""
SHORT = 80
"""Letters of a value in an error."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something that may be set while a run goes on.

    Attributes:
        name: its name, e.g. ``"lr"``. Before one that begins with a dot, as ``".patience"``, stands the name of the
            subscriber that declares it: ``"EarlyStopping.patience"``.
        get: returns its value now, or None if that is not at hand. Any thread may call it; it must not wait.
        set: sets it; called in the thread of the training loop. None: what the program gave ``hub.on_request`` for
            ``ParameterChangeRequested`` does.
        low: the smallest value it takes; None for no bound.
        high: the largest.
        integer: whether it takes whole numbers only.
        note: what it is, in words.

    Raises:
        ArgumentError: the bounds are no finite numbers or cross, or one of the others is of a wrong type.
    """

    name: str
    get: Callable[[], float | None] | None = None
    set: Callable[[Any], object] | None = None
    low: float | None = None
    high: float | None = None
    integer: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip("."):
            raise ArgumentError(f"a parameter needs a name such as 'lr' or '.patience', got {_shortened(self.name)}")
        for what, function in (("get", self.get), ("set", self.set)):
            if function is not None and not callable(function):
                raise ArgumentError(f"{what} of {self.name!r} must be a function or None, got {_shortened(function)}")
        for bound in (self.low, self.high):
            if bound is not None and not _is_number(bound):
                raise ArgumentError(
                    f"the bounds of {self.name!r} must be finite numbers or None, got {_shortened(bound)}"
                )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ArgumentError(f"the bounds of {self.name!r} cross: {self.low} is above {self.high}")

    def checked(self, value: object) -> int | float:
        """Return ``value`` if it is one that the parameter takes.

        Raises:
            ArgumentError: it is no finite number, or out of bounds.
        """
        if not _is_number(value):
            raise ArgumentError(f"{self.name} takes a finite number, got {_shortened(value)}")
        number: Any = value
        if self.integer:
            if number != int(number):
                raise ArgumentError(f"{self.name} takes a whole number, got {_shortened(value)}")
            number = int(number)
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            raise ArgumentError(f"{self.name} takes {self.range_in_words()}, got {_shortened(value)}")
        return number  # type: ignore[no-any-return]  # `_is_number` has looked at it

    def range_in_words(self) -> str:
        """Return which values it takes, in words."""
        kind = "a whole number" if self.integer else "a number"
        if self.low is not None and self.high is not None:
            return f"{kind} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{kind} of at least {self.low:g}"
        return kind if self.high is None else f"{kind} of at most {self.high:g}"

    def value(self) -> float | None:
        """Return its value now; None if that is not at hand, or no finite number."""
        number = None if self.get is None else self.get()
        return number if _is_number(number) else None


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def _shortened(value: object) -> str:
    """Return a value as text, of at most ``SHORT`` letters, whatever it is."""
    try:
        return repr(value)[:SHORT]
    except ValueError:  # an int of more digits than Python writes
        return "a huge integer"


def declared(subscribers: Iterable[tuple[str, object]]) -> dict[str, Parameter]:
    """Return what subscribers declare, by name; of several of one name the bounds that all have hold.

    Args:
        subscribers: each with its name.
    """
    found: dict[str, Parameter] = {}
    for whose, subscriber in subscribers:
        own = getattr(subscriber, "parameters", ())
        for parameter in own if isinstance(own, tuple | list) else ():
            if isinstance(parameter, Parameter):
                name = f"{whose}{parameter.name}" if parameter.name.startswith(".") else parameter.name
                named = replace(parameter, name=name)
                found[name] = _both(found[name], named) if name in found else named
    return found


def _both(one: Parameter, other: Parameter) -> Parameter:
    lows = [low for low in (one.low, other.low) if low is not None]
    highs = [high for high in (one.high, other.high) if high is not None]
    low, high = max(lows, default=None), min(highs, default=None)
    if low is not None and high is not None and low > high:
        low, high = one.low, one.high  # no value is in both: those of the first
    return Parameter(
        one.name,
        one.get or other.get,
        one.set or other.set,
        low,
        high,
        one.integer or other.integer,
        one.note or other.note,
    )


def applying(
    request: object,
    otherwise: Apply | None,
    parameters: Callable[[], Mapping[str, Parameter]],
    publish: Callable[[ParameterChanged], object],
) -> Apply | None:
    """Return what applies ``request``: if it asks for a parameter that is declared, what sets that.

    Args:
        request: any request.
        otherwise: what applies requests of its kind.
        parameters: returns what is declared, by name.
        publish: called with what was changed.
    """
    if type(request) is not ParameterChangeRequested:
        return otherwise
    known = parameters()
    parameter = known.get(request.name)
    if parameter is not None:
        return functools.partial(_change, parameter, otherwise, publish)
    return otherwise if otherwise is not None or not known else functools.partial(_refuse, tuple(known))


def _refuse(known: tuple[str, ...], request: ParameterChangeRequested) -> None:
    names = ", ".join(sorted(known)[:LISTED]) + (", ..." if len(known) > LISTED else "")
    raise ArgumentError(f"nobody declares a parameter {request.name!r:.80}; there are {names}")


def _change(
    parameter: Parameter,
    otherwise: Apply | None,
    publish: Callable[[ParameterChanged], object],
    request: ParameterChangeRequested,
) -> None:
    value = parameter.checked(request.value)
    old = parameter.value()
    if parameter.set is not None:
        if request.group is not None:
            raise ArgumentError(f"{parameter.name} has no groups, got group {_shortened(request.group)}")
        parameter.set(value)
    elif otherwise is not None:
        otherwise(request)
    else:
        raise ArgumentError(
            f"{parameter.name} is declared, and nothing sets it: give its Parameter a set=, or say how with "
            "hub.on_request(ParameterChangeRequested)"
        )
    new = parameter.value()
    if old is not None and new is not None:
        publish(
            ParameterChanged(
                name=parameter.name,
                group=request.group or 0,
                old=old,
                new=new,
                reason=request.reason,
                author=request.author,
            )
        )
