"""Overrides: what `reprune override` writes, what promote accepts of it once, and what is told later."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from reprune.core import store
from reprune.core.artifacts import Previous, Verdict, Waiver
from reprune.core.errors import Busy, ChampionForeign, ChampionLost, DocumentError, OverrideRefused
from reprune.core.overrides import (
    OVERRIDES_FILE,
    Override,
    Overrides,
    overrides_text,
    read_overrides,
)
from reprune.core.step import exclusive, run
from reprune.doors.cli import main
from reprune.registry import compressed, receipts
from reprune.registry.protocol import VersionInfo
from reprune.registry.receipts import RECEIPT_FILE
from reprune.registry.tags import EVAL
from reprune.steps import moving
from reprune.steps import promote as promote_module
from reprune.steps.fetch import fetch_previous
from reprune.steps.override import Overridden, Request, override
from tests.chain import POLICY, Chain, Story, reencode
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    copy_repository,
    evidence,
    next_generation,
    promoted,
    ready,
    refused,
    registry_of,
    versions,
    with_params,
)
from tests.registry.stand import Failing, Killed

# The clock of the chains: 1970-01-12. Its last day of validity still counts.
TODAY, LATEST = "1970-01-12", "1970-04-12"
DAY_S = 86_400
BLOCKED = Story(candidate_wrong=70)
RULES = ("accuracy.vs_parent on ort-cpu", "accuracy.floor on ort-cpu")


@pytest.fixture(scope="session")
def blocked_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a blocked verdict, made once; copy it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        root = tmp_path_factory.mktemp("blocked")
        ready(root, BLOCKED)
    return root


@pytest.fixture
def root(blocked_once: Path, tmp_path: Path) -> Path:
    """Blocked, and Ada may override."""
    return allow(copy_repository(blocked_once, tmp_path / "repo"))


def allow(root: Path, names: str = "[Ada]") -> Path:
    config = root / ".reprune" / "promoter" / "config.yaml"
    text = config.read_text()
    assert "allowed_by: []" in text
    config.write_text(text.replace("allowed_by: []", f"allowed_by: {names}"))
    return root


def asked(root: Path, *, now: float = NOW_S, **changes: object) -> Overridden:
    given = {"by": "Ada", "reason": "the old one is worse", "expires": LATEST} | changes
    return override(root, root / "artifacts/verdict", Request(**given), now=now)  # type: ignore[arg-type]


def rewritten(root: Path, **changes: object) -> None:
    """The last entry of the file, changed by hand."""
    path = root / OVERRIDES_FILE
    held = read_overrides(path)
    last = msgspec.structs.replace(held.overrides[-1], **changes)
    path.write_text(overrides_text(Overrides(overrides=(*held.overrides[:-1], last))))


def alias(root: Path) -> str | None:
    return registry_of(root).alias(COMPRESSED, "champion")


def previous(chain: Chain) -> Previous:
    run(fetch_previous, {}, chain.documents, chain.root / "prev", say=lambda _: None)
    return store.read(chain.root / "prev", Previous).manifest


def test_an_entry_is_written_and_bound(root: Path) -> None:
    """By default all that did not hold; bound to three digests; the same request again changes nothing."""
    verdict = store.read(root / "artifacts/verdict", Verdict)
    result = asked(root)
    (entry,) = read_overrides(root / OVERRIDES_FILE).overrides
    assert (result.changed, result.uncovered, result.entry) == (True, (), entry)
    assert entry == Override(
        by="Ada",
        reason="the old one is worse",
        expires=date(1970, 4, 12),
        rules=RULES,
        verdict=verdict.digest,
        candidate=verdict.manifest.parents["candidate"],
        policy=verdict.manifest.policy,
    )
    before = (root / OVERRIDES_FILE).read_bytes()
    assert not asked(root).changed
    assert (root / OVERRIDES_FILE).read_bytes() == before
    assert asked(root, reason="another").changed
    assert len(read_overrides(root / OVERRIDES_FILE).overrides) == 2


def test_of_overrides_at_once_none_is_lost(root: Path) -> None:
    """Each is written beside the others, or told to wait; never is one written over another."""

    def persistently(by: str) -> None:
        for _ in range(6000):
            with suppress(Busy):
                asked(root, by=by)
                return
            time.sleep(0.01)

    names = [f"person {number}" for number in range(12)]
    with ThreadPoolExecutor(max_workers=6) as crew:
        list(crew.map(persistently, names))
    written = read_overrides(root / OVERRIDES_FILE).overrides
    assert sorted(entry.by for entry in written) == sorted(names)


def test_an_override_beside_another_waits(root: Path) -> None:
    path = root / OVERRIDES_FILE
    with exclusive(f"overrides:{path.resolve()}", what="held"), pytest.raises(Busy) as caught:
        asked(root)
    assert "another override is writing" in caught.value.what
    assert caught.value.exit_code == 2
    assert not path.exists()
    assert asked(root).changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reason": " \n"}, "--reason is empty"),
        ({"by": ""}, "--by is empty"),
        ({"expires": "1970-01-11"}, "in the past"),
        ({"expires": "1970-04-13"}, "91 days ahead; 90 are allowed"),
        ({"expires": "tomorrow"}, "not a date"),
        (
            {"rules": ("accuracy.vs_parnt on ort-cpu",)},
            "did you mean 'accuracy.vs_parent on ort-cpu'",
        ),
        ({"rules": ("latency.vs_parent on ort-cpu",)}, "is no rule that did not hold"),
        ({"reason": "x" * 1001}, "longer than 1000"),
    ],
)
def test_what_no_promoter_could_accept_is_not_written(
    root: Path, changes: dict[str, object], words: str
) -> None:
    """Refused with what to do, and no file is made."""
    with pytest.raises(OverrideRefused, match=words) as caught:
        asked(root, **changes)
    assert caught.value.fix
    # It is what was typed that is wrong, not a place.
    assert caught.value.where == ""
    assert not (root / OVERRIDES_FILE).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outcome": "pass"}, "nothing to override"),
        ({"outcome": "error"}, "cannot be overridden"),
        ({"dry_run": True}, "dry run"),
        ({"rules": []}, "nothing was judged"),
    ],
)
def test_verdicts_that_cannot_be_overridden(
    root: Path, changes: dict[str, object], words: str
) -> None:
    """A pass, an error, a dry run and a verdict without a broken rule."""
    folder = root / "artifacts/verdict"
    judgement = store.read(folder, Verdict).manifest.judgement
    reencode(folder, judgement=msgspec.to_builtins(judgement) | changes)
    with pytest.raises(OverrideRefused, match=words):
        asked(root)


def test_a_verdict_without_a_candidate_is_not_overridden(root: Path) -> None:
    """An entry for nothing would be one that nobody can read any more."""
    folder = root / "artifacts/verdict"
    parents = dict(store.read(folder, Verdict).manifest.parents)
    parents.pop("candidate")
    reencode(folder, parents=parents)
    with pytest.raises(OverrideRefused, match="names no candidate") as caught:
        asked(root)
    assert caught.value.where == str(folder)
    assert not (root / OVERRIDES_FILE).exists()


def test_words_have_a_largest_length(root: Path) -> None:
    """As long as the file allows, and not a letter more; spaces are single."""
    assert asked(root, reason=f"  {'x' * 999}\n ").entry.reason == "x" * 999
    assert asked(root, reason="y" * 1000).entry.reason == "y" * 1000
    assert len(read_overrides(root / OVERRIDES_FILE).overrides) == 2
    with pytest.raises(OverrideRefused, match="longer than 1000"):
        asked(root, reason="y" * 1001)


def test_an_overridden_block_becomes_champion(root: Path) -> None:
    """The receipt carries the override, the outcome stays a block, and doing it again changes nothing."""
    asked(root)
    result = promoted(root)
    assert (result.outcome, result.promoted, result.waived_by) == ("block", True, "Ada")
    assert result.words.startswith(
        "block, overridden by Ada until 1970-04-12: registered as version 1"
    )
    assert alias(root) == "1"
    stated = receipts.decode(result.artifact.file(RECEIPT_FILE).read_bytes(), where="r")
    assert (
        stated.statement.predicate.waiver
        == read_overrides(root / OVERRIDES_FILE).overrides[0].waiver
    )
    assert result.artifact.manifest.promoted
    (info,) = registry_of(root).versions(COMPRESSED)
    assert (info.tags["reprune.outcome"], "reprune.waiver" in info.tags) == ("block", True)
    # Long after, and without the entry: what is done is done.
    (root / OVERRIDES_FILE).unlink()
    again = promoted(root, now=NOW_S + 300 * DAY_S)
    assert (again.already_done, again.receipt, versions(root)) == (True, result.receipt, ["1"])


def test_a_block_that_was_recorded_can_be_overridden_later(root: Path) -> None:
    """The block stays on record as it was; the override is a version of its own."""
    first = promoted(root)
    assert (first.promoted, first.waived_by) == (False, None)
    asked(root)
    second = promoted(root)
    assert (second.promoted, second.compressed_version, alias(root)) == (True, "2", "2")
    assert second.artifact.manifest.predecessor == first.receipt
    assert versions(root) == ["1", "2"]


def test_what_was_not_decided_can_be_overridden(tmp_path: Path) -> None:
    """Too few units: undecided, and a person takes it upon themselves, up to the last day."""
    ready(tmp_path, Story(units=5))
    allow(tmp_path, "[Bob, Ada]")
    assert asked(tmp_path, expires=TODAY).entry.rules == ("latency.vs_parent on ort-cpu",)
    result = promoted(tmp_path)
    assert (result.outcome, result.promoted) == ("inconclusive", True)


REFUSALS: list[tuple[str, Callable[[Path], object]]] = [
    ("override_not_allowed", lambda root: rewritten(root, by="Mallory")),
    ("override_not_allowed", lambda root: rewritten(root, by="ada")),
    ("override_expired", lambda root: rewritten(root, expires=date(1970, 1, 11))),
    ("override_too_long", lambda root: rewritten(root, expires=date(1970, 4, 13))),
    ("override_other_candidate", lambda root: rewritten(root, candidate="sha256:" + "1" * 64)),
    ("override_other_policy", lambda root: rewritten(root, policy="sha256:" + "1" * 64)),
    ("override_incomplete", lambda root: rewritten(root, rules=RULES[:1])),
]


@pytest.mark.parametrize(
    ("reason", "break_it"), REFUSALS, ids=[f"{i}-{r[0]}" for i, r in enumerate(REFUSALS)]
)
def test_refused_with_its_reason(
    root: Path, reason: str, break_it: Callable[[Path], object]
) -> None:
    """One thing is wrong with the entry: nothing is registered, whatever else is right."""
    asked(root)
    break_it(root)
    with refused(root, reason):
        promoted(root)
    assert versions(root) == []


def test_nobody_is_allowed_by_default(blocked_once: Path, tmp_path: Path) -> None:
    """A promoter that was configured before overrides were, or that says nothing, allows none."""
    root = copy_repository(blocked_once, tmp_path / "repo")
    asked(root)
    config = root / ".reprune" / "promoter" / "config.yaml"
    for text in (config.read_text(), config.read_text().replace("overrides: {allowed_by: []}", "")):
        config.write_text(text)
        with refused(root, "override_not_allowed"):
            promoted(root)


def test_an_entry_for_another_verdict_is_no_override(root: Path) -> None:
    """It went stale when the verdict moved: the block is recorded like any other."""
    asked(root)
    rewritten(root, verdict="sha256:" + "1" * 64)
    said: list[str] = []
    result = promote_module.promote(root, evidence(root), now=NOW_S, say=said.append)
    assert any(
        "the override by Ada is for another verdict on this candidate" in line for line in said
    )
    assert (result.outcome, result.promoted, alias(root)) == ("block", False, None)


def test_a_file_that_cannot_be_read_is_no_override(root: Path) -> None:
    """A wrong key in the file refuses, and names the known ones."""
    asked(root)
    path = root / OVERRIDES_FILE
    path.write_text(path.read_text().replace("reason:", "reasn:"))
    with pytest.raises(DocumentError, match="did you mean 'reason'"):
        promoted(root)
    assert versions(root) == []


def test_an_override_keeps_the_promoters_terms(root: Path) -> None:
    """Age, lock and minimum policy guard the champion whoever overrides."""
    asked(root)
    with refused(root, "evidence_too_old"):
        promoted(root, now=NOW_S + 20 * DAY_S)
    config = root / ".reprune" / "promoter" / "config.yaml"
    config.write_text(
        config.read_text()
        + "minimum_policy: {targets: {ort-cpu: required}, on_inconclusive: block}\n"
    )
    with refused(root, "policy_too_weak"):
        promoted(root)


@pytest.mark.slow
def test_an_override_is_used_once(root: Path) -> None:
    """Another champion came and went back by hand: the same entry promotes nothing again."""
    asked(root)
    promoted(root)
    entries = (root / OVERRIDES_FILE).read_text()
    next_generation(root, dense_version="2")
    second = promoted(root)
    assert (second.outcome, second.champion_after) == ("pass", "2")
    ready(root, BLOCKED)
    (root / OVERRIDES_FILE).write_text(entries)
    with refused(root, "override_used"):
        promoted(root)
    assert alias(root) == "2"


def test_an_error_is_never_overridden(tmp_path: Path) -> None:
    """An entry written by hand for a verdict that could not be judged is refused."""
    chain = ready(tmp_path, Story(attempt=0))
    allow(tmp_path)
    verdict = store.read(chain.path("verdict"), Verdict)
    assert verdict.manifest.judgement.outcome == "error"
    entry = Override(
        by="Ada",
        reason="please",
        expires=date(1970, 2, 1),
        rules=RULES,
        verdict=verdict.digest,
        candidate=verdict.manifest.parents["candidate"],
        policy=verdict.manifest.policy,
    )
    (tmp_path / OVERRIDES_FILE).write_text(overrides_text(Overrides(overrides=(entry,))))
    with refused(tmp_path, "override_of_error"):
        promoted(tmp_path)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_overridden_promotion_cut_short_completes(
    root: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed after any write: run again, it completes under the same override, in one version."""
    asked(root)
    failing = Failing(registry_of(root), at=at, after=True, error=Killed)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "open_registry", lambda *_: failing)
        with pytest.raises(Killed):
            promoted(root)
    assert promoted(root).promoted
    assert (versions(root), alias(root)) == (["1"], "1")
    assert promoted(root).already_done


