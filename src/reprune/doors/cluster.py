"""The machines of a cluster, as a person writes them down, against the targets that are measured there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from reprune.core.documents import Document, read_yaml
from reprune.core.errors import DocumentError, InputError, nearest
from reprune.core.params import PARAMS_FILE, Params
from reprune.doors.kfp.machines import ClusterMachine, read_machine

_EXAMPLE = """\
schema: 1
machines:
  - name: {name}
    image: you/project@sha256:...
    node_selector: {{kubernetes.io/hostname: node-1}}"""


class Machines(Document, kw_only=True):
    """The whole file. A machine's `name` is what targets in params.yaml call their `machine`."""

    schema: Literal[1] = 1
    machines: Annotated[tuple[ClusterMachine, ...], Meta(min_length=1, max_length=100)]


def machines_parameter(
    params: Params, file: Path | None, image: str
) -> list[dict[str, Any]] | None:
    """What the pipeline loops over; None where its own default will do: any one node, its own image.

    `image` is for machines that name none. Raises InputError or DocumentError.
    """
    if file is None:
        named = sorted({each.machine for each in params.targets.values()} - {""})
        if named:
            raise InputError(
                f"targets in {PARAMS_FILE} name machines ({', '.join(named)}), and nothing says "
                "where those are",
                fix="describe them with --machines FILE:\n" + _EXAMPLE.format(name=named[0]),
            )
        return [_item(ClusterMachine(), image)] if image else None
    entries = read_yaml(file, Machines).machines
    _check_names(params, [each.name for each in entries], str(file))
    for each in entries:
        if not each.image and not image:
            raise InputError(
                f"the machine '{each.name}' has no image",
                where=str(file),
                fix="write `image:`, or give one for all with --image",
            )
    return [_item(each, image) for each in entries]


def _check_names(params: Params, names: list[str], where: str) -> None:
    """Returns only if the names are those that targets have for machines, each once and no others."""
    by_machine: dict[str, str] = {}
    for name, target in params.targets.items():
        by_machine.setdefault(target.machine, name)
    if "" in by_machine and len(by_machine) > 1:
        raise DocumentError(
            f"the target '{by_machine['']}' names no machine, though others do",
            where=f"{PARAMS_FILE} (targets)",
            fix="give each target its `machine`, or none",
        )
    for name in names:
        if names.count(name) > 1:
            raise DocumentError(f"the machine '{name}' stands there twice", where=where)
    for machine, target_name in by_machine.items():
        if machine not in names:
            wanted = f"the machine '{machine}'" if machine else "one machine without a name"
            raise InputError(
                f"the target '{target_name}' needs {wanted}; {nearest(machine, names)}",
                where=where,
                fix="describe it there" if machine else f"or name one in {PARAMS_FILE}",
            )
    for name in sorted(set(names) - set(by_machine)):
        raise InputError(
            f"no target belongs to the machine '{name}'; {nearest(name, by_machine)}",
            where=where,
            fix=f"delete it, or give `machine: {name}` to its targets in {PARAMS_FILE}",
        )


def _item(entry: ClusterMachine, image: str) -> dict[str, Any]:
    """Every field is there, as the first task of each turn of the loop reads it."""
    made: dict[str, Any] = msgspec.to_builtins(entry)
    made["image"] = entry.image or image
    made["tolerations"] = [
        {key: value for key, value in each.items() if value not in ("", None)}
        for each in made["tolerations"]
    ]
    read_machine(made)
    return made
