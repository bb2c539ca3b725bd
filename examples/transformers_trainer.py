"""The Trainer of transformers with a hub in it: a rule ends the training, an observer prints, the journal keeps all.

python examples/transformers_trainer.py
"""

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments

from asynchub import EarlyStopping, Journal, MessageHub, recover
from asynchub.integrations.transformers import HubTrainerCallback


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    def forward(self, images, labels):
        logits = self.layers(images)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def accuracy(prediction):
    return {"accuracy": (prediction.predictions.argmax(1) == prediction.label_ids).mean()}


def main():
    torch.set_num_threads(1)  # for so small a model
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    digits = [{"images": image.float() / 16, "labels": label} for image, label in zip(images, labels, strict=True)]

    hub = MessageHub("digits")
    hub.attach(EarlyStopping("eval_accuracy", mode="max", patience=2, min_delta=0.002))

    @hub.on("eval_accuracy")
    def show(event):
        print(f"step {event.step:4}: {event.value:.3f}")

    trainer = Trainer(
        Classifier(),
        TrainingArguments(
            "run/out", num_train_epochs=50, per_device_train_batch_size=64, per_device_eval_batch_size=400,
            learning_rate=0.02, logging_steps=10, eval_strategy="epoch", save_strategy="no", report_to="none",
            disable_tqdm=True, dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=digits[:1400],
        eval_dataset=digits[1400:],
        compute_metrics=accuracy,
        callbacks=[HubTrainerCallback(hub, journal=Journal("run/journal"))],
    )  # fmt: skip
    with hub:  # left at once if training raises
        trainer.train()
    print(f"epoch {trainer.state.epoch:g}; {hub.stop_reason or 'all of them'}")
    print(len(recover("run").get_scalar("loss").data[0]), "losses in the journal")


if __name__ == "__main__":
    main()
