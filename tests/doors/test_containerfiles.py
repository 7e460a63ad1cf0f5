"""The Containerfiles agree with the code that names images, users and places, and with each other."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from reprune import __version__
from reprune.core.overrides import OVERRIDES_FILE
from reprune.core.params import PARAMS_FILE
from reprune.core.policy import POLICY_FILE
from reprune.doors.init import TEMPLATE, init
from reprune.doors.kfp import images, tasks
from reprune.measure.attempts import ATTEMPTS_FILE
from reprune.steps.project import PROJECT_FILE
from reprune.steps.promoter import CONFIG

OURS = ("control", "compress", "tensorrt")
PROJECT = (TEMPLATE / "Containerfile").read_text()


def text(name: str) -> str:
    return Path(f"images/{name}.Containerfile").read_text()


@pytest.mark.slow
def test_init_writes_what_builds_the_projects_images(tmp_path: Path) -> None:
    written, _ = init(tmp_path, train=False)
    assert {"Containerfile", "Containerfile.dockerignore"} <= set(written)
    assert (tmp_path / "Containerfile").read_text() == PROJECT


def test_the_project_is_built_on_the_image_that_components_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert f"ARG BASE=reprune/compress:{__version__}\nFROM ${{BASE}}\n" in PROJECT
    assert f"BASE=reprune/control:{__version__} " in PROJECT
    for name in OURS:
        monkeypatch.delenv(f"REPRUNE_{name.upper()}_IMAGE", raising=False)
        assert images._image(name) == f"reprune/{name}:{__version__}"


def test_the_project_sends_its_own_files_and_nothing_else() -> None:
    """What is copied is let through, and what is let through is copied: no registry, no key."""
    ignored = (TEMPLATE / "Containerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY (.*) \S+$", PROJECT, re.MULTILINE)
    names = {re.sub(r"\[(.)\]", r"\1", name) for line in copied for name in line.split()}
    wanted = {
        "task",
        PARAMS_FILE,
        POLICY_FILE,
        PROJECT_FILE,
        OVERRIDES_FILE,
        ATTEMPTS_FILE,
        "requirements.txt",
        "requirements-control.txt",
        "machines.yaml",
        "continuous_compression.yaml",
        "perception.yaml",
    }
    assert let_through == names == wanted


@pytest.mark.parametrize("name", OURS)
def test_an_image_has_the_user_and_the_places_of_the_code(name: str) -> None:
    content = text(name)
    assert f"useradd --uid {tasks.USER} " in content
    assert content.count("\nUSER ") == 1
    assert f"\nUSER {tasks.USER}\n" in content
    assert f"REPRUNE_PROMOTER={tasks.PROMOTER}/{CONFIG} " in content
    assert f"REPRUNE_IMAGE={name} " in content
    assert f'title="reprune/{name}"' in content
    assert PROJECT.rstrip().endswith(f"USER {tasks.USER}")


@pytest.mark.parametrize("name", OURS)
def test_no_library_in_an_image_reports_home(name: str) -> None:
    """The Makefile's exports hold there too, those of libraries that are in the image."""
    exported = dict(
        re.findall(r"^export (\w+) := (\w+)$", Path("Makefile").read_text(), re.MULTILINE)
    )
    assert exported.pop("DVC_NO_ANALYTICS")
    if name == "control":
        assert exported.pop("GX_ANALYTICS_ENABLED")
    for variable, value in exported.items():
        assert f"{variable}={value}" in text(name)


def test_what_images_install_is_pinned() -> None:
    """By digest, out of the lock; what only its user's nodes can decide (CUDA), by version."""
    pinned = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in Path("constraints.txt").read_text().splitlines()
    }
    lines = Path("images/registry.txt").read_text().splitlines()
    assert {line.lower() for line in lines if not line.startswith("#")} <= pinned
    for name in OURS:
        installs = re.findall(r"pip install [^&|;\n]*", text(name).replace("\\\n", " "))
        hashed = [line for line in installs if " --require-hashes --no-deps " in line]
        own = [line for line in installs if line.rstrip().endswith("/build/reprune")]
        versions = [line for line in installs if "-c /build/constraints.txt" in line]
        assert len(hashed) >= 3
        assert all("--no-index" in line and "--no-build-isolation" in line for line in own)
        assert (len(own), len(versions)) == (1, 2 if name == "tensorrt" else 0)
        assert len(installs) == len(hashed) + len(own) + len(versions)


