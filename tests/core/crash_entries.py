"""Overrides to be written and read."""

from __future__ import annotations

from datetime import date

from reprune.core.overrides import Override


def entry(number: int) -> Override:
    digest = "sha256:" + f"{number:064x}"
    return Override(
        by="Ada",
        reason=f"reason {number}",
        expires=date(2026, 1, 1),
        rules=("accuracy",),
        verdict=digest,
        candidate=digest,
        policy=digest,
    )
