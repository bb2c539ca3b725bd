"""A loop with an Accelerator and a hub: a rule ends it, and its state is in the accelerator's checkpoints.

python examples/accelerate_loop.py
accelerate launch examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from asynchub import EarlyStopping, MessageHub
from asynchub.integrations.accelerate import HubTracker


def main():
    hub = MessageHub("digits")
    hub.attach(EarlyStopping("val/accuracy", mode="max", patience=3, min_delta=0.002))

    @hub.on("val/accuracy")
    def show(event):
        print(f"step {event.step:4}: {event.value:.3f}")

    tracker = HubTracker(hub)
    accelerator = Accelerator(log_with=tracker)
    accelerator.init_trackers("digits", config={"lr": 0.01})

    torch.manual_seed(0)
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    data = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    tracker.attach(accelerator, optimizer)  # before accelerator.load_state, on all processes

    step, epoch, stop = 0, 0, False
    while epoch < 50 and not stop:
        for inputs, targets in data:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            accelerator.log({"train/loss": loss.detach()}, step=step)
        epoch += 1
        with torch.no_grad():
            right = model(images[1400:].to(accelerator.device)).argmax(1).cpu() == labels[1400:]
        accelerator.log({"val/accuracy": right.float().mean()}, step=step)
        stop = tracker.settle()  # all processes get the same answer
        accelerator.save_state(f"checkpoints/epoch={epoch}")
    accelerator.end_training()
    accelerator.print(f"{epoch} epochs; {hub.stop_reason or 'all of them'}")


if __name__ == "__main__":
    main()
