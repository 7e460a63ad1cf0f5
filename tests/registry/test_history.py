"""history: every version is told, by what its receipt says and is trusted for; and what waits for whom."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from reprune.core.documents import decode_json
from reprune.core.errors import (
    ChampionLost,
    InputError,
    PayloadCorrupt,
    ReceiptInvalid,
    RegistryUnreachable,
)
from reprune.doors.cli import main
from reprune.doors.output import HistoryOutput
from reprune.registry.compressed import champion
from reprune.registry.generations import Figure, Generation, History, Waiting
from reprune.registry.tags import CLOSED, CLOSES, PROMOTED, WHY
from reprune.report.columns import width
from reprune.report.history import WIDTH, render_history, render_waiting, spark
from reprune.steps import history as history_module
from reprune.steps.adopt import adopt
from reprune.steps.diff import diff
from reprune.steps.history import history
from reprune.steps.override import Request, override
from reprune.steps.promoter import make_promoter
from reprune.steps.rollback import rollback
from tests.chain import POLICY, Story
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    copy_repository,
    next_generation,
    promoted,
    ready,
    registry_of,
)
from tests.registry.test_adopt import foreign
from tests.registry.test_override import DAY_S, LATEST, allow

BLOCKED = {"candidate_wrong": 70}
UNDECIDED = {"candidate_wrong": 12}


@pytest.fixture(scope="module")
def story_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1 somebody's, 2 adopted, 3 passed, 4 blocked, 5 passed, 6 rolled back, 7 blocked, 8 the same,
    overridden, 9 a note of the service, 10 undecided.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        root = tmp_path_factory.mktemp("story")
        ready(root)
        foreign(root)
        allow(root)
        adopt(root, version=None, by="Ada", reason="served in May", now=NOW_S, say=lambda _: None)
        for dense, told in (("1", {}), ("2", BLOCKED), ("3", {"ratio": 0.5})):
            next_generation(root, dense_version=dense, **told)
            promoted(root)
        rollback(root, to=None, by="Grace", reason="wrong labels", now=NOW_S, say=lambda _: None)
        next_generation(root, dense_version="4", **BLOCKED)
        promoted(root)
        overridden(root)
        promoted(root)
        note(root, "superseded", "5 6", "version 7 is newer")
        next_generation(root, dense_version="7", **UNDECIDED)
        promoted(root)
    return root


@pytest.fixture
def root(story_once: Path, tmp_path: Path) -> Path:
    return copy_repository(story_once, tmp_path / "repo")


def overridden(root: Path, by: str = "Ada", expires: str = LATEST) -> None:
    request = Request(by=by, reason="a class that we retire", expires=expires)
    override(root, root / "artifacts/verdict", request, now=NOW_S)


def note(root: Path, state: str, dense: str, why: str) -> str:
    folder = root / "note"
    folder.mkdir(exist_ok=True)
    (folder / "closed.json").write_text("{}")
    marks = {CLOSED: state, CLOSES: dense, WHY: why}
    return registry_of(root).register(COMPRESSED, folder, marks)


def told(root: Path, *, most: int | None = None) -> History:
    return history(root, most=most, now=NOW_S)


def by_version(root: Path) -> dict[str, Generation]:
    return {each.version: each for each in told(root).generations}


def waits(root: Path) -> list[tuple[str, str | None]]:
    return [(each.why, each.dense) for each in told(root, most=0).waiting]


@pytest.mark.slow
def test_every_version_is_told_newest_first(root: Path) -> None:
    """States, people, and which version serves; the receipts are verified."""
    found = told(root)
    assert [(each.version, each.kind, each.state) for each in found.generations] == [
        ("10", "judged", "inconclusive"),
        ("9", "closed", "superseded"),
        ("8", "judged", "serving"),
        ("7", "judged", "blocked"),
        ("6", "rollback", "rollback"),
        ("5", "judged", "rolled back"),
        ("4", "judged", "blocked"),
        ("3", "judged", "promoted"),
        ("2", "adoption", "promoted"),
        ("1", "foreign", "not ours"),
    ]
    assert (found.champion, found.unchecked, found.gaps, found.total) == ("8", "", (), 10)
    versions = {each.version: each for each in found.generations}
    assert [each.version for each in found.generations if each.serves] == ["8"]
    assert [each.version for each in found.generations if each.signed] == [
        "10", "8", "7", "6", "5", "4", "3", "2",
    ]  # fmt: skip
    assert (versions["8"].overridden, versions["8"].by, versions["8"].until) == (
        True,
        "Ada",
        LATEST,
    )
    assert versions["7"].other == "8"
    assert (versions["6"].by, versions["6"].other, versions["6"].champion) == ("Grace", "3", "5")
    assert (versions["5"].back_by, versions["5"].back_in) == ("Grace", "6")
    assert (versions["2"].by, versions["2"].reason) == ("Ada", "served in May")
    assert (versions["9"].dense, versions["9"].reason) == (("5", "6"), "version 7 is newer")
    assert versions["10"].time_s == NOW_S


def test_figures_are_the_verdict_s_own(root: Path) -> None:
    """Ratio, quality and interval as the rules in the stored verdict say; the size of the engine."""
    each = by_version(root)["5"]
    place = root / "registry" / COMPRESSED / "5" / "files" / "verdict" / "manifest.json"
    rules = {one["rule"]: one for one in json.loads(place.read_bytes())["judgement"]["rules"]}
    assert each.latency is not None
    assert each.quality is not None
    for figure, rule in ((each.latency, "latency.vs_parent"), (each.quality, "accuracy.vs_parent")):
        assert figure.rule == rule
        assert (figure.change, figure.low, figure.high) == (
            rules[rule]["change"],
            rules[rule]["low"],
            rules[rule]["high"],
        )
    assert each.latency.change == pytest.approx(0.5, abs=0.01)
    assert each.quality.loss == pytest.approx(1 / 450)
    assert each.drops == {"accuracy": each.quality.loss}
    assert each.ratios == {"ort-cpu": each.latency.change}
    assert set(each.rooms) == {"accuracy", "latency@ort-cpu"}
    assert each.size_bytes == 2000
    assert each.headline.startswith("Passed")


def test_trends_are_in_the_json_and_in_the_text(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same: here every rise is taken for one, whatever chance makes of it."""
    for module in ("judge", "report"):
        name = "trend" if module == "judge" else "trends"
        monkeypatch.setattr(f"reprune.{module}.{name}.ALPHA", 100.0)
    monkeypatch.chdir(root)
    assert main(["history", "--json"]) == 0
    found = decode_json(capsys.readouterr().out.encode(), HistoryOutput, name="history")
    (one,) = [each for each in found.history.trends if each.what == "quality"]
    assert (one.name, one.unit, one.of) == ("accuracy", "share", 5)
    assert one.blocks_in is not None
    text = render_history(told(root))
    assert "! Harder to compress: what accuracy loses rises by" in " ".join(text.split())


