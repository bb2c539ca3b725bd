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

from asynchub import EarlyStopping, Journal
from asynchub.integrations.mmengine import HubHook, install

install()  # from here on, mmengine's modules use asynchub's MessageHub and HistoryBuffer
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
digits = TensorDataset(images.float() / 16, labels)


class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images, labels, mode="tensor"):
        scores = self.layers(images)
        return {"loss": nn.functional.cross_entropy(scores, labels)} if mode == "loss" else [(scores, labels)]


class Accuracy(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [(scores.argmax(1) == labels).tolist() for scores, labels in data_samples]

    def compute_metrics(self, results):
        return {"accuracy": sum(map(sum, results)) / sum(map(len, results))}


def loader(indices, shuffle):
    sampler = {"type": "DefaultSampler", "shuffle": shuffle}
    part = torch.utils.data.Subset(digits, indices)
    return {"dataset": part, "sampler": sampler, "collate_fn": {"type": "default_collate"}, "batch_size": 64}


runner = Runner(
    Classifier(), "work_dir",
    train_dataloader=loader(range(1400), True), train_cfg={"by_epoch": True, "max_epochs": 50},
    val_dataloader=loader(range(1400, 1797), False), val_cfg={}, val_evaluator=[Accuracy()],
    optim_wrapper={"optimizer": {"type": "Adam", "lr": 0.01}}, custom_hooks=[HubHook(journal=Journal("run/journal"))],
    randomness={"seed": 0}, log_level="ERROR",
)  # fmt: skip
hub = runner.message_hub
hub.attach(EarlyStopping("val/accuracy", mode="max", patience=2, min_delta=0.002))
hub.on("val/accuracy")(lambda event: print(f"step {event.step:4}: {event.value:.3f}"))
runner.train()
print(f"{runner.epoch} epochs; {hub.stop_reason or 'all of them'}")
