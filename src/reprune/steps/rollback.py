"""`reprune rollback`: a named person returns the champion to a version that was champion before.

    chain -> read back -> sign and register the record -> [look again] -> mark who serves
         -> move the alias -> mark

Each arrow may be the last thing that happens: doing it again completes it. The record comes first, so
that the champion never moves without one. What was rolled back is not promoted again by its old verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from reprune import __version__
from reprune.core.errors import (
    ChampionForeign,
    ChampionMoved,
    PromotionRefused,
    ReceiptInvalid,
    VersionNotFound,
    nearest,
)
from reprune.registry import compressed, links, receipts
from reprune.registry.protocol import CHAMPION, VersionInfo, known_alias, known_versions
from reprune.registry.receipted import accepted_for
from reprune.registry.receipts import Receipted, chain_gaps
from reprune.registry.records import (
    AdoptionRecord,
    Rollback,
    RollbackRecord,
    RollbackStatement,
)
from reprune.registry.standing import Standing, check_standing, standing
from reprune.registry.stored import place
from reprune.registry.tags import PROMOTED, RECEIPT, RECORD, ROLLED_BACK
from reprune.steps.moving import (
    Desk,
    at_the_desk,
    check_stored,
    mark_outgoing,
    register_record,
    said,
)


@dataclass(frozen=True, kw_only=True)
class RollbackResult:
    """`version` serves now, `before` did; `record` is the digest of the signed record, which lies in
    `record_version`. `already_done` says that an earlier call had done all of it.
    """

    name: str
    registry: str
    version: str
    before: str | None
    record: str
    record_version: str
    by: str
    reason: str
    already_done: bool


def rollback(
    root: Path,
    *,
    to: str | None,
    by: str,
    reason: str,
    now: float,
    say: Callable[[str], None],
) -> RollbackResult:
    """Afterwards the alias `champion` names `to`, else the version that the champion replaced.

    Only to a version that was champion, with a receipt that we trust, no gap in the chain since, and
    bytes that are still those of its receipt; while nobody is champion, `to` may also be one that was to be
    it and was cut short. Without `to` never to one that was rolled back. Idempotent, and complete after any
    interruption: without `to`, a second call does not go back further. The lock has to be written again:
    `reprune update`.

    Raises PromotionRefused (each with its own `reason`), VersionNotFound, ReceiptInvalid, ChampionMoved,
    RegistryUnreachable, Busy, InputError for an empty name or reason.
    """
    by, reason = said(by, "--by"), said(reason, "--reason")
    with at_the_desk(root, what="a promote", now=now, say=say) as desk:
        serving = known_alias(desk.registry, desk.compressed, CHAMPION)
        newest = links.newest_link(desk.registry, desk.given.name, desk.authority.keys)
        if newest is not None and isinstance(newest[1], RollbackRecord):
            told = newest[1].statement.predicate
            if to in (None, told.version) and serving in (told.before, told.version):
                return _complete(desk, newest[0], newest[1], serving)
        target, receipt = _target(desk, to, serving)
        same = target.version == serving
        if same:
            _check_in_doubt(desk, target, receipt)
        _check_chain(desk, target)
        check_stored(desk.registry, target, receipt)
        record = Rollback(
            registry=desk.registry.identity,
            workspace=desk.given.registry.workspace,
            name=desk.given.name,
            version=target.version,
            receipt=receipt.digest,
            bundle=receipt.statement.predicate.bundle,
            before=None if same else serving,
            before_receipt=None if same else _receipt_of(desk, serving),
            by=by,
            reason=reason,
            predecessor=newest[1].digest if newest else None,
            reprune=__version__,
            signed_at_s=max(0, int(now)),
        )
        subject = receipts.subjects({"bundle": record.bundle, "receipt": record.receipt})
        with compressed.scratch() as folder:
            statement = RollbackStatement(subject=subject, predicate=record)
            info, made = register_record(desk, statement, folder)
        return _finish(desk, info, made)


def _complete(
    desk: Desk, info: VersionInfo, record: RollbackRecord, serving: str | None
) -> RollbackResult:
    """An earlier call's record: what it left undone is done, under the name and reason that it holds."""
    told = record.statement.predicate
    versions = known_versions(desk.registry, desk.compressed)
    marked = all(
        ROLLED_BACK in each.tags
        for each in versions
        if each.version == told.before and told.before_receipt is not None
    ) and all(PROMOTED in each.tags for each in versions if each.version == told.version)
    if serving == told.version and marked:
        return _result(desk, info, record, already=True)
    if serving != told.version:
        target, receipt = _target(desk, told.version, serving)
        _check_chain(desk, target)
        check_stored(desk.registry, target, receipt)
        if receipt.digest != told.receipt:
            _refuse("stored_differs", "the record names another receipt than is there", desk)
    return _finish(desk, info, record)


