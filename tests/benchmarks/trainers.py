"""How much longer does a step take in somebody's trainer with a hub in it, beside that trainer's own logger?

Each trainer trains one small layer on the CPU, which takes little, so that what is around it shows. µs per step, and
as a multiple of the same trainer that logs to nobody; each logs a loss and another scalar at every step. The hub has a
rule that looks at each loss. It is CPU time of the thread that trains, which a busy machine changes little; what is not
installed is left out, and said.

Not shown: the wait for a GPU that reading a metric is; there, what reads nothing gains more. What other threads do,
such as those of a writer. Checkpoints, and training in several processes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from asynchub import EarlyStopping, MessageHub
from tests.benchmarks.common import figures, header, interleave, quick, table

Group = dict[str, Callable[[], float]]
"""What a trainer is run with, the first time with nothing that logs; each returns seconds per step."""
BATCH = 16


class Layer(torch.nn.Module):
    """What is trained; it returns what transformers wants."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.layer(images)
        return {"loss": torch.nn.functional.cross_entropy(scores, labels), "logits": scores}


def batches(steps: int) -> list[dict[str, torch.Tensor]]:
    made = torch.Generator().manual_seed(0)
    images = torch.rand(steps * BATCH, 64, generator=made)
    labels = torch.randint(10, (steps * BATCH,), generator=made)
    return [{"images": image, "labels": label} for image, label in zip(images, labels, strict=True)]


def watched(key: str) -> MessageHub:
    """Return a hub with a rule that looks at each loss, and never stops."""
    hub = MessageHub("bench")
    hub.attach(EarlyStopping(key, patience=10**9))
    return hub


