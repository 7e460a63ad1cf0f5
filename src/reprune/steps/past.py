"""What the registry's record adds to a verdict: uses of the examples, what the champion saw, overrides,
and the champion's plan.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from msgspec import UNSET

from reprune.core.artifacts import PAST_PLAN, Previous, Verdict, Waiver
from reprune.core.errors import PayloadCorrupt
from reprune.core.store import MANIFEST, Artifact

_PLAN = f"plan/{MANIFEST}"


def eval_uses(previous: Previous, eval_digest: str, looks: Iterable[int] = ()) -> int:
    """How many verdicts were given on these examples, this one included; 0 where nobody counted.

    The larger of what the registry has on record and of `looks`, which the ledgers beside the benchmarks
    counted: each knows of some that the other does not, and most are in both.
    """
    if previous.uses is not UNSET:
        registered = previous.uses.get(eval_digest, 0) + 1
    else:
        # A registry without any version of ours has nothing to count.
        registered = 0 if previous.history or previous.champion is not None else 1
    return max(registered, *looks, 0)


def champion_newest(previous: Previous) -> str | None:
    """The latest time among the examples that the champion was judged on; None where it is not known."""
    if previous.champion is None:
        return None
    for summary in previous.history:
        if summary.compressed_version == previous.champion.version:
            return None if summary.newest_time is UNSET else summary.newest_time
    return None


def waivers(previous: Previous) -> tuple[Waiver, ...]:
    """The overrides that promoted something, oldest first; the judge says which of them still hold."""
    return tuple(
        summary.waiver
        for summary in previous.history
        if summary.promoted and summary.waiver is not UNSET
    )


def copy_past_plan(previous: Artifact[Previous], out: Path) -> None:
    """Copies the manifest of the champion's plan to PAST_PLAN, where the registry has one."""
    if previous.manifest.champion is not None and _PLAN in previous.manifest.payload:
        target = out / PAST_PLAN
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(previous.file(_PLAN), target)


def check_past_plan(verdict: Artifact[Verdict], previous: Previous) -> None:
    """Returns only if the copy of the champion's plan, where there is one, is what the registry held."""
    copied = verdict.manifest.payload.get(PAST_PLAN)
    if copied is not None and copied != previous.payload.get(_PLAN):
        raise PayloadCorrupt(
            "is not the plan that was stored with the champion",
            where=str(verdict.path / PAST_PLAN),
            fix="run `dvc repro` again; do not edit a verdict",
        )
