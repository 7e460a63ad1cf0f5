"""Our images do what they promise as a stranger without a network on a disk that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from reprune import __version__
from tests.containers.conftest import BASE, PREFIX, TAG, USER, Builder, call
from tests.containers.packages import CANARY, authority

pytestmark = pytest.mark.containers

CONFINED = (
    *("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
)
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
NAMES = ("control", "compress")
MODULES = {
    "control": ["kfp", "mlflow", "sqlalchemy", "alembic", "starlette", "uvicorn", "reprune.steps.promote"],
    "compress": ["kfp", "mlflow", "torch", "onnxruntime", "openvino", "executorch", "great_expectations"],
}  # fmt: skip
# Megabytes, with room for a minor release of what is in them.
LARGEST = {"control": 600, "compress": 2500}
LABELS = ("title", "description", "licenses", "version", "revision", "created", "base.name")


def run(image: str, *words: str, user: str = "", code: int = 0) -> str:
    options = ["--user", user] if user else []
    done = subprocess.run(
        ["docker", *CONFINED, *options, image, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(name: str, request: pytest.FixtureRequest) -> str:
    """Built when the first test asks for it: `-k control` builds no other."""
    return str(request.getfixturevalue(name))


def test_it_runs_as_a_stranger_who_can_write_nothing_but_tmp(image: str) -> None:
    seen = run(image, "sh", "-c", "id -u; pwd; touch /project/x 2>&1; touch /tmp/x && echo written")
    lines = seen.splitlines()
    assert lines[:2] == [str(USER), "/project"]
    assert "cannot touch" in lines[2]
    assert lines[-1] == "written"


# Some clusters give every namespace user ids of its own.
@pytest.mark.parametrize("user", ["", "1000770000:0"])
def test_the_command_line_works_in_it(image: str, user: str) -> None:
    assert __version__ in run(image, "reprune", "--help", user=user)
    diagnosis = json.loads(run(image, "reprune", "doctor", "--json", user=user))["diagnosis"]
    assert diagnosis["usable"]


def test_it_imports_what_it_promises(name: str, image: str) -> None:
    run(image, "python3", "-W", "error::ImportWarning", "-c", f"import {', '.join(MODULES[name])}")


def test_the_runtimes_of_compress_are_there(compress: str) -> None:
    health = json.loads(run(compress, "reprune", "doctor", "--json"))["diagnosis"]["runtimes"]
    status = {each["name"]: each["status"] for each in health}
    for runtime in ("onnxruntime", "openvino", "executorch", "torch"):
        assert status[runtime] in ("ok", "unproven"), (runtime, status)


def test_control_has_neither_torch_nor_a_compiler(control: str) -> None:
    look = (
        "import importlib.util as u, shutil as s;"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'sklearn', 'pandas') if u.find_spec(m)],"
        "[c for c in ('gcc', 'cc', 'git') if s.which(c)])"
    )
    assert run(control, "python3", "-c", look).split("\n")[0] == "[] []"


def test_no_two_containers_pass_for_one_machine(image: str) -> None:
    """Samples bind to a machine: an id that lay in the image would be that of all nodes."""
    look = "from reprune.core.machine import this_machine as m; print(m(1).instance)"
    assert run(image, "python3", "-c", look) != run(image, "python3", "-c", look)


def test_labels_say_what_it_is(name: str, image: str) -> None:
    labels = json.loads(call("docker", "image", "inspect", image))[0]["Config"]["Labels"]
    found = {key: labels[f"org.opencontainers.image.{key}"] for key in LABELS}
    assert found["title"] == f"reprune/{name}"
    assert found["version"] == __version__
    assert not [key for key, value in found.items() if value in ("", "unknown")]
    assert not found["created"].startswith("1970")


def test_it_is_no_larger_than_it_must_be(name: str, image: str) -> None:
    size = json.loads(call("docker", "image", "inspect", image))[0]["Size"] / 1e6
    print(f"{name}: {size:.0f} MB")
    assert size < LARGEST[name]


def test_no_layer_holds_a_secret_of_the_build(image: str, builder: Builder, tmp_path: Path) -> None:
    """Neither the proxy's certificates nor pip's configuration, nor anything of the repository's own."""
    saved = tmp_path / "image.tar"
    call("docker", "save", "-o", str(saved), image)
    *config, canary = Path(builder.secrets[1].rpartition("src=")[2]).read_bytes().splitlines()
    assert canary == f"# {CANARY}".encode()
    forbidden = {"pip.conf": CANARY.encode()}
    if config[1:]:
        forbidden["a place that pip.conf names"] = config[-1].strip()
    own = _own_certificate()
    if own:
        forbidden["a certificate that this machine alone trusts"] = own
    names: list[str] = []
    for layer in _layers(saved):
        with layer:
            for entry in layer:
                names.append(entry.name.removeprefix("./"))
                if not entry.isfile() or entry.size > 2**26:
                    continue
                opened = layer.extractfile(entry)
                assert opened is not None
                content = opened.read()
                for what, secret in forbidden.items():
                    assert secret not in content, f"{entry.name} holds {what}"
    assert len(names) > 1000
    assert not [n for n in names if n.endswith(("pip.conf", "run/secrets/ca", "run/secrets/pip"))]
    assert not [n for n in names if n.endswith((".pem", ".key")) and "site-packages" not in n
                and not n.startswith(("etc/ssl/", "usr/lib/ssl/", "usr/share/ca-certificates/"))]  # fmt: skip
    assert not [n for n in names if "/.git/" in n or n.startswith("build/")]
    history = call("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    for secret in forbidden.values():
        assert secret.decode() not in history


def _layers(saved: Path) -> list[tarfile.TarFile]:
    folder = saved.parent / "layers"
    with tarfile.open(saved) as archive:
        archive.extractall(folder, filter="data")
    manifest = json.loads((folder / "manifest.json").read_text())
    return [tarfile.open(folder / layer) for layer in manifest[0]["Layers"]]


def _own_certificate() -> bytes | None:
    """A line out of a certificate that builds were given and no plain Debian has, if there is one."""
    bundle = authority()
    if bundle is None:
        return None
    public = call("docker", "run", "--rm", "--network", "none", BASE, "cat", CERTIFICATES)
    for certificate in bundle.read_text().split("-----BEGIN CERTIFICATE-----")[1:]:
        line = certificate.splitlines()[5]
        if line not in public:
            return line.encode()
    return None


def test_make_images_says_what_each_image_is(control: str) -> None:
    """The name and the id, for whoever pins one (nothing is built twice: all layers are there)."""
    inspected = json.loads(call("docker", "image", "inspect", control))[0]
    settings = {"PREFIX": PREFIX, "TAG": TAG}
    told = call("images/build.sh", "--list", "control", env={**os.environ, **settings})
    assert f"{PREFIX}control:{TAG} {inspected['Id']}" in told
