"""What promote demands of the evidence before it signs. Deny by default: each refusal has a reason.

`check_integrity` holds for every outcome: what is recorded must be true. `check_acceptance` holds
for a pass: it may move the champion only under the promoter's own terms, and only if the world is
still the one that was judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from reprune.core.artifacts import Benchmark, Judgement, Manifest, Verdict
from reprune.core.documents import canonical, decode_json, digest_of
from reprune.core.errors import (
    ArtifactError,
    ChampionForeign,
    ChampionLost,
    DocumentError,
    PromotionRefused,
    ReceiptInvalid,
)
from reprune.core.lock import LOCK_FILE, Lock, read_lock
from reprune.core.params import PARAMS_FILE, Params
from reprune.core.policy import POLICY_FILE, Policy, read_policy
from reprune.core.store import Artifact
from reprune.judge.evidence import Evidence, decode_evidence
from reprune.registry import compressed, links
from reprune.registry.protocol import ANCHOR, Registry
from reprune.registry.standing import check_standing
from reprune.registry.tags import ANCHORED
from reprune.steps.fetch import check_champion
from reprune.steps.minimum_policy import at_least
from reprune.steps.promoter import Authority
from reprune.steps.staging import Staged
from reprune.task.load import task_digest, task_folder

DAY_S = 86_400
CLOCK_SKEW_S = 300
T = TypeVar("T")

AGAIN = "run `dvc repro` again; do not edit what it wrote"
# Neither the registry nor the time is what a stage depends on, so each stage has to be forced.
COUNT_AGAIN = (
    "run `dvc repro -f previous`, which counts the attempts, then `dvc repro`, and promote"
)
# Alone (-s): DVC forces every stage before the one that is named too, and a profile that is timed anew can
# plan another candidate. Under a new lock the champion's history is another, so that all runs anew anyway.
MEASURE_AGAIN = (
    "measure again: `dvc repro -s -f benchmark`, then `dvc repro`, and promote; if this verdict is already "
    "registered, run `reprune update --again` and `dvc repro` instead"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A verdict that was found true, with what it rests on."""

    verdict: Artifact[Verdict]
    judgement: Judgement
    evidence: Evidence
    lock: Lock
    policy: Policy

    @property
    def measured_until_s(self) -> float | None:
        """When the last unit of evidence began; None without units."""
        return max((until for _, until in self.newest_s if until is not None), default=None)

    @property
    def newest_s(self) -> tuple[tuple[str, float | None], ...]:
        """Each target with when its last unit began; None for a target without units."""
        return tuple(
            (target.target, max((unit.started_s for unit in target.units), default=None))
            for target in self.evidence.targets
        )

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(sorted({target.machine.instance for target in self.evidence.targets}))

    @property
    def samples(self) -> tuple[str, ...]:
        """The digests of the benchmarks that were judged: each lists its sample files by digest."""
        return tuple(_listed(self.verdict.manifest.parents, "benchmarks"))

    def valid_for_days(self, authority: Authority) -> float:
        """How long the evidence counts, by the policy and by the promoter's own limit."""
        return min(self.policy.valid_for_days, authority.promoter.max_valid_for_days)


@contextmanager
def refusing(folder: Path, places: Mapping[str, Path]) -> Iterator[None]:
    """An artefact that cannot be used is a refusal; its reason is the error's code.

    What is wrong with a copy below `folder` is told of the artefact that it was copied from.
    """
    try:
        yield
    except PromotionRefused as error:
        error.where = _origin(error.where, folder, places)
        raise
    except (ArtifactError, DocumentError) as error:
        where = _origin(error.where, folder, places)
        raise PromotionRefused(error.what, reason=error.code, where=where, fix=error.fix) from error


def _origin(where: str, folder: Path, places: Mapping[str, Path]) -> str:
    for place, source in places.items():
        where = where.replace(str(folder / place), str(source))
    return where


