"""The files of a control folder: what is packed comes back, and what is something else is told."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.allowing import COMMANDS
from asynchub.control_folder import (
    LARGEST_OFFER,
    LONGEST_LIFE,
    LONGEST_LINE,
    OFFER,
    ControlError,
    Offer,
    Written,
    check_value,
    pack_offer,
    pack_request,
    read_offer,
    unpack_offer,
    unpack_request,
)
from asynchub.declaring import Parameter
from asynchub.errors import ArgumentError
from asynchub.requests import ParameterChangeRequested, PauseRequested, Request, StopRequested

LR = Parameter("lr", low=1e-5, high=1.0, note="learning rate")
OFFERED = Offer("a" * 32, "b" * 32, "host", 7, 1e9, None, ("stop", "set/**"), 60.0, True, (LR,), {"lr": 0.1})
STOP = Written(StopRequested(id="x", author="ada", reason="enough"), "a" * 32, "b" * 32, 1e9, 60.0)
LINE = pack_request(STOP)


def lined(fields: Any) -> bytes:
    """Return a line with a right checksum."""
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


# --- the offer


def test_an_offer_comes_back() -> None:
    assert unpack_offer(pack_offer(OFFERED)) == OFFERED
    assert unpack_offer(pack_offer(replace(OFFERED, ended=3.5, values={}))).values == {}


def test_an_offer_that_was_cut_is_refused() -> None:
    packed = pack_offer(OFFERED)
    for cut in range(len(packed) - 2):
        with pytest.raises(ControlError):
            unpack_offer(packed[:cut])


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 2},
        {"format": None},
        {"run_id": 3},
        {"pid": "x"},
        {"pid": True},
        {"allow": ["explode"]},
        {"allow": "stop"},
        {"parameters": [{"name": "lr"}]},
        {"parameters": 3},
        {"parameters": [3]},
        {"ended": "yes"},
        {"parameters": [{"name": "x", "value": "1", "low": None, "high": None, "integer": False, "note": ""}]},
        {"parameters": [{"name": "x", "value": 1, "low": 3, "high": 2, "integer": False, "note": ""}]},
    ],
    ids=lambda changed: json.dumps(changed)[:30],
)
def test_an_offer_with_something_wrong_in_it_is_refused(changed: dict[str, Any]) -> None:
    fields = json.loads(pack_offer(OFFERED)) | changed
    with pytest.raises(ControlError):
        unpack_offer(json.dumps(fields).encode())


def test_what_an_offer_has_beside_that_is_passed_over() -> None:
    fields = json.loads(pack_offer(OFFERED)) | {"later": [1]}
    assert unpack_offer(json.dumps(fields).encode()) == OFFERED


def test_a_folder_without_an_offer_has_none(tmp_path: Path) -> None:
    assert read_offer(tmp_path) is None
    assert read_offer(tmp_path / "none") is None
    (tmp_path / "file").write_text("")
    assert read_offer(tmp_path / "file") is None


def test_a_file_that_is_no_offer_is_told(tmp_path: Path) -> None:
    path = tmp_path / OFFER
    path.write_bytes(b" " * (LARGEST_OFFER + 1))
    with pytest.raises(ControlError, match="no offer of a run"):
        read_offer(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ControlError, match="cannot be read"):
        read_offer(tmp_path)


# --- requests

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.sampled_from(sorted(COMMANDS)),
    texts,
    texts,
    texts,
    finite | st.integers(-(2**70), 2**70),
    st.none() | st.integers(0, 9),
    st.floats(0.001, LONGEST_LIFE),
)
def test_a_request_comes_back(
    command: str, author: str, reason: str, name: str, value: float, group: int | None, seconds: float
) -> None:
    kind = COMMANDS[command]
    more: dict[str, Any] = {}
    if command == "set":
        more = {"name": name, "value": value, "group": group}
    elif command == "pause":
        more = {"seconds": seconds}
    written = Written(kind(id="x-1_", author=author, reason=reason, **more), "r", "i", 1.5, seconds)
    line = pack_request(written)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert unpack_request(line) == written
    assert unpack_request(line[:-1]) == written


def test_a_line_that_was_cut_anywhere_is_told() -> None:
    for cut in range(len(LINE) - 1):
        for part in (LINE[:cut], LINE[cut + 1 :]):
            with pytest.raises(ControlError):
                unpack_request(part)


def test_a_line_with_one_bit_changed_anywhere_is_told() -> None:
    for place in range(len(LINE) - 1):
        for bit in range(8):
            damaged = bytearray(LINE)
            damaged[place] ^= 1 << bit
            with pytest.raises(ControlError):
                unpack_request(bytes(damaged))


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_no_bytes_are_a_request_by_chance(data: bytes) -> None:
    with pytest.raises(ControlError):
        unpack_request(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=20) | st.sampled_from(["stop", "set", "lr"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = json.loads(LINE[9:])


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from([*FIELDS, "name", "value", "group", "seconds"]), json_values, max_size=4))
def test_no_fields_with_a_right_checksum_do_more_than_be_told(changed: dict[str, Any]) -> None:
    try:
        written = unpack_request(lined(FIELDS | changed))
    except ControlError:
        return
    assert type(written.request) in COMMANDS.values()
    assert math.isfinite(written.time)
    assert 0 < written.expires <= LONGEST_LIFE


HOSTILE: list[tuple[str, bytes]] = [
    ("a list", lined([1])),
    ("no fields", lined({})),
    ("another format", lined(FIELDS | {"format": 2})),
    ("an unknown command", lined(FIELDS | {"command": "exec"})),
    ("a command that is none", lined(FIELDS | {"command": ["stop"]})),
    ("the base of all", lined(FIELDS | {"command": "request"})),
    ("an id with a line feed", lined(FIELDS | {"id": "a\nb"})),
    ("no id", lined(FIELDS | {"id": ""})),
    ("a long id", lined(FIELDS | {"id": "a" * 65})),
    ("no letter", lined(FIELDS | {"reason": "\ud800"})),
    ("a long reason", lined(FIELDS | {"reason": "x" * 1001})),
    ("set without a name", lined(FIELDS | {"command": "set", "value": 1})),
    ("a name that is none", lined(FIELDS | {"command": "set", "value": 1, "name": 3})),
    ("NaN", lined(json.dumps(FIELDS | {"time": math.nan}).encode())),
    ("infinity", lined(json.dumps(FIELDS).replace("60.0", "1e999").encode())),
    ("for ever", lined(FIELDS | {"expires": 1e9})),
    ("a deep one", lined(b"[" * 60000)),
    ("a long number", lined(b'{"format": 1, "id": ' + b"9" * 6000 + b"}")),
    ("no text", lined(b"\xff\xfe")),
    ("too long", lined(b'{"a": "' + b"x" * LONGEST_LINE + b'"}')),
    ("no checksum", json.dumps(FIELDS).encode()),
    ("nothing", b""),
    ("a line feed", b"\n"),
]


@pytest.mark.parametrize("line", [line for _, line in HOSTILE], ids=[name for name, _ in HOSTILE])
def test_what_is_no_request_is_told_in_short(line: bytes) -> None:
    with pytest.raises(ControlError) as raised:
        unpack_request(line)
    assert len(str(raised.value)) < 500


def test_what_a_request_has_beside_that_is_passed_over() -> None:
    assert unpack_request(lined(FIELDS | {"later": 1, "key": "x", "step": 9, "seq": 4})) == STOP


@pytest.mark.parametrize(
    "written",
    [
        replace(STOP, request=StopRequested(id="")),
        replace(STOP, request=StopRequested(id="a b")),
        replace(STOP, request=StopRequested(id="a", reason="x" * 1001)),
        replace(STOP, request=Request(id="a")),
        replace(STOP, request=ParameterChangeRequested(id="a", name="lr", value=math.nan)),
        replace(STOP, request=ParameterChangeRequested(id="a", name="lr", value=object())),
        replace(STOP, request=ParameterChangeRequested(id="a", name="lr", value="x" * LONGEST_LINE)),
        replace(STOP, expires=0.0),
        replace(STOP, expires=LONGEST_LIFE + 1),
        replace(STOP, time=math.inf),
    ],
    ids=["no id", "odd id", "long", "no kind", "NaN", "object", "large", "at once", "never", "no time"],
)
def test_what_cannot_be_written_down_is_refused(written: Written) -> None:
    with pytest.raises(ControlError):
        pack_request(written)


# --- values


@pytest.mark.parametrize("value", [1e-5, 0.5, 1, 1.0])
def test_a_value_within_bounds_is_one(value: float) -> None:
    check_value(ParameterChangeRequested(name="lr", value=value), {"lr": LR}.get, 60.0)


@pytest.mark.parametrize("value", [0, 1.01, -1, math.nan, math.inf, "0.1", "__import__('os')", None, True, [0.1], {}])
def test_any_other_value_is_none(value: Any) -> None:
    with pytest.raises(ArgumentError):
        check_value(ParameterChangeRequested(name="lr", value=value), {"lr": LR}.get, 60.0)


def test_a_parameter_without_bounds_cannot_be_set_from_elsewhere() -> None:
    with pytest.raises(ArgumentError, match="declares no bounds for 'wd'"):
        check_value(ParameterChangeRequested(name="wd", value=0.1), {"lr": LR}.get, 60.0)


@pytest.mark.parametrize("seconds", [0, -1, 60.1, math.nan, math.inf, "1", None, True])
def test_a_pause_is_as_long_as_the_run_allows(seconds: Any) -> None:
    with pytest.raises(ArgumentError, match="60 s at most"):
        check_value(PauseRequested(seconds=seconds), lambda name: None, 60.0)
    check_value(PauseRequested(seconds=60), lambda name: None, 60.0)
