"""A model's versions, listed as a whole once in a while and from the newest known one on in between.

Listing ten thousand versions costs a registry seconds. A version never changes its number, its stamp or
its time; only its tags do, so this is for whoever reads none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from reprune.registry.protocol import Registry, VersionInfo

# So long may a version that was deleted still be listed, unless it was the newest.
WHOLE_S = 3600.0
# So many of the newest are listed each time: one of them may have been deleted, or have come into being
# after the one behind it.
OVERLAP = 20


@runtime_checkable
class ListsFrom(Protocol):
    """A registry that can list the end of a long list."""

    def versions_from(self, name: str, first: str) -> tuple[VersionInfo, ...]:
        """As `versions`, without those whose number is below `first`."""


@dataclass
class Known:
    """What was listed of one model, and when it was listed as a whole. `clock` never runs backwards."""

    clock: Callable[[], float] = time.monotonic
    versions: tuple[VersionInfo, ...] = ()
    whole_s: float = field(default=float("-inf"))


@dataclass(frozen=True)
class Remembered:
    """`inner`, with the versions of the model `name` taken from `known` as far as they are in there.

    Their tags are those of when they were first listed. All else is as `inner` promises.
    """

    inner: Registry
    name: str
    known: Known

    @property
    def identity(self) -> str:
        """As `inner`."""
        return self.inner.identity

    @property
    def workspace(self) -> str:
        """As `inner`."""
        return self.inner.workspace

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        """As `inner`, but versions of `name` that were deleted may be listed for up to `WHOLE_S`."""
        if name != self.name:
            return self.inner.versions(name)
        known, now_s = self.known, self.known.clock()
        old = known.versions
        if old and now_s - known.whole_s < WHOLE_S and isinstance(self.inner, ListsFrom):
            kept, newest = old[:-OVERLAP], (old[-1].version, old[-1].stamp)
            end = self.inner.versions_from(name, old[-OVERLAP:][0].version)
            # Else the newest one was deleted, or this is another registry than before.
            if newest in [(each.version, each.stamp) for each in end]:
                known.versions = kept + end
                return known.versions
        # Should this fail, what was known is not trusted any more.
        known.versions = ()
        known.versions = self.inner.versions(name)
        known.whole_s = now_s
        return known.versions

    def fetch(self, name: str, version: str, destination: Path, *, part: str = "") -> None:
        """As `inner`."""
        self.inner.fetch(name, version, destination, part=part)

    def register(self, name: str, folder: Path, tags: Mapping[str, str]) -> str:
        """As `inner`."""
        return self.inner.register(name, folder, tags)

    def alias(self, name: str, alias: str) -> str | None:
        """As `inner`."""
        return self.inner.alias(name, alias)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """As `inner`."""
        self.inner.set_alias(name, alias, version)

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """As `inner`."""
        self.inner.set_tags(name, version, tags)
