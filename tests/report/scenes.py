"""The generations that the reports are tested on: what happened, with the numbers that belong to it."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from reprune.core.artifacts import (
    BlockCut,
    Cost,
    GuardResult,
    LayerError,
    Outcome,
    RuleResult,
    SliceResult,
    VerdictSummary,
    Waiver,
)
from reprune.core.params import CostParams
from reprune.judge.consequence import BLOCKS_UNDECIDED
from reprune.judge.evidence import Problem
from reprune.judge.words import waived
from reprune.report.slices import NEWEST
from tests.report.verdicts import (
    CANDIDATE_COST,
    DENSE_COST,
    GROUPS,
    Scene,
    cut_to,
    digest,
    operator_shares,
    rule,
    shown_maps,
)

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

undecided = accuracy("dense", "inconclusive", (440, 441), 0.0125)
UNDECIDED = scene(
    "inconclusive",
    "Inconclusive: accuracy fell by 0.22 points against the dense model, but that is not certain yet; "
    "the policy allows a loss of 1.0 points.",
    msgspec.structs.replace(
        undecided,
        words=undecided.words.replace("3.0 points", "1.0 points"),
        limit=-0.01,
        decide="About 620 more examples, if the loss stays as it is.",
    ),
    latency("dense", "pass", 0.0841, 0.619),
    size(),
    *parity("dense", "candidate"),
)


def guard(
    name: str, outcome: str, value: float | None, limit: float | None, words: str
) -> GuardResult:
    return GuardResult(
        guard=name,
        target="ort-cpu",
        outcome=outcome,  # type: ignore[arg-type]
        value=value,
        limit=limit,
        words=words,
    )


CONTROL = guard(
    "control",
    "ok",
    1.002,
    1.05,
    "Two sessions of the dense model came out equal: 1.002 times as long.",
)
WAITING = guard(
    "waiting", "ok", 0.01, 0.2, "Threads waited for a core during 1 % of the longest-waiting block."
)
CLOCK = guard("clock", "unknown", None, 2.0, "The machine does not tell how fast its clock ran.")
WIDTH = guard("interval", "off", None, None, "The policy switched off the widest interval.")


WAITED = (
    "In 38 of 60 units a process waited for a core longer than 20 % of a block: stop what else runs on "
    "the machine."
)


def sort_of(kind: str, baseline: str, outcome: Outcome, **fields: object) -> RuleResult:
    """A rule on slow calls, throughput or memory, with words that say what it is."""
    given: dict[str, object] = {
        "target": "ort-cpu",
        "unit": "ratio",
        "samples": 60,
        "words": f"On ort-cpu, {kind} against {baseline} was measured: {_ENDING[outcome]}.",
    }
    return rule(kind, baseline, outcome, **(given | fields))


def speed_and_memory(outcome: Outcome) -> tuple[RuleResult, ...]:
    """One of each rule on slow calls, throughput and memory; the first has `outcome`."""
    most = {"direction": "at most"}
    return (
        sort_of(
            "latency.tail.vs_parent",
            "dense",
            outcome,
            baseline_value=0.0902,
            candidate_value=0.0561,
            change=0.622,
            low=0.601,
            high=0.651,
            limit=0.95,
            decide="" if outcome == "pass" else WAITED,
            **most,
        ),
        sort_of(
            "latency.objective",
            "absolute",
            "pass",
            unit="share",
            candidate_value=0.0712,
            change=0.0004,
            low=0.0,
            high=0.0061,
            limit=0.01,
            **most,
        ),
        sort_of(
            "throughput.b32.vs_parent",
            "dense",
            "pass",
            baseline_value=11_900.0,
            candidate_value=18_200.0,
            change=1.53,
            low=1.49,
            high=1.56,
            limit=1.2,
            direction="at least",
        ),
        sort_of(
            "memory.vs_parent",
            "dense",
            "pass",
            baseline_value=31_400_000.0,
            candidate_value=27_900_000.0,
            change=0.889,
            low=0.889,
            high=0.889,
            limit=0.95,
            samples=3,
            **most,
        ),
        sort_of(
            "memory.ceiling",
            "absolute",
            "pass",
            unit="bytes",
            candidate_value=27_900_000.0,
            low=27_900_000.0,
            high=27_900_000.0,
            limit=64_000_000.0,
            samples=3,
            **most,
        ),
    )


# The candidate is fast, but the machine cannot be trusted to say so.
TRIPPED = scene(
    "inconclusive",
    "Inconclusive: the p95 of single calls is 0.622 times that of the dense model, but that is not "
    "certain yet; the policy demands a p95 that is at least 1.05x faster.",
    accuracy("dense", "pass", (440, 441), 0.0125),
    *speed_and_memory("inconclusive"),
    *parity("dense", "candidate"),
    guards=(
        CONTROL,
        guard(
            "waiting",
            "tripped",
            0.41,
            0.2,
            WAITED,
        ),
        CLOCK,
        WIDTH,
    ),
    uses=4,
)

WAIVER = Waiver(
    by="Ada Lovelace",
    reason="the old model misreads 8 for 3 in production; see | `INC-7` <b>now</b>",
    expires="2026-12-24",
    rules=("accuracy.vs_parent on ort-cpu", "latency.vs_parent on ort-cpu"),
    verdict=digest("waived verdict"),
    candidate=digest("old"),
    policy=digest("policy"),
)

# A pass after a champion that somebody let through.
WAIVED = scene(
    "pass",
    PASSED.headline,
    *PASSED.rules,
    *speed_and_memory("pass"),
    guards=(CONTROL, WAITING, CLOCK, WIDTH),
    waivers=(WAIVER,),
    notes=(
        waived(WAIVER, WAIVER.candidate),
        "This eval split has been judged on 23 times, and the policy warns above 20 (eval.max_uses): "
        "whoever tries often enough passes by luck. Draw a new one.",
    ),
    uses=23,
)

WAIVED = replace(
    WAIVED,
    slices=(
        *WAIVED.slices,
        slice_result(
            NEWEST,
            outcome="ok",
            flips=(2, 1),
            examples=120,
            change=-1 / 120,
            low=-0.041,
            high=0.02,
            detectable=0.09,
        ),
    ),
)

DRY = scene(
    "block",
    "Dry run: would block: accuracy fell by 6.00 points against the dense model; the policy allows a "
    "loss of 3.0 points.",
    *BLOCKED.rules,
    right=BLOCKED.right,
    slices=digit_slices(harmed=True),
    dry_run=True,
)

# Nothing is broken, and the policy blocks what is not decided.
STRICT = scene(
    "block",
    "Blocked: accuracy fell by 0.22 points against the dense model, which is not certain yet, and the "
    "policy blocks what is not decided; the policy allows a loss of 1.0 points.",
    *UNDECIDED.rules,
    reasons=(*UNDECIDED.reasons, BLOCKS_UNDECIDED),
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

PRICES = CostParams(
    price_per_hour={"ort-cpu": 0.34},
    currency="EUR",
    requests_per_year=2_000_000_000,
    utilisation=0.6,
)
PRICED = replace(PASSED, cost=PRICES)


def before(
    version: str, outcome: Outcome, ratio: float | None, drop: float | None
) -> VerdictSummary:
    """A generation on record; what passed was promoted."""
    return VerdictSummary(
        dense_version=version,
        compressed_version=version,
        outcome=outcome,
        verdict=digest(f"verdict {version}"),
        reasons=(),
        promoted=outcome == "pass",
        latency_ratio=ratio,
        quality_drop=drop,
    )


HISTORY = (before("1", "pass", 0.71, 0.004), before("2", "pass", 0.633, 0.0))
RETURNED = replace(PASSED, history=HISTORY)

# The champion's plan had a group that is gone, and cut the others otherwise.
REPLANNED = replace(
    BLOCKED,
    history=HISTORY,
    cost=PRICES,
    past_groups=(("conv1", 16, 12), ("conv2", 32, 8), ("conv3", 64, 24), ("conv9", 8, 4)),
)

_TARGETS = ("ort-cpu", "jetson", "phone")


def _on(target: str, *rules: RuleResult) -> tuple[RuleResult, ...]:
    return tuple(
        msgspec.structs.replace(
            each, target=target, words=each.words.replace("ort-cpu", target), samples=450
        )
        for each in rules
    )


# One of three targets is too slow; another one only informs.
TARGETS = scene(
    "block",
    "Blocked: the candidate takes 1.02 times as long as the dense model on jetson; the policy demands "
    "a ratio of at most 0.85.",
    *_on(
        "ort-cpu",
        accuracy("dense", "pass", (440, 441), 0.0125),
        latency("dense", "pass", 0.084, 0.61),
    ),
    *_on(
        "jetson",
        accuracy("dense", "pass", (440, 441), 0.0125),
        latency("dense", "block", 1.4, 1.02),
    ),
    *(
        msgspec.structs.replace(each, required=False)
        for each in _on("phone", latency("dense", "block", 2.1, 0.97))
    ),
    targets=_TARGETS,
    cost=CostParams(price_per_hour={"ort-cpu": 0.34, "jetson": 0.05}),
)

# 200 slices, three of them harmed.
MANY = replace(
    BLOCKED,
    slices=tuple(
        slice_result(
            f"site={place:03}",
            outcome="harm" if place % 67 == 5 else "ok",
            flips=(9, 0) if place % 67 == 5 else (place % 3, 1),
            change=-0.2 if place % 67 == 5 else (1 - place % 3) / 45,
            low=-0.27 if place % 67 == 5 else -0.09,
            high=-0.13 if place % 67 == 5 else 0.09,
            detectable=0.242,
        )
        for place in range(200)
    ),
)

# Names from somebody who means no good, wherever a name can be.
NASTY = replace(
    BLOCKED,
    name=HOSTILE,
    dense_version=HOSTILE[:40],
    champion=HOSTILE[:40],
    headline=HOSTILE,
    reasons=(HOSTILE,),
    rules=(
        msgspec.structs.replace(
            accuracy("dense", "block", (414, 441), 0.02), rule=f"{HOSTILE}.vs_parent", words=HOSTILE
        ),
        latency("dense", "pass", 0.08, 0.6),
    ),
    groups=((HOSTILE, 16, 8), ("b|c", 32, 16)),
    past_groups=((HOSTILE, 16, 4), ("`d`", 32, 16)),
    history=(before(HOSTILE[:60], "block", 0.7, 0.01),),
    slices=tuple(msgspec.structs.replace(one, slice=HOSTILE) for one in BLOCKED.slices),
    notes=(HOSTILE,),
    surgery={
        "ladder": (HOSTILE,),
        "unfitted": {HOSTILE: HOSTILE},
        "left": {HOSTILE: HOSTILE},
        "by_magnitude": (HOSTILE,),
    },
)

# The whole cut missed the bar: half of each width was cut, and one of two blocks stayed.
GENTLER = replace(
    PASSED,
    surgery={
        "groups": tuple(cut_to(group, (group[1] + group[2]) // 2) for group in GROUPS),
        "blocks": ("layer3.1",),
        "block_cuts": (
            BlockCut(
                block="layer2.1",
                planned=Cost(params=9_312, macs=152_064, bytes=37_400),
                removed=Cost(params=0, macs=0, bytes=0),
            ),
            BlockCut(
                block="layer3.1",
                planned=Cost(params=18_560, macs=148_480, bytes=74_500),
                removed=Cost(params=18_560, macs=148_480, bytes=74_500),
            ),
        ),
        "ladder": (
            "100% of the cut: loss on tune 0.1931 after 1 epoch, the bar is 0.1201: too much",
            "50% of the cut, layer2.1 not removed: loss on tune 0.1102 after 1 epoch, the bar is 0.1201: "
            "taken",
        ),
    },
)

PICTURED = replace(
    BLOCKED,
    maps=shown_maps(),
    operators=operator_shares(),
    worst_layers=tuple(
        LayerError(layer=layer, relative=relative)
        for layer, relative in (("conv3", 0.0412), ("conv2", 0.0173), ("conv1", 0.0041))
    ),
)

SCENES = {
    "pass": PASSED,
    "first": FIRST,
    "block": BLOCKED,
    "retrained": RETRAINED,
    "inconclusive": UNDECIDED,
    "error": BROKEN,
    "tripped": TRIPPED,
    "waived": WAIVED,
    "dry_run": DRY,
    "undecided_blocks": STRICT,
    "priced": PRICED,
    "replanned": REPLANNED,
    "returned": RETURNED,
    "targets": TARGETS,
    "many": MANY,
    "hostile": NASTY,
    "pictured": PICTURED,
    "gentler": GENTLER,
}
