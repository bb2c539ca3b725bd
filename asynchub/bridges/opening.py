"""Transports by URL: ``nats://...``, ``tls://...``, ``memory://NAME``."""

from __future__ import annotations

from typing import Any

from asynchub.bridges.memory import MemoryTransport
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.transport import Transport
from asynchub.errors import ArgumentError

__all__ = ("open_transport",)


def open_transport(url: str, run: str, **options: Any) -> Transport:
    """Return a transport to a broker; it is not connected yet.

    Args:
        url: ``nats://[user:password@]host[:port]``, ``tls://...``, several of them with commas between; or
            ``memory://NAME``, a broker inside of the process.
        run: name of the run.
        options: of ``asynchub.bridges.nats.NatsTransport``; a broker in memory has none.

    Raises:
        ArgumentError: the URL is of another kind or malformed, the run has no name, or an option is out of range.
        ImportError: a ``nats://`` broker is wanted, and nats-py is not installed.
        TypeError: there is no such option.
    """
    subjects = Subjects(run)
    scheme, colon, rest = url.partition("://") if isinstance(url, str) else ("", "", "")
    if colon and scheme == "memory":
        if options:
            raise TypeError(f"a broker in memory takes no options, got {', '.join(sorted(options))}")
        return MemoryTransport(subjects, rest)
    if colon and scheme in ("nats", "tls"):
        from asynchub.bridges.nats import NatsTransport

        return NatsTransport(subjects, url, **options)
    shown = scheme if colon else type(url).__name__
    raise ArgumentError(f"the URL of a broker begins with nats://, tls:// or memory://, got {shown!r:.80}")
