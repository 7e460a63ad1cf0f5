"""What `sensitivity` does, whole or in shards: look at cuts, then conclude from all that was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from msgspec import UNSET, UnsetType

from reprune.core.artifacts import DataReport, ModelBundle, Sensitivity
from reprune.core.documents import digest_of
from reprune.core.memory import keep_freed
from reprune.core.params import GenerationsParams, PlanParams, PruneParams, SensitivityParams
from reprune.core.plugins import lookup
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.steps.masking import mask_work, masks_weights
from reprune.steps.opening import open_dense, open_for_masks, refuse_no_choice
from reprune.steps.refusals import refuse_failed_data, refuse_strangers

if TYPE_CHECKING:
    from reprune.compress.sensitivity.observed import Observed
    from reprune.compress.sensitivity.subject import Subject
    from reprune.compress.structure.blocks import Block


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """The params.yaml sections that a sensitivity depends on, under their names."""

    sensitivity: SensitivityParams
    plan: PlanParams
    prune: PruneParams
    generations: GenerationsParams | UnsetType
    seed: int
    threads: int


class Work(Protocol):
    def look(self, shard: tuple[int, int], ctx: Context) -> Observed:
        """What shard i of n sees; (0, 1) is everything. Goes on where a killed run stopped."""

    def conclude(self, parts: Sequence[Observed]) -> Sensitivity:
        """The same bits however many shards `parts` are, in any order.

        Raises CompressionError for parts that are not those of one measurement.
        """


def open_work(
    dense: Artifact[ModelBundle], data: Artifact[DataReport], knobs: Knobs, ctx: Context
) -> Work:
    """The dense model's cuts, or masks where `plan.method` masks weights, ready to be measured.

    Raises DataRefused, ChainBroken for data of another model, UnknownName for an allocator that `plan` would
    not find after all that was measured for it, CompressionError where nothing can be cut.
    """
    refuse_failed_data(data)
    refuse_strangers(dense, {"data report": data})
    keep_freed()
    plan, prune, seed, threads = knobs.plan, knobs.prune, knobs.seed, knobs.threads
    if masks_weights(plan):
        whole = open_for_masks(dense, seed=seed, threads=threads, say=ctx.say)
        return mask_work(whole, knobs.sensitivity, plan, prune, seed)
    from reprune.compress.planning.allocate import ALLOCATORS
    from reprune.compress.planning.costs import cost_model
    from reprune.compress.sensitivity.measure import Subject, removables
    from reprune.measure.profile import count_cost

    # Asked here as well as by plan: before all the work that plan would find to be for nothing.
    lookup("allocators", plan.allocator, ALLOCATORS)
    opened = open_dense(dense, seed=seed, threads=threads, head_dimensions=plan.head_dimensions)
    refuse_no_choice(opened, plan)
    counted = count_cost(opened.module, opened.task.example_inputs(1))
    cost = cost_model(opened.module, opened.groups, counted, opened.blocks)
    blocks = opened.blocks if plan.depth else ()
    subject = Subject(
        task=opened.task,
        module=opened.module,
        groups=opened.groups,
        cost=cost,
        blocks=removables(opened.module, blocks, cost),
    )
    return CutWork(
        subject=subject,
        knobs=knobs,
        blocks=blocks,
        entry=dense.manifest.task.entry,
        reasons={**opened.skipped, **opened.kept_blocks},
    )


@dataclass(frozen=True, kw_only=True)
class CutWork:
    """The work of cuts. `blocks` are the subject's, as they are removed; `entry` is the task's; `reasons`
    say why layers that are no groups, and blocks that may not go, are left alone.
    """

    subject: Subject
    knobs: Knobs
    blocks: tuple[Block, ...]
    entry: str
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def basis(self) -> str:
        """Names all that two tables must share to be compared row by row, but for the weights and data:
        what is cut, in what steps, how its channels are chosen and repaired, and how losses are measured. Not
        how many examples show it.
        """
        prune, plan = self.knobs.prune, self.knobs.plan
        # The default says nothing, so that tables from before there was a choice can be compared.
        refit = () if prune.refit == "readers" else (prune.refit,)
        method = self.knobs.sensitivity.method
        return digest_of(
            {
                "task": self.entry,
                "groups": [(group.name, group.width) for group in self.subject.groups],
                "blocks": [block.name for block in self.subject.blocks],
                "cuts": self.knobs.sensitivity.cuts,
                "dimensions": plan.head_dimensions,
                "choice": (prune.criterion, prune.reduction, prune.normalizer),
                "repair": (prune.compensate, prune.recalibrate, prune.ridge, *refit),
            }
            | ({} if method == "full" else {"method": method})
        )

    def look(self, shard: tuple[int, int], ctx: Context) -> Observed:
        from reprune.compress.sensitivity.measure import look

        knobs = self.knobs
        return look(
            self.subject,
            knobs.sensitivity,
            knobs.prune,
            seed=knobs.seed,
            work=ctx.work,
            say=ctx.say,
            shard=shard,
        )

    def conclude(self, parts: Sequence[Observed]) -> Sensitivity:
        from reprune.compress.importance import criterion_label
        from reprune.compress.sensitivity.measure import conclude

        measured = conclude(self.subject, self.knobs.sensitivity, parts)
        return Sensitivity(
            criterion=criterion_label(self.knobs.prune),
            base_loss=measured.base_loss,
            examples=measured.examples,
            groups=measured.groups,
            blocks=measured.blocks or UNSET,
            joint=measured.joint or UNSET,
            cost=measured.cost,
            basis=self.basis,
        )
