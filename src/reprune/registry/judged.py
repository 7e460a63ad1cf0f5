"""What a run came to, as the registry knows it: the receipt that names the run's lock."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET

from reprune.core.artifacts import Outcome
from reprune.registry.compressed import champion as find_champion
from reprune.registry.compressed import compressed_name, read_receipt, summary
from reprune.registry.protocol import CHAMPION, Registry, known_alias, known_versions
from reprune.registry.receipted import accepted_for
from reprune.registry.tags import LOCK, VERDICT


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A judged candidate. `promoted` says whether it has become champion, then or since; `champion` is
    the version that serves now.
    """

    version: str
    outcome: Outcome
    promoted: bool
    dry_run: bool
    waived_by: str | None
    champion: str | None
    reasons: tuple[str, ...]
    signed_at_s: int


def judged(
    registry: Registry, name: str, lock: str, *, since_s: float | None = None
) -> Judged | None:
    """The newest version with the accepted verdict for the lock digest, signed at `since_s` or later.

    A verdict that came second for the lock is passed over: it moved nothing. None where the registry
    answers and has none. No signature is checked here. Raises ReceiptInvalid where all receipts for the
    lock contradict their tags, ChampionLost, ChampionForeign, RegistryUnreachable.
    """
    compressed = compressed_name(name)
    versions = known_versions(registry, compressed)
    first = accepted_for(registry, versions, lock)
    for info in reversed(versions):
        if info.tags.get(LOCK) != lock:
            continue
        if first is not None and info.tags.get(VERDICT) != first.verdict:
            continue
        receipt = read_receipt(registry, info)
        decision = receipt.statement.predicate
        if since_s is not None and decision.signed_at_s < int(since_s):
            return None
        holder = find_champion(registry, name, besides=decision.verdict)
        return Judged(
            version=info.version,
            outcome=decision.outcome,
            promoted=summary(info, receipt, holder).promoted,
            dry_run=decision.dry_run is True,
            waived_by=None if decision.waiver is UNSET else decision.waiver.by,
            champion=known_alias(registry, compressed, CHAMPION),
            reasons=decision.reasons,
            signed_at_s=decision.signed_at_s,
        )
    return None
