"""Checks one entry of `members`, and says which part of the set it is and who may read its model."""

from typing import NamedTuple

from kfp import dsl

from reprune.doors.kfp.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def choose_member(params: str, member: dict, read_secret: str) -> NamedTuple(
    "Member",
    [
        ("shard", str),
        ("read_secret", str),
    ],
):
    """Checks one entry of `members`, and says which part of the set it is and who may read its model.

    Args:
        params: The text of params.yaml.
        member: `name`, as params.yaml has it, and where it has its own `read_secret`.
        read_secret: For a member that names none.

    Returns:
        Which part of how many, from 0: "0/3"; and the name of its secret.
    """
    from reprune.doors.kfp.members import choose_member

    return choose_member(params, member, read_secret)
