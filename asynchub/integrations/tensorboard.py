"""Scalars as TensorBoard reads them: event files, written by ``torch.utils.tensorboard``.

Exact to a float32, which is what TensorBoard stores; an update of several samples is their mean. Where an update has no
step, the number of updates of its key before it is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

try:
    from torch.utils.tensorboard import SummaryWriter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}; install it with: pip install 'asynchub[tensorboard]'", name=error.name
    ) from error

from asynchub.events import Event, ScalarUpdated

__all__ = ("write_scalars",)


def write_scalars(folder: Path, events: Iterable[Event]) -> int:
    """Write the scalars among ``events`` to event files in a folder; return how many they are.

    Raises:
        OSError: the disk said no.
    """
    counts: Counter[str] = Counter()
    with SummaryWriter(str(folder)) as writer:
        for event in events:
            if isinstance(event, ScalarUpdated):
                step = counts[event.key] if event.step is None else event.step
                mean = event.value if event.count in (0, 1) else event.value / event.count
                writer.add_scalar(event.key, float(mean), step, walltime=event.time)
                counts[event.key] += 1
    return counts.total()
