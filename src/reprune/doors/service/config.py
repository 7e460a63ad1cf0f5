"""The file that `reprune serve` is started with. It holds no secret and no policy: only where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from reprune.core.documents import Document, read_yaml
from reprune.core.errors import InputError
from reprune.core.lock import Name
from reprune.doors.service.signatures import MAX_SECRETS
from reprune.orchestrate.notify import Hooks, refuse_twins, secret_texts
from reprune.orchestrate.reconcile_watch import WATCHES_FILE, PinnedImage, Watches

MIN_SECRET_BYTES = 16
MAX_SECRET_BYTES = 4096

File = Annotated[str, Meta(min_length=1, max_length=4000)]


class Webhook(Document, kw_only=True):
    """Who may wake the service: whoever signs with a secret that lies in one of the files (one each, so
    that a secret can be changed while both are good). Deliveries older than `window_s` are refused.
    """

    secret_files: Annotated[tuple[File, ...], Meta(min_length=1, max_length=MAX_SECRETS)]
    window_s: Annotated[float, Meta(ge=60.0, le=3600.0)] = 300.0
    max_body_bytes: Annotated[int, Meta(ge=1024, le=16_000_000)] = 1_000_000


class Kubeflow(Document, kw_only=True):
    """Kubeflow Pipelines, for watches in mode `run`; as the flags and variables of `reprune submit`."""

    host: Annotated[str, Meta(min_length=1)]
    ui: str = ""
    token_file: str = ""
    ca_file: str = ""
    timeout_s: Annotated[float, Meta(ge=1.0, le=120.0)] = 20.0


class GitHub(Document, kw_only=True):
    """Where the events of watches in mode `pull-request` are sent, and the token that may."""

    api: str = "https://api.github.com"
    token_file: File


class ModelRuns(Document, kw_only=True):
    """What the runs of one model are started with beyond its watch. `control_image` is the project's
    other image (empty: the watch's); `pipeline` is a package that `reprune compile` wrote (empty: the one
    that comes with Reprune, for a set `perception`), `machines` a file as `reprune submit --machines`
    takes, both in the project of the watch's image if they are there, and else beside this
    configuration; `settings` are other parameters of the pipeline.
    """

    control_image: PinnedImage = ""
    pipeline: str = ""
    machines: str = ""
    settings: dict[str, str] = {}


class ServiceConfig(Document, kw_only=True):
    """The whole file; paths are relative to it.

    `projects` is a folder that holds, by the 64 digits of its digest, the /project folder of every image
    that a watch names. `registry_secret` is a folder with `username` and `password`, or `token`.
    `state` is where memories are kept between starts; losing them costs time. `hooks` are told how
    versions ended, and what holds one up.
    """

    schema: Literal[1] = 1
    watches: File = WATCHES_FILE
    projects: File
    webhook: Webhook | None = None
    kubeflow: Kubeflow | None = None
    github: GitHub | None = None
    registry_secret: str = ""
    # By the registry's uri, instead of `registry_secret`: each gets its own and sees no other.
    registry_secrets: dict[str, File] = {}
    state: str = ""
    runs: dict[Name, ModelRuns] = {}
    hooks: Hooks = ()

    def __post_init__(self) -> None:
        """Refuses two hooks of one name."""
        refuse_twins(self.hooks)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration with its watches, each checked against the other. `root` is its folder."""

    config: ServiceConfig
    watches: Watches
    root: Path

    def path(self, text: str) -> Path:
        """A path of the file as one that can be opened."""
        return self.root / text

    def registry_secret(self, uri: str) -> Path | None:
        """The folder with what this registry asks for; None where it asks for nothing."""
        given = self.config.registry_secrets.get(uri, self.config.registry_secret)
        return self.path(given) if given else None

    def secrets(self) -> tuple[bytes, ...]:
        """The webhook secrets as they are now. Raises InputError, without showing any of them."""
        if self.config.webhook is None:
            raise InputError(
                "the service does not start without a webhook secret",
                where="webhook.secret_files",
                fix="name the file that holds it, the same that the webhook was created with",
            )
        return tuple(_secret(self.path(name)) for name in self.config.webhook.secret_files)

    def confidential(self) -> tuple[str, ...]:
        """Every text that no log may show, as far as it can be read now."""
        files = [*(self.config.webhook.secret_files if self.config.webhook else ())]
        files += [each.token_file for each in (self.config.kubeflow, self.config.github) if each]
        for folder in (self.config.registry_secret, *self.config.registry_secrets.values()):
            files += [f"{folder}/{name}" for name in ("password", "token") if folder]
        found = []
        for name in filter(None, files):
            try:
                raw = self.path(name).read_bytes()
            except OSError:
                continue
            # Bytes that are no text would be shown as their escapes.
            found.append(raw.decode("utf-8", "backslashreplace").strip())
        found += secret_texts(self.config.hooks, self.root)
        # The longest first: another may be its beginning.
        return tuple(sorted((each for each in found if len(each) >= 6), key=len, reverse=True))


def read_settings(path: Path) -> Settings:
    """The configuration at `path` and its watches. Raises DocumentError or InputError."""
    if not path.exists():
        raise InputError(
            "there is no such file",
            where=str(path),
            fix="docs/serve.md shows what to write into it",
        )
    config = read_yaml(path, ServiceConfig)
    root = path.parent
    if not (root / config.watches).exists():
        raise InputError(
            "there is no such file",
            where=str(root / config.watches),
            fix=f"it holds the watches; `watches` in {path.name} names it, docs/serve.md shows one",
        )
    watches = read_yaml(root / config.watches, Watches)
    modes = {watch.mode for watch in watches.watches}
    needs: Mapping[str, object] = {"run": config.kubeflow, "pull-request": config.github}
    words = {"run": "kubeflow", "pull-request": "github"}
    for mode in sorted(modes):
        if needs[mode] is None:
            raise InputError(f"a watch in mode {mode} needs `{words[mode]}`", where=str(path))
    names = {watch.name for watch in watches.watches}
    for name in sorted(set(config.runs) - names):
        raise InputError(f"nobody watches '{name}'", where=f"{path} (runs.{name})")
    uris = {watch.registry.uri for watch in watches.watches}
    for uri in sorted(set(config.registry_secrets) - uris):
        raise InputError(f"nobody watches '{uri}'", where=f"{path} (registry_secrets)")
    return Settings(config=config, watches=watches, root=root)


def _secret(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_SECRET_BYTES + 1).strip(b"\r\n")
    except OSError as error:
        raise InputError(
            f"the webhook secret cannot be read: {error.strerror}", where=str(path)
        ) from error
    if not MIN_SECRET_BYTES <= len(raw) <= MAX_SECRET_BYTES:
        raise InputError(
            f"a webhook secret has {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes",
            where=str(path),
            fix="make one: openssl rand -hex 32",
        )
    return raw
