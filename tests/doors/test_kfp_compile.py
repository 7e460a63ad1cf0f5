"""`reprune compile`: sound packages, the same bytes everywhere, and the catalogue that they come from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import reprune
from reprune.core.errors import InputError, MissingExtra, RepruneError, UnknownName
from reprune.doors import generate
from reprune.doors.cli import main
from reprune.doors.kfp import catalogue
from reprune.doors.kfp.check import check_package
from reprune.doors.kfp.options import Options
from reprune.doors.kfp.packages import Package, compile_package, manifests, read_documents, same
from reprune.doors.kfp.readmes import CUSTOM, readme

pytestmark = pytest.mark.slow

NAME = "continuous_compression"
PACKAGES = ("components", "pipelines")


@pytest.fixture(scope="module")
def package() -> Package:
    return compile_package(NAME)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The catalogue copied aside, and used instead of ours."""
    for name in PACKAGES:
        shutil.copytree(name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(reprune, "__file__", str(tmp_path / "src" / "reprune" / "__init__.py"))
    return tmp_path


def test_it_compiles_to_the_same_bytes_everywhere(tmp_path: Path) -> None:
    """Another hash seed in another folder gives the same files, and their digests are printed."""
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        result = subprocess.run(
            [sys.executable, "-m", "reprune.doors.cli", "compile", "--kubernetes", "--json"],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path("src").resolve())},
            capture_output=True,
            check=True,
        )
        said = json.loads(result.stdout)["written"]
        written.append({each["path"]: (folder / each["path"]).read_bytes() for each in said})
        assert set(written[-1]) == {path.name for path in folder.iterdir()}
    assert written[0] == written[1]
    assert f"{NAME}.yaml" in written[0]
    assert f"{NAME}.manifests.yaml" in written[0]


def test_manifests_are_those_of_kfp(package: Package, tmp_path: Path) -> None:
    """Our two resources are what kfp's own compiler writes, under our names."""
    from kfp.compiler import Compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    version = f"continuous-compression-{package.digest[7:19]}"
    Compiler().compile(
        catalogue.load_pipeline(NAME),
        str(tmp_path / "theirs.yaml"),
        kubernetes_manifest_format=True,
        kubernetes_manifest_options=KubernetesManifestOptions(
            pipeline_version_name=version,
            pipeline_version_display_name=version,
            namespace="kubeflow",
            include_pipeline_manifest=True,
        ),
    )
    theirs = read_documents((tmp_path / "theirs.yaml").read_bytes())
    ours = read_documents(manifests(package, "kubeflow"))
    assert ours == theirs
    assert check_package(ours) == []


def test_a_version_is_named_by_what_it_holds(package: Package) -> None:
    """Compiled again it is the same resource; with another option it is another one."""
    again = manifests(compile_package(NAME))
    other = manifests(compile_package(NAME, Options(retries=0)))
    assert manifests(package) == again
    names = [read_documents(each)[1]["metadata"]["name"] for each in (again, other)]
    assert len(set(names)) == 2


def test_options_reach_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images become defaults of parameters, the one machine's too; a workspace is claimed."""
    monkeypatch.chdir(tmp_path)
    digest = f"mine/compress@sha256:{'a' * 64}"
    words = ["--compress-image", digest, "--control-image", "mine/control:3", "--retries", "0"]
    assert main(["compile", NAME, "--out", "made", *words, "--workspace", "5Gi"]) == 0
    assert "nobody publishes" not in capsys.readouterr().err
    spec, platform = read_documents(Path("made", f"{NAME}.yaml").read_bytes())
    given = spec["root"]["inputDefinitions"]["parameters"]
    assert given["compress_image"]["defaultValue"] == digest
    assert given["machines"]["defaultValue"] == [{"name": ""}]
    assert given["control_image"]["defaultValue"] == "mine/control:3"
    config = platform["platforms"]["kubernetes"]["pipelineConfig"]
    assert config["workspace"]["size"] == "5Gi"
    assert not any("retryPolicy" in task for task in spec["root"]["dag"]["tasks"].values())


