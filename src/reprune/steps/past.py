"""What the registry's record adds to a judgement: uses of the examples, what the champion saw, overrides."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET

from reprune.core.artifacts import Previous, Waiver


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
