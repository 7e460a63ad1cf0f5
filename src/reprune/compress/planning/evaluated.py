"""The loss of joint cuts as `tune` has it: what allocators that try are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.compress.planning.trying import Shape
from reprune.core import store
from reprune.core.artifacts import Fact, block_key
from reprune.core.documents import decode_json
from reprune.core.errors import CompressionError, DocumentError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.compress.paired import BatchLosses
    from reprune.compress.planning.allocate import Widths
    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.core.params import PruneParams
    from reprune.task.protocol import Batch, Task

EVALUATED_FILE = "evaluated.json"
EXAMPLES = 1000
# Which repair is kept is decided on so many calibration examples; what differs less than they can tell
# does not matter for a plan.
CHOICE = 128


class Cut(Fact, kw_only=True):
    """The losses of one joint cut on the batches of tune, and the examples forwarded for it."""

    losses: tuple[float, ...]
    examples: int


class Evaluated(Fact, kw_only=True):
    """What is done: the dense losses, the examples that were forwarded before any cut, and the cuts by
    their widths ("<group>=<width>", comma-separated, in the order of the groups and blocks).
    """

    base: tuple[float, ...]
    sizes: tuple[int, ...]
    before: int
    cuts: dict[str, Cut] = {}


@dataclass(frozen=True, kw_only=True)
class Bed:
    """The model that is cut, and how pruning would cut it."""

    task: Task
    module: nn.Module
    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    prune: PruneParams
    seed: int


@dataclass(kw_only=True)
class Evaluator:
    """Calling it with widths gives the measured rise in loss of that joint cut over the dense model, on at
    most `examples` of `tune`.

    The cut is repaired as `prune` would with `refit: readers`: of the plain, the compensated and the
    recalibrated model the one with the least calibration loss counts. Compensation is the closed form from
    the dense network's inputs (`sensitivity.moments`), which needs no pass over data for each cut; prune's
    own follows the cut network's and ends a little lower. Equal widths, which include any widths inside a
    removed block, are measured once, and written to `work` before the answer is given: a run that was
    killed measures nothing twice. Equal seeds give equal bits. At most `most` different widths are
    measured: CompressionError for one more.
    """

    bed: Bed
    examples: int
    most: int
    work: Path
    say: Callable[[str], None]
    _asked: dict[str, Cut] = field(default_factory=dict, init=False)
    _saved: Evaluated | None = field(default=None, init=False)
    _prepared: _Prepared | None = field(default=None, init=False)

    @property
    def used(self) -> int:
        """How many different widths were asked for."""
        return len(self._asked)

    @property
    def left(self) -> int:
        return self.most - self.used

    @property
    def spent(self) -> int:
        """Examples forwarded for what was asked, a backward pass counted as two more."""
        before = self._saved.before if self._saved is not None and self._asked else 0
        return before + sum(cut.examples for cut in self._asked.values())

    def __call__(self, widths: Widths) -> float:
        return self.measured(widths)[0]

    def knows(self, widths: Widths) -> bool:
        """Whether these widths were asked for before."""
        return self._key(widths) in self._asked

    def measured(self, widths: Widths) -> tuple[float, float]:
        """The rise in loss over the dense model, and its standard error."""
        from reprune.compress.paired import BatchLosses, paired_increase

        cut, saved = self._cut(widths)
        after = BatchLosses(losses=cut.losses, sizes=saved.sizes)
        return paired_increase(after, BatchLosses(losses=saved.base, sizes=saved.sizes))

    def above(self, widths: Widths, other: Widths) -> tuple[float, float]:
        """By how much `widths` lose more than `other`, and the standard error of that, over the same
        batches.
        """
        from reprune.compress.paired import BatchLosses, paired_increase

        (one, saved), (two, _) = self._cut(widths), self._cut(other)
        return paired_increase(
            BatchLosses(losses=one.losses, sizes=saved.sizes),
            BatchLosses(losses=two.losses, sizes=saved.sizes),
        )

    def _cut(self, widths: Widths) -> tuple[Cut, Evaluated]:
        key = self._key(widths)
        saved = self._saved = self._saved or _read(self.work / EVALUATED_FILE)
        if key in self._asked and saved is not None:
            return self._asked[key], saved
        if self.used >= self.most:
            raise CompressionError(
                f"more than {self.most} joint cuts were to be evaluated",
                where="params.yaml (plan.evaluations)",
                fix="set a larger plan.evaluations, or use another allocator",
            )
        if saved is None or key not in saved.cuts:
            prepared = self._prepared = self._prepared or _prepare(self.bed, self.examples)
            saved = saved or Evaluated(
                base=prepared.base.losses, sizes=prepared.base.sizes, before=prepared.before
            )
            cut = prepared.measure(self.bed, self._whole(widths))
            saved = msgspec.structs.replace(saved, cuts=saved.cuts | {key: cut})
            store.write_bytes(self.work / EVALUATED_FILE, msgspec.json.encode(saved))
            self._saved = saved
            self.say(f"plan: joint cut {self.used + 1} of at most {self.most} measured")
        self._asked[key] = saved.cuts[key]
        return saved.cuts[key], saved

    def _whole(self, widths: Widths) -> dict[str, int]:
        """Every group and block, those that are not named whole, groups inside removed blocks too."""
        from reprune.compress.structure.blocks import groups_inside

        bed = self.bed
        gone = [block.name for block in bed.blocks if widths.get(block_key(block.name), 1) == 0]
        within = set(groups_inside(bed.groups, gone)) if gone else set()
        found = {
            group.name: group.width if group.name in within else widths.get(group.name, group.width)
            for group in bed.groups
        }
        return found | {block_key(b.name): int(b.name not in gone) for b in bed.blocks}

    def _key(self, widths: Widths) -> str:
        return ",".join(f"{name}={width}" for name, width in self._whole(widths).items())


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What is the same for every cut: data, channel scores, moments; and what it took, in examples."""

    tune: Sequence[Batch]
    calibration: Sequence[Batch]
    scores: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    base: BatchLosses
    before: int

    def measure(self, bed: Bed, widths: Mapping[str, int]) -> Cut:
        from reprune.compress.paired import batch_losses
        from reprune.compress.sensitivity.subject import bounded

        module, examples = self._repaired(bed, widths)
        losses = bounded(batch_losses(bed.task, module, self.tune, seed=bed.seed), self.base.mean)
        return Cut(losses=losses.losses, examples=examples + losses.examples)

    def _repaired(self, bed: Bed, widths: Mapping[str, int]) -> tuple[nn.Module, int]:
        """The cut model with the repair that has the least calibration loss; examples forwarded."""
        from reprune.compress.compensate import batch_norms, recalibrate
        from reprune.compress.importance import lowest_removed
        from reprune.compress.losses import mean_loss
        from reprune.compress.sensitivity.moments import refits, repaired

        kept = {
            group.name: lowest_removed(self.scores[group.name], widths[group.name])
            for group in bed.groups
        }
        gone = [block for block in bed.blocks if widths[block_key(block.name)] == 0]
        if not gone and all(len(kept[group.name]) == group.width for group in bed.groups):
            return bed.module, 0
        plain = repaired(bed.module, bed.groups, kept, {}, gone)
        tried = [plain]
        examples = 0
        if self.moments:
            made = refits(bed.module, bed.groups, kept, self.moments, bed.prune.ridge)
            tried.append(repaired(bed.module, bed.groups, kept, made, gone))
        if bed.prune.recalibrate and batch_norms(plain):
            tried.append(recalibrate(plain, self.calibration))
            examples += sum(len(batch) for batch in self.calibration)
        if len(tried) == 1:
            return plain, examples
        few = list(_within(self.calibration, CHOICE))
        losses = [mean_loss(bed.task, module, few, seed=bed.seed) for module in tried]
        finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
        examples += len(tried) * sum(len(batch) for batch in few)
        return tried[finite.index(min(finite))], examples


