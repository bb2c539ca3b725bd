"""What a courier asks of a kind of device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

__all__ = ("SLOTS", "Backend", "Lane")

SLOTS = 64
"""Values in a row at most."""


class Lane(NamedTuple):
    """How values of a dtype travel.

    Attributes:
        kind: what the rows hold that carry them exactly; values of one kind travel together.
        convert: makes what ``.item()`` gives of what has come; None if that is the same.
    """

    kind: Hashable
    convert: Callable[[Any], int | float] | None = None


class Backend(ABC):
    """One device. A row is memory on both sides for ``SLOTS`` values, and what it takes to know when they are there.

    Threads: ``wait`` and ``read`` are called by the thread that lands values; all else by one thread at a time, any,
    ``ship`` also by a thread that has put nothing into the row.
    """

    def begin(self) -> None:  # noqa: B027  # most need none
        """Prepare the thread that lands values."""

    def capturing(self) -> bool:
        """Tell whether a graph is being captured from what this thread queues."""
        return False

    @abstractmethod
    def lane(self, dtype: Any) -> Lane | None:
        """Return how values of a ``torch.dtype`` travel, or None if they are no real numbers."""

    @abstractmethod
    def stream(self) -> Any:
        """Return where this thread's work for the device is queued; the same object, or an equal one, for the same."""

    @abstractmethod
    def new_rows(self, kind: Hashable, number: int) -> list[Any]:
        """Return ``number`` rows for values of a kind."""

    @abstractmethod
    def put(self, row: Any, start: int, tensors: Sequence[Any], stream: Any) -> None:
        """Queue the copying of tensors, each of shape ``()`` and without a gradient, into the slots from ``start`` on.

        Args:
            row: the row; all that is put into it before it is shipped comes from one stream.
            start: the first slot.
            tensors: at most as many as there are slots left.
            stream: the stream of this thread.
        """

    @abstractmethod
    def ship(self, row: Any, size: int) -> None:
        """Queue the copying of the first ``size`` slots to this process, after all that was put; waits for nothing.

        May be called again if an exception broke it off.
        """

    @abstractmethod
    def wait(self, row: Any) -> None:
        """Wait until what was shipped is here, without holding the interpreter's lock.

        Raises:
            Exception: the device has failed, for good.
        """

    @abstractmethod
    def read(self, row: Any, size: int) -> Sequence[Any]:
        """Return what came, as Python numbers; the row is used again afterwards."""

    def is_loss(self, error: Exception) -> bool:
        """Tell whether what ``put`` or ``ship`` raised means that the device has failed."""
        return type(error).__name__ == "AcceleratorError"
