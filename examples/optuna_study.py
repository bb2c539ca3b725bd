"""A search by Optuna: each trial trains with a hub of its own, is pruned by a rule, and keeps a journal.

python examples/optuna_study.py
"""

import optuna
import torch
from sklearn.datasets import load_digits

from asynchub import Journal
from asynchub.integrations.optuna import trial_hub
from asynchub.subscribers.optuna import OptunaPruning

torch.set_num_threads(1)  # for so small a model
optuna.logging.set_verbosity(optuna.logging.WARNING)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16


def objective(trial):
    torch.manual_seed(0)
    width = trial.suggest_int("width", 4, 64, log=True)
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.suggest_float("lr", 1e-3, 1.0, log=True), momentum=0.9)
    journal = Journal(f"run/{trial.number}/journal")
    with trial_hub(trial, OptunaPruning(trial, "val/accuracy"), journal=journal) as hub:
        for _ in range(8):
            for batch in torch.randperm(1400).split(64):
                hub.step += 1
                loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                hub.update_scalar("train/loss", loss)
            accuracy = (model(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()
            hub.update_scalar("val/accuracy", accuracy)
            hub.settle()
            if hub.stop_requested:
                break
        return accuracy


study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
)
study.optimize(objective, n_trials=12)
for trial in study.trials:
    print(f"{trial.number:2} {trial.state.name:8} {trial.user_attrs['steps']:3} steps", trial.params)
print(f"best: trial {study.best_trial.number}, {study.best_value:.1%}")
