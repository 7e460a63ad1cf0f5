"""The generations of a model as the registry tells them: what came of each, by its signed receipt.

Only receipts and manifests are fetched, never a model. What is not signed by a key that we trust is told
as that, and none of its figures are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import TYPE_CHECKING, TypeVar, cast

from msgspec import UNSET
from msgspec.structs import replace

from reprune.core import store
from reprune.core.accepted import accepted
from reprune.core.artifacts import (
    Engines,
    Manifest,
    ModelBundle,
    Plan,
    Profile,
    RuleResult,
    Sensitivity,
    TimesReuse,
    Verdict,
)
from reprune.core.documents import digest_of
from reprune.core.errors import (
    ArtifactError,
    ReceiptInvalid,
    RegistryError,
    RegistryUnreachable,
    VersionNotFound,
)
from reprune.core.step import work_root
from reprune.registry.figures import is_quality, latency_ratios, loss, quality_drops, rooms
from reprune.registry.generations import Figure, Generation, Made, State
from reprune.registry.links import Link, read_link
from reprune.registry.making import made_of
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.receipts import Receipted, subject_digests
from reprune.registry.records import AdoptionRecord, RollbackRecord
from reprune.registry.stored import scratch
from reprune.registry.tags import (
    BEFORE,
    CLOSED,
    CLOSES,
    PROMOTED,
    RECEIPT,
    RECORD,
    ROLLED_BACK,
    WHY,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Key

M = TypeVar("M", bound=Manifest)
_NOT_PASSED: dict[str, State] = {
    "block": "blocked",
    "inconclusive": "inconclusive",
    "error": "error",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A version, with the link that it carries; without one `trouble` says why, where it should have one."""

    info: VersionInfo
    link: Link | None
    trouble: str = ""


def read_rows(
    registry: Registry, versions: Sequence[VersionInfo], keys: Sequence[Key] | None
) -> Iterator[Row]:
    """One row a version, newest first, fetched as they are asked for; with `keys`, receipts are verified."""
    for info in reversed(versions):
        if RECEIPT not in info.tags and RECORD not in info.tags:
            yield Row(info=info, link=None)
            continue
        try:
            yield Row(info=info, link=read_link(registry, info, keys))
        except ReceiptInvalid as error:
            yield Row(info=info, link=None, trouble=f"its receipt {error.what}")
        except RegistryUnreachable:
            raise
        except RegistryError as error:
            yield Row(info=info, link=None, trouble=error.what)


def tell(rows: Sequence[Row], *, serving: str | None, checked: bool) -> tuple[Generation, ...]:
    """What came of each, in the same order: newest first, and with all that are newer than the oldest.

    No interval, size or headline is in there yet (see `measured`).
    """
    told: list[Generation] = []
    later = _Later(
        serving=serving, named=set(), gone={row.info.tags.get(BEFORE, "") for row in rows}
    )
    for row in rows:
        link = row.link
        if isinstance(link, Receipted):
            told.append(_judged(row.info, link, later, checked=checked))
            if (champion := link.statement.predicate.champion) is not None:
                later.named.add(champion.version)
        elif isinstance(link, RollbackRecord):
            told.append(_rollback(row.info, link, checked=checked))
            later.named.update(filter(None, [link.statement.predicate.before]))
        elif isinstance(link, AdoptionRecord):
            told.append(_adoption(row.info, link, later, checked=checked))
        else:
            told.append(_unsigned(row, serving))
    return tuple(_explained(told))


@dataclass
class _Later:
    """What newer rows say about older ones: versions named as champion, and versions rolled back."""

    serving: str | None
    named: set[str]
    gone: set[str]

    def state(self, info: VersionInfo, otherwise: State) -> State:
        """How far a version that may be champion has come."""
        if info.version == self.serving:
            return "serving"
        if ROLLED_BACK in info.tags or info.version in self.gone:
            return "rolled back"
        return "promoted" if PROMOTED in info.tags or info.version in self.named else otherwise


