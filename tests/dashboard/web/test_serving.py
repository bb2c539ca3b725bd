"""``asynchub serve`` as people start it: what it says, whom it refuses, how it ends, and runs that are elsewhere."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from asynchub import MessageHub
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.view import RunView
from asynchub.dashboard.web.remote_runs import FOLDER, HELD, following
from asynchub.dashboard.web.serving import Serving, serve
from asynchub.dashboard.web.source import Source
from asynchub.dashboard.web.steering import Steering
from asynchub.errors import ArgumentError
from asynchub.requests import StopRequested
from tests.bridges.places import Place, bridged
from tests.dashboard.runs import Point, Writer
from tests.waiting import until

WAIT = 30.0
PROGRAM = """
import argparse, sys
from asynchub.cli_looking import add_looking_commands, serve
parser = argparse.ArgumentParser()
add_looking_commands(parser.add_subparsers(dest="command"))
sys.exit(serve(parser.parse_args(["serve", *sys.argv[1:]])))
"""


@contextmanager
def _started(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start the command; yield it and the lines that it says first."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        try:
            assert program.stdout is not None
            lines: list[str] = []
            for line in program.stdout:
                lines.append(line.rstrip())
                if line.startswith("Ctrl-C"):
                    break
            yield program, lines
        finally:
            program.kill()


class OneOnly:
    """One run, for a source."""

    def __init__(self, view: RunView) -> None:
        self.view = view

    def run(self, _: str) -> RunView:
        """Return it."""
        return self.view


def _run(folder: Path) -> None:
    writer = Writer(folder)
    writer.points([Point("loss", 1, 0.5)])
    writer.close()


def _found(pattern: str, lines: list[str]) -> str:
    found = re.search(pattern, "\n".join(lines))
    assert found is not None, lines
    return found[1]


@pytest.mark.parametrize("sign", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_says_where_it_is_answers_who_has_the_token_and_ends_by_a_signal(
    sign: signal.Signals, tmp_path: Path
) -> None:
    _run(tmp_path / "run")
    with _started(tmp_path, "--cache", tmp_path / "cache", "--allow", "stop,lr", "--port", 0) as (program, lines):
        assert lines[0] == f"asynchub serves {tmp_path}: 1 run"
        port = int(_found(r"127\.0\.0\.1:(\d+)/#t=view-", lines))
        tokens = [_found(rf"#t=({role}-[\w-]+)", lines) for role in ("view", "steer")]
        assert f"ssh -L {port}:127.0.0.1:{port} " in "\n".join(lines)
        assert "allowed: stop, set/lr" in "\n".join(lines)
        for token, role in zip(tokens, ("view", "steer"), strict=True):
            headers = {"Authorization": f"Bearer {token}"}
            answer = httpx.get(f"http://localhost:{port}/api/runs", headers=headers, trust_env=False, timeout=WAIT)
            assert (answer.status_code, answer.json()["role"]) == (200, role)
            assert len(answer.json()["rows"]) == 1
        assert os.getpriority(os.PRIO_PROCESS, program.pid) == 19  # a training beside it comes first
        program.send_signal(sign)
        assert program.wait(WAIT) == 0
        assert program.stdout is not None
        assert program.stdout.read() == "ended\n"


@pytest.mark.slow
def test_with_a_token_file_nothing_secret_is_said_and_the_tokens_stay(tmp_path: Path) -> None:
    _run(tmp_path / "run")
    told = []
    for _ in range(2):
        arguments = (tmp_path, "--cache", tmp_path / "cache", "--token-file", tmp_path / "tokens", "--port", 0)
        with _started(*arguments) as (program, lines):
            view, steer = (tmp_path / "tokens").read_text().split()
            said = "\n".join(lines)
            assert view not in said
            assert steer not in said
            port = int(_found(r"127\.0\.0\.1:(\d+)/#t=TOKEN", lines))
            told.append(view)
            headers = {"Authorization": f"Bearer {view}"}
            assert httpx.get(f"http://127.0.0.1:{port}/api/runs", headers=headers, trust_env=False).status_code == 200
            program.send_signal(signal.SIGINT)
            assert program.wait(WAIT) == 0
    assert told[0] == told[1]


@pytest.mark.slow
def test_a_socket_in_the_file_system_is_answered_and_removed(tmp_path: Path) -> None:
    _run(tmp_path / "run")
    path = tmp_path / "socket"
    with _started(tmp_path, "--cache", tmp_path / "cache", "--uds", path) as (program, lines):
        token = _found(r"#t=(view-[\w-]+)", lines)
        assert f"ssh -L 6116:{path} HOST" in "\n".join(lines)
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, headers={"Authorization": f"Bearer {token}"}) as client:
            for host in ("localhost", "127.0.0.1:6116"):
                assert client.get(f"http://{host}/api/runs").status_code == 200
            assert client.get("http://evil.test/api/runs").status_code == 403
        program.send_signal(signal.SIGTERM)
        assert program.wait(WAIT) == 0
    assert not path.exists()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "give the folder of a run"),
    ({"folders": (Path("none"),)}, "there is no folder 'none'"),
    ({"host": "0.0.0.0"}, "other machines could reach the server, without TLS"),
    ({"host": "192.0.2.7", "uds": Path("x")}, "--uds stands for --host"),
    ({"host": "::"}, "other machines could reach the server"),
    ({"host": "localhost.evil.test"}, "other machines could reach the server"),
    ({"uds": Path("x"), "open_browser": True}, "no browser can open it"),
    ({"port": 70_000}, "a port is a number"),
    ({"broker": "nats://localhost"}, "--broker takes the names of runs"),
    ({"runs": ("r1",)}, "--run takes a --broker"),
    ({"allow": ("everything",)}, "--allow: allow takes"),
    ({"allow_hosts": ("a b",)}, "--allow-host takes a name"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_cannot_be_served_safely_is_refused_with_the_reason(number: int, tmp_path: Path) -> None:
    fields, words = REFUSED[number]
    defaults = {"folders": (tmp_path,), "port": 0} if fields else {}
    with pytest.raises(ArgumentError, match=words):
        serve(
            Serving(**{**defaults, **{k: tuple(map(Path, v)) if k == "folders" else v for k, v in fields.items()}}),
            print,
        )


def test_a_port_that_was_asked_for_and_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ArgumentError, match=f"port {port} is taken"):
            serve(Serving((tmp_path,), port=port), print)


def test_a_run_at_a_broker_is_looked_at_and_asked_like_any_other(tmp_path: Path) -> None:
    place = Place()
    hub = MessageHub("far")
    stopped: list[StopRequested] = []
    hub.on_request(StopRequested, stopped.append)
    left = tmp_path / "cache" / FOLDER / "left"
    (left / "run" / "journal").mkdir(parents=True)
    (left / HELD).write_bytes(b"process 999999\n")  # of a viewer that was killed
    bridged(place, hub=hub, allow=("stop",))
    with hub:
        for hub.step in range(1, 40):
            hub.update_scalar("loss", 1 / hub.step)
        with following(place.url, [place.run], tmp_path / "cache", "a viewer") as remote:
            assert not left.exists()
            (folder,) = remote.hubs
            assert folder == remote.folder / place.run.replace(" ", "_")
            with Gallery([remote.folder], tmp_path / "cache") as gallery:
                (row,) = gallery.rows()
                assert gallery.run(row.id).pyramid.folder == folder  # by which it is known whom to ask
            with RunView(folder, tmp_path / "cache") as view:
                until(lambda: not view.update() and view.pyramid.count("loss") == 39)
                asked = remote.ask(folder, StopRequested(reason="enough", id="far-1"))
                assert (asked.state, asked.what, asked.who, asked.id) == ("requested", "stop", "a viewer", "far-1")
                until(lambda: hub.settle() or stopped)
                assert [(one.reason, one.author, one.id) for one in stopped] == [("enough", "a viewer", "far-1")]
                source = Source(OneOnly(view), Steering(["stop", "lr"]), remote=remote.hubs)
                screen = source.screen("it", "steer")
                assert [(one["word"], one["name"]) for one in screen["steerable"]] == [("stop", ""), ("set", "lr")]
                assert "through the broker" in screen["steering"]
                assert source.screen("it", "view")["steerable"] == ()
                with pytest.raises(LookupError, match="no run at the broker"):
                    remote.ask(tmp_path, StopRequested())
        assert not remote.folder.exists()
