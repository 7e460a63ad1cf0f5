"""Times all arms side by side, and records them on the sealed examples."""

from kfp import dsl

from reprune.doors.kfp.images import COMPRESS


@dsl.component(base_image=COMPRESS, install_kfp_package=False)
def benchmark(
    lock: str,
    params: str,
    policy: str,
    engines: dsl.Input[dsl.Artifact],
    dense: dsl.Input[dsl.Model],
    previous: dsl.Input[dsl.Artifact],
    data: dsl.Input[dsl.Dataset],
    measured: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    machine: str = "",
    workspace: str = "",
):
    """Times all arms side by side, and records them on the sealed examples.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        engines: Every arm, built for every target.
        dense: The dense version, with the task archived beside its weights.
        previous: The champion with what promote stored beside it, or none.
        data: The data contract's outcome and the digests of the splits.
        measured: Samples and per-example records of all arms.
        metrics: Scalars for the UI.
        machine: Whose targets to measure, as params.yaml names it; empty: all of them.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"engines": engines, "dense": dense, "previous": previous, "data": data}
    run_component("benchmark", texts, inputs, measured, Place(machine, workspace), metrics=metrics)
