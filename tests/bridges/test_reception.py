"""What a child sends damaged is left out and said; what is whole counts, and the others go on."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from asynchub.bridges.children import Children
from asynchub.bridges.parcels import Greeting, Parcel, encode_greeting, encode_parcel
from asynchub.bridges.uplink import Address
from asynchub.bridging import FrameRefused
from asynchub.events import ScalarUpdated
from asynchub.hub import MessageHub
from tests.bridges.child_work import (
    publish,
    publish_and_kill,
)
from tests.bridges.families import FORKING, heard, in_child, values

pytestmark = FORKING


@pytest.fixture
def hub() -> MessageHub:
    return MessageHub.get_instance("run")


@contextmanager
def stranger(children: Children) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(Address.of(children.address).path)
        yield connection


def parcel(*found: float) -> bytes:
    """Return a parcel of scalars."""
    from asynchub.bridges.packing import Packer

    events = [
        ScalarUpdated(seq=1 + index, time=1.0, step=2, key="stranger/value", value=value)
        for index, value in enumerate(found)
    ]
    return encode_parcel(Parcel(Packer("test").pack(events), 0))


HELLO = encode_greeting(Greeting(123, "stranger"))
WHOLE = parcel(1.0, 2.0)
WRONG_BODY = WHOLE[:-1] + bytes([WHOLE[-1] ^ 1])
DAMAGES = {
    "garbage": (HELLO + WHOLE + b"\xff" * 100, 2),
    "a body that is not what it was": (HELLO + WRONG_BODY + WHOLE, 2),
    "bodies that are not what they were": (HELLO + WRONG_BODY * 50 + WHOLE, 2),
    "a head that is not what it was": (HELLO + WHOLE + b"AHC\1\xff" + WHOLE[5:] + WHOLE, 2),
    "an end amid a head": (HELLO + WHOLE + WHOLE[:7], 2),
    "an end amid a body": (HELLO + WHOLE + WHOLE[:-1], 2),
    "events before the greeting": (WHOLE + HELLO + WHOLE, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_said_once_and_what_is_whole_counts(damage: str, hub: MessageHub) -> None:
    data, whole = DAMAGES[damage]
    with heard(hub) as events, Children(hub) as children:
        with stranger(children) as connection, suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_RDWR)
        in_child(publish, "work/value", 5)
        children.flush()
        assert children.statistics().events == whole + 5
    refused = [event for event in events if isinstance(event, FrameRefused)]
    assert len(refused) == 1
    assert refused[0].source == ("child process 123 (stranger)" if whole else "a child process")
    assert len(values(hub, "work/value")) == 5
    assert values(hub, "stranger/value") == [1.0, 2.0][:whole]


def test_a_killed_process_loses_only_what_it_had_not_sent(hub: MessageHub) -> None:
    with hub, Children(hub) as children:
        in_child(children.link(publish_and_kill), "work/value", 2500, exitcode=-signal.SIGKILL)
        in_child(publish, "work/other", 5)
    assert values(hub, "work/value") == [number / 3 for number in range(2500)]
    assert len(values(hub, "work/other")) == 5
