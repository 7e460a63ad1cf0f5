"""Cuts as pruning makes them, tried: a group, a block or a whole plan, repaired without training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from reprune.compress.compensate import batch_norms, compensated, recalibrate
from reprune.compress.importance import channel_scores, lowest_removed
from reprune.compress.losses import Counting, first_batches, mean_loss
from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.compress.sensitivity.subject import Removable, Subject
    from reprune.compress.structure.architecture import Architecture
    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.core.params import PruneParams
    from reprune.task.protocol import Batch


@dataclass
class CutTrial:
    """Makes cuts from one set of scores and calibration examples, which are had when first needed.

    `scored` counts the examples that the scores took, `forwarded` those of all repairs so far.
    """

    subject: Subject
    prune: PruneParams
    seed: int
    scored: int = 0
    forwarded: int = 0
    _scores: dict[str, Tensor] = field(default_factory=dict)
    _calibration: list[Batch] = field(default_factory=list)

    def cut(self, widths: Mapping[str, int], blocks: Sequence[Block] = ()) -> nn.Module:
        """The model with the groups of `widths` cut and `blocks` gone, repaired without training."""
        module, scores = self.subject.module, self.scores()
        groups = [
            group
            for group in self.subject.groups
            if widths.get(group.name, group.width) < group.width
        ]
        kept = {
            group.name: lowest_removed(scores[group.name], widths[group.name]) for group in groups
        }
        architecture = architecture_of(module, groups, kept, blocks)
        sliced = apply(module, architecture)
        candidates = [sliced]
        candidates += self._compensated(sliced, architecture, groups)
        return self._best(candidates)

    def scores(self) -> dict[str, Tensor]:
        """Each channel's score, by group; had once."""
        if not self._scores:
            drawn, subject = Counting(self.subject.task), self.subject
            self._scores = channel_scores(
                drawn, subject.module, subject.groups, self.prune, self.seed
            )
            self.scored = 3 * drawn.examples
        return self._scores

    def onwards(self, examples: int) -> CutTrial:
        """The same cuts, where weights are refitted at all those of every layer behind them too, from as many
        whole batches as hold `examples` calibration examples, or `prune.examples`; its own count is 0.
        """
        few = replace(self.prune, examples=min(examples, self.prune.examples), refit="onwards")
        return CutTrial(self.subject, few, self.seed, _scores=self.scores())

    def without(self, block: Removable) -> nn.Module:
        """The model with only `block` removed, repaired without training as far as anything repairs it."""
        sliced = block.cut()
        return self._best([sliced, *self._compensated(sliced, block.architecture, ())])

    def _compensated(
        self, sliced: nn.Module, architecture: Architecture, groups: Sequence[Group]
    ) -> list[nn.Module]:
        """The one that compensation makes of it, if it is on and something is refitted."""
        prune, onwards = self.prune, self.prune.refit == "onwards"
        if not prune.compensate or not (groups or onwards):
            return []
        made = compensated(
            self.subject.module,
            sliced,
            architecture,
            groups,
            self._examples(),
            prune.ridge,
            onwards=onwards,
        )
        self.forwarded += made.forwarded
        return [made.module]

    def _best(self, candidates: list[nn.Module]) -> nn.Module:
        if self.prune.recalibrate and batch_norms(candidates[0]):
            candidates.append(recalibrate(candidates[0], self._examples()))
            self.forwarded += self._count()
        if len(candidates) == 1:
            return candidates[0]
        self.forwarded += self._count() * len(candidates)
        return min(candidates, key=self._calibration_loss)

    def _examples(self) -> list[Batch]:
        if not self._calibration:
            self._calibration = first_batches(
                self.subject.task, "calibration", examples=self.prune.examples, seed=self.seed
            )
        return self._calibration

    def _count(self) -> int:
        return sum(len(batch) for batch in self._examples())

    def _calibration_loss(self, module: nn.Module) -> float:
        loss = mean_loss(self.subject.task, module, self._examples(), seed=self.seed)
        return loss if math.isfinite(loss) else math.inf
