"""What the chart renders is valid for current clusters, safe, and fits together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import kubernetes_validate
import kubernetes_validate.utils
import pytest
import yaml

from reprune import __version__
from reprune.doors import submit
from reprune.doors.kfp import tasks, trainjob
from reprune.orchestrate.endpoint import Endpoint
from reprune.orchestrate.listing import model_runs
from reprune.orchestrate.runs import Submission, cancel_run, find_runs, submit_run
from tests.charts.helm import (
    CHART,
    FEATURES,
    NEWEST,
    Manifest,
    chooses,
    containers,
    file_of,
    one,
    pods,
    rendered,
    run,
    texts,
)
from tests.kfp_server import KfpServer

VERSIONS = kubernetes_validate.utils.all_versions()[-2:]
# Kinds that Kubernetes' own schemas do not know; each has a test of its own here.
CUSTOM = {"ServiceMonitor"}
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SECRETIVE = re.compile(r"SECRET|TOKEN|PASSWORD|USERNAME", re.IGNORECASE)


def test_the_newest_version_here_is_the_newest_there() -> None:
    assert VERSIONS[-1] == f"{NEWEST}.0"


@pytest.mark.parametrize("feature", FEATURES)
def test_lint_finds_nothing(feature: str) -> None:
    assert "0 chart(s) failed" in run("lint", "--strict", "charts/reprune", "-f", file_of(feature))


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("feature", FEATURES)
def test_every_manifest_is_valid(feature: str, version: str) -> None:
    """An unknown kind raises, and so does an unknown field."""
    manifests = rendered(feature, version.rpartition(".")[0])
    checked = [each for each in manifests if each["kind"] not in CUSTOM]
    assert len(checked) >= 5
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.slow
def test_every_part_is_rendered_by_a_values_file() -> None:
    sources = {
        source
        for feature in FEATURES
        for source in re.findall(
            r"^# Source: reprune/(\S+)$",
            run("template", "r", str(CHART), "--kube-version", NEWEST, "-f", file_of(feature)),
            re.MULTILINE,
        )
    }
    templates = {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}
    assert sources == templates


def test_the_chart_is_of_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize("feature", FEATURES)
def test_there_is_one_replica_and_never_two(feature: str) -> None:
    spec = one(rendered(feature), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert "HorizontalPodAutoscaler" not in {each["kind"] for each in rendered(feature)}


@pytest.mark.parametrize("feature", FEATURES)
def test_pods_are_confined(feature: str) -> None:
    found = list(pods(rendered(feature)))
    assert len(found) >= 1
    for pod in found:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == tasks.USER
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": tasks.USER,
                "capabilities": {"drop": ["ALL"]},
            }
            for amounts in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][amounts].keys()
            written = {
                each["name"]
                for each in container.get("volumeMounts", [])
                if not each.get("readOnly")
            }
            ours = {
                each["name"]
                for each in spec.get("volumes", [])
                if {"emptyDir", "persistentVolumeClaim"} & each.keys()
            }
            assert written <= ours
        kinds = {name for volume in spec.get("volumes", []) for name in volume} - {"name"}
        assert kinds <= {"projected", "secret", "emptyDir", "persistentVolumeClaim"}


@pytest.mark.parametrize("feature", FEATURES)
def test_images_are_named_by_digest_or_by_a_tag_that_was_given(feature: str) -> None:
    (image,) = {pod["spec"]["containers"][0]["image"] for pod in pods(rendered(feature))}
    for pod in pods(rendered(feature)):
        for container in containers(pod)[1:]:
            assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"])
    wanted = r"\S+/control:0\.1\.0" if feature == "tag" else r"\S+/control@sha256:[0-9a-f]{64}"
    assert re.fullmatch(wanted, image)


UNITS = {"Mi": 2**20, "Gi": 2**30}


def amount(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("feature", FEATURES)
def test_a_version_that_may_be_copied_has_room_and_evicts_no_pod(feature: str) -> None:
    """More in /tmp than its size, or in all than the limit, and the kubelet ends the pod: for all watches."""
    manifests = rendered(feature)
    config = one(manifests, "ConfigMap")["data"]
    most = max(
        each["registry"]["max_bytes"] for each in yaml.safe_load(config["watches.yaml"])["watches"]
    )
    spec = one(manifests, "Deployment")["spec"]["template"]["spec"]
    sizes = {
        each["name"]: amount(each["emptyDir"]["sizeLimit"])
        for each in spec["volumes"]
        if "emptyDir" in each
    }
    limit = amount(spec["containers"][0]["resources"]["limits"]["ephemeral-storage"])
    assert most + 2**26 < sizes["tmp"]
    assert sum(sizes.values()) < limit


@pytest.mark.parametrize("feature", ["kubeflow", "files"])
def test_the_files_of_versions_are_where_the_watch_says(feature: str) -> None:
    manifests = rendered(feature)
    registry = yaml.safe_load(Path(file_of(feature)).read_text())["watches"][0]["registry"]
    folder = registry.get("artifacts") or registry["uri"]
    for pod in pods(rendered(feature, values="sweep: {enabled: true}")):
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "test":
            assert not any(
                "persistentVolumeClaim" in each for each in pod["spec"].get("volumes", ())
            )
            continue
        main, *copies = containers(pod)
        (claim,) = (each for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each)
        (mount,) = (each for each in main["volumeMounts"] if each["name"] == claim["name"])
        assert folder.startswith(mount["mountPath"] + "/")
        # Versions without an end are closed by a note that is registered.
        assert not mount["readOnly"]
        assert not any(claim["name"] in set(texts(each)) for each in copies)
    asked = [ports for _, ports in peers(one(manifests, "NetworkPolicy"), "egress", "to")]
    assert asked == [[53, 53], *([[8080], [5000]] if feature == "kubeflow" else []), [8888]]


def test_each_registry_finds_its_own_secret() -> None:
    manifests = rendered("kubeflow")
    spec = one(manifests, "Deployment")["spec"]["template"]["spec"]
    config = yaml.safe_load(one(manifests, "ConfigMap")["data"]["serve.yaml"])
    at = files(spec, spec["containers"][0])
    ((uri, folder),) = config["registry_secrets"].items()
    assert "model-registry-service" in uri
    assert at[folder] == ("model-registry", "")
    assert at[config["registry_secret"]] == ("mlflow-reader", "")


@pytest.mark.parametrize("feature", FEATURES)
def test_no_secret_is_written_and_each_is_named(feature: str) -> None:
    manifests = rendered(feature)
    assert "Secret" not in {each["kind"] for each in manifests}
    for pod in pods(manifests):
        for variable in pod["spec"]["containers"][0].get("env", []):
            if SECRETIVE.search(variable["name"]):
                assert variable.keys() == {"name", "valueFrom"}


def test_projects_are_there_before_the_service_and_it_cannot_change_them() -> None:
    watches = yaml.safe_load(Path(file_of("projects")).read_text())["watches"]
    images = sorted({each["image"] for each in watches}, key=lambda each: each.partition("@")[2])
    assert len(images) == 2 < len(watches)
    for pod in pods(rendered("projects")):
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "test":
            continue
        main, *copies = containers(pod)
        mounts = {each["mountPath"]: each for each in main["volumeMounts"]}
        assert mounts["/projects"]["readOnly"]
        assert [each["image"] for each in copies] == images
        for copy in copies:
            digits = copy["image"].rpartition("@sha256:")[2]
            assert copy["command"][-1] == f"/projects/{digits}"
            assert copy["volumeMounts"] == [{"name": "projects", "mountPath": "/projects"}]
            assert "env" not in copy


def test_copying_a_project_twice_is_copying_it_once(tmp_path: Path) -> None:
    copy = containers(one(rendered("projects"), "Deployment")["spec"]["template"])[1]
    (tmp_path / "project" / "task").mkdir(parents=True)
    (tmp_path / "project" / "task" / "model.py").write_text("model")
    (tmp_path / "projects").mkdir()
    command = [f"{tmp_path}{each}" if each[0] == "/" else each for each in copy["command"]]
    for _ in range(2):
        subprocess.run(command, check=True, timeout=30)
        found = [path.relative_to(tmp_path) for path in (tmp_path / "projects").rglob("*.py")]
        assert found == [Path(f"projects/{'0123456789abcdef' * 4}/task/model.py")]


def test_every_named_secret_arrives_where_the_service_looks() -> None:
    manifests = rendered("secrets")
    spec = one(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (chat,) = (each for each in container["env"] if "valueFrom" in each)
    assert chat == {
        "name": "CHAT_URL",
        "valueFrom": {"secretKeyRef": {"name": "chat", "key": "url"}},
    }
    config = yaml.safe_load(one(manifests, "ConfigMap")["data"]["serve.yaml"])
    at = files(spec, container)
    assert [at[f"/etc/reprune/{each}"] for each in config["webhook"]["secret_files"]] == [
        ("reprune-webhook", "current"),
        ("reprune-webhook", "next"),
    ]
    assert at[config["kubeflow"]["token_file"]] == ("kfp-token", "access.token")
    assert at[f"/etc/reprune/{config['github']['token_file']}"] == ("github", "dispatch")
    assert at[f"/etc/reprune/{config['kubeflow']['ca_file']}"] == ("company-ca", "ca.crt")
    assert at[config["registry_secret"]] == ("mlflow-reader", "")
    assert at["/etc/reprune/" + config["watches"]] == ("r-reprune", "watches.yaml")
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["SSL_CERT_FILE"] == env["REQUESTS_CA_BUNDLE"] == "/etc/reprune/ca.crt"


def files(spec: Manifest, container: Manifest) -> dict[str, tuple[str, str]]:
    """From paths in the container to the objects and keys that lie there; a whole secret has no key."""
    found = {}
    places = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    for volume in spec["volumes"]:
        place = places[volume["name"]]
        for source in volume.get("projected", {"sources": [volume]})["sources"]:
            given = source.get("secret") or source.get("configMap") or {}
            name = given.get("name") or given.get("secretName", "")
            for item in given.get("items", ()):
                found[f"{place}/{item['path']}"] = (name, item["key"])
            if given and "items" not in given:
                found[place] = (name, "")
    return found


def test_the_token_lies_where_every_pod_finds_one() -> None:
    config = yaml.safe_load(one(rendered("minimal"), "ConfigMap")["data"]["serve.yaml"])
    assert config["kubeflow"]["token_file"] == str(submit.MOUNTED)
    (container,) = one(rendered("minimal"), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert str(submit.MOUNTED.parent) in {each["mountPath"] for each in container["volumeMounts"]}
    without = yaml.safe_load(one(rendered("account"), "ConfigMap")["data"]["serve.yaml"])
    assert "token_file" not in without["kubeflow"]


def test_the_token_is_the_pods_own_and_for_pipelines_only() -> None:
    volumes = one(rendered("minimal"), "Deployment")["spec"]["template"]["spec"]["volumes"]
    (token,) = (
        source["serviceAccountToken"]
        for volume in volumes
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    )
    assert token["audience"] == "pipelines.kubeflow.org"
    assert "serviceAccountToken" not in set(texts(list(rendered("account"))))


@pytest.mark.parametrize("feature", FEATURES)
def test_the_service_has_roles_only_where_a_watch_names_a_namespace(feature: str) -> None:
    given = yaml.safe_load(Path(file_of(feature)).read_text())
    named = {each.get("namespace", "") for each in given["watches"]} - {""}
    manifests = rendered(feature)
    kinds = {each["kind"] for each in manifests}
    assert not {"ClusterRole", "ClusterRoleBinding"} & kinds
    account = one(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    bound = [
        each
        for each in manifests
        if each["kind"] == "RoleBinding" and each["subjects"][0]["name"] == account
    ]
    assert {each["metadata"]["namespace"] for each in bound} == named
    for binding in bound:
        assert binding["subjects"][0]["namespace"] == "models"
        (role,) = (
            each
            for each in manifests
            if each["kind"] == "Role" and each["metadata"]["name"] == binding["roleRef"]["name"]
        )
        assert role["metadata"]["namespace"] == binding["metadata"]["namespace"]
        # Nothing of Kubernetes' own: these are words that Kubeflow Pipelines asks about.
        assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {
            "pipelines.kubeflow.org"
        }


def test_roles_are_left_out_where_they_are_not_wanted() -> None:
    assert "Role" in {each["kind"] for each in rendered("kubeflow")}
    without = rendered("kubeflow", values="pipelines: {roles: false}")
    assert not {"Role", "RoleBinding"} & {each["kind"] for each in without}


def test_the_role_allows_what_the_service_asks_of_pipelines_and_nothing_else() -> None:
    """What a run's whole life asks for, in the words that Kubeflow Pipelines has for it."""
    (role,) = (each for each in rendered("kubeflow") if each["kind"] == "Role")
    allowed = {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    with KfpServer() as server:
        endpoint = Endpoint(host=server.url, namespace="team-a")
        spec = {"pipelineInfo": {"name": "continuous-compression"}}
        submission = Submission(name="digits-1", experiment="reprune", pipeline_spec=spec)
        run = submit_run(endpoint, submission)
        find_runs(endpoint, submission.name)
        model_runs(endpoint, "digits", since_s=0.0)
        cancel_run(endpoint, run.run_id)
        asked = {_word(each.method, each.path) for each in server.requests}
    assert asked == allowed


def _word(method: str, path: str) -> tuple[str, str]:
    resource, *rest = path.strip("/").split("/")
    if method == "POST":
        return resource, rest[0].partition(":")[2] if rest else "create"
    return resource, "get" if rest else "list"


def test_runs_that_train_in_trainjobs_get_what_the_trainer_asks_for() -> None:
    manifests = rendered("trainjobs")
    account = one(manifests, "ServiceAccount")["metadata"]
    roles = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): each["rules"]
        for each in manifests
        if each["kind"] == "Role"
    }
    bound = []
    for each in manifests:
        if each["kind"] == "RoleBinding":
            (subject,) = each["subjects"]
            assert subject["namespace"] == each["metadata"]["namespace"] != account["namespace"]
            bound.append((subject["namespace"], subject["name"]))
            assert roles.pop((subject["namespace"], each["roleRef"]["name"])) == [
                {
                    "apiGroups": [trainjob.GROUP],
                    "resources": [trainjob.PLURAL],
                    "verbs": ["create", "get", "delete"],
                },
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
            ]
    assert sorted(bound) == [("kubeflow", "pipeline-runner"), ("team-a", "default-editor")]
    assert not roles


