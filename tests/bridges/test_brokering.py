"""The command ``asynchub broker up``."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asynchub.bridges.broker import plan_broker
from asynchub.brokering import add_broker_commands, run_broker_command
from asynchub.errors import ArgumentError
from tests.bridges.broker import free_port


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_broker_commands(parser.add_subparsers(dest="command"))
    return run_broker_command(parser.parse_args(("broker", "up", *arguments)))


def test_the_configuration_is_printed_whole_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(tmp_path / "broker"), "--port", "1234", "--print-config") == 0
    printed = capsys.readouterr().out
    assert 'listen: "127.0.0.1:1234"' in printed
    assert all(f'user: "{user}"' in printed for user in ("run", "viewer", "controller"))
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_that_is_printed_is_the_one_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_broker(tmp_path / "broker").write()
    assert run(str(tmp_path / "broker"), "--print-config") == 0
    assert capsys.readouterr().out == (tmp_path / "broker" / "nats.conf").read_text()


def test_what_is_asked_wrongly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="--insecure"):
        run(str(tmp_path / "broker"), "--host", "0.0.0.0")
    with pytest.raises(ArgumentError, match="no program"):
        run(str(tmp_path / "broker"), "--port", str(free_port()), "--server", str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_runs_a_broker_until_it_is_interrupted(tmp_path: Path) -> None:
    code = "import sys; from tests.bridges.test_brokering import run; sys.exit(run(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(tmp_path / "broker"), "--port", str(free_port())]
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
