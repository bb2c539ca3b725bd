"""The folder through which people ask a run for something: its two files, as ``docs/formats/control.md`` has them.

Offer: what may be asked for. The run writes it, whole or not at all.
Requests: lines with a checksum, appended by whoever asks. A torn or damaged one is told from a whole one.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from asynchub.allowing import COMMANDS, LONGEST, Allowed, check_words, command_of, shortened
from asynchub.declaring import Parameter
from asynchub.errors import ArgumentError, AsyncHubError
from asynchub.requests import ParameterChangeRequested, PauseRequested, Request

__all__ = (
    "EXPIRED",
    "FOLDER",
    "FORMAT",
    "LONGEST_LIFE",
    "LONGEST_LINE",
    "MANY_BYTES",
    "OFFER",
    "OLD_BYTES",
    "REQUESTS",
    "ControlError",
    "Offer",
    "Written",
    "check_value",
    "pack_offer",
    "pack_request",
    "read_offer",
    "unpack_offer",
    "unpack_request",
)

FOLDER = "control"
"""Name of the folder in that of the run,"""
OFFER = "offer.json"
REQUESTS = "requests"
"""and of its files."""
FORMAT = 1
LONGEST_LINE = 2**16
"""Bytes of a request, its line feed included."""
LARGEST_OFFER = 2**22
OLD_BYTES = 2**20
"""Length of the requests from which on a run that has read them begins anew."""
MANY_BYTES = 2**22
"""Length of the requests beyond which nobody appends."""
LONGEST_LIFE = 3600.0
"""Seconds after which a request may expire, at most."""
EXPIRED = "expired"
"""What the error of a refusal begins with if the request had expired."""
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_NONE = type(None)


class ControlError(AsyncHubError, RuntimeError):
    """A run cannot be asked for something, or what was written to ask it is not readable; the text says why."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a run lets be asked for.

    Attributes:
        run_id: identity of the run; empty if it is not known.
        incarnation: identity of this start of the run.
        host: the machine that it runs on.
        pid: number of its process there.
        begun: when it began, in seconds since the epoch.
        ended: when it ended; None before.
        allow: rules, as ``Allowed`` takes them.
        longest_pause: seconds that a pause may last.
        paused: whether it is paused.
        parameters: what can be set, by name; without functions. ``values`` has what they are now, as far as known.
        values: see ``parameters``.
    """

    run_id: str
    incarnation: str
    host: str
    pid: int
    begun: float
    ended: float | None = None
    allow: tuple[str, ...] = ()
    longest_pause: float = 3600.0
    paused: bool = False
    parameters: tuple[Parameter, ...] = ()
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """A request as it is written down.

    Attributes:
        request: it.
        run_id: of the run that is asked.
        incarnation: of the start of it that is asked.
        time: when it was asked, in seconds since the epoch.
        expires: seconds after which it does not count.
    """

    request: Request
    run_id: str
    incarnation: str
    time: float
    expires: float


# --- the offer


def pack_offer(offer: Offer) -> bytes:
    """Return an offer as bytes."""
    fields = {"format": FORMAT, **asdict(offer)}
    values = fields.pop("values")
    fields["parameters"] = [
        {
            "name": one.name,
            "value": values.get(one.name),
            "low": one.low,
            "high": one.high,
            "integer": one.integer,
            "note": one.note,
        }
        for one in offer.parameters
    ]
    return json.dumps(fields, indent=1).encode() + b"\n"


def unpack_offer(data: bytes) -> Offer:
    """Return what ``pack_offer`` has packed.

    Raises:
        ControlError: it is damaged, or of a version to come.
    """
    fields = _object(data, "the offer")
    try:
        listed = fields["parameters"]
        parameters = tuple(_parameter(one) for one in listed)
        values = {one["name"]: one["value"] for one in listed if one["value"] is not None}
        taken = {
            name: _typed(fields, name, kinds)
            for name, kinds in {
                "run_id": (str,),
                "incarnation": (str,),
                "host": (str,),
                "pid": (int,),
                "begun": (int, float),
                "ended": (int, float, _NONE),
                "allow": (list,),
                "longest_pause": (int, float),
                "paused": (bool,),
            }.items()
        }
        allow = Allowed(taken.pop("allow")).rules
    except (ArgumentError, KeyError, TypeError, ValueError) as error:
        raise ControlError(f"the offer of the run is damaged: {type(error).__name__}: {error!s:.200}") from error
    return Offer(**taken, allow=allow, parameters=parameters, values=values)


def _parameter(fields: Any) -> Parameter:
    if not (fields["value"] is None or _is_finite(fields["value"])):
        raise ValueError(f"the value of a parameter is a number, got {fields['value']!r:.80}")
    integer, note = _typed(fields, "integer", (bool,)), _typed(fields, "note", (str,))
    return Parameter(fields["name"], None, None, fields["low"], fields["high"], integer, note)


def read_offer(folder: Path) -> Offer | None:
    """Return the offer in a control folder; None if there is none.

    Raises:
        ControlError: it cannot be read, or is damaged.
    """
    try:
        with (folder / OFFER).open("rb") as file:
            data = file.read(LARGEST_OFFER + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ControlError(f"{folder / OFFER} cannot be read: {error.strerror}; is it another user's run?") from error
    if len(data) > LARGEST_OFFER:
        raise ControlError(f"{folder / OFFER} is above {LARGEST_OFFER} bytes: it is no offer of a run")
    return unpack_offer(data)


# --- requests


def check_value(request: Request, parameter: Callable[[str], Parameter | None], longest_pause: float) -> None:
    """Check what a request asks for: of a parameter a finite number within bounds, of a pause its time.

    Args:
        request: it.
        parameter: returns what is declared under a name; None if nothing is.
        longest_pause: seconds that a pause may last.

    Raises:
        ArgumentError: it is none of these.
    """
    if isinstance(request, ParameterChangeRequested):
        declared = parameter(request.name)
        if declared is None:
            raise ArgumentError(
                f"the run declares no bounds for {request.name!r:.80}, so it cannot be set from elsewhere (bounds= of "
                "its RemoteControl)"
            )
        if type(request.value) is int and not _is_finite(request.value):
            raise ArgumentError(f"{request.name} takes a finite number, got {shortened(request.value)}")
        declared.checked(request.value)
    elif isinstance(request, PauseRequested) and not (
        _is_finite(request.seconds) and 0 < request.seconds <= longest_pause
    ):
        raise ArgumentError(f"a pause lasts {longest_pause:g} s at most, got {shortened(request.seconds)}")


def pack_request(written: Written) -> bytes:
    """Return a request as a line.

    Raises:
        ControlError: it cannot be written down.
    """
    request = written.request
    try:
        check_words(request)
        if not _ID.fullmatch(request.id):
            raise ArgumentError(f"id of a request is 1 to 64 letters, digits, - and _, got {request.id!r:.80}")
        if not 0 < written.expires <= LONGEST_LIFE:
            raise ArgumentError(f"a request expires in up to {LONGEST_LIFE:g} s, got {written.expires!r:.80}")
        fields = {"format": FORMAT, "id": request.id, "command": command_of(request)[0]}
        for name in ("name", "value", "group", "seconds", "author", "reason"):
            if hasattr(request, name):
                fields[name] = getattr(request, name)
        fields |= {"run_id": written.run_id, "incarnation": written.incarnation}
        fields |= {"time": written.time, "expires": written.expires}
        text = json.dumps(fields, allow_nan=False).encode("ascii")
    except (ArgumentError, TypeError, ValueError) as error:
        raise ControlError(f"{error!s:.400}") from error
    line = b"%08x %s\n" % (zlib.crc32(text), text)
    if len(line) > LONGEST_LINE:
        raise ControlError(f"a request has at most {LONGEST_LINE} bytes, got {len(line)}; give a shorter reason")
    return line


def unpack_request(line: bytes) -> Written:
    """Return what ``pack_request`` has packed; the line feed may be missing.

    Raises:
        ControlError: it is something else, damaged, or of a version to come.
    """
    line = line.removesuffix(b"\n")
    checksum, _, text = line.partition(b" ")
    if len(line) >= LONGEST_LINE or checksum != b"%08x" % zlib.crc32(text):
        raise ControlError(f"a line of {len(line)} bytes is torn or damaged, or no request: {line[:40]!r}")
    fields = _object(text, "a request")
    try:
        words = {name: _typed(fields, name, (str,)) for name in ("id", "command", "author", "reason")}
        if not _ID.fullmatch(words["id"]):
            raise ValueError(f"its id is {words['id']!r:.80}")
        kind = COMMANDS[words.pop("command")]
        known = {name: fields[name] for name in ("name", "value", "group", "seconds") if name in fields}
        own = {name: value for name, value in known.items() if name in kind.__dataclass_fields__}
        request = kind(**words, **own)
        check_words(request)
        numbers = {name: float(_typed(fields, name, (int, float))) for name in ("time", "expires")}
        if not all(map(math.isfinite, numbers.values())) or not 0 < numbers["expires"] <= LONGEST_LIFE:
            raise ValueError(f"its time and its expiry are {numbers}")
        ids = {name: _typed(fields, name, (str,)) for name in ("run_id", "incarnation")}
        if any(len(one) > LONGEST for one in ids.values()):
            raise ValueError("the run that it names is none")
    except (ArgumentError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ControlError(f"what is asked is no request: {type(error).__name__}: {error!s:.200}") from error
    return Written(request, ids["run_id"], ids["incarnation"], numbers["time"], numbers["expires"])


# --- JSON


def _object(data: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object of this version of the format.

    Raises:
        ControlError: it is none.
    """
    try:
        fields = json.loads(data, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"{what} is no JSON: {error!s:.200}") from error
    if not isinstance(fields, dict):
        raise ControlError(f"{what} is no JSON object, got {fields!r:.80}")
    if fields.get("format") != FORMAT:
        version = fields.get("format")
        raise ControlError(f"{what} is of format {version!r:.80}, and this version of asynchub reads {FORMAT} only")
    return fields


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no finite number")


def _typed(fields: Any, name: str, kinds: tuple[type, ...]) -> Any:
    value = fields[name]
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} is a {wanted}, got {value!r:.80}")
    return value


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False
