"""The dense version that a lock pins: of a model, or one of each member of a set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from reprune.core import params, store
from reprune.core.artifacts import WEIGHTS
from reprune.core.documents import canonical, decode_json, digest_of
from reprune.core.errors import DocumentError
from reprune.core.lock import DenseRef, Digest, MemberRef, label_of
from reprune.core.params import Params
from reprune.core.step import work_root
from reprune.registry import compressed
from reprune.registry.dense import find_dense
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.sets import find_members, join_weights
from reprune.registry.weights import PICKLED, find_weights, take_weights


class _Seen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    stamp: str
    weights: Digest


def pinned(registry: Registry, given: Params, version: str | None = None) -> DenseRef:
    """The newest dense version of what `given` names, or `version`, with the digest of its weights as
    `fetch-dense` will write them.

    Of a set, `version` may name only some members: the others are the newest. Raises VersionNotFound,
    RegistryUnreachable, PickleRefused or CheckpointError; MissingExtra for pickled weights without torch.
    """
    if given.members is msgspec.UNSET:
        info = find_dense(registry, given.name, version)
        return DenseRef(
            version=info.version, weights=weights_digest(registry, info, given.registry)
        )
    infos = find_members(registry, given.members, version)
    members = {
        member: MemberRef(
            name=info.name,
            version=info.version,
            weights=weights_digest(registry, info, given.registry),
        )
        for member, info in infos.items()
    }
    return DenseRef(
        version=label_of({member: each.version for member, each in members.items()}),
        weights=_joined_digest(registry, infos, members, given.registry),
        members=members,
    )


def weights_digest(registry: Registry, dense: VersionInfo, given: params.Registry) -> Digest:
    """The digest of a version's weights as safetensors; what was looked at before is not fetched again."""
    cache = _cache(_version_key(registry, dense.name, dense.version))
    seen = _cached(cache)
    if seen is not None and seen.stamp == dense.stamp:
        return seen.weights
    where = f"{registry.identity}: {dense.name} version {dense.version}"
    with compressed.scratch() as folder:
        registry.fetch(dense.name, dense.version, folder)
        found = find_weights(folder, allow_pickle=given.allow_pickle, where=where)
        if found.suffix in PICKLED:
            # Looked up each time, so that `allow_pickle: false` is heard at once.
            take_weights(found, folder / WEIGHTS)
            return store.file_digest(folder / WEIGHTS)
        weights = store.file_digest(found)
    store.write_bytes(cache, canonical(_Seen(stamp=dense.stamp, weights=weights)))
    return weights


def forget(registry: Registry, dense: MemberRef) -> None:
    """What `weights_digest` knows of a version is looked up anew the next time: its files are others now."""
    _cache(_version_key(registry, dense.name, dense.version)).unlink(missing_ok=True)


def forget_set(members: Mapping[str, MemberRef]) -> None:
    """As `forget`, of what the members' weights are together."""
    _cache(_set_key(members)).unlink(missing_ok=True)


def _joined_digest(
    registry: Registry,
    infos: dict[str, VersionInfo],
    members: dict[str, MemberRef],
    given: params.Registry,
) -> Digest:
    """The digest of all members' weights as one file. Members of the same digests make the same file."""
    key = _set_key(members)
    seen = _cached(_cache(key))
    if seen is not None and seen.stamp == key:
        return seen.weights
    with compressed.scratch() as folder:
        taken = {}
        for member, info in infos.items():
            fetched = folder / member
            fetched.mkdir()
            registry.fetch(info.name, info.version, fetched)
            where = f"{registry.identity}: {info.name} version {info.version}"
            found = find_weights(fetched, allow_pickle=given.allow_pickle, where=where)
            taken[member] = folder / f"{member}.safetensors"
            take_weights(found, taken[member])
        join_weights(taken, folder / WEIGHTS)
        weights = store.file_digest(folder / WEIGHTS)
    store.write_bytes(_cache(key), canonical(_Seen(stamp=key, weights=weights)))
    return weights


def _version_key(registry: Registry, name: str, version: str) -> str:
    return digest_of([registry.identity, name, version])


def _set_key(members: Mapping[str, MemberRef]) -> str:
    return digest_of({member: each.weights for member, each in members.items()})


def _cache(key: str) -> Path:
    return work_root() / "dense-weights" / f"{key.removeprefix('sha256:')[:32]}.json"


def _cached(path: Path) -> _Seen | None:
    try:
        return decode_json(path.read_bytes(), _Seen, name=str(path))
    except (FileNotFoundError, DocumentError):
        return None
