"""Who vouches for what the aliases name, as far as somebody who cannot sign can tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core import params
from reprune.core.documents import read_yaml
from reprune.core.errors import ChampionForeign, PromotionRefused, ReceiptInvalid
from reprune.registry.compressed import Holder
from reprune.registry.links import verified
from reprune.registry.protocol import CHAMPION, Registry
from reprune.registry.receipts import public_key
from reprune.registry.standing import check_standing
from reprune.steps.promoter import Promoter, config_path, read_promoter

if TYPE_CHECKING:
    from securesystemslib.signer import Key


def known_keys(root: Path, given: params.Registry) -> tuple[Key, ...]:
    """Whose receipts count: the promoter's keys, where its configuration can be reached; else those of
    `registry.trusted_keys`, which may be none.

    Where the promoter's private key is out of reach, as it is for everybody but promote, the `trusted_keys`
    of both count. Raises PromotionRefused if there are none then: the configuration says that somebody signs.
    """
    named = [public_key(each) for each in given.trusted_keys or ()]
    path = config_path(root)
    if not path.is_file():
        return tuple(named)
    try:
        return read_promoter(root).keys
    except PromotionRefused as error:
        trusted = [public_key(each) for each in read_yaml(path, Promoter).trusted_keys]
        if not (trusted or named):
            raise PromotionRefused(
                error.what,
                reason=error.reason,
                where=error.where,
                fix="who only reads needs its public key alone: name it in `trusted_keys` of the promoter's "
                "config.yaml, or in params.yaml (registry.trusted_keys)",
            ) from error
        return (*trusted, *named)


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
