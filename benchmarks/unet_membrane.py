"""U-Net on neuron membranes (ISBI 2012): 95 % of weights masked at once, or gradually where it hurts least.

    python -m benchmarks.unet_membrane [--quick] [--json FILE] [--picture docs/images/unet_membrane.png]

All begin with the same dense model and train for the same number of epochs, on images of half the size,
turned and mirrored. One-shot: the weights of smallest magnitude go, 95 % of each layer alike (the head keeps
1 of its 16), the rest recovers. Gradual: the sparsity of each layer is chosen by what masking it does to
the loss on held-out tiles, and is reached along a cubic schedule. Between them, one-shot with the same
chosen layers tells what the choice does and what the schedule. The picture shows where the first model
failed. One volume is one source: an illustration, no claim.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import common
from examples.membrane.task.membrane import MembraneTask
from reprune.compress.masks.choosing import count_zeros, verify_masks
from reprune.compress.masks.masked import mask_model
from reprune.compress.masks.planning import MaskPlan, plan_masks
from reprune.compress.masks.sensitivity import MaskSubject, measure_tensors, shares_for
from reprune.compress.masks.shaper import MaskShaper
from reprune.compress.training.recover import Lesson, recover
from reprune.compress.training.schedule import sparsity_at
from reprune.core.params import DistillParams, PlanParams, PruneParams
from reprune.measure.outputs import evaluating

SPARSITY = 0.95
ONCE, CHOSEN, GRADUAL = "one-shot", "one-shot, chosen layers", "gradual"
MODELS = ("dense", ONCE, CHOSEN, GRADUAL)
# Half the size: a tile of 128 pixels shows four times as much tissue for the same work.
TILES_AN_IMAGE = 4
# Masks stand still for the rest of the training, so that what is left can settle.
GROWING_SHARE = 0.6
DENSE = DistillParams(
    optimizer="adam", learning_rate=4e-3, weight_decay=0.0, weight=0.0, epochs=16, warmup_epochs=1.0
)
RECOVERY = DistillParams(
    optimizer="adam", learning_rate=2e-3, weight_decay=0.0, weight=0.0, epochs=12, warmup_epochs=0.5
)
PRUNE = PruneParams(criterion="magnitude")
SENSITIVITY_TILES = 24


class HalfSize(MembraneTask):
    """The task on images and membranes of 256 x 256: means of 2 x 2 pixels, majorities of them (a tie is
    a membrane).
    """

    def read(self) -> tuple[Any, Any]:
        images, membranes = super().read()
        return halved(images).round().astype(np.uint8), (halved(membranes) >= 0.5).astype(np.uint8)


def halved(pixels: Any) -> Any:
    """(N, H, W) to the means of 2 x 2 pixels, (N, H / 2, W / 2)."""
    count, height, width = pixels.shape
    return pixels.reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


def main() -> int:
    options = common.options(__doc__, _extend)
    torch.set_num_threads(options.threads)
    images, epochs = (
        (2, (2, 2)) if options.quick else (options.images, (DENSE.epochs, RECOVERY.epochs))
    )
    # What an earlier run left would be compared with itself.
    kept = None if options.verify else options.work
    with common.kept_in(kept, quick=options.quick) as work:
        found = run(smaller(HalfSize(), images), epochs, work)
    result = common.result(
        figures(found), rows(found), note="one volume: an illustration, no claim"
    )
    print(common.table(result["rows"], ("arm", "sparsity", "dice", "dice_at_once")))
    if options.picture:
        draw(found, options.picture)
        print(f"picture: {options.picture}, {options.picture.stat().st_size / 1000:.0f} kB")
    if options.json:
        common.write(options.json, result)
    if options.verify:
        return verify(result["figures"])
    return 0


def verify(now: Mapping[str, float]) -> int:
    """Compares with the committed result: each Dice within three points."""
    before = common.committed("unet_membrane")["figures"]
    far = {
        name: (value, before[name])
        for name, value in now.items()
        if abs(value - before[name]) > 0.03
    }
    print(f"other than committed: {far}" if far else "within 0.03 of the committed result")
    return 1 if far else 0


def run(task: MembraneTask, epochs: tuple[int, int], work: Path) -> dict[str, Any]:
    """The dense model and that of each arm, the arms' plans, and their Dice before recovery."""
    torch.manual_seed(0)
    fresh = task.model()
    dense = trained(task, fresh, DENSE, epochs[0], work / "dense")
    say(f"dense: Dice {dice(task, dense):.4f}")
    plans = {ONCE: plan(task, dense, "local", work)}
    plans[CHOSEN] = plans[GRADUAL] = plan(task, dense, "sensitivity", work)
    found: dict[str, Any] = {"task": task, "dense": dense, "plans": plans, "before": {}}
    for arm in (ONCE, CHOSEN):
        masked = mask_model(task, dense, plans[arm].sparsity, PRUNE, seed=0, say=say)
        found["before"][arm] = dice(task, masked.module)
        held = MaskShaper(masks=masked.masks)
        found[arm] = trained(task, masked.module, RECOVERY, epochs[1], work / arm, held)
    steps = sum(1 for _ in task.batches("train", epoch=0, seed=0)) * epochs[1]
    grown = MaskShaper(
        plan=plans[GRADUAL].sparsity,
        share=partial(cubic, steps=steps),
        share_name="cubic",
        every=max(1, steps // 100),
        regrow=True,
    )
    found[GRADUAL] = trained(task, dense, RECOVERY, epochs[1], work / GRADUAL, grown)
    for arm in plans:
        say(f"{arm}: Dice {dice(task, found[arm]):.4f}")
    return found


def cubic(done: int, *, steps: int) -> float:
    """The part of the final masks after `done` steps (Zhu and Gupta 2017, equation 1)."""
    return sparsity_at("cubic", done / (GROWING_SHARE * steps), final=1.0)


def plan(task: MembraneTask, dense: nn.Module, scope: Any, work: Path) -> MaskPlan:
    """The product's plan of masks; with scope "sensitivity" after measuring each tensor on `tune`."""
    params = PlanParams(method="weights", sparsity=SPARSITY, scope=scope)
    table: Any = ()
    if scope == "sensitivity":
        first = plan_masks(
            task, dense, PlanParams(method="weights", sparsity=SPARSITY), PRUNE, (), 0
        )
        subject = MaskSubject(task=task, module=dense, weights=first.weights, prune=PRUNE, seed=0)
        table = measure_tensors(
            subject,
            shares_for(SPARSITY),
            examples=SENSITIVITY_TILES,
            work=work / "sensitivity",
            say=say,
        ).tensors
    return plan_masks(task, dense, params, PRUNE, table, 0)


def trained(
    task: MembraneTask,
    module: nn.Module,
    params: DistillParams,
    epochs: int,
    work: Path,
    held: MaskShaper | None = None,
) -> nn.Module:
    import msgspec

    lesson = Lesson(task=task, student=module, teacher=module, teacher_digest="itself")
    params = msgspec.structs.replace(
        params, epochs=epochs, warmup_epochs=min(params.warmup_epochs, epochs / 2)
    )
    learnt = recover(
        lesson, params, seed=0, work=work, say=say, shapers=(held,) if held else ()
    ).module
    if held is not None:
        verify_masks(learnt, {name: mask.cpu() for name, mask in held.masks.items()})
    return learnt


def smaller(task: MembraneTask, images: int) -> MembraneTask:
    """The task with the tiles of the first `images` images to train on."""
    task.rows["train"] = task.rows["train"][: images * TILES_AN_IMAGE]
    return task


def dice(task: MembraneTask, module: nn.Module) -> float:
    """Of the membranes in the test images, all pixels together: 2 |P and T| over |P| + |T|."""
    over = under = 0
    with evaluating(module), torch.no_grad():
        for batch in task.batches("eval", epoch=0, seed=0):
            records = task.records((module(*batch.inputs),), batch)
            over, under = over + records["numerator"].sum(), under + records["denominator"].sum()
    return float(over / under)


def sparsity_of(module: nn.Module, plan: MaskPlan) -> float:
    masks = {name: module.get_parameter(name) != 0 for name in plan.weights.names}
    return count_zeros(masks) / plan.weights.size


def rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    task = found["task"]
    table: list[dict[str, Any]] = [
        {"arm": "dense", "sparsity": 0.0, "dice": dice(task, found["dense"])}
    ]
    for arm, made in found["plans"].items():
        row = {
            "arm": arm,
            "sparsity": sparsity_of(found[arm], made),
            "dice": dice(task, found[arm]),
        }
        if arm in found["before"]:
            row["dice_at_once"] = found["before"][arm]
        row["layers"] = {
            item.tensor: round(item.zeros / item.size, 4) for item in made.sparsity.tensors
        }
        table.append(row)
    return table


def figures(found: Mapping[str, Any]) -> dict[str, float]:
    names = dict(zip(MODELS, ("dense", "one_shot", "one_shot_chosen", "gradual"), strict=True))
    after = {f"{name}_dice": dice(found["task"], found[arm]) for arm, name in names.items()}
    return after | {
        f"{names[arm]}_dice_before_recovery": value for arm, value in found["before"].items()
    }


def draw(found: Mapping[str, Any], path: Path, tiles: int = 3) -> None:
    """The tiles on which the one-shot model lost most against the gradual one: image, truth, and each
    model's membranes, with what it missed and what it made up in colour.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    image, truth, answers = _worst(found, tiles)
    columns = ("image", "truth", *answers)
    figure, axes = plt.subplots(
        tiles, len(columns), figsize=(2.0 * len(columns), 2.1 * tiles), squeeze=False
    )
    for row in range(tiles):
        shown = [
            image[row],
            truth[row].float(),
            *(_errors(a[row], truth[row]) for a in answers.values()),
        ]
        for axis, pixels, name in zip(axes[row], shown, columns, strict=True):
            axis.imshow(pixels.numpy(), cmap="gray", interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(name, fontsize=9)
    figure.suptitle(
        "95 % of weights masked; red: membrane missed, blue: membrane made up", fontsize=9
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=72, metadata={"Software": None})
    plt.close(figure)


def _worst(found: Mapping[str, Any], tiles: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Images, masks and answers (N, H, W) of the tiles with the largest lead in Dice of gradual over
    one-shot.
    """
    task = found["task"]
    images, truths, answers = [], [], {name: [] for name in MODELS}
    for batch in task.batches("eval", epoch=0, seed=0):
        images.append(batch.inputs[0][:, 0])
        truths.append(batch.targets > 0)
        for name, kept in answers.items():
            with evaluating(found[name]), torch.no_grad():
                kept.append(found[name](*batch.inputs)[:, 0] > 0)
    image, truth = torch.cat(images), torch.cat(truths)
    whole = {name: torch.cat(kept) for name, kept in answers.items()}
    lead = _dices(whole[GRADUAL], truth) - _dices(whole[ONCE], truth)
    chosen = lead.argsort(descending=True)[:tiles]
    return image[chosen], truth[chosen], {name: kept[chosen] for name, kept in whole.items()}


def _dices(found_NHW: Tensor, truth_NHW: Tensor) -> Tensor:
    both = (found_NHW & truth_NHW).sum(dim=(1, 2))
    return 2 * both / (found_NHW.sum(dim=(1, 2)) + truth_NHW.sum(dim=(1, 2))).clamp_min(1)


def _errors(found_HW: Tensor, truth_HW: Tensor) -> Tensor:
    """(H, W, 3): what was found in white, missed in red, made up in blue."""
    picture = (found_HW & truth_HW).float()[..., None].repeat(1, 1, 3)
    picture[truth_HW & ~found_HW] = torch.tensor([0.9, 0.1, 0.1])
    picture[found_HW & ~truth_HW] = torch.tensor([0.2, 0.4, 1.0])
    return picture


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--picture", type=Path, help="draw where the one-shot model failed")
    parser.add_argument("--images", type=int, default=18, help="images to train on, of 18")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps trainings, so that a killed run goes on")


if __name__ == "__main__":
    sys.exit(main())
