"""The gate: a verdict that anybody can make again, and that no edit survives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from reprune.core import store
from reprune.core.artifacts import PAST_PLAN, Expectation, Verdict
from reprune.core.documents import canonical, digest_of
from reprune.core.errors import ArtifactError, ChainBroken, PayloadCorrupt
from reprune.core.lock import ChampionRef
from reprune.core.step import Documents
from reprune.steps.gate import confirm, recompute
from tests.chain import POLICY, Chain, Story, reencode, write_chain

CHAMPION = ChampionRef(version="7", bundle="sha256:" + "c" * 64, receipt="sha256:" + "d" * 64)
ANCHOR = ChampionRef(version="5", bundle="sha256:" + "a" * 64, receipt="sha256:" + "b" * 64)


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))


def outcome(chain: Chain) -> str:
    return chain.judged().manifest.judgement.outcome


@pytest.mark.parametrize(
    ("story", "expected", "rule"),
    [
        (Story(), "pass", None),
        (Story(champion=CHAMPION), "pass", None),
        (Story(candidate_wrong=70), "block", "accuracy.vs_parent"),
        (
            Story(champion=CHAMPION, dense_wrong=70, candidate_wrong=70),
            "block",
            "accuracy.vs_champion",
        ),
        (Story(ratio=1.0), "block", "latency.vs_parent"),
        (Story(champion=CHAMPION, champion_ratio=1.3), "block", "latency.vs_champion"),
        (Story(candidate_wrong=14), "inconclusive", "accuracy.vs_parent"),
        (Story(units=5), "inconclusive", "latency.vs_parent"),
    ],
)
def test_outcomes_follow_the_measurements(
    tmp_path: Path, story: Story, expected: str, rule: str | None
) -> None:
    """Good passes, worse and slower are blocked by the rule that saw it, too little is inconclusive."""
    judgement = write_chain(tmp_path, story).judged().manifest.judgement
    assert judgement.outcome == expected, judgement.headline
    if rule:
        assert [r.outcome for r in judgement.rules if r.rule == rule] == [expected]
        assert judgement.reasons


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    """Judged twice, the verdict has one digest; judged again from its own directory, one judgement."""
    chain = write_chain(tmp_path)
    first = chain.judged()
    second = chain.judged()
    assert first.digest == second.digest
    moved = tmp_path / "elsewhere"
    shutil.copytree(chain.path("verdict"), moved)
    shutil.rmtree(chain.path("benchmark"))
    verdict = store.read(moved, Verdict)
    assert canonical(recompute(verdict)) == canonical(first.manifest.judgement)
    assert confirm(verdict) == first.manifest.judgement


def changed(documents: Documents, **changes: object) -> Documents:
    values = {name: getattr(documents, name) for name in ("root", "params", "policy", "lock")}
    return Documents(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lock": {"params": "sha256:" + "0" * 64}}, "params.yaml"),
        ({"lock": {"policy": "sha256:" + "0" * 64}}, "policy.yaml"),
        ({"lock": {"task": "sha256:" + "0" * 64}}, "the task"),
        ({"lock": {"data_version": "other"}}, "data"),
        ({"lock": {"dense": {"version": "2", "weights": "sha256:" + "0" * 64}}}, "dense"),
        ({"lock": {"champion": CHAMPION}}, "champion"),
        ({"lock": {"targets": ["ort-cpu", "gpu"]}}, "targets"),
        ({"lock": {"name": "other"}}, "name"),
        ({"lock": {"reprune": "0.0.9"}}, "0.0.9"),
        ({"params": {"seed": 5}}, "params.yaml"),
        ({"policy": {"alpha": 0.1}}, "policy.yaml"),
    ],
)
def test_what_the_lock_does_not_pin_is_an_error(tmp_path: Path, change: dict, words: str) -> None:
    """Each thing the lock pins, changed after the run: the verdict is an error that names it."""
    chain = write_chain(tmp_path)
    documents = chain.documents
    for name, fields in change.items():
        value = msgspec.to_builtins(getattr(documents, name)) | msgspec.to_builtins(fields)
        documents = changed(
            documents, **{name: msgspec.convert(value, type(getattr(documents, name)))}
        )
    chain = Chain(root=chain.root, documents=documents)
    judgement = chain.judged().manifest.judgement
    assert judgement.outcome == "error"
    assert any(words in reason for reason in judgement.reasons), judgement.reasons


def test_knobs_edited_after_a_step_ran_are_seen(tmp_path: Path) -> None:
    """A lock updated together with params.yaml does not hide that the steps ran with other knobs."""
    chain = write_chain(tmp_path)
    params = msgspec.structs.replace(chain.documents.params, seed=5)
    lock = msgspec.structs.replace(chain.documents.lock, params=digest_of(params))
    chain = Chain(root=chain.root, documents=changed(chain.documents, params=params, lock=lock))
    judgement = chain.judged().manifest.judgement
    assert judgement.outcome == "error"
    assert any("other knobs" in reason for reason in judgement.reasons)


def test_a_failed_data_contract_is_an_error(tmp_path: Path) -> None:
    """Nothing measured on refused data is believed."""
    failed = Expectation(
        name="overlap", split="eval", severity="critical", success=False, observed="3 shared."
    )
    chain = write_chain(tmp_path, Story(passed=False, expectations=(failed,)))
    judgement = chain.judged().manifest.judgement
    assert judgement.outcome == "error"
    assert any("3 shared" in reason for reason in judgement.reasons)


@pytest.mark.parametrize(
    ("folder", "changes", "words"),
    [
        ("candidate", {"parents": {}}, "was not made from"),
        ("plan", {"parents": {}}, "was not made from"),
        ("profile", {"parents": {}}, "was not made from"),
        ("sensitivity", {"parents": {}}, "was not made from"),
        ("data", {"parents": {}}, "was not made from"),
        (
            "benchmark",
            {"arms": {"candidate": "sha256:" + "9" * 64, "dense": "sha256:" + "8" * 64}},
            "another",
        ),
        ("plan", {"producer": {"step": "plan", "version": "0.0.1", "knobs": ""}}, "one version"),
        ("plan", {"producer": {"step": "wish", "version": "0.1.0", "knobs": ""}}, "No step"),
    ],
)
def test_artefacts_that_do_not_belong_together_are_an_error(
    tmp_path: Path, folder: str, changes: dict, words: str
) -> None:
    """A link of the chain replaced, with its own digest corrected: the next link shows it."""
    chain = write_chain(tmp_path)
    reencode(chain.path(folder), **changes)
    judgement = chain.judged().manifest.judgement
    assert judgement.outcome == "error"
    assert any(words in reason for reason in judgement.reasons), judgement.reasons


def test_engines_of_another_machine_are_an_error(tmp_path: Path) -> None:
    """An engine is measured where it was built, or the samples are of something else."""
    judgement = write_chain(tmp_path, Story(engines_machine="box-b")).judged().manifest.judgement
    assert judgement.outcome == "error"
    assert any("measured on another" in reason for reason in judgement.reasons)


def test_samples_of_two_machines_are_never_compared(tmp_path: Path) -> None:
    """Two benchmarks of one target from two machines are an error, whatever they show."""
    chain = write_chain(tmp_path)
    other = write_chain(tmp_path / "other", Story(machine="box-b"))
    shutil.copytree(other.path("benchmark"), chain.path("benchmark-b"))
    shutil.copytree(other.path("engines"), chain.path("engines-b"))
    from reprune.core.step import run
    from reprune.steps import get_step
    from tests.chain import INPUTS

    both = INPUTS | {
        "benchmarks": ["benchmark", "benchmark-b"],
        "engines": ["engines", "engines-b"],
    }
    inputs = {
        name: [chain.path(one) for one in given] if isinstance(given, list) else chain.path(given)
        for name, given in both.items()
    }
    verdict = run(
        get_step("gate"), inputs, chain.documents, chain.path("verdict"), say=lambda _: None
    )
    judgement = verdict.manifest.judgement
    assert judgement.outcome == "error"
    assert any("two machines" in reason for reason in judgement.reasons)
    assert confirm(store.read(chain.path("verdict"), Verdict)).outcome == "error"


def edit(path: Path, old: bytes, new: bytes) -> None:
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new, 1))


def forge(verdict: Path, file: str, old: bytes, new: bytes) -> None:
    """Edits a payload file and corrects every digest that the verdict itself holds."""
    edit(verdict / file, old, new)
    manifest = json.loads((verdict / store.MANIFEST).read_bytes())
    payload = manifest["payload"] | {file: store.file_digest(verdict / file)}
    reencode(verdict, payload=payload)


@pytest.mark.parametrize("file", ["evidence.json", "policy.json", "samples/0/latency/ort-cpu.json"])
def test_an_edited_payload_is_seen_at_once(tmp_path: Path, file: str) -> None:
    """One byte of any payload changed: the verdict does not even open."""
    chain = write_chain(tmp_path)
    chain.judged()
    path = chain.path("verdict") / file
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(PayloadCorrupt):
        store.read(chain.path("verdict"), Verdict)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("evidence.json", b'"attempt":1', b'"attempt":2'),
        ("policy.json", b'"max_drop":0.03', b'"max_drop":0.9'),
        ("lock.json", b'"version":"1"', b'"version":"2"'),
        ("params.json", b'"seed":0', b'"seed":1'),
        ("samples/0/latency/ort-cpu.json", b'"index":0', b'"index":9'),
        ("samples/0/examples.json", b'"e0"', b'"x0"'),
    ],
)
def test_a_careful_forgery_does_not_survive_recomputation(
    tmp_path: Path, file: str, old: bytes, new: bytes
) -> None:
    """With every digest of the verdict corrected, judging again still finds the edit."""
    chain = write_chain(tmp_path)
    chain.judged()
    forge(chain.path("verdict"), file, old, new)
    verdict = store.read(chain.path("verdict"), Verdict)
    with pytest.raises((ChainBroken, PayloadCorrupt)):
        confirm(verdict)


def test_an_edited_outcome_does_not_survive_recomputation(tmp_path: Path) -> None:
    """`block` rewritten to `pass`, digest corrected: judging again says otherwise."""
    chain = write_chain(tmp_path, Story(candidate_wrong=70))
    chain.judged()
    manifest = json.loads((chain.path("verdict") / store.MANIFEST).read_bytes())
    reencode(chain.path("verdict"), judgement=manifest["judgement"] | {"outcome": "pass"})
    with pytest.raises(ChainBroken, match="not what its own samples give"):
        confirm(store.read(chain.path("verdict"), Verdict))


def test_an_ancestor_cannot_be_swapped_or_left_out(tmp_path: Path) -> None:
    """Each ancestor's copy is named by its digest, and all of them must be there."""
    chain = write_chain(tmp_path)
    verdict = chain.judged()
    digest = verdict.manifest.parents["chosen"].removeprefix("sha256:")
    forge(chain.path("verdict"), f"ancestors/{digest}.json", b'"keep":4', b'"keep":2')
    with pytest.raises(ChainBroken, match="digest that names it"):
        recompute(store.read(chain.path("verdict"), Verdict))
    parents = {k: v for k, v in verdict.manifest.parents.items() if k != "table"}
    reencode(chain.path("verdict"), parents=parents)
    with pytest.raises((ChainBroken, ArtifactError)):
        recompute(store.read(chain.path("verdict"), Verdict))


