"""Counts and measures what the dense model costs on this machine."""

from kfp import dsl

from reprune.doors.kfp.images import COMPRESS


@dsl.component(base_image=COMPRESS, install_kfp_package=False)
def profile(
    lock: str,
    params: str,
    policy: str,
    dense: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    previous: dsl.Input[dsl.Artifact],
    profiled: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    machine: str = "",
    workspace: str = "",
):
    """Counts and measures what the dense model costs on this machine.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        dense: The dense version, with the task archived beside its weights.
        data: The data contract's outcome and the digests of the splits.
        previous: The champion with what promote stored beside it, or none.
        profiled: What the dense model costs, counted and measured.
        metrics: Scalars for the UI.
        machine: Whose targets to measure, as params.yaml names it; empty: all of them.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"dense": dense, "data": data, "previous": previous}
    run_component("profile", texts, inputs, profiled, Place(machine, workspace), metrics=metrics)
