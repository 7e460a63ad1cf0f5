"""Judges the candidate; succeeds whatever the outcome."""

from kfp import dsl

from reprune.doors.kfp.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def gate(
    lock: str,
    params: str,
    policy: str,
    benchmarks: dsl.Input[list[dsl.Artifact]],
    engines: dsl.Input[list[dsl.Artifact]],
    profiles: dsl.Input[list[dsl.Artifact]],
    candidate: dsl.Input[dsl.Model],
    pruned: dsl.Input[dsl.Model],
    dense: dsl.Input[dsl.Model],
    previous: dsl.Input[dsl.Artifact],
    data: dsl.Input[dsl.Dataset],
    chosen: dsl.Input[dsl.Artifact],
    table: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    workspace: str = "",
):
    """Judges the candidate; succeeds whatever the outcome.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        benchmarks: Samples and records, of each machine.
        engines: Every arm, built for every target.
        profiles: What the dense model costs, of each machine.
        candidate: The compressed model under judgement.
        pruned: The model after surgery.
        dense: The dense version, with the task archived beside its weights.
        previous: The champion with what promote stored beside it, or none.
        data: The data contract's outcome and the digests of the splits.
        chosen: Which groups are cut, and to what width.
        table: What each group of channels is worth.
        verdict: The judgement, with everything needed to make it again.
        metrics: Scalars for the UI.
        confusion: The candidate's confusion matrix, where the task has classes.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {
        "benchmarks": benchmarks,
        "engines": engines,
        "profiles": profiles,
        "candidate": candidate,
        "pruned": pruned,
        "dense": dense,
        "previous": previous,
        "data": data,
        "chosen": chosen,
        "table": table,
    }
    run_component(
        "gate",
        texts,
        inputs,
        verdict,
        Place(workspace=workspace),
        metrics=metrics,
        confusion=confusion,
    )
