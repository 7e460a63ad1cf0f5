"""The generations that the reports are tested on: what happened, with the numbers that belong to it."""

from __future__ import annotations

import msgspec

from reprune.core.artifacts import Outcome, RuleResult, SliceResult
from reprune.judge.evidence import Problem
from tests.report.verdicts import CANDIDATE_COST, DENSE_COST, Scene, rule

DENSE_BYTES = DENSE_COST.bytes + 4_211
CANDIDATE_BYTES = CANDIDATE_COST.bytes + 4_211


_ENDING = {
    "pass": "the rule holds",
    "block": "the rule is broken",
    "inconclusive": "this is not decided",
}
_NAMES = {"dense": "the dense model as trained", "champion": "the champion"}
_RULES = {"dense": "vs_parent", "champion": "vs_champion"}


def accuracy(baseline: str, outcome: Outcome, counts: tuple[int, int], half: float) -> RuleResult:
    """Non-inferiority of accuracy: `counts` right of 450, candidate and baseline, +- `half`."""
    right, was = counts
    change = (right - was) / 450
    moved = f"{'rose' if change > 0 else 'fell'} by {100 * abs(change):.2f} points"
    return rule(
        f"accuracy.{_RULES[baseline]}",
        baseline,
        outcome,
        baseline_value=was / 450,
        candidate_value=right / 450,
        change=change,
        low=change - half,
        high=change + half,
        target="ort-cpu",
        words=f"On ort-cpu, accuracy {moved} against {_NAMES[baseline]} "
        f"({100 * was / 450:.4g} % to {100 * right / 450:.4g} %; 97.5 % limits "
        f"{100 * (change - half):.2f} and {100 * (change + half):.2f} points), and the policy allows "
        f"a loss of 3.0 points: {_ENDING[outcome]}.",
    )


def floor(outcome: Outcome, right: int) -> RuleResult:
    share = right / 450
    return rule(
        "accuracy.floor",
        "absolute",
        outcome,
        candidate_value=share,
        low=share - 0.018,
        high=share + 0.012,
        limit=0.9,
        target="ort-cpu",
        words=f"On ort-cpu, accuracy is {100 * share:.4g} % on 450 examples (97.5 % sure to be at "
        f"least {100 * share - 1.8:.4g} %), and the policy demands 90 % at that limit: "
        f"{_ENDING[outcome]}.",
    )


def latency(baseline: str, outcome: Outcome, was_ms: float, ratio: float) -> RuleResult:
    limit = {"dense": 0.85, "champion": 1.05}[baseline]
    return rule(
        f"latency.{_RULES[baseline]}",
        baseline,
        outcome,
        unit="ratio",
        target="ort-cpu",
        baseline_value=was_ms,
        candidate_value=was_ms * ratio,
        change=ratio,
        low=ratio * 0.988,
        high=ratio * 1.011,
        limit=limit,
        direction="at most",
        samples=15,
        words=f"On ort-cpu, the candidate takes {ratio:.4g} times as long as "
        f"{_NAMES[baseline].removesuffix(' as trained')} (15 units), and the policy demands a ratio "
        f"of at most {limit:g}: {_ENDING[outcome]}.",
    )


def worst_slice(outcome: Outcome, change: float) -> RuleResult:
    return rule(
        "accuracy.slices.vs_parent",
        "dense",
        outcome,
        target="ort-cpu",
        baseline_value=44 / 45,
        candidate_value=44 / 45 + change,
        change=change,
        low=change - 0.075,
        high=change + 0.07,
        limit=-0.1,
        samples=45,
        words=f"On ort-cpu, the worst of 10 slices against the dense model is digit=8: accuracy fell "
        f"by {-100 * change:.1f} points, and the policy allows a loss of 10.0 points on any slice; "
        f"1 slice too small to be judged alone: {_ENDING[outcome]}.",
    )


def size() -> RuleResult:
    ratio = CANDIDATE_BYTES / DENSE_BYTES
    return rule(
        "size.vs_parent",
        "dense",
        "pass",
        unit="ratio",
        target="ort-cpu",
        baseline_value=float(DENSE_BYTES),
        candidate_value=float(CANDIDATE_BYTES),
        change=ratio,
        low=ratio,
        high=ratio,
        limit=0.6,
        direction="at most",
        samples=1,
        words=f"On ort-cpu, the engine has {CANDIDATE_BYTES} bytes, {ratio:.4g} times those of the "
        "dense model, and the policy allows at most 0.6 times its size: the rule holds.",
    )


def parity(*arms: str) -> tuple[RuleResult, ...]:
    return tuple(
        rule(
            "parity",
            arm,
            "pass",
            unit="max_abs",
            target="ort-cpu",
            candidate_value=2.4e-6 * (place + 1),
            high=2.4e-6 * (place + 1),
            limit=1e-3,
            direction="at most",
            samples=128,
            words=f"On ort-cpu, the engine of the {arm} was compared with its own bundle: outputs "
            "differ by at most 2.4e-06, and the policy allows 0.001: the rule holds.",
        )
        for place, arm in enumerate(arms)
    )


