"""Chooses what is cut, under the budget of params.yaml."""

from kfp import dsl

from reprune.doors.kfp.images import COMPRESS


@dsl.component(base_image=COMPRESS, install_kfp_package=False)
def plan(
    lock: str,
    params: str,
    policy: str,
    dense: dsl.Input[dsl.Model],
    profiles: dsl.Input[list[dsl.Artifact]],
    table: dsl.Input[dsl.Artifact],
    previous: dsl.Input[dsl.Artifact],
    chosen: dsl.Output[dsl.Artifact],
    workspace: str = "",
):
    """Chooses what is cut, under the budget of params.yaml.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        dense: The dense version, with the task archived beside its weights.
        profiles: What the dense model costs, of each machine.
        table: What each group of channels is worth.
        previous: The champion with what promote stored beside it, or none.
        chosen: Which groups are cut, and to what width.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"dense": dense, "profiles": profiles, "table": table, "previous": previous}
    run_component("plan", texts, inputs, chosen, Place(workspace=workspace))
