"""Receipts: what promote decided about one candidate, as a signed in-toto statement in a DSSE envelope.

The bytes that are signed are the canonical JSON of `Statement`, and the file is the canonical JSON of the
envelope with the one signature, and a line's end. What decodes but is not in that one form is refused,
so that no two readers can see different things in it, and nobody without the key can make a second file
of a signed statement: its digest is that of the file's bytes. Each receipt names its predecessor's digest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from reprune.core.artifacts import Asked, Fact, Outcome, Waiver
from reprune.core.documents import canonical, decode_json
from reprune.core.errors import DocumentError, ReceiptInvalid
from reprune.core.lock import ChampionRef, Digest
from reprune.registry.keys import P256, lowered, one_form, public_key

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

__all__ = [
    "AnyStatement", "Decision", "Linked", "Receipted", "Sha256", "Statement", "Subject", "chain_gaps",
    "decode", "decode_payload", "decode_statement", "public_key", "sign", "subject_digests", "subjects",
    "verify", "verify_statement",
]  # fmt: skip

RECEIPT_FILE = "receipt.dsse.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_RECEIPT_BYTES = 16_000_000

Hex: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class Sha256(Fact, kw_only=True):
    sha256: Hex


class Subject(Fact, kw_only=True):
    """One file of the registered version, by its path in there."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    digest: Sha256


class Decision(Fact, kw_only=True):
    """What was decided, about what, on which grounds. Times are whole Unix seconds.

    `champion` is the one that the candidate was judged against; `machines` are the instances that
    took the samples; `predecessor` is the digest of the receipt before this one. `newest_time` is the
    latest time among the judged examples; `waiver` is the override that was used; with `dry_run`
    nothing was promoted, whatever the outcome. `samples` are the digests of the benchmarks, each of which
    lists its sample files by digest; the evidence is valid for `valid_for_days` from `measured_until_s`.
    `quality_drops`, `latency_ratios`, `predicted_loss`, `kept` and `asked` are as in
    VerdictSummary.
    """

    registry: str
    workspace: str
    name: str
    outcome: Outcome
    reasons: tuple[str, ...]
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    dense_version: str
    dense_weights: Digest
    champion: ChampionRef | None
    bundle: Digest
    verdict: Digest
    lock: Digest
    policy: Digest
    procedure: str
    eval_digest: str
    machines: tuple[str, ...]
    predecessor: Digest | None
    reprune: str
    measured_until_s: Annotated[int, msgspec.Meta(ge=0)]
    signed_at_s: Annotated[int, msgspec.Meta(ge=0)]
    latency_ratio: float | None
    quality_drop: float | None
    flips: float | None
    newest_time: str | UnsetType = UNSET
    waiver: Waiver | UnsetType = UNSET
    dry_run: bool | UnsetType = UNSET
    samples: tuple[Digest, ...] | UnsetType = UNSET
    valid_for_days: Annotated[float, msgspec.Meta(gt=0.0)] | UnsetType = UNSET
    quality_drops: dict[str, float] | UnsetType = UNSET
    latency_ratios: dict[str, float] | UnsetType = UNSET
    predicted_loss: float | UnsetType = UNSET
    kept: dict[str, float] | UnsetType = UNSET
    asked: Asked | UnsetType = UNSET

    @property
    def promotes(self) -> bool:
        """Whether the version may become champion: it passed or was waived, and was no dry run."""
        passed = self.outcome == "pass" or (
            self.outcome in ("block", "inconclusive") and self.waiver is not UNSET
        )
        return passed and self.dry_run is not True


class AnyStatement(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"type_": "_type", "predicate_type": "predicateType"},
):
    """What all our statements share; each kind adds its own `predicate_type` and `predicate`."""

    type_: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
    subject: tuple[Subject, ...]


S = TypeVar("S", bound=AnyStatement)


class Statement(AnyStatement, frozen=True, kw_only=True):
    predicate_type: Literal["urn:reprune:promotion:v1"] = "urn:reprune:promotion:v1"
    predicate: Decision


class _Signature(Fact, kw_only=True):
    keyid: Hex
    sig: str


class _Envelope(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"payload_type": "payloadType"},
):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    # One: whoever has no key could leave out one of two, or add one that nobody can check.
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=1)]


@dataclass(frozen=True, kw_only=True)
class Receipted:
    """A decoded receipt. `signer` is the key id that verified it; empty where nobody checked."""

    statement: Statement
    digest: str
    raw: bytes
    signer: str = ""


def subjects(digests: Mapping[str, str]) -> tuple[Subject, ...]:
    """Path to `sha256:<hex>` as subjects in a fixed order."""
    return tuple(
        Subject(name=name, digest=Sha256(sha256=digest.removeprefix("sha256:")))
        for name, digest in sorted(digests.items())
    )


def subject_digests(statement: AnyStatement) -> dict[str, str]:
    """The inverse of `subjects`."""
    return {each.name: f"sha256:{each.digest.sha256}" for each in statement.subject}


