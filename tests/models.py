"""Small real architectures, one for each way in which layers are coupled. Import as `tests.models`.

Each is a function without arguments that returns a fresh module; `inputs(name, batch_size)` gives
seeded inputs for it. `build(name, seed)` also gives every weight and BatchNorm statistic a generic
value, so that no zero or one of an initialisation hides a wrong cut.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = (3, 8, 8)
CLASSES = 5


def conv_bn(inputs: int, outputs: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class PlainCNN(nn.Module):
    """Two convolutions and a linear layer after global pooling."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = conv_bn(3, width)
        self.second = conv_bn(width, 2 * width, stride=2)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(image))))
        return self.head(x.mean(dim=(2, 3)))


class Flattened(nn.Module):
    """A convolution flattened into an MLP: each channel is 16 positions of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(6 * 16, 12)
        self.fc2 = nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.flatten(F.relu(self.conv(image)), 1)
        return self.fc2(torch.tanh(self.fc1(x)))


class Block(nn.Module):
    """A basic residual block; `shortcut` "A" strides and pads, "B" is a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.grows = outputs - inputs
        self.stride = stride
        self.project = (
            conv_bn(inputs, outputs, stride=stride)
            if self.grows and shortcut == "B"
            else nn.Identity()
        )
        self.pads = shortcut == "A" and self.grows > 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pads:
            half = self.grows // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(y + self.project(x))


class ResNet(nn.Module):
    def __init__(self, shortcut: str) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.block1 = Block(8, 8, stride=1, shortcut=shortcut)
        self.block2 = Block(8, 16, stride=2, shortcut=shortcut)
        self.block3 = Block(16, 16, stride=1, shortcut=shortcut)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(F.relu(self.stem(image)))))
        return self.head(x.mean(dim=(2, 3)))


class Concat(nn.Module):
    """Two branches side by side, read by two consumers, one of them dense-net like."""

    def __init__(self) -> None:
        super().__init__()
        self.left = conv_bn(3, 6)
        self.right = conv_bn(3, 10)
        self.mix = nn.Conv2d(16, 8, 1)
        self.grow = nn.Conv2d(24, 8, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.left(image)), F.relu(self.right(image))], dim=1)
        more = torch.cat([both, F.relu(self.mix(both))], dim=1)
        return self.head(self.grow(more).mean(dim=(2, 3)))


class Gated(nn.Module):
    """chunk(2) and a product: channel i and channel i + 6 are one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 12)
        self.out = nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        value, gate = self.conv(image).chunk(2, dim=1)
        return self.head(F.relu(self.out(value * torch.sigmoid(gate))).mean(dim=(2, 3)))


class Chunked(nn.Module):
    """chunk(2) into two branches: the halves must stay equally wide."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 12)
        self.one = nn.Conv2d(6, 8, 1)
        self.two = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        left, right = F.relu(self.conv(image)).chunk(2, dim=1)
        return self.head((self.one(left) + self.two(right)).mean(dim=(2, 3)))


class FixedSplit(Chunked):
    """The same with the numbers written into forward(): it cannot be cut."""

    def forward(self, image: Tensor) -> Tensor:
        left, right = torch.split(F.relu(self.conv(image)), [6, 6], dim=1)
        return self.head((self.one(left) + self.two(right)).mean(dim=(2, 3)))


class Separable(nn.Module):
    """An inverted bottleneck: 1x1, depthwise, 1x1, with a residual and a channel-wise PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.expand = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.act = nn.PReLU(16)
        self.depthwise = conv_bn(16, 16, groups=16)
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu6(self.stem(image))
        y = self.project(F.relu6(self.depthwise(self.act(self.expand(x)))))
        return self.head((x + y).mean(dim=(2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, a skip by concatenation; GroupNorm and InstanceNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU())
        self.down = nn.Sequential(
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.InstanceNorm2d(16, affine=True), nn.ReLU()
        )
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.leave = conv_bn(16, 8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        skip = self.enter(image)
        x = torch.cat([skip, self.up(self.down(skip))], dim=1)
        return self.last(F.relu(self.leave(x)))


class TwoInput(nn.Module):
    """An image and a vector, joined; two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 8)
        self.embed = nn.Linear(4, 8)
        self.join = nn.Linear(16, 12)
        self.head = nn.Linear(12, CLASSES)
        self.extra = nn.Linear(12, 1)

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
        pooled = F.relu(self.conv(image)).mean(dim=(2, 3))
        x = F.relu(self.join(torch.cat([pooled, torch.tanh(self.embed(vector))], dim=1)))
        return {"logits": self.head(x), "extra": self.extra(x)}


