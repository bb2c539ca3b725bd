"""An engine of ignite with a hub in it: a rule ends the run, another lowers the learning rate, an observer prints.

python examples/ignite_engine.py
"""

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.handlers import Checkpoint
from ignite.metrics import Accuracy
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from asynchub import EarlyStopping, MessageHub, ReduceLROnPlateau
from asynchub.integrations.ignite import HubHandler


def main():
    torch.manual_seed(0)
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    train = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True)
    val = DataLoader(TensorDataset(images[1400:], labels[1400:]), batch_size=397)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def step(engine, batch):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.detach()  # a tensor: the hub reads it, when it has it, and the loop does not wait

    trainer = Engine(step)
    evaluator = create_supervised_evaluator(model, {"accuracy": Accuracy()})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(val))

    hub = MessageHub("digits")
    hub.attach(ReduceLROnPlateau(optimizer, "val/accuracy", mode="max", patience=1, threshold=0.002))
    hub.attach(EarlyStopping("val/accuracy", mode="max", patience=4, min_delta=0.002))
    handler = HubHandler(hub, optimizer=optimizer)
    handler.attach(trainer, {"val": evaluator})
    to_save = {"model": model, "optimizer": optimizer, "trainer": trainer, "hub": handler}
    saver = Checkpoint(to_save, "checkpoints", n_saved=2)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)

    @hub.on("val/accuracy")
    def show(event):
        print(f"step {event.step:4}: {event.value:.3f}")

    trainer.run(train, max_epochs=50)
    print(f"{trainer.state.epoch} epochs; {hub.stop_reason or 'all of them'}; saved in {saver.last_checkpoint}")


if __name__ == "__main__":
    main()
