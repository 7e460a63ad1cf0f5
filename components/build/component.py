"""Builds every arm for the targets of one machine, with today's toolchain."""

from kfp import dsl

from reprune.doors.kfp.images import COMPRESS


@dsl.component(base_image=COMPRESS, install_kfp_package=False)
def build(
    lock: str,
    params: str,
    policy: str,
    candidate: dsl.Input[dsl.Model],
    dense: dsl.Input[dsl.Model],
    previous: dsl.Input[dsl.Artifact],
    data: dsl.Input[dsl.Dataset],
    engines: dsl.Output[dsl.Artifact],
    machine: str = "",
    workspace: str = "",
):
    """Builds every arm for the targets of one machine, with today's toolchain.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        candidate: The compressed model under judgement.
        dense: The dense version, with the task archived beside its weights.
        previous: The champion with what promote stored beside it, or none.
        data: The data contract's outcome and the digests of the splits.
        engines: Every arm, built for every target.
        machine: Whose targets to measure, as params.yaml names it; empty: all of them.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"candidate": candidate, "dense": dense, "previous": previous, "data": data}
    run_component("build", texts, inputs, engines, Place(machine, workspace))
