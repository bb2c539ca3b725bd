"""A rank of a run that publishes at a steady pace, as a process; and what a broker has of such a run, read by nats-py.

``python -m tests.bridges.acceptance_ranks PLAN.json``, with ``RANK`` and ``WORLD_SIZE`` as torchrun sets them. At each
step it publishes ``key/0``, ``key/1``, ... in the hub with the bridge, and, at a steady pace, after some arithmetic, in
one without, so that both can be timed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
import nats
import numpy as np
from nats.js.api import AckPolicy, ConsumerConfig

from asynchub import Journal, MessageHub, recover
from asynchub.batches import events_of
from asynchub.bridges.bridge import Bridge
from asynchub.bridges.frames import BASE, END, EVENTS, Frame, decode_frame
from asynchub.bridges.subjects import Subjects
from asynchub.bridging import BridgeDegraded, BridgeRestored
from asynchub.events import ScalarUpdated

__all__ = (
    "Plan",
    "Stored",
    "check_ranks",
    "launch",
    "progress",
    "read_stored",
    "results",
    "until",
    "value_of",
)

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""


@dataclass(frozen=True)
class Plan:
    """What the ranks of a run are to do.

    Attributes:
        url: of the broker.
        folder: for the spool, the journals, and what each rank tells.
        run: name of the run.
        keys: how many scalars a step publishes.
        steps: how many there are.
        pace: steps in a second; 0 for as many as there can be.
        interval: of the bridge.
        max_spool: of the bridge.
        drain_timeout: of the bridge.
        journaled: whether the hub has a journal, and goes on where it ends.
        bridged: whether there is a bridge.
        flush_every: steps after which the hub is flushed; 0 for never.
    """

    url: str
    folder: str
    run: str = "force"
    keys: int = 50
    steps: int = 80
    pace: float = 20.0
    interval: float = 0.5
    max_spool: int = 2**28
    drain_timeout: float = 20.0
    journaled: bool = False
    bridged: bool = True
    flush_every: int = 0


def value_of(step: int, key: int) -> float:
    """Return what a rank publishes."""
    return step + key / 1024


class Clock:
    """How long publishing took, in each of two hubs."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.worst = 0.0
        self.steps: list[float] = []

    def publish(self, hub: MessageHub, names: Sequence[str], step: int, work: Any) -> None:
        clock, update = time.perf_counter, hub.update_scalar
        begun = clock()
        work @ work
        before = clock()
        for key, name in enumerate(names):
            update(name, value_of(step, key))
            now = clock()
            if now - before > self.worst:
                self.worst = now - before
            self.seconds += now - before
            before = now
        self.calls += len(names)
        self.steps.append(before - begun)

    def told(self) -> dict[str, float]:
        return {
            "mean_us": self.seconds / max(self.calls, 1) * 1e6,
            "worst_ms": self.worst * 1e3,
            "step_ms": float(np.median(self.steps)) * 1e3 if self.steps else 0.0,
        }


def main(plan: Plan, rank: int) -> None:
    """Be a rank."""
    folder = Path(plan.folder)
    begun = time.perf_counter()
    hub = _hub(plan, folder / f"rank-{rank}")
    bridge = None
    if plan.bridged:
        bridge = Bridge(
            hub,
            plan.url,
            run=plan.run,
            spool=folder / "spool",
            interval=plan.interval,
            max_spool=plan.max_spool,
            drain_timeout=plan.drain_timeout,
        )
    said: list[tuple[str, float]] = []

    @hub.on(BridgeDegraded, BridgeRestored)
    def see(event: Any) -> None:
        said.append((type(event).__name__, time.time()))

    bare = MessageHub("bare")
    names = [f"key/{key}" for key in range(plan.keys)]
    work = np.random.default_rng(0).normal(size=(150, 150) if plan.pace else (1, 1))
    with_bridge, without = Clock(), Clock()
    first = hub.step + 1
    told = (folder / f"{rank}.progress").open("ab", buffering=0)
    hub.__enter__()
    entered = time.perf_counter() - begun
    due = time.monotonic()
    for step in range(first, plan.steps + 1):
        hub.step = step
        turn = [(with_bridge, hub), (without, bare)] if plan.pace else [(with_bridge, hub)]
        for clock, whose in turn if step % 2 else turn[::-1]:
            clock.publish(whose, names, step, work)
        told.write(f"{step} {time.time()}\n".encode())
        if plan.flush_every and step % plan.flush_every == 0:
            hub.flush(PATIENCE)
        if plan.pace:
            due += 1 / plan.pace
            time.sleep(max(0.0, due - time.monotonic()))
    left = time.perf_counter()
    hub.__exit__(None, None, None)
    statistics = None if bridge is None else bridge.statistics()
    result = {
        "seq": hub.statistics().seq,
        "entered": entered,
        "leaving": time.perf_counter() - left,
        "statistics": None if statistics is None else asdict(statistics),
        "said": said,
        "with": with_bridge.told(),
        "without": without.told(),
        "peak_bytes": _peak_bytes(),
        "history": {name: hub.get_scalar(name).data[0].tolist() for name in names[:5]},
    }
    partial = folder / f"{rank}.partial"
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.rename(folder / f"{rank}.result")


