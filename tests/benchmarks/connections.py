"""What do thousands of ranks, each with a connection and a frame a second, take of one broker?

Each connection is a plain TCP socket that speaks as much of the protocol of NATS as a bridge does: it sends a frame
with 50 scalars and a message id, and waits for the broker to have it in its file. One process, on the same machine,
drives them all. Prints what the broker takes of a core and of memory, how long it takes to say that it has a frame, and
whether all are stored. ``--connections 9900 --seconds 20`` for more. Not shown: a real network, TLS, a cluster of
brokers, the bridges' own work, readers.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from asynchub.bridges.broker import find_server, server_version
from asynchub.bridges.frames import EVENTS, Frame, encode_frame
from asynchub.bridges.nats import NatsTransport
from asynchub.bridges.packing import Packer
from asynchub.bridges.subjects import Subjects
from asynchub.events import ScalarUpdated
from tests.benchmarks.common import figures, header, table
from tests.bridges.broker import Broker

KEYS = 50
RUN = "many"
AT_ONCE = 200
"""Connections that are made at the same time."""
TICK = 0.005
PATIENCE = 60.0
SPARE_FILES = 200
"""That a process has open beside its connections."""


class Measured(NamedTuple):
    """What came of it.

    Attributes:
        connections: how many there were.
        sent: frames that were sent.
        stored: frames that are in the log.
        refused: frames that the broker did not take.
        frame: bytes of a frame.
        broker: part of a core that the broker took while they were sent.
        clients: part of a core that all the connections took.
        memory: bytes of memory that the broker has.
        on_disk: bytes that a frame takes in the broker's files.
        median: seconds until the broker has a frame, in half of the cases at most.
        p99: in 99 % of the cases.
        late: seconds by which the last frame was sent too late.
    """

    connections: int
    sent: int
    stored: int
    refused: int
    frame: float
    broker: float
    clients: float
    memory: int
    on_disk: float
    median: float
    p99: float
    late: float


class Rank(asyncio.Protocol):
    """A connection of one rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent: list[float] = []
        self.took: list[float] = []
        self.refused = 0
        self.transport: asyncio.Transport
        self._data = b""
        self._subject = Subjects(RUN).events(rank, 1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of TCP

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionResetError("the broker has closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n")) >= 0:
            line = self._data[:end]
            rest = end + 2
            if line.startswith(b"MSG"):
                size = int(line.rpartition(b" ")[2])
                if len(self._data) < rest + size + 2:
                    return
                self._answered(self._data[rest : rest + size])
                rest += size + 2
            elif line.startswith(b"INFO"):
                connect = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"lang":"raw","protocol":1}\r\n'
                self.transport.write(connect + b"SUB _INBOX.r%d.* 1\r\nPING\r\n" % self.rank)
            elif line == b"PING":
                self.transport.write(b"PONG\r\n")
            elif line == b"PONG" and not self.ready.done():
                self.ready.set_result(None)
            elif line.startswith(b"-ERR"):
                self.refused += 1
            self._data = self._data[rest:]

    def send(self, number: int, data: bytes) -> None:
        """Send a frame, and ask for an answer."""
        head = b"NATS/1.0\r\nNats-Msg-Id: %d/1/%d\r\n\r\n" % (self.rank, number)
        line = f"HPUB {self._subject} _INBOX.r{self.rank}.{number} {len(head)} {len(head) + len(data)}\r\n"
        self.sent.append(time.perf_counter())
        self.transport.write(line.encode() + head + data + b"\r\n")

    def _answered(self, data: bytes) -> None:
        self.took.append(time.perf_counter() - self.sent[len(self.took)])
        self.refused += b'"error"' in data


def made_frames(run: str, ranks: Sequence[int], numbers: Iterable[int]) -> Iterator[list[bytes]]:
    """Yield the frames of all of some ranks, one second after the other; all of them are of epoch 1."""
    packer = Packer("connections")
    for number in numbers:
        first = (number - 1) * KEYS
        events = [
            ScalarUpdated(seq=first + key + 1, time=1.7e9 + number, step=number, key=f"train/key-{key}", value=key / 7)
            for key in range(KEYS)
        ]
        frame = Frame(
            kind=EVENTS,
            run=run,
            run_id="0" * 32,
            rank=0,
            world=max(ranks) + 1,
            epoch=1,
            number=number,
            first=number,
            before=first,
            size=KEYS,
            left_out=0,
            after_seq=first,
            upto_seq=first + KEYS,
            time=1.7e9 + number,
            step=number,
            batch=packer.pack(events),
        )
        yield [encode_frame(frame._replace(rank=rank)) for rank in ranks]