@pytest.mark.parametrize("name", OURS)
def test_an_image_installs_a_part_of_the_lock(name: str) -> None:
    """What its extras and the registry's client take, whole, with the build of torch it is for."""
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text(name), re.MULTILINE)
    run = [sys.executable, "images/needs.py", "pyproject.toml", extras]
    needs = subprocess.check_output(run, text=True) + Path("images/registry.txt").read_text()
    (without,) = set(re.findall(r"packages.json( --without [\w -]+)? < /needs.txt", text(name)))
    closure = [sys.executable, "supply/closure.py", "constraints.lock", "supply/packages.json"]
    locked = subprocess.check_output([*closure, *without.split()], input=needs, text=True)
    names = set(re.findall(r"^([\w.-]+)==", locked, re.MULTILINE))
    assert {"msgspec", "kfp", "mlflow-skinny"} <= names
    assert ("torch" in names) == (name == "compress") == ("torch-cpu.lock" in text(name))
    assert not {"dvc", "pytest", "pygit2"} & names


def test_extras_of_ours_are_followed() -> None:
    """The list that an image installs is what `pip install reprune[...]` would."""
    run = [sys.executable, "images/needs.py", "pyproject.toml"]
    found = subprocess.check_output([*run, "openvino,kfp"], text=True).split("\n")
    names = {re.split(r"[\[<>=;]", line)[0] for line in found if line}
    assert names > {"msgspec", "kfp", "onnx", "onnxruntime", "openvino"}
    assert "torch" not in names
    assert not [name for name in names if name.startswith("reprune")]
    wrong = subprocess.run([*run, "openvin"], capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
    assert "'openvin'" in wrong.stderr


@pytest.mark.parametrize("name", OURS)
def test_an_image_asks_for_extras_that_exist(name: str) -> None:
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text(name), re.MULTILINE)
    run = [sys.executable, "images/needs.py", "pyproject.toml", extras]
    listed = subprocess.check_output(run, text=True)
    assert "kfp>=" in listed
    assert ("\ntorch>=" in listed) == (name != "control")


@pytest.mark.parametrize("name", OURS)
def test_an_image_is_built_from_all_that_a_wheel_is_made_of(name: str) -> None:
    wheel = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    parts = {Path(path).parts[0] for path in (*wheel["packages"], *wheel.get("force-include", ()))}
    copied = set(re.findall(r"^COPY (\w+) /build/reprune/\1$", text(name), re.MULTILINE))
    assert copied == parts
    let_through = Path(".dockerignore").read_text().splitlines()
    assert {f"!{part}" for part in parts} <= set(let_through)
    sent = re.findall(r"^COPY (?!--from)(.*) \S+$", text(name), re.MULTILINE)
    assert {f"!{each}" for line in sent for each in line.split()} <= set(let_through)


# Says what it was to build, a line each: the image's name, then the arguments.
DOCKER = """\
#!/bin/sh
if [ "$1" = build ]; then echo "$*" >> "$BUILT"; fi
"""


def built(tmp_path: Path, **variables: str) -> dict[str, dict[str, str]]:
    """The build arguments, and the base's label, of each image that `images/build.sh` builds with these."""
    stub, log = tmp_path / "docker", tmp_path / "built"
    log.unlink(missing_ok=True)
    stub.write_text(DOCKER)
    stub.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "PATH")}
    kept |= {"BUILT": str(log), "PATH": f"{tmp_path}:{kept['PATH']}"}
    subprocess.run(
        ["images/build.sh", *OURS], env=kept | variables, check=True, capture_output=True
    )
    found = {}
    for line in log.read_text().splitlines():
        (name,) = re.findall(r"--file images/(\w+).Containerfile", line)
        found[name] = dict(re.findall(r"--build-arg (\w+)=(\S+)", line))
        found[name] |= dict(re.findall(r"--label \S+(base\.name)=(\S*)", line))
    assert tuple(found) == OURS
    return found


