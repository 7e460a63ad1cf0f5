"""What every task of our pipelines is given: the settings that a component cannot carry itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from reprune.doors.kfp.options import DATA, DATA_SECRET, SCRATCH, SHARED_MEMORY, Options

# The user of our images; a project's image keeps it.
USER = 10001
REGISTRY = {
    "username": "MLFLOW_TRACKING_USERNAME",
    "password": "MLFLOW_TRACKING_PASSWORD",
    "token": "MLFLOW_TRACKING_TOKEN",
}
# A Kubeflow Model Registry's, of the same key of the same secret.
MODEL_REGISTRY = {"token": "REPRUNE_REGISTRY_TOKEN"}
PROMOTER = "/etc/reprune/promoter"


def workspace(options: Options) -> tuple[dsl.PipelineConfig, str]:
    """The pipeline's configuration, and where its volume is mounted in a task; "" without one."""
    if not options.workspace:
        return dsl.PipelineConfig(), ""
    patch = {"storageClassName": options.storage_class} if options.storage_class else {}
    config = dsl.PipelineConfig(
        workspace=dsl.WorkspaceConfig(
            size=options.workspace,
            kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch=patch),
        )
    )
    return config, dsl.WORKSPACE_PATH_PLACEHOLDER


def settled(
    task: dsl.PipelineTask, image: Any, options: Options, *, retried: bool = True
) -> dsl.PipelineTask:
    """The task in `image`: never cached, as our user, with a writable /tmp and a time limit."""
    task.set_container_image(image)
    task.set_caching_options(False)
    if retried and options.retries:
        task.set_retry(
            num_retries=options.retries,
            backoff_duration=f"{options.backoff_s}s",
            backoff_factor=2.0,
        )
    kubernetes.set_timeout(task, options.timeout_s)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_non_root=True)
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path=SCRATCH)
    return task


def with_data(task: dsl.PipelineTask, secret: Any, options: Options) -> dsl.PipelineTask:
    """With what the user's code may need: its data, the data's credentials, and shared memory.

    Credentials are files, so that whatever client the task uses can be pointed at them.
    """
    kubernetes.empty_dir_mount(
        task,
        volume_name="shm",
        mount_path=SHARED_MEMORY,
        medium="Memory",
        size_limit=options.shared_memory,
    )
    kubernetes.use_secret_as_volume(task, secret_name=secret, mount_path=DATA_SECRET, optional=True)
    if options.data_claim:
        kubernetes.mount_pvc(task, pvc_name=options.data_claim, mount_path=DATA)
    return task


def on_machine(task: dsl.PipelineTask, place: Mapping[str, Any]) -> dsl.PipelineTask:
    """On the hardware that the outputs of `choose_machine` describe; its samples are bound to the node.

    They are a task's outputs because kfp 2.17 compiles an attribute of a loop's item, used as a
    setting, into a reference to an input that nothing has.
    """
    task.set_accelerator_type(place["accelerator_type"])
    task.set_accelerator_limit(place["accelerator_count"])
    kubernetes.add_node_selector_json(task, place["node_selector"])
    kubernetes.add_toleration_json(task, place["tolerations"])
    kubernetes.use_field_path_as_env(task, "REPRUNE_MACHINE_ID", "spec.nodeName")
    return task


def reading(task: dsl.PipelineTask, secret: Any, options: Options) -> dsl.PipelineTask:
    """With what reads the registry: its credentials, where it asks for any, and the volume of one whose files
    lie in a folder.
    """
    for keys in (REGISTRY, MODEL_REGISTRY):
        kubernetes.use_secret_as_env(
            task, secret_name=secret, secret_key_to_env=keys, optional=True
        )
    if options.registry_claim:
        kubernetes.mount_pvc(
            task, pvc_name=options.registry_claim, mount_path=options.registry_path
        )
    return task


def writing(
    task: dsl.PipelineTask, secret: Any, promoter: Any, options: Options
) -> dsl.PipelineTask:
    """With what reads and writes the registry, and the promoter's configuration and key."""
    reading(task, secret, options)
    kubernetes.use_secret_as_volume(task, secret_name=promoter, mount_path=PROMOTER, optional=True)
    return task
