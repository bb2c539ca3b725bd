"""What the lives of a rank have gone on from: so that a later one knows up to where the state that it resumes was sent.

A state may be older than what was sent since, and not be part of that: a run that was resumed from its state at event
50, and came to event 90, may be resumed once more, from a state that was saved at event 80 before. Of that, what was
sent has the first 50 events.

Form: a line of text for each life: its epoch, the ``run_id``, and the ``seq`` after which it began. What is missing or
    damaged leads to more being sent than need be, never to less.
Threads: one at a time.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import numpy as np

from asynchub.bridges.frames import Frame
from asynchub.hub import MessageHub

__all__ = ("Lineage", "saved_at")

MOST = 200
"""Lives that are remembered."""
logger = logging.getLogger("asynchub")


class Lineage:
    """The lives of one rank.

    Args:
        path: file to keep them in; None for none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lives: list[tuple[int, str, int]] = []
        if path is not None:
            with suppress(OSError, UnicodeDecodeError):  # there is none, or it is not to be had
                self._lives = [life for line in path.read_text("ascii").splitlines() if (life := _life(line))]

    def add(self, epoch: int, run_id: str, after_seq: int) -> None:
        """Note a life that begins."""
        known = any(run_id == one for _, one, _ in self._lives)
        self._lives.append((epoch, run_id, after_seq if known else 0))  # of what may have been before nothing is known
        if len(self._lives) > MOST:
            self._lives = self._lives[-MOST // 2 :]
            oldest = self._lives[0]
            self._lives[0] = (*oldest[:2], 0)  # as above
        if self._path is not None:
            try:
                self._path.write_text("".join(f"{epoch} {run} {after}\n" for epoch, run, after in self._lives), "ascii")
            except OSError as error:
                logger.warning(
                    "%s cannot be written, and a resumed run may send more than need be: %s", self._path, error
                )

    def common(self, last: Frame, saved_at: float, saved_seq: int) -> int:
        """Return up to which ``seq`` what was sent is what a state has.

        Args:
            last: the newest frame that was sent, or will be.
            saved_at: when the newest event of the state was published, in seconds since the epoch of time.
            saved_seq: its ``seq``.
        """
        own = [(epoch, after) for epoch, run_id, after in self._lives if run_id == last.run_id]
        since = [after for epoch, after in own if epoch / 1e9 > saved_at]
        if not any(epoch == last.epoch for epoch, _ in own) and last.epoch / 1e9 > saved_at:
            return 0
        return min([last.upto_seq, saved_seq, *since])


def saved_at(hub: MessageHub, upto_seq: int) -> float:
    """Return when the newest event up to a ``seq`` was published that a hub has recorded, in seconds; 0 if none was."""
    with hub._bus.drained_still():
        scalars, _ = hub.recorded(-1)
        times = [time for seq, time, _ in hub._info_stamps.values() if seq <= upto_seq]
    for _, _, records in scalars:
        upto = int(np.searchsorted(records.seqs, upto_seq, "right"))
        times += records.times[upto - 1 : upto].tolist() if upto else []
    return max(times, default=0.0)


def _life(line: str) -> tuple[int, str, int] | None:
    try:
        epoch, run_id, after = line.split()
        return int(epoch), run_id, int(after)
    except ValueError:
        return None
