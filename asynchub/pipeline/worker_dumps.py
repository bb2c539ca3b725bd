"""The stack of a worker process, asked for by a signal: where its code is, also while it hangs in it.

The worker writes it with ``faulthandler`` to a file that has no name, so nothing is left of it, whoever is killed.
Only a worker that has said it will do so is sent the signal: any other would die of it.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
import weakref
from multiprocessing import reduction
from typing import Any

__all__ = ("DumpFile", "dumped")

PATIENCE = 0.5
"""Seconds that a worker may take to write its stack; where a processor is free it takes a thousandth of that."""
LOOK_EVERY = 0.005
LONGEST = 1 << 20
"""Bytes of a stack that are read at most."""
FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
OUTERMOST = "_worker_loop"
"""Function of torch that runs in the main thread of a worker."""


class DumpFile:
    """A file without a name, which all workers of an iteration write to. It goes along to a process that is started.

    Attributes:
        descriptor: of the file.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())
        self._end = weakref.finalize(self, os.close, self.descriptor)

    def __getstate__(self) -> Any:
        return reduction.DupFd(self.descriptor)

    def __setstate__(self, state: Any) -> None:
        self.descriptor = state.detach()

    def ask(self, pid: int) -> str:
        """Have a process write its stack; return what it wrote, or nothing if it does not answer in time."""
        before = os.fstat(self.descriptor).st_size
        try:
            os.kill(pid, signal.SIGUSR1)
        except OSError:  # it has ended
            return ""
        deadline, size = time.monotonic() + PATIENCE, before
        while time.monotonic() < deadline:
            time.sleep(LOOK_EVERY)
            now = os.fstat(self.descriptor).st_size
            if now == size > before:  # nothing was added since the last look
                break
            size = now
        return os.pread(self.descriptor, min(size - before, LONGEST), before).decode(errors="replace")


def dumped(text: str) -> tuple[str, str]:
    """Return where a worker's main thread is, as ``file:line in function``, and its stack, the innermost frame last.

    Args:
        text: of ``faulthandler``, all threads.
    """
    for thread in re.split(r"\n\s*\n", text):
        frames = [found for line in thread.splitlines() if (found := FRAME.match(line))]
        if any(frame["function"] == OUTERMOST for frame in frames):
            lines = [f'  File "{one["file"]}", line {one["line"]}, in {one["function"]}\n' for one in reversed(frames)]
            innermost = frames[0]
            return f"{innermost['file']}:{innermost['line']} in {innermost['function']}", "".join(lines)
    return "", text
