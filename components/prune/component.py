"""Cuts the dense model as the plan says, and repairs it without training."""

from kfp import dsl

from reprune.doors.kfp.images import COMPRESS


@dsl.component(base_image=COMPRESS, install_kfp_package=False)
def prune(
    lock: str,
    params: str,
    policy: str,
    dense: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    chosen: dsl.Input[dsl.Artifact],
    pruned: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    workspace: str = "",
):
    """Cuts the dense model as the plan says, and repairs it without training.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        dense: The dense version, with the task archived beside its weights.
        data: The data contract's outcome and the digests of the splits.
        chosen: Which groups are cut, and to what width.
        pruned: The model after surgery.
        metrics: Scalars for the UI.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"dense": dense, "data": data, "chosen": chosen}
    run_component("prune", texts, inputs, pruned, Place(workspace=workspace), metrics=metrics)
