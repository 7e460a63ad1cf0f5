"""The promoter's own configuration: key, minimum policy, trusted machines. Never the repository's.

It lies at $REPRUNE_PROMOTER, or at `.reprune/promoter/config.yaml`, which git ignores: whoever can
change the repository under judgement cannot change it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from reprune.core import durable, store
from reprune.core.documents import Document, read_yaml
from reprune.core.errors import PromotionRefused
from reprune.core.policy import Policy
from reprune.orchestrate.notify import Hooks, refuse_twins
from reprune.registry.keys import PublicKey, public_key
from reprune.steps.signers import open_signer

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

VARIABLE = "REPRUNE_PROMOTER"
FOLDER = Path(".reprune") / "promoter"
CONFIG = "config.yaml"
KEY = "key.pem"

_TEXT = """\
# What `reprune promote` takes from nobody else. Keep it out of the repository that it judges.
schema: 1
# What signs receipts: an Ed25519 or P-256 private key (PEM, PKCS #8), relative to this file;
# or env:VARIABLE with the same text; or plugin:NAME:TEXT, a signer of an installed package.
key: {key}
# Public keys (hex: 32 bytes of Ed25519, 33 of P-256) of other promoters whose receipts count.
trusted_keys: []
# Machines (`machine.instance`) whose samples count; empty: any.
machines: []
# Evidence older than this is refused, whatever policy.yaml says.
max_valid_for_days: 14
# Who may override a verdict that did not pass (`by` in reprune.overrides.yaml); nobody by default.
overrides: {{allowed_by: []}}
# The least that policy.yaml must demand, in its own words; none: whatever it demands.
# minimum_policy:
# Who is told of what promote and rollback did (docs/hooks.md); none: nobody.
# hooks:
"""


class OverrideTerms(Document, kw_only=True):
    """`allowed_by` names people as they sign in `reprune.overrides.yaml`, letter by letter."""

    allowed_by: tuple[Annotated[str, Meta(min_length=1)], ...] = ()


class Promoter(Document, kw_only=True):
    """The whole file; the text that `make_promoter` writes explains each key."""

    schema: Literal[1] = 1
    key: Annotated[str, Meta(min_length=1)]
    trusted_keys: tuple[PublicKey, ...] = ()
    machines: tuple[str, ...] = ()
    max_valid_for_days: Annotated[float, Meta(gt=0.0, le=365.0)] = 14.0
    overrides: OverrideTerms = OverrideTerms()
    minimum_policy: Policy | None = None
    hooks: Hooks = ()

    def __post_init__(self) -> None:
        """Refuses two hooks of one name."""
        refuse_twins(self.hooks)


@dataclass(frozen=True, kw_only=True)
class Authority:
    """The configuration with its key opened. `keys` are all whose receipts count, our own included."""

    promoter: Promoter
    signer: Signer
    keys: tuple[Key, ...]


def make_promoter(root: Path) -> Path:
    """A new local key and configuration below `root`, for this user only (0600); what exists stays.

    Returns the path of config.yaml.
    """
    from securesystemslib.signer import CryptoSigner

    folder = root / FOLDER
    with store.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not (folder / KEY).exists():
            _write_private(folder / KEY, CryptoSigner.generate_ed25519().private_bytes)
        if not (folder / CONFIG).exists():
            _write_private(folder / CONFIG, _TEXT.format(key=KEY).encode())
    return folder / CONFIG


def read_promoter(root: Path) -> Authority:
    """The promoter's configuration and key. Raises PromotionRefused saying how to make them."""
    path = config_path(root)
    if not path.is_file():
        raise PromotionRefused(
            "there is no promoter's configuration, so nobody could sign",
            reason="promoter_missing",
            where=str(path),
            fix=f"run `reprune init` for a local key, or set ${VARIABLE} to a config.yaml",
        )
    promoter = read_yaml(path, Promoter)
    signer = open_signer(promoter.key, path.parent)
    trusted = [public_key(value) for value in promoter.trusted_keys]
    return Authority(promoter=promoter, signer=signer, keys=(signer.public_key, *trusted))


def config_path(root: Path) -> Path:
    """Where the configuration is looked for."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else root / FOLDER / CONFIG


def _write_private(path: Path, content: bytes) -> None:
    """Never readable by others, not even while it is being written."""
    with store.disk_errors(path):
        durable.write_file(path, content, private=True)
