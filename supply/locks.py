"""The locks as they lie in the repository: pins, digests, and what needs what.

`constraints*.txt` say which versions; `*.lock`, in pip's own format, name every file of them by digest;
`packages.json` tells each package's version, licence, needs and files. Written by `supply.lock`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Constraints to the lock made of them.
LOCKS = {
    "constraints.txt": "constraints.lock",
    "constraints-litert.txt": "constraints-litert.lock",
    ".ci/checkov.txt": ".ci/checkov.lock",
}
# An environment for one tool of ours: nothing of it is ever beside Reprune.
TOOLS = (".ci/checkov.txt",)
# The builds of torch for CPUs, which have a version of their own: pip would else rather take PyPI's,
# whose digest its index tells, and that one brings gigabytes of CUDA.
TORCH_CPU = "supply/torch-cpu.lock"
PACKAGES = "supply/packages.json"
HEAD = (
    "# Written by `python -m supply.lock` (CONTRIBUTING.md); pip takes it with --require-hashes.\n"
)

Packages = dict[str, dict[str, Any]]


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Canonical name to version. Raises ValueError for a line that pins nothing or pins twice."""
    return {name: version for name, (version, _) in _pins(text).items()}


def _pins(text: str) -> dict[str, tuple[str, str]]:
    """As `pins`, with each pin's marker or an empty text."""
    found: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pin, _, marker = line.partition(";")
        name, equal, version = pin.strip().partition("==")
        if not equal or not re.fullmatch(r"[\w.!+-]+", version) or canonical(name) in found:
            raise ValueError(f"not one pin: {line!r}")
        found[canonical(name)] = (version, marker.strip())
    return found


def locked(text: str) -> dict[str, tuple[str, set[str]]]:
    """Canonical name to version and digests of a lock. Raises ValueError for what is not a lock's."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: dict[str, tuple[str, set[str]]] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        pin, *hashes = line.split(" --hash=sha256:")
        name, equal, version = pin.partition(";")[0].strip().partition("==")
        digests = {each.strip() for each in hashes}
        whole = all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests)
        if not equal or not digests or not whole or canonical(name) in found:
            raise ValueError(f"not one locked package: {line[:100]!r}")
        found[canonical(name)] = (version, digests)
    return found


def lock_text(constraints: str, packages: Packages) -> str:
    """The lock of these constraints: what `packages` tells of each."""
    entries = [
        _entry(f"{name}=={version}{marker and f' ; {marker}'}", packages[name]["files"].values())
        for name, (version, marker) in sorted(_pins(constraints).items())
    ]
    return HEAD + "".join(entries)


def torch_cpu_text(packages: Packages) -> str:
    """The lock of torch's builds for CPUs alone."""
    torch = packages["torch"]
    pin = f"{torch['version']}+cpu"
    files = [digest for name, digest in torch["files"].items() if f"-{pin}-" in name]
    return HEAD + _entry(f"torch=={pin}", files)


def _entry(pin: str, digests: Iterable[str]) -> str:
    return (
        " \\\n    ".join([pin, *(f"--hash=sha256:{each}" for each in sorted(set(digests)))]) + "\n"
    )


def read_packages(root: Path = ROOT) -> Packages:
    """What the repository tells of each package, by canonical name."""
    return dict(json.loads((root / PACKAGES).read_text(encoding="utf-8")))


def packages_text(packages: Packages) -> str:
    """`packages` as it is written; the same for the same content."""
    return json.dumps(packages, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
