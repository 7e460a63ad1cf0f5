"""Other people's vectors, put to our own verifier and our own reader of JSON.

    python -m tests.vectors

Project Wycheproof's signatures are put into the envelope of a receipt, and go through all of
`registry.receipts.verify`; only what is signed over is the vector's own message, not the envelope's. Of the
valid P-256 ones those with the higher s are refused, as they must be (see registry.keys): anybody can
make them of the lower ones. "acceptable" are keys of small or mixed order, which no honest signer has and
about which standards differ: those of small order, for which everybody can sign, are refused as keys.

JSONTestSuite's files go through `core.documents.strict_json` and `decode_json`. "y_" must be read but for
what a receipt may not hold; "n_" must be refused; of "i_" an answer in our words is promised.
"""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, Key

from reprune.core.documents import canonical, decode_json, strict_json
from reprune.core.errors import DocumentError, ReceiptInvalid
from reprune.registry.keys import P256_ORDER, public_key
from reprune.registry.receipts import sign, verify
from tests.registry.test_receipts import statement

DATA = Path(__file__).parent / "data"
# Well-formed, and refused all the same: two readers may take another of two values.
REFUSED_ON_PURPOSE = {
    "y_object_duplicated_key": "a key given twice",
    "y_object_duplicated_key_and_value": "a key given twice",
}


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A signature, and what Wycheproof says of it: "valid", "invalid" or "acceptable"."""

    number: int
    key: str
    message: bytes
    signature: bytes
    says: str
    comment: str


def signatures(kind: str) -> Iterator[Vector]:
    """Those of `kind`: "ed25519" or "p256", in order."""
    held = json.loads((DATA / "wycheproof_signatures.json").read_bytes())[kind]
    for number, place, message, signature, says, comment in held["tests"]:
        yield Vector(
            number=number,
            key=held["keys"][place][0],
            message=bytes.fromhex(message),
            signature=bytes.fromhex(signature),
            says=says,
            comment=comment,
        )


def counts(vector: Vector) -> bool:
    """Whether our verifier takes the signature. Raises whatever is not a refusal."""
    try:
        key = _key(vector.key)
    except ReceiptInvalid:
        return False
    envelope = {
        **_template(),
        "signatures": [
            {"keyid": key.keyid, "sig": base64.b64encode(vector.signature).decode()},
        ],
    }
    with mock.patch.object(Envelope, "pae", return_value=vector.message):
        try:
            verify(canonical(envelope) + b"\n", [key], where="v")
        except ReceiptInvalid:
            return False
    return True


def is_lower(vector: Vector) -> bool:
    """Whether s, the last integer of a valid P-256 signature, is the lower one."""
    length = vector.signature[5 + vector.signature[3]]
    return int.from_bytes(vector.signature[-length:], "big") <= P256_ORDER // 2


@cache
def _template() -> dict[str, Any]:
    raw = sign(statement(), CryptoSigner.generate_ed25519())
    value: dict[str, Any] = json.loads(raw)
    return value


@cache
def _key(text: str) -> Key:
    """The key as it stands in `trusted_keys`: a point of P-256 compressed."""
    if len(text) == 64:
        return public_key(text)
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes.fromhex(text))
    return public_key(point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex())


def documents() -> Iterator[tuple[str, bytes]]:
    """JSONTestSuite's files, by name."""
    files = json.loads((DATA / "json_test_suite.json").read_bytes())["files"]
    for name, held in files.items():
        if isinstance(held, str):
            yield name, held.encode()
        elif "base64" in held:
            yield name, base64.b64decode(held["base64"])
        else:
            yield name, (held["repeat"] * held["times"] + held["end"]).encode()


def read(raw: bytes) -> bool:
    """Whether both our readers take the document, with one value. Raises whatever is not a refusal."""
    try:
        strict = strict_json(raw, name="j")
    except DocumentError:
        strict = DocumentError
    try:
        decoded = decode_json(raw, object, name="j")
    except DocumentError:
        return False
    if strict != decoded:
        raise AssertionError(f"one reader has {strict!r}, the other {decoded!r}")
    return True


def count() -> dict[str, float]:
    """How many are as they must be, of how many."""
    figures: dict[str, float] = {}
    for kind in ("ed25519", "p256"):
        told: Counter[tuple[str, bool]] = Counter()
        right = 0
        for vector in signatures(kind):
            taken = counts(vector)
            told[vector.says, taken] += 1
            wanted = vector.says == "valid" and (kind == "ed25519" or is_lower(vector))
            right += vector.says == "acceptable" or taken == wanted
        figures |= {f"{kind}_vectors": sum(told.values()), f"{kind}_right": right}
        figures[f"{kind}_valid_refused"] = told["valid", False]
        figures[f"{kind}_invalid_taken"] = told["invalid", True]
        figures[f"{kind}_acceptable_taken"] = told["acceptable", True]
    taken_of = Counter((name[0], read(raw)) for name, raw in documents())
    figures["json_must_refuse"] = taken_of["n", True] + taken_of["n", False]
    figures["json_must_refuse_wrong"] = taken_of["n", True]
    figures["json_must_read"] = taken_of["y", True] + taken_of["y", False]
    figures["json_must_read_refused"] = taken_of["y", False]
    figures["json_either"] = taken_of["i", True] + taken_of["i", False]
    figures["json_either_read"] = taken_of["i", True]
    return figures


if __name__ == "__main__":
    print(json.dumps(count(), indent=1))
    for name, raw in documents():
        if name[0] == "y" and not read(raw):
            print(f"{name}: {REFUSED_ON_PURPOSE.get(name, 'refused')}")
    sys.exit()
