"""A Trainer of Lightning with a hub in it: a rule ends the training, an observer prints, the journal keeps everything.

python examples/lightning_trainer.py
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from asynchub import EarlyStopping, Journal, MessageHub, recover
from asynchub.integrations.lightning import HubCallback


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    def training_step(self, batch, index):
        loss = torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val_accuracy", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


def main():
    seed_everything(0, verbose=False)
    torch.set_num_threads(1)  # for so small a model
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16

    hub = MessageHub("digits")
    hub.attach(EarlyStopping("val_accuracy", mode="max", patience=2, min_delta=0.002))

    @hub.on("val_accuracy")
    def show(event):
        print(f"step {event.step:4}: {event.value:.3f}")

    trainer = Trainer(
        max_epochs=50,
        logger=False,  # the callback publishes the tensors themselves: nothing waits for the GPU
        callbacks=[HubCallback(hub, journal=Journal("run/journal"))],
        enable_progress_bar=False,
    )
    train = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True)
    trainer.fit(Classifier(), train, DataLoader(TensorDataset(images[1400:], labels[1400:]), batch_size=64))
    print(f"{trainer.current_epoch} epochs; {hub.stop_reason or 'all of them'}")
    print(len(recover("run").get_scalar("loss").data[0]), "losses in the journal")


if __name__ == "__main__":
    main()