def check_integrity(staged: Staged, given: Params) -> Case:
    """The case that the staged verdict makes, after it was judged again from its own samples.

    `given` are the params of the repository that promotes: the name, the registry and its workspace
    must be theirs.
    Raises PromotionRefused if the recorded judgement is another one, or if what was handed in is not
    what was judged.
    """
    from reprune.judge.verdict import PROCEDURE
    from reprune.steps.gate import recompute

    verdict = staged.verdict
    recorded = verdict.manifest.judgement
    if recorded.procedure != PROCEDURE:
        _refuse(
            "procedure_unknown",
            f"was judged by procedure '{recorded.procedure}', this Reprune knows '{PROCEDURE}'",
            verdict.path,
        )
    again = recompute(verdict)
    if canonical(again) != canonical(recorded):
        _refuse(
            "judgement_differs",
            f"says '{recorded.outcome}', but its own samples give '{again.outcome}'"
            if again.outcome != recorded.outcome
            else "its judgement is not the one that its own samples give",
            verdict.path,
        )
    held = verdict.file("evidence.json")
    evidence = decode_evidence(held.read_bytes(), name=str(held))
    lock = _decoded(verdict, "lock", Lock)
    if {verdict.manifest.name, lock.name, evidence.name} != {given.name}:
        _refuse("other_model", f"judges '{lock.name}', not '{given.name}'", verdict.path)
    home = (given.registry.uri, given.registry.workspace)
    if (lock.registry, lock.workspace) != home:
        _refuse(
            "other_registry",
            f"was judged for {lock.registry} (workspace '{lock.workspace}'), "
            f"params.yaml says {home[0]} (workspace '{home[1]}')",
            verdict.path,
            fix="promote it where params.yaml names the registry that it was judged for; or run "
            "`reprune update` and `dvc repro` here",
        )
    if verdict.manifest.dense_version != lock.dense.version:
        _refuse("other_version", "names another dense version than its lock", verdict.path)
    champion = None if lock.champion == "none" else lock.champion
    if verdict.manifest.champion != champion:
        _refuse("champion_not_locked", "names another champion than its lock", verdict.path)
    _check_judged(staged, evidence)
    return Case(
        verdict=verdict,
        judgement=recorded,
        evidence=evidence,
        lock=lock,
        policy=_decoded(verdict, "policy", Policy),
    )


def check_acceptance(
    case: Case, authority: Authority, registry: Registry, *, root: Path, given: Params, now: float
) -> None:
    """Returns only if this pass may move the champion now.

    Raises PromotionRefused, or ChampionMoved, ChampionLost or ChampionForeign for what the registry
    says about the champion.
    """
    _check_unchanged(case, root, given)
    _check_terms(case, authority)
    _check_age(case, authority, now)
    before = compressed.attempts(
        registry, case.lock.name, case.lock.dense.version, besides=case.verdict.digest
    )
    if before >= case.judgement.attempt:
        _refuse(
            "attempt_understated",
            f"was judged as attempt {case.judgement.attempt} on dense version "
            f"{case.lock.dense.version}, but {before} other attempts are on record",
            case.verdict.path,
            fix=COUNT_AGAIN,
        )
    check_registry_champion(case, authority, registry)
    check_registry_anchor(case, authority, registry)
    _check_chain(case, authority, registry)


def check_registry_champion(case: Case, authority: Authority, registry: Registry) -> None:
    """Returns only if the champion is the locked one, has a receipt that we trust, and may be it."""
    holder = compressed.champion(registry, case.lock.name, besides=case.verdict.digest)
    check_champion(case.lock.champion, holder)
    if holder is not None:
        try:
            links.verified(registry, holder.info, holder.receipt, authority.keys)
        except ReceiptInvalid as error:
            raise ChampionForeign(
                f"the champion, version {holder.info.version}: its receipt {error.what}",
                where=registry.identity,
                fix="add the key that signed it to `trusted_keys` in the promoter's config.yaml, "
                "if you trust its owner",
            ) from error
        check_standing(registry, holder.info, holder.receipt, authority.keys)


