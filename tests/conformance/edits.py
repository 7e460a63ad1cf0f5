"""What somebody may do to a repository, a registry or a receipt before promote looks at it."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner

from reprune.core import store
from reprune.core.documents import canonical, digest_of
from reprune.core.lock import LOCK_FILE, Lock, lock_text, read_lock
from reprune.registry import receipts
from reprune.registry.files import _check_of, _Version
from reprune.registry.receipts import RECEIPT_FILE, Statement, decode
from reprune.registry.tags import tags_of
from tests.chain import reencode
from tests.registry.promotion import flip, redigest

Edit = Callable[[Path], object]
MALLORY = CryptoSigner.generate_ed25519()
DIGEST = "sha256:" + "0" * 64


def art(root: Path, name: str) -> Path:
    return root / "artifacts" / name


def all_of(*edits: Edit) -> Edit:
    """One after the other."""

    def change(root: Path) -> None:
        for edit in edits:
            edit(root)

    return change


def flipped(name: str, file: str) -> Edit:
    return lambda root: flip(art(root, name) / file)


def forged(name: str, file: str) -> Edit:
    """A changed byte, with the digests of its own folder corrected."""
    return lambda root: (flip(art(root, name) / file), redigest(art(root, name)))


def changed(name: str, /, **changes: object) -> Edit:
    return lambda root: reencode(art(root, name), **changes)


def gone(path: str) -> Edit:
    def change(root: Path) -> None:
        found = root / path
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return change


def written(path: str, text: str | bytes) -> Edit:
    def change(root: Path) -> None:
        found = root / path
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def added(path: str, text: str) -> Edit:
    return lambda root: (root / path).write_text((root / path).read_text() + text)


def swapped(path: str, old: str, new: str) -> Edit:
    """Text replaced in a file that must hold it."""

    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text, (path, old)
        (root / path).write_text(text.replace(old, new))

    return change


def borrowed(name: str) -> Edit:
    """The artefact of another judged run, whole and sound, in the place of this one's."""

    def change(root: Path) -> None:
        shutil.rmtree(art(root, name))
        shutil.copytree(root / ".other" / "artifacts" / name, art(root, name))

    return change


def taken(path: str) -> Edit:
    """A file of the other world in the place of this one's."""
    return lambda root: shutil.copyfile(root / ".other" / path, root / path)


def linked(path: str) -> Edit:
    """The same bytes, behind a symbolic link."""

    def change(root: Path) -> None:
        (root / path).rename(root / "elsewhere")
        (root / path).symlink_to(root / "elsewhere")

    return change


def piped(path: str) -> Edit:
    """A pipe that nobody writes to: whoever opens it waits for ever."""

    def change(root: Path) -> None:
        (root / path).unlink()
        os.mkfifo(root / path)

    return change


def grown(path: str, size: int) -> Edit:
    """Far more bytes than there should be, none of them on the disk."""

    def change(root: Path) -> None:
        with (root / path).open("ab") as stream:
            stream.truncate(size)

    return change


def raw(path: str, edit: Callable[[bytes], bytes]) -> Edit:
    return lambda root: (root / path).write_bytes(edit((root / path).read_bytes()))


def relocked(**changes: object) -> Edit:
    """Another lock beside the same verdict."""

    def change(root: Path) -> None:
        lock: Lock = msgspec.structs.replace(read_lock(root / LOCK_FILE), **changes)
        (root / LOCK_FILE).write_text(lock_text(lock))

    return change


def judged(**changes: object) -> Edit:
    """Another judgement, with the verdict's own digest corrected."""

    def change(root: Path) -> None:
        folder = art(root, "verdict")
        found = json.loads((folder / store.MANIFEST).read_bytes())["judgement"]
        reencode(folder, judgement=found | changes)

    return change


def config(old: str, new: str) -> Edit:
    return swapped(".reprune/promoter/config.yaml", old, new)


def demand(text: str) -> Edit:
    return added(
        ".reprune/promoter/config.yaml",
        f"minimum_policy: {{targets: {{ort-cpu: required}}, {text}}}\n",
    )


# --- the registry --------------------------------------------------------------------------------


def model(root: Path) -> Path:
    return root / "registry" / "digits-compressed"


