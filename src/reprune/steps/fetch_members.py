"""fetch-member and join-members: the step `fetch-dense` of a set in parts, for a cluster to do apart.

Each part reads one member's model from the registry, and so needs no access to the others'. The join reads
no registry; it makes of all parts the very artefact that `fetch-dense` makes, and commits it as such, so
that nothing that reads it can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import UNSET

from reprune.core import params
from reprune.core.artifacts import WEIGHTS, MemberWeights, ModelBundle, TaskFact
from reprune.core.errors import ChainBroken, InputError
from reprune.core.lock import LOCK_FILE, Lock, MemberRef
from reprune.core.step import Context, Shard, step
from reprune.core.store import Artifact
from reprune.registry.open import open_registry
from reprune.steps.fetch import (
    UPDATE,
    check_names,
    clean_folder,
    copy_task,
    join_locked,
    take_version,
)


@step("fetch-member")
def fetch_member(
    lock: Lock, registry: params.Registry, name: str, shard: Shard, ctx: Context
) -> MemberWeights:
    """The version of one member that the lock pins: of the N that there are, by name, number I.

    Raises InputError where the lock pins another number of members, or no set; VersionNotFound, StaleLock
    if the weights are not the locked ones, PickleRefused, NonFiniteWeights or CheckpointError.
    """
    check_names(lock, registry, name)
    members = _members(lock)
    if shard.count != len(members):
        raise InputError(
            f"the lock pins {len(members)} members, and this is one of {shard.count}",
            where=f"{LOCK_FILE} (dense)",
            fix=f"fetch each of {', '.join(sorted(members))} once: 0/{len(members)} is the first",
        )
    member, ref = sorted(members.items())[shard.index]
    source = open_registry(registry, ctx.root)
    ctx.say(f"fetching {member}: {ref.name} version {ref.version} from {source.identity}")
    with clean_folder(ctx.work / "draft") as draft:
        take_version(source, ref, registry, draft, ctx.out / WEIGHTS, ctx)
    return MemberWeights(
        name=name,
        dense_version=lock.dense.version,
        member=member,
        model=ref.name,
        version=ref.version,
    )


@step("join-members", commits_as="fetch-dense", parts=("members",))
def join_members(
    members: list[Artifact[MemberWeights]],
    lock: Lock,
    registry: params.Registry,
    name: str,
    task: str,
    ctx: Context,
) -> ModelBundle:
    """Makes of all members, in any order, the artefact of the step `fetch-dense`, bit for bit.

    Raises ChainBroken for a member that is missing, given twice, or not what the lock pins; StaleLock if
    task or weights are not the locked ones; what `check_weights` raises.
    """
    check_names(lock, registry, name)
    wanted = _members(lock)
    join_locked(_parts(members, wanted), lock.dense, ctx.out / WEIGHTS)
    copy_task(lock, task, ctx)
    fact = TaskFact(entry=task, digest=lock.task, data_version=lock.data_version)
    return ModelBundle(
        name=name, dense_version=lock.dense.version, task=fact, members=lock.dense.members
    )


def _members(lock: Lock) -> dict[str, MemberRef]:
    if lock.dense.members is UNSET or not lock.dense.members:
        raise InputError(
            f"'{lock.name}' is one model, and has no members",
            where=f"{LOCK_FILE} (dense)",
            fix="fetch it with `fetch-dense`, or name its `members` in params.yaml and " + UPDATE,
        )
    return lock.dense.members


def _parts(
    given: Sequence[Artifact[MemberWeights]], wanted: Mapping[str, MemberRef]
) -> dict[str, Path]:
    """Where each member's weights are; each was found to be what the lock pins for it."""
    parts: dict[str, Path] = {}
    for each in given:
        found = each.manifest
        path = each.file(WEIGHTS)
        ref = wanted.get(found.member)
        if ref is None:
            what = "is no member of the set that the lock pins"
        elif found.member in parts:
            what = "is given twice"
        elif (found.model, found.version, found.payload[WEIGHTS]) != (
            ref.name,
            ref.version,
            ref.weights,
        ):
            what = f"is not what the lock pins for it, {ref.name} version {ref.version}"
        else:
            parts[found.member] = path
            continue
        raise _broken(f"the member '{found.member}' {what}", str(each.path))
    missing = sorted(set(wanted) - set(parts))
    if missing:
        raise _broken(f"the member '{missing[0]}' is missing", "input 'members'")
    return parts


def _broken(what: str, where: str) -> ChainBroken:
    return ChainBroken(what, where=where, fix="fetch every member of the set once, by this lock")
