"""What a run says of its values beside them: from where it went on, and in which epoch it is.

Bad: a journal or a log may hold anything. What is not what it should be says nothing.
Threads: any; nothing is kept.
"""

from __future__ import annotations

import math

from asynchub.batches import Batch, decode_event
from asynchub.dashboard.sifting import is_sound
from asynchub.events import InfoUpdated, Rewound

__all__ = ("epoch_of", "said")


def epoch_of(info: InfoUpdated) -> float | None:
    """Return the epoch that an info says; None if it says none, or one that no axis has."""
    if info.key != "epoch" or not isinstance(info.value, int | float):
        return None
    try:
        epoch = float(info.value)
    except OverflowError:
        return None
    return epoch if math.isfinite(epoch) else None


def said(batch: Batch) -> list[Rewound | tuple[int, float]]:
    """Return what a batch says, in order: each ``Rewound``, and ``seq`` and value of each epoch.

    Raises:
        StateError: an event is damaged.
    """
    found: list[Rewound | tuple[int, float]] = []
    for seq, data in batch.events:
        if b"Rewound" in data or (b"InfoUpdated" in data and b"epoch" in data):
            event, _ = decode_event(data)
            if isinstance(event, Rewound) and is_sound(event) and 0 <= event.to_seq < event.seq:
                found.append(event)
            elif isinstance(event, InfoUpdated) and (epoch := epoch_of(event)) is not None:
                found.append((seq, epoch))
    return found
