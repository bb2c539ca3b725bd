"""What a subscriber says to the hub it reads from, and where that goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from asynchub.declaring import Parameter
from asynchub.events import Event
from asynchub.requests import Decided, Request

__all__ = ("Answering", "Publisher")

E = TypeVar("E", bound=Event)
R = TypeVar("R", bound=Request)


class Publisher(Protocol):
    """Where a subscriber's own events go: the hub."""

    def publish(self, event: E, *, step: int | None = None) -> E: ...
    def update_scalar(
        self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None
    ) -> None: ...
    def request(self, request: R) -> R: ...


class Answering:
    """What a subscriber can say to the hub that it reads from. Any thread.

    Attributes:
        name: its name.

    Args:
        name: its name.
        publisher: the hub.
    """

    def __init__(self, name: str, publisher: Publisher) -> None:
        self.name = name
        self._publisher = publisher

    @property
    def run_id(self) -> str:
        """Identity of the run, 32 hexadecimal digits; empty where there is no hub, as in some tests."""
        return str(getattr(self._publisher, "run_id", ""))

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What can be set while the run goes on, by name: what attached subscribers declare."""
        return getattr(self._publisher, "parameters", {})

    def publish(self, event: E, *, step: int | None = None) -> E:
        """Publish ``event`` on the hub; return it as stamped. See ``MessageHub.publish``."""
        return self._publisher.publish(event, step=step)

    def decide(self, verdict: str, decided: Callable[[], Decided]) -> None:
        """Publish a decision; where verdicts are only counted, as when a rule is tried, it is not made.

        Args:
            verdict: that of it.
            decided: returns it.
        """
        self.publish(decided())

    def update_scalar(self, key: str, value: Any, count: int = 1, *, step: int | None = None) -> None:
        """Record a scalar of the subscriber's own. See ``MessageHub.update_scalar``."""
        self._publisher.update_scalar(key, value, count, step=step)

    def request(self, request: R) -> R:
        """Ask something of the training loop, in the subscriber's name; return the request as stamped.

        See ``MessageHub.request``.
        """
        return self._publisher.request(request if request.author else replace(request, author=self.name))
