"""Where a thread is, and where a coroutine waits: read from outside of it, while it is there.

A place is given as ``file:line in function``: that of the innermost frame which is not the event loop's, the standard
library's or asynchub's own, for what people look for is their own line; the stack has them all.
Threads: any thread may ask. What is looked at goes on meanwhile, so an answer may be of the moment before.
"""

from __future__ import annotations

import gc
import linecache
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import anyio

from asynchub.pipeline.stepping import Stepped

__all__ = ("awaited", "coroutine_stack", "depth_in", "frames_of", "thread_stack")

LONGEST = 200
"""Frames, or coroutines that wait for each other, that are looked at."""
_LIBRARY = tuple(
    os.path.dirname(os.path.abspath(file)) + os.sep for file in (os.__file__, anyio.__file__, os.path.dirname(__file__))
)
_INSTALLED = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages"))
_LOOPS = tuple(f"{package}{os.sep}" for package in ("anyio", "trio", "asynchub", "outcome"))
"""Installed packages whose frames are machinery; those of others may be what hangs."""


def thread_stack(ident: int) -> tuple[str, str]:
    """Return where a thread is, and its stack, the innermost frame last; both empty if it has ended."""
    frames = list(frames_of(ident))
    if not frames:
        return "", ""
    name = next((one.name for one in threading.enumerate() if one.ident == ident), f"thread {ident}")
    stack = traceback.extract_stack(frames[0])
    return _place(frames), f"{name}:\n" + "".join(traceback.format_list(stack))


def frames_of(ident: int) -> Iterator[FrameType]:
    """Yield the frames of a thread, the innermost first; none if it has ended."""
    frame = sys._current_frames().get(ident)
    for _ in range(LONGEST):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def coroutine_stack(coroutine: Any) -> tuple[str, str]:
    """Return where a coroutine waits, or an async generator, and its stack, the innermost frame last."""
    frames = [frame for one in awaited(coroutine) if (frame := _frame(one)) is not None]
    lines = []
    for frame in frames:
        code = frame.f_code
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n    {line}\n')
    return _place(frames[::-1]), "".join(lines)


def awaited(coroutine: Any) -> Iterator[Any]:
    """Yield a coroutine, the one that it waits for, the one that that waits for, and so on."""
    for _ in range(LONGEST):
        if coroutine is None:
            return
        yield coroutine
        coroutine = _next(coroutine)


def depth_in(coroutine: Any, frames: Sequence[FrameType]) -> int | None:
    """Return which of a thread's frames is the innermost of a coroutine, or an async generator; None if none is.

    Args:
        coroutine: it runs, if one of the frames is its.
        frames: the innermost first.
    """
    own = [frame for one in awaited(coroutine) if (frame := _frame(one)) is not None]
    return next((depth for depth, frame in enumerate(frames) if frame in own), None)


def _next(one: Any) -> Any:
    """Return what a coroutine waits for; None if that is not known."""
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        if (found := getattr(one, name, None)) is not None:
            return found
    if type(one).__name__.startswith("async_generator_"):  # the next item of one: it does not tell of which
        return next((held for held in gc.get_referents(one) if hasattr(held, "ag_frame")), None)
    return Stepped.inside(one)


def _frame(one: Any) -> FrameType | None:
    for name in ("cr_frame", "ag_frame", "gi_frame"):
        if (frame := getattr(one, name, None)) is not None:
            return frame  # type: ignore[no-any-return]
    return None


def _place(frames: list[FrameType]) -> str:
    """Return the place of the innermost frame that is of interest; ``frames`` has the innermost first."""
    frame = next((one for one in frames if not _is_machinery(one.f_code.co_filename)), frames[0] if frames else None)
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _is_machinery(file: str) -> bool:
    for folder in _INSTALLED:
        _, found, rest = file.rpartition(folder)
        if found:
            return rest.startswith(_LOOPS)
    return file.startswith((*_LIBRARY, "<frozen"))
