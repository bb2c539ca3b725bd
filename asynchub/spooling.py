"""Spools from the command line: what waits in them for a broker, and bringing it there when its process is dead."""

from __future__ import annotations

import argparse
import asyncio
import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asynchub.bridges.failures import BridgeError
from asynchub.bridges.opening import open_transport
from asynchub.bridges.pushing import push
from asynchub.bridges.spool import Spool
from asynchub.bridges.spool_folder import find_spools
from asynchub.bridges.spooled import SpooledEpoch, spooled_epochs
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.transport import Transport
from asynchub.lines import format_time
from asynchub.tables import Column, table_lines

__all__ = ("push_spools", "run_spool_command", "spools_table")

NANOSECONDS = 1e9
CLOSE = 2.0
"""Seconds that letting go of a broker may take."""
Write = Callable[[str], object]


def run_spool_command(options: argparse.Namespace, write: Write = print) -> int:
    """Do what was asked for; return the exit status.

    Raises:
        ArgumentError: the URL is malformed.
        FileNotFoundError: there is no spool.
        ImportError: the client of the broker is not installed.
    """
    if options.kind == "show":
        write(spools_table(options.folder, shutil.get_terminal_size((120, 24)).columns))
        return 0
    more = {} if options.credentials is None else {"credentials": options.credentials}
    left = asyncio.run(push_spools(options.folder, options.url, write, timeout=options.timeout, **more))
    return 1 if left else 0


def spools_table(folder: Path, width: int) -> str:
    """Return what waits in the spools in a folder and below, as a table, a row for each epoch of a rank.

    Args:
        folder: the spool of a rank, or a folder above several.
        width: characters that a line may have.

    Raises:
        FileNotFoundError: there is no spool.
    """
    rows = list(spooled_epochs(folder))
    columns = [
        Column("run", [one.run or "?" for one in rows], text=True),
        Column("rank", ["?" if one.rank < 0 else f"{one.rank}" for one in rows]),
        Column("epoch", [_time(one.epoch / NANOSECONDS) for one in rows], rank=1),
        Column("frames", [f"{one.frames:,}" for one in rows]),
        Column("bytes", [f"{one.size:,}" for one in rows], rank=2),
        Column("events", [f"{one.events:,}" for one in rows]),
        Column("left out", [f"{one.left_out:,}" for one in rows]),
        Column("oldest", [_time(one.oldest) if one.frames else "-" for one in rows], rank=4),
        Column("newest", [_time(one.newest) if one.frames else "-" for one in rows], rank=3),
        Column("damaged" * any(one.damaged for one in rows), [f"{one.damaged or ''}" for one in rows]),
        Column("in use by", [one.user for one in rows], text=True, rank=5),
    ]
    return "\n".join([*table_lines(columns, width), _total(rows)])


def _total(rows: list[SpooledEpoch]) -> str:
    events = sum(one.events - one.left_out for one in rows)
    return f"{events:,} events in {sum(one.frames for one in rows):,} frames wait for a broker"


def _time(seconds: float) -> str:
    try:
        return format_time(seconds)
    except (ValueError, OverflowError, OSError):  # a clock that was never set, or no time at all
        return "?"


async def push_spools(folder: Path, url: str, write: Write, *, timeout: float, **options: Any) -> int:
    """Send what waits in the spools in a folder and below; return how many frames are left.

    Args:
        folder: the spool of a rank, or a folder above several.
        url: of the broker.
        write: called with a line for each rank, and for each piece that cannot be read.
        timeout: seconds that the broker may take for each answer.
        options: how to connect; see ``asynchub.bridges.opening.open_transport``.

    Raises:
        ArgumentError: the URL is malformed.
        FileNotFoundError: there is no spool.
        ImportError: the client of the broker is not installed.
    """
    left = 0
    transports = _Transports(url, timeout, options)
    try:
        for one in find_spools(folder):
            try:
                spool = Spool(one, time.time_ns(), refused=lambda source, error: write(f"left out: {source}: {error}"))
            except (BridgeError, OSError) as error:
                write(f"{one}: {error}")
                left += sum(found.frames for found in spooled_epochs(one))
                continue
            try:
                write(await _pushed(one, spool, transports, timeout))
            finally:
                left += spool.waiting
                spool.close()
    finally:
        await transports.close()
    return left


async def _pushed(folder: Path, spool: Spool, transports: _Transports, timeout: float) -> str:
    """Send what waits in a spool; return what became of that."""
    spooled, waiting = spool.peek(), spool.waiting
    if spooled is None:
        return f"{folder}: nothing waits"
    frame, why = spooled.frame, ""
    try:
        await push(spool, await transports.of(frame.run), Subjects(frame.run), timeout=timeout)
    except BridgeError as error:
        why = f": {error}"
    return f"rank {frame.rank} of {frame.run}: {waiting - spool.waiting} of {waiting} frames are with the broker{why}"


class _Transports:
    """Connections to a broker, one for each run.

    Args:
        url: of the broker.
        timeout: seconds to wait for it, once for each run.
        options: how to connect.

    Raises:
        ArgumentError: the URL is malformed.
        ImportError: the client of the broker is not installed.
    """

    def __init__(self, url: str, timeout: float, options: dict[str, Any]) -> None:
        self._open = functools.partial(open_transport, url, **options)
        self._timeout = timeout
        self._of_run: dict[str, Transport] = {}
        self._open(run="any")  # it says what is wrong with the arguments

    async def of(self, run: str) -> Transport:
        """Return the connection of a run.

        Raises:
            BridgeError: the broker is not there.
        """
        transport = self._of_run.get(run)
        if transport is None:
            transport = self._of_run[run] = self._open(run=run)
            await transport.connect(self._timeout)
        elif not transport.connected:
            raise BridgeError(str(transport.error or "the broker is not there"))
        return transport

    async def close(self) -> None:
        """Let go of the broker."""
        for transport in self._of_run.values():
            await transport.close(CLOSE)
