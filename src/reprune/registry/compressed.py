"""How compressed versions lie in a registry, and who the champion is.

They are versions of `<name>-compressed`. Each that was judged holds, beside its receipt,

    bundle/            the candidate, a ModelBundle
    plan/  profile/<i>/  sensitivity/     what it was made by
    verdict/  engines/<i>/  report/       what it was judged by
    eval.dsse.json  verified.dsse.json    the decision, said for others (see registry.attestations)

and is tagged at creation (see registry.tags). One that was adopted holds a `bundle/` alone. The alias
`champion` is moved by promote, by adopt, and by rollback, which leaves a record in a version of its own
(see registry.records).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reprune.core import store
from reprune.core.artifacts import VerdictSummary
from reprune.core.errors import (
    ChampionForeign,
    ChampionLost,
    PayloadCorrupt,
    ReceiptInvalid,
    VersionNotFound,
)
from reprune.core.lock import ChampionRef
from reprune.registry.protocol import (
    ANCHOR,
    CHAMPION,
    Registry,
    VersionInfo,
    known_alias,
    known_versions,
)
from reprune.registry.receipted import accepted_for, read_receipt
from reprune.registry.receipts import Receipted, subject_digests
from reprune.registry.records import AdoptionRecord, is_adoption, read_adoption
from reprune.registry.stored import compressed_name, scratch
from reprune.registry.tags import (
    ANCHORED,
    ATTEMPT,
    DRY_RUN,
    EVAL,
    LOCK,
    OUTCOME,
    PARENT,
    PROMOTED,
    RECORD,
    VERDICT,
    WAIVER,
)

__all__ = [
    "Holder", "anchor", "attempts", "champion", "check_files", "compressed_name", "fetch_part",
    "history", "read_receipt", "scratch", "summary", "uses",
]  # fmt: skip

BUNDLE_PART = "bundle"
HISTORY = 50


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A compressed version that an alias names, with the receipt that it carries."""

    info: VersionInfo
    receipt: Receipted | AdoptionRecord

    @property
    def ref(self) -> ChampionRef:
        decision = self.receipt.statement.predicate
        return ChampionRef(
            version=self.info.version, bundle=decision.bundle, receipt=self.receipt.digest
        )


def champion(registry: Registry, name: str, *, besides: str = "") -> Holder | None:
    """Who the alias `champion` names; None only if nothing was ever promoted.

    `besides` is the digest of a verdict, or of a record, whose own registration does not count (a promotion
    or an adoption that was cut short). Raises ChampionLost if the alias is gone though something passed or
    was adopted, ChampionForeign if it names a version without our receipt of either. A pass that came
    second for its lock is none: promote never moved to it. No signature is checked here.
    """
    compressed = compressed_name(name)
    version = known_alias(registry, compressed, CHAMPION)
    if version is not None:
        return _holder(registry, compressed, version, CHAMPION)
    versions = known_versions(registry, compressed)
    passed = [
        info
        for info in versions
        if besides not in (info.tags.get(VERDICT), info.tags.get(RECORD))
        and _may_have_served(registry, info)
        and not _came_second(registry, versions, info)
    ]
    if not passed and any(
        receipt.statement.predicate.champion is not None for _, receipt in history(registry, name)
    ):
        raise ChampionLost(
            f"'{compressed}' has no alias '{CHAMPION}' and no version that passed, "
            "but its receipts name a champion: it was deleted",
            where=registry.identity,
            fix="restore the registry from a backup",
        )
    if passed:
        newest, back = passed[-1], _back(CHAMPION)
        begin = back.replace("VERSION", newest.version).partition(": ")[2]
        raise ChampionLost(
            f"'{compressed}' has no alias '{CHAMPION}', but {len(passed)} of its versions passed: "
            "the alias was deleted, or a promotion was cut short",
            where=registry.identity,
            fix=f"if version {newest.version} was never {_done(newest)} for it "
            f"again, or, if that is refused, begin with it: {begin}; else {back}",
        )
    return None


