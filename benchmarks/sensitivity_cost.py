"""What a sensitivity table costs by estimates and few evaluations, and what is lost against measuring all.

    python -m benchmarks.sensitivity_cost --model resnet20 --part tables --device cuda --work DIR
    python -m benchmarks.sensitivity_cost --model resnet20 --part regret --device cuda --work DIR
    python -m benchmarks.sensitivity_cost --json benchmarks/results/sensitivity_cost.json --work DIR

A table is made of every group of channels at 25, 50 and 75 % cut. The reference really makes every cut and
evaluates it on 10,000 examples of `tune` (all where there are fewer); its replicate does so on 10,000 others,
or, where there are none, both are resampled. Kendall's tau within each cut share, cheap against reference,
is divided by that of replicate against reference: what is reached of what can be. Cost counts examples
forwarded, a backward pass as two more, everything included, over groups x 3 x 2,000. The regret is the test
accuracy after recovery of the plan at half the MACs from the cheap table minus that from the reference, seed
by seed (0 where both tables give the same plan).

The parts write a row a seed into --work (of a quick run into `quick` there), where a run that was stopped
goes on; the last command joins them. `--verify` makes the cheap table of the first committed row again.
MiniLM needs the folder that `python -m benchmarks.sst2` writes (--minilm).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
from scipy import stats

from benchmarks import common, sensitivity_models
from benchmarks.kept import other, read_kept, without_given, write_kept
from benchmarks.sensitivity_models import Benched, quiet
from reprune.compress.planning.allocate import allocate
from reprune.compress.planning.curves import fit_curves
from reprune.compress.planning.options import Options
from reprune.compress.sensitivity.full import PROGRESS_FILE, Progress
from reprune.compress.sensitivity.measure import measure
from reprune.core.artifacts import GroupSensitivity
from reprune.core.params import PlanParams, PruneParams, SensitivityParams

NAME = "sensitivity_cost"
REFERENCE = 10_000
NOMINAL = 2_000
RESAMPLES = 200
PLAN = PlanParams(fraction=0.5, budget="macs", round_to=8)
PRUNE = PruneParams()
CHEAP = SensitivityParams(method="calibrated")


def main() -> None:
    """Runs the parts that are asked for, or joins what they left."""
    given = common.options(__doc__, _arguments)
    with common.kept_in(given.work, quick=given.quick) as work:
        run(given, work)


def run(given: Any, work: Path) -> None:
    """Whatever `main` is asked for, in the folder `work`."""
    seeds = given.seeds or (1 if given.quick else common.MIN_SEEDS)
    models = (
        [given.model] if given.model else (["resnet20"] if given.quick else ["resnet20", "minilm"])
    )
    if given.verify:
        raise SystemExit(_verify(given, work))
    if given.part or given.quick:
        for model in models:
            for seed in range(seeds):
                if given.part in {None, "tables"}:
                    row = table_row(model, seed, given, work)
                    print(json.dumps(row), flush=True)
                if given.part == "regret":
                    row = regret_row(model, seed, given, work)
                    print(json.dumps(row), flush=True)
    result = joined(work, models, given)
    columns = ("model", "seed", "cost_ratio", "tau", "ceiling", "tau_over_ceiling", "regret")
    print(common.table(result["rows"], columns))
    print(json.dumps(result["figures"], indent=1))
    if given.json:
        common.write(given.json, result)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=("resnet20", "minilm"))
    parser.add_argument("--part", choices=("tables", "regret"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--work", type=Path, help="where rows and dense models are kept")
    parser.add_argument("--minilm", type=Path, default=Path(".reprune/minilm"))
    parser.add_argument("--reference", type=int, help="examples of the reference table")


def table_row(model: str, seed: int, given: Any, work: Path) -> dict[str, Any]:
    """Both tables of one dense model, compared; kept in `work`."""
    path = work / f"tables-{model}-{seed}.json"
    if (kept := read_kept(path, made_with(model, seed, given))) is not None:
        return kept
    size = _reference(given)
    bench = sensitivity_models.prepared(model, seed, given, work, reference=size)
    folder = work / f"{model}-{seed}"
    full, batches = _full(bench, size, folder)
    cheap = measure(bench.subject, CHEAP, PRUNE, seed=seed, work=folder / "cheap", say=quiet)
    groups = len(bench.subject.groups)
    taus, ceilings = _within(cheap.groups, full), _ceilings(batches, groups, size)
    row = {
        "model": model,
        "seed": seed,
        "device": given.device,
        "groups": groups,
        "reference_examples": sum(batches["sizes"]),
        "cost": cheap.cost,
        "cost_ratio": cheap.cost / (groups * len(CHEAP.cuts) * NOMINAL),
        "taus": taus,
        "ceilings": ceilings,
        "tau": fmean(taus),
        "ceiling": fmean(ceilings),
        "tau_over_ceiling": fmean(taus) / fmean(ceilings),
        "joint_tau": cheap.joint.rank_correlation if cheap.joint else None,
        "joint_predicted": cheap.joint.predicted if cheap.joint else None,
        "joint_measured": cheap.joint.measured if cheap.joint else None,
        "cheap": msgspec.to_builtins(cheap.groups),
        "full": msgspec.to_builtins(full),
    }
    write_kept(path, made_with(model, seed, given), row)
    return row


def made_with(model: str, seed: int, given: Any) -> dict[str, Any]:
    """What a kept row depends on."""
    sizes = {"reference": _reference(given), "quick": given.quick}
    return {"model": model, "seed": seed, "device": given.device, **sizes}


def _reference(given: Any) -> int:
    """Examples of the reference; the dense model leaves twice as many of train to `tune`."""
    return given.reference or (1_000 if given.quick else REFERENCE)


def _full(
    bench: Benched, size: int, folder: Path
) -> tuple[tuple[GroupSensitivity, ...], dict[str, Any]]:
    """The reference table, of the first `size` examples, and the batch losses of all there are."""
    params = replace_params(examples=2 * size)
    whole = measure(bench.subject, params, PRUNE, seed=0, work=folder / "full", say=quiet)
    raw = (folder / "full" / PROGRESS_FILE).read_bytes()
    progress = msgspec.json.decode(raw, type=Progress)
    sizes, rises = progress.base.sizes, {}
    for key, losses in progress.cuts.items():
        rises[key] = [new - old for new, old in zip(losses, progress.base.losses, strict=True)]
    batches = {"sizes": sizes, "rises": rises}
    first = _first(sizes, size)
    means = {key: _mean(values, sizes, first) for key, values in rises.items()}
    groups = tuple(
        msgspec.structs.replace(
            group,
            cuts=tuple(
                msgspec.structs.replace(cut, loss_increase=means[f"{group.group}@{cut.keep}"])
                for cut in group.cuts
            ),
        )
        for group in whole.groups
    )
    return groups, batches


def replace_params(**changes: Any) -> SensitivityParams:
    return msgspec.structs.replace(SensitivityParams(method="full"), **changes)


def _first(sizes: Sequence[int], size: int) -> list[int]:
    """The numbers of the first batches of at most `size` examples together."""
    ends = np.cumsum(sizes)
    return [number for number, end in enumerate(ends) if end <= size] or [0]


def _mean(values: Sequence[float], sizes: Sequence[int], chosen: Sequence[int]) -> float:
    total = math.fsum(values[number] * sizes[number] for number in chosen)
    return total / sum(sizes[number] for number in chosen)


def _within(cheap: Sequence[GroupSensitivity], full: Sequence[GroupSensitivity]) -> list[float]:
    """Kendall's tau across groups, for each cut share."""
    return [
        _tau(
            [group.cuts[cut].loss_increase for group in cheap],
            [group.cuts[cut].loss_increase for group in full],
        )
        for cut in range(len(CHEAP.cuts))
    ]