def test_a_verdict_that_was_touched_gives_no_interval(root: Path) -> None:
    """Changed or gone: the signed figures stay, and it is said."""
    place = root / "registry" / COMPRESSED / "5" / "files" / "verdict" / "manifest.json"
    whole = place.read_text()
    place.write_text(whole.replace('"Passed', '"passed'))
    each = by_version(root)["5"]
    assert each.latency is not None
    assert (each.latency.low, each.size_bytes) == (None, None)
    assert "its verdict is not what the receipt lists" in each.trouble
    assert each.trouble in render_history(told(root))
    place.unlink()
    assert "its verdict is gone" in by_version(root)["5"].trouble


def test_nothing_but_receipts_and_manifests_is_fetched(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a model; and a second time, receipts alone."""
    asked: list[str] = []
    opened = history_module.open_registry
    fetch = type(registry_of(root)).fetch

    def counted(self: object, *where: object, part: str = "") -> None:
        asked.append(part)
        fetch(self, *where, part=part)  # type: ignore[arg-type]

    monkeypatch.setattr(type(registry_of(root)), "fetch", counted)
    assert opened is history_module.open_registry
    told(root)
    receipts, others = asked.count("receipt.dsse.json"), set(asked) - {"receipt.dsse.json"}
    parts = ("verdict", "sensitivity", "plan", "bundle", "profile/0")
    assert others == {f"{part}/manifest.json" for part in parts}
    asked.clear()
    told(root)
    assert set(asked) == {"receipt.dsse.json"}
    assert len(asked) == receipts


@pytest.mark.parametrize("how", ["key", "tag", "receipt"])
def test_what_is_not_trusted_is_shown_as_that(root: Path, how: str) -> None:
    """Signed by a stranger, contradicted by its tags, or changed: there, and without a figure."""
    place = root / "registry" / COMPRESSED / "8"
    if how == "key":
        shutil.rmtree(root / ".reprune" / "promoter")
        make_promoter(root)
    elif how == "tag":
        content = json.loads((place / "version.json").read_text())
        content["tags"]["reprune.outcome"] = "pass"
        (place / "version.json").write_text(json.dumps(content))
    else:
        path = place / "files" / "receipt.dsse.json"
        path.write_bytes(path.read_bytes().replace(b'"sig":"', b'"sig":"A'))
    found = told(root)
    each = {one.version: one for one in found.generations}["8"]
    assert (each.state, each.signed, each.serves) == ("not trusted", False, True)
    assert each.latency is each.quality is each.outcome is None
    assert "not trusted" in render_history(found)
    assert ("champion_foreign", None) in waits(root)


def test_without_a_key_nothing_counts_as_signed(root: Path) -> None:
    """It says so before anything else, and shows what the receipts say."""
    shutil.rmtree(root / ".reprune" / "promoter")
    found = told(root)
    assert "promoter" in found.unchecked
    assert not any(each.signed for each in found.generations)
    assert render_history(found).splitlines()[1].startswith("! No signature was checked")


def test_a_deleted_version_shows_as_a_gap(root: Path) -> None:
    shutil.rmtree(root / "registry" / COMPRESSED / "4")
    found = told(root)
    assert len(found.gaps) == 1
    assert "was deleted" in " ".join(render_history(found).split())


@pytest.mark.slow
def test_an_inconclusive_verdict_waits_until_something_comes_after_it(root: Path) -> None:
    """The commands fit the lock that lies there; judged again, or the champion moved: it waits no more."""
    assert waits(root) == [("inconclusive", "7")]
    (item,) = told(root, most=0).waiting
    assert item.version == "10"
    assert "reprune update --again --dense-version 7" in item.next
    assert "reprune override --by" in item.next
    (root / "reprune.lock.yaml").unlink()
    (item,) = told(root, most=0).waiting
    assert "reprune override" not in item.next
    next_generation(root, dense_version="8", **BLOCKED)
    promoted(root)
    assert waits(root) == [("inconclusive", "7")]
    next_generation(root, dense_version="7", attempt=2, look=2, **BLOCKED)
    promoted(root)
    assert waits(root) == []


def test_the_champion_s_move_settles_what_was_judged_before(root: Path) -> None:
    rollback(root, to="3", by="Grace", reason="x", now=NOW_S, say=lambda _: None)
    assert waits(root) == []
    assert told(root).waiting == ()


def test_an_override_waits_until_it_is_used(root: Path) -> None:
    """Written; by somebody who may not; expired; for a verdict that is not registered; used."""
    overridden(root, by="Bob")
    assert waits(root) == [("override", "7")]
    (item,) = told(root, most=0).waiting
    assert "does not allow" in item.words
    assert "reprune override" in item.next
    overridden(root)
    (item,) = told(root, most=0).waiting
    assert item.next == "`reprune promote`"
    late = history(root, most=0, now=NOW_S + 100 * DAY_S).waiting[0]
    assert "expired" in late.words
    promoted(root)
    assert waits(root) == []
    next_generation(root, dense_version="8", **BLOCKED)
    overridden(root)
    assert waits(root) == [("override", None)]


def test_a_pass_that_was_cut_short_waits(root: Path) -> None:
    """Registered, and the alias never moved."""
    next_generation(root, dense_version="8")
    version = promoted(root).compressed_version
    registry = registry_of(root)
    registry.set_alias(COMPRESSED, "champion", "8")
    unmarked(root / "registry" / COMPRESSED / version)
    assert by_version(root)[version].state == "not promoted"
    assert waits(root) == [("not_promoted", "8"), ("inconclusive", "7")]


def test_a_version_that_the_service_gave_up_on_waits(root: Path) -> None:
    """Until something is judged after it; what was superseded does not wait."""
    note(root, "error", "8", "its weights are pickled")
    note(root, "superseded", "9", "version 10 is newer")
    assert waits(root) == [("refused", "8"), ("inconclusive", "7")]
    item = told(root, most=0).waiting[0]
    assert "its weights are pickled" in item.words
    assert "reprune update --dense-version 8" in item.next
    next_generation(root, dense_version="11", **BLOCKED)
    promoted(root)
    assert waits(root) == [("inconclusive", "7")]


def test_a_champion_that_is_lost_or_foreign_waits(root: Path) -> None:
    registry = registry_of(root)
    registry.set_alias(COMPRESSED, "champion", "1")
    assert waits(root)[0] == ("champion_foreign", None)
    assert "reprune adopt" in told(root, most=0).waiting[0].next
    (root / "registry" / COMPRESSED / "aliases.json").write_text("{}")
    with pytest.raises(ChampionLost):
        champion(registry, "digits")
    assert waits(root)[0] == ("champion_lost", None)
    assert "reprune rollback" in told(root, most=0).waiting[0].next


@pytest.mark.slow
def test_a_verdict_that_came_second_for_its_lock_does_not_count(root: Path) -> None:
    """Promote refuses it; where two promotes raced it is there all the same, and waits for nobody."""
    place = root / "registry" / COMPRESSED
    next_generation(root, dense_version="8", **BLOCKED)
    promoted(root)
    (place / "11").rename(root / "spare")
    next_generation(root, dense_version="8", seed=1)
    promoted(root)
    registry_of(root).set_alias(COMPRESSED, "champion", "8")
    unmarked(place / "11")
    (place / "11").rename(place / "12")
    (root / "spare").rename(place / "11")
    second = by_version(root)["12"]
    assert (second.state, second.second, second.other) == ("not promoted", True, "11")
    assert "came second for its lock" in render_history(told(root))
    assert waits(root) == [("inconclusive", "7")]


def unmarked(place: Path) -> None:
    """As a promotion that was cut short leaves a version."""
    content = json.loads((place / "version.json").read_text())
    del content["tags"][PROMOTED]
    (place / "version.json").write_text(json.dumps(content))


def test_a_dry_run_waits_for_nobody(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    ready(root, Story(policy=f"mode: dry-run\n{POLICY}"))
    promoted(root)
    assert [each.state for each in told(root).generations] == ["dry run"]
    assert waits(root) == []


def test_a_model_that_nobody_judged_has_an_empty_history(template: Path, tmp_path: Path) -> None:
    root = copy_repository(template, tmp_path / "repo")
    assert "Nothing was judged yet." in render_history(told(root))
    assert "Nothing waits" in render_waiting(told(root))
    shutil.rmtree(root / "registry")
    with pytest.raises(RegistryUnreachable):
        told(root)


def test_the_newest_are_shown_and_the_champion_is_looked_for_beyond(root: Path) -> None:
    """What waits does not depend on how much is shown."""
    found = told(root, most=1)
    assert [each.version for each in found.generations] == ["10"]
    assert found.waiting == told(root).waiting
    assert "1 of 10 versions; `reprune history --all`" in render_history(found)


def test_the_whole_fits_a_terminal_and_tells_each(root: Path) -> None:
    text = render_history(told(root))
    lines = text.splitlines()
    assert max(map(width, lines)) <= WIDTH
    for words in ("✗ serving", "overridden by Ada", "↩ rollback", "+ adopted", "‼ not ours"):
        assert words in text
    assert lines[2].startswith("  latency  ")
    assert "✓✗✓●?" in lines[4]
    assert "1 thing waits for a person: `reprune history --waiting`" in text


TEXT = st.text(max_size=20)
GENERATION = st.builds(
    Generation,
    version=TEXT,
    kind=st.sampled_from(["judged", "adoption", "rollback", "closed", "foreign"]),
    state=st.sampled_from(["serving", "promoted", "rolled back", "blocked", "not ours"]),
    serves=st.booleans(),
    dense=st.lists(TEXT, max_size=5).map(tuple),
    outcome=st.sampled_from([None, "pass", "block", "inconclusive", "error"]),
    overridden=st.booleans(),
    attempt=st.none() | st.integers(1, 999),
    latency=st.none()
    | st.builds(
        Figure,
        rule=st.just("latency.vs_parent"),
        unit=st.just("ratio"),
        change=st.floats(0.001, 1000),
        low=st.none() | st.floats(0.001, 1000),
        high=st.none() | st.floats(0.001, 1000),
        loss=st.floats(-1, 1),
    ),
    quality=st.none()
    | st.builds(
        Figure,
        rule=st.sampled_from(["accuracy.vs_parent", "mean_average_precision.vs_parent", ""]),
        unit=st.sampled_from(["share", "nats"]),
        change=st.floats(-1, 1),
        low=st.none() | st.floats(-1, 1),
        high=st.none() | st.floats(-1, 1),
        loss=st.floats(-1, 1),
    ),
    size_bytes=st.none() | st.integers(0, 10**12),
    time_s=st.none() | st.floats(0, 2e9),
    by=TEXT,
    reason=st.text(max_size=200),
    back_by=TEXT,
    headline=TEXT,
    verdict=TEXT,
    trouble=TEXT,
)
WAITING = st.builds(
    Waiting,
    why=st.sampled_from(["champion_lost", "override", "refused"]),
    version=st.none() | TEXT,
    dense=st.none() | TEXT,
    words=st.text(max_size=200),
    next=TEXT,
)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(GENERATION, min_size=1, max_size=3),
    st.lists(WAITING, max_size=1),
    st.text(min_size=1, max_size=120),
    st.integers(40, 100),
)
def test_whatever_is_in_a_registry_the_lines_fit_and_obey_nobody(
    generations: list[Generation], waiting: list[Waiting], name: str, columns: int
) -> None:
    """No line is wider than a terminal, none holds a control character, and no version is left out."""
    found = History(
        name=name,
        registry=name,
        champion=name,
        anchor=name,
        unchecked=name,
        total=len(generations),
        generations=tuple(generations),
        waiting=tuple(waiting),
        gaps=(name,),
    )
    told_all = render_history(found, columns=columns)
    for text in (told_all, render_waiting(found, columns=columns)):
        for line in text.split("\n"):
            assert width(line) <= columns, line
            assert not any(char < " " or char in "\x7f\u202e\u2028" for char in line)
    assert f"{len(generations)} of {len(generations)}" in told_all


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(0.01, 10), max_size=30))
def test_bars_are_as_high_as_what_they_stand_for(values: list[float | None]) -> None:
    figures = [
        None
        if value is None
        else Figure(
            rule="latency.vs_parent", unit="ratio", change=value, low=None, high=None, loss=0.0
        )
        for value in values
    ]
    bars = spark(figures)
    assert len(bars) == len(values)
    known = [(value, bar) for value, bar in zip(values, bars, strict=True) if value is not None]
    assert [bar for value, bar in zip(values, bars, strict=True) if value is None] == [
        "·" for value in values if value is None
    ]
    ordered = [bar for _, bar in sorted(known)]
    assert ordered == sorted(ordered)
    if known and min(known)[0] < max(known)[0]:
        assert (ordered[0], ordered[-1]) == ("▁", "█")


def test_the_command(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 0 whatever is in there; JSON that decodes as its schema says; --waiting lists no generation."""
    monkeypatch.chdir(root)
    assert main(["history", "-C", str(root), "--json"]) == 0
    output = decode_json(capsys.readouterr().out.encode(), HistoryOutput, name="output")
    assert len(output.history.generations) == 10
    assert main(["history", "-C", str(root), "--waiting", "--json"]) == 0
    output = decode_json(capsys.readouterr().out.encode(), HistoryOutput, name="output")
    assert output.history.generations == ()
    assert main(["history", "-C", str(root), "--waiting"]) == 0
    assert "1. A verdict is inconclusive (version 10, dense 7)" in capsys.readouterr().out
    assert main(["history", "-C", str(root), "--all"]) == 0
    assert "10 of 10 versions" in capsys.readouterr().out


def test_two_generations_side_by_side(root: Path) -> None:
    """By number, by dense version, by alias; the figures are those of the two verdicts."""
    found = diff(root, "3", "4")
    assert (found.before.version, found.after.version) == ("3", "4")
    assert (found.before.outcome, found.after.outcome) == ("pass", "block")
    assert found.verdicts is not None
    worse = {one.rule for one in found.verdicts.rules if one.moved == "worse"}
    assert "accuracy.vs_parent" in worse
    assert found.plan is not None
    assert found.before.checked == ""
    assert diff(root, "dense:2", "dense:1").after == replace(found.before, given="dense:1")
    assert diff(root, "champion", "8").verdicts.notes == ("Both are the same verdict.",)  # type: ignore[union-attr]
    shutil.rmtree(root / ".reprune" / "promoter")
    assert "promoter" in diff(root, "3", "4").after.checked


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1", "version 1 is not ours"),
        ("2", "a rollback or an adoption, which judged nothing"),
        ("99", "its versions are 1 to 10"),
        ("dense:9", "did you mean 'dense:"),
        ("anchor", "there is no anchor"),
    ],
)
def test_a_version_without_a_verdict_cannot_be_compared(
    root: Path, version: str, said: str
) -> None:
    with pytest.raises(InputError) as caught:
        diff(root, "3", version)
    assert said in str(caught.value)


