"""Bundles: bit-equal in a fresh process, and clear errors for weights that do not fit."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reprune.compress.bundle import (
    load_bundle,
    load_module,
    read_weights,
    save_bundle,
    stored_tensors,
)
from reprune.compress.structure.architecture import Architecture, ModuleCut
from reprune.compress.structure.groups import find_groups
from reprune.compress.structured import cut
from reprune.core import store
from reprune.core.artifacts import ModelBundle
from reprune.core.errors import (
    ArtifactError,
    CheckpointError,
    CheckpointMismatch,
    EvalIsSealed,
    NonFiniteWeights,
    PickleRefused,
    TaskError,
)
from reprune.core.params import PruneParams
from reprune.core.store import Artifact
from tests import models

FRESH = """
import hashlib, sys
from pathlib import Path
import torch
from reprune.compress.bundle import load_bundle
from reprune.core import store
from reprune.core.artifacts import ModelBundle
torch.set_num_threads(1)
torch.manual_seed(99)
loaded = load_bundle(store.read(Path(sys.argv[1]), ModelBundle))
with torch.no_grad():
    outputs = loaded.module(*loaded.task.example_inputs(5))
digest = hashlib.sha256(outputs.numpy().tobytes())
for name, tensor in loaded.module.state_dict().items():
    digest.update(name.encode() + tensor.numpy().tobytes())
print(digest.hexdigest(), loaded.module.conv.out_channels)
"""


def fingerprint(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> str:
    with torch.no_grad():
        digest = hashlib.sha256(module(*inputs).numpy().tobytes())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.slow
def test_a_cut_model_is_the_same_bits_in_a_fresh_process(
    dense: Artifact[ModelBundle], tmp_path: Path
) -> None:
    """Cut, saved, and loaded by another process: outputs and every tensor are bit-equal."""
    loaded = load_bundle(dense)
    groups = find_groups(loaded.module, loaded.task.example_inputs(2), loaded.task.keep)
    result = cut(
        loaded.task,
        loaded.module,
        groups,
        {"conv": 5, "wide": 7},
        PruneParams(examples=64),
        0,
        lambda _: None,
    )
    with store.drafting(tmp_path / "small") as draft:
        save_bundle(draft, result.module, result.architecture, dense)
        bundle = store.write(
            draft, dense.manifest, step="prune", parents={}, out=tmp_path / "small"
        )
    answer = subprocess.run(
        [sys.executable, "-c", FRESH, str(bundle.path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = fingerprint(result.module, loaded.task.example_inputs(5))
    assert answer == [expected, "5"]
    again = load_bundle(bundle)
    assert again.architecture == result.architecture
    assert {name for name in bundle.manifest.payload if name.startswith("task/")} == {
        name for name in dense.manifest.payload if name.startswith("task/")
    }


@pytest.mark.parametrize("name", models.MODELS)
def test_every_architecture_is_rebuilt_bit_equal(
    model_task: Callable[..., object], name: str, tmp_path: Path
) -> None:
    """Weights file and architecture give back the very tensors, on a factory model of other weights."""
    task = model_task(name)
    module = models.build(name)
    groups = find_groups(module, models.inputs(name, 2), ())
    widths = {group.name: max(1, group.width // 2) for group in groups}
    result = cut(task, module, groups, widths, PruneParams(examples=64), 0, lambda _: None)
    save_file(stored_tensors(result.module), tmp_path / "weights.safetensors")
    again = load_module(tmp_path / "weights.safetensors", result.architecture, task.model)
    for (key, value), (other_key, other) in zip(
        result.module.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert key == other_key
        assert torch.equal(value, other)


def test_loading_gives_an_evaluating_float_model_with_sealed_splits(
    dense: Artifact[ModelBundle],
) -> None:
    """Eval mode, float32, `eval` closed, and neither the random state nor the artefact touched."""
    state = torch.get_rng_state()
    loaded = load_bundle(dense)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(layer.training for layer in loaded.module.modules())
    assert all(p.dtype == torch.float32 for p in loaded.module.parameters())
    assert loaded.architecture is None
    assert len(list(loaded.task.batches("tune", epoch=0, seed=0))) == 3
    with pytest.raises(EvalIsSealed):
        loaded.task.batches("eval", epoch=0, seed=0)
    opened = load_bundle(dense, splits=("calibration", "eval"))
    assert len(list(opened.task.batches("eval", epoch=0, seed=0))) == 3
    with pytest.raises(EvalIsSealed):
        opened.task.batches("train", epoch=0, seed=0)
    store.read(dense.path, ModelBundle)


def test_saving_twice_gives_equal_bytes(dense: Artifact[ModelBundle], tmp_path: Path) -> None:
    """The payload is a function of the model, also for tensors in another memory order."""
    module = models.build("plain")
    save_bundle(tmp_path / "one", module, None, dense)
    save_bundle(tmp_path / "two", module.to(memory_format=torch.channels_last), None, dense)
    assert store.folder_digest(tmp_path / "one") == store.folder_digest(tmp_path / "two")
    assert not (tmp_path / "one" / "architecture.json").exists()


def weights_of(tmp_path: Path, name: str, change: Callable[[dict], None]) -> Path:
    tensors = stored_tensors(models.build(name))
    change(tensors)
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    return path


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    """Missing, unexpected and misshapen keys are all named, with both shapes and what to do."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["head.bias"]
        tensors["head.scale"] = torch.ones(2)
        tensors["first.0.weight"] = torch.ones(9, 3, 3, 3)

    with pytest.raises(CheckpointMismatch) as caught:
        load_module(weights_of(tmp_path, "plain", change), None, models.MODELS["plain"])
    text = str(caught.value)
    assert "missing: head.bias" in text
    assert "unexpected: head.scale" in text
    assert "first.0.weight (the file has (9, 3, 3, 3), the model (8, 3, 3, 3))" in text
    assert "To fix" in text


