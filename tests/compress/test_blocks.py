"""Whole blocks: which are found, that removing is bypassing, and that the result is rebuilt and exported."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.compress.bundle import load_module, stored_tensors
from reprune.compress.structure.architecture import apply, read_architecture, write_architecture
from reprune.compress.structure.blocks import Block, find_blocks, groups_inside
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.compress.structure.groups import Group, find_groups
from reprune.compress.structured import cut
from reprune.core.errors import CheckpointMismatch, CompressionError, TaskError
from reprune.core.params import PruneParams
from tests import models

BLOCKS = {
    "resnet-a": ["block1", "block3"],
    "resnet-b": ["block1", "block3"],
    "bert": ["layers.0", "layers.1"],
    "vit": ["blocks.0", "blocks.1"],
    "vit-fixed": ["blocks.0", "blocks.1"],
    "grouped-queries": ["layers.0", "layers.1"],
    "one-key-head": ["layers.0", "layers.1"],
    "staged": ["stage.0", "stage.1", "mixer.first", "mixer.second", "layer"],
}


def quiet(_: str) -> None:
    """Says nothing."""


class Wrapped(nn.Module):
    """x + inner(x), and what else the block returned before: a tuple, as some libraries do."""

    def __init__(self, inner: nn.Module, *, extra: bool = False) -> None:
        super().__init__()
        self.inner = inner
        self.extra = extra

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, None]:
        y = x + self.inner(x)
        return (y, None) if self.extra else y


class Mixer(nn.Module):
    """Two residual halves one after another: either can go."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Wrapped(nn.Linear(8, 8))
        self.second = Wrapped(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Layer(nn.Module):
    """A layer whose feed-forward half is not a module of its own: it goes whole."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Wrapped(nn.Linear(8, 8), extra=True)
        self.wide = nn.Linear(8, 16)
        self.narrow = nn.Linear(16, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        hidden, _ = self.attention(hidden)
        return self.norm(hidden + self.narrow(torch.tanh(self.wide(hidden)))), None


class Staged(nn.Module):
    """A row of blocks, a block of two halves, a layer that returns a tuple, and what is no block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.stage = nn.Sequential(Wrapped(nn.Linear(8, 8)), Wrapped(nn.Linear(8, 8)))
        self.mixer = Mixer()
        self.plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.layer = Layer()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.mixer(self.stage(self.stem(x))))
        return self.head(self.layer(hidden=x)[0])


def build(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if name != "staged":
        return models.build(name), models.inputs(name, 3)
    torch.manual_seed(0)
    return Staged().eval(), (torch.randn(3, 8),)


@functools.cache
def surveyed(
    name: str,
) -> tuple[nn.Module, tuple[Tensor, ...], tuple[Group, ...], tuple[Block, ...]]:
    module, inputs = build(name)
    return (
        module,
        inputs,
        find_groups(module, inputs, ()),
        find_blocks(module, inputs, ()).blocks,
    )


@pytest.mark.parametrize("name", [*models.MODELS, "staged"])
def test_exactly_the_residual_blocks_are_found(name: str) -> None:
    """Residual blocks and layers at the level of one decision; the model is left as it was."""
    module, inputs = build(name)
    before = copy.deepcopy(module.state_dict())
    found = find_blocks(module, inputs, ())
    assert [block.name for block in found.blocks] == BLOCKS.get(name, [])
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(BLOCKS)))
def test_any_cut_of_blocks_and_channels_is_the_masked_model(data: st.DataObject, name: str) -> None:
    """Sliced without blocks and masked with the blocks bypassed are one function."""
    module, inputs, groups, blocks = surveyed(name)
    gone = [block for block in blocks if data.draw(st.booleans(), label=block.name)]
    kept = {
        group.name: sorted(
            data.draw(st.sets(st.integers(0, group.width - 1), min_size=1), label=group.name)
        )
        for group in groups
    }
    architecture = architecture_of(module, groups, kept, gone)
    sliced = apply(module, architecture)
    assert difference(mask(module, groups, kept, gone), sliced, [inputs]) < 1e-4
    inside = groups_inside(groups, [block.name for block in gone])
    assert not {cut.module for cut in architecture.cuts} & {
        member.module for group in groups if group.name in inside for member in group.members
    }


