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
from reprune.task.outputs import outputs_of
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
    score = score_of(module, task)
    with tempfile.TemporaryDirectory() as folder:
        save_file(module.state_dict(), Path(folder) / "weights.safetensors")
        tags = {"seed": str(options.seed), "tune_score": f"{score:.4f}"}
        registry = open_registry(params.registry, ROOT)
        version = registry.register(params.name, Path(folder), tags)
    print(f"{params.name} version {version}: {score:.1%} on the split `tune`")


def train(task, epochs, seed):
    torch.manual_seed(seed)
    module = task.model()
    steps = epochs * sum(1 for _ in task.batches("train", epoch=0, seed=seed))
    make_optimizer = getattr(task, "optimizer", sgd)
    optimizer = make_optimizer(module.parameters())
    highest = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, steps, pct_start=0.2)
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


def sgd(params):
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)


def score_of(module, task):
    """On the split `tune`: the share of right answers, or the ratio (Dice, F1) of the task's records;
    of predicted numbers, 1 less their mean error as a share of the range.
    """
    module.eval()
    above, below = 0, 0
    with torch.no_grad():
        for batch in task.batches("tune", epoch=0, seed=0):
            records = task.records(outputs_of(module, batch.inputs), batch)
            if "predicted" in records:
                missed = abs(records["predicted"] - records["target"]).sum() / 1_000_000
                above, below = above + len(batch) - float(missed), below + len(batch)
                continue
            above += int(records["correct" if "correct" in records else "numerator"].sum())
            below += int(records["denominator"].sum()) if "denominator" in records else len(batch)
    return above / below


if __name__ == "__main__":
    main()
