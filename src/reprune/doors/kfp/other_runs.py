"""Artefacts of another run are refused before a step begins; the gate would find them hours later.

Every component has the lock at hand, so what a manifest says of its run is compared with it. What a
manifest does not say, the steps and the gate find by its parents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from reprune.core import store
from reprune.core.artifacts import (
    WEIGHTS,
    AnyManifest,
    Benchmark,
    DataReport,
    MemberWeights,
    ModelBundle,
    Previous,
    Verdict,
)
from reprune.core.documents import read_bounded
from reprune.core.errors import ArtifactError, ChainBroken, DocumentError
from reprune.core.step import Documents, knobs_digest
from reprune.steps import STEPS, get_step

# What an input is called that must be the model that the lock pins.
DENSE = ("dense", "teacher")

# What is compared, what the lock has, what the artefact says.
Pair: TypeAlias = tuple[str, object, object]


def refuse_other_runs(given: Mapping[str, Iterable[Path]], documents: Documents) -> None:
    """Raises ChainBroken for an input that was made under another lock than this run's.

    An input that cannot be read is left to the step, which says what is wrong with it.
    """
    for name, paths in given.items():
        for path in paths:
            manifest = _manifest(path)
            if manifest is None:
                continue
            for what, wanted, found in _pairs(name, manifest, documents):
                if wanted != found:
                    raise ChainBroken(
                        f"is of another run: {what} is not what this run's lock pins",
                        where=f"input '{name}' ({path})",
                        fix="hand over what this run made, or run the pipeline again from its start",
                    )


def _manifest(path: Path) -> AnyManifest | None:
    file = path / store.MANIFEST
    try:
        return store.decode_any(read_bounded(file), name=str(file))
    except (ArtifactError, DocumentError, OSError):
        return None


def _pairs(name: str, manifest: AnyManifest, documents: Documents) -> Iterator[Pair]:
    lock = documents.lock
    producer = manifest.producer
    yield "the version of Reprune that made it", lock.reprune, producer.version
    if producer.step in STEPS:
        wanted = knobs_digest(get_step(producer.step), documents.params)
        yield f"what params.yaml says to the step '{producer.step}'", wanted, producer.knobs
    if isinstance(manifest, ModelBundle | MemberWeights | Previous | Verdict):
        yield "the name of its model", lock.name, manifest.name
    if isinstance(manifest, ModelBundle | MemberWeights | Previous | Benchmark | Verdict):
        yield "its dense version", lock.dense.version, manifest.dense_version
    if isinstance(manifest, ModelBundle | DataReport):
        yield "its task", lock.task, manifest.task.digest
    if isinstance(manifest, ModelBundle) and name in DENSE:
        yield "its weights", lock.dense.weights, manifest.payload.get(WEIGHTS)
    if isinstance(manifest, Previous):
        yield "its champion", None if lock.champion == "none" else lock.champion, manifest.champion
        yield "its anchor", None if lock.anchor == "none" else lock.anchor, manifest.anchor
    if isinstance(manifest, Verdict):
        yield "its lock", lock.digest, manifest.lock
