"""Hostile pages in a real browser: a rebound name, another site, and the same without a guard, to see them succeed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.screen import Asked
from asynchub.dashboard.web.app import web_app
from asynchub.dashboard.web.guard import ROLE, Guard, names_of
from asynchub.dashboard.web.page_files import PageFile
from asynchub.dashboard.web.source import Source
from asynchub.dashboard.web.steering import Steering
from asynchub.dashboard.web.tokens import Tokens, new_secrets
from asynchub.requests import Request
from tests.dashboard.runs import Point, Writer
from tests.dashboard.web.servers import running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.slow

BROWSER = Path("/usr/bin/chromium")
ATTACKS = """
async ({port, host, run, headers}) => {
  const base = `http://${host}:${port}`;
  const stop = JSON.stringify({run, word: "stop"});
  const tried = {};
  const attempt = async (name, options, path) => {
    try {
      const answer = await fetch(base + path, {...options, signal: AbortSignal.timeout(5000)});
      const text = await answer.text();
      tried[name] = answer.type === "opaque" ? "hidden" : `${answer.status}${text.includes('"run_id"') ? " data" : ""}`;
    } catch (error) { tried[name] = "stopped"; }
  };
  await attempt("read", {headers}, "/api/runs");
  await attempt("read no-cors", {mode: "no-cors"}, "/api/runs");
  await attempt("post", {method: "POST", body: stop, headers: {...headers, "Content-Type": "application/json"}},
                "/api/requests");
  await attempt("plain post", {method: "POST", body: stop}, "/api/requests");
  await attempt("no-cors post", {method: "POST", mode: "no-cors", body: stop}, "/api/requests");
  await attempt("delete", {method: "DELETE", headers}, "/api/requests");
  await attempt("put", {method: "PUT", body: stop, headers}, "/api/requests");
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: base + "/api/requests", enctype: "text/plain", target: "sink"});
  const field = document.createElement("input");
  field.name = stop.slice(0, -1) + ', "id": "';
  field.value = '"}';
  form.append(field);
  const sink = document.createElement("iframe");
  sink.name = "sink";
  document.body.append(sink, form);
  const loaded = new Promise((resolve) => { sink.onload = resolve; setTimeout(resolve, 3000); });
  form.submit();
  await loaded;
  tried.socket = await new Promise((resolve) => {
    const socket = new WebSocket(`ws://${host}:${port}/api/live?ticket=guessed`);
    socket.onopen = () => socket.send('{"rows": true}');
    socket.onmessage = (event) => resolve(String(event.data).includes('"run_id"') ? "data" : "open");
    socket.onerror = () => resolve("refused");
    setTimeout(() => resolve("nothing"), 5000);
  });
  return tried;
}
"""


class Effects:
    """What came through, and what was asked of runs."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.asked: list[Request] = []

    def ask(self, _: Path, request: Request) -> Asked:
        self.asked.append(request)
        return Asked(request.id, "stop", request.author, "", "requested")


