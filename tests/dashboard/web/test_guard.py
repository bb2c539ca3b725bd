"""Who is let in: asked of a real server, with requests byte by byte; what comes through the guard is counted."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from asynchub.dashboard.web.guard import HEADERS, LIVE_PATH, MOST_BODY, ROLE, Guard, names_of
from asynchub.dashboard.web.http_server import listening, listening_at
from asynchub.dashboard.web.tokens import Tokens, kept_secrets, new_secrets
from asynchub.errors import ArgumentError
from tests.dashboard.web.servers import running, said, upgrade

SECRETS = new_secrets()
VERBS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "STOP")
BEARER = {"Authorization": f"Bearer {SECRETS.steer}"}


class Behind:
    """What is guarded: an application that counts what comes through, and would do anything."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
            return
        self.entered.append(f"{scope.get('method', 'WS')} {scope['path']} {scope[ROLE]}")
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "secret"})
            await receive()
            return
        self.bodies.append((await receive())["body"])
        answer = JSONResponse({"secret": True}, headers={"Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*"})
        await answer(scope, receive, send)


class Guarded:
    """A server, and what came through its guard."""

    def __init__(self, port: int, behind: Behind, tokens: Tokens) -> None:
        self.port, self.behind, self.tokens = port, behind, tokens
        self.host = {"Host": f"127.0.0.1:{port}"}

    def ticket(self) -> str:
        """Return a path to the live feed that lets in."""
        return f"{LIVE_PATH}?ticket={self.tokens.new_ticket('view')}"


@pytest.fixture(scope="module")
def _server() -> Iterator[tuple[int, Behind, Tokens]]:
    behind, tokens = Behind(), Tokens(SECRETS, steering=True)
    with running(lambda port: Guard(behind, names_of(port, ["login:443"]), tokens, {"/", "/app.js"})) as port:
        yield port, behind, tokens


@pytest.fixture
def guarded(_server: tuple[int, Behind, Tokens]) -> Guarded:
    """A guarded server through which nothing came yet."""
    port, behind, tokens = _server
    behind.entered.clear()
    behind.bodies.clear()
    return Guarded(port, behind, tokens)


def test_who_has_the_token_and_the_right_names_is_let_in(guarded: Guarded) -> None:
    for name in ("127.0.0.1", "localhost", "[::1]"):
        host = f"{name}:{guarded.port}"
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin", **BEARER}
        assert said(guarded.port, "POST", "/api/x", headers, b"{}").status == 200
        assert upgrade(guarded.port, guarded.ticket(), {"Host": host, "Origin": f"http://{host}"}).status == 101
    assert said(guarded.port, "GET", "/api/x", {"Host": "login", "Origin": "https://login", **BEARER}).status == 200
    assert said(guarded.port, "GET", "/api/x", {**guarded.host, "Sec-Fetch-Site": "none", **BEARER}).status == 200
    assert guarded.behind.entered == ["POST /api/x steer", "WS /api/live view"] * 3 + ["GET /api/x steer"] * 2
    assert guarded.behind.bodies[:3] == [b"{}"] * 3