@pytest.mark.parametrize("feature", FEATURES)
def test_selectors_choose_what_they_are_for(feature: str) -> None:
    manifests = rendered(feature)
    by_component = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["metadata"]["labels"]
        for pod in pods(manifests)
    }
    for each in manifests:
        kind, spec = each["kind"], each.get("spec", {})
        if kind == "Service":
            selector, wanted = {"matchLabels": spec["selector"]}, {"serve"}
        elif kind in ("Deployment", "PodDisruptionBudget"):
            selector, wanted = spec["selector"], {"serve"}
        elif kind == "NetworkPolicy":
            of_test = each["metadata"]["name"].endswith("-test")
            wanted = ({"test"} if of_test else {"serve", "sweep"}) & by_component.keys()
            selector = spec["podSelector"]
        else:
            continue
        chosen = {name for name, labels in by_component.items() if chooses(selector, labels)}
        assert chosen == wanted, kind


def peers(policy: Manifest, direction: str, key: str) -> list[tuple[str, list[object]]]:
    """Who is let through, as text, and on which ports."""
    return [
        (json.dumps(peer, sort_keys=True), [port["port"] for port in rule["ports"]])
        for rule in policy["spec"][direction]
        for peer in rule[key]
    ]


def test_the_network_policy_lets_through_what_is_listed_and_nothing_else() -> None:
    policy = one(rendered("network"), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    asks = peers(policy, "ingress", "from")
    assert [ports for _, ports in asks] == [["http"], ["http"]]
    assert '"mlflow"' in asks[0][0]
    assert '"monitoring"' in asks[1][0]
    asked = peers(policy, "egress", "to")
    assert [ports for _, ports in asked] == [[53, 53], [443], [443], [8888, 8443], [443]]
    # A rule without peers or ports lets through everything.
    assert all("{}" not in peer for peer, _ in asks + asked)


def test_nobody_asks_where_nobody_is_listed() -> None:
    (rule,) = one(rendered("minimal"), "NetworkPolicy")["spec"]["ingress"]
    (peer,) = rule["from"]
    test = one(rendered("minimal"), "Pod")["metadata"]["labels"]
    assert chooses(peer["podSelector"], test)
    assert peer.keys() == {"podSelector"}
    closed = one(rendered("minimal", values="tests: {enabled: false}"), "NetworkPolicy")
    assert closed["spec"]["ingress"] == []


def test_the_pod_of_helm_test_asks_the_service_and_nobody_else() -> None:
    manifests = rendered("minimal")
    policy = one(manifests, "NetworkPolicy", "test")
    assert policy["spec"]["ingress"] == []
    (_, dns), (asked, ports) = peers(policy, "egress", "to")
    assert (dns, ports) == ([53, 53], ["http"])
    serve = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert chooses(json.loads(asked)["podSelector"], serve)


@pytest.mark.parametrize("feature", ["monitoring", "sweep", "trainjobs"])
@pytest.mark.parametrize("release", ["r", "a" + "b-9" * 17 + "z", "reprune"])
def test_names_fit(feature: str, release: str) -> None:
    for each in rendered(feature, release=release):
        name = each["metadata"]["name"]
        limit = 52 if each["kind"] == "CronJob" else 63
        assert re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{limit - 2}}}[a-z0-9])?", name)
        for value in each["metadata"]["labels"].values():
            assert len(value) <= 63


