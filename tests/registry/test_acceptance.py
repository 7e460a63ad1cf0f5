"""What promote demands, one demand at a time: each is asked for alone, at its limit and just beyond it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core.artifacts import Benchmark
from reprune.core.documents import canonical, digest_of
from reprune.core.errors import (
    ArtifactError,
    ChampionForeign,
    ChampionMoved,
    DocumentError,
    PromotionRefused,
)
from reprune.core.lock import ChampionRef
from reprune.core.params import Params, read_params
from reprune.core.store import Artifact
from reprune.registry import receipts
from reprune.registry.receipted import read_receipt
from reprune.registry.tags import ANCHORED, ROLLED_BACK, tags_of
from reprune.steps import acceptance
from reprune.steps.acceptance import (
    AGAIN,
    CLOCK_SKEW_S,
    Case,
    check_acceptance,
    check_integrity,
    check_registry_anchor,
    check_registry_champion,
    refusing,
)
from reprune.steps.gate import ancestor
from reprune.steps.promoter import Authority, read_promoter
from reprune.steps.staging import Staged, stage
from tests.registry.promotion import (
    COMPRESSED,
    MEASURED_S,
    copy_repository,
    evidence,
    next_generation,
    promoted,
    registry_of,
    write_lock,
)

DAY_S = 86_400.0
ZERO = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Stand:
    """A repository, the staged copy of its run, and the case that this makes. Nobody writes to it."""

    root: Path
    staged: Staged
    given: Params
    case: Case
    authority: Authority

    def judged(self, **changes: Any) -> Case:
        """The case of the staged artefacts, some of them others."""
        return check_integrity(replace(self.staged, **changes), self.given)

    def accepted(
        self, *, now: float = MEASURED_S, root: Path | None = None, **changes: Any
    ) -> None:
        """Asks for the move of the champion, with other fields of the case, and at another time."""
        authority = changes.pop("authority", self.authority)
        check_acceptance(
            replace(self.case, **changes),
            authority,
            registry_of(self.root),
            root=root or self.root,
            given=self.given,
            now=now,
        )


@pytest.fixture(scope="session")
def stand(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    root = copy_repository(template, tmp_path_factory.mktemp("stand") / "repo")
    staged = stage(evidence(root), root / "staged")
    given = read_params(root / "params.yaml")
    return Stand(root, staged, given, check_integrity(staged, given), read_promoter(root))


def refused(reason: str, match: str | None = None) -> Any:
    """As pytest.raises, for one reason."""
    return pytest.raises(
        PromotionRefused,
        match=match,
        check=lambda error: error.reason == reason,
    )


# --- what was handed in --------------------------------------------------------------------------


def test_the_case_is_what_the_verdict_holds(stand: Stand) -> None:
    """Its parts are those of the staged verdict, and its figures those of the samples."""
    case = stand.case
    assert case.verdict is stand.staged.verdict
    assert case.judgement is stand.staged.verdict.manifest.judgement
    assert case.lock.digest == case.verdict.manifest.lock
    assert case.evidence.name == case.lock.name == "digits"
    assert case.policy.targets == {"ort-cpu": "required"}
    assert case.machines == ("box-a",)
    assert case.samples == (case.verdict.manifest.parents["benchmarks.0"],)
    starts = [unit.started_s for unit in case.evidence.targets[0].units]
    assert len(set(starts)) > 1
    assert case.measured_until_s == max(starts)
    assert case.newest_s == (("ort-cpu", max(starts)),)


def test_the_newest_sample_of_all_targets_dates_the_case(stand: Stand) -> None:
    """The latest of them, whichever target it is of; machines are named once each, in order."""
    first = stand.case.evidence.targets[0]
    late = [msgspec.structs.replace(unit, started_s=unit.started_s + 5) for unit in first.units]
    other = msgspec.structs.replace(first.machine, instance="aaa")
    targets = (
        msgspec.structs.replace(first, target="b", units=tuple(late)),
        first,
        msgspec.structs.replace(first, target="c", units=(), machine=other),
    )
    case = replace(
        stand.case, evidence=msgspec.structs.replace(stand.case.evidence, targets=targets)
    )
    newest = max(unit.started_s for unit in first.units)
    assert case.measured_until_s == newest + 5
    assert case.newest_s == (("b", newest + 5), ("ort-cpu", newest), ("c", None))
    assert case.machines == ("aaa", "box-a")
    none = msgspec.structs.replace(stand.case.evidence, targets=targets[2:])
    assert replace(stand.case, evidence=none).measured_until_s is None


def test_samples_are_listed_in_their_order(stand: Stand) -> None:
    """However many benchmarks there are; a number that is left out shows as nothing."""
    manifest = stand.case.verdict.manifest
    parents = {"benchmarks.1": "b", "benchmarks.0": "a", "engines.0": "c", "benchmarks.3": "d"}
    parents["benchmarkset.0"] = "e"
    verdict = replace(
        stand.case.verdict, manifest=msgspec.structs.replace(manifest, parents=parents)
    )
    assert replace(stand.case, verdict=verdict).samples == ("a", "b", "")


@pytest.mark.parametrize(("policy_days", "own_days", "days"), [(3, 5, 3), (5, 3, 3)])
def test_evidence_counts_for_the_shorter_time(
    stand: Stand, policy_days: float, own_days: float, days: float
) -> None:
    """By the policy and by the promoter's own limit, whichever is less."""
    policy = msgspec.structs.replace(stand.case.policy, valid_for_days=policy_days)
    promoter = msgspec.structs.replace(stand.authority.promoter, max_valid_for_days=own_days)
    authority = replace(stand.authority, promoter=promoter)
    assert replace(stand.case, policy=policy).valid_for_days(authority) == days


