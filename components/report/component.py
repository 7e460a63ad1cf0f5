"""Writes the verdict for people and for CI."""

from kfp import dsl

from reprune.doors.kfp.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def report(
    lock: str,
    params: str,
    policy: str,
    verdict: dsl.Input[dsl.Artifact],
    written: dsl.Output[dsl.Artifact],
    html: dsl.Output[dsl.HTML],
    markdown: dsl.Output[dsl.Markdown],
    workspace: str = "",
):
    """Writes the verdict for people and for CI.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        verdict: The judgement, with everything needed to make it again.
        written: The report as Markdown, HTML, JUnit and metrics.
        html: The report as one page.
        markdown: The report as the pull request shows it.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    inputs = {"verdict": verdict}
    run_component(
        "report", texts, inputs, written, Place(workspace=workspace), html=html, markdown=markdown
    )
