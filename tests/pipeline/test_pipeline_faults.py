"""Every component with every input wrong: another kind, half of one, another run's, the wrong one of three.

The law of all rows: no success and no promotion, nothing left that could be taken for an artefact,
one last line that names what and what to do, the exit code of a wrong input; and once the cause
is gone the same artefact as ever.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.errors import EXIT_DONE, EXIT_INPUT
from reprune.doors.kfp.references import FOLDER, REFERENCE
from reprune.doors.kfp.run import Texts
from tests.artefact_faults import faults_of
from tests.component_run import (
    ARTEFACTS,
    OF_SETS,
    WIRING,
    Ended,
    Given,
    Run,
    call,
    complaints,
    component_of,
    copied,
    copy_project,
    put,
    registered,
    relinked,
    shared_runs,
)

pytestmark = pytest.mark.slow

T = TypeVar("T")

ROWS = [(component, name) for component, inputs in WIRING.items() for name in inputs]
LISTS = [(component, name) for component, name in ROWS if isinstance(WIRING[component][name], list)]
BUNDLES = ("fetch_model/dense", "prune/pruned", "distill/candidate")
# `make test-deep` takes all rows; else some of each table for each input, always the same ones.
EVERY = os.environ.get("REPRUNE_DEEP") == "1"
# An input of one step that only the gate can tell from the right one, and what it may be taken for.
UNSEEN: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("build", "candidate"): ("prune/pruned", "fetch_model/dense"),
    ("tensorrt_build", "candidate"): ("prune/pruned", "fetch_model/dense"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    return shared_runs(tmp_path_factory)


@pytest.fixture(scope="module")
def run(runs: tuple[Run, Run]) -> Run:
    return runs[0]


@pytest.fixture(scope="module")
def stale(runs: tuple[Run, Run]) -> Run:
    return runs[1]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    """New folders, one after the other."""
    return (tmp_path / f"row-{number}" for number in count())


def some(rows: Collection[T], number: int, seed: str) -> list[T]:
    """All of `rows`, or as many as are run each time; the seed spreads them over the inputs."""
    return list(rows) if EVERY else random.Random(seed).sample(list(rows), number)


def kind_of(folder: Path) -> str:
    kind: str = json.loads((folder / store.MANIFEST).read_bytes())["kind"]
    return kind


def with_one(given: Given, place: int, path: Path) -> Given:
    """The input with one element exchanged; a single one is exchanged itself."""
    if not isinstance(given, list):
        return path
    return [*given[:place], path, *given[place + 1 :]]


def elements(given: Given) -> list[Path]:
    return given if isinstance(given, list) else [given]


def test_the_rows_are_all_inputs_of_all_components() -> None:
    """The table of this module and the signatures of the components name the same inputs."""
    folder = Path(__file__).resolve().parents[2] / "components"
    names = {path.parent.name for path in folder.glob("*/component.py")} - {"choose_machine"}
    assert set(WIRING) == names - OF_SETS
    for name, wiring in WIRING.items():
        inputs = component_of(name).component_spec.inputs
        declared = {
            each: described.is_artifact_list
            for each, described in inputs.items()
            if described.type.startswith("system.")
        }
        assert declared == {each: isinstance(source, list) for each, source in wiring.items()}


@pytest.mark.parametrize(("component", "name"), ROWS)
def test_no_broken_or_foreign_artefact_is_taken(
    run: Run, places: Iterator[Path], component: str, name: str
) -> None:
    """Half an artefact in every way, and every other kind, in every place of the input."""
    before = registered(run.root)
    given = run.inputs(component)[name]
    wrong, rows = [], 0

    def row(what: str, place: int, path: Path) -> None:
        nonlocal rows
        out = next(places)
        ended = run.call(component, out, **{name: with_one(given, place, path)})
        rows += 1
        wrong.extend(f"{what}: {each}" for each in complaints(ended, out, str(path)))

    for place, whole in enumerate(elements(given)):
        if place and not EVERY:
            break
        faults = faults_of(whole)
        for fault in some(faults, 4, f"{component} {name}"):
            folder = copied(whole, next(places) / "given")
            faults[fault](folder)
            row(fault, place, folder)
        others = [other for other in ARTEFACTS if kind_of(run.path(other)) != kind_of(whole)]
        for other in some(others, 1, f"{component} {name}"):
            row(other, place, run.path(other))
    assert wrong == []
    assert rows >= (25 if EVERY else 5)
    assert registered(run.root) == before


def _with(text: str, change: Callable[[dict[str, object]], object]) -> str:
    value = yaml.safe_load(text)
    change(value)
    return yaml.safe_dump(value, sort_keys=False)


TEXTS: Mapping[str, Callable[[Texts], Texts]] = {
    "no lock": lambda t: replace(t, lock=""),
    "no params": lambda t: replace(t, params=""),
    "no policy": lambda t: replace(t, policy=""),
    "blank lock": lambda t: replace(t, lock=" \n\n"),
    "params as policy": lambda t: replace(t, policy=t.params),
    "policy as params": lambda t: replace(t, params=t.policy),
    "lock as params": lambda t: replace(t, params=t.lock),
    "params as lock": lambda t: replace(t, lock=t.params),
    "all turned": lambda t: Texts(t.params, t.policy, t.lock),
    "lock cut": lambda t: replace(t, lock=t.lock[: len(t.lock) // 2]),
    "params cut": lambda t: replace(t, params=t.params[: len(t.params) // 2]),
    "policy cut": lambda t: replace(t, policy=t.policy[: t.policy.index("targets") + 9]),
    "a path as lock": lambda t: replace(t, lock="reprune.lock.yaml"),
    "a list as lock": lambda t: replace(t, lock="- 1\n- 2\n"),
    "no YAML as policy": lambda t: replace(t, policy="a: [b"),
    "a knob changed": lambda t: replace(t, params=_with(t.params, lambda p: p.update(seed=7))),
    "a key unknown": lambda t: replace(t, params=_with(t.params, lambda p: p.update(sed=7))),
    "policy weakened": lambda t: replace(t, policy=_with(t.policy, lambda p: p.update(alpha=0.2))),
    "policy without rules": lambda t: replace(
        t, policy=_with(t.policy, lambda p: (p.pop("quality"), p.pop("size")))
    ),
    "lock of another Reprune": lambda t: replace(
        t, lock=_with(t.lock, lambda lock: lock.update(reprune="0.0.1"))
    ),
    "lock of another task": lambda t: replace(
        t, lock=_with(t.lock, lambda lock: lock.update(task="sha256:" + "0" * 64))
    ),
    "lock of another name": lambda t: replace(
        t, lock=_with(t.lock, lambda lock: lock.update(name="letters"))
    ),
}


@pytest.mark.parametrize("component", WIRING)
def test_no_wrong_text_is_taken(run: Run, places: Iterator[Path], component: str) -> None:
    """Lock, params and policy missing, cut, exchanged, or not those that belong together."""
    before = registered(run.root)
    wrong = []
    for what in some(TEXTS, 5, component):
        out = next(places)
        ended = run.call(component, out, texts=TEXTS[what](run.texts))
        found = complaints(ended, out)
        if not any(word in ended.last for word in ("lock", "params", "policy")):
            found.append(f"names no text: {ended.last!r}")
        wrong += [f"{what}: {each}" for each in found]
    assert wrong == []
    assert registered(run.root) == before


@pytest.mark.parametrize("component", [name for name in WIRING if name != "fetch_model"])
def test_no_lock_of_another_run_is_taken(
    run: Run, stale: Run, places: Iterator[Path], component: str
) -> None:
    """A whole lock that fits params and policy, but is another run's than the artefacts."""
    out = next(places)
    ended = run.call(component, out, texts=stale.texts)
    assert complaints(ended, out, "input '") == []
    assert "is of another run" in ended.last


