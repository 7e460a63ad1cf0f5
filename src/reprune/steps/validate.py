"""The step `validate`: the data contract, and whether the policy can be met with this much data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core.artifacts import (
    WEIGHTS,
    DataReport,
    Expectation,
    ModelBundle,
    PowerFact,
    Previous,
    SplitFact,
)
from reprune.core.params import ValidateParams
from reprune.core.policy import Policy
from reprune.core.step import Context, step
from reprune.core.store import Artifact, write_bytes
from reprune.judge.power import plan_power, propose_margin
from reprune.measure.attempts import ATTEMPTS_FILE, Look, local_attempts
from reprune.steps.answerable import refuse_absent_slices, refuse_unknown_metrics, refuse_unrecorded
from reprune.steps.contract import demands
from reprune.steps.expectations import check_demands
from reprune.steps.looking import required_here
from reprune.steps.target_demands import refuse_untimed
from reprune.task.protocol import SPLITS

if TYPE_CHECKING:
    from reprune.task.seal import Census

# The chance that a policy passes a candidate that lost nothing.
POWER_WANTED = 0.5
POWER_NEEDED = 0.2


@step("validate")
def validate(
    dense: Artifact[ModelBundle],
    previous: Artifact[Previous],
    policy: Policy,
    validate: ValidateParams,
    seed: int,
    ctx: Context,
) -> DataReport:
    """Checks the task's data and the policy's power; a broken contract is a result that later steps refuse.

    Only ids, labels, slices and digests of the inputs are looked at. Raises TaskError for a task
    that does not keep the promises of the protocol, DocumentError for a policy that no data could answer,
    InputError for one that demands speed of a target which is timed nowhere.
    """
    # A task brings torch along; the step's module must be importable without it.
    from reprune.task.check import check_task
    from reprune.task.load import load_task
    from reprune.task.seal import Sealed
    from reprune.task.trained_on import TRAINED_ON, marks

    refuse_unknown_metrics(policy)
    refuse_untimed(required_here(ctx.targets, policy), policy, anywhere=True)
    fact = dense.manifest.task
    task = load_task(fact.entry, dense.path / "task")
    refuse_unrecorded(policy, check_task(task, seed=seed))
    view = Sealed(task)
    censuses = {split: view.census(split) for split in SPLITS}
    timed = censuses["eval"].times is not None
    refuse_absent_slices(policy, censuses["eval"].slices, timed=timed)
    wanted, remarks = demands(censuses, validate)
    examples = len(censuses["eval"].ids)
    power = plan_power(
        policy,
        examples=examples,
        flips=_flips(previous.manifest, validate.flips, examples),
        attempt=_attempts(dense, previous.manifest, ctx.root / ATTEMPTS_FILE) + 1,
    )
    found = (
        _same_data(fact.data_version, task.data_version),
        *check_demands(wanted),
        *remarks,
        *(_enough_power(one, policy) for one in power),
    )
    write_bytes(ctx.out / TRAINED_ON, marks(censuses[split] for split in SPLITS if split != "eval"))
    passed = all(one.success for one in found if one.severity == "critical")
    _tell(found, power, passed, ctx)
    return DataReport(
        task=fact,
        passed=passed,
        expectations=found,
        splits={split: _split_fact(census) for split, census in censuses.items()},
        power=power,
    )


def _attempts(dense: Artifact[ModelBundle], previous: Previous, ledger: Path) -> int:
    """How many looks there were at this dense model: the larger of what the registry and the ledger here
    hold, as `benchmark` counts them.
    """
    look = Look(
        name=dense.manifest.name,
        dense_version=dense.manifest.dense_version,
        weights=dense.manifest.payload.get(WEIGHTS, ""),
        eval_digest="",
        candidate="",
    )
    return max(previous.attempts, local_attempts(ledger, look))


def _flips(previous: Previous, assumed: float, examples: int) -> float:
    """The mean share of flips that earlier generations showed, params.yaml's counting as one of them.

    At least one example: a history without a flip does not promise that there will be none.
    """
    seen = [assumed, *(one.flips for one in previous.history if one.flips is not None)]
    return min(0.999, max(sum(seen) / len(seen), 1 / max(examples, 1)))


def _same_data(locked: str, found: str) -> Expectation:
    same = locked == found
    return Expectation(
        name="data as locked",
        split="all",
        severity="critical",
        success=same,
        observed="the data is the one that the lock names"
        if same
        else f"the data is {found[:19]}, the lock names {locked[:19]}; run `reprune update`",
    )


def _enough_power(power: PowerFact, policy: Policy) -> Expectation:
    chance = power.pass_if_equal
    advice = ""
    if chance < POWER_WANTED:
        hopeless = chance < POWER_NEEDED
        advice = "this policy cannot pass: " if hopeless else "this policy will often not pass: "
        wide = propose_margin(power.examples, power.flips, policy.alpha)
        advice += (
            "add eval examples, or widen the margin in policy.yaml "
            f"(max_drop: {wide:g} passes an equal candidate 9 times in 10). "
        )
    return Expectation(
        name=f"power of {power.rule}",
        split="eval",
        severity="critical" if chance < POWER_NEEDED else "warning",
        success=chance >= POWER_WANTED,
        observed=f"{advice}{_chances(power)}{_left_out(power.rule, policy)}",
    )


def _left_out(rule: str, policy: Policy) -> str:
    """Says so where the rule is stricter than the figure: the baseline's errors are not known yet."""
    metric, _, baseline = rule.rpartition(".")
    margin = getattr(policy.quality.get(metric), baseline, None)
    if margin is None or margin.max_error_ratio is None:
        return ""
    return (
        f" (max_drop alone; max_error_ratio {margin.max_error_ratio:g} can make it less, a good "
        "baseline more so)"
    )


def _chances(power: PowerFact) -> str:
    return (
        f"with {power.examples} examples, of which two models answer {power.flips:.1%} differently, a "
        f"candidate that lost nothing passes with {power.pass_if_equal:.0%}, one that lost a third "
        f"of the margin with {power.pass_if_third_lost:.0%}"
    )


def _split_fact(census: Census) -> SplitFact:
    return SplitFact(
        examples=len(census.ids),
        digest=census.digest,
        classes=_counts(census.labels or ()),
        slices={family: _counts(values) for family, values in sorted(census.slices.items())},
        sources=None if census.sources is None else len(set(census.sources)),
    )


def _counts(values: tuple[str, ...]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _tell(
    found: tuple[Expectation, ...], power: tuple[PowerFact, ...], passed: bool, ctx: Context
) -> None:
    for one in found:
        if not one.success:
            word = "FAILED" if one.severity == "critical" else "warning"
            ctx.say(f"{word}: {one.split}: {one.name}: {one.observed}")
    for fact in power:
        ctx.say(f"power of {fact.rule}: {_chances(fact)}")
    failed = sum(not one.success for one in found if one.severity == "critical")
    ctx.say(
        f"the data contract holds ({len(found)} expectations)"
        if passed
        else f"THE DATA CONTRACT FAILED: {failed} critical expectations; every later step refuses this data"
    )
