"""What the server answers, and to whom: asked over the network of this machine, of runs with all kinds of damage."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynchub import Journal, MessageHub
from asynchub.dashboard.curves import curves
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import Asked
from asynchub.dashboard.web.page_files import PageFile, page_files
from asynchub.dashboard.web.steering import Steering
from asynchub.dashboard.web.wire import decode
from asynchub.errors import ArgumentError
from asynchub.requests import ParameterChangeRequested, Request, StopRequested
from asynchub.subscribers.remote_control import RemoteControl
from tests.dashboard.runs import Point, Writer
from tests.dashboard.web.servers import Served, said, serving

ODD = ["<img src=x onerror=alert(1)>", "a\x1b[31mb\x00", "\u202eevil", "k" * 10_000, "loss/été", "' \" & %2e%2e/", " "]
NAN = float("nan")


def _finished(folder: Path, points: list[Point], name: str = "hub") -> Writer:
    writer = Writer(folder, bytes([len(folder.name)] * 16), name=name)
    writer.points(points)
    writer.close()
    return writer


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: one that is well, and some that are not."""
    top = tmp_path_factory.mktemp("runs")
    loss = [Point("loss", step, NAN if step in (70, 71) else 1 / (step + 1)) for step in range(300)]
    _finished(top / "good", [*loss, *(Point("val/acc", step, step / 300) for step in range(0, 300, 10))])
    _finished(top / "odd", [Point(key, step, 1.0) for key in ODD for step in range(3)], "<script>alert(1)</script>")
    _finished(top / "many", [Point(f"layer/{number:05d}", 1, 1.0) for number in range(10_000)])
    damaged = _finished(top / "damaged", loss)
    content = bytearray(damaged.path.read_bytes())
    content[200:260] = bytes(60)
    damaged.path.write_bytes(content)
    Writer(top / "nothing").path.write_bytes(b"")
    return top


class Asking:
    """Counts what is asked of runs."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Request]] = []

    def __call__(self, folder: Path, request: Request) -> Asked:
        self.asked.append((folder.name, request))
        return Asked(request.id, "stop", request.author, request.reason, "requested")


@pytest.fixture(scope="module")
def asking() -> Asking:
    """What counts requests to runs."""
    return Asking()


@pytest.fixture(scope="module")
def served(top: Path, asking: Asking, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that lets be asked for a stop and a learning rate."""

    def what_if(runs: Any, rule: str) -> dict[str, Any]:
        return {"rows": [f"{rule} {name} {run.count('loss')}" for name, run in runs.items()], "waiting": 0}

    with serving([top], tmp_path_factory.mktemp("cache"), allow=["stop", "lr"], ask=asking, what_if=what_if) as one:
        yield one


def test_the_list_has_every_run_and_says_what_is_wrong(served: Served) -> None:
    told = served.get("/api/runs")
    assert (told["role"], told["allow"], told["more"], told["problem"]) == ("view", [], 0, "")
    assert set(served.runs) == {"good", "odd", "many", "damaged", "nothing"}
    rows = {row["id"]: row for row in told["rows"]}
    assert rows[served.runs["nothing"]]["problem"]
    assert served.ask("GET", "/api/runs", role="steer").json()["allow"] == ["stop", "set/lr"]
    assert [row["id"] for row in served.get("/api/runs", filter="name~good")["rows"]] == [served.runs["good"]]
    assert served.ask("GET", "/api/runs", filter="name~(").status_code == 400


def test_a_screen_is_told_of_a_run_whatever_its_damage(served: Served) -> None:
    for name, run in served.runs.items():
        screen = served.get("/api/screen", run=run)
        assert screen["row"]["id"] == run
        assert screen["status"]["word"], name
        words = json.dumps(screen).casefold()
        assert ("damaged" in words) == (name == "damaged"), screen
    assert served.get("/api/screen", run=served.runs["many"])["keys"] == 10_000


def test_curves_are_what_curves_says(served: Served, top: Path, tmp_path: Path) -> None:
    run = served.runs["good"]
    head = decode(served.curves(runs=[run], keys=["loss", "val/acc", "none"], buckets=50, window=20))
    with Pyramid(top / "good", tmp_path) as pyramid:
        pyramid.update()
        wanted = curves(pyramid, ["loss", "val/acc", "none"], buckets=50, window=20)
    assert [chart["key"] for chart in head["charts"]] == [curve.key for curve in wanted]
    for chart, curve in zip(head["charts"], wanted, strict=True):
        (series,) = chart["series"]
        np.testing.assert_array_equal(series["columns"]["x"], curve.x)
        np.testing.assert_array_equal(series["columns"]["high"], curve.buckets.max.astype(np.float32))
        assert chart["drawing"]["points"] == curve.points
    assert "2 NaN" in head["charts"][0]["drawing"]["footer"]


