"""Signed records of what a person did to the champion: today, that it was rolled back.

A rollback is a version of `<name>-compressed` that holds its receipt alone; the champion's alias names
the version that the record points at. It is a link of the one chain of receipts, and no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from reprune.core.artifacts import Fact
from reprune.core.errors import ReceiptInvalid
from reprune.core.lock import Digest
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.receipts import AnyStatement, decode_statement, verify_statement
from reprune.registry.stored import compressed_name, place, receipt_bytes
from reprune.registry.tags import BEFORE, RECORD, RECORD_KIND, RETURNED

if TYPE_CHECKING:
    from securesystemslib.signer import Key

ROLLBACK: Literal["rollback"] = "rollback"


class Rollback(Fact, kw_only=True):
    """`version` serves from here on, `before` did until then (None: the alias was gone).

    `receipt` and `bundle` are the digests of what `version` carries; `before_receipt` is None where that
    version had no receipt of ours. `predecessor` is the digest of the receipt before this one. Times are
    whole Unix seconds.
    """

    registry: str
    workspace: str
    name: str
    version: str
    receipt: Digest
    bundle: Digest
    before: str | None
    before_receipt: Digest | None
    by: str
    reason: str
    predecessor: Digest | None
    reprune: str
    signed_at_s: Annotated[int, Meta(ge=0)]


class RollbackStatement(AnyStatement, frozen=True, kw_only=True):
    predicate_type: Literal["urn:reprune:rollback:v1"] = "urn:reprune:rollback:v1"
    predicate: Rollback


@dataclass(frozen=True, kw_only=True)
class RollbackRecord:
    """As receipts.Receipted. `signer` is empty where nobody checked."""

    statement: RollbackStatement
    digest: str
    raw: bytes
    signer: str = ""


def record_tags(record: RollbackRecord) -> dict[str, str]:
    """The tags that a version with this record is created with."""
    told = record.statement.predicate
    tags = {RECORD: record.digest, RECORD_KIND: ROLLBACK, RETURNED: told.version}
    return tags if told.before is None else tags | {BEFORE: told.before}


def read_record(
    registry: Registry, info: VersionInfo, *, keys: Sequence[Key] | None = None
) -> RollbackRecord:
    """The record that a version carries and its tags name; with `keys`, only if one of them signed it.

    Raises ReceiptInvalid if it has none such.
    """
    where = place(registry, info)
    raw = receipt_bytes(registry, info, RECORD)
    if keys is None:
        statement, digest = decode_statement(raw, RollbackStatement, where=where)
        signer = ""
    else:
        statement, digest, signer = verify_statement(raw, RollbackStatement, keys, where=where)
    found = RollbackRecord(statement=statement, digest=digest, raw=raw, signer=signer)
    stated = record_tags(found)
    wrong = [tag for tag, value in stated.items() if info.tags.get(tag) != value]
    if wrong:
        raise ReceiptInvalid(f"its receipt contradicts its tags ({', '.join(wrong)})", where=where)
    told = found.statement.predicate
    if told.registry != registry.identity or compressed_name(told.name) != info.name:
        raise ReceiptInvalid(f"its receipt is for '{told.name}' in {told.registry}", where=where)
    return found
