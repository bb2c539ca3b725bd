"""Which of several ranks this process is, without loading torch."""

from __future__ import annotations

import os
import sys
from typing import Any, cast

__all__ = ("rank_and_world",)


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process, from 0, and how many there are.

    As ``torch.distributed`` says, if the program uses it; else as ``RANK`` and ``WORLD_SIZE`` say, which ``torchrun``
    sets; else it is the only one.
    """
    distributed = cast("Any", sys.modules.get("torch.distributed"))
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:  # of something else than torchrun
        return 0, 1
    return (rank, world) if 0 <= rank < world else (0, 1)
