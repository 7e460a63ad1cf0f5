"""What `reprune serve` watches: models by identity, and with what a new version of each is answered.

A watch holds no policy. What is demanded of a candidate lies in the project image (or the repository),
so that git stays the one truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from reprune.core.documents import Document
from reprune.core.lock import Name
from reprune.core.params import MaxBytes, MaxFiles

WATCHES_FILE = "watches.yaml"
COMPRESSED = "-compressed"

PinnedImage: TypeAlias = Annotated[str, Meta(pattern=r"^([^\s@]+@sha256:[0-9a-f]{64})?$")]
Repository: TypeAlias = Annotated[str, Meta(pattern=r"^([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)?$")]
MachineKind: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Seconds: TypeAlias = Annotated[float, Meta(ge=1.0, le=604_800.0)]
Key: TypeAlias = tuple[str, str, str]


class WatchedRegistry(Document, kw_only=True):
    """As `registry` in params.yaml, for the service's own reads.

    `artifacts` may lie elsewhere than it does for the steps of a run; relative paths are from the
    service's own configuration.
    """

    kind: str = "mlflow"
    uri: Annotated[str, Meta(min_length=1, max_length=2000)]
    workspace: Annotated[str, Meta(min_length=1, max_length=200)] = "default"
    artifacts: Annotated[str, Meta(max_length=2000)] = ""
    max_bytes: MaxBytes = 20 * 2**30
    max_files: MaxFiles = 10_000

    def __post_init__(self) -> None:
        """Refuses what its kind can never open."""
        if self.kind != "kubeflow":
            return
        if not self.artifacts:
            raise ValueError(
                "a registry of kind kubeflow keeps no files: name their folder in `artifacts`"
            )
        if self.workspace != "default":
            raise ValueError("a registry of kind kubeflow has one `workspace`, 'default'")


class Watch(Document, kw_only=True):
    """One watched model. Versions registered after `since` count, of which the newest is run.

    With `mode: run` a run of the project `image` is submitted to `experiment` in `namespace`, as
    `service_account`; one that ends without a verdict is retried at most `attempts` times, first after
    about `retry_first_s`, then after twice as long each time, at most `retry_longest_s`. While it runs, no
    other run has any of its `machine_kinds`. With `mode: pull-request` the `repository` is told instead.
    The registry is looked at every `poll_s` seconds at least. A set has `members` as in params.yaml: a new
    version of any of them, beside the newest of the others, is a new version of the set.
    """

    registry: WatchedRegistry
    name: Name
    members: dict[Name, Name] = {}
    since: Annotated[datetime, Meta(tz=True)]
    mode: Literal["run", "pull-request"] = "run"
    image: PinnedImage = ""
    namespace: str = ""
    experiment: str = ""
    service_account: str = ""
    machine_kinds: tuple[MachineKind, ...] = ()
    repository: Repository = ""
    attempts: Annotated[int, Meta(ge=0, le=20)] = 2
    poll_s: Annotated[float, Meta(ge=10.0, le=86_400.0)] = 300.0
    retry_first_s: Seconds = 300.0
    retry_longest_s: Seconds = 14_400.0

    def __post_init__(self) -> None:
        """Refuses a watch that could not work, or that would answer a version twice."""
        if self.name.endswith(COMPRESSED):
            raise ValueError(
                f"'{self.name}' is where Reprune itself registers: name the dense model"
            )
        if self.name in self.members.values() or any(
            model.endswith(COMPRESSED) for model in self.members.values()
        ):
            raise ValueError(f"'{self.name}': members are the dense models that the set is made of")
        needed: tuple[str, ...]
        forbidden: tuple[str, ...]
        if self.mode == "run":
            needed, forbidden = ("image", "experiment"), ("repository",)
        else:
            needed = ("repository",)
            forbidden = ("image", "experiment", "namespace", "service_account", "machine_kinds")
        missing = [each for each in needed if not getattr(self, each)]
        if missing:
            raise ValueError(f"'{self.name}': mode {self.mode} needs `{missing[0]}`")
        idle = [each for each in forbidden if getattr(self, each)]
        if idle:
            raise ValueError(f"'{self.name}': mode {self.mode} has no use for `{idle[0]}`")
        if self.retry_longest_s < self.retry_first_s:
            raise ValueError(f"'{self.name}': `retry_longest_s` is below `retry_first_s`")

    @property
    def key(self) -> Key:
        return (self.registry.uri, self.registry.workspace, self.name)

    @property
    def label(self) -> str:
        return f"{self.registry.uri} {self.registry.workspace}/{self.name}"


class Watches(Document, kw_only=True):
    """The whole file. At most `concurrency` runs are active at a time, over all watches."""

    schema: Literal[1] = 1
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 4
    watches: Annotated[tuple[Watch, ...], Meta(min_length=1, max_length=1000)]

    def __post_init__(self) -> None:
        """Refuses two watches of one model, which would be answered twice, and two of one name whose runs
        lie in one namespace, where nothing but the name tells them apart.
        """
        seen: set[Key] = set()
        runs: set[tuple[str, str]] = set()
        for watch in self.watches:
            if watch.key in seen:
                raise ValueError(f"'{watch.name}' is watched twice")
            seen.add(watch.key)
            where = (watch.name, watch.namespace)
            if watch.mode == "run" and where in runs:
                raise ValueError(
                    f"two models called '{watch.name}' have their runs in one namespace: "
                    "give one of them a `namespace` of its own"
                )
            if watch.mode == "run":
                runs.add(where)


def woken(watches: Iterable[Watch], *, uri: str, workspace: str, name: str) -> tuple[Watch, ...]:
    """The watches that an event about the model `name` concerns.

    None for what Reprune registered itself, and none for a model that nobody watches. What the event
    says beyond the name is not believed: it only makes somebody look.
    """
    return tuple(
        watch
        for watch in watches
        if watch.key[:2] == (uri, workspace)
        and (name in watch.members.values() if watch.members else name == watch.name)
    )