def test_what_is_said_of_compress_is_not_said_of_tensorrt(tmp_path: Path) -> None:
    """compress takes torch for CPUs and other extras: tensorrt would have neither CUDA nor TensorRT."""
    said = built(tmp_path, BASE="debian", EXTRAS="torch,kfp", TORCH_INDEX="https://cpu.example")
    compress = {"BASE": "debian", "EXTRAS": "torch,kfp", "TORCH_INDEX": "https://cpu.example"}
    always = said["tensorrt"].keys()
    assert not always & compress.keys()
    assert {name: said["compress"][name] for name in said["compress"].keys() - always} == compress
    assert said["control"].keys() - always == {"BASE"}


def test_what_is_said_of_tensorrt_is_said_of_no_other(tmp_path: Path) -> None:
    said = built(
        tmp_path,
        TENSORRT_BASE="cuda",
        TENSORRT_EXTRAS="tensorrt",
        TENSORRT_TORCH_INDEX="https://cuda.example",
        TENSORRT_VERSION="10.16.1.11",
        NVIDIA_INDEX="https://nvidia.example",
    )
    always = said["control"].keys()
    assert said["compress"].keys() == always
    assert {name: said["tensorrt"][name] for name in said["tensorrt"].keys() - always} == {
        "BASE": "cuda",
        "EXTRAS": "tensorrt",
        "TORCH_INDEX": "https://cuda.example",
        "TENSORRT": "10.16.1.11",
        "NVIDIA_INDEX": "https://nvidia.example",
    }
    declared = set(re.findall(r"^ARG (\w+)", text("tensorrt"), re.MULTILINE))
    assert declared >= said["tensorrt"].keys() - {"base.name"}


def test_an_image_says_what_it_is_built_on(tmp_path: Path) -> None:
    """What somebody names, or what the file itself has after FROM, where Dependabot finds it."""
    named = built(tmp_path, BASE="debian@sha256:1", TENSORRT_BASE="cuda@sha256:2")
    assert [named[name]["base.name"] for name in OURS] == ["debian@sha256:1"] * 2 + [
        "cuda@sha256:2"
    ]
    default = built(tmp_path)
    for name in ("control", "compress"):
        (image,) = re.findall(
            r"^FROM (\S+@sha256:[0-9a-f]{64}) AS default$", text(name), re.MULTILINE
        )
        assert default[name]["base.name"] == image
        assert "BASE" not in default[name]
        assert text(name).index("\nARG BASE=default\n") < text(name).index(
            f"\nFROM {image} AS default\n"
        )
        assert "\nFROM ${BASE} AS python\n" in text(name)


def test_an_image_for_gpus_is_found_out_where_it_cannot_use_one() -> None:
    """Its build ends where torch is for CPUs or TensorRT is missing, whose version is a pin that fits."""
    content = text("tensorrt")
    (check,) = re.findall(r'python3 -c "(import [^"]*torch[^"]*)"', content.replace("\\\n", " "))
    tree = ast.parse(check)
    asserted = [ast.unparse(each.test) for each in tree.body if isinstance(each, ast.Assert)]
    assert asserted == ["torch.version.cuda", "importlib.util.find_spec('tensorrt')"]
    (pin,) = re.findall(r"^ARG TENSORRT=(.*)$", content, re.MULTILINE)
    run = [sys.executable, "images/needs.py", "pyproject.toml", "tensorrt"]
    needed = [Requirement(line) for line in subprocess.check_output(run, text=True).splitlines()]
    (tensorrt,) = (each for each in needed if each.name == "tensorrt-cu13")
    assert pin in tensorrt.specifier
    assert 'echo "tensorrt-cu13==$TENSORRT" >> /build/constraints.txt' in content


@pytest.mark.parametrize("name", OURS)
def test_an_image_with_proprietary_libraries_says_so(name: str) -> None:
    (licences,) = re.findall(r'image.licenses="(.*)"', text(name))
    assert ("LicenseRef-NVIDIA" in licences) == (name == "tensorrt")
