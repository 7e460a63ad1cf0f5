"""Makes of all shards the artefact that sensitivity_analysis makes, bit for bit."""

from kfp import dsl

from reprune.doors.kfp.images import COMPRESS


@dsl.component(base_image=COMPRESS, install_kfp_package=False)
def sensitivity_merge(
    lock: str,
    params: str,
    policy: str,
    dense: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    previous: dsl.Input[dsl.Artifact],
    shards: dsl.Input[list[dsl.Artifact]],
    table: dsl.Output[dsl.Artifact],
    workspace: str = "",
):
    """Makes of all shards the artefact that sensitivity_analysis makes, bit for bit.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        dense: The dense version, with the task archived beside its weights.
        data: The data contract's outcome and the digests of the splits.
        previous: The champion with what promote stored beside it, or none.
        shards: What each shard showed: all of them, once.
        table: What each group of channels is worth.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"dense": dense, "data": data, "previous": previous, "shards": shards}
    run_component("sensitivity-merge", texts, inputs, table, Place(workspace=workspace))