def test_names_that_look_like_numbers_stay_names() -> None:
    for each in rendered("trainjobs", release="a1", namespace="1234"):
        assert isinstance(each["metadata"]["namespace"], str)
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)


def test_every_object_is_found_by_its_labels() -> None:
    for each in rendered("placement"):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "r"
        assert labels["example.org/cost"] == "42"
    pod = one(rendered("placement"), "Deployment")["spec"]["template"]["metadata"]
    assert pod["labels"]["team"] == "edge"
    assert pod["annotations"]["example.org/note"] == "a: b # c"


@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_watched_is_what_was_written(feature: str) -> None:
    """Numbers stay numbers and times stay texts, on their way through Helm."""
    given = yaml.safe_load(Path(file_of(feature)).read_text())
    (config,) = (each for each in rendered(feature) if "watches.yaml" in each.get("data", {}))
    written = yaml.safe_load(config["data"]["watches.yaml"])
    bounded = {"max_bytes": DEFAULTS["maxVersionBytes"]}
    assert written["watches"] == [
        each | {"registry": bounded | each["registry"]} for each in given["watches"]
    ]
    assert all(type(each["registry"]["max_bytes"]) is int for each in written["watches"])
    assert written["concurrency"] == given.get("concurrency", 4)
    assert yaml.safe_load(config["data"]["serve.yaml"]).get("runs", {}) == given.get("runs", {})


