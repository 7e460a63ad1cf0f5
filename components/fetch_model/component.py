"""Fetches the locked dense version, and the champion with its history."""

from kfp import dsl

from reprune.doors.kfp.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def fetch_model(
    lock: str,
    params: str,
    policy: str,
    dense: dsl.Output[dsl.Model],
    previous: dsl.Output[dsl.Artifact],
    workspace: str = "",
):
    """Fetches the locked dense version, and the champion with its history.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        dense: The dense version, with the task archived beside its weights.
        previous: The champion with what promote stored beside it, or none.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Texts, run_fetch

    run_fetch(Texts(lock, params, policy), dense, previous, workspace)
