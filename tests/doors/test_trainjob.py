"""The TrainJob that trains on several nodes: what the API takes, and what becomes of it once created.

The fields are those of the type TrainJob in pkg/apis/trainer/v1alpha1/trainjob_types.go of
kubeflow/trainer at commit 0015772c (v2.3 and its `runtimePatches`), and the runtime's names those of
manifests/base/runtimes/torch_distributed.yaml; pods are checked against the schema of Kubernetes.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reprune.compress.training.workers import Order, Why, train_elsewhere, why_file
from reprune.core.documents import canonical
from reprune.core.errors import (
    AccessDenied,
    CompressionError,
    DocumentError,
    InputError,
    OrchestratorError,
    OrchestratorUnreachable,
    RepruneError,
)
from reprune.core.params import DistillParams
from reprune.core.step import work_root
from reprune.doors.kfp.cluster import Cluster
from reprune.doors.kfp.trainer import Here, as_here, elsewhere, manifest_of, run_trainjob, state_of
from reprune.doors.kfp.trainjob import Toleration, Trainer, trainjob

ARGUMENTS = ("-m", "reprune.compress.training.worker", "/workspace/work/distill-0a/order.json")
TRAINER = Trainer(
    image="example.test/project@sha256:" + "0" * 64,
    claim="run-workspace",
    nodes=2,
    resources={"nvidia.com/gpu": "2", "memory": "16Gi"},
    env={"DATA_URI": "s3://bucket/data"},
    node_selector={"pool": "gpu"},
    tolerations=(Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),),
    service_account="trainer",
)
HERE = Here(trainer=TRAINER)
POD = {
    "serviceAccountName": str,
    "volumes": list,
    "containers": [{"name": str, "volumeMounts": list, "securityContext": dict}],
    "nodeSelector": dict,
    "tolerations": list,
    "affinity": dict,
    "imagePullSecrets": list,
    "securityContext": dict,
}
TRAINJOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "labels": dict, "annotations": dict},
    "spec": {
        "runtimeRef": {"apiGroup": str, "kind": str, "name": str},
        "trainer": {
            "image": str,
            "command": [str],
            "args": [str],
            "env": [{"name": str, "value": str}],
            "numNodes": int,
            "numProcPerNode": int,
            "resourcesPerNode": {"limits": dict, "requests": dict},
        },
        "runtimePatches": [
            {
                "manager": str,
                "trainingRuntimeSpec": {
                    "template": {
                        "spec": {
                            "replicatedJobs": [
                                {
                                    "name": str,
                                    "template": {"spec": {"template": {"spec": POD}}},
                                }
                            ]
                        }
                    }
                },
            }
        ],
    },
}
REQUIRED = {
    "": ("apiVersion", "kind", "metadata", "spec"),
    ".spec": ("runtimeRef",),
    ".spec.runtimeRef": ("name",),
    ".spec.runtimePatches[]": ("manager",),
    ".spec.runtimePatches[].trainingRuntimeSpec.template.spec.replicatedJobs[]": ("name",),
}


def check(value: Any, known: Any, where: str = "") -> None:
    """Nothing unknown, nothing missing, everything of its type."""
    if isinstance(known, dict):
        assert isinstance(value, dict), where
        assert not value.keys() - known.keys(), where
        assert not set(REQUIRED.get(where, ())) - value.keys(), where
        for key, inner in value.items():
            check(inner, known[key], f"{where}.{key}")
    elif isinstance(known, list):
        assert isinstance(value, list), where
        for inner in value:
            check(inner, known[0], f"{where}[]")
    else:
        assert type(value) is known, where


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    (patch,) = manifest["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"
    pod: dict[str, Any] = job["template"]["spec"]["template"]["spec"]
    return pod


@settings(max_examples=20, deadline=None)  # the schema of Kubernetes is large
@given(
    nodes=st.integers(1, 9),
    each=st.integers(1, 8),
    bare=st.booleans(),
    kind=st.sampled_from(["TrainingRuntime", "ClusterTrainingRuntime"]),
)
def test_the_manifest_is_what_the_api_takes(nodes, each, bare, kind):
    """Of known fields alone; nodes times processes a node is what was asked for; the pod that the runtime
    makes of it is one of Kubernetes.
    """
    full = msgspec.structs.replace(TRAINER, nodes=nodes, runtime_kind=kind)
    trainer = Trainer(image="i", claim="c", nodes=nodes) if bare else full
    manifest = trainjob("reprune-distill-0a", ARGUMENTS, nodes * each, "/workspace", trainer)
    assert manifest == trainjob(
        "reprune-distill-0a", ARGUMENTS, nodes * each, "/workspace", trainer
    )
    assert json.loads(json.dumps(manifest)) == manifest
    check(manifest, TRAINJOB)
    spec = manifest["spec"]["trainer"]
    assert (manifest["apiVersion"], manifest["kind"]) == (
        "trainer.kubeflow.org/v1alpha1",
        "TrainJob",
    )
    assert spec["numNodes"] * spec["numProcPerNode"] == nodes * each
    assert spec["command"] == ["torchrun", *ARGUMENTS]
    assert not [each for each in spec["env"] if each["name"].startswith("PET_")]
    pod = pod_of(manifest)
    (container,) = pod["containers"]
    assert container["name"] == "node"
    assert "env" not in container  # the API refuses it for `node`
    assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
    filled = {key: spec[key] for key in ("image", "command", "env")} | container
    if not bare:
        filled["resources"] = spec["resourcesPerNode"]
    whole = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": pod | {"containers": [filled]},
    }
    kubernetes_validate.validate(whole, "1.30", strict=True)


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"nvidia.com/gpu": "2", "memory": "16Gi"}, True),
        ({"nvidia.com/mig-1g.5gb": "1"}, True),
        ({"amd.com/gpu": "1"}, True),
        ({"nvidia.com/gpu": "0"}, False),
        ({"cpu": "8", "memory": "16Gi"}, False),
        ({}, False),
    ],
)
def test_processes_that_were_given_a_gpu_are_told(resources, told):
    """So that an image without CUDA ends the training, instead of taking days on a CPU."""
    trainer = msgspec.structs.replace(TRAINER, resources=resources)
    manifest = trainjob("reprune-a", ARGUMENTS, 4, "/workspace", trainer)
    env = {each["name"]: each["value"] for each in manifest["spec"]["trainer"]["env"]}
    assert env.get("REPRUNE_NEEDS_GPU") == ("1" if told else None)
    assert env["DATA_URI"] == "s3://bucket/data"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"processes": 3}, "evenly over 2 nodes"),
        ({"workspace": "workspace"}, "no folder"),
        ({"workspace": "/"}, "no folder"),
        ({"name": "Reprune"}, "TrainJob's name"),
        ({"name": "r" * 64}, "TrainJob's name"),
        ({"env": {"PET_NNODES": "3"}}, "PET_NNODES"),
    ],
)
def test_what_the_api_would_refuse_is_refused_first(change, words):
    """Before anything is created."""
    env = change.pop("env", {})
    trainer = msgspec.structs.replace(TRAINER, env=env)
    given_values = {"name": "reprune-a", "processes": 4, "workspace": "/workspace"} | change
    with pytest.raises(InputError, match=re.escape(words)):
        trainjob(arguments=ARGUMENTS, trainer=trainer, **given_values)


def test_an_order_that_other_pods_cannot_see_is_refused(monkeypatch):
    """And the job is named by the order's folder and its volume: a retry finds it, another run does not."""

    def name(claim: str) -> str:
        here = Here(trainer=msgspec.structs.replace(TRAINER, claim=claim))
        return str(manifest_of(ARGUMENTS, 4, "/workspace", here)["metadata"]["name"])

    assert name("run-1") == name("run-1") != name("run-2")
    assert len(name("run-1")) <= 40
    for workspace in ("", "/elsewhere"):
        with pytest.raises(InputError, match="not on the workspace"):
            manifest_of(ARGUMENTS, 4, workspace, HERE)
    assert elsewhere(" ", "/workspace") is None
    with pytest.raises(DocumentError, match=r"'nodess'|nodess"):
        elsewhere('{"image": "i", "claim": "c", "nodess": 2}', "/workspace")
    with pytest.raises(InputError, match="only from a pod"):
        elsewhere('{"image": "i", "claim": "c"}', "/workspace")