@pytest.mark.slow
def test_the_cut_records_and_counts_what_was_removed(
    model_task: Callable[..., object], tmp_path: Path
) -> None:
    """Blocks are in the surgery, their cost is gone; the file rebuilds the very bits; ONNX agrees."""
    module, inputs = build("resnet-b")
    groups = find_groups(module, inputs, ())
    blocks = find_blocks(module, inputs, ()).blocks
    result = cut(
        model_task("resnet-b"),
        module,
        groups,
        {"stem.0": 4, "block2.conv1": 8},
        PruneParams(examples=64),
        0,
        quiet,
        blocks=blocks[:1],
    )
    assert result.surgery.blocks == ("block1",)
    assert result.surgery.equality_max_abs < 1e-4
    assert not list(result.module.get_submodule("block1").parameters())
    assert result.surgery.after.params == sum(p.numel() for p in result.module.parameters())
    write_architecture(tmp_path / "architecture.json", result.architecture)
    again = reload(result.module, tmp_path, models.MODELS["resnet-b"])
    assert difference(result.module, again, [inputs]) == 0.0
    assert exported(result.module, inputs, tmp_path) < 1e-4


def test_only_a_block_may_go(model_task: Callable[..., object]) -> None:
    """No width is needed where a block goes: that is a cut."""
    module, inputs = build("resnet-a")
    blocks = find_blocks(module, inputs, ()).blocks
    groups = find_groups(module, inputs, ())
    task = model_task("resnet-a")
    result = cut(task, module, groups, {}, PruneParams(examples=64), 0, quiet, blocks=blocks)
    assert result.architecture.cuts == ()
    assert result.surgery.after.macs < result.surgery.before.macs


def test_weights_of_the_whole_model_do_not_load_into_one_without_a_block(tmp_path: Path) -> None:
    """Another set of weights is refused by name, never filled up at random."""
    module, inputs = build("resnet-b")
    blocks = find_blocks(module, inputs, ()).blocks
    architecture = architecture_of(module, [], {}, blocks[:1])
    write_architecture(tmp_path / "architecture.json", architecture)
    with pytest.raises(CheckpointMismatch, match=r"unexpected: block1\."):
        reload(module, tmp_path, models.MODELS["resnet-b"])


def test_kept_modules_protect_the_blocks_around_them() -> None:
    """A block that is named in `keep`, lies in one or holds one stays; an unknown name is refused."""
    module, inputs = build("resnet-b")
    found = find_blocks(module, inputs, ("block1.conv2",))
    assert [block.name for block in found.blocks] == ["block3"]
    assert "keep" in found.skipped["block1"]
    with pytest.raises(TaskError, match="block1"):
        find_blocks(module, inputs, (), named=["blok1"])


def test_named_blocks_are_tried_and_refused_with_a_reason() -> None:
    """The task may name what holds no addition; what changes the shape or lies inside is refused."""
    module, inputs = build("staged")
    found = find_blocks(module, inputs, (), named=["plain", "layer", "layer.attention", "mixer"])
    assert [block.name for block in found.blocks] == ["mixer", "plain", "layer"]
    assert "lies inside layer" in found.skipped["layer.attention"]
    module, inputs = build("resnet-b")
    found = find_blocks(module, inputs, (), named=["block2"])
    assert "does not look like" in found.skipped["block2"]


