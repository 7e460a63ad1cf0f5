"""One step, three places that speak of it: its signature, the command line, dvc.yaml. They agree."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import yaml

from reprune.core.params import Params, read_params
from reprune.core.policy import read_policy
from reprune.doors import generate
from reprune.doors.cli import COMMANDS
from reprune.doors.init import TEMPLATE
from reprune.doors.local import STAGES, dvc_text
from reprune.doors.steps import define_step
from reprune.steps import BESIDE, STEPS, get_step

# Sections that no step reads: prices, which reports find in the verdict, what CI is to do, and of which
# models a set is made, which the lock says.
UNREAD = {"cost", "ci", "members"}
# What a part may leave to the whole: the task's files are archived once, beside all members.
LEFT_TO_THE_WHOLE = {"fetch-member": {"task"}}
IN_PIPELINE = [name for name in STEPS if name not in BESIDE]
STAGE_OF = {stage.step: stage for stage in STAGES}


@pytest.fixture(scope="module")
def dvc() -> dict:
    return yaml.safe_load((TEMPLATE / "dvc.yaml").read_text())


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_named_as_it_is_listed(name: str) -> None:
    """STEPS, the decorator and the pipeline use one name; its summary is a sentence."""
    step = get_step(name)
    assert step.name == name
    assert step.summary.endswith(".")
    assert (name in STAGE_OF) is not (name in BESIDE)


@pytest.mark.parametrize("name", STEPS)
def test_the_command_line_takes_exactly_the_inputs(name: str) -> None:
    """One required flag for each input, --out, and --shard of a step in shards; no knob is ever a flag."""
    parser = argparse.ArgumentParser(prog=f"reprune {name}")
    define_step(parser)
    flags = {a.dest: a for a in parser._actions if a.option_strings and a.dest != "help"}
    step = get_step(name)
    beside = {"out", "shard"} if step.sharded else {"out"}
    assert set(flags) == {given.name for given in step.inputs} | beside
    assert all(action.required for action in flags.values())
    for given in step.inputs:
        assert (flags[given.name].nargs == "+") is given.many


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_completes_another_declares_what_that_one_does(name: str) -> None:
    """Its artefact has the other's parents and knobs, so it must be made of no more and no less."""
    step = get_step(name)
    other = get_step(step.commits_as)
    left = [given for given in step.inputs if given.name not in step.parts]
    assert (left, step.sections, step.documents) == (
        list(other.inputs),
        other.sections,
        other.documents,
    )
    assert step.output is other.output
    for given in step.inputs:
        if given.name in step.parts:
            maker = next(found for found in map(get_step, STEPS) if found.output is given.kind)
            left_out = LEFT_TO_THE_WHOLE.get(maker.name, set())
            assert list(maker.sections) == [s for s in step.sections if s not in left_out]
            # A part never asks what an earlier generation knew; only the whole does.
            assert list(maker.inputs) == [one for one in left if one.name != "previous"]


@pytest.mark.parametrize("name", IN_PIPELINE)
def test_the_pipeline_wires_exactly_the_inputs(name: str, dvc: dict) -> None:
    """Each stage passes every input from an artefact of the right kind, and depends on what it reads."""
    step, stage = get_step(name), STAGE_OF[name]
    assert set(stage.inputs) == {given.name for given in step.inputs}
    kinds = {other.out: get_step(other.step).output for other in STAGES}
    for given in step.inputs:
        assert kinds[stage.inputs[given.name]] is given.kind, given.name
    described = dvc["stages"][stage.out]
    words = described["cmd"].split()
    assert words[:2] == ["reprune", name]
    assert dict(zip(words[2::2], words[3::2], strict=True)) == {
        f"--{flag}": f"artifacts/{folder}" for flag, folder in stage.inputs.items()
    } | {"--out": f"artifacts/{stage.out}"}
    assert {f"artifacts/{folder}" for folder in stage.inputs.values()} <= set(described["deps"])
    assert set(described.get("params", [])) == set(step.sections)


def test_stages_come_after_what_they_read() -> None:
    """The table is in an order in which it could be run by hand."""
    made: set[str] = set()
    for stage in STAGES:
        assert set(stage.inputs.values()) <= made
        made.add(stage.out)


def test_the_pipeline_ends_before_promotion(dvc: dict) -> None:
    """Promotion is a command outside the pipeline: no stage may do it."""
    assert not any("promote" in stage["cmd"] for stage in dvc["stages"].values())


def test_the_attempts_file_is_never_deleted(dvc: dict) -> None:
    """DVC deletes outputs before a stage runs; the count of looks must outlive that."""
    outs = dvc["stages"]["benchmark"]["outs"]
    assert {"reprune.attempts.jsonl": {"cache": False, "persist": True}} in outs


@pytest.mark.parametrize("folder", [TEMPLATE, *sorted(Path("examples").iterdir())], ids=str)
def test_every_example_holds_every_section(folder: Path) -> None:
    """DVC refuses a stage whose section is missing from params.yaml, so each example has them all.

    What no step reads may be left out.
    """
    written = yaml.safe_load((folder / "params.yaml").read_text())
    assert set(written) | UNREAD == set(Params.__struct_fields__)
    assert not any(UNREAD & set(get_step(name).sections) for name in STEPS)
    params = read_params(folder / "params.yaml")
    assert set(read_policy(folder / "policy.yaml").targets) == set(params.targets)
    assert (folder / params.task.split(".")[0] / "__init__.py").exists()


@pytest.mark.slow
def test_what_is_generated_is_fresh() -> None:
    """Schemas and the template's dvc.yaml are what the code says."""
    assert generate.main(["--check"]) == 0
    assert dvc_text() == (TEMPLATE / "dvc.yaml").read_text()


def test_architecture_and_readme_name_every_step() -> None:
    """The documents a newcomer reads leave no step out and invent no command."""
    for document in ("ARCHITECTURE.md", "README.md"):
        text = Path(document).read_text(encoding="utf-8")
        for command in re.findall(r"`reprune ([a-z-]+)", text):
            assert command in {*STEPS, *COMMANDS}, command
    text = Path("ARCHITECTURE.md").read_text(encoding="utf-8")
    assert all(name in text for name in STEPS)
