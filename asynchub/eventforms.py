"""Events as dicts and as JSON, and back.

Threads: any thread may call anything here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from asynchub.bridging import BridgeDegraded
from asynchub.dataflow import PipelineReported
from asynchub.errors import CorruptStateError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.requests import Request

__all__ = ("event_from_dict", "event_to_dict", "event_to_json")


OWN_MODULES = (Event.__module__, Request.__module__, PipelineReported.__module__, BridgeDegraded.__module__)


def _kinds(kind: type[Event]) -> Iterator[type[Event]]:
    """Yield the kinds of event that this package defines."""
    for one in kind.__subclasses__():
        if one.__module__ in OWN_MODULES and not one.__name__.startswith("_"):
            yield one
        yield from _kinds(one)


_KINDS = {kind.__name__: kind for kind in _kinds(Event)}
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def event_to_dict(event: Event) -> dict[str, Any]:
    """Return the fields of ``event`` under their names, with the name of its kind under ``"event"``, first."""
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return {"event": type(event).__name__, **fields}


def event_from_dict(fields: Mapping[str, Any]) -> Event:
    """Return the event that ``event_to_dict`` took apart; unknown kinds and fields are kept out.

    A kind that this package does not define comes back as a plain ``Event`` with the common fields.

    Raises:
        CorruptStateError: ``fields`` is not of that form.
    """
    kind = _KINDS.get(fields.get("event", ""), Event)
    known = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in fields.items() if name in known}
    if kind is ScalarUpdated and isinstance(given.get("value"), str):
        given["value"] = _NON_FINITE.get(given["value"], given["value"])
    if kind is Event:
        given["key"] = fields.get("key") or fields.get("event", "")
    try:
        return kind(**given)
    except TypeError as error:
        raise CorruptStateError(f"not an event, wanted the fields of {kind.__name__}, got {fields!r:.200}") from error


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: non-finite numbers by name, foreign objects by their ``repr``."""
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if callable(getattr(value, "tolist", None)):  # arrays, tensors and NumPy scalars
        return _plain(value.tolist())
    return repr(value)


def event_to_json(event: Event) -> str:
    """Return ``event`` as one line of strict JSON.

    NaN and infinities, which JSON lacks, are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``; an object that
    JSON cannot hold stands as its ``repr``, and one that cannot be shown either, as what it raised.
    """
    try:
        return _line(event)
    except Exception as error:  # whatever an object of the program's own does
        if not isinstance(event, InfoUpdated):
            raise
        shown = f"<{type(event.value).__name__} that cannot be shown: {type(error).__name__}>"
        return _line(dataclasses.replace(event, value=shown))


def _line(event: Event) -> str:
    return json.dumps(_plain(event_to_dict(event)), ensure_ascii=False, separators=(",", ":"))