@pytest.mark.parametrize("name", ["continuous_compression", "perception", "sharded_sensitivity"])
def test_a_registry_of_any_kind_is_reached_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """What fetches and what promotes has the folder of its files, and a token under each kind's name; that no
    image was named is said.
    """
    monkeypatch.chdir(tmp_path)
    words = ["--registry-claim", "versions:/mnt/versions", "--data-claim", "data"]
    assert main(["compile", name, "--out", "made", *words]) == 0
    assert "no --control-image and --compress-image: " in capsys.readouterr().err
    _, platform = read_documents(Path("made", f"{name}.yaml").read_bytes())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    users = {each for each in executors if each.startswith(("exec-fetch-", "exec-promote"))}
    for label, given in executors.items():
        mounted = {each["mountPath"] for each in given.get("pvcMount", ())}
        keys = [key for each in given.get("secretAsEnv", ()) for key in each["keyToEnv"]]
        tokens = {key["envVar"] for key in keys if key["secretKey"] == "token"}
        assert ("/mnt/versions" in mounted) == (label in users), label
        wanted = {"MLFLOW_TRACKING_TOKEN", "REPRUNE_REGISTRY_TOKEN"} if label in users else set()
        assert tokens == wanted, label


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "there is no pipeline called 'nothing'"),
        (["--workspace", "much"], "no size of a volume"),
        (["--storage-class", "fast"], "add --workspace"),
        (["--namespace", "kubeflow"], "add --kubernetes"),
        (["--namespace", "Kube_flow", "--kubernetes"], "no name of a namespace"),
        (["--control-image", "mine/control:latest"], "does not say which image"),
        (["--compress-image", "registry:5000/mine"], "does not say which image"),
        (["--retries", "-1"], "from 0 on"),
        (["--timeout", "0"], "from 1 on"),
        (["--registry-claim", "files:versions"], "names no claim and folder"),
        (["--registry-claim", ":/versions"], "names no claim and folder"),
        (["--registry-claim", "files:/"], "names no claim and folder"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 2 with what is wrong, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert main(["compile", "--out", "made", *words]) == InputError.exit_code
    assert said in capsys.readouterr().err
    assert not Path("made").exists()


def test_an_unsound_pipeline_is_not_written(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A careless edit of pipelines/ ends compilation with the rule that it breaks."""
    file = copy / "pipelines" / "flow.py"
    text = file.read_text()
    assert "retried=False), *secrets" in text
    file.write_text(text.replace("retried=False), *secrets", "retried=True), *secrets"))
    monkeypatch.chdir(tmp_path)
    assert main(["compile", "--out", "made"]) == RepruneError.exit_code
    assert "promote: repeats promote when it fails" in capsys.readouterr().err
    assert not Path("made").exists()


def test_comments_and_docstrings_are_no_other_pipeline(package: Package) -> None:
    """Snapshots are compared without them and without kfp's version; code and wiring count."""
    text = package.content.decode()
    assert same(package.content, text.replace("sdkVersion: kfp-2", "sdkVersion: kfp-3").encode())
    changed = text.replace("    from reprune.doors.kfp.run", "    # Why.\\n    from reprune", 1)
    assert not same(package.content, changed.encode())
    spec, platform = package.documents
    command = spec["deploymentSpec"]["executors"]["exec-gate"]["container"]["command"]

    def edited(old: str, new: str) -> bytes:
        assert old in command[-1]
        changed = json.loads(json.dumps(spec))
        there = changed["deploymentSpec"]["executors"]["exec-gate"]["container"]["command"]
        there[-1] = there[-1].replace(old, new)
        return yaml.safe_dump_all([changed, platform]).encode()

    assert same(package.content, edited("Judges the candidate", "Looks at the candidate"))
    assert same(package.content, edited("    run_component(", "    # Why.\n    run_component("))
    assert not same(package.content, edited('"gate"', '"report"'))


def test_a_stale_snapshot_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate --check` names a package whose wiring is no longer that of the source."""
    path = Path("pipelines", NAME, f"{NAME}.yaml")
    fresh = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(fresh.replace(b"maxRetryCount: 2", b"maxRetryCount: 3", 1))
    assert not generate._fresh(path, fresh)
    path.write_bytes(fresh)
    assert generate._fresh(path, fresh)


def test_a_wheel_holds_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: Package
) -> None:
    """Laid out as pyproject.toml says a wheel is, the same package is compiled from it."""
    targets = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    included = targets["wheel"]["force-include"]
    assert set(included) == set(PACKAGES)
    assert {f"/{name}" for name in PACKAGES} <= set(targets["sdist"]["include"])
    for name, place in included.items():
        shutil.copytree(name, tmp_path / place)
    monkeypatch.setattr(reprune, "__file__", str(tmp_path / "reprune" / "__init__.py"))
    assert catalogue.catalogue_folder() == tmp_path / "reprune" / "catalogue"
    assert compile_package(NAME).content == package.content


def test_a_project_keeps_its_own_packages_of_these_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's `pipelines` is neither taken for ours nor lost."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("MINE = True\n")
    for name in [each for each in sys.modules if each.partition(".")[0] in PACKAGES]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    import pipelines as mine

    assert mine.MINE
    assert catalogue.load_component("gate").name == "gate"
    assert catalogue.load_pipeline(NAME).name == "continuous-compression"
    assert sys.modules["pipelines"] is mine


def test_without_kfp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named, with the line that installs it."""
    for name in [each for each in sys.modules if each.partition(".")[0] in (*PACKAGES, "kfp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kfp", None)
    with pytest.raises(MissingExtra, match=r"pip install 'reprune\[kfp\]'"):
        catalogue.load_pipeline(NAME)


def test_names_are_those_of_the_folders() -> None:
    """What is listed can be loaded; what is not is answered with what is."""
    assert NAME in catalogue.names()
    assert "gate" in catalogue.names("components")
    with pytest.raises(UnknownName, match="did you mean 'gate'"):
        catalogue.load_component("gates")


def test_a_missing_catalogue_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the pipelines is named as what it is."""
    monkeypatch.setattr(reprune, "__file__", str(tmp_path / "src" / "reprune" / "__init__.py"))
    with pytest.raises(RepruneError, match="missing from this installation"):
        catalogue.catalogue_folder()


def test_what_a_person_wrote_in_a_readme_stays(copy: Path) -> None:
    """Below the mark nothing is generated; above it everything is."""
    path = copy / "components" / "gate" / "README.md"
    fresh = readme("components", "gate")
    path.write_text(f"# Wrong\n\n{CUSTOM}\nBy hand.\n")
    assert readme("components", "gate") == f"{fresh}By hand.\n"
