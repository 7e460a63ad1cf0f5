"""The generations that the reports are tested on: what happened, with the numbers that belong to it."""

from __future__ import annotations

from reprune.core.artifacts import RuleResult, SliceResult
from reprune.judge.evidence import Problem
from tests.report.verdicts import CANDIDATE_COST, DENSE_COST, Scene, rule

DENSE_BYTES = DENSE_COST.bytes + 4_211
CANDIDATE_BYTES = CANDIDATE_COST.bytes + 4_211


def accuracy(baseline: str, outcome: str, right: int, was: int, interval: float) -> RuleResult:
    """Non-inferiority of accuracy: `right` of 450 against `was` of 450."""
    change = (right - was) / 450
    return rule(
        f"accuracy.{baseline}",
        baseline,
        outcome,  # type: ignore[arg-type]
        baseline_value=was / 450,
        candidate_value=right / 450,
        change=change,
        low=change - interval,
        high=change + interval,
        target="ort-cpu",
    )


def floor(outcome: str, right: int) -> RuleResult:
    share = right / 450
    return rule(
        "accuracy.floor",
        "floor",
        outcome,  # type: ignore[arg-type]
        unit="share",
        candidate_value=share,
        change=share,
        low=share - 0.018,
        high=share + 0.012,
        limit=0.9,
        target="ort-cpu",
    )


def latency(baseline: str, outcome: str, was_ms: float, ratio: float, limit: float) -> RuleResult:
    return rule(
        f"latency.{baseline}",
        baseline,
        outcome,  # type: ignore[arg-type]
        unit="ratio",
        target="ort-cpu",
        baseline_value=was_ms,
        candidate_value=was_ms * ratio,
        change=ratio,
        low=ratio * 0.992,
        high=ratio * 1.009,
        limit=limit,
        direction="at most",
        samples=15,
    )


def size() -> RuleResult:
    return rule(
        "size.vs_parent",
        "vs_parent",
        "pass",
        unit="ratio",
        target="ort-cpu",
        baseline_value=DENSE_BYTES,
        candidate_value=CANDIDATE_BYTES,
        change=CANDIDATE_BYTES / DENSE_BYTES,
        limit=0.6,
        direction="at most",
        samples=1,
    )


def digit_slices(harmed: bool = False) -> tuple[SliceResult, ...]:
    found = []
    for digit in range(10):
        wrong, right = (9, 0) if harmed and digit == 8 else (digit % 3, (digit + 1) % 2)
        change = (right - wrong) / 45
        found.append(
            SliceResult(
                slice=f"digit={digit}",
                examples=45,
                outcome="harm" if harmed and digit == 8 else "ok",
                right_to_wrong=wrong,
                wrong_to_right=right,
                change=change,
                low=change - 0.075,
                high=change + 0.07,
                detectable=0.142,
                required=False,
            )
        )
    found.append(
        SliceResult(
            slice="writer=rare",
            examples=12,
            outcome="not judged",
            right_to_wrong=1,
            wrong_to_right=0,
            change=-1 / 12,
            low=-0.36,
            high=0.2,
            detectable=0.31,
            required=False,
        )
    )
    return tuple(found)


PASSED = Scene(
    outcome="pass",
    headline="Reprune passed digits v3: accuracy and latency hold against dense v3 and champion v2.",
    reasons=("Accuracy fell by 0.22 points against its dense parent; the policy allows 3.00.",),
    rules=(
        accuracy("vs_parent", "pass", 440, 441, 0.0125),
        accuracy("vs_champion", "pass", 440, 439, 0.0131),
        floor("pass", 440),
        latency("vs_parent", "pass", 0.0841, 0.61, 0.85),
        latency("vs_champion", "pass", 0.0525, 0.977, 1.05),
        size(),
    ),
    slices=digit_slices(),
)

