"""Plans that follow measured latency: what the tables say against what cut models really take.

    python -m benchmarks.latency_plans [--models resnet20,chain,mobilenetv2,unet] [--batches 1,32]
                                       [--precisions fp32,int8] [--out DIR] [--json FILE]

For each model (random weights: time does not depend on them) the product's own tables are measured, as
`profile` does with `profile.tables`; then random plans are cut, built and timed in fresh sessions side by
side with the dense model, and compared with what the tables say. Errors are of the ratio to the dense
model. Of all pairs of plans of a model whose measured times are within 5 % of each other, how many are
predicted in the measured order; and the same of those whose order the measurement itself is sure of.
`--quick` takes ResNet-20 and the chain at batch 1, fp32, with few plans. `--verify` measures the
committed result's first row again, from nothing. What is built lies in `--out` (of a quick run in `quick`
there) and is not built twice.

Whether such plans are also better ones is measured where they are trained: the committed results of
`benchmarks.plan_curves` give `accuracy_margin_low_*` (at equal measured speed) and
`speedup_at_equal_accuracy_*`, of models that were measured with seeds enough for a claim. `--told` writes the
figures of the committed rows again, with those of curves that were committed since.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import common
from benchmarks.kept import read_kept, write_kept
from benchmarks.latency.models import MODELS, Model, Rows
from reprune.compress.structure.alignment import alignments
from reprune.compress.tables.layer_terms import terms_of
from reprune.compress.tables.looking import Subject, cut_to, measure_operators
from reprune.compress.tables.sites import rungs_of
from reprune.compress.tables.table import OperatorTable
from reprune.compress.tables.timers import Place, timer_for
from reprune.core.params import TableParams, Target
from reprune.measure.hostlock import host_lock
from reprune.measure.quick import quick_ratio, time_call_us
from reprune.measure.source import source_of
from reprune.measure.timing_place import here
from reprune.steps.tabling import table_key

NAME = "latency_plans"
NEAR = 0.05
STEP = 8
# Figures of a trained model's curves that are of this benchmark, whichever measures them.
NAMED = ("accuracy_margin_low_", "speedup_at_equal_accuracy_")
CURVED = ("mobilenetv2", "resnet20")
# A plan of all random widths is about half: some are wider, so that the whole range is looked at.
LEANINGS = (0.0, 0.0, 0.35, 0.7)
# Of an error, by how much it may be above the committed one when a third of the plans is measured again.
VERIFY_ABOVE = {"median_error": 0.01, "worst_error": 0.03}
Widths = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model on one target. `plans` random ones, each looked at in two halves of `rounds` sessions."""

    model: Model
    precision: str
    batch: int
    builds: int
    plans: int
    rounds: int
    folder: Path

    @property
    def given(self) -> dict[str, Any]:
        """What its row depends on."""
        counts = {"builds": self.builds, "plans": self.plans, "rounds": self.rounds}
        return {
            "model": self.model.name,
            "precision": self.precision,
            "batch": self.batch,
            **counts,
        }

    @property
    def name(self) -> str:
        suffix = "" if self.precision == "fp32" else f"_{self.precision}"
        return f"{self.model.name}{suffix}"


def main() -> int:
    options = common.options(__doc__, _extend)
    torch.set_num_threads(1)
    if options.verify:
        return verify(options)
    if options.told:
        held = common.committed(NAME)
        told = figures(held["rows"]) | trained_figures()
        common.write(options.json or common.RESULTS / f"{NAME}.json", {**held, "figures": told})
        return 0
    if options.quick:
        options.models, options.batches, options.precisions = "resnet20,chain", "1", "fp32"
        options.plans, options.builds = min(options.plans, 6), min(options.builds, 6)
    rows = []
    with common.kept_in(options.out, quick=options.quick) as folder:
        for case in _cases(options, folder):
            rows.append(measured(case))
            _say(json.dumps({key: value for key, value in rows[-1].items() if key != "plans"}))
            if options.json:
                common.write(options.json, _result(rows))
    print(
        common.table(
            rows, ("model", "batch", "median_error", "worst_error", "repeat_error", "builds")
        )
    )
    return 0