def stays(run: Run, places: Iterator[Path], ended: Ended, out: Path, **judged: Given) -> str:
    """What is wrong with how the gate took its input: "" where it is refused, or judged an error.

    `judged` is handed to promote too, as if nobody had noticed, and nothing is promoted.
    """
    if ended.code != EXIT_DONE:
        return "; ".join(complaints(ended, out))
    verdict = out / "verdict"
    outcome = store.read(verdict, Verdict).manifest.judgement.outcome
    if outcome != "error":
        return f"the gate says {outcome}"
    own = copy_project(run, next(places))
    written = next(places)
    if own.call("report", written, verdict=verdict).code != EXIT_DONE:
        return "no report of the error"
    takes = {name: each for name, each in judged.items() if name in WIRING["promote"]}
    last = own.call("promote", next(places), verdict=verdict, report=written / "written", **takes)
    if last.code != EXIT_INPUT or not last.last:
        return f"promote: {last}"
    after = registered(own.root)
    return "" if after.champion is None else f"promoted: {after}"


@pytest.mark.parametrize(("component", "name"), ROWS)
def test_no_artefact_of_another_run_is_taken(
    run: Run, stale: Run, places: Iterator[Path], component: str, name: str
) -> None:
    """Whole and of the right kind, but made under another lock: refused, or the verdict is an error."""
    given, other = run.inputs(component)[name], stale.inputs(component)[name]
    wrong = []
    for place, path in enumerate(elements(other)):
        changed = with_one(given, place, path)
        out = next(places)
        ended = run.call(component, out, **{name: changed})
        found = (
            stays(run, places, ended, out, **{name: changed})
            if component == "gate"
            # The step may name the artefact that this one does not belong to.
            else "; ".join(complaints(ended, out, str(run.folder.parent)))
        )
        if found:
            wrong.append(found)
    assert wrong == []


