"""Servers on a free port of this machine for a test, and what a client says to them byte by byte."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from websockets.sync.client import ClientConnection, connect

from asynchub.dashboard.asking import ask
from asynchub.dashboard.colours import Colours
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.web.app import web_app
from asynchub.dashboard.web.guard import names_of
from asynchub.dashboard.web.http_server import http_server, listening
from asynchub.dashboard.web.page_files import PageFile, page_files
from asynchub.dashboard.web.source import Source
from asynchub.dashboard.web.steering import Steering
from asynchub.dashboard.web.tokens import Role, Secrets, Tokens, new_secrets
from asynchub.dashboard.web.wire import decode
from tests.waiting import until

__all__ = ("Answer", "Served", "running", "said", "serving", "upgrade")

WAIT = 20.0
Headers = Mapping[str, str] | list[tuple[str, str]]


class Answer(NamedTuple):
    """What a server answered.

    Attributes:
        status: of it; 0 if it closed the connection without a word.
        headers: in lower case.
        body: it.
    """

    status: int
    headers: dict[str, str]
    body: bytes


@contextmanager
def running(make: Callable[[int], Any], port: int = 0) -> Iterator[int]:
    """Serve an application, made for the port, in a thread; yield the port."""
    bound = listening("127.0.0.1", port, or_next=False)
    number = bound.getsockname()[1]
    server = http_server(make(number))
    thread = threading.Thread(target=server.run, args=([bound],), name="asynchub test server")
    thread.start()
    deadline = time.monotonic() + WAIT
    try:
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield number
    finally:
        server.should_exit = True
        thread.join(WAIT)


class Served:
    """A server, and a client of it.

    Attributes:
        port: that it listens on.
        source: of what it tells.
        secrets: its tokens.
        runs: row ids by the names of the runs' folders.
    """

    def __init__(self, port: int, source: Source, secrets: Secrets) -> None:
        self.port, self.source, self.secrets = port, source, secrets
        self.address = f"http://127.0.0.1:{port}"
        self.runs: dict[str, str] = {}
        self.look()

    def look(self) -> None:
        """See which runs there are."""
        self.runs = {Path(row["folder"]).name: row["id"] for row in self.get("/api/runs")["rows"]}

    def ask(self, verb: str, path: str, body: Any = None, role: Role = "view", **query: Any) -> httpx.Response:
        """Return an answer."""
        headers = {"Authorization": f"Bearer {getattr(self.secrets, role)}"}
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.request(
            verb, self.address + path, params=query, content=content, headers=headers, timeout=WAIT, trust_env=False
        )

    def get(self, path: str, **query: Any) -> Any:
        """Return what is told, which must be well."""
        answer = self.ask("GET", path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def curves(self, **wanted: Any) -> bytes:
        """Return a message of curves."""
        answer = self.ask("POST", "/api/curves", wanted)
        assert answer.status_code == 200, answer.text
        return answer.content

    def have_read(self, keys: Sequence[str], seq: int) -> None:
        """Have the curves of all runs read up to an event: until then, a page has them one run after the other."""

        def are_read() -> bool:
            charts = decode(self.curves(runs=list(self.runs.values()), keys=list(keys), buckets=800))["charts"]
            return min(int(series["seq"]) for chart in charts for series in chart["series"]) >= seq

        until(are_read)

    @contextmanager
    def feed(self, role: Role = "view") -> Iterator[ClientConnection]:
        """Yield a live feed."""
        ticket = self.ask("POST", "/api/ticket", b"", role).json()["ticket"]
        url = f"ws://127.0.0.1:{self.port}/api/live?ticket={ticket}"
        with connect(url, compression=None, proxy=None, max_size=2**26) as feed:
            yield feed


@contextmanager
def serving(
    folders: Sequence[Path],
    cache: Path,
    *,
    allow: Sequence[str] = (),
    secrets: Secrets | None = None,
    files: Mapping[str, PageFile] | None = None,
    port: int = 0,
    **options: Any,
) -> Iterator[Served]:
    """Serve the runs in some folders; yield the server."""
    known = new_secrets() if secrets is None else secrets
    asking = options.pop("ask", partial(ask, author="a test"))
    export = options.pop("export", None)
    colours = options.pop("colours", Colours(cache).of)
    source = Source(Gallery(folders, cache), Steering(allow), ask=asking, colours=colours, **options)
    tokens = Tokens(known, steering=bool(source.steering.rules))
    shown = page_files()[0] if files is None else files
    with running(lambda number: web_app(source, names_of(number), tokens, shown, export=export), port) as number:
        yield Served(number, source, known)


def said(port: int, verb: str, path: str, headers: Headers, body: bytes = b"") -> Answer:
    """Send a request with exactly these headers; return the answer."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
    if body or verb in ("POST", "PUT", "PATCH"):
        pairs = [*pairs, ("Content-Length", str(len(body)))]
    lines = [f"{verb} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs), "Connection: close", "", ""]
    return _exchange(port, "\r\n".join(lines).encode("latin-1") + body)


def upgrade(port: int, path: str, headers: Mapping[str, str], verb: str = "GET") -> Answer:
    """Ask for a WebSocket with exactly these headers besides those of the handshake; return the answer."""
    lines = [f"{verb} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
    return _exchange(port, "\r\n".join(lines).encode("latin-1"))


def _exchange(port: int, sent: bytes) -> Answer:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
        got = b""
        try:
            connection.sendall(sent)
            while b"\r\n\r\n" not in got and (piece := connection.recv(65_536)):
                got += piece
            if got.startswith(b"HTTP/1.1 101"):
                return Answer(101, {}, b"")
            while piece := connection.recv(65_536):
                got += piece
        except ConnectionError:  # it was closed while there was something to be read, or to be sent
            pass
    head, _, rest = got.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]) if first else 0, headers, rest)
