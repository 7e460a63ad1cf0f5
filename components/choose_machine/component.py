"""Checks one entry of `machines`, and makes its settings available to the tasks that run there."""

from typing import NamedTuple

from kfp import dsl

from reprune.doors.kfp.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def choose_machine(params: str, machine: dict, image: str) -> NamedTuple(
    "Machine",
    [
        ("name", str),
        ("image", str),
        ("accelerator_type", str),
        ("accelerator_count", str),
        ("node_selector", dict),
        ("tolerations", list),
    ],
):
    """Checks one entry of `machines`, and makes its settings available to the tasks that run there.

    Args:
        params: The text of params.yaml.
        machine: `name` (the targets' `machine`), and where it has them `image`, `accelerator_type`,
            `accelerator_count`, `node_selector` and `tolerations`.
        image: For a machine that names none.

    Returns:
        The settings, every one of them there.
    """
    from reprune.doors.kfp.machines import choose

    return choose(params, machine, image)