def _judged(info: VersionInfo, link: Receipted, later: _Later, *, checked: bool) -> Generation:
    decision = link.statement.predicate
    waiver = decision.waiver
    state: State = "not promoted"
    if decision.promotes:
        state = later.state(info, "not promoted")
    elif decision.dry_run is True:
        state = "dry run"
    else:
        state = _NOT_PASSED.get(decision.outcome, "error")
    ratio, drop = decision.latency_ratio, decision.quality_drop
    return Generation(
        version=info.version,
        kind="judged",
        state=state,
        serves=info.version == later.serving,
        dense=(decision.dense_version,),
        outcome=decision.outcome,
        overridden=waiver is not UNSET,
        attempt=decision.attempt,
        latency=None if ratio is None else _figure("latency.vs_parent", "ratio", ratio, ratio - 1),
        quality=None if drop is None else _figure("", "share", -drop, drop),
        time_s=float(decision.signed_at_s),
        by="" if waiver is UNSET else waiver.by,
        reason="" if waiver is UNSET else waiver.reason,
        until="" if waiver is UNSET else waiver.expires,
        reasons=decision.reasons,
        signed=True if checked else None,
        verdict=decision.verdict,
        lock=decision.lock,
        champion=None if decision.champion is None else decision.champion.version,
    )


def _figure(rule: str, unit: str, change: float, loss: float) -> Figure:
    return Figure(rule=rule, unit=unit, change=change, low=None, high=None, loss=loss)


def _rollback(info: VersionInfo, link: RollbackRecord, *, checked: bool) -> Generation:
    told = link.statement.predicate
    return Generation(
        version=info.version,
        kind="rollback",
        state="rollback",
        time_s=float(told.signed_at_s),
        by=told.by,
        reason=told.reason,
        other=told.version,
        champion=told.before,
        signed=True if checked else None,
    )


def _adoption(
    info: VersionInfo, link: AdoptionRecord, later: _Later, *, checked: bool
) -> Generation:
    told = link.statement.predicate
    return Generation(
        version=info.version,
        kind="adoption",
        state=later.state(info, "not promoted"),
        serves=info.version == later.serving,
        dense=(told.dense_version,),
        time_s=float(told.signed_at_s),
        by=told.by,
        reason=told.reason,
        other=told.origin,
        champion=told.before,
        signed=True if checked else None,
    )


def _unsigned(row: Row, serving: str | None) -> Generation:
    """A version without a receipt that we believe: the service's note, somebody else's, or a forgery."""
    info, closed = row.info, row.info.tags.get(CLOSED)
    serves = info.version == serving
    if row.trouble:
        return Generation(
            version=info.version,
            kind="foreign",
            state="not trusted",
            serves=serves,
            time_s=info.registered_s,
            signed=False,
            trouble=row.trouble,
        )
    if closed in ("error", "superseded") and not serves:
        return Generation(
            version=info.version,
            kind="closed",
            state=cast(State, closed),
            dense=tuple(info.tags.get(CLOSES, "").split()),
            time_s=info.registered_s,
            reason=info.tags.get(WHY, ""),
        )
    return Generation(
        version=info.version,
        kind="foreign",
        state="not ours",
        serves=serves,
        time_s=info.registered_s,
        signed=False,
        trouble="carries no receipt of ours",
    )


def _explained(told: Sequence[Generation]) -> Iterator[Generation]:
    """Each with who rolled it back, where a record says so, with what overrides it, or came before it."""
    backs = {each.champion: each for each in reversed(told) if each.kind == "rollback"}
    first = accepted(each for each in reversed(told) if each.signed is not False)
    newer: dict[str, str] = {}
    for each in told:
        other = newer.setdefault(each.verdict, each.version)
        counts = first.get(each.lock) if each.verdict else None
        if counts is not None and counts.verdict != each.verdict:
            yield replace(each, second=True, other=counts.version)
            continue
        if each.verdict and other != each.version:
            yield replace(each, other=other)
            continue
        back = backs.get(each.version)
        if each.state == "rolled back" and back is not None:
            yield replace(each, back_by=back.by, back_in=back.version)
        else:
            yield each


