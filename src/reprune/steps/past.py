"""What earlier generations mean for this one, read from what the registry remembered. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from msgspec import UNSET

from reprune.core.artifacts import Previous, Waiver
from reprune.judge.evidence import TargetEvidence


def uses_of(previous: Previous, eval_digest: str, local: Iterable[int]) -> int:
    """How often verdicts were given on these eval examples, this one included.

    The larger of what the registry's history holds and of `local`, the counts of the ledgers beside the
    benchmarks; neither knows of everything, and a look that both know must not count twice.
    """
    judged = {entry.verdict for entry in previous.history if entry.eval_digest == eval_digest}
    return max(1 + len(judged), *local, 1)


def champion_newest(previous: Previous) -> str | None:
    """The latest time among the examples that the champion was judged on; None where nobody recorded it."""
    if previous.champion is None:
        return None
    times = [
        entry.newest_time
        for entry in previous.history
        if entry.compressed_version == previous.champion.version and entry.newest_time is not UNSET
    ]
    return times[-1] if times else None


def waivers_holding(previous: Previous, targets: Iterable[TargetEvidence]) -> tuple[Waiver, ...]:
    """The waivers of earlier promotions, each once, that had not expired when the last unit was taken.

    A waiver holds until the end of its day (UTC). With no unit there is no time, and all hold.
    """
    started = [unit.started_s for target in targets for unit in target.units]
    day = datetime.fromtimestamp(max(started), tz=UTC).date().isoformat() if started else ""
    found: list[Waiver] = []
    for entry in previous.history:
        waiver = entry.waiver
        if waiver is not UNSET and waiver.expires >= day and waiver not in found:
            found.append(waiver)
    return tuple(found)