def _finish(desk: Desk, info: VersionInfo, record: RollbackRecord) -> RollbackResult:
    """Moves the alias, unless somebody else did since the record was made, and marks the other version."""
    told = record.statement.predicate
    serving = known_alias(desk.registry, desk.compressed, CHAMPION)
    if serving not in (told.before, told.version):
        raise ChampionMoved(
            f"the champion was version {told.before or 'none'} and is now version {serving}: "
            "somebody else moved it meanwhile, and it stays there",
            where=desk.registry.identity,
            fix="find out who; then `reprune rollback --to VERSION` again",
        )
    if serving != told.version:
        mark_outgoing(desk, serving)
        desk.registry.set_alias(desk.compressed, CHAMPION, told.version)
    if told.before is not None and told.before_receipt is not None:
        desk.registry.set_tags(desk.compressed, told.before, {ROLLED_BACK: record.digest})
    for each in known_versions(desk.registry, desk.compressed):
        if each.version == told.version and PROMOTED not in each.tags:
            desk.registry.set_tags(desk.compressed, told.version, {PROMOTED: told.receipt})
    desk.say(f"rollback: the champion of {told.name} is now version {told.version}")
    return _result(desk, info, record, already=False)


def _result(
    desk: Desk, info: VersionInfo, record: RollbackRecord, *, already: bool
) -> RollbackResult:
    told = record.statement.predicate
    return RollbackResult(
        name=told.name,
        registry=desk.registry.identity,
        version=told.version,
        before=told.before,
        record=record.digest,
        record_version=info.version,
        by=told.by,
        reason=told.reason,
        already_done=already,
    )


def _target(
    desk: Desk, to: str | None, serving: str | None
) -> tuple[VersionInfo, Receipted | AdoptionRecord]:
    """The version to return to, with its receipt, which we trust; it was champion."""
    infos = {info.version: info for info in known_versions(desk.registry, desk.compressed)}
    wanted = to if to is not None else _before(desk, serving, infos)
    info = infos.get(wanted)
    if info is None:
        raise VersionNotFound(
            f"'{desk.compressed}' has no version {wanted}; {nearest(wanted, infos)}",
            where=desk.registry.identity,
            fix="`reprune history` lists them; name one that was promoted with --to",
        )
    receipt = links.read_link(desk.registry, info, desk.authority.keys)
    if isinstance(receipt, RollbackRecord):
        _refuse("not_promoted", f"version {wanted} is a record, not a model", desk)
    # Without `to`, the champion's own signed receipt, or its record, says that this one served.
    served = to is None or PROMOTED in info.tags
    if not served and serving in (None, wanted):
        served = _may_begin(desk, info, receipt)
    if not (served and receipt.statement.predicate.promotes):
        _refuse("not_promoted", f"version {wanted} never was the champion", desk)
    if to is None and _standing(desk, wanted) == "rolled back":
        _refuse("rolled_back", f"version {wanted}, which it replaced, was rolled back before", desk)
    return info, receipt


