"""Steps: the signature declares, `run` opens, commits and locks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from reprune.core import store
from reprune.core.artifacts import Plan, Profile
from reprune.core.documents import decode_yaml
from reprune.core.errors import Busy, InputError, MissingExtra, UnknownName
from reprune.core.lock import Lock
from reprune.core.params import Params, PlanParams, Target
from reprune.core.plugins import lookup, require
from reprune.core.policy import Policy
from reprune.core.step import Context, Documents, exclusive, knobs_digest, run, step
from reprune.core.store import Artifact
from tests.core.test_documents import make_lock
from tests.core.test_store import make_plan, write_plan


@step("tiny")
def tiny(
    first: Artifact[Plan],
    many: list[Artifact[Plan]],
    plan: PlanParams,
    seed: int,
    lock: Lock,
    policy: Policy,
    ctx: Context,
) -> Plan:
    """Keeps what it was given.

    More words.
    """
    (ctx.out / "note.txt").write_text(f"{first.digest} {len(many)} {plan.fraction} {seed}")
    (ctx.work).mkdir(parents=True, exist_ok=True)
    ctx.say(f"{lock.name} {policy.alpha} {ctx.root.name}")
    return make_plan()


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    return Documents(
        root=tmp_path,
        params=decode_yaml("name: a\ntask: a:b\nseed: 7\n", Params, name="p"),
        policy=decode_yaml("targets: {a: required}\n", Policy, name="p"),
        lock=make_lock(),
    )


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


def test_the_signature_is_the_declaration() -> None:
    """Inputs, sections, documents, output and summary are read off the function."""
    assert [(given.name, given.kind, given.many) for given in tiny.inputs] == [
        ("first", Plan, False),
        ("many", Plan, True),
    ]
    assert tiny.sections == ("plan", "seed")
    assert tiny.documents == ("lock=lock", "policy=policy")
    assert tiny.output is Plan
    assert tiny.summary == "Keeps what it was given."


@step("here-alone")
def here_alone(targets: dict[str, Target], ctx: Context) -> Plan:
    """Says which targets it sees, and which there are."""
    ctx.say(f"{' '.join(targets)} of {' '.join(ctx.targets)}")
    return make_plan()


def test_a_step_of_one_machine_sees_its_targets_and_knows_all(
    tmp_path: Path, documents: Documents
) -> None:
    """What is decided over all of them (the number of rules) must not depend on where a step runs."""
    targets = {name: Target(machine=name) for name in ("a", "b")}
    params = msgspec.structs.replace(documents.params, targets=targets)
    said: list[str] = []
    for machine in ("a", ""):
        run(
            here_alone,
            {},
            replace(documents, params=params),
            tmp_path / "out",
            say=said.append,
            machine=machine,
        )
    assert said == ["a of a b", "a b of a b"]


def test_a_signature_that_declares_nothing_is_refused() -> None:
    """A parameter that is neither input, document nor section is the author's mistake, found at import."""
    with pytest.raises(TypeError, match="is no input, document or section"):

        @step("bad")
        def bad(surprise: int) -> Plan:
            return make_plan()

    with pytest.raises(TypeError, match="one manifest"):

        @step("none")
        def none() -> None:  # type: ignore[type-var]
            return None


