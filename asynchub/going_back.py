"""What the journal of a hub is told when the hub takes in a state: that it goes back, and what stays all the same."""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import Any

from asynchub.ancestry import Fork, rewound_id
from asynchub.events import InfoUpdated, Rewound
from asynchub.requests import RequestApplied, StopRequested

__all__ = ("go_back", "goes_back")

logger = logging.getLogger("asynchub")


def goes_back(hub: Any, to_seq: int, run_id: str) -> bool:
    """Return whether a hub has a journal that holds the state that it is about to take in.

    Where it has one that does not, the log says so: what is in that state is not in the journal.

    Args:
        hub: the hub.
        to_seq: ``seq`` of the newest event of the state.
        run_id: the run of the state; "" if that is not known.
    """
    if hub._bus.tap is None:
        return False
    if run_id == hub._run_id and to_seq <= hub._bus.seq:
        return True
    logger.warning(
        "hub %r takes in a state that its journal does not hold, of %s: `recover` will have nothing of it. Detach the "
        "journal, load, and attach a new Journal",
        hub.instance_name,
        f"run {run_id}" if run_id else "no run",
    )
    return False


def go_back(hub: Any, to_seq: int, infos: Container[str], stop: StopRequested | None) -> Fork:
    """Say that a hub has gone back to a state, and say again what it had not in that state, and has.

    Call it amid the change, with the state taken in.

    Args:
        hub: the hub.
        to_seq: ``seq`` of the newest event of the state.
        infos: the runtime infos of the state.
        stop: its request to stop.

    Returns:
        What the hub goes on from.
    """
    at: int = hub._bus.seq
    if to_seq == at:  # nothing was published since
        return Fork.new(to_seq, at)
    rewound = hub._append(Rewound(to_seq=to_seq))
    hub._replayed = (*(event for event in hub._replayed if event.seq <= to_seq), rewound)  # for those attached later
    for key, (seq, _, step) in list(hub._info_stamps.items()):
        if key in hub._runtime_info and (seq > to_seq or (key not in infos and hub._resumed_keys.get(key, True))):
            said = hub._append(InfoUpdated(key=key, value=hub._runtime_info[key], step=step))
            hub._info_stamps[key] = (said.seq, said.time, said.step)
    hub._settle_point.requests.say_again(to_seq, hub._append)
    if stop is None and hub._stop is not None:
        since = hub._stop
        hub._append(
            RequestApplied(
                request=StopRequested.__name__,
                request_seq=since.seq,
                reason=since.reason,
                author=since.author,
                id=since.id,
            )
        )
    stays = sorted(key for key, resumed, records in hub.recorded(to_seq)[0] if resumed and len(records.seqs))
    if stays:
        logger.warning(
            "hub %r has gone back to event %d, and keeps newer values of %s, which are not in the state: `recover` "
            "will not have them",
            hub.instance_name,
            to_seq,
            ", ".join(map(repr, stays)),
        )
    return Fork(rewound_id(rewound.seq, rewound.time), to_seq, at)