def measured(registry: Registry, row: Row, generation: Generation) -> Generation:
    """The generation with intervals, size and headline, from the manifests that its receipt lists."""
    if not isinstance(row.link, Receipted):
        return generation
    try:
        verdict = _manifest(registry, row.info, row.link, "verdict", Verdict)
    except ArtifactError as error:
        return replace(generation, trouble=f"its verdict {error.what}, so there are no intervals")
    if digest_of(verdict) != generation.verdict:
        return replace(generation, trouble="its verdict is not the one that the receipt names")
    rules = verdict.judgement.rules
    latency, quality = generation.latency, generation.quality
    if latency is not None:
        told = [one for one in rules if one.rule == latency.rule and one.change == latency.change]
        latency = _spread(latency, told)
    if quality is not None:
        told = [one for one in rules if is_quality(one) and loss(one) == quality.loss]
        quality = _spread(quality, told)
    return replace(
        generation,
        latency=latency,
        quality=quality,
        size_bytes=_size(registry, row, rules),
        headline=verdict.judgement.headline,
        drops=quality_drops(rules),
        ratios=latency_ratios(rules),
        rooms=rooms(rules),
        made=_made(registry, row.info, row.link),
    )


def _made(registry: Registry, info: VersionInfo, receipt: Receipted) -> Made | None:
    """How it was made, by the manifests stored with it; None where they are not all there."""
    try:
        table = _manifest(registry, info, receipt, "sensitivity", Sensitivity)
        plan = _manifest(registry, info, receipt, "plan", Plan)
        bundle = _manifest(registry, info, receipt, "bundle", ModelBundle)
    except ArtifactError:
        return None
    return made_of(table, plan, bundle, _times_reuse(registry, info, receipt))


def _times_reuse(registry: Registry, info: VersionInfo, receipt: Receipted) -> list[TimesReuse]:
    """Where the latency tables in its profiles come from; nothing of those that cannot be read."""
    listed = subject_digests(receipt.statement)
    found: list[TimesReuse] = []
    parts = (f"profile/{number}" for number in count())
    for part in takewhile(lambda part: f"{part}/{store.MANIFEST}" in listed, parts):
        try:
            profile = _manifest(registry, info, receipt, part, Profile)
        except ArtifactError:
            continue
        found += [one.reuse for one in profile.tables or () if one.reuse]
    return found


def _spread(figure: Figure, found: Sequence[RuleResult]) -> Figure:
    """The figure with the interval of the rule that it was taken from, where that was found."""
    for one in found[:1]:
        return Figure(
            rule=one.rule,
            unit=one.unit,
            change=figure.change if one.change is None else one.change,
            low=one.low,
            high=one.high,
            loss=figure.loss,
        )
    return figure


def _size(registry: Registry, row: Row, rules: Sequence[RuleResult]) -> int | None:
    """Bytes of the candidate's engine for the first target."""
    for one in rules:
        if one.rule.startswith("size.") and one.candidate_value is not None:
            return int(one.candidate_value)
    try:
        engines = _manifest(registry, row.info, cast(Receipted, row.link), "engines/0", Engines)
    except ArtifactError:
        return None
    mine = sorted((one.target, one.bytes) for one in engines.engines if one.arm == "candidate")
    return mine[0][1] if mine else None


def _manifest(
    registry: Registry, info: VersionInfo, receipt: Receipted, part: str, kind: type[M]
) -> M:
    """A manifest in the version, byte for byte the one that the receipt lists. Raises ArtifactError.

    Kept by that digest, so that it is fetched once.
    """
    path = f"{part}/{store.MANIFEST}"
    listed = subject_digests(receipt.statement).get(path)
    if listed is None:
        raise ArtifactError("is not listed by the receipt")
    kept = work_root() / "history" / f"{listed.removeprefix('sha256:')}.json"
    if not kept.is_file() or store.file_digest(kept) != listed:
        with scratch() as folder:
            try:
                registry.fetch(info.name, info.version, folder, part=path)
            except VersionNotFound:
                raise ArtifactError("is gone") from None
            except RegistryUnreachable:
                raise
            except RegistryError as error:
                raise ArtifactError(f"cannot be read: {error.what}") from error
            if store.file_digest(folder / path) != listed:
                raise ArtifactError("is not what the receipt lists")
            store.write_bytes(kept, (folder / path).read_bytes())
    found = store.decode_any(kept.read_bytes(), name=path)
    if not isinstance(found, kind):
        raise ArtifactError(f"is no {kind.__name__}")
    return found