def measured(case: Case) -> dict[str, Any]:
    """The row of one case: the tables' cost, and each plan as predicted and as measured. Exits where the
    case's folder holds a row that was measured with other counts.
    """
    kept = case.folder / "row.json"
    if (before := read_kept(kept, case.given)) is not None:
        return before
    case.folder.mkdir(parents=True, exist_ok=True)
    subject, place, engine = _subject(case)
    began = time.monotonic()
    table = _tables(case, subject, place, engine)
    seconds = time.monotonic() - began
    rungs = rungs_of(subject.groups, subject.steps)
    terms = terms_of(table, rungs)
    plans = []
    for number, widths in enumerate(random_plans(rungs, case.plans)):
        built = _plan_engine(case, place, subject, widths, number)
        share = terms(widths) / terms({})
        seen = _compared(place, built, engine, share, seed=number, rounds=case.rounds)
        plans.append({"widths": list(widths.values())} | seen)
    row = _row(case, table, plans, seconds)
    write_kept(kept, case.given, row)
    return row


def _plan_engine(case: Case, place: Place, subject: Subject, widths: Widths, number: int) -> Path:
    """The plan's engine; one file serves every batch size."""
    folder = case.folder.parent / f"{case.name}-plans"
    folder.mkdir(exist_ok=True)
    engine = folder / f"{number}{place.where.runtime.suffix}"
    if not engine.is_file():
        engine = replace(place, folder=folder).built(
            str(number), place.source(cut_to(subject, widths))
        )
    return engine


def random_plans(rungs: Mapping[str, Sequence[int]], count: int) -> list[dict[str, int]]:
    """The same ones every time: each group at a random rung, or whole with the plan's leaning."""
    plans = []
    for number in range(count):
        draw = random.Random(f"latency plans/{number}")
        leaning = LEANINGS[number % len(LEANINGS)]
        plans.append(
            {
                name: widths[-1] if draw.random() < leaning else draw.choice(widths)
                for name, widths in rungs.items()
            }
        )
    return plans


def _subject(case: Case) -> tuple[Subject, Place, Path]:
    torch.manual_seed(0)
    module = case.model.make().eval()
    target = Target(precision=case.precision, batch_size=case.batch)
    task = Rows(case.model)
    groups = case.model.groups(module)
    subject = Subject(
        name=case.name,
        target=target,
        module=module,
        example_inputs=task.example_inputs(2),
        groups=groups,
        steps=alignments(module, groups, STEP),
    )

    def place(dense_us: float) -> Place:
        return Place(
            where=here(target, 1),
            source=lambda cut: source_of(cut, task, target, examples=8),  # type: ignore[arg-type]  # a small task
            inputs=[tensor.numpy() for tensor in task.example_inputs(case.batch)],
            folder=case.folder,
            rounds=3,
            dense_us=dense_us,
            seed=0,
        )

    first = place(1.0)
    engine = first.built("dense", first.source(module))
    with host_lock():
        dense_us = time_call_us(first.where.runtime.open(engine, target), first.inputs, 30)
    return subject, place(dense_us), engine


def _tables(case: Case, subject: Subject, place: Place, engine: Path) -> OperatorTable:
    shapes = [array.shape for array in place.inputs]
    return measure_operators(
        subject,
        timer_for(place, subject.module, engine),
        lambda questions: table_key(place.where, shapes, questions),
        TableParams(builds=case.builds, step=STEP),
        dense_us=place.dense_us,
        work=case.folder,
        say=_say,
    )


def _compared(
    place: Place, built: Path, dense: Path, predicted: float, *, seed: int, rounds: int
) -> dict[str, Any]:
    """What is predicted and what two looks of `rounds` fresh sessions each show."""
    halves = [
        quick_ratio(
            place.where.runtime,
            built,
            dense,
            place.where.target,
            place.inputs,
            rounds=rounds,
            seed=2 * seed + half,
        )
        for half in (0, 1)
    ]
    _say(f"plan {seed}: predicted {predicted:.4f}, measured {halves[0]:.4f} and {halves[1]:.4f}")
    return {
        "predicted": predicted,
        "measured": (halves[0] * halves[1]) ** 0.5,
        "halves": halves,
    }


