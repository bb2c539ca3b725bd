"""The addresses of NATS servers, as a user writes them, and what one shows them."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from asynchub.errors import ArgumentError

__all__ = ("Login", "Servers", "parse_servers")

PORT = 4222
_USER = re.compile(r"[^\x00-\x20\x7f-\U0010ffff.*>]+")


@dataclass(frozen=True)
class Servers:
    """Servers of one cluster, and how one makes oneself known to them. As a text: the addresses, without a password.

    Attributes:
        addresses: one of each, such as ``nats://host:4222``.
        user: name of the user, if any.
        password: of the user.
        wants_tls: whether nothing may be said without TLS.
    """

    addresses: tuple[str, ...]
    user: str | None
    password: str | None
    wants_tls: bool

    def __str__(self) -> str:
        return ", ".join(self.addresses)


@dataclass(frozen=True)
class Login:
    """How to make oneself known to a server.

    Attributes:
        name: of the connection, shown by the server.
        user: name of the user, if any.
        password: of the user.
        token: in place of user and password.
        credentials: path of a file with a JWT and a key, in place of those.
        tls: certificates to trust and to show; None for those of the system.
        wants_tls: whether nothing is said to a server without TLS.
        inbox: how the subjects begin on which answers come.
    """

    name: str
    user: str | None
    password: str | None
    token: str | None
    credentials: str | None
    tls: ssl.SSLContext | None
    wants_tls: bool
    inbox: str


def parse_servers(url: str) -> Servers:
    """Return what a URL says, or several with commas between.

    Raises:
        ArgumentError: it is no ``nats://[user:password@]host[:port]`` or ``tls://...``, or several differ in more than
            host and port.
    """
    if not isinstance(url, str):
        raise ArgumentError(f"url must be a text, got {type(url).__name__}")
    parsed = [_parse(one.strip()) for one in url.split(",")]
    first = parsed[0]
    if any((one.user, one.password, one.wants_tls) != (first.user, first.password, first.wants_tls) for one in parsed):
        raise ArgumentError("the URLs of several servers must agree in all but host and port")
    addresses = tuple(address for one in parsed for address in one.addresses)
    return Servers(addresses, first.user, first.password, first.wants_tls)


def _parse(url: str) -> Servers:
    wanted = "wanted nats://[user:password@]host[:port] or tls://..."
    try:
        parts = urlsplit(url)
        port = parts.port or PORT
    except ValueError as error:
        raise ArgumentError(f"{wanted}: {error}") from error
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without a password
    if parts.scheme not in ("nats", "tls") or not parts.hostname or parts.path not in ("", "/"):
        raise ArgumentError(f"{wanted}, got {shown!r:.200}")
    if parts.query or parts.fragment:
        raise ArgumentError(f"{wanted}, without ? and #, got {shown!r:.200}")
    user, password = parts.username, parts.password
    if (user is None) != (password is None) or user == "":
        raise ArgumentError(f"{wanted}, with both user and password or neither, got {shown!r:.200}; token= is a token")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if user is not None and not _USER.fullmatch(user := unquote(user)):
        raise ArgumentError("the name of a user must be printable ASCII without blanks, dots, * and >")
    return Servers(
        (f"{parts.scheme}://{host}:{port}",),
        user,
        None if password is None else unquote(password),
        parts.scheme == "tls",
    )
