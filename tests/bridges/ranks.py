"""Several ranks of a run, each a process, with a store for them in this one, as torchrun has it.

Processes are forked from a server that has imported torch and asynchub once. They are killed by their pids when the
test is done with them, whatever has become of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch
from torch import distributed
from torch.distributed import TCPStore

__all__ = ("PRELOADED", "Rank", "RankFailed", "Ranks", "ranks", "run_ranks")

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""
PRELOADED = ["torch.distributed", "asynchub.bridges.reducer", "asynchub.bridges.gloo"]
"""What every rank has imported already; more may be added before the first is started."""
_context = multiprocessing.get_context("forkserver")


class RankFailed(Exception):
    """A rank raised, or died."""


class Rank:
    """What runs as one rank, in its process.

    Attributes:
        index: its rank.
        size: how many there are.
    """

    def __init__(self, index: int, size: int, connection: Connection) -> None:
        self.index = index
        self.size = size
        self._connection = connection

    def say(self, said: object) -> None:
        """Send ``said`` to the test."""
        self._connection.send(("said", said))

    def heard(self) -> Any:
        """Wait for what the test tells it."""
        return self._connection.recv()

    def together(self) -> None:
        """Wait for all ranks, in the default group."""
        distributed.barrier()


def _main(connection: Connection, index: int, size: int, port: int, function: Any, arguments: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(index),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        GLOO_SOCKET_IFNAME="lo",
    )
    torch.set_num_threads(1)
    rank = Rank(index, size, connection)
    try:
        distributed.init_process_group("gloo")
        result = function(rank, *arguments)
        connection.send(("result", result))
        with contextlib.suppress(RuntimeError):  # one of them may be dead by now
            distributed.barrier()
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads abort an interpreter that ends under them


class Ranks:
    """The ranks of a run, seen from the test.

    Args:
        size: how many.
        function: what each runs: ``function(rank, *arguments)``, of a module that can be imported.
        arguments: what it is given beside.
        patience: seconds that a rank may take for anything.
    """

    def __init__(
        self, size: int, function: Callable[..., object], *arguments: object, patience: float = PATIENCE
    ) -> None:
        self._patience = patience
        _context.set_forkserver_preload([*PRELOADED])
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._processes: list[ForkServerProcess] = []
        self._connections: list[Connection] = []
        self._killed: set[int] = set()
        for index in range(size):
            ours, theirs = _context.Pipe()
            given = (theirs, index, size, self._store.port, function, arguments)
            process = _context.Process(target=_main, args=given, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def _receive(self, index: int, kind: str) -> Any:
        connection = self._connections[index]
        while True:
            if not connection.poll(self._patience):
                raise RankFailed(f"rank {index} has said nothing for {self._patience} s")
            try:
                got, value = connection.recv()
            except EOFError:
                raise RankFailed(f"rank {index} died") from None
            if got == kind:
                return value
            if got == "failed":
                raise RankFailed(f"rank {index} failed\n{value}")

    def hear(self, index: int) -> Any:
        """Return what a rank says next."""
        return self._receive(index, "said")

    def tell(self, value: object) -> None:
        """Tell all ranks ``value``."""
        for index, connection in enumerate(self._connections):
            if index not in self._killed:
                connection.send(value)

    def results(self) -> list[Any]:
        """Return what the function has returned on each rank that was not killed; what they have said is gone."""
        return [self._receive(index, "result") for index in range(len(self._processes)) if index not in self._killed]

    def signal(self, index: int, number: int) -> None:
        """Send a signal to one rank."""
        pid = self._processes[index].pid
        assert pid is not None
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self._killed.add(index)

    def end(self) -> None:
        """Kill all that are left."""
        for process, connection in zip(self._processes, self._connections, strict=True):
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            process.join(PATIENCE)
            process.close()
            connection.close()


@contextlib.contextmanager
def ranks(
    size: int, function: Callable[..., object], *arguments: object, patience: float = PATIENCE
) -> Iterator[Ranks]:
    """Run ``function(rank, *arguments)`` as each of ``size`` ranks."""
    running = Ranks(size, function, *arguments, patience=patience)
    try:
        yield running
    finally:
        running.end()


def run_ranks(size: int, function: Callable[..., object], *arguments: object, patience: float = PATIENCE) -> list[Any]:
    """Return what ``function(rank, *arguments)`` returns on each of ``size`` ranks."""
    with ranks(size, function, *arguments, patience=patience) as running:
        return running.results()
