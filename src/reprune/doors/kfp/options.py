"""What is fixed when a pipeline is compiled, because Kubeflow Pipelines takes no parameter for it."""

from __future__ import annotations

from dataclasses import dataclass

from reprune.doors.kfp.images import COMPRESS, CONTROL

# Where a task finds what its code may need: its data, the data's credentials, memory to share, room to write.
DATA = "/data"
DATA_SECRET = "/etc/reprune/data"
SHARED_MEMORY = "/dev/shm"
SCRATCH = "/tmp"
# Where the files of a registry are that keeps them in a folder.
REGISTRY_FILES = "/registry"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`control_image` and `compress_image` are what the parameters of these names default to.

    `workspace` is the size of a volume on which artefacts stay ("50Gi"; empty: they travel).
    `data_claim` names a volume claim with the task's data, mounted at /data where the task runs;
    `registry_claim` one with the registry's files, mounted at `registry_path` where it is read or written.

    `retries` are for steps that may run twice: never for a look at the sealed examples, nor for
    promotion, whose failure is mostly a verdict. `timeout_s` ends a step that hangs.
    """

    control_image: str = CONTROL
    compress_image: str = COMPRESS
    workspace: str = ""
    storage_class: str = ""
    data_claim: str = ""
    registry_claim: str = ""
    registry_path: str = REGISTRY_FILES
    retries: int = 2
    backoff_s: int = 30
    timeout_s: int = 6 * 3600
    shared_memory: str = "2Gi"


DEFAULT = Options()