def version_tags(
    root: Path, version: str, edit: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    """The tags edited as whoever knows the files' own check would do it."""
    path = model(root) / version / "version.json"
    found = json.loads(path.read_bytes())
    path.write_bytes(sealed(found | {"tags": edit(found["tags"])}))


def sealed(version: dict[str, Any]) -> bytes:
    """A version's small file, with the check that damage would not have."""
    content = _Version(tags=version["tags"], stamp=version["stamp"])
    return canonical(msgspec.structs.replace(content, check=_check_of(content))) + b"\n"


def tagged(version: str, **tags: str) -> Edit:
    """Tags as `reprune_promoted="x"`; an empty value deletes one."""
    named = {key.replace("_", ".", 1): value for key, value in tags.items()}

    def edit(found: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in (found | named).items() if value}

    return lambda root: version_tags(root, version, edit)


def aliased(version: str | None, alias: str = "champion") -> Edit:
    """The alias, set or deleted by hand."""

    def change(root: Path) -> None:
        path = model(root) / "aliases.json"
        found = json.loads(path.read_bytes()) if path.exists() else {}
        kept = {name: value for name, value in found.items() if name not in (alias, "#check")}
        aliases = kept | ({} if version is None else {alias: version})
        path.write_bytes(canonical({**aliases, "#check": digest_of(aliases)}) + b"\n")

    return change


def stranger(version: str, copy_of: str = "") -> Edit:
    """A version that somebody else put there: empty, or with the files and tags of one of ours."""

    def change(root: Path) -> None:
        target = model(root) / version
        if copy_of:
            shutil.copytree(model(root) / copy_of, target)
            found = json.loads((target / "version.json").read_bytes())
            (target / "version.json").write_bytes(sealed(found | {"stamp": "f" * 32}))
            return
        (target / "files").mkdir(parents=True)
        (target / "files" / "w").write_bytes(b"x")
        (target / "version.json").write_bytes(sealed({"tags": {}, "stamp": "f" * 32}))

    return change


def stored(version: str, file: str = RECEIPT_FILE) -> str:
    """The path of a registered file."""
    return f"registry/digits-compressed/{version}/files/{file}"


def resigned(version: str, signer: CryptoSigner = MALLORY, **changes: object) -> Edit:
    """A receipt that says something else, signed by whoever has `signer`, with tags that agree."""

    def change(root: Path) -> None:
        path = root / stored(version)
        found = decode(path.read_bytes(), where="r").statement
        told: Statement = msgspec.structs.replace(
            found, predicate=msgspec.structs.replace(found.predicate, **changes)
        )
        content = receipts.sign(told, signer)
        path.write_bytes(content)
        stated = tags_of(decode(content, where="r"))
        version_tags(root, version, lambda tags: tags | stated)

    return change


def envelope(path: str, edit: Callable[[dict[str, Any]], object]) -> Edit:
    """The envelope of a receipt edited; tags keep naming the old one."""

    def change(root: Path) -> None:
        found = json.loads((root / path).read_bytes())
        edit(found)
        (root / path).write_bytes(canonical(found) + b"\n")

    return change


def payload(path: str, edit: Callable[[dict[str, Any]], object]) -> Edit:
    """What is signed edited, under the old signature."""

    def inner(found: dict[str, Any]) -> None:
        told = json.loads(base64.b64decode(found["payload"]))
        edit(told)
        found["payload"] = base64.b64encode(canonical(told)).decode()

    return envelope(path, inner)


def redigested(name: str, file: str, edit: Callable[[Any], Any]) -> Edit:
    """A JSON file of an artefact edited, with the digests of its folder corrected."""

    def change(root: Path) -> None:
        path = art(root, name) / file
        path.write_bytes(canonical(edit(json.loads(path.read_bytes()))))
        redigest(art(root, name))

    return change


def policied(**changes: object) -> Edit:
    """A weaker policy in the verdict, corrected everywhere in there."""

    def change(root: Path) -> None:
        redigested("verdict", "policy.json", lambda found: found | changes)(root)
        found = json.loads((art(root, "verdict") / "policy.json").read_bytes())
        reencode(art(root, "verdict"), policy=digest_of(found))

    return change
