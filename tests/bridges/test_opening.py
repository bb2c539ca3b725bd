"""Transports by URL."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from asynchub.bridges.memory import MemoryTransport
from asynchub.bridges.nats import NatsTransport
from asynchub.bridges.opening import open_transport
from asynchub.errors import ArgumentError


def test_a_url_tells_the_kind_of_broker() -> None:
    assert isinstance(open_transport("memory://here", "run"), MemoryTransport)
    assert isinstance(open_transport("nats://127.0.0.1", "run", max_age=3600), NatsTransport)
    assert isinstance(open_transport("tls://me:secret@host:1,tls://me:secret@other", "run"), NatsTransport)


@pytest.mark.parametrize("url", ["", "host", "ws://host", "redis://host", "nats:host", "memory:", "://", None, 3])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(ArgumentError, match="begins with nats://"):
        open_transport(url, "run")


def test_a_refused_url_does_not_show_its_password() -> None:
    with pytest.raises(ArgumentError) as raised:
        open_transport("natz://me:secret@host", "run")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "run", "options", "error"),
    [
        ("memory://", "run", {}, ArgumentError),
        ("memory://a", "", {}, ArgumentError),
        ("memory://a", "run", {"token": "x"}, TypeError),
        ("nats://host", "run", {"colour": "red"}, TypeError),
        ("nats://host", "run", {"max_age": -1}, ArgumentError),
    ],
    ids=["no-name", "no-run", "options-in-memory", "unknown-option", "bad-option"],
)
def test_what_cannot_be_opened_is_refused(url: str, run: str, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        open_transport(url, run, **options)


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_nats_is_loaded_only_for_a_broker_that_needs_it() -> None:
    code = """
import sys
from asynchub.bridges.opening import open_transport
open_transport("memory://here", "run")
print("nats" in sys.modules)
sys.modules["nats.aio.client"] = None
try:
    open_transport("nats://host", "run")
except ImportError as error:
    print(error)
"""
    assert _python(code).splitlines() == [
        "False",
        "a nats:// broker needs nats-py: python -m pip install 'asynchub[nats]'",
    ]