def test_a_long_list_is_cut_short(tmp_path: Path) -> None:
    """A wrong checkpoint does not fill the screen."""
    with pytest.raises(CheckpointMismatch, match=r"and \d+ more"):
        load_module(weights_of(tmp_path, "plain", dict.clear), None, models.MODELS["resnet-b"])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")
def test_a_model_that_cannot_be_looked_into_is_refused(tmp_path: Path) -> None:
    """A scripted part and a layer without a shape are named; both were tracebacks of torch."""
    part = torch.jit.script(nn.Linear(4, 4))
    path = weights_of(tmp_path, "plain", dict.clear)
    for module, words in (
        (nn.Sequential(nn.Linear(4, 4), part), "1 is a TorchScript module"),
        (nn.Sequential(nn.LazyBatchNorm1d()), r"0 \(LazyBatchNorm1d\) gets the shape"),
    ):
        with pytest.raises(TaskError, match=words):
            load_module(path, None, lambda module=module: module)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["head.weight", "first.1.running_var"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, key: str, value: float) -> None:
    """NaN and infinities in parameters and statistics are refused by name, loading and saving."""
    path = weights_of(tmp_path, "plain", lambda t: t[key].view(-1).__setitem__(0, value))
    with pytest.raises(NonFiniteWeights, match=key.replace(".", r"\.")):
        load_module(path, None, models.MODELS["plain"])


def test_saving_a_diverged_model_is_refused(dense: Artifact[ModelBundle], tmp_path: Path) -> None:
    """Nothing is written that could not be loaded again."""
    module = load_bundle(dense).module
    with torch.no_grad():
        module.head.bias[0] = float("nan")
    with pytest.raises(NonFiniteWeights):
        save_bundle(tmp_path / "out", module, None, dense)
    assert not (tmp_path / "out").exists()


class Masked(nn.Module):
    """A causal mask as a buffer: negative infinity that is meant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))


def test_an_attention_mask_is_no_divergence(tmp_path: Path) -> None:
    """A buffer of zeros and negative infinities is saved and loaded as it is."""
    module = Masked()
    save_file(stored_tensors(module), tmp_path / "weights.safetensors")
    again = load_module(tmp_path / "weights.safetensors", None, Masked)
    assert torch.equal(again.mask, module.mask)


def test_what_learns_is_no_mask(tmp_path: Path) -> None:
    """A bias that went to negative infinity holds what a mask holds; it is a parameter, so it is refused."""
    module = Masked()
    with torch.no_grad():
        module.layer.bias.fill_(float("-inf"))
    save_file(stored_tensors(module), tmp_path / "weights.safetensors")
    with pytest.raises(NonFiniteWeights, match=r"1 tensors hold NaN or infinity: layer\.bias"):
        load_module(tmp_path / "weights.safetensors", None, Masked)


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}


def test_extra_state_that_is_no_tensor_is_refused() -> None:
    """It could only be pickled, so it is refused by name before anything is written."""
    with pytest.raises(CheckpointError, match="_extra_state"):
        stored_tensors(Extra(2, 2))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight


@pytest.mark.parametrize("kept", ["encode.weight", "decode.weight", "both"])
def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path, kept: str) -> None:
    """One tensor in the file; a file with either name, or with both, loads; the tie is still there."""
    module = Tied()
    tensors = stored_tensors(module)
    assert sorted(tensors) == ["decode.bias", "encode.bias", "encode.weight"]
    weight = tensors.pop("encode.weight")
    for key in ("encode.weight", "decode.weight") if kept == "both" else (kept,):
        tensors[key] = weight.clone()
    save_file(tensors, tmp_path / "weights.safetensors")
    again = load_module(tmp_path / "weights.safetensors", None, Tied)
    assert again.decode.weight is again.encode.weight
    assert torch.equal(again.encode.weight, module.encode.weight)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    """torch.save under the name of a safetensors file is refused as what it is."""
    path = tmp_path / "weights.safetensors"
    torch.save(models.build("plain").state_dict(), path)
    with pytest.raises(PickleRefused, match="pickle"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    """Damage is a CheckpointError with the path, never a traceback of a parser."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        read_weights(path)


def test_a_bundle_without_weights_is_refused(dense: Artifact[ModelBundle]) -> None:
    """A manifest that lists no weights names what is missing."""
    manifest = msgspec.structs.replace(
        dense.manifest,
        payload={k: v for k, v in dense.manifest.payload.items() if "weights" not in k},
    )
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        load_bundle(Artifact(manifest=manifest, path=dense.path, digest=dense.digest))


def test_cuts_of_another_model_are_a_mismatch(tmp_path: Path) -> None:
    """An architecture that the factory's model cannot have is a mismatch that names the layer."""
    path = weights_of(tmp_path, "plain", lambda _: None)
    cuts = Architecture(cuts=(ModuleCut(module="first.0", axis="out", size=12, keep=(0,)),))
    with pytest.raises(CheckpointMismatch, match=r"first\.0.*12"):
        load_module(path, cuts, models.MODELS["plain"])