class Gate:
    """Before an application: counts what comes to it; without a guard it lets in anybody who asks, to steer."""

    def __init__(self, app: Any, effects: Effects, *, open_to_all: bool) -> None:
        self._app, self._effects, self._open = app, effects, open_to_all

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self._effects.entered.append(f"{scope.get('method', 'WS')} {scope['path']}")
        await self._app({**scope, ROLE: "steer"} if self._open else scope, receive, send)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for which evil.test has become a name of this machine."""
    if not BROWSER.exists():
        pytest.skip(f"there is no {BROWSER}")
    with sync_api.sync_playwright() as playwright:
        names = "--host-resolver-rules=MAP evil.test 127.0.0.1,MAP other.test 127.0.0.1"
        # as browsers are that do not ask yet before a page may reach this machine: the guard must not need that
        older = "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets"
        browser = playwright.chromium.launch(executable_path=str(BROWSER), args=["--no-sandbox", names, older])
        yield browser
        browser.close()


PAGES = {"rebound": ("http://evil.test:{port}/", "evil.test"), "other site": ("http://other.test/", "127.0.0.1")}


def _attacked(browser: Any, where: str, port: int, run: str, headers: dict[str, str]) -> dict[str, str]:
    address, host = PAGES[where]
    address = address.format(port=port)
    page = browser.new_page()
    try:
        page.route(address, lambda route: route.fulfill(body="<!doctype html><body>hostile", content_type="text/html"))
        page.goto(address)
        tried: dict[str, str] = page.evaluate(ATTACKS, {"port": port, "host": host, "run": run, "headers": headers})
        return tried
    finally:
        page.close()


@pytest.mark.parametrize("where", PAGES)
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_hostile_page_has_no_effect_at_all_which_without_the_guard_it_has(
    where: str, guarded: bool, browser: Any, tmp_path: Path
) -> None:
    writer = Writer(tmp_path / "runs" / "run")
    writer.points([Point("loss", 1, 1.0)])
    writer.close()
    effects = Effects()

    def made(port: int) -> Any:
        source = Source(Gallery([tmp_path / "runs"], tmp_path / "cache"), Steering(["stop"]), ask=effects.ask)
        files = {"/": PageFile(b"<!doctype html>page", "text/html")}
        guard = web_app(source, names_of(port), Tokens(new_secrets(), steering=True), files)
        gate = Gate(guard._app, effects, open_to_all=not guarded)
        return Guard(gate, guard._names, guard._tokens, guard._public) if guarded else gate

    with Gallery([tmp_path / "runs"], tmp_path / "cache") as gallery:
        run = gallery.rows()[0].id
    with running(made) as port:
        tried = _attacked(browser, where, port, run, {})
        if guarded:
            tried |= {f"{name}, with a token": one for name, one in _attacked(
                browser, where, port, run, {"Authorization": "Bearer steer-guessed"}
            ).items()}  # fmt: skip
    if guarded:
        assert effects.entered == []
        assert effects.asked == []
        assert not [name for name, outcome in tried.items() if "data" in outcome], tried
        assert tried["socket"] == "refused"
        assert not [name for name, outcome in tried.items() if outcome.startswith("2")], tried
    else:
        assert len(effects.asked) >= 3, tried  # plain, no-cors, and by a form
        assert tried["socket"] == "data"
        assert ("data" in tried["read"]) == (where == "rebound")


def test_the_own_page_reads_and_steers_with_its_token_and_cannot_without(browser: Any, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "runs" / "run")
    writer.points([Point("loss", 1, 1.0)])
    writer.close()
    effects, secrets = Effects(), new_secrets()

    def made(port: int) -> Any:
        source = Source(Gallery([tmp_path / "runs"], tmp_path / "cache"), Steering(["stop"]), ask=effects.ask)
        files = {"/": PageFile(b"<!doctype html><body><script>window.ran = 1</script>page", "text/html")}
        return web_app(source, names_of(port), Tokens(secrets, steering=True), files)

    with running(made) as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/#t={secrets.steer}")
        assert page.evaluate("window.ran") is None  # a script in the page itself is not run
        run_id = page.evaluate(
            "async (token) => (await (await fetch('/api/runs', {headers: {Authorization: `Bearer ${token}`}})).json())"
            ".rows[0].id",
            secrets.view,
        )
        statuses = page.evaluate(
            """async ([run, tokens]) => {
              const found = [];
              for (const token of tokens) {
                const headers = token ? {Authorization: `Bearer ${token}`} : {};
                const body = JSON.stringify({run, word: "stop"});
                found.push((await fetch("/api/requests", {method: "POST", headers, body})).status);
              }
              const headers = {Authorization: `Bearer ${tokens[2]}`};
              const {ticket} = await (await fetch("/api/ticket", {method: "POST", headers})).json();
              found.push(await new Promise((resolve) => {
                const socket = new WebSocket(`ws://${location.host}/api/live?ticket=${ticket}`);
                socket.onopen = () => socket.send('{"rows": true}');
                socket.onmessage = (event) => resolve(JSON.parse(event.data).role);
                socket.onerror = () => resolve("refused");
              }));
              return found;
            }""",
            [run_id, ["", secrets.view, secrets.steer]],
        )
        framed = page.evaluate(
            """() => new Promise((resolve) => {
              const frame = document.createElement("iframe");
              frame.src = "/";
              frame.onload = () => { try { resolve(frame.contentDocument?.body?.innerText ?? ""); }
                                     catch { resolve(""); } };
              document.body.append(frame);
            })"""
        )
        page.close()
    assert statuses == [401, 403, 200, "steer"]
    assert "page" not in framed
    assert len(effects.asked) == 1
