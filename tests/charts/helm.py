"""Helm as the tests of the chart use it: what it renders, and what it says when it refuses."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "reprune"
FEATURES = sorted(path.name.removesuffix("-values.yaml") for path in CHART.glob("ci/*.yaml"))
NEWEST = "1.37"

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm rendered nothing; its own words say why."""


@functools.cache
def helm() -> str:
    """The path of Helm; skips the test where there is none, and fails under CI."""
    found = subprocess.run(
        [ROOT / ".ci" / "helm.sh"], capture_output=True, text=True, timeout=120, check=False
    )
    if found.returncode:
        pytest.fail(found.stderr)
    if not found.stdout.strip():
        pytest.skip(found.stderr)
    return found.stdout.strip()


def run(*arguments: str, values: str = "") -> str:
    """What Helm prints, with `values` on its standard input. Raises Refused."""
    done = subprocess.run(
        [helm(), *arguments],
        input=values,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def file_of(feature: str) -> str:
    return str(CHART / "ci" / f"{feature}-values.yaml")


@functools.cache
def rendered(
    feature: str,
    version: str = NEWEST,
    *,
    values: str = "",
    release: str = "r",
    namespace: str = "models",
) -> tuple[Manifest, ...]:
    """The manifests of one values file, those of hooks too. Raises Refused."""
    text = run(
        *("template", release, "charts/reprune", "--namespace", namespace),
        *("--kube-version", f"{version}.0", "-f", file_of(feature), "-f", "-"),
        values=values or "{}",
    )
    return tuple(each for each in yaml.safe_load_all(text) if each)


def one(manifests: tuple[Manifest, ...], kind: str, ending: str = "") -> Manifest:
    """The one manifest of its kind; of policies that of the service, unless `ending` names another."""
    found = [each for each in manifests if each["kind"] == kind]
    if kind == "ConfigMap" and len(found) > 1:
        found = [each for each in found if "serve.yaml" in each["data"]]
    if kind == "NetworkPolicy":
        found = [
            each for each in found if each["metadata"]["name"].endswith("-test") == bool(ending)
        ]
    (it,) = found
    return it


def pods(manifests: tuple[Manifest, ...]) -> Iterator[Manifest]:
    """Everything with `metadata` and `spec` of a pod, in whatever it is wrapped."""
    for each in manifests:
        if each["kind"] == "Pod":
            yield each
        elif each["kind"] == "Deployment":
            yield each["spec"]["template"]
        elif each["kind"] == "CronJob":
            yield each["spec"]["jobTemplate"]["spec"]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    """The pod's container, and behind it those that run before."""
    (main,) = pod["spec"]["containers"]
    return [main, *pod["spec"].get("initContainers", [])]


def chooses(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches; of expressions it knows In."""
    wanted = selector.get("matchLabels", {})
    if any(labels.get(name) != value for name, value in wanted.items()):
        return False
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return all(labels.get(each["key"]) in each["values"] for each in expressions)


def texts(node: object) -> Iterator[str]:
    """Every text in a document, keys too."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from texts(key)
            yield from texts(value)
    elif isinstance(node, list):
        for each in node:
            yield from texts(each)
    elif isinstance(node, str):
        yield node
