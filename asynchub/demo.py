"""The main job: a small convolutional network on scikit-learn's handwritten digits, recorded, watched and steered.

Everything about the run goes through one hub: a console or a progress bar shows it, JSONL and CSV keep it, early
stopping and plateau scheduling decide at the end of each epoch, and the model is saved there. A run that is killed at
any moment goes on with ``resume`` as if it had not been: the journal has every event, and the checkpoint of the model
says up to which of them the run counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import anyio
import anyio.to_thread
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from asynchub.bridges.bridge import Bridge
from asynchub.declaring import Parameter
from asynchub.errors import ArgumentError
from asynchub.generations import list_generations
from asynchub.hub import MessageHub
from asynchub.integrations.hosting import change_parameter
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import CheckpointRequested, ParameterChangeRequested
from asynchub.subscribers.console import ConsoleLogger
from asynchub.subscribers.csv import CsvLogger
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.jsonl import JsonlLogger
from asynchub.subscribers.plateau import ReduceLROnPlateau
from asynchub.subscribers.remote_control import RemoteControl

__all__ = (
    "ALLOWED",
    "Digits",
    "Settings",
    "Training",
    "check_resumable",
    "choose_folder",
    "newest_checkpoint",
    "run_demo",
)

BATCH = 64
VALIDATION = 360
LEARNING_RATE = 0.05
ALLOWED = ("stop", "checkpoint", "pause", "set/lr", "set/EarlyStopping.*")
"""What may be asked of the demo, through its folder or a broker."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the demo is asked to do; see ``asynchub demo --help``."""

    run: Path | None = None
    resume: bool = False
    asynchronous: bool = False
    epochs: int = 60
    patience: int = 8
    seed: int = 0
    quiet: bool = False
    broker: str | None = None


class Digits:
    """The 1,797 digits of scikit-learn, 8 x 8 pixels in [0, 1], split by ``seed``."""

    def __init__(self, seed: int) -> None:
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(seed))
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)[order] / 16
        labels = torch.tensor(digits.target)[order]
        self.validation = images[:VALIDATION], labels[:VALIDATION]
        self._images, self._labels = images[VALIDATION:], labels[VALIDATION:]
        self._seed = seed

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self._labels) // BATCH)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the shuffled, shifted batches of ``epoch``: the same ones in every run with this seed."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._labels), generator=generator)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
            yield self._images[chosen].roll((down, right), (2, 3)), self._labels[chosen]

    @contextlib.asynccontextmanager
    async def pipeline(self, epoch: int) -> AsyncIterator[AsyncIterable[tuple[Tensor, Tensor]]]:
        """Provide the same batches, made in a worker thread ahead of the training loop."""
        send, receive = anyio.create_memory_object_stream[tuple[Tensor, Tensor]](4)

        async def produce() -> None:
            batches = self.batches(epoch)
            async with send:
                while (batch := await anyio.to_thread.run_sync(next, batches, None)) is not None:
                    await send.send(batch)

        async with anyio.create_task_group() as tasks, receive:
            tasks.start_soon(produce)
            yield receive


