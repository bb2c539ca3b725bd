"""Collecting as a settle point needs it: nearly always there are a few scalars, and nothing else is under way.

Every step is one of ``EventBus.collect``, in the same order, so that an exception in any line leaves what that takes
up. All of them are in one function, because a program that settles after each training step finds its caches cold:
every function more costs it up to 1 µs, in which the code comes from memory.

Threads: any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asynchub.bus import EventBus
from asynchub.channels import Channel
from asynchub.events import ENTRY, ScalarUpdated, scalar_updated
from asynchub.stretches import LONGEST, Stretch

__all__ = ("collect_few",)

MOST = LONGEST * ENTRY
"""Items that are one stretch."""


def collect_few(bus: EventBus) -> None:
    """Do what ``EventBus.collect`` does; the faster if there are a few scalars and nothing else."""
    entries = bus.entries
    if not entries:
        if bus.log or bus._taken:
            bus.collect()
        return
    with bus.collecting:
        with bus.lock:
            log = bus.log
            few = not (log or bus.busy or bus.held or bus._taken or bus._sorting or bus._cut or bus._passing)
            if few and entries:
                try:
                    bus.busy = True  # from here on as in `number`
                    items = entries[:]
                    first = bus.seq + 1
                    cut = bus._cut = (first, items)
                    bus.unfiled.append(cut)
                    if bus.tap is not None:
                        bus.untapped.append(cut)
                    if len(items) == ENTRY:
                        last, channels = first, bus._routes[items[0].key, ScalarUpdated]
                    else:
                        few, channels, seqs, wanted = _sorted(bus, first, items)
                        last = first + len(items) // ENTRY - 1
                    if channels:
                        log.append(cut)
                    del entries[: len(items)]
                    bus.seq = last
                    bus._cut = None
                finally:
                    bus.busy = False
                if last >= bus.limit:
                    bus.alarm = bus.chores = 0
                if few:  # from here on as in `collect`
                    bus._taken, bus.log = log, []
                    bus.logged = 0
            else:
                few = False
        if not few:
            bus.collect()
            return
        for channel in bus.channels:
            stretches = channel.stretches
            if stretches:
                start, newest = stretches[-1]
                end = start + newest.size
                for cursor in channel.cursors:
                    if cursor.position != end:
                        channel.trim()
                        break
                else:  # all have taken all of it
                    channel.gone = newest.last_seq
                    channel.base = end
                    stretches.clear()
        crowded = False
        if channels:
            try:
                bus._sorting = True
                if len(items) == ENTRY:  # somebody is about to look at it, which would take more functions
                    cell, time, step, value, count = items
                    stretch = Stretch.of_events([scalar_updated(first, time, step, cell.key, value, count)])
                else:
                    stretch = Stretch(seqs, wanted)
                for channel in channels:
                    stretches, base = channel.stretches, channel.base
                    start = channel.end if stretches else base
                    stretches.append((start, stretch))
                    if start + stretch.size - base > channel.least_lag:
                        crowded = True
            finally:
                bus._sorting = False
        bus._taken = []
        if crowded:
            for channel in channels:
                channel.trim()


def _sorted(bus: EventBus, first: int, items: list[Any]) -> tuple[bool, tuple[Channel, ...], Sequence[int], list[Any]]:
    """Return those entries that are read, if they are one stretch and all go to the same channels.

    Args:
        bus: the log.
        first: ``seq`` of the first entry.
        items: the entries.

    Returns:
        Whether it is so; where they go; the ``seq`` of each; and they. If it is not so, where some of them go.
    """
    routes = bus._routes
    ways = [routes[cell.key, ScalarUpdated] for cell in items[::ENTRY]]
    several = set(ways)
    several.discard(())
    channels = several.pop() if several else ()
    if several or len(items) > MOST:
        return False, channels, (), items
    if () not in ways:
        return True, channels, range(first, first + len(ways)), items
    read = [index for index, way in enumerate(ways) if way]
    kept = [item for index in read for item in items[index * ENTRY : (index + 1) * ENTRY]]
    return True, channels, [first + index for index in read], kept
