"""Does a training run get slower while somebody looks at it, and what does each who looks cost?

A real run: the demo's network on handwritten digits, in torch with one thread, that records four scalars a step into a
journal. ``asynchub serve`` is a process beside it, and the pages are connections in a third one; each asks for the list
of runs, the first screen and four charts of 800 buckets, live. Prints steps a second while nobody, one and twelve look,
and while twelve look at charts that are smoothed, each over another window, so that none can be made for two; the
ratio is the median over the rounds of that to the same round with nobody. Nobody looks twice in each round: the second
ratio is what this machine makes of no difference. Beside it the processor time of a step, on
which what else the machine does weighs less; the server's share of a core, how much of that is one viewer more, its
memory, and what it sends. Not shown: a browser, which draws, on whatever machine it is; a machine with cores to spare,
on which the server takes none from torch; a run with very many scalars.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import torch
from torch import Tensor
from websockets.asyncio.client import connect

from asynchub import Journal, MessageHub
from asynchub.demo import Training
from tests.benchmarks.common import figures, header, interleave, quick, table

ROOT = Path(__file__).parents[2]
KEYS = ("train/loss", "train/accuracy", "train/grad_norm", "train/lr")
BUCKETS = 800
PATIENCE = 60.0
SOME = 12
"""Viewers."""
FIRST_STEPS = 4_000
"""Steps that the run has before anybody looks."""


class Round(NamedTuple):
    """What was measured at a time.

    Attributes:
        rate: steps a second.
        step: ms of processor time that the training thread took for one.
        share: of a core that the server took.
        memory: MiB that the server had.
        sent: kB a second that each viewer got.
    """

    rate: float
    step: float
    share: float
    memory: float
    sent: float


# --- who looks


def look(run: str, smoothing: int) -> str:
    """Return what a page asks for."""
    curves = {"runs": [run], "keys": KEYS, "buckets": BUCKETS, "pixels": BUCKETS, "window": smoothing}
    return json.dumps({"rows": True, "screen": run, "curves": curves, "n": 1})


async def view(address: str, token: str, wanted: str, got: list[int], begun: asyncio.Event) -> None:
    """Look until cancelled; count the bytes that come."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=PATIENCE) as client:
        ticket = (await client.post(f"http://{address}/api/ticket")).json()["ticket"]
    async with connect(f"ws://{address}/api/live?ticket={ticket}", proxy=None, compression=None, max_size=None) as feed:
        await feed.send(wanted)
        async for message in feed:
            got[0] += len(message)
            if isinstance(message, bytes):
                begun.set()


async def look_on(address: str, token: str, connection: Connection) -> None:
    """Have as many viewers as is told, until None is; tell when all of them see curves, and what they got."""
    got = [0]
    while (wanted := await asyncio.to_thread(connection.recv)) is not None:
        begun = [asyncio.Event() for _ in wanted]
        viewers = [
            asyncio.create_task(view(address, token, one, got, event)) for one, event in zip(wanted, begun, strict=True)
        ]
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(event.wait() for event in begun))
        got[0] = 0
        connection.send("they look")
        await asyncio.to_thread(connection.recv)
        connection.send(got[0])
        for one in viewers:
            one.cancel()
        await asyncio.gather(*viewers, return_exceptions=True)


def pages(address: str, token: str, connection: Connection) -> None:
    """Be the process of those who look, which would be on other machines: it takes what is left of this one."""
    os.nice(19)
    asyncio.run(look_on(address, token, connection))


def heard(connection: Connection) -> Any:
    if not connection.poll(PATIENCE):
        raise TimeoutError("the pages do not answer")
    return connection.recv()


# --- what they look at


class Server(NamedTuple):
    """``asynchub serve``.

    Attributes:
        pid: of its process.
        address: host and port.
        token: with which one may look.
    """

    pid: int
    address: str
    token: str

    @property
    def used(self) -> float:
        """Seconds of processor time that it has had."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> float:
        """MiB that it has in memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "asynchub", "serve", folder / "runs", "--cache", folder / "cache", "--port", "0"]
    with subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        try:
            for line in program.stdout or ():
                if line.strip().startswith("to look"):
                    address, _, token = line.split()[-1].removeprefix("http://").partition("/#t=")
                    yield Server(program.pid, address, token)
                    break
            else:
                raise RuntimeError("the server does not begin")
        finally:
            program.kill()


