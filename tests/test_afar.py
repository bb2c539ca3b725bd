"""A run at a broker, from the command line: its events, and what is asked of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from asynchub import Bridge, MessageHub, ParameterChangeRequested, StopRequested
from asynchub.afar import request_of
from asynchub.bridges.memory_broker import MemoryBroker, memory_broker
from asynchub.cli import main

numbers = count()


@pytest.fixture
def broker() -> MemoryBroker:
    return memory_broker(f"afar-{next(numbers)}")


@pytest.fixture
def url(broker: MemoryBroker) -> str:
    return f"memory://{broker.name}"


@pytest.fixture
def hub(url: str, tmp_path: Path) -> Iterator[MessageHub]:
    """A hub that has published, and settles again and again."""
    hub, ended = MessageHub("afar"), threading.Event()
    hub.on_request(ParameterChangeRequested, lambda request: hub.update_info(request.name, request.value))
    bridge = Bridge(hub, url, run="r1", spool=tmp_path / "spool", allow=("stop", "set/lr"), interval=0.02)

    def settle() -> None:
        while not ended.wait(0.005):
            hub.settle()

    with hub:
        for step in range(1, 31):
            hub.update_scalars({"train/loss": 1 / step, "val/loss": 2 / step}, step=step)
        bridge.deliver()
        thread = threading.Thread(target=settle)
        thread.start()
        yield hub
        ended.set()
        thread.join()


def run(*words: str) -> int:
    return main(list(words))


def test_the_newest_events_of_a_run_at_a_broker_are_shown(
    hub: MessageHub, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tail", "r1", "train/*", "--broker", url, "-n", "3", "--json") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["key"], one["step"], one["value"]) for one in shown] == [
        ("train/loss", step, 1 / step) for step in (28, 29, 30)
    ]
    assert run("tail", "r1", "val/loss", "--broker", url, "-n", "1") == 0
    assert capsys.readouterr().out.split()[2:5] == ["30", "val/loss", "0.06667"]


@pytest.mark.parametrize("shown", [0, 30, 1000])
def test_as_many_are_shown_as_were_asked_for(
    hub: MessageHub, url: str, shown: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tail", "r1", "train/*", "--broker", url, "-n", str(shown)) == 0
    assert len(capsys.readouterr().out.splitlines()) == min(shown, 30)


def test_what_is_asked_of_a_run_is_applied_and_said(
    hub: MessageHub, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.step = 30
    assert run("request", "r1", "set", "lr", "0.25", "--broker", url, "--reason", "calm down") == 0
    assert hub.get_info("lr") == 0.25
    assert run("request", "r1", "stop", "--broker", url, "--author", "ada") == 0
    assert capsys.readouterr().out.splitlines() == ["applied at step 30", "applied at step 30"]
    assert hub.stop_requested


def test_what_a_run_does_not_allow_is_refused_with_the_reason(
    hub: MessageHub, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("request", "r1", "set", "momentum", "0.9", "--broker", url) == 1
    assert "does not allow set/momentum" in capsys.readouterr().out


def test_a_broker_that_is_away_is_said(
    hub: MessageHub, broker: MemoryBroker, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.cut()
    assert run("request", "r1", "stop", "--broker", url, "--timeout", "0.3") == 1
    assert capsys.readouterr().err.startswith("asynchub request: ")
    broker.restore()


@pytest.mark.parametrize(
    ("words", "said"),
    [(("set", "lr"), "set takes the name of a parameter and its value"), (("stop", "now"), "stop takes nothing more")],
)
def test_what_is_asked_wrongly_is_said(
    url: str, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("request", "r1", *words, "--broker", url) == 2
    assert said in capsys.readouterr().err


def test_a_value_is_json_or_a_word() -> None:
    values = [request_of("set", ["x", text], "", "") for text in ("0.5", "[1, null]", "high", "true")]
    assert [getattr(one, "value", None) for one in values] == [0.5, [1, None], "high", True]
    assert isinstance(request_of("stop", [], "why", "ada"), StopRequested)
