"""The command ``asynchub broker up``."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asynchub.bridges.broker import plan_broker
from asynchub.cli import main
from tests.bridges.broker import free_port


def test_the_configuration_is_printed_whole_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["broker", "up", str(tmp_path / "broker"), "--port", "1234", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert 'listen: "127.0.0.1:1234"' in printed
    assert all(f'user: "{user}"' in printed for user in ("run", "viewer", "controller"))
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_that_is_printed_is_the_one_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_broker(tmp_path / "broker").write()
    assert main(["broker", "up", str(tmp_path / "broker"), "--print-config"]) == 0
    assert capsys.readouterr().out == (tmp_path / "broker" / "nats.conf").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "--insecure"),
        (("--port", "0"), "port"),
        (("--tls-cert", "nowhere.pem"), "both"),
        (("--server", "nowhere/nats-server"), "no program"),
    ],
    ids=["public", "port", "half-of-tls", "server"],
)
def test_what_is_asked_wrongly_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert main(["broker", "up", str(tmp_path / "broker"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_runs_a_broker_until_it_is_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asynchub", "broker", "up", str(tmp_path / "broker"), "--port", str(free_port())]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "a broker runs" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