@contextmanager
def looking(server: Server) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=pages, args=(server.address, server.token, theirs), daemon=True)
    process.start()
    try:
        yield ours
        ours.send(None)
        process.join(PATIENCE)
    finally:
        process.kill()
        process.join()


def batches(training: Training) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in itertools.count():
        training.hub.update_info("epoch", epoch)
        yield from training.digits.batches(epoch)


class Run:
    """The run, its server and the pages."""

    def __init__(self, training: Training, server: Server, connection: Connection, seconds: float) -> None:
        self._training, self._server, self._pages, self._seconds = training, server, connection, seconds
        self._batches = batches(training)

    def steps(self, number: int) -> None:
        for images, labels in itertools.islice(self._batches, number):
            self._training.step(images, labels)

    def measured(self, wanted: Sequence[str]) -> Round:
        """Train for a while with some who look."""
        self._pages.send(wanted)
        while not self._pages.poll():  # the run goes on while they come
            self.steps(10)
        heard(self._pages)
        used, began, own, count = self._server.used, time.perf_counter(), time.thread_time(), 0
        while (passed := time.perf_counter() - began) < self._seconds:
            self.steps(10)
            count += 10
        step = (time.thread_time() - own) / count * 1e3
        share, memory = (self._server.used - used) / passed, self._server.memory
        self._pages.send("enough")
        sent = heard(self._pages) / passed / 1e3
        return Round(count / passed, step, share, memory, sent / max(len(wanted), 1))


def first_run(server: Server) -> str:
    """Return the row id of the run."""
    headers = {"Authorization": f"Bearer {server.token}"}
    answer = httpx.get(f"http://{server.address}/api/runs", headers=headers, trust_env=False, timeout=PATIENCE)
    return str(answer.json()["rows"][0]["id"])


def show(found: Mapping[str, Sequence[Round]], some: str) -> None:
    rows = {}
    nobody = next(iter(found.values()))
    for name, rounds in found.items():
        at = Round(*(figures(column).median for column in zip(*rounds, strict=True)))
        ratios = [one.rate / base.rate for one, base in zip(rounds, nobody, strict=True)]
        low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        rows[name] = [
            *(f"{at.rate:.1f}", f"{ratio:.3f}", f"{low:.2f} to {high:.2f}", f"{at.step:.2f}"),
            *(f"{100 * at.share:.1f}", f"{at.memory:.0f}", f"{at.sent:.1f}"),
        ]
    heads = ["steps/s", "ratio", "half of them", "processor, ms a step", "server, % of a core", "MiB", "kB/s each"]
    table("who looks", heads, rows)
    one, many = (figures(each.share for each in found[name]).median for name in ("one", some))
    print(f"\none viewer more: {100 * (many - one) / (SOME - 1):.2f} % of a core")


def main(rough: bool) -> None:
    torch.set_num_threads(1)
    seconds, rounds, first = (0.3, 1, 200) if rough else (1.0, 40, FIRST_STEPS)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        hub = MessageHub("digits")
        hub.attach(Journal(folder / "runs" / "digits" / "journal"))
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        stack.enter_context(hub)
        training = Training(hub, folder, 0)
        for images, labels in itertools.islice(batches(training), first):
            training.step(images, labels)
        training.evaluate()
        hub.commit()
        server = stack.enter_context(served(folder))
        run = first_run(server)
        measuring = Run(training, server, stack.enter_context(looking(server)), seconds)
        some = f"{SOME}"
        who: dict[str, list[str]] = {
            "nobody": [],
            "nobody, once more": [],
            "one": [look(run, 0)],
            some: [look(run, 0)] * SOME,
            f"{SOME}, each smooths differently": [look(run, 10 * number) for number in range(1, SOME + 1)],
        }
        found = interleave({name: partial(measuring.measured, wanted) for name, wanted in who.items()}, rounds)
    show(found, some)


if __name__ == "__main__":
    rough = quick()
    header("torch", "starlette", "uvicorn", "websockets")
    main(rough)
