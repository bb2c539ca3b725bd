"""A run at a broker, on the terminal: its newest events and those to come, and requests to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import anyio

from asynchub.allowing import COMMANDS
from asynchub.bridges.remote import RemoteHub, attach
from asynchub.eventforms import event_to_json
from asynchub.events import Event
from asynchub.lines import EventLines
from asynchub.requests import ParameterChangeRequested, Request, RequestRefused

__all__ = ("ask", "look_afar", "request_of")


def look_afar(
    url: str,
    run: str,
    patterns: Sequence[str],
    write: Callable[[str], object],
    *,
    count: int | None = 10,
    live: bool = False,
    as_json: bool = False,
    ranks: Sequence[int] | None = None,
) -> None:
    """Write the newest events of a run at a broker, one a line; with ``live``, go on with those that come.

    Args:
        url: of the broker.
        run: name of the run.
        patterns: key patterns; none for all.
        write: called with each line.
        count: how many to begin with; None for all.
        live: whether to wait for more, for ever.
        as_json: whether a line is the whole event as JSON.
        ranks: whose events; None for rank 0.

    Raises:
        BridgeError: the broker is not to be had, or refuses.
        PatternError: a pattern is malformed.
    """
    hub = attach(url, run=run, past="all", ranks=0 if ranks is None else ranks)
    line = event_to_json if as_json else EventLines().line
    anyio.run(_look, hub, tuple(patterns), lambda event: write(line(event)), count, live)


async def _look(
    hub: RemoteHub, patterns: tuple[str, ...], show: Callable[[Event], object], count: int | None, live: bool
) -> None:
    with hub.subscribe(*patterns, max_lag=2**24) as events:
        async with hub:
            seq = hub.statistics().seq
            newest: list[Event] = []
            while events.ready() or events.statistics().lag:
                event = await anext(events)
                newest.append(event)
                if count is not None and len(newest) > 2 * count + 1000:
                    del newest[:-count]
                if event.seq >= seq:
                    break
            for event in newest if count is None else newest[len(newest) - min(count, len(newest)) :]:
                show(event)
            if live:
                async for event in events:
                    show(event)


def request_of(command: str, arguments: Sequence[str], reason: str, author: str) -> Request:
    """Return the request that a command line asks for.

    Args:
        command: a word of ``asynchub.allowing.COMMANDS``.
        arguments: of ``set``: a name and a value, in JSON or a plain word; of others none.
        reason: why.
        author: who asks; empty for the user of the process, whom the remote hub fills in.

    Raises:
        ValueError: ``set`` was not given a name and a value, or another command something.
    """
    if command == "set":
        if len(arguments) != 2:
            raise ValueError(f"set takes the name of a parameter and its value, got {' '.join(arguments) or 'nothing'}")
        name, text = arguments
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        return ParameterChangeRequested(name=name, value=value, reason=reason, author=author)
    if arguments:
        raise ValueError(f"{command} takes nothing more, got {' '.join(arguments)}")
    return COMMANDS[command](reason=reason, author=author)


def ask(url: str, run: str, request: Request, timeout: float) -> tuple[bool, str]:
    """Ask something of a run at a broker; return whether it was applied, and what became of it in words.

    Raises:
        BridgeError: the broker is not to be had, or refuses.
        WaitTimeoutError: nothing came of it in ``timeout`` seconds.
    """

    async def asked() -> tuple[bool, str]:
        async with attach(url, run=run, past="none", timeout=timeout) as hub:
            outcome = await hub.requested(request, timeout)
            if isinstance(outcome, RequestRefused):
                return False, f"refused: {outcome.error}"
            return True, f"applied at step {outcome.step}"

    return anyio.run(asked)
