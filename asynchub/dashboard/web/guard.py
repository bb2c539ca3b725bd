"""What stands before everything else of the server: who is not let in by a rule here is turned away.

A page of any other site can send requests to this machine from a visitor's browser, under a name of its own choice (a
rebound name), and so can any user of this machine. So a request goes on to the routes only if

* its verb is GET, HEAD or POST, or it is the WebSocket's;
* its ``Host`` is, letter for letter, one that the server was started for, with the port;
* its ``Origin``, if it has one, is that of the server;
* its ``Sec-Fetch-Site``, if it has one, is ``same-origin`` or ``none``;
* it has a token that is good for something, except for the files of the page, which hold nothing of anybody; the
  WebSocket has a ticket;
* what it brings is not too long and comes in time.

Answers: 403 to what breaks one of these, 401 for a token that is missing or wrong, 413 and 408 for the last, before any
    route is looked for. All answers forbid to be framed, read by other origins, sniffed or kept.
Nothing ambient: there are no cookies, so that a browser never adds what lets in by itself.
Role: the routes find it in the scope, as ``ROLE``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import anyio

from asynchub.dashboard.web.tokens import Role, Tokens
from asynchub.errors import ArgumentError

__all__ = ("LIVE_PATH", "ROLE", "Guard", "Names", "names_of")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ROLE = "asynchub.role"
LIVE_PATH = "/api/live"
VERBS = ("GET", "HEAD", "POST")
SITES = (b"same-origin", b"none")
MOST_BODY = 65_536
"""Bytes that a request may bring."""
MOST_HEAD = 16_384
"""Bytes of its headers; those that come in one piece with the rest, uvicorn lets through."""
BODY_SECONDS = 10.0
MOST_SOCKETS = 64
POLICY = "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every answer; a route may say the first two in its own way."""
OWN = ("cache-control", "content-security-policy")
NEVER = ("access-control-", "set-cookie", "server")
"""How headers begin that no answer has."""


class Names:
    """The names under which the server may be addressed.

    Attributes:
        hosts: values of ``Host``.
        origins: values of ``Origin``.
    """

    def __init__(self, hosts: Collection[str]) -> None:
        self.hosts = frozenset(host.encode("ascii") for host in hosts)
        self.origins = frozenset(origin.encode("ascii") for host in hosts for origin in _origins(host))


def names_of(port: int, others: Iterable[str] = ()) -> Names:
    """Return the names of a server on this machine.

    Args:
        port: that a browser sees.
        others: further names, with a port unless it is the same: ``"login.example"``, ``"login.example:443"``.

    Raises:
        ArgumentError: a name is none.
    """
    hosts = [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]
    for name in others:
        plain = name.lower()
        bare, _, digits = plain.rpartition(":") if plain[-1:] != "]" else (plain, "", "")
        if not bare or not digits:
            bare, digits = plain, str(port)
        letters = set(bare.removeprefix("[").removesuffix("]"))
        allowed = set("abcdefghijklmnopqrstuvwxyz0123456789.-_") | (set(":") if bare.startswith("[") else set())
        if not letters or letters - allowed or not digits.isdecimal() or not 0 < int(digits) < 2**16:
            raise ArgumentError(
                f"--allow-host takes a name, or a name and a port, such as login:6116, got {name!r:.200}"
            )
        hosts.append(f"{bare}:{digits}")
        if digits in ("80", "443"):  # browsers leave these out
            hosts.append(bare)
    return Names(hosts)


def _origins(host: str) -> list[str]:
    return [f"http://{host}", f"https://{host}"]  # TLS is that of a proxy before the server