def test_a_generation_that_was_touched_is_not_compared(root: Path) -> None:
    """A file of the verdict that is not what the receipt lists, and a receipt of a stranger's."""
    place = root / "registry" / COMPRESSED / "4" / "files" / "verdict" / "evidence.json"
    place.write_bytes(place.read_bytes() + b" ")
    with pytest.raises(PayloadCorrupt, match=r"evidence\.json"):
        diff(root, "3", "4")
    shutil.rmtree(root / ".reprune" / "promoter")
    make_promoter(root)
    with pytest.raises(ReceiptInvalid):
        diff(root, "3", "5")


def test_no_framework_is_loaded(root: Path) -> None:
    program = (
        "import sys; from reprune.doors.cli import main; code = main(['history', '--all']);"
        "print(sorted({'torch', 'mlflow', 'onnxruntime', 'kfp'} & set(sys.modules)), code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.slow
def test_on_mlflow(tmp_path: Path, mlflow_section: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adopted dense version, a generation that passes against it, one that is blocked."""
    from tests.registry.promotion import with_params

    with_params(monkeypatch, "name: digits\ntask: task.digits:DigitsTask\n")
    root = tmp_path / "repo"
    ready(root)
    adopt(
        root, version="./artifacts/dense", by="Ada", reason="served", now=NOW_S, say=lambda _: None
    )
    for dense, wrong in (("1", 6), ("2", 70)):
        next_generation(root, dense_version=dense, candidate_wrong=wrong)
        promoted(root)
    found = told(root)
    assert [(each.version, each.state) for each in found.generations] == [
        ("3", "blocked"),
        ("2", "serving"),
        ("1", "promoted"),
    ]
    assert found.generations[1].latency is not None
    assert found.generations[1].latency.low is not None
    assert (found.waiting, found.gaps) == ((), ())