def test_later_runs_know_of_the_override(root: Path) -> None:
    """fetch-previous tells the next run who overrode what, on which examples it was, and how often."""
    asked(root)
    promoted(root)
    found = previous(next_generation(root, dense_version="2"))
    (summary,) = found.history
    assert summary.promoted
    assert isinstance(summary.waiver, Waiver)
    assert (summary.waiver.by, summary.waiver.rules) == ("Ada", RULES)
    assert found.uses == {summary.eval_digest: 1}
    assert found.champion is not None
    assert summary.waiver.candidate == found.champion.bundle


@pytest.mark.slow
def test_a_long_history_forgets_neither_override_nor_champion(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of versions beyond what is fetched, those stay that an override promoted, and the one that serves."""
    monkeypatch.setattr(compressed, "HISTORY", 1)
    asked(root)
    promoted(root)
    next_generation(root, dense_version="2")
    promoted(root)
    next_generation(root, dense_version="3", candidate_wrong=70)
    promoted(root)
    next_generation(root, dense_version="4", candidate_wrong=80)
    promoted(root)
    chain = next_generation(root, dense_version="5")
    said: list[str] = []
    run(fetch_previous, {}, chain.documents, chain.root / "prev", say=said.append)
    found = store.read(chain.root / "prev", Previous).manifest
    assert [each.compressed_version for each in found.history] == ["1", "2", "4"]
    assert [bool(each.waiver) for each in found.history] == [True, False, False]
    assert found.uses == {found.history[0].eval_digest: 4}
    assert not any("warning" in line for line in said)


def test_uses_before_the_tag_count_through_receipts(root: Path) -> None:
    """A version from before the tag `reprune.eval` counts as well: its receipt names the examples."""
    promoted(root)
    registry = registry_of(root)

    class Untagged:
        """The same registry, as it would be had the tag never been written."""

        identity = registry.identity
        workspace = registry.workspace
        fetch = staticmethod(registry.fetch)

        def versions(self, name: str) -> tuple[VersionInfo, ...]:
            return tuple(without_tag(info, EVAL) for info in registry.versions(name))

    assert compressed.uses(Untagged(), "digits") == compressed.uses(registry, "digits")  # type: ignore[arg-type]
    assert sum(compressed.uses(registry, "digits").values()) == 1


def without_tag(info: VersionInfo, tag: str) -> VersionInfo:
    return replace(info, tags={key: value for key, value in info.tags.items() if key != tag})


def test_a_deleted_alias_of_an_overridden_champion_is_lost(root: Path) -> None:
    """Nobody takes "the only promoted version was a block" for "there is no champion"."""
    asked(root)
    promoted(root)
    chain = next_generation(root, dense_version="2")
    (root / "registry" / COMPRESSED / "aliases.json").write_text("{}")
    with pytest.raises(ChampionLost):
        previous(chain)


def dry(root: Path, story: Story | None = None) -> Chain:
    """A judged generation under a policy that is a dry run."""
    return ready(root, replace(story or Story(), policy=f"{POLICY}mode: dry-run\n"))


@pytest.mark.slow
def test_a_dry_run_promotes_nothing(tmp_path: Path) -> None:
    """A pass is registered and marked, never champion; the next generation still has none."""
    dry(tmp_path)
    result = promoted(tmp_path)
    assert (result.outcome, result.promoted, result.dry_run) == ("pass", False, True)
    assert "would have made it the champion" in result.words
    assert alias(tmp_path) is None
    (info,) = registry_of(tmp_path).versions(COMPRESSED)
    assert info.tags["reprune.dry_run"] == "true"
    assert promoted(tmp_path).already_done
    chain = ready(tmp_path, Story(attempt=2, attempts_before=1))
    found = previous(chain)
    assert (found.champion, found.attempts) == (None, 1)
    assert [each.promoted for each in found.history] == [False]
    registry_of(tmp_path).set_alias(COMPRESSED, "champion", "1")
    with pytest.raises(ChampionForeign, match="dry run"):
        previous(chain)


def test_a_dry_run_promotes_nothing_even_when_overridden(tmp_path: Path) -> None:
    """An entry written by hand for a blocked dry run changes nothing."""
    chain = dry(tmp_path, BLOCKED)
    allow(tmp_path)
    verdict = store.read(chain.path("verdict"), Verdict)
    entry = Override(
        by="Ada",
        reason="please",
        expires=date(1970, 2, 1),
        rules=RULES,
        verdict=verdict.digest,
        candidate=verdict.manifest.parents["candidate"],
        policy=verdict.manifest.policy,
    )
    (tmp_path / OVERRIDES_FILE).write_text(overrides_text(Overrides(overrides=(entry,))))
    result = promoted(tmp_path)
    assert (result.outcome, result.promoted, result.waived_by) == ("block", False, None)
    assert "would not promote it" in result.words
    assert alias(tmp_path) is None


def test_a_forged_dry_run_tag_hides_no_champion(tmp_path: Path) -> None:
    """The tag alone is not believed: a passed version whose alias was deleted is still lost."""
    ready(tmp_path)
    promoted(tmp_path)
    chain = next_generation(tmp_path, dense_version="2")
    registry_of(tmp_path).set_tags(COMPRESSED, "1", {"reprune.dry_run": "true"})
    (tmp_path / "registry" / COMPRESSED / "aliases.json").write_text("{}")
    with pytest.raises(ChampionLost):
        previous(chain)


def test_the_command_writes_and_says_what_is_left(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`reprune override`: exit 0 and one JSON object; a rule that is left standing is named."""
    monkeypatch.chdir(root)
    expires = (datetime.now(tz=UTC).date() + timedelta(days=5)).isoformat()
    words = ["override", "--by", "Ada", "--reason", "because", "--expires", expires]
    assert main([*words, "--rule", RULES[0], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rules"], told["uncovered"], told["changed"]) == ([RULES[0]], [RULES[1]], True)
    assert main(words) == 0
    assert "commit it, then `reprune promote`" in capsys.readouterr().err
    assert len(read_overrides(root / OVERRIDES_FILE).overrides) == 2
    assert main([*words, "--rule", "latency on mars", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "override_refused"


def test_a_dry_runs_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` exits by what the outcome would be, `promote` with 0, and both say that it is a dry run."""
    dry(tmp_path, BLOCKED)
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 3
    assert capsys.readouterr().out.startswith("❌ Dry run: would block: ")
    assert main(["promote", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["promoted"], told["dry_run"]) == ("block", False, True)
    assert alias(tmp_path) is None


@pytest.mark.slow
def test_override_on_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_section: object
) -> None:
    """The same on a real MLflow database: refused, overridden, told to the next run."""
    root = tmp_path / "repo"
    with_params(monkeypatch, "name: digits\ntask: task.digits:DigitsTask\n")
    ready(root, BLOCKED)
    asked(root)
    with refused(root, "override_not_allowed"):
        promoted(root)
    allow(root)
    assert promoted(root).champion_after == "1"
    assert promoted(root).already_done
    found = previous(next_generation(root, dense_version="2"))
    assert [each.waiver.by for each in found.history if each.waiver] == ["Ada"]
