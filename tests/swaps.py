"""Somebody who swaps files under promote's hands: at each moment that it opens one, or all the time.

An audit hook sees every file that this process opens. The n-th opening below the repository is the moment
of the swap, just before it; so each step's boundary, and each read of the step, is one of the moments. What
may be promoted is what was judged, byte by byte, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprune.core import store
from reprune.core.documents import canonical, digest_of
from reprune.core.errors import RepruneError
from reprune.registry.files import FilesRegistry
from reprune.steps.promote import promote
from tests.registry.promotion import COMPRESSED, NOW_S, copy_repository, evidence

Swap = Callable[[Path], None]


@dataclass
class _Watch:
    """Counts the openings below `root` while it is set, and calls `act` at the one numbered `at`."""

    root: str = ""
    at: int = 0
    act: Swap | None = None
    seen: int = 0
    names: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not self.root or not isinstance(arguments[0], str | Path):
            return
        name = str(arguments[0])
        if not name.startswith(self.root):
            return
        self.seen += 1
        self.names.append(name.removeprefix(self.root + "/"))
        if self.seen == self.at and self.act is not None:
            root, self.root = self.root, ""
            self.act(Path(root))
            self.root = root


_WATCH = _Watch()
_HOOKED: list[bool] = []


def _watched() -> _Watch:
    # A hook stays for as long as the process: there is one, and it looks on only while a root is set.
    if not _HOOKED:
        sys.addaudithook(_WATCH.hook)
        _HOOKED.append(True)
    return _WATCH


@dataclass(frozen=True, kw_only=True)
class Came:
    """What came of a promote: `served` are the digests of what the alias names, if it names anything."""

    refused: str
    served: dict[str, str] | None
    opened: tuple[str, ...]
    before_alias: int


def promoted_with(template: Path, root: Path, *, at: int, swap: Swap | None) -> Came:
    """Promotes a copy of the template at `root`, with the swap at the opening numbered `at`."""
    _clear(root)
    copy_repository(template, root)
    watch, refused, moved = _watched(), "", [0]
    set_alias = FilesRegistry.set_alias

    def marked(self: FilesRegistry, name: str, alias: str, version: str) -> None:
        moved[0] = watch.seen
        set_alias(self, name, alias, version)

    FilesRegistry.set_alias = marked  # type: ignore[method-assign]
    watch.root, watch.at, watch.act, watch.seen, watch.names = str(root), at, swap, 0, []
    try:
        promote(root, evidence(root), now=NOW_S, say=lambda _: None)
    except RepruneError as error:
        refused = str(getattr(error, "reason", "") or error.code)
    finally:
        watch.root = ""
        FilesRegistry.set_alias = set_alias  # type: ignore[method-assign]
    return Came(
        refused=refused,
        served=served(root),
        opened=tuple(watch.names),
        before_alias=moved[0],
    )


def _clear(root: Path) -> None:
    """Removes what lies at `root`, also while a racer writes there: first it is nowhere that it looks."""
    if root.exists():
        away = root.with_name(f"{root.name}.old")
        root.rename(away)
        shutil.rmtree(away)


def served(root: Path) -> dict[str, str] | None:
    """Path to digest of the model and the engines that the champion's alias names."""
    model = root / "registry" / COMPRESSED
    try:
        version = json.loads((model / "aliases.json").read_bytes())["champion"]
    except (OSError, KeyError):
        return None
    files = model / version / "files"
    return {
        path.relative_to(files).as_posix(): store.file_digest(path)
        for part in ("bundle", "engines", "verdict")
        for path in sorted((files / part).rglob("*"))
        if path.is_file()
    }


# --- what is swapped ------------------------------------------------------------------------------


def replaced(name: str, other: Path) -> Swap:
    """The artefact, for one that is whole and sound and was never judged here."""

    def swap(root: Path) -> None:
        target = root / "artifacts" / name
        with suppress(FileNotFoundError):
            shutil.rmtree(target)
        shutil.copytree(other, target)

    return swap


