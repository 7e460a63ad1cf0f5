"""Running `distill`'s processes as a TrainJob: created, waited for, and what became of it, over HTTP.

The pod's own service account asks the cluster's API; it needs the verbs create, get and delete on
trainjobs.trainer.kubeflow.org in its namespace, and get on pods unless the trainer names image and claim.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from reprune.core.documents import decode_yaml
from reprune.core.errors import InputError, OrchestratorError, RepruneError
from reprune.core.step import WORK_VARIABLE, Elsewhere, work_root
from reprune.doors.kfp.cluster import Cluster, ask, clean, this_cluster
from reprune.doors.kfp.trainjob import GROUP, PLURAL, VERSION, Trainer, trainjob

State = Literal["running", "complete", "failed"]


def elsewhere(trainer: str, workspace: str) -> Elsewhere | None:
    """What starts processes where the text `trainer` (YAML or JSON of trainjob.Trainer) says; None for an
    empty one: they run where the step does. Checkpoints of this process then go to the workspace, the one
    folder that other pods see. Raises DocumentError, InputError.
    """
    if not trainer.strip():
        return None
    if workspace and not work_root().is_relative_to(workspace):
        # Our images name a folder of their own.
        os.environ[WORK_VARIABLE] = str(Path(workspace) / "work")
    settings = decode_yaml(trainer, Trainer, name="parameter 'trainer'")
    cluster = this_cluster()

    def start(arguments: Sequence[str], processes: int) -> None:
        whole = as_here(cluster, settings, workspace, os.environ.get("HOSTNAME", ""))
        run_trainjob(cluster, manifest_of(arguments, processes, workspace, whole), whole)

    return start


def as_here(cluster: Cluster, trainer: Trainer, workspace: str, pod: str) -> Trainer:
    """The trainer with the image and the workspace's claim of the pod that asks, where it names none.

    Raises InputError where that pod has no claim there.
    """
    if trainer.image and trainer.claim:
        return trainer
    found = ask(cluster, "GET", f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}") or {}
    spec = found.get("spec") or {}
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"]
        for each in spec.get("volumes") or ()
        if "persistentVolumeClaim" in each
    }
    for container in spec.get("containers") or ():
        for mount in container.get("volumeMounts") or ():
            if mount["name"] in claims and mount["mountPath"].rstrip("/") == workspace.rstrip("/"):
                return msgspec.structs.replace(
                    trainer,
                    image=trainer.image or container["image"],
                    claim=trainer.claim or claims[mount["name"]],
                )
    raise InputError(
        f"the pod '{pod}' has no volume claim mounted at '{workspace}'",
        where="parameter 'trainer'",
        fix="compile the pipeline with a workspace, or give the trainer an image and a claim",
    )


def manifest_of(
    arguments: Sequence[str], processes: int, workspace: str, trainer: Trainer
) -> dict[str, Any]:
    """The TrainJob of an order, named by the order's folder, so that a retry finds its predecessor's.

    Raises InputError for an order that other pods would not see.
    """
    order = Path(arguments[-1])
    if not workspace or not order.is_relative_to(workspace):
        raise InputError(
            f"the work folder {order.parent} is not on the workspace's volume",
            where="REPRUNE_WORK",
            fix="train elsewhere with a workspace only",
        )
    return trainjob(f"reprune-{order.parent.name}", arguments, processes, workspace, trainer)


def run_trainjob(cluster: Cluster, manifest: dict[str, Any], trainer: Trainer) -> None:
    """Creates the TrainJob and returns once it is complete. One of this name that still runs is waited
    for instead; one that has ended makes way. Afterwards it is left for people to look at, except where
    it was given up.

    Raises RepruneError where it fails, is deleted or takes too long, AccessDenied, OrchestratorError
    where the cluster refuses it, OrchestratorUnreachable when the API stays away.
    """
    name = manifest["metadata"]["name"]
    ends = time.monotonic() + trainer.deadline_seconds
    _create(cluster, manifest)
    _say(f"distill: TrainJob {name} in {cluster.namespace}")
    while True:
        found = ask(cluster, "GET", _path(cluster, name))
        if found is None:
            raise RepruneError(
                f"the TrainJob {name} was deleted before it had ended",
                where=cluster.namespace,
                fix="run the step again, it goes on from its checkpoint",
            )
        state, said = state_of(found)
        if state == "complete":
            return
        if state == "failed":
            raise RepruneError(
                f"the TrainJob {name} failed: {said}",
                where=cluster.namespace,
                fix=f"look at its pods: kubectl logs -l jobset.sigs.k8s.io/jobset-name={name}",
            )
        if time.monotonic() > ends:
            ask(cluster, "DELETE", _path(cluster, name))
            raise RepruneError(
                f"the TrainJob {name} took more than {trainer.deadline_seconds} s and was deleted"
                + (f" ({said})" if said else ""),
                where=cluster.namespace,
                fix="see whether its pods were scheduled; raise deadline_seconds of the trainer",
            )
        time.sleep(cluster.poll_s)


def state_of(job: dict[str, Any]) -> tuple[State, str]:
    """Where a TrainJob is, and what its condition says. What is not ended for certain still runs."""
    status = job.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    true = {
        str(each.get("type")): f"{each.get('reason', '')}: {each.get('message', '')}"
        for each in (conditions if isinstance(conditions, list) else ())
        if isinstance(each, dict) and each.get("status") == "True"
    }
    if "Failed" in true:
        return "failed", clean(true["Failed"])
    if "Complete" in true:
        return "complete", clean(true["Complete"])
    return "running", clean(true.get("Suspended", ""))


def _create(cluster: Cluster, manifest: dict[str, Any]) -> None:
    """Afterwards a TrainJob of this name is there that had not ended when it was looked at."""
    name = manifest["metadata"]["name"]
    ends = time.monotonic() + cluster.patience_s
    while True:
        if ask(cluster, "POST", _path(cluster), manifest) is not None:
            return
        there = ask(cluster, "GET", _path(cluster, name))
        if there is None:
            continue
        if state_of(there)[0] == "running" and "deletionTimestamp" not in there.get("metadata", {}):
            return
        ask(cluster, "DELETE", _path(cluster, name))
        if time.monotonic() > ends:
            raise OrchestratorError(
                f"an earlier TrainJob {name} does not go away",
                where=cluster.namespace,
                fix=f"kubectl delete trainjob {name}",
            )
        time.sleep(cluster.poll_s)


def _path(cluster: Cluster, name: str = "") -> str:
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{cluster.namespace}/{PLURAL}"
    return f"{path}/{name}" if name else path


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
