"""Memory object streams of anyio that tell how long either end waited.

A wait is counted where nothing was ready when an item was asked for, or no room when one was to be sent: the turn of
the event loop that anyio takes in any case is not waiting. Inside of a stage's call it is not the stage's own time.
Threads: none; a channel is used on one event loop, as anyio's own is.
"""

from __future__ import annotations

from typing import TypeVar

from anyio.streams.memory import (
    MemoryObjectReceiveStream,
    MemoryObjectSendStream,
    MemoryObjectStreamStatistics,
)

from asynchub.pipeline.clock import clock
from asynchub.pipeline.queues import QueueMeter
from asynchub.pipeline.tally import Meter
from asynchub.pipeline.tracks import Track, thread_track

__all__ = ("Channel", "ReceiveStream", "SendStream")

T = TypeVar("T")


class Channel:
    """What the ends of a channel, and their clones, count.

    Args:
        name: of the channel.

    Attributes:
        received: items that were received.
        after: the stage that sends; None until it has sent.
        into: the stage that receives; None until it has asked for an item in one of its calls, or has done its work on
            one from here and asks for the next.
        queue: the figures of what is in it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.received = 0
        self.after: Meter | None = None
        self.into: Meter | None = None
        self.queue: QueueMeter | None = None
        self._waited = {True: 0, False: 0}
        self._waiting: dict[bool, dict[int, int]] = {True: {}, False: {}}
        self._calls = 0

    def begin(self, sends: bool) -> tuple[int, int]:
        """Count that somebody begins to wait, to send or to receive; return its number, and the time."""
        self._calls = number = self._calls + 1
        start = self._waiting[sends][number] = clock()
        return number, start

    def end(self, sends: bool, number: int, start: int, track: Track) -> None:
        """Count that it has ended; ``track`` is that of the task."""
        del self._waiting[sends][number]
        waited = clock() - start
        self._waited[sends] += waited
        if track.meter is not None and not (sends and track.meter.pulls):
            track.nested += waited

    def blocked(self, now: int) -> int:
        """Return how long senders have waited so far."""
        return self._so_far(True, now)

    def starved(self, now: int) -> int:
        """Return how long receivers have waited so far."""
        return self._so_far(False, now)

    def _so_far(self, sends: bool, now: int) -> int:
        return self._waited[sends] + sum(max(now - since, 0) for since in list(self._waiting[sends].values()))

    def measure(self, now: int) -> tuple[int, int, int, None]:
        """Return what ``QueueMeter`` wants to know."""
        return self.received, self.blocked(now), self.starved(now), None

    def learn(self, sends: bool, track: Track) -> None:
        """Take note of the stage that sends, or receives, if it is not known; ``track`` is that of the task."""
        if sends:
            if self.after is None and (stage := track.meter or track.last) is not None:
                self.comes_from(stage)
        elif self.into is None:
            stage = track.meter or (track.last if self.received else None)
            if stage is not None and stage is not self.after:
                self.goes_into(stage)

    def comes_from(self, stage: Meter) -> None:
        """Say which stage sends: what senders wait here is its blocked time."""
        self.after = stage
        if not stage.pulls:
            stage.blocking.append(self.blocked)
        if self.queue is not None:
            self.queue.after = stage

    def goes_into(self, stage: Meter) -> None:
        """Say which stage receives: what receivers wait here is its starved time."""
        self.into = stage
        if not stage.pulls:  # else it has counted that itself, as waiting inside of its calls
            stage.starving.append(self.starved)
        if self.queue is not None:
            self.queue.into = stage


class SendStream(MemoryObjectSendStream[T]):
    """The sending end of a channel.

    Args:
        inner: anyio's own.
        channel: what counts for it.
    """

    def __init__(self, inner: MemoryObjectSendStream[T], channel: Channel) -> None:
        self._inner = inner
        self._channel = channel
        self._state = inner._state

    def send_nowait(self, item: T) -> None:
        self._inner.send_nowait(item)

    async def send(self, item: T) -> None:
        channel, state = self._channel, self._state
        if channel.after is None:
            channel.learn(True, thread_track().of_task())
        if len(state.buffer) < state.max_buffer_size or state.waiting_receivers:
            await self._inner.send(item)
            return
        track, wait = thread_track().of_task(), channel.begin(True)
        try:
            await self._inner.send(item)
        finally:
            channel.end(True, *wait, track)

    def clone(self) -> SendStream[T]:
        return SendStream(self._inner.clone(), self._channel)

    def close(self) -> None:
        self._inner.close()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def statistics(self) -> MemoryObjectStreamStatistics:
        return self._inner.statistics()

    def __del__(self) -> None:
        """Leave it to anyio's own to say that nobody has closed it."""


class ReceiveStream(MemoryObjectReceiveStream[T]):
    """The receiving end of a channel.

    Args:
        inner: anyio's own.
        channel: what counts for it.
    """

    def __init__(self, inner: MemoryObjectReceiveStream[T], channel: Channel) -> None:
        self._inner = inner
        self._channel = channel
        self._state = inner._state

    def receive_nowait(self) -> T:
        item = self._inner.receive_nowait()
        self._channel.received += 1
        return item

    async def receive(self) -> T:
        channel, state = self._channel, self._state
        if channel.into is None:
            channel.learn(False, thread_track().of_task())
        if state.buffer or state.waiting_senders:
            item = await self._inner.receive()
        else:
            track, wait = thread_track().of_task(), channel.begin(False)
            try:
                item = await self._inner.receive()
            finally:
                channel.end(False, *wait, track)
        channel.received += 1
        return item

    def clone(self) -> ReceiveStream[T]:
        return ReceiveStream(self._inner.clone(), self._channel)

    def close(self) -> None:
        self._inner.close()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def statistics(self) -> MemoryObjectStreamStatistics:
        return self._inner.statistics()

    def __del__(self) -> None:
        """Leave it to anyio's own to say that nobody has closed it."""
