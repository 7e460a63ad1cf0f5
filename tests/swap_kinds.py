"""What is swapped under promote's hands (when: see tests.swaps): bytes, evidence, policy, lock, champion."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from reprune.core.documents import canonical, digest_of
from tests.registry.promotion import COMPRESSED
from tests.swaps import Swap


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


def aliased(version: str, alias: str = "champion") -> Swap:
    """The alias, set by somebody else; to nothing where `version` is empty."""

    def swap(root: Path) -> None:
        path = root / "registry" / COMPRESSED / "aliases.json"
        known = {}
        with suppress(OSError):
            known = json.loads(path.read_bytes())
        aliases = {name: each for name, each in known.items() if name not in (alias, "#check")}
        aliases |= {alias: version} if version else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(canonical({**aliases, "#check": digest_of(aliases)}) + b"\n")

    return swap


def kinds(other: Path) -> dict[str, Swap]:
    """Bytes, evidence, policy, lock; `other` is a repository with another judged run."""
    artefacts = other / "artifacts"
    whole = {
        f"the {name}": replaced(name, artefacts / name)
        for name in ("engines", "verdict", "plan", "profile", "sensitivity")
    }
    return whole | {
        "the candidate": replaced("candidate", artefacts / "pruned"),
        "the candidate of another run": replaced("candidate", artefacts / "candidate"),
        "a byte of its weights": flipped("artifacts/candidate/weights.safetensors"),
        "a byte of its engine": flipped("artifacts/engines/ort-cpu/candidate.onnx"),
        "a byte of the samples": flipped("artifacts/verdict/samples/0/latency/ort-cpu.json"),
        "the verdict and its candidate": both(
            replaced("verdict", artefacts / "verdict"),
            replaced("candidate", artefacts / "candidate"),
        ),
        "the policy": texted("policy.yaml", "alpha: 0.2\n"),
        "the params": texted("params.yaml", "profile: {calls: 7}\n"),
        "the task": texted("task/digits.py", "# another task\n"),
        "the lock": copied("reprune.lock.yaml", other),
    }


def both(*swaps: Swap) -> Swap:
    """One after the other, at one moment."""

    def swap(root: Path) -> None:
        for each in swaps:
            each(root)

    return swap


def copied(path: str, other: Path) -> Swap:
    """The file of another repository."""
    return lambda root: shutil.copyfile(other / path, root / path) and None


def at_rest(root: Path) -> list[str]:
    """Every file of a repository in which nothing was promoted yet, of which promote reads some."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


# What a swap of the champion changes, in the folder of the registered model.
TOUCHED = {
    "another champion": "aliases.json",
    "no champion": "aliases.json",
    "the champion's receipt": "1/files/receipt.dsse.json",
    "the champion's marks": "1/version.json",
    "the champion itself": "1/version.json",
}
# Refused at whatever call before the last look at this alias.
MOVED = {"another champion": "champion", "another anchor": "anchor"}


def champion_kinds() -> dict[str, Swap]:
    """The champion of a repository that has one (version 1), moved, removed, or made to be another."""
    place = f"registry/{COMPRESSED}/1"
    return {
        "another champion": aliased("77"),
        "no champion": aliased(""),
        "the champion's receipt": flipped(f"{place}/files/receipt.dsse.json"),
        "the champion's marks": flipped(f"{place}/version.json"),
        "the champion itself": lambda root: shutil.rmtree(root / place, ignore_errors=True),
    }


def call_kinds(other: Path) -> dict[str, Swap]:
    """What is swapped around calls of the registry."""
    known = kinds(other)
    return {
        "another champion": aliased("77"),
        "another anchor": aliased("77", "anchor"),
        "the candidate's number as champion": aliased("2"),
        **{name: known[name] for name in ("the policy", "the lock")},
    }
