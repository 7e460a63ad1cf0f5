"""Trains the dense model and registers it as the next version: `python train.py --seed 1`.

Your own training takes the place of this file. Reprune needs only its last lines: a folder with
`weights.safetensors` (the module's state dict), registered under the name in params.yaml.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from reprune.core.params import PARAMS_FILE, read_params
from reprune.registry.open import open_registry
from reprune.task.load import load_task
from reprune.task.seal import Sealed

ROOT = Path(__file__).resolve().parent


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--epochs", type=int, default=12)
    options = options.parse_args()
    params = read_params(ROOT / PARAMS_FILE)
    torch.set_num_threads(params.threads)
    task = Sealed(load_task(params.task, ROOT))
    module = train(task, options.epochs, options.seed)
    accuracy = accuracy_of(module, task)
    with tempfile.TemporaryDirectory() as folder:
        save_file(module.state_dict(), Path(folder) / "weights.safetensors")
        tags = {"seed": str(options.seed), "tune_accuracy": f"{accuracy:.4f}"}
        registry = open_registry(params.registry, ROOT)
        version = registry.register(params.name, Path(folder), tags)
    print(f"{params.name} version {version}: {accuracy:.1%} of the split `tune` right")


def train(task, epochs, seed):
    torch.manual_seed(seed)
    module = task.model()
    steps = epochs * sum(1 for _ in task.batches("train", epoch=0, seed=seed))
    optimizer = torch.optim.SGD(
        module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        module.train()
        total, count = 0.0, 0
        for batch in task.batches("train", epoch=epoch, seed=seed):
            loss = task.loss(module, batch, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total, count = total + float(loss.detach()) * len(batch), count + len(batch)
        print(f"epoch {epoch + 1} of {epochs}: loss {total / count:.4f}", flush=True)
    return module


def accuracy_of(module, task):
    module.eval()
    correct, count = 0, 0
    with torch.no_grad():
        for batch in task.batches("tune", epoch=0, seed=0):
            correct += int(task.records((module(*batch.inputs),), batch)["correct"].sum())
            count += len(batch)
    return correct / count


if __name__ == "__main__":
    main()
