"""`reprune promote`: registers what was judged, and moves the champion if it passed.

    copy -> judge again -> chain -> first of its lock? -> [pass: terms, age, lock, champion]
         -> sign -> register -> first of its lock?
         -> [pass: read back -> mark who serves -> look again -> move the alias -> mark] -> local receipt

Of two verdicts for one lock the one with the lower version is accepted (see steps.fencing). Each arrow
may be the last thing that happens: doing it again completes it, and a version is registered once a
verdict. The receipt is signed before the version is made and lies inside it, so that there never is a
version of ours without one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from msgspec import UNSET

from reprune.core import store
from reprune.core.artifacts import Outcome, Receipt, Waiver
from reprune.core.errors import PromotionRefused, ReceiptInvalid
from reprune.core.store import Artifact
from reprune.registry import attestations, compressed, receipts
from reprune.registry.links import newest_link
from reprune.registry.protocol import CHAMPION, VersionInfo, known_alias, known_versions
from reprune.registry.receipts import Decision, Receipted, Statement
from reprune.registry.standing import check_standing, standing
from reprune.registry.tags import PROMOTED, VERDICT, tags_of
from reprune.steps.acceptance import (
    Case,
    check_acceptance,
    check_integrity,
    check_registry_anchor,
    check_registry_champion,
    refusing,
)
from reprune.steps.decision import decision
from reprune.steps.fencing import check_first
from reprune.steps.moving import Desk, at_the_desk, check_stored, mark_outgoing
from reprune.steps.promoter import make_promoter
from reprune.steps.signers import sign
from reprune.steps.staging import Evidence, Staged, private_folder, stage
from reprune.steps.waiving import accepted_waiver, stale_words

__all__ = ["Evidence", "PromoteResult", "make_promoter", "promote"]

RECEIPTS = Path(".reprune") / "receipts"

_Found: TypeAlias = tuple[VersionInfo, Receipted]


@dataclass(frozen=True, kw_only=True)
class PromoteResult:
    """What promote did. `receipt` is the digest of the signed receipt; `artifact` holds it locally.

    `already_done` says that an earlier run had done all of it; `waived_by` who overrode the verdict.
    """

    outcome: Outcome
    promoted: bool
    already_done: bool
    compressed_version: str
    champion_after: str | None
    receipt: str
    reasons: tuple[str, ...]
    words: str
    artifact: Artifact[Receipt]
    waived_by: str | None
    dry_run: bool


def promote(
    root: Path, evidence: Evidence, *, now: float, say: Callable[[str], None]
) -> PromoteResult:
    """Registers what was judged, signs a receipt, and moves the champion if the verdict is a pass.

    Deny by default: nothing is registered unless the verdict, judged again from its samples, is the
    recorded one, and the artefacts handed in are those that were judged. A pass is registered and
    promoted only under the promoter's own terms, with lock, policy and champion unchanged since; so
    is what an accepted override names. A dry run is registered and never promoted. Whatever the outcome,
    only one verdict of a lock is accepted; another one is refused as `lock_taken`, and never promoted.
    Idempotent, and complete after any interruption. `now` is Unix time in seconds.

    Raises PromotionRefused (each with its own `reason`), ChampionMoved, ChampionLost,
    ChampionForeign, RegistryUnreachable, Busy.
    """
    with (
        at_the_desk(root, what="another promote", now=now, say=say) as desk,
        private_folder(*desk.names) as folder,
    ):
        say("promote: judging again from the samples")
        with refusing(folder, evidence.places()):
            staged = stage(evidence, folder)
            case = check_integrity(staged, desk.given)
        return _decide(desk, staged, case)


def _decide(desk: Desk, staged: Staged, case: Case) -> PromoteResult:
    registered = _registered(desk, case)
    serving = known_alias(desk.registry, desk.compressed, CHAMPION)
    for info, receipt in registered:
        if info.version == serving and receipt.statement.predicate.promotes:
            # That the alias names it is no proof, and that it served once neither: it may have been rolled
            # back since, and the alias set by hand.
            check_standing(desk.registry, info, receipt, desk.authority.keys)
            done = PROMOTED in info.tags
            if not done:
                _mark(desk, info.version, receipt)
            return _result(desk, case, (info, receipt), done=done)
    _check_not_rolled_back(desk, registered)
    check_first(desk, case)
    waiver = _waiver(desk, case, registered)
    promotes = _promotes(case, waiver)
    found = next((each for each in registered if _same(each, waiver)), None)
    if found is not None and not promotes:
        return _result(desk, case, found, done=True)
    if promotes:
        check_acceptance(
            case, desk.authority, desk.registry, root=desk.root, given=desk.given, now=desk.now
        )
    if found is None:
        found = _register(desk, staged, case, waiver)
        check_first(desk, case, registered=found[0].version)
    if promotes:
        _move(desk, case, *found)
    return _result(desk, case, found, done=False)


def _check_not_rolled_back(desk: Desk, registered: list[_Found]) -> None:
    """What a person took back, or went back past, does not return by the verdict that it had before."""
    versions = known_versions(desk.registry, desk.compressed)
    for info, receipt in registered:
        if not receipt.statement.predicate.promotes:
            continue
        found = standing(desk.registry, versions, info.version, desk.authority.keys)
        if found in ("rolled back", "passed over"):
            raise PromotionRefused(
                f"version {info.version} has this verdict, and was {found}"
                + (" by a rollback" if found == "passed over" else ""),
                reason="rolled_back",
                where=f"{desk.registry.identity}: {desk.compressed}",
                fix="`reprune history` says who did it and why; to judge it again, run "
                "`reprune update --again` and `dvc repro`, then promote the new verdict; "
                f"if the rollback was wrong: `reprune rollback --to {info.version}`",
            )


def _promotes(case: Case, waiver: Waiver | None) -> bool:
    passed = case.judgement.outcome == "pass" or waiver is not None
    return passed and case.judgement.dry_run is not True


def _waiver(desk: Desk, case: Case, registered: list[_Found]) -> Waiver | None:
    """The override that is used for this verdict, if one is needed, written and accepted."""
    if case.judgement.outcome == "pass" or case.judgement.dry_run is True:
        return None
    used = [
        receipt.statement.predicate.waiver
        for info, receipt in registered
        if PROMOTED in info.tags and receipt.statement.predicate.waiver is not UNSET
    ]
    waiver = accepted_waiver(case, desk.authority, desk.root, used=used, now=desk.now)
    if waiver is None and (stale := stale_words(case, desk.root)):
        desk.say(f"promote: {stale}")
    return waiver


def _same(each: _Found, waiver: Waiver | None) -> bool:
    """Whether a version was registered under this override, or under none."""
    return each[1].statement.predicate.waiver == (UNSET if waiver is None else waiver)


def _registered(desk: Desk, case: Case) -> list[_Found]:
    """The versions that earlier calls made for this verdict, newest first; tags alone are not believed."""
    found = []
    for info in reversed(known_versions(desk.registry, desk.compressed)):
        if info.tags.get(VERDICT) != case.verdict.digest:
            continue
        try:
            found.append((info, _verified(desk, info)))
        except ReceiptInvalid as error:
            desk.say(f"promote: version {info.version} is not ours: {error.what}")
    return found


def _verified(desk: Desk, info: VersionInfo) -> Receipted:
    receipt = compressed.read_receipt(desk.registry, info)
    return receipts.verify(
        receipt.raw, desk.authority.keys, where=f"{info.name} version {info.version}"
    )


def _register(desk: Desk, staged: Staged, case: Case, waiver: Waiver | None) -> _Found:
    decided = decision(
        case,
        staged.candidate.digest,
        registry=desk.registry.identity,
        predecessor=_predecessor(desk),
        now=desk.now,
        valid_for_days=case.valid_for_days(desk.authority),
        waiver=waiver,
    )
    _attest(desk, staged, case, decided)
    statement = Statement(subject=receipts.subjects(staged.file_digests()), predicate=decided)
    raw = sign(statement, desk.authority.signer, desk.authority.keys)
    receipt = receipts.verify(raw, desk.authority.keys, where="the receipt just signed")
    store.write_bytes(staged.folder / receipts.RECEIPT_FILE, raw)
    desk.say(f"promote: registering a version of {desk.compressed}")
    tags = tags_of(receipt)
    version = desk.registry.register(desk.compressed, staged.folder, tags)
    return VersionInfo(name=desk.compressed, version=version, tags=tags, stamp=""), receipt


def _attest(desk: Desk, staged: Staged, case: Case, decided: Decision) -> None:
    """Puts the statements for others among the files that the receipt will list."""
    files = {
        path: digest
        for path, digest in staged.file_digests().items()
        if path.startswith(("bundle/", "engines/"))
    }
    made: dict[str, receipts.AnyStatement] = {
        attestations.EVAL_FILE: attestations.evaluation(decided, case.judgement, files)
    }
    if decided.promotes:
        minimum = desk.authority.promoter.minimum_policy is not None
        made[attestations.VERIFIED_FILE] = attestations.verification(
            decided, files, minimum=minimum
        )
    for name, statement in made.items():
        raw = sign(statement, desk.authority.signer, desk.authority.keys)
        store.write_bytes(staged.folder / name, raw)


def _predecessor(desk: Desk) -> str | None:
    """The newest receipt that we trust, of whatever kind."""
    newest = newest_link(desk.registry, desk.given.name, desk.authority.keys)
    return None if newest is None else newest[1].digest


def _move(desk: Desk, case: Case, info: VersionInfo, receipt: Receipted) -> None:
    """The alias moves only onto bytes that were read back, while the champion is still the locked one."""
    check_stored(desk.registry, info, receipt)
    locked = case.verdict.manifest.champion
    mark_outgoing(desk, locked.version if locked else None)
    # Nobody's registry moves an alias on a condition: look again, as late as can be.
    _check_not_rolled_back(desk, _registered(desk, case))
    check_first(desk, case, registered=info.version)
    check_registry_anchor(case, desk.authority, desk.registry)
    check_registry_champion(case, desk.authority, desk.registry)
    desk.registry.set_alias(desk.compressed, CHAMPION, info.version)
    _mark(desk, info.version, receipt)
    desk.say(f"promote: the champion of {desk.given.name} is now version {info.version}")


def _mark(desk: Desk, version: str, receipt: Receipted) -> None:
    desk.registry.set_tags(desk.compressed, version, {PROMOTED: receipt.digest})


def _result(desk: Desk, case: Case, found: _Found, *, done: bool) -> PromoteResult:
    info, receipt = found
    stated = receipt.statement.predicate
    champion = known_alias(desk.registry, desk.compressed, CHAMPION)
    if stated.promotes and champion != info.version:
        raise PromotionRefused(
            f"the champion reads as version {champion}, not {info.version}",
            reason="alias_not_moved",
            where=desk.registry.identity,
            fix="somebody else writes the alias: find out who, then promote again",
        )
    words = _words(stated, f"registered as version {info.version} of {desk.compressed}", champion)
    return PromoteResult(
        outcome=stated.outcome,
        promoted=stated.promotes,
        already_done=done,
        compressed_version=info.version,
        champion_after=champion,
        receipt=receipt.digest,
        reasons=case.judgement.reasons,
        words=f"{words} Nothing had to be done." if done else words,
        artifact=_keep(desk, case, info, receipt, champion),
        waived_by=None if stated.waiver is UNSET else stated.waiver.by,
        dry_run=stated.dry_run is True,
    )


def _words(stated: Decision, place: str, champion: str | None) -> str:
    """What was done, in a sentence; of a dry run, what would have been."""
    stays = f"the champion stays {champion or 'none'}"
    if stated.dry_run is True:
        would = (
            "would have made it the champion"
            if stated.outcome == "pass"
            else "would not promote it"
        )
        return f"dry run: {stated.outcome}, so enforcing {would}; {place}, {stays}."
    if stated.waiver is not UNSET:
        who = f"overridden by {stated.waiver.by} until {stated.waiver.expires}"
        return f"{stated.outcome}, {who}: {place}, which is now the champion."
    if stated.promotes:
        return f"{stated.outcome}: {place}, which is now the champion."
    return f"{stated.outcome}: {place}; {stays}."


def _keep(
    desk: Desk, case: Case, info: VersionInfo, receipt: Receipted, champion: str | None
) -> Artifact[Receipt]:
    """The receipt as an artefact below `.reprune/receipts`, for whoever keeps records."""
    stated = receipt.statement.predicate
    out = desk.root / RECEIPTS / receipt.digest.removeprefix("sha256:")[:24]
    manifest = Receipt(
        name=stated.name,
        outcome=stated.outcome,
        compressed_version=info.version,
        promoted=stated.promotes,
        champion_after=champion,
        verdict=stated.verdict,
        bundle=stated.bundle,
        receipt=receipt.digest,
        predecessor=stated.predecessor,
        signer=receipt.signer,
    )
    with store.drafting(out) as draft:
        store.write_bytes(draft / receipts.RECEIPT_FILE, receipt.raw)
        return store.write(
            draft, manifest, step="promote", parents={"verdict": case.verdict.digest}, out=out
        )
