"""One thing that is wrong with a compiled pipeline."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """`where` names the task, component or executor; `what` is a sentence about it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"