def digit_slices(harmed: bool = False) -> tuple[SliceResult, ...]:
    found = []
    for digit in range(10):
        wrong, right = (9, 0) if harmed and digit == 8 else (digit % 3, (digit + 1) % 2)
        change = (right - wrong) / 45
        found.append(
            slice_result(
                f"digit={digit}",
                outcome="harm" if harmed and digit == 8 else "ok",
                flips=(wrong, right),
                change=change,
                low=change - 0.075,
                high=change + 0.07,
                detectable=0.242,
            )
        )
    unjudged = {"change": -1 / 12, "low": -1.0, "high": 1.0, "detectable": 1.0}
    rare = slice_result("writer=rare", outcome="not judged", flips=(1, 0), examples=12, **unjudged)
    return (*found, rare)


def slice_result(
    name: str, *, outcome: str, flips: tuple[int, int], examples: int = 45, **fields: float
) -> SliceResult:
    return SliceResult(
        slice=name,
        rule="accuracy.slices.vs_parent",
        target="ort-cpu",
        examples=examples,
        outcome=outcome,  # type: ignore[arg-type]
        right_to_wrong=flips[0],
        wrong_to_right=flips[1],
        required=False,
        **fields,
    )


def scene(outcome: Outcome, headline: str, *rules: RuleResult, **fields: object) -> Scene:
    """A scene whose reasons are what the rules of its outcome say, as the judge has it."""
    deciding = [one.words for one in rules if one.required and one.outcome == outcome]
    given = {"reasons": tuple(deciding), "slices": digit_slices()}
    return Scene(outcome=outcome, headline=headline, rules=rules, **(given | fields))  # type: ignore[arg-type]


PASSED = scene(
    "pass",
    "Passed: 1.61x faster than the dense model; accuracy fell by 0.22 points against the dense "
    "model; all 10 required rules hold.",
    accuracy("dense", "pass", (440, 441), 0.0125),
    accuracy("champion", "pass", (440, 439), 0.0131),
    floor("pass", 440),
    worst_slice("pass", -0.044),
    latency("dense", "pass", 0.0841, 0.619),
    latency("champion", "pass", 0.0525, 0.979),
    size(),
    *parity("dense", "champion", "candidate"),
)

FIRST = scene(
    "pass",
    "Passed: 1.61x faster than the dense model; accuracy fell by 0.22 points against the dense "
    "model; all 7 required rules hold.",
    accuracy("dense", "pass", (438, 439), 0.0127),
    floor("pass", 438),
    worst_slice("pass", -0.044),
    latency("dense", "pass", 0.0841, 0.619),
    size(),
    *parity("dense", "candidate"),
    dense_version="1",
    champion=None,
    right={"dense": 439, "candidate": 438},
    notes=(
        "First generation: there is no champion yet, so latency.vs_champion, accuracy.vs_champion "
        "could not be judged.",
    ),
)

BLOCKED = scene(
    "block",
    "Blocked: accuracy fell by 6.00 points against the dense model; the policy allows a loss of 3.0 "
    "points (1 more rule).",
    accuracy("dense", "block", (414, 441), 0.0219),
    accuracy("champion", "inconclusive", (414, 439), 0.0262),
    floor("pass", 414),
    worst_slice("block", -0.2),
    latency("dense", "pass", 0.0841, 0.619),
    latency("champion", "pass", 0.0525, 0.979),
    size(),
    *parity("dense", "champion", "candidate"),
    right={"dense": 441, "candidate": 414, "champion": 439},
    slices=digit_slices(harmed=True),
)

# The retraining went wrong: compression kept what the dense model had left.
RETRAINED = scene(
    "block",
    "Blocked: accuracy fell by 14.0 points against the champion; the policy allows a loss of 3.0 "
    "points (1 more rule).",
    accuracy("dense", "pass", (376, 378), 0.0161),
    accuracy("champion", "block", (376, 439), 0.0333),
    floor("block", 376),
    worst_slice("pass", -0.044),
    latency("dense", "pass", 0.0841, 0.619),
    latency("champion", "pass", 0.0525, 0.979),
    size(),
    *parity("dense", "champion", "candidate"),
    right={"dense": 378, "candidate": 376, "champion": 439},
)

UNDECIDED = scene(
    "inconclusive",
    "Inconclusive: accuracy fell by 0.22 points against the dense model, but that is not certain yet; "
    "the policy allows a loss of 1.0 points.",
    msgspec.structs.replace(
        accuracy("dense", "inconclusive", (440, 441), 0.0125),
        limit=-0.01,
        decide="About 620 more examples, if the loss stays as it is.",
    ),
    latency("dense", "pass", 0.0841, 0.619),
    size(),
    *parity("dense", "candidate"),
)

_PROBLEM = (
    "The lock pins another state of policy.yaml than the one that was used: run `reprune update`, "
    "then `dvc repro`."
)
BROKEN = Scene(
    outcome="error",
    headline=f"Error: {_PROBLEM} (1 more)",
    reasons=(_PROBLEM, "Target ort-cpu has no units."),
    problems=(Problem(code="stale_lock", words=_PROBLEM),),
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
