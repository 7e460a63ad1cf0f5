"""Recovers the pruned model by fine-tuning and distillation."""

from kfp import dsl

from reprune.doors.kfp.images import COMPRESS


@dsl.component(base_image=COMPRESS, install_kfp_package=False)
def distill(
    lock: str,
    params: str,
    policy: str,
    student: dsl.Input[dsl.Model],
    teacher: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    previous: dsl.Input[dsl.Artifact],
    candidate: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    workspace: str = "",
    trainer: str = "",
):
    """Recovers the pruned model by fine-tuning and distillation.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        student: The model after surgery.
        teacher: The dense version.
        data: The data contract's outcome and the digests of the splits.
        previous: The champion with what promote stored beside it, or none.
        candidate: The compressed model under judgement.
        metrics: Scalars for the UI.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
        trainer: Where distill.processes run, as a text (see docs/kubeflow.md); empty: in this task.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"student": student, "teacher": teacher, "data": data, "previous": previous}
    place = Place(workspace=workspace, trainer=trainer)
    run_component("distill", texts, inputs, candidate, place, metrics=metrics)
