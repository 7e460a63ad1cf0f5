"""Wrong values are refused in words that help; schema, defaults and page agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.charts.helm import CHART, FEATURES, Refused, file_of, rendered
from tests.charts.values_table import described, in_page, table

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = (CHART / "values.yaml").read_text()
README = (CHART / "README.md").read_text()
# Helm's own.
OPEN = {"global"}


def watching(more: str) -> str:
    """Values that watch the model `a`, with `more` of the watch."""
    rest = (
        f"registry: {{uri: 'http://mlflow:5000'}}, since: '2026-11-01T00:00:00Z', name: a, {more}"
    )
    return json.dumps({"watches": [yaml.safe_load("{" + rest + "}")]})


WRONG = {
    "a second replica": ("replicaCount: 2", r"property replicaCount is not allowed"),
    "a misspelt key": ("image: {repo: x}", r"image: Additional property repo is not allowed"),
    "no repository": ("image: {repository: ''}", r"image.repository is empty: name the control"),
    "a tag in the repository": (
        "image: {repository: 'example.org/a:latest'}",
        r"image.repository: Does not match pattern",
    ),
    "no digest": ("image: {digest: ''}", r"image.digest is empty: give the image's sha256 digest"),
    "half a digest": ("image: {digest: 'sha256:abc'}", r"image.digest: Does not match pattern"),
    "the tag latest": ("image: {digest: '', tag: latest}", r"image.tag is 'latest'"),
    "a policy nobody knows": (
        "image: {pullPolicy: Sometimes}",
        r'image.pullPolicy must be one of the following: "Always"',
    ),
    "a project by a tag": (
        watching("image: 'example.org/digits:1', experiment: e"),
        r"watches.0.image: Does not match pattern",
    ),
    "a run of nothing": (
        watching("experiment: e"),
        r"watches: 'a' in mode run needs an image and an experiment",
    ),
    "a pull request nowhere": (
        watching("mode: pull-request"),
        r"watches: 'a' in mode pull-request needs a repository",
    ),
    "a pull request by nobody": (
        watching("mode: pull-request, repository: a/b"),
        r"mode pull-request needs secrets.github.name",
    ),
    "a policy in a watch": (
        watching("policy: {}"),
        r"watches.0: Additional property policy is not allowed",
    ),
    "a password in a registry's address": (
        watching("registry: {uri: 'https://me:pw@mlflow'}"),
        r"registry's uri of 'a' holds a password",
    ),
    "a day without its time": (
        watching("since: '2026-11-01'"),
        r"watches.0.since: Does not match pattern",
    ),
    "runs of what nobody watches": ("runs: {faces: {}}", r"runs: nobody watches 'faces'"),
    "no webhook secret": (
        "secrets: {webhook: {name: ''}}",
        r"secrets.webhook.name is empty: name an existing secret",
    ),
    "a secret's value": (
        "secrets: {webhook: {value: s3cret}}",
        r"secrets.webhook: Additional property value is not allowed",
    ),
    "a secret in a variable": (
        "env: {GITHUB_TOKEN: abc}",
        r"env.GITHUB_TOKEN looks like a secret: put it into a Secret",
    ),
    "a password in a URL": (
        "env: {HTTPS_PROXY: 'http://me:pw@proxy:3128'}",
        r"env.HTTPS_PROXY looks like a secret",
    ),
    "a number for a variable": ("env: {A: 1}", r"env.A: Invalid type. Expected: string"),
    "a variable that the chart sets": (
        "env: {SSL_CERT_FILE: x}",
        r"SSL_CERT_FILE has a value of its own",
    ),
    "a variable said twice": (
        "{env: {A: x}, secrets: {env: {A: {name: s, key: k}}}}",
        r"A is in env and in secrets.env: remove one",
    ),
    "no watch": ("watches: []", r"watches is empty: name at least one"),
    "a password in the host": (
        "pipelines: {host: 'https://me:pw@kubeflow'}",
        r"pipelines.host: Does not match pattern",
    ),
    "a token that lives too shortly": (
        "pipelines: {token: {expirationSeconds: 60}}",
        r"pipelines.token.expirationSeconds: Must be greater than or equal to 600",
    ),
    "no way to the registry": (
        "networkPolicy: {egress: {registry: []}}",
        r"networkPolicy.egress.registry is empty: say where the registry is",
    ),
    "a way to nowhere": (
        "networkPolicy: {egress: {others: [{ports: [443]}]}}",
        r"has to have a namespace or a cidr, one of them",
    ),
    "a way without a port": (
        "networkPolicy: {egress: {others: [{namespace: a}]}}",
        r"networkPolicy.egress.others.0: ports is required",
    ),
    "a namespace that can be none": (
        "networkPolicy: {ingress: {from: [{namespace: 'A_b'}]}}",
        r"networkPolicy.ingress.from.0.namespace: Does not match pattern",
    ),
    "a port that is none": ("service: {port: 70000}", r"service.port: Must be less than or equal"),
    "two that may be away": (
        "podDisruptionBudget: {maxUnavailable: 2}",
        r"podDisruptionBudget.maxUnavailable must be one of the following: 0, 1",
    ),
    "no limit": ("resources: {limits: {memory: null}}", r"resources.limits: memory is required"),
    "an amount in words": (
        "resources: {limits: {memory: much}}",
        r"resources.limits.memory: Does not match pattern",
    ),
    "a label of the chart's": (
        "podLabels: {app.kubernetes.io/name: x}",
        r"podLabels: the chart itself sets app.kubernetes.io/name",
    ),
    "a schedule that is none": (
        "sweep: {enabled: true, schedule: nightly}",
        r"sweep.schedule: Does not match pattern",
    ),
    "no account": (
        "serviceAccount: {create: false}",
        r"serviceAccount.name is empty, and serviceAccount.create is false",
    ),
    "a role for nobody": (
        "pipelineRunner: {trainJobs: [{namespace: a}]}",
        r"pipelineRunner.trainJobs.0: serviceAccount is required",
    ),
    "files on no volume": (
        watching("registry: {kind: files, uri: /mnt/models}"),
        r"registry.uri of 'a' is '/mnt/models', which lies on none of registryVolumes",
    ),
    "files that lead off their volume": (
        "{registryVolumes: [{claim: c, path: /mnt/a}], "
        + watching("registry: {kind: files, uri: 'file:///mnt/a/../b'}")[1:],
        r"which lies on none of registryVolumes",
    ),
    "a Kubeflow registry without files": (
        watching("registry: {kind: kubeflow, uri: 'http://hub:8080'}"),
        r"registry.artifacts of 'a' is '', which lies on none of registryVolumes",
    ),
    "a volume over the image's own": (
        "registryVolumes: [{claim: c, path: /opt/venv}]",
        r"/opt/venv is not free in the image",
    ),
    "a volume of a claim with no name": (
        "registryVolumes: [{path: /mnt/a}]",
        r"registryVolumes.0: claim is required",
    ),
    "a token's file by hand": (
        "env: {REPRUNE_REGISTRY_TOKEN_FILE: /x}",
        r"REPRUNE_REGISTRY_TOKEN_FILE has a value of its own",
    ),
    "a secret of a registry that nobody watches": (
        "secrets: {registries: {'http://hub:8080': {name: s}}}",
        r"secrets.registries: nobody watches 'http://hub:8080'",
    ),
    "a chat's address": (
        "hooks: [{name: a, kind: slack, url: 'https://hooks.example.org/T0/B0'}]",
        r"hooks: the url of 'a' is a secret: put it into a Secret",
    ),
    "a hook without an address": (
        "hooks: [{name: a, kind: slack}]",
        r"hooks: 'a' needs url or urlSecret",
    ),
    "a hook with two": (
        "hooks: [{name: a, kind: slack, url: 'https://x', urlSecret: {name: s, key: k}}]",
        r"hooks: 'a' needs url or urlSecret, one of them",
    ),
    "a webhook that nobody signs": (
        "hooks: [{name: a, kind: webhook, url: 'https://x'}]",
        r"hooks: 'a' is signed: name the secret in signingSecret",
    ),
    "a chat that is signed": (
        "hooks: [{name: a, kind: slack, urlSecret: {name: s, key: k}, signingSecret: {name: s, key: k}}]",
        r"'a' of kind slack has no use for signingSecret",
    ),
    "two hooks of one name": (
        "hooks: [&h {name: a, kind: slack, urlSecret: {name: s, key: k}}, *h]",
        r"hooks: there are two called 'a'",
    ),
    "a hook in clear text": (
        "hooks: [{name: a, kind: webhook, url: 'http://x'}]",
        r"hooks.0.url: Does not match pattern",
    ),
    "a password in a hook's address": (
        "hooks: [{name: a, kind: webhook, url: 'https://me:pw@x'}]",
        r"hooks.0.url: Does not match pattern",
    ),
    "a hook's secret itself": (
        "hooks: [{name: a, kind: webhook, url: 'https://x', secret: whsec_abc}]",
        r"hooks.0: Additional property secret is not allowed",
    ),
    "an event that is none": (
        "hooks: [{name: a, kind: slack, events: [superseded]}]",
        r"hooks.0.events.0 must be one of the following",
    ),
    "no way to the hooks": (
        "hooks: [{name: a, kind: slack, urlSecret: {name: s, key: k}}]",
        r"networkPolicy.egress.others is empty: say where the hooks are",
    ),
    "no way to GitHub": (
        "{secrets: {github: {name: s}}, networkPolicy: {egress: {others: []}}, "
        + watching("mode: pull-request, repository: a/b")[1:],
        r"networkPolicy.egress.others is empty: say where GitHub is, which 'a'",
    ),
    "another user": ("securityContext: {runAsUser: 0}", r"securityContext is not allowed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_and_named(what: str) -> None:
    values, said = WRONG[what]
    with pytest.raises(Refused, match=said):
        rendered("minimal", values=values)


def test_a_release_that_can_name_no_service_is_refused() -> None:
    with pytest.raises(Refused, match="begins with a letter: set fullnameOverride"):
        rendered("minimal", release="1st")
    assert rendered("minimal", release="1st", values="fullnameOverride: first")


def test_an_old_cluster_is_refused() -> None:
    with pytest.raises(Refused, match=r"requires kubeVersion: >=1.27.0-0"):
        rendered("minimal", "1.26")


def closed(node: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every description of an object in the schema, with its path."""
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for key, value in node.items():
            yield from closed(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from closed(value, f"{path}.{index}")


def test_no_object_takes_keys_that_nobody_described() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    opened = {
        path.removeprefix("properties.")
        for path, node in closed(SCHEMA)
        if node.get("additionalProperties", True) is True
    }
    assert opened == OPEN


def test_a_map_of_the_users_own_keys_describes_their_values() -> None:
    for _, node in closed(SCHEMA):
        if isinstance(node.get("additionalProperties"), dict):
            assert "properties" not in node


def paths(values: object, schema: Any, path: str = "") -> Iterator[str]:
    """The dotted paths at which the schema has a value of its own."""
    while "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    if isinstance(values, dict) and values and "properties" in schema:
        for key, value in values.items():
            yield from paths(value, schema["properties"][key], f"{path}.{key}" if path else key)
    else:
        yield path


def test_every_value_is_described() -> None:
    told = described(VALUES)
    for path in paths(yaml.safe_load(VALUES), SCHEMA):
        ancestors = [path.rsplit(".", n)[0] for n in range(path.count(".") + 1)]
        assert any(each in told for each in ancestors), path


def test_every_top_level_value_has_a_default() -> None:
    assert SCHEMA["properties"].keys() - yaml.safe_load(VALUES).keys() == OPEN


def test_the_page_shows_the_values_as_they_are() -> None:
    """If not: python -m tests.charts.values_table"""
    assert in_page(README, table(VALUES)) == README


def test_the_page_names_every_values_file() -> None:
    assert set(re.findall(r"ci/([a-z]+)-values\.yaml", README)) == set(FEATURES)
    for feature in FEATURES:
        assert Path(file_of(feature)).read_text().startswith("# ")
