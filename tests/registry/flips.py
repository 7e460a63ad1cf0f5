"""Single bits that turned, anywhere in a chain of artefacts and in a registry that holds what came of it."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reprune.core import store
from reprune.core.artifacts import KINDS
from reprune.core.errors import RepruneError, StaleLock
from reprune.registry import compressed
from reprune.registry.attestations import EVAL_FILE, PROMOTED_FILE
from reprune.registry.dense import find_dense
from reprune.registry.links import newest_link
from reprune.registry.receipts import subject_digests
from reprune.steps.promoter import read_promoter
from tests.registry.promotion import promoted, ready, registry_of

DAMAGED = "digits"


@dataclass(frozen=True)
class Flips:
    """`detected` by an error of ours before use; `same` where the file still means the very same
    (an exponent's letter in a number); `unseen` is to be 0.
    """

    flips: int
    detected: int
    same: tuple[str, ...]
    unseen: tuple[str, ...]


def stage(root: Path) -> None:
    """A repository below `root` whose first generation was promoted."""
    root.mkdir(parents=True, exist_ok=True)
    ready(root)
    promoted(root)


def flip_bits(root: Path, count: int, seed: int = 0) -> Flips:
    """Turns `count` bits, one at a time, and lets everything that uses the file look at it."""
    draw = random.Random(seed)
    files = [path for path in sorted(root.rglob("*")) if _counts(path, root)]
    before = {"chain": _chain(root), "registry": _registry(root)}
    detected, same, unseen = 0, [], []
    for _ in range(count):
        path = draw.choice(files)
        raw = path.read_bytes()
        place, bit = draw.randrange(len(raw)), draw.randrange(8)
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :])
        side = "chain" if "artifacts" in path.relative_to(root).parts else "registry"
        try:
            found = _chain(root) if side == "chain" else _registry(root)
        except RepruneError:
            detected += 1
        else:
            # An exponent's letter is no part of what a manifest says: its digest is the same.
            kept = found == before[side] and path.suffix == ".json"
            if kept and raw[place : place + 1].isalpha():
                same.append(f"{_name(path, root)} byte {place}: {raw[place - 6 : place + 6]!r}")
            else:
                unseen.append(f"{_name(path, root)} byte {place} bit {bit}")
        finally:
            path.write_bytes(raw)
    return Flips(count, detected, tuple(same), tuple(unseen))


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _counts(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    kept = parts[0] == "registry" or (parts[0] == "artifacts" and _artefact_of(path, root))
    # Said for other people's verifiers, with signatures of their own: nothing here reads them.
    kept = kept and path.name not in (EVAL_FILE, PROMOTED_FILE)
    return bool(kept) and path.is_file() and path.stat().st_size > 0 and ".draft" not in str(path)


def _artefact_of(path: Path, root: Path) -> bool:
    """Whether it lies in an artefact's folder: a file beside one is nobody's."""
    parts = path.relative_to(root / "artifacts").parts
    return len(parts) > 1 and (root / "artifacts" / parts[0] / store.MANIFEST).is_file()


def _chain(root: Path) -> dict[str, str]:
    """The digests of all artefacts, as the steps that take them read them."""
    kinds = {kind.__name__: kind for kind in _kinds()}
    found = {}
    for folder in sorted((root / "artifacts").iterdir()):
        if (folder / store.MANIFEST).is_file():
            kind = _KNOWN.get(str(folder))
            if kind is None:
                kind = _KNOWN[str(folder)] = json.loads((folder / store.MANIFEST).read_bytes())[
                    "kind"
                ]
            found[folder.name] = store.read(folder, kinds[kind]).digest
    return found


_KNOWN: dict[str, str] = {}


def _kinds() -> list[type]:
    return list(KINDS.values()) if isinstance(KINDS, dict) else list(KINDS)


def _registry(root: Path) -> dict[str, str]:
    """The dense version's weights against the lock, the champion, its receipt and all files of its own."""
    registry = registry_of(root)
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dense = find_dense(registry, "digits", "1")
        registry.fetch("digits", "1", folder / "dense")
        weights = store.file_digest(next((folder / "dense").rglob("*.safetensors")))
        known = _KNOWN.setdefault(f"{root} weights", weights)
        if weights != known:
            raise StaleLock("the registry holds other weights than the lock names")
        holder = compressed.champion(registry, "digits")
        link = newest_link(registry, "digits", read_promoter(root).keys)
        if holder is None or link is None:
            raise StaleLock("the champion is another than the lock names")
        listed = subject_digests(holder.receipt.statement)
        for part in sorted({path.split("/")[0] for path in listed}):
            compressed.fetch_part(registry, holder, part, folder / part)
        found |= {"dense": dense.stamp, "champion": holder.info.version, "link": link[1].digest}
        return found | {"tags": json.dumps(dict(holder.info.tags)), "stamp": holder.info.stamp}
