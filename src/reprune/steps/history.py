"""`reprune history`: the generations of a model, and what of them waits for a person.

Reads the registry and three small files beside it; writes nothing, and runs no task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core.errors import (
    ChampionForeign,
    ChampionLost,
    DocumentError,
    PromotionRefused,
    ReceiptInvalid,
    RegistryError,
    RegistryUnreachable,
)
from reprune.core.lock import LOCK_FILE, read_lock
from reprune.core.overrides import OVERRIDES_FILE, Override, days_left, read_overrides
from reprune.core.params import PARAMS_FILE, read_params
from reprune.registry import compressed, links
from reprune.registry.generations import Generation, History, Waiting, Why
from reprune.registry.history import Row, measured, read_rows, tell
from reprune.registry.open import open_registry
from reprune.registry.protocol import (
    ANCHOR,
    CHAMPION,
    Registry,
    VersionInfo,
    known_alias,
    known_versions,
)
from reprune.registry.receipts import chain_gaps
from reprune.registry.standing import check_standing
from reprune.registry.tags import VERDICT
from reprune.report.trends import trends_of
from reprune.steps.promoter import read_promoter

if TYPE_CHECKING:
    from securesystemslib.signer import Key

SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class _Trust:
    """Whose receipts count and who may override; `keys` is None where nobody can tell, and `why`."""

    keys: tuple[Key, ...] | None
    allowed_by: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class _Beside:
    """What lies in the repository: the digest of its lock, and the overrides; `now` is Unix time."""

    lock: str
    overrides: tuple[Override, ...]
    allowed_by: tuple[str, ...]
    now: float


def history(root: Path, *, most: int | None = SHOWN, now: float) -> History:
    """The newest `most` generations (all for None) of the model in params.yaml, and what waits.

    What waits is looked for among all versions since the champion last moved, shown or not. Raises
    RegistryUnreachable where the registry does not answer for all of it, DocumentError.
    """
    given = read_params(root / PARAMS_FILE)
    registry = open_registry(given.registry, root)
    trust = _trust(root)
    name = compressed.compressed_name(given.name)
    versions = known_versions(registry, name)
    serving = known_alias(registry, name, CHAMPION)
    rows, told = _read(registry, versions, serving, trust, most)
    shown = len(rows) if most is None else most
    told = tuple(
        measured(registry, row, each) if place < shown or each.state == "inconclusive" else each
        for place, (row, each) in enumerate(zip(rows, told, strict=True))
    )
    beside = _Beside(
        lock=_lock_digest(root),
        overrides=read_overrides(root / OVERRIDES_FILE).overrides,
        allowed_by=trust.allowed_by,
        now=now,
    )
    waiting = [
        *_champion_waits(registry, given.name, trust),
        *_waiting(told, beside),
        *_unregistered(beside, versions),
    ]
    return History(
        name=given.name,
        registry=registry.identity,
        champion=serving,
        anchor=known_alias(registry, name, ANCHOR),
        unchecked=trust.why,
        total=len(versions),
        generations=told[:shown],
        waiting=tuple(waiting),
        trends=trends_of(told[:shown]),
        gaps=chain_gaps([row.link for row in reversed(rows) if row.link is not None]),
    )


def _trust(root: Path) -> _Trust:
    """The promoter's keys, where there are any; without them nothing is taken for signed."""
    try:
        authority = read_promoter(root)
    except PromotionRefused as error:
        return _Trust(keys=None, why=error.what)
    return _Trust(keys=authority.keys, allowed_by=authority.promoter.overrides.allowed_by)


def _read(
    registry: Registry,
    versions: Sequence[VersionInfo],
    serving: str | None,
    trust: _Trust,
    most: int | None,
) -> tuple[list[Row], tuple[Generation, ...]]:
    """The newest `most` rows, and further ones until it is known how the champion last moved."""
    rows: list[Row] = []
    told: tuple[Generation, ...] = ()
    checked = trust.keys is not None
    for row in read_rows(registry, versions, trust.keys):
        rows.append(row)
        if most is None or len(rows) < most:
            continue
        told = tell(rows, serving=serving, checked=checked)
        if any(each.moved_champion for each in told):
            return rows, told
    return rows, tell(rows, serving=serving, checked=checked)


def _lock_digest(root: Path) -> str:
    try:
        return read_lock(root / LOCK_FILE).digest
    except DocumentError:
        return ""