def anchor(registry: Registry, name: str) -> Holder | None:
    """Who the alias `anchor` names, if it was ever set.

    Raises ChampionForeign as `champion` does, and ChampionLost if the alias is gone: without it the
    rules about the anchor would quietly not be judged.
    """
    compressed = compressed_name(name)
    version = known_alias(registry, compressed, ANCHOR)
    if version is not None:
        return _holder(registry, compressed, version, ANCHOR)
    once = [info for info in known_versions(registry, compressed) if ANCHORED in info.tags]
    if once:
        raise ChampionLost(
            f"'{compressed}' has no alias '{ANCHOR}', but version {once[-1].version} was made the "
            f"anchor ({once[-1].tags[ANCHORED]}): the alias was deleted",
            where=registry.identity,
            fix=f"set it again: `reprune anchor {once[-1].version} --by NAME --reason TEXT`",
        )
    return None


def attempts(registry: Registry, name: str, dense_version: str, *, besides: str = "") -> int:
    """How many looks at the sealed data are on record for this dense version.

    The larger of the number of judged verdicts and the highest attempt that one of them was judged
    as. `besides` is the digest of a verdict that is left out, with all that came after it.
    """
    judged: set[str] = set()
    highest = 0
    for info in known_versions(registry, compressed_name(name)):
        verdict = info.tags.get(VERDICT)
        if verdict is None or info.tags.get(PARENT) != dense_version:
            continue
        if verdict == besides:
            break
        judged.add(verdict)
        number = info.tags.get(ATTEMPT, "")
        if number.isdecimal():
            highest = max(highest, int(number))
    return max(len(judged), highest)


def uses(registry: Registry, name: str) -> dict[str, int]:
    """Eval digest to the number of verdicts on record that were given on those examples.

    Versions from before the tag count through their receipts, as far back as `history` goes.
    """
    judged: dict[str, set[str]] = {}
    untagged = False
    for info in known_versions(registry, compressed_name(name)):
        verdict, examples = info.tags.get(VERDICT), info.tags.get(EVAL)
        untagged = untagged or (verdict is not None and examples is None)
        if verdict and examples:
            judged.setdefault(examples, set()).add(verdict)
    for info, receipt in history(registry, name) if untagged else ():
        if EVAL not in info.tags:
            decision = receipt.statement.predicate
            judged.setdefault(decision.eval_digest, set()).add(decision.verdict)
    return {examples: len(verdicts) for examples, verdicts in sorted(judged.items())}


def history(
    registry: Registry, name: str, *, always: str = ""
) -> tuple[tuple[VersionInfo, Receipted], ...]:
    """The last versions that carry a receipt of ours, oldest first; at most HISTORY, and before those
    every one that an override promoted, and the version `always`.
    """
    found: list[tuple[VersionInfo, Receipted]] = []
    for info in reversed(known_versions(registry, compressed_name(name))):
        if len(found) >= HISTORY and WAIVER not in info.tags and info.version != always:
            continue
        try:
            found.append((info, read_receipt(registry, info)))
        except ReceiptInvalid:
            # Somebody else's version: it is no part of what we judged.
            continue
    return tuple(reversed(found))


def summary(info: VersionInfo, receipt: Receipted, champion: Holder | None) -> VerdictSummary:
    """One line of history. A champion that was not yet marked as promoted was, all the same."""
    decision = receipt.statement.predicate
    serves = champion is not None and champion.info.version == info.version
    return VerdictSummary(
        dense_version=decision.dense_version,
        compressed_version=info.version,
        outcome=decision.outcome,
        verdict=decision.verdict,
        reasons=decision.reasons,
        promoted=decision.promotes and (serves or PROMOTED in info.tags),
        latency_ratio=decision.latency_ratio,
        quality_drop=decision.quality_drop,
        flips=decision.flips,
        eval_digest=decision.eval_digest,
        newest_time=decision.newest_time,
        waiver=decision.waiver,
        quality_drops=decision.quality_drops,
        latency_ratios=decision.latency_ratios,
        predicted_loss=decision.predicted_loss,
        kept=decision.kept,
        asked=decision.asked,
    )


