"""Trains one member of the set and registers it: `python train_member.py detector --epochs 8`.

It stands for the training that each member already has. `train.py` is what `reprune init` wrote.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from train import ROOT, score_of, train

from reprune.core.params import PARAMS_FILE, read_params
from reprune.registry.open import open_registry
from reprune.task.load import load_task
from reprune.task.seal import Sealed


def main():
    params = read_params(ROOT / PARAMS_FILE)
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("member", choices=sorted(params.members))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--epochs", type=int, default=8)
    options = options.parse_args()
    torch.set_num_threads(params.threads)
    task = Sealed(load_task(params.task, ROOT).tasks[options.member])
    module = train(task, options.epochs, options.seed)
    name = params.members[options.member]
    with tempfile.TemporaryDirectory() as folder:
        save_file(module.state_dict(), Path(folder) / "weights.safetensors")
        tags = {"seed": str(options.seed)}
        version = open_registry(params.registry, ROOT).register(name, Path(folder), tags)
    print(f"{name} version {version}: {score_of(module, task):.1%} on the split `tune`")


if __name__ == "__main__":
    main()