def test_of_a_run_that_cannot_be_read_the_others_are_drawn_all_the_same(served: Served) -> None:
    runs = [served.runs["good"], served.runs["nothing"], "gone"]
    (chart,) = decode(served.curves(runs=runs, keys=["loss"]))["charts"]
    assert [one["rows"] for one in chart["series"]] == [300, 0, 0]
    assert "no run 'gone'" in chart["series"][2]["note"]
    assert decode(served.curves(runs=[], keys=["loss"]))["charts"][0]["drawing"]["points"] == 0
    assert decode(served.curves(runs=runs, keys=[]))["charts"] == []


def test_odd_names_come_as_they_are_in_text_that_is_ascii(served: Served) -> None:
    run = served.runs["odd"]
    answer = served.ask("GET", "/api/keys", run=run)
    assert answer.content.isascii()
    assert answer.headers["content-type"] == "application/json"
    assert [row["key"] for row in answer.json()["rows"]] == ODD
    head = decode(served.curves(runs=[run], keys=ODD))
    assert [(chart["key"], chart["series"][0]["rows"]) for chart in head["charts"]] == [(key, 3) for key in ODD]


def test_ten_thousand_keys_come_in_pages(served: Served) -> None:
    run = served.runs["many"]
    page = served.get("/api/keys", run=run, start=9_990, most=5_000)
    assert (page["total"], len(page["rows"])) == (10_000, 10)
    assert len(served.get("/api/keys", run=run, most=5_000)["rows"]) == 1000
    found = served.get("/api/keys", run=run, filter="layer/0123*")
    assert (found["total"], found["rows"][0]["key"]) == (10, "layer/01230")