def _champion_waits(registry: Registry, name: str, trust: _Trust) -> Iterator[Waiting]:
    """A champion that is gone, or that nobody we trust put there."""
    try:
        holder = compressed.champion(registry, name)
        if holder is not None and trust.keys is not None:
            links.verified(registry, holder.info, holder.receipt, trust.keys)
            check_standing(registry, holder.info, holder.receipt, trust.keys)
    except ChampionLost as error:
        yield Waiting(
            why="champion_lost", version=None, dense=None, words=error.what, next=error.fix
        )
    except ChampionForeign as error:
        version = known_alias(registry, compressed.compressed_name(name), CHAMPION)
        yield Waiting(
            why="champion_foreign", version=version, dense=None, words=error.what, next=error.fix
        )
    except ReceiptInvalid as error:
        version = known_alias(registry, compressed.compressed_name(name), CHAMPION)
        yield Waiting(
            why="champion_foreign",
            version=version,
            dense=None,
            words=f"the champion's receipt {error.what}",
            next="add the key that signed it to `trusted_keys` in the promoter's config.yaml, if you trust "
            "its owner; else `reprune rollback --to VERSION --by NAME --reason TEXT`",
        )
    except RegistryUnreachable:
        raise
    except RegistryError as error:
        version = known_alias(registry, compressed.compressed_name(name), CHAMPION)
        yield Waiting(
            why="champion_foreign",
            version=version,
            dense=None,
            words=f"whether the champion may serve cannot be told: {error.where}: {error.what}",
            next=error.fix,
        )


def _waiting(told: Sequence[Generation], beside: _Beside) -> Iterator[Waiting]:
    """Verdicts that nothing came after, since the champion last moved: a verdict is good against that
    champion alone. Of one dense version, the last verdict counts.
    """
    settled: set[str] = set()
    judged_since = False
    for each in told:
        if each.moved_champion:
            return
        if each.kind == "closed" and each.state == "error" and not judged_since:
            yield from _refused(each, settled)
        if each.kind != "judged" or each.state == "dry run" or each.second:
            continue
        if each.dense[0] in settled:
            continue
        settled.add(each.dense[0])
        judged_since = True
        found = _verdict_waits(each, beside)
        if found is not None:
            yield found


def _refused(each: Generation, settled: set[str]) -> Iterator[Waiting]:
    for dense in each.dense:
        if dense not in settled:
            settled.add(dense)
            yield Waiting(
                why="refused",
                version=each.version,
                dense=dense,
                words=f"the service gave up on it: {each.reason or 'it does not say why'}",
                next=f"`reprune update --dense-version {dense}` says what is wrong; once it writes the lock, "
                "`reprune submit`",
            )


def _verdict_waits(each: Generation, beside: _Beside) -> Waiting | None:
    """What to do about a verdict that has not become champion; None where there is nothing to do."""
    dense = each.dense[0]
    here = each.lock == beside.lock

    def waits(why: Why, words: str, then: str) -> Waiting:
        return Waiting(why=why, version=each.version, dense=dense, words=words, next=then)

    where = "" if here else " in the checkout whose lock was judged"
    if each.state == "not promoted":
        return waits(
            "not_promoted",
            "it passed and never became champion: the promotion was cut short",
            f"`reprune promote`{where}",
        )
    entry = next((one for one in reversed(beside.overrides) if one.verdict == each.verdict), None)
    if entry is not None and each.state in ("blocked", "inconclusive"):
        words, ready = _entry_words(entry, each.state, beside)
        return waits("override", words, f"`reprune promote`{where}" if ready else _ANEW)
    if each.state != "inconclusive":
        return None
    reason = each.headline or (each.reasons[0] if each.reasons else "the samples do not decide it")
    then = f"`reprune update --again --dense-version {dense}` and `dvc repro` look once more"
    if here:
        then += f"; or decide: {_ANEW}"
    return waits("inconclusive", reason, then)


_ANEW = "`reprune override --by NAME --reason TEXT --expires YYYY-MM-DD`"


def _entry_words(entry: Override, state: str, beside: _Beside) -> tuple[str, bool]:
    """What an unused override says, and whether promote can accept it."""
    if days_left(entry.expires, beside.now) < 0:
        return f"{state}; the override by {entry.by} expired at the end of {entry.expires}", False
    if entry.by not in beside.allowed_by:
        return f"{state}; overridden by {entry.by}, whom this promoter does not allow to", False
    return f"{state}; overridden by {entry.by} until {entry.expires}, and not promoted yet", True


def _unregistered(beside: _Beside, versions: Sequence[VersionInfo]) -> Iterator[Waiting]:
    """Overrides that hold for verdicts which nobody registered."""
    known = {info.tags.get(VERDICT) for info in versions}
    for entry in beside.overrides:
        if entry.verdict not in known and days_left(entry.expires, beside.now) >= 0:
            yield Waiting(
                why="override",
                version=None,
                dense=None,
                words=f"{entry.by} overrode the verdict {entry.verdict[:19]}, which nobody registered yet",
                next="`reprune promote` where that verdict lies, or delete the entry from "
                f"{OVERRIDES_FILE}",
            )
