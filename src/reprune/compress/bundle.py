"""A ModelBundle as a module and back, without pickle: weights bit for bit, shapes from the architecture."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reprune.compress.masks.choosing import Masks
from reprune.compress.masks.files import check_masks, read_masks, write_masks
from reprune.compress.structure.architecture import (
    ARCHITECTURE_FILE,
    Architecture,
    apply,
    read_architecture,
    write_architecture,
)
from reprune.core.artifacts import MASKS, WEIGHTS, ModelBundle
from reprune.core.errors import (
    CheckpointError,
    CheckpointMismatch,
    CompressionError,
    NonFiniteWeights,
    PickleRefused,
)
from reprune.core.store import Artifact, disk_errors
from reprune.registry.weights import is_mask
from reprune.task.check_model import refuse_unfinished
from reprune.task.load import load_task
from reprune.task.protocol import Split
from reprune.task.seal import Sealed

TASK_FOLDER = "task"
LISTED = 8

# A zip archive (torch.save) and the pickle protocols 2 to 5.
PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """`module` in eval mode with the bundle's weights, float32; `task` from the bundle's own archive.

    `masks` are those of its weights, by parameter name: True where kept, zero where not.
    """

    module: nn.Module
    task: Sealed
    architecture: Architecture | None
    masks: Masks = field(default_factory=dict)


def load_bundle(
    bundle: Artifact[ModelBundle],
    *,
    splits: Collection[Split] = ("train", "tune", "calibration"),
) -> LoadedModel:
    """The bundle's model, rebuilt from its own task with `splits` open; nothing is unpickled.

    Raises TaskError for a task that does not load, CheckpointMismatch for weights or cuts that do
    not fit its model, NonFiniteWeights, PickleRefused or CheckpointError for a file that is no
    safetensors, or for masked weights that are not zero, ArtifactError for a bundle without weights.
    """
    task = load_task(bundle.manifest.task.entry, bundle.path / TASK_FOLDER)
    architecture = None
    if ARCHITECTURE_FILE in bundle.manifest.payload:
        architecture = read_architecture(bundle.file(ARCHITECTURE_FILE))
    module = load_module(bundle.file(WEIGHTS), architecture, task.model)
    masks: Masks = {}
    if MASKS in bundle.manifest.payload:
        masks = read_masks(bundle.file(MASKS))
        check_masks(module, masks, bundle.path / MASKS)
    return LoadedModel(
        module=module,
        task=Sealed(task, splits=tuple(splits)),
        architecture=architecture,
        masks=masks,
    )


def load_module(
    weights: Path, architecture: Architecture | None, factory: Callable[[], nn.Module]
) -> nn.Module:
    """`factory()` cut as `architecture` says, with the tensors of `weights`, float32, in eval mode.

    Bit-equal to what `save_bundle` was given. The caller's random state is not touched. Raises TaskError
    for a model with TorchScript modules, or with lazy layers that never ran.
    """
    tensors = read_weights(weights)
    with torch.random.fork_rng(devices=[]):
        module = factory()
    refuse_unfinished(module, "the task's model()")
    if architecture is not None:
        try:
            module = apply(module, architecture)
        except CompressionError as error:
            raise CheckpointMismatch(
                f"{ARCHITECTURE_FILE} does not fit the task's model: {error.what}",
                where=f"{weights.parent}: {error.where}",
                fix="the task's model() must build the architecture that was cut; restore its code",
            ) from error
    _refuse_mismatch(module, tensors, weights)
    _refuse_non_finite(tensors, module, weights)
    module.load_state_dict(tensors, strict=False)
    return module.float().eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises PickleRefused for a pickle, CheckpointError otherwise."""
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
        if start.startswith(PICKLE_MAGIC):
            raise PickleRefused(
                "is a pickle under another name; loading it could run any code",
                where=str(path),
                fix="save the state dict with safetensors.torch.save_file",
            )
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"is not a safetensors file that can be read: {error}", where=str(path)
        ) from error


def save_bundle(
    out: Path,
    module: nn.Module,
    architecture: Architecture | None,
    source: Artifact[ModelBundle],
    masks: Masks | None = None,
) -> None:
    """Writes the payload of a ModelBundle to `out`: weights, the architecture, masks, the task of
    `source`.

    Equal modules give equal bytes. Of tied tensors one is stored. Raises NonFiniteWeights, and
    CheckpointError for masks of weights that are not zero.
    """
    tensors = stored_tensors(module)
    _refuse_non_finite(tensors, module, out / WEIGHTS)
    check_masks(module, masks or {}, out / MASKS)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        save_file(tensors, out / WEIGHTS)
        if architecture is not None and architecture.changes:
            write_architecture(out / ARCHITECTURE_FILE, architecture)
        if masks:
            write_masks(out / MASKS, masks)
        for name in source.manifest.payload:
            if name.startswith(f"{TASK_FOLDER}/"):
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.path / name, out / name)


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict as it is stored: contiguous copies on the CPU, the first name of each tied tensor."""
    first = _first_names(module)
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in module.state_dict().items()
        if first[name] == name
    }


def _first_names(module: nn.Module) -> dict[str, str]:
    """Each key of the state dict to the first key that holds the same memory."""
    seen: dict[tuple[object, ...], str] = {}
    result: dict[str, str] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"'{name}' of the model's state dict is a {type(tensor).__name__}, not a tensor",
                where=type(module).__name__,
                fix="keep it as a tensor buffer: extra state is pickled, and nothing is unpickled",
            )
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        result[name] = seen.setdefault(place, name) if tensor.numel() else name
    return result


def _refuse_mismatch(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = module.state_dict()
    first = _first_names(module)
    given = {first.get(name, name) for name in tensors}
    missing = sorted(name for name in expected if first[name] not in given)
    unexpected = sorted(name for name in tensors if name not in expected)
    shapes = sorted(
        f"{name} (the file has {_form(tensors[name])}, the model {_form(expected[name])})"
        for name in expected.keys() & tensors.keys()
        if _form(tensors[name]) != _form(expected[name])
    )
    found = [
        f"{what}: {', '.join(names[:LISTED])}"
        + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if found:
        raise CheckpointMismatch(
            f"the weights do not fit the task's model; {'; '.join(found)}",
            where=str(path),
            fix="register the weights that belong to this task, or point `task` at the code that "
            "trained them (a prefix such as 'module.' comes from DataParallel: strip it)",
        )


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def _refuse_non_finite(tensors: Mapping[str, Tensor], module: nn.Module, path: Path) -> None:
    """NaN is never a weight. An infinity may be a mask, so it is allowed where nothing learns: in
    buffers (or frozen parameters) that hold only zeros and negative infinity.
    """
    learnt = {
        name
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter.requires_grad
    }
    found = sorted(
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and not bool(torch.isfinite(tensor).all())
        and (name in learnt or not is_mask(tensor))
    )
    if found:
        listed = ", ".join(found[:LISTED])
        raise NonFiniteWeights(
            f"{len(found)} tensors hold NaN or infinity: {listed}",
            where=str(path),
            fix="the training diverged; register a checkpoint from before",
        )
