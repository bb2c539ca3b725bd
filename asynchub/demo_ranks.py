"""The main job on several ranks: ``torchrun --nproc-per-node 2 -m asynchub demo``, options behind ``-- demo``.

Each rank has a hub, a journal, and its part of each batch; gradients are averaged, scalars reduced, and rules on each
rank decide the same, at the same step, because they read what was reduced. With a broker every rank sends its events
there; the run needs it for nothing. What people ask of rank 0, through its folder, all ranks apply at the same step.

Files: rank 0 has the folder of the run, rank ``r`` the folder ``ranks/r`` in it. A checkpoint is the model, written by
rank 0 after each rank has written down at which event it goes on from there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from asynchub.bridges.bridge import Bridge
from asynchub.bridges.reducer import Reducer
from asynchub.demo import (
    ALLOWED,
    Digits,
    Settings,
    Training,
    check_resumable,
    choose_folder,
    newest_checkpoint,
)
from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.subscribers.console import ConsoleLogger
from asynchub.subscribers.csv import CsvLogger
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.jsonl import JsonlLogger
from asynchub.subscribers.plateau import ReduceLROnPlateau
from asynchub.subscribers.remote_control import RemoteControl
from asynchub.tables import Column, table_lines

__all__ = ("RankDigits", "RankTraining", "run_demo_ranks")

EVERY = 5
"""Steps from one reduction to the next."""
ALLOWED_RANKS = tuple(rule for rule in ALLOWED if rule != "pause")
"""What may be asked of the ranks, through the folder of rank 0 or a broker: they cannot pause."""


class RankDigits(Digits):
    """One rank's part of the digits."""

    def __init__(self, seed: int, rank: int, world: int) -> None:
        super().__init__(seed)
        self._part = slice(rank, None, world)
        self._world = world
        images, labels = self.validation
        self.validation = images[self._part], labels[self._part]

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield its part of each batch; the last batch is left out where it has not one for each rank."""
        for images, labels in super().batches(epoch):
            if len(labels) >= self._world:
                yield images[self._part], labels[self._part]


class RankTraining(Training):
    """One rank's training."""

    def __init__(self, hub: MessageHub, run: Path, seed: int, rank: int, world: int) -> None:
        super().__init__(hub, run, seed)
        self.digits = RankDigits(seed, rank, world)
        self._rank = rank
        self.loss_keys = ("train/loss", f"rank{rank}/loss")

    def begin(self) -> None:
        """Have gradients averaged over the ranks from now on; the weights of rank 0 are those of all."""
        self.forward = DistributedDataParallel(self.model)

    @torch.inference_mode()
    def evaluate(self) -> None:
        """Record loss and accuracy on this rank's validation images, as sums over them."""
        images, labels = self.digits.validation
        logits = self.model(images)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        right = (logits.argmax(1) == labels).sum()
        count = len(labels)
        self.hub.update_scalars(
            {"val/loss": {"value": loss, "count": count}, "val/accuracy": {"value": right, "count": count}}
        )

    def checkpoint(self, epoch: int) -> None:
        """Write down where this rank goes on; when all have, rank 0 writes the model."""
        mark = self.hub.mark()
        self.hub.commit()
        if self._rank:
            path = self._run / f"mark-{epoch:04}.json"
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(mark))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        dist.barrier()
        if not self._rank:
            self.write_model(epoch, mark)
        dist.barrier()
        for older in sorted(self._run.glob("mark-*.json"))[:-2]:
            older.unlink()

    def run(self, epochs: int) -> None:
        """Train."""
        with self.hub:
            self.checkpoint(self.hub.get_info("epoch", 0))
            for epoch in range(self.hub.get_info("epoch", 0) + 1, epochs + 1):
                self.begin_epoch(epoch)
                for images, labels in self.digits.batches(epoch):
                    self.step(images, labels)
                    self.hub.settle()  # what was reduced is published here, at the same steps on all ranks
                self.evaluate()
                self.hub.settle()
                self.hub.async_save(self._run)
                self.checkpoint(epoch)
                if self.hub.stop_requested:
                    break


def run_demo_ranks(settings: Settings, file: TextIO | None = None) -> int:
    """Do the main job as one of several ranks; return the exit status.

    Raises:
        ArgumentError: there is nothing to resume, or an argument is out of range; on all ranks alike.
        StateError: the saved state is damaged.
    """
    if settings.asynchronous:
        raise ArgumentError("--async is for one rank; leave it out under torchrun")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        rank, world = dist.get_rank(), dist.get_world_size()
        run = _same_folder(settings, rank)
        return _train(settings, run, rank, world, file)
    finally:
        dist.destroy_process_group()


