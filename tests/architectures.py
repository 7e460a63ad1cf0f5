"""Small random networks for property tests. Import as `tests.architectures`.

A `Spec` is plain data that hypothesis draws and shrinks; `build` makes the network, generic weights and
all, from it and its seed alone. Every way of coupling channels is a block: plain convolutions, residuals
with projected (B) and padded (A) shortcuts, concatenation, split, gate, depthwise and grouped
convolutions, a U-Net level, recurrent layers, a flattened MLP, and transformer blocks. Weights that two
layers share, parameters that do not train and keys that several query heads read are flags of the spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.task.protocol import SPLITS, Batch, Split, Work

CLASSES = 3
SIZE = 8
STEPS = 5
FEATURES = 4
WORDS = 11


def conv(inputs: int, outputs: int, *, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Plain(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = width
        self.conv = nn.Conv2d(inputs, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class Normed(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = width
        self.conv = conv(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class ResidualB(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = width
        self.one, self.two = conv(inputs, width), conv(width, width)
        self.project = conv(inputs, width, kernel=1) if inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.one(x))) + self.project(x))


class ResidualA(nn.Module):
    """The shortcut is padded with zeros on both sides; where it need not grow it is plain."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = max(inputs, width)
        self.before = (self.outputs - inputs) // 2
        self.after = self.outputs - inputs - self.before
        self.one, self.two = conv(inputs, width), conv(width, self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(F.relu(self.one(x)))
        if self.before + self.after:
            x = F.pad(x, (0, 0, 0, 0, self.before, self.after))
        return F.relu(y + x)


class Concat(nn.Module):
    """Two branches and the input itself, side by side."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = inputs + width + 3
        self.left, self.right = conv(inputs, width), conv(inputs, 3, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(self.left(x)), x, F.relu(self.right(x))], dim=1)


class Mixed(nn.Module):
    """A sum of a concatenation with a layer that is as wide as both."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = width + 3
        self.wide = conv(inputs, width + 3)
        self.left, self.right = conv(inputs, width), conv(inputs, 3, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.wide(x) + torch.cat([self.left(x), self.right(x)], dim=1))


class Halves(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = width
        self.both = conv(inputs, 2 * width)
        self.one, self.two = conv(width, width), conv(width, width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.both(x)).chunk(2, dim=1)
        return F.relu(self.one(left) + self.two(right))


class Gate(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = width
        self.both = conv(inputs, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, dim=1)
        return value * torch.sigmoid(gate)


class Separable(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = inputs
        self.expand, self.project = (
            conv(inputs, 2 * width, kernel=1),
            conv(2 * width, inputs, kernel=1),
        )
        self.depthwise = conv(2 * width, 2 * width, groups=2 * width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))


class Grouped(nn.Module):
    """A grouped convolution between two others; 2 to 4 groups by the width."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        groups = 2 + width % 3
        self.outputs = 3 * groups
        self.narrow = conv(inputs, 2 * groups, kernel=1)
        self.grouped = conv(2 * groups, 3 * groups, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.grouped(F.relu(self.narrow(x))))


class UNetLevel(nn.Module):
    """Down and up again by a transposed convolution, the skip beside it; GroupNorm inside."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.outputs = inputs + width
        self.down = nn.Conv2d(inputs, 2 * width, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.up(F.relu(self.norm(self.down(x))))], dim=1)


BLOCKS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "plain": Plain,
    "normed": Normed,
    "residual-b": ResidualB,
    "residual-a": ResidualA,
    "concat": Concat,
    "mixed": Mixed,
    "split": Halves,
    "gate": Gate,
    "separable": Separable,
    "grouped": Grouped,
    "u-net": UNetLevel,
}


class Tied(nn.Module):
    """A layer, then a residual of two layers with one weight. What is before can be cut as without it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.start = nn.Linear(width, width)
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.start(x))
        return x + self.two(F.relu(self.one(x)))


class ImageNet(nn.Module):
    """Blocks, then a pooled linear layer or a flattened MLP."""

    def __init__(
        self, blocks: tuple[tuple[str, int], ...], *, flatten: bool, tied: bool = False
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        made, width = [], 4
        for name, size in blocks:
            made.append(BLOCKS[name](width, size))
            width = int(made[-1].outputs)
        self.blocks = nn.Sequential(*made)
        self.flatten = flatten
        self.hidden = nn.Linear(4 * width if flatten else width, 6)
        self.refine = Tied(6) if tied else nn.Identity()
        self.head = nn.Linear(6, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(image)))
        x = F.avg_pool2d(x, SIZE // 2).flatten(1) if self.flatten else x.mean((2, 3))
        return self.head(self.refine(F.relu(self.hidden(x))))


class SequenceNet(nn.Module):
    """Recurrent layers one upon the other; the last outputs and the last state are read."""

    def __init__(self, blocks: tuple[tuple[str, int], ...], *, tied: bool = False) -> None:
        super().__init__()
        kinds = {"lstm": nn.LSTM, "gru": nn.GRU}
        self.embed = nn.Linear(FEATURES, 5)
        made, width = [], 5
        for name, size in blocks:
            kind, _, ways = name.partition("-")
            made.append(
                kinds[kind](width, size, 1 + size % 2, batch_first=True, bidirectional=ways == "bi")
            )
            width = size * (2 if ways == "bi" else 1)
        self.layers = nn.ModuleList(made)
        self.wide = nn.Linear(width, 6)
        self.state = nn.Linear(int(made[-1].hidden_size), 6)
        self.refine = Tied(6) if tied else nn.Identity()
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        state: Tensor = x
        for layer in self.layers:
            x, last = layer(x)
            state = last[0] if isinstance(last, tuple) else last
        read = F.relu(self.wide(x).mean(1)) * torch.sigmoid(self.state(state[-1]))
        return self.head(self.refine(read))


class Encoder(nn.Module):
    """Attention and a feed-forward layer; "bert" norms after the sums, "vit" before the layers.

    A head of "bert" has a fixed size, so that only whole heads can go; "vit" has fixed numbers of them, so
    that their dimensions can go as well. With `grouped`, two query heads read each key and value.
    """

    def __init__(self, kind: str, wide: int, *, grouped: bool) -> None:
        super().__init__()
        self.first = kind == "vit"
        if self.first:
            self.heads, self.key_heads = 4 if grouped else 2, 2
        reads = 16 if grouped else 8
        self.query, self.key, self.value = nn.Linear(8, reads), nn.Linear(8, 8), nn.Linear(8, 8)
        self.mix = nn.Linear(reads, 8)
        self.attended, self.fed = nn.LayerNorm(8), nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 2 * wide), nn.Linear(2 * wide, 8)

    def attend(self, x: Tensor) -> Tensor:
        counts = (self.heads, self.key_heads, self.key_heads) if self.first else (-1, -1, -1)
        size = -1 if self.first else 4
        q, k, v = (
            layer(x).view(x.shape[0], x.shape[1], count, size).transpose(1, 2)
            for layer, count in zip((self.query, self.key, self.value), counts, strict=True)
        )
        k, v = (one.repeat_interleave(q.shape[1] // one.shape[1], dim=1) for one in (k, v))
        seen = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.mix(seen.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = x + self.attend(self.attended(x))
            return x + self.narrow(F.gelu(self.wide(self.fed(x))))
        x = self.attended(x + self.attend(x))
        return self.fed(x + self.narrow(F.gelu(self.wide(x))))


class Transformer(nn.Module):
    """BERT-like over tokens, or ViT-like over the patches of an image."""

    def __init__(
        self,
        kind: str,
        blocks: tuple[tuple[str, int], ...],
        *,
        tied: bool = False,
        grouped: bool = False,
    ) -> None:
        super().__init__()
        self.patches = kind == "vit"
        self.embed = nn.Conv2d(3, 8, 4, stride=4) if self.patches else nn.Embedding(WORDS, 8)
        self.layers = nn.Sequential(*(Encoder(kind, size, grouped=grouped) for _, size in blocks))
        self.refine = Tied(8) if tied else nn.Identity()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, given: Tensor) -> Tensor:
        x = self.embed(given)
        if self.patches:
            x = x.flatten(2).transpose(1, 2)
        return self.head(self.refine(self.layers(x).mean(1)))


@dataclass(frozen=True)
class Spec:
    """`family` is "pooled", "flattened", "sequence", "bert" or "vit"; `blocks` are names and sizes.

    `tied`: two of its layers share a weight. `frozen`: every second layer does not train. `grouped`, for
    the transformers: queries are in groups, each with one key and value.
    """

    family: str
    blocks: tuple[tuple[str, int], ...]
    seed: int = 0
    tied: bool = False
    frozen: bool = False
    grouped: bool = False

    @property
    def transforms(self) -> bool:
        return self.family in ("bert", "vit")


@st.composite
def specs(draw: st.DrawFn, families: tuple[str, ...] = ()) -> Spec:
    """Any network of one to three blocks."""
    family = draw(st.sampled_from(families or ("pooled", "flattened", "sequence", "bert", "vit")))
    names = {
        "sequence": ["lstm", "gru", "lstm-bi", "gru-bi"],
        "bert": ["encoder"],
        "vit": ["encoder"],
    }.get(family, list(BLOCKS))
    block = st.tuples(st.sampled_from(names), st.integers(2, 6))
    blocks = tuple(draw(st.lists(block, min_size=1, max_size=3)))
    seed, often = draw(st.integers(0, 3)), st.sampled_from([False, False, True])
    tied, frozen = draw(often), draw(often)
    return Spec(
        family, blocks, seed, tied, frozen, grouped=family in ("bert", "vit") and draw(often)
    )


def factory(spec: Spec) -> nn.Module:
    """The network as a task's model() gives it: weights as torch initialises them."""
    if spec.family == "sequence":
        module: nn.Module = SequenceNet(spec.blocks, tied=spec.tied)
    elif spec.transforms:
        module = Transformer(spec.family, spec.blocks, tied=spec.tied, grouped=spec.grouped)
    else:
        module = ImageNet(spec.blocks, flatten=spec.family == "flattened", tied=spec.tied)
    if spec.frozen:
        owners = [one for one in module.modules() if [*one.parameters(recurse=False)]]
        for layer in owners[::2]:
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(False)
    return module


def build(spec: Spec) -> nn.Module:
    """The network in eval mode with generic weights and statistics that depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        module = factory(spec)
        with torch.no_grad():
            for tensor in module.parameters():
                spread = 0.5 if tensor.ndim == 1 else 1.0 / tensor[0].numel() ** 0.5
                tensor.copy_(torch.randn_like(tensor) * spread)
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.normal_()
                    layer.running_var.uniform_(0.5, 2.0)
                if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                    layer.weight.add_(1.0)
    return module.eval()


def inputs(spec: Spec, count: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    if spec.family == "bert":
        return (torch.randint(0, WORDS, (count, STEPS), generator=generator),)
    if spec.family == "sequence":
        return (torch.randn((count, STEPS, FEATURES), generator=generator),)
    return (torch.randn((count, 3, SIZE, SIZE), generator=generator),)


class SpecTask:
    """A task over the network of a spec; its targets are the outputs of the generic network, shifted."""

    data_version = "1"
    preprocess_digest = "none"
    input_names = ("given",)

    def __init__(self, spec: Spec, *, examples: int = 24) -> None:
        self.spec, self.examples = spec, examples
        self.teacher = build(spec)

    def model(self) -> nn.Module:
        return factory(self.spec)

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        return inputs(self.spec, batch_size)

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        return F.mse_loss(module(*batch.inputs), batch.targets)  # type: ignore[arg-type]

    def batches(
        self, split: Split, *, epoch: int, seed: int, rank: int = 0, world: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        given = inputs(self.spec, self.examples, seed=SPLITS.index(split) + 1)
        with torch.no_grad():
            targets = self.teacher(*given) * 1.1 + 0.1
        for first in range(8 * start, self.examples, 8):
            part = slice(first, first + 8)
            names = [f"{split}-{n}" for n in range(self.examples)[part]]
            yield Batch(inputs=tuple(one[part] for one in given), targets=targets[part], ids=names)

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Mapping[str, np.ndarray]:
        return {"correct": np.ones(len(batch), dtype=np.int64)}

    def workload(self) -> list[Work]:
        return [Work(inputs=self.example_inputs(1), weight=1.0)]