class Clock:
    """When training began and ended, in s of the CPU time of its thread."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.thread_time()

    def end(self, *args: Any, **kwargs: Any) -> None:
        self.ended = time.thread_time()


def lightning(steps: int, folder: Path) -> Group:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import LambdaCallback
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    from asynchub.integrations.lightning import HubCallback, HubLogger

    data = torch.utils.data.DataLoader(batches(steps), batch_size=BATCH)  # type: ignore[arg-type]  # a list will do

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Layer()

        def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
            found = self.inner(**batch)
            self.log("loss", found["loss"])
            self.log("right", (found["logits"].argmax(1) == batch["labels"]).float().sum())
            return torch.as_tensor(found["loss"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def run(logger: Any, hub: MessageHub | None) -> float:
        clock = Clock()
        first = LambdaCallback(on_train_epoch_start=clock.begin, on_train_epoch_end=clock.end)
        Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=logger,
            callbacks=[first, *([] if hub is None else [HubCallback(hub)])],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        ).fit(Module(), data)
        return (clock.ended - clock.began) / steps

    def with_logger() -> float:
        hub = watched("loss")
        return run(HubLogger(hub), hub)

    return {
        "Lightning, no logger": lambda: run(False, None),
        "CSVLogger": lambda: run(CSVLogger(folder), None),
        "TensorBoardLogger": lambda: run(TensorBoardLogger(folder), None),
        "HubCallback, tensors": lambda: run(False, watched("loss")),
        "HubCallback and HubLogger": with_logger,
    }


def transformers(steps: int, folder: Path) -> Group:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from asynchub.integrations.transformers import HubTrainerCallback

    data = batches(steps)

    class Timed(TrainerCallback, Clock):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begin()

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            self.end()

    def run(report_to: str, logging_steps: int, *callbacks: Any) -> float:
        clock = Timed()
        arguments = TrainingArguments(
            str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            logging_steps=logging_steps,
            save_strategy="no",
            report_to=report_to,
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(Layer(), arguments, train_dataset=data, callbacks=[clock, *callbacks])  # type: ignore[arg-type]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints each log
            trainer.train()
        return (clock.ended - clock.began) / steps

    return {
        "transformers, no log": lambda: run("none", steps + 1),
        "its log, printed": lambda: run("none", 1),
        "its log, TensorBoardCallback": lambda: run("tensorboard", 1),
        "its log, HubTrainerCallback": lambda: run("none", 1, HubTrainerCallback(watched("loss"))),
    }


def ignite(steps: int, folder: Path) -> Group:
    from ignite.engine import Engine, Events
    from ignite.handlers.tensorboard_logger import OutputHandler, TensorboardLogger

    from asynchub.integrations.ignite import HubHandler

    data = torch.utils.data.DataLoader(batches(steps), batch_size=BATCH)  # type: ignore[arg-type]  # a list will do

    def run(attach: Callable[[Engine], Any]) -> float:
        model, clock = Layer(), Clock()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            optimizer.zero_grad()
            found = model(**batch)
            found["loss"].backward()
            optimizer.step()
            right = (found["logits"].argmax(1) == batch["labels"]).float().sum()
            return {"loss": found["loss"].detach(), "right": right}

        trainer = Engine(step)
        trainer.add_event_handler(Events.EPOCH_STARTED, clock.begin)
        with contextlib.ExitStack() as scope:
            scope.enter_context(attach(trainer))
            trainer.add_event_handler(Events.EPOCH_COMPLETED, clock.end)
            trainer.run(data)
        return (clock.ended - clock.began) / steps

    def board(trainer: Engine) -> Any:
        logger = TensorboardLogger(log_dir=str(folder))
        handler = OutputHandler(tag="train", output_transform=lambda output: output)
        logger.attach(trainer, log_handler=handler, event_name=Events.ITERATION_COMPLETED)
        return logger

    return {
        "ignite, no logger": lambda: run(lambda trainer: contextlib.nullcontext()),
        "TensorboardLogger": lambda: run(board),
        "HubHandler": lambda: run(lambda trainer: HubHandler(watched("train/loss")).attach(trainer)),
    }


def accelerate(steps: int, folder: Path) -> Group:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from asynchub.integrations.accelerate import HubTracker

    data = torch.utils.data.DataLoader(batches(steps), batch_size=BATCH)  # type: ignore[arg-type]  # a list will do

    def run(log_with: Any = None, tracker: HubTracker | None = None) -> float:
        accelerator = Accelerator(cpu=True, log_with=log_with or tracker, project_dir=folder)
        net = Layer()
        model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
        accelerator.init_trackers("bench")
        if tracker is not None:
            tracker.attach(accelerator, optimizer)
        begun = time.perf_counter()
        for step, batch in enumerate(data, start=1):
            optimizer.zero_grad()
            found = model(**batch)
            accelerator.backward(found["loss"])
            optimizer.step()
            right = (found["logits"].argmax(1) == batch["labels"]).float().sum()
            values = {"train/loss": found["loss"].detach(), "train/right": right}
            if tracker is not None:
                accelerator.log(values, step=step)
                tracker.settle()
            elif log_with is not None:  # its tracker takes numbers
                accelerator.log({key: value.item() for key, value in values.items()}, step=step)
        took = time.perf_counter() - begun
        accelerator.end_training()
        AcceleratorState._reset_state(True)
        return took / steps

    return {
        "accelerate, no tracker": lambda: run(),
        "TensorBoardTracker": lambda: run("tensorboard"),
        "HubTracker": lambda: run(tracker=HubTracker(watched("train/loss"))),
    }


def mmengine(steps: int, folder: Path) -> Group:
    from uuid import uuid4

    from mmengine.hooks import Hook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    from asynchub.integrations.mmengine import HubHook, install

    data = batches(steps)

    class Model(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Layer()

        def forward(self, images: Any, labels: Any, mode: str = "tensor") -> dict[str, torch.Tensor]:
            found = self.inner(images, labels)
            return {"loss": found["loss"], "right": (found["logits"].argmax(1) == labels).float().sum()}

    class Timed(Hook, Clock):  # type: ignore[misc]
        def before_train_epoch(self, *args: Any, **kwargs: Any) -> None:
            self.begin()

        def after_train_epoch(self, *args: Any, **kwargs: Any) -> None:
            self.end()

    def run(interval: int, hooks: list[Any]) -> float:
        clock = Timed()
        clock.priority = "VERY_LOW"
        runner = Runner(
            model=Model(),
            work_dir=str(folder),
            train_dataloader={
                "dataset": data,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "collate_fn": {"type": "default_collate"},
                "batch_size": BATCH,
            },
            train_cfg={"by_epoch": True, "max_epochs": 1},
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
            default_hooks={"logger": {"type": "LoggerHook", "interval": interval}, "checkpoint": None},
            custom_hooks=[clock, *hooks],
            log_level="ERROR",
            experiment_name=f"bench-{uuid4().hex}",
        )
        if hooks:
            runner.message_hub.attach(EarlyStopping("train/loss", patience=10**9))
        runner.train()
        for handler in runner.logger.handlers:
            handler.close()
        return (clock.ended - clock.began) / steps

    def with_hub() -> float:
        with install():
            return run(steps + 1, [HubHook()])

    return {
        "mmengine, its hub, no log": lambda: run(steps + 1, []),
        "LoggerHook(interval=1)": lambda: run(1, []),
        "asynchub and HubHook": with_hub,
    }


TRAINERS: dict[str, Callable[[int, Path], Group]] = {
    "lightning": lightning,
    "transformers": transformers,
    "ignite": ignite,
    "accelerate": accelerate,
    "mmengine": mmengine,
}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep trainers from telling what they do."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def main(rough: bool) -> None:
    torch.set_num_threads(1)
    steps, rounds = (20, 1) if rough else (300, 11)
    groups: list[Group] = []
    with tempfile.TemporaryDirectory() as name:
        for title, make in TRAINERS.items():
            folder = Path(name) / title
            folder.mkdir()
            try:
                groups.append(make(steps, folder))
            except ImportError as error:
                print(f"left out: {title} ({error})")
        rows = {}
        for group in groups:
            with quietly():
                took = {one: figures(found) for one, found in interleave(group, rounds).items()}
            plain = next(iter(took.values())).median
            for one, found in took.items():
                alone = found.median == plain
                rows[one if alone else f"  {one}"] = [f"{found.median * 1e6:,.0f}", f"{found.median / plain:.2f}"]
    table(f"a step, median of {rounds} runs of {steps}", ["µs", "ratio"], rows)


if __name__ == "__main__":
    header("torch")
    main(quick())
