"""Keys that sign receipts: Ed25519 or P-256, each public key as one line of hex, each signature in one form.

ECDSA has two signatures for each that it makes (s and n - s). Only the lower one counts here, in its one
DER form: who has no key can then not make a second envelope, with another digest, of a signed one, as the
envelope too has one form (see registry.receipts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from msgspec import Meta

from reprune.core.errors import ReceiptInvalid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from securesystemslib.signer import Key, SSlibKey

ED25519 = "ed25519"
P256 = "ecdsa-sha2-nistp256"
SCHEMES = (ED25519, P256)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

# The y of the eight points of Ed25519 whose order divides 8, and those of them that are written twice:
# everybody can sign for such a "key". The highest bit is the sign of x.
_PRIME = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL = frozenset({0, 1, _PRIME - 1, _PRIME, _PRIME + 1, _ORDER_8, _PRIME - _ORDER_8})

PublicKey: TypeAlias = Annotated[str, Meta(pattern=r"^([0-9a-f]{64}|0[23][0-9a-f]{64})$")]


def public_key(value: PublicKey) -> SSlibKey:
    """The key that `value` stands for: 32 bytes in hex of Ed25519, 33 (a compressed point) of P-256.

    Raises ReceiptInvalid; also for a point of small order, which stands for anybody.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.signer import SSlibKey

    try:
        raw = bytes.fromhex(value)
        if len(raw) == 33:
            point = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), raw)
            return SSlibKey.from_crypto(point)
        if int.from_bytes(raw, "little") & (2**255 - 1) in _SMALL:
            raise ReceiptInvalid(
                f"{value[:16]}... is a point of small order: everybody can sign for it",
                fix="take it out of `trusted_keys`, and find out who put it there",
            )
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(raw))
    except ValueError as error:
        raise ReceiptInvalid(
            f"{value[:16]}... is no Ed25519 public key of 32 bytes, and no P-256 point of 33"
        ) from error


def key_text(key: Key) -> PublicKey:
    """The inverse of `public_key`: what stands in `trusted_keys`."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    public: str = key.keyval["public"]
    if key.scheme == ED25519:
        return public
    point: EllipticCurvePublicKey = load_pem_public_key(public.encode())  # type: ignore[assignment]
    return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()


def one_form(signature: bytes, key: Key) -> bool:
    """Whether the signature is in the only form that counts for keys of this scheme."""
    if key.scheme == ED25519:
        return len(signature) == 64
    return key.scheme == P256 and lowered(signature) == signature


def lowered(signature: bytes) -> bytes:
    """The P-256 signature with the lower of its two s, in DER; empty for what is no signature."""
    from cryptography.hazmat.primitives.asymmetric.utils import (
        decode_dss_signature,
        encode_dss_signature,
    )

    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        return b""
    if not (0 < r < P256_ORDER and 0 < s < P256_ORDER):
        return b""
    return encode_dss_signature(r, min(s, P256_ORDER - s))
