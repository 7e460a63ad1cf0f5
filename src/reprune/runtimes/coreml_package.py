"""An .mlpackage, which is a folder, as one file: a zip that holds the same bytes for the same model."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from pathlib import Path
from typing import Final

from reprune.core.errors import BuildError

AUTHOR: Final = "com.apple.CoreML"
MODEL: Final = f"Data/{AUTHOR}/model.mlmodel"
WEIGHTS: Final = f"Data/{AUTHOR}/weights/weight.bin"
MANIFEST: Final = "Manifest.json"
# The earliest time that a zip can tell.
_TIME: Final = (1980, 1, 1, 0, 0, 0)
_WHOLE: Final = ({MANIFEST, MODEL}, {MANIFEST, MODEL, WEIGHTS})


def pack(model: bytes, weights: bytes | None) -> bytes:
    """The package of a serialised model and its weights, None for one without any.

    Its items are named by their paths instead of at random. Weights are not compressed, so that the
    file is as large as what a device holds.
    """
    files = {MANIFEST: _manifest(has_weights=weights is not None), MODEL: model}
    if weights is not None:
        files[WEIGHTS] = weights
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _TIME), content)
    return packed.getvalue()


def unpack(content: bytes, *, where: str) -> dict[str, bytes]:
    """The package's files by their paths. Raises BuildError for a file that is not whole, or holds others."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if set(names) in _WHOLE and len(names) == len(set(names)):
                return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise BuildError(
            f"this package is damaged: {error}", where=where, fix="build the engine again"
        ) from error
    raise BuildError(
        "this is no package of a Core ML model", where=where, fix="build the engine again"
    )


def write_folder(content: bytes, folder: Path, *, where: str) -> Path:
    """Unpacks below `folder`: the .mlpackage that Core ML reads. Raises BuildError as unpack."""
    package = folder / "model.mlpackage"
    for name, data in unpack(content, where=where).items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return package


def _manifest(*, has_weights: bool) -> bytes:
    items = [(f"{AUTHOR}/model.mlmodel", "model.mlmodel", "CoreML Model Specification")]
    if has_weights:
        items.append((f"{AUTHOR}/weights", "weights", "CoreML Model Weights"))
    named = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, path)): {
            "author": AUTHOR,
            "description": description,
            "name": name,
            "path": path,
        }
        for path, name, description in items
    }
    told = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": named,
        "rootModelIdentifier": str(uuid.uuid5(uuid.NAMESPACE_URL, items[0][0])),
    }
    return json.dumps(told, indent=4, sort_keys=True).encode()