def _tau(one: Sequence[float], other: Sequence[float]) -> float:
    return float(stats.kendalltau(one, other).statistic)


def _ceilings(batches: Mapping[str, Any], groups: int, size: int) -> list[float]:
    """For each cut share the mean tau of two tables of `size` examples: the two halves of what was
    measured where that is enough, else pairs of resamples of all batches.
    """
    sizes, keys = batches["sizes"], list(batches["rises"])
    cuts = len(keys) // groups
    first = _first(sizes, size)
    rest = [number for number in range(len(sizes)) if number not in set(first)]
    if sum(sizes[number] for number in rest) >= 0.9 * size:
        pairs = [(first, rest)]
    else:
        random = np.random.default_rng(0)
        count = len(sizes)
        pairs = [
            (random.integers(0, count, count).tolist(), random.integers(0, count, count).tolist())
            for _ in range(RESAMPLES)
        ]
    found = []
    for cut in range(cuts):
        rows = [batches["rises"][key] for key in keys[cut::cuts]]
        found.append(
            fmean(
                _tau(
                    [_mean(row, sizes, one) for row in rows],
                    [_mean(row, sizes, other) for row in rows],
                )
                for one, other in pairs
            )
        )
    return found


def regret_row(model: str, seed: int, given: Any, work: Path) -> dict[str, Any]:
    """Accuracy after recovery of both tables' plans; the tables must be there."""
    path = work / f"regret-{model}-{seed}.json"
    if (kept := read_kept(path, made_with(model, seed, given))) is not None:
        return kept
    tables = table_row(model, seed, given, work)
    bench = sensitivity_models.prepared(model, seed, given, work, reference=_reference(given))
    plans = {
        name: plan_of(bench, msgspec.convert(tables[name], type=list[GroupSensitivity]))
        for name in ("cheap", "full")
    }
    accuracy = {"full": bench.recovered(plans["full"], PRUNE)}
    accuracy["cheap"] = (
        accuracy["full"]
        if plans["cheap"] == plans["full"]
        else bench.recovered(plans["cheap"], PRUNE)
    )
    row = {
        "model": model,
        "seed": seed,
        "device": given.device,
        "plans": plans,
        "accuracy": accuracy,
        "regret": accuracy["cheap"] - accuracy["full"],
    }
    write_kept(path, made_with(model, seed, given), row)
    return row


