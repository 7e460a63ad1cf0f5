"""Measures one shard of what sensitivity_analysis measures."""

from kfp import dsl

from reprune.doors.kfp.images import COMPRESS


@dsl.component(base_image=COMPRESS, install_kfp_package=False)
def sensitivity_shard(
    lock: str,
    params: str,
    policy: str,
    shard: str,
    dense: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    measured: dsl.Output[dsl.Artifact],
    workspace: str = "",
):
    """Measures one shard of what sensitivity_analysis measures.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        shard: Which part, from 0, of how many: "0/4".
        dense: The dense version, with the task archived beside its weights.
        data: The data contract's outcome and the digests of the splits.
        measured: What this shard's groups, blocks or tensors showed.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"dense": dense, "data": data}
    place = Place(workspace=workspace, shard=shard)
    run_component("sensitivity-shard", texts, inputs, measured, place)
