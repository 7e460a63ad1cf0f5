"""Embeddings are cut by column where nothing else makes their channels; what holds other weights is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reprune.compress.importance import CRITERIA
from reprune.compress.structure.architecture import write_architecture
from reprune.compress.structure.equality import difference
from reprune.compress.structure.groups import find_groups, survey
from reprune.compress.structured import cut
from reprune.core.params import PruneParams
from tests import models
from tests.compress.test_blocks import exported, quiet, reload


@pytest.mark.slow
@pytest.mark.parametrize("criterion", sorted(set(CRITERIA) - {"bn-scale"}))
def test_columns_of_embeddings_are_scored_cut_and_rebuilt(
    criterion: str, model_task: Callable[..., object], tmp_path: Path
) -> None:
    """By every criterion that needs no norm: the counts are right, the bits come back, ONNX agrees."""
    module, inputs = models.build("lookups"), models.inputs("lookups", 3)
    groups = find_groups(module, inputs, ())
    widths = {group.name: group.width // 2 for group in groups}
    params = PruneParams(examples=32, criterion=criterion)
    result = cut(model_task("lookups"), module, groups, widths, params, 0, quiet)
    assert result.module.word.weight.shape == (20, 4)
    assert result.module.word.padding_idx == 0
    assert result.surgery.after.params == sum(p.numel() for p in result.module.parameters())
    write_architecture(tmp_path / "architecture.json", result.architecture)
    again = reload(result.module, tmp_path, models.MODELS["lookups"])
    assert difference(result.module, again, [inputs]) == 0.0
    assert exported(result.module, inputs, tmp_path) < 1e-4


class Looked(nn.Module):
    """One table, its mean over tokens, and a head."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens).mean(dim=1))


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"max_norm": 1e3}, "bounds the norm"), ({"sparse": True}, "sparse gradients")],
)
def test_embeddings_whose_columns_depend_on_each_other_stay(
    options: dict[str, float], reason: str
) -> None:
    """A bound on the norm of rows need not bind on the example inputs, so that no trial would see it."""
    torch.manual_seed(0)
    module = Looked(nn.Embedding(20, 8, **options)).eval()
    found = survey(module, (torch.randint(0, 20, (2, 5)),), ())
    assert found.groups == ()
    assert reason in found.skipped["table"]


class Matrix(nn.Module):
    """A layer of somebody's own, with its weight the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Named(nn.Module):
    """Weights in a layer that is not known, in a bag of embeddings, and in the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 8)
        self.layer = nn.Sequential(nn.Linear(8, 8), Matrix())
        self.rotation = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.bag(tokens)) @ self.rotation)


def test_all_that_holds_weights_is_cut_or_named() -> None:
    """No weight of two dimensions is left out silently."""
    torch.manual_seed(0)
    found = survey(Named().eval(), (torch.randint(0, 20, (2, 5)),), ())
    assert found.groups == ()
    assert {name: found.skipped[name] for name in ("bag", "layer.1", "rotation")} == {
        "bag": "bag is of the kind EmbeddingBag, which is not cut",
        "layer.1": "what a Matrix does with its own weight is not known",
        "rotation": "what a Named does with its own rotation is not known",
    }
    assert set(found.skipped) == {"bag", "layer.0", "layer.1", "rotation", "head"}
