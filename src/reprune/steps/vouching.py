"""Who vouches for what the aliases name, as far as somebody who cannot sign can tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core import params
from reprune.core.errors import ChampionForeign, ReceiptInvalid
from reprune.registry.compressed import Holder
from reprune.registry.links import verified
from reprune.registry.protocol import CHAMPION, Registry
from reprune.registry.receipts import public_key
from reprune.registry.standing import check_standing
from reprune.steps.promoter import config_path, read_promoter

if TYPE_CHECKING:
    from securesystemslib.signer import Key


def known_keys(root: Path, given: params.Registry) -> tuple[Key, ...]:
    """Whose receipts count: the promoter's keys, where its configuration can be reached; else those of
    `registry.trusted_keys`, which may be none.
    Raises PromotionRefused where its private key is out of reach.
    """
    named = [public_key(each) for each in given.trusted_keys or ()]
    if not config_path(root).is_file():
        return tuple(named)
    return read_promoter(root).keys


def check_vouched(
    source: Registry, holders: Mapping[str, Holder | None], keys: tuple[Key, ...]
) -> None:
    """Returns only if one of `keys` signed what each alias names, and the champion was not taken back.

    Raises ChampionForeign, or RegistryUnreachable.
    """
    for alias, holder in holders.items():
        if holder is None:
            continue
        try:
            verified(source, holder.info, holder.receipt, keys)
        except ReceiptInvalid as error:
            raise ChampionForeign(
                f"the {alias}, version {holder.info.version}: its receipt {error.what}",
                where=source.identity,
                fix="if you trust who signed it, add the key to `trusted_keys` in the promoter's "
                "config.yaml, or where there is none in params.yaml (registry)",
            ) from error
        if alias == CHAMPION:
            check_standing(source, holder.info, holder.receipt, keys)
