"""Keys of promoters: by file, environment or plug-in; Ed25519 or P-256; and each signature in one form."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey

from reprune.core import plugins
from reprune.core.documents import canonical
from reprune.core.errors import DocumentError, PromotionRefused, ReceiptInvalid
from reprune.registry.keys import P256_ORDER, key_text, lowered, one_form, public_key
from reprune.registry.receipts import sign, verify
from reprune.steps import signers
from reprune.steps.promoter import make_promoter, read_promoter
from tests.registry.test_receipts import statement

ED_ORDER = 2**252 + 27742317777372353535851937790883648493
P_KEY = ec.generate_private_key(ec.SECP256R1())
E_KEY = ed25519.Ed25519PrivateKey.generate()
P_SIGNER = CryptoSigner(P_KEY, SSlibKey.from_crypto(P_KEY.public_key()))
E_SIGNER = CryptoSigner(E_KEY, SSlibKey.from_crypto(E_KEY.public_key()))
P_RAW, E_RAW = sign(statement(), P_SIGNER), sign(statement(), E_SIGNER)
Bend = Callable[[bytes], bytes]


def pem(key: Any) -> bytes:
    made: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made


@pytest.mark.parametrize("signer", [P_SIGNER, E_SIGNER])
def test_a_key_is_one_line(signer: CryptoSigner) -> None:
    """What stands in `trusted_keys` is the key that signed: of either kind, there and back."""
    line = key_text(signer.public_key)
    again = public_key(line)
    assert again == signer.public_key
    raw = sign(statement(), signer)
    assert verify(raw, [again], where="r").signer == signer.public_key.keyid


def test_every_p256_signature_is_the_lower_one() -> None:
    """Whatever the library draws, what is written has the lower s."""
    for _ in range(20):
        raw = sign(statement(), P_SIGNER)
        sig = base64.b64decode(json.loads(raw)["signatures"][0]["sig"])
        assert decode_dss_signature(sig)[1] <= P256_ORDER // 2
        assert verify(raw, [P_SIGNER.public_key], where="r")


# --- signatures that almost hold -----------------------------------------------------------------


def pair(change: Callable[[int, int], tuple[int, int]]) -> Bend:
    return lambda sig: encode_dss_signature(*change(*decode_dss_signature(sig)))


def ed(change: Callable[[int], int]) -> Bend:
    """R as it is, and another s."""

    def bend(sig: bytes) -> bytes:
        s = change(int.from_bytes(sig[32:], "little")) % 2**256
        return sig[:32] + s.to_bytes(32, "little")

    return bend


BENT: dict[str, tuple[bytes, Bend]] = {
    "p256: the higher s": (P_RAW, pair(lambda r, s: (r, P256_ORDER - s))),
    "p256: s = 0": (P_RAW, pair(lambda r, s: (r, 0))),
    "p256: r = 0": (P_RAW, pair(lambda r, s: (0, s))),
    "p256: r = s = 0": (P_RAW, pair(lambda r, s: (0, 0))),
    "p256: r = n": (P_RAW, pair(lambda r, s: (P256_ORDER, s))),
    "p256: s = n": (P_RAW, pair(lambda r, s: (r, P256_ORDER))),
    "p256: r + n": (P_RAW, pair(lambda r, s: (r + P256_ORDER, s))),
    "p256: s + n": (P_RAW, pair(lambda r, s: (r, s + P256_ORDER))),
    "p256: r negative": (P_RAW, lambda sig: sig[:4] + bytes([sig[4] | 128]) + sig[5:]),
    "p256: r and s exchanged": (P_RAW, pair(lambda r, s: (s, r))),
    "p256: r = s = 1": (P_RAW, pair(lambda r, s: (1, 1))),
    "p256: empty": (P_RAW, lambda sig: b""),
    "p256: cut": (P_RAW, lambda sig: sig[:-1]),
    "p256: half": (P_RAW, lambda sig: sig[: len(sig) // 2]),
    "p256: a byte behind": (P_RAW, lambda sig: sig + b"\0"),
    "p256: a byte before": (P_RAW, lambda sig: b"\0" + sig),
    "p256: raw r and s": (
        P_RAW,
        lambda sig: b"".join(n.to_bytes(32, "big") for n in decode_dss_signature(sig)),
    ),
    "p256: long form of the length": (P_RAW, lambda sig: sig[:1] + b"\x81" + sig[1:]),
    "p256: indefinite length": (P_RAW, lambda sig: sig[:1] + b"\x80" + sig[2:] + b"\0\0"),
    "p256: a padded integer": (
        P_RAW,
        lambda sig: (
            sig[:1] + bytes([sig[1] + 1]) + sig[2:3] + bytes([sig[3] + 1]) + b"\0" + sig[4:]
        ),
    ),
    "p256: a set, not a sequence": (P_RAW, lambda sig: b"\x31" + sig[1:]),
    "p256: zeros": (P_RAW, lambda sig: bytes(len(sig))),
    "p256: the signature of another kind of key": (
        P_RAW,
        lambda sig: base64.b64decode(json.loads(E_RAW)["signatures"][0]["sig"]),
    ),
    "ed25519: s + L": (E_RAW, ed(lambda s: s + ED_ORDER)),
    "ed25519: s + 2 L": (E_RAW, ed(lambda s: s + 2 * ED_ORDER)),
    "ed25519: L - s": (E_RAW, ed(lambda s: ED_ORDER - s)),
    "ed25519: s = 0": (E_RAW, ed(lambda s: 0)),
    "ed25519: s = L": (E_RAW, ed(lambda s: ED_ORDER)),
    "ed25519: s + 1": (E_RAW, ed(lambda s: s + 1)),
    "ed25519: the highest bit of s": (E_RAW, ed(lambda s: s | 1 << 255)),
    "ed25519: R = 0": (E_RAW, lambda sig: bytes(32) + sig[32:]),
    "ed25519: R is the neutral point": (E_RAW, lambda sig: b"\1" + bytes(31) + sig[32:]),
    "ed25519: R not canonical": (E_RAW, lambda sig: b"\xee" + b"\xff" * 30 + b"\x7f" + sig[32:]),
    "ed25519: the sign of R": (E_RAW, lambda sig: sig[:31] + bytes([sig[31] ^ 128]) + sig[32:]),
    "ed25519: neutral R and s = 0": (E_RAW, lambda sig: b"\1" + bytes(63)),
    "ed25519: empty": (E_RAW, lambda sig: b""),
    "ed25519: cut": (E_RAW, lambda sig: sig[:-1]),
    "ed25519: half": (E_RAW, lambda sig: sig[:32]),
    "ed25519: a byte behind": (E_RAW, lambda sig: sig + b"\0"),
    "ed25519: twice": (E_RAW, lambda sig: sig * 2),
    "ed25519: R and s exchanged": (E_RAW, lambda sig: sig[32:] + sig[:32]),
    "ed25519: the other end first": (E_RAW, lambda sig: sig[:32] + sig[:31:-1]),
    "ed25519: zeros": (E_RAW, lambda sig: bytes(64)),
    "ed25519: ones": (E_RAW, lambda sig: b"\xff" * 64),
}


@pytest.mark.parametrize("name", BENT)
def test_a_signature_that_almost_holds_does_not(name: str) -> None:
    """Bent, cut or in another form, also one that a library alone would let pass."""
    raw, bend = BENT[name]
    keys = [P_SIGNER.public_key, E_SIGNER.public_key]
    assert verify(raw, keys, where="r")
    told = json.loads(raw)
    sig = base64.b64decode(told["signatures"][0]["sig"])
    told["signatures"][0]["sig"] = base64.b64encode(bend(sig)).decode()
    with pytest.raises(ReceiptInvalid):
        verify(canonical(told) + b"\n", keys, where="r")


def test_every_bit_of_a_signature_counts() -> None:
    """All single flipped bits of both kinds, one after the other."""
    count = 0
    for raw, key in ((P_RAW, P_SIGNER.public_key), (E_RAW, E_SIGNER.public_key)):
        told = json.loads(raw)
        sig = base64.b64decode(told["signatures"][0]["sig"])
        for bit in range(8 * len(sig)):
            bent = bytearray(sig)
            bent[bit // 8] ^= 1 << bit % 8
            told["signatures"][0]["sig"] = base64.b64encode(bytes(bent)).decode()
            count += 1
            with pytest.raises(ReceiptInvalid):
                verify(canonical(told) + b"\n", [key], where="r")
    print(f"{count} flipped bits, {count} refused")


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1()])
def test_another_curve_is_no_key_of_ours(curve: ec.EllipticCurve) -> None:
    """Signed rightly, by a key that somebody might hand over as trusted: not one of our schemes."""
    key = ec.generate_private_key(curve)
    try:
        found = SSlibKey.from_crypto(key.public_key())
    except ValueError:
        return  # not even the library knows it
    with warnings.catch_warnings():
        signer = CryptoSigner(key, found)
    raw = sign(statement(), signer)
    with pytest.raises(ReceiptInvalid, match="one form"):
        verify(raw, [found], where="r")


def test_the_signature_binds_the_type_of_the_payload() -> None:
    """DSSE signs type and body together: a signature over the body alone does not count."""
    told = json.loads(E_RAW)
    bare = E_KEY.sign(base64.b64decode(told["payload"]))
    told["signatures"][0]["sig"] = base64.b64encode(bare).decode()
    with pytest.raises(ReceiptInvalid):
        verify(canonical(told) + b"\n", [E_SIGNER.public_key], where="r")
    told = json.loads(P_RAW)
    bare = P_KEY.sign(base64.b64decode(told["payload"]), ec.ECDSA(hashes.SHA256()))
    told["signatures"][0]["sig"] = base64.b64encode(lowered(bare)).decode()
    with pytest.raises(ReceiptInvalid):
        verify(canonical(told) + b"\n", [P_SIGNER.public_key], where="r")


@pytest.mark.parametrize(
    ("r", "s", "lower"),
    [
        (1, 1, 1),
        (1, P256_ORDER - 1, 1),
        (P256_ORDER - 1, 7, 7),
        (1, P256_ORDER // 2, P256_ORDER // 2),
        (1, P256_ORDER // 2 + 1, P256_ORDER // 2),
        (0, 1, None),
        (1, 0, None),
        (P256_ORDER, 1, None),
        (1, P256_ORDER, None),
        (P256_ORDER + 1, P256_ORDER + 1, None),
    ],
)
def test_the_lower_s_of_numbers_below_the_order(r: int, s: int, lower: int | None) -> None:
    """Both between 1 and the curve's order; anything else is no signature, nor is what is no DER."""
    found = lowered(encode_dss_signature(r, s))
    assert found == (b"" if lower is None else encode_dss_signature(r, lower))
    assert lowered(b"no signature") == b""


