"""What makes evidence unusable. Judging goes on only if nothing is found: no rule has to look again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from reprune.core.artifacts import Parity
from reprune.core.errors import UnknownName
from reprune.core.policy import Policy
from reprune.judge.boards import board_problems
from reprune.judge.bootstrap import EXACT
from reprune.judge.builds import build_problems
from reprune.judge.evidence import Evidence, QualityEvidence, TargetEvidence
from reprune.judge.family import margins, slice_baselines
from reprune.judge.latency import unit_problems
from reprune.judge.memory_rules import memory_problems
from reprune.judge.metrics import Metric, get_metric
from reprune.judge.possible import impossible, impossible_parity
from reprune.judge.record_checks import metric_problems
from reprune.judge.scores import record_key
from reprune.judge.words import ARM_NAMES


def find_metrics(policy: Policy) -> tuple[dict[str, Metric], list[str]]:
    """The policy's metrics by name, and why some of them cannot be had."""
    metrics, problems = {}, []
    for name, rules in policy.quality.items():
        try:
            metrics[name] = get_metric(name)
        except UnknownName as error:
            problems.append(
                f"The policy's metric '{name}' cannot be had: {error.what} ({error.fix})"
            )
            continue
        except (ImportError, AttributeError) as error:
            problems.append(f"The policy's metric '{name}' cannot be had: {error}")
            continue
        if rules.floor is not None and not metrics[name].higher_is_better:
            problems.append(f"A floor makes no sense for {name}, of which less is better.")
    return metrics, problems


def find_problems(
    evidence: Evidence, policy: Policy, metrics: Mapping[str, Metric]
) -> Iterator[str]:
    """Sentences; none for evidence that can be judged."""
    yield from (problem.words for problem in evidence.problems)
    yield from _identity_problems(evidence)
    yield from _target_problems(evidence, policy)
    yield from _engine_problems(evidence, policy)
    if policy.quality:
        unusable = [*_example_problems(evidence.quality), *_text_problems(evidence.quality)]
        yield from unusable
        if not unusable:
            yield from _record_problems(evidence, policy, metrics)


def _identity_problems(evidence: Evidence) -> Iterator[str]:
    if not evidence.seed:
        yield "The evidence names no seed."
    if evidence.attempt < 1:
        yield f"The evidence is of attempt {evidence.attempt}; the first one is 1."
    for arm in ("candidate", "dense"):
        if arm not in evidence.arms:
            yield f"{ARM_NAMES[arm].capitalize()} is missing among the arms."
    for arm in sorted(set(evidence.arms) - set(ARM_NAMES)):
        yield f"Nobody knows the arm '{arm}'."
    if (evidence.champion_version is None) == ("champion" in evidence.arms):
        yield "The champion's version and the measured arms contradict each other."


def _target_problems(evidence: Evidence, policy: Policy) -> Iterator[str]:
    judged = [target.target for target in evidence.targets]
    if len(set(judged)) != len(judged):
        yield "A target was measured twice."
    if set(judged) != set(policy.targets):
        wanted, found = ", ".join(sorted(policy.targets)), ", ".join(sorted(judged)) or "none"
        yield f"The policy judges the targets {wanted}; measured were {found}."
    for target in evidence.targets:
        for words in (*unit_problems(target.units, evidence.arms), *impossible(target.units)):
            yield f"The latency samples of {target.target} cannot be used: {words}."
        yield from _throughput_problems(target, evidence)
        yield from build_problems(target, evidence)
        yield from board_problems(target, evidence)
        if target.target in policy.targets:
            yield from memory_problems(target, policy, evidence.arms)


def _throughput_problems(target: TargetEvidence, evidence: Evidence) -> Iterator[str]:
    sizes = [target.batch_size, *(other.batch_size for other in target.throughput)]
    if len(set(sizes)) != len(sizes):
        yield f"A batch size of {target.target} was measured twice."
    if min(sizes) < 1:
        yield f"A batch size of {target.target} is below 1."
    for other in target.throughput:
        for words in (*unit_problems(other.units, evidence.arms), *impossible(other.units)):
            yield (
                f"The samples of {target.target} at batch {other.batch_size} cannot be used: {words}."
            )


def _engine_problems(evidence: Evidence, policy: Policy) -> Iterator[str]:
    places = [(engine.arm, engine.target) for engine in evidence.engines]
    if len(set(places)) != len(places):
        yield "An engine is listed twice."
    for target in policy.targets:
        for arm in evidence.arms:
            if (arm, target) not in places:
                yield f"There is no engine of {ARM_NAMES.get(arm, arm)} for {target}."
    for engine in evidence.engines:
        who = f"The engine of {ARM_NAMES[engine.arm]} for {engine.target}"
        if engine.bundle != evidence.arms.get(engine.arm):
            yield f"{who} was built from another bundle than the one that is judged."
        if engine.bytes <= 0:
            yield f"{who} is empty."
        yield from (f"{who} {words}" for words in _parity_problems(engine.parity))


def _parity_problems(parity: Parity) -> Iterator[str]:
    if parity.examples < 1:
        yield "was never compared with its bundle."
    if not all(map(math.isfinite, (parity.max_abs, parity.cosine, parity.agreement))):
        yield "was compared with its bundle, and the difference is no number."
    elif impossible_parity(parity):
        yield "was compared with its bundle, and no difference can be like that."


def _example_problems(quality: QualityEvidence) -> Iterator[str]:
    count = len(quality.ids)
    if count == 0:
        yield "There are no judged examples."
    if len(set(quality.ids)) != count:
        yield "An example was judged twice: its id is doubled."
    labels = [
        f"{family}={value}" for family in quality.slices for value in set(quality.slices[family])
    ]
    if len(set(labels)) != len(labels):
        yield "Two slices have the same name."
    lengths = {f"slices '{family}'": len(values) for family, values in quality.slices.items()}
    told = {"sources": quality.sources, "times": quality.times}
    lengths |= {what: len(column) for what, column in told.items() if column is not None}
    for what, known in lengths.items():
        if known != count:
            yield f"The {what} name {known} examples of {count}."
    for key, records in quality.arms.items():
        for name, column in records.columns.items():
            if len(column) != count:
                yield f"The records {key}/{name} hold {len(column)} examples of {count}."
            elif column and not -EXACT < min(column) <= max(column) < EXACT:
                yield f"The records {key}/{name} hold numbers too large to be summed exactly."


def _text_problems(quality: QualityEvidence) -> Iterator[str]:
    if not all(quality.ids) or not all(quality.sources or ()) or not all(quality.times or ()):
        yield "An example's id, source or time is empty."


def _record_problems(
    evidence: Evidence, policy: Policy, metrics: Mapping[str, Metric]
) -> Iterator[str]:
    """What the rules need must be there, and within the range that the metric promises."""
    for name, metric in metrics.items():
        rules = policy.quality[name]
        bases = {baseline.arm for baseline, _ in margins(rules, evidence.arms)}
        bases |= {baseline.arm for baseline in slice_baselines(rules, evidence.arms)}
        if metric.against_dense:
            bases.add("dense")
        keys = sorted({record_key(a, t) for a in (*bases, "candidate") for t in policy.targets})
        yield from metric_problems(name, metric, keys, evidence.quality)
    for label in _empty_slice_rules(evidence, policy):
        yield (
            f"The policy judges slices of {label}, and the examples have none: declare slices in the "
            "task, or take them out of the policy."
        )


def _empty_slice_rules(evidence: Evidence, policy: Policy) -> list[str]:
    if evidence.quality.slices:
        return []
    return [name for name, rules in policy.quality.items() if rules.slices is not None]
