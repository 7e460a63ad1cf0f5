"""What `profile` may take over from the champion's generation: a target's latency tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from reprune.core.artifacts import ModelBundle, Previous, Profile
from reprune.core.errors import DocumentError
from reprune.core.params import GenerationsParams
from reprune.core.store import MANIFEST, Artifact
from reprune.steps.inheriting import NO_CHAMPION, age_of, stored_part

if TYPE_CHECKING:
    from reprune.compress.tables.inherited import Earlier
    from reprune.compress.tables.table import OperatorTable

PART = "profile"


def earlier_table(
    previous: Artifact[Previous],
    dense: Artifact[ModelBundle],
    target: str,
    generations: GenerationsParams | UnsetType,
) -> Earlier | str | UnsetType:
    """The champion's table of `target`, to be checked; in words why there is none; UNSET where nobody asked
    for reuse. Of several profiles the first that has one counts: each is of another machine's targets.
    """
    if generations is UNSET or not generations.reuse:
        return UNSET
    if previous.manifest.champion is None:
        return NO_CHAMPION
    from reprune.compress.tables.inherited import TOLERANCE, Earlier

    for profile in _profiles(previous):
        fact = next((one for one in profile.manifest.tables or () if one.target == target), None)
        table = _table(profile, target) if fact is not None else None
        if fact is None or table is None:
            continue
        age = age_of(previous.manifest, fact.reuse.age if fact.reuse else 0)
        if age >= generations.cold_every:
            return f"that was last done {age} generations ago (generations.cold_every)"
        return Earlier(
            table=table,
            source=profile.digest,
            age=age,
            tolerance=generations.latency_tolerance or TOLERANCE,
            seed=int(dense.digest.removeprefix("sha256:")[:8], 16),
        )
    return "the registry holds no latency tables of the champion's for it"


def _profiles(previous: Artifact[Previous]) -> list[Artifact[Profile]]:
    """Those that can still be read, in the order of their numbers."""
    numbers = {
        name.split("/")[1]
        for name in previous.manifest.payload
        if name.startswith(f"{PART}/") and name.endswith(f"/{MANIFEST}")
    }
    found = [stored_part(previous, f"{PART}/{number}", Profile) for number in sorted(numbers)]
    return [one for one in found if one is not None]


def _table(profile: Artifact[Profile], target: str) -> OperatorTable | None:
    """None where the file is missing or cannot be read: then all is measured, which costs only time."""
    from reprune.compress.tables.table import TABLES_FILE, read_tables

    if TABLES_FILE not in profile.manifest.payload:
        return None
    try:
        found = read_tables(profile.file(TABLES_FILE))
    except DocumentError:
        return None
    return next((table for table in found if table.target == target), None)