def _hub(plan: Plan, folder: Path) -> MessageHub:
    if not plan.journaled:
        return MessageHub("run")
    hub = recover(folder) if (folder / "journal").is_dir() else MessageHub("run")
    hub.attach(Journal(folder / "journal"))
    return hub


def _peak_bytes() -> int:
    """Return the largest memory that this process has had; what its parent had before it does not count."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


# --- for the tests


@contextlib.contextmanager
def launch(
    plan: Plan, ranks: int, *, torchrun: bool = False, before: Sequence[str] = ()
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run the ranks of a plan; kill what is left of them at the end.

    Args:
        plan: what they do.
        ranks: how many there are.
        torchrun: whether that starts them; the process is it, then.
        before: words of a command that runs another, to be put before theirs.
    """
    folder = Path(plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(asdict(plan)), encoding="utf-8")
    script = ["tests.bridges.acceptance_ranks", str(folder / "plan.json")]
    commands = [[*before, sys.executable, "-m", *script]] * ranks
    if torchrun:
        agent = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", "0"]
        commands = [[*before, *agent, "-m", *script]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = []
    with (folder / "log.txt").open("ab") as log:
        try:
            for rank, command in enumerate(commands):
                own = {} if torchrun else {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
                processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env={**environment, **own}, stdout=log, stderr=log, start_new_session=True
                    )
                )
            yield processes
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # the session that it was started in, and leads
                process.wait(PATIENCE)


def until(met: Any, what: str, seconds: float = PATIENCE, folder: Path | None = None) -> None:
    """Wait for a condition; raise, with what the ranks of a folder have logged, when it is not met in time."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            log = "" if folder is None else (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
            raise TimeoutError(f"{what} has not happened in {seconds} s\n{log}")
        time.sleep(0.02)


def progress(folder: Path, rank: int) -> list[tuple[int, float]]:
    """Return the steps that a rank had published, and when."""
    path = folder / f"{rank}.progress"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return [(int(step), float(when)) for step, _, when in (line.partition(" ") for line in lines) if when]


def results(folder: Path, ranks: int, seconds: float = PATIENCE) -> list[dict[str, Any]]:
    """Wait for the ranks to end well; return what they tell."""
    paths = [folder / f"{rank}.result" for rank in range(ranks)]
    until(lambda: all(path.exists() for path in paths), "the end of all ranks", seconds, folder)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


@dataclass
class Stored:
    """What a broker has of one epoch of a rank.

    Attributes:
        frames: in the order of the log.
        seqs: of all events.
        scalars: step and value of those of each key.
        sizes: bytes of each frame.
    """

    frames: list[Frame] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    scalars: dict[str, list[tuple[int | None, Any]]] = field(default_factory=lambda: defaultdict(list))
    sizes: list[int] = field(default_factory=list)


def read_stored(url: str, run: str) -> dict[tuple[int, int], Stored]:
    """Return what a broker has of a run, by rank and epoch, in the order of epochs, as nats-py reads it."""
    found: dict[tuple[int, int], Stored] = defaultdict(Stored)
    for data in anyio.run(_read, url, Subjects(run)):
        frame = decode_frame(data)
        one = found[frame.rank, frame.epoch]
        one.frames.append(frame)
        one.sizes.append(len(data))
        if frame.kind == EVENTS:
            for event in events_of(frame.batch):
                one.seqs.append(event.seq)
                if type(event) is ScalarUpdated:
                    one.scalars[event.key].append((event.step, event.value))
    return dict(sorted(found.items()))


async def _read(url: str, subjects: Subjects) -> list[bytes]:
    client = await nats.connect(url)
    try:
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        reading = await client.jetstream().pull_subscribe(subjects.events(), stream=subjects.log, config=config)
        if not (await reading.consumer_info()).num_pending:
            return []
        found: list[bytes] = []
        while True:
            messages = await reading.fetch(256, timeout=5)
            found += [message.data for message in messages]
            if messages[-1].metadata.num_pending == 0:
                return found
    finally:
        await client.close()


def check_ranks(stored: Mapping[tuple[int, int], Stored], plan: Plan, ranks: int) -> None:
    """Check that what ranks of one life each have published is stored: all of it, once, in order."""
    assert [rank for rank, _ in stored] == list(range(ranks))
    for one in stored.values():
        assert [frame.number for frame in one.frames] == list(range(1, len(one.frames) + 1))
        assert [one.frames[0].kind, one.frames[-1].kind] == [BASE, END]
        assert one.seqs == list(range(1, len(one.seqs) + 1))
        assert sum(frame.left_out for frame in one.frames) == 0
        whole = {
            f"key/{key}": [(step, value_of(step, key)) for step in range(1, plan.steps + 1)] for key in range(plan.keys)
        }
        assert {name: values for name, values in one.scalars.items() if name.startswith("key/")} == whole


if __name__ == "__main__":
    main(Plan(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), int(os.environ.get("RANK", "0")))
