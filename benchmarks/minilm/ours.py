"""Our arm: whole layers removed, then heads and FFN columns cut and compensated, all by the product."""

from __future__ import annotations

from torch import nn

from benchmarks.minilm.plans import Point, groups_of, kept_layers, removal_of, widths_of
from benchmarks.sst2 import Sst2Task
from reprune.compress.architecture import Architecture, apply
from reprune.compress.structured import CutResult, cut
from reprune.core.params import PruneParams

CUT = PruneParams(criterion="taylor", examples=512)


def cut_to(task: Sst2Task, dense: nn.Module, point: Point, seed: int) -> CutResult:
    """`dense` cut to the point's shapes, in eval mode, with the architecture that rebuilds it."""
    removal = removal_of(point)
    shallow = apply(dense, removal)
    groups = groups_of(shallow, kept_layers(point))
    result = cut(task, shallow, groups, widths_of(point), CUT, seed, print)
    architecture = Architecture(removed=removal.removed, cuts=result.architecture.cuts)
    return CutResult(module=result.module, architecture=architecture, surgery=result.surgery)