def test_large_numbers_are_not_written_as_fractions() -> None:
    values = "webhook: {maxBodyBytes: 16000000, windowSeconds: 3600}"
    config = one(rendered("minimal", values=values), "ConfigMap")["data"]["serve.yaml"]
    assert yaml.safe_load(config)["webhook"]["max_body_bytes"] == 16_000_000
    assert "e+" not in config


def test_another_configuration_starts_the_pod_anew() -> None:
    before, after = (
        one(rendered("minimal", values=values), "Deployment")["spec"]["template"]
        for values in ("", "concurrency: 7")
    )
    assert before["spec"] == after["spec"]
    assert before["metadata"]["annotations"] != after["metadata"]["annotations"]


def test_probes_ask_the_port_that_the_command_opens() -> None:
    (container,) = one(rendered("minimal"), "Deployment")["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    command = container["command"]
    assert command[command.index("--port") + 1] == str(port["containerPort"])
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] == port["name"]
        paths[probe] = asked["path"]
    assert [*paths.values()] == ["/healthz", "/healthz", "/readyz"]
    (served,) = one(rendered("minimal"), "Service")["spec"]["ports"]
    assert served["targetPort"] == port["name"]


def test_the_sweep_is_the_service_once() -> None:
    manifests = rendered("sweep")
    cron = one(manifests, "CronJob")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    (sweep,) = cron["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (serve,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert sweep["command"][-1] == "--once"
    assert serve["command"][:4] == sweep["command"][:4]
    for same in ("image", "volumeMounts", "securityContext", "resources"):
        assert sweep[same] == serve[same]
    assert not {"ports", "livenessProbe"} & sweep.keys()


def test_the_service_monitor_scrapes_the_service() -> None:
    manifests = rendered("monitoring")
    monitor, service = one(manifests, "ServiceMonitor"), one(manifests, "Service")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert monitor["spec"].keys() == {"namespaceSelector", "selector", "endpoints"}
    assert monitor["spec"]["namespaceSelector"]["matchNames"] == [service["metadata"]["namespace"]]
    assert chooses(monitor["spec"]["selector"], service["metadata"]["labels"])
    (port,) = service["spec"]["ports"]
    assert monitor["spec"]["endpoints"] == [
        {"port": port["name"], "path": "/metrics", "interval": "1m", "scrapeTimeout": "10s"}
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_helm_test_passes_only_where_the_service_is_ready(status: int, code: int) -> None:
    (container,) = one(rendered("minimal"), "Pod")["spec"]["containers"]
    service = one(rendered("minimal"), "Service")
    python, *arguments, url = container["command"]
    assert python == "python"
    assert url == f"http://{service['metadata']['name']}:8080/readyz"
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = url.replace(f"{service['metadata']['name']}:8080", f"127.0.0.1:{server.server_port}")
        done = subprocess.run(
            [sys.executable, *arguments, here], capture_output=True, timeout=30, check=False
        )
        server.shutdown()
    assert done.returncode == code
    assert asked == ["/readyz"]
