"""Frames as a bridge makes them, and what is in them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from asynchub.batches import Batch, Scalars, events_of
from asynchub.bridges.frames import BASE, EVENTS, Frame
from asynchub.bridges.packing import Packer
from asynchub.events import Event, InfoUpdated, ScalarUpdated

__all__ = ("Rank", "facts", "held")


class Rank:
    """Makes the frames of one epoch of a rank, one after the other.

    Attributes:
        frames: all that it made; of what came before the last one, any may be removed.
        events: all that were in them.
    """

    def __init__(self, epoch: int = 1, *, run: str = "run", rank: int = 0, seed: int = 0) -> None:
        self.epoch = epoch
        self.frames: list[Frame] = []
        self.events: list[Event] = []
        self._run = run
        self._rank = rank
        self._seq = 0
        self._packer = Packer("test")
        self._draw = random.Random(seed)

    def frame(self, events: Sequence[Event] = (), *, kind: str = EVENTS, left_out: int = 0) -> Frame:
        """Return the next frame, with events that have a ``seq`` already."""
        size = len(events) + left_out if kind == EVENTS else 0
        before = self.frames[-1].before + self.frames[-1].size if self.frames else 0
        after_seq, self._seq = self._seq, max([self._seq, *(event.seq for event in events)]) + left_out
        number = self.frames[-1].number + 1 if self.frames else 1
        made = Frame(
            kind=kind,
            run=self._run,
            run_id="0" * 32,
            rank=self._rank,
            world=self._rank + 1,
            epoch=self.epoch,
            number=number,
            first=number,
            before=before,
            size=size,
            left_out=left_out,
            after_seq=after_seq,
            upto_seq=self._seq,
            time=1.7e9 + number,
            step=number,
            batch=self._packer.pack(events),
        )
        self.frames.append(made)
        self.events += events if kind == EVENTS else ()
        return made

    def base(self) -> Frame:
        """Return a frame that an epoch begins with."""
        return self.frame(kind=BASE)

    def scalars(self, count: int, *keys: str) -> Frame:
        """Return the next frame, with random scalars."""
        draw, seq = self._draw, self._seq
        return self.frame(
            [
                ScalarUpdated(
                    seq=seq + at + 1,
                    time=1.7e9 + (seq + at) / 1000,
                    step=seq + at,
                    key=draw.choice(keys or ("loss", "accuracy")),
                    value=draw.gauss(0, 1),
                )
                for at in range(count)
            ]
        )

    def many(self, count: int, *keys: str) -> Frame:
        """Return the next frame, with random scalars, made fast: they are not in ``events``."""
        seqs = np.arange(self._seq + 1, self._seq + 1 + count)
        values = np.random.default_rng(self._seq).normal(size=count)
        whose = seqs % len(keys)
        scalars = Scalars(seqs, 1.7e9 + seqs / 1000, seqs // len(keys), values, np.ones(count, np.int64), whose)
        made = self.frame(left_out=count)._replace(
            left_out=0, batch=Batch([(key, True) for key in keys], [scalars], [])
        )
        self.frames[-1] = made
        return made

    def infos(self, count: int, size: int, *keys: str) -> Frame:
        """Return the next frame, with infos of about ``size`` bytes."""
        draw, seq = self._draw, self._seq
        return self.frame(
            [
                InfoUpdated(
                    seq=seq + at + 1,
                    time=1.7e9,
                    step=seq,
                    key=draw.choice(keys or ("info",)),
                    value=draw.randbytes(size),
                )
                for at in range(count)
            ]
        )


def facts(event: Event) -> tuple[Any, ...]:
    """Return what an event says, comparable: a NaN is like another, and 1 is not like 1.0."""
    more = [(name, repr(getattr(event, name))) for name in event.__dataclass_fields__]
    return (type(event).__name__, *more)


def held(frames: Sequence[Frame]) -> list[Event]:
    """Return the events that are in frames."""
    return [event for frame in frames for event in events_of(frame.batch)]
