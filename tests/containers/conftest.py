"""A container engine, our images built in it, and kfp's DockerRunner with its known fault repaired.

Without an engine these tests fail: a skip would read as a pass. $REPRUNE_DOCKER is the folder that keeps
its images between runs; $DOCKER_HOST, where set, is an engine that runs already.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.containers.packages import authority, pip_for_builds

ROOT = Path(__file__).parents[2]
BASE = "localhost/debian-base:bookworm"
PREFIX = "localhost/reprune-"
TAG = "test"
USER = 10001
# How a careful cluster runs a pod.
CONFINED: dict[str, Any] = {
    "user": f"{USER}:{USER}",
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "network_mode": "none",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}


def call(*words: str, **more: Any) -> str:
    """The command's standard output. Raises AssertionError with everything it said if it fails."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@dataclass(frozen=True)
class Images:
    """`control` and `compress` are names of images; `secrets` are options of `docker build`."""

    control: str
    compress: str
    secrets: tuple[str, ...]
    docker: str


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """The address of a running engine, in $DOCKER_HOST too."""
    if host := os.environ.get("DOCKER_HOST"):
        yield host
        return
    folder = Path(os.environ.get("REPRUNE_DOCKER") or ROOT / ".cache" / "docker").resolve()
    # The daemon would inherit, and keep open, a pipe to us.
    subprocess.run([".ci/docker.sh", "start", str(folder)], cwd=ROOT, check=True)
    os.environ["DOCKER_HOST"] = f"unix://{folder}/docker.sock"
    try:
        yield os.environ["DOCKER_HOST"]
    finally:
        del os.environ["DOCKER_HOST"]
        subprocess.run([".ci/docker.sh", "stop", str(folder)], cwd=ROOT, check=True)


@dataclass(frozen=True)
class Builder:
    """Builds as `make images` does, on a base that no registry gave."""

    settings: dict[str, str]
    secrets: tuple[str, ...]

    def build(self, name: str) -> str:
        """The image's name."""
        print(call("images/build.sh", name, env={**os.environ, **self.settings}))
        return f"{PREFIX}{name}:{TAG}"


@pytest.fixture(scope="session")
def builder(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    call(".ci/docker.sh", "base", BASE)
    with pip_for_builds(tmp_path_factory.mktemp("pip") / "pip.conf") as pip:
        settings = {"BASE": BASE, "PREFIX": PREFIX, "TAG": TAG, "BUILD_PIP": str(pip)}
        settings["BUILD_OPTIONS"] = "--network=host"
        secrets = ["--secret", f"id=pip,src={pip}"]
        if certificates := authority():
            settings["BUILD_CA"] = str(certificates)
            secrets += ["--secret", f"id=ca,src={certificates}"]
        yield Builder(settings, tuple(secrets))


@pytest.fixture(scope="session")
def control(builder: Builder) -> str:
    """The image alone, for tests that need no other."""
    return builder.build("control")


@pytest.fixture(scope="session")
def compress(builder: Builder) -> str:
    """As `control`."""
    return builder.build("compress")


@pytest.fixture(scope="session")
def images(builder: Builder, control: str, compress: str) -> Images:
    """Both, and what a build on them needs."""
    docker = call("images/build.sh", "--client").strip()
    return Images(control, compress, builder.secrets, docker)


@pytest.fixture(scope="session")
def docker_runner(engine: str) -> Iterator[None]:
    """kfp.local with what it gets wrong in 2.17 repaired.

    Upstream starts containers with auto_remove, and takes one that is gone before it is asked for as a
    success; and it hands the placeholder of a parameter to the engine as the name of an image.
    """
    import kfp.local.docker_task_handler as handler

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "run_docker_container", run_docker_container)
        yield


# What befalls the container of a task, by the task's name: "killed" at its first word, or "halved" once it
# is done: what it wrote loses its manifests, and it reports success.
Faults = dict[str, Literal["killed", "halved"]]
_FAULTS: Faults = {}


@pytest.fixture
def faults() -> Iterator[Faults]:
    yield _FAULTS
    _FAULTS.clear()


def run_docker_container(
    client: Any, image: str, command: list[str], volumes: dict[str, Any], **more: Any
) -> int:
    """Runs it to its end, and returns the exit code that the engine kept; the log goes to our output."""
    given = json.loads(command[command.index("--executor_input") + 1])
    folder = Path(given["outputs"]["outputFile"]).parent
    fault = _FAULTS.get(folder.name)
    container = client.containers.create(
        image=named_image(image, given), command=command, volumes=volumes, **more
    )
    try:
        container.start()
        for line in container.logs(stream=True, follow=True):
            if fault == "killed":
                container.kill()
                fault = None
            print(line.decode(errors="replace"), end="")
        code = int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)
    if fault == "halved":
        manifests = list(folder.rglob("manifest.json"))
        assert manifests
        for manifest in manifests:
            manifest.unlink()
    return code


def named_image(image: str, given: dict[str, Any]) -> str:
    """The image's name, a parameter's placeholder replaced by what the task was given, as a cluster does."""
    found = re.fullmatch(r"\{\{\$\.inputs\.parameters\['(.+)'\]\}\}", image)
    return str(given["inputs"]["parameterValues"][found[1]]) if found else image
