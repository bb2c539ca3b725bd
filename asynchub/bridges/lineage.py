"""What the lives of a rank have gone on from: so that a later one knows up to where the state that it resumes was sent.

A state may be older than what was sent since, and not be part of that: a run that was resumed from its state at event
50, and came to event 90, may be resumed once more, from a state that was saved at event 80 before. Of that, what was
sent has the first 50 events. Between the two there may have been processes without a bridge, or such as ended before
theirs had begun: so what a life has sent is known by what the record of its hub has come by, see ``asynchub.ancestry``.

Form: a line of text for each life: its epoch, the ``run_id``, and the ``seq`` after which it began. Behind it, a line
    that begins with ``forks``: the epoch, the forks that its hub has come by, oldest first, each as ``id:after:at``,
    and a checksum of these. What is missing or damaged leads to more being sent than need be, never to less.
Threads: one at a time.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from asynchub.ancestry import Forks, as_words, from_words, shared_upto
from asynchub.bridges.frames import Frame

__all__ = ("Lineage",)

MOST = 40
"""Lives that are remembered, the newest; what an older one has sent is sent once more."""
FORKS = "forks"
logger = logging.getLogger("asynchub")


class Lineage:
    """The lives of one rank.

    Args:
        path: file to keep them in; None for none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lives: list[tuple[int, str, int]] = []
        self._forks: dict[int, Forks] = {}
        if path is not None:
            with suppress(OSError, UnicodeDecodeError):  # there is none, or it is not to be had
                for line in path.read_text("ascii").splitlines():
                    with suppress(ValueError):  # it is damaged
                        self._read(line)

    def _read(self, line: str) -> None:
        first, *rest = line.split()
        if first == FORKS:
            self._forks[int(rest[0])] = from_words(rest[1:])
            return
        run_id, after = rest
        self._lives.append((int(first), run_id, int(after)))

    def add(self, epoch: int, run_id: str, after_seq: int, forks: Forks) -> None:
        """Note a life that begins.

        Args:
            epoch: its epoch.
            run_id: of its hub.
            after_seq: what it sends comes after that.
            forks: what its hub has come by.
        """
        self._lives = [*self._lives, (epoch, run_id, after_seq)][-MOST:]
        self.note(epoch, forks)

    def note(self, epoch: int, forks: Forks) -> None:
        """Note what the hub of a life has come by now."""
        self._forks[epoch] = forks
        self._forks = {one: self._forks[one] for one, _, _ in self._lives if one in self._forks}
        if self._path is not None:
            try:
                self._path.write_text("".join(map(self._lines, self._lives)), "ascii")
            except OSError as error:
                logger.warning(
                    "%s cannot be written, and a resumed run may send more than need be: %s", self._path, error
                )

    def _lines(self, life: tuple[int, str, int]) -> str:
        epoch, run_id, after = life
        words = [FORKS, str(epoch), *as_words(self._forks.get(epoch, ()))]
        return f"{epoch} {run_id} {after}\n{' '.join(words)}\n"

    def common(self, last: Frame, forks: Forks, seq: int) -> int:
        """Return up to which ``seq`` what was sent is what a hub has.

        Args:
            last: the newest frame that was sent, or will be.
            forks: what the hub has come by.
            seq: of its newest event.
        """
        sent = self._forks.get(last.epoch, ())
        came = tuple(fork for fork in sent if fork.at < last.upto_seq)  # of what came later nothing was sent
        return shared_upto(came, last.upto_seq, forks, seq)
