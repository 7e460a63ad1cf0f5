"""Our points of `benchmarks.resnet20_cifar10`: the product's plans under latency budgets of this machine.

    python -m benchmarks.resnet20_plan --dense FILE.safetensors --work DIR

Sensitivity of every group and block on held-out images, what each cut saves in the built model, and for each
budget the allocation whose timed latency meets it; then, from the same sensitivity, the plans of the
allocator that knows MACs alone. Prints the widths for `configs/resnet20_plans.json`. Looks at no test image.
What was measured is kept in `--work`, so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from safetensors.torch import load_file

from benchmarks.cifar import CifarTask, load
from benchmarks.cifar_models import DENSE_WIDTHS, ResNet20
from reprune.core.params import PlanParams, PruneParams, SensitivityParams, Target

if TYPE_CHECKING:
    from reprune.compress.sensitivity.subject import Subject
    from reprune.compress.structure.blocks import Block
    from reprune.core.artifacts import Sensitivity

# Shares of the dense latency; a few per cent below the bars, as timings carry noise.
FRACTIONS = (0.8, 0.69, 0.62, 0.59, 0.48, 0.42)
# Shares of the dense MACs: without blocks, in steps of 4 channels.
MACS = (0.5, 0.4, 0.33, 0.25, 0.2)
HELD_OUT = 5000
# The runtime packs channels by sixteen: narrower and odd widths cost what the next multiple costs.
PLAN = PlanParams(
    depth=True, budget="latency", latency_target="cpu", latency_model="in-model",
    round_to=16, min_keep=0.25, latency_trials=3,
)  # fmt: skip
SENSITIVITY = SensitivityParams(examples=1000)
PRUNE = PruneParams(criterion="taylor", examples=256, compensate=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dense", type=Path, required=True, help="a dense model that train left")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dense = ResNet20()
    dense.load_state_dict(load_file(options.dense))
    task = CifarTask(load(), ResNet20, tune=HELD_OUT)
    found = plans(dense.eval(), task, options.work)
    print(json.dumps({"latency": found[0], "macs": found[1]}, indent=1))
    return 0


def plans(
    dense: ResNet20, task: CifarTask, work: Path
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """The nine widths for each fraction that can be met, by the fraction: of the latency, and of the MACs."""
    from reprune.compress.planning.costs import cost_model
    from reprune.compress.sensitivity.measure import Subject, measure
    from reprune.compress.sensitivity.subject import removables
    from reprune.compress.structure.blocks import find_blocks
    from reprune.compress.structure.groups import find_groups
    from reprune.measure.profile import count_cost

    example = task.example_inputs(2)
    groups, blocks = find_groups(dense, example, ()), find_blocks(dense, example, ()).blocks
    cost = cost_model(dense, groups, count_cost(dense, example), blocks)
    removable = removables(dense, blocks, cost)
    subject = Subject(task=task, module=dense, groups=groups, cost=cost, blocks=removable)
    measured = measure(subject, SENSITIVITY, PRUNE, seed=0, work=work, say=_say)
    return by_latency(subject, blocks, measured, work), by_macs(subject, measured)


def by_latency(
    subject: Subject, blocks: Sequence[Block], measured: Sensitivity, work: Path
) -> dict[str, list[int]]:
    from reprune.compress.planning.choose import choose
    from reprune.compress.planning.curves import fit_blocks, fit_curves
    from reprune.compress.planning.kept_times import kept
    from reprune.compress.planning.latency import Bench, timing
    from reprune.compress.planning.latency_table import measure_table
    from reprune.compress.planning.options import Options
    from reprune.compress.structure.blocks import groups_inside
    from reprune.core.artifacts import block_key
    from reprune.core.errors import CompressionError
    from reprune.measure.timing_place import here

    inside = {
        block_key(block.name): groups_inside(subject.groups, [block.name]) for block in blocks
    }
    curves = {**fit_curves(measured.groups), **fit_blocks(measured.blocks or ())}
    choices = Options.of(curves, subject.cost, PLAN, blocks=inside)
    bench = Bench(
        task=subject.task,
        module=subject.module,
        groups=subject.groups,
        where=here(Target(), 1),
        seed=0,
        blocks=tuple(blocks),
    )
    found = {}
    with timing(bench) as time_ratio:
        times = measure_table(
            choices.rungs, choices.blocks, kept(time_ratio, "here", work), say=_say
        )
        choices = replace(choices, times=times)
        for fraction in FRACTIONS:
            params = msgspec.structs.replace(PLAN, fraction=fraction)
            try:
                choice = choose(choices, params, partial(time_ratio, sure=True), None, _say)
            except CompressionError as error:
                _say(f"{fraction}: {error}")
                continue
            found[str(fraction)] = widths_of_choice(choice.widths)
            _say(f"{fraction}: {found[str(fraction)]} predicted {choice.prediction}")
    return found


def by_macs(subject: Subject, measured: Sensitivity) -> dict[str, list[int]]:
    from reprune.compress.planning.allocate import allocate
    from reprune.compress.planning.curves import fit_curves
    from reprune.compress.planning.options import Options

    params = msgspec.structs.replace(
        PLAN, budget="macs", latency_model="macs", depth=False, round_to=4, min_keep=0.125
    )
    options = Options.of(fit_curves(measured.groups), subject.cost, params)
    return {
        str(share): widths_of_choice(allocate("sensitivity", options.problem("macs", share)))
        for share in MACS
    }


def widths_of_choice(widths: Mapping[str, int]) -> list[int]:
    """The plan's groups and blocks as the nine numbers of the configuration."""
    from reprune.core.artifacts import block_key

    names = [f"layer{i // 3 + 1}.{i % 3}" for i in range(len(DENSE_WIDTHS))]
    return [0 if widths.get(block_key(name)) == 0 else widths[f"{name}.conv1"] for name in names]


def _say(text: Any) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