def _prepare(bed: Bed, examples: int) -> _Prepared:
    from reprune.compress.importance import channel_scores
    from reprune.compress.losses import Counting, first_batches
    from reprune.compress.paired import at_most, batch_losses
    from reprune.compress.sensitivity.moments import input_moments, readers
    from reprune.compress.sensitivity.subject import check_finite

    prune = bed.prune
    drawn = Counting(bed.task)
    scores = channel_scores(drawn, bed.module, bed.groups, prune, bed.seed)
    tune = list(at_most(bed.task, "tune", examples=examples, seed=bed.seed))
    calibration = first_batches(bed.task, "calibration", examples=prune.examples, seed=bed.seed)
    names = list(dict.fromkeys(name for group in bed.groups for name in readers(group)))
    moments = input_moments(bed.module, names, calibration) if prune.compensate and names else {}
    base = batch_losses(bed.task, bed.module, tune, seed=bed.seed)
    check_finite(base.mean)
    looked = sum(len(batch) for batch in calibration) if prune.compensate and names else 0
    return _Prepared(
        tune=tune,
        calibration=calibration,
        scores=scores,
        moments=moments,
        base=base,
        before=3 * drawn.examples + looked + base.examples,
    )


def _within(batches: Sequence[Batch], examples: int) -> Sequence[Batch]:
    """The first batches until there are at least so many examples."""
    seen = 0
    for count, batch in enumerate(batches, start=1):
        seen += len(batch)
        if seen >= examples:
            return batches[:count]
    return batches