class Guard:
    """An ASGI application around another one, to which only what is allowed comes.

    Args:
        app: what is guarded.
        names: under which it is addressed.
        tokens: who may look and who may steer.
        public: paths that need no token: the files of the page.
    """

    def __init__(self, app: App, names: Names, tokens: Tokens, public: Collection[str]) -> None:
        self._app = app
        self._names = names
        self._tokens = tokens
        self._public = frozenset(public)
        self._sockets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # of the server's own, not of a visitor
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, _guarded(send))
        # what else there may be some day is not answered

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        role = None
        if not self._foreign(scope) and scope["path"] == LIVE_PATH and self._sockets < MOST_SOCKETS:
            tickets = parse_qs(scope["query_string"].decode("latin-1")).get("ticket", [])
            role = self._tokens.use(tickets[0]) if len(tickets) == 1 else None
        if role is None:
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: this is a 403
            return
        self._sockets += 1
        try:
            await self._app({**scope, ROLE: role}, receive, send)
        finally:
            self._sockets -= 1

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        why = self._foreign(scope)
        if not why and scope["method"] not in VERBS:
            why = f"{scope['method']:.20} is not answered here; {', '.join(VERBS)} are"
        if why:
            await _answer(send, 403, why)
            return
        role: Role | None = None
        if scope["path"] not in self._public or scope["method"] == "POST":
            role = self._role(scope)
            if role is None:
                await _answer(
                    send,
                    401,
                    "a token is wanted, as 'Authorization: Bearer TOKEN': the server prints it when it starts, in the "
                    "address behind #t=, and has new ones after each start unless it has a --token-file",
                )
                return
        with anyio.move_on_after(BODY_SECONDS) as patience:
            body = await _body(receive) if scope["method"] == "POST" else b""
        if patience.cancelled_caught:
            await _answer(send, 408, f"the request did not come in {BODY_SECONDS:g} s")
        elif body is None:
            await _answer(send, 413, f"a request has at most {MOST_BODY:,} bytes")
        else:
            await self._app({**scope, ROLE: role}, _once(body, receive), send)

    def _role(self, scope: Scope) -> Role | None:
        given = _values(scope, b"authorization")
        scheme, _, token = given[0].decode("latin-1").partition(" ") if len(given) == 1 else ("", "", "")
        return self._tokens.role(token) if scheme.lower() == "bearer" else None

    def _foreign(self, scope: Scope) -> str:
        """Return why a request is not for this server, or not of its page; "" if it may be."""
        hosts, origins, sites = (_values(scope, name) for name in (b"host", b"origin", b"sec-fetch-site"))
        if len(hosts) != 1 or hosts[0].lower() not in self._names.hosts:
            return (
                "this server is not known by that name and port; it answers to "
                + ", ".join(sorted(host.decode() for host in self._names.hosts))
                + "; others are allowed with --allow-host NAME:PORT"
            )
        if len(origins) > 1 or any(origin not in self._names.origins for origin in origins):
            return "a page of another origin may not ask anything here"
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD:
            return f"the head of a request has at most {MOST_HEAD:,} bytes"
        if len(sites) > 1 or any(site not in SITES for site in sites):
            return "another site has led here: paste the address into the browser's address bar instead"
        return ""


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key.lower() == name]


async def _body(receive: Receive) -> bytes | None:
    """Return what a request brings; None if it is too long."""
    body = b""
    while True:
        message = await receive()
        piece: bytes = message.get("body", b"")
        body += piece
        if len(body) > MOST_BODY:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return body


def _once(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read, then what comes after it: that the visitor has left."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            while (message := await receive())["type"] == "http.request":
                pass
            return message
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _guarded(send: Send) -> Send:
    """Return what sends an answer with the headers that each has."""

    async def send_guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.lower(), value) for name, value in message.get("headers", [])]
            said = {name.decode("latin-1") for name, _ in headers} & set(OWN)
            fixed = {name: value for name, value in HEADERS.items() if name not in said}
            kept = [
                (name, value)
                for name, value in headers
                if name.decode("latin-1") not in fixed and not name.decode("latin-1").startswith(NEVER)
            ]
            added = [(name.encode(), value.encode()) for name, value in fixed.items()]
            message = {**message, "headers": kept + added}
        await send(message)

    return send_guarded


async def _answer(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