MANY = ("none", "twice", "and another")


def with_digest(artifact: Artifact[Any], digest: str = ZERO) -> Artifact[Any]:
    return replace(artifact, digest=digest)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        *((what, "other") for what in ("candidate", "plan", "table", "engines", "profiles")),
        *((what, change) for what in ("engines", "profiles") for change in MANY),
    ],
)
def test_what_was_handed_in_is_what_was_judged(stand: Stand, what: str, change: str) -> None:
    """One for one: another, none, one too many, or the same one twice is refused, by its own reason."""
    found = getattr(stand.staged, what)
    many = isinstance(found, tuple)
    given = {
        "other": (with_digest(found[0]),) if many else with_digest(found),
        "none": (),
        "twice": (*found, *found) if many else (),
        "and another": (*found, with_digest(found[0])) if many else (),
    }[change]
    with refused(f"{what}_not_judged") as caught:
        stand.judged(**{what: given})
    stranger = found[0].path if many else found.path
    missing = change in ("none", "twice")
    assert caught.value.where == str(stand.staged.verdict.path if missing else stranger)
    assert caught.value.fix == AGAIN


def test_what_was_measured_is_what_was_judged(stand: Stand, tmp_path: Path) -> None:
    """The samples' own candidate and engines, and each fact that the evidence tells of an engine."""
    staged, evidence = stand.staged, stand.case.evidence
    acceptance._check_judged(staged, evidence)
    for arms in ({**evidence.arms, "candidate": ZERO}, {}):
        with refused("candidate_not_measured"):
            acceptance._check_judged(staged, msgspec.structs.replace(evidence, arms=arms))
    (fact, *others) = evidence.engines
    for engines in (
        (msgspec.structs.replace(fact, bytes=fact.bytes + 1), *others),
        (*others, fact),
    ):
        told = msgspec.structs.replace(evidence, engines=engines)
        with refused("engines_not_measured") if fact not in engines else nullcontext():
            acceptance._check_judged(staged, told)


@pytest.mark.parametrize("of_second", [ZERO, "sha256:" + "1" * 64])
def test_each_benchmark_is_of_engines_that_were_handed_in(
    stand: Stand, tmp_path: Path, of_second: str
) -> None:
    """As many, each once, whatever the order of the machines."""
    staged = stand.staged
    first = ancestor(staged.verdict, "benchmarks.0", Benchmark)
    second = msgspec.structs.replace(first, parents={**first.parents, "engines": of_second})
    shutil.copytree(staged.verdict.path, tmp_path / "verdict")
    name = f"ancestors/{digest_of(second).removeprefix('sha256:')}.json"
    (tmp_path / "verdict" / name).write_bytes(canonical(second))
    manifest = staged.verdict.manifest
    told = msgspec.structs.replace(
        manifest,
        parents={**manifest.parents, "benchmarks.1": digest_of(second), "engines.1": ZERO},
        payload={**manifest.payload, name: ZERO},
    )
    both = replace(
        staged,
        verdict=replace(staged.verdict, manifest=told, path=tmp_path / "verdict"),
        engines=(*staged.engines, with_digest(staged.engines[0])),
    )
    with nullcontext() if of_second == ZERO else refused("engines_not_measured"):
        acceptance._check_judged(both, stand.case.evidence)