def _may_begin(desk: Desk, info: VersionInfo, receipt: Receipted | AdoptionRecord) -> bool:
    """Whether a named person may begin with a version that nothing says ever served: a promotion, or an
    adoption, that was cut short before the alias moved.
    """
    if _standing(desk, info.version, tags=False) == "rolled back":
        return False
    if isinstance(receipt, AdoptionRecord):
        return True
    decision = receipt.statement.predicate
    versions = known_versions(desk.registry, desk.compressed)
    first = accepted_for(desk.registry, versions, decision.lock, desk.authority.keys)
    return first is not None and first.verdict == decision.verdict


def _standing(desk: Desk, version: str, *, tags: bool = True) -> Standing:
    versions = known_versions(desk.registry, desk.compressed)
    return standing(desk.registry, versions, version, desk.authority.keys, tags=tags)


def _check_in_doubt(desk: Desk, target: VersionInfo, receipt: Receipted | AdoptionRecord) -> None:
    """Returns only if it takes a record for the champion to be one: it was rolled back, or came second."""
    try:
        check_standing(desk.registry, target, receipt, desk.authority.keys)
    except ChampionForeign:
        return
    _refuse("already_serves", f"version {target.version} is the champion", desk)


def _before(desk: Desk, serving: str | None, infos: dict[str, VersionInfo]) -> str:
    """The version that the champion replaced, as its receipt says, or the record of its adoption."""
    if serving is None:
        _refuse("nothing_before", "there is no champion, so nothing says what served before", desk)
    info = infos.get(serving)
    if info is None:
        _refuse("nothing_before", f"the champion, version {serving}, is gone", desk)
    try:
        receipt = links.read_link(desk.registry, info, desk.authority.keys)
    except ReceiptInvalid as error:
        _refuse("nothing_before", f"the champion, version {serving}, {error.what}", desk)
    if isinstance(receipt, AdoptionRecord):
        return _before_adoption(desk, receipt, infos)
    champion = receipt.statement.predicate.champion if isinstance(receipt, Receipted) else None
    if champion is None:
        _refuse("nothing_before", f"version {serving} was the first champion", desk)
    return champion.version


def _before_adoption(desk: Desk, record: AdoptionRecord, infos: dict[str, VersionInfo]) -> str:
    """What the alias named until somebody adopted a model, if it is one of ours: that one served, too."""
    before = record.statement.predicate.before
    if before is None:
        _refuse("nothing_before", "the champion was adopted, and no alias named one before", desk)
    info = infos.get(before)
    if info is None or not {RECEIPT, RECORD} & info.tags.keys():
        what = "which is gone" if info is None else "which carries no receipt of ours"
        _refuse(
            "nothing_before", f"the champion was adopted in place of version {before}, {what}", desk
        )
    return before


def _receipt_of(desk: Desk, serving: str | None) -> str | None:
    """The digest of what the champion carries; None where that is nothing of ours."""
    infos = known_versions(desk.registry, desk.compressed)
    for info in infos:
        if info.version == serving and (RECEIPT in info.tags or RECORD in info.tags):
            try:
                return links.read_link(desk.registry, info, desk.authority.keys).digest
            except ReceiptInvalid:
                return None
    return None


def _check_chain(desk: Desk, target: VersionInfo) -> None:
    """From the target on, every receipt that we trust follows another one."""
    whole = links.links(desk.registry, desk.given.name, keys=desk.authority.keys)
    start = next(at for at, (info, _) in enumerate(whole) if info.version == target.version)
    # One that was under way when the target was registered may name any receipt from before it.
    earlier = {link.digest for _, link in whole[:start]}
    began = {link.statement.predicate.predecessor for _, link in whole[: min(start, 1)]}
    gaps = chain_gaps([link for _, link in whole[start:]], before=earlier | began)
    if gaps:
        raise PromotionRefused(
            f"the chain of receipts since version {target.version} is not whole: {gaps[0]}",
            reason="chain_broken",
            where=place(desk.registry, target),
            fix="restore the registry from a backup, or return to a version after the gap",
        )


def _refuse(reason: str, what: str, desk: Desk) -> NoReturn:
    raise PromotionRefused(
        what,
        reason=reason,
        where=f"{desk.registry.identity}: {desk.compressed}",
        fix="`reprune history` lists what was promoted; name a version with --to",
    )
