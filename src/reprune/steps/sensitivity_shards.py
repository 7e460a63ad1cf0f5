"""sensitivity-shard and sensitivity-merge: the step `sensitivity` in parts, for a cluster to work on at once.

Each shard measures the groups, then blocks (or tensors), number i mod n, and the dense model itself.
The merge makes of all of them the very artefact that `sensitivity` makes, and commits it as such:
nothing that reads it, the gate neither, can tell or need care in how many parts it was measured. Shards
always measure everything: where an earlier generation's table might be used again, the merge says that it
was not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from reprune import __version__
from reprune.core import store
from reprune.core.artifacts import (
    DataReport,
    ModelBundle,
    Previous,
    Producer,
    Sensitivity,
    SensitivityShard,
)
from reprune.core.documents import decode_json, digest_of, read_bounded
from reprune.core.errors import ArtifactError, ChainBroken, DocumentError
from reprune.core.params import GenerationsParams, PlanParams, PruneParams, SensitivityParams
from reprune.core.step import Context, Shard, step
from reprune.core.store import Artifact
from reprune.steps.inheriting import in_shards, with_reuse
from reprune.steps.measuring import Knobs, open_work

if TYPE_CHECKING:
    from reprune.compress.sensitivity.observed import Observed

# The payload file of every SensitivityShard.
SEEN = "seen.json"


@step("sensitivity-shard")
def sensitivity_shard(
    dense: Artifact[ModelBundle],
    data: Artifact[DataReport],
    sensitivity: SensitivityParams,
    plan: PlanParams,
    prune: PruneParams,
    generations: GenerationsParams | UnsetType,
    seed: int,
    threads: int,
    shard: Shard,
    ctx: Context,
) -> SensitivityShard:
    """Measures one shard of what `sensitivity` measures: the groups and blocks number i mod n.

    A shard that no group is left for is empty, and as good as the others. Resumes where a killed run of
    the same shard stopped. Raises what `sensitivity` raises.
    """
    knobs = Knobs(
        sensitivity=sensitivity,
        plan=plan,
        prune=prune,
        generations=generations,
        seed=seed,
        threads=threads,
    )
    seen = open_work(dense, data, knobs, ctx).look((shard.index, shard.count), ctx)
    store.write_bytes(ctx.out / SEEN, msgspec.json.encode(seen))
    return SensitivityShard(shard=shard.index, shards=shard.count, cuts=len(seen.cuts))


@step("sensitivity-merge", commits_as="sensitivity", parts=("shards",))
def sensitivity_merge(
    dense: Artifact[ModelBundle],
    data: Artifact[DataReport],
    previous: Artifact[Previous],
    shards: list[Artifact[SensitivityShard]],
    sensitivity: SensitivityParams,
    plan: PlanParams,
    prune: PruneParams,
    generations: GenerationsParams | UnsetType,
    seed: int,
    threads: int,
    ctx: Context,
) -> Sensitivity:
    """Makes of all shards, in any order, the artefact of the step `sensitivity`, bit for bit.

    Where `generations.reuse` is on, it is the one that measuring everything makes, and says so.

    Raises ChainBroken for a shard of another model, other data, knobs or version, CompressionError for
    a shard that is missing, given twice, or was measured on a machine that calculates differently.
    """
    knobs = Knobs(
        sensitivity=sensitivity,
        plan=plan,
        prune=prune,
        generations=generations,
        seed=seed,
        threads=threads,
    )
    _refuse_foreign(shards, {"dense": dense.digest, "data": data.digest}, knobs)
    work = open_work(dense, data, knobs, ctx)
    return with_reuse(
        work.conclude([_read(shard) for shard in shards]), in_shards(previous, generations)
    )


def _refuse_foreign(
    shards: Sequence[Artifact[SensitivityShard]], parents: dict[str, str], knobs: Knobs
) -> None:
    values = {
        each.name: value
        for each in fields(knobs)
        if (value := getattr(knobs, each.name)) is not UNSET
    }
    producer = Producer(step=sensitivity_shard.name, version=__version__, knobs=digest_of(values))
    for shard in shards:
        found = shard.manifest
        wrong = [name for name in parents if found.parents.get(name) != parents[name]]
        if wrong:
            what = f"was measured with another {' and another '.join(wrong)} than is given here"
        elif found.producer != producer:
            what = "was measured with other knobs, or by another version of Reprune"
        else:
            continue
        raise ChainBroken(
            f"shard {found.shard}/{found.shards} {what}",
            where=str(shard.path),
            fix="run every shard again with the same model, data and params.yaml",
        )


def _read(shard: Artifact[SensitivityShard]) -> Observed:
    from reprune.compress.sensitivity.observed import Observed

    path = shard.file(SEEN)
    most = SensitivityShard.MAX_PAYLOAD_BYTES or 0
    try:
        return decode_json(read_bounded(path, max_bytes=most), Observed, name=str(path))
    except DocumentError as error:
        raise ArtifactError(error.what, where=error.where, fix=error.fix) from error