def flipped(path: str) -> Swap:
    """One byte of one file, its size as it was."""

    def swap(root: Path) -> None:
        content = bytearray((root / path).read_bytes())
        content[len(content) // 2] ^= 1
        (root / path).write_bytes(bytes(content))

    return swap


def texted(path: str, text: str) -> Swap:
    """A file with another text at its end."""
    return lambda root: (root / path).write_text((root / path).read_text() + text) and None


def aliased(version: str) -> Swap:
    """The champion's alias, set by somebody else."""

    def swap(root: Path) -> None:
        path = root / "registry" / COMPRESSED / "aliases.json"
        aliases = {"champion": version}
        path.write_bytes(canonical({**aliases, "#check": digest_of(aliases)}) + b"\n")

    return swap


def kinds(other: Path) -> dict[str, Swap]:
    """Bytes, evidence and policy; `other` is a repository with another judged run."""
    artefacts = other / "artifacts"
    return {
        "the candidate": replaced("candidate", artefacts / "pruned"),
        "a byte of its weights": flipped("artifacts/candidate/weights.safetensors"),
        "a byte of its engine": flipped("artifacts/engines/ort-cpu/candidate.onnx"),
        "the engines": replaced("engines", artefacts / "engines"),
        "the verdict": replaced("verdict", artefacts / "verdict"),
        "a byte of the samples": flipped("artifacts/verdict/samples/0/latency/ort-cpu.json"),
        "the policy": texted("policy.yaml", "alpha: 0.2\n"),
        "the lock": lambda root: (
            shutil.copyfile(other / "reprune.lock.yaml", root / "reprune.lock.yaml") and None
        ),
    }


def last_look(came: Came) -> int:
    """The opening with which promote looked at the alias for the last time before it moved it."""
    looked = [
        number
        for number, name in enumerate(came.opened[: came.before_alias], start=1)
        if name.endswith("aliases.json")
    ]
    return looked[-1]


# --- all the time ---------------------------------------------------------------------------------

RACER = textwrap.dedent(
    """
    import os, shutil, sys, time
    root, good, evil = sys.argv[1:4]
    files = ["candidate/weights.safetensors", "engines/ort-cpu/candidate.onnx", "verdict/evidence.json",
             "candidate/manifest.json", "candidate/manifest.digest"]
    turn = 0
    while True:
        turn += 1
        for name in files:
            source = os.path.join((good, evil)[turn % 2], "artifacts", name)
            target = os.path.join(root, "artifacts", name)
            try:
                shutil.copyfile(source, root + ".racer")
                os.replace(root + ".racer", target)
            except OSError:
                pass
        time.sleep(0.0005 * (turn % 7))
    """
)


def raced(template: Path, evil: Path, root: Path, rounds: int) -> tuple[int, int, list[int]]:
    """Promotes `rounds` times beside a process that swaps files to and fro: how often it was promoted, how
    often refused, and in which rounds what is served is not what was judged.
    """
    judged, promoted, refused, wrong = judged_files(template, root), 0, 0, []
    racer = subprocess.Popen([sys.executable, "-c", RACER, str(root), str(template), str(evil)])
    try:
        for number in range(rounds):
            came = promoted_with(template, root, at=0, swap=None)
            promoted, refused = promoted + (not came.refused), refused + bool(came.refused)
            if came.served is not None and came.served != judged:
                wrong.append(number)
            if racer.poll() is not None:
                raise AssertionError("the racer has ended")
    finally:
        racer.kill()
        racer.wait()
        shutil.rmtree(root, ignore_errors=True)
    return promoted, refused, wrong


def judged_files(template: Path, root: Path) -> dict[str, str]:
    """What is served where nobody swaps anything."""
    came = promoted_with(template, root, at=0, swap=None)
    assert came.served is not None, came.refused
    return came.served
