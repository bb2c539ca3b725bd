"""A TCP proxy on the loopback that is slow, stalls, or cuts connections in the midst of what they carry."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Proxy:
    """Carry connections to a port of the loopback.

    Args:
        target: the port.
        latency: seconds that bytes take, each way.

    Attributes:
        port: to connect to.
        cut_after: bytes from the clients after which their connections are cut; None for never.
        received: what came from the clients, if ``keep`` is true.
    """

    def __init__(self, target: int, *, latency: float = 0.0, keep: bool = False) -> None:
        self.port = 0
        self.cut_after: int | None = None
        self.received = bytearray()
        self.latency = latency
        self._target = target
        self._keep = keep
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self) -> None:
        """Carry nothing, and accept what comes."""
        self._flowing.clear()

    def go(self) -> None:
        """Carry again."""
        self._flowing.set()

    def cut(self) -> None:
        """Cut all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(upstream_writer)
        for source, sink, is_up in ((reader, upstream_writer, True), (upstream_reader, writer, False)):
            task = asyncio.create_task(self._carry(source, sink, is_up))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_up: bool) -> None:
        try:
            while data := await source.read(2**14):
                await self._flowing.wait()
                await asyncio.sleep(self.latency)
                if is_up and self._keep:
                    self.received += data
                if is_up and self.cut_after is not None:
                    if len(data) > self.cut_after:
                        sink.write(data[: self.cut_after])
                        await sink.drain()
                        self.cut_after = None
                        self.cut()
                        return
                    self.cut_after -= len(data)
                sink.write(data)
                await sink.drain()
        except OSError:
            sink.transport.abort()
        else:
            sink.close()
