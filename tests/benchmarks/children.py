"""What does it cost to publish in a child process, and what does the parent pay for it?

CPU time, in µs per event, of a forked child that publishes scalars in its copy of the hub, without and with
``Children`` in the parent: of the thread that publishes, of all that the child does, and of the parent, which publishes
them again; and of a ``queue.put`` of ``multiprocessing`` for comparison. Not shown: the start of processes, which is
that of the loader, and training steps that compete with the parent's thread for the interpreter.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from asynchub.bridges.children import Children
from asynchub.hub import MessageHub
from tests.benchmarks.common import figures, header, interleave, quick, table

Found = tuple[float, float, float]
"""CPU seconds per event: of the publishing thread, of the child, of the parent."""


def measured(publish: Callable[[], None], done: Callable[[], None], size: int, pipe: Any) -> None:
    """Publish, in a child; send what it took back."""
    publish()  # what comes first is not like the rest
    begun, thread = time.process_time(), time.thread_time()
    for _ in range(size):
        publish()
    thread = time.thread_time() - thread
    done()
    pipe.send((thread / size, (time.process_time() - begun) / size))
    pipe.close()
    done()


def run(publish: Callable[[], None], done: Callable[[], None], size: int, take: Callable[[], object]) -> Found:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    begun = time.process_time()
    process = context.Process(target=measured, args=(publish, done, size, send))
    process.start()
    send.close()
    take()
    thread, child = receive.recv()
    process.join()
    return thread, child, (time.process_time() - begun) / size


def alone(size: int) -> Found:
    hub = MessageHub("alone")
    return run(functools.partial(hub.update_scalar, "data/decode_ms", 0.5), lambda: None, size, lambda: None)


def with_children(size: int) -> Found:
    hub = MessageHub("children")
    with Children(hub) as children:
        found = run(functools.partial(hub.update_scalar, "data/decode_ms", 0.5), children.flush, size, lambda: None)
        begun = time.process_time()
        children.flush()
        if children.statistics().events != size + 1:
            raise RuntimeError("events were lost")
        return found[0], found[1], found[2] + (time.process_time() - begun) / size


def with_queue(size: int) -> Found:
    queue: Any = multiprocessing.get_context("fork").Queue()

    def take() -> None:
        for _ in range(size + 1):
            queue.get()

    def sent() -> None:
        queue.close()
        queue.join_thread()

    return run(functools.partial(queue.put, ("data/decode_ms", time.time(), 0.5)), sent, size, take)


def main() -> None:
    size, rounds = (5_000, 2) if quick() else (100_000, 7)
    contenders = {
        "its own copy, read by nobody": alone,
        "Children": with_children,
        "a queue of multiprocessing": with_queue,
    }
    logging.disable(logging.WARNING)  # that nobody reads the copy
    header()
    print(f"{size:,} scalars in each of {rounds} rounds")
    found = interleave({name: functools.partial(run, size) for name, run in contenders.items()}, rounds)
    rows = {
        name: [f"{1e6 * figures(column).median:.2f}" for column in zip(*sample, strict=True)]
        for name, sample in found.items()
    }
    table("CPU, µs per event", ["publisher", "child", "parent"], rows)


if __name__ == "__main__":
    main()