@pytest.mark.parametrize(
    ("component", "name"),
    [row for row in ROWS if WIRING[row[0]][row[1]] in BUNDLES],
)
def test_no_other_model_of_the_same_run_is_taken(
    run: Run, places: Iterator[Path], component: str, name: str
) -> None:
    """Dense, pruned and candidate are of one kind; each in the other's place is seen."""
    wrong = []
    for other in BUNDLES:
        if other == WIRING[component][name] or other in UNSEEN.get((component, name), ()):
            continue
        path = run.path(other)
        out = next(places)
        ended = run.call(component, out, **{name: path})
        found = (
            stays(run, places, ended, out, **{name: path})
            if component == "gate"
            else "; ".join(complaints(ended, out))
        )
        if found:
            wrong.append(f"{other}: {found}")
    assert wrong == []


# One of each reason that a list is refused for.
ALWAYS = ("empty", "a machine missing", "one too many", "another run's beside them")


def shorter(given: list[Path], stale: list[Path]) -> dict[str, list[Path]]:
    """What may be wrong with a list of whole artefacts."""
    return {
        "empty": [],
        "a machine missing": given[:1],
        "the other machine missing": given[1:],
        "one twice": [given[0], given[0]],
        "one too many": [*given, given[1]],
        "all twice": given * 2,
        "another run's": stale,
        "another run's beside them": [*given, stale[0]],
    }


@pytest.mark.parametrize(("component", "name"), [row for row in LISTS if row[0] != "plan"])
def test_no_wrong_list_is_taken(
    run: Run, stale: Run, places: Iterator[Path], component: str, name: str
) -> None:
    """Nothing, too few, too many, one twice: refused, or judged an error."""
    given, other = run.inputs(component)[name], stale.inputs(component)[name]
    assert isinstance(given, list)
    assert isinstance(other, list)
    before = registered(run.root)
    wrong = []
    lists = shorter(given, other)
    for what in lists if EVERY else ALWAYS:
        changed = lists[what]
        out = next(places)
        ended = run.call(component, out, **{name: changed})
        found = (
            stays(run, places, ended, out, **{name: changed})
            if component == "gate"
            else "; ".join(complaints(ended, out))
        )
        if found:
            wrong.append(f"{what}: {found}")
    assert wrong == []
    assert registered(run.root) == before


@pytest.mark.parametrize(
    ("component", "name", "other"),
    [(*row, other) for row, others in UNSEEN.items() for other in others],
)
def test_what_only_the_gate_can_tell_is_an_error(
    run: Run, places: Iterator[Path], component: str, name: str, other: str
) -> None:
    """The step took one model for another, and all that follows was made from it: an error, not promoted."""
    made = "build-a/engines"
    wrong = relinked(run, next(places), made, {name: run.digest(other)})
    out = next(places)
    ended = wrong.call("gate", out)
    judged = {each: wrong.inputs("promote")[each] for each in ("candidate", "engines")}
    assert ended.code == EXIT_DONE, ended.said
    assert stays(wrong, places, ended, out, **judged) == ""


