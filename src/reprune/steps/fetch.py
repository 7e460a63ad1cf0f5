"""The two steps that read the registry: the pinned dense version, and what was promoted before it.

Both run where no torch is and never import user code. All that they take in is checked: the weights
against the lock and our own limits, the task's files against the lock, stored files against receipts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec import UNSET

from reprune.core import params, store
from reprune.core.addresses import shown
from reprune.core.artifacts import WEIGHTS, ModelBundle, Previous, TaskFact
from reprune.core.errors import (
    ChampionLost,
    ChampionMoved,
    PayloadCorrupt,
    StaleLock,
)
from reprune.core.lock import ChampionRef, DenseRef, Lock, MemberRef
from reprune.core.step import Context, step
from reprune.registry import compressed
from reprune.registry.compressed import Holder
from reprune.registry.dense import find_dense
from reprune.registry.links import Link, records
from reprune.registry.open import open_registry
from reprune.registry.protocol import ANCHOR, CHAMPION, Registry, VersionInfo, known_versions
from reprune.registry.receipts import Receipted, chain_gaps
from reprune.registry.sets import join_weights
from reprune.registry.weights import PICKLED, RISK, find_weights, take_weights
from reprune.steps.pinning import forget, forget_set
from reprune.steps.vouching import check_vouched, known_keys
from reprune.task.load import task_digest, task_folder

UPDATE = "run `reprune update`"
_UPDATE_ANEW = (
    f"{UPDATE}; where it runs with another work folder than this step and changes nothing, delete "
    "`dense-weights` there ($REPRUNE_WORK, else .reprune/work)"
)


@step("fetch-dense")
def fetch_dense(
    lock: Lock, registry: params.Registry, name: str, task: str, ctx: Context
) -> ModelBundle:
    """The dense version that the lock pins, as a bundle with the task's files beside its weights.

    Raises VersionNotFound, StaleLock if weights or task are not the locked ones, PickleRefused,
    NonFiniteWeights or CheckpointError.
    """
    check_names(lock, registry, name)
    source = open_registry(registry, ctx.root)
    ctx.say(f"fetching {name} version {lock.dense.version} from {source.identity}")
    with clean_folder(ctx.work / "draft") as draft:
        if lock.dense.members is UNSET:
            ref = MemberRef(name=name, version=lock.dense.version, weights=lock.dense.weights)
            take_version(source, ref, registry, draft, ctx.out / WEIGHTS, ctx)
        else:
            _take_members(source, lock.dense, registry, draft, ctx)
    copy_task(lock, task, ctx)
    fact = TaskFact(entry=task, digest=lock.task, data_version=lock.data_version)
    return ModelBundle(
        name=name, dense_version=lock.dense.version, task=fact, members=lock.dense.members
    )


def _take_members(
    source: Registry, dense: DenseRef, registry: params.Registry, draft: Path, ctx: Context
) -> None:
    """The weights of every member of the set as those of one model, each under its member's name."""
    members = dense.members or {}
    taken = {}
    for member, ref in sorted(members.items()):
        folder = draft / member
        folder.mkdir()
        taken[member] = draft / f"{member}.safetensors"
        take_version(source, ref, registry, folder, taken[member], ctx)
    join_locked(taken, dense, ctx.out / WEIGHTS)


def join_locked(parts: Mapping[str, Path], dense: DenseRef, out: Path) -> None:
    """Writes the weights of all members as those of one model, which `dense` must pin. Raises StaleLock."""
    join_weights(parts, out)
    if store.file_digest(out) != dense.weights:
        forget_set(dense.members or {})
        raise StaleLock(
            "the members' weights together are not those that the lock names for the set",
            where="reprune.lock.yaml (dense)",
            fix=_UPDATE_ANEW,
        )


def take_version(
    source: Registry,
    ref: MemberRef,
    registry: params.Registry,
    draft: Path,
    out: Path,
    ctx: Context,
) -> None:
    """Fetches a version into `draft` and writes its weights to `out`, if they are those of `ref`."""
    where = f"{source.identity}: {ref.name} version {ref.version}"
    info = find_dense(source, ref.name, ref.version)
    source.fetch(ref.name, info.version, draft)
    found = find_weights(draft, allow_pickle=registry.allow_pickle, where=where)
    if found.suffix in PICKLED:
        ctx.say(f"warning: {found.name} is pickled, and params.yaml allows it: {RISK}")
        take_weights(found, out)
    # What is not the locked file is not even parsed; of a pickled one the lock knows what it holds.
    if store.file_digest(out if found.suffix in PICKLED else found) != ref.weights:
        # Where a version's files were replaced in place, `update` would pin what it saw before.
        forget(source, ref)
        raise StaleLock(
            "the registry holds other weights under this version than the lock names",
            where=where,
            fix=_UPDATE_ANEW,
        )
    if found.suffix not in PICKLED:
        take_weights(found, out)


