"""A plain training script: two rules and two logs, in a loop of one's own.

python examples/plain_loop.py
"""

import torch
from sklearn.datasets import load_digits

from asynchub import CsvLogger, EarlyStopping, JsonlLogger, MessageHub, ReduceLROnPlateau

digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

hub = MessageHub.get_instance("plain")
hub.attach(EarlyStopping("val/accuracy", mode="max", patience=5))
hub.attach(ReduceLROnPlateau(optimizer, "val/loss", factor=0.5, patience=2))
hub.attach(JsonlLogger("run/metrics.jsonl"))
hub.attach(CsvLogger("run/metrics.csv"))

with hub:
    for epoch in range(1, 51):
        hub.update_info("epoch", epoch)
        for start in range(0, 1400, 50):
            batch = slice(start, start + 50)
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hub.step += 1
            hub.update_scalar("train/loss", loss.detach())
        with torch.no_grad():
            logits = model(images[1400:])
            hub.update_scalars(
                {
                    "val/loss": torch.nn.functional.cross_entropy(logits, labels[1400:]),
                    "val/accuracy": (logits.argmax(1) == labels[1400:]).float().mean(),
                }
            )
        hub.settle()
        if hub.stop_requested:
            break

print(f"epoch {epoch}, step {hub.step}: {hub.stop_reason or 'all epochs done'}")
print(f"accuracy {hub.get_scalar('val/accuracy').max():.3f}, learning rate {optimizer.param_groups[0]['lr']}")
