"""Which verdict counts for a lock: the first that was registered. One rule, for every reader and writer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Judging(Protocol):
    """A version that was judged, or not: then one of the two is empty."""

    @property
    def lock(self) -> str:
        """The digest of the lock."""

    @property
    def verdict(self) -> str:
        """The digest of the verdict."""


R = TypeVar("R", bound=Judging)


def accepted(rows: Iterable[R]) -> dict[str, R]:
    """Lock to the row whose verdict is the accepted one; `rows` are in the registry's order, oldest first.

    Rows are only ever added at the end, so what is accepted once stays it. The same verdict may be
    registered again; another one of the same lock changes nothing, whatever it says.
    """
    first: dict[str, R] = {}
    for row in rows:
        if row.lock and row.verdict:
            first.setdefault(row.lock, row)
    return first