FOREIGN = {
    "another name": {"Host": "evil.test:{port}"},
    "another name, and its origin": {"Host": "evil.test:{port}", "Origin": "http://evil.test:{port}"},
    "a name that ends in ours": {"Host": "evil.localhost:{port}"},
    "no port": {"Host": "127.0.0.1"},
    "a wrong port": {"Host": "127.0.0.1:1"},
    "a dot at the end": {"Host": "localhost.:{port}"},
    "another spelling of the address": {"Host": "127.1:{port}"},
    "an address that is every address": {"Host": "0.0.0.0:{port}"},
    "a user in the name": {"Host": "127.0.0.1:{port}@evil.test"},
    "an empty name": {"Host": ""},
    "origin of another port": {"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:1"},
    "origin null": {"Host": "127.0.0.1:{port}", "Origin": "null"},
    "origin of a file": {"Host": "127.0.0.1:{port}", "Origin": "file://"},
    "origin elsewhere": {"Host": "127.0.0.1:{port}", "Origin": "https://evil.test"},
    "origin that begins as ours": {"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:{port}.evil.test"},
    "empty origin": {"Host": "127.0.0.1:{port}", "Origin": ""},
    "same site, another port": {"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "same-site"},
    "another site": {"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"},
    "a site of no known kind": {"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "SAME-ORIGIN, none"},
}


@pytest.mark.parametrize("who", FOREIGN)
def test_who_is_foreign_is_turned_away_with_every_verb_even_with_the_token(who: str, guarded: Guarded) -> None:
    headers = {name: value.format(port=guarded.port) for name, value in FOREIGN[who].items()}
    for verb, path in itertools.product(VERBS, ("/", "/api/requests", "/nowhere")):
        answer = said(guarded.port, verb, path, {**headers, **BEARER})
        assert answer.status == 403, (verb, path)
        assert b"secret" not in answer.body
    assert upgrade(guarded.port, guarded.ticket(), headers).status == 403
    assert guarded.behind.entered == []


@pytest.mark.parametrize("twice", ["Host", "Origin", "Sec-Fetch-Site", "Authorization"])
def test_what_is_said_twice_is_turned_away(twice: str, guarded: Guarded) -> None:
    host = f"127.0.0.1:{guarded.port}"
    good = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "none", **BEARER}
    answer = said(guarded.port, "GET", "/api/x", [*good.items(), (twice, good[twice])])
    assert answer.status in (400, 401, 403)
    assert guarded.behind.entered == []


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("GET", "HEAD", "POST")])
def test_other_verbs_are_turned_away_before_any_route(verb: str, guarded: Guarded) -> None:
    for path in ("/", "/api/requests"):
        assert said(guarded.port, verb, path, {**guarded.host, **BEARER}).status == 403
    assert guarded.behind.entered == []


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {SECRETS.steer}", SECRETS.steer),
        *(f"Bearer {SECRETS.steer}x", f"Bearer {SECRETS.steer[:-1]}", f"Bearer {SECRETS.steer} ", "Bearer \xff"),
        *(f"Bearer {SECRETS.view},{SECRETS.steer}", f"Bearer  {SECRETS.view}"),
    ],
    ids=range(13),
)
def test_without_a_token_nothing_but_the_page_is_had(authorization: str | None, guarded: Guarded) -> None:
    headers = guarded.host | ({} if authorization is None else {"Authorization": authorization})
    paths = ("/api/runs", "/api", "/API/runs", "//api/runs", "/x/../api/runs", "/%61pi/runs", "/app.js/", "/index.html")
    allowed = authorization == f"Bearer {SECRETS.steer} "  # a blank at the end of a header does not count in HTTP
    for verb, path in itertools.product(("GET", "POST", "HEAD"), paths):
        answer = said(guarded.port, verb, path, headers)
        assert answer.status == (200 if allowed else 401), (verb, path)
    assert bool(guarded.behind.entered) == allowed
    guarded.behind.entered.clear()
    assert said(guarded.port, "GET", "/app.js", headers).status == 200
    assert said(guarded.port, "POST", "/app.js", headers).status == (200 if allowed else 401)
    assert "GET /app.js None" in guarded.behind.entered


def test_a_token_in_the_address_or_in_a_cookie_is_none(guarded: Guarded) -> None:
    for path in (f"/api/x?token={SECRETS.steer}", f"/api/x?t={SECRETS.view}", f"/api/{SECRETS.view}"):
        headers = {**guarded.host, "Cookie": f"token={SECRETS.steer}; t={SECRETS.view}"}
        assert said(guarded.port, "GET", path, headers).status == 401
    assert guarded.behind.entered == []