@pytest.mark.parametrize("profiles", [["a"], ["b", "a"], ["a", "a"]])
def test_a_plan_of_other_profiles_is_an_error(
    run: Run, places: Iterator[Path], profiles: list[str]
) -> None:
    """The plan does not know the machines: one left out, exchanged or twice is seen by the gate."""
    digests = [run.digest(f"profile-{machine}/profiled") for machine in profiles]
    links = {f"profiles.{place}": digest for place, digest in enumerate(digests)}
    links |= {f"profiles.{place}": "" for place in range(len(profiles), 2)}
    wrong = relinked(run, next(places), "plan/chosen", links)
    out = next(places)
    ended = wrong.call("gate", out)
    assert ended.code == EXIT_DONE, ended.said
    assert stays(wrong, places, ended, out) == ""


@pytest.mark.deep
@pytest.mark.parametrize("other", UNSEEN["build", "candidate"])
def test_build_cannot_tell_and_the_gate_can(run: Run, places: Iterator[Path], other: str) -> None:
    """The step is really run on the wrong model, and what it builds is judged with the rest."""
    built = next(places)
    ended = run.call("build", built, candidate=run.path(other))
    if ended.code != EXIT_DONE:
        assert complaints(ended, built) == []
        return
    engines = [built / "engines", run.path("build-b/engines")]
    out = next(places)
    assert stays(run, places, run.call("gate", out, engines=engines), out, engines=engines) == ""


@pytest.mark.deep
@pytest.mark.parametrize("fault", ["a machine missing", "one twice"])
def test_plan_cannot_tell_and_the_gate_can(run: Run, places: Iterator[Path], fault: str) -> None:
    """The step is really run on a wrong list of profiles, and its plan is judged with the rest."""
    profiles = run.inputs("plan")["profiles"]
    assert isinstance(profiles, list)
    planned = next(places)
    ended = run.call("plan", planned, profiles=shorter(profiles, profiles)[fault])
    assert ended.code == EXIT_DONE, ended.said
    chosen = planned / "chosen"
    out = next(places)
    assert stays(run, places, run.call("gate", out, chosen=chosen), out, chosen=chosen) == ""


def test_a_plan_without_profiles_is_refused(run: Run, stale: Run, places: Iterator[Path]) -> None:
    """An empty list, and one with another run's profile in it."""
    own, other = run.inputs("plan")["profiles"], stale.inputs("plan")["profiles"]
    assert isinstance(own, list)
    assert isinstance(other, list)
    for profiles in ([], other, [*own, other[0]]):
        out = next(places)
        assert complaints(run.call("plan", out, profiles=profiles), out) == []


def test_engines_of_another_machine_are_not_measured(run: Run, places: Iterator[Path]) -> None:
    """The benchmark of machine a handed the engines of b, and of a machine that nobody has."""
    out = next(places)
    ended = run.call("benchmark", out, engines=run.path("build-b/engines"))
    assert complaints(ended, out) == []
    out = next(places)
    ended = run.call("benchmark", out, machine="c", engines=run.path("build-b/engines"))
    assert complaints(ended, out) == []
    assert "'c'" in ended.last


def _noted(run: Run, workspace: Path) -> Path:
    """The verdict in a workspace, and the folder with the note that travels."""
    digest = run.digest("gate/verdict")
    name = digest.removeprefix("sha256:")
    copied(run.path("gate/verdict"), workspace / FOLDER / name)
    note = workspace / "handed"
    note.mkdir()
    (note / REFERENCE).write_text(json.dumps({"digest": digest}))
    return note


NOTES: Mapping[str, Callable[[Path, Path], object]] = {
    "no such artefact any more": lambda note, there: shutil.rmtree(there),
    "half of the artefact": lambda note, there: (there / store.MANIFEST).unlink(),
    "no digest": lambda note, there: (there / store.DIGEST).unlink(),
    "another artefact in its place": lambda note, there: put(
        there / store.DIGEST, b"sha256:" + b"1" * 64
    ),
    "a cut note": lambda note, there: (note / REFERENCE).write_text('{"digest": '),
    "an empty note": lambda note, there: (note / REFERENCE).write_text(""),
    "a note of something else": lambda note, there: (note / REFERENCE).write_text('{"a": 1}'),
}