def test_the_report_tells_of_the_verdict(stand: Stand, tmp_path: Path) -> None:
    """A report is no part of the judgement, but not of another verdict either."""
    assert stand.staged.report is None
    report = Artifact(
        manifest=msgspec.structs.replace(
            stand.staged.plan.manifest, parents={"verdict": stand.staged.verdict.digest}
        ),
        path=tmp_path,
        digest=ZERO,
    )
    assert stand.judged(report=report)
    other = replace(
        report, manifest=msgspec.structs.replace(report.manifest, parents={"verdict": ZERO})
    )
    with refused("report_of_another") as caught:
        stand.judged(report=other)
    assert caught.value.where == str(tmp_path)
    assert caught.value.fix == "run report again"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "letters"}, "other_model"),
        ({"uri": "./registry"}, "other_registry"),
        ({"workspace": "team"}, "other_registry"),
    ],
)
def test_it_was_judged_for_what_is_here(stand: Stand, change: dict[str, str], reason: str) -> None:
    """The model's name, the registry and its workspace are those of the repository that promotes."""
    given = stand.given
    if "name" in change:
        given = msgspec.structs.replace(given, **change)
    else:
        registry = msgspec.structs.replace(given.registry, **change)
        given = msgspec.structs.replace(given, registry=registry)
    with refused(reason):
        check_integrity(stand.staged, given)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "letters"}, "other_model"),
        ({"dense_version": "9"}, "other_version"),
        ({"champion": ChampionRef(version="1", bundle=ZERO, receipt=ZERO)}, "champion_not_locked"),
    ],
)
def test_a_verdict_is_about_what_its_lock_names(
    stand: Stand, changes: dict[str, Any], reason: str
) -> None:
    """What its manifest says beside the judgement is not judged again: it is compared with its lock."""
    verdict = stand.staged.verdict
    manifest = msgspec.structs.replace(verdict.manifest, **changes)
    with refused(reason) as caught:
        stand.judged(verdict=replace(verdict, manifest=manifest))
    assert caught.value.where == str(verdict.path)


@pytest.mark.parametrize("field", ["headline", "attempt"])
def test_the_recorded_judgement_is_the_one_that_is_made_again(stand: Stand, field: str) -> None:
    """Letter by letter, even where the outcome is the same."""
    verdict = stand.staged.verdict
    judgement = verdict.manifest.judgement
    other = {"headline": judgement.headline + " ", "attempt": judgement.attempt + 1}[field]
    changed = msgspec.structs.replace(judgement, **{field: other})
    manifest = msgspec.structs.replace(verdict.manifest, judgement=changed)
    with refused("judgement_differs", "not the one that its own samples give"):
        stand.judged(verdict=replace(verdict, manifest=manifest))


def test_another_procedure_is_not_known(stand: Stand) -> None:
    """It is not judged again by this one: refused, whatever the samples give."""
    verdict = stand.staged.verdict
    judgement = msgspec.structs.replace(verdict.manifest.judgement, procedure="0")
    manifest = msgspec.structs.replace(verdict.manifest, judgement=judgement)
    with refused("procedure_unknown", "judged by procedure '0'") as caught:
        stand.judged(verdict=replace(verdict, manifest=manifest))
    assert caught.value.where == str(verdict.path)


# --- what may move the champion ------------------------------------------------------------------


def test_what_is_as_it_was_judged_may_move_it(stand: Stand) -> None:
    assert (acceptance.DAY_S, CLOCK_SKEW_S) == (DAY_S, 300)
    stand.accepted()


def test_the_age_of_the_evidence_has_limits(stand: Stand) -> None:
    """To the second: as old as is allowed, as far ahead as clocks may differ, and no more."""
    newest = stand.case.measured_until_s
    assert newest is not None
    limit_s = 14 * DAY_S
    stand.accepted(now=newest + limit_s)
    stand.accepted(now=newest - CLOCK_SKEW_S)
    with refused("evidence_too_old", "14.0 days old; 14 are allowed"):
        stand.accepted(now=newest + limit_s + 1)
    with refused("evidence_from_future"):
        stand.accepted(now=newest - CLOCK_SKEW_S - 1)


def test_evidence_without_targets_is_of_no_time(stand: Stand) -> None:
    """No target, no age: refused, and not passed for want of anything to look at."""
    nothing = msgspec.structs.replace(stand.case.evidence, targets=())
    with refused("evidence_undated", "any target"):
        stand.accepted(evidence=nothing)


