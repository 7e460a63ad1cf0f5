"""A container that fails never looks like one that did its work: not to kfp, and not to the next step."""

# kfp reads annotations as they are: no `from __future__ import annotations` here.
import tempfile
from pathlib import Path

import pytest
import yaml
from kfp import dsl, local
from kfp.compiler import Compiler
from kfp.components import load_component_from_text

from components.choose_machine import choose_machine
from reprune.doors.init import TEMPLATE
from tests.containers.conftest import CONFINED, PREFIX, TAG, Images
from tests.kubeflow import QUIET

pytestmark = [pytest.mark.containers, *QUIET]

CONTROL = f"{PREFIX}control:{TAG}"
TRIES = 3
PARAMS = (TEMPLATE / "params.yaml").read_text()
MACHINE = {"name": "", "image": "any"}


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def ends(code: int):
    raise SystemExit(code)


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def is_killed():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def writes_half(verdict: dsl.Output[dsl.Artifact], then: int):
    """What is there when a container dies between a payload and the manifest, which comes last."""
    import sys
    from pathlib import Path

    Path(verdict.path).mkdir(parents=True)
    (Path(verdict.path) / "samples.json").write_text('{"half": ')
    if then:
        sys.exit(then)


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def reads_verdict(verdict: dsl.Input[dsl.Artifact], done: dsl.OutputPath(str)):
    from pathlib import Path

    from reprune.core.artifacts import Verdict
    from reprune.core.store import read
    from reprune.doors.kfp.run import told

    with told("gate"):
        read(Path(verdict.path), Verdict)
    Path(done).write_text("done")


@dsl.pipeline(name="half")
def half(then: int):
    written = writes_half(then=then)
    reads_verdict(verdict=written.outputs["verdict"])


@pytest.fixture
def root(images: Images, docker_runner: None, tmp_path: Path) -> Path:
    """Where the containers' user may write, with the runner set up on it."""
    folder = tmp_path / "root"
    folder.mkdir()
    folder.chmod(0o1777)
    local.init(runner=local.DockerRunner(**CONFINED), pipeline_root=str(folder))
    return folder


def test_one_of_our_components_succeeds(root: Path) -> None:
    component = with_image(choose_machine)
    for _ in range(TRIES):
        task = component(params=PARAMS, machine=MACHINE, image="mine:1")
        assert task.outputs["image"] == "any"


def test_one_of_our_components_fails_with_the_reason_last(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = yaml.safe_dump({**yaml.safe_load(PARAMS), "seeds": 1})
    with pytest.raises(RuntimeError, match="FAILURE"):
        with_image(choose_machine)(params=broken, machine=MACHINE, image="mine:1")
    said = capfd.readouterr().out
    assert "error: choose-machine: " in said
    assert "'seeds'" in said or "`seeds`" in said


@pytest.mark.parametrize("code", [1, 2, 3, 4, 137])
def test_a_component_that_ends_with_a_code_fails_each_time(root: Path, code: int) -> None:
    for _ in range(TRIES):
        with pytest.raises(RuntimeError, match="FAILURE"):
            ends(code=code)


def test_a_component_that_is_killed_fails_each_time(root: Path) -> None:
    for _ in range(TRIES):
        with pytest.raises(RuntimeError, match="FAILURE"):
            is_killed()


@pytest.mark.parametrize("then", [0, 137])
def test_half_an_artefact_is_never_taken_for_a_whole_one(
    root: Path, then: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where the step that wrote it claims to have succeeded."""
    for _ in range(TRIES):
        with pytest.raises(RuntimeError, match="FAILURE"):
            half(then=then)
    said = capfd.readouterr().out
    assert ("error: gate: " in said) == (then == 0)
    assert not list(root.rglob("done"))


def with_image(component):
    """The component in the image under test; a pipeline names it by a parameter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "component.yaml"
        Compiler().compile(component, str(path))
        spec = yaml.safe_load(path.read_text())
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = CONTROL
    return load_component_from_text(yaml.safe_dump(spec))