WRONG = [
    ("GET", "/api/screen", {"run": "gone"}, None, 404, "no run 'gone'"),
    ("GET", "/api/screen", {}, None, 404, "no run ''"),
    ("GET", "/api/keys", {"run": "gone"}, None, 404, "no run"),
    ("GET", "/api/keys", {"run": "good", "start": "-1"}, None, 400, "start must be a whole number"),
    ("GET", "/api/marks", {"run": "good", "most": "x"}, None, 400, "most must be a whole number"),
    ("GET", "/api/nowhere", {}, None, 404, "Not Found"),
    ("GET", "/api/curves", {}, None, 405, "Method Not Allowed"),
    ("GET", "/../../etc/passwd", {}, None, 404, "Not Found"),
    ("GET", "/%2e%2e/app.py", {}, None, 404, "Not Found"),
    ("GET", "/api/export", {"run": "good"}, None, 404, "Not Found"),
    ("POST", "/api/curves", {}, b"", 400, "JSON is wanted"),
    ("POST", "/api/curves", {}, b"[1]", 400, "a JSON object is wanted"),
    ("POST", "/api/curves", {}, {"runs": []}, 400, "keys must be a list"),
    ("POST", "/api/curves", {}, {"runs": ["a"], "keys": ["b"], "buckets": 9000}, 400, "buckets must be"),
    ("POST", "/api/what-if", {}, {"runs": ["good"]}, 400, "a rule, as text"),
    ("POST", "/api/what-if", {}, {"runs": ["gone"], "rule": "x"}, 404, "no run"),
    ("POST", "/api/runs", {}, b"", 405, "Method Not Allowed"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_asked_wrongly_is_answered_in_words(number: int, served: Served) -> None:
    verb, path, query, body, status, words = WRONG[number]
    query = {name: served.runs.get(value, value) for name, value in query.items()}
    if isinstance(body, dict) and "runs" in body:
        body = body | {"runs": [served.runs.get(run, run) for run in body["runs"]]}
    answer = served.ask(verb, path, body, **query)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_rules_are_tried_on_runs(served: Served) -> None:
    answer = served.ask("POST", "/api/what-if", {"runs": [served.runs["good"]], "rule": "Timer"})
    assert answer.json()["rows"] == [f"Timer {served.runs['good']} 300"]


# --- steering


def test_what_is_asked_for_reaches_the_run_with_its_author_and_reason(served: Served, asking: Asking) -> None:
    asking.asked.clear()
    run = served.runs["good"]
    stop = {"run": run, "word": "stop", "reason": "it diverges", "id": "7"}
    answer = served.ask("POST", "/api/requests", stop, role="steer")
    assert (answer.status_code, answer.json()["state"], answer.json()["id"]) == (200, "requested", "7")
    change = {"run": run, "word": "set", "name": "lr", "value": 0.01}
    assert served.ask("POST", "/api/requests", change, role="steer").status_code == 200
    (first, stopping), (second, changing) = asking.asked
    assert first == second == "good"
    assert isinstance(stopping, StopRequested)
    assert (stopping.reason, stopping.id) == ("it diverges", "7")
    assert stopping.author.endswith(", from the page")
    assert isinstance(changing, ParameterChangeRequested)
    assert (changing.name, changing.value) == ("lr", 0.01)
    assert changing.id


REFUSED = [
    ({"word": "checkpoint"}, 400, "does not allow that; it allows stop, set/lr"),
    ({"word": "set", "name": "momentum", "value": 0.1}, 400, "does not allow that"),
    ({"word": "set", "name": "lr", "value": "__import__('os')"}, 400, "set takes a finite number"),
    ({"word": "set", "name": "lr", "value": True}, 400, "set takes a finite number"),
    ({"word": "set", "name": "lr"}, 400, "set takes a finite number"),
    ({"word": "set", "value": 1}, 400, "set takes the name of a parameter"),
    ({"word": "stop", "name": "lr"}, 400, "stop takes no name and no value"),
    ({"word": "eval"}, 400, "one can ask"),
    ({"word": ["stop"]}, 400, "word of a request must be text"),
    ({"word": "stop", "reason": "x" * 1001}, 400, "at most 1000 letters"),
    ({"word": "stop", "author": "root"}, 400, "a request has run, word"),
    ({"word": "stop", "run": "gone"}, 404, "no run 'gone'"),
    ({"word": "stop", "run": "../good"}, 404, "no run"),
    ({}, 400, "one can ask"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_may_not_be_asked_for_is_refused_with_the_reason(number: int, served: Served, asking: Asking) -> None:
    asking.asked.clear()
    fields, status, words = REFUSED[number]
    answer = served.ask("POST", "/api/requests", {"run": served.runs["good"], **fields}, role="steer")
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert asking.asked == []


ORIGINS = {"own": "http://127.0.0.1:{port}", "another port": "http://127.0.0.1:1", "evil": "http://evil.test:{port}"}


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("token", ["none", "wrong", "view", "steer"])
def test_a_stop_takes_effect_only_from_the_own_page_with_the_token_for_it(
    origin: str, token: str, served: Served, asking: Asking
) -> None:
    where = ORIGINS[origin].format(port=served.port)
    headers = {"Host": where.removeprefix("http://"), "Origin": where, "Content-Type": "text/plain"}
    if origin == "another port":
        headers["Host"] = f"127.0.0.1:{served.port}"
    if token != "none":
        headers["Authorization"] = f"Bearer {getattr(served.secrets, token, 'steer-' + 'x' * 43)}"
    body = json.dumps({"run": served.runs["good"], "word": "stop"}).encode()
    for verb in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"):
        asking.asked.clear()
        answer = said(served.port, verb, "/api/requests", headers, body)
        effective = (verb, origin, token) == ("POST", "own", "steer")
        assert len(asking.asked) == effective, answer
        assert answer.status in ((200,) if effective else (401, 403, 405)), answer


@pytest.mark.parametrize(("allow", "role"), [((), "steer"), ((), "view"), (("stop",), "view")])
def test_without_leave_there_is_nothing_to_ask(allow: tuple[str, ...], role: Any, top: Path, tmp_path: Path) -> None:
    counted = Asking()
    with serving([top], tmp_path, allow=allow, ask=counted) as one:
        body = {"run": one.runs["good"], "word": "stop"}
        answer = one.ask("POST", "/api/requests", body, role=role)
        assert answer.status_code == (403 if allow else 404)
        screen = one.ask("GET", "/api/screen", role=role, run=one.runs["good"]).json()
        assert screen["steerable"] == []
        assert ("for looking" if allow else "only shows") in screen["steering"]
    assert counted.asked == []


def test_what_may_be_asked_is_said_in_words_that_are_checked() -> None:
    assert Steering(["stop", "lr", "pause", "set/EarlyStopping.patience", "stop"]).rules == (
        *("stop", "set/lr", "pause", "resume"),
        "set/EarlyStopping.patience",
    )
    for wrong in (["halt"], ["set"], ["stop/x"], ["set/"], [""]):
        with pytest.raises(ArgumentError, match="--allow"):
            Steering(wrong)


def test_a_live_run_is_stopped_from_the_page_once_and_one_that_has_ended_is_not(tmp_path: Path) -> None:
    for name in ("old", "new"):
        hub = MessageHub(name)
        stopped: list[Request] = []
        hub.on_request(StopRequested, stopped.append)
        hub.attach(Journal(tmp_path / "runs" / name / "journal", interval=0.02))
        hub.attach(RemoteControl(tmp_path / "runs" / name, allow=("stop",)))
        with hub, serving([tmp_path / "runs"], tmp_path / "cache", allow=["stop"]) as one:
            hub.update_scalar("loss", 1.0)
            hub.commit()
            while name not in one.runs or not one.get("/api/screen", run=one.runs[name])["row"]["run_id"]:
                one.look()
            body = {"run": one.runs[name], "word": "stop", "reason": "enough", "id": "the-one"}
            deadline = time.monotonic() + 20
            while (answer := one.ask("POST", "/api/requests", body, role="steer")).status_code != 200:
                assert time.monotonic() < deadline, answer.text  # what may be asked for is not yet written down
            assert answer.json()["state"] == "requested"
            for _ in range(2):  # the very same again
                assert one.ask("POST", "/api/requests", body, role="steer").status_code == 200
            if name == "new":
                answer = one.ask("POST", "/api/requests", {**body, "run": one.runs["old"]}, role="steer")
                assert (answer.status_code, "the run has ended" in answer.json()["error"]) == (409, True)
            while not stopped:
                assert time.monotonic() < deadline
                hub.settle()
                time.sleep(0.005)  # a step takes its time
            hub.settle()
        assert [(request.reason, request.id) for request in stopped] == [("enough", "the-one")]


# --- the page


def test_the_files_of_the_page_are_served_to_anybody_and_nothing_else_is(top: Path, tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    dist.mkdir()
    (dist / "index.html").write_text("<!doctype html>page")
    (dist / "app.js").write_text("1")
    (dist / "uPlot.LICENSE.txt").write_text("MIT")
    files, problem = page_files(dist)
    assert problem == ""
    with serving([top], tmp_path / "cache", files=files) as one:
        host = {"Host": f"127.0.0.1:{one.port}"}
        kinds = {}
        for path in ("/", "/index.html", "/app.js", "/uPlot.LICENSE.txt"):
            answer = said(one.port, "GET", path, host)
            assert answer.status == 200
            kinds[path] = answer.headers["content-type"]
            assert answer.headers["cache-control"] == "no-cache"
        assert kinds["/"] == kinds["/index.html"] == "text/html; charset=utf-8"
        assert kinds["/app.js"] == "text/javascript; charset=utf-8"
        assert said(one.port, "HEAD", "/", host).status == 200
        for path in ("/app.css", "/page", "/index.html/", "//index.html"):
            assert said(one.port, "GET", path, host).status == 401


def test_a_page_that_was_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    files, problem = page_files(tmp_path / "none")
    assert "npm ci" in problem
    assert problem.encode() in files["/"].content
    assert isinstance(files["/index.html"], PageFile)


def test_a_page_to_keep_is_a_download_that_runs_nothing_here(top: Path, tmp_path: Path) -> None:
    kept = lambda run, keys: f"{run.row().name} {keys}"  # noqa: E731  # a fact of a line
    with serving([top], tmp_path, export=kept) as one:
        answer = one.ask("GET", "/api/export", run=one.runs["good"], keys=["loss", "val/acc"])
    assert answer.text.endswith("('loss', 'val/acc')")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-security-policy"].startswith("sandbox")


def test_an_empty_folder_is_said_in_words(tmp_path: Path) -> None:
    with serving([tmp_path], tmp_path / "cache") as one:
        told = one.get("/api/runs")
        assert told["rows"] == []
        assert "holds no run yet" in told["problem"]


def test_neither_tokens_nor_tickets_are_ever_logged(
    top: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving([top], tmp_path, allow=["stop"]) as one, one.feed("steer") as feed:
        ticket = feed.request.path.partition("=")[2]
        feed.send("{}")
        one.get("/api/runs")
        one.ask("GET", "/api/nowhere", t=one.secrets.steer)
        said(one.port, "GET", f"/?t={one.secrets.view}", {"Host": "evil.test"})
    err = capfd.readouterr()
    server = [record.getMessage() for record in caplog.records if record.threadName != "MainThread"]
    for secret in (one.secrets.view, one.secrets.steer, ticket):
        assert secret not in err.out + err.err + "".join(server)
