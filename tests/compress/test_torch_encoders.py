"""torch's own nn.TransformerEncoder: padding under its fused path, and layers that go, the first one too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reprune.compress.structure.architecture import apply, write_architecture
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.bypass import Bypass
from reprune.compress.structure.equality import architecture_of, difference
from reprune.compress.structure.groups import survey
from reprune.compress.structure.separate import SeparateAttention, separate
from tests.compress.test_blocks import exported, reload


class Encoded(nn.Module):
    """A classifier on torch's encoder with its defaults; token 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = self.encoder(self.embed(tokens), src_key_padding_mask=tokens == 0)
        return self.head(seen[:, 0])


def encoded() -> tuple[Encoded, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    tokens = torch.tensor([[3, 4, 5, 6, 7, 0, 0], [3, 9, 5, 6, 7, 8, 2]])
    return Encoded().eval(), (tokens,)


def test_padding_reaches_a_separate_attention_as_a_mask(tmp_path: Path) -> None:
    """torch's encoder would pack padded inputs into a NestedTensor, which only its own layers can read."""
    module, inputs = encoded()
    with torch.enable_grad():  # torch's own plain path
        expected = module(*inputs).detach()
    single = separate(module)
    assert isinstance(single.encoder.layers[0].self_attn, SeparateAttention)
    with torch.no_grad():
        assert torch.allclose(single(*inputs), expected, atol=1e-5)
    found = survey(single, inputs, ())
    assert [(group.name, group.width) for group in found.groups] == [
        (name, width)
        for layer in ("encoder.layers.0", "encoder.layers.1")
        for name, width in ((f"{layer}.self_attn:heads", 4), (f"{layer}.linear1", 24))
    ]
    assert module.encoder.use_nested_tensor
    rebuilt(single, inputs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("gone", [("0",), ("1",), ("0", "1")])
def test_any_layer_of_torchs_encoder_can_go(gone: tuple[str, ...], tmp_path: Path) -> None:
    """The encoder asks its first layer for `batch_first`: what stands in its place answers for it."""
    module, inputs = encoded()
    single = separate(module)
    found = survey(single, inputs, ())
    blocks = find_blocks(single, inputs, ()).blocks
    assert [block.name for block in blocks] == ["encoder.layers.0", "encoder.layers.1"]
    blocks = tuple(block for block in blocks if block.name.endswith(gone))
    kept = {group.name: range(1, group.width) for group in found.groups}
    architecture = architecture_of(single, found.groups, kept, blocks)
    cut = apply(single, architecture)
    assert difference(apply(module, architecture), cut, [inputs]) == 0.0
    write_architecture(tmp_path / "architecture.json", architecture)
    back = reload(cut, tmp_path, lambda: Encoded().eval())
    assert difference(cut, back, [inputs]) == 0.0
    assert exported(cut, inputs, tmp_path) < 1e-5


def test_a_removed_block_keeps_what_no_cut_changes() -> None:
    """Switches, names and fractions of it and of its parts; no whole numbers, which may be widths."""
    layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.25, batch_first=True, norm_first=True)
    layer.kind, layer.returns, layer.width = "sliding", True, 16
    left = Bypass(0, layer.eval())
    assert (left.norm_first, left.kind, left.training) == (True, "sliding", False)
    assert (left.self_attn.batch_first, left.dropout1.p) == (True, 0.25)
    assert not hasattr(left, "width")
    assert not hasattr(left.linear1, "out_features")
    assert not list(left.children())
    given = torch.ones(1)
    assert left(given) is given


def rebuilt(module: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> None:
    """The module is stored, and what comes back from Encoded() is bit-equal on padded inputs."""
    write_architecture(folder / "architecture.json", architecture_of(module, (), {}))
    assert difference(module, reload(module, folder, lambda: Encoded().eval()), [inputs]) == 0.0
