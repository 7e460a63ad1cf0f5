"""The key that promote signs with: a file, an environment variable, or a service behind a plug-in.

    key: key.pem              a PEM file (PKCS #8, Ed25519 or P-256), relative to config.yaml
    key: env:VARIABLE         the same text in an environment variable
    key: plugin:NAME:TEXT     the entry point NAME of the group `reprune.signers`, called with TEXT

A plug-in returns a securesystemslib Signer: an object with `public_key` and `sign(bytes)`; a KMS, an HSM or
Sigstore can stand behind it. There is no way to promote without a signature.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from reprune.core.errors import PromotionRefused, ReceiptInvalid, UnknownName
from reprune.core.plugins import lookup
from reprune.registry import receipts
from reprune.registry.keys import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import CryptoSigner, Key, Signer

ENVIRONMENT = "env:"
PLUGIN = "plugin:"


def open_signer(named: str, folder: Path) -> Signer:
    """The signer that `key` of the promoter's configuration in `folder` names. Raises PromotionRefused."""
    if named.startswith(PLUGIN):
        return _plugin(named)
    if named.startswith(ENVIRONMENT):
        variable = named.removeprefix(ENVIRONMENT)
        text = os.environ.get(variable)
        if not text:
            _refuse(
                "key_missing",
                "the environment variable that is to hold the promoter's key is not set",
                f"${variable}",
                "set it to the PEM text of the key, for promote alone",
            )
        return _from_pem(text.encode(), f"${variable}")
    path = folder / named
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        _refuse(
            "key_missing",
            "the promoter's key is not there",
            str(path),
            "restore it; a new key (`reprune init` after deleting config.yaml) cannot vouch "
            "for what the old one signed",
        )
    except OSError as error:
        _refuse("key_unreadable", f"the promoter's key cannot be read: {error}", str(path))
    return _from_pem(pem, str(path))


def sign(statement: receipts.AnyStatement, signer: Signer, keys: Sequence[Key]) -> bytes:
    """The signed envelope, verified with `keys` as a reader would. Raises PromotionRefused."""
    try:
        raw = receipts.sign(statement, signer)
        receipts.verify_statement(raw, type(statement), keys, where="the statement just signed")
    except ReceiptInvalid as error:
        _refuse("signing_failed", f"what was signed {error.what}", error.where)
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything, and nothing is signed then
        _refuse("signing_failed", f"the signer failed: {type(error).__name__}: {error}", "")
    return raw


def _from_pem(pem: bytes, where: str) -> CryptoSigner:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner, SSlibKey

    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        _refuse("key_unreadable", f"the promoter's key cannot be used: {error}", where)
    if isinstance(key, EllipticCurvePrivateKey):
        right = isinstance(key.curve, SECP256R1)
    else:
        right = isinstance(key, Ed25519PrivateKey)
    if not right:
        _refuse("key_unreadable", "the promoter's key is neither Ed25519 nor P-256", where)
    return CryptoSigner(key, SSlibKey.from_crypto(key.public_key()))


def _plugin(named: str) -> Signer:
    name, _, text = named.removeprefix(PLUGIN).partition(":")
    try:
        signer: Signer = lookup("signers", name, {})(text)
        scheme = signer.public_key.scheme
    except UnknownName as error:
        _refuse("signer_unknown", error.what, f"key: {named}", error.fix)
    except Exception as error:  # noqa: BLE001 - whatever a plug-in raises, nobody can sign
        what = f"the signer '{name}' cannot be opened: {type(error).__name__}: {error}"
        _refuse("signer_failed", what, f"key: {named}")
    if scheme not in SCHEMES:
        what = f"the signer '{name}' signs with {scheme}, not with one of: {', '.join(SCHEMES)}"
        _refuse("signer_failed", what, f"key: {named}")
    return signer


def _refuse(reason: str, what: str, where: str, fix: str = "") -> NoReturn:
    raise PromotionRefused(what, reason=reason, where=where, fix=fix)
