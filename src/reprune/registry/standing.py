"""Where a version stands by what named people did: rolled back, passed over, or returned to.

Read from the signed records themselves, whatever tags their versions have: who can write to the registry
can delete a tag, and can sign nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from reprune.core.documents import canonical
from reprune.core.errors import ReceiptInvalid
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.receipts import verify_statement
from reprune.registry.records import Rollback, RollbackStatement
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
    signed counts. A record counts once, where it first lies: a copy of it says nothing.
    """
    order = {info.version: at for at, info in enumerate(versions)}
    at = order.get(version)
    if at is None:
        return ""
    found: Standing = "rolled back" if tags and ROLLED_BACK in versions[at].tags else ""
    seen: set[bytes] = set()
    for info in versions[at + 1 :]:
        told = _rollback(registry, info, keys)
        if told is None:
            if tags and info.tags.get(BEFORE) == version:
                found = "rolled back"
        elif (once := canonical(told)) not in seen:
            seen.add(once)
            found = _after(found, told, version, order)
    return found


def _after(found: Standing, told: Rollback, version: str, order: dict[str, int]) -> Standing:
    """Where `version` stands after this rollback, if it stood at `found` before."""
    at = order[version]
    if told.version == version:
        return "returned to"
    if told.before == version:
        return "rolled back"
    if order.get(told.version, -1) > at:
        return found
    if told.before is not None and order.get(told.before, -1) > at:
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