FIRST = Scene(
    outcome="pass",
    headline="Reprune passed digits v1: as good as its dense parent and 1.64 times as fast.",
    reasons=("There is no champion yet: judged against the dense parent and the policy's floors.",),
    dense_version="1",
    champion=None,
    right={"dense": 439, "candidate": 438},
    rules=(
        accuracy("vs_parent", "pass", 438, 439, 0.0127),
        floor("pass", 438),
        latency("vs_parent", "pass", 0.0841, 0.61, 0.85),
        size(),
    ),
    slices=digit_slices(),
    notes=("No champion: rules against the champion were not judged.",),
)

BLOCKED = Scene(
    outcome="block",
    headline="Reprune blocked digits v3: accuracy fell further than the policy allows.",
    reasons=(
        "Accuracy fell by 6.00 points against its dense parent, and by at least 3.81; "
        "the policy allows 3.00.",
        "1 of 10 judged slices was harmed: digit=8.",
    ),
    right={"dense": 441, "candidate": 414, "champion": 439},
    rules=(
        accuracy("vs_parent", "block", 414, 441, 0.0219),
        accuracy("vs_champion", "inconclusive", 414, 439, 0.0262),
        floor("pass", 414),
        latency("vs_parent", "pass", 0.0841, 0.61, 0.85),
        latency("vs_champion", "pass", 0.0525, 0.977, 1.05),
        size(),
    ),
    slices=digit_slices(harmed=True),
)

# The retraining went wrong: compression kept what the dense model had left.
RETRAINED = Scene(
    outcome="block",
    headline="Reprune blocked digits v3: accuracy fell 14.00 points below champion v2.",
    reasons=("Accuracy fell by 14.00 points against champion v2; the policy allows 3.00.",),
    right={"dense": 378, "candidate": 376, "champion": 439},
    rules=(
        accuracy("vs_parent", "pass", 376, 378, 0.0161),
        accuracy("vs_champion", "block", 376, 439, 0.0333),
        floor("block", 376),
        latency("vs_parent", "pass", 0.0841, 0.61, 0.85),
        size(),
    ),
    slices=digit_slices(),
)

UNDECIDED = Scene(
    outcome="inconclusive",
    headline="Reprune cannot decide yet on digits v3: too few evaluation examples.",
    reasons=("No check failed, but 450 examples cannot show a drop of less than 1.00 point.",),
    rules=(
        rule(
            "accuracy.vs_parent",
            "vs_parent",
            "inconclusive",
            baseline_value=441 / 450,
            candidate_value=440 / 450,
            change=-1 / 450,
            low=-0.0147,
            high=0.0103,
            limit=-0.01,
            target="ort-cpu",
            decide="About 1 450 examples (1 000 more) settle it 4 times in 5 if v3 lost nothing.",
        ),
        latency("vs_parent", "pass", 0.0841, 0.61, 0.85),
        size(),
    ),
    slices=digit_slices(),
)

BROKEN = Scene(
    outcome="error",
    headline="Reprune could not judge digits v3: the evidence cannot be used.",
    reasons=("The lock pins another state of policy.yaml than the one that was used.",),
    problems=(
        Problem(
            code="stale_lock",
            words="The lock pins another state of policy.yaml than the one that was used.",
        ),
    ),
    rules=(
        rule(
            "accuracy.vs_parent",
            "vs_parent",
            "error",
            words="accuracy was not judged: no records of target ort-cpu.",
            target="ort-cpu",
        ),
        latency("vs_parent", "pass", 0.0841, 0.61, 0.85),
    ),
)

HOSTILE = (
    "<script>alert(1)</script> | `x` **b** @everyone #1 [l](http://evil.test) \u202egnp.exe "
    "--> </details> & '\"\\ \x1b[31m \U0001f600 " + "long " * 50
)

SCENES = {
    "pass": PASSED,
    "first": FIRST,
    "block": BLOCKED,
    "retrained": RETRAINED,
    "inconclusive": UNDECIDED,
    "error": BROKEN,
}
