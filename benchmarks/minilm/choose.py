"""How the plans were chosen: `python -m benchmarks.minilm.choose --dense FILE`, on train and dev alone.

For each budget and each number of layers: heads and FFN columns with the least empirical Fisher information
a multiply-accumulate go, over all layers at once (Kwon et al. 2022, arXiv:2204.09656, section 4.1).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.minilm.plans import Point, cuttable, ffn_of, heads_of
from benchmarks.sst2 import FOLDER, Sst2Task, read_prepared
from reprune.compress.importance import channel_scores
from reprune.core.params import PruneParams

CRITERION, EXAMPLES = "fisher", 2048
# Multiply-accumulates a token of one head (q, k, v, out, of 32 channels) and of one FFN column.
HEAD_MACS, COLUMN_MACS = 4 * 384 * 32, 2 * 384
ROUND_TO = 32


def fisher(task: Sst2Task, dense: nn.Module) -> dict[str, Tensor]:
    """The score of each head and column, by group."""
    params = PruneParams(criterion=CRITERION, examples=EXAMPLES)
    return channel_scores(task, dense, cuttable(task, dense).groups, params, seed=0)


def allocate(scores: Mapping[str, Tensor], layers: Sequence[int], of: int, budget: float) -> Point:
    """The point of at most `budget` MACs a token: the best channels a MAC, columns rounded to 32.

    Every layer of `layers` keeps a head and 32 columns.
    """
    channels = sorted(
        (
            (float(score) / macs, kind, layer)
            for layer in layers
            for kind, name, macs in (
                ("heads", heads_of(layer), HEAD_MACS),
                ("ffn", ffn_of(layer), COLUMN_MACS),
            )
            for score in scores[name]
        ),
        reverse=True,
    )
    kept = {(kind, layer): 0 for layer in layers for kind in ("heads", "ffn")}
    best = _rounded(kept, of)
    for _, kind, layer in channels:
        kept[kind, layer] += 1
        point = _rounded(kept, of)
        if macs_of(point) <= budget:
            best = point
    return best


def macs_of(point: Point) -> int:
    return HEAD_MACS * sum(point.heads) + COLUMN_MACS * sum(point.ffn)


def _rounded(kept: Mapping[tuple[str, int], int], of: int) -> Point:
    layers = {layer for _, layer in kept}
    heads = [max(1, kept["heads", n]) if n in layers else 0 for n in range(of)]
    ffn = [
        max(ROUND_TO, round(kept["ffn", n] / ROUND_TO) * ROUND_TO) if n in layers else 0
        for n in range(of)
    ]
    return Point(heads=tuple(heads), ffn=tuple(ffn))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=FOLDER)
    parser.add_argument("--dense", type=Path, required=True, help="a dense model of the benchmark")
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 5, 4, 3])
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.5, 0.33, 0.23, 0.18, 0.11])
    options = parser.parse_args()
    task = Sst2Task(read_prepared(options.checkpoint))
    dense = task.model()
    dense.load_state_dict(load_file(options.dense))
    dense.eval()
    of = len(dense.bert.encoder.layer)
    full = of * (12 * HEAD_MACS + 1536 * COLUMN_MACS)
    scores = fisher(task, dense)
    for count in options.layers:
        for fraction in options.fractions:
            point = allocate(scores, range(count), of, fraction * full)
            print(count, fraction, msgspec.json.encode(point).decode(), flush=True)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