def _same_folder(settings: Settings, rank: int) -> Path:
    """Return the folder that rank 0 has chosen; raise on all ranks what it has raised."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) and settings.run is not None:
        return settings.run  # torchrun has begun anew after a rank was lost: go on in the same folder
    found = ""
    if not rank:
        try:
            found = f"+{choose_folder(settings)}"
        except ArgumentError as error:
            found = f"-{error}"
    data = torch.zeros(4096, dtype=torch.uint8)
    text = found.encode()[:4096]
    data[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
    dist.broadcast(data, 0)
    told = bytes(data.tolist()).rstrip(b"\0").decode()
    if told.startswith("-"):
        raise ArgumentError(told[1:])
    return Path(told[1:])


def _train(settings: Settings, run: Path, rank: int, world: int, file: TextIO | None) -> int:
    own = run / "ranks" / str(rank) if rank else run
    checkpoint = newest_checkpoint(run)
    hub, resumed = _hub_of(settings, run, own, rank, checkpoint)
    training = RankTraining(hub, own, settings.seed, rank, world)
    if checkpoint:
        training.take_in(checkpoint)
    training.begin()
    hub.attach(Journal(own / "journal"))
    reducer = Reducer(hub, {"train/*": "mean", "rank*/*": "mean", "val/*": "mean"}, every=EVERY, at_once=("val/*",))
    hub.attach(EarlyStopping("all/val/accuracy", mode="max", patience=settings.patience))
    hub.attach(ReduceLROnPlateau(training.optimizer, "all/val/loss", factor=0.5, patience=2))
    hub.attach(RemoteControl(own, allow=ALLOWED_RANKS, parameters=(training.learning_rate,), agree=reducer.request))
    bridge = None
    if settings.broker is not None:
        spool = run / "spool"
        bridge = Bridge(hub, settings.broker, run=run.name, spool=spool, allow=ALLOWED_RANKS, agree=reducer.request)
    curves = [f"all/rank{other}/loss" for other in range(world)]
    if not rank:
        hub.attach(JsonlLogger(run / "metrics.jsonl"))
        late = ("all/train/loss", "all/train/accuracy", "all/train/grad_norm", "all/train/lr")
        results = ("all/val/loss", "all/val/accuracy")
        hub.attach(CsvLogger(run / "metrics.csv", columns=(*late, *curves, *results, "val/loss", "val/accuracy")))
        if not settings.quiet:
            total = settings.epochs * len(training.digits)
            hub.attach(ConsoleLogger("all/train/loss", *curves, "all/val/*", total=total))
            if resumed:
                print(f"resuming {run} after epoch {hub.get_info('epoch', 0)}, step {hub.step}", file=file)
    hub.update_info("patience", settings.patience)
    hub.update_info("max_epochs", settings.epochs)
    first_step, start = hub.step, time.perf_counter()
    if hub.stop_requested:
        hub.close()
    else:
        training.run(settings.epochs)
    waiting = 0 if bridge is None else bridge.statistics().waiting
    table = _table(hub, hub.step - first_step, time.perf_counter() - start, waiting, world)
    if not rank:
        print(_summary(hub, run, settings, table, world), file=file)
    return 0


def _hub_of(
    settings: Settings, run: Path, own: Path, rank: int, checkpoint: dict[str, Any] | None
) -> tuple[MessageHub, bool]:
    """Return this rank's hub, and whether it was there before."""
    if not (own / "journal").exists():
        hub = MessageHub(f"demo {run.name} rank {rank}")
        hub.update_info("seed", settings.seed)
        return hub, False
    mark = None if checkpoint is None else checkpoint["mark"]
    if rank:
        epoch = sorted(run.glob("model-*.pt"))[-1].stem.partition("-")[2]
        mark = json.loads((own / f"mark-{epoch}.json").read_text())
    hub = recover(own, mark=mark)
    check_resumable(hub, settings, run)
    return hub, True


def _table(hub: MessageHub, steps: int, seconds: float, waiting: int, world: int) -> list[list[float]]:
    """Return a row of figures for each rank."""
    loss = hub.get_scalar("train/loss").mean(20) if "train/loss" in hub.log_scalars else float("nan")
    mine = torch.tensor([float(hub.step), float(steps), float(loss), seconds, float(waiting)], dtype=torch.float64)
    rows = [torch.zeros_like(mine) for _ in range(world)]
    dist.all_gather(rows, mine)
    return [row.tolist() for row in rows]


def _summary(hub: MessageHub, run: Path, settings: Settings, table: list[list[float]], world: int) -> str:
    why = f"stopped: {hub.stop_reason}" if hub.stop_requested else f"all {settings.epochs} epochs done"
    lines = ["", f"Epoch {hub.get_info('epoch')}, step {hub.step}, {world} ranks, {why}"]
    if "all/val/accuracy" in hub.log_scalars:
        values, counts = hub.get_scalar("all/val/accuracy").data
        accuracy = values / counts
        best = int(accuracy.argmax()) + 1
        lines.append(
            f"  validation accuracy  {100 * accuracy[-1]:.2f} %, best {100 * accuracy.max():.2f} % at epoch {best}, "
            "over the images of all ranks"
        )
    columns = [
        Column("rank", [str(rank) for rank in range(world)]),
        Column("step", [f"{row[0]:.0f}" for row in table]),
        Column("mean of its last 20 losses", [f"{row[2]:.4f}" for row in table]),
        Column("a step took", [f"{1000 * row[3] / row[1]:.1f} ms" if row[1] else "-" for row in table]),
    ]
    if settings.broker is not None:
        columns.append(Column("frames not sent", [f"{row[4]:.0f}" for row in table]))
    lines += ["", *(f"  {line}" for line in table_lines(columns, 100)), ""]
    if any(row[4] for row in table):
        lines += [f"The broker was away at the end: asynchub spool push {run / 'spool'} {settings.broker}", ""]
    again = f"--run {run} --resume --patience {2 * settings.patience}"
    lines.append(f"Train on:  torchrun --nproc-per-node {world} -m asynchub -- demo {again}")
    return "\n".join(lines)
