"""A real Trainer of Lightning with a hub in it: the same metrics, the same run, stopped, resumed, killed."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from asynchub.errors import ArgumentError, JournalError, StateError
from asynchub.events import CheckpointSaved, Event, InfoUpdated, Rewound, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.integrations.lightning import STATUS_KEY, HubCallback, HubLogger
from asynchub.journal.journal import Journal
from asynchub.requests import CheckpointRequested, ParameterChangeRequested, RequestApplied, RequestRefused
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.plateau import ReduceLROnPlateau

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning"),
]
ROOT = Path(__file__).parent.parent.parent
SIZES = (160, 80)
"""Digits to train with, and to validate with."""


def digits(first: int, count: int) -> TensorDataset:
    images, labels = load_digits(return_X_y=True)
    part = slice(first, first + count)
    return TensorDataset(torch.tensor(images[part] / 16, dtype=torch.float32), torch.tensor(labels[part]))


class Classifier(LightningModule):
    """One layer, and metrics of every kind."""

    def __init__(self, lr: float = 0.3, loaders: int = 1, scheduled: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(64, 10)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        images, labels = batch
        scores = self.layer(images)
        loss = torch.nn.functional.cross_entropy(scores, labels)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(labels))
        self.log("right", (scores.argmax(1) == labels).float().sum(), on_step=True, on_epoch=False)
        self.log("batch", float(index), on_epoch=False, on_step=True)
        self.log("secret", loss, logger=False)
        return loss

    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        images, labels = batch
        scores = self.layer(images)
        self.log("val_loss", torch.nn.functional.cross_entropy(scores, labels), on_step=True, on_epoch=True)
        self.log("val_acc", (scores.argmax(1) == labels).float().mean())

    def test_step(self, batch: Any, index: int) -> None:
        images, labels = batch
        self.log("test_loss", torch.nn.functional.cross_entropy(self.layer(images), labels))

    def on_validation_epoch_end(self) -> None:
        self.log("val_epochs", float(self.current_epoch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)

    def train_dataloader(self) -> Any:
        return DataLoader(digits(0, SIZES[0]), batch_size=16)

    def val_dataloader(self) -> Any:
        made = [DataLoader(digits(SIZES[0] * (1 + n), SIZES[1]), 40) for n in range(self.hparams["loaders"])]
        return made if len(made) > 1 else made[0]

    def test_dataloader(self) -> Any:
        return DataLoader(digits(1000, 80), batch_size=40)


def model(**hparams: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(**hparams)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "logger": False,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
        "default_root_dir": folder,
    }
    return Trainer(callbacks=list(callbacks), **{**defaults, **options})


class Seen:
    """An observer that keeps all that it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, events: Any) -> None:
        async for event in events:
            self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def series(hub: MessageHub, *without: str) -> dict[str, list[tuple[int | None, float]]]:
    """Return every history as pairs of step and value."""
    found: dict[str, list[tuple[int | None, float]]] = {}
    for key in hub.log_scalars:
        with hub.subscribe(key, replay="all", name="test") as events:
            pairs = []
            hub.close() if False else None
            events.close()
            pairs = [(event.step, event.value) for event in drained(events) if isinstance(event, ScalarUpdated)]
        if key not in without:
            found[key] = pairs
    return found


def drained(events: Any) -> list[Any]:
    import anyio

    async def read() -> list[Any]:
        return [event async for event in events]

    return anyio.run(read)
