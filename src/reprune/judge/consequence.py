"""What the policy makes of what the rules came to, and which earlier overrides a reader must know of."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from reprune.core.artifacts import Outcome, Waiver
from reprune.core.policy import Policy
from reprune.judge.evidence import Evidence
from reprune.judge.possible import LATEST_S
from reprune.judge.words import waived

BLOCKS_UNDECIDED = "The policy blocks what is not decided (on_inconclusive: block)."

_OPENING: dict[Outcome, str] = {
    "pass": "Passed",
    "block": "Blocked",
    "inconclusive": "Inconclusive",
    "error": "Error",
}
_DRY: dict[Outcome, str] = {
    "pass": "pass",
    "block": "block",
    "inconclusive": "be inconclusive",
    "error": "be an error",
}


def consequence(outcome: Outcome, policy: Policy) -> Outcome:
    """The verdict's outcome, never more lenient than what the rules came to."""
    blocks = outcome == "inconclusive" and policy.on_inconclusive == "block"
    return "block" if blocks else outcome


def opening(outcome: Outcome, policy: Policy) -> str:
    """The first words of a headline; a dry run says that it is one before anything else."""
    if policy.mode == "dry-run":
        return f"Dry run: would {_DRY[outcome]}"
    return _OPENING[outcome]


def holding(evidence: Evidence) -> tuple[Waiver, ...]:
    """The overrides of earlier promotions that had not expired when the newest unit was measured.

    Evidence without a date hides none of them: the judge knows no other clock.
    """
    started = [
        unit.started_s
        for target in evidence.targets
        for unit in target.units
        if 0.0 < unit.started_s < LATEST_S
    ]
    if not started:
        return evidence.waivers
    today = datetime.fromtimestamp(max(started), tz=UTC).date().isoformat()
    return tuple(waiver for waiver in evidence.waivers if waiver.expires >= today)


def history_notes(evidence: Evidence, policy: Policy) -> Iterator[str]:
    """Whole sentences: overrides that hold, the data contract's warnings, how worn the eval split is."""
    champion = evidence.arms.get("champion", "")
    for waiver in holding(evidence):
        yield waived(waiver, champion)
    for found in evidence.contract:
        if not found.success and found.severity == "warning":
            yield f"The data contract warns of {found.split}: {found.name} ({found.observed})."
    if not policy.quality:
        return
    most = policy.eval.max_uses
    if evidence.uses < 1:
        yield "Nobody knows how often this eval split has been judged on."
    elif evidence.uses > most:
        yield (
            f"This eval split has been judged on {evidence.uses} times, and the policy warns above "
            f"{most} (eval.max_uses): whoever tries often enough passes by luck. Draw a new one."
        )
