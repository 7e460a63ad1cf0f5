"""Running `distill`'s processes as a TrainJob: created, waited for, and what became of it, over HTTP.

The pod's own service account asks the cluster's API; it needs the verbs create, get and delete on
trainjobs.trainer.kubeflow.org in its namespace, and get on pods.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from reprune.core.documents import decode_yaml
from reprune.core.errors import InputError, OrchestratorError, RepruneError
from reprune.core.step import WORK_VARIABLE, Elsewhere, work_root
from reprune.doors.kfp.cluster import Cluster, ask, clean, this_cluster
from reprune.doors.kfp.options import DATA, DATA_SECRET, SCRATCH, SHARED_MEMORY
from reprune.doors.kfp.trainjob import GROUP, PLURAL, VERSION, Mount, Trainer, trainjob

State = Literal["running", "complete", "failed"]
# Of the volumes of the pod that asks, the job's pods have those that are mounted here.
TAKEN_OVER = frozenset({DATA, DATA_SECRET, SHARED_MEMORY, SCRATCH})
# So long before its pod is ended by its time limit the job is given up, and what it takes to delete it.
MARGIN_S = 120.0
LAST_WORDS_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Here:
    """What a TrainJob has from the pod that asks for it: `trainer` with image and claim, the volumes that the
    task's code may need, and when that pod is ended by its time limit (Unix time; None: it has none).
    """

    trainer: Trainer
    mounts: tuple[Mount, ...] = ()
    ends_s: float | None = None


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
        here = as_here(cluster, settings, workspace, os.environ.get("HOSTNAME", ""))
        run_trainjob(cluster, manifest_of(arguments, processes, workspace, here), here)

    return start


def as_here(cluster: Cluster, trainer: Trainer, workspace: str, pod: str) -> Here:
    """The trainer, with the image and the workspace's claim of the pod that asks where it names none.

    Raises InputError where it names none and that pod has no claim there.
    """
    found = ask(cluster, "GET", f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}") or {}
    spec, status = found.get("spec") or {}, found.get("status") or {}
    volumes = {each["name"]: each for each in spec.get("volumes") or ()}
    for container in spec.get("containers") or ():
        at = {each["mountPath"].rstrip("/"): each for each in container.get("volumeMounts") or ()}
        mine = volumes.get(at.get(workspace.rstrip("/"), {}).get("name", ""), {})
        if "persistentVolumeClaim" in mine:
            limit_s, began_s = spec.get("activeDeadlineSeconds"), _unix_s(status.get("startTime"))
            claim = mine["persistentVolumeClaim"]["claimName"]
            return Here(
                trainer=msgspec.structs.replace(
                    trainer,
                    image=trainer.image or container["image"],
                    claim=trainer.claim or claim,
                ),
                mounts=tuple(
                    Mount(volume=volumes[each["name"]], mount=each)
                    for place, each in at.items()
                    if place in TAKEN_OVER and each["name"] in volumes
                ),
                ends_s=began_s + limit_s if limit_s and began_s is not None else None,
            )
    if trainer.image and trainer.claim:
        return Here(trainer=trainer)
    raise InputError(
        f"the pod '{pod}' has no volume claim mounted at '{workspace}'",
        where="parameter 'trainer'",
        fix="compile the pipeline with a workspace, or give the trainer an image and a claim",
    )


def manifest_of(
    arguments: Sequence[str], processes: int, workspace: str, here: Here
) -> dict[str, Any]:
    """The TrainJob of an order, named by the order's folder and the claim that it lies on: a retry finds its
    predecessor's, and a run with a volume of its own has its own job.

    Raises InputError for an order that other pods would not see.
    """
    order = Path(arguments[-1])
    if not workspace or not order.is_relative_to(workspace):
        raise InputError(
            f"the work folder {order.parent} is not on the workspace's volume",
            where="REPRUNE_WORK",
            fix="train elsewhere with a workspace only",
        )
    text = f"{order.parent.name}\n{here.trainer.claim}"
    # A pod's name is longer than its job's, and has to fit into 63 characters.
    name = f"reprune-distill-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    return trainjob(name, arguments, processes, workspace, here.trainer, here.mounts)


def run_trainjob(cluster: Cluster, manifest: dict[str, Any], here: Here) -> None:
    """Creates the TrainJob and returns once it is complete. One of this name that still runs is waited
    for instead; one that has ended makes way. Afterwards it is left for people to look at, except where
    it was given up, or this process was told to end: nobody would wait for it.

    Raises RepruneError where it fails, is deleted or takes too long, AccessDenied, OrchestratorError
    where the cluster refuses it, OrchestratorUnreachable when the API stays away.
    """
    name = manifest["metadata"]["name"]
    with _ended_with_us(cluster, name):
        _create(cluster, manifest)
        _say(f"distill: TrainJob {name} in {cluster.namespace}")
        began_s = time.time()
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
            created_s = _unix_s((found.get("metadata") or {}).get("creationTimestamp"))
            _give_up(cluster, name, here, min(began_s, created_s or began_s), said)
            time.sleep(cluster.poll_s)


def _give_up(cluster: Cluster, name: str, here: Here, created_s: float, said: str) -> None:
    """Deletes the job, and raises RepruneError, where its own time or that of this task has passed."""
    limit_s = here.trainer.deadline_seconds
    over = time.time() > created_s + limit_s
    if not over and (here.ends_s is None or time.time() < here.ends_s - MARGIN_S):
        return
    ask(cluster, "DELETE", _path(cluster, name))
    waits = f" ({said})" if said else ""
    if over:
        raise RepruneError(
            f"the TrainJob {name} took more than {limit_s} s and was deleted{waits}",
            where=cluster.namespace,
            fix="see whether its pods were scheduled; raise deadline_seconds of the trainer",
        )
    raise RepruneError(
        f"the TrainJob {name} was deleted, as this task's own time limit is reached{waits}",
        where=cluster.namespace,
        fix="run the step again, it goes on from its checkpoint; or raise `reprune compile --timeout`",
    )


@contextmanager
def _ended_with_us(cluster: Cluster, name: str) -> Iterator[None]:
    """SIGTERM, with which the cluster ends a task, ends the job as well: nobody would wait for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit:
        with suppress(RepruneError):
            ask(replace(cluster, patience_s=LAST_WORDS_S), "DELETE", _path(cluster, name))
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


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


def _unix_s(stamp: Any) -> float | None:
    """A time of the API's; None for what is none."""
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except (TypeError, ValueError):
        return None


def _path(cluster: Cluster, name: str = "") -> str:
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{cluster.namespace}/{PLURAL}"
    return f"{path}/{name}" if name else path


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