def plan_of(bench: Benched, groups: Sequence[GroupSensitivity]) -> dict[str, int]:
    """The widths that the product's allocator chooses at half the MACs."""
    options = Options.of(fit_curves(groups), bench.subject.cost, PLAN)
    return allocate("sensitivity", options.problem("macs", PLAN.fraction))


def joined(work: Path, models: Sequence[str], given: Any) -> dict[str, Any]:
    """All rows that are in `work`, whichever device made them, and the figures they give."""
    figures: dict[str, float] = {}
    rows = []
    for model in models:
        tables = _rows(work, "tables", model, given)
        regrets = {row["seed"]: row["regret"] for row in _rows(work, "regret", model, given)}
        if tables:
            figures[f"cost_ratio_{model}"] = max(row["cost_ratio"] for row in tables)
            figures[f"tau_over_ceiling_{model}"] = fmean(row["tau"] for row in tables) / fmean(
                row["ceiling"] for row in tables
            )
        if len(regrets) >= common.MIN_SEEDS:
            figures[f"plan_regret_low_{model}"] = common.lower_limit(list(regrets.values()))
        rows += [row | {"regret": regrets.get(row["seed"])} for row in tables]
    return common.result(figures, rows)


def _rows(work: Path, part: str, model: str, given: Any) -> list[dict[str, Any]]:
    found = []
    for path in sorted(work.glob(f"{part}-{model}-*.json")):
        row = json.loads(path.read_text())
        if words := other(path, row, made_with(model, row["seed"], given), but=("device",)):
            raise SystemExit(words)
        found.append(without_given(row))
    return found


def _verify(given: Any, work: Path) -> int:
    """Makes the cheap table of the first committed row again; 1 if its cost or ranking differs much."""
    wanted = common.committed(NAME)["rows"][0]
    model, seed = wanted["model"], wanted["seed"]
    bench = sensitivity_models.prepared(
        model, seed, given, work, reference=wanted["reference_examples"] // 2
    )
    # In a folder of its own: what an earlier one measured would be compared with itself.
    with tempfile.TemporaryDirectory(prefix="reprune-") as scratch:
        cheap = measure(bench.subject, CHEAP, PRUNE, seed=seed, work=Path(scratch), say=quiet)
    full = msgspec.convert(wanted["full"], type=list[GroupSensitivity])
    tau = fmean(_within(cheap.groups, full))
    print(f"tau {tau:.3f} (committed {wanted['tau']:.3f}), cost {cheap.cost} ({wanted['cost']})")
    return int(abs(tau - wanted["tau"]) > 0.1 or cheap.cost > 1.02 * wanted["cost"])


if __name__ == "__main__":
    main()