@pytest.mark.parametrize("own", ["", "kept"])
def test_the_images_own_work_folder_gives_way_to_the_workspace(monkeypatch, api, tmp_path, own):
    """Other pods see the order; what somebody put on the workspace stays where it is."""
    here, cluster = api
    text = (Path(__file__).parents[2] / "images" / "compress.Containerfile").read_text()
    named = re.search(r"REPRUNE_WORK=(\S+)", text)
    assert named is not None
    workspace = tmp_path / "workspace"
    monkeypatch.setenv("REPRUNE_WORK", str(workspace / own) if own else named[1])
    monkeypatch.setattr("reprune.doors.kfp.trainer.this_cluster", lambda: cluster)
    start = elsewhere('{"image": "i", "claim": "c"}', str(workspace))
    assert start is not None
    assert work_root() == workspace / (own or "work")
    start(["-m", "reprune.worker", str(work_root() / "distill-0a" / "order.json")], 2)
    assert len(here.created) == 1


class Api:
    """A Kubernetes API of one resource. `after_creation` are the job's states, one each time that it is
    asked about; the last one stays. `faults` are what the next requests get instead of an answer.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.after_creation: list[dict[str, Any] | None] = [condition("Complete")]
        self.faults: list[int | str] = []
        self.seen: list[tuple[str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.when_asked: Callable[[], object] = lambda: None

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:  # noqa: PLR0911
        root = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
        if method == "POST":
            assert path == f"{root}?fieldValidation=Strict"
            assert body is not None
            name = body["metadata"]["name"]
            if name in self.jobs:
                return 409, {"message": "already exists"}
            self.jobs[name] = body
            self.created.append(body)
            return 201, body
        if path == "/api/v1/namespaces/team/pods/launcher":
            return 200, LAUNCHER
        name = path.removeprefix(f"{root}/")
        if name not in self.jobs:
            return 404, {"message": f'trainjobs "{name}" not found'}
        if method == "DELETE":
            del self.jobs[name]
            return 200, {"kind": "Status"}
        self.when_asked()
        state = self.after_creation[0]
        if len(self.after_creation) > 1:
            self.after_creation.pop(0)
        if state is None:
            del self.jobs[name]
            return 404, {"message": "not found"}
        return 200, self.jobs[name] | state


LAUNCHER = {
    "spec": {
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "kfp-workspace", "persistentVolumeClaim": {"claimName": "run-7-workspace"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
            {"name": "keys", "secret": {"secretName": "data-keys", "optional": True}},
            {"name": "promoter", "secret": {"secretName": "promoter"}},
        ],
        "activeDeadlineSeconds": 21600,
        "containers": [
            {"name": "wait", "image": "argo", "volumeMounts": [{"name": "tmp", "mountPath": "/w"}]},
            {
                "name": "main",
                "image": "project@sha256:1",
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "kfp-workspace", "mountPath": "/w"},
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    {"name": "keys", "mountPath": "/etc/reprune/data"},
                    {"name": "promoter", "mountPath": "/etc/reprune/promoter"},
                ],
            },
        ],
    },
    "status": {"startTime": "2026-11-22T10:00:00Z"},
}


def condition(kind: str, message: str = "", status: str = "True") -> dict[str, Any]:
    found = {"type": kind, "status": status, "reason": "R", "message": message}
    return {"status": {"conditions": [found]}}


@pytest.fixture
def api(tmp_path) -> Iterator[tuple[Api, Cluster]]:
    """The API on a port of this machine, and how to reach it; `Cluster.patience_s` is short."""
    here = Api()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            body = json.loads(self.rfile.read(length)) if length else None
            here.seen.append((self.command, self.path))
            here.tokens.append(self.headers.get("Authorization", ""))
            fault = here.faults.pop(0) if here.faults else 0
            if fault in ("drop", "lost answer"):
                if fault == "lost answer":
                    here.answer(self.command, self.path, body)
                self.close_connection = True
                return
            code, value = (
                (fault, {"message": "no\x1b[31m"})
                if isinstance(fault, int) and fault
                else here.answer(self.command, self.path, body)
            )
            raw = json.dumps(value).encode()
            if fault == "half":
                raw = raw[: len(raw) // 2]
            self.send_response(code)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815  the names that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    (tmp_path / "token").write_text("secret\n")
    cluster = Cluster(
        url=f"http://127.0.0.1:{server.server_port}",
        namespace="team",
        token_file=tmp_path / "token",
        timeout_s=5.0,
        poll_s=0.01,
        patience_s=0.3,
    )
    yield here, cluster
    server.shutdown()
    thread.join()
    server.server_close()


MANIFEST = trainjob("reprune-distill-0a", ARGUMENTS, 4, "/workspace", TRAINER)
RUNNING: dict[str, Any] = {"status": {"conditions": []}}


def test_a_job_is_created_and_waited_for(api):
    """Suspended jobs (a queue holds them) and such without a status are waited for; the token goes along."""
    here, cluster = api
    here.after_creation = [{}, RUNNING, condition("Suspended"), condition("Complete")]
    run_trainjob(cluster, MANIFEST, HERE)
    assert here.created == [MANIFEST]
    assert [method for method, _ in here.seen] == ["POST"] + ["GET"] * 4
    assert set(here.tokens) == {"Bearer secret"}
    assert "reprune-distill-0a" in here.jobs


def test_a_job_that_fails_says_why(api):
    """Failed wins over anything else that is true, and is an error."""
    here, cluster = api
    failed = condition("Failed", "node-1 exited with 137\n")
    failed["status"]["conditions"].append({"type": "Complete", "status": "False"})
    here.after_creation = [RUNNING, failed]
    with pytest.raises(RepruneError, match=r"failed: R: node-1 exited with 137\n"):
        run_trainjob(cluster, MANIFEST, HERE)


def test_a_job_that_is_deleted_is_no_success(api):
    """Somebody else deleted it while it ran."""
    here, cluster = api
    here.after_creation = [RUNNING, None]
    with pytest.raises(RepruneError, match="was deleted before"):
        run_trainjob(cluster, MANIFEST, HERE)


def test_a_job_that_takes_too_long_is_deleted(api):
    """After the deadline nothing of it goes on."""
    here, cluster = api
    here.after_creation = [RUNNING]
    hasty = Here(trainer=msgspec.structs.replace(TRAINER, deadline_seconds=0))
    with pytest.raises(RepruneError, match="took more than"):
        run_trainjob(cluster, MANIFEST, hasty)
    assert not here.jobs


def test_the_deadline_counts_from_the_jobs_creation(api):
    """By whichever task it is waited for: a retry that finds it does not begin anew."""
    here, cluster = api
    old = {"creationTimestamp": "2026-11-22T10:00:00Z"}
    here.jobs["reprune-distill-0a"] = MANIFEST | {"metadata": MANIFEST["metadata"] | old}
    here.after_creation = [RUNNING]
    with pytest.raises(RepruneError, match="took more than 86400 s"):
        run_trainjob(cluster, MANIFEST, HERE)
    assert not here.jobs


def test_the_job_goes_before_the_task_that_waits_for_it(api):
    """Where the task's limit is shorter than the job's deadline, no job is left that nobody waits for."""
    here, cluster = api
    here.after_creation = [RUNNING]
    with pytest.raises(RepruneError, match="own time limit"):
        run_trainjob(cluster, MANIFEST, replace(HERE, ends_s=time.time() + 60.0))
    assert not here.jobs


WAITING = """
import json, signal, sys
from reprune.doors.kfp.cluster import Cluster
from reprune.doors.kfp.trainer import Here, run_trainjob
from reprune.doors.kfp.trainjob import Trainer