@pytest.mark.parametrize(
    ("trusted", "here", "reason"),
    [
        ((), ("box-a",), ""),
        ((), (), "evidence_undated"),
        (("box-a",), ("box-a",), ""),
        (("box-b", "box-a"), ("box-a",), ""),
        (("box-a", "box-b"), ("box-a", "box-b"), ""),
        (("box-b",), ("box-a",), "machine_not_trusted"),
        (("box-a",), ("box-a", "box-b"), "machine_not_trusted"),
        (("box-a",), (), "machine_not_trusted"),
    ],
)
def test_machines_are_trusted_by_name(
    stand: Stand, trusted: tuple[str, ...], here: tuple[str, ...], reason: str
) -> None:
    """Where the promoter names machines, each sample is of one of them; and there is one at least."""
    first = stand.case.evidence.targets[0]
    targets = tuple(
        msgspec.structs.replace(
            first, machine=msgspec.structs.replace(first.machine, instance=instance)
        )
        for instance in here
    )
    promoter = msgspec.structs.replace(stand.authority.promoter, machines=trusted)
    with refused(reason) if reason else nullcontext():
        stand.accepted(
            evidence=msgspec.structs.replace(stand.case.evidence, targets=targets),
            authority=replace(stand.authority, promoter=promoter),
        )


def test_strangers_are_told_in_order(stand: Stand) -> None:
    """All of them, so that the same refusal has the same words."""
    first = stand.case.evidence.targets[0]
    targets = tuple(
        msgspec.structs.replace(
            first, machine=msgspec.structs.replace(first.machine, instance=name)
        )
        for name in "dgbaecf"
    )
    evidence = msgspec.structs.replace(stand.case.evidence, targets=targets)
    assert replace(stand.case, evidence=evidence).machines == tuple("abcdefg")
    promoter = msgspec.structs.replace(stand.authority.promoter, machines=("a", "z"))
    with refused("machine_not_trusted", r"\['b', 'c', 'd', 'e', 'f', 'g'\]"):
        stand.accepted(evidence=evidence, authority=replace(stand.authority, promoter=promoter))


def test_the_minimum_policy_is_the_promoters(stand: Stand) -> None:
    """A policy that demands as much passes, one that demands less is refused, and told where."""
    policy = stand.case.policy
    for alpha, context in ((policy.alpha, nullcontext()), (policy.alpha / 2, None)):
        minimum = msgspec.structs.replace(policy, alpha=alpha)
        promoter = msgspec.structs.replace(stand.authority.promoter, minimum_policy=minimum)
        with context or refused("policy_too_weak", "alpha is"):
            stand.accepted(authority=replace(stand.authority, promoter=promoter))