class Attention(nn.Module):
    """Heads by view() and LayerNorm around a residual: only the feed-forward layer can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.query = nn.Linear(16, 16)
        self.key = nn.Linear(16, 16)
        self.value = nn.Linear(16, 16)
        self.mix = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.wide = nn.Linear(16, 24)
        self.narrow = nn.Linear(24, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (
            layer(x).view(x.shape[0], x.shape[1], -1, 4).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm(x + self.mix(seen))
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x.mean(dim=1))


class BuiltInAttention(nn.Module):
    """nn.MultiheadAttention, then a feed-forward layer without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.wide = nn.Linear(16, 24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(F.gelu(self.wide(x)).mean(dim=1))


class BertLayer(nn.Module):
    """Norms after the sums; the head size is a fixed number, the count of heads follows from the shape.

    Returns a tuple, as some libraries do.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads = heads
        self.head_size = width // heads
        self.all_head_size = width
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dense = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        q, k, v = (
            layer(hidden).view(*hidden.shape[:2], -1, self.head_size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) * self.head_size**-0.5 + mask
        seen = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        hidden = self.norm1(hidden + self.dense(seen))
        return self.norm2(hidden + self.narrow(F.gelu(self.wide(hidden)))), None


class Bert(nn.Module):
    """Embeddings, two layers, a pooler and a head; padding (token 0) is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 24)
        self.place = nn.Embedding(7, 24)
        self.norm = nn.LayerNorm(24)
        self.layers = nn.ModuleList([BertLayer(24, 3) for _ in range(2)])
        self.pool = nn.Linear(24, 24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.norm(self.embed(tokens) + self.place(places))
        mask = torch.zeros_like(tokens, dtype=hidden.dtype).masked_fill(tokens == 0, -1e4)
        for layer in self.layers:
            hidden, _ = layer(hidden, mask[:, None, None, :])
        return self.head(torch.tanh(self.pool(hidden[:, 0])))


class ViTAttention(nn.Module):
    """One fused projection; `fixed` writes the width of the result into forward()."""

    def __init__(self, width: int, heads: int, *, fixed: bool) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2)
        return self.proj(seen.reshape(batch, tokens, width) if self.fixed else seen.flatten(2))


class ViTBlock(nn.Module):
    """Norms before; attention and feed-forward each added to the trunk."""

    def __init__(self, width: int, heads: int, *, fixed: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = ViTAttention(width, heads, fixed=fixed)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a learnt place for each, two blocks, the mean over tokens."""

    def __init__(self, *, fixed: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.place = nn.Parameter(torch.zeros(1, 4, 16))
        self.blocks = nn.Sequential(*(ViTBlock(16, 4, fixed=fixed) for _ in range(2)))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


class GroupedQueries(nn.Module):
    """Causal attention in which `shared` query heads read each key-value head; rotated places."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.num_key_value_groups = shared
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width // shared, bias=False)
        self.v_proj = nn.Linear(width, width // shared, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self._rotated(q), self._rotated(k)
        k, v = (t.repeat_interleave(self.num_key_value_groups, dim=1) for t in (k, v))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(seen.transpose(1, 2).flatten(2))

    def _rotated(self, x: Tensor) -> Tensor:
        half = self.head_dim // 2
        speed = torch.arange(half, device=x.device) + 1.0
        angle = torch.arange(x.shape[2], device=x.device)[:, None] / speed
        cos, sin = angle.cos(), angle.sin()
        left, right = x[..., :half], x[..., half:]
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class DecoderLayer(nn.Module):
    """RMSNorm before, grouped queries, a gated feed-forward layer."""

    def __init__(self, shared: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(16)
        self.attention = GroupedQueries(16, 4, shared)
        self.norm2 = nn.RMSNorm(16)
        self.gate = nn.Linear(16, 24, bias=False)
        self.up = nn.Linear(16, 24, bias=False)
        self.down = nn.Linear(24, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Two layers in which 2 (or all 4: one key-value head) query heads share keys and values."""

    def __init__(self, shared: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layers = nn.ModuleList([DecoderLayer(shared) for _ in range(2)])
        self.norm = nn.RMSNorm(16)
        self.head = nn.Linear(16, CLASSES, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, -1])


class Lookups(nn.Module):
    """Two embeddings side by side into an MLP, and two whose rows are multiplied; no layer before them."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(20, 8, padding_idx=0)
        self.place = nn.Embedding(7, 6)
        self.one = nn.Embedding(20, 6)
        self.other = nn.Embedding(20, 6)
        self.wide = nn.Linear(14, 12)
        self.head = nn.Linear(18, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        x = F.relu(self.wide(torch.cat([self.word(tokens), self.place(places)], dim=-1)))
        met = self.one(tokens) * self.other(tokens)
        return self.head(torch.cat([x, met], dim=-1).mean(dim=1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": PlainCNN,
    "flattened": Flattened,
    "resnet-a": lambda: ResNet("A"),
    "resnet-b": lambda: ResNet("B"),
    "concat": Concat,
    "gated": Gated,
    "chunked": Chunked,
    "fixed-split": FixedSplit,
    "separable": Separable,
    "unet": UNet,
    "two-input": TwoInput,
    "attention": Attention,
    "built-in-attention": BuiltInAttention,
    "bert": Bert,
    "vit": ViT,
    "vit-fixed": lambda: ViT(fixed=True),
    "grouped-queries": Decoder,
    "one-key-head": lambda: Decoder(shared=4),
    "lookups": Lookups,
}
TOKENS = (
    "attention",
    "built-in-attention",
    "bert",
    "grouped-queries",
    "one-key-head",
    "lookups",
)


NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm, nn.RMSNorm)


def inputs(name: str, batch_size: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Seeded inputs for the model `name`."""
    generator = torch.Generator().manual_seed(seed)
    if name in TOKENS:
        return (torch.randint(0, 20, (batch_size, 7), generator=generator),)
    image = torch.randn((batch_size, *IMAGE), generator=generator)
    if name == "two-input":
        return image, torch.randn((batch_size, 4), generator=generator)
    return (image,)


def build(name: str, *, seed: int = 0) -> nn.Module:
    """The model `name` in eval mode; all weights and statistics are generic and depend on `seed` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = MODELS[name]()
        with torch.no_grad():
            for tensor in module.parameters():
                spread = 0.5 if tensor.ndim == 1 else 1.5 / tensor[0].numel() ** 0.5
                tensor.copy_(torch.randn_like(tensor) * spread)
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.normal_()
                    layer.running_var.uniform_(0.5, 2.0)
                if isinstance(layer, NORMS):
                    layer.weight.add_(1.0)
    return module.eval()
