"""What promote does with a case, at each state that the registry can be in: against one in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace as other

from reprune.core.errors import ChampionForeign, ChampionMoved, PromotionRefused
from reprune.core.overrides import (
    OVERRIDES_FILE,
    Override,
    Overrides,
    overrides_text,
    read_overrides,
)
from reprune.registry.attestations import (
    EVAL_FILE,
    VERIFIED_FILE,
    EvalStatement,
    VerifiedStatement,
)
from reprune.registry.protocol import VersionInfo
from reprune.registry.receipted import read_receipt
from reprune.registry.receipts import RECEIPT_FILE, subject_digests, verify_statement
from reprune.registry.tags import PROMOTED, WAIVER
from reprune.steps.acceptance import Case
from reprune.steps.moving import Desk
from reprune.steps.promote import PromoteResult, _decide, _keep
from reprune.steps.promoter import OverrideTerms
from reprune.steps.staging import Staged
from tests.registry.memory import MODEL, STRANGER, Memory, sha
from tests.registry.promotion import MEASURED_S, registry_of
from tests.registry.test_acceptance import Stand, second, stand

__all__ = ["second", "stand"]
RULE = "accuracy.vs_parent on ort-cpu"


@dataclass
class Table:
    """A registry in memory, the desk before it, and a case with a staged copy of its own."""

    held: Memory
    desk: Desk
    staged: Staged
    case: Case
    said: list[str]

    def decide(self, case: Case | None = None) -> PromoteResult:
        for path in self.staged.folder.glob("*.dsse.json"):
            path.unlink()
        return _decide(self.desk, self.staged, case or self.case)

    def judged(self, **changes: Any) -> Case:
        """The case, judged otherwise; its verdict stays the same one."""
        return replace(self.case, judgement=other(self.case.judgement, **changes))

    def blocked(self) -> Case:
        rule = other(
            self.case.judgement.rules[0],
            rule=RULE.split(maxsplit=1)[0], target="ort-cpu", outcome="block", required=True,
        )  # fmt: skip
        return self.judged(outcome="block", rules=(rule,))

    def after_register(self, act: Callable[[str], None]) -> None:
        """Something happens between the registration and what follows."""
        inner = self.held.register

        def register(name: str, folder: Path, tags: Any) -> str:
            version = inner(name, folder, tags)
            act(version)
            return version

        self.held.register = register  # type: ignore[method-assign]

    @property
    def signer(self) -> Any:
        return self.desk.authority.signer

    def allow(self, **changes: Any) -> None:
        """Ada overrides what did not hold."""
        entry = Override(
            by="Ada", reason="because", expires=date(1970, 2, 1), rules=(RULE,),
            verdict=self.case.verdict.digest, candidate=self.case.evidence.arms["candidate"],
            policy=self.case.verdict.manifest.policy,
        )  # fmt: skip
        text = overrides_text(Overrides(overrides=(other(entry, **changes),)))
        (self.desk.root / OVERRIDES_FILE).write_text(text)


def set_up(of: Stand, held: Memory, tmp_path: Path) -> Table:
    root = tmp_path / "repo"
    shutil.copytree(of.root, root, ignore=shutil.ignore_patterns("registry", "artifacts", "staged"))
    shutil.copytree(of.staged.folder, tmp_path / "staged")
    promoter = other(of.authority.promoter, overrides=OverrideTerms(allowed_by=("Ada",)))
    said: list[str] = []
    desk = Desk(
        root=root,
        given=of.given,
        registry=held,
        authority=replace(of.authority, promoter=promoter),
        now=MEASURED_S + 60,
        say=said.append,
    )
    return Table(held, desk, replace(of.staged, folder=tmp_path / "staged"), of.case, said)


@pytest.fixture
def table(stand: Stand, tmp_path: Path) -> Table:
    return set_up(stand, Memory(), tmp_path)


@pytest.fixture
def later(second: Stand, tmp_path: Path) -> Table:
    """One is champion there already, as the real registry has it."""
    real = registry_of(second.root)
    held = Memory(identity=real.identity)
    for info in real.versions(MODEL):
        out = tmp_path / "real" / info.version
        real.fetch(MODEL, info.version, out)
        files = {
            p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()
        }
        held.held.append((replace(info, stamp=""), files))
    held.aliases["champion"] = "1"
    return set_up(second, held, tmp_path)


def refused(reason: str, match: str | None = None) -> Any:
    return pytest.raises(PromotionRefused, match=match, check=lambda error: error.reason == reason)


def test_a_pass_is_registered_and_serves(table: Table) -> None:
    """One version, whole, under a signed receipt; the alias names it, and it is marked."""
    result = table.decide()
    assert (result.outcome, result.promoted, result.already_done) == ("pass", True, False)
    assert (result.compressed_version, result.champion_after) == ("1", "1")
    assert (result.waived_by, result.dry_run) == (None, False)
    assert result.reasons == table.case.judgement.reasons
    info, files = table.held.held[0]
    receipt = read_receipt(table.held, info)
    assert receipt.digest == result.receipt
    decision = receipt.statement.predicate
    assert decision.bundle == table.staged.candidate.digest
    assert (decision.predecessor, decision.valid_for_days) == (None, 14.0)
    assert decision.signed_at_s == int(table.desk.now)
    assert set(files) == {*table.staged.file_digests()}
    assert RECEIPT_FILE in files
    assert table.held.aliases == {"champion": "1"}
    assert info.tags[PROMOTED] == result.receipt
    kept = result.artifact
    digest = result.receipt.removeprefix("sha256:")
    assert kept.path == table.desk.root / ".reprune/receipts" / digest[:24]
    assert (kept.path / RECEIPT_FILE).read_bytes() == receipt.raw
    assert kept.manifest.payload == {RECEIPT_FILE: result.receipt}
    assert kept.manifest.producer.step == "promote"
    assert kept.manifest.parents == {"verdict": table.case.verdict.digest}


@pytest.mark.parametrize("minimum", [False, True])
def test_what_serves_is_said_for_others(table: Table, minimum: bool) -> None:
    """Bundle and engines, and nothing that only judged them; a minimum only where there was one."""
    if minimum:
        promoter = other(table.desk.authority.promoter, minimum_policy=table.case.policy)
        table.desk = replace(table.desk, authority=replace(table.desk.authority, promoter=promoter))
    table.decide()
    info, files = table.held.held[0]
    listed = subject_digests(read_receipt(table.held, info).statement)
    serves = {
        name: digest
        for name, digest in listed.items()
        if name.split("/")[0] in ("bundle", "engines")
    }
    assert {name.split("/")[0] for name in serves} == {"bundle", "engines"}
    keys = table.desk.authority.keys
    for name, kind in ((EVAL_FILE, EvalStatement), (VERIFIED_FILE, VerifiedStatement)):
        said = verify_statement(files[name], kind, keys, where=name)[0]
        assert subject_digests(said) == serves
        assert name in listed
    properties = said.predicate.properties  # type: ignore[attr-defined]
    assert ("REPRUNE_MINIMUM_POLICY_MET" in properties) is minimum


def test_the_receipt_is_kept_here(table: Table) -> None:
    """As an artefact of its own, by its digest, with what became of it."""
    info = table.held.judge(outcome="block")
    receipt = read_receipt(table.held, info)
    kept = _keep(table.desk, table.case, info, receipt, "3")
    name = receipt.digest.removeprefix("sha256:")[:24]
    assert kept.path == table.desk.root / ".reprune/receipts" / name
    assert (kept.path / RECEIPT_FILE).read_bytes() == receipt.raw
    assert kept.manifest.producer.step == "promote"
    assert kept.manifest.parents == {"verdict": table.case.verdict.digest}
    assert (kept.manifest.champion_after, kept.manifest.promoted) == ("3", False)


def test_doing_it_again_is_told_as_done(table: Table) -> None:
    first = table.decide()
    again = table.decide()
    assert again.already_done
    assert (again.receipt, again.compressed_version, again.promoted) == (first.receipt, "1", True)
    assert len(table.held.held) == 1


@pytest.mark.parametrize("state", ["no alias", "no mark", "neither"])
def test_what_was_cut_short_is_completed(table: Table, state: str) -> None:
    """In the version that is there; as done counts only what was done."""
    first = table.decide()
    if state != "no alias":
        table.held.retag("1", **{PROMOTED: None})
    if state != "no mark":
        table.held.aliases.clear()
    again = table.decide()
    assert (again.already_done, again.receipt) == (False, first.receipt)
    assert len(table.held.held) == 1
    assert table.held.aliases == {"champion": "1"}
    assert table.held.info("1").tags[PROMOTED] == first.receipt


def test_what_does_not_pass_is_recorded_once(table: Table) -> None:
    """Whatever the time and the terms; nothing moves, and the second call finds it."""
    case = table.blocked()
    desk = replace(table.desk, now=MEASURED_S + 1e9)
    table.desk = desk
    result = table.decide(case)
    assert (result.outcome, result.promoted, result.already_done) == ("block", False, False)
    assert (table.held.aliases, result.champion_after) == ({}, None)
    assert PROMOTED not in table.held.info("1").tags
    assert "verified.dsse.json" not in table.held.held[0][1]
    again = table.decide(case)
    assert (again.already_done, again.receipt) == (True, result.receipt)
    assert len(table.held.held) == 1


def test_an_alias_set_by_hand_makes_no_block_a_champion(table: Table) -> None:
    """It is neither marked nor told as promoted."""
    case = table.blocked()
    table.decide(case)
    table.held.aliases["champion"] = "1"
    again = table.decide(case)
    assert (again.promoted, again.already_done, again.champion_after) == (False, True, "1")
    assert PROMOTED not in table.held.info("1").tags


def test_a_dry_run_moves_nothing(table: Table) -> None:
    result = table.decide(table.judged(dry_run=True))
    assert (result.promoted, result.dry_run, table.held.aliases) == (False, True, {})
    again = table.decide(table.judged(dry_run=True))
    assert again.already_done
    assert len(table.held.held) == 1


def test_a_pass_keeps_the_promoters_terms(table: Table) -> None:
    """Refused before anything is registered."""
    table.desk = replace(table.desk, now=MEASURED_S + 1e9)
    with refused("evidence_too_old"):
        table.decide()
    assert table.held.held == []


# --- overrides -----------------------------------------------------------------------------------


def test_an_override_lets_a_block_through(table: Table) -> None:
    """In a version of its own, where the block was recorded before."""
    case = table.blocked()
    recorded = table.decide(case)
    table.allow()
    result = table.decide(case)
    assert (result.outcome, result.promoted, result.waived_by) == ("block", True, "Ada")
    assert (result.compressed_version, table.held.aliases) == ("2", {"champion": "2"})
    receipt = read_receipt(table.held, table.held.info("2"))
    assert receipt.statement.predicate.predecessor == recorded.receipt
    assert WAIVER in table.held.info("2").tags
    assert table.decide(case).already_done
    assert len(table.held.held) == 2


def test_an_override_that_was_cut_short_is_completed(table: Table) -> None:
    """It was not used yet, and is found by what it says; once it promoted, it does so no more."""
    case = table.blocked()
    table.allow()
    first = table.decide(case)
    table.held.aliases.clear()
    table.held.retag("1", **{PROMOTED: None})
    again = table.decide(case)
    assert (again.already_done, again.receipt, len(table.held.held)) == (False, first.receipt, 1)
    table.held.aliases.clear()
    with refused("override_used"):
        table.decide(case)


def test_an_accepted_override_tells_of_no_stale_one(table: Table) -> None:
    table.allow()
    path = table.desk.root / OVERRIDES_FILE
    (entry,) = read_overrides(path).overrides
    path.write_text(overrides_text(Overrides(overrides=(entry, other(entry, verdict=sha("0"))))))
    assert table.decide(table.blocked()).promoted
    assert not any("another verdict" in line for line in table.said)


def test_another_override_is_another_version(table: Table) -> None:
    """What was registered under one is not promoted under another."""
    case = table.blocked()
    table.allow()
    table.decide(case)
    table.held.aliases.clear()
    table.held.retag("1", **{PROMOTED: None})
    table.allow(reason="another")
    result = table.decide(case)
    assert (result.compressed_version, result.promoted) == ("2", True)


def test_a_pass_and_a_dry_run_need_no_override(table: Table) -> None:
    """One that would be refused is not even read for them."""
    table.allow(by="Eve")
    dry = other(table.blocked().judgement, dry_run=True)
    assert not table.decide(replace(table.case, judgement=dry)).promoted
    with refused("override_not_allowed"):
        table.decide(table.blocked())


def test_a_pass_asks_for_no_override(table: Table) -> None:
    table.allow(by="Eve")
    assert table.decide().promoted


def test_a_stale_override_is_told(table: Table) -> None:
    table.allow(verdict=sha("0"))
    result = table.decide(table.blocked())
    assert not result.promoted
    assert any("is for another verdict on this candidate" in line for line in table.said)


# --- what else is there --------------------------------------------------------------------------


def test_another_verdict_that_came_first_is_refused(table: Table) -> None:
    """Before anything of this one is registered, and whatever this one says."""
    table.held.judge(signer=table.signer, lock=table.case.lock.digest, outcome="block")
    for case in (table.case, table.blocked()):
        with refused("lock_taken"):
            table.decide(case)
    assert len(table.held.held) == 1


def test_a_registration_that_is_not_ours_is_none(table: Table) -> None:
    """By tags alone, or signed by a stranger: told, and registered anew."""
    own = table.case.verdict.digest
    table.held.judge(signer=STRANGER, verdict=own, lock=sha("9"))
    table.held.add({"file": b"x"}, {"reprune.verdict": own})
    result = table.decide(table.blocked())
    assert result.compressed_version == "3"
    assert [line for line in table.said if "is not ours" in line][0].startswith(  # noqa: RUF015
        "promote: version 2 is not ours: carries no receipt"
    )


@pytest.mark.parametrize(
    ("to", "before", "match"),
    [("0", "1", "was rolled back"), ("0", None, "was passed over by a rollback"), ("1", None, "")],
)
def test_what_a_person_took_back_does_not_return(
    table: Table, to: str, before: str | None, match: str
) -> None:
    """By its old verdict; unless a person returned to it."""
    table.decide()
    table.held.aliases.clear()
    table.held.add({"file": b"x"}, {})
    order = table.held.held
    order.insert(0, (VersionInfo(name=MODEL, version="0", tags={}, stamp=""), {"file": b"x"}))
    first = table.held.digest("1")
    table.held.roll(to, before, signer=table.signer, predecessor=first)
    if not match:
        assert table.decide().promoted
        return
    for alias in ({}, {"champion": "0"}):
        table.held.aliases = dict(alias)
        with refused("rolled_back", match) as caught:
            table.decide()
        assert caught.value.where == f"memory: {MODEL}"
        assert "rollback --to 1" in caught.value.fix
        assert table.held.aliases == alias


def test_a_block_that_was_gone_back_past_is_no_matter(table: Table) -> None:
    """Only what could promote can return."""
    case = table.blocked()
    table.decide(case)
    table.held.held.insert(
        0, (VersionInfo(name=MODEL, version="0", tags={}, stamp=""), {"file": b"x"})
    )
    table.held.roll("0", "1", signer=table.signer)
    assert table.decide(case).already_done


def test_a_block_hides_no_override_that_was_taken_back(table: Table) -> None:
    """Of several versions with one verdict each is asked about."""
    case = table.blocked()
    table.allow()
    table.decide(case)
    table.held.aliases.clear()
    table.held.roll("9", "1", signer=table.signer, predecessor=table.held.digest("1"))
    table.held.judge(
        signer=table.signer, verdict=case.verdict.digest, lock=case.lock.digest, outcome="block"
    )
    with refused("rolled_back", "version 1 has this verdict"):
        table.decide(case)


@pytest.mark.parametrize("reason", ["lock_taken", "not_listed"])
def test_a_block_is_looked_for_after_it_was_registered(table: Table, reason: str) -> None:
    """It moves nothing, and is the accepted verdict of its lock all the same, or is refused."""

    def act(version: str) -> None:
        if reason == "not_listed":
            table.held.drop(version)
            return
        lock = table.case.lock.digest
        table.held.judge(signer=table.signer, lock=lock, verdict=sha("c"), outcome="block")
        table.held.held.insert(0, table.held.held.pop())

    table.after_register(act)
    with refused(reason):
        table.decide(table.blocked())


def test_a_champion_that_was_rolled_back_is_not_marked(table: Table) -> None:
    """The alias names it by hand, without a mark: it is looked at before it is believed."""
    table.decide()
    table.held.retag("1", **{PROMOTED: None})
    table.held.roll("9", "1", signer=table.signer)
    with pytest.raises(ChampionForeign, match="was rolled back"):
        table.decide()
    assert PROMOTED not in table.held.info("1").tags


def test_a_torn_chain_is_refused(table: Table) -> None:
    """Before anything is registered: a receipt that follows one which is not there."""
    block = {"signer": table.signer, "outcome": "block", "dense_version": "9"}
    table.held.judge(**block, verdict=sha("1"), lock=sha("1"))
    table.held.judge(**block, verdict=sha("2"), lock=sha("2"), predecessor=sha("e"))
    with refused("receipts_missing"):
        table.decide()
    assert len(table.held.held) == 2


def test_more_attempts_on_record_are_refused(table: Table) -> None:
    block = {"signer": table.signer, "outcome": "block", "dense_version": "1"}
    table.held.judge(**block, verdict=sha("1"), lock=sha("1"))
    with refused("attempt_understated"):
        table.decide()


# --- between the registration and the alias ------------------------------------------------------


def test_stored_bytes_that_differ_do_not_serve(table: Table) -> None:
    def spoil(version: str) -> None:
        files = table.held.held[-1][1]
        files["bundle/weights.safetensors"] = b"other"

    table.after_register(spoil)
    with refused("stored_differs"):
        table.decide()
    assert table.held.aliases == {}


def test_another_that_is_shown_late_counts(table: Table) -> None:
    """A verdict for the same lock with a lower number, after this one was registered."""

    def shown(version: str) -> None:
        info = table.held.judge(
            signer=table.signer, lock=table.case.lock.digest, verdict=sha("c"), outcome="block"
        )
        table.held.held.insert(0, table.held.held.pop())
        assert info.version == "2"

    table.after_register(shown)
    with refused("lock_taken"):
        table.decide()
    assert table.held.aliases == {}


@pytest.mark.parametrize("what", ["rolled back", "anchor", "champion"])
def test_what_changes_meanwhile_is_seen(later: Table, what: str) -> None:
    """Looked at once more, as late as can be: the alias stays where it was."""

    def change(version: str) -> None:
        if what == "rolled back":
            later.held.roll("1", version, signer=later.signer)
        elif what == "anchor":
            later.held.aliases["anchor"] = "1"
            later.held.retag("1", **{"reprune.anchor": "Ada: why"})
        else:
            later.held.judge(
                signer=later.signer,
                verdict=sha("c"),
                lock=sha("c"),
                predecessor=later.held.digest("1"),
            )
            later.held.aliases["champion"] = "3"

    later.after_register(change)
    before = {"champion": "1"} if what != "champion" else {"champion": "3"}
    errors: Any = ChampionMoved if what == "champion" else PromotionRefused
    with pytest.raises(errors) as caught:
        later.decide()
    if what != "champion":
        assert caught.value.reason == {"rolled back": "rolled_back", "anchor": "anchor_moved"}[what]
    assert later.held.aliases["champion"] == before["champion"]
    assert PROMOTED not in later.held.info("2").tags


@pytest.mark.parametrize("reason", ["lock_taken", "not_listed"])
def test_what_is_shown_while_it_is_read_back_is_seen(table: Table, reason: str) -> None:
    """The last look asks for the lock as well: what is shown, or hidden, only then still counts."""
    inner, count = table.held.fetch, 0

    def fetch(name: str, version: str, destination: Path, *, part: str = "") -> None:
        nonlocal count
        inner(name, version, destination, part=part)
        if version != "1" or part or count:
            return
        count += 1
        if reason == "not_listed":
            table.held.drop("1")
        else:
            lock = table.case.lock.digest
            table.held.judge(signer=table.signer, lock=lock, verdict=sha("c"), outcome="block")
            table.held.held.insert(0, table.held.held.pop())

    table.held.fetch = fetch  # type: ignore[method-assign]
    with refused(reason):
        table.decide()
    assert count == 1
    assert table.held.aliases == {}


def test_what_is_rolled_back_before_it_served_does_not(table: Table) -> None:
    """A person was quicker: between the registration and the alias."""
    table.after_register(lambda version: table.held.roll("9", version, signer=table.signer))
    with refused("rolled_back"):
        table.decide()
    assert table.held.aliases == {}


def test_the_next_one_follows_and_marks_who_served(later: Table) -> None:
    """The champion's mark is put on before the alias moves on."""
    digest = later.held.digest("1")
    later.held.retag("1", **{PROMOTED: None})
    result = later.decide()
    assert (result.compressed_version, later.held.aliases) == ("2", {"champion": "2"})
    assert later.held.info("1").tags[PROMOTED] == digest
    receipt = read_receipt(later.held, later.held.info("2")).statement.predicate
    assert receipt.predecessor == digest
    assert receipt.champion is not None
    assert receipt.champion.version == "1"
    assert msgspec.to_builtins(receipt)["registry"] == later.held.identity