def test_a_run_commits_the_result_and_its_parents(tmp_path: Path, documents: Documents) -> None:
    """Afterwards the artefact names its producer, its parents in order, its knobs and its payload."""
    write_plan(tmp_path / "a")
    write_plan(tmp_path / "b", keep=2)
    said: list[str] = []
    inputs = {"first": tmp_path / "a", "many": [tmp_path / "a", tmp_path / "b"]}
    result = run(tiny, inputs, documents, tmp_path / "out", say=said.append)
    manifest = store.read(tmp_path / "out", Plan).manifest
    assert manifest == result.manifest
    a, b = (store.read(tmp_path / name, Plan).digest for name in "ab")
    assert manifest.parents == {"first": a, "many.0": a, "many.1": b}
    assert manifest.producer.step == "tiny"
    assert manifest.producer.knobs == knobs_digest(tiny, documents.params)
    assert (tmp_path / "out" / "note.txt").read_text() == f"{a} 2 0.5 7"
    assert said == [f"digits 0.05 {tmp_path.name}"]


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ({"many": ["a"]}, "needs --first"),
        ({"first": ["a"], "many": []}, "needs --many"),
        ({"first": ["a", "a"], "many": ["a"]}, "takes one directory"),
        ({"first": ["a"], "many": ["a"], "more": ["a"]}, "no input called more"),
        ({"first": ["gone"], "many": ["a"]}, "no such artefact"),
    ],
)
def test_wrong_inputs_are_named(tmp_path: Path, documents: Documents, inputs, what: str) -> None:
    """What is missing, doubled, unknown or absent is said, and nothing is written."""
    write_plan(tmp_path / "a")
    given = {name: [tmp_path / path for path in paths] for name, paths in inputs.items()}
    with pytest.raises(InputError, match=what):
        run(tiny, given, documents, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_work_folders_are_named_by_everything_that_matters(
    tmp_path: Path, documents: Documents, work: Path
) -> None:
    """Another knob or another input gets another folder, so no checkpoint is mistaken for another's."""
    write_plan(tmp_path / "a")
    write_plan(tmp_path / "b", keep=2)
    for first in ("a", "a", "b"):
        run(
            tiny, {"first": tmp_path / first, "many": [tmp_path / "a"]}, documents, tmp_path / "out"
        )
    assert len(list(work.glob("tiny-*"))) == 2


@step("dear")
def dear(ctx: Context) -> Plan:
    """Takes long, which `ran` stands for."""
    (ctx.root / "ran").touch()
    return make_plan()


@pytest.mark.parametrize("place", ["a file", "below a file", "a folder of something else"])
def test_a_place_that_cannot_be_written_is_refused_before_the_step(
    tmp_path: Path, documents: Documents, place: str
) -> None:
    """The hours that a step takes are not spent on what cannot be kept; and nothing is touched."""
    out = tmp_path / "out"
    if place == "a folder of something else":
        out.mkdir()
    mine = out / "mine" if out.exists() else out
    mine.write_text("mine")
    with pytest.raises(
        InputError, match=r"exists and is not an artefact|Not a directory"
    ) as caught:
        run(dear, {}, documents, out / "below" if place == "below a file" else out)
    assert str(out) in caught.value.where
    assert mine.read_text() == "mine"
    assert not (tmp_path / "ran").exists()


def test_two_runs_at_once_in_one_folder(tmp_path: Path, documents: Documents) -> None:
    """The second run is told at once that somebody else is writing there."""
    write_plan(tmp_path / "a")
    out = tmp_path / "out"
    inputs = {"first": tmp_path / "a", "many": [tmp_path / "a"]}
    with exclusive(f"out:{out.resolve()}", what="held"), pytest.raises(Busy, match="another run"):
        run(tiny, inputs, documents, out)
    run(tiny, inputs, documents, out)


def test_the_kernel_frees_a_dead_holders_lock(tmp_path: Path, work: Path) -> None:
    """A killed run leaves no lock behind."""
    code = (
        "import time\nfrom reprune.core.step import exclusive\n"
        "with exclusive('x', what='held'):\n print('in', flush=True)\n time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(Busy), exclusive("x", what="held"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    for _ in range(50):
        try:
            with exclusive("x", what="held"):
                return
        except Busy:
            time.sleep(0.1)
    pytest.fail("the lock of a dead process was not freed")


def test_a_step_killed_half_way_leaves_nothing_and_runs_again(tmp_path: Path, documents) -> None:
    """SIGKILL while the payload is written: no artefact, and the next run sweeps and completes."""
    write_plan(tmp_path / "a")
    code = (
        "import sys, time\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\n"
        "from reprune.core import store\n"
        "with store.drafting(Path(sys.argv[1])) as draft:\n"
        " (draft / 'half').write_text('half'); print('in', flush=True); time.sleep(60)\n"
    )
    out = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(out), str(Path.cwd())], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.kill()
    child.wait()
    child.stdout.close()
    assert not out.exists()
    assert list(tmp_path.glob(".out.*.draft"))
    run(tiny, {"first": tmp_path / "a", "many": [tmp_path / "a"]}, documents, out)
    assert store.read(out, Plan)
    assert not list(tmp_path.glob(".out.*"))


def test_plugins_are_looked_up_by_name() -> None:
    """A known name gives the object; an unknown one the list; a missing extra its install line."""
    builtins = {"plan": "reprune.core.artifacts:Plan", "profile": "reprune.core.artifacts:Profile"}
    assert lookup("things", "profile", builtins) is Profile
    with pytest.raises(UnknownName, match="did you mean 'plan'"):
        lookup("things", "plam", builtins)
    with pytest.raises(MissingExtra) as caught:
        require("no_such_package_at_all.inner", "onnx")
    assert "pip install 'reprune[onnx]'" in caught.value.fix
