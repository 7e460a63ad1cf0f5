"""Fetches the locked dense version of one member of a set."""

from kfp import dsl

from reprune.doors.kfp.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def fetch_member(
    lock: str,
    params: str,
    policy: str,
    shard: str,
    weights: dsl.Output[dsl.Artifact],
    workspace: str = "",
):
    """Fetches the locked dense version of one member of a set.

    Args:
        lock: The text of reprune.lock.yaml.
        params: The text of params.yaml.
        policy: The text of policy.yaml.
        shard: Which member, from 0 by name, of how many: "0/3".
        weights: The member's weights, found to be those that the lock pins.
        workspace: Where the volume that all steps share is mounted; empty: artifacts travel.
    """
    from reprune.doors.kfp.run import Place, Texts, run_component

    texts = Texts(lock, params, policy)
    run_component("fetch-member", texts, {}, weights, Place(workspace=workspace, shard=shard))
