"""What a hub says of its trackers, for tests that wait for it."""

from __future__ import annotations

import threading

from asynchub.events import Event, TrackerDegraded, TrackerRestored
from asynchub.hub import MessageHub

SECONDS = 60
"""How long a busy machine may take."""


class News:
    """The news of a hub's trackers, from now on.

    Attributes:
        said: they, oldest first.
    """

    def __init__(self, hub: MessageHub) -> None:
        self.said: list[Event] = []
        self._changed = threading.Condition()
        hub.on(TrackerDegraded, TrackerRestored)(self._hear)

    def _hear(self, event: Event) -> None:
        with self._changed:
            self.said.append(event)
            self._changed.notify_all()

    def wait_for(self, kind: type[Event]) -> None:
        """Wait, without taking any time from those who work, until there is news of a kind."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(isinstance(one, kind) for one in self.said), SECONDS), self.said

    @property
    def kinds(self) -> list[type[Event]]:
        return [type(one) for one in self.said]
