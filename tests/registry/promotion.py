"""A repository in which a judged generation lies ready to be promoted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from reprune.core import store
from reprune.core.errors import PromotionRefused
from reprune.core.lock import LOCK_FILE, ChampionRef, Lock, lock_text
from reprune.core.params import read_params
from reprune.registry.compressed import champion
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry, known_versions
from reprune.steps.promote import Evidence, PromoteResult, promote
from reprune.steps.promoter import make_promoter
from tests import chain
from tests.chain import Chain, Story, write_chain

MEASURED_S = 1_000_000.0
NOW_S = MEASURED_S + 3600
COMPRESSED = "digits-compressed"


def ready(root: Path, story: Story | None = None) -> Chain:
    """Writes a chain for the registry of params.yaml, its lock file, a key; and judges it."""
    written = write_chain(root, story)
    uri = written.documents.params.registry.uri
    lock = msgspec.structs.replace(written.documents.lock, registry=uri)
    made = replace(written, documents=replace(written.documents, lock=lock))
    write_lock(root, lock)
    make_promoter(root)
    source = open_registry(made.documents.params.registry, root)
    register_dense(source, "digits", made.path("dense") / "weights.safetensors")
    made.judged()
    return made


def next_generation(root: Path, **story: object) -> Chain:
    """The same repository one generation on, locked to the champion as it is now."""
    holder = champion(registry_of(root), "digits")
    ref: ChampionRef | None = holder.ref if holder else None
    return ready(root, Story(champion=ref, **story))  # type: ignore[arg-type]


def write_lock(root: Path, lock: Lock) -> None:
    (root / LOCK_FILE).write_text(lock_text(lock))


def registry_of(root: Path) -> Registry:
    return open_registry(read_params(root / "params.yaml").registry, root)


def evidence(root: Path) -> Evidence:
    artifacts = root / "artifacts"
    return Evidence(
        verdict=artifacts / "verdict",
        candidate=artifacts / "candidate",
        engines=(artifacts / "engines",),
        plan=artifacts / "plan",
        profiles=(artifacts / "profile",),
        table=artifacts / "sensitivity",
        report=artifacts / "report",
    )


def promoted(root: Path, *, now: float = NOW_S) -> PromoteResult:
    return promote(root, evidence(root), now=now, say=lambda _: None)


def versions(root: Path) -> list[str]:
    return [info.version for info in known_versions(registry_of(root), COMPRESSED)]


@contextmanager
def refused(root: Path, reason: str) -> Iterator[None]:
    """The block is refused for `reason`, and the registry is as it was before."""
    before = versions(root)
    alias = registry_of(root).alias(COMPRESSED, "champion") if before else None
    with pytest.raises(PromotionRefused) as caught:
        yield
    assert caught.value.reason == reason, str(caught.value)
    assert versions(root) == before
    if before:
        assert registry_of(root).alias(COMPRESSED, "champion") == alias


def copy_repository(template: Path, root: Path) -> Path:
    shutil.copytree(template, root)
    return root


def with_params(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Chains are written under other params from here on."""
    monkeypatch.setattr(chain, "PARAMS", text)


def flip(path: Path) -> None:
    """Changes one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def redigest(folder: Path) -> None:
    """Makes an artefact consistent again after its payload was edited, as a careful forger would."""
    listed = {
        path.relative_to(folder).as_posix(): store.file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (store.MANIFEST, store.DIGEST)
    }
    chain.reencode(folder, payload=listed)