async def drive(broker: Broker, connections: int, seconds: int) -> Measured:
    """Connect, send, and measure."""
    loop = asyncio.get_running_loop()
    subjects = Subjects(RUN)
    asking = NatsTransport(subjects, broker.url)
    await asking.connect(PATIENCE)
    await asking.open_log(PATIENCE)
    frames = list(made_frames(RUN, range(connections), range(1, seconds + 1)))
    ranks: list[Rank] = []
    for start in range(0, connections, AT_ONCE):
        some = [
            loop.create_connection(lambda rank=rank: Rank(rank), "127.0.0.1", broker.port)  # type: ignore[misc]
            for rank in range(start, min(start + AT_ONCE, connections))
        ]
        ranks += [rank for _, rank in await asyncio.gather(*some)]
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(rank.ready for rank in ranks[start:]))
    server, own = psutil.Process(broker._pid()), psutil.Process()
    cpu = [sum(process.cpu_times()[:2]) for process in (server, own)]
    begun = time.perf_counter()
    late = 0.0
    sent = 0
    while sent < connections * seconds:
        due = min(int((time.perf_counter() - begun) * connections), connections * seconds)
        for index in range(sent, due):
            second, rank = divmod(index, connections)
            ranks[rank].send(second + 1, frames[second][rank])
        if due > sent:
            late = max(late, time.perf_counter() - begun - sent / connections)
        sent = due
        await asyncio.sleep(TICK)
    deadline = time.monotonic() + PATIENCE
    while sum(len(rank.took) for rank in ranks) < sent and time.monotonic() < deadline:
        await asyncio.sleep(TICK)
    took = time.perf_counter() - begun
    used = [sum(process.cpu_times()[:2]) - before for process, before in zip((server, own), cpu, strict=True)]
    stored = len(await asking.subjects(subjects.events(), PATIENCE)), await asking.last_position(PATIENCE)
    answers = figures(one for rank in ranks for one in rank.took)
    files = sum(path.stat().st_size for path in broker._folder.rglob("*.blk"))
    measured = Measured(
        connections=stored[0],
        sent=sent,
        stored=stored[1],
        refused=sum(rank.refused for rank in ranks),
        frame=sum(map(len, frames[-1])) / connections,
        broker=used[0] / took,
        clients=used[1] / took,
        memory=server.memory_info().rss,
        on_disk=files / max(stored[1], 1),
        median=answers.median,
        p99=answers.p99,
        late=late,
    )
    for rank in ranks:
        rank.transport.abort()
    await asking.close(PATIENCE)
    return measured


def measure(connections: int, seconds: int, folder: Path) -> Measured:
    """Run a broker, and measure it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and connections + SPARE_FILES > hard:
        raise SystemExit(f"{connections} connections need {connections + SPARE_FILES} open files, {hard} are allowed")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], connections + SPARE_FILES), hard))
    broker = Broker(folder)
    try:
        broker.start()
        return asyncio.run(drive(broker, connections, seconds))
    finally:
        broker.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds; the figures are rough")
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--seconds", type=int, default=10)
    given = parser.parse_args()
    connections, seconds = (200, 2) if given.quick else (given.connections, given.seconds)
    header("nats-py")
    print("nats-server", ".".join(map(str, server_version(find_server()))))
    with tempfile.TemporaryDirectory() as name:
        found = measure(connections, seconds, Path(name))
    rows = {
        "frames": [f"{found.sent:,} sent, {found.stored:,} stored, {found.refused} refused"],
        "a frame": [f"{found.frame:,.0f} bytes, {found.on_disk:,.0f} in the broker's files"],
        "the broker": [f"{found.broker:.0%} of a core, {found.memory / 2**20:,.0f} MiB of memory"],
        "all that is sent": [
            f"{found.sent / seconds:,.0f} frames/s, {found.frame * found.sent / seconds / 1e6:.1f} MB/s"
        ],
        "until the broker has a frame": [f"{found.median * 1e3:.1f} ms, p99 {found.p99 * 1e3:.1f} ms"],
        "the connections' own side": [f"{found.clients:.0%} of a core, at most {found.late * 1e3:.0f} ms late"],
    }
    table(f"{found.connections:,} connections, {seconds} s", [""], rows)


if __name__ == "__main__":
    main()
