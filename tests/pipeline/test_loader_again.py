"""A loader that a program makes anew for each epoch, under one name."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from asynchub import MessageHub, Pipeline


def test_loaders_made_anew_for_each_epoch_are_one_to_the_pipeline() -> None:
    data = TensorDataset(torch.arange(24))
    with Pipeline(MessageHub("run"), interval=100, window=100) as mon:
        for _ in range(3):
            for _ in mon.consume(mon.dataloader(DataLoader(data, 4))):
                pass
    assert len(mon.parts.workers) == 1
    counted = {stage.name: stage.items for stage in mon.report().stages}
    assert counted == {"loader.dataset": 72, "loader.collate": 18}
