"""Registers what was judged; moves the champion only on a pass, else fails."""

from kfp import dsl

from reprune.doors.kfp.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def promote(
    lock: str,
    params: str,
    policy: str,
    verdict: dsl.Input[dsl.Artifact],
    candidate: dsl.Input[dsl.Model],
    engines: dsl.Input[list[dsl.Artifact]],
    chosen: dsl.Input[dsl.Artifact],
    profiles: dsl.Input[list[dsl.Artifact]],
    table: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.Artifact],
    receipt: dsl.Output[dsl.Artifact],
    workspace: str = "",
):
    """Registers what was judged; moves the champion only on a pass, else fails.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        verdict: The judgement, with everything needed to make it again.
        candidate: The compressed model under judgement.
        engines: Every arm, built for every target.
        chosen: Which groups are cut, and to what width.
        profiles: What the dense model costs, of each machine.
        table: What each group of channels is worth.
        report: The report, stored beside what is promoted.
        receipt: The signed receipt.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Texts, run_promote

    inputs = {
        "verdict": verdict,
        "candidate": candidate,
        "engines": engines,
        "plan": chosen,
        "profiles": profiles,
        "table": table,
        "report": report,
    }
    run_promote(Texts(lock, params, policy), inputs, receipt, workspace)
