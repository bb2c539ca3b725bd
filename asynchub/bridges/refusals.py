"""What ranks cannot reduce together, said with the same text on all of them.

Every check is made by all ranks at once: they tell each other what they have, and each comes to the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from asynchub.bridges.accumulating import Slots
from asynchub.bridges.combining import Ranks
from asynchub.bridges.exchanging import exchange
from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.errors import AsyncHubError

__all__ = ("ReductionError", "check_declared", "check_keys", "check_modes", "check_steps", "plain_text")

SHOWN = 8
"""Ranks, and keys of each, that an error names."""
_MODES = ("up to step {}", "at once at step {}", "for the last time at step {}")


class ReductionError(AsyncHubError, RuntimeError, KeyError):
    """Ranks cannot reduce together: they have other keys, steps or declarations. All ranks raise it.

    A ``KeyError`` too, as what a lookup of a key that another rank does not have.
    """

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0]) if self.args else ""


def _named(words: Sequence[str]) -> str:
    return ", ".join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")


def check_declared(ranks: Ranks, declared: Sequence[Any]) -> None:
    """Look whether all ranks were given the same.

    Raises:
        ReductionError: they were not.
    """
    texts = [json.dumps(one) for one in declared]
    others = [str(number) for number, text in zip(ranks.numbers, texts, strict=True) if text != texts[0]]
    if others:
        other = next(text for text in texts if text != texts[0])
        raise ReductionError(
            f"ranks declare different reductions: rank {ranks.numbers[0]} {texts[0]}, rank {others[0]} {other} "
            f"(ranks that are not as rank {ranks.numbers[0]}: {_named(others)}); give all ranks the same arguments"
        )


def check_keys(ranks: Ranks, slots: Slots, deadline: float) -> NoReturn:
    """Say which rank lacks which keys.

    Raises:
        ReductionError: always.
    """
    have = [set(loads(one)) for one in exchange(ranks, dumps(sorted(slots)), deadline)]
    every = set().union(*have)
    lacking = [
        f"rank {number} lacks [{_named([repr(key) for key in sorted(every - keys)])}]"
        for number, keys in zip(ranks.numbers, have, strict=True)
        if every - keys
    ]
    shown = "; ".join(lacking[:SHOWN]) + (f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else "")
    raise ReductionError(
        f"key sets differ: {shown}; publish the same keys on all ranks, or let keys='union' take what there is"
    )


def _told(ranks: Ranks, step: int, mode: float, slots: Slots, deadline: float) -> list[tuple[int, int, list[str]]]:
    mine = dumps([step, int(mode), sorted(slots)[:3]])
    return [tuple(loads(one)) for one in exchange(ranks, mine, deadline)]


def check_steps(ranks: Ranks, step: int, mode: float, slots: Slots, deadline: float) -> NoReturn:
    """Say which rank is at which step.

    Raises:
        ReductionError: always.
    """
    told = _told(ranks, step, mode, slots, deadline)
    parts = [
        f"rank {number} {_MODES[how].format(at)}" for number, (at, how, _) in zip(ranks.numbers, told, strict=True)
    ]
    at_once = sorted({key for _, how, keys in told if how == 1 for key in keys})
    advice = (
        f"what is reduced at once ({_named(at_once)}) must be published by all ranks at the same step, or be left out "
        "of at_once="
        if at_once
        else "all ranks must settle at the same steps"
    )
    raise ReductionError(f"ranks reduce different steps: {_named(parts)}; {advice}")


def check_modes(ranks: Ranks, step: int, mode: float, slots: Slots, deadline: float, ended: bool) -> None:
    """Look what to do when ranks reduce for different reasons, or one for the last time.

    Args:
        ranks: who they are.
        step: of this rank.
        mode: why this rank reduces.
        slots: what this rank has.
        deadline: until when to wait.
        ended: whether all reduce for the last time.

    Raises:
        ReductionError: some reduce at once, others do not.
        ConnectionError: some have ended, others have not.
    """
    if ended:
        return
    told = _told(ranks, step, mode, slots, deadline)
    left = [f"rank {number} at step {at}" for number, (at, how, _) in zip(ranks.numbers, told, strict=True) if how == 2]
    if left:
        raise ConnectionError(f"ranks have ended before the others: {_named(left)}")
    check_steps(ranks, step, mode, slots, deadline)


def plain_text(error: Exception) -> str:
    """Return the text of ``error`` in one line, without the source lines and advice of gloo's."""
    text = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split()))
    return text.partition(". This is ")[0][:300]