before = signal.getsignal(signal.SIGTERM)
url, manifest = json.loads(sys.argv[1])
cluster = Cluster(url=url, namespace="team", timeout_s=60.0, poll_s=0.01, patience_s=60.0)
run_trainjob(cluster, manifest, Here(trainer=Trainer(image="i", claim="c")))
assert signal.getsignal(signal.SIGTERM) == before
"""


@pytest.mark.parametrize("ended", [True, False])
def test_the_end_of_the_task_is_the_jobs_end(api, ended):
    """As when somebody terminates the run: a process of its own, since it is one that is ended."""
    here, cluster = api
    asked = threading.Event()
    here.after_creation = [RUNNING] if ended else [RUNNING, condition("Complete")]
    here.when_asked = asked.set
    words = json.dumps([cluster.url, MANIFEST])
    with subprocess.Popen([sys.executable, "-c", WAITING, words]) as task:
        try:
            assert asked.wait(120)
            if ended:
                task.send_signal(signal.SIGTERM)
            task.wait(120)
        finally:
            task.kill()
    assert task.returncode == (143 if ended else 0)
    assert bool(here.jobs) != ended


@pytest.mark.parametrize("fault", [500, 503, 429, "drop", "half"])
def test_an_api_that_stays_away_for_a_moment_is_asked_again(api, fault):
    """While it is asked to create, and while it is asked what became of it."""
    here, cluster = api
    here.faults = [fault, 0, fault, fault]
    here.after_creation = [*[RUNNING] * 5, condition("Complete")]
    run_trainjob(cluster, MANIFEST, HERE)
    assert len(here.created) == 1


def test_a_creation_whose_answer_was_lost_makes_no_second_job(api):
    """The job is found by its name."""
    here, cluster = api
    here.faults = ["lost answer"]
    here.after_creation = [RUNNING, condition("Complete")]
    run_trainjob(cluster, MANIFEST, HERE)
    assert len(here.created) == 1


def test_an_api_that_stays_away_is_an_error_in_the_end(api):
    """And the job is left as it is: the next try waits for it."""
    here, cluster = api
    here.faults = [0] + [503] * 10_000
    with pytest.raises(OrchestratorUnreachable, match="stays away: answered 503"):
        run_trainjob(cluster, MANIFEST, HERE)
    assert "reprune-distill-0a" in here.jobs


def test_image_and_claim_are_those_of_the_pod_that_asks(api):
    """The claim that is mounted where the workspace is, and the image of the container that has it."""
    cluster = api[1]
    found = as_here(cluster, Trainer(nodes=2), "/w", "launcher").trainer
    assert (found.image, found.claim, found.nodes) == ("project@sha256:1", "run-7-workspace", 2)
    assert as_here(cluster, Trainer(image="mine"), "/w/", "launcher").trainer.image == "mine"
    assert as_here(cluster, TRAINER, "/nowhere", "gone") == HERE
    for workspace, pod in (("/w/deeper", "launcher"), ("/w", "gone")):
        with pytest.raises(InputError, match="no volume claim mounted"):
            as_here(cluster, Trainer(), workspace, pod)
    with pytest.raises(InputError, match="an image and a volume claim"):
        trainjob("reprune-a", ARGUMENTS, 2, "/w", Trainer(image="i"))


def test_the_jobs_pods_find_what_the_tasks_code_needs(api):
    """Its data, their credentials, shared memory and /tmp, and nothing else that the pod has; until when."""
    cluster = api[1]
    found = as_here(cluster, TRAINER, "/w", "launcher")
    assert found.ends_s == datetime(2026, 11, 22, 16, tzinfo=UTC).timestamp()
    manifest = trainjob("reprune-a", ARGUMENTS, 2, "/w", found.trainer, found.mounts)
    check(manifest, TRAINJOB)
    pod = pod_of(manifest)
    volumes = {each.pop("name"): each for each in pod["volumes"]}
    (container,) = pod["containers"]
    mounted = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
    assert mounted == {
        "/w": {"persistentVolumeClaim": {"claimName": "run-workspace"}},
        "/data": {"persistentVolumeClaim": {"claimName": "data"}},
        "/tmp": {"emptyDir": {}},
        "/dev/shm": {"emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
        "/etc/reprune/data": {"secret": {"secretName": "data-keys", "optional": True}},
    }


def test_a_retry_waits_for_what_still_runs(api):
    """A second component of the same order does not train beside the first."""
    here, cluster = api
    here.jobs["reprune-distill-0a"] = MANIFEST
    here.after_creation = [RUNNING, RUNNING, condition("Complete")]
    run_trainjob(cluster, MANIFEST, HERE)
    assert not here.created


@pytest.mark.parametrize("kind", ["Failed", "Complete"])
def test_what_has_ended_makes_way(api, kind):
    """An earlier end says nothing of this run."""
    here, cluster = api
    here.jobs["reprune-distill-0a"] = MANIFEST
    here.after_creation = [condition(kind), RUNNING, condition("Complete")]
    run_trainjob(cluster, MANIFEST, HERE)
    assert len(here.created) == 1


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (403, AccessDenied, "service account create"),
        (401, AccessDenied, "service account create"),
        (404, OrchestratorError, "install Kubeflow Trainer 2.2"),
        (422, OrchestratorError, "refuses it"),
        (400, OrchestratorError, "2.2 or newer"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(api, code, error, words):
    """Nothing is tried again, and a stranger's control characters do not reach the terminal."""
    here, cluster = api
    here.faults = [code]
    with pytest.raises(error, match=words) as caught:
        run_trainjob(cluster, MANIFEST, HERE)
    assert len(here.seen) == 1
    assert "\x1b" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["status", "conditions", "type", "reason"]), inner)
        ),
        max_leaves=8,
    )
)
@example({"conditions": True})
def test_no_answer_but_a_true_condition_is_an_end(status):
    """Whatever the status holds: without "Complete": "True" nothing is complete."""
    assert state_of({"status": status})[0] == "running"


def test_what_a_process_said_is_the_error_not_that_the_job_failed(tmp_path):
    """The processes leave their words in the work folder; the class and so the exit code are theirs."""
    order = Order(
        student="s",
        teacher="t",
        params=DistillParams(processes=4),
        seed=0,
        threads=1,
        work=str(tmp_path / "distill-0a"),
    )

    def fails(arguments, processes: int) -> None:
        assert processes == 4
        assert Path(arguments[-1]).is_file()
        why = Why(kind="CompressionError", what="the loss is nan", where="distill", fix="less")
        why_file(tmp_path / "distill-0a", 2).write_bytes(canonical(why))
        raise RepruneError("the TrainJob failed")

    with pytest.raises(CompressionError, match=r"the loss is nan"):
        train_elsewhere(order, fails)
    with contextlib.suppress(RepruneError):
        train_elsewhere(order, lambda *_: None)  # old words are gone
    assert not why_file(tmp_path / "distill-0a", 2).exists()
