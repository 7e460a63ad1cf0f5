"""What a run learns from the registry's record reaches the evidence, and is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from reprune.core import store
from reprune.core.artifacts import Previous, Verdict, VerdictSummary, Waiver
from reprune.core.lock import ChampionRef
from reprune.judge.verdict import judge
from reprune.steps.assemble import assemble
from reprune.steps.gate import read_grounds
from reprune.steps.past import champion_newest, eval_uses, waivers
from tests.chain import EVAL_DIGEST, Chain, write_chain

DIGEST = "sha256:" + "0" * 64
CHAMPION = ChampionRef(version="2", bundle=DIGEST, receipt=DIGEST)
WAIVER = Waiver(
    by="Ada",
    reason="worse still",
    expires="1970-01-12",
    rules=("accuracy.floor on ort-cpu",),
    verdict=DIGEST,
    candidate=DIGEST,
    policy=DIGEST,
)


def summary(version: str, **fields: object) -> VerdictSummary:
    given: dict[str, object] = {"outcome": "pass", "reasons": (), "promoted": True}
    return VerdictSummary(
        dense_version=version,
        compressed_version=version,
        verdict=f"sha256:{version}",
        **(given | fields),  # type: ignore[arg-type]
    )


def previous(
    *history: VerdictSummary, champion: ChampionRef | None = None, **fields: object
) -> Previous:
    return Previous(
        name="digits",
        dense_version="3",
        champion=champion,
        anchor=None,
        attempts=0,
        history=history,
        **fields,  # type: ignore[arg-type]
    )


def test_uses_count_this_verdict() -> None:
    """The first is 1; what an older record did not count is unknown, and never taken for fresh."""
    assert eval_uses(previous(), "e") == 1
    assert eval_uses(previous(uses={"e": 22, "f": 1}), "e") == 23
    assert eval_uses(previous(uses={"f": 1}), "e") == 1
    assert eval_uses(previous(summary("1")), "e") == 0
    assert eval_uses(previous(champion=CHAMPION), "e") == 0


def test_the_larger_of_registry_and_ledgers_counts() -> None:
    """A look that was never promoted is in the ledger alone, one from another clone in the registry."""
    assert eval_uses(previous(), "e", [4, 7]) == 7
    assert eval_uses(previous(uses={"e": 22}), "e", [4, 7]) == 23
    assert eval_uses(previous(champion=CHAMPION), "e", [3]) == 3


def test_the_champions_newest_example() -> None:
    """Of the version that serves, not of the newest one; unknown where it was not recorded."""
    history = (
        summary("1", newest_time="2026-01"),
        summary("2", newest_time="2026-02"),
        summary("3"),
    )
    assert champion_newest(previous(*history, champion=CHAMPION)) == "2026-02"
    assert champion_newest(previous(*history)) is None
    assert champion_newest(previous(history[0], history[2], champion=CHAMPION)) is None
    third = msgspec.structs.replace(CHAMPION, version="3")
    assert champion_newest(previous(*history, champion=third)) is None


def test_only_what_promoted_is_an_override() -> None:
    """A promotion that was cut short under an override has promoted nothing."""
    used = summary("1", outcome="block", waiver=WAIVER)
    short = summary("2", outcome="block", waiver=WAIVER, promoted=False)
    assert waivers(previous(used, short, summary("3"))) == (WAIVER,)
    assert summary("3").waiver is UNSET


@pytest.fixture
def judged(tmp_path: Path) -> Chain:
    chain = write_chain(tmp_path)
    chain.judged()
    return chain


def test_it_reaches_the_evidence_and_is_told(judged: Chain) -> None:
    """Uses, the override and the contract's warnings come from what the gate was given."""
    from dataclasses import replace

    grounds = read_grounds(store.read(judged.path("verdict"), Verdict))
    told = replace(
        grounds,
        previous=previous(
            summary("2", outcome="block", waiver=WAIVER, newest_time="2026-02"),
            champion=CHAMPION,
            uses={EVAL_DIGEST: 30},
        ),
    )
    evidence = assemble(told)
    assert (evidence.uses, evidence.champion_newest, evidence.waivers) == (31, "2026-02", (WAIVER,))
    assert evidence.contract == grounds.data.expectations
    quiet = msgspec.structs.replace(evidence, problems=(), champion_version=None)
    notes = judge(quiet, grounds.policy).notes
    assert any(
        note.startswith("An earlier champion was promoted by an override of Ada") for note in notes
    )
    assert any("judged on 31 times" in note for note in notes)
    assert assemble(grounds).uses == 1
    (measured,) = grounds.benchmarks
    counted = replace(measured, manifest=msgspec.structs.replace(measured.manifest, uses=9))
    assert assemble(replace(grounds, benchmarks=[counted])).uses == 9
