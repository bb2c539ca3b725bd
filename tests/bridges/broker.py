"""A real NATS server for a test: on a free port of the loopback, started, killed, frozen and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from asynchub.bridges.broker import BrokerPlan, find_server

START_SECONDS = 20.0


def free_port() -> int:
    """Return a port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker:
    """A NATS server with its store in a folder.

    Args:
        folder: for its store, its configuration and what it logs.
        config: lines of its configuration, beside port and store.
        jetstream: whether it keeps logs.
        plan: to run it by, in place of all this.

    Attributes:
        port: that it listens on, the same after a restart.
        url: to reach it.
    """

    def __init__(
        self, folder: Path, config: str = "", *, jetstream: bool = True, plan: BrokerPlan | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._program = find_server()
        self._process: subprocess.Popen[bytes] | None = None
        if plan is None:
            self.port = free_port()
            self._config = folder / "test.conf"
            store = f'jetstream {{ store_dir: "{folder / "store"}" }}\n' if jetstream else ""
            self._config.write_text(f"listen: 127.0.0.1:{self.port}\n{store}{config}\n", encoding="utf-8")
        else:
            self.port = plan.port
            self._config = plan.folder / "nats.conf"
            plan.write()
        self.url = f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it is there."""
        with open(self._folder / "server.log", "ab") as log:
            command = [self._program, "-c", self._config]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the broker does not start:\n{self.log()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it without a warning, also while it is frozen."""
        if self._process is not None:
            if self._process.poll() is None:
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """Stop it in its tracks; its sockets stay."""
        os.kill(self._pid(), signal.SIGSTOP)
        os.waitid(os.P_PID, self._pid(), os.WSTOPPED)  # its threads go on for a moment

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._pid(), signal.SIGCONT)

    def log(self) -> str:
        """Return what it has logged."""
        return (self._folder / "server.log").read_text(encoding="utf-8", errors="replace")

    def _pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the broker does not run")
        return self._process.pid

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(1)
                return connection.recv(4) == b"INFO"
        except OSError:
            return False
