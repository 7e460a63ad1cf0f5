"""The verdict that a run elsewhere left in the registry, brought here to be read and told."""

from __future__ import annotations

from pathlib import Path

from reprune.core.errors import ArtifactMissing, InputError
from reprune.core.lock import LOCK_FILE, read_lock
from reprune.core.params import PARAMS_FILE, read_params
from reprune.registry import compressed
from reprune.registry.judged import judged
from reprune.registry.open import open_registry
from reprune.registry.protocol import known_versions


def bring_verdict(root: Path, destination: Path) -> str:
    """Copies the accepted verdict for the lock of `root` to `destination`; returns the version that holds it.

    Each file is checked against the version's receipt, whose signature is not. Raises InputError where
    something lies at `destination`, ArtifactMissing where the registry has no verdict for this lock,
    PayloadCorrupt, and what `registry.judged` raises.
    """
    if destination.exists():
        raise InputError("is there already, and is not overwritten", where=str(destination))
    lock = read_lock(root / LOCK_FILE)
    registry = open_registry(read_params(root / PARAMS_FILE).registry, root)
    name = compressed.compressed_name(lock.name)
    found = judged(registry, lock.name, lock.digest)
    if found is not None:
        info = next(
            each for each in known_versions(registry, name) if each.version == found.version
        )
        holder = compressed.Holder(info=info, receipt=compressed.read_receipt(registry, info))
        if compressed.fetch_part(registry, holder, "verdict", destination):
            return info.version
    raise ArtifactMissing(
        "the registry holds no verdict for this lock",
        where=f"{registry.identity}: {name}",
        fix="run the pipeline for it: `reprune submit`",
    )