class Scaled(nn.Module):
    """A block with a scale of its own over channels, as ConvNeXt has it: x + scale * inner(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.inner(x)


class Biased(nn.Module):
    """The same around a product: it holds a table of places, and a layer ends where it does."""

    def __init__(self, *, adds: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(8, 8))
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x @ self.table) if self.adds else self.inner(x @ self.table + x)


def test_a_block_with_a_parameter_of_its_own_is_found() -> None:
    """Its own output is no end of a path inside it; what adds nothing to its input is no block still."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 1), Scaled(), Scaled(), nn.Conv2d(8, 3, 1)).eval()
    found = find_blocks(module, (torch.randn(2, 3, 5, 5),), ())
    assert [block.name for block in found.blocks] == ["1", "2"]
    module = nn.Sequential(Biased(adds=True), Biased(adds=False), nn.Linear(8, 3)).eval()
    found = find_blocks(module, (torch.randn(2, 8),), ())
    assert [block.name for block in found.blocks] == ["0"]


class Members(nn.Module):
    """Two models side by side, as a set has them; one of them adds what it made to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.enhancer = Wrapped(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
        self.rows = nn.Sequential(*(Wrapped(nn.Sequential(nn.Linear(6, 6))) for _ in range(2)))
        self.other = nn.Sequential(nn.Linear(6, 6), Wrapped(nn.Sequential(nn.Linear(6, 6))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.rows(self.enhancer(x)), self.other(x)


def test_a_whole_member_of_a_set_is_no_block() -> None:
    """It could be taken out without the model failing, and nobody would answer in its place."""
    torch.manual_seed(0)
    module, inputs = Members(), (torch.randn(3, 6),)
    assert "enhancer" in [block.name for block in find_blocks(module, inputs, ()).blocks]
    members = ("enhancer", "rows", "other")
    inner = ["rows.0", "rows.1"]
    found = find_blocks(module, inputs, (), members=members)
    assert [block.name for block in found.blocks] == [*inner, "other.1"]
    named = find_blocks(module, inputs, (), named=["enhancer"], members=members)
    assert named.skipped["enhancer"] == "it is a whole member of the set"
    # One member says which may go, or that none may; the other's are still found.
    for blocks in ([], inner[:1]):
        some = find_blocks(module, inputs, (), named=blocks, sought=("other",), members=members)
        assert [block.name for block in some.blocks] == [*blocks, "other.1"]


class Reused(nn.Module):
    """One block twice, and one whose width the model asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.again = Wrapped(nn.Linear(8, 8))
        self.asked = Wrapped(nn.Linear(8, 8))
        self.asked.width = 8

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.again(x))
        return self.asked(x) / self.asked.width


def test_what_would_not_run_without_it_is_left_out() -> None:
    """A block that is called twice or looked into stays, and the reason says so."""
    found = find_blocks(Reused(), (torch.randn(2, 8),), ())
    assert found.blocks == ()
    assert "called 2 times" in found.skipped["again"]
    assert "width" in found.skipped["asked"]


def test_a_block_is_removed_once_and_must_be_there() -> None:
    """Removing what is gone, or was never there, is an error."""
    module, inputs = build("resnet-b")
    blocks = find_blocks(module, inputs, ()).blocks
    architecture = architecture_of(module, [], {}, blocks[:1])
    with pytest.raises(CompressionError, match="cannot be removed"):
        apply(apply(module, architecture), architecture)
    with pytest.raises(CompressionError, match="no such block"):
        apply(models.build("plain"), architecture)


def reload(module: nn.Module, folder: Path, factory: Callable[[], nn.Module]) -> nn.Module:
    """The module from its stored weights and the architecture in `folder`."""
    from safetensors.torch import save_file

    save_file(stored_tensors(module), folder / "weights.safetensors")
    architecture = read_architecture(folder / "architecture.json")
    return load_module(folder / "weights.safetensors", architecture, factory)


def exported(module: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> float:
    """The largest difference between the module's first output and that of its ONNX export."""
    from reprune.core.params import Target
    from reprune.runtimes.base import Source, get_runtime

    path = folder / "model.onnx"
    names = [f"input{number}" for number in range(len(inputs))]
    get_runtime("onnxruntime").build(
        Source(module=module, example_inputs=inputs, input_names=names), Target(), path
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {n: tensor.numpy() for n, tensor in zip(names, inputs, strict=True)}
    with torch.no_grad():
        expected = module(*inputs)
    found = session.run(None, given)[0]
    return float(np.abs(found - expected.numpy()).max())
