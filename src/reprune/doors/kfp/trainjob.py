"""Several processes on several nodes of a cluster: the manifest of a Kubeflow Trainer TrainJob.

For the API `trainer.kubeflow.org/v1alpha1` as of Kubeflow Trainer 2.2 and 2.3. A TrainJob names a
runtime that the cluster has; the runtime starts a pod a node and tells torchrun in each, through
variables that begin with PET_, who it is. Its replicated job and container are both called `node`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from msgspec import Meta

from reprune.compress.training.workers import NEEDS_GPU
from reprune.core.documents import Document
from reprune.core.errors import InputError

GROUP = "trainer.kubeflow.org"
VERSION = "v1alpha1"
PLURAL = "trainjobs"
NODE = "node"
VOLUME = "reprune-workspace"
MANAGER = "reprune.dev/distill"
# The runtime tells torchrun who it is in these; a TrainJob that sets them is refused.
RESERVED = "PET_"
LABEL = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")


class Toleration(Document, kw_only=True):
    """As in a pod's specification."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


class Trainer(Document, kw_only=True):
    """Where the processes of `distill` run: on so many `nodes`, in pods of `image` (one with torch: ours,
    or the project's FROM ours).

    `claim` is the PersistentVolumeClaim that the pipeline's workspace lies on (ReadWriteMany for more
    than one node), mounted at the workspace's path. `resources` are limits, and so requests, of each
    node ({"nvidia.com/gpu": "2", "memory": "32Gi"}); where they name a GPU, a process without CUDA ends.
    Image and claim may be those of the pod that asks (see trainer.as_here). `runtime` is a
    (Cluster)TrainingRuntime for torch.
    `deadline_seconds` after its creation the job is given up and deleted.
    """

    image: Annotated[str, Meta(max_length=500)] = ""
    claim: Annotated[str, Meta(max_length=253)] = ""
    nodes: Annotated[int, Meta(ge=1, le=1024)] = 1
    resources: dict[str, str] = {}
    env: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    service_account: str = ""
    runtime: Annotated[str, Meta(min_length=1, max_length=253)] = "torch-distributed"
    runtime_kind: Annotated[str, Meta(pattern="^(ClusterTrainingRuntime|TrainingRuntime)$")] = (
        "ClusterTrainingRuntime"
    )
    deadline_seconds: Annotated[int, Meta(ge=60, le=2_592_000)] = 86_400


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume and where a container has it, as in a pod's specification; their names do not matter."""

    volume: dict[str, Any]
    mount: dict[str, Any]


def trainjob(
    name: str,
    arguments: Sequence[str],
    processes: int,
    workspace: str,
    trainer: Trainer,
    mounts: Sequence[Mount] = (),
) -> dict[str, Any]:
    """The TrainJob in which torchrun starts `processes` of `python ARGUMENTS`, spread over the nodes, with
    the claim mounted at `workspace`, and with `mounts`.

    Equal arguments give equal manifests. Raises InputError for what the API would refuse or ignore.
    """
    _refuse(name, processes, workspace, trainer)
    env = {"PYTHONSAFEPATH": "1"} | ({NEEDS_GPU: "1"} if _has_gpu(trainer) else {}) | trainer.env
    spec: dict[str, Any] = {
        "image": trainer.image,
        "command": ["torchrun", *arguments],
        "numNodes": trainer.nodes,
        "numProcPerNode": processes // trainer.nodes,
        "env": [{"name": key, "value": value} for key, value in sorted(env.items())],
    }
    if trainer.resources:
        given = dict(sorted(trainer.resources.items()))
        spec["resourcesPerNode"] = {"limits": given, "requests": given}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "reprune"}},
        "spec": {
            "runtimeRef": {
                "apiGroup": GROUP,
                "kind": trainer.runtime_kind,
                "name": trainer.runtime,
            },
            "trainer": spec,
            "runtimePatches": [_patch(workspace, trainer, mounts)],
        },
    }


def _has_gpu(trainer: Trainer) -> bool:
    """Whether each node is given one, whoever made it: nvidia.com/gpu, nvidia.com/mig-1g.5gb, amd.com/gpu."""
    return any(
        ("gpu" in name or name.startswith("nvidia.com/")) and amount != "0"
        for name, amount in trainer.resources.items()
    )


def _patch(workspace: str, trainer: Trainer, mounts: Sequence[Mount]) -> dict[str, Any]:
    """The volumes, and what places the pods. (Variables of `node` can only be the trainer's.)"""
    names = [f"reprune-{number}" for number in range(len(mounts))]
    named = [*zip(names, mounts, strict=True)]
    claim = {"persistentVolumeClaim": {"claimName": trainer.claim}}
    pod: dict[str, Any] = {
        "volumes": [{"name": VOLUME} | claim, *(each.volume | {"name": n} for n, each in named)],
        "containers": [
            {
                "name": NODE,
                "volumeMounts": [
                    {"name": VOLUME, "mountPath": workspace},
                    *(each.mount | {"name": n} for n, each in named),
                ],
            }
        ],
    }
    if trainer.service_account:
        pod["serviceAccountName"] = trainer.service_account
    if trainer.node_selector:
        pod["nodeSelector"] = dict(sorted(trainer.node_selector.items()))
    if trainer.tolerations:
        pod["tolerations"] = [
            {
                key: getattr(each, key)
                for key in ("key", "operator", "value", "effect")
                if getattr(each, key)
            }
            for each in trainer.tolerations
        ]
    job = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
    template = {"template": {"spec": {"replicatedJobs": [job]}}}
    return {"manager": MANAGER, "trainingRuntimeSpec": template}


def _refuse(name: str, processes: int, workspace: str, trainer: Trainer) -> None:
    if not LABEL.match(name):
        raise InputError(f"'{name}' cannot be a TrainJob's name", fix="use a-z, 0-9 and -")
    if not trainer.image or not trainer.claim:
        raise InputError(
            "a TrainJob needs an image and a volume claim", where="parameter 'trainer'"
        )
    if processes % trainer.nodes:
        raise InputError(
            f"{processes} processes cannot be spread evenly over {trainer.nodes} nodes",
            where="params.yaml (distill.processes)",
            fix="make distill.processes a multiple of the trainer's nodes",
        )
    path = PurePosixPath(workspace)
    if not path.is_absolute() or path == PurePosixPath("/") or ":" in workspace:
        raise InputError(
            f"the workspace '{workspace}' is no folder that a volume can be mounted at",
            where="parameter 'workspace'",
            fix="training on several nodes needs a workspace that all of them see",
        )
    reserved = sorted(key for key in trainer.env if key.startswith(RESERVED))
    if reserved:
        raise InputError(
            f"{', '.join(reserved)} is the runtime's to set",
            where="parameter 'trainer' (env)",
            fix=f"leave out what begins with {RESERVED}",
        )