def _row(
    case: Case, table: OperatorTable, plans: Sequence[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    errors = [abs(plan["predicted"] / plan["measured"] - 1.0) for plan in plans]
    repeats = [abs(plan["halves"][0] / plan["halves"][1] - 1.0) for plan in plans]
    return {
        "model": case.name,
        "batch": case.batch,
        "dense_ms": table.dense_us / 1e3,
        "builds": table.builds,
        "table_seconds": round(seconds, 1),
        "fit_error": table.error,
        "median_error": median(errors),
        "worst_error": max(errors),
        "repeat_error": median(repeats),
        "pairs": pairs(plans),
        "plans": list(plans),
    }


def pairs(plans: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Of pairs within 5 % as measured: how many, how many predicted in order; and of those whose two
    halves of the measurement agree on the order, the same.
    """
    found = {"near": 0, "right": 0, "sure": 0, "sure_right": 0}
    for a, b in combinations(plans, 2):
        gap = a["measured"] - b["measured"]
        if gap == 0.0 or abs(gap) > NEAR * min(a["measured"], b["measured"]):
            continue
        right = (a["predicted"] - b["predicted"]) * gap > 0
        sure = all((x - y) * gap > 0 for x in a["halves"] for y in b["halves"])
        found["near"] += 1
        found["right"] += right
        found["sure"] += sure
        found["sure_right"] += sure and right
    return found


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the README may quote."""
    found = {
        f"prediction_median_error_{row['model']}_batch{row['batch']}": row["median_error"]
        for row in rows
    }
    for name, right, all_ in (
        ("pair_order_correct_within_5_percent", "right", "near"),
        ("pair_order_correct_within_5_percent_sure", "sure_right", "sure"),
    ):
        count = sum(row["pairs"][all_] for row in rows)
        if count:
            found[name] = sum(row["pairs"][right] for row in rows) / count
    return found


def verify(options: argparse.Namespace) -> int:
    """Measures the first committed row again with a third of its plans: is the median error at most a point,
    and the worst at most three points, above what is committed? Nothing that was measured before is taken up.
    """
    kept = common.committed(NAME)["rows"][0]
    model, _, precision = kept["model"].partition("_")
    options.models, options.precisions = model, precision or "fp32"
    options.batches, options.builds = str(kept["batch"]), kept["builds"]
    options.plans = max(6, len(kept["plans"]) // 3)
    with tempfile.TemporaryDirectory(prefix="reprune-") as scratch:
        (case,) = _cases(options, Path(scratch))
        again = measured(case)
    for name in VERIFY_ABOVE:
        print(f"{case.name}: {name} {again[name]:.4f} now, {kept[name]:.4f} as committed")
    return 0 if as_good(again, kept) else 1


def as_good(again: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    """Whether neither error is further above the committed one than another run may be (`VERIFY_ABOVE`)."""
    return all(again[name] - kept[name] <= most for name, most in VERIFY_ABOVE.items())


def _cases(options: argparse.Namespace, folder: Path) -> list[Case]:
    return [
        Case(
            model=MODELS[name],
            precision=precision,
            batch=int(batch),
            builds=options.builds,
            plans=options.plans,
            rounds=options.rounds,
            folder=folder / f"{name}-{precision}-batch{batch}",
        )
        for precision in options.precisions.split(",")
        for name in options.models.split(",")
        for batch in options.batches.split(",")
    ]


def _result(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return common.result(figures(rows) | trained_figures(), rows, note=NOTE)


def trained_figures() -> dict[str, float]:
    """What the committed results of curves found."""
    found: dict[str, float] = {}
    for model in CURVED:
        found |= told_of(common.committed(f"plan_curves_{model}"))
    return found


def told_of(held: Mapping[str, Any]) -> dict[str, float]:
    """What is told here of a result of curves: nothing of one with too few seeds for a claim."""
    if len(held["seeds"]) < common.MIN_SEEDS:
        return {}
    return {name: value for name, value in held["figures"].items() if name.startswith(NAMED)}


NOTE = (
    "median over fresh sessions of ONNX Runtime, one thread; repeat_error is how far two halves of the "
    "same measurement are apart, below which no prediction can be seen to be right"
)


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--told", action="store_true", help="measures nothing")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument(
        "--builds", type=int, default=24, help="builds for the tables of one target"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="fresh sessions in each half of a look"
    )
    parser.add_argument(
        "--out", type=Path, help="keeps what was measured; without it nothing is kept"
    )


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
