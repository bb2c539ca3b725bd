"""Raising in any line of chosen functions, as a signal handler might."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ("Interrupt", "codes_of", "interrupted")


class Interrupt(KeyboardInterrupt):
    """What is raised."""


def codes_of(*owners: type) -> set[CodeType]:
    """Return the code of all functions of these classes."""
    return {function.__code__ for owner in owners for function in vars(owner).values() if hasattr(function, "__code__")}


@functools.cache
def _source(file: str) -> list[str]:
    return Path(file).read_text(encoding="utf-8").splitlines()


def interrupted(call: Callable[[], object], at: int, codes: Collection[CodeType], but: str = "(?!)") -> bool:
    """Run ``call``, raising in its ``at``-th line within ``codes``; tell whether it came so far.

    Args:
        call: what to run.
        at: from 1.
        codes: the functions whose lines count.
        but: lines whose text matches this do not count.
    """
    lines = 0
    left_out = re.compile(but)

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if event == "line" and not left_out.match(_source(frame.f_code.co_filename)[frame.f_lineno - 1]):
            lines += 1
            if lines == at:
                raise Interrupt
        return local

    def start(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code in codes else None

    before = sys.gettrace()
    sys.settrace(start)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False