@step("fetch-previous")
def fetch_previous(lock: Lock, registry: params.Registry, name: str, ctx: Context) -> Previous:
    """The champion with what promote stored beside it, the last verdicts, and the attempts so far.

    Payload: `champion/**` (a ModelBundle), `plan/**`, `profile/<i>/**`, `sensitivity/**`, and
    `anchor/**` (a ModelBundle) where an anchor is set. Raises ChampionLost, ChampionForeign,
    ChampionMoved, PayloadCorrupt or RegistryUnreachable; none is accepted only where nothing ever
    was promoted. What is fetched was signed by a key of the promoter, where its configuration can be
    reached, or else of `registry.trusted_keys`, where there are any (see vouching.known_keys); then it was
    not rolled back, either.
    """
    check_names(lock, registry, name)
    source = open_registry(registry, ctx.root)
    champion = compressed.champion(source, name)
    anchor = compressed.anchor(source, name)
    check_champion(lock.champion, champion, what="champion")
    check_champion(lock.anchor, anchor, what="anchor")
    _check_vouched(source, {CHAMPION: champion, ANCHOR: anchor}, registry, ctx)
    if champion is not None:
        ctx.say(f"fetching the champion, version {champion.info.version}")
        _take_bundle(source, champion, ctx.out / "champion")
        for part in ("plan", "profile", "sensitivity"):
            compressed.fetch_part(source, champion, part, ctx.out / part)
    if anchor is not None:
        _take_bundle(source, anchor, ctx.out / "anchor")
    past = compressed.history(source, name, always=champion.info.version if champion else "")
    for gap in _gaps(source, name, past):
        ctx.say(f"warning: {gap}; attempts may have been more than are counted")
    known = {info.version for info, _ in past}
    # Of one that was adopted there is nothing to tell: it was never judged.
    if champion and isinstance(champion.receipt, Receipted) and champion.info.version not in known:
        past = ((champion.info, champion.receipt), *past)
    return Previous(
        name=name,
        dense_version=lock.dense.version,
        champion=champion.ref if champion else None,
        anchor=anchor.ref if anchor else None,
        attempts=compressed.attempts(source, name, lock.dense.version),
        history=tuple(compressed.summary(info, receipt, champion) for info, receipt in past),
        uses=compressed.uses(source, name) or UNSET,
    )


def _check_vouched(
    source: Registry, holders: Mapping[str, Holder | None], given: params.Registry, ctx: Context
) -> None:
    """Returns only if keys that we trust vouch for what the aliases name: later steps run its code.

    Where no key is known at all, the log says that nobody's signature was checked.
    """
    found = [alias for alias, holder in holders.items() if holder is not None]
    keys = known_keys(ctx.root, given) if found else ()
    if found and not keys:
        ctx.say(
            f"warning: it is not known who signed the {' and the '.join(found)}, whose code runs in later "
            "steps: name the promoter's public key in params.yaml (registry.trusted_keys)"
        )
        return
    check_vouched(source, holders, keys)


def _gaps(
    source: Registry, name: str, past: tuple[tuple[VersionInfo, Receipted], ...]
) -> tuple[str, ...]:
    """What is missing among the last ones and the records between them.

    What is kept from before the last ones has no neighbours there.
    """
    names = known_versions(source, compressed.compressed_name(name))
    order = {info.version: index for index, info in enumerate(names)}
    last: list[tuple[VersionInfo, Link]] = [*past[-compressed.HISTORY :]]
    if not last:
        return ()
    first = order.get(last[0][0].version, 0)
    last += [each for each in records(source, name) if order.get(each[0].version, 0) > first]
    return chain_gaps([link for _, link in sorted(last, key=lambda each: order[each[0].version])])


def check_champion(
    locked: ChampionRef | str, found: Holder | None, *, what: str = "champion"
) -> None:
    """Returns only if the registry's champion is the locked one. Raises ChampionMoved or ChampionLost."""
    expected = None if locked == "none" else locked
    ref = found.ref if found else None
    if ref == expected:
        return
    if ref is None:
        raise ChampionLost(
            f"the lock names as {what} version {getattr(expected, 'version', '')}, "
            "but the registry holds no receipt at all",
            where="reprune.lock.yaml",
            fix="see that registry.uri names the right registry, or restore it from a backup",
        )
    was = f"version {expected.version}" if isinstance(expected, ChampionRef) else "none"
    raise ChampionMoved(
        f"the {what} was {was} when the lock was written; now it is version {ref.version}",
        where="reprune.lock.yaml",
        fix=f"{UPDATE} and judge again",
    )


def check_names(lock: Lock, registry: params.Registry, name: str) -> None:
    """Returns only if the lock was written for this model in this registry. Raises StaleLock."""
    pairs = (
        ("name", lock.name, name),
        ("registry", lock.registry, registry.uri),
        ("workspace", lock.workspace, registry.workspace),
    )
    for what, locked, given in pairs:
        if locked != given:
            raise StaleLock(
                f"the lock was written for the {what} '{shown(locked)}', "
                f"params.yaml says '{shown(given)}'",
                where="reprune.lock.yaml",
                fix=UPDATE,
            )


def copy_task(lock: Lock, entry: str, ctx: Context) -> None:
    """Copies the task's files to task/<package>/** and proves that the copy is what the lock names."""
    folder = task_folder(entry, ctx.root)
    if task_digest(entry, ctx.root) == lock.task:
        for path in store.files(folder):
            target = ctx.out / "task" / folder.name / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        if task_digest(entry, ctx.out / "task") == lock.task:
            return
    raise StaleLock(
        "the task's files are not those that the lock names", where=str(folder), fix=UPDATE
    )


def _take_bundle(source: Registry, holder: Holder, out: Path) -> None:
    compressed.fetch_part(source, holder, compressed.BUNDLE_PART, out)
    bundle = store.read(out, ModelBundle)
    if bundle.digest != holder.ref.bundle:
        raise PayloadCorrupt(
            "the stored bundle is not the one that its receipt names",
            where=f"{source.identity}: {holder.info.name} version {holder.info.version}",
            fix="restore the registry's files from a backup, or promote another generation",
        )


@contextmanager
def clean_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that only we may enter; gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    with store.disk_errors(folder):
        folder.mkdir(parents=True, mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