def test_a_point_lies_on_the_curve() -> None:
    """33 bytes that look like a point and are none are no key."""
    with pytest.raises(ReceiptInvalid, match="no P-256 point"):
        public_key("02" + "f" * 64)


def test_no_form_is_known_of_other_schemes() -> None:
    """A scheme that is not listed has no form that counts."""
    low = encode_dss_signature(1, 1)
    for scheme in ("rsassa-pss-sha256", "ecdsa-sha2-nistp384"):
        key: Any = SimpleNamespace(scheme=scheme)
        assert not one_form(b"x" * 64, key)
        assert not one_form(low, key)
    assert lowered(b"x" * 64) == b""


# --- where the key comes from --------------------------------------------------------------------


def config(root: Path, key: str) -> None:
    make_promoter(root)
    (root / ".reprune/promoter/config.yaml").write_text(f"schema: 1\nkey: {key}\n")


@pytest.mark.parametrize("key", [P_KEY, E_KEY])
@pytest.mark.parametrize("place", ["file", "environment"])
def test_a_key_is_taken_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: Any, place: str
) -> None:
    """Of either kind; the same public key comes of it."""
    if place == "file":
        config(tmp_path, "mine.pem")
        (tmp_path / ".reprune/promoter/mine.pem").write_bytes(pem(key))
    else:
        config(tmp_path, "env:OUR_KEY")
        monkeypatch.setenv("OUR_KEY", pem(key).decode())
    authority = read_promoter(tmp_path)
    assert authority.signer.public_key == SSlibKey.from_crypto(key.public_key())
    raw = signers.sign(statement(), authority.signer, authority.keys)
    assert verify(raw, authority.keys, where="r")


