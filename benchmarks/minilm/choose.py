"""How the plans are chosen: on train and dev alone, with seeds that the benchmark does not use.

For each speed and each number of layers there is one candidate: the heads and FFN columns with the least
Fisher information a microsecond go, over all layers at once. Each candidate is cut and recovered like an
arm; of those of one speed the one with the best mean on dev is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import msgspec
from torch import Tensor, nn

from benchmarks.minilm.jobs import DENSE, Setting, replace_text, run_jobs
from benchmarks.minilm.plans import Plans, Point, cuttable, ffn_of, heads_of, read_plans
from benchmarks.sst2 import Sst2Task, read_prepared
from reprune.compress.importance import channel_scores
from reprune.core.params import PruneParams

CANDIDATES, CHOSEN = "candidates.json", "minilm_plans.json"
FIRST_SEED, SEEDS = 100, 2
EXAMPLES = 512
ROUND_TO = 32
# Microseconds of ONNX Runtime at 32 tokens, fitted to models of 2, 3 and 4 layers; the whole dense model
# takes a little less than its parts add up to.
HEAD_US, COLUMN_US, LAYER_US = 45.0, 0.65, 92.0
WHOLE = 0.94
# Predicted speed-up in fp32 and the numbers of layers that are tried for it. Predicted at 3.95, four layers
# were measured at 3.88 and five at 3.97, with no difference on dev (87.04 and 87.10): "x4.2" is meant to end
# above 4.
CLASSES = {
    "x2": (2.0, (6,)),
    "x3": (3.1, (6, 5)),
    "x4": (3.95, (5, 4)),
    "x4.2": (4.3, (4,)),
    "x5": (5.25, (4, 3)),
    "x8": (8.2, (3, 2)),
}
MAIN = "x4.2"


def choose(setting: Setting, *, workers: int, only: Sequence[str] = ()) -> Plans:
    """Writes `candidates.json` and, with the best of each speed, `minilm_plans.json` to `out`.

    With `only`, just those speeds are chosen again: the others stay as `setting.plans` has them.
    """
    before = read_plans(setting.plans) if only else None
    setting = replace(setting, held_out=True, plans=setting.out / CANDIDATES)
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    run_jobs(setting, [DENSE], seeds, workers=workers)
    candidates = candidate_plans(setting, only or tuple(CLASSES))
    replace_text(setting.plans, _text(candidates))
    found = run_jobs(setting, [DENSE, *candidates.points], seeds, workers=workers)
    chosen = best_plans(candidates, found["rows"])
    if before is not None:
        how = f"{', '.join(only)}: {chosen.how}; the others: {before.how}"
        chosen = Plans(main=MAIN, how=how, points={**before.points, **chosen.points})
    replace_text(setting.out / CHOSEN, _text(chosen))
    return chosen


def candidate_plans(setting: Setting, names: Sequence[str]) -> Plans:
    from benchmarks.minilm.arms import dense_model

    task = Sst2Task(read_prepared(setting.prepared), share=setting.share)
    dense = dense_model(setting, task, FIRST_SEED)
    scores = fisher(task, dense)
    layers = len(dense.bert.encoder.layer)
    whole = Point(
        heads=tuple(len(scores[heads_of(n)]) for n in range(layers)),
        ffn=tuple(len(scores[ffn_of(n)]) for n in range(layers)),
    )
    points = {
        f"{name}-l{count}": allocate(
            scores, range(count), layers, WHOLE * predicted_us(whole) / speed
        )
        for name, (speed, counts) in CLASSES.items()
        if name in names
        for count in counts
        if count <= layers
    }
    return Plans(main=MAIN, how=f"candidates by Fisher, of {FIRST_SEED}", points=points)


def fisher(task: Sst2Task, dense: nn.Module) -> dict[str, Tensor]:
    """The score of each head and column, by group."""
    params = PruneParams(criterion="fisher", examples=EXAMPLES)
    return channel_scores(task, dense, cuttable(task, dense).groups, params, seed=0)


def allocate(
    scores: Mapping[str, Tensor], layers: Sequence[int], of: int, budget_us: float
) -> Point:
    """The point of at most `budget_us`: the channels with the best score a microsecond, columns in
    multiples of 32. Every layer of `layers` keeps a head and 32 columns (or all that it has).
    """
    channels = sorted(
        (
            (float(score) / cost, kind, layer)
            for layer in layers
            for kind, name, cost in (
                ("heads", heads_of(layer), HEAD_US),
                ("ffn", ffn_of(layer), COLUMN_US),
            )
            for score in scores[name]
        ),
        reverse=True,
    )
    kept = {(kind, layer): 0 for layer in layers for kind in ("heads", "ffn")}
    widths = {layer: len(scores[ffn_of(layer)]) for layer in layers}
    best = _rounded(kept, widths, of)
    for _, kind, layer in channels:
        kept[kind, layer] += 1
        point = _rounded(kept, widths, of)
        if predicted_us(point) <= budget_us:
            best = point
    return best


def predicted_us(point: Point) -> float:
    parts = HEAD_US * sum(point.heads) + COLUMN_US * sum(point.ffn)
    return LAYER_US * len(point.layers) + parts


def best_plans(candidates: Plans, rows: Sequence[Mapping[str, Any]]) -> Plans:
    """Of each speed the candidate with the best mean on dev; of equals the one with fewer layers."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if "error" not in row and row["arm"] in candidates.points:
            found.setdefault(row["arm"], []).append(row["accuracy_held_out"])
    means = {arm: fmean(values) for arm, values in found.items()}
    best: dict[str, str] = {}
    for arm in sorted(means, key=lambda arm: (-means[arm], len(candidates.points[arm].layers))):
        best.setdefault(arm.partition("-")[0], arm)
    points = {name: candidates.points[best[name]] for name in CLASSES if name in best}
    how = "; ".join(f"{arm} {means[arm]:.2f}" for arm in sorted(means))
    said = f"the best mean on dev over {SEEDS} seeds from {FIRST_SEED} on, of: {how}"
    return Plans(main=MAIN, how=said, points=points)


def _rounded(kept: Mapping[tuple[str, int], int], widths: Mapping[int, int], of: int) -> Point:
    heads = [max(1, kept["heads", n]) if n in widths else 0 for n in range(of)]
    ffn = [
        min(widths[n], max(ROUND_TO, round(kept["ffn", n] / ROUND_TO) * ROUND_TO))
        if n in widths
        else 0
        for n in range(of)
    ]
    return Point(heads=tuple(heads), ffn=tuple(ffn))


def _text(plans: Plans) -> str:
    return json.dumps(msgspec.to_builtins(plans), indent=1) + "\n"
