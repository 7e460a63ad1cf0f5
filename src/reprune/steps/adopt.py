"""`reprune adopt`: a named person makes a model that already serves the champion, unjudged.

    stage -> look at it -> sign and register the record -> read back -> [look again]
          -> mark who serves -> move the alias -> mark

Each arrow may be the last thing that happens: doing it again completes it. What comes is copied into a
version of its own, so that the champion is, like any other, a version that a receipt lists file by file.
Nothing of it is run. The first generation after it is judged against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from reprune import __version__
from reprune.core import store
from reprune.core.errors import ChampionMoved, PromotionRefused
from reprune.registry import compressed, links, receipts
from reprune.registry.protocol import CHAMPION, VersionInfo, known_alias, known_versions
from reprune.registry.records import (
    Adoption,
    AdoptionRecord,
    AdoptionStatement,
    RollbackRecord,
)
from reprune.registry.tags import PROMOTED
from reprune.steps.adoptable import Source, check_bundle, check_unjudged, take
from reprune.steps.moving import (
    Desk,
    at_the_desk,
    check_stored,
    mark_outgoing,
    register_record,
    said,
)
from reprune.steps.staging import private_folder


@dataclass(frozen=True, kw_only=True)
class AdoptResult:
    """`version` serves now, `before` did; it is a copy of `origin`. `record` is the digest of the signed
    record that it carries, `by` and `reason` are the record's own. `already_done` says that an earlier
    call had done all of it.
    """

    name: str
    registry: str
    version: str
    before: str | None
    origin: str
    dense_version: str
    bundle: str
    record: str
    by: str
    reason: str
    already_done: bool


def adopt(
    root: Path,
    *,
    version: str | None,
    by: str,
    reason: str,
    now: float,
    say: Callable[[str], None],
) -> AdoptResult:
    """Afterwards the alias `champion` names a version that holds the adopted model and a signed record.

    Adopted is what the alias names now, though it has no receipt of ours; or `version`: a dense version,
    or the path of a ModelBundle. A judged champion is never replaced, and what was judged is not adopted.
    Where a judged model served before, only who may override may adopt. Idempotent, and complete after
    any interruption. The lock has to be written again: `reprune update`.

    Raises PromotionRefused (each with its own `reason`), ChampionLost, ChampionMoved, VersionNotFound,
    ArtifactError for a bundle that is not whole, CheckpointError or NonFiniteWeights for its weights,
    RegistryUnreachable, Busy, InputError for an empty name or reason.
    """
    by, reason = said(by, "--by"), said(reason, "--reason")
    with (
        at_the_desk(root, what="a promote", now=now, say=say) as desk,
        private_folder(*desk.names) as folder,
    ):
        past = links.links(desk.registry, desk.given.name, keys=desk.authority.keys)
        serving = known_alias(desk.registry, desk.compressed, CHAMPION)
        current = next((each for each in past if each[0].version == serving), None)
        pending = _pending(past, serving)
        _check_champion(desk, serving, current, pending, version)
        if version is None and (current or (serving is None and pending)):
            return _finish(desk, *_adoption(current or pending), done=current is not None)
        source = take(desk, version, serving, folder)
        for known in (current, pending):
            if (
                known is not None
                and _adoption(known)[1].statement.predicate.bundle == source.digest
            ):
                return _finish(desk, *_adoption(known), done=known is current)
        check_bundle(source, desk.given.name)
        check_unjudged(source, past)
        _check_allowed(desk, by, past)
        adoption = _stated(desk, source, by=by, reason=reason, before=serving, past=past)
        return _finish(desk, *_register(desk, adoption, folder), done=False)


def _check_champion(
    desk: Desk,
    serving: str | None,
    current: links.Place | None,
    pending: links.Place | None,
    version: str | None,
) -> None:
    """Returns only where there is room for an adoption: no champion, a foreign one, or an adopted one."""
    link = None if current is None else current[1]
    if link is not None and not isinstance(link, AdoptionRecord):
        judged = isinstance(link, receipts.Receipted)
        if isinstance(link, receipts.Receipted) and link.statement.predicate.promotes:
            _refuse(
                "champion_exists",
                f"version {serving} is the champion, and was judged: it is not replaced unjudged",
                desk,
                "let the pipeline judge the other model (`reprune update`, `dvc repro`), or return to an "
                "earlier champion with `reprune rollback`",
            )
        _refuse(
            "was_judged" if judged else "not_a_model",
            f"the alias names version {serving}, which Reprune itself registered and did not promote",
            desk,
            "return to a version that was promoted: `reprune rollback --to VERSION`",
        )
    known = {info.version for info in known_versions(desk.registry, desk.compressed)}
    if serving is None or serving not in known:
        # Raises what is wrong where somebody deleted the alias or the version.
        compressed.champion(
            desk.registry, desk.given.name, besides=pending[1].digest if pending else ""
        )
    if serving is None and version is None and pending is None:
        _refuse(
            "nothing_to_adopt",
            f"no alias '{CHAMPION}' names a version, so nothing says which model serves",
            desk,
            "name it: `reprune adopt --version DENSE` for a dense version, or the path of a ModelBundle",
        )


def _pending(past: Sequence[links.Place], serving: str | None) -> links.Place | None:
    """The newest adoption that the alias was to move onto and has not, if nothing since could move it."""
    for info, record in reversed(past):
        if isinstance(record, receipts.Receipted) and not record.statement.predicate.promotes:
            continue
        if isinstance(record, AdoptionRecord) and info.version != serving:
            return (info, record) if record.statement.predicate.before == serving else None
        return None
    return None


def _adoption(place: links.Place | None) -> tuple[VersionInfo, AdoptionRecord]:
    """A place that is known to hold an adoption."""
    if place is None or not isinstance(place[1], AdoptionRecord):
        raise TypeError("not an adoption")
    return place[0], place[1]


def _check_allowed(desk: Desk, by: str, past: Sequence[links.Place]) -> None:
    """Where something served under our receipts, an unjudged champion passes by the gate: an override."""
    served = [
        info.version
        for info, link in past
        if not isinstance(link, RollbackRecord)
        and link.statement.predicate.promotes
        and (isinstance(link, receipts.Receipted) or PROMOTED in info.tags)
    ]
    if served and by not in desk.authority.promoter.overrides.allowed_by:
        _refuse(
            "adoption_not_allowed",
            f"version {served[-1]} was champion before, so that a model which nobody judged takes its place "
            f"is an override, and '{by}' may not override here",
            desk,
            f"return to it: `reprune rollback --to {served[-1]}`; or ask the promoter's owner: "
            "`overrides.allowed_by` in the promoter's config.yaml",
        )


def _stated(
    desk: Desk,
    source: Source,
    *,
    by: str,
    reason: str,
    before: str | None,
    past: Sequence[links.Place],
) -> Adoption:
    return Adoption(
        registry=desk.registry.identity,
        workspace=desk.given.registry.workspace,
        name=desk.given.name,
        source=source.kind,
        source_version=source.version,
        dense_version=source.bundle.manifest.dense_version,
        bundle=source.digest,
        before=before,
        by=by,
        reason=reason,
        predecessor=past[-1][1].digest if past else None,
        reprune=__version__,
        signed_at_s=max(0, int(desk.now)),
    )


def _register(desk: Desk, adoption: Adoption, folder: Path) -> tuple[VersionInfo, AdoptionRecord]:
    """Registers `folder`, which holds the staged bundle and nothing else, with the record beside it."""
    digests = {
        path.relative_to(folder).as_posix(): store.file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    desk.say(f"adopt: registering a version of {desk.compressed}")
    statement = AdoptionStatement(subject=receipts.subjects(digests), predicate=adoption)
    return register_record(desk, statement, folder)


def _finish(desk: Desk, info: VersionInfo, record: AdoptionRecord, *, done: bool) -> AdoptResult:
    """The alias moves onto bytes that were read back, unless somebody else moved it since the record.

    `done` says that the alias was there already when the call began.
    """
    told = record.statement.predicate
    marked = done and PROMOTED in info.tags
    if not done:
        check_stored(desk.registry, info, record)
        serving = known_alias(desk.registry, desk.compressed, CHAMPION)
        if serving not in (told.before, info.version):
            raise ChampionMoved(
                f"the champion was version {told.before or 'none'} and is now version {serving}: "
                "somebody else moved it meanwhile, and it stays there",
                where=desk.registry.identity,
                fix="find out who; then `reprune adopt` again, if it is still what you want",
            )
        if serving != info.version:
            mark_outgoing(desk, serving)
        desk.registry.set_alias(desk.compressed, CHAMPION, info.version)
    if not marked:
        desk.registry.set_tags(desk.compressed, info.version, {PROMOTED: record.digest})
        desk.say(f"adopt: the champion of {told.name} is now version {info.version}")
    return AdoptResult(
        name=told.name,
        registry=desk.registry.identity,
        version=info.version,
        before=told.before,
        origin=told.origin,
        dense_version=told.dense_version,
        bundle=told.bundle,
        record=record.digest,
        by=told.by,
        reason=told.reason,
        already_done=marked,
    )


def _refuse(reason: str, what: str, desk: Desk, fix: str) -> NoReturn:
    raise PromotionRefused(
        what, reason=reason, where=f"{desk.registry.identity}: {desk.compressed}", fix=fix
    )
