"""Joins the members of a set to one model, and fetches the set's champion with its history."""

from kfp import dsl

from reprune.doors.kfp.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def fetch_set(
    lock: str,
    params: str,
    policy: str,
    members: dsl.Input[list[dsl.Artifact]],
    dense: dsl.Output[dsl.Model],
    previous: dsl.Output[dsl.Artifact],
    workspace: str = "",
):
    """Joins the members of a set to one model, and fetches the set's champion with its history.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        members: The weights of every member, once.
        dense: The dense version of the set, with the task archived beside its weights.
        previous: The champion with what promote stored beside it, or none.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Texts, run_fetch_set

    run_fetch_set(Texts(lock, params, policy), dense, previous, members, workspace)
