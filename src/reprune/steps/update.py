"""`reprune update` writes the lock; `check_lock` tells whether it still describes what lies beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from msgspec import UNSET

from reprune import __version__
from reprune.core import store
from reprune.core.documents import digest_of
from reprune.core.errors import DocumentError, PromotionRefused, StaleLock, nearest
from reprune.core.lock import (
    LOCK_FILE,
    ChampionRef,
    Lock,
    first_look,
    fresh_look,
    lock_text,
    read_lock,
)
from reprune.core.params import PARAMS_FILE, Params, read_params
from reprune.core.policy import POLICY_FILE, Policy, read_policy
from reprune.core.step import Documents, exclusive
from reprune.registry import compressed
from reprune.registry.open import open_registry
from reprune.registry.protocol import ANCHOR, CHAMPION, Registry
from reprune.registry.receipted import taken_locks
from reprune.steps.pinning import pinned
from reprune.steps.vouching import check_vouched, known_keys
from reprune.task.load import load_task, task_digest
from reprune.task.protocol import Task


@dataclass(frozen=True, kw_only=True)
class Updated:
    """The lock as it now is on disk. `changed` is False if it said the same before."""

    lock: Lock
    changed: bool
    path: Path


def update(
    root: Path,
    *,
    version: str | None = None,
    again: bool = False,
    say: Callable[[str], None] | None = None,
) -> Updated:
    """Pins the newest dense version (or `version`), the champion, and digests of all that lies beside.

    What the aliases name has to be vouched for, where it is known here whose receipts count. With `again`
    the lock is one that no verdict was registered for: if need be, its `look` is raised.
    The lock is written whole or not at all, and only if it changes. The task is imported, to ask for
    its data version. Raises DocumentError, VersionNotFound, RegistryUnreachable, ChampionLost,
    ChampionForeign, PickleRefused, CheckpointError or TaskError; InputError for speed that is demanded where
    it cannot be measured.
    """
    # The judge and the runtimes bring numpy along, which who only reads a lock needs not.
    from reprune.steps.answerable import refuse_unknown_metrics
    from reprune.steps.looking import required_here
    from reprune.steps.target_demands import refuse_untimed

    path = root / LOCK_FILE
    with exclusive(f"update:{root.resolve()}", what="another `reprune update` runs here"):
        given = read_params(root / PARAMS_FILE)
        policy = read_policy(root / POLICY_FILE)
        check_together(given, policy, root)
        refuse_unknown_metrics(policy, where=str(root / POLICY_FILE))
        refuse_untimed(required_here(given.targets, policy), policy, anywhere=True)
        registry = open_registry(given.registry, root)
        dense = pinned(registry, given, version)
        if say:
            say(f"{given.name}: pinning dense version {dense.version}")
        champion = compressed.champion(registry, given.name)
        anchor = compressed.anchor(registry, given.name)
        _check_vouched(registry, {CHAMPION: champion, ANCHOR: anchor}, given, root)
        lock = Lock(
            reprune=__version__,
            registry=given.registry.uri,
            workspace=given.registry.workspace,
            name=given.name,
            dense=dense,
            champion=reference(champion),
            anchor=reference(anchor),
            targets=tuple(sorted(given.targets)),
            params=digest_of(given),
            policy=digest_of(policy),
            task=task_digest(given.task, root),
            data_version=task_of(given, root).data_version,
        )
        before = _existing(path)
        if again:
            lock = fresh_look(lock, taken_locks(registry, given.name))
        elif before is not None and first_look(before) == lock:
            # A second look stays one until something else changes.
            lock = before
        changed = before != lock
        if changed:
            store.write_bytes(path, lock_text(lock).encode())
    return Updated(lock=lock, changed=changed, path=path)


def task_of(given: Params, root: Path) -> Task:
    """The task, which is one of a set if params.yaml says so. Raises TaskError, DocumentError."""
    task = load_task(given.task, root)
    known = sorted(getattr(task, "members", None) or ())
    if known != sorted(given.members or ()):
        raise DocumentError(
            f"names the members {', '.join(sorted(given.members or ())) or 'none'}; the task has "
            f"{', '.join(known) or 'none'}",
            where=f"{root / PARAMS_FILE} (members)",
            fix="give params.yaml and the task (task.bases.TaskSet) the same members",
        )
    return task


def look_again(documents: Documents) -> Documents:
    """The same documents under a lock that no verdict was registered for, which is on disk afterwards.

    Raises Busy, or RegistryUnreachable.
    """
    root, given = documents.root, documents.params
    with exclusive(f"update:{root.resolve()}", what="another `reprune update` runs here"):
        taken = taken_locks(open_registry(given.registry, root), given.name)
        lock = fresh_look(documents.lock, taken)
        if lock != documents.lock:
            store.write_bytes(root / LOCK_FILE, lock_text(lock).encode())
    return replace(documents, lock=lock)


def check_lock(documents: Documents) -> None:
    """Returns only if the lock describes the files beside it. Raises StaleLock saying what changed."""
    lock, given = documents.lock, documents.params
    pairs = (
        ("the installed Reprune", lock.reprune, __version__),
        ("the model name in params.yaml", lock.name, given.name),
        ("registry.uri in params.yaml", lock.registry, given.registry.uri),
        ("registry.workspace in params.yaml", lock.workspace, given.registry.workspace),
        ("the targets in params.yaml", lock.targets, tuple(sorted(given.targets))),
        (PARAMS_FILE, lock.params, digest_of(given)),
        (POLICY_FILE, lock.policy, digest_of(documents.policy)),
        ("the task's code", lock.task, task_digest(given.task, documents.root)),
    )
    changed = [what for what, locked, found in pairs if locked != found]
    if changed:
        raise StaleLock(
            f"{changed[0]} changed since the lock was written",
            where=str(documents.root / LOCK_FILE),
            fix="run `reprune update`",
        )


def check_together(given: Params, policy: Policy, root: Path) -> None:
    """The policy must speak about exactly the targets that will be built, and the members of a set. Raises
    DocumentError.
    """
    _check_targets(given, policy, root)
    _check_members(given, policy, root)


def _check_targets(given: Params, policy: Policy, root: Path) -> None:
    unknown = sorted(set(policy.targets) - set(given.targets))
    if unknown:
        raise DocumentError(
            f"the target '{unknown[0]}' is not in {PARAMS_FILE}; "
            f"{nearest(unknown[0], given.targets)}",
            where=f"{root / POLICY_FILE} (targets)",
            fix=f"add it to {PARAMS_FILE}, or delete it here",
        )
    silent = sorted(set(given.targets) - set(policy.targets))
    if silent:
        raise DocumentError(
            f"does not say whether the target '{silent[0]}' is required or advisory",
            where=f"{root / POLICY_FILE} (targets)",
            fix=f"add `{silent[0]}: required` or `{silent[0]}: advisory`",
        )


def _check_members(given: Params, policy: Policy, root: Path) -> None:
    if given.members is UNSET:
        return
    asked = {metric: metric.partition(".")[0] for metric in policy.quality}
    where = f"{root / POLICY_FILE} (quality)"
    for metric, member in asked.items():
        if member not in given.members:
            raise DocumentError(
                f"'{metric}' is no metric of a member; {nearest(member, given.members)}",
                where=where,
                fix=f"write <member>.<metric>, with one of: {', '.join(sorted(given.members))}",
            )
    silent = sorted(set(given.members) - set(asked.values()))
    if silent:
        raise DocumentError(
            f"asks nothing of the quality of the member '{silent[0]}': it would be cut, and promoted "
            "whatever it lost",
            where=where,
            fix=f"add a metric, for example `{silent[0]}.accuracy: {{vs_parent: {{max_drop: 0.01}}}}`",
        )


def _check_vouched(
    registry: Registry,
    holders: Mapping[str, compressed.Holder | None],
    given: Params,
    root: Path,
) -> None:
    """Raises ChampionForeign where the next steps would; where no key is known here, they find out."""
    try:
        keys = known_keys(root, given.registry)
    except PromotionRefused:
        return
    if keys:
        check_vouched(registry, holders, keys)


def _existing(path: Path) -> Lock | None:
    """The lock as it is; an undecodable one is written again."""
    try:
        return read_lock(path)
    except DocumentError:
        return None


def reference(holder: compressed.Holder | None) -> ChampionRef | Literal["none"]:
    """What a lock says about the version that an alias names."""
    return holder.ref if holder else "none"
