"""The dense version that a lock pins: of a model, or one of each member of a set."""

from __future__ import annotations

from pathlib import Path

import msgspec

from reprune.core import params, store
from reprune.core.documents import canonical, decode_json, digest_of
from reprune.core.errors import DocumentError
from reprune.core.lock import DenseRef, Digest, MemberRef
from reprune.core.params import Params
from reprune.core.step import work_root
from reprune.registry import compressed
from reprune.registry.dense import find_dense
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.sets import find_members, label_of
from reprune.registry.weights import find_weights


class _Seen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    stamp: str
    weights: Digest


def pinned(registry: Registry, given: Params, version: str | None = None) -> DenseRef:
    """The newest dense version of what `given` names, or `version`, with the digest of its weights.

    Of a set, `version` may name only some members: the others are the newest. Raises VersionNotFound,
    RegistryUnreachable, PickleRefused or CheckpointError.
    """
    if given.members is msgspec.UNSET:
        info = find_dense(registry, given.name, version)
        return DenseRef(
            version=info.version, weights=weights_digest(registry, info, given.registry)
        )
    members = {
        member: MemberRef(
            name=info.name,
            version=info.version,
            weights=weights_digest(registry, info, given.registry),
        )
        for member, info in find_members(registry, given.members, version).items()
    }
    return DenseRef(
        version=label_of({member: each.version for member, each in members.items()}),
        weights=members_digest(members),
        members=members,
    )


def members_digest(members: dict[str, MemberRef]) -> Digest:
    """What stands in a lock for the weights of a whole set."""
    return digest_of({member: each.weights for member, each in members.items()})


def weights_digest(registry: Registry, dense: VersionInfo, given: params.Registry) -> str:
    """The digest of a version's weight file; a version that was looked at before is not fetched again."""
    key = digest_of([registry.identity, dense.name, dense.version]).removeprefix("sha256:")
    cache = work_root() / "dense-weights" / f"{key[:32]}.json"
    seen = _cached(cache)
    if seen is not None and seen.stamp == dense.stamp:
        return seen.weights
    where = f"{registry.identity}: {dense.name} version {dense.version}"
    with compressed.scratch() as folder:
        registry.fetch(dense.name, dense.version, folder)
        found = find_weights(folder, allow_pickle=given.allow_pickle, where=where)
        weights = store.file_digest(found)
    if found.suffix == ".safetensors":
        # A pickled file is looked up each time, so that `allow_pickle: false` is heard at once.
        store.write_bytes(cache, canonical(_Seen(stamp=dense.stamp, weights=weights)))
    return weights


def _cached(path: Path) -> _Seen | None:
    try:
        return decode_json(path.read_bytes(), _Seen, name=str(path))
    except (FileNotFoundError, DocumentError):
        return None