def check_registry_anchor(case: Case, authority: Authority, registry: Registry) -> None:
    """Returns only if the anchor is the locked one, carries a receipt that we trust, and somebody set it.

    Raises PromotionRefused.
    """
    try:
        holder = compressed.anchor(registry, case.lock.name)
        if holder is not None:
            links.verified(registry, holder.info, holder.receipt, authority.keys)
    except (ChampionLost, ChampionForeign) as error:
        reason = "anchor_lost" if isinstance(error, ChampionLost) else "anchor_foreign"
        _refuse_anchor(reason, error.what, registry)
    except ReceiptInvalid as error:
        _refuse_anchor("anchor_foreign", f"the anchor's receipt {error.what}", registry)
    if holder is not None and ANCHORED not in holder.info.tags:
        _refuse_anchor(
            "anchor_foreign",
            f"the alias '{ANCHOR}' names version {holder.info.version}, and nobody answers for it: "
            "`reprune anchor` did not set it",
            registry,
        )
    found = "none" if holder is None else holder.ref
    if found != case.lock.anchor:
        was, now = (
            each if isinstance(each, str) else f"version {each.version}"
            for each in (case.lock.anchor, found)
        )
        _refuse_anchor(
            "anchor_moved",
            f"the anchor was {was} when the lock was written; now it is {now}",
            registry,
        )


def _check_chain(case: Case, authority: Authority, registry: Registry) -> None:
    """No receipt is missing since the champion's; without a champion, since the first."""
    locked = case.verdict.manifest.champion
    gaps = links.gaps_since(
        registry, case.lock.name, locked.version if locked else "", authority.keys
    )
    if gaps:
        raise PromotionRefused(
            f"the chain of receipts is not whole: {gaps[0]}",
            reason="receipts_missing",
            where=registry.identity,
            fix="restore the registry from a backup; or begin a new chain with a model that is known to "
            "be good: `reprune adopt --by NAME --reason TEXT`, then `reprune update` and judge again",
        )


def _refuse_anchor(reason: str, what: str, registry: Registry) -> NoReturn:
    fix = "`reprune update` and judge again"
    if reason != "anchor_moved":
        fix = (
            "find out who did it; `reprune anchor VERSION --by NAME --reason TEXT` names the right one "
            f"(where nothing was promoted yet, delete the alias '{ANCHOR}', or the tag, with the registry's "
            f"own tools); then {fix}"
        )
    raise PromotionRefused(what, reason=reason, where=registry.identity, fix=fix)


def _check_judged(staged: Staged, evidence: Evidence) -> None:
    """What was handed in is, digest by digest, what the gate judged.

    The verdict was judged again before: it names each of these, and one at least of what are several.
    """
    from reprune.steps.gate import ancestor

    parents = staged.verdict.manifest.parents
    handed: dict[str, tuple[Sequence[Artifact[Manifest]], list[str]]] = {
        "candidate": ([staged.candidate], [parents["candidate"]]),
        "plan": ([staged.plan], [parents["chosen"]]),
        "table": ([staged.table], [parents["table"]]),
        "engines": (staged.engines, _listed(parents, "engines")),
        "profiles": (staged.profiles, _listed(parents, "profiles")),
    }
    for what, (found, judged) in handed.items():
        if [each.digest for each in found] != judged:
            reason = f"{what}_not_judged"
            for each in found:
                if each.digest not in judged:
                    _refuse(reason, f"is not what was judged as the {what}", each.path)
            _refuse(reason, f"does not rest on exactly the {what} handed in", staged.verdict.path)
    report = staged.report
    if report is not None and report.manifest.parents != {"verdict": staged.verdict.digest}:
        _refuse(
            "report_of_another", "tells of another verdict", report.path, fix="run report again"
        )
    if evidence.arms.get("candidate") != staged.candidate.digest:
        _refuse("candidate_not_measured", "the samples are of another candidate")
    measured = [
        ancestor(staged.verdict, name, Benchmark).parents.get("engines")
        for name in parents
        if name.startswith("benchmarks.")
    ]
    if sorted(map(str, measured)) != sorted(each.digest for each in staged.engines):
        _refuse("engines_not_measured", "the samples are of other engines than were handed in")
    facts = {canonical(fact) for each in staged.engines for fact in each.manifest.engines}
    if not all(canonical(fact) in facts for fact in evidence.engines):
        _refuse("engines_not_measured", "the evidence describes engines that were not handed in")


