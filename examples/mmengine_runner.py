"""A runner of mmengine on asynchub's hub: a rule ends the training, an observer prints each validation.

python examples/mmengine_runner.py
"""

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from asynchub import EarlyStopping
from asynchub.integrations.mmengine import HubHook, install


class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images, labels, mode="tensor"):
        scores = self.layers(images)
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(scores, labels)}
        return [(scores.argmax(1) == labels).tolist()]


class Accuracy(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples[0]

    def compute_metrics(self, results):
        return {"accuracy": sum(results) / len(results)}


def loader(images, labels, shuffle):
    return {
        "dataset": TensorDataset(images, labels),
        "sampler": {"type": "DefaultSampler", "shuffle": shuffle},
        "collate_fn": {"type": "default_collate"},
        "batch_size": 64,
    }


def main():
    install()  # from here on, mmengine's modules use asynchub's MessageHub and HistoryBuffer
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    runner = Runner(
        model=Classifier(),
        work_dir="work_dir",
        train_dataloader=loader(images[:1400], labels[:1400], shuffle=True),
        val_dataloader=loader(images[1400:], labels[1400:], shuffle=False),
        val_evaluator=[Accuracy()],
        train_cfg={"by_epoch": True, "max_epochs": 50},
        val_cfg={},
        optim_wrapper={"optimizer": {"type": "Adam", "lr": 0.01}},
        custom_hooks=[HubHook()],
        randomness={"seed": 0},
        log_level="ERROR",
    )
    hub = runner.message_hub
    hub.attach(EarlyStopping("val/accuracy", mode="max", patience=2, min_delta=0.002))

    @hub.on("val/accuracy")
    def show(event):
        print(f"step {event.step:4}: {event.value:.3f}")

    runner.train()
    print(f"{runner.epoch} epochs; {hub.stop_reason or 'all of them'}")


if __name__ == "__main__":
    main()