def importance(bed: Bed) -> dict[str, tuple[float, ...]]:
    """Each group's channel scores, falling, on a scale that groups share: over the group's mean, or by
    what prune.normalizer says.
    """
    from reprune.compress.importance import channel_scores, normalized

    scores = channel_scores(bed.task, bed.module, bed.groups, bed.prune, bed.seed)
    by = "mean" if bed.prune.normalizer == "none" else bed.prune.normalizer
    return {
        name: tuple(sorted(normalized(values, by).tolist(), reverse=True))
        for name, values in scores.items()
    }


def shapes(bed: Bed) -> dict[str, Shape]:
    """For each group the layer that makes its channels (the first one of several); groups whose channels
    no layer with a weight makes are left out.
    """
    from reprune.measure.profile import count_cost

    counted = count_cost(bed.module, bed.task.example_inputs(1))
    layers = {profile.layer: profile for profile in counted.layers}
    found = {}
    for group in bed.groups:
        makers = [
            member.module
            for member in group.members
            if member.axis == "out"
            and member.module in layers
            and getattr(bed.module.get_submodule(member.module), "weight", None) is not None
            and layers[member.module].macs
        ]
        if makers:
            profile = layers[makers[0]]
            found[group.name] = _shape(
                bed.module.get_submodule(makers[0]), profile.output_shape, profile.macs
            )
    return found


def _shape(layer: nn.Module, output: tuple[int, ...], macs: int) -> Shape:
    weight: Tensor = layer.weight  # type: ignore[assignment]  # asked for by the caller
    stride, kernel = (_first(getattr(layer, name, 1)) for name in ("stride", "kernel_size"))
    places = (1, 1, *output[2:])[-2:]
    return Shape(
        outputs=int(weight.shape[0]),
        inputs=int(weight[0].numel()) // max(1, math.prod(weight.shape[2:])) or 1,
        height=places[0] * stride,
        width=places[1] * stride,
        stride=stride,
        kernel=kernel,
        macs=macs,
    )


def _first(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple) else int(value)


def _read(path: Path) -> Evaluated | None:
    """What an earlier run evaluated; None where it cannot be read: that costs only time."""
    try:
        return decode_json(path.read_bytes(), Evaluated, name=str(path))
    except (FileNotFoundError, DocumentError):
        return None
