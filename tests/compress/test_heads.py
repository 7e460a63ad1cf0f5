"""Attention heads and their dimensions: whole, the same everywhere, proven, rebuilt and exported."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.compress.ladder import prune_channels
from reprune.compress.planning.costs import cost_model
from reprune.compress.stages import Course, cut_in_stages
from reprune.compress.structure.architecture import (
    Architecture,
    AttributeChange,
    apply,
    write_architecture,
)
from reprune.compress.structure.attention import find_attention
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.compress.structure.groups import Survey, survey
from reprune.compress.structure.separate import SeparateAttention, separate
from reprune.compress.structured import cut
from reprune.core.artifacts import block_key
from reprune.core.errors import CheckpointMismatch, CompressionError, TaskError
from reprune.core.params import (
    DistillParams,
    LadderParams,
    PruneParams,
    ScheduleParams,
    SparseLearningParams,
)
from reprune.measure.profile import count_cost
from tests import models
from tests.compress.test_blocks import exported, quiet, reload

TRANSFORMERS = ("attention", "built-in-attention", "bert", "vit", "grouped-queries", "one-key-head")
PROJECTIONS = ("query", "key", "value", "qkv", "q_proj", "k_proj", "v_proj")


@functools.cache
def surveyed(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Survey]:
    inputs = models.inputs(name, 3)
    module = separate(models.build(name))
    return module, inputs, survey(module, inputs, (), dimensions=True)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(TRANSFORMERS))
def test_any_heads_dimensions_and_channels_together_are_the_masked_model(
    data: st.DataObject, name: str
) -> None:
    """Heads and dimensions cross, feed-forward channels beside them: sliced and masked are one."""
    module, inputs, found = surveyed(name)
    kept = {
        group.name: sorted(
            data.draw(st.sets(st.integers(0, group.width - 1), min_size=1), label=group.name)
        )
        for group in found.groups
    }
    sliced = apply(module, architecture_of(module, found.groups, kept))
    assert difference(mask(module, found.groups, kept), sliced, [inputs]) < 1e-5


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data(), name=st.sampled_from(TRANSFORMERS))
def test_the_cost_is_known_before_the_cut(data: st.DataObject, name: str) -> None:
    """Predicted parameters and bytes are exact with crossing groups and removed blocks; MACs at least."""
    module, inputs, found = surveyed(name)
    blocks = find_blocks(module, inputs, ()).blocks
    cost = cost_model(module, found.groups, count_cost(module, inputs), blocks)
    widths = {
        group.name: data.draw(st.integers(1, group.width), label=group.name)
        for group in found.groups
    }
    gone = [block for block in blocks if data.draw(st.booleans(), label=block.name)]
    kept = {group: range(width) for group, width in widths.items()}
    sliced = apply(module, architecture_of(module, found.groups, kept, gone))
    expected = count_cost(sliced, inputs).cost
    predicted = cost(widths | {block_key(block.name): 0 for block in gone})
    assert (predicted.params, predicted.bytes) == (expected.params, expected.bytes)
    assert predicted.macs >= expected.macs


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_projections_are_never_cut_channel_by_channel(name: str) -> None:
    """What a projection loses is whole heads, or one dimension of every head."""
    _, _, found = surveyed(name)
    for group in found.groups:
        made = {
            member.module.rpartition(".")[2] for member in group.members if member.axis == "out"
        }
        assert (group.unit == "channel") == (not made & set(PROJECTIONS))
        assert (group.across is not None) == (group.unit == "dimension")


@pytest.mark.parametrize("name", ["attention", "built-in-attention", "bert"])
def test_a_head_is_the_same_rows_everywhere(name: str) -> None:
    """The rows of query, key and value and the columns of the reader are one and the same set."""
    _, _, found = surveyed(name)
    groups = [group for group in found.groups if group.unit == "head"]
    assert groups
    for group in groups:
        assert len(group.members) == 4
        for channel in range(group.width):
            places = {member.positions[channel] for member in group.members}
            (rows,) = places
            assert rows == tuple(range(rows[0], rows[0] + len(rows)))


def test_a_fused_projection_loses_three_rows_of_blocks_a_head() -> None:
    """A head of a fused projection is its rows among the queries, the keys and the values."""
    _, _, found = surveyed("vit")
    (qkv, proj) = found.groups[0].members
    assert qkv.positions[1] == (4, 5, 6, 7, 20, 21, 22, 23, 36, 37, 38, 39)
    assert proj.positions[1] == (4, 5, 6, 7)


def test_a_key_value_head_goes_with_its_queries_or_queries_go_equally() -> None:
    """A key-value head takes its query heads along; where there is only one, query heads go singly."""
    _, _, found = surveyed("grouped-queries")
    positions = {member.module[-6:]: member.positions[0] for member in found.groups[0].members}
    assert positions == {
        "q_proj": tuple(range(8)),
        "k_proj": tuple(range(4)),
        "v_proj": tuple(range(4)),
        "o_proj": tuple(range(8)),
    }
    _, _, found = surveyed("one-key-head")
    group = found.groups[0]
    assert {member.module[-6:] for member in group.members} == {"q_proj", "o_proj"}
    assert "share it" in found.skipped["layers.0.attention.k_proj"]
    module = models.build("one-key-head")
    architecture = architecture_of(module, [group], {group.name: [0, 3, 1]})
    assert architecture.attributes == (
        AttributeChange(
            module="layers.0.attention", attribute="num_key_value_groups", before=4, after=3
        ),
    )


def test_a_width_that_is_written_into_forward_is_refused_with_what_happened() -> None:
    """reshape(batch, tokens, width) does not run with fewer heads; the reason says so, and what would."""
    module = models.build("vit-fixed")
    found = survey(module, models.inputs("vit-fixed", 2), ())
    assert "does not run" in found.skipped["blocks.0.attn.qkv"]
    assert "(-1, or flatten(2))" in found.skipped["blocks.0.attn.qkv"]
    assert {group.unit for group in found.groups} == {"channel"}


class Placed(models.Attention):
    """Adds a learnt number for each head and distance to the scores, as T5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(7, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (
            layer(x).view(*x.shape[:2], 4, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        apart = (torch.arange(7)[:, None] - torch.arange(7)).abs()
        scores = q @ k.transpose(2, 3) + self.places(apart).permute(2, 0, 1)
        seen = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        return self.head(self.norm(x + self.mix(seen)).mean(dim=1))


def test_what_else_comes_into_an_attention_is_named() -> None:
    """Its projections were told that forward() rearranges channels before the table."""
    torch.manual_seed(0)
    found = survey(Placed().eval(), (torch.randint(0, 20, (2, 7)),), ())
    for name in ("query", "key", "value"):
        assert "in its products is what comes of places" in found.skipped[name]


class Rotated(nn.Module):
    """A linear layer whose outputs are multiplied by a matrix of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.rotation = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x) @ self.rotation)


def test_a_product_with_one_linear_output_is_no_attention() -> None:
    """There are no heads to speak of: the parameter is what is in the way."""
    torch.manual_seed(0)
    found = survey(Rotated().eval(), (torch.randn(2, 6),), ())
    assert "rotation" in found.skipped["first"]


def test_one_token_shows_no_heads() -> None:
    """With nothing to attend to the heads cannot be told: refused, not guessed."""
    module = models.build("attention")
    found = survey(module, (torch.tensor([[3], [4]]),), ())
    assert "two tokens" in found.skipped["query"]
    assert {group.name for group in found.groups} == {"wide"}


@pytest.mark.slow
def test_declared_heads_are_checked() -> None:
    """The task's number must be what is seen; 0 leaves it whole; a wrong name is an error."""
    module, inputs = models.build("bert"), models.inputs("bert", 2)
    found = survey(module, inputs, (), heads={"layers.0": 3, "layers.1": 0})
    assert [group.name for group in found.groups if group.unit == "head"] == ["layers.0:heads"]
    assert "whole" in found.skipped["layers.1.query"]
    found = survey(module, inputs, (), heads={"layers.0.query": 6})
    assert "says 6 heads, 3 were seen" in found.skipped["layers.0.key"]
    with pytest.raises(TaskError, match=r"layers\.0"):
        survey(module, inputs, (), heads={"layer.0": 3})


def test_kept_projections_keep_their_heads() -> None:
    """A projection that is named in `keep` protects the whole head group, by name."""
    module, inputs = models.build("bert"), models.inputs("bert", 2)
    found = survey(module, inputs, ("layers.0.value",))
    assert [group.name for group in found.groups if group.unit == "head"] == ["layers.1:heads"]
    assert "keep" in found.skipped["layers.0.query"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "bert",
        "vit",
        pytest.param("grouped-queries", marks=pytest.mark.slow),
        pytest.param("built-in-attention", marks=pytest.mark.slow),
    ],
)
def test_heads_widths_and_a_layer_are_cut_rebuilt_and_exported(
    name: str, model_task: Callable[..., object], tmp_path: Path
) -> None:
    """Taylor scores, equality, bookkeeping, the very bits after a reload, and the same from ONNX."""
    module = separate(models.build(name))
    inputs = models.inputs(name, 3)
    found = survey(module, inputs, ())
    blocks = find_blocks(module, inputs, ()).blocks[1:]
    widths = {group.name: max(1, group.width // 2) for group in found.groups}
    params = PruneParams(examples=64)
    result = cut(model_task(name), module, found.groups, widths, params, 0, quiet, blocks=blocks)
    assert result.surgery.equality_max_abs < 1e-5
    assert result.surgery.after.params < result.surgery.before.params
    write_architecture(tmp_path / "architecture.json", result.architecture)
    again = reload(result.module, tmp_path, models.MODELS[name])
    assert difference(result.module, again, [inputs]) == 0.0
    for change in result.architecture.attributes:
        assert getattr(again.get_submodule(change.module), change.attribute) == change.after
    assert exported(result.module, inputs, tmp_path) < 1e-4


def in_three_stages(task: object, widths: dict[str, int], epochs: float = 0.0) -> Course:
    """The ViT cut to `widths`, dimensions of heads among its groups."""
    module, inputs, found = surveyed("vit")
    schedule = ScheduleParams(kind="iterative", steps=3, epochs=epochs)
    return Course(
        task=task,  # type: ignore[arg-type]
        module=module,
        teacher=module,
        digest="sha256:dense",
        groups=found.groups,
        regroup=lambda now: survey(now, inputs, (), dimensions=True).groups,
        widths=widths,
        blocks=(),
        prune=PruneParams(examples=32, schedule=schedule),
        distill=DistillParams(),
        seed=0,
        say=quiet,
    )


@pytest.mark.slow
def test_heads_and_dimensions_of_one_fused_projection_are_cut_in_stages(
    model_task: Callable[..., object], tmp_path: Path
) -> None:
    """Both run through the very same layers; after the first cut each is still known by its name."""
    widths = {"blocks.0.attn:heads": 2, "blocks.0.attn:dimensions": 1, "blocks.1.attn:heads": 1}
    course = in_three_stages(model_task("vit", examples=32), widths)
    done = cut_in_stages(course, tmp_path)
    first, second = (block.attn for block in done.module.blocks)
    assert (first.num_heads, first.head_dim, first.qkv.out_features) == (2, 1, 3 * 2 * 1)
    assert (second.num_heads, second.head_dim, second.qkv.out_features) == (1, 4, 3 * 1 * 4)
    assert {cut.group: cut.keep for cut in done.surgery.groups if cut.keep < cut.width} == widths


def test_an_attention_that_no_later_stage_can_cut_is_refused_before_anything_is_trained(
    model_task: Callable[..., object], tmp_path: Path
) -> None:
    """Its groups are not found again from the second cut on: said at once, not after a stage's epochs."""
    course = in_three_stages(model_task("vit", examples=32), {"blocks.0.attn:heads": 1}, epochs=3.0)
    heard: list[str] = []
    lost = replace(
        course,
        regroup=lambda now: [group for group in course.regroup(now) if group.width != 3],
        say=heard.append,
    )
    with pytest.raises(CompressionError, match="after stage 1 it can no longer be cut"):
        cut_in_stages(lost, tmp_path)
    sparse = SparseLearningParams(method="group-norm", epochs=1)
    gentler = LadderParams(fractions=(0.5,))
    for change in ({"sparse_learning": sparse}, {"ladder": gentler}):
        prune = msgspec.structs.replace(lost.prune, **change)
        distill = DistillParams(bar_ratio=1.1)
        with pytest.raises(CompressionError, match="after stage 1 it can no longer be cut"):
            prune_channels(replace(lost, prune=prune, distill=distill), tmp_path)
    assert not heard
    assert not list(tmp_path.iterdir())


def test_other_weights_or_numbers_are_refused_when_rebuilding(tmp_path: Path) -> None:
    """Uneven heads never load into the whole model, nor the whole weights into the cut one."""
    module, inputs = models.build("bert"), models.inputs("bert", 2)
    found = survey(module, inputs, ())
    architecture = architecture_of(module, found.groups, {"layers.1:heads": [0, 2]})
    write_architecture(tmp_path / "architecture.json", Architecture())
    with pytest.raises(
        CheckpointMismatch, match=r"layers\.1\.query\.weight \(the file has \(16, 24"
    ):
        reload(apply(module, architecture), tmp_path, models.MODELS["bert"])
    write_architecture(tmp_path / "architecture.json", architecture)
    with pytest.raises(CheckpointMismatch, match=r"another shape: layers\.1\.dense\.weight"):
        reload(module, tmp_path, models.MODELS["bert"])
    other = models.build("bert")
    other.layers[1].num_attention_heads = 4
    with pytest.raises(CompressionError, match="is 4, the cut is for 3"):
        apply(other, architecture)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_separated_attention_is_the_same_function(batch_first: bool, bias: bool) -> None:
    """Outputs, averaged and single weights, and every kind of mask agree with torch's own module."""
    torch.manual_seed(0)
    packed = nn.MultiheadAttention(12, 3, batch_first=batch_first, bias=bias).eval()
    if bias:
        nn.init.normal_(packed.in_proj_bias)
        nn.init.normal_(packed.out_proj.bias)
    single = separate(nn.Sequential(packed))[0]
    assert isinstance(single, SeparateAttention)
    query = torch.randn((2, 5, 12) if batch_first else (5, 2, 12))
    key = torch.randn((2, 4, 12) if batch_first else (4, 2, 12))
    hidden = torch.zeros(5, 4, dtype=torch.bool)
    hidden[0, 2:] = True
    padded = torch.zeros(2, 4)
    padded[1, 3] = float("-inf")
    for options in (
        {},
        {"attn_mask": hidden, "average_attn_weights": False},
        {"attn_mask": torch.randn(6, 5, 4)},
        {"key_padding_mask": padded, "need_weights": False},
        {"key_padding_mask": padded < 0},
    ):
        for one, other in zip(
            packed(query, key, key, **options), single(query, key, key, **options), strict=True
        ):
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one, other, atol=1e-6)
    alone = packed(query[:, 0], key[:, 0], key[:, 0])
    for one, other in zip(alone, single(query[:, 0], key[:, 0], key[:, 0]), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_heads_of_torchs_own_encoder_layers_are_cut() -> None:
    """nn.TransformerEncoder takes its plain path, and its heads and feed-forward channels are found."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    module = nn.Sequential(nn.Linear(12, 12), *(layer, nn.Linear(12, 4))).eval()
    inputs = (torch.randn(2, 5, 12),)
    single = separate(module)
    assert difference(module, single, [inputs]) < 1e-5
    found = survey(single, inputs, ())
    assert {"1.self_attn:heads": 3, "1.linear1": 20}.items() <= {
        group.name: group.width for group in found.groups
    }.items()
    architecture = architecture_of(single, found.groups, {"1.self_attn:heads": [1]})
    assert architecture.separated == ("1.self_attn",)
    again = apply(module, architecture)
    assert difference(again, apply(single, architecture), [inputs]) == 0.0


def test_what_cannot_be_separated_stays_and_says_why() -> None:
    """Other key sizes and appended tokens are left as they are; a cut that names them is refused."""
    module = nn.Sequential(nn.MultiheadAttention(8, 2, kdim=4), nn.MultiheadAttention(8, 2))
    module[1].add_zero_attn = True
    assert not any(isinstance(layer, SeparateAttention) for layer in separate(module))
    with pytest.raises(CompressionError, match="key or value size"):
        apply(module, Architecture(separated=("0",)))
    with pytest.raises(CompressionError, match="appends"):
        apply(module, Architecture(separated=("1",)))


def test_attention_is_seen_by_what_it_does() -> None:
    """Heads in an unusual order (interleaved rows) are found as they lie."""

    class Interleaved(models.Attention):
        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            q, k, v = (
                layer(x).view(*x.shape[:2], 4, -1).permute(0, 3, 1, 2)
                for layer in (self.query, self.key, self.value)
            )
            scores = (q @ k.transpose(2, 3)).softmax(dim=-1)
            seen = (scores @ v).permute(0, 2, 3, 1).flatten(2)
            return self.head(self.norm(x + self.mix(seen)).mean(dim=1))

    torch.manual_seed(0)
    module = Interleaved().eval()
    (attention,) = find_attention(module, (torch.randint(0, 20, (1, 5)),))
    assert [head.places["query", "out"] for head in attention.heads] == [
        (0, 4, 8, 12),
        (1, 5, 9, 13),
        (2, 6, 10, 14),
        (3, 7, 11, 15),
    ]


def test_an_attention_under_two_names_stays_one() -> None:
    """Layers that share an attention share the separate one too: so do they when the cut is made again."""

    class Layer(nn.Module):
        def __init__(self, attention: nn.MultiheadAttention) -> None:
            super().__init__()
            self.attention = attention
            self.after = nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(x + self.attention(x, x, x, need_weights=False)[0])

    torch.manual_seed(0)
    shared = nn.MultiheadAttention(12, 3, batch_first=True)
    module = nn.Sequential(Layer(shared), Layer(shared)).eval()
    inputs = (torch.randn(2, 5, 12),)
    single = separate(module)
    again = apply(module, architecture_of(single, (), {}))
    for found in (single, again):
        assert isinstance(found[0].attention, SeparateAttention)
        assert found[0].attention is found[1].attention
        assert difference(module, found, [inputs]) < 1e-5
