"""Compiled pipelines: the package that `reprune submit` and the UI take, and manifests for GitOps."""

from __future__ import annotations

import ast
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reprune.doors.kfp.catalogue import load_pipeline
from reprune.doors.kfp.check import check_package, package_of, refuse
from reprune.doors.kfp.options import DEFAULT, Options
from reprune.doors.kfp.schema import missing_kfp

API = "pipelines.kubeflow.org/v2beta1"
# As much of a digest as a person compares, and a resource's name has room for.
SHORT = 12


@dataclass(frozen=True)
class Package:
    """`content` is the YAML of the pipeline `name`; equal sources and options give equal bytes."""

    name: str
    content: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The pipeline, and its platform settings where it has any."""
        return read_documents(self.content)


def compile_package(name: str, options: Options = DEFAULT) -> Package:
    """The pipeline `name`, compiled and found sound (see check); nothing is written.

    Raises UnknownName, MissingExtra, and RepruneError with what is not sound.
    """
    pipeline = load_pipeline(name, options)
    try:
        from kfp.compiler import Compiler
    except ImportError as error:
        raise missing_kfp(error) from error
    with tempfile.TemporaryDirectory(prefix="reprune-") as folder:
        path = Path(folder) / f"{name}.yaml"
        Compiler().compile(pipeline, str(path))
        package = Package(name, _without_header(path.read_bytes()))
    refuse(name, check_package(package.documents))
    return package


def read_documents(content: bytes) -> list[dict[str, Any]]:
    """The documents of a package or of manifests, decoded."""
    # The same loader in C, where PyYAML was built with it: a package is long.
    return list(yaml.load_all(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def manifests(package: Package, namespace: str = "") -> bytes:
    """The package as two Kubernetes resources: the Pipeline, and a PipelineVersion named by its digest.

    A version never changes, so that applying the same package again changes nothing.
    """
    spec, platform = package_of(package.documents)
    info = spec["pipelineInfo"]
    described = {"description": info["description"]} if "description" in info else {}
    version = f"{info['name']}-{package.digest.removeprefix('sha256:')[:SHORT]}"
    body: dict[str, Any] = {
        "displayName": version,
        "pipelineName": info["name"],
        "pipelineSpec": spec,
        **described,
    }
    if platform:
        body["platformSpec"] = platform
    pipeline = {"displayName": info["name"], **described}
    documents = [
        _resource("Pipeline", info["name"], namespace, pipeline),
        _resource("PipelineVersion", version, namespace, body),
    ]
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump_all(documents, Dumper=dumper, sort_keys=True)
    return text.encode()


def same(one: bytes, other: bytes) -> bool:
    """Whether two packages do the same: kfp's own version, comments and docstrings do not count."""
    return _essence(one) == _essence(other)


def _without_header(content: bytes) -> bytes:
    """Without kfp's comments on top: they show defaults in an order that changes with the hash seed."""
    lines = content.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if not line.startswith(b"#"))
    return b"".join(lines[first:])


def _resource(kind: str, name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}


def _essence(content: bytes) -> list[Any]:
    documents = read_documents(content)
    spec, _ = package_of(documents)
    spec = dict(spec)
    spec.pop("sdkVersion", None)
    code = {}
    for label, executor in spec.get("deploymentSpec", {}).get("executors", {}).items():
        command = executor.get("container", {}).pop("command", [])
        # The rest of the command is kfp's way to start it.
        code[label] = _code(command[-1]) if command else ""
    return [spec, documents[1:], code]


def _code(source: str) -> str:
    """What a function does: its syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
