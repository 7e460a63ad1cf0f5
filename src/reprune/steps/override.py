"""`reprune override`: writes down who lets a candidate through, why, until when, and past which rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NoReturn

import msgspec

from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.errors import OverrideRefused, nearest
from reprune.core.overrides import (
    MAX_DAYS,
    OVERRIDES_FILE,
    Override,
    days_left,
    not_held,
    overrides_text,
    read_overrides,
)
from reprune.core.step import exclusive
from reprune.core.store import Artifact


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks for; no `rules` means every required rule that did not hold."""

    by: str
    reason: str
    expires: str
    rules: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Overridden:
    """What was written. `uncovered` are rules that did not hold and that the entry leaves standing."""

    entry: Override
    changed: bool
    uncovered: tuple[str, ...]


def override(root: Path, verdict: Path, request: Request, *, now: float) -> Overridden:
    """Afterwards the overrides file below `root` holds the entry; the same request again changes nothing.

    It promotes nothing: `reprune promote` does, where the promoter allows it. `now` is Unix time.
    Raises OverrideRefused for what no promoter could accept, Busy while another one writes, ArtifactError or
    DocumentError.
    """
    judged = store.read(verdict, Verdict)
    failed = _overridable(judged)
    rules = tuple(dict.fromkeys(request.rules)) or failed
    for rule in rules:
        if rule not in failed:
            _refuse(
                f"'{rule}' is no rule that did not hold; {nearest(rule, failed)}",
                fix=f"what did not hold: {', '.join(failed)}",
            )
    entry = Override(
        by=_said(request.by, "--by"),
        reason=_said(request.reason, "--reason"),
        expires=_expiry(request.expires, now),
        rules=rules,
        verdict=judged.digest,
        candidate=judged.manifest.parents["candidate"],
        policy=judged.manifest.policy,
    )
    changed = _written(root / OVERRIDES_FILE, entry)
    uncovered = tuple(rule for rule in failed if rule not in rules)
    return Overridden(entry=entry, changed=changed, uncovered=uncovered)


def _written(path: Path, entry: Override) -> bool:
    """Afterwards the file holds the entry beside all that it held; False where it did already."""
    # Read and written under one lock: of two at once, the later would write the file without the other's.
    with exclusive(f"overrides:{path.resolve()}", what=f"another override is writing {path}"):
        held = read_overrides(path)
        if entry in held.overrides:
            return False
        grown = msgspec.structs.replace(held, overrides=(*held.overrides, entry))
        store.write_bytes(path, overrides_text(grown).encode())
        return True


def _overridable(judged: Artifact[Verdict]) -> tuple[str, ...]:
    """The rules that an override of this verdict can name; there is at least one."""
    judgement, where = judged.manifest.judgement, str(judged.path)
    if "candidate" not in judged.manifest.parents:
        _refuse("names no candidate, so no gate wrote it", where, "run `dvc repro` again")
    if judgement.outcome == "pass":
        _refuse("passed: there is nothing to override", where, "run `reprune promote`")
    if judgement.outcome == "error":
        _refuse(
            "is an error: what could not be judged cannot be overridden",
            where,
            "repair what the verdict names, then `dvc repro`",
        )
    if judgement.dry_run is True:
        _refuse(
            "is of a dry run, which promotes nothing",
            where,
            "set `mode: enforce` in policy.yaml and judge again",
        )
    failed = not_held(judgement)
    if not failed:
        _refuse(
            "names no rule that did not hold: nothing was judged at all",
            where,
            "let policy.yaml demand something that can be judged without a champion",
        )
    return failed


def _said(text: str, flag: str) -> str:
    found = " ".join(text.split())
    if not found:
        _refuse(f"{flag} is empty", fix="say who overrides, and why: every later report shows it")
    if len(found) > 1000:
        _refuse(
            f"{flag} is longer than 1000 characters", fix="put the long form where it can be linked"
        )
    return found


def _expiry(text: str, now: float) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        _refuse(f"--expires is '{text}', not a date", fix="write it as YYYY-MM-DD")
    left = days_left(found, now)
    if left < 0:
        _refuse(
            f"--expires {found} is in the past", fix="name the last day (UTC) that it may be used"
        )
    if left > MAX_DAYS:
        _refuse(
            f"--expires {found} is {left} days ahead; {MAX_DAYS} are allowed",
            fix="what should hold for longer belongs into policy.yaml",
        )
    return found


def _refuse(what: str, where: str = "", fix: str = "") -> NoReturn:
    raise OverrideRefused(what, where=where, fix=fix)
