"""Our arm: whole layers removed, heads and FFN columns cut, all by the product."""

from __future__ import annotations

from torch import nn

from benchmarks.minilm.plans import Point, cuttable, removed_by, widths_of
from benchmarks.sst2 import Sst2Task
from reprune.compress.structured import CutResult, cut
from reprune.core.params import PruneParams

# Not compensated: after recovery it is worth nothing, see recipe.md.
CUT = PruneParams(criterion="fisher", examples=256, compensate=False)


def cut_to(task: Sst2Task, dense: nn.Module, point: Point, seed: int) -> CutResult:
    """`dense` cut to the point's shapes, in eval mode, with the architecture that rebuilds it."""
    found = cuttable(task, dense)
    gone = removed_by(point, found.blocks)
    return cut(task, dense, found.groups, widths_of(point), CUT, seed, print, blocks=gone)