def fetch_part(registry: Registry, holder: Holder, part: str, destination: Path) -> bool:
    """Copies the files below `part/` to `destination`, each checked against the receipt.

    False if the receipt lists none. Raises PayloadCorrupt for a file that is missing, was changed
    or was added.
    """
    prefix = f"{part}/"
    listed = {
        path.removeprefix(prefix): digest
        for path, digest in subject_digests(holder.receipt.statement).items()
        if path.startswith(prefix)
    }
    if not listed:
        return False
    info = holder.info
    with scratch() as folder:
        # Of a part that is gone altogether, too, what is missing is told file by file.
        with contextlib.suppress(VersionNotFound):
            registry.fetch(info.name, info.version, folder, part=part)
        check_files(folder / part, listed, where=f"{info.name} version {info.version}, {part}")
        with store.disk_errors(destination):
            shutil.copytree(folder / part, destination)
    return True


def check_files(folder: Path, listed: Mapping[str, str], *, where: str) -> None:
    """Returns only if `folder` holds exactly the listed files, byte for byte."""
    found = {
        path.relative_to(folder).as_posix(): store.file_digest(path)
        for path in folder.rglob("*")
        if path.is_file()
    }
    if found != listed:
        wrong = sorted(path for path in {*found, *listed} if found.get(path) != listed.get(path))
        raise PayloadCorrupt(
            f"what the registry stores is not what its receipt lists: {', '.join(wrong[:5])}",
            where=where,
            fix="restore the registry's files from a backup, or promote another generation",
        )


def _holder(registry: Registry, compressed: str, version: str, alias: str) -> Holder:
    infos = [info for info in known_versions(registry, compressed) if info.version == version]
    if not infos:
        raise ChampionLost(
            f"the alias '{alias}' of '{compressed}' names version {version}, which is gone",
            where=registry.identity,
            fix=_back(alias),
        )
    try:
        if is_adoption(infos[0]):
            return Holder(info=infos[0], receipt=read_adoption(registry, infos[0]))
        receipt = read_receipt(registry, infos[0])
    except ReceiptInvalid as error:
        raise _foreign(alias, error.what, error.where) from error
    decision = receipt.statement.predicate
    if not decision.promotes:
        raise _foreign(
            alias,
            "was judged in a dry run" if decision.dry_run else f"was judged '{decision.outcome}'",
            f"{registry.identity}: {compressed} version {version}",
        )
    return Holder(info=infos[0], receipt=receipt)


def _may_have_served(registry: Registry, info: VersionInfo) -> bool:
    """Whether a version can have been champion. That it was a dry run is believed only of its receipt."""
    if info.tags.get(OUTCOME) != "pass":
        return is_adoption(info) or WAIVER in info.tags or PROMOTED in info.tags
    if DRY_RUN not in info.tags:
        return True
    try:
        return read_receipt(registry, info).statement.predicate.promotes
    except ReceiptInvalid:
        return True


def _came_second(registry: Registry, versions: tuple[VersionInfo, ...], info: VersionInfo) -> bool:
    """Whether another verdict is the accepted one for its lock, so that it was never promoted."""
    if PROMOTED in info.tags:
        return False
    first = accepted_for(registry, versions, info.tags.get(LOCK, ""))
    return first is not None and first.verdict != info.tags.get(VERDICT)


def _foreign(alias: str, what: str, where: str) -> ChampionForeign:
    return ChampionForeign(
        f"the alias '{alias}' was set by hand on a version that Reprune did not promote: {what}",
        where=where,
        fix=f"{_back(alias)}; or, if it is meant to serve: `reprune adopt --by NAME --reason TEXT`"
        if alias == CHAMPION
        else _back(alias),
    )


def _done(info: VersionInfo) -> str:
    return (
        "adopted, run `reprune adopt`" if is_adoption(info) else "promoted, run `reprune promote`"
    )


def _back(alias: str) -> str:
    if alias == CHAMPION:
        return (
            "return to a version that was promoted: "
            "`reprune rollback --to VERSION --by NAME --reason TEXT`"
        )
    return f"set it again: `reprune {alias} VERSION --by NAME --reason TEXT`"
