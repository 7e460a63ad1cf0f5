"""Files of MLflow versions: where they lie, what is there, and bringing them here."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from reprune.core.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ADDED_BY_MLFLOW = "registered_model_meta"


def source_uri(client: MlflowClient, name: str, version: str) -> str:
    """Where the files of a version lie; a logged model is looked up for what it points to."""
    uri = str(client.get_model_version_download_uri(name, version))
    if uri.startswith("models:/"):
        uri = str(client.get_logged_model(uri.removeprefix("models:/")).artifact_location)
    return uri.rstrip("/")


def holds(source: str, part: PurePosixPath, tracking_uri: str) -> bool:
    """Asked of the listing: what a failed download says differs from store to store."""
    from mlflow.artifacts import list_artifacts

    folder = source if str(part.parent) == "." else f"{source}/{part.parent}"
    listed = list_artifacts(artifact_uri=folder, tracking_uri=tracking_uri)
    return part.name in {PurePosixPath(each.path).name for each in listed}


def download(uri: str, scratch: Path, tracking_uri: str) -> Path:
    """Downloads a file or folder into `scratch`; returns where it came to lie."""
    from mlflow.artifacts import download_artifacts

    return Path(
        download_artifacts(artifact_uri=uri, dst_path=str(scratch), tracking_uri=tracking_uri)
    )


def refuse_links(folder: Path) -> None:
    """Returns only if nothing at or below `folder` is a link. Raises RegistryError."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_symlink():
            raise RegistryError("a version may not hold links", where=str(path))


def move(found: Path, target: Path) -> None:
    """Moves a downloaded file or folder to `target`, beside what is there already."""
    if found.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        found.replace(target)
        return
    for path in sorted(found.rglob("*")):
        if path.is_file() and path.name != ADDED_BY_MLFLOW:
            place = target / path.relative_to(found)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