def edited(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (edited("reprune.lock.yaml", "data_version: ", "data_version: x"), "lock_changed"),
        (edited("policy.yaml", "floor: 0.9", "floor: 0.91"), "policy_changed"),
        (edited("task/digits.py", "class", "# other\nclass"), "task_changed"),
        (edited("policy.yaml", "floor: 0.9", "floor: 0.90"), ""),
    ],
)
def test_the_repository_is_as_it_was_judged(
    stand: Stand, tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    """Lock, policy and task lie there as they were; what is written otherwise and says the same does."""
    root = copy_repository(stand.root, tmp_path / "repo")
    change(root)
    with refused(reason) if reason else nullcontext():
        stand.accepted(root=root)


def test_the_params_are_those_that_were_locked(stand: Stand) -> None:
    """The params that promote itself reads, not only the file."""
    given = msgspec.structs.replace(stand.given, seed=stand.given.seed + 1)
    with refused("params_changed") as caught:
        replace(stand, given=given).accepted()
    assert caught.value.where.endswith("params.yaml")


def test_one_policy_lies_there_is_locked_and_was_judged_by(stand: Stand, tmp_path: Path) -> None:
    """All three, not two of them."""
    manifest = stand.case.verdict.manifest
    other = msgspec.structs.replace(manifest, policy=ZERO)
    with refused("policy_changed"):
        stand.accepted(verdict=replace(stand.case.verdict, manifest=other))
    root = copy_repository(stand.root, tmp_path / "repo")
    lock = msgspec.structs.replace(stand.case.lock, policy=ZERO)
    write_lock(root, lock)
    locked = msgspec.structs.replace(manifest, lock=lock.digest)
    with refused("policy_changed"):
        stand.accepted(root=root, verdict=replace(stand.case.verdict, manifest=locked))


# --- what the registry says ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def second(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    """One is champion, and the next generation was judged against it."""
    root = copy_repository(template, tmp_path_factory.mktemp("second") / "repo")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        promoted(root)
        next_generation(root, dense_version="2")
    staged = stage(evidence(root), root / "staged")
    given = read_params(root / "params.yaml")
    return Stand(root, staged, given, check_integrity(staged, given), read_promoter(root))


def strangers(authority: Authority, tmp_path: Path) -> Authority:
    """The authority of somebody who trusts none of the keys that signed what is there."""
    from reprune.steps.promoter import make_promoter

    make_promoter(tmp_path / "other")
    return read_promoter(tmp_path / "other")


@pytest.mark.slow
def test_the_second_may_follow_the_first(second: Stand) -> None:
    second.accepted()


def test_champion_and_anchor_are_those_of_the_lock(second: Stand) -> None:
    """Asked of the registry, for the lock that was judged."""
    lock = second.case.lock
    with pytest.raises(ChampionMoved):
        second.accepted(lock=msgspec.structs.replace(lock, champion="none"))
    with refused("anchor_moved"):
        second.accepted(lock=msgspec.structs.replace(lock, anchor=lock.champion))


def registered(root: Path, **changes: Any) -> None:
    """One more version, with a receipt that the promoter's own key signed: the champion's, changed."""
    registry = registry_of(root)
    (first, *_) = registry.versions(COMPRESSED)
    statement = read_receipt(registry, first).statement
    told = msgspec.structs.replace(statement.predicate, **changes)
    raw = receipts.sign(
        msgspec.structs.replace(statement, predicate=told), read_promoter(root).signer
    )
    folder = root / "one-more"
    folder.mkdir()
    (folder / receipts.RECEIPT_FILE).write_bytes(raw)
    registry.register(COMPRESSED, folder, tags_of(receipts.decode(raw, where="r")))
    shutil.rmtree(folder)


def test_the_chain_is_whole(second: Stand, tmp_path: Path) -> None:
    """A receipt since the champion's that follows one which is not there; one that follows it is none."""
    root = copy_repository(second.root, tmp_path / "repo")
    here = replace(second, root=root)
    locked = second.case.lock.champion
    assert isinstance(locked, ChampionRef)
    block = {"outcome": "block", "verdict": ZERO, "lock": ZERO}
    registered(root, **block, predecessor=locked.receipt)
    here.accepted()
    registered(root, **block, predecessor="sha256:" + "7" * 64, attempt=2)
    with refused("receipts_missing", "the chain of receipts is not whole: receipt sha256:"):
        here.accepted()


def test_the_chain_begins_with_the_first_where_there_is_no_champion(
    stand: Stand, second: Stand, tmp_path: Path
) -> None:
    """Without a champion no receipt may follow one that is not there, however early it came."""
    root = copy_repository(second.root, tmp_path / "repo")
    case = stand.case
    assert case.verdict.manifest.champion is None
    registered(root, outcome="block", verdict=ZERO, lock=ZERO, predecessor="sha256:" + "7" * 64)
    registry = registry_of(root)
    acceptance._check_chain(second.case, second.authority, registry_of(stand.root))
    with refused("receipts_missing"):
        acceptance._check_chain(case, second.authority, registry)


def test_its_own_registration_is_no_attempt_before_it(second: Stand, tmp_path: Path) -> None:
    """A promotion that was cut short after it was registered counts itself once, not twice."""
    root = copy_repository(second.root, tmp_path / "repo")
    (root / "empty").mkdir()
    (root / "empty" / "file").write_bytes(b"x")
    own = second.case.verdict.digest
    tags = {"reprune.verdict": own, "reprune.parent": "2", "reprune.attempt": "1"}
    registry_of(root).register(COMPRESSED, root / "empty", tags)
    replace(second, root=root).accepted()


def test_a_champion_that_a_stranger_signed_is_foreign(second: Stand, tmp_path: Path) -> None:
    """It is the locked one, by every digest, and still counts only under a key that is trusted."""
    authority = strangers(second.authority, tmp_path)
    with pytest.raises(ChampionForeign, match="version 1: its receipt") as caught:
        check_registry_champion(second.case, authority, registry_of(second.root))
    assert "trusted_keys" in caught.value.fix


def test_a_champion_that_was_rolled_back_is_foreign(second: Stand, tmp_path: Path) -> None:
    """The alias still names it, and a tag says that somebody took it back."""
    root = copy_repository(second.root, tmp_path / "repo")
    registry_of(root).set_tags(COMPRESSED, "1", {ROLLED_BACK: ZERO})
    with pytest.raises(ChampionForeign, match="was rolled back"):
        check_registry_champion(second.case, second.authority, registry_of(root))


def anchored(root: Path, *, tagged: bool = True) -> None:
    registry = registry_of(root)
    registry.set_alias(COMPRESSED, "anchor", "1")
    if tagged:
        registry.set_tags(COMPRESSED, "1", {ANCHORED: "Ada: because"})


def asks(stand: Stand, root: Path, authority: Authority | None = None, **lock: Any) -> None:
    case = replace(stand.case, lock=msgspec.structs.replace(stand.case.lock, **lock))
    check_registry_anchor(case, authority or stand.authority, registry_of(root))


def test_the_anchor_is_the_locked_one(second: Stand, tmp_path: Path) -> None:
    """None where none was locked; else that very one, signed, and with somebody who answers for it."""
    root = copy_repository(second.root, tmp_path / "repo")
    locked = second.case.lock.champion
    asks(second, root)
    with refused(
        "anchor_moved", "the anchor was version 1 when the lock was written; now it is none"
    ):
        asks(second, root, anchor=locked)
    anchored(root, tagged=False)
    with refused("anchor_foreign", "nobody answers for it") as caught:
        asks(second, root, anchor=locked)
    assert "reprune anchor VERSION" in caught.value.fix
    anchored(root)
    asks(second, root, anchor=locked)
    with refused("anchor_moved", "was none when .* now it is version 1") as caught:
        asks(second, root)
    assert caught.value.fix == "`reprune update` and judge again"
    with refused("anchor_foreign", "the anchor's receipt is not signed") as caught:
        asks(second, root, authority=strangers(second.authority, tmp_path), anchor=locked)
    assert "reprune anchor VERSION" in caught.value.fix


def test_an_anchor_that_is_gone_or_not_ours(second: Stand, tmp_path: Path) -> None:
    """Its alias deleted is lost; on a version without a receipt it is foreign."""
    root = copy_repository(second.root, tmp_path / "repo")
    locked = second.case.lock.champion
    anchored(root)
    aliases = root / "registry" / COMPRESSED / "aliases.json"
    kept = aliases.read_bytes()
    aliases.write_text('{"champion": "1"}')
    with refused("anchor_lost"):
        asks(second, root, anchor=locked)
    aliases.write_bytes(kept)
    (root / "empty").mkdir()
    (root / "empty" / "file").write_bytes(b"x")
    registry = registry_of(root)
    version = registry.register(COMPRESSED, root / "empty", {})
    registry.set_alias(COMPRESSED, "anchor", version)
    with refused("anchor_foreign"):
        asks(second, root, anchor=locked)


def test_attempts_are_those_on_record(second: Stand, tmp_path: Path) -> None:
    """As many others as it counts are too many; one less is what it said."""
    root = copy_repository(second.root, tmp_path / "repo")
    (root / "empty").mkdir()
    (root / "empty" / "file").write_bytes(b"x")
    tags = {"reprune.verdict": ZERO, "reprune.parent": "2", "reprune.attempt": "1"}
    registry_of(root).register(COMPRESSED, root / "empty", tags)
    here = replace(second, root=root)
    with refused("attempt_understated", "judged as attempt 1 .* but 1 other") as caught:
        here.accepted()
    assert "dvc repro -f previous" in caught.value.fix
    here.accepted(judgement=msgspec.structs.replace(second.case.judgement, attempt=2))


# --- what a refusal says -------------------------------------------------------------------------


def test_what_cannot_be_used_is_a_refusal_about_the_users_own_file(tmp_path: Path) -> None:
    """Every kind of error, with its code as the reason; other errors stay what they are."""
    folder, own = tmp_path / "copy", tmp_path / "own"
    where = str(folder / "plan" / "x")
    for error, reason in (
        (PromotionRefused("a", reason="r", where=where, fix="f"), "r"),
        (ArtifactError("a", where=where, fix="f"), "artifact"),
        (DocumentError("a", where=where, fix="f"), "document"),
    ):
        with refused(reason) as caught, refusing(folder, {"plan": own}):
            raise error
        assert (caught.value.what, caught.value.where, caught.value.fix) == ("a", f"{own}/x", "f")
    with pytest.raises(KeyError), refusing(folder, {}):
        raise KeyError
