"""Checks the data contract, and what the policy could decide at all."""

from kfp import dsl

from reprune.doors.kfp.images import COMPRESS


@dsl.component(base_image=COMPRESS, install_kfp_package=False)
def validate_data(
    lock: str,
    params: str,
    policy: str,
    dense: dsl.Input[dsl.Model],
    previous: dsl.Input[dsl.Artifact],
    data: dsl.Output[dsl.Dataset],
    workspace: str = "",
):
    """Checks the data contract, and what the policy could decide at all.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        dense: The dense version, with the task archived beside its weights.
        previous: The champion with what promote stored beside it, or none.
        data: The data contract's outcome and the digests of the splits.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"dense": dense, "previous": previous}
    run_component("validate", texts, inputs, data, Place(workspace=workspace))
