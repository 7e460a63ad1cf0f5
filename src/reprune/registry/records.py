"""Signed records of what a person did to the champion: rolled it back, or adopted a model.

A rollback is a version of `<name>-compressed` that holds its receipt alone; the champion's alias names
the version that the record points at. An adoption is a version with the adopted bundle and its receipt.
Both are links of the one chain of receipts, and neither is a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar

from msgspec import Meta

from reprune.core.artifacts import Fact
from reprune.core.errors import ReceiptInvalid
from reprune.core.lock import Digest
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.receipts import AnyStatement, decode_statement, verify_statement
from reprune.registry.stored import compressed_name, place, receipt_bytes
from reprune.registry.tags import BEFORE, BUNDLE, PARENT, RECORD, RECORD_KIND, RETURNED

if TYPE_CHECKING:
    from securesystemslib.signer import Key

ROLLBACK: Literal["rollback"] = "rollback"
ADOPTION: Literal["adoption"] = "adoption"


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


class Adoption(Fact, kw_only=True):
    """`adopted` is the version whose bundle was copied; nothing was judged.

    `before` is the version that the alias named until then, `task` the digest of the bundle's own task.
    """

    registry: str
    workspace: str
    name: str
    adopted: str
    bundle: Digest
    dense_version: str
    task: Digest
    before: str | None
    by: str
    reason: str
    predecessor: Digest | None
    reprune: str
    signed_at_s: Annotated[int, Meta(ge=0)]


class RollbackStatement(AnyStatement, frozen=True, kw_only=True):
    predicate_type: Literal["urn:reprune:rollback:v1"] = "urn:reprune:rollback:v1"
    predicate: Rollback


class AdoptionStatement(AnyStatement, frozen=True, kw_only=True):
    predicate_type: Literal["urn:reprune:adoption:v1"] = "urn:reprune:adoption:v1"
    predicate: Adoption


_S = TypeVar("_S", bound=AnyStatement)


@dataclass(frozen=True, kw_only=True)
class RollbackRecord:
    """As receipts.Receipted. `signer` is empty where nobody checked."""

    statement: RollbackStatement
    digest: str
    raw: bytes
    signer: str = ""


@dataclass(frozen=True, kw_only=True)
class AdoptionRecord:
    """As receipts.Receipted. `signer` is empty where nobody checked."""

    statement: AdoptionStatement
    digest: str
    raw: bytes
    signer: str = ""


Record: TypeAlias = RollbackRecord | AdoptionRecord


def record_tags(record: Record) -> dict[str, str]:
    """The tags that a version with this record is created with."""
    if isinstance(record, RollbackRecord):
        rolled = record.statement.predicate
        tags = {RECORD: record.digest, RECORD_KIND: ROLLBACK, RETURNED: rolled.version}
        return tags if rolled.before is None else tags | {BEFORE: rolled.before}
    adopted = record.statement.predicate
    return {
        RECORD: record.digest,
        RECORD_KIND: ADOPTION,
        PARENT: adopted.dense_version,
        BUNDLE: adopted.bundle,
    }


def read_record(
    registry: Registry, info: VersionInfo, *, keys: Sequence[Key] | None = None
) -> Record:
    """The record that a version carries and its tags name; with `keys`, only if one of them signed it.

    Raises ReceiptInvalid if it has none such.
    """
    where = place(registry, info)
    found = decode_record(
        receipt_bytes(registry, info, RECORD), info.tags.get(RECORD_KIND, ""), keys, where=where
    )
    stated = record_tags(found)
    wrong = [tag for tag, value in stated.items() if info.tags.get(tag) != value]
    if wrong:
        raise ReceiptInvalid(f"its receipt contradicts its tags ({', '.join(wrong)})", where=where)
    told = found.statement.predicate
    if told.registry != registry.identity or compressed_name(told.name) != info.name:
        raise ReceiptInvalid(f"its receipt is for '{told.name}' in {told.registry}", where=where)
    return found


def decode_record(raw: bytes, kind: str, keys: Sequence[Key] | None, *, where: str) -> Record:
    """The record of this kind, strictly decoded; verified where `keys` are given. Raises ReceiptInvalid."""
    if kind == ROLLBACK:
        rolled, digest, signer = _opened(raw, RollbackStatement, keys, where)
        return RollbackRecord(statement=rolled, digest=digest, raw=raw, signer=signer)
    if kind == ADOPTION:
        adopted, digest, signer = _opened(raw, AdoptionStatement, keys, where)
        return AdoptionRecord(statement=adopted, digest=digest, raw=raw, signer=signer)
    raise ReceiptInvalid(f"carries a receipt of a kind that is not known: '{kind}'", where=where)


def _opened(
    raw: bytes, kind: type[_S], keys: Sequence[Key] | None, where: str
) -> tuple[_S, str, str]:
    if keys is None:
        return *decode_statement(raw, kind, where=where), ""
    return verify_statement(raw, kind, keys, where=where)
