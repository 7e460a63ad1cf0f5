"""What can be adopted: the bundle is fetched or made, copied, and looked at. None of it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from reprune import __version__
from reprune.core.artifacts import MASKS, WEIGHTS, ModelBundle
from reprune.core.documents import digest_of, read_yaml
from reprune.core.errors import CheckpointError, PromotionRefused, VersionNotFound
from reprune.core.lock import Lock
from reprune.core.policy import POLICY_FILE, read_policy
from reprune.core.step import Documents, run
from reprune.core.store import MANIFEST, Artifact
from reprune.registry import compressed, links, receipts
from reprune.registry.inspecting import check_apart
from reprune.registry.weights import PICKLED
from reprune.steps.fetch import fetch_dense
from reprune.steps.moving import Desk
from reprune.steps.pinning import pinned
from reprune.steps.project import PROJECT_FILE, Project
from reprune.steps.staging import copy_artifact
from reprune.task.load import load_task, task_digest
from reprune.task.trained_on import TRAINED_ON


@dataclass(frozen=True, kw_only=True)
class Source:
    """The staged copy of a model, and where it came from (see records.Adoption)."""

    bundle: Artifact[ModelBundle]
    kind: Literal["champion", "dense", "folder"]
    version: str | None

    @property
    def digest(self) -> str:
        return self.bundle.digest


def take(desk: Desk, version: str | None, serving: str | None, folder: Path) -> Source:
    """Copies what is to be adopted to `folder`/bundle, whole and as its own manifest lists it.

    Raises VersionNotFound, ArtifactError, PromotionRefused for a version that holds no bundle.
    """
    out = folder / compressed.BUNDLE_PART
    if version is None:
        return _from_champion(desk, serving or "", out)
    if is_path(version):
        desk.say(f"adopt: copying {version}")
        bundle = copy_artifact(desk.root / version, out, ModelBundle)
        return Source(bundle=bundle, kind="folder", version=None)
    return _from_dense(desk, version, out)


def is_path(version: str) -> bool:
    """Whether `--version` names a folder: a path has a slash in it, the number of a version has none."""
    return "/" in version or version in (".", "..")


def check_bundle(source: Source, name: str) -> None:
    """Returns only for a bundle of this model that could be an arm: what can be seen without running it.

    Raises PromotionRefused, CheckpointError, NonFiniteWeights or TaskError.
    """
    bundle, manifest = source.bundle, source.bundle.manifest
    if manifest.name != name:
        raise PromotionRefused(
            f"is a model of '{manifest.name}', not of '{name}'",
            reason="other_model",
            where=_where(source),
            fix="adopt it in the repository of that model, or correct `name` in params.yaml",
        )
    for path in map(PurePosixPath, manifest.payload):
        if path.suffix in PICKLED and path.parts[0] != "task" and path.name != TRAINED_ON:
            raise PromotionRefused(
                f"holds '{path}': pickled weights run code when they are read",
                reason="pickled",
                where=_where(source),
                fix="adopt a bundle whose weights are safetensors alone",
            )
    if WEIGHTS not in manifest.payload:
        raise CheckpointError(f"holds no {WEIGHTS}", where=_where(source))
    for file in (WEIGHTS, MASKS):
        if file in manifest.payload:
            check_apart(bundle.file(file))
    if task_digest(manifest.task.entry, bundle.path / "task") != manifest.task.digest:
        raise PromotionRefused(
            "its task is not the one that its manifest names",
            reason="other_task",
            where=_where(source),
            fix="adopt the model as Reprune wrote it",
        )


def check_unjudged(source: Source, past: Sequence[links.Place]) -> None:
    """Returns only if no verdict of ours is about these weights, and nobody took them back.

    A blocked model does not come in by this door, nor does one that was rolled back. Raises
    PromotionRefused.
    """
    weights = source.bundle.manifest.payload.get(WEIGHTS)
    gone = links.rolled_back([info for info, _ in past])
    for info, link in reversed(past):
        listed = receipts.subject_digests(link.statement)
        if listed.get(f"{compressed.BUNDLE_PART}/{WEIGHTS}") != weights:
            continue
        back = f"`reprune rollback --to {info.version}`"
        if info.version in gone:
            raise PromotionRefused(
                f"these weights are version {info.version}, which was rolled back",
                reason="rolled_back",
                where=_where(source),
                fix=f"`reprune history` says who did it and why; to return to it: {back}",
            )
        if isinstance(link, receipts.Receipted):
            decision = link.statement.predicate
            raise PromotionRefused(
                f"these weights were judged as version {info.version}: {decision.outcome}",
                reason="was_judged",
                where=_where(source),
                fix=f"if it was champion before: {back}; "
                "else promote it, or decide with `reprune override`",
            )


def _from_champion(desk: Desk, serving: str, out: Path) -> Source:
    """The bundle in the version that the alias names: below bundle/, or at its top."""
    desk.say(f"adopt: fetching version {serving} of {desk.compressed}")
    with compressed.scratch() as folder:
        place = _fetch_bundle(desk, serving, folder)
        if place is None:
            raise PromotionRefused(
                f"version {serving} holds no ModelBundle, so it cannot be measured beside another model",
                reason="no_bundle",
                where=f"{desk.registry.identity}: {desk.compressed}",
                fix="adopt the dense version that it was made of (`reprune adopt --version DENSE`), or "
                "register a version that holds a ModelBundle as bundle/",
            )
        bundle = copy_artifact(place, out, ModelBundle)
    return Source(bundle=bundle, kind="champion", version=serving)


def _fetch_bundle(desk: Desk, version: str, folder: Path) -> Path | None:
    for part, place in ((compressed.BUNDLE_PART, compressed.BUNDLE_PART), (MANIFEST, "")):
        try:
            desk.registry.fetch(desk.compressed, version, folder, part=part)
        except VersionNotFound:
            continue
        if part == MANIFEST:
            desk.registry.fetch(desk.compressed, version, folder / "all")
            return folder / "all"
        return folder / place
    return None


def _from_dense(desk: Desk, version: str, out: Path) -> Source:
    """The bundle that `fetch-dense` makes of a dense version, with the task as it is here now."""
    ref = pinned(desk.registry, desk.given, version)
    policy = read_policy(desk.root / POLICY_FILE)
    lock = Lock(
        reprune=__version__,
        registry=desk.given.registry.uri,
        workspace=desk.given.registry.workspace,
        name=desk.given.name,
        dense=ref,
        champion="none",
        targets=tuple(sorted(desk.given.targets)),
        params=digest_of(desk.given),
        policy=digest_of(policy),
        task=task_digest(desk.given.task, desk.root),
        data_version=_data_version(desk),
    )
    documents = Documents(root=desk.root, params=desk.given, policy=policy, lock=lock)
    with compressed.scratch() as folder:
        run(fetch_dense, {}, documents, folder / "dense", say=desk.say)
        bundle = copy_artifact(folder / "dense", out, ModelBundle)
    return Source(bundle=bundle, kind="dense", version=ref.version)


def _data_version(desk: Desk) -> str:
    """As `reprune project` wrote it for this task; else the task is imported and asked, as `update` does."""
    path = desk.root / PROJECT_FILE
    if path.is_file():
        found = read_yaml(path, Project)
        if found.task == task_digest(desk.given.task, desk.root):
            return found.data_version
    return load_task(desk.given.task, desk.root).data_version


def _where(source: Source) -> str:
    if source.kind == "folder":
        return "the given folder"
    return f"{'dense version' if source.kind == 'dense' else 'version'} {source.version}"
