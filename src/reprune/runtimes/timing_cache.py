"""TensorRT's timing cache: what an earlier build measured of each tactic, kept for its like only.

A cache of another device, driver or version is a hard error of the builder, or worse, believed. So it is
found by a key of all that it depends on, never loaded in spite of a mismatch, and what cannot be used
is left out: a build without it costs time and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprune.core.documents import digest_of
from reprune.core.errors import BuildError, RepruneError
from reprune.core.store import write_bytes

FOLDER = "timing-caches"
PIN = "sha256:"


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """Which file, and what it must be: `pin` is the sha256 that its bytes must have ("" for any)."""

    path: Path
    pin: str = ""


@dataclass(frozen=True, kw_only=True)
class Attached:
    """What became of it: the notes that the engine's record takes."""

    notes: tuple[str, ...]


def cache_path(root: Path, facts: Mapping[str, str]) -> Path:
    """The file for a builder that `facts` describe: versions, device, driver, knobs."""
    return root / FOLDER / f"{digest_of(dict(facts)).removeprefix(PIN)[:32]}.cache"


def pinned_path(root: Path, pin: str) -> Path:
    """The file of the cache that `pin` names: by its content alone, for the one that the next build finds
    grows with every build.
    """
    return root / FOLDER / f"{pin.removeprefix(PIN)}.cache"


def attach(config: Any, plan: CachePlan) -> Attached:
    """Gives the builder's config the cache of `plan`, or a fresh one with a note saying why.

    Raises BuildError where it is pinned and is not there, or is another one.
    """
    blob = _read(plan)
    if blob and _set(config, blob):
        return Attached(notes=())
    if plan.pin:
        raise BuildError(
            "the pinned timing cache is of another device or version of TensorRT, and was refused",
            where=str(plan.path),
            fix="pin one that was made on this machine, or take the pin out (timing_cache)",
        )
    _set(config, b"")
    refused = "the stored timing cache could not be used and was replaced by a fresh one"
    return Attached(notes=(refused,) if blob else ())


def keep(config: Any, plan: CachePlan) -> str:
    """Writes what the build added to the cache, and a copy that can be pinned; its sha256, "" where there is
    none.

    Raises BuildError where the cache is pinned and the build needed more than it held. One that cannot
    be written costs only time.
    """
    cache = config.get_timing_cache()
    blob = b"" if cache is None else bytes(cache.serialize())
    digest = f"{PIN}{hashlib.sha256(blob).hexdigest()}" if blob else ""
    if plan.pin:
        if digest != plan.pin:
            raise BuildError(
                "the build measured tactics that the pinned timing cache does not hold, so that another "
                f"build may choose others; the cache would now be {digest or 'empty'}",
                where=str(plan.path),
                fix="pin the cache that such a build leaves, after it was judged",
            )
        return digest
    if blob:
        try:
            plan.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(plan.path, blob)
            write_bytes(pinned_path(plan.path.parent.parent, digest), blob)
        except (OSError, RepruneError):
            return digest
    return digest


def _read(plan: CachePlan) -> bytes:
    try:
        blob = plan.path.read_bytes()
    except OSError as error:
        if plan.pin:
            raise BuildError(
                "there is no timing cache to pin here",
                where=str(plan.path),
                fix="build once without `timing_cache`, and pin the digest that the engine's record shows",
            ) from error
        return b""
    found = f"{PIN}{hashlib.sha256(blob).hexdigest()}"
    if plan.pin and found != plan.pin:
        raise BuildError(
            f"the timing cache is not the pinned one: its digest is {found}",
            where=str(plan.path),
            fix="bring the pinned cache here, or pin this one once a build from it was judged",
        )
    return blob


def _set(config: Any, blob: bytes) -> bool:
    """Whether the builder took it; a corrupt one is refused by None, False or an exception."""
    try:
        cache = config.create_timing_cache(blob)
        return cache is not None and bool(config.set_timing_cache(cache, ignore_mismatch=False))
    except (RuntimeError, ValueError, TypeError):
        return False