def test_a_ticket_lets_in_once_to_the_live_feed_only(guarded: Guarded) -> None:
    path = guarded.ticket()
    assert upgrade(guarded.port, path.replace(LIVE_PATH, "/api/other"), guarded.host).status == 403
    assert upgrade(guarded.port, path, guarded.host).status == 101
    assert upgrade(guarded.port, path, guarded.host).status == 403
    wrong = ("", "?ticket=", "?ticket=wrong", f"?ticket={SECRETS.steer}", f"?token={SECRETS.steer}")
    doubled = f"{guarded.ticket()}&{guarded.ticket().partition('?')[2]}"
    for path in (*(LIVE_PATH + query for query in wrong), doubled):
        assert upgrade(guarded.port, path, {**guarded.host, **BEARER}).status == 403
    for verb in ("POST", "PUT", "DELETE"):
        assert upgrade(guarded.port, guarded.ticket(), guarded.host, verb).status in (400, 403, 405)
    assert guarded.behind.entered == ["WS /api/live view"]


def test_a_ticket_is_good_for_ten_seconds() -> None:
    now = 100.0
    tokens = Tokens(SECRETS, steering=True, clock=lambda: now)
    early, late = tokens.new_ticket("steer"), tokens.new_ticket("view")
    now = 109.9
    assert tokens.use(early) == "steer"
    assert tokens.use(early) is None
    now = 110.0
    assert tokens.use(late) is None
    kept = [tokens.new_ticket("view") for _ in range(1100)]
    assert [tokens.use(ticket) for ticket in (kept[0], kept[75], kept[76], kept[-1])] == [None, None, "view", "view"]


def test_the_two_tokens_have_two_roles_and_nothing_to_steer_makes_both_of_them_look() -> None:
    for steering, role in ((True, "steer"), (False, "view")):
        tokens = Tokens(SECRETS, steering=steering)
        assert tokens.role(SECRETS.view) == "view"
        assert tokens.role(SECRETS.steer) == role
        assert [tokens.role(wrong) for wrong in ("", "view-", "\ud800", SECRETS.view[5:])] == [None] * 4
    made = {token for _ in range(100) for token in new_secrets()}
    assert len(made) == 200
    assert min(map(len, made)) >= 43 + len("view-")  # 32 bytes in base64


def test_every_answer_forbids_to_be_framed_shared_sniffed_or_kept(guarded: Guarded) -> None:
    answers = [
        said(guarded.port, "GET", "/api/x", {**guarded.host, **BEARER}),
        said(guarded.port, "GET", "/", guarded.host),
        said(guarded.port, "GET", "/api/x", guarded.host),
        said(guarded.port, "GET", "/", {"Host": "evil.test"}),
        said(guarded.port, "OPTIONS", "/api/x", {**guarded.host, "Origin": f"http://127.0.0.1:{guarded.port}"}),
    ]
    assert [answer.status for answer in answers] == [200, 200, 401, 403, 403]
    for answer in answers:
        assert HEADERS.items() <= answer.headers.items()
        assert not [name for name in answer.headers if name.startswith(("access-control", "set-cookie", "server"))]
    assert "frame-ancestors 'none'" in HEADERS["content-security-policy"]


def test_what_is_too_long_is_refused_however_it_is_sent(guarded: Guarded) -> None:
    headers = {**guarded.host, **BEARER}
    assert said(guarded.port, "POST", "/api/x", headers, b"a" * MOST_BODY).status == 200
    assert guarded.behind.bodies == [b"a" * MOST_BODY]
    assert said(guarded.port, "POST", "/api/x", headers, b"a" * (MOST_BODY + 1)).status == 413
    chunk = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
    head = f"POST /api/x HTTP/1.1\r\n{_lines(headers)}Transfer-Encoding: chunked\r\n\r\n"
    assert _raw(guarded.port, head.encode() + chunk * 3 + b"0\r\n\r\n").startswith(b"HTTP/1.1 413")
    long = said(guarded.port, "GET", "/api/x", {**headers, "X": "a" * 100_000})
    assert long.status in (0, 400, 403)  # as it comes in pieces, or at once; 0: it has hung up before the end
    assert len(guarded.behind.bodies) == 1