def _check_unchanged(case: Case, root: Path, given: Params) -> None:
    """The repository still holds the lock, the params, the policy and the task that were judged."""
    lock = read_lock(root / LOCK_FILE)
    if lock.digest != case.verdict.manifest.lock:
        _refuse(
            "lock_changed",
            "the lock is not the one that was judged",
            root / LOCK_FILE,
            fix="run `dvc repro`, then promote its verdict",
        )
    policy = read_policy(root / POLICY_FILE)
    if not digest_of(policy) == lock.policy == case.verdict.manifest.policy:
        _refuse("policy_changed", "is not the policy that was judged by", root / POLICY_FILE)
    if digest_of(given) != lock.params:
        _refuse("params_changed", "are not the params that were locked", root / PARAMS_FILE)
    if task_digest(given.task, root) != lock.task:
        folder = task_folder(given.task, root)
        _refuse("task_changed", "is not the task that was locked", folder)


def _check_terms(case: Case, authority: Authority) -> None:
    promoter = authority.promoter
    if promoter.minimum_policy is not None:
        weaker = at_least(case.policy, promoter.minimum_policy)
        if weaker:
            _refuse(
                "policy_too_weak",
                f"the policy demands less than the promoter's minimum: {'; '.join(weaker[:5])}",
                fix="raise policy.yaml to the minimum and judge again",
            )
    strangers = sorted(set(case.machines) - set(promoter.machines))
    if promoter.machines and (strangers or not case.machines):
        _refuse(
            "machine_not_trusted",
            f"samples were taken on a machine that the promoter does not trust: {strangers}",
            fix="judge on a trusted machine, or add its instance to the promoter's config.yaml",
        )


def _check_age(case: Case, authority: Authority, now: float) -> None:
    """Each target has a sample of its own that is new enough: one says nothing about another's machine."""
    limit_days = case.valid_for_days(authority)
    for target, until in case.newest_s or (("any target", None),):
        if until is None:
            _refuse(
                "evidence_undated",
                f"holds no latency unit of {target}, so nothing says how old it is",
            )
        age_days = (now - until) / DAY_S
        if not age_days <= limit_days:
            _refuse(
                "evidence_too_old",
                f"the newest sample of {target} is {age_days:.1f} days old; {limit_days:g} are allowed",
                fix=MEASURE_AGAIN,
            )
        if not now - until >= -CLOCK_SKEW_S:
            _refuse(
                "evidence_from_future",
                f"the newest sample of {target} is dated in the future",
                fix="set the clocks of this machine and of the one that measured",
            )


def _decoded(verdict: Artifact[Verdict], name: str, kind: type[T]) -> T:
    path = verdict.file(f"{name}.json")
    return decode_json(path.read_bytes(), kind, name=str(path))


def _listed(parents: dict[str, str], name: str) -> list[str]:
    count = sum(key.startswith(f"{name}.") for key in parents)
    return [parents.get(f"{name}.{index}", "") for index in range(count)]


def _refuse(reason: str, what: str, where: Path | None = None, fix: str = AGAIN) -> NoReturn:
    raise PromotionRefused(what, reason=reason, where=str(where) if where else "", fix=fix)
