"""The machines of a cluster on which targets are built and measured: one parameter of the pipeline."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from reprune.core.documents import Document, decode_yaml
from reprune.core.errors import DocumentError
from reprune.core.params import PARAMS_FILE, Params
from reprune.core.step import targets_of
from reprune.doors.kfp.run import told

Text = Annotated[str, Meta(max_length=253)]


class Toleration(Document, kw_only=True, rename="camel"):
    """As Kubernetes has it; `toleration_seconds` is for the effect NoExecute."""

    key: Text = ""
    operator: str = "Equal"
    value: Text = ""
    effect: str = ""
    toleration_seconds: int | None = None


class ClusterMachine(Document, kw_only=True):
    """`name` is the `machine` of the targets that run there; "" takes all targets of params.yaml. Without
    an `image` the machine runs in that of the steps which run the model.

    Build and benchmark must meet one node: where several could take them, `node_selector` names it
    (kubernetes.io/hostname). `accelerator_type` is the resource's name, as "nvidia.com/gpu".
    """

    name: str = ""
    image: str = ""
    accelerator_type: str = ""
    accelerator_count: Annotated[int, Meta(ge=0, le=64)] = 0
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()


class Chosen(NamedTuple):
    """What a task is told: the numbers as words, because a loop hands on nothing else."""

    name: str
    image: str
    accelerator_type: str
    accelerator_count: str
    node_selector: dict[str, str]
    tolerations: list[dict[str, Any]]


def choose(params: str, machine: dict[str, Any], image: str) -> Chosen:
    """The settings of one entry, checked against params.yaml; ends the process as any component does."""
    with told("choose-machine"):
        entry = read_machine(machine)
        given = decode_yaml(params, Params, name=PARAMS_FILE)
        if entry.name:
            targets_of(given, entry.name)
        return Chosen(
            name=entry.name,
            image=entry.image or image,
            accelerator_type=entry.accelerator_type,
            accelerator_count=str(entry.accelerator_count),
            node_selector=entry.node_selector,
            tolerations=[_plain(each) for each in entry.tolerations],
        )


def read_machine(machine: Any) -> ClusterMachine:
    """One entry of the list, decoded. Raises DocumentError.

    Whole numbers come back from Kubeflow Pipelines as 1.0, and are taken for what they were.
    """
    try:
        entry = msgspec.convert(_whole(machine), ClusterMachine)
    except msgspec.ValidationError as error:
        raise DocumentError(
            str(error), where="machines", fix="docs/kubeflow.md says what an entry holds"
        ) from error
    if bool(entry.accelerator_type) != bool(entry.accelerator_count):
        raise DocumentError(
            "an accelerator needs both its type and its count",
            where=f"machines ({entry.name or 'without a name'})",
            fix="set accelerator_type and accelerator_count, or neither",
        )
    return entry


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(toleration: Toleration) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(toleration)
    return {key: value for key, value in found.items() if value not in ("", None)}
