"""Signed records of what a person did to the champion: that it was rolled back, or adopted.

A record is a version of `<name>-compressed`. A rollback holds its receipt alone: the champion's alias
names the version that it points at. An adoption holds the model as well (`bundle/**`), and the alias
names the adoption itself. Both are links of the one chain of receipts, and no verdicts.
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
from reprune.registry.stored import compressed_name, place, receipt_bytes, refuse_stranger
from reprune.registry.tags import ADOPTED, BEFORE, BUNDLE, PARENT, RECORD, RECORD_KIND, RETURNED

if TYPE_CHECKING:
    from securesystemslib.signer import Key

ROLLBACK: Literal["rollback"] = "rollback"
ADOPTION: Literal["adoption"] = "adoption"


class Rollback(Fact, kw_only=True):
    """`version` serves from here on, `before` did until then (None: the alias was gone, or named
    `version` already).

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


class Adoption(Fact, kw_only=True):
    """A model that nobody judged serves from here on, because `by` says so; `before` did until then.

    `source` says where it came from: the version `source_version` of `<name>-compressed` that the alias
    named ("champion"), the version `source_version` of `<name>` ("dense"), or a folder. `bundle` is the
    digest of the ModelBundle, made from dense version `dense_version`; the subject lists its files.
    Times are whole Unix seconds.
    """

    registry: str
    workspace: str
    name: str
    source: Literal["champion", "dense", "folder"]
    source_version: str | None
    dense_version: str
    bundle: Digest
    before: str | None
    by: str
    reason: str
    predecessor: Digest | None
    reprune: str
    signed_at_s: Annotated[int, Meta(ge=0)]

    @property
    def promotes(self) -> bool:
        """Whether the version may be champion, as `receipts.Decision.promotes` says of a judged one."""
        return True

    @property
    def origin(self) -> str:
        """Where the model came from, in words."""
        places = {
            "champion": f"version {self.source_version} of {compressed_name(self.name)}",
            "dense": f"dense version {self.source_version}",
            "folder": "a folder",
        }
        return places[self.source]


class AdoptionStatement(AnyStatement, frozen=True, kw_only=True):
    predicate_type: Literal["urn:reprune:adoption:v1"] = "urn:reprune:adoption:v1"
    predicate: Adoption


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


AnyRecord: TypeAlias = RollbackRecord | AdoptionRecord
S = TypeVar("S", bound=AnyStatement)


def is_adoption(info: VersionInfo) -> bool:
    """Whether the tags of a version say that it was adopted."""
    return info.tags.get(RECORD_KIND) == ADOPTION


def record_tags(record: AnyRecord) -> dict[str, str]:
    """The tags that a version with this record is created with."""
    if isinstance(record, AdoptionRecord):
        adopted = record.statement.predicate
        return {
            RECORD: record.digest,
            RECORD_KIND: ADOPTION,
            ADOPTED: adopted.origin,
            PARENT: adopted.dense_version,
            BUNDLE: adopted.bundle,
        }
    told = record.statement.predicate
    tags = {RECORD: record.digest, RECORD_KIND: ROLLBACK, RETURNED: told.version}
    return tags if told.before is None else tags | {BEFORE: told.before}


def read_record(
    registry: Registry, info: VersionInfo, *, keys: Sequence[Key] | None = None
) -> AnyRecord:
    """The record that a version carries and its tags name; with `keys`, only if one of them signed it.

    Raises ReceiptInvalid if it has none such.
    """
    where = place(registry, info)
    found = decode_record(receipt_bytes(registry, info, RECORD), info, keys=keys, where=where)
    stated = record_tags(found)
    wrong = [tag for tag, value in stated.items() if info.tags.get(tag) != value]
    if wrong:
        raise ReceiptInvalid(f"its receipt contradicts its tags ({', '.join(wrong)})", where=where)
    told = found.statement.predicate
    refuse_stranger(registry, info, home=(told.registry, told.workspace), name=told.name)
    return found


def read_adoption(registry: Registry, info: VersionInfo) -> AdoptionRecord:
    """As `read_record`, of a version that `is_adoption`; nobody's signature is checked."""
    found = read_record(registry, info)
    if not isinstance(found, AdoptionRecord):
        raise ReceiptInvalid("was not adopted", where=place(registry, info))
    return found


def decode_record(
    raw: bytes, info: VersionInfo, *, keys: Sequence[Key] | None, where: str
) -> AnyRecord:
    """The record in `raw`, of the kind that the version's tags say; with `keys`, verified.

    Raises ReceiptInvalid.
    """
    kind = info.tags.get(RECORD_KIND)
    if kind == ROLLBACK:
        rollback, digest, signer = _checked(raw, RollbackStatement, keys, where)
        return RollbackRecord(statement=rollback, digest=digest, raw=raw, signer=signer)
    if kind == ADOPTION:
        adoption, digest, signer = _checked(raw, AdoptionStatement, keys, where)
        return AdoptionRecord(statement=adoption, digest=digest, raw=raw, signer=signer)
    raise ReceiptInvalid(
        f"is a record of the kind '{kind}', which this Reprune does not know", where=where
    )


def _checked(
    raw: bytes, kind: type[S], keys: Sequence[Key] | None, where: str
) -> tuple[S, str, str]:
    if keys is None:
        return (*decode_statement(raw, kind, where=where), "")
    return verify_statement(raw, kind, keys, where=where)
