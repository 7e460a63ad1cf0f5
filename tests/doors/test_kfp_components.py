"""Every component says what its step says, and a shim that says something else is found out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reprune.doors.kfp.agreement import check_components, kfp_type, steps_called
from reprune.doors.kfp.catalogue import load_component, names
from reprune.doors.kfp.component_source import read_component
from reprune.doors.kfp.evidence import BESIDE, MADE_BY, STEP_OF
from reprune.doors.kfp.metadata import check_metadata, read_metadata
from reprune.doors.local import STAGES
from reprune.steps import STEPS, get_step

COMPONENTS = Path("components")
METADATA = """---
name: gate
stability: alpha
dependencies:
  kubeflow:
    - name: Pipelines
      version: '>=2.17.0'
  external_services:
    - name: MLflow
      version: '>=3.17.2'
tags:
  - evaluation
lastVerified: 2026-11-27T00:00:00Z
"""


def disagreements(folder: Path) -> list[str]:
    return [str(each) for each in check_components(folder)]


def test_every_component_agrees_with_its_step() -> None:
    """Inputs, texts, types, image, imports, documentation; and no step is without a component."""
    assert disagreements(COMPONENTS) == []


# Which component, what is edited into what, and a piece of what must be said.
WRONG = {
    "an input is left out": (
        "plan",
        ('"table": table, "previous": previous', '"table": table'),
        "does not pass the inputs of 'plan': previous",
    ),
    "two inputs are swapped": (
        "distill",
        ('"student": student, "teacher": teacher', '"student": teacher, "teacher": student'),
        "passes 'teacher' as 'student'",
    ),
    "another step is run": ("prune", ('"prune", texts', '"distill", texts'), "of 'distill'"),
    "no step is run": ("prune", ('"prune", texts', '"cut", texts'), "'cut', which is no step"),
    "two texts are swapped": (
        "gate",
        ("Texts(lock, params, policy)", "Texts(lock, policy, params)"),
        "passes lock, policy, params where lock, params, policy belong",
    ),
    "a text has a default": (
        "report",
        ('workspace: str = "",\n):', 'workspace: str = "",\n    policy: str = "",\n):'),
        "does not take the text 'policy'",
    ),
    "one for a list": (
        "gate",
        ("profiles: dsl.Input[list[dsl.Artifact]]", "profiles: dsl.Input[dsl.Artifact]"),
        "'profiles' is Input[Artifact], not Input[list[Artifact]]",
    ),
    "a model shown as something else": (
        "distill",
        ("candidate: dsl.Output[dsl.Model]", "candidate: dsl.Output[dsl.Artifact]"),
        "'distill' makes Output[Model]",
    ),
    "an output nobody fills": (
        "prune",
        (", metrics=metrics", ""),
        "does not fill the output 'metrics'",
    ),
    "the machine is dropped": (
        "build",
        ("Place(machine, workspace)", "Place(workspace=workspace)"),
        "takes machine, and passes it on to nothing",
    ),
    "machine and workspace are swapped": (
        "benchmark",
        ("Place(machine, workspace)", "Place(workspace, machine)"),
        "passes 'workspace' as the place's 'machine'",
    ),
    "the workspace is dropped": (
        "report",
        ("Place(workspace=workspace)", "Place()"),
        "does not pass on the workspace",
    ),
    "kfp is installed at every start": (
        "plan",
        ("install_kfp_package=False", "install_kfp_package=True"),
        "lets kfp be installed",
    ),
    "packages are installed at every start": (
        "plan",
        ("install_kfp_package=False", 'install_kfp_package=False, packages_to_install=["x"]'),
        "packages_to_install",
    ),
    "an image of its own": (
        "plan",
        ("base_image=COMPRESS", 'base_image="python:3.11"'),
        "does not name one of reprune.doors.kfp.images",
    ),
    "torch at the top": (
        "plan",
        ("from kfp import dsl", "import torch\nfrom kfp import dsl"),
        "torch",
    ),
    "a future import": (
        "plan",
        ("from kfp import dsl", "from __future__ import annotations\nfrom kfp import dsl"),
        "imports from __future__",
    ),
    "logic in the body": (
        "plan",
        ("    texts = ", "    if policy:\n        pass\n    texts = "),
        "does more than name things",
    ),
    "two calls": (
        "report",
        ("    run_component(", '    done = run_component("report")\n    run_component('),
        "makes more than one call",
    ),
    "another name": ("plan", ("def plan(", "def planned("), "lies in the folder 'plan'"),
    "an undescribed input": (
        "validate_data",
        ("        previous: The champion", "        earlier: The champion"),
        "its docstring does not describe 'previous'",
    ),
    "another artefact is promoted": (
        "promote",
        ('"candidate": candidate', '"candidate": verdict'),
        "does not hand over verdict, candidate",
    ),
    "a member's shard is dropped": (
        "fetch_member",
        ("Place(workspace=workspace, shard=shard)", "Place(workspace=workspace)"),
        "takes shard, and passes it on to nothing",
    ),
    "the members are dropped": (
        "fetch_set",
        ("dense, previous, members, workspace", "dense, previous, workspace"),
        "does not pass on members",
    ),
    "one member for all": (
        "fetch_set",
        ("members: dsl.Input[list[dsl.Artifact]]", "members: dsl.Input[dsl.Artifact]"),
        "'members' is Input[Artifact], not Input[list[Artifact]]",
    ),
    "the fetches of a set are swapped": (
        "fetch_set",
        ("policy), dense, previous", "policy), previous, dense"),
        "does not fill 'dense'",
    ),
    "the fetches are swapped": (
        "fetch_model",
        ("policy), dense, previous", "policy), previous, dense"),
        "does not fill 'dense'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_edit_is_found(case: str, tmp_path: Path) -> None:
    """One careless change to one shim, and the agreement names it."""
    name, (old, new), expected = WRONG[case]
    folder = tmp_path / "components"
    shutil.copytree(COMPONENTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / name / "component.py"
    text = path.read_text()
    assert old in text
    if case == "a text has a default":
        text = text.replace("    policy: str,\n", "")
    path.write_text(text.replace(old, new, 1))
    found = disagreements(folder)
    assert any(each.startswith(f"{name}: ") and expected in each for each in found), found


def test_a_step_without_a_component_is_named(tmp_path: Path) -> None:
    """A component that goes leaves its step without a door."""
    folder = tmp_path / "components"
    shutil.copytree(COMPONENTS, folder, ignore=shutil.ignore_patterns("gate", "__pycache__"))
    found = disagreements(folder)
    assert found == ["gate: is a step that no component runs"]


@pytest.mark.parametrize("name", sorted(STEP_OF))
def test_the_table_of_wires_names_real_outputs(name: str) -> None:
    """The rules of wiring speak of components, steps and outputs that there are, in the right kinds."""
    component = read_component(COMPONENTS / name / "component.py")
    step = get_step(STEP_OF[name])
    assert steps_called(component) == {step.name}
    made = [artefact for artefact, makers in MADE_BY.items() if (name, component.out) in makers]
    assert made == [stage.out for stage in STAGES if stage.step == step.name]
    output = load_component(name).component_spec.outputs[component.out]
    assert output.type == f"system.{kfp_type(step.output)}@0.0.1"


def test_every_component_has_its_wires() -> None:
    """Whatever runs a step is known to the rules, so that no artefact comes in unchecked."""
    known = {*STEP_OF, *BESIDE, "fetch_model"}
    running = {
        name
        for name in names("components")
        if steps_called(read_component(COMPONENTS / name / "component.py"))
    }
    assert running <= known
    assert set(STEP_OF.values()) <= set(STEPS)


@pytest.mark.parametrize(
    "folder",
    [*COMPONENTS.glob("*/component.py"), *Path("pipelines").glob("*/pipeline.py")],
    ids=str,
)
def test_metadata_keeps_the_rules(folder: Path) -> None:
    """Of every component and pipeline: fields, their order, versions; README.md lies beside it."""
    assert read_metadata(folder.parent).dependencies[0][0] == "Pipelines"
    assert (folder.parent / "README.md").is_file()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: gate\n", "name: gates\n", "not that of the folder"),
        ("stability: alpha", "stability: fine", "stability is none of"),
        ("stability: alpha\n", "", "'stability' is missing"),
        ("name: gate\nstability: alpha", "stability: alpha\nname: gate", "not in order"),
        ("- name: Pipelines", "- name: Trainer", "does not name Pipelines"),
        (">=2.17.0", "2.17", "is no version"),
        ("2026-11-27T00:00:00Z", "yesterday", "no time with its zone"),
        ("2026-11-27T00:00:00Z", "2026-11-27", "no time with its zone"),
        ("tags:\n  - evaluation", "tags: evaluation", "no list of words"),
        ("tags:", "labels:\n  - x\ntags:", "'labels' is no field"),
        ("external_services", "services", "something else than"),
        ("    - name: MLflow\n", "    - title: MLflow\n", "no list of a name and a version"),
    ],
)
def test_metadata_that_breaks_a_rule_is_found(old: str, new: str, said: str) -> None:
    """Each rule of the catalogue on its own."""
    assert check_metadata(METADATA, "gate") == []
    assert old in METADATA
    found = [str(each) for each in check_metadata(METADATA.replace(old, new, 1), "gate")]
    assert any(said in each for each in found), found
