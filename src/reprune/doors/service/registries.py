"""A watched registry as the reconciler and the hooks look at it, and hosts that nobody waits for twice.

Whatever else an adapter raises becomes an error of its own watch, so that no watch stops another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reprune.core import params
from reprune.core.documents import canonical
from reprune.core.errors import (
    OrchestratorUnreachable,
    RegistryError,
    RegistryUnreachable,
    RepruneError,
)
from reprune.doors.service.config import Settings
from reprune.doors.service.credentials import Introduced, introduced
from reprune.doors.service.logs import crashed, say
from reprune.orchestrate.reconcile_actions import Close
from reprune.orchestrate.reconcile_seen import Dense, RegistrySeen, Row
from reprune.orchestrate.reconcile_watch import Key, Watch
from reprune.registry import tags
from reprune.registry.compressed import compressed_name
from reprune.registry.open import open_registry
from reprune.registry.protocol import (
    ANCHOR,
    CHAMPION,
    Registry,
    VersionInfo,
    known_alias,
    known_versions,
)
from reprune.registry.remembered import Known, Remembered
from reprune.registry.sets import set_versions

_OUTCOMES = ("pass", "block", "inconclusive", "error")


@contextmanager
def contained(watch: Watch) -> Iterator[None]:
    """Lets through what Reprune raises on purpose; anything else is logged and said to be a crash."""
    try:
        yield
    except RepruneError:
        raise
    except Exception as error:
        crashed("a watch crashed", model=watch.name)
        raise RepruneError(f"crashed: {type(error).__name__}", where=watch.label) from error


@dataclass
class Patience:
    """Remembers which hosts did not answer at all, so that each is waited for once a sweep.

    An answer that is no good may be so for one model only: the others are asked all the same.
    """

    _down: dict[str, RepruneError] = field(default_factory=dict)

    @contextmanager
    def asking(self, host: str) -> Iterator[None]:
        """Raises at once what asking this host raised last."""
        last = self._down.get(host)
        if last is not None:
            raise type(last)(last.what, where=last.where, fix=last.fix)
        try:
            yield
        except (RegistryUnreachable, OrchestratorUnreachable) as error:
            if error.silent:
                self._down[host] = error
            raise

    def forget(self) -> None:
        """From now on every host is asked again."""
        self._down.clear()


@dataclass(frozen=True, kw_only=True)
class Registries:
    """See reprune.orchestrate.reconcile_ports.RegistryView."""

    settings: Settings
    patience: Patience
    # Of each watched model, by the watch's key: only the sweeps' thread comes here.
    known: dict[Key, Known] = field(default_factory=dict)

    def look(self, watch: Watch) -> RegistrySeen:
        """All that is registered now."""
        with contained(watch), self.patience.asking(watch.registry.uri):
            registry = self.open(watch)
            dense = (
                set_versions(registry, watch.name, watch.members)
                if watch.members
                else known_versions(registry, watch.name)
            )
            compressed = compressed_name(watch.name)
            return RegistrySeen(
                dense=tuple(_dense(registry, each) for each in dense),
                rows=tuple(row(each) for each in known_versions(registry, compressed)),
                champion=known_alias(registry, compressed, CHAMPION),
                anchor=known_alias(registry, compressed, ANCHOR),
            )

    def close(self, watch: Watch, close: Close) -> None:
        """Adds one row that says so."""
        with (
            contained(watch),
            self.patience.asking(watch.registry.uri),
            tempfile.TemporaryDirectory(prefix="reprune-") as folder,
        ):
            note = {"closes": close.versions, "state": close.state, "why": close.why}
            (Path(folder) / "closed.json").write_bytes(canonical(note) + b"\n")
            marks = {
                tags.CLOSED: close.state,
                tags.CLOSES: " ".join(close.versions),
                tags.WHY: close.why[:500],
            }
            version = self.open(watch).register(compressed_name(watch.name), Path(folder), marks)
        say(
            "versions were closed",
            model=watch.name,
            version=" ".join(close.versions),
            state=close.state,
            why=close.why,
            compressed_version=version,
        )

    def open(self, watch: Watch, project: params.Registry | None = None) -> Registry:
        """The registry of a watch, with the credentials as they are at each call, and with the narrower
        limits where those of its project are given. No thread speaks to another one meanwhile where they
        differ in what the environment has to say.
        """
        config, given = self.settings.config, watch.registry
        narrower = project or given
        opened = params.Registry(
            kind=given.kind,
            uri=given.uri,
            workspace=given.workspace,
            artifacts=given.artifacts,
            max_bytes=min(given.max_bytes, narrower.max_bytes),
            max_files=min(given.max_files, narrower.max_files),
        )
        known = self.known.setdefault(watch.key, Known())
        secret = bool(config.registry_secret or config.registry_secrets)
        every = self.settings.watches.watches
        if not secret and all(each.registry.workspace == "default" for each in every):
            return Remembered(open_registry(opened, self.settings.root), watch.name, known)
        folder = self.settings.registry_secret(given.uri)
        with introduced(folder, given=secret):
            remembered = Remembered(open_registry(opened, self.settings.root), watch.name, known)
        return Introduced(inner=remembered, folder=folder, given=secret)


def row(info: VersionInfo) -> Row:
    """What the tags of a version of `<name>-compressed` say of it; what they do not say right, is empty."""
    said = info.tags
    outcome = said.get(tags.OUTCOME, "")
    closed = said.get(tags.CLOSED, "")
    attempt = said.get(tags.ATTEMPT, "")
    return Row(
        version=info.version,
        parent=said.get(tags.PARENT, ""),
        lock=said.get(tags.LOCK, ""),
        verdict=said.get(tags.VERDICT, "") if outcome in _OUTCOMES else "",
        outcome=outcome if outcome in _OUTCOMES else "",  # type: ignore[arg-type]  # just compared
        attempt=int(attempt) if attempt.isdecimal() and len(attempt) < 10 else 0,
        waived=tags.WAIVER in said,
        dry_run=tags.DRY_RUN in said,
        promoted=tags.PROMOTED in said,
        closed=closed if closed in ("error", "superseded") else "",  # type: ignore[arg-type]  # as above
        closes=tuple(said.get(tags.CLOSES, "").split()),
    )


def _dense(registry: Registry, info: VersionInfo) -> Dense:
    if info.registered_s is None:
        raise RegistryError(
            "does not say when a version was registered, so nothing is after `since`",
            where=f"{registry.identity}: {info.name} version {info.version}",
        )
    return Dense(version=info.version, registered_s=info.registered_s)