def _lines(headers: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def _raw(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        got = connection.recv(65_536)
        connection.shutdown(socket.SHUT_WR)
        return got


def test_who_is_slow_is_not_waited_for(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.dashboard.web.http_server.IDLE_SECONDS", 0.2)
    monkeypatch.setattr("asynchub.dashboard.web.guard.BODY_SECONDS", 0.2)
    head = f"POST /api/x HTTP/1.1\r\n{_lines(guarded.host | BEARER)}Content-Length: 9\r\n\r\n"
    began = time.monotonic()
    for sent in (b"", b"GET / HT", head.encode()[:-4]):
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as connection:
            connection.sendall(sent)
            assert connection.recv(100) == b""
    assert _raw(guarded.port, head.encode() + b"half").startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 10
    assert guarded.behind.entered == []


def test_there_are_64_live_feeds_at_most(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.dashboard.web.guard.MOST_SOCKETS", 3)
    url = f"ws://127.0.0.1:{guarded.port}"
    with ExitStack() as open_feeds:
        feeds = [open_feeds.enter_context(connect(url + guarded.ticket())) for _ in range(3)]
        assert [feed.recv(10) for feed in feeds] == ["secret"] * 3
        with pytest.raises(InvalidStatus) as refused, connect(url + guarded.ticket()):
            pytest.fail("it is the fourth")
        assert refused.value.response.status_code == 403
    deadline = time.monotonic() + 10
    while upgrade(guarded.port, guarded.ticket(), guarded.host).status != 101:  # there is room again
        assert time.monotonic() < deadline


def test_further_names_are_allowed_letter_for_letter() -> None:
    names = names_of(6116, ["Login.Example", "proxy:443", "[2001:db8::1]:80", "box:99"])
    assert {b"login.example:6116", b"proxy:443", b"proxy", b"[2001:db8::1]:80", b"box:99"} <= names.hosts
    assert {b"https://proxy", b"http://login.example:6116", b"https://box:99"} <= names.origins
    assert b"login.example" not in names.hosts
    for wrong in ("", ":80", "*", "a b", "a/b", "a:0", "a:70000", "a:b", "http://a", "a,b", "a\r\nb", "ä"):
        with pytest.raises(ArgumentError, match="--allow-host takes a name"):
            names_of(6116, [wrong])


def test_tokens_are_kept_in_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    made = kept_secrets(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept_secrets(path) == made
    path.chmod(0o640)
    with pytest.raises(ArgumentError, match="others can read or change the tokens"):
        kept_secrets(path)
    path.chmod(0o600)
    for text in ("", "view-short\nsteer-short\n", "\n".join(reversed(made)), f"{made.view}\n{made.view}\n", "\x00ä"):
        path.write_text(text)
        with pytest.raises(ArgumentError, match="does not hold two tokens"):
            kept_secrets(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="link"):
        kept_secrets(tmp_path / "link")


def test_a_port_that_is_taken_is_said_or_the_next_one_is_used() -> None:
    with listening("127.0.0.1", 0, or_next=False) as first:
        port = first.getsockname()[1]
        with pytest.raises(ArgumentError, match=f"port {port} is taken at 127.0.0.1"):
            listening("127.0.0.1", port, or_next=False)
        with listening("127.0.0.1", port, or_next=True) as second:
            assert port < second.getsockname()[1] < port + 100
    with pytest.raises(ArgumentError, match=r"cannot listen on '192\.0\.2\.1'"):
        listening("192.0.2.1", 0, or_next=False)


def test_a_socket_in_the_file_system_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening_at(path):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ArgumentError, match="a server listens at"):
            listening_at(path)
    with listening_at(path):  # what a server that was killed has left is taken away
        pass
    path.unlink()
    path.write_text("mine")
    with pytest.raises(ArgumentError, match="is no socket"):
        listening_at(path)
    assert path.read_text() == "mine"


def test_an_error_is_said_in_words(guarded: Guarded) -> None:
    wrong_port = said(guarded.port, "GET", "/", {"Host": "127.0.0.1:1"})
    assert "--allow-host" in json.loads(wrong_port.body)["error"]
    assert "#t=" in json.loads(said(guarded.port, "GET", "/api/runs", guarded.host).body)["error"]
    linked = said(guarded.port, "GET", "/", {**guarded.host, "Sec-Fetch-Site": "cross-site"})
    assert "address bar" in json.loads(linked.body)["error"]