def test_the_champions_plan_comes_along(tmp_path: Path) -> None:
    """Byte for byte what the registry held, or the verdict does not survive; without a champion, none."""
    chain = write_chain(tmp_path / "a", Story(champion=CHAMPION, past_plan=True))
    verdict = chain.judged()
    held = chain.path("previous") / "plan" / store.MANIFEST
    assert verdict.file(PAST_PLAN).read_bytes() == held.read_bytes()
    confirm(store.read(verdict.path, Verdict))
    forge(verdict.path, PAST_PLAN, b'"keep":4', b'"keep":2')
    with pytest.raises(PayloadCorrupt, match="stored with the champion"):
        confirm(store.read(verdict.path, Verdict))
    alone = write_chain(tmp_path / "b", Story(past_plan=True)).judged()
    assert PAST_PLAN not in alone.manifest.payload


def test_an_anchor_is_judged_where_one_is_set(tmp_path: Path) -> None:
    """Small losses cannot add up unseen: the anchor is an arm, and its rule can block on its own."""
    policy = POLICY.replace("vs_champion: {max_drop", "vs_anchor: {max_drop")
    for wrong, expected in ((6, "pass"), (0, "block")):
        story = Story(
            champion=CHAMPION, anchor=ANCHOR, policy=policy, dense_wrong=60, candidate_wrong=60
        )
        story.anchor_wrong = 60 if wrong else 0
        judgement = write_chain(tmp_path / expected, story).judged().manifest.judgement
        rules = {rule.rule: rule.outcome for rule in judgement.rules}
        assert rules["accuracy.vs_anchor"] == expected, judgement.headline


def test_a_champion_or_anchor_that_was_not_measured_is_an_error(tmp_path: Path) -> None:
    """The registry names one, the benchmark has another or none: nothing is decided."""
    chain = write_chain(tmp_path, Story(champion=CHAMPION))
    arms = json.loads((chain.path("benchmark") / store.MANIFEST).read_bytes())["arms"]
    reencode(chain.path("benchmark"), arms=arms | {"champion": "sha256:" + "9" * 64})
    judgement = chain.judged().manifest.judgement
    assert judgement.outcome == "error"
    assert any("another champion" in reason for reason in judgement.reasons)