class Service:
    """A signer as a plug-in would make one for a key that never leaves a service."""

    def __init__(self, text: str) -> None:
        if text == "broken":
            raise OSError("no route to the service")
        self.text = text
        self.public_key: Any = P_SIGNER.public_key
        if text == "rsa":
            self.public_key = SimpleNamespace(scheme="rsassa-pss-sha256", keyid="0" * 64)

    def sign(self, payload: bytes) -> Signature:
        if self.text == "down":
            raise TimeoutError("no answer")
        if self.text == "other":
            return Signature(self.public_key.keyid, encode_dss_signature(1, 1).hex())
        return P_SIGNER.sign(payload)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(name="kms", value="tests.registry.test_keys:Service")
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: [point] if group == "reprune.signers" else []
    )


@pytest.mark.usefixtures("service")
def test_a_plug_in_signs(tmp_path: Path) -> None:
    """It is called with what stands behind its name, colons and all."""
    config(tmp_path, "plugin:kms:alias/promote:1")
    authority = read_promoter(tmp_path)
    assert authority.signer.text == "alias/promote:1"  # type: ignore[attr-defined]
    raw = signers.sign(statement(), authority.signer, authority.keys)
    assert verify(raw, authority.keys, where="r").signer == P_SIGNER.public_key.keyid


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("plugin:kms:broken", "signer_failed"),
        ("plugin:kms:rsa", "signer_failed"),
        ("plugin:azure:x", "signer_unknown"),
        ("env:NOT_SET_AT_ALL", "key_missing"),
        ("../elsewhere.pem", "key_missing"),
        (".", "key_unreadable"),
    ],
)
def test_a_key_that_cannot_be_used_has_its_reason(tmp_path: Path, key: str, reason: str) -> None:
    """Nothing is promoted unsigned instead."""
    config(tmp_path, key)
    with pytest.raises(PromotionRefused) as caught:
        read_promoter(tmp_path)
    assert caught.value.reason == reason


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("text", ["down", "other"])
def test_a_signer_that_fails_signs_nothing(tmp_path: Path, text: str) -> None:
    """It does not answer, or answers with something that is no signature of these bytes."""
    config(tmp_path, f"plugin:kms:{text}")
    authority = read_promoter(tmp_path)
    with pytest.raises(PromotionRefused) as caught:
        signers.sign(statement(), authority.signer, authority.keys)
    assert caught.value.reason == "signing_failed"
    assert caught.value.where == ("" if text == "down" else "the statement just signed")