def sign(statement: AnyStatement, signer: Signer) -> bytes:
    """The envelope file's bytes; the same statement and Ed25519 key give the same bytes."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(canonical(statement), PAYLOAD_TYPE, {})
    signature = envelope.sign(signer)
    if signer.public_key.scheme == P256:
        signature.signature = lowered(bytes.fromhex(signature.signature)).hex()
    return canonical(envelope.to_dict()) + b"\n"


def decode(raw: bytes, *, where: str) -> Receipted:
    """The receipt, strictly decoded; nobody's signature is checked. Raises ReceiptInvalid."""
    statement, digest = decode_statement(raw, Statement, where=where)
    return Receipted(statement=statement, digest=digest, raw=raw)


def verify(raw: bytes, keys: Sequence[Key], *, where: str) -> Receipted:
    """The receipt, if one of `keys` signed these very bytes. Raises ReceiptInvalid."""
    statement, digest, signer = verify_statement(raw, Statement, keys, where=where)
    return Receipted(statement=statement, digest=digest, raw=raw, signer=signer)


def decode_statement(raw: bytes, kind: type[S], *, where: str) -> tuple[S, str]:
    """A statement of this kind and its envelope's digest; nobody's signature is checked.

    Raises ReceiptInvalid.
    """
    return _decode(raw, kind, where)[:2]


def verify_statement(
    raw: bytes, kind: type[S], keys: Sequence[Key], *, where: str
) -> tuple[S, str, str]:
    """As `decode_statement`, with the key id that signed these very bytes. Raises ReceiptInvalid.

    No other bytes that say the same verify, unless who has the key signs again.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer import Signature

    statement, digest, envelope = _decode(raw, kind, where)
    signed = {each.keyid: _unbase64(each.sig, where) for each in envelope.signatures}
    for key in keys:
        if key.keyid in signed and not one_form(signed[key.keyid], key):
            raise ReceiptInvalid("holds a signature that is not in its one form", where=where)
    signatures = {keyid: Signature(keyid, sig.hex()) for keyid, sig in signed.items()}
    try:
        accepted = Envelope(canonical(statement), PAYLOAD_TYPE, signatures).verify(list(keys), 1)
    except (UnverifiedSignatureError, ValueError) as error:
        raise ReceiptInvalid(
            "is not signed by a key that this promoter trusts",
            where=where,
            fix="see `trusted_keys` in the promoter's config.yaml",
        ) from error
    (signer,) = accepted
    return statement, digest, signer


class Linked(Protocol):
    """A signed link of the chain; its `statement.predicate.predecessor` is the one before."""

    @property
    def statement(self) -> Any: ...

    @property
    def digest(self) -> str: ...


def chain_gaps(
    receipts: Sequence[Linked], *, before: Collection[str | None] = ()
) -> tuple[str, ...]:
    """What is missing in a run of receipts, oldest first, in words; empty if nothing is.

    The first may name a predecessor from before the run, and so may each what `before` lists: digests of
    earlier receipts, and None where the run does not begin with the first of all. Several
    may name the same one: two promotes that overlapped. A receipt that was deleted shows as one that a
    successor names and nobody holds.
    """
    gaps: list[str] = []
    known: set[str | None] = {*before}
    for index, receipt in enumerate(receipts):
        named = receipt.statement.predicate.predecessor
        if index == 0:
            known.add(named)
        elif named not in known and named is None:
            gaps.append(f"receipt {receipt.digest[:19]} names no predecessor, but is not the first")
        elif named not in known:
            gaps.append(
                f"receipt {receipt.digest[:19]} follows {str(named)[:19]}, which is not there: "
                "a registered version was deleted"
            )
        known.add(receipt.digest)
    return tuple(gaps)


def decode_payload(raw: bytes, *, where: str) -> bytes:
    """The bytes that are signed, of whatever kind they are; nobody's signature is checked.

    Raises ReceiptInvalid.
    """
    if len(raw) > MAX_RECEIPT_BYTES:
        raise ReceiptInvalid(f"is larger than {MAX_RECEIPT_BYTES} bytes", where=where)
    try:
        return _unbase64(decode_json(raw, _Envelope, name=where).payload, where)
    except DocumentError as error:
        raise ReceiptInvalid(error.what, where=error.where) from error


def _decode(raw: bytes, kind: type[S], where: str) -> tuple[S, str, _Envelope]:
    if len(raw) > MAX_RECEIPT_BYTES:
        raise ReceiptInvalid(f"is larger than {MAX_RECEIPT_BYTES} bytes", where=where)
    try:
        envelope = decode_json(raw, _Envelope, name=where)
        payload = _unbase64(envelope.payload, where)
        statement = decode_json(payload, kind, name=where)
    except DocumentError as error:
        raise ReceiptInvalid(error.what, where=error.where) from error
    names = [each.name for each in statement.subject]
    if (
        canonical(statement) != payload
        or names != sorted(set(names))
        or canonical(envelope) + b"\n" != raw
    ):
        raise ReceiptInvalid("is not in its one canonical form", where=where)
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return statement, digest, envelope


def _unbase64(text: str, where: str) -> bytes:
    try:
        found = base64.b64decode(text)
    except ValueError as error:
        raise ReceiptInvalid("holds something that is not base64", where=where) from error
    # Nothing between the letters, and the bits that the last one has over are nobody's: they must be 0.
    if base64.b64encode(found).decode() != text:
        raise ReceiptInvalid("holds base64 that is not in its one form", where=where)
    return found