@pytest.mark.parametrize("fault", [*NOTES, "no workspace"])
def test_no_wrong_note_is_followed(run: Run, tmp_path: Path, fault: str) -> None:
    """A note about an artefact that is not there, not whole, or is another; then a right one."""
    workspace = tmp_path / "volume"
    note = _noted(run, workspace)
    (there,) = (workspace / FOLDER).iterdir()
    kept = copied(there, tmp_path / "kept")
    text = (note / REFERENCE).read_text()
    if fault in NOTES:
        NOTES[fault](note, there)
    asked = {"verdict": note}
    volume = "" if fault == "no workspace" else str(workspace)
    out = tmp_path / "out"
    ended = call("report", run.texts, asked, out, root=run.root, workspace=volume)
    assert complaints(ended, out) == []
    assert sorted(each.name for each in workspace.iterdir()) == [FOLDER, "handed"]
    shutil.rmtree(there, ignore_errors=True)
    copied(kept, there)
    (note / REFERENCE).write_text(text)
    volume = str(workspace)
    again = call("report", run.texts, asked, out, root=run.root, workspace=volume)
    assert again.code == EXIT_DONE, again.said
    handed_on = json.loads((out / "written" / REFERENCE).read_text())
    assert handed_on["digest"] == run.digest("report/written")


@pytest.mark.parametrize("component", ["fetch_model", "gate", "report"])
def test_once_the_cause_is_gone_the_artefact_is_the_same(
    run: Run, places: Iterator[Path], component: str
) -> None:
    """Refused, and called again in the same place with what is right: byte for byte as ever."""
    out = next(places)
    refused = run.call(component, out, texts=replace(run.texts, lock=""))
    assert complaints(refused, out) == []
    for name in WIRING[component]:
        given = run.inputs(component)[name]
        refused = run.call(component, out, **{name: with_one(given, 0, next(places))})
        assert complaints(refused, out) == []
    assert run.call(component, out).code == EXIT_DONE
    for path in sorted(out.glob(f"*/{store.DIGEST}")):
        assert path.read_text().strip() == run.digest(f"{component}/{path.parent.name}")


MACHINE_FAULTS: Mapping[str, object] = {
    "an unknown key": {"name": "a", "imagee": "x"},
    "a machine without targets": {"name": "c"},
    "an accelerator without its count": {"name": "a", "accelerator_type": "nvidia.com/gpu"},
    "a count without its accelerator": {"name": "a", "accelerator_count": 1},
    "a fraction of an accelerator": {
        "name": "a",
        "accelerator_type": "nvidia.com/gpu",
        "accelerator_count": 0.5,
    },
    "a list": ["a"],
    "a name": "a",
    "a selector of numbers": {"name": "a", "node_selector": {"disk": 3}},
}


@pytest.mark.parametrize("fault", MACHINE_FAULTS)
def test_no_wrong_machine_is_chosen(
    run: Run, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An entry of `machines` that is none: what, where and what to do, and exit code 2."""
    choose = component_of("choose_machine").python_func
    with pytest.raises(SystemExit) as ended:
        choose(params=run.texts.params, machine=MACHINE_FAULTS[fault], image="x")
    said = Ended(int(str(ended.value.code)), capsys.readouterr().err)
    assert complaints(said, Path("nowhere")) == []
    assert "machine" in said.last
    assert choose(params=run.texts.params, machine={"name": "a"}, image="x").name == "a"


@pytest.mark.parametrize("params", ["", "a: [b", "name: digits", "- 1"])
def test_no_machine_is_chosen_from_wrong_params(
    params: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Params that do not decode."""
    with pytest.raises(SystemExit) as ended:
        component_of("choose_machine").python_func(params=params, machine={"name": "a"}, image="x")
    said = Ended(int(str(ended.value.code)), capsys.readouterr().err)
    assert complaints(said, Path("nowhere"), "params") == []