def test_what_a_configuration_leaves_out_is_strict(tmp_path: Path) -> None:
    """Evidence of two weeks, nobody who may override, no key but its own."""
    config(tmp_path, "key.pem")
    path = tmp_path / ".reprune/promoter/config.yaml"
    path.write_text("key: key.pem\n")
    found = read_promoter(tmp_path)
    assert (found.promoter.schema, found.promoter.max_valid_for_days) == (1, 14.0)
    assert (found.promoter.overrides.allowed_by, found.promoter.hooks) == ((), ())
    assert found.keys == (found.signer.public_key,)
    hook = "{name: ops, kind: slack, url: https://a.test/}"
    path.write_text(f"key: key.pem\nhooks: [{hook}, {hook}]\n")
    with pytest.raises(DocumentError, match="two hooks called 'ops'"):
        read_promoter(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"no key", "cannot be used"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "neither Ed25519 nor P-256"),
        (pem(x25519.X25519PrivateKey.generate()), "neither Ed25519 nor P-256"),
    ],
)
def test_a_text_that_is_no_key_of_ours_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, words: str
) -> None:
    """The file or the variable; what can be done is in the words themselves."""
    (tmp_path / "mine.pem").write_bytes(text)
    monkeypatch.setenv("OUR_KEY", text.decode())
    for named, where in (("mine.pem", str(tmp_path / "mine.pem")), ("env:OUR_KEY", "$OUR_KEY")):
        with pytest.raises(PromotionRefused, match=words) as caught:
            signers.open_signer(named, tmp_path)
        found = caught.value
        assert (found.reason, found.where, found.fix) == ("key_unreadable", where, "")


def test_a_variable_that_is_not_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OUR_KEY", raising=False)
    with pytest.raises(PromotionRefused) as caught:
        signers.open_signer("env:OUR_KEY", tmp_path)
    assert (caught.value.reason, caught.value.where) == ("key_missing", "$OUR_KEY")


def test_a_new_promoter_is_this_users_alone(tmp_path: Path) -> None:
    """Folder, key and configuration; what is there already stays as it is."""
    path = make_promoter(tmp_path)
    folder = tmp_path / ".reprune/promoter"
    assert path == folder / "config.yaml"
    modes = {each.name: each.stat().st_mode & 0o777 for each in (folder, *folder.iterdir())}
    assert modes == {"promoter": 0o700, "key.pem": 0o600, "config.yaml": 0o600}
    found = read_promoter(tmp_path)
    assert (found.promoter.key, found.promoter.trusted_keys) == ("key.pem", ())
    key = (folder / "key.pem").read_bytes()
    path.write_text(
        f"{path.read_text()}max_valid_for_days: 3\n".replace("max_valid_for_days: 14\n", "")
    )
    folder.chmod(0o755)
    assert make_promoter(tmp_path) == path
    assert (folder / "key.pem").read_bytes() == key
    assert read_promoter(tmp_path).promoter.max_valid_for_days == 3
    assert folder.stat().st_mode & 0o777 == 0o700
    path.unlink()
    make_promoter(tmp_path)
    assert read_promoter(tmp_path).signer.public_key == found.signer.public_key


def test_the_configuration_may_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a variable says; without one, and nothing in its place, nobody can sign."""
    monkeypatch.delenv("REPRUNE_PROMOTER", raising=False)
    make_promoter(tmp_path / "other")
    with pytest.raises(PromotionRefused) as caught:
        read_promoter(tmp_path)
    assert caught.value.reason == "promoter_missing"
    assert caught.value.where == str(tmp_path / ".reprune/promoter/config.yaml")
    elsewhere = tmp_path / "other/.reprune/promoter/config.yaml"
    monkeypatch.setenv("REPRUNE_PROMOTER", str(elsewhere))
    assert read_promoter(tmp_path).keys == read_promoter(tmp_path / "none").keys
    elsewhere.unlink()
    with pytest.raises(PromotionRefused) as caught:
        read_promoter(tmp_path)
    assert caught.value.where == str(elsewhere)
