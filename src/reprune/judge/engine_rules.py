"""Rules on engines themselves, where chance plays no part: size, and parity with their bundles."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias, TypedDict

from reprune.core.artifacts import EngineFact, Outcome, Parity
from reprune.core.policy import ParityBounds, Policy
from reprune.judge.drafts import Draft
from reprune.judge.family import BASELINES, Baseline
from reprune.judge.numeric import rounded
from reprune.judge.words import ARM_NAMES

Engines: TypeAlias = Mapping[tuple[str, str], EngineFact]  # by arm and target


def engines_by_place(engines: Sequence[EngineFact]) -> Engines:
    return {(engine.arm, engine.target): engine for engine in engines}


def size_drafts(
    engines: Engines, policy: Policy, target: str, arms: Collection[str]
) -> list[Draft]:
    """One draft a size rule whose baseline is among `arms`."""
    if policy.size is None:
        return []
    required = policy.targets[target] == "required"
    mine = engines["candidate", target].bytes
    drafts = []
    for baseline in BASELINES:
        rule = getattr(policy.size, baseline.name, None)
        if rule is not None and baseline.arm in arms:
            base = engines[baseline.arm, target].bytes
            drafts.append(_ratio_draft((base, mine), rule.max_ratio, baseline, target, required))
    if policy.size.ceiling_bytes is not None:
        drafts.append(_ceiling_draft(mine, policy.size.ceiling_bytes, target, required))
    return drafts


def _ratio_draft(
    sizes: tuple[int, int], limit: float, baseline: Baseline, target: str, required: bool
) -> Draft:
    base, mine = sizes
    ratio = rounded(mine / base)
    name = ARM_NAMES[baseline.arm]
    allowed = f"the policy allows at most {limit:.4g} times its size"
    return Draft(
        rule=f"size.{baseline.name}",
        baseline=baseline.arm,
        target=target,
        required=required,
        unit="ratio",
        baseline_value=float(base),
        candidate_value=float(mine),
        change=ratio,
        low=ratio,
        high=ratio,
        limit=rounded(limit),
        direction="at most",
        samples=1,
        facts=f"On {target}, the engine has {mine} bytes, {ratio:.4g} times those of {name} "
        f"({base}), and {allowed}",
        short=f"the engine is {ratio:.3g} times as large as that of {name}",
        allowed=allowed,
        sure="pass" if ratio <= rounded(limit) else "block",
    )


def _ceiling_draft(mine: int, ceiling: int, target: str, required: bool) -> Draft:
    allowed = f"the policy allows at most {ceiling} bytes"
    return Draft(
        rule="size.ceiling",
        baseline="absolute",
        target=target,
        required=required,
        unit="bytes",
        baseline_value=None,
        candidate_value=float(mine),
        change=None,
        low=float(mine),
        high=float(mine),
        limit=float(ceiling),
        direction="at most",
        samples=1,
        facts=f"On {target}, the engine has {mine} bytes, and {allowed}",
        short=f"the engine has {mine} bytes",
        allowed=allowed,
        sure="pass" if mine <= ceiling else "block",
    )


def parity_drafts(
    engines: Engines, policy: Policy, target: str, arms: Collection[str]
) -> list[Draft]:
    """One draft an arm. A candidate that left its bundle is blocked; a baseline that did is an error,
    because nothing can be compared with it.
    """
    required = policy.targets[target] == "required"
    return [
        _parity_draft(
            engines[arm, target], policy.parity.bounds(engines[arm, target].precision), required
        )
        for arm in ARM_NAMES
        if arm in arms
    ]


def _parity_draft(engine: EngineFact, rules: ParityBounds, required: bool) -> Draft:
    found = engine.parity
    broken = [
        words
        for words, within in (
            (
                f"outputs differ by up to {found.max_abs:.3g}",
                rules.max_abs is None or found.max_abs <= rules.max_abs,
            ),
            (f"the cosine falls to {found.cosine:.6g}", found.cosine >= rules.min_cosine),
            (
                f"outcomes agree on {100 * found.agreement:.4g} %",
                found.agreement >= rules.min_agreement,
            ),
        )
        if not within
    ]
    outcome: Outcome = "pass"
    if broken:
        outcome = "block" if engine.arm == "candidate" else "error"
    name = ARM_NAMES[engine.arm]
    distance = "" if rules.max_abs is None else f"{rules.max_abs:.3g}, "
    allowed = (
        f"the policy allows {distance}a cosine of {rules.min_cosine:.6g} and "
        f"{100 * rules.min_agreement:.4g} % agreement"
    )
    seen = "; ".join(broken) or f"outputs differ by at most {found.max_abs:.3g}"
    if broken and engine.worst_layers:
        worst = ", ".join(f"{one.layer} ({one.relative:.2g})" for one in engine.worst_layers)
        seen += f"; the layers that differ most, relatively: {worst}"
    elif broken and not engine.file.endswith(".onnx"):
        # Of an ONNX file without them it is not known that they could not be told.
        seen += f"; which layers differ cannot be told for engines of {engine.runtime}"
    return Draft(
        rule="parity",
        baseline=engine.arm,
        target=engine.target,
        required=required,
        baseline_value=None,
        change=None,
        **_main_bound(found, rules),
        samples=found.examples,
        facts=f"On {engine.target}, the engine of {name} was compared with its own bundle: {seen}, "
        f"and {allowed}",
        short=f"the engine of {name} differs from its bundle ({seen})",
        allowed=allowed,
        sure=outcome,
    )


class _Bound(TypedDict):
    unit: str
    candidate_value: float
    low: float | None
    high: float | None
    limit: float
    direction: Literal["at most", "at least"]


def _main_bound(found: Parity, rules: ParityBounds) -> _Bound:
    """The one of the three that the table shows: the distance, or the cosine where none is bounded."""
    if rules.max_abs is None:
        cosine = rounded(found.cosine)
        return _Bound(
            unit="cosine",
            candidate_value=cosine,
            low=cosine,
            high=None,
            limit=rounded(rules.min_cosine),
            direction="at least",
        )
    distance = rounded(found.max_abs)
    return _Bound(
        unit="max_abs",
        candidate_value=distance,
        low=None,
        high=distance,
        limit=rounded(rules.max_abs),
        direction="at most",
    )
