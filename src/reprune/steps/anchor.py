"""`reprune anchor`: a named person makes a promoted version the reference that does not move by itself.

Judged against the champion alone, a model may lose a little every week, each loss within the margin.
Rules `vs_anchor` are against one version until somebody moves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reprune.core.errors import InputError, ReceiptInvalid, VersionNotFound, nearest
from reprune.core.params import PARAMS_FILE, read_params
from reprune.registry import compressed, tags
from reprune.registry.links import read_link
from reprune.registry.open import open_registry
from reprune.registry.protocol import ANCHOR, CHAMPION, Registry, VersionInfo, known_versions
from reprune.registry.receipts import Receipted
from reprune.steps.holding import holding
from reprune.steps.promoter import Authority, read_promoter

MAX_TEXT = 500


@dataclass(frozen=True, kw_only=True)
class AnchorResult:
    """`before` is the version that was the anchor; `moved` is False where it is the same."""

    version: str
    before: str | None
    moved: bool


def move_anchor(root: Path, *, version: str | None, by: str, reason: str) -> AnchorResult:
    """Afterwards the alias `anchor` names `version` (the champion where none is given), read back.

    The version's tag `reprune.anchor` says who moved it and why. Doing it again changes nothing. The
    lock has to be written again for it to count: `reprune update`.

    Raises InputError for an empty name or reason, VersionNotFound where nothing was promoted or there
    is no such version, ReceiptInvalid for one without a receipt of a pass that we trust,
    RegistryUnreachable.
    """
    by, reason = _text(by, "--by"), _text(reason, "--reason")
    given = read_params(root / PARAMS_FILE)
    registry = open_registry(given.registry, root)
    authority = read_promoter(root)
    name = compressed.compressed_name(given.name)
    with holding(root, given, what=f"a promote of '{given.name}' is running"):
        info = _version(registry, name, version)
        _refuse_unpromoted(registry, authority, info)
        before = registry.alias(name, ANCHOR)
        if before == info.version and tags.ANCHORED in info.tags:
            return AnchorResult(version=info.version, before=before, moved=False)
        # Who and why first: an anchor that nobody answers for must not exist, even for a moment.
        registry.set_tags(name, info.version, {tags.ANCHORED: f"{by}: {reason}"})
        registry.set_alias(name, ANCHOR, info.version)
    return AnchorResult(version=info.version, before=before, moved=True)


def _text(text: str, flag: str) -> str:
    said = " ".join(text.split())
    if not said or len(said) > MAX_TEXT or not said.isprintable():
        raise InputError(
            f"{flag} must say something, in at most {MAX_TEXT} printable characters",
            fix='say who moves the anchor and why: --by "Ada Lovelace" --reason "new camera"',
        )
    return said


def _version(registry: Registry, name: str, version: str | None) -> VersionInfo:
    versions = {info.version: info for info in known_versions(registry, name)}
    wanted = version if version is not None or not versions else registry.alias(name, CHAMPION)
    if wanted is None:
        raise VersionNotFound(
            f"nothing was promoted yet in '{name}', so there is nothing to anchor on",
            where=registry.identity,
            fix="promote a version first",
        )
    if wanted not in versions:
        raise VersionNotFound(
            f"'{name}' has no version {wanted}; {nearest(wanted, versions)}",
            where=registry.identity,
        )
    return versions[wanted]


def _refuse_unpromoted(registry: Registry, authority: Authority, info: VersionInfo) -> None:
    where = f"{registry.identity}: {info.name} version {info.version}"
    link = read_link(registry, info, authority.keys)
    champion = registry.alias(info.name, CHAMPION)
    if tags.PROMOTED not in info.tags and champion != info.version:
        judged = (
            f"judged ({link.statement.predicate.outcome})" if isinstance(link, Receipted) else ""
        )
        raise ReceiptInvalid(
            f"was {judged or 'recorded'} and never promoted",
            where=where,
            fix="anchor on a version that was a champion",
        )