class Training:
    """A network, its optimizer and its checkpoints, steered by who asks.

    A checkpoint is one file, ``model-N.pt``, that is there when it is whole. It names the event of the journal at which
    the run goes on from it.

    Attributes:
        loss_keys: the keys that the loss is recorded under.
    """

    loss_keys: tuple[str, ...] = ("train/loss",)

    def __init__(self, hub: MessageHub, run: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.hub = hub
        self.digits = Digits(seed)
        self.model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
        self.forward: nn.Module = self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True)
        self._run = run
        hub.on_request(ParameterChangeRequested, self._change_parameter)
        hub.on_request(CheckpointRequested, lambda request: None)  # one is written after each settle point anyway

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take one optimizer step and record it."""
        logits = self.forward(images)
        loss = nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        right = (logits.argmax(1) == labels).sum()
        self.hub.step += 1
        mean = {"value": loss.detach() * len(labels), "count": len(labels)}
        self.hub.update_scalars(
            {
                **dict.fromkeys(self.loss_keys, mean),
                "train/accuracy": {"value": right, "count": len(labels)},
                "train/grad_norm": norm,
                "train/lr": self.optimizer.param_groups[0]["lr"],
            }
        )

    @torch.inference_mode()
    def evaluate(self) -> None:
        """Record loss and accuracy on the validation images."""
        images, labels = self.digits.validation
        logits = self.model(images)
        self.hub.update_scalars(
            {
                "val/loss": nn.functional.cross_entropy(logits, labels),
                "val/accuracy": (logits.argmax(1) == labels).float().mean(),
            }
        )

    def write_model(self, epoch: int, mark: dict[str, Any]) -> None:
        """Write ``model-N.pt``, to go on from ``mark``; it counts when all before that is on the disk."""
        path = self._run / f"model-{epoch:04}.pt"
        temporary = path.with_suffix(".tmp")
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "mark": mark}
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        for other in self._run.glob("model-*"):
            if other != path:
                other.unlink()

    def take_in(self, checkpoint: dict[str, Any]) -> None:
        """Go on from what ``write_model`` wrote."""
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])

    @property
    def learning_rate(self) -> Parameter:
        """What people may set while it trains."""
        groups = self.optimizer.param_groups
        return Parameter("lr", lambda: groups[0]["lr"], low=1e-5, high=1.0, note="learning rate")

    def _change_parameter(self, request: ParameterChangeRequested) -> None:
        change_parameter(self.optimizer.param_groups, request)

    def begin_epoch(self, epoch: int) -> None:
        """Say which epoch this is."""
        self.hub.update_info("epoch", epoch)

    def run(self, epochs: int) -> None:
        """Train as a plain script."""
        with self.hub:
            self.hub.save(self._run)  # before the first step, so that loggers can be brought back to there
            self.write_model(self.hub.get_info("epoch", 0), self.hub.mark())
            for epoch in range(self.hub.get_info("epoch", 0) + 1, epochs + 1):
                self.begin_epoch(epoch)
                for images, labels in self.digits.batches(epoch):
                    self.step(images, labels)
                self.evaluate()
                self.hub.settle()
                self.hub.async_save(self._run)
                mark = self.hub.mark()
                self.hub.commit()
                self.write_model(epoch, mark)
                if self.hub.stop_requested:
                    break

    async def run_async(self, epochs: int) -> None:
        """Train as an asyncio program, fed by an async pipeline."""
        async with self.hub:
            await self.hub.saved(self._run)
            self.write_model(self.hub.get_info("epoch", 0), self.hub.mark())
            for epoch in range(self.hub.get_info("epoch", 0) + 1, epochs + 1):
                self.begin_epoch(epoch)
                async with self.digits.pipeline(epoch) as batches:
                    async for images, labels in batches:
                        self.step(images, labels)
                self.evaluate()
                await self.hub.settled()
                self.hub.async_save(self._run)
                mark = self.hub.mark()
                await self.hub.committed()
                await anyio.to_thread.run_sync(self.write_model, epoch, mark)
                if self.hub.stop_requested:
                    break


def run_demo(settings: Settings, file: TextIO | None = None) -> int:
    """Do the main job; return the exit status.

    Raises:
        ArgumentError: there is nothing to resume, or an argument is out of range.
        StateError: the saved state is damaged.
    """
    run = choose_folder(settings)
    torch.set_num_threads(1)  # the network is too small for more, and the same threads give the same sums
    checkpoint = newest_checkpoint(run)
    if (run / "journal").exists():
        hub = recover(run, mark=checkpoint and checkpoint["mark"])
        check_resumable(hub, settings, run)
        print(f"resuming {run} after epoch {hub.get_info('epoch', 0)}, step {hub.step}", file=file)
    else:
        hub = MessageHub(f"demo {run.name}")
        hub.update_info("seed", settings.seed)
    training = Training(hub, run, settings.seed)
    if checkpoint:
        training.take_in(checkpoint)
    hub.attach(Journal(run / "journal"))
    hub.attach(EarlyStopping("val/accuracy", mode="max", patience=settings.patience))
    hub.attach(ReduceLROnPlateau(training.optimizer, "val/loss", factor=0.5, patience=2))
    hub.attach(JsonlLogger(run / "metrics.jsonl"))
    hub.attach(CsvLogger(run / "metrics.csv", columns=("val/loss", "val/accuracy")))
    hub.attach(RemoteControl(run, allow=ALLOWED, parameters=(training.learning_rate,)))
    if not settings.quiet:
        hub.attach(ConsoleLogger("train/loss", "train/accuracy", "val/*", total=settings.epochs * len(training.digits)))
    if settings.broker is not None:
        Bridge(hub, settings.broker, run=run.name, rank=0, world=1, spool=run / "spool", allow=ALLOWED)
    hub.update_info("patience", settings.patience)
    hub.update_info("max_epochs", settings.epochs)
    first_step, start = hub.step, time.perf_counter()
    if not hub.stop_requested:
        if settings.asynchronous:
            anyio.run(training.run_async, settings.epochs)
        else:
            training.run(settings.epochs)
    else:
        hub.close()
    print(_summary(hub, run, settings, hub.step - first_step, time.perf_counter() - start), file=file)
    return 0


def choose_folder(settings: Settings) -> Path:
    """Return the folder of the run, made if need be.

    Raises:
        ArgumentError: there is nothing to resume in it, or something that is not to be; or a number is out of range.
    """
    if settings.epochs < 1 or settings.patience < 1:
        raise ArgumentError(f"epochs and patience must be above 0, got {settings.epochs} and {settings.patience}")
    run = settings.run or Path("asynchub-demo")
    if settings.resume:
        if not (run / "journal").exists():
            raise ArgumentError(f"nothing to resume in {run}: it has no journal; leave out --resume to begin a run")
        return run
    number = 2
    while run.exists() and any(run.iterdir()):
        if settings.run is not None:
            raise ArgumentError(f"{run} is not empty; continue it with --resume, or name another folder")
        run = Path(f"asynchub-demo-{number}")
        number += 1
    run.mkdir(parents=True, exist_ok=True)
    return run


def newest_checkpoint(run: Path) -> dict[str, Any] | None:
    """Return what ``Training.write_model`` wrote last; None if it has not yet."""
    paths = sorted(run.glob("model-*.pt"))
    return dict(torch.load(paths[-1])) if paths else None


def check_resumable(hub: MessageHub, settings: Settings, run: Path) -> None:
    """Check that a recovered hub is that of the run asked for; let it train on if it was given more patience.

    Raises:
        ArgumentError: it was begun with another seed.
    """
    if hub.get_info("seed") != settings.seed:
        raise ArgumentError(f"{run} was begun with --seed {hub.get_info('seed')}, got {settings.seed}")
    if hub.stop_requested and settings.patience > hub.get_info("patience"):
        hub.stop_requested = False  # it may train on: it has been given more patience than it ran out of


def _summary(hub: MessageHub, run: Path, settings: Settings, steps: int, seconds: float) -> str:
    accuracy = hub.get_scalar("val/accuracy")
    best = int(accuracy.data[0].argmax()) + 1
    rates: list[Any] = []
    for rate in hub.get_scalar("train/lr").data[0].tolist():
        if not rates or rates[-1] != rate:
            rates.append(rate)
    why = f"stopped: {hub.stop_reason}" if hub.stop_requested else f"all {settings.epochs} epochs done"
    events = (run / "metrics.jsonl").read_bytes().count(b"\n")
    pace = f", {1000 * seconds / steps:.1f} ms a step" if steps else ""
    files = {
        "metrics.jsonl": f"every event ({events:,})",
        "metrics.csv": "the scalars, one row a step",
        "journal": "the same, from where a killed run comes back",
        list_generations(run)[0].name: "a snapshot of hub and subscribers, to resume from at once",
        f"model-{hub.get_info('epoch'):04}.pt": "the network and its optimizer",
    }
    width = max(len(str(run / name)) for name in files)
    lines = [
        "",
        f"Epoch {hub.get_info('epoch')}, step {hub.step}, {why}",
        f"  validation accuracy  {100 * accuracy.current():.2f} %, best {100 * accuracy.max():.2f} % at epoch {best}",
        f"  learning rate        {' -> '.join(f'{rate:.4g}' for rate in rates)}",
        f"  time                 {seconds:.1f} s{pace}",
        "  files",
        *(f"    {f'{run / name}':<{width}}  {what}" for name, what in files.items()),
        "",
        f"Train on:  python -m asynchub demo --run {run} --resume --patience {2 * settings.patience}",
        f"What if:   python -m asynchub replay {run} --early-stopping val/accuracy:max:patience=3",
    ]
    return "\n".join(lines)
