"""An artefact swapped between two steps of the pipeline: whatever follows, what serves is what was measured.

A swap of an artefact is seen by the next step that reads it and not before, so each artefact is swapped just
before each step that reads it: at every other boundary the swap is one of these.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from reprune.core.errors import RepruneError
from reprune.doors.local import STAGES, Stage
from reprune.steps.promote import promote
from tests.chain import Chain
from tests.registry.promotion import NOW_S, copy_repository, evidence
from tests.repository import Repository
from tests.swap_kinds import flipped, replaced
from tests.swaps import Swap, served

PROMOTE = "promote"
PROMOTED = ("verdict", "candidate", "engines", "plan", "profile", "sensitivity")


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """`artefact` is swapped, in the way `how`, before `reader` reads it."""

    artefact: str
    reader: str
    how: str
    swap: Swap

    def __str__(self) -> str:
        return f"{self.how} of {self.artefact} before {self.reader}"


def readers(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each artefact and each of `names`, stages or promote, that reads it."""
    for stage in STAGES:
        if stage.out in names:
            yield from ((artefact, stage.out) for artefact in stage.inputs.values())
    if PROMOTE in names:
        yield from ((artefact, PROMOTE) for artefact in PROMOTED)


def boundaries(root: Path, other: Path, names: tuple[str, ...]) -> Iterator[Boundary]:
    """For each of them: another run's artefact, and one byte of its largest file and of its manifest."""
    for artefact, reader in readers(names):
        folder = root / "artifacts" / artefact
        files = sorted(
            (path for path in folder.rglob("*") if path.is_file()),
            key=lambda one: one.stat().st_size,
        )
        told = {"another run's": replaced(artefact, other / "artifacts" / artefact)}
        for path in {files[-1], folder / "manifest.json"}:
            name = path.relative_to(root).as_posix()
            told[f"a byte of {path.name}"] = flipped(name)
        for how, swap in told.items():
            yield Boundary(artefact=artefact, reader=reader, how=how, swap=swap)


def judged_model(root: Path) -> dict[str, str] | None:
    """Digests of the model and the engines that serve; the verdict may be one made after a swap."""
    found = served(root)
    if found is None:
        return None
    return {name: digest for name, digest in found.items() if not name.startswith("verdict/")}


def at_the_gate(chain: Chain, root: Path, boundary: Boundary) -> str:
    """Judges and promotes a copy of the chain with the swap: why it was refused; empty if it was not."""
    shutil.rmtree(root, ignore_errors=True)
    copy_repository(chain.root, root)
    copy = replace(chain, root=root)
    try:
        if boundary.reader != PROMOTE:
            shutil.rmtree(root / "artifacts" / "verdict")
            boundary.swap(root)
            copy.judged()
        else:
            boundary.swap(root)
        promote(root, evidence(root), now=NOW_S, say=lambda _: None)
    except RepruneError as error:
        return str(getattr(error, "reason", "") or error.code)
    return ""


def in_the_pipeline(
    judged: Repository, root: Path, boundary: Boundary, act: Callable[[Repository], None]
) -> str:
    """As `at_the_gate`, with the real steps from the reader on; `act` promotes."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(judged.root, root, symlinks=True)
    copy = Repository(root)
    left = list(_from(boundary.reader))
    for stage in left:
        with suppress(FileNotFoundError):
            shutil.rmtree(root / "artifacts" / stage.out)
    boundary.swap(root)
    try:
        for stage in left:
            copy.step(stage)
        act(copy)
    except RepruneError as error:
        return str(getattr(error, "reason", "") or error.code)
    return ""


def _from(reader: str) -> list[Stage]:
    names = [stage.out for stage in STAGES]
    return [] if reader == PROMOTE else list(STAGES[names.index(reader) :])
