"""Where a version stands by what named people did: rolled back, passed over, or returned to.

Read from the signed records themselves, whatever tags their versions have: who can write to the registry
can delete a tag, and can sign nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias

from reprune.core.documents import canonical
from reprune.core.errors import ChampionForeign, ReceiptInvalid
from reprune.registry.protocol import Registry, VersionInfo, known_versions
from reprune.registry.receipted import accepted_for
from reprune.registry.receipts import Receipted, verify_statement
from reprune.registry.records import AdoptionRecord, Rollback, RollbackStatement
from reprune.registry.stored import compressed_name, place, receipt_file
from reprune.registry.tags import BEFORE, ROLLED_BACK

if TYPE_CHECKING:
    from securesystemslib.signer import Key

Standing: TypeAlias = Literal["", "returned to", "rolled back", "passed over"]


def standing(
    registry: Registry,
    versions: Sequence[VersionInfo],
    version: str,
    keys: Sequence[Key],
    *,
    tags: bool = True,
) -> Standing:
    """What the last record after `version` that is about it says; `versions` are oldest first.

    "rolled back": a record that one of `keys` signed took the champion from it, or from a newer version
    back past it; or a tag says so, and no signed record returned to it since. "passed over": a record
    returned to an older version while none as new as this one was champion. Without `tags` only what is
    signed counts. A record counts once, where it first lies: a copy of it says nothing. Raises RegistryError
    where a newer version has our tags and cannot be read: it may hold such a record.
    """
    numbers = [info.version for info in versions]
    if version not in numbers:
        return ""
    at = numbers.index(version)
    found: Standing = "rolled back" if tags and ROLLED_BACK in versions[at].tags else ""
    newer, seen = frozenset(numbers[at + 1 :]), set[bytes]()
    for info in versions[at + 1 :]:
        told = _rollback(registry, info, keys)
        if told is None:
            if tags and info.tags.get(BEFORE) == version:
                found = "rolled back"
        elif (once := canonical(told)) not in seen:
            seen.add(once)
            found = _after(found, told, version, newer)
    return found


def check_standing(
    registry: Registry, info: VersionInfo, link: Receipted | AdoptionRecord, keys: Sequence[Key]
) -> None:
    """Returns only if the version, which carries `link`, may be champion by what is on record.

    Raises ChampionForeign if it was rolled back, or gone back past, or if another verdict is the accepted one
    for its lock: unless, in either case, a signed record returned to it since. Raises RegistryError as
    `standing` does.
    """
    versions = known_versions(registry, info.name)
    found = standing(registry, versions, info.version, keys)
    if found in ("rolled back", "passed over"):
        by = " by a rollback" if found == "passed over" else ""
        _refuse(registry, info, f"was {found}{by}, and nobody returned to it")
    if found == "returned to" or not isinstance(link, Receipted):
        return
    decision = link.statement.predicate
    first = accepted_for(registry, versions, decision.lock, keys)
    if first is None or first.verdict != decision.verdict:
        _refuse(registry, info, "does not hold the accepted verdict for its lock")


def _refuse(registry: Registry, info: VersionInfo, what: str) -> NoReturn:
    raise ChampionForeign(
        f"the champion, version {info.version}, {what}: a rollback was cut short, or the alias set by hand",
        where=registry.identity,
        fix="`reprune history` says who did what; then to the one that is to serve: `reprune rollback --to "
        "VERSION --by NAME --reason TEXT` (where none ever did: delete the alias, with the registry's own "
        "tools)",
    )


def _after(found: Standing, told: Rollback, version: str, newer: Collection[str]) -> Standing:
    """Where `version` stands after this rollback, if it stood at `found` before; `newer` came after it."""
    if told.version == version:
        return "returned to"
    if told.before == version:
        return "rolled back"
    if told.version in newer:
        return found
    if told.before in newer:
        return "rolled back"
    return found if found == "rolled back" else "passed over"


def _rollback(registry: Registry, info: VersionInfo, keys: Sequence[Key]) -> Rollback | None:
    """The rollback that a version holds, if one of `keys` signed it."""
    try:
        raw = receipt_file(registry, info)
        statement = verify_statement(raw, RollbackStatement, keys, where=place(registry, info))[0]
    except ReceiptInvalid:
        return None
    told = statement.predicate
    here = told.registry == registry.identity and compressed_name(told.name) == info.name
    return told if here else None
