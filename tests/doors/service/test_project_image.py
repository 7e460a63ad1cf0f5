"""A new project, from `reprune init` over its Containerfile to the service that finds it by its digest.

The lines of the Containerfile are run here, on this machine; tests/containers builds the image.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reprune.core.params import read_params
from reprune.doors.cli import main
from reprune.doors.init import TEMPLATE, init
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from tests.doors.service.test_serve import DIGITS, Place, kfp, place  # noqa: F401  fixtures
from tests.kfp_server import KfpServer
from tests.registry import stand

CONTAINERFILE = (TEMPLATE / "Containerfile").read_text()


def built(source: Path, target: Path, tools: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Does what a build does: copies what COPY names out of `source`, then runs RUN in `target`."""
    target.mkdir(parents=True)
    for names, where in re.findall(r"^COPY (.*) (/project\S*)$", CONTAINERFILE, re.MULTILINE):
        for name in names.split():
            for found in source.glob(name):
                inside = target / where.removeprefix("/project").strip("/")
                if found.is_dir():
                    shutil.copytree(found, inside, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copyfile(found, inside / found.name)
    (run,) = re.findall(r"^RUN ((?:.*\\\n)*.*)$", CONTAINERFILE, re.MULTILINE)
    words = re.sub(r"--mount=\S+ ", "", run).replace("\\\n", "\n").replace("/project", str(target))
    return subprocess.run(
        ["sh", "-c", words],
        cwd=target,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"} | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """`reprune` as it is here, and a pip that has nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, words in {
        "reprune": f'exec "{sys.executable}" -m reprune.doors.cli "$@"',
        "pip": 'echo "$@"; exit 7',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{words}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.slow
def test_a_new_project_gets_its_run(
    place: Place,  # noqa: F811
    kfp: KfpServer,  # noqa: F811
    tools: Path,
) -> None:
    source, target = place.root / "new", place.root / "projects" / DIGITS
    init(source, train=False)
    params = yaml.safe_load((source / "params.yaml").read_text())
    params["registry"] = place.watch["registry"]
    (source / "params.yaml").write_text(yaml.safe_dump(params))
    assert main(["project", "-C", str(source)]) == 0
    # What the chart can reach of a project is what its image holds.
    shutil.move(place.root / "pipeline.yaml", source / "continuous_compression.yaml")
    (source / "machines.yaml").write_text("machines: [{name: '', node_selector: {pool: fast}}]\n")
    place.config["runs"]["digits"] = {
        "pipeline": "continuous_compression.yaml",
        "machines": "machines.yaml",
    }
    place.write()
    os.chdir(place.root)
    shutil.rmtree(target)
    done = built(source, target, tools, REPRUNE_IMAGE="control")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in target.iterdir()} == {
        *("task", "params.yaml", "policy.yaml", "reprune.project.yaml"),
        *("continuous_compression.yaml", "machines.yaml"),
    }
    registry = open_registry(read_params(source / "params.yaml").registry, place.root)
    register_dense(registry, "digits", stand.write_weights(place.root / "w.safetensors"))
    assert main(["serve", "--once", "--config", str(place.file)]) == 0
    [body] = kfp.posted()
    sent = body["runtime_config"]["parameters"]
    assert sent["policy"] == (source / "policy.yaml").read_text()
    assert [each["node_selector"] for each in sent["machines"]] == [{"pool": "fast"}]
    described = yaml.safe_load((source / "reprune.project.yaml").read_text())
    assert yaml.safe_load(sent["lock"])["data_version"] == described["data_version"]


@pytest.mark.slow
def test_a_build_of_a_project_that_changed_since_stops(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stand.write_repository(tmp_path / "p", stand.PARAMS + "targets: {t: {runtime: onnxruntime}}\n")
    policy = tmp_path / "p" / "policy.yaml"
    policy.write_text(policy.read_text().replace("ort-cpu", "t"))
    assert main(["project", "-C", str(tmp_path / "p")]) == 0
    monkeypatch.chdir(tmp_path)
    assert built(tmp_path / "p", tmp_path / "good", tools).returncode == 0
    policy.write_text(policy.read_text() + "valid_for_days: 3\n")
    done = built(tmp_path / "p", tmp_path / "bad", tools)
    assert done.returncode == 2
    assert "policy.yaml changed" in done.stderr


def test_a_build_stops_where_its_packages_cannot_be_had(tmp_path: Path, tools: Path) -> None:
    stand.write_repository(tmp_path / "p")
    (tmp_path / "p" / "requirements.txt").write_text("nothing-of-this-name\n")
    assert built(tmp_path / "p", tmp_path / "out", tools, REPRUNE_IMAGE="compress").returncode == 7
    assert built(tmp_path / "p", tmp_path / "own", tools, REPRUNE_IMAGE="control").returncode == 0


def test_each_image_has_its_own_packages(tmp_path: Path, tools: Path) -> None:
    """What the task imports is not in control, and what judges, signs or opens registries is."""
    stand.write_repository(tmp_path / "p")
    (tmp_path / "p" / "requirements-control.txt").write_text("metrics-of-ours\n")
    done = built(tmp_path / "p", tmp_path / "own", tools, REPRUNE_IMAGE="control")
    assert (done.returncode, done.stdout) == (
        7,
        "install --no-cache-dir -r requirements-control.txt\n",
    )
    assert built(tmp_path / "p", tmp_path / "out", tools, REPRUNE_IMAGE="compress").returncode == 0
