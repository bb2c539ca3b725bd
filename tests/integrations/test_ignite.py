"""Real engines of ignite with a hub in them: what they log, value by value; stopped, asked, killed, resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.handlers import Checkpoint, DiskSaver, LRScheduler
from ignite.handlers.base_logger import BaseLogger, BaseOptimizerParamsHandler, BaseOutputHandler
from ignite.metrics import Accuracy, ConfusionMatrix, Loss, RunningAverage
from sklearn.datasets import load_digits
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from asynchub.errors import ArgumentError, LifecycleError, StateDictError
from asynchub.events import CheckpointSaved, Event, Rewound, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.integrations.ignite import Attached, HubHandler
from asynchub.journal.journal import Journal
from asynchub.journal.recovering import recover
from asynchub.requests import CheckpointRequested, ParameterChangeRequested, RequestApplied, RequestRefused
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.plateau import ReduceLROnPlateau

ROOT = Path(__file__).parent.parent.parent
LENGTH = 4
"""Batches in an epoch."""


def digits(first: int) -> DataLoader[Any]:
    """Return batches of every ninth of the digits, from ``first`` on."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images[first::9] / 16, dtype=torch.float32), torch.tensor(labels[first::9]))
    return DataLoader(data, batch_size=50)


class Run:
    """A trainer that an evaluator looks at after each epoch, and a hub in them.

    Attributes:
        hub: the hub.
        trainer: puts out the loss as the tensor it is, and how many were right.
        evaluator: has accuracy, loss and a confusion matrix.
    """

    def __init__(self, hub: MessageHub | None = None, lr: float = 0.5, **options: Any) -> None:
        torch.manual_seed(0)
        self.hub = MessageHub("run") if hub is None else hub
        self.model = nn.Linear(64, 10)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        self.trainer = Engine(self.step)
        self.evaluator = create_supervised_evaluator(
            self.model,
            {
                "accuracy": Accuracy(),
                "loss": Loss(nn.functional.cross_entropy),
                "confusion": ConfusionMatrix(num_classes=10),
            },
        )
        self.handler = HubHandler(self.hub, optimizer=self.optimizer, **options)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.evaluator.run(digits(1)))

    def step(self, engine: Engine, batch: Any) -> dict[str, Any]:
        images, labels = batch
        self.optimizer.zero_grad()
        scores = self.model(images)
        loss = nn.functional.cross_entropy(scores, labels)
        loss.backward()
        self.optimizer.step()
        right = (scores.argmax(1) == labels).float().sum()
        return {"loss": loss.detach(), "right": right, "scores": scores.detach()}

    def attach(self) -> Attached:
        return self.handler.attach(self.trainer, {"val": self.evaluator})

    def go(self, epochs: int = 3) -> Run:
        self.trainer.run(digits(0), max_epochs=epochs)
        return self

    def saver(self, folder: Path, n_saved: int | None = None) -> Checkpoint:
        to_save = {"model": self.model, "optimizer": self.optimizer, "trainer": self.trainer, "hub": self.handler}
        return Checkpoint(to_save, DiskSaver(str(folder), create_dir=True, require_empty=False), n_saved=n_saved)

    def load(self, path: Path) -> None:
        to_load = {"model": self.model, "optimizer": self.optimizer, "trainer": self.trainer, "hub": self.handler}
        Checkpoint.load_objects(to_load, path)


def series(hub: MessageHub) -> dict[str, list[tuple[int | None, float]]]:
    """Return steps and values of each scalar of a hub."""
    found: dict[str, list[tuple[int | None, float]]] = {}
    for event in hub.past(hub.subscribe(ScalarUpdated)._cursor.selection, "all", None):  # type: ignore[attr-defined]
        found.setdefault(event.key, []).append((event.step, event.value))  # type: ignore[attr-defined]
    return found
